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
#include "node/micro_parts.h"

#define NONE ((znl_frame){0})
#define TEXT(text) znl_frame_of(text, sizeof text - 1)
#define KEPT 600

/* An end: a connection, what it sent that was not delivered yet, and what it reported. */
struct end {
    znl_micro *micro;
    char *sent[KEPT];
    size_t first, count;
    int is_full, is_paused, pings, silences, floods;
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
    if (text.data == NULL)
        text = TEXT("-");
    int size = snprintf(end->heard + end->heard_size, sizeof end->heard - end->heard_size,
            "%s %u %.*s\n", event, ticket, (int)(text.size < 200 ? text.size : 200),
            (const char *)text.data);
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
    struct end *end = user;
    assert_true(job != 0);
    end->job = job;
    hear(end, "room", 0, NONE);
}

static void on_silent(void *user)
{
    ((struct end *)user)->silences++;
}

static void on_flooded(void *user)
{
    ((struct end *)user)->floods++;
}

static const znl_micro_events events = {on_request, on_abort, on_answer, on_refused, on_chunk,
        on_stream_end, on_room, on_silent, on_flooded};

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

static int chunk(struct end *end, const char *payload)
{
    return znl_micro_chunk(end->micro, end->job, znl_frame_text(payload));
}

static int finish(struct end *end)
{
    return znl_micro_finish(end->micro, end->job);
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

/* Originals end their process when they answer into a connection under closing. */
static void who_leaves_says_what_it_waits_for_no_more(void **state)
{
    (void)state;
    two();
    ask(&a, "/x", NULL, 1);
    ask_stream(&a, "/y", 4, 2);
    pump();
    assert_heard(&b, "request 0 /x -\nstream 0 /y {}\n");
    znl_micro_leave(a.micro);
    assert_heard(&a, ""); /* they end when it is closed */
    znl_micro_close(a.micro, ZNL_E_CLOSED);
    assert_heard(&a, "refused 1 CLOSED\nbroken 2 CLOSED\n");
    pump();
    assert_heard(&b, "abort 0 -\nabort 0 -\n");
    assert_int_equal(znl_micro_jobs(b.micro), 0);
    znl_micro_leave(a.micro); /* too late: nothing */
    assert_int_equal(a.first, a.count);
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

/* What is kept for a peer that asks and does not read is bounded in bytes, not only in number. */
static void answers_that_nobody_reads_are_bounded(void **state)
{
    (void)state;
    static char text[4096], large[20000];
    znl_micro_counters counters;
    memset(text, '1', sizeof text);
    memset(large, '1', sizeof large);
    options.max_held_bytes = 10000;
    two();
    a.is_full = 1;
    for (int i = 1; i <= 4; i++) {
        char request[100];
        snprintf(request, sizeof request,
                "{\"id\":%d,\"twoway\":true,\"data\":{\"url\":\"/in\"},\"mode\":0}", i);
        receive(&a, request);
        assert_int_equal(znl_micro_answer(a.micro, a.job, znl_frame_of(text, sizeof text)),
                i <= 2 ? 0 : ZNL_E_LIMIT);
    }
    assert_int_equal(znl_micro_jobs(a.micro), 2);
    assert_int_equal(a.floods, 0); /* never from inside a call */
    pass(50);
    assert_int_equal(a.floods, 1);
    znl_micro_count(a.micro, &counters);
    assert_int_equal(counters.unanswered, 2);
    /* One has room whatever its size, again and again. */
    for (size_t i = 1; i <= 3; i++) {
        b.is_full = 1;
        receive(&b, "{\"id\":1,\"twoway\":true,\"data\":{\"url\":\"/in\"},\"mode\":0}");
        assert_int_equal(
                znl_micro_answer(b.micro, b.job, znl_frame_of(large, sizeof large)), 0);
        b.is_full = 0;
        znl_micro_writable(b.micro);
        assert_int_equal(b.count, i);
    }
    pass(50);
    assert_int_equal(b.floods, 0);
}

/* --- streams --------------------------------------------------------------------------------------- */

/* v2-stream-3.json */
static void a_stream_to_its_end(void **state)
{
    (void)state;
    two();
    ask_stream(&a, "/stream", 8, 3);
    pump();
    assert_heard(&b, "stream 0 /stream {}\n");
    assert_int_equal(chunk(&b, "{\"seq\":1}"), 0);
    assert_int_equal(chunk(&b, "\"text\""), 0);
    assert_int_equal(finish(&b), 0);
    assert_int_equal(chunk(&b, "1"), ZNL_E_NOT_FOUND);
    pump();
    assert_heard(&a, "chunk 3 {\"seq\":1}\nchunk 3 \"text\"\nend 3 -\n");
    assert_int_equal(znl_micro_pending(a.micro), 0);
    assert_int_equal(znl_micro_jobs(b.micro), 0);
}

static void streams_as_they_are_sent(void **state)
{
    (void)state;
    one();
    receive(&a,
            "{\"id\":0,\"twoway\":true,\"data\":{\"url\":\"/s\",\"data\":{}},\"mode\":0,\"stream\":true}");
    znl_micro_job first = a.job;
    assert_int_equal(chunk(&a, "{\"seq\":1}"), 0);
    assert_sent(&a,
            "{\"id\":0,\"mode\":1,\"stream\":true,\"data\":{\"status\":200,\"seq\":0,\"payload\":{\"seq\":1},"
            "\"final\":false},\"twoway\":false}");
    /* Null would end the stream of a v2 consumer. */
    assert_int_equal(chunk(&a, "null"), ZNL_E_INVALID);
    assert_int_equal(znl_micro_chunk(a.micro, a.job, NONE), ZNL_E_INVALID);
    assert_int_equal(finish(&a), 0);
    assert_sent(&a,
            "{\"id\":0,\"mode\":1,\"stream\":true,\"data\":{\"status\":200,\"seq\":1,\"final\":true},"
            "\"twoway\":false}");
    /* v2-stream-error-midway.json, v2-stream-exception-midway.json */
    receive(&a,
            "{\"id\":1,\"twoway\":true,\"data\":{\"url\":\"/s\"},\"mode\":0,\"stream\":true}");
    assert_int_equal(chunk(&a, "1"), 0);
    next_sent(&a);
    const znl_micro_refusal plain = {.err = ZNL_E_HANDLER_ERROR, .text = TEXT("boom")};
    assert_int_equal(znl_micro_refuse(a.micro, a.job, &plain), 0);
    assert_sent(&a,
            "{\"id\":1,\"mode\":1,\"stream\":true,\"data\":{\"status\":500,\"seq\":0,\"payload\":"
            "\"Unknown error\",\"final\":true},\"twoway\":false}");
    receive(&a,
            "{\"id\":2,\"twoway\":true,\"data\":{\"url\":\"/s\"},\"mode\":0,\"stream\":true}");
    const znl_micro_refusal known = {.is_number = 1, .number = 409, .text = TEXT("conflict")};
    assert_int_equal(znl_micro_refuse(a.micro, a.job, &known), 0);
    assert_sent(&a,
            "{\"id\":2,\"mode\":1,\"stream\":true,\"data\":{\"status\":409,\"seq\":0,\"payload\":"
            "\"conflict\",\"final\":true},\"twoway\":false}");
    /* v2-stream-non-iterable.json */
    receive(&a,
            "{\"id\":3,\"twoway\":true,\"data\":{\"url\":\"/s\"},\"mode\":0,\"stream\":true}");
    assert_int_equal(answer(&a, "5"), 0);
    assert_sent(&a,
            "{\"id\":3,\"mode\":1,\"stream\":true,\"data\":{\"status\":500,\"seq\":0,\"payload\":"
            "\"Invalid async iterable\",\"final\":true},\"twoway\":false}");
    /* No stream was asked for. */
    receive(&a,
            "{\"id\":4,\"twoway\":true,\"data\":{\"url\":\"/s\"},\"mode\":0,\"stream\":false}");
    assert_int_equal(chunk(&a, "5"), ZNL_E_INVALID);
    assert_int_equal(answer(&a, "5"), 0);
    assert_int_equal(znl_micro_chunk(a.micro, first, TEXT("1")), ZNL_E_NOT_FOUND);
    assert_int_equal(znl_micro_jobs(a.micro), 0);
}

static void what_a_producer_may_send(void **state)
{
    (void)state;
    static const struct {
        const char *members, *heard;
        int is_aborted; /* it may go on otherwise */
    } cases[] = {
            {"{\"status\":200,\"seq\":1,\"payload\":7,\"final\":false}", "chunk 1 7\n", 0},
            {"{\"status\":200,\"seq\":1,\"payload\":null,\"final\":false}", "chunk 1 null\n",
                    0},
            {"{\"status\":200,\"seq\":1,\"final\":false}", "chunk 1 -\n", 0},
            {"{\"status\":200,\"seq\":1}", "chunk 1 -\n", 0},
            {"{\"status\":200,\"seq\":1,\"final\":true}", "end 1 -\n", 0},
            {"{\"status\":200,\"seq\":2,\"payload\":7,\"final\":false}", "broken 1 PROTO\n", 1},
            {"{\"status\":200,\"seq\":0,\"payload\":7,\"final\":false}", "broken 1 PROTO\n", 1},
            {"{\"status\":200,\"payload\":7,\"final\":false}", "broken 1 PROTO\n", 1},
            {"{\"status\":200,\"seq\":0,\"final\":true}", "broken 1 PROTO\n", 1},
            {"{\"status\":500,\"seq\":0,\"payload\":\"Unknown error\",\"final\":true}",
                    "broken 1 500 Unknown error\n", 0},
            {"{\"status\":\"E_X\",\"seq\":1,\"payload\":{\"a\":1},\"final\":true}",
                    "broken 1 'E_X' {\"a\":1}\n", 0},
            {"{\"status\":409,\"seq\":0,\"payload\":\"c\",\"final\":false}", "broken 1 409 c\n",
                    1},
            {"null", "broken 1 404 Empty chunk data\n", 1},
    };
    one();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256], abort_text[256];
        unsigned long long id = ask_stream(&a, "/s", 8, 1);
        next_sent(&a);
        snprintf(text, sizeof text,
                "{\"id\":%llu,\"mode\":1,\"stream\":true,\"data\":{\"status\":200,\"seq\":0,\"payload\":1,"
                "\"final\":false},\"twoway\":false}",
                id);
        receive(&a, text);
        assert_heard(&a, "chunk 1 1\n");
        snprintf(text, sizeof text,
                "{\"id\":%llu,\"mode\":1,\"stream\":true,\"data\":%s,\"twoway\":false}", id,
                cases[i].members);
        receive(&a, text);
        assert_heard(&a, cases[i].heard);
        snprintf(abort_text, sizeof abort_text, "\"data\":$%u.",
                (unsigned)((id - ZNL_MICRO_ID_BASE) >> 20));
        assert_int_equal(strstr(next_sent(&a), abort_text) != NULL, cases[i].is_aborted);
        int is_open = strncmp(cases[i].heard, "chunk", 5) == 0;
        assert_int_equal(znl_micro_pending(a.micro), is_open);
        if (is_open)
            znl_micro_abort(a.micro, id);
        while (a.count > 0)
            next_sent(&a);
    }
}

