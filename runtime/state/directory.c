/* directory.c - see directory.h. SPDX-License-Identifier: MIT */
#include "state/directory.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/map.h"

#include <stdio.h>

#define SLOT_BITS 20u
#define SLOTS_MAX (1u << SLOT_BITS)
_Static_assert(
        ZNL_REGISTRATIONS_MAX < SLOTS_MAX, "a slot fits into an id, also while one replaces");

#define PORT_TEXT_BYTES 6u /* ":65535" */

struct place;

struct room { /* a namespace */
    znl_map_entry map;
    struct place **places; /* dense, so that one can be drawn */
    size_t count, capacity;
    uint64_t query; /* `excluded` counts for this one */
    size_t excluded;
    uint8_t name[];
};

struct place { /* a registration */
    znl_map_entry map;
    znl_registration shown;
    struct room *room;
    size_t index;   /* in room->places */
    uint64_t query; /* of the last search that excludes it */
    uint8_t key[];
};

struct znl_directory {
    uint32_t holds;
    size_t max;
    znl_map rooms, keys;
    struct place **slots;
    uint32_t slot_count; /* slots that were ever in use */
    uint32_t *free_slots;
    uint32_t free_count, capacity; /* of both arrays */
    uint32_t uses;                 /* of all slots: the upper part of an id */
    uint64_t query;
    znl_directory_counters counters;
};

int znl_directory_new(znl_directory **out, size_t max)
{
    znl_directory *directory = znl_calloc(1, sizeof *directory);
    if (directory == NULL)
        return ZNL_E_NOMEM;
    directory->holds = 1;
    directory->max = max < ZNL_REGISTRATIONS_MAX ? max : ZNL_REGISTRATIONS_MAX;
    directory->query = 1;
    *out = directory;
    return 0;
}

znl_directory *znl_directory_hold(znl_directory *directory)
{
    directory->holds++;
    return directory;
}

void znl_directory_release(znl_directory *directory)
{
    if (directory == NULL || --directory->holds > 0)
        return;
    znl_map_entry *entry;
    while ((entry = znl_map_next(&directory->rooms, NULL)) != NULL) {
        struct room *room = (struct room *)(void *)entry;
        znl_map_remove(&directory->rooms, entry);
        for (size_t i = 0; i < room->count; i++)
            znl_free(room->places[i]);
        znl_free(room->places);
        znl_free(room);
    }
    znl_map_fini(&directory->rooms);
    znl_map_fini(&directory->keys);
    znl_free(directory->slots);
    znl_free(directory->free_slots);
    znl_free(directory);
}

static struct room *find_room(const znl_directory *directory, znl_frame namespace)
{
    return (struct room *)(void *)znl_map_find(
            &directory->rooms, namespace, znl_map_hash(namespace));
}

static struct place *find_place(const znl_directory *directory, znl_frame key)
{
    return (struct place *)(void *)znl_map_find(&directory->keys, key, znl_map_hash(key));
}

static struct place *place_of(const znl_directory *directory, uint64_t id)
{
    uint32_t slot = (uint32_t)id & (SLOTS_MAX - 1);
    if (slot >= directory->slot_count)
        return NULL;
    struct place *place = directory->slots[slot];
    return place != NULL && place->shown.id == id ? place : NULL;
}

/* --- adding ----------------------------------------------------------------------------------- */

/* Room for one slot more. */
static int reserve_slot(znl_directory *directory)
{
    if (directory->free_count > 0 || directory->slot_count < directory->capacity)
        return 0;
    uint32_t capacity = directory->capacity ? directory->capacity * 2 : 16;
    struct place **slots = znl_realloc(directory->slots, capacity * sizeof(struct place *));
    if (slots == NULL)
        return ZNL_E_NOMEM;
    directory->slots = slots;
    uint32_t *free_slots = znl_realloc(directory->free_slots, capacity * sizeof *free_slots);
    if (free_slots == NULL)
        return ZNL_E_NOMEM;
    directory->free_slots = free_slots;
    directory->capacity = capacity;
    return 0;
}

