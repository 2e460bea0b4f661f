/* vm.c - see vm.h. SPDX-License-Identifier: MIT */
#include "vm/vm.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/slab.h"
#include "vm/sched.h"
#include "vm/traceback.h"
#include "vm/watchdog.h"

#include <lualib.h>
#include <stdio.h>
#include <string.h>

struct home {
    znl_vm vm;      /* first: what callers see */
    znl_slab *slab; /* before LuaJIT's own allocator */
    lua_Alloc inner;
    void *inner_ud;
    int trampoline_ref;
    int handler_ref;
    lua_CFunction entry; /* what the trampoline calls next */
};

static void *reallocate(void *ud, void *block, size_t old_size, size_t new_size)
{
    struct home *home = ud;
    if (new_size > old_size && znl_alloc_should_fail())
        return NULL;
    return znl_slab_realloc(home->slab, block, old_size, new_size);
}

znl_vm *znl_vm_of(lua_State *L)
{
    void *ud = NULL;
    lua_getallocf(L, &ud);
    return &((struct home *)ud)->vm;
}

/* (error value) -> string: what people shall read, without a traceback */
static void error_text(lua_State *L)
{
    if (lua_isstring(L, -1))
        return;
    if (luaL_callmeta(L, -1, "__tostring")) {
        if (lua_isstring(L, -1)) {
            lua_replace(L, -2);
            return;
        }
        lua_pop(L, 1);
    }
    lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, -1));
    lua_replace(L, -2);
}

/* Message handler of lua_pcall: runs where the error happened. */
static int on_error(lua_State *L)
{
    error_text(L);
    znl_traceback_add(L, L, 1);
    return 1;
}

static int make_traceback(lua_State *L)
{
    lua_State *co = lua_touserdata(L, 2);
    lua_settop(L, 1);
    error_text(L);
    /* Level 1 of this very state would be this function; its caller has already unwound. */
    znl_traceback_add(L, co, co == L ? 1 : 0);
    return 1;
}

static int trampoline(lua_State *L)
{
    struct home *home = (struct home *)(void *)znl_vm_of(L);
    return home->entry(L);
}

/* Calls `entry` with `nargs` values of the top of L; leaves `nresults` or the error value. */
static int call(lua_State *L, lua_CFunction entry, int nargs, int nresults, int handler)
{
    struct home *home = (struct home *)(void *)znl_vm_of(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, home->trampoline_ref);
    lua_insert(L, -1 - nargs);
    home->entry = entry;
    return lua_pcall(L, nargs, nresults, handler);
}

void znl_vm_traceback(lua_State *L, lua_State *co)
{
    lua_pushlightuserdata(L, co);
    if (call(L, make_traceback, 2, 1, 0) != 0) {
        /* Too little memory even for the text; show the bare message, or nothing. */
        if (!lua_isstring(L, -1)) {
            lua_pop(L, 1);
            lua_pushnil(L);
        }
    }
}

int znl_vm_protect(znl_vm *vm, lua_CFunction fn, void *ud, const char *area)
{
    struct home *home = (struct home *)(void *)vm;
    lua_State *L = vm->L;
    int base = lua_gettop(L);
    znl_sched_enter(vm->sched);
    lua_rawgeti(L, LUA_REGISTRYINDEX, home->handler_ref);
    lua_pushlightuserdata(L, ud);
    int status = call(L, fn, 1, 0, base + 1);
    if (status != 0) {
        size_t size = 0;
        const char *text = lua_tolstring(L, -1, &size);
        if (text == NULL) {
            text = "error in the error handler";
            size = strlen(text);
        }
        znl_log_field field = {"error", text, size, 0};
        znl_log_write(ZNL_LOG_ERROR, area, "callback failed", &field, 1);
    }
    lua_settop(L, base);
    znl_sched_leave(vm->sched, status);
    return status;
}

/* References below this are array slots of the registry; later ones may be in its hash part, where
 * finding one takes three times as long. 4 KiB. */
#define FAST_REFS 256

/* Fills the registry up, so that it gets an array part, and frees the references again, the lowest
 * last: that is the one the next luaL_ref() takes. */
