/* sched.c - znl.core.sched: tasks, waiting and events as Lua sees them.
 *
 * An event is set from Lua, while its waiters can only be resumed by the loop. So set() notes
 * the values, anchors the event in the registry and defers; the loop then wakes every waiter.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "vm/sched.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/bind.h"
#include "transport/loop.h"

#include <string.h>

#define EVENT_TYPE "znl.core.event"

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

static int spawn_owned(lua_State *L, znl_task_kind kind)
{
    znl_spawn how = {.inherits = 1, .kind = kind, .owner = znl_lua_checkowner(L, 1)};
    luaL_checktype(L, 2, LUA_TFUNCTION);
    return spawned(L, znl_sched_spawn_as(L, lua_gettop(L) - 2, &how));
}

/* spawn_owned(owner, fn, ...) -> true | nil, message, code: in the foreground */
static int sched_spawn_owned(lua_State *L)
{
    return spawn_owned(L, ZNL_TASK_FOREGROUND);
}

/* spawn_background(owner, fn, ...) -> true | nil, message, code */
static int sched_spawn_background(lua_State *L)
{
    return spawn_owned(L, ZNL_TASK_BACKGROUND);
}

/* A task that start() made has ended: handle:ended(true, results...), (false, error) or, when it was
 * dropped, (nil, why). Runs protected. */
static void handle_ended(void *user, lua_State *L, int status, int nresults)
{
    int ref = (int)(intptr_t)user;
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
    lua_getfield(L, -1, "ended");
    lua_insert(L, -2);
    if (status == ZNL_TASK_DROPPED)
        lua_pushnil(L);
    else
        lua_pushboolean(L, status == 0);
    for (int i = 1; i <= nresults; i++)
        lua_pushvalue(L, i);
    lua_call(L, nresults + 2, 0);
}

/* start(handle, owner|nil, fn, ...) -> index, serial | nil, message, code. Runs fn(...) as a task.
 * When it has ended, handle:ended(true, results...) (8 at most), handle:ended(false, error) or, when it
 * was dropped, handle:ended(nil, why) is called; the handle is kept until then. With an owner the task is in the
 * background and has no token; without it inherits all. */
static int sched_start(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    znl_spawn how = {.inherits = 1, .done = handle_ended};
    znl_task_ref task;
    if (!lua_isnil(L, 2)) {
        how.owner = znl_lua_checkowner(L, 2);
        how.kind = ZNL_TASK_BACKGROUND;
        how.inherits = 0;
    }
    luaL_checktype(L, 3, LUA_TFUNCTION);
    how.ref = &task;
    lua_pushvalue(L, 1);
    int ref = luaL_ref(L, LUA_REGISTRYINDEX);
    how.user = (void *)(intptr_t)ref;
    int err = znl_sched_spawn_as(L, lua_gettop(L) - 3, &how);
    if (err != 0) {
        luaL_unref(L, LUA_REGISTRYINDEX, ref);
        return znl_lua_fail(L, err, "spawn");
    }
    lua_pushnumber(L, (lua_Number)task.index);
    lua_pushnumber(L, (lua_Number)task.serial);
    return 2;
}

/* Numbers that Lua was given, back again; nonsense names nothing. */
static uint64_t to_u64(lua_State *L, int idx)
{
    lua_Number number = lua_tonumber(L, idx);
    return number >= 0 && number < 9007199254740992.0 ? (uint64_t)number : 0;
}

static znl_task_ref to_ref(lua_State *L)
{
    uint64_t index = to_u64(L, 1);
    return (znl_task_ref){index <= UINT32_MAX ? (uint32_t)index : UINT32_MAX, to_u64(L, 2)};
}

/* cancel(index, serial, reason|nil) -> true | nil, message, code: the waits of that task end */
static int sched_cancel(lua_State *L)
{
    size_t size = 0;
    const char *reason = luaL_optlstring(L, 3, NULL, &size);
    int err = znl_sched_cancel(znl_vm_of(L)->sched, to_ref(L), reason, size);
    if (err != 0)
        return znl_lua_fail(L, err, "cancel");
    lua_pushboolean(L, 1);
    return 1;
}

/* is_live(index, serial) -> true until that task has ended */
static int sched_is_live(lua_State *L)
{
    lua_pushboolean(L, znl_sched_is_live(znl_vm_of(L)->sched, to_ref(L)));
    return 1;
}

