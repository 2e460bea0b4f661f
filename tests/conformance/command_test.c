/* command_test.c - what peers say between messages, and flags that nobody should set.
 *
 * SPDX-License-Identifier: MIT */
#include "conformance/stage.h"
#include "conformance/wire.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

/* A router and a peer of it that has shaken hands. */
struct talk {
    struct stage stage;
    struct end *router;
    struct wire *wire;
    znl_buffer out;
    int takes_others; /* messages of other peers may come */
};

static void talk_open(struct talk *talk, const pairing *pair)
{
    memset(talk, 0, sizeof *talk);
    stage_open(&talk->stage, pair);
    talk->router = stage_router(&talk->stage);
    talk->wire = wire_connect(&talk->stage, talk->router->endpoint);
    wire_shake(talk->wire, "DEALER", "a");
}

static void talk_close(struct talk *talk)
{
    free(talk->out.data);
    stage_close(&talk->stage);
}

/* Says what has been put together. */
static void say(struct talk *talk)
{
    assert_true(wire_say(talk->wire, &talk->out));
    talk->out.size = 0;
}

/* A message passes each way, and nothing else has been said by the link. */
static void goes_on(struct talk *talk)
{
    unsigned flags;
    say_text(&talk->out, "still there");
    say(talk);
    letter *heard = end_take(talk->router);
    while (talk->takes_others && !znl_frame_equal(heard->frames[0], znl_frame_text("a"))) {
        free(heard);
        heard = end_take(talk->router);
    }
    assert_int_equal(heard->count, 2);
    assert_true(znl_frame_equal(heard->frames[0], znl_frame_text("a")));
    assert_true(znl_frame_equal(heard->frames[1], znl_frame_text("still there")));
    free(heard);
    end_post_to(talk->router, "a", "yes");
    znl_frame got = wire_take_frame(talk->wire, &flags);
    assert_int_equal(flags, 0);
    assert_true(znl_frame_equal(got, znl_frame_text("yes")));
}

static void expect_pong(struct talk *talk, const char *context, size_t size)
{
    unsigned flags;
    znl_frame got = wire_take_frame(talk->wire, &flags);
    assert_int_equal(flags, SAY_COMMAND);
    assert_int_equal(got.size, 5 + size);
    assert_memory_equal(got.data, "\4PONG", 5);
    assert_memory_equal(got.data + 5, context, size);
}

static void ping_is_answered_with_its_context(void **state)
{
    static const char context[] = "0123456789abcdef";
    struct talk talk;
    talk_open(&talk, *state);
    for (size_t size = 0; size <= 16; size++) {
        char body[18] = {0};
        memcpy(body + 2, context, size);
        say_command(&talk.out, "PING", body, 2 + size);
        say(&talk);
        expect_pong(&talk, context, size);
    }
    goes_on(&talk);
    talk_close(&talk);
}

/* Amid messages and in the same breath as them. */
static void pings_among_messages_change_nothing(void **state)
{
    struct talk talk;
    talk_open(&talk, *state);
    for (int i = 0; i < 50; i++) {
        say_text(&talk.out, "before");
        say_command(&talk.out, "PING", "\0\0x", 3);
        say_frame(&talk.out, SAY_MORE, "two", 3);
        say_frame(&talk.out, 0, "frames", 6);
        say(&talk);
        znl_frame two[] = {
                znl_frame_text("a"), znl_frame_text("two"), znl_frame_text("frames")};
        end_expect_from(talk.router, "a", "before");
        end_expect(talk.router, two, 3);
        expect_pong(&talk, "x", 1);
    }
    goes_on(&talk);
    talk_close(&talk);
}

/* Our own heartbeats are off; a PONG that nobody asked for means nothing. */
static void pong_and_unknown_commands_are_ignored(void **state)
{
    static uint8_t body[3000];
    struct talk talk;
    talk_open(&talk, *state);
    say_command(&talk.out, "PONG", "", 0);
    say_command(&talk.out, "PONG", "context", 7);
    say_command(&talk.out, "HELLO", "", 0);
    say_command(&talk.out, "X", body, 1);
    say_command(&talk.out, "TOPIC", body, 255);
    say_command(&talk.out, "LONG", body, sizeof body);
    say_command(&talk.out, "ping", "\0\0x", 3);
    say(&talk);
    goes_on(&talk);
    assert_int_equal(talk.router->received, 1);
    talk_close(&talk);
}

