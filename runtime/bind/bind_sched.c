/* bind_sched.c - znl.core.sched: tasks, sleeping, events and owners as Lua sees them.
 *
 * An event is set from Lua, while its waiters can only be resumed by the loop. So set() notes
 * the values, anchors the event in the registry and defers; the loop then wakes every waiter.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/bind.h"
#include "transport/loop.h"
#include "vm/sched.h"

#include <string.h>

#define EVENT_TYPE "znl.core.event"
#define OWNER_TYPE "znl.core.owner"

/* --- tasks -------------------------------------------------------------------------------- */

static int spawned(lua_State *L, int err)
{
    if (err != 0)
        return znl_lua_fail(L, err, "spawn");
    lua_pushboolean(L, 1);
    return 1;
}

/* spawn(fn, ...) -> true | nil, message, code */
static int sched_spawn(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    return spawned(L, znl_sched_spawn(L, lua_gettop(L) - 1, NULL, NULL, NULL));
}

/* spawn_owned(owner, fn, ...) -> true | nil, message, code */
static int sched_spawn_owned(lua_State *L)
{
    znl_owner *owner = znl_lua_checkowner(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    return spawned(L, znl_sched_spawn(L, lua_gettop(L) - 2, owner, NULL, NULL));
}

/* sleep(ms): yields */
static int sched_sleep(lua_State *L)
{
    uint32_t ms = znl_lua_checku32(L, 1, "ms", 0, ZNL_TIMEOUT_MS_MAX);
    znl_sched_park_for(L, ms, NULL);
    return lua_yield(L, 0);
}

/* is_task() -> true where waiting is possible */
static int sched_is_task(lua_State *L)
{
    lua_pushboolean(L, znl_sched_is_task(L));
    return 1;
}

static int sched_now_ms(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)znl_clock_mono_ms());
    return 1;
}

static int sched_unix_ms(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)znl_clock_unix_ms());
    return 1;
}

/* --- events ------------------------------------------------------------------------------- */

typedef struct event {
    znl_vm *vm;
    int is_set;
    int values_ref; /* array of the values of set(), while it is set */
    int firing_ref; /* the same for waiters not woken yet */
    int self_ref;   /* anchors the event while it is deferred */
    znl_wait *waiters;
    size_t count, capacity;
    znl_deferred due;
} event;

static void unref(lua_State *L, int *ref)
{
    luaL_unref(L, LUA_REGISTRYINDEX, *ref);
    *ref = LUA_NOREF;
}

static int push_values(lua_State *L, int ref)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
    lua_rawgeti(L, -1, 0);
    int count = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    int values = lua_gettop(L);
    luaL_checkstack(L, count, "event");
    for (int i = 1; i <= count; i++)
        lua_rawgeti(L, values, i);
    lua_remove(L, values);
    return count;
}

static int push_firing(lua_State *L, void *user)
{
    const event *e = user;
    return push_values(L, e->firing_ref);
}

static void wake_waiters(znl_deferred *deferred)
{
    event *e = (event *)(void *)((char *)deferred - offsetof(event, due));
    /* Taken away first: a task that runs may wait again, or set again. */
    znl_wait *waiters = e->waiters;
    size_t count = e->count;
    e->waiters = NULL;
    e->count = e->capacity = 0;
    for (size_t i = 0; i < count; i++)
        znl_sched_wake(e->vm->sched, waiters[i], push_firing, e);
    znl_free(waiters);
    if (e->due.queued)
        return; /* set again meanwhile, for new waiters */
    unref(e->vm->L, &e->firing_ref);
    unref(e->vm->L, &e->self_ref); /* last: the collector may take the event from here */
}

/* event() -> event */
static int event_new(lua_State *L)
{
    event *e = lua_newuserdata(L, sizeof *e);
    memset(e, 0, sizeof *e);
    e->vm = znl_vm_of(L);
    e->values_ref = e->firing_ref = e->self_ref = LUA_NOREF;
    e->due.run = wake_waiters;
    luaL_getmetatable(L, EVENT_TYPE);
    lua_setmetatable(L, -2);
    return 1;
}

static event *check_event(lua_State *L)
{
    return luaL_checkudata(L, 1, EVENT_TYPE);
}

/* event:set(...) -> true, or false when it was set already: then nothing changes */
static int event_set(lua_State *L)
{
    event *e = check_event(L);
    int count = lua_gettop(L) - 1;
    if (count > ZNL_TASK_VALUES_MAX)
        return luaL_error(L, "an event carries at most %d values", ZNL_TASK_VALUES_MAX);
    if (e->is_set) {
        lua_pushboolean(L, 0);
        return 1;
    }
    lua_createtable(L, count, 1);
    lua_pushinteger(L, count);
    lua_rawseti(L, -2, 0);
    for (int i = 1; i <= count; i++) {
        lua_pushvalue(L, i + 1);
        lua_rawseti(L, -2, i);
    }
    unref(L, &e->values_ref);
    lua_pushvalue(L, -1);
    e->values_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    if (e->count > 0) {
        unref(L, &e->firing_ref);
        e->firing_ref = luaL_ref(L, LUA_REGISTRYINDEX);
        if (e->self_ref == LUA_NOREF) {
            lua_pushvalue(L, 1);
            e->self_ref = luaL_ref(L, LUA_REGISTRYINDEX);
        }
        znl_loop_defer(e->vm->loop, &e->due);
    }
    e->is_set = 1;
    lua_pushboolean(L, 1);
    return 1;
}

