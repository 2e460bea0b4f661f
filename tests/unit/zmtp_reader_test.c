/* The reader of ZMTP: the same messages and commands however the bytes are cut, what goes beyond a limit is passed over,
 * nothing is held for nothing, and out of memory is an error. SPDX-License-Identifier: MIT */
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
#include "codec/zmtp_reader.h"
#include "support/zmtp_wire.h"

static const znl_zmtp_limits usual = {
        .max_frame_bytes = 1u << 20, .max_message_bytes = 1u << 20, .max_frames = 64};

/* --- what is written ---------------------------------------------------------------------------- */

/* Bytes of a conversation, and what a reader should say of them. */
struct script {
    uint8_t *data;
    size_t size, capacity;
    znl_buffer says;
};

static uint8_t *room(struct script *script, size_t size)
{
    if (script->size + size > script->capacity) {
        script->capacity = (script->size + size) * 2;
        script->data = realloc(script->data, script->capacity);
        assert_non_null(script->data);
    }
    return script->data + script->size;
}

static void add_bytes(struct script *script, const void *bytes, size_t size)
{
    uint8_t *at = room(script, size);
    if (size > 0)
        memcpy(at, bytes, size);
    script->size += size;
}

/* "m3:abc,0:;" a message, "c5:READY;" a command, "!TOO_BIG;" an error. */
static void note(znl_buffer *notes, const char *kind, const znl_frame *frames, size_t count)
{
    char text[40];
    assert_int_equal(znl_buffer_append(notes, kind, strlen(kind)), 0);
    for (size_t i = 0; i < count; i++) {
        int size = snprintf(text, sizeof text, "%s%zu:", i > 0 ? "," : "", frames[i].size);
        assert_int_equal(znl_buffer_append(notes, text, (size_t)size), 0);
        assert_int_equal(znl_buffer_append(notes, frames[i].data, frames[i].size), 0);
    }
    assert_int_equal(znl_buffer_append(notes, ";", 1), 0);
}

static void note_error(znl_buffer *notes, int err)
{
    char text[20];
    snprintf(text, sizeof text, "!%d", err);
    note(notes, text, NULL, 0);
}

/* One frame, which nobody is to say anything of yet. */
static void add_frame(struct script *script, const void *body, size_t size, unsigned flags)
{
    uint8_t *at = room(script, size + ZNL_ZMTP_HEAD_BYTES_MAX);
    uint8_t *end = znl_zmtp_write_head(at, size, flags);
    script->size += (size_t)(end - at);
    add_bytes(script, body, size);
}

static void add_message(struct script *script, const znl_frame *frames, size_t count)
{
    uint8_t *at = room(script, znl_zmtp_message_bytes(frames, count));
    script->size += (size_t)(znl_zmtp_write_message(at, frames, count) - at);
    note(&script->says, "m", frames, count);
}

static void add_command(struct script *script, const void *body, size_t size)
{
    znl_frame frame = znl_frame_of(body, size);
    add_frame(script, body, size, ZNL_ZMTP_COMMAND);
    note(&script->says, "c", &frame, 1);
}

static void add_text(struct script *script, const char *text)
{
    znl_frame frame = znl_frame_text(text);
    add_message(script, &frame, 1);
}

static void script_fini(struct script *script)
{
    free(script->data);
    znl_buffer_fini(&script->says);
}

/* --- what is read ------------------------------------------------------------------------------- */

struct reading {
    znl_zmtp_reader reader;
    znl_zmtp_scratch scratch;
    znl_zmtp_limits limits;
    znl_buffer says;
    size_t items;
    int err; /* that ended it */
};

static int is_over(int got)
{
    return got == ZNL_E_PROTO || got == ZNL_E_CLOSED;
}

/* Lends a copy that is gone afterwards, and reads all there is. */
static void feed(struct reading *reading, const uint8_t *data, size_t size)
{
    znl_zmtp_item item;
    int got;
    uint8_t *lent = malloc(size + !size);
    assert_non_null(lent);
    if (size > 0)
        memcpy(lent, data, size);
    znl_zmtp_reader_feed(&reading->reader, lent, size);
    while ((got = znl_zmtp_reader_next(
                    &reading->reader, &reading->limits, &reading->scratch, &item)) != 0) {
        if (got == 1) {
            reading->items++;
            assert_true(item.count > 0 && (!item.is_command || item.count == 1));
            note(&reading->says, item.is_command ? "c" : "m", item.frames, item.count);
            item.frames[-1] = znl_frame_text("room for one before");
        } else {
            note_error(&reading->says, got);
        }
        if (is_over(got)) {
            reading->err = got;
            break;
        }
    }
    memset(lent, 0xee, size);
    free(lent);
}

