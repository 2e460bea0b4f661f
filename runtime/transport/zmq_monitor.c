/* zmq_monitor.c - see zmq_monitor.h. SPDX-License-Identifier: MIT */
#include "transport/zmq_monitor.h"

#include "base/alloc.h"
#include "base/err.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#define HANDSHAKE_FAILED                                                                       \
    (ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |              \
            ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)

enum refusal { MECHANISM, KEYS, NOT_ALLOWED, NO_ZMTP, TOO_SLOW, ENDED, REFUSALS };

static const struct {
    int err;
    const char *text;
} refusals[REFUSALS] = {
        [MECHANISM] = {ZNL_E_UNSUPPORTED,
                "the handshake failed: not both sides use CURVE, or one sends what is no ZMTP"},
        [KEYS] = {ZNL_E_REFUSED, "the handshake failed: a CURVE key is not the right one"},
        [NOT_ALLOWED] = {ZNL_E_REFUSED, "its CURVE key is not among those allowed"},
        [NO_ZMTP] = {ZNL_E_PROTO, "the handshake failed: what was sent is no ZMTP"},
        [TOO_SLOW] = {ZNL_E_TIMEOUT, "no handshake in time"},
        [ENDED] = {ZNL_E_REFUSED,
                "it ended the connection during the handshake, as for a wrong CURVE key"},
};

struct znl_zmq_monitor {
    uv_poll_t poll;
    znl_loop *loop;
    void *watched;
    void *source; /* PAIR, connected to the one libzmq made */
    znl_zmq_monitor_events events;
    void *user;
    znl_deferred due; /* runs `tell` */
    int is_watching;  /* libuv knows poll: only its close callback may free the monitor */
    int is_lost;      /* lost() is due, before joined() */
    int is_joined;    /* joined() is due */
    int is_apart;     /* between the two */
    int is_closed;
    uint32_t refused[REFUSALS]; /* times that refused() is due */
};

/* Receives a frame; -1 when there is none. */
static int receive(znl_zmq_monitor *monitor, void *frame, size_t size)
{
    int got;
    do /* a signal must not leave an event behind: nothing wakes for it again */
        got = zmq_recv(monitor->source, frame, size, ZMQ_DONTWAIT);
    while (got < 0 && zmq_errno() == EINTR);
    return got;
}

/* Counts an event that a handshake failed; `value` is its reason. */
static void note_refusal(znl_zmq_monitor *monitor, uint16_t event, uint32_t value)
{
    enum refusal what = NO_ZMTP;
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) {
        if (value != EAGAIN && !monitor->events.is_dealer)
            return; /* somebody who looked whether the port is open, say */
        what = value == EAGAIN ? TOO_SLOW : ENDED;
    } else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) {
        what = NOT_ALLOWED;
    } else if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) {
        what = MECHANISM;
    } else if (value == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC) {
        what = KEYS;
    }
    monitor->refused[what]++;
}

/* Reads all events; each is two frames, of which the second names an endpoint. */
static void look(znl_zmq_monitor *monitor)
{
    uint8_t frame[6]; /* u16 event, u32 value, as the machine has them */
    uint16_t event;
    uint32_t value;
    int more;
    size_t size;
    while (receive(monitor, frame, sizeof frame) >= 0) {
        memcpy(&event, frame, sizeof event);
        memcpy(&value, frame + sizeof event, sizeof value);
        if (event == ZMQ_EVENT_DISCONNECTED) {
            monitor->is_lost = monitor->is_apart = 1;
            monitor->is_joined = 0;
        } else if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED && monitor->is_apart) {
            monitor->is_joined = 1;
            monitor->is_apart = 0;
        } else if ((event & HANDSHAKE_FAILED) != 0) {
            note_refusal(monitor, event, value);
        }
        do {
            size = sizeof more;
            if (zmq_getsockopt(monitor->source, ZMQ_RCVMORE, &more, &size) != 0)
                more = 0;
        } while (more && receive(monitor, frame, sizeof frame) >= 0);
    }
}

/* Each may close the monitor, which stays in memory until libuv has closed its handle. */
static void tell_refusals(znl_zmq_monitor *monitor)
{
    for (size_t i = 0; i < REFUSALS; i++) {
        while (monitor->refused[i] > 0 && !monitor->is_closed) {
            monitor->refused[i]--;
            monitor->events.refused(monitor->user, refusals[i].err, refusals[i].text);
        }
    }
}

