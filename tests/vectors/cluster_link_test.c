/* The exchanges recorded between cluster-client processes, played by two ends of ours: each sends the bytes that were
 * recorded and understands the other. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/random.h"
#include "support/cluster_stage.h"
#include "support/vector.h"

#define leader (&stage_leader)
#define follower (&stage_follower)
#define HEAD ZNL_PACKET_HEAD_BYTES

static unsigned played;

static int prepare(void **state)
{
    int err = stage_prepare(state);
    stage_options.max_depth = 32;
    return err;
}

/* The next packet an end has sent is the recorded one; `is_of_ours`: but for its id, which is counted by each end. Takes
 * it away. */
static void check_sent(stage_end *end, znl_frame recorded, int is_of_ours)
{
    assert_in_range(end->sent.size, recorded.size, SIZE_MAX);
    assert_memory_equal(end->sent.data, recorded.data, 4);
    if (!is_of_ours)
        assert_memory_equal(end->sent.data + 4, recorded.data + 4, 8);
    assert_memory_equal(end->sent.data + 12, recorded.data + 12, recorded.size - 12);
    end->sent.size -= recorded.size;
    memmove(end->sent.data, end->sent.data + recorded.size, end->sent.size);
}

/* Answers may come after other requests: which id of ours stands for a recorded one, of that end. */
static struct {
    const stage_end *end;
    int64_t recorded, mine;
} ids[64];
static unsigned id_count;

static void know_id(const stage_end *end, int64_t recorded)
{
    assert_in_range(id_count, 0, sizeof ids / sizeof ids[0] - 1);
    ids[id_count].end = end;
    ids[id_count].recorded = recorded;
    ids[id_count++].mine = znl_get_be32(end->sent.data + 8);
}

static int64_t id_for(const stage_end *end, int64_t recorded)
{
    for (unsigned i = id_count; i-- > 0;)
        if (ids[i].end == end && ids[i].recorded == recorded)
            return ids[i].mine;
    return 0;
}

static void play_request(stage_end *from, stage_end *to, const znl_packet *packet,
        const znl_cluster_message *message, znl_frame recorded)
{
    uint32_t timeout_ms = (uint32_t)packet->timeout_ms;
    int is_heartbeat = message->kind == ZNL_CLUSTER_HEARTBEAT;
    if (message->kind == ZNL_CLUSTER_VALUE)
        assert_int_equal(
                znl_cluster_link_push(from->link, packet->text, packet->data, timeout_ms), 0);
    else if (message->kind == ZNL_CLUSTER_REGISTER ||
            (message->kind == ZNL_CLUSTER_INVOKE && !message->is_oneway))
        assert_int_equal(znl_cluster_link_ask(from->link, message, packet->data, 0,
                                 (znl_waiter){from, 1}, NULL),
                0);
    else
        assert_int_equal(
                znl_cluster_link_tell(from->link, message, packet->data, timeout_ms, 0), 0);
    if (!is_heartbeat)
        znl_put_be32(from->sent.data + 12, timeout_ms); /* not waited for that long here */
    know_id(from, packet->id);
    check_sent(from, recorded, 1);
    to->heard.size = 0;
    stage_receive(to, recorded.data, recorded.size);
    assert_int_equal(to->heard.size > 0, !is_heartbeat);
}

static void play_response(stage_end *from, stage_end *to, const znl_packet *packet,
        const znl_cluster_message *message, znl_frame recorded)
{
    int is_by_itself = message->kind == ZNL_CLUSTER_HEARTBEAT_ANSWER ||
            message->kind == ZNL_CLUSTER_VALUE_TAKEN;
    if (!is_by_itself)
        assert_int_equal(znl_cluster_link_answer(from->link, packet->id, packet->timeout_ms,
                                 message, packet->data),
                0);
    check_sent(from, recorded, 0);
    uint8_t *mine = znl_vector_copy(recorded);
    znl_put_be32(mine + 4, 0);
    znl_put_be32(mine + 8, (uint32_t)id_for(to, packet->id));
    to->heard.size = 0;
    stage_receive(to, mine, recorded.size);
    assert_int_equal(to->heard.size > 0, !is_by_itself);
}

