/* vm.h - one Lua state on one loop, and the protected way into it.
 *
 * Small objects of the state come from slab.h, others from LuaJIT's own allocator, wrapped so that
 * znl_alloc_fail_after() of alloc.h also reaches Lua. Loop callbacks never call Lua bare: they go through znl_vm_protect(), or
 * through znl_sched_wake() of sched.h.
 *
 * Layer: vm. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_VM_VM_H
#define ZNL_VM_VM_H

#include <lauxlib.h>
#include <lua.h>

typedef struct znl_loop znl_loop;
typedef struct znl_sched znl_sched;
typedef struct znl_watchdog znl_watchdog;
typedef struct znl_sources znl_sources;
typedef struct znl_worker znl_worker;

/* The chunk that `pairs` and `next` are from: no line of a script (vm.c). */
#define ZNL_VM_ITERATION "=pairs"

typedef struct znl_vm {
    lua_State *L;           /* the main state: callbacks run here, tasks in coroutines of it */
    znl_sched *sched;       /* owned */
    znl_loop *loop;         /* borrowed; outlives the vm */
    znl_watchdog *watchdog; /* owned; NULL: none (watchdog.h) */
    znl_sources *sources;   /* owned; of traceback.h */
    znl_worker *worker;     /* whose thread this is, see worker.h; NULL: the main thread */
    /* Whether a chunk of this name is part of znlrun, not of a script. NULL: none is. */
    int (*is_library)(const char *source);
} znl_vm;

/* Creates the state with the standard libraries open, and its scheduler. 0 or ZNL_E_NOMEM. */
int znl_vm_new(znl_vm **out, znl_loop *loop);

/* Drops every task (znl_sched_drop_all), then closes the state, which finalizes all objects:
 * they may still call znl_sched_* and znl_loop_* functions, and waking does nothing by then.
 * Close the loop afterwards, not before. Accepts NULL. */
void znl_vm_free(znl_vm *vm);

/* The vm that `L`, main state or coroutine, belongs to. Costs a few loads; never raises. */
znl_vm *znl_vm_of(lua_State *L);

/* Calls fn on the main state, `ud` as light userdata at index 1, with room for LUA_MINSTACK
 * more. What fn returns is discarded. An error is logged under `area` with a traceback, never
 * raised; after an out-of-memory error a full collection follows. While it runs the scheduler
 * is busy.
 *
 * Returns 0 or the status of lua_pcall. No allocation of its own. */
int znl_vm_protect(znl_vm *vm, lua_CFunction fn, void *ud, const char *area);

/* Replaces the error value at the top of L by "message\nstack traceback:..." (traceback.h). The
 * traceback shows `co`, which may be L itself. Never raises; falls back to the bare message. */
void znl_vm_traceback(lua_State *L, lua_State *co);

#endif