/* v1 answers a stream request as if it were none (spec, section 6). */
static void a_peer_without_streams(void **state)
{
    (void)state;
    one();
    char text[128];
    unsigned long long id = ask_stream(&a, "/s", 8, 1);
    snprintf(text, sizeof text,
            "{\"id\":%llu,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200,\"data\":1}}",
            id);
    receive(&a, text);
    assert_heard(&a, "broken 1 UNSUPPORTED\n");
    id = ask_stream(&a, "/s", 8, 1);
    snprintf(text, sizeof text,
            "{\"id\":%llu,\"mode\":1,\"twoway\":false,\"data\":{\"status\":500,\"message\":\"/s\"}}",
            id);
    receive(&a, text);
    assert_heard(&a, "broken 1 500 /s\n");
    id = ask(&a, "/s", NULL, 2); /* and the other way round */
    snprintf(text, sizeof text,
            "{\"id\":%llu,\"mode\":1,\"stream\":true,\"data\":{\"status\":200,\"seq\":0}}", id);
    receive(&a, text);
    assert_heard(&a, "refused 2 PROTO\n");
    assert_int_equal(znl_micro_pending(a.micro), 0);
}

/* v2-stream-abort.json, v2-stream-destroy.json */
static void a_dropped_stream_sends_an_abort(void **state)
{
    (void)state;
    two();
    uint64_t id = ask_stream(&a, "/slow", 8, 1);
    pump();
    chunk(&b, "1");
    pump();
    znl_micro_abort(a.micro, id);
    chunk(&b, "2"); /* crosses with the abort */
    pump();
    assert_heard(&a, "chunk 1 1\n");
    assert_heard(&b, "stream 0 /slow {}\nabort 0 -\n");
    assert_int_equal(chunk(&b, "3"), ZNL_E_NOT_FOUND);
    assert_int_equal(finish(&b), ZNL_E_NOT_FOUND);
    assert_int_equal(count(&a).late, 1);
}

