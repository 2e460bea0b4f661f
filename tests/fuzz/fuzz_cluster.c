/* Two ends of the cluster-client protocol and a channel: whatever a peer sends, in whatever order things happen, every
 * request of ours ends once, and what is counted adds up. The input is a list of steps. SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/random.h"
#include "node/cluster_channel.h"

#define MEMBERS 3u /* links of a leader; one more is a follower's */
#define LINKS (MEMBERS + 1)

static const char *const texts[] = {"{\"type\":\"register_channel\",\"channelName\":\"c\"}",
        "{\"type\":\"heartbeat\"}", "{\"type\":\"heartbeat_res\"}",
        "{\"type\":\"subscribe\",\"key\":\"a\",\"reg\":{}}",
        "{\"type\":\"subscribe\",\"reg\":{\"b\":1}}",
        "{\"type\":\"unSubscribe\",\"key\":\"a\",\"reg\":{}}",
        "{\"type\":\"subscribe_result\",\"key\":\"a\"}", "{\"type\":\"subscribe_result_res\"}",
        "{\"type\":\"invoke\",\"method\":\"m\",\"argLength\":0,\"oneway\":false}",
        "{\"type\":\"invoke_result\",\"success\":true}", "{\"type\":\"cancel\"}", "{}",
        "{\"type\":\"subscribe\"}", "{\"t\\u0079pe\":\"invoke\",\"method\":\"\\u006d\"}",
        "{\"type\":\"unSubscribe\",\"reg\":{\"b\":1.0}}", "{\"type\":[[[[[[[[[]]]]]]]]]}"};

static struct end {
    znl_cluster_link *link;
    znl_cluster_member *member; /* of a leader's; NULL: it has left */
    znl_buffer sent;
    size_t room;
    unsigned asked, told, given_up; /* with an owner */
    int64_t last_id;
    uint8_t reaction; /* what is done inside the next event */
    int is_broken;
} ends[LINKS];
static znl_loop *loop;
static znl_cluster_channel *channel;
static znl_cluster_channel_options options;
static znl_cluster_member *local; /* the process itself; NULL: it has left */
static uint8_t local_reaction;
static long memory; /* allocations of the next step before there are none; negative: no end */

static int is_leader(const struct end *end)
{
    return end < &ends[MEMBERS];
}

static int reserve(void *carrier, size_t size, uint8_t **at)
{
    struct end *end = carrier;
    if (end->room > 0 && end->sent.size > 0 && end->sent.size + size > end->room)
        return ZNL_E_BUSY;
    if (znl_buffer_extend(&end->sent, size) != 0)
        return ZNL_E_NOMEM;
    *at = end->sent.data + end->sent.size;
    return 0;
}

static void commit(void *carrier, size_t size)
{
    ((struct end *)carrier)->sent.size += size;
}

static size_t queued(void *carrier)
{
    return ((struct end *)carrier)->sent.size;
}

static void await(void *carrier, size_t below)
{
    (void)carrier;
    FUZZ_HOLDS(below > 0);
}

static const znl_cluster_carrier carrier = {reserve, commit, queued, await};

static void ask(struct end *end, uint8_t number)
{
    const znl_cluster_message message = {
            .kind = ZNL_CLUSTER_INVOKE, .method = znl_frame_text("m")};
    const znl_waiter waiter = {number % 4 == 0 ? NULL : end, number};
    int64_t id;
    if (znl_cluster_link_ask(end->link, &message, znl_frame_of("x", number % 2), number * 8,
                waiter, &id) != 0)
        return;
    end->asked += waiter.owner != NULL;
    if (waiter.owner != NULL)
        end->last_id = id;
}

static void give_up(struct end *end)
{
    uint32_t before = znl_cluster_link_pending(end->link);
    znl_cluster_link_give_up(end->link, end->last_id);
    end->given_up += before - znl_cluster_link_pending(end->link);
}

static void react(struct end *end)
{
    uint8_t reaction = end->reaction;
    end->reaction = 0;
    switch (reaction % 6) {
    case 1:
        ask(end, reaction);
        break;
    case 2:
        znl_cluster_link_close(end->link, ZNL_E_GONE);
        break;
    case 3:
        znl_cluster_link_hold(end->link, 1);
        break;
    case 4:
        give_up(end);
        break;
    default:
        break;
    }
}

static void on_request(void *user, const znl_cluster_request *request)
{
    static const znl_cluster_message result = {.kind = ZNL_CLUSTER_RESULT, .is_success = 1};
    struct end *end = user;
    const znl_cluster_message *message = request->message;
    FUZZ_HOLDS(!end->is_broken);
    FUZZ_HOLDS((message->kind == ZNL_CLUSTER_VALUE) != is_leader(end));
    if (message->kind == ZNL_CLUSTER_INVOKE)
        znl_cluster_link_answer(end->link, request->id, 0, &result, znl_frame_text("^^^^-5"));
    else if (message->kind == ZNL_CLUSTER_REGISTER)
        znl_cluster_link_configure(end->link, 200, 1);
    else if (message->kind == ZNL_CLUSTER_SUBSCRIBE && end->member != NULL)
        znl_cluster_channel_subscribe(end->member, message->key, message->reg);
    else if (message->kind == ZNL_CLUSTER_UNSUBSCRIBE && end->member != NULL)
        znl_cluster_channel_unsubscribe(end->member, message->key, message->reg);
    react(end);
}

