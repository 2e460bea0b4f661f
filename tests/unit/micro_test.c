/* One connection of micro: against recorded and made-up frames, and two of them back to back, over a carrier
 * that is a list of texts and a clock that stands still. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "node/micro.h"

#define NONE ((znl_frame){0})
#define TEXT(text) znl_frame_of(text, sizeof text - 1)
#define KEPT 600

/* An end: a connection, what it sent that was not delivered yet, and what it reported. */
struct end {
    znl_micro *micro;
    char *sent[KEPT];
    size_t first, count;
    int is_full, is_paused, pings, silences;
    char heard[16384]; /* one line per event */
    size_t heard_size;
    znl_micro_job job; /* of the last request */
    uint64_t deadline_ms;
    void (*react)(struct end *end, const char *event); /* what a script does */
};

static znl_loop *loop;
static struct end a, b;
static znl_buffer scratch;

/* --- the carrier ----------------------------------------------------------------------------------- */

static int carrier_send(void *carrier, const void *text, size_t size)
{
    struct end *end = carrier;
    if (end->is_full)
        return ZNL_E_BUSY;
    assert_true(end->count < KEPT);
    char *copy = malloc(size + 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    copy[size] = 0;
    end->sent[end->count++] = copy;
    return 0;
}

static void carrier_ping(void *carrier)
{
    ((struct end *)carrier)->pings++;
}

static void carrier_pause(void *carrier, int on)
{
    struct end *end = carrier;
    assert_int_not_equal(on, end->is_paused); /* told only when it changes */
    end->is_paused = on;
}

static const znl_micro_carrier carrier = {carrier_send, carrier_ping, carrier_pause};

/* --- what is reported ------------------------------------------------------------------------------ */

static void hear(struct end *end, const char *event, unsigned ticket, znl_frame text)
{
    int size = snprintf(end->heard + end->heard_size, sizeof end->heard - end->heard_size,
            "%s %u %.*s\n", event, ticket, text.data != NULL ? (int)text.size : 1,
            text.data != NULL ? (const char *)text.data : "-");
    end->heard_size += (size_t)size;
    assert_true(end->heard_size < sizeof end->heard);
    if (end->react != NULL)
        end->react(end, event);
}

static void on_request(void *user, const znl_micro_request *request)
{
    struct end *end = user;
    char text[512];
    end->job = request->job;
    end->deadline_ms = request->deadline_ms;
    snprintf(text, sizeof text, "%.*s %.*s", (int)request->url.size,
            (const char *)request->url.data,
            request->data.data != NULL ? (int)request->data.size : 1,
            request->data.data != NULL ? (const char *)request->data.data : "-");
    hear(end,
            request->job == 0             ? "push"
                    : request->is_flowing ? "flow"
                    : request->is_stream  ? "stream"
                                          : "request",
            0, znl_frame_text(text));
}

static void on_abort(void *user, znl_micro_job job)
{
    assert_true(job != 0);
    hear(user, "abort", 0, NONE);
}

static void on_answer(void *user, znl_waiter waiter, znl_frame data)
{
    hear(user, "answer", (unsigned)waiter.ticket, data);
}

static znl_frame describe(const znl_micro_refusal *refusal, char text[256])
{
    if (!refusal->is_remote)
        snprintf(text, 256, "%s", znl_err_code(refusal->err));
    else if (refusal->is_number)
        snprintf(text, 256, "%g %.*s", refusal->number,
                refusal->text.data != NULL ? (int)refusal->text.size : 1,
                refusal->text.data != NULL ? (const char *)refusal->text.data : "-");
    else
        snprintf(text, 256, "'%.*s' %.*s", (int)refusal->status.size,
                (const char *)refusal->status.data, (int)refusal->text.size,
                (const char *)refusal->text.data);
    return znl_frame_text(text);
}

static void on_refused(void *user, znl_waiter waiter, const znl_micro_refusal *refusal)
{
    char text[256];
    hear(user, "refused", (unsigned)waiter.ticket, describe(refusal, text));
}

static void on_chunk(void *user, znl_waiter waiter, znl_frame payload)
{
    hear(user, "chunk", (unsigned)waiter.ticket, payload);
}

static void on_stream_end(void *user, znl_waiter waiter, const znl_micro_refusal *refusal)
{
    char text[256];
    hear(user, refusal == NULL ? "end" : "broken", (unsigned)waiter.ticket,
            refusal == NULL ? NONE : describe(refusal, text));
}

static void on_room(void *user, znl_micro_job job)
{
    assert_true(job != 0);
    hear(user, "room", 0, NONE);
}

static void on_silent(void *user)
{
    ((struct end *)user)->silences++;
}

static const znl_micro_events events = {on_request, on_abort, on_answer, on_refused, on_chunk,
        on_stream_end, on_room, on_silent};

/* --- the stage ------------------------------------------------------------------------------------- */

/* Options every test starts from; a test changes them before begin(). */
static znl_micro_options options;

static void open_end(struct end *end)
{
    assert_int_equal(
            znl_micro_new(&end->micro, loop, &options, &carrier, end, &events, end), 0);
}

static int prepare(void **state)
{
    (void)state;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    options = (znl_micro_options){
            .max_pending = 100, .max_jobs = 100, .max_depth = 16, .scratch = &scratch};
    znl_clock_freeze(1000);
    return znl_loop_new(&loop);
}

static int clear(void **state)
{
    (void)state;
    for (struct end *end = &a;; end = &b) {
        if (end->micro != NULL)
            znl_micro_close(end->micro, ZNL_E_CLOSED);
        znl_micro_free(end->micro);
        while (end->first < end->count)
            free(end->sent[end->first++]);
        if (end == &b)
            break;
    }
    assert_int_equal(znl_loop_wheel(loop)->count, 0);
    znl_loop_close(loop);
    znl_clock_thaw();
    znl_buffer_fini(&scratch);
    return 0;
}

static void one(void)
{
    open_end(&a);
}

static void two(void)
{
    open_end(&a);
    open_end(&b);
}

static void receive(struct end *end, const char *text)
{
    char *copy = strdup(text); /* of its exact size, for the sanitizer */
    assert_non_null(copy);
    znl_micro_receive(end->micro, copy, strlen(text));
    free(copy);
}

static int carry(struct end *from, struct end *to)
{
    int moved = 0;
    while (from->first < from->count && !to->is_paused) {
        char *text = from->sent[from->first++];
        znl_micro_receive(to->micro, text, strlen(text));
        free(text);
        moved = 1;
    }
    if (from->first == from->count)
        from->first = from->count = 0;
    return moved;
}

/* Carries everything both ways until nothing is left, or who should read does not. */
static void pump(void)
{
    int moved = 1;
    while (moved) {
        moved = carry(&a, &b);
        moved |= carry(&b, &a);
    }
}

/* Moves the clock by steps of at most 10 ms, as the loop would. */
static void pass(uint64_t ms)
{
    while (ms > 0) {
        uint64_t step = ms < 10 ? ms : 10;
        znl_clock_advance(step);
        znl_loop_clock_changed(loop);
        znl_wheel_advance(znl_loop_wheel(loop), znl_loop_now_ms(loop));
        ms -= step;
    }
}

/* Everything heard since the last time. */
#define assert_heard(end, expected)                                                            \
    do {                                                                                       \
        (end)->heard[(end)->heard_size] = 0;                                                   \
        assert_string_equal((end)->heard, expected);                                           \
        (end)->heard_size = 0;                                                                 \
    } while (0)

/* The next frame sent, with ids of ours cut to what comes after the base: "$use.slot", "$use" for frames that
 * nothing answers. */
static const char *next_sent(struct end *end)
{
    static char text[1024];
    size_t size = 0;
    if (end->first == end->count)
        return "(nothing)";
    char *at = end->sent[end->first], *start = at;
    end->first++;
    while (*at != 0 && size < sizeof text - 64) {
        char *after = at;
        unsigned long long number = *at >= '1' && *at <= '9' ? strtoull(at, &after, 10) : 0;
        if (number >= ZNL_MICRO_ID_BASE && number < 1ull << 53) {
            number -= ZNL_MICRO_ID_BASE;
            unsigned slot = (unsigned)(number & 0xfffff), use = (unsigned)(number >> 20);
            size += (size_t)(slot == 0xfffff ? snprintf(text + size, 32, "$%u", use)
                                             : snprintf(text + size, 32, "$%u.%u", use, slot));
            at = after;
        } else if (after > at) {
            while (at < after)
                text[size++] = *at++;
        } else {
            text[size++] = *at++;
        }
    }
    text[size] = 0;
    free(start);
    if (end->first == end->count)
        end->first = end->count = 0;
    return text;
}

#define assert_sent(end, expected) assert_string_equal(next_sent(end), expected)

static uint64_t ask(struct end *end, const char *url, const char *data, uint64_t ticket)
{
    uint64_t id = 0;
    assert_int_equal(znl_micro_ask(end->micro, znl_frame_text(url),
                             data != NULL ? znl_frame_text(data) : NONE, 1000, 0,
                             (znl_waiter){NULL, ticket}, &id),
            0);
    return id;
}

static uint64_t ask_stream(struct end *end, const char *url, uint32_t window, uint64_t ticket)
{
    uint64_t id = 0;
    assert_int_equal(znl_micro_ask_stream(end->micro, znl_frame_text(url), TEXT("{}"), window,
                             0, (znl_waiter){NULL, ticket}, &id),
            0);
    return id;
}

static int answer(struct end *end, const char *data)
{
    return znl_micro_answer(end->micro, end->job, data != NULL ? znl_frame_text(data) : NONE);
}

static znl_micro_counters count(const struct end *end)
{
    znl_micro_counters counters;
    znl_micro_count(end->micro, &counters);
    return counters;
}

/* --- requests -------------------------------------------------------------------------------------- */

static void request_and_answer(void **state)
{
    (void)state;
    two();
    ask(&a, "/echo", "{\"a\":1}", 7);
    assert_int_equal(znl_micro_pending(a.micro), 1);
    pump();
    assert_heard(&b, "request 0 /echo {\"a\":1}\n");
    assert_int_equal(znl_micro_jobs(b.micro), 1);
    assert_int_equal(answer(&b, "{\"a\":1}"), 0);
    assert_int_equal(znl_micro_jobs(b.micro), 0);
    assert_heard(&a, ""); /* not from inside the call */
    pump();
    assert_heard(&a, "answer 7 {\"a\":1}\n");
    assert_int_equal(znl_micro_pending(a.micro), 0);
    assert_int_equal(answer(&b, "1"), ZNL_E_NOT_FOUND);
    assert_int_equal(count(&a).answers, 1);
    assert_int_equal(count(&b).requests, 1);
}

static void absent_and_null_stay_apart(void **state)
{
    (void)state;
    two();
    ask(&a, "/x", NULL, 1);
    pump();
    assert_heard(&b, "request 0 /x -\n");
    answer(&b, NULL);
    ask(&a, "/x", "null", 2);
    pump();
    assert_heard(&b, "request 0 /x null\n");
    answer(&b, "null");
    pump();
    assert_heard(&a, "answer 1 -\nanswer 2 null\n");
}

static void frames_of_ours_as_they_are_sent(void **state)
{
    (void)state;
    one();
    ask(&a, "/echo", "{\"a\":1}", 1);
    assert_sent(&a,
            "{\"id\":$0.0,\"twoway\":true,\"data\":{\"url\":\"/echo\",\"data\":{\"a\":1}},\"mode\":0}");
    uint64_t id = ask(&a, "/slow", NULL, 2);
    assert_sent(&a, "{\"id\":$1.1,\"twoway\":true,\"data\":{\"url\":\"/slow\"},\"mode\":0}");
    assert_int_equal(znl_micro_push(a.micro, TEXT("/log"), TEXT("[1]")), 0);
    assert_sent(&a,
            "{\"id\":$2,\"twoway\":false,\"data\":{\"url\":\"/log\",\"data\":[1]},\"mode\":0}");
    znl_micro_abort(a.micro, id);
    assert_sent(&a, "{\"id\":$3,\"twoway\":false,\"data\":$1.1,\"mode\":2}");
    znl_micro_abort(a.micro, id); /* over */
    assert_sent(&a, "(nothing)");
    ask_stream(&a, "/stream", 8, 3);
    assert_sent(&a,
            "{\"id\":$4.1,\"twoway\":true,\"data\":{\"url\":\"/stream\",\"data\":{}},\"mode\":0,"
            "\"stream\":true}");
    assert_int_equal(znl_micro_push(a.micro, TEXT("/\xff"), NONE), ZNL_E_INVALID);
    uint64_t none;
    assert_int_equal(znl_micro_ask(a.micro, TEXT("/\xff"), NONE, 0, 0, (znl_waiter){0}, &none),
            ZNL_E_INVALID);
    assert_int_equal(znl_micro_pending(a.micro), 2);
}

static void answers_of_any_status(void **state)
{
    (void)state;
    static const struct {
        const char *data, *heard;
    } cases[] = {
            {"{\"status\":200,\"data\":5}", "answer 1 5\n"},
            {"{\"status\":200.0}", "answer 1 -\n"},
            {"{\"status\":500,\"data\":null,\"message\":\"boom\"}", "refused 1 500 boom\n"},
            {"{\"status\":418,\"message\":\"te\\u0061pot\"}", "refused 1 418 teapot\n"},
            {"{\"status\":\"E_BUSINESS\",\"message\":\"rejected\"}",
                    "refused 1 'E_BUSINESS' rejected\n"},
            {"{\"status\":\"200\",\"message\":\"text\"}", "refused 1 '200' text\n"},
            {"{\"status\":-1.5}", "refused 1 -1.5 -\n"},
            {"{\"status\":null,\"message\":7}", "refused 1 500 -\n"},
            {"{}", "refused 1 500 -\n"},
            {"7", "refused 1 PROTO\n"},
            {"null", "refused 1 PROTO\n"},
    };
    one();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        uint64_t id = ask(&a, "/x", NULL, 1);
        snprintf(text, sizeof text, "{\"id\":%llu,\"mode\":1,\"twoway\":false,\"data\":%s}",
                (unsigned long long)id, cases[i].data);
        receive(&a, text);
        assert_heard(&a, cases[i].heard);
        receive(&a, text);
        assert_heard(&a, "");
        assert_int_equal(count(&a).late, i + 1);
    }
    assert_int_equal(znl_micro_pending(a.micro), 0);
    receive(&a, "{\"id\":0,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200}}");
    receive(&a, "{\"mode\":1,\"twoway\":false,\"data\":{\"status\":200}}");
    assert_int_equal(count(&a).unknown, 2);
}

