/* transcode.c - znl.core.transcode: Lua values from texts of cluster-client's default transcode.
 *
 *     encode(value) -> text | nil, message, code              nil is undefined
 *     decode(text, max_depth?) -> value | nil, message, code  undefined is nil: then there is no message
 *     bytes(text) -> value       a byte buffer: tostring(), #, ==, :sub(i, j)
 *     date(unix_ms) -> value     its field `ms`
 *     error(table) -> table      marked as an error
 *     kind(value) -> "bytes" | "date" | "error" | "undefined" | nil
 *     undefined
 *
 * SPDX-License-Identifier: MIT */
#include "bind/values/transcode.h"

#include "base/err.h"
#include "base/limits.h"
#include "bind/values/json.h"

#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdio.h>

#define BOX_TYPE "znl.core.transcode.box"
#define SCRATCH_KEEP_BYTES (1024u * 1024)
#define DATE_MAX 8.64e15 /* milliseconds either way, as in JavaScript */
#define DAY_MS 86400000

/* Keys in the registry: the metatables; in a metatable: the type it is of. */
static char kept_keys[ZNL_LUA_ERROR + 1];
static char type_key;

/* Its address stands for undefined. */
static char undefined;

static void push_kept(lua_State *L, int type)
{
    lua_pushlightuserdata(L, &kept_keys[type]);
    lua_rawget(L, LUA_REGISTRYINDEX);
}

int znl_lua_transcodetype(lua_State *L, int index)
{
    if (!lua_getmetatable(L, index))
        return 0;
    lua_pushlightuserdata(L, &type_key);
    lua_rawget(L, -2);
    int type = (int)lua_tointeger(L, -1);
    lua_pop(L, 2);
    return type;
}

void znl_lua_marktranscode(lua_State *L, int type)
{
    push_kept(L, type);
    lua_setmetatable(L, -2);
}

void znl_lua_pushtypefield(lua_State *L, int index, int field)
{
    lua_getmetatable(L, index);
    lua_rawgeti(L, -1, field);
    lua_remove(L, -2);
}

void znl_lua_pushundefined(lua_State *L)
{
    lua_pushlightuserdata(L, &undefined);
}

int znl_lua_isundefined(lua_State *L, int index)
{
    return lua_type(L, index) == LUA_TLIGHTUSERDATA && lua_touserdata(L, index) == &undefined;
}

void znl_lua_pushbytes(lua_State *L, znl_frame bytes)
{
    void *copy = lua_newuserdata(L, bytes.size);
    if (bytes.size > 0)
        memcpy(copy, bytes.data, bytes.size);
    znl_lua_marktranscode(L, ZNL_LUA_BYTES);
}

/* --- byte buffers ----------------------------------------------------------------------------- */

static znl_frame check_bytes(lua_State *L, int index)
{
    if (znl_lua_transcodetype(L, index) != ZNL_LUA_BYTES)
        luaL_typerror(L, index, "znl.bytes");
    return znl_frame_of(lua_touserdata(L, index), lua_objlen(L, index));
}

static int bytes_tostring(lua_State *L)
{
    znl_frame bytes = check_bytes(L, 1);
    lua_pushlstring(L, (const char *)bytes.data, bytes.size);
    return 1;
}

static int bytes_len(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)check_bytes(L, 1).size);
    return 1;
}

static int bytes_eq(lua_State *L)
{
    lua_pushboolean(L, znl_frame_equal(check_bytes(L, 1), check_bytes(L, 2)));
    return 1;
}

/* A position as string.sub() takes it, from 1; those before the end count from there. */
static ptrdiff_t position(lua_State *L, int index, ptrdiff_t fallback, size_t size)
{
    ptrdiff_t at = luaL_optinteger(L, index, fallback);
    return at < 0 ? at + (ptrdiff_t)size + 1 : at;
}

static int bytes_sub(lua_State *L)
{
    znl_frame bytes = check_bytes(L, 1);
    ptrdiff_t first = position(L, 2, 1, bytes.size), last = position(L, 3, -1, bytes.size);
    if (first < 1)
        first = 1;
    if (last > (ptrdiff_t)bytes.size)
        last = (ptrdiff_t)bytes.size;
    size_t size = last < first ? 0 : (size_t)(last - first) + 1;
    lua_pushlstring(L, size > 0 ? (const char *)bytes.data + first - 1 : "", size);
    return 1;
}

/* --- dates ------------------------------------------------------------------------------------ */

static double check_date(lua_State *L, int index)
{
    if (znl_lua_transcodetype(L, index) != ZNL_LUA_DATE)
        luaL_typerror(L, index, "znl.date");
    znl_lua_pushtypefield(L, index, 1);
    lua_rawget(L, index);
    double unix_ms = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : NAN;
    lua_pop(L, 1);
    return unix_ms;
}

