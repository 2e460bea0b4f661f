/* wire.c - see wire.h. SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* accept4() */
#include "conformance/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define READ_BYTES 65536
#define GREETING_BYTES 64

/* --- sockets ------------------------------------------------------------------------------------ */

typedef struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_un un;
    } is;
    socklen_t size;
} address;

static address address_of(const char *endpoint)
{
    address to = {0};
    unsigned port = 0;
    if (sscanf(endpoint, "tcp://127.0.0.1:%u", &port) == 1) {
        to.is.in.sin_family = AF_INET;
        to.is.in.sin_port = htons((uint16_t)port);
        to.is.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        to.size = sizeof to.is.in;
        return to;
    }
    assert_int_equal(strncmp(endpoint, "ipc://", 6), 0);
    const char *path = endpoint + 6;
    assert_true(strlen(path) < sizeof to.is.un.sun_path);
    to.is.un.sun_family = AF_UNIX;
    memcpy(to.is.un.sun_path, path, strlen(path));
    to.size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
    return to;
}

static struct wire *make(struct stage *stage, int fd)
{
    struct wire *made = calloc(1, sizeof *made);
    int on = 1;
    assert_non_null(made);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    made->stage = stage;
    made->fd = fd;
    made->next = stage->wires;
    stage->wires = made;
    return made;
}

struct wire *wire_connect(struct stage *stage, const char *endpoint)
{
    address to = address_of(endpoint);
    int fd = socket(to.is.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, &to.is.any, to.size) != 0)
        fail_msg("%s: %s", endpoint, strerror(errno));
    return make(stage, fd);
}

int wire_is_served(const char *endpoint)
{
    address to = address_of(endpoint);
    int fd = socket(to.is.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    int rc = connect(fd, &to.is.any, to.size);
    close(fd);
    return rc == 0;
}

struct wire *wire_listen(struct stage *stage)
{
    static unsigned used;
    char path[64];
    snprintf(path, sizeof path, "ipc:///tmp/znl-wire-%ld-%u", (long)getpid(), used++);
    int is_tcp = strncmp(stage->pair->endpoint, "tcp:", 4) == 0;
    address at = address_of(is_tcp ? "tcp://127.0.0.1:0" : path);
    int fd = socket(at.is.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, &at.is.any, at.size), 0);
    assert_int_equal(listen(fd, 1024), 0);
    struct wire *made = make(stage, fd);
    made->is_listener = 1;
    assert_int_equal(getsockname(fd, &at.is.any, &at.size), 0);
    if (is_tcp)
        snprintf(made->endpoint, sizeof made->endpoint, "tcp://127.0.0.1:%u",
                ntohs(at.is.in.sin_port));
    else
        snprintf(made->endpoint, sizeof made->endpoint, "%s", path);
    return made;
}

struct wire *wire_try_accept(struct wire *listener)
{
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
    return fd < 0 ? NULL : make(listener->stage, fd);
}

struct wire *wire_accept(struct wire *listener)
{
    struct wire *accepted = NULL;
    STAGE_UNTIL(listener->stage, (accepted = wire_try_accept(listener)) != NULL);
    return accepted;
}

void wire_close(struct wire *closed)
{
    struct wire **at = &closed->stage->wires;
    while (*at != closed)
        at = &(*at)->next;
    *at = closed->next;
    close(closed->fd);
    if (closed->is_listener && closed->endpoint[0] == 'i')
        unlink(closed->endpoint + strlen("ipc://"));
    free(closed->in.data);
    free(closed);
}

void wire_finish(struct wire *wire)
{
    shutdown(wire->fd, SHUT_WR);
}

