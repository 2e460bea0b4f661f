/* envelope.h - sealed payloads: packed frames under AES-256-GCM (spec, section 8).
 *
 * Wire: codec/WIRE.md, "Sealed payloads": version, iv, tag, ciphertext.
 * Layer: security. SPDX-License-Identifier: MIT */
#ifndef ZNL_SECURITY_ENVELOPE_H
#define ZNL_SECURITY_ENVELOPE_H

#include "base/bytes.h"
#include "security/keys.h"

#define ZNL_ENVELOPE_FRAMES 4u

/* What the associated data binds: "znl-aad-v1|" kind "|" sender id "|" subject. */
typedef struct znl_envelope_context {
    znl_frame kind;
    znl_frame sender_id;
    znl_frame subject;
} znl_envelope_context;

/* Seals `count` frames under a given iv. The four frames of `out` point into `scratch`, a static
 * string and `iv`, all of which must outlive them.
 * ZNL_E_TOO_BIG, ZNL_E_NOMEM. */
int znl_envelope_seal(const znl_keys *keys, const znl_envelope_context *context,
        const uint8_t iv[ZNL_AEAD_IV_BYTES], const znl_frame *frames, size_t count,
        znl_buffer *scratch, znl_frame out[ZNL_ENVELOPE_FRAMES]);

/* Opens an envelope. On success *packed holds the plaintext inside `scratch`, checked to be
 * well-formed packed frames in number at most `max_frames`; split it with znl_frames_split().
 * ZNL_E_ENVELOPE  not four frames, or a frame of the wrong size or version
 * ZNL_E_OPEN      the tag does not match
 * ZNL_E_UNPACK    the plaintext is malformed
 * ZNL_E_TOO_BIG   more frames than allowed */
int znl_envelope_open(const znl_keys *keys, const znl_envelope_context *context,
        const znl_frame *frames, size_t count, size_t max_frames, znl_buffer *scratch,
        znl_frame *packed);

#endif
