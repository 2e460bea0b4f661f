/* owner_test.c - owners: counting, ending and cutting their tasks. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/err.h"
#include "base/wheel.h"
#include "support/tasks.h"
#include "transport/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static znl_owner *owner;
static int idle_calls;

static int setup(void **state)
{
    idle_calls = 0;
    return tasks_setup(state) != 0 || znl_owner_new(&owner) != 0 ? -1 : 0;
}

static int teardown(void **state)
{
    int left = tasks_teardown(state);
    znl_owner_release(owner);
    return left;
}

static void start(const char *chunk, znl_task_kind kind)
{
    assert_int_equal(tasks_start(chunk, (znl_spawn){.owner = owner, .kind = kind}), 0);
}

static void wake(unsigned number)
{
    znl_sched_wake(tasks.vm->sched, tasks.waits[number], NULL, NULL);
}

static void count_idle(void *user)
{
    ++*(int *)user;
}

static int l_end_background(lua_State *L)
{
    (void)L;
    znl_owner_end_background(owner);
    return 0;
}

static int l_cut(lua_State *L)
{
    znl_owner_cut(owner, lua_tostring(L, 1));
    return 0;
}

static int l_become(lua_State *L)
{
    lua_pushinteger(L, znl_sched_become(tasks.vm->sched, lua_touserdata(L, 1)));
    return 1;
}

static void kinds_are_counted_apart(void **state)
{
    (void)state;
    start("wait()", ZNL_TASK_FOREGROUND);
    start("spawn(wait) wait()", ZNL_TASK_BACKGROUND); /* the inner one inherits */
    assert_int_equal(znl_owner_active(owner), 1);
    assert_int_equal(znl_owner_background(owner), 2);
    znl_owner_on_idle(owner, count_idle, &idle_calls);
    wake(0);
    assert_int_equal(idle_calls, 1); /* background tasks keep nobody waiting */
    wake(1);
    wake(2);
    assert_int_equal(znl_owner_background(owner), 0);
    assert_int_equal(idle_calls, 1);
}

static void end_background_drops_waiting_tasks(void **state)
{
    (void)state;
    start("wait() return 'woken'", ZNL_TASK_FOREGROUND);
    start("wait() resumed = true", ZNL_TASK_BACKGROUND);
    start("sleep(100000) resumed = true", ZNL_TASK_BACKGROUND);
    znl_owner_end_background(owner);
    znl_owner_end_background(owner);
    wake(1); /* too late */
    assert_true(znl_owner_has_ended(owner));
    assert_false(znl_owner_is_cut(owner));
    tasks_run();
    assert_int_equal(tasks.ended[1].calls, 1);
    assert_int_equal(tasks.ended[1].status, ZNL_TASK_DROPPED);
    assert_string_equal(tasks.ended[1].text, "cut: what it ran for has ended");
    assert_int_equal(tasks.ended[2].calls, 1);
    assert_int_equal(znl_owner_background(owner), 0);
    assert_int_equal(znl_loop_wheel(tasks.loop)->count, 0);
    assert_int_equal(tasks.ended[0].calls, 0);
    wake(0);
    assert_string_equal(tasks.ended[0].text, "woken");
    lua_getglobal(tasks.vm->L, "resumed");
    assert_true(lua_isnil(tasks.vm->L, -1));
    znl_sched_counters counters;
    znl_sched_count(tasks.vm->sched, &counters);
    assert_int_equal(counters.spawned, 3);
    assert_int_equal(counters.cut, 2);
    assert_int_equal(counters.failed, 0);
    assert_int_equal(counters.tasks, 0);
}

static void ended_owner_takes_foreground_only(void **state)
{
    (void)state;
    znl_owner_end_background(owner);
    assert_int_equal(
            tasks_start("return 1", (znl_spawn){.owner = owner, .kind = ZNL_TASK_BACKGROUND}),
            ZNL_E_STOPPED);
    assert_int_equal(tasks.ended[0].calls, 0);
    start("return 'served'", ZNL_TASK_FOREGROUND);
    assert_string_equal(tasks.ended[1].text, "served");
    znl_owner_cut(owner, NULL);
    assert_int_equal(tasks_start("return 1", (znl_spawn){.owner = owner}), ZNL_E_STOPPED);
}

static void running_task_is_dropped_where_it_waits_next(void **state)
{
    (void)state;
    lua_register(tasks.vm->L, "end_background", l_end_background);
    start("end_background() went_on = 1 sleep(1) resumed = 1", ZNL_TASK_BACKGROUND);
    assert_int_equal(tasks.ended[0].calls, 0);
    tasks_run();
    assert_int_equal(tasks.ended[0].calls, 1);
    assert_int_equal(tasks.ended[0].status, ZNL_TASK_DROPPED);
    lua_getglobal(tasks.vm->L, "went_on");
    lua_getglobal(tasks.vm->L, "resumed");
    assert_int_equal(lua_tointeger(tasks.vm->L, -2), 1);
    assert_true(lua_isnil(tasks.vm->L, -1));
}

static void cut_task_that_never_waits_again_ends_by_itself(void **state)
{
    (void)state;
    lua_register(tasks.vm->L, "cut", l_cut);
    start("cut('late') return 'done'", ZNL_TASK_FOREGROUND);
    assert_int_equal(tasks.ended[0].status, 0);
    assert_string_equal(tasks.ended[0].text, "done");
    tasks_run();
    assert_int_equal(tasks.ended[0].calls, 1);
    /* The struct serves another task, which nobody cut. */
    assert_int_equal(tasks_start("sleep(1) return 'alive'", (znl_spawn){0}), 0);
    tasks_run();
    assert_string_equal(tasks.ended[1].text, "alive");
}

