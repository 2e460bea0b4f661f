/* The server of HTTP; its peers are bare sockets that send what they like.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/err.h"
#include "support/turns.h"
#include "transport/http_server.h"

/* How the requests of a test are answered. */
typedef enum mode { AT_ONCE, LATER, UPGRADE, CLOSE_SERVER } mode;

struct site {
    znl_loop *loop;
    znl_http_server *server;
    mode mode;
    size_t requests;
    char target[64];
    char body[64];
    size_t body_size;
    znl_http_exchange *waiting[16];
    size_t waiting_count;
    znl_http_exchange *released; /* answered by the next request */
    znl_stream *upgraded;
    char rest[64];
    size_t rest_size;
    size_t received; /* by the upgraded stream */
    int ended;
};

static void on_data(void *user, uint8_t *data, size_t size)
{
    struct site *site = user;
    site->received += size;
    znl_stream_write(site->upgraded, data, size);
}

static void on_end(void *user, int err, const char *text)
{
    struct site *site = user;
    (void)err;
    (void)text;
    site->ended++;
    znl_stream_close(site->upgraded, 0);
    site->upgraded = NULL;
}

static void on_open(void *user)
{
    (void)user;
    fail();
}

static const znl_stream_events upgraded_events = {
        .on_open = on_open, .on_data = on_data, .on_end = on_end};

static void upgrade(struct site *site, znl_http_exchange *exchange)
{
    znl_frame rest = {NULL, 0};
    site->upgraded = znl_http_upgrade(exchange, "Upgrade: x\r\n", &rest);
    if (site->upgraded == NULL)
        return;
    znl_stream_set_events(site->upgraded, &upgraded_events, site);
    assert_true(rest.size < sizeof site->rest);
    memcpy(site->rest, rest.data, rest.size);
    site->rest_size = rest.size;
}

static void on_request(
        void *user, znl_http_exchange *exchange, const znl_http_head *head, znl_frame body)
{
    struct site *site = user;
    site->requests++;
    snprintf(site->target, sizeof site->target, "%.*s", (int)head->target.size,
            (const char *)head->target.data);
    site->body_size = body.size;
    if (body.size < sizeof site->body && body.size > 0)
        memcpy(site->body, body.data, body.size);
    switch (site->mode) {
    case AT_ONCE:
        if (site->released != NULL)
            znl_http_respond(site->released, 200, "", znl_frame_text(""));
        site->released = NULL;
        znl_http_respond(exchange, 200, "X: y\r\n", body.size > 0 ? body : head->target);
        break;
    case LATER:
        site->waiting[site->waiting_count++ % 16] = exchange;
        break;
    case UPGRADE:
        upgrade(site, exchange);
        break;
    case CLOSE_SERVER:
        znl_http_server_close(site->server);
        site->server = NULL;
        znl_http_respond(exchange, 200, "", body);
        break;
    }
}

/* --- running ----------------------------------------------------------------------------------- */

static void open_with(struct site *site, znl_http_server_options options)
{
    options.listen.host = "127.0.0.1";
    assert_int_equal(znl_loop_new(&site->loop), 0);
    assert_int_equal(
            znl_http_server_open(&site->server, site->loop, &options, on_request, site), 0);
}

static void open_site(struct site *site)
{
    open_with(site, (znl_http_server_options){.head_ms = 0});
}

static void close_site(struct site *site)
{
    znl_stream_close(site->upgraded, 0);
    znl_http_server_close(site->server);
    assert_int_equal(znl_loop_run(site->loop), 0);
    assert_int_equal(znl_loop_close(site->loop), 0);
}

static int raw_connect(const struct site *site)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
            .sin_port = htons(znl_http_server_port(site->server)),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void say_bytes(int fd, const void *data, size_t size)
{
    assert_int_equal(send(fd, data, size, MSG_NOSIGNAL), (ssize_t)size);
}

static void say(int fd, const char *text)
{
    say_bytes(fd, text, strlen(text));
}

