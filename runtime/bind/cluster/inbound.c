/* inbound.c - a follower, as its leader sees it (spec cluster-client, section 6).
 *
 *   stranger -> (registered) follower -> over -> freed
 *            `-> refused -> over
 *
 *   stranger  belongs to the port; everything but a registration is dropped
 *   follower  belongs to its channel for good
 *   over      by either side; nothing is sent or received any more; "left" follows in the next turn
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/cluster/cluster.h"

#include "base/alloc.h"
#include "base/err.h"

#include <stdio.h>

static const char ours[] = "{\"v\":1}";

/* --- lists ------------------------------------------------------------------------------------- */

static void enter(znl_cluster_inbound *inbound, znl_cluster_inbound **list)
{
    inbound->next = *list;
    inbound->prev = list;
    if (*list != NULL)
        (*list)->prev = &inbound->next;
    *list = inbound;
}

static void leave(znl_cluster_inbound *inbound)
{
    *inbound->prev = inbound->next;
    if (inbound->next != NULL)
        inbound->next->prev = inbound->prev;
}

/* --- the end ----------------------------------------------------------------------------------- */

void znl_cluster_inbound_end(
        znl_cluster_inbound *inbound, int err, const char *text, int polite)
{
    if (inbound->is_over)
        return;
    inbound->is_over = 1;
    inbound->is_polite = polite != 0;
    inbound->end_err = err;
    snprintf(inbound->end_text, sizeof inbound->end_text, "%s", text);
    znl_wheel_stop(znl_loop_wheel(inbound->vm->loop), &inbound->timer);
    znl_cluster_channel_leave(inbound->member);
    inbound->member = NULL;
    if (inbound->lead != NULL)
        znl_cluster_inbound_drop_calls(inbound);
    if (inbound->link != NULL)
        znl_cluster_link_close(inbound->link, ZNL_E_CLOSED);
    znl_loop_defer(inbound->vm->loop, &inbound->end_due);
}

/* (inbound): "left", number, remote, reason, code */
static int report_left(lua_State *L)
{
    const znl_cluster_inbound *inbound = lua_touserdata(L, 1);
    lua_pushliteral(L, "left");
    lua_pushnumber(L, (lua_Number)inbound->number);
    lua_rawgeti(L, LUA_REGISTRYINDEX, inbound->remote_ref);
    lua_pushstring(L, inbound->end_text);
    if (inbound->end_err == 0)
        lua_pushnil(L);
    else
        lua_pushstring(L, znl_err_code(inbound->end_err));
    znl_cluster_emit(L, &inbound->lead->jobs.anchor, 5, 0);
    return 0;
}

/* Frees it. Nothing of it is in use any more. */
static void inbound_free(znl_cluster_inbound *inbound, uint32_t linger_ms)
{
    znl_cluster_lead *lead = inbound->lead;
    leave(inbound);
    if (lead != NULL) {
        lead->inbound_count--;
        if (inbound->link != NULL) {
            znl_cluster_link_counters counters;
            znl_cluster_link_count(inbound->link, &counters);
            znl_cluster_add_counters(&lead->ended, &counters);
        }
    } else {
        inbound->server->stranger_count--;
    }
    znl_cluster_link_free(inbound->link);
    znl_stream_close(inbound->stream, linger_ms);
    luaL_unref(inbound->vm->L, LUA_REGISTRYINDEX, inbound->remote_ref);
    znl_buffer_fini(&inbound->extension);
    znl_buffer_fini(&inbound->asked);
    znl_free(inbound);
}

static void end_turn(znl_deferred *deferred)
{
    znl_cluster_inbound *inbound = (znl_cluster_inbound *)(void *)((char *)deferred -
            offsetof(znl_cluster_inbound, end_due));
    znl_cluster_server *server = inbound->server;
    znl_cluster_lead *lead = inbound->lead;
    if (inbound->is_told)
        znl_vm_protect(inbound->vm, report_left, inbound, "cluster.on_event");
    inbound_free(inbound, inbound->is_polite ? ZNL_CLUSTER_CLOSE_MS : 0);
    if (lead != NULL)
        znl_anchor_let_go(&lead->jobs.anchor);
    znl_anchor_let_go(&server->anchor);
}