static void cut_drops_all_and_says_why(void **state)
{
    (void)state;
    lua_register(tasks.vm->L, "cut", l_cut);
    znl_owner_on_idle(owner, count_idle, &idle_calls);
    idle_calls = 0;
    start("wait()", ZNL_TASK_FOREGROUND);
    start("wait()", ZNL_TASK_BACKGROUND);
    znl_owner_on_idle(owner, count_idle, &idle_calls);
    /* From a task of the owner, with one that spawned it on the stack as well. */
    start("spawn(function() cut('took too long') end) wait()", ZNL_TASK_FOREGROUND);
    assert_true(znl_owner_is_cut(owner));
    assert_int_equal(idle_calls, 0);
    tasks_run();
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(tasks.ended[i].calls, 1);
        assert_int_equal(tasks.ended[i].status, ZNL_TASK_DROPPED);
        assert_string_equal(tasks.ended[i].text, "took too long");
    }
    assert_int_equal(idle_calls, 1);
    assert_int_equal(znl_sched_task_count(tasks.vm->sched), 0);
}

static void queued_wake_does_not_save_a_dropped_task(void **state)
{
    (void)state;
    start("wait() resumed = true", ZNL_TASK_BACKGROUND);
    znl_sched_wake_error_later(tasks.vm->sched, tasks.waits[0], ZNL_E_GONE, "test");
    znl_owner_end_background(owner);
    tasks_run();
    assert_int_equal(tasks.ended[0].calls, 1);
    assert_int_equal(tasks.ended[0].status, ZNL_TASK_DROPPED);
}

static void drop_all_takes_doomed_tasks_too(void **state)
{
    (void)state;
    start("wait()", ZNL_TASK_BACKGROUND);
    znl_owner_cut(owner, "cut");
    znl_sched_drop_all(tasks.vm->sched);
    assert_int_equal(tasks.ended[0].calls, 1);
    assert_string_equal(tasks.ended[0].text, "stopped");
    tasks_run();
    assert_int_equal(tasks.ended[0].calls, 1);
}

static void become_moves_the_running_task(void **state)
{
    (void)state;
    znl_owner *other;
    assert_int_equal(znl_owner_new(&other), 0);
    lua_register(tasks.vm->L, "become", l_become);
    lua_pushlightuserdata(tasks.vm->L, other);
    lua_setglobal(tasks.vm->L, "other");
    start("wait() result = become(other) wait() return become(nil)", ZNL_TASK_FOREGROUND);
    znl_owner_on_idle(owner, count_idle, &idle_calls);
    wake(0);
    assert_int_equal(idle_calls, 1);
    assert_int_equal(znl_owner_active(owner), 0);
    assert_int_equal(znl_owner_active(other), 1);
    znl_owner_release(other); /* the task holds it */
    wake(1);
    assert_string_equal(tasks.ended[0].text, "0");
    assert_int_equal(znl_sched_become(tasks.vm->sched, owner), ZNL_E_INVALID); /* no task */
    znl_owner_cut(owner, NULL);
    lua_pushlightuserdata(tasks.vm->L, owner);
    lua_setglobal(tasks.vm->L, "other");
    assert_int_equal(tasks_start("return become(other)", (znl_spawn){0}), 0);
    char number[12];
    snprintf(number, sizeof number, "%d", ZNL_E_STOPPED);
    assert_string_equal(tasks.ended[1].text, number);
}

static void owner_outlives_its_reference(void **state)
{
    (void)state;
    znl_owner *gone;
    assert_int_equal(znl_owner_new(&gone), 0);
    assert_int_equal(tasks_start("wait()", (znl_spawn){.owner = gone}), 0);
    znl_owner_cut(gone, "its message is read after the release");
    znl_owner_release(gone);
    tasks_run();
    assert_string_equal(tasks.ended[0].text, "its message is read after the release");
}

static void cut_survives_each_failing_allocation(void **state)
{
    for (long n = 0;; n++) {
        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
        start("wait()", ZNL_TASK_FOREGROUND);
        start("sleep(100000)", ZNL_TASK_BACKGROUND);
        znl_alloc_fail_after(n);
        znl_owner_cut(owner, "no room");
        tasks_run();
        long used = znl_alloc_count();
        znl_alloc_fail_after(-1);
        for (unsigned i = 0; i < 2; i++) {
            assert_int_equal(tasks.ended[i].calls, 1);
            assert_int_equal(tasks.ended[i].status, ZNL_TASK_DROPPED);
        }
        assert_int_equal(znl_sched_task_count(tasks.vm->sched), 0);
        if (used <= n) {
            assert_string_equal(tasks.ended[0].text, "no room");
            break;
        }
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            CASE(kinds_are_counted_apart),
            CASE(end_background_drops_waiting_tasks),
            CASE(ended_owner_takes_foreground_only),
            CASE(running_task_is_dropped_where_it_waits_next),
            CASE(cut_task_that_never_waits_again_ends_by_itself),
            CASE(cut_drops_all_and_says_why),
            CASE(queued_wake_does_not_save_a_dropped_task),
            CASE(drop_all_takes_doomed_tasks_too),
            CASE(become_moves_the_running_task),
            CASE(owner_outlives_its_reference),
            CASE(cut_survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
