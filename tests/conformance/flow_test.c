/* flow_test.c - readers that are slow or stand still, writers that never pause, and who else is served meanwhile.
 *
 * SPDX-License-Identifier: MIT */
#include "conformance/stage.h"
#include "conformance/traffic.h"
#include "conformance/wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define HWM 100
#define QUIET_TURNS 30 /* without room, and the queue is taken to be full */
#define FLOOD_BYTES_MAX (48u * 1024 * 1024)

/* An end that does not read until it is told to: a link on a loop that stands still, a socket that nobody looks at. */
static struct end *deaf_end(struct stage *stage, end_kind kind, znl_link_options options)
{
    struct end *made = kind == END_BARE ? stage_end(stage, kind, options)
                                        : stage_end_on_second(stage, kind, options);
    return made;
}

static void set_deaf(struct end *end, int is_deaf)
{
    if (end->kind == END_BARE)
        end->is_deaf = is_deaf;
    else
        end->stage->second_stands = is_deaf;
}

/* Sends until there has been no room for a while. */
static void fill(struct stage *stage, struct traffic *sent)
{
    for (int quiet = 0; quiet < QUIET_TURNS; quiet++) {
        size_t before = sent->number;
        assert_false(traffic_send(sent)); /* never all of it: somewhere there is an end */
        if (sent->number != before)
            quiet = 0;
        stage_turn(stage);
    }
}

static void on_room(struct end *end)
{
    if (traffic_send(end->user))
        znl_link_want_writable(end->link, 0);
}

/* Fills the way from one end to the other, that does not read, and lets it read. */
static void fill_and_drain(struct stage *stage, struct end *from, const char *to,
        struct end *reader, void (*meanwhile)(struct stage *stage))
{
    const traffic_shape shape = {.seed = 5, .goal = 100000, .max_frames = 3, .max_bytes = 9000};
    struct traffic sent;
    struct traffic heard;
    traffic_open(&sent, shape);
    traffic_open(&heard, shape);
    sent.from = from;
    sent.to = to;
    reader->hear = traffic_hear_end;
    reader->user = &heard;
    set_deaf(reader, 1);
    fill(stage, &sent);
    assert_true(sent.number >= HWM); /* below the mark nothing is refused */
    assert_int_equal(heard.number, 0);
    size_t used = memory_used();
    for (int i = 0; i < 1000; i++) {
        traffic_send(&sent);
        if (i % 50 == 0)
            stage_turn(stage);
    }
    assert_true(memory_used() < used + 8 * 1024 * 1024); /* what is refused is not kept */
    if (meanwhile != NULL)
        meanwhile(stage);
    assert_int_equal(heard.number, 0);
    /* It reads on; as there is room the rest follows, up to a goal that is near. */
    sent.shape.goal = heard.shape.goal = sent.number + 500;
    if (from->kind != END_BARE) {
        from->writables = 0;
        from->writable = on_room;
        from->user = &sent;
        znl_link_want_writable(from->link, 1);
        stage_turns(stage, 10);
        if (from->kind == END_OURS && !from->is_router)
            assert_int_equal(from->writables, 0); /* it could not send */
    }
    set_deaf(reader, 0);
    while (heard.number < heard.shape.goal) {
        size_t before = heard.number;
        if (from->kind == END_BARE)
            traffic_send(&sent);
        STAGE_UNTIL(stage, heard.number > before);
    }
    if (from->kind != END_BARE)
        assert_true(from->writables > 0);
    stage_turns(stage, 5); /* nothing comes twice */
    assert_int_equal(from->dropped + reader->dropped, 0);
    from->writable = NULL;
    from->user = reader->user = NULL;
    reader->hear = NULL;
    traffic_close(&sent);
    traffic_close(&heard);
}

static struct end *busy_router, *other_dealer;

static void others_are_served(struct stage *stage)
{
    (void)stage;
    for (int i = 0; i < 20; i++)
        ends_meet(busy_router, other_dealer, "other");
}