/* A command frame may have its size in eight bytes. */
static void short_commands_may_come_long(void **state)
{
    struct talk talk;
    talk_open(&talk, *state);
    say_frame(&talk.out, SAY_COMMAND | SAY_LONG, "\4PING\0\0x", 8);
    say(&talk);
    expect_pong(&talk, "x", 1);
    say_frame(&talk.out, SAY_LONG, "short", 5);
    say_frame(&talk.out, SAY_LONG, "", 0);
    say(&talk);
    end_expect_from(talk.router, "a", "short");
    end_expect_from(talk.router, "a", "");
    goes_on(&talk);
    talk_close(&talk);
}

/* The rfc has commands between messages only; libzmq answers PING at once, and may say it inside a message too. */
static void commands_inside_a_message_do_not_touch_it(void **state)
{
    struct talk talk;
    talk_open(&talk, *state);
    for (int cut = 0; cut < 2; cut++) { /* in one piece, and a turn after each frame */
        say_frame(&talk.out, SAY_MORE, "one", 3);
        if (cut) {
            say(&talk);
            stage_turns(&talk.stage, 3);
        }
        say_command(&talk.out, "PING", "\0\0x", 3);
        if (cut) {
            say(&talk);
            expect_pong(&talk, "x", 1);
        }
        say_frame(&talk.out, SAY_MORE, "two", 3);
        say_command(&talk.out, "OTHER", "body", 4);
        if (cut)
            say(&talk);
        say_frame(&talk.out, 0, "three", 5);
        say(&talk);
        if (!cut)
            expect_pong(&talk, "x", 1);
        znl_frame whole[] = {znl_frame_text("a"), znl_frame_text("one"), znl_frame_text("two"),
                znl_frame_text("three")};
        end_expect(talk.router, whole, 4);
    }
    goes_on(&talk);
    talk_close(&talk);
}

/* READY again: hands are shaken, it changes nothing, not even a name. */
static void ready_again_does_not_rename(void **state)
{
    struct talk talk;
    talk_open(&talk, *state);
    say_ready(&talk.out, "DEALER", "b", 1);
    say(&talk);
    goes_on(&talk);
    znl_frame frames[] = {znl_frame_text("b"), znl_frame_text("hello")};
    assert_int_equal(end_send(talk.router, frames, 2), ZNL_E_UNREACHABLE);
    talk_close(&talk);
}

/* What no peer says that means well ends its connection at most; others are not touched, nothing is delivered. */
static void malformed_frames_hurt_nobody_else(void **state)
{
    static const struct {
        const char *bytes;
        size_t size;
    } rows[] = {
#define ROW(text) {text, sizeof text - 1}
            ROW("\4\0"),                            /* a command without a name */
            ROW("\4\1\0"),                          /* an empty name */
            ROW("\4\1\5"),                          /* a name that is not there */
            ROW("\4\5\5PING"),                      /* nor all of that */
            ROW("\4\5\4PING"),                      /* no TTL */
            ROW("\4\6\4PING\0"),                    /* half of one */
            ROW("\4\30\4PING\0\0123456789abcdefg"), /* a context of 17 */
            ROW("\5\4\3abc"),                       /* a command with MORE */
            ROW("\4\10\5ERROR\1x"),                 /* after the handshake */
            ROW("\6\377\377\377\377\377\377\377\377"),
            ROW("\2\377\377\377\377\377\377\377\377"),
            ROW("\2\177\377\377\377\377\377\377\377"),
            ROW("\3\200\0\0\0\0\0\0\0"),
            ROW("\2\0\0\0\1\0\0\0\0"),
            ROW("\2\0\0\0\0\4\0\0\1"), /* one byte more than 64 MiB */
            ROW("\10\3abc"),
            ROW("\20\3abc"),
            ROW("\40\3abc"),
            ROW("\100\3abc"),
            ROW("\200\3abc"),
            ROW("\377\3abc"),
#undef ROW
    };
    struct talk talk;
    talk_open(&talk, *state);
    talk.takes_others = 1;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct wire *rude = wire_connect(&talk.stage, talk.router->endpoint);
        wire_shake(rude, "DEALER", "rude");
        wire_write(rude, rows[i].bytes, rows[i].size);
        stage_turns(&talk.stage, 3);
        goes_on(&talk);
        wire_finish(rude);
        wire_ends(rude);
        wire_close(rude);
        znl_frame frames[] = {znl_frame_text("rude"), znl_frame_text("hello")};
        STAGE_UNTIL(&talk.stage, end_send(talk.router, frames, 2) == ZNL_E_UNREACHABLE);
    }
    /* Whether "abc" with a flag nobody knows is a message is not said; libzmq takes it for one. */
    assert_in_range(talk.router->received, sizeof rows / sizeof rows[0],
            sizeof rows / sizeof rows[0] + 6);
    talk_close(&talk);
}

