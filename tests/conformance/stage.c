/* stage.c - see stage.h. SPDX-License-Identifier: MIT */
#include "conformance/stage.h"

#include "conformance/wire.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BARE_MESSAGES 1000 /* taken from a bare socket in one turn */

#define TCP "tcp://127.0.0.1:*"
#define IPC "ipc://*"

const pairing pairings[PAIRINGS] = {
        {END_OURS, END_OURS, TCP},
        {END_OURS, END_BARE, TCP},
        {END_BARE, END_OURS, TCP},
        {END_OURS, END_OURS, IPC},
        {END_OURS, END_BARE, IPC},
        {END_BARE, END_OURS, IPC},
        {END_LIBZMQ, END_BARE, TCP},
        {END_BARE, END_LIBZMQ, TCP},
};

const pairing engines[ENGINES] = {
        {END_OURS, END_OURS, TCP},
        {END_OURS, END_OURS, IPC},
        {END_LIBZMQ, END_LIBZMQ, TCP},
        {END_LIBZMQ, END_LIBZMQ, IPC},
};

/* --- the stage ---------------------------------------------------------------------------------- */

uint64_t stage_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void on_pace(uv_timer_t *timer)
{
    znl_loop_stop(timer->data);
}

static znl_loop *open_loop(uv_timer_t *pace)
{
    znl_loop *loop = NULL;
    assert_int_equal(znl_loop_new(&loop), 0);
    assert_int_equal(uv_timer_init(znl_loop_uv(loop), pace), 0);
    pace->data = loop;
    return loop;
}

void stage_open(struct stage *stage, const pairing *pair)
{
    signal(SIGPIPE, SIG_IGN); /* as in znlrun: streams are written to with write() */
    memset(stage, 0, sizeof *stage);
    stage->pair = pair;
    stage->loop = open_loop(&stage->pace);
}

static void close_loop(znl_loop *loop, uv_timer_t *pace)
{
    uv_close((uv_handle_t *)pace, NULL);
    znl_loop_run(loop); /* ends: nothing is alive */
    assert_int_equal(znl_loop_close(loop), 0);
}

void stage_close(struct stage *stage)
{
    wires_close(stage);
    while (stage->count > 0)
        end_close(stage->ends[0], 0);
    close_loop(stage->loop, &stage->pace);
    if (stage->second != NULL)
        close_loop(stage->second, &stage->second_pace);
    if (stage->context != NULL)
        zmq_ctx_term(stage->context);
}

static void turn_loop(znl_loop *loop, uv_timer_t *pace)
{
    uv_update_time(znl_loop_uv(loop));
    uv_timer_start(pace, on_pace, 1, 0);
    znl_loop_run(loop);
    uv_timer_stop(pace);
}

static void keep_letter(struct end *end, const znl_frame *frames, size_t count)
{
    size_t bytes = sizeof(letter) + count * sizeof *frames;
    size_t total = bytes;
    for (size_t i = 0; i < count; i++)
        total += frames[i].size;
    letter *kept = malloc(total);
    assert_non_null(kept);
    uint8_t *at = (uint8_t *)kept + bytes;
    kept->next = NULL;
    kept->count = count;
    for (size_t i = 0; i < count; i++) {
        if (frames[i].size > 0)
            memcpy(at, frames[i].data, frames[i].size);
        kept->frames[i] = znl_frame_of(at, frames[i].size);
        at += frames[i].size;
    }
    *end->last = kept;
    end->last = &kept->next;
    end->waiting++;
}

static void hear(struct end *end, const znl_frame *frames, size_t count)
{
    end->received++;
    if (end->hear != NULL)
        end->hear(end, frames, count);
    else
        keep_letter(end, frames, count);
}

