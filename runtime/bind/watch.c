/* watch.c - znl.core.watch: tells Lua when something in a folder changes.
 *
 * The handle lives in a heap block that the loop may outlive the userdata with: only the
 * callback of uv_close frees it. A watch does not keep the process running.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/err.h"
#include "bind/bind.h"
#include "transport/loop.h"
#include "vm/sched.h"

#include <string.h>

#define WATCH_TYPE "znl.core.watch"

typedef struct watch {
    uv_fs_event_t handle; /* first */
    znl_vm *vm;
    int fn_ref;
} watch;

typedef struct box {
    watch *watch; /* NULL when closed */
} box;

struct change {
    watch *watch;
    const char *name;
};

static int run_change(lua_State *L)
{
    const struct change *change = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, change->watch->fn_ref);
    if (change->name != NULL)
        lua_pushstring(L, change->name);
    else
        lua_pushnil(L);
    znl_sched_spawn(L, 1, NULL, NULL, NULL);
    return 0;
}

static void on_change(uv_fs_event_t *handle, const char *name, int events, int status)
{
    (void)events;
    (void)status; /* with an error there is no name: the script looks for itself */
    struct change change = {(watch *)(void *)handle, name};
    znl_vm_protect(change.watch->vm, run_change, &change, "watch");
}

static void on_closed(uv_handle_t *handle)
{
    znl_free(handle);
}

static void close_watch(box *b)
{
    watch *w = b->watch;
    if (w == NULL)
        return;
    b->watch = NULL;
    luaL_unref(w->vm->L, LUA_REGISTRYINDEX, w->fn_ref);
    uv_close((uv_handle_t *)&w->handle, on_closed);
}

/* watch(dir, fn) -> watch | nil, message, code. fn(filename|nil) runs in a task of its own for
 * each change. Closed when collected: keep it. */
static int watch_new(lua_State *L)
{
    const char *dir = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    box *b = lua_newuserdata(L, sizeof *b);
    b->watch = NULL;
    luaL_getmetatable(L, WATCH_TYPE);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, 2);
    int fn_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    znl_vm *vm = znl_vm_of(L);
    watch *w = znl_calloc(1, sizeof *w);
    if (w == NULL) {
        luaL_unref(L, LUA_REGISTRYINDEX, fn_ref);
        return znl_lua_fail(L, ZNL_E_NOMEM, "watch");
    }
    w->vm = vm;
    w->fn_ref = fn_ref;
    uv_fs_event_init(znl_loop_uv(vm->loop), &w->handle); /* cannot fail */
    b->watch = w;
    int code = uv_fs_event_start(&w->handle, on_change, dir, 0);
    if (code != 0) {
        close_watch(b);
        return znl_lua_fail(L, znl_err_from_uv(code), "watch");
    }
    uv_unref((uv_handle_t *)&w->handle);
    return 1;
}

/* watch:close(): idempotent; no call of fn starts afterwards. Also __gc. */
static int watch_close(lua_State *L)
{
    close_watch(luaL_checkudata(L, 1, WATCH_TYPE));
    return 0;
}

int luaopen_znl_core_watch(lua_State *L)
{
    static const luaL_Reg methods[] = {{"close", watch_close}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"watch", watch_new}, {NULL, NULL}};
    znl_lua_newtype(L, WATCH_TYPE, methods, watch_close);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
