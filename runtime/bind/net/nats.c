/* nats.c - znl.core.nats: a connection to NATS servers.
 *
 *     connect(options, on_event) -> connection | nil, message, code       connects in the background
 *     connection:publish(subject, data, reply|nil, lines|nil) -> true | nil, message, code
 *     connection:request(subject, data, timeout_ms, lines|nil) -> message | nil, message, code       yields
 *     connection:subscribe(subject, options) -> subscription       see nats_subscription.c
 *     connection:flush(timeout_ms) -> true | nil, message, code       yields
 *     connection:close() :state() :server() :max_payload() :new_inbox() :counters()
 *
 * on_event("state", state, code|nil, text) and on_event("error", code, subject, text) run on the main state and must
 * not wait.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/net/nats.h"

#include "base/err.h"
#include "base/limits.h"

#include <string.h>

#define NATS_TYPE "znl.core.nats"

static const char *const state_names[] = {"connecting", "connected", "reconnecting", "closed"};

/* --- who else uses it -------------------------------------------------------------------------------- */

znl_nats *znl_nats_use(lua_State *L, int idx, znl_nats_user *user)
{
    znl_nats_box *box = luaL_checkudata(L, idx, NATS_TYPE);
    if (box->nats == NULL)
        return NULL;
    user->next = box->users;
    user->link = &box->users;
    if (user->next != NULL)
        user->next->link = &user->next;
    box->users = user;
    return box->nats;
}

void znl_nats_unuse(znl_nats_user *user)
{
    if (user->link == NULL)
        return;
    *user->link = user->next;
    if (user->next != NULL)
        user->next->link = user->link;
    user->link = NULL;
}

/* One may leave in its on_state; those that enter come before the first and are not told. */
static void tell_users(znl_nats_box *box, znl_nats_state state)
{
    znl_nats_user *next;
    for (znl_nats_user *user = box->users; user != NULL; user = next) {
        next = user->next;
        user->on_state(user, state);
    }
}

static void end_users(znl_nats_box *box)
{
    while (box->users != NULL) {
        znl_nats_user *user = box->users;
        znl_nats_unuse(user);
        user->on_state(user, ZNL_NATS_CLOSED);
    }
}

/* --- events ------------------------------------------------------------------------------------------ */

struct event {
    znl_nats_box *box;
    int is_error;
    znl_nats_state state;
    int err;
    const char *subject;
    const char *text;
};

static int push_event(lua_State *L)
{
    const struct event *event = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, event->box->event_ref);
    lua_pushstring(L, event->is_error ? "error" : "state");
    if (!event->is_error)
        lua_pushstring(L, state_names[event->state]);
    if (event->err != 0)
        lua_pushstring(L, znl_err_code(event->err));
    else
        lua_pushnil(L);
    if (event->is_error)
        lua_pushstring(L, event->subject);
    lua_pushstring(L, event->text);
    lua_call(L, 4, 0);
    return 0;
}

static void tell(struct event *event)
{
    if (event->box->event_ref != LUA_NOREF)
        znl_vm_protect(event->box->anchor.vm, push_event, event, "nats.on_event");
}

static void on_state(void *user, znl_nats_state state, int err, const char *text)
{
    struct event event = {.box = user, .state = state, .err = err, .text = text};
    znl_nats_box *box = user;
    /* The script may close it, and let it go. */
    znl_anchor_hold_again(&box->anchor);
    if (state != ZNL_NATS_CONNECTING)
        tell_users(box, state);
    if (box->nats != NULL)
        tell(&event);
    znl_anchor_let_go(&box->anchor);
}

static void on_error(void *user, int err, const char *subject, const char *text)
{
    struct event event = {
            .box = user, .is_error = 1, .err = err, .subject = subject, .text = text};
    znl_nats_box *box = user;
    znl_anchor_hold_again(&box->anchor);
    tell(&event);
    znl_anchor_let_go(&box->anchor);
}

static const znl_nats_events events = {on_state, on_error};

/* --- connecting and closing -------------------------------------------------------------------------- */

znl_nats_box *znl_nats_checkbox(lua_State *L)
{
    return luaL_checkudata(L, 1, NATS_TYPE);
}

