/* link_test.c - loop, endpoints, and links of libzmq and of link_sim.c. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "transport/endpoint.h"
#include "transport/link.h"
#include "transport/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

#define GUARD_MS 60000 /* a test that takes longer has failed */

/* One end of a connection: a link, what it has seen, and what it does about it. */
struct end {
    znl_loop *loop;
    znl_link *link;
    size_t received;
    size_t bytes;
    size_t frames;
    size_t writable;
    size_t dropped;
    int dropped_err;
    size_t sent;
    size_t goal;
    size_t stop_after; /* stop the loop at this many messages */
    int echoes;
    int is_ordered; /* messages come with their numbers, and heard slowly at first */
    int hears_of_loss;
    unsigned lost, joined;
    int close_when_lost;
    int close_after; /* close the own link at this many messages */
    uint8_t peer[ZNL_ID_BYTES_MAX];
    size_t peer_size;
};

struct guard {
    znl_timer timer;
    znl_loop *loop;
    int fired;
};

static void guard_fire(znl_timer *timer)
{
    struct guard *guard = (struct guard *)timer;
    guard->fired = 1;
    znl_loop_stop(guard->loop);
}

/* Runs the loop until something stops it, for at most `ms`. True when something did. */
static int run_for(znl_loop *loop, uint64_t ms)
{
    struct guard guard = {.loop = loop};
    znl_wheel_start(znl_loop_wheel(loop), &guard.timer, znl_loop_now_ms(loop) + ms, guard_fire);
    znl_loop_run(loop);
    znl_wheel_stop(znl_loop_wheel(loop), &guard.timer);
    return !guard.fired;
}

/* Runs the loop until the count is reached, or for as long as a test may take. */
static void run_until(znl_loop *loop, const size_t *count, size_t goal)
{
    for (int i = 0; i < GUARD_MS / 2 && *count < goal; i++)
        run_for(loop, 2);
    assert_int_equal(*count, goal);
}

static void fill(struct end *end)
{
    while (end->sent < end->goal) {
        char text[32];
        int size = snprintf(text, sizeof text, "message %zu", end->sent);
        znl_frame frames[] = {znl_frame_text("kind"), znl_frame_of(text, (size_t)size)};
        int err = znl_link_send(end->link, frames, 2);
        if (err != 0) {
            assert_int_equal(err, ZNL_E_BUSY);
            znl_link_want_writable(end->link, 1);
            return;
        }
        end->sent++;
    }
    znl_link_want_writable(end->link, 0);
}

static void on_message(void *user, const znl_frame *frames, size_t count)
{
    struct end *end = user;
    if (end->is_ordered) {
        char expected[32];
        snprintf(expected, sizeof expected, "message %zu", end->received);
        assert_true(znl_frame_equal(frames[count - 1], znl_frame_text(expected)));
        if (end->received < 1000)
            usleep(200);
    }
    end->received++;
    end->frames = count;
    end->bytes = 0;
    for (size_t i = 0; i < count; i++)
        end->bytes += frames[i].size;
    if (frames[0].size <= sizeof end->peer) {
        memcpy(end->peer, frames[0].data, frames[0].size);
        end->peer_size = frames[0].size;
    }
    if (end->echoes)
        assert_int_equal(znl_link_send(end->link, frames, count), 0);
    if (end->close_after > 0 && end->received == (size_t)end->close_after) {
        znl_link_close(end->link, 0);
        end->link = NULL;
        assert_true(frames[count - 1].size == 0 || frames[count - 1].data[0] != 0xff);
    }
    if (end->received == end->stop_after)
        znl_loop_stop(end->loop);
}

static void on_writable(void *user)
{
    struct end *end = user;
    end->writable++;
    fill(end);
}

static void on_dropped(void *user, int err)
{
    struct end *end = user;
    end->dropped++;
    end->dropped_err = err;
}

static void on_lost(void *user)
{
    struct end *end = user;
    end->lost++;
    if (end->close_when_lost) {
        znl_link_close(end->link, 0);
        end->link = NULL;
    }
    znl_loop_stop(end->loop);
}

static void on_joined(void *user)
{
    struct end *end = user;
    assert_int_equal(end->lost, ++end->joined);
}

static const znl_link_events events = {
        .on_message = on_message, .on_writable = on_writable, .on_dropped = on_dropped};
static const znl_link_events lost_events = {
        .on_message = on_message,
        .on_writable = on_writable,
        .on_dropped = on_dropped,
        .on_lost = on_lost,
        .on_joined = on_joined,
};

static znl_link_options options_of(int is_router, const char *endpoint, const char *id)
{
    return (znl_link_options){
            .is_router = is_router,
            .endpoint = endpoint,
            .routing_id = znl_frame_text(id),
            /* more than the messages of any test: an echo is never refused */
            .send_hwm = 10000,
            .recv_hwm = 10000,
            .max_frame_bytes = ZNL_FRAME_BYTES_DEFAULT,
            .max_frames = ZNL_FRAMES_DEFAULT,
            .max_message_bytes = ZNL_MESSAGE_BYTES_DEFAULT,
    };
}

static int open_end(struct end *end, znl_loop *loop, znl_link_options options)
{
    end->loop = loop;
    return znl_link_open(
            &end->link, loop, &options, end->hears_of_loss ? &lost_events : &events, end);
}

static void open_router(struct end *end, znl_loop *loop, const char *endpoint)
{
    int err = open_end(end, loop, options_of(1, endpoint, ""));
    if (err != 0)
        fail_msg("%s: error %d", endpoint, err);
}

static void open_dealer(struct end *end, znl_loop *loop, const struct end *to, const char *id)
{
    const char *endpoint = znl_link_endpoint(to->link);
    assert_int_equal(open_end(end, loop, options_of(0, endpoint, id)), 0);
}

