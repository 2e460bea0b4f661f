/* micro.c - see micro.h: life of a connection, frames in, heartbeats. SPDX-License-Identifier: MIT */
#include "node/micro_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/random.h"

#include <stdio.h>

#define SCRATCH_KEPT                                                                           \
    (64u * 1024) /* bytes; a frame beyond is put together in memory of its own */

/* --- frames out ------------------------------------------------------------------------------------ */

int znl_micro_send(znl_micro *micro, const znl_buffer *out)
{
    int err = micro->carrier->send(micro->carrier_user, out->data, out->size);
    if (err == 0)
        micro->counters.sent++;
    return err;
}

void znl_micro_composed(znl_micro *micro)
{
    if (micro->options.scratch != NULL)
        znl_buffer_trim(micro->options.scratch, SCRATCH_KEPT);
    else
        znl_buffer_fini(&micro->own);
}

void znl_micro_pace(znl_micro *micro)
{
    /* While something else is waited for, it may stand behind the chunks in the socket: not reading them
     * would wait for ever. So only the larger limit counts then. */
    int is_awaited = micro->waiting > micro->fills[ZNL_FILL_SOME] +
                            micro->fills[ZNL_FILL_FULL] + micro->fills[ZNL_FILL_OVERFULL] ||
            micro->credit_waits > 0;
    int on = !micro->is_closed &&
            (micro->fills[ZNL_FILL_OVERFULL] > 0 ||
                    (micro->fills[ZNL_FILL_FULL] > 0 && !is_awaited));
    if (on == micro->is_paused)
        return;
    micro->is_paused = on;
    if (!on) /* its heartbeats could not be read */
        micro->last_beat_ms = micro->last_seen_ms = znl_micro_now(micro);
    if (!micro->is_closed)
        micro->carrier->pause(micro->carrier_user, on);
}

/* --- heartbeats (spec, sections 8 and 23) ---------------------------------------------------------- */

static void send_heartbeat(znl_micro *micro)
{
    const znl_modem_request heartbeat = {.id = znl_micro_next_id(micro, ZNL_SLOTS_MAX - 1),
            .url = znl_frame_text("/-/heartbeat"),
            .data = znl_frame_text("{}")};
    znl_buffer *out = znl_micro_compose(micro);
    int err = znl_modem_put_request(out, &heartbeat);
    if (err == 0)
        err = znl_micro_send(micro, out);
    znl_micro_composed(micro);
    micro->owes_heartbeat = err == ZNL_E_BUSY;
}

void znl_micro_beaten(znl_micro *micro)
{
    micro->counters.heartbeats++;
    micro->has_beaten = 1;
    micro->last_beat_ms = znl_micro_now(micro);
}

/* True when the peer has been silent for too long. One that has sent heartbeats has to go on with them. Of
 * any other, such as a v1 peer, every frame and every pong counts, and it is pinged when it is quiet. */
static int is_silent(znl_micro *micro, uint64_t now_ms)
{
    uint32_t timeout_ms = micro->options.heartbeat_timeout_ms;
    if (micro->is_paused)
        return 0;
    if (micro->options.strict_heartbeat || micro->has_beaten)
        return now_ms - micro->last_beat_ms > timeout_ms;
    uint64_t quiet_ms = now_ms - micro->last_seen_ms;
    /* A check that came late may be the first to notice: who was not asked has not failed to answer. */
    if (quiet_ms > timeout_ms && micro->asked_ms > micro->last_seen_ms &&
            micro->asked_ms < now_ms)
        return 1;
    if (quiet_ms >= (uint64_t)timeout_ms * 3 / 4) {
        micro->asked_ms = now_ms;
        micro->carrier->ping(micro->carrier_user);
    }
    return 0;
}

static void on_timer(znl_timer *timer);

static void plan(znl_micro *micro)
{
    micro->planned_ms = micro->next_beat_ms < micro->next_check_ms ? micro->next_beat_ms
                                                                   : micro->next_check_ms;
    if (micro->planned_ms != UINT64_MAX)
        znl_wheel_start(
                znl_loop_wheel(micro->loop), &micro->timer, micro->planned_ms, on_timer);
}

static void on_timer(znl_timer *timer)
{
    znl_micro *micro = (znl_micro *)(void *)((char *)timer - offsetof(znl_micro, timer));
    uint64_t now_ms = znl_micro_now(micro);
    int has_gone = 0;
    if (micro->is_flooded) {
        micro->events->on_flooded(micro->user);
        return;
    }
    if (now_ms >= micro->next_beat_ms) {
        send_heartbeat(micro);
        micro->next_beat_ms = now_ms + micro->options.heartbeat_ms;
    }
    if (now_ms >= micro->next_check_ms) {
        /* After a stall of this process heartbeats may wait in the socket: they get a turn first. */
        int is_late = now_ms - micro->planned_ms >= micro->options.heartbeat_check_ms;
        has_gone = !is_late && is_silent(micro, now_ms);
        micro->next_check_ms = has_gone ? UINT64_MAX
                                        : now_ms + micro->options.heartbeat_check_ms;
    }
    plan(micro);
    if (has_gone)
        micro->events->on_silent(micro->user);
}

void znl_micro_flooded(znl_micro *micro)
{
    if (micro->is_flooded)
        return;
    micro->is_flooded = 1;
    znl_wheel_start(znl_loop_wheel(micro->loop), &micro->timer, znl_micro_now(micro), on_timer);
}

