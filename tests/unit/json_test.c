/* JSON: which texts are accepted, what they read as, what is written. SPDX-License-Identifier: MIT */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "codec/json.h"

/* The text in a block of its exact size, so that a sanitizer sees a read past the end. */
static znl_frame exact(const void *text, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    return znl_frame_of(copy, size);
}

static void release(znl_frame text)
{
    free((void *)(uintptr_t)text.data);
}

/* Whether a text of `size` bytes is one value: 0 or an error. */
static int check(const void *text, size_t size, unsigned max_depth)
{
    znl_frame copy = exact(text, size), raw;
    znl_json_reader reader;
    znl_json_begin(&reader, copy, max_depth);
    int err = znl_json_skip(&reader, &raw);
    if (err == 0)
        err = znl_json_end(&reader);
    release(copy);
    return err;
}

/* After the names of JSONTestSuite: y must be accepted, n refused; i is free, and decided here. */
static void accepts_and_refuses(void **state)
{
    (void)state;
    static const char *const accepted[] = {"null", "true", "false", "0", "-0", "1", "\"\"",
            "[]", "{}", " [] ", "\t\n\r 1 \r\n\t", "[[]   ]", "[\"\"]", "[1\n]",
            "[1,null,null,null,2]", "[ 4]", "[123e65]", "[0e+1]", "[0e1]",
            "[-0.000000000000000000000000000000000000000000000000000000000000000001]", "[20e1]",
            "[-0]", "[-123]", "[-1]", "[1E22]", "[1E-2]", "[1E+2]", "[123e45]", "[123.456e78]",
            "[1e-2]", "[1e+2]", "[123.456789]", "{\"asd\":\"sdf\",\"dfg\":\"fgh\"}",
            "{\"a\":\"b\",\"a\":\"c\"}", "{\"a\":\"b\",\"a\":\"b\"}", "{\"\":0}",
            "{\"foo\\u0000bar\": 42}", "{ \"min\": -1.0e+28, \"max\": 1.0e+28 }",
            "{\"title\":\"\\u041f\\u043e\" }", "{\n\"a\": \"b\"\n}",
            "[\"\\u0060\\u012a\\u12AB\"]", "[\"\\uD801\\udc37\"]",
            "[\"\\ud83d\\ude39\\ud83d\\udc8d\"]", "[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"]",
            "[\"\\\\u0000\"]", "[\"\\\"\"]", "[\"a/*b*/c/*d//e\"]", "[\"\\\\a\"]",
            "[\"\\u0012\"]", "[\"\\uFFFF\"]", "[\"asd \"]", "[ \"asd\"]",
            "[\"\xf0\x9b\xbf\xbf\"]", "[\"\xe2\x80\xa8\"]", "[\"\xef\xbf\xbf\"]", "[\"\x7f\"]",
            "[\"new\\u000Aline\"]", "[\"\xf4\x8f\xbf\xbf\"]", "[\"\\u0000\"]", "[\"\xc2\x80\"]",
            /* i: halves of surrogate pairs, numbers past every double, any size of integer */
            "[\"\\uDADA\"]", "[\"\\uD888\\u1234\"]", "[\"\\uD800\\n\"]", "[\"\\uDd1ea\"]",
            "[\"\\uD800\\uD800\\n\"]", "[\"\\ud800\"]", "[\"\\uDfaa\"]", "[123123e100000]",
            "[-1e+9999]", "[1.5e+9999]", "[123e-10000000]", "[100000000000000000000]",
            "[-237462374673276894279832749832423479823246327846]",
            "[0.4e006699999999999999999]"};
    static const char *const refused[] = {"", " ", "[1 true]", "[\"\": 1]", "[\"\"],", "[,1]",
            "[1,,2]", "[\"x\",,]", "[\"x\"]]", "[\"\",]", "[\"x\"", "[x", "[3[4]]", "[1:2]",
            "[,]", "[-]", "[   , \"\"]", "[\"a\",\n4\n,1,", "[1,]", "[1,\n]", "[\"\va\"\\f]",
            "[*]", "[\"\"", "[1,", "[1,\n1\n,1", "[{}", "[fals]", "[nul]", "[tru]", "nul", "n",
            "t", "f", "truE", "True", "nulll", "[++1234]", "[+1]", "[+Inf]", "[-01]", "[-1.0.]",
            "[-2.]", "[-NaN]", "[.-1]", "[.2e-3]", "[0.1.2]", "[0.3e+]", "[0.3e]", "[0.e1]",
            "[0E+]", "[0E]", "[0e+]", "[0e]", "[1.0e+]", "[1.0e-]", "[1.0e]", "[1 000.0]",
            "[1eE2]", "[2.e+3]", "[2.e-3]", "[2.e3]", "[9.e+]", "[Inf]", "[NaN]", "[1+2]",
            "[0x1]", "[0x42]", "[Infinity]", "[0e+-1]", "[-123.123foo]", "[-Infinity]",
            "[-foo]", "[- 1]", "[-012]", "[-.123]", "[1ea]", "[1.]", "[.123]", "[1.2a-3]",
            "[1.8011670033376514H-308]", "[012]", "01", "00", "-", "1.", "1e", "+1", "1 2",
            "[\"x\", truth]", "{[: \"x\"}\n", "{\"x\", null}", "{\"x\"::\"b\"}",
            "{\"a\":\"a\" 123}", "{key: 'value'}", "{\"a\" b}", "{:\"b\"}", "{\"a\" \"b\"}",
            "{\"a\":", "{\"a\"", "{1:1}", "{null:null,null:null}", "{\"id\":0,,,,,}", "{'a':0}",
            "{\"id\":0,}", "{\"a\":\"b\",,\"c\":\"d\"}", "{a: \"b\"}", "{\"a\":\"a",
            "{ \"foo\" : \"bar\", \"a\" }", "{\"a\":\"b\"}#", "{\"a\":1]", "[1}",
            "[\"\\uD800\\\"]", "[\"\\uD800\\u\"]", "[\"\\uD800\\u1\"]", "[\"\\uD800\\u1x\"]",
            "[\xc3\xa9]", "[\"\\x00\"]", "[\"\\\\\\\"]", "[\"\\\t\"]",
            "[\"\\\xf0\x9f\x8c\x80\"]", "[\"\\\"]", "[\"\\u00A\"]", "[\"\\uD834\\uDd\"]",
            "[\"\\uD800\\uD800\\x\"]", "[\"\\a\"]", "[\"\\uqqqq\"]", "[\\u0020\"asd\"]",
            "[\\n]", "\"", "['single quote']", "abc", "[\"\\", "[\"new\nline\"]", "[\"\t\"]",
            "[\"\x1f\"]", "[\"\\U0041\"]", "<.>", "[<null>]", "[1]x", "[1]]", "{}}",
            "{\"\":", "{\"a\":/*comment*/\"b\"}", "{\"a\": true} \"x\"", "[", "{", "]", "}",
            "[\"asd]", "[True]", "\"x", "\"\\", "\"\\u", "\"\\u12", "[\v1]", "[1\f]",
            "\xef\xbb\xbf{}", "\xe2\x81\xa0", "[\xe2\x81\xa0]", "[\"\xff\"]", "[\"\x80\"]",
            "[\"\xc0\xaf\"]", "[\"\xe0\x80\x80\"]", "[\"\xed\xa0\x80\"]",
            "[\"\xf4\x90\x80\x80\"]", "[\"\xf8\x80\x80\x80\x80\"]", "[\"\xc3\"]",
            "[\"\xe2\x80\"]", "[\"\xf0\x9b\xbf\"]", "\"\xc3", "\"\xf0\x9b",
            "[\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xff\"]",
            "[\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n\"]"};
    for (size_t i = 0; i < sizeof accepted / sizeof accepted[0]; i++)
        if (check(accepted[i], strlen(accepted[i]), 16) != 0)
            fail_msg("refused: %s", accepted[i]);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (check(refused[i], strlen(refused[i]), 16) != ZNL_E_PROTO)
            fail_msg("not refused: %s", refused[i]);
    /* Bytes of value 0, and no bytes at all. */
    assert_int_equal(check("[\"a\0a\"]", 7, 16), ZNL_E_PROTO);
    assert_int_equal(check("1\0", 2, 16), ZNL_E_PROTO);
    assert_int_equal(check("\0", 1, 16), ZNL_E_PROTO);
    znl_json_reader reader;
    znl_json_begin(&reader, (znl_frame){0}, 16);
    assert_int_equal(znl_json_peek(&reader), ZNL_E_PROTO);
}

