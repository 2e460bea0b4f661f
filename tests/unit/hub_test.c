/* The hub: who gets what, here and by the bus; sessions that change hands; clients that do not read. Real
 * connections, a bus of the test. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "node/hub.h"
#include "support/turns.h"

#define CLIENTS 6
#define QUEUE_BYTES 1024 /* of a client: too few for the messages of one turn of the loop */

/* --- a client, both ends of it ------------------------------------------------------------------------- */

struct client {
    znl_ws *far, *near; /* the browser's end; ours */
    uint64_t id;
    int opened, far_closed, near_closed;
    uint16_t code;
    char log[2048]; /* messages, each with "\n" */
    size_t messages;
};

static void on_open(void *user, const znl_http_head *head)
{
    struct client *client = user;
    (void)head;
    client->opened++;
}

static void on_far_message(void *user, uint8_t *data, size_t size, int is_text)
{
    struct client *client = user;
    size_t used = strlen(client->log);
    assert_true(is_text);
    client->messages++;
    snprintf(client->log + used, sizeof client->log - used, "%.*s\n", (int)size,
            (const char *)data);
}

static void on_near_message(void *user, uint8_t *data, size_t size, int is_text)
{
    (void)user, (void)data, (void)size, (void)is_text;
}

static void on_far_close(void *user, int err, uint16_t code, const char *text)
{
    struct client *client = user;
    (void)err, (void)text;
    client->code = code;
    client->far_closed++;
    znl_ws_drop(client->far, 0);
    client->far = NULL;
}

static void on_near_close(void *user, int err, uint16_t code, const char *text)
{
    struct client *client = user;
    (void)err, (void)code, (void)text;
    client->near_closed++;
    znl_ws_drop(client->near, 0);
    client->near = NULL;
}

static const znl_ws_events far_events = {
        .on_open = on_open, .on_message = on_far_message, .on_close = on_far_close};
static const znl_ws_events near_events = {
        .on_message = on_near_message, .on_close = on_near_close};

/* --- the scene ----------------------------------------------------------------------------------------- */

struct scene {
    znl_loop *loop;
    znl_http_server *server;
    znl_hub *hub;
    struct client clients[CLIENTS];
    struct client *accepting;
    znl_ws_limits limits;
    /* The bus. */
    int bus_error;
    int published;
    char subject[64];
    char payload[2048];
    /* Events. */
    int slow, errors, last_error;
    uint64_t slow_id;
    int ended;
    uint64_t ended_id;
};

static void on_request(
        void *user, znl_http_exchange *exchange, const znl_http_head *head, znl_frame body)
{
    struct scene *scene = user;
    (void)body;
    assert_int_equal(znl_ws_accept(&scene->accepting->near, scene->loop, exchange, head, NULL,
                             &scene->limits, &near_events, scene->accepting),
            0);
}

static int bus_publish(
        void *user, const char *subject, const char *reply, const void *data, size_t size)
{
    struct scene *scene = user;
    assert_null(reply);
    if (scene->bus_error != 0)
        return scene->bus_error;
    scene->published++;
    snprintf(scene->subject, sizeof scene->subject, "%s", subject);
    snprintf(scene->payload, sizeof scene->payload, "%.*s", (int)size, (const char *)data);
    return 0;
}

static size_t bus_max_payload(void *user)
{
    (void)user;
    return 1048576;
}

static const znl_bus bus = {.publish = bus_publish, .max_payload = bus_max_payload};

static void on_slow(void *user, uint64_t id)
{
    struct scene *scene = user;
    scene->slow++;
    scene->slow_id = id;
}

static void on_error(void *user, int err)
{
    struct scene *scene = user;
    scene->errors++;
    scene->last_error = err;
}

static void on_ended(void *user, uint64_t id)
{
    struct scene *scene = user;
    scene->ended++;
    scene->ended_id = id;
}

static const znl_hub_events hub_events = {
        .on_slow = on_slow, .on_error = on_error, .on_ended = on_ended};

static znl_frame text(const char *string)
{
    return znl_frame_text(string);
}

