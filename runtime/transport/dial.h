/* dial.h - from a name and a port to a connected socket: looks the name up without blocking, then tries
 * its addresses one after the other, each with its share of the time that is left. Or from the path of a
 * unix socket.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_DIAL_H
#define ZNL_TRANSPORT_DIAL_H

#include "transport/loop.h"

typedef struct znl_dial znl_dial;

/* Comes once, from the loop: a connected socket, now the callee's; or fd -1, an error (TIMEOUT,
 * UNREACHABLE, LIMIT, NOMEM, SYSTEM) and a text, borrowed. The dial is still to be freed. */
typedef void (*znl_dial_fn)(void *user, int fd, int err, const char *text);

/* `host`: name or address, IPv6 with or without brackets. 0, ZNL_E_NOMEM, ZNL_E_INVALID. */
int znl_dial_new(znl_dial **out, znl_loop *loop, const char *host, uint16_t port,
        uint32_t timeout_ms, znl_dial_fn done, void *user);

/* 0, ZNL_E_NOMEM, ZNL_E_ADDRESS. */
int znl_dial_path(znl_dial **out, znl_loop *loop, const char *path, uint32_t timeout_ms,
        znl_dial_fn done, void *user);

/* Takes it (NULL is accepted), also from inside `done`; gives up when it is not over. */
void znl_dial_free(znl_dial *dial);

/* Whether a TCP socket is connected to itself: where nobody listens on a port of those that the system gives to who
 * connects, it may give that very one. A dial takes it for a refusal. */
int znl_dial_is_itself(int fd);

/* An error of a socket in our words: refused and unreachable are UNREACHABLE, resets are GONE. */
int znl_dial_error(int number);

#endif
