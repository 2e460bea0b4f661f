/* worker_thread.c - znl.core.workers inside a worker: calls become tasks, what they return goes
 * back.
 *
 * Layer: bind. Everything here runs in the worker's thread. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/err.h"
#include "bind/tasks/worker.h"
#include "security/aead.h"

#include <stdatomic.h>
#include <string.h>

#define CLOSE_WAIT_MS 2000u /* for what the Lua code left in libuv's thread pool */
#define LARGE_BYTES 1024u   /* of a call: worth giving back early */

struct end {
    int handle_ref, cancel_ref; /* what serve() was given */
    int is_closing;
};

/* Set once, before the first worker starts. */
static _Atomic(znl_modules_fn) open_modules;

void znl_bind_set_modules(znl_modules_fn open)
{
    atomic_store(&open_modules, open);
}

static struct end *end_of(const znl_vm *vm)
{
    return znl_worker_data(vm->worker);
}

int znl_lua_in_worker(lua_State *L)
{
    return znl_vm_of(L)->worker != NULL;
}

void znl_lua_check_main(lua_State *L, const char *what)
{
    if (znl_lua_in_worker(L))
        luaL_error(L,
                "%s does not work in a worker thread: nodes, signals and the life of the process "
                "belong to the main thread",
                what);
}

/* --- life ------------------------------------------------------------------------------------- */

/* upvalue 1: the name of the function */
static int not_here(lua_State *L)
{
    znl_lua_check_main(L, lua_tostring(L, lua_upvalueindex(1)));
    return 0; /* not reached */
}

static void forbid(lua_State *L, const char *module, const char *name)
{
    lua_pushfstring(L, "%s.%s", module, name);
    lua_pushcclosure(L, not_here, 1);
    lua_setfield(L, -2, name);
}

static int open_state(lua_State *L)
{
    znl_modules_fn open = atomic_load(&open_modules);
    if (open != NULL)
        open(L);
    else
        znl_bind_open_all(L);
    lua_getglobal(L, "os");
    forbid(L, "os", "exit"); /* would end the process under the other threads */
    lua_pop(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "znl.workers.worker");
    lua_call(L, 1, 0);
    return 0;
}

int znl_worker_thread_open(znl_vm *vm)
{
    struct end *end = znl_calloc(1, sizeof *end);
    if (end == NULL)
        return ZNL_E_NOMEM;
    end->handle_ref = end->cancel_ref = LUA_NOREF;
    znl_worker_set_data(vm->worker, end);
    return znl_vm_protect(vm, open_state, NULL, "worker") == 0 ? 0 : ZNL_E_SYSTEM;
}

int znl_worker_thread_close(znl_vm *vm)
{
    struct end *end = end_of(vm);
    if (end == NULL)
        return 0;
    end->is_closing = 1;
    int err = znl_bind_luv_close(
            vm, CLOSE_WAIT_MS); /* drops all tasks, which answers their calls */
    if (err == 0)
        znl_free(end);
    return err;
}

void znl_worker_thread_end(void)
{
    znl_aead_thread_end();
}

/* --- answers ---------------------------------------------------------------------------------- */

/* Takes `message`. The queue has room for an answer to every call. */
static void send_back(znl_vm *vm, znl_worker_message *message)
{
    if (znl_worker_reply(vm->worker, message) == 0)
        return;
    znl_log_write(ZNL_LOG_ERROR, "worker", "the queue to the main thread is full", NULL, 0);
    znl_free(message);
}

/* Takes `call`: answers with values at 1 .. count of L, or with its own block when that fails. */
static void answer(znl_vm *vm, znl_worker_message *call, znl_worker_message_kind kind,
        lua_State *L, int count)
{
    znl_worker_message *reply = NULL;
    const char *refused = NULL;
    int err = znl_worker_message_new(&reply, kind, call->ticket, L, 1, count, &refused);
    if (err == ZNL_E_INVALID || err == ZNL_E_TOO_BIG) {
        if (err == ZNL_E_INVALID)
            znl_worker_push_refusal(L, "the result", refused);
        else
            lua_pushliteral(L, "the result is too big to go from one thread to another");
        err = znl_worker_message_new(
                &reply, ZNL_WORKER_ERROR, call->ticket, L, lua_gettop(L), 1, &refused);
        lua_pop(L, 1);
    }
    if (err == 0) {
        znl_free(call);
        send_back(vm, reply);
    } else {
        call->kind = ZNL_WORKER_NOMEM;
        send_back(vm, call);
    }
}