static void close_all(znl_loop *loop, struct end *a, struct end *b)
{
    znl_link_close(a->link, 0);
    if (b != NULL)
        znl_link_close(b->link, 0);
    assert_int_equal(znl_loop_run(loop), 0); /* ends: nothing is alive */
    assert_int_equal(znl_loop_close(loop), 0);
}

static znl_loop *new_loop(void)
{
    znl_loop *loop = NULL;
    assert_int_equal(znl_loop_new(&loop), 0);
    return loop;
}

/* --- loop -------------------------------------------------------------------------------------- */

struct chore {
    znl_deferred deferred;
    znl_loop *loop;
    int ran;
    int again;
    struct chore *victim;
};

static void chore_run(znl_deferred *deferred)
{
    struct chore *chore = (struct chore *)deferred;
    chore->ran++;
    if (chore->victim != NULL)
        znl_loop_undefer(chore->loop, &chore->victim->deferred);
    if (chore->again-- > 0)
        znl_loop_defer(chore->loop, deferred);
}

static void loop_without_work_ends(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    assert_int_equal(znl_loop_run(loop), 0);
    assert_int_equal(znl_loop_close(loop), 0);
    assert_int_equal(znl_loop_close(NULL), 0);
}

static void deferred_work_runs_once_and_can_be_taken_back(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    struct chore a = {.deferred.run = chore_run, .loop = loop, .again = 3};
    struct chore b = a;
    struct chore c = a;
    struct chore d = a;
    b.again = c.again = d.again = 0;
    a.victim = &b;
    c.victim = &d;
    znl_loop_defer(loop, &a.deferred);
    znl_loop_defer(loop, &a.deferred);
    znl_loop_defer(loop, &b.deferred);
    znl_loop_defer(loop, &c.deferred);
    znl_loop_defer(loop, &d.deferred);
    znl_loop_undefer(loop, &c.deferred);
    znl_loop_undefer(loop, &c.deferred);
    znl_loop_defer(loop, &c.deferred); /* now after d */
    znl_loop_run(loop);
    assert_int_equal(a.ran, 4);
    assert_int_equal(b.ran, 0);
    assert_int_equal(c.ran, 1);
    assert_int_equal(d.ran, 1);
    assert_int_equal(znl_loop_close(loop), 0);
}

static void wheel_timer_fires_on_time(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    struct guard late = {.loop = loop};
    uint64_t start_ms = znl_loop_now_ms(loop); /* timers count from there */
    znl_wheel_start(znl_loop_wheel(loop), &late.timer, start_ms + 9000, guard_fire);
    assert_false(run_for(loop, 30));
    uint64_t took_ms = znl_clock_mono_ms() - start_ms;
    assert_in_range(took_ms, 30, 8000);
    assert_int_equal(late.fired, 0);
    znl_wheel_stop(znl_loop_wheel(loop), &late.timer);
    znl_loop_run(loop); /* a stopped timer keeps nothing alive */
    assert_true(znl_clock_mono_ms() - start_ms < 9000);
    assert_int_equal(znl_loop_close(loop), 0);
}

static void clocks_are_read_after_waiting(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    int is_close = 0; /* a busy machine may take this thread away between two readings */
    for (int i = 0; i < 50 && !is_close; i++) {
        run_for(loop, 50);
        is_close = znl_clock_mono_ms() - znl_loop_now_ms(loop) <= 20 &&
                znl_clock_unix_ms() - znl_loop_unix_ms(loop) <= 20;
    }
    assert_true(is_close);
    assert_int_equal(znl_loop_close(loop), 0);
}

/* libuv fires its timers right before it waits; it must not wait when those gave the loop work. */
struct poke {
    uv_timer_t timer;
    znl_loop *loop;
    struct chore chore;
    struct guard soon;
    enum { POKE_DEFER, POKE_WHEEL, POKE_STOP } what;
};

static void chore_stop(znl_deferred *deferred)
{
    znl_loop_stop(((struct chore *)deferred)->loop);
}

static void poke_fire(uv_timer_t *timer)
{
    struct poke *poke = timer->data;
    if (poke->what == POKE_DEFER)
        znl_loop_defer(poke->loop, &poke->chore.deferred);
    else if (poke->what == POKE_WHEEL)
        znl_wheel_start(znl_loop_wheel(poke->loop), &poke->soon.timer,
                znl_loop_now_ms(poke->loop) + 5, guard_fire);
    else
        znl_loop_stop(poke->loop);
}

static void work_from_timers_of_libuv_is_not_slept_over(void **state)
{
    (void)state;
    for (int what = POKE_DEFER, tries = 0; what <= POKE_STOP; what++) {
        znl_loop *loop = new_loop();
        static struct poke poke;
        poke = (struct poke){.loop = loop, .what = what};
        poke.chore = (struct chore){.deferred.run = chore_stop, .loop = loop};
        poke.soon.loop = loop;
        uv_timer_init(znl_loop_uv(loop), &poke.timer);
        poke.timer.data = &poke;
        uv_timer_start(&poke.timer, poke_fire, 0, 0);
        uint64_t start_ms = znl_clock_mono_ms();
        assert_true(run_for(loop, GUARD_MS));
        uint64_t took_ms = znl_clock_mono_ms() - start_ms;
        uv_close((uv_handle_t *)&poke.timer, NULL); /* not before: closing would end the wait */
        assert_int_equal(znl_loop_close(loop), 0);
        if (took_ms < 1500) /* the wheel itself wakes at 1808 */
            tries = 0;
        else if (++tries < 5)
            what--; /* the machine may have been busy */
        else
            fail_msg("slept %u ms", (unsigned)took_ms);
    }
}

static void loop_close_counts_handles_left_open(void **state)
{
    (void)state;
    static uv_timer_t forgotten[2];
    znl_loop *loop = new_loop();
    uv_timer_init(znl_loop_uv(loop), &forgotten[0]);
    uv_timer_init(znl_loop_uv(loop), &forgotten[1]);
    assert_int_equal(znl_loop_close(loop), 2);
}

/* --- endpoints --------------------------------------------------------------------------------- */

