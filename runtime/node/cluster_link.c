/* cluster_link.c - see cluster_link.h: life of a connection, packets in and out, answers, heartbeats.
 * SPDX-License-Identifier: MIT */
#include "node/cluster_link_parts.h"

#include "base/alloc.h"
#include "base/err.h"

#include <stdio.h>

#define HEAD ZNL_PACKET_HEAD_BYTES
#define BUFFER_KEPT 4096u /* bytes of the buffers that are not given back after a packet */

/* --- the end of it ----------------------------------------------------------------------------------- */

static void stop_timers(znl_cluster_link *link)
{
    znl_wheel_stop(znl_loop_wheel(link->loop), &link->timer);
    znl_wheel_stop(znl_loop_wheel(link->loop), &link->push_timer);
    znl_loop_undefer(link->loop, &link->later);
}

static void break_off(znl_cluster_link *link, int err, const char *text)
{
    if (link->is_closed || link->is_broken)
        return;
    link->is_broken = 1;
    znl_wheel_stop(znl_loop_wheel(link->loop), &link->timer);
    link->events->on_broken(link->user, err, text);
}

/* --- packets out ------------------------------------------------------------------------------------- */

int znl_cluster_compose(
        znl_cluster_link *link, const znl_cluster_message *message, znl_frame *text)
{
    switch (message->kind) {
    case ZNL_CLUSTER_HEARTBEAT:
    case ZNL_CLUSTER_HEARTBEAT_ANSWER:
    case ZNL_CLUSTER_VALUE_TAKEN:
    case ZNL_CLUSTER_RESULT:
        *text = znl_cluster_text(message->kind, message->is_success);
        return 0;
    default:
        break;
    }
    znl_buffer_trim(&link->out, BUFFER_KEPT);
    link->out.size = 0;
    int err = znl_cluster_write(message, &link->out);
    *text = znl_frame_of(link->out.data, link->out.size);
    return err;
}

int znl_cluster_reserve(znl_cluster_link *link, znl_frame text, znl_frame data, uint8_t **at)
{
    if (text.size > link->max_bytes || data.size > link->max_bytes - text.size)
        return ZNL_E_TOO_BIG;
    return link->carrier->reserve(link->carrier_user, HEAD + text.size + data.size, at);
}

static void put_packet(
        uint8_t *at, const znl_cluster_head *head, znl_frame text, znl_frame data)
{
    znl_packet_put_head(at, head->is_response, head->id, head->timeout_ms, (uint32_t)text.size,
            (uint32_t)data.size);
    memcpy(at + HEAD, text.data, text.size);
    if (data.size > 0)
        memcpy(at + HEAD + text.size, data.data, data.size);
}

void znl_cluster_send(znl_cluster_link *link, uint8_t *at, const znl_cluster_head *head,
        znl_frame text, znl_frame data)
{
    put_packet(at, head, text, data);
    link->carrier->commit(link->carrier_user, HEAD + text.size + data.size);
    link->counters.sent++;
}

int znl_cluster_link_tell(znl_cluster_link *link, const znl_cluster_message *message,
        znl_frame data, uint32_t timeout_ms, int64_t id)
{
    znl_frame text;
    uint8_t *at;
    if (link->is_closed)
        return ZNL_E_CLOSED;
    int err = znl_cluster_compose(link, message, &text);
    if (err == 0)
        err = znl_cluster_reserve(link, text, data, &at);
    if (err != 0)
        return err;
    if (message->kind != ZNL_CLUSTER_CANCEL)
        id = znl_cluster_next_id(link);
    const znl_cluster_head head = {
            .id = id, .timeout_ms = znl_cluster_wire_timeout(timeout_ms)};
    znl_cluster_send(link, at, &head, text, data);
    return 0;
}

/* --- answers ----------------------------------------------------------------------------------------- */

/* Answers that wait are dealt with after the event in which the last of them was made. */
static int flood(znl_cluster_link *link)
{
    link->is_flooded = 1;
    znl_loop_defer(link->loop, &link->later);
    return ZNL_E_BUSY;
}

static int keep_answer(
        znl_cluster_link *link, const znl_cluster_head *head, znl_frame text, znl_frame data)
{
    size_t size = HEAD + text.size + data.size, waiting = link->kept.size - link->kept_at;
    if (link->is_flooded ||
            (waiting > 0 &&
                    (waiting > ZNL_STREAM_QUEUE_BYTES_DEFAULT ||
                            size > ZNL_STREAM_QUEUE_BYTES_DEFAULT - waiting)))
        return flood(link);
    if (link->kept_at > 0 && link->kept_at >= waiting) {
        memmove(link->kept.data, link->kept.data + link->kept_at, waiting);
        link->kept.size = waiting;
        link->kept_at = 0;
    }
    int err = znl_buffer_extend(&link->kept, size);
    if (err != 0)
        return err;
    put_packet(link->kept.data + link->kept.size, head, text, data);
    link->kept.size += size;
    return 0;
}