static void a_dealer_that_does_not_read_is_busy_alone(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.send_hwm = HWM;
    struct end *router = stage_end(&stage, stage.pair->router, options);
    options = dealer_options(router, "a");
    options.recv_hwm = HWM;
    struct end *dealer = deaf_end(&stage, stage.pair->dealer, options);
    other_dealer = stage_dealer(&stage, router, "other");
    busy_router = router;
    ends_meet(router, dealer, "a");
    ends_meet(router, other_dealer, "other");
    fill_and_drain(&stage, router, "a", dealer, others_are_served);
    ends_meet(router, dealer, "a");
    stage_close(&stage);
}

static void a_router_that_does_not_read_makes_dealers_busy(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.recv_hwm = HWM;
    struct end *router = deaf_end(&stage, stage.pair->router, options);
    options = dealer_options(router, "a");
    options.send_hwm = HWM;
    struct end *dealer = stage_end(&stage, stage.pair->dealer, options);
    ends_meet(router, dealer, "a");
    fill_and_drain(&stage, dealer, NULL, router, NULL);
    ends_meet(router, dealer, "a");
    assert_int_equal(dealer->lost, 0);
    stage_close(&stage);
}

/* With room for one message only, conversations go on. */
static void a_mark_of_one_is_enough(void **state)
{
    struct stage stage;
    char text[32];
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.send_hwm = options.recv_hwm = 1;
    struct end *router = stage_end(&stage, stage.pair->router, options);
    options = dealer_options(router, "a");
    options.send_hwm = options.recv_hwm = 1;
    struct end *dealer = stage_end(&stage, stage.pair->dealer, options);
    for (int i = 0; i < 50; i++) {
        for (int k = 0; k < 5; k++) {
            snprintf(text, sizeof text, "%d %d", i, k);
            end_post_text(dealer, text);
        }
        for (int k = 0; k < 5; k++) {
            snprintf(text, sizeof text, "%d %d", i, k);
            end_expect_from(router, "a", text);
            end_post_to(router, "a", text);
        }
        for (int k = 0; k < 5; k++) {
            snprintf(text, sizeof text, "%d %d", i, k);
            end_expect_text(dealer, text);
        }
    }
    stage_close(&stage);
}

/* --- raw floods --------------------------------------------------------------------------------- */

static znl_buffer flood;
static size_t flood_at, flood_bytes;
static struct wire *flooding;

/* Writes as much as the socket takes. */
static void pour(struct stage *stage)
{
    (void)stage;
    while (flood_bytes < FLOOD_BYTES_MAX) {
        ssize_t went = send(
                flooding->fd, flood.data + flood_at, flood.size - flood_at, MSG_NOSIGNAL);
        if (went <= 0)
            return;
        flood_bytes += (size_t)went;
        flood_at = (flood_at + (size_t)went) % flood.size;
    }
}

static void start_flood(struct wire *wire)
{
    flooding = wire;
    flood_at = flood_bytes = 0;
    wire->stage->look = pour;
}

static void end_flood(struct stage *stage)
{
    stage->look = NULL;
    free(flood.data);
    flood = (znl_buffer){0};
}

/* A link whose loop stands still reads nothing: the peer's bytes stay with the peer. */
static void a_loop_that_stands_still_takes_nothing_in(void **state)
{
    static uint8_t body[10000];
    struct stage stage;
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.recv_hwm = HWM;
    struct end *router = stage_end_on_second(&stage, stage.pair->router, options);
    struct wire *wire = wire_connect(&stage, router->endpoint);
    wire_shake(wire, "DEALER", "a");
    say_frame(&flood, 0, body, sizeof body);
    stage_turns(&stage, 5);
    stage.second_stands = 1;
    size_t used = memory_used();
    start_flood(wire);
    size_t before = 0;
    for (int quiet = 0; quiet < QUIET_TURNS; quiet++) {
        stage_turn(&stage);
        quiet = flood_bytes != before ? 0 : quiet;
        before = flood_bytes;
    }
    assert_true(flood_bytes < FLOOD_BYTES_MAX);
    assert_true(memory_used() < used + 16 * 1024 * 1024);
    assert_int_equal(router->received, 0);
    stage.second_stands = 0;
    STAGE_UNTIL(&stage, router->received > 2 * HWM);
    end_flood(&stage);
    stage_close(&stage);
}

static size_t flood_heard;
static size_t waited_for; /* messages of the flood between a question and its arrival */

