/* bind.h - C as Lua sees it: argument checks, nil-message-code, and the modules znl.core.*.
 *
 * Misuse raises; what can happen to a correct program returns nil, message, code.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_BIND_H
#define ZNL_BIND_BIND_H

#include "base/bytes.h"
#include "base/log.h"
#include "vm/sched.h"
#include "vm/vm.h"

#include <stdint.h>

/* --- results and arguments ---------------------------------------------------------------- */

/* Pushes nil, "where: text of err", code of err; returns 3. */
int znl_lua_fail(lua_State *L, int err, const char *where);

/* Pushes nil, "connect: address: text", code of err; returns 3. `text` may begin with the address: what is said of a
 * connection that never was does. */
int znl_lua_connect_failed(lua_State *L, int err, const char *address, const char *text);

/* What peers are told of an error: its first line, not the traceback; cut between characters. Borrowed. */
znl_frame znl_lua_error_line(const char *text, size_t size);

/* Calls the on_event function below its `count` arguments on top of the stack, protected. True: there are
 * `results` results in their place; else it failed, which is logged for `area`, and nothing is. */
int znl_lua_callevent(lua_State *L, const char *area, int count, int results);

/* A message without the place that error() puts before it: "dir/file.lua:12: " or "[string "..."]:1: ". Others
 * may be meant: "127.0.0.1:9000: refused". */
znl_frame znl_lua_without_place(znl_frame line);

/* Argument `idx` as a whole number; raises "name must be a whole number in min..max". */
uint32_t znl_lua_checku32(lua_State *L, int idx, const char *name, uint32_t min, uint32_t max);

/* Argument `idx`, a string of at most `max` bytes, borrowed from Lua; raises otherwise. Numbers
 * are not taken for strings. */
znl_frame znl_lua_checkframe(lua_State *L, int idx, const char *name, size_t max);

/* Fields of the option table at `idx`; misuse raises. Absent: the fallback, 0, {NULL, 0}, LUA_NOREF. A
 * text is kept alive by the table; a function becomes a reference of the registry. */
uint32_t znl_lua_fieldu32(
        lua_State *L, int idx, const char *name, uint32_t fallback, uint32_t max);
int znl_lua_fieldboolean(lua_State *L, int idx, const char *name);
znl_frame znl_lua_fieldtext(lua_State *L, int idx, const char *name, size_t max);
int znl_lua_fieldfunction(lua_State *L, int idx, const char *name);

/* How long the running task may wait for an answer: no longer than it lives itself. 0,
 * ZNL_E_CANCELLED or ZNL_E_DEADLINE. *is_limited when it has a deadline, which the peer should know. */
int znl_lua_limit_timeout(lua_State *L, uint32_t *timeout_ms, int *is_limited);

/* A payload as frames: nil is one empty frame, a string one frame, an array of strings one
 * each (at least one). The frames borrow from Lua: keep the value on the stack, unchanged,
 * while they are used. Returns 0, ZNL_E_INVALID (anything else) or ZNL_E_TOO_BIG (more than
 * `cap`); never raises. */
int znl_lua_toframes(lua_State *L, int idx, znl_frame *out, size_t cap, size_t *count);

/* The way back: no frame is "", one frame a string, several an array of strings. */
void znl_lua_pushpayload(lua_State *L, const znl_frame *frames, size_t count);

/* Makes a metatable `type` with `methods` as its __index, and `collect` (may be NULL) as its
 * __gc; leaves nothing on the stack. The metatable itself is hidden from scripts. */
void znl_lua_newtype(
        lua_State *L, const char *type, const luaL_Reg *methods, lua_CFunction collect);

/* Pushes nil, "where: reason", code for the cancelled running task (znl_sched_is_cancelled is not
 * 0); returns 3. For who would act before it waits. */
int znl_lua_cancelled(lua_State *L, const char *where);

/* Makes the table, named by the address of `key` in the registry, that leads from a C object (light
 * userdata) to the Lua object for it while there is one: its values are weak. Once per state. */
void znl_lua_newobjects(lua_State *L, const char *key);

/* Pushes the Lua object for `object` and returns 1; 0 and nothing when there is none (any more). */
int znl_lua_findobject(lua_State *L, const char *key, const void *object);

/* The value on top of the stack, which stays there, becomes the one for `object`. May raise for memory. */
void znl_lua_keepobject(lua_State *L, const char *key, const void *object);

/* Argument `idx`, an owner made by znl.core.sched.owner(), borrowed from its userdata: hold it
 * to keep it. Raises otherwise. */
znl_owner *znl_lua_checkowner(lua_State *L, int idx);

/* The owner that claimed the environment of the function at `idx`, borrowed; NULL without. */
znl_owner *znl_lua_ownerof(lua_State *L, int idx);

