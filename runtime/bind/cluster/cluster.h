/* cluster.h - what the files behind znl.core.cluster share.
 *
 *   cluster.c   the module; what an object has of its own, and its events
 *   server.c    a port or a path and the connections that come in there, until they register
 *   lead.c      a channel that is led here: its methods, its readiness, its subscriptions
 *   events.c    what a channel reports in the next turn of the loop
 *   inbound.c   a follower, as its leader sees it: its life, its requests, its end
 *   jobs.c      invokes that arrive: handlers at work, and the queue before them
 *   answer.c    what goes back: results, refusals, errors
 *   outbound.c  the connection of a follower: its life, its methods
 *   ask.c       what a follower asks, and the answers that wake it
 *   values.c    application data: transcode, or two functions of the script; errors
 *
 * Who keeps whom: the registry anchors a server until it is closed, a channel too, and while it has handlers
 * at work or followers. It anchors an outbound connection while something waits for it; one that nobody
 * holds is closed by the collector. What is reported goes to a function in the object's environment: so a
 * script's functions may know the object without keeping it.
 *
 * Connections are blocks of their own, not part of a userdata: one may be in the middle of an event when the
 * collector comes. They are freed in the turn after their end.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_CLUSTER_CLUSTER_H
#define ZNL_BIND_CLUSTER_CLUSTER_H

#include "base/limits.h"
#include "bind/jobs.h"
#include "bind/values/json.h"
#include "bind/values/transcode.h"
#include "node/cluster_channel.h"
#include "node/cluster_link.h"
#include "state/turns.h"
#include "transport/stream.h"

#define ZNL_CLUSTER_SERVER_TYPE "znl.core.cluster.server"
#define ZNL_CLUSTER_CHANNEL_TYPE "znl.core.cluster.channel"
#define ZNL_CLUSTER_LINK_TYPE "znl.core.cluster.link"
#define ZNL_CLUSTER_REQUEST_TYPE "znl.core.cluster.request"

#define ZNL_CLUSTER_END_TEXT_BYTES 160u
/* Memory for data on its way is kept up to this size. */
#define ZNL_CLUSTER_SCRATCH_BYTES (64u * 1024)
/* Registrations of one connection that wait for its leader; of more, the last ones count. */
#define ZNL_CLUSTER_UNANSWERED 8u
#define ZNL_CLUSTER_EXTENSION_BYTES_MAX 4096u /* kept of one that nobody leads yet */

typedef struct znl_cluster_server znl_cluster_server;
typedef struct znl_cluster_lead znl_cluster_lead;
typedef struct znl_cluster_inbound znl_cluster_inbound;
typedef struct znl_cluster_outbound znl_cluster_outbound;
typedef struct znl_cluster_call znl_cluster_call;

/* --- objects (cluster.c) ---------------------------------------------------------------------- */

/* Places in the environment of an object. */
enum {
    ZNL_CLUSTER_ON_EVENT = 1,
    ZNL_CLUSTER_ENCODE,
    ZNL_CLUSTER_DECODE,
    ZNL_CLUSTER_REMOTE, /* of a link: text */
    ZNL_CLUSTER_OWN = ZNL_CLUSTER_REMOTE,
};

/* Gives the userdata at `index` its environment, on_event and transcode of the option table at `options`, and
 * makes it findable by its anchor. Returns whether there is a transcode; misuse raises. */
int znl_cluster_own(lua_State *L, const znl_anchor *anchor, int index, int options);

/* Pushes what the userdata of `anchor` has at `place`, or nil. */
void znl_cluster_push_own(lua_State *L, const znl_anchor *anchor, int place);

/* Calls on_event of an object with the `count` values at the top, the first of which is the name; pops them.
 * Leaves `results` results and returns 1; 0 when there is none, or it failed, which is logged: nothing is left. */
int znl_cluster_emit(lua_State *L, const znl_anchor *anchor, int count, int results);

/* Pushes nil, "where: …", code for a value that cannot be sent; returns 3. */
int znl_cluster_unsendable(lua_State *L, const char *where, const char *problem);

/* As znl_lua_fail(), and names the limit of ZNL_E_TOO_BIG. */
int znl_cluster_fail(lua_State *L, int err, const char *where);

/* Pushes bytes; nil for {NULL, 0}. */
void znl_cluster_push_frame(lua_State *L, znl_frame frame);

/* Sets a counter in the table at the top. */
void znl_cluster_set_number(lua_State *L, const char *name, uint64_t value);

