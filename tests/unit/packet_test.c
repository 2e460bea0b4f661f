/* Packets of cluster-client: heads, limits, segments, memory. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "codec/packet.h"

#define HEAD ZNL_PACKET_HEAD_BYTES
#define MIB (1024u * 1024)

static void put_packet(znl_buffer *out, int64_t id, uint32_t text_bytes, uint32_t data_bytes)
{
    uint8_t head[HEAD];
    znl_packet_put_head(head, 0, id, 3000, text_bytes, data_bytes);
    assert_int_equal(znl_buffer_append(out, head, sizeof head), 0);
    for (uint32_t i = 0; i < text_bytes + data_bytes; i++) {
        uint8_t byte = (uint8_t)(id + i);
        assert_int_equal(znl_buffer_append(out, &byte, 1), 0);
    }
}

static void assert_packet(
        const znl_packet *packet, int64_t id, uint32_t text_bytes, uint32_t data_bytes)
{
    assert_true(packet->id == id && !packet->is_response && packet->timeout_ms == 3000);
    assert_int_equal(packet->text.size, text_bytes);
    assert_int_equal(packet->data.size, data_bytes);
    for (uint32_t i = 0; i < text_bytes; i++)
        assert_int_equal(packet->text.data[i], (uint8_t)(id + i));
    for (uint32_t i = 0; i < data_bytes; i++)
        assert_int_equal(packet->data.data[i], (uint8_t)(id + text_bytes + i));
}

static void heads_keep_every_number(void **state)
{
    (void)state;
    static const struct {
        int64_t id;
        int32_t timeout_ms;
    } cases[] = {{0, 0}, {-1, -1}, {INT64_MIN, INT32_MIN}, {INT64_MAX, INT32_MAX},
            {INT64_C(0x0102030405060708), 0x01020304}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int is_response = 0; is_response < 2; is_response++) {
            uint8_t bytes[HEAD + 3] = {0};
            znl_packet_reader reader = {.max_bytes = 3};
            znl_packet packet;
            znl_packet_put_head(bytes, is_response, cases[i].id, cases[i].timeout_ms, 2, 1);
            znl_packet_feed(&reader, bytes, sizeof bytes);
            assert_int_equal(znl_packet_next(&reader, &packet), 1);
            assert_int_equal(packet.is_response, is_response);
            assert_true(packet.id == cases[i].id && packet.timeout_ms == cases[i].timeout_ms);
            assert_ptr_equal(packet.text.data, bytes + HEAD); /* not copied */
            assert_ptr_equal(packet.data.data, bytes + HEAD + 2);
            assert_int_equal(packet.text.size, 2);
            assert_int_equal(packet.data.size, 1);
            znl_packet_reader_fini(&reader);
        }
    }
}

/* Readers do not look at version and reserved; a type of 1 is a response, every other a request. */
static void opaque_bytes(void **state)
{
    (void)state;
    for (unsigned type = 0; type < 256; type++) {
        uint8_t bytes[HEAD + 2] = {0};
        znl_packet_reader reader = {.max_bytes = 2};
        znl_packet packet;
        znl_packet_put_head(bytes, 0, 7, 0, 2, 0);
        bytes[0] = (uint8_t)(type * 7);
        bytes[1] = (uint8_t)type;
        bytes[2] = 0xff;
        bytes[3] = 0x80;
        znl_packet_feed(&reader, bytes, sizeof bytes);
        assert_int_equal(znl_packet_next(&reader, &packet), 1);
        assert_int_equal(packet.is_response, type == 1);
        assert_true(packet.id == 7);
        assert_int_equal(znl_packet_next(&reader, &packet), 0);
        znl_packet_reader_fini(&reader);
    }
}