void znl_cluster_inbound_discard(znl_cluster_inbound *inbound)
{
    znl_cluster_inbound_end(inbound, ZNL_E_STOPPED, "", 0);
    znl_loop_undefer(inbound->vm->loop, &inbound->end_due);
    inbound_free(inbound, 0);
}

/* --- time -------------------------------------------------------------------------------------- */

static znl_cluster_inbound *of_timer(znl_timer *timer)
{
    return (znl_cluster_inbound *)(void *)((char *)timer -
            offsetof(znl_cluster_inbound, timer));
}

static void on_unregistered(znl_timer *timer)
{
    znl_cluster_inbound *inbound = of_timer(timer);
    inbound->server->unregistered++;
    znl_cluster_inbound_end(inbound, ZNL_E_TIMEOUT, "it did not register in time", 0);
}

static void on_refused(znl_timer *timer)
{
    znl_cluster_inbound_end(of_timer(timer), ZNL_E_REFUSED, "its registration was refused", 1);
}

static void start_timer(znl_cluster_inbound *inbound, uint32_t ms, znl_timer_fn fire)
{
    znl_loop *loop = inbound->vm->loop;
    if (ms > 0)
        znl_wheel_start(
                znl_loop_wheel(loop), &inbound->timer, znl_loop_now_ms(loop) + ms, fire);
}

/* --- registrations ----------------------------------------------------------------------------- */

/* Answers the registration `id` with `data`. */
static void answer(znl_cluster_inbound *inbound, int64_t id, int32_t timeout_ms, int is_success,
        znl_frame data)
{
    znl_cluster_message message = {.kind = ZNL_CLUSTER_REGISTERED, .is_success = is_success};
    if (inbound->extension.size > 0)
        message.extension = znl_frame_of(inbound->extension.data, inbound->extension.size);
    else if (inbound->is_ours)
        message.extension = znl_frame_of(ours, sizeof ours - 1);
    int err = znl_cluster_link_answer(inbound->link, id, timeout_ms, &message, data);
    if (err != 0) { /* it would wait for nothing */
        znl_cluster_inbound_end(inbound, err, znl_err_text(err), 0);
    } else if (is_success == inbound->is_refused) {
        /* Who asks again and again is not spared; whose leader has become ready meanwhile is. */
        inbound->is_refused = !is_success;
        if (is_success)
            znl_wheel_stop(znl_loop_wheel(inbound->vm->loop), &inbound->timer);
        else
            start_timer(inbound, ZNL_CLUSTER_REFUSED_MS, on_refused);
    }
}

/* Answers all that are owed. */
static void answer_all(znl_cluster_inbound *inbound, int is_success, znl_frame data)
{
    uint32_t count = inbound->unanswered_count;
    inbound->unanswered_count = 0;
    for (uint32_t i = 0; i < count && !inbound->is_over; i++)
        answer(inbound, inbound->unanswered[i].id, inbound->unanswered[i].timeout_ms,
                is_success, data);
}

void znl_cluster_inbound_answer(znl_cluster_inbound *inbound)
{
    const znl_cluster_lead *lead = inbound->lead;
    if (lead->state != ZNL_CLUSTER_COMING)
        answer_all(inbound, lead->state == ZNL_CLUSTER_READY,
                znl_frame_of(lead->readiness.data, lead->readiness.size));
}

/* Remembers that an answer is owed. */
static void owe(znl_cluster_inbound *inbound, const znl_cluster_request *request)
{
    uint32_t count = inbound->unanswered_count;
    if (count == ZNL_CLUSTER_UNANSWERED) {
        count--;
        memmove(&inbound->unanswered[0], &inbound->unanswered[1],
                count * sizeof inbound->unanswered[0]);
    }
    inbound->unanswered[count].id = request->id;
    inbound->unanswered[count].timeout_ms = request->timeout_ms;
    inbound->unanswered_count = count + 1;
}

/* A registration being looked at. */
struct registration {
    znl_cluster_inbound *inbound;
    znl_cluster_lead *lead;
    znl_frame name, extension;
    int is_accepted;
};

static void push_remote(lua_State *L, const znl_cluster_inbound *inbound)
{
    lua_pushstring(L, znl_stream_peer(inbound->stream));
}

