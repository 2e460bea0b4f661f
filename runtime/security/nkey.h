/* nkey.h - logging in to a NATS server with an Ed25519 key: the seed never leaves, a nonce is signed.
 *
 * A seed as text is base32 (RFC 4648, no padding) of two bytes that say whose it is, 32 of seed, and a CRC-16 (XMODEM,
 * little-endian). Layer: security. No sockets. SPDX-License-Identifier: MIT */
#ifndef ZNL_SECURITY_NKEY_H
#define ZNL_SECURITY_NKEY_H

#include "base/bytes.h"

#define ZNL_NKEY_PUBLIC_BYTES 57u    /* "U…" and a zero byte */
#define ZNL_NKEY_SIGNATURE_BYTES 87u /* base64url and a zero byte */
#define ZNL_NKEY_FILE_BYTES_MAX 65536u

/* Signs `nonce` with the seed of a user ("SU…"). 0, ZNL_E_INVALID (no such seed), ZNL_E_NOMEM. */
int znl_nkey_sign(znl_frame seed, znl_frame nonce, char *public_key, char *signature);

/* The seed in a file: the first line that begins with "SU", or between the marks of a credentials file. Points into
 * `file`. 0 or ZNL_E_INVALID. */
int znl_nkey_find_seed(znl_frame file, znl_frame *seed);

/* The token between the marks of a credentials file. 0 or ZNL_E_INVALID. */
int znl_nkey_find_token(znl_frame file, znl_frame *token);

#endif
