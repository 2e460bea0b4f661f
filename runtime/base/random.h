/* random.h - unpredictable bytes without a system call per message.
 *
 * A buffer of libsodium's generator output, wiped as it is used and thrown away in a forked child.
 * One buffer per thread. znl_random_start() must have run before.
 *
 * Any thread. Layer: base. SPDX-License-Identifier: MIT */
#ifndef ZNL_BASE_RANDOM_H
#define ZNL_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Initialises libsodium. 0, ZNL_E_SYSTEM without a source of randomness, or ZNL_E_NOMEM. */
int znl_random_start(void);

void znl_random_bytes(void *out, size_t size);

uint64_t znl_random_u64(void);

#endif
