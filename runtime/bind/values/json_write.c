/* json_write.c - values of Lua become JSON text, or a message that says what cannot, and where.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/values/json.h"

#include "base/err.h"
#include "base/limits.h"
#include "bind/problem.h"
#include "bind/values/array.h"
#include "codec/json_canonical.h"

#include <lua.h>
#include <stdlib.h>
#include <string.h>

/* A member of an object, as it was written. */
struct member {
    size_t start, size;  /* in `out`, name included, without a comma */
    size_t name_size;    /* with its quotes */
    const uint8_t *text; /* while sorting */
};

/* What it takes to write objects in the order of their names. */
struct sorter {
    znl_buffer members; /* of struct member: of all objects that are open, the innermost last */
    znl_buffer ordered;
};

struct writer {
    lua_State *L;
    znl_buffer *out;
    struct sorter *sorter; /* NULL: as lua_next() finds them */
    znl_lua_problem problem;
};

static int write_value(struct writer *w, int index, unsigned depth);

static inline int put_byte(struct writer *w, char c)
{
    znl_buffer *out = w->out;
    if (out->size == out->capacity) {
        int err = znl_buffer_extend(out, 1);
        if (err != 0)
            return err;
    }
    out->data[out->size++] = (uint8_t)c;
    return 0;
}

/* The string at `index`. */
static int write_string(struct writer *w, int index, const char *suffix)
{
    size_t size;
    const char *text = lua_tolstring(w->L, index, &size);
    int err = znl_json_put_string(w->out, znl_frame_of(text, size));
    if (err != ZNL_E_PROTO)
        return err;
    return znl_lua_problem_refuse(&w->problem, "a string that is not UTF-8%s", suffix);
}

static int write_cdata(struct writer *w, int index)
{
    uint64_t bits;
    switch (znl_lua_tolong(w->L, index, &bits)) {
    case ZNL_LONG_SIGNED:
        return znl_json_put_integer(w->out, (int64_t)bits);
    case ZNL_LONG_UNSIGNED:
        return znl_json_put_unsigned(w->out, bits);
    default:
        return znl_lua_problem_refuse_type(&w->problem, w->L, index, "");
    }
}

/* The text inside json.raw(), which was checked when it was made. */
static int write_raw(struct writer *w, int index)
{
    lua_State *L = w->L;
    if (!znl_lua_isjsonraw(L, index))
        return znl_lua_problem_refuse_type(&w->problem, w->L, index, "");
    return znl_buffer_append(w->out, lua_touserdata(L, index), lua_objlen(L, index));
}

/* The key at `index` as a name, with the colon. */
static int write_name(struct writer *w, int index)
{
    int err;
    switch (lua_type(w->L, index)) {
    case LUA_TSTRING:
        err = write_string(w, index, " as a key");
        break;
    case LUA_TNUMBER:
        err = put_byte(w, '"');
        if (err == 0)
            err = znl_json_put_double(w->out, lua_tonumber(w->L, index));
        if (err == ZNL_E_INVALID)
            znl_lua_problem_refuse_number(&w->problem, lua_tonumber(w->L, index), " as a key");
        if (err == 0)
            err = put_byte(w, '"');
        break;
    default:
        err = znl_lua_problem_refuse_type(&w->problem, w->L, index, " as a key");
    }
    return err != 0 ? err : put_byte(w, ':');
}

/* By the bytes of the names. */
static int compare_members(const void *left, const void *right)
{
    const struct member *a = left, *b = right;
    size_t shorter = a->name_size < b->name_size ? a->name_size : b->name_size;
    int order = memcmp(a->text, b->text, shorter - 1); /* one ends there: not its quote */
    return order != 0 ? order : (a->name_size > b->name_size) - (a->name_size < b->name_size);
}

/* Notes the member that was written from `start` on, its name with the colon `name_size` bytes. */
static int note_member(struct writer *w, size_t start, size_t name_size)
{
    struct member member = {
            .start = start, .size = w->out->size - start, .name_size = name_size - 1};
    return znl_buffer_append(&w->sorter->members, &member, sizeof member);
}

