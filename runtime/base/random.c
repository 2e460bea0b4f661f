/* random.c - see random.h. SPDX-License-Identifier: MIT */
#include "base/random.h"

#include "base/err.h"

#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <string.h>

#define POOL_BYTES 4096u

struct pool {
    uint8_t bytes[POOL_BYTES];
    size_t left;     /* unused bytes, at the end */
    unsigned forked; /* `forks` when it was filled */
};

static _Thread_local struct pool pool;
/* Times this process is a forked child: a copied pool must not be used. */
static atomic_uint forks;

static void in_child(void)
{
    atomic_fetch_add(&forks, 1);
}

int znl_random_start(void)
{
    static atomic_flag registered = ATOMIC_FLAG_INIT;
    if (sodium_init() < 0)
        return ZNL_E_SYSTEM;
    if (!atomic_flag_test_and_set(&registered) && pthread_atfork(NULL, NULL, in_child) != 0) {
        atomic_flag_clear(&registered);
        return ZNL_E_NOMEM;
    }
    return 0;
}

/* A fresh ChaCha20 stream under a fresh key: the key is gone before the bytes are used. */
static void refill(void)
{
    uint8_t seed[randombytes_SEEDBYTES];
    randombytes_buf(seed, sizeof seed);
    randombytes_buf_deterministic(pool.bytes, sizeof pool.bytes, seed);
    sodium_memzero(seed, sizeof seed);
    pool.left = sizeof pool.bytes;
    pool.forked = atomic_load_explicit(&forks, memory_order_relaxed);
}

void znl_random_bytes(void *out, size_t size)
{
    if (size == 0)
        return;
    if (size > sizeof pool.bytes / 4) {
        randombytes_buf(out, size);
        return;
    }
    if (pool.left < size || pool.forked != atomic_load_explicit(&forks, memory_order_relaxed))
        refill();
    uint8_t *from = pool.bytes + (sizeof pool.bytes - pool.left);
    memcpy(out, from, size);
    memset(from, 0, size);
    pool.left -= size;
}

uint64_t znl_random_u64(void)
{
    uint64_t value;
    znl_random_bytes(&value, sizeof value);
    return value;
}
