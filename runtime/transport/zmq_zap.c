/* zmq_zap.c - see zmq_zap.h.
 *
 * A request is version, request id, domain, address, routing id, mechanism and, for CURVE, the client's public key;
 * the answer is version, request id, status code, status text, user id and metadata. A REP socket answers one after
 * the other, so nothing here waits: the descriptor says "look again", as in link_zmq.c.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/zmq_zap.h"

#include "base/alloc.h"
#include "base/err.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#define PLACE "inproc://zeromq.zap.01"
#define REQUESTS_PER_TURN 100
#define DOMAIN_BYTES 24
#define ID_BYTES_MAX 255u

enum { VERSION, REQUEST_ID, DOMAIN, ADDRESS, ROUTING_ID, MECHANISM, KEY, PARTS };

typedef struct handler {
    uv_poll_t poll;
    znl_loop *loop;
    void *socket; /* REP */
    znl_deferred due;
    znl_zmq_gate *gates;
    uint64_t last_domain;
    int is_watched; /* libuv knows poll: only its close callback may free the handler */
    int is_bound;
} handler;

struct znl_zmq_gate {
    znl_zmq_gate *next;
    handler *handler;
    znl_curve *curve;
    char domain[DOMAIN_BYTES];
};

/* What matters of a request. */
struct request {
    uint8_t id[ID_BYTES_MAX];
    size_t id_size;
    uint8_t domain[DOMAIN_BYTES];
    size_t domain_size; /* as it was sent: more than fits is nobody's */
    int is_curve;
    uint8_t key[ZNL_CURVE_KEY_BYTES];
    size_t key_size; /* PARTS of another size are as good as none */
};

/* --- one request ------------------------------------------------------------------------------- */

static void take_part(struct request *request, int index, const uint8_t *bytes, size_t size)
{
    if (index == REQUEST_ID && size <= sizeof request->id) {
        memcpy(request->id, bytes, size);
        request->id_size = size;
    } else if (index == DOMAIN) {
        request->domain_size = size;
        if (size <= sizeof request->domain)
            memcpy(request->domain, bytes, size);
    } else if (index == MECHANISM) {
        request->is_curve = size == 5 && memcmp(bytes, "CURVE", size) == 0;
    } else if (index == KEY && size == sizeof request->key) {
        memcpy(request->key, bytes, size);
        request->key_size = size;
    }
}

/* True when there was one. */
static int receive(handler *h, struct request *request)
{
    int more = 1;
    memset(request, 0, sizeof *request);
    for (int index = 0; more; index++) {
        zmq_msg_t part;
        int size;
        zmq_msg_init(&part);
        do
            size = zmq_msg_recv(&part, h->socket, ZMQ_DONTWAIT);
        while (size < 0 && zmq_errno() == EINTR);
        if (size < 0) {
            zmq_msg_close(&part);
            return 0;
        }
        take_part(request, index, zmq_msg_data(&part), zmq_msg_size(&part));
        more = zmq_msg_more(&part);
        zmq_msg_close(&part);
    }
    return 1;
}

/* A server without a list has no domain; libzmq asks for it nevertheless while the handler is there. */
static int is_allowed(const handler *h, const struct request *request)
{
    znl_frame domain = znl_frame_of(request->domain, request->domain_size);
    if (!request->is_curve || domain.size > sizeof request->domain)
        return 0;
    if (domain.size == 0)
        return 1;
    const znl_zmq_gate *gate = h->gates;
    while (gate != NULL && !znl_frame_equal(znl_frame_text(gate->domain), domain))
        gate = gate->next;
    return gate != NULL &&
            znl_curve_allows(gate->curve, znl_frame_of(request->key, request->key_size));
}