static void refusals_as_they_are_sent(void **state)
{
    (void)state;
    static const struct {
        znl_micro_refusal refusal;
        const char *sent, *ours;
    } cases[] = {
            {{.is_number = 1, .number = 418, .text = {(const uint8_t *)"teapot", 6}},
                    "418,\"data\":null,\"message\":\"teapot\"", NULL},
            {{.status = {(const uint8_t *)"E_X", 3}}, "\"E_X\",\"data\":null", NULL},
            {{.text = {(const uint8_t *)"boom", 4}}, "500,\"data\":null,\"message\":\"boom\"",
                    NULL},
            {{.err = ZNL_E_NOT_FOUND, .text = {(const uint8_t *)"/nope", 5}},
                    "500,\"data\":null,\"message\":\"/nope\"",
                    "\"NOT_FOUND\",\"data\":null,\"message\":\"/nope\""},
            {{.err = ZNL_E_DEADLINE},
                    "500,\"data\":null,\"message\":\"the deadline has passed\"",
                    "\"DEADLINE\",\"data\":null,\"message\":\"the deadline has passed\""},
            {{.is_number = 1, .number = 200}, "500,\"data\":null", NULL},
    };
    one();
    options.is_ours = 1;
    open_end(&b);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        for (struct end *end = &a;; end = &b) {
            const char *part = end == &b && cases[i].ours != NULL ? cases[i].ours
                                                                  : cases[i].sent;
            receive(end, "{\"id\":3,\"twoway\":true,\"data\":{\"url\":\"/x\"},\"mode\":0}");
            assert_int_equal(znl_micro_refuse(end->micro, end->job, &cases[i].refusal), 0);
            snprintf(text, sizeof text,
                    "{\"id\":3,\"mode\":1,\"twoway\":false,\"data\":{\"status\":%s}}", part);
            assert_sent(end, text);
            if (end == &b)
                break;
        }
    }
}

