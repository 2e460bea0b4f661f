/* link_zmq.c - ROUTER and DEALER sockets of libzmq on the loop; see link.h.
 *
 * libzmq works in a thread of its own and signals through a descriptor (ZMQ_FD) that says only
 * "look again", once per change (zmq_getsockopt(3)). Any call on the socket may swallow the signal.
 * So the invariant is: before the loop blocks, a receive has returned EAGAIN after the last call.
 *
 *   drain()   receives until EAGAIN, or defers itself when others should have a turn
 *   send      outside of drain() defers a drain
 *
 * A closed link stays in memory until libuv has closed its handle, which is after drain() and every
 * event function of this turn have returned.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/link_backend.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "transport/link_zmq_curve.h"
#include "transport/zmq_monitor.h"
#include "transport/zmq_places.h"
#include "transport/zmq_zap.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <zmq.h>

#define PARTS_START 16u     /* frames of a message a link has room for at first */
#define PARTS_KEEP 1024u    /* more room than this is given back after the message */
#define ROUTER_RETRY_MS 5u  /* a ROUTER does not say which peer became writable */
#define LISTEN_BACKLOG 4096 /* all slaves reconnect at once when a master restarts */
#define LARGE_BYTES 65536u  /* frames for which running out of memory is a real possibility */
#define DRAIN_MESSAGES (ZNL_BATCH_MESSAGES * ZNL_BATCH_ROUNDS)
#define CLOCK_MESSAGES 16u /* between two looks at the clock */

typedef struct zmq_link {
    znl_link base; /* first */
    uv_poll_t poll;
    znl_loop *loop;
    void *socket;
    znl_zmq_monitor *monitor; /* when its user wants on_refused, or of a DEALER on_lost */
    znl_zmq_gate *gate;       /* of a CURVE server that lets only some in */
    znl_link_events events;
    void *user;
    znl_deferred recheck;
    znl_timer retry;
    zmq_msg_t *parts; /* parts and frames have room for `capacity` each */
    znl_frame *frames;
    size_t capacity;
    size_t max_frame_bytes;
    size_t max_message_bytes;
    uint32_t max_frames;
    int is_watched; /* libuv knows poll: only its close callback may free the link */
    int is_draining;
    int wants_writable;
    znl_zmq_places places;
} zmq_link;

static zmq_link *link_of(znl_link *base)
{
    return (zmq_link *)(void *)base;
}

/* --- receiving --------------------------------------------------------------------------------- */

/* Makes room for more parts; the first `count` are in use. A zmq_msg_t may not be copied, so they
 * are moved, and what is small moves with it. 0 or ZNL_E_NOMEM, which changes nothing. */
static int grow(zmq_link *link, size_t capacity, size_t count)
{
    zmq_msg_t *parts = znl_calloc(capacity, sizeof *parts);
    znl_frame *frames = znl_calloc(capacity, sizeof *frames);
    if (parts == NULL || frames == NULL) {
        znl_free(parts);
        znl_free(frames);
        return ZNL_E_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        zmq_msg_init(&parts[i]);
        zmq_msg_move(&parts[i], &link->parts[i]);
        zmq_msg_close(&link->parts[i]);
        frames[i] = znl_frame_of(zmq_msg_data(&parts[i]), link->frames[i].size);
    }
    znl_free(link->parts);
    znl_free(link->frames);
    link->parts = parts;
    link->frames = frames;
    link->capacity = capacity;
    return 0;
}

static void close_parts(zmq_link *link, size_t count)
{
    for (size_t i = 0; i < count; i++)
        zmq_msg_close(&link->parts[i]);
}

/* The size of the part, INT_MAX standing for more, or -1 when there is none. */
static int receive_part(zmq_link *link, zmq_msg_t *part)
{
    int size;
    zmq_msg_init(part);
    do {
        size = zmq_msg_recv(part, link->socket, ZMQ_DONTWAIT);
        if (size >= 0)
            return size;
    } while (zmq_errno() == EINTR);
    zmq_msg_close(part);
    return -1;
}

/* Receives one message: 0 when there is none, else 1. Then *err is 0 and the first *count parts and
 * frames are in use, or *err says why it was thrown away and none is. libzmq hands out whole
 * messages only. */
