/* worker.c - see worker.h. SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* pthread_setname_np */
#include "vm/worker.h"

#include "base/alloc.h"
#include "base/err.h"
#include "transport/loop.h"
#include "vm/ring.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define STACK_BYTES                                                                            \
    (8u * 1024 * 1024) /* as the main thread has by default; taken as it is used */
#define BATCH 64u      /* items taken before timers and files have a turn */

/* Wakes the loop at the reading end of a ring, once for however many items: while `is_awake`, the
 * reader will look at the ring again before it rests. */
struct gate {
    pthread_mutex_t lock; /* holds off the closing of `async` */
    uv_async_t *async;    /* NULL: nobody reads, not yet or not any more */
    atomic_int is_awake;
};

struct znl_worker {
    const znl_worker_hooks *hooks;
    void *user;
    void *data;
    znl_ring *to_worker, *to_owner;
    uint32_t queue; /* items that each takes, at least */
    struct gate worker_gate, owner_gate;
    atomic_int holders; /* the owner, the thread, and the owner's loop while it delivers */
    atomic_int is_stopping, has_ended;
    int is_told;   /* hooks->ended was called, or must not be any more */
    int is_closed; /* by the owner */
    pthread_t thread;
    pthread_mutex_t end_lock;
    pthread_cond_t end_signal;
    znl_worker_end end; /* written by the thread before has_ended */
    jmp_buf panicked;
    znl_loop *loop; /* of the thread */
    znl_vm *vm;
    char name[16];
};

static atomic_size_t stuck_count, left_open;
static pthread_once_t death_once = PTHREAD_ONCE_INIT;
static pthread_key_t death_key; /* its destructor tells of a thread that ended by other means */
static int death_key_error;

size_t znl_worker_stuck_count(void)
{
    return atomic_load(&stuck_count);
}

size_t znl_worker_left_open(void)
{
    return atomic_load(&left_open);
}

/* --- gates ------------------------------------------------------------------------------------ */

/* The writer, after a push. */
static void gate_wake(struct gate *gate)
{
    /* Exchanges on both sides: whoever comes second sees all that the other did before. */
    if (atomic_exchange_explicit(&gate->is_awake, 1, memory_order_acq_rel))
        return;
    pthread_mutex_lock(&gate->lock);
    if (gate->async != NULL)
        uv_async_send(gate->async);
    pthread_mutex_unlock(&gate->lock);
}

/* The reader, having found the ring empty; it looks once more, and rests unless gate_rouse(). */
static void gate_rest(struct gate *gate)
{
    atomic_exchange_explicit(&gate->is_awake, 0, memory_order_acq_rel);
}

/* The reader found something after all: true when it goes on, false when a wake is under way. */
static int gate_rouse(struct gate *gate)
{
    return !atomic_exchange_explicit(&gate->is_awake, 1, memory_order_acq_rel);
}

static void on_async_closed(uv_handle_t *handle)
{
    znl_free(handle);
}

static int gate_open(struct gate *gate, uv_loop_t *loop, uv_async_cb wake, void *data)
{
    uv_async_t *async = znl_calloc(1, sizeof *async);
    if (async == NULL)
        return ZNL_E_NOMEM;
    int code = uv_async_init(loop, async, wake);
    if (code != 0) {
        znl_free(async);
        return znl_err_from_uv(code);
    }
    async->data = data;
    pthread_mutex_lock(&gate->lock);
    gate->async = async;
    pthread_mutex_unlock(&gate->lock);
    return 0;
}

static uv_async_t *gate_shut(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    uv_async_t *async = gate->async;
    gate->async = NULL;
    pthread_mutex_unlock(&gate->lock);
    return async;
}

static void gate_close(struct gate *gate)
{
    uv_async_t *async = gate_shut(gate);
    if (async != NULL)
        uv_close((uv_handle_t *)async, on_async_closed);
}

/* --- both threads ----------------------------------------------------------------------------- */

static void discard_all(const znl_worker *worker, znl_ring *ring)
{
    void *item;
    while (ring != NULL && (item = znl_ring_pop(ring)) != NULL)
        worker->hooks->discard(item);
}

static void release(znl_worker *worker)
{
    if (atomic_fetch_sub_explicit(&worker->holders, 1, memory_order_acq_rel) != 1)
        return;
    discard_all(worker, worker->to_worker);
    discard_all(worker, worker->to_owner);
    znl_ring_free(worker->to_worker);
    znl_ring_free(worker->to_owner);
    pthread_mutex_destroy(&worker->worker_gate.lock);
    pthread_mutex_destroy(&worker->owner_gate.lock);
    pthread_mutex_destroy(&worker->end_lock);
    pthread_cond_destroy(&worker->end_signal);
    znl_free(worker);
}

/* --- the thread ------------------------------------------------------------------------------- */

/* Nothing of the worker is touched after this by the thread. */
static void tell_end(znl_worker *worker)
{
    pthread_mutex_lock(&worker->end_lock);
    atomic_store_explicit(&worker->has_ended, 1, memory_order_release);
    pthread_cond_signal(&worker->end_signal);
    pthread_mutex_unlock(&worker->end_lock);
    gate_wake(&worker->owner_gate);
    release(worker);
}

