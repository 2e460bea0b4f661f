/* slave_failover_test.c - a slave with several endpoints goes from master to master, by a clock that stands still.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/random.h"
#include "node/master.h"
#include "node/slave.h"
#include "transport/link_sim.h"

#define TEXT(text) znl_frame_of(text, sizeof text - 1)
#define KEY "the key"
#define ACK_MS 3000

static const char *const endpoints[] = {"sim://first", "sim://second", "sim://third"};
static const char *const ids[] = {"m1", "m2", "m3"};
static const znl_waiter waiter = {NULL, 7};
static const znl_frame nothing = {NULL, 0};

static znl_loop *loop;
static znl_master *masters[3];
static znl_slave *slave;
/* What the slave reported. */
static struct {
    unsigned online, offline, failures, refusals;
    int err, reason;
    char why[32];
} heard;
static unsigned pushes[3];

static void on_request(void *user, const znl_message *message)
{
    (void)user;
    (void)message;
}

static void on_reply(void *user, znl_waiter who, const znl_message *message)
{
    (void)user;
    (void)who;
    (void)message;
}

static void on_failed(void *user, znl_waiter who, int err)
{
    (void)user;
    assert_int_equal(who.ticket, waiter.ticket);
    heard.failures++;
    heard.err = err;
}

static void on_message(void *user, const znl_message *message)
{
    if (user != NULL && message->kind == ZNL_KIND_PUSH)
        ++*(unsigned *)user;
}

static void on_raw(void *user, znl_frame peer, const znl_frame *frames, size_t count)
{
    (void)user;
    (void)peer;
    (void)frames;
    (void)count;
}

static void on_peer(void *user, znl_frame id, int online, const char *reason)
{
    (void)id;
    if (user != NULL) /* a master */
        return;
    heard.online += online != 0;
    heard.offline += online == 0;
    if (!online) {
        strncpy(heard.why, reason, sizeof heard.why - 1);
    }
}

static void on_auth_failed(void *user, znl_frame peer, znl_kind kind, int reason)
{
    (void)peer;
    (void)kind;
    if (user != NULL)
        return;
    heard.refusals++;
    heard.reason = reason;
}

static void on_trouble(void *user, int err, const char *text)
{
    (void)user;
    (void)err;
    (void)text;
}

static const znl_node_events events = {on_request, on_reply, on_failed, on_message, on_raw,
        on_peer, on_auth_failed, on_trouble};

static znl_node_options options_of(const char *id, const char *endpoint, const char *key)
{
    return (znl_node_options){
            .id = znl_frame_text(id),
            .endpoint = endpoint,
            .encrypted = key != NULL,
            .secret = key != NULL ? znl_frame_text(key) : nothing,
            .heartbeat_ms = 1000,
            .heartbeat_timeout_ms = ACK_MS,
            .max_skew_ms = ZNL_SKEW_MS_DEFAULT,
            .replay_window_ms = ZNL_REPLAY_WINDOW_MS_DEFAULT,
            .start_allowance_ms = ZNL_SKEW_MS_DEFAULT,
            .max_peers = 10,
            .max_replay_nonces = 10000,
            .max_frame_bytes = 100000,
            .max_frames = 100,
            .max_message_bytes = 100000,
            .send_hwm = 100,
            .recv_hwm = 100,
            .outbox_messages = 10,
            .outbox_bytes = 100000,
    };
}

static void stop_loop(void *user)
{
    znl_loop_stop(user);
}

static void pass(uint64_t ms)
{
    assert_int_equal(znl_loop_advance(loop, ms, stop_loop, loop), 0);
    znl_loop_run(loop);
}

static void open_master(size_t which, const char *key)
{
    znl_node_options options = options_of(ids[which], endpoints[which], key);
    assert_int_equal(
            znl_master_new(&masters[which], loop, &options, &events, &pushes[which]), 0);
    assert_int_equal(znl_master_start(masters[which]), 0);
}

static void kill_master(size_t which)
{
    znl_master_free(masters[which]);
    masters[which] = NULL;
}

static void make_slave(const char *key, const znl_frame *believed, size_t believed_count)
{
    znl_node_options options = options_of("one", "", key);
    options.endpoints = endpoints;
    options.endpoint_count = 3;
    options.master_ids = believed;
    options.master_id_count = believed_count;
    assert_int_equal(znl_slave_new(&slave, loop, &options, &events, NULL), 0);
}

static void open_slave(const char *key)
{
    make_slave(key, NULL, 0);
    assert_int_equal(znl_slave_start(slave), 0);
    pass(0);
}

