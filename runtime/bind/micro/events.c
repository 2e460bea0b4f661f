/* events.c - what a core reports, as calls of on_event(name, ...): protected, on the main state. It
 * must not wait; tasks may be spawned for that.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/micro/micro.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/log.h"

int znl_micro_box_emit(lua_State *L, znl_micro_box *box, int count, int results)
{
    if (box->event_ref == LUA_NOREF) {
        lua_pop(L, count);
        return 0;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, box->event_ref);
    lua_insert(L, -1 - count);
    return znl_lua_callevent(L, "micro", count, results);
}

/* --- errors of handlers -------------------------------------------------------------------------- */

/* Reported in the next turn of the loop: a handler has just failed, and the scheduler is at work on it. */
struct znl_micro_late {
    struct znl_micro_late *next;
    znl_micro_box *box;
    size_t size, from_size;
    char text[]; /* and the key of the peer */
};

/* (late): "error", text, where, from. What on_event does not take care of, by returning true, is logged. */
static int run_error(lua_State *L)
{
    const struct znl_micro_late *late = lua_touserdata(L, 1);
    lua_pushliteral(L, "error");
    lua_pushlstring(L, late->text, late->size);
    lua_pushliteral(L, "handler");
    lua_pushlstring(L, late->text + late->size, late->from_size);
    if (znl_micro_box_emit(L, late->box, 4, 1) && lua_toboolean(L, -1))
        return 0;
    const znl_log_field fields[] = {{"from", late->text + late->size, late->from_size, 0},
            {"error", late->text, late->size, 0}};
    znl_log_write(ZNL_LOG_ERROR, "micro", "handler failed", fields, 2);
    return 0;
}

static void run_late(znl_deferred *deferred)
{
    znl_micro_box *box =
            (znl_micro_box *)(void *)((char *)deferred - offsetof(znl_micro_box, late_due));
    /* All there are, and none that come meanwhile. */
    struct znl_micro_late *late = box->late;
    box->late = NULL;
    while (late != NULL) {
        struct znl_micro_late *next = late->next;
        znl_vm_protect(box->vm, run_error, late, "micro.on_event");
        znl_free(late);
        late = next;
        znl_anchor_let_go(&box->jobs.anchor); /* the last one may be the end of the core */
    }
}

void znl_micro_link_emit_error(lua_State *L, const znl_micro_link *link, const char *text)
{
    znl_micro_box *box = link->box;
    int top = lua_gettop(L);
    size_t size = strlen(text), from_size = 0;
    const char *from = NULL;
    if (znl_anchor_push(L, &link->anchor)) {
        lua_getfenv(L, -1);
        lua_rawgeti(L, -1, ZNL_CONN_KEY);
        from = lua_tolstring(L, -1, &from_size);
    }
    struct znl_micro_late *late = znl_malloc(sizeof *late + size + from_size);
    if (late != NULL) {
        *late = (struct znl_micro_late){.box = box, .size = size, .from_size = from_size};
        memcpy(late->text, text, size);
        if (from != NULL)
            memcpy(late->text + size, from, from_size);
    }
    lua_settop(L, top);
    if (late == NULL)
        return;
    if (box->late != NULL)
        box->late_last->next = late;
    else
        box->late = late;
    box->late_last = late;
    znl_anchor_hold_again(&box->jobs.anchor);
    box->late_due.run = run_late;
    znl_loop_defer(box->vm->loop, &box->late_due);
}

void znl_micro_box_drop_events(znl_micro_box *box)
{
    znl_loop_undefer(box->vm->loop, &box->late_due);
    while (box->late != NULL) {
        struct znl_micro_late *next = box->late->next;
        znl_free(box->late);
        box->late = next;
    }
}
