/* link_open_test.c - how links open: the engine, several endpoints of one ROUTER.
 * SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "transport/endpoint.h"
#include "transport/link.h"
#include "transport/loop.h"

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define GUARD_MS 60000 /* a test that takes longer has failed */
#define PLACES 4

struct end {
    znl_link *link;
    size_t received;
    char peer[32];
    size_t refused;
    int refusal;
};

static void on_message(void *user, const znl_frame *frames, size_t count)
{
    struct end *end = user;
    assert_in_range(count, 1, 2);
    end->received++;
    snprintf(end->peer, sizeof end->peer, "%.*s", (int)frames[0].size,
            (const char *)frames[0].data);
}

static void on_writable(void *user)
{
    (void)user;
}

static void on_refused(void *user, int err, const char *text)
{
    struct end *end = user;
    end->refused++;
    end->refusal = err;
    assert_true(strlen(text) > 0);
}

static void on_dropped(void *user, int err)
{
    (void)user;
    fail_msg("dropped: %d", err);
}

static znl_link_options options_of(int is_router, const char *endpoint)
{
    return (znl_link_options){
            .is_router = is_router,
            .endpoint = endpoint,
            .send_hwm = 100,
            .recv_hwm = 100,
            .max_frame_bytes = ZNL_FRAME_BYTES_DEFAULT,
            .max_frames = ZNL_FRAMES_DEFAULT,
            .max_message_bytes = ZNL_MESSAGE_BYTES_DEFAULT,
    };
}

static int open_end(struct end *end, znl_loop *loop, znl_link_options options)
{
    static const znl_link_events events = {.on_message = on_message,
            .on_writable = on_writable,
            .on_dropped = on_dropped,
            .on_refused = on_refused};
    return znl_link_open(&end->link, loop, &options, &events, end);
}

struct turn {
    znl_timer timer;
    znl_loop *loop;
};

static void on_time(znl_timer *timer)
{
    znl_loop_stop(((struct turn *)timer)->loop);
}

static void run_for_a_while(znl_loop *loop)
{
    struct turn turn = {.loop = loop};
    znl_wheel_start(znl_loop_wheel(loop), &turn.timer, znl_loop_now_ms(loop) + 2, on_time);
    znl_loop_run(loop);
    znl_wheel_stop(znl_loop_wheel(loop), &turn.timer);
}

static znl_loop *new_loop(void)
{
    znl_loop *loop = NULL;
    assert_int_equal(znl_loop_new(&loop), 0);
    return loop;
}

static void close_loop(znl_loop *loop)
{
    assert_int_equal(znl_loop_run(loop), 0);
    assert_int_equal(znl_loop_close(loop), 0);
}

static void engines_have_names(void **state)
{
    (void)state;
    znl_link_engine engine = ZNL_LINK_AUTO;
    assert_int_equal(znl_link_engine_parse(&engine, znl_frame_text("zmtp")), 0);
    assert_int_equal(engine, ZNL_LINK_ZMTP);
    assert_int_equal(znl_link_engine_parse(&engine, znl_frame_text("libzmq")), 0);
    assert_int_equal(engine, ZNL_LINK_LIBZMQ);
    assert_int_equal(znl_link_engine_parse(&engine, znl_frame_text("auto")), 0);
    assert_int_equal(engine, ZNL_LINK_AUTO);
    const char *none[] = {"", "zmt", "zmtp ", "ZMTP", "zmq"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(
                znl_link_engine_parse(&engine, znl_frame_text(none[i])), ZNL_E_INVALID);
    assert_int_equal(engine, ZNL_LINK_AUTO);
}

static void own_engine_refuses_what_it_does_not_speak(void **state)
{
    (void)state;
    const char *endpoints[] = {"inproc://open", "ipc://@znl-link-open"};
    for (size_t i = 0; i < 2; i++) {
        for (int is_router = 0; is_router < 2; is_router++) {
            znl_loop *loop = new_loop();
            struct end end = {0};
            znl_link_options options = options_of(is_router, endpoints[i]);
            options.engine = ZNL_LINK_ZMTP;
            assert_int_equal(open_end(&end, loop, options), ZNL_E_UNSUPPORTED);
            assert_null(end.link);
            assert_non_null(strstr(
                    znl_link_open_text(ZNL_E_UNSUPPORTED, is_router, endpoints[i]), "libzmq"));
            close_loop(loop);
        }
    }
}

/* What the environment says is for where both would do. */
static void environment_says_what_auto_means(void **state)
{
    (void)state;
    const char *names[] = {"zmtp", "libzmq", "auto", ""};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(setenv(ZNL_LINK_ENGINE_VARIABLE, names[i], 1), 0);
        znl_loop *loop = new_loop();
        struct end end = {0};
        assert_int_equal(open_end(&end, loop, options_of(1, "inproc://open")), 0);
        znl_link_close(end.link, 0);
        close_loop(loop);
    }
}