static void make_fast_refs(lua_State *L)
{
    int refs[FAST_REFS];
    for (int i = 0; i < FAST_REFS; i++) {
        lua_pushboolean(L, 1);
        refs[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    for (int i = FAST_REFS; i > 0; i--)
        luaL_unref(L, LUA_REGISTRYINDEX, refs[i - 1]);
}

/* LuaJIT walks tables in a loop by an instruction of its own, ITERN, when the loop is over the very
 * function `next`. In the LuaJIT of Debian 12 (git20220320) the compiler may turn that into the general
 * instruction while the loop runs, which then ends early or goes on with a key that is none
 * (https://github.com/LuaJIT/LuaJIT/issues/827). So loops are over another function, which is compiled
 * as well. Tail calls: an error in there is the caller's. */
static const char iteration[] = "local next, pairs, type = next, pairs, type\n"
                                "local function step(table, key) return next(table, key) end\n"
                                "_G.next = step\n"
                                "_G.pairs = function(table)\n"
                                "  if type(table) ~= 'table' then return pairs(table) end\n"
                                "  local iterate, state, first = pairs(table)\n"
                                "  if iterate == next then iterate = step end\n"
                                "  return iterate, state, first\n"
                                "end\n";

static void replace_iteration(lua_State *L)
{
    if (luaL_loadbuffer(L, iteration, sizeof iteration - 1, ZNL_VM_ITERATION) != 0)
        lua_error(L);
    lua_call(L, 0, 0);
}

/* Everything that can raise while the state is set up. */
static int prepare(lua_State *L)
{
    struct home *home = (struct home *)(void *)znl_vm_of(L);
    luaL_openlibs(L);
    replace_iteration(L);
    /* LuaJIT keeps a table of the address ranges light userdata comes from: enter heap, stack,
     * its own memory and that of small objects now, so that pushing one never allocates later. */
    const void *begin, *last;
    znl_slab_range(home->slab, &begin, &last);
    lua_pushlightuserdata(L, home);
    lua_pushlightuserdata(L, &home);
    lua_pushlightuserdata(L, L);
    lua_pushlightuserdata(L, (void *)(uintptr_t)begin);
    lua_pushlightuserdata(L, (void *)(uintptr_t)last);
    lua_pop(L, 5);
    make_fast_refs(L);
    lua_pushcfunction(L, trampoline);
    home->trampoline_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, on_error);
    home->handler_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

static int on_panic(lua_State *L)
{
    const char *text = lua_tostring(L, -1);
    fprintf(stderr, "znlrun: Lua error outside of a protected call: %s\n",
            text != NULL ? text : "(no text)");
    return 0; /* LuaJIT then ends the process */
}

int znl_vm_new(znl_vm **out, znl_loop *loop)
{
    int err = ZNL_E_NOMEM;
    struct home *home = znl_calloc(1, sizeof *home);
    if (home == NULL)
        goto fail;
    home->vm.loop = loop;
    home->vm.sources = znl_sources_new();
    if (home->vm.sources == NULL)
        goto fail;
    lua_State *L = luaL_newstate();
    if (L == NULL)
        goto fail;
    home->vm.L = L;
    home->inner = lua_getallocf(L, &home->inner_ud);
    home->slab = znl_slab_new(home->inner, home->inner_ud, ZNL_LUA_SMALL_BYTES_MAX);
    if (home->slab == NULL)
        goto fail;
    lua_setallocf(L, reallocate, home);
    lua_atpanic(L, on_panic);
    if (lua_cpcall(L, prepare, NULL) != 0)
        goto fail;
    err = znl_sched_new(&home->vm.sched, &home->vm);
    if (err != 0)
        goto fail;
    *out = &home->vm;
    return 0;
fail:
    znl_vm_free(home != NULL ? &home->vm : NULL);
    return err;
}

void znl_vm_free(znl_vm *vm)
{
    struct home *home = (struct home *)(void *)vm;
    if (home == NULL)
        return;
    znl_watchdog_set(vm, 0);
    if (vm->sched != NULL)
        znl_sched_drop_all(vm->sched);
    if (vm->L != NULL) {
        /* The wrapped allocator stays in place: finalizers find the vm through it. */
        lua_close(vm->L);
    }
    znl_sched_free(vm->sched);
    znl_sources_free(vm->sources);
    znl_slab_free(home->slab);
    znl_free(home);
}
