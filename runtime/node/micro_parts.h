/* micro_parts.h - what the files of micro.h share: the connection, and how a frame leaves it.
 *
 * Layer: node, private to micro*.c. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_MICRO_PARTS_H
#define ZNL_NODE_MICRO_PARTS_H

#include "base/limits.h"
#include "codec/modem.h"
#include "node/micro.h"
#include "state/slots.h"

/* How much of a stream of ours waits to be taken. */
enum znl_micro_fill { ZNL_FILL_EMPTY, ZNL_FILL_SOME, ZNL_FILL_FULL, ZNL_FILL_OVERFULL };

struct znl_micro {
    znl_loop *loop;
    const znl_micro_carrier *carrier;
    void *carrier_user;
    const znl_micro_events *events;
    void *user;
    znl_micro_options options;
    znl_buffer own; /* when no scratch is given */
    int is_closed, is_paused;
    int has_backlog; /* something waits for the carrier: see znl_micro_writable() */

    /* micro_asks.c */
    znl_slots asks;
    uint64_t uses;     /* ids given so far; starts again, see next_id() */
    uint32_t waiting;  /* asks that are not only there until their abort frame can be sent */
    uint32_t fills[4]; /* streams by how full they are */

    /* micro_jobs.c */
    znl_slots jobs;
    uint64_t serial;     /* of the last job */
    uint64_t multiplier; /* of the hash; random: the peer chooses the ids */
    uint32_t *buckets;   /* slot + 1 of the first job, or 0; a power of two of them */
    uint32_t bucket_bits;
    uint32_t credit_waits; /* jobs that wait for a grant */
    uint32_t room_next;    /* whose turn it is when there is room */
    size_t held_bytes;     /* of answers that wait for the carrier */
    int is_flooded;        /* on_flooded is due, or has been called */

    /* heartbeats */
    znl_timer timer;
    uint64_t planned_ms, next_beat_ms, next_check_ms;
    uint64_t last_beat_ms, last_seen_ms;
    uint64_t asked_ms; /* the last ping that asked for a sign of life; 0: none */
    int has_beaten, owes_heartbeat;

    znl_micro_counters counters;
};

static inline uint64_t znl_micro_now(const znl_micro *micro)
{
    return znl_loop_now_ms(micro->loop);
}

/* An empty buffer for one frame. */
static inline znl_buffer *znl_micro_compose(znl_micro *micro)
{
    znl_buffer *out = micro->options.scratch != NULL ? micro->options.scratch : &micro->own;
    out->size = 0;
    return out;
}

/* Gives the frame in `out` to the carrier; as znl_ws_send(). */
int znl_micro_send(znl_micro *micro, const znl_buffer *out);
/* After a frame: large memory is not kept. */
void znl_micro_composed(znl_micro *micro);

/* Stops or goes on reading, as the streams want it. */
void znl_micro_pace(znl_micro *micro);

/* --- micro_asks.c ----------------------------------------------------------------------------------- */

void znl_micro_init_asks(znl_micro *micro, uint32_t limit);
/* An id of ours; `slot` ZNL_SLOTS_MAX - 1 when no answer is expected. */
int64_t znl_micro_next_id(znl_micro *micro, uint32_t slot);
void znl_micro_take_response(znl_micro *micro, const znl_modem *frame);
/* The response to that id cannot be read: it ends with `err`. */
void znl_micro_fail_response(znl_micro *micro, const znl_modem *frame, int err);
/* Sends what waits; 0, or the carrier is BUSY again. */
int znl_micro_flush_asks(znl_micro *micro);
void znl_micro_close_asks(znl_micro *micro, int err);

/* --- micro_jobs.c ----------------------------------------------------------------------------------- */

void znl_micro_init_jobs(znl_micro *micro, uint32_t limit);
void znl_micro_take_request(znl_micro *micro, const znl_modem *frame);
/* Refuses a request that never became a job. */
void znl_micro_refuse_frame(
        znl_micro *micro, const znl_modem *frame, const znl_micro_refusal *refusal);
void znl_micro_take_abort(znl_micro *micro, const znl_modem *frame);
void znl_micro_take_grant(znl_micro *micro, const znl_modem *frame);
int znl_micro_flush_jobs(znl_micro *micro);
void znl_micro_close_jobs(znl_micro *micro);

/* --- micro.c ---------------------------------------------------------------------------------------- */

/* A heartbeat of the peer has come. */
void znl_micro_beaten(znl_micro *micro);

/* The peer does not read what it asks for: on_flooded comes, from the loop. */
void znl_micro_flooded(znl_micro *micro);

#endif
