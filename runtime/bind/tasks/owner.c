/* owner.c - owners as Lua sees them, a part of znl.core.sched.
 *
 * A table with weak values leads from each owner to its object, so that current_owner() gives the
 * one that owner() made.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/err.h"
#include "bind/bind.h"
#include "transport/loop.h"

#include <string.h>

#define OWNER_TYPE "znl.core.owner"

typedef struct owner {
    znl_vm *vm;
    znl_owner *owner;
    int idle_ref; /* the function of on_idle */
    int self_ref; /* anchors the userdata until that function ran */
    znl_deferred due;
} owner;

static const char objects_key; /* its address names that table in the registry */
static const char claims_key;  /* the same: environment (weak) -> owner */

static void unref(lua_State *L, int *ref)
{
    luaL_unref(L, LUA_REGISTRYINDEX, *ref);
    *ref = LUA_NOREF;
}

/* --- idle --------------------------------------------------------------------------------- */

static int run_idle(lua_State *L)
{
    owner *o = lua_touserdata(L, 1);
    const znl_spawn how = {0}; /* it works for nobody */
    lua_rawgeti(L, LUA_REGISTRYINDEX, o->idle_ref);
    unref(L, &o->idle_ref);
    znl_sched_spawn_as(L, 0, &how);
    return 0;
}

static void on_idle_due(znl_deferred *deferred)
{
    owner *o = (owner *)(void *)((char *)deferred - offsetof(owner, due));
    int self_ref = o->self_ref;
    o->self_ref = LUA_NOREF; /* the function may register the next one */
    znl_vm_protect(o->vm, run_idle, o, "owner.on_idle");
    luaL_unref(o->vm->L, LUA_REGISTRYINDEX, self_ref);
}

/* May be called while Lua runs: leaves the rest to the loop. */
static void on_idle(void *user)
{
    owner *o = user;
    znl_loop_defer(o->vm->loop, &o->due);
}

/* --- objects ------------------------------------------------------------------------------ */

/* Pushes an object without an owner. */
static owner *push_box(lua_State *L)
{
    owner *o = lua_newuserdata(L, sizeof *o);
    memset(o, 0, sizeof *o);
    o->vm = znl_vm_of(L);
    o->idle_ref = o->self_ref = LUA_NOREF;
    o->due.run = on_idle_due;
    luaL_getmetatable(L, OWNER_TYPE);
    lua_setmetatable(L, -2);
    return o;
}

void znl_lua_pushowner(lua_State *L, znl_owner *owned)
{
    if (znl_lua_findobject(L, &objects_key, owned))
        return;
    owner *o = push_box(L);
    znl_owner_hold(owned);
    o->owner = owned;
    znl_lua_keepobject(L, &objects_key, o->owner);
}

/* owner() -> owner | nil, message, code */
static int owner_new(lua_State *L)
{
    owner *o = push_box(L);
    int err = znl_owner_new(&o->owner);
    if (err != 0)
        return znl_lua_fail(L, err, "owner");
    znl_lua_keepobject(L, &objects_key, o->owner);
    return 1;
}

static owner *check_owner(lua_State *L, int idx)
{
    owner *o = luaL_checkudata(L, idx, OWNER_TYPE);
    if (o->owner == NULL)
        luaL_argerror(L, idx, "collected owner");
    return o;
}

znl_owner *znl_lua_checkowner(lua_State *L, int idx)
{
    return check_owner(L, idx)->owner;
}

/* owner:active() -> foreground tasks that run for it */
static int owner_active(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)znl_owner_active(check_owner(L, 1)->owner));
    return 1;
}

/* owner:background() -> background tasks that run for it */
static int owner_background(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)znl_owner_background(check_owner(L, 1)->owner));
    return 1;
}

/* owner:on_idle(fn): fn() runs once, in a task, when no foreground task runs for the owner; it
 * replaces one registered before */
