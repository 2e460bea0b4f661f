/* Log lines: one per event, whatever is in it. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "base/err.h"
#include "base/log.h"

#define LINE_BYTES_MAX 16384u

static char got[LINE_BYTES_MAX * 2];
static size_t got_size;

/* Runs one znl_log_write() with standard error going into a file, and reads what came. */
static void write_one(znl_log_format format, znl_log_level level, const char *area,
        const char *message, const znl_log_field *fields, size_t count)
{
    char path[] = "/tmp/znl-log-XXXXXX";
    int file = mkstemp(path);
    int saved = dup(STDERR_FILENO);
    assert_true(file >= 0 && saved >= 0);
    unlink(path);
    znl_log_configure(ZNL_LOG_INFO, format);
    assert_true(dup2(file, STDERR_FILENO) >= 0);
    errno = 77;
    znl_log_write(level, area, message, fields, count);
    int number = errno;
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    assert_int_equal(number, 77); /* logging an error must not change it */
    ssize_t size = pread(file, got, sizeof got - 1, 0);
    close(file);
    assert_true(size >= 0);
    got_size = (size_t)size;
    got[got_size] = '\0';
}

static znl_log_field field(const char *key, const char *value)
{
    return (znl_log_field){key, value, strlen(value), 0};
}

/* One line, ended by one newline, of visible characters. */
static void expect_line(void)
{
    assert_true(got_size > 0 && got_size <= LINE_BYTES_MAX);
    assert_int_equal(got[got_size - 1], '\n');
    for (size_t i = 0; i + 1 < got_size; i++)
        assert_true((unsigned char)got[i] >= ' ' && got[i] != 0x7f);
}

static void expect_tail(const char *tail)
{
    expect_line();
    size_t size = strlen(tail);
    assert_true(got_size >= size);
    assert_string_equal(got + got_size - size, tail);
}

static cJSON *parse_line(void)
{
    expect_line();
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(got, got_size, &end, 0);
    assert_non_null(root);
    assert_ptr_equal(end, got + got_size - 1);
    return root;
}

static void expect_member(const cJSON *root, const char *name, const char *value)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, name);
    assert_true(cJSON_IsString(item));
    assert_string_equal(item->valuestring, value);
}

static void logfmt_quotes_only_what_needs_it(void **state)
{
    (void)state;
    const znl_log_field fields[] = {field("id", "slave-1"), field("empty", ""),
            field("text", "a b"), field("eq", "a=b"), field("quote", "say \"x\\y\""),
            {"n", "12.5", 4, 1}, field("umlaut", "\xc3\xa4")};
    write_one(ZNL_LOG_LOGFMT, ZNL_LOG_WARN, "node.master", "slave connected", fields, 7);
    expect_tail("Z level=warn area=node.master msg=\"slave connected\" id=slave-1 empty=\"\" "
                "text=\"a b\" eq=\"a=b\" quote=\"say \\\"x\\\\y\\\"\" n=12.5 "
                "umlaut=\"\xc3\xa4\"\n");
    assert_memory_equal(got, "time=2", 6);
}

static void no_value_forges_a_line(void **state)
{
    (void)state;
    static const char evil[] =
            "x\nlevel=error\r\t\x1b[2J\x7f\xc2\x9b\xe2\x80\xae\xe2\x80\xa8\xff"
            "\0\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80\xe2\x82";
    const znl_log_field fields[] = {{"v", evil, sizeof evil - 1, 0}};
    const char *escaped = "x\\nlevel=error\\r\\t\\u001b[2J\\u007f\\u009b\\u202e\\u2028\\xff"
                          "\\u0000\\xc0\\x80\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80\\xe2\\x82\"\n";
    write_one(ZNL_LOG_LOGFMT, ZNL_LOG_INFO, "a", "m", fields, 1);
    expect_tail(escaped);
    write_one(ZNL_LOG_TEXT, ZNL_LOG_INFO, "a", "m\nforged", fields, 1);
    expect_tail(escaped);
    assert_non_null(strstr(got, "INFO  a: m\\nforged v=\""));
    write_one(ZNL_LOG_JSON, ZNL_LOG_INFO, "a", "m", fields, 1);
    expect_line();
    assert_null(strstr(got, "\\x"));
    assert_non_null(strstr(got, "\\u202e\\u2028\\ufffd\\u0000\\ufffd"));
}

