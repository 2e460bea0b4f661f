/* micro_asks.c - see micro.h: requests and streams of ours. SPDX-License-Identifier: MIT */
#include "node/micro_parts.h"

#include "base/clock.h"
#include "base/err.h"
#include "codec/json.h"

/* Ids stay below 2^53: so many uses, then the count starts again. */
#define USES ((uint64_t)((ZNL_MODEM_ID_MAX - (int64_t)ZNL_MICRO_ID_BASE) >> ZNL_SLOT_BITS))

struct ask {
    znl_slot slot; /* first */
    znl_timer timer;
    znl_micro *micro;
    znl_waiter waiter;
    int64_t id;
    uint8_t is_stream;
    uint8_t is_credited; /* the peer sends what it is granted */
    uint8_t is_over;     /* only the abort frame is still to be sent */
    uint8_t fill;        /* enum znl_micro_fill */
    uint32_t window;
    uint32_t granted; /* chunks the peer may still send */
    uint32_t owed;    /* chunks taken and not granted again */
    uint32_t untaken; /* chunks handed up */
    size_t untaken_bytes;
    int64_t next_seq;
};

void znl_micro_init_asks(znl_micro *micro, uint32_t limit)
{
    znl_slots_init(&micro->asks, sizeof(struct ask), limit);
}

/* --- ids ------------------------------------------------------------------------------------------- */

int64_t znl_micro_next_id(znl_micro *micro, uint32_t slot)
{
    uint64_t use = micro->uses++ % USES;
    return (int64_t)(ZNL_MICRO_ID_BASE + (use << ZNL_SLOT_BITS | slot));
}

static int is_of_ours(int64_t id)
{
    return id >= (int64_t)ZNL_MICRO_ID_BASE && id < ZNL_MODEM_ID_MAX;
}

/* The request with that id that still waits, or NULL. */
static struct ask *find(const znl_micro *micro, int64_t id)
{
    if (!is_of_ours(id))
        return NULL;
    uint64_t slot = ((uint64_t)id - ZNL_MICRO_ID_BASE) & (ZNL_SLOTS_MAX - 1);
    struct ask *ask = znl_slots_at(&micro->asks, (uint32_t)slot);
    return ask != NULL && ask->id == id && !ask->is_over ? ask : NULL;
}

/* --- the end of one -------------------------------------------------------------------------------- */

/* It waits no more. The slot is still its own. */
static void settle(znl_micro *micro, struct ask *ask)
{
    znl_wheel_stop(znl_loop_wheel(micro->loop), &ask->timer);
    micro->waiting--;
    if (ask->is_stream)
        micro->fills[ask->fill]--;
    znl_micro_pace(micro);
}

static void retire(znl_micro *micro, struct ask *ask)
{
    settle(micro, ask);
    znl_slots_give(&micro->asks, ask);
}

/* Tells the peer that nobody waits any more. ZNL_E_BUSY: later. */
static int send_abort(znl_micro *micro, int64_t target)
{
    znl_buffer *out = znl_micro_compose(micro);
    int err = znl_modem_put_abort(out, znl_micro_next_id(micro, ZNL_SLOTS_MAX - 1), target);
    if (err == 0)
        err = znl_micro_send(micro, out);
    znl_micro_composed(micro);
    return err;
}

static void give_up(znl_micro *micro, struct ask *ask)
{
    settle(micro, ask);
    if (!micro->is_closed && send_abort(micro, ask->id) == ZNL_E_BUSY) {
        ask->is_over = 1;
        micro->has_backlog = 1;
        return;
    }
    znl_slots_give(&micro->asks, ask);
}

static void tell_refused(
        znl_micro *micro, znl_waiter waiter, int is_stream, const znl_micro_refusal *refusal)
{
    if (is_stream)
        micro->events->on_stream_end(micro->user, waiter, refusal);
    else
        micro->events->on_refused(micro->user, waiter, refusal);
}

