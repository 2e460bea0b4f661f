/* slave.c - see slave.h. SPDX-License-Identifier: MIT */
#include "node/slave.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/random.h"
#include "node/rota.h"

#include <string.h>

/* An answer is for the master that asked. */
#define KEPT_BY_FAILOVER (1u << ZNL_KIND_PUSH)
#define KEPT_BY_REBUILD                                                                        \
    (1u << ZNL_KIND_PUSH | 1u << ZNL_KIND_RESPONSE | 1u << ZNL_KIND_SERVICE_RESPONSE)

/* What this role listens to; everything else has no effect (spec, section 4). */
#define KINDS                                                                                  \
    (1u << ZNL_KIND_HEARTBEAT_ACK | 1u << ZNL_KIND_PUBLISH | 1u << ZNL_KIND_REQUEST |          \
            1u << ZNL_KIND_RESPONSE | 1u << ZNL_KIND_SERVICE_REQUEST)

/* What announces that this slave reads calls. */
#define ANNOUNCING (1u << ZNL_KIND_REGISTER | 1u << ZNL_KIND_HEARTBEAT)

/* With heartbeats off: how old the last announcement may be when a call is sent. */
#define ANNOUNCED_MS 1000u

struct znl_slave {
    znl_node node;  /* first */
    znl_keys *keys; /* NULL in plain mode */
    znl_rota rota;
    int master_online;
    int is_answered; /* by a master, on this connection */
    int waiting;     /* a heartbeat is not acknowledged yet */
    znl_timer beat;  /* idle: the next heartbeat; waiting: the ack timeout */
    znl_calls calls;
    uint64_t announced_ms; /* when this slave last said what it can do */
    znl_parcels held;      /* calls and answers to calls, while `calls` is unknown */
    znl_parcels early;     /* the same, received */
    uint8_t master_id[ZNL_ID_BYTES_MAX];
    size_t master_id_size; /* 0: not pinned */
};

static void rebuild(znl_slave *slave, const char *reason);
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

static int transmit(znl_slave *slave, const znl_message *message)
{
    int announces = (ANNOUNCING >> message->kind & 1) != 0;
    int err = znl_node_transmit(&slave->node, message, slave->keys, announces);
    if (err == 0 && announces)
        slave->announced_ms = znl_clock_mono_ms();
    return err;
}

/* Sends, or queues behind what already waits. */
static int send_or_queue(znl_slave *slave, const znl_message *message)
{
    znl_node *node = &slave->node;
    int err = znl_node_check_outgoing(node, message);
    if (err == 0)
        err = node->outbox.count > 0 ? ZNL_E_BUSY : transmit(slave, message);
    if (err != ZNL_E_BUSY)
        return err;
    err = znl_parcels_put(&node->outbox, message);
    if (err == 0)
        znl_link_want_writable(node->link, 1);
    return err;
}

static int send_bare(znl_slave *slave, znl_kind kind)
{
    znl_message message = {.kind = kind};
    return send_or_queue(slave, &message);
}

/* A call must not reach a master that took this slave off line and forgot what it can do: after a
 * silence longer than a heartbeat, as when a handler held the loop, that is said again first. */
static void announce_after_silence(znl_slave *slave)
{
    uint32_t interval_ms = slave->node.options.heartbeat_ms;
    uint64_t silence_ms = znl_clock_mono_ms() - slave->announced_ms;
    if (silence_ms > (interval_ms > 0 ? interval_ms + interval_ms / 2 : ANNOUNCED_MS))
        send_bare(slave, ZNL_KIND_REGISTER);
}

/* What is known of the peer that a message sent now would reach: the connection may have ended
 * unnoticed, while a handler held the loop. */
static znl_calls calls_now(const znl_slave *slave)
{
    if (slave->calls == ZNL_CALLS_YES && znl_link_is_lost(slave->node.link))
        return ZNL_CALLS_UNKNOWN;
    return slave->calls;
}

