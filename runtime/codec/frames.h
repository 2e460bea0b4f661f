/* frames.h - packed frames, the plaintext inside a sealed payload.
 *
 * Wire (WIRE.md, "Packed frames"; integers big-endian):
 *     u32 count, then for each frame: u32 length, bytes[length]
 *
 * Layer: codec. Pure functions: no I/O, no clock, no Lua, no allocation. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_FRAMES_H
#define ZNL_CODEC_FRAMES_H

#include "base/bytes.h"

/* Bytes that `count` frames pack to. ZNL_E_TOO_BIG when a frame or the sum does not fit 32 bits. */
int znl_frames_packed_size(const znl_frame *frames, size_t count, size_t *size);

/* Packs into `out`, which has room for znl_frames_packed_size() bytes. */
void znl_frames_pack(const znl_frame *frames, size_t count, uint8_t *out);

/* Reads the frame count only: 0, or ZNL_E_PROTO when `packed` cannot hold that many frames. */
int znl_frames_peek(const uint8_t *packed, size_t size, size_t *count);

/* Splits `packed` into at most `cap` frames.
 *
 * Returns 0, sets *count and fills frames[0 .. *count); each points into `packed`, which must
 * outlive them. On failure *count is untouched and `frames` is unspecified:
 *   ZNL_E_PROTO    input ends early, or bytes remain after the last frame
 *   ZNL_E_TOO_BIG  the sender announces more than `cap` frames */
int znl_frames_split(
        const uint8_t *packed, size_t size, znl_frame *frames, size_t cap, size_t *count);

#endif
