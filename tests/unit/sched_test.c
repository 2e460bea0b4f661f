/* sched_test.c - tasks: spawning, waiting, waking, ending. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/err.h"
#include "base/log.h"
#include "transport/loop.h"
#include "vm/sched.h"
#include "vm/vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static znl_loop *loop;
static znl_vm *vm;
static znl_wait waits[8]; /* what wait() parked, in order */
static unsigned wait_count;

/* What the last task came to. */
static struct {
    unsigned calls;
    int status;
    int count;
    int raised_table;
    char text[2000];
} ended;

static void on_done(void *user, lua_State *L, int status, int nresults)
{
    assert_ptr_equal(user, &ended);
    ended.calls++;
    ended.status = status;
    ended.count = nresults;
    const char *text = nresults > 0 ? lua_tostring(L, status != 0 ? 1 : -1) : NULL;
    ended.raised_table = status != 0 && lua_istable(L, 2);
    snprintf(ended.text, sizeof ended.text, "%s", text != NULL ? text : "");
}

static int l_wait(lua_State *L)
{
    waits[wait_count++] = znl_sched_park(L);
    return lua_yield(L, 0);
}

/* Of the waits that lost() heard of: their numbers, as digits. */
static uint64_t lost_waits;

static void lost(void *user, uint64_t id)
{
    assert_ptr_equal(user, &lost_waits);
    lost_waits = lost_waits * 10 + id;
}

/* The number that lost() hears. With a second argument the wait has that timeout. */
static int l_watched_wait(lua_State *L)
{
    uint32_t timeout_ms = (uint32_t)lua_tointeger(L, 2);
    waits[wait_count++] = timeout_ms > 0 ? znl_sched_park_for(L, timeout_ms, "pause")
                                         : znl_sched_park(L);
    znl_sched_on_lost(vm->sched, lost, &lost_waits, (uint64_t)lua_tointeger(L, 1));
    return lua_yield(L, 0);
}

static int l_wait_for(lua_State *L)
{
    waits[wait_count++] = znl_sched_park_for(
            L, (uint32_t)lua_tointeger(L, 1), lua_tostring(L, 2));
    return lua_yield(L, 0);
}

static int l_sleep(lua_State *L)
{
    waits[wait_count++] = znl_sched_sleep(L, (uint32_t)lua_tointeger(L, 1));
    return lua_yield(L, 0);
}

static int l_spawn(lua_State *L)
{
    lua_pushinteger(L, znl_sched_spawn(L, lua_gettop(L) - 1, NULL, NULL, NULL));
    return 1;
}

static int l_fail_wait(lua_State *L)
{
    znl_sched_wake_error(vm->sched, waits[lua_tointeger(L, 1)], ZNL_E_GONE, "test");
    return 0;
}

static int setup(void **state)
{
    (void)state;
    memset(waits, 0, sizeof waits);
    memset(&ended, 0, sizeof ended);
    wait_count = 0;
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    if (znl_loop_new(&loop) != 0 || znl_vm_new(&vm, loop) != 0)
        return -1;
    lua_register(vm->L, "wait", l_wait);
    lua_register(vm->L, "wait_for", l_wait_for);
    lua_register(vm->L, "sleep", l_sleep);
    lua_register(vm->L, "spawn", l_spawn);
    lua_register(vm->L, "fail_wait", l_fail_wait);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    znl_alloc_fail_after(-1);
    znl_vm_free(vm);
    vm = NULL;
    return znl_loop_close(loop);
}

struct start {
    const char *chunk;
    znl_owner *owner;
    int err;
};

static znl_task_ref started; /* the last one */

static int run_start(lua_State *L)
{
    struct start *start = lua_touserdata(L, 1);
    if (luaL_loadbuffer(L, start->chunk, strlen(start->chunk), "@test.lua") != 0)
        return lua_error(L);
    znl_spawn how = {.inherits = 1,
            .owner = start->owner,
            .kind = start->owner != NULL ? ZNL_TASK_FOREGROUND : ZNL_TASK_INHERITS,
            .done = on_done,
            .user = &ended,
            .ref = &started};
    start->err = znl_sched_spawn_as(L, 0, &how);
    return 0;
}

static void start_owned(const char *chunk, znl_owner *owner)
{
    struct start start = {chunk, owner, 0};
    assert_int_equal(znl_vm_protect(vm, run_start, &start, "test"), 0);
    assert_int_equal(start.err, 0);
}

