/* transcode.h - values as serialize-json 1.0.3 writes them, the default transcode of the cluster-client
 * protocol (codec/WIRE.md, "Transcode"; spec cluster-client, section 4). Both ways step by step; what the
 * values are is the caller's business. Pure: nothing is allocated but what buffers grow, and they are
 * kept for the next text.
 *
 * Layer: codec. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_TRANSCODE_H
#define ZNL_CODEC_TRANSCODE_H

#include "base/bytes.h"

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
    double number;   /* NUMBER, DATE (milliseconds since 1970) */
    int is_integer; /* NUMBER: 1 when it is a whole number that fits 64 bits with sign and was written with all its
                         digits; 2 when it only fits without: *integer holds the bits */
    int64_t integer;
} znl_transcode_token;

typedef struct znl_transcode_entry {
    uint32_t at, size; /* in the text */
} znl_transcode_entry;

/* Zeroed memory is a new reader; fields are its own. */
typedef struct znl_transcode_reader {
    znl_frame text;
    const uint8_t *at, *end; /* of the nodes */
    unsigned depth, max_depth;
    uint32_t strings, integers, floats, dates; /* counts */
    znl_buffer entries;                        /* of znl_transcode_entry: where each lies */
    znl_buffer scratch;                        /* text without escapes, bytes */
    uint8_t is_started;
} znl_transcode_reader;

/* Begins a text, borrowed until its last token is read. 0; ZNL_E_PROTO: fewer than four "^", or it is not
 * UTF-8; ZNL_E_NOMEM. A text costs memory in proportion to its size, whatever it says. */
int znl_transcode_begin(znl_transcode_reader *reader, znl_frame text, unsigned max_depth);

/* The next token. 0, or ZNL_E_LIMIT (depth), ZNL_E_PROTO, ZNL_E_NOMEM: for good. After the root has ended, what
 * follows is not looked at. As lenient as the original where that is harmless (spec, section 4, "Tokens"). */
int znl_transcode_next(znl_transcode_reader *reader, znl_transcode_token *token);

void znl_transcode_reader_fini(znl_transcode_reader *reader);

/* --- writing --------------------------------------------------------------------------------------- */

/* Zeroed memory is a new writer; fields are its own. */
typedef struct znl_transcode_writer {
    znl_buffer strings, integers, floats, dates;
    uint32_t string_count, integer_count, float_count, date_count;
    znl_buffer nodes; /* what becomes of them once the counts are known */
} znl_transcode_writer;

void znl_transcode_start(znl_transcode_writer *writer); /* forgets what was written */

/* Each 0 or ZNL_E_NOMEM; strings ZNL_E_PROTO when they are not UTF-8: nothing is written then. */
int znl_transcode_put(znl_transcode_writer *writer,
        znl_transcode_kind kind); /* the first four, ARRAY, OBJECT, ERROR, END */
int znl_transcode_put_string(znl_transcode_writer *writer, znl_frame text);
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
