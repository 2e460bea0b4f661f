/* events.c - what a channel reports in the next turn of the loop, because the scheduler is at work, or
 * because no Lua may run where it happened; and what it reports at once.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/cluster/cluster.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/log.h"

/* What a handler did wrong, or a refusal: the scheduler is at work on it, or no Lua may run. */
struct znl_cluster_late {
    struct znl_cluster_late *next;
    znl_cluster_inbound *inbound; /* of a refusal; NULL once it is over */
    znl_cluster_question question;
    const char *name; /* of a refusal; static */
    int err;
    int is_refusal;
    size_t text_size, place_size, method_size, from_size;
    char bytes[]; /* one after the other */
};

struct turn {
    znl_cluster_lead *lead;
    struct znl_cluster_late *late;
};

/* "error", text, place, method, from. What on_event does not take care of, by returning true, is logged. */
static void emit_error(
        lua_State *L, const znl_cluster_lead *lead, const struct znl_cluster_late *late)
{
    const char *place = late->bytes + late->text_size, *method = place + late->place_size;
    const char *from = method + late->method_size;
    lua_pushliteral(L, "error");
    lua_pushlstring(L, late->bytes, late->text_size);
    lua_pushlstring(L, place, late->place_size);
    lua_pushlstring(L, method, late->method_size);
    lua_pushlstring(L, from, late->from_size);
    if (znl_cluster_emit(L, &lead->jobs.anchor, 5, 1) && lua_toboolean(L, -1))
        return;
    const znl_log_field fields[] = {{"method", method, late->method_size, 0},
            {"from", from, late->from_size, 0}, {"error", late->bytes, late->text_size, 0}};
    znl_log_write(ZNL_LOG_ERROR, "cluster", "handler failed", fields, 3);
}

static int run_late_one(lua_State *L)
{
    const struct turn *turn = lua_touserdata(L, 1);
    const struct znl_cluster_late *late = turn->late;
    if (!late->is_refusal)
        emit_error(L, turn->lead, late);
    else if (late->inbound != NULL && !late->inbound->is_over)
        znl_cluster_refuse_late(
                L, late->inbound, &late->question, late->name, late->err, late->bytes);
    return 0;
}

static void run_late(znl_deferred *deferred)
{
    znl_cluster_lead *lead = (znl_cluster_lead *)(void *)((char *)deferred -
            offsetof(znl_cluster_lead, late_due));
    /* All that wait now, and none that come meanwhile. */
    for (const struct znl_cluster_late *last = lead->late_last; lead->late != NULL;) {
        struct turn turn = {lead, lead->late};
        int is_last = turn.late == last;
        znl_vm_protect(lead->vm, run_late_one, &turn, "cluster.on_event");
        lead->late = turn.late->next;
        znl_free(turn.late);
        if (is_last && lead->late != NULL)
            znl_loop_defer(lead->vm->loop, &lead->late_due);
        znl_anchor_let_go(&lead->jobs.anchor); /* the last one may be the end of the channel */
        if (is_last)
            return;
    }
}

static void queue_late(znl_cluster_lead *lead, struct znl_cluster_late *late)
{
    late->next = NULL;
    if (lead->late != NULL)
        lead->late_last->next = late;
    else
        lead->late = late;
    lead->late_last = late;
    lead->late_due.run = run_late;
    znl_anchor_hold_again(&lead->jobs.anchor);
    znl_loop_defer(lead->vm->loop, &lead->late_due);
}

void znl_cluster_lead_error(lua_State *L, const znl_cluster_call *call, const char *text)
{
    znl_cluster_lead *lead = (znl_cluster_lead *)call->base.jobs;
    int top = lua_gettop(L);
    const char *place = znl_cluster_call_place(L, call);
    const char *from = call->inbound != NULL ? znl_stream_peer(call->inbound->stream) : "";
    size_t text_size = strlen(text), place_size = strlen(place), from_size = strlen(from);
    struct znl_cluster_late *late = znl_malloc(
            sizeof *late + text_size + place_size + call->method_size + from_size);
    if (late != NULL) {
        *late = (struct znl_cluster_late){.text_size = text_size,
                .place_size = place_size,
                .method_size = call->method_size,
                .from_size = from_size};
        char *at = late->bytes;
        memcpy(at, text, text_size);
        memcpy(at += text_size, place, place_size);
        memcpy(at += place_size, call->method, call->method_size);
        memcpy(at + call->method_size, from, from_size);
        queue_late(lead, late);
    }
    lua_settop(L, top);
}

void znl_cluster_lead_put_off(znl_cluster_inbound *inbound,
        const znl_cluster_question *question, const char *name, int err, const char *text)
{
    size_t size = strlen(text) + 1;
    struct znl_cluster_late *late = znl_malloc(sizeof *late + size);
    if (late == NULL) {
        inbound->lead->jobs.unanswered++; /* the asker's own time limit ends it */
        return;
    }
    *late = (struct znl_cluster_late){.inbound = inbound,
            .question = *question,
            .name = name,
            .err = err,
            .is_refusal = 1};
    memcpy(late->bytes, text, size);
    queue_late(inbound->lead, late);
}

void znl_cluster_lead_forget(znl_cluster_lead *lead, const znl_cluster_inbound *inbound)
{
    for (struct znl_cluster_late *late = lead->late; late != NULL; late = late->next)
        if (late->inbound == inbound)
            late->inbound = NULL;
}

struct trouble {
    const znl_cluster_lead *lead;
    const char *text;
    int err;
};

static int run_trouble(lua_State *L)
{
    const struct trouble *trouble = lua_touserdata(L, 1);
    lua_pushliteral(L, "trouble");
    lua_pushstring(L, trouble->text);
    lua_pushstring(L, znl_err_code(trouble->err));
    znl_cluster_emit(L, &trouble->lead->jobs.anchor, 3, 0);
    return 0;
}

void znl_cluster_lead_trouble(znl_cluster_lead *lead, const char *text, int err)
{
    struct trouble trouble = {lead, text, err};
    znl_vm_protect(lead->vm, run_trouble, &trouble, "cluster.on_event");
}

void znl_cluster_lead_drop_events(znl_cluster_lead *lead)
{
    znl_loop_undefer(lead->vm->loop, &lead->late_due);
    while (lead->late != NULL) {
        struct znl_cluster_late *next = lead->late->next;
        znl_free(lead->late);
        lead->late = next;
    }
}
