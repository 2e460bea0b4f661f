/* WebSocket connections over real sockets, both ends of them on one loop; bare streams play peers that do
 * what RFC 6455 forbids. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/random.h"
#include "codec/websocket_reader.h"
#include "support/turns.h"
#include "transport/websocket.h"
#include "transport/websocket_handshake.h"

/* --- an end of ours ---------------------------------------------------------------------------- */

enum action { NOTHING, DROP, CLOSE, PAUSE };

struct end {
    znl_ws *ws;
    int opened, messages, texts, pongs, writable, closed;
    int err;
    uint16_t code;
    char why[200];
    uint8_t last[64];
    size_t last_size;
    size_t bytes;
    uint64_t sum;
    int echoes;
    enum action on_open, on_message;
    int keeps_closed; /* does not drop it in on_close */
};

static void act(struct end *end, enum action action)
{
    if (action == DROP) {
        znl_ws_drop(end->ws, 0);
        end->ws = NULL;
    } else if (action == CLOSE) {
        znl_ws_close(end->ws, 1000, "enough");
    } else if (action == PAUSE) {
        znl_ws_pause(end->ws, 1);
    }
}

static void on_open(void *user, const znl_http_head *head)
{
    struct end *end = user;
    assert_int_equal(head->status, 101);
    assert_true(znl_ws_is_open(end->ws));
    end->opened++;
    act(end, end->on_open);
}

static void on_message(void *user, uint8_t *data, size_t size, int is_text)
{
    struct end *end = user;
    assert_non_null(end->ws);
    assert_int_equal(end->closed, 0);
    end->messages++;
    end->texts += is_text;
    end->bytes += size;
    end->last_size = size < sizeof end->last ? size : sizeof end->last;
    memcpy(end->last, data, end->last_size);
    for (size_t i = 0; i < size; i++)
        end->sum = end->sum * 31 + data[i];
    memset(data, 0, size); /* it may be changed */
    if (end->echoes)
        assert_int_equal(znl_ws_send(end->ws, is_text, end->last, end->last_size), 0);
    act(end, end->on_message);
}

static void on_pong(void *user)
{
    struct end *end = user;
    end->pongs++;
}

static void on_writable(void *user)
{
    struct end *end = user;
    end->writable++;
}

static void on_close(void *user, int err, uint16_t code, const char *text)
{
    struct end *end = user;
    assert_non_null(end->ws);
    assert_int_equal(znl_ws_send(end->ws, 1, "x", 1), ZNL_E_CLOSED);
    end->closed++;
    end->err = err;
    end->code = code;
    snprintf(end->why, sizeof end->why, "%s", text);
    if (end->keeps_closed)
        return;
    znl_ws_drop(end->ws, 0);
    end->ws = NULL;
}

static const znl_ws_events ws_events = {
        .on_open = on_open,
        .on_message = on_message,
        .on_pong = on_pong,
        .on_writable = on_writable,
        .on_close = on_close,
};

/* --- a bare end: bytes ------------------------------------------------------------------------- */

struct bare {
    znl_stream *stream;
    uint8_t bytes[8192];
    size_t size;
    size_t total;
    int ended;
};

static void bare_open(void *user)
{
    (void)user;
}

static void bare_data(void *user, uint8_t *data, size_t size)
{
    struct bare *bare = user;
    size_t part = size < sizeof bare->bytes - 1 - bare->size
            ? size
            : sizeof bare->bytes - 1 - bare->size;
    memcpy(bare->bytes + bare->size, data, part);
    bare->size += part;
    bare->total += size;
    bare->bytes[bare->size] = 0;
}

static void bare_end(void *user, int err, const char *text)
{
    struct bare *bare = user;
    (void)err;
    (void)text;
    bare->ended++;
}

static const znl_stream_events bare_events = {
        .on_open = bare_open, .on_data = bare_data, .on_end = bare_end};

static void bare_write(struct bare *bare, const void *data, size_t size)
{
    assert_int_equal(znl_stream_write(bare->stream, data, size), 0);
}

#define WRITE(bare, text) bare_write(bare, text, sizeof(text) - 1)

static void bare_close(struct bare *bare)
{
    znl_stream_close(bare->stream, 0);
    bare->stream = NULL;
}

/* Sends a frame masked, as clients must. */
static void bare_frame(
        struct bare *bare, unsigned opcode, int is_final, const void *data, size_t size)
{
    uint8_t *bytes = malloc(size + ZNL_WS_HEAD_BYTES_MAX);
    assert_non_null(bytes);
    znl_ws_head head = {.opcode = (uint8_t)opcode,
            .is_final = (uint8_t)is_final,
            .is_masked = 1,
            .mask = 0xa1b2c3d4,
            .size = size};
    size_t lead = znl_ws_head_write(bytes, &head);
    znl_ws_mask_copy(bytes + lead, data, size, head.mask);
    bare_write(bare, bytes, lead + size);
    free(bytes);
}

/* --- a bare server, and a client of ours ------------------------------------------------------- */

struct scene {
    znl_loop *loop;
    znl_listener *listener;
    znl_http_server *server;
    struct bare bare;   /* of the test */
    struct end client;  /* of ours */
    struct end servant; /* of ours, accepted */
    znl_ws_limits limits;
    znl_http_exchange *exchange; /* kept, when `is_late` */
    int is_late;
    int status;
};

static void bare_accept(void *user, znl_stream *stream)
{
    struct scene *scene = user;
    assert_null(scene->bare.stream);
    scene->bare.stream = stream;
    znl_stream_set_events(stream, &bare_events, &scene->bare);
}

