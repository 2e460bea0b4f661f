/* headers.c - see headers.h.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/net/headers.h"

#include "base/limits.h"

#include <string.h>

static void push_lower(lua_State *L, znl_frame name)
{
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    for (size_t i = 0; i < name.size; i++) {
        int c = name.data[i];
        luaL_addchar(&text, (char)(c >= 'A' && c <= 'Z' ? c + 'a' - 'A' : c));
    }
    luaL_pushresult(&text);
}

void znl_lua_pushheaders(lua_State *L, const znl_http_head *head)
{
    lua_createtable(L, 0, (int)head->header_count);
    for (size_t i = 0; i < head->header_count; i++) {
        znl_frame value = head->headers[i].value;
        push_lower(L, head->headers[i].name);
        lua_pushvalue(L, -1);
        lua_rawget(L, -3);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_pushlstring(L, value.size > 0 ? (const char *)value.data : "", value.size);
        } else {
            lua_pushliteral(L, ", ");
            lua_pushlstring(L, value.size > 0 ? (const char *)value.data : "", value.size);
            lua_concat(L, 3);
        }
        lua_rawset(L, -3);
    }
}

const char *znl_lua_checklines(lua_State *L, znl_frame lines, const char *name)
{
    int is_whole = lines.size == 0 ||
            (lines.size > 2 && memcmp(lines.data + lines.size - 2, "\r\n", 2) == 0);
    for (size_t i = 0; i < lines.size && is_whole; i++) {
        uint8_t c = lines.data[i];
        if (c == '\r' && i + 1 < lines.size && lines.data[i + 1] == '\n')
            i++;
        else if ((c < ' ' && c != '\t') || c == 0x7f)
            is_whole = 0;
    }
    if (!is_whole)
        luaL_error(L, "%s must be lines of headers that end with CR LF", name);
    return lines.size > 0 ? (const char *)lines.data : "";
}

const char *znl_lua_fieldlines(lua_State *L, int idx, const char *name)
{
    return znl_lua_checklines(
            L, znl_lua_fieldtext(L, idx, name, ZNL_HTTP_HEAD_BYTES_DEFAULT), name);
}
