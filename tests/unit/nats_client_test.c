/* The client of NATS with a server that does what the test says, at the byte where it says so; time stands still
 * until the test moves it. SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* memmem */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>

#include "base/clock.h"
#include "base/random.h"
#include "support/stream_stage.h"
#include "transport/nats.h"

#define INFO "INFO {\"max_payload\":1000,\"headers\":true}\r\n"
#define INFO_TLS "INFO {\"max_payload\":1000,\"headers\":true,\"tls_available\":true}\r\n"

struct site {
    znl_loop *loop;
    znl_nats *nats;
    int states, connects, err, errors, error;
    char text[ZNL_NATS_TEXT_BYTES * 3], subject[128];
    int messages, answers, answer_err;
    size_t last_subject; /* bytes */
};

static void on_state(void *user, znl_nats_state state, int err, const char *text)
{
    struct site *site = user;
    site->states++;
    site->connects += state == ZNL_NATS_CONNECTED;
    site->err = err;
    snprintf(site->text, sizeof site->text, "%s", text);
}

static void on_error(void *user, int err, const char *subject, const char *text)
{
    struct site *site = user;
    (void)text;
    site->errors++;
    site->error = err;
    snprintf(site->subject, sizeof site->subject, "%s", subject);
}

static const znl_nats_events events = {on_state, on_error};

static void on_message(void *user, const znl_nats_message *message)
{
    struct site *site = user;
    site->messages++;
    site->last_subject = strlen(message->subject);
}

static void on_reply(void *user, int err, const znl_nats_message *message)
{
    struct site *site = user;
    (void)message;
    site->answers++;
    site->answer_err = err;
}

static void pass(struct site *site, uint64_t ms)
{
    znl_clock_advance(ms);
    znl_loop_clock_changed(site->loop);
    znl_loop_run(site->loop);
}

static int open_with(struct site *site, const char *server, znl_nats_options options)
{
    char text[ZNL_NATS_TEXT_BYTES];
    options.servers = &server;
    options.server_count = 1;
    if (options.reconnect_max_ms == 0)
        options.reconnect_min_ms = options.reconnect_max_ms = 100;
    int err = znl_nats_open(&site->nats, site->loop, &options, &events, site, text);
    if (err == 0)
        pass(site, 0);
    return err;
}

static void log_in(struct site *site)
{
    int before = site->connects;
    stage_open();
    stage_send(INFO);
    assert_true(stage_got(&stage.plain, "CONNECT {"));
    stage_send("PONG\r\n");
    assert_int_equal(site->connects, before + 1);
}

static void meet(struct site *site, znl_nats_options options)
{
    assert_int_equal(open_with(site, "nats://here", options), 0);
    log_in(site);
}

/* Until it dials again. */
static void await_dial(struct site *site)
{
    int before = stage.dials;
    for (int i = 0; i < 100 && stage.dials == before; i++)
        pass(site, 50);
    assert_int_equal(stage.dials, before + 1);
    assert_non_null(stage.stream);
}

static int setup(void **state)
{
    struct site *site = calloc(1, sizeof *site);
    znl_clock_freeze(1000);
    assert_int_equal(znl_random_start(), 0);
    assert_int_equal(znl_loop_new(&site->loop), 0);
    *state = site;
    return 0;
}

static int teardown(void **state)
{
    struct site *site = *state;
    znl_nats_close(site->nats);
    assert_int_equal(stage.streams, 0);
    assert_int_equal(znl_loop_wheel(site->loop)->count, 0);
    assert_int_equal(znl_loop_close(site->loop), 0);
    stage_fini();
    znl_clock_thaw();
    free(site);
    return 0;
}

/* The number of the only subscription to `subject`. */
static uint64_t sid_of(const char *subject)
{
    char line[200], all[4000];
    uint64_t sid = 0;
    snprintf(line, sizeof line, "SUB %s ", subject);
    snprintf(all, sizeof all, "%.*s", (int)stage.plain.size, (const char *)stage.plain.data);
    const char *at = strstr(all, line);
    assert_non_null(at);
    assert_int_equal(sscanf(at + strlen(line), "%" SCNu64, &sid), 1);
    return sid;
}

static void deliver(uint64_t sid, const char *subject, size_t size)
{
    char line[6000];
    int head = snprintf(line, sizeof line, "MSG %.*s %" PRIu64 " 1\r\nx\r\n",
            (int)strlen(subject), subject, sid);
    /* A zero byte in place of each "0" of the subject. */
    for (size_t i = 4; i < 4 + size; i++)
        line[i] = line[i] == '0' ? 0 : line[i];
    stage_send_bytes(line, (size_t)head);
}

