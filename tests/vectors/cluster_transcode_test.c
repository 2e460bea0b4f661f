/* The recorded texts of the default transcode: values become them, they become values.
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

#include "base/err.h"
#include "support/transcode_copy.h"
#include "support/vector.h"

#define DEPTH 32u

/* What JavaScript loses and we do not, or cannot say at all (spec, section 4; README of the vectors). */
enum {
    ANOTHER_TEXT = 1,  /* whole numbers past 2^53 are written as floats */
    ANOTHER_VALUE = 2, /* and read nearer to what they were */
    REFUSED_TEXT = 4,
    REFUSED_VALUE = 8,
    NO_VALUE = 16 /* not to be had in C, or not in cJSON */
};

static const struct difference {
    const char *name;
    unsigned what;
} differences[] = {
        {"lone surrogate becomes U+FFFD", NO_VALUE},
        {"newline, tab, NUL", NO_VALUE}, /* cJSON ends at the NUL */
        {"2^53+2", ANOTHER_TEXT},
        {"2^63", ANOTHER_TEXT | ANOTHER_VALUE},
        {"1e21", ANOTHER_TEXT | ANOTHER_VALUE},
        {"1e100", ANOTHER_TEXT | ANOTHER_VALUE},
        {"largest double", ANOTHER_TEXT | ANOTHER_VALUE},
        {"bigint becomes null", NO_VALUE},
        {"function becomes null", NO_VALUE},
        {"symbol becomes null", NO_VALUE},
        {"invalid date", REFUSED_VALUE},
        {"cyclic object", NO_VALUE},
        {"__proto__ key", ANOTHER_VALUE},
        {"invalid UTF-8", REFUSED_TEXT},
};

static unsigned different(const char *name)
{
    for (size_t i = 0; i < sizeof differences / sizeof differences[0]; i++)
        if (strcmp(differences[i].name, name) == 0)
            return differences[i].what;
    return 0;
}

/* --- values that JSON cannot hold ------------------------------------------------------------- */

static const char *tag_of(const cJSON *value)
{
    return cJSON_IsObject(value) ? znl_vector_text(value, "$") : NULL;
}

static int is_tag(const cJSON *value, const char *tag)
{
    const char *own = tag_of(value);
    return own != NULL && strcmp(own, tag) == 0;
}

static double tagged_number(const cJSON *value)
{
    const char *text = znl_vector_text(value, "v");
    assert_non_null(text);
    return strtod(text, NULL); /* knows "NaN", "Infinity", "-0" */
}

static double tagged_date(const cJSON *value)
{
    const cJSON *ms = cJSON_GetObjectItemCaseSensitive(value, "ms");
    return cJSON_IsNumber(ms) ? ms->valuedouble : NAN;
}

/* --- writing ---------------------------------------------------------------------------------- */

static int put(znl_transcode_writer *writer, const cJSON *value);

static int put_fields(znl_transcode_writer *writer, const cJSON *value, znl_transcode_kind kind)
{
    int err = znl_transcode_put(writer, kind);
    for (const cJSON *item = value->child; item != NULL && err == 0; item = item->next) {
        if (kind != ZNL_TRANSCODE_ARRAY)
            err = znl_transcode_put_string(writer, znl_frame_text(item->string));
        if (err == 0)
            err = put(writer, item);
    }
    return err != 0 ? err : znl_transcode_put(writer, ZNL_TRANSCODE_END);
}

static int put(znl_transcode_writer *writer, const cJSON *value)
{
    if (is_tag(value, "undefined"))
        return znl_transcode_put(writer, ZNL_TRANSCODE_UNDEFINED);
    if (is_tag(value, "number"))
        return znl_transcode_put_number(writer, tagged_number(value));
    if (is_tag(value, "date"))
        return znl_transcode_put_date(writer, tagged_date(value));
    if (is_tag(value, "buffer"))
        return znl_transcode_put_bytes(writer, znl_vector_hex(value, "hex"));
    if (is_tag(value, "error"))
        return put_fields(writer, znl_vector_object(value, "v"), ZNL_TRANSCODE_ERROR);
    assert_null(tag_of(value));
    if (cJSON_IsNull(value))
        return znl_transcode_put(writer, ZNL_TRANSCODE_NULL);
    if (cJSON_IsBool(value))
        return znl_transcode_put(
                writer, cJSON_IsTrue(value) ? ZNL_TRANSCODE_TRUE : ZNL_TRANSCODE_FALSE);
    if (cJSON_IsNumber(value))
        return znl_transcode_put_number(writer, value->valuedouble);
    if (cJSON_IsString(value))
        return znl_transcode_put_string(writer, znl_frame_text(value->valuestring));
    return put_fields(
            writer, value, cJSON_IsArray(value) ? ZNL_TRANSCODE_ARRAY : ZNL_TRANSCODE_OBJECT);
}

