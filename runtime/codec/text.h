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

static inline int znl_utf8_is_tail(uint8_t c)
{
    return (c & 0xc0) == 0x80;
}

/* How long the character at `bytes` is, of which there are `left` > 0: 1 to 4, 0 when it is no UTF-8. */
static inline size_t znl_utf8_length(const uint8_t *bytes, size_t left)
{
    uint8_t c = bytes[0];
    if (c < 0x80)
        return 1;
    if (left < 2 || c < 0xc2 || !znl_utf8_is_tail(bytes[1]))
        return 0;
    if (c <= 0xdf)
        return 2;
    if (left < 3 || !znl_utf8_is_tail(bytes[2]))
        return 0;
    /* No overlong forms (E0), no surrogates (ED). */
    if (c <= 0xef)
        return (c == 0xe0 && bytes[1] < 0xa0) || (c == 0xed && bytes[1] > 0x9f) ? 0 : 3;
    if (left < 4 || c > 0xf4 || !znl_utf8_is_tail(bytes[3]))
        return 0;
    /* No overlong forms (F0), nothing past U+10FFFF (F4). */
    return (c == 0xf0 && bytes[1] < 0x90) || (c == 0xf4 && bytes[1] > 0x8f) ? 0 : 4;
}

#endif
