/* One connection of leader and follower: two ends back to back over carriers that are buffers, and bytes of a
 * peer that means harm. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/cluster_stage.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/random.h"
#include "node/cluster_link_parts.h"

#define leader (&stage_leader)
#define follower (&stage_follower)
#define NONE ((znl_frame){0})
#define TEXT(text) znl_frame_of(text, sizeof text - 1)

static const znl_cluster_message success = {.kind = ZNL_CLUSTER_RESULT, .is_success = 1};

/* --- asking and answering ---------------------------------------------------------------------------- */

static void a_call_and_its_answer(void **state)
{
    (void)state;
    stage_open_both();
    leader->answer = success;
    stage_invoke(follower, "echo", "data", 3000, 7);
    assert_int_equal(znl_cluster_link_pending(follower->link), 1);
    stage_pump();
    assert_heard(leader, "invoke echo data\n");
    assert_heard(follower, "answer 7 success data\n");
    assert_int_equal(znl_cluster_link_pending(follower->link), 0);
    assert_int_equal(stage_count(follower).asked, 1);
    assert_int_equal(stage_count(follower).answers, 1);
    assert_int_equal(stage_count(leader).sent, 1);
    assert_int_equal(stage_count(leader).received, 1);
}

static void packets_as_they_are_sent(void **state)
{
    (void)state;
    stage_open_both();
    const znl_cluster_message hello = {.kind = ZNL_CLUSTER_REGISTER, .channel = TEXT("Demo")};
    assert_int_equal(znl_cluster_link_ask(follower->link, &hello, NONE, 3000,
                             (znl_waiter){follower, 1}, NULL),
            0);
    assert_sent(follower,
            "request 1 3000 {\"type\":\"register_channel\",\"channelName\":\"Demo\"}");
    const znl_cluster_message note = {
            .kind = ZNL_CLUSTER_INVOKE, .method = TEXT("note"), .is_oneway = 1, .arg_count = 1};
    assert_int_equal(znl_cluster_link_tell(follower->link, &note, TEXT("x"), 5000, 77), 0);
    assert_sent(follower,
            "request 2 5000 {\"type\":\"invoke\",\"method\":\"note\",\"argLength\":1,\"oneway\":"
            "true} x");
    const znl_cluster_message cancel = {.kind = ZNL_CLUSTER_CANCEL};
    assert_int_equal(znl_cluster_link_tell(follower->link, &cancel, NONE, 0, 1), 0);
    assert_sent(follower, "request 1 0 {\"type\":\"cancel\"}");
    stage_invoke(follower, "get", "", UINT32_MAX, 2);
    assert_sent(follower,
            "request 3 2147483647 {\"type\":\"invoke\",\"method\":\"get\",\"argLength\":0,"
            "\"oneway\":false}");
    assert_int_equal(
            znl_cluster_link_answer(leader->link, INT64_MIN, -5, &success, TEXT("^^^^-5")), 0);
    assert_sent(leader,
            "response -9223372036854775808 -5 {\"type\":\"invoke_result\",\"success\":true} "
            "^^^^-5");
}

static void what_kills_an_original_is_not_sent(void **state)
{
    (void)state;
    const znl_cluster_message welcome = {.kind = ZNL_CLUSTER_REGISTERED};
    stage_open_both();
    assert_int_equal(
            znl_cluster_link_answer(leader->link, 1, 0, &success, NONE), ZNL_E_INVALID);
    assert_int_equal(
            znl_cluster_link_answer(leader->link, 1, 0, &welcome, NONE), ZNL_E_INVALID);
    assert_int_equal(znl_cluster_link_push(leader->link, TEXT("{}"), NONE, 1), ZNL_E_INVALID);
    assert_sent(leader, "(nothing)");
}

static void answers_come_in_any_order(void **state)
{
    (void)state;
    stage_open_both();
    int64_t ids[3];
    for (unsigned i = 0; i < 3; i++)
        ids[i] = stage_invoke(follower, "m", "", 0, i);
    stage_pump();
    stage_heard(leader);
    for (unsigned i = 3; i-- > 0;)
        znl_cluster_link_answer(leader->link, ids[i], 0, &success, TEXT("x"));
    stage_pump();
    assert_heard(follower, "answer 2 success x\nanswer 1 success x\nanswer 0 success x\n");
    /* Once more, to nobody; and to what was never asked. */
    for (int64_t id = -3; id < 40; id++)
        znl_cluster_link_answer(leader->link, id, 0, &success, TEXT("x"));
    znl_cluster_link_answer(leader->link, INT64_MAX, 0, &success, TEXT("x"));
    stage_pump();
    assert_heard(follower, "");
    assert_int_equal(stage_count(follower).late, 44);
}

