/* zmtp_router.c - a bound link of our own engine; see link_zmtp_parts.h.
 *
 * A peer that says no routing id, and one whose name another has taken, go by a generated id: a zero byte and a number,
 * as libzmq has it. The newcomer with a name that is taken has it; the connection of the other ends.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/link_zmtp_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GENERATED_BYTES 5u

/* --- peers ------------------------------------------------------------------------------------- */

static znl_zmtp_peer *find(znl_zmtp_router *router, znl_frame id)
{
    znl_zmtp_peer *last = router->last;
    if (last != NULL && znl_frame_equal(last->entry.key, id))
        return last;
    last = (znl_zmtp_peer *)(void *)znl_map_find(&router->peers, id, znl_map_hash(id));
    if (last != NULL)
        router->last = last;
    return last;
}

static void remove_peer(znl_zmtp_link *link, znl_zmtp_peer *peer, uint32_t linger_ms)
{
    znl_zmtp_router *router = &link->as.router;
    if (router->last == peer)
        router->last = NULL;
    if (peer->entry.key.data != NULL)
        znl_map_remove(&router->peers, &peer->entry);
    znl_zmtp_link_drop(link, peer, linger_ms);
}

/* Names the peer. 0 or ZNL_E_NOMEM. */
static int name_peer(znl_zmtp_link *link, znl_zmtp_peer *peer, znl_frame id)
{
    uint8_t generated[GENERATED_BYTES] = {0};
    znl_zmtp_router *router = &link->as.router;
    if (id.size == 0) {
        do {
            znl_put_be32(generated + 1, ++router->generated);
            id = znl_frame_of(generated, sizeof generated);
        } while (find(router, id) != NULL);
    }
    uint8_t *key = znl_malloc(id.size);
    if (key == NULL)
        return ZNL_E_NOMEM;
    memcpy(key, id.data, id.size);
    peer->entry.key = znl_frame_of(key, id.size);
    peer->entry.hash = znl_map_hash(id);
    peer->reader.lead_bytes = id.size;
    int err = znl_map_put(&router->peers, &peer->entry);
    if (err != 0) {
        peer->entry.key = znl_frame_of(NULL, 0);
        znl_free(key);
    }
    return err;
}

static void on_ready(znl_zmtp_side *side, znl_zmtp_peer *peer, znl_frame identity)
{
    znl_zmtp_link *link = znl_zmtp_link_of(side);
    znl_zmtp_peer *older = identity.size > 0 ? find(&link->as.router, identity) : NULL;
    if (older != NULL)
        remove_peer(link, older, 0);
    if (name_peer(link, peer, identity) != 0)
        remove_peer(link, peer, 0);
    else
        znl_zmtp_link_offer(link);
}

static void on_end(znl_zmtp_side *side, znl_zmtp_peer *peer, int err, const char *refusal)
{
    znl_zmtp_link *link = znl_zmtp_link_of(side);
    remove_peer(link, peer, 0);
    if (refusal != NULL)
        znl_zmtp_link_refused(link, err, refusal);
}

static void on_message(
        znl_zmtp_side *side, znl_zmtp_peer *peer, znl_frame *frames, size_t count)
{
    znl_zmtp_link *link = znl_zmtp_link_of(side);
    frames[-1] = peer->entry.key;
    link->as.router.last = peer;
    link->events.on_message(link->user, frames - 1, count + 1);
}

int znl_zmtp_router_send(znl_zmtp_link *link, const znl_frame *frames, size_t count)
{
    znl_zmtp_peer *peer = find(&link->as.router, frames[0]);
    return peer != NULL ? znl_zmtp_peer_send(peer, frames + 1, count - 1) : ZNL_E_UNREACHABLE;
}

/* --- binding ----------------------------------------------------------------------------------- */

static void on_accept(void *user, znl_stream *stream)
{
    znl_zmtp_link *link = user;
    znl_zmtp_peer *peer;
    if (znl_zmtp_link_add(link, stream, &peer) == 0)
        znl_zmtp_peer_start(peer);
}

static void on_turned_away(void *user, int err)
{
    znl_zmtp_link_refused(user, err,
            err == ZNL_E_LIMIT ? "no descriptors are left, see ulimit -n" : znl_err_text(err));
}

/* The address of the interface with that name, as text. True when there is one. */
static int find_interface(const char *name, char *out, size_t size)
{
    struct ifaddrs *all = NULL;
    int is_found = 0;
    if (getifaddrs(&all) != 0)
        return 0;
    for (const struct ifaddrs *one = all; one != NULL && !is_found; one = one->ifa_next) {
        if (one->ifa_addr == NULL || one->ifa_addr->sa_family != AF_INET ||
                strcmp(one->ifa_name, name) != 0)
            continue;
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)one->ifa_addr;
        is_found = inet_ntop(AF_INET, &in->sin_addr, out, (socklen_t)size) != NULL;
    }
    freeifaddrs(all);
    return is_found;
}

