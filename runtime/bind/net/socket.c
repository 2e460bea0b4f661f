/* socket.c - znl.core.socket: bare ROUTER and DEALER sockets, for scripts that build a role.
 *
 *   local s = assert(socket.router { endpoint = "tcp://127.0.0.1:*" })
 *   local s = assert(socket.dealer { endpoint = "tcp://127.0.0.1:6003", routing_id = "a" })
 *   engine = "auto" | "zmtp" | "libzmq", curve = { keys } for both
 *   s:on_message(function(frames) ... end)     each message in a coroutine of its own
 *   s:send({ "frame", ... }) -> true | nil, message, "BUSY" | "UNREACHABLE"
 *   s:endpoint(), s:close()
 *
 * A socket is anchored until it is closed. Layer: bind. SPDX-License-Identifier: MIT */
#include "base/err.h"
#include "base/limits.h"
#include "bind/bind.h"
#include "bind/net/engine.h"
#include "transport/endpoint.h"
#include "transport/link.h"
#include "vm/sched.h"

#include <string.h>

#define TYPE "znl.core.socket"

struct sock {
    znl_vm *vm;
    znl_link *link; /* NULL when closed */
    int self_ref;
    int handler_ref;
    uint64_t dropped;
    znl_buffer frames;
};

struct arrival {
    struct sock *sock;
    const znl_frame *frames;
    size_t count;
};

static int deliver(lua_State *L)
{
    const struct arrival *arrival = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, arrival->sock->handler_ref);
    lua_createtable(L, (int)arrival->count, 0);
    for (size_t i = 0; i < arrival->count; i++) {
        lua_pushlstring(L, (const char *)arrival->frames[i].data, arrival->frames[i].size);
        lua_rawseti(L, -2, (int)i + 1);
    }
    if (znl_sched_spawn(L, 1, NULL, NULL, NULL) != 0)
        arrival->sock->dropped++;
    return 0;
}

static void on_message(void *user, const znl_frame *frames, size_t count)
{
    struct sock *s = user;
    struct arrival arrival = {s, frames, count};
    if (s->handler_ref == LUA_NOREF)
        s->dropped++;
    else
        znl_vm_protect(s->vm, deliver, &arrival, "socket.on_message");
}

static void on_writable(void *user)
{
    (void)user; /* scripts try again by themselves */
}

static void on_dropped(void *user, int err)
{
    struct sock *s = user;
    (void)err;
    s->dropped++;
}

static struct sock *check(lua_State *L)
{
    struct sock *s = luaL_checkudata(L, 1, TYPE);
    if (s->link == NULL)
        luaL_argerror(L, 1, "socket is closed");
    return s;
}

static int open_socket(lua_State *L, int is_router)
{
    static const znl_link_events events = {
            .on_message = on_message, .on_writable = on_writable, .on_dropped = on_dropped};
    znl_link_options options = {
            .is_router = is_router,
            .send_hwm = ZNL_HWM_DEFAULT,
            .recv_hwm = ZNL_HWM_DEFAULT,
            .max_frame_bytes = ZNL_FRAME_BYTES_DEFAULT,
            .max_frames = ZNL_FRAMES_DEFAULT,
            .max_message_bytes = ZNL_MESSAGE_BYTES_DEFAULT,
    };
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    options.engine = znl_lua_fieldengine(L, 1);
    lua_getfield(L, 1, "endpoint");
    znl_frame endpoint = znl_lua_checkframe(L, 2, "endpoint", 1023);
    options.endpoint = (const char *)endpoint.data;
    lua_getfield(L, 1, "routing_id");
    if (!lua_isnil(L, 3))
        options.routing_id = znl_lua_checkframe(L, 3, "routing_id", ZNL_ID_BYTES_MAX);
    znl_endpoint parsed;
    const char *why;
    const char *where = is_router ? "socket.router" : "socket.dealer";
    if (znl_endpoint_parse(&parsed, endpoint, is_router, &why) != 0) {
        lua_pushnil(L);
        lua_pushfstring(L, "%s: endpoint '%s': %s", where, options.endpoint, why);
        lua_pushstring(L, znl_err_code(ZNL_E_ADDRESS));
        return 3;
    }
    struct sock *s = lua_newuserdata(L, sizeof *s);
    memset(s, 0, sizeof *s);
    s->vm = znl_vm_of(L);
    s->self_ref = s->handler_ref = LUA_NOREF;
    luaL_getmetatable(L, TYPE);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    s->self_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    const char *which = options.endpoint;
    int err = znl_lua_fieldcurve(L, 1, is_router, &options.curve, &which);
    if (err == 0) {
        which = options.endpoint;
        err = znl_link_open(&s->link, s->vm->loop, &options, &events, s);
        znl_curve_release(options.curve);
    }
    if (err == 0)
        return 1;
    luaL_unref(L, LUA_REGISTRYINDEX, s->self_ref);
    s->self_ref = LUA_NOREF;
    return znl_lua_fail_open(L, err, where, is_router, which);
}