static void bytes_may_come_one_by_one(void **state)
{
    (void)state;
    for (size_t piece = 1; piece < 60; piece += piece < 5 ? 1 : 11) {
        stage_open_both();
        leader->answer = success;
        for (unsigned i = 0; i < 20; i++)
            stage_invoke(follower, "echo", "0123456789", 0, i);
        stage_deliver(follower, leader, piece);
        stage_deliver(leader, follower, piece);
        assert_int_equal(stage_count(follower).answers, 20);
        assert_int_equal(stage_count(follower).late, 0);
        stage_clear(NULL);
        stage_prepare(NULL);
    }
}

static void a_call_that_is_not_answered_ends(void **state)
{
    (void)state;
    stage_open_both();
    int64_t id = stage_invoke(follower, "slow", "", 300, 1);
    stage_invoke(follower, "slow", "", 0, 2);
    stage_invoke(follower, "slow", "", 100, 3);
    stage_pass(99);
    assert_heard(follower, "");
    stage_pass(1);
    assert_heard(follower, "failed 3 TIMEOUT\n");
    stage_pass(100000);
    assert_heard(follower, "failed 1 TIMEOUT\n");
    assert_int_equal(stage_count(follower).timeouts, 2);
    assert_int_equal(znl_cluster_link_pending(follower->link), 1);
    stage_pump();
    znl_cluster_link_answer(leader->link, id, 0, &success, TEXT("late"));
    stage_pump();
    assert_heard(follower, "");
    assert_int_equal(stage_count(follower).late, 1);
    znl_cluster_link_close(follower->link, ZNL_E_GONE);
    assert_heard(follower, "failed 2 GONE\n");
}

static void who_gives_up_hears_nothing(void **state)
{
    (void)state;
    stage_open_both();
    leader->answer = success;
    int64_t id = stage_invoke(follower, "echo", "", 100, 1);
    znl_cluster_link_give_up(follower->link, id);
    znl_cluster_link_give_up(follower->link, id);
    znl_cluster_link_give_up(follower->link, 0);
    znl_cluster_link_give_up(follower->link, -id);
    znl_cluster_link_give_up(follower->link, INT64_MAX);
    assert_int_equal(znl_cluster_link_pending(follower->link), 0);
    stage_pump();
    stage_pass(200);
    assert_heard(follower, "");
    assert_int_equal(stage_count(follower).late, 1);
}

static void nobody_is_told_without_an_owner(void **state)
{
    (void)state;
    const znl_cluster_message invoke = {.kind = ZNL_CLUSTER_INVOKE, .method = TEXT("m")};
    stage_open_both();
    leader->answer = success;
    for (int i = 0; i < 3; i++)
        znl_cluster_link_ask(follower->link, &invoke, NONE, 50, (znl_waiter){0}, NULL);
    stage_pump();
    assert_int_equal(stage_count(follower).answers, 3);
    znl_cluster_link_ask(follower->link, &invoke, NONE, 50, (znl_waiter){0}, NULL);
    stage_pass(50);
    assert_int_equal(stage_count(follower).timeouts, 1);
    znl_cluster_link_ask(follower->link, &invoke, NONE, 50, (znl_waiter){0}, NULL);
    znl_cluster_link_close(follower->link, ZNL_E_CLOSED);
    assert_heard(follower, "");
}

static void all_that_wait_fail_at_the_end(void **state)
{
    (void)state;
    char expected[4000];
    size_t size = 0;
    stage_open_both();
    follower->link->last_id = ZNL_CLUSTER_ID_MAX - 50; /* across the end of the ids */
    for (unsigned i = 0; i < 100; i++) {
        stage_invoke(follower, "m", "", i % 2 * 500, i);
        size += (size_t)snprintf(
                expected + size, sizeof expected - size, "failed %u CLOSED\n", i);
    }
    znl_cluster_link_close(follower->link, ZNL_E_CLOSED);
    assert_heard(follower, expected); /* the oldest first */
    znl_cluster_link_close(follower->link, ZNL_E_CLOSED);
    const znl_cluster_message invoke = {.kind = ZNL_CLUSTER_INVOKE, .method = TEXT("m")};
    assert_int_equal(znl_cluster_link_ask(
                             follower->link, &invoke, NONE, 1, (znl_waiter){follower, 1}, NULL),
            ZNL_E_CLOSED);
    assert_int_equal(znl_cluster_link_tell(follower->link, &invoke, NONE, 1, 0), ZNL_E_CLOSED);
    assert_int_equal(
            znl_cluster_link_answer(follower->link, 1, 0, &success, TEXT("x")), ZNL_E_CLOSED);
    assert_int_equal(
            znl_cluster_link_push(follower->link, TEXT("{}"), TEXT("x"), 0), ZNL_E_CLOSED);
    assert_int_equal(znl_cluster_link_queued(follower->link), 0);
}