/* Puts the members from members.data + base on in order; they are the end of `out`. */
static int sort_members(struct writer *w, size_t base)
{
    znl_buffer *ordered = &w->sorter->ordered;
    struct member *list = (struct member *)(void *)(w->sorter->members.data + base);
    size_t count = (w->sorter->members.size - base) / sizeof *list, start = list[0].start;
    int is_ordered = 1;
    for (size_t i = 0; i < count; i++)
        list[i].text = w->out->data + list[i].start;
    for (size_t i = 1; i < count && is_ordered; i++)
        is_ordered = compare_members(&list[i - 1], &list[i]) < 0;
    if (is_ordered)
        return 0;
    qsort(list, count, sizeof *list, compare_members);
    ordered->size = 0;
    int err = znl_buffer_reserve(ordered, w->out->size - start);
    for (size_t i = 0; i < count && err == 0; i++) {
        if (i > 0 && compare_members(&list[i - 1], &list[i]) == 0)
            return znl_lua_problem_refuse(&w->problem, "a number and a string as the same key");
        if (i > 0)
            err = znl_buffer_append(ordered, ",", 1);
        if (err == 0)
            err = znl_buffer_append(ordered, list[i].text, list[i].size);
    }
    if (err == 0)
        memcpy(w->out->data + start, ordered->data, ordered->size);
    return err;
}

/* The table at `index` as an object; its first pair is on top of the stack. */
static int write_object(struct writer *w, int index, unsigned depth)
{
    lua_State *L = w->L;
    char before = '{';
    int value = lua_gettop(L), err;
    size_t base = w->sorter != NULL ? w->sorter->members.size : 0;
    do {
        err = put_byte(w, before);
        size_t start = w->out->size;
        if (err == 0)
            err = write_name(w, value - 1);
        if (err != 0)
            return err;
        size_t name_size = w->out->size - start;
        err = write_value(w, value, depth + 1);
        if (err != 0) {
            znl_lua_problem_lead_field(&w->problem, L, value - 1);
            return err;
        }
        if (w->sorter != NULL && (err = note_member(w, start, name_size)) != 0)
            return err;
        before = ',';
        lua_settop(L, value - 1);
    } while (lua_next(L, index) != 0);
    if (w->sorter != NULL) {
        err = sort_members(w, base);
        w->sorter->members.size = base;
        if (err != 0)
            return err;
    }
    return put_byte(w, '}');
}

/* The values 1 .. count of the table at `index`; what is not there is null. */
static int write_items(struct writer *w, int index, int count, unsigned depth)
{
    lua_State *L = w->L;
    int top = lua_gettop(L);
    for (int i = 1; i <= count; i++) {
        int err = put_byte(w, i == 1 ? '[' : ',');
        if (err != 0)
            return err;
        lua_rawgeti(L, index, i);
        err = write_value(w, lua_gettop(L), depth + 1);
        if (err != 0) {
            znl_lua_problem_lead_item(&w->problem, i);
            return err;
        }
        lua_settop(L, top);
    }
    return put_byte(w, ']');
}

/* Tries the table at `index`, whose first pair is on top of the stack, as an array in one go. 1: written;
 * 0: its keys are not 1, 2, 3 … one after the other: nothing is written, the stack as it was. */
static int write_in_order(struct writer *w, int index, unsigned depth)
{
    lua_State *L = w->L;
    size_t start = w->out->size;
    int key = lua_gettop(L) - 1, is_sure = 0, last;
    for (int i = 1;; i++) {
        if (lua_type(L, key) != LUA_TNUMBER || lua_tonumber(L, key) != i)
            break;
        /* Tables inside tables must not be written twice at each depth. */
        if (!is_sure && lua_istable(L, key + 1)) {
            is_sure = znl_lua_isinorder(L, index, key, i, &last);
            if (!is_sure)
                break;
        }
        int err = put_byte(w, i == 1 ? '[' : ',');
        if (err != 0)
            return err;
        err = write_value(w, key + 1, depth + 1);
        if (err != 0) {
            znl_lua_problem_lead_item(&w->problem, i);
            return err;
        }
        lua_settop(L, key);
        if (lua_next(L, index) == 0) {
            err = put_byte(w, ']');
            return err != 0 ? err : 1;
        }
    }
    w->out->size = start;
    lua_settop(L, key - 1);
    lua_pushnil(L);
    lua_next(L, index);
    return 0;
}