static void make_hub(struct scene *scene, znl_hub_slow on_slow_client)
{
    const znl_hub_options options = {.prefix = text("mega.ws"),
            .app = text("main"),
            .origin = text("instA"),
            .on_slow = on_slow_client,
            .bus = &bus,
            .bus_user = scene};
    znl_hub_free(scene->hub);
    assert_int_equal(znl_hub_new(&scene->hub, scene->loop, &options, &hub_events, scene), 0);
    znl_hub_start(scene->hub);
}

static int set_up(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    assert_non_null(scene);
    assert_int_equal(znl_random_start(), 0);
    assert_int_equal(znl_loop_new(&scene->loop), 0);
    const znl_http_server_options options = {
            .listen = {.host = "127.0.0.1", .max_queue_bytes = QUEUE_BYTES}};
    assert_int_equal(
            znl_http_server_open(&scene->server, scene->loop, &options, on_request, scene), 0);
    scene->limits.close_ms = 60;
    make_hub(scene, ZNL_HUB_SLOW_CLOSE);
    *state = scene;
    return 0;
}

static int tear_down(void **state)
{
    struct scene *scene = *state;
    znl_hub_free(scene->hub);
    for (int i = 0; i < CLIENTS; i++) {
        znl_ws_drop(scene->clients[i].far, 0);
        znl_ws_drop(scene->clients[i].near, 0);
    }
    znl_http_server_close(scene->server);
    run_for(scene->loop, 5);
    assert_int_equal(znl_loop_close(scene->loop), 0);
    free(scene);
    return 0;
}

/* A connection that is open at both ends, in no hub yet. */
static struct client *join_up(struct scene *scene, int number)
{
    struct client *client = &scene->clients[number];
    const znl_ws_connect_options options = {
            .stream = {.host = "127.0.0.1", .port = znl_http_server_port(scene->server)},
            .path = "/",
            .limits = {.close_ms = 60}};
    scene->accepting = client;
    assert_int_equal(
            znl_ws_connect(&client->far, scene->loop, &options, &far_events, client), 0);
    RUN_UNTIL(scene->loop, client->opened == 1 && client->near != NULL);
    return client;
}

static struct client *attach(struct scene *scene, int number, const char *ns)
{
    struct client *client = join_up(scene, number);
    assert_int_equal(znl_hub_attach(scene->hub, client->near, text(ns), &client->id), 0);
    return client;
}

static znl_hub_session join(struct scene *scene, const struct client *client,
        const char *session_id, const char *user_id, const char *channel)
{
    znl_hub_session session;
    znl_frame channels[1] = {text(channel != NULL ? channel : "")};
    assert_int_equal(znl_hub_join(scene->hub, client->id, text(session_id), text(user_id),
                             channels, channel != NULL, &session),
            0);
    return session;
}

static void assert_left(const znl_hub_session *session, const char *name)
{
    assert_non_null(session->left.data);
    assert_int_equal(session->left.size, strlen(name));
    assert_memory_equal(session->left.data, name, session->left.size);
}

/* What was received since, all of it. */
static void assert_log(struct scene *scene, struct client *client, const char *want)
{
    RUN_UNTIL(scene->loop, strlen(client->log) >= strlen(want));
    assert_string_equal(client->log, want);
    client->log[0] = 0;
}

static uint32_t broadcast(struct scene *scene, const char *ns, const char *channel,
        const char *message, const char *except)
{
    znl_frame channel_text = text(channel != NULL ? channel : "");
    znl_frame except_text = text(except != NULL ? except : "");
    return znl_hub_broadcast(scene->hub, text(ns), channel != NULL ? &channel_text : NULL,
            text(message), &except_text, except != NULL);
}

static void receive(struct scene *scene, const char *payload)
{
    znl_hub_receive_broadcast(scene->hub, (const uint8_t *)payload, strlen(payload));
}

static void receive_direct(struct scene *scene, const char *payload)
{
    znl_hub_receive_direct(scene->hub, (const uint8_t *)payload, strlen(payload));
}

#define HI "{\"type\":\"said\",\"payload\":\"hi\"}"
#define ANY "{\"type\":\"end\"}"

/* Nothing is on its way to anybody any more: a last message has arrived everywhere, and nothing but it. */
static void assert_quiet(struct scene *scene)
{
    for (int i = 0; i < CLIENTS; i++) {
        struct client *client = &scene->clients[i];
        if (client->near == NULL)
            continue;
        assert_int_equal(znl_ws_send(client->near, 1, ANY, strlen(ANY)), 0);
        assert_log(scene, client, ANY "\n");
    }
}

