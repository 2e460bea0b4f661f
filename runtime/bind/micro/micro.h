/* micro.h - what the files behind znl.core.micro share.
 *
 *   micro.c    the core: construction and methods
 *   link.c     a connection: its life, its end, its methods
 *   open.c     where connections come from: the listener, connect()
 *   jobs.c     requests that arrive: handlers at work, and the queue before them
 *   request.c  a request as its handler sees it, the chunks it writes
 *   answer.c   what goes back: results, refusals, errors
 *   ask.c      requests and pushes of a script, and the answers that wake it
 *   stream.c   streams that a script reads
 *   events.c   what is reported, as calls of on_event
 *   find.c     `/-/find`, answered from a directory
 *
 * Who keeps whom: the registry anchors the core while it runs, has connections or handlers at work. It
 * anchors a connection while something waits for it or works for it, and an inbound one while it is open.
 * An outbound connection that nobody holds is closed by the collector.
 *
 * A connection is a block of its own, not part of its userdata: it may be in the middle of an event when
 * the collector comes.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_MICRO_MICRO_H
#define ZNL_BIND_MICRO_MICRO_H

#include "base/limits.h"
#include "bind/jobs.h"
#include "bind/values/json.h"
#include "node/micro.h"
#include "state/directory.h"
#include "state/turns.h"
#include "transport/websocket.h"

#define ZNL_MICRO_CORE_TYPE "znl.core.micro"
#define ZNL_MICRO_CONNECTION_TYPE "znl.core.micro.connection"
#define ZNL_MICRO_STREAM_TYPE "znl.core.micro.stream"
#define ZNL_MICRO_REQUEST_TYPE "znl.core.micro.request"

/* Of a longer url a job keeps nothing: messages then name no handler. */
#define ZNL_MICRO_ROUTE_BYTES 255u
#define ZNL_MICRO_END_TEXT_BYTES 160u
/* Outgoing data is put together in memory that is kept up to this size. */
#define ZNL_MICRO_SCRATCH_BYTES (64u * 1024)
#define ZNL_MICRO_PROBLEM_BYTES 256u

typedef struct znl_micro_box znl_micro_box;
typedef struct znl_micro_link znl_micro_link;
typedef struct znl_micro_call znl_micro_call;
typedef struct znl_micro_waiting znl_micro_waiting;

/* What a job of the peer is here: one of the two. */
typedef struct znl_micro_work {
    znl_micro_call *call;
    znl_micro_waiting *waiting;
} znl_micro_work;

/* The core, inside its userdata. */
struct znl_micro_box {
    znl_jobs jobs;
    znl_vm *vm;
    int is_running;
    int checks_upgrades;
    znl_http_server *server; /* NULL: not listening */
    const znl_tls *tls;      /* of the listener; held */
    char *listen_host;       /* NULL: all interfaces */
    int listen_port;         /* -1: does not listen */
    uint32_t max_connections, handshake_ms;
    uint32_t stream_window, max_streams;
    znl_ws_limits limits;
    znl_micro_options options;
    int event_ref, request_meta_ref, begin_ref, iterate_ref;
    znl_directory *directory; /* answers find; NULL: the handler does */
    znl_micro_link *links;
    uint32_t link_count;
    znl_micro_counters ended; /* sums of connections that are over */
    uint64_t accepted, connected, turned_away;
    uint64_t finds;
    uint32_t streams; /* of ours, open */

    znl_turns queue; /* requests that wait for a handler */
    znl_deferred queue_due;

    struct znl_micro_late *late, *late_last; /* events, first to last */
    znl_deferred late_due;
    znl_buffer data;  /* scratch: JSON on its way out */
    znl_buffer frame; /* scratch of znl_micro */
};

/* A connection. */
struct znl_micro_link {
    znl_micro_box *box;
    znl_micro_link *next, **prev;    /* of the box */
    struct znl_micro_handle *handle; /* the userdata; NULL once it is collected */
    znl_anchor anchor;               /* of it */
    znl_ws *ws;
    znl_micro *micro; /* NULL before it is open */
    uint8_t is_inbound, is_ours;
    uint8_t is_open;
    uint8_t is_over;   /* nothing is sent or received any more; end_due is queued, or has run */
    uint8_t is_ended;  /* end_due has run */
    uint8_t is_polite; /* a close frame goes first */
    uint8_t was_told;  /* a script knows it: it hears of the end */
    uint8_t is_kept;   /* anchored while it is open: inbound ones */
    uint8_t is_opening; /* connect() waits, and anchors it */
    uint8_t holds_box;
    znl_wait opener; /* connect() */
    int end_err;
    char end_text[ZNL_MICRO_END_TEXT_BYTES];
    znl_deferred end_due;
    znl_micro_work *works; /* by the slot of the job */
    uint32_t works_size;
    znl_turn_line line; /* its requests that wait */
};

