/* cut_test.c - connections that end after any byte: nobody delivers half a message, everybody goes on.
 *
 * SPDX-License-Identifier: MIT */
#include "conformance/stage.h"
#include "conformance/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* --- scripts that end early --------------------------------------------------------------------- */

#define MESSAGES 4

static const znl_frame said[MESSAGES][3] = {
        {{(const uint8_t *)"one", 3}, {(const uint8_t *)"", 0}, {(const uint8_t *)"half?", 5}},
        {{(const uint8_t *)"x", 1}, {(const uint8_t *)"yy", 2}, {(const uint8_t *)"zzz", 3}},
        {{(const uint8_t *)"", 0}, {(const uint8_t *)"", 0}, {(const uint8_t *)"", 0}},
        {{(const uint8_t *)"last", 4}, {(const uint8_t *)"of", 2}, {(const uint8_t *)"all", 3}},
};

/* A whole conversation of one side; ends[i] is where message i ends. */
static void write_script(znl_buffer *out, const char *type, size_t ends[MESSAGES])
{
    say_greeting(out, 1, "NULL");
    say_ready(out, type, "a", 1);
    for (int i = 0; i < MESSAGES; i++) {
        if (i == 2)
            say_command(out, "PING", "\0\0ctx", 5);
        say_frame(out, SAY_MORE, said[i][0].data, said[i][0].size);
        say_frame(
                out, i == 1 ? SAY_MORE | SAY_LONG : SAY_MORE, said[i][1].data, said[i][1].size);
        say_frame(out, 0, said[i][2].data, said[i][2].size);
        ends[i] = out->size;
    }
}

static size_t whole_messages(const size_t ends[MESSAGES], size_t cut)
{
    size_t count = 0;
    while (count < MESSAGES && ends[count] <= cut)
        count++;
    return count;
}

/* Exactly the messages that were whole arrive. */
static void router_delivers_what_was_whole(void **state)
{
    struct stage stage;
    znl_buffer out = {0};
    size_t ends[MESSAGES];
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct wire *neighbour = wire_connect(&stage, router->endpoint);
    wire_shake(neighbour, "DEALER", "neighbour");
    write_script(&out, "DEALER", ends);
    for (int how = 0; how < 2; how++) /* in one piece; in two */
        for (size_t cut = 0; cut <= out.size; cut++) {
            struct wire *wire = wire_connect(&stage, router->endpoint);
            size_t first = how == 0 ? cut : cut / 2;
            assert_true(wire_write(wire, out.data, first));
            if (how == 1)
                stage_turn(&stage);
            assert_true(wire_write(wire, out.data + first, cut - first));
            wire_finish(wire);
            wire_ends(wire);
            for (size_t i = 0; i < whole_messages(ends, cut); i++) {
                znl_frame whole[] = {znl_frame_text("a"), said[i][0], said[i][1], said[i][2]};
                end_expect(router, whole, 4);
            }
            assert_int_equal(router->waiting, 0);
            wire_close(wire);
        }
    out.size = 0;
    say_text(&out, "I am well");
    assert_true(wire_say(neighbour, &out));
    end_expect_from(router, "neighbour", "I am well");
    free(out.data);
    stage_close(&stage);
}

/* The same with connections that are reset: fewer may arrive, never other ones. */
static void router_survives_resets(void **state)
{
    struct stage stage;
    znl_buffer out = {0};
    size_t ends[MESSAGES];
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct wire *neighbour = wire_connect(&stage, router->endpoint);
    wire_shake(neighbour, "DEALER", "neighbour");
    write_script(&out, "DEALER", ends);
    for (size_t cut = 0; cut <= out.size; cut++) {
        struct wire *wire = wire_connect(&stage, router->endpoint);
        assert_true(wire_write(wire, out.data, cut));
        stage_turns(&stage, (unsigned)cut % 3);
        wire_reset(wire);
        stage_turn(&stage);
    }
    out.size = 0;
    say_text(&out, "I am well");
    assert_true(wire_say(neighbour, &out));
    size_t next = 0;
    for (int is_done = 0; !is_done;) {
        letter *heard = end_take(router);
        is_done = heard->frames[0].size == strlen("neighbour");
        if (!is_done) {
            assert_int_equal(heard->count, 4);
            if (znl_frame_equal(heard->frames[1], said[0][0]))
                next = 0;
            for (size_t i = 0; i < 3; i++)
                assert_true(znl_frame_equal(heard->frames[1 + i], said[next][i]));
            next++;
        }
        free(heard);
    }
    free(out.data);
    stage_close(&stage);
}