static int receive(zmq_link *link, size_t *count, int *err)
{
    size_t used = 0;
    size_t total = 0;
    int has_more;
    *err = 0;
    do {
        if (used == link->capacity)
            *err = grow(link, link->capacity * 2, used);
        if (*err == 0 && used >= link->max_frames)
            *err = ZNL_E_LIMIT;
        if (*err != 0) { /* what is left of the message is read and thrown away */
            close_parts(link, used);
            used = 0;
        }
        zmq_msg_t *part = &link->parts[used];
        int received = receive_part(link, part);
        if (received < 0) {
            close_parts(link, used);
            return 0;
        }
        size_t size = received < INT_MAX ? (size_t)received : zmq_msg_size(part);
        link->frames[used++] = znl_frame_of(zmq_msg_data(part), size);
        has_more = zmq_msg_more(part);
        if (*err == 0 &&
                (size > link->max_frame_bytes || size > link->max_message_bytes - total))
            *err = ZNL_E_TOO_BIG;
        else
            total += *err == 0 ? size : 0;
    } while (has_more);
    if (*err != 0) {
        close_parts(link, used);
        used = 0;
    }
    *count = used;
    return 1;
}

/* Receives and hands on one message; 0 when there is none or the link was closed. */
static int take_message(zmq_link *link)
{
    size_t count;
    int err;
    if (!receive(link, &count, &err))
        return 0;
    if (err == 0) {
        link->events.on_message(link->user, link->frames, count);
        close_parts(link, count);
    } else if (link->events.on_dropped != NULL) {
        link->events.on_dropped(link->user, err);
    }
    if (link->capacity > PARTS_KEEP)
        grow(link, PARTS_START, 0); /* when there is no memory the room stays as it is */
    return !link->base.is_closed;
}

static void offer_writing(zmq_link *link)
{
    int ready = 0;
    size_t size = sizeof ready;
    while (zmq_getsockopt(link->socket, ZMQ_EVENTS, &ready, &size) != 0)
        if (zmq_errno() != EINTR) /* that would leave no later occasion to look */
            return;
    if (ready & ZMQ_POLLIN)
        znl_loop_defer(link->loop, &link->recheck);
    if (ready & ZMQ_POLLOUT)
        link->events.on_writable(link->user);
}

/* Handlers run from here, so the budget is also one of time. */
static void drain(zmq_link *link)
{
    unsigned budget = DRAIN_MESSAGES;
    uint64_t ends_ms = znl_clock_mono_ms() + ZNL_BATCH_MS;
    link->is_draining = 1;
    while (budget > 0 && take_message(link)) {
        budget--;
        if (budget % CLOCK_MESSAGES == 0 && znl_clock_mono_ms() >= ends_ms)
            budget = 0;
    }
    link->is_draining = 0;
    if (link->base.is_closed)
        return;
    if (budget == 0)
        znl_loop_defer(link->loop, &link->recheck);
    if (link->wants_writable && !link->base.is_router)
        offer_writing(link);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    (void)status; /* an error here is found by receiving */
    (void)events;
    drain(poll->data);
}

static void on_recheck(znl_deferred *deferred)
{
    drain((zmq_link *)(void *)((char *)deferred - offsetof(zmq_link, recheck)));
}

/* --- sending ----------------------------------------------------------------------------------- */

/* Sends the frame, or `part` when it is given. 0 or an errno. */
static int send_part(zmq_link *link, znl_frame frame, zmq_msg_t *part, int flags)
{
    for (;;) {
        int rc = part != NULL ? zmq_msg_send(part, link->socket, flags)
                              : zmq_send(link->socket, frame.data, frame.size, flags);
        if (rc >= 0)
            return 0;
        if (zmq_errno() != EINTR)
            return zmq_errno();
    }
}

/* Sends all frames, from `parts` when they are given. 0 or an errno. */
static int send_parts(zmq_link *link, const znl_frame *frames, zmq_msg_t *parts, size_t count)
{
    int failed = 0;
    for (size_t i = 0; i < count; i++) {
        int flags = i + 1 < count ? ZMQ_DONTWAIT | ZMQ_SNDMORE : ZMQ_DONTWAIT;
        int number = send_part(link, frames[i], parts != NULL ? &parts[i] : NULL, flags);
        if (number == 0)
            continue;
        failed = number;
        if (i == 0)
            break;
        /* The connection went in the middle of the message, which libzmq takes back. It drops what
         * follows up to the end of the message, so the rest must be sent as well. */
    }
    return failed;
}

/* Memory for all frames comes before the first is sent: half a message cannot be called back. */
static int send_large(zmq_link *link, const znl_frame *frames, size_t count)
{
    zmq_msg_t *parts = znl_calloc(count, sizeof *parts);
    size_t made = 0;
    int failed = ENOMEM;
    if (parts == NULL)
        return failed;
    while (made < count && zmq_msg_init_size(&parts[made], frames[made].size) == 0) {
        if (frames[made].size > 0)
            memcpy(zmq_msg_data(&parts[made]), frames[made].data, frames[made].size);
        made++;
    }
    if (made == count)
        failed = send_parts(link, frames, parts, count);
    for (size_t i = 0; i < made; i++)
        zmq_msg_close(&parts[i]); /* empty when it was sent */
    znl_free(parts);
    return failed;
}

