/* worker_test.c - threads with a Lua state of their own: items there and back, ends, deaths.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "transport/loop.h"
#include "vm/sched.h"
#include "vm/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A thread that died leaves its state and loop behind, on purpose (worker.h). */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:run_thread\n";
}

enum kind { DO_ECHO, DO_PANIC, DO_EXIT, DO_HANG, DO_LEAVE, DO_SIGNALS, DO_STOP, DO_SLEEP };

struct item {
    enum kind kind;
    int number;
};

static struct {
    znl_loop *loop;
    znl_timer guard;
    int delivered, sum, ended, wanted;
    znl_worker_end end;
} owner;

static atomic_int discarded, closed_hooks, thread_ends, may_go_on, open_result;

/* --- hooks of the thread ---------------------------------------------------------------------- */

static int hook_open(znl_vm *vm)
{
    assert_non_null(vm->worker);
    znl_worker_set_data(vm->worker, vm);
    return atomic_load(&open_result);
}

static void answer(znl_vm *vm, struct item *item)
{
    assert_int_equal(znl_worker_reply(vm->worker, item), 0);
}

static int run_sleep(lua_State *L)
{
    znl_sched_park_for(L, 60000, NULL);
    return lua_yield(L, 0);
}

static int start_sleep(lua_State *L)
{
    lua_pushcfunction(L, run_sleep);
    return znl_sched_spawn(L, 0, NULL, NULL, NULL);
}

static void hook_receive(znl_vm *vm, void *block)
{
    struct item *item = block;
    assert_ptr_equal(znl_worker_data(vm->worker), vm);
    switch (item->kind) {
    case DO_PANIC:
        free(item);
        lua_pushliteral(vm->L, "as told");
        lua_error(vm->L); /* no protected call around it */
        return;
    case DO_EXIT:
        free(item);
        pthread_exit(NULL);
    case DO_HANG:
        while (!atomic_load(&may_go_on))
            usleep(1000);
        break;
    case DO_LEAVE: {
        static uv_timer_t timer;
        uv_timer_init(znl_loop_uv(vm->loop), &timer);
        break;
    }
    case DO_SIGNALS: {
        sigset_t blocked;
        pthread_sigmask(SIG_SETMASK, NULL, &blocked);
        item->number = sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGPROF) &&
                !sigismember(&blocked, SIGSEGV);
        break;
    }
    case DO_STOP:
        znl_loop_stop(vm->loop);
        break;
    case DO_SLEEP:
        znl_vm_protect(vm, start_sleep, NULL, "test");
        item->number = (int)znl_sched_task_count(vm->sched);
        break;
    case DO_ECHO:
        break;
    }
    answer(vm, item);
}

static int hook_close(znl_vm *vm)
{
    (void)vm;
    atomic_fetch_add(&closed_hooks, 1);
    return 0;
}

static void hook_thread_end(void)
{
    atomic_fetch_add(&thread_ends, 1);
}

/* --- hooks of the owner ----------------------------------------------------------------------- */

static void hook_deliver(void *user, void *block)
{
    struct item *item = block;
    assert_ptr_equal(user, &owner);
    owner.delivered++;
    owner.sum += item->number;
    free(item);
    if (owner.delivered == owner.wanted)
        znl_loop_stop(owner.loop);
}

static void hook_ended(void *user, const znl_worker_end *end)
{
    assert_ptr_equal(user, &owner);
    owner.ended++;
    owner.end = *end;
    znl_loop_stop(owner.loop);
}

static void hook_discard(void *item)
{
    atomic_fetch_add(&discarded, 1);
    free(item);
}

static const znl_worker_hooks hooks = {hook_open, hook_receive, hook_close, hook_thread_end,
        hook_deliver, hook_ended, hook_discard};

/* --- helpers ---------------------------------------------------------------------------------- */

static int setup(void **state)
{
    (void)state;
    memset(&owner, 0, sizeof owner);
    owner.wanted = -1;
    atomic_store(&discarded, 0);
    atomic_store(&closed_hooks, 0);
    atomic_store(&thread_ends, 0);
    atomic_store(&may_go_on, 0);
    atomic_store(&open_result, 0);
    return znl_loop_new(&owner.loop);
}

static int teardown(void **state)
{
    (void)state;
    return znl_loop_close(owner.loop);
}

static znl_worker *start(uint32_t queue)
{
    znl_worker *worker = NULL;
    assert_int_equal(znl_worker_start(&worker, owner.loop, "test", queue, &hooks, &owner), 0);
    znl_worker_keep_loop(worker, 1);
    return worker;
}

