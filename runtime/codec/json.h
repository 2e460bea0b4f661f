/* json.h - JSON text, read in place and strictly (RFC 8259): one value, UTF-8 checked, nesting bounded. Pure;
 * nothing is allocated but what znl_buffer grows.
 *
 * Half of a surrogate pair as an escape ("\ud800") is well-formed JSON without a form in UTF-8: it is
 * accepted, and undone as U+FFFD. A number too large for a double reads as infinity, as in JavaScript.
 *
 * Layer: codec. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_JSON_H
#define ZNL_CODEC_JSON_H

#include "base/bytes.h"

/* How deep a reader can go, whatever it is asked for. */
#define ZNL_JSON_DEPTH_MAX 1024u

/* A place in a text; may be copied to come back. After an error the reader must not be used any more;
 * `at` is then where the text stopped making sense, roughly. */
typedef struct znl_json_reader {
    const uint8_t *at, *end;
    unsigned depth, max_depth;
    int is_first; /* just entered: no comma before the next item */
    uint64_t is_object[ZNL_JSON_DEPTH_MAX / 64]; /* one bit per open object or array */
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

/* max_depth: arrays and objects inside each other; at most ZNL_JSON_DEPTH_MAX counts. */
void znl_json_begin(znl_json_reader *reader, znl_frame text, unsigned max_depth);

/* What comes next, without moving on (white space is skipped). A kind, told by its first byte, or
 * ZNL_E_PROTO. */
int znl_json_peek(znl_json_reader *reader);

/* Moves past one whole value, all of it checked; *raw is its text. 0, ZNL_E_PROTO, ZNL_E_LIMIT (depth). */
int znl_json_skip(znl_json_reader *reader, znl_frame *raw);

/* An object or array step by step: enter, then next until it returns 0.
 * znl_json_next: 1 and *name (object: the text between the quotes, escapes not undone; *is_plain 1 when
 * it has none; array: untouched), 0 at the end, or an error. Between two calls exactly one value is read. */
int znl_json_enter(znl_json_reader *reader);
int znl_json_next(znl_json_reader *reader, znl_frame *name, int *is_plain);

/* A string: the text between the quotes; undone into `scratch` when it has escapes. Borrowed. */
int znl_json_string(znl_json_reader *reader, znl_frame *text, znl_buffer *scratch);
/* The same with its escapes left in; *is_plain 1 when it has none. */
int znl_json_quoted(znl_json_reader *reader, znl_frame *text, int *is_plain);
/* For such a text, or a name, that is not plain: undoes the escapes of `quoted`, which the reader has checked,
 * into `scratch`. 0 or ZNL_E_NOMEM. */
int znl_json_unescape(znl_frame quoted, znl_frame *text, znl_buffer *scratch);
/* The next character of such a text as a code point, half of a surrogate pair included; moves *at, which
 * must not be at the end. */
uint32_t znl_json_character(const uint8_t **at, const uint8_t *end);
/* A code point as UTF-8, of which half of a pair has none: U+FFFD. Returns the 1 to 4 bytes written. */
size_t znl_json_put_utf8(uint8_t *out, uint32_t code);
/* A number as the nearest double. *is_integer 1 and *integer when it is a whole number that fits 64 bits
 * with sign; 2 when it only fits without sign: *integer holds the bits of the uint64_t. Past 2^53 only
 * what is written without point and exponent counts. */
int znl_json_number(znl_json_reader *reader, double *value, int *is_integer, int64_t *integer);
/* True, false or null: passed and checked. 0 or ZNL_E_PROTO. */
int znl_json_literal(znl_json_reader *reader);

/* Only white space is left. 0 or ZNL_E_PROTO. */
int znl_json_end(znl_json_reader *reader);

/* --- writing (json_write.c): appends to `out`; 0 or ZNL_E_NOMEM ----------------------------------- */

/* With quotes and escapes. ZNL_E_PROTO when `text` is not UTF-8: nothing is appended. */
int znl_json_put_string(znl_buffer *out, znl_frame text);
/* The same for a text with its escapes left in, which the reader has checked, as JSON.stringify of
 * JavaScript writes it: half of a surrogate pair stays an escape. */
int znl_json_put_quoted(znl_buffer *out, znl_frame quoted);
/* As JavaScript writes it: shortest text that reads back the same. ZNL_E_INVALID for NaN and infinity. */
int znl_json_put_number(znl_buffer *out, double value);
/* The same, but whole numbers past 2^53 are written with an exponent, so that znl_json_number() does not
 * take them for integers. */
int znl_json_put_double(znl_buffer *out, double value);
int znl_json_put_integer(znl_buffer *out, int64_t value);
int znl_json_put_unsigned(znl_buffer *out, uint64_t value);

#endif
