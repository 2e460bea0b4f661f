/* http_server.c - see http_server.h.
 *
 *   reading -> (whole request) -> waiting for its answer -> reading ... -> gone
 *
 * A request is answered before the next of its connection is looked at. A connection that is gone stays
 * in memory while its request waits for the answer, or while a function below works on it.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/http_server.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

#include <stdio.h>
#include <string.h>

#define LINGER_MS 1000u /* for the last answer to arrive */
#define LINE_BYTES 256u

struct znl_http_exchange {
    znl_stream *stream;      /* NULL: the peer has gone, or it was upgraded */
    znl_http_server *server; /* NULL: closed */
    znl_http_exchange *next;
    znl_http_exchange **link; /* in a list of the server */
    znl_deferred again;       /* looks at what has arrived while the answer was awaited */
    znl_timer timer;
    znl_buffer input;  /* what is not answered yet; empty at rest */
    znl_frame rest;    /* what came after the request work() is on */
    size_t need;       /* bytes the request has in all; 0: not known yet */
    uint8_t has_begun; /* the timer runs for a request */
    uint8_t is_waiting;
    uint8_t is_busy; /* work() is on it */
    uint8_t is_head; /* HEAD: the answer has no body */
    uint8_t keeps_alive;
    uint8_t has_peer_ended; /* it may still read */
};

struct znl_http_server {
    znl_loop *loop;
    znl_listener *listener;
    znl_http_server_options options;
    znl_http_request_fn on_request;
    void *user;
    znl_http_exchange *open;
    znl_http_exchange *upgraded; /* kept for the rest they lend */
    znl_deferred sweep;
    znl_http_counters counters;
};

/* --- life -------------------------------------------------------------------------------------- */

static void enter(znl_http_exchange *it, znl_http_exchange **list)
{
    it->next = *list;
    it->link = list;
    if (it->next != NULL)
        it->next->link = &it->next;
    *list = it;
}

static void leave(znl_http_exchange *it)
{
    *it->link = it->next;
    if (it->next != NULL)
        it->next->link = it->link;
}

static void free_if_unused(znl_http_exchange *it)
{
    if (it->stream != NULL || it->is_waiting || it->is_busy)
        return;
    znl_buffer_fini(&it->input);
    znl_free(it);
}

/* Nothing of it happens any more; its memory may stay. */
static void detach(znl_http_exchange *it)
{
    znl_http_server *server = it->server;
    leave(it);
    it->server = NULL;
    it->stream = NULL;
    server->counters.connections--;
    znl_wheel_stop(znl_loop_wheel(server->loop), &it->timer);
    znl_loop_undefer(server->loop, &it->again);
}

static void drop(znl_http_exchange *it, uint32_t linger_ms)
{
    znl_stream *stream = it->stream;
    detach(it);
    znl_stream_close(stream, linger_ms);
    free_if_unused(it);
}

static void free_upgraded(znl_http_server *server)
{
    while (server->upgraded != NULL) {
        znl_http_exchange *it = server->upgraded;
        leave(it);
        znl_buffer_fini(&it->input);
        znl_free(it);
    }
}

static void on_sweep(znl_deferred *deferred)
{
    free_upgraded(
            (znl_http_server *)(void *)((char *)deferred - offsetof(znl_http_server, sweep)));
}

/* --- answering --------------------------------------------------------------------------------- */

/* 0, or an error: then nothing was written. */
static int write_answer(znl_http_exchange *it, int status, const char *headers, znl_frame body)
{
    char lines[LINE_BYTES];
    uint8_t *at;
    int has_body = status >= 200 && status != 204 && status != 304;
    int size = snprintf(
            lines, sizeof lines, "HTTP/1.1 %d %s\r\n", status, znl_http_status_text(status));
    if (has_body)
        size += snprintf(lines + size, sizeof lines - (size_t)size, "Content-Length: %zu\r\n",
                body.size);
    if (!it->keeps_alive)
        size += snprintf(lines + size, sizeof lines - (size_t)size, "Connection: close\r\n");
    size_t headers_size = strlen(headers);
    size_t body_size = has_body && !it->is_head ? body.size : 0;
    int err = znl_stream_reserve(it->stream, (size_t)size + headers_size + 2 + body_size, &at);
    if (err != 0)
        return err;
    memcpy(at, lines, (size_t)size);
    memcpy(at + size, headers, headers_size);
    at += (size_t)size + headers_size;
    memcpy(at, "\r\n", 2);
    if (body_size > 0)
        memcpy(at + 2, body.data, body_size);
    znl_stream_commit(it->stream, (size_t)size + headers_size + 2 + body_size);
    return 0;
}