/* Refused as soon as the head is there, in one piece or byte by byte, and for good. */
static void assert_refused(uint32_t text_bytes, uint32_t data_bytes, size_t max_bytes, int err)
{
    for (size_t step = 1; step <= HEAD; step += HEAD - 1) {
        uint8_t head[HEAD];
        znl_packet_reader reader = {.max_bytes = max_bytes};
        znl_packet packet;
        znl_packet_put_head(head, 0, 1, 0, text_bytes, data_bytes);
        for (size_t at = 0; at + step < HEAD; at += step) {
            znl_packet_feed(&reader, head + at, step);
            assert_int_equal(znl_packet_next(&reader, &packet), 0);
        }
        znl_packet_feed(&reader, head + HEAD - step, step);
        assert_int_equal(znl_packet_next(&reader, &packet), err);
        assert_int_equal(znl_packet_next(&reader, &packet), err);
        uint8_t good[HEAD + 2] = {0};
        znl_packet_put_head(good, 0, 1, 0, 2, 0);
        znl_packet_feed(&reader, good, sizeof good);
        assert_int_equal(znl_packet_next(&reader, &packet), err);
        assert_int_equal(reader.kept.capacity, 0);
        znl_packet_reader_fini(&reader);
    }
}

static void sizes_that_are_refused(void **state)
{
    (void)state;
    assert_refused(0, 0, MIB, ZNL_E_PROTO);
    assert_refused(UINT32_MAX, 0, MIB, ZNL_E_PROTO);
    assert_refused(2, UINT32_MAX, MIB, ZNL_E_PROTO);
    assert_refused(0x80000000u, 0x80000000u, SIZE_MAX, ZNL_E_PROTO);
    assert_refused(UINT32_MAX, 3, SIZE_MAX, ZNL_E_PROTO); /* the sum would be 2 */
    assert_refused(101, 0, 100, ZNL_E_TOO_BIG);
    assert_refused(50, 51, 100, ZNL_E_TOO_BIG);
    assert_refused(0, 101, 100, ZNL_E_TOO_BIG);
    assert_refused(INT32_MAX, INT32_MAX, 100, ZNL_E_TOO_BIG);
    assert_refused(1, 0, 0, ZNL_E_TOO_BIG);
}

/* Three packets, cut in two places each: the same packets, and what was given is let go. */
static void any_two_cuts(void **state)
{
    (void)state;
    static const uint32_t sizes[3][2] = {{2, 0}, {0, 5}, {7, 40}};
    znl_buffer all = {0};
    for (int i = 0; i < 3; i++)
        put_packet(&all, i, sizes[i][0], sizes[i][1]);
    for (size_t first = 0; first <= all.size; first++) {
        for (size_t second = first; second <= all.size; second++) {
            const size_t cuts[] = {0, first, second, all.size};
            znl_packet_reader reader = {.max_bytes = 47};
            znl_packet packet;
            int count = 0;
            for (int i = 0; i < 3; i++) {
                size_t size = cuts[i + 1] - cuts[i];
                uint8_t *piece = malloc(
                        size + (size == 0)); /* its end is the end of the block */
                assert_non_null(piece);
                memcpy(piece, all.data + cuts[i], size);
                znl_packet_feed(&reader, piece, size);
                while (znl_packet_next(&reader, &packet) == 1) {
                    assert_true(count < 3);
                    assert_packet(&packet, count, sizes[count][0], sizes[count][1]);
                    count++;
                }
                free(piece);
            }
            assert_int_equal(count, 3);
            znl_packet_reader_fini(&reader);
        }
    }
    znl_buffer_fini(&all);
}

