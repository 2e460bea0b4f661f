/* traceback.h - where an error happened, for people: the script's own frames, with their lines.
 *
 *     handlers/echo.lua:12: attempt to index field 'foo' (a nil value)
 *     stack traceback:
 *       handlers/echo.lua:12: in function 'handle'
 *           local x = req.payload.foo.bar
 *       handlers/echo.lua:30: in function <handlers/echo.lua:28>
 *           return handle(req)
 *
 * Frames of znlrun's own library and of pcall and its like are left out, unless the log shows
 * debug messages or nothing else is there. The line is shown while the file is what was loaded:
 * unchanged since the vm was made, or since znl_traceback_loaded(). Number and length of
 * everything shown are bounded. During a storm of errors lines are not read: a few tracebacks
 * per second have them.
 *
 * Layer: vm. SPDX-License-Identifier: MIT */
#ifndef ZNL_VM_TRACEBACK_H
#define ZNL_VM_TRACEBACK_H

#include "vm/vm.h"

typedef struct znl_sources znl_sources;

/* Files that were loaded after the vm was made. NULL when memory is short. */
znl_sources *znl_sources_new(void);
void znl_sources_free(znl_sources *sources);

/* `path` as it is now is what the code in service was loaded from; `path` is its chunk name
 * without the "@". Never fails: a file that is not there has no lines to show. */
void znl_traceback_loaded(znl_vm *vm, const char *path);

/* Replaces the text at the top of L by the text and the traceback of `co`, from `level` on. co
 * may be L. Raises only when memory is short. */
void znl_traceback_add(lua_State *L, lua_State *co, int level);

#endif