static void a_stream_can_have_a_time_limit(void **state)
{
    (void)state;
    two();
    uint64_t id;
    assert_int_equal(
            znl_micro_ask_stream(a.micro, TEXT("/s"), NONE, 4, 50, (znl_waiter){0}, &id), 0);
    pump();
    assert_int_equal(chunk(&b, "1"), 0);
    pump();
    pass(50);
    assert_heard(&a, "chunk 0 1\nbroken 0 TIMEOUT\n");
    pump();
    assert_heard(&b, "stream 0 /s -\nabort 0 -\n");
}

/* --- flow ------------------------------------------------------------------------------------------ */

static void credit_between_peers_of_ours(void **state)
{
    (void)state;
    options.is_ours = 1;
    two();
    uint64_t id = ask_stream(&a, "/s", 4, 1);
    pump();
    assert_heard(&b, "flow 0 /s {}\n");
    for (int i = 0; i < 4; i++)
        assert_int_equal(chunk(&b, "null"), 0);
    assert_int_equal(chunk(&b, "5"), ZNL_E_BUSY);
    assert_int_equal(chunk(&b, "5"), ZNL_E_BUSY);
    pump();
    assert_heard(&a, "chunk 1 null\nchunk 1 null\nchunk 1 null\nchunk 1 null\n");
    assert_false(a.is_paused); /* credit is enough */
    znl_micro_took(a.micro, id, 1);
    pump();
    assert_heard(&b, ""); /* granted again when half of the window is gone */
    znl_micro_took(a.micro, id, 1);
    pump();
    assert_heard(&b, "room 0 -\n");
    assert_int_equal(chunk(&b, "5"), 0);
    assert_int_equal(chunk(&b, "6"), 0);
    assert_int_equal(chunk(&b, "7"), ZNL_E_BUSY);
    assert_int_equal(finish(&b), 0); /* the end needs no credit */
    pump();
    assert_heard(&a, "chunk 1 5\nchunk 1 6\nend 1 -\n");
    znl_micro_took(a.micro, id, 4); /* over */
    pump();
    assert_heard(&b, "");
}