/* A large packet that is announced costs what has arrived of it, and its memory is given back. */
static void memory_follows_what_arrives(void **state)
{
    (void)state;
    uint8_t head[HEAD];
    uint8_t *piece = calloc(1, MIB);
    assert_non_null(piece);
    znl_packet_reader reader = {.max_bytes = 64u * MIB};
    znl_packet packet;
    znl_packet_put_head(head, 0, 1, 0, 2, 64u * MIB - 2);
    znl_packet_feed(&reader, head, sizeof head);
    assert_int_equal(znl_packet_next(&reader, &packet), 0);
    assert_true(reader.kept.capacity <= 4096);
    for (uint32_t i = 1; i <= 64; i++) {
        znl_packet_feed(&reader, piece, MIB);
        int more = znl_packet_next(&reader, &packet);
        assert_int_equal(more, i == 64);
        assert_true(reader.kept.capacity <= 2u * (i * MIB + HEAD));
    }
    assert_int_equal(packet.data.size, 64u * MIB - 2);
    znl_packet_feed(&reader, head, 1);
    assert_int_equal(znl_packet_next(&reader, &packet), 0);
    assert_true(reader.kept.capacity <= 4096);
    znl_packet_reader_fini(&reader);
    free(piece);
}

/* Once its buffer has grown, packets in pieces cost no allocation. */
static void no_allocation_in_steady_state(void **state)
{
    (void)state;
    znl_buffer bytes = {0};
    put_packet(&bytes, 5, 30, 1000);
    znl_packet_reader reader = {.max_bytes = MIB};
    znl_packet packet;
    for (int i = 0; i < 100; i++) {
        if (i == 1)
            znl_alloc_fail_after(0);
        znl_packet_feed(&reader, bytes.data, 100);
        assert_int_equal(znl_packet_next(&reader, &packet), 0);
        znl_packet_feed(&reader, bytes.data + 100, bytes.size - 100);
        assert_int_equal(znl_packet_next(&reader, &packet), 1);
        znl_packet_feed(&reader, bytes.data, bytes.size);
        assert_int_equal(znl_packet_next(&reader, &packet), 1);
        assert_int_equal(znl_packet_next(&reader, &packet), 0);
    }
    znl_alloc_fail_after(-1);
    znl_packet_reader_fini(&reader);
    znl_buffer_fini(&bytes);
}

static void memory_runs_out(void **state)
{
    (void)state;
    znl_buffer bytes = {0};
    put_packet(&bytes, 5, 30, 1000);
    for (size_t cut = 10; cut < bytes.size; cut += 500) {
        znl_packet_reader reader = {.max_bytes = MIB};
        znl_packet packet;
        znl_packet_feed(&reader, bytes.data, cut);
        znl_alloc_fail_after(0);
        assert_int_equal(znl_packet_next(&reader, &packet), ZNL_E_NOMEM);
        znl_alloc_fail_after(-1);
        znl_packet_feed(&reader, bytes.data, bytes.size);
        assert_int_equal(znl_packet_next(&reader, &packet), ZNL_E_NOMEM);
        znl_packet_reader_fini(&reader);
        /* Made anew it reads again. */
        znl_packet_feed(&reader, bytes.data, bytes.size);
        assert_int_equal(znl_packet_next(&reader, &packet), 1);
        assert_packet(&packet, 5, 30, 1000);
        znl_packet_reader_fini(&reader);
    }
    znl_buffer_fini(&bytes);
}

/* A limit that is raised between two packets holds for the next one. */
static void limit_may_change(void **state)
{
    (void)state;
    znl_buffer bytes = {0};
    put_packet(&bytes, 1, 10, 0);
    put_packet(&bytes, 2, 10, 90);
    znl_packet_reader reader = {.max_bytes = 10};
    znl_packet packet;
    znl_packet_feed(&reader, bytes.data, bytes.size);
    assert_int_equal(znl_packet_next(&reader, &packet), 1);
    reader.max_bytes = 100;
    assert_int_equal(znl_packet_next(&reader, &packet), 1);
    assert_packet(&packet, 2, 10, 90);
    znl_packet_reader_fini(&reader);
    znl_buffer_fini(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(heads_keep_every_number),
            cmocka_unit_test(opaque_bytes),
            cmocka_unit_test(sizes_that_are_refused),
            cmocka_unit_test(any_two_cuts),
            cmocka_unit_test(memory_follows_what_arrives),
            cmocka_unit_test(no_allocation_in_steady_state),
            cmocka_unit_test(memory_runs_out),
            cmocka_unit_test(limit_may_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