static int send_message(znl_link *base, const znl_frame *frames, size_t count)
{
    zmq_link *link = link_of(base);
    size_t largest = 0;
    for (size_t i = 0; i < count; i++)
        largest = frames[i].size > largest ? frames[i].size : largest;
    int failed = largest > LARGE_BYTES ? send_large(link, frames, count)
                                       : send_parts(link, frames, NULL, count);
    if (!link->is_draining)
        znl_loop_defer(link->loop, &link->recheck);
    return failed == 0 ? 0 : znl_err_from_errno(failed);
}

static void on_retry(znl_timer *timer)
{
    zmq_link *link = (zmq_link *)(void *)((char *)timer - offsetof(zmq_link, retry));
    znl_wheel_start(znl_loop_wheel(link->loop), timer,
            znl_loop_now_ms(link->loop) + ROUTER_RETRY_MS, on_retry);
    link->events.on_writable(link->user);
}

static void want_writable(znl_link *base, int on)
{
    zmq_link *link = link_of(base);
    if (link->wants_writable == (on != 0))
        return;
    link->wants_writable = on != 0;
    if (!link->base.is_router) {
        if (on)
            znl_loop_defer(link->loop, &link->recheck);
    } else if (on) {
        znl_wheel_start(znl_loop_wheel(link->loop), &link->retry,
                znl_loop_now_ms(link->loop) + ROUTER_RETRY_MS, on_retry);
    } else {
        znl_wheel_stop(znl_loop_wheel(link->loop), &link->retry);
    }
}

static const char *get_endpoint(znl_link *base, size_t index)
{
    return znl_zmq_places_text(&link_of(base)->places, index);
}

/* --- opening and closing ----------------------------------------------------------------------- */

static int set_int(zmq_link *link, int option, int value)
{
    return zmq_setsockopt(link->socket, option, &value, sizeof value);
}

static int as_int(uint32_t value)
{
    return value > INT_MAX ? INT_MAX : value == 0 ? 1 : (int)value; /* 0 would mean no limit */
}

/* 0, or the errno of the option that was refused. */
static int set_options(zmq_link *link, const znl_link_options *options)
{
    int64_t max_bytes = options->max_frame_bytes > INT64_MAX
            ? INT64_MAX
            : (int64_t)options->max_frame_bytes;
    znl_frame id = options->routing_id;
    int rc = set_int(link, ZMQ_LINGER, 0);
    rc |= set_int(link, ZMQ_SNDHWM, as_int(options->send_hwm));
    rc |= set_int(link, ZMQ_RCVHWM, as_int(options->recv_hwm));
    rc |= zmq_setsockopt(link->socket, ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes);
    if (options->is_router) {
        rc |= set_int(link, ZMQ_ROUTER_MANDATORY, 1);
        rc |= set_int(link, ZMQ_ROUTER_HANDOVER, 1);
        rc |= set_int(link, ZMQ_BACKLOG, LISTEN_BACKLOG);
    } else {
        rc |= set_int(link, ZMQ_IMMEDIATE, 1);
        rc |= set_int(link, ZMQ_RECONNECT_IVL, (int)ZNL_RECONNECT_MS);
        rc |= set_int(link, ZMQ_RECONNECT_IVL_MAX, (int)ZNL_RECONNECT_MAX_MS);
        if (id.size > 0)
            rc |= zmq_setsockopt(link->socket, ZMQ_ROUTING_ID, id.data, id.size);
    }
    return rc == 0 ? 0 : zmq_errno();
}

static int watch(zmq_link *link)
{
    int fd = -1;
    size_t size = sizeof fd;
    if (zmq_getsockopt(link->socket, ZMQ_FD, &fd, &size) != 0)
        return znl_err_from_errno(zmq_errno());
    int rc = uv_poll_init(znl_loop_uv(link->loop), &link->poll, fd);
    if (rc != 0)
        return znl_err_from_uv(rc);
    link->is_watched = 1;
    rc = uv_poll_start(&link->poll, UV_READABLE, on_ready);
    return rc == 0 ? 0 : znl_err_from_uv(rc);
}

static void free_link(uv_handle_t *handle)
{
    zmq_link *link = handle->data;
    znl_free(link->parts);
    znl_free(link->frames);
    znl_zmq_places_fini(&link->places);
    znl_free(link);
}