static void errors_and_tracebacks_are_lines_on_a_terminal(void **state)
{
    (void)state;
    const znl_log_field fields[] = {
            field("error", "a.lua:1: b\nstack traceback:\n  a.lua:1: in \"x\"\n\x1b[2J\r09:00"),
            field("n", "1"), field("other", "y\nstack traceback:\nz")};
    write_one(ZNL_LOG_TEXT, ZNL_LOG_ERROR, "a", "m", fields, 3);
    assert_non_null(strstr(got,
            "ERROR a: m n=1 other=\"y\\nstack traceback:\\nz\"\n"
            "  a.lua:1: b\n"
            "    a.lua:1: in \"x\"\n"
            "  \\u001b[2J\\r09:00\n"));
    write_one(ZNL_LOG_TEXT, ZNL_LOG_ERROR, "a", "m", fields + 1, 2);
    assert_non_null(strstr(got, "m n=1 other=\"y\"\n  z\n"));
    const znl_log_field quoted[] = {
            field("error", "near '\"Hola'\n"), field("error", "a b"), field("n", "1")};
    write_one(ZNL_LOG_TEXT, ZNL_LOG_ERROR, "a", "m", quoted, 3);
    assert_non_null(strstr(got, "m error=\"a b\" n=1\n  near '\"Hola'\n"));
    const znl_log_field word[] = {field("error", "ENOENT")};
    write_one(ZNL_LOG_TEXT, ZNL_LOG_ERROR, "a", "m", word, 1);
    assert_non_null(strstr(got, "m error=ENOENT\n"));
    write_one(ZNL_LOG_LOGFMT, ZNL_LOG_ERROR, "a", "m", fields, 3);
    expect_line();
    write_one(ZNL_LOG_JSON, ZNL_LOG_ERROR, "a", "m", fields, 3);
    expect_line();
}

static void json_is_json(void **state)
{
    (void)state;
    const znl_log_field fields[] = {field("id", "a\"b\\c\n\xc3\xa4"), {"n", "-12.5e+3", 8, 1},
            {"yes", "true", 4, 1}, {"nan", "nan", 3, 1}, {"hex", "0x10", 4, 1},
            {"zeros", "007", 3, 1}, {"none", NULL, 9, 1}, {"dot", "1.", 2, 1}};
    write_one(ZNL_LOG_JSON, ZNL_LOG_ERROR, "bind", "it \"failed\"", fields, 8);
    cJSON *root = parse_line();
    expect_member(root, "level", "error");
    expect_member(root, "area", "bind");
    expect_member(root, "msg", "it \"failed\"");
    expect_member(root, "id", "a\"b\\c\n\xc3\xa4");
    expect_member(root, "nan", "nan");
    expect_member(root, "hex", "0x10");
    expect_member(root, "zeros", "007");
    expect_member(root, "none", "");
    expect_member(root, "dot", "1.");
    assert_true(cJSON_GetObjectItem(root, "n")->valuedouble == -12500);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(root, "yes")));
    const cJSON *time = cJSON_GetObjectItem(root, "time");
    assert_true(cJSON_IsString(time) && strlen(time->valuestring) == 24);
    cJSON_Delete(root);
}

static void keys_cannot_forge_fields(void **state)
{
    (void)state;
    const znl_log_field fields[] = {
            field("level", "x"), field("a b\"\n=", "y"), field("", "z"), {NULL, "w", 1, 0}};
    write_one(ZNL_LOG_JSON, ZNL_LOG_WARN, "a", "m", fields, 4);
    cJSON *root = parse_line();
    expect_member(root, "level", "warn");
    expect_member(root, "field_level", "x");
    expect_member(root, "a_b___", "y");
    expect_member(root, "_", "z");
    cJSON_Delete(root);
}