/* Every beginning of a text is refused, and every byte after it. */
static void only_whole_texts(void **state)
{
    (void)state;
    static const char text[] =
            " {\"a\\u00e9\xc3\xa9\" : [true , -12.5e+3,\"0123456789abcdef\\n\" ] , \"b\":null}";
    assert_int_equal(check(text, sizeof text - 1, 2), 0);
    for (size_t size = 0; size < sizeof text - 1; size++)
        assert_int_equal(check(text, size, 2), ZNL_E_PROTO);
    char longer[sizeof text];
    memcpy(longer, text, sizeof text);
    for (int c = 0; c < 256; c++) {
        longer[sizeof text - 1] = (char)c;
        int is_space = c == ' ' || c == '\t' || c == '\r' || c == '\n';
        assert_int_equal(check(longer, sizeof text, 2), is_space ? 0 : ZNL_E_PROTO);
    }
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    enum { DEEP = 3000 };
    static char text[2 * DEEP + 8 * DEEP];
    for (unsigned max = 0; max <= ZNL_JSON_DEPTH_MAX + 1; max += max < 130 ? 1 : 99) {
        unsigned depth = max < ZNL_JSON_DEPTH_MAX ? max : ZNL_JSON_DEPTH_MAX;
        if (depth > 0) {
            memset(text, '[', depth);
            memset(text + depth, ']', depth);
            assert_int_equal(check(text, 2 * depth, max), 0);
        }
        memset(text, '[', depth + 1);
        memset(text + depth + 1, ']', depth + 1);
        assert_int_equal(check(text, 2 * depth + 2, max), ZNL_E_LIMIT);
    }
    /* Kinds of brackets are told apart at every depth. */
    size_t size = 0;
    for (unsigned i = 0; i < 500; i++) {
        memcpy(text + size, "[{\"\":", 5);
        size += 5;
    }
    text[size++] = '1';
    for (unsigned i = 0; i < 500; i++) {
        text[size++] = '}';
        text[size++] = ']';
    }
    assert_int_equal(check(text, size, 1000), 0);
    assert_int_equal(check(text, size, 999), ZNL_E_LIMIT);
    for (size_t i = size - 1000; i < size; i++) {
        text[i] ^= '}' ^ ']';
        assert_int_equal(check(text, size, 1000), ZNL_E_PROTO);
        text[i] ^= '}' ^ ']';
    }
    memset(text, '[', sizeof text);
    assert_int_equal(check(text, sizeof text, 100000), ZNL_E_LIMIT);
}

