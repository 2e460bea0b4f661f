/* endpoint_test.c - where links can be bound and connected: ports, names, both families, paths.
 *
 * SPDX-License-Identifier: MIT */
#include "conformance/stage.h"
#include "conformance/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* A router bound at `bind` and a dealer at `connect`, in which %u is the port; they meet. */
static void meet_at(const pairing *pair, const char *bind, const char *connect)
{
    struct stage stage;
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
    stage_open(&stage, pair);
    znl_link_options options = router_options(&stage);
    options.endpoint = bind;
    struct end *router = stage_end(&stage, pair->router, options);
    const char *port = strrchr(router->endpoint, ':') + 1;
    if (strncmp(bind, "tcp:", 4) == 0)
        assert_in_range(strtoul(port, NULL, 10), 1, 65535);
    options = dealer_options(router, "a");
    if (connect != NULL) {
        snprintf(endpoint, sizeof endpoint, "%s:%s", connect, port);
        options.endpoint = endpoint;
    }
    struct end *dealer = stage_end(&stage, pair->dealer, options);
    ends_meet(router, dealer, "a");
    stage_close(&stage);
}

static void every_way_to_name_the_loopback_works(void **state)
{
    meet_at(*state, "tcp://127.0.0.1:*", NULL);
    meet_at(*state, "tcp://127.0.0.1:0", NULL);
    meet_at(*state, "tcp://*:*", "tcp://127.0.0.1");
    meet_at(*state, "tcp://0.0.0.0:*", "tcp://127.0.0.1");
    meet_at(*state, "tcp://0.0.0.0:*", "tcp://localhost");
    meet_at(*state, "tcp://[::1]:*", NULL);
    meet_at(*state, "tcp://[::1]:*", "tcp://[::1]");
    meet_at(*state, "tcp://[::]:*", "tcp://[::1]");
    meet_at(*state, "tcp://[::]:0", "tcp://127.0.0.1"); /* both families */
    meet_at(*state, "ipc://*", NULL);
}

/* The name of an interface; and "localhost", which libzmq only connects to. */
static void names_are_resolved(void **state)
{
    meet_at(*state, "tcp://lo:*", NULL);
    meet_at(*state, "tcp://localhost:*", "tcp://localhost");
}

/* A name that nobody knows is asked for again; the loop goes on meanwhile. */
static void unknown_names_are_no_error(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct end *other = stage_dealer(&stage, router, "other");
    znl_link_options options = dealer_options(router, "a");
    options.endpoint = "tcp://no-such-host.invalid:6003";
    struct end *dealer = stage_end(&stage, stage.pair->dealer, options);
    for (int i = 0; i < 20; i++) {
        znl_frame frame = znl_frame_text("hello");
        ends_meet(router, other, "other");
        assert_int_equal(end_send(dealer, &frame, 1), ZNL_E_BUSY);
        stage_turns(&stage, 10);
    }
    assert_int_equal(dealer->received + dealer->lost + dealer->refused, 0);
    stage_close(&stage);
}

static void errors_of_opening(void **state)
{
    const pairing *pair = *state;
    static const struct {
        const char *endpoint;
        int is_router, err;
    } rows[] = {
            {"tcp://203.0.113.7:6003", 1, ZNL_E_ADDRESS},
            {"tcp://[2001:db8::7]:6003", 1, ZNL_E_ADDRESS},
            {"ipc:///no/such/folder/socket", 1, ZNL_E_ADDRESS},
            {"tcp://nowhere", 1, ZNL_E_ADDRESS},
            {"tcp://*:6003", 0, ZNL_E_ADDRESS},
            {"tcp://127.0.0.1:*", 0, ZNL_E_ADDRESS},
            {"udp://127.0.0.1:6003", 0, ZNL_E_ADDRESS},
            {"", 0, ZNL_E_ADDRESS},
    };
    struct stage stage;
    struct end *made;
    stage_open(&stage, pair);
    znl_link_options options = router_options(&stage);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        options.endpoint = rows[i].endpoint;
        options.is_router = rows[i].is_router;
        int err = stage_try_end(&stage, &made, pair->router, &options);
        if (err != rows[i].err)
            fail_msg("%s: error %d", rows[i].endpoint, err);
    }
    if (pair->router == END_OURS) {
        options.endpoint = "inproc://somewhere";
        options.is_router = 1;
        assert_int_equal(stage_try_end(&stage, &made, END_OURS, &options), ZNL_E_UNSUPPORTED);
    }
    stage_close(&stage);
}