/* Every length around the limit, for every part of a line. */
static void long_lines_are_cut_and_marked(void **state)
{
    (void)state;
    static char text[40000];
    static const char fills[] = {'x', '"', '\n', (char)0xff, ' '};
    for (size_t fill = 0; fill < sizeof fills; fill++) {
        for (size_t length = 16100; length < 16420; length += fill == 0 ? 1 : 7) {
            memset(text, fills[fill], length);
            text[length] = '\0';
            const znl_log_field fields[] = {{"k", text, length, fill % 2 == 0},
                    {"n", "1", 1, 1}, {"t", "true", 4, 1}, {"s", "", 0, 0}};
            for (int format = ZNL_LOG_LOGFMT; format <= ZNL_LOG_TEXT; format++) {
                write_one((znl_log_format)format, ZNL_LOG_WARN, "a", "m", fields, 4);
                if (length > 16384)
                    expect_tail(format == ZNL_LOG_JSON ? ",\"cut\":true}\n" : " cut=true\n");
                if (format == ZNL_LOG_JSON)
                    cJSON_Delete(parse_line());
                else
                    expect_line();
            }
        }
        memset(text, fills[fill], sizeof text - 1);
        const znl_log_field in_key[] = {{text, "v", 1, 0}};
        write_one(ZNL_LOG_JSON, ZNL_LOG_WARN, text, text, in_key, 1);
        cJSON_Delete(parse_line());
        write_one(ZNL_LOG_JSON, ZNL_LOG_WARN, "a", text, in_key, 1);
        cJSON_Delete(parse_line());
        write_one(ZNL_LOG_JSON, ZNL_LOG_WARN, "a", "m", in_key, 1);
        cJSON_Delete(parse_line());
        write_one(ZNL_LOG_TEXT, ZNL_LOG_WARN, text, text, in_key, 1);
        expect_tail(" cut=true\n");
    }
    static znl_log_field many[10000];
    for (size_t i = 0; i < 10000; i++)
        many[i] = (znl_log_field){"k", "12", 2, 1};
    write_one(ZNL_LOG_JSON, ZNL_LOG_WARN, "a", "m", many, 10000);
    cJSON_Delete(parse_line());
    expect_tail(",\"cut\":true}\n");
}

static void levels_below_the_chosen_one_are_silent(void **state)
{
    (void)state;
    write_one(ZNL_LOG_LOGFMT, ZNL_LOG_DEBUG, "a", "m", NULL, 0);
    assert_int_equal(got_size, 0);
    write_one(ZNL_LOG_LOGFMT, ZNL_LOG_OFF, "a", "m", NULL, 0);
    assert_int_equal(got_size, 0);
    write_one(ZNL_LOG_LOGFMT, ZNL_LOG_INFO, NULL, NULL, NULL, 0);
    expect_tail(" level=info area=\"\" msg=\"\"\n");
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    assert_false(znl_log_enabled(ZNL_LOG_ERROR));
    znl_log_configure(ZNL_LOG_TRACE, ZNL_LOG_LOGFMT);
    assert_true(znl_log_enabled(ZNL_LOG_TRACE));
    assert_false(znl_log_enabled(ZNL_LOG_OFF));
}

static void names_are_parsed(void **state)
{
    (void)state;
    znl_log_level level = ZNL_LOG_ERROR;
    znl_log_format format = ZNL_LOG_LOGFMT;
    assert_int_equal(znl_log_parse_level("trace", &level), 0);
    assert_int_equal(level, ZNL_LOG_TRACE);
    assert_int_equal(znl_log_parse_level("off", &level), 0);
    assert_int_equal(level, ZNL_LOG_OFF);
    assert_int_equal(znl_log_parse_level("INFO", &level), ZNL_E_INVALID);
    assert_int_equal(znl_log_parse_level("", &level), ZNL_E_INVALID);
    assert_int_equal(znl_log_parse_level(NULL, &level), ZNL_E_INVALID);
    assert_int_equal(level, ZNL_LOG_OFF);
    assert_int_equal(znl_log_parse_format("json", &format), 0);
    assert_int_equal(format, ZNL_LOG_JSON);
    assert_int_equal(znl_log_parse_format("text", &format), 0);
    assert_int_equal(znl_log_parse_format("xml", &format), ZNL_E_INVALID);
}

static void lost_lines_are_counted(void **state)
{
    (void)state;
    unsigned long before = znl_log_lost();
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    if (full < 0)
        skip();
    int saved = dup(STDERR_FILENO);
    dup2(full, STDERR_FILENO);
    znl_log_configure(ZNL_LOG_INFO, ZNL_LOG_LOGFMT);
    znl_log_write(ZNL_LOG_INFO, "a", "m", NULL, 0);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(full);
    assert_int_equal(znl_log_lost(), before + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(logfmt_quotes_only_what_needs_it),
            cmocka_unit_test(no_value_forges_a_line),
            cmocka_unit_test(errors_and_tracebacks_are_lines_on_a_terminal),
            cmocka_unit_test(json_is_json),
            cmocka_unit_test(keys_cannot_forge_fields),
            cmocka_unit_test(long_lines_are_cut_and_marked),
            cmocka_unit_test(levels_below_the_chosen_one_are_silent),
            cmocka_unit_test(names_are_parsed),
            cmocka_unit_test(lost_lines_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
