/* websocket.c - see websocket.h. SPDX-License-Identifier: MIT */
#include "transport/websocket.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "codec/websocket_reader.h"
#include "transport/websocket_handshake.h"

#include <stdio.h>

/* Messages handed on before the other connections and timers have a turn. */
#define TURN_MESSAGES (ZNL_BATCH_MESSAGES * ZNL_BATCH_ROUNDS)
#define TEXT_BYTES 160u /* of what went wrong; a close reason fits */

typedef enum ws_state { CONNECTING, OPEN, CLOSING, CLOSED } ws_state;

/* What a client keeps until the server has answered. */
typedef struct ws_opening {
    char key[ZNL_WS_KEY_CHARS + 1];
    char *protocols;
    znl_buffer request;
    znl_buffer answer;
} ws_opening;

/* Control frames that found the queue full: the last pong, which is all a peer needs (section 5.5.3), and
 * the close frame. */
typedef struct control_frame {
    int is_waiting;
    size_t size;
    uint8_t payload[ZNL_WS_CONTROL_BYTES_MAX];
} control_frame;

typedef struct controls {
    control_frame pong;
    control_frame close;
} controls;

struct znl_ws {
    znl_loop *loop;
    znl_stream *stream;
    const znl_ws_events *events;
    void *user;
    znl_ws_reader reader;
    ws_opening *opening;
    controls *waiting;
    znl_deferred later; /* reads what was kept; or gives on_close */
    znl_timer timer;    /* until it must be open; until it must be closed */
    uint32_t close_ms;
    uint8_t state; /* ws_state */
    uint8_t is_client;
    uint8_t is_paused;      /* by the owner */
    uint8_t is_holding;     /* bytes are kept that were not read yet */
    uint8_t is_busy;        /* calling the owner, or reading: must not be freed */
    uint8_t is_dropped;     /* meanwhile */
    uint8_t is_cancelled;   /* on_close is due */
    uint8_t wants_writable; /* the owner's send found the queue full */
    uint8_t has_closed;     /* a close frame is on its way */
};

/* --- life -------------------------------------------------------------------------------------- */

static void opening_free(ws_opening *opening)
{
    if (opening == NULL)
        return;
    znl_free(opening->protocols);
    znl_buffer_fini(&opening->request);
    znl_buffer_fini(&opening->answer);
    znl_free(opening);
}

static void ws_free(znl_ws *ws)
{
    opening_free(ws->opening);
    znl_free(ws->waiting);
    znl_ws_reader_fini(&ws->reader);
    znl_free(ws);
}

/* Between the two the owner may drop it. leave() is true when that has happened: it is gone. */
static void enter(znl_ws *ws)
{
    ws->is_busy = 1;
}

static int leave(znl_ws *ws)
{
    ws->is_busy = 0;
    if (!ws->is_dropped)
        return 0;
    ws_free(ws);
    return 1;
}

void znl_ws_drop(znl_ws *ws, uint32_t linger_ms)
{
    if (ws == NULL)
        return;
    if (ws->has_closed && linger_ms < ws->close_ms)
        linger_ms = ws->close_ms;
    znl_wheel_stop(znl_loop_wheel(ws->loop), &ws->timer);
    znl_loop_undefer(ws->loop, &ws->later);
    znl_stream_close(ws->stream, linger_ms);
    ws->stream = NULL;
    ws->state = CLOSED;
    if (ws->is_busy)
        ws->is_dropped = 1;
    else
        ws_free(ws);
}

/* The owner may drop it in here: callers do nothing after it, or are between enter() and leave(). */
static void finish(znl_ws *ws, int err, uint16_t code, const char *text)
{
    if (ws->state == CLOSED)
        return;
    ws->state = CLOSED;
    znl_wheel_stop(znl_loop_wheel(ws->loop), &ws->timer);
    znl_loop_undefer(ws->loop, &ws->later);
    ws->events->on_close(ws->user, err, code, text);
}

/* --- writing ----------------------------------------------------------------------------------- */