static void limits_of_asking(void **state)
{
    (void)state;
    const znl_cluster_message invoke = {.kind = ZNL_CLUSTER_INVOKE, .method = TEXT("m")};
    const znl_cluster_message bad = {.kind = ZNL_CLUSTER_INVOKE, .method = TEXT("\xff")};
    const znl_waiter waiter = {follower, 1};
    stage_options.max_pending = 3;
    stage_options.max_bytes = 200;
    stage_open_both();
    static const uint8_t big[200];
    assert_int_equal(znl_cluster_link_ask(
                             follower->link, &invoke, znl_frame_of(big, 200), 0, waiter, NULL),
            ZNL_E_TOO_BIG);
    assert_int_equal(
            znl_cluster_link_tell(follower->link, &invoke, znl_frame_of(big, 200), 0, 0),
            ZNL_E_TOO_BIG);
    assert_int_equal(
            znl_cluster_link_answer(leader->link, 1, 0, &success, znl_frame_of(big, 200)),
            ZNL_E_TOO_BIG);
    assert_int_equal(
            znl_cluster_link_ask(follower->link, &bad, NONE, 0, waiter, NULL), ZNL_E_PROTO);
    follower->fails_reserve = 1;
    assert_int_equal(
            znl_cluster_link_ask(follower->link, &invoke, NONE, 0, waiter, NULL), ZNL_E_NOMEM);
    assert_int_equal(znl_cluster_link_pending(follower->link), 0);
    assert_sent(follower, "(nothing)");
    for (unsigned i = 0; i < 3; i++)
        stage_invoke(follower, "m", "", 0, i);
    assert_int_equal(
            znl_cluster_link_ask(follower->link, &invoke, NONE, 0, waiter, NULL), ZNL_E_LIMIT);
    leader->answer = success;
    stage_pump();
    stage_invoke(follower, "m", "", 0, 4);
    follower->room = follower->sent.size;
    assert_int_equal(
            znl_cluster_link_ask(follower->link, &invoke, NONE, 0, waiter, NULL), ZNL_E_BUSY);
    assert_int_equal(znl_cluster_link_tell(follower->link, &invoke, NONE, 0, 0), ZNL_E_BUSY);
    assert_int_equal(znl_cluster_link_pending(follower->link), 1);
}

/* Thousands at once, some of which wait through every growth and many rounds of the ring. */
static void the_ring_grows_and_leaves_old_ones_alone(void **state)
{
    (void)state;
    enum { OLD = 37, ROUNDS = 60, BATCH = 500 };
    int64_t old[OLD];
    stage_open_both();
    for (unsigned i = 0; i < OLD; i++)
        old[i] = stage_invoke(follower, "old", "", 5000 + i, i);
    follower->sent.size = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned batch = round < 3 ? BATCH * 20 : BATCH;
        uint64_t answers = stage_count(follower).answers;
        for (unsigned i = 0; i < batch; i++) {
            const znl_cluster_message invoke = {
                    .kind = ZNL_CLUSTER_INVOKE, .method = TEXT("m")};
            assert_int_equal(znl_cluster_link_ask(follower->link, &invoke, NONE, 4000,
                                     (znl_waiter){0}, NULL),
                    0);
        }
        assert_int_equal(znl_cluster_link_pending(follower->link), batch + OLD);
        leader->answer = success;
        stage_pump();
        leader->heard.size = 0;
        assert_int_equal(stage_count(follower).answers, answers + batch);
        assert_int_equal(znl_cluster_link_pending(follower->link), OLD);
    }
    assert_heard(follower, "");
    char expected[1000];
    size_t size = 0;
    for (unsigned i = 1; i < OLD; i += 2) {
        znl_cluster_link_answer(leader->link, old[i], 0, &success, TEXT("x"));
        size += (size_t)snprintf(
                expected + size, sizeof expected - size, "answer %u success x\n", i);
    }
    stage_pump();
    assert_heard(follower, expected);
    stage_pass(6000); /* their timers moved with them */
    assert_int_equal(stage_count(follower).timeouts, (OLD + 1) / 2);
    assert_int_equal(znl_cluster_link_pending(follower->link), 0);
}

/* --- hostile bytes ----------------------------------------------------------------------------------- */

