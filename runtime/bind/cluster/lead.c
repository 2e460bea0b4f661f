/* lead.c - a channel that is led here: its methods, its readiness, its subscriptions.
 *
 *   coming -> ready | failed       registrations wait while it is coming; what they are answered with may change
 *   open -> closed                 its followers are disconnected; others of the server stay
 *
 * What node/cluster_channel reports is kept until its function has returned: only then a script hears of it, and
 * may do anything.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/cluster/cluster.h"

#include "base/alloc.h"
#include "base/err.h"

/* --- what the channel reports ------------------------------------------------------------------ */

/* A key that was subscribed for the first time; the bytes of its registration follow its own. */
struct znl_cluster_new_key {
    struct znl_cluster_new_key *next;
    int is_taken; /* somebody reports it: a finalizer inside that does not do it again */
    int has_reg;
    size_t key_size, reg_size;
    uint8_t bytes[];
};

static int on_key(void *user, znl_frame key, znl_frame reg)
{
    znl_cluster_lead *lead = user;
    struct znl_cluster_new_key *fresh = znl_malloc(sizeof *fresh + key.size + reg.size);
    if (fresh == NULL)
        return ZNL_E_NOMEM;
    *fresh = (struct znl_cluster_new_key){.next = lead->keys,
            .has_reg = reg.data != NULL,
            .key_size = key.size,
            .reg_size = reg.size};
    memcpy(fresh->bytes, key.data, key.size);
    if (reg.size > 0)
        memcpy(fresh->bytes + key.size, reg.data, reg.size);
    lead->keys = fresh;
    return 0;
}

static void drop_key(znl_cluster_lead *lead, struct znl_cluster_new_key *dropped)
{
    struct znl_cluster_new_key **at = &lead->keys;
    while (*at != dropped)
        at = &(*at)->next;
    *at = dropped->next;
    znl_free(dropped);
}

static void on_local(void *user, void *member_user, znl_frame key, znl_frame value)
{
    znl_cluster_lead *lead = user;
    (void)member_user;
    (void)key;
    (void)value; /* whoever has called the channel knows both */
    lead->has_local = 1;
}

static const znl_cluster_channel_events channel_events = {on_key, on_local};

/* "key", key, registration, its text */
static void emit_key(lua_State *L, znl_cluster_lead *lead, struct znl_cluster_new_key *fresh)
{
    znl_frame reg = {NULL, 0};
    if (fresh->has_reg)
        reg = znl_frame_of(fresh->bytes + fresh->key_size, fresh->reg_size);
    fresh->is_taken = 1;
    lua_pushliteral(L, "key");
    lua_pushlstring(L, (const char *)fresh->bytes, fresh->key_size);
    if (!fresh->has_reg || znl_lua_pushjson(L, reg) != 0)
        lua_pushnil(L);
    znl_cluster_push_frame(L, reg);
    drop_key(lead, fresh);
    znl_cluster_emit(L, &lead->jobs.anchor, 4, 0);
}

static void emit_keys(lua_State *L, znl_cluster_lead *lead)
{
    for (struct znl_cluster_new_key *fresh = lead->keys; fresh != NULL;)
        if (fresh->is_taken) {
            fresh = fresh->next;
        } else {
            emit_key(L, lead, fresh);
            fresh = lead->keys; /* a script has run */
        }
}

static int run_keys(lua_State *L)
{
    emit_keys(L, lua_touserdata(L, 1));
    return 0;
}

int znl_cluster_lead_subscribe(lua_State *L, znl_cluster_lead *lead,
        znl_cluster_inbound *inbound, znl_frame key, znl_frame reg)
{
    znl_cluster_member *member = inbound != NULL ? inbound->member : lead->local;
    int err = znl_cluster_channel_subscribe(member, key, reg);
    uint8_t has_local = lead->has_local;
    if (lead->keys != NULL && L != NULL)
        emit_keys(L, lead);
    else if (lead->keys != NULL)
        znl_vm_protect(lead->vm, run_keys, lead, "cluster.on_event");
    lead->has_local = has_local; /* a value published inside was reported there */
    return err;
}

/* "value", key, value: for the process itself. The bytes are those of the text at the top, which is popped. */
static void emit_value(lua_State *L, znl_cluster_lead *lead, znl_frame key)
{
    znl_frame value = {NULL, 0};
    int text = lua_gettop(L);
    value.data = (const uint8_t *)lua_tolstring(L, text, &value.size);
    lua_pushliteral(L, "value");
    znl_cluster_push_frame(L, key);
    if (znl_cluster_push_value(L, &lead->values, value) == 0)
        znl_cluster_emit(L, &lead->jobs.anchor, 3, 0);
    lua_settop(L, text - 1);
}