static void assert_says(const struct reading *reading, const struct script *script)
{
    if (!znl_frame_equal(znl_frame_of(reading->says.data, reading->says.size),
                znl_frame_of(script->says.data, script->says.size)))
        fail_msg("read %.300s\ninstead of %.300s",
                reading->says.data ? (const char *)reading->says.data : "",
                script->says.data ? (const char *)script->says.data : "");
}

/* Nothing is under way: nothing is held. */
static void assert_holds_nothing(const struct reading *reading)
{
    assert_null(reading->reader.held.data);
    assert_int_equal(reading->reader.held.capacity, 0);
}

static void reading_fini(struct reading *reading)
{
    znl_zmtp_reader_fini(&reading->reader);
    znl_zmtp_scratch_fini(&reading->scratch);
    znl_buffer_fini(&reading->says);
}

/* In one piece, cut at every place, and byte by byte, it is always the same. */
static void check_cut_everywhere(const struct script *script, const znl_zmtp_limits *limits)
{
    for (size_t cut = 0; cut <= script->size + 1; cut++) {
        struct reading reading = {.limits = *limits};
        if (cut > script->size) {
            for (size_t at = 0; at < script->size && reading.err == 0; at++)
                feed(&reading, script->data + at, 1);
        } else {
            feed(&reading, script->data, cut);
            if (reading.err == 0)
                feed(&reading, script->data + cut, script->size - cut);
        }
        assert_says(&reading, script);
        if (reading.err == 0)
            assert_holds_nothing(&reading);
        reading_fini(&reading);
    }
}

/* --- tests -------------------------------------------------------------------------------------- */

static void messages_come_out_as_they_went_in(void **state)
{
    static uint8_t big[700];
    const znl_frame frames[] = {znl_frame_text("id"), {NULL, 0}, znl_frame_of(big, 254),
            znl_frame_of(big, 255), znl_frame_of(big, 256), znl_frame_of(big, 700), {NULL, 0}};
    struct script script = {0};
    (void)state;
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (uint8_t)(i * 7 + 1);
    for (size_t count = 1; count <= 7; count++)
        add_message(&script, frames, count);
    for (size_t i = 0; i < 7; i++)
        add_message(&script, frames + i, 1);
    check_cut_everywhere(&script, &usual);
    script_fini(&script);
}

static void what_came_whole_stays_where_it_lies(void **state)
{
    uint8_t bytes[300];
    struct reading reading = {.limits = usual};
    znl_zmtp_item item;
    (void)state;
    const znl_frame frames[] = {znl_frame_text("one"), znl_frame_text("two")};
    uint8_t *end = znl_zmtp_write_message(bytes, frames, 2);
    end = znl_zmtp_write_message(end, frames, 1);
    size_t size = (size_t)(end - bytes);
    znl_zmtp_reader_feed(&reading.reader, bytes, size);
    assert_int_equal(
            znl_zmtp_reader_next(&reading.reader, &reading.limits, &reading.scratch, &item), 1);
    assert_false(item.is_command);
    assert_int_equal(item.count, 2);
    assert_ptr_equal(item.frames[0].data, bytes + 2);
    assert_ptr_equal(item.frames[1].data, bytes + 7);
    assert_int_equal(
            znl_zmtp_reader_next(&reading.reader, &reading.limits, &reading.scratch, &item), 1);
    assert_ptr_equal(item.frames[0].data, bytes + 12);
    assert_int_equal(
            znl_zmtp_reader_next(&reading.reader, &reading.limits, &reading.scratch, &item), 0);
    assert_holds_nothing(&reading);
    reading_fini(&reading);
}

static void a_conversation_of_libzmq(void **state)
{
    static uint8_t body[256];
    const znl_frame frames[] = {{NULL, 0}, znl_frame_of(body, 255), znl_frame_of(body, 256)};
    struct script script = {0};
    (void)state;
    memset(body, 'b', sizeof body);
    add_bytes(&script, WIRE(WIRE_READY_DEALER_ID));
    note(&script.says, "c",
            &(znl_frame){
                    (const uint8_t *)WIRE_READY_DEALER_ID + 2, sizeof WIRE_READY_DEALER_ID - 3},
            1);
    add_bytes(&script, WIRE(WIRE_HEAD_0_MORE WIRE_HEAD_255_MORE));
    add_bytes(&script, body, 255);
    add_bytes(&script, WIRE(WIRE_HEAD_256));
    add_bytes(&script, body, 256);
    note(&script.says, "m", frames, 3);
    add_bytes(&script, WIRE(WIRE_PING WIRE_PONG));
    note(&script.says, "c", &(znl_frame){(const uint8_t *)WIRE_PING + 2, 7}, 1);
    note(&script.says, "c", &(znl_frame){(const uint8_t *)WIRE_PONG + 2, 9}, 1);
    check_cut_everywhere(&script, &usual);
    script_fini(&script);
}