static void endpoints_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int bind, connect; /* allowed */
    } rows[] = {
            {"tcp://127.0.0.1:6003", 1, 1},
            {"tcp://localhost:65535", 1, 1},
            {"tcp://[::1]:6003", 1, 1},
            {"tcp://[fe80::1%eth0]:6003", 1, 1},
            {"tcp://*:6003", 1, 0},
            {"tcp://0.0.0.0:*", 1, 0},
            {"tcp://127.0.0.1:0", 1, 0},
            {"ipc:///tmp/socket", 1, 1},
            {"ipc://@abstract", 1, 1},
            {"ipc://*", 1, 0},
            {"inproc://name", 1, 1},
            {"sim://name", 1, 1},
            {"sim://*", 1, 0},
            {"", 0, 0},
            {"tcp://", 0, 0},
            {"tcp://:6003", 0, 0},
            {"tcp://host", 0, 0},
            {"tcp://host:", 0, 0},
            {"tcp://host:65536", 0, 0},
            {"tcp://host:99999999999999999999", 0, 0},
            {"tcp://host:60a", 0, 0},
            {"tcp://host:-1", 0, 0},
            {"tcp://::1:6003", 0, 0},
            {"tcp://[]:6003", 0, 0},
            {"tcp://[::1]", 0, 0},
            {"tcp://[::1:6003", 0, 0},
            {"tcp://eth0;10.0.0.1:6003", 0, 0},
            {"tcp://ho st:1", 0, 0},
            {"tcp://host\n:1", 0, 0},
            {"ipc://", 0, 0},
            {"ipc://@", 0, 0},
            {"inproc://", 0, 0},
            {"sim://", 0, 0},
            {"udp://127.0.0.1:1", 0, 0},
            {"TCP://127.0.0.1:1", 0, 0},
            {"127.0.0.1:1", 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (int is_bind = 0; is_bind < 2; is_bind++) {
            znl_endpoint endpoint;
            const char *why = NULL;
            int err = znl_endpoint_parse(
                    &endpoint, znl_frame_text(rows[i].text), is_bind, &why);
            int is_allowed = is_bind ? rows[i].bind : rows[i].connect;
            if (err != (is_allowed ? 0 : ZNL_E_ADDRESS) || (why == NULL) != is_allowed)
                fail_msg("%s: %d %s", rows[i].text, err, why ? why : "");
        }
    }
}

static void endpoint_parts_are_returned(void **state)
{
    (void)state;
    znl_endpoint endpoint;
    assert_int_equal(
            znl_endpoint_parse(&endpoint, znl_frame_text("tcp://[::1]:6003"), 0, NULL), 0);
    assert_int_equal(endpoint.kind, ZNL_ENDPOINT_TCP);
    assert_int_equal(endpoint.port, 6003);
    assert_true(endpoint.is_ipv6);
    assert_true(znl_frame_equal(endpoint.name, znl_frame_text("::1")));
    char text[400];
    memset(text, 'a', sizeof text);
    memcpy(text, "ipc://", 6);
    const char *why = NULL;
    assert_int_equal(
            znl_endpoint_parse(&endpoint, znl_frame_of(text, 6 + 108), 1, &why), ZNL_E_ADDRESS);
    assert_string_equal(why, "the path is longer than 107 bytes");
    assert_int_equal(znl_endpoint_parse(&endpoint, znl_frame_of(text, 6 + 107), 1, NULL), 0);
    assert_int_equal(
            znl_endpoint_parse(&endpoint, znl_frame_of(text, 400), 1, NULL), ZNL_E_ADDRESS);
    /* Every cut of a good one is refused or read, never read past. */
    const char *whole = "tcp://[fe80::1%eth0]:6003";
    for (size_t size = 0; size <= strlen(whole); size++) {
        uint8_t *copy = malloc(size ? size : 1);
        assert_non_null(copy);
        memcpy(copy, whole, size);
        znl_endpoint_parse(&endpoint, znl_frame_of(copy, size), 0, NULL);
        free(copy);
    }
}

/* --- links ------------------------------------------------------------------------------------- */

static void echo_over(const char *endpoint)
{
    znl_loop *loop = new_loop();
    struct end router = {.echoes = 1};
    struct end dealer = {.goal = 5000, .stop_after = 5000};
    open_router(&router, loop, endpoint);
    open_dealer(&dealer, loop, &router, "slave-1");
    fill(&dealer);
    assert_true(run_for(loop, GUARD_MS));
    assert_int_equal(router.received, 5000);
    assert_int_equal(router.frames, 3);
    assert_int_equal(dealer.received, 5000);
    assert_int_equal(dealer.frames, 2);
    assert_int_equal(dealer.bytes, strlen("kind") + strlen("message 4999"));
    assert_int_equal(router.peer_size, 7);
    assert_memory_equal(router.peer, "slave-1", 7);
    assert_int_equal(router.dropped + dealer.dropped, 0);
    close_all(loop, &router, &dealer);
}

static void echo_5000_over_tcp(void **state)
{
    (void)state;
    echo_over("tcp://127.0.0.1:*");
}

static void echo_5000_over_ipc(void **state)
{
    (void)state;
    echo_over("ipc://*");
}

static void echo_5000_over_inproc(void **state)
{
    (void)state;
    echo_over("inproc://echo");
}

static void echo_5000_over_sim(void **state)
{
    (void)state;
    echo_over("sim://echo");
}

static void port_0_is_chosen_and_told(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    struct end a = {0};
    struct end b = {0};
    unsigned port = 0;
    open_router(&a, loop, "tcp://127.0.0.1:0");
    open_router(&b, loop, "tcp://[::1]:*");
    assert_int_equal(sscanf(znl_link_endpoint(a.link), "tcp://127.0.0.1:%u", &port), 1);
    assert_in_range(port, 1, 65535);
    assert_int_equal(sscanf(znl_link_endpoint(b.link), "tcp://[::1]:%u", &port), 1);
    close_all(loop, &a, &b);
}

