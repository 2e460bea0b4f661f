/* endpoint.h - parses and checks endpoints, so that a bad one is named before a socket sees it.
 *
 *     tcp://host:port      host: name, IPv4 address, [IPv6 address]; to bind also an interface or *
 *     ipc://path           a socket in the file system, or @name in the abstract name space
 *     inproc://name        inside this process
 *     sim://name           inside one loop, without a socket: for tests
 *
 * To bind, the port may be * or 0, and the path or the name of sim *: the system chooses.
 *
 * Layer: transport. Pure functions. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_ENDPOINT_H
#define ZNL_TRANSPORT_ENDPOINT_H

#include "base/bytes.h"

/* Bytes of an endpoint, its terminator included: a DNS name of 253 bytes and a port fit. */
#define ZNL_ENDPOINT_BYTES_MAX 320u

typedef enum znl_endpoint_kind {
    ZNL_ENDPOINT_TCP,
    ZNL_ENDPOINT_IPC,
    ZNL_ENDPOINT_INPROC,
    ZNL_ENDPOINT_SIM
} znl_endpoint_kind;

typedef struct znl_endpoint {
    znl_endpoint_kind kind;
    znl_frame name; /* borrowed: host without brackets, path, or name */
    uint16_t port;  /* tcp; 0 when the system chooses */
    int is_ipv6;    /* tcp: the host was in brackets */
} znl_endpoint;

/* Takes `text` apart; `is_bind` says what it is for. Returns 0, or ZNL_E_ADDRESS and, unless `why`
 * is NULL, a static phrase such as "the port is missing". */
int znl_endpoint_parse(znl_endpoint *out, znl_frame text, int is_bind, const char **why);

#endif
