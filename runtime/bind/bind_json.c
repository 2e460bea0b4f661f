/* bind_json.c - znl.core.json: Lua values from JSON text and back.
 *
 *     decode(text) -> value | nil, message, code       null is json.null, also at the top
 *     encode(value) -> text | nil, message, code       nil is null
 *     array(table?) -> table     marked as an array, so that it is written as one when it is empty
 *     is_array(value) -> boolean
 *     raw(text) -> value | nil, message, code          stands for this text wherever it is written
 *     null
 *     signature(text?) -> text | nil, message, code    by which topics judge payloads equal; nil is absent
 *
 * SPDX-License-Identifier: MIT */
#include "bind/bind_json.h"

#include "base/err.h"
#include "base/limits.h"
#include "codec/json_signature.h"
#include "codec/text.h"

#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdio.h>

#define RAW_TYPE "znl.core.json.raw"
#define SCRATCH_TYPE "znl.core.json.scratch"
#define SCRATCH_KEEP_BYTES (1024u * 1024)

/* What lua_type() says of values of the FFI; lua.h has no name for it. */
#define TYPE_CDATA 10

/* Keys in the registry. */
static char array_key; /* the metatable of arrays */
static char raw_key;   /* the metatable of json.raw() */
static char long_key;  /* { int64_t, uint64_t, ffi.istype } */

#define EXACT_MAX (INT64_C(1) << 53) /* doubles hold every whole number up to here */

/* In the table of long_key, and what znl_lua_tolong() returns. */
enum { LONG_SIGNED = 1, LONG_UNSIGNED, LONG_ISTYPE };

static void push_kept(lua_State *L, const char *key)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)key);
    lua_rawget(L, LUA_REGISTRYINDEX);
}

static int raw_tostring(lua_State *L)
{
    const char *text = luaL_checkudata(L, 1, RAW_TYPE);
    lua_pushlstring(L, text, lua_objlen(L, 1));
    return 1;
}

void znl_lua_preparejson(lua_State *L)
{
    static const luaL_Reg none[] = {{NULL, NULL}};
    lua_pushlightuserdata(L, &array_key);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "znl.json.array");
    lua_setfield(L, -2, "__name");
    lua_rawset(L, LUA_REGISTRYINDEX);

    znl_lua_newtype(L, RAW_TYPE, none, NULL);
    lua_pushlightuserdata(L, &raw_key);
    luaL_getmetatable(L, RAW_TYPE);
    lua_pushcfunction(L, raw_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_rawset(L, LUA_REGISTRYINDEX);

    lua_pushlightuserdata(L, &long_key);
    lua_createtable(L, LONG_ISTYPE, 0);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "ffi");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "istype");
    lua_rawseti(L, -3, LONG_ISTYPE);
    lua_getfield(L, -1, "typeof");
    lua_pushvalue(L, -1);
    lua_pushliteral(L, "int64_t");
    lua_call(L, 1, 1);
    lua_rawseti(L, -4, LONG_SIGNED);
    lua_pushliteral(L, "uint64_t");
    lua_call(L, 1, 1);
    lua_rawseti(L, -3, LONG_UNSIGNED);
    lua_pop(L, 1);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

/* --- arrays and long numbers ------------------------------------------------------------------ */

int znl_lua_isjsonarray(lua_State *L, int index)
{
    if (!lua_getmetatable(L, index))
        return 0;
    push_kept(L, &array_key);
    int is_array = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return is_array;
}

void znl_lua_markjsonarray(lua_State *L)
{
    push_kept(L, &array_key);
    lua_setmetatable(L, -2);
}

/* Whether the number of the FFI at `index` is of that kind. */
static int is_long(lua_State *L, int index, int kinds, int kind)
{
    lua_rawgeti(L, kinds, LONG_ISTYPE);
    lua_rawgeti(L, kinds, kind);
    lua_pushvalue(L, index);
    int is_it = lua_pcall(L, 2, 1, 0) == 0 && lua_toboolean(L, -1);
    lua_pop(L, 1);
    return is_it;
}

int znl_lua_tolong(lua_State *L, int index, uint64_t *bits)
{
    int kind = 0;
    if (lua_type(L, index) != TYPE_CDATA)
        return 0;
    push_kept(L, &long_key);
    int kinds = lua_gettop(L);
    if (lua_istable(L, kinds))
        kind = is_long(L, index, kinds, LONG_SIGNED)      ? LONG_SIGNED
                : is_long(L, index, kinds, LONG_UNSIGNED) ? LONG_UNSIGNED
                                                          : 0;
    lua_settop(L, kinds - 1);
    if (kind != 0)
        memcpy(bits, lua_topointer(L, index), sizeof *bits);
    return kind;
}

