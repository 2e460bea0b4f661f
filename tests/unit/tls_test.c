/* TLS: sessions that talk to each other in memory, and streams under TLS over real sockets.
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
#include "support/certificates.h"
#include "support/turns.h"
#include "transport/stream.h"
#include "transport/tls_session.h"

static certificates files;

static znl_tls *new_tls(znl_tls_options options)
{
    znl_tls *tls = NULL;
    char text[300] = "";
    if (znl_tls_new(&tls, &options, text, sizeof text) != 0)
        fail_msg("%s", text);
    return tls;
}

static znl_tls *server_tls(void)
{
    return new_tls((znl_tls_options){
            .is_server = 1, .certificate = files.server, .key = files.server_key});
}

static znl_tls *client_tls(void)
{
    return new_tls((znl_tls_options){.authorities = files.authority});
}

/* --- what is configured ------------------------------------------------------------------------ */

static void expect_refused(znl_tls_options options, const char *part)
{
    znl_tls *tls = NULL;
    char text[300] = "";
    assert_int_equal(znl_tls_new(&tls, &options, text, sizeof text), ZNL_E_INVALID);
    assert_null(tls);
    if (strstr(text, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", text, part);
}

static void unusable_files_are_named(void **state)
{
    (void)state;
    expect_refused((znl_tls_options){.is_server = 1}, "needs a certificate");
    expect_refused((znl_tls_options){.certificate = files.server}, "come together");
    expect_refused((znl_tls_options){.is_server = 1,
                           .certificate = files.server,
                           .key = files.server_key,
                           .wants_certificate = 1},
            "authorities are needed");
    expect_refused((znl_tls_options){.certificate = "/no/such", .key = files.server_key},
            "/no/such: No such file");
    expect_refused((znl_tls_options){.certificate = files.server, .key = "/no/such"},
            "/no/such: No such file");
    expect_refused((znl_tls_options){.authorities = "/no/such"}, "/no/such: No such file");
    expect_refused((znl_tls_options){.certificate = files.server, .key = files.client_key},
            "client_key: key values mismatch");
    expect_refused((znl_tls_options){.certificate = files.server_key, .key = files.server_key},
            "server_key: ");
    expect_refused(
            (znl_tls_options){.certificate = files.server, .key = files.server}, "server: ");
    expect_refused((znl_tls_options){.certificate = files.server, .key = files.locked_key},
            "locked_key: "); /* and nobody is asked for the password */
    expect_refused((znl_tls_options){.authorities = files.server_key}, "server_key: ");
}

static void each_allocation_of_a_configuration_may_fail(void **state)
{
    (void)state;
    znl_tls_options options = {.authorities = files.authority, .server_name = "localhost"};
    char text[100];
    int err = ZNL_E_NOMEM;
    for (long n = 0; err != 0; n++) {
        znl_tls *tls = NULL;
        znl_alloc_fail_after(n);
        err = znl_tls_new(&tls, &options, text, sizeof text);
        znl_alloc_fail_after(-1);
        assert_true(err == ZNL_E_NOMEM || (err == 0 && n >= 2));
        znl_tls_release(tls);
    }
}

/* --- sessions ---------------------------------------------------------------------------------- */

/* Two ends in memory. */
struct talk {
    znl_tls *tls[2];
    znl_tls_session *ends[2]; /* client, server */
    int err[2];
};

static void talk_begin(struct talk *talk, znl_tls *client, znl_tls *server, const char *host)
{
    *talk = (struct talk){.tls = {client, server}, .err = {ZNL_E_BUSY, ZNL_E_BUSY}};
    assert_int_equal(znl_tls_session_new(&talk->ends[0], client, host), 0);
    assert_int_equal(znl_tls_session_new(&talk->ends[1], server, NULL), 0);
}

static void talk_end(struct talk *talk)
{
    for (size_t i = 0; i < 2; i++) {
        znl_tls_session_free(talk->ends[i]);
        znl_tls_release(talk->tls[i]);
    }
}

/* Moves what `from` has for the socket, `step` bytes at a time, calling `use` after each. */
static void carry(struct talk *talk, size_t from, size_t step,
        void (*use)(struct talk *talk, size_t to, void *user), void *user)
{
    znl_buffer moved = *znl_tls_session_out(talk->ends[from]);
    *znl_tls_session_out(talk->ends[from]) = (znl_buffer){0};
    for (size_t at = 0; at < moved.size; at += step) {
        size_t size = moved.size - at < step ? moved.size - at : step;
        uint8_t *part = malloc(size); /* gone right after: what is kept is a copy */
        assert_non_null(part);
        memcpy(part, moved.data + at, size);
        assert_int_equal(znl_tls_session_feed(talk->ends[1 - from], part, size), 0);
        use(talk, 1 - from, user);
        assert_int_equal(znl_tls_session_keep(talk->ends[1 - from]), 0);
        memset(part, 0xee, size);
        free(part);
    }
    znl_buffer_fini(&moved);
}

static void shake_one(struct talk *talk, size_t to, void *user)
{
    (void)user;
    if (talk->err[to] == ZNL_E_BUSY)
        talk->err[to] = znl_tls_session_shake(talk->ends[to]);
}

static void shake(struct talk *talk, size_t step)
{
    shake_one(talk, 0, NULL);
    for (int i = 0; i < 10; i++)
        carry(talk, (size_t)i % 2, step, shake_one, NULL);
}

struct reading {
    uint8_t bytes[100000];
    size_t size;
    size_t most; /* records read at a time; 0: all */
    int err;
};

static void read_all(struct talk *talk, size_t to, void *user)
{
    struct reading *reading = user;
    uint8_t plain[ZNL_TLS_RECORD_BYTES];
    for (size_t i = 0; reading->most == 0 || i < reading->most; i++) {
        size_t size = 0;
        reading->err = znl_tls_session_read(talk->ends[to], plain, sizeof plain, &size);
        if (reading->err != 0)
            return;
        assert_true(reading->size + size <= sizeof reading->bytes);
        memcpy(reading->bytes + reading->size, plain, size);
        reading->size += size;
    }
}

static void sessions_talk_in_pieces_of_any_size(void **state)
{
    (void)state;
    static uint8_t bytes[70000];
    static struct reading reading;
    const size_t steps[] = {1, 7, 1000, 100000};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 257);
    for (size_t i = 0; i < 4; i++)
        for (size_t most = 0; most < 2; most++) {
            struct talk talk;
            talk_begin(&talk, client_tls(), server_tls(), "localhost");
            shake(&talk, steps[i]);
            assert_int_equal(talk.err[0], 0);
            assert_int_equal(talk.err[1], 0);
            for (size_t from = 0; from < 2; from++) {
                reading = (struct reading){.most = most};
                assert_int_equal(
                        znl_tls_session_write(talk.ends[from], bytes, sizeof bytes), 0);
                carry(&talk, from, steps[i], read_all, &reading);
                reading.most = 0; /* what was fed and not read has been kept */
                read_all(&talk, 1 - from, &reading);
                assert_int_equal(reading.err, ZNL_E_BUSY);
                assert_int_equal(reading.size, sizeof bytes);
                assert_memory_equal(reading.bytes, bytes, sizeof bytes);
                znl_tls_session_finish(talk.ends[from]);
                carry(&talk, from, steps[i], read_all, &reading);
                assert_int_equal(reading.err, ZNL_E_CLOSED);
            }
            talk_end(&talk);
        }
}

static void changed_bytes_end_the_session(void **state)
{
    (void)state;
    static struct reading reading;
    struct talk talk;
    talk_begin(&talk, client_tls(), server_tls(), "localhost");
    shake(&talk, 100000);
    assert_int_equal(znl_tls_session_write(talk.ends[0], (const uint8_t *)"hello", 5), 0);
    znl_buffer *out = znl_tls_session_out(talk.ends[0]);
    out->data[out->size - 1] ^= 1;
    reading = (struct reading){0};
    carry(&talk, 0, 100000, read_all, &reading);
    assert_int_equal(reading.err, ZNL_E_PROTO);
    assert_int_equal(reading.size, 0);
    assert_string_not_equal(znl_tls_session_why(talk.ends[1]), "");
    assert_true(znl_tls_session_out(talk.ends[1])->size > 0); /* an alert */
    znl_tls_session_finish(talk.ends[1]);
    talk_end(&talk);
}

/* What the client has against the server, or NULL. */
static void expect_verdict(
        znl_tls_options client, znl_tls_options server, const char *host, const char *why)
{
    struct talk talk;
    talk_begin(&talk, new_tls(client), new_tls(server), host);
    shake(&talk, 100000);
    assert_int_equal(talk.err[0], why == NULL ? 0 : ZNL_E_PROTO);
    assert_int_equal(talk.err[1], why == NULL ? 0 : ZNL_E_PROTO);
    if (why != NULL && strstr(znl_tls_session_why(talk.ends[0]), why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", znl_tls_session_why(talk.ends[0]), why);
    talk_end(&talk);
}

static void servers_are_who_they_say(void **state)
{
    (void)state;
    const znl_tls_options server = {
            .is_server = 1, .certificate = files.server, .key = files.server_key};
    const znl_tls_options stranger = {
            .is_server = 1, .certificate = files.stranger, .key = files.stranger_key};
    const znl_tls_options strict = {.authorities = files.authority};
    const znl_tls_options named = {.authorities = files.authority, .server_name = "localhost"};
    const znl_tls_options misnamed = {.authorities = files.authority, .server_name = "other"};
    const znl_tls_options system = {.authorities = NULL};
    const znl_tls_options lax = {.trusts_anyone = 1};
    expect_verdict(strict, server, "localhost", NULL);
    expect_verdict(strict, server, "127.0.0.1", NULL);
    expect_verdict(strict, server, "[::1]", NULL);
    expect_verdict(strict, server, "127.0.0.2", "IP address mismatch");
    expect_verdict(strict, server, "other.host", "hostname mismatch");
    expect_verdict(strict, stranger, "localhost", "self-signed certificate");
    expect_verdict(named, server, "10.1.2.3", NULL);
    expect_verdict(misnamed, server, "localhost", "hostname mismatch");
    expect_verdict(system, server, "localhost", "certificate verify failed");
    expect_verdict(lax, stranger, "other.host", NULL);
}

static void clients_show_their_certificate_when_it_is_wanted(void **state)
{
    (void)state;
    const znl_tls_options server = {.is_server = 1,
            .certificate = files.server,
            .key = files.server_key,
            .authorities = files.authority,
            .wants_certificate = 1};
    const char *const pairs[][2] = {{NULL, NULL}, {files.client, files.client_key},
            {files.stranger, files.stranger_key}};
    for (size_t i = 0; i < 3; i++) {
        static struct reading reading;
        struct talk talk;
        talk_begin(&talk,
                new_tls((znl_tls_options){.authorities = files.authority,
                        .certificate = pairs[i][0],
                        .key = pairs[i][1]}),
                new_tls(server), "localhost");
        shake(&talk, 100000);
        assert_int_equal(talk.err[1], i == 1 ? 0 : ZNL_E_PROTO);
        /* With TLS 1.3 the client learns of it after its own part is done. */
        reading = (struct reading){0};
        read_all(&talk, 0, &reading);
        assert_int_equal(reading.err, i == 1 ? ZNL_E_BUSY : ZNL_E_PROTO);
        talk_end(&talk);
    }
}

static void each_allocation_of_a_session_may_fail(void **state)
{
    (void)state;
    static uint8_t bytes[70000];
    static struct reading reading;
    int is_clean = 0;
    for (long n = 0; !is_clean; n++) {
        struct talk talk = {.tls = {client_tls(), server_tls()}};
        int err = 0;
        assert_true(n < 200);
        reading = (struct reading){0};
        znl_alloc_fail_after(n);
        err = znl_tls_session_new(&talk.ends[0], talk.tls[0], "localhost");
        if (err == 0)
            err = znl_tls_session_new(&talk.ends[1], talk.tls[1], NULL);
        for (int i = 0; i < 8 && err == 0; i++) { /* four steps, then data */
            znl_tls_session *from = talk.ends[i % 2];
            znl_tls_session *to = talk.ends[1 - i % 2];
            err = i < 4 ? znl_tls_session_shake(from)
                        : znl_tls_session_write(from, bytes, sizeof bytes);
            if (err == ZNL_E_BUSY)
                err = 0;
            znl_buffer *out = znl_tls_session_out(from);
            for (size_t at = 0; at < out->size && err == 0; at += 9000) {
                size_t left = out->size - at;
                err = znl_tls_session_feed(to, out->data + at, left < 9000 ? left : 9000);
                size_t size;
                if (err == 0 && i >= 4)
                    err = znl_tls_session_read(to, reading.bytes, ZNL_TLS_RECORD_BYTES, &size);
                else if (err == 0)
                    err = znl_tls_session_shake(to);
                if (err == ZNL_E_BUSY)
                    err = 0;
                if (err == 0)
                    err = znl_tls_session_keep(to);
            }
            out->size = 0;
        }
        is_clean = znl_alloc_count() <= n;
        znl_alloc_fail_after(-1);
        assert_int_equal(err, is_clean ? 0 : ZNL_E_NOMEM);
        talk_end(&talk);
    }
}

/* --- streams ----------------------------------------------------------------------------------- */

struct end {
    znl_stream *stream;
    int opened, ended, err, writable;
    int echoes, pauses, stays;
    size_t received, data_events;
    uint64_t sum;
    char text[200];
};

struct site {
    znl_loop *loop;
    znl_listener *listener;
    znl_tls *server;
    znl_tls *client;
    struct end accepted;
    size_t accepts;
};

static void on_open(void *user)
{
    struct end *end = user;
    end->opened++;
}

static void on_data(void *user, uint8_t *data, size_t size)
{
    struct end *end = user;
    assert_true(end->opened == 1 && end->ended == 0);
    for (size_t i = 0; i < size; i++)
        end->sum += data[i] * (uint64_t)(++end->received % 1009 + 1);
    end->data_events++;
    if (end->echoes)
        assert_int_equal(znl_stream_write(end->stream, data, size), 0);
    if (end->pauses)
        znl_stream_pause(end->stream, 1);
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
    if (end->stays)
        return;
    znl_stream_close(end->stream, 0);
    end->stream = NULL;
}

static const znl_stream_events events = {
        .on_open = on_open, .on_data = on_data, .on_writable = on_writable, .on_end = on_end};

static void on_accept(void *user, znl_stream *stream)
{
    struct site *site = user;
    site->accepts++;
    site->accepted.stream = stream;
    znl_stream_set_events(stream, &events, &site->accepted);
}

static void open_with(struct site *site, size_t max_queue_bytes, uint32_t handshake_ms)
{
    site->server = server_tls();
    site->client = client_tls();
    const znl_listener_options options = {.host = "127.0.0.1",
            .tls = site->server,
            .handshake_ms = handshake_ms,
            .max_queue_bytes = max_queue_bytes};
    assert_int_equal(znl_loop_new(&site->loop), 0);
    assert_int_equal(
            znl_listener_open(&site->listener, site->loop, &options, on_accept, site), 0);
    znl_tls_release(site->server); /* held by the listener */
}

static void open_site(struct site *site, size_t max_queue_bytes)
{
    open_with(site, max_queue_bytes, GUARD_MS);
}

static void dial(struct site *site, struct end *end, const char *host)
{
    const znl_stream_options options = {
            .host = host, .port = znl_listener_port(site->listener), .tls = site->client};
    assert_int_equal(znl_stream_connect(&end->stream, site->loop, &options, &events, end), 0);
}

static void meet(struct site *site, struct end *end)
{
    dial(site, end, "127.0.0.1");
    RUN_UNTIL(site->loop, end->opened && site->accepted.opened);
}

static void close_site(struct site *site, struct end *end)
{
    if (end != NULL)
        znl_stream_close(end->stream, 0);
    znl_stream_close(site->accepted.stream, 0);
    znl_listener_close(site->listener);
    znl_tls_release(site->client);
    assert_int_equal(znl_loop_run(site->loop), 0);
    assert_int_equal(znl_loop_close(site->loop), 0);
}

static int raw_connect(const struct site *site)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
            .sin_port = htons(znl_listener_port(site->listener)),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void streams_talk_under_tls(void **state)
{
    (void)state;
    struct site site = {.accepted.echoes = 1};
    struct end end = {0};
    open_site(&site, 0);
    dial(&site, &end, "localhost");
    assert_int_equal(znl_stream_write(end.stream, "early", 5), 0); /* waits for the hands */
    RUN_UNTIL(site.loop, end.received == 5);
    assert_int_equal(end.opened, 1);
    assert_int_equal(site.accepted.opened, 1);
    assert_memory_equal(znl_stream_peer(site.accepted.stream), "127.0.0.1:", 10);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(znl_stream_write(end.stream, "0123456789", 10), 0);
    RUN_UNTIL(site.loop, end.received == 10005);
    assert_true(site.accepted.data_events <= 2);
    close_site(&site, &end);
}

static void many_bytes_arrive_whole(void **state)
{
    (void)state;
    enum { SIZE = 8 * 1024 * 1024 };
    struct site site = {.accepted.echoes = 1};
    struct end end = {0};
    uint8_t *bytes = malloc(SIZE);
    uint64_t sum = 0;
    assert_non_null(bytes);
    for (size_t i = 0; i < SIZE; i++) {
        bytes[i] = (uint8_t)(i * 31 + i / 4099);
        sum += bytes[i] * (uint64_t)((i + 1) % 1009 + 1);
    }
    open_site(&site, 0);
    meet(&site, &end);
    for (size_t at = 0; at < SIZE;) { /* the queue is written to while it leaves */
        size_t size = SIZE - at < 300000 ? SIZE - at : 300000;
        assert_int_equal(znl_stream_write(end.stream, bytes + at, size), 0);
        at += size;
        if (at % 900000 == 0)
            run_for(site.loop, 1);
    }
    RUN_UNTIL(site.loop, end.received == SIZE);
    assert_int_equal(end.sum, sum);
    free(bytes);
    close_site(&site, &end);
}

/* More than one record was read from the socket when it was paused. */
static void paused_stream_loses_nothing(void **state)
{
    (void)state;
    static uint8_t bytes[200000];
    struct site site = {.accepted.pauses = 1};
    struct end end = {0};
    open_site(&site, 0);
    meet(&site, &end);
    assert_int_equal(znl_stream_write(end.stream, bytes, sizeof bytes), 0);
    znl_stream_close(end.stream, GUARD_MS);
    end.stream = NULL;
    size_t pauses = 0;
    while (!site.accepted.ended) {
        size_t count = site.accepted.data_events;
        RUN_UNTIL(site.loop, site.accepted.data_events == count + 1 || site.accepted.ended);
        run_for(site.loop, 1);
        assert_true(site.accepted.data_events <= count + 1);
        pauses++;
        if (!site.accepted.ended)
            znl_stream_pause(site.accepted.stream, 0);
    }
    assert_int_equal(site.accepted.received, sizeof bytes);
    assert_int_equal(site.accepted.err, 0);
    assert_true(pauses >= sizeof bytes / ZNL_TLS_RECORD_BYTES);
    close_site(&site, &end);
}

static void stream_that_opens_paused_reads_later(void **state)
{
    (void)state;
    struct site site = {0};
    struct end end = {0};
    open_site(&site, 0);
    dial(&site, &end, "127.0.0.1");
    znl_stream_pause(end.stream, 1);
    RUN_UNTIL(site.loop, end.opened && site.accepted.opened);
    assert_int_equal(znl_stream_write(site.accepted.stream, "hello", 5), 0);
    run_for(site.loop, 20);
    assert_int_equal(end.received, 0);
    znl_stream_pause(end.stream, 0);
    RUN_UNTIL(site.loop, end.received == 5);
    close_site(&site, &end);
}

static void peer_that_does_not_read_fills_the_queue(void **state)
{
    (void)state;
    static uint8_t bytes[65536];
    struct site site = {0};
    struct end end = {0};
    open_site(&site, 1000000);
    meet(&site, &end);
    znl_stream_pause(end.stream, 1);
    size_t written = 0;
    int err = 0;
    for (int idle = 0; idle < 20;) {
        err = znl_stream_write(site.accepted.stream, bytes, sizeof bytes);
        written += err == 0 ? sizeof bytes : 0;
        idle = err == 0 ? 0 : idle + 1;
        run_for(site.loop, 1);
        assert_true(znl_stream_queued(site.accepted.stream) <= 1100000);
        assert_true(written < 256 * 1024 * 1024);
    }
    assert_int_equal(err, ZNL_E_BUSY);
    site.accepted.writable = 0;
    znl_stream_pause(end.stream, 0);
    RUN_UNTIL(site.loop, end.received == written);
    assert_int_equal(site.accepted.writable, 1);
    close_site(&site, &end);
}

static void goodbyes_are_told_from_cuts(void **state)
{
    (void)state;
    for (uint32_t linger_ms = 0; linger_ms < 2000; linger_ms += 1000) {
        struct site site = {0};
        struct end end = {0};
        open_site(&site, 0);
        meet(&site, &end);
        znl_stream_close(end.stream, linger_ms);
        end.stream = NULL;
        RUN_UNTIL(site.loop, site.accepted.ended == 1);
        assert_int_equal(site.accepted.err, linger_ms > 0 ? 0 : ZNL_E_PROTO);
        close_site(&site, &end);
    }
}

static void lingering_stream_loses_nothing(void **state)
{
    (void)state;
    static uint8_t bytes[3 * 1024 * 1024];
    struct site site = {0};
    struct end end = {0};
    open_site(&site, 0);
    meet(&site, &end);
    assert_int_equal(znl_stream_write(site.accepted.stream, "unread", 6), 0);
    assert_int_equal(znl_stream_write(end.stream, bytes, sizeof bytes), 0);
    znl_stream_close(end.stream, GUARD_MS);
    end.stream = NULL;
    RUN_UNTIL(site.loop, site.accepted.ended == 1);
    assert_int_equal(site.accepted.err, 0);
    assert_int_equal(site.accepted.received, sizeof bytes);
    close_site(&site, &end);
}

static void server_that_cannot_be_trusted_is_refused(void **state)
{
    (void)state;
    struct site site = {0};
    struct end end = {0};
    open_site(&site, 0);
    znl_tls_release(site.client);
    site.client = new_tls((znl_tls_options){.authorities = files.stranger});
    dial(&site, &end, "127.0.0.1");
    RUN_UNTIL(site.loop, end.ended && site.accepted.ended);
    assert_int_equal(end.err, ZNL_E_PROTO);
    assert_non_null(strstr(end.text, "certificate verify failed"));
    assert_int_equal(site.accepted.err, ZNL_E_PROTO); /* it was told */
    assert_non_null(strstr(site.accepted.text, "alert"));
    assert_int_equal(end.opened + site.accepted.opened, 0);
    close_site(&site, &end);
}

static void handshake_that_takes_too_long_ends(void **state)
{
    (void)state;
    struct site site = {0};
    open_with(&site, 0, 100);
    int fd = raw_connect(&site);
    const uint8_t start[] = {0x16, 3, 1, 2, 0};
    for (size_t i = 0; i < 200 && !site.accepted.ended; i++) { /* trickles in */
        send(fd, i < sizeof start ? start + i : start + 3, 1, MSG_NOSIGNAL);
        run_for(site.loop, 5);
    }
    assert_int_equal(site.accepted.ended, 1);
    assert_int_equal(site.accepted.err, ZNL_E_TIMEOUT);
    assert_int_equal(site.accepted.opened, 0);
    close(fd);
    close_site(&site, NULL);
}

/* A server in plain, that says nothing: a client has said its hello. */
static void meet_silence(struct site *site, struct end *end, uint32_t timeout_ms)
{
    const znl_listener_options options = {.host = "127.0.0.1"};
    site->client = client_tls();
    site->accepted.opened = 1;
    assert_int_equal(znl_loop_new(&site->loop), 0);
    assert_int_equal(
            znl_listener_open(&site->listener, site->loop, &options, on_accept, site), 0);
    const znl_stream_options to = {.host = "127.0.0.1",
            .port = znl_listener_port(site->listener),
            .tls = site->client,
            .timeout_ms = timeout_ms};
    assert_int_equal(znl_stream_connect(&end->stream, site->loop, &to, &events, end), 0);
    RUN_UNTIL(site->loop, site->accepted.received > 100);
}

static void client_waits_for_hands_no_longer_than_it_may(void **state)
{
    (void)state;
    struct site site = {0};
    struct end end = {0};
    meet_silence(&site, &end, 300);
    RUN_UNTIL(site.loop, end.ended == 1);
    assert_int_equal(end.err, ZNL_E_TIMEOUT);
    assert_int_equal(end.opened, 0);
    close_site(&site, &end);
}

static void what_is_not_tls_is_refused(void **state)
{
    (void)state;
    const char *const texts[] = {"GET / HTTP/1.1\r\n\r\n", "\xff\xff\xff\xff\xff\xff\xff"};
    for (size_t i = 0; i < 2; i++) {
        struct site site = {0};
        open_site(&site, 0);
        int fd = raw_connect(&site);
        send(fd, texts[i], strlen(texts[i]), MSG_NOSIGNAL);
        RUN_UNTIL(site.loop, site.accepted.ended == 1);
        assert_int_equal(site.accepted.err, ZNL_E_PROTO);
        assert_memory_equal(site.accepted.text, "TLS: ", 5);
        close(fd);
        close_site(&site, NULL);
    }
}

static void peer_that_leaves_while_hands_are_shaken_is_gone(void **state)
{
    (void)state;
    struct site site = {0};
    open_site(&site, 0);
    int fd = raw_connect(&site);
    send(fd, "\x16\x03\x01", 3, MSG_NOSIGNAL);
    close(fd);
    RUN_UNTIL(site.loop, site.accepted.ended == 1);
    assert_int_equal(site.accepted.err, ZNL_E_GONE);
    close_site(&site, NULL);
}

static void close_while_hands_are_shaken_is_silent(void **state)
{
    (void)state;
    struct site site = {0};
    struct end end = {0};
    meet_silence(&site, &end, 5000);
    znl_stream_close(end.stream, 1000);
    end.stream = NULL;
    RUN_UNTIL(site.loop, site.accepted.ended == 1);
    run_for(site.loop, 5);
    assert_int_equal(end.opened + end.ended, 0);
    close_site(&site, &end);
}

static void each_allocation_of_streams_may_fail(void **state)
{
    (void)state;
    static uint8_t bytes[100000];
    int is_clean = 0;
    for (long n = 0; !is_clean; n++) {
        struct site site = {.server = server_tls(), .client = client_tls()};
        struct end end = {0};
        const znl_listener_options options = {.host = "127.0.0.1", .tls = site.server};
        assert_true(n < 200);
        assert_int_equal(znl_loop_new(&site.loop), 0);
        znl_alloc_fail_after(n);
        int err = znl_listener_open(&site.listener, site.loop, &options, on_accept, &site);
        znl_tls_release(site.server);
        if (err == 0) {
            const znl_stream_options to = {.host = "127.0.0.1",
                    .port = znl_listener_port(site.listener),
                    .tls = site.client};
            err = znl_stream_connect(&end.stream, site.loop, &to, &events, &end);
        }
        if (err == 0)
            err = znl_stream_write(end.stream, bytes, sizeof bytes);
        for (int i = 0; i < 1000 && err == 0 && !end.ended && !site.accepted.ended &&
                site.accepted.received < sizeof bytes;
                i++)
            run_for(site.loop, 2);
        is_clean = znl_alloc_count() <= n;
        znl_alloc_fail_after(-1);
        assert_true(err == 0 || err == ZNL_E_NOMEM);
        if (is_clean)
            assert_int_equal(site.accepted.received, sizeof bytes);
        else
            assert_true(err == ZNL_E_NOMEM || end.ended + site.accepted.ended > 0);
        close_site(&site, &end);
    }
}

static int make_files(void **state)
{
    (void)state;
    certificates_make(&files);
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    certificates_remove(&files);
    return 0;
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* a test that hangs is named */
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(unusable_files_are_named),
            cmocka_unit_test(each_allocation_of_a_configuration_may_fail),
            cmocka_unit_test(sessions_talk_in_pieces_of_any_size),
            cmocka_unit_test(changed_bytes_end_the_session),
            cmocka_unit_test(servers_are_who_they_say),
            cmocka_unit_test(clients_show_their_certificate_when_it_is_wanted),
            cmocka_unit_test(each_allocation_of_a_session_may_fail),
            cmocka_unit_test(streams_talk_under_tls),
            cmocka_unit_test(many_bytes_arrive_whole),
            cmocka_unit_test(paused_stream_loses_nothing),
            cmocka_unit_test(stream_that_opens_paused_reads_later),
            cmocka_unit_test(peer_that_does_not_read_fills_the_queue),
            cmocka_unit_test(goodbyes_are_told_from_cuts),
            cmocka_unit_test(lingering_stream_loses_nothing),
            cmocka_unit_test(server_that_cannot_be_trusted_is_refused),
            cmocka_unit_test(handshake_that_takes_too_long_ends),
            cmocka_unit_test(client_waits_for_hands_no_longer_than_it_may),
            cmocka_unit_test(what_is_not_tls_is_refused),
            cmocka_unit_test(peer_that_leaves_while_hands_are_shaken_is_gone),
            cmocka_unit_test(close_while_hands_are_shaken_is_silent),
            cmocka_unit_test(each_allocation_of_streams_may_fail),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