static void commands_between_messages(void **state)
{
    struct script script = {0};
    (void)state;
    add_command(&script, "\5READY\13Socket-Type\0\0\0\6DEALER", 28);
    add_text(&script, "a");
    add_command(&script, "\4PING\0\x19", 7);
    add_command(&script, "\4PONG", 5);
    add_text(&script, "b");
    add_command(&script, "", 0); /* the body is not looked at here */
    check_cut_everywhere(&script, &usual);
    script_fini(&script);
}

/* libzmq sends its heartbeat when the timer says so, also between two frames of a message. */
static void commands_inside_a_message(void **state)
{
    const znl_frame first = znl_frame_text("first"), second = znl_frame_text("second"),
                    third = znl_frame_text("third");
    const znl_frame ping = znl_frame_of("\4PING\0\x19", 7), pong = znl_frame_of("\4PONG", 5);
    const znl_frame all[] = {first, second, third};
    struct script script = {0};
    (void)state;
    add_text(&script, "before");
    add_frame(&script, first.data, first.size, ZNL_ZMTP_MORE);
    add_frame(&script, ping.data, ping.size, ZNL_ZMTP_COMMAND);
    add_frame(&script, second.data, second.size, ZNL_ZMTP_MORE);
    add_frame(&script, pong.data, pong.size, ZNL_ZMTP_COMMAND);
    add_frame(&script, ping.data, ping.size, ZNL_ZMTP_COMMAND);
    add_frame(&script, third.data, third.size, 0);
    note(&script.says, "c", &ping, 1);
    note(&script.says, "c", &pong, 1);
    note(&script.says, "c", &ping, 1);
    note(&script.says, "m", all, 3);
    add_text(&script, "after");
    add_command(&script, "\4PONG", 5);
    check_cut_everywhere(&script, &usual);
    script_fini(&script);
}

static void too_many_frames_are_passed_over(void **state)
{
    znl_frame frames[10];
    const znl_zmtp_limits limits = {
            .max_frame_bytes = 1000, .max_message_bytes = 1000, .max_frames = 4};
    struct script script = {0};
    (void)state;
    for (size_t i = 0; i < 10; i++)
        frames[i] = znl_frame_text("0123456789" + i);
    for (size_t count = 1; count <= 10; count++) {
        if (count <= 4) {
            add_message(&script, frames, count);
            continue;
        }
        for (size_t i = 0; i < count; i++)
            add_frame(
                    &script, frames[i].data, frames[i].size, i + 1 < count ? ZNL_ZMTP_MORE : 0);
        note_error(&script.says, ZNL_E_LIMIT);
    }
    add_text(&script, "and on it goes");
    check_cut_everywhere(&script, &limits);
    script_fini(&script);
}

static void too_many_bytes_are_passed_over(void **state)
{
    static uint8_t body[700];
    const znl_zmtp_limits limits = {
            .max_frame_bytes = 600, .max_message_bytes = 500, .max_frames = 4};
    const znl_frame just[] = {znl_frame_of(body, 200), znl_frame_of(body, 300)};
    struct script script = {0};
    (void)state;
    memset(body, 'x', sizeof body);
    add_message(&script, just, 2);
    /* In one frame, in the last of two, in the first of two. */
    add_frame(&script, body, 501, 0);
    note_error(&script.says, ZNL_E_TOO_BIG);
    add_frame(&script, body, 200, ZNL_ZMTP_MORE);
    add_frame(&script, body, 301, 0);
    note_error(&script.says, ZNL_E_TOO_BIG);
    add_frame(&script, body, 501, ZNL_ZMTP_MORE);
    add_frame(&script, "", 0, 0);
    note_error(&script.says, ZNL_E_TOO_BIG);
    add_text(&script, "between");
    /* More of them than a message may have is one message still; its commands are gone with it. */
    add_frame(&script, body, 600, ZNL_ZMTP_MORE);
    for (size_t i = 0; i < 10; i++) {
        add_frame(&script, body, i * 60, ZNL_ZMTP_MORE);
        add_frame(&script, "\4PONG", 5, ZNL_ZMTP_COMMAND);
    }
    add_frame(&script, body, 1, 0);
    note_error(&script.says, ZNL_E_TOO_BIG);
    add_message(&script, just, 2);
    add_command(&script, "\4PONG", 5);
    check_cut_everywhere(&script, &limits);
    script_fini(&script);
}

