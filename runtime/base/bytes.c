/* bytes.c - see bytes.h. SPDX-License-Identifier: MIT */
#include "base/bytes.h"

#include "base/alloc.h"
#include "base/err.h"

/* The next capacity that holds `size` bytes; 0: no such. */
static size_t capacity_for(const znl_buffer *buffer, size_t size)
{
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    while (capacity < size) {
        if (capacity > SIZE_MAX / 2)
            return 0;
        capacity *= 2;
    }
    return capacity;
}

int znl_buffer_grow(znl_buffer *buffer, size_t size)
{
    size_t capacity = capacity_for(buffer, size);
    if (capacity == 0)
        return ZNL_E_NOMEM;
    uint8_t *data = znl_malloc(capacity);
    if (data == NULL)
        return ZNL_E_NOMEM;
    znl_free(buffer->data);
    buffer->data = data;
    buffer->capacity = capacity;
    buffer->size = 0;
    return 0;
}

int znl_buffer_extend(znl_buffer *buffer, size_t extra)
{
    if (extra <= buffer->capacity - buffer->size)
        return 0;
    if (extra > SIZE_MAX - buffer->size)
        return ZNL_E_NOMEM;
    size_t capacity = capacity_for(buffer, buffer->size + extra);
    uint8_t *data = capacity > 0 ? znl_realloc(buffer->data, capacity) : NULL;
    if (data == NULL)
        return ZNL_E_NOMEM;
    buffer->data = data;
    buffer->capacity = capacity;
    return 0;
}

int znl_buffer_append(znl_buffer *buffer, const void *data, size_t size)
{
    int err = znl_buffer_extend(buffer, size);
    if (err != 0 || size == 0)
        return err;
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    return 0;
}

void znl_buffer_fini(znl_buffer *buffer)
{
    znl_free(buffer->data);
    *buffer = (znl_buffer){0};
}
