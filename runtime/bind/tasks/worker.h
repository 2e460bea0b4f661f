/* worker.h - what the two ends of znl.core.workers share.
 *
 *     owner  -- CALL ticket values -->  worker   a task runs the function given to serve()
 *            <-- OK / ERROR / INTERRUPTED / STOPPED / NOMEM ticket values --
 *            -- CANCEL ticket -->                no answer of its own
 *            <-- NOTE values --
 *
 * Every CALL has one answer. The block of a call, emptied, is kept for the answer that needs no
 * memory.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_TASKS_WORKER_H
#define ZNL_BIND_TASKS_WORKER_H

#include "bind/bind.h"
#include "bind/values/pack.h"
#include "vm/worker.h"

typedef enum znl_worker_message_kind {
    ZNL_WORKER_CALL,
    ZNL_WORKER_CANCEL,
    ZNL_WORKER_OK,
    ZNL_WORKER_ERROR,       /* one string: message and traceback */
    ZNL_WORKER_INTERRUPTED, /* the same; by the watchdog */
    ZNL_WORKER_STOPPED,
    ZNL_WORKER_NOMEM,
    ZNL_WORKER_NOTE
} znl_worker_message_kind;

typedef struct znl_worker_message {
    struct znl_worker_message *next; /* while it waits for the queue */
    uint64_t ticket;
    znl_worker_message_kind kind;
    uint32_t size;
    uint8_t bytes[]; /* packed values (bind/values/pack.h) */
} znl_worker_message;

/* Packs `count` values from `first` on. 0, ZNL_E_NOMEM, ZNL_E_TOO_BIG or ZNL_E_INVALID; then
 * *refused is as in bind/values/pack.h. Does not raise. */
int znl_worker_message_new(znl_worker_message **out, znl_worker_message_kind kind,
        uint64_t ticket, lua_State *L, int first, int count, const char **refused);

/* Pushes "what: a function cannot go from one thread to another; …", for ZNL_E_INVALID. */
void znl_worker_push_refusal(lua_State *L, const char *what, const char *refused);

/* --- worker_thread.c: hooks that run in the thread ---------------------------------------- */

int znl_worker_thread_open(znl_vm *vm);
void znl_worker_thread_receive(znl_vm *vm, void *item);
int znl_worker_thread_close(znl_vm *vm);
void znl_worker_thread_end(void);

/* serve(handle, cancel), note(...) and name() of znl.core.workers. */
int znl_worker_thread_serve(lua_State *L);
int znl_worker_thread_note(lua_State *L);

#endif
