/* raw_fan.c - the yardstick of publish and push: plain libzmq in C, one way.
 *
 *   raw_fan send ENDPOINT SLAVES SIZE SECONDS   ROUTER. Waits for so many slaves, sends each message to all of
 *                                               them, and prints the result.
 *   raw_fan receive ENDPOINT SLAVES             so many DEALERs, named bench-1 and so on; until killed.
 *   raw_fan collect ENDPOINT                    ROUTER that counts pushes; until killed.
 *   raw_fan push ENDPOINT SIZE SECONDS          DEALER that pushes; prints the result.
 *
 * The frames are those of plain ZNL v1, so either end may as well be a znlrun node. pace.h says how the sender knows
 * what has arrived: `receive` answers a request with payload N once every DEALER has had message N, with what all
 * have had so far, and how much of it was out of order. SPDX-License-Identifier: MIT */
#include "pace.h"
#include "tally.h"

#include <sys/epoll.h>
#include <unistd.h>
#include <zmq.h>

#define PREFIX "__znl_v1__"
#define HWM 100000
#define PATIENCE_MS 10000 /* nothing for so long: something is broken or lost */
#define HEARTBEAT_NS 3000000000u
#define FRAMES 8

_Noreturn static void die(const char *what)
{
    fprintf(stderr, "raw_fan: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

static void *open_socket(void *context, int type, const char *name)
{
    int hwm = HWM, linger = 0, wait_ms = PATIENCE_MS, on = 1;
    void *socket = zmq_socket(context, type);
    if (socket == NULL || zmq_setsockopt(socket, ZMQ_SNDHWM, &hwm, sizeof hwm) != 0 ||
            zmq_setsockopt(socket, ZMQ_RCVHWM, &hwm, sizeof hwm) != 0 ||
            zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
            zmq_setsockopt(socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms) != 0)
        die("socket");
    if (type == ZMQ_ROUTER && zmq_setsockopt(socket, ZMQ_ROUTER_MANDATORY, &on, sizeof on) != 0)
        die("ZMQ_ROUTER_MANDATORY"); /* a message that cannot go is an error, and counted */
    if (name != NULL && zmq_setsockopt(socket, ZMQ_ROUTING_ID, name, strlen(name)) != 0)
        die("ZMQ_ROUTING_ID");
    return socket;
}

/* --- messages ------------------------------------------------------------------------------- */

typedef struct raw_message {
    zmq_msg_t frames[FRAMES];
    int count;
} raw_message;

static void message_close(raw_message *message)
{
    for (int i = 0; i < message->count; i++)
        zmq_msg_close(&message->frames[i]);
    message->count = 0;
}

/* Takes one message; frames beyond the eighth are dropped. 0, or -1 when there is none. */
static int message_take(raw_message *message, void *socket, int flags)
{
    int more = 1;
    message->count = 0;
    while (more) {
        zmq_msg_t spill,
                *frame = message->count < FRAMES ? &message->frames[message->count] : &spill;
        zmq_msg_init(frame);
        if (zmq_msg_recv(frame, socket, flags) < 0) {
            zmq_msg_close(frame);
            message_close(message);
            return -1;
        }
        more = zmq_msg_more(frame);
        if (frame == &spill)
            zmq_msg_close(frame);
        else
            message->count++;
    }
    return 0;
}

static int is_text(raw_message *message, int index, const char *text)
{
    size_t size = strlen(text);
    return message->count > index && zmq_msg_size(&message->frames[index]) == size &&
            memcmp(zmq_msg_data(&message->frames[index]), text, size) == 0;
}

typedef struct raw_part {
    const void *data;
    size_t size;
} raw_part;

/* 0, or -1 when the socket does not take it now. */
static int send_parts(void *socket, const raw_part *parts, int count)
{
    for (int i = 0; i < count; i++) {
        int flags = ZMQ_DONTWAIT | (i + 1 < count ? ZMQ_SNDMORE : 0);
        if (zmq_send(socket, parts[i].data, parts[i].size, flags) < 0)
            return -1;
    }
    return 0;
}

#define TEXT(text)                                                                             \
    {                                                                                          \
        (text), sizeof(text) - 1                                                               \
    }

static raw_part part_of(raw_message *message, int index)
{
    zmq_msg_t *frame = &message->frames[index];
    return (raw_part){zmq_msg_data(frame), zmq_msg_size(frame)};
}

/* --- sender ----------------------------------------------------------------------------------- */

typedef struct raw_sender {
    void *socket;
    pace pace;
    uint32_t slaves; /* 0: a DEALER that pushes */
    char (*names)[16];
    measure_bytes bytes;
    uint8_t *payload;
    uint32_t lanes; /* batches under way */
    uint64_t arrived, disorder;
} raw_sender;

static void send_one(raw_sender *self)
{
    measure_bytes_next(&self->bytes, self->payload);
    self->pace.sent++;
    if (self->slaves == 0) {
        raw_part parts[] = {
                TEXT(PREFIX), TEXT("push"), TEXT("bench"), {self->payload, self->bytes.size}};
        if (send_parts(self->socket, parts, 4) != 0)
            self->pace.refused++;
    }
    for (uint32_t i = 0; i < self->slaves; i++) {
        raw_part parts[] = {{self->names[i], strlen(self->names[i])}, TEXT(PREFIX), TEXT("pub"),
                TEXT("bench"), {self->payload, self->bytes.size}};
        if (send_parts(self->socket, parts, 5) != 0)
            self->pace.refused++;
    }
}

/* Asks for a sign once all have had the message `number`; 0: at once. */
static void await_number(raw_sender *self, uint64_t number)
{
    char text[24];
    int size = snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    raw_part parts[] = {{self->slaves > 0 ? self->names[0] : "",
                                self->slaves > 0 ? strlen(self->names[0]) : 0},
            TEXT(PREFIX), TEXT("req"), {text, (size_t)size}, {text, (size_t)size}};
    int skipped = self->slaves > 0 ? 0 : 1;
    if (send_parts(self->socket, parts + skipped, 5 - skipped) != 0)
        die("request");
}

/* Takes one message. True when it was the sign that was asked for; *new_slave: a slave has come. */
static int take_sign(raw_sender *self, int *new_slave)
{
    raw_message message;
    int at = self->slaves > 0 ? 1 : 0, is_sign = 0; /* a ROUTER gets the routing id before */
    if (message_take(&message, self->socket, 0) != 0)
        return -1;
    if (is_text(&message, at + 1, "heartbeat")) {
        raw_part parts[] = {part_of(&message, 0), TEXT(PREFIX), TEXT("heartbeat_ack")};
        send_parts(self->socket, parts, 3);
    } else if (is_text(&message, at + 1, "register")) {
        *new_slave = 1;
    } else if (is_text(&message, at + 1, "res") && message.count == at + 4) {
        char text[64] = {0};
        unsigned long long total = 0, disorder = 0;
        raw_part reply = part_of(&message, at + 3);
        memcpy(text, reply.data, reply.size < sizeof text ? reply.size : sizeof text - 1);
        is_sign = sscanf(text, "%llu %llu", &total, &disorder) == 2;
        self->arrived = total;
        self->disorder = disorder;
    }
    message_close(&message);
    return is_sign;
}

static int run_sender(raw_sender *self, double seconds)
{
    int fresh = 0, sign = 0;
    uint32_t receivers = self->slaves > 0 ? self->slaves : 1;
    for (uint32_t online = 0; online < self->slaves; online += (uint32_t)fresh) {
        fresh = 0;
        if (take_sign(self, &fresh) < 0)
            die("not all slaves have come");
    }
    if (self->slaves == 0) { /* it waits in the socket until the connection is made */
        await_number(self, 0);
        if (take_sign(self, &fresh) <= 0)
            die("nobody answers");
    }
    pace_init(&self->pace, receivers, seconds);
    while (sign >= 0) {
        while (self->lanes < PACE_LANES && !pace_is_over(&self->pace)) {
            for (uint32_t i = 0; i < self->pace.batch; i++)
                send_one(self);
            await_number(self, self->pace.sent);
            self->lanes++;
        }
        if (self->lanes == 0)
            break;
        sign = take_sign(self, &fresh);
        if (sign > 0) {
            pace_arrived(&self->pace);
            self->lanes--;
        }
    }
    await_number(self, 0);
    while ((sign = take_sign(self, &fresh)) == 0)
        continue;
    if (sign < 0)
        die("the count at the end");
    pace_print(&self->pace, receivers, self->arrived, self->disorder);
    return 0;
}

static int run_send(
        const char *endpoint, int type, uint32_t slaves, size_t size, double seconds)
{
    raw_sender self = {.slaves = slaves};
    void *context = zmq_ctx_new();
    self.socket = open_socket(context, type, type == ZMQ_DEALER ? "bench-1" : NULL);
    self.names = calloc(slaves + 1, sizeof *self.names);
    self.payload = malloc(size + 1);
    if (self.names == NULL || self.payload == NULL ||
            measure_bytes_init(&self.bytes, size) != 0)
        die("memory");
    for (uint32_t i = 0; i < slaves; i++)
        snprintf(self.names[i], sizeof self.names[i], "bench-%u", i + 1);
    if (type == ZMQ_ROUTER ? zmq_bind(self.socket, endpoint) != 0
                           : zmq_connect(self.socket, endpoint) != 0)
        die(endpoint);
    printf("ready %s\n", endpoint);
    fflush(stdout);
    int status = run_sender(&self, seconds);
    zmq_close(self.socket);
    zmq_ctx_term(context);
    free(self.names);
    free(self.payload);
    free(self.bytes.pool);
    return status;
}

/* --- receivers ---------------------------------------------------------------------------------- */

typedef struct raw_awaited {
    char id[64];
    size_t id_size;
    uint64_t number;
    void *socket;
} raw_awaited;

static struct {
    tally tally;
    raw_awaited awaited[PACE_LANES + 1]; /* requests without an answer */
    uint32_t awaited_count;
} here;

/* Returns how many were answered. */
static uint32_t answer_who_can(void)
{
    uint32_t left = 0, count = here.awaited_count;
    for (uint32_t i = 0; i < count; i++) {
        raw_awaited *request = &here.awaited[i];
        if (!tally_reached(&here.tally, request->number)) {
            here.awaited[left++] = *request;
            continue;
        }
        char text[48];
        int size = snprintf(text, sizeof text, "%llu %llu",
                (unsigned long long)here.tally.total, (unsigned long long)here.tally.disorder);
        raw_part parts[] = {TEXT(PREFIX), TEXT("res"), {request->id, request->id_size},
                {text, (size_t)size}};
        if (send_parts(request->socket, parts, 4) != 0)
            die("answer");
    }
    here.awaited_count = left;
    return count - left;
}

static void received(void *socket, uint32_t index, raw_message *message)
{
    if (is_text(message, 1, "pub") && message->count == 4) {
        raw_part payload = part_of(message, 3);
        tally_add(&here.tally, index, payload.data, payload.size);
    } else if (is_text(message, 1, "req") && message->count == 4) {
        raw_part id = part_of(message, 2), number = part_of(message, 3);
        char text[24] = {0};
        if (here.awaited_count > PACE_LANES || id.size > sizeof here.awaited[0].id ||
                number.size >= sizeof text) {
            fprintf(stderr, "raw_fan: a request that was not expected\n");
            exit(1);
        }
        raw_awaited *request = &here.awaited[here.awaited_count++];
        memcpy(text, number.data, number.size);
        *request = (raw_awaited){.id_size = id.size, .socket = socket};
        memcpy(request->id, id.data, id.size);
        request->number = strtoull(text, NULL, 10);
    }
}

/* ZMQ_FD is edge-triggered: reads until nothing is left. */
static void drain(void *socket, uint32_t index)
{
    raw_message message;
    while (message_take(&message, socket, ZMQ_DONTWAIT) == 0) {
        received(socket, index, &message);
        message_close(&message);
    }
}

static void say(void *socket, const char *action)
{
    raw_part parts[] = {TEXT(PREFIX), {action, strlen(action)}};
    send_parts(socket, parts, 2); /* not connected yet: libzmq keeps it in the pipe */
}

_Noreturn static void run_receive(const char *endpoint, uint32_t slaves)
{
    void *context = zmq_ctx_new();
    void **sockets = calloc(slaves, sizeof *sockets);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (zmq_ctx_set(context, ZMQ_MAX_SOCKETS, (int)slaves + 16) != 0 || sockets == NULL ||
            poller < 0 || tally_init(&here.tally, slaves) != 0)
        die("memory");
    for (uint32_t i = 0; i < slaves; i++) {
        char name[16];
        int fd = -1;
        size_t size = sizeof fd;
        snprintf(name, sizeof name, "bench-%u", i + 1);
        sockets[i] = open_socket(context, ZMQ_DEALER, name);
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u32 = i};
        if (zmq_connect(sockets[i], endpoint) != 0 ||
                zmq_getsockopt(sockets[i], ZMQ_FD, &fd, &size) != 0 ||
                epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) != 0)
            die(endpoint);
        say(sockets[i], "register");
        say(sockets[i], "heartbeat");
    }
    uint64_t beat_ns = measure_now_ns() + HEARTBEAT_NS;
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, 100);
        for (int i = 0; i < ready; i++)
            drain(sockets[events[i].data.u32], events[i].data.u32);
        int beats = measure_now_ns() >= beat_ns;
        for (uint32_t i = 0; beats && i < slaves; i++)
            say(sockets[i], "heartbeat");
        beat_ns += beats ? HEARTBEAT_NS : 0;
        /* Sending may have consumed an edge. */
        for (uint32_t i = 0; beats && i < slaves; i++)
            drain(sockets[i], i);
        while (answer_who_can() > 0)
            drain(sockets[0], 0); /* only the first slave is asked */
    }
}

