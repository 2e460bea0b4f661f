/* transcode_write.c - values of Lua become texts of the default transcode, or a message that says what
 * cannot, and where.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/values/transcode.h"

#include "base/err.h"
#include "base/limits.h"
#include "bind/problem.h"
#include "bind/values/array.h"
#include "bind/values/json.h"
#include "codec/json.h"

#include <lua.h>

#define NUMBER_BYTES_MAX 40u /* of a number as a name */

struct writer {
    lua_State *L;
    znl_transcode_writer *out;
    znl_lua_problem problem;
};

static int write_value(struct writer *w, int index, unsigned depth);

static int write_string(struct writer *w, int index, const char *suffix)
{
    size_t size;
    const char *text = lua_tolstring(w->L, index, &size);
    int err = znl_transcode_put_string(w->out, znl_frame_of(text, size));
    if (err == ZNL_E_PROTO)
        return znl_lua_problem_refuse(&w->problem, "a string that is not UTF-8%s", suffix);
    return err;
}

static int write_cdata(struct writer *w, int index)
{
    uint64_t bits;
    switch (znl_lua_tolong(w->L, index, &bits)) {
    case ZNL_LONG_SIGNED:
        return znl_transcode_put_integer(w->out, (int64_t)bits);
    case ZNL_LONG_UNSIGNED:
        return znl_transcode_put_unsigned(w->out, bits);
    default:
        return znl_lua_problem_refuse_type(&w->problem, w->L, index, "");
    }
}

static int write_userdata(struct writer *w, int index)
{
    lua_State *L = w->L;
    if (znl_lua_transcodetype(L, index) != ZNL_LUA_BYTES)
        return znl_lua_problem_refuse_type(&w->problem, L, index, "");
    return znl_transcode_put_bytes(
            w->out, znl_frame_of(lua_touserdata(L, index), lua_objlen(L, index)));
}

static int write_date(struct writer *w, int index)
{
    lua_State *L = w->L;
    znl_lua_pushtypefield(L, index, 1);
    lua_rawget(L, index);
    int err = lua_type(L, -1) == LUA_TNUMBER
            ? znl_transcode_put_date(w->out, lua_tonumber(L, -1))
            : ZNL_E_INVALID;
    lua_pop(L, 1);
    return err == ZNL_E_INVALID ? znl_lua_problem_refuse(&w->problem, "a date out of range")
                                : err;
}

/* The key at `index` as a name. */
static int write_name(struct writer *w, int index)
{
    uint8_t text[NUMBER_BYTES_MAX];
    znl_buffer out = {.data = text, .capacity = sizeof text};
    switch (lua_type(w->L, index)) {
    case LUA_TSTRING:
        return write_string(w, index, " as a key");
    case LUA_TNUMBER:
        if (znl_json_put_number(&out, lua_tonumber(w->L, index)) != 0)
            return znl_lua_problem_refuse_number(
                    &w->problem, lua_tonumber(w->L, index), " as a key");
        return znl_transcode_put_string(w->out, znl_frame_of(text, out.size));
    default:
        return znl_lua_problem_refuse_type(&w->problem, w->L, index, " as a key");
    }
}

/* The field whose name is at `key` and whose value is at key + 1. */
static int write_field(struct writer *w, int key, unsigned depth)
{
    int err = write_name(w, key);
    if (err != 0)
        return err;
    err = write_value(w, key + 1, depth + 1);
    if (err != 0)
        znl_lua_problem_lead_field(&w->problem, w->L, key);
    return err;
}

/* The table at `index` as an object; its first pair is on top of the stack. */
static int write_object(struct writer *w, int index, unsigned depth)
{
    lua_State *L = w->L;
    int key = lua_gettop(L) - 1;
    int err = znl_transcode_put(w->out, ZNL_TRANSCODE_OBJECT);
    if (err != 0)
        return err;
    do {
        err = write_field(w, key, depth);
        if (err != 0)
            return err;
        lua_settop(L, key);
    } while (lua_next(L, index) != 0);
    return znl_transcode_put(w->out, ZNL_TRANSCODE_END);
}

/* Whether the field whose name is at `key` is one of those that an error begins with. */
static int is_first_field(lua_State *L, int index, int key)
{
    int is_it = 0;
    for (int i = 1; i <= ZNL_LUA_ERROR_FIELDS && !is_it; i++) {
        znl_lua_pushtypefield(L, index, i);
        is_it = lua_rawequal(L, -1, key);
        lua_pop(L, 1);
    }
    return is_it;
}