/* As JavaScript writes it: 2023-11-14T22:13:20.123Z; years outside 0 to 9999 have a sign and six digits. */
static int date_tostring(lua_State *L)
{
    double unix_ms = check_date(L, 1);
    if (!(fabs(unix_ms) <= DATE_MAX)) {
        lua_pushliteral(L, "Invalid Date");
        return 1;
    }
    int64_t all = (int64_t)unix_ms;
    int64_t days = (all >= 0 ? all : all - DAY_MS + 1) / DAY_MS;
    int ms = (int)(all - days * DAY_MS);
    /* Years begin in March, so that a leap day ends one; eras have 400 of them, 146097 days (H. Hinnant,
     * "chrono-compatible low-level date algorithms"). */
    int64_t shifted = days + 719468;
    int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
    int day_of_era = (int)(shifted - era * 146097);
    int year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int month = (5 * day_of_year + 2) / 153;
    int day = day_of_year - (153 * month + 2) / 5 + 1;
    month += month < 10 ? 3 : -9;
    int year = (int)(era * 400) + year_of_era + (month <= 2);
    char text[64];
    snprintf(text, sizeof text,
            year >= 0 && year <= 9999 ? "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ"
                                      : "%+07d-%02d-%02dT%02d:%02d:%02d.%03dZ",
            year, month, day, ms / 3600000, ms / 60000 % 60, ms / 1000 % 60, ms % 1000);
    lua_pushstring(L, text);
    return 1;
}

static int date_eq(lua_State *L)
{
    lua_pushboolean(L, check_date(L, 1) == check_date(L, 2));
    return 1;
}

/* --- errors ----------------------------------------------------------------------------------- */

/* Pushes a usual field of the error at 1, if it is a string, else the text given. */
static void push_field(lua_State *L, int field, const char *fallback)
{
    znl_lua_pushtypefield(L, 1, field);
    lua_rawget(L, 1);
    if (lua_type(L, -1) != LUA_TSTRING) {
        lua_pop(L, 1);
        lua_pushstring(L, fallback);
    }
}

static int error_tostring(lua_State *L)
{
    if (znl_lua_transcodetype(L, 1) != ZNL_LUA_ERROR)
        luaL_typerror(L, 1, "znl.transcode.error");
    push_field(L, 3, "Error");
    lua_pushliteral(L, ": ");
    push_field(L, 1, "");
    lua_concat(L, 3);
    return 1;
}

/* --- types ------------------------------------------------------------------------------------ */

