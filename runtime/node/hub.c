/* hub.c - see hub.h. SPDX-License-Identifier: MIT */
#include "node/hub_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "codec/hub.h"
#include "codec/websocket.h"

#include <stdio.h>

/* Buffers of one message at a time keep no more than this between messages. */
#define KEPT_BYTES (256u * 1024)

/* --- life ---------------------------------------------------------------------------------------------- */

static void tell_ids(znl_hub *hub, const znl_buffer *ids, void (*tell)(void *, uint64_t))
{
    for (size_t at = 0; at < ids->size; at += sizeof(uint64_t)) {
        uint64_t id;
        memcpy(&id, ids->data + at, sizeof id);
        tell(hub->user, id);
    }
}

/* Slow clients, those that have ended and the first publish that failed, told from the loop. What it calls may do
 * anything but free the hub. */
static void on_events_due(znl_deferred *deferred)
{
    znl_hub *hub = (znl_hub *)(void *)((char *)deferred - offsetof(znl_hub, events_due));
    znl_buffer slow = hub->slow_ids, ended = hub->ended_ids;
    int is_error_due = hub->is_error_due;
    hub->slow_ids = hub->ended_ids = (znl_buffer){0};
    hub->is_error_due = 0;
    if (is_error_due)
        hub->events->on_error(hub->user, hub->publish_error);
    tell_ids(hub, &slow, hub->events->on_slow);
    tell_ids(hub, &ended, hub->events->on_ended);
    znl_buffer_fini(&slow);
    znl_buffer_fini(&ended);
}

/* One token of a subject, as far as that can be told without the server. */
static int is_token(znl_frame token)
{
    for (size_t i = 0; i < token.size; i++) {
        uint8_t c = token.data[i];
        if (c <= ' ' || c == 0x7f || c == '.' || c == '*' || c == '>')
            return 0;
    }
    return token.size > 0;
}

static int is_subject(znl_frame subject)
{
    size_t start = 0;
    for (size_t i = 0; i <= subject.size; i++) {
        if (i < subject.size && subject.data[i] != '.')
            continue;
        if (!is_token(znl_frame_of(subject.data + start, i - start)))
            return 0;
        start = i + 1;
    }
    return 1;
}

static char *make_subject(znl_frame prefix, znl_frame app, const char *last)
{
    size_t size = prefix.size + app.size + strlen(last) + 3;
    char *subject = znl_malloc(size);
    if (subject != NULL)
        snprintf(subject, size, "%.*s.%.*s.%s", (int)prefix.size, (const char *)prefix.data,
                (int)app.size, (const char *)app.data, last);
    return subject;
}

