/* array.c - see array.h. SPDX-License-Identifier: MIT */
#include "bind/values/array.h"

#include "bind/values/json.h"

int znl_lua_isinorder(lua_State *L, int index, int key, int i, int *last)
{
    int is_in_order = 1;
    lua_pushvalue(L, key);
    while (is_in_order && lua_next(L, index) != 0) {
        is_in_order = lua_type(L, -2) == LUA_TNUMBER && lua_tonumber(L, -2) == ++i;
        lua_pop(L, 1);
    }
    if (!is_in_order)
        lua_pop(L, 1);
    *last = i;
    return is_in_order;
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

int znl_lua_arraylength(lua_State *L, int index)
{
    double count, largest = largest_index(L, index, &count);
    int is_dense = largest <= 10 || (largest <= 2 * count && largest <= INT32_MAX);
    return is_dense ? (int)largest : -1;
}

void znl_lua_collectarray(lua_State *L, int count)
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
