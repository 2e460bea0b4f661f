/* stream.c - see stream.h.
 *
 * Bytes written collect in `queue`. Once per turn the streams that wrote are visited: the queue becomes
 * `flying` (under TLS: what became of it) and is offered to the system at once; what it does not take is
 * handed to libuv piece by piece, and meanwhile the next queue collects. Buffers that are empty go back to
 * the loop, so that a stream at rest has none. All streams of a loop read into one buffer.
 *
 *   DIALING -> [SHAKING ->] OPEN -> ENDED -> GONE     closed, kept until libuv has closed the socket
 *                               \----\-> LINGERING -^ closed by its owner, says goodbye
 *
 * SPDX-License-Identifier: MIT */
#include "transport/stream_backend.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "transport/dial.h"
#include "transport/tls_session.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES 65536u
/* Written in one turn of the loop before it is offered to the system. */
#define EARLY_BYTES 4096u
#define EARLY_MOST_BYTES 65536u /* of a queue: what stays of it is moved */
/* Sealed, and given to libuv, at once: the queue is seen to empty as finely. */
#define PIECE_BYTES (256u * 1024)
#define SPARES 64u               /* empty buffers a loop keeps */
#define SPARE_BYTES (64u * 1024) /* larger ones are given back to the system */
/* Of TLS itself, to a peer that asks and does not read. */
#define ANSWER_BYTES (64u * 1024)
#define BUFFER_BYTES 2048u
#define PEER_BYTES 56u
#define KEEPALIVE_S 60

typedef enum stream_state { DIALING, SHAKING, OPEN, ENDED, LINGERING, GONE } stream_state;

/* What the streams of one loop share. */
typedef struct streams {
    znl_loop *loop;
    znl_stream *awaiting; /* their turn */
    znl_stream *visiting; /* of these it is now */
    znl_deferred turn;
    znl_stream *lingering;
    size_t spare_count;
    znl_buffer spares[SPARES];
    uint8_t *plain; /* ZNL_TLS_RECORD_BYTES, from the first stream with TLS on */
    uint8_t input[READ_BYTES];
} streams;

/* A place in one of the lists above. */
typedef struct stream_place {
    znl_stream *next;
    znl_stream **link; /* what points at the stream; NULL: in no list */
} stream_place;

struct znl_stream {
    uv_tcp_t tcp; /* first */
    union {
        uv_write_t write;
        uv_shutdown_t shutdown;
    } request;
    streams *all;
    const znl_stream_events *events;
    void *user;
    znl_dial *dial;
    znl_tls_session *session; /* NULL: plain */
    znl_stream_gate *gate;
    stream_place turn;
    stream_place lingers;
    znl_buffer queue;
    znl_buffer flying;
    size_t sealed; /* of `queue` under TLS: on its way */
    size_t flown;  /* of `flying` */
    size_t in_air; /* bytes of it that libuv has */
    size_t max_queue_bytes;
    uint64_t deadline_ms; /* for hands to be shaken */
    znl_timer timer;      /* of that; of lingering */
    uint8_t state;        /* stream_state */
    uint8_t is_paused;
    uint8_t has_filled_input; /* the others first */
    uint8_t wants_writable;
    uint8_t has_peer_ended;  /* it sends no more */
    uint8_t has_input_ended; /* the same of the socket, below TLS */
    uint8_t is_resumed;      /* what TLS holds is to be read */
    uint8_t is_finishing;    /* a shutdown is under way */
    int write_error;         /* UV_…: nothing can be written any more */
    char peer[PEER_BYTES];
};

static void visit(znl_stream *stream);
static void flush(znl_stream *stream);
static int offer(znl_stream *stream);

/* --- lists ------------------------------------------------------------------------------------- */

static void enter(znl_stream *stream, stream_place *place, znl_stream **list, size_t offset)
{
    place->next = *list;
    place->link = list;
    if (*list != NULL)
        ((stream_place *)(void *)((char *)*list + offset))->link = &place->next;
    *list = stream;
}

static void leave(stream_place *place, size_t offset)
{
    if (place->link == NULL)
        return;
    *place->link = place->next;
    if (place->next != NULL)
        ((stream_place *)(void *)((char *)place->next + offset))->link = place->link;
    place->link = NULL;
}

