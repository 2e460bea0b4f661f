/* stream_crowd.h - many streams without sockets, dialled and accepted: what stream.h offers, defined here, for who wants to
 * say at which byte what happens. To be included by one file of a program, which then links no other streams.
 *
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_STREAM_CROWD_H
#define ZNL_TESTS_STREAM_CROWD_H

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/err.h"
#include "transport/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CROWD_MAX 8u /* streams of one play */

#define CROWD_HOLDS(property)                                                                  \
    do {                                                                                       \
        if (!(property)) {                                                                     \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #property);      \
            abort();                                                                           \
        }                                                                                      \
    } while (0)

/* Bytes that no failing allocation of ours touches. */
struct crowd_bytes {
    uint8_t *data;
    size_t size;
};

struct znl_stream {
    const znl_stream_events *events;
    void *user;
    int is_dialled, is_open, is_paused, is_closed;
    int has_ended;     /* on_end was called */
    int ends, end_err; /* on_end is to come, once it reads */
    size_t await;      /* on_writable is to come when so few bytes are queued */
    int awaits;
    struct crowd_bytes coming; /* sent by the peer, not read */
    struct crowd_bytes out;    /* all that was written */
    size_t taken;              /* of it, by the peer */
    size_t promised;           /* reserved and not committed */
    uint8_t *room;
    uint32_t linger_ms;
};

struct znl_listener {
    znl_accept_fn on_accept;
    void *user;
};

static struct {
    znl_stream
            streams[CROWD_MAX]; /* of which these were there; their memory stays to the end */
    unsigned count;
    znl_listener *listener;
    size_t max_queue_bytes; /* of each, whatever was asked for */
    int is_telling;         /* an event is under way: none comes from inside a call */
    /* Bytes are about to be given; NULL: nobody wants to know. */
    void (*before_data)(znl_stream *stream, const uint8_t *data, size_t size);
} crowd;

static inline void crowd_append(struct crowd_bytes *to, const void *data, size_t size)
{
    to->data = realloc(to->data, to->size + size + 1);
    CROWD_HOLDS(to->data != NULL);
    if (size > 0)
        memcpy(to->data + to->size, data, size);
    to->size += size;
}

static inline int crowd_has_room(void)
{
    return crowd.count < CROWD_MAX;
}

static inline znl_stream *crowd_add(void)
{
    CROWD_HOLDS(crowd_has_room());
    return &crowd.streams[crowd.count++];
}

/* --- what stream.h says --------------------------------------------------------------------------- */

/* Without a free place it fails as without memory. */
int znl_stream_connect(znl_stream **out, znl_loop *loop, const znl_stream_options *options,
        const znl_stream_events *events, void *user)
{
    (void)loop;
    CROWD_HOLDS(options->tls == NULL && (options->host != NULL || options->path != NULL));
    if (!crowd_has_room() || znl_alloc_should_fail())
        return ZNL_E_NOMEM;
    znl_stream *stream = crowd_add();
    stream->is_dialled = 1;
    stream->events = events;
    stream->user = user;
    *out = stream;
    return 0;
}

void znl_stream_set_events(znl_stream *stream, const znl_stream_events *events, void *user)
{
    CROWD_HOLDS(!stream->is_closed);
    stream->events = events;
    stream->user = user;
}

void znl_stream_close(znl_stream *stream, uint32_t linger_ms)
{
    if (stream == NULL)
        return;
    CROWD_HOLDS(!stream->is_closed);
    stream->is_closed = 1;
    stream->linger_ms = linger_ms;
}

size_t znl_stream_queued(const znl_stream *stream)
{
    CROWD_HOLDS(!stream->is_closed);
    return stream->out.size - stream->taken;
}

void znl_stream_await(znl_stream *stream, size_t below)
{
    CROWD_HOLDS(!stream->is_closed);
    stream->await = !stream->awaits || below < stream->await ? below : stream->await;
    stream->awaits = 1;
}

int znl_stream_reserve(znl_stream *stream, size_t size, uint8_t **at)
{
    CROWD_HOLDS(!stream->is_closed);
    if (stream->has_ended)
        return ZNL_E_CLOSED;
    if (znl_stream_queued(stream) > 0 &&
            (size > crowd.max_queue_bytes ||
                    znl_stream_queued(stream) > crowd.max_queue_bytes - size)) {
        znl_stream_await(stream, crowd.max_queue_bytes / 2);
        return ZNL_E_BUSY;
    }
    if (znl_alloc_should_fail())
        return ZNL_E_NOMEM;
    free(stream->room); /* in memory that ends where the room ends */
    *at = stream->room = malloc(size + !size);
    CROWD_HOLDS(stream->room != NULL);
    stream->promised = size;
    return 0;
}

void znl_stream_commit(znl_stream *stream, size_t size)
{
    CROWD_HOLDS(!stream->is_closed && size <= stream->promised);
    crowd_append(&stream->out, stream->room, size);
    stream->promised = 0;
}

int znl_stream_write(znl_stream *stream, const void *data, size_t size)
{
    uint8_t *at;
    int err = znl_stream_reserve(stream, size, &at);
    if (err == 0 && size > 0) {
        memcpy(at, data, size);
        znl_stream_commit(stream, size);
    }
    return err;
}