/* Ends one for a reason of this side. `is_told`: the peer may still be at work on it. */
static void fail(znl_micro *micro, struct ask *ask, int err, int is_told)
{
    const znl_micro_refusal refusal = {.err = err};
    znl_waiter waiter = ask->waiter;
    int is_stream = ask->is_stream;
    if (is_told)
        give_up(micro, ask);
    else
        retire(micro, ask);
    tell_refused(micro, waiter, is_stream, &refusal);
}

static void on_timeout(znl_timer *timer)
{
    struct ask *ask = (struct ask *)(void *)((char *)timer - offsetof(struct ask, timer));
    ask->micro->counters.timeouts++;
    fail(ask->micro, ask, ZNL_E_TIMEOUT, 1);
}

/* --- asking ---------------------------------------------------------------------------------------- */

static int send_request(znl_micro *micro, const znl_modem_request *request)
{
    znl_buffer *out = znl_micro_compose(micro);
    int err = znl_modem_put_request(out, request);
    if (err == 0)
        err = znl_micro_send(micro, out);
    znl_micro_composed(micro);
    return err;
}

/* Sends what `request` says, as one that is answered; `window` 0: no stream. */
static int begin(znl_micro *micro, znl_modem_request *request, uint32_t window,
        uint32_t timeout_ms, znl_waiter waiter, uint64_t *id)
{
    void *item;
    if (micro->is_closed)
        return ZNL_E_CLOSED;
    int err = znl_slots_take(&micro->asks, &item);
    if (err != 0)
        return err;
    struct ask *ask = item;
    ask->micro = micro;
    ask->waiter = waiter;
    ask->id = znl_micro_next_id(micro, ask->slot.index);
    ask->is_stream = window > 0;
    ask->is_credited = ask->is_stream && micro->options.is_ours;
    ask->window = window;
    request->id = ask->id;
    request->is_twoway = 1;
    request->is_stream = ask->is_stream;
    if (ask->is_credited)
        request->credit = ask->granted = window;
    err = send_request(micro, request);
    if (err != 0) {
        znl_slots_give(&micro->asks, ask);
        return err;
    }
    micro->counters.asked++;
    micro->waiting++;
    if (ask->is_stream)
        micro->fills[ZNL_FILL_EMPTY]++;
    if (timeout_ms > 0)
        znl_wheel_start(znl_loop_wheel(micro->loop), &ask->timer,
                znl_clock_mono_ms() + timeout_ms, on_timeout);
    znl_micro_pace(micro);
    *id = (uint64_t)ask->id;
    return 0;
}

int znl_micro_ask(znl_micro *micro, znl_frame url, znl_frame data, uint32_t timeout_ms,
        int tells_deadline, znl_waiter waiter, uint64_t *id)
{
    znl_modem_request request = {.url = url,
            .data = data,
            .deadline_ms = tells_deadline && micro->options.is_ours ? timeout_ms : 0};
    return begin(micro, &request, 0, timeout_ms, waiter, id);
}

int znl_micro_ask_stream(znl_micro *micro, znl_frame url, znl_frame data, uint32_t window,
        uint32_t timeout_ms, znl_waiter waiter, uint64_t *id)
{
    znl_modem_request request = {.url = url, .data = data};
    return begin(micro, &request, window > 0 ? window : 1, timeout_ms, waiter, id);
}

int znl_micro_push(znl_micro *micro, znl_frame url, znl_frame data)
{
    if (micro->is_closed)
        return ZNL_E_CLOSED;
    const znl_modem_request request = {
            .id = znl_micro_next_id(micro, ZNL_SLOTS_MAX - 1), .url = url, .data = data};
    return send_request(micro, &request);
}

void znl_micro_abort(znl_micro *micro, uint64_t id)
{
    struct ask *ask = id <= INT64_MAX ? find(micro, (int64_t)id) : NULL;
    if (ask != NULL && !micro->is_closed)
        give_up(micro, ask);
}

/* --- answers --------------------------------------------------------------------------------------- */

/* True for a status that is the number 200. */
static int is_fine(znl_frame status)
{
    int64_t number;
    return status.size > 0 && znl_modem_integer(status, &number) && number == 200;
}

