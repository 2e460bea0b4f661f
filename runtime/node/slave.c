/* slave.c - see slave.h. SPDX-License-Identifier: MIT */
#include "node/slave.h"

#include "base/alloc.h"
#include "base/err.h"

#include <string.h>

#define KEPT_BY_REBUILD                                                                        \
    (1u << ZNL_KIND_PUSH | 1u << ZNL_KIND_RESPONSE | 1u << ZNL_KIND_SERVICE_RESPONSE)

/* What this role listens to; everything else has no effect (spec, section 4). */
#define KINDS                                                                                  \
    (1u << ZNL_KIND_HEARTBEAT_ACK | 1u << ZNL_KIND_PUBLISH | 1u << ZNL_KIND_REQUEST |          \
            1u << ZNL_KIND_RESPONSE | 1u << ZNL_KIND_SERVICE_REQUEST)

static const znl_frame none = {NULL, 0};

struct znl_slave {
    znl_node node;  /* first */
    znl_keys *keys; /* NULL in plain mode */
    int master_online;
    int waiting;    /* a heartbeat is not acknowledged yet */
    znl_timer beat; /* idle: the next heartbeat; waiting: the ack timeout */
    uint8_t master_id[ZNL_ID_BYTES_MAX];
    size_t master_id_size; /* 0: not pinned */
};

static void rebuild(znl_slave *slave);
static void beat(znl_slave *slave);

static znl_slave *slave_of(znl_timer *timer)
{
    return (znl_slave *)(void *)((char *)timer - offsetof(znl_slave, beat));
}

static void set_master_online(znl_slave *slave, int online, const char *reason)
{
    if (slave->master_online == online)
        return;
    slave->master_online = online;
    slave->node.events.on_peer(slave->node.user, znl_slave_master_id(slave), online, reason);
}

/* --- out --------------------------------------------------------------------------------------- */

/* Sends, or queues behind what already waits. */
static int send_or_queue(znl_slave *slave, znl_kind kind, znl_frame subject, znl_frame service,
        const znl_frame *payload, size_t count)
{
    znl_node *node = &slave->node;
    znl_outgoing message = {NULL, kind, subject, service, payload, count, slave->keys};
    int err = znl_node_check_outgoing(node, &message);
    if (err == 0)
        err = node->outbox.count > 0 ? ZNL_E_BUSY : znl_node_transmit(node, &message);
    if (err != ZNL_E_BUSY)
        return err;
    err = znl_outbox_put(&node->outbox, kind, none, subject, service, payload, count);
    if (err == 0)
        znl_link_want_writable(node->link, 1);
    return err;
}

static void on_link_writable(void *user)
{
    znl_slave *slave = user;
    znl_node *node = &slave->node;
    znl_parcel *parcel;
    while ((parcel = node->outbox.first) != NULL) {
        znl_outgoing message = {NULL, parcel->kind, parcel->subject, parcel->service,
                parcel->payload, parcel->payload_count, slave->keys};
        int err = znl_node_transmit(node, &message);
        if (err == ZNL_E_BUSY)
            return;
        if (err != 0)
            node->counters.outbox_dropped++;
        znl_outbox_pop(&node->outbox);
    }
    znl_link_want_writable(node->link, 0);
}

/* --- the heartbeat machine --------------------------------------------------------------------- */

static uint32_t ack_timeout_ms(const znl_slave *slave)
{
    const znl_node_options *options = &slave->node.options;
    if (options->heartbeat_timeout_ms > 0)
        return options->heartbeat_timeout_ms;
    return options->heartbeat_ms < 500 ? 1000 : 2 * options->heartbeat_ms;
}

static void beat_in(znl_slave *slave, uint32_t delay_ms, znl_timer_fn fire)
{
    znl_wheel_start(znl_loop_wheel(slave->node.loop), &slave->beat,
            znl_loop_now_ms(slave->node.loop) + delay_ms, fire);
}

static void ack_missing(znl_timer *timer)
{
    rebuild(slave_of(timer));
}

static void beat_due(znl_timer *timer)
{
    beat(slave_of(timer));
}

static void beat(znl_slave *slave)
{
    if (slave->node.options.heartbeat_ms == 0)
        return;
    slave->waiting = 1;
    beat_in(slave, ack_timeout_ms(slave), ack_missing);
    if (send_or_queue(slave, ZNL_KIND_HEARTBEAT, none, none, NULL, 0) == 0)
        slave->node.counters.heartbeats++;
}

