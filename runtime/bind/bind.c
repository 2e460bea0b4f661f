/* bind.c - see bind.h. SPDX-License-Identifier: MIT */
#include "bind/bind.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/values/json.h"
#include "bind/values/transcode.h"

#include <stdio.h>

int znl_lua_fail(lua_State *L, int err, const char *where)
{
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", where, znl_err_text(err));
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

znl_frame znl_lua_error_line(const char *text, size_t size)
{
    const char *end = memchr(text, '\n', size);
    if (end != NULL)
        size = (size_t)(end - text);
    if (size > ZNL_ERROR_TEXT_BYTES_MAX) {
        size = ZNL_ERROR_TEXT_BYTES_MAX;
        while (size > 0 && ((unsigned char)text[size] & 0xC0) == 0x80)
            size--;
    }
    return znl_frame_of(text, size);
}

int znl_lua_connect_failed(lua_State *L, int err, const char *address, const char *text)
{
    const int has_address = strncmp(text, address, strlen(address)) == 0;
    lua_pushnil(L);
    lua_pushfstring(
            L, "connect: %s%s%s", has_address ? "" : address, has_address ? "" : ": ", text);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

int znl_lua_callevent(lua_State *L, const char *area, int count, int results)
{
    if (lua_pcall(L, count, results, 0) == 0)
        return 1;
    size_t size = 0;
    const char *text = lua_tolstring(L, -1, &size);
    if (text == NULL) {
        text = "error without a message";
        size = strlen(text);
    }
    znl_log_field field = {"error", text, size, 0};
    znl_log_write(ZNL_LOG_ERROR, area, "on_event failed", &field, 1);
    lua_pop(L, 1);
    return 0;
}

znl_frame znl_lua_without_place(znl_frame line)
{
    const char *text = (const char *)line.data;
    for (size_t i = 4; i + 3 < line.size; i++) {
        if (text[i] != ':' ||
                (memcmp(text + i - 4, ".lua", 4) != 0 && memcmp(text + i - 2, "\"]", 2) != 0))
            continue;
        size_t at = i + 1;
        while (at < line.size && text[at] >= '0' && text[at] <= '9')
            at++;
        if (at > i + 1 && at + 1 < line.size && text[at] == ':' && text[at + 1] == ' ')
            return znl_frame_of(text + at + 2, line.size - at - 2);
    }
    return line;
}

int znl_lua_cancelled(lua_State *L, const char *where)
{
    const znl_sched *sched = znl_vm_of(L)->sched;
    int err = znl_sched_is_cancelled(sched);
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", where, znl_sched_cancel_reason(sched));
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

uint32_t znl_lua_checku32(lua_State *L, int idx, const char *name, uint32_t min, uint32_t max)
{
    if (lua_type(L, idx) == LUA_TNUMBER) {
        lua_Number value = lua_tonumber(L, idx);
        if (value >= min && value <= max && (lua_Number)(uint32_t)value == value)
            return (uint32_t)value;
    }
    char range[48];
    snprintf(range, sizeof range, "%lu..%lu", (unsigned long)min, (unsigned long)max);
    luaL_error(L, "%s must be a whole number in %s", name, range);
    return 0; /* not reached */
}

znl_frame znl_lua_checkframe(lua_State *L, int idx, const char *name, size_t max)
{
    znl_frame frame = {NULL, 0};
    if (lua_type(L, idx) != LUA_TSTRING)
        luaL_error(L, "%s must be a string, not %s", name, luaL_typename(L, idx));
    frame.data = (const uint8_t *)lua_tolstring(L, idx, &frame.size);
    if (frame.size > max) {
        char limit[24];
        snprintf(limit, sizeof limit, "%zu", max);
        luaL_error(L, "%s must be at most %s bytes long", name, limit);
    }
    return frame;
}

uint32_t znl_lua_fieldu32(
        lua_State *L, int idx, const char *name, uint32_t fallback, uint32_t max)
{
    lua_getfield(L, idx, name);
    uint32_t value = fallback;
    if (!lua_isnil(L, -1))
        value = znl_lua_checku32(L, lua_gettop(L), name, 0, max);
    lua_pop(L, 1);
    return value;
}

int znl_lua_fieldboolean(lua_State *L, int idx, const char *name)
{
    lua_getfield(L, idx, name);
    int value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

znl_frame znl_lua_fieldtext(lua_State *L, int idx, const char *name, size_t max)
{
    znl_frame value = {NULL, 0};
    lua_getfield(L, idx, name);
    if (!lua_isnil(L, -1)) {
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "%s must be a string", name);
        value.data = (const uint8_t *)lua_tolstring(L, -1, &value.size);
        if (value.size > max)
            luaL_error(L, "%s must be at most %d bytes", name, (int)max);
    }
    lua_pop(L, 1);
    return value;
}

int znl_lua_fieldfunction(lua_State *L, int idx, const char *name)
{
    lua_getfield(L, idx, name);
    if (!lua_isnil(L, -1) && !lua_isfunction(L, -1))
        luaL_error(L, "%s must be a function", name);
    if (!lua_isnil(L, -1))
        return luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pop(L, 1);
    return LUA_NOREF;
}

int znl_lua_limit_timeout(lua_State *L, uint32_t *timeout_ms, int *is_limited)
{
    const znl_sched *sched = znl_vm_of(L)->sched;
    *is_limited = 0;
    if (znl_sched_is_unbound(sched))
        return 0;
    uint64_t deadline_ms = znl_sched_deadline_ms(sched);
    int err = znl_sched_is_task(L) ? znl_sched_is_cancelled(sched) : 0;
    *is_limited = deadline_ms > 0;
    if (err != 0 || deadline_ms == 0)
        return err;
    uint64_t now_ms = znl_clock_mono_ms();
    if (deadline_ms <= now_ms)
        return ZNL_E_DEADLINE;
    /* A little later than the task's own, which then ends the wait and names the reason. */
    uint64_t left_ms = deadline_ms - now_ms + 1;
    if (left_ms < *timeout_ms)
        *timeout_ms = (uint32_t)left_ms;
    return 0;
}

int znl_lua_toframes(lua_State *L, int idx, znl_frame *out, size_t cap, size_t *count)
{
    int type = lua_type(L, idx);
    if (type == LUA_TTABLE) {
        size_t n = lua_objlen(L, idx);
        if (n == 0)
            return ZNL_E_INVALID;
        if (n > cap)
            return ZNL_E_TOO_BIG;
        for (size_t i = 0; i < n; i++) {
            lua_rawgeti(L, idx, (int)i + 1);
            int is_string = lua_type(L, -1) == LUA_TSTRING;
            if (is_string)
                out[i].data = (const uint8_t *)lua_tolstring(L, -1, &out[i].size);
            lua_pop(L, 1); /* the table still holds it */
            if (!is_string)
                return ZNL_E_INVALID;
        }
        *count = n;
        return 0;
    }
    if (type != LUA_TSTRING && type != LUA_TNIL && type != LUA_TNONE)
        return ZNL_E_INVALID;
    if (cap == 0)
        return ZNL_E_TOO_BIG;
    out[0] = znl_frame_of("", 0);
    if (type == LUA_TSTRING)
        out[0].data = (const uint8_t *)lua_tolstring(L, idx, &out[0].size);
    *count = 1;
    return 0;
}

static void push_frame(lua_State *L, znl_frame frame)
{
    lua_pushlstring(L, frame.size > 0 ? (const char *)frame.data : "", frame.size);
}

void znl_lua_pushpayload(lua_State *L, const znl_frame *frames, size_t count)
{
    if (count == 1) {
        push_frame(L, frames[0]);
    } else if (count == 0) {
        lua_pushliteral(L, "");
    } else {
        lua_createtable(L, (int)count, 0);
        for (size_t i = 0; i < count; i++) {
            push_frame(L, frames[i]);
            lua_rawseti(L, -2, (int)i + 1);
        }
    }
}

void znl_lua_newtype(
        lua_State *L, const char *type, const luaL_Reg *methods, lua_CFunction collect)
{
    luaL_newmetatable(L, type);
    lua_newtable(L);
    luaL_register(L, NULL, methods);
    lua_setfield(L, -2, "__index");
    if (collect != NULL) {
        lua_pushcfunction(L, collect);
        lua_setfield(L, -2, "__gc");
    }
    lua_pushstring(L, type);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}

/* The table that `key` names, or nil. */
static void push_objects(lua_State *L, const char *key)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)key);
    lua_rawget(L, LUA_REGISTRYINDEX);
}

