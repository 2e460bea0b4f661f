/* A connection of micro with a hostile peer: whatever it sends, each request of ours ends once, each of the
 * peer's too, the tables stay within their limits, and nothing is left when it closes.
 *
 * The input is a list of lines. One that begins with "{" is a frame, with "@0" in it replaced by the id of the
 * last request of ours; any other is what the script at this end does, by its first letter.
 * SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/random.h"
#include "node/micro.h"

#define JOBS 8u
#define ASKS 8u

static znl_loop *loop;
static znl_micro *micro;
static int is_full, is_paused;
static uint64_t asked, ended,
        last_id; /* requests and streams of ours; those given up count as ended */
static znl_micro_job jobs[JOBS]; /* at work, as reported; 0: free */
static unsigned is_open[4096];   /* asks by ticket */

static int carrier_send(void *user, const void *text, size_t size)
{
    (void)user;
    FUZZ_HOLDS(size > 2 && ((const char *)text)[0] == '{' &&
            ((const char *)text)[size - 1] == '}');
    return is_full ? ZNL_E_BUSY : 0;
}

static void carrier_ping(void *user)
{
    (void)user;
}

static void carrier_pause(void *user, int on)
{
    (void)user;
    FUZZ_HOLDS(on != is_paused);
    is_paused = on;
}

static const znl_micro_carrier carrier = {carrier_send, carrier_ping, carrier_pause};

static void on_request(void *user, const znl_micro_request *request)
{
    (void)user;
    if (request->job == 0)
        return;
    size_t i = 0;
    while (i < JOBS && jobs[i] != 0)
        i++;
    FUZZ_HOLDS(i < JOBS);
    jobs[i] = request->job;
}

static void forget(znl_micro_job job)
{
    size_t i = 0;
    while (i < JOBS && jobs[i] != job)
        i++;
    FUZZ_HOLDS(i < JOBS); /* it was at work */
    jobs[i] = 0;
}

static void on_abort(void *user, znl_micro_job job)
{
    (void)user;
    forget(job);
}

static void end_ask(znl_waiter waiter)
{
    FUZZ_HOLDS(is_open[waiter.ticket] == 1);
    is_open[waiter.ticket] = 0;
    ended++;
}

static void on_answer(void *user, znl_waiter waiter, znl_frame data)
{
    (void)user;
    (void)data;
    end_ask(waiter);
}

static void on_refused(void *user, znl_waiter waiter, const znl_micro_refusal *refusal)
{
    (void)user;
    FUZZ_HOLDS(refusal != NULL);
    end_ask(waiter);
}

static void on_chunk(void *user, znl_waiter waiter, znl_frame payload)
{
    (void)user;
    FUZZ_HOLDS(payload.data == NULL || payload.size > 0);
    FUZZ_HOLDS(is_open[waiter.ticket] == 1);
    if (waiter.ticket % 2 == 0)
        znl_micro_took(micro, last_id, 1);
}

static void on_stream_end(void *user, znl_waiter waiter, const znl_micro_refusal *refusal)
{
    (void)user;
    (void)refusal;
    end_ask(waiter);
}

static void on_room(void *user, znl_micro_job job)
{
    (void)user;
    znl_micro_chunk(micro, job, znl_frame_text("1"));
}

static void on_silent(void *user)
{
    (void)user;
}

static void on_flooded(void *user)
{
    (void)user;
}

static const znl_micro_events events = {on_request, on_abort, on_answer, on_refused, on_chunk,
        on_stream_end, on_room, on_silent, on_flooded};

static void ask(int is_stream)
{
    uint64_t id;
    if (asked >= sizeof is_open / sizeof is_open[0])
        return;
    znl_waiter waiter = {NULL, asked};
    znl_frame url = znl_frame_text("/x");
    int err = is_stream ? znl_micro_ask_stream(micro, url, (znl_frame){0}, 4, 50, waiter, &id)
                        : znl_micro_ask(micro, url, (znl_frame){0}, 50, 1, waiter, &id);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_LIMIT || err == ZNL_E_BUSY);
    if (err != 0)
        return;
    last_id = id;
    is_open[asked++] = 1;
}

