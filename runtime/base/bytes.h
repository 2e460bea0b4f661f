/* bytes.h - frames, big-endian numbers, and a byte buffer that grows.
 *
 * Layer: base. SPDX-License-Identifier: MIT */
#ifndef ZNL_BASE_BYTES_H
#define ZNL_BASE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* One frame, borrowed: the bytes belong to whoever produced them. */
typedef struct znl_frame {
    const uint8_t *data;
    size_t size; /* bytes */
} znl_frame;

static inline znl_frame znl_frame_of(const void *data, size_t size)
{
    return (znl_frame){(const uint8_t *)data, size};
}

static inline znl_frame znl_frame_text(const char *text)
{
    return znl_frame_of(text, strlen(text));
}

static inline int znl_frame_equal(znl_frame a, znl_frame b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static inline uint32_t znl_get_be32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline void znl_put_be32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

/* A buffer that only grows. Zeroed memory is an empty buffer. */
typedef struct znl_buffer {
    uint8_t *data;
    size_t size;
    size_t capacity;
} znl_buffer;

/* For znl_buffer_reserve(). */
int znl_buffer_grow(znl_buffer *buffer, size_t size);

/* Makes room for `size` bytes in all; the content is not kept. ZNL_E_NOMEM leaves it as it was. */
static inline int znl_buffer_reserve(znl_buffer *buffer, size_t size)
{
    return size <= buffer->capacity ? 0 : znl_buffer_grow(buffer, size);
}

/* Makes room for `extra` bytes after the content, which is kept. ZNL_E_NOMEM leaves all as it was. */
int znl_buffer_extend(znl_buffer *buffer, size_t extra);

/* Appends. 0 or ZNL_E_NOMEM. */
int znl_buffer_append(znl_buffer *buffer, const void *data, size_t size);

void znl_buffer_fini(znl_buffer *buffer);

/* Gives the memory back when more than `keep` bytes are held. */
static inline void znl_buffer_trim(znl_buffer *buffer, size_t keep)
{
    if (buffer->capacity > keep)
        znl_buffer_fini(buffer);
}

#endif
