/* connection_test.c - connections that come and go: lost and joined, lingering, storms, many at once, nothing left behind.
 *
 * SPDX-License-Identifier: MIT */
#include "conformance/stage.h"
#include "conformance/wire.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Closes the router and opens another in its place. */
static struct end *router_again(struct stage *stage, struct end *router)
{
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
    snprintf(endpoint, sizeof endpoint, "%s", router->endpoint);
    znl_link_options options = router_options(stage);
    options.endpoint = endpoint;
    int is_bare = router->kind == END_BARE;
    end_close(router, 0);
    struct end *made = NULL;
    /* A link's address is free when its close returns; a bare socket closes in its own time. */
    if (is_bare)
        STAGE_UNTIL(stage, stage_try_end(stage, &made, END_BARE, &options) == 0);
    else
        made = stage_end(stage, stage->pair->router, options);
    return made;
}

static void forget_socket_file(const char *endpoint)
{
    if (strncmp(endpoint, "ipc://", 6) == 0)
        unlink(endpoint + 6); /* libzmq leaves it */
}

static void busy_until_connected_then_writable(void **state)
{
    struct stage stage;
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
    stage_open(&stage, *state);
    struct end *router = stage_router_on_own_port(&stage);
    snprintf(endpoint, sizeof endpoint, "%s", router->endpoint);
    znl_link_options dealing = dealer_options(router, "a");
    dealing.endpoint = endpoint;
    end_close(router, 0);
    STAGE_UNTIL(&stage, !wire_is_served(endpoint)); /* a bare socket closes in its own time */
    struct end *dealer = stage_end(&stage, stage.pair->dealer, dealing);
    znl_frame frame = znl_frame_text("nobody is there");
    assert_int_equal(end_send(dealer, &frame, 1), ZNL_E_BUSY);
    znl_link_want_writable(dealer->link, 1);
    stage_turns(&stage, 20);
    assert_int_equal(dealer->writables, 0);
    znl_link_options options = router_options(&stage);
    options.endpoint = endpoint;
    router = NULL;
    STAGE_UNTIL(&stage, stage_try_end(&stage, &router, stage.pair->router, &options) == 0);
    STAGE_UNTIL(&stage, dealer->writables > 0);
    end_post_text(dealer, "somebody is");
    end_expect_from(router, "a", "somebody is");
    stage_close(&stage);
    forget_socket_file(endpoint);
}

/* on_lost and on_joined come in turns (stage.c checks that), once per connection, before and after everything else. */
static void lost_and_joined_come_in_turns(void **state)
{
    struct stage stage;
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
    stage_open(&stage, *state);
    struct end *router = stage_router_on_own_port(&stage);
    snprintf(endpoint, sizeof endpoint, "%s", router->endpoint);
    struct end *dealer = stage_dealer(&stage, router, "a");
    ends_meet(router, dealer, "a");
    assert_int_equal(dealer->lost + dealer->joined, 0);
    for (size_t round = 1; round <= 3; round++) {
        router = router_again(&stage, router);
        STAGE_UNTIL(&stage, dealer->joined == round);
        assert_int_equal(dealer->lost, round);
        assert_false(znl_link_is_lost(dealer->link));
        /* libzmq may still be busy ending the connection before. */
        STAGE_UNTIL(&stage, ({
            znl_frame frame = znl_frame_text("again");
            end_send(dealer, &frame, 1);
            router->received > 0;
        }));
    }
    /* Nobody there: lost once, however often it is tried. */
    end_close(router, 0);
    STAGE_UNTIL(&stage, dealer->lost == 4);
    stage_turns(&stage, 600);
    assert_int_equal(dealer->lost, 4);
    assert_int_equal(dealer->joined, 3);
    stage_close(&stage);
    forget_socket_file(endpoint);
}

/* --- lingering ---------------------------------------------------------------------------------- */

static void a_dealer_says_its_last_words(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct end *dealer = stage_dealer(&stage, router, "a");
    ends_meet(router, dealer, "a");
    for (int i = 0; i < 1000; i++)
        end_post_text(dealer, "goodbye");
    end_close(dealer, STAGE_GUARD_MS);
    for (int i = 0; i < 1000; i++)
        end_expect_from(router, "a", "goodbye");
    stage_close(&stage);
}

/* Where one of the two is ours. A libzmq link loses what it has not read when its peer goes (link.h), and between two of
 * libzmq the last messages were lost on a machine under load. */
