/* cluster_stage.c - see cluster_stage.h. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/cluster_stage.h"

#include "base/clock.h"
#include "base/err.h"

znl_loop *stage_loop;
stage_end stage_leader, stage_follower;
znl_cluster_link_options stage_options;

/* --- the carrier ------------------------------------------------------------------------------------- */

static int carrier_reserve(void *carrier, size_t size, uint8_t **at)
{
    stage_end *end = carrier;
    if (end->fails_reserve) {
        end->fails_reserve = 0;
        return ZNL_E_NOMEM;
    }
    if (end->room > 0 && end->sent.size > 0 && end->sent.size + size > end->room)
        return ZNL_E_BUSY;
    int err = znl_buffer_extend(&end->sent, size);
    if (err != 0)
        return err;
    *at = end->sent.data + end->sent.size;
    return 0;
}

static void carrier_commit(void *carrier, size_t size)
{
    ((stage_end *)carrier)->sent.size += size;
}

static size_t carrier_queued(void *carrier)
{
    return ((stage_end *)carrier)->sent.size;
}

static void carrier_await(void *carrier, size_t below)
{
    ((stage_end *)carrier)->awaited = below;
}

const znl_cluster_carrier stage_carrier = {
        carrier_reserve, carrier_commit, carrier_queued, carrier_await};

/* --- what is reported -------------------------------------------------------------------------------- */

static void hear(stage_end *end, const char *event, const char *format, ...)
{
    char line[600];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    assert_in_range(size, 0, sizeof line - 2);
    strcat(line, "\n");
    assert_int_equal(znl_buffer_append(&end->heard, event, strlen(event)), 0);
    assert_int_equal(znl_buffer_append(&end->heard, line, strlen(line)), 0);
    if (end->react != NULL)
        end->react(end, event);
}

static int shown(znl_frame frame)
{
    return (int)(frame.size < 100 ? frame.size : 100);
}

static void on_request(void *user, const znl_cluster_request *request)
{
    static const char *const names[] = {[ZNL_CLUSTER_REGISTER] = "register",
            [ZNL_CLUSTER_SUBSCRIBE] = "subscribe",
            [ZNL_CLUSTER_UNSUBSCRIBE] = "unsubscribe",
            [ZNL_CLUSTER_VALUE] = "value",
            [ZNL_CLUSTER_INVOKE] = "invoke",
            [ZNL_CLUSTER_CANCEL] = "cancel"};
    stage_end *end = user;
    const znl_cluster_message *message = request->message;
    znl_frame subject = message->kind == ZNL_CLUSTER_REGISTER ? message->channel
            : message->kind == ZNL_CLUSTER_INVOKE             ? message->method
                                                              : message->key;
    end->last_id = request->id;
    end->last_timeout_ms = request->timeout_ms;
    hear(end, names[message->kind], " %.*s%s%.*s", shown(subject), (const char *)subject.data,
            request->data.size > 0 ? " " : "", shown(request->data),
            (const char *)request->data.data);
    if (end->answer.kind != ZNL_CLUSTER_UNKNOWN)
        znl_cluster_link_answer(end->link, request->id, request->timeout_ms, &end->answer,
                request->data.size > 0 ? request->data : znl_frame_text("^^^^-5"));
}

static void on_answer(
        void *user, znl_waiter waiter, const znl_cluster_message *message, znl_frame data)
{
    assert_ptr_equal(waiter.owner, user);
    hear(user, "answer", " %u %s %.*s", (unsigned)waiter.ticket,
            message->kind != ZNL_CLUSTER_RESULT ? "other"
                    : message->is_success       ? "success"
                                                : "failure",
            shown(data), (const char *)data.data);
}

static void on_failed(void *user, znl_waiter waiter, int err)
{
    assert_ptr_equal(waiter.owner, user);
    hear(user, "failed", " %u %s", (unsigned)waiter.ticket, znl_err_code(err));
}

static void on_broken(void *user, int err, const char *text)
{
    hear(user, "broken", " %s %s", znl_err_code(err), text);
}

const znl_cluster_link_events stage_events = {on_request, on_answer, on_failed, on_broken};

/* --- the stage --------------------------------------------------------------------------------------- */

static void init_end(stage_end *end)
{
    memset(end, 0, sizeof *end);
    end->awaited = SIZE_MAX;
}

static void fini_end(stage_end *end)
{
    end->react = NULL;
    if (end->link != NULL)
        znl_cluster_link_close(end->link, ZNL_E_CLOSED);
    znl_cluster_link_free(end->link);
    znl_buffer_fini(&end->sent);
    znl_buffer_fini(&end->heard);
}

int stage_prepare(void **state)
{
    (void)state;
    init_end(&stage_leader);
    init_end(&stage_follower);
    stage_options = (znl_cluster_link_options){.max_depth = 16};
    znl_clock_freeze(1000);
    return znl_loop_new(&stage_loop);
}