static int bind_tcp(znl_zmtp_link *link, znl_zmtp_door *door, const znl_endpoint *endpoint,
        znl_listener_options *options)
{
    char host[ZNL_ENDPOINT_BYTES_MAX];
    int is_any = endpoint->name.size == 1 && endpoint->name.data[0] == '*';
    snprintf(host, sizeof host, "%.*s", (int)endpoint->name.size,
            (const char *)endpoint->name.data);
    if (is_any)
        strcpy(host, "0.0.0.0"); /* of IPv4, as with libzmq */
    else if (strcmp(host, "localhost") == 0)
        strcpy(host, "127.0.0.1");
    /* Every address, written as one of IPv6, is of both families, as with libzmq. */
    options->host = endpoint->is_ipv6 && strcmp(host, "::") == 0 ? "*" : host;
    options->port = endpoint->port;
    int err = znl_listener_open(&door->listener, link->loop, options, on_accept, link);
    if (err == ZNL_E_ADDRESS && !endpoint->is_ipv6 && find_interface(host, host, sizeof host))
        err = znl_listener_open(&door->listener, link->loop, options, on_accept, link);
    if (err == 0)
        snprintf(door->endpoint, sizeof door->endpoint,
                endpoint->is_ipv6 ? "tcp://[%s]:%u" : "tcp://%s:%u", host,
                (unsigned)znl_listener_port(door->listener));
    return err;
}

static void remove_folder(znl_zmtp_door *door)
{
    if (door->folder == NULL)
        return;
    rmdir(door->folder);
    znl_free(door->folder);
    door->folder = NULL;
}

/* A path of *: a socket in a folder of its own. 0 or an error. */
static int make_path(znl_zmtp_door *door, char *path, size_t size)
{
    const char *where = getenv("TMPDIR");
    int length = snprintf(
            path, size, "%s/znl-XXXXXX", where != NULL && where[0] == '/' ? where : "/tmp");
    if (length < 0 || (size_t)length + sizeof "/socket" > size)
        return ZNL_E_ADDRESS;
    if (mkdtemp(path) == NULL)
        return ZNL_E_ADDRESS;
    door->folder = znl_malloc((size_t)length + 1);
    if (door->folder == NULL) {
        rmdir(path);
        return ZNL_E_NOMEM;
    }
    memcpy(door->folder, path, (size_t)length + 1);
    strcat(path, "/socket");
    return 0;
}

static int bind_ipc(znl_zmtp_link *link, znl_zmtp_door *door, const znl_endpoint *endpoint,
        znl_listener_options *options)
{
    char path[ZNL_ENDPOINT_BYTES_MAX - sizeof "ipc://"];
    int err = 0;
    snprintf(path, sizeof path, "%.*s", (int)endpoint->name.size,
            (const char *)endpoint->name.data);
    if (strcmp(path, "*") == 0)
        err = make_path(door, path, sizeof path);
    options->path = path;
    if (err == 0)
        err = znl_listener_open(&door->listener, link->loop, options, on_accept, link);
    if (err == 0)
        snprintf(door->endpoint, sizeof door->endpoint, "ipc://%s", path);
    else
        remove_folder(door);
    return err;
}

static int open_door(znl_zmtp_link *link, znl_zmtp_door *door, const znl_endpoint *endpoint)
{
    znl_listener_options options = {.max_queue_bytes = ZNL_ZMTP_QUEUE_BYTES,
            .max_connections = ZNL_CONNECTIONS_MAX,
            .on_refused = on_turned_away};
    return endpoint->kind == ZNL_ENDPOINT_TCP ? bind_tcp(link, door, endpoint, &options)
                                              : bind_ipc(link, door, endpoint, &options);
}

int znl_zmtp_router_open(
        znl_zmtp_link *link, const znl_link_options *options, const znl_endpoint *endpoints)
{
    znl_zmtp_router *router = &link->as.router;
    size_t count = 1 + options->more_endpoint_count;
    int err = 0;
    link->side.on_ready = on_ready;
    link->side.on_end = on_end;
    link->side.on_message = on_message;
    router->doors = znl_calloc(count, sizeof *router->doors);
    if (router->doors == NULL)
        return ZNL_E_NOMEM;
    while (err == 0 && router->door_count < count) {
        err = open_door(
                link, &router->doors[router->door_count], &endpoints[router->door_count]);
        if (err == 0)
            router->door_count++;
    }
    if (err != 0)
        *options->failed = router->door_count;
    return err;
}

void znl_zmtp_router_close(znl_zmtp_link *link)
{
    znl_zmtp_router *router = &link->as.router;
    while (router->door_count > 0) {
        znl_zmtp_door *door = &router->doors[--router->door_count];
        znl_listener_close(door->listener);
        remove_folder(door);
    }
    znl_map_fini(&router->peers);
    router->last = NULL;
}
