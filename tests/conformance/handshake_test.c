/* handshake_test.c - what peers say first: versions, mechanisms, READY; and who is turned away.
 *
 * SPDX-License-Identifier: MIT */
#include "conformance/stage.h"
#include "conformance/wire.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

#define SHAKING_MS 30000u

/* --- who is welcome ----------------------------------------------------------------------------- */

/* A link that a wire talks to: a router, to which it connects, or a dealer, for which it listens. */
struct visit {
    struct stage stage;
    struct end *link;
    struct wire *listener;
    struct wire *wire;
    struct wire *neighbour; /* another peer of the router */
};

static void visit(struct visit *visit, const pairing *pair, int is_router)
{
    stage_open(&visit->stage, pair);
    visit->listener = visit->neighbour = NULL;
    if (is_router) {
        visit->link = stage_router(&visit->stage);
        visit->neighbour = wire_connect(&visit->stage, visit->link->endpoint);
        wire_shake(visit->neighbour, "DEALER", "neighbour");
        visit->wire = wire_connect(&visit->stage, visit->link->endpoint);
    } else {
        visit->listener = wire_listen(&visit->stage);
        znl_link_options options = router_options(&visit->stage);
        options.is_router = 0;
        options.endpoint = visit->listener->endpoint;
        options.routing_id = znl_frame_text("a");
        visit->link = stage_end(&visit->stage, pair->dealer, options);
        visit->wire = wire_accept(visit->listener);
    }
}

static const char *peer_type(const struct visit *visit)
{
    return visit->link->is_router ? "DEALER" : "ROUTER";
}

static void expect(struct visit *visit, const char *from, const char *text)
{
    if (visit->link->is_router)
        end_expect_from(visit->link, from, text);
    else
        end_expect_text(visit->link, text);
}

/* Hands are shaken: a message passes each way. */
static void is_welcome(struct visit *visit, const char *id)
{
    znl_buffer out = {0};
    unsigned flags;
    wire_take_greeting(visit->wire);
    wire_take_ready(visit->wire, visit->link->is_router ? "ROUTER" : "DEALER",
            visit->link->is_router ? "" : "a");
    say_text(&out, "are you there");
    assert_true(wire_say(visit->wire, &out));
    expect(visit, id, "are you there");
    if (visit->link->is_router)
        end_post_to(visit->link, id, "yes");
    else
        end_post_text(visit->link, "yes");
    znl_frame got = wire_take_frame(visit->wire, &flags);
    assert_int_equal(flags, 0);
    assert_true(znl_frame_equal(got, znl_frame_text("yes")));
    assert_int_equal(visit->link->refused, 0);
    free(out.data);
}

static void single_bytes_are_put_together(void **state)
{
    for (int is_router = 0; is_router < 2; is_router++) {
        struct visit v;
        znl_buffer out = {0};
        visit(&v, *state, is_router);
        say_greeting(&out, 1, "NULL");
        say_ready(&out, peer_type(&v), "b", 1);
        for (size_t i = 0; i < out.size; i++) {
            assert_true(wire_write(v.wire, out.data + i, 1));
            stage_turn(&v.stage);
        }
        is_welcome(&v, "b");
        out.size = 0;
        say_text(&out, "a message");
        for (size_t i = 0; i < out.size; i++) {
            assert_int_equal(v.link->received, 1);
            assert_true(wire_write(v.wire, out.data + i, 1));
            stage_turn(&v.stage);
        }
        expect(&v, "b", "a message");
        free(out.data);
        stage_close(&v.stage);
    }
}

/* A peer need not wait for our READY. libzmq 4.3 refuses one that does not, unless it was quick itself. */
static void everything_may_come_at_once(void **state)
{
    for (int is_router = 0; is_router < 2; is_router++) {
        struct visit v;
        znl_buffer out = {0};
        visit(&v, *state, is_router);
        say_greeting(&out, 1, "NULL");
        say_ready(&out, peer_type(&v), "b", 1);
        for (int i = 0; i < 100; i++)
            say_text(&out, "a message");
        assert_true(wire_say(v.wire, &out));
        for (int i = 0; i < 100; i++)
            expect(&v, "b", "a message");
        is_welcome(&v, "b");
        free(out.data);
        stage_close(&v.stage);
    }
}

