/* bus.h - what carries the messages of hubs and rosters: publish and subscribe, at most once.
 *
 * Subscribing is left to who makes them: messages are handed in.
 *
 * Layer: node. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_BUS_H
#define ZNL_NODE_BUS_H

#include <stddef.h>

typedef struct znl_bus {
    /* Copies. `reply` or NULL. 0, or why it is lost: ZNL_E_OFFLINE, ZNL_E_BUSY, ZNL_E_TOO_BIG, … Must not call
     * back. */
    int (*publish)(
            void *user, const char *subject, const char *reply, const void *data, size_t size);
    /* Bytes of one message; 0 while it is not known. */
    size_t (*max_payload)(void *user);
} znl_bus;

#endif