/* --- what streams of a loop share -------------------------------------------------------------- */

static void on_turn(znl_deferred *deferred)
{
    streams *all = (streams *)(void *)((char *)deferred - offsetof(streams, turn));
    /* What is written from here on is for the next turn, else two streams could keep it going. */
    all->visiting = all->awaiting;
    all->awaiting = NULL;
    if (all->visiting != NULL)
        all->visiting->turn.link = &all->visiting;
    while (all->visiting != NULL) {
        znl_stream *stream = all->visiting;
        leave(&stream->turn, offsetof(znl_stream, turn));
        visit(stream);
    }
}

/* At the end of the loop: nobody waits for the goodbyes any more. */
static void end_lingering(void *shared)
{
    streams *all = shared;
    while (all->lingering != NULL)
        znl_stream_close(all->lingering, 0);
    znl_loop_undefer(all->loop, &all->turn);
}

static void discard_streams(void *shared)
{
    streams *all = shared;
    while (all->spare_count > 0)
        znl_buffer_fini(&all->spares[--all->spare_count]);
    znl_free(all->plain);
    znl_free(all);
}

static streams *streams_of(znl_loop *loop)
{
    streams *all = znl_loop_streams(loop);
    if (all != NULL)
        return all;
    all = znl_malloc(sizeof *all);
    if (all == NULL)
        return NULL;
    memset(all, 0, offsetof(streams, input));
    all->loop = loop;
    all->turn.run = on_turn;
    znl_loop_set_streams(loop, all, end_lingering, discard_streams);
    return all;
}

static void give_back(streams *all, znl_buffer *buffer)
{
    if (buffer->data == NULL)
        return;
    if (all->spare_count < SPARES && buffer->capacity <= SPARE_BYTES) {
        buffer->size = 0;
        all->spares[all->spare_count++] = *buffer;
        *buffer = (znl_buffer){0};
    } else {
        znl_buffer_fini(buffer);
    }
}

static int make_room(streams *all, znl_buffer *buffer, size_t size)
{
    if (buffer->data == NULL && all->spare_count > 0)
        *buffer = all->spares[--all->spare_count];
    if (buffer->data == NULL && size < BUFFER_BYTES)
        size = BUFFER_BYTES;
    return znl_buffer_extend(buffer, size);
}

static void schedule(znl_stream *stream)
{
    streams *all = stream->all;
    if (stream->turn.link != NULL)
        return;
    enter(stream, &stream->turn, &all->awaiting, offsetof(znl_stream, turn));
    znl_loop_defer(all->loop, &all->turn);
}

/* --- life -------------------------------------------------------------------------------------- */

void znl_stream_gate_release(znl_stream_gate *gate)
{
    if (gate != NULL && --gate->users == 0)
        znl_free(gate);
}

static void free_stream(uv_handle_t *handle)
{
    znl_stream *stream = handle->data;
    give_back(stream->all, &stream->queue);
    give_back(stream->all, &stream->flying);
    znl_tls_session_free(stream->session);
    znl_stream_gate_release(stream->gate);
    znl_free(stream);
}

static int stream_new(znl_stream **out, znl_loop *loop, size_t max_queue_bytes)
{
    streams *all = streams_of(loop);
    znl_stream *stream = all != NULL ? znl_calloc(1, sizeof *stream) : NULL;
    if (stream == NULL)
        return ZNL_E_NOMEM;
    int rc = uv_tcp_init(znl_loop_uv(loop), &stream->tcp); /* makes no socket yet */
    if (rc != 0) {
        znl_free(stream);
        return znl_err_from_uv(rc);
    }
    stream->tcp.data = stream; /* from here only free_stream() may free it */
    stream->all = all;
    stream->max_queue_bytes = max_queue_bytes != 0 ? max_queue_bytes
                                                   : ZNL_STREAM_QUEUE_BYTES_DEFAULT;
    *out = stream;
    return 0;
}

/* 0, ZNL_E_NOMEM, ZNL_E_INVALID. */
static int use_tls(znl_stream *stream, const znl_tls *tls, const char *host)
{
    streams *all = stream->all;
    if (tls == NULL)
        return 0;
    if (all->plain == NULL)
        all->plain = znl_malloc(ZNL_TLS_RECORD_BYTES);
    return all->plain != NULL ? znl_tls_session_new(&stream->session, tls, host) : ZNL_E_NOMEM;
}

