/* bind_node.h - what the files behind znl.core.node share: the box around a node.
 *
 *   bind_node.c         construction and methods
 *   bind_node_events.c  what a node reports, as calls of on_event
 *   bind_node_jobs.c    handlers at work, and the replies that wake who asked
 *
 * One box per node. While the node runs, or a handler of it is at work, the registry anchors the
 * box; the collector closes what a script forgot.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_BIND_NODE_H
#define ZNL_BIND_BIND_NODE_H

#include "bind/bind.h"
#include "node/master.h"
#include "node/slave.h"
#include "vm/sched.h"

#define ZNL_REQUEST_TYPE "znl.core.request"

typedef struct znl_node_box znl_node_box;

/* A handler at work: where its answer goes. Pooled. */
struct job {
    struct job *next;      /* in free_jobs */
    struct job *next_made; /* in all_jobs */
    znl_node_box *node;
    uint64_t serial; /* tells a finished job from the one that reuses its memory */
    int is_service;
    size_t route_size, id_size, service_size;
    uint8_t route[ZNL_ID_BYTES_MAX];
    uint8_t id[ZNL_TOPIC_BYTES_MAX];
    uint8_t service[ZNL_SERVICE_BYTES_MAX];
};

struct znl_node_box {
    znl_vm *vm;
    znl_node *node; /* NULL when closed */
    znl_master *master;
    znl_slave *slave;
    int self_ref; /* anchors the userdata while `holds` > 0 */
    unsigned holds;
    int event_ref; /* on_event */
    int handler_ref;
    znl_owner *handler_owner;
    int services_ref; /* name -> { function, owner or nil } */
    uint32_t jobs, max_jobs;
    uint64_t overloaded, handler_errors, unanswered;
    struct job *free_jobs, *all_jobs;
    uint64_t job_serial;
    int request_meta_ref;
    struct late_event *late, *late_last; /* raised while Lua ran, first to last */
    znl_deferred late_due;
    znl_buffer frames; /* scratch: array of znl_frame */
};

/* Anchors the userdata at `index`; may raise, so call it before anything is acquired. */
void znl_node_box_hold(lua_State *L, znl_node_box *b, int index);

/* Gives one hold back: the box may be collected after it. */
void znl_node_box_let_go(znl_node_box *b);

/* The value at `index` as frames in the box's scratch. 0, ZNL_E_INVALID, ZNL_E_TOO_BIG, NOMEM. */
int znl_node_box_payload(
        lua_State *L, int index, znl_node_box *b, znl_frame **frames, size_t *count);

/* Pushes the bytes of a frame. */
void znl_node_box_pushframe(lua_State *L, znl_frame frame);

/* --- events: callbacks of znl_node_events; `user` is the box ------------------------------------ */

void znl_node_box_on_peer(void *user, znl_frame id, int online, const char *reason);
void znl_node_box_on_auth_failed(void *user, znl_frame peer, znl_kind kind, int reason);
void znl_node_box_on_trouble(void *user, int err, const char *text);
void znl_node_box_on_message(void *user, const znl_message *message);
void znl_node_box_on_raw(void *user, znl_frame peer, const znl_frame *frames, size_t count);

/* Raises "error" when Lua no longer runs; for callers inside the scheduler. */
void znl_node_box_emit_error(znl_node_box *b, const char *text, const char *where);

/* Drops the events that still wait (the box is going away). */
void znl_node_box_drop_events(znl_node_box *b);

/* --- jobs --------------------------------------------------------------------------------------- */

void znl_node_box_on_request(void *user, const znl_message *message);
void znl_node_box_on_reply(void *user, znl_waiter waiter, const znl_message *message);
void znl_node_box_on_failed(void *user, znl_waiter waiter, int err);

/* Makes the metatable of requests; leaves nothing on the stack. */
void znl_node_box_open_request_type(lua_State *L);

/* Frees the memory of all jobs (the box is going away). */
void znl_node_box_drop_jobs(znl_node_box *b);

#endif
