/* The default transcode of cluster-client: what texts read as, what is written, what hostile texts cost.
 * SPDX-License-Identifier: MIT */
#include <math.h>
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
#include "codec/text.h"
#include "support/transcode_copy.h"

#define DEPTH 32u

static uint32_t state = 5;

static uint32_t below(uint32_t limit)
{
    state = state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)state * limit >> 32);
}

/* The text in a block of its exact size, so that a sanitizer sees a read past the end. */
static znl_frame exact(const void *text, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    assert_non_null(copy);
    if (size > 0)
        memcpy(copy, text, size);
    return znl_frame_of(copy, size);
}

static void release(znl_frame text)
{
    free((void *)(uintptr_t)text.data);
}

/* --- reading ---------------------------------------------------------------------------------- */

static void describe(const znl_transcode_token *token, char *out, size_t size)
{
    static const char *const marks[] = {[ZNL_TRANSCODE_UNDEFINED] = "u",
            [ZNL_TRANSCODE_NULL] = "n",
            [ZNL_TRANSCODE_TRUE] = "t",
            [ZNL_TRANSCODE_FALSE] = "f",
            [ZNL_TRANSCODE_ARRAY] = "[",
            [ZNL_TRANSCODE_OBJECT] = "{",
            [ZNL_TRANSCODE_ERROR] = "(",
            [ZNL_TRANSCODE_END] = "."};
    switch (token->kind) {
    case ZNL_TRANSCODE_STRING:
        snprintf(out, size, "'%.*s'", (int)token->bytes.size, (const char *)token->bytes.data);
        break;
    case ZNL_TRANSCODE_BYTES:
        out[0] = '*';
        znl_hex_encode(token->bytes.data, token->bytes.size, out + 1);
        out[1 + 2 * token->bytes.size] = '\0';
        break;
    case ZNL_TRANSCODE_NUMBER:
        snprintf(out, size, "%.17g%s", token->number,
                token->is_integer == 2      ? "U"
                        : token->is_integer ? "i"
                                            : "");
        break;
    case ZNL_TRANSCODE_DATE:
        snprintf(out, size, "d%.17g", token->number);
        break;
    default:
        snprintf(out, size, "%s", marks[token->kind]);
    }
}

/* All tokens of a text, each followed by a space; or the error. */
static const char *tokens_of(const char *text, size_t text_size, unsigned max_depth)
{
    static char line[1000];
    znl_transcode_reader reader = {0};
    znl_transcode_token token = {0};
    znl_frame copy = exact(text, text_size);
    int depth = 0, err = znl_transcode_begin(&reader, copy, max_depth);
    size_t size = 0;
    line[0] = '\0';
    do {
        if (err == 0)
            err = znl_transcode_next(&reader, &token);
        if (err != 0) {
            assert_int_not_equal(znl_transcode_next(&reader, &token), 0); /* for good */
            snprintf(line, sizeof line, "%s", znl_err_code(err));
            break;
        }
        describe(&token, line + size, sizeof line - size);
        size = strlen(line);
        line[size++] = ' ';
        line[size] = '\0';
        depth += token.kind == ZNL_TRANSCODE_ARRAY || token.kind == ZNL_TRANSCODE_OBJECT ||
                token.kind == ZNL_TRANSCODE_ERROR;
        depth -= token.kind == ZNL_TRANSCODE_END;
    } while (depth > 0);
    if (err == 0)
        assert_int_equal(
                znl_transcode_next(&reader, &token), ZNL_E_PROTO); /* nothing is left */
    znl_transcode_reader_fini(&reader);
    release(copy);
    return line;
}

