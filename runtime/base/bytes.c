/* bytes.c - see bytes.h. SPDX-License-Identifier: MIT */
#include "base/bytes.h"

#include "base/alloc.h"
#include "base/err.h"

int znl_buffer_reserve(znl_buffer *buffer, size_t size)
{
    if (size <= buffer->capacity)
        return 0;
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    while (capacity < size) {
        if (capacity > SIZE_MAX / 2)
            return ZNL_E_NOMEM;
        capacity *= 2;
    }
    uint8_t *data = znl_malloc(capacity);
    if (data == NULL)
        return ZNL_E_NOMEM;
    znl_free(buffer->data);
    buffer->data = data;
    buffer->capacity = capacity;
    buffer->size = 0;
    return 0;
}

void znl_buffer_trim(znl_buffer *buffer, size_t keep)
{
    if (buffer->capacity > keep)
        znl_buffer_fini(buffer);
}

void znl_buffer_fini(znl_buffer *buffer)
{
    znl_free(buffer->data);
    *buffer = (znl_buffer){0};
}