/* Hands up what the peer refused with; the request is over by then. `text_of` is JSON, a string mostly. */
static void tell_remote(
        znl_micro *micro, znl_waiter waiter, int is_stream, znl_frame status, znl_frame text_of)
{
    znl_micro_refusal refusal = {
            .is_remote = 1, .err = ZNL_E_FAILED, .is_number = 1, .number = 500};
    znl_buffer status_scratch = {0}, text_scratch = {0};
    znl_json_reader reader;
    int is_integer;
    int64_t integer;
    znl_json_begin(&reader, status, 1);
    if (znl_modem_text(status, &status_scratch, &refusal.status) == 0)
        refusal.is_number = 0;
    else if (status.size == 0 || znl_json_peek(&reader) != ZNL_JSON_NUMBER ||
            znl_json_number(&reader, &refusal.number, &is_integer, &integer) != 0)
        refusal.number = 500; /* an error without a usable status */
    if (text_of.size > 0 && znl_modem_text(text_of, &text_scratch, &refusal.text) != 0 &&
            is_stream)
        refusal.text = text_of;
    tell_refused(micro, waiter, is_stream, &refusal);
    znl_buffer_fini(&status_scratch);
    znl_buffer_fini(&text_scratch);
}

/* How full a stream is now. What a peer of ours may send is bounded in number by its credit. */
static enum znl_micro_fill fill_of(const struct ask *ask)
{
    uint64_t count = ask->is_credited ? 0 : ask->untaken;
    if (count >= (uint64_t)ask->window * ZNL_MICRO_OVERFULL ||
            ask->untaken_bytes >= (size_t)4 * ZNL_MICRO_STREAM_BYTES)
        return ZNL_FILL_OVERFULL;
    if (count >= ask->window || ask->untaken_bytes >= ZNL_MICRO_STREAM_BYTES)
        return ZNL_FILL_FULL;
    /* Once full, reading goes on when half of it is gone. */
    if (ask->fill >= ZNL_FILL_FULL &&
            (count > ask->window / 2 || ask->untaken_bytes > ZNL_MICRO_STREAM_BYTES / 2))
        return ZNL_FILL_FULL;
    return ask->untaken > 0 ? ZNL_FILL_SOME : ZNL_FILL_EMPTY;
}

static void refill(znl_micro *micro, struct ask *ask)
{
    enum znl_micro_fill fill = fill_of(ask);
    if (fill == ask->fill)
        return;
    micro->fills[ask->fill]--;
    micro->fills[fill]++;
    ask->fill = (uint8_t)fill;
    znl_micro_pace(micro);
}

static void take_chunk(znl_micro *micro, struct ask *ask, const znl_modem *frame)
{
    static const char nothing[] = "\"Empty chunk data\"";
    znl_waiter waiter = ask->waiter;
    int64_t seq;
    int is_final = znl_modem_is_true(frame->final);
    if (!frame->has_object) {
        give_up(micro, ask);
        tell_remote(micro, waiter, 1, znl_frame_text("404"), znl_frame_text(nothing));
    } else if (!is_fine(frame->status)) {
        /* An error may carry any number (spec, section 6). */
        if (is_final)
            retire(micro, ask);
        else
            give_up(micro, ask);
        tell_remote(micro, waiter, 1, frame->status, frame->payload);
    } else if (!znl_modem_integer(frame->seq, &seq) || seq != ask->next_seq ||
            (!is_final && ask->is_credited && ask->granted == 0)) {
        fail(micro, ask, ZNL_E_PROTO, 1); /* a chunk is missing, or was not granted */
    } else if (is_final) {
        retire(micro, ask);
        micro->events->on_stream_end(micro->user, waiter, NULL);
    } else {
        micro->counters.chunks++;
        ask->next_seq++;
        ask->untaken++;
        ask->untaken_bytes += frame->payload.size;
        ask->granted -= ask->is_credited;
        refill(micro, ask);
        micro->events->on_chunk(micro->user, waiter, frame->payload);
    }
}

