/* socket_type_test.c - who may talk to ROUTER and DEALER: sockets of libzmq of every type, and those that want a
 * security mechanism.
 *
 * SPDX-License-Identifier: MIT */
#include "conformance/stage.h"
#include "conformance/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int type;
    int to_router, to_dealer; /* may talk */
} types[] = {
        {"PAIR", ZMQ_PAIR, 0, 0},
        {"PUB", ZMQ_PUB, 0, 0},
        {"SUB", ZMQ_SUB, 0, 0},
        {"XPUB", ZMQ_XPUB, 0, 0},
        {"XSUB", ZMQ_XSUB, 0, 0},
        {"REQ", ZMQ_REQ, 1, 0},
        {"REP", ZMQ_REP, 0, 1},
        {"DEALER", ZMQ_DEALER, 1, 1},
        {"ROUTER", ZMQ_ROUTER, 1, 1},
        {"PULL", ZMQ_PULL, 0, 0},
        {"PUSH", ZMQ_PUSH, 0, 0},
};
#define TYPES (sizeof types / sizeof types[0])

/* A socket of libzmq beside the stage, that does not come back when it is refused. */
struct guest {
    void *context;
    void *socket;
};

static void guest_open(struct guest *guest, int type)
{
    int none = 0;
    int never = -1;
    guest->context = zmq_ctx_new();
    guest->socket = zmq_socket(guest->context, type);
    assert_non_null(guest->socket);
    zmq_setsockopt(guest->socket, ZMQ_LINGER, &none, sizeof none);
    zmq_setsockopt(guest->socket, ZMQ_RECONNECT_IVL, &never, sizeof never);
    if (type == ZMQ_SUB)
        zmq_setsockopt(guest->socket, ZMQ_SUBSCRIBE, "", 0);
}

static void guest_close(struct guest *guest)
{
    zmq_close(guest->socket);
    zmq_ctx_term(guest->context);
}

/* Says something, again and again for those that have nobody to say it to yet. */
static void try_to_say(struct guest *guest, const char *text)
{
    zmq_send(guest->socket, text, strlen(text), ZMQ_DONTWAIT);
}

static int hears(struct guest *guest, const char *text)
{
    char got[64];
    int size = zmq_recv(guest->socket, got, sizeof got, ZMQ_DONTWAIT);
    return size == (int)strlen(text) && memcmp(got, text, (size_t)size) == 0;
}

/* --- to a router -------------------------------------------------------------------------------- */

static void a_router_talks_to_req_dealer_and_router(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct end *neighbour = stage_end(&stage, END_BARE, dealer_options(router, "neighbour"));
    ends_meet(router, neighbour, "neighbour");
    for (size_t i = 0; i < TYPES; i++) {
        struct guest guest;
        char id[16]; /* of its own: the connection of the one before may still be ending */
        snprintf(id, sizeof id, "guest %zu", i);
        size_t refused = router->refused;
        size_t received = router->received;
        guest_open(&guest, types[i].type);
        zmq_setsockopt(guest.socket, ZMQ_ROUTING_ID, id, strlen(id));
        assert_int_equal(zmq_connect(guest.socket, router->endpoint), 0);
        try_to_say(&guest, "hello");
        if (types[i].to_router && types[i].type != ZMQ_ROUTER) {
            letter *heard = end_take(router);
            size_t last = heard->count - 1;
            assert_true(znl_frame_equal(heard->frames[0], znl_frame_text(id)));
            assert_true(znl_frame_equal(heard->frames[last], znl_frame_text("hello")));
            assert_int_equal(last, types[i].type == ZMQ_REQ ? 2 : 1); /* REQ: an empty frame */
            znl_frame answer[] = {heard->frames[0], znl_frame_text(""), znl_frame_text("yes")};
            if (types[i].type != ZMQ_REQ)
                answer[1] = answer[2];
            end_post(router, answer, last + 1);
            STAGE_UNTIL(&stage, hears(&guest, "yes"));
            free(heard);
        } else if (types[i].type == ZMQ_ROUTER) {
            /* It does not know our name; we know its. */
            znl_frame greet[] = {znl_frame_text(id), znl_frame_text("yes")};
            end_post(router, greet, 2);
            char name[16];
            STAGE_UNTIL(&stage, zmq_recv(guest.socket, name, sizeof name, ZMQ_DONTWAIT) == 5);
            STAGE_UNTIL(&stage, hears(&guest, "yes"));
        } else if (router->kind == END_OURS) {
            STAGE_UNTIL(&stage, router->refused == refused + 1);
            assert_int_equal(router->refused_err, ZNL_E_REFUSED);
            assert_non_null(strstr(router->refused_text, types[i].name));
            assert_non_null(strstr(router->refused_text, "ROUTER"));
        } else {
            stage_turns(&stage, 20);
        }
        if (!types[i].to_router)
            assert_int_equal(router->received, received);
        else
            assert_int_equal(router->refused, refused);
        guest_close(&guest);
        ends_meet(router, neighbour, "neighbour");
    }
    stage_close(&stage);
}

