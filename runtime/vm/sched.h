/* sched.h - tasks: Lua functions that run in pooled coroutines, wait, and are woken by the
 * loop.
 *
 * A task is spawned, runs at once until it waits, and is resumed by the loop:
 *
 *     idle -> running <-> parked -> (queued) -> running -> idle
 *
 *   running  its coroutine executes; it may spawn others, which nest
 *   parked   it waits; a ticket (znl_wait) names this one wait
 *   queued   woken while Lua ran, or cancelled, or dropped; the loop sees to it in its next turn
 *   idle     finished; coroutine and struct serve the next task
 *
 * A task runs for an owner (owner.h) or none, is work in the foreground or the background, and runs
 * under a token (token.h) or none.
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

#include "vm/owner.h"
#include "vm/token.h"
#include "vm/vm.h"

#include <stddef.h>
#include <stdint.h>

/* Most values a wake delivers: a coroutine has room for them without growing its stack.
 * Arguments of a task may be more. */
#define ZNL_TASK_VALUES_MAX 30
/* Most results `done` is handed; the rest is dropped. They fit into any C function's frame. */
#define ZNL_TASK_RESULTS_MAX 8

/* --- tasks -------------------------------------------------------------------------------- */

/* The status of a task that was ended where it waited, by its owner or at shutdown. */
#define ZNL_TASK_DROPPED (-1)

/* Reports the end of a task, exactly once, protected; what it raises is logged.
 *
 * status 0: the `nresults` values the function returned are at indices 1 .. nresults of L (the
 * top of its stack). Otherwise a string is at 1 and nresults is 1: message and traceback, or,
 * with ZNL_TASK_DROPPED, why it was dropped. A table that was raised is at 2 as well. L
 * is a state to read them from, not the coroutine of the task, which may already serve
 * another. */
typedef void (*znl_task_done_fn)(void *user, lua_State *L, int status, int nresults);

/* Asked before `done`, when the function of a task returned: `co` is its coroutine, with the results
 * at 1 .. nresults, all of them. True: they have been dealt with, and `done` is not called. Not
 * protected: it must not do to `co` what may raise, which leaves looking at types and at strings. */
typedef int (*znl_task_returned_fn)(void *user, lua_State *co, int nresults);

/* Names a task for as long as the scheduler lives; a task that ended is found no more. */
typedef struct znl_task_ref {
    uint32_t index;
    uint64_t serial; /* below 2^53 */
} znl_task_ref;

/* Which list of its owner a task is in. */
typedef enum znl_task_kind {
    ZNL_TASK_INHERITS, /* as the running task, when that is inherited from, else foreground */
    ZNL_TASK_FOREGROUND,
    ZNL_TASK_BACKGROUND,
} znl_task_kind;

/* How a task starts. Zeroed memory is a task of its own, with nobody to tell. */
typedef struct znl_spawn {
    int inherits; /* owner, token and kind, where not given, are those of the running task */
    znl_task_kind kind;
    znl_owner *owner;              /* borrowed: the task holds it */
    znl_token *token;              /* the same */
    znl_task_done_fn done;         /* NULL: an error is logged */
    znl_task_returned_fn returned; /* NULL: `done` hears of every end */
    void *user;
    znl_task_ref *ref; /* filled in before the task runs; NULL: not wanted */
} znl_spawn;

/* Runs a function as a task until it waits or ends: takes it and its `nargs` arguments from
 * the top of L. Call it protected: from a Lua C function, or from znl_vm_protect().
 *
 * Once this returned 0, `done` has been or will be called, at the latest by znl_sched_drop_all().
 * Returns 0, ZNL_E_NOMEM, ZNL_E_LIMIT (thousands of arguments, or tasks that spawn tasks nest
 * too deeply) or ZNL_E_STOPPED (shutting down, or the owner takes no such task any more); then
 * `done` is not called. What the function itself raises is no error here. */
int znl_sched_spawn_as(lua_State *L, int nargs, const znl_spawn *how);

/* The same for the function that the registry holds under `fn_ref`, without arguments, from the loop:
 * never while znl_sched_busy(). It needs no protected call around it and raises nothing: what the
 * function needs it fetches itself, as znl_sched_user_of() lets it. Results as above. */
int znl_sched_run(znl_sched *sched, int fn_ref, const znl_spawn *how);

/* The `user` of the running task, when L is its coroutine and it is one that ends in `done`; else
 * NULL. */
void *znl_sched_user_of(lua_State *L, znl_task_done_fn done);

/* The short form: inherits. With an owner the task is in the foreground. */
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
 * it raises instead, the wait is void.
 *
 * `where` (static; "wait" by default) begins the message the task gets when it is cancelled. When
 * it is cancelled already the wait is void from the start, and the loop ends it in its next turn:
 * who would send something first asks znl_sched_is_cancelled(). */