static int send_frame(znl_ws *ws, unsigned opcode, const void *data, size_t size)
{
    uint8_t *at = NULL;
    int err = size <= SIZE_MAX - ZNL_WS_HEAD_BYTES_MAX
            ? znl_stream_reserve(ws->stream, ZNL_WS_HEAD_BYTES_MAX + size, &at)
            : ZNL_E_NOMEM;
    if (err != 0)
        return err;
    znl_ws_head head = {.opcode = (uint8_t)opcode, .is_final = 1, .size = size};
    if (ws->is_client) {
        head.is_masked = 1;
        head.mask = (uint32_t)znl_random_u64(); /* unpredictable: section 10.3 */
    }
    size_t lead = znl_ws_head_write(at, &head);
    if (ws->is_client)
        znl_ws_mask_copy(at + lead, data, size, head.mask);
    else if (size > 0)
        memcpy(at + lead, data, size);
    znl_stream_commit(ws->stream, lead + size);
    return 0;
}

/* Sends it now, or when there is room. Without memory, or to a peer that has gone, it is not sent: then
 * the timer or the stream ends the connection. */
static void send_control(znl_ws *ws, unsigned opcode, const void *data, size_t size)
{
    if (send_frame(ws, opcode, data, size) != ZNL_E_BUSY)
        return;
    if (ws->waiting == NULL)
        ws->waiting = znl_calloc(1, sizeof *ws->waiting);
    if (ws->waiting == NULL)
        return;
    control_frame *frame = opcode == ZNL_WS_CLOSE ? &ws->waiting->close : &ws->waiting->pong;
    frame->is_waiting = 1;
    frame->size = size;
    if (size > 0)
        memcpy(frame->payload, data, size);
}

static void send_waiting(znl_ws *ws)
{
    controls *waiting = ws->waiting;
    if (waiting == NULL)
        return;
    ws->waiting = NULL;
    if (waiting->pong.is_waiting && !waiting->close.is_waiting)
        send_control(ws, ZNL_WS_PONG, waiting->pong.payload, waiting->pong.size);
    if (waiting->close.is_waiting)
        send_control(ws, ZNL_WS_CLOSE, waiting->close.payload, waiting->close.size);
    znl_free(waiting);
}

static void send_close(znl_ws *ws, uint16_t code, znl_frame reason)
{
    uint8_t payload[ZNL_WS_CONTROL_BYTES_MAX];
    size_t size = znl_ws_close_write(payload, code, reason);
    ws->has_closed = 1;
    send_control(ws, ZNL_WS_CLOSE, payload, size);
}

int znl_ws_send(znl_ws *ws, int is_text, const void *data, size_t size)
{
    if (ws->state != OPEN)
        return ZNL_E_CLOSED;
    int err = send_frame(ws, is_text ? ZNL_WS_TEXT : ZNL_WS_BINARY, data, size);
    if (err == ZNL_E_BUSY)
        ws->wants_writable = 1;
    return err;
}

int znl_ws_ping(znl_ws *ws)
{
    if (ws->state != OPEN)
        return ZNL_E_CLOSED;
    return send_frame(ws, ZNL_WS_PING, NULL, 0);
}

static void on_stream_writable(void *user)
{
    znl_ws *ws = user;
    send_waiting(ws);
    if (ws->state != OPEN || !ws->wants_writable)
        return;
    ws->wants_writable = 0;
    if (ws->events->on_writable != NULL)
        ws->events->on_writable(ws->user);
}

/* --- reading ----------------------------------------------------------------------------------- */

/* While it closes, only the peer's close frame matters: the owner's pause ends. */
static int is_stopped(const znl_ws *ws)
{
    return ws->is_paused && ws->state == OPEN;
}

static void fail(znl_ws *ws, int err, uint16_t code, const char *text)
{
    if (ws->state == OPEN)
        send_close(ws, code, (znl_frame){NULL, 0});
    finish(ws, err, 0, text);
}

static void closed_by_peer(znl_ws *ws, const znl_ws_item *item)
{
    char reason[ZNL_WS_CONTROL_BYTES_MAX + 1];
    snprintf(reason, sizeof reason, "%.*s", (int)item->size, (const char *)item->data);
    if (ws->state == OPEN)
        send_close(ws, item->code, (znl_frame){NULL, 0});
    finish(ws, 0, item->code, reason);
}

