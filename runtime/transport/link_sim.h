/* link_sim.h - what a test can do to the links of one name on one loop; link_sim.c is the link.
 *
 * `endpoint` is "sim://name". A setting may come before the links and outlives them, until
 * znl_sim_reset(). `peer` is the routing id of a DEALER link; empty means all of them.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_LINK_SIM_H
#define ZNL_TRANSPORT_LINK_SIM_H

#include "base/bytes.h"
#include "transport/loop.h"

typedef struct znl_sim_faults {
    uint32_t
            drop_permille; /* of a thousand messages so many get lost, unnoticed by the sender */
    uint32_t delay_ms;     /* a message is under way so long, */
    uint32_t jitter_ms;    /* and up to so much longer; a connection keeps its order */
    uint64_t seed; /* the same seed makes the same choices; 0 goes on with those before */
} znl_sim_faults;

/* Replaces the faults of that name, in both directions, for what is sent from now on. 0,
 * ZNL_E_ADDRESS (not a sim:// endpoint) or ZNL_E_NOMEM. */
int znl_sim_set_faults(znl_loop *loop, const char *endpoint, const znl_sim_faults *faults);

/* While `on`, nothing passes and nobody connects anew, and senders notice nothing until their
 * queues are full; afterwards what waited goes on. Ending it for all peers ends it for each of them.
 * Errors as above, or ZNL_E_TOO_BIG. */
int znl_sim_partition(znl_loop *loop, const char *endpoint, znl_frame peer, int on);

/* Ends connections with all that is under way on them; the DEALER links connect again by
 * themselves. Returns how many there were. */
size_t znl_sim_disconnect(znl_loop *loop, const char *endpoint, znl_frame peer);

/* Takes every setting of this loop back. */
void znl_sim_reset(znl_loop *loop);

#endif
