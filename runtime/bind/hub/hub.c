/* hub.c - znl.core.hub: connections of WebSocket by namespace, channel, user and session; broadcasts and direct
 * messages to them, here and on other instances (node/hub.h).
 *
 *     new{bus=, prefix=, app=, origin=, on_slow="close"|"drop", max_clients=, on_event=} -> hub
 *     h:start() -> true | nil, message, code    subscribes: broadcasts first, then direct messages
 *     h:stop()                                   nothing is published or received any more
 *     h:attach(connection, ns) -> id | nil, message, code
 *     h:join(id, session_id, user_id, channels|nil) -> true, left_session|nil, previous_id|nil
 *         | nil, message, code    the session that is over by it; who held this one
 *     h:leave(id) -> left_session|nil;  h:detach(id) -> left_session|nil
 *     h:broadcast(ns, channel|nil, message, except|nil) -> deliveries here | nil, message, code
 *     h:direct(user_id, message) -> deliveries here | nil, message, code
 *     h:send(id, message) -> true | nil, message, code
 *     h:clients() -> how many are attached;  h:counters() -> table
 *
 * A message is a table { type = text, payload = any }. on_event("slow", id), on_event("ended", id): its connection,
 * on_event("error", code, text): on the main state, it must not yield.
 *
 * A hub is anchored while it is started. It does not keep connections; of one that ended it keeps the session
 * until it is detached.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "node/hub.h"
#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/anchor.h"
#include "bind/hub/bus.h"
#include "bind/net/websocket.h"
#include "bind/values/json.h"
#include "codec/text.h"
#include "state/slots.h"

#define TYPE "znl.core.hub"
/* A text of one message that is larger is given back after it. */
#define KEPT_BYTES (64u * 1024)
#define PROBLEM_BYTES 256u

enum { ON_EVENT = 1, BUS, OWN = BUS };

typedef struct hub_box hub_box;

/* A connection in the hub. */
typedef struct attachment {
    znl_websocket_user user;
    hub_box *box;
    uint64_t id;
} attachment;

struct hub_box {
    znl_anchor anchor; /* while it is started */
    znl_hub *hub;      /* NULL: not made */
    znl_hub_bus bus;
    int is_started;
    znl_buffer attachments; /* attachment *, by slot; NULL: none */
    znl_buffer text;        /* of the message that is being sent */
    znl_buffer names;       /* znl_frame: channels, sessions left out */
};

static hub_box *check_hub(lua_State *L)
{
    hub_box *box = luaL_checkudata(L, 1, TYPE);
    luaL_argcheck(L, box->hub != NULL, 1, "the hub was not made");
    return box;
}

static uint64_t check_id(lua_State *L, int idx)
{
    lua_Number value = lua_type(L, idx) == LUA_TNUMBER ? lua_tonumber(L, idx) : -1;
    if (!(value >= 1 && value < 9007199254740992.0 && value == (lua_Number)(uint64_t)value))
        luaL_argerror(L, idx, "id must be a number that attach() gave");
    return (uint64_t)value;
}

/* --- events --------------------------------------------------------------------------------------------- */

struct occasion {
    const hub_box *box;
    const char *name;
    uint64_t id;
    int err;
};

static int run_event(lua_State *L)
{
    const struct occasion *occasion = lua_touserdata(L, 1);
    if (!znl_anchor_push(L, &occasion->box->anchor))
        return 0;
    lua_getfenv(L, -1);
    lua_rawgeti(L, -1, ON_EVENT);
    if (lua_isnil(L, -1))
        return 0;
    lua_pushstring(L, occasion->name);
    if (occasion->err == 0) {
        lua_pushnumber(L, (lua_Number)occasion->id);
        znl_lua_callevent(L, "hub", 2, 0);
    } else {
        lua_pushstring(L, znl_err_code(occasion->err));
        lua_pushfstring(L, "not published: %s", znl_err_text(occasion->err));
        znl_lua_callevent(L, "hub", 3, 0);
    }
    return 0;
}

static void on_slow(void *user, uint64_t id)
{
    struct occasion occasion = {.box = user, .name = "slow", .id = id};
    znl_vm_protect(occasion.box->anchor.vm, run_event, &occasion, "hub.on_event");
}

static void on_error(void *user, int err)
{
    struct occasion occasion = {.box = user, .name = "error", .err = err};
    znl_vm_protect(occasion.box->anchor.vm, run_event, &occasion, "hub.on_event");
}