int znl_stream_write_pieces(znl_stream *stream, const znl_frame *pieces, size_t count)
{
    uint8_t *at;
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += pieces[i].size;
    int err = znl_stream_reserve(stream, size, &at);
    for (size_t i = 0; err == 0 && i < count; i++) {
        if (pieces[i].size > 0)
            memcpy(at, pieces[i].data, pieces[i].size);
        at += pieces[i].size;
    }
    if (err == 0)
        znl_stream_commit(stream, size);
    return err;
}

void znl_stream_rest(znl_stream *stream, int on)
{
    CROWD_HOLDS(!stream->is_closed);
    stream->is_paused = on != 0;
}

const char *znl_stream_peer(const znl_stream *stream)
{
    CROWD_HOLDS(!stream->is_closed);
    return stream->is_open ? "127.0.0.1:5" : "";
}

int znl_listener_open(znl_listener **out, znl_loop *loop, const znl_listener_options *options,
        znl_accept_fn on_accept, void *user)
{
    (void)loop;
    CROWD_HOLDS(crowd.listener == NULL && options->tls == NULL);
    *out = crowd.listener = znl_calloc(1, sizeof *crowd.listener);
    if (crowd.listener == NULL)
        return ZNL_E_NOMEM;
    crowd.listener->on_accept = on_accept;
    crowd.listener->user = user;
    return 0;
}

void znl_listener_close(znl_listener *listener)
{
    CROWD_HOLDS(listener == crowd.listener);
    znl_free(listener);
    crowd.listener = NULL;
}

uint16_t znl_listener_port(const znl_listener *listener)
{
    (void)listener;
    return 5;
}

/* --- what a test does ----------------------------------------------------------------------------- */

static inline void crowd_begin(znl_stream *stream)
{
    CROWD_HOLDS(!crowd.is_telling && !stream->is_closed && !stream->has_ended);
    crowd.is_telling = 1;
}

/* Somebody connects. */
static inline znl_stream *crowd_accept(void)
{
    znl_stream *stream = crowd_add();
    crowd_begin(stream);
    stream->is_open = 1;
    crowd.listener->on_accept(crowd.listener->user, stream);
    crowd.is_telling = 0;
    CROWD_HOLDS(stream->is_closed || stream->events != NULL);
    return stream;
}

/* A connection that was dialled is there. */
static inline void crowd_open(znl_stream *stream)
{
    crowd_begin(stream);
    CROWD_HOLDS(stream->is_dialled && !stream->is_open);
    stream->is_open = 1;
    stream->events->on_open(stream->user);
    crowd.is_telling = 0;
}

static inline void crowd_tell(znl_stream *stream, uint8_t *data, size_t size)
{
    if (crowd.before_data != NULL)
        crowd.before_data(stream, data, size);
    crowd_begin(stream);
    stream->events->on_data(stream->user, data, size);
    crowd.is_telling = 0;
}

/* Gives what has come where the owner wants to have it. */
static inline int crowd_fill(znl_stream *stream, uint8_t *at, size_t size)
{
    struct crowd_bytes *coming = &stream->coming;
    size = size < coming->size ? size : coming->size;
    CROWD_HOLDS(size > 0);
    memcpy(at, coming->data, size);
    coming->size -= size;
    memmove(coming->data, coming->data + size, coming->size);
    crowd_tell(stream, at, size);
    return 1;
}

/* Gives what has come, in one piece, and the end; not while the stream does not read. True when it gave something. */
static inline int crowd_give(znl_stream *stream)
{
    if (stream->is_closed || stream->has_ended || stream->is_paused)
        return 0;
    if (stream->coming.size > 0) {
        uint8_t *at;
        size_t size;
        if (stream->events->on_room != NULL &&
                stream->events->on_room(stream->user, &at, &size))
            return crowd_fill(stream, at, size);
        struct crowd_bytes piece = stream->coming;
        stream->coming = (struct crowd_bytes){NULL, 0};
        uint8_t *exact = realloc(piece.data, piece.size);
        CROWD_HOLDS(exact != NULL && stream->is_open);
        crowd_tell(stream, exact, piece.size);
        free(exact);
        return 1;
    }
    if (stream->ends) {
        crowd_begin(stream);
        stream->has_ended = 1;
        stream->events->on_end(stream->user, stream->end_err, "the end");
        crowd.is_telling = 0;
        return 1;
    }
    return 0;
}

static inline void crowd_send(znl_stream *stream, const void *data, size_t size)
{
    crowd_append(&stream->coming, data, size);
}

static inline void crowd_end(znl_stream *stream, int err)
{
    stream->ends = 1;
    stream->end_err = err;
}

/* The peer reads up to `most` bytes; also what was left at the close. */
static inline void crowd_take(znl_stream *stream, size_t most)
{
    size_t left = stream->out.size - stream->taken;
    stream->taken += most < left ? most : left;
    if (stream->is_closed || stream->has_ended || !stream->awaits ||
            stream->out.size - stream->taken > stream->await)
        return;
    stream->awaits = 0;
    crowd_begin(stream);
    stream->events->on_writable(stream->user);
    crowd.is_telling = 0;
}

static inline void crowd_fini(void)
{
    for (unsigned i = 0; i < crowd.count; i++) {
        CROWD_HOLDS(crowd.streams[i].is_closed);
        free(crowd.streams[i].coming.data);
        free(crowd.streams[i].out.data);
        free(crowd.streams[i].room);
    }
    CROWD_HOLDS(crowd.listener == NULL);
    memset(&crowd, 0, sizeof crowd);
}

#endif
