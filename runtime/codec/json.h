/* json.h - JSON text, read in place and strictly (RFC 8259): one value, UTF-8 checked, nesting bounded. Pure;
 * nothing is allocated but what znl_buffer grows.
 *
 * Layer: codec. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_JSON_H
#define ZNL_CODEC_JSON_H

#include "base/bytes.h"

/* A place in a text. After an error the reader must not be used any more. */
typedef struct znl_json_reader {
    const uint8_t *at, *end;
    unsigned depth, max_depth;
} znl_json_reader;

typedef enum znl_json_kind {
    ZNL_JSON_NULL,
    ZNL_JSON_FALSE,
    ZNL_JSON_TRUE,
    ZNL_JSON_NUMBER,
    ZNL_JSON_STRING,
    ZNL_JSON_ARRAY,
    ZNL_JSON_OBJECT,
} znl_json_kind;

void znl_json_begin(znl_json_reader *reader, znl_frame text, unsigned max_depth);

/* What comes next, without moving on (white space is skipped). A kind, or ZNL_E_PROTO. */
int znl_json_peek(znl_json_reader *reader);

/* Moves past one whole value, all of it checked; *raw is its text. 0, ZNL_E_PROTO, ZNL_E_LIMIT (depth). */
int znl_json_skip(znl_json_reader *reader, znl_frame *raw);

/* An object or array step by step: enter, then next until it returns 0.
 * znl_json_next: 1 and *name (object: the text between the quotes, escapes not undone; *is_plain 1 when
 * it has none), 0 at the end, or an error. Between two calls exactly one value is read. */
int znl_json_enter(znl_json_reader *reader);
int znl_json_next(znl_json_reader *reader, znl_frame *name, int *is_plain);

/* A string: the text between the quotes; undone into `scratch` when it has escapes. Borrowed. */
int znl_json_string(znl_json_reader *reader, znl_frame *text, znl_buffer *scratch);
/* A number as a double; *is_integer 1 and *integer when it is a whole number that fits 64 bits with sign. */
int znl_json_number(znl_json_reader *reader, double *value, int *is_integer, int64_t *integer);
/* A number, true, false or null is passed by znl_json_skip(). */

/* Only white space is left. 0 or ZNL_E_PROTO. */
int znl_json_end(znl_json_reader *reader);

/* --- writing: appends to `out`; 0 or ZNL_E_NOMEM -------------------------------------------------- */

/* With quotes and escapes. ZNL_E_PROTO when `text` is not UTF-8: nothing is appended. */
int znl_json_put_string(znl_buffer *out, znl_frame text);
/* As JavaScript writes it: shortest text that reads back the same. ZNL_E_INVALID for NaN and infinity. */
int znl_json_put_number(znl_buffer *out, double value);
int znl_json_put_integer(znl_buffer *out, int64_t value);

#endif