/* Adds `more` to `sum`; sets all of them in the table at the top. */
void znl_cluster_add_counters(
        znl_cluster_link_counters *sum, const znl_cluster_link_counters *more);
void znl_cluster_set_counters(lua_State *L, const znl_cluster_link_counters *counters);

/* The carrier of a znl_cluster_link over a znl_stream. */
extern const znl_cluster_carrier znl_cluster_stream_carrier;

/* Argument `index`: JSON as it stands, or nil. Raises otherwise. */
znl_frame znl_cluster_check_json(lua_State *L, int index, const char *name);

/* --- values (values.c) ---------------------------------------------------------------- */

/* What turns values of a channel into bytes and back. */
typedef struct znl_cluster_values {
    const znl_anchor *owner; /* whose environment has the functions of the script */
    uint8_t is_custom;       /* it has some */
    uint32_t max_depth;
    uint8_t is_reading; /* the reader is in use */
    znl_transcode_writer writer;
    znl_transcode_reader reader;
    znl_buffer out; /* what was written last */
    uint64_t
            written; /* how often: whoever lets Lua run meanwhile sees whether it is still his */
} znl_cluster_values;

/* What went wrong, as peers read it. Texts are borrowed. */
typedef struct znl_cluster_failure {
    znl_frame name, message; /* {NULL, 0}: "Error", "" */
    znl_frame stack;         /* {NULL, 0}: made of both */
    znl_frame code;          /* {NULL, 0}: the number, if there is one */
    double number;
    int has_number;
} znl_cluster_failure;

/* Writes the value at `index` (absolute) into values->out; it may replace it on the stack. nil is undefined. 0,
 * ZNL_E_NOMEM, ZNL_E_TOO_BIG, ZNL_E_INVALID: then `problem` says what cannot be sent. Never raises. */
int znl_cluster_write_value(lua_State *L, int index, znl_cluster_values *values,
        char problem[ZNL_LUA_PROBLEM_BYTES]);

/* The same for `count` arguments from `index`, as an invoke carries them. */
int znl_cluster_write_arguments(lua_State *L, int index, int count, znl_cluster_values *values,
        char problem[ZNL_LUA_PROBLEM_BYTES]);

/* Writes a failure; as an answer to a registration: { success = false, error = … }. L NULL: only without
 * functions of the script. 0, ZNL_E_NOMEM, or ZNL_E_FAILED: their function failed. Never raises. */
int znl_cluster_write_failure(lua_State *L, znl_cluster_values *values,
        const znl_cluster_failure *failure, int is_registration);

/* Writes { success = true }. As above, but it may raise. */
int znl_cluster_write_success(lua_State *L, znl_cluster_values *values);

/* Pushes the value of `data`. 0, ZNL_E_PROTO, ZNL_E_LIMIT, ZNL_E_NOMEM: nothing is pushed. Raises on memory
 * alone. */
int znl_cluster_push_value(lua_State *L, znl_cluster_values *values, znl_frame data);

/* What the fields of the table at `index` say; leaves 4 values on the stack, which keep them alive. */
void znl_cluster_read_failure(lua_State *L, int index, znl_cluster_failure *failure);

void znl_cluster_values_fini(znl_cluster_values *values);

/* --- leading --------------------------------------------------------------------------------------- */

/* A port or a path, inside its userdata. */
struct znl_cluster_server {
    const void *metatable; /* its own */
    znl_vm *vm;
    znl_anchor anchor;              /* held until it is closed, and by each connection */
    znl_listener *listener;         /* NULL: closed */
    char *path;                     /* NULL: a port */
    const znl_tls *tls;             /* held */
    uint32_t register_ms;           /* 0: no limit */
    size_t max_bytes;               /* of a message */
    uint32_t max_depth;             /* of JSON */
    znl_cluster_lead *leads;        /* the channels */
    znl_cluster_inbound *strangers; /* connections without a channel */
    uint32_t stranger_count;
    uint64_t next_number;
    uint64_t unclaimed, unregistered, broken;
};

enum { ZNL_CLUSTER_COMING, ZNL_CLUSTER_READY, ZNL_CLUSTER_FAILED };

