/* The subscriptions of a channel: members over carriers that are buffers. SPDX-License-Identifier: MIT */
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
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "node/cluster_channel.h"

#define NONE ((znl_frame){0})
#define TEXT(text) znl_frame_of(text, sizeof text - 1)
#define MEMBERS 8u

static znl_cluster_channel *channel;
static znl_cluster_channel_options options;
static stage_end ends[MEMBERS]; /* each the leader's end of a connection */
static znl_cluster_member *members[MEMBERS];
static znl_cluster_member *local;
static char heard[4096]; /* one line per event */
static void (*react)(const char *event);

static void note(const char *event, znl_frame key, znl_frame rest)
{
    size_t size = strlen(heard);
    snprintf(heard + size, sizeof heard - size, "%s %.*s %.*s\n", event, (int)key.size,
            (const char *)key.data, (int)(rest.size < 60 ? rest.size : 60),
            rest.data != NULL ? (const char *)rest.data : "-");
    assert_true(strlen(heard) < sizeof heard - 1);
    if (react != NULL)
        react(event);
}

static int key_err; /* what on_key returns */

static int on_key(void *user, znl_frame key, znl_frame reg)
{
    assert_ptr_equal(user, &channel);
    if (key_err != 0)
        return key_err;
    note("key", key, reg.data != NULL ? reg : TEXT("-"));
    return 0;
}

static void on_local(void *user, void *member_user, znl_frame key, znl_frame value)
{
    assert_ptr_equal(user, &channel);
    assert_ptr_equal(member_user, &local);
    note("local", key, value);
}

static const znl_cluster_channel_events events = {on_key, on_local};

#define assert_noted(expected)                                                                 \
    do {                                                                                       \
        assert_string_equal(heard, expected);                                                  \
        heard[0] = 0;                                                                          \
    } while (0)

/* --- the stage --------------------------------------------------------------------------------------- */

static int prepare(void **state)
{
    options = (znl_cluster_channel_options){.is_broadcast = 1, .response_timeout_ms = 3000};
    memset(ends, 0, sizeof ends);
    memset(members, 0, sizeof members);
    local = NULL;
    heard[0] = 0;
    react = NULL;
    return stage_prepare(state);
}

static void leave(unsigned number)
{
    znl_cluster_channel_leave(members[number]);
    members[number] = NULL;
}

static void close_all(void)
{
    react = NULL;
    znl_cluster_channel_leave(local);
    local = NULL;
    for (unsigned i = 0; i < MEMBERS; i++) {
        leave(i);
        if (ends[i].link != NULL)
            znl_cluster_link_close(ends[i].link, ZNL_E_CLOSED);
        znl_cluster_link_free(ends[i].link);
        znl_buffer_fini(&ends[i].sent);
        znl_buffer_fini(&ends[i].heard);
        ends[i] = (stage_end){0};
    }
    if (channel != NULL) {
        znl_cluster_channel_counters counters;
        znl_cluster_channel_count(channel, &counters);
        assert_int_equal(counters.members, 0);
    }
    znl_cluster_channel_free(channel);
    channel = NULL;
}

static int clear(void **state)
{
    close_all();
    return stage_clear(state);
}

static void open_channel(void)
{
    assert_int_equal(znl_cluster_channel_new(&channel, &options, &events, &channel), 0);
}

static void join(unsigned number)
{
    const znl_cluster_link_options link_options = {.is_leader = 1, .max_bytes = 100000};
    stage_end *end = &ends[number];
    if (end->link == NULL)
        assert_int_equal(znl_cluster_link_new(&end->link, stage_loop, &link_options,
                                 &stage_carrier, end, &stage_events, end),
                0);
    end->awaited = SIZE_MAX;
    assert_int_equal(znl_cluster_channel_join(&members[number], channel, end->link, end), 0);
}

static void join_local(void)
{
    assert_int_equal(znl_cluster_channel_join(&local, channel, NULL, &local), 0);
}

/* A channel with `count` members. */
static void begin(unsigned count)
{
    open_channel();
    for (unsigned i = 0; i < count; i++)
        join(i);
}

