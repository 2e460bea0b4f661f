/* message_test.c - messages of every size and count of frames, and those beyond a limit.
 *
 * SPDX-License-Identifier: MIT */
#include "conformance/stage.h"
#include "conformance/traffic.h"
#include "conformance/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1024u * 1024)

/* A frame of a pattern; freed by the caller. */
static uint8_t *bytes_of(size_t size)
{
    uint8_t *bytes = malloc(size + 1);
    assert_non_null(bytes);
    pattern_fill(bytes, size, (uint32_t)size);
    return bytes;
}

/* Both ways, alone and amid short ones. */
static void pass(struct end *router, struct end *dealer, size_t size)
{
    uint8_t *bytes = bytes_of(size);
    znl_frame large = znl_frame_of(bytes, size);
    znl_frame alone[] = {znl_frame_text("a"), large};
    znl_frame amid[] = {
            znl_frame_text("a"), znl_frame_text("before"), large, znl_frame_text("")};
    end_post(dealer, alone + 1, 1);
    end_expect(router, alone, 2);
    end_post(router, alone, 2);
    end_expect(dealer, alone + 1, 1);
    end_post(dealer, amid + 1, 3);
    end_post(dealer, amid + 1, 3);
    end_expect(router, amid, 4);
    end_expect(router, amid, 4);
    end_post(router, amid, 4);
    end_post(router, amid, 4);
    end_expect(dealer, amid + 1, 3);
    end_expect(dealer, amid + 1, 3);
    free(bytes);
}

static void frames_of_every_size_arrive(void **state)
{
    static const size_t sizes[] = {0, 1, 2, 31, 32, 33, 254, 255, 256, 257, 4095, 4096, 8192,
            32767, 65527, 65534, 65535, 65536, 65537, 131072, 262143, MIB};
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct end *dealer = stage_dealer(&stage, router, "a");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        pass(router, dealer, sizes[i]);
    assert_int_equal(router->dropped + dealer->dropped, 0);
    stage_close(&stage);
}

static void frame_of_64_mib_arrives(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.max_message_bytes = 65 * MIB; /* the routing id counts */
    struct end *router = stage_end(&stage, stage.pair->router, options);
    options = dealer_options(router, "a");
    options.max_message_bytes = 65 * MIB;
    struct end *dealer = stage_end(&stage, stage.pair->dealer, options);
    uint8_t *bytes = bytes_of(64 * MIB);
    znl_frame frames[] = {znl_frame_text("a"), znl_frame_of(bytes, 64 * MIB)};
    end_post(dealer, frames + 1, 1);
    end_expect(router, frames, 2);
    end_post(router, frames, 2);
    end_expect(dealer, frames + 1, 1);
    ends_meet(router, dealer, "a");
    free(bytes);
    stage_close(&stage);
}

static void messages_of_many_frames_arrive(void **state)
{
    static const size_t counts[] = {1, 2, 15, 16, 17, 64, 255, 1023};
    znl_frame frames[1024];
    uint8_t bytes[1024];
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct end *dealer = stage_dealer(&stage, router, "a");
    pattern_fill(bytes, sizeof bytes, 7);
    frames[0] = znl_frame_text("a");
    for (size_t i = 1; i < 1024; i++)
        frames[i] = znl_frame_of(bytes + i % 512, i % 300);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        end_post(dealer, frames + 1, counts[i]);
        end_expect(router, frames, counts[i] + 1);
        end_post(router, frames, counts[i] + 1);
        end_expect(dealer, frames + 1, counts[i]);
    }
    stage_close(&stage);
}

/* 65,535 frames and the routing id: as many as can be configured. */
static void as_many_frames_as_can_be_configured_arrive(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.max_frames = ZNL_FRAMES_MAX;
    struct end *router = stage_end(&stage, stage.pair->router, options);
    options = dealer_options(router, "a");
    options.max_frames = ZNL_FRAMES_MAX;
    struct end *dealer = stage_end(&stage, stage.pair->dealer, options);
    znl_frame *frames = calloc(ZNL_FRAMES_MAX, sizeof *frames);
    assert_non_null(frames);
    frames[0] = znl_frame_text("a");
    for (size_t i = 1; i < ZNL_FRAMES_MAX; i++)
        frames[i] = znl_frame_text(i % 3 == 0 ? "" : "frame");
    end_post(dealer, frames + 1, ZNL_FRAMES_MAX - 1);
    end_expect(router, frames, ZNL_FRAMES_MAX);
    end_post(router, frames, ZNL_FRAMES_MAX);
    end_expect(dealer, frames + 1, ZNL_FRAMES_MAX - 1);
    free(frames);
    stage_close(&stage);
}