/* event:clear(): later waiters wait again */
static int event_clear(lua_State *L)
{
    event *e = check_event(L);
    e->is_set = 0;
    unref(L, &e->values_ref);
    return 0;
}

static int event_is_set(lua_State *L)
{
    lua_pushboolean(L, check_event(L)->is_set);
    return 1;
}

static int reserve_waiter(event *e)
{
    if (e->count < e->capacity)
        return 0;
    /* Those that timed out make room first. */
    size_t kept = 0;
    for (size_t i = 0; i < e->count; i++)
        if (znl_sched_waits(e->vm->sched, e->waiters[i]))
            e->waiters[kept++] = e->waiters[i];
    e->count = kept;
    if (kept > 0 && kept <= e->capacity / 2)
        return 0;
    size_t capacity = e->capacity > 0 ? e->capacity * 2 : 4;
    znl_wait *waiters = znl_realloc(e->waiters, capacity * sizeof *waiters);
    if (waiters == NULL)
        return ZNL_E_NOMEM;
    e->waiters = waiters;
    e->capacity = capacity;
    return 0;
}

/* event:wait(timeout_ms|nil) -> values of set() | nil, message, "TIMEOUT". Yields. */
static int event_wait(lua_State *L)
{
    event *e = check_event(L);
    int has_timeout = !lua_isnoneornil(L, 2);
    uint32_t timeout_ms = has_timeout
            ? znl_lua_checku32(L, 2, "timeout_ms", 0, ZNL_TIMEOUT_MS_MAX)
            : 0;
    if (e->is_set)
        return push_values(L, e->values_ref);
    int err = reserve_waiter(e);
    if (err != 0)
        return znl_lua_fail(L, err, "event");
    znl_wait wait = has_timeout ? znl_sched_park_for(L, timeout_ms, "event")
                                : znl_sched_park(L);
    e->waiters[e->count++] = wait;
    return lua_yield(L, 0);
}

static int event_gc(lua_State *L)
{
    event *e = lua_touserdata(L, 1);
    if (e->vm == NULL)
        return 0;
    znl_loop_undefer(e->vm->loop, &e->due);
    /* Nobody can set it any more. */
    for (size_t i = 0; i < e->count; i++)
        znl_sched_wake_error(e->vm->sched, e->waiters[i], ZNL_E_CANCELLED, "event");
    znl_free(e->waiters);
    e->waiters = NULL;
    e->count = e->capacity = 0;
    unref(L, &e->values_ref);
    unref(L, &e->firing_ref);
    unref(L, &e->self_ref);
    e->vm = NULL;
    return 0;
}

/* --- owners ------------------------------------------------------------------------------- */

typedef struct owner {
    znl_vm *vm;
    znl_owner *owner;
    int idle_ref; /* the function of on_idle */
    int self_ref; /* anchors the userdata until that function ran */
    znl_deferred due;
} owner;

static int run_idle(lua_State *L)
{
    owner *o = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, o->idle_ref);
    unref(L, &o->idle_ref);
    znl_sched_spawn(L, 0, NULL, NULL, NULL);
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

/* owner() -> owner | nil, message, code */
static int owner_new(lua_State *L)
{
    owner *o = lua_newuserdata(L, sizeof *o);
    memset(o, 0, sizeof *o);
    o->vm = znl_vm_of(L);
    o->idle_ref = o->self_ref = LUA_NOREF;
    o->due.run = on_idle_due;
    luaL_getmetatable(L, OWNER_TYPE);
    lua_setmetatable(L, -2);
    int err = znl_owner_new(&o->owner);
    return err == 0 ? 1 : znl_lua_fail(L, err, "owner");
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

/* owner:active() -> tasks that run for it */
static int owner_active(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)znl_owner_active(check_owner(L, 1)->owner));
    return 1;
}

/* owner:on_idle(fn): fn() runs once, in a task, when no task runs for the owner; it replaces
 * one registered before */
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

static int owner_gc(lua_State *L)
{
    owner *o = lua_touserdata(L, 1);
    if (o->owner == NULL)
        return 0;
    znl_owner_on_idle(o->owner, NULL, NULL);
    znl_loop_undefer(o->vm->loop, &o->due);
    znl_owner_release(o->owner);
    o->owner = NULL;
    unref(L, &o->idle_ref);
    unref(L, &o->self_ref);
    return 0;
}

/* --- module ------------------------------------------------------------------------------- */

int luaopen_znl_core_sched(lua_State *L)
{
    static const luaL_Reg event_methods[] = {
            {"set", event_set},
            {"wait", event_wait},
            {"clear", event_clear},
            {"is_set", event_is_set},
            {NULL, NULL},
    };
    static const luaL_Reg owner_methods[] = {
            {"active", owner_active},
            {"on_idle", owner_on_idle},
            {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
            {"spawn", sched_spawn},
            {"spawn_owned", sched_spawn_owned},
            {"sleep", sched_sleep},
            {"is_task", sched_is_task},
            {"now_ms", sched_now_ms},
            {"unix_ms", sched_unix_ms},
            {"event", event_new},
            {"owner", owner_new},
            {NULL, NULL},
    };
    znl_lua_newtype(L, EVENT_TYPE, event_methods, event_gc);
    znl_lua_newtype(L, OWNER_TYPE, owner_methods, owner_gc);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