static void more_than_was_granted(void **state)
{
    (void)state;
    options.is_ours = 1;
    one();
    unsigned long long id = ask_stream(&a, "/s", 2, 1);
    assert_sent(&a,
            "{\"id\":$0.0,\"twoway\":true,\"data\":{\"url\":\"/s\",\"data\":{}},\"mode\":0,\"stream\":true,"
            "\"credit\":2}");
    for (int i = 0; i < 3; i++) {
        char text[256];
        snprintf(text, sizeof text,
                "{\"id\":%llu,\"mode\":1,\"stream\":true,\"data\":{\"status\":200,\"seq\":%d,\"payload\":1,\"final\":"
                "false}}",
                id, i);
        receive(&a, text);
    }
    assert_heard(&a, "chunk 1 1\nchunk 1 1\nbroken 1 PROTO\n");
    assert_sent(&a, "{\"id\":$1,\"twoway\":false,\"data\":$0.0,\"mode\":2}");
}

/* Spec, section 25. */
static void one_credit_at_a_time(void **state)
{
    (void)state;
    one();
    receive(&a,
            "{\"id\":0,\"twoway\":true,\"data\":{\"url\":\"/s\"},\"mode\":0,\"stream\":true,\"streamVersion\":1}");
    assert_heard(&a, "flow 0 /s -\n");
    assert_int_equal(chunk(&a, "1"), 0);
    assert_int_equal(chunk(&a, "2"), ZNL_E_BUSY);
    assert_sent(&a,
            "{\"id\":0,\"mode\":1,\"stream\":true,\"data\":{\"status\":200,\"seq\":0,\"payload\":1,\"final\":"
            "false},\"twoway\":false,\"streamVersion\":1}");
    receive(&a,
            "{\"id\":1,\"mode\":3,\"twoway\":false,\"data\":{\"id\":0,\"seq\":1}}"); /* never sent */
    receive(&a,
            "{\"id\":1,\"mode\":3,\"twoway\":false,\"data\":{\"id\":0,\"credit\":9}}"); /* not its kind */
    receive(&a, "{\"id\":1,\"mode\":3,\"twoway\":false,\"data\":{\"id\":5,\"seq\":0}}");
    assert_heard(&a, "");
    receive(&a, "{\"id\":1,\"mode\":3,\"twoway\":false,\"data\":{\"id\":0,\"seq\":0}}");
    assert_heard(&a, "room 0 -\n");
    assert_int_equal(chunk(&a, "2"), 0);
    next_sent(&a);
    const znl_micro_refusal refusal = {
            .text = TEXT("boom")}; /* the true text, and the next number */
    assert_int_equal(znl_micro_refuse(a.micro, a.job, &refusal), 0);
    assert_sent(&a,
            "{\"id\":0,\"mode\":1,\"stream\":true,\"data\":{\"status\":500,\"seq\":2,\"payload\":\"boom\","
            "\"final\":true},\"twoway\":false,\"streamVersion\":1}");
}

