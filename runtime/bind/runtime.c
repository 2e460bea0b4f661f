/* runtime.c - znl.core.runtime: versions, stopping, and what keeps the process running.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/err.h"
#include "bind/bind.h"
#include "transport/loop.h"
#include "vm/sched.h"
#include "vm/traceback.h"
#include "vm/watchdog.h"

#include <luajit.h>
#include <openssl/crypto.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#define RUNTIME_TYPE "znl.core.runtime"

typedef struct runtime {
    znl_vm *vm;
    int functions_ref; /* number -> function of on_stop */
    int last_number;
    size_t count;   /* functions in it */
    size_t running; /* that have not ended; one more while they are being started */
    int is_stopping;
    int hangup_ref; /* function of on_hangup */
    int is_late;    /* the functions for the end run, those before them have ended */
    void (*finished)(void *user);
    void *finished_user;
    void (*exited)(void *user, int code);
    void *exited_user;
    uv_async_t *hold; /* an open handle keeps the loop alive; NULL: none */
    unsigned hold_count;
} runtime;

static const char key; /* its address names the state in the registry */
static const char *program_version = "unknown";

static runtime *runtime_of(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)&key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    runtime *r = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return r;
}

/* --- versions ----------------------------------------------------------------------------- */

static uint32_t program_drain_ms;

void znl_bind_set_drain_ms(uint32_t drain_ms)
{
    program_drain_ms = drain_ms;
}

/* drain_ms() -> time a stopping process has before it ends in any case */
static int runtime_drain_ms(lua_State *L)
{
    lua_pushnumber(L, program_drain_ms);
    return 1;
}

void znl_bind_set_version(const char *version)
{
    program_version = version;
}

struct library {
    char name[16];
    char version[32];
};

static int get_library(unsigned index, struct library *library)
{
    int major = 0, minor = 0, patch = 0;
    const char *version = NULL;
    char text[32];
    switch (index) {
    case 0:
        strcpy(library->name, "luajit");
        version = &LUAJIT_VERSION[strlen("LuaJIT ")];
        break;
    case 1:
        strcpy(library->name, "libuv");
        version = uv_version_string();
        break;
    case 2:
        strcpy(library->name, "libzmq");
        zmq_version(&major, &minor, &patch);
        snprintf(text, sizeof text, "%d.%d.%d", major, minor, patch);
        version = text;
        break;
    case 3:
        strcpy(library->name, "libsodium");
        version = sodium_version_string();
        break;
    case 4:
        strcpy(library->name, "libcrypto");
        version = OpenSSL_version(OPENSSL_VERSION_STRING);
        break;
    default:
        return 0;
    }
    snprintf(library->version, sizeof library->version, "%s", version);
    return 1;
}

const char *znl_bind_library_version(unsigned index)
{
    static char text[sizeof(struct library) + 1];
    struct library library;
    if (!get_library(index, &library))
        return NULL;
    snprintf(text, sizeof text, "%s %s", library.name, library.version);
    return text;
}

static void push_versions(lua_State *L)
{
    struct library library;
    lua_newtable(L);
    lua_pushstring(L, program_version);
    lua_setfield(L, -2, "znlrun");
    for (unsigned i = 0; get_library(i, &library); i++) {
        lua_pushstring(L, library.version);
        lua_setfield(L, -2, library.name);
    }
}

/* --- stopping ----------------------------------------------------------------------------- */

static int run_late(lua_State *L);

static void one_less(runtime *r)
{
    if (--r->running > 0)
        return;
    if (!r->is_late) {
        r->is_late = 1;
        r->running++; /* as in znl_runtime_stop() */
        znl_vm_protect(r->vm, run_late, r, "runtime");
        one_less(r);
    } else if (r->finished != NULL) {
        r->finished(r->finished_user);
    }
}

static void on_stop_done(void *user, lua_State *L, int status, int nresults)
{
    runtime *r = user;
    (void)nresults;
    if (status != 0) {
        size_t size = 0;
        const char *text = lua_tolstring(L, 1, &size);
        znl_log_field field = {"error", text != NULL ? text : "", size, 0};
        znl_log_write(ZNL_LOG_ERROR, "runtime", "an on_stop function failed", &field, 1);
    }
    one_less(r);
}

/* Takes the function at the top. */
static void run_one(lua_State *L, runtime *r)
{
    r->running++;
    int err = znl_sched_spawn(L, 0, NULL, on_stop_done, r);
    if (err == 0)
        return;
    znl_log_field field = {"error", znl_err_text(err), strlen(znl_err_text(err)), 0};
    znl_log_write(ZNL_LOG_ERROR, "runtime", "an on_stop function could not run", &field, 1);
    one_less(r);
}

