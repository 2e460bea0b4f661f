/* bind_node.c - znl.core.node: masters and slaves of ZNL v1 as Lua sees them.
 *
 * One box per node. While the node runs, or a handler of it is at work, the registry anchors the
 * box; the collector closes what a script forgot. Handlers run in pooled coroutines; what they
 * return is sent when they end. Events reach Lua through one function, on_event(kind, ...), each
 * in a coroutine of its own; those raised while Lua runs wait for the next turn of the loop.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "bind/bind.h"
#include "node/master.h"
#include "node/slave.h"
#include "vm/sched.h"
#include "vm/vm.h"

#include <lauxlib.h>
#include <lua.h>
#include <string.h>

#define MASTER_TYPE "znl.core.master"
#define SLAVE_TYPE "znl.core.slave"
#define REQUEST_TYPE "znl.core.request"

typedef struct box box;

/* A handler at work: where its answer goes. Pooled. */
struct job {
    struct job *next;      /* in free_jobs */
    struct job *next_made; /* in all_jobs */
    box *node;
    uint64_t serial; /* tells a finished job from the one that reuses its memory */
    int is_service;
    size_t route_size, id_size, service_size;
    uint8_t route[ZNL_ID_BYTES_MAX];
    uint8_t id[ZNL_TOPIC_BYTES_MAX];
    uint8_t service[ZNL_SERVICE_BYTES_MAX];
};

