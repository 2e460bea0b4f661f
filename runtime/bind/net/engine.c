/* engine.c - see engine.h. SPDX-License-Identifier: MIT */
#include "bind/net/engine.h"

#include "base/err.h"

#define NAME_BYTES_MAX 16
#define KEY_BYTES_MAX 1024

znl_link_engine znl_lua_fieldengine(lua_State *L, int index)
{
    znl_link_engine engine = ZNL_LINK_AUTO;
    znl_frame name = znl_lua_fieldtext(L, index, "engine", NAME_BYTES_MAX);
    if (name.data != NULL && znl_link_engine_parse(&engine, name) != 0)
        luaL_error(L, "engine must be " ZNL_LINK_ENGINE_NAMES);
    return engine;
}

/* The array `allow` of the table at the top: its texts, in a userdata that is pushed. */
static void read_allowed(lua_State *L, znl_curve_texts *texts)
{
    lua_getfield(L, -1, "allow");
    if (!lua_isnil(L, -1) && !lua_istable(L, -1))
        luaL_error(L, "curve.allow must be an array of keys");
    texts->allowed_count = lua_istable(L, -1) ? lua_objlen(L, -1) : 0;
    znl_frame *allowed = lua_newuserdata(L, (texts->allowed_count + 1) * sizeof *allowed);
    for (size_t i = 0; i < texts->allowed_count; i++) {
        lua_rawgeti(L, -2, (int)i + 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "curve.allow must be an array of keys");
        allowed[i].data = (const uint8_t *)lua_tolstring(L, -1, &allowed[i].size);
        lua_pop(L, 1);
    }
    texts->allowed = allowed;
}

int znl_lua_fieldcurve(
        lua_State *L, int index, int is_server, znl_curve **out, const char **which)
{
    int top = lua_gettop(L);
    znl_curve_texts texts = {0};
    *out = NULL;
    lua_getfield(L, index, "curve");
    if (lua_isnil(L, -1)) {
        lua_settop(L, top);
        return 0;
    }
    luaL_checkstack(L, 8, "curve");
    if (!lua_istable(L, -1))
        luaL_error(L, "curve must be a table of keys");
    texts.secret_key = znl_lua_fieldtext(L, -1, "secret_key", KEY_BYTES_MAX);
    texts.public_key = znl_lua_fieldtext(L, -1, "public_key", KEY_BYTES_MAX);
    texts.server_key = znl_lua_fieldtext(L, -1, "server_key", KEY_BYTES_MAX);
    read_allowed(L, &texts);
    int err = znl_curve_new(out, is_server, &texts, which);
    lua_settop(L, top);
    return err;
}

int znl_lua_fail_open(
        lua_State *L, int err, const char *where, int is_router, const char *endpoint)
{
    lua_pushnil(L);
    lua_pushfstring(
            L, "%s: %s: %s", where, endpoint, znl_link_open_text(err, is_router, endpoint));
    lua_pushstring(L, znl_err_code(err));
    return 3;
}
