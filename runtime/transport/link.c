/* link.c - see link.h. SPDX-License-Identifier: MIT */
#include "transport/link_backend.h"

#include "base/err.h"
#include "base/limits.h"

#include <stdlib.h>

/* What AUTO means for tcp and paths of ipc, unless the environment says otherwise. */
#define AUTO_ENGINE ZNL_LINK_ZMTP

int znl_link_engine_parse(znl_link_engine *out, znl_frame name)
{
    static const struct {
        const char *name;
        znl_link_engine engine;
    } engines[] = {
            {"auto", ZNL_LINK_AUTO}, {"zmtp", ZNL_LINK_ZMTP}, {"libzmq", ZNL_LINK_LIBZMQ}};
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++) {
        if (znl_frame_equal(name, znl_frame_text(engines[i].name))) {
            *out = engines[i].engine;
            return 0;
        }
    }
    return ZNL_E_INVALID;
}

/* The program has refused to start with a name that is none. */
static znl_link_engine auto_engine(void)
{
    znl_link_engine engine = ZNL_LINK_AUTO;
    const char *name = getenv(ZNL_LINK_ENGINE_VARIABLE);
    if (name != NULL)
        znl_link_engine_parse(&engine, znl_frame_text(name));
    return engine == ZNL_LINK_AUTO ? AUTO_ENGINE : engine;
}

static int is_for_curve(const znl_endpoint *endpoint)
{
    return endpoint->kind == ZNL_ENDPOINT_TCP || endpoint->kind == ZNL_ENDPOINT_IPC;
}

static int is_for_zmtp(const znl_endpoint *endpoint)
{
    return endpoint->kind == ZNL_ENDPOINT_TCP ||
            (endpoint->kind == ZNL_ENDPOINT_IPC && endpoint->name.data[0] != '@');
}

/* All endpoints of a link have the same backend. NULL: what was asked for cannot. */
static const znl_link_backend *choose(const znl_link_options *options,
        const znl_endpoint *endpoints, size_t count, size_t *failed)
{
    znl_link_engine engine = options->engine;
    int is_sim = endpoints[0].kind == ZNL_ENDPOINT_SIM;
    if (options->curve != NULL) { /* inproc would go without, and nobody would know */
        for (*failed = 0; *failed < count; ++*failed)
            if (!is_for_curve(&endpoints[*failed]))
                return NULL;
        *failed = 0;
        return engine == ZNL_LINK_ZMTP ? NULL : &znl_link_zmq;
    }
    for (*failed = 1; *failed < count; ++*failed)
        if (is_sim || endpoints[*failed].kind == ZNL_ENDPOINT_SIM)
            return NULL;
    if (is_sim)
        return &znl_link_sim;
    for (*failed = 0; *failed < count; ++*failed)
        if (!is_for_zmtp(&endpoints[*failed]))
            break;
    if (engine == ZNL_LINK_AUTO)
        engine = *failed == count ? auto_engine() : ZNL_LINK_LIBZMQ;
    if (engine == ZNL_LINK_LIBZMQ)
        return &znl_link_zmq;
    return *failed == count ? &znl_link_zmtp : NULL;
}

static int open_link(znl_link **out, znl_loop *loop, const znl_link_options *options,
        const znl_link_events *events, void *user, size_t *failed)
{
    znl_endpoint endpoints[ZNL_LINK_ENDPOINTS_MAX];
    size_t count = 1 + options->more_endpoint_count;
    znl_frame id = options->routing_id;
    *failed = 0;
    if (options->more_endpoint_count >= ZNL_LINK_ENDPOINTS_MAX ||
            (count > 1 && !options->is_router))
        return ZNL_E_INVALID;
    for (; *failed < count; ++*failed) {
        const char *text = *failed == 0 ? options->endpoint
                                        : options->more_endpoints[*failed - 1];
        int err = znl_endpoint_parse(
                &endpoints[*failed], znl_frame_text(text), options->is_router, NULL);
        if (err != 0)
            return err;
    }
    *failed = 0;
    if (id.size > ZNL_ID_BYTES_MAX || (id.size > 0 && id.data[0] == 0))
        return ZNL_E_INVALID; /* ids that begin with 0 are those a ROUTER invents */
    const znl_link_backend *backend = choose(options, endpoints, count, failed);
    if (backend == NULL)
        return ZNL_E_UNSUPPORTED;
    *failed = 0;
    znl_link_options copy = *options;
    copy.failed = failed;
    int err = backend->open(out, loop, &copy, endpoints, events, user);
    if (err != 0)
        return err;
    (*out)->backend = backend;
    (*out)->is_router = options->is_router != 0;
    (*out)->endpoint_count = count;
    return 0;
}

int znl_link_open(znl_link **out, znl_loop *loop, const znl_link_options *options,
        const znl_link_events *events, void *user)
{
    size_t failed;
    int err = open_link(out, loop, options, events, user, &failed);
    if (err != 0 && options->failed != NULL)
        *options->failed = failed;
    return err;
}

const char *znl_link_open_text(int err, int is_router, const char *endpoint)
{
    znl_endpoint parts;
    const char *why;
    if (err == ZNL_E_UNSUPPORTED)
        return "the engine cannot do that; engine = \"libzmq\" may";
    if (err == ZNL_E_LIMIT)
        return "no descriptors are left, see ulimit -n";
    if (err != ZNL_E_ADDRESS)
        return znl_err_text(err);
    if (znl_endpoint_parse(&parts, znl_frame_text(endpoint), is_router, &why) != 0)
        return why;
    if (parts.kind == ZNL_ENDPOINT_TCP)
        return "no address of this machine, or no permission for that port";
    if (parts.kind == ZNL_ENDPOINT_IPC)
        return "no such folder, no permission, a path too long, or another kind of file";
    return znl_err_text(err);
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
    return link->backend->endpoint(link, 0);
}

const char *znl_link_endpoint_at(znl_link *link, size_t index)
{
    return index < link->endpoint_count ? link->backend->endpoint(link, index) : NULL;
}