/* --- to a dealer -------------------------------------------------------------------------------- */

static void a_dealer_talks_to_rep_dealer_and_router(void **state)
{
    const pairing *pair = *state;
    for (size_t i = 0; i < TYPES; i++) {
        struct stage stage;
        struct guest guest;
        char endpoint[ZNL_ENDPOINT_BYTES_MAX];
        size_t size = sizeof endpoint;
        stage_open(&stage, pair);
        guest_open(&guest, types[i].type);
        assert_int_equal(zmq_bind(guest.socket, pair->endpoint), 0);
        zmq_getsockopt(guest.socket, ZMQ_LAST_ENDPOINT, endpoint, &size);
        znl_link_options options = router_options(&stage);
        options.is_router = 0;
        options.endpoint = endpoint;
        options.routing_id = znl_frame_text("a");
        struct end *dealer = stage_end(&stage, pair->dealer, options);
        if (types[i].to_dealer) {
            znl_frame frames[] = {znl_frame_text(""), znl_frame_text("hello")};
            end_post(dealer, frames, 2);
            char name[16];
            if (types[i].type == ZMQ_ROUTER)
                STAGE_UNTIL(&stage, zmq_recv(guest.socket, name, 16, ZMQ_DONTWAIT) == 1);
            if (types[i].type != ZMQ_REP)
                STAGE_UNTIL(&stage, zmq_recv(guest.socket, name, 16, ZMQ_DONTWAIT) == 0);
            STAGE_UNTIL(&stage, hears(&guest, "hello"));
            if (types[i].type == ZMQ_ROUTER)
                zmq_send(guest.socket, "a", 1, ZMQ_SNDMORE);
            if (types[i].type != ZMQ_REP)
                zmq_send(guest.socket, "", 0, ZMQ_SNDMORE);
            zmq_send(guest.socket, "yes", 3, 0);
            znl_frame answer[] = {znl_frame_text(""), znl_frame_text("yes")};
            end_expect(dealer, answer, 2);
            assert_int_equal(dealer->refused, 0);
        } else if (pair->dealer == END_OURS) {
            /* It asks again; each time it is told no. */
            STAGE_UNTIL(&stage, dealer->refused == 2);
            /* libzmq says its type, or closes as soon as it has heard ours. */
            assert_true(
                    dealer->refused_err == ZNL_E_REFUSED || dealer->refused_err == ZNL_E_GONE);
            if (strstr(dealer->refused_text, "DEALER") == NULL)
                fail_msg("%s: %s", types[i].name, dealer->refused_text);
            znl_frame frame = znl_frame_text("hello");
            assert_int_equal(end_send(dealer, &frame, 1), ZNL_E_BUSY);
            assert_int_equal(dealer->received, 0);
        } else {
            stage_turns(&stage, 20);
            assert_int_equal(dealer->received, 0);
        }
        guest_close(&guest);
        stage_close(&stage);
    }
}

/* --- mechanisms --------------------------------------------------------------------------------- */

static void want_curve(void *socket, int is_server)
{
    char public_key[41];
    char secret_key[41];
    int on = 1;
    assert_int_equal(zmq_curve_keypair(public_key, secret_key), 0);
    if (is_server) {
        zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &on, sizeof on);
    } else {
        zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, public_key, 41);
        zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public_key, 41);
    }
    assert_int_equal(zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret_key, 41), 0);
}

static void want_plain(void *socket, int is_server)
{
    int on = 1;
    if (is_server) {
        zmq_setsockopt(socket, ZMQ_PLAIN_SERVER, &on, sizeof on);
    } else {
        assert_int_equal(zmq_setsockopt(socket, ZMQ_PLAIN_USERNAME, "user", 4), 0);
        assert_int_equal(zmq_setsockopt(socket, ZMQ_PLAIN_PASSWORD, "secret", 6), 0);
    }
}

static void (*const wants[])(void *socket, int is_server) = {want_curve, want_plain};
static const char *const mechanisms[] = {"CURVE", "PLAIN"};

/* Whoever says it first: libzmq says its mechanism in the greeting, so we always see it. */
static void is_told_with_advice(const struct end *end, const char *mechanism)
{
    assert_int_equal(end->refused_err, ZNL_E_UNSUPPORTED);
    if (strstr(end->refused_text, mechanism) == NULL ||
            strstr(end->refused_text, "engine = \"libzmq\"") == NULL)
        fail_msg("%s", end->refused_text);
}

