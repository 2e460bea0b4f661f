/* nats_server.h - a real nats-server for a test, on a port of 127.0.0.1 that was free, with a folder of its own.
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_NATS_SERVER_H
#define ZNL_TESTS_NATS_SERVER_H

#include <stdint.h>
#include <sys/types.h>

typedef struct nats_server {
    pid_t pid; /* 0: not running */
    uint16_t port;
    char url[64];
    char folder[64];
    char config[512]; /* of its file; keep "" for none */
} nats_server;

/* Starts it and waits until it accepts. Everything fails the test that goes wrong. It dies with the test. */
void nats_server_start(nats_server *server);
void nats_server_kill(nats_server *server);
void nats_server_remove(nats_server *server);

#endif
