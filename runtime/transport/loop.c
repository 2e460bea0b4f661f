/* loop.c - see loop.h. SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* SCHED_BATCH */
#include "transport/loop.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <zmq.h>

/* Sockets of one context: a process that plays many slaves in a test. libzmq's default is 1023. */
#define ZMQ_SOCKETS_MAX 16384

struct znl_loop {
    uv_loop_t uv;
    uv_timer_t timer;       /* active while the wheel has timers; fires not later than they */
    uv_prepare_t prepare;   /* marks the clocks stale before libuv waits */
    uint64_t armed_ms;      /* when `timer` fires, by our clock */
    uint64_t look_until_ms; /* after a stall: no timer fires before; 0: no stall */
    uint64_t now_ms;
    int64_t unix_ms;
    int is_clock_fresh;
    int is_stopping;
    int zmq_sockets;
    void *zmq;
    uint64_t zmq_endpoints; /* how many were given out */
    void *sim;
    void (*discard_sim)(void *sim);
    void *zap;
    void *streams;
    void (*close_streams)(void *streams);
    void (*discard_streams)(void *streams);
    znl_deferred *first; /* what is deferred, in order */
    znl_deferred *last;
    size_t batch; /* how many of the first are for this turn */
    /* While the clock is frozen. */
    int auto_advance;
    int quiet_turns;
    size_t outside;
    unsigned idle_handles; /* active, and nothing comes of them */
    uint64_t goal_ms;      /* of znl_loop_advance, with `arrived` */
    void (*arrived)(void *user);
    void *arrived_user;
    znl_wheel wheel;
};

/* --- clocks ------------------------------------------------------------------------------------ */

static void read_clocks(znl_loop *loop)
{
    loop->now_ms = znl_clock_mono_ms();
    loop->unix_ms = znl_clock_unix_ms();
    loop->is_clock_fresh = 1;
}

uint64_t znl_loop_now_ms(znl_loop *loop)
{
    if (!loop->is_clock_fresh)
        read_clocks(loop);
    return loop->now_ms;
}

int64_t znl_loop_unix_ms(znl_loop *loop)
{
    if (!loop->is_clock_fresh)
        read_clocks(loop);
    return loop->unix_ms;
}

void znl_loop_clock_changed(znl_loop *loop)
{
    loop->is_clock_fresh = 0;
}

static void before_wait(uv_prepare_t *prepare);

/* --- life -------------------------------------------------------------------------------------- */

int znl_loop_new(znl_loop **out)
{
    znl_loop *loop = znl_calloc(1, sizeof *loop);
    if (loop == NULL)
        return ZNL_E_NOMEM;
    int rc = uv_loop_init(&loop->uv);
    if (rc != 0) {
        znl_free(loop);
        return znl_err_from_uv(rc);
    }
    uv_timer_init(&loop->uv, &loop->timer);
    uv_prepare_init(&loop->uv, &loop->prepare);
    loop->timer.data = loop;
    loop->prepare.data = loop;
    uv_prepare_start(&loop->prepare, before_wait);
    uv_unref((uv_handle_t *)&loop->prepare);
    read_clocks(loop);
    znl_wheel_init(&loop->wheel, loop->now_ms);
    *out = loop;
    return 0;
}

static void close_handle(uv_handle_t *handle, void *leaked)
{
    if (uv_is_closing(handle))
        return;
    ++*(int *)leaked;
    uv_close(handle, NULL);
}

/* Close callbacks may close further handles, which is why this repeats. */
static int finish_handles(uv_loop_t *uv)
{
    int leaked = 0;
    do {
        uv_walk(uv, close_handle, &leaked);
        uv_run(uv, UV_RUN_DEFAULT);
    } while (uv_loop_alive(uv));
    return leaked;
}

int znl_loop_close(znl_loop *loop)
{
    if (loop == NULL)
        return 0;
    uv_close((uv_handle_t *)&loop->timer, NULL);
    uv_close((uv_handle_t *)&loop->prepare, NULL);
    if (loop->streams != NULL)
        loop->close_streams(loop->streams);
    int leaked = finish_handles(&loop->uv);
    if (loop->streams != NULL)
        loop->discard_streams(loop->streams);
    if (loop->sim != NULL)
        loop->discard_sim(loop->sim);
    if (loop->zmq != NULL) {
        zmq_ctx_shutdown(loop->zmq);
        if (loop->zmq_sockets == 0)
            while (zmq_ctx_term(loop->zmq) != 0 && zmq_errno() == EINTR)
                continue;
        leaked += loop->zmq_sockets;
    }
    if (uv_loop_close(&loop->uv) != 0)
        return leaked + 1; /* still used by somebody: leaked, not freed under them */
    znl_free(loop);
    return leaked;
}

uv_loop_t *znl_loop_uv(znl_loop *loop)
{
    return &loop->uv;
}

znl_wheel *znl_loop_wheel(znl_loop *loop)
{
    return &loop->wheel;
}

