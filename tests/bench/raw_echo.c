/* raw_echo.c - the yardstick: plain libzmq in C doing what a ZNL master and slave do.
 *
 *   raw_echo server ENDPOINT
 *       ROUTER. Answers `req` with `res` and `heartbeat` with `heartbeat_ack`; checks nothing
 *       and keeps nothing. Prints "ready" when bound; runs until killed.
 *   raw_echo client ENDPOINT SIZE IN_FLIGHT SECONDS
 *       DEALER. Keeps IN_FLIGHT requests open; each carries other bytes, and each answer is
 *       compared with its request. The frames are those of a plain ZNL v1 slave, so the server
 *       may as well be a znlrun master.
 *   raw_echo first ENDPOINT COMMAND [ARGUMENT...]
 *       Starts COMMAND, a server on ENDPOINT (tcp://a.b.c.d:port), and prints the time from the
 *       start of the process to its first answer.
 *
 * The client prints one line of key=value. SPDX-License-Identifier: MIT */
#include "requests.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#define PREFIX REQUESTS_PREFIX
#define LOST_MS 5000 /* no answer for so long: something is broken */
#define HWM 100000

static void die(const char *what)
{
    fprintf(stderr, "raw_echo: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

static void *open_socket(void *context, int type)
{
    int hwm = HWM, linger = 0, wait_ms = LOST_MS;
    void *socket = zmq_socket(context, type);
    if (socket == NULL || zmq_setsockopt(socket, ZMQ_SNDHWM, &hwm, sizeof hwm) != 0 ||
            zmq_setsockopt(socket, ZMQ_RCVHWM, &hwm, sizeof hwm) != 0 ||
            zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger) != 0)
        die("socket");
    if (type == ZMQ_DEALER &&
            zmq_setsockopt(socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms) != 0)
        die("ZMQ_RCVTIMEO");
    return socket;
}

static int is_text(zmq_msg_t *frame, const char *text)
{
    size_t size = strlen(text);
    return zmq_msg_size(frame) == size && memcmp(zmq_msg_data(frame), text, size) == 0;
}

/* --- server ------------------------------------------------------------------------------- */

#define SERVER_FRAMES 8

static void answer(void *socket, zmq_msg_t *frames, int count)
{
    if (count == 5 && is_text(&frames[2], "req")) {
        zmq_msg_close(&frames[2]);
        zmq_msg_init_size(&frames[2], 3);
        memcpy(zmq_msg_data(&frames[2]), "res", 3);
    } else if (count >= 3 && is_text(&frames[2], "heartbeat")) {
        zmq_msg_close(&frames[2]);
        zmq_msg_init_size(&frames[2], 13);
        memcpy(zmq_msg_data(&frames[2]), "heartbeat_ack", 13);
    } else {
        for (int i = 0; i < count; i++)
            zmq_msg_close(&frames[i]);
        return;
    }
    for (int i = 0; i < count; i++)
        if (zmq_msg_send(&frames[i], socket, i + 1 < count ? ZMQ_SNDMORE : 0) < 0)
            zmq_msg_close(&frames[i]);
}

_Noreturn static void run_server(const char *endpoint)
{
    void *context = zmq_ctx_new();
    zmq_ctx_set(context, ZMQ_MAX_SOCKETS, 16);
    void *socket = open_socket(context, ZMQ_ROUTER);
    int handover = 1;
    zmq_setsockopt(socket, ZMQ_ROUTER_HANDOVER, &handover, sizeof handover);
    if (zmq_bind(socket, endpoint) != 0)
        die(endpoint);
    printf("ready %s\n", endpoint);
    fflush(stdout);
    for (;;) {
        zmq_msg_t frames[SERVER_FRAMES];
        int count = 0, more = 1;
        while (more) {
            zmq_msg_t spill, *frame = count < SERVER_FRAMES ? &frames[count] : &spill;
            zmq_msg_init(frame);
            if (zmq_msg_recv(frame, socket, 0) < 0)
                die("receive");
            more = zmq_msg_more(frame);
            if (frame == &spill)
                zmq_msg_close(frame);
            else
                count++;
        }
        if (count > 0)
            answer(socket, frames, count);
    }
}

/* --- client ------------------------------------------------------------------------------- */

static void ask(void *socket, requests *all, uint32_t slot)
{
    const requests_slot *request = requests_next(all, slot);
    if (zmq_send(socket, PREFIX, sizeof PREFIX - 1, ZMQ_SNDMORE) < 0 ||
            zmq_send(socket, "req", 3, ZMQ_SNDMORE) < 0 ||
            zmq_send(socket, request->id, REQUESTS_ID_BYTES, ZMQ_SNDMORE) < 0 ||
            zmq_send(socket, request->payload, all->bytes.size, 0) < 0)
        die("send");
}

/* Takes one message. The slot it answers, or -1 when it is something else. */
static int take(void *socket, const requests *all)
{
    zmq_msg_t frames[4];
    int count = 0, more = 1, slot = -1;
    while (more) {
        zmq_msg_t spill, *frame = count < 4 ? &frames[count] : &spill;
        zmq_msg_init(frame);
        if (zmq_msg_recv(frame, socket, 0) < 0)
            die("no answer");
        more = zmq_msg_more(frame);
        if (frame == &spill)
            zmq_msg_close(frame);
        count++;
    }
    if (count == 4 && is_text(&frames[1], "res")) {
        slot = requests_match(all, zmq_msg_data(&frames[2]), zmq_msg_size(&frames[2]),
                zmq_msg_data(&frames[3]), zmq_msg_size(&frames[3]));
        if (slot < 0) {
            fprintf(stderr, "raw_echo: an answer differs from its request\n");
            exit(1);
        }
    }
    for (int i = 0; i < count && i < 4; i++)
        zmq_msg_close(&frames[i]);
    return slot;
}

static void *open_client(void *context, const char *endpoint)
{
    void *socket = open_socket(context, ZMQ_DEALER);
    zmq_setsockopt(socket, ZMQ_ROUTING_ID, "raw-client", 10);
    if (zmq_connect(socket, endpoint) != 0)
        die(endpoint);
    return socket;
}

static int run_client(const char *endpoint, size_t size, uint32_t in_flight, double seconds)
{
    void *context = zmq_ctx_new();
    void *socket = open_client(context, endpoint);
    requests *all = requests_new(size, in_flight, seconds);
    if (all == NULL)
        die("memory");
    for (uint32_t i = 0; i < in_flight; i++)
        ask(socket, all, i);
    uint32_t open = in_flight;
    while (open > 0) {
        int slot = take(socket, all);
        if (slot < 0)
            continue;
        if (requests_answered(all, slot))
            ask(socket, all, (uint32_t)slot);
        else
            open--;
    }
    requests_print(all);
    requests_free(all);
    zmq_close(socket);
    zmq_ctx_term(context);
    return 0;
}

/* --- first answer ------------------------------------------------------------------------- */

static int parse_tcp(const char *endpoint, struct sockaddr_in *address)
{
    char host[64];
    unsigned port = 0;
    memset(address, 0, sizeof *address);
    address->sin_family = AF_INET;
    if (sscanf(endpoint, "tcp://%63[0-9.]:%u", host, &port) != 2 || port > 65535)
        return -1;
    address->sin_port = htons((uint16_t)port);
    return inet_pton(AF_INET, host, &address->sin_addr) == 1 ? 0 : -1;
}

/* Waits until somebody listens; libzmq's own retry would add its reconnect interval. */
static int await_listener(const struct sockaddr_in *address, uint64_t until_ns)
{
    while (measure_now_ns() < until_ns) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int connected = fd >= 0 &&
                connect(fd, (const struct sockaddr *)address, sizeof *address) == 0;
        if (fd >= 0)
            close(fd);
        if (connected)
            return 0;
        usleep(100);
    }
    return -1;
}