/* Pushes an owner or a token as Lua sees it: the same object each time, while somebody has it. */
void znl_lua_pushowner(lua_State *L, znl_owner *owner);
void znl_lua_pushtoken(lua_State *L, znl_token *token);

/* --- modules ------------------------------------------------------------------------------ */

int luaopen_znl_core_sched(lua_State *L);
int luaopen_znl_core_token(lua_State *L);
int luaopen_znl_core_timer(lua_State *L);
int luaopen_znl_core_log(lua_State *L);
int luaopen_znl_core_watch(lua_State *L);
int luaopen_znl_core_runtime(lua_State *L);
int luaopen_znl_core_crypto(lua_State *L);
int luaopen_znl_core_socket(lua_State *L);
int luaopen_znl_core_heartbeat(lua_State *L);
int luaopen_znl_core_registry(lua_State *L);
int luaopen_znl_core_node(lua_State *L);
int luaopen_znl_core_micro(lua_State *L);
int luaopen_znl_core_cluster(lua_State *L);
int luaopen_znl_core_hub(lua_State *L);
int luaopen_znl_core_roster(lua_State *L);
int luaopen_znl_core_json(lua_State *L);
int luaopen_znl_core_transcode(lua_State *L);
int luaopen_znl_core_shared(lua_State *L);
int luaopen_znl_core_workers(lua_State *L);
int luaopen_znl_core_testing(lua_State *L);
int luaopen_znl_core_tls(lua_State *L);
int luaopen_znl_core_websocket(lua_State *L);
int luaopen_znl_core_nats(lua_State *L);

/* Adds owners to the module table of znl.core.sched, at the top of the stack (bind/tasks/owner.c). */
void znl_bind_add_owners(lua_State *L);

/* Fills package.preload with znl.core.* and makes the state of znl.core.runtime. Call
 * protected, once. */
void znl_bind_open_all(lua_State *L);

/* Sets level and format of the log, and remembers the format for log.set_level(). */
void znl_bind_log_setup(znl_log_level level, znl_log_format format);

/* Wraps jit.profile for the watchdog. Call protected, once. */
void znl_bind_profile_open(lua_State *L);

/* --- worker threads (bind/tasks/worker.c, bind/tasks/worker_thread.c) --------------------------------- */

/* What fills a new state with modules; called protected, in the thread of the state. */
typedef void (*znl_modules_fn)(lua_State *L);

/* Gives the function that opens the modules of a worker's state: it must make `require
 * "znl.workers.worker"` work. Before the first worker; without, only znl.core.* is there. */
void znl_bind_set_modules(znl_modules_fn open);

/* True in the thread of a worker. */
int znl_lua_in_worker(lua_State *L);

/* Raises "what does not work in a worker thread: …" there. */
void znl_lua_check_main(lua_State *L, const char *what);

/* --- luv (luv.c) --------------------------------------------------------------------- */

/* Puts luv, on our loop, into package.preload as "luv" and "uv". Its callbacks run as tasks:
 * they may wait, and errors are logged. Call protected, once. */
void znl_bind_luv_open(lua_State *L);

/* Closes what scripts left open in luv and lets the loop finish it: its callbacks touch the
 * Lua state, so they must run before the state goes. Returns 0, or ZNL_E_TIMEOUT when a thread
 * pool request outlives wait_ms, or ZNL_E_NOMEM: then the state must not be closed. Drops all
 * tasks. */
int znl_bind_luv_close(znl_vm *vm, uint32_t wait_ms);

/* --- the life of the process (runtime.c) --------------------------------------------- */

/* Makes the state of the functions below, for znl_bind_open_all(). May raise. */
void znl_runtime_prepare(lua_State *L);

/* What runtime.drain_ms() reports. Before there are threads. */
void znl_bind_set_drain_ms(uint32_t drain_ms);

/* What runtime.version reports as "znlrun". Static text; before znl_bind_open_all(). */
void znl_bind_set_version(const char *version);

/* Text such as "libuv 1.44.2" for each library; NULL past the end. Static. */
const char *znl_bind_library_version(unsigned index);

/* Stops every repeating timer (bind/tasks/timer.c): nothing else would end them. Only while not busy. */
void znl_timers_stop_repeating(znl_vm *vm);

/* Functions registered with runtime.on_stop(). */
size_t znl_runtime_stop_count(znl_vm *vm);

/* Runs every on_stop function in a task of its own, newest first; calls finished(user) from the
 * loop or from here, once, after the last has ended. A second call does nothing. */
void znl_runtime_stop(znl_vm *vm, void (*finished)(void *user), void *user);

/* Runs the function of runtime.on_hangup, if there is one: returns whether there is. */
int znl_runtime_hangup(znl_vm *vm);

/* Who to tell when a script calls runtime.exit(code). It may be called while Lua runs. */
void znl_runtime_on_exit(znl_vm *vm, void (*exited)(void *user, int code), void *user);

#endif