static void what_is_no_packet_breaks_the_connection(void **state)
{
    (void)state;
    static const struct {
        uint32_t text, data;
        const char *heard;
    } cases[] = {
            {0, 0, "broken PROTO a packet without a body, or of negative size\n"},
            {UINT32_MAX, 2, "broken PROTO a packet without a body, or of negative size\n"},
            {2, 0x80000000u, "broken PROTO a packet without a body, or of negative size\n"},
            {1001, 0, "broken TOO_BIG a packet of more than 1000 bytes\n"},
            {500, 501, "broken TOO_BIG a packet of more than 1000 bytes\n"},
            {INT32_MAX, INT32_MAX, "broken TOO_BIG a packet of more than 1000 bytes\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t head[ZNL_PACKET_HEAD_BYTES];
        stage_options.max_bytes = 1000;
        stage_open_both();
        znl_packet_put_head(head, 0, 1, 0, cases[i].text, cases[i].data);
        stage_receive(leader, head, sizeof head);
        stage_receive(leader, head, sizeof head); /* is not looked at */
        assert_heard(leader, cases[i].heard);
        stage_receive_packet(leader, 0, 1, 0, "{\"type\":\"heartbeat\"}", NULL);
        assert_sent(leader, "(nothing)");
        stage_clear(NULL);
        stage_prepare(NULL);
    }
}

static void texts_that_cannot_be_read_break_the_connection(void **state)
{
    (void)state;
    stage_options.max_depth = 4;
    for (int is_response = 0; is_response < 2; is_response++) {
        stage_open_both();
        stage_receive_packet(leader, is_response, 1, 0, "{\"type\":", "x");
        assert_heard(leader, "broken PROTO the text of a packet is not a JSON object\n");
        stage_receive_packet(
                follower, is_response, 1, 0, "{\"type\":\"x\",\"reg\":[[[[[1]]]]]}", NULL);
        assert_heard(
                follower, "broken LIMIT the text of a packet is nested deeper than 4 levels\n");
        stage_clear(NULL);
        stage_prepare(NULL);
        stage_options.max_depth = 4;
    }
}

static void a_stranger_may_send_little(void **state)
{
    (void)state;
    static const uint8_t zeroes[1000];
    uint8_t head[ZNL_PACKET_HEAD_BYTES];
    stage_open(leader);
    stage_receive_packet(leader, 0, 1, 0, "{\"type\":\"heartbeat\"}", NULL);
    assert_sent(leader, "(nothing)");
    znl_packet_put_head(head, 0, 1, 0, 22, ZNL_CLUSTER_UNREGISTERED_BYTES);
    stage_receive(leader, head, sizeof head);
    assert_heard(leader, "broken TOO_BIG a packet of more than 65536 bytes\n");
    stage_clear(NULL);
    stage_prepare(NULL);
    stage_open_both(); /* configured */
    stage_receive(leader, head, sizeof head);
    stage_receive(leader, zeroes, sizeof zeroes);
    assert_heard(leader, "");
}

static void requests_of_no_use_are_ignored(void **state)
{
    (void)state;
    static const char *const texts[] = {"{}", "{\"type\":7}", "{\"type\":\"shutdown\"}",
            "{\"type\":\"register_channel_res\"}",
            "{\"type\":\"invoke_result\",\"success\":true}"};
    size_t count = sizeof texts / sizeof texts[0];
    stage_open_both();
    for (size_t i = 0; i < count; i++) {
        stage_receive_packet(leader, 0, 1, 0, texts[i], "x");
        stage_receive_packet(follower, 0, 1, 0, texts[i], "x");
    }
    stage_receive_packet(leader, 0, 1, 0, "{\"type\":\"subscribe_result\",\"key\":\"a\"}", "x");
    stage_receive_packet(follower, 0, 1, 0, "{\"type\":\"heartbeat\"}", NULL);
    stage_receive_packet(
            follower, 0, 1, 0, "{\"type\":\"register_channel\",\"channelName\":\"a\"}", NULL);
    stage_receive_packet(follower, 0, 1, 0, "{\"type\":\"cancel\"}", NULL);
    assert_heard(leader, "");
    assert_heard(follower, "");
    assert_sent(leader, "(nothing)");
    assert_sent(follower, "(nothing)");
    assert_int_equal(stage_count(leader).unknown, count + 1);
    assert_int_equal(stage_count(follower).unknown, count + 3);
}

/* --- values ------------------------------------------------------------------------------------------ */

static const char value_text[] = "{\"type\":\"subscribe_result\",\"key\":\"k\"}";

static int push(uint32_t timeout_ms)
{
    return znl_cluster_link_push(leader->link, TEXT(value_text), TEXT("v"), timeout_ms);
}

static void values_are_acknowledged(void **state)
{
    (void)state;
    stage_open_both();
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(push(3000), 0);
    stage_deliver(leader, follower, 0);
    assert_sent(follower, "response 1 0 {\"type\":\"subscribe_result_res\"}");
    follower->heard.size = 0;
    stage_pump();
    assert_int_equal(stage_count(leader).taken, 99);
    assert_int_equal(stage_count(leader).pushed, 100);
    stage_pass(3000); /* the one that was looked at did not arrive */
    assert_int_equal(stage_count(leader).untaken, 1);
    stage_receive_packet(leader, 1, 1, 0, "{\"type\":\"subscribe_result_res\"}", NULL);
    assert_int_equal(stage_count(leader).late, 1);
}

static void a_value_without_data_is_acknowledged_only(void **state)
{
    (void)state;
    stage_open_both();
    stage_receive_packet(follower, 0, 5, 10, value_text, NULL);
    stage_receive_packet(follower, 0, 6, 10, value_text, "v");
    assert_heard(follower, "value k v\n");
    assert_sent(follower, "response 5 0 {\"type\":\"subscribe_result_res\"}");
    assert_sent(follower, "response 6 0 {\"type\":\"subscribe_result_res\"}");
}

/* Acknowledgements in any order, repeated and made up, across the end of the ids and among asks. */
static void acknowledgements_find_their_value(void **state)
{
    (void)state;
    enum { PUSHES = 300 };
    stage_open_both();
    leader->link->last_id = ZNL_CLUSTER_ID_MAX - 150;
    uint32_t ids[PUSHES];
    for (unsigned i = 0; i < PUSHES; i++) {
        if (i % 7 == 3)
            stage_invoke(leader, "m", "", 0, i); /* leaves gaps in the row */
        assert_int_equal(push(1000), 0);
        ids[i] = leader->link->last_id;
    }
    static const char taken[] = "{\"type\":\"subscribe_result_res\"}";
    for (unsigned i = 0; i < PUSHES; i++) {
        uint32_t id = ids[(i * 7 + 5) % PUSHES];
        assert_int_equal(stage_count(leader).taken, i);
        stage_receive_packet(leader, 1, id, 0, taken, NULL);
        stage_receive_packet(leader, 1, id, 0, taken, NULL);
        stage_receive_packet(leader, 1, (int64_t)id + ((int64_t)1 << 32), 0, taken, NULL);
        stage_receive_packet(leader, 1, -(int64_t)id, 0, taken, NULL);
    }
    assert_int_equal(stage_count(leader).taken, PUSHES);
    assert_int_equal(stage_count(leader).late, PUSHES * 3);
    stage_pass(2000);
    assert_int_equal(stage_count(leader).untaken, 0);
}

static void who_never_acknowledges_costs_bounded_memory(void **state)
{
    (void)state;
    stage_options.max_pending = 100;
    stage_open_both();
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(push(i % 2 ? 0 : 1000), 0);
    assert_int_equal(stage_count(leader).untaken, 900);
    assert_int_equal(leader->link->push_count, 100);
    assert_in_range(leader->link->push_capacity, 100, 128);
    stage_deliver(leader, follower, 0);
    follower->heard.size = 0;
    stage_pump();
    assert_int_equal(stage_count(leader).taken, 100);
    assert_int_equal(stage_count(leader).late, 900);
}

/* --- answers that find no room ----------------------------------------------------------------------- */

static void answers_wait_for_room(void **state)
{
    (void)state;
    stage_open_both();
    leader->answer = success;
    leader->room = 200;
    for (unsigned i = 0; i < 40; i++)
        stage_invoke(follower, "echo", i % 2 ? "odd" : "even", 0, i);
    stage_deliver(follower, leader, 0);
    leader->heard.size = 0;
    assert_in_range(leader->sent.size, 1, 200);
    assert_true(znl_cluster_link_queued(leader->link) > 200);
    unsigned rounds = 0;
    while (leader->link->kept.size > 0 && rounds < 40) {
        stage_deliver(leader, follower, 0);
        assert_int_equal(push(0), 0); /* whole packets come between */
        znl_cluster_link_writable(leader->link);
        rounds++;
    }
    assert_in_range(rounds, 5, 39);
    stage_deliver(leader, follower, 0);
    assert_int_equal(stage_count(follower).answers, 40);
}

static void answers_that_waited_are_whole(void **state)
{
    (void)state;
    char expected[2000];
    size_t size = 0;
    stage_open_both();
    leader->answer = success;
    leader->room = 300;
    for (unsigned i = 0; i < 40; i++) {
        stage_invoke(follower, "echo", i % 2 ? "odd" : "even", 0, i);
        size += (size_t)snprintf(expected + size, sizeof expected - size,
                "answer %u success %s\n", i, i % 2 ? "odd" : "even");
    }
    stage_deliver(follower, leader, 0);
    leader->heard.size = 0;
    while (stage_deliver(leader, follower, 0) > 0)
        znl_cluster_link_writable(leader->link);
    assert_heard(follower, expected);
    assert_int_equal(leader->link->kept.capacity, 0);
    assert_int_equal(stage_count(leader).sent, 40);
}

static void answers_that_cannot_leave_end_the_connection(void **state)
{
    (void)state;
    stage_open_both();
    leader->answer = success;
    leader->room = 100;
    for (unsigned i = 0; i < 4; i++)
        stage_invoke(follower, "echo", "x", 0, i);
    stage_deliver(follower, leader, 0);
    leader->heard.size = 0;
    stage_deliver(leader, follower, 0);
    leader->fails_reserve = 1; /* and then the carrier is empty: it never calls again */
    znl_cluster_link_writable(leader->link);
    assert_heard(leader, "broken NO_MEMORY no memory for the answers that wait\n");
    znl_cluster_link_writable(leader->link);
    assert_heard(leader, "");
}

static void who_asks_and_does_not_read_is_cut_off(void **state)
{
    (void)state;
    enum { SIZE = 1 << 20 };
    uint8_t *big = calloc(1, SIZE);
    stage_open_both();
    leader->room = 100;
    unsigned kept = 0;
    int err;
    assert_int_equal(push(0), 0);
    while ((err = znl_cluster_link_answer(
                    leader->link, 1, 0, &success, znl_frame_of(big, SIZE))) == 0)
        kept++;
    assert_int_equal(err, ZNL_E_BUSY);
    assert_in_range(kept, ZNL_STREAM_QUEUE_BYTES_DEFAULT / SIZE - 1,
            ZNL_STREAM_QUEUE_BYTES_DEFAULT / SIZE);
    assert_int_equal(
            znl_cluster_link_answer(leader->link, 1, 0, &success, TEXT("x")), ZNL_E_BUSY);
    assert_heard(leader, ""); /* not from inside the call */
    stage_turn();
    assert_heard(leader, "broken BUSY the peer asks and does not read the answers\n");
    stage_turn();
    assert_heard(leader, "");
    free(big);
}

/* --- heartbeats -------------------------------------------------------------------------------------- */

static void heartbeats_keep_a_connection_alive(void **state)
{
    (void)state;
    stage_options.heartbeat_ms = 1000;
    stage_open_both();
    stage_pass(900);
    assert_sent(follower, "(nothing)"); /* not registered */
    znl_cluster_link_beat(follower->link);
    stage_invoke(follower, "slow", "", 0, 1); /* beats go on while calls wait */
    stage_pump();
    leader->heard.size = 0;
    for (unsigned i = 1; i <= 20; i++) {
        stage_pass(1000);
        stage_pump();
        assert_int_equal(stage_count(leader).heartbeats, i);
    }
    assert_int_equal(stage_count(follower).late, 0);
    assert_heard(leader, "");
    assert_heard(follower, "");
}

static void heartbeats_as_they_are_sent(void **state)
{
    (void)state;
    stage_options.heartbeat_ms = 1000;
    stage_options.timeout_ms = 3000;
    stage_open_both();
    znl_cluster_link_beat(follower->link);
    stage_pass(1000);
    assert_sent(follower, "request 1 3000 {\"type\":\"heartbeat\"}");
    stage_receive_packet(leader, 0, 77, 5000, "{\"type\":\"heartbeat\"}", NULL);
    assert_sent(leader, "response 77 5000 {\"type\":\"heartbeat_res\"}");
}

static void a_silent_leader_is_noticed(void **state)
{
    (void)state;
    stage_options.heartbeat_ms = 1000;
    stage_open_both();
    znl_cluster_link_beat(follower->link);
    stage_pass(1000);
    stage_pump();
    stage_pass(500);
    stage_receive_packet(follower, 1, 999, 0, "{\"type\":\"x\"}", NULL); /* any byte counts */
    stage_pass(1500);
    assert_heard(follower, "");
    stage_pass(1000);
    assert_heard(follower, "broken TIMEOUT the peer sent nothing for 2500 ms\n");
    stage_pass(10000);
    assert_heard(follower, "");
}

static void a_silent_follower_is_noticed(void **state)
{
    (void)state;
    stage_options.heartbeat_ms = 1000;
    stage_open_both();
    stage_pass(2500);
    stage_receive_packet(leader, 0, 1, 0, "{}", NULL);
    stage_pass(3400);
    assert_heard(leader, "");
    stage_pass(100);
    assert_heard(leader, "broken TIMEOUT the peer sent nothing for 3500 ms\n");
}

static void silence_is_not_noticed_unless_wanted(void **state)
{
    (void)state;
    stage_open(leader);
    stage_pass(200000); /* no channel */
    znl_cluster_link_configure(leader->link, 1000, 0);
    stage_pass(200000);
    znl_cluster_link_configure(leader->link, 0, 1);
    stage_pass(200000);
    assert_heard(leader, "");
}

/* The process was stopped: what the peer sent meanwhile is still in the socket. */
static void a_stall_of_this_process_is_not_silence(void **state)
{
    (void)state;
    stage_options.heartbeat_ms = 1000;
    stage_open_both();
    znl_cluster_link_beat(follower->link);
    for (int i = 0; i < 3; i++) {
        znl_clock_advance(20000);
        znl_loop_clock_changed(stage_loop);
        znl_wheel_advance(znl_loop_wheel(stage_loop), znl_loop_now_ms(stage_loop));
        assert_heard(leader, "");
        assert_heard(follower, "");
        stage_pump();
    }
    stage_pass(2900);
    follower->sent.size = 0;
    assert_heard(leader, "");
}

static void a_heartbeat_waits_for_room(void **state)
{
    (void)state;
    stage_options.heartbeat_ms = 1000;
    stage_open_both();
    znl_cluster_link_beat(follower->link);
    stage_invoke(follower, "m", "", 0, 1);
    follower->room = 1;
    stage_pass(1000);
    stage_pump();
    leader->heard.size = 0;
    assert_int_equal(stage_count(leader).heartbeats, 0);
    znl_cluster_link_writable(follower->link);
    stage_pump();
    assert_int_equal(stage_count(leader).heartbeats, 1);
}

/* --- holding ----------------------------------------------------------------------------------------- */

static void hold_at_register(stage_end *end, const char *event)
{
    if (strcmp(event, "register") == 0)
        znl_cluster_link_hold(end->link, 1);
}

static void what_arrives_while_held_comes_later(void **state)
{
    (void)state;
    const znl_cluster_message hello = {.kind = ZNL_CLUSTER_REGISTER, .channel = TEXT("c")};
    stage_options.heartbeat_ms = 1000;
    for (size_t piece = 0; piece < 100; piece += 13) {
        stage_open_both();
        leader->react = hold_at_register;
        znl_cluster_link_tell(follower->link, &hello, NONE, 0, 0);
        stage_invoke(follower, "one", "x", 0, 1);
        stage_invoke(follower, "two", "x", 0, 2);
        stage_deliver(follower, leader, piece);
        stage_invoke(follower, "three", "x", 0, 3);
        stage_deliver(follower, leader, piece);
        assert_heard(leader, "register c\n");
        stage_pass(20000); /* who is not listened to is not silent */
        assert_heard(leader, "");
        leader->react = NULL;
        znl_cluster_link_hold(leader->link, 0);
        assert_heard(leader, ""); /* from the loop */
        stage_invoke(follower, "four", "x", 0, 4);
        stage_deliver(follower, leader, 0); /* before that: stays behind it */
        stage_turn();
        assert_heard(leader, "invoke one x\ninvoke two x\ninvoke three x\ninvoke four x\n");
        stage_invoke(follower, "five", "x", 0, 5);
        stage_deliver(follower, leader, piece);
        assert_heard(leader, "invoke five x\n");
        stage_clear(NULL);
        stage_prepare(NULL);
        stage_options.heartbeat_ms = 1000;
    }
}

static void hold_again(stage_end *end, const char *event)
{
    (void)event;
    znl_cluster_link_hold(end->link, 1);
}

static void one_by_one_when_held_each_time(void **state)
{
    (void)state;
    stage_open_both();
    leader->react = hold_again;
    for (unsigned i = 0; i < 5; i++)
        stage_invoke(follower, "m", "x", 0, i);
    stage_deliver(follower, leader, 0);
    for (unsigned i = 0; i < 5; i++) {
        assert_heard(leader, "invoke m x\n");
        znl_cluster_link_hold(leader->link, 0);
        stage_turn();
    }
    assert_heard(leader, "");
}

static void what_is_held_is_bounded(void **state)
{
    (void)state;
    static const uint8_t zeroes[600];
    stage_options.max_bytes = 1000;
    stage_open_both();
    znl_cluster_link_hold(leader->link, 1);
    stage_receive(leader, zeroes, 600);
    assert_heard(leader, "");
    stage_receive(leader, zeroes, 600);
    assert_heard(leader, "broken LIMIT the peer sends too much before it is listened to\n");
    znl_cluster_link_hold(leader->link, 0);
    stage_turn();
    assert_heard(leader, "");
}

/* --- closed from inside ------------------------------------------------------------------------------ */

static void close_at_any(stage_end *end, const char *event)
{
    (void)event;
    znl_cluster_link_close(end->link, ZNL_E_GONE);
}

static void the_link_may_be_closed_inside_any_event(void **state)
{
    (void)state;
    stage_open_both();
    leader->react = follower->react = close_at_any;
    leader->answer = success;
    stage_invoke(follower, "a", "x", 0, 1);
    stage_invoke(follower, "b", "x", 0, 2);
    stage_deliver(follower, leader, 0);
    assert_heard(leader, "invoke a x\n"); /* and not the other */
    assert_sent(leader, "(nothing)");
    stage_receive_packet(
            follower, 1, 1, 0, "{\"type\":\"invoke_result\",\"success\":true}", "r");
    assert_heard(follower, "answer 1 success r\nfailed 2 GONE\n");
    stage_clear(NULL);

    stage_prepare(NULL);
    stage_open_both();
    follower->react = close_at_any;
    stage_invoke(follower, "a", "x", 10, 1);
    stage_invoke(follower, "b", "x", 10, 2);
    stage_pass(20);
    assert_heard(follower, "failed 1 TIMEOUT\nfailed 2 GONE\n");
    stage_clear(NULL);

    stage_prepare(NULL);
    stage_open_both();
    follower->react = close_at_any;
    stage_receive_packet(follower, 0, 1, 0, value_text, "v");
    assert_heard(follower, "value k v\n");
    leader->react = close_at_any;
    stage_receive_packet(leader, 0, 1, 0, "[]", "v");
    assert_heard(leader, "broken PROTO the text of a packet is not a JSON object\n");
}

static void ask_again(stage_end *end, const char *event)
{
    const znl_cluster_message invoke = {.kind = ZNL_CLUSTER_INVOKE, .method = TEXT("again")};
    int err = znl_cluster_link_ask(end->link, &invoke, NONE, 10, (znl_waiter){end, 9}, NULL);
    assert_int_equal(err, strcmp(event, "failed") == 0 ? ZNL_E_CLOSED : 0);
}

static void events_may_ask_again(void **state)
{
    (void)state;
    stage_open_both();
    leader->answer = success;
    follower->react = ask_again;
    for (unsigned i = 0; i < 8; i++) /* the ring grows inside an event */
        stage_invoke(follower, "m", "x", 0, i);
    for (unsigned i = 0; i < 50; i++) {
        stage_deliver(follower, leader, 0);
        leader->heard.size = 0;
        stage_deliver(leader, follower, 0);
        follower->heard.size = 0;
        assert_int_equal(znl_cluster_link_pending(follower->link), 8);
    }
    znl_cluster_link_close(follower->link, ZNL_E_CLOSED);
}

/* --- memory ------------------------------------------------------------------------------------------ */

static void memory_ends_anywhere(void **state)
{
    (void)state;
    const znl_cluster_message invoke = {.kind = ZNL_CLUSTER_INVOKE, .method = TEXT("m")};
    int is_clean = 0;
    for (long n = 0; !is_clean; n++) {
        assert_in_range(n, 0, 200);
        stage_clear(NULL);
        stage_prepare(NULL);
        stage_open_both();
        leader->answer = success;
        leader->room = 1;
        unsigned asked = 0;
        int err = 0;
        assert_int_equal(znl_buffer_extend(&leader->heard, 4096), 0);
        assert_int_equal(znl_buffer_extend(&follower->heard, 4096), 0);
        znl_alloc_fail_after(n);
        for (unsigned i = 0; i < 20 && err == 0; i++) {
            err = znl_cluster_link_ask(
                    follower->link, &invoke, TEXT("x"), 10, (znl_waiter){follower, i}, NULL);
            asked += err == 0;
        }
        stage_deliver(follower, leader, 7);
        stage_deliver(leader, follower, 0);
        int was_pushed = push(10) == 0;
        znl_cluster_link_writable(leader->link);
        is_clean = err == 0 && was_pushed && znl_alloc_count() <= n;
        znl_alloc_fail_after(-1);
        /* What is lost, is lost; every call ends all the same. */
        leader->room = 0;
        znl_cluster_link_writable(leader->link);
        stage_pump();
        stage_pass(20);
        znl_cluster_link_counters counters = stage_count(follower);
        assert_int_equal(counters.asked, asked);
        assert_int_equal(counters.answers + counters.timeouts, asked);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_prepare, stage_clear)
            TEST(a_call_and_its_answer),
            TEST(packets_as_they_are_sent),
            TEST(what_kills_an_original_is_not_sent),
            TEST(answers_come_in_any_order),
            TEST(bytes_may_come_one_by_one),
            TEST(a_call_that_is_not_answered_ends),
            TEST(who_gives_up_hears_nothing),
            TEST(nobody_is_told_without_an_owner),
            TEST(all_that_wait_fail_at_the_end),
            TEST(limits_of_asking),
            TEST(the_ring_grows_and_leaves_old_ones_alone),
            TEST(what_is_no_packet_breaks_the_connection),
            TEST(texts_that_cannot_be_read_break_the_connection),
            TEST(a_stranger_may_send_little),
            TEST(requests_of_no_use_are_ignored),
            TEST(values_are_acknowledged),
            TEST(a_value_without_data_is_acknowledged_only),
            TEST(acknowledgements_find_their_value),
            TEST(who_never_acknowledges_costs_bounded_memory),
            TEST(answers_wait_for_room),
            TEST(answers_that_waited_are_whole),
            TEST(answers_that_cannot_leave_end_the_connection),
            TEST(who_asks_and_does_not_read_is_cut_off),
            TEST(heartbeats_keep_a_connection_alive),
            TEST(heartbeats_as_they_are_sent),
            TEST(a_silent_leader_is_noticed),
            TEST(a_silent_follower_is_noticed),
            TEST(silence_is_not_noticed_unless_wanted),
            TEST(a_stall_of_this_process_is_not_silence),
            TEST(a_heartbeat_waits_for_room),
            TEST(what_arrives_while_held_comes_later),
            TEST(one_by_one_when_held_each_time),
            TEST(what_is_held_is_bounded),
            TEST(the_link_may_be_closed_inside_any_event),
            TEST(events_may_ask_again),
            TEST(memory_ends_anywhere),
    };
    if (znl_random_start() != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