static void a_router_says_its_last_words(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    stage.bare_is_patient = 1; /* with ZMQ_IMMEDIATE the same holds for it */
    struct end *router = stage_router(&stage);
    znl_link_options options = dealer_options(router, "a");
    struct end *dealer = stage_end(&stage, stage.pair->dealer, options);
    ends_meet(router, dealer, "a");
    for (int i = 0; i < 1000; i++)
        end_post_to(router, "a", "goodbye");
    end_close(router, STAGE_GUARD_MS);
    for (int i = 0; i < 1000; i++)
        end_expect_text(dealer, "goodbye");
    stage_close(&stage);
}

/* The peer reads nothing: the rest is thrown away after that time, at once when it is 0. stage_close() waits for it. */
static void lingering_ends(void **state)
{
    static uint8_t body[10000];
    for (uint32_t linger_ms = 0; linger_ms <= 100; linger_ms += 100) {
        struct stage stage;
        stage_open(&stage, *state);
        struct end *router = stage_router(&stage);
        struct wire *wire = wire_connect(&stage, router->endpoint);
        wire_shake(wire, "DEALER", "a");
        wire->is_deaf = 1;
        znl_frame frames[] = {znl_frame_text("a"), znl_frame_of(body, sizeof body)};
        end_post(router, frames, 2);
        for (int quiet = 0; quiet < 20;) {
            int err = end_send(router, frames, 2);
            if (err != 0) {
                assert_int_equal(err, ZNL_E_BUSY);
                stage_turn(&stage);
                quiet++;
            }
        }
        end_close(router, linger_ms);
        znl_loop_run(stage.loop); /* ends, with the peer as deaf as ever */
        stage_close(&stage);
    }
}

/* --- many --------------------------------------------------------------------------------------- */