static int subscribe(znl_cluster_member *member, const char *key)
{
    return znl_cluster_channel_subscribe(member, znl_frame_text(key), TEXT("{}"));
}

static void unsubscribe(znl_cluster_member *member, const char *key)
{
    znl_cluster_channel_unsubscribe(member, znl_frame_text(key), NONE);
}

static int publish(const char *key, const char *value)
{
    return znl_cluster_channel_publish(channel, znl_frame_text(key), znl_frame_text(value));
}

static znl_cluster_channel_counters count(void)
{
    znl_cluster_channel_counters counters;
    znl_cluster_channel_count(channel, &counters);
    return counters;
}

/* What was sent to a member, "key=value " each, and is taken away. */
static const char *received(unsigned number)
{
    static char text[4096];
    size_t size = 0;
    text[0] = 0;
    while (ends[number].sent.size > 0) {
        char key[200], value[200] = "";
        const char *packet = stage_next_sent(&ends[number]);
        assert_int_equal(
                sscanf(packet,
                        "request %*u 3000 {\"type\":\"subscribe_result\",\"key\":\"%199[^\"]\"} %199s",
                        key, value),
                2);
        size += (size_t)snprintf(text + size, sizeof text - size, "%s=%s ", key, value);
        assert_true(size < sizeof text);
    }
    return text;
}

#define assert_received(number, expected) assert_string_equal(received(number), expected)

/* --- subscribing ------------------------------------------------------------------------------------- */

static void the_real_client_is_subscribed_once(void **state)
{
    (void)state;
    begin(2);
    assert_int_equal(publish("k", "early"), ZNL_E_NOT_FOUND);
    assert_int_equal(subscribe(members[0], "k"), 0);
    assert_noted("key k {}\n");
    assert_int_equal(subscribe(members[1], "k"), 0);
    assert_int_equal(subscribe(members[0], "k"), 0);
    leave(0);
    leave(1);
    join(0);
    assert_int_equal(subscribe(members[0], "k"), 0);
    assert_noted("");
    assert_int_equal(count().keys, 1);
}

static void values_go_to_all_who_want_them(void **state)
{
    (void)state;
    begin(3);
    subscribe(members[0], "a");
    subscribe(members[1], "a");
    subscribe(members[1], "b");
    assert_int_equal(publish("a", "1"), 2);
    assert_int_equal(publish("b", "2"), 1);
    assert_int_equal(publish("a", "1"), 2); /* values are not compared */
    assert_received(0, "a=1 a=1 ");
    assert_received(1, "a=1 b=2 a=1 ");
    assert_received(2, "");
    assert_int_equal(count().published, 3);
    assert_int_equal(count().delivered, 5);
}

static void the_last_value_is_sent_to_who_comes_later(void **state)
{
    (void)state;
    begin(2);
    subscribe(members[0], "k");
    publish("k", "1");
    publish("k", "2");
    assert_received(0, "k=1 k=2 ");
    subscribe(members[1], "k");
    assert_received(1, "k=2 ");
    subscribe(members[0], "k"); /* and again to who asks again */
    assert_received(0, "k=2 ");
    assert_int_equal(publish("k", "3"), 2); /* still one member each */
    assert_received(0, "k=3 ");
    assert_received(1, "k=3 ");
    znl_frame value;
    assert_int_equal(znl_cluster_channel_last(channel, TEXT("k"), &value), 0);
    assert_memory_equal(value.data, "3", 1);
    assert_int_equal(znl_cluster_channel_last(channel, TEXT("x"), &value), ZNL_E_NOT_FOUND);
}

static void who_goes_gets_nothing_more(void **state)
{
    (void)state;
    begin(3);
    for (unsigned i = 0; i < 3; i++)
        subscribe(members[i], "k");
    unsubscribe(members[0], "k");
    unsubscribe(members[0], "k");
    unsubscribe(members[0], "never");
    leave(1);
    assert_int_equal(publish("k", "1"), 1);
    assert_received(0, "");
    assert_received(1, "");
    assert_received(2, "k=1 ");
    unsubscribe(members[2], "k");
    assert_int_equal(publish("k", "2"), 0); /* goes on being remembered */
    subscribe(members[0], "k");
    assert_received(0, "k=2 ");
}

