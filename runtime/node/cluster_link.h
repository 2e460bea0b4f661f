/* cluster_link.h - one connection of the cluster-client protocol, seen from one end (spec cluster-client,
 * sections 2, 3, 6.2, 7.2): packets both ways, requests and their answers, heartbeats, silence. Who
 * leads, which channel it is, and what to do when it ends, is decided above.
 *
 *   ask    waiting -> answered | timed out | given up | the connection closed
 *
 * Application data crosses as bytes: this file neither writes nor reads transcode. Ids of ours come from a
 * counter per connection; an ask is found by the lower bits of its id.
 *
 * Layer: node. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_CLUSTER_LINK_H
#define ZNL_NODE_CLUSTER_LINK_H

#include "base/bytes.h"
#include "codec/cluster.h"
#include "codec/packet.h"
#include "state/pending.h" /* znl_waiter */
#include "transport/loop.h"

typedef struct znl_cluster_link znl_cluster_link;

/* What takes the bytes: a stream, or a test. None of these may call back into the link. */
typedef struct znl_cluster_carrier {
    int (*reserve)(void *carrier, size_t size, uint8_t **at); /* as znl_stream_reserve() */
    void (*commit)(void *carrier, size_t size);
    size_t (*queued)(void *carrier);
} znl_cluster_carrier;

/* A request of the peer. Heartbeats and acknowledgements are dealt with inside. */
typedef struct znl_cluster_request {
    const znl_cluster_message
            *message; /* REGISTER, SUBSCRIBE, UNSUBSCRIBE, VALUE, INVOKE, CANCEL */
    int64_t id;       /* for the answer */
    int32_t timeout_ms;
    znl_frame data;
} znl_cluster_request;

typedef struct znl_cluster_link_events {
    void (*on_request)(void *user, const znl_cluster_request *request);
    /* A request of ours: the answer as it came, or `err`: ZNL_E_TIMEOUT, what the link was closed with. Once. */
    void (*on_answer)(
            void *user, znl_waiter waiter, const znl_cluster_message *message, znl_frame data);
    void (*on_failed)(void *user, znl_waiter waiter, int err);
    /* The peer breaks the protocol (ZNL_E_PROTO, _TOO_BIG, _LIMIT), sends nothing for too long (ZNL_E_TIMEOUT), or asks
     * and does not read (ZNL_E_BUSY): close the connection. Nothing is read any more. */
    void (*on_broken)(void *user, int err, const char *text);
} znl_cluster_link_events;

typedef struct znl_cluster_link_options {
    int is_leader;         /* which end this is */
    uint32_t max_pending;  /* requests of ours; 0: ZNL_CLUSTER_PENDING_DEFAULT */
    size_t max_bytes;      /* of a packet; 0: ZNL_CLUSTER_MESSAGE_BYTES_DEFAULT */
    uint32_t max_depth;    /* of JSON */
    uint32_t heartbeat_ms; /* 0: none, and no silence is noticed */
    int checks_heartbeat;  /* leader: closes who asks nothing for three intervals */
} znl_cluster_link_options;

/* `carrier` and `events` are borrowed and outlive the link. 0 or ZNL_E_NOMEM. */
int znl_cluster_link_new(znl_cluster_link **out, znl_loop *loop,
        const znl_cluster_link_options *options, const znl_cluster_carrier *carrier,
        void *carrier_user, const znl_cluster_link_events *events, void *user);

/* The connection has ended: what waits fails with `err`, from inside this call; nothing is sent any more. */
void znl_cluster_link_close(znl_cluster_link *link, int err);
/* After that; not from inside an event of it. Accepts NULL. */
void znl_cluster_link_free(znl_cluster_link *link);

/* Bytes that arrived; events inside, and inside those the link may be closed. `data` may be changed. */
void znl_cluster_link_receive(znl_cluster_link *link, const void *data, size_t size);
/* While on, what arrives is kept and no event comes: the connection has no channel yet (at most max_bytes; the
 * caller stops reading). Off: what was kept is dealt with, from the loop. */
