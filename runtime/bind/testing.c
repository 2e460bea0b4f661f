/* testing.c - znl.core.testing: a clock that stands still, and faults of sim:// links.
 *
 * For tests: the clock is that of the whole process. Layer: bind. SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* memfd_create */
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/bind.h"
#include "transport/endpoint.h"
#include "transport/link_sim.h"
#include "vm/sched.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define ADVANCE_MS_MAX 3600000000u /* 41 days */
#define UNIX_MS_MAX                                                                            \
    8640000000000000.0 /* the last day of ECMAScript, for want of a better one */

#define LOG_BYTES (256 * 1024) /* kept of the log of one test; the rest is lost, and counted */

static const char key; /* its address names the state in the registry */

typedef struct testing {
    znl_vm *vm;
    znl_wait advance; /* who waits for advance() */
    int log_fd;       /* where the log goes meanwhile; -1: where it always goes */
} testing;

static testing *state_of(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)&key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    testing *t = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return t;
}

/* --- the clock ---------------------------------------------------------------------------- */

static void check_frozen(lua_State *L, const char *what)
{
    if (!znl_clock_is_frozen())
        luaL_error(L, "testing.%s: the clock runs; testing.freeze() comes first", what);
}

/* freeze(unix_ms|nil): the clocks stand still; the wall clock at unix_ms */
static int testing_freeze(lua_State *L)
{
    int64_t unix_ms = -1;
    if (!lua_isnoneornil(L, 1)) {
        lua_Number value = luaL_checknumber(L, 1);
        if (!(value >= 0 && value <= UNIX_MS_MAX && floor(value) == value))
            return luaL_error(L, "unix_ms must be a whole number in 0..%f", UNIX_MS_MAX);
        unix_ms = (int64_t)value;
    }
    znl_clock_freeze(unix_ms);
    znl_loop_clock_changed(state_of(L)->vm->loop);
    return 0;
}

/* thaw(): the clocks run again */
static int testing_thaw(lua_State *L)
{
    znl_loop *loop = state_of(L)->vm->loop;
    znl_loop_auto_advance(loop, 0);
    znl_clock_thaw();
    znl_loop_clock_changed(loop);
    return 0;
}

static int testing_is_frozen(lua_State *L)
{
    lua_pushboolean(L, znl_clock_is_frozen());
    return 1;
}

static void on_arrived(void *user)
{
    testing *t = user;
    znl_wait wait = t->advance;
    t->advance = (znl_wait){0};
    znl_sched_wake(t->vm->sched, wait, NULL, NULL);
}

/* advance(ms): moves the clocks, deadline by deadline; returns once the loop is quiet. Yields. */
static int testing_advance(lua_State *L)
{
    testing *t = state_of(L);
    uint32_t ms = znl_lua_checku32(L, 1, "ms", 0, ADVANCE_MS_MAX);
    check_frozen(L, "advance");
    znl_wait wait = znl_sched_park(L);
    if (!znl_sched_waits(t->vm->sched, t->advance))
        znl_loop_stop_advance(t->vm->loop); /* who waited for that is gone */
    int err = znl_loop_advance(t->vm->loop, ms, on_arrived, t);
    if (err != 0)
        return luaL_error(L, "testing.advance: another task is moving the clock");
    t->advance = wait;
    return lua_yield(L, 0);
}

/* auto(on): whether the clocks move to the next deadline whenever everything waits */
static int testing_auto(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TBOOLEAN);
    if (lua_toboolean(L, 1))
        check_frozen(L, "auto");
    znl_loop_auto_advance(state_of(L)->vm->loop, lua_toboolean(L, 1));
    return 0;
}

/* --- faults ------------------------------------------------------------------------------- */

static const char *check_endpoint(lua_State *L, int idx)
{
    znl_frame text = znl_lua_checkframe(L, idx, "endpoint", ZNL_ENDPOINT_BYTES_MAX - 1);
    return (const char *)text.data;
}

static znl_frame check_peer(lua_State *L, int idx)
{
    if (lua_isnoneornil(L, idx))
        return znl_frame_of(NULL, 0);
    return znl_lua_checkframe(L, idx, "peer", ZNL_ID_BYTES_MAX);
}

static int outcome(lua_State *L, int err, const char *what)
{
    if (err == ZNL_E_ADDRESS)
        return luaL_error(L, "testing.%s: endpoint must be sim://name", what);
    if (err != 0)
        return znl_lua_fail(L, err, what);
    lua_pushboolean(L, 1);
    return 1;
}

static uint32_t get_u32(lua_State *L, int idx, const char *name, uint32_t max)
{
    uint32_t value = 0;
    lua_getfield(L, idx, name);
    if (!lua_isnil(L, -1))
        value = znl_lua_checku32(L, lua_gettop(L), name, 0, max);
    lua_pop(L, 1);
    return value;
}

