/* token_test.c - cancellation: parents and children, deadlines, tasks. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/clock.h"
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

#define WAIT_AND_TELL                                                                          \
    "local v, message, code = wait() return tostring(v) .. '|' .. message .. '|' .. code"

static int changes;

static int setup(void **state)
{
    changes = 0;
    return tasks_setup(state);
}

static znl_token *make(znl_token *parent, uint64_t deadline_ms)
{
    znl_token *token = NULL;
    assert_int_equal(znl_token_new(tasks.vm, parent, deadline_ms, &token), 0);
    return token;
}

static void start(const char *chunk, znl_token *token)
{
    assert_int_equal(tasks_start(chunk, (znl_spawn){.token = token}), 0);
}

static size_t timers(void)
{
    return znl_loop_wheel(tasks.loop)->count;
}

static void count_change(znl_token_watcher *watcher)
{
    (void)watcher;
    changes++;
}

static int l_cancel(lua_State *L)
{
    znl_token_cancel(lua_touserdata(L, 1), ZNL_E_CANCELLED);
    return 0;
}

static int l_is_cancelled(lua_State *L)
{
    lua_pushinteger(L, znl_sched_is_cancelled(tasks.vm->sched));
    const char *reason = znl_sched_cancel_reason(tasks.vm->sched);
    if (reason != NULL)
        lua_pushstring(L, reason);
    else
        lua_pushliteral(L, "none");
    return 2;
}

static int l_set_token(lua_State *L)
{
    lua_pushinteger(
            L, znl_sched_set_token(tasks.vm->sched, lua_touserdata(L, 1), lua_toboolean(L, 2)));
    return 1;
}

static void cancelling_wakes_waiting_tasks(void **state)
{
    (void)state;
    znl_token *token = make(NULL, 0);
    start(WAIT_AND_TELL, token);
    start(WAIT_AND_TELL, NULL);
    assert_int_equal(znl_token_is_cancelled(token), 0);
    assert_null(znl_token_reason(token));
    znl_token_cancel_for(token, ZNL_E_CANCELLED, "the peer left early", 13);
    znl_token_cancel(token, ZNL_E_DEADLINE);   /* the first cause stays */
    assert_int_equal(tasks.ended[0].calls, 0); /* the loop does it */
    assert_false(znl_sched_waits(tasks.vm->sched, tasks.waits[0]));
    assert_int_equal(znl_token_is_cancelled(token), ZNL_E_CANCELLED);
    tasks_run();
    assert_string_equal(tasks.ended[0].text, "nil|test: the peer left|CANCELLED");
    assert_int_equal(tasks.ended[1].calls, 0);
    znl_token_release(token);
}

static void later_waits_end_in_the_next_turn(void **state)
{
    (void)state;
    znl_token *token = make(NULL, 0);
    znl_token_cancel(token, ZNL_E_CANCELLED);
    start("local n = 0 for i = 1, 5 do local _, _, code = sleep(60000) "
          "if code == 'CANCELLED' then n = n + 1 end end return n",
            token);
    assert_int_equal(tasks.ended[0].calls, 0); /* even so, each wait is a turn for others */
    assert_int_equal(tasks.waits[0].ticket, 0);
    tasks_run();
    assert_string_equal(tasks.ended[0].text, "5");
    assert_int_equal(timers(), 0);
    znl_token_release(token);
}

static void children_end_with_their_parent(void **state)
{
    (void)state;
    znl_token *top = make(NULL, 0), *middle = make(top, 0), *leaf = make(middle, 0);
    znl_token *other = make(top, 0);
    start(WAIT_AND_TELL, leaf);
    start("spawn(function() wait() end)" WAIT_AND_TELL, middle);
    znl_token_cancel(other, ZNL_E_CANCELLED);
    assert_int_equal(znl_token_is_cancelled(top), 0); /* never upwards, never sideways */
    assert_int_equal(znl_token_is_cancelled(middle), 0);
    znl_token_cancel_for(top, ZNL_E_CANCELLED, "all off", 7);
    assert_int_equal(znl_token_is_cancelled(leaf), ZNL_E_CANCELLED);
    assert_string_equal(znl_token_reason(leaf), "all off");
    assert_string_equal(znl_token_reason(other), "cancelled");
    tasks_run();
    assert_string_equal(tasks.ended[0].text, "nil|test: all off|CANCELLED");
    assert_string_equal(tasks.ended[1].text, "nil|test: all off|CANCELLED");
    assert_int_equal(znl_sched_task_count(tasks.vm->sched), 0); /* the inherited one, too */
    znl_token *late = make(leaf, 0);
    assert_int_equal(znl_token_is_cancelled(late), ZNL_E_CANCELLED);
    assert_string_equal(znl_token_reason(late), "all off");
    /* In any order: a parent outlives its children. */
    znl_token_release(top);
    znl_token_release(middle);
    assert_string_equal(znl_token_reason(late), "all off");
    znl_token_release(late);
    znl_token_release(leaf);
    znl_token_release(other);
}