int znl_lua_findobject(lua_State *L, const char *key, const void *object)
{
    push_objects(L, key);
    lua_pushlightuserdata(L, (void *)(uintptr_t)object);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (!lua_isnil(L, -1))
        return 1;
    lua_pop(L, 1);
    return 0;
}

void znl_lua_keepobject(lua_State *L, const char *key, const void *object)
{
    push_objects(L, key);
    lua_pushlightuserdata(L, (void *)(uintptr_t)object);
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

void znl_lua_newobjects(lua_State *L, const char *key)
{
    push_objects(L, key);
    int is_there = lua_istable(L, -1);
    lua_pop(L, 1);
    if (is_there)
        return;
    lua_pushlightuserdata(L, (void *)(uintptr_t)key);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

void znl_bind_open_all(lua_State *L)
{
    static const luaL_Reg modules[] = {
            {"znl.core.sched", luaopen_znl_core_sched},
            {"znl.core.token", luaopen_znl_core_token},
            {"znl.core.timer", luaopen_znl_core_timer},
            {"znl.core.log", luaopen_znl_core_log},
            {"znl.core.watch", luaopen_znl_core_watch},
            {"znl.core.runtime", luaopen_znl_core_runtime},
            {"znl.core.crypto", luaopen_znl_core_crypto},
            {"znl.core.socket", luaopen_znl_core_socket},
            {"znl.core.heartbeat", luaopen_znl_core_heartbeat},
            {"znl.core.registry", luaopen_znl_core_registry},
            {"znl.core.node", luaopen_znl_core_node},
            {"znl.core.micro", luaopen_znl_core_micro},
            {"znl.core.cluster", luaopen_znl_core_cluster},
            {"znl.core.hub", luaopen_znl_core_hub},
            {"znl.core.roster", luaopen_znl_core_roster},
            {"znl.core.json", luaopen_znl_core_json},
            {"znl.core.transcode", luaopen_znl_core_transcode},
            {"znl.core.shared", luaopen_znl_core_shared},
            {"znl.core.workers", luaopen_znl_core_workers},
            {"znl.core.testing", luaopen_znl_core_testing},
            {"znl.core.tls", luaopen_znl_core_tls},
            {"znl.core.websocket", luaopen_znl_core_websocket},
            {"znl.core.nats", luaopen_znl_core_nats},
            {NULL, NULL},
    };
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    luaL_register(L, NULL, modules);
    lua_pop(L, 2);
    znl_runtime_prepare(L);
    znl_lua_preparejson(L);
    znl_lua_preparetranscode(L);
}
