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
    void (*await)(void *carrier, size_t below); /* as znl_stream_await() */
} znl_cluster_carrier;

/* A request of the peer. Heartbeats and acknowledgements are dealt with inside; a VALUE without data is
 * acknowledged and not handed up. Borrowed until the event returns. */
typedef struct znl_cluster_request {
    const znl_cluster_message
            *message; /* REGISTER, SUBSCRIBE, UNSUBSCRIBE, VALUE, INVOKE, CANCEL */
    int64_t id;       /* for the answer */
    int32_t timeout_ms;
    znl_frame data;
} znl_cluster_request;

typedef struct znl_cluster_link_events {
    void (*on_request)(void *user, const znl_cluster_request *request);
    /* A request of ours: the answer as it came, or `err`: ZNL_E_TIMEOUT, what the link was closed with. Once.
     * on_failed comes from the loop, or from znl_cluster_link_close(). */
    void (*on_answer)(
            void *user, znl_waiter waiter, const znl_cluster_message *message, znl_frame data);
    void (*on_failed)(void *user, znl_waiter waiter, int err);
    /* The peer breaks the protocol (ZNL_E_PROTO, _TOO_BIG, _LIMIT), sends nothing for too long (ZNL_E_TIMEOUT), asks and
     * does not read (ZNL_E_BUSY), or there is no memory for what it sends or is owed (ZNL_E_NOMEM): close the connection.
     * Once; from the loop, znl_cluster_link_receive() or znl_cluster_link_writable(). Nothing is read any more. */
    void (*on_broken)(void *user, int err, const char *text);
} znl_cluster_link_events;

typedef struct znl_cluster_link_options {
    int is_leader;        /* which end this is */
    uint32_t max_pending; /* requests of ours; 0: ZNL_CLUSTER_PENDING_DEFAULT */
    size_t max_bytes;     /* of a packet, either way; 0: ZNL_CLUSTER_MESSAGE_BYTES_DEFAULT */
    uint32_t max_depth;   /* of JSON; 0: ZNL_TRANSCODE_DEPTH_DEFAULT */
    uint32_t
            heartbeat_ms; /* follower: see znl_cluster_link_beat(); 0: none, and no silence is noticed */
    uint32_t
            timeout_ms; /* follower: what its heartbeats say, as all requests of the originals do */
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
/* While on, what arrives is kept and no event comes; the caller stops reading meanwhile: beyond max_bytes the link is
 * broken (ZNL_E_LIMIT). Off: what was kept is dealt with, from the loop. */
void znl_cluster_link_hold(znl_cluster_link *link, int on);
/* The end of the leader: the connection has a channel. Until then packets of the peer are at most
 * ZNL_CLUSTER_UNREGISTERED_BYTES, its heartbeats are not answered and silence is not noticed. With `checks_heartbeat` a
 * peer that sends nothing at all for three intervals is broken (ZNL_E_TIMEOUT). */
void znl_cluster_link_configure(
        znl_cluster_link *link, uint32_t heartbeat_ms, int checks_heartbeat);

/* A follower is registered: heartbeats begin; they are sent while calls wait, too. A leader that does not
 * answer is noticed after two to three intervals (ZNL_E_TIMEOUT). */
void znl_cluster_link_beat(znl_cluster_link *link);

/* --- asking: ZNL_E_LIMIT (max_pending), ZNL_E_CLOSED, ZNL_E_BUSY (no room), ZNL_E_TOO_BIG, ZNL_E_PROTO (not UTF-8),
 * ZNL_E_NOMEM: nothing was sent. No event comes from inside these. `data` is copied once, to where it leaves from.
 * ------------------------------------------------------------------------------------------------------- */

/* Sends `message` with `data` and waits for its answer: 0 and *id (may be NULL); on_answer or on_failed follows.
 * timeout_ms 0: for ever. With owner NULL in `waiter` nobody is told. */
int znl_cluster_link_ask(znl_cluster_link *link, const znl_cluster_message *message,
        znl_frame data, uint32_t timeout_ms, znl_waiter waiter, int64_t *id);
/* Sends a request that nobody waits for: subscribe, unsubscribe, a oneway invoke; cancel of the request `id`,
 * which is not looked at for the others. */
int znl_cluster_link_tell(znl_cluster_link *link, const znl_cluster_message *message,
        znl_frame data, uint32_t timeout_ms, int64_t id);
/* Gives a request up: no event follows. Harmless when over. */
void znl_cluster_link_give_up(znl_cluster_link *link, int64_t id);

/* A value for a subscriber: `text` as znl_cluster_write() made it for a VALUE with that key. Its acknowledgement is
 * waited for and a missing one counted; timeout_ms 0: for ever. Of more than max_pending the oldest counts as missing. */
int znl_cluster_link_push(
        znl_cluster_link *link, znl_frame text, znl_frame value, uint32_t timeout_ms);

/* Bytes on their way to the peer, here and in the carrier. */
size_t znl_cluster_link_queued(const znl_cluster_link *link);
/* znl_cluster_link_writable() is to be called once the carrier holds at most that many. */
void znl_cluster_link_await(znl_cluster_link *link, size_t below);

/* --- answering --------------------------------------------------------------------------------------- */

/* An answer to request `id`. Without room it is kept, at most ZNL_STREAM_QUEUE_BYTES_DEFAULT of them (or one): then ZNL_E_BUSY,
 * and on_broken follows from the loop. 0, ZNL_E_CLOSED, ZNL_E_NOMEM, ZNL_E_TOO_BIG; ZNL_E_INVALID: REGISTERED or RESULT
 * without data, of which originals die. */
int znl_cluster_link_answer(znl_cluster_link *link, int64_t id, int32_t timeout_ms,
        const znl_cluster_message *message, znl_frame data);
void znl_cluster_link_writable(znl_cluster_link *link); /* the carrier has room again */

/* --- looking ------------------------------------------------------------------------------------------ */

#define ZNL_CLUSTER_LINK_COUNTERS(X)                                                           \
    X(received)   /* packets */                                                                \
    X(sent)       /* packets */                                                                \
    X(asked)      /* requests of ours that want an answer, without pushes */                   \
    X(answers)    /* to those */                                                               \
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
uint32_t znl_cluster_link_pending(const znl_cluster_link *link); /* asks that wait */

#endif