static void second_bind_is_address_in_use(void **state)
{
    (void)state;
    char name[64];
    snprintf(name, sizeof name, "ipc://@znl-link-test-%ld", (long)getpid());
    const char *endpoints[] = {
            "tcp://127.0.0.1:*", "ipc://*", "inproc://twice", name, "sim://twice"};
    for (size_t i = 0; i < 5; i++) {
        znl_loop *loop = new_loop();
        struct end first = {0};
        struct end second = {0};
        open_router(&first, loop, endpoints[i]);
        znl_link_options options = options_of(1, znl_link_endpoint(first.link), "");
        assert_int_equal(open_end(&second, loop, options), ZNL_E_ADDRESS_IN_USE);
        assert_null(second.link);
        close_all(loop, &first, NULL);
    }
}

static void unusable_addresses_and_ids_are_refused(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    struct end end = {0};
    char long_id[300];
    memset(long_id, 'x', sizeof long_id);
    assert_int_equal(
            open_end(&end, loop, options_of(1, "tcp://203.0.113.7:6003", "")), ZNL_E_ADDRESS);
    assert_int_equal(
            open_end(&end, loop, options_of(1, "ipc:///no/such/folder/s", "")), ZNL_E_ADDRESS);
    assert_int_equal(open_end(&end, loop, options_of(1, "tcp://nowhere", "")), ZNL_E_ADDRESS);
    znl_link_options options = options_of(0, "tcp://127.0.0.1:1", "");
    options.routing_id = znl_frame_of(long_id, 256);
    assert_int_equal(open_end(&end, loop, options), ZNL_E_INVALID);
    options.routing_id = znl_frame_of("\0abc", 4);
    assert_int_equal(open_end(&end, loop, options), ZNL_E_INVALID);
    options.routing_id = znl_frame_of(long_id, 255);
    assert_int_equal(open_end(&end, loop, options), 0);
    close_all(loop, &end, NULL);
}

/* Opens a router on a port that nobody gets by chance: the system chooses from 32768 upwards. */
static void open_on_own_port(struct end *router, znl_loop *loop)
{
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
    int err = ZNL_E_ADDRESS_IN_USE;
    for (long i = 0; i < 100 && err == ZNL_E_ADDRESS_IN_USE; i++) {
        snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%ld",
                10000 + (getpid() * 7 + i) % 20000);
        err = open_end(router, loop, options_of(1, endpoint, ""));
    }
    assert_int_equal(err, 0);
}

static void endpoint_is_free_after_close(void **state)
{
    (void)state;
    char path[64]; /* one chosen by libzmq goes with its folder */
    snprintf(path, sizeof path, "ipc:///tmp/znl-link-test-%ld", (long)getpid());
    const char *endpoints[] = {NULL, path, "sim://again", "inproc://again"};
    for (size_t i = 0; i < 4; i++) {
        znl_loop *loop = new_loop();
        struct end router = {0};
        struct end dealer = {0};
        char endpoint[ZNL_ENDPOINT_BYTES_MAX];
        if (endpoints[i] == NULL)
            open_on_own_port(&router, loop);
        else
            open_router(&router, loop, endpoints[i]);
        snprintf(endpoint, sizeof endpoint, "%s", znl_link_endpoint(router.link));
        open_dealer(&dealer, loop, &router, "slave-1");
        for (int round = 0; round < 30; round++) {
            run_for(loop, 2);
            znl_link_close(router.link, ZNL_STOP_LINGER_MS);
            open_router(&router, loop, endpoint);
        }
        if (i < 3) { /* an inproc dealer does not reconnect */
            dealer.goal = 1;
            router.stop_after = 1;
            fill(&dealer);
            assert_true(run_for(loop, GUARD_MS));
        }
        close_all(loop, &router, &dealer);
    }
    unlink(path + strlen("ipc://")); /* libzmq leaves it */
}

/* Each has a monitor, whose endpoint libzmq frees later, when its thread has its turn. */
static void dealers_may_follow_each_other_at_once(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    for (int i = 0; i < 2000; i++) {
        struct end dealer = {.hears_of_loss = 1};
        assert_int_equal(
                open_end(&dealer, loop, options_of(0, "tcp://127.0.0.1:9", "slave-1")), 0);
        znl_link_close(dealer.link, 0);
        assert_int_equal(znl_loop_run(loop), 0); /* its memory is free again */
    }
    assert_int_equal(znl_loop_close(loop), 0);
}

static void unknown_id_is_unreachable(void **state)
{
    const char *endpoint = *state;
    znl_loop *loop = new_loop();
    struct end router = {0};
    znl_frame frames[] = {znl_frame_text("nobody"), znl_frame_text("hello")};
    open_router(&router, loop, endpoint);
    assert_int_equal(znl_link_send(router.link, frames, 2), ZNL_E_UNREACHABLE);
    assert_int_equal(znl_link_send(router.link, frames, 1), ZNL_E_INVALID);
    assert_int_equal(znl_link_send(router.link, frames, 0), ZNL_E_INVALID);
    close_all(loop, &router, NULL);
}

/* The peer goes; its id is unreachable from then on, and reachable when it comes back. */
static void peer_that_left_is_unreachable(void **state)
{
    const char *endpoint = *state;
    znl_loop *loop = new_loop();
    struct end router = {.stop_after = 1};
    struct end dealer = {.goal = 1};
    znl_frame frames[] = {znl_frame_text("slave-1"), znl_frame_text("hello")};
    open_router(&router, loop, endpoint);
    open_dealer(&dealer, loop, &router, "slave-1");
    fill(&dealer);
    assert_true(run_for(loop, GUARD_MS));
    assert_int_equal(znl_link_send(router.link, frames, 2), 0);
    znl_link_close(dealer.link, 0);
    int err = 0;
    for (int i = 0; i < 10000 && err == 0; i++) {
        run_for(loop, 2);
        err = znl_link_send(router.link, frames, 2);
    }
    assert_int_equal(err, ZNL_E_UNREACHABLE);
    dealer = (struct end){.goal = 1};
    router.stop_after = 2;
    open_dealer(&dealer, loop, &router, "slave-1");
    fill(&dealer);
    assert_true(run_for(loop, GUARD_MS));
    assert_int_equal(znl_link_send(router.link, frames, 2), 0);
    dealer.stop_after = 1;
    assert_true(run_for(loop, GUARD_MS));
    close_all(loop, &router, &dealer);
}