struct box {
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

/* --- anchoring --------------------------------------------------------------------------------- */

/* `index` is the userdata. May raise: call before anything is acquired. */
static void hold_at(lua_State *L, box *b, int index)
{
    if (b->holds == 0) {
        lua_pushvalue(L, index);
        b->self_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    b->holds++;
}

static void let_go(box *b)
{
    if (--b->holds == 0) {
        luaL_unref(b->vm->L, LUA_REGISTRYINDEX, b->self_ref);
        b->self_ref = LUA_NOREF;
    }
}

/* --- frames ------------------------------------------------------------------------------------ */

/* The value at `index` as frames in the box's scratch. 0, ZNL_E_INVALID, ZNL_E_TOO_BIG, NOMEM. */
static int take_payload(lua_State *L, int index, box *b, znl_frame **frames, size_t *count)
{
    size_t cap = lua_type(L, index) == LUA_TTABLE ? lua_objlen(L, index) + 1 : 1;
    if (cap > b->node->options.max_frames)
        return ZNL_E_TOO_BIG;
    int err = znl_buffer_reserve(&b->frames, cap * sizeof(znl_frame));
    if (err != 0)
        return err;
    *frames = (znl_frame *)(void *)b->frames.data;
    return znl_lua_toframes(L, index, *frames, cap, count);
}

/* As above for an argument: a payload of the wrong type is misuse and raises. */
static int check_payload(lua_State *L, int index, box *b, znl_frame **frames, size_t *count)
{
    int err = take_payload(L, index, b, frames, count);
    if (err == ZNL_E_INVALID)
        luaL_argerror(L, index, "payload must be a string, an array of strings, or nil");
    return err;
}

static void push_frame(lua_State *L, znl_frame frame)
{
    lua_pushlstring(L, (const char *)frame.data, frame.size);
}

/* --- events ------------------------------------------------------------------------------------ */

/* What on_event gets: a kind, then strings, a payload, or one table. */
struct event {
    box *node;
    const char *kind;
    znl_frame text[3];
    size_t texts;
    const znl_message *message; /* its payload follows the texts; with as_table, all of it */
    const znl_frame *raw;       /* raw frames for the table of "message" */
    size_t raw_count;
    int as_table;
    int reason; /* auth_failed: goes into the table */
    znl_kind control;
};

static void set_text(lua_State *L, const char *key, znl_frame value)
{
    if (value.size == 0)
        return;
    push_frame(L, value);
    lua_setfield(L, -2, key);
}

static void push_event_table(lua_State *L, const struct event *event)
{
    lua_createtable(L, 0, 6);
    set_text(L, "from", event->text[0]);
    lua_pushstring(L, event->node->master != NULL ? "router" : "dealer");
    lua_setfield(L, -2, "channel");
    if (event->reason != 0) {
        set_text(L, "reason", znl_frame_text(znl_err_code(event->reason)));
        set_text(L, "text", znl_frame_text(znl_err_text(event->reason)));
        set_text(L, "kind", znl_frame_text(znl_kind_name(event->control)));
    }
    if (event->raw != NULL) {
        lua_createtable(L, (int)event->raw_count, 0);
        for (size_t i = 0; i < event->raw_count; i++) {
            push_frame(L, event->raw[i]);
            lua_rawseti(L, -2, (int)i + 1);
        }
        lua_setfield(L, -2, "frames");
    }
    if (event->message != NULL) {
        const znl_message *message = event->message;
        int has_topic = message->kind == ZNL_KIND_PUBLISH || message->kind == ZNL_KIND_PUSH;
        set_text(L, "kind", znl_frame_text(znl_kind_name(message->kind)));
        set_text(L, has_topic ? "topic" : "id", message->subject);
        set_text(L, "service", message->service);
        znl_lua_pushpayload(L, message->payload, message->payload_count);
        lua_setfield(L, -2, "payload");
    }
}

static int run_event(lua_State *L)
{
    const struct event *event = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, event->node->event_ref);
    lua_pushstring(L, event->kind);
    int args = 1;
    if (event->as_table) {
        push_event_table(L, event);
        args = 2;
    } else {
        for (size_t i = 0; i < event->texts; i++)
            push_frame(L, event->text[i]);
        args += (int)event->texts;
        if (event->message != NULL) {
            znl_lua_pushpayload(L, event->message->payload, event->message->payload_count);
            args++;
        }
    }
    znl_sched_spawn(L, args, NULL, NULL, NULL);
    return 0;
}

/* An event raised while Lua was running: texts only. */
struct late_event {
    struct late_event *next;
    struct event event;
    uint8_t bytes[];
};

static void run_late(znl_deferred *deferred)
{
    box *b = (box *)(void *)((char *)deferred - offsetof(box, late_due));
    struct late_event *late = b->late;
    if (late == NULL)
        return;
    b->late = late->next;
    if (b->late != NULL)
        znl_loop_defer(b->vm->loop, &b->late_due);
    znl_vm_protect(b->vm, run_event, &late->event, "node.on_event");
    znl_free(late);
    let_go(b); /* the last thing: the box may be collected after it */
}

static void emit_late(const struct event *event)
{
    box *b = event->node;
    size_t bytes = 0;
    for (size_t i = 0; i < event->texts; i++)
        bytes += event->text[i].size;
    if (b->holds == 0)
        return;
    struct late_event *late = znl_calloc(1, sizeof *late + bytes);
    if (late == NULL)
        return;
    late->event = *event;
    uint8_t *at = late->bytes;
    for (size_t i = 0; i < event->texts; i++) {
        if (event->text[i].size > 0)
            memcpy(at, event->text[i].data, event->text[i].size);
        late->event.text[i].data = at;
        at += event->text[i].size;
    }
    if (b->late != NULL)
        b->late_last->next = late;
    else
        b->late = late;
    b->late_last = late;
    b->holds++;
    b->late_due.run = run_late;
    znl_loop_defer(b->vm->loop, &b->late_due);
}

static void emit(const struct event *event)
{
    box *b = event->node;
    if (b->event_ref == LUA_NOREF)
        return;
    if (!znl_sched_busy(b->vm->sched)) {
        znl_vm_protect(b->vm, run_event, (void *)(uintptr_t)event, "node.on_event");
    } else if (event->message == NULL && !event->as_table) {
        emit_late(event);
    }
}

static void on_peer(void *user, znl_frame id, int online, const char *reason)
{
    box *b = user;
    struct event event = {.node = b, .texts = 2};
    event.text[0] = id;
    event.text[1] = znl_frame_text(reason);
    if (b->master != NULL)
        event.kind = online ? "slave_connected" : "slave_disconnected";
    else
        event.kind = online ? "master_online" : "master_offline";
    emit(&event);
}

static void on_auth_failed(void *user, znl_frame peer, znl_kind kind, int reason)
{
    struct event event = {.node = user, .kind = "auth_failed", .as_table = 1, .reason = reason};
    event.text[0] = peer;
    event.control = kind;
    emit(&event);
}

static void on_trouble(void *user, int err, const char *text)
{
    struct event event = {.node = user, .kind = "trouble", .texts = 2};
    event.text[0] = znl_frame_text(text);
    event.text[1] = znl_frame_text(znl_err_code(err));
    emit(&event);
}

static void on_message(void *user, const znl_message *message)
{
    box *b = user;
    struct event event = {.node = b, .kind = znl_kind_name(message->kind), .message = message};
    if (message->kind == ZNL_KIND_PUSH) {
        event.text[0] = message->peer;
        event.text[1] = message->subject;
        event.texts = 2;
    } else if (message->kind == ZNL_KIND_PUBLISH) {
        event.text[0] = message->subject;
        event.texts = 1;
    } else {
        event.text[0] = message->peer;
        event.as_table = 1;
    }
    emit(&event);
}

static void on_raw(void *user, znl_frame peer, const znl_frame *frames, size_t count)
{
    struct event event = {
            .node = user, .kind = "message", .as_table = 1, .raw = frames, .raw_count = count};
    event.text[0] = peer;
    emit(&event);
}

/* --- handlers ---------------------------------------------------------------------------------- */

static struct job *job_take(box *b, const znl_message *message)
{
    struct job *job = b->free_jobs;
    if (job != NULL)
        b->free_jobs = job->next;
    else if ((job = znl_malloc(sizeof *job)) == NULL)
        return NULL;
    else {
        job->next_made = b->all_jobs;
        b->all_jobs = job;
    }
    job->node = b;
    job->serial = ++b->job_serial;
    job->is_service = message->kind == ZNL_KIND_SERVICE_REQUEST;
    job->route_size = message->peer.size; /* lengths were checked by the node */
    job->id_size = message->subject.size;
    job->service_size = message->service.size;
    if (job->route_size > 0)
        memcpy(job->route, message->peer.data, job->route_size);
    memcpy(job->id, message->subject.data, job->id_size);
    if (job->service_size > 0)
        memcpy(job->service, message->service.data, job->service_size);
    b->jobs++;
    b->holds++;
    return job;
}

static void job_done(struct job *job)
{
    box *b = job->node;
    job->serial = 0;
    job->next = b->free_jobs;
    b->free_jobs = job;
    b->jobs--;
    let_go(b);
}

static int reply(box *b, const struct job *job, const znl_frame *payload, size_t count)
{
    znl_frame id = znl_frame_of(job->id, job->id_size);
    if (b->master != NULL)
        return znl_master_reply(
                b->master, znl_frame_of(job->route, job->route_size), id, payload, count);
    return znl_slave_reply(
            b->slave, id, znl_frame_of(job->service, job->service_size), payload, count);
}

static void add_json_text(luaL_Buffer *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            luaL_addchar(out, '\\');
            luaL_addchar(out, (char)c);
        } else if (c < 0x20) {
            luaL_addchar(out, ' ');
        } else {
            luaL_addchar(out, (char)c);
        }
    }
}