_Noreturn static void run_collect(const char *endpoint)
{
    void *context = zmq_ctx_new();
    void *socket = open_socket(context, ZMQ_ROUTER, NULL);
    int forever = -1;
    if (tally_init(&here.tally, 1) != 0 || zmq_bind(socket, endpoint) != 0 ||
            zmq_setsockopt(socket, ZMQ_RCVTIMEO, &forever, sizeof forever) != 0)
        die(endpoint);
    printf("ready %s\n", endpoint);
    fflush(stdout);
    for (;;) {
        raw_message message;
        if (message_take(&message, socket, 0) != 0)
            die("receive");
        if (is_text(&message, 2, "push") && message.count == 5) {
            raw_part payload = part_of(&message, 4);
            tally_add(&here.tally, 0, payload.data, payload.size);
        } else if (is_text(&message, 2, "req") && message.count == 5) {
            char text[48];
            int size = snprintf(text, sizeof text, "%llu %llu",
                    (unsigned long long)here.tally.total,
                    (unsigned long long)here.tally.disorder);
            raw_part parts[] = {part_of(&message, 0), TEXT(PREFIX), TEXT("res"),
                    part_of(&message, 3), {text, (size_t)size}};
            if (send_parts(socket, parts, 5) != 0)
                die("answer");
        }
        message_close(&message);
    }
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[1] : "";
    long slaves = argc > 3 ? atol(argv[3]) : 0;
    if (strcmp(what, "send") == 0 && argc == 6 && slaves >= 1 && slaves <= 60000 &&
            atol(argv[4]) >= 8 && atof(argv[5]) > 0)
        return run_send(
                argv[2], ZMQ_ROUTER, (uint32_t)slaves, (size_t)atol(argv[4]), atof(argv[5]));
    if (strcmp(what, "receive") == 0 && argc == 4 && slaves >= 1 && slaves <= 60000)
        run_receive(argv[2], (uint32_t)slaves);
    if (strcmp(what, "collect") == 0 && argc == 3)
        run_collect(argv[2]);
    if (strcmp(what, "push") == 0 && argc == 5 && slaves >= 8 && atof(argv[4]) > 0)
        return run_send(argv[2], ZMQ_DEALER, 0, (size_t)slaves, atof(argv[4]));
    fprintf(stderr,
            "usage: raw_fan send ENDPOINT SLAVES SIZE SECONDS\n"
            "       raw_fan receive ENDPOINT SLAVES\n"
            "       raw_fan collect ENDPOINT\n"
            "       raw_fan push ENDPOINT SIZE SECONDS\n");
    return 2;
}