static void set_death(znl_worker *worker, const char *text)
{
    worker->end.err = ZNL_E_WORKER_DIED;
    snprintf(worker->end.text, sizeof worker->end.text, "%s", text);
}

/* Of the key: runs when the thread ends without having told, such as by pthread_exit() in a C
 * function that Lua called. */
static void on_thread_gone(void *arg)
{
    znl_worker *worker = arg;
    gate_shut(&worker->worker_gate);
    set_death(worker, "something ended its thread");
    tell_end(worker);
}

static void make_death_key(void)
{
    death_key_error = pthread_key_create(&death_key, on_thread_gone);
}

/* LuaJIT would end the process after this returned. */
static int on_panic(lua_State *L)
{
    znl_worker *worker = znl_vm_of(L)->worker;
    const char *text = lua_tostring(L, -1);
    char line[sizeof worker->end.text];
    snprintf(line, sizeof line, "Lua error outside of a protected call: %s",
            text != NULL ? text : "(no text)");
    gate_shut(&worker->worker_gate);
    set_death(worker, line);
    longjmp(worker->panicked, 1);
}

static void on_worker_wake(uv_async_t *async)
{
    znl_worker *worker = async->data;
    for (unsigned count = 0; count < BATCH; count++) {
        if (atomic_load_explicit(&worker->is_stopping, memory_order_acquire)) {
            znl_loop_stop(worker->loop);
            return;
        }
        void *item = znl_ring_pop(worker->to_worker);
        if (item != NULL) {
            worker->hooks->receive(worker->vm, item);
            continue;
        }
        gate_rest(&worker->worker_gate);
        if (znl_ring_is_empty(worker->to_worker) &&
                !atomic_load_explicit(&worker->is_stopping, memory_order_acquire))
            return;
        if (!gate_rouse(&worker->worker_gate))
            return;
    }
    uv_async_send(async);
}

/* Closes what life() made, as far as it came. */
static void end_life(znl_worker *worker)
{
    gate_close(&worker->worker_gate);
    if (worker->vm != NULL && worker->hooks->close(worker->vm) != 0) {
        /* Something still works for the state: it and its loop are leaked, not freed under it. */
        atomic_fetch_add(&left_open, 1);
        worker->end.left_open = 1;
        return;
    }
    znl_vm_free(worker->vm);
    worker->vm = NULL;
    worker->end.left_open = znl_loop_close(worker->loop);
    worker->loop = NULL;
    atomic_fetch_add(&left_open, (size_t)worker->end.left_open);
    worker->hooks->thread_end();
}

static void life(znl_worker *worker)
{
    int err = znl_loop_new(&worker->loop);
    if (err == 0)
        err = znl_vm_new(&worker->vm, worker->loop);
    if (err == 0) {
        worker->vm->worker = worker;
        lua_atpanic(worker->vm->L, on_panic);
        err = worker->hooks->open(worker->vm);
    }
    if (err == 0)
        err = gate_open(
                &worker->worker_gate, znl_loop_uv(worker->loop), on_worker_wake, worker);
    if (err == 0) {
        /* The gate was awake so far, so senders left the first wake to us. */
        uv_async_send(worker->worker_gate.async);
        znl_loop_run(worker->loop);
        if (!atomic_load_explicit(&worker->is_stopping, memory_order_acquire))
            set_death(worker, "its loop ended");
    } else {
        worker->end.err = err;
        snprintf(worker->end.text, sizeof worker->end.text, "%s", znl_err_text(err));
    }
    end_life(worker);
}

static void *run_thread(void *arg)
{
    znl_worker *worker = arg;
    pthread_setname_np(pthread_self(), worker->name);
    if (pthread_setspecific(death_key, worker) != 0) {
        worker->end.err = ZNL_E_NOMEM;
    } else {
        if (setjmp(worker->panicked) == 0)
            life(worker);
        pthread_setspecific(death_key, NULL);
    }
    tell_end(worker);
    return NULL;
}

int znl_worker_reply(znl_worker *worker, void *item)
{
    int err = znl_ring_push(worker->to_owner, item);
    if (err == 0)
        gate_wake(&worker->owner_gate);
    return err;
}

int znl_worker_offer(znl_worker *worker, void *item)
{
    if (znl_ring_room(worker->to_owner) <= worker->queue / 2)
        return ZNL_E_BUSY;
    return znl_worker_reply(worker, item);
}

void znl_worker_set_data(znl_worker *worker, void *data)
{
    worker->data = data;
}

void *znl_worker_data(const znl_worker *worker)
{
    return worker->data;
}

/* --- the owner -------------------------------------------------------------------------------- */

static void tell_owner(znl_worker *worker)
{
    if (worker->is_told)
        return;
    worker->is_told = 1;
    pthread_join(worker->thread, NULL); /* at its last instruction */
    gate_close(&worker->owner_gate);
    worker->hooks->ended(worker->user, &worker->end);
}

