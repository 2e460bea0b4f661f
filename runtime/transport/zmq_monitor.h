/* zmq_monitor.h - what becomes of the connections of a socket of libzmq: of a DEALER, that one ended and the next
 * began; of any, that one did not come about.
 *
 * libzmq connects again by itself and tells only who listens to its events, which arrive on a socket
 * of their own. It does so before it connects anew, not earlier than ZMQ_RECONNECT_IVL after the end.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_ZMQ_MONITOR_H
#define ZNL_TRANSPORT_ZMQ_MONITOR_H

#include "transport/loop.h"

typedef struct znl_zmq_monitor znl_zmq_monitor;

typedef struct znl_zmq_monitor_events {
    /* A connection ended, and then the next has begun; what is sent in between may go into the end of the old one.
     * Both, or neither. */
    void (*lost)(void *user);
    void (*joined)(void *user);
    /* on_refused of link.h; or NULL. `text` is static. */
    void (*refused)(void *user, int err, const char *text);
    int is_dealer; /* of a ROUTER, who only connects and leaves is not refused */
} znl_zmq_monitor_events;

/* Calls those from the loop. Before zmq_connect() or zmq_bind(). 0, ZNL_E_NOMEM, ZNL_E_LIMIT (descriptors, sockets),
 * ZNL_E_SYSTEM. */
int znl_zmq_monitor_open(znl_zmq_monitor **out, znl_loop *loop, void *socket,
        const znl_zmq_monitor_events *events, void *user);

/* True when one has ended and lost() was not called for it yet. */
int znl_zmq_monitor_is_lost(znl_zmq_monitor *monitor);

/* Before the socket is closed. Takes `monitor`; NULL is accepted. */
void znl_zmq_monitor_close(znl_zmq_monitor *monitor);

#endif