/* Late functions have negative numbers. */
static int run_all(lua_State *L, int sign)
{
    runtime *r = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->functions_ref);
    for (int number = r->last_number; number > 0; number--) {
        lua_rawgeti(L, 2, sign * number); /* each time: one may have removed another */
        if (lua_isfunction(L, -1))
            run_one(L, r);
        else
            lua_pop(L, 1);
    }
    return 0;
}

static int run_first(lua_State *L)
{
    return run_all(L, 1);
}

static int run_late(lua_State *L)
{
    return run_all(L, -1);
}

size_t znl_runtime_stop_count(znl_vm *vm)
{
    return runtime_of(vm->L)->count;
}

void znl_runtime_stop(znl_vm *vm, void (*finished)(void *user), void *user)
{
    runtime *r = runtime_of(vm->L);
    if (r->is_stopping)
        return;
    r->is_stopping = 1;
    r->finished = finished;
    r->finished_user = user;
    r->running++; /* for the loop over them: none may be the last before all have begun */
    znl_vm_protect(vm, run_first, r, "runtime");
    one_less(r);
}

void znl_runtime_on_exit(znl_vm *vm, void (*exited)(void *user, int code), void *user)
{
    runtime *r = runtime_of(vm->L);
    r->exited = exited;
    r->exited_user = user;
}

static int remove_stop(lua_State *L)
{
    runtime *r = runtime_of(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->functions_ref);
    lua_rawgeti(L, -1, (int)lua_tointeger(L, lua_upvalueindex(1)));
    if (lua_isnil(L, -1))
        return 0;
    lua_pop(L, 1);
    lua_pushnil(L);
    lua_rawseti(L, -2, (int)lua_tointeger(L, lua_upvalueindex(1)));
    r->count--;
    return 0;
}

/* on_stop(fn, is_late) -> remove. fn() runs in a task on the first SIGINT or SIGTERM, or on exit(),
 * newest first; a late one when all others have ended; at once when that has happened. remove()
 * takes it back. */
static int runtime_on_stop(lua_State *L)
{
    znl_lua_check_main(L, "on_stop");
    runtime *r = runtime_of(L);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    int is_late = lua_toboolean(L, 2);
    int number = is_late ? -(r->last_number + 1) : r->last_number + 1;
    lua_settop(L, 1);
    lua_pushinteger(L, number);
    lua_pushcclosure(L, remove_stop, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->functions_ref);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, number);
    r->last_number++;
    r->count++;
    lua_pop(L, 1);
    if (is_late ? r->is_late : r->is_stopping) {
        lua_pushvalue(L, 1);
        run_one(L, r);
    }
    return 1;
}

/* on_hangup(fn|nil): fn() runs in a task at each SIGHUP, which then does not end the process */
static int runtime_on_hangup(lua_State *L)
{
    znl_lua_check_main(L, "on_hangup");
    runtime *r = runtime_of(L);
    if (!lua_isnoneornil(L, 1))
        luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    int ref = lua_isnil(L, 1) ? LUA_NOREF : luaL_ref(L, LUA_REGISTRYINDEX);
    luaL_unref(L, LUA_REGISTRYINDEX, r->hangup_ref);
    r->hangup_ref = ref;
    return 0;
}

static int run_hangup(lua_State *L)
{
    const runtime *r = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->hangup_ref);
    int err = znl_sched_spawn(L, 0, NULL, NULL, NULL);
    return err == 0 ? 0 : luaL_error(L, "%s", znl_err_text(err));
}

int znl_runtime_hangup(znl_vm *vm)
{
    runtime *r = runtime_of(vm->L);
    if (r->hangup_ref == LUA_NOREF || r->is_stopping)
        return 0;
    znl_vm_protect(vm, run_hangup, r, "runtime.on_hangup");
    return 1;
}

/* stopping() -> true once the process is about to end */
static int runtime_stopping(lua_State *L)
{
    lua_pushboolean(L, runtime_of(L)->is_stopping);
    return 1;
}

/* exit(code|nil): runs the on_stop functions and ends the process with that code. It does not
 * return, except outside of a task. */
static int runtime_exit(lua_State *L)
{
    znl_lua_check_main(L, "exit");
    runtime *r = runtime_of(L);
    uint32_t code = lua_isnoneornil(L, 1) ? 0 : znl_lua_checku32(L, 1, "code", 0, 255);
    if (r->exited != NULL)
        r->exited(r->exited_user, (int)code);
    if (!znl_sched_is_task(L))
        return 0;
    znl_sched_park(L); /* and nobody will wake it */
    return lua_yield(L, 0);
}

/* --- keeping the process running ---------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    znl_free(handle);
}

static void drop_hold(runtime *r)
{
    if (r->hold != NULL) {
        znl_loop_idle_handle(r->vm->loop, -1);
        uv_close((uv_handle_t *)r->hold, on_closed);
    }
    r->hold = NULL;
    r->hold_count = 0;
}

/* hold() -> true | nil, message, code: the process runs on, even with nothing to do, until
 * unhold() was called as often */