void znl_lua_pushlong(lua_State *L, int kind, uint64_t bits)
{
    push_kept(L, &long_key);
    lua_rawgeti(L, -1, kind);
    lua_remove(L, -2);
    lua_call(L, 0, 1);
    memcpy((void *)(uintptr_t)lua_topointer(L, -1), &bits, sizeof bits);
}

/* --- reading ---------------------------------------------------------------------------------- */

/* Elements of an array that wait on the stack until their number is known: then the table is made with
 * that size at once. Not in deep arrays: the stack holds 8,000 values. */
#define BATCH 64
#define BATCH_DEPTH 8u

/* Objects whose first names are equal usually have as many members: the number of the last one is the
 * size that the next is made with. A wrong guess costs time or room, no more. */
#define SIZES 64u
#define SIZE_MAX_GUESS 32u
static _Thread_local uint8_t sizes[SIZES];

/* Strings with escapes up to here are undone on the C stack. */
#define ESCAPED_BYTES 512u

static int push_value(lua_State *L, znl_json_reader *reader);

static void push_text(lua_State *L, znl_frame text)
{
    lua_pushlstring(L, (const char *)text.data, text.size);
}

/* Pushes a string with escapes. Not inlined: its buffer must not lie on the stack at every depth. */
__attribute__((noinline)) static void push_escaped(lua_State *L, znl_frame quoted)
{
    uint8_t small[ESCAPED_BYTES];
    znl_frame text;
    if (quoted.size <= sizeof small) {
        znl_buffer scratch = {.data = small, .capacity = sizeof small};
        znl_json_unescape(
                quoted, &text, &scratch); /* has the room it needs: no error, no memory */
        push_text(L, text);
        return;
    }
    znl_buffer scratch = {.data = lua_newuserdata(L, quoted.size), .capacity = quoted.size};
    znl_json_unescape(quoted, &text, &scratch);
    push_text(L, text);
    lua_remove(L, -2);
}

static int push_number(lua_State *L, znl_json_reader *reader)
{
    double value;
    int is_integer;
    int64_t integer;
    int err = znl_json_number(reader, &value, &is_integer, &integer);
    if (err != 0)
        return err;
    if (is_integer == 2)
        znl_lua_pushlong(L, LONG_UNSIGNED, (uint64_t)integer);
    else if (is_integer && (integer > EXACT_MAX || integer < -EXACT_MAX))
        znl_lua_pushlong(L, LONG_SIGNED, (uint64_t)integer);
    else
        lua_pushnumber(L, value);
    return 0;
}

/* Makes an array of the `count` values on top of the stack, in their place. */
static void collect_array(lua_State *L, int count)
{
    lua_createtable(L, count, 0);
    if (count > 0) {
        int table = lua_gettop(L) - count;
        lua_insert(L, table);
        for (int i = count; i > 0; i--)
            lua_rawseti(L, table, i);
    }
    znl_lua_markjsonarray(L);
}

static uint8_t *size_of(znl_frame first_name)
{
    uint32_t hash = (uint32_t)first_name.size;
    if (first_name.size > 0)
        hash += 31u * first_name.data[0] + 7u * first_name.data[first_name.size - 1];
    return &sizes[hash % SIZES];
}

static int push_object(lua_State *L, znl_json_reader *reader)
{
    znl_frame name;
    int is_plain, more = znl_json_next(reader, &name, &is_plain);
    if (more <= 0) {
        lua_newtable(L);
        return more;
    }
    if (!lua_checkstack(L, 8))
        return ZNL_E_LIMIT;
    uint8_t *size = size_of(name);
    unsigned count = 0;
    lua_createtable(L, 0, *size);
    do {
        if (is_plain)
            push_text(L, name);
        else
            push_escaped(L, name);
        int err = push_value(L, reader);
        if (err != 0)
            return err;
        lua_rawset(L, -3);
        count++;
        more = znl_json_next(reader, &name, &is_plain);
    } while (more > 0);
    *size = (uint8_t)(count < SIZE_MAX_GUESS ? count : SIZE_MAX_GUESS);
    return more;
}