/* Pushes the last value of a key as its text. 0 or ZNL_E_NOT_FOUND: nothing is pushed. */
static int push_last(lua_State *L, const znl_cluster_lead *lead, znl_frame key)
{
    znl_frame value;
    size_t size;
    int err = znl_cluster_channel_last(lead->channel, key, &value);
    void *copy = NULL;
    while (err == 0) {
        size = value.size;
        copy = lua_newuserdata(L, size); /* may run a finalizer of a script, which publishes */
        err = znl_cluster_channel_last(lead->channel, key, &value);
        if (err == 0 && value.size <= size)
            break;
        lua_pop(L, 1);
    }
    if (err != 0)
        return err;
    memcpy(copy, value.data, value.size);
    lua_pushlstring(L, copy, value.size);
    lua_remove(L, -2);
    return 0;
}

/* --- construction ------------------------------------------------------------------------------ */

/* An option that is on unless it is false. */
static int field_unless(lua_State *L, int index, const char *name)
{
    lua_getfield(L, index, name);
    int value = lua_isnil(L, -1) || lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

static void run_claim(znl_deferred *deferred)
{
    znl_cluster_lead *lead = (znl_cluster_lead *)(void *)((char *)deferred -
            offsetof(znl_cluster_lead, claim_due));
    if (lead->server == NULL)
        return;
    znl_anchor_hold_again(&lead->jobs.anchor); /* it is open, so it is held */
    znl_cluster_server_claim(lead->server, lead);
    znl_anchor_let_go(&lead->jobs.anchor);
}

/* channel(self, options) -> channel | nil, message, code */
int znl_cluster_server_channel(lua_State *L)
{
    znl_cluster_server *server = luaL_checkudata(L, 1, ZNL_CLUSTER_SERVER_TYPE);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    if (server->listener == NULL)
        return znl_lua_fail(L, ZNL_E_CLOSED, "channel");
    znl_frame name = znl_lua_fieldtext(L, 2, "name", ZNL_CLUSTER_NAME_BYTES_MAX);
    luaL_argcheck(L, name.data != NULL, 2, "name is needed");
    if (znl_cluster_find_lead(server, name) != NULL) {
        lua_pushnil(L);
        lua_pushfstring(L, "channel: %s is led here already", (const char *)name.data);
        lua_pushstring(L, znl_err_code(ZNL_E_EXISTS));
        return 3;
    }
    znl_cluster_lead *lead = lua_newuserdata(L, sizeof *lead);
    memset(lead, 0, sizeof *lead);
    luaL_getmetatable(L, ZNL_CLUSTER_CHANNEL_TYPE);
    znl_jobs_init(L, &lead->jobs, sizeof(znl_cluster_call), znl_cluster_call_timed_out,
            znl_cluster_job_ended);
    lead->vm = znl_vm_of(L);
    lead->begin_ref = LUA_NOREF;
    lua_setmetatable(L, 3); /* from here on the collector frees what follows */
    lead->values.owner = &lead->jobs.anchor;
    lead->values.is_custom = znl_cluster_own(L, &lead->jobs.anchor, 3, 2) != 0;
    lead->values.max_depth = znl_lua_fieldu32(
            L, 2, "max_depth", ZNL_TRANSCODE_DEPTH_DEFAULT, ZNL_TRANSCODE_DEPTH_MAX);
    lead->heartbeat_ms = znl_lua_fieldu32(
            L, 2, "heartbeat_ms", ZNL_CLUSTER_HEARTBEAT_MS, ZNL_HEARTBEAT_MS_MAX);
    lead->checks_heartbeat = field_unless(L, 2, "check_heartbeat") != 0;
    lead->checks_registration = znl_lua_fieldboolean(L, 2, "check_registration") != 0;
    lead->jobs.max = znl_lua_fieldu32(
            L, 2, "max_concurrency", ZNL_CONCURRENCY_DEFAULT, ZNL_CONCURRENCY_MAX);
    lead->jobs.timeout_ms = znl_lua_fieldu32(L, 2, "handler_timeout_ms", 0, ZNL_TIMEOUT_MS_MAX);
    znl_cluster_lead_open_queue(lead,
            znl_lua_fieldu32(
                    L, 2, "max_queue", ZNL_QUEUE_REQUESTS_DEFAULT, ZNL_QUEUE_REQUESTS_MAX),
            znl_lua_fieldu32(
                    L, 2, "max_queue_job_bytes", ZNL_QUEUE_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX));
    znl_cluster_push_begin(L);
    lead->begin_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lead->name = znl_malloc(name.size + 1);
    if (lead->name == NULL)
        return znl_lua_fail(L, ZNL_E_NOMEM, "channel");
    memcpy(lead->name, name.data, name.size + 1);
    lead->name_size = name.size;
    const znl_cluster_channel_options options = {
            .is_broadcast = field_unless(L, 2, "broadcast"),
            .response_timeout_ms = znl_lua_fieldu32(
                    L, 2, "response_timeout_ms", ZNL_CLUSTER_RESPONSE_MS, ZNL_TIMEOUT_MS_MAX),
            .max_keys = znl_lua_fieldu32(L, 2, "max_keys", 0, UINT32_MAX),
            .max_member_keys = znl_lua_fieldu32(L, 2, "max_member_keys", 0, UINT32_MAX),
            .max_value_bytes = znl_lua_fieldu32(L, 2, "max_values_bytes", 0, UINT32_MAX),
            .max_member_bytes = znl_lua_fieldu32(
                    L, 2, "max_slow_bytes", 0, ZNL_FRAME_BYTES_MAX),
    };
    int err = znl_cluster_channel_new(&lead->channel, &options, &channel_events, lead);
    if (err != 0)
        return znl_lua_fail(L, err, "channel");
    znl_anchor_hold(L, &lead->jobs.anchor, 3);
    lead->server = server;
    lead->next = server->leads;
    lead->prev = &server->leads;
    if (server->leads != NULL)
        server->leads->prev = &lead->next;
    server->leads = lead;
    lead->claim_due.run = run_claim;
    znl_loop_defer(lead->vm->loop, &lead->claim_due);
    lua_settop(L, 3);
    return 1;
}

/* --- the end ----------------------------------------------------------------------------------- */

void znl_cluster_lead_close(znl_cluster_lead *lead)
{
    if (lead->server == NULL)
        return;
    lead->server = NULL;
    *lead->prev = lead->next;
    if (lead->next != NULL)
        lead->next->prev = lead->prev;
    for (znl_cluster_inbound *inbound = lead->inbounds; inbound != NULL;
            inbound = inbound->next)
        znl_cluster_inbound_end(inbound, ZNL_E_STOPPED, "the channel was closed", 1);
    znl_cluster_channel_leave(lead->local);
    lead->local = NULL;
    znl_anchor_let_go_later(&lead->jobs.anchor);
}

/* The state is being closed, or nothing refers to it any more. */
static int lead_gc(lua_State *L)
{
    znl_cluster_lead *lead = lua_touserdata(L, 1);
    while (lead->inbounds != NULL)
        znl_cluster_inbound_discard(lead->inbounds);
    znl_cluster_lead_close(lead);
    znl_cluster_channel_free(lead->channel);
    lead->channel = NULL;
    znl_loop_undefer(lead->vm->loop, &lead->turns_due);
    znl_loop_undefer(lead->vm->loop, &lead->claim_due);
    znl_cluster_lead_drop_events(lead);
    luaL_unref(L, LUA_REGISTRYINDEX, lead->begin_ref);
    lead->begin_ref = LUA_NOREF;
    znl_jobs_fini(L, &lead->jobs);
    znl_cluster_values_fini(&lead->values);
    znl_buffer_fini(&lead->readiness);
    while (lead->keys != NULL)
        drop_key(lead, lead->keys);
    znl_free(lead->name);
    lead->name = NULL;
    return 0;
}

/* --- methods ----------------------------------------------------------------------------------- */

znl_cluster_lead *znl_cluster_check_lead(lua_State *L)
{
    znl_jobs *jobs = znl_jobs_at(L, 1);
    if (jobs == NULL || jobs->ended != znl_cluster_job_ended)
        luaL_argerror(L, 1, "channel of znl.core.cluster expected");
    return (znl_cluster_lead *)jobs;
}

static int lead_set_handler(lua_State *L)
{
    return znl_jobs_set_handler(L, &znl_cluster_check_lead(L)->jobs);
}

/* Writes what registrations are answered with into values->out: the failure of the table at 3. */
static int write_refusal(lua_State *L, znl_cluster_lead *lead)
{
    znl_cluster_failure failure = {.message = znl_frame_text("the leader's client failed")};
    znl_cluster_read_failure(L, 3, &failure);
    return znl_cluster_write_failure(L, &lead->values, &failure, 1);
}

/* ready(self, true) or ready(self, false, error) -> true | nil, message, code */
static int lead_ready(lua_State *L)
{
    znl_cluster_lead *lead = znl_cluster_check_lead(L);
    luaL_checktype(L, 2, LUA_TBOOLEAN);
    int is_ready = lua_toboolean(L, 2);
    lua_settop(L, 3);
    if (!is_ready)
        luaL_checktype(L, 3, LUA_TTABLE);
    int err = is_ready ? znl_cluster_write_success(L, &lead->values) : write_refusal(L, lead);
    lead->readiness.size = 0;
    if (err == 0)
        err = znl_buffer_append(&lead->readiness, lead->values.out.data, lead->values.out.size);
    if (err != 0) {
        lead->state = ZNL_CLUSTER_COMING;
        return znl_lua_fail(L, err, "ready");
    }
    lead->state = is_ready ? ZNL_CLUSTER_READY : ZNL_CLUSTER_FAILED;
    for (znl_cluster_inbound *inbound = lead->inbounds; inbound != NULL;
            inbound = inbound->next)
        if (!inbound->is_over)
            znl_cluster_inbound_answer(inbound);
    lua_pushboolean(L, 1);
    return 1;
}

/* Pushes what was written last, of the value at `index`, as a text; 0 and nothing when it cannot be had. */
static int push_written(lua_State *L, znl_cluster_values *values, int index)
{
    char problem[ZNL_LUA_PROBLEM_BYTES];
    if (values->is_custom) {
        lua_pushvalue(L, index); /* its text took its place */
        return 1;
    }
    for (;;) {
        uint64_t written = values->written;
        size_t size = values->out.size;
        void *copy = lua_newuserdata(
                L, size); /* may run a finalizer of a script, which publishes */
        if (written == values->written) {
            memcpy(copy, values->out.data, size);
            lua_pushlstring(L, copy, size);
            lua_remove(L, -2);
            return 1;
        }
        lua_pop(L, 1);
        if (znl_cluster_write_value(L, index, values, problem) != 0)
            return 0;
    }
}

/* publish(self, key, value) -> count | nil, message, code */
static int lead_publish(lua_State *L)
{
    znl_cluster_lead *lead = znl_cluster_check_lead(L);
    znl_frame key = znl_lua_checkframe(L, 2, "key", ZNL_CLUSTER_KEY_BYTES_MAX);
    lua_settop(L, 3);
    char problem[ZNL_LUA_PROBLEM_BYTES];
    znl_cluster_values *values = &lead->values;
    int err = znl_cluster_write_value(L, 3, values, problem);
    if (err == ZNL_E_INVALID)
        return znl_cluster_unsendable(L, "publish", problem);
    if (err == 0 && lead->server == NULL)
        err = ZNL_E_CLOSED;
    if (err == 0 && values->out.size > lead->server->max_bytes)
        err = ZNL_E_TOO_BIG; /* nobody gets what no follower could get */
    if (err != 0)
        return znl_cluster_fail(L, err, "publish");
    lead->has_local = 0;
    int count = znl_cluster_channel_publish(
            lead->channel, key, znl_frame_of(values->out.data, values->out.size));
    if (lead->has_local && push_written(L, values, 3))
        emit_value(L, lead, key);
    if (count < 0)
        return znl_cluster_fail(L, count, "publish");
    lua_pushinteger(L, count);
    return 1;
}

/* last(self, key) -> value | nil, message, code */
static int lead_last(lua_State *L)
{
    znl_cluster_lead *lead = znl_cluster_check_lead(L);
    znl_frame key = znl_lua_checkframe(L, 2, "key", ZNL_CLUSTER_KEY_BYTES_MAX), value;
    int err = push_last(L, lead, key);
    if (err == 0) {
        value.data = (const uint8_t *)lua_tolstring(L, -1, &value.size);
        err = znl_cluster_push_value(L, &lead->values, value);
    }
    return err == 0 ? 1 : znl_lua_fail(L, err, "last");
}

/* subscribe(self, key, registration or nil) -> true | nil, message, code */
static int lead_subscribe(lua_State *L)
{
    znl_cluster_lead *lead = znl_cluster_check_lead(L);
    znl_frame key = znl_lua_checkframe(L, 2, "key", ZNL_CLUSTER_KEY_BYTES_MAX);
    znl_frame reg = znl_cluster_check_json(L, 3, "registration");
    int err = lead->server == NULL ? ZNL_E_CLOSED : 0;
    if (err == 0 && lead->local == NULL)
        err = znl_cluster_channel_join(&lead->local, lead->channel, NULL, NULL);
    lead->has_local = 0;
    if (err == 0)
        err = znl_cluster_lead_subscribe(L, lead, NULL, key, reg);
    if (err != 0)
        return znl_lua_fail(L, err, "subscribe");
    if (lead->has_local && push_last(L, lead, key) == 0)
        emit_value(L, lead, key);
    lua_pushboolean(L, 1);
    return 1;
}

/* unsubscribe(self, key) */
static int lead_unsubscribe(lua_State *L)
{
    znl_cluster_lead *lead = znl_cluster_check_lead(L);
    znl_frame key = znl_lua_checkframe(L, 2, "key", ZNL_CLUSTER_KEY_BYTES_MAX);
    if (lead->local != NULL)
        znl_cluster_channel_unsubscribe(lead->local, key, (znl_frame){NULL, 0});
    return 0;
}

/* drain() -> requests at work or waiting here. New ones are refused from now on. */
static int lead_drain(lua_State *L)
{
    znl_cluster_lead *lead = znl_cluster_check_lead(L);
    lead->jobs.is_draining = 1;
    lua_pushnumber(L, (lua_Number)(lead->jobs.at_work + lead->turns.count));
    return 1;
}

static int lead_close(lua_State *L)
{
    znl_cluster_lead_close(znl_cluster_check_lead(L));
    return 0;
}

/* keys() -> array of { key =, members =, published =, bytes = } */
static int lead_keys(lua_State *L)
{
    const znl_cluster_lead *lead = znl_cluster_check_lead(L);
    znl_cluster_key_info info;
    lua_newtable(L);
    for (uint32_t i = 0; znl_cluster_channel_key(lead->channel, i, &info) == 0; i++) {
        lua_createtable(L, 0, 4);
        znl_cluster_push_frame(L, info.key);
        lua_setfield(L, -2, "key");
        znl_cluster_set_number(L, "members", info.members);
        znl_cluster_set_number(L, "published", info.published);
        znl_cluster_set_number(L, "bytes", info.value_bytes);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 1;
}

static int lead_followers(lua_State *L)
{
    lua_pushnumber(L, znl_cluster_check_lead(L)->inbound_count);
    return 1;
}

static int lead_counters(lua_State *L)
{
    const znl_cluster_lead *lead = znl_cluster_check_lead(L);
    znl_cluster_link_counters sum = lead->ended, one;
    for (const znl_cluster_inbound *inbound = lead->inbounds; inbound != NULL;
            inbound = inbound->next) {
        znl_cluster_link_count(inbound->link, &one);
        znl_cluster_add_counters(&sum, &one);
    }
    znl_cluster_channel_counters channel;
    znl_cluster_channel_count(lead->channel, &channel);
    lua_newtable(L);
    znl_jobs_count(L, &lead->jobs);
    znl_cluster_set_counters(L, &sum);
#define ZNL_CLUSTER_SET(name) znl_cluster_set_number(L, #name, channel.name);
    ZNL_CLUSTER_CHANNEL_COUNTERS(ZNL_CLUSTER_SET)
#undef ZNL_CLUSTER_SET
    znl_cluster_set_number(L, "keys", channel.keys);
    znl_cluster_set_number(L, "members", channel.members);
    znl_cluster_set_number(L, "value_bytes", channel.value_bytes);
    znl_cluster_set_number(L, "queued", lead->turns.count);
    znl_cluster_set_number(L, "followers", lead->inbound_count);
    znl_cluster_set_number(L, "registrations", lead->registrations);
    znl_cluster_set_number(L, "registrations_refused", lead->unauthenticated);
    znl_cluster_set_number(L, "keys_refused", lead->keys_refused);
    return 1;
}

static const luaL_Reg methods[] = {
        {"set_handler", lead_set_handler},
        {"ready", lead_ready},
        {"publish", lead_publish},
        {"last", lead_last},
        {"subscribe", lead_subscribe},
        {"unsubscribe", lead_unsubscribe},
        {"drain", lead_drain},
        {"close", lead_close},
        {"keys", lead_keys},
        {"followers", lead_followers},
        {"counters", lead_counters},
        {NULL, NULL},
};

void znl_cluster_open_channel_type(lua_State *L)
{
    znl_lua_newtype(L, ZNL_CLUSTER_CHANNEL_TYPE, methods, lead_gc);
}