static int socket_router(lua_State *L)
{
    return open_socket(L, 1);
}

static int socket_dealer(lua_State *L)
{
    return open_socket(L, 0);
}

static int socket_send(lua_State *L)
{
    struct sock *s = check(L);
    size_t cap = lua_type(L, 2) == LUA_TTABLE ? lua_objlen(L, 2) + 1 : 1;
    size_t count;
    int err = cap > ZNL_FRAMES_DEFAULT
            ? ZNL_E_TOO_BIG
            : znl_buffer_reserve(&s->frames, cap * sizeof(znl_frame));
    if (err == 0) {
        znl_frame *frames = (znl_frame *)(void *)s->frames.data;
        err = znl_lua_toframes(L, 2, frames, cap, &count);
        if (err == ZNL_E_INVALID || (err == 0 && count == 0))
            return luaL_argerror(L, 2, "frames must be a string or an array of strings");
        if (err == 0)
            err = znl_link_send(s->link, frames, count);
    }
    if (err != 0)
        return znl_lua_fail(L, err, "socket.send");
    lua_pushboolean(L, 1);
    return 1;
}

static int socket_on_message(lua_State *L)
{
    struct sock *s = check(L);
    int ref = LUA_NOREF;
    if (!lua_isnil(L, 2)) {
        luaL_checktype(L, 2, LUA_TFUNCTION);
        lua_pushvalue(L, 2);
        ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    luaL_unref(L, LUA_REGISTRYINDEX, s->handler_ref);
    s->handler_ref = ref;
    return 0;
}

static int socket_endpoint(lua_State *L)
{
    lua_pushstring(L, znl_link_endpoint(check(L)->link));
    return 1;
}

static int socket_dropped(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)check(L)->dropped);
    return 1;
}

static int socket_close(lua_State *L)
{
    struct sock *s = luaL_checkudata(L, 1, TYPE);
    if (s->link != NULL)
        znl_link_close(s->link, ZNL_STOP_LINGER_MS);
    s->link = NULL;
    znl_buffer_fini(&s->frames);
    luaL_unref(L, LUA_REGISTRYINDEX, s->self_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, s->handler_ref);
    s->self_ref = s->handler_ref = LUA_NOREF;
    return 0;
}

int luaopen_znl_core_socket(lua_State *L)
{
    static const luaL_Reg methods[] = {
            {"send", socket_send},
            {"on_message", socket_on_message},
            {"endpoint", socket_endpoint},
            {"dropped", socket_dropped},
            {"close", socket_close},
            {NULL, NULL},
    };
    znl_lua_newtype(L, TYPE, methods, socket_close);
    lua_newtable(L);
    lua_pushcfunction(L, socket_router);
    lua_setfield(L, -2, "router");
    lua_pushcfunction(L, socket_dealer);
    lua_setfield(L, -2, "dealer");
    return 1;
}
