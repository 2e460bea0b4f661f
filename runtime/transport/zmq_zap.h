/* zmq_zap.h - which clients of a CURVE server on libzmq may connect, by their public keys.
 *
 * libzmq asks who answers at inproc://zeromq.zap.01 of its context (RFC 27 of ZeroMQ, ZAP), and a connection waits
 * meanwhile. One handler on the loop answers for all servers of that loop; each has a domain of its own. Without a
 * handler libzmq would let everybody in: it is there before the socket is bound, and until it is closed.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_ZMQ_ZAP_H
#define ZNL_TRANSPORT_ZMQ_ZAP_H

#include "security/curve.h"
#include "transport/loop.h"

typedef struct znl_zmq_gate znl_zmq_gate;

/* Lets only those connect to `socket` that `curve` allows. Before zmq_bind(). Holds `curve`. 0, ZNL_E_NOMEM,
 * ZNL_E_ADDRESS_IN_USE (something else of this process is bound there), ZNL_E_LIMIT, ZNL_E_SYSTEM. */
int znl_zmq_gate_open(znl_zmq_gate **out, znl_loop *loop, void *socket, znl_curve *curve);

/* After zmq_close() of the socket. Takes `gate`; NULL is accepted. */
void znl_zmq_gate_close(znl_zmq_gate *gate);

#endif