/* Told once per connection, also when it was asked for before; then the link connects again. */
static void lost_connections_are_told(void **state)
{
    znl_loop *loop = new_loop();
    struct end router = {.stop_after = 1};
    struct end dealer = {.goal = 1, .hears_of_loss = 1};
    if (strncmp(*state, "tcp:", 4) == 0)
        open_on_own_port(&router, loop);
    else
        open_router(&router, loop, *state);
    open_dealer(&dealer, loop, &router, "slave-1");
    char endpoint[100];
    snprintf(endpoint, sizeof endpoint, "%s", znl_link_endpoint(router.link));
    fill(&dealer);
    assert_true(run_for(loop, GUARD_MS));
    assert_false(znl_link_is_lost(dealer.link));
    znl_link_close(router.link, 0);
    assert_int_equal(dealer.lost, 0);
    assert_true(run_for(loop, GUARD_MS));
    assert_int_equal(dealer.lost, 1);
    assert_false(znl_link_is_lost(dealer.link));
    router = (struct end){.stop_after = 1};
    assert_int_equal(open_end(&router, loop, options_of(1, endpoint, "")), 0);
    /* Not before: what is sent while libzmq still ends the old connection may go with it. */
    for (int i = 0; i < GUARD_MS / 2 && dealer.joined == 0; i++)
        run_for(loop, 2);
    run_for(loop, 20);
    dealer.goal = 2;
    fill(&dealer);
    assert_true(router.received == 1 || run_for(loop, GUARD_MS));
    assert_int_equal(dealer.lost, 1);
    assert_int_equal(dealer.joined, 1);
    dealer.close_when_lost = 1;
    znl_link_close(router.link, 0);
    router.link = NULL;
    assert_true(run_for(loop, GUARD_MS));
    assert_int_equal(dealer.lost, 2);
    close_all(loop, &router, NULL);
}

/* libzmq connects again by itself, in its thread: what is sent then would reach somebody else. */
static void a_loss_is_seen_while_the_loop_stands_still(void **state)
{
    znl_loop *loop = new_loop();
    struct end router = {.stop_after = 1};
    struct end dealer = {.goal = 1, .hears_of_loss = 1};
    (void)state;
    open_router(&router, loop, "tcp://127.0.0.1:*");
    znl_link_options options = options_of(0, znl_link_endpoint(router.link), "slave-1");
    options.engine = ZNL_LINK_LIBZMQ;
    assert_int_equal(open_end(&dealer, loop, options), 0);
    fill(&dealer);
    assert_true(run_for(loop, GUARD_MS));
    assert_false(znl_link_is_lost(dealer.link));
    znl_link_close(router.link, 0);
    for (int i = 0; i < 20000 && !znl_link_is_lost(dealer.link); i++)
        usleep(1000);
    assert_true(znl_link_is_lost(dealer.link));
    assert_int_equal(dealer.lost, 0);
    close_all(loop, &dealer, NULL);
}

/* A link that wants to hear of lost connections takes more to open; nothing of it is left behind. */
static void watched_open_survives_each_allocation_failing(void **state)
{
    (void)state;
    for (long n = 0;; n++) {
        struct end dealer = {.hears_of_loss = 1};
        znl_loop *loop = NULL;
        znl_alloc_fail_after(n);
        int err = znl_loop_new(&loop);
        if (err == 0)
            err = open_end(&dealer, loop, options_of(0, "tcp://127.0.0.1:1", "slave-1"));
        znl_alloc_fail_after(-1);
        if (err == 0) {
            close_all(loop, &dealer, NULL);
            assert_true(n >= 4);
            return;
        }
        assert_int_equal(err, ZNL_E_NOMEM);
        assert_int_equal(znl_loop_close(loop), 0);
    }
}

static void newcomer_takes_the_id_over(void **state)
{
    const char *endpoint = *state;
    znl_loop *loop = new_loop();
    struct end router = {.stop_after = 1};
    struct end old = {.goal = 1};
    struct end young = {.goal = 1};
    znl_frame frames[] = {znl_frame_text("slave-1"), znl_frame_text("hello")};
    open_router(&router, loop, endpoint);
    open_dealer(&old, loop, &router, "slave-1");
    fill(&old);
    assert_true(run_for(loop, GUARD_MS));
    router.stop_after = 2;
    open_dealer(&young, loop, &router, "slave-1");
    fill(&young);
    assert_true(run_for(loop, GUARD_MS));
    young.stop_after = 1;
    assert_int_equal(znl_link_send(router.link, frames, 2), 0);
    assert_true(run_for(loop, GUARD_MS));
    assert_int_equal(old.received, 0);
    znl_link_close(old.link, 0);
    close_all(loop, &router, &young);
}