/* 3.0, 3.1, and those to come, which speak 3.1 to us. */
static void versions_from_3_0_on_are_welcome(void **state)
{
    static const uint8_t versions[][2] = {{3, 0}, {3, 1}, {3, 2}, {3, 255}, {4, 0}, {255, 255}};
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++)
        for (int is_router = 0; is_router < 2; is_router++) {
            struct visit v;
            znl_buffer out = {0};
            visit(&v, *state, is_router);
            say_greeting(&out, 0, "NULL");
            memcpy(out.data + 10, versions[i], 2);
            say_ready(&out, peer_type(&v), "b", 1);
            assert_true(wire_say(v.wire, &out));
            is_welcome(&v, "b");
            free(out.data);
            stage_close(&v.stage);
        }
}

/* Bytes of the greeting that mean nothing to us: the padding of the signature, the filler, as-server. */
static void what_means_nothing_is_ignored(void **state)
{
    for (int is_router = 0; is_router < 2; is_router++) {
        struct visit v;
        znl_buffer out = {0};
        visit(&v, *state, is_router);
        say_greeting(&out, 1, "NULL");
        out.data[8] = 1;  /* libzmq says the length of a routing id for ZMTP 1.0 there */
        out.data[32] = 1; /* as-server */
        memset(out.data + 33, 0xa5, 31);
        say_ready(&out, peer_type(&v), "b", 1);
        assert_true(wire_say(v.wire, &out));
        is_welcome(&v, "b");
        free(out.data);
        stage_close(&v.stage);
    }
}

/* Names of properties in any case (libzmq 4.3 knows but one), in any order, with others among them; a long frame for
 * what is short. */
static void ready_may_look_different(void **state)
{
    for (int is_router = 0; is_router < 2; is_router++)
        for (int form = 0; form < 3; form++) {
            struct visit v;
            znl_buffer out = {0};
            znl_buffer body = {0};
            static uint8_t value[300];
            visit(&v, *state, is_router);
            say_greeting(&out, 1, "NULL");
            if (form == 0) {
                const pairing *pair = *state;
                say_property(&body, pair->router == END_OURS ? "identity" : "Identity", "b", 1);
                say_property(&body, "X-Other", value, sizeof value);
                say_property(&body, "SOCKET-TYPE", peer_type(&v), 6);
                say_command(&out, "READY", body.data, body.size);
            } else if (form == 1) {
                say_property(&body, "Socket-Type", peer_type(&v), 6);
                say_property(&body, "Identity", "b", 1);
                say_property(&body, "X", "", 0);
                say_command(&out, "READY", body.data, body.size);
            } else {
                say_bytes(&body, "\5READY", 6);
                say_property(&body, "Socket-Type", peer_type(&v), 6);
                say_property(&body, "Identity", "b", 1);
                say_frame(&out, SAY_COMMAND | SAY_LONG, body.data, body.size);
            }
            assert_true(wire_say(v.wire, &out));
            is_welcome(&v, "b");
            free(out.data);
            free(body.data);
            stage_close(&v.stage);
        }
}

/* --- who is not --------------------------------------------------------------------------------- */

/* Says `bytes` to a router and to a dealer of that engine. The connection ends; ours tells why. Others are served on,
 * and a dealer of ours finds a better peer by itself. */