static void keys_are_computed_when_they_are_absent(void **state)
{
    (void)state;
    begin(1);
    assert_int_equal(
            znl_cluster_channel_subscribe(members[0], NONE, TEXT("{ \"b\": 1.0, \"1\": [] }")),
            0);
    assert_noted("key $$inner$$__{\"1\":[],\"b\":1} { \"b\": 1.0, \"1\": [] }\n");
    assert_int_equal(znl_cluster_channel_subscribe(members[0], NONE, NONE), 0);
    assert_noted("key $$inner$$__undefined -\n");
    assert_int_equal(
            znl_cluster_channel_subscribe(members[0], NONE, TEXT("{\"b\"")), ZNL_E_PROTO);
    assert_int_equal(
            znl_cluster_channel_subscribe(members[0], TEXT("\xff"), NONE), ZNL_E_PROTO);
    assert_int_equal(publish("$$inner$$__undefined", "1"), 1);
    znl_cluster_channel_unsubscribe(members[0], NONE, NONE);
    assert_int_equal(publish("$$inner$$__undefined", "2"), 0);
    /* An empty key is one. */
    assert_int_equal(znl_cluster_channel_subscribe(members[0], TEXT(""), NONE), 0);
    assert_noted("key  -\n");
}

/* --- the process itself ------------------------------------------------------------------------------ */

static void the_process_itself_may_subscribe(void **state)
{
    (void)state;
    begin(1);
    join_local();
    subscribe(local, "k");
    subscribe(members[0], "k");
    assert_noted("key k {}\n");
    assert_int_equal(publish("k", "1"), 2);
    assert_received(0, "k=1 ");
    assert_noted("local k 1\n");
    subscribe(local, "k");
    assert_noted("local k 1\n");
    assert_int_equal(count().delivered, 3);
    unsubscribe(local, "k");
    assert_int_equal(publish("k", "2"), 1);
    assert_noted("");
}

static void publish_at_once(const char *event)
{
    if (strcmp(event, "key") == 0)
        assert_in_range(publish("k", "now"), 0, 1);
}

static void a_real_client_may_answer_at_once(void **state)
{
    (void)state;
    begin(2);
    react = publish_at_once;
    subscribe(members[0], "k");
    assert_received(0, "k=now "); /* and not once more */
    subscribe(members[1], "k");
    assert_received(1, "k=now ");
}

static void publish_once_more(const char *event)
{
    if (strcmp(event, "local") == 0) {
        react = NULL;
        assert_int_equal(publish("k", "newer"), 2);
    }
}

static void a_value_may_follow_from_inside_another(void **state)
{
    (void)state;
    begin(1);
    join_local();
    subscribe(local, "k");
    subscribe(members[0], "k");
    heard[0] = 0;
    react = publish_once_more;
    assert_int_equal(publish("k", "old"), 2);
    assert_received(0, "k=old k=newer ");
    assert_noted("local k old\nlocal k newer\n"); /* none after the newest */
    react = publish_once_more;
    subscribe(local, "k");
    assert_noted("local k newer\nlocal k newer\n");
}

static void leave_all(const char *event)
{
    (void)event;
    react = NULL;
    znl_cluster_channel_leave(local);
    local = NULL;
    leave(0);
    leave(1);
}

static void members_may_leave_inside_an_event(void **state)
{
    (void)state;
    for (int is_broadcast = 0; is_broadcast < 2; is_broadcast++) {
        options.is_broadcast = is_broadcast;
        begin(2);
        join_local();
        subscribe(local, "k");
        if (is_broadcast) {
            subscribe(members[0], "k");
            subscribe(members[1], "k");
        }
        react = leave_all;
        publish("k", "1");
        assert_null(local);
        assert_int_equal(publish("k", "2"), 0);
        join_local();
        react = leave_all;
        subscribe(local, "k");
        react = NULL;
        close_all();
        heard[0] = 0;
    }
    begin(2);
    join_local();
    react = leave_all;
    assert_int_equal(subscribe(members[0], "k"), 0); /* inside on_key */
    assert_null(members[0]);
    assert_int_equal(publish("k", "1"), 0);
}