/* Receives one message of a bare socket; 0 when there is none. */
static int take_bare(struct end *end)
{
    size_t capacity = 0;
    size_t count = 0;
    zmq_msg_t *parts = NULL;
    int more = 1;
    while (more) {
        if (count == capacity) {
            /* A zmq_msg_t may not be copied: all room is made before the parts that follow come. */
            size_t wider = capacity == 0 ? 64 : capacity * 4;
            zmq_msg_t *room = calloc(wider, sizeof *room);
            assert_non_null(room);
            for (size_t i = 0; i < count; i++) {
                zmq_msg_init(&room[i]);
                zmq_msg_move(&room[i], &parts[i]);
                zmq_msg_close(&parts[i]);
            }
            free(parts);
            parts = room;
            capacity = wider;
        }
        zmq_msg_init(&parts[count]);
        if (zmq_msg_recv(&parts[count], end->socket, ZMQ_DONTWAIT) < 0) {
            assert_int_equal(count, 0); /* libzmq hands out whole messages */
            zmq_msg_close(&parts[0]);
            free(parts);
            return 0;
        }
        more = zmq_msg_more(&parts[count]);
        count++;
    }
    znl_frame *frames = calloc(count, sizeof *frames);
    assert_non_null(frames);
    for (size_t i = 0; i < count; i++)
        frames[i] = znl_frame_of(zmq_msg_data(&parts[i]), zmq_msg_size(&parts[i]));
    hear(end, frames, count);
    for (size_t i = 0; i < count; i++)
        zmq_msg_close(&parts[i]);
    free(frames);
    free(parts);
    return 1;
}

void stage_turn(struct stage *stage)
{
    turn_loop(stage->loop, &stage->pace);
    if (stage->second != NULL && !stage->second_stands)
        turn_loop(stage->second, &stage->second_pace);
    for (size_t i = 0; i < stage->count; i++) {
        struct end *end = stage->ends[i];
        if (end->socket != NULL && !end->is_deaf)
            for (int n = 0; n < BARE_MESSAGES && take_bare(end); n++)
                continue;
    }
    wires_look(stage);
    if (stage->look != NULL)
        stage->look(stage);
}

void stage_turns(struct stage *stage, unsigned count)
{
    while (count-- > 0)
        stage_turn(stage);
}

static void on_advanced(void *user)
{
    *(int *)user = 1;
}

void stage_advance(struct stage *stage, uint64_t ms)
{
    int is_done = 0;
    assert_int_equal(znl_loop_advance(stage->loop, ms, on_advanced, &is_done), 0);
    STAGE_UNTIL(stage, is_done);
}

/* --- ends --------------------------------------------------------------------------------------- */

static void on_message(void *user, const znl_frame *frames, size_t count)
{
    struct end *end = user;
    hear(end, frames, count);
    znl_loop_stop(end->loop);
}

static void on_writable(void *user)
{
    struct end *end = user;
    end->writables++;
    if (end->writable != NULL)
        end->writable(end);
    else
        znl_link_want_writable(end->link, 0);
}

static void on_dropped(void *user, int err)
{
    struct end *end = user;
    end->dropped++;
    end->dropped_err = err;
    znl_loop_stop(end->loop);
}

static void on_lost(void *user)
{
    struct end *end = user;
    end->lost++;
    if (end->lost != end->joined + 1)
        fail_msg("lost %zu times, joined %zu times", end->lost, end->joined);
    if (end->close_when_lost) {
        znl_link_close(end->link, 0);
        end->link = NULL;
    }
    znl_loop_stop(end->loop);
}

static void on_joined(void *user)
{
    struct end *end = user;
    end->joined++;
    if (end->lost != end->joined)
        fail_msg("lost %zu times, joined %zu times", end->lost, end->joined);
    znl_loop_stop(end->loop);
}

static void on_refused(void *user, int err, const char *text)
{
    struct end *end = user;
    end->refused++;
    end->refused_err = err;
    snprintf(end->refused_text, sizeof end->refused_text, "%s", text);
    znl_loop_stop(end->loop);
}

static const znl_link_events events = {
        .on_message = on_message,
        .on_writable = on_writable,
        .on_dropped = on_dropped,
        .on_lost = on_lost,
        .on_joined = on_joined,
        .on_refused = on_refused,
};

znl_link_options router_options(const struct stage *stage)
{
    return (znl_link_options){
            .is_router = 1,
            .endpoint = stage->pair->endpoint,
            .send_hwm = 10000,
            .recv_hwm = 10000,
            .max_frame_bytes = ZNL_FRAME_BYTES_DEFAULT,
            .max_frames = ZNL_FRAMES_DEFAULT,
            .max_message_bytes = ZNL_MESSAGE_BYTES_DEFAULT,
    };
}