static void oversize_frame_is_dropped_with_its_connection(void **state)
{
    (void)state;
    static uint8_t big[2000];
    znl_loop *loop = new_loop();
    struct end router = {0};
    struct end dealer = {0};
    znl_link_options options = options_of(1, "tcp://127.0.0.1:*", "");
    options.max_frame_bytes = 1000;
    assert_int_equal(open_end(&router, loop, options), 0);
    open_dealer(&dealer, loop, &router, "slave-1");
    znl_frame large = znl_frame_of(big, sizeof big);
    znl_frame fits = znl_frame_of(big, 1000);
    int err = ZNL_E_BUSY;
    for (int i = 0; i < 1000 && err != 0; i++) {
        run_for(loop, 2);
        err = znl_link_send(dealer.link, &large, 1);
    }
    assert_int_equal(err, 0);
    run_for(loop, 50);
    assert_int_equal(router.received, 0);
    /* The dealer comes back by itself; what fits passes. */
    router.stop_after = 1;
    err = ZNL_E_BUSY;
    for (int i = 0; i < 1000 && err != 0; i++) {
        run_for(loop, 2);
        err = znl_link_send(dealer.link, &fits, 1);
    }
    assert_int_equal(err, 0);
    assert_true(router.received == 1 || run_for(loop, GUARD_MS));
    assert_int_equal(router.bytes, 1000 + strlen("slave-1"));
    close_all(loop, &router, &dealer);
}

static void excess_is_dropped_and_told(void **state)
{
    const char *endpoint = *state;
    static uint8_t bytes[2000];
    znl_frame frames[40];
    znl_loop *loop = new_loop();
    struct end router = {0};
    struct end dealer = {.goal = 1};
    for (size_t i = 0; i < 40; i++)
        frames[i] = znl_frame_of(bytes, 100);
    znl_link_options options = options_of(1, endpoint, "");
    options.max_frames = 20;
    options.max_message_bytes = 1500;
    assert_int_equal(open_end(&router, loop, options), 0);
    open_dealer(&dealer, loop, &router, "slave-1");
    fill(&dealer);
    run_until(loop, &router.received, 1);
    assert_int_equal(znl_link_send(dealer.link, frames, 15), 0); /* 1507 bytes with the id */
    run_until(loop, &router.dropped, 1);
    assert_int_equal(router.dropped_err, ZNL_E_TOO_BIG);
    for (size_t i = 0; i < 40; i++)
        frames[i].size = 1;
    assert_int_equal(znl_link_send(dealer.link, frames, 40), 0);
    run_until(loop, &router.dropped, 2);
    assert_int_equal(router.dropped_err, ZNL_E_LIMIT);
    assert_int_equal(znl_link_send(dealer.link, frames, 20), 0);
    assert_int_equal(znl_link_send(dealer.link, frames, 19), 0);
    run_until(loop, &router.received, 2);
    assert_int_equal(router.dropped, 3);
    assert_int_equal(router.frames, 20);
    close_all(loop, &router, &dealer);
}

static void frame_size_inside_the_process_is_checked_too(void **state)
{
    static uint8_t big[2000];
    znl_loop *loop = new_loop();
    struct end router = {0};
    struct end dealer = {0};
    znl_link_options options = options_of(1, *state, "");
    options.max_frame_bytes = 1000;
    assert_int_equal(open_end(&router, loop, options), 0);
    open_dealer(&dealer, loop, &router, "slave-1");
    run_for(loop, 5);
    znl_frame frames[] = {znl_frame_of(big, sizeof big), znl_frame_text("after")};
    assert_int_equal(znl_link_send(dealer.link, frames, 2), 0);
    run_until(loop, &router.dropped, 1);
    assert_int_equal(router.dropped_err, ZNL_E_TOO_BIG);
    close_all(loop, &router, &dealer);
}

static void many_and_large_frames_arrive_whole(void **state)
{
    const char *endpoint = *state;
    enum { COUNT = 3000, LARGE = 3 * 1024 * 1024 };
    znl_loop *loop = new_loop();
    struct end router = {.echoes = 1};
    struct end dealer = {.goal = 1, .stop_after = 1};
    znl_frame *frames = calloc(COUNT, sizeof *frames);
    uint8_t *bytes = calloc(1, LARGE);
    assert_non_null(frames);
    assert_non_null(bytes);
    znl_link_options options = options_of(1, endpoint, "");
    options.max_frames = COUNT + 1;
    assert_int_equal(open_end(&router, loop, options), 0);
    options = options_of(0, znl_link_endpoint(router.link), "slave-1");
    options.max_frames = COUNT + 1;
    assert_int_equal(open_end(&dealer, loop, options), 0);
    fill(&dealer);
    assert_true(run_for(loop, GUARD_MS));
    for (size_t i = 0; i < COUNT; i++)
        frames[i] = znl_frame_of(bytes, i % 50);
    frames[7] = znl_frame_of(bytes, LARGE);
    dealer.stop_after = 2;
    assert_int_equal(znl_link_send(dealer.link, frames, COUNT), 0);
    assert_true(run_for(loop, GUARD_MS));
    assert_int_equal(dealer.frames, COUNT);
    assert_int_equal(dealer.bytes, COUNT / 50 * (49 * 50 / 2) - 7 + LARGE);
    free(frames);
    free(bytes);
    close_all(loop, &router, &dealer);
}

static void send_before_connection_is_busy_then_writable(void **state)
{
    znl_loop *loop = new_loop();
    struct end router = {0};
    struct end dealer = {.goal = 1};
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
    if (strncmp(*state, "tcp:", 4) == 0)
        open_on_own_port(&router, loop);
    else
        open_router(&router, loop, *state);
    snprintf(endpoint, sizeof endpoint, "%s", znl_link_endpoint(router.link));
    znl_link_close(router.link, 0);
    assert_int_equal(open_end(&dealer, loop, options_of(0, endpoint, "slave-1")), 0);
    fill(&dealer);
    assert_int_equal(dealer.sent, 0);
    run_for(loop, 50);
    assert_int_equal(dealer.writable, 0);
    router = (struct end){.stop_after = 1};
    open_router(&router, loop, endpoint);
    assert_true(run_for(loop, GUARD_MS));
    assert_int_equal(dealer.sent, 1);
    assert_true(dealer.writable >= 1);
    assert_int_equal(router.received, 1);
    close_all(loop, &router, &dealer);
}