static int answer(
        znl_cluster_link *link, int64_t id, int32_t timeout_ms, znl_frame text, znl_frame data)
{
    const znl_cluster_head head = {.is_response = 1, .id = id, .timeout_ms = timeout_ms};
    uint8_t *at;
    if (link->kept.size == 0) {
        int err = znl_cluster_reserve(link, text, data, &at);
        if (err == 0)
            znl_cluster_send(link, at, &head, text, data);
        if (err != ZNL_E_BUSY)
            return err;
    } else if (text.size > link->max_bytes || data.size > link->max_bytes - text.size) {
        return ZNL_E_TOO_BIG;
    }
    return keep_answer(link, &head, text, data);
}

int znl_cluster_link_answer(znl_cluster_link *link, int64_t id, int32_t timeout_ms,
        const znl_cluster_message *message, znl_frame data)
{
    znl_frame text;
    if (link->is_closed)
        return ZNL_E_CLOSED;
    if (data.size == 0 &&
            (message->kind == ZNL_CLUSTER_REGISTERED || message->kind == ZNL_CLUSTER_RESULT))
        return ZNL_E_INVALID;
    int err = znl_cluster_compose(link, message, &text);
    return err != 0 ? err : answer(link, id, timeout_ms, text, data);
}

/* Sends answers that wait, packet by packet: others may come between them. */
static void send_kept(znl_cluster_link *link)
{
    while (link->kept_at < link->kept.size) {
        const uint8_t *from = link->kept.data + link->kept_at;
        size_t size = HEAD + (size_t)znl_get_be32(from + 16) + znl_get_be32(from + 20);
        uint8_t *at;
        int err = link->carrier->reserve(link->carrier_user, size, &at);
        /* Else they would wait for ever: the carrier has no reason to call again. */
        if (err == ZNL_E_NOMEM)
            break_off(link, err, "no memory for the answers that wait");
        if (err != 0)
            return;
        memcpy(at, from, size);
        link->carrier->commit(link->carrier_user, size);
        link->counters.sent++;
        link->kept_at += size;
    }
    znl_buffer_fini(&link->kept);
    link->kept_at = 0;
}

/* --- heartbeats (spec, sections 6.2 and 7.2) ----------------------------------------------------------- */

static void send_heartbeat(znl_cluster_link *link)
{
    const znl_cluster_message heartbeat = {.kind = ZNL_CLUSTER_HEARTBEAT};
    int err = znl_cluster_link_tell(link, &heartbeat, (znl_frame){0}, link->timeout_ms, 0);
    link->owes_heartbeat = err == ZNL_E_BUSY;
    link->last_beat_ms = znl_cluster_now(link);
}

static void on_timer(znl_timer *timer);

static void plan(znl_cluster_link *link)
{
    if (link->heartbeat_ms == 0 || link->is_broken || link->is_closed)
        return;
    link->planned_ms = znl_cluster_now(link) + link->heartbeat_ms;
    znl_wheel_start(znl_loop_wheel(link->loop), &link->timer, link->planned_ms, on_timer);
}

static int is_silent(const znl_cluster_link *link, uint64_t now_ms)
{
    /* After a stall of this process what the peer sent may wait in the socket: it gets a turn first. */
    if (link->is_held || now_ms - link->planned_ms >= link->heartbeat_ms)
        return 0;
    if (link->is_leader)
        return now_ms - link->last_seen_ms > (uint64_t)link->heartbeat_ms * 3;
    return link->last_beat_ms > link->last_seen_ms &&
            link->last_beat_ms - link->last_seen_ms > link->heartbeat_ms;
}

static void on_timer(znl_timer *timer)
{
    znl_cluster_link *link =
            (znl_cluster_link *)(void *)((char *)timer - offsetof(znl_cluster_link, timer));
    uint64_t now_ms = znl_cluster_now(link);
    if (is_silent(link, now_ms)) {
        char text[96];
        snprintf(text, sizeof text, "the peer sent nothing for %llu ms",
                (unsigned long long)(now_ms - link->last_seen_ms));
        break_off(link, ZNL_E_TIMEOUT, text);
        return;
    }
    if (!link->is_leader)
        send_heartbeat(link);
    plan(link);
}

void znl_cluster_link_beat(znl_cluster_link *link)
{
    link->last_seen_ms = link->last_beat_ms = znl_cluster_now(link);
    plan(link);
}