znl_link_options dealer_options(const struct end *router, const char *id)
{
    znl_link_options options = router_options(router->stage);
    options.is_router = 0;
    options.endpoint = router->endpoint;
    options.routing_id = znl_frame_text(id);
    return options;
}

static void set_int(void *socket, int option, int value)
{
    assert_int_equal(zmq_setsockopt(socket, option, &value, sizeof value), 0);
}

static int try_bare(struct end *end, const znl_link_options *options)
{
    struct stage *stage = end->stage;
    size_t size = sizeof end->endpoint;
    znl_frame id = options->routing_id;
    int64_t max_bytes = (int64_t)options->max_frame_bytes;
    if (stage->context == NULL)
        stage->context = zmq_ctx_new();
    end->socket = zmq_socket(stage->context, options->is_router ? ZMQ_ROUTER : ZMQ_DEALER);
    assert_non_null(end->socket);
    set_int(end->socket, ZMQ_LINGER, 0);
    set_int(end->socket, ZMQ_SNDHWM, (int)options->send_hwm);
    set_int(end->socket, ZMQ_RCVHWM, (int)options->recv_hwm);
    if (strstr(options->endpoint, "[") != NULL)
        set_int(end->socket, ZMQ_IPV6, 1);
    zmq_setsockopt(end->socket, ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes);
    int rc;
    if (options->is_router) {
        set_int(end->socket, ZMQ_ROUTER_MANDATORY, 1);
        set_int(end->socket, ZMQ_ROUTER_HANDOVER, 1);
        rc = zmq_bind(end->socket, options->endpoint);
        zmq_getsockopt(end->socket, ZMQ_LAST_ENDPOINT, end->endpoint, &size);
    } else {
        set_int(end->socket, ZMQ_IMMEDIATE, !stage->bare_is_patient);
        set_int(end->socket, ZMQ_RECONNECT_IVL, (int)ZNL_RECONNECT_MS);
        if (id.size > 0)
            zmq_setsockopt(end->socket, ZMQ_ROUTING_ID, id.data, id.size);
        rc = zmq_connect(end->socket, options->endpoint);
    }
    return rc == 0 ? 0 : znl_err_from_errno(zmq_errno());
}

static void forget(struct end *end)
{
    struct stage *stage = end->stage;
    for (size_t i = 0; i < stage->count; i++)
        if (stage->ends[i] == end)
            stage->ends[i] = stage->ends[--stage->count];
    while (end->first != NULL) {
        letter *next = end->first->next;
        free(end->first);
        end->first = next;
    }
    free(end);
}

static int try_end(struct stage *stage, znl_loop *loop, struct end **out, end_kind kind,
        const znl_link_options *options)
{
    int err;
    struct end *made = calloc(1, sizeof *made);
    assert_non_null(made);
    assert_true(stage->count < STAGE_ENDS);
    made->stage = stage;
    made->kind = kind;
    made->is_router = options->is_router;
    made->loop = loop;
    made->last = &made->first;
    if (kind == END_BARE) {
        err = try_bare(made, options);
    } else {
        znl_link_options chosen = *options;
        chosen.engine = kind == END_OURS ? ZNL_LINK_ZMTP
                : kind == END_LIBZMQ     ? ZNL_LINK_LIBZMQ
                                         : ZNL_LINK_AUTO;
        err = znl_link_open(&made->link, loop, &chosen, &events, made);
        if (err == 0)
            snprintf(
                    made->endpoint, sizeof made->endpoint, "%s", znl_link_endpoint(made->link));
    }
    stage->ends[stage->count++] = made;
    if (err != 0) {
        end_close(made, 0);
        made = NULL;
    }
    *out = made;
    return err;
}

int stage_try_end(
        struct stage *stage, struct end **out, end_kind kind, const znl_link_options *options)
{
    return try_end(stage, stage->loop, out, kind, options);
}

struct end *stage_end(struct stage *stage, end_kind kind, znl_link_options options)
{
    struct end *made;
    int err = try_end(stage, stage->loop, &made, kind, &options);
    if (err != 0)
        fail_msg("%s: error %d", options.endpoint, err);
    return made;
}

