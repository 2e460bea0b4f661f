/* timer.c - znl.core.timer: functions that run after a time, or again and again.
 *
 * A million of them must be cheap. So a timer is a slot: C blocks of SLOTS timers that never move,
 * and for each block a Lua table with the function and the argument of each. The blocks' tables keep
 * the collector from having one huge table to go through at once. A number names a timer: its slot,
 * and the generation of that slot, so that a timer that ended is not taken for a later one.
 *
 * A function runs as a background task of its owner, under no token. A repeating timer keeps its
 * phase; while its function still runs, and after a stall, times that have passed are skipped.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/bind.h"
#include "transport/loop.h"

#include <string.h>

#define TIMERS_TYPE "znl.core.timers"
#define SLOTS 256u
#define BLOCKS_MAX 65536u /* 2^24 timers: the slot's part of the number */
#define INDEX_BITS 24
#define GENERATION_MASK ((1u << 29) - 1) /* with the slot 53 bits: whole in a Lua number */

typedef struct timers timers;

static const char timers_key; /* its address names them in the registry */

typedef struct slot {
    znl_timer timer;
    timers *timers;
    struct slot *next_free;
    znl_owner *owner; /* held; NULL: none */
    uint32_t index, generation;
    uint32_t period_ms; /* 0: once */
    uint8_t is_used;
    uint8_t is_running; /* its function, of a repeating timer */
    uint8_t is_stopped; /* while its function runs */
} slot;

struct timers {
    znl_vm *vm;
    slot **blocks;
    uint32_t block_count;
    slot *free;
    size_t count;
    int tables_ref; /* array of the blocks' tables */
};

/* --- slots -------------------------------------------------------------------------------- */

/* One block more. Raises when memory is short, having changed nothing that matters. */
static void add_block(lua_State *L, timers *all)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, all->tables_ref);
    lua_createtable(
            L, 2 * SLOTS + 1, 0); /* its places are there: filling them needs no memory */
    lua_rawseti(L, -2, (int)all->block_count + 1);
    lua_pop(L, 1);
    slot **blocks = znl_realloc(all->blocks, (all->block_count + 1) * sizeof *blocks);
    if (blocks != NULL)
        all->blocks = blocks;
    slot *block = blocks != NULL ? znl_calloc(SLOTS, sizeof *block) : NULL;
    if (block == NULL)
        luaL_error(L, "timer: %s", znl_err_text(ZNL_E_NOMEM));
    for (uint32_t i = SLOTS; i-- > 0;) {
        block[i].timers = all;
        block[i].index = all->block_count * SLOTS + i;
        block[i].next_free = all->free;
        all->free = &block[i];
    }
    all->blocks[all->block_count++] = block;
}

/* Pushes the table with the values of the slot. */
static void push_table(lua_State *L, const slot *s)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->timers->tables_ref);
    lua_rawgeti(L, -1, (int)(s->index / SLOTS) + 1);
    lua_remove(L, -2);
}

static int place(const slot *s)
{
    return (int)(s->index % SLOTS) * 2 + 1;
}

static void free_slot(lua_State *L, slot *s)
{
    timers *all = s->timers;
    znl_wheel_stop(znl_loop_wheel(all->vm->loop), &s->timer);
    push_table(L, s);
    for (int i = 0; i < 2; i++) {
        lua_pushnil(L);
        lua_rawseti(L, -2, place(s) + i);
    }
    lua_pop(L, 1);
    znl_owner_release(s->owner);
    s->owner = NULL;
    s->is_used = 0;
    s->generation = (s->generation + 1) & GENERATION_MASK;
    s->next_free = all->free;
    all->free = s;
    all->count--;
}

/* --- running ------------------------------------------------------------------------------ */

/* The function of a repeating timer ended. */
static void on_done(void *user, lua_State *L, int status, int nresults)
{
    slot *s = user;
    (void)nresults;
    if (status != 0 && status != ZNL_TASK_DROPPED) {
        size_t size = 0;
        const char *text = lua_tolstring(L, 1, &size);
        znl_log_field field = {"error", text != NULL ? text : "", size, 0};
        znl_log_write(ZNL_LOG_ERROR, "script", "timer failed", &field, 1);
    }
    s->is_running = 0;
    if (s->is_stopped)
        free_slot(L, s);
}

/* (slot) */
static int run(lua_State *L)
{
    slot *s = lua_touserdata(L, 1);
    znl_owner *owner = s->owner;
    znl_spawn how = {.kind = ZNL_TASK_BACKGROUND, .owner = owner};
    push_table(L, s);
    lua_rawgeti(L, 2, place(s));
    lua_rawgeti(L, 2, place(s) + 1);
    if (s->period_ms > 0) {
        s->is_running = 1;
        how.done = on_done;
        how.user = s;
    } else {
        s->owner = NULL;
        free_slot(L, s);
    }
    int nargs = lua_isnil(L, 4) ? 0 : 1;
    lua_settop(L, 3 + nargs);
    int err = znl_sched_spawn_as(L, nargs, &how);
    if (how.user != NULL && err != 0) {
        s->is_running = 0;
        if (err == ZNL_E_STOPPED)
            free_slot(L, s);
    }
    if (how.user == NULL)
        znl_owner_release(owner);
    if (err != 0 && err != ZNL_E_STOPPED) /* nobody expects a function of what has ended */
        return luaL_error(L, "the function of a timer could not run: %s", znl_err_text(err));
    return 0;
}

static void on_fire(znl_timer *timer)
{
    slot *s = (slot *)(void *)((char *)timer - offsetof(slot, timer));
    znl_vm *vm = s->timers->vm;
    if (s->period_ms > 0) {
        uint64_t now = znl_loop_now_ms(vm->loop), due = timer->deadline_ms + s->period_ms;
        if (due <= now)
            due += (now - due) / s->period_ms * s->period_ms + s->period_ms;
        znl_wheel_start(znl_loop_wheel(vm->loop), timer, due, on_fire);
        if (s->is_running)
            return;
    }
    znl_vm_protect(vm, run, s, "timer");
}

