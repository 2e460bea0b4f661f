/* The client of NATS with a real server. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "support/nats_server.h"
#include "support/turns.h"
#include "transport/nats.h"

struct site {
    nats_server server;
    znl_loop *loop;
    znl_nats *nats;
    int connects, failures, err, errors, error;
    char text[ZNL_NATS_TEXT_BYTES * 3], subject[128];
    /* Messages. */
    int messages, answers, answer_err, flushes, flush_err;
    size_t bytes;
    char last[64], reply[128], header[128];
    uint16_t status;
    znl_nats_subscription *subscription;
    int unsubscribes, closes;
};

static void on_state(void *user, znl_nats_state state, int err, const char *text)
{
    struct site *site = user;
    if (state == ZNL_NATS_CONNECTED)
        site->connects++;
    else
        site->failures++;
    site->err = err;
    snprintf(site->text, sizeof site->text, "%s", text);
}

static void on_error(void *user, int err, const char *subject, const char *text)
{
    struct site *site = user;
    site->errors++;
    site->error = err;
    snprintf(site->subject, sizeof site->subject, "%s", subject);
    (void)text;
}

static const znl_nats_events events = {on_state, on_error};

static void on_message(void *user, const znl_nats_message *message)
{
    struct site *site = user;
    site->messages++;
    site->bytes += message->size;
    site->status = message->status;
    snprintf(site->last, sizeof site->last, "%.*s",
            (int)(message->size < 40 ? message->size : 40), (const char *)message->data);
    snprintf(site->reply, sizeof site->reply, "%s",
            message->reply != NULL ? message->reply : "");
    snprintf(site->header, sizeof site->header, "%.*s", (int)message->headers.size,
            message->headers.lines);
    if (site->unsubscribes) {
        znl_nats_unsubscribe(site->subscription);
        site->subscription = NULL;
    }
    if (site->closes) {
        znl_nats_close(site->nats);
        site->nats = NULL;
    }
}

static void respond(void *user, const znl_nats_message *message)
{
    struct site *site = user;
    site->messages++;
    assert_non_null(message->reply);
    assert_int_equal(znl_nats_publish(site->nats, message->reply, NULL, NULL, message->data,
                             message->size),
            0);
}

static void on_reply(void *user, int err, const znl_nats_message *message)
{
    struct site *site = user;
    site->answers++;
    site->answer_err = err;
    if (message != NULL)
        snprintf(site->last, sizeof site->last, "%.*s", (int)message->size,
                (const char *)message->data);
}

static void on_flushed(void *user, int err)
{
    struct site *site = user;
    site->flushes++;
    site->flush_err = err;
}

static void open_nats(struct site *site, const znl_nats_options *more)
{
    const char *servers[] = {site->server.url};
    char text[ZNL_NATS_TEXT_BYTES];
    znl_nats_options options = more != NULL ? *more : (znl_nats_options){.echo = 1};
    options.servers = servers;
    options.server_count = 1;
    options.reconnect_min_ms = options.reconnect_max_ms = 20;
    assert_int_equal(znl_nats_open(&site->nats, site->loop, &options, &events, site, text), 0);
}

static int setup(void **state)
{
    struct site *site = calloc(1, sizeof *site);
    assert_int_equal(znl_loop_new(&site->loop), 0);
    nats_server_start(&site->server);
    *state = site;
    return 0;
}

static int teardown(void **state)
{
    struct site *site = *state;
    znl_nats_close(site->nats);
    assert_int_equal(znl_loop_close(site->loop), 0);
    nats_server_remove(&site->server);
    free(site);
    return 0;
}

static void connect_nats(struct site *site)
{
    int before = site->connects;
    open_nats(site, NULL);
    RUN_UNTIL(site->loop, site->connects > before);
}

static void publish(struct site *site, const char *subject, const char *text)
{
    assert_int_equal(znl_nats_publish(site->nats, subject, NULL, NULL, text, strlen(text)), 0);
}

static void flush(struct site *site)
{
    int before = site->flushes;
    assert_int_equal(znl_nats_flush(site->nats, 10000, on_flushed, site), 0);
    RUN_UNTIL(site->loop, site->flushes > before);
    assert_int_equal(site->flush_err, 0);
}

/* --- tests ------------------------------------------------------------------------------------- */