static int reserve_place(struct room *room)
{
    if (room->count < room->capacity)
        return 0;
    size_t capacity = room->capacity ? room->capacity * 2 : 1;
    struct place **places = znl_realloc(room->places, capacity * sizeof(struct place *));
    if (places == NULL)
        return ZNL_E_NOMEM;
    room->places = places;
    room->capacity = capacity;
    return 0;
}

static void drop_room_if_empty(znl_directory *directory, struct room *room)
{
    if (room->count > 0)
        return;
    znl_map_remove(&directory->rooms, &room->map);
    znl_free(room->places);
    znl_free(room);
}

/* The namespace with room for one more. */
static int open_room(znl_directory *directory, znl_frame name, struct room **out)
{
    struct room *room = find_room(directory, name);
    if (room == NULL) {
        room = znl_calloc(1, sizeof *room + name.size);
        if (room == NULL)
            return ZNL_E_NOMEM;
        memcpy(room->name, name.data, name.size);
        room->map.key = znl_frame_of(room->name, name.size);
        room->map.hash = znl_map_hash(name);
        if (znl_map_put(&directory->rooms, &room->map) != 0) {
            znl_free(room);
            return ZNL_E_NOMEM;
        }
    }
    if (reserve_place(room) != 0) {
        drop_room_if_empty(directory, room);
        return ZNL_E_NOMEM;
    }
    *out = room;
    return 0;
}

static struct place *make_place(znl_frame host, uint32_t port)
{
    struct place *place = znl_calloc(1, sizeof *place + host.size + PORT_TEXT_BYTES + 1);
    if (place == NULL)
        return NULL;
    memcpy(place->key, host.data, host.size);
    int port_size = snprintf(
            (char *)place->key + host.size, PORT_TEXT_BYTES + 1, ":%u", (unsigned)port);
    place->map.key = znl_frame_of(place->key, host.size + (size_t)port_size);
    place->map.hash = znl_map_hash(place->map.key);
    place->shown.key = place->map.key;
    place->shown.host = znl_frame_of(place->key, host.size);
    place->shown.port = port;
    return place;
}

static void take_slot(znl_directory *directory, struct place *place)
{
    uint32_t slot = directory->free_count > 0 ? directory->free_slots[--directory->free_count]
                                              : directory->slot_count++;
    if (++directory->uses == 0)
        directory->uses = 1; /* so that no id is 0 */
    directory->slots[slot] = place;
    place->shown.id = (uint64_t)directory->uses << SLOT_BITS | slot;
}

/* Takes a registration out of everything but the map of keys, and frees it. */
static void discard(znl_directory *directory, struct place *place)
{
    struct room *room = place->room;
    struct place *last = room->places[--room->count];
    room->places[place->index] = last;
    last->index = place->index;
    if (place->query == directory->query && room->query == directory->query)
        room->excluded--;
    drop_room_if_empty(directory, room);
    uint32_t slot = (uint32_t)place->shown.id & (SLOTS_MAX - 1);
    directory->slots[slot] = NULL;
    directory->free_slots[directory->free_count++] = slot;
    znl_free(place);
}