/* Any valid message from the master. */
static void sign_of_life(znl_slave *slave)
{
    if (slave->waiting) {
        slave->waiting = 0;
        beat_in(slave, slave->node.options.heartbeat_ms, beat_due);
    }
    set_master_online(slave, 1, "message");
}

static void on_link_message(void *user, const znl_frame *frames, size_t count);

static void on_link_dropped(void *user, int err)
{
    znl_slave *slave = user;
    slave->node.counters.over_limit++;
    slave->node.events.on_trouble(slave->node.user, err, "message dropped");
}

/* Connects, registers, sends the first heartbeat. */
static int open_link(znl_slave *slave)
{
    znl_node *node = &slave->node;
    static const znl_link_events events = {on_link_message, on_link_writable, on_link_dropped};
    int err = znl_node_open_link(node, 0, &events, slave);
    if (err != 0)
        return err;
    if (node->outbox.count > 0)
        znl_link_want_writable(node->link, 1);
    err = send_or_queue(slave, ZNL_KIND_REGISTER, none, none, NULL, 0);
    if (err != 0)
        node->events.on_trouble(node->user, err, "register not sent");
    beat(slave);
    return 0;
}

static void close_link(znl_slave *slave, uint32_t linger_ms)
{
    znl_wheel_stop(znl_loop_wheel(slave->node.loop), &slave->beat);
    slave->waiting = 0;
    if (slave->node.link != NULL)
        znl_link_close(slave->node.link, linger_ms);
    slave->node.link = NULL;
}

static void pin_configured_master(znl_slave *slave)
{
    znl_frame id = slave->node.options.master_id;
    slave->master_id_size = id.size;
    if (id.size > 0)
        memcpy(slave->master_id, id.data, id.size);
}

static void rebuild(znl_slave *slave)
{
    znl_node *node = &slave->node;
    node->counters.rebuilds++;
    close_link(slave, 0);
    node->counters.outbox_dropped += znl_outbox_discard(&node->outbox, ~KEPT_BY_REBUILD);
    /* A master may come back under another id; only holders of the key can sign for it. */
    pin_configured_master(slave);
    int err = open_link(slave);
    if (err != 0) { /* descriptors used up, say: try again later, never in a tight loop */
        node->events.on_trouble(node->user, err, "cannot connect");
        beat_in(slave, ack_timeout_ms(slave), ack_missing);
    }
    /* Scripts hear of it when the new link is there: they may send at once. */
    znl_node_reject(node, 0, ZNL_E_REBUILT);
    set_master_online(slave, 0, "no heartbeat_ack");
}

/* --- in ---------------------------------------------------------------------------------------- */

static void on_link_message(void *user, const znl_frame *frames, size_t count)
{
    znl_slave *slave = user;
    znl_node *node = &slave->node;
    znl_control control;
    int reason = 0;
    node->counters.received++;
    if (!znl_node_accept(node, KINDS, znl_slave_master_id(slave), frames, count, 0, &control))
        return;
    if (slave->keys != NULL) {
        znl_frame claimed;
        reason = znl_node_verify(
                node, slave->keys, &control, znl_slave_master_id(slave), &claimed);
        if (reason == 0 && claimed.size > ZNL_ID_BYTES_MAX)
            reason = ZNL_E_NODE_MISMATCH;
        if (reason == 0 && slave->master_id_size == 0) {
            memcpy(slave->master_id, claimed.data, claimed.size);
            slave->master_id_size = claimed.size;
        }
        if (reason == 0 && znl_kind_has_payload(control.kind))
            reason = znl_node_open(node, slave->keys, &control, znl_slave_master_id(slave));
    } else if (control.has_proof && control.proof.size > 0) {
        reason = ZNL_E_PROOF_IN_PLAIN;
    }
    if (reason != 0) {
        znl_node_refuse(node, znl_slave_master_id(slave), control.kind, reason);
        return;
    }
    sign_of_life(slave);
    node->counters.acks += control.kind == ZNL_KIND_HEARTBEAT_ACK;
    if (control.kind == ZNL_KIND_HEARTBEAT_ACK || !node->running)
        return;
    znl_message message = {control.kind, znl_slave_master_id(slave), control.subject,
            control.service, control.payload, control.payload_count};
    znl_node_deliver(node, &message, 0);
}

