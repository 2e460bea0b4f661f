/* link_zmtp.c - our own engine for ZMTP 3 over tcp and ipc, on the loop; see link.h and link_zmtp_parts.h.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/link_zmtp_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

#include <string.h>

static znl_zmtp_link *link_of(znl_link *base)
{
    return (znl_zmtp_link *)(void *)base;
}

/* --- peers ------------------------------------------------------------------------------------- */

int znl_zmtp_link_add(znl_zmtp_link *link, znl_stream *stream, znl_zmtp_peer **out)
{
    znl_zmtp_peer *peer;
    int err = znl_zmtp_peer_new(&peer, &link->side, stream);
    if (err != 0)
        return err;
    peer->next = link->peers;
    peer->link = &link->peers;
    if (link->peers != NULL)
        link->peers->link = &peer->next;
    link->peers = peer;
    *out = peer;
    return 0;
}

void znl_zmtp_link_drop(znl_zmtp_link *link, znl_zmtp_peer *peer, uint32_t linger_ms)
{
    if (peer->link == NULL)
        return;
    *peer->link = peer->next;
    if (peer->next != NULL)
        peer->next->link = peer->link;
    peer->link = NULL;
    znl_zmtp_peer_close(peer, linger_ms);
    znl_zmtp_link_offer(link); /* what waited for its room waits no more */
}

void znl_zmtp_link_refused(znl_zmtp_link *link, int err, const char *text)
{
    if (link->events.on_refused != NULL)
        link->events.on_refused(link->user, err, text);
}

static void on_dropped(znl_zmtp_side *side, int err)
{
    znl_zmtp_link *link = znl_zmtp_link_of(side);
    if (link->events.on_dropped != NULL)
        link->events.on_dropped(link->user, err);
}

/* --- writable ---------------------------------------------------------------------------------- */

void znl_zmtp_link_offer(znl_zmtp_link *link)
{
    if (link->wants_writable && !link->base.is_closed)
        znl_loop_defer(link->loop, &link->offer);
}

static void on_offer(znl_deferred *deferred)
{
    znl_zmtp_link *link =
            (znl_zmtp_link *)(void *)((char *)deferred - offsetof(znl_zmtp_link, offer));
    if (!link->wants_writable || (!link->base.is_router && !znl_zmtp_dealer_can_send(link)))
        return;
    link->events.on_writable(link->user);
    if (!link->base.is_router)
        znl_zmtp_link_offer(link);
}

static void on_room(znl_zmtp_side *side, znl_zmtp_peer *peer)
{
    (void)peer;
    znl_zmtp_link_offer(znl_zmtp_link_of(side));
}

static void want_writable(znl_link *base, int on)
{
    znl_zmtp_link *link = link_of(base);
    if (link->wants_writable == (on != 0))
        return;
    link->wants_writable = on != 0;
    znl_zmtp_link_offer(link);
}

/* --- backend ----------------------------------------------------------------------------------- */

static int send_message(znl_link *base, const znl_frame *frames, size_t count)
{
    znl_zmtp_link *link = link_of(base);
    return base->is_router ? znl_zmtp_router_send(link, frames, count)
                           : znl_zmtp_dealer_send(link, frames, count);
}

static int is_lost(znl_link *base)
{
    (void)base; /* on_lost comes when the end is seen, before the next connection is tried */
    return 0;
}

static const char *get_endpoint(znl_link *base, size_t index)
{
    const znl_zmtp_link *link = link_of(base);
    return base->is_router ? link->as.router.doors[index].endpoint : link->as.dealer.endpoint;
}

static void free_link(uv_handle_t *handle)
{
    znl_zmtp_link *link = handle->data;
    znl_zmtp_scratch_fini(&link->side.scratch);
    if (link->base.is_router)
        znl_free(link->as.router.doors);
    znl_free(link);
}

static void close_link(znl_link *base, uint32_t linger_ms)
{
    znl_zmtp_link *link = link_of(base);
    base->is_closed = 1;
    znl_loop_undefer(link->loop, &link->offer);
    if (link->base.is_router)
        znl_zmtp_router_close(link);
    else
        znl_zmtp_dealer_close(link);
    while (link->peers != NULL)
        znl_zmtp_link_drop(link, link->peers, linger_ms);
    uv_close((uv_handle_t *)&link->handle, free_link);
}

static int open_link(znl_link **out, znl_loop *loop, const znl_link_options *options,
        const znl_endpoint *endpoints, const znl_link_events *events, void *user)
{
    znl_zmtp_link *link = znl_calloc(1, sizeof *link);
    if (link == NULL)
        return ZNL_E_NOMEM;
    link->base.is_router = options->is_router != 0;
    link->loop = loop;
    link->events = *events;
    link->user = user;
    link->offer.run = on_offer;
    if (options->routing_id.size > 0)
        memcpy(link->routing_id, options->routing_id.data, options->routing_id.size);
    link->side = (znl_zmtp_side){
            .loop = loop,
            .is_router = link->base.is_router,
            .routing_id = znl_frame_of(link->routing_id, options->routing_id.size),
            .limits = {.max_frame_bytes = options->max_frame_bytes,
                    .max_message_bytes = options->max_message_bytes,
                    .max_frames = options->max_frames},
            .send_hwm = options->send_hwm > 0 ? options->send_hwm : 1,
            .on_dropped = on_dropped,
            .on_room = on_room,
    };
    if (link->base.is_router && link->side.limits.max_frames > 0)
        link->side.limits.max_frames--;             /* the routing id counts */
    uv_idle_init(znl_loop_uv(loop), &link->handle); /* cannot fail */
    link->handle.data = link;
    int err = link->base.is_router ? znl_zmtp_router_open(link, options, endpoints)
                                   : znl_zmtp_dealer_open(link, options, endpoints);
    if (err != 0) {
        close_link(&link->base, 0);
        return err;
    }
    *out = &link->base;
    return 0;
}

const znl_link_backend znl_link_zmtp = {
        open_link, close_link, send_message, want_writable, is_lost, get_endpoint};