static void check_written(const cJSON *item, const char *name, unsigned what)
{
    znl_transcode_writer writer = {0};
    znl_buffer out = {0};
    znl_frame text = znl_vector_hex(item, "hex");
    znl_transcode_start(&writer);
    int err = put(&writer, cJSON_GetObjectItemCaseSensitive(item, "value"));
    assert_int_equal(err, what & REFUSED_VALUE ? ZNL_E_INVALID : 0);
    if (err == 0) {
        assert_int_equal(znl_transcode_finish(&writer, &out), 0);
        int is_same = znl_frame_equal(text, znl_frame_of(out.data, out.size));
        if (is_same == ((what & ANOTHER_TEXT) != 0))
            fail_msg("%s: written %.*s", name, (int)out.size, (const char *)out.data);
    }
    znl_buffer_fini(&out);
    znl_transcode_writer_fini(&writer);
}

/* --- reading ---------------------------------------------------------------------------------- */

static void read_value(znl_transcode_reader *reader, const cJSON *expected, const char *name);

static void assert_same_number(double actual, double expected)
{
    if (isnan(expected))
        assert_true(isnan(actual));
    else
        assert_true(actual == expected);
}

static znl_transcode_token next(znl_transcode_reader *reader)
{
    znl_transcode_token token = {0};
    assert_int_equal(znl_transcode_next(reader, &token), 0);
    return token;
}

static void read_items(znl_transcode_reader *reader, const cJSON *expected, const char *name)
{
    for (const cJSON *item = expected->child; item != NULL; item = item->next)
        read_value(reader, item, name);
    assert_int_equal(next(reader).kind, ZNL_TRANSCODE_END);
}

static void read_fields(znl_transcode_reader *reader, const cJSON *expected, const char *name)
{
    for (const cJSON *item = expected->child; item != NULL; item = item->next) {
        znl_transcode_token key = next(reader);
        assert_int_equal(key.kind, ZNL_TRANSCODE_STRING);
        assert_true(znl_frame_equal(key.bytes, znl_frame_text(item->string)));
        /* Behind a key without a value comes the end: undefined. */
        znl_transcode_reader ahead = *reader;
        znl_transcode_token value = {0};
        if (is_tag(item, "undefined") && znl_transcode_next(&ahead, &value) == 0 &&
                value.kind == ZNL_TRANSCODE_END)
            break;
        read_value(reader, item, name);
    }
    assert_int_equal(next(reader).kind, ZNL_TRANSCODE_END);
}

static void read_tagged(znl_transcode_reader *reader, const cJSON *expected,
        const znl_transcode_token *token, const char *name)
{
    if (is_tag(expected, "undefined")) {
        assert_int_equal(token->kind, ZNL_TRANSCODE_UNDEFINED);
    } else if (is_tag(expected, "number")) {
        assert_int_equal(token->kind, ZNL_TRANSCODE_NUMBER);
        assert_same_number(token->number, tagged_number(expected));
    } else if (is_tag(expected, "date")) {
        assert_int_equal(token->kind, ZNL_TRANSCODE_DATE);
        assert_same_number(token->number, tagged_date(expected));
    } else if (is_tag(expected, "buffer")) {
        assert_int_equal(token->kind, ZNL_TRANSCODE_BYTES);
        assert_true(znl_frame_equal(token->bytes, znl_vector_hex(expected, "hex")));
    } else {
        assert_true(is_tag(expected, "error"));
        assert_int_equal(token->kind, ZNL_TRANSCODE_ERROR);
        read_fields(reader, znl_vector_object(expected, "v"), name);
    }
}

static void read_value(znl_transcode_reader *reader, const cJSON *expected, const char *name)
{
    znl_transcode_token token = next(reader);
    if (tag_of(expected) != NULL) {
        read_tagged(reader, expected, &token, name);
    } else if (cJSON_IsNull(expected)) {
        assert_int_equal(token.kind, ZNL_TRANSCODE_NULL);
    } else if (cJSON_IsBool(expected)) {
        assert_int_equal(
                token.kind, cJSON_IsTrue(expected) ? ZNL_TRANSCODE_TRUE : ZNL_TRANSCODE_FALSE);
    } else if (cJSON_IsNumber(expected)) {
        assert_int_equal(token.kind, ZNL_TRANSCODE_NUMBER);
        if (token.number != expected->valuedouble)
            fail_msg("%s: read %.17g", name, token.number);
    } else if (cJSON_IsString(expected)) {
        assert_int_equal(token.kind, ZNL_TRANSCODE_STRING);
        assert_true(znl_frame_equal(token.bytes, znl_frame_text(expected->valuestring)));
    } else if (cJSON_IsArray(expected)) {
        assert_int_equal(token.kind, ZNL_TRANSCODE_ARRAY);
        read_items(reader, expected, name);
    } else {
        assert_int_equal(token.kind, ZNL_TRANSCODE_OBJECT);
        read_fields(reader, expected, name);
    }
}

