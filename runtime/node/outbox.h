/* outbox.h - messages that wait for a connection or for room, first in, first out.
 *
 * Kept unsealed, so that a proof carries the time of its sending. Bounded by count and bytes.
 * Layer: node. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_OUTBOX_H
#define ZNL_NODE_OUTBOX_H

#include "codec/control.h"

typedef struct znl_parcel {
    struct znl_parcel *next;
    size_t bytes;
    znl_kind kind;
    znl_frame route; /* size 0 on a slave */
    znl_frame subject;
    znl_frame service;
    size_t payload_count;
    znl_frame payload[]; /* the bytes of all frames follow */
} znl_parcel;

typedef struct znl_outbox {
    znl_parcel *first;
    znl_parcel **end;
    size_t count, bytes;
    size_t max_count, max_bytes;
} znl_outbox;

void znl_outbox_init(znl_outbox *outbox, size_t max_count, size_t max_bytes);
void znl_outbox_fini(znl_outbox *outbox);

/* Copies a message to the end. ZNL_E_BUSY when full, ZNL_E_NOMEM. */
int znl_outbox_put(znl_outbox *outbox, znl_kind kind, znl_frame route, znl_frame subject,
        znl_frame service, const znl_frame *payload, size_t payload_count);

/* Removes and frees the first parcel. */
void znl_outbox_pop(znl_outbox *outbox);

/* Frees every parcel whose kind has its bit (1 << kind) in `kinds`; returns their number. */
size_t znl_outbox_discard(znl_outbox *outbox, uint32_t kinds);

#endif