static void start(const char *chunk)
{
    start_owned(chunk, NULL);
}

static int push_pair(lua_State *L, void *user)
{
    lua_pushinteger(L, *(int *)user);
    lua_pushliteral(L, "second");
    return 2;
}

static int push_raising(lua_State *L, void *user)
{
    (void)user;
    return luaL_error(L, "cannot push");
}

static int global_int(const char *name)
{
    lua_getglobal(vm->L, name);
    int value = (int)lua_tointeger(vm->L, -1);
    lua_pop(vm->L, 1);
    return value;
}

static void task_that_returns_ends_at_once(void **state)
{
    (void)state;
    start("return 1, 2, 'three'");
    assert_int_equal(ended.calls, 1);
    assert_int_equal(ended.status, 0);
    assert_int_equal(ended.count, 3);
    assert_string_equal(ended.text, "three");
    assert_int_equal(znl_sched_task_count(vm->sched), 0);
    assert_int_equal(lua_gettop(vm->L), 0);
}

static void task_waits_and_gets_values(void **state)
{
    (void)state;
    int number = 41;
    start("local a, b = wait() return b .. (a + 1)");
    assert_int_equal(ended.calls, 0);
    assert_int_equal(znl_sched_task_count(vm->sched), 1);
    assert_true(znl_sched_waits(vm->sched, waits[0]));
    znl_sched_wake(vm->sched, waits[0], push_pair, &number);
    assert_int_equal(ended.calls, 1);
    assert_string_equal(ended.text, "second42");
    assert_false(znl_sched_busy(vm->sched));
    assert_int_equal(lua_gettop(vm->L), 0);
}

static void stale_ticket_wakes_nobody(void **state)
{
    (void)state;
    int number = 1;
    znl_wait none = {NULL, 0};
    start("wait() woken = 1; wait() woken = 2");
    znl_sched_wake(vm->sched, waits[0], NULL, NULL);
    znl_sched_wake(vm->sched, waits[0], push_pair, &number);
    znl_sched_wake_error(vm->sched, waits[0], ZNL_E_GONE, "test");
    znl_sched_wake(vm->sched, none, NULL, NULL);
    assert_int_equal(global_int("woken"), 1);
    znl_sched_wake(vm->sched, waits[1], NULL, NULL);
    assert_int_equal(global_int("woken"), 2);
    assert_int_equal(ended.calls, 1);
    /* The struct serves another task by now. */
    start("wait() woken = 3");
    assert_ptr_equal(waits[2].task, waits[0].task);
    znl_sched_wake(vm->sched, waits[1], NULL, NULL);
    assert_int_equal(global_int("woken"), 2);
}

static void error_carries_message_and_traceback(void **state)
{
    (void)state;
    start("local function inner() error('broken') end\nlocal function outer() inner() end\nouter()");
    assert_int_equal(ended.calls, 1);
    assert_int_not_equal(ended.status, 0);
    assert_non_null(strstr(ended.text, "test.lua:1: broken"));
    assert_non_null(strstr(ended.text, "test.lua:2:"));
    start("wait() error(setmetatable({}, {__tostring = function() return 'object' end}))");
    znl_sched_wake(vm->sched, waits[0], NULL, NULL);
    assert_int_equal(ended.calls, 2);
    assert_int_equal(strncmp(ended.text, "object\nstack traceback", 22), 0);
    assert_true(ended.raised_table);
    start("error({})");
    assert_non_null(strstr(ended.text, "(error object is a table value)"));
    assert_int_equal(ended.count, 1);
    start("error(setmetatable({}, {__tostring = function() error('worse') end}))");
    assert_int_equal(ended.calls, 4);
    assert_int_not_equal(ended.status, 0);
    assert_int_equal(znl_sched_task_count(vm->sched), 0);
    assert_int_equal(lua_gettop(vm->L), 0);
}

static void coroutine_is_reused_after_success_only(void **state)
{
    (void)state;
    start("first = coroutine.running()");
    assert_int_equal(znl_sched_pooled_count(vm->sched), 1);
    start("same = coroutine.running() == first and 1 or 0");
    assert_int_equal(global_int("same"), 1);
    assert_int_equal(znl_sched_pooled_count(vm->sched), 1);
    start("error('x')");
    assert_int_equal(znl_sched_pooled_count(vm->sched), 0);
    start("setfenv(0, {})");
    assert_int_equal(znl_sched_pooled_count(vm->sched), 0); /* other globals: not for others */
}