/* What the original was seen to make of texts that no encoder writes; PROTO where we refuse, see below. */
static void reads_as_leniently(void **unused)
{
    (void)unused;
    static const char *const cases[][2] = {
            /* no root */
            {"^^^^", "u "},
            {"^^^^]", "u "},
            {"^^^^]0", "u "},
            {"1^^^^]|0", "u "},
            {"^^^^|0", "u "},
            {"a^^^^|0", "'a' "},
            {"^^^^|||", "u "},
            /* no text */
            {"", "PROTO"},
            {"^^^", "PROTO"},
            {"a|b^1^2", "PROTO"},
            /* references */
            {"a^^^^ 0", "'a' "},
            {"a^^^^0x", "u "},
            {"a^^^^-0", "'a' "},
            {"a^^^^+0", "'a' "},
            {"a^^^^1.0", "u "},
            {"a^^^^0.9", "'a' "},
            {"^1^^^-1.5", "t "},
            {"x^^^^@00|000]", "[ 'x' 'x' . "},
            {"a^^^^@0-1]", "[ 'a' . "},
            {"a^^^^@--1]", "[ u . "},
            {"a^^^^@-]", "[ u . "},
            {"^^^^@-1|-2|-3|-4|-5|-6|-A|1|ZZZZZZZ|ZZZZZZZZZZZZZZZZZZZZZZ]",
                    "[ t f n '' u u u u u u . "},
            /* lists */
            {"a||b^^^^@0|1|2]", "[ 'a' '' 'b' . "},
            {"|^^^^@0|1]", "[ '' '' . "},
            {"^1||2^^^@0|1|2]", "[ 1i nan 2i . "},
            {"^^1||2^^@0|1|2]", "[ 1i nan 2i . "},
            {"^ 1^^^0", "1i "},
            {"^+1^^^0", "1i "},
            {"^1 ^^^0", "1i "},
            {"^-0^^^0", "-0i "},
            /* floats */
            {"^^1.5abc^^0", "1.5 "},
            {"^^abc^^0", "nan "},
            {"^^ 1.5^^0", "1.5 "},
            {"^^0x10^^0", "0i "},
            {"^^.5^^0", "0.5 "},
            {"^^5.^^0", "5i "},
            {"^^+5^^0", "5i "},
            {"^^.^^0", "nan "},
            {"^^1e400^^0", "inf "},
            {"^^-1e-400^^0", "-0 "},
            {"^^1e^^0", "1i "},
            {"^^1e+^^0", "1i "},
            {"^^1_0^^0", "1i "},
            {"^^-^^0", "nan "},
            {"^^Infinityx^^0", "inf "},
            {"^^-Infinity^^0", "-inf "},
            {"^^infinity^^0", "nan "},
            {"^^Infinit^^0", "nan "},
            {"^^NaN^^0", "nan "},
            {"^^-0^^0", "-0i "},
            {"^^1E3^^0", "1000 "},
            {"^^1.5e-3x^^0", "0.0015 "},
            {"^^0001^^0", "1i "},
            {"^^1.0^^0", "1 "},
            {"^^123456789012345678901234567890^^0", "1.2345678901234568e+29 "},
            /* dates */
            {"^^^ZZZZZZZZZZ^0", "d3656158440062975 "},
            {"^^^-^0", "dnan "},
            {"^^^ZZZZZZZZZZZZ^0", "dnan "},
            {"^^^2D2MH7DT6O0^0", "d8640000000000000 "},
            {"^^^-2D2MH7DT6O1^0", "dnan "},
            /* structure */
            {"^^^^@|]", "[ . "},
            {"^^^^@", "[ . "},
            {"^^^^@$#", "[ { ( . . . "},
            {"a^^^^@0]1]", "[ 'a' . "},
            {"a^^^^@0]]|0]", "[ 'a' . "},
            {"a^^^^0]1", "'a' "},
            {"a^^^^@0$0|0]0]", "[ 'a' { 'a' 'a' . 'a' . "},
            {"a^^^^$0|@0]]", "{ 'a' [ 'a' . . "},
            {"a^^^^$0", "{ 'a' . "},
            {"^^^^$@]|-1]", "{ [ . t . "},
            {"^^^^$__proto__", "{ u . "},
            {"m|n^^^^#0|1]", "( 'm' 'n' . "},
            {"^^^^-1^-2", "t "},
            /* bytes */
            {"a^^^^*0]", "*00 "},
            {"^-1^^^*0]", "*ff "},
            {"^^1.9^^*0]", "*01 "},
            {"^^^^*-1|-3|-5|-4]", "*01000000 "},
            {"^1^^^*0", "*01 "},
            {"^1^^^*0||0]", "*0101 "},
            {"^^^^*", "* "},
            {"^^^^*]", "* "},
            {"^^^^*|]", "* "},
            {"^1|2^^^@*0]|*1]|*]]", "[ *01 *02 * . "},
            {"^1|2^^^@*1|0]]", "[ *0201 . "},
            {"^^NaN|1e99^^*0|1]", "*0000 "},
            {"^7P|73^^^*0|1]", "*15ff "},
            {"^7PS^^^*0]", "*10 "},
            {"^z|Z^^^*0|1]", "*2323 "},
            {"^1|^^^*0|1]", "*0100 "},
            {"^^^1^*0]", "*01 "},
            {"^1|2|3^^^*0|1]", "*0102 "},
            {"^1^^^*0|1]", "*0100 "},
            /* which the original takes: nothing writes it, and nothing good would come of it */
            {"^1^^^*@0]]", "PROTO"},
            {"^1^^^*$0|0]|0]", "PROTO"},
            {"a\xff^^^^0", "PROTO"},
            {"\xed\xa0\x80^^^^0", "PROTO"},
            /* strings */
            {"%2B%257C%2^^^^0", "'+%7C%2' "},
            {"%25 2B^^^^0", "'% 2B' "},
            {"%2b%7c%5e^^^^0", "'%2b%7c%5e' "},
            {"%^^^^0", "'%' "},
            {"+++^^^^0", "'   ' "},
            {"0123456789abcdef+0123456789abcdef%7C!^^^^0",
                    "'0123456789abcdef 0123456789abcdef|!' "},
            {"%5E0123456789abcdef0123456789abcde%^^^^0",
                    "'^0123456789abcdef0123456789abcde%' "},
            {"\xef\xbb\xbf"
             "a^^^^0",
                    "'\xef\xbb\xbf"
                    "a' "},
            /* not ASCII elsewhere is no number */
            {"^\xff^\xff^\xff^@0|1|2]", "[ nan nan dnan . "},
            {"a^^^^\xff", "u "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *tokens = tokens_of(cases[i][0], strlen(cases[i][0]), DEPTH);
        if (strcmp(tokens, cases[i][1]) != 0)
            fail_msg("%s: %s, not %s", cases[i][0], tokens, cases[i][1]);
    }
}

static void reads_long_whole_numbers(void **unused)
{
    (void)unused;
    static const char *const cases[][2] = {{"9007199254740993", "9007199254740992i "},
            {"9223372036854775807", "9.2233720368547758e+18i "},
            {"-9223372036854775808", "-9.2233720368547758e+18i "},
            {"-9223372036854775809", "-9.2233720368547758e+18 "},
            {"9223372036854775808", "9.2233720368547758e+18U "},
            {"18446744073709551615", "1.8446744073709552e+19U "},
            {"00018446744073709551615", "1.8446744073709552e+19U "},
            {"18446744073709551616", "1.8446744073709552e+19 "},
            {"28446744073709551616", "2.8446744073709552e+19 "},
            {"99999999999999999999", "1e+20 "},
            {"9.223372036854775807e18", "9.2233720368547758e+18 "}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[100];
        int size = snprintf(text, sizeof text, "^^%s^^0", cases[i][0]);
        assert_string_equal(tokens_of(text, (size_t)size, DEPTH), cases[i][1]);
    }
}

/* Entries in an order no writer has: each reference finds its own. */
static void entries_may_be_used_in_any_order(void **unused)
{
    (void)unused;
    assert_string_equal(tokens_of("a|b|^1|2^1.5|-2.5^1|Z^@8|7|6|5|4|3|2|1|0|0|8]", 45, DEPTH),
            "[ d35 d1 -2.5 1.5 2i 1i '' 'b' 'a' 'a' d35 . ");
    for (int round = 0; round < 300; round++) {
        char text[8000];
        size_t size = 0, count = below(40) + 1, uses = below(60) + 1;
        unsigned use[60];
        for (size_t i = 0; i < count; i++)
            size += (size_t)sprintf(text + size, i == 0 ? "s%zu" : "|s%zu", i);
        size += (size_t)sprintf(text + size, "^^^^@");
        for (size_t i = 0; i < uses; i++) {
            use[i] = below((uint32_t)count);
            size += (size_t)sprintf(text + size, use[i] < 36 ? "%c|" : "1%c|",
                    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[use[i] % 36]);
        }
        znl_transcode_reader reader = {0};
        znl_transcode_token token;
        znl_frame copy = exact(text, size);
        assert_int_equal(znl_transcode_begin(&reader, copy, DEPTH), 0);
        assert_int_equal(znl_transcode_next(&reader, &token), 0);
        for (size_t i = 0; i < uses; i++) {
            char expected[16];
            sprintf(expected, "s%u", use[i]);
            assert_int_equal(znl_transcode_next(&reader, &token), 0);
            assert_true(znl_frame_equal(token.bytes, znl_frame_text(expected)));
        }
        znl_transcode_reader_fini(&reader);
        release(copy);
    }
}

/* Reads all of a text; the error, and how many bytes its strings and buffers had. */
static int read_all(const char *text, size_t size, uint64_t *bytes)
{
    znl_transcode_reader reader = {0};
    znl_transcode_token token = {0};
    int depth = 0, err = znl_transcode_begin(&reader, znl_frame_of(text, size), DEPTH);
    *bytes = 0;
    while (err == 0) {
        err = znl_transcode_next(&reader, &token);
        if (err == 0 &&
                (token.kind == ZNL_TRANSCODE_STRING || token.kind == ZNL_TRANSCODE_BYTES))
            *bytes += token.bytes.size;
        depth += token.kind == ZNL_TRANSCODE_ARRAY;
        depth -= token.kind == ZNL_TRANSCODE_END;
        if (depth == 0)
            break;
    }
    znl_transcode_reader_fini(&reader);
    return err;
}

/* One long entry, referred to again and again: what is read is bounded by the size of the text. */
static void floods_end(void **unused)
{
    (void)unused;
    static const char *const before[] = {"", "^", "^^", "^^^"};
    static const char *const after[] = {"^^^^", "^^^", "^^", "^"};
    size_t long_entry = 100000, uses = 50000;
    char *text = malloc(long_entry + 2 * uses + 20);
    for (int is_buffer = 0; is_buffer < 2; is_buffer++) {
        for (size_t i = 0; i < 4; i++) {
            size_t size = (size_t)sprintf(text, "%s", before[i]);
            uint64_t bytes;
            memset(text + size, i == 0 ? '+' : '1', long_entry);
            size += long_entry;
            size += (size_t)sprintf(text + size, "%s%s", after[i], is_buffer ? "*" : "@");
            for (size_t n = 0; n < uses; n++) {
                text[size++] = '0';
                text[size++] = '|';
            }
            /* A string in a buffer is nothing to be read. */
            int expected = is_buffer && i == 0 ? 0 : ZNL_E_LIMIT;
            assert_int_equal(read_all(text, size, &bytes), expected);
            assert_true(bytes <= 17 * size);
        }
    }
    free(text);
}

static void depth_is_limited(void **unused)
{
    (void)unused;
    assert_string_equal(tokens_of("^^^^@@@", 7, 3), "[ [ [ . . . ");
    assert_string_equal(tokens_of("^^^^@@@", 7, 2), "LIMIT");
    assert_string_equal(tokens_of("^^^^@$#", 7, 2), "LIMIT");
    assert_string_equal(tokens_of("^^^^@", 5, 0), "LIMIT");
    assert_string_equal(tokens_of("^^^^-1", 6, 0), "t ");
    assert_string_equal(tokens_of("^^^^*]", 6, 0), "* ");
}

/* --- writing ---------------------------------------------------------------------------------- */

static int copy(znl_frame text, znl_buffer *out)
{
    znl_transcode_reader reader = {0};
    znl_transcode_writer writer = {0};
    out->size = 0;
    int err = znl_transcode_copy(&reader, &writer, text, DEPTH, out);
    znl_transcode_reader_fini(&reader);
    znl_transcode_writer_fini(&writer);
    return err;
}

static void put_random_string(znl_transcode_writer *writer)
{
    static const char *const pieces[] = {"", "a", " ", "+", "|", "^", "%", "%2B",
            "0123456789abcdef", "\xc3\xa9", "\xf0\x9f\x98\x80",
            "plain text of some length, longer than a block", "@$*#]", "\n"};
    char text[600];
    size_t size = 0;
    for (uint32_t n = below(10); n > 0; n--)
        size += (size_t)sprintf(
                text + size, "%s", pieces[below(sizeof pieces / sizeof pieces[0])]);
    znl_frame frame = exact(text, size);
    assert_int_equal(znl_transcode_put_string(writer, frame), 0);
    release(frame);
}

static void put_random(znl_transcode_writer *writer, int depth);

static void put_random_list(znl_transcode_writer *writer, znl_transcode_kind kind, int depth)
{
    assert_int_equal(znl_transcode_put(writer, kind), 0);
    for (uint32_t n = below(6); n > 0; n--) {
        if (kind != ZNL_TRANSCODE_ARRAY)
            put_random_string(writer);
        put_random(writer, depth - 1);
    }
    assert_int_equal(znl_transcode_put(writer, ZNL_TRANSCODE_END), 0);
}

static void put_random(znl_transcode_writer *writer, int depth)
{
    uint64_t bits = (uint64_t)below(UINT32_MAX) << 32 | below(UINT32_MAX);
    double number;
    uint8_t bytes[300];
    size_t size = below(sizeof bytes);
    memcpy(&number, &bits, sizeof number);
    switch (below(depth > 0 ? 14 : 10)) {
    case 0:
        assert_int_equal(znl_transcode_put(writer, (znl_transcode_kind)below(4)), 0);
        break;
    case 1:
        assert_int_equal(znl_transcode_put_number(writer, number), 0);
        break;
    case 2:
        assert_int_equal(
                znl_transcode_put_number(writer, (double)(int32_t)below(UINT32_MAX)), 0);
        break;
    case 3:
        assert_int_equal(znl_transcode_put_integer(writer, (int64_t)(bits >> below(64))), 0);
        break;
    case 4:
        assert_int_equal(znl_transcode_put_unsigned(writer, bits >> below(64)), 0);
        break;
    case 5:
        assert_int_equal(
                znl_transcode_put_date(writer, (double)(int32_t)below(UINT32_MAX) * 1e6), 0);
        break;
    case 6:
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)below(256);
        assert_int_equal(znl_transcode_put_bytes(writer, znl_frame_of(bytes, size)), 0);
        break;
    case 7:
    case 8:
    case 9:
        put_random_string(writer);
        break;
    case 10:
        put_random_list(writer, ZNL_TRANSCODE_ERROR, depth);
        break;
    case 11:
        put_random_list(writer, ZNL_TRANSCODE_OBJECT, depth);
        break;
    default:
        put_random_list(writer, ZNL_TRANSCODE_ARRAY, depth);
    }
}

