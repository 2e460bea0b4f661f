/* aead.c - see aead.h. SPDX-License-Identifier: MIT */
#include "security/aead.h"

#include "base/alloc.h"
#include "base/err.h"

#include <openssl/evp.h>
#include <sodium.h>
#include <stdatomic.h>
#include <string.h>

_Static_assert(sizeof(crypto_aead_aes256gcm_state) <= sizeof((znl_aead_key *)0)->schedule,
        "the schedule of znl_aead_key is too small");

/* EVP takes int lengths. */
#define CHUNK_BYTES ((size_t)1 << 30)

/* One context per thread. It keeps the schedule of the key used last, told by its serial: a
 * slave sets its key once, and memory that is used again is not mistaken for the old key. */
struct cipher {
    EVP_CIPHER_CTX *context;
    uint64_t serial;
};

static _Thread_local struct cipher cipher;
static _Atomic uint64_t serials;
static znl_aead_backend forced = ZNL_AEAD_AUTO;

int znl_aead_backend_set(znl_aead_backend backend)
{
    if (backend == ZNL_AEAD_SODIUM && !crypto_aead_aes256gcm_is_available())
        return ZNL_E_NOT_FOUND;
    forced = backend;
    return 0;
}

void znl_aead_key_init(znl_aead_key *key, const uint8_t raw[ZNL_AEAD_KEY_BYTES])
{
    memset(key, 0, sizeof *key);
    memcpy(key->raw, raw, sizeof key->raw);
    key->serial = atomic_fetch_add_explicit(&serials, 1, memory_order_relaxed) + 1;
    key->has_schedule = crypto_aead_aes256gcm_is_available();
    if (key->has_schedule)
        crypto_aead_aes256gcm_beforenm((crypto_aead_aes256gcm_state *)key->schedule, raw);
}

void znl_aead_key_fini(znl_aead_key *key)
{
    if (cipher.serial == key->serial)
        znl_aead_thread_end();
    sodium_memzero(key, sizeof *key);
}

void znl_aead_thread_end(void)
{
    EVP_CIPHER_CTX_free(cipher.context); /* cleanses what it frees */
    cipher = (struct cipher){0};
}

static int by_sodium(const znl_aead_key *key, size_t size)
{
    if (!key->has_schedule || forced == ZNL_AEAD_CRYPTO)
        return 0;
    return size < ZNL_AEAD_SMALL_BYTES || forced == ZNL_AEAD_SODIUM;
}

/* The context of this thread, keyed, with the iv set. NULL when out of memory. */
static EVP_CIPHER_CTX *cipher_ready(const znl_aead_key *key, const uint8_t *iv, int encrypt)
{
    if (cipher.context == NULL) {
        if (znl_alloc_should_fail())
            return NULL;
        cipher.context = EVP_CIPHER_CTX_new();
        if (cipher.context == NULL ||
                !EVP_CipherInit_ex(
                        cipher.context, EVP_aes_256_gcm(), NULL, NULL, NULL, encrypt)) {
            znl_aead_thread_end();
            return NULL;
        }
    }
    const uint8_t *raw = cipher.serial == key->serial ? NULL : key->raw;
    if (!EVP_CipherInit_ex(cipher.context, NULL, NULL, raw, iv, encrypt)) {
        znl_aead_thread_end();
        return NULL;
    }
    cipher.serial = key->serial;
    return cipher.context;
}

/* Feeds `size` bytes; `out` NULL means associated data. */
static int cipher_feed(EVP_CIPHER_CTX *context, uint8_t *out, const uint8_t *in, size_t size)
{
    while (size > 0) {
        int part = (int)(size < CHUNK_BYTES ? size : CHUNK_BYTES);
        int written;
        if (!EVP_CipherUpdate(context, out, &written, in, part))
            return ZNL_E_NOMEM;
        if (out != NULL)
            out += part;
        in += part;
        size -= (size_t)part;
    }
    return 0;
}

int znl_aead_seal(const znl_aead_key *key, const uint8_t iv[ZNL_AEAD_IV_BYTES],
        const uint8_t *aad, size_t aad_size, const uint8_t *plain, size_t size,
        uint8_t *cipher_text, uint8_t tag[ZNL_AEAD_TAG_BYTES])
{
    if (by_sodium(key, size)) {
        int failed = crypto_aead_aes256gcm_encrypt_detached_afternm(cipher_text, tag, NULL,
                plain, size, aad, aad_size, NULL, iv,
                (const crypto_aead_aes256gcm_state *)key->schedule);
        return failed ? ZNL_E_NOMEM : 0;
    }
    EVP_CIPHER_CTX *context = cipher_ready(key, iv, 1);
    uint8_t none[16];
    int written;
    if (context == NULL || cipher_feed(context, NULL, aad, aad_size) != 0 ||
            cipher_feed(context, cipher_text, plain, size) != 0 ||
            !EVP_CipherFinal_ex(context, none, &written) ||
            !EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, ZNL_AEAD_TAG_BYTES, tag)) {
        znl_aead_thread_end();
        return ZNL_E_NOMEM;
    }
    return 0;
}

int znl_aead_open(const znl_aead_key *key, const uint8_t iv[ZNL_AEAD_IV_BYTES],
        const uint8_t *aad, size_t aad_size, const uint8_t *cipher_text, size_t size,
        const uint8_t tag[ZNL_AEAD_TAG_BYTES], uint8_t *plain)
{
    if (by_sodium(key, size)) {
        int failed = crypto_aead_aes256gcm_decrypt_detached_afternm(plain, NULL, cipher_text,
                size, tag, aad, aad_size, iv,
                (const crypto_aead_aes256gcm_state *)key->schedule);
        if (failed && size > 0)
            sodium_memzero(plain, size);
        return failed ? ZNL_E_OPEN : 0;
    }
    EVP_CIPHER_CTX *context = cipher_ready(key, iv, 0);
    uint8_t expected[ZNL_AEAD_TAG_BYTES];
    uint8_t none[16];
    int written;
    memcpy(expected, tag, sizeof expected);
    if (context == NULL ||
            !EVP_CIPHER_CTX_ctrl(
                    context, EVP_CTRL_AEAD_SET_TAG, ZNL_AEAD_TAG_BYTES, expected) ||
            cipher_feed(context, NULL, aad, aad_size) != 0 ||
            cipher_feed(context, plain, cipher_text, size) != 0) {
        znl_aead_thread_end();
        return ZNL_E_NOMEM;
    }
    if (EVP_CipherFinal_ex(context, none, &written) > 0)
        return 0;
    if (size > 0)
        sodium_memzero(plain, size);
    return ZNL_E_OPEN;
}