/* The socket is closed and nothing happens any more. */
static void destroy(znl_stream *stream)
{
    if (stream->state == GONE)
        return;
    stream->state = GONE;
    if (stream->gate != NULL)
        stream->gate->open--;
    znl_dial_free(stream->dial);
    stream->dial = NULL;
    znl_wheel_stop(znl_loop_wheel(stream->all->loop), &stream->timer);
    leave(&stream->turn, offsetof(znl_stream, turn));
    leave(&stream->lingers, offsetof(znl_stream, lingers));
    uv_close((uv_handle_t *)&stream->tcp, free_stream);
}

/* Tells the owner, who may close the stream: nothing may follow. */
static void end(znl_stream *stream, int err, const char *text)
{
    if (stream->state == LINGERING || stream->state == GONE) {
        destroy(stream);
        return;
    }
    stream->state = ENDED;
    if (err != 0 && stream->write_error == 0)
        stream->write_error = UV_EPIPE;
    znl_wheel_stop(znl_loop_wheel(stream->all->loop), &stream->timer);
    uv_read_stop((uv_stream_t *)&stream->tcp);
    stream->events->on_end(stream->user, err, text);
}

static void end_by_system(znl_stream *stream, int code)
{
    end(stream, znl_dial_error(-code), uv_strerror(code));
}

/* --- reading ----------------------------------------------------------------------------------- */

/* libuv reads on while the buffer comes back full. Without a buffer it looks at the other sockets first,
 * and comes back. */
static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    znl_stream *stream = handle->data;
    (void)suggested;
    if (stream->has_filled_input) {
        stream->has_filled_input = 0;
        *buffer = uv_buf_init(NULL, 0);
    } else {
        *buffer = uv_buf_init((char *)stream->all->input, READ_BYTES);
    }
}

static void peer_ended(znl_stream *stream)
{
    stream->has_peer_ended = 1;
    if (stream->state == LINGERING)
        schedule(stream); /* gone when all is written */
    else if (stream->write_error != 0)
        end_by_system(stream, stream->write_error);
    else
        end(stream, 0, "the peer ended the connection");
}

/* What TLS has against the connection leaves before the end, as far as the socket takes it. */
static void end_by_tls(znl_stream *stream, int err)
{
    char text[200];
    snprintf(text, sizeof text, "TLS: %s", znl_tls_session_why(stream->session));
    if (stream->in_air == 0 && stream->write_error == 0)
        offer(stream);
    end(stream, err, text);
}

/* The socket ended, and TLS did not: anybody on the way could have done that. */
static void end_cut_off(znl_stream *stream)
{
    if (stream->write_error != 0)
        end_by_system(stream, stream->write_error);
    else if (stream->state == SHAKING)
        end(stream, ZNL_E_GONE, "TLS: the peer ended the connection before hands were shaken");
    else
        end(stream, ZNL_E_PROTO, "TLS: the peer ended the connection without a goodbye");
}

/* 0, ZNL_E_BUSY, or the error that ended the stream. */
static int shake_hands(znl_stream *stream)
{
    int err = znl_tls_session_shake(stream->session);
    schedule(stream);
    if (err != 0 && err != ZNL_E_BUSY)
        end_by_tls(stream, err);
    if (err != 0)
        return err;
    stream->state = OPEN;
    znl_wheel_stop(znl_loop_wheel(stream->all->loop), &stream->timer);
    if (stream->is_paused)
        uv_read_stop((uv_stream_t *)&stream->tcp);
    stream->events->on_open(stream->user);
    return 0;
}