/* What is written is read as the same; what is damaged is refused, or means something that can be written. */
static void random_values_survive(void **unused)
{
    (void)unused;
    static const char marks[] = "@$*#]|^^%+-0123456789ABZz.e\xff\n";
    znl_transcode_writer writer = {0};
    znl_buffer out = {0}, again = {0}, third = {0};
    int accepted = 0, refused = 0;
    for (int round = 0; round < 4000; round++) {
        znl_transcode_start(&writer);
        put_random(&writer, 4);
        out.size = 0;
        assert_int_equal(znl_transcode_finish(&writer, &out), 0);
        assert_int_equal(copy(znl_frame_of(out.data, out.size), &again), 0);
        assert_int_equal(again.size, out.size);
        assert_memory_equal(again.data, out.data, out.size);
        for (int n = 0; n < 5; n++) {
            out.data[below((uint32_t)out.size)] = (uint8_t)marks[below(sizeof marks - 1)];
            znl_frame damaged = exact(out.data, out.size - below(2));
            int err = copy(damaged, &again);
            release(damaged);
            assert_true(err == 0 || err == ZNL_E_PROTO || err == ZNL_E_LIMIT);
            accepted += err == 0;
            refused += err != 0;
            if (err != 0)
                continue;
            assert_int_equal(copy(znl_frame_of(again.data, again.size), &third), 0);
            assert_int_equal(third.size, again.size);
            assert_memory_equal(third.data, again.data, again.size);
        }
    }
    assert_true(accepted > 1000 && refused > 1000);
    znl_buffer_fini(&third);
    znl_buffer_fini(&again);
    znl_buffer_fini(&out);
    znl_transcode_writer_fini(&writer);
}