/* The reader lives on a loop that is not run: the queue fills, and empties once it is. */
static void full_queue_is_busy_then_writable(void **state)
{
    (void)state;
    static uint8_t bytes[10000];
    znl_loop *loop = new_loop();
    znl_loop *other = new_loop();
    struct end router = {.stop_after = 1};
    struct end dealer = {.goal = 1};
    znl_link_options options = options_of(1, "tcp://127.0.0.1:*", "");
    options.send_hwm = 10;
    assert_int_equal(open_end(&router, loop, options), 0);
    options = options_of(0, znl_link_endpoint(router.link), "slave-1");
    options.recv_hwm = 10;
    assert_int_equal(open_end(&dealer, other, options), 0);
    int err = ZNL_E_BUSY;
    for (int i = 0; i < 1000 && router.received == 0; i++) {
        run_for(other, 2);
        if (dealer.sent == 0)
            fill(&dealer);
        run_for(loop, 2);
    }
    assert_int_equal(router.received, 1);
    znl_frame frames[] = {znl_frame_text("slave-1"), znl_frame_of(bytes, sizeof bytes)};
    size_t sent = 0;
    for (int idle = 0; idle < 50 && sent < 100000;) {
        err = znl_link_send(router.link, frames, 2);
        if (err == 0) {
            sent++;
            idle = 0;
        } else {
            assert_int_equal(err, ZNL_E_BUSY);
            run_for(loop, 2);
            idle++;
        }
    }
    assert_int_equal(err, ZNL_E_BUSY);
    znl_link_want_writable(router.link, 1);
    router.writable = 0;
    router.goal = router.sent; /* on_writable has nothing to send and turns itself off */
    run_for(loop, 50);
    assert_int_equal(router.writable, 1);
    for (int i = 0; i < 1000 && dealer.received < sent; i++) {
        run_for(other, 2);
        run_for(loop, 1);
    }
    assert_int_equal(dealer.received, sent);
    assert_int_equal(znl_link_send(router.link, frames, 2), 0);
    close_all(loop, &router, NULL);
    close_all(other, &dealer, NULL);
}

static void link_may_close_inside_its_callback(void **state)
{
    const char *endpoint = *state;
    for (int closes_router = 0; closes_router < 2; closes_router++) {
        znl_loop *loop = new_loop();
        struct end router = {.echoes = 1, .close_after = closes_router ? 50 : 0};
        struct end dealer = {.goal = 500, .close_after = closes_router ? 0 : 50};
        struct end *closing = closes_router ? &router : &dealer;
        open_router(&router, loop, endpoint);
        open_dealer(&dealer, loop, &router, "slave-1");
        if (!closes_router)
            router.echoes = 0;
        fill(&dealer);
        for (int i = 0; i < 10000 && closing->link != NULL; i++) {
            run_for(loop, 2);
            znl_frame frames[] = {znl_frame_text("slave-1"), znl_frame_text("hello")};
            if (!closes_router && router.received > 0 && closing->link != NULL)
                for (int n = 0; n < 20; n++)
                    znl_link_send(router.link, frames, 2);
        }
        assert_null(closing->link);
        run_for(loop, 20);
        assert_int_equal(closing->received, 50);
        close_all(loop, &router, &dealer);
    }
}

static void last_messages_of_a_dealer_leave_while_it_lingers(void **state)
{
    const char *endpoint = *state;
    znl_loop *loop = new_loop();
    struct end router = {.stop_after = 1};
    struct end dealer = {.goal = 1};
    open_router(&router, loop, endpoint);
    open_dealer(&dealer, loop, &router, "slave-1");
    fill(&dealer);
    assert_true(run_for(loop, GUARD_MS));
    dealer.goal = 501;
    fill(&dealer);
    assert_int_equal(dealer.sent, 501);
    router.stop_after = 501;
    znl_link_close(dealer.link, GUARD_MS);
    dealer.link = NULL;
    assert_true(run_for(loop, GUARD_MS));
    close_all(loop, &router, &dealer);
}

/* While some wait to be heard, others arrive. */
static void order_is_kept_when_hearing_takes_long(void **state)
{
    const char *endpoint = *state;
    znl_loop *loop = new_loop();
    struct end router = {.stop_after = 20000, .is_ordered = 1};
    struct end dealer = {.goal = 20000};
    open_router(&router, loop, endpoint);
    open_dealer(&dealer, loop, &router, "slave-1");
    fill(&dealer);
    assert_true(run_for(loop, GUARD_MS));
    assert_int_equal(router.received, 20000);
    close_all(loop, &router, &dealer);
}