int stage_clear(void **state)
{
    (void)state;
    fini_end(&stage_leader);
    fini_end(&stage_follower);
    assert_int_equal(znl_loop_wheel(stage_loop)->count, 0);
    assert_int_equal(znl_loop_close(stage_loop), 0);
    znl_clock_thaw();
    return 0;
}

void stage_open(stage_end *end)
{
    stage_options.is_leader = end == &stage_leader;
    assert_int_equal(znl_cluster_link_new(&end->link, stage_loop, &stage_options,
                             &stage_carrier, end, &stage_events, end),
            0);
}

void stage_open_both(void)
{
    stage_open(&stage_leader);
    stage_open(&stage_follower);
    znl_cluster_link_configure(stage_leader.link, stage_options.heartbeat_ms, 1);
}

void stage_receive(stage_end *end, const void *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    assert_non_null(copy);
    memcpy(copy, data, size);
    znl_cluster_link_receive(end->link, copy, size);
    free(copy);
}

void stage_receive_packet(stage_end *end, int is_response, int64_t id, int32_t timeout_ms,
        const char *text, const char *data)
{
    size_t text_size = strlen(text), data_size = data != NULL ? strlen(data) : 0;
    znl_buffer packet = {0};
    assert_int_equal(
            znl_buffer_extend(&packet, ZNL_PACKET_HEAD_BYTES + text_size + data_size), 0);
    znl_packet_put_head(
            packet.data, is_response, id, timeout_ms, (uint32_t)text_size, (uint32_t)data_size);
    packet.size = ZNL_PACKET_HEAD_BYTES;
    znl_buffer_append(&packet, text, text_size);
    znl_buffer_append(&packet, data, data_size);
    stage_receive(end, packet.data, packet.size);
    znl_buffer_fini(&packet);
}

size_t stage_deliver(stage_end *from, stage_end *to, size_t piece)
{
    znl_buffer moved = from->sent;
    from->sent = (znl_buffer){0};
    for (size_t at = 0; at < moved.size;) {
        size_t size = piece > 0 && piece < moved.size - at ? piece : moved.size - at;
        stage_receive(to, moved.data + at, size);
        at += size;
    }
    size_t size = moved.size;
    znl_buffer_fini(&moved);
    return size;
}

void stage_pump(void)
{
    while (stage_deliver(&stage_follower, &stage_leader, 0) +
                    stage_deliver(&stage_leader, &stage_follower, 0) >
            0)
        continue;
}

void stage_pass(uint64_t ms)
{
    while (ms > 0) {
        uint64_t step = ms < 10 ? ms : 10;
        znl_clock_advance(step);
        znl_loop_clock_changed(stage_loop);
        znl_wheel_advance(znl_loop_wheel(stage_loop), znl_loop_now_ms(stage_loop));
        ms -= step;
    }
}

void stage_turn(void)
{
    znl_loop_run(stage_loop);
}

const char *stage_next_sent(stage_end *end)
{
    static char text[1024];
    znl_packet_reader reader = {.max_bytes = SIZE_MAX};
    znl_packet packet;
    if (end->sent.size == 0)
        return "(nothing)";
    znl_packet_feed(&reader, end->sent.data, end->sent.size);
    assert_int_equal(znl_packet_next(&reader, &packet), 1);
    snprintf(text, sizeof text, "%s %lld %d %.*s%s%.*s",
            packet.is_response ? "response" : "request", (long long)packet.id,
            (int)packet.timeout_ms, (int)packet.text.size, (const char *)packet.text.data,
            packet.data.size > 0 ? " " : "", shown(packet.data),
            (const char *)packet.data.data);
    memmove(end->sent.data, reader.at, reader.left);
    end->sent.size = reader.left;
    znl_packet_reader_fini(&reader);
    return text;
}

const char *stage_heard(stage_end *end)
{
    static char text[8192];
    assert_in_range(end->heard.size, 0, sizeof text - 1);
    if (end->heard.size > 0)
        memcpy(text, end->heard.data, end->heard.size);
    text[end->heard.size] = 0;
    end->heard.size = 0;
    return text;
}

znl_cluster_link_counters stage_count(const stage_end *end)
{
    znl_cluster_link_counters counters;
    znl_cluster_link_count(end->link, &counters);
    return counters;
}

int64_t stage_invoke(stage_end *end, const char *method, const char *data, uint32_t timeout_ms,
        uint64_t ticket)
{
    const znl_cluster_message message = {
            .kind = ZNL_CLUSTER_INVOKE, .method = znl_frame_text(method)};
    int64_t id = 0;
    assert_int_equal(znl_cluster_link_ask(end->link, &message, znl_frame_text(data), timeout_ms,
                             (znl_waiter){end, ticket}, &id),
            0);
    return id;
}