/* --- TLS ------------------------------------------------------------------------------------------- */

static void told_servers_need_tls_where_the_teller_did(void **state)
{
    struct site *site = *state;
    const znl_nats_options options = {.user = "u", .password = "secret"};
    assert_int_equal(open_with(site, "tls://here.example", options), 0);
    stage_open();
    stage_send(
            "INFO {\"max_payload\":1000,\"tls_available\":true,\"connect_urls\":[\"evil:1\"]}\r\n");
    assert_string_equal(stage.tls_name, "here.example");
    stage_end(ZNL_E_GONE, "reset");
    await_dial(site);
    assert_string_equal(stage.host, "evil");
    stage_open();
    stage_send(INFO);
    assert_null(stage.stream);
    assert_int_equal(site->err, ZNL_E_REFUSED);
    assert_false(stage_got(&stage.plain, "CONNECT"));
    /* Told in plain, by whom nobody knows: only who has the certificate of the teller is believed. */
    while (strcmp(stage.host, "evil") != 0 || stage.stream == NULL) {
        await_dial(site);
        if (strcmp(stage.host, "evil") != 0)
            stage_end(ZNL_E_GONE, "reset");
    }
    stage_open();
    stage_send(INFO_TLS);
    assert_string_equal(stage.tls_name, "here.example");
    stage_open();
    assert_true(stage_got(&stage.sealed, "\"pass\":\"secret\""));
    assert_false(stage_got(&stage.plain, "secret"));
}

