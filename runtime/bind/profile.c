/* profile.c - jit.profile, whose stop() leaves traces as the watchdog needs them.
 *
 * LuaJIT's own stop() makes it compile traces that look at no flag; the watchdog could not break
 * them any more (vm/watchdog.h).
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/bind.h"
#include "vm/watchdog.h"

static int profile_stop(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_call(L, 0, 0);
    znl_watchdog_renew(znl_vm_of(L));
    return 0;
}

static int open_profile(lua_State *L)
{
    int count = lua_gettop(L);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, count, 1);
    lua_getfield(L, -1, "stop");
    lua_pushcclosure(L, profile_stop, 1);
    lua_setfield(L, -2, "stop");
    return 1;
}

void znl_bind_profile_open(lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_getfield(L, -1, "jit.profile");
    if (!lua_isnil(L, -1)) {
        lua_pushcclosure(L, open_profile, 1);
        lua_setfield(L, -2, "jit.profile");
    } else {
        lua_pop(L, 1); /* a LuaJIT without it */
    }
    lua_pop(L, 2);
}