/* --- life -------------------------------------------------------------------------------------- */

int znl_slave_new(znl_slave **out, znl_loop *loop, const znl_node_options *options,
        const znl_node_events *events, void *user)
{
    if (options->encrypted && options->secret.size == 0)
        return ZNL_E_NO_KEY;
    if (options->master_id.size > ZNL_ID_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    znl_slave *slave = znl_calloc(1, sizeof *slave);
    if (slave == NULL)
        return ZNL_E_NOMEM;
    int err = znl_node_init(&slave->node, loop, options, events, user);
    if (err == 0 && options->encrypted)
        err = znl_keys_derive(&slave->keys, options->secret, options->salt);
    if (err != 0) {
        znl_slave_free(slave);
        return err;
    }
    pin_configured_master(slave);
    *out = slave;
    return 0;
}

void znl_slave_free(znl_slave *slave)
{
    if (slave == NULL)
        return;
    znl_slave_stop(slave);
    znl_keys_release(slave->keys);
    znl_node_fini(&slave->node);
    znl_free(slave);
}

znl_node *znl_slave_node(znl_slave *slave)
{
    return &slave->node;
}

int znl_slave_start(znl_slave *slave)
{
    if (slave->node.running)
        return 0;
    slave->node.running = 1;
    int err = open_link(slave);
    if (err != 0)
        slave->node.running = 0;
    return err;
}

void znl_slave_stop(znl_slave *slave)
{
    znl_node *node = &slave->node;
    if (!node->running)
        return;
    if (node->link != NULL) {
        /* A proof makes it count at once with our own masters; the originals ignore it. */
        znl_outgoing goodbye = {NULL, ZNL_KIND_UNREGISTER, none, none, NULL, 0, slave->keys};
        on_link_writable(slave);
        znl_node_transmit(node, &goodbye);
    }
    node->running = 0;
    znl_node_reject(node, 0, ZNL_E_STOPPED);
    node->counters.outbox_dropped += znl_outbox_discard(&node->outbox, UINT32_MAX);
    close_link(slave, slave->master_online ? ZNL_STOP_LINGER_MS : 0);
    set_master_online(slave, 0, "stop");
    pin_configured_master(slave);
}

/* --- use --------------------------------------------------------------------------------------- */

/* 0 when there is a link to send on. */
static int usable(const znl_slave *slave)
{
    if (!slave->node.running)
        return ZNL_E_STOPPED;
    return slave->node.link != NULL ? 0 : ZNL_E_UNREACHABLE;
}

int znl_slave_request(znl_slave *slave, const znl_frame *payload, size_t count,
        uint32_t timeout_ms, znl_waiter waiter)
{
    znl_node *node = &slave->node;
    char request_id[ZNL_REQUEST_ID_TEXT] = {0};
    znl_frame id = znl_frame_of(request_id, sizeof request_id);
    znl_waiter same;
    int err = usable(slave);
    if (err != 0)
        return err;
    err = znl_pending_add(
            node->requests, 0, znl_loop_now_ms(node->loop) + timeout_ms, waiter, request_id);
    if (err != 0)
        return err;
    err = send_or_queue(slave, ZNL_KIND_REQUEST, id, none, payload, count);
    if (err != 0)
        znl_pending_take(node->requests, id, 0, &same);
    return err;
}

int znl_slave_reply(znl_slave *slave, znl_frame request_id, znl_frame service,
        const znl_frame *payload, size_t count)
{
    int err = usable(slave);
    if (err != 0)
        return err;
    znl_kind kind = service.size > 0 ? ZNL_KIND_SERVICE_RESPONSE : ZNL_KIND_RESPONSE;
    return send_or_queue(slave, kind, request_id, service, payload, count);
}

int znl_slave_push(znl_slave *slave, znl_frame topic, const znl_frame *payload, size_t count)
{
    int err = usable(slave);
    if (err != 0)
        return err;
    return send_or_queue(slave, ZNL_KIND_PUSH, topic, none, payload, count);
}

int znl_slave_master_online(const znl_slave *slave)
{
    return slave->master_online;
}

znl_frame znl_slave_master_id(const znl_slave *slave)
{
    return znl_frame_of(slave->master_id, slave->master_id_size);
}
