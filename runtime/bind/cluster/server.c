/* server.c - a port or a path of the cluster-client protocol: it belongs to this process, and serves
 * any number of channels.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/cluster/cluster.h"

#include "base/alloc.h"
#include "base/err.h"
#include "bind/net/tls.h"
#include "transport/socket_path.h"

static znl_cluster_server *check_server(lua_State *L)
{
    return luaL_checkudata(L, 1, ZNL_CLUSTER_SERVER_TYPE);
}

znl_cluster_lead *znl_cluster_find_lead(const znl_cluster_server *server, znl_frame name)
{
    for (znl_cluster_lead *lead = server->leads; lead != NULL; lead = lead->next)
        if (znl_frame_equal(name, znl_frame_of(lead->name, lead->name_size)))
            return lead;
    return NULL;
}

/* --- listening --------------------------------------------------------------------------------- */

static int listen_failed(
        lua_State *L, int err, const znl_listener_options *options, const char *shown_host)
{
    const char *text = znl_err_text(err);
    if (err == ZNL_E_ADDRESS)
        text = options->path != NULL
                ? znl_socket_path_problem(options->path)
                : "no address of this machine, or no permission to use this port";
    lua_pushnil(L);
    if (options->path != NULL)
        lua_pushfstring(L, "listen: %s: %s", options->path, text);
    else
        lua_pushfstring(L, "listen: %s:%d: %s", shown_host, (int)options->port, text);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

/* listen(options) -> server | nil, message, code */
int znl_cluster_listen(lua_State *L)
{
    znl_lua_check_main(L, "the cluster-client protocol");
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    znl_cluster_server *server = lua_newuserdata(L, sizeof *server);
    memset(server, 0, sizeof *server);
    server->vm = znl_vm_of(L);
    znl_anchor_init(&server->anchor, server->vm);
    luaL_getmetatable(L, ZNL_CLUSTER_SERVER_TYPE);
    lua_setmetatable(L, 2);
    znl_cluster_own(L, &server->anchor, 2, 1);
    znl_frame host = znl_lua_fieldtext(L, 1, "host", ZNL_HOST_BYTES_MAX);
    znl_frame path = znl_lua_fieldtext(L, 1, "path", ZNL_HOST_BYTES_MAX);
    server->register_ms = znl_lua_fieldu32(
            L, 1, "register_ms", ZNL_CLUSTER_REGISTER_MS_DEFAULT, ZNL_TIMEOUT_MS_MAX);
    server->max_bytes = znl_lua_fieldu32(L, 1, "max_message_bytes",
            ZNL_CLUSTER_MESSAGE_BYTES_DEFAULT, ZNL_CLUSTER_MESSAGE_BYTES_MAX);
    server->max_depth = ZNL_JSON_DEPTH_DEFAULT;
    znl_listener_options options = {
            .host = host.data != NULL ? (const char *)host.data : "127.0.0.1",
            .port = (uint16_t)znl_lua_fieldu32(L, 1, "port", 0, 65535),
            .path = (const char *)path.data,
            .mode = znl_lua_fieldu32(L, 1, "mode", 0, 0777),
            .max_connections = znl_lua_fieldu32(L, 1, "max_connections",
                    ZNL_CLUSTER_CONNECTIONS_DEFAULT, ZNL_CONNECTIONS_MAX),
            .max_queue_bytes = znl_lua_fieldu32(L, 1, "max_queue_bytes",
                    ZNL_STREAM_QUEUE_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX),
    };
    lua_getfield(L, 1, "tls");
    int results = znl_lua_totls(L, lua_gettop(L), 1, &options.tls);
    if (results != 0)
        return results;
    if (options.tls != NULL)
        znl_tls_hold(options.tls);
    server->tls = options.tls;
    if (path.data != NULL) {
        server->path = znl_malloc(path.size + 1);
        if (server->path == NULL)
            return znl_lua_fail(L, ZNL_E_NOMEM, "listen");
        memcpy(server->path, path.data, path.size + 1);
    }
    znl_anchor_hold(L, &server->anchor, 2);
    int err = znl_listener_open(
            &server->listener, server->vm->loop, &options, znl_cluster_accept, server);
    if (err != 0) {
        znl_anchor_let_go(&server->anchor);
        return listen_failed(L, err, &options, options.host);
    }
    lua_settop(L, 2);
    return 1;
}

/* --- methods ----------------------------------------------------------------------------------- */

/* port() -> number | nil: closed, or a path */
static int server_port(lua_State *L)
{
    const znl_cluster_server *server = check_server(L);
    if (server->listener == NULL || server->path != NULL)
        return 0;
    lua_pushinteger(L, znl_listener_port(server->listener));
    return 1;
}

/* path() -> text | nil */
static int server_path(lua_State *L)
{
    lua_pushstring(L, check_server(L)->path);
    return 1;
}

/* close(): its channels are closed, all connections end. The port is free when this returns. */
static int server_close(lua_State *L)
{
    znl_cluster_server *server = check_server(L);
    if (server->listener == NULL)
        return 0;
    znl_listener_close(server->listener);
    server->listener = NULL;
    while (server->leads != NULL)
        znl_cluster_lead_close(server->leads);
    for (znl_cluster_inbound *inbound = server->strangers; inbound != NULL;
            inbound = inbound->next)
        znl_cluster_inbound_end(inbound, ZNL_E_STOPPED, "the server was closed", 1);
    znl_anchor_let_go_later(&server->anchor);
    return 0;
}

static int server_counters(lua_State *L)
{
    const znl_cluster_server *server = check_server(L);
    uint32_t channels = 0, followers = 0;
    for (const znl_cluster_lead *lead = server->leads; lead != NULL; lead = lead->next) {
        channels++;
        followers += lead->inbound_count;
    }
    lua_newtable(L);
    znl_cluster_set_number(L, "channels", channels);
    znl_cluster_set_number(L, "connections", followers + server->stranger_count);
    znl_cluster_set_number(L, "unregistered", server->stranger_count);
    znl_cluster_set_number(L, "unclaimed", server->unclaimed);
    znl_cluster_set_number(L, "register_timeouts", server->unregistered);
    znl_cluster_set_number(L, "broken", server->broken);
    if (server->listener != NULL) {
        znl_cluster_set_number(L, "accepted", znl_listener_accepted(server->listener));
        znl_cluster_set_number(L, "sockets_refused", znl_listener_refused(server->listener));
    }
    return 1;
}

/* The state is being closed, or nothing refers to it any more. */
static int server_gc(lua_State *L)
{
    znl_cluster_server *server = lua_touserdata(L, 1);
    znl_listener_close(server->listener);
    server->listener = NULL;
    while (server->leads != NULL) {
        znl_cluster_lead *lead = server->leads;
        while (lead->inbounds != NULL)
            znl_cluster_inbound_discard(lead->inbounds);
        znl_cluster_lead_close(lead);
    }
    while (server->strangers != NULL)
        znl_cluster_inbound_discard(server->strangers);
    znl_anchor_fini(&server->anchor);
    znl_tls_release(server->tls);
    server->tls = NULL;
    znl_free(server->path);
    server->path = NULL;
    return 0;
}

static const luaL_Reg methods[] = {
        {"channel", znl_cluster_server_channel},
        {"port", server_port},
        {"path", server_path},
        {"close", server_close},
        {"counters", server_counters},
        {NULL, NULL},
};

void znl_cluster_open_server_type(lua_State *L)
{
    znl_lua_newtype(L, ZNL_CLUSTER_SERVER_TYPE, methods, server_gc);
}
