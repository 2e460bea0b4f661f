/* bind_websocket.h - what bindings that speak HTTP share.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_BIND_WEBSOCKET_H
#define ZNL_BIND_BIND_WEBSOCKET_H

#include "bind/bind.h"
#include "codec/http.h"

/* Pushes a table of the headers: names in lower case; those that come several times joined with ", ". */
void znl_lua_pushheaders(lua_State *L, const znl_http_head *head);

#endif
