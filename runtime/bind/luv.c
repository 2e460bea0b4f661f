/* luv.c - luv, the libuv binding for scripts, on our loop.
 *
 * luv calls back through one function, given here: it starts a task, so a callback may wait,
 * and what it raises is logged. Scripts get it through lua/luv.lua. What cannot work on a loop that is not luv's own is taken out.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/clock.h"
#include "base/err.h"
#include "bind/bind.h"
#include "transport/loop.h"
#include "vm/sched.h"

/* As in luv.h, which cannot be included: it looks for the headers of another Lua. */
typedef int (*luv_CFpcall)(lua_State *L, int nargs, int nresults, int flags);
void luv_set_loop(lua_State *L, uv_loop_t *loop);
void luv_set_callback(lua_State *L, luv_CFpcall pcall);
int luaopen_luv(lua_State *L);

static const char entry_key; /* its address names the entry in the registry */

/* (function, arguments...): in the background of the version of code the function belongs to. When that
 * has ended it runs for nobody: `on_unload` may wait for it. */
static int start_task(lua_State *L)
{
    znl_spawn how = {.kind = ZNL_TASK_BACKGROUND, .owner = znl_lua_ownerof(L, 1)};
    if (how.owner == NULL || znl_owner_has_ended(how.owner))
        how = (znl_spawn){0};
    int err = znl_sched_spawn_as(L, lua_gettop(L) - 1, &how);
    return err == 0 ? 0 : luaL_error(L, "%s", znl_err_text(err));
}

/* What start_task becomes when the state is about to close. */
static int start_nothing(lua_State *L)
{
    (void)L;
    return 0;
}

static void log_error(lua_State *L)
{
    size_t size = 0;
    const char *text = lua_tolstring(L, -1, &size);
    znl_log_field field = {"error", text != NULL ? text : "", text != NULL ? size : 0, 0};
    znl_log_write(ZNL_LOG_ERROR, "luv", "callback failed", &field, 1);
}

/* Contract in luv.h: takes the function and its arguments, leaves `nresults` or nothing;
 * returns how many, or the negated status. */
static int on_callback(lua_State *L, int nargs, int nresults, int flags)
{
    znl_sched *sched = znl_vm_of(L)->sched;
    int base = lua_gettop(L) - nargs - 1;
    (void)flags;
    znl_sched_enter(sched);
    if (nresults == 0) {
        lua_pushlightuserdata(L, (void *)(uintptr_t)&entry_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
        lua_insert(L, base + 1);
        nargs++;
    }
    int status = lua_pcall(L, nargs, nresults, 0);
    if (status != 0) {
        log_error(L);
        lua_settop(L, base);
    }
    znl_sched_leave(sched, status);
    return status == 0 ? lua_gettop(L) - base : -status;
}

/* upvalue 1: the name of the function */
static int not_here(lua_State *L)
{
    return luaL_error(L, "uv.%s is not available: the loop belongs to znlrun",
            lua_tostring(L, lua_upvalueindex(1)));
}

/* A handler of libuv's would take the signal from the process. */
static int not_in_worker(lua_State *L)
{
    znl_lua_check_main(L, "uv.new_signal");
    return 0; /* not reached */
}

static int open_luv(lua_State *L)
{
    /* run and loop_close: the loop runs already. walk: it would take our handles for its own.
     */
    static const char *const missing[] = {"run", "stop", "loop_close", "walk"};
    lua_settop(L, 0);
    luaopen_luv(L);
    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++) {
        lua_pushstring(L, missing[i]);
        lua_pushcclosure(L, not_here, 1);
        lua_setfield(L, 1, missing[i]);
    }
    if (znl_lua_in_worker(L)) {
        lua_pushcfunction(L, not_in_worker);
        lua_setfield(L, 1, "new_signal");
    }
    return 1;
}

void znl_bind_luv_open(lua_State *L)
{
    znl_vm *vm = znl_vm_of(L);
    static const luaL_Reg modules[] = {{"luv.raw", open_luv}, {NULL, NULL}};
    lua_pushlightuserdata(L, (void *)(uintptr_t)&entry_key);
    lua_pushcfunction(L, start_task);
    lua_rawset(L, LUA_REGISTRYINDEX);
    /* On the main state: luv keeps what it is given here to call back on. */
    luv_set_loop(vm->L, znl_loop_uv(vm->loop));
    luv_set_callback(vm->L, on_callback);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    luaL_register(L, NULL, modules);
    lua_pop(L, 2);
}

/* --- closing ------------------------------------------------------------------------------ */

/* Leaves an array of the handles luv knows at the top; luv's registry table "uv_handle" has
 * their metatables as keys. */
static int collect_handles(lua_State *L)
{
    lua_newtable(L);
    int list = lua_gettop(L);
    int count = 0;
    lua_getfield(L, LUA_REGISTRYINDEX, "uv_handle");
    if (!lua_istable(L, -1)) {
        lua_settop(L, list);
        return 0; /* luv was never opened */
    }
    for (lua_pushnil(L); lua_next(L, LUA_REGISTRYINDEX) != 0; lua_pop(L, 1)) {
        if (lua_type(L, -1) != LUA_TUSERDATA || !lua_getmetatable(L, -1))
            continue;
        lua_rawget(L, list + 1);
        int is_handle = lua_toboolean(L, -1);
        lua_pop(L, 1);
        if (is_handle) {
            lua_pushvalue(L, -1);
            lua_rawseti(L, list, ++count);
        }
    }
    lua_settop(L, list);
    return count;
}

struct closing {
    int left;
};

static int close_handles(lua_State *L)
{
    struct closing *closing = lua_touserdata(L, 1);
    closing->left = collect_handles(L);
    for (int i = 1; i <= closing->left; i++) {
        lua_rawgeti(L, 2, i);
        uv_handle_t *const *handle = lua_touserdata(L, -1);
        if (*handle != NULL && !uv_is_closing(*handle)) {
            lua_getfield(L, -1, "close");
            lua_pushvalue(L, -2);
            lua_call(L, 1, 0);
        }
        lua_pop(L, 1);
    }
    return 0;
}

static int mute(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)&entry_key);
    lua_pushcfunction(L, start_nothing);
    lua_rawset(L, LUA_REGISTRYINDEX);
    return 0;
}

int znl_bind_luv_close(znl_vm *vm, uint32_t wait_ms)
{
    uv_loop_t *uv = znl_loop_uv(vm->loop);
    uint64_t deadline_ms = znl_clock_mono_ms() + wait_ms;
    struct closing closing = {0};
    znl_sched_drop_all(vm->sched);
    znl_vm_protect(vm, mute, NULL, "luv");
    for (;;) {
        if (znl_vm_protect(vm, close_handles, &closing, "luv") != 0)
            return ZNL_E_NOMEM;
        if (closing.left == 0 && uv->active_reqs.count == 0)
            return 0;
        uv_run(uv, UV_RUN_NOWAIT);
        if (znl_clock_mono_ms() >= deadline_ms)
            return ZNL_E_TIMEOUT;
        if (uv->active_reqs.count > 0)
            uv_sleep(1);
    }
}
