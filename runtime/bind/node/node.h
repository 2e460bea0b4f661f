/* node.h - what the files behind znl.core.node share: the box around a node.
 *
 *   node.c     construction and methods
 *   events.c   what a node reports, as calls of on_event
 *   ask.c      requests and calls of a script, and the answers that wake it
 *   jobs.c     requests that arrive: handlers at work, and the queue before them
 *   request.c  a request as its handler sees it
 *   answer.c   what goes back: results, refusals, errors
 *
 * One box per node. While the node runs, or a handler of it is at work, the registry anchors the
 * box; the collector closes what a script forgot.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_NODE_NODE_H
#define ZNL_BIND_NODE_NODE_H

#include "bind/jobs.h"
#include "node/master.h"
#include "node/slave.h"

#define ZNL_REQUEST_TYPE "znl.core.request"

typedef struct znl_node_box znl_node_box;

/* Of a longer route a job keeps nothing: messages then name no handler. */
#define ZNL_JOB_ROUTE_BYTES 255u

/* A handler at work: where its answer goes. Pooled. */
struct job {
    znl_job base;
    znl_node_box *node;
    int is_service;
    int is_capable; /* the asker reads error answers */
    int is_call;    /* the answer to it is marked */
    int is_json;
    const znl_message *message; /* borrowed, until the task has fetched it */
    size_t peer_size, id_size, service_size, route_size;
    uint8_t peer[ZNL_ID_BYTES_MAX];
    uint8_t id[ZNL_TOPIC_BYTES_MAX];
    uint8_t service[ZNL_SERVICE_BYTES_MAX];
    uint8_t route[ZNL_JOB_ROUTE_BYTES]; /* of a call, for messages */
};

/* Who is to be answered; borrowed. */
struct asker {
    znl_frame peer, id, service;
    int is_capable;
};

struct znl_node_box {
    znl_jobs jobs; /* anchored while the node runs */
    znl_vm *vm;
    znl_node *node; /* NULL when closed */
    znl_master *master;
    znl_slave *slave;
    int event_ref;     /* on_event */
    int services_ref;  /* name -> { function, owner or nil, place as above } */
    int run_json_ref;  /* (handler, request): runs a call whose body is JSON */
    znl_parcels queue; /* requests that wait for a job */
    znl_deferred queue_due;
    int serve_ref, serve_call_ref;       /* what the task of a request runs: request.c */
    struct late_event *late, *late_last; /* raised while Lua ran, first to last */
    znl_deferred late_due;
    znl_buffer frames; /* scratch: array of znl_frame */
};

/* The value at `index` as a node, open or closed; NULL when it is something else. */
znl_node_box *znl_node_box_at(lua_State *L, int index);

/* Argument 1 as an open node, master or slave; raises otherwise. */
znl_node_box *znl_node_box_check(lua_State *L);
znl_node_box *znl_node_box_checkmaster(lua_State *L);
znl_node_box *znl_node_box_checkslave(lua_State *L);

/* Argument `index` as a payload: as below, and misuse raises. */
int znl_node_box_checkpayload(
        lua_State *L, int index, znl_node_box *b, znl_frame **frames, size_t *count);

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
void znl_node_box_emit_error(
        znl_node_box *b, const char *text, const char *where, znl_frame from);

/* Drops the events that still wait (the box is going away). */
void znl_node_box_drop_events(znl_node_box *b);

/* --- asking ------------------------------------------------------------------------------------- */

void znl_node_box_on_reply(void *user, znl_waiter waiter, const znl_message *message);
void znl_node_box_on_failed(void *user, znl_waiter waiter, int err);

/* Methods of masters and slaves. */
int znl_node_master_request(lua_State *L);
int znl_node_master_service_request(lua_State *L);
int znl_node_master_call(lua_State *L);
int znl_node_slave_request(lua_State *L);
int znl_node_slave_call(lua_State *L);

/* --- jobs --------------------------------------------------------------------------------------- */

void znl_node_box_on_request(void *user, const znl_message *message);

void znl_node_box_open_queue(znl_node_box *b, size_t max_requests, size_t max_bytes);

/* Forgets what waits in the queue (the node stops). */
void znl_node_box_drop_queue(znl_node_box *b);

/* Tells everybody whose request is at work or waits here that the node stops; while it can still
 * send. What the handlers answer later is dropped. */
void znl_node_box_refuse_all(znl_node_box *b);

/* Whom a job answers, and file and line of its handler for messages: valid until the next call;
 * leaves values on the stack. */
struct asker znl_node_job_asker(const struct job *job);
const char *znl_node_job_place(lua_State *L, const struct job *job);

/* Cancels the handlers at work for that peer (size 0: for all): it is gone, or the node stopped. */
void znl_node_box_cancel_jobs(znl_node_box *b, znl_frame peer);

/* The handler of a job took too long. */
void znl_node_job_timed_out(znl_job *job);

/* A handler has ended: the next request may have its turn. */
void znl_node_box_job_ended(znl_jobs *jobs);

/* --- requests ----------------------------------------------------------------------------------- */

/* Makes the metatable of requests; leaves nothing on the stack. */
void znl_node_box_open_request_type(lua_State *L);

/* Pushes the function that the task of a request, or of a call, runs: it makes the request and hands
 * it to the handler. */
void znl_node_box_pushserve(lua_State *L, int is_call);

/* Pushes the handler of the job, which is there. */
void znl_node_job_pushhandler(lua_State *L, const struct job *job);

/* --- answers ------------------------------------------------------------------------------------ */

/* A handler returned (znl_task_returned_fn): sends a result that is a string, or none. `user` is the
 * job. */
int znl_node_box_handler_returned(void *user, lua_State *co, int nresults);

/* A handler ended in another way (znl_task_done_fn): sends what came of it. `user` is the job. */
void znl_node_box_handler_done(void *user, lua_State *L, int status, int nresults);

/* Answers with an error, where the protocol has one: `text` up to its first line end. What cannot be
 * answered is counted. Needs no Lua. */
void znl_node_box_refuse(
        znl_node_box *b, const struct asker *to, znl_frame code, const char *text, size_t size);
void znl_node_box_refuse_err(
        znl_node_box *b, const struct asker *to, int err, const char *text);

#endif