/* A dealer whose peer ends after so many bytes connects again, by itself; here a hundred and more at once. */
static void dealers_deliver_what_was_whole_and_come_back(void **state)
{
    enum { DEALERS = 240 };
    struct stage stage;
    znl_buffer out = {0};
    znl_buffer again = {0};
    size_t ends[MESSAGES];
    struct end *dealers[DEALERS];
    struct wire *listeners[DEALERS];
    stage_open(&stage, *state);
    write_script(&out, "ROUTER", ends);
    size_t count = out.size + 1;
    assert_true(count <= DEALERS);
    for (size_t cut = 0; cut < count; cut++) {
        listeners[cut] = wire_listen(&stage);
        znl_link_options options = router_options(&stage);
        options.is_router = 0;
        options.endpoint = listeners[cut]->endpoint;
        options.routing_id = znl_frame_text("a");
        dealers[cut] = stage_end(&stage, stage.pair->dealer, options);
        struct wire *wire = wire_accept(listeners[cut]);
        assert_true(wire_write(wire, out.data, cut));
        wire_finish(wire);
        wire_ends(wire);
        wire_close(wire);
    }
    say_text(&again, "you are back");
    for (size_t cut = 0; cut < count; cut++) {
        struct wire *wire = wire_accept(listeners[cut]);
        wire_shake(wire, "ROUTER", "");
        assert_true(wire_say(wire, &again));
        for (size_t i = 0; i < whole_messages(ends, cut); i++)
            end_expect(dealers[cut], said[i], 3);
        end_expect_text(dealers[cut], "you are back");
        assert_int_equal(dealers[cut]->waiting, 0);
        assert_int_equal(dealers[cut]->lost, dealers[cut]->joined);
    }
    free(out.data);
    free(again.data);
    stage_close(&stage);
}

/* --- between two ends --------------------------------------------------------------------------- */

/* Carries bytes between dealers and a router. Its n-th connection ends after n bytes of one direction, at first; the
 * ones after these are whole. */
#define CARRIED 200

struct carrier {
    struct stage *stage;
    const char *to;
    struct wire *listener;
    size_t count;    /* connections so far */
    size_t cuts;     /* of these are cut */
    int cuts_router; /* counts bytes of the router, else of the dealer */
    struct {
        struct wire *dealer, *router;
        size_t left; /* to carry */
    } lines[CARRIED * 3];
};

static struct carrier carrier;

/* True when the line goes on. */
static int carry_from(struct wire *from, struct wire *to, size_t *left)
{
    size_t there = from->in.size - from->at;
    size_t count = left != NULL && there > *left ? *left : there;
    if (count > 0 &&
            send(to->fd, from->in.data + from->at, count, MSG_NOSIGNAL) != (ssize_t)count)
        return 0;
    from->at += count;
    if (left != NULL)
        *left -= count;
    return !(left != NULL && *left == 0) && !from->is_ended;
}

static void carry(struct stage *stage)
{
    struct wire *accepted;
    while (carrier.count < CARRIED * 3 &&
            (accepted = wire_try_accept(carrier.listener)) != NULL) {
        size_t i = carrier.count++;
        carrier.lines[i].dealer = accepted;
        carrier.lines[i].router = wire_connect(stage, carrier.to);
        carrier.lines[i].left = i < carrier.cuts ? i : SIZE_MAX;
    }
    for (size_t i = 0; i < carrier.count; i++) {
        struct wire *dealer = carrier.lines[i].dealer;
        struct wire *router = carrier.lines[i].router;
        size_t *left = &carrier.lines[i].left;
        if (dealer == NULL)
            continue;
        if (!carry_from(dealer, router, carrier.cuts_router ? NULL : left) ||
                !carry_from(router, dealer, carrier.cuts_router ? left : NULL)) {
            if (i % 2) {
                wire_reset(dealer);
                wire_reset(router);
            } else {
                wire_close(dealer);
                wire_close(router);
            }
            carrier.lines[i].dealer = NULL;
        }
    }
}