/* Makes the metatable of a type; scripts see `name` in its place. Leaves it on the stack. */
static void new_type(lua_State *L, int type, const char *name, const luaL_Reg *functions)
{
    lua_pushlightuserdata(L, &kept_keys[type]);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__metatable");
    lua_pushlightuserdata(L, &type_key);
    lua_pushinteger(L, type);
    lua_rawset(L, -3);
    lua_pushvalue(L, -1);
    lua_insert(L, -3);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

void znl_lua_preparetranscode(lua_State *L)
{
    static const luaL_Reg of_bytes[] = {{"__tostring", bytes_tostring}, {"__len", bytes_len},
            {"__eq", bytes_eq}, {NULL, NULL}};
    static const luaL_Reg of_date[] = {
            {"__tostring", date_tostring}, {"__eq", date_eq}, {NULL, NULL}};
    static const luaL_Reg of_error[] = {{"__tostring", error_tostring}, {NULL, NULL}};
    static const char *const error_fields[ZNL_LUA_ERROR_FIELDS] = {
            "message", "stack", "name", "code"};

    new_type(L, ZNL_LUA_BYTES, "znl.bytes", of_bytes);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, bytes_sub);
    lua_setfield(L, -2, "sub");
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);

    new_type(L, ZNL_LUA_DATE, "znl.date", of_date);
    lua_pushliteral(L, "ms");
    lua_rawseti(L, -2, 1);
    lua_pop(L, 1);

    new_type(L, ZNL_LUA_ERROR, "znl.transcode.error", of_error);
    for (int i = 0; i < ZNL_LUA_ERROR_FIELDS; i++) {
        lua_pushstring(L, error_fields[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pop(L, 1);
}

/* --- the module ------------------------------------------------------------------------------- */

/* What encode and decode work with. A finalizer may call them while one of them is at work: that call makes
 * a box of its own, which is kept from then on. */
struct box {
    znl_transcode_reader reader;
    znl_transcode_writer writer;
    znl_buffer text;
    int is_busy;
};

static int box_collect(lua_State *L)
{
    struct box *box = luaL_checkudata(L, 1, BOX_TYPE);
    znl_transcode_reader_fini(&box->reader);
    znl_transcode_writer_fini(&box->writer);
    znl_buffer_fini(&box->text);
    return 0;
}

static void push_box(lua_State *L)
{
    struct box *box = lua_newuserdata(L, sizeof *box);
    *box = (struct box){0};
    luaL_getmetatable(L, BOX_TYPE);
    lua_setmetatable(L, -2);
}

/* The kept box, which is busy from now on; it is on the stack as well. One that an error left busy is replaced. */
static struct box *take_box(lua_State *L)
{
    lua_rawgeti(L, lua_upvalueindex(1), 1);
    struct box *box = lua_touserdata(L, -1);
    if (box->is_busy) {
        lua_pop(L, 1);
        push_box(L);
        lua_pushvalue(L, -1);
        lua_rawseti(L, lua_upvalueindex(1), 1);
        box = lua_touserdata(L, -1);
    }
    box->is_busy = 1;
    return box;
}

static int transcode_encode(lua_State *L)
{
    char problem[ZNL_LUA_PROBLEM_BYTES];
    luaL_checkany(L, 1);
    struct box *box = take_box(L);
    box->text.size = 0;
    int err = znl_lua_puttranscode(L, 1, &box->writer, problem);
    if (err == 0)
        err = znl_transcode_finish(&box->writer, &box->text);
    if (err == 0)
        lua_pushlstring(L, (const char *)box->text.data, box->text.size);
    znl_buffer_trim(&box->text, SCRATCH_KEEP_BYTES);
    box->is_busy = 0;
    if (err == 0)
        return 1;
    if (err != ZNL_E_INVALID)
        return znl_lua_fail(L, err, "transcode.encode");
    lua_pushnil(L);
    lua_pushstring(L, problem);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

static int transcode_decode(lua_State *L)
{
    size_t size;
    luaL_checktype(L, 1, LUA_TSTRING);
    const char *text = lua_tolstring(L, 1, &size);
    uint32_t max_depth = ZNL_TRANSCODE_DEPTH_DEFAULT;
    if (!lua_isnoneornil(L, 2))
        max_depth = znl_lua_checku32(L, 2, "max_depth", 1, ZNL_TRANSCODE_DEPTH_MAX);
    struct box *box = take_box(L);
    int err = znl_transcode_begin(&box->reader, znl_frame_of(text, size), max_depth);
    if (err == 0)
        err = znl_lua_pushtranscode(L, &box->reader);
    box->is_busy = 0;
    return err == 0 ? 1 : znl_lua_fail(L, err, "transcode.decode");
}

static int transcode_bytes(lua_State *L)
{
    size_t size;
    luaL_checktype(L, 1, LUA_TSTRING);
    const char *text = lua_tolstring(L, 1, &size);
    znl_lua_pushbytes(L, znl_frame_of(text, size));
    return 1;
}

static int transcode_date(lua_State *L)
{
    double unix_ms = luaL_checknumber(L, 1);
    luaL_argcheck(L, fabs(unix_ms) <= DATE_MAX, 1, "unix_ms must be within 8.64e15 of 0");
    lua_createtable(L, 0, 1);
    lua_pushnumber(L, (lua_Number)(int64_t)unix_ms);
    lua_setfield(L, -2, "ms");
    znl_lua_marktranscode(L, ZNL_LUA_DATE);
    return 1;
}

static int transcode_error(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    if (lua_getmetatable(L, 1)) {
        luaL_argcheck(L, znl_lua_transcodetype(L, 1) == ZNL_LUA_ERROR, 1,
                "the table has a metatable already");
        lua_pop(L, 1);
    }
    znl_lua_marktranscode(L, ZNL_LUA_ERROR);
    return 1;
}

static int transcode_kind(lua_State *L)
{
    static const char *const names[] = {
            [ZNL_LUA_BYTES] = "bytes", [ZNL_LUA_DATE] = "date", [ZNL_LUA_ERROR] = "error"};
    luaL_checkany(L, 1);
    int type = znl_lua_transcodetype(L, 1);
    if (znl_lua_isundefined(L, 1))
        lua_pushliteral(L, "undefined");
    else if (type != 0)
        lua_pushstring(L, names[type]);
    else
        lua_pushnil(L);
    return 1;
}

int luaopen_znl_core_transcode(lua_State *L)
{
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg functions[] = {
            {"bytes", transcode_bytes},
            {"date", transcode_date},
            {"error", transcode_error},
            {"kind", transcode_kind},
            {NULL, NULL},
    };
    znl_lua_newtype(L, BOX_TYPE, none, box_collect);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    lua_createtable(L, 1, 0); /* of the box */
    push_box(L);
    lua_rawseti(L, -2, 1);
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, transcode_encode, 1);
    lua_setfield(L, -3, "encode");
    lua_pushcclosure(L, transcode_decode, 1);
    lua_setfield(L, -2, "decode");
    znl_lua_pushundefined(L);
    lua_setfield(L, -2, "undefined");
    return 1;
}
