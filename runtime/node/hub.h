/* hub.h - WebSocket clients by namespace, channel, user and session, and what reaches many of them at once,
 * here and on other instances (spec of ws-cluster, sections 2, 4 and 11).
 *
 * A client belongs to one namespace from the beginning. When it joins, it gets a session of a user, and
 * channels. A session is held by the client that joined with it last: only when that one goes the session is
 * over. Messages are texts of JSON: {"type":…,"payload":…}.
 *
 * A message is made once and copied into the queue of each client; queues leave at the end of the turn. What
 * arrives from other instances never enters Lua. Events come from the loop, never from inside a call.
 *
 * Layer: node. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_HUB_H
#define ZNL_NODE_HUB_H

#include "base/bytes.h"
#include "node/bus.h"
#include "transport/websocket.h"

typedef struct znl_hub znl_hub;

/* What becomes of a client whose queue is full. */
typedef enum znl_hub_slow {
    ZNL_HUB_SLOW_CLOSE, /* it is closed with 1013 */
    ZNL_HUB_SLOW_DROP,  /* it misses the message */
} znl_hub_slow;

typedef struct znl_hub_events {
    /* A client's queue was full, for the first time since it took a message. */
    void (*on_slow)(void *user, uint64_t id);
    /* Messages are not published any more, since `err`; what was delivered here is. Again only after one was. */
    void (*on_error)(void *user, int err);
    /* znl_hub_end() was called for a client, which may be detached by now. */
    void (*on_ended)(void *user, uint64_t id);
} znl_hub_events;

typedef struct znl_hub_options {
    znl_frame prefix, app, origin; /* of the subjects; who we are. Copied */
    znl_hub_slow on_slow;
    uint32_t max_clients; /* 0: ZNL_CONNECTIONS_MAX */
    const znl_bus *bus;   /* NULL: this instance is alone */
    void *bus_user;
} znl_hub_options;

/* broadcasts, directs         asked for here
 * published, published_bytes  to other instances
 * dropped_…                   not published: not connected; the outbox full; larger than the server takes; without
 *                             memory, closed
 * received, received_bytes    from the bus, echoes and malformed ones included
 * delivered, delivered_bytes  messages to clients
 * skipped                     clients that the sender left out
 * slow_closed, slow_dropped   clients; messages
 * send_failures               messages to clients, without memory */
#define ZNL_HUB_COUNTERS(X)                                                                    \
    X(broadcasts)                                                                              \
    X(directs)                                                                                 \
    X(published)                                                                               \
    X(published_bytes)                                                                         \
    X(dropped_offline)                                                                         \
    X(dropped_busy)                                                                            \
    X(dropped_too_big)                                                                         \
    X(dropped_other)                                                                           \
    X(received)                                                                                \
    X(received_bytes)                                                                          \
    X(echoes)                                                                                  \
    X(malformed)                                                                               \
    X(delivered)                                                                               \
    X(delivered_bytes)                                                                         \
    X(skipped)                                                                                 \
    X(slow_closed)                                                                             \
    X(slow_dropped)                                                                            \
    X(send_failures)

typedef struct znl_hub_counters {
#define ZNL_HUB_COUNTER(name) uint64_t name;
    ZNL_HUB_COUNTERS(ZNL_HUB_COUNTER)
#undef ZNL_HUB_COUNTER
} znl_hub_counters;

/* Returns a hub, owned; everything borrowed but bus and events, which are for good. 0, ZNL_E_INVALID (prefix or
 * app are no subject, origin is empty), ZNL_E_TOO_BIG (one of them), ZNL_E_NOMEM. */
int znl_hub_new(znl_hub **out, znl_loop *loop, const znl_hub_options *options,
        const znl_hub_events *events, void *user);

/* Takes it (NULL is accepted). Clients are let go as they are. Not from inside its events. */
void znl_hub_free(znl_hub *hub);

/* While it is started, what is sent here is published, and what is received counts. */
void znl_hub_start(znl_hub *hub);
void znl_hub_stop(znl_hub *hub);

/* "<prefix>.<app>.bcast", "<prefix>.<app>.direct": whose messages are to be given to the functions after
 * them. `data` is borrowed. */
const char *znl_hub_broadcast_subject(const znl_hub *hub);
const char *znl_hub_direct_subject(const znl_hub *hub);
void znl_hub_receive_broadcast(znl_hub *hub, const uint8_t *data, size_t size);
void znl_hub_receive_direct(znl_hub *hub, const uint8_t *data, size_t size);

/* --- clients ----------------------------------------------------------------------------------------- */

/* Lets a client in, borrowing `ws` until znl_hub_end() or _detach(). *id is a whole number below 2^53 that no
 * other client gets. 0, ZNL_E_TOO_BIG (the namespace), ZNL_E_LIMIT, ZNL_E_NOMEM. */
int znl_hub_attach(znl_hub *hub, znl_ws *ws, znl_frame ns, uint64_t *id);

/* Its connection is no more: nothing is sent to it. Its session is not over before it is detached. */
void znl_hub_end(znl_hub *hub, uint64_t id);

typedef struct znl_hub_session {
    znl_frame
            left; /* the session that is over, valid until the next call; data NULL: none is */
    uint64_t
            previous; /* the client that held the session joined with until now; 0: nobody else */
} znl_hub_session;

/* Gives it a session, user and channels instead of those it has. ZNL_E_NOT_FOUND (no such client), ZNL_E_CLOSED
 * (it has ended), ZNL_E_TOO_BIG (a name), ZNL_E_LIMIT (channels), ZNL_E_NOMEM: all is as before. */
int znl_hub_join(znl_hub *hub, uint64_t id, znl_frame session_id, znl_frame user_id,
        const znl_frame *channels, size_t channel_count, znl_hub_session *session);

/* Takes them away again. ZNL_E_NOT_FOUND: no such client. */
int znl_hub_leave(znl_hub *hub, uint64_t id, znl_hub_session *session);

/* Forgets the client. ZNL_E_NOT_FOUND: there is none (any more). */
int znl_hub_detach(znl_hub *hub, uint64_t id, znl_hub_session *session);

uint32_t znl_hub_client_count(const znl_hub *hub);

/* --- messages ---------------------------------------------------------------------------------------- */

/* To the clients of `ns` here, and to the other instances. `channel`: only to those who joined with it; NULL:
 * to all. Sessions of `except` are left out. Returns how many clients here got it. */
uint32_t znl_hub_broadcast(znl_hub *hub, znl_frame ns, const znl_frame *channel,
        znl_frame message, const znl_frame *except, size_t except_count);

/* The same to all clients of a user. */
uint32_t znl_hub_direct(znl_hub *hub, znl_frame user_id, znl_frame message);

/* To one client. 0, ZNL_E_NOT_FOUND, ZNL_E_CLOSED, ZNL_E_BUSY (it is slow), ZNL_E_NOMEM. */
int znl_hub_send(znl_hub *hub, uint64_t id, znl_frame message);

znl_hub_counters znl_hub_get_counters(const znl_hub *hub);

#endif
