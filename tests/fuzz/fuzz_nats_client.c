/* Whole conversations of the client of NATS: a server that sends anything in any pieces, ends and comes back, and a
 * program that does anything meanwhile, also from inside callbacks. Nothing is left in the end, what was published
 * within a connection is whole, and nothing is sent in plain where TLS was asked for.
 * SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* memmem */
#include "fuzz/fuzz.h"

#include "base/clock.h"
#include "base/random.h"
#include "support/stream_stage.h"
#include "transport/nats.h"

#include <inttypes.h>

#define SUBSCRIPTIONS 4

static struct {
    const uint8_t *at, *end; /* of the input */
    znl_loop *loop;
    znl_nats *nats;
    znl_nats_subscription *subscriptions[SUBSCRIPTIONS];
    znl_nats_ask *ask; /* one that is to be cancelled, maybe */
    int wants_tls;
    unsigned open_asks, open_flushes;
    unsigned depth;
} play;

static void act(void);

static unsigned take(void)
{
    return play.at < play.end ? *play.at++ : 0;
}

static void on_state(void *user, znl_nats_state state, int err, const char *text)
{
    (void)user;
    FUZZ_HOLDS(play.nats != NULL && text != NULL && strlen(text) < 600);
    FUZZ_HOLDS((err == 0) == (state == ZNL_NATS_CONNECTED));
    FUZZ_HOLDS(state == znl_nats_get_state(play.nats));
    act();
}

static void on_error(void *user, int err, const char *subject, const char *text)
{
    (void)user;
    FUZZ_HOLDS(play.nats != NULL && err != 0 && subject != NULL && text != NULL);
    act();
}

static const znl_nats_events events = {on_state, on_error};

static void check_message(const znl_nats_message *message)
{
    size_t sum = 0; /* every byte is there */
    FUZZ_HOLDS(message->subject[0] != 0 && message->status_text != NULL);
    FUZZ_HOLDS(message->reply == NULL || message->reply[0] != 0);
    FUZZ_HOLDS(message->status <= 999);
    for (size_t i = 0; i < message->size; i++)
        sum += message->data[i];
    for (size_t i = 0; i < message->headers.size; i++)
        sum += (unsigned char)message->headers.lines[i];
    FUZZ_HOLDS(sum <= 255 * (message->size + message->headers.size));
}

static void on_message(void *user, const znl_nats_message *message)
{
    const znl_nats_subscription *const *place = user;
    FUZZ_HOLDS(play.nats != NULL && *place != NULL);
    check_message(message);
    act();
}

static void on_reply(void *user, int err, const znl_nats_message *message)
{
    (void)user;
    FUZZ_HOLDS(play.nats != NULL && play.open_asks > 0 && (err == 0) == (message != NULL));
    play.open_asks--;
    play.ask = NULL; /* it may be this one */
    if (message != NULL)
        check_message(message);
    act();
}

static void on_flushed(void *user, int err)
{
    (void)user;
    (void)err;
    FUZZ_HOLDS(play.nats != NULL && play.open_flushes > 0);
    play.open_flushes--;
    act();
}

/* --- what the program does ------------------------------------------------------------------------- */

static void publish(void)
{
    static const char lines[] = "A: 1\r\n";
    const znl_nats_headers headers = {lines, sizeof lines - 1};
    unsigned what = take();
    static const char data[256];
    znl_nats_publish(play.nats, what & 1 ? "a.b" : "c", what & 2 ? "r" : NULL,
            what & 4 ? &headers : NULL, data, take());
}

static void act(void)
{
    if (play.nats == NULL || play.depth > 8)
        return;
    unsigned what = take();
    znl_nats_subscription **place = &play.subscriptions[what >> 4 & (SUBSCRIPTIONS - 1)];
    play.depth++;
    FUZZ_HOLDS(*place == NULL || znl_nats_waiting(*place, NULL) <= 3);
    switch (what & 15) {
    case 1:
        if (*place == NULL &&
                znl_nats_subscribe(place, play.nats, "a.>", what & 64 ? "q" : NULL, 3, 200,
                        on_message, place) != 0)
            *place = NULL;
        break;
    case 2:
        znl_nats_unsubscribe(*place);
        *place = NULL;
        break;
    case 3:
        if (*place != NULL)
            znl_nats_pause(*place, what >> 6 & 1);
        break;
    case 4:
        if (*place != NULL)
            znl_nats_stop(*place);
        break;
    case 5:
        publish();
        break;
    case 6:
        if (znl_nats_request(&play.ask, play.nats, "a", NULL, "x", 1, 1 + (what >> 4) * 20,
                    on_reply, NULL) == 0)
            play.open_asks++;
        else
            play.ask = NULL;
        break;
    case 7:
        if (play.ask != NULL) {
            znl_nats_cancel(play.ask);
            play.ask = NULL;
            play.open_asks--;
        }
        break;
    case 8:
        if (znl_nats_flush(play.nats, 1 + (what >> 4) * 20, on_flushed, NULL) == 0)
            play.open_flushes++;
        break;
    case 9:
        if (*place != NULL && znl_nats_peek(*place) != NULL && (what & 64) != 0) {
            check_message(znl_nats_peek(*place));
            znl_nats_pop(*place);
        }
        break;
    case 10:
        if (what == 0xfa) {
            znl_nats_close(play.nats);
            play.nats = NULL;
            memset(play.subscriptions, 0, sizeof play.subscriptions);
            play.ask = NULL;
            play.open_asks = play.open_flushes = 0;
        }
        break;
    default:
        break;
    }
    play.depth--;
}