/* Answers the quiet one, counts the other. */
static void hear_flood(struct end *end, const znl_frame *frames, size_t count)
{
    if (frames[0].size == 5 && memcmp(frames[0].data, "quiet", 5) == 0)
        assert_int_equal(end_send(end, frames, count), 0);
    else
        flood_heard++;
}

/* A peer that never pauses, of short messages, does not keep another from being heard and answered. */
static void a_flood_leaves_others_their_turn(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct end *quiet = stage_dealer(&stage, router, "quiet");
    ends_meet(router, quiet, "quiet");
    struct wire *wire = wire_connect(&stage, router->endpoint);
    wire_shake(wire, "DEALER", "loud");
    for (int i = 0; i < 10000; i++)
        say_text(&flood, "loud");
    flood_heard = waited_for = 0;
    router->hear = hear_flood;
    start_flood(wire);
    STAGE_UNTIL(&stage, flood_heard > 10000);
    for (int i = 0; i < 50; i++) {
        flood_bytes = 0; /* it has no end */
        size_t before = flood_heard;
        end_post_text(quiet, "may I");
        end_expect_text(quiet, "may I");
        waited_for += flood_heard - before;
    }
    /* A turn of the loop hears the flood for about 2 ms: some ten thousand messages, not all of them. */
    if (waited_for / 50 > 200000)
        fail_msg("heard %zu messages of the flood for each of the other", waited_for / 50);
    STAGE_UNTIL(&stage, flood_heard > 100000); /* nor is the flood kept out */
    end_flood(&stage);
    stage_close(&stage);
}

/* --- on_writable -------------------------------------------------------------------------------- */

static void say_one(struct end *end)
{
    znl_frame frame = znl_frame_text("one");
    assert_int_equal(end_send(end, &frame, 1), 0);
    if (end->writables == 20)
        znl_link_want_writable(end->link, 0);
}

static void writable_comes_again_and_again_until_unwanted(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct end *dealer = stage_dealer(&stage, router, "a");
    ends_meet(router, dealer, "a");
    dealer->writable = say_one;
    stage_turns(&stage, 5);
    assert_int_equal(dealer->writables, 0);
    znl_link_want_writable(dealer->link, 1);
    znl_link_want_writable(dealer->link, 1);
    for (int i = 0; i < 20; i++)
        end_expect_from(router, "a", "one");
    stage_turns(&stage, 20);
    assert_int_equal(dealer->writables, 20);
    ends_meet(router, dealer, "a");
    stage_close(&stage);
}

/* In one go nothing leaves: so many are taken as the mark says. */
static void the_mark_is_kept(void **state)
{
    for (uint32_t mark = 1; mark <= 12; mark++) {
        struct stage stage;
        unsigned flags;
        stage_open(&stage, *state);
        znl_link_options options = router_options(&stage);
        options.send_hwm = mark;
        struct end *router = stage_end(&stage, stage.pair->router, options);
        struct wire *wire = wire_connect(&stage, router->endpoint);
        wire_shake(wire, "DEALER", "a");
        const znl_frame frames[] = {znl_frame_text("a"), znl_frame_text("one of them")};
        for (int round = 0; round < 3; round++) {
            uint32_t taken = 0;
            int err;
            while ((err = end_send(router, frames, 2)) == 0)
                taken++;
            assert_int_equal(err, ZNL_E_BUSY);
            assert_int_equal(taken, mark);
            while (taken-- > 0)
                wire_take_frame(wire, &flags);
        }
        stage_close(&stage);
    }
}

int main(int argc, char **argv)
{
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL); /* as "*ours*" */
    const struct CMUnitTest tests[] = {
            EACH_PAIR(a_dealer_that_does_not_read_is_busy_alone),
            EACH_PAIR(a_router_that_does_not_read_makes_dealers_busy),
            EACH_PAIR(a_mark_of_one_is_enough),
            OUR_ENGINE(the_mark_is_kept),
            EACH_ENGINE(a_loop_that_stands_still_takes_nothing_in),
            EACH_PAIR(a_flood_leaves_others_their_turn),
            EACH_DEALER_LINK(writable_comes_again_and_again_until_unwanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