static void tell(znl_deferred *deferred)
{
    znl_zmq_monitor *monitor =
            (znl_zmq_monitor *)(void *)((char *)deferred - offsetof(znl_zmq_monitor, due));
    look(monitor);
    tell_refusals(monitor);
    if (monitor->is_closed)
        return;
    if (monitor->is_lost) {
        monitor->is_lost = 0;
        if (monitor->is_joined)
            znl_loop_defer(monitor->loop, &monitor->due);
        monitor->events.lost(monitor->user); /* it may close this monitor */
    } else if (monitor->is_joined) {
        monitor->is_joined = 0;
        monitor->events.joined(monitor->user); /* the same */
    }
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    (void)status; /* an error here is found by receiving */
    (void)events;
    tell(&((znl_zmq_monitor *)poll->data)->due);
}

int znl_zmq_monitor_is_lost(znl_zmq_monitor *monitor)
{
    look(monitor);
    int is_due = monitor->is_lost || monitor->is_joined;
    for (size_t i = 0; i < REFUSALS; i++)
        is_due |= monitor->refused[i] > 0;
    if (is_due) /* what was read here wakes nobody */
        znl_loop_defer(monitor->loop, &monitor->due);
    return monitor->is_lost;
}

static void free_monitor(uv_handle_t *handle)
{
    znl_free(handle->data);
}

void znl_zmq_monitor_close(znl_zmq_monitor *monitor)
{
    if (monitor == NULL)
        return;
    monitor->is_closed = 1;
    znl_loop_undefer(monitor->loop, &monitor->due);
    zmq_socket_monitor(monitor->watched, NULL, 0);
    if (monitor->is_watching)
        uv_close((uv_handle_t *)&monitor->poll, free_monitor);
    if (monitor->source != NULL) {
        zmq_close(monitor->source);
        znl_loop_zmq_used(monitor->loop, -1);
    }
    if (!monitor->is_watching)
        znl_free(monitor);
}

static int watch(znl_zmq_monitor *monitor)
{
    char name[64];
    int fd = -1;
    size_t size = sizeof fd;
    int linger = 0;
    int wanted = 0;
    znl_loop_zmq_endpoint(monitor->loop, name, sizeof name);
    if (monitor->events.lost != NULL)
        wanted |= ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
    if (monitor->events.refused != NULL)
        wanted |= HANDSHAKE_FAILED;
    if (zmq_socket_monitor(monitor->watched, name, wanted) != 0)
        return znl_err_from_errno(zmq_errno());
    monitor->source = zmq_socket(znl_loop_zmq(monitor->loop), ZMQ_PAIR);
    if (monitor->source == NULL)
        return znl_err_from_errno(zmq_errno());
    znl_loop_zmq_used(monitor->loop, 1);
    if (zmq_setsockopt(monitor->source, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
            zmq_connect(monitor->source, name) != 0 ||
            zmq_getsockopt(monitor->source, ZMQ_FD, &fd, &size) != 0)
        return znl_err_from_errno(zmq_errno());
    int rc = uv_poll_init(znl_loop_uv(monitor->loop), &monitor->poll, fd);
    if (rc != 0)
        return znl_err_from_uv(rc);
    monitor->is_watching = 1;
    rc = uv_poll_start(&monitor->poll, UV_READABLE, on_ready);
    return rc == 0 ? 0 : znl_err_from_uv(rc);
}

int znl_zmq_monitor_open(znl_zmq_monitor **out, znl_loop *loop, void *socket,
        const znl_zmq_monitor_events *events, void *user)
{
    znl_zmq_monitor *monitor = znl_calloc(1, sizeof *monitor);
    if (monitor == NULL)
        return ZNL_E_NOMEM;
    monitor->poll.data = monitor;
    monitor->loop = loop;
    monitor->watched = socket;
    monitor->events = *events;
    monitor->user = user;
    monitor->due.run = tell;
    int err = watch(monitor);
    if (err != 0) {
        znl_zmq_monitor_close(monitor);
        return err;
    }
    /* The descriptor signals changes: what came before it was watched must be looked for. */
    znl_loop_defer(loop, &monitor->due);
    *out = monitor;
    return 0;
}
