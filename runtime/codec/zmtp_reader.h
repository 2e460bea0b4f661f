/* zmtp_reader.h - bytes as they arrive to whole messages and commands of ZMTP 3, after the greeting.
 *
 * What came whole is handed out where it lies; only a message that a read has cut in two is kept, and grows with the
 * bytes that have come, never with a size that was announced. Nothing is held while nothing is under way.
 *
 * Layer: codec. No I/O, no clock. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_ZMTP_READER_H
#define ZNL_CODEC_ZMTP_READER_H

#include "codec/zmtp.h"

typedef struct znl_zmtp_limits {
    size_t max_frame_bytes;   /* beyond it the conversation is at its end */
    size_t max_message_bytes; /* beyond it the message is passed over */
    uint32_t max_frames;      /* of a message; the same */
} znl_zmtp_limits;

/* What many readers share: the frames of the message handed out last, with room for one before them. */
typedef struct znl_zmtp_scratch {
    znl_frame *frames;
    size_t capacity;
} znl_zmtp_scratch;

void znl_zmtp_scratch_fini(znl_zmtp_scratch *scratch);

typedef struct znl_zmtp_reader {
    const uint8_t *data; /* lent and not read */
    size_t size;
    znl_buffer held;   /* of a message or command that is not whole */
    size_t scanned;    /* bytes of whole frames at the start of `held` */
    size_t body_bytes; /* of these frames, without heads */
    size_t lead_bytes; /* of a routing id that the caller puts before each message: it counts */
    size_t passing;    /* bytes of a frame still to be passed over */
    uint32_t frames;   /* of these */
    uint8_t is_given;  /* `held` was handed out as a whole */
    uint8_t is_passing; /* a message is passed over up to its last frame */
    uint8_t ends_passing;
} znl_zmtp_reader;

typedef struct znl_zmtp_item {
    int is_command;
    /* Borrowed until the next call. A message: frames[0 .. count), and frames[-1] may be written to. A command: its
     * body is frames[0]. */
    znl_frame *frames;
    size_t count;
} znl_zmtp_item;

/* Zeroed memory is a reader. */
void znl_zmtp_reader_fini(znl_zmtp_reader *reader);

/* Lends bytes, until znl_zmtp_reader_next() has returned 0. Whoever cannot wait for that takes back what has not been
 * read, reader->data and ->size, and lends it again later. */
void znl_zmtp_reader_feed(znl_zmtp_reader *reader, const uint8_t *data, size_t size);

/* 1 and *item; 0 when there is nothing whole: the rest is kept.
 *   ZNL_E_TOO_BIG (bytes), ZNL_E_LIMIT (frames), ZNL_E_NOMEM  a message is passed over; go on
 *   ZNL_E_PROTO   malformed, or a frame beyond max_frame_bytes; the conversation is over
 *   ZNL_E_CLOSED  without memory it cannot go on */
int znl_zmtp_reader_next(znl_zmtp_reader *reader, const znl_zmtp_limits *limits,
        znl_zmtp_scratch *scratch, znl_zmtp_item *item);

/* While a large frame is under way: where its next bytes can be read to without being moved, and how many. Nothing is
 * lent then. True; false when they are better lent. znl_zmtp_reader_filled() tells how many came there. */
int znl_zmtp_reader_room(znl_zmtp_reader *reader, uint8_t **at, size_t *size);
void znl_zmtp_reader_filled(znl_zmtp_reader *reader, size_t size);

#endif
