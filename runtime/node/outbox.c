/* outbox.c - see outbox.h. SPDX-License-Identifier: MIT */
#include "node/outbox.h"

#include "base/alloc.h"
#include "base/err.h"

#include <string.h>

void znl_outbox_init(znl_outbox *outbox, size_t max_count, size_t max_bytes)
{
    *outbox = (znl_outbox){.max_count = max_count, .max_bytes = max_bytes};
    outbox->end = &outbox->first;
}

void znl_outbox_fini(znl_outbox *outbox)
{
    while (outbox->first != NULL)
        znl_outbox_pop(outbox);
}

static znl_frame append(uint8_t **at, znl_frame from)
{
    znl_frame copy = znl_frame_of(*at, from.size);
    if (from.size > 0)
        memcpy(*at, from.data, from.size);
    *at += from.size;
    return copy;
}

int znl_outbox_put(znl_outbox *outbox, znl_kind kind, znl_frame route, znl_frame subject,
        znl_frame service, const znl_frame *payload, size_t payload_count)
{
    size_t bytes = sizeof(znl_parcel) + payload_count * sizeof *payload + route.size +
            subject.size + service.size;
    for (size_t i = 0; i < payload_count; i++)
        bytes += payload[i].size;
    if (outbox->count >= outbox->max_count || bytes > outbox->max_bytes - outbox->bytes)
        return ZNL_E_BUSY;
    znl_parcel *parcel = znl_malloc(bytes);
    if (parcel == NULL)
        return ZNL_E_NOMEM;
    uint8_t *at = (uint8_t *)&parcel->payload[payload_count];
    parcel->next = NULL;
    parcel->bytes = bytes;
    parcel->kind = kind;
    parcel->route = append(&at, route);
    parcel->subject = append(&at, subject);
    parcel->service = append(&at, service);
    parcel->payload_count = payload_count;
    for (size_t i = 0; i < payload_count; i++)
        parcel->payload[i] = append(&at, payload[i]);
    *outbox->end = parcel;
    outbox->end = &parcel->next;
    outbox->count++;
    outbox->bytes += bytes;
    return 0;
}

/* Unlinks and frees *at. */
static void discard(znl_outbox *outbox, znl_parcel **at)
{
    znl_parcel *parcel = *at;
    *at = parcel->next;
    if (outbox->end == &parcel->next)
        outbox->end = at;
    outbox->count--;
    outbox->bytes -= parcel->bytes;
    znl_free(parcel);
}

void znl_outbox_pop(znl_outbox *outbox)
{
    discard(outbox, &outbox->first);
}

size_t znl_outbox_discard(znl_outbox *outbox, uint32_t kinds)
{
    size_t discarded = 0;
    znl_parcel **at = &outbox->first;
    while (*at != NULL) {
        if (kinds >> (*at)->kind & 1) {
            discard(outbox, at);
            discarded++;
        } else {
            at = &(*at)->next;
        }
    }
    return discarded;
}
