/* tls.c - znl.core.tls: certificates and keys, read once and used by many connections.
 *
 *     client{authorities=, verify=, server_name=, certificate=, key=} -> context | nil, message, code
 *     server{certificate=, key=, authorities=, verify=} -> context | nil, message, code
 *
 * Names of files, PEM. Whoever takes an option `tls` takes a context as well as such a table.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/net/tls.h"

#include "base/err.h"

#include <string.h>

#define TYPE "znl.core.tls"
#define PATH_BYTES_MAX 4095u
#define TEXT_BYTES 512u

typedef struct context {
    znl_tls *tls; /* NULL: being made */
} context;

static int tls_collect(lua_State *L)
{
    context *it = luaL_checkudata(L, 1, TYPE);
    znl_tls_release(it->tls); /* connections that use it hold it */
    it->tls = NULL;
    return 0;
}

/* Whoever reads an option `tls` may be the first to need it. */
static void need_type(lua_State *L)
{
    static const luaL_Reg methods[] = {{NULL, NULL}};
    luaL_getmetatable(L, TYPE);
    int is_there = lua_istable(L, -1);
    lua_pop(L, 1);
    if (!is_there)
        znl_lua_newtype(L, TYPE, methods, tls_collect);
}

static const char *path_of(lua_State *L, int idx, const char *name)
{
    znl_frame path = znl_lua_fieldtext(L, idx, name, PATH_BYTES_MAX);
    if (path.data != NULL && (path.size == 0 || memchr(path.data, 0, path.size) != NULL))
        luaL_error(L, "%s must name a file", name);
    return (const char *)path.data;
}

/* A misspelt option would be a hole: with `verfy = true` nobody would be checked. */
static void check_names(lua_State *L, int idx)
{
    static const char *const names[] = {
            "certificate", "key", "authorities", "verify", "server_name", NULL};
    lua_pushnil(L);
    while (lua_next(L, idx) != 0) {
        int is_known = 0;
        lua_pop(L, 1);
        for (size_t i = 0; names[i] != NULL && lua_type(L, -1) == LUA_TSTRING; i++)
            is_known = is_known || strcmp(lua_tostring(L, -1), names[i]) == 0;
        if (!is_known)
            luaL_error(L,
                    "tls: unknown option %s (options: authorities, certificate, key, "
                    "server_name, verify)",
                    lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1)
                                                   : luaL_typename(L, -1));
    }
}

/* Pushes a context made of the table at `idx`: 0; or pushes nil, message, code: 3. */
static int push_context(lua_State *L, int idx, int is_server)
{
    char text[TEXT_BYTES] = "";
    int verify = !is_server;
    check_names(L, idx);
    lua_getfield(L, idx, "verify");
    if (!lua_isnil(L, -1)) {
        if (!lua_isboolean(L, -1))
            luaL_error(L, "verify must be true or false");
        verify = lua_toboolean(L, -1);
    }
    lua_pop(L, 1);
    znl_tls_options options = {.is_server = is_server};
    options.certificate = path_of(L, idx, "certificate");
    options.key = path_of(L, idx, "key");
    options.authorities = path_of(L, idx, "authorities");
    options.server_name = (const char *)znl_lua_fieldtext(L, idx, "server_name", 255).data;
    options.trusts_anyone = !is_server && !verify;
    options.wants_certificate = is_server && verify;
    if ((options.certificate == NULL) != (options.key == NULL))
        luaL_error(L, "tls: certificate and key are needed together");
    if (is_server && options.certificate == NULL)
        luaL_error(L, "tls: a server needs certificate and key");
    need_type(L);
    context *made = lua_newuserdata(L, sizeof *made);
    made->tls = NULL;
    luaL_getmetatable(L, TYPE);
    lua_setmetatable(L, -2);
    int err = znl_tls_new(&made->tls, &options, text, sizeof text);
    if (err == 0)
        return 0;
    lua_pushnil(L);
    lua_pushfstring(L, "tls: %s", text[0] != '\0' ? text : znl_err_text(err));
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

static context *to_context(lua_State *L, int idx)
{
    context *found = lua_touserdata(L, idx);
    if (found == NULL || !lua_getmetatable(L, idx))
        return NULL;
    luaL_getmetatable(L, TYPE);
    int is_context = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return is_context ? found : NULL;
}

int znl_lua_totls(lua_State *L, int idx, int is_server, const znl_tls **out)
{
    *out = NULL;
    if (idx < 0 && idx > LUA_REGISTRYINDEX)
        idx = lua_gettop(L) + idx + 1;
    if (!lua_toboolean(L, idx))
        return 0;
    if (lua_isboolean(L, idx) && !is_server) {
        lua_newtable(L);
        lua_replace(L, idx);
    }
    if (lua_istable(L, idx)) {
        int count = push_context(L, idx, is_server);
        if (count > 0)
            return count;
        lua_replace(L, idx);
    }
    const context *found = to_context(L, idx);
    if (found == NULL || found->tls == NULL || znl_tls_is_server(found->tls) != is_server)
        luaL_error(L, "tls must be a table of options or a context for a %s",
                is_server ? "server" : "client");
    *out = found->tls;
    return 0;
}

static int tls_client(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    int count = push_context(L, 1, 0);
    return count > 0 ? count : 1;
}

static int tls_server(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    int count = push_context(L, 1, 1);
    return count > 0 ? count : 1;
}

int luaopen_znl_core_tls(lua_State *L)
{
    static const luaL_Reg functions[] = {
            {"client", tls_client}, {"server", tls_server}, {NULL, NULL}};
    need_type(L);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
