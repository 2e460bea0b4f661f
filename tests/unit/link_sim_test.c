/* link_sim_test.c - what only links of link_sim.c can show: faults, and exact times and counts, by a
 * clock that stands still. What they share with other links is in link_test.c.
 * SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "transport/link.h"
#include "transport/link_sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#define NAME "sim://test"
#define KEPT 4000

struct end {
    znl_loop *loop;
    znl_link *link;
    size_t received;
    unsigned numbers[KEPT]; /* of the messages, in the order of arrival */
    uint64_t arrived_ms[KEPT];
    size_t writable;
    int is_sending;
    uint8_t peer[ZNL_ID_BYTES_MAX];
    size_t peer_size;
    int echoes;
};

static int send_number(struct end *end, const char *to, unsigned number)
{
    char text[16];
    int size = snprintf(text, sizeof text, "%u", number);
    znl_frame frames[] = {znl_frame_text(to), znl_frame_of(text, (size_t)size)};
    end->is_sending = 1;
    int err = to[0] == '\0' ? znl_link_send(end->link, frames + 1, 1)
                            : znl_link_send(end->link, frames, 2);
    end->is_sending = 0;
    return err;
}

static void on_message(void *user, const znl_frame *frames, size_t count)
{
    struct end *end = user;
    char text[16] = {0};
    assert_false(end->is_sending);
    assert_in_range(frames[count - 1].size, 1, sizeof text - 1);
    memcpy(text, frames[count - 1].data, frames[count - 1].size);
    if (end->received < KEPT) {
        unsigned number = 0;
        assert_int_equal(sscanf(text, "%u", &number), 1);
        end->numbers[end->received] = number;
        end->arrived_ms[end->received] = znl_loop_now_ms(end->loop);
    }
    end->received++;
    if (count == 2) {
        memcpy(end->peer, frames[0].data, frames[0].size);
        end->peer_size = frames[0].size;
    }
    if (end->echoes)
        assert_int_equal(znl_link_send(end->link, frames, count), 0);
}

static void on_writable(void *user)
{
    struct end *end = user;
    end->writable++;
    znl_link_want_writable(end->link, 0);
}

static void open_end(
        struct end *end, znl_loop *loop, int is_router, const char *id, uint32_t hwm)
{
    static const znl_link_events events = {
            .on_message = on_message, .on_writable = on_writable};
    const znl_link_options options = {
            .is_router = is_router,
            .endpoint = NAME,
            .routing_id = znl_frame_text(id),
            .send_hwm = hwm,
            .recv_hwm = hwm,
            .max_frame_bytes = ZNL_FRAME_BYTES_DEFAULT,
            .max_frames = ZNL_FRAMES_DEFAULT,
            .max_message_bytes = ZNL_MESSAGE_BYTES_DEFAULT,
    };
    end->loop = loop;
    assert_int_equal(znl_link_open(&end->link, loop, &options, &events, end), 0);
}

static void stop_loop(void *user)
{
    znl_loop_stop(user);
}

/* Lets `ms` pass, and everything happen that is due meanwhile. */
static void pass(znl_loop *loop, uint64_t ms)
{
    assert_int_equal(znl_loop_advance(loop, ms, stop_loop, loop), 0);
    znl_loop_run(loop);
}

/* The loop, a router and a dealer named "d", connected. */
static struct end router, dealer;

static int setup(void **state)
{
    znl_loop *loop = NULL;
    znl_clock_freeze(-1);
    assert_int_equal(znl_loop_new(&loop), 0);
    memset(&router, 0, sizeof router);
    memset(&dealer, 0, sizeof dealer);
    open_end(&router, loop, 1, "", 1000);
    open_end(&dealer, loop, 0, "d", 1000);
    pass(loop, 0);
    *state = loop;
    return 0;
}