static void finishes_as(znl_transcode_writer *writer, const char *expected)
{
    znl_buffer out = {0};
    assert_int_equal(znl_transcode_finish(writer, &out), 0);
    assert_int_equal(out.size, strlen(expected));
    assert_memory_equal(out.data, expected, out.size);
    znl_buffer_fini(&out);
}

/* What is refused leaves nothing behind. */
static void refusals_write_nothing(void **unused)
{
    (void)unused;
    static const double dates[] = {NAN, INFINITY, -INFINITY, 8.64e15 + 2, -8.64e15 - 2};
    static const char *const texts[] = {
            "\xff", "ok\xc3", "a+b|c and then \xed\xa0\x80 after it", "\xc0\x80"};
    znl_transcode_writer writer = {0};
    znl_transcode_start(&writer);
    assert_int_equal(znl_transcode_put(&writer, ZNL_TRANSCODE_ARRAY), 0);
    assert_int_equal(znl_transcode_put_string(&writer, znl_frame_text("x")), 0);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_int_equal(
                znl_transcode_put_string(&writer, znl_frame_text(texts[i])), ZNL_E_PROTO);
    for (size_t i = 0; i < sizeof dates / sizeof dates[0]; i++)
        assert_int_equal(znl_transcode_put_date(&writer, dates[i]), ZNL_E_INVALID);
    assert_int_equal(znl_transcode_put_bytes(&writer, znl_frame_of("", (size_t)INT32_MAX)),
            ZNL_E_TOO_BIG);
    assert_int_equal(znl_transcode_put_string(&writer, znl_frame_text("y z")), 0);
    assert_int_equal(znl_transcode_put_date(&writer, -8.64e15), 0);
    assert_int_equal(znl_transcode_put(&writer, ZNL_TRANSCODE_END), 0);
    finishes_as(&writer, "x|y+z^^^-2D2MH7DT6O0^@0|1|2]");
    znl_transcode_start(&writer);
    assert_int_equal(znl_transcode_put(&writer, ZNL_TRANSCODE_NULL), 0);
    finishes_as(&writer, "^^^^-3");
    znl_transcode_writer_fini(&writer);
}

