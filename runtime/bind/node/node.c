/* node.c - znl.core.node: masters and slaves of ZNL v1 as Lua sees them; see node.h.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/node/node.h"
#include "base/clock.h"
#include "base/err.h"
#include "bind/net/engine.h"

#include <string.h>

#define MASTER_TYPE "znl.core.master"
#define SLAVE_TYPE "znl.core.slave"

/* --- frames ------------------------------------------------------------------------------------ */

/* The value at `index` as frames in the box's scratch. 0, ZNL_E_INVALID, ZNL_E_TOO_BIG, NOMEM. */
int znl_node_box_payload(
        lua_State *L, int index, znl_node_box *b, znl_frame **frames, size_t *count)
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

void znl_node_box_pushframe(lua_State *L, znl_frame frame)
{
    lua_pushlstring(L, (const char *)frame.data, frame.size);
}

/* --- construction ------------------------------------------------------------------------------ */

static void read_options(lua_State *L, znl_node_options *o)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    memset(o, 0, sizeof *o);
    o->id = znl_lua_fieldtext(L, 1, "id", ZNL_ID_BYTES_MAX);
    znl_frame endpoint = znl_lua_fieldtext(L, 1, "endpoint", 1024);
    if (o->id.size == 0 || o->id.data[0] == 0)
        luaL_error(
                L, "id must be a string of 1..255 bytes that does not start with a zero byte");
    lua_getfield(L, 1, "endpoints"); /* in place of the one */
    if (endpoint.size == 0 && lua_isnil(L, -1))
        luaL_error(L, "endpoint must be a string such as tcp://127.0.0.1:6003");
    lua_pop(L, 1);
    o->endpoint = endpoint.size > 0 ? (const char *)endpoint.data : "";
    o->engine = znl_lua_fieldengine(L, 1);
    o->encrypted = znl_lua_fieldboolean(L, 1, "encrypted");
    o->secret = znl_lua_fieldtext(L, 1, "auth_key", ZNL_SECRET_BYTES_MAX);
    o->salt = znl_lua_fieldtext(L, 1, "kdf_salt", ZNL_SECRET_BYTES_MAX);
    o->require_digest = znl_lua_fieldboolean(L, 1, "require_digest");
    o->heartbeat_ms = znl_lua_fieldu32(
            L, 1, "heartbeat_ms", ZNL_HEARTBEAT_MS_DEFAULT, ZNL_HEARTBEAT_MS_MAX);
    o->heartbeat_timeout_ms = znl_lua_fieldu32(
            L, 1, "heartbeat_timeout_ms", 0, ZNL_HEARTBEAT_MS_MAX);
    o->max_pending = znl_lua_fieldu32(
            L, 1, "max_pending", ZNL_PENDING_DEFAULT, ZNL_PENDING_MAX);
    o->max_skew_ms = znl_lua_fieldu32(
            L, 1, "max_skew_ms", ZNL_SKEW_MS_DEFAULT, ZNL_SKEW_MS_MAX);
    o->replay_window_ms = znl_lua_fieldu32(
            L, 1, "replay_window_ms", ZNL_REPLAY_WINDOW_MS_DEFAULT, ZNL_REPLAY_WINDOW_MS_MAX);
    o->start_allowance_ms = znl_lua_fieldu32(
            L, 1, "start_allowance_ms", ZNL_START_ALLOWANCE_MS_DEFAULT, ZNL_SKEW_MS_MAX);
    o->max_peers = znl_lua_fieldu32(L, 1, "max_peers", ZNL_PEERS_DEFAULT, ZNL_PEERS_MAX);
    o->max_replay_nonces = znl_lua_fieldu32(
            L, 1, "max_replay_nonces", ZNL_REPLAY_NONCES_DEFAULT, ZNL_REPLAY_NONCES_MAX);
    o->max_frame_bytes = znl_lua_fieldu32(
            L, 1, "max_frame_bytes", ZNL_FRAME_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX);
    o->max_frames = znl_lua_fieldu32(L, 1, "max_frames", ZNL_FRAMES_DEFAULT, ZNL_FRAMES_MAX);
    o->max_message_bytes = znl_lua_fieldu32(
            L, 1, "max_message_bytes", ZNL_MESSAGE_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX);
    o->send_hwm = znl_lua_fieldu32(L, 1, "send_hwm", ZNL_HWM_DEFAULT, ZNL_HWM_MAX);
    o->recv_hwm = znl_lua_fieldu32(L, 1, "recv_hwm", ZNL_HWM_DEFAULT, ZNL_HWM_MAX);
    o->outbox_messages = znl_lua_fieldu32(
            L, 1, "outbox_messages", ZNL_OUTBOX_MESSAGES_DEFAULT, ZNL_HWM_MAX);
    o->outbox_bytes = znl_lua_fieldu32(
            L, 1, "outbox_bytes", ZNL_OUTBOX_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX);
}