static void grants_add_up_without_overflow(void **state)
{
    (void)state;
    options.is_ours = 1;
    one();
    receive(&a,
            "{\"id\":0,\"twoway\":true,\"data\":{\"url\":\"/s\"},\"mode\":0,\"stream\":true,\"credit\":1}");
    for (int i = 0; i < 3; i++)
        receive(&a, "{\"id\":1,\"mode\":3,\"data\":{\"id\":0,\"credit\":4294967295}}");
    receive(&a, "{\"id\":1,\"mode\":3,\"data\":{\"id\":0,\"credit\":-5}}");
    receive(&a, "{\"id\":1,\"mode\":3,\"data\":{\"id\":0,\"credit\":\"5\"}}");
    for (int i = 0; i < 10; i++)
        assert_int_equal(chunk(&a, "1"), 0);
    assert_heard(&a, "flow 0 /s -\n");
}

static void feed(struct end *end, unsigned long long id, unsigned first, unsigned count)
{
    for (unsigned seq = first; seq < first + count; seq++) {
        char text[256];
        snprintf(text, sizeof text,
                "{\"id\":%llu,\"mode\":1,\"stream\":true,\"data\":{\"status\":200,\"seq\":%u,\"payload\":1,\"final\":"
                "false}}",
                id, seq);
        receive(end, text);
    }
    end->heard_size = 0;
}

static void an_original_is_not_read_while_chunks_wait(void **state)
{
    (void)state;
    one();
    uint64_t id = ask_stream(&a, "/s", 8, 1);
    feed(&a, id, 0, 7);
    assert_false(a.is_paused);
    feed(&a, id, 7, 1);
    assert_true(a.is_paused);
    znl_micro_took(a.micro, id, 3);
    assert_true(a.is_paused);
    znl_micro_took(a.micro, id, 1); /* half of it is gone */
    assert_false(a.is_paused);
    feed(&a, id, 8, 4);
    assert_true(a.is_paused);
    znl_micro_abort(a.micro, id);
    assert_false(a.is_paused);
}

/* What is waited for may stand behind the chunks: not reading on would wait for ever. */
static void reading_goes_on_while_something_is_awaited(void **state)
{
    (void)state;
    one();
    uint64_t id = ask_stream(&a, "/s", 8, 1);
    uint64_t call = ask(&a, "/x", NULL, 2);
    feed(&a, id, 0, 8);
    assert_false(a.is_paused);
    znl_micro_abort(a.micro, call);
    assert_true(a.is_paused);
    uint64_t other = ask_stream(&a, "/other", 8, 3); /* its first chunk */
    assert_false(a.is_paused);
    feed(&a, id, 8, 8 * ZNL_MICRO_OVERFULL - 9);
    assert_false(a.is_paused);
    feed(&a, id, 8 * ZNL_MICRO_OVERFULL - 1, 1); /* but not for ever */
    assert_true(a.is_paused);
    znl_micro_took(a.micro, id, 8 * ZNL_MICRO_OVERFULL - 4);
    assert_false(a.is_paused);
    znl_micro_abort(a.micro, other);
    feed(&a, id, 8 * ZNL_MICRO_OVERFULL, 4);
    assert_true(a.is_paused);
    /* A stream of this side that waits for a grant. */
    receive(&a,
            "{\"id\":0,\"twoway\":true,\"data\":{\"url\":\"/s\"},\"mode\":0,\"stream\":true,\"streamVersion\":1}");
    assert_int_equal(chunk(&a, "1"), 0);
    assert_int_equal(chunk(&a, "2"), ZNL_E_BUSY);
    assert_false(a.is_paused);
    receive(&a, "{\"id\":1,\"twoway\":false,\"data\":0,\"mode\":2}");
    assert_true(a.is_paused);
    znl_micro_close(a.micro, ZNL_E_CLOSED);
}

static void large_chunks_count_by_their_bytes(void **state)
{
    (void)state;
    options.is_ours = 1;
    one();
    unsigned long long id = ask_stream(&a, "/s", 100, 1);
    size_t size = 1024 * 1024;
    char *text = malloc(size + 256);
    assert_non_null(text);
    for (int seq = 0; seq < 5; seq++) {
        int at = snprintf(text, 256,
                "{\"id\":%llu,\"mode\":1,\"stream\":true,\"data\":{\"status\":200,\"seq\":%d,\"payload\":\"",
                id, seq);
        memset(text + at, 'x', size);
        memcpy(text + at + size, "\"}}", 4);
        assert_int_equal(a.is_paused, seq == 4);
        znl_micro_receive(a.micro, text, strlen(text));
        a.heard_size = 0;
    }
    znl_micro_took(a.micro, id, 2);
    assert_true(a.is_paused);
    znl_micro_took(a.micro, id, 2);
    assert_false(a.is_paused);
    free(text);
}

