/* events.c - what a node reports, as calls of on_event(kind, ...), each in a coroutine of
 * its own. What is raised while Lua runs waits for the next turn of the loop.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/err.h"
#include "bind/node/node.h"

#include <string.h>

/* What on_event gets: a kind, then strings, a payload, or one table. */
struct event {
    znl_node_box *node;
    const char *kind;
    znl_frame text[3];
    size_t texts;
    const znl_message *message; /* its payload follows the texts; with as_table, all of it */
    const znl_frame *raw;       /* raw frames for the table of "message" */
    size_t raw_count;
    int as_table;
    int reason; /* auth_failed: goes into the table */
    znl_kind control;
};

static void set_text(lua_State *L, const char *key, znl_frame value)
{
    if (value.size == 0)
        return;
    znl_node_box_pushframe(L, value);
    lua_setfield(L, -2, key);
}

static void push_event_table(lua_State *L, const struct event *event)
{
    lua_createtable(L, 0, 6);
    set_text(L, "from", event->text[0]);
    lua_pushstring(L, event->node->master != NULL ? "router" : "dealer");
    lua_setfield(L, -2, "channel");
    if (event->reason != 0) {
        set_text(L, "reason", znl_frame_text(znl_err_code(event->reason)));
        set_text(L, "text", znl_frame_text(znl_err_text(event->reason)));
        set_text(L, "kind", znl_frame_text(znl_kind_name(event->control)));
    }
    if (event->raw != NULL) {
        lua_createtable(L, (int)event->raw_count, 0);
        for (size_t i = 0; i < event->raw_count; i++) {
            znl_node_box_pushframe(L, event->raw[i]);
            lua_rawseti(L, -2, (int)i + 1);
        }
        lua_setfield(L, -2, "frames");
    }
    if (event->message != NULL) {
        const znl_message *message = event->message;
        int has_topic = message->kind == ZNL_KIND_PUBLISH || message->kind == ZNL_KIND_PUSH;
        set_text(L, "kind", znl_frame_text(znl_kind_name(message->kind)));
        set_text(L, has_topic ? "topic" : "id", message->subject);
        set_text(L, "service", message->service);
        if (message->call != NULL)
            set_text(L, "route", message->call->route);
        znl_lua_pushpayload(L, message->payload, message->payload_count);
        lua_setfield(L, -2, "payload");
    }
}

static int run_event(lua_State *L)
{
    const struct event *event = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, event->node->event_ref);
    lua_pushstring(L, event->kind);
    int args = 1;
    if (event->as_table) {
        push_event_table(L, event);
        args = 2;
    } else {
        for (size_t i = 0; i < event->texts; i++)
            znl_node_box_pushframe(L, event->text[i]);
        args += (int)event->texts;
        if (event->message != NULL) {
            znl_lua_pushpayload(L, event->message->payload, event->message->payload_count);
            args++;
        }
    }
    znl_sched_spawn(L, args, NULL, NULL, NULL);
    return 0;
}

/* An event raised while Lua was running: texts only. */
struct late_event {
    struct late_event *next;
    struct event event;
    uint8_t bytes[];
};

static void run_late(znl_deferred *deferred)
{
    znl_node_box *b =
            (znl_node_box *)(void *)((char *)deferred - offsetof(znl_node_box, late_due));
    /* All there are, and none that come meanwhile: one per turn would fall behind peers whose
     * messages come a thousand per turn. */
    struct late_event *late = b->late;
    b->late = NULL;
    znl_anchor_hold_again(&b->jobs.anchor);
    while (late != NULL) {
        struct late_event *next = late->next;
        znl_vm_protect(b->vm, run_event, &late->event, "node.on_event");
        znl_free(late);
        znl_anchor_let_go(&b->jobs.anchor);
        late = next;
    }
    znl_anchor_let_go(&b->jobs.anchor); /* the last thing: the box may be collected after it */
}