static void publishes_and_subscribes(void **state)
{
    struct site *site = *state;
    znl_nats_subscription *subscription;
    connect_nats(site);
    assert_int_equal(znl_nats_max_payload(site->nats), 1048576);
    assert_int_equal(
            znl_nats_subscribe(&subscription, site->nats, "a.*", NULL, 0, 0, on_message, site),
            0);
    publish(site, "a.b", "hello");
    publish(site, "b.b", "to nobody");
    RUN_UNTIL(site->loop, site->messages == 1);
    assert_string_equal(site->last, "hello");
    flush(site);
    assert_int_equal(site->messages, 1);
    znl_nats_unsubscribe(subscription);
    publish(site, "a.b", "too late");
    flush(site);
    assert_int_equal(site->messages, 1);
}

static void subscribes_before_it_is_connected(void **state)
{
    struct site *site = *state;
    znl_nats_subscription *subscription;
    open_nats(site, NULL);
    assert_int_equal(znl_nats_publish(site->nats, "a", NULL, NULL, "x", 1), ZNL_E_OFFLINE);
    assert_int_equal(
            znl_nats_subscribe(&subscription, site->nats, "a", NULL, 0, 0, on_message, site),
            0);
    RUN_UNTIL(site->loop, site->connects == 1);
    publish(site, "a", "x");
    RUN_UNTIL(site->loop, site->messages == 1);
}

static void carries_headers_reply_and_size(void **state)
{
    struct site *site = *state;
    static const char lines[] = "A: 1\r\nB: two words\r\nA: 3\r\n";
    const znl_nats_headers headers = {lines, sizeof lines - 1};
    znl_nats_subscription *subscription;
    size_t size = 900000;
    char *big = calloc(1, size);
    connect_nats(site);
    assert_int_equal(
            znl_nats_subscribe(&subscription, site->nats, ">", NULL, 0, 0, on_message, site),
            0);
    assert_int_equal(znl_nats_publish(site->nats, "a", "r.1", &headers, "x", 1), 0);
    RUN_UNTIL(site->loop, site->messages == 1);
    assert_string_equal(site->header, lines);
    assert_string_equal(site->reply, "r.1");
    assert_int_equal(site->status, 0);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(znl_nats_publish(site->nats, "a", NULL, NULL, big, size), 0);
        assert_int_equal(znl_nats_publish(site->nats, "a", NULL, NULL, "", 0), 0);
    }
    RUN_UNTIL(site->loop, site->messages == 11);
    assert_int_equal(site->bytes, 1 + 5 * size);
    free(big);
}

static void refuses_what_cannot_be_published(void **state)
{
    struct site *site = *state;
    static const char *const bad[] = {"", ".", "a.", ".a", "a..b", "a b", "*", "a.>", "a\r\nb"};
    znl_nats_subscription *subscription;
    connect_nats(site);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(
                znl_nats_publish(site->nats, bad[i], NULL, NULL, "", 0), ZNL_E_INVALID);
    }
    assert_int_equal(znl_nats_subscribe(
                             &subscription, site->nats, "a.>.b", NULL, 0, 0, on_message, site),
            ZNL_E_INVALID);
    char *big = calloc(1, 1048577);
    assert_int_equal(
            znl_nats_publish(site->nats, "a", NULL, NULL, big, 1048577), ZNL_E_TOO_BIG);
    int err = 0, count = 0;
    while (err == 0 && count++ < 1000)
        err = znl_nats_publish(site->nats, "a", NULL, NULL, big, 1048576);
    assert_int_equal(err, ZNL_E_BUSY);
    free(big);
    flush(site);
    publish(site, "a", "goes on");
}

static void asks(void **state)
{
    struct site *site = *state;
    znl_nats_subscription *subscription;
    znl_nats_ask *ask, *other;
    connect_nats(site);
    assert_int_equal(
            znl_nats_subscribe(&subscription, site->nats, "echo", NULL, 0, 0, respond, site),
            0);
    assert_int_equal(
            znl_nats_subscribe(&subscription, site->nats, "mute", NULL, 0, 0, on_message, site),
            0);
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(znl_nats_request(&ask, site->nats, "echo", NULL, "ping", 4, 10000,
                                 on_reply, site),
                0);
        RUN_UNTIL(site->loop, site->answers == i);
        assert_int_equal(site->answer_err, 0);
        assert_string_equal(site->last, "ping");
    }
    assert_int_equal(
            znl_nats_request(&ask, site->nats, "nobody", NULL, "", 0, 10000, on_reply, site),
            0);
    RUN_UNTIL(site->loop, site->answers == 4);
    assert_int_equal(site->answer_err, ZNL_E_UNREACHABLE);
    assert_int_equal(
            znl_nats_request(&other, site->nats, "mute", NULL, "", 0, 10000, on_reply, site),
            0);
    assert_int_equal(
            znl_nats_request(&ask, site->nats, "mute", NULL, "", 0, 20, on_reply, site), 0);
    RUN_UNTIL(site->loop, site->answers == 5);
    assert_int_equal(site->answer_err, ZNL_E_TIMEOUT);
    znl_nats_cancel(other);
    flush(site);
    assert_int_equal(site->answers, 5);
}