static void take(znl_ws *ws, const znl_ws_item *item)
{
    switch (item->opcode) {
    case ZNL_WS_CLOSE:
        closed_by_peer(ws, item);
        break;
    case ZNL_WS_PING:
        if (ws->state == OPEN)
            send_control(ws, ZNL_WS_PONG, item->data, item->size);
        break;
    case ZNL_WS_PONG:
        if (ws->state == OPEN && ws->events->on_pong != NULL)
            ws->events->on_pong(ws->user);
        break;
    default:
        if (ws->state == OPEN)
            ws->events->on_message(
                    ws->user, item->data, item->size, item->opcode == ZNL_WS_TEXT);
        break;
    }
}

/* Reads what was fed or kept. The owner may drop the connection in here. */
static void read_on(znl_ws *ws)
{
    enter(ws);
    int got = 1;
    for (size_t count = 0; count < TURN_MESSAGES && !is_stopped(ws); count++) {
        znl_ws_item item;
        got = znl_ws_reader_next(&ws->reader, &item);
        if (got < 0)
            fail(ws, got, ws->reader.fault, ws->reader.why);
        if (got <= 0)
            break;
        take(ws, &item);
        if (ws->state == CLOSED)
            break;
    }
    if (ws->state != CLOSED && got > 0) {
        if (znl_ws_reader_keep(&ws->reader) != 0)
            fail(ws, ZNL_E_NOMEM, ZNL_WS_CODE_ERROR, "out of memory");
        ws->is_holding = 1;
    } else {
        ws->is_holding = 0;
    }
    if (leave(ws) || ws->state == CLOSED)
        return;
    znl_stream_pause(ws->stream, ws->is_holding || is_stopped(ws));
    if (ws->is_holding && !is_stopped(ws))
        znl_loop_defer(ws->loop, &ws->later);
}

static void on_later(znl_deferred *deferred)
{
    znl_ws *ws = (znl_ws *)(void *)((char *)deferred - offsetof(znl_ws, later));
    if (ws->is_cancelled)
        finish(ws, ZNL_E_CANCELLED, 0, "closed before it was open");
    else
        read_on(ws);
}

void znl_ws_pause(znl_ws *ws, int on)
{
    ws->is_paused = on != 0;
    if (ws->is_busy || ws->state != OPEN)
        return; /* read_on() sees to it; or it starts that way */
    if (is_stopped(ws)) {
        znl_loop_undefer(ws->loop, &ws->later);
        znl_stream_pause(ws->stream, 1);
    } else if (ws->is_holding) {
        znl_loop_defer(ws->loop, &ws->later);
    } else {
        znl_stream_pause(ws->stream, 0);
    }
}

static void on_stream_end(void *user, int err, const char *text)
{
    znl_ws *ws = user;
    if (ws->state == CLOSING)
        finish(ws, 0, 0, "");
    else if (err != 0)
        finish(ws, err, 0, text);
    else if (ws->state == CONNECTING)
        finish(ws, ZNL_E_GONE, 0, "the server ended the connection before it answered");
    else
        finish(ws, ZNL_E_GONE, 0, "the connection ended without a close frame");
}

/* --- closing ----------------------------------------------------------------------------------- */

static void on_timer(znl_timer *timer)
{
    znl_ws *ws = (znl_ws *)(void *)((char *)timer - offsetof(znl_ws, timer));
    ws->has_closed = 0; /* it has had its time */
    finish(ws, ZNL_E_TIMEOUT, 0,
            ws->state == CONNECTING ? "no answer to the upgrade in time"
                                    : "the peer did not close in time");
}

static void start_timer(znl_ws *ws, uint32_t ms)
{
    znl_wheel_start(znl_loop_wheel(ws->loop), &ws->timer, znl_clock_mono_ms() + ms, on_timer);
}

void znl_ws_close(znl_ws *ws, uint16_t code, const char *reason)
{
    if (ws->state == CONNECTING && !ws->is_cancelled) {
        ws->is_cancelled = 1;
        znl_loop_defer(ws->loop, &ws->later);
    }
    if (ws->state != OPEN)
        return;
    send_close(ws, code, znl_frame_text(reason != NULL ? reason : ""));
    ws->state = CLOSING;
    start_timer(ws, ws->close_ms);
    if (ws->is_busy)
        return;
    if (ws->is_holding)
        znl_loop_defer(ws->loop, &ws->later);
    else
        znl_stream_pause(ws->stream, 0);
}