/* The service channel answers errors (spec, section 16.1). Needs a protected call. */
static void reply_service_error(lua_State *L, box *b, const struct job *job, const char *text)
{
    luaL_Buffer json;
    luaL_buffinit(L, &json);
    luaL_addstring(&json, "{\"service\":\"");
    add_json_text(&json, (const char *)job->service, job->service_size);
    luaL_addstring(&json, "\",\"ok\":false,\"error\":\"");
    add_json_text(&json, text, strcspn(text, "\n")); /* the message, not the traceback */
    luaL_addstring(&json, "\"}");
    luaL_pushresult(&json);
    znl_frame frame;
    frame.data = (const uint8_t *)lua_tolstring(L, -1, &frame.size);
    reply(b, job, &frame, 1);
    lua_pop(L, 1);
}

static void emit_error(box *b, const char *text, const char *where)
{
    struct event event = {.node = b, .kind = "error", .texts = 2};
    event.text[0] = znl_frame_text(text);
    event.text[1] = znl_frame_text(where);
    /* Called while the scheduler finishes a task: later, when Lua no longer runs. */
    if (b->event_ref != LUA_NOREF)
        emit_late(&event);
}

/* A handler ended: send what it returned. Runs protected. */
static void handler_done(void *user, lua_State *L, int status, int nresults)
{
    struct job *job = user;
    box *b = job->node;
    znl_frame *frames;
    size_t count;
    int err = 0;
    if (status != 0) {
        const char *text = lua_tostring(L, 1);
        b->handler_errors++;
        emit_error(b, text != NULL ? text : "error without a message",
                job->is_service ? "service" : "handler");
        if (job->is_service && b->node != NULL)
            reply_service_error(L, b, job, text != NULL ? text : "error");
    } else if (b->node != NULL) {
        if (nresults == 0)
            lua_pushnil(L); /* no value is one empty frame, as nil is */
        err = take_payload(L, 1, b, &frames, &count);
        if (err == 0)
            err = reply(b, job, frames, count);
        if (err == ZNL_E_INVALID) {
            b->handler_errors++;
            emit_error(b,
                    "a handler must return a string, an array of strings, or nil; in plain mode "
                    "the first frame must not be the proof marker",
                    job->is_service ? "service" : "handler");
        } else if (err != 0) {
            b->unanswered++;
        }
    }
    job_done(job);
}

struct arrival {
    box *node;
    const znl_message *message;
};

static void push_request(lua_State *L, const struct job *job, const znl_message *message)
{
    lua_createtable(L, 0, 4);
    znl_lua_pushpayload(L, message->payload, message->payload_count);
    lua_setfield(L, -2, "payload");
    push_frame(L, message->peer);
    lua_setfield(L, -2, "from");
    /* The rest is made when asked for, by request_index. */
    lua_pushlightuserdata(L, (void *)(uintptr_t)job);
    lua_rawseti(L, -2, 1);
    lua_pushnumber(L, (lua_Number)job->serial);
    lua_rawseti(L, -2, 2);
    lua_rawgeti(L, LUA_REGISTRYINDEX, job->node->request_meta_ref);
    lua_setmetatable(L, -2);
}