static void nothing_is_held_for_what_is_passed_over(void **state)
{
    static uint8_t body[1000];
    const znl_zmtp_limits limits = {
            .max_frame_bytes = 1000, .max_message_bytes = 300, .max_frames = 100};
    struct script script = {0};
    struct reading reading = {.limits = limits};
    (void)state;
    for (size_t i = 0; i < 50; i++)
        add_frame(&script, body, sizeof body, ZNL_ZMTP_MORE);
    note_error(&script.says, ZNL_E_TOO_BIG);
    for (size_t at = 0; at < script.size; at += 7) {
        size_t left = script.size - at;
        feed(&reading, script.data + at, left < 7 ? left : 7);
        assert_true(reading.reader.held.size <= ZNL_ZMTP_HEAD_BYTES_MAX);
        assert_true(reading.reader.held.capacity <= 256); /* the least a buffer has */
    }
    assert_says(&reading, &script);
    script_fini(&script);
    reading_fini(&reading);
}

/* A routing id that the caller puts before each message counts to its bytes. */
static void what_leads_a_message_counts(void **state)
{
    static uint8_t body[100];
    const znl_zmtp_limits limits = {
            .max_frame_bytes = 100, .max_message_bytes = 100, .max_frames = 4};
    const znl_frame just[] = {znl_frame_of(body, 60), znl_frame_of(body, 30)};
    (void)state;
    struct script script = {0};
    for (unsigned i = 0; i < 3; i++) {
        add_message(&script, just, 2);
        add_frame(&script, body, 60, ZNL_ZMTP_MORE);
        add_frame(&script, body, 31, 0);
        note_error(&script.says, ZNL_E_TOO_BIG);
    }
    for (size_t step = 1; step <= script.size; step++) {
        struct reading reading = {.limits = limits, .reader = {.lead_bytes = 10}};
        for (size_t at = 0; at < script.size; at += step) {
            size_t left = script.size - at;
            feed(&reading, script.data + at, left < step ? left : step);
        }
        assert_says(&reading, &script);
        reading_fini(&reading);
    }
    script_fini(&script);
    /* What is longer than a message may be leaves room for nothing. */
    script = (struct script){0};
    struct reading reading = {.limits = limits, .reader = {.lead_bytes = 101}};
    add_frame(&script, "", 0, 0);
    note_error(&script.says, ZNL_E_TOO_BIG);
    feed(&reading, script.data, script.size);
    assert_says(&reading, &script);
    reading_fini(&reading);
    script_fini(&script);
}

/* Large frames are read into their place, and what is not large, or not begun, is lent. */
static void large_frames_are_read_in_their_place(void **state)
{
    static const size_t sizes[] = {0, 255, 30000, 32 * 1024, 40000, 200000, 1000000};
    static const size_t first_pieces[] = {1, 8, 9, 10, 1000, 39000};
    const znl_zmtp_limits limits = {
            .max_frame_bytes = 2000000, .max_message_bytes = 3000000, .max_frames = 4};
    uint8_t *body = malloc(1000000);
    (void)state;
    assert_non_null(body);
    for (size_t i = 0; i < 1000000; i++)
        body[i] = (uint8_t)(i * 13 + i / 999);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (size_t f = 0; f < sizeof first_pieces / sizeof *first_pieces; f++) {
            struct script script = {0};
            struct reading reading = {.limits = limits};
            const znl_frame frames[] = {
                    znl_frame_text("id"), znl_frame_of(body, sizes[s]), znl_frame_of(body, 70)};
            add_message(&script, frames, 3);
            add_message(&script, frames + 1, 1);
            add_command(&script, "\4PONG", 5);
            add_text(&script, "last");
            size_t in_place = 0, piece = first_pieces[f];
            for (size_t at = 0; at < script.size;) {
                uint8_t *place;
                size_t room, left = script.size - at;
                if (znl_zmtp_reader_room(&reading.reader, &place, &room)) {
                    assert_true(room > 0 && room <= left); /* not beyond the frame */
                    assert_true(reading.reader.held.capacity <= 4 * at + 65536);
                    piece = room < 20000 ? room : 20000 + room / 3;
                    memcpy(place, script.data + at, piece);
                    znl_zmtp_reader_filled(&reading.reader, piece);
                    in_place += piece;
                    at += piece;
                    feed(&reading, place, 0);
                } else {
                    piece = piece < left ? piece : left;
                    feed(&reading, script.data + at, piece);
                    at += piece;
                }
                piece = 1000;
            }
            assert_says(&reading, &script);
            assert_holds_nothing(&reading);
            assert_true(sizes[s] >= 100000 ? in_place > sizes[s]
                                           : sizes[s] >= 32 * 1024 + 1000 || in_place == 0);
            reading_fini(&reading);
            script_fini(&script);
        }
    }
    free(body);
}

