/* The default transcode to Lua and back when memory runs out, and what is left on the stack.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/values/transcode.h"
#include "support/core.h"
#include "support/scenario.h"

#include <lauxlib.h>

/* Every kind of value; arrays past one batch, escapes, entries in another order. */
static const char scenario[] =
        "local transcode = require('znl.core.transcode')\n"
        "local list, object = {}, {}\n"
        "for i = 1, 100 do list[i] = { i + 0.5 }; object['key ' .. i] = (' +'):rep(i * 10) end\n"
        "local text = assert(transcode.encode{ list = list, object = object, long = 9007199254740993LL,\n"
        "  more = 18446744073709551615ULL, bytes = transcode.bytes(('x'):rep(1000)), at = transcode.date(5),\n"
        "  failure = transcode.error{ message = 'm', stack = 's', other = { transcode.undefined } } })\n"
        "local value = assert(transcode.decode(text))\n"
        "assert(value.list[100][1] == 100.5 and value.object['key 100'] == (' +'):rep(1000))\n"
        "assert(value.long == 9007199254740993LL and tostring(value.at) == '1970-01-01T00:00:00.005Z')\n"
        "assert(tostring(value.bytes) == ('x'):rep(1000) and value.bytes:sub(2, 3) == 'xx')\n"
        "assert(value.failure.other[1] == transcode.undefined and tostring(value.failure) == 'Error: m')\n"
        "assert(transcode.decode('a|b^7^^^@1|0|*2]|2]')[1] == 'b')\n";

static void every_allocation_may_fail(void **state)
{
    (void)state;
    scenario_fail_each(scenario, 1);
}

static int push_text(lua_State *L, znl_transcode_reader *reader, const char *text)
{
    int err = znl_transcode_begin(reader, znl_frame_text(text), ZNL_TRANSCODE_DEPTH_MAX);
    return err != 0 ? err : znl_lua_pushtranscode(L, reader);
}

static void assert_text(znl_transcode_writer *writer, const char *expected)
{
    znl_buffer out = {0};
    assert_int_equal(znl_transcode_finish(writer, &out), 0);
    assert_int_equal(out.size, strlen(expected));
    assert_memory_equal(out.data, expected, out.size);
    znl_buffer_fini(&out);
}

static int check_stack(lua_State *L)
{
    static const char *const refused[] = {
            "^1^^^@0|0|@*@]]]", "a^^^^$0|@$0|$0|*$]]]]]", "^^^^$@]|-1]"};
    znl_transcode_reader reader = {0};
    znl_transcode_writer writer = {0};
    char problem[ZNL_LUA_PROBLEM_BYTES];
    int top = lua_gettop(L);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_int_equal(push_text(L, &reader, refused[i]), ZNL_E_PROTO);
        assert_int_equal(lua_gettop(L), top);
    }
    assert_int_equal(push_text(L, &reader, "^^^^-5"), 0);
    assert_true(lua_isnil(L, -1));
    lua_settop(L, top);
    assert_int_equal(push_text(L, &reader, "a^1^^^@$0|1]|*1]|1]"), 0);
    assert_int_equal(lua_gettop(L), top + 1);
    /* By a negative index; what the writer held before is forgotten. */
    assert_int_equal(znl_transcode_put(&writer, ZNL_TRANSCODE_ARRAY), 0);
    assert_int_equal(znl_lua_puttranscode(L, -1, &writer, problem), 0);
    assert_int_equal(lua_gettop(L), top + 1);
    assert_text(&writer, "a^1|1|1^^^@$0|1]|*2]|3]");
    lua_pushcfunction(L, check_stack);
    lua_rawseti(L, -2, 3);
    assert_int_equal(znl_lua_puttranscode(L, -1, &writer, problem), ZNL_E_INVALID);
    assert_string_equal(problem, "a function at [3]");
    assert_int_equal(lua_gettop(L), top + 1);
    /* The end of memory is no problem of the value. */
    lua_pushnil(L);
    lua_rawseti(L, -2, 3);
    znl_transcode_writer none = {0};
    znl_alloc_fail_after(0);
    assert_int_equal(znl_lua_puttranscode(L, -1, &none, problem), ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
    assert_int_equal(lua_gettop(L), top + 1);
    znl_transcode_writer_fini(&none);
    znl_transcode_writer_fini(&writer);
    znl_transcode_reader_fini(&reader);
    return 0;
}

/* As deep as a reader goes, with other items beside each table: the stack of Lua suffices. */
static int check_depth(lua_State *L)
{
    znl_buffer text = {0};
    znl_transcode_reader reader = {0};
    assert_int_equal(znl_buffer_append(&text, "^^^^", 4), 0);
    for (unsigned i = 0; i < ZNL_TRANSCODE_DEPTH_MAX / 2; i++) {
        assert_int_equal(znl_buffer_append(&text, "@", 1), 0);
        for (unsigned n = 0; n < 100; n++)
            assert_int_equal(znl_buffer_append(&text, "-1|", 3), 0);
        assert_int_equal(znl_buffer_append(&text, "$-4|", 4), 0);
    }
    znl_frame frame = znl_frame_of(text.data, text.size);
    assert_int_equal(znl_transcode_begin(&reader, frame, ZNL_TRANSCODE_DEPTH_MAX), 0);
    assert_int_equal(znl_lua_pushtranscode(L, &reader), 0);
    assert_int_equal(lua_objlen(L, -1), 101);
    assert_int_equal(znl_transcode_begin(&reader, frame, ZNL_TRANSCODE_DEPTH_MAX - 1), 0);
    assert_int_equal(znl_lua_pushtranscode(L, &reader), ZNL_E_LIMIT);
    znl_transcode_reader_fini(&reader);
    znl_buffer_fini(&text);
    return 0;
}

static void stack_is_as_it_was(void **unused)
{
    (void)unused;
    core_state state;
    core_open(&state);
    assert_int_equal(znl_vm_protect(state.vm, check_stack, NULL, "test"), 0);
    assert_int_equal(znl_vm_protect(state.vm, check_depth, NULL, "test"), 0);
    core_close(&state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(every_allocation_may_fail),
            cmocka_unit_test(stack_is_as_it_was),
    };
    return cmocka_run_group_tests_name("bind_transcode", tests, NULL, NULL);
}