static void on_answer(
        void *user, znl_waiter waiter, const znl_cluster_message *message, znl_frame data)
{
    struct end *end = user;
    (void)message;
    (void)data;
    FUZZ_HOLDS(waiter.owner == end && !end->is_broken);
    end->told++;
    react(end);
}

static void on_failed(void *user, znl_waiter waiter, int err)
{
    struct end *end = user;
    FUZZ_HOLDS(waiter.owner == end && err != 0);
    end->told++;
    react(end);
}

static void on_broken(void *user, int err, const char *text)
{
    struct end *end = user;
    FUZZ_HOLDS(!end->is_broken && err != 0 && text[0] != 0);
    end->is_broken = 1;
    react(end);
}

static const znl_cluster_link_events events = {on_request, on_answer, on_failed, on_broken};

static int on_key(void *user, znl_frame key, znl_frame reg)
{
    (void)user;
    (void)reg;
    if (key.size == 1 && key.data[0] == 'h')
        return ZNL_E_NOMEM; /* nobody takes it */
    if (key.size == 1)      /* a real client that answers at once */
        znl_cluster_channel_publish(channel, key, znl_frame_text("first"));
    return 0;
}

static void leave(znl_cluster_member **member)
{
    znl_cluster_channel_leave(*member);
    *member = NULL;
}

static void on_local(void *user, void *member_user, znl_frame key, znl_frame value)
{
    uint8_t reaction = local_reaction;
    (void)user;
    FUZZ_HOLDS(member_user == &local && local != NULL && value.size > 0);
    local_reaction = 0;
    switch (reaction % 8) {
    case 1:
        znl_cluster_channel_publish(channel, key, znl_frame_text("again"));
        break;
    case 2:
        znl_cluster_channel_unsubscribe(local, key, (znl_frame){0});
        break;
    case 3:
        leave(&local);
        break;
    case 4:
        leave(&ends[reaction / 8 % MEMBERS].member);
        break;
    case 5:
        znl_cluster_channel_subscribe(local, znl_frame_text("b"), (znl_frame){0});
        break;
    default:
        break;
    }
}

static const znl_cluster_channel_events channel_events = {on_key, on_local};

static void begin(uint8_t kind)
{
    options = (znl_cluster_channel_options){.is_broadcast = kind % 2 == 0,
            .response_timeout_ms = 100,
            .max_keys = 7,
            .max_member_keys = 5,
            .max_value_bytes = 1000,
            .max_member_bytes = 300};
    FUZZ_HOLDS(znl_loop_new(&loop) == 0);
    FUZZ_HOLDS(znl_cluster_channel_new(&channel, &options, &channel_events, NULL) == 0);
    FUZZ_HOLDS(znl_cluster_channel_join(&local, channel, NULL, &local) == 0);
    memset(ends, 0, sizeof ends);
    local_reaction = 0;
    memory = -1;
    for (unsigned i = 0; i < LINKS; i++) {
        struct end *end = &ends[i];
        const znl_cluster_link_options link_options = {.is_leader = i < MEMBERS,
                .max_pending = 40,
                .max_bytes = 2000,
                .max_depth = 8,
                .heartbeat_ms = 200};
        FUZZ_HOLDS(znl_cluster_link_new(
                           &end->link, loop, &link_options, &carrier, end, &events, end) == 0);
        if (i == MEMBERS) {
            znl_cluster_link_beat(end->link);
        } else {
            if (i > 0) /* the first is a stranger */
                znl_cluster_link_configure(end->link, 200, i > 1);
            FUZZ_HOLDS(znl_cluster_channel_join(&end->member, channel, end->link, end) == 0);
        }
    }
}

static void check(const struct end *end)
{
    znl_cluster_link_counters counters;
    znl_cluster_link_count(end->link, &counters);
    FUZZ_HOLDS(end->told + end->given_up <= end->asked && end->asked <= counters.asked);
    FUZZ_HOLDS(counters.taken + counters.untaken <= counters.pushed);
    FUZZ_HOLDS(znl_cluster_link_pending(end->link) <= 40);
}

static void check_channel(void)
{
    znl_cluster_channel_counters counters;
    znl_cluster_key_info info;
    size_t bytes = 0;
    uint32_t count = 0;
    znl_cluster_channel_count(channel, &counters);
    for (; znl_cluster_channel_key(channel, count, &info) == 0; count++) {
        FUZZ_HOLDS(info.members <= LINKS);
        bytes += info.value_bytes;
    }
    FUZZ_HOLDS(count == counters.keys && count <= options.max_keys);
    FUZZ_HOLDS(bytes == counters.value_bytes && bytes <= options.max_value_bytes);
}