int znl_nats_fail(lua_State *L, int err, const char *where)
{
    const char *text = znl_err_text(err);
    if (err == ZNL_E_INVALID)
        text = "that is no subject";
    else if (err == ZNL_E_REFUSED)
        text = "the server does not let us subscribe to answers (inbox_prefix)";
    else if (err == ZNL_E_UNREACHABLE)
        text = "nobody subscribes to it";
    else if (err == ZNL_E_TOO_BIG)
        text = "larger than the server takes (max_payload)";
    else if (err == ZNL_E_BUSY)
        text = "the outbox is full (max_outbox_bytes)";
    else if (err == ZNL_E_UNSUPPORTED)
        text = "the server does not know headers";
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", where, text);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

/* Text of a field, "" and absent are NULL; kept alive by the table. */
static const char *text_of(lua_State *L, const char *name, size_t max)
{
    znl_frame text = znl_lua_fieldtext(L, 1, name, max);
    if (text.data != NULL && memchr(text.data, 0, text.size) != NULL)
        luaL_error(L, "%s must not contain a zero byte", name);
    return text.size > 0 ? (const char *)text.data : NULL;
}

static size_t read_servers(lua_State *L, const char **servers)
{
    lua_getfield(L, 1, "servers");
    luaL_argcheck(L, lua_istable(L, -1), 1, "servers must be an array of texts");
    size_t count = lua_objlen(L, -1);
    luaL_argcheck(L, count >= 1 && count <= ZNL_NATS_SERVERS_MAX, 1,
            "servers must be an array of 1 to 64 texts");
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, -1, (int)i + 1);
        luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, 1, "servers must be texts");
        servers[i] = lua_tostring(L, -1); /* the table keeps it alive */
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return count;
}

