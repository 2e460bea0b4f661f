/* node_calls_test.c - what nodes say of themselves and when they send calls: a master and a slave against
 * raw links, with every frame in view and a clock that stands still.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/random.h"
#include "node/master.h"
#include "node/slave.h"
#include "security/proof.h"
#include "transport/link_sim.h"

#define NAME "sim://calls"
#define KEY "the key"
#define TEXT(text) znl_frame_of(text, sizeof text - 1)
#define CALL "__znl_v1_call__"
#define EXT "__znl_v1_ext__"

static const znl_waiter waiter = {NULL, 7};

static znl_loop *loop;
static znl_master *master;
static znl_slave *slave;
static znl_keys *keys;

/* --- what a node reported ---------------------------------------------------------------------- */

static struct {
    unsigned requests, replies, failures, refusals, peers;
    int err, reason;
    int is_call, is_error, is_json, is_malformed;
    char route[64], body[64];
    uint64_t deadline_ms;
} heard;

static void keep_message(const znl_message *message)
{
    heard.is_call = message->call != NULL;
    heard.is_malformed = message->is_malformed;
    heard.is_error = heard.is_call && message->call->is_error;
    heard.is_json = heard.is_call && message->call->is_json;
    heard.deadline_ms = message->deadline_ms;
    heard.route[0] = heard.body[0] = 0;
    if (heard.is_call && message->call->route.size > 0)
        snprintf(heard.route, sizeof heard.route, "%.*s", (int)message->call->route.size,
                (const char *)message->call->route.data);
    for (size_t i = 0, at = 0; i < message->payload_count; i++)
        at += (size_t)snprintf(heard.body + at, sizeof heard.body - at, "%s%.*s",
                i > 0 ? "|" : "", (int)message->payload[i].size,
                (const char *)message->payload[i].data);
}

static void on_request(void *user, const znl_message *message)
{
    (void)user;
    heard.requests++;
    keep_message(message);
}

static void on_reply(void *user, znl_waiter who, const znl_message *message)
{
    (void)user;
    assert_int_equal(who.ticket, waiter.ticket);
    heard.replies++;
    keep_message(message);
}

static void on_failed(void *user, znl_waiter who, int err)
{
    (void)user;
    assert_int_equal(who.ticket, waiter.ticket);
    heard.failures++;
    heard.err = err;
}

/* What a script does when it hears of something; NULL: nothing. */
static void (*react)(void);

static void on_message(void *user, const znl_message *message)
{
    (void)user;
    (void)message;
    if (react != NULL)
        react();
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
    (void)user;
    (void)id;
    (void)reason;
    heard.peers += online != 0;
}

static void on_auth_failed(void *user, znl_frame peer, znl_kind kind, int reason)
{
    (void)user;
    (void)peer;
    (void)kind;
    heard.refusals++;
    heard.reason = reason;
    if (react != NULL)
        react();
}

static void on_trouble(void *user, int err, const char *text)
{
    (void)user;
    (void)err;
    (void)text;
}

static const znl_node_events events = {on_request, on_reply, on_failed, on_message, on_raw,
        on_peer, on_auth_failed, on_trouble};

/* --- the raw side ------------------------------------------------------------------------------ */

#define KEPT 32

/* Messages the raw link received, each as text: frames with a bar between them. */
static struct {
    znl_link *link;
    size_t count;
    char text[KEPT][400];
    uint8_t id[64]; /* the second frame that is no routing id: a request id */
    size_t id_size;
} raw;

static void on_link_message(void *user, const znl_frame *frames, size_t count)
{
    (void)user;
    assert_true(raw.count < KEPT);
    char *text = raw.text[raw.count++];
    size_t at = 0;
    text[0] = 0;
    for (size_t i = master == NULL ? 1 : 0; i < count; i++) {
        /* Proofs and sealed frames are named, not shown. */
        int is_shown = frames[i].size < 60 && memchr(frames[i].data, 0, frames[i].size) == NULL;
        at += (size_t)snprintf(text + at, 400 - at, "%s%.*s", at > 0 ? "|" : "",
                is_shown ? (int)frames[i].size : 1,
                is_shown ? (const char *)frames[i].data : "*");
    }
    size_t place = master == NULL ? 3 : 2;
    raw.id_size = 0;
    if (count > place && frames[place].size < sizeof raw.id) {
        memcpy(raw.id, frames[place].data, frames[place].size);
        raw.id_size = frames[place].size;
    }
}