static int teardown(void **state)
{
    znl_loop *loop = *state;
    znl_link_close(router.link, 0);
    znl_link_close(dealer.link, 0);
    assert_int_equal(znl_loop_run(loop), 0); /* ends: nothing is alive */
    assert_int_equal(znl_loop_close(loop), 0);
    znl_clock_thaw();
    return 0;
}

static void messages_arrive_in_order_and_never_inside_a_call(void **state)
{
    router.echoes = 1;
    for (unsigned i = 0; i < 500; i++)
        assert_int_equal(send_number(&dealer, "", i), 0);
    assert_int_equal(router.received, 0);
    pass(*state, 0);
    assert_int_equal(router.received, 500);
    assert_int_equal(dealer.received, 500);
    for (unsigned i = 0; i < 500; i++)
        assert_int_equal(dealer.numbers[i], i);
}

static void queue_holds_send_hwm_messages(void **state)
{
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(send_number(&dealer, "", i), 0);
    assert_int_equal(send_number(&dealer, "", 1000), ZNL_E_BUSY);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(send_number(&router, "d", i), 0);
    assert_int_equal(send_number(&router, "d", 1000), ZNL_E_BUSY);
    znl_link_want_writable(dealer.link, 1);
    znl_link_want_writable(router.link, 1);
    pass(*state, 10);
    assert_int_equal(dealer.writable, 1);
    assert_int_equal(router.writable, 1);
    assert_int_equal(router.received, 1000);
    assert_int_equal(send_number(&dealer, "", 1000), 0);
    pass(*state, 0);
    assert_int_equal(router.received, 1001);
}

static void delay_holds_the_instant_and_jitter_the_order(void **state)
{
    znl_loop *loop = *state;
    const znl_sim_faults delay = {.delay_ms = 70};
    const znl_sim_faults jitter = {.delay_ms = 10, .jitter_ms = 50, .seed = 7};
    assert_int_equal(znl_sim_set_faults(loop, NAME, &delay), 0);
    uint64_t start_ms = znl_loop_now_ms(loop);
    assert_int_equal(send_number(&dealer, "", 0), 0);
    assert_int_equal(send_number(&router, "d", 1), 0);
    pass(loop, 69);
    assert_int_equal(router.received + dealer.received, 0);
    pass(loop, 1);
    assert_int_equal(router.received + dealer.received, 2);
    assert_int_equal(router.arrived_ms[0] - start_ms, 70);

    assert_int_equal(znl_sim_set_faults(loop, NAME, &jitter), 0);
    start_ms = znl_loop_now_ms(loop);
    for (unsigned i = 1; i <= 200; i++)
        assert_int_equal(send_number(&dealer, "", i), 0);
    pass(loop, 100);
    assert_int_equal(router.received, 201);
    for (unsigned i = 1; i <= 200; i++)
        assert_int_equal(router.numbers[i], i);
    assert_in_range(router.arrived_ms[1] - start_ms, 10, 60);
    assert_in_range(router.arrived_ms[200] - start_ms, 50, 60);
}

static size_t drop_some(znl_loop *loop, uint64_t seed, unsigned *sum)
{
    const znl_sim_faults faults = {.drop_permille = 300, .seed = seed};
    size_t before = router.received;
    *sum = 0;
    assert_int_equal(znl_sim_set_faults(loop, NAME, &faults), 0);
    for (unsigned i = 0; i < 900; i++)
        assert_int_equal(send_number(&dealer, "", i), 0);
    pass(loop, 0);
    for (size_t i = before; i < router.received; i++)
        *sum = *sum * 31 + router.numbers[i];
    return router.received - before;
}

static void seed_decides_what_is_dropped(void **state)
{
    unsigned first, second, other;
    size_t count = drop_some(*state, 1, &first);
    assert_in_range(count, 540, 720);
    assert_int_equal(drop_some(*state, 1, &second), count);
    assert_int_equal(first, second);
    drop_some(*state, 2, &other);
    assert_true(other != first);
}

