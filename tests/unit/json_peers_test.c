/* Our JSON against libcjson's: random texts, whole and damaged. What we accept it accepts, and both read the
 * same; what we write of it reads the same again. (libcjson accepts more: control characters and bad UTF-8
 * in strings, any byte up to 32 as white space, numbers such as 01 and 1. .) SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "base/err.h"
#include "codec/json.h"

#define ROUNDS 12000
#define DAMAGES 12

/* xorshift64*, the same numbers in every run. */
static uint64_t seed = 0x9e3779b97f4a7c15u;

static uint32_t random_below(uint32_t limit)
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return (uint32_t)((seed * 0x2545f4914f6cdd1du) >> 33) % limit;
}

/* --- making texts ----------------------------------------------------------------------------- */

static void put(znl_buffer *out, const char *text)
{
    assert_int_equal(znl_buffer_append(out, text, strlen(text)), 0);
}

static void put_space(znl_buffer *out)
{
    static const char *const spaces[] = {"", "", "", "", " ", "\n", "\t\r ", "   "};
    put(out, spaces[random_below(8)]);
}

static void make_string(znl_buffer *out)
{
    static const char *const pieces[] = {"a", "id", "a longer piece of text", "\\n", "\\\"",
            "\\\\", "\\/", "\\u0041", "\\u00e9", "\\u20ac", "\\ud83d\\ude00", "\xc3\xa9",
            "\xe4\xb8\xad", "\xf0\x9f\x98\x80", "\x7f", "0123456789abcdef"};
    put(out, "\"");
    for (uint32_t count = random_below(6); count > 0; count--)
        put(out, pieces[random_below(sizeof pieces / sizeof pieces[0])]);
    put(out, "\"");
}

static void make_number(znl_buffer *out)
{
    char text[64];
    static const char *const forms[] = {
            "%s%u", "%s%u.%u", "%s%ue%u", "%s%u.%uE-%u", "%s0.%u%u", "%s1%u%09u", "%s0e+%u"};
    uint32_t form = random_below(sizeof forms / sizeof forms[0]);
    snprintf(text, sizeof text, forms[form], random_below(2) ? "-" : "",
            random_below(random_below(2) ? 10 : 1000000), random_below(300), random_below(300));
    put(out, text);
}

static void make_value(znl_buffer *out, unsigned depth)
{
    put_space(out);
    uint32_t kind = random_below(depth > 0 ? 12 : 8);
    if (kind < 3) {
        make_string(out);
    } else if (kind < 5) {
        make_number(out);
    } else if (kind < 8) {
        put(out, kind == 5 ? "null" : kind == 6 ? "true" : "false");
    } else {
        int is_object = kind < 10;
        put(out, is_object ? "{" : "[");
        for (uint32_t i = 0, count = random_below(6); i < count; i++) {
            put(out, i > 0 ? "," : "");
            if (is_object) {
                put_space(out);
                make_string(out);
                put_space(out);
                put(out, ":");
            }
            make_value(out, depth - 1);
        }
        put_space(out);
        put(out, is_object ? "}" : "]");
    }
    put_space(out);
}

/* A byte changed, left out, put in or doubled; one that matters to JSON more often than not. */
static void damage(znl_buffer *text)
{
    static const char bytes[] = "{}[]:,\"\\u0123456789+-.eEtrufalsn \n\t/\xc3\xa9\xff\x01";
    size_t at = random_below((uint32_t)text->size);
    uint8_t byte = random_below(4) ? (uint8_t)bytes[random_below(sizeof bytes - 1)]
                                   : (uint8_t)random_below(256);
    switch (random_below(3)) {
    case 0:
        text->data[at] = byte;
        break;
    case 1:
        memmove(text->data + at, text->data + at + 1, text->size - at - 1);
        text->size--;
        break;
    default:
        assert_int_equal(znl_buffer_extend(text, 1), 0);
        memmove(text->data + at + 1, text->data + at, text->size - at);
        text->data[at] = byte;
        text->size++;
    }
}

/* --- reading both ----------------------------------------------------------------------------- */

static void write_walk(znl_json_reader *reader, znl_buffer *out);

static void write_item(
        znl_json_reader *reader, znl_buffer *out, znl_frame name, int is_plain, int is_object)
{
    znl_buffer scratch = {0};
    if (is_object) {
        if (!is_plain)
            assert_int_equal(znl_json_unescape(name, &name, &scratch), 0);
        assert_int_equal(znl_json_put_string(out, name), 0);
        put(out, ":");
    }
    znl_buffer_fini(&scratch);
    write_walk(reader, out);
}

