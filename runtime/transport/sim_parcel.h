/* sim_parcel.h - messages under way inside a process, in the order in which they are due.
 *
 * Layer: transport. Plain lists; no clock. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_SIM_PARCEL_H
#define ZNL_TRANSPORT_SIM_PARCEL_H

#include "base/bytes.h"

typedef struct znl_sim_parcel {
    struct znl_sim_parcel *next;
    void *tag; /* what it came over; NULL: that is gone */
    uint64_t due_ms;
    size_t count;
    znl_frame frames[]; /* the bytes follow */
} znl_sim_parcel;

/* Zeroed memory is an empty list. A list owns its parcels. */
typedef struct znl_sim_parcels {
    znl_sim_parcel *first, *last;
} znl_sim_parcels;

/* Returns a copy of the message, with `id` (may be NULL) before it, owned: free it with znl_free().
 * NULL when there is no memory. */
znl_sim_parcel *znl_sim_parcel_pack(const znl_frame *id, const znl_frame *frames, size_t count);

/* Takes `parcel`: to the end, or behind everything that is due no later. */
void znl_sim_parcels_append(znl_sim_parcels *list, znl_sim_parcel *parcel);
void znl_sim_parcels_insert(znl_sim_parcels *list, znl_sim_parcel *parcel);

/* Returns the first, owned, or NULL. */
znl_sim_parcel *znl_sim_parcels_take(znl_sim_parcels *list);

/* Takes out those with that tag, in order. */
znl_sim_parcels znl_sim_parcels_extract(znl_sim_parcels *list, const void *tag);

void znl_sim_parcels_clear(znl_sim_parcels *list);

#endif