/* As SCHED_BATCH (sched(7)) libzmq's thread does not interrupt the loop for every single message it
 * is woken for: docs/DECISIONS.md has the figures. libzmq aborts where the policy is refused, so it
 * is tried on this thread first. */
static int may_schedule_as_batch(void)
{
    const struct sched_param param = {0};
    return sched_getscheduler(0) == SCHED_OTHER &&
            sched_setscheduler(0, SCHED_BATCH, &param) == 0 &&
            sched_setscheduler(0, SCHED_OTHER, &param) == 0;
}

void *znl_loop_zmq(znl_loop *loop)
{
    if (loop->zmq == NULL) {
        loop->zmq = zmq_ctx_new();
        if (loop->zmq != NULL) {
            zmq_ctx_set(loop->zmq, ZMQ_MAX_SOCKETS, ZMQ_SOCKETS_MAX);
            if (may_schedule_as_batch())
                zmq_ctx_set(loop->zmq, ZMQ_THREAD_SCHED_POLICY, SCHED_BATCH);
        }
    }
    return loop->zmq;
}

void znl_loop_zmq_endpoint(znl_loop *loop, char *out, size_t size)
{
    snprintf(out, size, "inproc://znl-%" PRIu64, ++loop->zmq_endpoints);
}

void *znl_loop_zap(znl_loop *loop)
{
    return loop->zap;
}

void znl_loop_set_zap(znl_loop *loop, void *zap)
{
    loop->zap = zap;
}

void *znl_loop_sim(znl_loop *loop)
{
    return loop->sim;
}

void znl_loop_set_sim(znl_loop *loop, void *sim, void (*discard)(void *sim))
{
    loop->sim = sim;
    loop->discard_sim = discard;
}

void *znl_loop_streams(znl_loop *loop)
{
    return loop->streams;
}

void znl_loop_set_streams(znl_loop *loop, void *streams, void (*close)(void *streams),
        void (*discard)(void *streams))
{
    loop->streams = streams;
    loop->close_streams = close;
    loop->discard_streams = discard;
}

void znl_loop_zmq_used(znl_loop *loop, int change)
{
    loop->zmq_sockets += change;
}

/* --- deferred work ----------------------------------------------------------------------------- */

void znl_loop_defer(znl_loop *loop, znl_deferred *deferred)
{
    if (deferred->queued)
        return;
    deferred->queued = 1;
    deferred->next = NULL;
    if (loop->first == NULL)
        loop->first = deferred;
    else
        loop->last->next = deferred;
    loop->last = deferred;
}

void znl_loop_undefer(znl_loop *loop, znl_deferred *deferred)
{
    if (!deferred->queued)
        return;
    znl_deferred *before = NULL;
    size_t index = 0;
    for (znl_deferred *at = loop->first; at != deferred; at = at->next) {
        before = at;
        index++;
    }
    if (before == NULL)
        loop->first = deferred->next;
    else
        before->next = deferred->next;
    if (loop->last == deferred)
        loop->last = before;
    if (index < loop->batch)
        loop->batch--;
    deferred->next = NULL;
    deferred->queued = 0;
}

static void run_deferred(znl_loop *loop)
{
    for (const znl_deferred *at = loop->first; at != NULL; at = at->next)
        loop->batch++;
    while (loop->batch > 0) {
        znl_deferred *deferred = loop->first;
        loop->batch--;
        loop->first = deferred->next;
        if (loop->first == NULL)
            loop->last = NULL;
        deferred->next = NULL;
        deferred->queued = 0;
        deferred->run(deferred);
    }
}

/* --- turns ------------------------------------------------------------------------------------- */

static void wheel_due(uv_timer_t *timer)
{
    (void)timer; /* waking up is enough: the next turn advances the wheel */
}

/* True while somebody wants the frozen clock moved, or waits for that although it was thawed. */
static int is_moving_time(const znl_loop *loop)
{
    return loop->arrived != NULL ||
            (loop->auto_advance && znl_clock_is_frozen() && loop->wheel.count > 0 &&
                    loop->uv.active_handles <= loop->idle_handles);
}

static int has_work_under_way(const znl_loop *loop)
{
    return loop->first != NULL || loop->outside > 0 || loop->uv.active_reqs.count > 0;
}

/* False while there is something to do before libuv waits. */
static int may_wait(const znl_loop *loop)
{
    if (loop->first != NULL)
        return 0;
    return !is_moving_time(loop) || has_work_under_way(loop);
}

/* After each turn. A turn without work is followed by a second look: a pipe may have been written in
 * the first, and be readable in the next. True when something may have changed. */
static int move_time(znl_loop *loop)
{
    uint64_t now_ms = znl_loop_now_ms(loop);
    if (!is_moving_time(loop))
        return 0;
    loop->quiet_turns = has_work_under_way(loop) ? 0 : loop->quiet_turns + 1;
    if (loop->quiet_turns < 2)
        return 0;
    loop->quiet_turns = 0;
    void (*arrived)(void *user) = loop->arrived;
    if (arrived != NULL && (now_ms >= loop->goal_ms || !znl_clock_is_frozen())) {
        loop->arrived = NULL;
        arrived(loop->arrived_user);
        return 1;
    }
    uint64_t step_ms = znl_wheel_next_ms(&loop->wheel, now_ms);
    if (arrived != NULL && step_ms > loop->goal_ms - now_ms)
        step_ms = loop->goal_ms - now_ms;
    znl_clock_advance(step_ms);
    loop->is_clock_fresh = 0;
    return 1;
}

