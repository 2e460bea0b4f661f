/* keys.c - see keys.h. SPDX-License-Identifier: MIT */
#include "security/keys.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

#include <pthread.h>
#include <sodium.h>

#define DEFAULT_SALT "znl-kdf-salt-v1"
#define SIGN_INFO "znl-kdf-sign-v1"
#define SEAL_INFO "znl-kdf-encrypt-v1"

/* Keys in the first block and in the largest. Every block costs guard pages and mappings, of
 * which a process may have 65530, so blocks grow with their number. sodium_malloc() aligns the
 * end of a block, so its size keeps the keys aligned. */
#define BLOCK_KEYS_MIN 8u
#define BLOCK_KEYS_MAX 1024u

_Static_assert(sizeof(znl_keys) % 16 == 0, "keys in a block must stay aligned");

struct block {
    struct block *next, *prev; /* all blocks */
    znl_keys *slots;           /* locked, guarded memory */
    unsigned capacity, used;
    unsigned free_count;
    unsigned short free_slots[]; /* indexes of unused slots */
};

/* Every thread takes its keys from the same blocks; a key itself belongs to one thread. */
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *blocks;
static size_t block_count;

static struct block *block_new(unsigned capacity)
{
    struct block *block = znl_malloc(sizeof *block + capacity * sizeof(unsigned short));
    if (block == NULL)
        return NULL;
    block->slots = znl_alloc_should_fail() ? NULL : sodium_malloc(capacity * sizeof(znl_keys));
    if (block->slots == NULL) {
        znl_free(block);
        return NULL;
    }
    memset(block->slots, 0, capacity * sizeof(znl_keys));
    block->capacity = block->free_count = capacity;
    block->used = 0;
    for (unsigned i = 0; i < capacity; i++)
        block->free_slots[i] = (unsigned short)(capacity - 1 - i);
    block->prev = NULL;
    block->next = blocks;
    if (blocks != NULL)
        blocks->prev = block;
    blocks = block;
    block_count++;
    return block;
}

static void block_unlink(struct block *block)
{
    if (block->prev != NULL)
        block->prev->next = block->next;
    else
        blocks = block->next;
    if (block->next != NULL)
        block->next->prev = block->prev;
}

/* Blocks with room stand before full ones, so the first block tells. */
static znl_keys *slot_take(void)
{
    struct block *block = blocks;
    if (block == NULL || block->free_count == 0) {
        unsigned capacity = BLOCK_KEYS_MIN;
        for (size_t i = 0; i < block_count && capacity < BLOCK_KEYS_MAX; i++)
            capacity *= 2;
        block = block_new(capacity);
        if (block == NULL)
            return NULL;
    }
    block->used++;
    znl_keys *keys = &block->slots[block->free_slots[--block->free_count]];
    keys->block = block;
    if (block->free_count == 0 && block->next != NULL && block->next->free_count > 0) {
        /* Full now: behind the next one, and so on until the rest is full as well. */
        block_unlink(block);
        struct block *after = blocks;
        while (after->next != NULL && after->next->free_count > 0)
            after = after->next;
        block->prev = after;
        block->next = after->next;
        if (after->next != NULL)
            after->next->prev = block;
        after->next = block;
    }
    return keys;
}

static void slot_give(znl_keys *keys)
{
    pthread_mutex_lock(&blocks_lock);
    struct block *block = keys->block;
    int was_full = block->free_count == 0;
    znl_aead_key_fini(&keys->seal);
    sodium_memzero(keys, sizeof *keys);
    block->free_slots[block->free_count++] = (unsigned short)(keys - block->slots);
    if (--block->used == 0) {
        block_unlink(block);
        block_count--;
        sodium_free(block->slots);
        znl_free(block);
    } else if (was_full && block != blocks) {
        block_unlink(block);
        block->prev = NULL;
        block->next = blocks;
        blocks->prev = block;
        blocks = block;
    }
    pthread_mutex_unlock(&blocks_lock);
}

/* HKDF-Expand of one block: the first 32 bytes of output. */
static void expand(const znl_hmac_key *prk, const char *info, uint8_t out[32])
{
    uint8_t text[32];
    size_t size = strlen(info);
    memcpy(text, info, size);
    text[size] = 1;
    znl_hmac(prk, text, size + 1, out);
}

int znl_keys_derive(znl_keys **out, znl_frame secret, znl_frame salt)
{
    if (secret.size == 0)
        return ZNL_E_INVALID;
    if (secret.size > ZNL_SECRET_BYTES_MAX || salt.size > ZNL_SECRET_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    pthread_mutex_lock(&blocks_lock);
    znl_keys *keys = slot_take();
    pthread_mutex_unlock(&blocks_lock);
    if (keys == NULL)
        return ZNL_E_NOMEM;
    if (salt.size == 0)
        salt = znl_frame_text(DEFAULT_SALT);
    /* RFC 5869. What is derived on the way stays in the locked slot, or is wiped. */
    uint8_t prk[32];
    uint8_t seal[32];
    znl_hmac_key_init(&keys->sign, salt.data, salt.size);
    znl_hmac(&keys->sign, secret.data, secret.size, prk);
    znl_hmac_key_init(&keys->sign, prk, sizeof prk);
    expand(&keys->sign, SEAL_INFO, seal);
    expand(&keys->sign, SIGN_INFO, keys->sign_raw);
    znl_hmac_key_init(&keys->sign, keys->sign_raw, sizeof keys->sign_raw);
    znl_hmac_begin(
            &keys->sign, ZNL_PROOF_BEGINNING, sizeof ZNL_PROOF_BEGINNING - 1, &keys->begun);
    znl_aead_key_init(&keys->seal, seal);
    keys->holders = 1;
    sodium_memzero(prk, sizeof prk);
    sodium_memzero(seal, sizeof seal);
    *out = keys;
    return 0;
}

znl_keys *znl_keys_hold(znl_keys *keys)
{
    keys->holders++;
    return keys;
}

void znl_keys_release(znl_keys *keys)
{
    if (keys != NULL && --keys->holders == 0)
        slot_give(keys);
}

size_t znl_keys_blocks(void)
{
    pthread_mutex_lock(&blocks_lock);
    size_t count = block_count;
    pthread_mutex_unlock(&blocks_lock);
    return count;
}

void znl_keys_export(const znl_keys *keys, uint8_t sign[32], uint8_t seal[32])
{
    memcpy(sign, keys->sign_raw, 32);
    memcpy(seal, keys->seal.raw, 32);
}
