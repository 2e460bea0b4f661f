/* wire_slaves.c - many plain ZNL v1 slaves in one process, as cheap as can be: bare sockets that speak ZMTP.
 *
 * No library stands between the sockets and the figures, so what is measured is the master, of whatever kind.
 *
 *   wire_slaves hold ENDPOINT COUNT HEARTBEAT_MS SECONDS
 *       Connects COUNT slaves. Each registers, beats once, then every HEARTBEAT_MS, spread evenly; 0: never
 *       again. Prints "ready" when every one has had an acknowledgement, after SECONDS one line of key=value.
 *   wire_slaves receive ENDPOINT COUNT
 *       The same for publish, as `raw_fan receive`; until killed.
 *   wire_slaves ask ENDPOINT COUNT SIZE IN_FLIGHT SECONDS
 *       Keeps IN_FLIGHT requests open, each from the next slave in turn; prints what raw_echo's client prints.
 *
 * SPDX-License-Identifier: MIT */
#include "requests.h"
#include "tally.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define COUNT_MAX 60000
#define CONNECTING_MAX 64 /* at once: less than what a listener keeps waiting */
#define START_NS 60000000000u
#define SETTLE_NS 200000000u
#define LOST_NS 10000000000u
#define BUFFER_BYTES (1u << 20)
#define MESSAGE_BYTES_MAX (1u << 18)
#define FRAMES 8
#define GREETING_BYTES 64u
#define BEAT_MS 3000

enum { MORE = 1, LONG = 2, COMMAND = 4 };

typedef struct wire_slave {
    int fd;
    int is_greeted, is_online;
    uint64_t beat_ns; /* when the next heartbeat is due */
    uint8_t *rest;    /* the beginning of a message */
    size_t rest_size;
} wire_slave;

typedef struct wire_frame {
    const uint8_t *data;
    size_t size;
} wire_frame;

static struct {
    struct sockaddr_in address;
    const char *name; /* of the slaves, before their number */
    wire_slave *slaves;
    uint32_t count, opened, online;
    int poller;
    uint64_t period_ns, heartbeats, acks, started_ns;
    uint8_t *buffer;
    requests *asks; /* NULL: asks nothing */
    uint32_t next_asker, open_asks;
    tally tally;
    struct {
        char id[64];
        size_t id_size;
        uint64_t number;
    } awaited[8];
    uint32_t awaited_count;
} here;