/* Announced and not sent costs nothing. */
static void announced_frames_take_no_memory(void **state)
{
    enum { PEERS = 50 };
    struct talk talk;
    struct wire *peers[PEERS];
    talk_open(&talk, *state);
    goes_on(&talk);
    for (int i = 0; i < PEERS; i++) {
        peers[i] = wire_connect(&talk.stage, talk.router->endpoint);
        wire_shake(peers[i], "DEALER", "");
        stage_turn(&talk.stage);
    }
    size_t before = memory_used();
    for (int i = 0; i < PEERS; i++) {
        assert_true(wire_write(peers[i], "\3\0\0\0\0\4\0\0\0begins", 15)); /* 64 MiB */
        stage_turns(&talk.stage, 2);
    }
    goes_on(&talk);
    assert_true(memory_used() < before + 4 * 1024 * 1024);
    talk_close(&talk);
}

/* A message of ever more frames is thrown away before it fills the memory, and the next one is heard. */
static void endless_messages_take_no_memory(void **state)
{
    enum { FRAMES = 200000 };
    struct talk talk;
    talk_open(&talk, *state);
    goes_on(&talk);
    for (int i = 0; i < 1000; i++)
        say_frame(&talk.out, SAY_MORE, "", 0);
    size_t before = memory_used();
    size_t most = before;
    for (int i = 0; i < FRAMES / 1000; i++) {
        assert_true(wire_say(talk.wire, &talk.out));
        stage_turn(&talk.stage);
        most = memory_used() > most ? memory_used() : most;
    }
    talk.out.size = 0;
    say_frame(&talk.out, 0, "", 0);
    say(&talk);
    goes_on(&talk);
    assert_int_equal(talk.router->dropped, 1);
    assert_int_equal(talk.router->dropped_err, ZNL_E_LIMIT);
    assert_int_equal(talk.router->received, 2);
    assert_true(most < before + 4 * 1024 * 1024);
    talk_close(&talk);
}

/* --- heartbeats --------------------------------------------------------------------------------- */

static int is_reachable(struct talk *talk)
{
    znl_frame frames[] = {znl_frame_text("a"), znl_frame_text("are you there")};
    return end_send(talk->router, frames, 2) == 0;
}

/* PING with a time to live of two seconds, then silence. */
static void silence_after_ping_with_ttl_ends_the_connection(void **state)
{
    struct talk talk;
    znl_clock_freeze(-1);
    talk_open(&talk, *state);
    say_command(&talk.out, "PING", "\0\24", 2);
    say(&talk);
    expect_pong(&talk, "", 0);
    for (int i = 0; i < 5; i++) { /* while it speaks it lives */
        stage_advance(&talk.stage, 1500);
        goes_on(&talk);
    }
    stage_advance(&talk.stage, 1500);
    say_command(&talk.out, "PONG", "", 0); /* a command is a sign of life too */
    say_command(&talk.out, "PING", "\0\24again", 7);
    say(&talk);
    expect_pong(&talk, "again", 5);
    stage_advance(&talk.stage, 1500);
    stage_turns(&talk.stage, 3);
    assert_true(is_reachable(&talk));
    assert_false(talk.wire->is_ended);
    stage_advance(&talk.stage, 4000);
    wire_ends(talk.wire);
    STAGE_UNTIL(&talk.stage, !is_reachable(&talk));
    talk_close(&talk);
    znl_clock_thaw();
}

