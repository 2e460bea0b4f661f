/* bus.h - the connection to NATS under znl.core.hub and znl.core.roster: what they subscribe to, and its end.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_HUB_BUS_H
#define ZNL_BIND_HUB_BUS_H

#include "bind/bind.h"
#include "bind/net/nats.h"
#include "node/bus.h"

#define ZNL_HUB_SUBJECTS 2u

/* Part of a userdata, which does not move. Its own fields. */
typedef struct znl_hub_bus {
    int has_nats; /* it was given one */
    int is_connected;
    znl_nats *nats; /* NULL: none, or closed */
    znl_nats_user link;
    znl_nats_subscription *subscriptions[ZNL_HUB_SUBJECTS];
    size_t count;
    void (*on_state)(void *user, int is_connected);
    void *user;
} znl_hub_bus;

/* How node/ publishes on it; the user is the znl_hub_bus. ZNL_E_CLOSED without a connection, or once it is closed. */
extern const znl_bus znl_hub_bus_calls;

/* Takes field `bus` of the options at `index`: the userdata of a connection, which the caller keeps from the
 * collector, or nil. Raises on anything else, and on a closed connection. `on_state`, which may be NULL, hears when it
 * is connected and when not, from the loop. */
void znl_hub_bus_open(lua_State *L, int index, znl_hub_bus *bus,
        void (*on_state)(void *user, int is_connected), void *user);

/* Errors as of znl_nats_subscribe(), and ZNL_E_CLOSED. */
int znl_hub_bus_subscribe(znl_hub_bus *bus, const char *subject,
        void (*on_message)(void *user, const znl_nats_message *message), void *user);
void znl_hub_bus_unsubscribe(znl_hub_bus *bus);

/* Unsubscribes and lets go of the connection. Idempotent. */
void znl_hub_bus_close(znl_hub_bus *bus);

#endif