static void send_two(struct end *end, const char *event)
{
    if (strcmp(event, "room") == 0) {
        chunk(end, "1");
        chunk(end, "2");
    }
}

static void chunks_wait_for_the_carrier(void **state)
{
    (void)state;
    one();
    receive(&a,
            "{\"id\":0,\"twoway\":true,\"data\":{\"url\":\"/s\"},\"mode\":0,\"stream\":true}");
    znl_micro_job first = a.job;
    receive(&a,
            "{\"id\":1,\"twoway\":true,\"data\":{\"url\":\"/s\"},\"mode\":0,\"stream\":true}");
    a.heard_size = 0;
    znl_micro_job second = a.job;
    a.is_full = 1;
    assert_int_equal(znl_micro_chunk(a.micro, first, TEXT("1")), ZNL_E_BUSY);
    assert_int_equal(znl_micro_chunk(a.micro, second, TEXT("1")), ZNL_E_BUSY);
    a.react = send_two;
    znl_micro_writable(a.micro);
    assert_heard(&a, "room 0 -\n"); /* it found it full again, so the other was not asked */
    assert_true(a.job == first);
    a.is_full = 0;
    znl_micro_writable(a.micro);
    assert_heard(&a, "room 0 -\nroom 0 -\n");
    assert_true(a.job == first); /* the other one's turn came first */
    assert_int_equal(a.count, 4);
    znl_micro_writable(a.micro);
    assert_heard(&a, "");
    a.is_full = 1;
    assert_int_equal(chunk(&a, "1"), ZNL_E_BUSY);
    a.react = close_it;
    znl_micro_writable(a.micro);
    assert_heard(&a, "room 0 -\nabort 0 -\nabort 0 -\n");
}

static void grants_and_ends_wait_for_the_carrier(void **state)
{
    (void)state;
    options.is_ours = 1;
    two();
    uint64_t id = ask_stream(&a, "/s", 2, 1);
    pump();
    chunk(&b, "1");
    chunk(&b, "2");
    pump();
    a.is_full = 1;
    znl_micro_took(a.micro, id, 1);
    znl_micro_took(a.micro, id, 1);
    a.is_full = 0;
    znl_micro_writable(a.micro);
    assert_sent(
            &a, "{\"id\":$3,\"twoway\":false,\"mode\":3,\"data\":{\"id\":$0.0,\"credit\":2}}");
    b.is_full = 1;
    assert_int_equal(finish(&b), 0);
    assert_int_equal(finish(&b), ZNL_E_NOT_FOUND);
    b.is_full = 0;
    znl_micro_writable(b.micro);
    pump();
    assert_heard(&a, "chunk 1 1\nchunk 1 2\nend 1 -\n");
    assert_int_equal(znl_micro_jobs(b.micro), 0);
}

/* --- extensions ------------------------------------------------------------------------------------ */

static void deadlines_cross_between_peers_of_ours(void **state)
{
    (void)state;
    options.is_ours = 1;
    two();
    uint64_t id;
    znl_waiter waiter = {0};
    assert_int_equal(znl_micro_ask(a.micro, TEXT("/x"), NONE, 1500, 1, waiter, &id), 0);
    pump();
    assert_true(b.deadline_ms == znl_loop_now_ms(loop) + 1500);
    assert_int_equal(znl_micro_ask(a.micro, TEXT("/x"), NONE, 1500, 0, waiter, &id), 0);
    pump();
    assert_true(b.deadline_ms == 0);
}

static void originals_know_no_extensions(void **state)
{
    (void)state;
    one();
    uint64_t id;
    znl_waiter waiter = {0};
    assert_int_equal(znl_micro_ask(a.micro, TEXT("/x"), NONE, 1500, 1, waiter, &id), 0);
    assert_sent(&a, "{\"id\":$0.0,\"twoway\":true,\"data\":{\"url\":\"/x\"},\"mode\":0}");
    receive(&a,
            "{\"id\":0,\"twoway\":true,\"data\":{\"url\":\"/s\"},\"mode\":0,\"stream\":true,\"credit\":1,"
            "\"deadline\":5}");
    assert_heard(&a, "stream 0 /s -\n");
    assert_true(a.deadline_ms == 0);
}

/* --- heartbeats ------------------------------------------------------------------------------------ */

static void use_heartbeats(void)
{
    options.heartbeat_ms = 500;
    options.heartbeat_timeout_ms = 1200;
    options.heartbeat_check_ms = 300;
}