/* Answers what cannot be served, and closes. */
static void refuse(znl_http_exchange *it, int status)
{
    char body[64];
    if (status == 408)
        it->server->counters.timeouts++;
    else
        it->server->counters.malformed++;
    it->keeps_alive = 0;
    snprintf(body, sizeof body, "%s\n", znl_http_status_text(status));
    write_answer(it, status, "Content-Type: text/plain\r\n", znl_frame_text(body));
    drop(it, LINGER_MS);
}

/* --- time -------------------------------------------------------------------------------------- */

static void on_late(znl_timer *timer)
{
    znl_http_exchange *it =
            (znl_http_exchange *)(void *)((char *)timer - offsetof(znl_http_exchange, timer));
    if (it->input.size > 0) {
        refuse(it, 408);
        return;
    }
    it->server->counters.timeouts++;
    drop(it, LINGER_MS);
}

static void start_timer(znl_http_exchange *it, uint32_t ms)
{
    znl_loop *loop = it->server->loop;
    znl_wheel_start(znl_loop_wheel(loop), &it->timer, znl_loop_now_ms(loop) + ms, on_late);
}

/* --- reading ----------------------------------------------------------------------------------- */

/* What a head asks of us before its body counts. 0, or the status that refuses it. */
static int check(const znl_http_server *server, const znl_http_head *head, uint64_t *body)
{
    int err;
    int is_host_sent = znl_http_header_of(head, "Host", &err).data != NULL;
    if (err != 0 || (!is_host_sent && head->minor == 1))
        return 400;
    znl_frame expected = znl_http_header_of(head, "Expect", &err);
    if (err != 0 || (expected.data != NULL && !znl_http_is(expected, "100-continue")))
        return 417;
    err = znl_http_body_size(head, body);
    if (err == ZNL_E_UNSUPPORTED)
        return 501;
    if (err != 0)
        return 400;
    return *body > server->options.max_body_bytes ? 413 : 0;
}

/* Serves the request at the start of `bytes`, if it is whole: the bytes it has, which are then used up.
 * 0: more must come, or it was refused. */
static size_t serve(znl_http_exchange *it, znl_frame bytes)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    znl_http_server *server = it->server;
    znl_http_head head;
    uint64_t body = 0;
    int status = 0;
    if (bytes.size < it->need)
        return 0;
    long lead = znl_http_read_request(bytes, &head);
    if (lead == 0 && bytes.size <= server->options.max_head_bytes)
        return 0;
    if (lead == ZNL_E_PROTO)
        status = 400;
    else if (lead <= 0 || (size_t)lead > server->options.max_head_bytes)
        status = 431;
    else
        status = check(server, &head, &body);
    if (status != 0) {
        refuse(it, status);
        return 0;
    }
    size_t need = (size_t)lead + (size_t)body;
    if (bytes.size < need) {
        if (it->need == 0 && head.minor == 1 && znl_http_lists(&head, "Expect", "100-continue"))
            znl_stream_write(it->stream, go_on, sizeof go_on - 1);
        it->need = need;
        return 0;
    }
    it->need = 0;
    it->has_begun = 0;
    it->is_waiting = 1;
    it->is_head = (uint8_t)znl_frame_equal(head.method, znl_frame_text("HEAD"));
    it->keeps_alive = (uint8_t)znl_http_keeps_alive(&head);
    it->rest = znl_frame_of(bytes.data + need, bytes.size - need);
    znl_wheel_stop(znl_loop_wheel(server->loop), &it->timer);
    server->counters.requests++;
    /* The server may be closed in there. */
    server->on_request(server->user, it, &head, znl_frame_of(bytes.data + lead, (size_t)body));
    return need;
}