void znl_cluster_link_configure(
        znl_cluster_link *link, uint32_t heartbeat_ms, int checks_heartbeat)
{
    link->has_channel = 1;
    link->reader.max_bytes = link->max_bytes;
    link->heartbeat_ms = checks_heartbeat ? heartbeat_ms : 0;
    link->last_seen_ms = znl_cluster_now(link);
    znl_wheel_stop(znl_loop_wheel(link->loop), &link->timer);
    plan(link);
}

/* --- packets in -------------------------------------------------------------------------------------- */

static void take_request(
        znl_cluster_link *link, const znl_packet *packet, const znl_cluster_message *message)
{
    const znl_cluster_request request = {.message = message,
            .id = packet->id,
            .timeout_ms = packet->timeout_ms,
            .data = packet->data};
    int is_known = link->is_leader;
    switch (message->kind) {
    case ZNL_CLUSTER_HEARTBEAT:
        is_known = link->has_channel;
        if (is_known) {
            link->counters.heartbeats++;
            answer(link, packet->id, packet->timeout_ms,
                    znl_cluster_text(ZNL_CLUSTER_HEARTBEAT_ANSWER, 0), (znl_frame){0});
        }
        break;
    case ZNL_CLUSTER_VALUE:
        is_known = !link->is_leader;
        if (is_known) {
            answer(link, packet->id, 0, znl_cluster_text(ZNL_CLUSTER_VALUE_TAKEN, 0),
                    (znl_frame){0});
            if (packet->data.size > 0)
                link->events->on_request(link->user, &request);
        }
        break;
    case ZNL_CLUSTER_REGISTER:
    case ZNL_CLUSTER_SUBSCRIBE:
    case ZNL_CLUSTER_UNSUBSCRIBE:
    case ZNL_CLUSTER_INVOKE:
    case ZNL_CLUSTER_CANCEL:
        if (is_known)
            link->events->on_request(link->user, &request);
        break;
    default:
        is_known = 0;
        break;
    }
    if (!is_known)
        link->counters.unknown++;
}

static void take(znl_cluster_link *link, const znl_packet *packet)
{
    znl_cluster_message message;
    char text[96];
    link->counters.received++;
    int err = znl_cluster_read(packet->text, link->max_depth, &link->scratch, &message);
    if (err == ZNL_E_LIMIT) {
        snprintf(text, sizeof text, "the text of a packet is nested deeper than %u levels",
                (unsigned)link->max_depth);
        break_off(link, err, text);
    } else if (err != 0) {
        break_off(link, err,
                err == ZNL_E_PROTO ? "the text of a packet is not a JSON object"
                                   : znl_err_text(err));
    } else if (!packet->is_response) {
        take_request(link, packet, &message);
    } else if (!znl_cluster_take_answer(link, packet->id, &message, packet->data) &&
            !znl_cluster_take_push(link, packet->id)) {
        /* Heartbeats are not waited for: any byte will do. */
        link->counters.late += message.kind != ZNL_CLUSTER_HEARTBEAT_ANSWER;
    }
}

/* The stream of bytes is of no use any more. */
static void lose_track(znl_cluster_link *link, int err)
{
    char text[96];
    if (err == ZNL_E_TOO_BIG)
        snprintf(text, sizeof text, "a packet of more than %zu bytes", link->reader.max_bytes);
    else
        snprintf(text, sizeof text, "%s",
                err == ZNL_E_PROTO ? "a packet without a body, or of negative size"
                                   : znl_err_text(err));
    break_off(link, err, text);
}

static void keep_input(znl_cluster_link *link, const void *data, size_t size)
{
    if (link->held.size > link->max_bytes || size > link->max_bytes - link->held.size) {
        break_off(link, ZNL_E_LIMIT, "the peer sends too much before it is listened to");
        return;
    }
    int err = znl_buffer_append(&link->held, data, size);
    if (err != 0)
        break_off(link, err, znl_err_text(err));
}

/* Hands up packet after packet of what was fed. */
static void work(znl_cluster_link *link)
{
    znl_packet packet;
    int found = 0;
    while (!link->is_closed && !link->is_broken && !link->is_held &&
            (found = znl_packet_next(&link->reader, &packet)) == 1)
        take(link, &packet);
    if (link->is_closed || link->is_broken)
        return;
    if (found < 0) {
        lose_track(link, found);
    } else if (link->is_held) {
        keep_input(link, link->reader.at, link->reader.left);
        znl_packet_feed(&link->reader, NULL, 0);
    }
    znl_buffer_trim(&link->scratch, BUFFER_KEPT);
    if (link->reader.kept.size == 0)
        znl_buffer_trim(&link->reader.kept, BUFFER_KEPT);
}