static void a_key_that_nobody_took_is_as_unknown_as_before(void **state)
{
    (void)state;
    begin(1);
    key_err = ZNL_E_NOMEM;
    assert_int_equal(subscribe(members[0], "k"), ZNL_E_NOMEM);
    key_err = 0;
    assert_int_equal(publish("k", "1"), ZNL_E_NOT_FOUND);
    assert_noted("");
    assert_int_equal(subscribe(members[0], "k"), 0);
    assert_noted("key k {}\n");
    assert_int_equal(publish("k", "2"), 1);
    assert_received(0, "k=2 ");
}

/* --- slow members ------------------------------------------------------------------------------------ */

static void a_slow_member_gets_the_newest_of_each_key(void **state)
{
    (void)state;
    begin(2);
    for (unsigned i = 0; i < 2; i++) {
        subscribe(members[i], "a");
        subscribe(members[i], "b");
        subscribe(members[i], "c");
    }
    ends[0].room = 150; /* two packets */
    publish("a", "1");
    publish("a", "2");
    assert_int_equal(ends[0].awaited, SIZE_MAX);
    assert_int_equal(publish("b", "3"), 2);
    assert_int_equal(ends[0].awaited, ZNL_CLUSTER_QUEUE_BYTES_DEFAULT / 2);
    publish("a", "4");
    publish("b", "5");
    publish("a", "6");
    assert_received(0, "a=1 a=2 ");
    publish("c", "7"); /* there is room again, but nobody said so: what was missed is first */
    assert_received(0, "");
    assert_received(1, "a=1 a=2 b=3 a=4 b=5 a=6 c=7 "); /* the other one notices nothing */
    assert_int_equal(count().slow, 1);
    assert_int_equal(count().conflated, 2);
    ends[0].awaited = SIZE_MAX;
    znl_cluster_channel_writable(members[0]);
    assert_received(0, "b=5 a=6 ");
    assert_int_equal(ends[0].awaited, ZNL_CLUSTER_QUEUE_BYTES_DEFAULT / 2);
    znl_cluster_channel_writable(members[0]);
    assert_received(0, "c=7 ");
    znl_cluster_channel_writable(members[0]);
    publish("a", "8");
    assert_received(0, "a=8 ");
    assert_int_equal(count().delivered, 7 + 5 + 2);
    assert_int_equal(count().undelivered, 0);
}

static void slow_is_who_has_much_in_the_queue(void **state)
{
    (void)state;
    options.max_member_bytes = 300;
    begin(1);
    subscribe(members[0], "k");
    subscribe(members[0], "l");
    unsigned sent = 0;
    while (ends[0].sent.size <= 300) {
        publish("k", "x");
        sent++;
    }
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(publish(i % 2 ? "k" : "l", i < 998 ? "y" : "z"), 1);
    assert_in_range(ends[0].sent.size, 301, 400);
    assert_int_equal(ends[0].awaited, 150);
    assert_int_equal(count().conflated, 998);
    while (sent-- > 0)
        stage_next_sent(&ends[0]);
    znl_cluster_channel_writable(members[0]);
    assert_received(0, "l=z k=z ");
    /* Who is slow and asks again gets it when it has drained, once. */
    while (ends[0].sent.size <= 300)
        publish("k", "x");
    publish("k", "last");
    for (unsigned i = 0; i < 10; i++)
        subscribe(members[0], "k");
    ends[0].sent.size = 0;
    znl_cluster_channel_writable(members[0]);
    assert_received(0, "k=last ");
}

