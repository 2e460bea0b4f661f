/* Streams over real sockets, their ends on one loop; bare sockets play peers that misbehave.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/err.h"
#include "support/turns.h"
#include "transport/dial.h"
#include "transport/stream.h"

struct end {
    znl_stream *stream;
    int opened, ended, err, writable;
    int echoes, is_left_open, pauses;
    size_t close_after; /* bytes; 0: never */
    uint32_t linger_ms; /* of that */
    size_t received, data_events;
    uint8_t last;
    char text[200];
    uint64_t sum; /* of the bytes, each with its place */
};

struct site {
    znl_loop *loop;
    znl_listener *listener;
    struct end accepted[8]; /* the first of them */
    size_t accepts;
    struct end proto; /* what an accepted end begins as */
    int closes_at_once;
};

static void on_open(void *user)
{
    struct end *end = user;
    end->opened++;
}

static void on_data(void *user, uint8_t *data, size_t size)
{
    struct end *end = user;
    assert_int_equal(end->ended, 0);
    assert_non_null(end->stream);
    for (size_t i = 0; i < size; i++)
        end->sum += data[i] * (uint64_t)(++end->received % 1009 + 1);
    end->data_events++;
    end->last = data[size - 1];
    if (end->echoes)
        assert_int_equal(znl_stream_write(end->stream, data, size), 0);
    if (end->pauses)
        znl_stream_pause(end->stream, 1);
    if (end->close_after > 0 && end->received >= end->close_after) {
        znl_stream_close(end->stream, end->linger_ms);
        end->stream = NULL;
    }
}

static void on_writable(void *user)
{
    struct end *end = user;
    end->writable++;
}

static void on_end(void *user, int err, const char *text)
{
    struct end *end = user;
    end->ended++;
    end->err = err;
    snprintf(end->text, sizeof end->text, "%s", text);
    if (end->is_left_open)
        return;
    znl_stream_close(end->stream, end->linger_ms);
    end->stream = NULL;
}

static const znl_stream_events events = {
        .on_open = on_open, .on_data = on_data, .on_writable = on_writable, .on_end = on_end};

static void on_accept(void *user, znl_stream *stream)
{
    struct site *site = user;
    struct end *end = &site->accepted[site->accepts++ % 8];
    *end = site->proto;
    end->stream = stream;
    znl_stream_set_events(stream, &events, end);
    if (site->closes_at_once) {
        znl_stream_close(stream, 0);
        end->stream = NULL;
    }
}

/* --- running ----------------------------------------------------------------------------------- */

static void open_site(struct site *site, const char *host, uint32_t max_connections)
{
    const znl_listener_options options = {.host = host, .max_connections = max_connections};
    if (site->loop == NULL)
        assert_int_equal(znl_loop_new(&site->loop), 0);
    assert_int_equal(
            znl_listener_open(&site->listener, site->loop, &options, on_accept, site), 0);
    assert_true(znl_listener_port(site->listener) > 0);
}

static int dial(struct site *site, struct end *end, const char *host)
{
    const znl_stream_options options = {
            .host = host, .port = znl_listener_port(site->listener), .timeout_ms = 2000};
    return znl_stream_connect(&end->stream, site->loop, &options, &events, end);
}

/* Connects both ends. */
static void meet(struct site *site, struct end *end)
{
    size_t accepts = site->accepts;
    assert_int_equal(dial(site, end, "127.0.0.1"), 0);
    RUN_UNTIL(site->loop, end->opened && site->accepts == accepts + 1);
}

/* All is closed, and the loop has nothing left. */
static void close_site(struct site *site, struct end *end)
{
    if (end != NULL)
        znl_stream_close(end->stream, 0);
    for (size_t i = 0; i < 8; i++)
        znl_stream_close(site->accepted[i].stream, 0);
    znl_listener_close(site->listener);
    assert_int_equal(znl_loop_run(site->loop), 0);
    assert_int_equal(znl_loop_close(site->loop), 0);
}

