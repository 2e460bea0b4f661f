/* zmtp_dealer.c - a link of our own engine that connects, and connects again; see link_zmtp_parts.h.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/link_zmtp_parts.h"

#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"

#include <stdio.h>
#include <string.h>

static int connect_peer(znl_zmtp_link *link);
static void reconnect_later(znl_zmtp_link *link);

static void on_reconnect(znl_timer *timer)
{
    znl_zmtp_link *link = (znl_zmtp_link *)(void *)((char *)timer -
            offsetof(znl_zmtp_link, as.dealer.reconnect));
    if (connect_peer(link) != 0)
        reconnect_later(link); /* out of memory: that may pass */
}

/* After 200, 400, 800, 1000 … ms and up to 200 more, so that not all come back at once (spec, section 1). */
static void reconnect_later(znl_zmtp_link *link)
{
    znl_zmtp_dealer *dealer = &link->as.dealer;
    uint32_t jitter;
    znl_random_bytes(&jitter, sizeof jitter);
    znl_wheel_start(znl_loop_wheel(link->loop), &dealer->reconnect,
            znl_loop_now_ms(link->loop) + dealer->wait_ms + jitter % ZNL_RECONNECT_MS,
            on_reconnect);
    dealer->wait_ms = dealer->wait_ms * 2 < ZNL_RECONNECT_MAX_MS ? dealer->wait_ms * 2
                                                                 : ZNL_RECONNECT_MAX_MS;
}

static void on_ready(znl_zmtp_side *side, znl_zmtp_peer *peer, znl_frame identity)
{
    znl_zmtp_link *link = znl_zmtp_link_of(side);
    znl_zmtp_dealer *dealer = &link->as.dealer;
    (void)peer;
    (void)identity;
    dealer->was_ready = 1;
    dealer->wait_ms = ZNL_RECONNECT_MS;
    znl_zmtp_link_offer(link);
    if (dealer->was_lost && link->events.on_joined != NULL) {
        dealer->was_lost = 0;
        link->events.on_joined(link->user);
    }
}

static void on_end(znl_zmtp_side *side, znl_zmtp_peer *peer, int err, const char *refusal)
{
    znl_zmtp_link *link = znl_zmtp_link_of(side);
    znl_zmtp_dealer *dealer = &link->as.dealer;
    int is_loss = dealer->was_ready;
    dealer->peer = NULL;
    dealer->was_ready = 0;
    znl_zmtp_link_drop(link, peer, 0);
    reconnect_later(link);
    if (refusal != NULL)
        znl_zmtp_link_refused(link, err, refusal);
    if (is_loss) {
        dealer->was_lost = 1;
        if (link->events.on_lost != NULL)
            link->events.on_lost(link->user);
    }
}

static void on_message(
        znl_zmtp_side *side, znl_zmtp_peer *peer, znl_frame *frames, size_t count)
{
    znl_zmtp_link *link = znl_zmtp_link_of(side);
    (void)peer;
    link->events.on_message(link->user, frames, count);
}

/* 0, or why that could not even be tried. */
static int connect_peer(znl_zmtp_link *link)
{
    znl_zmtp_dealer *dealer = &link->as.dealer;
    znl_zmtp_peer *peer;
    const znl_stream_options options = {
            .host = dealer->is_local ? NULL : dealer->host,
            .port = dealer->port,
            .path = dealer->is_local ? dealer->host : NULL,
            .max_queue_bytes = ZNL_ZMTP_QUEUE_BYTES,
    };
    int err = znl_zmtp_link_add(link, NULL, &peer);
    if (err != 0)
        return err;
    err = znl_stream_connect(
            &peer->stream, link->loop, &options, &znl_zmtp_peer_stream_events, peer);
    if (err != 0)
        znl_zmtp_link_drop(link, peer, 0);
    else
        dealer->peer = peer;
    return err;
}

int znl_zmtp_dealer_can_send(const znl_zmtp_link *link)
{
    const znl_zmtp_peer *peer = link->as.dealer.peer;
    return peer != NULL && znl_zmtp_peer_is_open(peer) && !peer->is_blocked;
}

int znl_zmtp_dealer_send(znl_zmtp_link *link, const znl_frame *frames, size_t count)
{
    znl_zmtp_peer *peer = link->as.dealer.peer;
    int err = peer != NULL ? znl_zmtp_peer_send(peer, frames, count) : ZNL_E_BUSY;
    return err == ZNL_E_UNREACHABLE ? ZNL_E_BUSY : err;
}

int znl_zmtp_dealer_open(
        znl_zmtp_link *link, const znl_link_options *options, const znl_endpoint *endpoint)
{
    znl_zmtp_dealer *dealer = &link->as.dealer;
    link->side.on_ready = on_ready;
    link->side.on_end = on_end;
    link->side.on_message = on_message;
    dealer->wait_ms = ZNL_RECONNECT_MS;
    dealer->is_local = endpoint->kind == ZNL_ENDPOINT_IPC;
    dealer->port = endpoint->port;
    snprintf(dealer->host, sizeof dealer->host, "%.*s", (int)endpoint->name.size,
            (const char *)endpoint->name.data);
    snprintf(dealer->endpoint, sizeof dealer->endpoint, "%s", options->endpoint);
    return connect_peer(link);
}

void znl_zmtp_dealer_close(znl_zmtp_link *link)
{
    znl_wheel_stop(znl_loop_wheel(link->loop), &link->as.dealer.reconnect);
    link->as.dealer.peer = NULL;
}