#define HEARTBEAT                                                                              \
    "{\"id\":0,\"twoway\":false,\"data\":{\"url\":\"/-/heartbeat\",\"data\":{}},\"mode\":0}"

/* v2-heartbeat.json */
static void heartbeats_both_ways(void **state)
{
    (void)state;
    use_heartbeats();
    two();
    pass(499);
    assert_int_equal(a.count, 0);
    pass(1);
    assert_int_equal(a.count, 1);
    pump();
    for (int i = 0; i < 40; i++) {
        pass(250);
        pump();
    }
    assert_int_equal(a.silences + b.silences, 0);
    assert_int_equal(count(&a).heartbeats, 21);
    assert_heard(&a, ""); /* taken before routing */
    assert_int_equal(count(&a).pushes, 0);
    assert_int_equal(a.pings + b.pings, 0);
}

/* v2-heartbeat-timeout.json */
static void a_peer_that_stops_its_heartbeats(void **state)
{
    (void)state;
    use_heartbeats();
    one();
    pass(100);
    receive(&a, HEARTBEAT);
    for (int i = 0; i < 11; i++) { /* other traffic does not count */
        pass(100);
        receive(&a, "{\"id\":0,\"twoway\":false,\"data\":{\"url\":\"/log\"},\"mode\":0}");
        znl_micro_ponged(a.micro);
    }
    assert_int_equal(a.silences, 0); /* at 1200 it is 1100 ago */
    pass(299);
    assert_int_equal(a.silences, 0);
    pass(1);
    assert_int_equal(a.silences, 1);
    pass(2000);
    assert_int_equal(a.silences, 1); /* told once */
    assert_int_equal(a.pings, 0);
}

/* A v1 peer never sends any (spec, section 23): it is asked by pings. */
static void a_peer_without_heartbeats(void **state)
{
    (void)state;
    use_heartbeats();
    one();
    int pings = 0;
    for (int i = 0; i < 20; i++) {
        pass(300);
        if (a.pings > pings)
            znl_micro_ponged(a.micro);
        pings = a.pings;
    }
    assert_int_equal(a.silences, 0);
    assert_int_equal(
            pings, 6); /* every 900 ms, when it is quiet for three quarters of the limit */
    for (int i = 0; i < 20; i++) { /* what it sends is as good */
        receive(&a, "{\"id\":0,\"twoway\":false,\"data\":{\"url\":\"/log\"},\"mode\":0}");
        pass(300);
    }
    assert_int_equal(a.pings, pings);
    assert_int_equal(a.silences, 0);
    pass(1500);
    assert_int_equal(a.silences, 1);
    assert_true(a.pings > pings);
}

/* Between three quarters of the limit and the limit there may be no check at all. */
static void who_was_not_asked_is_not_silent(void **state)
{
    (void)state;
    use_heartbeats();
    options.heartbeat_check_ms = 700;
    one();
    pass(1399);
    assert_int_equal(a.pings, 0);
    pass(1);
    assert_int_equal(a.pings, 1);
    assert_int_equal(a.silences, 0);
    znl_micro_ponged(a.micro);
    pass(1400);
    assert_int_equal(a.pings, 2);
    assert_int_equal(a.silences, 0);
    pass(700);
    assert_int_equal(a.silences, 1);
}

static void strict_heartbeats(void **state)
{
    (void)state;
    use_heartbeats();
    options.strict_heartbeat = 1;
    one();
    for (int i = 0; i < 5; i++) {
        pass(240);
        znl_micro_ponged(a.micro);
    }
    assert_int_equal(a.silences, 0);
    pass(300);
    assert_int_equal(a.silences, 1);
    assert_int_equal(a.pings, 0);
}

/* Its heartbeats stand unread in the socket: nothing is known about it. */
static void a_peer_that_is_not_read_is_not_silent(void **state)
{
    (void)state;
    use_heartbeats();
    one();
    receive(&a, HEARTBEAT);
    uint64_t id = ask_stream(&a, "/s", 1, 1);
    feed(&a, id, 0, 1);
    assert_true(a.is_paused);
    pass(5000);
    assert_int_equal(a.silences, 0);
    znl_micro_took(a.micro, id, 1);
    pass(1200);
    assert_int_equal(a.silences, 0);
    pass(600);
    assert_int_equal(a.silences, 1);
    while (a.count > 0)
        next_sent(&a);
}

static void a_stall_of_ours_is_not_their_silence(void **state)
{
    (void)state;
    use_heartbeats();
    one();
    receive(&a, HEARTBEAT);
    znl_clock_advance(10000); /* the process was stopped */
    znl_loop_clock_changed(loop);
    znl_wheel_advance(znl_loop_wheel(loop), znl_loop_now_ms(loop));
    assert_int_equal(a.silences, 0);
    receive(&a, HEARTBEAT); /* read now */
    pass(1200);
    assert_int_equal(a.silences, 0);
    pass(300);
    assert_int_equal(a.silences, 1);
}

