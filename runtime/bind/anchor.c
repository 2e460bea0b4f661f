/* anchor.c - see anchor.h. SPDX-License-Identifier: MIT */
#include "bind/anchor.h"

#include <stddef.h>
#include <string.h>

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