/* Reads what has been fed, until the owner pauses or closes. Nothing may follow. */
static void read_tls(znl_stream *stream)
{
    znl_tls_session *session = stream->session;
    int err = stream->state == SHAKING ? shake_hands(stream) : 0;
    while (err == 0 && stream->state == OPEN && !stream->is_paused) {
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
    if (stream->state != OPEN && stream->state != SHAKING)
        return;
    size_t answers = znl_tls_session_out(session)->size;
    if (znl_tls_session_keep(session) != 0)
        end(stream, ZNL_E_NOMEM, znl_err_text(ZNL_E_NOMEM));
    else if (stream->has_input_ended && err == ZNL_E_BUSY)
        end_cut_off(stream);
    else if (answers > ANSWER_BYTES && stream->in_air > 0)
        end(stream, ZNL_E_LIMIT, "TLS: the peer asks and does not read");
    else if (answers > 0)
        schedule(stream);
}

static void take(znl_stream *stream, uint8_t *data, size_t size)
{
    if (stream->session == NULL) {
        if (stream->state == OPEN)
            stream->events->on_data(stream->user, data, size);
    } else if (stream->state == OPEN || stream->state == SHAKING) {
        if (znl_tls_session_feed(stream->session, data, size) != 0)
            end(stream, ZNL_E_NOMEM, znl_err_text(ZNL_E_NOMEM));
        else
            read_tls(stream);
    }
}

static void on_read(uv_stream_t *tcp, ssize_t count, const uv_buf_t *buffer)
{
    znl_stream *stream = tcp->data;
    if (count == 0 || count == UV_ENOBUFS)
        return;
    if (count > 0) {
        stream->has_filled_input = count == READ_BYTES;
        take(stream, (uint8_t *)buffer->base, (size_t)count);
    } else if (count != UV_EOF) {
        end_by_system(stream, (int)count);
    } else if (stream->session == NULL || stream->state == LINGERING) {
        peer_ended(stream);
    } else {
        stream->has_input_ended = 1;
        read_tls(stream);
    }
}

void znl_stream_pause(znl_stream *stream, int on)
{
    if (stream->is_paused == (on != 0))
        return;
    stream->is_paused = on != 0;
    if (stream->state != OPEN)
        return;
    if (on) {
        uv_read_stop((uv_stream_t *)&stream->tcp);
        return;
    }
    if (!stream->has_input_ended)
        uv_read_start((uv_stream_t *)&stream->tcp, on_room, on_read);
    if (stream->session != NULL) {
        stream->is_resumed = 1;
        schedule(stream);
    }
}

/* --- writing ----------------------------------------------------------------------------------- */

size_t znl_stream_queued(const znl_stream *stream)
{
    return stream->queue.size - stream->sealed + stream->flying.size - stream->flown;
}

int znl_stream_reserve(znl_stream *stream, size_t size, uint8_t **at)
{
    if (stream->state > ENDED || stream->write_error != 0)
        return ZNL_E_CLOSED;
    size_t queued = znl_stream_queued(stream);
    if (queued > 0 &&
            (queued >= stream->max_queue_bytes || size > stream->max_queue_bytes - queued)) {
        stream->wants_writable = 1;
        return ZNL_E_BUSY;
    }
    znl_buffer *queue = &stream->queue;
    if (stream->sealed > queue->size / 2 && size > queue->capacity - queue->size) {
        memmove(queue->data, queue->data + stream->sealed, queue->size - stream->sealed);
        queue->size -= stream->sealed;
        stream->sealed = 0;
    }
    int err = make_room(stream->all, queue, size);
    if (err == 0)
        *at = queue->data + queue->size;
    return err;
}

/* Offers what a turn has written so far, so that the peer works on it while the turn goes on. What goes
 * wrong is left to flush(). */
static void offer_early(znl_stream *stream)
{
    if (stream->state != OPEN || stream->session != NULL || stream->in_air > 0 ||
            stream->write_error != 0 || stream->flown < stream->flying.size ||
            stream->queue.size > EARLY_MOST_BYTES)
        return;
    znl_buffer *queue = &stream->queue;
    uv_buf_t piece = uv_buf_init((char *)queue->data, (unsigned)queue->size);
    int count = uv_try_write((uv_stream_t *)&stream->tcp, &piece, 1);
    if (count <= 0)
        return;
    queue->size -= (size_t)count;
    memmove(queue->data, queue->data + count, queue->size);
}

void znl_stream_commit(znl_stream *stream, size_t size)
{
    size_t before = stream->queue.size;
    stream->queue.size += size;
    schedule(stream);
    if (before / EARLY_BYTES != stream->queue.size / EARLY_BYTES)
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

/* After a reset there may still be something to read, and then the end of it is found there. Nothing
 * may follow. */
static void fail_writing(znl_stream *stream, int code)
{
    stream->write_error = code;
    stream->flown = 0;
    stream->sealed = 0;
    give_back(stream->all, &stream->flying);
    give_back(stream->all, &stream->queue);
    if (stream->state == LINGERING)
        destroy(stream);
    else if (stream->state == OPEN &&
            (stream->is_paused || (code != UV_EPIPE && code != UV_ECONNRESET)))
        end_by_system(stream, code);
}

static void on_written(uv_write_t *request, int status)
{
    znl_stream *stream = request->handle->data;
    if (stream->state == GONE)
        return;
    stream->flown += stream->in_air;
    stream->in_air = 0;
    if (status < 0)
        fail_writing(stream, status);
    else
        flush(stream);
}

/* Seals some of the queue. 0 or UV_…. */
static int seal(znl_stream *stream)
{
    znl_buffer *queue = &stream->queue;
    int err = 0;
    if (stream->state != SHAKING && queue->size > 0) {
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
    if (err == 0 && stream->state == LINGERING && queue->size == 0)
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
    give_back(stream->all, &stream->flying);
    if (stream->queue.size == 0)
        give_back(stream->all, &stream->queue);
    if (stream->session != NULL)
        give_back(stream->all, znl_tls_session_out(stream->session));
}

/* Offers everything to the system. 0 or UV_…; what the system does not take is in the air, or nothing
 * is left. */
static int offer(znl_stream *stream)
{
    uv_stream_t *tcp = (uv_stream_t *)&stream->tcp;
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
        destroy(stream);
    } else if (!stream->is_finishing) {
        stream->is_finishing = 1;
        if (uv_shutdown(&stream->request.shutdown, (uv_stream_t *)&stream->tcp, on_finished) !=
                0)
            destroy(stream);
    }
}

/* The owner may close the stream in here: callers do nothing after it. */
static void flush(znl_stream *stream)
{
    if (stream->state == DIALING || stream->in_air > 0 || stream->write_error != 0)
        return;
    int rc = offer(stream);
    if (rc != 0) {
        fail_writing(stream, rc);
    } else if (stream->state == LINGERING) {
        if (znl_stream_queued(stream) == 0)
            say_goodbye(stream);
    } else if (stream->wants_writable && stream->state == OPEN &&
            znl_stream_queued(stream) <= stream->max_queue_bytes / 2) {
        stream->wants_writable = 0;
        if (stream->events->on_writable != NULL)
            stream->events->on_writable(stream->user);
    }
}

static void visit(znl_stream *stream)
{
    int is_resumed = stream->is_resumed;
    stream->is_resumed = 0;
    if (is_resumed && stream->state == OPEN && !stream->is_paused) {
        schedule(stream); /* to write, after it has read */
        read_tls(stream);
    } else {
        flush(stream);
    }
}

/* --- opening and closing ----------------------------------------------------------------------- */

static void on_late(znl_timer *timer)
{
    znl_stream *stream = (znl_stream *)(void *)((char *)timer - offsetof(znl_stream, timer));
    if (stream->state == SHAKING)
        end(stream, ZNL_E_TIMEOUT, "TLS: hands were not shaken in time");
    else
        destroy(stream);
}

void znl_stream_close(znl_stream *stream, uint32_t linger_ms)
{
    if (stream == NULL)
        return;
    int has_nothing_to_say = stream->has_peer_ended && znl_stream_queued(stream) == 0;
    if (linger_ms == 0 || stream->state < OPEN || stream->state > ENDED ||
            stream->write_error != 0 || has_nothing_to_say) {
        destroy(stream);
        return;
    }
    znl_loop *loop = stream->all->loop;
    stream->state = LINGERING;
    enter(stream, &stream->lingers, &stream->all->lingering, offsetof(znl_stream, lingers));
    znl_wheel_start(
            znl_loop_wheel(loop), &stream->timer, znl_clock_mono_ms() + linger_ms, on_late);
    if (!stream->has_peer_ended && !stream->has_input_ended)
        uv_read_start((uv_stream_t *)&stream->tcp, on_room, on_read);
    schedule(stream);
}

void znl_stream_set_events(znl_stream *stream, const znl_stream_events *events, void *user)
{
    stream->events = events;
    stream->user = user;
}

const char *znl_stream_peer(const znl_stream *stream)
{
    return stream->peer;
}

void znl_stream_tune(int fd)
{
    const int on = 1;
    const int seconds = KEEPALIVE_S;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
}

void znl_stream_name(const struct sockaddr *address, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "";
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
        uv_ip4_name(in, host, sizeof host);
        snprintf(text, size, "%s:%u", host, (unsigned)ntohs(in->sin_port));
        return;
    }
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)address;
    if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
        uv_inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], host, sizeof host);
        snprintf(text, size, "%s:%u", host, (unsigned)ntohs(in6->sin6_port));
    } else {
        uv_ip6_name(in6, host, sizeof host);
        snprintf(text, size, "[%s]:%u", host, (unsigned)ntohs(in6->sin6_port));
    }
}