/* --- what the server does -------------------------------------------------------------------------- */

static void send_bytes(const void *data, size_t size)
{
    if (stage.stream != NULL && stage.stream->is_open && !stage.stream->is_shaking)
        stage_send_bytes(data, size);
}

static void send_text(const char *text)
{
    send_bytes(text, strlen(text));
}

/* One line that is right in most of it, with some of the input in it. */
static void send_message(unsigned what)
{
    char line[400];
    unsigned size = take() & 63;
    /* The slots of a table begin at 2^20: the first subscriptions, and asks. */
    uint64_t sid = (uint64_t)(1 + (what >> 4 & 3)) << 20 | (what >> 6);
    int head = what & 8
            ? snprintf(line, sizeof line, "HMSG a.%u %" PRIu64 " r 12 %u\r\nNATS/1.0\r\n\r\n",
                      what, sid, size + 12)
            : snprintf(line, sizeof line, "MSG a.%u %" PRIu64 " %u\r\n", what, sid, size);
    for (unsigned i = 0; i < size; i++)
        line[head++] = (char)take();
    memcpy(line + head, "\r\n", 2);
    send_bytes(line, (size_t)head + 2);
}

/* An answer to the ask that asked last, as far as that can be seen in what was sent; or answers are not permitted. */
static void answer(int is_refused)
{
    znl_buffer *sent = &stage.plain;
    char inbox[200], line[600];
    for (size_t i = sent->size; i > 8; i--) {
        const char *at = (const char *)sent->data + i - 8;
        if (memcmp(at, " _INBOX.", 8) != 0)
            continue;
        size_t most = sent->size - (i - 8) - 1, size = 0;
        while (size < most && size < sizeof inbox - 1 && at[1 + size] != ' ')
            size++;
        snprintf(inbox, sizeof inbox, "%.*s", (int)size, at + 1);
        if (is_refused && strrchr(inbox, '.') != NULL) {
            *strrchr(inbox, '.') = 0;
            snprintf(line, sizeof line,
                    "-ERR 'Permissions Violation for Subscription to \"%s.*\"'\r\n", inbox);
            send_text(line);
            return;
        }
        for (unsigned slot = 0; slot < SUBSCRIPTIONS + 1; slot++) {
            snprintf(line, sizeof line, "MSG %s %u 2\r\nhi\r\n", inbox, 1u << 20 | slot);
            send_text(line);
        }
        return;
    }
}

static void pass(uint64_t ms)
{
    znl_clock_advance(ms);
    znl_loop_clock_changed(play.loop);
    znl_loop_run(play.loop);
}

static void serve(void)
{
    static const char *const infos[] = {"INFO {\"max_payload\":100,\"headers\":true}\r\n",
            "INFO {\"max_payload\":100,\"tls_required\":true,\"nonce\":\"n\"}\r\n",
            "INFO {\"max_payload\":100,\"headers\":true,\"connect_urls\":[\"b:1\",\"10.0.0.1:2\"]}\r\n",
            "INFO {\"max_payload\":9,\"tls_available\":true,\"connect_urls\":[\"c:1\",\"b:1\"]}\r\n"};
    static const char *const errors[] = {
            "-ERR 'Permissions Violation for Publish to \"a\"'\r\n",
            "-ERR 'Authorization Violation'\r\n", "-ERR 'maximum subscriptions exceeded'\r\n",
            "-ERR 'Slow Consumer'\r\n"};
    unsigned what = take();
    switch (what & 7) {
    case 0: { /* any bytes */
        size_t size = what >> 3;
        if (size > (size_t)(play.end - play.at))
            size = (size_t)(play.end - play.at);
        play.at += size;
        send_bytes(play.at - size, size);
        break;
    }
    case 1: /* on with it: a login, as it should be */
        if (stage.stream != NULL && (!stage.stream->is_open || stage.stream->is_shaking))
            stage_open();
        else
            send_text(what & 8 ? "PONG\r\n" : infos[what >> 4 & 3]);
        break;
    case 2:
        send_message(what);
        break;
    case 3:
        send_text(what & 8 ? "PING\r\n" : errors[what >> 4 & 3]);
        break;
    case 4:
        if (stage.stream != NULL)
            stage_end(what & 8 ? ZNL_E_GONE : 0, "the end");
        break;
    case 5:
        pass((uint64_t)(what >> 3) * 20);
        break;
    case 6:
        stage.keeps = what >> 3 & 1;
        if (!stage.keeps && stage.stream != NULL && stage.queued.size > 0)
            stage_take();
        if (what >> 4 >= 14)
            answer(what >> 4 == 14);
        break;
    default:
        act();
    }
}