/* What is appended to stays. */
static void texts_are_appended(void **unused)
{
    (void)unused;
    znl_transcode_writer writer = {0};
    znl_buffer out = {0};
    assert_int_equal(znl_buffer_append(&out, "head ", 5), 0);
    znl_transcode_start(&writer);
    assert_int_equal(znl_transcode_put_string(&writer, znl_frame_text("s")), 0);
    assert_int_equal(znl_transcode_finish(&writer, &out), 0);
    assert_int_equal(out.size, 11);
    assert_memory_equal(out.data, "head s^^^^0", 11);
    znl_buffer_fini(&out);
    znl_transcode_writer_fini(&writer);
}

/* One value of every kind, more than the first size of every buffer. */
static int write_and_read(znl_buffer *out, znl_buffer *again)
{
    znl_transcode_writer writer = {0};
    znl_transcode_reader reader = {0};
    uint8_t bytes[400] = {7};
    char text[600];
    memset(text, '+', sizeof text);
    out->size = again->size = 0;
    znl_transcode_start(&writer);
    int err = znl_transcode_put(&writer, ZNL_TRANSCODE_ARRAY);
    if (err == 0)
        err = znl_transcode_put_string(&writer, znl_frame_of(text, sizeof text));
    for (int i = 0; i < 100 && err == 0; i++)
        err = znl_transcode_put_number(&writer, i + 0.5);
    for (int i = 0; i < 100 && err == 0; i++)
        err = znl_transcode_put_date(&writer, i * 1e9);
    if (err == 0)
        err = znl_transcode_put_integer(&writer, INT64_MIN);
    if (err == 0)
        err = znl_transcode_put_unsigned(&writer, UINT64_MAX);
    if (err == 0)
        err = znl_transcode_put_bytes(&writer, znl_frame_of(bytes, sizeof bytes));
    for (int i = 0; i < 300 && err == 0; i++)
        err = znl_transcode_put(&writer, ZNL_TRANSCODE_NULL);
    if (err == 0)
        err = znl_transcode_put(&writer, ZNL_TRANSCODE_END);
    if (err == 0)
        err = znl_transcode_finish(&writer, out);
    if (err == 0)
        err = znl_transcode_copy(
                &reader, &writer, znl_frame_of(out->data, out->size), DEPTH, again);
    /* Out of order, so that offsets are needed. */
    if (err == 0)
        err = znl_transcode_copy(
                &reader, &writer, znl_frame_text("a|b^^^^@1|0]"), DEPTH, again);
    znl_transcode_reader_fini(&reader);
    znl_transcode_writer_fini(&writer);
    return err;
}