void znl_cluster_link_receive(znl_cluster_link *link, const void *data, size_t size)
{
    if (link->is_closed || link->is_broken)
        return;
    link->last_seen_ms = znl_cluster_now(link);
    if (link->is_held || link->held.size > 0) {
        keep_input(link, data, size);
        return;
    }
    znl_packet_feed(&link->reader, data, size);
    work(link);
}

void znl_cluster_link_hold(znl_cluster_link *link, int on)
{
    if (link->is_closed || link->is_held == (on != 0))
        return;
    link->is_held = on != 0;
    link->last_seen_ms = znl_cluster_now(link); /* what it sent could not be read */
    if (!on && link->held.size > 0)
        znl_loop_defer(link->loop, &link->later);
}

static void on_later(znl_deferred *deferred)
{
    znl_cluster_link *link =
            (znl_cluster_link *)(void *)((char *)deferred - offsetof(znl_cluster_link, later));
    if (link->is_flooded)
        break_off(link, ZNL_E_BUSY, "the peer asks and does not read the answers");
    if (link->is_broken || link->is_closed || link->is_held || link->held.size == 0)
        return;
    znl_buffer held = link->held;
    link->held = (znl_buffer){0};
    znl_packet_feed(&link->reader, held.data, held.size);
    work(link);
    znl_buffer_fini(&held);
}

/* --- the carrier ------------------------------------------------------------------------------------- */

void znl_cluster_link_writable(znl_cluster_link *link)
{
    if (link->is_closed)
        return;
    if (link->kept.size > 0)
        send_kept(link);
    if (link->owes_heartbeat)
        send_heartbeat(link);
}

size_t znl_cluster_link_queued(const znl_cluster_link *link)
{
    if (link->is_closed)
        return 0;
    return link->carrier->queued(link->carrier_user) + link->kept.size - link->kept_at;
}

void znl_cluster_link_await(znl_cluster_link *link, size_t below)
{
    if (!link->is_closed)
        link->carrier->await(link->carrier_user, below);
}

/* --- life -------------------------------------------------------------------------------------------- */

int znl_cluster_link_new(znl_cluster_link **out, znl_loop *loop,
        const znl_cluster_link_options *options, const znl_cluster_carrier *carrier,
        void *carrier_user, const znl_cluster_link_events *events, void *user)
{
    znl_cluster_link *link = znl_calloc(1, sizeof *link);
    if (link == NULL)
        return ZNL_E_NOMEM;
    link->loop = loop;
    link->carrier = carrier;
    link->carrier_user = carrier_user;
    link->events = events;
    link->user = user;
    link->is_leader = options->is_leader != 0;
    link->max_pending = options->max_pending > 0 ? options->max_pending
                                                 : ZNL_CLUSTER_PENDING_DEFAULT;
    link->max_depth = options->max_depth > 0 ? options->max_depth : ZNL_TRANSCODE_DEPTH_DEFAULT;
    link->max_bytes = options->max_bytes > 0 ? options->max_bytes
                                             : ZNL_CLUSTER_MESSAGE_BYTES_DEFAULT;
    if (link->max_bytes > INT32_MAX)
        link->max_bytes = INT32_MAX; /* as much as a head can say */
    link->reader.max_bytes = link->max_bytes;
    if (link->is_leader && link->reader.max_bytes > ZNL_CLUSTER_UNREGISTERED_BYTES)
        link->reader.max_bytes = ZNL_CLUSTER_UNREGISTERED_BYTES;
    if (!link->is_leader) {
        link->heartbeat_ms = options->heartbeat_ms;
        link->timeout_ms = options->timeout_ms;
    }
    link->last_seen_ms = znl_cluster_now(link);
    link->later.run = on_later;
    *out = link;
    return 0;
}

void znl_cluster_link_close(znl_cluster_link *link, int err)
{
    if (link->is_closed)
        return;
    link->is_closed = 1;
    stop_timers(link);
    znl_cluster_close_pushes(link);
    znl_cluster_close_asks(link, err);
}

void znl_cluster_link_free(znl_cluster_link *link)
{
    if (link == NULL)
        return;
    stop_timers(link);
    znl_packet_reader_fini(&link->reader);
    znl_buffer_fini(&link->scratch);
    znl_buffer_fini(&link->out);
    znl_buffer_fini(&link->held);
    znl_buffer_fini(&link->kept);
    znl_free(link->asks);
    znl_free(link->pushes);
    znl_free(link);
}

/* --- looking ----------------------------------------------------------------------------------------- */

void znl_cluster_link_count(const znl_cluster_link *link, znl_cluster_link_counters *out)
{
    *out = link->counters;
}

uint32_t znl_cluster_link_pending(const znl_cluster_link *link)
{
    return link->ask_count;
}
