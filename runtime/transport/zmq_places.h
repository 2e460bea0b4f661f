/* zmq_places.h - the endpoints that a socket of libzmq is bound or connected to.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_ZMQ_PLACES_H
#define ZNL_TRANSPORT_ZMQ_PLACES_H

#include "transport/endpoint.h"
#include "transport/link.h"

typedef struct znl_zmq_places {
    size_t count; /* those in use */
    struct znl_zmq_place *items;
} znl_zmq_places;

/* Binds all endpoints of the options, or connects the one; `parsed` is an array of the same. On failure some may be
 * bound, and *options->failed says which one was not. Errors as of znl_link_open(). Starts from zeroed memory. */
int znl_zmq_places_attach(znl_zmq_places *places, void *socket, const znl_link_options *options,
        const znl_endpoint *parsed);

/* What it is really called. */
const char *znl_zmq_places_text(const znl_zmq_places *places, size_t index);

/* Unbinds all of a ROUTER, which has no monitor any more: they are free when this returns. */
void znl_zmq_places_unbind(znl_zmq_places *places, znl_loop *loop, void *socket);

void znl_zmq_places_fini(znl_zmq_places *places);

#endif