/* --- limits ------------------------------------------------------------------------------------- */

/* What one peer says too much is thrown away and told; what it says then, and what others say, arrives. */
static void router_drops_messages_beyond_its_limits(void **state)
{
    static uint8_t bytes[4096];
    znl_frame frames[64];
    struct stage stage;
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.max_frames = 20;
    options.max_message_bytes = 1500;
    struct end *router = stage_end(&stage, stage.pair->router, options);
    struct end *dealer = stage_dealer(&stage, router, "a");
    struct end *other = stage_dealer(&stage, router, "b");
    ends_meet(router, dealer, "a");
    ends_meet(router, other, "b");
    for (size_t i = 0; i < 64; i++)
        frames[i] = znl_frame_of(bytes, 1);
    end_post(dealer, frames, 19); /* twenty with the routing id */
    free(end_take(router));
    end_post(dealer, frames, 20);
    end_post_text(dealer, "after too many frames");
    end_expect_from(router, "a", "after too many frames");
    assert_int_equal(router->dropped, 1);
    assert_int_equal(router->dropped_err, ZNL_E_LIMIT);
    frames[0] = znl_frame_of(bytes, 1499);
    end_post(dealer, frames, 1); /* libzmq's link counts the routing id here, too */
    free(end_take(router));
    frames[0] = znl_frame_of(bytes, 1501);
    end_post(dealer, frames, 1);
    end_post_text(dealer, "after too many bytes");
    end_expect_from(router, "a", "after too many bytes");
    assert_int_equal(router->dropped, 2);
    assert_int_equal(router->dropped_err, ZNL_E_TOO_BIG);
    for (size_t i = 0; i < 16; i++)
        frames[i] = znl_frame_of(bytes, 100);
    end_post(dealer, frames, 16);
    end_post(dealer, frames, 64);
    ends_meet(router, dealer, "a");
    ends_meet(router, other, "b");
    assert_int_equal(router->dropped, 4);
    assert_int_equal(router->refused, 0);
    stage_close(&stage);
}

static void dealer_drops_messages_beyond_its_limits(void **state)
{
    static uint8_t bytes[4096];
    znl_frame frames[65];
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    znl_link_options options = dealer_options(router, "a");
    options.max_frames = 20;
    options.max_message_bytes = 1500;
    struct end *dealer = stage_end(&stage, stage.pair->dealer, options);
    ends_meet(router, dealer, "a");
    frames[0] = znl_frame_text("a");
    for (size_t i = 1; i < 65; i++)
        frames[i] = znl_frame_of(bytes, 1);
    end_post(router, frames, 21);
    free(end_take(dealer));
    end_post(router, frames, 22);
    end_post_to(router, "a", "after too many frames");
    end_expect_text(dealer, "after too many frames");
    assert_int_equal(dealer->dropped, 1);
    assert_int_equal(dealer->dropped_err, ZNL_E_LIMIT);
    frames[1] = znl_frame_of(bytes, 1500);
    end_post(router, frames, 2);
    free(end_take(dealer));
    frames[1] = znl_frame_of(bytes, 1501);
    end_post(router, frames, 2);
    end_post(router, frames, 65);
    ends_meet(router, dealer, "a");
    assert_int_equal(dealer->dropped, 3);
    assert_int_equal(dealer->lost, 0);
    stage_close(&stage);
}

/* A frame beyond max_frame_bytes ends the connection: of that peer, not of others. */
static void router_ends_who_says_too_long_a_frame(void **state)
{
    static uint8_t bytes[2000];
    znl_frame too_long = znl_frame_of(bytes, 1001);
    znl_frame fits[] = {znl_frame_text("a"), znl_frame_of(bytes, 1000)};
    struct stage stage;
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.max_frame_bytes = 1000;
    struct end *router = stage_end(&stage, stage.pair->router, options);
    struct end *dealer = stage_dealer(&stage, router, "a");
    struct end *other = stage_dealer(&stage, router, "b");
    ends_meet(router, dealer, "a");
    ends_meet(router, other, "b");
    end_post(dealer, fits + 1, 1);
    end_expect(router, fits, 2);
    end_post(dealer, &too_long, 1);
    znl_frame ping[] = {znl_frame_text("a"), znl_frame_text("are you there")};
    STAGE_UNTIL(&stage, end_send(router, ping, 2) == ZNL_E_UNREACHABLE);
    end_post_to(router, "b", "still here");
    end_expect_text(other, "still here");
    /* It comes back by itself. */
    STAGE_UNTIL(&stage, end_send(router, ping, 2) == 0);
    while (dealer->received < 2)
        stage_turn(&stage);
    ends_meet(router, other, "b");
    end_post(dealer, fits + 1, 1);
    end_expect(router, fits, 2);
    stage_close(&stage);
}

