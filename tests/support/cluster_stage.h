/* cluster_stage.h - two ends of the cluster-client protocol without sockets: carriers that are buffers, a clock that
 * stands still, and a record of what is reported. SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_CLUSTER_STAGE_H
#define ZNL_TESTS_CLUSTER_STAGE_H

#include "node/cluster_link.h"

typedef struct stage_end {
    znl_cluster_link *link;
    znl_buffer sent;            /* packets that were not delivered yet */
    size_t room;                /* BUSY when more than that would wait; 0: no limit */
    size_t awaited;             /* the last znl_cluster_carrier.await(); SIZE_MAX: none */
    int fails_reserve;          /* the next one is out of memory */
    znl_buffer heard;           /* one line per event */
    znl_cluster_message answer; /* kind UNKNOWN: requests are not answered at once */
    int64_t last_id;            /* of the last request of the peer */
    int32_t last_timeout_ms;
    void (*react)(struct stage_end *end, const char *event); /* inside every event */
} stage_end;

extern znl_loop *stage_loop;
extern stage_end stage_leader, stage_follower;
extern znl_cluster_link_options
        stage_options; /* of both ends; is_leader is set by stage_open() */
extern const znl_cluster_carrier stage_carrier;
extern const znl_cluster_link_events stage_events;

/* For cmocka: clock at 1000 ms, fresh ends without links; and the end, where no timer may be left. */
int stage_prepare(void **state);
int stage_clear(void **state);

void stage_open(stage_end *end);
void stage_open_both(void); /* the leader is configured, too */

/* Delivers what was sent to the other end, `piece` bytes at a time (0: at once). Returns the bytes. */
size_t stage_deliver(stage_end *from, stage_end *to, size_t piece);
void stage_pump(void);        /* both ways until nothing is left */
void stage_pass(uint64_t ms); /* time goes by, by steps of at most 10 ms */
void stage_turn(void);        /* runs what was deferred */

/* Gives bytes to an end, from a block of exactly their size. */
void stage_receive(stage_end *end, const void *data, size_t size);
/* The same for a packet with that text; `data` may be NULL. */
void stage_receive_packet(stage_end *end, int is_response, int64_t id, int32_t timeout_ms,
        const char *text, const char *data);

/* The first packet that was not delivered, as text, and takes it away: "request 5 3000 {…} data". "(nothing)". */
const char *stage_next_sent(stage_end *end);
/* What was heard since the last time. */
const char *stage_heard(stage_end *end);

#define assert_heard(end, expected) assert_string_equal(stage_heard(end), expected)
#define assert_sent(end, expected) assert_string_equal(stage_next_sent(end), expected)

znl_cluster_link_counters stage_count(const stage_end *end);

/* An invoke with one argument-less call, waited for under `ticket`. Its id. */
int64_t stage_invoke(stage_end *end, const char *method, const char *data, uint32_t timeout_ms,
        uint64_t ticket);

#endif
