/* pack_test.c - Lua values on their way from one state to another. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "bind/values/json.h"
#include "bind/values/pack.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

/* Deep equality, NaN equal to itself, of what `make` returned in one state and the other. */
static const char equal[] =
        "local function same(a, b)\n"
        "  if type(a) ~= type(b) then return false end\n"
        "  if type(a) ~= 'table' then return a == b or (a ~= a and b ~= b) end\n"
        "  for k, v in pairs(a) do if not same(v, b[k]) then return false end end\n"
        "  for k in pairs(b) do if a[k] == nil then return false end end\n"
        "  return true\n"
        "end\n"
        "return same(...)";

static lua_State *from, *to;

static int setup(void **state)
{
    (void)state;
    from = luaL_newstate();
    to = luaL_newstate();
    luaL_openlibs(from);
    luaL_openlibs(to);
    znl_lua_preparejson(from);
    znl_lua_preparejson(to);
    lua_pushlightuserdata(from, NULL);
    lua_setglobal(from, "null");
    lua_pushlightuserdata(to, NULL);
    lua_setglobal(to, "null");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lua_close(from);
    lua_close(to);
    return 0;
}

static void eval(lua_State *L, const char *chunk)
{
    if (luaL_loadstring(L, chunk) != 0 || lua_pcall(L, 0, LUA_MULTRET, 0) != 0)
        fail_msg("%s", lua_tostring(L, -1));
}

/* Packs what the chunk returns, and pushes it in the other state. Returns how many. */
static int carry(const char *chunk)
{
    size_t size = 0;
    const char *refused = NULL;
    lua_settop(from, 0);
    lua_settop(to, 0);
    eval(from, chunk);
    int count = lua_gettop(from);
    assert_int_equal(znl_pack_measure(from, 1, count, &size, &refused), 0);
    assert_int_equal(lua_gettop(from), count);
    /* Exactly as large as measured: a guard page's worth of canaries behind. */
    uint8_t *bytes = malloc(size + 16);
    memset(bytes, 0x5a, size + 16);
    znl_pack_write(from, 1, count, bytes);
    for (size_t i = 0; i < 16; i++)
        assert_int_equal(bytes[size + i], 0x5a);
    assert_int_equal(lua_gettop(from), count);
    int pushed = znl_pack_push(to, bytes, size);
    free(bytes);
    assert_int_equal(lua_gettop(to), pushed);
    return pushed;
}

static void assert_carries(const char *chunk)
{
    int count = carry(chunk);
    assert_int_equal(count, lua_gettop(from));
    for (int i = 1; i <= count; i++) {
        lua_settop(to, count);
        assert_int_equal(luaL_loadstring(to, equal), 0);
        lua_pushvalue(to, i);
        /* The original once more, made in the other state. */
        int base = lua_gettop(to);
        eval(to, chunk);
        lua_pushvalue(to, base + i);
        lua_insert(to, base + 1);
        lua_settop(to, base + 1);
        assert_int_equal(lua_pcall(to, 2, 1, 0), 0);
        if (!lua_toboolean(to, -1))
            fail_msg("value %d of \"%s\" changed on the way", i, chunk);
    }
}

static void carries_what_lua_has(void **state)
{
    (void)state;
    assert_carries(
            "return nil, true, false, 0, -1.5, 1/0, 0/0, '', 'a\\0b', ('x'):rep(70000), null");
    assert_carries("return {}, {1}, {1, 2, 3, 'x'}, {a = 1}, {1, 2, a = {b = {c = {}}}}");
    assert_carries(
            "return {1, nil, 3}, {nil, nil, 3}, {[1.5] = 1, [-1] = 2, [0] = 3, [1e9] = 4}");
    assert_carries("return {[true] = 1, [false] = 0, x = null, [null] = 'n'}");
    assert_carries(
            "return {route = '/users/42', params = {id = '42'}, payload = {'a', '', 'c'}}");
    assert_carries("local t = {} for i = 1, 10000 do t[i] = {i} end return t");
    assert_carries("local t = {} for i = 1, 98 do t = {t} end return t");
    assert_int_equal(carry("return"), 0);
    assert_int_equal(carry("return nil, nil"), 2);
}

static void assert_refused(const char *chunk, const char *expected)
{
    size_t size = 0;
    const char *refused = NULL;
    lua_settop(from, 0);
    eval(from, chunk);
    int count = lua_gettop(from);
    assert_int_equal(znl_pack_measure(from, 1, count, &size, &refused), ZNL_E_INVALID);
    assert_int_equal(lua_gettop(from), count);
    if (expected == NULL)
        assert_null(refused);
    else
        assert_string_equal(refused, expected);
}

static void refuses_what_belongs_to_one_state(void **state)
{
    (void)state;
    assert_refused("return 1, print", "function");
    assert_refused("return {1, {a = {print}}}", "function");
    assert_refused("return {[print] = 1}", "function");
    assert_refused("return io.stdout", "userdata");
    assert_refused("return coroutine.create(print)", "thread");
    assert_refused("return require('ffi').new('int[1]')", "cdata");
    assert_refused("local t = {} t.t = t return t", NULL);
    assert_refused("local t = {} for i = 1, 200 do t = {t} end return t", NULL);
}

static void metatables_stay_behind(void **state)
{
    (void)state;
    carry("return setmetatable({1}, {__index = {x = 2}, __len = function() return 99 end})");
    assert_false(lua_getmetatable(to, 1));
    assert_int_equal(lua_objlen(to, 1), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* What JSON data holds beside plain values. */
static void json_stays_json(void **state)
{
    (void)state;
    static const char text[] = "[[],{},[1,[]],9007199254740993,18446744073709551615,null]";
    znl_buffer out = {0};
    char problem[256];
    size_t size;
    const char *refused = NULL;
    lua_settop(from, 0);
    lua_settop(to, 0);
    assert_int_equal(znl_lua_pushjson(from, znl_frame_text(text)), 0);
    assert_int_equal(znl_pack_measure(from, 1, 1, &size, &refused), 0);
    uint8_t *bytes = malloc(size);
    assert_non_null(bytes);
    znl_pack_write(from, 1, 1, bytes);
    assert_int_equal(lua_gettop(from), 1);
    assert_int_equal(znl_pack_push(to, bytes, size), 1);
    free(bytes);
    assert_int_equal(znl_lua_writejson(to, 1, &out, problem, sizeof problem), 0);
    assert_int_equal(out.size, sizeof text - 1);
    assert_memory_equal(out.data, text, out.size);
    znl_buffer_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            TEST(carries_what_lua_has),
            TEST(refuses_what_belongs_to_one_state),
            TEST(metatables_stay_behind),
            TEST(json_stays_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