static int owner_on_idle(lua_State *L)
{
    owner *o = check_owner(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (o->self_ref == LUA_NOREF) {
        lua_pushvalue(L, 1);
        o->self_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_pushvalue(L, 2);
    int ref = luaL_ref(L, LUA_REGISTRYINDEX);
    unref(L, &o->idle_ref);
    o->idle_ref = ref;
    znl_owner_on_idle(o->owner, on_idle, o);
    return 0;
}

/* owner:end_background(): no background task of it goes on; later ones are refused */
static int owner_end_background(lua_State *L)
{
    znl_owner_end_background(check_owner(L, 1)->owner);
    return 0;
}

/* owner:cut(message|nil): the same for every task; message is what becomes of them */
static int owner_cut(lua_State *L)
{
    znl_owner_cut(check_owner(L, 1)->owner, luaL_optstring(L, 2, NULL));
    return 0;
}

/* owner:has_ended() -> true after end_background() or cut() */
static int owner_has_ended(lua_State *L)
{
    lua_pushboolean(L, znl_owner_has_ended(check_owner(L, 1)->owner));
    return 1;
}

/* owner:claim(environment): functions with that environment run for the owner, in the background, when
 * luv calls them */
static int owner_claim(lua_State *L)
{
    check_owner(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&claims_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, 1);
    lua_rawset(L, -3);
    return 0;
}

znl_owner *znl_lua_ownerof(lua_State *L, int idx)
{
    znl_owner *owned = NULL;
    int top = lua_gettop(L);
    lua_getfenv(L, idx);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&claims_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    if (lua_istable(L, -1) && lua_istable(L, -2)) {
        lua_pushvalue(L, -2);
        lua_rawget(L, -2);
        if (!lua_isnil(L, -1))
            owned = ((const owner *)lua_touserdata(L, -1))->owner;
    }
    lua_settop(L, top);
    return owned;
}

static int owner_gc(lua_State *L)
{
    owner *o = lua_touserdata(L, 1);
    if (o->owner == NULL)
        return 0;
    if (o->idle_ref != LUA_NOREF) /* else the request may be another object's */
        znl_owner_on_idle(o->owner, NULL, NULL);
    znl_loop_undefer(o->vm->loop, &o->due);
    znl_owner_release(o->owner);
    o->owner = NULL;
    unref(L, &o->idle_ref);
    unref(L, &o->self_ref);
    return 0;
}

/* --- the running task --------------------------------------------------------------------- */

/* current_owner() -> owner of the running task | nil */
static int current_owner(lua_State *L)
{
    znl_owner *owned = znl_sched_owner(znl_vm_of(L)->sched);
    if (owned == NULL)
        return 0;
    znl_lua_pushowner(L, owned);
    return 1;
}

/* become(owner|nil) -> true | nil, message, code: the running task counts for it from now on */
static int become(lua_State *L)
{
    znl_owner *owned = lua_isnoneornil(L, 1) ? NULL : znl_lua_checkowner(L, 1);
    int err = znl_sched_become(znl_vm_of(L)->sched, owned);
    if (err == ZNL_E_INVALID)
        return luaL_error(L, "become must be called from a coroutine made by znl");
    if (err != 0)
        return znl_lua_fail(L, err, "become");
    lua_pushboolean(L, 1);
    return 1;
}

void znl_bind_add_owners(lua_State *L)
{
    static const luaL_Reg methods[] = {
            {"active", owner_active},
            {"background", owner_background},
            {"on_idle", owner_on_idle},
            {"end_background", owner_end_background},
            {"cut", owner_cut},
            {"has_ended", owner_has_ended},
            {"claim", owner_claim},
            {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
            {"owner", owner_new},
            {"current_owner", current_owner},
            {"become", become},
            {NULL, NULL},
    };
    znl_lua_newtype(L, OWNER_TYPE, methods, owner_gc);
    znl_lua_newobjects(L, &objects_key);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&claims_key);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
    luaL_register(L, NULL, functions);
}
