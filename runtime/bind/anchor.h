/* anchor.h - keeps a userdata from the collector while C needs it: an object that runs, or is at work.
 *
 * Lives inside the userdata, or in what that stands for. While something holds it, the registry refers to the
 * userdata.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_ANCHOR_H
#define ZNL_BIND_ANCHOR_H

#include "transport/loop.h"
#include "vm/vm.h"

typedef struct znl_anchor {
    znl_vm *vm;
    int ref; /* LUA_NOREF while nothing holds it */
    unsigned holds;
    unsigned leaves; /* holds to give back in the next turn of the loop */
    znl_deferred leave_due;
} znl_anchor;

void znl_anchor_init(znl_anchor *anchor, znl_vm *vm);

/* Holds the userdata at `index`, which `anchor` is part of; may raise, so call it before anything is
 * acquired. */
void znl_anchor_hold(lua_State *L, znl_anchor *anchor, int index);

/* One more hold where there is one. */
static inline void znl_anchor_hold_again(znl_anchor *anchor)
{
    anchor->holds++;
}

/* Gives one hold back: the userdata may be collected after it. */
void znl_anchor_let_go(znl_anchor *anchor);

/* The same in the next turn of the loop: what is on the C stack may still need the userdata. */
void znl_anchor_let_go_later(znl_anchor *anchor);

/* The userdata on top of the stack, which stays there, is found by `anchor` from now on, for as long as it lives;
 * may raise. For anchors outside of the userdata. */
void znl_anchor_enter(lua_State *L, const znl_anchor *anchor);

/* Pushes that userdata and returns 1; 0 and nothing when it is gone. */
int znl_anchor_push(lua_State *L, const znl_anchor *anchor);

/* Holds it without knowing where it is; 0 when it is gone. May raise. */
int znl_anchor_hold_found(lua_State *L, znl_anchor *anchor);

/* Before the first of these three, in every state. */
void znl_anchor_open(lua_State *L);

/* The userdata is being collected. */
void znl_anchor_fini(znl_anchor *anchor);

#endif