static void on_owner_wake(uv_async_t *async)
{
    znl_worker *worker = async->data;
    atomic_fetch_add_explicit(&worker->holders, 1, memory_order_relaxed);
    for (unsigned count = 0; !worker->is_closed; count++) {
        if (count == BATCH) {
            uv_async_send(async);
            break;
        }
        /* Asked first: what is not in the ring after its end will not come. */
        int has_ended = atomic_load_explicit(&worker->has_ended, memory_order_acquire);
        void *item = znl_ring_pop(worker->to_owner);
        if (item != NULL) {
            worker->hooks->deliver(worker->user, item);
            continue;
        }
        if (has_ended) {
            tell_owner(worker);
            break;
        }
        gate_rest(&worker->owner_gate);
        if (znl_ring_is_empty(worker->to_owner) &&
                !atomic_load_explicit(&worker->has_ended, memory_order_acquire))
            break;
        if (!gate_rouse(&worker->owner_gate))
            break;
    }
    release(worker);
}

/* The thread inherits what is blocked here. */
static int start_thread(znl_worker *worker)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    pthread_attr_t attributes;
    sigset_t blocked, before;
    if (pthread_attr_init(&attributes) != 0)
        return ZNL_E_NOMEM;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&blocked, faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int code = pthread_attr_setstacksize(&attributes, STACK_BYTES);
    if (code == 0)
        code = pthread_create(&worker->thread, &attributes, run_thread, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return code == 0 ? 0 : ZNL_E_SYSTEM;
}

static void init_locks(znl_worker *worker)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&worker->end_signal, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&worker->end_lock, NULL);
    pthread_mutex_init(&worker->worker_gate.lock, NULL);
    pthread_mutex_init(&worker->owner_gate.lock, NULL);
}

int znl_worker_start(znl_worker **out, znl_loop *loop, const char *name, uint32_t queue,
        const znl_worker_hooks *hooks, void *user)
{
    pthread_once(&death_once, make_death_key);
    if (death_key_error != 0)
        return ZNL_E_SYSTEM;
    znl_worker *worker = znl_calloc(1, sizeof *worker);
    if (worker == NULL)
        return ZNL_E_NOMEM;
    init_locks(worker);
    worker->hooks = hooks;
    worker->user = user;
    worker->queue = queue;
    snprintf(worker->name, sizeof worker->name, "%s", name);
    atomic_store(&worker->holders, 1);
    atomic_store(&worker->worker_gate.is_awake, 1); /* until the thread is up */
    int err = znl_ring_new(&worker->to_worker, queue);
    if (err == 0)
        err = znl_ring_new(&worker->to_owner, queue);
    if (err == 0)
        err = gate_open(&worker->owner_gate, znl_loop_uv(loop), on_owner_wake, worker);
    if (err == 0) {
        uv_unref((uv_handle_t *)worker->owner_gate.async);
        atomic_store(&worker->holders, 2);
        err = start_thread(worker);
        if (err != 0)
            atomic_store(&worker->holders, 1);
    }
    if (err != 0) {
        gate_close(&worker->owner_gate);
        release(worker);
        return err;
    }
    *out = worker;
    return 0;
}

int znl_worker_send(znl_worker *worker, void *item)
{
    if (worker->is_told || atomic_load_explicit(&worker->has_ended, memory_order_acquire))
        return ZNL_E_STOPPED;
    int err = znl_ring_push(worker->to_worker, item);
    if (err == 0)
        gate_wake(&worker->worker_gate);
    return err;
}

void znl_worker_keep_loop(znl_worker *worker, int keep)
{
    uv_handle_t *async = (uv_handle_t *)worker->owner_gate.async; /* set by this thread */
    if (async == NULL)
        return;
    if (keep)
        uv_ref(async);
    else
        uv_unref(async);
}

void znl_worker_stop(znl_worker *worker)
{
    atomic_store_explicit(&worker->is_stopping, 1, memory_order_release);
    gate_wake(&worker->worker_gate);
}

/* 0 once the thread has said that it ends. */
static int await_end(znl_worker *worker, uint32_t wait_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    int code = 0;
    pthread_mutex_lock(&worker->end_lock);
    while (!atomic_load_explicit(&worker->has_ended, memory_order_acquire) && code == 0)
        code = pthread_cond_timedwait(&worker->end_signal, &worker->end_lock, &until);
    pthread_mutex_unlock(&worker->end_lock);
    return atomic_load_explicit(&worker->has_ended, memory_order_acquire) ? 0 : ZNL_E_TIMEOUT;
}

int znl_worker_close(znl_worker *worker, uint32_t wait_ms)
{
    int err = 0;
    if (worker == NULL)
        return 0;
    worker->is_closed = 1;
    if (!worker->is_told) {
        worker->is_told = 1;
        znl_worker_stop(worker);
        err = await_end(worker, wait_ms);
        gate_close(&worker->owner_gate);
        if (err == 0) {
            pthread_join(worker->thread, NULL);
        } else {
            atomic_fetch_add(&stuck_count, 1); /* for good: it may end at any time, or never */
            pthread_detach(worker->thread);
        }
    }
    release(worker);
    return err;
}