/* By whatever is bound there: our engine, libzmq, another program. */
static void a_taken_address_is_told(void **state)
{
    static const end_kind kinds[] = {END_OURS, END_LIBZMQ, END_BARE};
    struct stage stage;
    struct end *made;
    stage_open(&stage, *state);
    for (size_t i = 0; i < 3; i++) {
        struct end *first = stage_end(&stage, kinds[i], router_options(&stage));
        znl_link_options options = router_options(&stage);
        options.endpoint = first->endpoint;
        int err = stage_try_end(&stage, &made, stage.pair->router, &options);
        assert_int_equal(err, ZNL_E_ADDRESS_IN_USE);
        /* It still works. */
        struct end *dealer = stage_dealer(&stage, first, "a");
        ends_meet(first, dealer, "a");
    }
    struct wire *listener = wire_listen(&stage);
    znl_link_options options = router_options(&stage);
    options.endpoint = listener->endpoint;
    assert_int_equal(
            stage_try_end(&stage, &made, stage.pair->router, &options), ZNL_E_ADDRESS_IN_USE);
    stage_close(&stage);
}

/* At once, also while connections of the one before are still open. */
static void an_address_is_free_when_its_link_has_closed(void **state)
{
    struct stage stage;
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
    stage_open(&stage, *state);
    struct end *router = stage_router_on_own_port(&stage);
    snprintf(endpoint, sizeof endpoint, "%s", router->endpoint);
    for (int i = 0; i < 20; i++) {
        struct wire *wire = wire_connect(&stage, endpoint);
        wire_shake(wire, "DEALER", "a");
        end_close(router, ZNL_STOP_LINGER_MS);
        znl_link_options options = router_options(&stage);
        options.endpoint = endpoint;
        router = stage_end(&stage, stage.pair->router, options);
        assert_string_equal(router->endpoint, endpoint);
    }
    struct end *dealer = stage_dealer(&stage, router, "a");
    ends_meet(router, dealer, "a");
    stage_close(&stage);
    if (endpoint[0] == 'i')
        unlink(endpoint + strlen("ipc://"));
}

/* --- paths -------------------------------------------------------------------------------------- */

/* What a program that was killed has left does not keep the next one from its place. */
static void a_socket_file_that_nobody_serves_is_replaced(void **state)
{
    struct stage stage;
    char endpoint[64];
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(endpoint, sizeof endpoint, "ipc:///tmp/znl-stale-%ld", (long)getpid());
    snprintf(at.sun_path, sizeof at.sun_path, "%s", endpoint + strlen("ipc://"));
    unlink(at.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    close(fd);
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.endpoint = endpoint;
    struct end *router = stage_end(&stage, stage.pair->router, options);
    struct end *dealer = stage_dealer(&stage, router, "a");
    ends_meet(router, dealer, "a");
    stage_close(&stage);
    unlink(at.sun_path);
}

/* A file that is no socket is not touched. */
static void another_file_is_not_replaced(void **state)
{
    struct stage stage;
    struct end *made;
    struct stat found;
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "ipc:///tmp/znl-file-%ld", (long)getpid());
    int fd = open(endpoint + strlen("ipc://"), O_CREAT | O_WRONLY | O_TRUNC, 0600);
    assert_int_equal(write(fd, "precious", 8), 8);
    close(fd);
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.endpoint = endpoint;
    int err = stage_try_end(&stage, &made, stage.pair->router, &options);
    assert_true(err == ZNL_E_ADDRESS_IN_USE || err == ZNL_E_ADDRESS);
    stage_close(&stage);
    assert_int_equal(stat(endpoint + strlen("ipc://"), &found), 0);
    assert_int_equal(found.st_size, 8);
    unlink(endpoint + strlen("ipc://"));
}

