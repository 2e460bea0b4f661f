/* vector.h - reads the JSON files of tests/vectors: cases, hex, lists of frames.
 *
 * A file or field that is not as expected ends the test program with a message. What is decoded
 * lives in blocks of its exact size, so that a sanitizer sees a read past the end, until
 * znl_vector_end().
 *
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_SUPPORT_VECTOR_H
#define ZNL_TESTS_SUPPORT_VECTOR_H

#include <cjson/cJSON.h>

#include "base/bytes.h"

/* Parses ZNL_VECTORS/<path>, such as "znl/parse.json". Lives until znl_vector_end(). */
const cJSON *znl_vector_file(const char *path);

/* Walks the objects of the array `key`; `item` is a `const cJSON *`. */
#define ZNL_VECTOR_EACH(item, object, key)                                                     \
    for (item = znl_vector_list(object, key)->child; item != NULL; item = item->next)

/* The array `key`, which must be there. */
const cJSON *znl_vector_list(const cJSON *object, const char *key);

/* The object `key`, or NULL when it is absent or null. */
const cJSON *znl_vector_object(const cJSON *object, const char *key);

/* True when `key` is there and not null. */
int znl_vector_has(const cJSON *object, const char *key);

/* The string `key`; NULL when it is absent or null. */
const char *znl_vector_text(const cJSON *object, const char *key);

/* The same as bytes; size 0 when absent or null. */
znl_frame znl_vector_frame(const cJSON *object, const char *key);

/* The number `key` without its fraction, and the boolean `key` (absent: false). */
int64_t znl_vector_number(const cJSON *object, const char *key);
int znl_vector_flag(const cJSON *object, const char *key);

/* The hex string `key`, decoded; size 0 when absent or null. */
znl_frame znl_vector_hex(const cJSON *object, const char *key);

/* The array of hex strings `key`, decoded; sets *count. Absent or null is no frames. */
const znl_frame *znl_vector_frames(const cJSON *object, const char *key, size_t *count);

/* A copy in a block of its exact size, which may be written to. */
uint8_t *znl_vector_copy(znl_frame frame);

/* Frees all files and everything decoded. */
void znl_vector_end(void);

#endif
