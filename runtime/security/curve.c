/* curve.c - see curve.h. SPDX-License-Identifier: MIT */
#include "security/curve.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "codec/z85.h"

#include <sodium.h>
#include <stdlib.h>

_Static_assert(ZNL_CURVE_KEY_BYTES == crypto_box_PUBLICKEYBYTES &&
                ZNL_CURVE_KEY_BYTES == crypto_box_SECRETKEYBYTES,
        "keys of CURVE are those of libsodium");

static int read_key(uint8_t *key, znl_frame text, const char *name, const char **which)
{
    *which = name;
    return text.size == ZNL_CURVE_TEXT_BYTES ? znl_z85_decode(text, key) : ZNL_E_INVALID;
}

static int is_zero(const uint8_t *key)
{
    return sodium_is_zero(key, ZNL_CURVE_KEY_BYTES);
}

/* The own pair. */
static int read_pair(znl_curve *curve, const znl_curve_texts *texts, const char **which)
{
    uint8_t given[ZNL_CURVE_KEY_BYTES];
    if (!curve->is_server && texts->secret_key.size == 0 && texts->public_key.size == 0) {
        crypto_box_keypair(curve->public_key, curve->secret_key);
        return 0;
    }
    int err = read_key(curve->secret_key, texts->secret_key, "secret_key", which);
    if (err != 0)
        return err;
    if (crypto_scalarmult_base(curve->public_key, curve->secret_key) != 0 ||
            is_zero(curve->secret_key))
        return ZNL_E_INVALID;
    if (texts->public_key.size == 0)
        return 0;
    err = read_key(given, texts->public_key, "public_key", which);
    if (err == 0 && sodium_memcmp(given, curve->public_key, sizeof given) != 0)
        err = ZNL_E_INVALID;
    return err;
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, ZNL_CURVE_KEY_BYTES);
}

static int read_allowed(znl_curve *curve, const znl_curve_texts *texts, const char **which)
{
    *which = "allow";
    if (texts->allowed_count == 0)
        return 0;
    if (texts->allowed_count > ZNL_CURVE_ALLOWED_MAX)
        return ZNL_E_TOO_BIG;
    curve->allowed = znl_calloc(texts->allowed_count, sizeof *curve->allowed);
    if (curve->allowed == NULL)
        return ZNL_E_NOMEM;
    curve->allowed_count = texts->allowed_count;
    for (size_t i = 0; i < texts->allowed_count; i++) {
        int err = read_key(curve->allowed[i], texts->allowed[i], "allow", which);
        if (err != 0)
            return err;
    }
    qsort(curve->allowed, curve->allowed_count, sizeof *curve->allowed, compare);
    return 0;
}

int znl_curve_new(
        znl_curve **out, int is_server, const znl_curve_texts *texts, const char **which)
{
    *which = "";
    znl_curve *curve = znl_alloc_should_fail() ? NULL : sodium_malloc(sizeof *curve);
    if (curve == NULL)
        return ZNL_E_NOMEM;
    memset(curve, 0, sizeof *curve);
    curve->is_server = is_server != 0;
    curve->holders = 1;
    int err = read_pair(curve, texts, which);
    if (err == 0 && is_server)
        err = read_allowed(curve, texts, which);
    if (err == 0 && !is_server) {
        err = read_key(curve->server_key, texts->server_key, "server_key", which);
        if (err == 0 && is_zero(curve->server_key))
            err = ZNL_E_INVALID;
    }
    if (err != 0) {
        znl_curve_release(curve);
        return err;
    }
    *out = curve;
    return 0;
}

znl_curve *znl_curve_hold(znl_curve *curve)
{
    curve->holders++;
    return curve;
}

void znl_curve_release(znl_curve *curve)
{
    if (curve == NULL || --curve->holders > 0)
        return;
    znl_free(curve->allowed);
    sodium_free(curve); /* wipes */
}

int znl_curve_allows(const znl_curve *curve, znl_frame public_key)
{
    if (curve->allowed_count == 0)
        return 1;
    return public_key.size == ZNL_CURVE_KEY_BYTES &&
            bsearch(public_key.data, curve->allowed, curve->allowed_count,
                    sizeof *curve->allowed, compare) != NULL;
}

void znl_curve_make_pair(char *public_key, char *secret_key)
{
    uint8_t public_bytes[ZNL_CURVE_KEY_BYTES], secret_bytes[ZNL_CURVE_KEY_BYTES];
    crypto_box_keypair(public_bytes, secret_bytes);
    znl_z85_encode(public_bytes, sizeof public_bytes, public_key);
    znl_z85_encode(secret_bytes, sizeof secret_bytes, secret_key);
    sodium_memzero(secret_bytes, sizeof secret_bytes);
}