/* Numbers whose low digits were lost when they were written: read as near as the digits are. */
static void check_near(znl_transcode_reader *reader, const cJSON *item)
{
    double value = cJSON_GetObjectItemCaseSensitive(item, "value")->valuedouble;
    znl_transcode_token token = next(reader);
    assert_int_equal(token.kind, ZNL_TRANSCODE_NUMBER);
    assert_int_equal(token.is_integer, 0);
    assert_true(isinf(token.number) ? value > 1.7e308 : fabs(token.number / value - 1) < 1e-14);
}

static void check_read(const cJSON *item, const char *name, unsigned what)
{
    znl_transcode_reader reader = {0};
    int err = znl_transcode_begin(&reader, znl_vector_hex(item, "hex"), DEPTH);
    int is_refused = (what & REFUSED_TEXT) != 0 || znl_vector_has(item, "decode_error");
    assert_int_equal(err, is_refused ? ZNL_E_PROTO : 0);
    const cJSON *decoded = cJSON_GetObjectItemCaseSensitive(item, "decoded");
    if (err == 0 && (what & ANOTHER_VALUE) != 0) {
        if (cJSON_IsObject(decoded) && tag_of(decoded) == NULL) {
            /* "__proto__" is a name like any other. */
            assert_int_equal(next(&reader).kind, ZNL_TRANSCODE_OBJECT);
            znl_transcode_token key = next(&reader);
            assert_true(znl_frame_equal(key.bytes, znl_frame_text("__proto__")));
        } else {
            check_near(&reader, item);
        }
    } else if (err == 0 && strcmp(name, "newline, tab, NUL") == 0) {
        znl_transcode_token token = next(&reader);
        assert_true(znl_frame_equal(token.bytes, znl_frame_of("a\n\t\0b", 5)));
    } else if (err == 0) {
        assert_non_null(decoded);
        read_value(&reader, decoded, name);
        znl_transcode_token token = {0};
        assert_int_equal(znl_transcode_next(&reader, &token), ZNL_E_PROTO); /* nothing more */
    }
    znl_transcode_reader_fini(&reader);
}

static void check_copied(const cJSON *item, const char *name)
{
    znl_transcode_reader reader = {0};
    znl_transcode_writer writer = {0};
    znl_buffer out = {0};
    znl_frame text = znl_vector_hex(item, "hex");
    assert_int_equal(znl_transcode_copy(&reader, &writer, text, DEPTH, &out), 0);
    if (!znl_frame_equal(text, znl_frame_of(out.data, out.size)))
        fail_msg("%s: copied as %.*s", name, (int)out.size, (const char *)out.data);
    znl_buffer_fini(&out);
    znl_transcode_reader_fini(&reader);
    znl_transcode_writer_fini(&writer);
}

static void values_and_texts(void **state)
{
    (void)state;
    const cJSON *file = znl_vector_file("cluster/transcode.json"), *item;
    unsigned written = 0, read = 0, copied = 0;
    ZNL_VECTOR_EACH(item, file, "cases")
    {
        const char *name = znl_vector_text(item, "case");
        unsigned what = different(name);
        if ((what & NO_VALUE) == 0) {
            check_written(item, name, what);
            written++;
        }
        if (!znl_vector_has(item, "hex"))
            continue;
        check_read(item, name, what);
        read++;
        if (znl_vector_flag(item, "same_after_roundtrip") && (what & ANOTHER_TEXT) == 0) {
            check_copied(item, name);
            copied++;
        }
    }
    assert_int_equal(written, 68);
    assert_int_equal(read, 73);
    assert_int_equal(copied, 62);
}

static void texts_no_encoder_writes(void **state)
{
    (void)state;
    const cJSON *file = znl_vector_file("cluster/transcode.json"), *item;
    unsigned read = 0;
    ZNL_VECTOR_EACH(item, file, "decode_only")
    {
        const char *name = znl_vector_text(item, "case");
        check_read(item, name, different(name));
        read++;
    }
    assert_int_equal(read, 22);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(values_and_texts),
            cmocka_unit_test(texts_no_encoder_writes),
    };
    int failed = cmocka_run_group_tests_name("cluster_transcode", tests, NULL, NULL);
    znl_vector_end();
    return failed;
}