/* PING without one takes the limit back. */
static void ping_without_ttl_sets_no_limit(void **state)
{
    struct talk talk;
    znl_clock_freeze(-1);
    talk_open(&talk, *state);
    say_command(&talk.out, "PING", "\0\24", 2);
    say_command(&talk.out, "PING", "\0\0", 2);
    say(&talk);
    expect_pong(&talk, "", 0);
    expect_pong(&talk, "", 0);
    stage_advance(&talk.stage, 3600000);
    stage_turns(&talk.stage, 3);
    goes_on(&talk);
    talk_close(&talk);
    znl_clock_thaw();
}

/* libzmq as the peer that asks for signs of life: a link that has nothing to say gives them. */
static void heartbeats_of_libzmq_are_answered(void **state)
{
    struct stage stage;
    int interval_ms = 20;
    int timeout_ms = 5000;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct end *dealer = stage_end(&stage, END_BARE, dealer_options(router, "a"));
    /* Options hold for connections made after them. */
    zmq_disconnect(dealer->socket, router->endpoint);
    zmq_setsockopt(dealer->socket, ZMQ_HEARTBEAT_IVL, &interval_ms, sizeof interval_ms);
    zmq_setsockopt(dealer->socket, ZMQ_HEARTBEAT_TTL, &timeout_ms, sizeof timeout_ms);
    zmq_setsockopt(dealer->socket, ZMQ_HEARTBEAT_TIMEOUT, &timeout_ms, sizeof timeout_ms);
    assert_int_equal(zmq_connect(dealer->socket, router->endpoint), 0);
    ends_meet(router, dealer, "a");
    for (int i = 0; i < 20; i++) {
        stage_turns(&stage, 10);
        ends_meet(router, dealer, "a");
    }
    znl_frame frames[] = {znl_frame_text("a"), znl_frame_text("one connection")};
    assert_int_equal(end_send(router, frames, 2), 0);
    end_expect_text(dealer, "one connection");
    stage_close(&stage);
}

/* The time to shake hands is over once they are shaken. */
static void who_says_nothing_for_an_hour_stays(void **state)
{
    struct talk talk;
    znl_clock_freeze(-1);
    talk_open(&talk, *state);
    for (int i = 0; i < 60; i++)
        stage_advance(&talk.stage, 60000);
    goes_on(&talk);
    talk_close(&talk);
    znl_clock_thaw();
}

/* It says that it is at its end, and need not be waited for. */
static void error_ends_the_connection(void **state)
{
    struct talk talk;
    talk_open(&talk, *state);
    say_command(&talk.out, "ERROR", "\4over", 5);
    say_text(&talk.out, "too late");
    say(&talk);
    wire_ends(talk.wire);
    assert_int_equal(talk.router->received, 0);
    talk_close(&talk);
}

int main(int argc, char **argv)
{
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL); /* as "*ours*" */
    const struct CMUnitTest tests[] = {
            EACH_ENGINE(ping_is_answered_with_its_context),
            EACH_ENGINE(pings_among_messages_change_nothing),
            EACH_ENGINE(pong_and_unknown_commands_are_ignored),
            EACH_ENGINE(short_commands_may_come_long),
            EACH_ENGINE(commands_inside_a_message_do_not_touch_it),
            EACH_ENGINE(ready_again_does_not_rename),
            EACH_ENGINE(malformed_frames_hurt_nobody_else),
            OUR_ENGINE(announced_frames_take_no_memory),
            OUR_ENGINE(endless_messages_take_no_memory),
            OUR_ENGINE(silence_after_ping_with_ttl_ends_the_connection),
            OUR_ENGINE(ping_without_ttl_sets_no_limit),
            OUR_ENGINE(error_ends_the_connection),
            OUR_ENGINE(who_says_nothing_for_an_hour_stays),
            EACH_ENGINE(heartbeats_of_libzmq_are_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
