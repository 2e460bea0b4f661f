/* json_canonical.c - see json_canonical.h. SPDX-License-Identifier: MIT
 *
 * Read in one pass, written as it comes. Objects whose members are then in another order, or are too many, are
 * noted; a second pass puts the pieces together, each byte once however deep it lies. Usually there is none. */
#include "codec/json_canonical.h"

#include "base/err.h"
#include "codec/json.h"

#include <math.h>
#include <stdlib.h>

#define INDEX_MAX UINT32_C(4294967294) /* of a JavaScript array */
#define NO_INDEX UINT64_MAX

struct member {
    size_t start, size;  /* in what was written, name included, without a comma */
    size_t name_size;    /* with its quotes */
    size_t place;        /* of its name's first appearance */
    uint64_t index;      /* that the name is, or NO_INDEX */
    const uint8_t *name; /* while sorting */
};

/* An object to be put in order: its members are written between its brace, at `start`, and `end`. */
struct change {
    size_t start, end;
    size_t first, count; /* in `moved` */
};

struct maker {
    znl_json_reader reader;
    znl_buffer *out;
    znl_buffer members; /* of struct member: of all objects that are open, the innermost last */
    znl_buffer moved;   /* of struct member, in order */
    znl_buffer changes; /* of struct change */
    znl_buffer ordered;
};

static int write_value(struct maker *m);

static inline int put_byte(struct maker *m, char c)
{
    return znl_buffer_append(m->out, &c, 1);
}

/* --- members --------------------------------------------------------------------------------------- */

/* The array index that the name, in quotes, is. */
static uint64_t index_of(const uint8_t *name, size_t size)
{
    uint64_t index = 0;
    if (size < 3 || size > 12 || (name[1] == '0' && size > 3))
        return NO_INDEX;
    for (size_t i = 1; i < size - 1; i++) {
        if ((uint8_t)(name[i] - '0') > 9)
            return NO_INDEX;
        index = index * 10 + (uint64_t)(name[i] - '0');
    }
    return index <= INDEX_MAX ? index : NO_INDEX;
}

static int compare_names(const struct member *a, const struct member *b)
{
    if (a->name_size != b->name_size)
        return a->name_size < b->name_size ? -1 : 1;
    return memcmp(a->name, b->name, a->name_size);
}

/* Equal names together, as they came. */
static int by_name(const void *left, const void *right)
{
    const struct member *a = left, *b = right;
    int order = compare_names(a, b);
    return order != 0 ? order : a->start < b->start ? -1 : 1;
}

/* Array indexes, then the others by their first appearance. */
static int by_place(const void *left, const void *right)
{
    const struct member *a = left, *b = right;
    if (a->index != b->index)
        return a->index < b->index ? -1 : 1;
    return a->place < b->place ? -1 : 1;
}

/* Of equal names only the last is left, in the place of the first. Returns how many there are then. */
static size_t drop_repeated(struct member *list, size_t count)
{
    size_t kept = 0;
    qsort(list, count, sizeof *list, by_name);
    for (size_t i = 0; i < count; i++) {
        if (kept > 0 && compare_names(&list[kept - 1], &list[i]) == 0) {
            list[i].place = list[kept - 1].place;
            kept--;
        }
        list[kept++] = list[i];
    }
    return kept;
}

/* Notes what is to change about the object of the `count` members from members.data + base on, which are the end
 * of `out`. */
static int end_object(struct maker *m, size_t base, size_t count)
{
    struct member *list = (struct member *)(void *)(m->members.data + base);
    struct change change = {.start = list[0].start - 1,
            .end = m->out->size,
            .first = m->moved.size / sizeof *list};
    for (size_t i = 0; i < count; i++) {
        list[i].name = m->out->data + list[i].start;
        list[i].place = list[i].start;
        list[i].index = index_of(list[i].name, list[i].name_size);
    }
    change.count = drop_repeated(list, count);
    qsort(list, change.count, sizeof *list, by_place);
    int is_ordered = change.count == count;
    for (size_t i = 1; i < count && is_ordered; i++)
        is_ordered = list[i - 1].start < list[i].start;
    if (is_ordered)
        return 0;
    int err = znl_buffer_append(&m->moved, list, change.count * sizeof *list);
    return err != 0 ? err : znl_buffer_append(&m->changes, &change, sizeof change);
}

/* --- the second pass ------------------------------------------------------------------------------- */

static int by_start(const void *left, const void *right)
{
    const struct change *a = left, *b = right;
    return a->start < b->start ? -1 : a->start > b->start;
}

