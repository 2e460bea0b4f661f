/* frames.c - see frames.h. SPDX-License-Identifier: MIT */
#include "codec/frames.h"

#include "base/err.h"

#define COUNT_BYTES 4u
#define LENGTH_BYTES 4u

int znl_frames_packed_size(const znl_frame *frames, size_t count, size_t *size)
{
    if (count > (UINT32_MAX - COUNT_BYTES) / LENGTH_BYTES)
        return ZNL_E_TOO_BIG;
    size_t total = COUNT_BYTES + count * LENGTH_BYTES;
    for (size_t i = 0; i < count; i++) {
        if (frames[i].size > UINT32_MAX - total)
            return ZNL_E_TOO_BIG;
        total += frames[i].size;
    }
    *size = total;
    return 0;
}

void znl_frames_pack(const znl_frame *frames, size_t count, uint8_t *out)
{
    znl_put_be32(out, (uint32_t)count);
    out += COUNT_BYTES;
    for (size_t i = 0; i < count; i++) {
        znl_put_be32(out, (uint32_t)frames[i].size);
        out += LENGTH_BYTES;
        if (frames[i].size != 0)
            memcpy(out, frames[i].data, frames[i].size);
        out += frames[i].size;
    }
}

int znl_frames_peek(const uint8_t *packed, size_t size, size_t *count)
{
    if (size < COUNT_BYTES)
        return ZNL_E_PROTO;
    uint32_t announced = znl_get_be32(packed);
    if (announced > (size - COUNT_BYTES) / LENGTH_BYTES)
        return ZNL_E_PROTO;
    *count = announced;
    return 0;
}

int znl_frames_split(
        const uint8_t *packed, size_t size, znl_frame *frames, size_t cap, size_t *count)
{
    size_t announced;
    int err = znl_frames_peek(packed, size, &announced);
    if (err != 0)
        return err;
    if (announced > cap)
        return ZNL_E_TOO_BIG;
    const uint8_t *at = packed + COUNT_BYTES;
    const uint8_t *end = packed + size;
    for (size_t i = 0; i < announced; i++) {
        if ((size_t)(end - at) < LENGTH_BYTES)
            return ZNL_E_PROTO;
        size_t length = znl_get_be32(at);
        at += LENGTH_BYTES;
        if ((size_t)(end - at) < length)
            return ZNL_E_PROTO;
        frames[i] = znl_frame_of(at, length);
        at += length;
    }
    if (at != end)
        return ZNL_E_PROTO;
    *count = announced;
    return 0;
}