static void reset_by(int fd)
{
    const struct linger now = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

static char heard[70000];
static size_t heard_size;

/* Reads what there is; true when the connection is over. */
static int hear(int fd)
{
    for (;;) {
        ssize_t count = recv(
                fd, heard + heard_size, sizeof heard - 1 - heard_size, MSG_DONTWAIT);
        if (count < 0 && errno == EAGAIN)
            return 0;
        assert_true(count >= 0);
        if (count == 0)
            return 1;
        heard_size += (size_t)count;
        heard[heard_size] = '\0';
    }
}

static void forget(void)
{
    heard_size = 0;
    heard[0] = '\0';
}

/* Waits for exactly this text. */
static void expect(struct site *site, int fd, const char *text)
{
    forget();
    for (int i = 0; i < GUARD_MS && heard_size < strlen(text); i += 2) {
        run_for(site->loop, 2);
        hear(fd);
    }
    assert_string_equal(heard, text);
}

static void expect_end(struct site *site, int fd)
{
    forget();
    RUN_UNTIL(site->loop, hear(fd));
    assert_string_equal(heard, "");
}

/* Expects an answer of that status, then the end. */
static void expect_refusal(struct site *site, int fd, int status)
{
    char start[32];
    forget();
    snprintf(start, sizeof start, "HTTP/1.1 %d ", status);
    RUN_UNTIL(site->loop, hear(fd));
    if (strncmp(heard, start, strlen(start)) != 0)
        fail_msg("not %d: %s", status, heard);
    assert_non_null(strstr(heard, "\r\nConnection: close\r\n"));
    close(fd);
}

/* --- requests and answers ---------------------------------------------------------------------- */

#define GET_A "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
#define ANSWER_A "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\n/a"
#define ANSWER_B "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\n/b"
#define ANSWER_BODY "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello"

static void requests_are_answered_on_one_connection(void **state)
{
    (void)state;
    struct site site = {0};
    open_site(&site);
    int fd = raw_connect(&site);
    for (size_t i = 1; i <= 3; i++) {
        say(fd, GET_A);
        expect(&site, fd, ANSWER_A);
        assert_int_equal(site.requests, i);
    }
    say(fd, "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
    expect(&site, fd, ANSWER_BODY);
    assert_string_equal(site.target, "/b");
    say(fd, "HEAD /c HTTP/1.1\r\nHost: h\r\n\r\n");
    expect(&site, fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\n");
    znl_http_counters counters;
    znl_http_server_count(site.server, &counters);
    assert_int_equal(counters.requests, 5);
    assert_int_equal(counters.connections, 1);
    assert_int_equal(counters.accepted, 1);
    assert_int_equal(counters.malformed, 0);
    close(fd);
    RUN_UNTIL(site.loop,
            (znl_http_server_count(site.server, &counters), counters.connections == 0));
    close_site(&site);
}

static void connection_closes_when_the_peer_wants_it(void **state)
{
    (void)state;
    struct site site = {0};
    open_site(&site);
    int fd = raw_connect(&site);
    say(fd, "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    expect(&site, fd,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nX: y\r\n\r\n/a");
    expect_end(&site, fd);
    close(fd);
    fd = raw_connect(&site);
    say(fd, "GET /a HTTP/1.0\r\n\r\n"); /* without a Host, as it was then */
    expect(&site, fd,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nX: y\r\n\r\n/a");
    expect_end(&site, fd);
    close(fd);
    close_site(&site);
}

static void request_may_come_byte_by_byte(void **state)
{
    (void)state;
    const char *text = "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" GET_A;
    struct site site = {0};
    open_site(&site);
    int fd = raw_connect(&site);
    for (const char *at = text; *at != '\0'; at++) {
        say_bytes(fd, at, 1);
        run_for(site.loop, 1);
    }
    expect(&site, fd, ANSWER_BODY ANSWER_A);
    assert_int_equal(site.requests, 2);
    close(fd);
    close_site(&site);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    (void)state;
    struct site site = {0};
    open_site(&site);
    int fd = raw_connect(&site);
    say(fd,
            GET_A "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
                  "GET /b HTTP/1.1\r\nHost: h\r\n\r\n" GET_A "GET /");
    expect(&site, fd, ANSWER_A ANSWER_BODY ANSWER_B ANSWER_A);
    say(fd, "b HTTP/1.1\r\nHost: h\r\n\r\n");
    expect(&site, fd, ANSWER_B);
    close(fd);
    close_site(&site);
}

/* Each waits until the one before has its answer. */
static void pipelined_requests_wait_for_late_answers(void **state)
{
    (void)state;
    struct site site = {.mode = LATER};
    open_site(&site);
    int fd = raw_connect(&site);
    say(fd, GET_A GET_A);
    RUN_UNTIL(site.loop, site.requests == 1);
    say(fd, GET_A);
    shutdown(fd, SHUT_WR); /* half-open: it still reads */
    run_for(site.loop, 20);
    for (size_t i = 1; i <= 3; i++) {
        assert_int_equal(site.requests, i);
        assert_memory_equal(znl_http_peer(site.waiting[i - 1]), "127.0.0.1:", 10);
        znl_http_respond(site.waiting[i - 1], 204, "", znl_frame_text("not sent"));
        assert_int_equal(site.requests, i); /* never from inside the call */
        expect(&site, fd, "HTTP/1.1 204 No Content\r\n\r\n");
    }
    expect_end(&site, fd);
    close(fd);
    close_site(&site);
}

static void peer_that_sends_ahead_is_not_read_for_ever(void **state)
{
    (void)state;
    static char junk[65536];
    struct site site = {.mode = LATER};
    size_t sent = 0;
    memset(junk, 'x', sizeof junk);
    open_site(&site);
    int fd = raw_connect(&site);
    say(fd, GET_A);
    RUN_UNTIL(site.loop, site.requests == 1);
    for (int idle = 0; idle < 20;) {
        ssize_t count = send(fd, junk, sizeof junk, MSG_DONTWAIT);
        sent += count > 0 ? (size_t)count : 0;
        idle = count > 0 ? 0 : idle + 1;
        run_for(site.loop, 2);
        assert_true(sent < 64 * 1024 * 1024);
    }
    forget();
    znl_http_respond(site.waiting[0], 200, "", znl_frame_text(""));
    RUN_UNTIL(site.loop, (hear(fd), heard_size > 0));
    assert_memory_equal(heard, "HTTP/1.1 200 OK", 15);
    RUN_UNTIL(site.loop, (hear(fd), strstr(heard, "HTTP/1.1 400 ") != NULL));
    close(fd);
    close_site(&site);
}

/* Between an answer and the look at what came before it, so much may come that reading stops. It goes on. */
static void peer_that_sent_ahead_is_read_again(void **state)
{
    (void)state;
    enum { LIMIT = 16384 + 65536 };
    static char ahead[LIMIT + 65536];
    const size_t unit = sizeof GET_A - 1;
    const size_t first = LIMIT / unit - 1, all = sizeof ahead / unit;
    for (size_t i = 0; i < all; i++)
        memcpy(ahead + i * unit, GET_A, unit);
    struct site site = {.mode = LATER};
    open_site(&site);
    int fd = raw_connect(&site), other = raw_connect(&site);
    say(fd, GET_A);
    RUN_UNTIL(site.loop, site.requests == 1);
    say_bytes(fd, ahead, first * unit);
    run_for(site.loop, 20);
    site.mode = AT_ONCE;
    site.released = site.waiting[0];
    say(other, GET_A); /* its request is read first, and answers the one that waits */
    say_bytes(fd, ahead + first * unit, (all - first) * unit);
    RUN_UNTIL(site.loop, (forget(), hear(fd), site.requests >= all + 2));
    say(fd, GET_A);
    RUN_UNTIL(site.loop, (forget(), hear(fd), site.requests == all + 3));
    close(fd);
    close(other);
    close_site(&site);
}

static void answer_to_a_peer_that_has_gone_is_dropped(void **state)
{
    (void)state;
    struct site site = {.mode = LATER};
    znl_http_counters counters;
    znl_frame rest;
    open_site(&site);
    for (int i = 0; i < 2; i++) {
        int fd = raw_connect(&site);
        say(fd, GET_A);
        RUN_UNTIL(site.loop, site.requests == (size_t)i + 1);
        reset_by(fd);
        RUN_UNTIL(site.loop,
                (znl_http_server_count(site.server, &counters), counters.connections == 0));
    }
    assert_string_equal(znl_http_peer(site.waiting[0]), "");
    znl_http_respond(site.waiting[0], 200, "", znl_frame_text("late"));
    assert_null(znl_http_upgrade(site.waiting[1], "", &rest));
    close_site(&site);
}

static void answer_after_the_server_has_closed_is_dropped(void **state)
{
    (void)state;
    struct site site = {.mode = LATER};
    open_site(&site);
    int fd = raw_connect(&site);
    say(fd, GET_A GET_A);
    RUN_UNTIL(site.loop, site.requests == 1);
    znl_http_server_close(site.server);
    site.server = NULL;
    expect_end(&site, fd);
    znl_http_respond(site.waiting[0], 200, "", znl_frame_text("late"));
    close(fd);
    close_site(&site);
}

static void server_may_close_inside_a_request(void **state)
{
    (void)state;
    struct site site = {.mode = CLOSE_SERVER};
    open_site(&site);
    int fd = raw_connect(&site);
    say(fd, GET_A GET_A);
    expect_end(&site, fd);
    assert_int_equal(site.requests, 1);
    close(fd);
    close_site(&site);
}

/* --- upgrades ---------------------------------------------------------------------------------- */

#define SWITCHING "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"

static void upgrade_gives_the_stream_away(void **state)
{
    (void)state;
    for (int is_late = 0; is_late < 2; is_late++) {
        struct site site = {.mode = is_late ? LATER : UPGRADE};
        znl_http_counters counters;
        open_site(&site);
        int fd = raw_connect(&site);
        say(fd, GET_A "rest");
        RUN_UNTIL(site.loop, site.requests == 1);
        if (is_late) {
            run_for(site.loop, 5);
            say(fd, "more");
            run_for(site.loop, 5);
            upgrade(&site, site.waiting[0]);
        }
        expect(&site, fd, SWITCHING);
        assert_int_equal(site.rest_size, is_late ? 8 : 4);
        assert_memory_equal(site.rest, "restmore", site.rest_size);
        znl_http_server_count(site.server, &counters);
        assert_int_equal(counters.connections, 0);
        znl_http_server_close(site.server); /* the stream lives on */
        site.server = NULL;
        say(fd, "hello");
        expect(&site, fd, "hello");
        assert_int_equal(site.received, 5);
        close(fd);
        RUN_UNTIL(site.loop, site.ended == 1);
        close_site(&site);
    }
}

static void upgraded_streams_count_as_connections(void **state)
{
    (void)state;
    struct site site = {.mode = UPGRADE};
    znl_http_counters counters;
    open_with(&site, (znl_http_server_options){.listen.max_connections = 1});
    int fd = raw_connect(&site);
    say(fd, GET_A);
    expect(&site, fd, SWITCHING);
    int other = raw_connect(&site);
    expect_end(&site, other);
    znl_http_server_count(site.server, &counters);
    assert_int_equal(counters.refused, 1);
    close(other);
    close(fd);
    close_site(&site);
}

/* --- what is refused --------------------------------------------------------------------------- */

static void malformed_requests_are_answered_and_closed(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *text;
    } cases[] = {
            {400, "nonsense\r\n\r\n"},
            {400, "\x16\x03\x01\x02\x05\x01\r\n"},
            {400, "GET / HTTP/1.1\r\n\r\n"},
            {400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"},
            {400, "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"},
            {400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"},
            {400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"},
            {400,
                    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
                    "Transfer-Encoding: chunked\r\n\r\n"},
            {501,
                    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                    "5\r\nhello\r\n0\r\n\r\n"},
            {413, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\nxxxx"},
            {413, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999999999\r\n\r\n"},
            {417, "POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n"},
    };
    struct site site = {0};
    znl_http_counters counters;
    open_site(&site);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int fd = raw_connect(&site);
        say(fd, cases[i].text);
        expect_refusal(&site, fd, cases[i].status);
    }
    znl_http_server_count(site.server, &counters);
    assert_int_equal(counters.malformed, sizeof cases / sizeof cases[0]);
    assert_int_equal(counters.connections, 0);
    assert_int_equal(site.requests, 0);
    close_site(&site);
}

static void refusal_comes_after_the_answers_before_it(void **state)
{
    (void)state;
    struct site site = {0};
    open_site(&site);
    int fd = raw_connect(&site);
    say(fd, GET_A "nonsense\r\n\r\n" GET_A);
    forget();
    RUN_UNTIL(site.loop, hear(fd));
    assert_memory_equal(heard, ANSWER_A "HTTP/1.1 400 ", strlen(ANSWER_A) + 13);
    assert_int_equal(site.requests, 1);
    close(fd);
    close_site(&site);
}

static void heads_beyond_the_limit_are_refused(void **state)
{
    (void)state;
    struct site site = {0};
    static char text[20000];
    open_with(&site, (znl_http_server_options){.max_head_bytes = 1000});
    for (size_t size = 1000; size <= 1001; size++) {
        int lead = snprintf(text, sizeof text, "GET /a HTTP/1.1\r\nHost: h\r\nX: ");
        memset(text + lead, 'x', size - (size_t)lead - 4);
        memcpy(text + size - 4, "\r\n\r\n", 5);
        int fd = raw_connect(&site);
        say(fd, text);
        if (size == 1000) {
            expect(&site, fd, ANSWER_A);
            close(fd);
        } else {
            expect_refusal(&site, fd, 431);
        }
    }
    /* One line without an end, in parts. */
    int fd = raw_connect(&site);
    memset(text, 'x', 2000);
    memcpy(text, "GET /", 5);
    for (size_t i = 0; i < 20; i++) {
        send(fd, text + i * 100, 100, MSG_NOSIGNAL);
        run_for(site.loop, 1);
    }
    expect_refusal(&site, fd, 431);
    fd = raw_connect(&site);
    say(fd, "GET / HTTP/1.1\r\nHost: h\r\n");
    for (size_t i = 0; i < ZNL_HTTP_HEADERS_MAX; i++)
        say(fd, "A: b\r\n");
    expect_refusal(&site, fd, 431);
    close_site(&site);
}

static void body_within_the_limit_is_accepted(void **state)
{
    (void)state;
    static char text[70000];
    struct site site = {.mode = LATER};
    open_site(&site);
    int fd = raw_connect(&site);
    say(fd, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 65536\r\n\r\n");
    for (size_t i = 0; i < 64; i++) {
        say_bytes(fd, text, 1024);
        run_for(site.loop, 1);
        assert_true(site.requests == 0 || i == 63);
    }
    RUN_UNTIL(site.loop, site.requests == 1);
    assert_int_equal(site.body_size, 65536);
    znl_http_respond(site.waiting[0], 599, "", znl_frame_text(""));
    expect(&site, fd, "HTTP/1.1 599 Unknown\r\nContent-Length: 0\r\n\r\n");
    close(fd);
    close_site(&site);
}

static void expectation_is_met_once(void **state)
{
    (void)state;
    struct site site = {0};
    open_site(&site);
    int fd = raw_connect(&site);
    say(fd, "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    expect(&site, fd, "HTTP/1.1 100 Continue\r\n\r\n");
    say(fd, "he");
    run_for(site.loop, 5);
    say(fd, "llo");
    expect(&site, fd, ANSWER_BODY);
    close(fd);
    close_site(&site);
}

/* --- time and limits --------------------------------------------------------------------------- */

static void slow_peers_are_timed_out(void **state)
{
    (void)state;
    struct site site = {0};
    znl_http_counters counters;
    open_with(&site, (znl_http_server_options){.head_ms = 300, .idle_ms = 300});
    int silent = raw_connect(&site);
    int slow = raw_connect(&site);
    int stuck = raw_connect(&site);
    int idle = raw_connect(&site);
    say(stuck, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhell");
    say(idle, GET_A);
    expect(&site, idle, ANSWER_A);
    /* Bytes that trickle in do not put it off. */
    forget();
    for (int i = 0; i < 200 && !hear(slow); i++) {
        send(slow, "G", 1, MSG_NOSIGNAL);
        run_for(site.loop, 5);
    }
    assert_memory_equal(heard, "HTTP/1.1 408 ", 13);
    close(slow);
    expect_end(&site, silent);
    close(silent);
    expect_refusal(&site, stuck, 408);
    expect_end(&site, idle);
    close(idle);
    znl_http_server_count(site.server, &counters);
    assert_int_equal(counters.timeouts, 4);
    assert_int_equal(counters.connections, 0);
    assert_int_equal(counters.malformed, 0);
    close_site(&site);
}

static void second_request_has_its_own_time(void **state)
{
    (void)state;
    struct site site = {0};
    open_with(&site, (znl_http_server_options){.head_ms = 300, .idle_ms = 60000});
    int fd = raw_connect(&site);
    say(fd, GET_A);
    expect(&site, fd, ANSWER_A);
    run_for(site.loop, 400);
    say(fd, GET_A "GET");
    expect(&site, fd, ANSWER_A);
    expect_refusal(&site, fd, 408);
    close_site(&site);
}

static void request_that_waits_has_no_limit_of_time(void **state)
{
    (void)state;
    struct site site = {.mode = LATER};
    open_with(&site, (znl_http_server_options){.head_ms = 200, .idle_ms = 200});
    int fd = raw_connect(&site);
    say(fd, GET_A);
    RUN_UNTIL(site.loop, site.requests == 1);
    run_for(site.loop, 300);
    znl_http_respond(site.waiting[0], 200, "", znl_frame_text("ok"));
    expect(&site, fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    close(fd);
    close_site(&site);
}

static void peer_that_asks_and_does_not_read_is_dropped(void **state)
{
    (void)state;
    static char text[60000];
    struct site site = {0};
    znl_http_counters counters = {0};
    open_with(&site, (znl_http_server_options){.listen.max_queue_bytes = 200000});
    int fd = raw_connect(&site);
    int lead = snprintf(
            text, sizeof text, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 50000\r\n\r\n");
    for (int i = 0; i < 20000; i++) {
        send(fd, text, (size_t)lead + 50000, MSG_DONTWAIT | MSG_NOSIGNAL);
        run_for(site.loop, 1);
        znl_http_server_count(site.server, &counters);
        if (counters.connections == 0)
            break;
    }
    assert_int_equal(counters.connections, 0);
    close(fd);
    close_site(&site);
}

/* The one connection has come and gone. */
static int is_dropped(const struct site *site)
{
    znl_http_counters counters;
    znl_http_server_count(site->server, &counters);
    return counters.accepted + counters.refused > 0 && counters.connections == 0;
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    int is_clean = 0;
    for (long n = 0; !is_clean; n++) {
        struct site site = {.mode = LATER};
        const znl_http_server_options options = {.listen.host = "127.0.0.1"};
        assert_true(n < 100);
        assert_int_equal(znl_loop_new(&site.loop), 0);
        znl_alloc_fail_after(n);
        int err = znl_http_server_open(&site.server, site.loop, &options, on_request, &site);
        int fd = -1;
        forget();
        if (err == 0) {
            fd = raw_connect(&site);
            run_for(site.loop, 5);
            send(fd, "GET /a HTTP/1.1\r\nHo", 19, MSG_NOSIGNAL);
            run_for(site.loop, 5);
            send(fd, "st: h\r\n\r\n" GET_A "rest", 9 + strlen(GET_A) + 4, MSG_NOSIGNAL);
            for (size_t i = 0; i < 2; i++) {
                for (int k = 0; k < 1000 && site.requests == i && !is_dropped(&site); k++)
                    run_for(site.loop, 2);
                if (site.requests == i + 1 && i == 0)
                    znl_http_respond(site.waiting[0], 200, "", znl_frame_text("ok"));
                else if (site.requests == i + 1)
                    upgrade(&site, site.waiting[1]);
            }
            run_for(site.loop, 5);
        }
        is_clean = znl_alloc_count() <= n;
        znl_alloc_fail_after(-1);
        assert_true(err == 0 || err == ZNL_E_NOMEM);
        if (is_clean) {
            assert_int_equal(site.requests, 2);
            assert_non_null(site.upgraded);
            assert_int_equal(site.rest_size, 4);
        } else if (err == 0 && site.upgraded == NULL) {
            for (int i = 0; i < 100;
                    i++) { /* the peer is told: answered in part, then the end */
                char bytes[256];
                ssize_t count = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
                if (count == 0 || (count < 0 && errno != EAGAIN))
                    break;
                run_for(site.loop, 2);
                assert_true(i < 99);
            }
        }
        if (fd >= 0)
            close(fd);
        close_site(&site);
    }
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* a test that hangs is named */
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(requests_are_answered_on_one_connection),
            cmocka_unit_test(connection_closes_when_the_peer_wants_it),
            cmocka_unit_test(request_may_come_byte_by_byte),
            cmocka_unit_test(pipelined_requests_are_answered_in_order),
            cmocka_unit_test(pipelined_requests_wait_for_late_answers),
            cmocka_unit_test(peer_that_sends_ahead_is_not_read_for_ever),
            cmocka_unit_test(peer_that_sent_ahead_is_read_again),
            cmocka_unit_test(answer_to_a_peer_that_has_gone_is_dropped),
            cmocka_unit_test(answer_after_the_server_has_closed_is_dropped),
            cmocka_unit_test(server_may_close_inside_a_request),
            cmocka_unit_test(upgrade_gives_the_stream_away),
            cmocka_unit_test(upgraded_streams_count_as_connections),
            cmocka_unit_test(malformed_requests_are_answered_and_closed),
            cmocka_unit_test(refusal_comes_after_the_answers_before_it),
            cmocka_unit_test(heads_beyond_the_limit_are_refused),
            cmocka_unit_test(body_within_the_limit_is_accepted),
            cmocka_unit_test(expectation_is_met_once),
            cmocka_unit_test(slow_peers_are_timed_out),
            cmocka_unit_test(second_request_has_its_own_time),
            cmocka_unit_test(request_that_waits_has_no_limit_of_time),
            cmocka_unit_test(peer_that_asks_and_does_not_read_is_dropped),
            cmocka_unit_test(each_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
