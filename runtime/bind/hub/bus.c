/* bus.c - see bus.h. There are no connections yet. SPDX-License-Identifier: MIT */
#include "bind/hub/bus.h"

#include "base/err.h"

static int publish(
        void *user, const char *subject, const char *reply, const void *data, size_t size)
{
    (void)user, (void)subject, (void)reply, (void)data, (void)size;
    return ZNL_E_CLOSED;
}

static size_t max_payload(void *user)
{
    (void)user;
    return 0;
}

const znl_bus znl_hub_bus_calls = {.publish = publish, .max_payload = max_payload};

void znl_hub_bus_open(lua_State *L, int index, znl_hub_bus *bus,
        void (*on_state)(void *user, int is_connected), void *user)
{
    *bus = (znl_hub_bus){.on_state = on_state, .user = user};
    lua_getfield(L, index, "bus");
    if (!lua_isnil(L, -1))
        luaL_error(L, "bus: not supported yet");
    lua_pop(L, 1);
}

int znl_hub_bus_is_connected(const znl_hub_bus *bus)
{
    return bus->nats != NULL;
}

int znl_hub_bus_subscribe(znl_hub_bus *bus, const char *subject,
        void (*on_message)(void *user, const znl_nats_message *message), void *user)
{
    (void)bus, (void)subject, (void)on_message, (void)user;
    return ZNL_E_CLOSED;
}

void znl_hub_bus_unsubscribe(znl_hub_bus *bus)
{
    (void)bus;
}

void znl_hub_bus_close(znl_hub_bus *bus)
{
    (void)bus;
}