/* A channel that is led here, inside its userdata. */
struct znl_cluster_lead {
    znl_jobs jobs; /* its anchor is held until it is closed, and by each follower */
    znl_vm *vm;
    znl_cluster_server *server; /* NULL: closed */
    znl_cluster_lead *next, **prev;
    char *name;
    size_t name_size;
    uint32_t heartbeat_ms;
    uint8_t checks_heartbeat, checks_registration;
    uint8_t state;                    /* ZNL_CLUSTER_COMING, … */
    uint8_t has_local;                /* the process itself was sent a value */
    znl_buffer readiness;             /* what registrations are answered with */
    struct znl_cluster_new_key *keys; /* subscribed for the first time, not reported yet */
    znl_cluster_channel *channel;
    znl_cluster_member *local; /* NULL: the process itself has subscribed nothing */
    znl_cluster_values values;
    znl_cluster_inbound *inbounds;
    uint32_t inbound_count;
    znl_cluster_link_counters ended; /* sums of connections that are over */
    uint64_t registrations, unauthenticated, keys_refused;
    int begin_ref;
    znl_turns turns;
    znl_deferred turns_due;
    znl_deferred claim_due;                    /* it is new: who asked for it before? */
    struct znl_cluster_late *late, *late_last; /* events, first to last */
    znl_deferred late_due;
};

/* A follower; or who may become one. */
struct znl_cluster_inbound {
    znl_vm *vm;
    znl_cluster_server *server; /* its anchor is held */
    znl_cluster_lead *lead;     /* NULL: it has not registered. Its anchor is held */
    znl_cluster_inbound *next, **prev;
    znl_stream *stream;
    znl_cluster_link *link;
    znl_cluster_member *member; /* of lead->channel */
    uint64_t number;
    int remote_ref; /* text, from the registration on */
    uint8_t is_ours, is_told, is_over, is_polite;
    uint8_t is_refused;                  /* it is closed soon */
    uint8_t was_unclaimed, was_troubled; /* said once */
    int end_err;
    char end_text[ZNL_CLUSTER_END_TEXT_BYTES];
    znl_deferred end_due;
    znl_timer timer; /* until it registers; until a refused one is closed */
    struct {
        int64_t id;
        int32_t timeout_ms;
    } unanswered[ZNL_CLUSTER_UNANSWERED]; /* registrations */
    uint32_t unanswered_count;
    znl_buffer extension; /* of the answer, for a peer of ours */
    znl_buffer asked;     /* a name that nobody leads, and its extension; empty: none */
    size_t asked_name_size;
    znl_cluster_call *calls;
    znl_turn_line line; /* its invokes that wait */
};

/* A handler at work. */
struct znl_cluster_call {
    znl_job base;
    znl_cluster_inbound *inbound; /* NULL: it is gone */
    znl_cluster_call *next, **prev;
    int64_t id;
    int32_t timeout_ms;
    uint8_t is_oneway;
    uint16_t method_size;
    uint8_t method[ZNL_CLUSTER_METHOD_BYTES_MAX];
};

/* --- the server */

void znl_cluster_open_server_type(lua_State *L);
int znl_cluster_listen(lua_State *L); /* listen(options) */

/* The channel of that name, NULL when nobody leads it here. */
znl_cluster_lead *znl_cluster_find_lead(const znl_cluster_server *server, znl_frame name);

/* --- channels */

void znl_cluster_open_channel_type(lua_State *L);
int znl_cluster_server_channel(lua_State *L); /* server:channel(options) */

/* Argument 1 as a channel; raises otherwise. */
znl_cluster_lead *znl_cluster_check_lead(lua_State *L);

/* Its followers are disconnected. May be called again. */
void znl_cluster_lead_close(znl_cluster_lead *lead);

/* Subscribes a member (inbound NULL: the process itself), and reports a new key. L NULL: from the loop. */
int znl_cluster_lead_subscribe(lua_State *L, znl_cluster_lead *lead,
        znl_cluster_inbound *inbound, znl_frame key, znl_frame reg);

/* --- followers */

/* znl_accept_fn; `user` is the server. */
void znl_cluster_accept(void *user, znl_stream *stream);

/* The end of it: everything that waits is dropped, "left" is reported in the next turn. May be called while
 * Lua runs, and again. `polite`: what is queued leaves first. */
void znl_cluster_inbound_end(
        znl_cluster_inbound *inbound, int err, const char *text, int polite);

/* A channel was made: who asked for it already is admitted. From the loop. */
void znl_cluster_server_claim(znl_cluster_server *server, znl_cluster_lead *lead);

/* Everything of it is freed, without a word (its owner is going away). */
void znl_cluster_inbound_discard(znl_cluster_inbound *inbound);

/* Its leader's readiness is known: answers what waits. */
void znl_cluster_inbound_answer(znl_cluster_inbound *inbound);

