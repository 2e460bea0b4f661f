/* rota.c - see rota.h. SPDX-License-Identifier: MIT */
#include "node/rota.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "transport/endpoint.h"

#include <string.h>

static int copy_endpoints(znl_rota *rota, const char *const *endpoints, size_t count)
{
    rota->endpoints = znl_calloc(count, sizeof *rota->endpoints);
    if (rota->endpoints == NULL)
        return ZNL_E_NOMEM;
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(endpoints[i]) + 1;
        rota->endpoints[i] = znl_calloc(1, size);
        if (rota->endpoints[i] == NULL)
            return ZNL_E_NOMEM;
        memcpy(rota->endpoints[i], endpoints[i], size);
        rota->endpoint_count++;
    }
    return 0;
}

static int copy_ids(znl_rota *rota, const znl_frame *ids, size_t count)
{
    if (count == 0)
        return 0;
    rota->ids = znl_calloc(count, sizeof *rota->ids);
    if (rota->ids == NULL)
        return ZNL_E_NOMEM;
    for (size_t i = 0; i < count; i++) {
        if (ids[i].size == 0 || ids[i].size > ZNL_ID_BYTES_MAX)
            return ids[i].size == 0 ? ZNL_E_INVALID : ZNL_E_TOO_BIG;
        uint8_t *copy = znl_calloc(1, ids[i].size);
        if (copy == NULL)
            return ZNL_E_NOMEM;
        memcpy(copy, ids[i].data, ids[i].size);
        rota->ids[rota->id_count++] = znl_frame_of(copy, ids[i].size);
    }
    return 0;
}

int znl_rota_init(znl_rota *rota, const char *const *endpoints, size_t endpoint_count,
        const znl_frame *ids, size_t id_count)
{
    *rota = (znl_rota){0};
    if (endpoint_count == 0)
        return ZNL_E_INVALID;
    if (endpoint_count > ZNL_SLAVE_ENDPOINTS_MAX || id_count > ZNL_SLAVE_ENDPOINTS_MAX)
        return ZNL_E_LIMIT;
    int err = copy_endpoints(rota, endpoints, endpoint_count);
    return err == 0 ? copy_ids(rota, ids, id_count) : err;
}

void znl_rota_fini(znl_rota *rota)
{
    for (size_t i = 0; i < rota->endpoint_count; i++)
        znl_free(rota->endpoints[i]);
    for (size_t i = 0; i < rota->id_count; i++)
        znl_free((uint8_t *)(uintptr_t)rota->ids[i].data);
    znl_free(rota->endpoints);
    znl_free(rota->ids);
    *rota = (znl_rota){0};
}

int znl_rota_restart(znl_rota *rota)
{
    znl_endpoint parsed;
    rota->misses = 0;
    if (znl_rota_has_choice(rota)) {
        for (rota->at = 0; rota->at < rota->endpoint_count; rota->at++)
            if (znl_endpoint_parse(&parsed, znl_frame_text(znl_rota_endpoint(rota)), 0, NULL) !=
                    0)
                return ZNL_E_ADDRESS;
    }
    rota->at = 0;
    return 0;
}

const char *znl_rota_endpoint(const znl_rota *rota)
{
    return rota->endpoints[rota->at];
}

int znl_rota_has_choice(const znl_rota *rota)
{
    return rota->endpoint_count > 1;
}

void znl_rota_advance(znl_rota *rota)
{
    rota->at = (rota->at + 1) % rota->endpoint_count;
    if (rota->misses < UINT32_MAX)
        rota->misses++;
}

void znl_rota_settle(znl_rota *rota)
{
    rota->misses = 0;
}

uint32_t znl_rota_patience_ms(const znl_rota *rota, uint32_t limit_ms, uint64_t chance)
{
    uint32_t rounds = rota->misses / (uint32_t)rota->endpoint_count;
    uint64_t base_ms = (uint64_t)ZNL_FAILOVER_MS << (rounds < 16 ? rounds : 16);
    if (base_ms > limit_ms)
        base_ms = limit_ms;
    base_ms -= chance % (base_ms / 4 + 1); /* jitter: slaves of one master part ways */
    return base_ms > 0 ? (uint32_t)base_ms : 1;
}

uint32_t znl_rota_return_ms(uint64_t chance)
{
    return ZNL_FAILOVER_WAIT_MS + (uint32_t)(chance % ZNL_FAILOVER_SPREAD_MS);
}

int znl_rota_believes(const znl_rota *rota, znl_frame id)
{
    for (size_t i = 0; i < rota->id_count; i++)
        if (znl_frame_equal(rota->ids[i], id))
            return 1;
    return rota->id_count == 0;
}
