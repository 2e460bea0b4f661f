/* micro.c - znl.core.micro: connections of the micro protocol as Lua sees them; see micro.h.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/micro/micro.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/micro/registry.h"
#include "bind/net/tls.h"

#include <stdio.h>

/* --- construction ------------------------------------------------------------------------------ */

static void read_limits(lua_State *L, znl_micro_box *box)
{
    znl_micro_options *o = &box->options;
    box->max_connections = znl_lua_fieldu32(
            L, 1, "max_connections", ZNL_CONNECTIONS_DEFAULT, ZNL_CONNECTIONS_MAX);
    box->handshake_ms = znl_lua_fieldu32(
            L, 1, "handshake_ms", ZNL_HANDSHAKE_MS_DEFAULT, ZNL_TIMEOUT_MS_MAX);
    box->limits.max_message_bytes = znl_lua_fieldu32(
            L, 1, "max_message_bytes", ZNL_MICRO_MESSAGE_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX);
    box->limits.max_queue_bytes = znl_lua_fieldu32(
            L, 1, "max_queue_bytes", ZNL_STREAM_QUEUE_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX);
    box->stream_window = znl_lua_fieldu32(
            L, 1, "stream_window", ZNL_MICRO_WINDOW_DEFAULT, ZNL_MICRO_WINDOW_MAX);
    box->max_streams = znl_lua_fieldu32(
            L, 1, "max_streams", ZNL_MICRO_STREAMS_DEFAULT, ZNL_PENDING_MAX);
    o->max_pending = znl_lua_fieldu32(
            L, 1, "max_pending", ZNL_MICRO_PENDING_DEFAULT, ZNL_PENDING_MAX);
    o->max_depth = znl_lua_fieldu32(
            L, 1, "max_depth", ZNL_JSON_DEPTH_DEFAULT, ZNL_JSON_DEPTH_MAX);
    o->heartbeat_ms = znl_lua_fieldu32(
            L, 1, "heartbeat_ms", ZNL_MICRO_HEARTBEAT_MS, ZNL_HEARTBEAT_MS_MAX);
    o->heartbeat_timeout_ms = znl_lua_fieldu32(
            L, 1, "heartbeat_timeout_ms", ZNL_MICRO_HEARTBEAT_TIMEOUT_MS, ZNL_HEARTBEAT_MS_MAX);
    o->heartbeat_check_ms = znl_lua_fieldu32(
            L, 1, "heartbeat_check_ms", ZNL_MICRO_HEARTBEAT_CHECK_MS, ZNL_HEARTBEAT_MS_MAX);
    o->strict_heartbeat = znl_lua_fieldboolean(L, 1, "strict_heartbeat");
}

/* begin: what a task of a request starts with. The request is made here and not by calls from C, so that the
 * compiler makes it together with the handler; all its members are in the constructor, so that it never
 * grows. What a stream writes with is its own: no detour by the metatable for each chunk. iterate: an iterator that a handler of a stream returned, run to its end in a task of its own. */
static const char in_lua[] =
        "local meta, write = ...\n"
        "local setmetatable = setmetatable\n"
        "local function begin(handler, core, ticket, route, data, from, client, is_push, is_stream)\n"
        "  local request = setmetatable({\n"
        "    core, ticket, route = route, data = data, from = from, client = client,\n"
        "    is_push = is_push, is_stream = is_stream, params = nil,\n"
        "  }, meta)\n"
        "  if is_stream then request.write = write end\n"
        "  return handler(request)\n"
        "end\n"
        "local function iterate(request, step, state, control)\n"
        "  while true do\n"
        "    control = step(state, control)\n"
        "    if control == nil then return end\n"
        "    local ok, message, code = write(request, control)\n"
        "    if not ok then\n"
        "      if code == 'CANCELLED' then return end\n"
        "      return nil, message, code\n"
        "    end\n"
        "  end\n"
        "end\n"
        "return begin, iterate\n";

