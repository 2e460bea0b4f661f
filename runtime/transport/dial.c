/* dial.c - see dial.h.
 *
 *   looking up -> trying an address -> (failed: the next) -> done
 *
 * What libuv may still call back for lives in blocks of its own that outlive the dial.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/dial.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "transport/socket_path.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A unix socket with a full backlog refuses at once and never says that there is room. */
#define CROWD_MS 10u

struct lookup {
    uv_getaddrinfo_t request;
    znl_dial *dial; /* NULL: given up */
};

struct attempt {
    uv_poll_t poll;
    znl_dial *dial;
    int fd; /* -1: given away */
};

struct znl_dial {
    znl_loop *loop;
    znl_dial_fn done;
    void *user;
    struct lookup *lookup;
    struct attempt *attempt;
    struct addrinfo *found; /* to be freed */
    const struct addrinfo *next;
    struct addrinfo only; /* of a host that is an address */
    struct sockaddr_storage address;
    znl_deferred start;
    znl_timer timer;
    uint64_t deadline_ms;
    int failure; /* errno of the last attempt */
    uint16_t port;
    uint8_t is_local; /* a path is in place of the host */
    char host[ZNL_HOST_BYTES_MAX + 1];
};

static void try_next(znl_dial *dial);

int znl_dial_error(int number)
{
    switch (number) {
    case ECONNREFUSED:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENETDOWN:
    case EADDRNOTAVAIL:
    case EACCES: /* a firewall */
    case EPERM:
    case ENOENT: /* of a path, as the next ones */
    case ENOTDIR:
    case EPROTOTYPE:
        return ZNL_E_UNREACHABLE;
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
    case ENOTCONN:
        return ZNL_E_GONE;
    default:
        return znl_err_from_errno(number);
    }
}

/* --- the end ----------------------------------------------------------------------------------- */

/* `done` may free the dial: nothing may follow. */
static void finish(znl_dial *dial, int fd, int err, const char *why)
{
    char text[ZNL_HOST_BYTES_MAX + 128];
    znl_wheel_stop(znl_loop_wheel(dial->loop), &dial->timer);
    if (err != 0 && dial->is_local)
        snprintf(text, sizeof text, "unix:%s: %s", dial->host, why);
    else if (err != 0)
        snprintf(text, sizeof text,
                strchr(dial->host, ':') != NULL ? "[%s]:%u: %s" : "%s:%u: %s", dial->host,
                (unsigned)dial->port, why);
    dial->done(dial->user, fd, err, err != 0 ? text : NULL);
}

static void free_attempt(uv_handle_t *handle)
{
    znl_free(handle->data);
}

/* Returns the socket when it is kept. */
static int end_attempt(znl_dial *dial, int keeps_socket)
{
    struct attempt *attempt = dial->attempt;
    int fd = attempt->fd;
    dial->attempt = NULL;
    uv_close((uv_handle_t *)&attempt->poll,
            free_attempt); /* from here the socket is not watched */
    if (!keeps_socket)
        close(fd);
    return fd;
}

void znl_dial_free(znl_dial *dial)
{
    if (dial == NULL)
        return;
    if (dial->lookup != NULL) {
        dial->lookup->dial = NULL; /* its callback frees it, cancelled or not */
        uv_cancel((uv_req_t *)&dial->lookup->request);
    }
    if (dial->attempt != NULL)
        end_attempt(dial, 0);
    if (dial->found != NULL)
        uv_freeaddrinfo(dial->found);
    znl_wheel_stop(znl_loop_wheel(dial->loop), &dial->timer);
    znl_loop_undefer(dial->loop, &dial->start);
    znl_free(dial);
}

/* --- one address after the other --------------------------------------------------------------- */

int znl_dial_is_itself(int fd)
{
    struct sockaddr_storage here, there;
    socklen_t size = sizeof here, there_size = sizeof there;
    memset(&here, 0, sizeof here);
    memset(&there, 0, sizeof there);
    return getsockname(fd, (struct sockaddr *)&here, &size) == 0 &&
            getpeername(fd, (struct sockaddr *)&there, &there_size) == 0 &&
            size == there_size && memcmp(&here, &there, size) == 0;
}