/* --- who gets what -------------------------------------------------------------------------------------- */

static void broadcasts_go_to_their_namespace(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/ws/chat"), *b = attach(scene, 1, "/ws/chat");
    struct client *other = attach(scene, 2, "/ws/news");
    assert_int_equal(znl_hub_client_count(scene->hub), 3);
    assert_int_equal(broadcast(scene, "/ws/chat", NULL, HI, NULL), 2);
    assert_int_equal(broadcast(scene, "/ws/nobody", NULL, HI, NULL), 0);
    assert_log(scene, a, HI "\n");
    assert_log(scene, b, HI "\n");
    assert_quiet(scene);
    assert_int_equal(znl_hub_send(scene->hub, other->id, text(HI)), 0);
    assert_log(scene, other, HI "\n");
    assert_int_equal(znl_hub_send(scene->hub, other->id + 1, text(HI)), ZNL_E_NOT_FOUND);
}

static void channels_and_left_out_sessions(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c"), *b = attach(scene, 1, "/c");
    struct client *guest = attach(scene, 2, "/c"), *other = attach(scene, 3, "/d");
    join(scene, a, "s1", "ann", "room");
    join(scene, b, "s2", "bob", NULL);
    join(scene, other, "s3", "cid", "room");
    assert_int_equal(broadcast(scene, "/c", "room", HI, NULL), 1);
    assert_log(scene, a, HI "\n");
    assert_int_equal(broadcast(scene, "/c", "nowhere", HI, NULL), 0);
    assert_int_equal(broadcast(scene, "/c", NULL, HI, "s1"), 2);
    assert_log(scene, b, HI "\n");
    assert_log(scene, guest, HI "\n");
    assert_int_equal(znl_hub_get_counters(scene->hub).skipped, 1);
    /* Only of that one message. */
    assert_int_equal(broadcast(scene, "/c", NULL, HI, NULL), 3);
    assert_log(scene, a, HI "\n");
    assert_log(scene, b, HI "\n");
    assert_log(scene, guest, HI "\n");
    assert_quiet(scene);
}

static void a_channel_that_is_named_twice_counts_once(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c");
    const znl_frame channels[] = {text("x"), text("y"), text("x"), text("x")};
    znl_hub_session session;
    assert_int_equal(
            znl_hub_join(scene->hub, a->id, text("s"), text("u"), channels, 4, &session), 0);
    assert_int_equal(broadcast(scene, "/c", "x", HI, NULL), 1);
    assert_int_equal(broadcast(scene, "/c", "y", HI, NULL), 1);
    assert_log(scene, a, HI "\n" HI "\n");
    /* The next join takes the place of this one. */
    join(scene, a, "s", "u", "z");
    assert_int_equal(broadcast(scene, "/c", "x", HI, NULL), 0);
    assert_int_equal(broadcast(scene, "/c", "z", HI, NULL), 1);
    assert_log(scene, a, HI "\n");
    assert_quiet(scene);
}

static void direct_goes_to_all_of_a_user(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c"), *b = attach(scene, 1, "/d");
    struct client *other = attach(scene, 2, "/c");
    join(scene, a, "s1", "ann", NULL);
    join(scene, b, "s2", "ann", NULL);
    join(scene, other, "s3", "bob", NULL);
    assert_int_equal(znl_hub_direct(scene->hub, text("ann"), text(HI)), 2);
    assert_int_equal(znl_hub_direct(scene->hub, text("nobody"), text(HI)), 0);
    assert_log(scene, a, HI "\n");
    assert_log(scene, b, HI "\n");
    assert_quiet(scene);
}

/* --- sessions ------------------------------------------------------------------------------------------- */