/* Pushes the handler for a message; 0 when there is none. */
static int push_handler(lua_State *L, box *b, const znl_message *message, znl_owner **owner)
{
    *owner = NULL;
    if (message->kind == ZNL_KIND_REQUEST) {
        if (b->handler_ref == LUA_NOREF)
            return 0;
        lua_rawgeti(L, LUA_REGISTRYINDEX, b->handler_ref);
        *owner = b->handler_owner;
        return 1;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->services_ref);
    push_frame(L, message->service);
    lua_rawget(L, -2);
    if (!lua_istable(L, -1))
        return 0;
    lua_rawgeti(L, -1, 2);
    if (!lua_isnil(L, -1))
        *owner = znl_lua_checkowner(L, lua_gettop(L));
    lua_rawgeti(L, -2, 1);
    return 1;
}

static int run_request(lua_State *L)
{
    const struct arrival *arrival = lua_touserdata(L, 1);
    box *b = arrival->node;
    znl_owner *owner;
    if (!push_handler(L, b, arrival->message, &owner)) {
        b->unanswered++;
        if (arrival->message->kind == ZNL_KIND_SERVICE_REQUEST) {
            struct job *job = job_take(b, arrival->message);
            if (job != NULL) {
                reply_service_error(L, b, job, "unknown service");
                job_done(job);
            }
        }
        return 0;
    }
    struct job *job = job_take(b, arrival->message);
    if (job == NULL) {
        b->overloaded++;
        return 0;
    }
    push_request(L, job, arrival->message);
    if (znl_sched_spawn(L, 1, owner, handler_done, job) != 0) {
        b->overloaded++;
        job_done(job);
    }
    return 0;
}

static void on_request(void *user, const znl_message *message)
{
    box *b = user;
    struct arrival arrival = {b, message};
    if (b->jobs >= b->max_jobs) {
        b->overloaded++;
        return;
    }
    znl_vm_protect(b->vm, run_request, &arrival, "node.on_request");
}

/* req.id, req.service: while the handler runs. */
static int request_index(lua_State *L)
{
    if (lua_type(L, 2) != LUA_TSTRING)
        return 0;
    const char *key = lua_tostring(L, 2);
    lua_rawgeti(L, 1, 1);
    lua_rawgeti(L, 1, 2);
    const struct job *job = lua_touserdata(L, -2);
    if (job == NULL || job->serial != (uint64_t)lua_tonumber(L, -1))
        return 0;
    if (strcmp(key, "id") == 0)
        lua_pushlstring(L, (const char *)job->id, job->id_size);
    else if (strcmp(key, "service") == 0 && job->is_service)
        lua_pushlstring(L, (const char *)job->service, job->service_size);
    else
        return 0;
    return 1;
}

/* --- replies ----------------------------------------------------------------------------------- */

static int push_reply(lua_State *L, void *user)
{
    const znl_message *message = user;
    znl_lua_pushpayload(L, message->payload, message->payload_count);
    return 1;
}

static void on_reply(void *user, znl_waiter waiter, const znl_message *message)
{
    box *b = user;
    znl_wait wait = {waiter.owner, waiter.ticket};
    znl_sched_wake(b->vm->sched, wait, push_reply, (void *)(uintptr_t)message);
}

static void on_failed(void *user, znl_waiter waiter, int err)
{
    box *b = user;
    znl_wait wait = {waiter.owner, waiter.ticket};
    znl_sched_wake_error(b->vm->sched, wait, err, "request");
}

/* --- construction ------------------------------------------------------------------------------ */

static uint32_t field_u32(lua_State *L, const char *name, uint32_t fallback, uint32_t max)
{
    lua_getfield(L, 1, name);
    uint32_t value = fallback;
    if (!lua_isnil(L, -1))
        value = znl_lua_checku32(L, lua_gettop(L), name, 0, max);
    lua_pop(L, 1);
    return value;
}

static int field_boolean(lua_State *L, const char *name)
{
    lua_getfield(L, 1, name);
    int value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

/* A string that the table keeps alive; size 0 when absent. */
static znl_frame field_text(lua_State *L, const char *name, size_t max)
{
    znl_frame value = {NULL, 0};
    lua_getfield(L, 1, name);
    if (!lua_isnil(L, -1)) {
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "%s must be a string", name);
        value.data = (const uint8_t *)lua_tolstring(L, -1, &value.size);
        if (value.size > max)
            luaL_error(L, "%s must be at most %d bytes", name, (int)max);
    }
    lua_pop(L, 1);
    return value;
}