/* The peer is a bare socket: a DEALER link loses what it has not read, see link.h. */
static void last_messages_of_a_router_leave_while_it_lingers(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    struct end router = {.stop_after = 1};
    int timeout_ms = GUARD_MS;
    int linger_ms = 0;
    char text[32];
    open_router(&router, loop, "tcp://127.0.0.1:*");
    void *context = zmq_ctx_new();
    void *peer = zmq_socket(context, ZMQ_DEALER);
    assert_non_null(peer);
    zmq_setsockopt(peer, ZMQ_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    zmq_setsockopt(peer, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_setsockopt(peer, ZMQ_ROUTING_ID, "slave-1", 7);
    assert_int_equal(zmq_connect(peer, znl_link_endpoint(router.link)), 0);
    assert_int_equal(zmq_send(peer, "hello", 5, 0), 5);
    assert_true(run_for(loop, GUARD_MS));
    znl_frame frames[] = {znl_frame_text("slave-1"), znl_frame_text("goodbye")};
    for (int i = 0; i < 500; i++)
        assert_int_equal(znl_link_send(router.link, frames, 2), 0);
    znl_link_close(router.link, GUARD_MS);
    router.link = NULL;
    for (int i = 0; i < 500; i++)
        assert_int_equal(zmq_recv(peer, text, sizeof text, 0), 7);
    zmq_close(peer);
    zmq_ctx_term(context);
    close_all(loop, &router, NULL);
}

/* Two links echo to each other for ever; timers and other links still have their turn. */
static void busy_link_leaves_others_their_turn(void **state)
{
    const char *endpoint = *state;
    znl_loop *loop = new_loop();
    struct end router = {.echoes = 1};
    struct end dealer = {.goal = 500, .echoes = 1};
    struct end quiet_router = {.echoes = 1};
    struct end quiet_dealer = {.goal = 100, .stop_after = 100};
    open_router(&router, loop, endpoint[0] == 's' ? endpoint : "inproc://busy");
    open_dealer(&dealer, loop, &router, "slave-1");
    open_router(&quiet_router, loop, endpoint);
    open_dealer(&quiet_dealer, loop, &quiet_router, "slave-2");
    fill(&dealer);
    fill(&quiet_dealer);
    assert_true(run_for(loop, GUARD_MS));
    uint64_t start_ms = znl_clock_mono_ms();
    assert_false(run_for(loop, 30));
    assert_in_range(znl_clock_mono_ms() - start_ms, 30, 20000);
    assert_true(dealer.received > 500);
    znl_link_close(quiet_router.link, 0);
    znl_link_close(quiet_dealer.link, 0);
    close_all(loop, &router, &dealer);
}

static void open_survives_each_allocation_failing(void **state)
{
    const char *endpoint = *state;
    for (long n = 0;; n++) {
        struct end router = {0};
        znl_loop *loop = NULL;
        znl_alloc_fail_after(n);
        int err = znl_loop_new(&loop);
        if (err == 0)
            err = open_end(&router, loop, options_of(1, endpoint, ""));
        znl_alloc_fail_after(-1);
        if (err == 0) {
            close_all(loop, &router, NULL);
            assert_true(n >= 3);
            return;
        }
        assert_int_equal(err, ZNL_E_NOMEM);
        assert_null(router.link);
        assert_int_equal(znl_loop_close(loop), 0);
    }
}

/* While there is no memory for a long message it is dropped, and the link goes on. */
static void receive_without_memory_drops_the_message(void **state)
{
    (void)state;
    znl_loop *loop = new_loop();
    struct end router = {.stop_after = 1};
    struct end dealer = {.goal = 1};
    znl_frame frames[50];
    for (size_t i = 0; i < 50; i++)
        frames[i] = znl_frame_text("x");
    open_router(&router, loop, "tcp://127.0.0.1:*");
    open_dealer(&dealer, loop, &router, "slave-1");
    fill(&dealer);
    assert_true(run_for(loop, GUARD_MS));
    assert_int_equal(znl_link_send(dealer.link, frames, 50), 0);
    znl_alloc_fail_after(0);
    for (int i = 0; i < GUARD_MS / 2 && router.dropped == 0; i++)
        run_for(loop, 2);
    znl_alloc_fail_after(-1);
    assert_int_equal(router.dropped, 1);
    assert_int_equal(router.dropped_err, ZNL_E_NOMEM);
    router.stop_after = 2;
    assert_int_equal(znl_link_send(dealer.link, frames, 50), 0);
    assert_true(run_for(loop, GUARD_MS));
    assert_int_equal(router.frames, 51);
    close_all(loop, &router, &dealer);
}

/* The test gets the endpoint to bind as its state. */
#define OVER_BOTH(function)                                                                    \
    {#function " over tcp", function, NULL, NULL, "tcp://127.0.0.1:*"},                        \
    {                                                                                          \
#function " over sim", function, NULL, NULL, "sim://*"                                 \
    }

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* a test that hangs is named */
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(loop_without_work_ends),
            cmocka_unit_test(deferred_work_runs_once_and_can_be_taken_back),
            cmocka_unit_test(wheel_timer_fires_on_time),
            cmocka_unit_test(clocks_are_read_after_waiting),
            cmocka_unit_test(work_from_timers_of_libuv_is_not_slept_over),
            cmocka_unit_test(loop_close_counts_handles_left_open),
            cmocka_unit_test(endpoints_are_checked),
            cmocka_unit_test(endpoint_parts_are_returned),
            cmocka_unit_test(echo_5000_over_tcp),
            cmocka_unit_test(echo_5000_over_ipc),
            cmocka_unit_test(echo_5000_over_inproc),
            cmocka_unit_test(echo_5000_over_sim),
            cmocka_unit_test(port_0_is_chosen_and_told),
            cmocka_unit_test(second_bind_is_address_in_use),
            cmocka_unit_test(unusable_addresses_and_ids_are_refused),
            cmocka_unit_test(endpoint_is_free_after_close),
            cmocka_unit_test(dealers_may_follow_each_other_at_once),
            OVER_BOTH(unknown_id_is_unreachable),
            OVER_BOTH(peer_that_left_is_unreachable),
            OVER_BOTH(lost_connections_are_told),
            cmocka_unit_test(a_loss_is_seen_while_the_loop_stands_still),
            cmocka_unit_test(watched_open_survives_each_allocation_failing),
            OVER_BOTH(newcomer_takes_the_id_over),
            cmocka_unit_test(oversize_frame_is_dropped_with_its_connection),
            OVER_BOTH(excess_is_dropped_and_told),
            {"frame size over inproc is checked too",
                    frame_size_inside_the_process_is_checked_too, NULL, NULL, "inproc://size"},
            {"frame size over sim is checked too", frame_size_inside_the_process_is_checked_too,
                    NULL, NULL, "sim://size"},
            OVER_BOTH(many_and_large_frames_arrive_whole),
            OVER_BOTH(send_before_connection_is_busy_then_writable),
            cmocka_unit_test(full_queue_is_busy_then_writable),
            OVER_BOTH(link_may_close_inside_its_callback),
            OVER_BOTH(last_messages_of_a_dealer_leave_while_it_lingers),
            OVER_BOTH(order_is_kept_when_hearing_takes_long),
            cmocka_unit_test(last_messages_of_a_router_leave_while_it_lingers),
            OVER_BOTH(busy_link_leaves_others_their_turn),
            OVER_BOTH(open_survives_each_allocation_failing),
            cmocka_unit_test(receive_without_memory_drops_the_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