static void a_router_refuses_mechanisms_of_libzmq(void **state)
{
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct end *neighbour = stage_end(&stage, END_BARE, dealer_options(router, "neighbour"));
    ends_meet(router, neighbour, "neighbour");
    for (size_t i = 0; i < 2; i++)
        for (int is_server = 0; is_server < 2; is_server++) {
            struct guest guest;
            size_t refused = router->refused;
            size_t received = router->received;
            guest_open(&guest, ZMQ_DEALER);
            wants[i](guest.socket, is_server);
            assert_int_equal(zmq_connect(guest.socket, router->endpoint), 0);
            try_to_say(&guest, "hello");
            STAGE_UNTIL(&stage, router->refused > refused);
            is_told_with_advice(router, mechanisms[i]);
            assert_int_equal(router->received, received);
            guest_close(&guest);
            ends_meet(router, neighbour, "neighbour");
        }
    stage_close(&stage);
}

static void a_dealer_refuses_mechanisms_of_libzmq(void **state)
{
    const pairing *pair = *state;
    for (size_t i = 0; i < 2; i++)
        for (int is_server = 0; is_server < 2; is_server++) {
            struct stage stage;
            struct guest guest;
            char endpoint[ZNL_ENDPOINT_BYTES_MAX];
            size_t size = sizeof endpoint;
            stage_open(&stage, pair);
            guest_open(&guest, ZMQ_ROUTER);
            wants[i](guest.socket, is_server);
            assert_int_equal(zmq_bind(guest.socket, pair->endpoint), 0);
            zmq_getsockopt(guest.socket, ZMQ_LAST_ENDPOINT, endpoint, &size);
            znl_link_options options = router_options(&stage);
            options.is_router = 0;
            options.endpoint = endpoint;
            options.routing_id = znl_frame_text("a");
            struct end *dealer = stage_end(&stage, pair->dealer, options);
            STAGE_UNTIL(&stage, dealer->refused > 0);
            is_told_with_advice(dealer, mechanisms[i]);
            assert_int_equal(dealer->received + dealer->lost, 0);
            guest_close(&guest);
            stage_close(&stage);
        }
}

/* --- raw: types that are none ------------------------------------------------------------------- */

static void types_that_are_none_are_refused(void **state)
{
    static const char *names[] = {"router", "Dealer", "DEALERS", "DEAL", "ROUTER ", "SERVER",
            "CLIENT", "STREAM", "\n\x1b[31m",
            "XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"};
    struct stage stage;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        znl_buffer out = {0};
        struct wire *wire = wire_connect(&stage, router->endpoint);
        say_greeting(&out, 1, "NULL");
        say_ready(&out, names[i], "a", 1);
        say_text(&out, "hello");
        wire_say(wire, &out);
        wire_ends(wire);
        if (router->kind == END_OURS) {
            STAGE_UNTIL(&stage, router->refused == i + 1);
            assert_int_equal(router->refused_err, ZNL_E_REFUSED);
            for (const char *at = router->refused_text; *at != '\0'; at++)
                assert_in_range((unsigned char)*at, ' ', '~');
        }
        assert_int_equal(router->received, 0);
        wire_close(wire);
        free(out.data);
    }
    stage_close(&stage);
}

/* The peer is told in words of the protocol. */
static void the_refused_are_told_with_error(void **state)
{
    struct stage stage;
    znl_buffer out = {0};
    unsigned flags;
    stage_open(&stage, *state);
    struct end *router = stage_router(&stage);
    struct wire *wire = wire_connect(&stage, router->endpoint);
    say_greeting(&out, 1, "NULL");
    say_ready(&out, "PUSH", "", 0);
    assert_true(wire_say(wire, &out));
    wire_take_greeting(wire);
    znl_frame got = wire_take_frame(wire, &flags);
    assert_int_equal(flags, SAY_COMMAND);
    assert_true(got.size > 7);
    assert_memory_equal(got.data, "\5ERROR", 6);
    assert_int_equal(got.data[6], got.size - 7);
    wire_ends(wire);
    assert_int_equal(wire->in.size, wire->at);
    free(out.data);
    stage_close(&stage);
}

int main(int argc, char **argv)
{
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL); /* as "*ours*" */
    const struct CMUnitTest tests[] = {
            EACH_ENGINE(a_router_talks_to_req_dealer_and_router),
            EACH_ENGINE(a_dealer_talks_to_rep_dealer_and_router),
            OUR_ENGINE(a_router_refuses_mechanisms_of_libzmq),
            OUR_ENGINE(a_dealer_refuses_mechanisms_of_libzmq),
            EACH_ENGINE(types_that_are_none_are_refused),
            OUR_ENGINE(the_refused_are_told_with_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
