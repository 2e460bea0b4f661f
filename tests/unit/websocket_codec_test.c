/* Frames of WebSocket: heads in their shortest form and no other, masks, close codes; and the reader, which
 * finds the same messages and the same faults however the bytes are cut. SPDX-License-Identifier: MIT */
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
#include "codec/websocket_reader.h"

#define MAX 1000u

/* --- heads ----------------------------------------------------------------------------------------- */

static void heads_read_back(void **state)
{
    (void)state;
    static const struct {
        uint64_t size;
        size_t bytes;
    } sizes[] = {{0, 2}, {1, 2}, {125, 2}, {126, 4}, {65535, 4}, {65536, 10}, {INT64_MAX, 10}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int masked = 0; masked < 2; masked++) {
            znl_ws_rules rules = {.expects_mask = masked, .max_message_bytes = UINT64_MAX};
            znl_ws_head head = {.opcode = ZNL_WS_BINARY,
                    .is_final = 1,
                    .is_masked = (uint8_t)masked,
                    .mask = masked ? 0x12345678 : 0,
                    .size = sizes[i].size};
            uint8_t bytes[ZNL_WS_HEAD_BYTES_MAX];
            size_t size = znl_ws_head_write(bytes, &head);
            assert_int_equal(size, sizes[i].bytes + (masked ? 4u : 0u));
            znl_ws_head got = {0};
            const char *why = NULL;
            for (size_t part = 0; part < size; part++)
                assert_int_equal(znl_ws_head_read(&rules, bytes, part, &got, &why), 0);
            assert_int_equal(znl_ws_head_read(&rules, bytes, size, &got, &why), size);
            assert_int_equal(got.opcode, ZNL_WS_BINARY);
            assert_true(got.is_final);
            assert_int_equal(got.is_masked, masked);
            assert_int_equal(got.mask, head.mask);
            assert_true(got.size == head.size);
        }
    }
}

static void masking_is_by_byte(void **state)
{
    (void)state;
    uint8_t key[4] = {0x37, 0xfa, 0x21, 0x3d};
    uint32_t mask;
    memcpy(&mask, key, 4);
    uint8_t plain[200], want[200], got[204];
    for (size_t i = 0; i < sizeof plain; i++) {
        plain[i] = (uint8_t)(i * 7);
        want[i] = plain[i] ^ key[i % 4];
    }
    for (size_t size = 0; size <= sizeof plain; size++) {
        for (size_t shift = 0; shift < 4; shift++) {
            memset(got, 0xee, sizeof got);
            znl_ws_mask_copy(got + shift, plain, size, mask);
            assert_memory_equal(got + shift, want, size);
            if (shift + size < sizeof got)
                assert_int_equal(got[shift + size], 0xee);
            znl_ws_mask(got + shift, size, mask);
            assert_memory_equal(got + shift, plain, size);
        }
    }
}

/* --- close frames ---------------------------------------------------------------------------------- */

static void close_frames_read_back(void **state)
{
    (void)state;
    uint8_t bytes[ZNL_WS_CONTROL_BYTES_MAX];
    uint16_t code, fault;
    znl_frame reason;
    assert_int_equal(znl_ws_close_write(bytes, 0, znl_frame_text("never sent")), 0);
    assert_int_equal(znl_ws_close_read(znl_frame_of(bytes, 0), &code, &reason, &fault), 0);
    assert_int_equal(code, 0);
    size_t size = znl_ws_close_write(bytes, 1001, znl_frame_text("bye"));
    assert_int_equal(size, 5);
    assert_int_equal(znl_ws_close_read(znl_frame_of(bytes, size), &code, &reason, &fault), 0);
    assert_int_equal(code, 1001);
    assert_true(znl_frame_equal(reason, znl_frame_text("bye")));
}

static void long_reasons_are_cut_between_characters(void **state)
{
    (void)state;
    char text[200];
    uint8_t bytes[ZNL_WS_CONTROL_BYTES_MAX];
    memset(text, 'a', sizeof text);
    assert_int_equal(
            znl_ws_close_write(bytes, 1000, znl_frame_of(text, sizeof text)), sizeof bytes);
    memcpy(text + 121, "\xe2\x82\xac", 3); /* ends one byte late */
    assert_int_equal(znl_ws_close_write(bytes, 1000, znl_frame_of(text, sizeof text)), 2 + 121);
    memset(text, 0x80, sizeof text);
    assert_int_equal(znl_ws_close_write(bytes, 1000, znl_frame_of(text, sizeof text)), 2);
}