static void told_under_tls_are_checked_by_their_own_names(void **state)
{
    struct site *site = *state;
    static const struct {
        const char *told, *host, *name;
    } rows[] = {{"there:1", "there", "there"}, {"10.0.0.9:1", "10.0.0.9", "here.example"},
            {"[::9]:1", "[::9]", "here.example"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char line[200];
        assert_int_equal(open_with(site, "tls://here.example", (znl_nats_options){0}), 0);
        stage_open();
        stage_send(INFO_TLS);
        stage_open();
        snprintf(line, sizeof line,
                "PONG\r\nINFO {\"max_payload\":1000,\"connect_urls\":[\"%s\"]}\r\n",
                rows[i].told);
        stage_send(line);
        stage_end(0, "end");
        await_dial(site);
        assert_string_equal(stage.host, rows[i].host);
        stage_open();
        stage_send(INFO_TLS);
        assert_string_equal(stage.tls_name, rows[i].name);
        znl_nats_close(site->nats);
        site->nats = NULL;
    }
}

static void nothing_in_plain_is_taken_once_tls_is_agreed(void **state)
{
    struct site *site = *state;
    assert_int_equal(open_with(site, "tls://here", (znl_nats_options){.token = "secret"}), 0);
    stage_open();
    stage_send(INFO_TLS "PONG\r\n");
    assert_null(stage.stream);
    assert_int_equal(site->err, ZNL_E_PROTO);
    await_dial(site);
    stage_open();
    stage_send(INFO);
    assert_int_equal(site->err, ZNL_E_REFUSED);
    assert_int_equal(stage.plain.size, 0);
}

static void tls_that_a_server_demands_later_changes_nothing(void **state)
{
    struct site *site = *state;
    meet(site, (znl_nats_options){0});
    stage_send("INFO {\"max_payload\":10,\"tls_required\":true}\r\n");
    assert_int_equal(znl_nats_get_state(site->nats), ZNL_NATS_CONNECTED);
    assert_int_equal(znl_nats_max_payload(site->nats), 10);
    assert_int_equal(stage.stream->has_tls, 0);
}

/* --- servers ---------------------------------------------------------------------------------------- */

static void told_servers_get_the_login_of_the_teller(void **state)
{
    struct site *site = *state;
    assert_int_equal(open_with(site, "nats://me:secret@here", (znl_nats_options){0}), 0);
    log_in(site);
    stage_send("INFO {\"max_payload\":1000,\"connect_urls\":[\"there:7\"]}\r\n");
    stage_end(0, "end");
    stage_forget();
    await_dial(site);
    assert_string_equal(stage.host, "there");
    assert_int_equal(stage.port, 7);
    log_in(site);
    assert_true(stage_got(&stage.plain, "\"user\":\"me\",\"pass\":\"secret\""));
}

static void servers_that_are_not_told_any_more_are_forgotten(void **state)
{
    struct site *site = *state;
    meet(site, (znl_nats_options){0});
    stage_send("INFO {\"max_payload\":1000,\"connect_urls\":[\"a:1\",\"b:1\",\"a:1\"]}\r\n");
    stage_send("INFO {\"max_payload\":1000,\"connect_urls\":[\"b:1\",\"c:1\"]}\r\n");
    stage_send("INFO {\"max_payload\":1000}\r\n");
    stage_end(0, "end");
    await_dial(site);
    int a = 0, b = 0, c = 0, here = 0;
    for (int i = 0; i < 6; i++) {
        a += strcmp(stage.host, "a") == 0;
        b += strcmp(stage.host, "b") == 0;
        c += strcmp(stage.host, "c") == 0;
        here += strcmp(stage.host, "here") == 0;
        stage_end(ZNL_E_UNREACHABLE, "refused");
        await_dial(site);
    }
    assert_int_equal(a, 0);
    assert_int_equal(b, 2);
    assert_int_equal(c, 2);
    assert_int_equal(here, 2);
}

static void a_flood_of_servers_has_its_end(void **state)
{
    struct site *site = *state;
    static char line[60000];
    meet(site, (znl_nats_options){0});
    for (int flood = 0; flood < 3; flood++) {
        int size = snprintf(line, sizeof line, "INFO {\"max_payload\":1000,\"connect_urls\":[");
        for (int i = 0; i < 3000; i++)
            size += snprintf(line + size, sizeof line - (size_t)size, "%s\"h%d-%d:1\"",
                    i > 0 ? "," : "", flood, i);
        snprintf(line + size, sizeof line - (size_t)size, "]}\r\n");
        stage_send(line);
    }
    stage_end(0, "end");
    await_dial(site);
    /* 63 beside the one that was given, all of the last list. */
    for (int i = 0; i < 63; i++) {
        assert_memory_equal(stage.host, "h2-", 3);
        stage_end(ZNL_E_UNREACHABLE, "refused");
        await_dial(site);
    }
    assert_string_equal(stage.host, "here");
}

static void who_throws_us_out_is_not_stormed(void **state)
{
    struct site *site = *state;
    meet(site, (znl_nats_options){.reconnect_min_ms = 100, .reconnect_max_ms = 3200});
    for (int i = 0; i < 1000; i++) {
        if (stage.stream != NULL) {
            stage_end(0, "end");
            assert_null(stage.stream);
        }
        pass(site, 10);
        if (stage.stream != NULL)
            log_in(site);
    }
    /* In 10 s, with waits of at least 50, 100, 200, 400, 800, 1600, 1600, … ms. */
    assert_in_range(stage.dials, 3, 12);
    if (stage.stream == NULL) {
        await_dial(site);
        log_in(site);
    }
    /* One that lasted is dialled again as soon as ever. */
    pass(site, 3200);
    stage_end(0, "end");
    pass(site, 100);
    assert_non_null(stage.stream);
}

/* --- what the server says is wrong ------------------------------------------------------------------ */

static void errors_of_the_server_end_the_connection(void **state)
{
    static const struct {
        const char *text;
        int err;
    } rows[] = {{"Authorization Violation", ZNL_E_REFUSED},
            {"User Authentication Expired", ZNL_E_REFUSED},
            {"User Authentication Revoked", ZNL_E_REFUSED},
            {"Account Authentication Expired", ZNL_E_REFUSED},
            {"Authentication Timeout", ZNL_E_REFUSED},
            {"maximum connections exceeded", ZNL_E_REFUSED},
            {"Stale Connection", ZNL_E_TIMEOUT}, {"Slow Consumer", ZNL_E_BUSY},
            {"Maximum Payload Violation", ZNL_E_TOO_BIG},
            {"Unknown Protocol Operation", ZNL_E_GONE}};
    struct site *site = *state;
    znl_nats_ask *ask;
    char line[200];
    meet(site, (znl_nats_options){0});
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(
                znl_nats_request(&ask, site->nats, "a", NULL, "", 0, 60000, on_reply, site), 0);
        snprintf(line, sizeof line, "-ERR '%s'\r\nMSG a 1 1\r\n", rows[i].text);
        stage_send(line);
        assert_null(stage.stream);
        assert_int_equal(site->err, rows[i].err);
        assert_non_null(strstr(site->text, rows[i].text));
        assert_int_equal(site->answers, (int)i + 1);
        assert_int_equal(site->answer_err, ZNL_E_OFFLINE);
        await_dial(site);
        stage_open();
        stage_send(INFO);
        snprintf(line, sizeof line, "-ERR '%s'\r\n", rows[i].text);
        stage_send(line); /* the login is refused */
        assert_null(stage.stream);
        assert_int_equal(site->err, rows[i].err);
        await_dial(site);
        log_in(site);
    }
    assert_int_equal(site->errors, 0);
}