static void on_ended(void *user, uint64_t id)
{
    struct occasion occasion = {.box = user, .name = "ended", .id = id};
    znl_vm_protect(occasion.box->anchor.vm, run_event, &occasion, "hub.on_event");
}

static const znl_hub_events events = {
        .on_slow = on_slow, .on_error = on_error, .on_ended = on_ended};

static void on_broadcast(void *user, const znl_nats_message *message)
{
    const hub_box *box = user;
    znl_hub_receive_broadcast(box->hub, message->data, message->size);
}

static void on_direct(void *user, const znl_nats_message *message)
{
    const hub_box *box = user;
    znl_hub_receive_direct(box->hub, message->data, message->size);
}

/* --- life ----------------------------------------------------------------------------------------------- */

static znl_hub_slow read_slow(lua_State *L)
{
    znl_frame text = znl_lua_fieldtext(L, 1, "on_slow", 16);
    if (text.data == NULL || znl_frame_equal(text, znl_frame_text("close")))
        return ZNL_HUB_SLOW_CLOSE;
    if (!znl_frame_equal(text, znl_frame_text("drop")))
        luaL_error(L, "on_slow must be \"close\" or \"drop\"");
    return ZNL_HUB_SLOW_DROP;
}

static znl_frame read_name(lua_State *L, const char *name)
{
    znl_frame text = znl_lua_fieldtext(L, 1, name, ZNL_HUB_NAME_BYTES_MAX);
    if (text.size == 0)
        luaL_error(L, "%s must be a string, not empty", name);
    return text;
}

static int hub_new(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    znl_hub_options options = {.prefix = read_name(L, "prefix"),
            .app = read_name(L, "app"),
            .origin = read_name(L, "origin"),
            .on_slow = read_slow(L),
            .max_clients = znl_lua_fieldu32(L, 1, "max_clients", 0, ZNL_CONNECTIONS_MAX)};
    hub_box *box = lua_newuserdata(L, sizeof *box);
    memset(box, 0, sizeof *box);
    znl_anchor_init(&box->anchor, znl_vm_of(L));
    luaL_getmetatable(L, TYPE);
    lua_setmetatable(L, 2);
    lua_createtable(L, OWN, 0);
    lua_getfield(L, 1, "on_event");
    if (!lua_isnil(L, -1))
        luaL_checktype(L, -1, LUA_TFUNCTION);
    lua_rawseti(L, 3, ON_EVENT);
    lua_getfield(L, 1, "bus"); /* which it keeps */
    lua_rawseti(L, 3, BUS);
    lua_setfenv(L, 2);
    lua_settop(L, 2);
    znl_anchor_enter(L, &box->anchor);
    znl_hub_bus_open(L, 1, &box->bus, NULL, NULL);
    if (box->bus.has_nats) {
        options.bus = &znl_hub_bus_calls;
        options.bus_user = &box->bus;
    }
    int err = znl_hub_new(&box->hub, box->anchor.vm->loop, &options, &events, box);
    if (err == ZNL_E_INVALID)
        luaL_error(L,
                "prefix must be subject tokens and app one of them: "
                "not empty, without white space, '.', '*', '>'");
    return err == 0 ? 1 : znl_lua_fail(L, err, "hub.new");
}

static void stop(hub_box *box)
{
    if (box->hub != NULL)
        znl_hub_stop(box->hub);
    znl_hub_bus_unsubscribe(&box->bus);
}

static int hub_start(lua_State *L)
{
    hub_box *box = check_hub(L);
    if (box->is_started) {
        lua_pushboolean(L, 1);
        return 1;
    }
    znl_anchor_hold(L, &box->anchor, 1);
    int err = 0;
    if (box->bus.has_nats) {
        err = znl_hub_bus_subscribe(
                &box->bus, znl_hub_broadcast_subject(box->hub), on_broadcast, box);
        if (err == 0)
            err = znl_hub_bus_subscribe(
                    &box->bus, znl_hub_direct_subject(box->hub), on_direct, box);
    }
    if (err != 0) {
        stop(box);
        znl_anchor_let_go(&box->anchor);
        return znl_lua_fail(L, err, "hub.start");
    }
    box->is_started = 1;
    znl_hub_start(box->hub);
    lua_pushboolean(L, 1);
    return 1;
}