/* Refuses it as on_event said: nil or false, and a text at the top two. */
static void refuse(lua_State *L, const struct registration *r)
{
    znl_cluster_inbound *inbound = r->inbound;
    znl_cluster_failure failure = {
            .name = znl_frame_text("AuthenticationError"),
            .message = znl_frame_text("the registration was refused"),
            .code = znl_frame_text(znl_err_code(ZNL_E_REFUSED)),
    };
    if (lua_type(L, -1) == LUA_TSTRING) {
        size_t size;
        const char *text = lua_tolstring(L, -1, &size);
        failure.message = znl_lua_error_line(text, size);
    }
    znl_cluster_values *values = &r->lead->values;
    int err = znl_cluster_write_failure(L, values, &failure, 1);
    if (inbound->is_over)
        return;
    if (err == 0)
        answer_all(inbound, 0, znl_frame_of(values->out.data, values->out.size));
    else
        znl_cluster_inbound_end(inbound, ZNL_E_REFUSED, "its registration was refused", 0);
}

/* The table at the top goes back with the answer. */
static int write_extension(lua_State *L, znl_cluster_inbound *inbound)
{
    char problem[ZNL_LUA_PROBLEM_BYTES];
    lua_pushinteger(L, 1);
    lua_setfield(L, -2, "v");
    inbound->extension.size = 0;
    return znl_lua_writejson(L, lua_gettop(L), &inbound->extension, problem, sizeof problem);
}

/* Asks on_event("registration"). Who cannot judge does not let in. */
static int run_check(lua_State *L)
{
    struct registration *r = lua_touserdata(L, 1);
    znl_cluster_inbound *inbound = r->inbound;
    int top = lua_gettop(L);
    lua_pushliteral(L, "registration");
    lua_pushnumber(L, (lua_Number)inbound->number);
    if (r->extension.data == NULL || znl_lua_pushjson(L, r->extension) != 0)
        lua_pushnil(L);
    push_remote(L, inbound);
    if (!znl_cluster_emit(L, &r->lead->jobs.anchor, 4, 2)) {
        lua_pushboolean(L, 0);
        lua_pushnil(L);
    }
    if (inbound->is_over || r->lead->server == NULL)
        return 0;
    r->is_accepted = lua_toboolean(L, -2);
    if (r->is_accepted && lua_istable(L, -1) && inbound->is_ours)
        r->is_accepted = write_extension(L, inbound) == 0;
    if (!r->is_accepted) {
        r->lead->unauthenticated++;
        refuse(L, r);
    }
    lua_settop(L, top);
    return 0;
}

/* It joins its channel: "joined", number, remote. */
static int run_join(lua_State *L)
{
    const struct registration *r = lua_touserdata(L, 1);
    znl_cluster_inbound *inbound = r->inbound;
    push_remote(L, inbound);
    lua_pushvalue(L, -1);
    inbound->remote_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    inbound->is_told = 1;
    lua_pushliteral(L, "joined");
    lua_pushnumber(L, (lua_Number)inbound->number);
    lua_pushvalue(L, -3);
    znl_cluster_emit(L, &r->lead->jobs.anchor, 3, 0);
    return 0;
}

static int run_unclaimed(lua_State *L)
{
    const struct registration *r = lua_touserdata(L, 1);
    lua_pushliteral(L, "unclaimed");
    znl_cluster_push_frame(L, r->name);
    push_remote(L, r->inbound);
    znl_cluster_emit(L, &r->inbound->server->anchor, 3, 0);
    return 0;
}

/* It belongs to its channel from now on. 0 or ZNL_E_NOMEM. */
static int join(struct registration *r)
{
    znl_cluster_inbound *inbound = r->inbound;
    int err = znl_cluster_channel_join(
            &inbound->member, r->lead->channel, inbound->link, inbound);
    if (err != 0)
        return err;
    znl_wheel_stop(znl_loop_wheel(inbound->vm->loop), &inbound->timer);
    znl_buffer_fini(&inbound->asked);
    leave(inbound);
    inbound->server->stranger_count--;
    inbound->lead = r->lead;
    enter(inbound, &r->lead->inbounds);
    r->lead->inbound_count++;
    r->lead->registrations++;
    znl_anchor_hold_again(&r->lead->jobs.anchor);
    znl_cluster_link_configure(inbound->link, r->lead->heartbeat_ms, r->lead->checks_heartbeat);
    return znl_vm_protect(inbound->vm, run_join, r, "cluster.on_event") == 0 ? 0 : ZNL_E_NOMEM;
}

