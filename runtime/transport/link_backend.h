/* link_backend.h - what a kind of link provides; link.c chooses one and is all that callers see.
 *
 * A backend begins its own struct with a `znl_link`. It is called only for links that are open; the
 * rest of the contract is that of link.h.
 *
 * Layer: transport. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_LINK_BACKEND_H
#define ZNL_TRANSPORT_LINK_BACKEND_H

#include "transport/endpoint.h"
#include "transport/link.h"

typedef struct znl_link_backend {
    /* The routing id and the endpoints have been checked; those are an array, options->endpoint and
     * then the others. link.c fills the struct znl_link in. */
    int (*open)(znl_link **out, znl_loop *loop, const znl_link_options *options,
            const znl_endpoint *endpoints, const znl_link_events *events, void *user);
    void (*close)(znl_link *link, uint32_t linger_ms);
    /* The number of frames has been checked. */
    int (*send)(znl_link *link, const znl_frame *frames, size_t count);
    void (*want_writable)(znl_link *link, int on);
    int (*is_lost)(znl_link *link);
    /* `index` is below `endpoint_count`. */
    const char *(*endpoint)(znl_link *link, size_t index);
} znl_link_backend;

struct znl_link {
    const znl_link_backend *backend;
    int is_router;
    int is_closed; /* set before `close` is called; no event may follow */
    size_t endpoint_count;
};

extern const znl_link_backend znl_link_zmq;  /* tcp, ipc, inproc */
extern const znl_link_backend znl_link_zmtp; /* tcp, ipc */
extern const znl_link_backend znl_link_sim;  /* sim */

#endif