static int hub_stop(lua_State *L)
{
    hub_box *box = check_hub(L);
    if (!box->is_started)
        return 0;
    box->is_started = 0;
    stop(box);
    znl_anchor_let_go_later(&box->anchor);
    return 0;
}

static int hub_collect(lua_State *L)
{
    hub_box *box = luaL_checkudata(L, 1, TYPE);
    attachment **list = (attachment **)(void *)box->attachments.data;
    for (size_t i = 0; i < box->attachments.size / sizeof *list; i++) {
        if (list[i] != NULL)
            znl_websocket_unuse(&list[i]->user);
        znl_free(list[i]);
    }
    znl_buffer_fini(&box->attachments);
    znl_hub_bus_close(&box->bus);
    znl_hub_free(box->hub);
    box->hub = NULL;
    znl_buffer_fini(&box->text);
    znl_buffer_fini(&box->names);
    znl_anchor_fini(&box->anchor);
    return 0;
}

/* --- clients -------------------------------------------------------------------------------------------- */

/* Where the attachment with that id is kept; NULL: nowhere. */
static attachment **place_of(const hub_box *box, uint64_t id)
{
    size_t slot = (size_t)(id & (ZNL_SLOTS_MAX - 1));
    attachment **list = (attachment **)(void *)box->attachments.data;
    if (slot >= box->attachments.size / sizeof *list || list[slot] == NULL ||
            list[slot]->id != id)
        return NULL;
    return &list[slot];
}

static int keep(hub_box *box, attachment *attached)
{
    size_t slot = (size_t)(attached->id & (ZNL_SLOTS_MAX - 1));
    size_t size = (slot + 1) * sizeof attached;
    znl_buffer *list = &box->attachments;
    if (list->size < size) {
        if (znl_buffer_extend(list, size - list->size) != 0)
            return ZNL_E_NOMEM;
        memset(list->data + list->size, 0, size - list->size);
        list->size = size;
    }
    ((attachment **)(void *)list->data)[slot] = attached;
    return 0;
}

static void on_end(znl_websocket_user *user)
{
    attachment *attached = (attachment *)(void *)((char *)user - offsetof(attachment, user));
    znl_hub_end(attached->box->hub, attached->id);
}

/* Names come from paths and from applications: they must be fit for JSON. */
static int are_texts(const znl_frame *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!znl_utf8_valid(names[i].data, names[i].size))
            return 0;
    return 1;
}

static int fail_name(lua_State *L, const char *where)
{
    lua_pushnil(L);
    lua_pushfstring(L, "%s: a name is not UTF-8", where);
    lua_pushstring(L, znl_err_code(ZNL_E_INVALID));
    return 3;
}

static int hub_attach(lua_State *L)
{
    hub_box *box = check_hub(L);
    znl_frame ns = znl_lua_checkframe(L, 3, "ns", SIZE_MAX);
    znl_websocket_user probe = {.on_end = on_end};
    znl_ws *ws = znl_websocket_use(L, 2, &probe); /* raises while there is nothing to lose */
    if (ws == NULL)
        return znl_lua_fail(L, ZNL_E_CLOSED, "hub.attach");
    znl_websocket_unuse(&probe);
    if (!are_texts(&ns, 1))
        return fail_name(L, "hub.attach");
    attachment *attached = znl_calloc(1, sizeof *attached);
    if (attached == NULL)
        return znl_lua_fail(L, ZNL_E_NOMEM, "hub.attach");
    attached->box = box;
    attached->user.on_end = on_end;
    int err = znl_hub_attach(box->hub, ws, ns, &attached->id);
    if (err == 0) {
        err = keep(box, attached);
        if (err != 0) {
            znl_hub_session session;
            znl_hub_detach(box->hub, attached->id, &session);
        }
    }
    if (err != 0) {
        znl_free(attached);
        return znl_lua_fail(L, err, "hub.attach");
    }
    znl_websocket_use(L, 2, &attached->user);
    lua_pushnumber(L, (lua_Number)attached->id);
    return 1;
}

/* Reads the array of strings at `idx`, or nil, into box->names, which Lua keeps alive as long as the array is as it
 * is. Raises on anything else. 0, ZNL_E_LIMIT, ZNL_E_NOMEM. */