static void on_link_writable(void *user)
{
    (void)user;
}

static void raw_open(int is_router)
{
    static const znl_link_events link_events = {
            .on_message = on_link_message, .on_writable = on_link_writable};
    const znl_link_options options = {
            .is_router = is_router,
            .endpoint = NAME,
            .routing_id = is_router ? znl_frame_of(NULL, 0) : TEXT("one"),
            .send_hwm = 100,
            .recv_hwm = 100,
            .max_frame_bytes = 100000,
            .max_frames = 100,
            .max_message_bytes = 100000,
    };
    assert_int_equal(znl_link_open(&raw.link, loop, &options, &link_events, NULL), 0);
}

/* Sends frames; to a slave with its routing id in front. */
static void raw_send(const znl_frame *frames, size_t count)
{
    znl_frame all[16];
    size_t n = 0;
    if (master == NULL)
        all[n++] = TEXT("one");
    for (size_t i = 0; i < count; i++)
        all[n++] = frames[i];
    assert_int_equal(znl_link_send(raw.link, all, n), 0);
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

/* Sends texts with bars between them as frames, and lets everything happen that follows. */
static void say(const char *text)
{
    znl_frame frames[16];
    size_t count = 0;
    for (const char *at = text; at != NULL; count++) {
        const char *bar = strchr(at, '|');
        frames[count] = znl_frame_of(at, bar != NULL ? (size_t)(bar - at) : strlen(at));
        at = bar != NULL ? bar + 1 : NULL;
    }
    raw_send(frames, count);
    pass(0);
}

static int got(const char *text)
{
    size_t found = 0;
    for (size_t i = 0; i < raw.count; i++)
        found += strcmp(raw.text[i], text) == 0;
    return (int)found;
}

/* Nothing the raw side received has to do with calls. */
static void expect_no_calls(void)
{
    for (size_t i = 0; i < raw.count; i++)
        assert_null(strstr(raw.text[i], CALL));
}

static void forget(void)
{
    raw.count = 0;
    react = NULL;
    memset(&heard, 0, sizeof heard);
}

/* A proof as `id` would make it. */
static znl_frame prove(const char *kind, const char *id, znl_frame subject,
        const znl_frame *payload, size_t count, uint8_t *out)
{
    static unsigned made;
    char nonce[ZNL_NONCE_TEXT_BYTES + 1];
    char digest[ZNL_DIGEST_TEXT_BYTES];
    snprintf(nonce, sizeof nonce, "%032x", ++made);
    znl_proof_digest(payload, count, digest);
    znl_claim claim = {
            .kind = znl_frame_text(kind),
            .node_id = znl_frame_text(id),
            .subject = subject,
            .timestamp_ms = znl_loop_unix_ms(loop),
            .nonce = znl_frame_of(nonce, ZNL_NONCE_TEXT_BYTES),
            .digest = znl_frame_of(digest, sizeof digest),
    };
    return znl_frame_of(out, znl_proof_sign(keys, &claim, out, ZNL_PROOF_BYTES_MAX));
}

/* --- setting up -------------------------------------------------------------------------------- */

static void open_loop(void)
{
    forget();
    memset(&raw, 0, sizeof raw);
    znl_clock_freeze(1700000000000);
    assert_int_equal(znl_loop_new(&loop), 0);
}

static znl_node_options options_of(const char *id, int encrypted)
{
    return (znl_node_options){
            .id = znl_frame_text(id),
            .endpoint = NAME,
            .encrypted = encrypted,
            .secret = encrypted ? TEXT(KEY) : znl_frame_of(NULL, 0),
            .heartbeat_ms = 1000,
            .heartbeat_timeout_ms = 3000,
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

static void open_master(int encrypted)
{
    open_loop();
    znl_node_options options = options_of("master", encrypted);
    assert_int_equal(znl_keys_derive(&keys, TEXT(KEY), znl_frame_of(NULL, 0)), 0);
    assert_int_equal(znl_master_new(&master, loop, &options, &events, NULL), 0);
    assert_int_equal(znl_master_start(master), 0);
    raw_open(0);
    pass(0);
}

static int with_master(void **state)
{
    (void)state;
    open_master(0);
    return 0;
}

static int with_encrypted_master(void **state)
{
    (void)state;
    open_master(1);
    return 0;
}

static int open_slave(int encrypted)
{
    open_loop();
    znl_node_options options = options_of("one", encrypted);
    assert_int_equal(znl_keys_derive(&keys, TEXT(KEY), znl_frame_of(NULL, 0)), 0);
    raw_open(1);
    assert_int_equal(znl_slave_new(&slave, loop, &options, &events, NULL), 0);
    assert_int_equal(znl_slave_start(slave), 0);
    pass(0);
    return 0;
}

static int with_slave(void **state)
{
    (void)state;
    return open_slave(0);
}

static int with_encrypted_slave(void **state)
{
    (void)state;
    return open_slave(1);
}

static int end(void **state)
{
    (void)state;
    znl_link_close(raw.link, 0);
    znl_master_free(master);
    znl_slave_free(slave);
    znl_keys_release(keys);
    master = NULL;
    slave = NULL;
    keys = NULL;
    assert_int_equal(znl_loop_run(loop), 0); /* ends: nothing is alive */
    assert_int_equal(znl_loop_close(loop), 0);
    znl_clock_thaw();
    return 0;
}

/* --- a master ---------------------------------------------------------------------------------- */

static int master_call(void)
{
    znl_call call = {.route = TEXT("/x")};
    znl_frame body = TEXT("body");
    return znl_master_call(master, TEXT("one"), &call, &body, 1, 500, waiter);
}

static void master_answers_in_kind(void **state)
{
    (void)state;
    say("__znl_v1__|register");
    assert_int_equal(raw.count, 0); /* an original register has no answer */
    assert_int_equal(heard.peers, 1);
    say("__znl_v1__|heartbeat");
    assert_int_equal(raw.count, 1);
    assert_int_equal(got("__znl_v1__|heartbeat_ack"), 1);
    assert_int_equal(master_call(), ZNL_E_UNSUPPORTED);
    say("__znl_v1__|register|" EXT "|call=1");
    assert_int_equal(raw.count, 2);
    assert_int_equal(got("__znl_v1__|heartbeat_ack|" EXT "|call=1"), 1);
    say("__znl_v1__|heartbeat|" EXT "|stream=9 call=1");
    assert_int_equal(got("__znl_v1__|heartbeat_ack|" EXT "|call=1"), 2);
    assert_int_equal(znl_master_calls(master, TEXT("one")), ZNL_CALLS_YES);
    /* Other words, another version, no frame after the marker: nothing that this side knows. */
    const char *const others[] = {"__znl_v1__|heartbeat", "__znl_v1__|heartbeat|" EXT,
            "__znl_v1__|heartbeat|" EXT "|call=2", "__znl_v1__|heartbeat|x|" EXT "|call=1"};
    for (size_t i = 0; i < 4; i++) {
        say("__znl_v1__|heartbeat|" EXT "|call=1");
        forget();
        say(others[i]);
        assert_int_equal(got("__znl_v1__|heartbeat_ack"), 1);
        assert_int_equal(raw.count, 1);
        assert_int_equal(master_call(), ZNL_E_UNSUPPORTED);
    }
}

static void master_calls_who_said_so(void **state)
{
    (void)state;
    assert_int_equal(master_call(), ZNL_E_UNREACHABLE);
    say("__znl_v1__|push|topic|x"); /* on line, and nothing known of it */
    assert_int_equal(znl_master_calls(master, TEXT("one")), ZNL_CALLS_UNKNOWN);
    assert_int_equal(master_call(), ZNL_E_UNSUPPORTED);
    say("__znl_v1__|register|" EXT "|call=1");
    forget();
    assert_int_equal(master_call(), 0);
    pass(0);
    assert_int_equal(raw.count, 1);
    assert_non_null(strstr(raw.text[0], "|" CALL "|*|body"));
    /* Its answer, and an error. */
    znl_frame answer[] = {TEXT("__znl_v1__"), TEXT("res"), znl_frame_of(raw.id, raw.id_size),
            TEXT(CALL), TEXT("\1\1"), TEXT("42")};
    raw_send(answer, 6);
    pass(0);
    assert_int_equal(heard.replies, 1);
    assert_true(heard.is_call && heard.is_json && !heard.is_error);
    assert_string_equal(heard.body, "42");
    forget();
    assert_int_equal(master_call(), 0);
    pass(0);
    znl_frame error[] = {TEXT("__znl_v1__"), TEXT("res"), znl_frame_of(raw.id, raw.id_size),
            TEXT(CALL), TEXT("\1\2"), TEXT("NO"), TEXT("why")};
    raw_send(error, 7);
    pass(0);
    assert_true(heard.is_error);
    assert_string_equal(heard.body, "NO|why");
    forget();
    /* One that cannot be read ends the request at once. */
    assert_int_equal(master_call(), 0);
    pass(0);
    error[4] = TEXT("\2\2");
    error[2] = znl_frame_of(raw.id, raw.id_size);
    raw_send(error, 7);
    pass(0);
    assert_int_equal(heard.failures, 1);
    assert_int_equal(heard.err, ZNL_E_PROTO);
    assert_int_equal(znl_master_node(master)->counters.malformed, 1);
    /* Off line, it is forgotten. */
    say("__znl_v1__|unregister");
    assert_int_equal(master_call(), ZNL_E_UNREACHABLE);
}

static void master_reads_calls_of_who_said_so(void **state)
{
    (void)state;
    znl_frame call[] = {TEXT("__znl_v1__"), TEXT("req"), TEXT("id-1"), TEXT(CALL),
            TEXT("\1\0\0\0\1\364/route"), TEXT("body")};
    const char *const plain[] = {NULL, "__znl_v1__|register", "__znl_v1__|heartbeat"};
    for (size_t i = 0; i < 3; i++) {
        if (plain[i] != NULL)
            say(plain[i]);
        raw_send(call, 6);
        pass(0);
        assert_int_equal(heard.requests, i + 1);
        assert_false(heard.is_call || heard.is_malformed);
        assert_memory_equal(heard.body, CALL, sizeof CALL - 1);
    }
    say("__znl_v1__|heartbeat|" EXT "|call=1");
    raw_send(call, 6);
    pass(0);
    assert_true(heard.is_call);
    assert_string_equal(heard.route, "/route");
    assert_string_equal(heard.body, "body");
    assert_int_equal(heard.deadline_ms, znl_loop_now_ms(loop) + 500);
    call[4] = TEXT("\1\0\0\0\1\364route");
    raw_send(call, 6);
    pass(0);
    assert_true(heard.is_malformed);
    assert_string_equal(heard.body, "");
    say("__znl_v1__|heartbeat");
    raw_send(call, 6);
    pass(0);
    assert_false(heard.is_call || heard.is_malformed);
}

static void master_wraps_what_looks_like_a_call(void **state)
{
    (void)state;
    znl_frame payload[] = {TEXT(CALL), TEXT("x")};
    znl_frame id = TEXT("one"), none = {NULL, 0};
    say("__znl_v1__|push|topic|x");
    forget();
    /* Unknown: not at all. */
    assert_int_equal(
            znl_master_request(master, id, none, payload, 2, 500, waiter), ZNL_E_INVALID);
    assert_int_equal(znl_master_reply(master, id, TEXT("r"), NULL, payload, 1), ZNL_E_INVALID);
    /* No: as it is. */
    say("__znl_v1__|heartbeat");
    forget();
    assert_int_equal(znl_master_reply(master, id, TEXT("r"), NULL, payload, 2), 0);
    pass(0);
    assert_int_equal(got("__znl_v1__|res|r|" CALL "|x"), 1);
    /* Yes: as a body. */
    say("__znl_v1__|heartbeat|" EXT "|call=1");
    forget();
    assert_int_equal(znl_master_reply(master, id, TEXT("r"), NULL, payload, 2), 0);
    assert_int_equal(znl_master_request(master, id, none, payload, 2, 500, waiter), 0);
    assert_int_equal(
            znl_master_publish(master, TEXT("t"), payload, 2, &(size_t){0}, &(size_t){0}),
            0); /* nobody looks for a call in a publish */
    pass(0);
    assert_int_equal(got("__znl_v1__|res|r|" CALL "|*|" CALL "|x"), 1);
    assert_int_equal(got("__znl_v1__|pub|t|" CALL "|x"), 1);
    assert_int_equal(raw.count, 3);
    assert_non_null(strstr(raw.text[1], CALL "|*|" CALL "|x"));
}

/* --- an encrypted master ----------------------------------------------------------------------- */

/* A heartbeat of "one" with that extension; *message is its own proof. */
static void say_proven(znl_frame message, znl_frame extension, znl_frame capabilities)
{
    znl_frame frames[] = {TEXT("__znl_v1__"), TEXT("heartbeat"), TEXT("__znl_v1_auth__"),
            message, TEXT(EXT), capabilities, extension};
    forget();
    raw_send(frames, extension.size > 0 ? 7 : 6);
    pass(0);
    /* The heartbeat itself is good in any case. */
    assert_int_equal(raw.count, 1);
    assert_memory_equal(raw.text[0], "__znl_v1__|heartbeat_ack|__znl_v1_auth__|*", 42);
}

static void extension_needs_its_own_proof(void **state)
{
    (void)state;
    static uint8_t a[ZNL_PROOF_BYTES_MAX], b[ZNL_PROOF_BYTES_MAX], c[ZNL_PROOF_BYTES_MAX];
    const znl_frame none = {NULL, 0};
    znl_frame caps = TEXT("call=1");
    znl_frame first = prove("heartbeat", "one", none, NULL, 0, a);
    znl_frame good = prove("extension", "one", caps, &first, 1, b);
    say_proven(first, good, caps);
    assert_int_equal(heard.refusals, 0);
    assert_int_equal(znl_master_calls(master, TEXT("one")), ZNL_CALLS_YES);
    assert_string_equal(
            raw.text[0], "__znl_v1__|heartbeat_ack|__znl_v1_auth__|*|" EXT "|call=1|*");
    struct {
        const char *kind, *id;
        znl_frame proven, sent;
        int is_bound;
        int reason;
    } forged[] = {
            {"heartbeat", "one", caps, caps, 1, ZNL_E_KIND_MISMATCH},
            {"extension", "two", caps, caps, 1, ZNL_E_NODE_MISMATCH},
            {"extension", "master", caps, caps, 1, ZNL_E_REFLECTED},
            {"extension", "one", TEXT("none"), caps, 1, ZNL_E_ID_MISMATCH},
            {"extension", "one", caps, caps, 0, ZNL_E_DIGEST_MISMATCH}, /* of another message */
    };
    for (size_t i = 0; i < sizeof forged / sizeof forged[0]; i++) {
        znl_frame own = prove("heartbeat", "one", none, NULL, 0, a);
        znl_frame other = forged[i].is_bound ? own : first;
        znl_frame proof = prove(forged[i].kind, forged[i].id, forged[i].proven,
                forged[i].is_bound ? &other : NULL, forged[i].is_bound ? 1 : 0, c);
        say_proven(own, proof, forged[i].sent);
        assert_int_equal(heard.refusals, 1);
        assert_int_equal(heard.reason, forged[i].reason);
        assert_int_equal(znl_master_calls(master, TEXT("one")), ZNL_CALLS_NO);
        assert_string_equal(raw.text[0], "__znl_v1__|heartbeat_ack|__znl_v1_auth__|*");
        assert_int_equal(master_call(), ZNL_E_UNSUPPORTED);
    }
    /* None at all, somebody's text, and one that was used already. */
    say_proven(prove("heartbeat", "one", none, NULL, 0, a), none, caps);
    assert_int_equal(heard.reason, ZNL_E_MISSING_PROOF);
    say_proven(prove("heartbeat", "one", none, NULL, 0, a), TEXT("a.b.c"), caps);
    assert_int_equal(heard.reason, ZNL_E_BAD_SIGNATURE);
    znl_frame own = prove("heartbeat", "one", none, NULL, 0, a);
    say_proven(own, good, caps);
    assert_int_equal(heard.reason, ZNL_E_DIGEST_MISMATCH);
    assert_int_equal(znl_master_calls(master, TEXT("one")), ZNL_CALLS_NO);
}

static void remove_one(void)
{
    assert_int_equal(znl_master_remove_key(master, TEXT("one")), 0);
}

static void stop_master(void)
{
    znl_master_stop(master);
}

/* A heartbeat that is good, with an extension that is not. */
static void say_forged(void)
{
    static uint8_t a[ZNL_PROOF_BYTES_MAX];
    const znl_frame none = {NULL, 0};
    znl_frame frames[] = {TEXT("__znl_v1__"), TEXT("heartbeat"), TEXT("__znl_v1_auth__"),
            prove("heartbeat", "one", none, NULL, 0, a), TEXT(EXT), TEXT("call=1")};
    raw_send(frames, 6);
    pass(0);
}

static void who_reports_a_forged_extension_may_be_removed_for_it(void **state)
{
    (void)state;
    assert_int_equal(znl_master_set_key(master, TEXT("one"), TEXT(KEY)), 0);
    say_forged();
    assert_int_equal(heard.refusals, 1);
    assert_int_equal(raw.count, 1);
    forget();
    react = remove_one;
    say_forged();
    assert_int_equal(heard.refusals, 1);
    assert_int_equal(znl_presence_count(znl_master_presence(master)), 0);
    assert_int_equal(raw.count, 0); /* who was removed is not greeted */
}

static void a_forged_extension_may_stop_the_master(void **state)
{
    (void)state;
    react = stop_master;
    say_forged();
    assert_int_equal(heard.refusals, 1);
    assert_int_equal(heard.peers, 0); /* a node that has stopped says no more */
}

static void a_node_that_stops_before_a_request_does_not_hand_it_on(void **state)
{
    (void)state;
    znl_master_node(master)->observe_kinds = 1u << ZNL_KIND_REQUEST;
    say("__znl_v1__|req|id-1|body");
    assert_int_equal(heard.requests, 1);
    forget();
    react = stop_master;
    say("__znl_v1__|req|id-2|body");
    assert_int_equal(heard.requests, 0);
}

static void say_error(size_t size)
{
    static char text[ZNL_ERROR_TEXT_BYTES_MAX + 1];
    const uint8_t header[] = {1, 2};
    assert_int_equal(master_call(), 0);
    pass(0);
    znl_frame answer[] = {TEXT("__znl_v1__"), TEXT("res"), znl_frame_of(raw.id, raw.id_size),
            TEXT(CALL), znl_frame_of(header, sizeof header), TEXT("CODE"),
            znl_frame_of(text, size)};
    raw_send(answer, 7);
    pass(0);
}

static void the_text_of_an_error_is_bounded(void **state)
{
    (void)state;
    say("__znl_v1__|heartbeat|" EXT "|call=1");
    say_error(ZNL_ERROR_TEXT_BYTES_MAX);
    assert_int_equal(heard.replies, 1);
    assert_int_equal(heard.is_error, 1);
    say_error(ZNL_ERROR_TEXT_BYTES_MAX + 1);
    assert_int_equal(heard.replies, 1);
    assert_int_equal(heard.err, ZNL_E_PROTO);
}

/* --- a slave ----------------------------------------------------------------------------------- */

static int slave_call(void)
{
    znl_call call = {.route = TEXT("/x"), .is_json = 1};
    znl_frame body = TEXT("1");
    return znl_slave_call(slave, &call, &body, 1, 500, waiter);
}

static void slave_says_what_it_can_do(void **state)
{
    (void)state;
    assert_int_equal(raw.count, 2);
    assert_string_equal(raw.text[0], "__znl_v1__|register|" EXT "|call=1");
    assert_string_equal(raw.text[1], "__znl_v1__|heartbeat|" EXT "|call=1");
}

static void calls_wait_for_the_first_acknowledgement(void **state)
{
    (void)state;
    forget();
    assert_int_equal(slave_call(), 0);
    say("__znl_v1__|pub|topic|x"); /* on line, and still nothing known */
    assert_int_equal(raw.count, 0);
    say("__znl_v1__|heartbeat_ack|" EXT "|call=1");
    assert_int_equal(raw.count, 1);
    assert_non_null(strstr(raw.text[0], "|" CALL "|*|1"));
    assert_int_equal(znl_slave_calls(slave), ZNL_CALLS_YES);
    assert_int_equal(slave_call(), 0);
    pass(0);
    assert_int_equal(raw.count, 2); /* the next goes at once */
    pass(600);
    assert_int_equal(heard.failures, 2);
    assert_int_equal(heard.err, ZNL_E_TIMEOUT);
}

static void calls_end_when_the_master_has_none(void **state)
{
    (void)state;
    forget();
    assert_int_equal(slave_call(), 0);
    say("__znl_v1__|heartbeat_ack");
    assert_int_equal(heard.failures, 1);
    assert_int_equal(heard.err, ZNL_E_UNSUPPORTED);
    assert_int_equal(slave_call(), ZNL_E_UNSUPPORTED);
    assert_int_equal(znl_pending_count(znl_slave_node(slave)->requests), 0);
    expect_no_calls();
    /* An error answer is no use to it either; a plain one goes as it is, also this one. */
    znl_call error = {.is_answer = 1, .is_error = 1};
    znl_frame payload[] = {TEXT(CALL), TEXT("x")};
    const znl_frame none = {NULL, 0};
    assert_int_equal(
            znl_slave_reply(slave, TEXT("r"), none, &error, payload, 2), ZNL_E_UNSUPPORTED);
    assert_int_equal(znl_slave_reply(slave, TEXT("r"), none, NULL, payload, 2), 0);
    pass(0);
    assert_int_equal(got("__znl_v1__|res|r|" CALL "|x"), 1);
}

static void a_call_held_too_long_is_not_sent(void **state)
{
    (void)state;
    forget();
    assert_int_equal(slave_call(), 0);
    pass(600);
    assert_int_equal(heard.err, ZNL_E_TIMEOUT);
    say("__znl_v1__|heartbeat_ack|" EXT "|call=1");
    expect_no_calls();
}

static void what_looks_like_a_call_waits_until_it_is_known(void **state)
{
    (void)state;
    znl_frame call[] = {TEXT("__znl_v1__"), TEXT("req"), TEXT("id-1"), TEXT(CALL),
            TEXT("\1\0\0\0\1\364/route"), TEXT("body")};
    forget();
    raw_send(call, 6);
    say("__znl_v1__|req|id-2|plain");
    assert_int_equal(heard.requests, 1);
    assert_string_equal(heard.body, "plain");
    say("__znl_v1__|heartbeat_ack|" EXT "|call=1");
    assert_int_equal(heard.requests, 2);
    assert_true(heard.is_call);
    assert_string_equal(heard.route, "/route");
    /* On a new connection the same again, to a master without. */
    assert_int_equal(znl_sim_disconnect(loop, NAME, TEXT("one")), 1);
    pass(ZNL_RECONNECT_MS);
    assert_int_equal(znl_slave_calls(slave), ZNL_CALLS_UNKNOWN);
    raw_send(call, 6);
    pass(0);
    assert_int_equal(heard.requests, 2);
    say("__znl_v1__|heartbeat_ack");
    assert_int_equal(heard.requests, 3);
    assert_false(heard.is_call);
}

static void a_new_connection_begins_anew(void **state)
{
    (void)state;
    say("__znl_v1__|heartbeat_ack|" EXT "|call=1");
    forget();
    assert_int_equal(znl_sim_disconnect(loop, NAME, TEXT("one")), 1);
    /* Before the slave hears of it, and after: neither goes to whoever comes next. */
    assert_int_equal(slave_call(), 0);
    pass(0);
    assert_int_equal(slave_call(), 0);
    pass(ZNL_RECONNECT_MS);
    assert_int_equal(raw.count, 1);
    assert_int_equal(got("__znl_v1__|heartbeat|" EXT "|call=1"), 1);
    say("__znl_v1__|heartbeat_ack");
    assert_int_equal(heard.failures, 2);
    assert_int_equal(heard.err, ZNL_E_UNSUPPORTED);
    expect_no_calls();
}

static void after_a_silence_it_says_so_again_before_a_call(void **state)
{
    (void)state;
    say("__znl_v1__|heartbeat_ack|" EXT "|call=1");
    forget();
    assert_int_equal(slave_call(), 0);
    pass(0);
    assert_int_equal(raw.count, 1);
    znl_clock_advance(1600); /* the loop stood still: no timer has run */
    assert_int_equal(slave_call(), 0);
    pass(0);
    assert_true(raw.count >= 3);
    assert_string_equal(raw.text[1], "__znl_v1__|register|" EXT "|call=1");
    assert_non_null(strstr(raw.text[2], CALL));
}

static void stop_slave(void)
{
    znl_slave_stop(slave);
}

static void a_forged_extension_may_stop_the_slave(void **state)
{
    (void)state;
    static uint8_t a[ZNL_PROOF_BYTES_MAX];
    const znl_frame none = {NULL, 0};
    znl_frame frames[] = {TEXT("__znl_v1__"), TEXT("heartbeat_ack"), TEXT("__znl_v1_auth__"),
            prove("heartbeat_ack", "master", none, NULL, 0, a), TEXT(EXT), TEXT("call=1")};
    react = stop_slave;
    raw_send(frames, 6);
    pass(0);
    assert_int_equal(heard.refusals, 1);
    assert_int_equal(heard.peers, 0); /* it does not come on line after it stopped */
    assert_int_equal(znl_slave_calls(slave), ZNL_CALLS_UNKNOWN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(master_answers_in_kind, with_master, end),
            cmocka_unit_test_setup_teardown(master_calls_who_said_so, with_master, end),
            cmocka_unit_test_setup_teardown(
                    master_reads_calls_of_who_said_so, with_master, end),
            cmocka_unit_test_setup_teardown(
                    master_wraps_what_looks_like_a_call, with_master, end),
            cmocka_unit_test_setup_teardown(
                    extension_needs_its_own_proof, with_encrypted_master, end),
            cmocka_unit_test_setup_teardown(
                    who_reports_a_forged_extension_may_be_removed_for_it, with_encrypted_master,
                    end),
            cmocka_unit_test_setup_teardown(
                    a_forged_extension_may_stop_the_master, with_encrypted_master, end),
            cmocka_unit_test_setup_teardown(
                    a_node_that_stops_before_a_request_does_not_hand_it_on, with_master, end),
            cmocka_unit_test_setup_teardown(the_text_of_an_error_is_bounded, with_master, end),
            cmocka_unit_test_setup_teardown(slave_says_what_it_can_do, with_slave, end),
            cmocka_unit_test_setup_teardown(
                    calls_wait_for_the_first_acknowledgement, with_slave, end),
            cmocka_unit_test_setup_teardown(
                    calls_end_when_the_master_has_none, with_slave, end),
            cmocka_unit_test_setup_teardown(a_call_held_too_long_is_not_sent, with_slave, end),
            cmocka_unit_test_setup_teardown(
                    what_looks_like_a_call_waits_until_it_is_known, with_slave, end),
            cmocka_unit_test_setup_teardown(a_new_connection_begins_anew, with_slave, end),
            cmocka_unit_test_setup_teardown(
                    after_a_silence_it_says_so_again_before_a_call, with_slave, end),
            cmocka_unit_test_setup_teardown(
                    a_forged_extension_may_stop_the_slave, with_encrypted_slave, end),
    };
    if (znl_random_start() != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