int znl_hub_new(znl_hub **out, znl_loop *loop, const znl_hub_options *options,
        const znl_hub_events *events, void *user)
{
    if (options->origin.size == 0)
        return ZNL_E_INVALID;
    if (options->prefix.size > ZNL_HUB_NAME_BYTES_MAX ||
            options->app.size > ZNL_HUB_NAME_BYTES_MAX ||
            options->origin.size > ZNL_HUB_NAME_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    if (!is_subject(options->prefix) || !is_token(options->app))
        return ZNL_E_INVALID;
    znl_hub *hub = znl_calloc(1, sizeof *hub);
    if (hub == NULL)
        return ZNL_E_NOMEM;
    hub->loop = loop;
    hub->events = events;
    hub->user = user;
    hub->bus = options->bus;
    hub->bus_user = options->bus_user;
    hub->on_slow = options->on_slow;
    hub->events_due.run = on_events_due;
    znl_slots_init(&hub->clients, sizeof(hub_client),
            options->max_clients > 0 ? options->max_clients : ZNL_CONNECTIONS_MAX);
    hub->broadcast_subject = make_subject(options->prefix, options->app, "bcast");
    hub->direct_subject = make_subject(options->prefix, options->app, "direct");
    if (hub->broadcast_subject == NULL || hub->direct_subject == NULL ||
            znl_buffer_append(&hub->origin, options->origin.data, options->origin.size) != 0 ||
            znl_buffer_reserve(&hub->left, ZNL_HUB_NAME_BYTES_MAX) != 0) {
        znl_hub_free(hub);
        return ZNL_E_NOMEM;
    }
    *out = hub;
    return 0;
}

void znl_hub_free(znl_hub *hub)
{
    if (hub == NULL)
        return;
    hub_clients_fini(hub);
    znl_loop_undefer(hub->loop, &hub->events_due);
    znl_free(hub->broadcast_subject);
    znl_free(hub->direct_subject);
    znl_buffer_fini(&hub->origin);
    znl_buffer_fini(&hub->text);
    znl_buffer_fini(&hub->payload);
    znl_buffer_fini(&hub->scratch);
    znl_buffer_fini(&hub->left);
    znl_buffer_fini(&hub->slow_ids);
    znl_buffer_fini(&hub->ended_ids);
    znl_free(hub);
}

void znl_hub_start(znl_hub *hub)
{
    hub->is_started = 1;
    hub->publish_error = 0;
}

void znl_hub_stop(znl_hub *hub)
{
    hub->is_started = 0;
}

const char *znl_hub_broadcast_subject(const znl_hub *hub)
{
    return hub->broadcast_subject;
}

const char *znl_hub_direct_subject(const znl_hub *hub)
{
    return hub->direct_subject;
}

znl_hub_counters znl_hub_get_counters(const znl_hub *hub)
{
    return hub->counters;
}

/* --- to clients ---------------------------------------------------------------------------------------- */

/* Without memory for it the event does not come; the counters say it all the same. */
static void note_slow(znl_hub *hub, hub_client *client)
{
    if (client->is_slow)
        return;
    client->is_slow = 1;
    if (znl_buffer_append(&hub->slow_ids, &client->id, sizeof client->id) == 0)
        znl_loop_defer(hub->loop, &hub->events_due);
}

static int give(znl_hub *hub, hub_client *client, znl_frame message)
{
    if (client->ws == NULL)
        return ZNL_E_CLOSED;
    int err = znl_ws_send(client->ws, 1, message.data, message.size);
    if (err == 0) {
        client->is_slow = 0;
        hub->counters.delivered++;
        hub->counters.delivered_bytes += message.size;
    } else if (err == ZNL_E_BUSY && hub->on_slow == ZNL_HUB_SLOW_DROP) {
        hub->counters.slow_dropped++;
        note_slow(hub, client);
    } else if (err == ZNL_E_BUSY) {
        hub->counters.slow_closed++;
        note_slow(hub, client);
        znl_ws_close(client->ws, ZNL_WS_CODE_TRY_LATER, "too slow");
    } else if (err != ZNL_E_CLOSED) {
        hub->counters.send_failures++;
    }
    return err;
}

/* Nothing that is called in here changes a room. */
static uint32_t give_room(
        znl_hub *hub, const hub_room *room, znl_frame message, uint64_t left_out)
{
    uint32_t count = 0;
    for (size_t i = 0; i < room->count; i++) {
        hub_client *client = room->seats[i]->client;
        if (left_out != 0 && client->left_out == left_out)
            hub->counters.skipped++;
        else
            count += give(hub, client, message) == 0;
    }
    return count;
}

/* The clients of that session miss message number `hub->message`. */
static void leave_out(znl_hub *hub, znl_frame session_id)
{
    const hub_room *room = hub_room_find(&hub->sessions, session_id);
    for (size_t i = 0; room != NULL && i < room->count; i++)
        room->seats[i]->client->left_out = hub->message;
}

static const hub_room *find_room(const znl_hub *hub, znl_frame ns, const znl_frame *channel)
{
    const hub_room *room = hub_room_find(&hub->namespaces, ns);
    return room != NULL && channel != NULL ? hub_room_find(&room->channels, *channel) : room;
}

int znl_hub_send(znl_hub *hub, uint64_t id, znl_frame message)
{
    hub_client *client = hub_client_find(hub, id);
    return client != NULL ? give(hub, client, message) : ZNL_E_NOT_FOUND;
}

/* --- to other instances -------------------------------------------------------------------------------- */

static void note_failure(znl_hub *hub, int err)
{
    znl_hub_counters *counters = &hub->counters;
    if (err == ZNL_E_OFFLINE)
        counters->dropped_offline++;
    else if (err == ZNL_E_BUSY)
        counters->dropped_busy++;
    else if (err == ZNL_E_TOO_BIG)
        counters->dropped_too_big++;
    else
        counters->dropped_other++;
    if (hub->publish_error == 0) {
        hub->is_error_due = 1;
        znl_loop_defer(hub->loop, &hub->events_due);
    }
    hub->publish_error = err;
}

/* `err`: of writing hub->payload. */
static void publish(znl_hub *hub, const char *subject, int err)
{
    size_t size = hub->payload.size;
    if (err == 0)
        err = hub->bus->publish(hub->bus_user, subject, NULL, hub->payload.data, size);
    znl_buffer_trim(&hub->payload, KEPT_BYTES);
    if (err != 0) {
        note_failure(hub, err);
        return;
    }
    hub->publish_error = 0;
    hub->counters.published++;
    hub->counters.published_bytes += size;
}

static znl_frame frame_of(const znl_buffer *buffer)
{
    return znl_frame_of(buffer->data, buffer->size);
}

/* The list of sessions as JSON. 0, ZNL_E_NOMEM, ZNL_E_PROTO (one is not UTF-8). */
static int write_except(znl_buffer *out, const znl_frame *except, size_t count)
{
    int err = 0;
    out->size = 0;
    for (size_t i = 0; err == 0 && i < count; i++) {
        err = znl_buffer_append(out, i == 0 ? "[" : ",", 1);
        if (err == 0)
            err = znl_json_put_string(out, except[i]);
    }
    return err == 0 ? znl_buffer_append(out, "]", 1) : err;
}

static void publish_broadcast(
        znl_hub *hub, znl_hub_fan *fan, const znl_frame *except, size_t except_count)
{
    int err = 0;
    if (except_count > 0) {
        err = write_except(&hub->scratch, except, except_count);
        fan->except = frame_of(&hub->scratch);
    }
    hub->payload.size = 0;
    if (err == 0)
        err = znl_hub_put_broadcast(&hub->payload, fan);
    publish(hub, hub->broadcast_subject, err);
    znl_buffer_trim(&hub->scratch, KEPT_BYTES);
}

uint32_t znl_hub_broadcast(znl_hub *hub, znl_frame ns, const znl_frame *channel,
        znl_frame message, const znl_frame *except, size_t except_count)
{
    uint32_t count = 0;
    const hub_room *room = find_room(hub, ns, channel);
    hub->counters.broadcasts++;
    if (room != NULL) {
        uint64_t left_out = except_count > 0 ? ++hub->message : 0;
        for (size_t i = 0; i < except_count; i++)
            leave_out(hub, except[i]);
        count = give_room(hub, room, message, left_out);
    }
    if (hub->bus != NULL && hub->is_started) {
        znl_hub_fan fan = {.origin = frame_of(&hub->origin), .ns = ns, .message.text = message};
        if (channel != NULL)
            fan.channel = *channel;
        publish_broadcast(hub, &fan, except, except_count);
    }
    return count;
}

uint32_t znl_hub_direct(znl_hub *hub, znl_frame user_id, znl_frame message)
{
    const hub_room *room = hub_room_find(&hub->users, user_id);
    hub->counters.directs++;
    uint32_t count = room != NULL ? give_room(hub, room, message, 0) : 0;
    if (hub->bus != NULL && hub->is_started) {
        znl_hub_fan fan = {
                .origin = frame_of(&hub->origin), .user_id = user_id, .message.text = message};
        hub->payload.size = 0;
        publish(hub, hub->direct_subject, znl_hub_put_direct(&hub->payload, &fan));
    }
    return count;
}

/* --- from other instances ------------------------------------------------------------------------------ */

/* Reads and counts a message; true when it is one to be delivered. */
static int read_fan(znl_hub *hub, const uint8_t *data, size_t size, znl_hub_fan *fan)
{
    if (!hub->is_started)
        return 0;
    hub->counters.received++;
    hub->counters.received_bytes += size;
    if (znl_hub_read_fan(znl_frame_of(data, size), &hub->scratch, fan) != 0) {
        hub->counters.malformed++;
        return 0;
    }
    if (znl_frame_equal(fan->origin, frame_of(&hub->origin))) {
        hub->counters.echoes++;
        return 0;
    }
    if (fan->message.text.data == NULL) {
        hub->counters.malformed++;
        return 0;
    }
    return 1;
}

static void give_fan(
        znl_hub *hub, const hub_room *room, const znl_hub_message *message, uint64_t left_out)
{
    hub->text.size = 0;
    if (message->is_exact) {
        give_room(hub, room, message->text, left_out);
    } else if (znl_hub_put_message(&hub->text, message) == 0) {
        give_room(hub, room, frame_of(&hub->text), left_out);
        znl_buffer_trim(&hub->text, KEPT_BYTES);
    } else {
        hub->counters.send_failures += room->count;
    }
}

void znl_hub_receive_broadcast(znl_hub *hub, const uint8_t *data, size_t size)
{
    znl_hub_fan fan;
    if (!read_fan(hub, data, size, &fan))
        return;
    if (fan.ns.data == NULL) {
        hub->counters.malformed++;
        return;
    }
    const hub_room *room = find_room(
            hub, fan.ns, fan.channel.data != NULL ? &fan.channel : NULL);
    if (room != NULL) {
        uint64_t left_out = 0;
        if (fan.except.data != NULL) {
            znl_json_reader ids;
            znl_frame session_id;
            left_out = ++hub->message;
            znl_hub_begin_texts(&ids, fan.except);
            while (znl_hub_next_text(&ids, &session_id, &hub->scratch) == 1)
                leave_out(hub, session_id);
        }
        give_fan(hub, room, &fan.message, left_out);
    }
    znl_buffer_trim(&hub->scratch, KEPT_BYTES);
}

void znl_hub_receive_direct(znl_hub *hub, const uint8_t *data, size_t size)
{
    znl_hub_fan fan;
    if (!read_fan(hub, data, size, &fan))
        return;
    if (fan.user_id.data == NULL) {
        hub->counters.malformed++;
        return;
    }
    const hub_room *room = hub_room_find(&hub->users, fan.user_id);
    if (room != NULL)
        give_fan(hub, room, &fan.message, 0);
    znl_buffer_trim(&hub->scratch, KEPT_BYTES);
}