/* --- opening ----------------------------------------------------------------------------------- */

static void on_stream_open(void *user)
{
    znl_ws *ws = user;
    znl_buffer *request = &ws->opening->request;
    int err = znl_stream_write(ws->stream, request->data, request->size);
    znl_buffer_fini(request);
    if (err != 0)
        finish(ws, err, 0, "the upgrade could not be sent");
}

/* The server's answer came whole: `lead` bytes of `answer`, and perhaps more. */
static void answered(znl_ws *ws, ws_opening *opening, const znl_http_head *head, size_t lead)
{
    char text[TEXT_BYTES];
    int err = znl_ws_response_check(head, opening->key, opening->protocols, text, sizeof text);
    if (err != 0) {
        finish(ws, err, err == ZNL_E_REFUSED ? (uint16_t)head->status : 0, text);
        return;
    }
    ws->state = OPEN;
    znl_wheel_stop(znl_loop_wheel(ws->loop), &ws->timer);
    enter(ws);
    ws->events->on_open(ws->user, head);
    if (leave(ws) || ws->state == CLOSED)
        return;
    znl_ws_reader_feed(&ws->reader, opening->answer.data + lead, opening->answer.size - lead);
    read_on(ws);
}

static void read_answer(znl_ws *ws, const uint8_t *data, size_t size)
{
    ws_opening *opening = ws->opening;
    if (znl_buffer_append(&opening->answer, data, size) != 0) {
        finish(ws, ZNL_E_NOMEM, 0, "out of memory");
        return;
    }
    znl_http_head head;
    znl_frame bytes = znl_frame_of(opening->answer.data, opening->answer.size);
    long lead = znl_http_read_response(bytes, &head);
    if (lead == 0 && bytes.size >= ZNL_HTTP_HEAD_BYTES_DEFAULT)
        lead = ZNL_E_TOO_BIG;
    if (lead < 0) {
        finish(ws, (int)lead, 0, "the server answered no HTTP");
    } else if (lead > 0) {
        ws->opening = NULL; /* outlives `ws`, should its owner drop it */
        answered(ws, opening, &head, (size_t)lead);
        opening_free(opening);
    }
}

static void on_stream_data(void *user, uint8_t *data, size_t size)
{
    znl_ws *ws = user;
    if (ws->state == CONNECTING && !ws->is_cancelled) {
        read_answer(ws, data, size);
    } else if (ws->state == OPEN || ws->state == CLOSING) {
        znl_ws_reader_feed(&ws->reader, data, size);
        if (!ws->is_holding)
            read_on(ws);
        else if (znl_ws_reader_keep(&ws->reader) != 0)
            fail(ws, ZNL_E_NOMEM, ZNL_WS_CODE_ERROR, "out of memory");
    }
}

static const znl_stream_events stream_events = {
        .on_open = on_stream_open,
        .on_data = on_stream_data,
        .on_writable = on_stream_writable,
        .on_end = on_stream_end,
};

static znl_ws *ws_new(znl_loop *loop, int is_client, const znl_ws_limits *limits,
        const znl_ws_events *events, void *user)
{
    znl_ws *ws = znl_calloc(1, sizeof *ws);
    if (ws == NULL)
        return NULL;
    ws->loop = loop;
    ws->events = events;
    ws->user = user;
    ws->is_client = is_client != 0;
    ws->later.run = on_later;
    ws->close_ms = limits->close_ms != 0 ? limits->close_ms : ZNL_WS_CLOSE_MS_DEFAULT;
    size_t max = limits->max_message_bytes;
    znl_ws_reader_init(&ws->reader, !is_client, max != 0 ? max : ZNL_MESSAGE_BYTES_DEFAULT,
            limits->checks_utf8);
    return ws;
}

