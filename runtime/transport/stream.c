/* stream.c - the life of a stream; see stream.h and stream_parts.h.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/stream_parts.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define KEEPALIVE_S 60
#define PEER_BYTES 56u
#define LOCAL_PEER_BYTES (sizeof "unix:" + ZNL_SOCKET_PATH_BYTES_MAX)

/* --- life -------------------------------------------------------------------------------------- */

void znl_stream_gate_release(znl_stream_gate *gate)
{
    if (gate != NULL && --gate->users == 0)
        znl_free(gate);
}

static void free_stream(uv_handle_t *handle)
{
    znl_stream *stream = handle->data;
    znl_streams_give_back(stream->all, &stream->queue);
    znl_streams_give_back(stream->all, &stream->flying);
    znl_tls_session_free(stream->session);
    znl_stream_gate_release(stream->gate);
    znl_free(stream);
}

static int stream_new(znl_stream **out, znl_loop *loop, int is_local, size_t max_queue_bytes)
{
    size_t peer_bytes = is_local ? LOCAL_PEER_BYTES : PEER_BYTES;
    znl_streams *all = znl_streams_of(loop);
    znl_stream *stream = all != NULL ? znl_calloc(1, sizeof *stream + peer_bytes) : NULL;
    if (stream == NULL)
        return ZNL_E_NOMEM;
    /* Neither makes a socket yet. */
    int rc = is_local ? uv_pipe_init(znl_loop_uv(loop), &stream->socket.pipe, 0)
                      : uv_tcp_init(znl_loop_uv(loop), &stream->socket.tcp);
    if (rc != 0) {
        znl_free(stream);
        return znl_err_from_uv(rc);
    }
    stream->socket.handle.data = stream; /* from here only free_stream() may free it */
    stream->all = all;
    stream->is_local = is_local != 0;
    stream->early_bytes = ZNL_STREAM_EARLY_BYTES;
    stream->max_queue_bytes = max_queue_bytes != 0 ? max_queue_bytes
                                                   : ZNL_STREAM_QUEUE_BYTES_DEFAULT;
    *out = stream;
    return 0;
}

/* 0, ZNL_E_NOMEM, ZNL_E_INVALID. */
static int use_tls(znl_stream *stream, const znl_tls *tls, const char *host)
{
    znl_streams *all = stream->all;
    if (tls == NULL)
        return 0;
    if (all->plain == NULL)
        all->plain = znl_malloc(ZNL_TLS_RECORD_BYTES);
    return all->plain != NULL ? znl_tls_session_new(&stream->session, tls, host) : ZNL_E_NOMEM;
}

void znl_stream_destroy(znl_stream *stream)
{
    if (stream->state == ZNL_STREAM_GONE)
        return;
    stream->state = ZNL_STREAM_GONE;
    if (stream->gate != NULL)
        stream->gate->open--;
    znl_dial_free(stream->dial);
    stream->dial = NULL;
    znl_wheel_stop(znl_loop_wheel(stream->all->loop), &stream->timer);
    znl_stream_leave_lists(stream);
    uv_close(&stream->socket.handle, free_stream);
}

void znl_stream_end(znl_stream *stream, int err, const char *text)
{
    if (stream->state == ZNL_STREAM_LINGERING || stream->state == ZNL_STREAM_GONE) {
        znl_stream_destroy(stream);
        return;
    }
    stream->state = ZNL_STREAM_ENDED;
    if (err != 0 && stream->write_error == 0)
        stream->write_error = UV_EPIPE;
    znl_wheel_stop(znl_loop_wheel(stream->all->loop), &stream->timer);
    uv_read_stop(&stream->socket.stream);
    stream->events->on_end(stream->user, err, text);
}

void znl_stream_end_by_system(znl_stream *stream, int code)
{
    znl_stream_end(stream, znl_dial_error(-code), uv_strerror(code));
}

/* --- opening and closing ----------------------------------------------------------------------- */

static void on_late(znl_timer *timer)
{
    znl_stream *stream = (znl_stream *)(void *)((char *)timer - offsetof(znl_stream, timer));
    if (stream->state == ZNL_STREAM_SHAKING)
        znl_stream_end(stream, ZNL_E_TIMEOUT, "TLS: hands were not shaken in time");
    else
        znl_stream_destroy(stream);
}

void znl_stream_close(znl_stream *stream, uint32_t linger_ms)
{
    if (stream == NULL)
        return;
    int has_nothing_to_say = stream->has_peer_ended && znl_stream_queued(stream) == 0;
    if (linger_ms == 0 || stream->state < ZNL_STREAM_OPEN || stream->state > ZNL_STREAM_ENDED ||
            stream->write_error != 0 || has_nothing_to_say) {
        znl_stream_destroy(stream);
        return;
    }
    znl_loop *loop = stream->all->loop;
    stream->state = ZNL_STREAM_LINGERING;
    znl_stream_enter_lingering(stream);
    znl_wheel_start(
            znl_loop_wheel(loop), &stream->timer, znl_clock_mono_ms() + linger_ms, on_late);
    if (!stream->has_peer_ended && !stream->has_input_ended)
        znl_stream_start_reading(stream);
    if (stream->in_air == 0)
        znl_stream_offer(stream); /* what fails is found in its turn */
    znl_stream_schedule(stream);
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
    if (address->sa_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)(const void *)address;
        snprintf(text, size, "unix:%s", un->sun_path);
        return;
    }
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
static int take_socket(znl_stream *stream, int fd)
{
    int rc = stream->is_local ? uv_pipe_open(&stream->socket.pipe, fd)
                              : uv_tcp_open(&stream->socket.tcp, fd);
    if (rc != 0)
        return rc;
    stream->state = stream->session != NULL ? ZNL_STREAM_SHAKING : ZNL_STREAM_OPEN;
    if (!stream->is_paused || stream->session != NULL)
        znl_stream_start_reading(stream);
    if (stream->session != NULL)
        znl_wheel_start(znl_loop_wheel(stream->all->loop), &stream->timer, stream->deadline_ms,
                on_late);
    else if (stream->queue.size > 0 || stream->wants_writable)
        znl_stream_schedule(stream);
    return 0;
}

