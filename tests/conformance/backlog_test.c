/* backlog_test.c - what a link has read and its owner has not yet heard, because hearing takes long.
 *
 * SPDX-License-Identifier: MIT */
#include "conformance/stage.h"
#include "conformance/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MESSAGES 8000    /* more than one read takes in */
#define FEW_MESSAGES 300 /* any socket takes them in one go */
#define SLOW_MESSAGES 100

static size_t heard;

/* Longer than a turn may last, so that the rest has to wait; answers, in order. */
static void hear_slowly(struct end *end, const znl_frame *frames, size_t count)
{
    char expected[32];
    snprintf(expected, sizeof expected, "message %zu", heard++);
    assert_int_equal(count, 2);
    assert_true(znl_frame_equal(frames[1], znl_frame_text(expected)));
    const znl_frame answer[] = {frames[0], frames[1]};
    int err = end_send(end, answer, 2); /* the other may have gone */
    assert_true(err == 0 || err == ZNL_E_UNREACHABLE || err == ZNL_E_BUSY);
    if (heard <= SLOW_MESSAGES)
        usleep(2000);
}

static struct wire *shake(struct stage *stage, struct end **router)
{
    heard = 0;
    *router = stage_router(stage);
    struct wire *wire = wire_connect(stage, (*router)->endpoint);
    wire_shake(wire, "DEALER", "a");
    (*router)->hear = hear_slowly;
    return wire;
}

static void say_messages(znl_buffer *out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char text[32];
        snprintf(text, sizeof text, "message %zu", i);
        say_text(out, text);
    }
}

/* It is reset when the first answers arrive: writing fails while there is still something to hear. */
static void what_was_said_before_the_end_is_heard(void **state)
{
    struct stage stage;
    struct end *router;
    znl_buffer out = {0};
    stage_open(&stage, *state);
    struct wire *wire = shake(&stage, &router);
    say_messages(&out, MESSAGES);
    assert_true(wire_say(wire, &out));
    wire_close(wire);
    STAGE_UNTIL(&stage, heard == MESSAGES);
    free(out.data);
    stage_close(&stage);
}

/* PING: who is not heard of for 100 ms from now on is gone. What waits to be heard is a sign of life. */
static void who_waits_to_be_heard_is_not_silent(void **state)
{
    struct stage stage;
    struct end *router;
    unsigned flags;
    znl_buffer out = {0};
    stage_open(&stage, *state);
    struct wire *wire = shake(&stage, &router);
    say_command(&out, "PING", "\0\1", 2);
    say_messages(&out, FEW_MESSAGES);
    say_command(&out, "PING", "\0\0", 2);
    assert_true(wire_say(wire, &out));
    STAGE_UNTIL(&stage, heard == FEW_MESSAGES);
    znl_frame pong = wire_take_frame(wire, &flags);
    assert_int_equal(flags, SAY_COMMAND);
    assert_int_equal(pong.size, 5);
    free(out.data);
    stage_close(&stage);
}

int main(int argc, char **argv)
{
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL); /* as "*ours*" */
    const struct CMUnitTest tests[] = {
            EACH_ENGINE(what_was_said_before_the_end_is_heard),
            EACH_ENGINE(who_waits_to_be_heard_is_not_silent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