/* What is passed over, and what there is no memory for, has no place. */
static void no_place_for_what_is_not_held(void **state)
{
    static uint8_t body[100000];
    const znl_zmtp_limits limits = {
            .max_frame_bytes = 200000, .max_message_bytes = 50000, .max_frames = 4};
    struct script script = {0};
    struct reading reading = {.limits = limits};
    uint8_t *place;
    size_t room;
    (void)state;
    assert_false(znl_zmtp_reader_room(&reading.reader, &place, &room));
    add_frame(&script, body, sizeof body, 0);
    feed(&reading, script.data, 1000);
    note_error(&script.says, ZNL_E_TOO_BIG);
    assert_says(&reading, &script);
    assert_false(znl_zmtp_reader_room(&reading.reader, &place, &room));
    reading_fini(&reading);
    reading = (struct reading){.limits = usual};
    feed(&reading, script.data, 200); /* nothing is left of what is held at first */
    znl_alloc_fail_after(0);
    assert_false(znl_zmtp_reader_room(&reading.reader, &place, &room));
    znl_alloc_fail_after(-1);
    assert_true(znl_zmtp_reader_room(&reading.reader, &place, &room));
    assert_true(room >= 200);
    reading_fini(&reading);
    script_fini(&script);
}

/* A head that says a frame of `size` with these flags, in the long form. */
static void add_long_head(struct script *script, uint64_t size, unsigned flags)
{
    uint8_t head[9] = {(uint8_t)(flags | ZNL_ZMTP_LONG)};
    znl_put_be32(head + 1, (uint32_t)(size >> 32));
    znl_put_be32(head + 5, (uint32_t)size);
    add_bytes(script, head, sizeof head);
}

static void a_frame_beyond_its_limit_ends_it(void **state)
{
    static const uint64_t sizes[] = {1001, 65536, UINT32_MAX, UINT64_C(1) << 32,
            (UINT64_C(1) << 32) + 1, INT64_MAX, UINT64_C(1) << 63, UINT64_MAX - 9, UINT64_MAX};
    const znl_zmtp_limits limits = {
            .max_frame_bytes = 1000, .max_message_bytes = 3000, .max_frames = 4};
    static uint8_t body[1000];
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (unsigned flags = 0; flags < 2; flags++) {
            struct script script = {0};
            const znl_frame just = znl_frame_of(body, sizeof body);
            add_message(&script, &just, 1);
            add_frame(&script, "x", flags, flags); /* also inside a message */
            if (!flags)
                note(&script.says, "m", &(znl_frame){NULL, 0}, 1);
            add_long_head(&script, sizes[i], flags);
            note_error(&script.says, ZNL_E_PROTO);
            check_cut_everywhere(&script, &limits);
            script_fini(&script);
        }
    }
    /* Also when it is short, and when the message is being passed over. */
    const znl_zmtp_limits tiny = {
            .max_frame_bytes = 10, .max_message_bytes = 5, .max_frames = 2};
    struct script script = {0};
    add_frame(&script, body, 11, 0);
    note_error(&script.says, ZNL_E_PROTO);
    check_cut_everywhere(&script, &tiny);
    script_fini(&script);
    script = (struct script){0};
    add_frame(&script, body, 10, ZNL_ZMTP_MORE);
    note_error(&script.says, ZNL_E_TOO_BIG);
    add_frame(&script, body, 11, 0);
    note_error(&script.says, ZNL_E_PROTO);
    check_cut_everywhere(&script, &tiny);
    script_fini(&script);
}

static void the_long_form_may_say_a_short_size(void **state)
{
    const znl_frame frames[] = {{NULL, 0}, znl_frame_text("abc")};
    struct script script = {0};
    (void)state;
    add_long_head(&script, 0, ZNL_ZMTP_MORE);
    add_long_head(&script, 3, 0);
    add_bytes(&script, "abc", 3);
    note(&script.says, "m", frames, 2);
    add_long_head(&script, 5, ZNL_ZMTP_COMMAND);
    add_bytes(&script, "\4PONG", 5);
    note(&script.says, "c", &(znl_frame){(const uint8_t *)"\4PONG", 5}, 1);
    check_cut_everywhere(&script, &usual);
    script_fini(&script);
}