static void on_dialed(void *user, int fd, int err, const char *text)
{
    znl_stream *stream = user;
    struct sockaddr_storage peer = {.ss_family = AF_INET};
    socklen_t size = sizeof peer;
    if (fd < 0) {
        znl_stream_end(stream, err, text);
        return;
    }
    if (!stream->is_local) {
        znl_stream_tune(fd);
        /* It may have gone again: then reading tells. */
        getpeername(fd, (struct sockaddr *)&peer, &size);
        znl_stream_name((const struct sockaddr *)&peer, stream->peer, PEER_BYTES);
    }
    int rc = take_socket(stream, fd);
    if (rc != 0) {
        close(fd);
        znl_stream_end_by_system(stream, rc);
        return;
    }
    znl_dial_free(stream->dial);
    stream->dial = NULL;
    if (stream->session != NULL)
        znl_stream_read_tls(stream); /* says hello */
    else
        stream->events->on_open(stream->user);
}

int znl_stream_connect(znl_stream **out, znl_loop *loop, const znl_stream_options *options,
        const znl_stream_events *events, void *user)
{
    znl_stream *stream = NULL;
    uint32_t timeout_ms = options->timeout_ms != 0 ? options->timeout_ms
                                                   : ZNL_CONNECT_MS_DEFAULT;
    int err = stream_new(&stream, loop, options->path != NULL, options->max_queue_bytes);
    if (err != 0)
        return err;
    znl_stream_set_events(stream, events, user);
    if (options->early_bytes != 0)
        stream->early_bytes = options->early_bytes;
    stream->deadline_ms = znl_clock_mono_ms() + timeout_ms;
    if (options->path != NULL) {
        snprintf(stream->peer, LOCAL_PEER_BYTES, "unix:%s", options->path);
        err = use_tls(
                stream, options->tls, options->host != NULL ? options->host : "localhost");
        if (err == 0)
            err = znl_dial_path(
                    &stream->dial, loop, options->path, timeout_ms, on_dialed, stream);
    } else {
        err = use_tls(stream, options->tls, options->host);
        if (err == 0)
            err = znl_dial_new(&stream->dial, loop, options->host, options->port, timeout_ms,
                    on_dialed, stream);
    }
    if (err != 0) {
        znl_stream_destroy(stream);
        return err;
    }
    *out = stream;
    return 0;
}

int znl_stream_start_tls(
        znl_stream *stream, const znl_tls *tls, const char *host, uint32_t timeout_ms)
{
    if (stream->state != ZNL_STREAM_OPEN || stream->session != NULL ||
            znl_stream_queued(stream) > 0)
        return ZNL_E_INVALID;
    int err = use_tls(stream, tls, host);
    if (err != 0)
        return err;
    stream->state = ZNL_STREAM_SHAKING;
    if (stream->is_paused) /* hands are shaken all the same */
        znl_stream_start_reading(stream);
    stream->deadline_ms = znl_clock_mono_ms() + timeout_ms;
    znl_wheel_start(
            znl_loop_wheel(stream->all->loop), &stream->timer, stream->deadline_ms, on_late);
    stream->is_resumed = 1; /* says hello, from the loop */
    znl_stream_schedule(stream);
    return 0;
}

int znl_stream_adopt(znl_stream **out, znl_loop *loop, const znl_stream_adoption *adoption)
{
    znl_stream *stream = NULL;
    uint32_t handshake_ms = adoption->handshake_ms != 0 ? adoption->handshake_ms
                                                        : ZNL_HANDSHAKE_MS_DEFAULT;
    int err = stream_new(
            &stream, loop, adoption->peer->sa_family == AF_UNIX, adoption->max_queue_bytes);
    if (err != 0)
        return err;
    stream->deadline_ms = znl_loop_now_ms(loop) + handshake_ms;
    err = use_tls(stream, adoption->tls, NULL);
    if (err != 0) {
        znl_stream_destroy(stream);
        return err;
    }
    znl_stream_name(
            adoption->peer, stream->peer, stream->is_local ? LOCAL_PEER_BYTES : PEER_BYTES);
    int rc = take_socket(stream, adoption->fd);
    if (rc != 0) {
        znl_stream_destroy(stream);
        return znl_err_from_uv(rc);
    }
    stream->gate = adoption->gate;
    stream->gate->users++;
    stream->gate->open++;
    *out = stream;
    return 0;
}