static void a_session_ends_with_who_holds_it(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c"), *b = attach(scene, 1, "/c");
    znl_hub_session session = join(scene, a, "s", "ann", NULL);
    assert_int_equal(session.previous, 0);
    assert_null(session.left.data);
    session = join(scene, b, "s", "ann", NULL);
    assert_int_equal(session.previous, a->id);
    assert_null(session.left.data);
    /* Both are mapped to it, and left out with it. */
    assert_int_equal(znl_hub_direct(scene->hub, text("ann"), text(HI)), 2);
    assert_int_equal(broadcast(scene, "/c", NULL, HI, "s"), 0);
    assert_int_equal(znl_hub_detach(scene->hub, a->id, &session), 0);
    assert_null(session.left.data);
    assert_int_equal(znl_hub_direct(scene->hub, text("ann"), text(HI)), 1);
    assert_int_equal(znl_hub_detach(scene->hub, b->id, &session), 0);
    assert_left(&session, "s");
    assert_int_equal(znl_hub_detach(scene->hub, b->id, &session), ZNL_E_NOT_FOUND);
    assert_int_equal(znl_hub_client_count(scene->hub), 0);
}

static void joining_again_leaves_the_other_session(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c");
    join(scene, a, "s1", "ann", NULL);
    znl_hub_session session = join(scene, a, "s1", "bob", NULL);
    assert_null(session.left.data);
    assert_int_equal(session.previous, 0);
    assert_int_equal(znl_hub_direct(scene->hub, text("ann"), text(HI)), 0);
    assert_int_equal(znl_hub_direct(scene->hub, text("bob"), text(HI)), 1);
    session = join(scene, a, "s2", "bob", NULL);
    assert_left(&session, "s1");
    assert_int_equal(znl_hub_leave(scene->hub, a->id, &session), 0);
    assert_left(&session, "s2");
    assert_int_equal(znl_hub_leave(scene->hub, a->id, &session), 0);
    assert_null(session.left.data);
    assert_int_equal(znl_hub_direct(scene->hub, text("bob"), text(HI)), 0);
    assert_int_equal(broadcast(scene, "/c", NULL, HI, NULL), 1);
}

static void who_has_ended_gets_nothing_and_keeps_the_session(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c");
    znl_hub_session session;
    join(scene, a, "s", "ann", "room");
    znl_hub_end(scene->hub, a->id);
    znl_hub_end(scene->hub, a->id);
    assert_int_equal(scene->ended, 0); /* from the loop */
    RUN_UNTIL(scene->loop, scene->ended > 0);
    assert_int_equal(scene->ended, 1);
    assert_true(scene->ended_id == a->id);
    assert_int_equal(broadcast(scene, "/c", NULL, HI, "s"), 0);
    assert_int_equal(broadcast(scene, "/c", "room", HI, NULL), 0);
    assert_int_equal(znl_hub_direct(scene->hub, text("ann"), text(HI)), 0);
    assert_int_equal(znl_hub_send(scene->hub, a->id, text(HI)), ZNL_E_CLOSED);
    assert_int_equal(znl_hub_join(scene->hub, a->id, text("x"), text("u"), NULL, 0, &session),
            ZNL_E_CLOSED);
    assert_int_equal(znl_hub_detach(scene->hub, a->id, &session), 0);
    assert_left(&session, "s");
}

static void names_and_channels_have_limits(void **state)
{
    struct scene *scene = *state;
    static char name[ZNL_HUB_NAME_BYTES_MAX + 1];
    znl_frame channels[ZNL_HUB_CHANNELS_MAX + 1];
    znl_hub_session session;
    uint64_t id;
    memset(name, 'x', sizeof name);
    const znl_frame longest = znl_frame_of(name, sizeof name - 1);
    const znl_frame longer = znl_frame_of(name, sizeof name);
    struct client *a = join_up(scene, 0);
    assert_int_equal(znl_hub_attach(scene->hub, a->near, longer, &id), ZNL_E_TOO_BIG);
    assert_int_equal(znl_hub_attach(scene->hub, a->near, longest, &id), 0);
    assert_int_equal(znl_hub_join(scene->hub, id, longest, longest, &longest, 1, &session), 0);
    assert_int_equal(
            znl_hub_join(scene->hub, id, longer, longest, NULL, 0, &session), ZNL_E_TOO_BIG);
    assert_int_equal(
            znl_hub_join(scene->hub, id, longest, longer, NULL, 0, &session), ZNL_E_TOO_BIG);
    assert_int_equal(znl_hub_join(scene->hub, id, longest, longest, &longer, 1, &session),
            ZNL_E_TOO_BIG);
    for (size_t i = 0; i <= ZNL_HUB_CHANNELS_MAX; i++)
        channels[i] = znl_frame_of(name, i);
    assert_int_equal(znl_hub_join(scene->hub, id, longest, longest, channels,
                             ZNL_HUB_CHANNELS_MAX + 1, &session),
            ZNL_E_LIMIT);
    assert_int_equal(znl_hub_join(scene->hub, id, longest, longest, channels,
                             ZNL_HUB_CHANNELS_MAX, &session),
            0);
    assert_int_equal(znl_hub_detach(scene->hub, id, &session), 0);
    assert_int_equal(session.left.size, sizeof name - 1);
}

