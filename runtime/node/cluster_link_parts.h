/* cluster_link_parts.h - what the files of cluster_link.h share: the connection, and how a packet leaves it.
 *
 * Layer: node, private to cluster_link*.c. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_CLUSTER_LINK_PARTS_H
#define ZNL_NODE_CLUSTER_LINK_PARTS_H

#include "base/limits.h"
#include "node/cluster_link.h"

/* A request of ours that waits: at the place that the lower bits of its id name. */
typedef struct znl_cluster_ask {
    znl_timer timer;
    znl_cluster_link *link;
    znl_waiter waiter;
    int64_t id; /* 0: the place is free */
} znl_cluster_ask;

/* A value that is not acknowledged: they stand in a row, in the order of their ids and deadlines. */
typedef struct znl_cluster_push {
    uint64_t deadline_ms;
    uint32_t id;
    uint32_t is_taken; /* only waits for those before it */
} znl_cluster_push;

struct znl_cluster_link {
    znl_loop *loop;
    const znl_cluster_carrier *carrier;
    void *carrier_user;
    const znl_cluster_link_events *events;
    void *user;
    uint32_t max_pending, max_depth;
    size_t max_bytes;
    uint8_t is_leader;
    uint8_t has_channel; /* of a leader: configured */
    uint8_t is_closed;
    uint8_t is_broken;  /* nothing is read any more */
    uint8_t is_held;    /* nothing is handed up */
    uint8_t is_flooded; /* on_broken is due */
    uint8_t owes_heartbeat;
    uint32_t last_id; /* of ours */

    znl_packet_reader reader;
    znl_buffer scratch; /* what znl_cluster_read() puts together */
    znl_buffer out;     /* the text of what is sent */
    znl_buffer held;    /* what arrived while it was held */
    znl_buffer kept;    /* answers that wait for the carrier, whole packets from kept_at on */
    size_t kept_at;
    znl_deferred later; /* to go on after a hold; on_broken */

    /* cluster_link_asks.c */
    znl_cluster_ask *asks;
    uint32_t ask_capacity; /* a power of two, or 0 */
    uint32_t ask_count;

    /* cluster_link_pushes.c */
    znl_cluster_push *pushes;
    uint32_t push_capacity; /* a power of two, or 0 */
    uint32_t push_first, push_count;
    znl_timer push_timer;

    /* heartbeats */
    znl_timer timer;
    uint32_t heartbeat_ms; /* 0: off */
    uint32_t timeout_ms;   /* that heartbeats say */
    uint64_t planned_ms;
    uint64_t last_seen_ms; /* of any byte of the peer */
    uint64_t last_beat_ms; /* of ours */

    znl_cluster_link_counters counters;
};

static inline uint64_t znl_cluster_now(const znl_cluster_link *link)
{
    return znl_loop_now_ms(link->loop);
}

static inline int32_t znl_cluster_wire_timeout(uint32_t timeout_ms)
{
    return timeout_ms > INT32_MAX ? INT32_MAX : (int32_t)timeout_ms;
}

/* --- cluster_link.c ---------------------------------------------------------------------------------- */

typedef struct znl_cluster_head {
    int is_response;
    int64_t id;
    int32_t timeout_ms;
} znl_cluster_head;

/* The text of a message, borrowed until the next is composed. 0, ZNL_E_NOMEM, ZNL_E_PROTO. */
int znl_cluster_compose(
        znl_cluster_link *link, const znl_cluster_message *message, znl_frame *text);
/* Room for a packet at *at. 0, or what asking fails with: nothing is sent. */
int znl_cluster_reserve(znl_cluster_link *link, znl_frame text, znl_frame data, uint8_t **at);
/* Fills that room, and the packet leaves. */
void znl_cluster_send(znl_cluster_link *link, uint8_t *at, const znl_cluster_head *head,
        znl_frame text, znl_frame data);

/* --- cluster_link_asks.c ----------------------------------------------------------------------------- */

/* The next id of ours; its place among the asks is free. */
uint32_t znl_cluster_next_id(znl_cluster_link *link);
/* The answer to an ask; 0 when there is none with that id. */
int znl_cluster_take_answer(
        znl_cluster_link *link, int64_t id, const znl_cluster_message *message, znl_frame data);
void znl_cluster_close_asks(znl_cluster_link *link, int err);

/* --- cluster_link_pushes.c --------------------------------------------------------------------------- */

/* A value is acknowledged; 0 when none with that id waits for it. */
int znl_cluster_take_push(znl_cluster_link *link, int64_t id);
void znl_cluster_close_pushes(znl_cluster_link *link);

#endif