static void every_allocation_may_fail(void **unused)
{
    (void)unused;
    int err = ZNL_E_NOMEM;
    long n = 0;
    for (; err != 0; n++) {
        znl_buffer out = {0}, again = {0};
        assert_true(n < 1000);
        znl_alloc_fail_after(n);
        err = write_and_read(&out, &again);
        znl_alloc_fail_after(-1);
        assert_true(err == 0 || err == ZNL_E_NOMEM);
        znl_buffer_fini(&out);
        znl_buffer_fini(&again);
    }
    assert_true(n > 15); /* the hook was there at all */
}

/* In steady state nothing is allocated. */
static void buffers_are_kept(void **unused)
{
    (void)unused;
    znl_transcode_writer writer = {0};
    znl_transcode_reader reader = {0};
    znl_buffer out = {0};
    znl_frame text = znl_frame_text("a+b|c^7|8|9^1.5^Z^@0|1|2|*3|4]|5|6|@]|$-4|-1]]");
    assert_int_equal(znl_transcode_copy(&reader, &writer, text, DEPTH, &out), 0);
    znl_alloc_fail_after(0);
    for (int i = 0; i < 100; i++) {
        out.size = 0;
        assert_int_equal(znl_transcode_copy(&reader, &writer, text, DEPTH, &out), 0);
    }
    znl_alloc_fail_after(-1);
    assert_true(znl_frame_equal(znl_frame_of(out.data, out.size), text));
    znl_buffer_fini(&out);
    znl_transcode_reader_fini(&reader);
    znl_transcode_writer_fini(&writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(reads_as_leniently),
            cmocka_unit_test(reads_long_whole_numbers),
            cmocka_unit_test(entries_may_be_used_in_any_order),
            cmocka_unit_test(floods_end),
            cmocka_unit_test(depth_is_limited),
            cmocka_unit_test(random_values_survive),
            cmocka_unit_test(refusals_write_nothing),
            cmocka_unit_test(texts_are_appended),
            cmocka_unit_test(every_allocation_may_fail),
            cmocka_unit_test(buffers_are_kept),
    };
    return cmocka_run_group_tests_name("transcode", tests, NULL, NULL);
}
