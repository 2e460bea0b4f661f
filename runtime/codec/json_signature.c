/* json_signature.c - see json_signature.h. SPDX-License-Identifier: MIT
 *
 * Read in one pass. The members of an object are written as they come, and then put in order: `members`
 * holds those of all objects that are open, the innermost last. */
#include "codec/json_signature.h"

#include "base/err.h"
#include "codec/json.h"

#include <math.h>
#include <stdlib.h>

#define EXACT_MAX (INT64_C(1) << 53) /* doubles hold every whole number up to here */

struct member {
    znl_frame name;     /* as it stands in the text */
    size_t start, size; /* what was written for it, name included */
};

struct maker {
    znl_json_reader reader;
    znl_buffer *out;
    znl_buffer members; /* of struct member */
    znl_buffer ordered;
};

static int write_value(struct maker *m);

static int put_text(struct maker *m, const char *text)
{
    return znl_buffer_append(m->out, text, strlen(text));
}

/* --- names ------------------------------------------------------------------------------------ */

/* The next unit of UTF-16; *pending: the second half of a pair that is still to come. */
static uint32_t next_unit(const uint8_t **at, const uint8_t *end, uint32_t *pending)
{
    uint32_t code = *pending;
    *pending = 0;
    if (code != 0)
        return code;
    code = znl_json_character(at, end);
    if (code < 0x10000)
        return code;
    *pending = 0xdc00 | ((code - 0x10000) & 0x3ff);
    return 0xd800 | (code - 0x10000) >> 10;
}

/* As JavaScript sorts: by units of UTF-16. */
static int compare_names(znl_frame a, znl_frame b)
{
    const uint8_t *x = a.data, *x_end = x + a.size, *y = b.data, *y_end = y + b.size;
    uint32_t x_pending = 0, y_pending = 0;
    while ((x < x_end || x_pending != 0) && (y < y_end || y_pending != 0)) {
        uint32_t left = next_unit(&x, x_end, &x_pending);
        uint32_t right = next_unit(&y, y_end, &y_pending);
        if (left != right)
            return left < right ? -1 : 1;
    }
    int has_left = x < x_end || x_pending != 0, has_right = y < y_end || y_pending != 0;
    return has_left - has_right;
}

/* By name; of equal ones the later first. */
static int compare_members(const void *left, const void *right)
{
    const struct member *a = left, *b = right;
    int order = compare_names(a->name, b->name);
    return order != 0 ? order : a->start > b->start ? -1 : 1;
}

/* --- values ----------------------------------------------------------------------------------- */

/* Puts the `count` members from members.data + base on in order, once each; they are the end of `out`. */
static int put_in_order(struct maker *m, size_t base, size_t count)
{
    struct member *list = (struct member *)(void *)(m->members.data + base);
    size_t start = list[0].start;
    int is_ordered = 1;
    for (size_t i = 1; i < count && is_ordered; i++)
        is_ordered = compare_names(list[i - 1].name, list[i].name) < 0;
    if (is_ordered)
        return 0;
    qsort(list, count, sizeof *list, compare_members);
    m->ordered.size = 0;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && compare_names(list[i - 1].name, list[i].name) == 0)
            continue;
        int err = i > 0 ? znl_buffer_append(&m->ordered, ",", 1) : 0;
        if (err == 0)
            err = znl_buffer_append(&m->ordered, m->out->data + list[i].start, list[i].size);
        if (err != 0)
            return err;
    }
    memcpy(m->out->data + start, m->ordered.data, m->ordered.size);
    m->out->size = start + m->ordered.size;
    return 0;
}

static int write_object(struct maker *m)
{
    znl_frame name;
    int is_plain, more, count = 0;
    size_t base = m->members.size;
    int err = put_text(m, "object:{");
    while (err == 0 && (more = znl_json_next(&m->reader, &name, &is_plain)) != 0) {
        if (more < 0)
            return more;
        if (count++ > 0)
            err = put_text(m, ",");
        struct member member = {.name = name, .start = m->out->size};
        if (err == 0)
            err = znl_json_put_quoted(m->out, name);
        if (err == 0)
            err = put_text(m, ":");
        if (err == 0)
            err = write_value(m);
        member.size = m->out->size - member.start;
        if (err == 0)
            err = znl_buffer_append(&m->members, &member, sizeof member);
    }
    if (err == 0 && count > 1)
        err = put_in_order(m, base, (size_t)count);
    m->members.size = base;
    return err != 0 ? err : put_text(m, "}");
}

static int write_array(struct maker *m)
{
    int more, count = 0;
    int err = put_text(m, "array:[");
    while (err == 0 && (more = znl_json_next(&m->reader, NULL, NULL)) != 0) {
        if (more < 0)
            return more;
        if (count++ > 0)
            err = put_text(m, ",");
        if (err == 0)
            err = write_value(m);
    }
    return err != 0 ? err : put_text(m, "]");
}

static int write_number(struct maker *m)
{
    double value;
    int is_integer;
    int64_t integer;
    int err = znl_json_number(&m->reader, &value, &is_integer, &integer);
    if (err == 0)
        err = put_text(m, "number:");
    if (err != 0)
        return err;
    if (is_integer == 2)
        return znl_json_put_unsigned(m->out, (uint64_t)integer);
    if (is_integer && (integer > EXACT_MAX || integer < -EXACT_MAX))
        return znl_json_put_integer(m->out, integer);
    if (isinf(value))
        return put_text(m, value > 0 ? "Infinity" : "-Infinity");
    return znl_json_put_number(m->out, value);
}

static int write_value(struct maker *m)
{
    znl_frame text;
    int is_plain, err;
    int kind = znl_json_peek(&m->reader);
    switch (kind) {
    case ZNL_JSON_STRING:
        err = znl_json_quoted(&m->reader, &text, &is_plain);
        if (err == 0)
            err = put_text(m, "string:");
        return err != 0 ? err : znl_json_put_quoted(m->out, text);
    case ZNL_JSON_NUMBER:
        return write_number(m);
    case ZNL_JSON_NULL:
    case ZNL_JSON_FALSE:
    case ZNL_JSON_TRUE:
        err = znl_json_literal(&m->reader);
        if (err != 0)
            return err;
        return put_text(m,
                kind == ZNL_JSON_NULL           ? "null"
                        : kind == ZNL_JSON_TRUE ? "boolean:true"
                                                : "boolean:false");
    case ZNL_JSON_ARRAY:
        err = znl_json_enter(&m->reader);
        return err != 0 ? err : write_array(m);
    case ZNL_JSON_OBJECT:
        err = znl_json_enter(&m->reader);
        return err != 0 ? err : write_object(m);
    default:
        return kind;
    }
}

int znl_json_signature(znl_frame text, unsigned max_depth, znl_buffer *out)
{
    struct maker m = {.out = out};
    size_t before = out->size;
    if (text.data == NULL)
        return put_text(&m, "undefined");
    znl_json_begin(&m.reader, text, max_depth);
    int err = write_value(&m);
    if (err == 0)
        err = znl_json_end(&m.reader);
    if (err != 0)
        out->size = before;
    znl_buffer_fini(&m.members);
    znl_buffer_fini(&m.ordered);
    return err;
}