static void errors_about_one_thing_do_not(void **state)
{
    struct site *site = *state;
    meet(site, (znl_nats_options){0});
    stage_send("-ERR 'Permissions Violation for Publish to \"a.b\"'\r\n");
    assert_int_equal(site->error, ZNL_E_REFUSED);
    assert_string_equal(site->subject, "a.b");
    stage_send("-ERR 'maximum subscriptions exceeded'\r\n");
    assert_int_equal(site->error, ZNL_E_LIMIT);
    stage_send("-ERR 'Invalid Publish Subject'\r\n");
    assert_int_equal(site->error, ZNL_E_REFUSED);
    assert_int_equal(site->errors, 3);
    assert_int_equal(znl_nats_get_state(site->nats), ZNL_NATS_CONNECTED);
    /* Nor is its end laid on them. */
    stage_end(ZNL_E_GONE, "reset");
    assert_int_equal(site->err, ZNL_E_GONE);
}

static void asks_end_when_answers_are_not_permitted(void **state)
{
    struct site *site = *state;
    znl_nats_ask *ask;
    char line[300], all[2000];
    meet(site, (znl_nats_options){.inbox_prefix = "mine"});
    for (int i = 1; i <= 2; i++) {
        stage_forget();
        assert_int_equal(
                znl_nats_request(&ask, site->nats, "a", NULL, "", 0, 60000, on_reply, site), 0);
        assert_int_equal(
                znl_nats_request(&ask, site->nats, "a", NULL, "", 0, 60000, on_reply, site), 0);
        snprintf(all, sizeof all, "%.*s", (int)stage.plain.size, (char *)stage.plain.data);
        const char *from = strstr(all, "SUB mine.");
        assert_non_null(from);
        snprintf(line, sizeof line,
                "-ERR 'Permissions Violation for Subscription to \"%.*s\"'\r\n",
                (int)strcspn(from + 4, " "), from + 4);
        stage_send("-ERR 'Permissions Violation for Subscription to \"mine.other.*\"'\r\n");
        assert_int_equal(site->answers, 2 * i - 2);
        stage_send(line);
        assert_int_equal(site->answers, 2 * i);
        assert_int_equal(site->answer_err, ZNL_E_REFUSED);
    }
}

/* --- messages --------------------------------------------------------------------------------------- */

static void odd_subjects_of_others_end_nothing(void **state)
{
    struct site *site = *state;
    znl_nats_subscription *subscription;
    char subject[4000];
    meet(site, (znl_nats_options){0});
    assert_int_equal(
            znl_nats_subscribe(&subscription, site->nats, ">", NULL, 0, 0, on_message, site),
            0);
    uint64_t sid = sid_of(">");
    memset(subject, 'a', sizeof subject);
    subject[sizeof subject - 1] = 0;
    deliver(sid, subject, 0);
    assert_int_equal(site->messages, 1);
    assert_int_equal(site->last_subject, sizeof subject - 1);
    deliver(sid, "admin0x", 7); /* it must not pass for "admin" */
    assert_int_equal(site->messages, 1);
    deliver(sid, "b", 0);
    assert_int_equal(site->messages, 2);
    assert_int_equal(znl_nats_get_state(site->nats), ZNL_NATS_CONNECTED);
}