/* 0 or UV_…; then the socket is still the caller's. */
static int take_socket(znl_stream *stream, int fd, const struct sockaddr *peer)
{
    int rc = uv_tcp_open(&stream->tcp, fd);
    if (rc != 0)
        return rc;
    stream->state = stream->session != NULL ? SHAKING : OPEN;
    znl_stream_name(peer, stream->peer, sizeof stream->peer);
    if (!stream->is_paused || stream->session != NULL)
        uv_read_start((uv_stream_t *)&stream->tcp, on_room, on_read);
    if (stream->session != NULL)
        znl_wheel_start(znl_loop_wheel(stream->all->loop), &stream->timer, stream->deadline_ms,
                on_late);
    else if (stream->queue.size > 0)
        schedule(stream);
    return 0;
}

static void on_dialed(void *user, int fd, int err, const char *text)
{
    znl_stream *stream = user;
    struct sockaddr_storage peer = {.ss_family = AF_INET};
    socklen_t size = sizeof peer;
    if (fd < 0) {
        end(stream, err, text);
        return;
    }
    znl_stream_tune(fd);
    getpeername(fd, (struct sockaddr *)&peer,
            &size); /* it may have gone again: then reading tells */
    int rc = take_socket(stream, fd, (const struct sockaddr *)&peer);
    if (rc != 0) {
        close(fd);
        end_by_system(stream, rc);
        return;
    }
    znl_dial_free(stream->dial);
    stream->dial = NULL;
    if (stream->session != NULL)
        read_tls(stream); /* says hello */
    else
        stream->events->on_open(stream->user);
}