static size_t slaves_of(size_t which)
{
    return znl_presence_count(znl_master_presence(masters[which]));
}

static const char *place(void)
{
    return znl_slave_node(slave)->options.endpoint;
}

static int begin(void **state)
{
    (void)state;
    memset(&heard, 0, sizeof heard);
    memset(pushes, 0, sizeof pushes);
    znl_clock_freeze(1700000000000);
    assert_int_equal(znl_loop_new(&loop), 0);
    return 0;
}

static int end(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++)
        kill_master(i);
    znl_slave_free(slave);
    slave = NULL;
    znl_sim_reset(loop);
    assert_int_equal(znl_loop_run(loop), 0); /* ends: nothing is alive */
    assert_int_equal(znl_loop_close(loop), 0);
    znl_clock_thaw();
    return 0;
}

/* --- the tests --------------------------------------------------------------------------------- */

static void goes_to_the_next_when_the_connection_is_lost(void **state)
{
    (void)state;
    znl_frame body = TEXT("x");
    for (size_t i = 0; i < 3; i++)
        open_master(i, KEY);
    open_slave(KEY);
    assert_int_equal(heard.online, 1);
    assert_true(znl_frame_equal(znl_slave_master_id(slave), TEXT("m1")));
    assert_int_equal(znl_slave_request(slave, &body, 1, 60000, waiter), 0);
    pass(0);
    kill_master(0);
    pass(1);
    assert_int_equal(heard.failures, 0); /* it may be back in a moment */
    assert_int_equal(znl_slave_push(slave, TEXT("topic"), &body, 1), 0);
    pass(ZNL_FAILOVER_WAIT_MS + ZNL_FAILOVER_SPREAD_MS);
    assert_string_equal(place(), endpoints[1]);
    assert_string_equal(heard.why, "connection lost");
    assert_int_equal(heard.online, 2);
    assert_true(znl_frame_equal(znl_slave_master_id(slave), TEXT("m2")));
    assert_int_equal(heard.failures, 1);
    assert_int_equal(heard.err, ZNL_E_REBUILT);
    assert_int_equal(slaves_of(1), 1);
    assert_int_equal(slaves_of(2), 0);
    assert_int_equal(pushes[1], 1); /* what waited went along */
    assert_int_equal(znl_slave_node(slave)->counters.failovers, 1);
    /* It does not leave a master that answers, whoever else is back. */
    open_master(0, KEY);
    pass(60000);
    assert_string_equal(place(), endpoints[1]);
    assert_int_equal(heard.offline, 1);
}

static void stays_when_the_same_master_is_back_first(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++)
        open_master(i, NULL);
    open_slave(NULL);
    assert_int_equal(znl_sim_disconnect(loop, endpoints[0], nothing), 1);
    pass(60000);
    assert_string_equal(place(), endpoints[0]);
    assert_int_equal(heard.offline, 0);
    assert_int_equal(znl_slave_node(slave)->counters.rebuilds, 0);
}

static void does_not_wait_long_for_who_was_never_there(void **state)
{
    (void)state;
    open_master(2, NULL);
    open_slave(NULL);
    assert_string_equal(place(), endpoints[0]);
    pass(2 * ZNL_FAILOVER_MS);
    assert_string_equal(place(), endpoints[2]);
    assert_int_equal(heard.online, 1);
}

static void leaves_a_master_that_is_silent(void **state)
{
    (void)state;
    open_master(0, NULL);
    open_master(1, NULL);
    open_slave(NULL);
    pass(1000);
    assert_int_equal(slaves_of(0), 1);
    assert_int_equal(znl_sim_partition(loop, endpoints[0], nothing, 1), 0);
    pass(ACK_MS - 1); /* the last heartbeat before had its answer */
    assert_string_equal(place(), endpoints[0]);
    pass(1000 + 1);
    assert_string_equal(place(), endpoints[1]);
    assert_string_equal(heard.why, "no heartbeat_ack");
    assert_int_equal(slaves_of(1), 1);
    /* The old one hears the goodbye when it goes on in time, and otherwise counts the silence. */
    assert_int_equal(znl_sim_partition(loop, endpoints[0], nothing, 0), 0);
    pass(ACK_MS + 1000);
    assert_int_equal(slaves_of(0), 0);
    assert_int_equal(slaves_of(1), 1);
}