static void one_router_has_several_endpoints(void **state)
{
    znl_loop *loop = new_loop();
    const char *more[PLACES - 1] = {"ipc://*", "tcp://[::1]:*", "tcp://127.0.0.1:*"};
    struct end router = {0};
    struct end dealers[PLACES] = {{0}};
    znl_link_options options = options_of(1, "tcp://127.0.0.1:*");
    options.engine = *(const znl_link_engine *)*state;
    options.more_endpoints = more;
    options.more_endpoint_count = PLACES - 1;
    assert_int_equal(open_end(&router, loop, options), 0);
    assert_string_equal(znl_link_endpoint(router.link), znl_link_endpoint_at(router.link, 0));
    assert_null(znl_link_endpoint_at(router.link, PLACES));
    for (size_t i = 0; i < PLACES; i++) {
        char id[32];
        snprintf(id, sizeof id, "dealer-%zu", i);
        options = options_of(0, znl_link_endpoint_at(router.link, i));
        options.engine = *(const znl_link_engine *)*state;
        options.routing_id = znl_frame_text(id);
        assert_int_equal(open_end(&dealers[i], loop, options), 0);
        znl_frame hello = znl_frame_text("hello");
        int err = ZNL_E_BUSY;
        for (int turns = 0; turns < GUARD_MS / 2 && err != 0; turns++) {
            run_for_a_while(loop);
            err = znl_link_send(dealers[i].link, &hello, 1);
        }
        assert_int_equal(err, 0);
        for (int turns = 0; turns < GUARD_MS / 2 && router.received == i; turns++)
            run_for_a_while(loop);
        assert_int_equal(router.received, i + 1);
        assert_string_equal(router.peer, id);
        znl_frame answer[] = {znl_frame_text(id), hello};
        assert_int_equal(znl_link_send(router.link, answer, 2), 0);
    }
    for (size_t i = 0; i < PLACES; i++) {
        for (int turns = 0; turns < GUARD_MS / 2 && dealers[i].received == 0; turns++)
            run_for_a_while(loop);
        assert_int_equal(dealers[i].received, 1);
        znl_link_close(dealers[i].link, 0);
    }
    char path[ZNL_ENDPOINT_BYTES_MAX]; /* of ipc, in a folder of its own */
    snprintf(path, sizeof path, "%s", znl_link_endpoint_at(router.link, 1) + strlen("ipc://"));
    *strrchr(path, '/') = '\0';
    assert_int_equal(access(path, F_OK), 0);
    znl_link_close(router.link, 0);
    close_loop(loop);
    assert_int_equal(access(path, F_OK), -1);
}

/* One is taken: none is bound, and it is told which it was. */
static void several_endpoints_are_bound_all_or_none(void **state)
{
    znl_loop *loop = new_loop();
    struct end taken = {0}, second = {0};
    znl_link_options options = options_of(1, "tcp://127.0.0.1:*");
    options.engine = *(const znl_link_engine *)*state;
    char path[64], place[64];
    snprintf(place, sizeof place, "ipc:///tmp/znl-link-open-%ld.a", (long)getpid());
    snprintf(path, sizeof path, "ipc:///tmp/znl-link-open-%ld.b", (long)getpid());
    assert_int_equal(open_end(&taken, loop, options), 0);
    const char *more[] = {path, znl_link_endpoint(taken.link)};
    size_t failed = 99;
    options.endpoint = place;
    options.more_endpoints = more;
    options.more_endpoint_count = 2;
    options.failed = &failed;
    assert_int_equal(open_end(&second, loop, options), ZNL_E_ADDRESS_IN_USE);
    assert_null(second.link);
    assert_int_equal(failed, 2);
    more[1] = "tcp://nowhere";
    assert_int_equal(open_end(&second, loop, options), ZNL_E_ADDRESS);
    assert_int_equal(failed, 2);
    more[0] = "ipc:///no/such/folder/s";
    more[1] = "tcp://127.0.0.1:*";
    assert_int_equal(open_end(&second, loop, options), ZNL_E_ADDRESS);
    assert_int_equal(failed, 1);
    more[0] = path;
    assert_int_equal(open_end(&second, loop, options), 0);
    znl_link_close(second.link, 0);
    znl_link_close(taken.link, 0);
    close_loop(loop);
}