_Noreturn static void die(const char *what)
{
    fprintf(stderr, "wire_slaves: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- sending ---------------------------------------------------------------------------------- */

static uint8_t *put_frame(uint8_t *at, const void *data, size_t size, int flags)
{
    *at++ = (uint8_t)(flags | (size > 255 ? LONG : 0));
    for (int shift = size > 255 ? 56 : 0; shift >= 0; shift -= 8)
        *at++ = (uint8_t)((uint64_t)size >> shift);
    memcpy(at, data, size);
    return at + size;
}

/* Nothing sent here comes near what a socket buffers. */
static void send_all(wire_slave *slave, const uint8_t *data, size_t size)
{
    ssize_t sent = send(slave->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent != (ssize_t)size) {
        if (sent >= 0)
            errno = EAGAIN;
        die("the master does not read");
    }
}

static uint8_t *put_action(uint8_t *at, const char *action, int flags)
{
    at = put_frame(at, REQUESTS_PREFIX, strlen(REQUESTS_PREFIX), MORE);
    return put_frame(at, action, strlen(action), flags);
}

static void beat(wire_slave *slave)
{
    uint8_t bytes[64];
    send_all(slave, bytes, (size_t)(put_action(bytes, "heartbeat", 0) - bytes));
    here.heartbeats++;
}

static void greet(wire_slave *slave)
{
    uint8_t greeting[GREETING_BYTES] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1};
    memcpy(greeting + 12, "NULL", 4);
    send_all(slave, greeting, sizeof greeting);
}

static void introduce(wire_slave *slave)
{
    static const char TYPE[] = "\5READY\13Socket-Type\0\0\0\6DEALER\10Identity\0\0\0";
    uint8_t ready[128], bytes[256], *at;
    char id[32];
    int size = snprintf(id, sizeof id, "%s%u", here.name, (unsigned)(slave - here.slaves) + 1);
    memcpy(ready, TYPE, sizeof TYPE - 1);
    ready[sizeof TYPE - 1] = (uint8_t)size;
    memcpy(ready + sizeof TYPE, id, (size_t)size);
    at = put_frame(bytes, ready, sizeof TYPE + (size_t)size, COMMAND);
    at = put_action(at, "register", 0);
    send_all(slave, bytes, (size_t)(at - bytes));
    beat(slave);
}

static void ask(uint32_t slot)
{
    const requests_slot *request = requests_next(here.asks, slot);
    size_t size = here.asks->bytes.size;
    uint8_t *bytes = here.buffer + BUFFER_BYTES; /* room for one message behind what is read */
    uint8_t *at = put_action(bytes, "req", MORE);
    at = put_frame(at, request->id, REQUESTS_ID_BYTES, MORE);
    at = put_frame(at, request->payload, size, 0);
    send_all(&here.slaves[here.next_asker], bytes, (size_t)(at - bytes));
    here.next_asker = (here.next_asker + 1) % here.count;
}

/* --- receiving -------------------------------------------------------------------------------- */

static int is_text(wire_frame frame, const char *text)
{
    return frame.size == strlen(text) && memcmp(frame.data, text, frame.size) == 0;
}

/* Answers the requests for a sign that all have had a message. Only the first slave is asked. */
static void answer_who_can(void)
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < here.awaited_count; i++) {
        if (!tally_reached(&here.tally, here.awaited[i].number)) {
            here.awaited[left++] = here.awaited[i];
            continue;
        }
        char text[48];
        uint8_t bytes[256];
        int size = snprintf(text, sizeof text, "%llu %llu",
                (unsigned long long)here.tally.total, (unsigned long long)here.tally.disorder);
        uint8_t *at = put_action(bytes, "res", MORE);
        at = put_frame(at, here.awaited[i].id, here.awaited[i].id_size, MORE);
        at = put_frame(at, text, (size_t)size, 0);
        send_all(&here.slaves[0], bytes, (size_t)(at - bytes));
    }
    here.awaited_count = left;
}

static void await_number(const wire_frame *frames)
{
    char text[24] = {0};
    if (here.awaited_count == sizeof here.awaited / sizeof here.awaited[0] ||
            frames[2].size > sizeof here.awaited[0].id || frames[3].size >= sizeof text) {
        fprintf(stderr, "wire_slaves: a request that was not expected\n");
        exit(1);
    }
    memcpy(text, frames[3].data, frames[3].size);
    memcpy(here.awaited[here.awaited_count].id, frames[2].data, frames[2].size);
    here.awaited[here.awaited_count].id_size = frames[2].size;
    here.awaited[here.awaited_count++].number = strtoull(text, NULL, 10);
}

static void answered(const wire_frame *frames)
{
    int slot = requests_match(
            here.asks, frames[2].data, frames[2].size, frames[3].data, frames[3].size);
    if (slot < 0) {
        fprintf(stderr, "wire_slaves: an answer differs from its request\n");
        exit(1);
    }
    if (requests_answered(here.asks, slot))
        ask((uint32_t)slot);
    else
        here.open_asks--;
}

static void received(wire_slave *slave, const wire_frame *frames, uint32_t count)
{
    if (count == 4 && is_text(frames[1], "pub"))
        tally_add(&here.tally, (uint32_t)(slave - here.slaves), frames[3].data, frames[3].size);
    else if (count == 4 && is_text(frames[1], "res") && here.asks != NULL)
        answered(frames);
    else if (count == 4 && is_text(frames[1], "req") && here.tally.receivers > 0)
        await_number(frames);
    else if (count >= 2 && is_text(frames[1], "heartbeat_ack")) {
        here.acks++;
        here.online += slave->is_online ? 0 : 1;
        slave->is_online = 1;
    }
}

