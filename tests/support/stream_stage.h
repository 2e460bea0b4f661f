/* stream_stage.h - streams without sockets, for who wants to say at which byte what happens: what stream.h and tls.h
 * offer to one client, defined here. To be included by one file of a program, which then links no other streams.
 *
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_STREAM_STAGE_H
#define ZNL_TESTS_STREAM_STAGE_H

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/err.h"
#include "transport/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STAGE_HOLDS(property)                                                                  \
    do {                                                                                       \
        if (!(property)) {                                                                     \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #property);      \
            abort();                                                                           \
        }                                                                                      \
    } while (0)

struct znl_stream {
    const znl_stream_events *events;
    void *user;
    int is_open, has_tls, is_shaking, has_ended;
};

static struct {
    znl_stream *stream;        /* the last one, while it is there */
    int streams, dials, keeps; /* keeps: what is written stays queued */
    char host[300], tls_name[300];
    unsigned port;
    znl_buffer queued;
    /* What the peer got since the last stage_forget(). */
    znl_buffer plain, sealed;
    uint32_t linger_ms;
} stage;

/* --- what stream.h and tls.h say ------------------------------------------------------------------ */

int znl_stream_connect(znl_stream **out, znl_loop *loop, const znl_stream_options *options,
        const znl_stream_events *events, void *user)
{
    znl_stream *stream = znl_calloc(1, sizeof *stream);
    (void)loop;
    if (stream == NULL)
        return ZNL_E_NOMEM;
    STAGE_HOLDS(stage.stream == NULL && options->tls == NULL);
    stream->events = events;
    stream->user = user;
    stage.stream = *out = stream;
    stage.streams++;
    stage.dials++;
    stage.queued.size = 0;
    stage.port = options->port;
    stage.tls_name[0] = 0;
    snprintf(stage.host, sizeof stage.host, "%s", options->host);
    return 0;
}

int znl_stream_start_tls(
        znl_stream *stream, const znl_tls *tls, const char *host, uint32_t timeout_ms)
{
    (void)timeout_ms;
    STAGE_HOLDS(tls != NULL && stream->is_open && !stream->has_tls && stage.queued.size == 0);
    stream->has_tls = stream->is_shaking = 1;
    snprintf(stage.tls_name, sizeof stage.tls_name, "%s", host);
    return 0;
}

void znl_stream_close(znl_stream *stream, uint32_t linger_ms)
{
    if (stream == NULL)
        return;
    STAGE_HOLDS(stream == stage.stream);
    stage.linger_ms = linger_ms;
    stage.stream = NULL;
    stage.streams--;
    znl_free(stream);
}

int znl_stream_reserve(znl_stream *stream, size_t size, uint8_t **at)
{
    if (stream->has_ended)
        return ZNL_E_CLOSED;
    int err = znl_buffer_extend(&stage.queued, size);
    if (err == 0)
        *at = stage.queued.data + stage.queued.size;
    return err;
}

/* The peer takes it. */
static inline void stage_take(void)
{
    znl_buffer *to = stage.stream->has_tls ? &stage.sealed : &stage.plain;
    uint8_t *grown = realloc(
            to->data, to->size + stage.queued.size + 1); /* never fails on demand */
    STAGE_HOLDS(grown != NULL);
    memcpy(grown + to->size, stage.queued.data, stage.queued.size);
    to->data = grown;
    to->size += stage.queued.size;
    stage.queued.size = 0;
}

void znl_stream_commit(znl_stream *stream, size_t size)
{
    STAGE_HOLDS(stream == stage.stream && stream->is_open && !stream->is_shaking);
    stage.queued.size += size;
    if (!stage.keeps)
        stage_take();
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

size_t znl_stream_queued(const znl_stream *stream)
{
    (void)stream;
    return stage.queued.size;
}

int znl_tls_new(znl_tls **out, const znl_tls_options *options, char *text, size_t size)
{
    (void)options;
    (void)text;
    (void)size;
    *out = znl_calloc(1, 1);
    return *out != NULL ? 0 : ZNL_E_NOMEM;
}

void znl_tls_release(const znl_tls *tls)
{
    znl_free((void *)(uintptr_t)tls);
}

/* --- what a test does ----------------------------------------------------------------------------- */

/* Connected, or the hands are shaken. */
static inline void stage_open(void)
{
    stage.stream->is_open = 1;
    stage.stream->is_shaking = 0;
    stage.stream->events->on_open(stage.stream->user);
}

/* The peer sends, in one piece that is as large as it is. */
static inline void stage_send_bytes(const void *data, size_t size)
{
    uint8_t *copy = malloc(size + !size);
    STAGE_HOLDS(copy != NULL && stage.stream->is_open && !stage.stream->is_shaking);
    if (size > 0)
        memcpy(copy, data, size);
    if (size > 0)
        stage.stream->events->on_data(stage.stream->user, copy, size);
    free(copy);
}

static inline void stage_send(const char *text)
{
    stage_send_bytes(text, strlen(text));
}

static inline void stage_end(int err, const char *text)
{
    stage.stream->has_ended = 1;
    stage.stream->events->on_end(stage.stream->user, err, text);
}

static inline void stage_forget(void)
{
    stage.plain.size = stage.sealed.size = 0;
}

/* Whether the peer got `text`, in plain or under TLS. */
static inline int stage_got(const znl_buffer *what, const char *text)
{
    return what->size > 0 && memmem(what->data, what->size, text, strlen(text)) != NULL;
}

static inline void stage_fini(void)
{
    znl_buffer_fini(&stage.queued);
    free(stage.plain.data);
    free(stage.sealed.data);
    memset(&stage, 0, sizeof stage);
}

#endif