void znl_micro_take_response(znl_micro *micro, const znl_modem *frame)
{
    struct ask *ask = frame->has_id ? find(micro, frame->id) : NULL;
    if (ask == NULL) {
        if (frame->has_id && is_of_ours(frame->id))
            micro->counters.late++;
        else
            micro->counters.unknown++;
        return;
    }
    znl_waiter waiter = ask->waiter;
    int is_stream = ask->is_stream;
    if (frame->is_stream && is_stream) {
        take_chunk(micro, ask, frame);
    } else if (!frame->has_object || frame->is_stream) {
        fail(micro, ask, ZNL_E_PROTO,
                frame->is_stream); /* chunks go on until they are aborted */
    } else if (!is_fine(frame->status)) {
        retire(micro, ask);
        tell_remote(micro, waiter, is_stream, frame->status, frame->message);
    } else if (is_stream) {
        fail(micro, ask, ZNL_E_UNSUPPORTED, 0); /* v1 answers as if no stream were asked for */
    } else {
        micro->counters.answers++;
        retire(micro, ask);
        micro->events->on_answer(micro->user, waiter, frame->body);
    }
}

void znl_micro_fail_response(znl_micro *micro, const znl_modem *frame, int err)
{
    struct ask *ask = frame->has_id ? find(micro, frame->id) : NULL;
    if (ask != NULL)
        fail(micro, ask, err, ask->is_stream);
}

/* --- credit ---------------------------------------------------------------------------------------- */

static int send_grant(znl_micro *micro, struct ask *ask)
{
    znl_buffer *out = znl_micro_compose(micro);
    int err = znl_modem_put_grant(
            out, znl_micro_next_id(micro, ZNL_SLOTS_MAX - 1), ask->id, ask->owed);
    if (err == 0)
        err = znl_micro_send(micro, out);
    znl_micro_composed(micro);
    if (err == 0) {
        ask->granted += ask->owed;
        ask->owed = 0;
    } else {
        micro->has_backlog = 1;
    }
    return err;
}

void znl_micro_took(znl_micro *micro, uint64_t id, uint32_t count)
{
    struct ask *ask = id <= INT64_MAX ? find(micro, (int64_t)id) : NULL;
    if (ask == NULL || !ask->is_stream || micro->is_closed)
        return;
    if (count > ask->untaken)
        count = ask->untaken;
    if (count == 0)
        return;
    /* Their sizes are not known any more: each counts for the average. */
    ask->untaken_bytes -= ask->untaken_bytes / ask->untaken * count;
    ask->untaken -= count;
    if (ask->untaken == 0)
        ask->untaken_bytes = 0;
    if (ask->is_credited) {
        ask->owed += count;
        if (ask->owed >= (ask->window + 1) / 2)
            send_grant(micro, ask);
    }
    refill(micro, ask);
}

/* --- later, and the end ---------------------------------------------------------------------------- */

int znl_micro_flush_asks(znl_micro *micro)
{
    struct ask *ask = znl_slots_from(&micro->asks, 0);
    while (ask != NULL) {
        uint32_t next = ask->slot.index + 1;
        if (ask->is_over) {
            if (send_abort(micro, ask->id) == ZNL_E_BUSY)
                return ZNL_E_BUSY;
            znl_slots_give(&micro->asks, ask);
        } else if (ask->owed >= (ask->window + 1) / 2 && ask->is_credited &&
                send_grant(micro, ask) != 0) {
            return ZNL_E_BUSY;
        }
        ask = znl_slots_from(&micro->asks, next);
    }
    return 0;
}

void znl_micro_leave(znl_micro *micro)
{
    if (micro->is_closed)
        return;
    struct ask *ask;
    uint32_t next = 0;
    while ((ask = znl_slots_from(&micro->asks, next)) != NULL) {
        next = ask->slot.index + 1;
        if (send_abort(micro, ask->id) != 0)
            return; /* no room, no connection: the peer gets no further either */
    }
}

void znl_micro_close_asks(znl_micro *micro, int err)
{
    struct ask *ask;
    uint32_t next = 0;
    while ((ask = znl_slots_from(&micro->asks, next)) != NULL) {
        next = ask->slot.index + 1;
        if (ask->is_over)
            znl_slots_give(&micro->asks, ask);
        else
            fail(micro, ask, err, 0);
    }
}
