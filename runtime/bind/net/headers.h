/* headers.h - headers of HTTP: tables of Lua, and lines as options give them.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_NET_HEADERS_H
#define ZNL_BIND_NET_HEADERS_H

#include "bind/bind.h"
#include "codec/http.h"

/* Pushes a table of the headers: names in lower case; those that come several times joined with ", ". */
void znl_lua_pushheaders(lua_State *L, const znl_http_head *head);

/* `lines` as "Name: value\r\n" lines, "" when there are none; raises, by `name`, when they are not whole. */
const char *znl_lua_checklines(lua_State *L, znl_frame lines, const char *name);

/* The same of field `name` of the options at `idx`, "" when absent; kept alive by the table. */
const char *znl_lua_fieldlines(lua_State *L, int idx, const char *name);

#endif
