/* node.h - what both sides of ZNL v1 share: options, events, counters, and one message in or out
 * with security applied.
 *
 * The roles stand in master.h and slave.h; each begins with a `znl_node`. A node hands up what it
 * has checked; nothing that failed a check reaches on_request, on_reply or on_message.
 *
 * Layer: node. One loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_NODE_H
#define ZNL_NODE_NODE_H

#include "base/limits.h"
#include "codec/control.h"
#include "node/parcels.h"
#include "node/refusals.h"
#include "security/keyring.h"
#include "security/replay.h"
#include "state/pending.h"
#include "transport/link.h"
#include "transport/loop.h"

typedef struct znl_node_events {
    /* A request or service request to answer with znl_master_reply() or znl_slave_reply(). */
    void (*on_request)(void *user, const znl_message *message);
    /* A pending request ended with an answer, or with an error. */
    void (*on_reply)(void *user, znl_waiter waiter, const znl_message *message);
    void (*on_failed)(void *user, znl_waiter waiter, int err);
    /* A publish or push; and, when observed, requests and responses beside the calls above. */
    void (*on_message)(void *user, const znl_message *message);
    /* Every message before any check, when observed. Nothing in it may be trusted. */
    void (*on_raw)(void *user, znl_frame peer, const znl_frame *frames, size_t count);
    /* Master: a slave came or went. Slave: the master did (id may be empty). `reason` is static. */
    void (*on_peer)(void *user, znl_frame id, int online, const char *reason);
    /* A message was refused: `reason` is a ZNL_E_ constant. */
    void (*on_auth_failed)(void *user, znl_frame peer, znl_kind kind, int reason);
    /* Something the operator should know: `text` is borrowed. */
    void (*on_trouble)(void *user, int err, const char *text);
} znl_node_events;

/* Strings and frames are copied by the constructors. Times in milliseconds. */
typedef struct znl_node_options {
    znl_link_engine engine;
    znl_frame id;
    const char *endpoint;
    znl_curve *curve; /* held by the node; NULL: the link is not encrypted */
    int encrypted;
    znl_frame secret; /* slave: its key; master: the shared key, may be empty */
    znl_frame salt;
    int require_digest;
    uint32_t heartbeat_ms;         /* 0: off */
    uint32_t heartbeat_timeout_ms; /* 0: derived */
    uint32_t max_pending;          /* 0: ZNL_PENDING_MAX */
    uint32_t max_skew_ms;
    uint32_t replay_window_ms;
    uint32_t start_allowance_ms; /* how old a timestamp may be at the node's creation */
    uint32_t max_peers;
    uint32_t max_replay_nonces;
    uint32_t max_frame_bytes, max_frames, max_message_bytes;
    uint32_t send_hwm, recv_hwm;
    uint32_t outbox_messages, outbox_bytes;
    /* None: `endpoint` alone, else that is not looked at. Master: all of them are bound. Slave: where else to
     * go when the master does not answer; heartbeats must be on. */
    const char *const *endpoints;
    size_t endpoint_count;
    const znl_frame
            *master_ids; /* slave: the only masters to believe; none: any with the key */
    size_t master_id_count;
} znl_node_options;

#define ZNL_NODE_COUNTERS(X)                                                                   \
    X(received)       /* messages that arrived */                                              \
    X(sent)           /* messages given to the link */                                         \
    X(requests_in)    /* requests handed to a handler */                                       \
    X(replies_in)     /* answers that ended a pending request */                               \
    X(late_replies)   /* answers nobody waits for any more */                                  \
    X(timeouts)       /* requests without an answer in time */                                 \
    X(rejected)       /* pending requests ended by rebuild, removal or stop */                 \
    X(auth_failed)    /* messages refused by a proof, envelope or key check */                 \
    X(ignored)        /* not a control message, or not one for this role */                    \
    X(unnamed)        /* routing id starts with a zero byte: a ghost or an anonymous peer */   \
    X(over_limit)     /* dropped for a limit on size, names or peers */                        \
    X(busy)           /* sends that found the queue full */                                    \
    X(unreachable)    /* sends without a connection */                                         \
    X(outbox_dropped) /* messages lost because the outbox was full or the link rebuilt */      \
    X(malformed)      /* calls, or answers to them, that cannot be read */                     \
    X(heartbeats)     /* heartbeats received (master) or sent (slave) */                       \
    X(acks)           /* heartbeats acknowledged (slave) */                                    \
    X(rebuilds)       /* links made anew after a missing acknowledgement (slave) */            \
    X(failovers)      /* those of them that went to another endpoint (slave) */                \
    X(turned_away)    /* connections that ended before any message: on_refused of the link */

typedef struct znl_node_counters {
#define ZNL_NODE_COUNTER(name) uint64_t name;
    ZNL_NODE_COUNTERS(ZNL_NODE_COUNTER)
#undef ZNL_NODE_COUNTER
} znl_node_counters;

