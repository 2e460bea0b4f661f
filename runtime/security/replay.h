/* replay.h - replay window: refuses a nonce that was seen before.
 *
 * Spec, section 7, "Replay memory": a key lives `window_ms` from first sight, to the millisecond,
 * and is not refreshed. Kept as keyed 64-bit fingerprints with a time (12 bytes each) in two
 * generations of one window each, every generation in as many small tables as `max_nonces` asks
 * for, which grow on their own, so that no single insert moves more than a few thousand entries.
 *
 * Layer: security. Monotonic milliseconds are passed in. SPDX-License-Identifier: MIT */
#ifndef ZNL_SECURITY_REPLAY_H
#define ZNL_SECURITY_REPLAY_H

#include "base/bytes.h"

typedef struct znl_replay znl_replay;

/* Windows below ZNL_REPLAY_WINDOW_MS_MIN are raised to it; ZNL_E_INVALID past the maxima of
 * limits.h or for no nonces, ZNL_E_NOMEM. znl_random_start() must have run before. */
int znl_replay_new(znl_replay **out, uint64_t window_ms, size_t max_nonces, uint64_t now_ms);
void znl_replay_free(znl_replay *replay);

/* Remembers the key made of the parts kind|node|subject|nonce (never joined in memory beyond a
 * hash; parts are length-delimited or joined exactly as the spec does).
 * 0 when new, ZNL_E_REPLAY when seen, ZNL_E_REPLAY_FULL, ZNL_E_NOMEM. */
int znl_replay_check(znl_replay *replay, znl_frame kind, znl_frame node_id, znl_frame subject,
        znl_frame nonce, uint64_t now_ms);

/* The same in two steps: the first takes from the parts what it needs, and has the memory for the second
 * fetched meanwhile, which is mostly not in a cache. */
typedef struct znl_replay_key {
    uint64_t print; /* 0: all parts are empty, which no accepted claim has */
} znl_replay_key;
znl_replay_key znl_replay_prepare(const znl_replay *replay, znl_frame kind, znl_frame node_id,
        znl_frame subject, znl_frame nonce);
int znl_replay_admit(znl_replay *replay, znl_replay_key key, uint64_t now_ms);

/* Forgets everything (stop). */
void znl_replay_clear(znl_replay *replay, uint64_t now_ms);

/* Keys remembered, as of the last check: those that count against `max_nonces`. Up to as many again
 * may still hold memory although their time is over. */
size_t znl_replay_count(const znl_replay *replay);

#endif
