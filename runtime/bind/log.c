/* log.c - znl.core.log: log lines from Lua. Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/bind.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define FIELDS_MAX 32 /* more in one line help nobody */

static const char *const level_names[] = {
        "trace", "debug", "info", "warn", "error", "off", NULL};

/* For set_level(), which changes one and keeps the other. */
static _Atomic znl_log_format current_format = ZNL_LOG_LOGFMT;

void znl_bind_log_setup(znl_log_level level, znl_log_format format)
{
    current_format = format;
    znl_log_configure(level, format);
}

static int by_key(const void *a, const void *b)
{
    const znl_log_field *left = a;
    const znl_log_field *right = b;
    return strcmp(left->key, right->key);
}

/* The value at the top as text, which is left there in its place: it anchors field->value. */
static void take_value(lua_State *L, znl_log_field *field)
{
    int type = lua_type(L, -1);
    field->is_literal = type == LUA_TBOOLEAN;
    if (type == LUA_TNUMBER) {
        lua_Number number = lua_tonumber(L, -1);
        field->is_literal = number - number == 0; /* JSON has no infinity, no NaN */
    } else if (type == LUA_TBOOLEAN) {
        lua_pushstring(L, lua_toboolean(L, -1) ? "true" : "false");
        lua_replace(L, -2);
    } else if (type != LUA_TSTRING) {
        int has_text = luaL_callmeta(L, -1, "__tostring");
        if (has_text && !lua_isstring(L, -1))
            lua_pop(L, has_text--);
        if (!has_text)
            lua_pushstring(L, lua_typename(L, type));
        lua_replace(L, -2);
    }
    field->value = lua_tolstring(L, -1, &field->size);
}

/* write(level, area, message, fields|nil). Keys must be strings; others are left out. */
static int log_write(lua_State *L)
{
    znl_log_level level = (znl_log_level)luaL_checkoption(L, 1, NULL, level_names);
    const char *area = luaL_checkstring(L, 2);
    const char *message = luaL_checkstring(L, 3);
    if (!lua_isnoneornil(L, 4))
        luaL_checktype(L, 4, LUA_TTABLE);
    if (level == ZNL_LOG_OFF || !znl_log_enabled(level))
        return 0;
    znl_log_field fields[FIELDS_MAX];
    size_t count = 0;
    lua_settop(L, 4);
    if (lua_istable(L, 4)) {
        luaL_checkstack(L, FIELDS_MAX + 8, "log fields");
        /* Texts pile up below the key that lua_next continues from. */
        for (lua_pushnil(L); count < FIELDS_MAX && lua_next(L, 4) != 0;) {
            if (lua_type(L, -2) != LUA_TSTRING) {
                lua_pop(L, 1);
                continue;
            }
            fields[count].key = lua_tostring(L, -2);
            take_value(L, &fields[count]);
            lua_insert(L, -2);
            count++;
        }
        qsort(fields, count, sizeof fields[0], by_key);
    }
    znl_log_write(level, area, message, fields, count);
    return 0;
}

/* set_level(name) */
static int log_set_level(lua_State *L)
{
    znl_log_configure((znl_log_level)luaL_checkoption(L, 1, NULL, level_names), current_format);
    return 0;
}

/* level() -> the least level that is written */
static int log_level(lua_State *L)
{
    int level = ZNL_LOG_TRACE;
    while (level < ZNL_LOG_OFF && !znl_log_enabled((znl_log_level)level))
        level++;
    lua_pushstring(L, level_names[level]);
    return 1;
}

/* enabled(level) -> boolean */
static int log_enabled(lua_State *L)
{
    int level = luaL_checkoption(L, 1, NULL, level_names);
    lua_pushboolean(L, level < ZNL_LOG_OFF && znl_log_enabled((znl_log_level)level));
    return 1;
}

int luaopen_znl_core_log(lua_State *L)
{
    static const luaL_Reg functions[] = {
            {"write", log_write},
            {"set_level", log_set_level},
            {"level", log_level},
            {"enabled", log_enabled},
            {NULL, NULL},
    };
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