static int nats_connect(lua_State *L)
{
    const char *servers[ZNL_NATS_SERVERS_MAX];
    char text[ZNL_NATS_TEXT_BYTES];
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_argcheck(
            L, lua_isnoneornil(L, 2) || lua_isfunction(L, 2), 2, "on_event must be a function");
    lua_settop(L, 2);
    const znl_nats_options options = {
            .server_count = read_servers(L, servers),
            .servers = servers,
            .name = text_of(L, "name", 1024),
            .user = text_of(L, "user", ZNL_SECRET_BYTES_MAX),
            .password = text_of(L, "password", ZNL_SECRET_BYTES_MAX),
            .token = text_of(L, "token", ZNL_SECRET_BYTES_MAX),
            .credentials_file = text_of(L, "credentials", 4096),
            .nkey_seed_file = text_of(L, "nkey", 4096),
            .tls = znl_lua_fieldboolean(L, 1, "tls"),
            .tls_ca_file = text_of(L, "tls_ca", 4096),
            .tls_cert_file = text_of(L, "tls_cert", 4096),
            .tls_key_file = text_of(L, "tls_key", 4096),
            .tls_server_name = text_of(L, "tls_server_name", ZNL_HOST_BYTES_MAX),
            .tls_insecure = znl_lua_fieldboolean(L, 1, "tls_insecure"),
            .connect_timeout_ms = znl_lua_fieldu32(
                    L, 1, "connect_timeout_ms", 0, ZNL_TIMEOUT_MS_MAX),
            .reconnect_min_ms = znl_lua_fieldu32(
                    L, 1, "reconnect_min_ms", 0, ZNL_TIMEOUT_MS_MAX),
            .reconnect_max_ms = znl_lua_fieldu32(
                    L, 1, "reconnect_max_ms", 0, ZNL_TIMEOUT_MS_MAX),
            .ping_ms = znl_lua_fieldu32(L, 1, "ping_ms", 0, ZNL_TIMEOUT_MS_MAX),
            .max_outbox_bytes = znl_lua_fieldu32(L, 1, "max_outbox_bytes", 0, UINT32_MAX),
            .echo = znl_lua_fieldboolean(L, 1, "echo"),
            .inbox_prefix = text_of(L, "inbox_prefix", ZNL_NATS_INBOX_BYTES),
    };
    znl_nats_box *box = lua_newuserdata(L, sizeof *box);
    memset(box, 0, sizeof *box);
    znl_anchor_init(&box->anchor, znl_vm_of(L));
    box->event_ref = LUA_NOREF;
    luaL_getmetatable(L, NATS_TYPE);
    lua_setmetatable(L, -2);
    if (!lua_isnil(L, 2)) {
        lua_pushvalue(L, 2);
        box->event_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    znl_anchor_enter(L, &box->anchor);
    znl_anchor_hold(L, &box->anchor, 3);
    int err = znl_nats_open(&box->nats, box->anchor.vm->loop, &options, &events, box, text);
    if (err == 0)
        return 1;
    znl_anchor_let_go(&box->anchor);
    lua_pushnil(L);
    lua_pushfstring(L, "nats.connect: %s", text);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

static void close_box(znl_nats_box *box)
{
    znl_nats *nats = box->nats;
    if (nats == NULL)
        return;
    box->nats = NULL;
    znl_nats_end_pendings(box);
    znl_nats_end_readers(box);
    end_users(box);
    znl_nats_close(nats);
}

/* Idempotent. */
static int nats_close(lua_State *L)
{
    znl_nats_box *box = znl_nats_checkbox(L);
    if (box->nats == NULL)
        return 0;
    close_box(box);
    znl_anchor_let_go_later(&box->anchor);
    return 0;
}

static int nats_collect(lua_State *L)
{
    znl_nats_box *box = znl_nats_checkbox(L);
    close_box(box);
    luaL_unref(L, LUA_REGISTRYINDEX, box->event_ref);
    box->event_ref = LUA_NOREF;
    znl_anchor_fini(&box->anchor);
    return 0;
}

/* --- publishing -------------------------------------------------------------------------------------- */

znl_nats_headers znl_nats_checkheaders(lua_State *L, int idx)
{
    znl_nats_headers headers = {"", 0};
    if (lua_isnoneornil(L, idx))
        return headers;
    znl_frame lines = znl_lua_checkframe(L, idx, "headers", ZNL_NATS_MESSAGE_BYTES_MAX);
    luaL_argcheck(L,
            lines.size == 0 ||
                    (lines.size >= 2 && memcmp(lines.data + lines.size - 2, "\r\n", 2) == 0),
            idx, "headers must be whole lines");
    headers.lines = (const char *)lines.data;
    headers.size = lines.size;
    return headers;
}

const char *znl_nats_checksubject(lua_State *L, int idx)
{
    size_t size;
    const char *subject = luaL_checklstring(L, idx, &size);
    return strlen(subject) == size ? subject : "";
}

static int nats_publish(lua_State *L)
{
    znl_nats_box *box = znl_nats_checkbox(L);
    const char *subject = znl_nats_checksubject(L, 2);
    znl_frame data = znl_lua_checkframe(L, 3, "data", SIZE_MAX);
    const char *reply = lua_isnoneornil(L, 4) ? NULL : znl_nats_checksubject(L, 4);
    znl_nats_headers headers = znl_nats_checkheaders(L, 5);
    int err = box->nats == NULL
            ? ZNL_E_CLOSED
            : znl_nats_publish(box->nats, subject, reply, &headers, data.data, data.size);
    if (err != 0)
        return znl_nats_fail(L, err, "nats.publish");
    lua_pushboolean(L, 1);
    return 1;
}

/* --- what is known ----------------------------------------------------------------------------------- */

static int nats_state(lua_State *L)
{
    const znl_nats_box *box = znl_nats_checkbox(L);
    lua_pushstring(L,
            state_names[box->nats != NULL ? znl_nats_get_state(box->nats) : ZNL_NATS_CLOSED]);
    return 1;
}

static int nats_server(lua_State *L)
{
    const znl_nats_box *box = znl_nats_checkbox(L);
    lua_pushstring(L, box->nats != NULL ? znl_nats_server(box->nats) : "");
    return 1;
}

static int nats_max_payload(lua_State *L)
{
    const znl_nats_box *box = znl_nats_checkbox(L);
    lua_pushnumber(L, box->nats != NULL ? (lua_Number)znl_nats_max_payload(box->nats) : 0);
    return 1;
}

static int nats_new_inbox(lua_State *L)
{
    char inbox[ZNL_NATS_INBOX_BYTES];
    znl_nats_box *box = znl_nats_checkbox(L);
    if (box->nats == NULL)
        return znl_nats_fail(L, ZNL_E_CLOSED, "nats.new_inbox");
    znl_nats_new_inbox(box->nats, inbox);
    lua_pushstring(L, inbox);
    return 1;
}

static int nats_counters(lua_State *L)
{
    const znl_nats_box *box = znl_nats_checkbox(L);
    znl_nats_counters counters = {0};
    if (box->nats != NULL)
        counters = znl_nats_get_counters(box->nats);
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
            {"sent", counters.sent},
            {"sent_bytes", counters.sent_bytes},
            {"received", counters.received},
            {"received_bytes", counters.received_bytes},
            {"dropped", counters.dropped},
            {"refused", counters.refused},
            {"reconnects", counters.reconnects},
    };
    lua_createtable(L, 0, sizeof fields / sizeof fields[0]);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        lua_pushnumber(L, (lua_Number)fields[i].value);
        lua_setfield(L, -2, fields[i].name);
    }
    return 1;
}

int luaopen_znl_core_nats(lua_State *L)
{
    static const luaL_Reg methods[] = {
            {"publish", nats_publish},
            {"request", znl_nats_request_method},
            {"subscribe", znl_nats_subscribe_method},
            {"flush", znl_nats_flush_method},
            {"close", nats_close},
            {"state", nats_state},
            {"server", nats_server},
            {"max_payload", nats_max_payload},
            {"new_inbox", nats_new_inbox},
            {"counters", nats_counters},
            {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
            {"connect", nats_connect},
            {"header", znl_nats_header},
            {"headers", znl_nats_headers_of},
            {NULL, NULL},
    };
    znl_anchor_open(L);
    znl_lua_newtype(L, NATS_TYPE, methods, nats_collect);
    znl_nats_open_subscription_type(L);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    znl_nats_open_message_type(L); /* sets `message`, the methods of messages */
    return 1;
}
