/* z85.h - bytes as text of 85 characters (RFC 32 of ZeroMQ): four bytes are five characters.
 *
 * Layer: codec. Pure functions. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_Z85_H
#define ZNL_CODEC_Z85_H

#include "base/bytes.h"

/* Writes text.size / 5 * 4 bytes. 0, or ZNL_E_INVALID: a length that is no multiple of five, another character, or
 * a group above 32 bits; then what was written means nothing. */
int znl_z85_decode(znl_frame text, uint8_t *out);

/* `size` is a multiple of four; writes size / 4 * 5 characters and a zero byte. */
void znl_z85_encode(const uint8_t *bytes, size_t size, char *out);

#endif
