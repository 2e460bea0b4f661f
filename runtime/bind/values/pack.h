/* pack.h - Lua values as bytes, for the way between two Lua states of this process.
 *
 * nil, booleans, numbers, long numbers of the FFI, strings, the null of JSON, and tables of these;
 * metatables stay behind but for the mark of JSON arrays, and a table met twice becomes two. The bytes are for this machine and this build only: they are
 * trusted by the reader.
 *
 * Layer: bind. The thread of the state. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_VALUES_PACK_H
#define ZNL_BIND_VALUES_PACK_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

/* How deep tables may nest: a table that contains itself ends here. */
#define ZNL_PACK_DEPTH_MAX 100

/* What the `count` values from index `first` on take. Sets *size. 0; ZNL_E_INVALID, with the name of
 * the type that cannot be packed in *refused, or NULL there for tables nested too deeply;
 * ZNL_E_TOO_BIG; ZNL_E_NOMEM. Leaves the stack as it was; does not raise. */
int znl_pack_measure(lua_State *L, int first, int count, size_t *size, const char **refused);

/* Writes the same values, unchanged since they were measured, to `out`. Does not raise. */
void znl_pack_write(lua_State *L, int first, int count, uint8_t *out);

/* Pushes the values in there; returns how many. May raise: call protected. */
int znl_pack_push(lua_State *L, const uint8_t *bytes, size_t size);

#endif
