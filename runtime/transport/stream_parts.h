/* stream_parts.h - what the files of stream.h share: the stream, and what the streams of a loop have in
 * common.
 *
 *   stream.c        its life: opened, adopted, ended, closed
 *   stream_read.c   what arrives, in plain and under TLS
 *   stream_write.c  the queue, and how it leaves
 *   stream_turn.c   once per turn of the loop the streams that have something to do; spare buffers
 *
 * Layer: transport, private to stream*.c. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_STREAM_PARTS_H
#define ZNL_TRANSPORT_STREAM_PARTS_H

#include "transport/dial.h"
#include "transport/stream_backend.h"
#include "transport/tls_session.h"

#define ZNL_STREAM_READ_BYTES 65536u
#define ZNL_STREAM_EARLY_BYTES                                                                 \
    4096u                     /* written in one turn before it is offered to the system */
#define ZNL_STREAM_SPARES 64u /* empty buffers a loop keeps */

/*   DIALING -> [SHAKING ->] OPEN -> ENDED -> GONE     closed, kept until libuv has closed the socket
 *                               \----\-> LINGERING -^ closed by its owner, says goodbye */
enum znl_stream_state {
    ZNL_STREAM_DIALING,
    ZNL_STREAM_SHAKING,
    ZNL_STREAM_OPEN,
    ZNL_STREAM_ENDED,
    ZNL_STREAM_LINGERING,
    ZNL_STREAM_GONE
};

/* What the streams of one loop share. */
typedef struct znl_streams {
    znl_loop *loop;
    znl_stream *awaiting; /* their turn */
    znl_stream *visiting; /* of these it is now */
    znl_deferred turn;
    znl_stream *lingering;
    size_t spare_count;
    znl_buffer spares[ZNL_STREAM_SPARES];
    uint8_t *plain; /* ZNL_TLS_RECORD_BYTES, from the first stream with TLS on */
    uint8_t input[ZNL_STREAM_READ_BYTES];
} znl_streams;

/* A place in one of the lists above. */
typedef struct znl_stream_place {
    znl_stream *next;
    znl_stream **link; /* what points at the stream; NULL: in no list */
} znl_stream_place;

struct znl_stream {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe; /* is_local */
    } socket;
    union {
        uv_write_t write;
        uv_shutdown_t shutdown;
    } request;
    znl_streams *all;
    const znl_stream_events *events;
    void *user;
    znl_dial *dial;
    znl_tls_session *session; /* NULL: plain */
    znl_stream_gate *gate;
    znl_stream_place turn;
    znl_stream_place lingers;
    znl_buffer queue;
    znl_buffer flying;
    size_t sealed; /* of `queue` under TLS: on its way */
    size_t flown;  /* of `flying` */
    size_t in_air; /* bytes of it that libuv has */
    size_t max_queue_bytes;
    uint32_t early_bytes;
    size_t writable_below; /* bytes queued: on_writable then */
    uint64_t deadline_ms;  /* for hands to be shaken */
    znl_timer timer;       /* of that; of lingering */
    uint8_t state;         /* znl_stream_state */
    uint8_t is_local;      /* a unix socket */
    uint8_t is_paused;
    uint8_t is_resting;       /* paused, for a short while */
    uint8_t has_filled_input; /* the others first */
    uint8_t wants_writable;
    uint8_t has_peer_ended;  /* it sends no more */
    uint8_t has_input_ended; /* the same of the socket, below TLS */
    uint8_t is_resumed;      /* what TLS holds is to be read */
    uint8_t is_finishing;    /* a shutdown is under way */
    int write_error;         /* UV_…: nothing can be written any more */
    char peer[];             /* PEER_BYTES; of a unix socket LOCAL_PEER_BYTES: stream.c */
};

/* --- stream.c ---------------------------------------------------------------------------------------- */

/* Tells the owner, who may close the stream: nothing may follow. */
void znl_stream_end(znl_stream *stream, int err, const char *text);
void znl_stream_end_by_system(znl_stream *stream, int code); /* UV_… */

/* The socket is closed and nothing happens any more. */
void znl_stream_destroy(znl_stream *stream);

/* --- stream_read.c ----------------------------------------------------------------------------------- */

void znl_stream_start_reading(znl_stream *stream);

/* Shakes hands, and reads what TLS has been fed until the owner pauses or closes. Nothing may follow. */
void znl_stream_read_tls(znl_stream *stream);

/* --- stream_write.c ---------------------------------------------------------------------------------- */

/* Offers everything to the system. 0 or UV_…; what the system does not take is in the air, or nothing
 * is left. */
int znl_stream_offer(znl_stream *stream);

/* Offers, and says what follows from it: to the owner, or the goodbye. Nothing may follow. */
void znl_stream_flush(znl_stream *stream);

/* The loop turns no more: writes what is queued, and waits for the peer to read it up to the end of lingering. Under TLS
 * it writes nothing. The stream is of no use afterwards. */
void znl_stream_write_out(znl_stream *stream);

/* --- stream_turn.c ----------------------------------------------------------------------------------- */

/* NULL: out of memory. */
znl_streams *znl_streams_of(znl_loop *loop);

/* Room for `size` bytes at the end of `buffer`: in a spare one when it is empty. 0 or ZNL_E_NOMEM. */
int znl_streams_make_room(znl_streams *all, znl_buffer *buffer, size_t size);
void znl_streams_give_back(znl_streams *all, znl_buffer *buffer);

/* Its turn comes before the loop waits. */
void znl_stream_schedule(znl_stream *stream);

/* It is among those that say goodbye: closed when the loop ends. */
void znl_stream_enter_lingering(znl_stream *stream);
void znl_stream_leave_lists(znl_stream *stream);

#endif