static znl_json_reader reader_of(const char *text)
{
    znl_json_reader reader;
    znl_json_begin(&reader, znl_frame_text(text), 16);
    return reader;
}

static void assert_frame(znl_frame frame, const char *text)
{
    assert_int_equal(frame.size, strlen(text));
    assert_memory_equal(frame.data, text, frame.size);
}

static void walks_step_by_step(void **state)
{
    (void)state;
    znl_json_reader reader = reader_of(
            " { \"id\" : 12 , \"\\u0069d\":[ 1,[],{} ] ,\"x\" : \"\"}");
    znl_frame name, raw, text;
    znl_buffer scratch = {0};
    int is_plain, is_integer;
    double value;
    int64_t integer;
    assert_int_equal(znl_json_peek(&reader), ZNL_JSON_OBJECT);
    assert_int_equal(znl_json_enter(&reader), 0);
    assert_int_equal(znl_json_next(&reader, &name, &is_plain), 1);
    assert_frame(name, "id");
    assert_int_equal(is_plain, 1);
    assert_int_equal(znl_json_peek(&reader), ZNL_JSON_NUMBER);
    assert_int_equal(znl_json_number(&reader, &value, &is_integer, &integer), 0);
    assert_true(is_integer && integer == 12 && value == 12);
    assert_int_equal(znl_json_next(&reader, &name, &is_plain), 1);
    assert_frame(name, "\\u0069d");
    assert_int_equal(is_plain, 0);
    assert_int_equal(znl_json_unescape(name, &text, &scratch), 0);
    assert_frame(text, "id");
    znl_json_reader there = reader;
    assert_int_equal(znl_json_skip(&reader, &raw), 0);
    assert_frame(raw, "[ 1,[],{} ]");
    assert_int_equal(znl_json_next(&reader, &name, &is_plain), 1);
    assert_frame(name, "x");
    assert_int_equal(znl_json_string(&reader, &text, &scratch), 0);
    assert_int_equal(text.size, 0);
    assert_int_equal(znl_json_next(&reader, &name, &is_plain), 0);
    assert_int_equal(znl_json_end(&reader), 0);
    /* The copy goes its own way. */
    assert_int_equal(znl_json_enter(&there), 0);
    assert_int_equal(znl_json_end(&there), ZNL_E_PROTO);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(znl_json_next(&there, &name, &is_plain), 1);
        assert_int_equal(znl_json_skip(&there, &raw), 0);
    }
    assert_int_equal(znl_json_next(&there, &name, &is_plain), 0);
    assert_int_equal(there.depth, 1);
    znl_buffer_fini(&scratch);
}

