/* zmq_places.c - see zmq_places.h. SPDX-License-Identifier: MIT */
#include "transport/zmq_places.h"

#include "base/alloc.h"
#include "base/err.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#define UNBIND_WAIT_MS 5000 /* libzmq closes a listener at once when its thread has its turn */

struct znl_zmq_place {
    znl_endpoint_kind kind;
    char text[ZNL_ENDPOINT_BYTES_MAX];
};

/* libzmq removes the file of an ipc endpoint before it binds, also that of a running server. */
static int is_ipc_served(znl_frame path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path.data, path.size); /* endpoint_parse: it fits */
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path.size);
    if (path.data[0] == '@')
        address.sun_path[0] = '\0'; /* abstract: no terminator */
    else
        size++;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return 0;
    int rc = connect(fd, (const struct sockaddr *)&address, size);
    int is_served = rc == 0 || errno == EAGAIN; /* EAGAIN: served, and its backlog is full */
    close(fd);
    return is_served;
}

static int address_error(int number)
{
    int err = znl_err_from_errno(number);
    return err == ZNL_E_NOT_FOUND || err == ZNL_E_EXISTS ? ZNL_E_ADDRESS : err;
}

/* Binds or connects one; what it is really called goes to its place. */
static int attach(znl_zmq_places *places, void *socket, int is_router, const char *endpoint,
        const znl_endpoint *parsed)
{
    struct znl_zmq_place *place = &places->items[places->count];
    size_t size = sizeof place->text;
    if (zmq_setsockopt(socket, ZMQ_IPV6, &parsed->is_ipv6, sizeof parsed->is_ipv6) != 0)
        return znl_err_from_errno(zmq_errno());
    if (is_router && parsed->kind == ZNL_ENDPOINT_IPC && is_ipc_served(parsed->name))
        return ZNL_E_ADDRESS_IN_USE;
    if ((is_router ? zmq_bind : zmq_connect)(socket, endpoint) != 0)
        return address_error(zmq_errno());
    place->kind = parsed->kind;
    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, place->text, &size) != 0)
        snprintf(place->text, sizeof place->text, "%s", endpoint);
    places->count++;
    return 0;
}

int znl_zmq_places_attach(znl_zmq_places *places, void *socket, const znl_link_options *options,
        const znl_endpoint *parsed)
{
    size_t count = 1 + options->more_endpoint_count;
    places->items = znl_calloc(count, sizeof *places->items);
    if (places->items == NULL)
        return ZNL_E_NOMEM;
    int err = attach(places, socket, options->is_router, options->endpoint, &parsed[0]);
    for (size_t i = 1; err == 0 && i < count; i++)
        err = attach(
                places, socket, options->is_router, options->more_endpoints[i - 1], &parsed[i]);
    *options->failed = err == 0 ? 0 : places->count;
    return err;
}

const char *znl_zmq_places_text(const znl_zmq_places *places, size_t index)
{
    return places->items[index].text;
}

/* Unbinds one and waits until libzmq's thread has closed the listener: otherwise a link opened next may
 * find the port in use, or have its ipc file removed. When that cannot be arranged, the socket is
 * closed without. */
static void unbind(znl_loop *loop, void *socket, const struct znl_zmq_place *place)
{
    char name[64];
    if (place->kind == ZNL_ENDPOINT_INPROC) {
        zmq_unbind(socket, place->text);
        return;
    }
    znl_loop_zmq_endpoint(loop, name, sizeof name);
    void *monitor = zmq_socket(znl_loop_zmq(loop), ZMQ_PAIR);
    if (monitor == NULL)
        return;
    if (zmq_socket_monitor(socket, name, ZMQ_EVENT_CLOSED) == 0 &&
            zmq_connect(monitor, name) == 0 && zmq_unbind(socket, place->text) == 0) {
        zmq_pollitem_t item = {.socket = monitor, .events = ZMQ_POLLIN};
        while (zmq_poll(&item, 1, UNBIND_WAIT_MS) < 0 && zmq_errno() == EINTR)
            continue;
    }
    zmq_socket_monitor(socket, NULL, 0);
    int linger = 0;
    zmq_setsockopt(monitor, ZMQ_LINGER, &linger, sizeof linger);
    zmq_close(monitor);
}

void znl_zmq_places_unbind(znl_zmq_places *places, znl_loop *loop, void *socket)
{
    while (places->count > 0)
        unbind(loop, socket, &places->items[--places->count]);
}

void znl_zmq_places_fini(znl_zmq_places *places)
{
    znl_free(places->items);
    *places = (znl_zmq_places){0};
}
