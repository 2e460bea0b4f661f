/* bind_sched_test.c - znl.core.sched, token and timer when memory runs out at any point: nothing stays
 * behind, and no task is forgotten. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/log.h"
#include "bind/bind.h"
#include "transport/loop.h"
#include "vm/sched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char *const owners =
        "local sched = require('znl.core.sched')\n"
        "local owner = assert(sched.owner())\n"
        "local handle = {ended = function(_, ok, text) result = (result or '') .. tostring(ok) end}\n"
        "owner:on_idle(function() idle = true end)\n"
        "sched.start(handle, owner, function() sched.sleep(long_ms) end)\n"
        "sched.start(handle, nil, function()\n"
        "    assert(sched.become(owner))\n"
        "    assert(sched.current_owner() == owner)\n"
        "    local entry = {}\n"
        "    sched.spawn(function() sched.sleep(1) sched.unpark(entry) end)\n"
        "    sched.park(entry, long_ms, 'task')\n"
        "    owner:cut('why')\n"
        "end)\n"
        "for _ = 1, 30 do\n" /* turns of the loop, however long they take */
        "    if result then break end\n"
        "    sched.sleep(1)\n"
        "end\n"
        "owner:cut('in case the other did not')\n";

static const char *const tokens =
        "local sched, token = require('znl.core.sched'), require('znl.core.token')\n"
        "local top = assert(token.new(nil, long_ms))\n"
        "local other = assert(token.new())\n"
        "local child = assert(token.join(assert(token.new(top)), other))\n"
        "child:on_cancel(function() result = (result or '') .. 'heard' end)\n"
        "child:on_cancel(function() end)()\n"
        "sched.spawn(function()\n"
        "    local before, shielded = token.enter(child)\n"
        "    assert(token.current() == child)\n"
        "    local _, _, code = sched.sleep(long_ms)\n"
        "    token.enter(before, shielded)\n"
        "    result = (result or '') .. code\n"
        "end)\n"
        "other:cancel('enough')\n"
        "sched.sleep(2)\n";

/* Interpreted: the compiler of LuaJIT 2.1.0-beta3 crashes when memory runs out while it records, and
 * the loop below is long enough for it to begin. */
static const char *const timers =
        "jit.off()\n"
        "local timer = require('znl.core.timer')\n"
        "local sched = require('znl.core.sched')\n"
        "local id\n"
        "id = assert(timer.start(function(arg) result = arg timer.stop(id) end, 'ticked', 1, 1,\n"
        "    assert(sched.owner())))\n"
        "for i = 1, 300 do assert(timer.start(function() sched.sleep(0) end, nil, i % 3)) end\n"
        "timer.stop(timer.start(function() end, nil, 60000))\n"
        "sched.sleep(5)\n";

struct run {
    const char *chunk;
    int status; /* of the main task; -1: it never began */
    unsigned ended;
};

static void on_done(void *user, lua_State *L, int status, int nresults)
{
    struct run *run = user;
    (void)L;
    (void)nresults;
    run->status = status;
    run->ended++;
}

static int start(lua_State *L)
{
    struct run *run = lua_touserdata(L, 1);
    znl_spawn how = {.done = on_done, .user = run};
    if (luaL_loadbuffer(L, run->chunk, strlen(run->chunk), "@test.lua") != 0)
        return lua_error(L);
    if (znl_sched_spawn_as(L, 0, &how) == 0)
        run->status = run->ended > 0 ? run->status : 0;
    return 0;
}

static int open_all(lua_State *L)
{
    znl_bind_open_all(L);
    return 0;
}

/* Runs the chunk with the n-th allocation failing, and all after it while the chunk runs. What
 * should be cut short would otherwise take `long_ms`. */
static long run_failing(const char *chunk, long n, int long_ms, char *result, size_t size)
{
    znl_loop *loop = NULL;
    znl_vm *vm = NULL;
    struct run run = {chunk, -1, 0};
    assert_int_equal(znl_loop_new(&loop), 0);
    assert_int_equal(znl_vm_new(&vm, loop), 0);
    assert_int_equal(znl_vm_protect(vm, open_all, NULL, "test"), 0);
    lua_pushinteger(vm->L, long_ms);
    lua_setglobal(vm->L, "long_ms");
    znl_alloc_fail_after(n);
    znl_vm_protect(vm, start, &run, "test");
    /* Memory comes back, so that nothing waits for ever; what had failed must not hurt now. */
    long used = znl_alloc_count();
    if (n >= 0 && used > n)
        znl_alloc_fail_after(-1);
    znl_loop_run(loop);
    if (znl_alloc_count() > used)
        used = znl_alloc_count();
    znl_alloc_fail_after(-1);
    assert_int_equal(znl_sched_task_count(vm->sched), 0);
    assert_true(run.status == -1 || run.ended == 1);
    assert_int_equal(znl_loop_wheel(loop)->count, 0);
    lua_getglobal(vm->L, "result");
    const char *text = lua_tostring(vm->L, -1);
    snprintf(result, size, "%s", text != NULL ? text : "");
    lua_pop(vm->L, 1);
    znl_vm_free(vm);
    assert_int_equal(znl_loop_close(loop), 0);
    return used;
}

static void fail_each(const char *chunk, const char *expected)
{
    char result[100];
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    for (long n = 0;; n++) {
        long used = run_failing(chunk, n, 20, result, sizeof result);
        if (used <= n)
            break;
    }
    run_failing(chunk, -1, 10000, result, sizeof result); /* a busy machine may take its time */
    assert_string_equal(result, expected);
}

static void owners_survive_each_failing_allocation(void **state)
{
    (void)state;
    fail_each(owners, "truenil");
}

static void tokens_survive_each_failing_allocation(void **state)
{
    (void)state;
    fail_each(tokens, "CANCELLEDheard");
}

static void timers_survive_each_failing_allocation(void **state)
{
    (void)state;
    fail_each(timers, "ticked");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(owners_survive_each_failing_allocation),
            cmocka_unit_test(tokens_survive_each_failing_allocation),
            cmocka_unit_test(timers_survive_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