/* 0 or ZNL_E_NOMEM. */
static int keep(znl_http_exchange *it, znl_frame rest)
{
    if (it->input.data == NULL)
        return rest.size > 0 ? znl_buffer_append(&it->input, rest.data, rest.size) : 0;
    memmove(it->input.data, rest.data, rest.size); /* `rest` lies in there */
    it->input.size = rest.size;
    if (rest.size == 0)
        znl_buffer_fini(&it->input);
    return 0;
}

/* Serves what is whole in `bytes`, all there is of it, until one has to wait for its answer. The exchange
 * may be freed afterwards. */
static void work(znl_http_exchange *it, znl_frame bytes)
{
    size_t used = 0;
    size_t count;
    it->is_busy = 1;
    do {
        count = serve(it, znl_frame_of(bytes.data + used, bytes.size - used));
        used += count;
    } while (count > 0 && used < bytes.size && it->stream != NULL && !it->is_waiting);
    it->is_busy = 0;
    if (it->stream == NULL) {
        free_if_unused(it);
    } else if (keep(it, znl_frame_of(bytes.data + used, bytes.size - used)) != 0 ||
            (it->has_peer_ended && !it->is_waiting)) {
        drop(it, LINGER_MS);
    } else if (!it->is_waiting && it->input.size > 0 && !it->has_begun) {
        it->has_begun = 1;
        start_timer(it, it->server->options.head_ms);
    } else if (!it->is_waiting && used > 0) {
        start_timer(it, it->server->options.idle_ms);
    }
}

static void on_again(znl_deferred *deferred)
{
    znl_http_exchange *it = (znl_http_exchange *)(void *)((char *)deferred -
            offsetof(znl_http_exchange, again));
    if (it->input.size == 0) {
        drop(it, LINGER_MS); /* the peer has ended, and was waited for */
        return;
    }
    znl_stream_pause(it->stream, 0); /* so much may have come meanwhile that it was paused */
    work(it, znl_frame_of(it->input.data, it->input.size));
}

/* Reading a head again from its start costs nothing as long as a line has not ended. */
static int may_be_whole(const znl_http_exchange *it, const uint8_t *data, size_t size)
{
    if (it->need > 0)
        return it->input.size >= it->need;
    return memchr(data, '\n', size) != NULL ||
            it->input.size > it->server->options.max_head_bytes;
}

static void on_data(void *user, uint8_t *data, size_t size)
{
    znl_http_exchange *it = user;
    if (it->input.size == 0 && !it->is_waiting) {
        work(it, znl_frame_of(data, size));
        return;
    }
    const znl_http_server_options *options = &it->server->options;
    if (znl_buffer_append(&it->input, data, size) != 0)
        drop(it, 0);
    else if (it->is_waiting || it->again.queued)
        znl_stream_pause(it->stream,
                it->input.size >= options->max_head_bytes + options->max_body_bytes);
    else if (may_be_whole(it, data, size))
        work(it, znl_frame_of(it->input.data, it->input.size));
}

static void on_open(void *user)
{
    (void)user; /* the time for the head runs since it was accepted */
}

static void on_end(void *user, int err, const char *text)
{
    znl_http_exchange *it = user;
    (void)text;
    if (err == 0 && (it->is_waiting || it->again.queued))
        it->has_peer_ended = 1;
    else
        drop(it, err == 0 ? LINGER_MS : 0);
}

static const znl_stream_events stream_events = {
        .on_open = on_open, .on_data = on_data, .on_end = on_end};

static void on_accept(void *user, znl_stream *stream)
{
    znl_http_server *server = user;
    znl_http_exchange *it = znl_calloc(1, sizeof *it);
    if (it == NULL) {
        server->counters.refused++;
        znl_stream_close(stream, 0);
        return;
    }
    it->stream = stream;
    it->server = server;
    it->again.run = on_again;
    it->has_begun = 1;
    enter(it, &server->open);
    server->counters.connections++;
    start_timer(it, server->options.head_ms);
    znl_stream_set_events(stream, &stream_events, it);
}

/* --- what the answering side calls ------------------------------------------------------------- */

const char *znl_http_peer(const znl_http_exchange *exchange)
{
    return exchange->stream != NULL ? znl_stream_peer(exchange->stream) : "";
}