static void there_is_a_limit_of_clients(void **state)
{
    struct scene *scene = *state;
    const znl_hub_options options = {
            .prefix = text("p"), .app = text("a"), .origin = text("o"), .max_clients = 2};
    znl_hub_free(scene->hub);
    assert_int_equal(znl_hub_new(&scene->hub, scene->loop, &options, &hub_events, scene), 0);
    uint64_t first, second, third;
    znl_hub_session session;
    znl_ws *ws = join_up(scene, 0)->near;
    assert_int_equal(znl_hub_attach(scene->hub, ws, text("/"), &first), 0);
    assert_int_equal(znl_hub_attach(scene->hub, ws, text("/"), &second), 0);
    assert_int_equal(znl_hub_attach(scene->hub, ws, text("/"), &third), ZNL_E_LIMIT);
    assert_int_equal(znl_hub_detach(scene->hub, first, &session), 0);
    assert_int_equal(znl_hub_attach(scene->hub, ws, text("/"), &third), 0);
    assert_true(third != first); /* though it has its place */
    assert_int_equal(znl_hub_detach(scene->hub, first, &session), ZNL_E_NOT_FOUND);
}

static void without_memory_all_is_as_before(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c"), *b = attach(scene, 1, "/c");
    const znl_frame channels[] = {text("x"), text("y"), text("x")};
    znl_hub_session session;
    join(scene, a, "old", "ann", "room");
    join(scene, b, "new", "bob", NULL);
    int err = ZNL_E_NOMEM;
    long failed = 0;
    for (; err == ZNL_E_NOMEM; failed++) {
        znl_alloc_fail_after(failed);
        err = znl_hub_join(scene->hub, a->id, text("new"), text("cid"), channels, 3, &session);
        znl_alloc_fail_after(-1);
        if (err != 0) {
            assert_int_equal(znl_hub_direct(scene->hub, text("ann"), text(HI)), 1);
            assert_int_equal(znl_hub_direct(scene->hub, text("cid"), text(HI)), 0);
            assert_int_equal(broadcast(scene, "/c", "room", HI, NULL), 1);
            assert_int_equal(broadcast(scene, "/c", "x", HI, NULL), 0);
            assert_null(session.left.data);
        }
    }
    assert_int_equal(err, 0);
    assert_true(failed > 5);
    assert_left(&session, "old");
    assert_int_equal(session.previous, b->id);
    uint64_t id;
    err = ZNL_E_NOMEM;
    for (failed = 0; err == ZNL_E_NOMEM; failed++) {
        znl_alloc_fail_after(failed);
        err = znl_hub_attach(scene->hub, a->near, text("/other"), &id);
        znl_alloc_fail_after(-1);
        assert_int_equal(znl_hub_client_count(scene->hub), err == 0 ? 3 : 2);
    }
    assert_int_equal(err, 0);
}

/* --- the bus -------------------------------------------------------------------------------------------- */

