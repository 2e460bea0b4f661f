/* text.h - hex and base64url, by table.
 *
 * Layer: codec. Pure functions. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_TEXT_H
#define ZNL_CODEC_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Lowercase hex: writes 2 * size characters, no terminator. */
void znl_hex_encode(const uint8_t *bytes, size_t size, char *out);

/* Reads exactly `size` hex digits (even number, lowercase only) to size / 2 bytes. 0 or ZNL_E_PROTO. */
int znl_hex_decode(const char *text, size_t size, uint8_t *out);

/* Characters that `size` bytes take in base64url without padding. */
size_t znl_base64url_size(size_t size);

/* base64url without padding (RFC 4648, section 5). Returns the characters written. */
size_t znl_base64url_encode(const uint8_t *bytes, size_t size, char *out);

/* Strict: no padding, no other characters, no stray bits. `out` has room for size * 3 / 4 bytes.
 * 0 and *out_size, or ZNL_E_PROTO. */
int znl_base64url_decode(const char *text, size_t size, uint8_t *out, size_t *out_size);

/* True when the bytes are valid UTF-8 (RFC 3629). */
int znl_utf8_valid(const uint8_t *bytes, size_t size);

#endif
