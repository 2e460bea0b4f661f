/* keyring.h - which keys a master uses for which slave (spec, section 5).
 *
 * Order: the entry of that id, then the shared key, then none. Keys are derived when set.
 *
 * Layer: security. SPDX-License-Identifier: MIT */
#ifndef ZNL_SECURITY_KEYRING_H
#define ZNL_SECURITY_KEYRING_H

#include "base/map.h"
#include "security/keys.h"

typedef struct znl_keyring znl_keyring;

/* `salt` is copied; empty means the default salt. */
int znl_keyring_new(znl_keyring **out, znl_frame salt);
void znl_keyring_free(znl_keyring *ring);

/* Sets the shared key; an empty secret removes it. */
int znl_keyring_set_shared(znl_keyring *ring, znl_frame secret);

/* Sets or replaces the key of one id; ZNL_E_LIMIT past ZNL_KEYS_MAX, ZNL_E_INVALID for an empty
 * id or secret. */
int znl_keyring_set(znl_keyring *ring, znl_frame id, znl_frame secret);

/* Removes the key of one id: ZNL_E_NOT_FOUND when there is none. */
int znl_keyring_remove(znl_keyring *ring, znl_frame id);

/* The keys to use for `id`, borrowed, or NULL. `hash` is znl_map_hash(id). */
znl_keys *znl_keyring_find(const znl_keyring *ring, znl_frame id, uint64_t hash);

#endif