static void flags_that_are_none(void **state)
{
    (void)state;
    for (unsigned flags = 0; flags < 256; flags++) {
        struct script script = {0};
        uint8_t head[9] = {(uint8_t)flags};
        int is_good = flags < 8 &&
                (flags & (ZNL_ZMTP_COMMAND | ZNL_ZMTP_MORE)) !=
                        (ZNL_ZMTP_COMMAND | ZNL_ZMTP_MORE);
        add_text(&script, "before");
        add_bytes(&script, head, flags & ZNL_ZMTP_LONG ? 9 : 2);
        if (!is_good) {
            note_error(&script.says, ZNL_E_PROTO);
            add_bytes(&script, "\0\0", 2);
        } else if (flags & ZNL_ZMTP_COMMAND) {
            note(&script.says, "c", &(znl_frame){NULL, 0}, 1);
        } else if (flags & ZNL_ZMTP_MORE) {
            add_frame(&script, "", 0, 0);
            note(&script.says, "m", (znl_frame[]){{NULL, 0}, {NULL, 0}}, 2);
        } else {
            note(&script.says, "m", &(znl_frame){NULL, 0}, 1);
        }
        check_cut_everywhere(&script, &usual);
        script_fini(&script);
    }
}

static void a_command_has_a_limit_of_its_own(void **state)
{
    static uint8_t body[65536 + 1];
    const znl_zmtp_limits limits = {
            .max_frame_bytes = SIZE_MAX, .max_message_bytes = SIZE_MAX, .max_frames = 4};
    (void)state;
    for (size_t more = 0; more < 2; more++) {
        struct script script = {0};
        struct reading reading = {.limits = limits};
        if (more) {
            add_long_head(&script, 65537, ZNL_ZMTP_COMMAND);
            note_error(&script.says, ZNL_E_PROTO);
        } else {
            add_command(&script, body, 65536);
            add_text(&script, "after");
        }
        for (size_t at = 0; at < script.size && reading.err == 0; at += 1000) {
            size_t left = script.size - at;
            feed(&reading, script.data + at, left < 1000 ? left : 1000);
        }
        assert_says(&reading, &script);
        script_fini(&script);
        reading_fini(&reading);
    }
}

/* What a peer says it will send costs nothing until it sends. */
static void memory_follows_what_came_not_what_was_said(void **state)
{
    const znl_zmtp_limits limits = {
            .max_frame_bytes = SIZE_MAX, .max_message_bytes = SIZE_MAX, .max_frames = 4};
    struct script script = {0};
    struct reading reading = {.limits = limits};
    (void)state;
    add_long_head(&script, UINT64_C(1) << 40, 0);
    for (size_t i = 0; i < 1000; i++)
        add_bytes(&script, "0123456789", 10);
    for (size_t at = 0; at < script.size; at += 10) {
        size_t left = script.size - at;
        feed(&reading, script.data + at, left < 10 ? left : 10);
        assert_true(reading.reader.held.capacity <= 2 * (at + 10) + 256);
    }
    assert_int_equal(reading.items, 0);
    assert_int_equal(reading.reader.held.size, script.size);
    script_fini(&script);
    reading_fini(&reading);
}

/* A gigantic message can be taken by who allows it, and its memory is given back with it. */
static void memory_is_given_back(void **state)
{
    size_t size = 3u << 20;
    uint8_t *body = calloc(1, size);
    const znl_zmtp_limits limits = {
            .max_frame_bytes = 4u << 20, .max_message_bytes = 4u << 20, .max_frames = 4};
    struct script script = {0};
    struct reading reading = {.limits = limits};
    (void)state;
    assert_non_null(body);
    add_frame(&script, body, size, ZNL_ZMTP_MORE);
    add_frame(&script, body, 10, 0);
    const znl_frame frames[] = {znl_frame_of(body, size), znl_frame_of(body, 10)};
    note(&script.says, "m", frames, 2);
    add_text(&script, "next");
    add_command(&script, "\4PONG", 5);
    for (size_t at = 0; at < script.size; at += 65536) {
        size_t left = script.size - at;
        feed(&reading, script.data + at, left < 65536 ? left : 65536);
    }
    assert_says(&reading, &script);
    assert_holds_nothing(&reading);
    free(body);
    script_fini(&script);
    reading_fini(&reading);
}