static void several_endpoints_are_of_one_kind_and_of_a_router(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    struct end end = {0};
    const char *more[ZNL_LINK_ENDPOINTS_MAX];
    size_t failed = 99;
    for (size_t i = 0; i < ZNL_LINK_ENDPOINTS_MAX; i++)
        more[i] = "tcp://127.0.0.1:*";
    znl_link_options options = options_of(0, "tcp://127.0.0.1:6003");
    options.failed = &failed;
    options.more_endpoints = more;
    options.more_endpoint_count = 1;
    assert_int_equal(open_end(&end, loop, options), ZNL_E_INVALID);
    options.is_router = 1;
    options.endpoint = "sim://open";
    assert_int_equal(open_end(&end, loop, options), ZNL_E_UNSUPPORTED);
    assert_int_equal(failed, 1);
    options.endpoint = "tcp://127.0.0.1:*";
    options.more_endpoint_count = 2;
    more[1] = "sim://open";
    assert_int_equal(open_end(&end, loop, options), ZNL_E_UNSUPPORTED);
    assert_int_equal(failed, 2);
    more[1] = "inproc://open";
    options.engine = ZNL_LINK_ZMTP;
    assert_int_equal(open_end(&end, loop, options), ZNL_E_UNSUPPORTED);
    assert_int_equal(failed, 2);
    options.engine = ZNL_LINK_AUTO;
    assert_int_equal(open_end(&end, loop, options), 0);
    znl_link_close(end.link, 0);
    options.more_endpoint_count = ZNL_LINK_ENDPOINTS_MAX;
    assert_int_equal(open_end(&end, loop, options), ZNL_E_INVALID);
    close_loop(loop);
}

static znl_curve *new_curve(int is_server, const char *secret_key, const char *other_key)
{
    znl_curve *curve = NULL;
    const char *which;
    znl_frame other = znl_frame_text(other_key);
    znl_curve_texts texts = {.secret_key = znl_frame_text(secret_key)};
    texts.server_key = other;
    texts.allowed = &other;
    texts.allowed_count = is_server ? 1 : 0;
    assert_int_equal(znl_curve_new(&curve, is_server, &texts, &which), 0);
    return curve;
}

static void curve_is_for_libzmq_and_for_sockets_of_the_system(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    struct end end = {0};
    char public_key[ZNL_CURVE_TEXT_BYTES + 1], secret_key[ZNL_CURVE_TEXT_BYTES + 1];
    znl_curve_make_pair(public_key, secret_key);
    znl_curve *curve = new_curve(1, secret_key, public_key);
    znl_link_options options = options_of(1, "inproc://open");
    options.curve = curve;
    assert_int_equal(open_end(&end, loop, options), ZNL_E_UNSUPPORTED);
    options.endpoint = "sim://open";
    assert_int_equal(open_end(&end, loop, options), ZNL_E_UNSUPPORTED);
    options.endpoint = "tcp://127.0.0.1:*";
    options.engine = ZNL_LINK_ZMTP;
    assert_int_equal(open_end(&end, loop, options), ZNL_E_UNSUPPORTED);
    assert_int_equal(curve->holders, 1);
    znl_curve_release(curve);
    close_loop(loop);
}

/* Two servers with lists share a handler; it comes with the first, and goes with the last. */
static void curve_open_survives_each_allocation_failing(void **state)
{
    (void)state;
    char public_key[ZNL_CURVE_TEXT_BYTES + 1], secret_key[ZNL_CURVE_TEXT_BYTES + 1];
    znl_curve_make_pair(public_key, secret_key);
    znl_curve *curve = new_curve(1, secret_key, public_key);
    for (long n = 0;; n++) {
        struct end first = {0}, second = {0};
        znl_loop *loop = new_loop();
        znl_link_options options = options_of(1, "tcp://127.0.0.1:*");
        options.curve = curve;
        znl_alloc_fail_after(n);
        int err = open_end(&first, loop, options);
        if (err == 0)
            err = open_end(&second, loop, options);
        znl_alloc_fail_after(-1);
        if (err != 0)
            assert_int_equal(err, ZNL_E_NOMEM);
        znl_link_close(first.link, 0);
        first.link = NULL;
        assert_int_equal(open_end(&first, loop, options), 0); /* the name is free at once */
        znl_link_close(first.link, 0);
        znl_link_close(second.link, 0);
        close_loop(loop);
        assert_int_equal(curve->holders, 1);
        if (err == 0) {
            assert_true(n >= 6);
            break;
        }
    }
    znl_curve_release(curve);
}

