/* stream_write.c - the queue of a stream, and how it leaves.
 *
 * Bytes written collect in `queue`. Once per turn the streams that wrote are visited: the queue becomes
 * `flying` (under TLS: what became of it) and is offered to the system at once; what it does not take is
 * handed to libuv piece by piece, and meanwhile the next queue collects. Buffers that are empty go back to
 * the loop, so that a stream at rest has none.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/stream_parts.h"

#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define EARLY_SEVERAL 16u /* messages like the one written last */
#define EARLY_SEVERAL_MOST_BYTES 32768u
#define EARLY_MOST_BYTES 65536u /* of a queue: what stays of it is moved */
/* Sealed, and given to libuv, at once: the queue is seen to empty as finely. */
#define PIECE_BYTES (256u * 1024)
#define DIRECT_BYTES (16u * 1024) /* from here on a copy costs more than a call of the system */
#define PIECES_MAX 64u
#define UNREAD_PIECES 64 /* passed over at the end: a few MiB */

size_t znl_stream_queued(const znl_stream *stream)
{
    return stream->queue.size - stream->sealed + stream->flying.size - stream->flown;
}

static void want_writable(znl_stream *stream, size_t below)
{
    if (!stream->wants_writable || below < stream->writable_below)
        stream->writable_below = below;
    stream->wants_writable = 1;
}

void znl_stream_await(znl_stream *stream, size_t below)
{
    want_writable(stream, below);
    znl_stream_schedule(stream);
}

int znl_stream_reserve(znl_stream *stream, size_t size, uint8_t **at)
{
    if (stream->state > ZNL_STREAM_ENDED || stream->write_error != 0)
        return ZNL_E_CLOSED;
    size_t queued = znl_stream_queued(stream);
    if (queued > 0 &&
            (queued >= stream->max_queue_bytes || size > stream->max_queue_bytes - queued)) {
        want_writable(stream, stream->max_queue_bytes / 2);
        return ZNL_E_BUSY;
    }
    znl_buffer *queue = &stream->queue;
    if (stream->sealed > queue->size / 2 && size > queue->capacity - queue->size) {
        memmove(queue->data, queue->data + stream->sealed, queue->size - stream->sealed);
        queue->size -= stream->sealed;
        stream->sealed = 0;
    }
    int err = znl_streams_make_room(stream->all, queue, size);
    if (err == 0)
        *at = queue->data + queue->size;
    return err;
}

/* True when the queue is what leaves next, as it lies there. */
static int can_offer(const znl_stream *stream)
{
    return stream->state == ZNL_STREAM_OPEN && stream->session == NULL && stream->in_air == 0 &&
            stream->write_error == 0 && stream->flown == stream->flying.size;
}

/* Offers what a turn has written so far, so that the peer works on it while the turn goes on. What goes
 * wrong is left to znl_stream_flush(). */
static void offer_early(znl_stream *stream)
{
    if (!can_offer(stream) || stream->queue.size > EARLY_MOST_BYTES)
        return;
    znl_buffer *queue = &stream->queue;
    uv_buf_t piece = uv_buf_init((char *)queue->data, (unsigned)queue->size);
    int count = uv_try_write(&stream->socket.stream, &piece, 1);
    if (count <= 0)
        return;
    queue->size -= (size_t)count;
    memmove(queue->data, queue->data + count, queue->size);
}

/* A system call for a handful of messages costs more than it gains: with larger ones it waits longer. */
static size_t early_bytes_of(const znl_stream *stream, size_t size)
{
    size_t several = size < EARLY_SEVERAL_MOST_BYTES / EARLY_SEVERAL ? size * EARLY_SEVERAL
                                                                     : EARLY_SEVERAL_MOST_BYTES;
    return several > stream->early_bytes ? several : stream->early_bytes;
}

void znl_stream_commit(znl_stream *stream, size_t size)
{
    size_t before = stream->queue.size;
    stream->queue.size += size;
    znl_stream_schedule(stream);
    size_t early = early_bytes_of(stream, size);
    if (before / early != stream->queue.size / early)
        offer_early(stream);
}

int znl_stream_write(znl_stream *stream, const void *data, size_t size)
{
    uint8_t *at;
    int err = znl_stream_reserve(stream, size, &at);
    if (err != 0 || size == 0)
        return err;
    memcpy(at, data, size);
    znl_stream_commit(stream, size);
    return 0;
}