int znl_stream_connect(znl_stream **out, znl_loop *loop, const znl_stream_options *options,
        const znl_stream_events *events, void *user)
{
    znl_stream *stream;
    uint32_t timeout_ms = options->timeout_ms != 0 ? options->timeout_ms
                                                   : ZNL_CONNECT_MS_DEFAULT;
    int err = stream_new(&stream, loop, options->max_queue_bytes);
    if (err != 0)
        return err;
    znl_stream_set_events(stream, events, user);
    stream->deadline_ms = znl_clock_mono_ms() + timeout_ms;
    err = use_tls(stream, options->tls, options->host);
    if (err == 0)
        err = znl_dial_new(&stream->dial, loop, options->host, options->port, timeout_ms,
                on_dialed, stream);
    if (err != 0) {
        destroy(stream);
        return err;
    }
    *out = stream;
    return 0;
}

int znl_stream_adopt(znl_stream **out, znl_loop *loop, const znl_stream_adoption *adoption)
{
    znl_stream *stream;
    uint32_t handshake_ms = adoption->handshake_ms != 0 ? adoption->handshake_ms
                                                        : ZNL_HANDSHAKE_MS_DEFAULT;
    int err = stream_new(&stream, loop, adoption->max_queue_bytes);
    if (err != 0)
        return err;
    stream->deadline_ms = znl_loop_now_ms(loop) + handshake_ms;
    err = use_tls(stream, adoption->tls, NULL);
    if (err != 0) {
        destroy(stream);
        return err;
    }
    int rc = take_socket(stream, adoption->fd, adoption->peer);
    if (rc != 0) {
        destroy(stream);
        return znl_err_from_uv(rc);
    }
    stream->gate = adoption->gate;
    stream->gate->users++;
    stream->gate->open++;
    *out = stream;
    return 0;
}