static int set_up(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    assert_non_null(scene);
    assert_int_equal(znl_random_start(), 0);
    assert_int_equal(znl_loop_new(&scene->loop), 0);
    scene->limits.close_ms = 60;
    *state = scene;
    return 0;
}

static int tear_down(void **state)
{
    struct scene *scene = *state;
    znl_ws_drop(scene->client.ws, 0);
    znl_ws_drop(scene->servant.ws, 0);
    znl_stream_close(scene->bare.stream, 0);
    znl_listener_close(scene->listener);
    znl_http_server_close(scene->server);
    run_for(scene->loop, 5);
    assert_int_equal(znl_loop_close(scene->loop), 0);
    free(scene);
    return 0;
}

static void listen_bare(struct scene *scene)
{
    const znl_listener_options options = {.host = "127.0.0.1"};
    assert_int_equal(
            znl_listener_open(&scene->listener, scene->loop, &options, bare_accept, scene), 0);
}

static void connect_to(struct scene *scene, uint16_t port, uint32_t timeout_ms)
{
    const znl_ws_connect_options options = {
            .stream = {.host = "127.0.0.1", .port = port, .timeout_ms = timeout_ms},
            .path = "/a/b?c=d",
            .protocols = "one, two",
            .headers = "X-Test: 1\r\n",
            .limits = scene->limits,
    };
    assert_int_equal(znl_ws_connect(&scene->client.ws, scene->loop, &options, &ws_events,
                             &scene->client),
            0);
    assert_false(znl_ws_is_open(scene->client.ws));
    assert_int_equal(znl_ws_send(scene->client.ws, 1, "x", 1), ZNL_E_CLOSED);
}

/* The client has asked: its whole head is there. */
static void await_head(struct scene *scene)
{
    RUN_UNTIL(scene->loop, strstr((char *)scene->bare.bytes, "\r\n\r\n") != NULL);
}

/* Answers 101, with `more` lines, and the bytes after them. */
static void answer_with(struct scene *scene, const char *more, const void *rest, size_t size)
{
    char accept[ZNL_WS_ACCEPT_CHARS + 1];
    char text[600];
    const char *key = strstr((char *)scene->bare.bytes, "Sec-WebSocket-Key: ");
    assert_non_null(key);
    znl_ws_key_answer(key + strlen("Sec-WebSocket-Key: "), accept);
    int count = snprintf(text, sizeof text - size,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n"
            "Sec-WebSocket-Accept: %s\r\n%s\r\n",
            accept, more);
    assert_true(count > 0 && (size_t)count < sizeof text - size);
    memcpy(text + count, rest, size);
    bare_write(&scene->bare, text, (size_t)count + size);
}

/* A client of ours, open, its bare peer. */
static void open_client(struct scene *scene)
{
    listen_bare(scene);
    connect_to(scene, znl_listener_port(scene->listener), 0);
    await_head(scene);
    answer_with(scene, "", "", 0);
    RUN_UNTIL(scene->loop, scene->client.opened == 1);
    scene->bare.size = 0;
}

static void keys_are_answered(void **state)
{
    (void)state;
    char accept[ZNL_WS_ACCEPT_CHARS + 1];
    char key[ZNL_WS_KEY_CHARS + 1];
    char other[ZNL_WS_KEY_CHARS + 1];
    znl_ws_key_answer("dGhlIHNhbXBsZSBub25jZQ==", accept); /* section 1.3 */
    assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    znl_ws_key_make(key);
    znl_ws_key_make(other);
    assert_int_equal(strlen(key), 24);
    assert_string_not_equal(key, other);
}

static void client_asks_as_it_should(void **state)
{
    struct scene *scene = *state;
    listen_bare(scene);
    uint16_t port = znl_listener_port(scene->listener);
    connect_to(scene, port, 0);
    await_head(scene);
    char want[600];
    const char *bytes = (const char *)scene->bare.bytes;
    const char *key = strstr(bytes, "Sec-WebSocket-Key: ");
    assert_non_null(key);
    snprintf(want, sizeof want,
            "GET /a/b?c=d HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: %.24s\r\nSec-WebSocket-Protocol: one, two\r\n"
            "X-Test: 1\r\n\r\n",
            port, key + strlen("Sec-WebSocket-Key: "));
    assert_string_equal(bytes, want);
    /* What follows the answer at once is not lost. */
    answer_with(scene, "Sec-WebSocket-Protocol: two\r\n", "\x81\x02hi\x81\x02yo", 8);
    RUN_UNTIL(scene->loop, scene->client.messages == 2);
    assert_int_equal(scene->client.opened, 1);
    assert_memory_equal(scene->client.last, "yo", 2);
    assert_int_equal(strncmp(znl_ws_peer(scene->client.ws), "127.0.0.1:", 10), 0);
}