/* v2-bad-frames.json, v1-bad-frames.json */
static void bad_frames(void **state)
{
    (void)state;
    one();
    receive(&a, "not json");
    receive(&a, "[1,2]");
    receive(&a, "{\"id\":1,\"mode\":9,\"twoway\":true,\"data\":{}}");
    receive(&a, "{\"id\":77,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200,\"data\":1}}");
    receive(&a, "{\"id\":5,\"twoway\":false,\"data\":4242,\"mode\":2}");
    receive(&a, "{\"id\":6,\"mode\":0,\"twoway\":true}");
    receive(&a,
            "{\"id\":7,\"mode\":0,\"twoway\":true,\"data\":{\"url\":\"/-/find\",\"data\":{\"namespace\":"
            "\"x\"}}}");
    assert_sent(&a,
            "{\"id\":6,\"mode\":1,\"twoway\":false,\"data\":{\"status\":500,\"data\":null,\"message\":"
            "\"the request has no url\"}}");
    assert_sent(&a, "(nothing)");
    assert_heard(&a, "request 0 /-/find {\"namespace\":\"x\"}\n");
    answer(&a, NULL);
    assert_sent(&a, "{\"id\":7,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200}}");
    assert_int_equal(count(&a).malformed, 4);
    assert_int_equal(count(&a).unknown, 1);
    /* Without an id nothing can be answered; a push without a url has nobody to tell. */
    receive(&a, "{\"mode\":0,\"twoway\":true,\"data\":{\"url\":\"/x\"}}");
    receive(&a, "{\"mode\":0,\"twoway\":true,\"id\":1.5,\"data\":{\"url\":\"/x\"}}");
    receive(&a, "{\"mode\":0,\"twoway\":false,\"id\":1,\"data\":{}}");
    receive(&a, "{\"mode\":0,\"twoway\":true,\"id\":1,\"data\":{\"url\":7}}");
    assert_int_equal(count(&a).malformed, 8);
    assert_sent(&a,
            "{\"id\":1,\"mode\":1,\"twoway\":false,\"data\":{\"status\":500,\"data\":null,\"message\":"
            "\"the request has no url\"}}");
    assert_heard(&a, "");
    receive(&a, "{\"mode\":0,\"twoway\":true,\"id\":2,\"stream\":true,\"data\":null}");
    assert_sent(&a,
            "{\"id\":2,\"mode\":1,\"stream\":true,\"data\":{\"status\":500,\"seq\":0,\"payload\":"
            "\"Unknown error\",\"final\":true},\"twoway\":false}");
}