static int run_first(const char *endpoint, char **command)
{
    struct sockaddr_in address;
    if (parse_tcp(endpoint, &address) != 0) {
        fprintf(stderr, "raw_echo: endpoint must be tcp://a.b.c.d:port\n");
        return 2;
    }
    void *context = zmq_ctx_new();
    uint64_t started = measure_now_ns();
    pid_t child = fork();
    if (child == 0) {
        if (dup2(STDERR_FILENO, STDOUT_FILENO) >= 0) /* its words are not this answer */
            execvp(command[0], command);
        _exit(127);
    }
    if (child < 0)
        die("fork");
    if (await_listener(&address, started + 5000000000u) != 0) {
        fprintf(stderr, "raw_echo: %s does not listen on %s\n", command[0], endpoint);
        kill(child, SIGTERM);
        waitpid(child, NULL, 0);
        return 1;
    }
    double listening = (double)(measure_now_ns() - started) / 1e6;
    void *socket = open_client(context, endpoint);
    requests *all = requests_new(32, 1, 1);
    if (all == NULL)
        die("memory");
    ask(socket, all, 0);
    while (take(socket, all) < 0)
        continue;
    printf("listening_ms=%.2f first_answer_ms=%.2f\n", listening,
            (double)(measure_now_ns() - started) / 1e6);
    requests_free(all);
    zmq_close(socket);
    zmq_ctx_term(context);
    kill(child, SIGTERM);
    waitpid(child, NULL, 0);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "server") == 0)
        run_server(argv[2]);
    if (argc == 6 && strcmp(argv[1], "client") == 0) {
        long size = atol(argv[3]), in_flight = atol(argv[4]);
        double seconds = atof(argv[5]);
        if (size >= 0 && size <= 1 << 26 && in_flight >= 1 && in_flight <= 50000 && seconds > 0)
            return run_client(argv[2], (size_t)size, (uint32_t)in_flight, seconds);
    }
    if (argc >= 4 && strcmp(argv[1], "first") == 0)
        return run_first(argv[2], argv + 3);
    fprintf(stderr,
            "usage: raw_echo server ENDPOINT\n"
            "       raw_echo client ENDPOINT SIZE IN_FLIGHT SECONDS\n"
            "       raw_echo first ENDPOINT COMMAND [ARGUMENT...]\n");
    return 2;
}