/* A stranger and the channel that it named. */
static void admit(struct registration *r)
{
    znl_cluster_inbound *inbound = r->inbound;
    inbound->is_ours = r->extension.data != NULL;
    if (r->lead->checks_registration) {
        znl_vm_protect(inbound->vm, run_check, r, "cluster.on_event");
        if (!r->is_accepted || inbound->is_over)
            return;
    }
    int err = join(r);
    if (err != 0)
        znl_cluster_inbound_end(inbound, err, znl_err_text(err), 0);
    else if (!inbound->is_over)
        znl_cluster_inbound_answer(inbound);
}

/* Nobody leads that channel here, yet: it may try again for as long as it likes (spec, section 6.1), and has its
 * answer when somebody does. */
static void keep_asked(struct registration *r)
{
    znl_cluster_inbound *inbound = r->inbound;
    znl_buffer *asked = &inbound->asked;
    start_timer(inbound, inbound->server->register_ms, on_unregistered);
    inbound->server->unclaimed++;
    asked->size = 0;
    inbound->asked_name_size = r->name.size;
    if (r->name.size > ZNL_CLUSTER_NAME_BYTES_MAX ||
            r->extension.size > ZNL_CLUSTER_EXTENSION_BYTES_MAX ||
            znl_buffer_append(asked, r->name.data, r->name.size) != 0 ||
            (r->extension.size > 0 &&
                    znl_buffer_append(asked, r->extension.data, r->extension.size) != 0)) {
        asked->size = 0;
        return;
    }
    if (inbound->was_unclaimed)
        return;
    inbound->was_unclaimed = 1;
    znl_vm_protect(inbound->vm, run_unclaimed, r, "cluster.on_event");
}

/* The name that a stranger has asked for. */
static znl_frame asked_name(const znl_cluster_inbound *inbound)
{
    return znl_frame_of(
            inbound->asked.data, inbound->asked.size > 0 ? inbound->asked_name_size : 0);
}

static void on_register(znl_cluster_inbound *inbound, const znl_cluster_request *request)
{
    struct registration r = {.inbound = inbound,
            .name = request->message->channel,
            .extension = request->message->extension};
    if (r.name.size == 0 || inbound->is_refused)
        return;
    if (!znl_frame_equal(r.name, asked_name(inbound)))
        inbound->unanswered_count = 0;
    owe(inbound, request);
    r.lead = znl_cluster_find_lead(inbound->server, r.name);
    if (r.lead != NULL)
        admit(&r);
    else
        keep_asked(&r);
}

void znl_cluster_server_claim(znl_cluster_server *server, znl_cluster_lead *lead)
{
    for (znl_cluster_inbound *inbound = server->strangers, *next; inbound != NULL;
            inbound = next) {
        struct registration r = {.inbound = inbound, .lead = lead, .name = asked_name(inbound)};
        next = inbound->next;
        if (inbound->is_over || inbound->is_refused || lead->server == NULL ||
                r.name.size == 0 ||
                !znl_frame_equal(r.name, znl_frame_of(lead->name, lead->name_size)))
            continue;
        if (inbound->asked.size > r.name.size)
            r.extension = znl_frame_of(
                    inbound->asked.data + r.name.size, inbound->asked.size - r.name.size);
        admit(&r);
    }
}

/* --- requests ---------------------------------------------------------------------------------- */

static void on_subscribe(znl_cluster_inbound *inbound, const znl_cluster_message *message)
{
    znl_cluster_lead *lead = inbound->lead;
    int err = message->key.size > ZNL_CLUSTER_KEY_BYTES_MAX ||
                    message->reg.size > ZNL_CLUSTER_KEY_BYTES_MAX
            ? ZNL_E_TOO_BIG
            : znl_cluster_lead_subscribe(NULL, lead, inbound, message->key, message->reg);
    if (err == 0)
        return;
    lead->keys_refused++;
    if (inbound->was_troubled)
        return; /* the protocol has no answer to a subscription, and one word is enough for people */
    inbound->was_troubled = 1;
    char text[ZNL_CLUSTER_END_TEXT_BYTES];
    snprintf(text, sizeof text, "subscription of %s refused: %s",
            znl_stream_peer(inbound->stream), znl_err_text(err));
    znl_cluster_lead_trouble(lead, text, err);
}