/* What went over one of the connections. */
static void play(const cJSON *exchange, int64_t conn)
{
    const cJSON *item;
    ZNL_VECTOR_EACH(item, exchange, "exchange")
    {
        if (!znl_vector_has(item, "hex") || znl_vector_number(item, "conn") != conn)
            continue; /* opened, closed */
        znl_frame recorded = znl_vector_hex(item, "hex");
        int is_by_leader = strcmp(znl_vector_text(item, "dir"), "leader->follower") == 0;
        stage_end *from = is_by_leader ? leader : follower;
        stage_end *to = is_by_leader ? follower : leader;
        znl_packet_reader reader = {.max_bytes = recorded.size};
        znl_packet packet;
        znl_cluster_message message;
        znl_buffer scratch = {0};
        znl_packet_feed(&reader, recorded.data, recorded.size);
        assert_int_equal(znl_packet_next(&reader, &packet), 1);
        assert_int_equal(znl_cluster_read(packet.text, 32, &scratch, &message), 0);
        if (packet.is_response)
            play_response(from, to, &packet, &message, recorded);
        else
            play_request(from, to, &packet, &message, recorded);
        znl_packet_reader_fini(&reader);
        znl_buffer_fini(&scratch);
        played++;
    }
}

static void every_exchange_is_played(void **state)
{
    static const char *const names[] = {"close-by-follower", "close-by-leader", "heartbeat",
            "heartbeat-flow-control", "invoke-args", "invoke-error", "invoke-oneway",
            "invoke-results", "invoke-timeout", "register-late-ready", "register-ok",
            "register-refused", "register-unknown-channel", "subscribe",
            "subscribe-not-broadcast"};
    (void)state;
    played = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[64];
        snprintf(path, sizeof path, "cluster/%s.json", names[i]);
        const cJSON *file = znl_vector_file(path), *item;
        for (int64_t conn = 2; conn < 8; conn++) {
            stage_open_both();
            id_count = 0;
            if (znl_vector_has(file, "exchange"))
                play(file, conn);
            else
                ZNL_VECTOR_EACH(item, file, "cases") play(item, conn);
            assert_int_equal(stage_count(leader).unknown + stage_count(follower).unknown, 0);
            assert_int_equal(stage_count(leader).pushed, stage_count(leader).taken);
            stage_clear(NULL);
            prepare(NULL);
        }
    }
    assert_int_equal(played, 118);
}

/* What a raw follower sent to a leader until that closed the connection, or its process ended. */
static void every_edge_case_is_survived(void **state)
{
    static const char *const breaking[] = {"empty body", "connObj is not JSON",
            "announced body of 2^31-1", "negative body length"};
    (void)state;
    const cJSON *item, *packet;
    unsigned broken = 0, cases = 0;
    ZNL_VECTOR_EACH(item, znl_vector_file("cluster/edge-cases.json"), "cases")
    {
        if (!znl_vector_has(item, "sent"))
            continue;
        int breaks = 0;
        for (size_t i = 0; i < sizeof breaking / sizeof breaking[0]; i++)
            breaks |= strncmp(znl_vector_text(item, "case"), breaking[i],
                              strlen(breaking[i])) == 0;
        for (size_t step = 1; step < 100; step += 49) {
            stage_open_both();
            leader->answer = (znl_cluster_message){.kind = ZNL_CLUSTER_RESULT, .is_success = 1};
            ZNL_VECTOR_EACH(packet, item, "sent")
            {
                assert_int_equal(znl_buffer_append(&follower->sent, packet->valuestring, 0), 0);
                for (const char *at = packet->valuestring; at[0] != 0; at += 2) {
                    unsigned byte;
                    assert_int_equal(sscanf(at, "%2x", &byte), 1);
                    znl_buffer_append(&follower->sent, &(uint8_t){(uint8_t)byte}, 1);
                }
            }
            stage_deliver(follower, leader, step);
            znl_buffer_append(&leader->heard, "", 1);
            int is_broken = strstr((char *)leader->heard.data, "broken ") != NULL;
            assert_int_equal(is_broken, breaks);
            broken += (unsigned)is_broken;
            follower->heard.size = 0;
            stage_deliver(leader, follower, step);
            assert_int_equal(follower->heard.size, 0); /* asked nothing */
            stage_clear(NULL);
            prepare(NULL);
        }
        cases++;
    }
    assert_int_equal(cases, 44);
    assert_int_equal(broken, 7 * 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(every_exchange_is_played, prepare, stage_clear),
            cmocka_unit_test_setup_teardown(every_edge_case_is_survived, prepare, stage_clear),
    };
    if (znl_random_start() != 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    znl_vector_end();
    return failed;
}