/* The table at `index` as an error: its usual fields in the order of the original, then the others. */
static int write_error(struct writer *w, int index, unsigned depth)
{
    lua_State *L = w->L;
    int key = lua_gettop(L) + 1;
    int err = znl_transcode_put(w->out, ZNL_TRANSCODE_ERROR);
    for (int i = 1; i <= ZNL_LUA_ERROR_FIELDS && err == 0; i++) {
        znl_lua_pushtypefield(L, index, i);
        lua_pushvalue(L, key);
        lua_rawget(L, index);
        if (!lua_isnil(L, key + 1))
            err = write_field(w, key, depth);
        if (err == 0)
            lua_settop(L, key - 1);
    }
    if (err != 0)
        return err;
    for (lua_pushnil(L); lua_next(L, index) != 0; lua_settop(L, key)) {
        err = is_first_field(L, index, key) ? 0 : write_field(w, key, depth);
        if (err != 0)
            return err;
    }
    return znl_transcode_put(w->out, ZNL_TRANSCODE_END);
}

/* The values 1 .. length of the table at `index`; what is not there is undefined. */
static int write_array(struct writer *w, int index, int length, unsigned depth)
{
    lua_State *L = w->L;
    int top = lua_gettop(L);
    int err = znl_transcode_put(w->out, ZNL_TRANSCODE_ARRAY);
    for (int i = 1; i <= length && err == 0; i++) {
        lua_rawgeti(L, index, i);
        err = write_value(w, top + 1, depth + 1);
        if (err != 0) {
            znl_lua_problem_lead_item(&w->problem, i);
            return err;
        }
        lua_settop(L, top);
    }
    return err != 0 ? err : znl_transcode_put(w->out, ZNL_TRANSCODE_END);
}

static int write_empty(struct writer *w, int is_array)
{
    int err = znl_transcode_put(w->out, is_array ? ZNL_TRANSCODE_ARRAY : ZNL_TRANSCODE_OBJECT);
    return err != 0 ? err : znl_transcode_put(w->out, ZNL_TRANSCODE_END);
}

static int write_table(struct writer *w, int index, unsigned depth)
{
    lua_State *L = w->L;
    if (depth > ZNL_TRANSCODE_DEPTH_DEFAULT)
        return znl_lua_problem_refuse(&w->problem, "more than %u tables inside each other",
                ZNL_TRANSCODE_DEPTH_DEFAULT);
    if (!lua_checkstack(L, 12))
        return ZNL_E_NOMEM;
    switch (znl_lua_transcodetype(L, index)) {
    case ZNL_LUA_DATE:
        return write_date(w, index);
    case ZNL_LUA_ERROR:
        return write_error(w, index, depth);
    default:
        break;
    }
    int is_array = znl_lua_isjsonarray(L, index), length = 0;
    lua_pushnil(L);
    if (lua_next(L, index) == 0)
        return write_empty(w, is_array);
    int key = lua_gettop(L) - 1;
    if (lua_type(L, key) == LUA_TSTRING && !is_array)
        return write_object(w, index, depth);
    if (lua_type(L, key) != LUA_TNUMBER || lua_tonumber(L, key) != 1 ||
            !znl_lua_isinorder(L, index, key, 1, &length))
        length = znl_lua_arraylength(L, index);
    if (length < 0)
        return znl_lua_problem_refuse(&w->problem, "an array with more holes than values");
    if (length > 0)
        return write_array(w, index, length, depth);
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
    case LUA_TNUMBER:
        return znl_transcode_put_number(w->out, lua_tonumber(L, index));
    case LUA_TBOOLEAN:
        return znl_transcode_put(
                w->out, lua_toboolean(L, index) ? ZNL_TRANSCODE_TRUE : ZNL_TRANSCODE_FALSE);
    case LUA_TNIL:
        return znl_transcode_put(w->out, ZNL_TRANSCODE_UNDEFINED);
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, index) == NULL)
            return znl_transcode_put(w->out, ZNL_TRANSCODE_NULL);
        if (znl_lua_isundefined(L, index))
            return znl_transcode_put(w->out, ZNL_TRANSCODE_UNDEFINED);
        return znl_lua_problem_refuse_type(&w->problem, L, index, "");
    case LUA_TTABLE:
        return write_table(w, index, depth);
    case LUA_TUSERDATA:
        return write_userdata(w, index);
    case ZNL_LUA_TCDATA:
        return write_cdata(w, index);
    default:
        return znl_lua_problem_refuse_type(&w->problem, L, index, "");
    }
}

int znl_lua_puttranscode(lua_State *L, int index, znl_transcode_writer *writer,
        char problem[ZNL_LUA_PROBLEM_BYTES])
{
    struct writer w;
    int top = lua_gettop(L);
    w.L = L;
    w.out = writer;
    znl_lua_problem_init(&w.problem);
    if (index < 0 && index > LUA_REGISTRYINDEX)
        index = top + index + 1;
    znl_transcode_start(writer);
    int err = lua_checkstack(L, 12) ? write_value(&w, index, 1) : ZNL_E_NOMEM;
    lua_settop(L, top);
    if (err == ZNL_E_TOO_BIG)
        err = znl_lua_problem_refuse(&w.problem, "more than 2 GiB");
    if (err == ZNL_E_INVALID)
        znl_lua_problem_print(&w.problem, problem, ZNL_LUA_PROBLEM_BYTES);
    return err;
}
