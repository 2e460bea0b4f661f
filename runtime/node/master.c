/* master.c - see master.h. SPDX-License-Identifier: MIT */
#include "node/master.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"

#define PROBE_MS 100u /* after an unproven unregister: time for the connection to close */

/* What this role listens to; everything else has no effect (spec, section 4). */
#define KINDS                                                                                  \
    (1u << ZNL_KIND_REGISTER | 1u << ZNL_KIND_UNREGISTER | 1u << ZNL_KIND_HEARTBEAT |          \
            1u << ZNL_KIND_PUSH | 1u << ZNL_KIND_REQUEST | 1u << ZNL_KIND_RESPONSE |           \
            1u << ZNL_KIND_SERVICE_RESPONSE)

struct znl_master {
    znl_node node; /* first */
    znl_keyring *keyring;
    znl_presence *presence;
    znl_timer sweep;
    const char **endpoints; /* owns what options.endpoints points to, texts included; or NULL */
};

/* What a master keeps per slave on line. */
struct peer {
    znl_master *master;
    znl_presence_entry *entry;
    znl_keys *keys;   /* held; NULL in plain mode */
    znl_calls calls;  /* what it last said */
    znl_timer hint;   /* runs after an unproven unregister */
    uint64_t hint_ms; /* when it came */
    int probed;
};

static struct peer *peer_of(znl_presence_entry *entry)
{
    return znl_presence_extra(entry);
}

static znl_wheel *wheel_of(znl_master *master)
{
    return znl_loop_wheel(master->node.loop);
}

static znl_master *master_of_sweep(znl_timer *timer)
{
    return (znl_master *)(void *)((char *)timer - offsetof(znl_master, sweep));
}

/* --- who is on line ---------------------------------------------------------------------------- */

/* Takes a slave off line and ends what waits for it. `reason` NULL: silently (stop). */
static void remove_peer(znl_master *master, znl_presence_entry *entry, const char *reason)
{
    struct peer *peer = peer_of(entry);
    znl_wheel_stop(wheel_of(master), &peer->hint);
    znl_presence_take(master->presence, entry);
    if (reason != NULL) {
        master->node.events.on_peer(master->node.user, entry->map.key, 0, reason);
        znl_node_reject(&master->node, entry->map.hash, ZNL_E_GONE);
    }
    znl_keys_release(peer->keys);
    znl_presence_drop(entry);
}

static uint32_t silence_ms(const znl_master *master)
{
    const znl_node_options *options = &master->node.options;
    return options->heartbeat_timeout_ms > 0 ? options->heartbeat_timeout_ms
                                             : 3 * options->heartbeat_ms;
}

static void sweep(znl_timer *timer)
{
    znl_master *master = master_of_sweep(timer);
    uint64_t now_ms = znl_loop_now_ms(master->node.loop);
    znl_presence_entry *oldest;
    while ((oldest = znl_presence_oldest(master->presence)) != NULL &&
            now_ms - oldest->last_seen_ms > silence_ms(master))
        remove_peer(master, oldest, "silent");
    if (master->node.running) /* an event may have stopped the node */
        znl_wheel_start(wheel_of(master), &master->sweep,
                now_ms + master->node.options.heartbeat_ms, sweep);
}

/* A heartbeat_ack; it announces what this node can do only to a slave that did so itself. */
static int acknowledge(znl_master *master, znl_frame id, znl_keys *keys, znl_calls calls)
{
    znl_message message = {.kind = ZNL_KIND_HEARTBEAT_ACK, .peer = id};
    return znl_node_transmit(&master->node, &message, keys, calls == ZNL_CALLS_YES);
}

/* The first shot, soon: is the connection gone? The second, later: was there any sign of life? */
static void hint_due(znl_timer *timer)
{
    struct peer *peer = (struct peer *)(void *)((char *)timer - offsetof(struct peer, hint));
    znl_master *master = peer->master;
    znl_presence_entry *entry = peer->entry;
    if (entry->last_seen_ms > peer->hint_ms)
        return; /* alive: somebody else said unregister in its name */
    if (peer->probed) {
        remove_peer(master, entry, "unregister");
        return;
    }
    peer->probed = 1;
    if (acknowledge(master, entry->map.key, peer->keys, peer->calls) == ZNL_E_UNREACHABLE) {
        remove_peer(master, entry, "unregister");
        return;
    }
    uint32_t interval_ms = master->node.options.heartbeat_ms;
    if (interval_ms == 0)
        interval_ms = ZNL_HEARTBEAT_MS_DEFAULT;
    znl_wheel_start(wheel_of(master), timer, peer->hint_ms + interval_ms * 3 / 2, hint_due);
}