/* Ends it by a reset: the port is free at once for whoever wants to listen there. */
static void reset(int fd)
{
    const struct linger at_once = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    struct attempt *attempt = poll->data;
    znl_dial *dial = attempt->dial;
    int number = 0;
    socklen_t size = sizeof number;
    (void)events;
    if (getsockopt(attempt->fd, SOL_SOCKET, SO_ERROR, &number, &size) != 0)
        number = errno;
    else if (number == 0 && status < 0)
        number = -status;
    if (number == 0 && !dial->is_local && znl_dial_is_itself(attempt->fd)) {
        reset(attempt->fd);
        number = ECONNREFUSED;
    }
    if (number == 0) {
        finish(dial, end_attempt(dial, 1), 0, NULL);
        return;
    }
    dial->failure = number;
    end_attempt(dial, 0);
    try_next(dial);
}

/* 0 or an errno. */
static int begin(znl_dial *dial, const struct addrinfo *at)
{
    struct attempt *attempt = znl_calloc(1, sizeof *attempt);
    if (attempt == NULL)
        return ENOMEM;
    int number = 0;
    attempt->dial = dial;
    attempt->fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (attempt->fd < 0) {
        number = errno;
        goto fail;
    }
    int rc = connect(attempt->fd, at->ai_addr, at->ai_addrlen);
    if (rc != 0 && errno != EINPROGRESS && errno != EINTR) {
        number = errno;
        goto fail;
    }
    rc = uv_poll_init(znl_loop_uv(dial->loop), &attempt->poll, attempt->fd);
    if (rc != 0) {
        number = -rc;
        goto fail;
    }
    attempt->poll.data = attempt;
    dial->attempt = attempt; /* libuv knows it: only its close callback may free it */
    rc = uv_poll_start(&attempt->poll, UV_WRITABLE, on_ready);
    if (rc != 0)
        end_attempt(dial, 0);
    return -rc;
fail:
    if (attempt->fd >= 0)
        close(attempt->fd);
    znl_free(attempt);
    return number;
}

static void on_late(znl_timer *timer)
{
    znl_dial *dial = (znl_dial *)(void *)((char *)timer - offsetof(znl_dial, timer));
    dial->failure = ETIMEDOUT;
    if (dial->attempt != NULL)
        end_attempt(dial, 0);
    if (dial->lookup != NULL || znl_loop_now_ms(dial->loop) >= dial->deadline_ms)
        finish(dial, -1, ZNL_E_TIMEOUT, "no answer in time");
    else
        try_next(dial);
}

/* Each address has an equal share of the time that is left: one that swallows everything must not keep
 * the others from being tried. */
static void try_next(znl_dial *dial)
{
    while (dial->next != NULL) {
        const struct addrinfo *at = dial->next;
        uint64_t now_ms = znl_loop_now_ms(dial->loop);
        uint64_t left_ms = dial->deadline_ms > now_ms ? dial->deadline_ms - now_ms : 0;
        uint64_t count = 0;
        for (const struct addrinfo *other = at; other != NULL; other = other->ai_next)
            count++;
        dial->next = at->ai_next;
        dial->failure = begin(dial, at);
        if (dial->failure == 0) {
            znl_wheel_start(znl_loop_wheel(dial->loop), &dial->timer, now_ms + left_ms / count,
                    on_late);
            return;
        }
        if (dial->failure == EAGAIN && dial->is_local) {
            dial->next = at;
            znl_wheel_start(znl_loop_wheel(dial->loop), &dial->timer,
                    now_ms + (left_ms < CROWD_MS ? left_ms : CROWD_MS), on_late);
            return;
        }
    }
    finish(dial, -1, znl_dial_error(dial->failure), uv_strerror(-dial->failure));
}

static void on_start(znl_deferred *deferred)
{
    try_next((znl_dial *)(void *)((char *)deferred - offsetof(znl_dial, start)));
}

/* --- names ------------------------------------------------------------------------------------- */