/* The first change at or after `start`. */
static size_t find_change(const struct maker *m, size_t start)
{
    const struct change *changes = (const struct change *)(const void *)m->changes.data;
    size_t low = 0, high = m->changes.size / sizeof *changes;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (changes[middle].start < start)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Copies what was written from `start` to `end`, with its changes. There is room. */
static void put_in_order(struct maker *m, size_t start, size_t end)
{
    const struct change *changes = (const struct change *)(const void *)m->changes.data;
    const struct member *moved = (const struct member *)(const void *)m->moved.data;
    size_t count = m->changes.size / sizeof *changes;
    for (size_t i = find_change(m, start); i < count && changes[i].start < end;
            i = find_change(m, start)) {
        const struct change *change = &changes[i];
        znl_buffer_append(&m->ordered, m->out->data + start, change->start + 1 - start);
        for (size_t k = 0; k < change->count; k++) {
            const struct member *member = &moved[change->first + k];
            if (k > 0)
                znl_buffer_append(&m->ordered, ",", 1);
            put_in_order(m, member->start, member->start + member->size);
        }
        start = change->end;
    }
    znl_buffer_append(&m->ordered, m->out->data + start, end - start);
}

static int make_changes(struct maker *m, size_t before)
{
    size_t count = m->changes.size / sizeof(struct change);
    if (count == 0)
        return 0;
    int err = znl_buffer_reserve(&m->ordered, m->out->size - before);
    if (err != 0)
        return err;
    qsort(m->changes.data, count, sizeof(struct change), by_start);
    put_in_order(m, before, m->out->size);
    memcpy(m->out->data + before, m->ordered.data, m->ordered.size);
    m->out->size = before + m->ordered.size;
    return 0;
}

/* --- values ---------------------------------------------------------------------------------------- */

static int write_object(struct maker *m)
{
    znl_frame name;
    int is_plain, more = 0;
    size_t base = m->members.size, count = 0;
    int err = put_byte(m, '{');
    while (err == 0 && (more = znl_json_next(&m->reader, &name, &is_plain)) > 0) {
        if (count++ > 0)
            err = put_byte(m, ',');
        struct member member = {.start = m->out->size};
        if (err == 0)
            err = znl_json_put_quoted(m->out, name);
        member.name_size = m->out->size - member.start;
        if (err == 0)
            err = put_byte(m, ':');
        if (err == 0)
            err = write_value(m);
        member.size = m->out->size - member.start;
        if (err == 0)
            err = znl_buffer_append(&m->members, &member, sizeof member);
    }
    if (err == 0)
        err = more;
    if (err == 0 && count > 1)
        err = end_object(m, base, count);
    m->members.size = base;
    return err != 0 ? err : put_byte(m, '}');
}

static int write_array(struct maker *m)
{
    int more = 0, count = 0;
    int err = put_byte(m, '[');
    while (err == 0 && (more = znl_json_next(&m->reader, NULL, NULL)) > 0) {
        if (count != 0)
            err = put_byte(m, ',');
        count = 1;
        if (err == 0)
            err = write_value(m);
    }
    if (err == 0)
        err = more;
    return err != 0 ? err : put_byte(m, ']');
}

static int write_number(struct maker *m)
{
    double value;
    int is_integer;
    int64_t integer;
    int err = znl_json_number(&m->reader, &value, &is_integer, &integer);
    if (err != 0)
        return err;
    return isinf(value) ? znl_buffer_append(m->out, "null", 4)
                        : znl_json_put_number(m->out, value);
}

static int write_value(struct maker *m)
{
    znl_frame text;
    int is_plain, err;
    int kind = znl_json_peek(&m->reader);
    switch (kind) {
    case ZNL_JSON_STRING:
        err = znl_json_quoted(&m->reader, &text, &is_plain);
        return err != 0 ? err : znl_json_put_quoted(m->out, text);
    case ZNL_JSON_NUMBER:
        return write_number(m);
    case ZNL_JSON_NULL:
    case ZNL_JSON_FALSE:
    case ZNL_JSON_TRUE:
        err = znl_json_skip(&m->reader, &text);
        return err != 0 ? err : znl_buffer_append(m->out, text.data, text.size);
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

int znl_json_canonical(znl_frame text, unsigned max_depth, znl_buffer *out)
{
    struct maker m;
    size_t before = out->size;
    m.out = out;
    m.members = m.moved = m.changes = m.ordered = (znl_buffer){0};
    znl_json_begin(&m.reader, text, max_depth);
    int err = write_value(&m);
    if (err == 0)
        err = znl_json_end(&m.reader);
    if (err == 0)
        err = make_changes(&m, before);
    if (err != 0)
        out->size = before;
    znl_buffer_fini(&m.members);
    znl_buffer_fini(&m.moved);
    znl_buffer_fini(&m.changes);
    znl_buffer_fini(&m.ordered);
    return err;
}