/* The userdata of a connection. Its environment is an array: see below. */
typedef struct znl_micro_handle {
    const void *metatable; /* its own */
    znl_micro_link *link;
} znl_micro_handle;

enum { ZNL_CONN_CLIENT = 1, ZNL_CONN_KEY, ZNL_CONN_PATH, ZNL_CONN_REMOTE };

/* A request that waits for a handler; the bytes follow. */
struct znl_micro_waiting {
    znl_turn_entry entry;
    znl_micro_link *link;
    znl_micro_request request;
};

/* A handler at work. */
struct znl_micro_call {
    znl_job base;
    znl_micro_link *link; /* anchored */
    znl_micro_job name;   /* 0: a push */
    uint8_t is_stream;
    uint8_t is_gone;     /* aborted, or the connection is over: nothing can be sent */
    uint8_t is_iterated; /* runs the iterator that its handler returned */
    uint32_t writes;
    znl_wait writer;  /* the task in req:write() */
    znl_buffer held;  /* what it waits to send */
    znl_owner *owner; /* held; of streams */
    size_t route_size;
    uint8_t route[ZNL_MICRO_ROUTE_BYTES];
};

/* --- core ------------------------------------------------------------------------------------------- */

/* Adds what a connection that is over has counted. */
void znl_micro_box_add_counters(znl_micro_box *box, const znl_micro *micro);

/* Argument 1 as a core; raises otherwise. */
znl_micro_box *znl_micro_box_check(lua_State *L);

/* The value at `index` as JSON in the box's scratch; *data is {NULL, 0} for nil and none. On
 * ZNL_E_INVALID `problem` says what cannot be sent. Never raises. */
int znl_micro_box_data(lua_State *L, int index, znl_micro_box *box, znl_frame *data,
        char problem[ZNL_MICRO_PROBLEM_BYTES]);

/* --- connections ------------------------------------------------------------------------------------- */

/* Makes the metatables of connections and streams. */
void znl_micro_open_connection_type(lua_State *L);
void znl_micro_open_stream_type(lua_State *L);
void znl_micro_open_request_type(lua_State *L);

/* Pushes the userdata of a new connection that is not open. It holds the box, whose userdata is at
 * `box_index`; 0: it is held already. May raise. */
znl_micro_link *znl_micro_link_new(lua_State *L, znl_micro_box *box, int box_index);

/* Its WebSocket is open: makes what speaks the protocol. 0 or ZNL_E_NOMEM. */
int znl_micro_link_opened(znl_micro_link *link);

/* Argument 1 as a connection, open or over; raises otherwise. NULL when it was taken down with its core. */
znl_micro_link *znl_micro_link_check(lua_State *L);

/* The end of it: everything that waits is told, "closed" is reported in the next turn. May be called
 * while Lua runs, and again. `polite`: with a close frame. */
void znl_micro_link_end(znl_micro_link *link, int err, const char *text, int polite);

/* Everything of it is freed, without a word (the core is going away). */
void znl_micro_link_discard(znl_micro_link *link);

extern const znl_ws_events znl_micro_ws_events;

/* --- listening and connecting ------------------------------------------------------------------------ */

/* 0, ZNL_E_ADDRESS_IN_USE, … */
int znl_micro_box_listen(znl_micro_box *box);

/* Methods. */
int znl_micro_core_connect(lua_State *L);

/* The connection ends before it is open: connect() hears of it in the next turn. */
void znl_micro_link_unopened(znl_micro_link *link, int err);

/* on_open and on_close of a connection that connect() waits for. */
void znl_micro_link_connected(znl_micro_link *link, const znl_http_head *head);
void znl_micro_link_refused(znl_micro_link *link, int err, const char *text);

/* --- requests that arrive ------------------------------------------------------------------------------ */