void znl_cluster_link_hold(znl_cluster_link *link, int on);
/* The end of the leader: takes over channel's numbers for one that was accepted before its channel was known. */
void znl_cluster_link_configure(
        znl_cluster_link *link, uint32_t heartbeat_ms, int checks_heartbeat);

/* A follower is registered: heartbeats begin; they are sent while calls wait, too. */
void znl_cluster_link_beat(znl_cluster_link *link);

/* --- asking: ZNL_E_LIMIT (max_pending), ZNL_E_CLOSED, ZNL_E_BUSY (no room), ZNL_E_TOO_BIG, ZNL_E_PROTO (not UTF-8),
 * ZNL_E_NOMEM: nothing was sent. ------------------------------------------------------------------------ */

/* Sends `message` with `data` and waits for its answer: 0 and *id (may be NULL); on_answer or on_failed follows,
 * never from inside this call. timeout_ms 0: for ever. With owner NULL in `waiter` nobody is told. */
int znl_cluster_link_ask(znl_cluster_link *link, const znl_cluster_message *message,
        znl_frame data, uint32_t timeout_ms, znl_waiter waiter, int64_t *id);
/* The same in two steps, so that the data is written once: room for `size` bytes of data at *at, to be filled at
 * once; then ask with data.data == *at. */
int znl_cluster_link_room(
        znl_cluster_link *link, const znl_cluster_message *message, size_t size, uint8_t **at);
/* Sends a request that nobody waits for: subscribe, unsubscribe, a oneway invoke, cancel (of `id`). */
int znl_cluster_link_tell(znl_cluster_link *link, const znl_cluster_message *message,
        znl_frame data, uint32_t timeout_ms, int64_t id);
/* Gives a request up: no event follows. Harmless when over. */
void znl_cluster_link_give_up(znl_cluster_link *link, int64_t id);

/* A value for a subscriber: `text` as znl_cluster_write() made it for a VALUE with that key. Its acknowledgement is waited for and a
 * missing one counted. */
int znl_cluster_link_push(
        znl_cluster_link *link, znl_frame text, znl_frame value, uint32_t timeout_ms);

/* --- answering --------------------------------------------------------------------------------------- */

/* An answer to request `id`, `data` never empty where the original dies of that. Without room it is kept (at most
 * ZNL_STREAM_QUEUE_BYTES_DEFAULT, then on_broken with ZNL_E_BUSY). 0, ZNL_E_CLOSED, ZNL_E_NOMEM, ZNL_E_TOO_BIG. */
int znl_cluster_link_answer(znl_cluster_link *link, int64_t id, int32_t timeout_ms,
        const znl_cluster_message *message, znl_frame data);
void znl_cluster_link_writable(znl_cluster_link *link); /* the carrier has room again */

/* --- looking ------------------------------------------------------------------------------------------ */

#define ZNL_CLUSTER_LINK_COUNTERS(X)                                                           \
    X(received) /* packets */                                                                  \
    X(sent)     /* packets */                                                                  \
    X(asked)    /* requests of ours that wait for an answer, without pushes */                 \
    X(answers)                                                                                 \
    X(timeouts)   /* of ours, without pushes */                                                \
    X(pushed)     /* values sent */                                                            \
    X(taken)      /* values acknowledged */                                                    \
    X(untaken)    /* not in time */                                                            \
    X(heartbeats) /* of the peer */                                                            \
    X(late)       /* answers to requests that are over, or were never asked */                 \
    X(unknown)    /* requests of no known type */

#define ZNL_CLUSTER_LINK_COUNTER(name) uint64_t name;
typedef struct znl_cluster_link_counters {
    ZNL_CLUSTER_LINK_COUNTERS(ZNL_CLUSTER_LINK_COUNTER)
} znl_cluster_link_counters;
#undef ZNL_CLUSTER_LINK_COUNTER

void znl_cluster_link_count(const znl_cluster_link *link, znl_cluster_link_counters *out);
uint32_t znl_cluster_link_pending(const znl_cluster_link *link);

#endif
