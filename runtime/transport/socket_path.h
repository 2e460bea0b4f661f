/* socket_path.h - who owns the path of a unix socket.
 *
 * `<path>.lock` decides: whoever holds the lock of that file (flock(2)) owns the path, and the system frees
 * it when that process ends, however it ends. A socket that nobody listens on any more is replaced then;
 * any other file, and the socket of a program that knows no lock, is left alone.
 *
 * Layer: transport. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_SOCKET_PATH_H
#define ZNL_TRANSPORT_SOCKET_PATH_H

#include <stddef.h>
#include <stdint.h>

struct sockaddr_un;

typedef struct znl_socket_path znl_socket_path;

/* 0 or ZNL_E_ADDRESS: empty, or longer than ZNL_SOCKET_PATH_BYTES_MAX. */
int znl_socket_path_read(const char *path, struct sockaddr_un *address);

/* Owns the path, and makes a socket that listens there, not blocking: *fd is the caller's. `mode`: of the
 * file, before anybody can connect; the lock has the same for owner and group.
 * 0, ZNL_E_ADDRESS_IN_USE (another owns it or listens there), ZNL_E_ADDRESS (no path for a socket: no
 * folder, no permission, another kind of file), ZNL_E_NOMEM, ZNL_E_LIMIT (descriptors), ZNL_E_SYSTEM. */
int znl_socket_path_listen(
        znl_socket_path **out, const char *path, uint32_t mode, int backlog, int *fd);

/* Why ZNL_E_ADDRESS, for people; as far as it can be seen afterwards. */
const char *znl_socket_path_problem(const char *path);

/* Takes it (NULL is accepted); the socket is closed already. The files are removed: they may be another's
 * as soon as this returns. */
void znl_socket_path_free(znl_socket_path *path);

#endif