static void send_part(handler *h, const void *bytes, size_t size, int more)
{
    /* The queue to libzmq's threads has no limit: a failure means that nobody waits any more. */
    zmq_send(h->socket, bytes, size, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
}

static void answer(handler *h, const struct request *request)
{
    int is_ok = is_allowed(h, request);
    send_part(h, "1.0", 3, 1);
    send_part(h, request->id, request->id_size, 1);
    send_part(h, is_ok ? "200" : "400", 3, 1);
    send_part(h, is_ok ? "OK" : "No", 2, 1);
    send_part(h, "", 0, 1);
    send_part(h, "", 0, 0);
}

static void on_due(znl_deferred *deferred)
{
    handler *h = (handler *)(void *)((char *)deferred - offsetof(handler, due));
    struct request request;
    for (int i = 0; i < REQUESTS_PER_TURN; i++) {
        if (!receive(h, &request))
            return;
        answer(h, &request);
    }
    znl_loop_defer(h->loop, &h->due);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    (void)status; /* an error here is found by receiving */
    (void)events;
    on_due(&((handler *)poll->data)->due);
}

/* --- the handler ------------------------------------------------------------------------------- */

static void free_handler(uv_handle_t *handle)
{
    znl_free(handle->data);
}

/* Accepts a half-made one. */
static void close_handler(handler *h)
{
    znl_loop_undefer(h->loop, &h->due);
    if (h->is_watched)
        uv_close((uv_handle_t *)&h->poll, free_handler);
    if (h->socket != NULL) {
        if (h->is_bound) /* at once: closing alone leaves the name taken for a while */
            zmq_unbind(h->socket, PLACE);
        zmq_close(h->socket);
        znl_loop_zmq_used(h->loop, -1);
    }
    if (znl_loop_zap(h->loop) == h)
        znl_loop_set_zap(h->loop, NULL);
    if (!h->is_watched)
        znl_free(h);
}

static int start(handler *h)
{
    int fd = -1, linger = 0;
    size_t size = sizeof fd;
    h->socket = zmq_socket(znl_loop_zmq(h->loop), ZMQ_REP);
    if (h->socket == NULL)
        return znl_err_from_errno(zmq_errno());
    znl_loop_zmq_used(h->loop, 1);
    if (zmq_setsockopt(h->socket, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
            zmq_bind(h->socket, PLACE) != 0)
        return znl_err_from_errno(zmq_errno());
    h->is_bound = 1;
    if (zmq_getsockopt(h->socket, ZMQ_FD, &fd, &size) != 0)
        return znl_err_from_errno(zmq_errno());
    int rc = uv_poll_init(znl_loop_uv(h->loop), &h->poll, fd);
    if (rc != 0)
        return znl_err_from_uv(rc);
    h->is_watched = 1;
    rc = uv_poll_start(&h->poll, UV_READABLE, on_ready);
    return rc == 0 ? 0 : znl_err_from_uv(rc);
}

static int open_handler(handler **out, znl_loop *loop)
{
    *out = znl_loop_zap(loop);
    if (*out != NULL)
        return 0;
    handler *h = znl_calloc(1, sizeof *h);
    if (h == NULL)
        return ZNL_E_NOMEM;
    h->poll.data = h;
    h->loop = loop;
    h->due.run = on_due;
    int err = start(h);
    if (err != 0) {
        close_handler(h);
        return err;
    }
    znl_loop_set_zap(loop, h);
    znl_loop_defer(loop, &h->due);
    *out = h;
    return 0;
}

/* --- gates ------------------------------------------------------------------------------------- */

int znl_zmq_gate_open(znl_zmq_gate **out, znl_loop *loop, void *socket, znl_curve *curve)
{
    znl_zmq_gate *gate = znl_calloc(1, sizeof *gate);
    if (gate == NULL)
        return ZNL_E_NOMEM;
    int err = open_handler(&gate->handler, loop);
    if (err != 0) {
        znl_free(gate);
        return err;
    }
    gate->curve = znl_curve_hold(curve);
    gate->next = gate->handler->gates;
    gate->handler->gates = gate;
    snprintf(gate->domain, sizeof gate->domain, "%llu",
            (unsigned long long)++gate->handler->last_domain);
    if (zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, gate->domain, strlen(gate->domain)) != 0) {
        err = znl_err_from_errno(zmq_errno());
        znl_zmq_gate_close(gate);
        return err;
    }
    *out = gate;
    return 0;
}

void znl_zmq_gate_close(znl_zmq_gate *gate)
{
    if (gate == NULL)
        return;
    znl_zmq_gate **at = &gate->handler->gates;
    while (*at != gate)
        at = &(*at)->next;
    *at = gate->next;
    if (gate->handler->gates == NULL)
        close_handler(gate->handler);
    znl_curve_release(gate->curve);
    znl_free(gate);
}
