/* sched.h - tasks: Lua functions that run in pooled coroutines, wait, and are woken by the
 * loop.
 *
 * A task is spawned, runs at once until it waits, and is resumed by the loop:
 *
 *     idle -> running <-> parked -> (queued) -> running -> idle
 *
 *   running  its coroutine executes; it may spawn others, which nest
 *   parked   it waits; a ticket (znl_wait) names this one wait
 *   queued   woken with an error while Lua ran; the loop resumes it soon
 *   idle     finished; coroutine and struct serve the next task
 *
 * A function that waits, as a binding writes it:
 *
 *     call->wait = znl_sched_park(L);      // raises outside a task; nothing to leak yet
 *     ... record `call`, send ...
 *     return lua_yield(L, 0);
 *
 * and when the answer is there, from a callback of the loop:
 *
 *     znl_sched_wake(sched, call->wait, push_answer, call);
 *
 * A ticket is good once: later wakes, and those of a task that moved on, do nothing. So no
 * owner of a wait has to be told when the task ended another way.
 *
 * Layer: vm. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_VM_SCHED_H
#define ZNL_VM_SCHED_H

#include "vm/vm.h"

#include <stddef.h>
#include <stdint.h>

/* Most values a wake delivers: a coroutine has room for them without growing its stack.
 * Arguments of a task may be more. */
#define ZNL_TASK_VALUES_MAX 30
/* Most results `done` is handed; the rest is dropped. They fit into any C function's frame. */
#define ZNL_TASK_RESULTS_MAX 8

/* --- owners: who a task runs for ---------------------------------------------------------- */

/* Counts the tasks that run for one thing, such as a version of a handler file. */
typedef struct znl_owner znl_owner;

/* Returns an owner with one reference. 0 or ZNL_E_NOMEM. */
int znl_owner_new(znl_owner **out);
void znl_owner_hold(znl_owner *owner);
/* Gives a reference back; accepts NULL. Tasks hold one each. */
void znl_owner_release(znl_owner *owner);

/* Tasks that run for it now. */
size_t znl_owner_active(const znl_owner *owner);

/* Calls idle(user) once, when the last task ends, or at once when none runs. It may be called
 * while Lua runs and must not call Lua. NULL takes the request back. Not called at shutdown. */
void znl_owner_on_idle(znl_owner *owner, void (*idle)(void *user), void *user);

/* --- tasks -------------------------------------------------------------------------------- */

/* Reports the end of a task, exactly once, protected; what it raises is logged.
 *
 * status 0: the `nresults` values the function returned are at indices 1 .. nresults of L (the
 * top of its stack). Otherwise a string, message and traceback, is there and nresults is 1. L
 * is a state to read them from, not the coroutine of the task, which may already serve
 * another. */
typedef void (*znl_task_done_fn)(void *user, lua_State *L, int status, int nresults);

/* Runs a function as a task until it waits or ends: takes it and its `nargs` arguments from
 * the top of L. Call it protected: from a Lua C function, or from znl_vm_protect().
 *
 * `owner` NULL means that of the running task, if any. `done` NULL: an error is logged. Once
 * this returned 0, `done` has been or will be called, at the latest by znl_sched_drop_all().
 * Returns 0, ZNL_E_NOMEM, ZNL_E_LIMIT (thousands of arguments, or tasks that spawn tasks nest
 * too deeply) or ZNL_E_STOPPED (shutting down); then `done` is not called. What the function
 * itself raises is no error here. */
int znl_sched_spawn(
        lua_State *L, int nargs, znl_owner *owner, znl_task_done_fn done, void *user);

/* One wait of one task. Zeroed memory names none. It may be kept for as long as the scheduler
 * lives: tasks are pooled, never freed. */
typedef struct znl_wait {
    void *task;
    uint64_t ticket;
} znl_wait;

/* Marks the running task as waiting. L must be its coroutine, or this raises "... must be
 * called from a coroutine made by znl". The caller goes on to `return lua_yield(L, 0)`; when
 * it raises instead, the wait is void. */
znl_wait znl_sched_park(lua_State *L);

/* True when L is the coroutine of the running task, so that znl_sched_park(L) would not raise.
 */
int znl_sched_is_task(lua_State *L);

/* znl_sched_park with a deadline, timeout_ms from now: then the task is resumed with
 * nil, "where: no answer in time", "TIMEOUT"; or with nothing, when `where` (static) is NULL.
 */
znl_wait znl_sched_park_for(lua_State *L, uint32_t timeout_ms, const char *where);

/* Pushes what the task shall see as results of its wait; returns how many. Runs protected on
 * the main state. */
typedef int (*znl_push_fn)(lua_State *L, void *user);

/* Resumes the task with the values `push` (NULL: none) pushes. Only from the loop: never while
 * znl_sched_busy(). A void wait is ignored. Never raises; when the values cannot be pushed the
 * task is resumed with nil, message, "NO_MEMORY". No allocation of its own. */
void znl_sched_wake(znl_sched *sched, znl_wait wait, znl_push_fn push, void *user);

/* Resumes the task with nil, "where: text of err", code of err. While Lua runs the task is
 * queued and resumed by the loop (the wait is void at once). `where` must be static. */
void znl_sched_wake_error(znl_sched *sched, znl_wait wait, int err, const char *where);

/* The same, but always queued, also while no Lua runs: for a caller that ends many waits in a row
 * and must not meet, in its own sweep, what the tasks it wakes do next. */
void znl_sched_wake_error_later(znl_sched *sched, znl_wait wait, int err, const char *where);

/* True while the task still waits with this ticket. */
int znl_sched_waits(const znl_sched *sched, znl_wait wait);

/* True while Lua runs: inside znl_vm_protect() or a wake. */
int znl_sched_busy(const znl_sched *sched);

/* Tasks spawned and not ended; coroutines kept for reuse. */
size_t znl_sched_task_count(const znl_sched *sched);
size_t znl_sched_pooled_count(const znl_sched *sched);

/* The owner of the running task, borrowed; NULL without. */
znl_owner *znl_sched_owner(const znl_sched *sched);

/* Ends every task where it waits, without resuming it; `done` hears "stopped". From now on
 * spawning is refused and waking does nothing. Only while not busy. */
void znl_sched_drop_all(znl_sched *sched);

/* True inside `done` when the watchdog interrupted the task in its last run: ask before anything
 * else. */
int znl_sched_was_interrupted(const znl_sched *sched);

/* --- for watchdog.c ----------------------------------------------------------------------- */

/* What the scheduler and the signal handler of the watchdog tell each other. */
typedef struct znl_pulse {
    volatile uint32_t serial; /* changes when an outermost resume or protected call begins */
    volatile int is_alarmed;  /* znl_watchdog_calm() is due when it ends */
} znl_pulse;

/* Borrowed; as long as the scheduler. */
znl_pulse *znl_sched_pulse(znl_sched *sched);
/* The running task, if any, has been interrupted. */
void znl_sched_mark_interrupted(znl_sched *sched);

/* --- for vm.c ----------------------------------------------------------------------------- */

/* Makes the scheduler of `vm`, whose L and loop are set. 0 or ZNL_E_NOMEM. */
int znl_sched_new(znl_sched **out, znl_vm *vm);
/* After lua_close. Accepts NULL. */
void znl_sched_free(znl_sched *sched);
/* Brackets a protected call into Lua; `status` is what it came to. */
void znl_sched_enter(znl_sched *sched);
void znl_sched_leave(znl_sched *sched, int status);

#endif
