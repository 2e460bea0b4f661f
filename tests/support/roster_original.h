/* roster_original.h - an original instance as the spec describes it (ws-cluster, sections 3, 5, 6), without our remedies:
 * it believes every remove, expires each member by itself, sweeps now and then. SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_ROSTER_ORIGINAL_H
#define ZNL_TESTS_ROSTER_ORIGINAL_H

#include <stddef.h>
#include <stdint.h>

typedef struct roster_original roster_original;

/* `publish` gets what it says; times are monotonic milliseconds. */
roster_original *original_new(const char *origin, uint32_t ttl_ms,
        void (*publish)(void *user, const char *text), void *user);
void original_free(roster_original *original);

void original_start(roster_original *original, uint64_t now_ms);
void original_receive(
        roster_original *original, const void *data, size_t size, uint64_t now_ms);
void original_tick(roster_original *original, uint64_t now_ms); /* timers that are due */
void original_join(roster_original *original, const char *ns, const char *session,
        const char *user_id, uint64_t now_ms);
void original_leave(roster_original *original, const char *session);

size_t original_count(const roster_original *original);
/* Who has a session in its view; NULL: nobody. */
const char *original_owner(const roster_original *original, const char *session);
int original_holds(const roster_original *original, const char *session);

#endif