static void wrong_kinds_are_refused(void **state)
{
    (void)state;
    znl_frame text;
    znl_buffer scratch = {0};
    int is_integer;
    double value;
    int64_t integer;
    znl_json_reader reader = reader_of("12");
    assert_int_equal(znl_json_string(&reader, &text, &scratch), ZNL_E_PROTO);
    reader = reader_of("12");
    assert_int_equal(znl_json_enter(&reader), ZNL_E_PROTO);
    reader = reader_of("12");
    assert_int_equal(znl_json_literal(&reader), ZNL_E_PROTO);
    reader = reader_of("\"12\"");
    assert_int_equal(znl_json_number(&reader, &value, &is_integer, &integer), ZNL_E_PROTO);
    reader = reader_of("");
    assert_int_equal(znl_json_number(&reader, &value, &is_integer, &integer), ZNL_E_PROTO);
    reader = reader_of("");
    assert_int_equal(znl_json_literal(&reader), ZNL_E_PROTO);
    reader = reader_of("1");
    assert_int_equal(znl_json_next(&reader, &text, &is_integer), ZNL_E_PROTO);
    assert_null(scratch.data);
}

static void strings_are_undone(void **state)
{
    (void)state;
    static const struct {
        const char *quoted, *text;
        size_t size;
    } cases[] = {{"\"\"", "", 0}, {" \"abc\"", "abc", 3},
            {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8},
            {"\"a\\u0000b\"", "a\0b", 3}, {"\"\\u00e9\\u20AC\"", "\xc3\xa9\xe2\x82\xac", 5},
            {"\"x\\ud83d\\ude00y\"", "x\xf0\x9f\x98\x80y", 6},
            {"\"\\ud83d\"", "\xef\xbf\xbd", 3},
            {"\"\\ude00\\ud83d\"", "\xef\xbf\xbd\xef\xbf\xbd", 6},
            {"\"\\ud83dx\"", "\xef\xbf\xbdx", 4}, {"\"\\ud83d\\n\"", "\xef\xbf\xbd\n", 4},
            {"\"\\ud83d\\ud83d\\ude00\"", "\xef\xbf\xbd\xf0\x9f\x98\x80", 7},
            {"\"\\udbff\\udfff\"", "\xf4\x8f\xbf\xbf", 4},
            {"\"\xe4\xb8\xad\xe6\x96\x87, long enough for two blocks\"",
                    "\xe4\xb8\xad\xe6\x96\x87, long enough for two blocks", 34}};
    znl_buffer scratch = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        znl_frame copy = exact(cases[i].quoted, strlen(cases[i].quoted)), text;
        znl_json_reader reader;
        znl_json_begin(&reader, copy, 1);
        assert_int_equal(znl_json_string(&reader, &text, &scratch), 0);
        assert_int_equal(znl_json_end(&reader), 0);
        assert_int_equal(text.size, cases[i].size);
        assert_memory_equal(text.data, cases[i].text, text.size);
        release(copy);
    }
    znl_buffer_fini(&scratch);
    znl_frame text;
    znl_json_reader reader = reader_of("\"\\n\"");
    znl_alloc_fail_after(0);
    assert_int_equal(znl_json_string(&reader, &text, &scratch), ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
}