/* --- functions of the module -------------------------------------------------------------- */

static timers *upvalue(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

static slot *find(lua_State *L, int idx)
{
    const timers *all = upvalue(L);
    lua_Number number = luaL_checknumber(L, idx);
    if (!(number >= 0 && number < 9007199254740992.0))
        return NULL;
    uint64_t id = (uint64_t)number;
    uint64_t index = id & ((1u << INDEX_BITS) - 1);
    if (index / SLOTS >= all->block_count)
        return NULL;
    slot *s = &all->blocks[index / SLOTS][index % SLOTS];
    return s->is_used && !s->is_stopped && s->generation == id >> INDEX_BITS ? s : NULL;
}

/* start(fn, arg, delay_ms, period_ms|nil, owner|nil) -> number | nil, message, code: calls fn(arg)
 * (fn() for nil) after delay_ms, and every period_ms from then on. With an owner it is a background task of it. */
static int timer_start(lua_State *L)
{
    timers *all = upvalue(L);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    uint32_t delay_ms = znl_lua_checku32(L, 3, "delay_ms", 0, ZNL_TIMER_MS_MAX);
    uint32_t period_ms = lua_isnoneornil(L, 4)
            ? 0
            : znl_lua_checku32(L, 4, "period_ms", 1, ZNL_TIMER_MS_MAX);
    znl_owner *owner = lua_isnoneornil(L, 5) ? NULL : znl_lua_checkowner(L, 5);
    if (all->free == NULL && all->block_count == BLOCKS_MAX)
        return znl_lua_fail(L, ZNL_E_LIMIT, "timer");
    if (all->free == NULL)
        add_block(L, all);
    slot *s = all->free;
    all->free = s->next_free;
    all->count++;
    s->is_used = 1;
    s->is_running = s->is_stopped = 0;
    s->period_ms = period_ms;
    s->owner = owner;
    if (owner != NULL)
        znl_owner_hold(owner);
    push_table(L, s);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, place(s));
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, place(s) + 1);
    znl_wheel_start(
            znl_loop_wheel(all->vm->loop), &s->timer, znl_clock_mono_ms() + delay_ms, on_fire);
    lua_pushnumber(L, (lua_Number)((uint64_t)s->generation << INDEX_BITS | s->index));
    return 1;
}

/* A function that runs goes on. */
static void stop(lua_State *L, slot *s)
{
    if (s->is_running) {
        znl_wheel_stop(znl_loop_wheel(s->timers->vm->loop), &s->timer);
        s->is_stopped = 1; /* the end of its function frees it */
    } else {
        free_slot(L, s);
    }
}

/* stop(number) -> true, or false when it has ended */
static int timer_stop(lua_State *L)
{
    slot *s = find(L, 1);
    lua_pushboolean(L, s != NULL);
    if (s != NULL)
        stop(L, s);
    return 1;
}

static int stop_repeating(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)&timers_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    timers *all = lua_touserdata(L, -1);
    for (uint32_t i = 0; all != NULL && i < all->block_count * SLOTS; i++) {
        slot *s = &all->blocks[i / SLOTS][i % SLOTS];
        if (s->is_used && s->period_ms > 0 && !s->is_stopped)
            stop(L, s);
    }
    return 0;
}

void znl_timers_stop_repeating(znl_vm *vm)
{
    znl_vm_protect(vm, stop_repeating, NULL, "timer");
}

/* due_ms(number) -> when it runs next, monotonic milliseconds | nil when it has ended */
static int timer_due_ms(lua_State *L)
{
    const slot *s = find(L, 1);
    if (s == NULL)
        return 0;
    lua_pushnumber(L, (lua_Number)s->timer.deadline_ms);
    return 1;
}

/* count() -> timers there are */
static int timer_count(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)upvalue(L)->count);
    return 1;
}

/* --- module ------------------------------------------------------------------------------- */

static int timers_gc(lua_State *L)
{
    timers *all = lua_touserdata(L, 1);
    for (uint32_t i = 0; i < all->block_count; i++) {
        for (uint32_t j = 0; j < SLOTS; j++) {
            slot *s = &all->blocks[i][j];
            znl_wheel_stop(znl_loop_wheel(all->vm->loop), &s->timer);
            znl_owner_release(s->owner);
        }
        znl_free(all->blocks[i]);
    }
    znl_free(all->blocks);
    all->blocks = NULL;
    all->block_count = 0;
    all->free = NULL;
    return 0;
}

int luaopen_znl_core_timer(lua_State *L)
{
    static const luaL_Reg no_methods[] = {{NULL, NULL}};
    static const luaL_Reg functions[] = {
            {"start", timer_start},
            {"stop", timer_stop},
            {"due_ms", timer_due_ms},
            {"count", timer_count},
            {NULL, NULL},
    };
    znl_lua_newtype(L, TIMERS_TYPE, no_methods, timers_gc);
    lua_newtable(L);
    timers *all = lua_newuserdata(L, sizeof *all);
    memset(all, 0, sizeof *all);
    all->vm = znl_vm_of(L);
    luaL_getmetatable(L, TIMERS_TYPE);
    lua_setmetatable(L, -2);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&timers_key);
    lua_pushvalue(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    all->tables_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    for (const luaL_Reg *f = functions; f->name != NULL; f++) {
        lua_pushvalue(L, -1);
        lua_pushcclosure(L, f->func, 1);
        lua_setfield(L, -3, f->name);
    }
    lua_pop(L, 1);
    return 1;
}