static void a_slow_member_may_go(void **state)
{
    (void)state;
    static const char *const keys[] = {"a", "b", "c", "d"};
    for (unsigned gone = 0; gone < 4; gone++) { /* the first, the last, one in between */
        char expected[64] = "";
        options.max_member_bytes = 10;
        begin(1);
        for (unsigned i = 0; i < 4; i++)
            subscribe(members[0], keys[i]);
        publish("a", "0");
        for (unsigned i = 0; i < 4; i++)
            publish(keys[i], "1");
        ends[0].sent.size = 0;
        unsubscribe(members[0], keys[gone]);
        publish(keys[gone], "2");
        for (unsigned i = 0; i < 4; i++)
            if (i != gone)
                snprintf(expected + strlen(expected), 10, "%s=1 ", keys[i]);
        for (char all[64] = ""; strcmp(all, expected) != 0;) {
            znl_cluster_channel_writable(members[0]);
            const char *some = received(0);
            assert_true(some[0] != 0);
            strcat(all, some);
        }
        publish("a", "3");
        publish("b", "3");
        leave(0); /* while it misses one */
        publish("b", "4");
        close_all();
    }
}

static void what_a_slow_member_missed_may_be_forgotten(void **state)
{
    (void)state;
    char big[2000];
    memset(big, 'x', sizeof big);
    options.max_member_bytes = 10;
    options.max_value_bytes = 1000;
    begin(1);
    subscribe(members[0], "k");
    publish("k", "0");
    publish("k", "1");
    assert_int_equal(
            znl_cluster_channel_publish(channel, TEXT("k"), znl_frame_of(big, sizeof big)),
            ZNL_E_LIMIT);
    ends[0].sent.size = 0;
    znl_cluster_channel_writable(members[0]);
    assert_received(0, "");
    assert_int_equal(count().undelivered, 1);
    assert_int_equal(publish("k", "2"), 1);
    assert_received(0, "k=2 ");
}

static void a_closed_connection_takes_nothing(void **state)
{
    (void)state;
    begin(2);
    subscribe(members[0], "k");
    subscribe(members[1], "k");
    znl_cluster_link_close(ends[0].link, ZNL_E_GONE);
    assert_int_equal(publish("k", "1"), 1);
    leave(1);
    assert_int_equal(publish("k", "1"), 0);
    znl_cluster_channel_writable(members[0]);
    assert_int_equal(count().undelivered, 0);
}

/* --- one of them ------------------------------------------------------------------------------------- */

static void each_value_to_one_of_them(void **state)
{
    (void)state;
    options.is_broadcast = 0;
    begin(4);
    join_local();
    for (unsigned i = 0; i < 4; i++)
        subscribe(members[i], "k");
    assert_int_equal(publish("k", "0"), 1);
    subscribe(local, "k"); /* not sent what was before */
    heard[0] = 0;
    assert_int_equal(count().delivered, 1);
    for (unsigned i = 1; i < 400; i++) {
        assert_int_equal(publish("k", "x"), 1);
        assert_int_equal(count().delivered, i + 1);
        if (strlen(heard) > 1000)
            heard[0] = 0;
    }
    uint64_t sent = 0;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t pushed = stage_count(&ends[i]).pushed;
        assert_in_range(pushed, 1, 399); /* that one gets none: (4/5)^399 */
        sent += pushed;
    }
    assert_in_range(sent, 1, 399);
    for (unsigned i = 0; i < 4; i++)
        leave(i);
    unsubscribe(local, "k");
    assert_int_equal(publish("k", "nobody"), 0);
}

static void rather_one_who_is_not_slow(void **state)
{
    (void)state;
    options.is_broadcast = 0;
    options.max_member_bytes = 10;
    begin(3);
    for (unsigned i = 0; i < 3; i++)
        subscribe(members[i], "k");
    for (unsigned i = 0; i < 3; i++)
        publish("k", "1"); /* each is full after one */
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(stage_count(&ends[i]).pushed, 1);
        ends[i].sent.size = 0;
    }
    for (unsigned i = 0; i < 3; i++)
        publish("k", "2");
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(stage_count(&ends[i]).pushed, 2);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(publish("k", i < 49 ? "3" : "newest"), 1);
    assert_int_equal(count().conflated, 49);
    assert_int_equal(count().delivered, 6);
    char all[64] = "";
    for (unsigned i = 0; i < 3; i++) {
        ends[i].sent.size = 0;
        znl_cluster_channel_writable(members[i]);
        strcat(all, received(i));
    }
    assert_string_equal(all, "k=newest "); /* to one of them */
}

