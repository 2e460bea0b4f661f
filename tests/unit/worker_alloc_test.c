/* worker_alloc_test.c - calls to a worker thread, with each allocation failing in turn, ours and
 * Lua's, in both threads: every call comes to an end, and nothing hangs or is freed twice.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "bind/bind.h"
#include "transport/loop.h"
#include "vm/worker.h"

#include <string.h>

/* A thread that died of a panic leaves its state and loop behind, on purpose (worker.h). */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:run_thread\n";
}

/* What `require "znl.workers.worker"` finds in the thread. */
static const char inside[] =
        "local workers, sched = require('znl.core.workers'), require('znl.core.sched')\n"
        "local cancelled = {}\n"
        "workers.serve(function(ticket, op, ...)\n"
        "  if op == 'echo' then return ... end\n"
        "  if op == 'fail' then error('as told') end\n"
        "  if op == 'print' then return print end\n"
        "  if op == 'note' then return workers.note('noted', ...) end\n"
        "  if op == 'sleep' then\n"
        "    while not cancelled[ticket] do sched.sleep(1) end\n"
        "    workers.note('cancelled')\n"
        "  end\n"
        "end, function(ticket) cancelled[ticket] = true end)\n";

static const char scenario[] =
        "local workers, sched = require('znl.core.workers'), require('znl.core.sched')\n"
        "local ended, notes = sched.event(), {}\n"
        "local w = assert(workers.start('test', 4, function(kind, value)\n"
        "  notes[#notes + 1] = kind\n"
        "end, function(code, text, left) ended:set(code or 'stopped', left) end))\n"
        "local function call(...)\n"
        "  local ticket = assert(w:send(...))\n"
        "  return w:wait(ticket)\n"
        "end\n"
        "local ok, a, b = call('echo', { 1, { x = 'y' } }, ('z'):rep(1000))\n"
        "assert(ok and a[2].x == 'y' and #b == 1000)\n"
        "local text\n"
        "ok, text = call('fail')\n"
        "assert(ok == false and text:find('as told', 1, true))\n"
        "ok, text = call('print')\n"
        "assert(ok == false and text:find('a function', 1, true))\n"
        "assert(call('note', 5) == true)\n"
        /* More than the queue holds; the last first. */
        "local tickets = {}\n"
        "for i = 1, 20 do tickets[i] = assert(w:send('echo', i)) end\n"
        "for i = 20, 1, -1 do\n"
        "  local done, value = w:wait(tickets[i])\n"
        "  assert(done == true and value == i)\n"
        "end\n"
        "local sleeper = assert(w:send('sleep'))\n"
        "local forgotten = assert(w:send('echo'))\n"
        "w:forget(forgotten)\n"
        "sched.sleep(2)\n"
        "w:cancel(sleeper)\n"
        "while notes[2] ~= 'cancelled' do\n"
        "  sched.sleep(1)\n"
        "  if ended:is_set() then break end\n"
        "end\n"
        "local stuck = assert(w:send('sleep'))\n"
        "w:stop()\n"
        "local _, _, code = w:wait(stuck)\n"
        "assert(code == 'STOPPED', code)\n"
        "assert(ended:wait(5000) == 'stopped')\n"
        "assert(notes[1] == 'noted')\n"
        "assert(w:pending() == 0)\n"
        "assert(w:close(0))\n";

static struct {
    znl_loop *loop;
    znl_timer guard;
    int clean;
    int says_why; /* prints what went wrong: nothing may, without failing allocations */
} run;

static int preload_inside(lua_State *L)
{
    if (luaL_loadbuffer(L, inside, sizeof inside - 1, "=inside") != 0)
        return lua_error(L);
    lua_call(L, 0, 0);
    return 0;
}

static void open_modules(lua_State *L)
{
    znl_bind_open_all(L);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, preload_inside);
    lua_setfield(L, -2, "znl.workers.worker");
    lua_pop(L, 2);
}

static int open_here(lua_State *L)
{
    znl_bind_open_all(L);
    return 0;
}

static void done(void *user, lua_State *L, int status, int nresults)
{
    (void)user;
    (void)nresults;
    run.clean = status == 0;
    if (status != 0 && run.says_why)
        print_message("%s\n", lua_tostring(L, -1));
    znl_loop_stop(run.loop);
}

static void give_up(znl_timer *timer)
{
    (void)timer;
    znl_loop_stop(run.loop);
}

static int start(lua_State *L)
{
    if (luaL_loadbuffer(L, scenario, sizeof scenario - 1, "=scenario") != 0)
        return lua_error(L);
    if (znl_sched_spawn(L, 0, NULL, done, NULL) != 0)
        znl_loop_stop(run.loop);
    return 0;
}

/* One run with the n-th allocation failing, and all after it. Returns 1 when nothing failed. */
static int attempt(long n, uint64_t guard_ms)
{
    znl_vm *vm = NULL;
    run.clean = 0;
    memset(&run.guard, 0, sizeof run.guard);
    assert_int_equal(znl_loop_new(&run.loop), 0);
    assert_int_equal(znl_vm_new(&vm, run.loop), 0);
    assert_int_equal(znl_vm_protect(vm, open_here, NULL, "test"), 0);
    znl_alloc_fail_after(n);
    if (znl_vm_protect(vm, start, NULL, "test") == 0) {
        znl_wheel_start(
                znl_loop_wheel(run.loop), &run.guard, znl_clock_mono_ms() + guard_ms, give_up);
        znl_loop_run(run.loop);
        znl_wheel_stop(znl_loop_wheel(run.loop), &run.guard);
    }
    znl_alloc_fail_after(-1);
    znl_vm_free(vm);
    assert_int_equal(znl_worker_stuck_count(), 0);
    assert_int_equal(znl_loop_close(run.loop), 0);
    return run.clean;
}

static void calls_come_to_an_end(void **state)
{
    (void)state;
    run.says_why = 1;
    for (int i = 0; i < 5; i++)
        assert_true(attempt(-1, 20000));
    assert_int_equal(znl_worker_left_open(), 0);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    long n = 0;
    run.says_why = 0;
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    while (!attempt(n, 300)) {
        assert_true(n < 100000);
        n += n < 40 ? 1 : 1 + n / 20;
    }
    print_message("first clean run with %ld allocations granted\n", n);
    assert_true(n > 100); /* the hook was there at all */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(calls_come_to_an_end),
            cmocka_unit_test(every_allocation_may_fail),
    };
    if (znl_random_start() != 0)
        return 1;
    znl_bind_set_modules(open_modules);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