static void make_references(lua_State *L, znl_micro_box *box)
{
    luaL_getmetatable(L, ZNL_MICRO_REQUEST_TYPE);
    lua_pushvalue(L, -1);
    box->request_meta_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    if (luaL_loadbuffer(L, in_lua, sizeof in_lua - 1, "=znl.core.micro") != 0)
        lua_error(L);
    lua_insert(L, -2);
    lua_pushcfunction(L, znl_micro_request_write);
    lua_call(L, 2, 2);
    box->iterate_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    box->begin_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* The text of an option, copied; NULL when it is absent. */
static char *copy_text(lua_State *L, znl_frame text)
{
    if (text.data == NULL)
        return NULL;
    char *copy = znl_malloc(text.size + 1);
    if (copy == NULL)
        luaL_error(L, "%s", znl_err_text(ZNL_E_NOMEM));
    memcpy(copy, text.data, text.size + 1);
    return copy;
}

/* new(options) -> core | nil, message, code */
static int core_new(lua_State *L)
{
    znl_lua_check_main(L, "the micro protocol");
    luaL_checktype(L, 1, LUA_TTABLE);
    znl_micro_box *box = lua_newuserdata(L, sizeof *box);
    memset(box, 0, sizeof *box);
    luaL_getmetatable(L, ZNL_MICRO_CORE_TYPE);
    znl_jobs_init(L, &box->jobs, sizeof(znl_micro_call), znl_micro_call_timed_out,
            znl_micro_box_job_ended);
    box->event_ref = box->request_meta_ref = box->begin_ref = box->iterate_ref = LUA_NOREF;
    box->vm = znl_vm_of(L);
    lua_setmetatable(L, -2); /* from here on the collector frees what follows */
    box->event_ref = znl_lua_fieldfunction(L, 1, "on_event");
    make_references(L, box);
    read_limits(L, box);
    box->jobs.max = znl_lua_fieldu32(
            L, 1, "max_concurrency", ZNL_CONCURRENCY_DEFAULT, ZNL_CONCURRENCY_MAX);
    box->jobs.timeout_ms = znl_lua_fieldu32(L, 1, "handler_timeout_ms", 0, ZNL_TIMEOUT_MS_MAX);
    uint32_t max_queue = znl_lua_fieldu32(
            L, 1, "max_queue", ZNL_QUEUE_REQUESTS_DEFAULT, ZNL_QUEUE_REQUESTS_MAX);
    znl_micro_box_open_queue(box, max_queue,
            znl_lua_fieldu32(
                    L, 1, "max_queue_job_bytes", ZNL_QUEUE_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX));
    box->options.max_jobs = box->jobs.max + max_queue + ZNL_CONSOLE_JOBS;
    box->options.scratch = &box->frame;
    box->listen_port = -1;
    lua_getfield(L, 1, "listen_port");
    if (!lua_isnil(L, -1))
        box->listen_port = (int)znl_lua_checku32(L, lua_gettop(L), "listen_port", 0, 65535);
    lua_pop(L, 1);
    box->listen_host = copy_text(L, znl_lua_fieldtext(L, 1, "listen_host", ZNL_HOST_BYTES_MAX));
    lua_getfield(L, 1, "tls");
    const znl_tls *tls;
    int results = znl_lua_totls(L, lua_gettop(L), 1, &tls);
    if (results != 0)
        return results;
    if (tls != NULL)
        znl_tls_hold(tls);
    box->tls = tls;
    lua_pop(L, 1);
    return 1;
}

znl_micro_box *znl_micro_box_check(lua_State *L)
{
    znl_jobs *jobs = znl_jobs_at(L, 1);
    if (jobs == NULL || jobs->ended != znl_micro_box_job_ended)
        luaL_argerror(L, 1, "core of znl.core.micro expected");
    return (znl_micro_box *)jobs;
}

int znl_micro_box_data(lua_State *L, int index, znl_micro_box *box, znl_frame *data,
        char problem[ZNL_MICRO_PROBLEM_BYTES])
{
    *data = (znl_frame){NULL, 0};
    if (lua_isnoneornil(L, index))
        return 0;
    if (box->data.capacity > ZNL_MICRO_SCRATCH_BYTES)
        znl_buffer_fini(&box->data);
    box->data.size = 0;
    int err = znl_lua_writejson(L, index, &box->data, problem, ZNL_MICRO_PROBLEM_BYTES);
    if (err == 0)
        *data = znl_frame_of(box->data.data, box->data.size);
    return err;
}

/* --- methods ----------------------------------------------------------------------------------- */

/* start() -> true | nil, message, code */
static int core_start(lua_State *L)
{
    znl_micro_box *box = znl_micro_box_check(L);
    box->jobs.is_draining = 0;
    if (!box->is_running) {
        znl_anchor_hold(L, &box->jobs.anchor, 1);
        int err = box->listen_port >= 0 ? znl_micro_box_listen(box) : 0;
        if (err != 0) {
            znl_anchor_let_go(&box->jobs.anchor);
            lua_pushnil(L);
            lua_pushfstring(L, "start: %s:%d: %s",
                    box->listen_host != NULL ? box->listen_host : "*", box->listen_port,
                    znl_err_text(err));
            lua_pushstring(L, znl_err_code(err));
            return 3;
        }
        box->is_running = 1;
    }
    lua_pushboolean(L, 1);
    return 1;
}

/* Ends every connection, whoever opened it. */
static void stop(znl_micro_box *box)
{
    znl_http_server_close(box->server);
    box->server = NULL;
    znl_micro_box_refuse_all(box);
    for (znl_micro_link *link = box->links, *next; link != NULL; link = next) {
        next = link->next;
        znl_micro_link_end(link, ZNL_E_STOPPED, "stopped", 1);
    }
    if (box->is_running)
        /* What stops a core is often called by the core: it must outlive the calls on the stack. */
        znl_anchor_let_go_later(&box->jobs.anchor);
    box->is_running = 0;
}

static int core_stop(lua_State *L)
{
    stop(znl_micro_box_check(L));
    return 0;
}

static int core_running(lua_State *L)
{
    lua_pushboolean(L, znl_micro_box_check(L)->is_running);
    return 1;
}

/* port() -> number in use, as configured while it does not run; nil: it does not listen */
static int core_port(lua_State *L)
{
    const znl_micro_box *box = znl_micro_box_check(L);
    if (box->listen_port < 0)
        return 0;
    lua_pushinteger(
            L, box->server != NULL ? znl_http_server_port(box->server) : box->listen_port);
    return 1;
}

/* endpoint() -> "ws://host:port" | nil: it does not listen */
static int core_endpoint(lua_State *L)
{
    const znl_micro_box *box = znl_micro_box_check(L);
    if (box->listen_port < 0)
        return 0;
    const char *host = box->listen_host != NULL ? box->listen_host : "0.0.0.0";
    int is_bare_ipv6 = strchr(host, ':') != NULL && host[0] != '[';
    core_port(L);
    lua_pushfstring(L, "%s://%s%s%s:%d", box->tls != NULL ? "wss" : "ws",
            is_bare_ipv6 ? "[" : "", host, is_bare_ipv6 ? "]" : "", (int)lua_tointeger(L, -1));
    return 1;
}

/* drain() -> requests at work or waiting here. New ones are refused from now to the next start. */
static int core_drain(lua_State *L)
{
    znl_micro_box *box = znl_micro_box_check(L);
    box->jobs.is_draining = 1;
    lua_pushnumber(L, (lua_Number)(box->jobs.at_work + box->queue.count));
    return 1;
}

static int core_set_handler(lua_State *L)
{
    return znl_jobs_set_handler(L, &znl_micro_box_check(L)->jobs);
}

static int core_set_console(lua_State *L)
{
    return znl_jobs_set_console(L, &znl_micro_box_check(L)->jobs);
}

/* check_upgrades(on): whether on_event("upgrade", path, headers, remote) is asked before a 101 */
static int core_check_upgrades(lua_State *L)
{
    znl_micro_box_check(L)->checks_upgrades = lua_toboolean(L, 2);
    return 0;
}

/* answer_find(directory | nil): answers "/-/find" from it; nil: the handler does */
static int core_answer_find(lua_State *L)
{
    znl_micro_box *box = znl_micro_box_check(L);
    znl_directory *directory = NULL;
    if (!lua_isnoneornil(L, 2)) {
        directory = znl_lua_todirectory(L, 2);
        luaL_argcheck(L, directory != NULL, 2, "directory of znl.core.registry expected");
        znl_directory_hold(directory);
    }
    znl_directory_release(box->directory);
    box->directory = directory;
    return 0;
}

/* connections() -> array of all that are open */
static int core_connections(lua_State *L)
{
    znl_micro_box *box = znl_micro_box_check(L);
    int i = 0;
    lua_createtable(L, (int)box->link_count, 0);
    for (const znl_micro_link *link = box->links; link != NULL; link = link->next)
        if (link->is_open && link->was_told && znl_anchor_push(L, &link->anchor))
            lua_rawseti(L, -2, ++i);
    return 1;
}

static void set_number(lua_State *L, const char *name, uint64_t value)
{
    lua_pushnumber(L, (lua_Number)value);
    lua_setfield(L, -2, name);
}

static void add_counters(znl_micro_counters *sum, const znl_micro_counters *more)
{
#define ZNL_MICRO_ADD(name) sum->name += more->name;
    ZNL_MICRO_COUNTERS(ZNL_MICRO_ADD)
#undef ZNL_MICRO_ADD
}

void znl_micro_box_add_counters(znl_micro_box *box, const znl_micro *micro)
{
    znl_micro_counters counters;
    znl_micro_count(micro, &counters);
    add_counters(&box->ended, &counters);
}

static int core_counters(lua_State *L)
{
    znl_micro_box *box = znl_micro_box_check(L);
    znl_micro_counters sum = box->ended, counters;
    uint64_t pending = 0, open = 0, inbound = 0;
    for (const znl_micro_link *link = box->links; link != NULL; link = link->next) {
        open += link->is_open;
        inbound += link->is_inbound && link->is_open;
        if (link->micro == NULL)
            continue;
        pending += znl_micro_pending(link->micro);
        znl_micro_count(link->micro, &counters);
        add_counters(&sum, &counters);
    }
    lua_newtable(L);
    znl_jobs_count(L, &box->jobs);
#define ZNL_MICRO_SET(name) set_number(L, #name, sum.name);
    ZNL_MICRO_COUNTERS(ZNL_MICRO_SET)
#undef ZNL_MICRO_SET
    /* Refused by a connection, or here: the same to those who ask. */
    set_number(L, "overloaded", sum.overloaded + box->jobs.overloaded);
    set_number(L, "queued", box->queue.count);
    set_number(L, "pending", pending);
    set_number(L, "streams", box->streams);
    set_number(L, "finds", box->finds);
    set_number(L, "connections", open);
    set_number(L, "inbound", inbound);
    set_number(L, "accepted", box->accepted);
    set_number(L, "connected", box->connected);
    set_number(L, "turned_away", box->turned_away);
    if (box->server != NULL) {
        znl_http_counters http;
        znl_http_server_count(box->server, &http);
        set_number(L, "sockets_refused", http.refused);
        set_number(L, "handshake_timeouts", http.timeouts);
        set_number(L, "handshakes_malformed", http.malformed);
        set_number(L, "handshakes", http.connections);
    }
    return 1;
}

/* --- the end ----------------------------------------------------------------------------------- */

static int core_gc(lua_State *L)
{
    znl_micro_box *box = lua_touserdata(L, 1);
    if (box->vm == NULL)
        return 0;
    luaL_unref(L, LUA_REGISTRYINDEX, box->event_ref);
    box->event_ref = LUA_NOREF; /* no events from a collected core */
    znl_http_server_close(box->server);
    box->server = NULL;
    while (box->links != NULL)
        znl_micro_link_discard(box->links);
    znl_micro_box_drop_queue(box);
    znl_micro_box_drop_events(box);
    znl_jobs_fini(L, &box->jobs);
    znl_tls_release(box->tls);
    box->tls = NULL;
    znl_directory_release(box->directory);
    box->directory = NULL;
    znl_buffer_fini(&box->data);
    znl_buffer_fini(&box->frame);
    znl_free(box->listen_host);
    box->listen_host = NULL;
    luaL_unref(L, LUA_REGISTRYINDEX, box->request_meta_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, box->begin_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, box->iterate_ref);
    box->request_meta_ref = box->begin_ref = box->iterate_ref = LUA_NOREF;
    return 0;
}

static const luaL_Reg methods[] = {
        {"start", core_start},
        {"stop", core_stop},
        {"running", core_running},
        {"endpoint", core_endpoint},
        {"port", core_port},
        {"drain", core_drain},
        {"counters", core_counters},
        {"set_handler", core_set_handler},
        {"set_console", core_set_console},
        {"check_upgrades", core_check_upgrades},
        {"answer_find", core_answer_find},
        {"connections", core_connections},
        {"connect", znl_micro_core_connect},
        {NULL, NULL},
};

int luaopen_znl_core_micro(lua_State *L)
{
    static const luaL_Reg functions[] = {{"new", core_new}, {NULL, NULL}};
    znl_lua_newtype(L, ZNL_MICRO_CORE_TYPE, methods, core_gc);
    znl_micro_open_connection_type(L);
    znl_micro_open_stream_type(L);
    znl_micro_open_request_type(L);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
