/* bind_json_write.c - values of Lua become JSON text, or a message that says what cannot, and where.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/bind_json.h"

#include "base/err.h"
#include "base/limits.h"
#include "codec/json_canonical.h"
#include "codec/text.h"

#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the problem, and of where it is. */
#define PROBLEM_BYTES 96u
#define PATH_BYTES 128u
#define NAME_BYTES_MAX 64u /* of one key in a path */

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
    char problem[PROBLEM_BYTES];
    char path[PATH_BYTES]; /* filled from its end, as the calls return */
    size_t path_at;
    int is_cut;
};

static int write_value(struct writer *w, int index, unsigned depth);

static int refuse(struct writer *w, const char *problem)
{
    snprintf(w->problem, sizeof w->problem, "%s", problem);
    return ZNL_E_INVALID;
}

static int refuse_type(struct writer *w, int index, const char *suffix)
{
    snprintf(w->problem, sizeof w->problem, "a %s%s", luaL_typename(w->L, index), suffix);
    return ZNL_E_INVALID;
}

static int refuse_number(struct writer *w, double number, const char *suffix)
{
    const char *name = isnan(number) ? "nan" : number > 0 ? "inf" : "-inf";
    snprintf(w->problem, sizeof w->problem, "the number %s%s", name, suffix);
    return ZNL_E_INVALID;
}

/* Puts a step in front of the path; those that find no room are left out. */
static void lead_path(struct writer *w, const char *step, size_t size)
{
    if (size > w->path_at)
        w->is_cut = 1;
    if (w->is_cut)
        return;
    w->path_at -= size;
    memcpy(w->path + w->path_at, step, size);
}

static void lead_index(struct writer *w, int index)
{
    char step[24];
    int size = snprintf(step, sizeof step, "[%d]", index);
    lead_path(w, step, (size_t)size);
}

/* A step for the key at `index`, a string or a number. */
static void lead_key(struct writer *w, int index)
{
    char step[NAME_BYTES_MAX + 1];
    if (lua_type(w->L, index) == LUA_TNUMBER) {
        int size = snprintf(step, sizeof step, ".%.14g", lua_tonumber(w->L, index));
        lead_path(w, step, (size_t)size);
        return;
    }
    size_t size;
    const char *name = lua_tolstring(w->L, index, &size);
    if (size > NAME_BYTES_MAX || !znl_utf8_valid((const uint8_t *)name, size)) {
        name = "?";
        size = 1;
    }
    step[0] = '.';
    memcpy(step + 1, name, size);
    lead_path(w, step, size + 1);
}

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
    snprintf(w->problem, sizeof w->problem, "a string that is not UTF-8%s", suffix);
    return ZNL_E_INVALID;
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
        return refuse_type(w, index, "");
    }
}

/* The text inside json.raw(), which was checked when it was made. */
static int write_raw(struct writer *w, int index)
{
    lua_State *L = w->L;
    if (!znl_lua_isjsonraw(L, index))
        return refuse_type(w, index, "");
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
            refuse_number(w, lua_tonumber(w->L, index), " as a key");
        if (err == 0)
            err = put_byte(w, '"');
        break;
    default:
        err = refuse_type(w, index, " as a key");
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
            return refuse(w, "a number and a string as the same key");
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
            lead_key(w, value - 1);
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
            lead_index(w, i);
            return err;
        }
        lua_settop(L, top);
    }
    return put_byte(w, ']');
}

/* Whether the keys of the table at `index` after the one at `key`, which is `i`, are i + 1, i + 2 … */
static int goes_on_in_order(lua_State *L, int index, int key, int i)
{
    int is_in_order = 1;
    lua_pushvalue(L, key);
    while (is_in_order && lua_next(L, index) != 0) {
        is_in_order = lua_type(L, -2) == LUA_TNUMBER && lua_tonumber(L, -2) == ++i;
        lua_pop(L, 1);
    }
    if (!is_in_order)
        lua_pop(L, 1);
    return is_in_order;
}

/* Tries the table at `index`, whose first pair is on top of the stack, as an array in one go. 1: written;
 * 0: its keys are not 1, 2, 3 … one after the other: nothing is written, the stack as it was. */
static int write_in_order(struct writer *w, int index, unsigned depth)
{
    lua_State *L = w->L;
    size_t start = w->out->size;
    int key = lua_gettop(L) - 1, is_sure = 0;
    for (int i = 1;; i++) {
        if (lua_type(L, key) != LUA_TNUMBER || lua_tonumber(L, key) != i)
            break;
        /* Tables inside tables must not be written twice at each depth. */
        if (!is_sure && lua_istable(L, key + 1)) {
            is_sure = goes_on_in_order(L, index, key, i);
            if (!is_sure)
                break;
        }
        int err = put_byte(w, i == 1 ? '[' : ',');
        if (err != 0)
            return err;
        err = write_value(w, key + 1, depth + 1);
        if (err != 0) {
            lead_index(w, i);
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

/* Whether all keys of the table at `index` are whole numbers from 1: then the largest, else 0. *count:
 * how many there are. */
static double largest_index(lua_State *L, int index, double *count)
{
    double largest = 0;
    *count = 0;
    for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) {
        double key = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
        if (!(key >= 1) || key > (double)ZNL_LUA_EXACT_MAX || key != (double)(int64_t)key) {
            lua_pop(L, 2);
            return 0;
        }
        *count += 1;
        if (key > largest)
            largest = key;
    }
    return largest;
}

/* Arrays may have holes, as in { 1, nil, 3 }, but not be mostly holes. */
static int is_dense(double count, double largest)
{
    return largest <= 10 || (largest <= 2 * count && largest <= INT32_MAX);
}

static int write_table(struct writer *w, int index, unsigned depth)
{
    lua_State *L = w->L;
    if (depth > ZNL_JSON_DEPTH_DEFAULT) {
        snprintf(w->problem, sizeof w->problem, "more than %u tables inside each other",
                ZNL_JSON_DEPTH_DEFAULT);
        return ZNL_E_INVALID;
    }
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
    double count, largest = largest_index(L, index, &count);
    if (largest == 0)
        return is_array ? refuse(w, "a key that is no index in an array")
                        : write_object(w, index, depth);
    if (!is_dense(count, largest))
        return refuse(w, "an array with more holes than values");
    return write_items(w, index, (int)largest, depth);
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
        return err == ZNL_E_INVALID ? refuse_number(w, lua_tonumber(L, index), "") : err;
    }
    case LUA_TBOOLEAN:
        return lua_toboolean(L, index) ? znl_buffer_append(w->out, "true", 4)
                                       : znl_buffer_append(w->out, "false", 5);
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, index) != NULL)
            return refuse_type(w, index, "");
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
        return refuse_type(w, index, "");
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
    w.path_at = sizeof w.path;
    w.is_cut = 0;
    if (index < 0 && index > LUA_REGISTRYINDEX)
        index = top + index + 1;
    int err = lua_checkstack(L, 12) ? write_value(&w, index, 1) : ZNL_E_NOMEM;
    lua_settop(L, top);
    if (err == 0)
        return 0;
    out->size = start;
    if (err == ZNL_E_INVALID) {
        const char *path = w.path + w.path_at;
        size_t length = sizeof w.path - w.path_at;
        const char *at = length == 0 ? "" : w.is_cut ? " at \xe2\x80\xa6" : " at ";
        if (!w.is_cut && length > 0 && *path == '.')
            path++, length--;
        snprintf(problem, size, "%s%s%.*s", w.problem, at, (int)length, path);
    }
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