static void read_options(lua_State *L, znl_node_options *o)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    memset(o, 0, sizeof *o);
    o->id = field_text(L, "id", ZNL_ID_BYTES_MAX);
    znl_frame endpoint = field_text(L, "endpoint", 1024);
    if (o->id.size == 0 || o->id.data[0] == 0)
        luaL_error(
                L, "id must be a string of 1..255 bytes that does not start with a zero byte");
    if (endpoint.size == 0)
        luaL_error(L, "endpoint must be a string such as tcp://127.0.0.1:6003");
    o->endpoint = (const char *)endpoint.data;
    o->encrypted = field_boolean(L, "encrypted");
    o->secret = field_text(L, "auth_key", ZNL_SECRET_BYTES_MAX);
    o->salt = field_text(L, "kdf_salt", ZNL_SECRET_BYTES_MAX);
    o->require_digest = field_boolean(L, "require_digest");
    o->heartbeat_ms = field_u32(
            L, "heartbeat_ms", ZNL_HEARTBEAT_MS_DEFAULT, ZNL_HEARTBEAT_MS_MAX);
    o->heartbeat_timeout_ms = field_u32(L, "heartbeat_timeout_ms", 0, ZNL_HEARTBEAT_MS_MAX);
    o->max_pending = field_u32(L, "max_pending", ZNL_PENDING_DEFAULT, ZNL_PENDING_MAX);
    o->max_skew_ms = field_u32(L, "max_skew_ms", ZNL_SKEW_MS_DEFAULT, ZNL_SKEW_MS_MAX);
    o->replay_window_ms = field_u32(
            L, "replay_window_ms", ZNL_REPLAY_WINDOW_MS_DEFAULT, ZNL_REPLAY_WINDOW_MS_MAX);
    o->start_allowance_ms = field_u32(
            L, "start_allowance_ms", ZNL_START_ALLOWANCE_MS_DEFAULT, ZNL_SKEW_MS_MAX);
    o->max_peers = field_u32(L, "max_peers", ZNL_PEERS_DEFAULT, ZNL_PEERS_MAX);
    o->max_replay_nonces = field_u32(
            L, "max_replay_nonces", ZNL_REPLAY_NONCES_DEFAULT, ZNL_REPLAY_NONCES_MAX);
    o->max_frame_bytes = field_u32(
            L, "max_frame_bytes", ZNL_FRAME_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX);
    o->max_frames = field_u32(L, "max_frames", ZNL_FRAMES_DEFAULT, ZNL_FRAMES_MAX);
    o->max_message_bytes = field_u32(
            L, "max_message_bytes", ZNL_MESSAGE_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX);
    o->send_hwm = field_u32(L, "send_hwm", ZNL_HWM_DEFAULT, ZNL_HWM_MAX);
    o->recv_hwm = field_u32(L, "recv_hwm", ZNL_HWM_DEFAULT, ZNL_HWM_MAX);
    o->outbox_messages = field_u32(
            L, "outbox_messages", ZNL_OUTBOX_MESSAGES_DEFAULT, ZNL_HWM_MAX);
    o->outbox_bytes = field_u32(
            L, "outbox_bytes", ZNL_OUTBOX_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX);
    o->master_id = field_text(L, "master_id", ZNL_ID_BYTES_MAX);
}

static const znl_node_events events = {
        .on_request = on_request,
        .on_reply = on_reply,
        .on_failed = on_failed,
        .on_message = on_message,
        .on_raw = on_raw,
        .on_peer = on_peer,
        .on_auth_failed = on_auth_failed,
        .on_trouble = on_trouble,
};

static box *new_box(lua_State *L, const char *type)
{
    box *b = lua_newuserdata(L, sizeof *b);
    memset(b, 0, sizeof *b);
    b->vm = znl_vm_of(L);
    b->self_ref = b->event_ref = b->handler_ref = b->services_ref = LUA_NOREF;
    b->request_meta_ref = LUA_NOREF;
    luaL_getmetatable(L, type);
    lua_setmetatable(L, -2);
    lua_getfield(L, 1, "on_event");
    if (!lua_isnil(L, -1) && !lua_isfunction(L, -1))
        luaL_error(L, "on_event must be a function");
    if (lua_isnil(L, -1))
        lua_pop(L, 1);
    else
        b->event_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    b->services_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    luaL_getmetatable(L, REQUEST_TYPE);
    b->request_meta_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    b->max_jobs = field_u32(L, "max_concurrency", ZNL_CONCURRENCY_DEFAULT, ZNL_CONCURRENCY_MAX);
    return b;
}

static int new_master(lua_State *L)
{
    znl_node_options options;
    read_options(L, &options);
    box *b = new_box(L, MASTER_TYPE);
    int err = znl_master_new(&b->master, b->vm->loop, &options, &events, b);
    if (err != 0)
        return znl_lua_fail(L, err, "master");
    b->node = znl_master_node(b->master);
    lua_getfield(L, 1, "auth_keys");
    if (lua_istable(L, -1)) {
        for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
            if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
                return luaL_error(L, "auth_keys must map slave ids to secrets");
            znl_frame id, secret;
            id.data = (const uint8_t *)lua_tolstring(L, -2, &id.size);
            secret.data = (const uint8_t *)lua_tolstring(L, -1, &secret.size);
            err = znl_master_set_key(b->master, id, secret);
            if (err != 0)
                return znl_lua_fail(L, err, "master: auth_keys");
        }
    }
    lua_pop(L, 1);
    return 1;
}

static int new_slave(lua_State *L)
{
    znl_node_options options;
    read_options(L, &options);
    box *b = new_box(L, SLAVE_TYPE);
    int err = znl_slave_new(&b->slave, b->vm->loop, &options, &events, b);
    if (err != 0)
        return znl_lua_fail(L, err, "slave");
    b->node = znl_slave_node(b->slave);
    return 1;
}