static int begins(const char *line, size_t size, const char *with)
{
    return size >= strlen(with) && memcmp(line, with, strlen(with)) == 0;
}

/* What the server got is lines that a client may send, whole. */
static void check_sent(const znl_buffer *sent)
{
    if (sent->size == 0)
        return;
    const char *at = (const char *)sent->data, *stop = at + sent->size;
    while (at < stop) {
        const char *end = memchr(at, '\n', (size_t)(stop - at));
        FUZZ_HOLDS(end != NULL && end > at && end[-1] == '\r');
        size_t size = (size_t)(end - at) + 1;
        if (begins(at, size, "PUB ") || begins(at, size, "HPUB ")) {
            const char *number = end - 1;
            while (number[-1] != ' ')
                number--;
            size_t data = (size_t)strtoul(number, NULL, 10) + 2;
            FUZZ_HOLDS(data <= 102 && (size_t)(stop - end) > data);
            FUZZ_HOLDS(memcmp(end + data - 1, "\r\n", 2) == 0);
            size += data;
        } else {
            FUZZ_HOLDS(begins(at, size, "CONNECT {") || begins(at, size, "PING\r") ||
                    begins(at, size, "PONG\r") || begins(at, size, "SUB ") ||
                    begins(at, size, "UNSUB "));
        }
        at += size;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_started;
    char text[ZNL_NATS_TEXT_BYTES];
    if (!is_started) {
        FUZZ_HOLDS(znl_random_start() == 0);
        znl_clock_freeze(1000);
        is_started = 1;
    }
    memset(&play, 0, sizeof play);
    play.at = data;
    play.end = data + size;
    FUZZ_HOLDS(znl_loop_new(&play.loop) == 0);
    unsigned how = take();
    play.wants_tls = how & 1;
    const char *const servers[] = {play.wants_tls ? "tls://me:secret@here" : "me:secret@here"};
    const znl_nats_options options = {.servers = servers,
            .server_count = 1,
            .max_outbox_bytes = 600,
            .ping_ms = 100,
            .connect_timeout_ms = 300,
            .reconnect_min_ms = 10,
            .reconnect_max_ms = 40};
    FUZZ_HOLDS(znl_nats_open(&play.nats, play.loop, &options, &events, NULL, text) == 0);
    pass(0);
    if (how & 2 &&
            stage.stream != NULL) { /* past the login at once: most of it is behind that */
        stage_open();
        send_text("INFO {\"max_payload\":100,\"headers\":true,\"tls_available\":true}\r\n");
        if (stage.stream != NULL && stage.stream->is_shaking)
            stage_open();
        send_text("PONG\r\n");
    }
    while (play.at < play.end) {
        int had = stage.streams;
        serve();
        /* A connection that ended: what it got need not be whole. */
        if (stage.stream == NULL && had) {
            FUZZ_HOLDS(!play.wants_tls || stage.plain.size == 0);
            stage_forget();
        }
        FUZZ_HOLDS(stage.streams <= 1);
        FUZZ_HOLDS(play.nats != NULL || stage.stream == NULL);
    }
    FUZZ_HOLDS(!play.wants_tls || stage.plain.size == 0);
    if (stage.stream != NULL && stage.queued.size == 0 && !play.wants_tls) {
        check_sent(&stage.sealed);
        check_sent(&stage.plain);
    }
    znl_nats_close(play.nats);
    FUZZ_HOLDS(stage.streams == 0);
    FUZZ_HOLDS(znl_loop_wheel(play.loop)->count == 0);
    FUZZ_HOLDS(znl_loop_close(play.loop) == 0);
    stage_fini();
    return 0;
}