static void wake_error_reports_code(void **state)
{
    (void)state;
    start("local v, message, code = wait() return tostring(v) .. message .. code");
    znl_sched_wake_error(vm->sched, waits[0], ZNL_E_TIMEOUT, "request");
    assert_string_equal(ended.text, "nilrequest: no answer in timeTIMEOUT");
}

static void wake_error_while_lua_runs_is_queued(void **state)
{
    (void)state;
    start("local _, _, code = wait() return code");
    start("fail_wait(0) fail_wait(0) seen = 1");
    assert_int_equal(ended.calls, 1); /* the second; the first is queued */
    assert_false(znl_sched_waits(vm->sched, waits[0]));
    znl_sched_wake(vm->sched, waits[0], NULL, NULL); /* too late */
    assert_int_equal(ended.calls, 1);
    znl_loop_run(loop);
    assert_int_equal(ended.calls, 2);
    assert_string_equal(ended.text, "GONE");
}

static void queued_task_that_ends_first_is_left_alone(void **state)
{
    (void)state;
    start("wait()");
    start("fail_wait(0)");
    znl_sched_drop_all(vm->sched);
    assert_int_equal(ended.calls, 2);
    znl_loop_run(loop);
    assert_int_equal(ended.calls, 2);
}

static void deadline_ends_the_wait(void **state)
{
    (void)state;
    start("return select('#', sleep(2)) .. tostring((sleep(2)))");
    znl_loop_run(loop);
    assert_string_equal(ended.text, "1true");
    start("local _, message, code = wait_for(2, 'pause') return message .. code");
    znl_loop_run(loop);
    assert_string_equal(ended.text, "pause: no answer in timeTIMEOUT");
    start("return (wait_for(1000, 'pause'))");
    int number = 7;
    znl_sched_wake(vm->sched, waits[3], push_pair, &number);
    assert_string_equal(ended.text, "7");
    assert_int_equal(znl_loop_wheel(loop)->count, 0);
}

static void lost_waits_are_told(void **state)
{
    (void)state;
    lost_waits = 0;
    lua_register(vm->L, "watched_wait", l_watched_wait);
    start("watched_wait(1)");
    znl_sched_wake(vm->sched, waits[0], NULL, NULL);
    start("watched_wait(2)");
    znl_sched_wake_error(vm->sched, waits[1], ZNL_E_GONE, "test");
    start("watched_wait(3, 1000)");
    znl_sched_wake_error_later(vm->sched, waits[2], ZNL_E_GONE, "test");
    znl_loop_run(loop);
    assert_int_equal(lost_waits, 0); /* each was woken */
    start("watched_wait(4, 2)");
    znl_loop_run(loop);
    assert_int_equal(lost_waits, 4);
    start("watched_wait(5) wait()"); /* the first is watched, the second not */
    znl_sched_wake(vm->sched, waits[4], NULL, NULL);
    znl_sched_cancel(vm->sched, started, NULL, 0);
    assert_int_equal(lost_waits, 4);
    start("watched_wait(6)");
    znl_sched_cancel(vm->sched, started, NULL, 0);
    znl_sched_cancel(vm->sched, started, NULL, 0);
    assert_int_equal(lost_waits, 46);
    znl_loop_run(loop);
    assert_int_equal(lost_waits, 46);
}

static void waiting_elsewhere_raises(void **state)
{
    (void)state;
    start("return select(2, pcall(coroutine.wrap(wait)))");
    assert_non_null(strstr(ended.text, "must be called from a coroutine made by znl"));
    start("coroutine.yield(1, 2)");
    assert_int_equal(ended.calls, 2);
    assert_non_null(strstr(ended.text, "coroutine.yield() outside"));
    assert_int_equal(znl_sched_task_count(vm->sched), 0);
}

static void task_resumed_by_script_does_no_harm(void **state)
{
    (void)state;
    start("victim = coroutine.running() wait() return 'x'");
    start("coroutine.resume(victim)");
    assert_int_equal(ended.calls, 1);
    znl_sched_wake(vm->sched, waits[0], NULL, NULL);
    assert_int_equal(ended.calls, 2);
    assert_int_not_equal(ended.status, 0);
    start("return 'fine'");
    assert_string_equal(ended.text, "fine");
}

static void failed_push_still_wakes(void **state)
{
    (void)state;
    start("local v, message, code = wait() return code");
    znl_sched_wake(vm->sched, waits[0], push_raising, NULL);
    assert_string_equal(ended.text, "NO_MEMORY");
}