static void data_nested_too_deeply(void **state)
{
    (void)state;
    one();
    char deep[200];
    memset(deep, '[', 40);
    memset(deep + 40, ']', 40);
    deep[80] = 0;
    char text[512];
    snprintf(text, sizeof text,
            "{\"id\":4,\"twoway\":true,\"data\":{\"url\":\"/x\",\"data\":%s},\"mode\":0}",
            deep);
    receive(&a, text);
    assert_sent(&a,
            "{\"id\":4,\"mode\":1,\"twoway\":false,\"data\":{\"status\":500,\"data\":null,\"message\":"
            "\"data nested deeper than 16 levels\"}}");
    uint64_t id = ask(&a, "/x", NULL, 1);
    snprintf(text, sizeof text,
            "{\"id\":%llu,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200,\"data\":%s}}",
            (unsigned long long)id, deep);
    receive(&a, text);
    assert_heard(&a, "refused 1 LIMIT\n");
    assert_int_equal(count(&a).malformed, 2);
}

static void pushes_are_not_answered(void **state)
{
    (void)state;
    two();
    assert_int_equal(znl_micro_push(a.micro, TEXT("/log"), TEXT("{\"line\":1}")), 0);
    pump();
    assert_heard(&b, "push 0 /log {\"line\":1}\n");
    assert_int_equal(b.job, 0);
    assert_int_equal(answer(&b, "1"), ZNL_E_NOT_FOUND);
    assert_int_equal(b.count, 0);
    assert_int_equal(znl_micro_jobs(b.micro), 0);
    assert_int_equal(count(&b).pushes, 1);
}