/* faults(endpoint, { drop_permille, delay_ms, jitter_ms, seed }) -> true | nil, message, code */
static int testing_faults(lua_State *L)
{
    const char *endpoint = check_endpoint(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    znl_sim_faults faults = {
            .drop_permille = get_u32(L, 2, "drop_permille", 1000),
            .delay_ms = get_u32(L, 2, "delay_ms", ZNL_TIMEOUT_MS_MAX),
            .jitter_ms = get_u32(L, 2, "jitter_ms", ZNL_TIMEOUT_MS_MAX),
            .seed = get_u32(L, 2, "seed", UINT32_MAX),
    };
    return outcome(L, znl_sim_set_faults(state_of(L)->vm->loop, endpoint, &faults), "faults");
}

/* partition(endpoint, on, peer|nil) -> true | nil, message, code */
static int testing_partition(lua_State *L)
{
    const char *endpoint = check_endpoint(L, 1);
    luaL_checktype(L, 2, LUA_TBOOLEAN);
    znl_frame peer = check_peer(L, 3);
    return outcome(L,
            znl_sim_partition(state_of(L)->vm->loop, endpoint, peer, lua_toboolean(L, 2)),
            "partition");
}

/* disconnect(endpoint, peer|nil) -> connections ended */
static int testing_disconnect(lua_State *L)
{
    const char *endpoint = check_endpoint(L, 1);
    znl_frame peer = check_peer(L, 2);
    lua_pushnumber(L, (lua_Number)znl_sim_disconnect(state_of(L)->vm->loop, endpoint, peer));
    return 1;
}

/* reset(): no link has faults any more */
static int testing_reset(lua_State *L)
{
    znl_sim_reset(state_of(L)->vm->loop);
    return 0;
}

/* --- the log ------------------------------------------------------------------------------ */

/* A file in memory that cannot grow. */
static int open_log(void)
{
    int fd = memfd_create("znlrun-log", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 &&
            (ftruncate(fd, LOG_BYTES) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) != 0)) {
        int number = errno;
        close(fd);
        errno = number;
        fd = -1;
    }
    return fd;
}

/* divert_log(on) -> true | nil, message, code: keeps the log back, for take_log() */
static int testing_divert_log(lua_State *L)
{
    testing *t = state_of(L);
    luaL_checktype(L, 1, LUA_TBOOLEAN);
    int on = lua_toboolean(L, 1);
    if (on && t->log_fd < 0) {
        t->log_fd = open_log();
        if (t->log_fd < 0)
            return znl_lua_fail(L, znl_err_from_errno(errno), "divert_log");
        znl_log_divert(t->log_fd);
    } else if (!on && t->log_fd >= 0) {
        znl_log_divert(STDERR_FILENO);
        close(t->log_fd);
        t->log_fd = -1;
    }
    lua_pushboolean(L, 1);
    return 1;
}

/* take_log() -> what was written since the last call */
static int testing_take_log(lua_State *L)
{
    testing *t = state_of(L);
    off_t size = t->log_fd >= 0 ? lseek(t->log_fd, 0, SEEK_CUR) : 0;
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    for (off_t at = 0; at < size;) {
        char *bytes = luaL_prepbuffer(&buffer);
        size_t want = size - at < LUAL_BUFFERSIZE ? (size_t)(size - at) : LUAL_BUFFERSIZE;
        ssize_t got = pread(t->log_fd, bytes, want, at);
        if (got <= 0)
            break;
        luaL_addsize(&buffer, (size_t)got);
        at += got;
    }
    luaL_pushresult(&buffer);
    if (t->log_fd >= 0)
        lseek(t->log_fd, 0, SEEK_SET);
    return 1;
}

/* end_thread(): ends the thread of this worker at once, as a broken C library might */
static int testing_end_thread(lua_State *L)
{
    if (!znl_lua_in_worker(L))
        return luaL_error(L, "testing.end_thread works in a worker thread only");
    pthread_exit(NULL);
}

int luaopen_znl_core_testing(lua_State *L)
{
    static const luaL_Reg functions[] = {
            {"freeze", testing_freeze},
            {"thaw", testing_thaw},
            {"is_frozen", testing_is_frozen},
            {"advance", testing_advance},
            {"auto", testing_auto},
            {"faults", testing_faults},
            {"partition", testing_partition},
            {"disconnect", testing_disconnect},
            {"reset", testing_reset},
            {"divert_log", testing_divert_log},
            {"take_log", testing_take_log},
            {"end_thread", testing_end_thread},
            {NULL, NULL},
    };
    lua_pushlightuserdata(L, (void *)(uintptr_t)&key);
    testing *t = lua_newuserdata(L, sizeof *t);
    *t = (testing){.vm = znl_vm_of(L), .log_fd = -1};
    lua_rawset(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
