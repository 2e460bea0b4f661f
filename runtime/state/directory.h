/* directory.h - which addresses serve which namespace: the table of a registry.
 *
 * A registration belongs to the connection that made it and is named by an id that is never given twice,
 * so that what ends late cannot take away what came later (micro spec, section 24, 2). An address (its key,
 * "host:port") has one registration at most: a second one takes its place.
 *
 * Adding, removing, and choosing without an exclude list take constant time; choosing with one takes time in
 * proportion to its length.
 *
 * Layer: state. Randomness and monotonic milliseconds are passed in. SPDX-License-Identifier: MIT */
#ifndef ZNL_STATE_DIRECTORY_H
#define ZNL_STATE_DIRECTORY_H

#include "base/bytes.h"

typedef struct znl_directory znl_directory;

/* As others see it, borrowed: valid until the directory changes. */
typedef struct znl_registration {
    uint64_t id; /* below 2^53, never 0 */
    znl_frame namespace;
    znl_frame key;  /* "host:port" */
    znl_frame host; /* the key up to its last colon */
    uint32_t port;
    uint64_t since_ms;
} znl_registration;

/* `max` registrations at most, up to ZNL_REGISTRATIONS_MAX. Returns owned, with a count of 1. 0, or
 * ZNL_E_NOMEM. */
int znl_directory_new(znl_directory **out, size_t max);
znl_directory *znl_directory_hold(znl_directory *directory);
void znl_directory_release(znl_directory *directory); /* accepts NULL; the last one frees it */

/* Registers an address; both texts are copied. *replaced is the id of the registration whose place it
 * took (removed), or 0. ZNL_E_INVALID (empty namespace or host, port not in 1..65535), ZNL_E_TOO_BIG
 * (past ZNL_NAMESPACE_BYTES_MAX or ZNL_HOST_BYTES_MAX), ZNL_E_LIMIT, ZNL_E_NOMEM: nothing changed. */
int znl_directory_add(znl_directory *directory, znl_frame namespace, znl_frame host,
        uint32_t port, uint64_t now_ms, uint64_t *id, uint64_t *replaced);

/* Removes a registration. 1, or 0 when there is none of that id (any more). */
int znl_directory_remove(znl_directory *directory, uint64_t id);

/* --- choosing: begin, exclude any number of keys, choose -------------------------------------------- */

/* Forgets the keys excluded before. */
void znl_directory_begin(znl_directory *directory);
void znl_directory_exclude(znl_directory *directory, znl_frame key);
/* One of the registrations of the namespace that are not excluded, each as likely as the others given a
 * random number that is; NULL when there is none. */
const znl_registration *znl_directory_choose(
        znl_directory *directory, znl_frame namespace, uint64_t random);

/* --- looking ---------------------------------------------------------------------------------------- */

const znl_registration *znl_directory_find(const znl_directory *directory, znl_frame key);
const znl_registration *znl_directory_get(const znl_directory *directory, uint64_t id);

size_t znl_directory_count(const znl_directory *directory); /* registrations */
size_t znl_directory_namespace_count(
        const znl_directory *directory); /* namespaces that have some */

/* The registrations of a namespace in no order: 0 .. count - 1. NULL past the end. */
size_t znl_directory_peer_count(const znl_directory *directory, znl_frame namespace);
const znl_registration *znl_directory_peer(
        const znl_directory *directory, znl_frame namespace, size_t index);

/* The namespaces in no order: `at` starts at NULL and is moved on. 0 at the end. */
int znl_directory_next_namespace(
        const znl_directory *directory, const void **at, znl_frame *namespace, size_t *count);

typedef struct znl_directory_counters {
    uint64_t added, removed, replaced, refused; /* refused: the limit was reached */
    uint64_t finds, misses;                     /* calls of choose; those that found none */
} znl_directory_counters;
void znl_directory_count_all(const znl_directory *directory, znl_directory_counters *out);

#endif