static void either_parent_cancels(void **state)
{
    (void)state;
    for (int which = 0; which < 2; which++) {
        znl_token *parents[2] = {make(NULL, 5000), make(NULL, 4000)}, *both = NULL;
        assert_int_equal(znl_token_join(tasks.vm, parents[0], parents[1], &both), 0);
        assert_int_equal(znl_token_deadline_ms(both), 4000);
        assert_true(znl_token_is_below(both, parents[0]));
        assert_true(znl_token_is_below(both, parents[1]));
        assert_false(znl_token_is_below(parents[0], both));
        znl_token_release(both);
        parents[0] = (znl_token_release(parents[0]), make(NULL, 0));
        parents[1] = (znl_token_release(parents[1]), make(NULL, 0));
        assert_int_equal(znl_token_join(tasks.vm, parents[0], parents[1], &both), 0);
        znl_token_cancel(parents[which], ZNL_E_CANCELLED);
        assert_int_equal(znl_token_is_cancelled(both), ZNL_E_CANCELLED);
        assert_int_equal(znl_token_is_cancelled(parents[1 - which]), 0);
        znl_token_release(parents[0]);
        znl_token_release(parents[1]);
        znl_token_release(both);
    }
}

static void deadline_cancels_and_is_inherited(void **state)
{
    (void)state;
    uint64_t now = znl_clock_mono_ms();
    znl_token *token = make(NULL, now + 5), *later = make(token, now + 60000);
    znl_token *sooner = make(token, now + 2);
    assert_int_equal(znl_token_deadline_ms(later), now + 5);
    assert_int_equal(znl_token_deadline_ms(sooner), now + 2);
    assert_int_equal(timers(), 0); /* nobody uses them */
    start(WAIT_AND_TELL, later);
    assert_int_equal(timers(), 1);
    start("return select(3, sleep(60000))", sooner);
    assert_int_equal(timers(), 3);
    tasks_run();
    assert_string_equal(tasks.ended[0].text, "nil|test: the deadline has passed|DEADLINE");
    assert_string_equal(tasks.ended[1].text, "DEADLINE");
    assert_int_equal(timers(), 0);
    assert_int_equal(znl_token_is_cancelled(token), ZNL_E_DEADLINE);
    znl_token_release(token);
    znl_token_release(later);
    znl_token_release(sooner);
}

static void deadline_leaves_the_wheel_with_its_last_task(void **state)
{
    (void)state;
    znl_token *token = make(NULL, znl_clock_mono_ms() + 60000);
    start("wait()", token);
    start("wait()", token);
    assert_int_equal(timers(), 1);
    assert_true(znl_token_in_use(token));
    znl_sched_wake(tasks.vm->sched, tasks.waits[0], NULL, NULL);
    assert_int_equal(timers(), 1);
    znl_sched_wake(tasks.vm->sched, tasks.waits[1], NULL, NULL);
    assert_int_equal(timers(), 0);
    assert_false(znl_token_in_use(token));
    znl_token_keep(token, 1);
    assert_int_equal(timers(), 1);
    znl_token_release(token);
    assert_int_equal(timers(), 0);
}

static void busy_task_sees_its_deadline(void **state)
{
    (void)state;
    znl_token *token = make(NULL, znl_clock_mono_ms() + 2);
    lua_register(tasks.vm->L, "is_cancelled", l_is_cancelled);
    start("first = is_cancelled() repeat n, why = is_cancelled() until n ~= 0 return why",
            token);
    assert_string_equal(tasks.ended[0].text, "the deadline has passed");
    lua_getglobal(tasks.vm->L, "n");
    assert_int_equal(lua_tointeger(tasks.vm->L, -1), ZNL_E_DEADLINE);
    assert_int_equal(znl_sched_deadline_ms(tasks.vm->sched), 0); /* no task runs */
    assert_int_equal(znl_sched_is_cancelled(tasks.vm->sched), 0);
    znl_token_release(token);
}