static void unregister(
        znl_master *master, znl_presence_entry *entry, const znl_control *control)
{
    znl_frame claimed;
    if (entry == NULL)
        return;
    struct peer *peer = peer_of(entry);
    if (peer->keys == NULL ||
            (control->has_proof &&
                    znl_node_verify(&master->node, peer->keys, control, entry->map.key,
                            &claimed) == 0)) {
        remove_peer(master, entry, "unregister");
        return;
    }
    if (znl_timer_running(&peer->hint))
        return;
    peer->probed = 0;
    peer->hint_ms = znl_loop_now_ms(master->node.loop);
    znl_wheel_start(wheel_of(master), &peer->hint, peer->hint_ms + PROBE_MS, hint_due);
}

/* --- in ---------------------------------------------------------------------------------------- */

/* Records a sign of life; *is_new for a slave that comes on line, of which *entry is NULL before. 0 or
 * why not. */
static int touch(znl_master *master, znl_frame id, uint64_t hash, znl_keys *keys,
        znl_presence_entry **entry, int *is_new)
{
    *is_new = 0;
    if (*entry != NULL) {
        znl_presence_refresh(master->presence, *entry, znl_loop_now_ms(master->node.loop));
        return 0;
    }
    int err = znl_presence_touch(
            master->presence, id, hash, znl_loop_now_ms(master->node.loop), entry, is_new);
    if (err != 0) {
        master->node.counters.over_limit++;
        master->node.events.on_trouble(master->node.user, err, "no room for another slave");
        return err;
    }
    if (*is_new) {
        struct peer *peer = peer_of(*entry);
        peer->master = master;
        peer->entry = *entry;
        peer->keys = keys != NULL ? znl_keys_hold(keys) : NULL;
    }
    return 0;
}

/* A register or heartbeat: what the slave can do is known, and it hears back, before any script
 * learns of it and may call it. A register is answered only if it said that the slave knows.
 * Reports trouble: the slave may be gone after it. */
static void greet(znl_master *master, znl_frame id, uint64_t hash, znl_keys *keys,
        const znl_control *control)
{
    znl_node *node = &master->node;
    int is_heartbeat = control->kind == ZNL_KIND_HEARTBEAT;
    znl_calls calls = znl_node_read_extension(node, keys, control, id);
    znl_presence_entry *entry = znl_presence_find(master->presence, id, hash);
    if (entry == NULL)
        return;
    peer_of(entry)->calls = calls;
    if (is_heartbeat)
        node->counters.heartbeats++;
    if (!is_heartbeat && calls != ZNL_CALLS_YES)
        return;
    int err = acknowledge(master, id, keys, calls);
    if (err == ZNL_E_BUSY)
        node->events.on_trouble(node->user, err, "heartbeat_ack not sent, queue full");
}

static void on_link_message(void *user, const znl_frame *frames, size_t count)
{
    znl_master *master = user;
    znl_node *node = &master->node;
    znl_control control;
    node->counters.received++;
    /* libzmq names peers without an id, and those whose id was taken over, with a leading zero
     * byte; no slave is called so (spec, section 1, "Handover"). */
    if (count == 0 || frames[0].size == 0 || frames[0].data[0] == 0) {
        node->counters.unnamed++;
        return;
    }
    znl_frame id = frames[0];
    if (!znl_node_accept(node, KINDS, id, frames, count, 1, &control))
        return;
    uint64_t hash = znl_map_hash(id);
    znl_presence_entry *entry = znl_presence_find(master->presence, id, hash);
    if (control.kind == ZNL_KIND_UNREGISTER) {
        unregister(master, entry, &control);
        return;
    }
    znl_keys *keys = NULL;
    if (node->options.encrypted) {
        znl_frame claimed;
        keys = entry != NULL ? peer_of(entry)->keys
                             : znl_keyring_find(master->keyring, id, hash);
        int reason = keys == NULL ? ZNL_E_NO_KEY
                                  : znl_node_verify(node, keys, &control, id, &claimed);
        if (reason != 0) {
            znl_node_refuse(node, id, control.kind, reason);
            return;
        }
    } else if (control.has_proof && control.proof.size > 0) {
        znl_node_refuse(node, id, control.kind, ZNL_E_PROOF_IN_PLAIN);
        return;
    }
    if (keys != NULL)
        znl_keys_hold(keys); /* an event may remove the slave and with it the keys */
    int is_new;
    if (touch(master, id, hash, keys, &entry, &is_new) != 0)
        goto done;
    int is_greeting = control.kind == ZNL_KIND_HEARTBEAT || control.kind == ZNL_KIND_REGISTER;
    if (is_greeting) {
        greet(master, id, hash, keys, &control);
        entry = znl_presence_find(master->presence, id, hash);
        if (entry == NULL) /* a script removed the slave, or stopped the node */
            goto done;
    }
    int is_capable = peer_of(entry)->calls == ZNL_CALLS_YES;
    if (is_new)
        node->events.on_peer(node->user, id, 1, "message");
    if (is_greeting || !node->running)
        goto done;
    int reason = keys != NULL ? znl_node_open(node, keys, &control, id) : 0;
    if (reason != 0) {
        znl_node_refuse(node, id, control.kind, reason);
        goto done;
    }
    znl_message message = {.kind = control.kind,
            .peer = id,
            .subject = control.subject,
            .service = control.service,
            .payload = control.payload,
            .payload_count = control.payload_count,
            .is_capable = is_capable};
    znl_node_deliver(node, &message, hash);
done:
    znl_keys_release(keys);
}

