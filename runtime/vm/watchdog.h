/* watchdog.h - interrupts Lua code that runs too long without waiting.
 *
 *   quiet    a timer on the CPU time of the vm's thread ticks four times per budget; it stands
 *            still while the thread sleeps. Each tick looks at the serial of the run.
 *   alarmed  one run was seen for the whole budget: a count hook is set, which raises
 *            "file:line: ran for N ms without waiting: interrupted by the watchdog"
 *   calm     the run has ended; hook and traces are put back, and all is quiet again
 *
 * A run is one outermost resume of a task, or one protected call outside of any. Code that
 * catches the error has a moment to clean up and must then wait or return; a third time there
 * is no moment. Functions of znlrun's own library are left to return before the error is raised.
 *
 * Compiled code ignores hooks. Its traces are recorded with LuaJIT's profiler mode on, so that
 * they look at one flag per source line; the alarm sets that flag, they leave to the
 * interpreter, and there the hook works. LuaJIT has one profiler per process: it is taken only
 * while a run is being interrupted, and its own timer never ticks. While another state is about
 * to be interrupted or a script's profiler runs for one, compiled code waits for the next tick.
 *
 * C functions (string.find with a pattern that backtracks, os.execute), finalizers and the
 * message handler of an xpcall that is being interrupted cannot be stopped.
 *
 * Layer: vm. Each watchdog belongs to the thread of its vm; several threads may have one each.
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_VM_WATCHDOG_H
#define ZNL_VM_WATCHDOG_H

#include "vm/vm.h"

#include <stdint.h>

#define ZNL_WATCHDOG_MS_DEFAULT 1000u
#define ZNL_WATCHDOG_MS_MAX 3600000u

/* Watches `vm` with this budget of CPU time from now on; 0 ends it. Call it on the thread that
 * runs the vm. 0, ZNL_E_NOMEM, ZNL_E_SYSTEM (no timer to be had) or ZNL_E_UNSUPPORTED (by
 * ThreadSanitizer); then nothing is watched. */
int znl_watchdog_set(znl_vm *vm, uint32_t budget_ms);

/* The budget; 0 when nothing is watched. */
uint32_t znl_watchdog_budget_ms(const znl_vm *vm);

/* True when compiled code can be interrupted, too. */
int znl_watchdog_reaches_traces(const znl_vm *vm);

/* To be called when somebody else used LuaJIT's profiler for the state of `vm`, and stopped it. */
void znl_watchdog_renew(znl_vm *vm);

/* Runs interrupted since the watch began. */
uint64_t znl_watchdog_count(const znl_vm *vm);

/* For sched.c: a run has ended during which is_alarmed of its pulse was set. */
void znl_watchdog_calm(znl_vm *vm);

#endif
