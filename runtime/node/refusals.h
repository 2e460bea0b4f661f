/* refusals.h - which of the connections that did not come about are worth a line in the log.
 *
 * A peer with another key tries again several times a second, and anybody may connect: the same text is news at
 * most once in ZNL_REFUSAL_MS, and so many different ones.
 *
 * Layer: node. Plain state. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_REFUSALS_H
#define ZNL_NODE_REFUSALS_H

#include "base/bytes.h"

#define ZNL_REFUSAL_TEXTS 4

typedef struct znl_refusals {
    struct {
        uint64_t hash;
        uint64_t until_ms; /* 0: not used yet */
    } said[ZNL_REFUSAL_TEXTS];
} znl_refusals;

/* True when `text` is to be said now, and then it counts as said. Starts from zeroed memory. */
int znl_refusals_are_news(znl_refusals *refusals, znl_frame text, uint64_t now_ms);

#endif