static void keeps_what_is_paused_within_limits(void **state)
{
    struct site *site = *state;
    znl_nats_subscription *subscription;
    connect_nats(site);
    assert_int_equal(
            znl_nats_subscribe(&subscription, site->nats, "a", NULL, 3, 0, on_message, site),
            0);
    znl_nats_pause(subscription, 1);
    for (int i = 0; i < 5; i++)
        publish(site, "a", i == 2 ? "third" : "x");
    flush(site);
    assert_int_equal(site->messages, 0);
    assert_int_equal(znl_nats_waiting(subscription, NULL), 3);
    assert_int_equal(site->errors, 1);
    assert_int_equal(site->error, ZNL_E_BUSY);
    assert_string_equal(site->subject, "a");
    assert_int_equal(znl_nats_get_counters(site->nats).dropped, 2);
    znl_nats_pause(subscription, 0);
    RUN_UNTIL(site->loop, site->messages == 3);
    assert_string_equal(site->last, "third");
    publish(site, "a", "more");
    RUN_UNTIL(site->loop, site->messages == 4);
}

static void may_end_from_inside(void **state)
{
    struct site *site = *state;
    connect_nats(site);
    site->unsubscribes = 1;
    assert_int_equal(znl_nats_subscribe(&site->subscription, site->nats, "a", NULL, 0, 0,
                             on_message, site),
            0);
    publish(site, "a", "1");
    publish(site, "a", "2");
    flush(site);
    assert_int_equal(site->messages, 1);
    site->unsubscribes = 0;
    site->closes = 1;
    assert_int_equal(znl_nats_subscribe(&site->subscription, site->nats, "a", NULL, 0, 0,
                             on_message, site),
            0);
    publish(site, "a", "3");
    publish(site, "a", "4");
    RUN_UNTIL(site->loop, site->messages == 2);
    assert_null(site->nats);
}

static void comes_back(void **state)
{
    struct site *site = *state;
    znl_nats_subscription *subscription;
    znl_nats_ask *ask;
    connect_nats(site);
    assert_int_equal(
            znl_nats_subscribe(&subscription, site->nats, "a", NULL, 0, 0, on_message, site),
            0);
    for (int round = 1; round <= 3; round++) {
        assert_int_equal(
                znl_nats_request(&ask, site->nats, "a", NULL, "", 0, 60000, on_reply, site), 0);
        assert_int_equal(znl_nats_flush(site->nats, 60000, on_flushed, site), 0);
        nats_server_kill(&site->server);
        RUN_UNTIL(site->loop, znl_nats_get_state(site->nats) == ZNL_NATS_RECONNECTING);
        assert_int_equal(site->answers, round);
        assert_int_equal(site->answer_err, ZNL_E_OFFLINE);
        assert_int_equal(site->flushes, round);
        assert_int_equal(znl_nats_publish(site->nats, "a", NULL, NULL, "", 0), ZNL_E_OFFLINE);
        nats_server_start(&site->server);
        RUN_UNTIL(site->loop, site->connects == round + 1);
        site->messages = 0;
        publish(site, "a", "back");
        RUN_UNTIL(site->loop, site->messages == 1);
        assert_int_equal(znl_nats_get_counters(site->nats).reconnects, round);
        site->flushes = round;
    }
}

static void closes_at_any_time(void **state)
{
    struct site *site = *state;
    for (int turns = 0; turns < 12; turns++) {
        open_nats(site, NULL);
        run_for(site->loop, (uint64_t)turns);
        znl_nats_close(site->nats);
        site->nats = NULL;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
            TEST(publishes_and_subscribes),
            TEST(subscribes_before_it_is_connected),
            TEST(carries_headers_reply_and_size),
            TEST(refuses_what_cannot_be_published),
            TEST(asks),
            TEST(keeps_what_is_paused_within_limits),
            TEST(may_end_from_inside),
            TEST(comes_back),
            TEST(closes_at_any_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