static int push_array(lua_State *L, znl_json_reader *reader)
{
    int more, count = 0, batch = reader->depth <= BATCH_DEPTH ? BATCH : 0;
    int is_table = batch == 0;
    if (!lua_checkstack(L, batch + 8))
        return ZNL_E_LIMIT;
    if (is_table)
        collect_array(L, 0);
    while ((more = znl_json_next(reader, NULL, NULL)) > 0) {
        if (!is_table && count == batch) {
            collect_array(L, count);
            is_table = 1;
        }
        int err = push_value(L, reader);
        if (err != 0)
            return err;
        count++;
        if (is_table)
            lua_rawseti(L, -2, count);
    }
    if (!is_table && more == 0)
        collect_array(L, count);
    return more;
}

/* Pushes one value; leaves any number of values when it fails. */
static int push_value(lua_State *L, znl_json_reader *reader)
{
    znl_frame text;
    int is_plain, err;
    int kind = znl_json_peek(reader);
    switch (kind) {
    case ZNL_JSON_STRING:
        err = znl_json_quoted(reader, &text, &is_plain);
        if (err != 0)
            return err;
        if (is_plain)
            push_text(L, text);
        else
            push_escaped(L, text);
        return 0;
    case ZNL_JSON_NUMBER:
        return push_number(L, reader);
    case ZNL_JSON_NULL:
    case ZNL_JSON_FALSE:
    case ZNL_JSON_TRUE:
        err = znl_json_literal(reader);
        if (err != 0)
            return err;
        if (kind == ZNL_JSON_NULL)
            lua_pushlightuserdata(L, NULL);
        else
            lua_pushboolean(L, kind == ZNL_JSON_TRUE);
        return 0;
    case ZNL_JSON_ARRAY:
        err = znl_json_enter(reader);
        return err != 0 ? err : push_array(L, reader);
    case ZNL_JSON_OBJECT:
        err = znl_json_enter(reader);
        return err != 0 ? err : push_object(L, reader);
    default:
        return kind;
    }
}

int znl_lua_pushjsonvalue(lua_State *L, znl_json_reader *reader)
{
    int top = lua_gettop(L);
    if (!lua_checkstack(L, 8))
        return ZNL_E_LIMIT;
    int err = push_value(L, reader);
    if (err != 0)
        lua_settop(L, top);
    return err;
}

/* Of a whole text: nothing may follow the value. */
static int push_all(lua_State *L, znl_json_reader *reader)
{
    int err = znl_lua_pushjsonvalue(L, reader);
    if (err != 0)
        return err;
    err = znl_json_end(reader);
    if (err != 0)
        lua_pop(L, 1);
    return err;
}

int znl_lua_pushjson(lua_State *L, znl_frame text)
{
    znl_json_reader reader;
    znl_json_begin(&reader, text, ZNL_JSON_DEPTH_MAX);
    return push_all(L, &reader);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* Bytes of the problem, and of where it is. */
#define PROBLEM_BYTES 96u
#define PATH_BYTES 128u
#define NAME_BYTES_MAX 64u /* of one key in a path */

struct writer {
    lua_State *L;
    znl_buffer *out;
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
    case LONG_SIGNED:
        return znl_json_put_integer(w->out, (int64_t)bits);
    case LONG_UNSIGNED:
        return znl_json_put_unsigned(w->out, bits);
    default:
        return refuse_type(w, index, "");
    }
}

