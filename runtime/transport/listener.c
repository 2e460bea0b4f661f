/* listener.c - accepts streams; see stream.h.
 *
 * Without descriptors a connection would stay in the backlog and wake the loop for ever. So one
 * descriptor is kept in reserve: given up, it lets the connection be taken and closed.
 *
 * SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* accept4 */
#include "transport/stream_backend.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "transport/socket_path.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 4096  /* all peers reconnect at once when a server restarts */
#define RETRY_MS 100u /* after the system could not accept for a reason that passes */
#define AT_ONCE 64u   /* accepted before the others have their turn */

struct znl_listener {
    uv_poll_t poll; /* first */
    znl_loop *loop;
    znl_listener_options options;
    znl_accept_fn on_accept;
    void *user;
    znl_stream_gate *gate;
    znl_timer retry;
    int fd;
    int reserve; /* a descriptor, or -1 */
    int is_closed;
    uint16_t port;
    znl_socket_path *path;      /* NULL: TCP */
    struct sockaddr_un address; /* of that */
    uint64_t accepted;
    uint64_t refused;
};

static void on_ready(uv_poll_t *poll, int status, int events);

static int open_reserve(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void on_retry(znl_timer *timer)
{
    znl_listener *listener =
            (znl_listener *)(void *)((char *)timer - offsetof(znl_listener, retry));
    if (listener->reserve < 0)
        listener->reserve = open_reserve();
    uv_poll_start(&listener->poll, UV_READABLE, on_ready);
}

static void rest(znl_listener *listener)
{
    uv_poll_stop(&listener->poll);
    znl_wheel_start(znl_loop_wheel(listener->loop), &listener->retry,
            znl_loop_now_ms(listener->loop) + RETRY_MS, on_retry);
}

/* It is closed. */
static void count_refused(znl_listener *listener, int err)
{
    listener->refused++;
    if (listener->options.on_refused != NULL)
        listener->options.on_refused(listener->user, err);
}

/* Takes a connection for which there is no descriptor, and closes it. False: there was none, or it
 * cannot be taken now. */
static int turn_away(znl_listener *listener)
{
    if (listener->reserve < 0)
        return 0;
    close(listener->reserve);
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        close(fd);
    listener->reserve = open_reserve();
    int is_done = fd >= 0 && listener->reserve >= 0;
    if (fd >= 0)
        count_refused(listener, ZNL_E_LIMIT);
    return is_done;
}

static void admit(znl_listener *listener, int fd, const struct sockaddr *peer)
{
    const znl_stream_adoption adoption = {
            .fd = fd,
            .peer = peer,
            .tls = listener->options.tls,
            .handshake_ms = listener->options.handshake_ms,
            .max_queue_bytes = listener->options.max_queue_bytes,
            .gate = listener->gate,
    };
    znl_stream *stream;
    int err = listener->gate->open >= listener->options.max_connections
            ? ZNL_E_LIMIT
            : znl_stream_adopt(&stream, listener->loop, &adoption);
    if (err != 0) {
        close(fd);
        count_refused(listener, err);
        return;
    }
    listener->accepted++;
    listener->on_accept(listener->user, stream);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    znl_listener *listener = poll->data;
    (void)status; /* an error is found by accepting */
    (void)events;
    for (unsigned i = 0; i < AT_ONCE && !listener->is_closed; i++) {
        struct sockaddr_storage peer;
        socklen_t size = sizeof peer;
        int fd = accept4(
                listener->fd, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            admit(listener, fd,
                    listener->path != NULL ? (const struct sockaddr *)&listener->address
                                           : (const struct sockaddr *)&peer);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno == EMFILE || errno == ENFILE) {
            if (!turn_away(listener)) {
                if (!listener->is_closed)
                    rest(listener);
                return;
            }
        } else if (errno == ENOMEM || errno == ENOBUFS) {
            rest(listener);
            return;
        } /* else it was reset while it waited (accept(2)): the next */
    }
}

/* --- opening and closing ----------------------------------------------------------------------- */

static void free_listener(uv_handle_t *handle)
{
    znl_listener *listener = handle->data;
    znl_stream_gate_release(listener->gate);
    znl_tls_release(listener->options.tls);
    znl_free(listener);
}

void znl_listener_close(znl_listener *listener)
{
    if (listener == NULL)
        return;
    listener->is_closed = 1;
    znl_wheel_stop(znl_loop_wheel(listener->loop), &listener->retry);
    uv_close((uv_handle_t *)&listener->poll, free_listener); /* watches the socket no more */
    close(listener->fd);
    znl_socket_path_free(listener->path);
    listener->path = NULL;
    if (listener->reserve >= 0)
        close(listener->reserve);
}

static int read_host(const char *host, uint16_t port, struct sockaddr_storage *address)
{
    char text[64];
    size_t size = strlen(host);
    if (strcmp(host, "localhost") == 0)
        host = "127.0.0.1";
    if (size > 2 && size < sizeof text && host[0] == '[' && host[size - 1] == ']') {
        memcpy(text, host + 1, size - 2);
        text[size - 2] = '\0';
        host = text;
    }
    if (uv_ip4_addr(host, port, (struct sockaddr_in *)address) == 0 ||
            uv_ip6_addr(host, port, (struct sockaddr_in6 *)address) == 0)
        return 0;
    return ZNL_E_ADDRESS;
}

/* 0 or an errno. */
static int bind_socket(znl_listener *listener, const struct sockaddr *address, int is_shared)
{
    const int on = 1;
    const int off = 0;
    int is_v6 = address->sa_family == AF_INET6;
    socklen_t size = is_v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* connections in TIME_WAIT */
    if (is_v6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, is_shared ? &off : &on, sizeof on);
    znl_stream_tune(fd);
    if (bind(fd, address, size) != 0 || listen(fd, BACKLOG) != 0) {
        int number = errno;
        close(fd);
        return number;
    }
    listener->fd = fd;
    return 0;
}

/* Without an address: all of both families, or of IPv4 where there is no IPv6. */
static int bind_host(znl_listener *listener, const char *host, uint16_t port)
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    int is_any = host == NULL || strcmp(host, "*") == 0;
    if (read_host(is_any ? "::" : host, port, &address) != 0)
        return ZNL_E_ADDRESS;
    int number = bind_socket(listener, (const struct sockaddr *)&address, is_any);
    if (is_any && (number == EAFNOSUPPORT || number == EADDRNOTAVAIL)) {
        read_host("0.0.0.0", port, &address);
        number = bind_socket(listener, (const struct sockaddr *)&address, 0);
    }
    if (number != 0)
        return znl_err_from_errno(number);
    socklen_t size = sizeof address;
    if (getsockname(listener->fd, (struct sockaddr *)&address, &size) != 0)
        return znl_err_from_errno(errno);
    listener->port = ntohs(address.ss_family == AF_INET6
                    ? ((const struct sockaddr_in6 *)&address)->sin6_port
                    : ((const struct sockaddr_in *)&address)->sin_port);
    return 0;
}