static void on_peer(void *user, znl_frame id, int online, const char *reason)
{
    znl_node_box *b = user;
    /* An answer of a slave can still go to a master that comes back. */
    if (b->master != NULL && !online)
        znl_node_box_cancel_jobs(b, id);
    znl_node_box_on_peer(user, id, online, reason);
}

static const znl_node_events events = {
        .on_request = znl_node_box_on_request,
        .on_reply = znl_node_box_on_reply,
        .on_failed = znl_node_box_on_failed,
        .on_message = znl_node_box_on_message,
        .on_raw = znl_node_box_on_raw,
        .on_peer = on_peer,
        .on_auth_failed = znl_node_box_on_auth_failed,
        .on_trouble = znl_node_box_on_trouble,
};

static znl_node_box *new_box(lua_State *L, const char *type)
{
    znl_node_box *b = lua_newuserdata(L, sizeof *b);
    memset(b, 0, sizeof *b);
    b->vm = znl_vm_of(L);
    b->event_ref = b->services_ref = b->run_json_ref = LUA_NOREF;
    b->serve_ref = b->serve_call_ref = LUA_NOREF;
    luaL_getmetatable(L, type);
    znl_jobs_init(
            L, &b->jobs, sizeof(struct job), znl_node_job_timed_out, znl_node_box_job_ended);
    lua_setmetatable(L, -2);
    b->event_ref = znl_lua_fieldfunction(L, 1, "on_event");
    b->run_json_ref = znl_lua_fieldfunction(L, 1, "run_json");
    lua_newtable(L);
    b->services_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    znl_node_box_pushserve(L, 0);
    b->serve_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    znl_node_box_pushserve(L, 1);
    b->serve_call_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    b->jobs.max = znl_lua_fieldu32(
            L, 1, "max_concurrency", ZNL_CONCURRENCY_DEFAULT, ZNL_CONCURRENCY_MAX);
    b->jobs.timeout_ms = znl_lua_fieldu32(L, 1, "handler_timeout_ms", 0, ZNL_TIMEOUT_MS_MAX);
    znl_node_box_open_queue(b,
            znl_lua_fieldu32(
                    L, 1, "max_queue", ZNL_QUEUE_REQUESTS_DEFAULT, ZNL_QUEUE_REQUESTS_MAX),
            znl_lua_fieldu32(
                    L, 1, "max_queue_bytes", ZNL_QUEUE_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX));
    return b;
}

/* The field `name`, an array of texts of 1 to `max` bytes; absent: none. They are kept alive by it. */
static size_t read_texts(lua_State *L, const char *name, size_t max, znl_frame *out)
{
    lua_getfield(L, 1, name);
    size_t count = lua_istable(L, -1) ? lua_objlen(L, -1) : 0;
    if ((!lua_isnil(L, -1) && count == 0) || count > ZNL_SLAVE_ENDPOINTS_MAX)
        luaL_error(L, "%s must be an array of 1 to %d texts", name, ZNL_SLAVE_ENDPOINTS_MAX);
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, -1, (int)i + 1);
        if (lua_type(L, -1) != LUA_TSTRING || lua_objlen(L, -1) == 0 || lua_objlen(L, -1) > max)
            luaL_error(L, "%s must be an array of texts of 1 to %d bytes each", name, (int)max);
        out[i].data = (const uint8_t *)lua_tolstring(L, -1, &out[i].size);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return count;
}

