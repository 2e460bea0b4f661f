/* zmq_monitor.h - notices when the connection of a DEALER socket of libzmq ended, and when the next began.
 *
 * libzmq connects again by itself and tells only who listens to its events, which arrive on a socket
 * of their own. It does so before it connects anew, not earlier than ZMQ_RECONNECT_IVL after the end.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_ZMQ_MONITOR_H
#define ZNL_TRANSPORT_ZMQ_MONITOR_H

#include "transport/loop.h"

typedef struct znl_zmq_monitor znl_zmq_monitor;

/* Calls lost(user) from the loop after a connection of `socket` ended, and then joined(user) when the
 * next has begun; what is sent in between may go into the end of the old one. Before zmq_connect().
 * 0, ZNL_E_NOMEM, ZNL_E_LIMIT (descriptors, sockets), ZNL_E_SYSTEM. */
int znl_zmq_monitor_open(znl_zmq_monitor **out, znl_loop *loop, void *socket,
        void (*lost)(void *user), void (*joined)(void *user), void *user);

/* True when one has ended and lost() was not called for it yet. */
int znl_zmq_monitor_is_lost(znl_zmq_monitor *monitor);

/* Before the socket is closed. Takes `monitor`; NULL is accepted. */
void znl_zmq_monitor_close(znl_zmq_monitor *monitor);

#endif