/* --- methods of both --------------------------------------------------------------------------- */

static box *check_box(lua_State *L)
{
    box *b = lua_touserdata(L, 1);
    int ours = 0;
    if (b != NULL && lua_getmetatable(L, 1)) {
        luaL_getmetatable(L, MASTER_TYPE);
        luaL_getmetatable(L, SLAVE_TYPE);
        ours = lua_rawequal(L, -3, -2) || lua_rawequal(L, -3, -1);
        lua_pop(L, 3);
    }
    if (!ours || b->node == NULL)
        luaL_argerror(L, 1, "open node expected");
    return b;
}

static box *check_master(lua_State *L)
{
    box *b = check_box(L);
    if (b->master == NULL)
        luaL_argerror(L, 1, "master expected");
    return b;
}

static box *check_slave(lua_State *L)
{
    box *b = check_box(L);
    if (b->slave == NULL)
        luaL_argerror(L, 1, "slave expected");
    return b;
}

static int node_start(lua_State *L)
{
    box *b = check_box(L);
    if (!b->node->running) {
        hold_at(L, b, 1);
        int err = b->master != NULL ? znl_master_start(b->master) : znl_slave_start(b->slave);
        if (err != 0) {
            let_go(b);
            lua_pushfstring(L, "start: %s: %s", b->node->options.endpoint, znl_err_text(err));
            lua_pushnil(L);
            lua_insert(L, -2);
            lua_pushstring(L, znl_err_code(err));
            return 3;
        }
    }
    lua_pushboolean(L, 1);
    return 1;
}

static void stop(box *b)
{
    if (b->node == NULL || !b->node->running)
        return;
    if (b->master != NULL)
        znl_master_stop(b->master);
    else
        znl_slave_stop(b->slave);
    let_go(b);
}

static int node_stop(lua_State *L)
{
    stop(check_box(L));
    return 0;
}

static int node_running(lua_State *L)
{
    lua_pushboolean(L, check_box(L)->node->running);
    return 1;
}

static int node_endpoint(lua_State *L)
{
    box *b = check_box(L);
    lua_pushstring(L,
            b->node->link != NULL ? znl_link_endpoint(b->node->link)
                                  : b->node->options.endpoint);
    return 1;
}

static znl_owner *opt_owner(lua_State *L, int index)
{
    return lua_isnoneornil(L, index) ? NULL : znl_lua_checkowner(L, index);
}