/* --- invokes that arrive */

void znl_cluster_open_request_type(lua_State *L);
/* Pushes the function that a handler's task begins with. */
void znl_cluster_push_begin(lua_State *L);

void znl_cluster_lead_open_queue(znl_cluster_lead *lead, size_t max_count, size_t max_bytes);
void znl_cluster_invoke(znl_cluster_inbound *inbound, const znl_cluster_request *request);
void znl_cluster_cancel(znl_cluster_inbound *inbound, int64_t id);
/* It is over: handlers are cancelled, what waits is dropped. */
void znl_cluster_inbound_drop_calls(znl_cluster_inbound *inbound);

void znl_cluster_call_timed_out(znl_job *job);
void znl_cluster_job_ended(znl_jobs *jobs);
void znl_cluster_call_done(znl_cluster_call *call);
/* File and line of its handler, for messages: leaves values on the stack. */
const char *znl_cluster_call_place(lua_State *L, const znl_cluster_call *call);

/* --- answers */

/* What an answer goes to. */
typedef struct znl_cluster_question {
    int64_t id;
    int32_t timeout_ms;
    int is_oneway;
} znl_cluster_question;

/* Refuses an invoke. `name` NULL: "Error". Needs no Lua: with functions of the script it is done in the next
 * turn. */
void znl_cluster_refuse(znl_cluster_inbound *inbound, const znl_cluster_question *question,
        const char *name, int err, const char *text);

/* A handler ended (znl_task_done_fn); `user` is the call. */
void znl_cluster_handler_done(void *user, lua_State *L, int status, int nresults);

/* A refusal that was put off. */
void znl_cluster_refuse_late(lua_State *L, znl_cluster_inbound *inbound,
        const znl_cluster_question *question, const char *name, int err, const char *text);

/* --- events (events.c) */

/* Reports "trouble". From the loop. */
void znl_cluster_lead_trouble(znl_cluster_lead *lead, const char *text, int err);

/* Reports in the next turn that a handler failed: "error", text, place, method, from. L is left as it was. */
void znl_cluster_lead_error(lua_State *L, const znl_cluster_call *call, const char *text);

/* Refuses in the next turn. `name` is static. */
void znl_cluster_lead_put_off(znl_cluster_inbound *inbound,
        const znl_cluster_question *question, const char *name, int err, const char *text);
/* It is over: nothing that was put off finds it. */
void znl_cluster_lead_forget(znl_cluster_lead *lead, const znl_cluster_inbound *inbound);
void znl_cluster_lead_drop_events(znl_cluster_lead *lead);

/* --- following ------------------------------------------------------------------------------------- */

/* The userdata of an outbound connection. */
typedef struct znl_cluster_handle {
    const void *metatable; /* its own */
    znl_cluster_outbound *outbound;
} znl_cluster_handle;

struct znl_cluster_outbound {
    znl_vm *vm;
    znl_cluster_outbound *next, **prev; /* of all in the state */
    znl_cluster_handle *handle;         /* NULL once it is collected */
    znl_anchor anchor;                  /* of the handle */
    znl_stream *stream;
    znl_cluster_link *link; /* NULL before it is open, and after its end */
    znl_cluster_link_options options;
    znl_cluster_values values;
    uint8_t is_open, is_over, is_ended, is_polite;
    uint8_t is_told;     /* a script knows it: it hears of the end */
    uint8_t is_opening;  /* connect() waits, and holds it */
    uint8_t is_offering; /* the registration carries our extension */
    uint8_t is_ours;
    znl_wait opener;    /* connect() */
    znl_wait registrar; /* link:register() */
    int end_err;
    char end_text[ZNL_CLUSTER_END_TEXT_BYTES];
    znl_deferred end_due;
    znl_cluster_link_counters counters; /* once it has ended */
};

void znl_cluster_open_link_type(lua_State *L);
int znl_cluster_connect(lua_State *L); /* connect(options) */

/* Argument 1 as a link, open or over; raises otherwise. */
znl_cluster_outbound *znl_cluster_check_link(lua_State *L);

void znl_cluster_outbound_end(
        znl_cluster_outbound *outbound, int err, const char *text, int polite);

/* link:register, invoke, oneway, subscribe, unsubscribe */
extern const luaL_Reg znl_cluster_ask_methods[];

void znl_cluster_on_answer(
        void *user, znl_waiter waiter, const znl_cluster_message *message, znl_frame data);
void znl_cluster_on_failed(void *user, znl_waiter waiter, int err);

#endif
