/* tls.h - certificates and keys, as an option table says them.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_NET_TLS_H
#define ZNL_BIND_NET_TLS_H

#include "bind/bind.h"
#include "transport/tls.h"

/* What is at `idx`, which must be at or below the top: nil or false is no TLS; true is TLS as a client that
 * trusts what the system trusts; a context of znl.core.tls; or a table { certificate=, key=, authorities=,
 * verify=, server_name= }, whose place the context made of it takes. *out is borrowed from what is then
 * there. Returns 0; or 3: nil, message, code were pushed. Misuse raises. */
int znl_lua_totls(lua_State *L, int idx, int is_server, const znl_tls **out);

#endif
