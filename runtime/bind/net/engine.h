/* engine.h - the options `engine` and `curve` of what opens a link, and what one that cannot be opened says.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_NET_ENGINE_H
#define ZNL_BIND_NET_ENGINE_H

#include "bind/bind.h"
#include "transport/link.h"

/* The field `engine` of the table at `index`; absent: ZNL_LINK_AUTO. Raises when it is none. */
znl_link_engine znl_lua_fieldengine(lua_State *L, int index);

/* The field `curve` of the table at `index`: a table of secret_key, public_key, server_key and allow, Z85 text; absent:
 * none. *out is held by the caller, who releases it before any call that may raise. Raises when the field is no such
 * table; 0 or what znl_curve_new() returns, with the key at fault in *which. */
int znl_lua_fieldcurve(
        lua_State *L, int index, int is_server, znl_curve **out, const char **which);

/* Pushes nil, "where: endpoint: text", code of what znl_link_open() returned; returns 3. */
int znl_lua_fail_open(
        lua_State *L, int err, const char *where, int is_router, const char *endpoint);

#endif