typedef struct znl_node {
    znl_loop *loop;
    znl_link *link; /* NULL while stopped */
    znl_node_options options;
    uint8_t *names; /* owns the bytes that `options` points to */
    znl_node_events events;
    void *user;
    int running;
    int observe_raw;        /* call on_raw */
    uint32_t observe_kinds; /* bit 1 << kind: also call on_message */
    znl_replay *replay;     /* NULL in plain mode */
    int64_t created_unix_ms; /* timestamps far before this are refused: replays across restarts */
    znl_pending *requests;
    znl_pending *services;
    znl_parcels outbox;
    znl_node_counters counters;
    znl_refusals refusals;
    size_t failed;                 /* of several endpoints the one that could not be bound */
    uint8_t iv[ZNL_AEAD_IV_BYTES]; /* random part and a counter: no two alike */
    uint32_t iv_count;
    znl_buffer out_frames, in_frames, call_frames; /* arrays of znl_frame */
    znl_buffer sealed, opened;
    uint8_t subject_scratch[ZNL_SUBJECT_BYTES_MAX];
    uint8_t call_header[ZNL_CALL_HEADER_BYTES_MAX];
    uint8_t proof_out[ZNL_PROOF_BYTES_MAX];
    uint8_t proof_in[ZNL_PROOF_BYTES_MAX];
} znl_node;

/* Copies options and makes the tables. On failure znl_node_fini() still accepts it. */
int znl_node_init(znl_node *node, znl_loop *loop, const znl_node_options *options,
        const znl_node_events *events, void *user);
void znl_node_fini(znl_node *node);

/* Opens node->link with the node's limits; `user` is passed to the events. */
int znl_node_open_link(
        znl_node *node, int is_router, const znl_link_events *events, void *user);

/* For on_refused of those events, when `user` begins with the node. */
void znl_node_on_refused(void *user, int err, const char *text);

/* Seals, signs and gives the message to the link now. `peer` of the message is the slave's id on a
 * master, empty on a slave; `keys` NULL: plain. A register, heartbeat or heartbeat_ack that
 * `announces` carries what this node can do. 0, ZNL_E_BUSY, ZNL_E_UNREACHABLE, ZNL_E_STOPPED,
 * ZNL_E_TOO_BIG, ZNL_E_NOMEM. */
int znl_node_transmit(
        znl_node *node, const znl_message *message, znl_keys *keys, int announces);

/* The same for many peers of a plain node: the frames are put together once, as *count with the name of
 * the peer, which znl_node_send_to() fills in; they last until the next message. `message` has no call,
 * and its peer does not matter. 0 or ZNL_E_NOMEM. */
int znl_node_compose(znl_node *node, const znl_message *message, size_t *count);
int znl_node_send_to(znl_node *node, znl_frame peer, size_t count);

/* Checks names and sizes before anything is queued: 0, ZNL_E_INVALID (a plain payload that reads
 * as a proof; no route) or ZNL_E_TOO_BIG. */
int znl_node_check_outgoing(const znl_node *node, const znl_message *message);

/* How a request or its answer must go to a peer, by what is known of that peer. A payload without
 * call that begins with the call marker is wrapped into *wrapper for a peer that would misread it.
 * 0, ZNL_E_UNSUPPORTED (a call to a peer without), or ZNL_E_INVALID (unknown whether it would). */
int znl_node_wrap(znl_message *message, znl_calls peer, znl_call *wrapper);

/* The first look at a message: splits frames[skip ..], shows it to whoever observes, and
 * drops what is not among `kinds` (bits 1 << kind) or has names past the limits. True when the
 * message is to be checked further. */
int znl_node_accept(znl_node *node, uint32_t kinds, znl_frame peer, const znl_frame *frames,
        size_t count, size_t skip, znl_control *control);

/* Steps 2 to 13 of spec section 7 for a message claimed to come from `peer` (empty: unknown).
 * 0 or the reason. *claimed is the id inside the proof, valid until the next call. */
int znl_node_verify(znl_node *node, znl_keys *keys, const znl_control *control, znl_frame peer,
        znl_frame *claimed);

/* What a register, heartbeat or heartbeat_ack that passed its checks says of its sender. In
 * encrypted mode what is said without a good proof is refused and reported, and means no. */
znl_calls znl_node_read_extension(
        znl_node *node, znl_keys *keys, const znl_control *control, znl_frame peer);

/* Opens a sealed payload in place of control->payload. 0 or the reason. */
int znl_node_open(znl_node *node, znl_keys *keys, znl_control *control, znl_frame sender);

/* True when the kind carries a payload that encrypted mode seals. */
int znl_kind_has_payload(znl_kind kind);

/* Hands a checked message up: requests, replies, publishes and pushes. A marked payload of a capable
 * sender is taken apart first. `peer_hash` names the sender for the pending tables (0 on a slave). */
void znl_node_deliver(znl_node *node, znl_message *message, uint64_t peer_hash);

/* Counts and reports a refusal. */
void znl_node_refuse(znl_node *node, znl_frame peer, znl_kind kind, int reason);

/* Ends pending requests of that peer (0: all) with `err`. */
void znl_node_reject(znl_node *node, uint64_t peer_hash, int err);

#endif
