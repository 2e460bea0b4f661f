/* Every packet recorded between cluster-client processes: it reads as it says, in any segmentation, and what is
 * written for the same thing is the same bytes. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "codec/cluster.h"
#include "codec/packet.h"
#include "support/vector.h"

#define DEPTH 32u
#define PACKETS 86

static void assert_frame(znl_frame actual, znl_frame expected)
{
    assert_int_equal(actual.size, expected.size);
    if (expected.size > 0)
        assert_memory_equal(actual.data, expected.data, expected.size);
}

static void check_packet(const znl_packet *packet, const cJSON *item)
{
    assert_int_equal(packet->is_response, znl_vector_number(item, "type") == 1);
    assert_int_equal(packet->id, znl_vector_number(item, "id"));
    assert_int_equal(packet->timeout_ms, znl_vector_number(item, "timeout"));
    assert_int_equal(packet->text.size, znl_vector_number(item, "connLength"));
    assert_int_equal(packet->data.size, znl_vector_number(item, "appLength"));
    assert_frame(packet->text, znl_vector_frame(item, "connText"));
    assert_frame(packet->data, znl_vector_hex(item, "app_hex"));
}

static void read_in_any_segmentation(void **state)
{
    (void)state;
    const cJSON *item;
    size_t count = 0;
    ZNL_VECTOR_EACH(item, znl_vector_file("cluster/packets.json"), "packets")
    {
        znl_frame bytes = znl_vector_hex(item, "hex");
        znl_packet packet;
        for (size_t step = 1; step <= bytes.size; step++) {
            znl_packet_reader reader = {.max_bytes = bytes.size - ZNL_PACKET_HEAD_BYTES};
            for (size_t at = 0; at < bytes.size; at += step) {
                size_t size = bytes.size - at < step ? bytes.size - at : step;
                int is_last = at + size == bytes.size;
                znl_packet_feed(&reader, bytes.data + at, size);
                assert_int_equal(znl_packet_next(&reader, &packet), is_last);
                if (is_last) {
                    check_packet(&packet, item);
                    assert_int_equal(znl_packet_next(&reader, &packet), 0);
                }
            }
            znl_packet_reader_fini(&reader);
        }
        count++;
    }
    assert_int_equal(count, PACKETS);
    znl_vector_end();
}

static void read_one_after_the_other(void **state)
{
    (void)state;
    const cJSON *item, *file = znl_vector_file("cluster/packets.json");
    znl_buffer all = {0};
    ZNL_VECTOR_EACH(item, file, "packets")
    {
        znl_frame bytes = znl_vector_hex(item, "hex");
        assert_int_equal(znl_buffer_append(&all, bytes.data, bytes.size), 0);
    }
    for (size_t cut = 0; cut < 4096 && cut < all.size; cut += 7) {
        znl_packet_reader reader = {.max_bytes = 65536};
        znl_packet packet;
        int more = 0;
        znl_packet_feed(&reader, all.data, cut);
        ZNL_VECTOR_EACH(item, file, "packets")
        {
            more = znl_packet_next(&reader, &packet);
            if (more == 0) {
                znl_packet_feed(&reader, all.data + cut, all.size - cut);
                more = znl_packet_next(&reader, &packet);
            }
            assert_int_equal(more, 1);
            check_packet(&packet, item);
        }
        assert_int_equal(znl_packet_next(&reader, &packet), 0);
        znl_packet_reader_fini(&reader);
    }
    znl_buffer_fini(&all);
    znl_vector_end();
}

static void written_to_the_same_bytes(void **state)
{
    (void)state;
    const cJSON *item;
    size_t arguments = 0;
    znl_buffer scratch = {0}, out = {0};
    ZNL_VECTOR_EACH(item, znl_vector_file("cluster/packets.json"), "packets")
    {
        uint8_t head[ZNL_PACKET_HEAD_BYTES];
        znl_frame bytes = znl_vector_hex(item, "hex"),
                  text = znl_vector_frame(item, "connText");
        znl_frame data = znl_vector_hex(item, "app_hex");
        znl_packet_put_head(head, znl_vector_number(item, "type") == 1,
                znl_vector_number(item, "id"), (int32_t)znl_vector_number(item, "timeout"),
                (uint32_t)text.size, (uint32_t)data.size);
        assert_memory_equal(head, bytes.data, sizeof head);
        znl_cluster_message message;
        text = znl_frame_of(znl_vector_copy(text), text.size);
        assert_int_equal(znl_cluster_read(text, DEPTH, &scratch, &message), 0);
        assert_int_not_equal(message.kind, ZNL_CLUSTER_UNKNOWN);
        out.size = 0;
        assert_int_equal(znl_cluster_write(&message, &out), 0);
        assert_frame(znl_frame_of(out.data, out.size), text);
        znl_frame constant = znl_cluster_text(message.kind, message.is_success);
        if (constant.data != NULL)
            assert_frame(constant, text);
        if (message.kind != ZNL_CLUSTER_INVOKE)
            continue;
        for (uint32_t i = 0; i < message.arg_count; i++, arguments++) {
            znl_frame argument;
            assert_int_equal(znl_cluster_next_argument(&data, &argument), 0);
            assert_true(argument.size > 0);
        }
        assert_int_equal(data.size, 0);
    }
    assert_true(arguments > 30);
    znl_buffer_fini(&scratch);
    znl_buffer_fini(&out);
    znl_vector_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(read_in_any_segmentation),
            cmocka_unit_test(read_one_after_the_other),
            cmocka_unit_test(written_to_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