static void tasks_spawn_tasks_up_to_a_depth(void **state)
{
    (void)state;
    start("depth = 0; local function f() depth = depth + 1; code = spawn(f) end f()");
    assert_int_equal(ended.status, 0);
    assert_in_range(global_int("depth"), 50, 200);
    start("local n = 0 for i = 1, 1000 do spawn(function(v) n = n + v end, 2) end return n");
    assert_string_equal(ended.text, "2000");
    assert_int_equal(znl_sched_task_count(vm->sched), 0);
}

static void arguments_may_be_many(void **state)
{
    (void)state;
    start("local t = {} for i = 1, 1000 do t[i] = i end "
          "spawn(function(...) count = select('#', ...) last = select(1000, ...) end, unpack(t))");
    assert_int_equal(global_int("count"), 1000);
    assert_int_equal(global_int("last"), 1000);
    /* Whatever cannot be had, the spawner goes on. */
    for (long n = 0; n < 12; n++) {
        start("big = {} for i = 1, 1000 do big[i] = i end wait()"
              "code = spawn(function(...) count = select('#', ...) end, unpack(big))");
        znl_alloc_fail_after(n);
        znl_sched_wake(vm->sched, waits[wait_count - 1], NULL, NULL);
        znl_alloc_fail_after(-1);
        assert_int_equal(znl_sched_task_count(vm->sched), 0);
        wait_count = 0;
    }
    assert_int_equal(lua_gettop(vm->L), 0);
}

static void count_idle(void *user)
{
    ++*(int *)user;
}

static void owner_hears_when_idle(void **state)
{
    (void)state;
    int idle = 0;
    znl_owner *owner;
    assert_int_equal(znl_owner_new(&owner), 0);
    start_owned("spawn(function() wait() end) wait()", owner); /* the inner one inherits */
    assert_int_equal(znl_owner_active(owner), 2);
    znl_owner_on_idle(owner, count_idle, &idle);
    znl_sched_wake(vm->sched, waits[0], NULL, NULL);
    assert_int_equal(idle, 0);
    znl_sched_wake(vm->sched, waits[1], NULL, NULL);
    assert_int_equal(idle, 1);
    start_owned("return", owner);
    assert_int_equal(idle, 1); /* once */
    znl_owner_on_idle(owner, count_idle, &idle);
    assert_int_equal(idle, 2);
    start_owned("wait()", owner); /* dropped by teardown, which releases its part */
    znl_owner_release(owner);
}

static void drop_all_reports_each_task_once(void **state)
{
    (void)state;
    start("wait()");
    start("wait_for(100000)");
    znl_sched_drop_all(vm->sched);
    assert_int_equal(ended.calls, 2);
    assert_string_equal(ended.text, "stopped");
    assert_int_equal(znl_sched_task_count(vm->sched), 0);
    assert_int_equal(znl_loop_wheel(loop)->count, 0);
    znl_sched_wake(vm->sched, waits[0], NULL, NULL);
    struct start refused = {"return 1", NULL, 0};
    znl_vm_protect(vm, run_start, &refused, "test");
    assert_int_equal(refused.err, ZNL_E_STOPPED);
    assert_int_equal(ended.calls, 2);
}

static int l_raise(lua_State *L)
{
    return luaL_error(L, "raised on purpose");
}

static void protect_swallows_errors(void **state)
{
    (void)state;
    assert_int_equal(znl_vm_protect(vm, l_raise, NULL, "test"), LUA_ERRRUN);
    assert_int_equal(lua_gettop(vm->L), 0);
    assert_false(znl_sched_busy(vm->sched));
}

/* Whatever runs out of memory, every task ends once and nothing stays behind. */
static void survives_each_failing_allocation(void **state)
{
    (void)state;
    for (long n = 0;; n++) {
        assert_int_equal(teardown(NULL), 0);
        assert_int_equal(setup(NULL), 0);
        struct start first = {"local t = {} for i = 1, 20 do t[i] = {i .. ''} end "
                              "spawn(function() wait() end) local a, b = wait() return b .. a",
                NULL, 1};
        int number = 5;
        znl_alloc_fail_after(n);
        int status = znl_vm_protect(vm, run_start, &first, "test");
        for (unsigned i = 0; i < wait_count; i++)
            znl_sched_wake(vm->sched, waits[i], push_pair, &number);
        long used = znl_alloc_count();
        znl_alloc_fail_after(-1);
        assert_int_equal(ended.calls, status == 0 && first.err == 0 ? 1 : 0);
        assert_int_equal(znl_sched_task_count(vm->sched), 0);
        assert_false(znl_sched_busy(vm->sched));
        if (used <= n) {
            assert_int_equal(ended.status, 0);
            assert_string_equal(ended.text, "second5");
            break;
        }
    }
}