/* Reads `curve`; 0, or what the constructor is to return. */
static int read_curve(lua_State *L, znl_node_options *options, int is_server)
{
    const char *which = "";
    int err = znl_lua_fieldcurve(L, 1, is_server, &options->curve, &which);
    if (err == 0)
        return 0;
    lua_pushnil(L);
    lua_pushfstring(L, "curve: %s: %s", which, znl_err_text(err));
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

static int new_master(lua_State *L)
{
    znl_lua_check_main(L, "a master");
    znl_node_options options;
    znl_frame places[ZNL_SLAVE_ENDPOINTS_MAX];
    const char *endpoints[ZNL_SLAVE_ENDPOINTS_MAX];
    read_options(L, &options);
    options.endpoint_count = read_texts(L, "endpoints", 1024, places);
    for (size_t i = 0; i < options.endpoint_count; i++)
        endpoints[i] = (const char *)places[i].data;
    options.endpoints = endpoints;
    znl_node_box *b = new_box(L, MASTER_TYPE);
    int failed = read_curve(L, &options, 1);
    if (failed != 0)
        return failed;
    int err = znl_master_new(&b->master, b->vm->loop, &options, &events, b);
    znl_curve_release(options.curve);
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
    znl_lua_check_main(L, "a slave");
    znl_node_options options;
    znl_frame places[ZNL_SLAVE_ENDPOINTS_MAX], ids[ZNL_SLAVE_ENDPOINTS_MAX];
    const char *endpoints[ZNL_SLAVE_ENDPOINTS_MAX];
    read_options(L, &options);
    options.endpoint_count = read_texts(L, "endpoints", 1024, places);
    for (size_t i = 0; i < options.endpoint_count; i++)
        endpoints[i] = (const char *)places[i].data;
    options.endpoints = endpoints;
    options.master_id_count = read_texts(L, "master_ids", ZNL_ID_BYTES_MAX, ids);
    options.master_ids = ids;
    znl_node_box *b = new_box(L, SLAVE_TYPE);
    int failed = read_curve(L, &options, 0);
    if (failed != 0)
        return failed;
    int err = znl_slave_new(&b->slave, b->vm->loop, &options, &events, b);
    znl_curve_release(options.curve);
    if (err != 0)
        return znl_lua_fail(L, err, "slave");
    b->node = znl_slave_node(b->slave);
    return 1;
}

/* --- methods of both --------------------------------------------------------------------------- */

znl_node_box *znl_node_box_at(lua_State *L, int index)
{
    znl_jobs *jobs = znl_jobs_at(L, index);
    return jobs != NULL && jobs->ended == znl_node_box_job_ended ? (znl_node_box *)jobs : NULL;
}

znl_node_box *znl_node_box_check(lua_State *L)
{
    znl_node_box *b = znl_node_box_at(L, 1);
    if (b == NULL || b->node == NULL)
        luaL_argerror(L, 1, "open node expected");
    return b;
}

znl_node_box *znl_node_box_checkmaster(lua_State *L)
{
    znl_node_box *b = znl_node_box_check(L);
    if (b->master == NULL)
        luaL_argerror(L, 1, "master expected");
    return b;
}

znl_node_box *znl_node_box_checkslave(lua_State *L)
{
    znl_node_box *b = znl_node_box_check(L);
    if (b->slave == NULL)
        luaL_argerror(L, 1, "slave expected");
    return b;
}

static int node_start(lua_State *L)
{
    znl_node_box *b = znl_node_box_check(L);
    b->jobs.is_draining = 0;
    if (!b->node->running) {
        znl_anchor_hold(L, &b->jobs.anchor, 1);
        int err = b->master != NULL ? znl_master_start(b->master) : znl_slave_start(b->slave);
        if (err != 0) {
            znl_anchor_let_go(&b->jobs.anchor);
            const znl_node_options *o = &b->node->options;
            return znl_lua_fail_open(L, err, "start", b->master != NULL,
                    o->endpoint_count > 1 ? o->endpoints[b->node->failed] : o->endpoint);
        }
    }
    lua_pushboolean(L, 1);
    return 1;
}

static void stop(znl_node_box *b)
{
    if (b->node == NULL || !b->node->running)
        return;
    znl_node_box_refuse_all(b);
    if (b->master != NULL)
        znl_master_stop(b->master);
    else
        znl_slave_stop(b->slave);
    znl_node_box_drop_queue(b);
    znl_node_box_cancel_jobs(b, (znl_frame){NULL, 0});
    /* What stops a node is often called by the node: it must outlive the calls on the stack. */
    znl_anchor_let_go_later(&b->jobs.anchor);
}

static int node_stop(lua_State *L)
{
    stop(znl_node_box_check(L));
    return 0;
}

/* drain() -> requests at work or waiting here. New ones are refused from now to the next start. */
static int node_drain(lua_State *L)
{
    znl_node_box *b = znl_node_box_check(L);
    b->jobs.is_draining = 1;
    lua_pushnumber(L, (lua_Number)(b->jobs.at_work + b->queue.count));
    return 1;
}

static int node_running(lua_State *L)
{
    lua_pushboolean(L, znl_node_box_check(L)->node->running);
    return 1;
}

static int node_endpoint(lua_State *L)
{
    znl_node_box *b = znl_node_box_check(L);
    lua_pushstring(L,
            b->node->link != NULL ? znl_link_endpoint(b->node->link)
                                  : b->node->options.endpoint);
    return 1;
}

/* set_handler(self, fn, owner, place) */
static int node_set_handler(lua_State *L)
{
    return znl_jobs_set_handler(L, &znl_node_box_check(L)->jobs);
}

/* set_console(self, fn) */
static int node_set_console(lua_State *L)
{
    return znl_jobs_set_console(L, &znl_node_box_check(L)->jobs);
}

static int node_listen(lua_State *L)
{
    znl_node_box *b = znl_node_box_check(L);
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
    znl_node_box *b = znl_node_box_check(L);
    lua_newtable(L);
#define ZNL_NODE_COUNTER(name) set_number(L, #name, b->node->counters.name);
    ZNL_NODE_COUNTERS(ZNL_NODE_COUNTER)
#undef ZNL_NODE_COUNTER
    znl_jobs_count(L, &b->jobs);
    set_number(L, "queued", b->queue.count);
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
    znl_node_box *b = lua_touserdata(L, 1);
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
    znl_node_box_drop_queue(b);
    znl_jobs_fini(L, &b->jobs);
    znl_node_box_drop_events(b);
    znl_buffer_fini(&b->frames);
    luaL_unref(L, LUA_REGISTRYINDEX, b->services_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, b->serve_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, b->serve_call_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, b->run_json_ref);
    b->services_ref = b->run_json_ref = LUA_NOREF;
    b->serve_ref = b->serve_call_ref = LUA_NOREF;
    return 0;
}

/* --- methods of a master ----------------------------------------------------------------------- */

static int master_publish(lua_State *L)
{
    znl_node_box *b = znl_node_box_checkmaster(L);
    znl_frame topic = znl_lua_checkframe(L, 2, "topic", ZNL_TOPIC_BYTES_MAX);
    znl_frame *payload;
    size_t count, sent = 0, dropped = 0;
    int err = znl_node_box_checkpayload(L, 3, b, &payload, &count);
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
    znl_node_box *b = znl_node_box_checkmaster(L);
    const znl_presence *presence = znl_master_presence(b->master);
    int64_t to_unix_ms = znl_clock_unix_ms() - (int64_t)znl_clock_mono_ms();
    int i = 0;
    lua_createtable(L, (int)znl_presence_count(presence), 0);
    for (znl_presence_entry *entry = znl_presence_oldest(presence); entry != NULL;
            entry = znl_presence_newer(entry)) {
        lua_createtable(L, 0, 4);
        znl_node_box_pushframe(L, entry->map.key);
        lua_setfield(L, -2, "id");
        lua_pushboolean(L, znl_master_calls(b->master, entry->map.key) == ZNL_CALLS_YES);
        lua_setfield(L, -2, "calls");
        set_number(L, "since_ms", (uint64_t)((int64_t)entry->since_ms + to_unix_ms));
        set_number(L, "last_seen_ms", (uint64_t)((int64_t)entry->last_seen_ms + to_unix_ms));
        lua_rawseti(L, -2, ++i);
    }
    return 1;
}

/* endpoints(self) -> what is bound, or will be */
static int master_endpoints(lua_State *L)
{
    const znl_node *node = znl_node_box_checkmaster(L)->node;
    size_t count = node->options.endpoint_count > 0 ? node->options.endpoint_count : 1;
    lua_createtable(L, (int)count, 0);
    for (size_t i = 0; i < count; i++) {
        const char *text = node->options.endpoint_count > 0 ? node->options.endpoints[i]
                                                            : node->options.endpoint;
        lua_pushstring(L, node->link != NULL ? znl_link_endpoint_at(node->link, i) : text);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 1;
}

static int master_is_online(lua_State *L)
{
    znl_node_box *b = znl_node_box_checkmaster(L);
    znl_frame id = znl_lua_checkframe(L, 2, "slave_id", ZNL_ID_BYTES_MAX);
    lua_pushboolean(
            L, znl_presence_find(znl_master_presence(b->master), id, znl_map_hash(id)) != NULL);
    return 1;
}

/* forget(self, slave_id) -> was it on line? It is with another master now. */
static int master_forget(lua_State *L)
{
    znl_node_box *b = znl_node_box_checkmaster(L);
    znl_frame id = znl_lua_checkframe(L, 2, "slave_id", ZNL_ID_BYTES_MAX);
    lua_pushboolean(L, znl_master_forget(b->master, id, "moved") == 0);
    return 1;
}

/* true, false, or nil: not known (yet) */
static int push_calls(lua_State *L, znl_calls calls)
{
    if (calls == ZNL_CALLS_UNKNOWN)
        return 0;
    lua_pushboolean(L, calls == ZNL_CALLS_YES);
    return 1;
}

static int master_reads_calls(lua_State *L)
{
    znl_node_box *b = znl_node_box_checkmaster(L);
    znl_frame id = znl_lua_checkframe(L, 2, "slave_id", ZNL_ID_BYTES_MAX);
    return push_calls(L, znl_master_calls(b->master, id));
}

static int master_add_key(lua_State *L)
{
    znl_node_box *b = znl_node_box_checkmaster(L);
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
    znl_node_box *b = znl_node_box_checkmaster(L);
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
    znl_node_box *b = znl_node_box_checkslave(L);
    znl_frame topic = znl_lua_checkframe(L, 2, "topic", ZNL_TOPIC_BYTES_MAX);
    znl_frame *payload;
    size_t count;
    int err = znl_node_box_checkpayload(L, 3, b, &payload, &count);
    if (err == 0)
        err = znl_slave_push(b->slave, topic, payload, count);
    if (err != 0)
        return znl_lua_fail(L, err, "push");
    lua_pushboolean(L, 1);
    return 1;
}

/* set_service(self, name, fn, owner, place): fn nil removes it */
static int slave_set_service(lua_State *L)
{
    znl_node_box *b = znl_node_box_checkslave(L);
    znl_frame name = znl_lua_checkframe(L, 2, "name", ZNL_SERVICE_BYTES_MAX);
    luaL_argcheck(L, name.size > 0, 2, "name must not be empty");
    znl_jobs_checkhandler(L, 3);
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->services_ref);
    lua_pushvalue(L, 2);
    if (lua_isnil(L, 3)) {
        lua_pushnil(L);
    } else {
        lua_createtable(L, 3, 0);
        for (int i = 0; i < 3; i++) {
            lua_pushvalue(L, 3 + i);
            lua_rawseti(L, -2, i + 1);
        }
    }
    lua_rawset(L, -3);
    return 0;
}

static int slave_reads_calls(lua_State *L)
{
    return push_calls(L, znl_slave_calls(znl_node_box_checkslave(L)->slave));
}

static int slave_is_master_online(lua_State *L)
{
    lua_pushboolean(L, znl_slave_master_online(znl_node_box_checkslave(L)->slave));
    return 1;
}

static int slave_master_id(lua_State *L)
{
    znl_frame id = znl_slave_master_id(znl_node_box_checkslave(L)->slave);
    if (id.size == 0)
        return 0;
    znl_node_box_pushframe(L, id);
    return 1;
}

/* --- module ------------------------------------------------------------------------------------ */

/* clang-format off */
#define BOTH_METHODS                                                                             \
    {"start", node_start}, {"stop", node_stop}, {"drain", node_drain},                           \
            {"running", node_running},                                                           \
            {"endpoint", node_endpoint}, {"set_handler", node_set_handler},                      \
            {"set_console", node_set_console}, {"listen", node_listen},                          \
            {"counters", node_counters}
/* clang-format on */

static const luaL_Reg master_methods[] = {
        BOTH_METHODS,
        {"request", znl_node_master_request},
        {"service_request", znl_node_master_service_request},
        {"call", znl_node_master_call},
        {"publish", master_publish},
        {"slaves", master_slaves},
        {"endpoints", master_endpoints},
        {"reads_calls", master_reads_calls},
        {"is_online", master_is_online},
        {"forget", master_forget},
        {"add_key", master_add_key},
        {"remove_key", master_remove_key},
        {NULL, NULL},
};

static const luaL_Reg slave_methods[] = {
        BOTH_METHODS,
        {"request", znl_node_slave_request},
        {"call", znl_node_slave_call},
        {"push", slave_push},
        {"set_service", slave_set_service},
        {"is_master_online", slave_is_master_online},
        {"reads_calls", slave_reads_calls},
        {"master_id", slave_master_id},
        {NULL, NULL},
};

int luaopen_znl_core_node(lua_State *L)
{
    static const luaL_Reg functions[] = {
            {"master", new_master}, {"slave", new_slave}, {NULL, NULL}};
    znl_lua_newtype(L, MASTER_TYPE, master_methods, node_gc);
    znl_lua_newtype(L, SLAVE_TYPE, slave_methods, node_gc);
    znl_node_box_open_request_type(L);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