static int give(znl_worker *worker, enum kind kind, int number)
{
    struct item *item = malloc(sizeof *item);
    item->kind = kind;
    item->number = number;
    int err = znl_worker_send(worker, item);
    if (err != 0)
        free(item);
    return err;
}

static void give_up(znl_timer *timer)
{
    (void)timer;
    fail_msg("nothing came for 20 seconds");
}

static void run(void)
{
    znl_wheel *wheel = znl_loop_wheel(owner.loop);
    znl_wheel_start(wheel, &owner.guard, znl_clock_mono_ms() + 20000, give_up);
    znl_loop_run(owner.loop);
    znl_wheel_stop(wheel, &owner.guard);
}

static void run_until(int delivered)
{
    owner.wanted = delivered;
    if (owner.delivered < delivered)
        run();
    assert_int_equal(owner.delivered, delivered);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void items_go_there_and_back(void **state)
{
    (void)state;
    znl_worker *worker = start(64);
    int expected = 0, sent = 0;
    while (sent < 5000) { /* many times the queue, so both ends wrap and rest and wake */
        int burst = 0;
        while (burst < 60 && give(worker, DO_ECHO, sent) == 0) {
            expected += sent++;
            burst++;
        }
        run_until(sent);
    }
    assert_int_equal(owner.sum, expected);
    znl_worker_stop(worker);
    run();
    assert_int_equal(owner.ended, 1);
    assert_int_equal(owner.end.err, 0);
    assert_int_equal(owner.end.left_open, 0);
    assert_int_equal(atomic_load(&closed_hooks), 1);
    assert_int_equal(atomic_load(&thread_ends), 1);
    assert_int_equal(give(worker, DO_ECHO, 1), ZNL_E_STOPPED);
    assert_int_equal(znl_worker_close(worker, 0), 0);
    assert_int_equal(owner.ended, 1);
}

static void a_full_queue_refuses(void **state)
{
    (void)state;
    znl_worker *worker = start(4);
    assert_int_equal(give(worker, DO_HANG, 0), 0);
    int sent = 1;
    while (sent < 100 && give(worker, DO_ECHO, 0) == 0)
        sent++;
    assert_true(sent >= 4 && sent <= 5); /* one may have been taken out already */
    assert_int_equal(give(worker, DO_ECHO, 0), ZNL_E_BUSY);
    atomic_store(&may_go_on, 1);
    run_until(sent);
    assert_int_equal(znl_worker_close(worker, 5000), 0);
    assert_int_equal(owner.ended, 0); /* given up: nobody wants to know */
}

static void stopping_discards_what_was_not_received(void **state)
{
    (void)state;
    znl_worker *worker = start(16);
    assert_int_equal(give(worker, DO_HANG, 0), 0);
    for (int i = 0; i < 10; i++)
        assert_int_equal(give(worker, DO_ECHO, 0), 0);
    znl_worker_stop(worker);
    atomic_store(&may_go_on, 1);
    run();
    assert_int_equal(owner.ended, 1);
    assert_int_equal(znl_worker_close(worker, 0), 0);
    assert_int_equal(owner.delivered + atomic_load(&discarded), 11);
}

static void signals_are_blocked_faults_are_not(void **state)
{
    (void)state;
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    znl_worker *worker = start(4);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    assert_int_equal(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM));
    assert_int_equal(give(worker, DO_SIGNALS, 0), 0);
    run_until(1);
    assert_int_equal(owner.sum, 1);
    assert_int_equal(znl_worker_close(worker, 5000), 0);
}

static void a_panic_is_a_death_with_a_reason(void **state)
{
    (void)state;
    znl_worker *worker = start(8);
    assert_int_equal(give(worker, DO_ECHO, 7), 0);
    run_until(1);
    assert_int_equal(give(worker, DO_PANIC, 0), 0);
    assert_int_equal(give(worker, DO_ECHO, 8), 0);
    run();
    assert_int_equal(owner.ended, 1);
    assert_int_equal(owner.end.err, ZNL_E_WORKER_DIED);
    assert_non_null(strstr(owner.end.text, "as told"));
    assert_int_equal(owner.delivered, 1);
    assert_int_equal(atomic_load(&closed_hooks), 0); /* the state is in no condition for it */
    assert_int_equal(give(worker, DO_ECHO, 1), ZNL_E_STOPPED);
    assert_int_equal(znl_worker_close(worker, 0), 0);
    assert_int_equal(atomic_load(&discarded), 1);
    /* And another one works. */
    worker = start(8);
    assert_int_equal(give(worker, DO_ECHO, 1), 0);
    run_until(2);
    assert_int_equal(znl_worker_close(worker, 5000), 0);
}