/* sleep(ms) -> true | nil, message, code. Yields. */
static int sched_sleep(lua_State *L)
{
    uint32_t ms = znl_lua_checku32(L, 1, "ms", 0, ZNL_TIMEOUT_MS_MAX);
    znl_sched_sleep(L, ms);
    return lua_yield(L, 0);
}

/* What a wait of a script may be called: static texts, since the wait outlives its arguments. */
static const char *const wait_names[] = {
        "wait", "task", "channel", "wait_group", "semaphore", "scope", "queue", NULL};

/* park(entry, timeout_ms|nil, name|nil) -> true | nil, message, code. Waits until unpark(entry),
 * which finds the wait by what this writes into the table: entry[1], entry[2]. Yields. */
static int sched_park(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    int has_timeout = !lua_isnoneornil(L, 2);
    uint32_t timeout_ms = has_timeout
            ? znl_lua_checku32(L, 2, "timeout_ms", 0, ZNL_TIMEOUT_MS_MAX)
            : 0;
    const char *name = wait_names[luaL_checkoption(L, 3, "wait", wait_names)];
    lua_pushinteger(L, 0);
    lua_rawseti(L, 1, 1);
    lua_pushinteger(L, 0);
    lua_rawseti(L, 1, 2); /* the places are there now: what follows needs no memory */
    znl_wait wait = has_timeout ? znl_sched_park_for(L, timeout_ms, name)
                                : znl_sched_park_as(L, name);
    znl_wait_name numbers = znl_sched_name_wait(wait);
    lua_pushnumber(L, (lua_Number)numbers.index);
    lua_rawseti(L, 1, 1);
    lua_pushnumber(L, (lua_Number)numbers.ticket);
    lua_rawseti(L, 1, 2);
    return lua_yield(L, 0);
}

/* unpark(entry) -> true when a task waited with it: it goes on, with true, in the next turn of the
 * loop. false when its wait has ended. */
static int sched_unpark(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    znl_sched *sched = znl_vm_of(L)->sched;
    lua_rawgeti(L, 1, 1);
    lua_rawgeti(L, 1, 2);
    uint64_t index = to_u64(L, -2);
    znl_wait_name numbers = {index <= UINT32_MAX ? (uint32_t)index : UINT32_MAX, to_u64(L, -1)};
    lua_pushboolean(L, znl_sched_wake_later(sched, znl_sched_named_wait(sched, numbers)));
    return 1;
}

/* cancelled() -> nil | code, reason: what the next wait of this task would end with */
static int sched_cancelled(lua_State *L)
{
    const znl_sched *sched = znl_vm_of(L)->sched;
    int err = znl_sched_is_cancelled(sched);
    if (err == 0)
        return 0;
    lua_pushstring(L, znl_err_code(err));
    lua_pushstring(L, znl_sched_cancel_reason(sched));
    return 2;
}

/* counters() -> table of numbers */
static int sched_counters(lua_State *L)
{
    znl_sched_counters counters;
    znl_sched_count(znl_vm_of(L)->sched, &counters);
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
            {"tasks", counters.tasks},
            {"pooled", counters.pooled},
            {"spawned", counters.spawned},
            {"failed", counters.failed},
            {"cut", counters.cut},
    };
    lua_newtable(L);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        lua_pushnumber(L, (lua_Number)fields[i].value);
        lua_setfield(L, -2, fields[i].name);
    }
    return 1;
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
                                : znl_sched_park_as(L, "event");
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
    static const luaL_Reg functions[] = {
            {"spawn", sched_spawn},
            {"spawn_owned", sched_spawn_owned},
            {"sleep", sched_sleep},
            {"is_task", sched_is_task},
            {"now_ms", sched_now_ms},
            {"unix_ms", sched_unix_ms},
            {"event", event_new},
            {"spawn_background", sched_spawn_background},
            {"start", sched_start},
            {"cancel", sched_cancel},
            {"is_live", sched_is_live},
            {"park", sched_park},
            {"unpark", sched_unpark},
            {"cancelled", sched_cancelled},
            {"counters", sched_counters},
            {NULL, NULL},
    };
    znl_lua_newtype(L, EVENT_TYPE, event_methods, event_gc);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    znl_bind_add_owners(L);
    return 1;
}