static int is_numbered(znl_frame frame, const char *word, uint8_t number)
{
    size_t length = strlen(word);
    return frame.size == length + 1 && memcmp(frame.data, word, length) == 0 &&
            frame.data[length] == number;
}

/* Echoes; checks that nothing is halved. */
static void hear_question(struct end *end, const znl_frame *frames, size_t count)
{
    assert_int_equal(count, 4);
    assert_int_equal(frames[0].size, 2);
    uint8_t number = frames[0].data[1];
    assert_true(is_numbered(frames[1], "first", number));
    assert_true(is_numbered(frames[2], "", number));
    assert_true(is_numbered(frames[3], "third", number));
    int err = end_send(end, frames, count); /* its connection may have ended just now */
    assert_true(err == 0 || err == ZNL_E_UNREACHABLE);
}

static void hear_answer(struct end *end, const znl_frame *frames, size_t count)
{
    uint8_t number = *(uint8_t *)end->user;
    assert_int_equal(count, 3);
    assert_true(is_numbered(frames[0], "first", number));
    assert_true(is_numbered(frames[1], "", number));
    assert_true(is_numbered(frames[2], "third", number));
}

/* Everybody asks who has not heard enough; returns how many these are. */
static size_t ask(struct stage *stage, struct end **dealers)
{
    size_t left = 0;
    for (size_t i = 0; i < CARRIED; i++) {
        uint8_t first[] = "first ";
        uint8_t third[] = "third ";
        uint8_t number = first[5] = third[5] = (uint8_t)i;
        znl_frame frames[] = {
                znl_frame_of(first, 6), znl_frame_of(&number, 1), znl_frame_of(third, 6)};
        if (dealers[i]->received >= 3)
            continue;
        left++;
        int err = end_send(dealers[i], frames, 3);
        assert_true(err == 0 || err == ZNL_E_BUSY);
    }
    stage_turns(stage, 10);
    return left;
}

static void cut_anywhere(const pairing *pair, int cuts_router)
{
    struct stage stage;
    static uint8_t numbers[CARRIED];
    struct end *dealers[CARRIED];
    stage_open(&stage, pair);
    struct end *router = stage_router(&stage);
    router->hear = hear_question;
    carrier = (struct carrier){.stage = &stage, .to = router->endpoint, .cuts = CARRIED};
    carrier.listener = wire_listen(&stage);
    carrier.cuts_router = cuts_router;
    stage.look = carry;
    for (size_t i = 0; i < CARRIED; i++) {
        char name[3] = {'d', (char)i, 0};
        numbers[i] = (uint8_t)i;
        znl_link_options options = dealer_options(router, "");
        options.endpoint = carrier.listener->endpoint;
        options.routing_id = znl_frame_of(name, 2);
        dealers[i] = stage_end(&stage, pair->dealer, options);
        dealers[i]->hear = hear_answer;
        dealers[i]->user = &numbers[i];
        if (i % 20 == 0)
            stage_turn(&stage);
    }
    /* Each asks, again and again, until it has heard three answers; some go with their connection. */
    STAGE_UNTIL(&stage, ask(&stage, dealers) == 0);
    assert_in_range(carrier.count, CARRIED + CARRIED / 2, 3 * CARRIED - 1);
    stage.look = NULL;
    stage_close(&stage);
}

static void a_dealer_is_cut_at_every_byte(void **state)
{
    cut_anywhere(*state, 0);
}

static void a_router_is_cut_at_every_byte(void **state)
{
    cut_anywhere(*state, 1);
}

int main(int argc, char **argv)
{
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL); /* as "*ours*" */
    const struct CMUnitTest tests[] = {
            OUR_ENGINE(router_delivers_what_was_whole),
            EACH_ENGINE(router_survives_resets),
            OUR_ENGINE(dealers_deliver_what_was_whole_and_come_back),
            EACH_PAIR(a_dealer_is_cut_at_every_byte),
            EACH_PAIR(a_router_is_cut_at_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