static void only_the_right_answer_is_one(void **state)
{
    struct site *site = *state;
    znl_nats_ask *ask;
    char all[2000], inbox[200], subject[300];
    meet(site, (znl_nats_options){0});
    assert_int_equal(
            znl_nats_request(&ask, site->nats, "a", NULL, "", 0, 1000, on_reply, site), 0);
    snprintf(all, sizeof all, "%.*s", (int)stage.plain.size, (char *)stage.plain.data);
    const char *from = strstr(all, "PUB a ");
    assert_non_null(from);
    snprintf(inbox, sizeof inbox, "%.*s", (int)strcspn(from + 6, " "), from + 6);
    char *number = strrchr(inbox, '.') + 1;
    uint64_t sid = 0;
    assert_int_equal(sscanf(strstr(all, ".* ") + 3, "%" SCNu64, &sid), 1);
    static const char *const odd[] = {"", "+", "0", "00", "x", "99999999999999999999999999"};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        snprintf(subject, sizeof subject, "%.*s%s%s", (int)(number - inbox), inbox, odd[i],
                number);
        if (odd[i][0] == 0)
            strcat(subject, "x");
        deliver(sid, subject, 0);
    }
    snprintf(subject, sizeof subject, "%.10s.%s", inbox, number);
    deliver(sid, subject, 0);
    deliver(sid, "a", 0);
    assert_int_equal(site->answers, 0);
    deliver(sid, inbox, 0);
    assert_int_equal(site->answers, 1);
    assert_int_equal(site->answer_err, 0);
    deliver(sid, inbox, 0); /* another one */
    /* One that comes too late does not answer the ask that has its place now. */
    assert_int_equal(
            znl_nats_request(&ask, site->nats, "a", NULL, "", 0, 1000, on_reply, site), 0);
    deliver(sid, inbox, 0);
    assert_int_equal(site->answers, 1);
    pass(site, 1000);
    assert_int_equal(site->answers, 2);
    assert_int_equal(site->answer_err, ZNL_E_TIMEOUT);
}

static void the_outbox_counts_what_is_queued(void **state)
{
    struct site *site = *state;
    char data[900] = {0};
    meet(site, (znl_nats_options){.max_outbox_bytes = 4000});
    stage.keeps = 1;
    int count = 0;
    while (znl_nats_publish(site->nats, "a", NULL, NULL, data, sizeof data) == 0)
        count++;
    assert_int_equal(count, 4);
    assert_int_equal(
            znl_nats_publish(site->nats, "a", NULL, NULL, data, sizeof data), ZNL_E_BUSY);
    assert_true(stage.queued.size <= 4000);
    /* Pings are answered all the same, and a server that only asks is left. */
    size_t before = stage.queued.size;
    stage_send("PING\r\n");
    assert_int_equal(stage.queued.size, before + 6);
    stage_take();
    assert_int_equal(znl_nats_publish(site->nats, "a", NULL, NULL, data, sizeof data), 0);
    for (int i = 0; i < 1000000 && stage.stream != NULL; i++)
        stage_send("PING\r\nPING\r\nPING\r\nPING\r\nPING\r\nPING\r\nPING\r\nPING\r\n");
    assert_null(stage.stream);
    assert_int_equal(site->err, ZNL_E_LIMIT);
}

static void every_cut_gives_the_same(void **state)
{
    struct site *site = *state;
    znl_nats_subscription *subscription;
    char text[400];
    meet(site, (znl_nats_options){0});
    assert_int_equal(
            znl_nats_subscribe(&subscription, site->nats, "a", NULL, 0, 0, on_message, site),
            0);
    uint64_t sid = sid_of("a");
    int size = snprintf(text, sizeof text,
            "+OK\r\nMSG a %" PRIu64 " 5\r\nhello\r\nHMSG a %" PRIu64
            " r 12 14\r\nNATS/1.0\r\n\r\nxx\r\nINFO {\"max_payload\":77}\r\nPING\r\nMSG a %" PRIu64
            " 0\r\n\r\n",
            sid, sid, sid);
    for (int first = 0; first <= size; first++) {
        for (int second = first; second <= size; second++) {
            site->messages = 0;
            stage_forget();
            stage_send_bytes(text, (size_t)first);
            stage_send_bytes(text + first, (size_t)(second - first));
            stage_send_bytes(text + second, (size_t)(size - second));
            if (site->messages != 3 || stage.plain.size != 6)
                fail_msg("cut at %d and %d", first, second);
        }
    }
    assert_int_equal(znl_nats_max_payload(site->nats), 77);
}

/* --- memory ----------------------------------------------------------------------------------------- */