static void what_is_sent_is_published(void **state)
{
    struct scene *scene = *state;
    assert_string_equal(znl_hub_broadcast_subject(scene->hub), "mega.ws.main.bcast");
    assert_string_equal(znl_hub_direct_subject(scene->hub), "mega.ws.main.direct");
    broadcast(scene, "/ws/chat", NULL, HI, NULL);
    assert_string_equal(scene->subject, "mega.ws.main.bcast");
    assert_string_equal(
            scene->payload, "{\"o\":\"instA\",\"ns\":\"/ws/chat\",\"message\":" HI "}");
    broadcast(scene, "/ws/chat", "ro\"om", HI, "s1");
    assert_string_equal(scene->payload,
            "{\"o\":\"instA\",\"ns\":\"/ws/chat\",\"channel\":\"ro\\\"om\",\"message\":" HI
            ",\"exceptSessionIds\":[\"s1\"]}");
    const znl_frame except[] = {text("s1"), text("s\\2")};
    znl_hub_broadcast(scene->hub, text("/c"), NULL, text(HI), except, 2);
    assert_string_equal(scene->payload,
            "{\"o\":\"instA\",\"ns\":\"/c\",\"message\":" HI
            ",\"exceptSessionIds\":[\"s1\",\"s\\\\2\"]}");
    znl_hub_direct(scene->hub, text("ann"), text(HI));
    assert_string_equal(scene->subject, "mega.ws.main.direct");
    assert_string_equal(
            scene->payload, "{\"o\":\"instA\",\"userId\":\"ann\",\"message\":" HI "}");
    assert_int_equal(scene->published, 4);
    const znl_hub_counters counters = znl_hub_get_counters(scene->hub);
    assert_int_equal(counters.published, 4);
    assert_int_equal(counters.broadcasts, 3);
    assert_int_equal(counters.directs, 1);
    assert_true(counters.published_bytes > 200);
}

static void nothing_is_published_or_received_unless_started(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c");
    znl_hub_stop(scene->hub);
    assert_int_equal(broadcast(scene, "/c", NULL, HI, NULL), 1);
    znl_hub_direct(scene->hub, text("ann"), text(HI));
    receive(scene, "{\"o\":\"instB\",\"ns\":\"/c\",\"message\":{\"type\":\"x\"}}");
    assert_int_equal(scene->published, 0);
    assert_log(scene, a, HI "\n");
    assert_quiet(scene);
    assert_int_equal(znl_hub_get_counters(scene->hub).received, 0);
}

static void failures_to_publish_are_counted_and_told_once(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c");
    scene->bus_error = ZNL_E_OFFLINE;
    assert_int_equal(broadcast(scene, "/c", NULL, HI, NULL), 1);
    znl_hub_direct(scene->hub, text("ann"), text(HI));
    assert_int_equal(scene->errors, 0); /* not from inside a call */
    RUN_UNTIL(scene->loop, scene->errors == 1);
    assert_int_equal(scene->last_error, ZNL_E_OFFLINE);
    scene->bus_error = ZNL_E_BUSY;
    broadcast(scene, "/c", NULL, HI, NULL);
    scene->bus_error = ZNL_E_TOO_BIG;
    broadcast(scene, "/c", NULL, HI, NULL);
    assert_log(scene, a, HI "\n" HI "\n" HI "\n");
    assert_int_equal(scene->errors, 1);
    scene->bus_error = 0;
    broadcast(scene, "/c", NULL, HI, NULL);
    scene->bus_error = ZNL_E_CLOSED;
    broadcast(scene, "/c", NULL, HI, NULL);
    RUN_UNTIL(scene->loop, scene->errors == 2);
    assert_int_equal(scene->last_error, ZNL_E_CLOSED);
    const znl_hub_counters counters = znl_hub_get_counters(scene->hub);
    assert_int_equal(counters.published, 1);
    assert_int_equal(counters.dropped_offline, 2);
    assert_int_equal(counters.dropped_busy, 1);
    assert_int_equal(counters.dropped_too_big, 1);
    assert_int_equal(counters.dropped_other, 1);
}