/* Answers the oldest job in one of the ways there are. */
static void answer(char how)
{
    const znl_micro_refusal refusal = {
            .status = znl_frame_text("E_X"), .text = znl_frame_text("x")};
    znl_micro_job job = 0;
    for (size_t i = 0; i < JOBS && job == 0; i++)
        job = jobs[i];
    if (job == 0)
        return;
    if (how == 'c') {
        znl_micro_chunk(micro, job, znl_frame_text("{}"));
        return;
    }
    forget(job);
    if (how == 'r')
        FUZZ_HOLDS(znl_micro_refuse(micro, job, &refusal) == 0);
    else if (how == 'f')
        FUZZ_HOLDS(znl_micro_finish(micro, job) == 0);
    else
        FUZZ_HOLDS(znl_micro_answer(micro, job, znl_frame_text("1")) == 0);
    FUZZ_HOLDS(znl_micro_answer(micro, job, znl_frame_text("1")) == ZNL_E_NOT_FOUND);
}

/* Puts the id in for "@0". */
static void receive(const uint8_t *line, size_t size)
{
    char id[24];
    size_t used = 0,
           digits = (size_t)snprintf(id, sizeof id, "%llu", (unsigned long long)last_id);
    char *text = malloc(size * sizeof id + 1);
    FUZZ_HOLDS(text != NULL);
    for (size_t i = 0; i < size; i++) {
        if (line[i] == '@' && i + 1 < size && line[i + 1] == '0') {
            memcpy(text + used, id, digits);
            used += digits;
            i++;
        } else {
            text[used++] = (char)line[i];
        }
    }
    char *exact = malloc(used > 0 ? used : 1);
    FUZZ_HOLDS(exact != NULL);
    memcpy(exact, text, used);
    znl_micro_receive(micro, exact, used);
    free(exact);
    free(text);
}

static void act(const uint8_t *line, size_t size)
{
    switch (size > 0 ? line[0] : '{') {
    case '{':
        receive(line, size);
        break;
    case 'a':
        ask(0);
        break;
    case 's':
        ask(1);
        break;
    case 'x': /* gives the last one up */
        if (asked > 0 && is_open[asked - 1]) {
            is_open[asked - 1] = 0;
            ended++;
        }
        znl_micro_abort(micro, last_id);
        break;
    case 't':
        znl_micro_took(micro, last_id, 2);
        break;
    case 'F':
        is_full = 1;
        break;
    case 'w':
        is_full = 0;
        znl_micro_writable(micro);
        break;
    case '+':
        znl_clock_advance(size * 7);
        znl_loop_clock_changed(loop);
        znl_wheel_advance(znl_loop_wheel(loop), znl_loop_now_ms(loop));
        break;
    default:
        answer((char)line[0]);
        break;
    }
    FUZZ_HOLDS(znl_micro_pending(micro) == asked - ended);
    FUZZ_HOLDS(znl_micro_pending(micro) <= ASKS);
    FUZZ_HOLDS(znl_micro_jobs(micro) <= JOBS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const znl_micro_options options = {.is_ours = size > 0 && (data[0] & 1),
            .max_pending = ASKS,
            .max_jobs = JOBS,
            .max_depth = 8,
            .heartbeat_ms = 100,
            .heartbeat_timeout_ms = 200,
            .heartbeat_check_ms = 50};
    if (loop == NULL) {
        znl_clock_freeze(1000);
        FUZZ_HOLDS(znl_random_start() == 0 && znl_loop_new(&loop) == 0);
    }
    asked = ended = last_id = 0;
    is_full = is_paused = 0;
    memset(jobs, 0, sizeof jobs);
    FUZZ_HOLDS(znl_micro_new(&micro, loop, &options, &carrier, NULL, &events, NULL) == 0);
    for (size_t at = size > 0; at < size;) {
        const uint8_t *end = memchr(data + at, '\n', size - at);
        size_t length = end != NULL ? (size_t)(end - data) - at : size - at;
        act(data + at, length);
        at += length + 1;
    }
    znl_micro_close(micro, ZNL_E_CLOSED);
    FUZZ_HOLDS(asked == ended);
    for (size_t i = 0; i < JOBS; i++)
        FUZZ_HOLDS(jobs[i] == 0);
    FUZZ_HOLDS(!is_paused || znl_micro_pending(micro) == 0);
    znl_micro_free(micro);
    FUZZ_HOLDS(znl_loop_wheel(loop)->count == 0);
    return 0;
}