void znl_http_respond(
        znl_http_exchange *exchange, int status, const char *headers, znl_frame body)
{
    znl_http_exchange *it = exchange;
    it->is_waiting = 0;
    if (it->stream == NULL) {
        free_if_unused(it);
    } else if (write_answer(it, status, headers, body) != 0) {
        drop(it, 0); /* no memory, or the peer asks and does not read */
    } else if (!it->keeps_alive) {
        drop(it, LINGER_MS);
    } else if (!it->is_busy) {
        znl_stream_pause(it->stream, 0);
        if (it->input.size > 0 || it->has_peer_ended)
            znl_loop_defer(it->server->loop, &it->again);
        else
            start_timer(it, it->server->options.idle_ms);
    }
}

znl_stream *znl_http_upgrade(znl_http_exchange *exchange, const char *headers, znl_frame *rest)
{
    static const char line[] = "HTTP/1.1 101 Switching Protocols\r\n";
    znl_http_exchange *it = exchange;
    size_t size = strlen(headers);
    uint8_t *at;
    it->is_waiting = 0;
    if (it->stream == NULL) {
        free_if_unused(it);
        return NULL;
    }
    if (it->has_peer_ended ||
            znl_stream_reserve(it->stream, sizeof line - 1 + size + 2, &at) != 0) {
        drop(it, 0);
        return NULL;
    }
    memcpy(at, line, sizeof line - 1);
    memcpy(at + sizeof line - 1, headers, size);
    memcpy(at + sizeof line - 1 + size, "\r\n", 2);
    znl_stream_commit(it->stream, sizeof line - 1 + size + 2);

    znl_stream *stream = it->stream;
    znl_http_server *server = it->server;
    *rest = it->is_busy ? it->rest : znl_frame_of(it->input.data, it->input.size);
    detach(it);
    znl_stream_pause(stream, 0);
    if (!it->is_busy) {
        enter(it, &server->upgraded);
        znl_loop_defer(server->loop, &server->sweep);
    }
    return stream;
}

/* --- opening and closing ----------------------------------------------------------------------- */

int znl_http_server_open(znl_http_server **out, znl_loop *loop,
        const znl_http_server_options *options, znl_http_request_fn on_request, void *user)
{
    znl_http_server *server = znl_calloc(1, sizeof *server);
    if (server == NULL)
        return ZNL_E_NOMEM;
    server->loop = loop;
    server->options = *options;
    server->options.listen.host = NULL; /* borrowed until now */
    server->options.listen.path = NULL;
    if (options->head_ms == 0)
        server->options.head_ms = ZNL_HANDSHAKE_MS_DEFAULT;
    if (options->idle_ms == 0)
        server->options.idle_ms = ZNL_HTTP_IDLE_MS_DEFAULT;
    if (options->max_head_bytes == 0)
        server->options.max_head_bytes = ZNL_HTTP_HEAD_BYTES_DEFAULT;
    if (options->max_body_bytes == 0)
        server->options.max_body_bytes = ZNL_HTTP_BODY_BYTES_DEFAULT;
    server->on_request = on_request;
    server->user = user;
    server->sweep.run = on_sweep;
    int err = znl_listener_open(&server->listener, loop, &options->listen, on_accept, server);
    if (err != 0) {
        znl_free(server);
        return err;
    }
    *out = server;
    return 0;
}

void znl_http_server_close(znl_http_server *server)
{
    if (server == NULL)
        return;
    znl_listener_close(server->listener);
    while (server->open != NULL) {
        znl_http_exchange *it = server->open;
        drop(it, znl_stream_queued(it->stream) > 0 ? LINGER_MS : 0);
    }
    free_upgraded(server);
    znl_loop_undefer(server->loop, &server->sweep);
    znl_free(server);
}

uint16_t znl_http_server_port(const znl_http_server *server)
{
    return znl_listener_port(server->listener);
}

void znl_http_server_count(const znl_http_server *server, znl_http_counters *out)
{
    *out = server->counters;
    out->accepted = znl_listener_accepted(server->listener);
    out->refused += znl_listener_refused(server->listener);
}