/* Results are taken where they are by one that looks at strings; the rest goes the usual way. */
static int on_returned(void *user, lua_State *co, int nresults)
{
    assert_ptr_equal(user, &ended);
    if (nresults != 1 || lua_type(co, 1) != LUA_TSTRING)
        return 0;
    ended.calls += 100;
    snprintf(ended.text, sizeof ended.text, "%s", lua_tostring(co, 1));
    return 1;
}

static int l_user(lua_State *L)
{
    lua_pushboolean(L, znl_sched_user_of(L, on_done) == &ended);
    lua_pushboolean(L, znl_sched_user_of(L, NULL) != NULL);
    return 2;
}

static int load_function(lua_State *L)
{
    const char *chunk = lua_touserdata(L, 1);
    if (luaL_loadbuffer(L, chunk, strlen(chunk), "@test.lua") != 0)
        return lua_error(L);
    lua_setglobal(L, "run");
    return 0;
}

static void run(const char *chunk, int expected)
{
    znl_spawn how = {.done = on_done, .returned = on_returned, .user = &ended, .ref = &started};
    assert_int_equal(znl_vm_protect(vm, load_function, (void *)(uintptr_t)chunk, "test"), 0);
    lua_getglobal(vm->L, "run");
    int ref = luaL_ref(vm->L, LUA_REGISTRYINDEX);
    assert_int_equal(znl_sched_run(vm->sched, ref, &how), expected);
    luaL_unref(vm->L, LUA_REGISTRYINDEX, ref);
    assert_int_equal(lua_gettop(vm->L), 0);
    assert_false(znl_sched_busy(vm->sched));
}

static void function_runs_from_the_loop(void **state)
{
    (void)state;
    lua_register(vm->L, "user", l_user);
    run("local mine, other = user() return mine and not other and 'text' or 'strange'", 0);
    assert_int_equal(ended.calls, 100);
    assert_string_equal(ended.text, "text");
    assert_false(znl_sched_is_live(vm->sched, started));
    assert_int_equal(znl_sched_task_count(vm->sched), 0);
    assert_int_equal(znl_sched_pooled_count(vm->sched), 1);
    run("return 'not', 'taken'", 0);
    assert_int_equal(ended.calls, 101);
    assert_int_equal(ended.count, 2);
    assert_string_equal(ended.text, "taken");
    run("error('broken')", 0);
    assert_int_equal(ended.calls, 102);
    assert_non_null(strstr(ended.text, "test.lua:1: broken"));
    run("wait() return 'later'", 0);
    assert_int_equal(ended.calls, 102);
    assert_int_equal(znl_sched_task_count(vm->sched), 1);
    znl_sched_wake(vm->sched, waits[0], NULL, NULL);
    assert_int_equal(ended.calls, 202);
    assert_string_equal(ended.text, "later");
    assert_int_equal(znl_sched_task_count(vm->sched), 0);
    run("wait()", 0);
    znl_sched_drop_all(vm->sched);
    assert_int_equal(ended.calls, 203);
    assert_int_equal(ended.status, ZNL_TASK_DROPPED);
    run("return 'never'", ZNL_E_STOPPED);
    assert_int_equal(ended.calls, 203);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            CASE(task_that_returns_ends_at_once),
            CASE(task_waits_and_gets_values),
            CASE(stale_ticket_wakes_nobody),
            CASE(error_carries_message_and_traceback),
            CASE(coroutine_is_reused_after_success_only),
            CASE(wake_error_reports_code),
            CASE(wake_error_while_lua_runs_is_queued),
            CASE(queued_task_that_ends_first_is_left_alone),
            CASE(deadline_ends_the_wait),
            CASE(lost_waits_are_told),
            CASE(waiting_elsewhere_raises),
            CASE(task_resumed_by_script_does_no_harm),
            CASE(failed_push_still_wakes),
            CASE(tasks_spawn_tasks_up_to_a_depth),
            CASE(arguments_may_be_many),
            CASE(owner_hears_when_idle),
            CASE(function_runs_from_the_loop),
            CASE(drop_all_reports_each_task_once),
            CASE(protect_swallows_errors),
            CASE(survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