static void goes_round_and_round_with_more_patience(void **state)
{
    (void)state;
    open_slave(NULL);
    pass(3 * ZNL_FAILOVER_MS);
    uint64_t first = znl_slave_node(slave)->counters.failovers;
    assert_in_range(first, 3, 4);
    pass(60000);
    uint64_t later = znl_slave_node(slave)->counters.failovers - first;
    /* 3 of a second, 3 of two, then of ACK_MS; a quarter less at most. */
    assert_in_range(later, 20, 29);
    open_master(1, NULL);
    pass(3 * ACK_MS);
    assert_string_equal(place(), endpoints[1]);
    assert_int_equal(heard.online, 1);
}

static void believes_nobody_without_the_key(void **state)
{
    (void)state;
    open_master(0, "another key");
    open_master(1, NULL);
    open_slave(KEY);
    pass(6 * ZNL_FAILOVER_MS);
    assert_int_equal(heard.online, 0);
    assert_int_equal(znl_slave_master_id(slave).size, 0);
    open_master(2, KEY);
    pass(3 * ACK_MS);
    assert_int_equal(heard.online, 1);
    assert_string_equal(place(), endpoints[2]);
    assert_true(znl_frame_equal(znl_slave_master_id(slave), TEXT("m3")));
}

static void believes_only_the_masters_it_was_told(void **state)
{
    (void)state;
    const znl_frame believed[] = {TEXT("m2"), TEXT("m3")};
    for (size_t i = 0; i < 3; i++)
        open_master(i, KEY);
    make_slave(KEY, believed, 2);
    assert_int_equal(znl_slave_start(slave), 0);
    pass(0);
    assert_int_equal(heard.online, 0);
    assert_true(heard.refusals > 0);
    assert_int_equal(heard.reason, ZNL_E_NODE_MISMATCH);
    pass(ZNL_FAILOVER_MS);
    assert_int_equal(heard.online, 1);
    assert_true(znl_frame_equal(znl_slave_master_id(slave), TEXT("m2")));
}

static void starts_at_the_first_again(void **state)
{
    (void)state;
    open_master(1, NULL);
    open_slave(NULL);
    pass(ZNL_FAILOVER_MS);
    assert_string_equal(place(), endpoints[1]);
    znl_slave_stop(slave);
    open_master(0, NULL);
    assert_int_equal(znl_slave_start(slave), 0);
    pass(0);
    assert_string_equal(place(), endpoints[0]);
    assert_int_equal(slaves_of(0), 1);
    assert_int_equal(slaves_of(1), 0);
}

static void refuses_what_cannot_work(void **state)
{
    (void)state;
    const char *const wrong[] = {"sim://first", "tcp://nowhere"};
    const char *many[ZNL_SLAVE_ENDPOINTS_MAX + 1];
    znl_node_options options = options_of("one", "", NULL);
    options.endpoints = endpoints;
    options.endpoint_count = 3;
    options.heartbeat_ms = 0;
    assert_int_equal(znl_slave_new(&slave, loop, &options, &events, NULL), ZNL_E_INVALID);
    options.heartbeat_ms = 1000;
    for (size_t i = 0; i <= ZNL_SLAVE_ENDPOINTS_MAX; i++)
        many[i] = endpoints[0];
    options.endpoints = many;
    options.endpoint_count = ZNL_SLAVE_ENDPOINTS_MAX + 1;
    assert_int_equal(znl_slave_new(&slave, loop, &options, &events, NULL), ZNL_E_LIMIT);
    options.endpoints = wrong;
    options.endpoint_count = 2;
    assert_int_equal(znl_slave_new(&slave, loop, &options, &events, NULL), 0);
    assert_int_equal(znl_slave_start(slave), ZNL_E_ADDRESS);
    assert_string_equal(place(), wrong[1]);
    assert_int_equal(znl_slave_node(slave)->running, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(
                    goes_to_the_next_when_the_connection_is_lost, begin, end),
            cmocka_unit_test_setup_teardown(
                    stays_when_the_same_master_is_back_first, begin, end),
            cmocka_unit_test_setup_teardown(
                    does_not_wait_long_for_who_was_never_there, begin, end),
            cmocka_unit_test_setup_teardown(leaves_a_master_that_is_silent, begin, end),
            cmocka_unit_test_setup_teardown(
                    goes_round_and_round_with_more_patience, begin, end),
            cmocka_unit_test_setup_teardown(believes_nobody_without_the_key, begin, end),
            cmocka_unit_test_setup_teardown(believes_only_the_masters_it_was_told, begin, end),
            cmocka_unit_test_setup_teardown(starts_at_the_first_again, begin, end),
            cmocka_unit_test_setup_teardown(refuses_what_cannot_work, begin, end),
    };
    if (znl_random_start() != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
