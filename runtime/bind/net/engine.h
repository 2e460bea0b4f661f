/* engine.h - the option `engine` of what opens a link, and what a link that cannot be opened says.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_NET_ENGINE_H
#define ZNL_BIND_NET_ENGINE_H

#include "bind/bind.h"
#include "transport/link.h"

/* The field `engine` of the table at `index`; absent: ZNL_LINK_AUTO. Raises when it is none. */
znl_link_engine znl_lua_fieldengine(lua_State *L, int index);

/* Pushes nil, "where: endpoint: text", code of what znl_link_open() returned; returns 3. */
int znl_lua_fail_open(lua_State *L, int err, const char *where, const char *endpoint);

#endif
