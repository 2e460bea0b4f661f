/* nats_message.c - messages of NATS as Lua sees them: a table { subject=, data=, reply=, status=, status_text=, lines=,
 * core= }. Their methods are Lua's: it puts them into znl.core.nats.message.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/net/nats.h"

#include "codec/nats.h"

#include <strings.h>

#define MESSAGE_TYPE "znl.core.nats.message"

void znl_nats_pushmessage(lua_State *L, int index, const znl_nats_message *message)
{
    /* As large as it must be: most messages have no status and no headers. */
    lua_createtable(L, 0,
            2 + (message->reply != NULL) + 2 * (message->status != 0) +
                    (message->headers.size > 0) + 1);
    lua_pushstring(L, message->subject);
    lua_setfield(L, -2, "subject");
    lua_pushlstring(L, message->size > 0 ? (const char *)message->data : "", message->size);
    lua_setfield(L, -2, "data");
    if (message->reply != NULL) {
        lua_pushstring(L, message->reply);
        lua_setfield(L, -2, "reply");
    }
    if (message->status != 0) {
        lua_pushinteger(L, message->status);
        lua_setfield(L, -2, "status");
        lua_pushstring(L, message->status_text);
        lua_setfield(L, -2, "status_text");
    }
    if (message->headers.size > 0) {
        lua_pushlstring(L, message->headers.lines, message->headers.size);
        lua_setfield(L, -2, "lines");
    }
    lua_pushvalue(L, index);
    lua_setfield(L, -2, "core");
    luaL_getmetatable(L, MESSAGE_TYPE);
    lua_setmetatable(L, -2);
}

void znl_nats_open_message_type(lua_State *L)
{
    luaL_newmetatable(L, MESSAGE_TYPE);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__index");
    lua_setfield(L, -3, "message");
    lua_pop(L, 1);
}

int znl_nats_header(lua_State *L)
{
    znl_frame lines = znl_lua_checkframe(L, 1, "lines", SIZE_MAX);
    znl_frame wanted = znl_lua_checkframe(L, 2, "name", SIZE_MAX);
    znl_frame name, value;
    for (size_t at = 0;
            znl_nats_next_header((const char *)lines.data, lines.size, &at, &name, &value);) {
        if (name.size == wanted.size &&
                strncasecmp((const char *)name.data, (const char *)wanted.data, name.size) ==
                        0) {
            lua_pushlstring(L, (const char *)value.data, value.size);
            return 1;
        }
    }
    return 0;
}

int znl_nats_headers_of(lua_State *L)
{
    znl_frame lines = znl_lua_checkframe(L, 1, "lines", SIZE_MAX);
    znl_frame name, value;
    lua_newtable(L);
    for (size_t at = 0;
            znl_nats_next_header((const char *)lines.data, lines.size, &at, &name, &value);) {
        lua_pushlstring(L, (const char *)name.data, name.size);
        lua_pushvalue(L, -1);
        lua_rawget(L, -3); /* headers, name, the values before */
        if (lua_istable(L, -1)) {
            lua_pushlstring(L, (const char *)value.data, value.size);
            lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
            lua_pop(L, 2);
        } else if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_pushlstring(L, (const char *)value.data, value.size);
            lua_rawset(L, -3);
        } else {
            lua_createtable(L, 2, 0);
            lua_insert(L, -2);
            lua_rawseti(L, -2, 1);
            lua_pushlstring(L, (const char *)value.data, value.size);
            lua_rawseti(L, -2, 2);
            lua_rawset(L, -3);
        }
    }
    return 1;
}
