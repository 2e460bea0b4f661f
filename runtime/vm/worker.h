/* worker.h - a thread with a Lua state, a loop and a scheduler of its own, and two bounded queues
 * between it and the thread that made it, its owner.
 *
 *   starting -> running -> stopping -> ended
 *                     \-----------------^   it died: a Lua panic, or something ended the thread
 *
 * Loop and state are made and freed in the thread. After a death they are not freed: nobody knows
 * in what condition they are. Items are pointers; a queue hands each over from one thread to the
 * other. Signals are blocked in the thread, except those that report its own faults.
 *
 * Layer: vm. Each function names its thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_VM_WORKER_H
#define ZNL_VM_WORKER_H

#include "vm/vm.h"

#include <stddef.h>
#include <stdint.h>

typedef struct znl_worker znl_worker;

/* How a worker ended. */
typedef struct znl_worker_end {
    int err;        /* 0: it was stopped; ZNL_E_WORKER_DIED; or why it could not start */
    char text[512]; /* for people: what the panic said; may be empty */
    int left_open;  /* handles that its Lua code left open, as znl_loop_close() counts them */
} znl_worker_end;

typedef struct znl_worker_hooks {
    /* In the worker's thread. */
    int (*open)(znl_vm *vm); /* fills the new state; 0 or an error, logged there */
    void (*receive)(znl_vm *vm, void *item); /* takes an item of the owner */
    int (*close)(znl_vm *vm); /* before the state is freed; else: it must not be */
    void (*thread_end)(void); /* the last thing in the thread, unless it died */
    /* In the owner's thread, from its loop, while no Lua runs. */
    void (*deliver)(void *user, void *item);              /* takes an item of the worker */
    void (*ended)(void *user, const znl_worker_end *end); /* once, after the last deliver */
    /* In either. */
    void (*discard)(void *item); /* frees an item that nobody received */
} znl_worker_hooks;

/* Owner: starts a thread called `name` (cut to 15 bytes), which sends and receives up to `queue`
 * items at once. `hooks` must be static. 0, ZNL_E_NOMEM, ZNL_E_INVALID or ZNL_E_SYSTEM. What goes
 * wrong in the thread comes to hooks->ended. The worker does not keep the owner's loop running,
 * see znl_worker_keep_loop(). */
int znl_worker_start(znl_worker **out, znl_loop *loop, const char *name, uint32_t queue,
        const znl_worker_hooks *hooks, void *user);

/* Owner: hands `item` over; may be called before the thread is up. 0, ZNL_E_BUSY (the queue is
 * full) or ZNL_E_STOPPED (it has ended); then `item` stays with the caller. */
int znl_worker_send(znl_worker *worker, void *item);

/* Owner: whether the loop must run on until the worker has sent something or ended. */
void znl_worker_keep_loop(znl_worker *worker, int keep);

/* Owner: asks the thread to end after what it is doing now; tasks that wait are dropped, items on
 * their way to it discarded. hooks->ended follows, unless its Lua code never comes back. */
void znl_worker_stop(znl_worker *worker);

/* Owner: stops, waits at most wait_ms for the thread, and gives the worker up; no hook of the
 * owner is called from here on. 0, or ZNL_E_TIMEOUT when the thread still runs: it is left to
 * itself, and the process must end by _exit() while znl_worker_stuck_count() is not 0. Takes
 * `worker`; accepts NULL. */
int znl_worker_close(znl_worker *worker, uint32_t wait_ms);

/* Worker: hands `item` to the owner. 0 or ZNL_E_BUSY; then it stays with the caller. */
int znl_worker_reply(znl_worker *worker, void *item);

/* The same for what the owner did not ask for: half of the queue is kept free for replies. */
int znl_worker_offer(znl_worker *worker, void *item);

/* Worker: what keeps the state's own data, for hooks. */
void znl_worker_set_data(znl_worker *worker, void *data);
void *znl_worker_data(const znl_worker *worker);

/* Any thread: threads that were given up and still run. */
size_t znl_worker_stuck_count(void);

/* Any thread: handles that all workers which ended so far had left open. */
size_t znl_worker_left_open(void);

#endif