static int runtime_hold(lua_State *L)
{
    runtime *r = runtime_of(L);
    if (r->hold == NULL) {
        uv_async_t *hold = znl_calloc(1, sizeof *hold);
        if (hold == NULL)
            return znl_lua_fail(L, ZNL_E_NOMEM, "hold");
        int code = uv_async_init(znl_loop_uv(r->vm->loop), hold, NULL);
        if (code != 0) {
            znl_free(hold);
            return znl_lua_fail(L, znl_err_from_uv(code), "hold");
        }
        r->hold = hold;
        znl_loop_idle_handle(r->vm->loop, 1);
    }
    r->hold_count++;
    lua_pushboolean(L, 1);
    return 1;
}

static int runtime_unhold(lua_State *L)
{
    runtime *r = runtime_of(L);
    if (r->hold_count > 0 && --r->hold_count == 0)
        drop_hold(r);
    return 0;
}

/* --- counters ----------------------------------------------------------------------------- */

static void set_number(lua_State *L, const char *name, lua_Number value)
{
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

/* counters() -> table of numbers */
static int runtime_counters(lua_State *L)
{
    runtime *r = runtime_of(L);
    lua_newtable(L);
    set_number(L, "tasks", (lua_Number)znl_sched_task_count(r->vm->sched));
    set_number(L, "pooled_coroutines", (lua_Number)znl_sched_pooled_count(r->vm->sched));
    set_number(L, "timers", (lua_Number)znl_loop_wheel(r->vm->loop)->count);
    set_number(L, "interrupted", (lua_Number)znl_watchdog_count(r->vm));
    set_number(L, "log_lost", (lua_Number)znl_log_lost());
    set_number(L, "lua_bytes",
            (lua_Number)lua_gc(L, LUA_GCCOUNT, 0) * 1024 + lua_gc(L, LUA_GCCOUNTB, 0));
    return 1;
}

/* --- tracebacks -------------------------------------------------------------------------- */

/* loaded(path): the code in service was loaded from this file as it is now, so tracebacks may
 * show its lines until it changes */
static int runtime_loaded(lua_State *L)
{
    luaL_argcheck(L, lua_type(L, 1) == LUA_TSTRING, 1, "path must be a string");
    znl_traceback_loaded(runtime_of(L)->vm, lua_tostring(L, 1));
    return 0;
}

/* --- the watchdog ------------------------------------------------------------------------- */

/* watchdog_ms() -> budget; 0: off
 * watchdog_ms(budget) -> true | nil, message, code: 0 turns it off */
static int runtime_watchdog_ms(lua_State *L)
{
    znl_vm *vm = runtime_of(L)->vm;
    if (lua_isnoneornil(L, 1)) {
        lua_pushnumber(L, znl_watchdog_budget_ms(vm));
        return 1;
    }
    uint32_t budget_ms = znl_lua_checku32(L, 1, "budget_ms", 0, ZNL_WATCHDOG_MS_MAX);
    int err = znl_watchdog_set(vm, budget_ms);
    if (err != 0)
        return znl_lua_fail(L, err, "watchdog_ms");
    lua_pushboolean(L, 1);
    return 1;
}

/* --- module ------------------------------------------------------------------------------- */

static int runtime_gc(lua_State *L)
{
    drop_hold(lua_touserdata(L, 1));
    return 0;
}

void znl_runtime_prepare(lua_State *L)
{
    static const luaL_Reg no_methods[] = {{NULL, NULL}};
    znl_lua_newtype(L, RUNTIME_TYPE, no_methods, runtime_gc);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&key);
    runtime *r = lua_newuserdata(L, sizeof *r);
    memset(r, 0, sizeof *r);
    r->vm = znl_vm_of(L);
    r->functions_ref = r->hangup_ref = LUA_NOREF;
    luaL_getmetatable(L, RUNTIME_TYPE);
    lua_setmetatable(L, -2);
    lua_newtable(L);
    r->functions_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

int luaopen_znl_core_runtime(lua_State *L)
{
    static const luaL_Reg functions[] = {
            {"on_stop", runtime_on_stop},
            {"on_hangup", runtime_on_hangup},
            {"stopping", runtime_stopping},
            {"exit", runtime_exit},
            {"hold", runtime_hold},
            {"unhold", runtime_unhold},
            {"counters", runtime_counters},
            {"loaded", runtime_loaded},
            {"watchdog_ms", runtime_watchdog_ms},
            {"drain_ms", runtime_drain_ms},
            {NULL, NULL},
    };
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    push_versions(L);
    lua_setfield(L, -2, "version");
    return 1;
}