static void on_done(void *user, lua_State *L, int status, int nresults)
{
    znl_worker_message *call = user;
    znl_vm *vm = znl_vm_of(L);
    int was_interrupted = znl_sched_was_interrupted(vm->sched); /* before anything else */
    if (status == 0) {
        answer(vm, call, ZNL_WORKER_OK, L, nresults);
    } else if (end_of(vm)->is_closing) {
        call->kind = ZNL_WORKER_STOPPED;
        send_back(vm, call);
    } else {
        answer(vm, call, was_interrupted ? ZNL_WORKER_INTERRUPTED : ZNL_WORKER_ERROR, L, 1);
    }
}

/* --- calls ------------------------------------------------------------------------------------ */

struct arrival {
    znl_vm *vm;
    znl_worker_message *message; /* NULL once a task answers for it */
};

static int run_call(lua_State *L)
{
    struct arrival *arrival = lua_touserdata(L, 1);
    znl_worker_message *call = arrival->message;
    const struct end *end = end_of(arrival->vm);
    if (end->handle_ref == LUA_NOREF)
        return luaL_error(L, "serve() was not called");
    lua_rawgeti(L, LUA_REGISTRYINDEX, end->handle_ref);
    lua_pushnumber(L, (lua_Number)call->ticket);
    int count = znl_pack_push(L, call->bytes, call->size);
    /* The values have been read: the handler may run for long, and need not hold large ones twice. */
    znl_worker_message *emptied = call->size > LARGE_BYTES ? znl_realloc(call, sizeof *call)
                                                           : NULL;
    if (emptied != NULL)
        call = emptied;
    call->size = 0;
    arrival->message = call;
    int err = znl_sched_spawn(L, count + 1, NULL, on_done, call);
    if (err == 0)
        arrival->message = NULL;
    else if (err != ZNL_E_NOMEM)
        return luaL_error(L, "a call could not start: %s", znl_err_text(err));
    return 0;
}

static int run_cancel(lua_State *L)
{
    const struct arrival *arrival = lua_touserdata(L, 1);
    const struct end *end = end_of(arrival->vm);
    if (end->cancel_ref == LUA_NOREF)
        return 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, end->cancel_ref);
    lua_pushnumber(L, (lua_Number)arrival->message->ticket);
    return znl_sched_spawn(L, 1, NULL, NULL, NULL);
}

void znl_worker_thread_receive(znl_vm *vm, void *item)
{
    struct arrival arrival = {vm, item};
    if (arrival.message->kind == ZNL_WORKER_CANCEL) {
        znl_vm_protect(vm, run_cancel, &arrival, "worker");
        znl_free(arrival.message);
        return;
    }
    znl_vm_protect(vm, run_call, &arrival, "worker");
    if (arrival.message == NULL)
        return;
    arrival.message->kind = ZNL_WORKER_NOMEM;
    arrival.message->size = 0;
    send_back(vm, arrival.message);
}

/* --- functions -------------------------------------------------------------------------------- */

static void check_inside(lua_State *L, const char *what)
{
    if (!znl_lua_in_worker(L))
        luaL_error(L, "workers.%s works in a worker thread only", what);
}

/* serve(handle, cancel): handle(ticket, ...) runs in a task for each call, and what it returns is
 * the answer; cancel(ticket) when the caller no longer wants it */
int znl_worker_thread_serve(lua_State *L)
{
    check_inside(L, "serve");
    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    struct end *end = end_of(znl_vm_of(L));
    lua_settop(L, 2);
    luaL_unref(L, LUA_REGISTRYINDEX, end->cancel_ref);
    end->cancel_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    luaL_unref(L, LUA_REGISTRYINDEX, end->handle_ref);
    end->handle_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

/* note(...) -> true | nil, message, code: tells the main thread something, unasked */
int znl_worker_thread_note(lua_State *L)
{
    check_inside(L, "note");
    znl_worker_message *message = NULL;
    const char *refused = NULL;
    int err = znl_worker_message_new(
            &message, ZNL_WORKER_NOTE, 0, L, 1, lua_gettop(L), &refused);
    if (err == ZNL_E_INVALID) {
        znl_worker_push_refusal(L, "workers.note", refused);
        return lua_error(L);
    }
    if (err == 0 && (err = znl_worker_offer(znl_vm_of(L)->worker, message)) != 0)
        znl_free(message);
    if (err != 0)
        return znl_lua_fail(L, err, "workers.note");
    lua_pushboolean(L, 1);
    return 1;
}