/* A call or an answer to one. */
static int send_call(znl_slave *slave, const znl_message *message)
{
    int err = znl_node_check_outgoing(&slave->node, message);
    znl_calls calls = calls_now(slave);
    if (err != 0)
        return err;
    if (calls == ZNL_CALLS_NO)
        return ZNL_E_UNSUPPORTED;
    if (calls == ZNL_CALLS_UNKNOWN)
        return znl_parcels_put(&slave->held, message);
    announce_after_silence(slave);
    return send_or_queue(slave, message);
}

/* A call that waited cannot go out. */
static void drop_call(znl_slave *slave, const znl_message *message, int err)
{
    znl_node *node = &slave->node;
    znl_waiter waiter;
    if (message->kind != ZNL_KIND_REQUEST)
        node->counters.outbox_dropped++;
    else if (znl_pending_take(node->requests, message->subject, 0, &waiter) == 0)
        node->events.on_failed(node->user, waiter, err);
}

static int is_expired(const znl_slave *slave, const znl_message *message)
{
    return message->deadline_ms > 0 &&
            message->deadline_ms <= znl_loop_now_ms(slave->node.loop);
}

/* A call from the outbox: as above, once it can go. ZNL_E_BUSY: not yet. */
static int send_waiting_call(znl_slave *slave, const znl_message *message)
{
    int err;
    if (calls_now(slave) == ZNL_CALLS_YES)
        err = is_expired(slave, message) ? 0 : transmit(slave, message);
    else
        err = send_call(slave, message) == 0 ? 0 : ZNL_E_UNSUPPORTED;
    if (err == 0 || err == ZNL_E_BUSY)
        return err;
    drop_call(slave, message, err);
    return 0;
}

static void on_link_writable(void *user)
{
    znl_slave *slave = user;
    znl_node *node = &slave->node;
    znl_parcel *parcel;
    while ((parcel = node->outbox.first) != NULL) {
        const znl_message *message = &parcel->message;
        int err = message->call != NULL ? send_waiting_call(slave, message)
                                        : transmit(slave, message);
        if (err == ZNL_E_BUSY)
            return;
        if (err != 0)
            node->counters.outbox_dropped++;
        znl_parcels_pop(&node->outbox);
    }
    znl_link_want_writable(node->link, 0);
}

/* --- calls ------------------------------------------------------------------------------------- */

static void send_held(znl_slave *slave)
{
    for (size_t turn = slave->held.count; turn > 0 && slave->held.first != NULL; turn--) {
        znl_parcel *parcel = znl_parcels_take(&slave->held);
        int err = is_expired(slave, &parcel->message) ? 0 : send_call(slave, &parcel->message);
        if (err != 0)
            drop_call(slave, &parcel->message, err);
        znl_parcel_free(parcel);
    }
}

static void deliver_early(znl_slave *slave)
{
    while (slave->node.running && slave->early.first != NULL) {
        znl_parcel *parcel = znl_parcels_take(&slave->early);
        znl_message message = parcel->message;
        message.is_capable = slave->calls == ZNL_CALLS_YES;
        znl_node_deliver(&slave->node, &message, 0);
        znl_parcel_free(parcel);
    }
}

/* Until the master has said whether it makes calls, what looks like one waits. True when it does. */
static int keep_for_later(znl_slave *slave, const znl_message *message)
{
    if (slave->calls != ZNL_CALLS_UNKNOWN ||
            !znl_call_is_marked(message->payload, message->payload_count) ||
            (message->kind != ZNL_KIND_REQUEST && message->kind != ZNL_KIND_RESPONSE))
        return 0;
    if (znl_parcels_put(&slave->early, message) != 0)
        slave->node.counters.over_limit++;
    return 1;
}

/* The connection is a new one, perhaps to another master. */
static void forget_calls(znl_slave *slave)
{
    slave->calls = ZNL_CALLS_UNKNOWN;
    znl_parcels_discard(&slave->early, UINT32_MAX);
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
            znl_clock_mono_ms() + delay_ms, fire);
}

