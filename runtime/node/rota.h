/* rota.h - the masters a slave may go to: where they are, which of them to believe, whose turn it is.
 *
 *   at the first --no answer, connection lost--> the next --...--> the first again, with more patience
 *
 * Plain state: no clock, chance passed in.
 *
 * Layer: node. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_ROTA_H
#define ZNL_NODE_ROTA_H

#include "base/bytes.h"

typedef struct znl_rota {
    char **endpoints; /* owned, as are the texts */
    size_t endpoint_count;
    size_t at;
    uint32_t misses; /* endpoints in a row without an answer */
    znl_frame *ids;  /* owned, as are their bytes; none: any master with the key */
    size_t id_count;
} znl_rota;

/* Copies. 0; ZNL_E_INVALID (no endpoint), ZNL_E_LIMIT (too many), ZNL_E_TOO_BIG (an id, an endpoint),
 * ZNL_E_NOMEM. znl_rota_fini() accepts it after a failure too. */
int znl_rota_init(znl_rota *rota, const char *const *endpoints, size_t endpoint_count,
        const znl_frame *ids, size_t id_count);
void znl_rota_fini(znl_rota *rota);

/* Goes back to the first. 0, or ZNL_E_ADDRESS when one of several is malformed: it is the current one
 * then. (A single one is judged by the link.) */
int znl_rota_restart(znl_rota *rota);

const char *znl_rota_endpoint(const znl_rota *rota);

int znl_rota_has_choice(const znl_rota *rota);

/* On to the next endpoint. */
void znl_rota_advance(znl_rota *rota);

/* The current one answered. */
void znl_rota_settle(znl_rota *rota);

/* How long a new connection may stay without an answer: about a second, doubled for each round in which
 * nobody answered, less a quarter at most for chance, never above `limit_ms`. `chance` is any random number. */
uint32_t znl_rota_patience_ms(const znl_rota *rota, uint32_t limit_ms, uint64_t chance);

/* How long to wait for the same master after a lost connection, in part random: the slaves of a master that
 * died do not all arrive at the next one at once. */
uint32_t znl_rota_return_ms(uint64_t chance);

/* Whether a master of that id may be believed. */
int znl_rota_believes(const znl_rota *rota, znl_frame id);

#endif
