/* anchor.c - see anchor.h. SPDX-License-Identifier: MIT */
#include "bind/anchor.h"

#include "bind/bind.h"

#include <stddef.h>
#include <string.h>

/* Names the table that leads from anchors to their userdata. */
static const char objects;

/* The holds that were to be given back later. */
static void leave(znl_deferred *deferred)
{
    znl_anchor *anchor =
            (znl_anchor *)(void *)((char *)deferred - offsetof(znl_anchor, leave_due));
    unsigned count = anchor->leaves;
    anchor->leaves = 0;
    while (count-- > 0)
        znl_anchor_let_go(anchor); /* the last one may be the end of the userdata */
}

void znl_anchor_init(znl_anchor *anchor, znl_vm *vm)
{
    memset(anchor, 0, sizeof *anchor);
    anchor->vm = vm;
    anchor->ref = LUA_NOREF;
    anchor->leave_due.run = leave;
}

void znl_anchor_hold(lua_State *L, znl_anchor *anchor, int index)
{
    if (anchor->holds == 0) {
        lua_pushvalue(L, index);
        anchor->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    anchor->holds++;
}

void znl_anchor_open(lua_State *L)
{
    znl_lua_newobjects(L, &objects);
}

void znl_anchor_enter(lua_State *L, const znl_anchor *anchor)
{
    znl_lua_keepobject(L, &objects, anchor);
}

int znl_anchor_push(lua_State *L, const znl_anchor *anchor)
{
    if (anchor->holds == 0)
        return znl_lua_findobject(L, &objects, anchor);
    lua_rawgeti(L, LUA_REGISTRYINDEX, anchor->ref);
    return 1;
}

int znl_anchor_hold_found(lua_State *L, znl_anchor *anchor)
{
    if (anchor->holds > 0) {
        znl_anchor_hold_again(anchor);
        return 1;
    }
    if (!znl_anchor_push(L, anchor))
        return 0;
    znl_anchor_hold(L, anchor, lua_gettop(L));
    lua_pop(L, 1);
    return 1;
}

void znl_anchor_let_go(znl_anchor *anchor)
{
    if (--anchor->holds == 0) {
        luaL_unref(anchor->vm->L, LUA_REGISTRYINDEX, anchor->ref);
        anchor->ref = LUA_NOREF;
    }
}

void znl_anchor_let_go_later(znl_anchor *anchor)
{
    anchor->leaves++;
    znl_loop_defer(anchor->vm->loop, &anchor->leave_due);
}

void znl_anchor_fini(znl_anchor *anchor)
{
    znl_loop_undefer(anchor->vm->loop, &anchor->leave_due);
}