static void a_subscription_that_cannot_be_sent_ends_the_connection(void **state)
{
    struct site *site = *state;
    znl_nats_subscription *subscription;
    assert_int_equal(open_with(site, "here", (znl_nats_options){0}), 0);
    assert_int_equal(
            znl_nats_subscribe(&subscription, site->nats, "a", NULL, 0, 0, on_message, site),
            0);
    stage_open();
    stage_send(INFO);
    znl_buffer_fini(&stage.queued);
    znl_alloc_fail_after(0);
    stage_send("PONG\r\n");
    znl_alloc_fail_after(-1);
    assert_int_equal(site->connects, 1);
    assert_false(stage_got(&stage.plain, "SUB a "));
    pass(site, 0);
    assert_null(stage.stream);
    assert_int_equal(site->err, ZNL_E_NOMEM);
    await_dial(site);
    log_in(site);
    assert_true(stage_got(&stage.plain, "SUB a "));
}

/* A bit of everything, however far it gets. */
static void converse(struct site *site)
{
    static const char lines[] = "A: 1\r\n";
    const znl_nats_headers headers = {lines, sizeof lines - 1};
    znl_nats_subscription *subscription = NULL, *other = NULL;
    znl_nats_ask *ask;
    if (open_with(site, "nats://me:pw@here", (znl_nats_options){.name = "n"}) != 0)
        return;
    if (znl_nats_subscribe(&subscription, site->nats, "a", "q", 0, 0, on_message, site) != 0)
        subscription = NULL;
    if (subscription != NULL)
        znl_nats_pause(subscription, 1);
    for (int i = 0; i < 2; i++) {
        for (int tries = 0; tries < 20 && stage.stream == NULL; tries++)
            pass(site, 100);
        if (stage.stream == NULL)
            return;
        stage_open();
        stage_send("INFO {\"max_payload\":1000,\"nonce\":\"x\",\"headers\":true,"
                   "\"connect_urls\":[\"b:1\",\"here:4222\"]}\r\n");
        if (stage.stream != NULL)
            stage_send("PONG\r\n");
        if (stage.stream == NULL)
            continue;
        if (znl_nats_subscribe(&other, site->nats, "b.>", NULL, 1, 0, on_message, site) == 0)
            znl_nats_unsubscribe(other);
        znl_nats_publish(site->nats, "a", "r", &headers, "data", 4);
        if (znl_nats_request(&ask, site->nats, "a", NULL, "", 0, 10, on_reply, site) == 0 && i)
            znl_nats_cancel(ask);
        znl_nats_flush(site->nats, 10, NULL, NULL);
        stage_send("MSG a 1048576 r 1\r\nx\r\nMSG a 1048576 r 10\r\n");
        if (stage.stream != NULL)
            stage_send("0123456789\r\nPING\r\nPO");
        if (stage.stream != NULL)
            stage_send("NG\r\n");
        if (subscription != NULL)
            znl_nats_pause(subscription, 0);
        pass(site, 20);
        if (stage.stream != NULL)
            stage_end(ZNL_E_GONE, "reset");
    }
}

static void any_allocation_may_fail(void **state)
{
    struct site *site = *state;
    for (long n = 0;; n++) {
        znl_alloc_fail_after(n);
        converse(site);
        int is_clean = znl_alloc_count() <= n;
        znl_alloc_fail_after(-1);
        znl_nats_close(site->nats);
        site->nats = NULL;
        assert_int_equal(stage.streams, 0);
        assert_int_equal(znl_loop_wheel(site->loop)->count, 0);
        znl_buffer_fini(&stage.queued);
        stage_forget();
        if (is_clean)
            break;
        assert_true(n < 2000);
    }
    assert_true(site->messages > 0 && site->answers > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
            TEST(told_servers_need_tls_where_the_teller_did),
            TEST(told_under_tls_are_checked_by_their_own_names),
            TEST(nothing_in_plain_is_taken_once_tls_is_agreed),
            TEST(tls_that_a_server_demands_later_changes_nothing),
            TEST(told_servers_get_the_login_of_the_teller),
            TEST(servers_that_are_not_told_any_more_are_forgotten),
            TEST(a_flood_of_servers_has_its_end),
            TEST(who_throws_us_out_is_not_stormed),
            TEST(errors_of_the_server_end_the_connection),
            TEST(errors_about_one_thing_do_not),
            TEST(asks_end_when_answers_are_not_permitted),
            TEST(odd_subjects_of_others_end_nothing),
            TEST(only_the_right_answer_is_one),
            TEST(the_outbox_counts_what_is_queued),
            TEST(every_cut_gives_the_same),
            TEST(a_subscription_that_cannot_be_sent_ends_the_connection),
            TEST(any_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