static void a_thread_that_ends_by_itself_is_a_death(void **state)
{
    (void)state;
    znl_worker *worker = start(8);
    assert_int_equal(give(worker, DO_EXIT, 0), 0);
    run();
    assert_int_equal(owner.ended, 1);
    assert_int_equal(owner.end.err, ZNL_E_WORKER_DIED);
    assert_int_equal(znl_worker_close(worker, 0), 0);
    owner.ended = 0;
    worker = start(8);
    assert_int_equal(give(worker, DO_STOP, 0), 0);
    run();
    assert_int_equal(owner.ended, 1);
    assert_int_equal(owner.end.err, ZNL_E_WORKER_DIED);
    assert_int_equal(znl_worker_close(worker, 0), 0);
}

static void a_state_that_cannot_be_opened_is_told(void **state)
{
    (void)state;
    atomic_store(&open_result, ZNL_E_NOMEM);
    znl_worker *worker = start(8);
    run();
    assert_int_equal(owner.ended, 1);
    assert_int_equal(owner.end.err, ZNL_E_NOMEM);
    assert_int_equal(atomic_load(&thread_ends), 1);
    assert_int_equal(znl_worker_close(worker, 0), 0);
}

static void open_handles_and_waiting_tasks(void **state)
{
    (void)state;
    size_t before = znl_worker_left_open();
    znl_worker *worker = start(8);
    assert_int_equal(give(worker, DO_SLEEP, 0), 0);
    run_until(1);
    assert_int_equal(owner.sum, 1); /* one task, dropped at the end */
    znl_worker_stop(worker);
    run();
    assert_int_equal(owner.end.left_open, 0);
    assert_int_equal(znl_worker_close(worker, 0), 0);
    worker = start(8);
    assert_int_equal(give(worker, DO_LEAVE, 0), 0);
    run_until(2);
    znl_worker_stop(worker);
    run();
    assert_int_equal(owner.end.left_open, 1);
    assert_int_equal(znl_worker_left_open(), before + 1);
    assert_int_equal(znl_worker_close(worker, 0), 0);
}

static void a_thread_that_does_not_stop_is_given_up(void **state)
{
    (void)state;
    znl_worker *worker = start(8);
    assert_int_equal(give(worker, DO_HANG, 0), 0);
    usleep(20000);
    assert_int_equal(znl_worker_stuck_count(), 0);
    assert_int_equal(znl_worker_close(worker, 20), ZNL_E_TIMEOUT);
    assert_int_equal(znl_worker_stuck_count(), 1);
    atomic_store(&may_go_on, 1); /* its end must find nothing that is gone */
    for (int i = 0; i < 30000 && atomic_load(&thread_ends) == 0; i++)
        usleep(1000);
    assert_int_equal(atomic_load(&thread_ends), 1);
    usleep(20000);
    assert_int_equal(owner.ended, 0);
}

static void stopping_before_it_is_up(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        znl_worker *worker = start(8);
        assert_int_equal(give(worker, DO_ECHO, 0), 0);
        assert_int_equal(znl_worker_close(worker, 5000), 0);
    }
    assert_int_equal(owner.delivered, 0);
    assert_int_equal(atomic_load(&discarded), 20);
}

static void starting_without_memory(void **state)
{
    (void)state;
    znl_worker *worker = NULL;
    int err = 0;
    long n = 0;
    for (; n < 100; n++) {
        znl_alloc_fail_after(n);
        err = znl_worker_start(&worker, owner.loop, "test", 8, &hooks, &owner);
        /* From here on the thread allocates as well. */
        if (err == 0)
            break;
        assert_int_equal(err, ZNL_E_NOMEM);
    }
    znl_alloc_fail_after(-1);
    assert_int_equal(n, 4);
    assert_int_equal(znl_worker_close(worker, 5000), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            TEST(items_go_there_and_back),
            TEST(a_full_queue_refuses),
            TEST(stopping_discards_what_was_not_received),
            TEST(signals_are_blocked_faults_are_not),
            TEST(a_panic_is_a_death_with_a_reason),
            TEST(a_thread_that_ends_by_itself_is_a_death),
            TEST(a_state_that_cannot_be_opened_is_told),
            TEST(open_handles_and_waiting_tasks),
            TEST(a_thread_that_does_not_stop_is_given_up),
            TEST(stopping_before_it_is_up),
            TEST(starting_without_memory),
    };
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
