/* link_zmq_curve.h - CURVE of a link of libzmq. Layer: transport. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_LINK_ZMQ_CURVE_H
#define ZNL_TRANSPORT_LINK_ZMQ_CURVE_H

#include "security/curve.h"

/* Makes `socket` a server or a client, before it is bound or connected. Copies the keys, into memory of libzmq. 0,
 * ZNL_E_UNSUPPORTED (a libzmq without CURVE), ZNL_E_SYSTEM, … */
int znl_zmq_curve_set(void *socket, const znl_curve *curve);

#endif