static int read_names(
        lua_State *L, hub_box *box, int idx, const char *what, size_t max, size_t *count)
{
    *count = 0;
    if (lua_isnoneornil(L, idx))
        return 0;
    if (!lua_istable(L, idx))
        luaL_error(L, "%s must be an array of strings, not %s", what, luaL_typename(L, idx));
    size_t size = lua_objlen(L, idx);
    if (size > max)
        return ZNL_E_LIMIT;
    if (znl_buffer_reserve(&box->names, size * sizeof(znl_frame)) != 0)
        return ZNL_E_NOMEM;
    znl_frame *names = (znl_frame *)(void *)box->names.data;
    for (size_t i = 0; i < size; i++) {
        lua_rawgeti(L, idx, (int)i + 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "%s[%d] must be a string, not %s", what, (int)i + 1,
                    luaL_typename(L, -1));
        names[i].data = (const uint8_t *)lua_tolstring(L, -1, &names[i].size);
        lua_pop(L, 1);
    }
    *count = size;
    return 0;
}

static int push_left(lua_State *L, const znl_hub_session *session)
{
    if (session->left.data == NULL)
        lua_pushnil(L);
    else
        lua_pushlstring(L, (const char *)session->left.data, session->left.size);
    return 1;
}

static int hub_join(lua_State *L)
{
    hub_box *box = check_hub(L);
    uint64_t id = check_id(L, 2);
    znl_frame session_id = znl_lua_checkframe(L, 3, "session_id", SIZE_MAX);
    znl_frame user_id = znl_lua_checkframe(L, 4, "user_id", SIZE_MAX);
    size_t count;
    znl_hub_session session;
    int err = read_names(L, box, 5, "channels", ZNL_HUB_CHANNELS_MAX, &count);
    const znl_frame *channels = (const znl_frame *)(const void *)box->names.data;
    if (!are_texts(&session_id, 1) || !are_texts(&user_id, 1) || !are_texts(channels, count))
        return fail_name(L, "hub.join");
    if (err == 0)
        err = znl_hub_join(box->hub, id, session_id, user_id, channels, count, &session);
    if (err != 0)
        return znl_lua_fail(L, err, "hub.join");
    lua_pushboolean(L, 1);
    push_left(L, &session);
    if (session.previous == 0)
        return 2;
    lua_pushnumber(L, (lua_Number)session.previous);
    return 3;
}

static int hub_leave(lua_State *L)
{
    hub_box *box = check_hub(L);
    znl_hub_session session;
    znl_hub_leave(box->hub, check_id(L, 2), &session);
    return push_left(L, &session);
}

static int hub_detach(lua_State *L)
{
    hub_box *box = check_hub(L);
    uint64_t id = check_id(L, 2);
    attachment **place = place_of(box, id);
    if (place != NULL) {
        znl_websocket_unuse(&(*place)->user);
        znl_free(*place);
        *place = NULL;
    }
    znl_hub_session session;
    znl_hub_detach(box->hub, id, &session);
    return push_left(L, &session);
}

static int hub_clients(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)znl_hub_client_count(check_hub(L)->hub));
    return 1;
}

/* --- messages ------------------------------------------------------------------------------------------- */

/* Writes the message at `idx` into box->text. 0, or what it pushed: nil, message, code. Raises on what is no
 * message. */