static void what_is_received_is_delivered(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c"), *b = attach(scene, 1, "/c");
    join(scene, a, "s1", "ann", "room");
    receive(scene,
            "{\"o\":\"instB\",\"ns\":\"/c\",\"message\":{\"type\":\"x\",\"payload\":[1, 2]}}");
    assert_log(scene, a, "{\"type\":\"x\",\"payload\":[1, 2]}\n");
    assert_log(scene, b, "{\"type\":\"x\",\"payload\":[1, 2]}\n");
    /* Without an origin; unknown fields; names and texts with escapes. */
    receive(scene,
            "{\"zz\":{},\"n\\u0073\":\"\\/c\",\"ch\\u0061nnel\":\"ro\\u006fm\","
            "\"message\":{\"more\":1,\"payload\":null,\"type\":\"y\"}}");
    assert_log(scene, a, "{\"type\":\"y\",\"payload\":null}\n");
    receive(scene,
            "{\"o\":\"instB\",\"ns\":\"/c\",\"channel\":null,\"message\":{\"type\":\"z\"},"
            "\"exceptSessionIds\":[7,\"nobody\",\"s\\u0031\",{}]}");
    assert_log(scene, b, "{\"type\":\"z\"}\n");
    receive(scene,
            "{\"o\":\"instB\",\"ns\":\"/c\",\"message\":{\"type\":\"e\"},"
            "\"exceptSessionIds\":[]}");
    assert_log(scene, a, "{\"type\":\"e\"}\n");
    assert_log(scene, b, "{\"type\":\"e\"}\n");
    receive_direct(scene, "{\"o\":\"instB\",\"userId\":\"ann\",\"message\":{\"type\":\"dm\"}}");
    receive_direct(scene, "{\"o\":\"instB\",\"userId\":\"who\",\"message\":{\"type\":\"dm\"}}");
    assert_log(scene, a, "{\"type\":\"dm\"}\n");
    assert_quiet(scene);
    const znl_hub_counters counters = znl_hub_get_counters(scene->hub);
    assert_int_equal(counters.received, 6);
    assert_int_equal(counters.malformed, 0);
    assert_int_equal(counters.delivered, 7);
    assert_int_equal(counters.skipped, 1);
    assert_int_equal(scene->published, 0);
}

static void echoes_and_nonsense_reach_nobody(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c");
    join(scene, a, "s1", "ann", "7");
    receive(scene, "{\"o\":\"instA\",\"ns\":\"/c\",\"message\":{\"type\":\"x\"}}");
    receive_direct(
            scene, "{\"o\":\"\\u0069nstA\",\"userId\":\"ann\",\"message\":{\"type\":\"x\"}}");
    assert_int_equal(znl_hub_get_counters(scene->hub).echoes, 2);
    static const char *const nonsense[] = {
            "",
            "{",
            "null",
            "[]",
            "\"x\"",
            "{}",
            "{\"o\":\"b\",\"ns\":\"/c\"}",
            "{\"o\":\"b\",\"ns\":\"/c\",\"message\":{}}",
            "{\"o\":\"b\",\"ns\":\"/c\",\"message\":{\"type\":7}}",
            "{\"o\":\"b\",\"ns\":\"/c\",\"message\":\"text\"}",
            "{\"o\":\"b\",\"ns\":7,\"message\":{\"type\":\"x\"}}",
            "{\"o\":\"b\",\"message\":{\"type\":\"x\"}}",
            "{\"o\":\"b\",\"ns\":\"/c\",\"channel\":7,\"message\":{\"type\":\"x\"}}",
            "{\"o\":\"b\",\"ns\":\"/c\",\"message\":{\"type\":\"x\"}} {}",
            "{\"o\":\"b\",\"ns\":\"/c\",\"message\":{\"type\":\"\xff\"}}",
    };
    const size_t count = sizeof nonsense / sizeof *nonsense;
    for (size_t i = 0; i < count; i++)
        receive(scene, nonsense[i]);
    receive_direct(scene, "{\"o\":\"b\",\"message\":{\"type\":\"x\"}}");
    assert_int_equal(znl_hub_get_counters(scene->hub).malformed, count + 1);
    assert_int_equal(znl_hub_get_counters(scene->hub).delivered, 0);
    assert_quiet(scene);
}

static void bad_subjects_are_refused(void **state)
{
    struct scene *scene = *state;
    static const char *const bad[][2] = {{"", "a"}, {"p", ""}, {"p.", "a"}, {".p", "a"},
            {"p..q", "a"}, {"p q", "a"}, {"p*", "a"}, {"p.>", "a"}, {"p", "a.b"}, {"p", "a*"},
            {"p", ">"}, {"p", "a b"}, {"p", "a\t"}, {"p\n", "a"}};
    znl_hub *hub = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const znl_hub_options options = {
                .prefix = text(bad[i][0]), .app = text(bad[i][1]), .origin = text("o")};
        assert_int_equal(
                znl_hub_new(&hub, scene->loop, &options, &hub_events, scene), ZNL_E_INVALID);
    }
    const znl_hub_options nobody = {.prefix = text("p"), .app = text("a"), .origin = text("")};
    assert_int_equal(
            znl_hub_new(&hub, scene->loop, &nobody, &hub_events, scene), ZNL_E_INVALID);
    assert_null(hub);
}