/* --- limits ------------------------------------------------------------------------------------------ */

static void keys_are_limited(void **state)
{
    (void)state;
    options.max_keys = 3;
    options.max_member_keys = 2;
    begin(3);
    join_local();
    assert_int_equal(subscribe(members[0], "a"), 0);
    assert_int_equal(subscribe(members[0], "b"), 0);
    heard[0] = 0;
    assert_int_equal(subscribe(members[0], "c"), ZNL_E_LIMIT);
    assert_noted(""); /* as if it had not been asked */
    assert_int_equal(count().keys, 2);
    assert_int_equal(subscribe(members[0], "b"), 0);
    unsubscribe(members[0], "a");
    assert_int_equal(subscribe(members[0], "c"), 0);
    assert_int_equal(subscribe(members[1], "d"), ZNL_E_LIMIT);
    assert_int_equal(subscribe(members[1], "c"), 0);
    for (const char *key = "a\0b\0c\0"; key[0] != 0; key += 2)
        assert_int_equal(
                subscribe(local, key), 0); /* the process may want more than a follower */
    char *big = malloc(ZNL_CLUSTER_KEY_BYTES_MAX + 1);
    memset(big, 'x', ZNL_CLUSTER_KEY_BYTES_MAX + 1);
    assert_int_equal(znl_cluster_channel_subscribe(members[2],
                             znl_frame_of(big, ZNL_CLUSTER_KEY_BYTES_MAX + 1), NONE),
            ZNL_E_LIMIT);
    free(big);
}

/* What a key is computed from is not even read when it is too long, whatever would become of it. */
static void registrations_are_limited(void **state)
{
    (void)state;
    enum { SIZE = ZNL_CLUSTER_KEY_BYTES_MAX + 1 };
    char *big = malloc(SIZE);
    memset(big, ' ', SIZE);
    big[0] = '{';
    big[SIZE - 2] = big[SIZE - 1] = '}';
    begin(1);
    znl_frame longest = znl_frame_of(big, SIZE - 1);
    assert_int_equal(znl_cluster_channel_subscribe(members[0], NONE, longest), 0);
    assert_int_equal(publish("$$inner$$__{}", "1"), 1);
    big[SIZE - 2] = ' ';
    znl_frame longer = znl_frame_of(big, SIZE);
    assert_int_equal(znl_cluster_channel_subscribe(members[0], NONE, longer), ZNL_E_LIMIT);
    znl_cluster_channel_unsubscribe(members[0], NONE, longer);
    assert_int_equal(publish("$$inner$$__{}", "2"), 1);
    free(big);
}

static void what_is_remembered_is_limited(void **state)
{
    (void)state;
    char big[600];
    memset(big, 'x', sizeof big);
    options.max_value_bytes = 1000;
    begin(2);
    subscribe(members[0], "a");
    subscribe(members[0], "b");
    assert_int_equal(
            znl_cluster_channel_publish(channel, TEXT("a"), znl_frame_of(big, 600)), 1);
    assert_int_equal(count().value_bytes, 600);
    assert_int_equal(publish("b", "1"), 1);
    assert_int_equal(znl_cluster_channel_publish(channel, TEXT("b"), znl_frame_of(big, 600)),
            ZNL_E_LIMIT); /* sent all the same */
    assert_int_equal(stage_count(&ends[0]).pushed, 3);
    znl_frame value;
    assert_int_equal(znl_cluster_channel_last(channel, TEXT("b"), &value), ZNL_E_NOT_FOUND);
    assert_int_equal(znl_cluster_channel_last(channel, TEXT("a"), &value), 0);
    assert_int_equal(value.size, 600);
    assert_int_equal(count().value_bytes, 600);
    subscribe(members[1], "b");
    assert_received(1, "");
    /* Keys count, too. */
    unsigned keys = 2;
    for (char name[16]; keys < 100; keys++) {
        snprintf(name, sizeof name, "key%u", keys);
        if (subscribe(members[0], name) == ZNL_E_LIMIT)
            break;
    }
    assert_in_range(keys, 3, 20);
    assert_int_equal(publish("a", "1"), 1); /* gives room back */
    assert_int_equal(subscribe(members[0], "one more"), 0);
    assert_int_equal(publish("a", ""), ZNL_E_INVALID);
}