static int write_table(struct writer *w, int index, unsigned depth)
{
    lua_State *L = w->L;
    if (depth > ZNL_JSON_DEPTH_DEFAULT)
        return znl_lua_problem_refuse(
                &w->problem, "more than %u tables inside each other", ZNL_JSON_DEPTH_DEFAULT);
    if (!lua_checkstack(L, 12))
        return ZNL_E_NOMEM;
    lua_pushnil(L);
    if (lua_next(L, index) == 0)
        return znl_buffer_append(w->out, znl_lua_isjsonarray(L, index) ? "[]" : "{}", 2);
    int is_array = znl_lua_isjsonarray(L, index);
    if (lua_type(L, -2) == LUA_TSTRING && !is_array)
        return write_object(w, index, depth);
    int written = write_in_order(w, index, depth);
    if (written != 0)
        return written == 1 ? 0 : written;
    int length = znl_lua_arraylength(L, index);
    if (length < 0)
        return znl_lua_problem_refuse(&w->problem, "an array with more holes than values");
    if (length > 0)
        return write_items(w, index, length, depth);
    return is_array ? znl_lua_problem_refuse(&w->problem, "a key that is no index in an array")
                    : write_object(w, index, depth);
}

/* The value at `index`, a place on the stack. Leaves any number of values on the stack. */
static int write_value(struct writer *w, int index, unsigned depth)
{
    lua_State *L = w->L;
    switch (lua_type(L, index)) {
    case LUA_TSTRING:
        return write_string(w, index, "");
    case LUA_TNUMBER: {
        int err = znl_json_put_double(w->out, lua_tonumber(L, index));
        return err == ZNL_E_INVALID
                ? znl_lua_problem_refuse_number(&w->problem, lua_tonumber(L, index), "")
                : err;
    }
    case LUA_TBOOLEAN:
        return lua_toboolean(L, index) ? znl_buffer_append(w->out, "true", 4)
                                       : znl_buffer_append(w->out, "false", 5);
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, index) != NULL)
            return znl_lua_problem_refuse_type(&w->problem, w->L, index, "");
        __attribute__((fallthrough));
    case LUA_TNIL:
        return znl_buffer_append(w->out, "null", 4);
    case LUA_TTABLE:
        return write_table(w, index, depth);
    case LUA_TUSERDATA:
        return write_raw(w, index);
    case ZNL_LUA_TCDATA:
        return write_cdata(w, index);
    default:
        return znl_lua_problem_refuse_type(&w->problem, w->L, index, "");
    }
}

static int write_whole(lua_State *L, int index, znl_buffer *out, struct sorter *sorter,
        char *problem, size_t size)
{
    struct writer w;
    size_t start = out->size;
    int top = lua_gettop(L);
    w.L = L;
    w.out = out;
    w.sorter = sorter;
    znl_lua_problem_init(&w.problem);
    if (index < 0 && index > LUA_REGISTRYINDEX)
        index = top + index + 1;
    int err = lua_checkstack(L, 12) ? write_value(&w, index, 1) : ZNL_E_NOMEM;
    lua_settop(L, top);
    if (err == 0)
        return 0;
    out->size = start;
    if (err == ZNL_E_INVALID)
        znl_lua_problem_print(&w.problem, problem, size);
    return err;
}

int znl_lua_writejson(lua_State *L, int index, znl_buffer *out, char *problem, size_t size)
{
    return write_whole(L, index, out, NULL, problem, size);
}

int znl_lua_writecanonical(lua_State *L, int index, znl_buffer *out, char *problem, size_t size)
{
    struct sorter sorter = {{0}, {0}};
    znl_buffer sorted = {0};
    int err = write_whole(L, index, &sorted, &sorter, problem, size);
    if (err == 0)
        err = znl_json_canonical(
                znl_frame_of(sorted.data, sorted.size), ZNL_JSON_DEPTH_MAX, out);
    znl_buffer_fini(&sorter.members);
    znl_buffer_fini(&sorter.ordered);
    znl_buffer_fini(&sorted);
    return err;
}