/* The text inside json.raw(), which was checked when it was made. */
static int write_raw(struct writer *w, int index)
{
    lua_State *L = w->L;
    if (!lua_getmetatable(L, index))
        return refuse_type(w, index, "");
    push_kept(L, &raw_key);
    int is_raw = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    if (!is_raw)
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

/* The table at `index` as an object; its first pair is on top of the stack. */
static int write_object(struct writer *w, int index, unsigned depth)
{
    lua_State *L = w->L;
    char before = '{';
    int value = lua_gettop(L);
    do {
        int err = put_byte(w, before);
        if (err == 0)
            err = write_name(w, value - 1);
        if (err != 0)
            return err;
        err = write_value(w, value, depth + 1);
        if (err != 0) {
            lead_key(w, value - 1);
            return err;
        }
        before = ',';
        lua_settop(L, value - 1);
    } while (lua_next(L, index) != 0);
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
        if (!(key >= 1) || key > (double)EXACT_MAX || key != (double)(int64_t)key) {
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
    case TYPE_CDATA:
        return write_cdata(w, index);
    default:
        return refuse_type(w, index, "");
    }
}

int znl_lua_writejson(lua_State *L, int index, znl_buffer *out, char *problem, size_t size)
{
    struct writer w;
    size_t start = out->size;
    int top = lua_gettop(L);
    w.L = L;
    w.out = out;
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

/* --- the module ------------------------------------------------------------------------------- */

static int scratch_collect(lua_State *L)
{
    znl_buffer_fini(luaL_checkudata(L, 1, SCRATCH_TYPE));
    return 0;
}

static znl_frame check_text(lua_State *L)
{
    size_t size;
    luaL_checktype(L, 1, LUA_TSTRING);
    const char *text = lua_tolstring(L, 1, &size);
    return znl_frame_of(text, size);
}

/* nil, "json: malformed at byte 17", code. */
static int fail_reading(lua_State *L, int err, const znl_json_reader *reader, znl_frame text)
{
    size_t at = (size_t)(reader->at - text.data);
    lua_pushnil(L);
    if (err == ZNL_E_LIMIT)
        lua_pushfstring(L, "json: nested too deeply at byte %d", (int)at + 1);
    else if (at >= text.size)
        lua_pushliteral(L, "json: ends too early");
    else
        lua_pushfstring(L, "json: malformed at byte %d", (int)at + 1);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

static int json_decode(lua_State *L)
{
    znl_frame text = check_text(L);
    znl_json_reader reader;
    znl_json_begin(&reader, text, ZNL_JSON_DEPTH_DEFAULT);
    int err = push_all(L, &reader);
    return err == 0 ? 1 : fail_reading(L, err, &reader, text);
}

static int json_encode(lua_State *L)
{
    znl_buffer *scratch = lua_touserdata(L, lua_upvalueindex(1));
    char problem[256];
    luaL_checkany(L, 1);
    scratch->size = 0;
    int err = znl_lua_writejson(L, 1, scratch, problem, sizeof problem);
    if (err == 0) {
        lua_pushlstring(L, (const char *)scratch->data, scratch->size);
        znl_buffer_trim(scratch, SCRATCH_KEEP_BYTES);
        return 1;
    }
    znl_buffer_trim(scratch, SCRATCH_KEEP_BYTES);
    if (err != ZNL_E_INVALID)
        return znl_lua_fail(L, err, "json.encode");
    lua_pushnil(L);
    lua_pushstring(L, problem);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

static int json_array(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    if (lua_getmetatable(L, 1)) {
        luaL_argcheck(L, znl_lua_isjsonarray(L, 1), 1, "the table has a metatable already");
        lua_pop(L, 1);
    }
    znl_lua_markjsonarray(L);
    return 1;
}

static int json_is_array(lua_State *L)
{
    lua_pushboolean(L, lua_istable(L, 1) && znl_lua_isjsonarray(L, 1));
    return 1;
}

static int json_raw(lua_State *L)
{
    znl_frame text = check_text(L), value;
    znl_json_reader reader;
    znl_json_begin(&reader, text, ZNL_JSON_DEPTH_DEFAULT);
    int err = znl_json_skip(&reader, &value);
    if (err == 0)
        err = znl_json_end(&reader);
    if (err != 0)
        return fail_reading(L, err, &reader, text);
    memcpy(lua_newuserdata(L, value.size), value.data, value.size);
    push_kept(L, &raw_key);
    lua_setmetatable(L, -2);
    return 1;
}

static int json_signature(lua_State *L)
{
    znl_buffer *scratch = lua_touserdata(L, lua_upvalueindex(1));
    znl_frame text = {0};
    if (!lua_isnoneornil(L, 1))
        text = check_text(L);
    scratch->size = 0;
    int err = znl_json_signature(text, ZNL_JSON_DEPTH_DEFAULT, scratch);
    if (err == 0)
        lua_pushlstring(L, (const char *)scratch->data, scratch->size);
    znl_buffer_trim(scratch, SCRATCH_KEEP_BYTES);
    return err == 0 ? 1 : znl_lua_fail(L, err, "json.signature");
}

int luaopen_znl_core_json(lua_State *L)
{
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg functions[] = {
            {"decode", json_decode},
            {"array", json_array},
            {"is_array", json_is_array},
            {"raw", json_raw},
            {NULL, NULL},
    };
    znl_lua_newtype(L, SCRATCH_TYPE, none, scratch_collect);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    znl_buffer *scratch = lua_newuserdata(L, sizeof *scratch);
    *scratch = (znl_buffer){0};
    luaL_getmetatable(L, SCRATCH_TYPE);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, json_encode, 1);
    lua_setfield(L, -3, "encode");
    lua_pushcclosure(L, json_signature, 1);
    lua_setfield(L, -2, "signature");
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    return 1;
}
