/* link.c - see link.h. SPDX-License-Identifier: MIT */
#include "transport/link_backend.h"

#include "base/err.h"
#include "base/limits.h"

int znl_link_open(znl_link **out, znl_loop *loop, const znl_link_options *options,
        const znl_link_events *events, void *user)
{
    znl_endpoint endpoint;
    znl_frame id = options->routing_id;
    int err = znl_endpoint_parse(
            &endpoint, znl_frame_text(options->endpoint), options->is_router, NULL);
    if (err != 0)
        return err;
    if (id.size > ZNL_ID_BYTES_MAX || (id.size > 0 && id.data[0] == 0))
        return ZNL_E_INVALID; /* ids that begin with 0 are those a ROUTER invents */
    const znl_link_backend *backend = endpoint.kind == ZNL_ENDPOINT_SIM ? &znl_link_sim
                                                                        : &znl_link_zmq;
    err = backend->open(out, loop, options, &endpoint, events, user);
    if (err != 0)
        return err;
    (*out)->backend = backend;
    (*out)->is_router = options->is_router != 0;
    return 0;
}

void znl_link_close(znl_link *link, uint32_t linger_ms)
{
    if (link == NULL || link->is_closed)
        return;
    link->is_closed = 1;
    link->backend->close(link, linger_ms);
}

int znl_link_send(znl_link *link, const znl_frame *frames, size_t count)
{
    if (count < (link->is_router ? 2u : 1u))
        return ZNL_E_INVALID;
    if (link->is_closed)
        return ZNL_E_STOPPED;
    return link->backend->send(link, frames, count);
}

void znl_link_want_writable(znl_link *link, int on)
{
    if (!link->is_closed)
        link->backend->want_writable(link, on);
}

int znl_link_is_lost(znl_link *link)
{
    return !link->is_closed && link->backend->is_lost(link);
}

const char *znl_link_endpoint(znl_link *link)
{
    return link->backend->endpoint(link);
}