/* libzmq has one monitor per socket, and unbinding needs it. */
static void unbind(zmq_link *link)
{
    znl_zmq_monitor_close(link->monitor);
    link->monitor = NULL;
    if (link->base.is_router)
        znl_zmq_places_unbind(&link->places, link->loop, link->socket);
}

static void on_lost(void *user)
{
    zmq_link *link = user;
    link->events.on_lost(link->user);
}

static void on_joined(void *user)
{
    zmq_link *link = user;
    link->events.on_joined(link->user);
}

static void on_refused(void *user, int err, const char *text)
{
    zmq_link *link = user;
    link->events.on_refused(link->user, err, text);
}

/* Two descriptors. */
static int monitor_connections(zmq_link *link)
{
    znl_zmq_monitor_events wanted = {.is_dealer = !link->base.is_router};
    if (!link->base.is_router && link->events.on_lost != NULL) {
        wanted.lost = on_lost;
        wanted.joined = on_joined;
    }
    if (link->events.on_refused != NULL)
        wanted.refused = on_refused;
    if (wanted.lost == NULL && wanted.refused == NULL)
        return 0;
    return znl_zmq_monitor_open(&link->monitor, link->loop, link->socket, &wanted, link);
}

static int is_lost(znl_link *base)
{
    zmq_link *link = link_of(base);
    return link->monitor != NULL && znl_zmq_monitor_is_lost(link->monitor);
}

/* Accepts a half-built link. */
static void discard(zmq_link *link)
{
    znl_zmq_monitor_close(link->monitor);
    link->monitor = NULL;
    if (link->is_watched)
        uv_close((uv_handle_t *)&link->poll, free_link); /* takes ZMQ_FD out of epoll at once */
    if (link->socket != NULL) {
        zmq_close(link->socket);
        znl_loop_zmq_used(link->loop, -1);
    }
    link->socket = NULL;
    znl_zmq_gate_close(link->gate);
    link->gate = NULL;
    if (!link->is_watched)
        free_link((uv_handle_t *)&link->poll);
}

static int encrypt(zmq_link *link, znl_curve *curve)
{
    if (curve == NULL)
        return 0;
    int err = znl_zmq_curve_set(link->socket, curve);
    if (err == 0 && curve->allowed_count > 0)
        err = znl_zmq_gate_open(&link->gate, link->loop, link->socket, curve);
    return err;
}

static int open_socket(zmq_link *link)
{
    void *context = znl_loop_zmq(link->loop);
    if (context == NULL)
        return ZNL_E_NOMEM;
    link->socket = zmq_socket(context, link->base.is_router ? ZMQ_ROUTER : ZMQ_DEALER);
    if (link->socket == NULL)
        return znl_err_from_errno(zmq_errno());
    znl_loop_zmq_used(link->loop, 1);
    return 0;
}

static int open_link(znl_link **out, znl_loop *loop, const znl_link_options *options,
        const znl_endpoint *endpoints, const znl_link_events *events, void *user)
{
    int err;
    zmq_link *link = znl_calloc(1, sizeof *link);
    if (link == NULL)
        return ZNL_E_NOMEM;
    link->poll.data = link;
    link->loop = loop;
    link->events = *events;
    link->user = user;
    link->recheck.run = on_recheck;
    link->max_frame_bytes = options->max_frame_bytes;
    link->max_message_bytes = options->max_message_bytes;
    link->max_frames = options->max_frames;
    link->base.is_router = options->is_router != 0;
    err = grow(link, PARTS_START, 0);
    if (err == 0)
        err = open_socket(link);
    if (err == 0) {
        int number = set_options(link, options);
        err = number == 0 ? 0 : znl_err_from_errno(number);
    }
    if (err == 0)
        err = encrypt(link, options->curve);
    if (err == 0)
        err = monitor_connections(link);
    if (err == 0)
        err = znl_zmq_places_attach(&link->places, link->socket, options, endpoints);
    if (err == 0)
        err = watch(link);
    if (err != 0) {
        unbind(link);
        discard(link);
        return err;
    }
    znl_loop_defer(loop, &link->recheck); /* what happened before the loop watched */
    *out = &link->base;
    return 0;
}

static void close_link(znl_link *base, uint32_t linger_ms)
{
    zmq_link *link = link_of(base);
    znl_wheel_stop(znl_loop_wheel(link->loop), &link->retry);
    znl_loop_undefer(link->loop, &link->recheck);
    set_int(link, ZMQ_LINGER, linger_ms > INT_MAX ? INT_MAX : (int)linger_ms);
    unbind(link);
    discard(link);
}

const znl_link_backend znl_link_zmq = {
        open_link, close_link, send_message, want_writable, is_lost, get_endpoint};
