/* link_zmtp_parts.h - what the files of our own ZMTP engine share.
 *
 *   link_zmtp.c    the backend of link.h: opened, closed, asked when it can send
 *   zmtp_router.c  bound: many connections, found by routing id
 *   zmtp_dealer.c  connects, and connects again
 *   zmtp_peer.c    one connection
 *
 * Layer: transport, private to these. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_LINK_ZMTP_PARTS_H
#define ZNL_TRANSPORT_LINK_ZMTP_PARTS_H

#include "base/limits.h"
#include "transport/link_backend.h"
#include "transport/zmtp_peer.h"

/* One endpoint that is bound. */
typedef struct znl_zmtp_door {
    znl_listener *listener;
    char *folder; /* made for a path of *; removed with the link */
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
} znl_zmtp_door;

typedef struct znl_zmtp_router {
    znl_zmtp_door *doors;
    size_t door_count;
    znl_map peers;       /* by routing id */
    znl_zmtp_peer *last; /* sent to */
    uint32_t generated;  /* routing ids for peers without */
} znl_zmtp_router;

typedef struct znl_zmtp_dealer {
    znl_zmtp_peer *peer; /* NULL: waits to connect */
    znl_timer reconnect;
    uint32_t wait_ms;
    uint16_t port;
    uint8_t was_ready;                 /* this connection: hands were shaken */
    uint8_t was_lost;                  /* a connection, so that the next one is a join */
    char host[ZNL_ENDPOINT_BYTES_MAX]; /* or the path */
    uint8_t is_local;
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
} znl_zmtp_dealer;

typedef struct znl_zmtp_link {
    znl_link base; /* first */
    znl_zmtp_side side;
    znl_loop *loop;
    znl_link_events events;
    void *user;
    uv_idle_t
            handle; /* never started: when libuv has closed it nothing uses the link any more */
    znl_zmtp_peer *peers;
    znl_deferred offer; /* on_writable */
    int wants_writable;
    uint8_t routing_id[ZNL_ID_BYTES_MAX];
    union {
        znl_zmtp_router router;
        znl_zmtp_dealer dealer;
    } as;
} znl_zmtp_link;

static inline znl_zmtp_link *znl_zmtp_link_of(znl_zmtp_side *side)
{
    return (znl_zmtp_link *)(void *)((char *)side - offsetof(znl_zmtp_link, side));
}

/* Makes a peer of the stream (taken) that is among the link's. 0 or ZNL_E_NOMEM. */
int znl_zmtp_link_add(znl_zmtp_link *link, znl_stream *stream, znl_zmtp_peer **out);
/* Takes it out and closes it. */
void znl_zmtp_link_drop(znl_zmtp_link *link, znl_zmtp_peer *peer, uint32_t linger_ms);
/* Something can be sent again: on_writable, if it is wanted. */
void znl_zmtp_link_offer(znl_zmtp_link *link);
void znl_zmtp_link_refused(znl_zmtp_link *link, int err, const char *text);

/* 0 or what znl_link_open() says. What is half open can be closed. */
int znl_zmtp_router_open(
        znl_zmtp_link *link, const znl_link_options *options, const znl_endpoint *endpoints);
void znl_zmtp_router_close(znl_zmtp_link *link);
int znl_zmtp_router_send(znl_zmtp_link *link, const znl_frame *frames, size_t count);

int znl_zmtp_dealer_open(
        znl_zmtp_link *link, const znl_link_options *options, const znl_endpoint *endpoint);
void znl_zmtp_dealer_close(znl_zmtp_link *link);
int znl_zmtp_dealer_send(znl_zmtp_link *link, const znl_frame *frames, size_t count);
int znl_zmtp_dealer_can_send(const znl_zmtp_link *link);

#endif