static void running_task_cancels_its_own_token(void **state)
{
    (void)state;
    znl_token *token = make(NULL, 0);
    lua_register(tasks.vm->L, "cancel", l_cancel);
    lua_pushlightuserdata(tasks.vm->L, token);
    lua_setglobal(tasks.vm->L, "token");
    start("cancel(token) local _, _, code = wait() return code", token);
    tasks_run();
    assert_string_equal(tasks.ended[0].text, "CANCELLED");
    znl_token_release(token);
}

static void task_changes_its_token(void **state)
{
    (void)state;
    znl_token *token = make(NULL, 0);
    lua_register(tasks.vm->L, "set_token", l_set_token);
    lua_pushlightuserdata(tasks.vm->L, token);
    lua_setglobal(tasks.vm->L, "token");
    /* Out of a cancelled one the task waits as others do. */
    znl_token_cancel(token, ZNL_E_CANCELLED);
    start("local _, _, a = sleep(1) set_token(nil) local b = sleep(1) set_token(token) "
          "local _, _, c = sleep(1) return a .. tostring(b) .. c",
            token);
    tasks_run();
    assert_string_equal(tasks.ended[0].text, "CANCELLEDtrueCANCELLED");
    znl_token_release(token);
}

static void one_task_is_cancelled_alone(void **state)
{
    (void)state;
    znl_sched *sched = tasks.vm->sched;
    lua_register(tasks.vm->L, "set_token", l_set_token);
    start("spawn(wait) local _, message, code = sleep(60000) "
          "set_token(nil, true) local shielded = sleep(1) set_token(nil, false) "
          "local _, _, again = sleep(1) return message .. code .. tostring(shielded) .. again",
            NULL);
    assert_true(znl_sched_is_live(sched, tasks.refs[0]));
    assert_int_equal(znl_sched_cancel(sched, tasks.refs[0], "lost the race", 13), 0);
    assert_int_equal(znl_sched_cancel(sched, tasks.refs[0], "again", 5), 0);
    tasks_run();
    assert_string_equal(tasks.ended[0].text, "sleep: lost the raceCANCELLEDtrueCANCELLED");
    assert_int_equal(znl_sched_task_count(sched), 1); /* what it spawned goes on */
    assert_false(znl_sched_is_live(sched, tasks.refs[0]));
    assert_int_equal(znl_sched_cancel(sched, tasks.refs[0], NULL, 0), ZNL_E_NOT_FOUND);
    assert_int_equal(
            znl_sched_cancel(sched, (znl_task_ref){4000000000u, 1}, NULL, 0), ZNL_E_NOT_FOUND);
    start("return 'in the same struct'", NULL);
    assert_false(znl_sched_is_live(sched, tasks.refs[0]));
}

static void woken_task_is_not_cancelled_on_top(void **state)
{
    (void)state;
    znl_token *token = make(NULL, 0);
    start("return (wait())", token);
    assert_int_equal(znl_sched_wake_later(tasks.vm->sched, tasks.waits[0]), 1);
    assert_int_equal(znl_sched_wake_later(tasks.vm->sched, tasks.waits[0]), 0);
    znl_token_cancel(token, ZNL_E_CANCELLED); /* its answer is there already */
    tasks_run();
    assert_int_equal(tasks.ended[0].calls, 1);
    assert_string_equal(tasks.ended[0].text, ""); /* true is no text */
    assert_int_equal(tasks.ended[0].status, 0);
    znl_token_release(token);
}

static void waits_have_names(void **state)
{
    (void)state;
    znl_sched *sched = tasks.vm->sched;
    start("wait() return 'woken'", NULL);
    znl_wait_name name = znl_sched_name_wait(tasks.waits[0]);
    assert_true(znl_sched_waits(sched, znl_sched_named_wait(sched, name)));
    znl_wait_name wrong = {name.index, name.ticket + 1};
    assert_false(znl_sched_waits(sched, znl_sched_named_wait(sched, wrong)));
    znl_wait_name outside = {UINT32_MAX, name.ticket};
    assert_false(znl_sched_waits(sched, znl_sched_named_wait(sched, outside)));
    assert_int_equal(znl_sched_wake_later(sched, znl_sched_named_wait(sched, name)), 1);
    tasks_run();
    assert_string_equal(tasks.ended[0].text, "woken");
}

