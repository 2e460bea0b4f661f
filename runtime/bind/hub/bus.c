/* bus.c - see bus.h. SPDX-License-Identifier: MIT */
#include "bind/hub/bus.h"

#include "base/err.h"

#include <stddef.h>

static int publish(
        void *user, const char *subject, const char *reply, const void *data, size_t size)
{
    const znl_hub_bus *bus = user;
    if (bus->nats == NULL)
        return ZNL_E_CLOSED;
    return znl_nats_publish(bus->nats, subject, reply, NULL, data, size);
}

static size_t max_payload(void *user)
{
    const znl_hub_bus *bus = user;
    return bus->nats != NULL ? znl_nats_max_payload(bus->nats) : 0;
}

const znl_bus znl_hub_bus_calls = {.publish = publish, .max_payload = max_payload};

/* The last state takes the subscriptions along. */
static void on_state(znl_nats_user *link, znl_nats_state state)
{
    znl_hub_bus *bus = (znl_hub_bus *)(void *)((char *)link - offsetof(znl_hub_bus, link));
    if (state == ZNL_NATS_CLOSED) {
        bus->nats = NULL;
        bus->count = 0;
    }
    /* It also says so of every attempt that fails. */
    int is_connected = state == ZNL_NATS_CONNECTED;
    if (is_connected == bus->is_connected)
        return;
    bus->is_connected = is_connected;
    if (bus->on_state != NULL)
        bus->on_state(bus->user, is_connected);
}

void znl_hub_bus_open(lua_State *L, int index, znl_hub_bus *bus,
        void (*on_state_change)(void *user, int is_connected), void *user)
{
    *bus = (znl_hub_bus){.on_state = on_state_change, .user = user};
    lua_getfield(L, index, "bus");
    bus->has_nats = !lua_isnil(L, -1);
    if (bus->has_nats) {
        bus->link.on_state = on_state;
        bus->nats = znl_nats_use(L, lua_gettop(L), &bus->link);
        if (bus->nats == NULL)
            luaL_error(L, "bus is a connection that was closed");
        bus->is_connected = znl_nats_get_state(bus->nats) == ZNL_NATS_CONNECTED;
    }
    lua_pop(L, 1);
}

int znl_hub_bus_subscribe(znl_hub_bus *bus, const char *subject,
        void (*on_message)(void *user, const znl_nats_message *message), void *user)
{
    if (bus->nats == NULL)
        return ZNL_E_CLOSED;
    if (bus->count == ZNL_HUB_SUBJECTS)
        return ZNL_E_LIMIT;
    int err = znl_nats_subscribe(
            &bus->subscriptions[bus->count], bus->nats, subject, NULL, 0, 0, on_message, user);
    if (err == 0)
        bus->count++;
    return err;
}

void znl_hub_bus_unsubscribe(znl_hub_bus *bus)
{
    while (bus->count > 0)
        znl_nats_unsubscribe(bus->subscriptions[--bus->count]);
}

void znl_hub_bus_close(znl_hub_bus *bus)
{
    znl_hub_bus_unsubscribe(bus);
    if (bus->nats != NULL)
        znl_nats_unuse(&bus->link);
    bus->nats = NULL;
}