static void is_refused(
        const pairing *pair, int is_router, const znl_buffer *bytes, int err, const char *why)
{
    static unsigned count;
    struct visit v;
    znl_buffer out = {0};
    visit(&v, pair, is_router);
    wire_say(v.wire, bytes); /* it may close before it has heard all */
    wire_ends(v.wire);
    if (v.link->kind == END_OURS) {
        STAGE_UNTIL(&v.stage, v.link->refused > 0);
        if (v.link->refused_err != err)
            fail_msg("error %d, not %d: %s", v.link->refused_err, err, v.link->refused_text);
        if (strstr(v.link->refused_text, why) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", v.link->refused_text, why);
    }
    assert_int_equal(v.link->received + v.link->dropped, 0);
    say_text(&out, "I am well");
    if (is_router) {
        assert_true(wire_say(v.neighbour, &out));
        end_expect_from(v.link, "neighbour", "I am well");
    } else if (v.link->kind == END_OURS && count++ % 5 == 0) { /* it takes its time */
        wire_close(v.wire);
        v.wire = wire_accept(v.listener);
        wire_shake(v.wire, "ROUTER", "");
        assert_true(wire_say(v.wire, &out));
        end_expect_text(v.link, "I am well");
    }
    if (v.link->kind == END_OURS)
        assert_int_equal(v.link->refused, 1);
    free(out.data);
    stage_close(&v.stage);
}

static void both_refuse(const pairing *pair, const znl_buffer *bytes, int err, const char *why)
{
    is_refused(pair, 1, bytes, err, why);
    is_refused(pair, 0, bytes, err, why);
}

static void other_mechanisms_are_refused_with_advice(void **state)
{
    static const char *mechanisms[] = {"CURVE", "PLAIN", "GSSAPI", "ABCDEFGHIJKLMNOPQRST"};
    for (size_t i = 0; i < sizeof mechanisms / sizeof mechanisms[0]; i++) {
        znl_buffer out = {0};
        say_greeting(&out, 1, mechanisms[i]);
        both_refuse(*state, &out, ZNL_E_UNSUPPORTED, mechanisms[i]);
        both_refuse(*state, &out, ZNL_E_UNSUPPORTED, "engine = \"libzmq\"");
        free(out.data);
    }
}

static void malformed_mechanisms_are_refused(void **state)
{
    static const char *mechanisms[] = {"", "NULL\1", "NUL", "NULLNULL", "\xff\xff", " NULL"};
    for (size_t i = 0; i < sizeof mechanisms / sizeof mechanisms[0]; i++)
        for (int is_router = 0; is_router < 2; is_router++) {
            struct visit v;
            znl_buffer out = {0};
            say_greeting(&out, 1, mechanisms[i]);
            say_ready(&out, is_router ? "DEALER" : "ROUTER", "b", 1);
            say_text(&out, "a message");
            visit(&v, *state, is_router);
            wire_say(v.wire, &out);
            wire_ends(v.wire);
            if (v.link->kind == END_OURS)
                STAGE_UNTIL(&v.stage, v.link->refused == 1);
            assert_int_equal(v.link->received, 0);
            free(out.data);
            stage_close(&v.stage);
        }
}

/* libzmq talks to ZMTP 1.0 and 2.0, and waits for more of what is none. */
static void what_is_not_zmtp_3_is_refused(void **state)
{
    static const struct {
        znl_frame bytes;
        int err;
    } rows[] = {
            {{(const uint8_t *)"\1\0", 2}, ZNL_E_PROTO},            /* ZMTP 1.0 */
            {{(const uint8_t *)"\2\0b\6\0hello", 10}, ZNL_E_PROTO}, /* and a message */
            {{(const uint8_t *)"\377\0\0\0\0\0\0\0\1\0", 10},
                    ZNL_E_UNSUPPORTED}, /* 1.0, long */
            {{(const uint8_t *)"\377\0\0\0\0\0\0\0\1\177\1\5\0\0", 14}, ZNL_E_UNSUPPORTED},
            {{(const uint8_t *)"\377\0\0\0\0\0\0\0\1\177\2", 11}, ZNL_E_UNSUPPORTED},
            {{(const uint8_t *)"\377\0\0\0\0\0\0\0\1\177\0", 11}, ZNL_E_UNSUPPORTED},
            {{(const uint8_t *)"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27}, ZNL_E_PROTO},
            {{(const uint8_t *)"\26\3\1\2\0\1\0\1\374\3\3", 11}, ZNL_E_PROTO}, /* TLS */
            {{(const uint8_t *)"SSH-2.0-OpenSSH_9.2\r\n", 21}, ZNL_E_PROTO},
            {{(const uint8_t *)"\0\0\0\0\0\0\0\0\0\0\0\0", 12}, ZNL_E_PROTO},
            {{(const uint8_t *)"\377\377\377\377\377\377\377\377\377\377\377\377", 12},
                    ZNL_E_PROTO},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        znl_buffer out = {0};
        say_bytes(&out, rows[i].bytes.data, rows[i].bytes.size);
        both_refuse(*state, &out, rows[i].err, "ZMTP");
        free(out.data);
    }
}

static void malformed_ready_is_refused(void **state)
{
    static const struct {
        znl_frame body; /* of the frame */
        unsigned flags;
    } rows[] = {
#define ROW(text) {{(const uint8_t *)text, sizeof text - 1}, SAY_COMMAND}
            {{(const uint8_t *)"", 0}, SAY_COMMAND},
            ROW("\0"),
            ROW("\5"),
            ROW("\5READ"),
            ROW("\6READY"),
            ROW("\5ready"),
            ROW("\5READY\0"),
            ROW("\5READY\13"),
            ROW("\5READY\13Socket-Type"),
            ROW("\5READY\13Socket-Type\0\0\0"),
            ROW("\5READY\13Socket-Type\0\0\0\7DEALER"),
            ROW("\5READY\13Socket-Type\377\377\377\377DEALER"),
            ROW("\5READY\13Socket-Type\177\377\377\377DEALER"),
            ROW("\5READY\13Socket-Type\0\0\0\6DEALER\10Identity"),
            ROW("\5READY\13Socket-Type\0\0\0\6DEALER\10Identity\0\0\0\2b"),
            ROW("\5READY\13Socket-Type\0\0\0\6DEALERb"),
            ROW("\5READY\377Socket-Type\0\0\0\6DEALER"),
            ROW("\4PING\0\0"), /* before READY */
            ROW("\11SUBSCRIBE"),
            ROW("\5HELLO"),
#undef ROW
            {{(const uint8_t *)"a message", 9}, 0},
            {{(const uint8_t *)"a message", 9}, SAY_MORE},
            {{(const uint8_t *)"", 0}, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        znl_buffer out = {0};
        say_greeting(&out, 1, "NULL");
        say_frame(&out, rows[i].flags, rows[i].body.data, rows[i].body.size);
        both_refuse(*state, &out, ZNL_E_PROTO, "hands");
        free(out.data);
    }
}

/* Not even a libzmq link takes a message as one of a peer that has not shown itself. */
static void nothing_passes_before_ready(void **state)
{
    for (int is_router = 0; is_router < 2; is_router++) {
        struct visit v;
        znl_buffer out = {0};
        visit(&v, *state, is_router);
        say_greeting(&out, 1, "NULL");
        say_text(&out, "a message");
        say_ready(&out, peer_type(&v), "b", 1);
        say_text(&out, "another");
        wire_say(v.wire, &out);
        wire_ends(v.wire);
        assert_int_equal(v.link->received, 0);
        free(out.data);
        stage_close(&v.stage);
    }
}

/* Without a socket type nobody knows who may talk to whom. */
static void ready_without_socket_type_is_refused(void **state)
{
    znl_buffer out = {0};
    znl_buffer body = {0};
    say_greeting(&out, 1, "NULL");
    say_property(&body, "Identity", "b", 1);
    say_command(&out, "READY", body.data, body.size);
    both_refuse(*state, &out, ZNL_E_PROTO, "hands");
    out.size = 0;
    say_greeting(&out, 1, "NULL");
    say_command(&out, "READY", "", 0);
    both_refuse(*state, &out, ZNL_E_PROTO, "hands");
    free(out.data);
    free(body.data);
}

static void a_peer_that_says_error_has_refused(void **state)
{
    znl_buffer out = {0};
    say_greeting(&out, 1, "NULL");
    say_command(&out, "ERROR", "\11Forbidden", 10);
    both_refuse(*state, &out, ZNL_E_REFUSED, "Forbidden");
    out.size = 0;
    say_greeting(&out, 1, "NULL");
    say_command(&out, "ERROR", "\7two\nli\0", 8); /* what people read has no such bytes */
    both_refuse(*state, &out, ZNL_E_REFUSED, "two?li?");
    out.size = 0;
    say_greeting(&out, 1, "NULL");
    say_command(&out, "ERROR", "\0", 1);
    both_refuse(*state, &out, ZNL_E_REFUSED, "refused");
    free(out.data);
}

static void malformed_error_is_refused(void **state)
{
    znl_buffer out = {0};
    say_greeting(&out, 1, "NULL");
    say_command(&out, "ERROR", "\11Forbid", 7);
    both_refuse(*state, &out, ZNL_E_PROTO, "hands");
    out.size = 0;
    say_greeting(&out, 1, "NULL");
    say_command(&out, "ERROR", "", 0);
    both_refuse(*state, &out, ZNL_E_PROTO, "hands");
    free(out.data);
}

/* Who refuses us may just close. */
static void a_peer_that_closes_while_hands_are_shaken_has_refused(void **state)
{
    for (int is_router = 0; is_router < 2; is_router++) {
        struct visit v;
        znl_buffer out = {0};
        visit(&v, *state, is_router);
        say_greeting(&out, 1, "NULL");
        assert_true(wire_say(v.wire, &out));
        wire_take_greeting(v.wire);
        wire_finish(v.wire);
        wire_ends(v.wire);
        STAGE_UNTIL(&v.stage, v.link->refused == 1);
        assert_int_equal(v.link->received, 0);
        free(out.data);
        stage_close(&v.stage);
    }
}

/* --- those who say nothing ---------------------------------------------------------------------- */

/* Peers that stop at some byte of the handshake are given up in time; nobody else waits for them. */
static void half_open_connections_end_in_time(void **state)
{
    static const size_t cuts[] = {0, 1, 9, 10, 11, 12, 63, 64, 65, 66, 80, 96};
    enum { CUTS = sizeof cuts / sizeof cuts[0] };
    for (int is_router = 0; is_router < 2; is_router++) {
        struct visit v;
        struct wire *wires[CUTS];
        znl_buffer out = {0};
        znl_clock_freeze(-1);
        visit(&v, *state, is_router);
        say_greeting(&out, 1, "NULL");
        say_ready(&out, peer_type(&v), "b", 1);
        assert_true(out.size > 96);
        size_t count = is_router ? CUTS : 1; /* a dealer has one connection */
        for (size_t i = 0; i < count; i++) {
            wires[i] = i == 0 ? v.wire : wire_connect(&v.stage, v.link->endpoint);
            assert_true(wire_write(wires[i], out.data, cuts[i]));
            wire_take(wires[i], 10); /* it waits for no more than our version to say the rest */
            if (cuts[i] > 10)
                wire_take(wires[i], 54);
        }
        stage_advance(&v.stage, SHAKING_MS - 1000);
        stage_turns(&v.stage, 5);
        for (size_t i = 0; i < count; i++)
            assert_false(wires[i]->is_ended);
        stage_advance(&v.stage, 1001);
        for (size_t i = 0; i < count; i++)
            wire_ends(wires[i]);
        STAGE_UNTIL(&v.stage, v.link->refused == count);
        assert_int_equal(v.link->refused_err, ZNL_E_TIMEOUT);
        out.size = 0;
        say_text(&out, "I am well");
        if (is_router) {
            stage_advance(&v.stage, SHAKING_MS * 2); /* no time limit once hands are shaken */
            assert_true(wire_say(v.neighbour, &out));
            end_expect_from(v.link, "neighbour", "I am well");
        } else {
            stage_advance(&v.stage, 2000);
            v.wire = wire_accept(v.listener);
            wire_shake(v.wire, "ROUTER", "");
            assert_true(wire_say(v.wire, &out));
            end_expect_text(v.link, "I am well");
        }
        free(out.data);
        stage_close(&v.stage);
        znl_clock_thaw();
    }
}

/* A dealer that nobody wants asks again, at its intervals and not faster. */
static void refused_dealers_keep_to_their_intervals(void **state)
{
    struct visit v;
    znl_buffer out = {0};
    znl_clock_freeze(-1);
    visit(&v, *state, 0);
    say_greeting(&out, 1, "CURVE");
    for (size_t round = 1; round <= 8; round++) {
        assert_true(wire_say(v.wire, &out));
        wire_ends(v.wire);
        STAGE_UNTIL(&v.stage, v.link->refused == round);
        wire_close(v.wire);
        stage_turns(&v.stage, 5);
        stage_advance(&v.stage, ZNL_RECONNECT_MS - 10);
        stage_turns(&v.stage, 5);
        assert_null(wire_try_accept(v.listener));
        stage_advance(&v.stage, ZNL_RECONNECT_MAX_MS + ZNL_RECONNECT_MS);
        v.wire = wire_accept(v.listener);
    }
    free(out.data);
    stage_close(&v.stage);
    znl_clock_thaw();
}

int main(int argc, char **argv)
{
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL); /* as "*ours*" */
    const struct CMUnitTest tests[] = {
            EACH_ENGINE(single_bytes_are_put_together),
            OUR_ENGINE(everything_may_come_at_once),
            EACH_ENGINE(versions_from_3_0_on_are_welcome),
            EACH_ENGINE(what_means_nothing_is_ignored),
            EACH_ENGINE(ready_may_look_different),
            EACH_ENGINE(other_mechanisms_are_refused_with_advice),
            EACH_ENGINE(malformed_mechanisms_are_refused),
            OUR_ENGINE(what_is_not_zmtp_3_is_refused),
            OUR_ENGINE(malformed_ready_is_refused),
            EACH_ENGINE(nothing_passes_before_ready),
            OUR_ENGINE(ready_without_socket_type_is_refused),
            OUR_ENGINE(a_peer_that_says_error_has_refused),
            EACH_ENGINE(malformed_error_is_refused),
            OUR_ENGINE(a_peer_that_closes_while_hands_are_shaken_has_refused),
            OUR_ENGINE(half_open_connections_end_in_time),
            OUR_ENGINE(refused_dealers_keep_to_their_intervals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
