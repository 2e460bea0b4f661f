/* envelope.c - see envelope.h. SPDX-License-Identifier: MIT */
#include "security/envelope.h"

#include "base/err.h"
#include "base/limits.h"
#include "codec/frames.h"

#define VERSION "__znl_sec_v1__"
#define VERSION_BYTES (sizeof VERSION - 1)
#define AAD_PREFIX "znl-aad-v1|"
#define KIND_BYTES_MAX 64u
#define AAD_BYTES_MAX                                                                          \
    (sizeof AAD_PREFIX + KIND_BYTES_MAX + ZNL_ID_BYTES_MAX + ZNL_SUBJECT_BYTES_MAX + 2)

static uint8_t *put(uint8_t *at, znl_frame frame)
{
    if (frame.size > 0)
        memcpy(at, frame.data, frame.size);
    return at + frame.size;
}

/* Returns the size, or 0 when a name is past its limit. */
static size_t write_aad(const znl_envelope_context *context, uint8_t aad[AAD_BYTES_MAX])
{
    if (context->kind.size > KIND_BYTES_MAX || context->sender_id.size > ZNL_ID_BYTES_MAX ||
            context->subject.size > ZNL_SUBJECT_BYTES_MAX)
        return 0;
    uint8_t *at = put(aad, znl_frame_of(AAD_PREFIX, sizeof AAD_PREFIX - 1));
    at = put(at, context->kind);
    *at++ = '|';
    at = put(at, context->sender_id);
    *at++ = '|';
    at = put(at, context->subject);
    return (size_t)(at - aad);
}

int znl_envelope_seal(const znl_keys *keys, const znl_envelope_context *context,
        const uint8_t iv[ZNL_AEAD_IV_BYTES], const znl_frame *frames, size_t count,
        znl_buffer *scratch, znl_frame out[ZNL_ENVELOPE_FRAMES])
{
    uint8_t aad[AAD_BYTES_MAX];
    size_t aad_size = write_aad(context, aad);
    if (aad_size == 0)
        return ZNL_E_TOO_BIG;
    size_t size;
    int err = znl_frames_packed_size(frames, count, &size);
    if (err != 0)
        return err;
    if (size > SIZE_MAX - ZNL_AEAD_TAG_BYTES)
        return ZNL_E_TOO_BIG;
    err = znl_buffer_reserve(scratch, ZNL_AEAD_TAG_BYTES + size);
    if (err != 0)
        return err;
    /* scratch: tag, then the packed frames, sealed where they are */
    uint8_t *tag = scratch->data;
    uint8_t *body = scratch->data + ZNL_AEAD_TAG_BYTES;
    znl_frames_pack(frames, count, body);
    err = znl_aead_seal(&keys->seal, iv, aad, aad_size, body, size, body, tag);
    if (err != 0)
        return err;
    scratch->size = ZNL_AEAD_TAG_BYTES + size;
    out[0] = znl_frame_of(VERSION, VERSION_BYTES);
    out[1] = znl_frame_of(iv, ZNL_AEAD_IV_BYTES);
    out[2] = znl_frame_of(tag, ZNL_AEAD_TAG_BYTES);
    out[3] = znl_frame_of(body, size);
    return 0;
}

/* True when `packed`, of which the count is read, holds exactly that many frames. */
static int well_formed(const uint8_t *packed, size_t size, size_t count)
{
    const uint8_t *at = packed + 4;
    const uint8_t *end = packed + size;
    for (; count > 0; count--) {
        if ((size_t)(end - at) < 4)
            return 0;
        size_t length = znl_get_be32(at);
        at += 4;
        if ((size_t)(end - at) < length)
            return 0;
        at += length;
    }
    return at == end;
}

int znl_envelope_open(const znl_keys *keys, const znl_envelope_context *context,
        const znl_frame *frames, size_t count, size_t max_frames, znl_buffer *scratch,
        znl_frame *packed)
{
    if (count != ZNL_ENVELOPE_FRAMES || frames[1].size != ZNL_AEAD_IV_BYTES ||
            frames[2].size != ZNL_AEAD_TAG_BYTES ||
            !znl_frame_equal(frames[0], znl_frame_of(VERSION, VERSION_BYTES)))
        return ZNL_E_ENVELOPE;
    uint8_t aad[AAD_BYTES_MAX];
    size_t aad_size = write_aad(context, aad);
    if (aad_size == 0)
        return ZNL_E_TOO_BIG;
    size_t size = frames[3].size;
    int err = znl_buffer_reserve(scratch, size > 0 ? size : 1);
    if (err != 0)
        return err;
    const uint8_t *body = size > 0 ? frames[3].data : scratch->data;
    err = znl_aead_open(&keys->seal, frames[1].data, aad, aad_size, body, size, frames[2].data,
            scratch->data);
    if (err != 0)
        return err;
    scratch->size = size;
    size_t inner;
    if (znl_frames_peek(scratch->data, size, &inner) != 0)
        return ZNL_E_UNPACK;
    if (inner > max_frames)
        return ZNL_E_TOO_BIG;
    if (!well_formed(scratch->data, size, inner))
        return ZNL_E_UNPACK;
    *packed = znl_frame_of(scratch->data, size);
    return 0;
}