static void a_timeout_sends_an_abort(void **state)
{
    (void)state;
    two();
    ask(&a, "/slow", NULL, 5);
    pump();
    pass(990);
    assert_heard(&a, "");
    pass(10);
    assert_heard(&a, "refused 5 TIMEOUT\n");
    assert_int_equal(znl_micro_pending(a.micro), 0);
    assert_heard(&b, "request 0 /slow -\n");
    pump();
    assert_heard(&b, "abort 0 -\n");
    assert_int_equal(answer(&b, "1"), ZNL_E_NOT_FOUND);
    assert_int_equal(count(&b).aborts, 1);
    assert_int_equal(count(&a).timeouts, 1);
}

static void late_answers_find_nobody(void **state)
{
    (void)state;
    two();
    ask(&a, "/slow", NULL, 5);
    pump();
    answer(&b, "1"); /* crosses with the abort */
    pass(1000);
    ask(&a, "/next", NULL, 6); /* in the same slot */
    pump();
    assert_heard(&a, "refused 5 TIMEOUT\n");
    assert_heard(&b, "request 0 /slow -\nrequest 0 /next -\n");
    assert_int_equal(count(&a).late, 1);
    assert_int_equal(count(&b).aborts, 0);
    answer(&b, "2");
    pump();
    assert_heard(&a, "answer 6 2\n");
}

