/* link.h - moves messages between this process and its peers without knowing what they mean.
 *
 * A ROUTER link is bound and speaks to many peers, each named by its routing id; a DEALER link is
 * connected to one and reconnects by itself. Events come from the loop, never from inside a call,
 * and none comes after znl_link_close().
 *
 * Messages can be lost when a connection ends: those still queued for it here, and, on a DEALER link,
 * those that had arrived and were not yet read (ZMQ_IMMEDIATE). Nothing tells which.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_LINK_H
#define ZNL_TRANSPORT_LINK_H

#include "base/bytes.h"
#include "security/curve.h"
#include "transport/loop.h"

typedef struct znl_link znl_link;

/* What moves the bytes. The two speak the same protocol (ZMTP 3) and meet on the wire. */
typedef enum znl_link_engine {
    ZNL_LINK_AUTO,  /* zmtp where it can, unless ZNL_LINK_ENGINE_VARIABLE says otherwise */
    ZNL_LINK_ZMTP,  /* our own, on the loop: tcp and paths of ipc, no encryption of its own */
    ZNL_LINK_LIBZMQ /* tcp, ipc, inproc, CURVE */
} znl_link_engine;

#define ZNL_LINK_ENGINE_NAMES "auto, zmtp or libzmq"
#define ZNL_LINK_ENGINE_VARIABLE "ZNL_ENGINE" /* environment: what auto means; or empty */

/* The engine of that name. 0 or ZNL_E_INVALID. */
int znl_link_engine_parse(znl_link_engine *out, znl_frame name);

typedef struct znl_link_events {
    /* One message. The frames are borrowed until the function returns, also when it closes the
     * link. ROUTER: frames[0] is the routing id of the sender. */
    void (*on_message)(void *user, const znl_frame *frames, size_t count);
    /* A send can succeed again; only while wanted, see znl_link_want_writable(). */
    void (*on_writable)(void *user);
    /* A message was thrown away: ZNL_E_TOO_BIG (bytes), ZNL_E_LIMIT (frames), ZNL_E_NOMEM. A frame
     * above max_frame_bytes over tcp or ipc is not reported: it ends the connection. */
    void (*on_dropped)(void *user, int err);
    /* DEALER: the connection ended; the link connects again by itself, perhaps to another peer. What is
     * sent meanwhile may get lost, until on_joined: the next connection has begun. Both NULL: not
     * wanted, which saves libzmq two descriptors. */
    void (*on_lost)(void *user);
    void (*on_joined)(void *user);
    /* A peer was turned away, or turned us away, before any message: another protocol, version, mechanism or
     * socket type, no hands shaken in time, no descriptor left for it. `text` says it for people, borrowed. NULL: not wanted. */
    void (*on_refused)(void *user, int err, const char *text);
} znl_link_events;

typedef struct znl_link_options {
    znl_link_engine engine;
    int is_router;
    const char *endpoint; /* borrowed; ROUTER: to bind, port * or 0 lets the system choose */
    znl_frame routing_id; /* borrowed; DEALER: 1 to 255 bytes, the first not 0; empty: none */
    uint32_t send_hwm;    /* messages queued per peer, at least 1 */
    uint32_t recv_hwm;    /* of libzmq; our own engine queues nothing that was received */
    size_t max_frame_bytes;
    uint32_t max_frames; /* in one received message, a routing id counts */
    size_t max_message_bytes;
    /* Borrowed; ROUTER: bound besides `endpoint`, up to ZNL_LINK_ENDPOINTS_MAX with it, all or none. */
    const char *const *more_endpoints;
    size_t more_endpoint_count;
    znl_curve *
            curve; /* held while the link is open: encrypts, over tcp and ipc. NULL: nothing does */
    size_t *failed; /* which was refused: 0 `endpoint`, 1 the first of the others; or NULL */
} znl_link_options;

/* Returns an open link, owned. A new peer with the routing id of an old one takes its place.
 *   ZNL_E_ADDRESS_IN_USE  another socket is bound there
 *   ZNL_E_ADDRESS         malformed, or nothing here has that address
 *   ZNL_E_INVALID         the routing id cannot be used
 *   ZNL_E_UNSUPPORTED     the engine does not speak that transport, or no CURVE; sim with other endpoints
 *   ZNL_E_NOMEM, ZNL_E_LIMIT (descriptors, sockets), ZNL_E_SYSTEM */
int znl_link_open(znl_link **out, znl_loop *loop, const znl_link_options *options,
        const znl_link_events *events, void *user);

/* Takes `link` (NULL is accepted). Messages already sent have `linger_ms` to leave, while the loop
 * goes on or closes. A bound endpoint is free again when this returns. */
void znl_link_close(znl_link *link, uint32_t linger_ms);

/* Sends one message, all of it or nothing; copies it. Never blocks, never raises an event.
 * ROUTER: frames[0] names the peer and is not sent, at least one frame follows.
 *   ZNL_E_BUSY         the queue is full; DEALER: or there is no connection
 *   ZNL_E_UNREACHABLE  ROUTER: no connection with that routing id
 *   ZNL_E_INVALID      too few frames
 *   ZNL_E_NOMEM, ZNL_E_SYSTEM */
int znl_link_send(znl_link *link, const znl_frame *frames, size_t count);

/* Turns on_writable on or off. It comes again and again while a send can succeed, so turn it off
 * once nothing is left to send. ROUTER of libzmq: it comes every few milliseconds, as any peer may have
 * become writable; of our own engine: when one has. */
void znl_link_want_writable(znl_link *link, int on);

/* DEALER with on_lost: true when a connection has ended and on_lost is still to come. A message sent
 * when this says no does not reach another peer than the ones before it. */
int znl_link_is_lost(znl_link *link);

/* The endpoint with the port or path that was really bound. Valid until the link is closed. */
const char *znl_link_endpoint(znl_link *link);

/* The same of the endpoint at `index`, 0 being the first; NULL past the last. */
const char *znl_link_endpoint_at(znl_link *link, size_t index);

/* One phrase for people about what znl_link_open() returned of `endpoint`. Static. */
const char *znl_link_open_text(int err, int is_router, const char *endpoint);

#endif