/* What is known of a slave: whether it reads calls. */
static znl_calls calls_of(znl_master *master, znl_frame id, uint64_t hash)
{
    znl_presence_entry *entry = znl_presence_find(master->presence, id, hash);
    return entry != NULL ? peer_of(entry)->calls : ZNL_CALLS_UNKNOWN;
}

/* The keys for a message to `id`: NULL in plain mode. 0 or ZNL_E_NO_KEY. */
static int keys_for(znl_master *master, znl_frame id, uint64_t hash, znl_keys **keys)
{
    *keys = NULL;
    if (!master->node.options.encrypted)
        return 0;
    *keys = znl_keyring_find(master->keyring, id, hash);
    return *keys != NULL ? 0 : ZNL_E_NO_KEY;
}

static void on_link_writable(void *user)
{
    znl_master *master = user;
    znl_node *node = &master->node;
    for (size_t turn = node->outbox.count; turn > 0; turn--) {
        znl_parcel *parcel = znl_parcels_take(&node->outbox);
        const znl_message *message = &parcel->message;
        uint64_t hash = znl_map_hash(message->peer);
        znl_keys *keys;
        int err = keys_for(master, message->peer, hash, &keys);
        if (message->call != NULL && calls_of(master, message->peer, hash) != ZNL_CALLS_YES)
            err = ZNL_E_UNSUPPORTED; /* another peer has the id by now */
        if (err == 0)
            err = znl_node_transmit(node, message, keys, 0);
        if (err == ZNL_E_BUSY) /* one full slave must not hold up the others: to the end */
            err = znl_parcels_put(&node->outbox, message);
        if (err != 0)
            node->counters.outbox_dropped++;
        znl_parcel_free(parcel);
    }
    znl_link_want_writable(node->link, node->outbox.count > 0);
}

static void on_link_dropped(void *user, int err)
{
    znl_master *master = user;
    master->node.counters.over_limit++;
    master->node.events.on_trouble(master->node.user, err, "message dropped");
}

/* --- life -------------------------------------------------------------------------------------- */

static int copy_endpoints(znl_master *master, const znl_node_options *options)
{
    size_t count = options->endpoint_count, bytes = 0;
    if (count == 0)
        return 0;
    if (count > ZNL_LINK_ENDPOINTS_MAX)
        return ZNL_E_TOO_BIG;
    for (size_t i = 0; i < count; i++)
        bytes += strlen(options->endpoints[i]) + 1;
    master->endpoints = znl_malloc(count * sizeof(char *) + bytes);
    if (master->endpoints == NULL)
        return ZNL_E_NOMEM;
    char *at = (char *)(master->endpoints + count);
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(options->endpoints[i]) + 1;
        memcpy(at, options->endpoints[i], size);
        master->endpoints[i] = at;
        at += size;
    }
    master->node.options.endpoints = master->endpoints;
    master->node.options.endpoint_count = count;
    master->node.options.endpoint = master->endpoints[0];
    return 0;
}

int znl_master_new(znl_master **out, znl_loop *loop, const znl_node_options *options,
        const znl_node_events *events, void *user)
{
    znl_master *master = znl_calloc(1, sizeof *master);
    if (master == NULL)
        return ZNL_E_NOMEM;
    int err = znl_node_init(&master->node, loop, options, events, user);
    if (err == 0)
        err = copy_endpoints(master, options);
    if (err == 0)
        err = znl_presence_new(&master->presence, options->max_peers, sizeof(struct peer));
    if (err == 0)
        err = znl_keyring_new(&master->keyring, options->salt);
    if (err == 0 && options->secret.size > 0)
        err = znl_keyring_set_shared(master->keyring, options->secret);
    if (err != 0) {
        znl_master_free(master);
        return err;
    }
    *out = master;
    return 0;
}