/* v1-id-collision.json: our numbers begin where those of v1 never come. */
static void ids_of_both_directions_never_meet(void **state)
{
    (void)state;
    one();
    uint64_t id = ask(&a, "/slow", NULL, 1);
    assert_true(id >= 1ull << 40 && id < 1ull << 53);
    receive(&a,
            "{\"id\":0,\"twoway\":true,\"data\":{\"url\":\"/slow\",\"data\":{\"ms\":300}},\"mode\":0}");
    assert_heard(&a, "request 0 /slow {\"ms\":300}\n");
    char text[128];
    snprintf(text, sizeof text,
            "{\"id\":%llu,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200}}",
            (unsigned long long)id);
    receive(&a, text);
    assert_heard(&a, "answer 1 -\n");
    answer(&a, "1");
    free(a.sent[0]);
    a.first = 1;
    assert_sent(
            &a, "{\"id\":0,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200,\"data\":1}}");
}

static void the_later_of_equal_ids_takes_the_place(void **state)
{
    (void)state;
    one();
    receive(&a, "{\"id\":9,\"twoway\":true,\"data\":{\"url\":\"/first\"},\"mode\":0}");
    znl_micro_job first = a.job;
    receive(&a, "{\"id\":9,\"twoway\":true,\"data\":{\"url\":\"/second\"},\"mode\":0}");
    assert_heard(&a, "request 0 /first -\nabort 0 -\nrequest 0 /second -\n");
    assert_int_equal(znl_micro_answer(a.micro, first, TEXT("1")), ZNL_E_NOT_FOUND);
    assert_int_equal(answer(&a, "2"), 0);
    assert_sent(
            &a, "{\"id\":9,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200,\"data\":2}}");
    assert_sent(&a, "(nothing)");
    assert_int_equal(count(&a).replaced, 1);
}

