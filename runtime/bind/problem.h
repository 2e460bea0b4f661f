/* problem.h - what cannot be written of a value of Lua, and where: "a function at items[3].on_done".
 *
 * Writers go down into a value and note the steps on their way back, so that a value without a problem costs
 * nothing. Nothing here raises or allocates.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_PROBLEM_H
#define ZNL_BIND_PROBLEM_H

#include <lua.h>
#include <stddef.h>

/* Fields are its own. */
typedef struct znl_lua_problem {
    char text[96];
    char path[128]; /* filled from its end */
    size_t path_at;
    int is_cut;
} znl_lua_problem;

void znl_lua_problem_init(znl_lua_problem *problem);

/* Each returns ZNL_E_INVALID. `suffix` follows what the value is: "", " as a key". */
int znl_lua_problem_refuse(znl_lua_problem *problem, const char *format, ...)
        __attribute__((format(printf, 2, 3)));
int znl_lua_problem_refuse_type(
        znl_lua_problem *problem, lua_State *L, int index, const char *suffix);
int znl_lua_problem_refuse_number(znl_lua_problem *problem, double number, const char *suffix);

/* Puts a step in front of the path: item `item`, or the field named by the string or number at `index`. */
void znl_lua_problem_lead_item(znl_lua_problem *problem, int item);
void znl_lua_problem_lead_field(znl_lua_problem *problem, lua_State *L, int index);

/* Writes all of it, in UTF-8: at most 256 bytes. */
void znl_lua_problem_print(const znl_lua_problem *problem, char *out, size_t size);

#endif