/* A bare socket connected to the listener. */
static int raw_connect(const struct site *site, int receive_bytes)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
            .sin_port = htons(znl_listener_port(site->listener)),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    if (receive_bytes > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void reset_by(int fd)
{
    const struct linger now = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

/* A port nothing listens on. */
static uint16_t free_port(void)
{
    struct sockaddr_in address = {
            .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    close(fd);
    return ntohs(address.sin_port);
}

/* --- tests ------------------------------------------------------------------------------------- */

static void bytes_go_both_ways(void **state)
{
    (void)state;
    struct site site = {.proto = {.echoes = 1}};
    struct end end = {0};
    char expected[32];
    open_site(&site, "127.0.0.1", 0);
    meet(&site, &end);
    snprintf(expected, sizeof expected, "127.0.0.1:%u",
            (unsigned)znl_listener_port(site.listener));
    assert_string_equal(znl_stream_peer(end.stream), expected);
    assert_memory_equal(znl_stream_peer(site.accepted[0].stream), "127.0.0.1:", 10);
    assert_int_equal(znl_stream_write(end.stream, "hello", 5), 0);
    assert_int_equal(znl_stream_queued(end.stream), 5);
    RUN_UNTIL(site.loop, end.received == 5);
    assert_int_equal(end.last, 'o');
    assert_int_equal(znl_stream_queued(end.stream), 0);
    znl_stream_close(end.stream, 0);
    end.stream = NULL;
    RUN_UNTIL(site.loop, site.accepted[0].ended == 1);
    assert_int_equal(site.accepted[0].err, 0);
    assert_int_equal(end.ended, 0);
    assert_int_equal(end.opened, 1);
    assert_int_equal(site.accepted[0].opened, 0);
    assert_int_equal(znl_listener_accepted(site.listener), 1);
    close_site(&site, &end);
}

static void writes_of_one_turn_arrive_together(void **state)
{
    (void)state;
    struct site site = {0};
    struct end end = {0};
    open_site(&site, "127.0.0.1", 0);
    meet(&site, &end);
    for (int i = 0; i < 1000; i++) {
        uint8_t *at;
        assert_int_equal(znl_stream_reserve(end.stream, 40, &at), 0);
        memset(at, i & 0xff, 10);
        znl_stream_commit(end.stream, 10);
    }
    RUN_UNTIL(site.loop, site.accepted[0].received == 10000);
    assert_int_equal(site.accepted[0].data_events, 1);
    close_site(&site, &end);
}

static void what_is_written_before_it_is_open_waits(void **state)
{
    (void)state;
    struct site site = {0};
    struct end end = {0};
    open_site(&site, "127.0.0.1", 0);
    assert_int_equal(dial(&site, &end, "127.0.0.1"), 0);
    assert_string_equal(znl_stream_peer(end.stream), "");
    assert_int_equal(znl_stream_write(end.stream, "early", 5), 0);
    RUN_UNTIL(site.loop, site.accepted[0].received == 5);
    close_site(&site, &end);
}

static void many_bytes_arrive_whole(void **state)
{
    (void)state;
    enum { SIZE = 8 * 1024 * 1024 };
    struct site site = {.proto = {.echoes = 1}};
    struct end end = {0};
    uint8_t *bytes = malloc(SIZE);
    uint64_t sum = 0;
    assert_non_null(bytes);
    for (size_t i = 0; i < SIZE; i++) {
        bytes[i] = (uint8_t)(i * 31 + i / 4099);
        sum += bytes[i] * (uint64_t)((i + 1) % 1009 + 1);
    }
    open_site(&site, "127.0.0.1", 0);
    meet(&site, &end);
    assert_int_equal(znl_stream_write(end.stream, bytes, SIZE), 0);
    RUN_UNTIL(site.loop, end.received == SIZE);
    assert_int_equal(end.sum, sum);
    free(bytes);
    close_site(&site, &end);
}

static void names_are_looked_up_and_every_address_tried(void **state)
{
    (void)state;
    struct site site = {0};
    struct end end = {0};
    /* "localhost" may be ::1 first, where nobody listens. */
    open_site(&site, "localhost", 0);
    assert_int_equal(dial(&site, &end, "localhost"), 0);
    assert_int_equal(end.opened, 0);
    RUN_UNTIL(site.loop, end.opened == 1 && site.accepts == 1);
    close_site(&site, &end);
}

static int has_ipv6(void)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    int rc = fd >= 0 ? bind(fd, (const struct sockaddr *)&address, sizeof address) : -1;
    if (fd >= 0)
        close(fd);
    return rc == 0;
}

static void all_interfaces_are_both_families(void **state)
{
    (void)state;
    struct site site = {0};
    struct end four = {0};
    struct end six = {0};
    open_site(&site, NULL, 0);
    meet(&site, &four);
    assert_memory_equal(znl_stream_peer(site.accepted[0].stream), "127.0.0.1:", 10);
    if (has_ipv6()) {
        assert_int_equal(dial(&site, &six, "[::1]"), 0);
        RUN_UNTIL(site.loop, six.opened && site.accepts == 2);
        assert_memory_equal(znl_stream_peer(six.stream), "[::1]:", 6);
        assert_memory_equal(znl_stream_peer(site.accepted[1].stream), "[::1]:", 6);
        znl_stream_close(six.stream, 0);
    }
    close_site(&site, &four);
}

static void expect_failure(struct site *site, const char *host, uint16_t port, int err)
{
    struct end end = {0};
    const znl_stream_options options = {.host = host, .port = port, .timeout_ms = 300};
    assert_int_equal(znl_stream_connect(&end.stream, site->loop, &options, &events, &end), 0);
    assert_int_equal(end.ended, 0);
    RUN_UNTIL(site->loop, end.ended == 1);
    assert_int_equal(end.err, err);
    assert_non_null(strstr(end.text, host));
    assert_int_equal(end.opened, 0);
}

static void connections_that_fail_say_why(void **state)
{
    (void)state;
    struct site site = {0};
    open_site(&site, "127.0.0.1", 0);
    expect_failure(&site, "127.0.0.1", free_port(), ZNL_E_UNREACHABLE);
    expect_failure(&site, "no-such-host.invalid", 80, ZNL_E_UNREACHABLE);
    close_site(&site, NULL);
}

/* Its backlog is full: the system answers no further connection. */
/* A socket that connects to the port it was given itself is its own peer. */
static void connection_to_itself_is_known(void **state)
{
    (void)state;
    struct sockaddr_in here = {
            .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    int own = socket(AF_INET, SOCK_STREAM, 0), other = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(own, (struct sockaddr *)&here, sizeof here), 0);
    assert_int_equal(getsockname(own, (struct sockaddr *)&here, &size), 0);
    assert_false(znl_dial_is_itself(own)); /* not connected */
    assert_int_equal(connect(own, (struct sockaddr *)&here, sizeof here), 0);
    assert_true(znl_dial_is_itself(own));
    close(own);
    int server = socket(AF_INET, SOCK_STREAM, 0);
    here.sin_port = 0;
    assert_int_equal(bind(server, (struct sockaddr *)&here, sizeof here), 0);
    assert_int_equal(listen(server, 1), 0);
    assert_int_equal(getsockname(server, (struct sockaddr *)&here, &size), 0);
    assert_int_equal(connect(other, (struct sockaddr *)&here, sizeof here), 0);
    assert_false(znl_dial_is_itself(other));
    close(other);
    close(server);
}

static void silent_address_is_a_timeout(void **state)
{
    (void)state;
    struct site site = {0};
    struct sockaddr_in address = {
            .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int full[8];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    for (size_t i = 0; i < 8; i++) {
        full[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(full[i], (const struct sockaddr *)&address, size);
    }
    assert_int_equal(znl_loop_new(&site.loop), 0);
    expect_failure(&site, "127.0.0.1", ntohs(address.sin_port), ZNL_E_TIMEOUT);
    for (size_t i = 0; i < 8; i++)
        close(full[i]);
    close(fd);
    assert_int_equal(znl_loop_run(site.loop), 0);
    assert_int_equal(znl_loop_close(site.loop), 0);
}

static void impossible_hosts_are_refused_at_once(void **state)
{
    (void)state;
    znl_loop *loop = NULL;
    struct end end = {0};
    char longest[400];
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    const char *const hosts[] = {"", "[]", longest};
    assert_int_equal(znl_loop_new(&loop), 0);
    for (size_t i = 0; i < 3; i++) {
        const znl_stream_options options = {.host = hosts[i], .port = 1};
        assert_int_equal(
                znl_stream_connect(&end.stream, loop, &options, &events, &end), ZNL_E_INVALID);
    }
    const znl_stream_options options = {.host = "127.0.0.1", .port = 0};
    assert_int_equal(
            znl_stream_connect(&end.stream, loop, &options, &events, &end), ZNL_E_INVALID);
    assert_int_equal(znl_loop_run(loop), 0);
    assert_int_equal(znl_loop_close(loop), 0);
}

static void close_while_connecting_is_silent(void **state)
{
    (void)state;
    struct site site = {0};
    struct end end = {0};
    open_site(&site, "127.0.0.1", 0);
    const char *const hosts[] = {"127.0.0.1", "localhost", "no-such-host.invalid"};
    for (size_t i = 0; i < 3; i++)
        for (int turns = 0; turns < 2; turns++) {
            assert_int_equal(dial(&site, &end, hosts[i]), 0);
            if (turns > 0)
                run_for(site.loop, 0);
            znl_stream_close(end.stream, 100);
            end = (struct end){0};
        }
    run_for(site.loop, 50);
    assert_int_equal(end.opened + end.ended, 0);
    close_site(&site, &end);
}

static void addresses_that_cannot_be_bound_are_told(void **state)
{
    (void)state;
    struct site site = {0};
    znl_listener *other = NULL;
    open_site(&site, "127.0.0.1", 0);
    znl_listener_options options = {
            .host = "127.0.0.1", .port = znl_listener_port(site.listener)};
    assert_int_equal(znl_listener_open(&other, site.loop, &options, on_accept, &site),
            ZNL_E_ADDRESS_IN_USE);
    options.host = "192.0.2.1"; /* for documentation: nobody's */
    options.port = 0;
    assert_int_equal(
            znl_listener_open(&other, site.loop, &options, on_accept, &site), ZNL_E_ADDRESS);
    options.host = "some.name";
    assert_int_equal(
            znl_listener_open(&other, site.loop, &options, on_accept, &site), ZNL_E_ADDRESS);
    /* Free as soon as it is closed, and accepted streams live on. */
    struct end end = {0};
    meet(&site, &end);
    options = (znl_listener_options){
            .host = "127.0.0.1", .port = znl_listener_port(site.listener)};
    znl_listener_close(site.listener);
    assert_int_equal(
            znl_listener_open(&site.listener, site.loop, &options, on_accept, &site), 0);
    assert_int_equal(znl_stream_write(end.stream, "x", 1), 0);
    RUN_UNTIL(site.loop, site.accepted[0].received == 1);
    close_site(&site, &end);
}

/* The queue stays within its limit, and there is room again once the peer reads. */
static void peer_that_does_not_read_fills_the_queue(void **state)
{
    (void)state;
    static uint8_t bytes[65536];
    struct site site = {.loop = NULL};
    const znl_listener_options options = {.host = "127.0.0.1", .max_queue_bytes = 1000000};
    assert_int_equal(znl_loop_new(&site.loop), 0);
    assert_int_equal(
            znl_listener_open(&site.listener, site.loop, &options, on_accept, &site), 0);
    int fd = raw_connect(&site, 4096);
    RUN_UNTIL(site.loop, site.accepts == 1);
    struct end *end = &site.accepted[0];
    size_t written = 0;
    int err = 0;
    for (int i = 0; i < 20000 && err == 0; i++) {
        err = znl_stream_write(end->stream, bytes, sizeof bytes);
        written += err == 0 ? sizeof bytes : 0;
        assert_true(znl_stream_queued(end->stream) <= 1000000);
        if (i % 4 == 0)
            run_for(site.loop, 1);
        if (err == ZNL_E_BUSY && i < 200) { /* the system may still take some */
            run_for(site.loop, 5);
            err = end->writable > 0 ? 0 : err;
            end->writable = 0;
        }
    }
    assert_int_equal(err, ZNL_E_BUSY);
    assert_int_equal(end->writable, 0);
    size_t queued = znl_stream_queued(end->stream);
    run_for(site.loop, 30);
    assert_int_equal(znl_stream_queued(end->stream), queued);
    assert_int_equal(end->writable, 0);
    size_t received = 0;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 20000 && received < written; i++) {
        ssize_t count = recv(fd, bytes, sizeof bytes, 0);
        if (count > 0)
            received += (size_t)count;
        else
            run_for(site.loop, 1);
    }
    assert_int_equal(received, written);
    assert_int_equal(end->writable, 1);
    assert_int_equal(znl_stream_write(end->stream, bytes, sizeof bytes), 0);
    close(fd);
    close_site(&site, NULL);
}

/* The owner asks itself, though the queue is not full: what it waits for is told once. */
static void room_may_be_awaited(void **state)
{
    (void)state;
    static uint8_t bytes[65536];
    struct site site = {0};
    open_site(&site, "127.0.0.1", 0);
    int fd = raw_connect(&site, 4096);
    RUN_UNTIL(site.loop, site.accepts == 1);
    struct end *end = &site.accepted[0];
    znl_stream_await(end->stream, 0);
    assert_int_equal(end->writable, 0);
    RUN_UNTIL(site.loop, end->writable == 1);
    size_t written = 0;
    for (size_t rest = 0, i = 0; rest < 300000 && i < 20000; i++) {
        assert_int_equal(znl_stream_write(end->stream, bytes, sizeof bytes), 0);
        written += sizeof bytes;
        run_for(site.loop, 1);
        rest = znl_stream_queued(end->stream);
    }
    assert_true(znl_stream_queued(end->stream) >= 300000);
    znl_stream_await(end->stream, 200000);
    znl_stream_await(end->stream, 100000);
    znl_stream_await(end->stream, 250000);
    run_for(site.loop, 5);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    size_t received = 0;
    for (int i = 0; i < 20000 && received < written; i++) {
        ssize_t count = recv(fd, bytes, sizeof bytes, 0);
        if (count > 0)
            received += (size_t)count;
        else
            run_for(site.loop, 1);
        assert_true(end->writable == 1 || znl_stream_queued(end->stream) <= 100000);
    }
    assert_int_equal(received, written);
    assert_int_equal(end->writable, 2);
    close(fd);
    close_site(&site, NULL);
}

static void empty_queue_takes_any_size(void **state)
{
    (void)state;
    static uint8_t bytes[5000];
    struct site site = {0};
    struct end end = {0};
    open_site(&site, "127.0.0.1", 0);
    const znl_stream_options options = {.host = "127.0.0.1",
            .port = znl_listener_port(site.listener),
            .max_queue_bytes = 1000};
    assert_int_equal(znl_stream_connect(&end.stream, site.loop, &options, &events, &end), 0);
    assert_int_equal(znl_stream_write(end.stream, bytes, sizeof bytes), 0);
    assert_int_equal(znl_stream_write(end.stream, bytes, 1), ZNL_E_BUSY);
    RUN_UNTIL(site.loop, site.accepted[0].received == sizeof bytes && end.writable == 1);
    assert_int_equal(znl_stream_write(end.stream, bytes, 600), 0);
    assert_int_equal(znl_stream_write(end.stream, bytes, 401), ZNL_E_BUSY);
    assert_int_equal(znl_stream_write(end.stream, bytes, 400), 0);
    assert_int_equal(znl_stream_write(end.stream, bytes, 1), ZNL_E_BUSY);
    /* Sizes that would wrap around. */
    uint8_t *at;
    assert_int_equal(znl_stream_reserve(end.stream, SIZE_MAX - 10, &at), ZNL_E_BUSY);
    RUN_UNTIL(site.loop, end.writable == 2);
    assert_int_equal(znl_stream_reserve(end.stream, SIZE_MAX - 10, &at), ZNL_E_NOMEM);
    close_site(&site, &end);
}

static void paused_stream_reads_nothing(void **state)
{
    (void)state;
    struct site site = {.proto = {.pauses = 1}};
    struct end end = {0};
    open_site(&site, "127.0.0.1", 0);
    meet(&site, &end);
    assert_int_equal(znl_stream_write(end.stream, "one", 3), 0);
    RUN_UNTIL(site.loop, site.accepted[0].received == 3);
    assert_int_equal(znl_stream_write(end.stream, "two", 3), 0);
    run_for(site.loop, 20);
    assert_int_equal(site.accepted[0].received, 3);
    site.accepted[0].pauses = 0;
    znl_stream_pause(site.accepted[0].stream, 0);
    RUN_UNTIL(site.loop, site.accepted[0].received == 6);
    close_site(&site, &end);
}

/* Looks at an end once per turn. */
struct observer {
    znl_deferred look;
    znl_loop *loop;
    const struct end *end;
    size_t seen, most;
};

static void on_look(znl_deferred *deferred)
{
    struct observer *observer = (struct observer *)(void *)deferred;
    size_t since = observer->end->data_events - observer->seen;
    observer->most = since > observer->most ? since : observer->most;
    observer->seen = observer->end->data_events;
    znl_loop_defer(observer->loop, deferred);
}

static void busy_stream_leaves_others_their_turn(void **state)
{
    (void)state;
    static uint8_t bytes[4 * 1024 * 1024];
    struct site site = {0};
    struct end end = {0};
    open_site(&site, "127.0.0.1", 0);
    meet(&site, &end);
    znl_stream_pause(site.accepted[0].stream, 1);
    assert_int_equal(znl_stream_write(end.stream, bytes, sizeof bytes), 0);
    run_for(site.loop, 20); /* the socket's buffers are full */
    struct observer observer = {
            .look = {.run = on_look}, .loop = site.loop, .end = &site.accepted[0]};
    znl_loop_defer(site.loop, &observer.look);
    znl_stream_pause(site.accepted[0].stream, 0);
    RUN_UNTIL(site.loop, site.accepted[0].received == sizeof bytes);
    znl_loop_undefer(site.loop, &observer.look);
    assert_int_equal(observer.most, 1);
    assert_true(observer.seen >= 10);
    close_site(&site, &end);
}

static void reset_in_the_middle_is_gone(void **state)
{
    (void)state;
    struct site site = {0};
    open_site(&site, "127.0.0.1", 0);
    int fd = raw_connect(&site, 0);
    RUN_UNTIL(site.loop, site.accepts == 1);
    assert_int_equal(send(fd, "half", 4, 0), 4);
    RUN_UNTIL(site.loop, site.accepted[0].received == 4);
    reset_by(fd);
    RUN_UNTIL(site.loop, site.accepted[0].ended == 1);
    assert_int_equal(site.accepted[0].err, ZNL_E_GONE);
    close_site(&site, NULL);
}

/* It is found by writing; what came before the reset is still read, and there is one end. */
static void reset_found_by_writing_ends_it_once(void **state)
{
    (void)state;
    for (int pauses = 0; pauses < 2; pauses++) {
        struct site site = {.proto = {.is_left_open = 1}};
        open_site(&site, "127.0.0.1", 0);
        int fd = raw_connect(&site, 0);
        RUN_UNTIL(site.loop, site.accepts == 1);
        struct end *end = &site.accepted[0];
        znl_stream_pause(end->stream, pauses);
        reset_by(fd);
        assert_int_equal(znl_stream_write(end->stream, "x", 1), 0);
        RUN_UNTIL(site.loop, end->ended == 1);
        assert_int_equal(end->err, ZNL_E_GONE);
        assert_int_equal(znl_stream_write(end->stream, "x", 1), ZNL_E_CLOSED);
        run_for(site.loop, 10);
        assert_int_equal(end->ended, 1);
        close_site(&site, NULL);
    }
}

/* The peer has ended its side and still reads: the answer reaches it. */
static void half_open_peer_gets_its_answer(void **state)
{
    (void)state;
    char answer[16];
    struct site site = {.proto = {.is_left_open = 1}};
    open_site(&site, "127.0.0.1", 0);
    int fd = raw_connect(&site, 0);
    assert_int_equal(send(fd, "ask", 3, 0), 3);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    RUN_UNTIL(site.loop, site.accepts == 1 && site.accepted[0].ended == 1);
    struct end *end = &site.accepted[0];
    assert_int_equal(end->err, 0);
    assert_int_equal(end->received, 3);
    assert_int_equal(znl_stream_write(end->stream, "answer", 6), 0);
    znl_stream_close(end->stream, 1000);
    end->stream = NULL;
    run_for(site.loop, 20);
    assert_int_equal(recv(fd, answer, sizeof answer, 0), 6);
    assert_int_equal(recv(fd, answer, sizeof answer, 0), 0);
    close(fd);
    close_site(&site, NULL);
}

static void lingering_stream_loses_nothing(void **state)
{
    (void)state;
    static uint8_t bytes[3 * 1024 * 1024];
    struct site site = {0};
    struct end end = {0};
    open_site(&site, "127.0.0.1", 0);
    meet(&site, &end);
    /* The other side sends as well: what is not read must not become a reset. */
    assert_int_equal(znl_stream_write(site.accepted[0].stream, "unread", 6), 0);
    assert_int_equal(znl_stream_write(end.stream, bytes, sizeof bytes), 0);
    znl_stream_close(end.stream, GUARD_MS);
    end.stream = NULL;
    RUN_UNTIL(site.loop, site.accepted[0].ended == 1);
    assert_int_equal(site.accepted[0].err, 0);
    assert_int_equal(site.accepted[0].received, sizeof bytes);
    assert_int_equal(end.received + (size_t)end.ended, 0);
    close_site(&site, &end);
}

static void lingering_ends_when_its_time_is_over(void **state)
{
    (void)state;
    static uint8_t bytes[8 * 1024 * 1024];
    char byte;
    struct site site = {0};
    open_site(&site, "127.0.0.1", 1);
    int fd = raw_connect(&site, 4096);
    RUN_UNTIL(site.loop, site.accepts == 1);
    assert_int_equal(znl_stream_write(site.accepted[0].stream, bytes, sizeof bytes), 0);
    znl_stream_close(site.accepted[0].stream, 30);
    site.accepted[0].stream = NULL;
    run_for(site.loop, 80);
    /* Its place at the listener is free again. */
    int other = raw_connect(&site, 0);
    RUN_UNTIL(site.loop, site.accepts == 2);
    assert_int_equal(recv(other, &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
    close(other);
    close(fd);
    close_site(&site, NULL);
}

static void loop_may_end_while_a_stream_lingers(void **state)
{
    (void)state;
    static uint8_t bytes[8 * 1024 * 1024];
    struct site site = {0};
    open_site(&site, "127.0.0.1", 0);
    int fd = raw_connect(&site, 4096);
    RUN_UNTIL(site.loop, site.accepts == 1);
    assert_int_equal(znl_stream_write(site.accepted[0].stream, bytes, sizeof bytes), 0);
    znl_stream_close(site.accepted[0].stream, 200);
    znl_listener_close(site.listener);
    run_for(site.loop, 5);
    assert_int_equal(znl_loop_close(site.loop), 0);
    close(fd);
}

struct reader {
    int fd;
    size_t bytes;
};

static void *read_slowly(void *user)
{
    struct reader *reader = user;
    static uint8_t bytes[65536];
    ssize_t count;
    while ((count = recv(reader->fd, bytes, sizeof bytes, 0)) > 0) {
        reader->bytes += (size_t)count;
        usleep(100);
    }
    return NULL;
}

static void on_alarm(int number)
{
    (void)number;
}

/* Neither signals nor what nobody has read take anything away from what a loop that ends still writes. */
static void what_lingers_leaves_when_the_loop_ends(void **state)
{
    (void)state;
    static uint8_t bytes[8 * 1024 * 1024];
    const struct itimerval often = {.it_interval.tv_usec = 1000, .it_value.tv_usec = 1000};
    const struct itimerval never = {0};
    struct sigaction action = {.sa_handler = on_alarm}, before;
    sigset_t alarm_only;
    pthread_t thread;
    struct site site = {0};
    open_site(&site, "127.0.0.1", 0);
    struct reader reader = {.fd = raw_connect(&site, 4096)};
    RUN_UNTIL(site.loop, site.accepts == 1);
    assert_int_equal(znl_stream_write(site.accepted[0].stream, bytes, sizeof bytes), 0);
    znl_stream_close(site.accepted[0].stream, 60000);
    znl_listener_close(site.listener);
    run_for(site.loop, 5);
    assert_int_equal(send(reader.fd, "unread", 6, MSG_NOSIGNAL), 6);
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarm_only, NULL); /* the thread leaves them to us */
    assert_int_equal(pthread_create(&thread, NULL, read_slowly, &reader), 0);
    pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL);
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &often, NULL);
    assert_int_equal(znl_loop_close(site.loop), 0);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    pthread_join(thread, NULL);
    assert_int_equal(reader.bytes, sizeof bytes);
    close(reader.fd);
}

static void stream_may_close_inside_its_events(void **state)
{
    (void)state;
    for (uint32_t linger_ms = 0; linger_ms < 2000; linger_ms += 1000) {
        struct site site = {.proto = {.echoes = 1, .close_after = 1, .linger_ms = linger_ms}};
        struct end end = {0};
        open_site(&site, "127.0.0.1", 0);
        meet(&site, &end);
        assert_int_equal(znl_stream_write(end.stream, "hello", 5), 0);
        RUN_UNTIL(site.loop, end.ended == 1);
        assert_int_equal(end.err, 0);
        assert_int_equal(end.received, linger_ms > 0 ? 5 : 0);
        assert_int_equal(site.accepted[0].ended, 0);
        close_site(&site, &end);
    }
}

static void connections_beyond_the_limit_are_closed(void **state)
{
    (void)state;
    char byte;
    struct site site = {0};
    open_site(&site, "127.0.0.1", 2);
    int fds[4];
    for (size_t i = 0; i < 4; i++)
        fds[i] = raw_connect(&site, 0);
    RUN_UNTIL(site.loop, znl_listener_refused(site.listener) == 2);
    assert_int_equal(site.accepts, 2);
    assert_int_equal(recv(fds[2], &byte, 1, 0), 0);
    assert_int_equal(recv(fds[3], &byte, 1, 0), 0);
    close(fds[0]);
    RUN_UNTIL(site.loop, site.accepted[0].ended == 1);
    fds[0] = raw_connect(&site, 0);
    RUN_UNTIL(site.loop, site.accepts == 3);
    for (size_t i = 0; i < 4; i++)
        close(fds[i]);
    close_site(&site, NULL);
}

static void accepted_stream_may_be_closed_at_once(void **state)
{
    (void)state;
    struct site site = {.closes_at_once = 1};
    struct end end = {0};
    open_site(&site, "127.0.0.1", 1);
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(dial(&site, &end, "127.0.0.1"), 0);
        RUN_UNTIL(site.loop, end.ended == i);
    }
    assert_int_equal(znl_listener_refused(site.listener), 0);
    close_site(&site, &end);
}

/* Connections that come while there is no descriptor are closed, and later ones accepted. */
static void listener_survives_the_end_of_descriptors(void **state)
{
    (void)state;
    struct site site = {0};
    struct rlimit limit;
    char byte;
    open_site(&site, "127.0.0.1", 0);
    run_for(site.loop, 1);
    int waiting[3];
    for (size_t i = 0; i < 3; i++)
        waiting[i] = raw_connect(&site, 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    int lowest = dup(0);
    close(lowest);
    const struct rlimit none = {(rlim_t)lowest, limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    run_for(site.loop, 150);
    uint64_t refused = znl_listener_refused(site.listener);
    size_t accepts = site.accepts;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(refused, 3);
    assert_int_equal(accepts, 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(recv(waiting[i], &byte, 1, 0), 0);
        close(waiting[i]);
    }
    int fd = raw_connect(&site, 0);
    RUN_UNTIL(site.loop, site.accepts == 1);
    close(fd);
    close_site(&site, NULL);
}

static void connecting_without_descriptors_says_so(void **state)
{
    (void)state;
    struct site site = {0};
    struct end end = {0};
    struct rlimit limit;
    open_site(&site, "127.0.0.1", 0);
    run_for(site.loop, 1);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    int lowest = dup(0);
    close(lowest);
    const struct rlimit none = {(rlim_t)lowest, limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int err = dial(&site, &end, "127.0.0.1");
    for (int i = 0; i < 100 && !end.ended; i++)
        run_for(site.loop, 2);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(err, 0);
    assert_int_equal(end.ended, 1);
    assert_int_equal(end.err, ZNL_E_LIMIT);
    close_site(&site, &end);
}

/* Whatever allocation fails: an error or an end, and nothing is left. */
static void each_allocation_may_fail(void **state)
{
    (void)state;
    static uint8_t bytes[300000];
    int is_clean = 0;
    for (long n = 0; !is_clean; n++) {
        struct site site = {.proto = {.echoes = 0}};
        struct end end = {0};
        const znl_listener_options options = {.host = "127.0.0.1"};
        assert_true(n < 100);
        assert_int_equal(znl_loop_new(&site.loop), 0);
        znl_alloc_fail_after(n);
        int err = znl_listener_open(&site.listener, site.loop, &options, on_accept, &site);
        if (err == 0)
            err = dial(&site, &end, "127.0.0.1");
        if (err == 0)
            err = znl_stream_write(end.stream, bytes, sizeof bytes);
        for (int i = 0;
                i < 1000 && err == 0 && !end.ended && site.accepted[0].received < sizeof bytes;
                i++)
            run_for(site.loop, 2);
        is_clean = znl_alloc_count() <= n;
        znl_alloc_fail_after(-1);
        assert_true(err == 0 || err == ZNL_E_NOMEM);
        if (is_clean)
            assert_int_equal(site.accepted[0].received, sizeof bytes);
        else
            assert_true(err == ZNL_E_NOMEM || end.ended == 1);
        close_site(&site, &end);
    }
}

/* The allocations of streams at rest, counted by the system. */
static void stream_at_rest_needs_little(void **state)
{
    (void)state;
    struct site site = {.proto = {.echoes = 1}};
    struct end end = {0};
    open_site(&site, "127.0.0.1", 0);
    meet(&site, &end);
    assert_int_equal(znl_stream_write(end.stream, "warm", 4), 0);
    RUN_UNTIL(site.loop, end.received == 4);
    /* Messages cost no allocation of their own, nor do turns. */
    znl_alloc_fail_after(1000000);
    for (size_t i = 1; i <= 50; i++) {
        for (int k = 0; k < 10; k++)
            assert_int_equal(znl_stream_write(end.stream, "0123456789", 10), 0);
        RUN_UNTIL(site.loop, end.received == 4 + i * 100);
    }
    long count = znl_alloc_count();
    znl_alloc_fail_after(-1);
    assert_int_equal(count, 0);
    close_site(&site, &end);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* a test that hangs is named */
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(bytes_go_both_ways),
            cmocka_unit_test(writes_of_one_turn_arrive_together),
            cmocka_unit_test(what_is_written_before_it_is_open_waits),
            cmocka_unit_test(many_bytes_arrive_whole),
            cmocka_unit_test(names_are_looked_up_and_every_address_tried),
            cmocka_unit_test(all_interfaces_are_both_families),
            cmocka_unit_test(connections_that_fail_say_why),
            cmocka_unit_test(connection_to_itself_is_known),
            cmocka_unit_test(silent_address_is_a_timeout),
            cmocka_unit_test(impossible_hosts_are_refused_at_once),
            cmocka_unit_test(close_while_connecting_is_silent),
            cmocka_unit_test(addresses_that_cannot_be_bound_are_told),
            cmocka_unit_test(peer_that_does_not_read_fills_the_queue),
            cmocka_unit_test(room_may_be_awaited),
            cmocka_unit_test(empty_queue_takes_any_size),
            cmocka_unit_test(paused_stream_reads_nothing),
            cmocka_unit_test(busy_stream_leaves_others_their_turn),
            cmocka_unit_test(reset_in_the_middle_is_gone),
            cmocka_unit_test(reset_found_by_writing_ends_it_once),
            cmocka_unit_test(half_open_peer_gets_its_answer),
            cmocka_unit_test(lingering_stream_loses_nothing),
            cmocka_unit_test(lingering_ends_when_its_time_is_over),
            cmocka_unit_test(loop_may_end_while_a_stream_lingers),
            cmocka_unit_test(what_lingers_leaves_when_the_loop_ends),
            cmocka_unit_test(stream_may_close_inside_its_events),
            cmocka_unit_test(connections_beyond_the_limit_are_closed),
            cmocka_unit_test(accepted_stream_may_be_closed_at_once),
            cmocka_unit_test(listener_survives_the_end_of_descriptors),
            cmocka_unit_test(connecting_without_descriptors_says_so),
            cmocka_unit_test(each_allocation_may_fail),
            cmocka_unit_test(stream_at_rest_needs_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