static void tables_are_bounded(void **state)
{
    (void)state;
    options.max_jobs = 3;
    options.max_pending = 2;
    one();
    char text[128];
    for (int i = 0; i < 4; i++) {
        snprintf(text, sizeof text,
                "{\"id\":%d,\"twoway\":true,\"data\":{\"url\":\"/x\"},\"mode\":0}", i * 1000);
        receive(&a, text);
    }
    assert_heard(&a, "request 0 /x -\nrequest 0 /x -\nrequest 0 /x -\n");
    assert_sent(&a,
            "{\"id\":3000,\"mode\":1,\"twoway\":false,\"data\":{\"status\":\"OVERLOADED\",\"data\":null,"
            "\"message\":\"too many requests at once\"}}");
    assert_int_equal(count(&a).overloaded, 1);
    assert_int_equal(znl_micro_jobs(a.micro), 3);
    ask(&a, "/x", NULL, 1);
    ask_stream(&a, "/x", 1, 2);
    uint64_t id;
    assert_int_equal(
            znl_micro_ask(a.micro, TEXT("/x"), NONE, 0, 0, (znl_waiter){0}, &id), ZNL_E_LIMIT);
    /* An abort makes room. */
    receive(&a, "{\"id\":1,\"twoway\":false,\"data\":1000,\"mode\":2}");
    assert_heard(&a, "abort 0 -\n");
    receive(&a, "{\"id\":3000,\"twoway\":true,\"data\":{\"url\":\"/y\"},\"mode\":0}");
    assert_heard(&a, "request 0 /y -\n");
}

static void many_at_once_in_any_order(void **state)
{
    (void)state;
    enum { MANY = 500 };
    options.max_pending = options.max_jobs = MANY;
    two();
    static znl_micro_job jobs[MANY];
    for (uint64_t i = 0; i < MANY; i++) {
        ask(&a, "/x", NULL, i);
        pump();
        jobs[i] = b.job;
        b.heard_size = 0;
    }
    assert_int_equal(znl_micro_pending(a.micro), MANY);
    for (uint64_t i = 0; i < MANY; i++) {
        uint64_t at = i * 7 % MANY;
        char data[16], heard[64];
        snprintf(data, sizeof data, "%llu", (unsigned long long)at);
        assert_int_equal(znl_micro_answer(b.micro, jobs[at], znl_frame_text(data)), 0);
        pump();
        snprintf(heard, sizeof heard, "answer %s %s\n", data, data);
        assert_heard(&a, heard);
    }
    assert_int_equal(znl_micro_pending(a.micro), 0);
    assert_int_equal(znl_micro_jobs(b.micro), 0);
}

/* --- closing --------------------------------------------------------------------------------------- */

/* A script that goes on asking while everything ends. */
static void ask_again(struct end *end, const char *event)
{
    uint64_t id;
    (void)event;
    assert_int_equal(
            znl_micro_ask(end->micro, TEXT("/again"), NONE, 0, 0, (znl_waiter){0}, &id),
            ZNL_E_CLOSED);
    assert_int_equal(znl_micro_push(end->micro, TEXT("/again"), NONE), ZNL_E_CLOSED);
    assert_int_equal(answer(end, "1"), ZNL_E_NOT_FOUND);
}

static void closing_ends_everything_once(void **state)
{
    (void)state;
    one();
    ask(&a, "/x", NULL, 1);
    ask_stream(&a, "/y", 4, 2);
    receive(&a, "{\"id\":9,\"twoway\":true,\"data\":{\"url\":\"/z\"},\"mode\":0}");
    assert_heard(&a, "request 0 /z -\n");
    size_t sent = a.count;
    a.react = ask_again;
    znl_micro_close(a.micro, ZNL_E_CLOSED);
    assert_heard(&a, "refused 1 CLOSED\nbroken 2 CLOSED\nabort 0 -\n");
    assert_int_equal(a.count, sent);
    znl_micro_close(a.micro, ZNL_E_CLOSED);
    receive(&a, "{\"id\":9,\"twoway\":true,\"data\":{\"url\":\"/z\"},\"mode\":0}");
    znl_micro_writable(a.micro);
    assert_heard(&a, "");
    assert_int_equal(znl_micro_pending(a.micro), 0);
    assert_int_equal(znl_micro_jobs(a.micro), 0);
}