static void on_request(void *user, const znl_cluster_request *request)
{
    znl_cluster_inbound *inbound = user;
    const znl_cluster_message *message = request->message;
    if (inbound->is_over)
        return;
    if (inbound->lead == NULL) {
        if (message->kind == ZNL_CLUSTER_REGISTER)
            on_register(inbound, request);
        return;
    }
    switch (message->kind) {
    case ZNL_CLUSTER_REGISTER: /* whatever name it carries (spec, section 6.1) */
        owe(inbound, request);
        znl_cluster_inbound_answer(inbound);
        break;
    case ZNL_CLUSTER_SUBSCRIBE:
        on_subscribe(inbound, message);
        break;
    case ZNL_CLUSTER_UNSUBSCRIBE:
        znl_cluster_channel_unsubscribe(inbound->member, message->key, message->reg);
        break;
    case ZNL_CLUSTER_INVOKE:
        znl_cluster_invoke(inbound, request);
        break;
    case ZNL_CLUSTER_CANCEL:
        if (inbound->is_ours)
            znl_cluster_cancel(inbound, request->id);
        break;
    default:
        break; /* what only leaders send */
    }
}

static void on_answer(
        void *user, znl_waiter waiter, const znl_cluster_message *message, znl_frame data)
{
    (void)user;
    (void)waiter; /* acknowledgements, which the link counts */
    (void)message;
    (void)data;
}

static void on_failed(void *user, znl_waiter waiter, int err)
{
    (void)user;
    (void)waiter;
    (void)err;
}

static void on_broken(void *user, int err, const char *text)
{
    znl_cluster_inbound *inbound = user;
    /* Silence breaks nothing, nor does it when memory is short here. */
    if (err != ZNL_E_TIMEOUT && err != ZNL_E_NOMEM)
        inbound->server->broken++;
    znl_cluster_inbound_end(inbound, err, text, 0);
}

static const znl_cluster_link_events link_events = {
        .on_request = on_request,
        .on_answer = on_answer,
        .on_failed = on_failed,
        .on_broken = on_broken,
};

/* --- the stream -------------------------------------------------------------------------------- */

static void on_open(void *user)
{
    (void)user;
}

static void on_data(void *user, uint8_t *data, size_t size)
{
    znl_cluster_inbound *inbound = user;
    if (!inbound->is_over)
        znl_cluster_link_receive(inbound->link, data, size);
}

static void on_writable(void *user)
{
    znl_cluster_inbound *inbound = user;
    if (!inbound->is_over)
        znl_cluster_link_writable(inbound->link);
    if (!inbound->is_over && inbound->member != NULL)
        znl_cluster_channel_writable(inbound->member);
}

static void on_end(void *user, int err, const char *text)
{
    znl_cluster_inbound_end(user, err, err != 0 ? text : "closed by the peer", err == 0);
}

static const znl_stream_events stream_events = {
        .on_open = on_open, .on_data = on_data, .on_writable = on_writable, .on_end = on_end};

void znl_cluster_accept(void *user, znl_stream *stream)
{
    znl_cluster_server *server = user;
    znl_cluster_inbound *inbound = znl_calloc(1, sizeof *inbound);
    if (inbound == NULL) {
        znl_stream_close(stream, 0);
        return;
    }
    const znl_cluster_link_options options = {
            .is_leader = 1, .max_bytes = server->max_bytes, .max_depth = server->max_depth};
    inbound->vm = server->vm;
    int err = znl_cluster_link_new(&inbound->link, server->vm->loop, &options,
            &znl_cluster_stream_carrier, stream, &link_events, inbound);
    if (err != 0) {
        znl_free(inbound);
        znl_stream_close(stream, 0);
        return;
    }
    inbound->server = server;
    inbound->stream = stream;
    inbound->number = ++server->next_number;
    inbound->remote_ref = LUA_NOREF;
    inbound->end_due.run = end_turn;
    znl_stream_set_events(stream, &stream_events, inbound);
    znl_anchor_hold_again(&server->anchor);
    enter(inbound, &server->strangers);
    server->stranger_count++;
    start_timer(inbound, server->register_ms, on_unregistered);
}