static void partition_holds_messages_and_keeps_connections_away(void **state)
{
    znl_loop *loop = *state;
    znl_frame all = znl_frame_of(NULL, 0);
    static struct end late;
    memset(&late, 0, sizeof late);
    assert_int_equal(send_number(&dealer, "", 0), 0); /* under way: held as well */
    assert_int_equal(znl_sim_partition(loop, NAME, all, 1), 0);
    for (unsigned i = 1; i < 1000; i++)
        assert_int_equal(send_number(&dealer, "", i), 0);
    assert_int_equal(send_number(&dealer, "", 1000), ZNL_E_BUSY);
    assert_int_equal(send_number(&router, "d", 5), 0);
    open_end(&late, loop, 0, "late", 10);
    pass(loop, 5000);
    assert_int_equal(router.received + dealer.received, 0);
    assert_int_equal(send_number(&late, "", 1), ZNL_E_BUSY);
    assert_int_equal(znl_sim_partition(loop, NAME, all, 0), 0);
    pass(loop, 0);
    assert_int_equal(router.received, 1000);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(router.numbers[i], i);
    assert_int_equal(dealer.received, 1);
    pass(loop, ZNL_RECONNECT_MS);
    assert_int_equal(send_number(&late, "", 1), 0);
    znl_link_close(late.link, 0);
}

static void partition_of_one_peer_leaves_others_alone(void **state)
{
    znl_loop *loop = *state;
    static struct end other;
    memset(&other, 0, sizeof other);
    open_end(&other, loop, 0, "other", 10);
    pass(loop, 0);
    assert_int_equal(znl_sim_partition(loop, NAME, znl_frame_text("d"), 1), 0);
    assert_int_equal(send_number(&dealer, "", 1), 0);
    assert_int_equal(send_number(&other, "", 2), 0);
    pass(loop, 1000);
    assert_int_equal(router.received, 1);
    assert_int_equal(router.numbers[0], 2);
    znl_sim_reset(loop);
    pass(loop, 0);
    assert_int_equal(router.received, 2);
    znl_link_close(other.link, 0);
}

static void disconnected_dealer_comes_back_by_itself(void **state)
{
    znl_loop *loop = *state;
    assert_int_equal(send_number(&dealer, "", 1), 0);
    assert_int_equal(znl_sim_disconnect(loop, NAME, znl_frame_text("nobody")), 0);
    assert_int_equal(znl_sim_disconnect(loop, NAME, znl_frame_text("d")), 1);
    assert_int_equal(send_number(&dealer, "", 2), ZNL_E_BUSY);
    assert_int_equal(send_number(&router, "d", 3), ZNL_E_UNREACHABLE);
    znl_link_want_writable(dealer.link, 1);
    pass(loop, ZNL_RECONNECT_MS - 1);
    assert_int_equal(dealer.writable, 0);
    pass(loop, 1);
    assert_int_equal(dealer.writable, 1);
    assert_int_equal(send_number(&dealer, "", 4), 0);
    pass(loop, 0);
    assert_int_equal(router.received, 1); /* what was under way is lost */
    assert_int_equal(router.numbers[0], 4);
}

static void dealers_of_one_name_take_it_from_each_other(void **state)
{
    znl_loop *loop = *state;
    static struct end twin;
    memset(&twin, 0, sizeof twin);
    open_end(&twin, loop, 0, "d", 10);
    pass(loop, 0);
    assert_int_equal(send_number(&router, "d", 1), 0);
    pass(loop, ZNL_RECONNECT_MS);
    assert_int_equal(twin.received, 1);
    assert_int_equal(send_number(&router, "d", 2), 0);
    pass(loop, 0);
    assert_int_equal(dealer.received, 1);
    znl_link_close(twin.link, 0);
}

static void dealer_without_a_name_is_given_one(void **state)
{
    znl_loop *loop = *state;
    static struct end nameless;
    memset(&nameless, 0, sizeof nameless);
    open_end(&nameless, loop, 0, "", 10);
    pass(loop, 0);
    assert_int_equal(send_number(&nameless, "", 1), 0);
    router.echoes = 1;
    pass(loop, 0);
    assert_int_equal(router.peer_size, 5);
    assert_int_equal(router.peer[0], 0);
    assert_int_equal(nameless.received, 1);
    znl_link_close(nameless.link, 0);
}

