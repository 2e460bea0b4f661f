/* stream_read.c - what arrives at a stream, in plain and under TLS. All streams of a loop read into one
 * buffer.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/stream_parts.h"

#include "base/err.h"

#include <stdio.h>

/* Of TLS itself, to a peer that asks and does not read. */
#define ANSWER_BYTES (64u * 1024)

/* libuv reads on while the buffer comes back full. Without a buffer it looks at the other sockets first,
 * and comes back. */
static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    znl_stream *stream = handle->data;
    (void)suggested;
    if (stream->has_filled_input) {
        stream->has_filled_input = 0;
        *buffer = uv_buf_init(NULL, 0);
        return;
    }
    uint8_t *at = stream->all->input;
    size_t size = ZNL_STREAM_READ_BYTES;
    if (stream->events->on_room != NULL && stream->session == NULL &&
            stream->state == ZNL_STREAM_OPEN &&
            !stream->events->on_room(stream->user, &at, &size)) {
        at = stream->all->input;
        size = ZNL_STREAM_READ_BYTES;
    }
    *buffer = uv_buf_init((char *)at, (unsigned)size);
}

static void peer_ended(znl_stream *stream)
{
    stream->has_peer_ended = 1;
    if (stream->state == ZNL_STREAM_LINGERING)
        znl_stream_schedule(stream); /* gone when all is written */
    else if (stream->write_error != 0)
        znl_stream_end_by_system(stream, stream->write_error);
    else
        znl_stream_end(stream, 0, "the peer ended the connection");
}

/* What TLS has against the connection leaves before the end, as far as the socket takes it. */
static void end_by_tls(znl_stream *stream, int err)
{
    char text[200];
    snprintf(text, sizeof text, "TLS: %s", znl_tls_session_why(stream->session));
    if (stream->in_air == 0 && stream->write_error == 0)
        znl_stream_offer(stream);
    znl_stream_end(stream, err, text);
}

/* The socket ended, and TLS did not: anybody on the way could have done that. */
static void end_cut_off(znl_stream *stream)
{
    if (stream->write_error != 0)
        znl_stream_end_by_system(stream, stream->write_error);
    else if (stream->state == ZNL_STREAM_SHAKING)
        znl_stream_end(stream, ZNL_E_GONE,
                "TLS: the peer ended the connection before hands were shaken");
    else
        znl_stream_end(
                stream, ZNL_E_PROTO, "TLS: the peer ended the connection without a goodbye");
}

/* 0, ZNL_E_BUSY, or the error that ended the stream. */
static int shake_hands(znl_stream *stream)
{
    int err = znl_tls_session_shake(stream->session);
    znl_stream_schedule(stream);
    if (err != 0 && err != ZNL_E_BUSY)
        end_by_tls(stream, err);
    if (err != 0)
        return err;
    stream->state = ZNL_STREAM_OPEN;
    znl_wheel_stop(znl_loop_wheel(stream->all->loop), &stream->timer);
    if (stream->is_paused)
        uv_read_stop(&stream->socket.stream);
    stream->events->on_open(stream->user);
    return 0;
}

void znl_stream_read_tls(znl_stream *stream)
{
    znl_tls_session *session = stream->session;
    int err = stream->state == ZNL_STREAM_SHAKING ? shake_hands(stream) : 0;
    while (err == 0 && stream->state == ZNL_STREAM_OPEN && !stream->is_paused) {
        uint8_t *plain = stream->all->plain;
        size_t size = 0;
        err = znl_tls_session_read(session, plain, ZNL_TLS_RECORD_BYTES, &size);
        if (err == 0 && size > 0)
            stream->events->on_data(stream->user, plain, size);
        else if (err == ZNL_E_CLOSED)
            peer_ended(stream);
        else if (err != 0 && err != ZNL_E_BUSY)
            end_by_tls(stream, err);
    }
    if (stream->state != ZNL_STREAM_OPEN && stream->state != ZNL_STREAM_SHAKING)
        return;
    size_t answers = znl_tls_session_out(session)->size;
    if (znl_tls_session_keep(session) != 0)
        znl_stream_end(stream, ZNL_E_NOMEM, znl_err_text(ZNL_E_NOMEM));
    else if (stream->has_input_ended && err == ZNL_E_BUSY)
        end_cut_off(stream);
    else if (answers > ANSWER_BYTES && stream->in_air > 0)
        znl_stream_end(stream, ZNL_E_LIMIT, "TLS: the peer asks and does not read");
    else if (answers > 0)
        znl_stream_schedule(stream);
}

static void take(znl_stream *stream, uint8_t *data, size_t size)
{
    if (stream->session == NULL) {
        if (stream->state == ZNL_STREAM_OPEN)
            stream->events->on_data(stream->user, data, size);
    } else if (stream->state == ZNL_STREAM_OPEN || stream->state == ZNL_STREAM_SHAKING) {
        if (znl_tls_session_feed(stream->session, data, size) != 0)
            znl_stream_end(stream, ZNL_E_NOMEM, znl_err_text(ZNL_E_NOMEM));
        else
            znl_stream_read_tls(stream);
    }
}

static void on_read(uv_stream_t *tcp, ssize_t count, const uv_buf_t *buffer)
{
    znl_stream *stream = tcp->data;
    if (count == 0 || count == UV_ENOBUFS)
        return;
    if (count > 0) {
        stream->has_filled_input = (size_t)count == buffer->len;
        take(stream, (uint8_t *)buffer->base, (size_t)count);
    } else if (count != UV_EOF) {
        znl_stream_end_by_system(stream, (int)count);
    } else if (stream->session == NULL || stream->state == ZNL_STREAM_LINGERING) {
        peer_ended(stream);
    } else {
        stream->has_input_ended = 1;
        znl_stream_read_tls(stream);
    }
}

void znl_stream_start_reading(znl_stream *stream)
{
    uv_read_start(&stream->socket.stream, on_room, on_read);
}

void znl_stream_pause(znl_stream *stream, int on)
{
    if (stream->is_paused == (on != 0))
        return;
    stream->is_paused = on != 0;
    if (stream->state != ZNL_STREAM_OPEN)
        return;
    if (on) {
        uv_read_stop(&stream->socket.stream);
        return;
    }
    if (!stream->has_input_ended)
        znl_stream_start_reading(stream);
    if (stream->session != NULL) {
        stream->is_resumed = 1;
        znl_stream_schedule(stream);
    }
}

void znl_stream_rest(znl_stream *stream, int on)
{
    stream->is_resting = on != 0;
    znl_stream_pause(stream, on);
}
