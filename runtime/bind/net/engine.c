/* engine.c - see engine.h. SPDX-License-Identifier: MIT */
#include "bind/net/engine.h"

#include "base/err.h"

#define NAME_BYTES_MAX 16

znl_link_engine znl_lua_fieldengine(lua_State *L, int index)
{
    znl_link_engine engine = ZNL_LINK_AUTO;
    znl_frame name = znl_lua_fieldtext(L, index, "engine", NAME_BYTES_MAX);
    if (name.data != NULL && znl_link_engine_parse(&engine, name) != 0)
        luaL_error(L, "engine must be " ZNL_LINK_ENGINE_NAMES);
    return engine;
}

int znl_lua_fail_open(lua_State *L, int err, const char *where, const char *endpoint)
{
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s: %s", where, endpoint, znl_link_open_text(err));
    lua_pushstring(L, znl_err_code(err));
    return 3;
}