int znl_directory_add(znl_directory *directory, znl_frame namespace, znl_frame host,
        uint32_t port, uint64_t now_ms, uint64_t *id, uint64_t *replaced)
{
    struct room *room = NULL;
    if (namespace.size == 0 || host.size == 0 || port == 0 || port > 65535)
        return ZNL_E_INVALID;
    if (namespace.size > ZNL_NAMESPACE_BYTES_MAX || host.size > ZNL_HOST_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    struct place *place = make_place(host, port);
    if (place == NULL)
        return ZNL_E_NOMEM;
    struct place *old = find_place(directory, place->map.key);
    int err = ZNL_E_LIMIT;
    if (old == NULL && directory->keys.count >= directory->max) {
        directory->counters.refused++;
        goto fail;
    }
    err = reserve_slot(directory);
    if (err == 0)
        err = open_room(directory, namespace, &room);
    if (err == 0)
        err = znl_map_put(&directory->keys, &place->map);
    if (err != 0) {
        if (room != NULL)
            drop_room_if_empty(directory, room);
        goto fail;
    }

    /* Entered before the old one goes: the namespace of both may be the same. */
    place->room = room;
    place->index = room->count;
    room->places[room->count++] = place;
    take_slot(directory, place);
    place->shown.namespace = room->map.key;
    place->shown.since_ms = now_ms;
    *id = place->shown.id;
    *replaced = 0;
    directory->counters.added++;
    if (old != NULL) {
        *replaced = old->shown.id;
        directory->counters.replaced++;
        znl_map_remove(&directory->keys, &old->map);
        discard(directory, old);
    }
    return 0;
fail:
    znl_free(place);
    return err;
}

int znl_directory_remove(znl_directory *directory, uint64_t id)
{
    struct place *place = place_of(directory, id);
    if (place == NULL)
        return 0;
    directory->counters.removed++;
    znl_map_remove(&directory->keys, &place->map);
    discard(directory, place);
    return 1;
}

/* --- choosing --------------------------------------------------------------------------------- */

void znl_directory_begin(znl_directory *directory)
{
    directory->query++;
}

void znl_directory_exclude(znl_directory *directory, znl_frame key)
{
    struct place *place = find_place(directory, key);
    if (place == NULL || place->query == directory->query)
        return;
    struct room *room = place->room;
    if (room->query != directory->query) {
        room->query = directory->query;
        room->excluded = 0;
    }
    place->query = directory->query;
    room->excluded++;
}

/* 0 .. count - 1 out of 64 random bits (Lemire's method; the bias is below count / 2^64). */
static size_t draw(uint64_t random, size_t count)
{
    return (size_t)((unsigned __int128)random * count >> 64);
}

/* The next of a row of numbers (SplitMix64). */
static uint64_t next_random(uint64_t *row)
{
    uint64_t value = *row += 0x9e3779b97f4a7c15u;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

const znl_registration *znl_directory_choose(
        znl_directory *directory, znl_frame namespace, uint64_t random)
{
    struct room *room = find_room(directory, namespace);
    size_t excluded = room != NULL && room->query == directory->query ? room->excluded : 0;
    directory->counters.finds++;
    if (room == NULL || excluded == room->count) {
        directory->counters.misses++;
        return NULL;
    }
    if (excluded == 0)
        return &room->places[draw(random, room->count)]->shown;
    size_t left = room->count - excluded;
    if (excluded <= left) { /* half of the draws hit, at least */
        for (unsigned tries = 0; tries < 64; tries++) {
            struct place *place = room->places[draw(next_random(&random), room->count)];
            if (place->query != directory->query)
                return &place->shown;
        }
    }
    size_t nth = draw(next_random(&random), left);
    for (size_t i = 0;; i++) {
        struct place *place = room->places[i];
        if (place->query != directory->query && nth-- == 0)
            return &place->shown;
    }
}

/* --- looking ---------------------------------------------------------------------------------- */

const znl_registration *znl_directory_find(const znl_directory *directory, znl_frame key)
{
    struct place *place = find_place(directory, key);
    return place != NULL ? &place->shown : NULL;
}

const znl_registration *znl_directory_get(const znl_directory *directory, uint64_t id)
{
    struct place *place = place_of(directory, id);
    return place != NULL ? &place->shown : NULL;
}

size_t znl_directory_count(const znl_directory *directory)
{
    return directory->keys.count;
}

size_t znl_directory_namespace_count(const znl_directory *directory)
{
    return directory->rooms.count;
}

size_t znl_directory_peer_count(const znl_directory *directory, znl_frame namespace)
{
    struct room *room = find_room(directory, namespace);
    return room != NULL ? room->count : 0;
}

const znl_registration *znl_directory_peer(
        const znl_directory *directory, znl_frame namespace, size_t index)
{
    struct room *room = find_room(directory, namespace);
    return room != NULL && index < room->count ? &room->places[index]->shown : NULL;
}

int znl_directory_next_namespace(
        const znl_directory *directory, const void **at, znl_frame *namespace, size_t *count)
{
    const struct room *room = (const struct room *)(const void *)znl_map_next(
            &directory->rooms, *at);
    *at = room;
    if (room == NULL)
        return 0;
    *namespace = room->map.key;
    *count = room->count;
    return 1;
}

void znl_directory_count_all(const znl_directory *directory, znl_directory_counters *out)
{
    *out = directory->counters;
}