static void finish(void)
{
    leave(&local);
    for (unsigned i = 0; i < LINKS; i++) {
        struct end *end = &ends[i];
        check(end);
        end->reaction = 0;
        leave(&end->member);
        znl_cluster_link_close(end->link, ZNL_E_CLOSED);
        FUZZ_HOLDS(znl_cluster_link_pending(end->link) == 0);
        FUZZ_HOLDS(end->told + end->given_up == end->asked);
        znl_cluster_link_free(end->link);
        znl_buffer_fini(&end->sent);
    }
    check_channel();
    znl_cluster_channel_free(channel);
    FUZZ_HOLDS(znl_loop_wheel(loop)->count == 0);
    FUZZ_HOLDS(znl_loop_close(loop) == 0);
}

static void pass(uint8_t number)
{
    znl_clock_advance(number);
    znl_loop_clock_changed(loop);
    znl_loop_run(loop); /* the clock is frozen: only what is due now */
}

/* What a leader and the follower sent reaches the other. */
static void deliver(struct end *end)
{
    struct end *to = is_leader(end) ? &ends[MEMBERS] : &ends[1];
    znl_buffer moved = end->sent;
    end->sent = (znl_buffer){0};
    if (moved.size > 0)
        znl_cluster_link_receive(to->link, moved.data, moved.size);
    znl_buffer_fini(&moved);
}

static void change_local(uint8_t number, const char *key)
{
    local_reaction = number / 4;
    if (local == NULL)
        znl_cluster_channel_join(&local, channel, NULL, &local); /* memory may be short */
    else if (number % 4 == 0)
        znl_cluster_channel_unsubscribe(local, znl_frame_text(key), (znl_frame){0});
    else
        znl_cluster_channel_subscribe(local, znl_frame_text(key), (znl_frame){0});
}

/* One of the usual packets, cut in two. */
static void receive_packet(struct end *end, uint8_t which, uint8_t id)
{
    uint8_t packet[200];
    size_t count = sizeof texts / sizeof texts[0], data = which / count % 2;
    const char *text = texts[which % count];
    size_t size = strlen(text), cut = id % ZNL_PACKET_HEAD_BYTES;
    znl_packet_put_head(packet, which >= 128, id, 50, (uint32_t)size, (uint32_t)data);
    memcpy(packet + ZNL_PACKET_HEAD_BYTES, text, size);
    size += ZNL_PACKET_HEAD_BYTES;
    packet[size] = 'x';
    size += data;
    znl_cluster_link_receive(end->link, packet, cut);
    znl_cluster_link_receive(end->link, packet + cut, size - cut);
}

static void step(const uint8_t **at, const uint8_t *stop)
{
    static const uint8_t values[256];
    znl_alloc_fail_after(memory);
    memory = -1;
    uint8_t op = *(*at)++, a = *(*at)++, b = *(*at)++;
    struct end *end = &ends[op / 16 % LINKS];
    char key[3] = {(char)('a' + b % 8), b >= 128 ? 'x' : 0, 0};
    size_t left = (size_t)(stop - *at), size = a < left ? a : left;
    switch (op % 16) {
    case 0:
        znl_cluster_link_receive(end->link, *at, size);
        *at += size;
        break;
    case 1:
        znl_cluster_channel_publish(channel, znl_frame_text(key), znl_frame_of(values, a));
        break;
    case 2:
        end->room = (size_t)a * 8;
        break;
    case 3: /* the peer reads */
        end->sent.size = 0;
        znl_cluster_link_writable(end->link);
        if (end->member != NULL)
            znl_cluster_channel_writable(end->member);
        break;
    case 4:
        pass(a);
        break;
    case 5:
        znl_cluster_link_hold(end->link, a % 2);
        break;
    case 6:
        ask(end, a);
        break;
    case 7:
        give_up(end);
        break;
    case 8:
        end->reaction = a;
        break;
    case 9:
        if (end->member != NULL)
            znl_cluster_channel_subscribe(end->member, znl_frame_text(key), (znl_frame){0});
        break;
    case 10:
        deliver(end);
        break;
    case 11:
        change_local(a, key);
        break;
    case 12: /* memory ends in the next step */
        memory = a % 8;
        break;
    default:
        receive_packet(end, a, b);
        break;
    }
    znl_alloc_fail_after(-1);
    check(end);
    check_channel();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_started;
    if (!is_started) {
        FUZZ_HOLDS(znl_random_start() == 0);
        znl_clock_freeze(1000);
        is_started = 1;
    }
    if (size == 0)
        return 0;
    begin(data[0]);
    const uint8_t *at = data + 1, *stop = data + size;
    while (stop - at >= 3)
        step(&at, stop);
    finish();
    return 0;
}
