/* cluster_channel.h - the subscriptions of a channel at its leader (spec cluster-client, section 6.4): who wants
 * which key, the last value of each, and its way to every subscriber.
 *
 * A value is encoded once and remembered as bytes. A member whose queue is full gets nothing more until it has
 * drained, then of each key the newest value: what it missed in between is counted, never queued.
 *
 * Layer: node. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_CLUSTER_CHANNEL_H
#define ZNL_NODE_CLUSTER_CHANNEL_H

#include "node/cluster_link.h"

typedef struct znl_cluster_channel znl_cluster_channel;
typedef struct znl_cluster_member znl_cluster_member; /* a follower, or the process itself */

typedef struct znl_cluster_channel_options {
    int is_broadcast;             /* 0: each value to one subscriber at random, no replay */
    uint32_t response_timeout_ms; /* of acknowledgements */
    uint32_t max_keys;            /* of the channel; 0: ZNL_CLUSTER_KEYS_DEFAULT */
    uint32_t max_member_keys;     /* of one follower; 0: ZNL_CLUSTER_MEMBER_KEYS_DEFAULT */
    size_t max_value_bytes; /* remembered in all, with the keys; 0: ZNL_CLUSTER_VALUES_BYTES_DEFAULT */
    size_t max_member_bytes; /* queued to a member before it counts as slow; 0: ZNL_CLUSTER_QUEUE_BYTES_DEFAULT */
} znl_cluster_channel_options;

/* From inside znl_cluster_channel_subscribe() and _publish(). Members may leave, subscribe and unsubscribe inside, and
 * values may be published. */
typedef struct znl_cluster_channel_events {
    /* The first subscription of a key in the channel's life: subscribe the real client. `reg`: JSON, {NULL, 0}: absent.
     * 0; ZNL_E_NOMEM: nothing happened, and the key is as unknown as before. */
    int (*on_key)(void *user, znl_frame key, znl_frame reg);
    /* A value for a member without a link: the process itself. Borrowed until the key has another. */
    void (*on_local)(void *user, void *member_user, znl_frame key, znl_frame value);
} znl_cluster_channel_events;

/* `events` is borrowed and outlives the channel. 0 or ZNL_E_NOMEM. */
int znl_cluster_channel_new(znl_cluster_channel **out,
        const znl_cluster_channel_options *options, const znl_cluster_channel_events *events,
        void *user);
/* Members must have left; not from inside an event. Accepts NULL. */
void znl_cluster_channel_free(znl_cluster_channel *channel);

/* `link` NULL: the process itself. The link must outlive the member. 0 or ZNL_E_NOMEM. */
int znl_cluster_channel_join(znl_cluster_member **out, znl_cluster_channel *channel,
        znl_cluster_link *link, void *member_user);
void znl_cluster_channel_leave(znl_cluster_member *member); /* accepts NULL */

/* Adds the member to the key and sends it the last value, if any; also when it is one already. `key` {NULL, 0}: computed
 * from `reg`, which is no longer than a key then. The key stays when nobody wants it any more: its real subscription does, too.
 * 0, ZNL_E_LIMIT (keys, their size, what is remembered; nested too deeply), ZNL_E_NOMEM, ZNL_E_PROTO (`reg` is no JSON,
 * or `key` is not UTF-8). */
int znl_cluster_channel_subscribe(znl_cluster_member *member, znl_frame key, znl_frame reg);
void znl_cluster_channel_unsubscribe(znl_cluster_member *member, znl_frame key, znl_frame reg);

/* A new value of a key, to all who want it (or one); remembered. Returns to how many it was sent or will be. Or an error:
 * ZNL_E_LIMIT (max_value_bytes) and ZNL_E_NOMEM: not remembered, nor is the one before, but it was sent to whom that was
 * possible; ZNL_E_NOT_FOUND (nobody ever subscribed), ZNL_E_INVALID (no bytes), ZNL_E_TOO_BIG (for a packet). */
int znl_cluster_channel_publish(znl_cluster_channel *channel, znl_frame key, znl_frame value);

/* The last value of a key. 0 or ZNL_E_NOT_FOUND. Borrowed until the next call, and not to be published. */
int znl_cluster_channel_last(
        const znl_cluster_channel *channel, znl_frame key, znl_frame *value);

/* The member's connection has room again: sends what it missed. After znl_cluster_link_writable(). */
void znl_cluster_channel_writable(znl_cluster_member *member);

/* Walks the keys for people: `index` from 0; 0 or ZNL_E_NOT_FOUND. */
typedef struct znl_cluster_key_info {
    znl_frame key;
    uint32_t members;
    uint64_t published;
    size_t value_bytes;
} znl_cluster_key_info;
int znl_cluster_channel_key(
        const znl_cluster_channel *channel, uint32_t index, znl_cluster_key_info *out);

#define ZNL_CLUSTER_CHANNEL_COUNTERS(X)                                                        \
    X(published)   /* values */                                                                \
    X(delivered)   /* to members */                                                            \
    X(conflated)   /* values a slow member did not get, because a newer one came */            \
    X(undelivered) /* lost: no memory, no room */                                              \
    X(slow)        /* times a member was found slow */

#define ZNL_CLUSTER_CHANNEL_COUNTER(name) uint64_t name;
typedef struct znl_cluster_channel_counters {
    ZNL_CLUSTER_CHANNEL_COUNTERS(ZNL_CLUSTER_CHANNEL_COUNTER)
    uint32_t keys, members;
    size_t value_bytes;
} znl_cluster_channel_counters;
#undef ZNL_CLUSTER_CHANNEL_COUNTER

void znl_cluster_channel_count(
        const znl_cluster_channel *channel, znl_cluster_channel_counters *out);

#endif
