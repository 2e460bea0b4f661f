/* curve.h - the keys of one end of CURVE, the encryption of ZMTP (RFC 26 of ZeroMQ).
 *
 * A server has a secret key, whose public half its clients know. A client has a pair of its own, by which a server
 * may know it. Keys are Z85 text; here they are bytes in guarded memory, wiped with the last holder.
 *
 * Layer: security. One thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_SECURITY_CURVE_H
#define ZNL_SECURITY_CURVE_H

#include "base/bytes.h"

#define ZNL_CURVE_KEY_BYTES 32u
#define ZNL_CURVE_TEXT_BYTES 40u /* of such a key; a zero byte follows */

typedef struct znl_curve {
    uint8_t secret_key[ZNL_CURVE_KEY_BYTES];
    uint8_t public_key[ZNL_CURVE_KEY_BYTES];
    uint8_t server_key[ZNL_CURVE_KEY_BYTES]; /* of a client */
    int is_server;
    size_t allowed_count;
    uint8_t (*allowed)[ZNL_CURVE_KEY_BYTES]; /* sorted; for curve.c only */
    unsigned holders;
} znl_curve;

typedef struct znl_curve_texts {
    znl_frame secret_key;     /* client: empty with an empty public key: a pair is made */
    znl_frame public_key;     /* empty: that of the secret key */
    znl_frame server_key;     /* client */
    const znl_frame *allowed; /* server: public keys of clients; none: any client */
    size_t allowed_count;
} znl_curve_texts;

/* Reads keys; the caller holds the result and releases it. On failure *which names the key at fault.
 *   ZNL_E_INVALID  not 40 characters of Z85; a public key that is not that of the secret key, or stands alone
 *   ZNL_E_TOO_BIG  more than ZNL_CURVE_ALLOWED_MAX are allowed
 *   ZNL_E_NOMEM */
int znl_curve_new(
        znl_curve **out, int is_server, const znl_curve_texts *texts, const char **which);

znl_curve *znl_curve_hold(znl_curve *curve);

/* Gives one count back; wipes and frees at zero. Accepts NULL. */
void znl_curve_release(znl_curve *curve);

/* Whether a client with that public key may connect. */
int znl_curve_allows(const znl_curve *curve, znl_frame public_key);

/* A new pair as text; both have room for ZNL_CURVE_TEXT_BYTES + 1. Wipe the secret one after use. */
void znl_curve_make_pair(char *public_key, char *secret_key);

#endif
