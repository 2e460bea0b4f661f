/* keyring.c - see keyring.h. SPDX-License-Identifier: MIT */
#include "security/keyring.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

struct entry {
    znl_map_entry link; /* first: the map hands these out */
    znl_keys *keys;
    uint8_t id[];
};

struct znl_keyring {
    znl_map map;
    znl_keys *shared;
    znl_frame salt; /* owned, in the same block */
    uint8_t salt_bytes[];
};

int znl_keyring_new(znl_keyring **out, znl_frame salt)
{
    if (salt.size > ZNL_SECRET_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    znl_keyring *ring = znl_calloc(1, sizeof *ring + salt.size);
    if (ring == NULL)
        return ZNL_E_NOMEM;
    if (salt.size > 0)
        memcpy(ring->salt_bytes, salt.data, salt.size);
    ring->salt = znl_frame_of(ring->salt_bytes, salt.size);
    *out = ring;
    return 0;
}

static void entry_drop(znl_keyring *ring, struct entry *entry)
{
    znl_map_remove(&ring->map, &entry->link);
    znl_keys_release(entry->keys);
    znl_free(entry);
}

void znl_keyring_free(znl_keyring *ring)
{
    if (ring == NULL)
        return;
    znl_map_entry *last = NULL;
    for (znl_map_entry *at = znl_map_next(&ring->map, NULL); at != NULL;) {
        last = at;
        at = znl_map_next(&ring->map, at);
        entry_drop(ring, (struct entry *)last);
    }
    znl_map_fini(&ring->map);
    znl_keys_release(ring->shared);
    znl_free(ring);
}

int znl_keyring_set_shared(znl_keyring *ring, znl_frame secret)
{
    znl_keys *keys = NULL;
    if (secret.size > 0) {
        int err = znl_keys_derive(&keys, secret, ring->salt);
        if (err != 0)
            return err;
    }
    znl_keys_release(ring->shared);
    ring->shared = keys;
    return 0;
}

int znl_keyring_set(znl_keyring *ring, znl_frame id, znl_frame secret)
{
    if (id.size == 0 || secret.size == 0)
        return ZNL_E_INVALID;
    if (id.size > ZNL_ID_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    uint64_t hash = znl_map_hash(id);
    struct entry *entry = (struct entry *)znl_map_find(&ring->map, id, hash);
    if (entry == NULL && ring->map.count >= ZNL_KEYS_MAX)
        return ZNL_E_LIMIT;
    znl_keys *keys;
    int err = znl_keys_derive(&keys, secret, ring->salt);
    if (err != 0)
        return err;
    if (entry != NULL) {
        znl_keys_release(entry->keys);
        entry->keys = keys;
        return 0;
    }
    entry = znl_malloc(sizeof *entry + id.size);
    if (entry == NULL) {
        znl_keys_release(keys);
        return ZNL_E_NOMEM;
    }
    memcpy(entry->id, id.data, id.size);
    entry->keys = keys;
    entry->link.hash = hash;
    entry->link.key = znl_frame_of(entry->id, id.size);
    err = znl_map_put(&ring->map, &entry->link);
    if (err != 0) {
        znl_keys_release(keys);
        znl_free(entry);
    }
    return err;
}

int znl_keyring_remove(znl_keyring *ring, znl_frame id)
{
    struct entry *entry = (struct entry *)znl_map_find(&ring->map, id, znl_map_hash(id));
    if (entry == NULL)
        return ZNL_E_NOT_FOUND;
    entry_drop(ring, entry);
    return 0;
}

znl_keys *znl_keyring_find(const znl_keyring *ring, znl_frame id, uint64_t hash)
{
    const struct entry *entry = (const struct entry *)znl_map_find(&ring->map, id, hash);
    return entry != NULL ? entry->keys : ring->shared;
}