static void larger_than_a_packet(void **state)
{
    (void)state;
    static uint8_t big[100001];
    begin(1);
    subscribe(members[0], "k");
    assert_int_equal(
            znl_cluster_channel_publish(channel, TEXT("k"), znl_frame_of(big, sizeof big)),
            ZNL_E_TOO_BIG);
    assert_int_equal(count().undelivered, 1);
}

/* --- looking ----------------------------------------------------------------------------------------- */

static void keys_can_be_looked_at(void **state)
{
    (void)state;
    begin(2);
    char name[16];
    for (unsigned i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "key%u", i);
        assert_int_equal(subscribe(members[i % 2], name), 0);
        if (i % 3 == 0)
            subscribe(members[1], name);
        for (unsigned j = 0; j < i % 4; j++)
            publish(name, "value");
        heard[0] = 0;
    }
    znl_cluster_key_info info;
    for (unsigned i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "key%u", i);
        assert_int_equal(znl_cluster_channel_key(channel, i, &info), 0);
        assert_true(znl_frame_equal(info.key, znl_frame_text(name)));
        assert_int_equal(info.members, i % 2 == 0 && i % 3 == 0 ? 2 : 1);
        assert_int_equal(info.published, i % 4);
        assert_int_equal(info.value_bytes, i % 4 > 0 ? 5 : 0);
    }
    assert_int_equal(znl_cluster_channel_key(channel, 100, &info), ZNL_E_NOT_FOUND);
    assert_int_equal(count().members, 2);
    assert_int_equal(count().keys, 100);
}

/* --- against a model --------------------------------------------------------------------------------- */

/* Anything happens in any order; in the end everybody has the newest value of what it wants, and got nothing older
 * after something newer. */
static void behaves_like_a_plain_table(void **state)
{
    (void)state;
    enum { KEYS = 12, STEPS = 30000 };
    static int wants[MEMBERS][KEYS], got[MEMBERS][KEYS];
    int newest[KEYS] = {0};
    uint64_t seed = znl_random_u64();
    print_message("seed %llu\n", (unsigned long long)seed);
    memset(wants, 0, sizeof wants);
    memset(got, 0, sizeof got);
    options.max_member_bytes = 1000;
    begin(MEMBERS);
    for (int step = 1; step <= STEPS; step++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        unsigned member = (unsigned)(seed >> 33) % MEMBERS, key = (unsigned)(seed >> 40) % KEYS;
        unsigned action = (unsigned)(seed >> 56) % 16;
        char name[8], value[16];
        snprintf(name, sizeof name, "%u", key);
        snprintf(value, sizeof value, "%d", step);
        heard[0] = 0;
        if (action < 2) {
            assert_int_equal(subscribe(members[member], name), 0);
            wants[member][key] = 1;
        } else if (action == 2) {
            unsubscribe(members[member], name);
            wants[member][key] = 0;
        } else if (action == 3 && seed >> 62 == 0) {
            leave(member);
            join(member);
            memset(wants[member], 0, sizeof wants[member]);
        } else if (action < 12) {
            int sent = publish(name, value), expected = 0;
            for (unsigned i = 0; i < MEMBERS; i++)
                expected += wants[i][key];
            if (sent != ZNL_E_NOT_FOUND) {
                assert_int_equal(sent, expected);
                newest[key] = step;
            }
        }
        if (action >= 12 || step == STEPS) /* somebody reads; in the end all do */
            for (unsigned i = 0; i < MEMBERS; i++) {
                if (step < STEPS && i != member)
                    continue;
                do {
                    char *save, *words = strdup(received(i));
                    for (char *word = strtok_r(words, " ", &save); word != NULL;
                            word = strtok_r(NULL, " ", &save)) {
                        int from, number;
                        assert_int_equal(sscanf(word, "%d=%d", &from, &number), 2);
                        assert_true(number >= got[i][from]);
                        got[i][from] = number;
                    }
                    free(words);
                    znl_cluster_channel_writable(members[i]);
                } while (ends[i].sent.size > 0);
            }
    }
    for (unsigned i = 0; i < MEMBERS; i++)
        for (unsigned key = 0; key < KEYS; key++)
            if (wants[i][key])
                assert_int_equal(got[i][key], newest[key]);
    assert_true(count().conflated > 0 && count().slow > 0);
    assert_int_equal(count().undelivered, 0);
}