void znl_micro_on_request(void *user, const znl_micro_request *request);
void znl_micro_on_abort(void *user, znl_micro_job job);
void znl_micro_on_room(void *user, znl_micro_job job);
void znl_micro_call_timed_out(znl_job *job);
void znl_micro_box_job_ended(znl_jobs *jobs);

/* Where a job of this name is, NULL when there is no such entry. */
znl_micro_work *znl_micro_link_work(const znl_micro_link *link, znl_micro_job name);

void znl_micro_box_open_queue(znl_micro_box *box, size_t max_requests, size_t max_bytes);

/* Refuses everything that is at work or waits, with ZNL_E_STOPPED, and cancels the handlers. */
void znl_micro_box_refuse_all(znl_micro_box *box);

/* Frees what waits of a connection; the last of the queue (the core is going away). */
void znl_micro_link_drop_waiting(znl_micro_link *link);
void znl_micro_box_drop_queue(znl_micro_box *box);

/* Ends a job. The core and the connection may be collected after it. */
void znl_micro_call_done(znl_micro_call *call);

/* File and line of its handler, for messages: leaves values on the stack. */
const char *znl_micro_call_place(lua_State *L, const znl_micro_call *call);

/* --- requests and answers ------------------------------------------------------------------------------ */

/* What begin_ref takes, beside the handler. */
#define ZNL_MICRO_BEGIN_VALUES 8

/* Pushes them. 0, or why the data cannot be read: then nothing is pushed. */
int znl_micro_call_pushrequest(
        lua_State *L, const znl_micro_call *call, const znl_micro_request *request);

/* Pushes what the methods of a request need to find `call`. */
void znl_micro_call_pushbare(lua_State *L, const znl_micro_call *call);

/* A handler ended (znl_task_done_fn); `user` is the call. */
void znl_micro_handler_done(void *user, lua_State *L, int status, int nresults);

/* Refuses a job that no handler has, or its handler's; a push is only counted. Needs no Lua. */
void znl_micro_link_refuse(znl_micro_link *link, znl_micro_job name, int err, const char *text);

/* No handler is set. */
void znl_micro_link_refuse_unknown(znl_micro_link *link, const znl_micro_request *request);

/* The task in req:write(), if any, is to wait no more: "CANCELLED". */
void znl_micro_call_drop_writer(znl_micro_call *call);

/* What it waits to send can be sent now. */
void znl_micro_call_write_on(znl_micro_call *call);

/* req:write(chunk) */
int znl_micro_request_write(lua_State *L);

/* --- asking -------------------------------------------------------------------------------------------- */

int znl_micro_conn_request(lua_State *L);
int znl_micro_conn_push(lua_State *L);
int znl_micro_conn_stream(lua_State *L);

void znl_micro_on_answer(void *user, znl_waiter waiter, znl_frame data);
void znl_micro_on_refused(void *user, znl_waiter waiter, const znl_micro_refusal *refusal);
void znl_micro_on_chunk(void *user, znl_waiter waiter, znl_frame payload);
void znl_micro_on_stream_end(void *user, znl_waiter waiter, const znl_micro_refusal *refusal);

/* What every question has in common: self, url, data at 1 to 3. */
typedef struct znl_micro_question {
    znl_micro_link *link; /* open */
    znl_frame url, data;
} znl_micro_question;

/* 0, or the number of results to return, which say why it cannot be asked; misuse raises. */
int znl_micro_read_question(lua_State *L, const char *where, znl_micro_question *question);

/* Pushes nil, message, code, true for what the peer refused with; returns 4. */
int znl_micro_push_refusal(lua_State *L, const znl_micro_refusal *refusal);

/* --- events -------------------------------------------------------------------------------------------- */

/* Calls on_event with the `count` values at the top, the first of which is the name; pops them. Leaves up
 * to `results` results. 0 when it failed, which is logged, or there is none: nothing is left. */
int znl_micro_box_emit(lua_State *L, znl_micro_box *box, int count, int results);

/* Reports that a handler failed, in the next turn of the loop: "error", text, "handler", key of the peer. */
void znl_micro_link_emit_error(lua_State *L, const znl_micro_link *link, const char *text);

void znl_micro_box_drop_events(znl_micro_box *box);

/* --- find ---------------------------------------------------------------------------------------------- */

/* True when the request was a lookup and is answered. */
int znl_micro_box_find(
        znl_micro_box *box, znl_micro_link *link, const znl_micro_request *request);

#endif