static void numbers_are_exact(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value;
        int is_integer;
        int64_t integer;
    } cases[] = {{"0", 0, 1, 0}, {"-0", -0.0, 1, 0}, {"7", 7, 1, 7}, {"-7", -7, 1, -7},
            {"1.0", 1, 1, 1}, {"12e2", 1200, 1, 1200}, {"-1.5e1", -15, 1, -15},
            {"1.5", 1.5, 0, 0}, {"9007199254740993", 9007199254740992.0, 1, 9007199254740993},
            {"9007199254740993.0", 9007199254740992.0, 1, 9007199254740992},
            {"9007199254740994.0", 9007199254740994.0, 0, 0},
            {"1e15", 1e15, 1, 1000000000000000}, {"1e16", 1e16, 0, 0},
            {"9223372036854775807", 9223372036854775807.0, 1, INT64_MAX},
            {"-9223372036854775808", -9223372036854775808.0, 1, INT64_MIN},
            {"-9223372036854775809", -9223372036854775808.0, 0, 0},
            {"9223372036854775808", 9223372036854775808.0, 2, INT64_MIN},
            {"18446744073709551615", 18446744073709551615.0, 2, -1},
            {"18446744073709551616", 18446744073709551616.0, 0, 0},
            {"19999999999999999999", 2e19, 0, 0},
            {"28446744073709551615", 28446744073709551615.0, 0, 0},
            {"100000000000000000000", 1e20, 0, 0}, {"0.1", 0.1, 0, 0},
            {"1e400", HUGE_VAL, 0, 0}, {"-1e400", -HUGE_VAL, 0, 0}, {"1e-400", 0, 1, 0},
            {"5e-324", 5e-324, 0, 0},
            {"2.2250738585072014e-308", 2.2250738585072014e-308, 0, 0},
            {"2.2250738585072011e-308", 2.2250738585072011e-308, 0, 0},
            {"1.7976931348623157e308", 1.7976931348623157e308, 0, 0},
            {"0.000000000000000000000000000000000000000000000000123", 1.23e-49, 0, 0},
            {"123e-10000000000000000000000", 0, 1, 0}, {"0e10000000000000000000000", 0, 1, 0},
            {"1.00000000000000011102230246251565404236316680908203125", 1, 1, 1},
            {"1.00000000000000011102230246251565404236316680908203126", 1.0000000000000002, 0,
                    0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        znl_frame copy = exact(cases[i].text, strlen(cases[i].text));
        znl_json_reader reader;
        double value;
        int is_integer;
        int64_t integer = 0;
        znl_json_begin(&reader, copy, 1);
        assert_int_equal(znl_json_number(&reader, &value, &is_integer, &integer), 0);
        assert_int_equal(znl_json_end(&reader), 0);
        if (memcmp(&value, &cases[i].value, sizeof value) != 0)
            fail_msg("%s reads as %.17g", cases[i].text, value);
        if (is_integer != cases[i].is_integer || (is_integer && integer != cases[i].integer))
            fail_msg("%s: integer %d, %lld", cases[i].text, is_integer, (long long)integer);
        release(copy);
    }
}

static void writes_as_javascript(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "0"}, {-0.0, "0"}, {1, "1"}, {-1, "-1"}, {99, "99"}, {100, "100"},
            {1234567, "1234567"}, {9007199254740992.0, "9007199254740992"},
            {1152921504606846976.0, "1152921504606847000"}, {1e20, "100000000000000000000"},
            {1e21, "1e+21"}, {-1.5e21, "-1.5e+21"}, {1.5, "1.5"}, {0.1, "0.1"},
            {-12.75, "-12.75"}, {0.1 + 0.2, "0.30000000000000004"},
            {1.0 / 3, "0.3333333333333333"}, {0.000001, "0.000001"}, {0.0000001, "1e-7"},
            {1.25e-7, "1.25e-7"}, {123456.789, "123456.789"}, {5e-324, "5e-324"},
            {1.7976931348623157e308, "1.7976931348623157e+308"},
            {2.2250738585072014e-308, "2.2250738585072014e-308"},
            {4503599627370495.5, "4503599627370495.5"},
            {9.5367431640625e-7, "9.5367431640625e-7"}, {1e-10, "1e-10"}, {123e-20, "1.23e-18"},
            {0.5, "0.5"}, {0.25, "0.25"}, {1700000000000.123, "1700000000000.123"}};
    znl_buffer out = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        out.size = 0;
        assert_int_equal(znl_json_put_number(&out, cases[i].value), 0);
        assert_frame(znl_frame_of(out.data, out.size), cases[i].text);
    }
    assert_int_equal(znl_json_put_number(&out, HUGE_VAL), ZNL_E_INVALID);
    assert_int_equal(znl_json_put_number(&out, -HUGE_VAL), ZNL_E_INVALID);
    assert_int_equal(znl_json_put_double(&out, (double)NAN), ZNL_E_INVALID);
    /* Past 2^53 an exponent tells a double from an integer. */
    out.size = 0;
    assert_int_equal(znl_json_put_double(&out, 9007199254740992.0), 0);
    assert_int_equal(znl_json_put_double(&out, 1152921504606846976.0), 0);
    assert_int_equal(znl_json_put_double(&out, -9007199254740994.0), 0);
    assert_int_equal(znl_json_put_double(&out, 4503599627370495.5), 0);
    assert_frame(znl_frame_of(out.data, out.size),
            "90071992547409921.152921504606847e+18-9.007199254740994e+154503599627370495.5");
    out.size = 0;
    assert_int_equal(znl_json_put_integer(&out, INT64_MIN), 0);
    assert_int_equal(znl_json_put_integer(&out, INT64_MAX), 0);
    assert_int_equal(znl_json_put_unsigned(&out, UINT64_MAX), 0);
    assert_frame(znl_frame_of(out.data, out.size),
            "-9223372036854775808922337203685477580718446744073709551615");
    znl_buffer_fini(&out);
}