static int node_set_handler(lua_State *L)
{
    box *b = check_box(L);
    if (!lua_isnil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    znl_owner *owner = opt_owner(L, 3);
    int ref = LUA_NOREF;
    if (!lua_isnil(L, 2)) {
        lua_pushvalue(L, 2);
        ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    luaL_unref(L, LUA_REGISTRYINDEX, b->handler_ref);
    if (owner != NULL)
        znl_owner_hold(owner);
    znl_owner_release(b->handler_owner);
    b->handler_ref = ref;
    b->handler_owner = owner;
    return 0;
}

static int node_listen(lua_State *L)
{
    box *b = check_box(L);
    const char *kind = luaL_checkstring(L, 2);
    int on = lua_toboolean(L, 3);
    if (strcmp(kind, "message") == 0) {
        b->node->observe_raw = on;
        return 0;
    }
    for (int i = ZNL_KIND_REQUEST; i < ZNL_KIND_COUNT; i++) {
        if (strcmp(kind, znl_kind_name((znl_kind)i)) == 0) {
            b->node->observe_kinds &= ~(1u << i);
            b->node->observe_kinds |= (unsigned)on << i;
            return 0;
        }
    }
    return luaL_argerror(
            L, 2, "message, request, response, service_request or service_response");
}

static void set_number(lua_State *L, const char *name, uint64_t value)
{
    lua_pushnumber(L, (lua_Number)value);
    lua_setfield(L, -2, name);
}

static int node_counters(lua_State *L)
{
    box *b = check_box(L);
    lua_newtable(L);
#define ZNL_NODE_COUNTER(name) set_number(L, #name, b->node->counters.name);
    ZNL_NODE_COUNTERS(ZNL_NODE_COUNTER)
#undef ZNL_NODE_COUNTER
    set_number(L, "overloaded", b->overloaded);
    set_number(L, "handler_errors", b->handler_errors);
    set_number(L, "unanswered", b->unanswered);
    set_number(L, "handlers", b->jobs);
    set_number(L, "pending", znl_pending_count(b->node->requests));
    set_number(L, "pending_services", znl_pending_count(b->node->services));
    set_number(L, "outbox", b->node->outbox.count);
    if (b->node->replay != NULL)
        set_number(L, "nonces", znl_replay_count(b->node->replay));
    if (b->master != NULL)
        set_number(L, "slaves", znl_presence_count(znl_master_presence(b->master)));
    return 1;
}

static int node_gc(lua_State *L)
{
    box *b = lua_touserdata(L, 1);
    if (b->vm == NULL)
        return 0;
    luaL_unref(L, LUA_REGISTRYINDEX, b->event_ref);
    b->event_ref = LUA_NOREF; /* no events from a collected node */
    stop(b);
    znl_master_free(b->master);
    znl_slave_free(b->slave);
    b->node = NULL;
    b->master = NULL;
    b->slave = NULL;
    znl_owner_release(b->handler_owner);
    b->handler_owner = NULL;
    while (b->all_jobs != NULL) {
        struct job *next = b->all_jobs->next_made;
        znl_free(b->all_jobs);
        b->all_jobs = next;
    }
    b->free_jobs = NULL;
    znl_loop_undefer(b->vm->loop, &b->late_due);
    while (b->late != NULL) {
        struct late_event *next = b->late->next;
        znl_free(b->late);
        b->late = next;
    }
    znl_buffer_fini(&b->frames);
    luaL_unref(L, LUA_REGISTRYINDEX, b->handler_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, b->services_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, b->request_meta_ref);
    b->handler_ref = b->services_ref = b->request_meta_ref = LUA_NOREF;
    return 0;
}

/* --- requests ---------------------------------------------------------------------------------- */

static znl_waiter park(lua_State *L)
{
    znl_wait wait = znl_sched_park(L);
    return (znl_waiter){wait.task, wait.ticket};
}

/* request(self, slave_id, payload, timeout_ms): yields */
static int master_request(lua_State *L)
{
    box *b = check_master(L);
    znl_frame id = znl_lua_checkframe(L, 2, "slave_id", ZNL_ID_BYTES_MAX);
    uint32_t timeout_ms = znl_lua_checku32(L, 4, "timeout_ms", 1, ZNL_TIMEOUT_MS_MAX);
    znl_frame none = {NULL, 0};
    znl_frame *payload;
    size_t count;
    int err = check_payload(L, 3, b, &payload, &count);
    if (err == 0)
        err = znl_master_request(b->master, id, none, payload, count, timeout_ms, park(L));
    return err == 0 ? lua_yield(L, 0) : znl_lua_fail(L, err, "request");
}

/* service_request(self, slave_id, service, payload, timeout_ms): yields */
static int master_service_request(lua_State *L)
{
    box *b = check_master(L);
    znl_frame id = znl_lua_checkframe(L, 2, "slave_id", ZNL_ID_BYTES_MAX);
    znl_frame service = znl_lua_checkframe(L, 3, "service", ZNL_SERVICE_BYTES_MAX);
    uint32_t timeout_ms = znl_lua_checku32(L, 5, "timeout_ms", 1, ZNL_TIMEOUT_MS_MAX);
    znl_frame *payload;
    size_t count;
    luaL_argcheck(L, service.size > 0, 3, "service must not be empty");
    int err = check_payload(L, 4, b, &payload, &count);
    if (err == 0)
        err = znl_master_request(b->master, id, service, payload, count, timeout_ms, park(L));
    return err == 0 ? lua_yield(L, 0) : znl_lua_fail(L, err, "service_request");
}

/* request(self, payload, timeout_ms): yields */
static int slave_request(lua_State *L)
{
    box *b = check_slave(L);
    uint32_t timeout_ms = znl_lua_checku32(L, 3, "timeout_ms", 1, ZNL_TIMEOUT_MS_MAX);
    znl_frame *payload;
    size_t count;
    int err = check_payload(L, 2, b, &payload, &count);
    if (err == 0)
        err = znl_slave_request(b->slave, payload, count, timeout_ms, park(L));
    return err == 0 ? lua_yield(L, 0) : znl_lua_fail(L, err, "request");
}

/* --- methods of a master ----------------------------------------------------------------------- */

static int master_publish(lua_State *L)
{
    box *b = check_master(L);
    znl_frame topic = znl_lua_checkframe(L, 2, "topic", ZNL_TOPIC_BYTES_MAX);
    znl_frame *payload;
    size_t count, sent = 0, dropped = 0;
    int err = check_payload(L, 3, b, &payload, &count);
    if (err == 0)
        err = znl_master_publish(b->master, topic, payload, count, &sent, &dropped);
    if (err != 0)
        return znl_lua_fail(L, err, "publish");
    lua_pushnumber(L, (lua_Number)sent);
    lua_pushnumber(L, (lua_Number)dropped);
    return 2;
}

static int master_slaves(lua_State *L)
{
    box *b = check_master(L);
    const znl_presence *presence = znl_master_presence(b->master);
    int64_t to_unix_ms = znl_clock_unix_ms() - (int64_t)znl_clock_mono_ms();
    int i = 0;
    lua_createtable(L, (int)znl_presence_count(presence), 0);
    for (znl_presence_entry *entry = znl_presence_oldest(presence); entry != NULL;
            entry = znl_presence_newer(entry)) {
        lua_createtable(L, 0, 3);
        push_frame(L, entry->map.key);
        lua_setfield(L, -2, "id");
        set_number(L, "since_ms", (uint64_t)((int64_t)entry->since_ms + to_unix_ms));
        set_number(L, "last_seen_ms", (uint64_t)((int64_t)entry->last_seen_ms + to_unix_ms));
        lua_rawseti(L, -2, ++i);
    }
    return 1;
}

static int master_is_online(lua_State *L)
{
    box *b = check_master(L);
    znl_frame id = znl_lua_checkframe(L, 2, "slave_id", ZNL_ID_BYTES_MAX);
    lua_pushboolean(
            L, znl_presence_find(znl_master_presence(b->master), id, znl_map_hash(id)) != NULL);
    return 1;
}

static int master_add_key(lua_State *L)
{
    box *b = check_master(L);
    znl_frame id = znl_lua_checkframe(L, 2, "slave_id", ZNL_ID_BYTES_MAX);
    znl_frame secret = znl_lua_checkframe(L, 3, "secret", ZNL_SECRET_BYTES_MAX);
    int err = znl_master_set_key(b->master, id, secret);
    if (err != 0)
        return znl_lua_fail(L, err, "add_key");
    lua_pushboolean(L, 1);
    return 1;
}

static int master_remove_key(lua_State *L)
{
    box *b = check_master(L);
    znl_frame id = znl_lua_checkframe(L, 2, "slave_id", ZNL_ID_BYTES_MAX);
    int err = znl_master_remove_key(b->master, id);
    if (err != 0)
        return znl_lua_fail(L, err, "remove_key");
    lua_pushboolean(L, 1);
    return 1;
}

/* --- methods of a slave ------------------------------------------------------------------------ */

static int slave_push(lua_State *L)
{
    box *b = check_slave(L);
    znl_frame topic = znl_lua_checkframe(L, 2, "topic", ZNL_TOPIC_BYTES_MAX);
    znl_frame *payload;
    size_t count;
    int err = check_payload(L, 3, b, &payload, &count);
    if (err == 0)
        err = znl_slave_push(b->slave, topic, payload, count);
    if (err != 0)
        return znl_lua_fail(L, err, "push");
    lua_pushboolean(L, 1);
    return 1;
}

static int slave_set_service(lua_State *L)
{
    box *b = check_slave(L);
    znl_frame name = znl_lua_checkframe(L, 2, "name", ZNL_SERVICE_BYTES_MAX);
    luaL_argcheck(L, name.size > 0, 2, "name must not be empty");
    lua_settop(L, 4);
    if (!lua_isnil(L, 3))
        luaL_checktype(L, 3, LUA_TFUNCTION);
    opt_owner(L, 4);
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->services_ref);
    lua_pushvalue(L, 2);
    if (lua_isnil(L, 3)) {
        lua_pushnil(L);
    } else {
        lua_createtable(L, 2, 0);
        lua_pushvalue(L, 3);
        lua_rawseti(L, -2, 1);
        lua_pushvalue(L, 4);
        lua_rawseti(L, -2, 2);
    }
    lua_rawset(L, -3);
    return 0;
}

static int slave_is_master_online(lua_State *L)
{
    lua_pushboolean(L, znl_slave_master_online(check_slave(L)->slave));
    return 1;
}

static int slave_master_id(lua_State *L)
{
    znl_frame id = znl_slave_master_id(check_slave(L)->slave);
    if (id.size == 0)
        return 0;
    push_frame(L, id);
    return 1;
}

/* --- module ------------------------------------------------------------------------------------ */

/* clang-format off */
#define BOTH_METHODS                                                                             \
    {"start", node_start}, {"stop", node_stop}, {"running", node_running},                       \
            {"endpoint", node_endpoint}, {"set_handler", node_set_handler},                      \
            {"listen", node_listen}, {"counters", node_counters}
/* clang-format on */

static const luaL_Reg master_methods[] = {
        BOTH_METHODS,
        {"request", master_request},
        {"service_request", master_service_request},
        {"publish", master_publish},
        {"slaves", master_slaves},
        {"is_online", master_is_online},
        {"add_key", master_add_key},
        {"remove_key", master_remove_key},
        {NULL, NULL},
};

static const luaL_Reg slave_methods[] = {
        BOTH_METHODS,
        {"request", slave_request},
        {"push", slave_push},
        {"set_service", slave_set_service},
        {"is_master_online", slave_is_master_online},
        {"master_id", slave_master_id},
        {NULL, NULL},
};

int luaopen_znl_core_node(lua_State *L)
{
    static const luaL_Reg functions[] = {
            {"master", new_master}, {"slave", new_slave}, {NULL, NULL}};
    znl_lua_newtype(L, MASTER_TYPE, master_methods, node_gc);
    znl_lua_newtype(L, SLAVE_TYPE, slave_methods, node_gc);
    luaL_newmetatable(L, REQUEST_TYPE);
    lua_pushcfunction(L, request_index);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