/* Ours comes back; libzmq 4.3 gives the peer up for good after what it calls a protocol error. */
static void dealer_leaves_who_says_too_long_a_frame(void **state)
{
    static uint8_t bytes[2000];
    znl_frame too_long[] = {znl_frame_text("a"), znl_frame_of(bytes, 1001)};
    znl_frame fits[] = {znl_frame_text("a"), znl_frame_of(bytes, 1000)};
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    znl_link_options options = dealer_options(router, "a");
    options.max_frame_bytes = 1000;
    struct end *dealer = stage_end(&stage, stage.pair->dealer, options);
    ends_meet(router, dealer, "a");
    end_post(router, fits, 2);
    end_expect(dealer, fits + 1, 1);
    end_post(router, too_long, 2);
    STAGE_UNTIL(&stage, dealer->lost == 1);
    if (dealer->kind == END_OURS) {
        STAGE_UNTIL(&stage, dealer->joined == 1);
        ends_meet(router, dealer, "a");
    }
    assert_int_equal(dealer->lost, 1);
    stage_close(&stage);
}

/* --- traffic ------------------------------------------------------------------------------------ */

static void twenty_thousand_go_both_ways(void **state)
{
    const traffic_shape up = {.seed = 11, .goal = 20000, .max_frames = 7, .max_bytes = 70000};
    const traffic_shape down = {.seed = 12, .goal = 20000, .max_frames = 7, .max_bytes = 70000};
    struct traffic sent_up;
    struct traffic sent_down;
    struct traffic heard_up;
    struct traffic heard_down;
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct end *dealer = stage_dealer(&stage, router, "a");
    ends_meet(router, dealer, "a");
    traffic_open(&sent_up, up);
    traffic_open(&heard_up, up);
    traffic_open(&sent_down, down);
    traffic_open(&heard_down, down);
    sent_up.from = dealer;
    sent_down.from = router;
    sent_down.to = "a";
    router->hear = dealer->hear = traffic_hear_end;
    router->user = &heard_up;
    dealer->user = &heard_down;
    while (heard_up.number < up.goal || heard_down.number < down.goal) {
        size_t before = heard_up.number + heard_down.number;
        traffic_send(&sent_up);
        traffic_send(&sent_down);
        STAGE_UNTIL(&stage, heard_up.number + heard_down.number > before);
    }
    stage_turns(&stage, 5); /* nothing comes twice */
    assert_int_equal(router->dropped + dealer->dropped + dealer->lost, 0);
    traffic_close(&sent_up);
    traffic_close(&heard_up);
    traffic_close(&sent_down);
    traffic_close(&heard_down);
    stage_close(&stage);
}

int main(int argc, char **argv)
{
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL); /* as "*ours*" */
    const struct CMUnitTest tests[] = {
            EACH_PAIR(frames_of_every_size_arrive),
            PAIR_0(frame_of_64_mib_arrives),
            PAIR_1(frame_of_64_mib_arrives),
            PAIR_2(frame_of_64_mib_arrives),
            PAIR_3(frame_of_64_mib_arrives),
            PAIR_6(frame_of_64_mib_arrives),
            EACH_PAIR(messages_of_many_frames_arrive),
            EACH_PAIR(as_many_frames_as_can_be_configured_arrive),
            EACH_ROUTER_LINK(router_drops_messages_beyond_its_limits),
            EACH_DEALER_LINK(dealer_drops_messages_beyond_its_limits),
            EACH_ROUTER_LINK(router_ends_who_says_too_long_a_frame),
            EACH_DEALER_LINK(dealer_leaves_who_says_too_long_a_frame),
            PAIR_0(twenty_thousand_go_both_ways),
            PAIR_1(twenty_thousand_go_both_ways),
            PAIR_2(twenty_thousand_go_both_ways),
            PAIR_3(twenty_thousand_go_both_ways),
            PAIR_6(twenty_thousand_go_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