static void writes_strings(void **state)
{
    (void)state;
    znl_buffer out = {0};
    /* Every place of a special byte relative to the blocks, in a block of exact size; read as well. */
    for (size_t size = 0; size < 140; size++) {
        for (size_t at = 0; at < size; at++) {
            static const struct {
                const char *bytes, *text;
            } cases[] = {{"\"", "\\\""}, {"\\", "\\\\"}, {"\n", "\\n"}, {"\x01", "\\u0001"},
                    {"\x1f", "\\u001f"}, {"\x7f", "\x7f"}, {"/", "/"}, {"\xc3\xa9", "\xc3\xa9"},
                    {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"}};
            for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
                char text[160], expected[170];
                size_t length = strlen(cases[i].bytes), written = strlen(cases[i].text);
                memset(text, 'a', size);
                memcpy(text + at, cases[i].bytes, length);
                size_t whole = at + length > size ? at + length : size;
                expected[0] = '"';
                memset(expected + 1, 'a', at);
                memcpy(expected + 1 + at, cases[i].text, written);
                memset(expected + 1 + at + written, 'a', whole - at - length);
                expected[1 + at + written + whole - at - length] = '"';
                znl_frame copy = exact(text, whole);
                znl_buffer_fini(&out);
                assert_int_equal(znl_json_put_string(&out, copy), 0);
                assert_int_equal(out.size, whole - length + written + 2);
                assert_memory_equal(out.data, expected, out.size);
                release(copy);
                assert_int_equal(check(out.data, out.size, 1), 0);
                out.data[1 + at] = '\x1f';
                assert_int_equal(check(out.data, out.size, 1), ZNL_E_PROTO);
            }
        }
    }
    /* What is no UTF-8 leaves the buffer as it was. */
    out.size = 3;
    char text[40];
    memset(text, 'a', sizeof text);
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = '\xff';
        text[0] = i > 0 ? '\n' : text[0];
        assert_int_equal(
                znl_json_put_string(&out, znl_frame_of(text, sizeof text)), ZNL_E_PROTO);
        assert_int_equal(out.size, 3);
        text[i] = 'a';
    }
    znl_buffer_fini(&out);
    assert_int_equal(znl_json_put_string(&out, (znl_frame){0}), 0);
    assert_frame(znl_frame_of(out.data, out.size), "\"\"");
    znl_buffer_fini(&out);
    /* Out of memory at the start, and when escapes need more. */
    memset(text, '\x01', sizeof text);
    for (long n = 0; n < 2; n++) {
        char controls[400];
        memset(controls, 1, sizeof controls);
        znl_alloc_fail_after(n);
        assert_int_equal(znl_json_put_string(&out, znl_frame_of(controls, sizeof controls)),
                ZNL_E_NOMEM);
        znl_alloc_fail_after(-1);
        assert_int_equal(out.size, 0);
        znl_buffer_fini(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(accepts_and_refuses),
            cmocka_unit_test(only_whole_texts),
            cmocka_unit_test(nesting_is_bounded),
            cmocka_unit_test(walks_step_by_step),
            cmocka_unit_test(wrong_kinds_are_refused),
            cmocka_unit_test(strings_are_undone),
            cmocka_unit_test(numbers_are_exact),
            cmocka_unit_test(writes_as_javascript),
            cmocka_unit_test(writes_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