struct end *stage_end_on_second(struct stage *stage, end_kind kind, znl_link_options options)
{
    struct end *made;
    if (stage->second == NULL)
        stage->second = open_loop(&stage->second_pace);
    int err = try_end(stage, stage->second, &made, kind, &options);
    if (err != 0)
        fail_msg("%s: error %d", options.endpoint, err);
    return made;
}

struct end *stage_router(struct stage *stage)
{
    return stage_end(stage, stage->pair->router, router_options(stage));
}

struct end *stage_dealer(struct stage *stage, const struct end *router, const char *id)
{
    return stage_end(stage, stage->pair->dealer, dealer_options(router, id));
}

struct end *stage_router_on_own_port(struct stage *stage)
{
    static long used;
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
    znl_link_options options = router_options(stage);
    struct end *made = NULL;
    int err = ZNL_E_ADDRESS_IN_USE;
    options.endpoint = endpoint;
    for (int tries = 0; tries < 200 && err == ZNL_E_ADDRESS_IN_USE; tries++) {
        long number = (getpid() * 37L + used++) % 20000;
        if (stage->pair->endpoint[0] == 't') /* the system chooses from 32768 upwards */
            snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%ld", 10000 + number);
        else
            snprintf(endpoint, sizeof endpoint, "ipc:///tmp/znl-conformance-%ld-%ld",
                    (long)getpid(), number);
        err = stage_try_end(stage, &made, stage->pair->router, &options);
    }
    assert_int_equal(err, 0);
    return made;
}

void end_close(struct end *end, uint32_t linger_ms)
{
    znl_link_close(end->link, linger_ms);
    if (end->socket != NULL) {
        set_int(end->socket, ZMQ_LINGER, (int)linger_ms);
        zmq_close(end->socket);
    }
    forget(end);
}

static int send_bare(struct end *end, const znl_frame *frames, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int flags = i + 1 < count ? ZMQ_DONTWAIT | ZMQ_SNDMORE : ZMQ_DONTWAIT;
        if (zmq_send(end->socket, frames[i].data, frames[i].size, flags) < 0)
            return znl_err_from_errno(zmq_errno());
    }
    return 0;
}

int end_send(struct end *end, const znl_frame *frames, size_t count)
{
    return end->socket != NULL ? send_bare(end, frames, count)
                               : znl_link_send(end->link, frames, count);
}

void end_post(struct end *end, const znl_frame *frames, size_t count)
{
    int err = end_send(end, frames, count);
    uint64_t ends_ms = stage_now_ms() + STAGE_GUARD_MS;
    while ((err == ZNL_E_BUSY || err == ZNL_E_UNREACHABLE) && stage_now_ms() < ends_ms) {
        stage_turn(end->stage);
        err = end_send(end, frames, count);
    }
    assert_int_equal(err, 0);
}

void end_post_text(struct end *end, const char *text)
{
    znl_frame frame = znl_frame_text(text);
    end_post(end, &frame, 1);
}

void end_post_to(struct end *end, const char *id, const char *text)
{
    znl_frame frames[] = {znl_frame_text(id), znl_frame_text(text)};
    end_post(end, frames, 2);
}

letter *end_take(struct end *end)
{
    STAGE_UNTIL(end->stage, end->first != NULL);
    letter *taken = end->first;
    end->first = taken->next;
    if (end->first == NULL)
        end->last = &end->first;
    end->waiting--;
    return taken;
}

void end_expect(struct end *end, const znl_frame *frames, size_t count)
{
    letter *got = end_take(end);
    assert_int_equal(got->count, count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(got->frames[i].size, frames[i].size);
        if (!znl_frame_equal(got->frames[i], frames[i]))
            fail_msg("frame %zu of %zu differs", i, count);
    }
    free(got);
}

void end_expect_text(struct end *end, const char *text)
{
    znl_frame frame = znl_frame_text(text);
    end_expect(end, &frame, 1);
}

void end_expect_from(struct end *end, const char *id, const char *text)
{
    znl_frame frames[] = {znl_frame_text(id), znl_frame_text(text)};
    end_expect(end, frames, 2);
}

void ends_meet(struct end *router, struct end *dealer, const char *id)
{
    end_post_text(dealer, "hello");
    end_expect_from(router, id, "hello");
    end_post_to(router, id, "welcome");
    end_expect_text(dealer, "welcome");
}