/* Whoever runs into the limit hears of it, on both sides, and goes on when there is room again. */
static void own_engine_says_that_no_descriptors_are_left(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    struct rlimit limit;
    struct end router = {0};
    struct end late = {0};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    znl_link_options options = options_of(1, "tcp://127.0.0.1:*");
    options.engine = ZNL_LINK_ZMTP;
    assert_int_equal(open_end(&router, loop, options), 0);
    options.is_router = 0;
    options.endpoint = znl_link_endpoint(router.link);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    address.sin_port = htons((uint16_t)atoi(strrchr(options.endpoint, ':') + 1));
    int early = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(early, (struct sockaddr *)&address, sizeof address), 0);
    int lowest = dup(0);
    close(lowest);
    const struct rlimit none = {(rlim_t)lowest, limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int err = open_end(&late, loop, options);
    uint64_t until_ms = znl_clock_mono_ms() + GUARD_MS;
    while ((router.refused == 0 || late.refused == 0) && znl_clock_mono_ms() < until_ms)
        run_for_a_while(loop);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(err, 0);
    assert_int_equal(router.refusal, ZNL_E_LIMIT);
    assert_int_equal(late.refusal, ZNL_E_LIMIT);
    const znl_frame frame = znl_frame_text("x");
    while (znl_link_send(late.link, &frame, 1) != 0 && znl_clock_mono_ms() < until_ms)
        run_for_a_while(loop);
    while (router.received == 0 && znl_clock_mono_ms() < until_ms)
        run_for_a_while(loop);
    assert_int_equal(router.received, 1);
    close(early);
    znl_link_close(late.link, 0);
    znl_link_close(router.link, 0);
    close_loop(loop);
}

static void what_is_wrong_with_an_endpoint_is_said(void **state)
{
    (void)state;
    const struct {
        int err;
        int is_router;
        const char *endpoint;
        const char *says;
    } cases[] = {
            {ZNL_E_ADDRESS, 1, "tcp://127.0.0.1", "port"},
            {ZNL_E_ADDRESS, 0, "tcp://127.0.0.1:*", "port"},
            {ZNL_E_ADDRESS, 1, "tcp://192.0.2.1:6003", "no address of this machine"},
            {ZNL_E_ADDRESS, 1, "ipc:///nowhere/x", "no such folder"},
            {ZNL_E_LIMIT, 1, "tcp://127.0.0.1:6003", "ulimit"},
            {ZNL_E_ADDRESS_IN_USE, 1, "tcp://127.0.0.1:6003", "in use"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_non_null(
                strstr(znl_link_open_text(cases[i].err, cases[i].is_router, cases[i].endpoint),
                        cases[i].says));
}

int main(void)
{
    static znl_link_engine libzmq = ZNL_LINK_LIBZMQ, zmtp = ZNL_LINK_ZMTP;
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(engines_have_names),
            cmocka_unit_test(own_engine_refuses_what_it_does_not_speak),
            cmocka_unit_test_prestate(one_router_has_several_endpoints, &libzmq),
            cmocka_unit_test_prestate(one_router_has_several_endpoints, &zmtp),
            cmocka_unit_test_prestate(several_endpoints_are_bound_all_or_none, &libzmq),
            cmocka_unit_test_prestate(several_endpoints_are_bound_all_or_none, &zmtp),
            cmocka_unit_test(several_endpoints_are_of_one_kind_and_of_a_router),
            cmocka_unit_test(environment_says_what_auto_means),
            cmocka_unit_test(own_engine_says_that_no_descriptors_are_left),
            cmocka_unit_test(what_is_wrong_with_an_endpoint_is_said),
            cmocka_unit_test(curve_is_for_libzmq_and_for_sockets_of_the_system),
            cmocka_unit_test(curve_open_survives_each_allocation_failing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
