/* pending.h - requests waiting for a reply, each with a deadline.
 *
 * A request id is UUIDv4 text (36 characters) whose random bits carry a slot (20 bits) and that
 * slot's generation (24 bits) beside 78 random bits: the reply finds its request by index, and the
 * whole id is compared before it counts. Slots live in chunks that never move.
 *
 * Layer: state. Monotonic milliseconds through the wheel. SPDX-License-Identifier: MIT */
#ifndef ZNL_STATE_PENDING_H
#define ZNL_STATE_PENDING_H

#include "base/bytes.h"
#include "base/wheel.h"

#define ZNL_REQUEST_ID_TEXT 36u

typedef struct znl_pending znl_pending;

/* Who waits; passed through untouched. */
typedef struct znl_waiter {
    void *owner;
    uint64_t ticket;
} znl_waiter;

/* Called when a deadline passes, after the entry is gone; may do anything to the table, also free
 * it. */
typedef void (*znl_pending_expired_fn)(void *user, znl_waiter waiter, uint64_t peer_hash);

/* `limit` 0 means ZNL_PENDING_MAX. The wheel must outlive the table. */
int znl_pending_new(znl_pending **out, znl_wheel *wheel, size_t limit,
        znl_pending_expired_fn expired, void *user);

/* Drops all entries silently and frees the table. */
void znl_pending_free(znl_pending *pending);

/* Adds a request; writes its id. `peer_hash` names who may answer (0: anyone).
 * ZNL_E_LIMIT when the table is full, ZNL_E_NOMEM. */
int znl_pending_add(znl_pending *pending, uint64_t peer_hash, uint64_t deadline_ms,
        znl_waiter waiter, char id[ZNL_REQUEST_ID_TEXT]);

/* Takes the request with that id out when `peer_hash` is the one asked, or anyone was.
 * 0 and *waiter, or ZNL_E_NOT_FOUND (late, unknown, from somebody else). */
int znl_pending_take(
        znl_pending *pending, znl_frame id, uint64_t peer_hash, znl_waiter *waiter);

/* Takes out any one request asked of that peer (peer_hash 0: the oldest of all, mostly); for
 * rejecting on removal, rebuild and stop: call until ZNL_E_NOT_FOUND. O(1) for 0. For a peer the
 * search goes on where the last one stopped, so taking all out costs one or two walks in sum. */
int znl_pending_take_any(znl_pending *pending, uint64_t peer_hash, znl_waiter *waiter);

size_t znl_pending_count(const znl_pending *pending);

#endif