static void fifty_dealers_come_back_time_and_again(void **state)
{
    enum { DEALERS = 50, ROUNDS = 3 };
    struct stage stage;
    struct end *dealers[DEALERS];
    char name[DEALERS][8];
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
    stage_open(&stage, *state);
    struct end *router = stage_router_on_own_port(&stage);
    snprintf(endpoint, sizeof endpoint, "%s", router->endpoint);
    for (int i = 0; i < DEALERS; i++) {
        snprintf(name[i], sizeof name[i], "d%d", i);
        dealers[i] = stage_dealer(&stage, router, name[i]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        char text[16];
        size_t heard[DEALERS];
        if (round > 0)
            router = router_again(&stage, router);
        snprintf(text, sizeof text, "round %d", round);
        for (int i = 0; i < DEALERS; i++)
            heard[i] = dealers[i]->received;
        /* Each is asked until it has been reached. */
        STAGE_UNTIL(&stage, ({
            int left = 0;
            for (int i = 0; i < DEALERS; i++) {
                znl_frame frames[] = {znl_frame_text(name[i]), znl_frame_text(text)};
                left += dealers[i]->received == heard[i];
                if (dealers[i]->received == heard[i])
                    end_send(router, frames, 2);
            }
            left == 0;
        }));
        end_post_text(dealers[round], text);
        end_expect_from(router, name[round], text);
    }
    stage_close(&stage);
    forget_socket_file(endpoint);
}

/* Several of both in one loop: each message reaches the one it is for. */
static void many_links_share_a_loop(void **state)
{
    enum { ROUTERS = 5, DEALERS = 8 };
    struct stage stage;
    struct end *routers[ROUTERS];
    struct end *dealers[ROUTERS][DEALERS];
    char text[32];
    char name[8];
    stage_open(&stage, *state);
    for (int r = 0; r < ROUTERS; r++) {
        routers[r] = stage_router(&stage);
        for (int d = 0; d < DEALERS; d++) {
            snprintf(name, sizeof name, "d%d", d);
            dealers[r][d] = stage_dealer(&stage, routers[r], name);
        }
    }
    for (int r = 0; r < ROUTERS; r++)
        for (int d = 0; d < DEALERS; d++) {
            snprintf(text, sizeof text, "%d to %d", d, r);
            end_post_text(dealers[r][d], text);
        }
    for (int r = 0; r < ROUTERS; r++)
        for (int i = 0; i < DEALERS; i++) {
            letter *heard = end_take(routers[r]);
            assert_int_equal(heard->count, 2);
            int d = heard->frames[0].data[1] - '0';
            snprintf(text, sizeof text, "%d to %d", d, r);
            assert_true(znl_frame_equal(heard->frames[1], znl_frame_text(text)));
            end_post(routers[r], heard->frames, 2);
            free(heard);
        }
    for (int r = 0; r < ROUTERS; r++)
        for (int d = 0; d < DEALERS; d++) {
            snprintf(text, sizeof text, "%d to %d", d, r);
            end_expect_text(dealers[r][d], text);
        }
    stage_close(&stage);
}

/* --- nothing is left behind --------------------------------------------------------------------- */

static void two_hundred_connections_leave_no_descriptor(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct end *dealer = stage_dealer(&stage, router, "a");
    ends_meet(router, dealer, "a");
    end_close(dealer, 0);
    stage_turns(&stage, 20);
    size_t before = descriptors_open();
    for (int i = 0; i < 200; i++) {
        dealer = stage_dealer(&stage, router, "a");
        if (i % 10 == 0)
            ends_meet(router, dealer, "a");
        else
            stage_turns(&stage, (unsigned)i % 4); /* somewhere on its way */
        end_close(dealer, 0);
    }
    /* What libzmq has closed goes in its own time; one descriptor may be a connection under way. */
    STAGE_UNTIL(&stage, descriptors_open() <= before + 1);
    stage_close(&stage);
}

static void routers_that_come_and_go_leave_no_descriptor(void **state)
{
    struct stage stage;
    size_t before = 0;
    stage_open(&stage, *state);
    for (int i = 0; i <= 120; i++) {
        struct end *router = stage_router(&stage);
        struct wire *wire = wire_connect(&stage, router->endpoint);
        wire_write(wire, "\377\0\0\0\0\0\0\0\0\177\3\1", (size_t)i % 13);
        stage_turns(&stage, (unsigned)i % 3);
        end_close(router, 0);
        wire_close(wire);
        if (i == 20) { /* what a loop opens once is open */
            stage_turns(&stage, 50);
            before = descriptors_open();
        }
    }
    STAGE_UNTIL(&stage, descriptors_open() <= before);
    stage_close(&stage);
}

/* --- closing inside of events ------------------------------------------------------------------- */

enum event { AT_MESSAGE, AT_WRITABLE, AT_LOST, AT_JOINED, AT_REFUSED, AT_DROPPED, EVENTS };

/* A link that closes itself when a certain event comes; none may come after it. */
struct fragile {
    znl_link *link;
    enum event closes_at;
    int is_closed;
    int seen;
};

static void happen(struct fragile *fragile, enum event event)
{
    assert_false(fragile->is_closed);
    if (event != fragile->closes_at)
        return;
    fragile->is_closed = 1;
    znl_link_close(fragile->link, 0);
}

static void at_message(void *user, const znl_frame *frames, size_t count)
{
    struct fragile *fragile = user;
    happen(fragile, AT_MESSAGE);
    fragile->seen += frames[count - 1].size > 0 && frames[count - 1].data[0] == 'x';
}

static void at_writable(void *user)
{
    happen(user, AT_WRITABLE);
}

static void at_lost(void *user)
{
    happen(user, AT_LOST);
}

static void at_joined(void *user)
{
    happen(user, AT_JOINED);
}

static void at_refused(void *user, int err, const char *text)
{
    assert_int_not_equal(err, 0);
    happen(user, AT_REFUSED);
    assert_int_not_equal(strlen(text), 0);
}

static void at_dropped(void *user, int err)
{
    assert_int_not_equal(err, 0);
    happen(user, AT_DROPPED);
}

static void a_link_may_close_inside_every_event(void **state)
{
    static const znl_link_events fragile_events = {
            at_message, at_writable, at_dropped, at_lost, at_joined, at_refused};
    const pairing *pair = *state;
    static uint8_t too_much[100];
    for (int is_router = 0; is_router < 2; is_router++)
        for (int event = 0; event < EVENTS; event++) {
            struct stage stage;
            znl_buffer out = {0};
            struct fragile fragile = {.closes_at = (enum event)event};
            if (is_router && (event == AT_LOST || event == AT_JOINED))
                continue;
            stage_open(&stage, pair);
            struct wire *listener = is_router ? NULL : wire_listen(&stage);
            znl_link_options options = router_options(&stage);
            options.engine = ZNL_LINK_ZMTP;
            options.max_message_bytes = 50;
            options.is_router = is_router;
            if (!is_router)
                options.endpoint = listener->endpoint;
            assert_int_equal(znl_link_open(&fragile.link, stage.loop, &options, &fragile_events,
                                     &fragile),
                    0);
            struct wire *wire = is_router
                    ? wire_connect(&stage, znl_link_endpoint(fragile.link))
                    : wire_accept(listener);
            if (event == AT_WRITABLE)
                znl_link_want_writable(fragile.link, 1);
            say_greeting(&out, 1, event == AT_REFUSED ? "CURVE" : "NULL");
            say_ready(&out, is_router ? "DEALER" : "ROUTER", "a", 1);
            if (event == AT_DROPPED)
                say_frame(&out, 0, too_much, sizeof too_much);
            for (int i = 0; i < 10; i++) /* more behind it in the same bytes */
                say_text(&out, "x");
            assert_true(wire_say(wire, &out));
            if (event == AT_LOST || event == AT_JOINED) {
                STAGE_UNTIL(&stage, fragile.seen == 10);
                wire_close(wire);
            }
            if (event == AT_JOINED) {
                wire = wire_accept(listener);
                assert_true(wire_say(wire, &out));
            }
            STAGE_UNTIL(&stage, fragile.is_closed);
            stage_turns(&stage, 5);
            free(out.data);
            stage_close(&stage);
        }
}

/* The next connection comes after `wait_ms` and up to 200 ms more, not before. */
static struct wire *comes_after(struct wire *listener, uint64_t wait_ms)
{
    stage_advance(listener->stage, wait_ms - 1);
    stage_turns(listener->stage, 3);
    assert_null(wire_try_accept(listener));
    stage_advance(listener->stage, 1 + ZNL_RECONNECT_MS);
    return wire_accept(listener);
}

static void a_dealer_waits_longer_each_time_until_hands_are_shaken(void **state)
{
    struct stage stage;
    znl_clock_freeze(-1);
    stage_open(&stage, *state);
    struct wire *listener = wire_listen(&stage);
    znl_link_options options = router_options(&stage);
    options.is_router = 0;
    options.endpoint = listener->endpoint;
    options.routing_id = znl_frame_text("a");
    struct end *dealer = stage_end(&stage, stage.pair->dealer, options);
    struct wire *wire = wire_accept(listener);
    for (size_t round = 1; round <= 2; round++) {
        static const uint64_t waits_ms[] = {200, 400, 800, 1000, 1000};
        for (size_t i = round - 1; i < sizeof waits_ms / sizeof *waits_ms; i++) {
            size_t refused = dealer->refused;
            assert_true(wire_write(wire, "what", 4));
            STAGE_UNTIL(&stage, dealer->refused > refused);
            wire_close(wire);
            wire = comes_after(listener, waits_ms[i]);
        }
        wire_shake(wire, "ROUTER", "");
        end_post_text(dealer, "hello"); /* it is open */
        wire_close(wire);
        STAGE_UNTIL(&stage, dealer->lost == round);
        wire = comes_after(listener, 200);
    }
    stage_close(&stage);
    znl_clock_thaw();
}

int main(int argc, char **argv)
{
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL); /* as "*ours*" */
    const struct CMUnitTest tests[] = {
            OUR_ENGINE(a_dealer_waits_longer_each_time_until_hands_are_shaken),
            EACH_DEALER_LINK(busy_until_connected_then_writable),
            EACH_DEALER_LINK(lost_and_joined_come_in_turns),
            EACH_PAIR(a_dealer_says_its_last_words),
            PAIR_0(a_router_says_its_last_words),
            PAIR_1(a_router_says_its_last_words),
            PAIR_2(a_router_says_its_last_words),
            PAIR_3(a_router_says_its_last_words),
            PAIR_4(a_router_says_its_last_words),
            PAIR_5(a_router_says_its_last_words),
            EACH_ENGINE(lingering_ends),
            EACH_PAIR(fifty_dealers_come_back_time_and_again),
            EACH_PAIR(many_links_share_a_loop),
            EACH_PAIR(two_hundred_connections_leave_no_descriptor),
            EACH_ENGINE(routers_that_come_and_go_leave_no_descriptor),
            OUR_ENGINE(a_link_may_close_inside_every_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
