/* micro.h - one connection of the micro protocol, seen from one end (spec, sections 4 to 8): requests both
 * ways, pushes, aborts, streams, heartbeats. Which namespace sits at the other end, and what to do when it
 * goes, is decided above.
 *
 * Data crosses as JSON text: checked on the way in, trusted on the way out. {NULL, 0} is "absent".
 *
 *   ask    waiting -> answered | refused | timed out | given up
 *   job    at work -> answered | refused | aborted by the asker | held until the carrier has room for the answer
 *
 * An ask is found by the slot in its id, a job by a hash of the peer's id. An idle connection has neither table.
 * What ends here without an answer is told to the peer by an abort frame; when the carrier has no room for it,
 * for an answer, a grant or a heartbeat, that is sent later, from znl_micro_writable().
 *
 * Layer: node. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_MICRO_H
#define ZNL_NODE_MICRO_H

#include "base/bytes.h"
#include "state/pending.h" /* znl_waiter */
#include "state/slots.h"
#include "transport/loop.h"

typedef struct znl_micro znl_micro;

/* What takes the frames: a WebSocket, or a test. None of these may call back into the connection. */
typedef struct znl_micro_carrier {
    int (*send)(void *carrier, const void *text, size_t size); /* as znl_ws_send() */
    void (*ping)(void *carrier);
    void (*pause)(void *carrier, int on); /* stop reading */
} znl_micro_carrier;

/* A request at work here, named until it is answered, aborted or the connection closes. Never 0. */
typedef uint64_t znl_micro_job;

/* A small number of the job that no other has while it is named: below max_jobs. */
static inline uint32_t znl_micro_job_slot(znl_micro_job job)
{
    return (uint32_t)(job & (ZNL_SLOTS_MAX - 1));
}

typedef struct znl_micro_request {
    znl_micro_job job;    /* 0: a push, nothing to answer */
    znl_frame url;        /* escapes undone */
    znl_frame data;       /* JSON; {NULL, 0}: absent */
    int is_stream;        /* answer with chunks */
    int is_flowing;       /* the asker grants credit: see znl_micro_chunk() */
    uint64_t deadline_ms; /* of the asker, our extension; monotonic, 0: not told */
} znl_micro_request;

/* Why a request ended other than with data; also a stream.
 *
 * One that is sent may leave `number` and `status` out: then it is 500 to the originals, and the code of `err`,
 * if any, to a peer of ours. In a stream to an original its text is then "Unknown error", as they have it. */
typedef struct znl_micro_refusal {
    int is_remote; /* the other side answered this; else `err` is why */
    int err; /* ZNL_E_TIMEOUT, _CLOSED, _PROTO (breaks the protocol), _UNSUPPORTED (no streams), … */
    int is_number; /* the status: `number`, else `status` */
    double number;
    znl_frame status; /* text */
    znl_frame text;   /* the message, escapes undone; {NULL, 0}: none */
} znl_micro_refusal;

typedef struct znl_micro_events {
    void (*on_request)(void *user, const znl_micro_request *request);
    /* The asker gave it up, or the connection closes: no answer is sent any more. */
    void (*on_abort)(void *user, znl_micro_job job);
    /* A request of ours: its data ({NULL, 0}: absent), or why not. Exactly one of the two, once. */
    void (*on_answer)(void *user, znl_waiter waiter, znl_frame data);
    void (*on_refused)(void *user, znl_waiter waiter, const znl_micro_refusal *refusal);
    /* A stream of ours: chunks ({NULL, 0}: absent), then its end: refusal NULL when it is complete. */
    void (*on_chunk)(void *user, znl_waiter waiter, znl_frame payload);
    void (*on_stream_end)(void *user, znl_waiter waiter, const znl_micro_refusal *refusal);
    /* znl_micro_chunk() said BUSY before: it would not now. */
    void (*on_room)(void *user, znl_micro_job job);
    /* The peer has been silent for too long (spec, sections 8 and 23): close the connection. */
    void (*on_silent)(void *user);
    /* The peer asks and does not read: more answers wait for it than may. Close the connection. */
    void (*on_flooded)(void *user);
} znl_micro_events;

typedef struct znl_micro_options {
    int is_ours;          /* the peer speaks our extensions, as the upgrade told */
    uint32_t max_pending; /* requests and streams of ours; 0: ZNL_SLOTS_MAX - 1 */
    uint32_t
            max_jobs; /* requests of the peer at work; 0: ZNL_SLOTS_MAX; beyond: status "OVERLOADED" */
    size_t max_held_bytes; /* of answers that wait for room; 0: ZNL_STREAM_QUEUE_BYTES_DEFAULT */
    uint32_t max_depth;    /* of JSON */
    uint32_t heartbeat_ms;         /* 0: none sent */
    uint32_t heartbeat_timeout_ms; /* 0: never silent */
    uint32_t heartbeat_check_ms;
    int strict_heartbeat; /* 1: the v2 rule for every peer, also for one that never sent any */
    znl_buffer *
            scratch; /* where frames are put together: shared by the connections of a thread, borrowed,
                             never used for what is handed in; NULL: memory of its own, given back each time */
} znl_micro_options;

/* `carrier` and `events` are borrowed and outlive the connection; `carrier_user` is what the carrier's
 * functions get. 0 or ZNL_E_NOMEM. */