/* --- who does not read ---------------------------------------------------------------------------------- */

/* Fills the queue of a client; returns how many it took. */
static int fill(struct scene *scene, int most)
{
    int count = 0;
    while (count < most && broadcast(scene, "/c", NULL, HI, NULL) == 1)
        count++;
    assert_true(count > 0 && count < most);
    return count;
}

static void slow_clients_are_closed(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c");
    fill(scene, 1000); /* in one turn: nothing has left yet */
    assert_int_equal(scene->slow, 0);
    assert_int_equal(broadcast(scene, "/c", NULL, HI, NULL), 0);
    RUN_UNTIL(scene->loop, a->far_closed == 1);
    assert_int_equal(a->code, 1013);
    assert_int_equal(scene->slow, 1);
    assert_true(scene->slow_id == a->id);
    assert_int_equal(znl_hub_get_counters(scene->hub).slow_closed, 1);
    assert_int_equal(znl_hub_get_counters(scene->hub).slow_dropped, 0);
}

static void slow_clients_miss_messages(void **state)
{
    struct scene *scene = *state;
    make_hub(scene, ZNL_HUB_SLOW_DROP);
    struct client *a = attach(scene, 0, "/c");
    int taken = fill(scene, 1000);
    for (int i = 0; i < 3; i++)
        assert_int_equal(broadcast(scene, "/c", NULL, HI, NULL), 0);
    RUN_UNTIL(scene->loop, scene->slow == 1);
    RUN_UNTIL(scene->loop, a->messages == (size_t)taken);
    assert_int_equal(znl_hub_get_counters(scene->hub).slow_dropped, 4);
    assert_int_equal(znl_hub_get_counters(scene->hub).slow_closed, 0);
    /* It reads again, and is told of when it stops once more. */
    taken = fill(scene, 1000);
    RUN_UNTIL(scene->loop, scene->slow == 2);
    assert_true(znl_ws_is_open(a->near));
    assert_int_equal(a->far_closed, 0);
}

static void a_slow_client_that_is_gone_before_it_is_told(void **state)
{
    struct scene *scene = *state;
    struct client *a = attach(scene, 0, "/c");
    znl_hub_session session;
    fill(scene, 1000);
    assert_int_equal(znl_hub_detach(scene->hub, a->id, &session), 0);
    RUN_UNTIL(scene->loop, scene->slow == 1);
    assert_int_equal(znl_hub_send(scene->hub, scene->slow_id, text(HI)), ZNL_E_NOT_FOUND);
    /* And a hub that goes with something still to tell. */
    assert_int_equal(znl_hub_attach(scene->hub, a->near, text("/c"), &a->id), 0);
    scene->bus_error = ZNL_E_OFFLINE;
    broadcast(scene, "/c", NULL, HI, NULL);
    znl_hub_free(scene->hub);
    scene->hub = NULL;
    run_for(scene->loop, 5);
    assert_int_equal(scene->errors, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
            TEST(broadcasts_go_to_their_namespace),
            TEST(channels_and_left_out_sessions),
            TEST(a_channel_that_is_named_twice_counts_once),
            TEST(direct_goes_to_all_of_a_user),
            TEST(a_session_ends_with_who_holds_it),
            TEST(joining_again_leaves_the_other_session),
            TEST(who_has_ended_gets_nothing_and_keeps_the_session),
            TEST(names_and_channels_have_limits),
            TEST(there_is_a_limit_of_clients),
            TEST(without_memory_all_is_as_before),
            TEST(what_is_sent_is_published),
            TEST(nothing_is_published_or_received_unless_started),
            TEST(failures_to_publish_are_counted_and_told_once),
            TEST(what_is_received_is_delivered),
            TEST(echoes_and_nonsense_reach_nobody),
            TEST(bad_subjects_are_refused),
            TEST(slow_clients_are_closed),
            TEST(slow_clients_miss_messages),
            TEST(a_slow_client_that_is_gone_before_it_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