static void what_is_not_fed_is_not_kept(void **state)
{
    struct script script = {0};
    struct reading reading = {.limits = usual};
    znl_zmtp_item item;
    (void)state;
    for (unsigned i = 0; i < 100; i++)
        add_text(&script, "text");
    /* Takes back what has not been read, after each message. */
    size_t at = 0;
    for (unsigned i = 0; i < 100; i++) {
        znl_zmtp_reader_feed(&reading.reader, script.data + at, script.size - at);
        assert_int_equal(
                znl_zmtp_reader_next(&reading.reader, &reading.limits, &reading.scratch, &item),
                1);
        assert_ptr_equal(reading.reader.data, script.data + at + 6);
        assert_int_equal(reading.reader.size, script.size - at - 6);
        assert_holds_nothing(&reading);
        at += 6;
    }
    znl_zmtp_reader_feed(&reading.reader, NULL, 0);
    assert_int_equal(
            znl_zmtp_reader_next(&reading.reader, &reading.limits, &reading.scratch, &item), 0);
    script_fini(&script);
    reading_fini(&reading);
}

static uint32_t seed;

static uint32_t any(uint32_t bound)
{
    seed = seed * 1103515245u + 12345u;
    return (seed >> 8) % bound;
}

/* Thousands of messages of all shapes, with commands anywhere, in pieces of any size. */
static void thousands_in_any_pieces(void **state)
{
    static uint8_t body[2000];
    (void)state;
    for (uint32_t turn = 0; turn < 20; turn++) {
        struct script script = {0};
        struct reading reading = {.limits = usual};
        seed = 12345 + turn;
        for (unsigned i = 0; i < 500; i++) {
            znl_frame frames[8];
            size_t count = 1 + any(8);
            for (size_t f = 0; f < count; f++) {
                size_t size = any(4) > 0 ? any(40) : any(4) > 0 ? any(300) : any(2000);
                frames[f] = znl_frame_of(body + any((uint32_t)(sizeof body - size)), size);
            }
            for (size_t f = 0; f < sizeof body; f += 1 + any(50))
                body[f] = (uint8_t)any(256);
            if (any(6) == 0)
                add_command(&script, frames[0].data, frames[0].size);
            if (any(10) > 0) {
                add_message(&script, frames, count);
                continue;
            }
            for (size_t f = 0; f < count; f++) {
                add_frame(&script, frames[f].data, frames[f].size,
                        f + 1 < count ? ZNL_ZMTP_MORE : 0);
                if (f + 1 < count && any(2) == 0)
                    add_command(&script, "\4PONG", 5);
            }
            note(&script.says, "m", frames, count);
        }
        for (size_t at = 0; at < script.size;) {
            size_t left = script.size - at;
            size_t piece = 1 + (any(3) > 0 ? any(30) : any(4) > 0 ? any(1000) : any(65536));
            piece = piece < left ? piece : left;
            feed(&reading, script.data + at, piece);
            at += piece;
        }
        assert_says(&reading, &script);
        assert_holds_nothing(&reading);
        assert_true(reading.items > 500);
        script_fini(&script);
        reading_fini(&reading);
    }
}

static void frames_up_to_the_limit(void **state)
{
    static znl_frame frames[1000];
    const znl_zmtp_limits limits = {
            .max_frame_bytes = 10, .max_message_bytes = 10, .max_frames = 1000};
    struct script script = {0};
    struct reading reading = {.limits = limits};
    (void)state;
    add_message(&script, frames, 1000);
    for (size_t i = 0; i < 1001; i++)
        add_frame(&script, "", 0, i < 1000 ? ZNL_ZMTP_MORE : 0);
    note_error(&script.says, ZNL_E_LIMIT);
    add_message(&script, frames, 1000);
    feed(&reading, script.data, script.size);
    assert_says(&reading, &script);
    reading_fini(&reading);
    reading = (struct reading){.limits = limits};
    for (size_t at = 0; at < script.size; at += 13) {
        size_t left = script.size - at;
        feed(&reading, script.data + at, left < 13 ? left : 13);
    }
    assert_says(&reading, &script);
    script_fini(&script);
    reading_fini(&reading);
}

/* --- out of memory ------------------------------------------------------------------------------ */