static int bind_path(znl_listener *listener, const char *path, uint32_t mode)
{
    int err = znl_socket_path_read(path, &listener->address);
    return err != 0
            ? err
            : znl_socket_path_listen(&listener->path, path,
                      mode != 0 ? mode : ZNL_SOCKET_MODE_DEFAULT, BACKLOG, &listener->fd);
}

int znl_listener_open(znl_listener **out, znl_loop *loop, const znl_listener_options *options,
        znl_accept_fn on_accept, void *user)
{
    int err = ZNL_E_NOMEM;
    int rc;
    znl_listener *listener = znl_calloc(1, sizeof *listener);
    if (listener == NULL)
        return err;
    listener->fd = -1;
    listener->loop = loop;
    listener->options = *options;
    listener->options.host = NULL; /* borrowed until now */
    listener->options.path = NULL;
    if (options->max_connections == 0)
        listener->options.max_connections = ZNL_CONNECTIONS_DEFAULT;
    if (options->tls != NULL)
        znl_tls_hold(options->tls);
    listener->on_accept = on_accept;
    listener->user = user;
    listener->reserve = open_reserve();
    listener->gate = znl_calloc(1, sizeof *listener->gate);
    if (listener->gate == NULL)
        goto fail;
    listener->gate->users = 1;
    err = options->path != NULL ? bind_path(listener, options->path, options->mode)
                                : bind_host(listener, options->host, options->port);
    if (err != 0)
        goto fail;
    rc = uv_poll_init(znl_loop_uv(loop), &listener->poll, listener->fd);
    if (rc != 0) {
        err = znl_err_from_uv(rc);
        goto fail;
    }
    listener->poll.data = listener; /* from here only free_listener() may free it */
    rc = uv_poll_start(&listener->poll, UV_READABLE, on_ready);
    if (rc != 0) {
        znl_listener_close(listener);
        return znl_err_from_uv(rc);
    }
    *out = listener;
    return 0;
fail:
    if (listener->fd >= 0)
        close(listener->fd);
    if (listener->reserve >= 0)
        close(listener->reserve);
    znl_socket_path_free(listener->path);
    znl_stream_gate_release(listener->gate);
    znl_tls_release(listener->options.tls);
    znl_free(listener);
    return err;
}

uint16_t znl_listener_port(const znl_listener *listener)
{
    return listener->port;
}

uint64_t znl_listener_accepted(const znl_listener *listener)
{
    return listener->accepted;
}

uint64_t znl_listener_refused(const znl_listener *listener)
{
    return listener->refused;
}