static void on_found(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    struct lookup *lookup = request->data;
    znl_dial *dial = lookup->dial;
    znl_free(lookup);
    if (dial == NULL) {
        if (found != NULL)
            uv_freeaddrinfo(found);
        return;
    }
    dial->lookup = NULL;
    dial->found = found;
    dial->next = found;
    if (status == 0 && found != NULL)
        try_next(dial);
    else if (status == UV_ENOMEM || status == UV_EAI_MEMORY)
        finish(dial, -1, ZNL_E_NOMEM, "out of memory");
    else
        finish(dial, -1, ZNL_E_UNREACHABLE,
                status != 0 ? uv_strerror(status) : "the name has no address");
}

static int look_up(znl_dial *dial)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    char port[8];
    struct lookup *lookup = znl_calloc(1, sizeof *lookup);
    if (lookup == NULL)
        return ZNL_E_NOMEM;
    lookup->request.data = lookup;
    lookup->dial = dial;
    snprintf(port, sizeof port, "%u", (unsigned)dial->port);
    int rc = uv_getaddrinfo(
            znl_loop_uv(dial->loop), &lookup->request, on_found, dial->host, port, &hints);
    if (rc != 0) { /* a name that no name can be: too long, bad UTF-8 */
        znl_free(lookup);
        return rc == UV_ENOMEM ? ZNL_E_NOMEM : ZNL_E_INVALID;
    }
    dial->lookup = lookup;
    return 0;
}

/* True when the host is an address. */
static int read_address(znl_dial *dial)
{
    struct addrinfo *only = &dial->only;
    only->ai_addr = (struct sockaddr *)&dial->address;
    if (uv_ip4_addr(dial->host, dial->port, (struct sockaddr_in *)&dial->address) == 0) {
        only->ai_family = AF_INET;
        only->ai_addrlen = sizeof(struct sockaddr_in);
    } else if (uv_ip6_addr(dial->host, dial->port, (struct sockaddr_in6 *)&dial->address) ==
            0) {
        only->ai_family = AF_INET6;
        only->ai_addrlen = sizeof(struct sockaddr_in6);
    } else {
        return 0;
    }
    dial->next = only;
    return 1;
}

static znl_dial *dial_new(znl_loop *loop, uint32_t timeout_ms, znl_dial_fn done, void *user)
{
    znl_dial *dial = znl_calloc(1, sizeof *dial);
    if (dial == NULL)
        return NULL;
    dial->loop = loop;
    dial->done = done;
    dial->user = user;
    dial->start.run = on_start;
    dial->deadline_ms = znl_clock_mono_ms() + timeout_ms;
    return dial;
}

int znl_dial_path(znl_dial **out, znl_loop *loop, const char *path, uint32_t timeout_ms,
        znl_dial_fn done, void *user)
{
    struct sockaddr_un address;
    int err = znl_socket_path_read(path, &address);
    if (err != 0)
        return err;
    znl_dial *dial = dial_new(loop, timeout_ms, done, user);
    if (dial == NULL)
        return ZNL_E_NOMEM;
    dial->is_local = 1;
    snprintf(dial->host, sizeof dial->host, "%s", path);
    memcpy(&dial->address, &address, sizeof address);
    dial->only.ai_family = AF_UNIX;
    dial->only.ai_addr = (struct sockaddr *)&dial->address;
    dial->only.ai_addrlen = sizeof address;
    dial->next = &dial->only;
    znl_loop_defer(loop, &dial->start);
    *out = dial;
    return 0;
}

int znl_dial_new(znl_dial **out, znl_loop *loop, const char *host, uint16_t port,
        uint32_t timeout_ms, znl_dial_fn done, void *user)
{
    size_t size = strlen(host);
    if (size >= 2 && host[0] == '[' && host[size - 1] == ']') {
        host++;
        size -= 2;
    }
    if (size == 0 || size > ZNL_HOST_BYTES_MAX || port == 0)
        return ZNL_E_INVALID;
    znl_dial *dial = dial_new(loop, timeout_ms, done, user);
    if (dial == NULL)
        return ZNL_E_NOMEM;
    memcpy(dial->host, host, size);
    dial->port = port;
    int err = read_address(dial) ? 0 : look_up(dial);
    if (err != 0) {
        znl_free(dial);
        return err;
    }
    if (dial->lookup == NULL)
        znl_loop_defer(loop, &dial->start);
    else
        znl_wheel_start(znl_loop_wheel(loop), &dial->timer, dial->deadline_ms, on_late);
    *out = dial;
    return 0;
}