void znl_master_free(znl_master *master)
{
    if (master == NULL)
        return;
    if (master->presence != NULL)
        znl_master_stop(master);
    znl_presence_free(master->presence);
    znl_keyring_free(master->keyring);
    znl_node_fini(&master->node);
    znl_free(master->endpoints);
    znl_free(master);
}

znl_node *znl_master_node(znl_master *master)
{
    return &master->node;
}

int znl_master_start(znl_master *master)
{
    znl_node *node = &master->node;
    if (node->running)
        return 0;
    static const znl_link_events events = {
            .on_message = on_link_message,
            .on_writable = on_link_writable,
            .on_dropped = on_link_dropped,
            .on_refused = znl_node_on_refused,
    };
    int err = znl_node_open_link(node, 1, &events, master);
    if (err != 0)
        return err;
    node->running = 1;
    if (node->options.heartbeat_ms > 0)
        znl_wheel_start(wheel_of(master), &master->sweep,
                znl_clock_mono_ms() + node->options.heartbeat_ms, sweep);
    return 0;
}

void znl_master_stop(znl_master *master)
{
    znl_node *node = &master->node;
    znl_presence_entry *entry;
    if (!node->running)
        return;
    node->running = 0;
    znl_wheel_stop(wheel_of(master), &master->sweep);
    znl_node_reject(node, 0, ZNL_E_STOPPED);
    while ((entry = znl_presence_oldest(master->presence)) != NULL)
        remove_peer(master, entry, NULL);
    node->counters.outbox_dropped += znl_parcels_discard(&node->outbox, UINT32_MAX);
    znl_link_close(node->link, ZNL_STOP_LINGER_MS);
    node->link = NULL;
}

/* --- keys -------------------------------------------------------------------------------------- */

/* The slave on line must use what the keyring says now. */
static void refresh_keys(znl_master *master, znl_frame id, int remove)
{
    uint64_t hash = znl_map_hash(id);
    znl_presence_entry *entry = znl_presence_find(master->presence, id, hash);
    if (entry == NULL || !master->node.options.encrypted)
        return;
    if (remove) {
        remove_peer(master, entry, "key removed");
        return;
    }
    struct peer *peer = peer_of(entry);
    znl_keys_release(peer->keys);
    peer->keys = znl_keys_hold(znl_keyring_find(master->keyring, id, hash));
}

int znl_master_set_key(znl_master *master, znl_frame id, znl_frame secret)
{
    int err = znl_keyring_set(master->keyring, id, secret);
    if (err == 0)
        refresh_keys(master, id, 0);
    return err;
}

int znl_master_remove_key(znl_master *master, znl_frame id)
{
    int err = znl_keyring_remove(master->keyring, id);
    if (err == 0)
        refresh_keys(master, id, 1);
    return err;
}

int znl_master_forget(znl_master *master, znl_frame id, const char *reason)
{
    znl_presence_entry *entry = znl_presence_find(master->presence, id, znl_map_hash(id));
    if (entry == NULL)
        return ZNL_E_NOT_FOUND;
    remove_peer(master, entry, reason);
    return 0;
}

/* --- out --------------------------------------------------------------------------------------- */

/* Sends a request of any kind; its id is made here. */
static int ask(znl_master *master, znl_message *message, znl_keys *keys, uint64_t hash,
        uint64_t deadline_ms, znl_waiter waiter)
{
    znl_node *node = &master->node;
    char request_id[ZNL_REQUEST_ID_TEXT] = {0};
    znl_waiter same;
    znl_pending *table = message->kind == ZNL_KIND_REQUEST ? node->requests : node->services;
    message->subject = znl_frame_of(request_id, sizeof request_id);
    int err = znl_node_check_outgoing(node, message);
    if (err == 0)
        err = znl_pending_add(table, hash, deadline_ms, waiter, request_id);
    if (err != 0)
        return err;
    err = znl_node_transmit(node, message, keys, 0);
    if (err != 0)
        znl_pending_take(table, message->subject, hash, &same);
    return err;
}

static int is_id(znl_frame id)
{
    return id.size > 0 && id.size <= ZNL_ID_BYTES_MAX && id.data[0] != 0;
}