/* With libzmq only, which who leaves the choice to the link need not know. */
static void names_without_a_file_are_left_to_libzmq(void **state)
{
    struct stage stage;
    char endpoint[64];
    struct end *refused;
    snprintf(endpoint, sizeof endpoint, "ipc://@znl-conformance-%ld", (long)getpid());
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.endpoint = endpoint;
    assert_int_equal(stage_try_end(&stage, &refused, END_OURS, &options), ZNL_E_UNSUPPORTED);
    struct end *router = stage_end(&stage, END_AUTO, options);
    options = dealer_options(router, "a");
    options.endpoint = endpoint;
    assert_int_equal(stage_try_end(&stage, &refused, END_OURS, &options), ZNL_E_UNSUPPORTED);
    struct end *dealer = stage_end(&stage, END_AUTO, options);
    ends_meet(router, dealer, "a");
    stage_close(&stage);
}

static void a_path_made_up_goes_with_its_link(void **state)
{
    struct stage stage;
    struct stat found;
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.endpoint = "ipc://*";
    struct end *router = stage_end(&stage, stage.pair->router, options);
    snprintf(endpoint, sizeof endpoint, "%s", router->endpoint);
    assert_int_equal(stat(endpoint + strlen("ipc://"), &found), 0);
    assert_true(S_ISSOCK(found.st_mode));
    end_close(router, 0);
    assert_int_not_equal(stat(endpoint + strlen("ipc://"), &found), 0);
    stage_close(&stage);
}

/* --- several ------------------------------------------------------------------------------------ */

/* One router on several endpoints: names are of the link, wherever a peer comes in. */
static void one_router_serves_several_endpoints(void **state)
{
    static const char *more[] = {"ipc://*", "tcp://[::1]:*"};
    struct stage stage;
    struct end *dealers[3];
    stage_open(&stage, *state);
    znl_link_options options = router_options(&stage);
    options.endpoint = "tcp://127.0.0.1:*";
    options.more_endpoints = more;
    options.more_endpoint_count = 2;
    struct end *router = stage_end(&stage, stage.pair->router, options);
    for (size_t i = 0; i < 3; i++) {
        char name[] = {(char)('a' + i), 0};
        options = dealer_options(router, name);
        options.endpoint = znl_link_endpoint_at(router->link, i);
        dealers[i] = stage_end(&stage, stage.pair->dealer, options);
        ends_meet(router, dealers[i], name);
    }
    for (size_t i = 0; i < 3; i++) {
        char name[] = {(char)('a' + i), 0};
        end_post_to(router, name, name);
        end_expect_text(dealers[i], name);
    }
    /* A peer that comes in elsewhere with a name that is taken has it. */
    struct wire *wire = wire_connect(&stage, router->endpoint);
    unsigned flags;
    wire_shake(wire, "DEALER", "b");
    STAGE_UNTIL(&stage, ({
        znl_frame frames[] = {znl_frame_text("b"), znl_frame_text("whoever")};
        end_send(router, frames, 2);
        wire->in.size > wire->at;
    }));
    assert_true(znl_frame_equal(wire_take_frame(wire, &flags), znl_frame_text("whoever")));
    stage_close(&stage);
}

int main(int argc, char **argv)
{
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL); /* as "*ours*" */
    const struct CMUnitTest tests[] = {
            PAIR_0(every_way_to_name_the_loopback_works),
            PAIR_1(every_way_to_name_the_loopback_works),
            PAIR_2(every_way_to_name_the_loopback_works),
            PAIR_6(every_way_to_name_the_loopback_works),
            PAIR_0(names_are_resolved),
            PAIR_1(names_are_resolved),
            PAIR_0(unknown_names_are_no_error),
            PAIR_2(unknown_names_are_no_error),
            PAIR_7(unknown_names_are_no_error),
            EACH_ENGINE(errors_of_opening),
            EACH_ENGINE(a_taken_address_is_told),
            EACH_ENGINE(an_address_is_free_when_its_link_has_closed),
            EACH_PAIR(a_socket_file_that_nobody_serves_is_replaced),
            OUR_ENGINE(another_file_is_not_replaced),
            PAIR_3(names_without_a_file_are_left_to_libzmq),
            EACH_ENGINE(a_path_made_up_goes_with_its_link),
            EACH_ENGINE(one_router_serves_several_endpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