static void a_heartbeat_that_does_not_fit_is_owed(void **state)
{
    (void)state;
    use_heartbeats();
    one();
    a.is_full = 1;
    pass(600);
    znl_micro_writable(a.micro);
    assert_sent(&a, "(nothing)");
    a.is_full = 0;
    znl_micro_writable(a.micro);
    assert_sent(&a,
            "{\"id\":$2,\"twoway\":false,\"data\":{\"url\":\"/-/heartbeat\",\"data\":{}},\"mode\":0}");
    znl_micro_writable(a.micro);
    assert_sent(&a, "(nothing)");
    /* One that wants an answer gets it. */
    receive(&a,
            "{\"id\":6,\"twoway\":true,\"data\":{\"url\":\"/-/heartbeat\",\"data\":{}},\"mode\":0}");
    assert_sent(&a, "{\"id\":6,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200}}");
}

/* --- memory ---------------------------------------------------------------------------------------- */

static void an_idle_connection_is_small(void **state)
{
    (void)state;
    use_heartbeats();
    options.scratch = NULL;
    znl_alloc_fail_after(1); /* the connection itself, no table */
    one();
    znl_alloc_fail_after(-1);
    assert_true(sizeof *a.micro < 1024);
    pass(2000);
    while (a.count > 0)
        next_sent(&a);
    receive(&a, HEARTBEAT);
}

/* Every allocation fails once: each call says so, nothing leaks, and who waits is told. */
static void without_memory(void **state)
{
    (void)state;
    options.scratch = NULL; /* so that each frame allocates */
    two();
    uint64_t id, waited = 0;
    for (long round = 0; round < 40; round++) {
        znl_alloc_fail_after(round);
        int err = znl_micro_ask(a.micro, TEXT("/x"), TEXT("1"), 0, 0, (znl_waiter){0}, &id);
        assert_true(err == 0 || err == ZNL_E_NOMEM);
        if (err == 0) {
            waited++;
            b.job = 0;
            b.heard_size = 0;
            pump(); /* taken, or refused for want of memory, or even that cannot be said */
            if (b.job != 0)
                answer(&b, "1");
            pump();
        }
        znl_alloc_fail_after(-1);
    }
    assert_true(waited > 0);
    uint64_t lost = count(&b).unanswered;
    assert_int_equal(znl_micro_pending(a.micro), lost);
    assert_int_equal(znl_micro_jobs(b.micro), 0);
    znl_micro *none = NULL;
    znl_alloc_fail_after(0);
    assert_int_equal(
            znl_micro_new(&none, loop, &options, &carrier, &a, &events, &a), ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
    znl_micro_free(none);
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
            STAGED(who_leaves_says_what_it_waits_for_no_more),
            STAGED(closed_from_inside_an_event),
            STAGED(what_does_not_fit_is_sent_later),
            STAGED(answers_that_nobody_reads_are_bounded),
            STAGED(a_stream_to_its_end),
            STAGED(streams_as_they_are_sent),
            STAGED(what_a_producer_may_send),
            STAGED(a_peer_without_streams),
            STAGED(a_dropped_stream_sends_an_abort),
            STAGED(a_stream_can_have_a_time_limit),
            STAGED(credit_between_peers_of_ours),
            STAGED(more_than_was_granted),
            STAGED(one_credit_at_a_time),
            STAGED(grants_add_up_without_overflow),
            STAGED(an_original_is_not_read_while_chunks_wait),
            STAGED(reading_goes_on_while_something_is_awaited),
            STAGED(large_chunks_count_by_their_bytes),
            STAGED(chunks_wait_for_the_carrier),
            STAGED(grants_and_ends_wait_for_the_carrier),
            STAGED(deadlines_cross_between_peers_of_ours),
            STAGED(originals_know_no_extensions),
            STAGED(heartbeats_both_ways),
            STAGED(a_peer_that_stops_its_heartbeats),
            STAGED(a_peer_without_heartbeats),
            STAGED(who_was_not_asked_is_not_silent),
            STAGED(strict_heartbeats),
            STAGED(a_peer_that_is_not_read_is_not_silent),
            STAGED(a_stall_of_ours_is_not_their_silence),
            STAGED(a_heartbeat_that_does_not_fit_is_owed),
            STAGED(an_idle_connection_is_small),
            STAGED(without_memory),
#undef STAGED
    };
    return znl_random_start() == 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
