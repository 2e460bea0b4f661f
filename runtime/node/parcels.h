/* parcels.h - copies of messages that wait, first in, first out: for a connection, for room, for a
 * handler.
 *
 * What waits to be sent is kept unsealed, so that a proof carries the time of its sending. Bounded by
 * count and bytes. Layer: node. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_PARCELS_H
#define ZNL_NODE_PARCELS_H

#include "node/message.h"

typedef struct znl_parcel {
    struct znl_parcel *next;
    size_t bytes;
    znl_message message; /* its frames are this parcel's */
    znl_call call;       /* what message.call points to */
    znl_frame payload[]; /* the bytes of all frames follow */
} znl_parcel;

typedef struct znl_parcels {
    znl_parcel *first;
    znl_parcel **end;
    size_t count, bytes;
    size_t max_count, max_bytes;
} znl_parcels;

void znl_parcels_init(znl_parcels *parcels, size_t max_count, size_t max_bytes);
void znl_parcels_fini(znl_parcels *parcels);

/* Copies a message to the end. ZNL_E_BUSY when full, ZNL_E_NOMEM. */
int znl_parcels_put(znl_parcels *parcels, const znl_message *message);

/* Takes out the first parcel, NULL when there is none; owned: free it with znl_parcel_free(). */
znl_parcel *znl_parcels_take(znl_parcels *parcels);
void znl_parcel_free(znl_parcel *parcel);

/* Removes and frees the first parcel. */
void znl_parcels_pop(znl_parcels *parcels);

/* Frees every parcel whose kind has its bit (1 << kind) in `kinds`; returns their number. */
size_t znl_parcels_discard(znl_parcels *parcels, uint32_t kinds);

#endif