/* Takes one frame. 0 when it is not whole. */
static size_t take_frame(const uint8_t *data, size_t size, wire_frame *frame)
{
    size_t head = size > 0 && (data[0] & LONG) ? 9 : 2;
    if (size < head)
        return 0;
    uint64_t body = 0;
    for (size_t i = 1; i < head; i++)
        body = body << 8 | data[i];
    if (body > MESSAGE_BYTES_MAX) {
        fprintf(stderr, "wire_slaves: the master sent a frame of %llu bytes\n",
                (unsigned long long)body);
        exit(1);
    }
    *frame = (wire_frame){data + head, (size_t)body};
    return size - head < body ? 0 : head + (size_t)body;
}

/* Takes the whole messages; returns their bytes. Commands need no answer: nobody pings here. */
static size_t take_messages(wire_slave *slave, const uint8_t *data, size_t size)
{
    size_t whole = 0, at = 0;
    wire_frame frames[FRAMES];
    uint32_t count = 0;
    for (;;) {
        wire_frame frame;
        size_t bytes = take_frame(data + at, size - at, &frame);
        if (bytes == 0)
            return whole;
        int flags = data[at];
        at += bytes;
        if (count < FRAMES && !(flags & COMMAND))
            frames[count++] = frame;
        if (flags & MORE)
            continue;
        if (!(flags & COMMAND))
            received(slave, frames, count);
        count = 0;
        whole = at;
    }
}

static void read_some(wire_slave *slave)
{
    if (slave->rest_size > 0)
        memcpy(here.buffer, slave->rest, slave->rest_size);
    ssize_t got = recv(slave->fd, here.buffer + slave->rest_size,
            BUFFER_BYTES - slave->rest_size, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        errno = got == 0 ? ECONNRESET : errno;
        die("the master closed a connection");
    }
    size_t size = slave->rest_size + (size_t)got, taken = 0;
    if (!slave->is_greeted && size >= GREETING_BYTES) {
        slave->is_greeted = 1;
        taken = GREETING_BYTES;
        introduce(slave);
    }
    if (slave->is_greeted)
        taken += take_messages(slave, here.buffer + taken, size - taken);
    slave->rest_size = size - taken;
    if (slave->rest_size > 0) {
        uint8_t *rest = realloc(slave->rest, slave->rest_size);
        if (rest == NULL)
            die("memory");
        memcpy(rest, here.buffer + taken, slave->rest_size);
        slave->rest = rest;
    }
}

/* --- connections ------------------------------------------------------------------------------ */

static void open_slave(uint32_t index)
{
    wire_slave *slave = &here.slaves[index];
    int on = 1;
    slave->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    if (slave->fd < 0 ||
            connect(slave->fd, (struct sockaddr *)&here.address, sizeof here.address) != 0 ||
            setsockopt(slave->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0 ||
            epoll_ctl(here.poller, EPOLL_CTL_ADD, slave->fd, &event) != 0)
        die("connect");
    slave->beat_ns = measure_now_ns() + here.period_ns;
    greet(slave);
}

/* Reads what has come, sends the heartbeats that are due. Returns how many sockets had something. */
static int turn(void)
{
    struct epoll_event events[256];
    int wait_ms = here.period_ns > 0 ? 10 : 100;
    int ready = epoll_wait(here.poller, events, 256, wait_ms);
    for (int i = 0; i < ready; i++)
        read_some(&here.slaves[events[i].data.u32]);
    if (here.awaited_count > 0)
        answer_who_can();
    static uint64_t looked_ns;
    uint64_t now = measure_now_ns();
    if (here.period_ns == 0 || now - looked_ns < 5000000)
        return ready;
    looked_ns = now;
    for (uint32_t i = 0; i < here.opened; i++)
        if (now >= here.slaves[i].beat_ns && here.slaves[i].is_greeted) {
            here.slaves[i].beat_ns += here.period_ns;
            beat(&here.slaves[i]);
        }
    return ready;
}

static void connect_all(uint32_t count)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    here.count = count;
    here.slaves = calloc(count, sizeof *here.slaves);
    here.buffer = malloc(BUFFER_BYTES + MESSAGE_BYTES_MAX);
    here.poller = epoll_create1(EPOLL_CLOEXEC);
    if (here.slaves == NULL || here.buffer == NULL || here.poller < 0)
        die("memory");
    here.started_ns = measure_now_ns();
    while (here.online < count) {
        while (here.opened < count && here.opened - here.online < CONNECTING_MAX)
            open_slave(here.opened++);
        turn();
        if (measure_now_ns() - here.started_ns > START_NS) {
            fprintf(stderr, "wire_slaves: %u of %u acknowledged within a minute\n", here.online,
                    count);
            exit(1);
        }
    }
    uint64_t now = measure_now_ns();
    for (uint32_t i = 0; i < count; i++)
        here.slaves[i].beat_ns = now + here.period_ns * (i + 1) / count;
    printf("ready connect_ms=%.0f\n", (double)(now - here.started_ns) / 1e6);
    fflush(stdout);
}