int znl_loop_advance(znl_loop *loop, uint64_t ms, void (*done)(void *user), void *user)
{
    if (!znl_clock_is_frozen())
        return ZNL_E_INVALID;
    if (loop->arrived != NULL)
        return ZNL_E_BUSY;
    loop->goal_ms = znl_clock_mono_ms() + ms;
    loop->arrived = done;
    loop->arrived_user = user;
    loop->quiet_turns = 0;
    return 0;
}

void znl_loop_stop_advance(znl_loop *loop)
{
    loop->arrived = NULL;
}

void znl_loop_auto_advance(znl_loop *loop, int on)
{
    loop->auto_advance = on != 0;
}

void znl_loop_idle_handle(znl_loop *loop, int change)
{
    loop->idle_handles += (unsigned)change;
}

void znl_loop_outside(znl_loop *loop, int change)
{
    loop->outside += (size_t)change;
}

/* The timer is moved only when it would fire too late: a needless wake-up costs less than a heap
 * operation per turn. */
static void arm(znl_loop *loop)
{
    uint64_t now_ms = znl_loop_now_ms(loop);
    uint64_t wait_ms = znl_wheel_next_ms(&loop->wheel, now_ms);
    int is_armed = uv_is_active((uv_handle_t *)&loop->timer);
    if (wait_ms == UINT64_MAX || znl_clock_is_frozen()) {
        if (is_armed)
            uv_timer_stop(&loop->timer);
        return;
    }
    uint64_t due_ms = now_ms + wait_ms;
    if (due_ms < loop->look_until_ms)
        due_ms = loop->look_until_ms;
    if (is_armed && loop->armed_ms <= due_ms)
        return;
    loop->armed_ms = due_ms;
    now_ms = znl_clock_mono_ms(); /* the turn may have been a long one */
    uv_update_time(&loop->uv);
    uv_timer_start(&loop->timer, wheel_due, due_ms > now_ms ? due_ms - now_ms : 0, 0);
}

/* Runs after libuv's timers and right before it waits. Those timers, `timer` among them, may have
 * given us work: then it must not wait, or wait less. */
static void before_wait(uv_prepare_t *prepare)
{
    znl_loop *loop = prepare->data;
    if (!may_wait(loop) || loop->is_stopping)
        uv_stop(&loop->uv);
    else
        arm(loop);
    loop->is_clock_fresh = 0;
}

/* How long past the time of the first timer that should have fired. */
static uint64_t lateness_ms(const znl_loop *loop)
{
    uint64_t from_ms = loop->wheel.now_ms;
    if (loop->now_ms <= from_ms || loop->now_ms - from_ms <= ZNL_STALL_MS)
        return 0;
    uint64_t wait_ms = znl_wheel_next_ms(&loop->wheel, from_ms);
    return wait_ms < loop->now_ms - from_ms ? loop->now_ms - from_ms - wait_ms : 0;
}

/* Fires what is due. After a stall, of the process or of the loop alone, what peers have sent waits in
 * sockets, or for libzmq's thread: a peer whose sign of life or answer is among that was not late. */
static void advance(znl_loop *loop)
{
    if (!znl_clock_is_frozen()) {
        if (loop->look_until_ms == 0 && lateness_ms(loop) > ZNL_STALL_MS)
            loop->look_until_ms = loop->now_ms + ZNL_STALL_LOOK_MS;
        if (loop->now_ms < loop->look_until_ms)
            return;
    }
    loop->look_until_ms = 0;
    znl_wheel_advance(&loop->wheel, loop->now_ms);
}

/* True when nothing is left that could wake anything. */
static int is_over(const znl_loop *loop)
{
    int timers_can_fire = !znl_clock_is_frozen() || is_moving_time(loop);
    return loop->first == NULL && loop->arrived == NULL &&
            (loop->wheel.count == 0 || !timers_can_fire);
}

int znl_loop_run(znl_loop *loop)
{
    loop->is_stopping = 0;
    while (!loop->is_stopping) {
        read_clocks(loop);
        run_deferred(loop);
        advance(loop);
        if (loop->is_stopping)
            break;
        arm(loop);
        int is_alive = uv_run(&loop->uv, may_wait(loop) ? UV_RUN_ONCE : UV_RUN_NOWAIT);
        loop->is_clock_fresh = 0;
        int has_moved = move_time(loop);
        if (!is_alive && !has_moved && is_over(loop))
            break;
    }
    loop->is_clock_fresh = 0; /* time passes until the next run */
    return 0;
}

void znl_loop_stop(znl_loop *loop)
{
    loop->is_stopping = 1;
}
