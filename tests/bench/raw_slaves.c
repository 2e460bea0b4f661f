/* raw_slaves.c - many plain ZNL v1 slaves in one process, to load a master with connections.
 *
 *   raw_slaves ENDPOINT COUNT HEARTBEAT_MS SECONDS
 *       Opens COUNT DEALER connections. Each sends `register` and `heartbeat`, then a heartbeat
 *       every HEARTBEAT_MS, spread evenly. Prints "ready" when every one has had its first
 *       `heartbeat_ack`, and after SECONDS one line of key=value.
 *
 * SPDX-License-Identifier: MIT */
#include "measure.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <zmq.h>

#define PREFIX "__znl_v1__"
#define START_MS 30000
#define COUNT_MAX 60000

typedef struct raw_slave {
    void *socket;
    uint64_t next_ns; /* when the next heartbeat is due */
    int acknowledged;
} raw_slave;

static unsigned long acks, heartbeats;

static void die(const char *what)
{
    fprintf(stderr, "raw_slaves: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

static void allow_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void say(raw_slave *slave, const char *action)
{
    /* Not connected yet: libzmq keeps it in the pipe, since ZMQ_IMMEDIATE is off here. */
    if (zmq_send(slave->socket, PREFIX, sizeof PREFIX - 1, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0)
        zmq_send(slave->socket, action, strlen(action), ZMQ_DONTWAIT);
}

/* ZMQ_FD is edge-triggered: read until nothing is left. Returns the acknowledgements taken. */
static unsigned drain(raw_slave *slave)
{
    unsigned taken = 0;
    for (;;) {
        char bytes[64];
        int more = 1, count = 0, is_ack = 0;
        while (more) {
            int size = zmq_recv(slave->socket, bytes, sizeof bytes, ZMQ_DONTWAIT);
            size_t more_size = sizeof more;
            if (size < 0)
                return taken;
            if (count == 1 && size == 13 && memcmp(bytes, "heartbeat_ack", 13) == 0)
                is_ack = 1;
            count++;
            zmq_getsockopt(slave->socket, ZMQ_RCVMORE, &more, &more_size);
        }
        taken += (unsigned)is_ack;
    }
}

static void open_slave(
        void *context, raw_slave *slave, const char *endpoint, int poller, uint32_t index)
{
    char id[32];
    int linger = 0, fd = -1;
    size_t size = sizeof fd;
    snprintf(id, sizeof id, "raw-%06u", index);
    slave->socket = zmq_socket(context, ZMQ_DEALER);
    if (slave->socket == NULL ||
            zmq_setsockopt(slave->socket, ZMQ_ROUTING_ID, id, strlen(id)) != 0 ||
            zmq_setsockopt(slave->socket, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
            zmq_connect(slave->socket, endpoint) != 0 ||
            zmq_getsockopt(slave->socket, ZMQ_FD, &fd, &size) != 0)
        die("slave");
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u32 = index};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll");
    say(slave, "register");
    say(slave, "heartbeat");
    heartbeats++;
}

/* Reads what has come, sends the heartbeats that are due. Returns slaves newly acknowledged. */
static uint32_t turn(raw_slave *slaves, uint32_t count, int poller, uint64_t period_ns)
{
    struct epoll_event events[256];
    uint32_t fresh = 0;
    int ready = epoll_wait(poller, events, 256, 10);
    for (int i = 0; i < ready; i++) {
        raw_slave *slave = &slaves[events[i].data.u32];
        unsigned taken = drain(slave);
        acks += taken;
        if (taken > 0 && !slave->acknowledged) {
            slave->acknowledged = 1;
            fresh++;
        }
    }
    uint64_t now = measure_now_ns();
    for (uint32_t i = 0; i < count; i++) {
        if (now < slaves[i].next_ns)
            continue;
        slaves[i].next_ns += period_ns;
        say(&slaves[i], "heartbeat");
        heartbeats++;
        acks += drain(&slaves[i]); /* sending may have consumed the edge */
    }
    return fresh;
}

int main(int argc, char **argv)
{
    long count_arg = argc == 5 ? atol(argv[2]) : 0, period_ms = argc == 5 ? atol(argv[3]) : 0;
    double seconds = argc == 5 ? atof(argv[4]) : 0;
    if (count_arg < 1 || count_arg > COUNT_MAX || period_ms < 1 || seconds <= 0) {
        fprintf(stderr, "usage: raw_slaves ENDPOINT COUNT HEARTBEAT_MS SECONDS\n");
        return 2;
    }
    uint32_t count = (uint32_t)count_arg;
    uint64_t period_ns = (uint64_t)period_ms * 1000000u;
    allow_descriptors();
    void *context = zmq_ctx_new();
    if (zmq_ctx_set(context, ZMQ_MAX_SOCKETS, (int)count + 16) != 0)
        die("ZMQ_MAX_SOCKETS");
    raw_slave *slaves = calloc(count, sizeof *slaves);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (slaves == NULL || poller < 0)
        die("memory");
    uint64_t started = measure_now_ns();
    for (uint32_t i = 0; i < count; i++) {
        open_slave(context, &slaves[i], argv[1], poller, i);
        slaves[i].next_ns = started + period_ns + period_ns * i / count;
    }
    uint32_t online = 0;
    while (online < count) {
        online += turn(slaves, count, poller, period_ns);
        if (measure_now_ns() - started > (uint64_t)START_MS * 1000000u) {
            fprintf(stderr, "raw_slaves: %u of %u acknowledged within %d ms\n", online, count,
                    START_MS);
            return 1;
        }
    }
    printf("ready connect_ms=%.0f\n", (double)(measure_now_ns() - started) / 1e6);
    fflush(stdout);
    uint64_t ends = measure_now_ns() + (uint64_t)(seconds * 1e9);
    while (measure_now_ns() < ends)
        turn(slaves, count, poller, period_ns);
    printf("slaves=%u heartbeats=%lu acks=%lu\n", count, heartbeats, acks);
    for (uint32_t i = 0; i < count; i++)
        zmq_close(slaves[i].socket);
    zmq_ctx_term(context);
    close(poller);
    free(slaves);
    return 0;
}