/* Gives pieces to the system when nothing is before them. Returns the bytes it took. */
static size_t offer_pieces(znl_stream *stream, const znl_frame *pieces, size_t count)
{
    uv_buf_t bufs[PIECES_MAX];
    if (!can_offer(stream) || stream->queue.size > 0 || count > PIECES_MAX)
        return 0;
    for (size_t i = 0; i < count; i++)
        bufs[i] = uv_buf_init((char *)(uintptr_t)pieces[i].data, (unsigned)pieces[i].size);
    int taken = uv_try_write(&stream->socket.stream, bufs, (unsigned)count);
    return taken > 0 ? (size_t)taken : 0; /* what goes wrong is left to znl_stream_flush() */
}

int znl_stream_write_pieces(znl_stream *stream, const znl_frame *pieces, size_t count)
{
    uint8_t *at;
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += pieces[i].size;
    /* The room comes first: what has begun must not fail. */
    int err = znl_stream_reserve(stream, size, &at);
    if (err != 0 || size == 0)
        return err;
    size_t taken = size >= DIRECT_BYTES ? offer_pieces(stream, pieces, count) : 0;
    size_t skip = taken;
    for (size_t i = 0; i < count; i++) {
        size_t skipped = skip < pieces[i].size ? skip : pieces[i].size;
        skip -= skipped;
        if (pieces[i].size > skipped) {
            memcpy(at, pieces[i].data + skipped, pieces[i].size - skipped);
            at += pieces[i].size - skipped;
        }
    }
    if (taken < size)
        znl_stream_commit(stream, size - taken);
    else
        znl_stream_schedule(stream); /* gives the room back */
    return 0;
}

/* After a reset there may still be something to read, and then the end of it is found there. Nothing
 * may follow. */
static void fail_writing(znl_stream *stream, int code)
{
    stream->write_error = code;
    stream->flown = 0;
    stream->sealed = 0;
    znl_streams_give_back(stream->all, &stream->flying);
    znl_streams_give_back(stream->all, &stream->queue);
    if (stream->state == ZNL_STREAM_LINGERING)
        znl_stream_destroy(stream);
    else if (stream->state == ZNL_STREAM_OPEN &&
            ((stream->is_paused && !stream->is_resting) ||
                    (code != UV_EPIPE && code != UV_ECONNRESET)))
        znl_stream_end_by_system(stream, code);
}

static void on_written(uv_write_t *request, int status)
{
    znl_stream *stream = request->handle->data;
    if (stream->state == ZNL_STREAM_GONE)
        return;
    stream->flown += stream->in_air;
    stream->in_air = 0;
    if (status < 0)
        fail_writing(stream, status);
    else
        znl_stream_flush(stream);
}

/* Seals some of the queue. 0 or UV_…. */
static int seal(znl_stream *stream)
{
    znl_buffer *queue = &stream->queue;
    int err = 0;
    if (stream->state != ZNL_STREAM_SHAKING && queue->size > 0) {
        size_t count = queue->size - stream->sealed;
        if (count > PIECE_BYTES)
            count = PIECE_BYTES;
        err = znl_tls_session_write(stream->session, queue->data + stream->sealed, count);
        stream->sealed += count;
        if (stream->sealed == queue->size) {
            stream->sealed = 0;
            queue->size = 0;
        }
    }
    if (err == 0 && stream->state == ZNL_STREAM_LINGERING && queue->size == 0)
        znl_tls_session_finish(stream->session);
    return err == 0 ? 0 : err == ZNL_E_NOMEM ? UV_ENOMEM : UV_EPROTO;
}

/* Puts what is to leave next in the place of what has flown. 0 or UV_…. */
static int load(znl_stream *stream)
{
    znl_buffer empty = stream->flying;
    znl_buffer *from = &stream->queue;
    int rc = 0;
    if (stream->session != NULL) {
        rc = seal(stream);
        from = znl_tls_session_out(stream->session);
    }
    empty.size = 0;
    stream->flown = 0;
    stream->flying = *from;
    *from = empty;
    return rc;
}

/* Nothing is in the air, and nothing can be sent now: at rest there are no buffers. */
static void fold(znl_stream *stream)
{
    stream->flown = 0;
    znl_streams_give_back(stream->all, &stream->flying);
    if (stream->queue.size == 0)
        znl_streams_give_back(stream->all, &stream->queue);
    if (stream->session != NULL)
        znl_streams_give_back(stream->all, znl_tls_session_out(stream->session));
}