static void close_codes(void **state)
{
    (void)state;
    static const unsigned good[] = {
            1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999};
    static const unsigned bad[] = {
            0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(znl_ws_code_is_valid(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(znl_ws_code_is_valid(bad[i]));
}

/* --- the reader ------------------------------------------------------------------------------------ */

/* What a reader finds, as text: "T:hello B:xy P:x O:x C1000:bye !1002". */
struct found {
    char text[400];
    size_t size;
};

static void note(struct found *found, const char *kind, const void *data, size_t size)
{
    assert_true(found->size + strlen(kind) + size + 2 < sizeof found->text);
    found->size += (size_t)snprintf(found->text + found->size, sizeof found->text - found->size,
            "%s%s%.*s", found->size > 0 ? " " : "", kind, size > 40 ? 0 : (int)size,
            (const char *)data);
}

/* Reads all items there are. True when the connection goes on. */
static int drain(znl_ws_reader *reader, struct found *found)
{
    for (;;) {
        znl_ws_item item;
        char kind[24];
        int got = znl_ws_reader_next(reader, &item);
        if (got == 0)
            return 1;
        if (got < 0) {
            assert_non_null(reader->why);
            snprintf(kind, sizeof kind, "!%u", reader->fault);
            note(found, kind, "", 0);
            return 0;
        }
        assert_non_null(item.data);
        switch (item.opcode) {
        case ZNL_WS_TEXT:
            snprintf(kind, sizeof kind, item.size > 40 ? "T%zu" : "T:", item.size);
            break;
        case ZNL_WS_BINARY:
            snprintf(kind, sizeof kind, item.size > 40 ? "B%zu" : "B:", item.size);
            break;
        case ZNL_WS_PING:
            snprintf(kind, sizeof kind, item.size > 40 ? "P%zu" : "P:", item.size);
            break;
        case ZNL_WS_PONG:
            snprintf(kind, sizeof kind, "O:");
            break;
        default:
            assert_int_equal(item.opcode, ZNL_WS_CLOSE);
            snprintf(kind, sizeof kind, "C%u:", item.code);
            break;
        }
        note(found, kind, item.data, item.size > 40 ? 0 : item.size);
    }
}

/* Feeds the bytes in pieces of `step`, every piece in memory of its own that is gone afterwards; with
 * `keeps`, each is kept first, as when reading pauses. */
static void read_in_steps(const uint8_t *bytes, size_t size, size_t step, int is_server,
        int keeps, struct found *found)
{
    znl_ws_reader reader;
    memset(found, 0, sizeof *found);
    znl_ws_reader_init(&reader, is_server, MAX, 1);
    size_t at = 0;
    int goes_on = 1;
    while (goes_on && at < size) {
        size_t part = step < size - at ? step : size - at;
        uint8_t *piece = malloc(part);
        assert_non_null(piece);
        memcpy(piece, bytes + at, part);
        znl_ws_reader_feed(&reader, piece, part);
        if (keeps)
            assert_int_equal(znl_ws_reader_keep(&reader), 0);
        goes_on = drain(&reader, found);
        free(piece);
        at += part;
    }
    znl_ws_reader_fini(&reader);
    assert_int_equal(znl_ws_reader_held(&reader), 0);
}

static void expect(const uint8_t *bytes, size_t size, int is_server, const char *want)
{
    struct found found;
    for (size_t step = 1; step <= size; step++) {
        for (int keeps = 0; keeps < 2; keeps++) {
            read_in_steps(bytes, size, step, is_server, keeps, &found);
            assert_string_equal(found.text, want);
        }
    }
}

#define EXPECT(bytes, want) expect((const uint8_t *)(bytes), sizeof(bytes) - 1, 0, want)
#define EXPECT_SERVER(bytes, want) expect((const uint8_t *)(bytes), sizeof(bytes) - 1, 1, want)

static void messages_come_whole(void **state)
{
    (void)state;
    EXPECT("\x81\x05Hello", "T:Hello"); /* section 5.7 */
    EXPECT_SERVER("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", "T:Hello");
    EXPECT("\x81\x00\x82\x02xy\x81\x01z", "T: B:xy T:z");
    EXPECT("\x01\x03Hel\x80\x02lo", "T:Hello");
    EXPECT("\x02\x00\x00\x01x\x80\x00\x81\x01y", "B:x T:y");
    EXPECT("\x01\x00\x80\x00", "T:");
    EXPECT("\x01\x03Hel\x89\x01p\x00\x00\x8a\x00\x80\x02lo\x82\x01z", "P:p O: T:Hello B:z");
    EXPECT("\x88\x00", "C0:");
    EXPECT("\x88\x05\x03\xe8"
           "bye",
            "C1000:bye");
    EXPECT("\x01\x01\xe2\x80\x02\x82\xac", "T:\xe2\x82\xac"); /* a character in two fragments */
}

static void forbidden_bytes_are_refused(void **state)
{
    (void)state;
    EXPECT("\xc1\x00", "!1002"); /* reserved bits */
    EXPECT("\xa1\x00", "!1002");
    EXPECT("\x91\x00", "!1002");
    EXPECT("\x83\x00", "!1002"); /* reserved opcodes */
    EXPECT("\x87\x00", "!1002");
    EXPECT("\x8b\x00", "!1002");
    EXPECT("\x8f\x00", "!1002");
    EXPECT("\x80\x00", "!1002"); /* nothing to continue */
    EXPECT("\x01\x01x\x81\x01y", "!1002");
    EXPECT("\x01\x01x\x80\x01y\x80\x00", "T:xy !1002");
    EXPECT("\x09\x00", "!1002"); /* control frames: no fragments, at most 125 bytes */
    EXPECT("\x08\x00", "!1002");
    EXPECT("\x89\x7e\x00\x7e", "!1002");
    EXPECT("\x88\x7f", "!1002");
    EXPECT("\x81\x7e\x00\x7d", "!1002"); /* not the shortest form */
    EXPECT("\x81\x7f\x00\x00\x00\x00\x00\x00\xff\xff", "!1002");
    EXPECT("\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00", "!1002");
    EXPECT("\x81\x80\x01\x02\x03\x04", "!1002"); /* masked by a server */
    EXPECT_SERVER("\x81\x00", "!1002");          /* not masked by a client */
    EXPECT("\x88\x01x", "!1002");
    EXPECT("\x88\x02\x03\xed", "!1002"); /* 1005 */
    EXPECT("\x88\x03\x03\xe8\xff", "!1007");
    EXPECT("\x81\x01\xff", "!1007");
    EXPECT("\x81\x02\xc0\x80", "!1007");         /* longer than needed */
    EXPECT("\x81\x03\xed\xa0\x80", "!1007");     /* a surrogate */
    EXPECT("\x81\x04\xf4\x90\x80\x80", "!1007"); /* past the last character */
    EXPECT("\x01\x01\xe2\x80\x01\x82", "!1007"); /* ends inside a character */
    EXPECT("\x82\x01\xff", "B:\xff");
}

static void messages_are_limited(void **state)
{
    (void)state;
    static uint8_t bytes[4 + MAX + 8];
    memcpy(bytes, "\x82\x7e\x03\xe8", 4); /* as long as the limit */
    expect(bytes, 4 + MAX, 0, "B1000");
    bytes[3] = 0xe9;
    expect(bytes, 4, 0, "!1009"); /* before a byte of it has come */
    EXPECT("\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", "!1009");
    /* Fragments count together. */
    memcpy(bytes, "\x02\x7e\x03\xe7", 4);
    memcpy(bytes + 4 + 999, "\x80\x01x", 3);
    expect(bytes, 4 + 999 + 3, 0, "B1000");
    memcpy(bytes + 4 + 999, "\x80\x02x", 3);
    expect(bytes, 4 + 999 + 2, 0, "!1009");
    /* Control frames do not count. */
    memcpy(bytes + 4 + 999, "\x89\x01x\x80\x01x", 6);
    expect(bytes, 4 + 999 + 6, 0, "P:x B1000");
}

static void whole_frames_are_not_copied(void **state)
{
    (void)state;
    uint8_t bytes[] = "\x81\x02hi\x82\x02xy\x81\x03"
                      "ab";
    znl_ws_reader reader;
    znl_ws_item item;
    znl_ws_reader_init(&reader, 0, MAX, 1);
    znl_ws_reader_feed(&reader, bytes, sizeof bytes - 1);
    assert_int_equal(znl_ws_reader_next(&reader, &item), 1);
    assert_ptr_equal(item.data, bytes + 2);
    assert_int_equal(znl_ws_reader_next(&reader, &item), 1);
    assert_ptr_equal(item.data, bytes + 6);
    assert_int_equal(znl_ws_reader_held(&reader), 0);
    assert_int_equal(znl_ws_reader_next(&reader, &item), 0);
    assert_true(znl_ws_reader_held(&reader) > 0);
    uint8_t last[] = "c";
    znl_ws_reader_feed(&reader, last, 1);
    assert_int_equal(znl_ws_reader_next(&reader, &item), 1);
    assert_memory_equal(item.data, "abc", 3);
    assert_int_equal(znl_ws_reader_next(&reader, &item), 0);
    assert_int_equal(znl_ws_reader_held(&reader), 0); /* nothing under way, nothing held */
}

static void announced_sizes_reserve_nothing(void **state)
{
    (void)state;
    uint8_t bytes[] = "\x82\x7f\x00\x00\x00\x00\x3f\xff\xff\xff";
    znl_ws_reader reader;
    znl_ws_item item;
    znl_ws_reader_init(&reader, 0, (size_t)1 << 30, 1);
    znl_ws_reader_feed(&reader, bytes, sizeof bytes - 1);
    assert_int_equal(znl_ws_reader_next(&reader, &item), 0);
    assert_true(znl_ws_reader_held(&reader) <= 256);
    znl_ws_reader_fini(&reader);
}

static void large_messages_leave_no_memory_behind(void **state)
{
    (void)state;
    size_t size = 300000;
    uint8_t *bytes = calloc(1, size + 13);
    assert_non_null(bytes);
    uint8_t head[ZNL_WS_HEAD_BYTES_MAX];
    znl_ws_head large = {.opcode = ZNL_WS_BINARY, .is_final = 1, .size = size};
    memcpy(bytes, head, znl_ws_head_write(head, &large));
    memcpy(bytes, head, 10);
    memcpy(bytes + 10 + size, "\x81\x05x", 3); /* the next one is not whole */
    znl_ws_reader reader;
    znl_ws_item item;
    znl_ws_reader_init(&reader, 0, size, 1);
    znl_ws_reader_feed(&reader, bytes, 1000);
    assert_int_equal(znl_ws_reader_next(&reader, &item), 0);
    znl_ws_reader_feed(&reader, bytes + 1000, size + 13 - 1000);
    assert_int_equal(znl_ws_reader_next(&reader, &item), 1);
    assert_int_equal(item.size, size);
    assert_int_equal(znl_ws_reader_next(&reader, &item), 0);
    assert_true(znl_ws_reader_held(&reader) <= 65536);
    znl_ws_reader_fini(&reader);
    free(bytes);
}

static void without_memory_it_fails_with_1011(void **state)
{
    (void)state;
    uint8_t cut[] = "\x81\x05Hel";
    uint8_t fragment[] = "\x01\x05Hello";
    znl_ws_reader reader;
    znl_ws_item item;
    uint8_t *all[] = {cut, fragment};
    size_t sizes[] = {sizeof cut - 1, sizeof fragment - 1};
    for (size_t i = 0; i < 2; i++) {
        znl_ws_reader_init(&reader, 0, MAX, 1);
        znl_ws_reader_feed(&reader, all[i], sizes[i]);
        znl_alloc_fail_after(0);
        assert_int_equal(znl_ws_reader_next(&reader, &item), ZNL_E_NOMEM);
        znl_alloc_fail_after(-1);
        assert_int_equal(reader.fault, 1011);
        znl_ws_reader_fini(&reader);
    }
    znl_ws_reader_init(&reader, 0, MAX, 1);
    znl_ws_reader_feed(&reader, cut, 1);
    znl_alloc_fail_after(0);
    assert_int_equal(znl_ws_reader_keep(&reader), ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
    znl_ws_reader_fini(&reader);
}

static void text_is_not_checked_unless_asked(void **state)
{
    (void)state;
    uint8_t bytes[] = "\x81\x01\xff";
    znl_ws_reader reader;
    znl_ws_item item;
    znl_ws_reader_init(&reader, 0, MAX, 0);
    znl_ws_reader_feed(&reader, bytes, 3);
    assert_int_equal(znl_ws_reader_next(&reader, &item), 1);
    assert_int_equal(item.size, 1);
    znl_ws_reader_fini(&reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(heads_read_back),
            cmocka_unit_test(masking_is_by_byte),
            cmocka_unit_test(close_frames_read_back),
            cmocka_unit_test(long_reasons_are_cut_between_characters),
            cmocka_unit_test(close_codes),
            cmocka_unit_test(messages_come_whole),
            cmocka_unit_test(forbidden_bytes_are_refused),
            cmocka_unit_test(messages_are_limited),
            cmocka_unit_test(whole_frames_are_not_copied),
            cmocka_unit_test(announced_sizes_reserve_nothing),
            cmocka_unit_test(large_messages_leave_no_memory_behind),
            cmocka_unit_test(without_memory_it_fails_with_1011),
            cmocka_unit_test(text_is_not_checked_unless_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