static void hosts_are_written_for_http(void **state)
{
    (void)state;
    static const struct {
        znl_ws_request request;
        const char *host;
    } cases[] = {
            {{.host = "example.org", .port = 80, .path = "/"}, "\r\nHost: example.org\r\n"},
            {{.host = "example.org", .port = 80, .is_tls = 1, .path = "/"},
                    "\r\nHost: example.org:80\r\n"},
            {{.host = "example.org", .port = 443, .is_tls = 1, .path = "/"},
                    "\r\nHost: example.org\r\n"},
            {{.host = "::1", .port = 8080, .path = "/"}, "\r\nHost: [::1]:8080\r\n"},
            {{.host = "[::1]", .port = 8080, .path = "/"}, "\r\nHost: [::1]:8080\r\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        znl_buffer out = {0};
        assert_int_equal(
                znl_ws_request_write(&out, &cases[i].request, "dGhlIHNhbXBsZSBub25jZQ=="), 0);
        assert_int_equal(znl_buffer_append(&out, "", 1), 0);
        assert_non_null(strstr((char *)out.data, cases[i].host));
        znl_buffer_fini(&out);
    }
    static const char *const paths[] = {
            "", "a", "/a b", "/a\r\nX: y", "/\x7f", "/\xc3\xa4", "/\t"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        znl_buffer out = {0};
        const znl_ws_request request = {.host = "h", .port = 80, .path = paths[i]};
        assert_int_equal(znl_ws_request_write(&out, &request, "dGhlIHNhbXBsZSBub25jZQ=="),
                ZNL_E_INVALID);
        znl_buffer_fini(&out);
    }
}

/* A fresh client for each way to refuse it. */
static void expect_refusal(struct scene *scene, const char *answer, const char *more, int err,
        uint16_t code, const char *why)
{
    memset(&scene->client, 0, sizeof scene->client);
    scene->bare.size = 0;
    scene->bare.bytes[0] = 0;
    connect_to(scene, znl_listener_port(scene->listener), 0);
    await_head(scene);
    if (answer != NULL)
        bare_write(&scene->bare, answer, strlen(answer));
    else
        answer_with(scene, more, "", 0);
    RUN_UNTIL(scene->loop, scene->client.closed == 1);
    assert_int_equal(scene->client.err, err);
    assert_int_equal(scene->client.code, code);
    assert_string_equal(scene->client.why, why);
    assert_int_equal(scene->client.opened, 0);
    bare_close(&scene->bare);
}

static void answers_are_checked(void **state)
{
    struct scene *scene = *state;
    listen_bare(scene);
    expect_refusal(scene, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", NULL,
            ZNL_E_REFUSED, 403, "the server answered 403 instead of a WebSocket");
    expect_refusal(scene, "HTTP/1.1 302 Found\r\nLocation: ws://evil/\r\n\r\n", NULL,
            ZNL_E_REFUSED, 302, "the server answered 302 instead of a WebSocket");
    expect_refusal(scene,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: "
            "Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            NULL, ZNL_E_PROTO, 0, "the server answered 101 with a wrong Sec-WebSocket-Accept");
    expect_refusal(scene, "HTTP/1.1 101 Switching Protocols\r\n\r\n", NULL, ZNL_E_PROTO, 0,
            "the server answered 101 with no Upgrade to websocket");
    expect_refusal(scene, "SSH-2.0-OpenSSH_9.2\r\n\r\n", NULL, ZNL_E_PROTO, 0,
            "the server answered no HTTP");
    expect_refusal(scene, NULL, "Sec-WebSocket-Extensions: permessage-deflate\r\n", ZNL_E_PROTO,
            0, "the server answered 101 with an extension that was not asked for");
    expect_refusal(scene, NULL, "Sec-WebSocket-Protocol: three\r\n", ZNL_E_PROTO, 0,
            "the server answered 101 with a subprotocol that was not asked for");
    expect_refusal(scene, NULL,
            "Sec-WebSocket-Protocol: one\r\nSec-WebSocket-Protocol: two\r\n", ZNL_E_PROTO, 0,
            "the server answered 101 with a subprotocol that was not asked for");
    /* Ends before it answers. */
    memset(&scene->client, 0, sizeof scene->client);
    connect_to(scene, znl_listener_port(scene->listener), 0);
    RUN_UNTIL(scene->loop, scene->bare.stream != NULL);
    znl_stream_close(scene->bare.stream, 1000);
    scene->bare.stream = NULL;
    RUN_UNTIL(scene->loop, scene->client.closed == 1);
    assert_int_equal(scene->client.err, ZNL_E_GONE);
}

static void endless_answers_end(void **state)
{
    struct scene *scene = *state;
    char line[1024];
    listen_bare(scene);
    connect_to(scene, znl_listener_port(scene->listener), 0);
    await_head(scene);
    WRITE(&scene->bare, "HTTP/1.1 101 Switching Protocols\r\n");
    memset(line, 'x', sizeof line);
    memcpy(line, "A: ", 3);
    memcpy(line + sizeof line - 2, "\r\n", 2);
    for (int i = 0; i < 20 && scene->client.closed == 0; i++) {
        if (znl_stream_write(scene->bare.stream, line, sizeof line) != 0)
            break;
        run_for(scene->loop, 2);
    }
    RUN_UNTIL(scene->loop, scene->client.closed == 1);
    assert_int_equal(scene->client.err, ZNL_E_TOO_BIG);
}

static void silent_servers_time_out(void **state)
{
    struct scene *scene = *state;
    listen_bare(scene);
    connect_to(scene, znl_listener_port(scene->listener), 40);
    await_head(scene);
    WRITE(&scene->bare, "HTTP/1.1 101 Sw");
    RUN_UNTIL(scene->loop, scene->client.closed == 1);
    assert_int_equal(scene->client.err, ZNL_E_TIMEOUT);
    assert_string_equal(scene->client.why, "no answer to the upgrade in time");
}

static void closing_before_it_is_open_cancels(void **state)
{
    struct scene *scene = *state;
    listen_bare(scene);
    connect_to(scene, znl_listener_port(scene->listener), 0);
    znl_ws_close(scene->client.ws, 1000, "no");
    znl_ws_close(scene->client.ws, 1000, "no");
    assert_int_equal(scene->client.closed, 0); /* never from inside a call */
    RUN_UNTIL(scene->loop, scene->client.closed == 1);
    assert_int_equal(scene->client.err, ZNL_E_CANCELLED);
}

static void unreachable_servers_are_told(void **state)
{
    struct scene *scene = *state;
    listen_bare(scene);
    uint16_t port = znl_listener_port(scene->listener);
    znl_listener_close(scene->listener);
    scene->listener = NULL;
    connect_to(scene, port, 0);
    RUN_UNTIL(scene->loop, scene->client.closed == 1);
    assert_int_equal(scene->client.err, ZNL_E_UNREACHABLE);
}

/* --- frames of a client ------------------------------------------------------------------------ */

/* Reads what the client has sent, as a server does: "T:hi C1000:bye". */
static void expect_sent(struct scene *scene, const char *want)
{
    znl_ws_reader reader;
    znl_ws_item item;
    char found[600] = "";
    uint8_t bytes[sizeof scene->bare.bytes];
    memcpy(bytes, scene->bare.bytes, scene->bare.size);
    znl_ws_reader_init(&reader, 1, 100000, 1);
    znl_ws_reader_feed(&reader, bytes, scene->bare.size);
    int got;
    while ((got = znl_ws_reader_next(&reader, &item)) == 1) {
        static const char kinds[] = "?TB?????CPO";
        size_t at = strlen(found);
        snprintf(found + at, sizeof found - at, "%s%c%.0u:%.*s", at > 0 ? " " : "",
                kinds[item.opcode], item.code, (int)item.size, (char *)item.data);
    }
    assert_int_equal(got, 0);
    assert_string_equal(found, want);
    znl_ws_reader_fini(&reader);
}

static void clients_mask_what_they_send(void **state)
{
    struct scene *scene = *state;
    open_client(scene);
    assert_int_equal(znl_ws_send(scene->client.ws, 1, "hello", 5), 0);
    assert_int_equal(znl_ws_send(scene->client.ws, 0, "", 0), 0);
    assert_int_equal(znl_ws_ping(scene->client.ws), 0);
    RUN_UNTIL(scene->loop, scene->bare.size == 11 + 6 + 6);
    expect_sent(scene, "T:hello B: P:");
    assert_memory_not_equal(scene->bare.bytes + 2, scene->bare.bytes + 13, 4); /* fresh masks */
    WRITE(&scene->bare, "\x8a\x00");
    RUN_UNTIL(scene->loop, scene->client.pongs == 1);
}

static void pings_are_answered(void **state)
{
    struct scene *scene = *state;
    open_client(scene);
    WRITE(&scene->bare, "\x89\x04ping\x89\x00");
    RUN_UNTIL(scene->loop, scene->bare.size == 10 + 6);
    expect_sent(scene, "O:ping O:");
}

static void closing_waits_for_the_peer(void **state)
{
    struct scene *scene = *state;
    open_client(scene);
    znl_ws_close(scene->client.ws, 0, "never sent");
    znl_ws_close(scene->client.ws, 1000, "too late");
    assert_false(znl_ws_is_open(scene->client.ws));
    assert_int_equal(znl_ws_send(scene->client.ws, 1, "x", 1), ZNL_E_CLOSED);
    assert_int_equal(znl_ws_ping(scene->client.ws), ZNL_E_CLOSED);
    RUN_UNTIL(scene->loop, scene->bare.size == 6);
    expect_sent(scene, "C:");
    WRITE(&scene->bare, "\x81\x02no\x89\x00"); /* on their way: nobody is interested any more */
    run_for(scene->loop, 10);
    assert_int_equal(scene->client.closed, 0);
    WRITE(&scene->bare, "\x88\x00");
    RUN_UNTIL(scene->loop, scene->client.closed == 1);
    assert_int_equal(scene->client.err, 0);
    assert_int_equal(scene->client.code, 0);
    assert_int_equal(scene->client.messages, 0);
    RUN_UNTIL(scene->loop, scene->bare.ended == 1);
    expect_sent(scene, "C:");
}

static void the_end_of_the_socket_after_close_is_in_order(void **state)
{
    struct scene *scene = *state;
    open_client(scene);
    znl_ws_close(scene->client.ws, 1001, "bye");
    RUN_UNTIL(scene->loop, scene->bare.size == 11);
    expect_sent(scene, "C1001:bye");
    znl_stream_close(scene->bare.stream, 100);
    scene->bare.stream = NULL;
    RUN_UNTIL(scene->loop, scene->client.closed == 1);
    assert_int_equal(scene->client.err, 0);
}

static void peers_that_never_close_are_dropped(void **state)
{
    struct scene *scene = *state;
    open_client(scene);
    znl_ws_close(scene->client.ws, 1000, "");
    RUN_UNTIL(scene->loop, scene->client.closed == 1);
    assert_int_equal(scene->client.err, ZNL_E_TIMEOUT);
    assert_string_equal(scene->client.why, "the peer did not close in time");
    RUN_UNTIL(scene->loop, scene->bare.ended == 1);
}

static void the_peers_close_is_answered(void **state)
{
    struct scene *scene = *state;
    open_client(scene);
    WRITE(&scene->bare,
            "\x88\x05\x03\xe9"
            "bye\x81\x01x");
    RUN_UNTIL(scene->loop, scene->bare.ended == 1);
    assert_int_equal(scene->client.closed, 1);
    assert_int_equal(scene->client.err, 0);
    assert_int_equal(scene->client.code, 1001);
    assert_string_equal(scene->client.why, "bye");
    assert_int_equal(scene->client.messages, 0);
    expect_sent(scene, "C1001:");
}

static void a_socket_that_just_ends_is_gone(void **state)
{
    struct scene *scene = *state;
    open_client(scene);
    WRITE(&scene->bare, "\x81\x01x\x81\x05hel"); /* also in the middle of a message */
    znl_stream_close(scene->bare.stream, 100);
    scene->bare.stream = NULL;
    RUN_UNTIL(scene->loop, scene->client.closed == 1);
    assert_int_equal(scene->client.messages, 1);
    assert_int_equal(scene->client.err, ZNL_E_GONE);
    assert_int_equal(scene->client.code, 0);
}

static void owners_may_drop_it_anywhere(void **state)
{
    struct scene *scene = *state;
    listen_bare(scene);
    scene->client.on_open = DROP;
    connect_to(scene, znl_listener_port(scene->listener), 0);
    await_head(scene);
    answer_with(scene, "", "\x81\x02hi", 4);
    RUN_UNTIL(scene->loop, scene->bare.ended == 1);
    assert_null(scene->client.ws);
    assert_int_equal(scene->client.messages, 0);
    bare_close(&scene->bare);

    memset(&scene->client, 0, sizeof scene->client);
    memset(&scene->bare, 0, sizeof scene->bare);
    scene->client.on_message = DROP;
    connect_to(scene, znl_listener_port(scene->listener), 0);
    await_head(scene);
    answer_with(scene, "", "\x81\x02hi\x81\x02yo", 8);
    RUN_UNTIL(scene->loop, scene->bare.ended == 1);
    assert_int_equal(scene->client.messages, 1);
    assert_int_equal(scene->client.closed, 0);
    bare_close(&scene->bare);

    memset(&scene->client, 0, sizeof scene->client);
    memset(&scene->bare, 0, sizeof scene->bare);
    scene->client.on_message = CLOSE;
    connect_to(scene, znl_listener_port(scene->listener), 0);
    await_head(scene);
    answer_with(scene, "", "\x81\x02hi\x81\x02yo\x88\x00", 10);
    RUN_UNTIL(scene->loop, scene->client.closed == 1);
    assert_int_equal(scene->client.messages, 1);
    assert_int_equal(scene->client.err, 0);

    memset(&scene->client, 0, sizeof scene->client); /* before anything happens */
    bare_close(&scene->bare);
    connect_to(scene, znl_listener_port(scene->listener), 0);
    act(&scene->client, DROP);
}

/* --- a server of ours -------------------------------------------------------------------------- */

static void accept_now(struct scene *scene, const znl_http_head *head)
{
    znl_http_exchange *exchange = scene->exchange;
    scene->exchange = NULL;
    assert_int_equal(znl_ws_accept(&scene->servant.ws, scene->loop, exchange, head,
                             "X-Answer: 2\r\n", &scene->limits, &ws_events, &scene->servant),
            0);
    assert_true(znl_ws_is_open(scene->servant.ws));
}

static void on_request(
        void *user, znl_http_exchange *exchange, const znl_http_head *head, znl_frame body)
{
    struct scene *scene = user;
    (void)body;
    scene->exchange = exchange;
    if (!znl_ws_is_upgrade(head, &scene->status))
        znl_ws_refuse(exchange, scene->status, "no");
    else if (!scene->is_late)
        accept_now(scene, head);
}

static void listen_http(struct scene *scene)
{
    const znl_http_server_options options = {
            .listen = {.host = "127.0.0.1", .max_queue_bytes = scene->limits.max_queue_bytes}};
    assert_int_equal(
            znl_http_server_open(&scene->server, scene->loop, &options, on_request, scene), 0);
}

static const char upgrade[] =
        "GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

static void connect_bare(struct scene *scene)
{
    const znl_stream_options options = {
            .host = "127.0.0.1", .port = znl_http_server_port(scene->server)};
    memset(&scene->bare, 0, sizeof scene->bare);
    assert_int_equal(znl_stream_connect(&scene->bare.stream, scene->loop, &options,
                             &bare_events, &scene->bare),
            0);
}

/* A connection accepted by ours, its bare peer. */
static void open_servant(struct scene *scene)
{
    if (scene->server == NULL)
        listen_http(scene);
    connect_bare(scene);
    WRITE(&scene->bare, upgrade);
    RUN_UNTIL(scene->loop, strstr((char *)scene->bare.bytes, "\r\n\r\n") != NULL);
    assert_non_null(scene->servant.ws);
    scene->bare.size = 0;
}

static void servers_answer_as_they_should(void **state)
{
    struct scene *scene = *state;
    listen_http(scene);
    connect_bare(scene);
    WRITE(&scene->bare, upgrade);
    RUN_UNTIL(scene->loop, strstr((char *)scene->bare.bytes, "\r\n\r\n") != NULL);
    const char *bytes = (const char *)scene->bare.bytes;
    assert_int_equal(strncmp(bytes, "HTTP/1.1 101 ", 13), 0);
    assert_non_null(strstr(bytes, "\r\nUpgrade: websocket\r\n"));
    assert_non_null(strstr(bytes, "\r\nConnection: Upgrade\r\n"));
    assert_null(strstr(strstr(bytes, "Upgrade: websocket") + 4, "Upgrade: websocket"));
    assert_non_null(
            strstr(bytes, "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert_non_null(strstr(bytes, "\r\nX-Answer: 2\r\n"));
    assert_null(strstr(bytes, "Extensions"));
}

static void wrong_upgrades_are_refused(void **state)
{
    struct scene *scene = *state;
    static const struct {
        const char *head;
        int status;
    } cases[] = {
            {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nUpgrade: websocket\r\n"
             "Connection: Upgrade\r\n\r\n",
                    405},
            {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 426},
            {"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 426},
            {"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n", 426},
            {"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n\r\n",
                    426},
            {"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Version: 13\r\n\r\n",
                    400},
            {"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Key: c2hvcnQ=\r\nSec-WebSocket-Version: 13\r\n\r\n",
                    400},
            {"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j#Q==\r\nSec-WebSocket-Version: "
             "13\r\n\r\n",
                    400},
            {"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                    400},
    };
    listen_http(scene);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char want[32];
        connect_bare(scene);
        bare_write(&scene->bare, cases[i].head, strlen(cases[i].head));
        RUN_UNTIL(scene->loop, strstr((char *)scene->bare.bytes, "\r\n\r\n") != NULL);
        assert_int_equal(scene->status, cases[i].status);
        snprintf(want, sizeof want, "HTTP/1.1 %d ", cases[i].status);
        assert_int_equal(strncmp((char *)scene->bare.bytes, want, strlen(want)), 0);
        assert_true(cases[i].status != 426 ||
                strstr((char *)scene->bare.bytes, "Sec-WebSocket-Version: 13\r\n") != NULL);
        bare_close(&scene->bare);
    }
}

static void what_follows_the_head_is_not_lost(void **state)
{
    struct scene *scene = *state;
    uint8_t bytes[sizeof upgrade + 60];
    size_t size = sizeof upgrade - 1;
    memcpy(bytes, upgrade, size);
    for (int i = 0; i < 3; i++) {
        memcpy(bytes + size, "\x81\x82\x00\x00\x00\x00hi", 8);
        size += 8;
    }
    listen_http(scene);
    scene->servant.on_message = PAUSE;
    connect_bare(scene);
    bare_write(&scene->bare, bytes, size - 3); /* the last one is cut */
    RUN_UNTIL(scene->loop, scene->servant.messages == 1);
    run_for(scene->loop, 10);
    assert_int_equal(scene->servant.messages, 1);
    scene->servant.on_message = NOTHING;
    znl_ws_pause(scene->servant.ws, 0);
    assert_int_equal(scene->servant.messages, 1); /* never from inside a call */
    RUN_UNTIL(scene->loop, scene->servant.messages == 2);
    bare_write(&scene->bare, bytes + size - 3, 3);
    RUN_UNTIL(scene->loop, scene->servant.messages == 3);
    assert_memory_equal(scene->servant.last, "hi", 2);
}

static void late_answers_are_as_good(void **state)
{
    struct scene *scene = *state;
    znl_http_head head = {.header_count = 1};
    head.headers[0].name = znl_frame_text("Sec-WebSocket-Key");
    head.headers[0].value = znl_frame_text("dGhlIHNhbXBsZSBub25jZQ==");
    listen_http(scene);
    scene->is_late = 1;
    connect_bare(scene);
    WRITE(&scene->bare, upgrade);
    RUN_UNTIL(scene->loop, scene->exchange != NULL);
    bare_frame(&scene->bare, ZNL_WS_TEXT, 1, "early", 5);
    run_for(scene->loop, 10);
    accept_now(scene, &head);
    RUN_UNTIL(scene->loop, scene->servant.messages == 1);
    assert_memory_equal(scene->servant.last, "early", 5);
    /* The asker may have gone meanwhile. */
    znl_ws_drop(scene->servant.ws, 0);
    scene->servant.ws = NULL;
    bare_close(&scene->bare);
    connect_bare(scene);
    WRITE(&scene->bare, upgrade);
    RUN_UNTIL(scene->loop, scene->exchange != NULL);
    bare_close(&scene->bare);
    run_for(scene->loop, 20);
    assert_int_equal(znl_ws_accept(&scene->servant.ws, scene->loop, scene->exchange, &head,
                             NULL, &scene->limits, &ws_events, &scene->servant),
            ZNL_E_GONE);
    assert_null(scene->servant.ws);
}

/* The bytes a server of ours sends to a peer that did `bytes`, up to the end of the socket. */
static void expect_fault(
        struct scene *scene, const void *bytes, size_t size, int err, uint16_t fault)
{
    memset(&scene->servant, 0, sizeof scene->servant);
    open_servant(scene);
    bare_write(&scene->bare, bytes, size);
    RUN_UNTIL(scene->loop, scene->bare.ended == 1);
    const uint8_t want[] = {0x88, 2, (uint8_t)(fault >> 8), (uint8_t)fault};
    assert_int_equal(scene->bare.size, sizeof want);
    assert_memory_equal(scene->bare.bytes, want, sizeof want);
    assert_int_equal(scene->servant.closed, 1);
    assert_int_equal(scene->servant.err, err);
    assert_int_equal(scene->servant.code, 0);
    assert_true(strlen(scene->servant.why) > 5);
    bare_close(&scene->bare);
}

static void forbidden_bytes_close_with_their_code(void **state)
{
    struct scene *scene = *state;
    scene->limits.max_message_bytes = 100;
    scene->limits.checks_utf8 = 1;
    expect_fault(scene, "\x81\x02hi", 4, ZNL_E_PROTO, 1002); /* no mask */
    expect_fault(scene, "\xc1\x80\x00\x00\x00\x00", 6, ZNL_E_PROTO, 1002);
    expect_fault(scene, "\x83\x80\x00\x00\x00\x00", 6, ZNL_E_PROTO, 1002);
    expect_fault(scene, "\x80\x80\x00\x00\x00\x00", 6, ZNL_E_PROTO, 1002);
    expect_fault(scene, "\x88\x81\x00\x00\x00\x00x", 7, ZNL_E_PROTO, 1002);
    expect_fault(scene, "\x81\x81\x00\x00\x00\x00\xff", 7, ZNL_E_PROTO, 1007);
    expect_fault(scene, "\x81\xe5\x00\x00\x00\x00", 6, ZNL_E_TOO_BIG, 1009);
    expect_fault(scene, "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 10, ZNL_E_TOO_BIG, 1009);
    /* Also when much of it is on its way that nobody reads: no reset, which would lose our frame. */
    static uint8_t junk[200000];
    memset(junk, 0x81, sizeof junk);
    junk[1] = 2;
    expect_fault(scene, junk, sizeof junk, ZNL_E_PROTO, 1002);
}

static void messages_both_ways(void **state)
{
    struct scene *scene = *state;
    listen_http(scene);
    scene->servant.echoes = 1;
    connect_to(scene, znl_http_server_port(scene->server), 0);
    RUN_UNTIL(scene->loop, scene->client.opened == 1);
    for (int i = 0; i < 3000; i++) { /* more than one turn takes */
        char text[32];
        int size = snprintf(text, sizeof text, "message %d", i);
        assert_int_equal(znl_ws_send(scene->client.ws, i % 2, text, (size_t)size), 0);
    }
    RUN_UNTIL(scene->loop, scene->client.messages == 3000);
    assert_int_equal(scene->servant.messages, 3000);
    assert_int_equal(scene->client.texts, 1500);
    assert_true(scene->client.sum == scene->servant.sum);
    assert_memory_equal(scene->client.last, "message 2999", 12);
    znl_ws_close(scene->client.ws, 1000, "done");
    RUN_UNTIL(scene->loop, scene->client.closed == 1 && scene->servant.closed == 1);
    assert_int_equal(scene->servant.code, 1000);
    assert_string_equal(scene->servant.why, "done");
    assert_int_equal(scene->client.code, 1000);
    assert_int_equal(scene->client.err, 0);
}

static void large_messages_and_fragments(void **state)
{
    struct scene *scene = *state;
    size_t size = 3u * 1024 * 1024 + 1;
    uint8_t *data = malloc(size);
    assert_non_null(data);
    uint64_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        data[i] = (uint8_t)(i * 2654435761u >> 24);
        sum = sum * 31 + data[i];
    }
    open_servant(scene);
    bare_frame(&scene->bare, ZNL_WS_BINARY, 1, data, size);
    RUN_UNTIL(scene->loop, scene->servant.messages == 1);
    assert_int_equal(scene->servant.bytes, size);
    assert_true(scene->servant.sum == sum);
    scene->servant.sum = 0;
    for (size_t at = 0; at < size; at += 100000) {
        size_t part = size - at < 100000 ? size - at : 100000;
        bare_frame(&scene->bare, at == 0 ? ZNL_WS_BINARY : ZNL_WS_CONTINUATION, 0, data + at,
                part);
        bare_frame(&scene->bare, ZNL_WS_PING, 1, "p", 1);
    }
    bare_frame(&scene->bare, ZNL_WS_CONTINUATION, 1, "", 0);
    RUN_UNTIL(scene->loop, scene->servant.messages == 2);
    assert_true(scene->servant.sum == sum);
    RUN_UNTIL(scene->loop, scene->bare.size == 32 * 3);
    free(data);
}

static void pausing_holds_messages_back(void **state)
{
    struct scene *scene = *state;
    open_servant(scene);
    scene->servant.on_message = PAUSE;
    for (int i = 0; i < 10; i++)
        bare_frame(&scene->bare, ZNL_WS_TEXT, 1, "0123456789" + i, 1);
    for (int i = 1; i <= 10; i++) {
        RUN_UNTIL(scene->loop, scene->servant.messages == i);
        run_for(scene->loop, 5);
        assert_int_equal(scene->servant.messages, i);
        assert_int_equal(scene->servant.last[0], '0' + i - 1);
        znl_ws_pause(scene->servant.ws, 0);
    }
    /* On and off again at once, and a pause that begins between two reads. */
    znl_ws_pause(scene->servant.ws, 1);
    znl_ws_pause(scene->servant.ws, 0);
    znl_ws_pause(scene->servant.ws, 1);
    bare_frame(&scene->bare, ZNL_WS_TEXT, 1, "x", 1);
    run_for(scene->loop, 10);
    assert_int_equal(scene->servant.messages, 10);
    znl_ws_pause(scene->servant.ws, 0);
    RUN_UNTIL(scene->loop, scene->servant.messages == 11);
    /* Closing ends a pause: the peer's close frame must be seen. */
    bare_frame(&scene->bare, ZNL_WS_TEXT, 1, "y", 1);
    znl_ws_pause(scene->servant.ws, 1);
    znl_ws_close(scene->servant.ws, 1000, "");
    bare_frame(&scene->bare, ZNL_WS_CLOSE, 1, "\x03\xe8", 2);
    RUN_UNTIL(scene->loop, scene->servant.closed == 1);
    assert_int_equal(scene->servant.err, 0);
    assert_int_equal(scene->servant.messages, 11);
}

static void closing_inside_a_pause_inside_a_message(void **state)
{
    struct scene *scene = *state;
    open_servant(scene);
    scene->servant.on_message = PAUSE;
    bare_frame(&scene->bare, ZNL_WS_TEXT, 1, "1", 1);
    bare_frame(&scene->bare, ZNL_WS_TEXT, 1, "2", 1);
    bare_frame(&scene->bare, ZNL_WS_CLOSE, 1, "\x03\xe8", 2);
    RUN_UNTIL(scene->loop, scene->servant.messages == 1);
    run_for(scene->loop, 5);
    znl_ws_close(scene->servant.ws, 1000, ""); /* what is held has the peer's close frame */
    RUN_UNTIL(scene->loop, scene->servant.closed == 1);
    assert_int_equal(scene->servant.err, 0);
    assert_int_equal(scene->servant.messages, 1);
}

static void full_queues_refuse(void **state)
{
    struct scene *scene = *state;
    static uint8_t data[65536];
    scene->limits.max_queue_bytes = 1u << 20;
    open_servant(scene);
    znl_stream_pause(scene->bare.stream, 1); /* a peer that does not read */
    size_t expected = scene->bare.total;
    int err = 0;
    for (int i = 0; i < 2000 && err == 0; i++) {
        err = znl_ws_send(scene->servant.ws, 0, data, sizeof data);
        expected += err == 0 ? 10 + sizeof data : 0;
        if (i % 10 == 0)
            run_for(scene->loop, 1);
    }
    assert_int_equal(err, ZNL_E_BUSY);
    assert_true(znl_ws_queued(scene->servant.ws) <= 1u << 20);
    /* Control frames wait their turn; the last ping is the one that is answered. */
    while (znl_ws_send(scene->servant.ws, 0, data, 1) == 0)
        expected += 2 + 1;
    bare_frame(&scene->bare, ZNL_WS_PING, 1, "first", 5);
    bare_frame(&scene->bare, ZNL_WS_PING, 1, "last", 4);
    run_for(scene->loop, 10);
    assert_int_equal(scene->servant.writable, 0);
    znl_stream_pause(scene->bare.stream, 0);
    RUN_UNTIL(scene->loop, scene->servant.writable == 1);
    expected += 2 + strlen("last");
    RUN_UNTIL(scene->loop, scene->bare.total == expected);
    scene->bare.size = 0;
    assert_int_equal(znl_ws_send(scene->servant.ws, 1, "end", 3), 0);
    RUN_UNTIL(scene->loop, scene->bare.size == 5);
}

static void a_close_frame_waits_for_room(void **state)
{
    struct scene *scene = *state;
    static uint8_t data[65536];
    scene->limits.max_queue_bytes = 1u << 18;
    scene->limits.close_ms = 5000;
    open_servant(scene);
    znl_stream_pause(scene->bare.stream, 1);
    size_t total = 0;
    for (int i = 0; i < 2000; i++) {
        if (znl_ws_send(scene->servant.ws, 0, data, sizeof data) != 0)
            break;
        total += sizeof data + 10;
        run_for(scene->loop, 1);
    }
    while (znl_ws_send(scene->servant.ws, 0, data, 1) == 0)
        total += 3;
    bare_frame(&scene->bare, ZNL_WS_PING, 1, "ping", 4);
    run_for(scene->loop, 5);
    size_t before = scene->bare.total;
    znl_ws_close(scene->servant.ws, 1001, "bye");
    znl_stream_pause(scene->bare.stream, 0);
    RUN_UNTIL(scene->loop, scene->bare.total - before == total + 7); /* no pong any more */
    bare_frame(&scene->bare, ZNL_WS_CLOSE, 1, "\x03\xe9", 2);
    RUN_UNTIL(scene->loop, scene->servant.closed == 1);
    assert_int_equal(scene->servant.err, 0);
}

static void without_memory_nothing_leaks(void **state)
{
    struct scene *scene = *state;
    listen_http(scene);
    int clean = 0;
    for (long n = 0; n < 200 && !clean; n++) {
        memset(&scene->client, 0, sizeof scene->client);
        memset(&scene->servant, 0, sizeof scene->servant);
        const znl_ws_connect_options options = {
                .stream = {.host = "127.0.0.1",
                        .port = znl_http_server_port(scene->server),
                        .timeout_ms = 1000},
                .path = "/",
                .protocols = "one",
        };
        znl_alloc_fail_after(n);
        int err = znl_ws_connect(
                &scene->client.ws, scene->loop, &options, &ws_events, &scene->client);
        clean = err == 0 && znl_alloc_count() <= n;
        znl_alloc_fail_after(-1);
        assert_true(err == 0 || err == ZNL_E_NOMEM);
        if (err != 0) {
            assert_null(scene->client.ws);
            continue;
        }
        RUN_UNTIL(scene->loop, scene->client.closed + scene->client.opened > 0);
        znl_ws_drop(scene->client.ws, 0);
        scene->client.ws = NULL;
        RUN_UNTIL(scene->loop, scene->servant.ws == NULL || scene->servant.closed == 1);
    }
    assert_true(clean);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(keys_are_answered),
            cmocka_unit_test(hosts_are_written_for_http),
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
            TEST(client_asks_as_it_should),
            TEST(answers_are_checked),
            TEST(endless_answers_end),
            TEST(silent_servers_time_out),
            TEST(closing_before_it_is_open_cancels),
            TEST(unreachable_servers_are_told),
            TEST(clients_mask_what_they_send),
            TEST(pings_are_answered),
            TEST(closing_waits_for_the_peer),
            TEST(the_end_of_the_socket_after_close_is_in_order),
            TEST(peers_that_never_close_are_dropped),
            TEST(the_peers_close_is_answered),
            TEST(a_socket_that_just_ends_is_gone),
            TEST(owners_may_drop_it_anywhere),
            TEST(servers_answer_as_they_should),
            TEST(wrong_upgrades_are_refused),
            TEST(what_follows_the_head_is_not_lost),
            TEST(late_answers_are_as_good),
            TEST(forbidden_bytes_close_with_their_code),
            TEST(messages_both_ways),
            TEST(large_messages_and_fragments),
            TEST(pausing_holds_messages_back),
            TEST(closing_inside_a_pause_inside_a_message),
            TEST(full_queues_refuse),
            TEST(a_close_frame_waits_for_room),
            TEST(without_memory_nothing_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
