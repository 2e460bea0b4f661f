/* transcode.h - values as serialize-json 1.0.3 writes them, the default transcode of the cluster-client
 * protocol (codec/WIRE.md, "Transcode"; spec cluster-client, section 4). Both ways step by step; what the
 * values are is the caller's business. Pure: nothing is allocated but what buffers grow, and they are
 * kept for the next text.
 *
 * Layer: codec. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_TRANSCODE_H
#define ZNL_CODEC_TRANSCODE_H

#include "base/bytes.h"

#define ZNL_TRANSCODE_LISTS 4 /* strings, integers, floats, dates: in this order */

typedef enum znl_transcode_kind {
    ZNL_TRANSCODE_UNDEFINED,
    ZNL_TRANSCODE_NULL,
    ZNL_TRANSCODE_TRUE,
    ZNL_TRANSCODE_FALSE,
    ZNL_TRANSCODE_STRING,
    ZNL_TRANSCODE_NUMBER,
    ZNL_TRANSCODE_DATE,
    ZNL_TRANSCODE_BYTES, /* whole: no tokens inside */
    ZNL_TRANSCODE_ARRAY, /* items follow, then END */
    ZNL_TRANSCODE_OBJECT, /* key, value, …, then END; a key may be of any kind, and the last value be missing */
    ZNL_TRANSCODE_ERROR, /* the same */
    ZNL_TRANSCODE_END,   /* of an array, object or error */
} znl_transcode_kind;

typedef struct znl_transcode_token {
    znl_transcode_kind kind;
    znl_frame bytes; /* STRING (escapes undone, UTF-8), BYTES; borrowed until the next token */
    double number;   /* NUMBER, DATE (milliseconds since 1970; NaN: no such date) */
    int is_integer; /* NUMBER: 1 when it is a whole number that fits 64 bits with sign and was written with all its
                         digits; 2 when it only fits without: *integer holds the bits */
    int64_t integer;
} znl_transcode_token;

/* One of the four lists that nodes refer to. */
typedef struct znl_transcode_list {
    const uint8_t *start, *end; /* in the text; *end is "^" */
    const uint8_t *at;          /* where entry `next` begins */
    uint32_t first;             /* index of its first entry, by which nodes name it */
    uint32_t count;
    uint32_t
            next; /* entries are used in their order, so that this one is the next most likely */
} znl_transcode_list;

/* Zeroed memory is a new reader; fields are its own. */
typedef struct znl_transcode_reader {
    znl_frame text;
    const uint8_t *at, *end; /* of the nodes */
    znl_transcode_list lists[ZNL_TRANSCODE_LISTS];
    uint64_t spare;     /* bytes of entries that may still be read: none need be read twice */
    znl_buffer offsets; /* where each entry begins; made when they are used in another order */
    znl_buffer scratch; /* strings without escapes, bytes */
    unsigned depth, max_depth;
    uint8_t has_offsets, is_ended;
} znl_transcode_reader;

/* Begins a text of less than 4 GiB, borrowed until its last token is read. 0; ZNL_E_PROTO: fewer than four "^", or
 * its strings are not UTF-8; ZNL_E_TOO_BIG. */
int znl_transcode_begin(znl_transcode_reader *reader, znl_frame text, unsigned max_depth);

/* The next token: the root, and when it has items all that follows to its END. 0, or for good: ZNL_E_PROTO
 * (something inside a byte buffer, or nothing is left), ZNL_E_LIMIT (depth; entries that nodes refer to again and
 * again), ZNL_E_NOMEM. Time and memory are in proportion to the size of the text, whatever it says. As lenient as
 * the original otherwise (spec, section 4, "Tokens"): no root, an unknown index are undefined. */
int znl_transcode_next(znl_transcode_reader *reader, znl_transcode_token *token);

void znl_transcode_reader_fini(znl_transcode_reader *reader);

/* --- writing --------------------------------------------------------------------------------------- */

/* Zeroed memory is a new writer; fields are its own. */
typedef struct znl_transcode_writer {
    znl_buffer lists[ZNL_TRANSCODE_LISTS]; /* as they will stand in the text */
    uint32_t counts[ZNL_TRANSCODE_LISTS];
    znl_buffer
            nodes; /* a byte each: entries are used in their order, so that the kind says which */
    uint64_t references; /* how many indexes there will be */
} znl_transcode_writer;

void znl_transcode_start(znl_transcode_writer *writer); /* forgets what was written */

/* Each 0, ZNL_E_NOMEM, ZNL_E_TOO_BIG (beyond 2 GiB), and as said: nothing is written then. */

/* The first four kinds, ARRAY, OBJECT, ERROR, END. */
int znl_transcode_put(znl_transcode_writer *writer, znl_transcode_kind kind);
int znl_transcode_put_string(
        znl_transcode_writer *writer, znl_frame text); /* ZNL_E_PROTO: not UTF-8 */
int znl_transcode_put_number(znl_transcode_writer *writer, double number);
int znl_transcode_put_integer(znl_transcode_writer *writer, int64_t integer);
int znl_transcode_put_unsigned(znl_transcode_writer *writer, uint64_t integer);
int znl_transcode_put_date(znl_transcode_writer *writer,
        double unix_ms); /* ZNL_E_INVALID: not finite, beyond 8.64e15 */
int znl_transcode_put_bytes(znl_transcode_writer *writer, znl_frame bytes);

/* Appends the text of what was written to `out`. 0, ZNL_E_NOMEM, ZNL_E_TOO_BIG (2 GiB): `out` is as before. */
int znl_transcode_finish(znl_transcode_writer *writer, znl_buffer *out);

void znl_transcode_writer_fini(znl_transcode_writer *writer);

#endif
