/* JSON to Lua and back when memory runs out, and what is left on the stack. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "bind/values/json.h"
#include "support/core.h"
#include "support/scenario.h"

#include <lauxlib.h>

/* Strings with escapes beyond the C stack, arrays past one batch, long numbers, every kind of value. */
static const char scenario[] =
        "local json = require('znl.core.json')\n"
        "local list, object = {}, {}\n"
        "for i = 1, 100 do list[i] = { i + 0.5 }; object['key' .. i] = ('\\n'):rep(i * 10) end\n"
        "local text = assert(json.encode{ list = list, object = object, long = 9007199254740993LL,\n"
        "  more = 18446744073709551615ULL, [1] = json.raw('[ 1 ]'), none = json.array(), null = json.null })\n"
        "local value = assert(json.decode(text))\n"
        "assert(value.list[100][1] == 100.5 and value.object.key100 == ('\\n'):rep(1000))\n"
        "assert(value.long == 9007199254740993LL and value['1'][1] == 1)\n"
        "assert(json.signature(text) == assert(json.signature(json.encode(value))))\n"
        "assert(json.canonical(value) == assert(json.canonical(json.decode(text))))\n";

static void every_allocation_may_fail(void **state)
{
    (void)state;
    scenario_fail_each(scenario, 1);
}

static int check_stack(lua_State *L)
{
    static const char *const refused[] = {"", "[", "[1,2,[3", "{\"a\":[1,{\"b\":2",
            "{\"a\":1,\"b\":}", "[[1,2],[3,4],x]", "1 2", "{\"a\":\"\\ud800\xff\"}"};
    znl_buffer out = {0};
    char problem[256];
    int top = lua_gettop(L);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_int_equal(znl_lua_pushjson(L, znl_frame_text(refused[i])), ZNL_E_PROTO);
        assert_int_equal(lua_gettop(L), top);
    }
    /* One value of many: the reader goes on behind it. */
    znl_json_reader reader;
    znl_frame name;
    int is_plain;
    znl_json_begin(&reader, znl_frame_text("{\"a\":[1,{\"b\":null}],\"c\":5}"), 3);
    assert_int_equal(znl_json_enter(&reader), 0);
    assert_int_equal(znl_json_next(&reader, &name, &is_plain), 1);
    assert_int_equal(znl_lua_pushjsonvalue(L, &reader), 0);
    assert_int_equal(lua_gettop(L), top + 1);
    assert_int_equal(znl_json_next(&reader, &name, &is_plain), 1);
    /* By a negative index, after what is there already. */
    assert_int_equal(znl_buffer_append(&out, "data:", 5), 0);
    assert_int_equal(znl_lua_writejson(L, -1, &out, problem, sizeof problem), 0);
    assert_int_equal(lua_gettop(L), top + 1);
    assert_int_equal(out.size, 19);
    assert_memory_equal(out.data, "data:[1,{\"b\":null}]", 19);
    /* A refusal takes back what was written. */
    lua_pushcfunction(L, check_stack);
    lua_rawseti(L, -2, 3);
    assert_int_equal(znl_lua_writejson(L, -1, &out, problem, sizeof problem), ZNL_E_INVALID);
    assert_string_equal(problem, "a function at [3]");
    assert_int_equal(out.size, 19);
    assert_int_equal(lua_gettop(L), top + 1);
    /* So does the end of memory. */
    lua_pushnil(L);
    lua_rawseti(L, -2, 3);
    znl_buffer none = {0};
    znl_alloc_fail_after(0);
    assert_int_equal(znl_lua_writejson(L, -1, &none, problem, sizeof problem), ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
    assert_int_equal(lua_gettop(L), top + 1);
    znl_buffer_fini(&out);
    return 0;
}

/* As deep as a reader goes, with other members beside each table: the stack of Lua suffices. */
static int check_depth(lua_State *L)
{
    znl_buffer text = {0};
    for (unsigned i = 0; i < ZNL_JSON_DEPTH_MAX / 2; i++) {
        for (unsigned n = 0; n < 40; n++)
            assert_int_equal(
                    znl_buffer_append(&text, n == 0 ? "[1," : "1,", n == 0 ? 3 : 2), 0);
        for (unsigned n = 0; n < 40; n++) {
            char member[16];
            int size = snprintf(member, sizeof member, "%s\"k%u\":1,", n == 0 ? "{" : "", n);
            assert_int_equal(znl_buffer_append(&text, member, (size_t)size), 0);
        }
        assert_int_equal(znl_buffer_append(&text, "\"x\":", 4), 0);
    }
    assert_int_equal(znl_buffer_append(&text, "1", 1), 0);
    for (unsigned i = 0; i < ZNL_JSON_DEPTH_MAX / 2; i++)
        assert_int_equal(znl_buffer_append(&text, "}]", 2), 0);
    int top = lua_gettop(L);
    assert_int_equal(znl_lua_pushjson(L, znl_frame_of(text.data, text.size)), 0);
    assert_int_equal(lua_gettop(L), top + 1);
    znl_buffer_fini(&text);
    return 0;
}

static void leaves_the_stack_as_it_should(void **unused)
{
    (void)unused;
    core_state state;
    core_open(&state);
    assert_int_equal(znl_vm_protect(state.vm, check_stack, NULL, "test"), 0);
    core_close(&state);
}

static void goes_as_deep_as_a_reader(void **unused)
{
    (void)unused;
    core_state state;
    core_open(&state);
    assert_int_equal(znl_vm_protect(state.vm, check_depth, NULL, "test"), 0);
    core_close(&state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(leaves_the_stack_as_it_should),
            cmocka_unit_test(goes_as_deep_as_a_reader),
            cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
