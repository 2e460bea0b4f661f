/* problem.c - see problem.h. SPDX-License-Identifier: MIT */
#include "bind/problem.h"

#include "base/err.h"
#include "codec/text.h"

#include <lauxlib.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NAME_BYTES_MAX 64u /* of one field in a path */

void znl_lua_problem_init(znl_lua_problem *problem)
{
    problem->text[0] = '\0';
    problem->path_at = sizeof problem->path;
    problem->is_cut = 0;
}

int znl_lua_problem_refuse(znl_lua_problem *problem, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(problem->text, sizeof problem->text, format, args);
    va_end(args);
    return ZNL_E_INVALID;
}

int znl_lua_problem_refuse_type(
        znl_lua_problem *problem, lua_State *L, int index, const char *suffix)
{
    return znl_lua_problem_refuse(problem, "a %s%s", luaL_typename(L, index), suffix);
}

int znl_lua_problem_refuse_number(znl_lua_problem *problem, double number, const char *suffix)
{
    const char *name = isnan(number) ? "nan" : number > 0 ? "inf" : "-inf";
    return znl_lua_problem_refuse(problem, "the number %s%s", name, suffix);
}

/* Puts a step in front of the path; those that find no room are left out. */
static void lead(znl_lua_problem *problem, const char *step, size_t size)
{
    if (size > problem->path_at)
        problem->is_cut = 1;
    if (problem->is_cut)
        return;
    problem->path_at -= size;
    memcpy(problem->path + problem->path_at, step, size);
}

void znl_lua_problem_lead_item(znl_lua_problem *problem, int item)
{
    char step[24];
    int size = snprintf(step, sizeof step, "[%d]", item);
    lead(problem, step, (size_t)size);
}

void znl_lua_problem_lead_field(znl_lua_problem *problem, lua_State *L, int index)
{
    char step[NAME_BYTES_MAX + 1];
    if (lua_type(L, index) == LUA_TNUMBER) {
        int size = snprintf(step, sizeof step, ".%.14g", lua_tonumber(L, index));
        lead(problem, step, (size_t)size);
        return;
    }
    size_t size;
    const char *name = lua_tolstring(L, index, &size);
    if (size > NAME_BYTES_MAX || !znl_utf8_valid((const uint8_t *)name, size)) {
        name = "?";
        size = 1;
    }
    step[0] = '.';
    memcpy(step + 1, name, size);
    lead(problem, step, size + 1);
}

void znl_lua_problem_print(const znl_lua_problem *problem, char *out, size_t size)
{
    const char *path = problem->path + problem->path_at;
    size_t length = sizeof problem->path - problem->path_at;
    const char *at = length == 0 ? "" : problem->is_cut ? " at \xe2\x80\xa6" : " at ";
    if (!problem->is_cut && length > 0 && *path == '.')
        path++, length--;
    snprintf(out, size, "%s%s%.*s", problem->text, at, (int)length, path);
}