static int write_message(lua_State *L, hub_box *box, int idx, const char *where)
{
    char problem[PROBLEM_BYTES];
    znl_buffer *text = &box->text;
    if (!lua_istable(L, idx))
        luaL_error(L, "message must be a table { type =, payload = }, not %s",
                luaL_typename(L, idx));
    lua_getfield(L, idx, "type");
    lua_getfield(L, idx, "payload");
    int payload = lua_gettop(L);
    if (lua_type(L, payload - 1) != LUA_TSTRING)
        luaL_error(L, "message.type must be a string, not %s", luaL_typename(L, payload - 1));
    text->size = 0;
    int err = znl_buffer_append(text, "{\"type\":", 8);
    if (err == 0)
        err = znl_lua_writejson(L, payload - 1, text, problem, sizeof problem);
    if (err == 0 && !lua_isnil(L, payload)) {
        err = znl_buffer_append(text, ",\"payload\":", 11);
        if (err == 0)
            err = znl_lua_writejson(L, payload, text, problem, sizeof problem);
    }
    if (err == 0)
        err = znl_buffer_append(text, "}", 1);
    if (err == 0 && text->size > ZNL_MESSAGE_BYTES_DEFAULT)
        err = ZNL_E_TOO_BIG;
    lua_settop(L, payload - 2);
    if (err == 0)
        return 0;
    znl_buffer_trim(text, KEPT_BYTES);
    if (err != ZNL_E_INVALID)
        return znl_lua_fail(L, err, where);
    lua_pushnil(L);
    lua_pushfstring(L, "%s: cannot send %s", where, problem);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

static znl_frame message_of(const hub_box *box)
{
    return znl_frame_of(box->text.data, box->text.size);
}

static int hub_broadcast(lua_State *L)
{
    hub_box *box = check_hub(L);
    lua_settop(L, 5);
    znl_frame ns = znl_lua_checkframe(L, 2, "ns", ZNL_HUB_NAME_BYTES_MAX), channel;
    int has_channel = !lua_isnil(L, 3);
    if (has_channel)
        channel = znl_lua_checkframe(L, 3, "channel", ZNL_HUB_NAME_BYTES_MAX);
    if (!are_texts(&ns, 1) || (has_channel && !are_texts(&channel, 1)))
        return fail_name(L, "hub.broadcast");
    size_t count;
    int pushed = write_message(L, box, 4, "hub.broadcast");
    if (pushed > 0)
        return pushed;
    int err = read_names(L, box, 5, "except", ZNL_HUB_EXCEPT_MAX, &count);
    if (err != 0)
        return znl_lua_fail(L, err, "hub.broadcast");
    const znl_frame *except = (const znl_frame *)(const void *)box->names.data;
    if (!are_texts(except, count))
        return fail_name(L, "hub.broadcast");
    uint32_t deliveries = znl_hub_broadcast(
            box->hub, ns, has_channel ? &channel : NULL, message_of(box), except, count);
    znl_buffer_trim(&box->text, KEPT_BYTES);
    znl_buffer_trim(&box->names, KEPT_BYTES);
    lua_pushnumber(L, deliveries);
    return 1;
}

static int hub_direct(lua_State *L)
{
    hub_box *box = check_hub(L);
    znl_frame user_id = znl_lua_checkframe(L, 2, "user_id", ZNL_HUB_NAME_BYTES_MAX);
    if (!are_texts(&user_id, 1))
        return fail_name(L, "hub.direct");
    int pushed = write_message(L, box, 3, "hub.direct");
    if (pushed > 0)
        return pushed;
    uint32_t deliveries = znl_hub_direct(box->hub, user_id, message_of(box));
    znl_buffer_trim(&box->text, KEPT_BYTES);
    lua_pushnumber(L, deliveries);
    return 1;
}

static int hub_send(lua_State *L)
{
    hub_box *box = check_hub(L);
    uint64_t id = check_id(L, 2);
    int pushed = write_message(L, box, 3, "hub.send");
    if (pushed > 0)
        return pushed;
    int err = znl_hub_send(box->hub, id, message_of(box));
    znl_buffer_trim(&box->text, KEPT_BYTES);
    if (err != 0)
        return znl_lua_fail(L, err, "hub.send");
    lua_pushboolean(L, 1);
    return 1;
}

static int hub_counters(lua_State *L)
{
    const hub_box *box = check_hub(L);
    const znl_hub_counters counters = znl_hub_get_counters(box->hub);
    lua_createtable(L, 0, 17);
#define SET(name)                                                                              \
    lua_pushnumber(L, (lua_Number)counters.name);                                              \
    lua_setfield(L, -2, #name);
    ZNL_HUB_COUNTERS(SET)
#undef SET
    return 1;
}

int luaopen_znl_core_hub(lua_State *L)
{
    static const luaL_Reg methods[] = {
            {"start", hub_start},
            {"stop", hub_stop},
            {"attach", hub_attach},
            {"join", hub_join},
            {"leave", hub_leave},
            {"detach", hub_detach},
            {"broadcast", hub_broadcast},
            {"direct", hub_direct},
            {"send", hub_send},
            {"clients", hub_clients},
            {"counters", hub_counters},
            {NULL, NULL},
    };
    znl_anchor_open(L);
    znl_lua_newtype(L, TYPE, methods, hub_collect);
    lua_newtable(L);
    lua_pushcfunction(L, hub_new);
    lua_setfield(L, -2, "new");
    return 1;
}