int znl_micro_new(znl_micro **out, znl_loop *loop, const znl_micro_options *options,
        const znl_micro_carrier *carrier, void *carrier_user, const znl_micro_events *events,
        void *user);

/* The connection is about to be closed from here: tells the peer that nobody waits any more for what was
 * asked of it. Originals that answer into a connection under closing end their process. Call
 * it before the carrier sends its goodbye. */
void znl_micro_leave(znl_micro *micro);

/* The connection has ended: everything that waits is refused with `err`, jobs are aborted, nothing is sent
 * any more. Events come from inside this call. */
void znl_micro_close(znl_micro *micro, int err);
/* After znl_micro_close(). Accepts NULL. Not from inside an event of it. */
void znl_micro_free(znl_micro *micro);

/* --- in: what the carrier tells ------------------------------------------------------------------- */

void znl_micro_receive(
        znl_micro *micro, const void *text, size_t size); /* one message; events inside */
void znl_micro_ponged(znl_micro *micro);
void znl_micro_writable(znl_micro *micro); /* the carrier has room again */

/* --- asking --------------------------------------------------------------------------------------- */

/* 0 and *id; on_answer or on_refused follows, never from inside this call. timeout_ms 0: none.
 * ZNL_E_LIMIT (max_pending), ZNL_E_INVALID (the url is not UTF-8), ZNL_E_CLOSED, ZNL_E_BUSY, ZNL_E_NOMEM:
 * nothing was sent. */
int znl_micro_ask(znl_micro *micro, znl_frame url, znl_frame data, uint32_t timeout_ms,
        int tells_deadline, znl_waiter waiter, uint64_t *id);
int znl_micro_push(znl_micro *micro, znl_frame url, znl_frame data);

/* Asks for a stream. `window`: chunks that may be on their way. A peer of ours is granted them. Towards others
 * reading stops when as many wait (see znl_micro_took), unless something else of ours waits for this peer: an
 * answer, another stream, a grant. Then up to ZNL_MICRO_OVERFULL times as many are taken, because what is waited
 * for is behind them. Reading also stops, for every peer, at ZNL_MICRO_STREAM_BYTES that wait.
 * timeout_ms: of the whole stream; 0: none. */
int znl_micro_ask_stream(znl_micro *micro, znl_frame url, znl_frame data, uint32_t window,
        uint32_t timeout_ms, znl_waiter waiter, uint64_t *id);
/* The script took `count` chunks: grants as many again, or reads on. */
void znl_micro_took(znl_micro *micro, uint64_t id, uint32_t count);

/* Gives a request or stream up: sends the abort frame, forgets it, no event follows. Harmless when over. */
void znl_micro_abort(znl_micro *micro, uint64_t id);

/* --- answering: ZNL_E_NOT_FOUND when the job is over; a push (0) is never answered --------------------
 *
 * The job is over afterwards whatever comes back, but for znl_micro_chunk(). While the carrier has no room the
 * answer is kept here, and its job counts towards max_jobs. ZNL_E_LIMIT: more would be kept than
 * max_held_bytes; on_flooded follows. */

/* A stream request is refused with "Invalid async iterable", as the originals do. */
int znl_micro_answer(znl_micro *micro, znl_micro_job job, znl_frame data);
/* For a stream it ends it, in the form streams have. */
int znl_micro_refuse(znl_micro *micro, znl_micro_job job, const znl_micro_refusal *refusal);
/* ZNL_E_BUSY: no credit, or the connection's queue is full; nothing was sent, on_room will come.
 * ZNL_E_INVALID: no stream was asked for; or the payload is null or absent, which ends the stream of an
 * original, and of the peers only ours can take it. */
int znl_micro_chunk(znl_micro *micro, znl_micro_job job, znl_frame payload);
int znl_micro_finish(znl_micro *micro, znl_micro_job job); /* the stream is complete */

/* --- looking -------------------------------------------------------------------------------------- */

#define ZNL_MICRO_COUNTERS(X)                                                                  \
    X(received)   /* frames */                                                                 \
    X(sent)       /* frames */                                                                 \
    X(requests)   /* of the peer, to be answered */                                            \
    X(pushes)     /* of the peer, without heartbeats */                                        \
    X(heartbeats) /* of the peer */                                                            \
    X(asked)      /* requests and streams of ours */                                           \
    X(answers)    /* to requests of ours, of status 200 */                                     \
    X(chunks)     /* of streams of ours */                                                     \
    X(timeouts)   /* of ours */                                                                \
    X(aborts)     /* jobs the peer gave up */                                                  \
    X(replaced)   /* jobs that ended because the peer used their id again */                   \
    X(overloaded) /* requests refused because max_jobs were at work */                         \
    X(unanswered) /* answers and refusals lost for want of memory or room */                   \
    X(late)       /* answers to requests of ours that are over */                              \
    X(unknown)    /* answers to what was never asked */                                        \
    X(malformed)  /* frames dropped */

#define ZNL_MICRO_COUNTER(name) uint64_t name;
typedef struct znl_micro_counters {
    ZNL_MICRO_COUNTERS(ZNL_MICRO_COUNTER)
} znl_micro_counters;
#undef ZNL_MICRO_COUNTER

void znl_micro_count(const znl_micro *micro, znl_micro_counters *out);
uint32_t znl_micro_pending(const znl_micro *micro); /* requests and streams of ours */
uint32_t znl_micro_jobs(const znl_micro *micro);

#endif