static void start_heartbeats(znl_micro *micro)
{
    uint64_t now_ms = znl_micro_now(micro);
    const znl_micro_options *options = &micro->options;
    micro->last_beat_ms = micro->last_seen_ms = now_ms;
    micro->next_beat_ms = options->heartbeat_ms > 0 ? now_ms + options->heartbeat_ms
                                                    : UINT64_MAX;
    micro->next_check_ms = options->heartbeat_timeout_ms > 0
            ? now_ms + options->heartbeat_check_ms
            : UINT64_MAX;
    plan(micro);
}

/* --- life ------------------------------------------------------------------------------------------ */

int znl_micro_new(znl_micro **out, znl_loop *loop, const znl_micro_options *options,
        const znl_micro_carrier *carrier, void *carrier_user, const znl_micro_events *events,
        void *user)
{
    znl_micro *micro = znl_calloc(1, sizeof *micro);
    if (micro == NULL)
        return ZNL_E_NOMEM;
    micro->loop = loop;
    micro->options = *options;
    if (micro->options.heartbeat_check_ms == 0)
        micro->options.heartbeat_check_ms = ZNL_MICRO_HEARTBEAT_CHECK_MS;
    if (micro->options.max_held_bytes == 0)
        micro->options.max_held_bytes = ZNL_STREAM_QUEUE_BYTES_DEFAULT;
    micro->carrier = carrier;
    micro->carrier_user = carrier_user;
    micro->events = events;
    micro->user = user;
    micro->multiplier = znl_random_u64() | 1;
    /* The last slot stands for frames that nothing answers. */
    uint32_t limit = options->max_pending;
    znl_micro_init_asks(micro, limit > 0 && limit < ZNL_SLOTS_MAX ? limit : ZNL_SLOTS_MAX - 1);
    znl_micro_init_jobs(micro, options->max_jobs > 0 ? options->max_jobs : ZNL_SLOTS_MAX);
    start_heartbeats(micro);
    *out = micro;
    return 0;
}

void znl_micro_close(znl_micro *micro, int err)
{
    if (micro->is_closed)
        return;
    micro->is_closed = 1;
    znl_wheel_stop(znl_loop_wheel(micro->loop), &micro->timer);
    znl_micro_close_asks(micro, err);
    znl_micro_close_jobs(micro);
}

void znl_micro_free(znl_micro *micro)
{
    if (micro == NULL)
        return;
    znl_wheel_stop(znl_loop_wheel(micro->loop), &micro->timer);
    znl_slots_fini(&micro->asks);
    znl_slots_fini(&micro->jobs);
    znl_free(micro->buckets);
    znl_buffer_fini(&micro->own);
    znl_free(micro);
}

/* --- frames in ------------------------------------------------------------------------------------- */

/* Nested too deeply: whoever waits for an answer gets one, as far as it is known by then. */
static void refuse_deep(znl_micro *micro, const znl_modem *frame)
{
    char text[64];
    micro->counters.malformed++;
    if (frame->mode == ZNL_MODEM_RESPONSE) {
        znl_micro_fail_response(micro, frame, ZNL_E_LIMIT);
    } else if (frame->is_twoway && frame->has_id) {
        snprintf(text, sizeof text, "data nested deeper than %u levels",
                (unsigned)micro->options.max_depth);
        const znl_micro_refusal refusal = {.err = ZNL_E_LIMIT, .text = znl_frame_text(text)};
        znl_micro_refuse_frame(micro, frame, &refusal);
    }
}

void znl_micro_receive(znl_micro *micro, const void *text, size_t size)
{
    znl_modem frame;
    if (micro->is_closed)
        return;
    micro->counters.received++;
    micro->last_seen_ms = znl_micro_now(micro);
    int err = znl_modem_read(&frame, znl_frame_of(text, size), micro->options.max_depth);
    if (err == ZNL_E_LIMIT) {
        refuse_deep(micro, &frame);
        return;
    }
    if (err != 0) {
        micro->counters.malformed++;
        return;
    }
    switch (frame.mode) {
    case ZNL_MODEM_REQUEST:
        znl_micro_take_request(micro, &frame);
        break;
    case ZNL_MODEM_RESPONSE:
        znl_micro_take_response(micro, &frame);
        break;
    case ZNL_MODEM_ABORT:
        znl_micro_take_abort(micro, &frame);
        break;
    default:
        znl_micro_take_grant(micro, &frame);
        break;
    }
}

void znl_micro_ponged(znl_micro *micro)
{
    micro->last_seen_ms = znl_micro_now(micro);
}

void znl_micro_writable(znl_micro *micro)
{
    if (micro->is_closed)
        return;
    if (micro->owes_heartbeat)
        send_heartbeat(micro);
    if (micro->owes_heartbeat || !micro->has_backlog)
        return;
    micro->has_backlog = 0;
    if (znl_micro_flush_asks(micro) != 0 || znl_micro_flush_jobs(micro) != 0)
        micro->has_backlog = 1;
}

/* --- looking --------------------------------------------------------------------------------------- */

void znl_micro_count(const znl_micro *micro, znl_micro_counters *out)
{
    *out = micro->counters;
}

uint32_t znl_micro_pending(const znl_micro *micro)
{
    return micro->waiting;
}

uint32_t znl_micro_jobs(const znl_micro *micro)
{
    return micro->jobs.count;
}