/* Reads a value that is well-formed step by step and writes it again. */
static void write_walk(znl_json_reader *reader, znl_buffer *out)
{
    znl_frame text, name = {0};
    znl_buffer scratch = {0};
    double number;
    int64_t integer;
    int flag = 0, more, count = 0;
    int kind = znl_json_peek(reader);
    switch (kind) {
    case ZNL_JSON_STRING:
        assert_int_equal(znl_json_string(reader, &text, &scratch), 0);
        assert_int_equal(znl_json_put_string(out, text), 0);
        break;
    case ZNL_JSON_NUMBER:
        assert_int_equal(znl_json_number(reader, &number, &flag, &integer), 0);
        if (znl_json_put_number(out, number) != 0) /* too large for a double */
            put(out, number > 0 ? "1e999" : "-1e999");
        break;
    case ZNL_JSON_ARRAY:
    case ZNL_JSON_OBJECT:
        put(out, kind == ZNL_JSON_OBJECT ? "{" : "[");
        assert_int_equal(znl_json_enter(reader), 0);
        while ((more = znl_json_next(reader, &name, &flag)) == 1) {
            put(out, count++ > 0 ? "," : "");
            write_item(reader, out, name, flag, kind == ZNL_JSON_OBJECT);
        }
        assert_int_equal(more, 0);
        put(out, kind == ZNL_JSON_OBJECT ? "}" : "]");
        break;
    default:
        assert_true(kind >= 0);
        assert_int_equal(znl_json_literal(reader), 0);
        put(out, kind == ZNL_JSON_NULL ? "null" : kind == ZNL_JSON_TRUE ? "true" : "false");
    }
    znl_buffer_fini(&scratch);
}

static int accepts(const znl_buffer *text)
{
    /* In a block of its exact size, so that a sanitizer sees a read past the end. */
    uint8_t *copy = malloc(text->size > 0 ? text->size : 1);
    znl_json_reader reader;
    znl_frame raw;
    assert_non_null(copy);
    if (text->size > 0)
        memcpy(copy, text->data, text->size);
    znl_json_begin(&reader, znl_frame_of(copy, text->size), 64);
    int err = znl_json_skip(&reader, &raw);
    if (err == 0)
        err = znl_json_end(&reader);
    free(copy);
    return err == 0;
}

/* What libcjson cannot hold: half a pair of surrogates, and "\0" ends its strings. */
static int is_beyond(const znl_buffer *text)
{
    for (size_t i = 0; i + 6 <= text->size; i++) {
        const uint8_t *at = text->data + i;
        if (at[0] == '\\' && at[1] == 'u' &&
                (memcmp(at + 2, "0000", 4) == 0 || (at[2] | 0x20) == 'd'))
            return 1;
    }
    return 0;
}

/* Equality without cJSON_Compare's tolerance; members in order. */
static int is_same(const cJSON *a, const cJSON *b)
{
    if ((a->type & 0xff) != (b->type & 0xff) || (a->string == NULL) != (b->string == NULL) ||
            (a->string != NULL && strcmp(a->string, b->string) != 0))
        return 0;
    if (cJSON_IsNumber(a) && memcmp(&a->valuedouble, &b->valuedouble, sizeof(double)) != 0 &&
            !(a->valuedouble == 0 && b->valuedouble == 0))
        return 0;
    if (cJSON_IsString(a) && strcmp(a->valuestring, b->valuestring) != 0)
        return 0;
    const cJSON *x = a->child, *y = b->child;
    for (; x != NULL && y != NULL; x = x->next, y = y->next)
        if (!is_same(x, y))
            return 0;
    return x == y;
}

static cJSON *parse(const znl_buffer *text)
{
    const char *end = NULL;
    cJSON *value = cJSON_ParseWithLengthOpts((const char *)text->data, text->size, &end, 0);
    if (value != NULL)
        while (end < (const char *)text->data + text->size && (uint8_t)*end <= ' ')
            end++;
    if (value != NULL && end != (const char *)text->data + text->size) {
        cJSON_Delete(value);
        return NULL;
    }
    return value;
}

/* 1 when it was accepted. */
static int check(const znl_buffer *text)
{
    if (!accepts(text))
        return 0;
    znl_buffer again = {0}, thrice = {0};
    znl_json_reader reader;
    znl_json_begin(&reader, znl_frame_of(text->data, text->size), 64);
    write_walk(&reader, &again);
    assert_int_equal(znl_json_end(&reader), 0);
    assert_true(accepts(&again));
    znl_json_begin(&reader, znl_frame_of(again.data, again.size), 64);
    write_walk(&reader, &thrice);
    assert_true(znl_frame_equal(
            znl_frame_of(again.data, again.size), znl_frame_of(thrice.data, thrice.size)));
    if (!is_beyond(text)) {
        cJSON *theirs = parse(text), *ours = parse(&again);
        if (theirs == NULL || ours == NULL || !is_same(theirs, ours))
            fail_msg("libcjson disagrees: %.*s", (int)text->size, (const char *)text->data);
        char *printed = cJSON_PrintUnformatted(theirs);
        assert_non_null(printed);
        znl_buffer copy = {(uint8_t *)printed, strlen(printed), 0};
        assert_true(accepts(&copy));
        cJSON_free(printed);
        cJSON_Delete(theirs);
        cJSON_Delete(ours);
    }
    znl_buffer_fini(&again);
    znl_buffer_fini(&thrice);
    return 1;
}

static void agrees_with_libcjson(void **state)
{
    (void)state;
    znl_buffer text = {0};
    unsigned accepted = 0, refused = 0;
    for (int round = 0; round < ROUNDS; round++) {
        text.size = 0;
        make_value(&text, 4);
        if (!check(&text))
            fail_msg("refused: %.*s", (int)text.size, (const char *)text.data);
        for (int i = 0; i < DAMAGES && text.size > 0; i++) {
            damage(&text);
            if (check(&text))
                accepted++;
            else
                refused++;
        }
    }
    znl_buffer_fini(&text);
    /* Both ways a good many, or the damage is of the wrong kind. */
    assert_true(accepted > ROUNDS / 4 && refused > ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(agrees_with_libcjson),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