int znl_stream_offer(znl_stream *stream)
{
    uv_stream_t *tcp = &stream->socket.stream;
    for (;;) {
        int rc = stream->flown < stream->flying.size ? 0 : load(stream);
        if (rc != 0)
            return rc;
        size_t left = stream->flying.size - stream->flown;
        if (left == 0) {
            fold(stream);
            return 0;
        }
        uv_buf_t piece = uv_buf_init((char *)stream->flying.data + stream->flown,
                left < UINT32_MAX ? (unsigned)left : UINT32_MAX);
        int count = uv_try_write(tcp, &piece, 1);
        if (count < 0 && count != UV_EAGAIN)
            return count;
        stream->flown += count > 0 ? (size_t)count : 0;
        if (count > 0 && (size_t)count == left)
            continue;
        left = stream->flying.size - stream->flown;
        stream->in_air = left < PIECE_BYTES ? left : PIECE_BYTES;
        piece = uv_buf_init(
                (char *)stream->flying.data + stream->flown, (unsigned)stream->in_air);
        rc = uv_write(&stream->request.write, tcp, &piece, 1, on_written);
        if (rc != 0)
            stream->in_air = 0;
        return rc;
    }
}

static void on_finished(uv_shutdown_t *request, int status)
{
    (void)request; /* what comes next is the peer's end, or the timer */
    (void)status;
}

static void say_goodbye(znl_stream *stream)
{
    if (stream->has_peer_ended) {
        znl_stream_destroy(stream);
    } else if (!stream->is_finishing) {
        stream->is_finishing = 1;
        if (uv_shutdown(&stream->request.shutdown, &stream->socket.stream, on_finished) != 0)
            znl_stream_destroy(stream);
    }
}

void znl_stream_flush(znl_stream *stream)
{
    if (stream->state == ZNL_STREAM_DIALING || stream->in_air > 0 || stream->write_error != 0)
        return;
    int rc = znl_stream_offer(stream);
    if (rc != 0) {
        fail_writing(stream, rc);
    } else if (stream->state == ZNL_STREAM_LINGERING) {
        if (znl_stream_queued(stream) == 0)
            say_goodbye(stream);
    } else if (stream->wants_writable && stream->state == ZNL_STREAM_OPEN &&
            znl_stream_queued(stream) <= stream->writable_below) {
        stream->wants_writable = 0;
        if (stream->events->on_writable != NULL)
            stream->events->on_writable(stream->user);
    }
}

/* Writes all of it, before `ends_ms`. True when it was. */
static int write_all(int fd, const uint8_t *data, size_t size, uint64_t ends_ms)
{
    while (size > 0) {
        ssize_t count = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count > 0) {
            data += count;
            size -= (size_t)count;
        } else if (count < 0 && errno == EAGAIN) {
            struct pollfd one = {.fd = fd, .events = POLLOUT};
            uint64_t now_ms = znl_clock_mono_ms();
            uint64_t left_ms = ends_ms > now_ms ? ends_ms - now_ms : 0;
            int ready = poll(&one, 1, left_ms < INT_MAX ? (int)left_ms : INT_MAX);
            if (ready == 0 || (ready < 0 && errno != EINTR))
                return 0;
        } else if (count < 0 && errno != EINTR) {
            return 0;
        }
    }
    return 1;
}

void znl_stream_write_out(znl_stream *stream)
{
    uv_os_fd_t fd;
    size_t at = stream->flown;
    if (stream->session != NULL || stream->write_error != 0 ||
            uv_fileno(&stream->socket.handle, &fd) != 0)
        return;
    if (stream->in_air > 0) /* libuv has written some of it */
        at += stream->in_air - uv_stream_get_write_queue_size(&stream->socket.stream);
    if (write_all(fd, stream->flying.data + at, stream->flying.size - at,
                stream->timer.deadline_ms))
        write_all(fd, stream->queue.data, stream->queue.size, stream->timer.deadline_ms);
    /* What is unread when a socket closes resets it, and the other would lose what it has not read. */
    for (int i = 0; i < UNREAD_PIECES; i++)
        if (recv(fd, stream->all->input, ZNL_STREAM_READ_BYTES, MSG_DONTWAIT) <= 0)
            break;
}