static void lingering_covers_what_arrives_in_time(void **state)
{
    znl_loop *loop = *state;
    const znl_sim_faults slow = {.delay_ms = 100};
    assert_int_equal(znl_sim_set_faults(loop, NAME, &slow), 0);
    assert_int_equal(send_number(&dealer, "", 1), 0);
    pass(loop, 50);
    assert_int_equal(send_number(&dealer, "", 2), 0);
    znl_link_close(dealer.link, 60);
    dealer.link = NULL;
    assert_int_equal(send_number(&router, "d", 3), ZNL_E_UNREACHABLE);
    pass(loop, 1000);
    assert_int_equal(router.received, 1);
    assert_int_equal(router.numbers[0], 1);
}

static void faults_are_refused_for_other_endpoints(void **state)
{
    const znl_sim_faults none = {0};
    char long_id[ZNL_ID_BYTES_MAX + 1] = {'x'};
    assert_int_equal(znl_sim_set_faults(*state, "tcp://127.0.0.1:1", &none), ZNL_E_ADDRESS);
    assert_int_equal(
            znl_sim_partition(*state, "sim://", znl_frame_of(NULL, 0), 1), ZNL_E_ADDRESS);
    assert_int_equal(znl_sim_partition(*state, NAME, znl_frame_of(long_id, sizeof long_id), 1),
            ZNL_E_TOO_BIG);
}

static void no_memory_is_an_error_of_the_call_and_nothing_is_lost(void **state)
{
    const znl_sim_faults faults = {.delay_ms = 1};
    assert_int_equal(send_number(&dealer, "", 1), 0);
    znl_alloc_fail_after(0);
    int sent = send_number(&dealer, "", 2);
    int set = znl_sim_set_faults(*state, NAME, &faults);
    int cut = znl_sim_partition(*state, NAME, znl_frame_of(NULL, 0), 1);
    znl_alloc_fail_after(-1);
    assert_int_equal(sent, ZNL_E_NOMEM);
    assert_int_equal(set, ZNL_E_NOMEM);
    assert_int_equal(cut, ZNL_E_NOMEM);
    assert_int_equal(send_number(&dealer, "", 3), 0);
    pass(*state, 0);
    assert_int_equal(router.received, 2);
    assert_int_equal(router.numbers[1], 3);
    /* Connecting without memory is tried again. */
    znl_sim_disconnect(*state, NAME, znl_frame_of(NULL, 0));
    znl_alloc_fail_after(0);
    pass(*state, ZNL_RECONNECT_MS);
    znl_alloc_fail_after(-1);
    assert_int_equal(send_number(&dealer, "", 4), ZNL_E_BUSY);
    pass(*state, ZNL_RECONNECT_MS);
    assert_int_equal(send_number(&dealer, "", 4), 0);
}

#define SIM_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            SIM_TEST(messages_arrive_in_order_and_never_inside_a_call),
            SIM_TEST(queue_holds_send_hwm_messages),
            SIM_TEST(delay_holds_the_instant_and_jitter_the_order),
            SIM_TEST(seed_decides_what_is_dropped),
            SIM_TEST(partition_holds_messages_and_keeps_connections_away),
            SIM_TEST(partition_of_one_peer_leaves_others_alone),
            SIM_TEST(disconnected_dealer_comes_back_by_itself),
            SIM_TEST(dealers_of_one_name_take_it_from_each_other),
            SIM_TEST(dealer_without_a_name_is_given_one),
            SIM_TEST(lingering_covers_what_arrives_in_time),
            SIM_TEST(faults_are_refused_for_other_endpoints),
            SIM_TEST(no_memory_is_an_error_of_the_call_and_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