/* --- what to do ------------------------------------------------------------------------------- */

static int run_hold(uint32_t count, uint32_t period_ms, double seconds)
{
    here.name = "wire-";
    here.period_ns = (uint64_t)period_ms * 1000000u;
    connect_all(count);
    uint64_t ends = measure_now_ns() + (uint64_t)(seconds * 1e9);
    while (measure_now_ns() < ends)
        turn();
    here.period_ns = 0;
    while (here.acks < here.heartbeats && measure_now_ns() < ends + LOST_NS)
        turn();
    printf("slaves=%u heartbeats=%llu acks=%llu\n", count, (unsigned long long)here.heartbeats,
            (unsigned long long)here.acks);
    return 0;
}

_Noreturn static void run_receive(uint32_t count)
{
    here.name = "bench-";
    here.period_ns = (uint64_t)BEAT_MS * 1000000u;
    if (tally_init(&here.tally, count) != 0)
        die("memory");
    connect_all(count);
    for (;;)
        turn();
}

static int run_ask(uint32_t count, size_t size, uint32_t in_flight, double seconds)
{
    here.name = "wire-";
    connect_all(count);
    here.asks = requests_new(size, in_flight, seconds);
    if (here.asks == NULL)
        die("memory");
    here.open_asks = in_flight;
    for (uint64_t calm = measure_now_ns() + SETTLE_NS; measure_now_ns() < calm;)
        turn();
    for (uint32_t i = 0; i < in_flight; i++)
        ask(i);
    uint64_t heard_ns = measure_now_ns();
    while (here.open_asks > 0) {
        uint64_t now = measure_now_ns();
        if (turn() > 0)
            heard_ns = now;
        else if (now - heard_ns > LOST_NS)
            die("no answer");
    }
    requests_print(here.asks);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 3 ? argv[1] : "";
    char host[64];
    unsigned port = 0;
    long count = argc > 3 ? atol(argv[3]) : 0;
    here.address.sin_family = AF_INET;
    int is_valid = count >= 1 && count <= COUNT_MAX &&
            sscanf(argv[2], "tcp://%63[0-9.]:%u", host, &port) == 2 && port <= 65535 &&
            inet_pton(AF_INET, host, &here.address.sin_addr) == 1;
    here.address.sin_port = htons((uint16_t)port);
    if (is_valid && strcmp(what, "hold") == 0 && argc == 6 && atol(argv[4]) >= 0 &&
            atof(argv[5]) > 0)
        return run_hold((uint32_t)count, (uint32_t)atol(argv[4]), atof(argv[5]));
    if (is_valid && strcmp(what, "receive") == 0 && argc == 4)
        run_receive((uint32_t)count);
    if (is_valid && strcmp(what, "ask") == 0 && argc == 7 && atol(argv[4]) >= 0 &&
            atol(argv[4]) <= 65536 && atol(argv[5]) >= 1 && atof(argv[6]) > 0)
        return run_ask(
                (uint32_t)count, (size_t)atol(argv[4]), (uint32_t)atol(argv[5]), atof(argv[6]));
    fprintf(stderr,
            "usage: wire_slaves hold ENDPOINT COUNT HEARTBEAT_MS SECONDS\n"
            "       wire_slaves receive ENDPOINT COUNT\n"
            "       wire_slaves ask ENDPOINT COUNT SIZE IN_FLIGHT SECONDS\n"
            "ENDPOINT is tcp://a.b.c.d:port\n");
    return 2;
}
