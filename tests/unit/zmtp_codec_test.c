/* Greeting, frame heads and commands of ZMTP: every length, every edge, and the bytes of libzmq.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/limits.h"
#include "codec/zmtp.h"
#include "support/zmtp_wire.h"

_Static_assert(sizeof WIRE_GREETING - 1 == ZNL_ZMTP_GREETING_BYTES, "a whole greeting");
_Static_assert(sizeof WIRE_GREETING_OF_8 - 1 == ZNL_ZMTP_GREETING_BYTES, "a whole greeting");
_Static_assert(sizeof WIRE_GREETING_PLAIN - 1 == ZNL_ZMTP_GREETING_BYTES, "a whole greeting");
_Static_assert(sizeof WIRE_GREETING_CURVE - 1 == ZNL_ZMTP_GREETING_BYTES, "a whole greeting");

/* A copy that ends where its memory ends: a sanitizer sees who reads on. */
static uint8_t *copy_of(const void *data, size_t size)
{
    uint8_t *copy = malloc(size + !size);
    assert_non_null(copy);
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

/* --- greeting ----------------------------------------------------------------------------------- */

/* Reads every length up to all of it. The answer must be BUSY up to `tells_at` and `err` from there on. */
static znl_zmtp_greeting read_growing(
        const uint8_t *bytes, size_t size, size_t tells_at, int err)
{
    znl_zmtp_greeting greeting;
    for (size_t part = 0; part <= size; part++) {
        uint8_t *copy = copy_of(bytes, part);
        memset(&greeting, 0xee, sizeof greeting);
        int got = znl_zmtp_read_greeting(copy, part, &greeting);
        if (got != (part < tells_at ? ZNL_E_BUSY : err))
            fail_msg("%zu bytes: %d", part, got);
        free(copy);
    }
    return greeting;
}

static void our_greeting(void **state)
{
    uint8_t bytes[ZNL_ZMTP_GREETING_BYTES];
    (void)state;
    memset(bytes, 0xee, sizeof bytes);
    znl_zmtp_write_greeting(bytes);
    /* As libzmq writes it, but that the padding says nothing. */
    uint8_t expected[ZNL_ZMTP_GREETING_BYTES + 1] = WIRE_GREETING;
    expected[8] = 0;
    assert_memory_equal(bytes, expected, sizeof bytes);
    znl_zmtp_greeting greeting = read_growing(bytes, sizeof bytes, sizeof bytes, 0);
    assert_int_equal(greeting.major, 3);
    assert_int_equal(greeting.minor, 1);
    assert_false(greeting.as_server);
    assert_string_equal(greeting.mechanism, "NULL");
}

static void greetings_of_libzmq(void **state)
{
    static const struct {
        const uint8_t *bytes;
        size_t size;
        const char *mechanism;
    } cases[] = {
            {WIRE(WIRE_GREETING), "NULL"},
            {WIRE(WIRE_GREETING_OF_8), "NULL"},
            {WIRE(WIRE_GREETING_PLAIN), "PLAIN"},
            {WIRE(WIRE_GREETING_CURVE), "CURVE"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        znl_zmtp_greeting greeting = read_growing(cases[i].bytes, cases[i].size, 64, 0);
        assert_int_equal(greeting.major, 3);
        assert_int_equal(greeting.minor, 1);
        assert_false(greeting.as_server);
        assert_string_equal(greeting.mechanism, cases[i].mechanism);
    }
}

static void what_follows_a_greeting_is_not_looked_at(void **state)
{
    uint8_t bytes[200];
    znl_zmtp_greeting greeting;
    (void)state;
    memset(bytes, 0xee, sizeof bytes);
    memcpy(bytes, WIRE_GREETING, 64);
    for (size_t size = 64; size <= sizeof bytes; size++)
        assert_int_equal(znl_zmtp_read_greeting(bytes, size, &greeting), 0);
}

static void versions(void **state)
{
    uint8_t bytes[ZNL_ZMTP_GREETING_BYTES + 1] = WIRE_GREETING;
    (void)state;
    for (unsigned major = 0; major < 256; major++) {
        for (unsigned minor = 0; minor < 3; minor++) {
            bytes[10] = (uint8_t)major;
            bytes[11] = (uint8_t)minor;
            /* A version that is too old shows in its first byte. */
            znl_zmtp_greeting greeting = major < 3
                    ? read_growing(bytes, 64, 11, ZNL_E_UNSUPPORTED)
                    : read_growing(bytes, 64, 64, 0);
            assert_int_equal(greeting.major, major);
            assert_int_equal(greeting.minor, major < 3 ? 0 : minor);
        }
    }
}

static void zmtp_2_is_told_from_garbage(void **state)
{
    (void)state;
    /* libzmq 3.2, DEALER without a routing id: revision 1, socket type 5, an empty frame. */
    znl_zmtp_greeting greeting = read_growing(
            WIRE("\xff\0\0\0\0\0\0\0\x01\x7f\x01\x05\0\0"), 11, ZNL_E_UNSUPPORTED);
    assert_int_equal(greeting.major, 1);
}

static void zmtp_1_is_told_where_it_can_be(void **state)
{
    (void)state;
    /* A routing id of 300 bytes in the long form: a frame without more; the byte after it is data. */
    znl_zmtp_greeting greeting = read_growing(
            WIRE("\xff\0\0\0\0\0\0\x01\x2d\0identity"), 10, ZNL_E_UNSUPPORTED);
    assert_int_equal(greeting.major, 0);
    /* The usual short form is nothing that could be told from any other bytes. */
    read_growing(WIRE("\x01\0"), 1, ZNL_E_PROTO);
    read_growing(WIRE("\x08\0slave-1"), 1, ZNL_E_PROTO);
}

static void garbage(void **state)
{
    uint8_t bytes[ZNL_ZMTP_GREETING_BYTES + 1];
    (void)state;
    for (unsigned first = 0; first < 255; first++) {
        memcpy(bytes, WIRE_GREETING, 64);
        bytes[0] = (uint8_t)first;
        read_growing(bytes, 64, 1, ZNL_E_PROTO);
    }
    for (unsigned ninth = 0; ninth < 256; ninth++) {
        memcpy(bytes, WIRE_GREETING, 64);
        bytes[9] = (uint8_t)ninth;
        if (ninth != 0x7f)
            read_growing(bytes, 64, 10, ninth & 1 ? ZNL_E_PROTO : ZNL_E_UNSUPPORTED);
    }
    read_growing(WIRE("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 1, ZNL_E_PROTO);
    read_growing(WIRE("\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"), 1, ZNL_E_PROTO); /* TLS */
    memset(bytes, 0xff, sizeof bytes);
    read_growing(bytes, 64, 10, ZNL_E_PROTO);
}

static void the_padding_and_the_filler_mean_nothing(void **state)
{
    (void)state;
    for (size_t at = 1; at < 64; at++) {
        uint8_t bytes[ZNL_ZMTP_GREETING_BYTES + 1] = WIRE_GREETING;
        if ((at > 8 && at < 32) || at == 32)
            continue;
        bytes[at] = 0xa5;
        znl_zmtp_greeting greeting = read_growing(bytes, 64, 64, 0);
        assert_false(greeting.as_server);
    }
}

static void who_is_the_server(void **state)
{
    uint8_t bytes[ZNL_ZMTP_GREETING_BYTES + 1] = WIRE_GREETING_CURVE;
    (void)state;
    bytes[32] = 1;
    assert_true(read_growing(bytes, 64, 64, 0).as_server);
}

/* A greeting with these 20 bytes as its mechanism. */
static int read_mechanism(const char field[20], char name[21])
{
    uint8_t bytes[ZNL_ZMTP_GREETING_BYTES + 1] = WIRE_GREETING;
    memcpy(bytes + 12, field, 20);
    znl_zmtp_greeting greeting;
    int err = znl_zmtp_read_greeting(bytes, 64, &greeting);
    memcpy(name, greeting.mechanism, sizeof greeting.mechanism);
    return err;
}

static void mechanisms(void **state)
{
    char field[20] = {0}, name[21];
    (void)state;
    assert_int_equal(read_mechanism(field, name), ZNL_E_PROTO); /* none */
    for (size_t size = 1; size <= sizeof field; size++) {
        memset(field, 0, sizeof field);
        memset(field, 'X', size);
        assert_int_equal(read_mechanism(field, name), 0);
        assert_int_equal(strlen(name), size);
        assert_int_equal(strspn(name, "X"), size);
        /* Nothing but zero bytes after it, nothing but what can be shown in it. */
        for (size_t at = 0; at < sizeof field; at++) {
            for (unsigned byte = 0; byte < 256; byte++) {
                char other[20];
                memcpy(other, field, sizeof other);
                other[at] = (char)byte;
                int is_shown = byte > ' ' && byte < 0x7f;
                int is_good = at < size ? is_shown || (byte == 0 && at == size - 1 && at > 0)
                                        : byte == 0 || (is_shown && at == size);
                assert_int_equal(read_mechanism(other, name), is_good ? 0 : ZNL_E_PROTO);
                assert_true(strlen(name) <= ZNL_ZMTP_MECHANISM_BYTES);
            }
        }
    }
}

/* --- frames ------------------------------------------------------------------------------------- */

static void heads(void **state)
{
    static const struct {
        uint64_t size;
        const uint8_t *bytes;
        size_t head_bytes;
    } cases[] = {
            {0, WIRE("\0\0")},
            {1, WIRE("\0\x01")},
            {254, WIRE("\0\xfe")},
            {255, WIRE("\0\xff")},
            {256, WIRE("\x02\0\0\0\0\0\0\x01\0")},
            {65535, WIRE("\x02\0\0\0\0\0\0\xff\xff")},
            {65536, WIRE("\x02\0\0\0\0\0\x01\0\0")},
            {UINT32_MAX, WIRE("\x02\0\0\0\0\xff\xff\xff\xff")},
            {UINT64_C(1) << 32, WIRE("\x02\0\0\0\x01\0\0\0\0")},
            {INT64_MAX, WIRE("\x02\x7f\xff\xff\xff\xff\xff\xff\xff")},
    };
    static const unsigned flags[] = {0, ZNL_ZMTP_MORE, ZNL_ZMTP_COMMAND};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t f = 0; f < sizeof flags / sizeof *flags; f++) {
            uint8_t head[ZNL_ZMTP_HEAD_BYTES_MAX + 1], expected[ZNL_ZMTP_HEAD_BYTES_MAX];
            memset(head, 0xee, sizeof head);
            memcpy(expected, cases[i].bytes, cases[i].head_bytes);
            expected[0] = (uint8_t)(expected[0] | flags[f]);
            uint8_t *end = znl_zmtp_write_head(head, (size_t)cases[i].size, flags[f]);
            assert_int_equal(end - head, cases[i].head_bytes);
            assert_int_equal(znl_zmtp_head_bytes((size_t)cases[i].size), cases[i].head_bytes);
            assert_memory_equal(head, expected, cases[i].head_bytes);
            assert_int_equal(*end, 0xee);
        }
    }
}

static void messages_as_libzmq_writes_them(void **state)
{
    static uint8_t body[256];
    const znl_frame frames[] = {
            {NULL, 0}, znl_frame_of(body, 255), znl_frame_of(body, sizeof body)};
    uint8_t expected[1024], out[1024], *at = expected;
    (void)state;
    memset(body, 'b', sizeof body);
    memset(out, 0xee, sizeof out);
    memcpy(at, WIRE_HEAD_0_MORE, 2);
    memcpy(at + 2, WIRE_HEAD_255_MORE, 2);
    memset(at + 4, 'b', 255);
    memcpy(at + 259, WIRE_HEAD_256, 9);
    memset(at + 268, 'b', 256);
    assert_int_equal(znl_zmtp_message_bytes(frames, 3), 524);
    assert_ptr_equal(znl_zmtp_write_message(out, frames, 3), out + 524);
    assert_memory_equal(out, expected, 524);
    assert_int_equal(out[524], 0xee);
}

static void one_empty_frame(void **state)
{
    const znl_frame frame = {NULL, 0};
    uint8_t out[3] = {0xee, 0xee, 0xee};
    (void)state;
    assert_int_equal(znl_zmtp_message_bytes(&frame, 1), 2);
    assert_ptr_equal(znl_zmtp_write_message(out, &frame, 1), out + 2);
    assert_memory_equal(out, "\0\0\xee", 3);
}

/* --- commands ----------------------------------------------------------------------------------- */

/* Reads the body of a command frame, which ends where its memory ends. `*copy` is what the command borrows from. */
static int read_command(
        uint8_t **copy, const uint8_t *bytes, size_t size, znl_zmtp_command *command)
{
    *copy = copy_of(bytes, size);
    return znl_zmtp_read_command(znl_frame_of(*copy, size), command);
}

static void check_command(const uint8_t *bytes, size_t size, znl_zmtp_command_kind kind,
        const char *name, const void *body, size_t body_bytes, uint32_t ttl_ms)
{
    uint8_t *copy;
    znl_zmtp_command command;
    assert_int_equal(read_command(&copy, bytes, size, &command), 0);
    assert_int_equal(command.kind, kind);
    assert_true(znl_frame_equal(command.name, znl_frame_text(name)));
    assert_true(znl_frame_equal(command.body, znl_frame_of(body, body_bytes)));
    assert_int_equal(command.ttl_ms, ttl_ms);
    free(copy);
}

static void check_no_command(const uint8_t *bytes, size_t size)
{
    uint8_t *copy;
    znl_zmtp_command command;
    assert_int_equal(read_command(&copy, bytes, size, &command), ZNL_E_PROTO);
    free(copy);
}

static void commands(void **state)
{
    (void)state;
    check_command(WIRE("\x05READY"), ZNL_ZMTP_READY, "READY", "", 0, 0);
    check_command(WIRE("\x05READYx"), ZNL_ZMTP_READY, "READY", "x", 1, 0);
    check_command(WIRE("\x05"
                       "ERROR\x03out"),
            ZNL_ZMTP_ERROR, "ERROR", "out", 3, 0);
    check_command(WIRE("\x05"
                       "ERROR\0"),
            ZNL_ZMTP_ERROR, "ERROR", "", 0, 0);
}

static void names_are_told_apart(void **state)
{
    static const char *const names[] = {"A", "READ", "READYY", "ready", "Ping", "PIN", "PINGS",
            "PO", "ERR", "SUBSCRIBE", "CANCEL", "HELLO", "WELCOME", "INITIATE", "MESSAGE"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        uint8_t bytes[40];
        size_t size = strlen(names[i]);
        bytes[0] = (uint8_t)size;
        memcpy(bytes + 1, names[i], size);
        memcpy(bytes + 1 + size, "body", 4);
        check_command(bytes, 1 + size + 4, ZNL_ZMTP_UNKNOWN, names[i], "body", 4, 0);
    }
}

static void names_that_are_none(void **state)
{
    uint8_t bytes[300];
    (void)state;
    check_no_command(WIRE(""));
    check_no_command(WIRE("\0"));
    check_no_command(WIRE("\0READY"));
    check_no_command(WIRE("\x01"));
    check_no_command(WIRE("\x06READY"));
    check_no_command(WIRE("\xffPING"));
    /* The longest name there is, and what it lacks. */
    memset(bytes, 'n', sizeof bytes);
    bytes[0] = 255;
    bytes[256] = 0;
    check_command(bytes, 256, ZNL_ZMTP_UNKNOWN, (const char *)bytes + 1, "", 0, 0);
    for (size_t size = 1; size < 256; size++)
        check_no_command(bytes, size);
}

static void errors(void **state)
{
    uint8_t bytes[300] = "\x05"
                         "ERROR";
    (void)state;
    check_no_command(bytes, 6); /* without a length */
    for (unsigned size = 0; size < 256; size++) {
        bytes[6] = (uint8_t)size;
        memset(bytes + 7, 'r', size);
        check_command(bytes, 7 + size, ZNL_ZMTP_ERROR, "ERROR", bytes + 7, size, 0);
        check_no_command(bytes, 7 + size + 1);
        if (size > 0)
            check_no_command(bytes, 7 + size - 1);
    }
}

static void pings(void **state)
{
    uint8_t bytes[40] = "\x04PING";
    (void)state;
    check_no_command(bytes, 5);
    check_no_command(bytes, 6);
    memcpy(bytes + 7, "0123456789abcdefg", 17);
    for (size_t context = 0; context <= 16; context++) {
        bytes[5] = 0;
        bytes[6] = 25;
        check_command(bytes, 7 + context, ZNL_ZMTP_PING, "PING", bytes + 7, context, 2500);
        bytes[5] = bytes[6] = 0;
        check_command(bytes, 7 + context, ZNL_ZMTP_PING, "PING", bytes + 7, context, 0);
        bytes[5] = bytes[6] = 0xff;
        check_command(bytes, 7 + context, ZNL_ZMTP_PING, "PING", bytes + 7, context, 6553500);
    }
    check_no_command(bytes, 7 + 17);
}

static void pongs(void **state)
{
    uint8_t bytes[40] = "\x04PONG0123456789abcdefg";
    (void)state;
    for (size_t context = 0; context <= 16; context++)
        check_command(bytes, 5 + context, ZNL_ZMTP_PONG, "PONG", bytes + 5, context, 0);
    check_no_command(bytes, 5 + 17);
}

static void heartbeats_of_libzmq(void **state)
{
    (void)state;
    check_command((const uint8_t *)WIRE_PING + 2, sizeof WIRE_PING - 3, ZNL_ZMTP_PING, "PING",
            "", 0, 2500);
    check_command((const uint8_t *)WIRE_PONG + 2, sizeof WIRE_PONG - 3, ZNL_ZMTP_PONG, "PONG",
            "abcd", 4, 0);
}

static void what_we_write_to_pings_and_in_anger(void **state)
{
    uint8_t out[ZNL_ZMTP_ERROR_BYTES_MAX + 1];
    char reason[300];
    (void)state;
    memset(out, 0xee, sizeof out);
    assert_int_equal(znl_zmtp_write_pong(out, znl_frame_text("abcd")), sizeof WIRE_PONG - 1);
    assert_memory_equal(out, WIRE_PONG, sizeof WIRE_PONG - 1);
    assert_int_equal(out[sizeof WIRE_PONG - 1], 0xee);
    assert_int_equal(znl_zmtp_write_pong(out, (znl_frame){0}), 7);
    assert_memory_equal(out, "\x04\x05\x04PONG", 7);
    assert_int_equal(znl_zmtp_write_pong(out, znl_frame_text("0123456789abcdef")),
            ZNL_ZMTP_PONG_BYTES_MAX);
    assert_memory_equal(out, "\x04\x15\x04PONG0123456789abcdef", ZNL_ZMTP_PONG_BYTES_MAX);
    memset(reason, 'r', sizeof reason);
    for (size_t size = 0; size < sizeof reason; size++) {
        size_t kept = size < 255 ? size : 255, lead = 7 + kept > 255 ? 9 : 2;
        reason[size] = 0;
        memset(out, 0xee, sizeof out);
        assert_int_equal(znl_zmtp_write_error(out, reason), lead + 7 + kept);
        assert_int_equal(out[0], lead == 9 ? 6 : 4);
        assert_int_equal(out[lead + 7 + kept], 0xee);
        check_command(out + lead, 7 + kept, ZNL_ZMTP_ERROR, "ERROR", reason, kept, 0);
        reason[size] = 'r';
    }
}

/* --- READY -------------------------------------------------------------------------------------- */

static int read_ready(uint8_t **copy, const uint8_t *bytes, size_t size, znl_zmtp_ready *ready)
{
    *copy = copy_of(bytes, size);
    return znl_zmtp_read_ready(znl_frame_of(*copy, size), ready);
}

static void check_ready(
        const uint8_t *bytes, size_t size, const char *type, const void *id, size_t id_bytes)
{
    uint8_t *copy;
    znl_zmtp_ready ready;
    assert_int_equal(read_ready(&copy, bytes, size, &ready), 0);
    assert_true(znl_frame_equal(ready.socket_type, znl_frame_text(type)));
    assert_true(znl_frame_equal(ready.identity, znl_frame_of(id, id_bytes)));
    free(copy);
}

static void check_not_ready(const uint8_t *bytes, size_t size)
{
    uint8_t *copy;
    znl_zmtp_ready ready;
    assert_int_equal(read_ready(&copy, bytes, size, &ready), ZNL_E_PROTO);
    free(copy);
}

/* The properties of a whole READY frame with a short head. */
#define PROPERTIES(wire) ((const uint8_t *)(wire)) + 8, (sizeof(wire) - 1 - 8)

static void ready_of_libzmq(void **state)
{
    uint8_t out[ZNL_ZMTP_READY_BYTES_MAX];
    (void)state;
    check_command((const uint8_t *)WIRE_READY_SUB + 2, sizeof WIRE_READY_SUB - 3,
            ZNL_ZMTP_READY, "READY", PROPERTIES(WIRE_READY_SUB), 0);
    check_ready(PROPERTIES(WIRE_READY_ROUTER), "ROUTER", "", 0);
    check_ready(PROPERTIES(WIRE_READY_ROUTER_ID), "ROUTER", "master-1", 8);
    check_ready(PROPERTIES(WIRE_READY_DEALER_ID), "DEALER", "slave-1", 7);
    check_ready(PROPERTIES(WIRE_READY_REQ), "REQ", "", 0);
    check_ready(PROPERTIES(WIRE_READY_SUB), "SUB", "", 0);
    /* Ours are the same, byte for byte. */
    assert_int_equal(
            znl_zmtp_write_ready(out, 1, (znl_frame){0}), sizeof WIRE_READY_ROUTER - 1);
    assert_memory_equal(out, WIRE_READY_ROUTER, sizeof WIRE_READY_ROUTER - 1);
    assert_int_equal(znl_zmtp_write_ready(out, 1, znl_frame_text("master-1")),
            sizeof WIRE_READY_ROUTER_ID - 1);
    assert_memory_equal(out, WIRE_READY_ROUTER_ID, sizeof WIRE_READY_ROUTER_ID - 1);
    assert_int_equal(znl_zmtp_write_ready(out, 0, znl_frame_text("slave-1")),
            sizeof WIRE_READY_DEALER_ID - 1);
    assert_memory_equal(out, WIRE_READY_DEALER_ID, sizeof WIRE_READY_DEALER_ID - 1);
}

static void ready_with_every_routing_id(void **state)
{
    uint8_t out[ZNL_ZMTP_READY_BYTES_MAX + 1], id[ZNL_ID_BYTES_MAX];
    (void)state;
    for (size_t size = 0; size <= sizeof id; size++) {
        memset(id, (int)size, size);
        memset(out, 0xee, sizeof out);
        size_t bytes = znl_zmtp_write_ready(out, (int)(size & 1), znl_frame_of(id, size));
        assert_true(bytes <= ZNL_ZMTP_READY_BYTES_MAX);
        assert_int_equal(out[bytes], 0xee);
        size_t lead = bytes - 2 > 255 ? 9 : 2;
        assert_int_equal(out[0], lead == 9 ? 6 : 4);
        assert_int_equal(lead == 9 ? znl_get_be32(out + 5) : out[1], bytes - lead);
        znl_zmtp_command command;
        assert_int_equal(
                znl_zmtp_read_command(znl_frame_of(out + lead, bytes - lead), &command), 0);
        assert_int_equal(command.kind, ZNL_ZMTP_READY);
        check_ready(
                command.body.data, command.body.size, size & 1 ? "ROUTER" : "DEALER", id, size);
    }
}

static void properties_cut_anywhere_are_refused(void **state)
{
    (void)state;
    const uint8_t *bytes = (const uint8_t *)WIRE_READY_DEALER_ID + 8;
    size_t size = sizeof WIRE_READY_DEALER_ID - 1 - 8, first = 1 + 11 + 4 + 6;
    for (size_t part = 0; part < size; part++) {
        if (part == first) /* a whole property: the routing id is not said */
            check_ready(bytes, part, "DEALER", "", 0);
        else
            check_not_ready(bytes, part);
    }
    check_ready(bytes, size, "DEALER", "slave-1", 7);
}

static void names_of_properties(void **state)
{
    (void)state;
    check_ready(WIRE("\x0bsocket-type\0\0\0\x03REQ\x08IDENTITY\0\0\0\x01i"), "REQ", "i", 1);
    check_ready(WIRE("\x01X\0\0\0\x02no\x0bSocket-Type\0\0\0\x03REQ\x08Resource\0\0\0\x01/"),
            "REQ", "", 0);
    check_ready(WIRE("\x0bSocket-Type\0\0\0\x06ROUTER\x08"
                     "Identit\xf9\0\0\0\x01i"),
            "ROUTER", "", 0);
    check_not_ready(WIRE("\x0aSocket-Typ\0\0\0\x03REQ")); /* the type is not said */
    check_not_ready(WIRE("\x0bSocket-Type\0\0\0\0"));
    check_not_ready(WIRE("\0\0\0\0\0")); /* a name of nothing */
    check_not_ready(WIRE("\x0bSocket-Type\0\0\0\x03REQ\0\0\0\0\0"));
}

static void sizes_of_properties(void **state)
{
    static const uint32_t sizes[] = {4, 5, 255, 256, 65536, INT32_MAX, UINT32_MAX - 20,
            UINT32_MAX - 5, UINT32_MAX - 4, UINT32_MAX - 1, UINT32_MAX};
    uint8_t bytes[] = "\x0bSocket-Type\0\0\0\x03REQ";
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        znl_put_be32(bytes + 12, sizes[i]);
        check_not_ready(bytes, sizeof bytes - 1);
    }
    /* A routing id of 255 bytes is the longest. */
    uint8_t with_id[400] = "\x0bSocket-Type\0\0\0\x03REQ\x08Identity";
    uint8_t *at = with_id + 28;
    assert_memory_equal(at - 8, "Identity", 8);
    memset(at + 4, 'i', 300);
    znl_put_be32(at, 255);
    check_ready(with_id, 28 + 4 + 255, "REQ", at + 4, 255);
    znl_put_be32(at, 256);
    check_not_ready(with_id, 28 + 4 + 256);
}

static void who_may_talk_to_whom(void **state)
{
    static const struct {
        const char *type;
        int to_router, to_dealer;
    } cases[] = {{"ROUTER", 1, 1}, {"DEALER", 1, 1}, {"REQ", 1, 0}, {"REP", 0, 1},
            {"PUB", 0, 0}, {"SUB", 0, 0}, {"XPUB", 0, 0}, {"XSUB", 0, 0}, {"PUSH", 0, 0},
            {"PULL", 0, 0}, {"PAIR", 0, 0}, {"CLIENT", 0, 0}, {"SERVER", 0, 0}, {"", 0, 0},
            {"router", 0, 0}, {"ROUTERS", 0, 0}, {"DEALE", 0, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        znl_frame type = znl_frame_text(cases[i].type);
        assert_int_equal(!!znl_zmtp_may_talk(1, type), cases[i].to_router);
        assert_int_equal(!!znl_zmtp_may_talk(0, type), cases[i].to_dealer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(our_greeting),
            cmocka_unit_test(greetings_of_libzmq),
            cmocka_unit_test(what_follows_a_greeting_is_not_looked_at),
            cmocka_unit_test(versions),
            cmocka_unit_test(zmtp_2_is_told_from_garbage),
            cmocka_unit_test(zmtp_1_is_told_where_it_can_be),
            cmocka_unit_test(garbage),
            cmocka_unit_test(the_padding_and_the_filler_mean_nothing),
            cmocka_unit_test(who_is_the_server),
            cmocka_unit_test(mechanisms),
            cmocka_unit_test(heads),
            cmocka_unit_test(messages_as_libzmq_writes_them),
            cmocka_unit_test(one_empty_frame),
            cmocka_unit_test(commands),
            cmocka_unit_test(names_are_told_apart),
            cmocka_unit_test(names_that_are_none),
            cmocka_unit_test(errors),
            cmocka_unit_test(pings),
            cmocka_unit_test(pongs),
            cmocka_unit_test(heartbeats_of_libzmq),
            cmocka_unit_test(what_we_write_to_pings_and_in_anger),
            cmocka_unit_test(ready_of_libzmq),
            cmocka_unit_test(ready_with_every_routing_id),
            cmocka_unit_test(properties_cut_anywhere_are_refused),
            cmocka_unit_test(names_of_properties),
            cmocka_unit_test(sizes_of_properties),
            cmocka_unit_test(who_may_talk_to_whom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