/* Reads in two pieces; from the n-th allocation on there is no memory, until an error has said so. Returns that error. */
static int read_failing(const struct script *script, size_t cut, long n, znl_buffer *says)
{
    znl_zmtp_reader reader = {0};
    znl_zmtp_scratch scratch = {0};
    znl_zmtp_item item;
    int err = 0, got = 0;
    for (unsigned part = 0; part < 2 && got != ZNL_E_CLOSED; part++) {
        znl_zmtp_reader_feed(&reader, script->data + (part == 0 ? 0 : cut),
                part == 0 ? cut : script->size - cut);
        for (;;) {
            if (err == 0)
                znl_alloc_fail_after(n);
            got = znl_zmtp_reader_next(&reader, &usual, &scratch, &item);
            n -= err == 0 ? znl_alloc_count() : 0;
            znl_alloc_fail_after(-1);
            if (got == 1)
                note(says, item.is_command ? "c" : "m", item.frames, item.count);
            else if (got == 0 || got == ZNL_E_CLOSED)
                break;
            else
                assert_int_equal(got, ZNL_E_NOMEM);
            err = got < 0 ? got : err;
        }
        err = got < 0 ? got : err;
    }
    znl_zmtp_reader_fini(&reader);
    znl_zmtp_scratch_fini(&scratch);
    return err;
}

/* A message that finds no memory is passed over, and the rest is read; without memory for a head or a command it ends. */
static void each_allocation_fails_in_turn(void **state)
{
    static uint8_t body[600];
    znl_frame frames[40];
    struct script script = {0};
    unsigned passed_over = 0, ended = 0;
    (void)state;
    for (size_t i = 0; i < 40; i++)
        frames[i] = znl_frame_of(body, i * 15);
    add_text(&script, "first");
    size_t first = script.says.size;
    add_message(&script, frames, 40); /* more than the scratch begins with */
    size_t second = script.says.size;
    add_command(&script, "\4PONG", 5);
    size_t third = script.says.size;
    add_text(&script, "last");
    for (size_t cut = 0; cut <= script.size; cut += 1 + (cut > 20 ? cut / 20 : 0)) {
        int err = 1;
        for (long n = 0; err != 0; n++) {
            znl_buffer says = {0};
            err = read_failing(&script, cut, n, &says);
            const char *at = (const char *)says.data;
            size_t size = says.size;
            if (err == 0)
                assert_true(n >= 2); /* the scratch, twice, and maybe what is held */
            /* What is there is the script, without one message, or without its end. */
            int is_first = size >= first && memcmp(at, script.says.data, first) == 0;
            if (is_first) {
                at += first;
                size -= first;
            }
            int is_second = size >= second - first &&
                    memcmp(at, script.says.data + first, second - first) == 0;
            if (is_second) {
                at += second - first;
                size -= second - first;
            }
            size_t rest = script.says.size - second;
            if (err == ZNL_E_CLOSED) {
                assert_true(size < rest);
                ended++;
            } else if (err == ZNL_E_NOMEM) {
                /* One message is missing: one of these, or the last. */
                int is_last = size == rest;
                assert_int_equal(is_first + is_second + is_last, 2);
                passed_over++;
            } else {
                assert_true(is_first && is_second && size == rest);
            }
            assert_true(size == 0 ||
                    memcmp(at, script.says.data + second,
                            size < rest ? third - second : rest) == 0);
            znl_buffer_fini(&says);
        }
    }
    assert_true(passed_over > 0 && ended > 0);
    script_fini(&script);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(messages_come_out_as_they_went_in),
            cmocka_unit_test(what_came_whole_stays_where_it_lies),
            cmocka_unit_test(a_conversation_of_libzmq),
            cmocka_unit_test(commands_between_messages),
            cmocka_unit_test(commands_inside_a_message),
            cmocka_unit_test(too_many_frames_are_passed_over),
            cmocka_unit_test(too_many_bytes_are_passed_over),
            cmocka_unit_test(nothing_is_held_for_what_is_passed_over),
            cmocka_unit_test(what_leads_a_message_counts),
            cmocka_unit_test(large_frames_are_read_in_their_place),
            cmocka_unit_test(no_place_for_what_is_not_held),
            cmocka_unit_test(a_frame_beyond_its_limit_ends_it),
            cmocka_unit_test(the_long_form_may_say_a_short_size),
            cmocka_unit_test(flags_that_are_none),
            cmocka_unit_test(a_command_has_a_limit_of_its_own),
            cmocka_unit_test(memory_follows_what_came_not_what_was_said),
            cmocka_unit_test(memory_is_given_back),
            cmocka_unit_test(what_is_not_fed_is_not_kept),
            cmocka_unit_test(thousands_in_any_pieces),
            cmocka_unit_test(frames_up_to_the_limit),
            cmocka_unit_test(each_allocation_fails_in_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