static void watcher_hears_of_cancelling_and_of_the_last_user(void **state)
{
    (void)state;
    znl_token_watcher one = {0}, two = {0};
    znl_token *token = make(NULL, 0), *child = make(token, 0);
    znl_token_watch(token, &one, count_change);
    start("wait()", child);
    assert_true(znl_token_in_use(token));
    assert_int_equal(changes, 0);
    znl_sched_wake(tasks.vm->sched, tasks.waits[0], NULL, NULL);
    assert_int_equal(changes, 1);
    assert_false(znl_token_in_use(token));
    znl_token_watch(token, &two, count_change); /* beside the first */
    znl_token_cancel(token, ZNL_E_CANCELLED);
    znl_token_cancel(token, ZNL_E_CANCELLED);
    assert_int_equal(changes, 3);
    znl_token_unwatch(&one);
    znl_token_unwatch(&one);
    start("return 1", token);
    assert_int_equal(changes, 4);
    znl_token_unwatch(&two);
    start("return 1", token);
    assert_int_equal(changes, 4);
    znl_token_release(child);
    znl_token_release(token);
}

static void long_lines_of_tokens_need_no_stack(void **state)
{
    (void)state;
    znl_token *first = make(NULL, 0), *last = first;
    znl_token_hold(first);
    for (int i = 0; i < 300000; i++) {
        znl_token *next = make(last, 0);
        znl_token_release(last); /* held by its child now */
        last = next;
    }
    start(WAIT_AND_TELL, last);
    assert_true(znl_token_in_use(first));
    znl_token_cancel_for(first, ZNL_E_CANCELLED, "far above", 9);
    tasks_run();
    assert_string_equal(tasks.ended[0].text, "nil|test: far above|CANCELLED");
    assert_false(znl_token_in_use(first));
    znl_token_release(last);
    znl_token_release(first);
}

static void drop_all_lets_go_of_tokens(void **state)
{
    (void)state;
    znl_token *token = make(NULL, znl_clock_mono_ms() + 60000);
    start("wait()", token);
    start("wait()", token);
    znl_token_cancel(token, ZNL_E_CANCELLED);
    znl_sched_drop_all(tasks.vm->sched);
    assert_int_equal(tasks.ended[0].calls, 1);
    assert_string_equal(tasks.ended[1].text, "stopped");
    assert_false(znl_token_in_use(token));
    assert_int_equal(timers(), 0);
    tasks_run();
    assert_int_equal(tasks.ended[0].calls, 1);
    znl_token_release(token);
}

static void survives_each_failing_allocation(void **state)
{
    for (long n = 0;; n++) {
        znl_token *token = NULL, *child = NULL;
        assert_int_equal(tasks_teardown(state), 0);
        assert_int_equal(setup(state), 0);
        start(WAIT_AND_TELL, NULL); /* to be cancelled alone */
        znl_alloc_fail_after(n);
        int err = znl_token_new(tasks.vm, NULL, znl_clock_mono_ms() + 60000, &token);
        if (err == 0)
            err = znl_token_new(tasks.vm, token, 0, &child);
        int started = err == 0 ? tasks_start(WAIT_AND_TELL, (znl_spawn){.token = child}) : 1;
        if (token != NULL)
            znl_token_cancel_for(token, ZNL_E_CANCELLED, "why", 3);
        int cancelled = znl_sched_cancel(tasks.vm->sched, tasks.refs[0], "why", 3);
        tasks_run();
        long used = znl_alloc_count();
        znl_alloc_fail_after(-1);
        assert_true(err == 0 || err == ZNL_E_NOMEM);
        assert_true(cancelled == 0 || cancelled == ZNL_E_NOMEM);
        assert_int_equal(tasks.ended[0].calls, cancelled == 0 ? 1 : 0);
        assert_int_equal(tasks.ended[1].calls, started == 0 ? 1 : 0);
        assert_int_equal(timers(), 0);
        znl_token_release(child);
        znl_token_release(token);
        if (used <= n) {
            assert_string_equal(tasks.ended[0].text, "nil|test: why|CANCELLED");
            assert_string_equal(tasks.ended[1].text, "nil|test: why|CANCELLED");
            break;
        }
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, tasks_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            CASE(cancelling_wakes_waiting_tasks),
            CASE(later_waits_end_in_the_next_turn),
            CASE(children_end_with_their_parent),
            CASE(either_parent_cancels),
            CASE(deadline_cancels_and_is_inherited),
            CASE(deadline_leaves_the_wheel_with_its_last_task),
            CASE(busy_task_sees_its_deadline),
            CASE(running_task_cancels_its_own_token),
            CASE(task_changes_its_token),
            CASE(one_task_is_cancelled_alone),
            CASE(woken_task_is_not_cancelled_on_top),
            CASE(waits_have_names),
            CASE(watcher_hears_of_cancelling_and_of_the_last_user),
            CASE(long_lines_of_tokens_need_no_stack),
            CASE(drop_all_lets_go_of_tokens),
            CASE(survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