znl_wait znl_sched_park_as(lua_State *L, const char *where);
znl_wait znl_sched_park(lua_State *L);

/* True when L is the coroutine of the running task, so that znl_sched_park(L) would not raise.
 */
int znl_sched_is_task(lua_State *L);

/* Calls lost(user, id) when the wait the running task has just begun ends in another way than by a
 * wake: its time is over, it was cancelled or dropped. It must not call Lua. Not called at shutdown,
 * nor when the wait was void from the start. */
void znl_sched_on_lost(
        znl_sched *sched, void (*lost)(void *user, uint64_t id), void *user, uint64_t id);

/* znl_sched_park_as with a deadline, timeout_ms from now: then the task is resumed with
 * nil, "where: no answer in time", "TIMEOUT". */
znl_wait znl_sched_park_for(lua_State *L, uint32_t timeout_ms, const char *where);

/* The same, but the task is resumed with true. */
znl_wait znl_sched_sleep(lua_State *L, uint32_t ms);

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

/* Queues the task to be resumed with true, whether Lua runs or not. Returns whether it waited. */
int znl_sched_wake_later(znl_sched *sched, znl_wait wait);

/* True while the task still waits with this ticket. */
int znl_sched_waits(const znl_sched *sched, znl_wait wait);

/* True while Lua runs: inside znl_vm_protect() or a wake. */
int znl_sched_busy(const znl_sched *sched);

/* Tasks spawned and not ended; coroutines kept for reuse. */
size_t znl_sched_task_count(const znl_sched *sched);
size_t znl_sched_pooled_count(const znl_sched *sched);

typedef struct znl_sched_counters {
    uint64_t tasks;  /* now: spawned and not ended */
    uint64_t pooled; /* now: coroutines kept for reuse */
    uint64_t spawned;
    uint64_t failed; /* raised */
    uint64_t cut;    /* dropped where they waited */
} znl_sched_counters;
void znl_sched_count(const znl_sched *sched, znl_sched_counters *out);

/* --- what the running task belongs to ----------------------------------------------------- */

/* Its owner, borrowed; NULL without. */
znl_owner *znl_sched_owner(const znl_sched *sched);

/* Makes it count for `owner` (NULL: for none) from now on; its kind stays. 0, ZNL_E_STOPPED when
 * the owner takes no such task any more, ZNL_E_INVALID when no task runs. */
int znl_sched_become(znl_sched *sched, znl_owner *owner);

/* Its token, borrowed; NULL without. When that, or the nearest parent, will be cancelled; 0: never.
 */
znl_token *znl_sched_token(const znl_sched *sched);
uint64_t znl_sched_deadline_ms(const znl_sched *sched);

/* True when there is neither a deadline nor anything that could have cancelled it. */
int znl_sched_is_unbound(const znl_sched *sched);

/* 0, or what its next wait will end with: ZNL_E_CANCELLED, ZNL_E_DEADLINE. Then the reason, for
 * people, valid until the task runs on; else NULL. */
int znl_sched_is_cancelled(const znl_sched *sched);
const char *znl_sched_cancel_reason(const znl_sched *sched);

/* Puts it under `token` (NULL: none) instead of its own. `shielded`: znl_sched_cancel() does not
 * count meanwhile, either. 0, or ZNL_E_INVALID when no task runs. */
int znl_sched_set_token(znl_sched *sched, znl_token *token, int shielded);
int znl_sched_is_shielded(const znl_sched *sched);

/* --- tasks by name ------------------------------------------------------------------------ */

/* True until the task ended. */
int znl_sched_is_live(const znl_sched *sched, znl_task_ref ref);

/* Cancels this one task, not those it spawned: its waits end with nil, "where: reason",
 * "CANCELLED" from now on. `reason` NULL: a general text. Returns 0, also when it is cancelled
 * already; ZNL_E_NOT_FOUND when it has ended; ZNL_E_NOMEM. */
int znl_sched_cancel(znl_sched *sched, znl_task_ref ref, const char *reason, size_t size);

/* A wait in numbers, for those who cannot keep a pointer; both below 2^53. Any numbers may be given
 * back: they name a wait, or one that has ended. */
typedef struct znl_wait_name {
    uint32_t index;
    uint64_t ticket; /* 0: void from the start */
} znl_wait_name;
znl_wait_name znl_sched_name_wait(znl_wait wait);
znl_wait znl_sched_named_wait(const znl_sched *sched, znl_wait_name name);

/* --- shutdown ----------------------------------------------------------------------------- */

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