/* --- memory ------------------------------------------------------------------------------------------ */

static void memory_ends_anywhere(void **state)
{
    (void)state;
    int is_clean = 0;
    for (long n = 0; !is_clean; n++) {
        assert_in_range(n, 0, 300);
        close_all();
        heard[0] = 0;
        begin(2);
        int failures = 0;
        znl_alloc_fail_after(n);
        for (unsigned i = 0; i < 20; i++) {
            char name[16];
            snprintf(name, sizeof name, "key%u", i);
            uint32_t keys = count().keys;
            int err = subscribe(members[0], name);
            assert_true(err == 0 || err == ZNL_E_NOMEM);
            assert_int_equal(count().keys, keys + (err == 0)); /* all or nothing */
            failures += err != 0;
            failures += subscribe(members[1], name) != 0;
            failures += publish(name, "value") < 0;
            failures += publish(name, "a longer value") < 0;
        }
        znl_cluster_member *other = NULL;
        failures += znl_cluster_channel_join(&other, channel, NULL, &local) != 0;
        if (other != NULL)
            failures += subscribe(other, "key1") != 0;
        is_clean = failures == 0;
        znl_alloc_fail_after(-1);
        znl_cluster_channel_leave(other);
        heard[0] = 0;
        for (unsigned i = 0; i < 20; i++) { /* what failed can be done again */
            char name[16];
            snprintf(name, sizeof name, "key%u", i);
            assert_int_equal(subscribe(members[0], name), 0);
            assert_int_equal(subscribe(members[1], name), 0);
            assert_int_equal(publish(name, "x"), 2);
        }
        assert_int_equal(count().keys, 20);
        assert_int_equal(count().value_bytes, 20);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, prepare, clear)
            TEST(the_real_client_is_subscribed_once),
            TEST(values_go_to_all_who_want_them),
            TEST(the_last_value_is_sent_to_who_comes_later),
            TEST(who_goes_gets_nothing_more),
            TEST(keys_are_computed_when_they_are_absent),
            TEST(the_process_itself_may_subscribe),
            TEST(a_real_client_may_answer_at_once),
            TEST(a_value_may_follow_from_inside_another),
            TEST(members_may_leave_inside_an_event),
            TEST(a_key_that_nobody_took_is_as_unknown_as_before),
            TEST(a_slow_member_gets_the_newest_of_each_key),
            TEST(slow_is_who_has_much_in_the_queue),
            TEST(a_slow_member_may_go),
            TEST(what_a_slow_member_missed_may_be_forgotten),
            TEST(a_closed_connection_takes_nothing),
            TEST(each_value_to_one_of_them),
            TEST(rather_one_who_is_not_slow),
            TEST(keys_are_limited),
            TEST(registrations_are_limited),
            TEST(what_is_remembered_is_limited),
            TEST(larger_than_a_packet),
            TEST(keys_can_be_looked_at),
            TEST(behaves_like_a_plain_table),
            TEST(memory_ends_anywhere),
    };
    if (znl_random_start() != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