static void ack_missing(znl_timer *timer)
{
    rebuild(slave_of(timer), "no heartbeat_ack");
}

/* Nobody is back at the endpoint whose connection was lost. */
static void not_back(znl_timer *timer)
{
    rebuild(slave_of(timer), "connection lost");
}

/* How long a heartbeat may stay without an answer. */
static uint32_t answer_ms(const znl_slave *slave)
{
    uint32_t limit_ms = ack_timeout_ms(slave);
    if (slave->is_answered || !znl_rota_has_choice(&slave->rota))
        return limit_ms;
    return znl_rota_patience_ms(&slave->rota, limit_ms, znl_random_u64());
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
    beat_in(slave, answer_ms(slave), ack_missing);
    if (send_bare(slave, ZNL_KIND_HEARTBEAT) == 0)
        slave->node.counters.heartbeats++;
}

/* Any valid message from the master. */
static void sign_of_life(znl_slave *slave)
{
    slave->is_answered = 1;
    znl_rota_settle(&slave->rota);
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

/* The link connects again, perhaps to a master that was started meanwhile. What was under way may be
 * lost; its deadline decides, or the failover. */
static void on_link_lost(void *user)
{
    znl_slave *slave = user;
    forget_calls(slave);
    znl_parcels_discard(&slave->node.outbox, ANNOUNCING);
    if (!znl_rota_has_choice(&slave->rota))
        return;
    slave->waiting = 0; /* what still arrives of the old connection says nothing of the next */
    slave->is_answered = 0;
    beat_in(slave, znl_rota_return_ms(znl_random_u64()), not_back);
}

/* Both sides tell each other anew what they can do, at once. */
static void on_link_joined(void *user)
{
    znl_slave *slave = user;
    if (slave->node.options.heartbeat_ms > 0)
        beat(slave);
    else
        send_bare(slave, ZNL_KIND_REGISTER);
}

/* Connects, registers, sends the first heartbeat. */
static int open_link(znl_slave *slave)
{
    znl_node *node = &slave->node;
    static const znl_link_events events = {
            .on_message = on_link_message,
            .on_writable = on_link_writable,
            .on_dropped = on_link_dropped,
            .on_refused = znl_node_on_refused,
            .on_lost = on_link_lost,
            .on_joined = on_link_joined,
    };
    node->options.endpoint = znl_rota_endpoint(&slave->rota);
    slave->is_answered = 0;
    int err = znl_node_open_link(node, 0, &events, slave);
    if (err != 0)
        return err;
    if (node->outbox.count > 0)
        znl_link_want_writable(node->link, 1);
    err = send_bare(slave, ZNL_KIND_REGISTER);
    if (err != 0)
        node->events.on_trouble(node->user, err, "register not sent");
    beat(slave);
    return 0;
}

static void close_link(znl_slave *slave, uint32_t linger_ms)
{
    znl_wheel_stop(znl_loop_wheel(slave->node.loop), &slave->beat);
    slave->waiting = 0;
    forget_calls(slave);
    if (slave->node.link != NULL)
        znl_link_close(slave->node.link, linger_ms);
    slave->node.link = NULL;
}

/* The only one there may be; of several, the first to prove who it is. */
static void pin_configured_master(znl_slave *slave)
{
    slave->master_id_size = 0;
    if (slave->rota.id_count == 1) {
        znl_frame id = slave->rota.ids[0];
        slave->master_id_size = id.size;
        memcpy(slave->master_id, id.data, id.size);
    }
}

/* A proof makes it count at once with our own masters; the originals ignore it. */
static void say_goodbye(znl_slave *slave)
{
    znl_message goodbye = {.kind = ZNL_KIND_UNREGISTER};
    transmit(slave, &goodbye);
}

static void rebuild(znl_slave *slave, const char *reason)
{
    znl_node *node = &slave->node;
    uint32_t kept = KEPT_BY_REBUILD;
    uint32_t linger_ms = 0;
    node->counters.rebuilds++;
    if (znl_rota_has_choice(&slave->rota)) {
        /* A master that only hangs should not keep this slave in its list when it goes on. */
        if (slave->is_answered && node->link != NULL) {
            say_goodbye(slave);
            linger_ms = ZNL_STOP_LINGER_MS;
        }
        znl_rota_advance(&slave->rota);
        node->counters.failovers++;
        kept = KEPT_BY_FAILOVER;
    }
    close_link(slave, linger_ms);
    node->counters.outbox_dropped += znl_parcels_discard(&node->outbox, ~kept);
    node->counters.outbox_dropped += znl_parcels_discard(&slave->held, ~kept);
    /* A master may come back under another id; only holders of the key can sign for it. */
    pin_configured_master(slave);
    int err = open_link(slave);
    if (err != 0) { /* descriptors used up, say: try again later, never in a tight loop */
        node->events.on_trouble(node->user, err, "cannot connect");
        beat_in(slave, ack_timeout_ms(slave), ack_missing);
    }
    /* Scripts hear of it when the new link is there: they may send at once. */
    znl_node_reject(node, 0, ZNL_E_REBUILT);
    set_master_online(slave, 0, reason);
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
        if (reason == 0 &&
                (claimed.size > ZNL_ID_BYTES_MAX || !znl_rota_believes(&slave->rota, claimed)))
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
    if (control.kind == ZNL_KIND_HEARTBEAT_ACK) {
        node->counters.acks++;
        znl_calls calls = znl_node_read_extension(
                node, slave->keys, &control, znl_slave_master_id(slave));
        if (!node->running) /* a script that heard of a forged one stopped it */
            return;
        slave->calls = calls;
        sign_of_life(slave);
        if (node->running)
            send_held(slave);
        deliver_early(slave);
        return;
    }
    sign_of_life(slave);
    if (!node->running)
        return;
    znl_message message = {.kind = control.kind,
            .peer = znl_slave_master_id(slave),
            .subject = control.subject,
            .service = control.service,
            .payload = control.payload,
            .payload_count = control.payload_count,
            .is_capable = slave->calls == ZNL_CALLS_YES};
    if (!keep_for_later(slave, &message))
        znl_node_deliver(node, &message, 0);
}

/* --- life -------------------------------------------------------------------------------------- */

int znl_slave_new(znl_slave **out, znl_loop *loop, const znl_node_options *options,
        const znl_node_events *events, void *user)
{
    if (options->encrypted && options->secret.size == 0)
        return ZNL_E_NO_KEY;
    size_t places = options->endpoint_count;
    if (places > 1 && options->heartbeat_ms == 0)
        return ZNL_E_INVALID;
    znl_slave *slave = znl_calloc(1, sizeof *slave);
    if (slave == NULL)
        return ZNL_E_NOMEM;
    int err = znl_node_init(&slave->node, loop, options, events, user);
    if (err == 0)
        err = znl_rota_init(&slave->rota, places > 0 ? options->endpoints : &options->endpoint,
                places > 0 ? places : 1, options->master_ids, options->master_id_count);
    if (err == 0 && options->encrypted)
        err = znl_keys_derive(&slave->keys, options->secret, options->salt);
    if (err != 0) {
        znl_slave_free(slave);
        return err;
    }
    pin_configured_master(slave);
    znl_parcels_init(&slave->held, options->outbox_messages, options->outbox_bytes);
    znl_parcels_init(&slave->early, ZNL_EARLY_MESSAGES, options->outbox_bytes);
    *out = slave;
    return 0;
}

void znl_slave_free(znl_slave *slave)
{
    if (slave == NULL)
        return;
    znl_slave_stop(slave);
    znl_keys_release(slave->keys);
    znl_parcels_fini(&slave->held);
    znl_parcels_fini(&slave->early);
    znl_rota_fini(&slave->rota);
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
    int err = znl_rota_restart(&slave->rota);
    slave->node.options.endpoint = znl_rota_endpoint(&slave->rota);
    if (err != 0)
        return err;
    slave->node.running = 1;
    err = open_link(slave);
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
        on_link_writable(slave);
        say_goodbye(slave);
    }
    node->running = 0;
    znl_node_reject(node, 0, ZNL_E_STOPPED);
    node->counters.outbox_dropped += znl_parcels_discard(&node->outbox, UINT32_MAX);
    node->counters.outbox_dropped += znl_parcels_discard(&slave->held, UINT32_MAX);
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

/* Sends a request; its id is made here. */
static int ask(znl_slave *slave, znl_message *message, uint64_t deadline_ms, znl_waiter waiter)
{
    znl_node *node = &slave->node;
    char request_id[ZNL_REQUEST_ID_TEXT] = {0};
    znl_waiter same;
    int err = znl_pending_add(node->requests, 0, deadline_ms, waiter, request_id);
    if (err != 0)
        return err;
    message->subject = znl_frame_of(request_id, sizeof request_id);
    err = message->call != NULL ? send_call(slave, message) : send_or_queue(slave, message);
    if (err != 0)
        znl_pending_take(node->requests, message->subject, 0, &same);
    return err;
}

int znl_slave_request(znl_slave *slave, const znl_frame *payload, size_t count,
        uint32_t timeout_ms, znl_waiter waiter)
{
    znl_call wrapper;
    znl_message message = {
            .kind = ZNL_KIND_REQUEST, .payload = payload, .payload_count = count};
    int err = usable(slave);
    if (err == 0 && znl_call_is_marked(payload, count))
        err = znl_node_wrap(&message, slave->calls, &wrapper);
    if (err != 0)
        return err;
    return ask(slave, &message, znl_clock_mono_ms() + timeout_ms, waiter);
}

int znl_slave_call(znl_slave *slave, const znl_call *call, const znl_frame *payload,
        size_t count, uint32_t timeout_ms, znl_waiter waiter)
{
    znl_message message = {.kind = ZNL_KIND_REQUEST,
            .payload = payload,
            .payload_count = count,
            .call = call,
            .deadline_ms = znl_clock_mono_ms() + timeout_ms};
    int err = usable(slave);
    return err == 0 ? ask(slave, &message, message.deadline_ms, waiter) : err;
}

int znl_slave_reply(znl_slave *slave, znl_frame request_id, znl_frame service,
        const znl_call *call, const znl_frame *payload, size_t count)
{
    znl_call wrapper;
    znl_message message = {
            .kind = service.size > 0 ? ZNL_KIND_SERVICE_RESPONSE : ZNL_KIND_RESPONSE,
            .subject = request_id,
            .service = service,
            .payload = payload,
            .payload_count = count,
            .call = call};
    int err = usable(slave);
    if (err == 0 && call == NULL && service.size == 0 && znl_call_is_marked(payload, count))
        err = znl_node_wrap(&message, slave->calls, &wrapper);
    if (err != 0)
        return err;
    return message.call != NULL ? send_call(slave, &message) : send_or_queue(slave, &message);
}

int znl_slave_push(znl_slave *slave, znl_frame topic, const znl_frame *payload, size_t count)
{
    znl_message message = {.kind = ZNL_KIND_PUSH,
            .subject = topic,
            .payload = payload,
            .payload_count = count};
    int err = usable(slave);
    return err == 0 ? send_or_queue(slave, &message) : err;
}

znl_calls znl_slave_calls(const znl_slave *slave)
{
    return slave->calls;
}

int znl_slave_master_online(const znl_slave *slave)
{
    return slave->master_online;
}

znl_frame znl_slave_master_id(const znl_slave *slave)
{
    return znl_frame_of(slave->master_id, slave->master_id_size);
}
