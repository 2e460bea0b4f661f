/* embedded.h - the Lua library inside the binary; the table is made by cmake/embed.cmake.
 *
 * Layer: host. SPDX-License-Identifier: MIT */
#ifndef ZNL_HOST_EMBEDDED_H
#define ZNL_HOST_EMBEDDED_H

#include <stddef.h>

struct znl_embedded_module {
    const char *name;          /* as in require: "znl.options" */
    const unsigned char *data; /* LuaJIT bytecode with debug information */
    size_t size;               /* bytes */
};

extern const struct znl_embedded_module znl_embedded[]; /* NULL name after the last */
extern const size_t znl_embedded_count;

#endif
