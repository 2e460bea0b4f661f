/* link_zmq_curve.c - see link_zmq_curve.h. SPDX-License-Identifier: MIT */
#include "transport/link_zmq_curve.h"

#include "base/err.h"

#include <zmq.h>

static int set_key(void *socket, int option, const uint8_t *key)
{
    return zmq_setsockopt(socket, option, key, ZNL_CURVE_KEY_BYTES);
}

int znl_zmq_curve_set(void *socket, const znl_curve *curve)
{
    int is_server = curve->is_server;
    if (!zmq_has("curve"))
        return ZNL_E_UNSUPPORTED;
    int rc = set_key(socket, ZMQ_CURVE_SECRETKEY, curve->secret_key);
    if (rc == 0 && is_server)
        rc = zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &is_server, sizeof is_server);
    if (rc == 0 && !is_server)
        rc = set_key(socket, ZMQ_CURVE_PUBLICKEY, curve->public_key);
    if (rc == 0 && !is_server)
        rc = set_key(socket, ZMQ_CURVE_SERVERKEY, curve->server_key);
    return rc == 0 ? 0 : znl_err_from_errno(zmq_errno());
}