static int opening_new(ws_opening **out, const znl_ws_connect_options *options)
{
    ws_opening *opening = znl_calloc(1, sizeof *opening);
    if (opening == NULL)
        return ZNL_E_NOMEM;
    *out = opening;
    if (options->protocols != NULL) {
        size_t size = strlen(options->protocols) + 1;
        opening->protocols = znl_malloc(size);
        if (opening->protocols == NULL)
            return ZNL_E_NOMEM;
        memcpy(opening->protocols, options->protocols, size);
    }
    znl_ws_key_make(opening->key);
    const znl_stream_options *to = &options->stream;
    int is_tls = to->tls != NULL;
    const znl_ws_request request = {
            .host = to->path != NULL && to->host == NULL ? "localhost" : to->host,
            .port = to->path != NULL ? (is_tls ? 443 : 80) : to->port,
            .is_tls = is_tls,
            .path = options->path,
            .protocols = options->protocols,
            .headers = options->headers,
    };
    return znl_ws_request_write(&opening->request, &request, opening->key);
}

int znl_ws_connect(znl_ws **out, znl_loop *loop, const znl_ws_connect_options *options,
        const znl_ws_events *events, void *user)
{
    znl_stream_options stream = options->stream;
    stream.max_queue_bytes = options->limits.max_queue_bytes;
    if (stream.timeout_ms == 0)
        stream.timeout_ms = ZNL_CONNECT_MS_DEFAULT;
    znl_ws *ws = ws_new(loop, 1, &options->limits, events, user);
    if (ws == NULL)
        return ZNL_E_NOMEM;
    int err = opening_new(&ws->opening, options);
    if (err == 0)
        err = znl_stream_connect(&ws->stream, loop, &stream, &stream_events, ws);
    if (err != 0) {
        ws_free(ws);
        return err;
    }
    start_timer(ws, stream.timeout_ms);
    *out = ws;
    return 0;
}

void znl_ws_refuse(znl_http_exchange *exchange, int status, const char *body)
{
    const char *headers = status == 405 ? "Allow: GET\r\n"
            : status == 426             ? "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                                          "Sec-WebSocket-Version: 13\r\n"
                                        : "";
    znl_http_respond(exchange, status, headers, znl_frame_text(body != NULL ? body : ""));
}

int znl_ws_accept(znl_ws **out, znl_loop *loop, znl_http_exchange *exchange,
        const znl_http_head *head, const char *headers, const znl_ws_limits *limits,
        const znl_ws_events *events, void *user)
{
    int err = 0;
    char accept[ZNL_WS_ACCEPT_CHARS + 1];
    znl_ws_key_answer(
            (const char *)znl_http_header_of(head, "Sec-WebSocket-Key", &err).data, accept);
    znl_buffer lines = {0};
    znl_ws *ws = ws_new(loop, 0, limits, events, user);
    if (ws == NULL)
        return ZNL_E_NOMEM;
    const char *const parts[] = {"Upgrade: websocket\r\nConnection: Upgrade\r\n"
                                 "Sec-WebSocket-Accept: ",
            accept, "\r\n", headers != NULL ? headers : ""};
    for (size_t i = 0; i < sizeof parts / sizeof *parts && err == 0; i++)
        err = znl_buffer_append(&lines, parts[i], strlen(parts[i]));
    if (err == 0)
        err = znl_buffer_append(&lines, "", 1);
    if (err != 0)
        goto fail;

    znl_frame rest = {NULL, 0};
    ws->stream = znl_http_upgrade(exchange, (const char *)lines.data, &rest);
    znl_buffer_fini(&lines);
    err = ZNL_E_GONE;
    if (ws->stream == NULL)
        goto fail;
    znl_stream_set_events(ws->stream, &stream_events, ws);
    ws->state = OPEN;
    if (rest.size > 0) {
        znl_ws_reader_feed(&ws->reader, (uint8_t *)(uintptr_t)rest.data, rest.size);
        if (znl_ws_reader_keep(&ws->reader) != 0)
            goto fail;
        ws->is_holding = 1;
        znl_stream_pause(ws->stream, 1);
        znl_loop_defer(loop, &ws->later);
    }
    *out = ws;
    return 0;
fail:
    znl_buffer_fini(&lines);
    znl_stream_close(ws->stream, 0);
    ws_free(ws);
    return err;
}

/* --- looking ----------------------------------------------------------------------------------- */

int znl_ws_is_open(const znl_ws *ws)
{
    return ws->state == OPEN;
}

size_t znl_ws_queued(const znl_ws *ws)
{
    return ws->stream != NULL ? znl_stream_queued(ws->stream) : 0;
}

const char *znl_ws_peer(const znl_ws *ws)
{
    return znl_stream_peer(ws->stream);
}