static void emit_late(const struct event *event)
{
    znl_node_box *b = event->node;
    size_t bytes = 0;
    for (size_t i = 0; i < event->texts; i++)
        bytes += event->text[i].size;
    if (b->jobs.anchor.holds == 0)
        return;
    struct late_event *late = znl_calloc(1, sizeof *late + bytes);
    if (late == NULL)
        return;
    late->event = *event;
    uint8_t *at = late->bytes;
    for (size_t i = 0; i < event->texts; i++) {
        if (event->text[i].size > 0)
            memcpy(at, event->text[i].data, event->text[i].size);
        late->event.text[i].data = at;
        at += event->text[i].size;
    }
    if (b->late != NULL)
        b->late_last->next = late;
    else
        b->late = late;
    b->late_last = late;
    znl_anchor_hold_again(&b->jobs.anchor);
    b->late_due.run = run_late;
    znl_loop_defer(b->vm->loop, &b->late_due);
}

static void emit(const struct event *event)
{
    znl_node_box *b = event->node;
    if (b->event_ref == LUA_NOREF)
        return;
    if (!znl_sched_busy(b->vm->sched)) {
        znl_vm_protect(b->vm, run_event, (void *)(uintptr_t)event, "node.on_event");
    } else if (event->message == NULL && !event->as_table) {
        emit_late(event);
    }
}

void znl_node_box_on_peer(void *user, znl_frame id, int online, const char *reason)
{
    znl_node_box *b = user;
    struct event event = {.node = b, .texts = 2};
    event.text[0] = id;
    event.text[1] = znl_frame_text(reason);
    if (b->master != NULL)
        event.kind = online ? "slave_connected" : "slave_disconnected";
    else
        event.kind = online ? "master_online" : "master_offline";
    emit(&event);
}

void znl_node_box_on_auth_failed(void *user, znl_frame peer, znl_kind kind, int reason)
{
    struct event event = {.node = user, .kind = "auth_failed", .as_table = 1, .reason = reason};
    event.text[0] = peer;
    event.control = kind;
    emit(&event);
}

void znl_node_box_on_trouble(void *user, int err, const char *text)
{
    struct event event = {.node = user, .kind = "trouble", .texts = 2};
    event.text[0] = znl_frame_text(text);
    event.text[1] = znl_frame_text(znl_err_code(err));
    emit(&event);
}

void znl_node_box_on_message(void *user, const znl_message *message)
{
    znl_node_box *b = user;
    struct event event = {.node = b, .kind = znl_kind_name(message->kind), .message = message};
    if (message->kind == ZNL_KIND_PUSH) {
        event.text[0] = message->peer;
        event.text[1] = message->subject;
        event.texts = 2;
    } else if (message->kind == ZNL_KIND_PUBLISH) {
        event.text[0] = message->subject;
        event.texts = 1;
    } else {
        event.text[0] = message->peer;
        event.as_table = 1;
    }
    emit(&event);
}

void znl_node_box_on_raw(void *user, znl_frame peer, const znl_frame *frames, size_t count)
{
    struct event event = {
            .node = user, .kind = "message", .as_table = 1, .raw = frames, .raw_count = count};
    event.text[0] = peer;
    emit(&event);
}

void znl_node_box_emit_error(
        znl_node_box *b, const char *text, const char *where, znl_frame from)
{
    struct event event = {.node = b, .kind = "error", .texts = 3};
    event.text[0] = znl_frame_text(text);
    event.text[1] = znl_frame_text(where);
    event.text[2] = from;
    /* Called while the scheduler finishes a task: later, when Lua no longer runs. */
    if (b->event_ref != LUA_NOREF)
        emit_late(&event);
}

void znl_node_box_drop_events(znl_node_box *b)
{
    znl_loop_undefer(b->vm->loop, &b->late_due);
    while (b->late != NULL) {
        struct late_event *next = b->late->next;
        znl_free(b->late);
        b->late = next;
    }
}