static void close_it(struct end *end, const char *event)
{
    if (strcmp(event, "request") == 0 || strcmp(event, "chunk") == 0 ||
            strcmp(event, "room") == 0)
        znl_micro_close(end->micro, ZNL_E_CANCELLED);
}

static void closed_from_inside_an_event(void **state)
{
    (void)state;
    two();
    ask(&a, "/x", NULL, 1);
    b.react = close_it;
    pump();
    assert_heard(&b, "request 0 /x -\nabort 0 -\n");
    assert_int_equal(answer(&b, "1"), ZNL_E_NOT_FOUND);
}

/* --- when the carrier is full ---------------------------------------------------------------------- */

static void what_does_not_fit_is_sent_later(void **state)
{
    (void)state;
    two();
    ask(&a, "/x", NULL, 1);
    uint64_t given_up = ask(&a, "/y", NULL, 2);
    receive(&a, "{\"id\":1,\"twoway\":true,\"data\":{\"url\":\"/in\"},\"mode\":0}");
    znl_micro_job first = a.job;
    receive(&a, "{\"id\":2,\"twoway\":true,\"data\":{\"url\":\"/in\"},\"mode\":0}");
    a.heard_size = 0;
    pump();
    b.heard_size = 0;
    a.is_full = 1;
    uint64_t id;
    assert_int_equal(
            znl_micro_ask(a.micro, TEXT("/z"), NONE, 0, 0, (znl_waiter){0}, &id), ZNL_E_BUSY);
    assert_int_equal(znl_micro_push(a.micro, TEXT("/z"), NONE), ZNL_E_BUSY);
    assert_int_equal(znl_micro_answer(a.micro, first, TEXT("\"kept\"")), 0);
    assert_int_equal(znl_micro_answer(a.micro, first, TEXT("2")), ZNL_E_NOT_FOUND);
    assert_int_equal(answer(&a, "3"), 0);
    znl_micro_abort(a.micro, given_up);
    assert_int_equal(znl_micro_pending(a.micro), 1);
    assert_int_equal(znl_micro_jobs(a.micro), 2); /* they count until they are sent */
    /* The asker gives one of them up: it is not sent at all, and nobody here is told. */
    receive(&a, "{\"id\":9,\"twoway\":false,\"data\":2,\"mode\":2}");
    assert_heard(&a, "");
    znl_micro_writable(a.micro); /* still full */
    a.is_full = 0;
    znl_micro_writable(a.micro);
    assert_sent(&a, "{\"id\":$6,\"twoway\":false,\"data\":$1.1,\"mode\":2}");
    assert_sent(&a,
            "{\"id\":1,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200,\"data\":\"kept\"}}");
    assert_sent(&a, "(nothing)");
    assert_int_equal(znl_micro_jobs(a.micro), 0);
    znl_micro_writable(a.micro);
    assert_sent(&a, "(nothing)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define STAGED(test) cmocka_unit_test_setup_teardown(test, prepare, clear)
            STAGED(request_and_answer),
            STAGED(absent_and_null_stay_apart),
            STAGED(frames_of_ours_as_they_are_sent),
            STAGED(answers_of_any_status),
            STAGED(refusals_as_they_are_sent),
            STAGED(bad_frames),
            STAGED(data_nested_too_deeply),
            STAGED(pushes_are_not_answered),
            STAGED(a_timeout_sends_an_abort),
            STAGED(late_answers_find_nobody),
            STAGED(ids_of_both_directions_never_meet),
            STAGED(the_later_of_equal_ids_takes_the_place),
            STAGED(tables_are_bounded),
            STAGED(many_at_once_in_any_order),
            STAGED(closing_ends_everything_once),
            STAGED(closed_from_inside_an_event),
            STAGED(what_does_not_fit_is_sent_later),
#undef STAGED
    };
    return znl_random_start() == 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