int znl_master_request(znl_master *master, znl_frame id, znl_frame service,
        const znl_frame *payload, size_t count, uint32_t timeout_ms, znl_waiter waiter)
{
    if (!master->node.running)
        return ZNL_E_STOPPED;
    if (!is_id(id))
        return ZNL_E_UNREACHABLE;
    uint64_t hash = znl_map_hash(id);
    znl_keys *keys;
    znl_call wrapper;
    znl_message message = {
            .kind = service.size > 0 ? ZNL_KIND_SERVICE_REQUEST : ZNL_KIND_REQUEST,
            .peer = id,
            .service = service,
            .payload = payload,
            .payload_count = count};
    int err = keys_for(master, id, hash, &keys);
    if (err == 0 && message.kind == ZNL_KIND_REQUEST && znl_call_is_marked(payload, count))
        err = znl_node_wrap(&message, calls_of(master, id, hash), &wrapper);
    if (err != 0)
        return err;
    uint64_t deadline_ms = znl_clock_mono_ms() + timeout_ms;
    return ask(master, &message, keys, hash, deadline_ms, waiter);
}

int znl_master_call(znl_master *master, znl_frame id, const znl_call *call,
        const znl_frame *payload, size_t count, uint32_t timeout_ms, znl_waiter waiter)
{
    if (!master->node.running)
        return ZNL_E_STOPPED;
    uint64_t hash = znl_map_hash(id);
    znl_presence_entry *entry = is_id(id) ? znl_presence_find(master->presence, id, hash)
                                          : NULL;
    if (entry == NULL)
        return ZNL_E_UNREACHABLE;
    if (peer_of(entry)->calls != ZNL_CALLS_YES)
        return ZNL_E_UNSUPPORTED;
    znl_keys *keys;
    znl_message message = {.kind = ZNL_KIND_REQUEST,
            .peer = id,
            .payload = payload,
            .payload_count = count,
            .call = call,
            .deadline_ms = znl_clock_mono_ms() + timeout_ms};
    int err = keys_for(master, id, hash, &keys);
    return err == 0 ? ask(master, &message, keys, hash, message.deadline_ms, waiter) : err;
}

int znl_master_reply(znl_master *master, znl_frame id, znl_frame request_id,
        const znl_call *call, const znl_frame *payload, size_t count)
{
    znl_node *node = &master->node;
    int is_marked = call != NULL || znl_call_is_marked(payload, count);
    uint64_t hash = is_marked || node->options.encrypted ? znl_map_hash(id) : 0;
    znl_keys *keys;
    znl_call wrapper;
    znl_message message = {.kind = ZNL_KIND_RESPONSE,
            .peer = id,
            .subject = request_id,
            .payload = payload,
            .payload_count = count,
            .call = call};
    if (!node->running)
        return ZNL_E_STOPPED;
    int err = keys_for(master, id, hash, &keys);
    if (err == 0 && is_marked)
        err = znl_node_wrap(&message, calls_of(master, id, hash), &wrapper);
    if (err == 0)
        err = znl_node_check_outgoing(node, &message);
    if (err == 0)
        err = znl_node_transmit(node, &message, keys, 0);
    if (err == ZNL_E_BUSY) {
        err = znl_parcels_put(&node->outbox, &message);
        if (err == 0)
            znl_link_want_writable(node->link, 1);
        else
            node->counters.outbox_dropped++;
    }
    return err;
}

int znl_master_publish(znl_master *master, znl_frame topic, const znl_frame *payload,
        size_t count, size_t *sent, size_t *dropped)
{
    znl_node *node = &master->node;
    *sent = *dropped = 0;
    if (!node->running)
        return ZNL_E_STOPPED;
    znl_message message = {.kind = ZNL_KIND_PUBLISH,
            .subject = topic,
            .payload = payload,
            .payload_count = count};
    size_t frame_count = 0;
    int err = znl_node_check_outgoing(node, &message);
    if (err == 0 && !node->options.encrypted)
        err = znl_node_compose(node, &message, &frame_count);
    znl_presence_entry *entry = znl_presence_oldest(master->presence);
    while (err == 0 && entry != NULL) {
        znl_presence_entry *newer = znl_presence_newer(entry);
        message.peer = entry->map.key;
        int outcome = node->options.encrypted
                ? znl_node_transmit(node, &message, peer_of(entry)->keys, 0)
                : znl_node_send_to(node, entry->map.key, frame_count);
        if (outcome == 0)
            ++*sent;
        else
            ++*dropped;
        if (outcome == ZNL_E_UNREACHABLE) {
            remove_peer(master, entry, "unreachable");
            if (!node->options.encrypted) /* whoever heard of it may have sent something */
                err = znl_node_compose(node, &message, &frame_count);
        }
        entry = newer;
    }
    return err;
}

znl_calls znl_master_calls(znl_master *master, znl_frame id)
{
    return calls_of(master, id, znl_map_hash(id));
}

const znl_presence *znl_master_presence(const znl_master *master)
{
    return master->presence;
}