void wire_reset(struct wire *wire)
{
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(wire->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    wire_close(wire);
}

/* znl_buffer of the runtime is not used to write: what is on trial should not help. */
static uint8_t *room(znl_buffer *buffer, size_t extra)
{
    if (buffer->size + extra > buffer->capacity) {
        buffer->capacity = (buffer->size + extra) * 2;
        buffer->data = realloc(buffer->data, buffer->capacity);
        assert_non_null(buffer->data);
    }
    return buffer->data + buffer->size;
}

static void look(struct wire *wire)
{
    while (!wire->is_ended && !wire->is_deaf && !wire->is_listener) {
        ssize_t got = recv(wire->fd, room(&wire->in, READ_BYTES), READ_BYTES, 0);
        if (got > 0)
            wire->in.size += (size_t)got;
        else if (got == 0 || (errno != EAGAIN && errno != EINTR))
            wire->is_ended = 1;
        else if (errno == EAGAIN)
            return;
    }
}

void wires_look(struct stage *stage)
{
    for (struct wire *at = stage->wires; at != NULL; at = at->next)
        look(at);
}

void wires_close(struct stage *stage)
{
    while (stage->wires != NULL)
        wire_close(stage->wires);
}

int wire_write(struct wire *wire, const void *data, size_t size)
{
    const uint8_t *at = data;
    uint64_t ends_ms = stage_now_ms() + STAGE_GUARD_MS;
    while (size > 0) {
        ssize_t went = send(wire->fd, at, size, MSG_NOSIGNAL);
        if (went > 0) {
            at += went;
            size -= (size_t)went;
        } else if (errno == EAGAIN || errno == EINTR) {
            stage_turn(wire->stage);
            if (stage_now_ms() >= ends_ms)
                fail_msg("%zu bytes are not taken", size);
        } else {
            return 0;
        }
    }
    return 1;
}

int wire_say(struct wire *wire, const znl_buffer *bytes)
{
    return wire_write(wire, bytes->data, bytes->size);
}

const uint8_t *wire_take(struct wire *wire, size_t size)
{
    STAGE_UNTIL(wire->stage, wire->in.size - wire->at >= size || wire->is_ended);
    if (wire->in.size - wire->at < size)
        fail_msg("the link closed before it said %zu bytes", size);
    const uint8_t *taken = wire->in.data + wire->at;
    wire->at += size;
    return taken;
}

znl_frame wire_take_frame(struct wire *wire, unsigned *flags)
{
    const uint8_t *head = wire_take(wire, 2);
    size_t size = head[1];
    *flags = head[0];
    assert_int_equal(*flags & ~7u, 0);
    if (*flags & SAY_LONG) {
        wire->at--;
        head = wire_take(wire, 8);
        assert_int_equal(znl_get_be32(head), 0);
        size = znl_get_be32(head + 4);
        assert_true(size > 255); /* what is short is said short */
    }
    return znl_frame_of(wire_take(wire, size), size);
}

void wire_ends(struct wire *wire)
{
    STAGE_UNTIL(wire->stage, wire->is_ended);
}

/* --- what is said ------------------------------------------------------------------------------- */

void say_bytes(znl_buffer *out, const void *data, size_t size)
{
    uint8_t *at = room(out, size);
    if (size > 0)
        memcpy(at, data, size);
    out->size += size;
}

void say_greeting(znl_buffer *out, unsigned minor, const char *mechanism)
{
    uint8_t bytes[GREETING_BYTES] = {[0] = 0xff, [9] = 0x7f, [10] = 3};
    bytes[11] = (uint8_t)minor;
    memcpy(bytes + 12, mechanism, strlen(mechanism));
    say_bytes(out, bytes, sizeof bytes);
}

void say_frame(znl_buffer *out, unsigned flags, const void *data, size_t size)
{
    uint8_t head[9] = {(uint8_t)flags, (uint8_t)size};
    if (size > 255 || flags & SAY_LONG) {
        head[0] |= SAY_LONG;
        head[1] = 0;
        for (int i = 0; i < 8; i++)
            head[8 - i] = (uint8_t)((uint64_t)size >> 8 * i);
        say_bytes(out, head, 9);
    } else {
        say_bytes(out, head, 2);
    }
    say_bytes(out, data, size);
}

void say_text(znl_buffer *out, const char *text)
{
    say_frame(out, 0, text, strlen(text));
}

void say_command(znl_buffer *out, const char *name, const void *body, size_t size)
{
    znl_buffer whole = {0};
    uint8_t length = (uint8_t)strlen(name);
    say_bytes(&whole, &length, 1);
    say_bytes(&whole, name, length);
    say_bytes(&whole, body, size);
    say_frame(out, SAY_COMMAND, whole.data, whole.size);
    free(whole.data);
}

void say_property(znl_buffer *out, const char *name, const void *value, size_t size)
{
    uint8_t length = (uint8_t)strlen(name);
    uint8_t bytes[4];
    say_bytes(out, &length, 1);
    say_bytes(out, name, length);
    znl_put_be32(bytes, (uint32_t)size);
    say_bytes(out, bytes, 4);
    say_bytes(out, value, size);
}

void say_ready(znl_buffer *out, const char *type, const void *id, size_t id_size)
{
    znl_buffer body = {0};
    say_property(&body, "Socket-Type", type, strlen(type));
    say_property(&body, "Identity", id, id_size);
    say_command(out, "READY", body.data, body.size);
    free(body.data);
}

void wire_take_greeting(struct wire *wire)
{
    const uint8_t *got = wire_take(wire, GREETING_BYTES);
    assert_int_equal(got[0], 0xff);
    assert_int_equal(got[9], 0x7f);
    assert_int_equal(got[10], 3);
    assert_memory_equal(got + 12, "NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 21);
}

static znl_frame take_property(znl_frame *left, const char *name)
{
    size_t length = strlen(name);
    assert_true(left->size >= 1 + length + 4);
    assert_int_equal(left->data[0], length);
    assert_memory_equal(left->data + 1, name, length);
    size_t size = znl_get_be32(left->data + 1 + length);
    assert_true(left->size - (1 + length + 4) >= size);
    znl_frame value = znl_frame_of(left->data + 1 + length + 4, size);
    *left = znl_frame_of(value.data + size, left->size - (1 + length + 4) - size);
    return value;
}

void wire_take_ready(struct wire *wire, const char *type, const char *id)
{
    unsigned flags;
    znl_frame frame = wire_take_frame(wire, &flags);
    assert_int_equal(flags & (SAY_COMMAND | SAY_MORE), SAY_COMMAND);
    assert_true(frame.size > 6);
    assert_memory_equal(frame.data, "\5READY", 6);
    znl_frame left = znl_frame_of(frame.data + 6, frame.size - 6);
    assert_true(znl_frame_equal(take_property(&left, "Socket-Type"), znl_frame_text(type)));
    assert_true(znl_frame_equal(take_property(&left, "Identity"), znl_frame_text(id)));
    assert_int_equal(left.size, 0);
}

void wire_shake(struct wire *wire, const char *type, const char *id)
{
    znl_buffer out = {0};
    say_greeting(&out, 1, "NULL");
    say_ready(&out, type, id, strlen(id));
    assert_true(wire_say(wire, &out));
    free(out.data);
    wire_take_greeting(wire);
    unsigned flags;
    wire_take_frame(wire, &flags);
    assert_int_equal(flags & SAY_COMMAND, SAY_COMMAND);
}
