/* parcels.c - see parcels.h. SPDX-License-Identifier: MIT */
#include "node/parcels.h"

#include "base/alloc.h"
#include "base/err.h"

#include <string.h>

void znl_parcels_init(znl_parcels *parcels, size_t max_count, size_t max_bytes)
{
    *parcels = (znl_parcels){.max_count = max_count, .max_bytes = max_bytes};
    parcels->end = &parcels->first;
}

void znl_parcels_fini(znl_parcels *parcels)
{
    while (parcels->first != NULL)
        znl_parcels_pop(parcels);
}

static znl_frame append(uint8_t **at, znl_frame from)
{
    znl_frame copy = znl_frame_of(*at, from.size);
    if (from.size > 0)
        memcpy(*at, from.data, from.size);
    *at += from.size;
    return copy;
}

int znl_parcels_put(znl_parcels *parcels, const znl_message *message)
{
    size_t count = message->payload_count;
    size_t bytes = sizeof(znl_parcel) + count * sizeof(znl_frame) + message->peer.size +
            message->subject.size + message->service.size;
    if (message->call != NULL)
        bytes += message->call->route.size;
    for (size_t i = 0; i < count; i++)
        bytes += message->payload[i].size;
    if (parcels->count >= parcels->max_count || bytes > parcels->max_bytes - parcels->bytes)
        return ZNL_E_BUSY;
    znl_parcel *parcel = znl_malloc(bytes);
    if (parcel == NULL)
        return ZNL_E_NOMEM;
    uint8_t *at = (uint8_t *)&parcel->payload[count];
    parcel->next = NULL;
    parcel->bytes = bytes;
    parcel->message = *message;
    parcel->message.peer = append(&at, message->peer);
    parcel->message.subject = append(&at, message->subject);
    parcel->message.service = append(&at, message->service);
    if (message->call != NULL) {
        parcel->call = *message->call;
        parcel->call.route = append(&at, message->call->route);
        parcel->message.call = &parcel->call;
    }
    for (size_t i = 0; i < count; i++)
        parcel->payload[i] = append(&at, message->payload[i]);
    parcel->message.payload = parcel->payload;
    *parcels->end = parcel;
    parcels->end = &parcel->next;
    parcels->count++;
    parcels->bytes += bytes;
    return 0;
}

/* Unlinks *at. */
static znl_parcel *take(znl_parcels *parcels, znl_parcel **at)
{
    znl_parcel *parcel = *at;
    *at = parcel->next;
    if (parcels->end == &parcel->next)
        parcels->end = at;
    parcels->count--;
    parcels->bytes -= parcel->bytes;
    return parcel;
}

znl_parcel *znl_parcels_take(znl_parcels *parcels)
{
    return parcels->first != NULL ? take(parcels, &parcels->first) : NULL;
}

void znl_parcel_free(znl_parcel *parcel)
{
    znl_free(parcel);
}

void znl_parcels_pop(znl_parcels *parcels)
{
    znl_free(take(parcels, &parcels->first));
}

size_t znl_parcels_discard(znl_parcels *parcels, uint32_t kinds)
{
    size_t discarded = 0;
    znl_parcel **at = &parcels->first;
    while (*at != NULL) {
        if (kinds >> (*at)->message.kind & 1) {
            znl_free(take(parcels, at));
            discarded++;
        } else {
            at = &(*at)->next;
        }
    }
    return discarded;
}
