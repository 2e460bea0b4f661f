/* traceback_test.c - what a traceback shows, and that it never does harm.
 * SPDX-License-Identifier: MIT */
#include "vm/traceback.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "transport/loop.h"
#include "vm/vm.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static znl_loop *loop;
static znl_vm *vm;
static char path[] = "/tmp/znl-traceback-XXXXXX"; /* set by setup */
static char expected[2048];

static void write_file(const char *text)
{
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(file >= 0);
    assert_int_equal(write(file, text, strlen(text)), (ssize_t)strlen(text));
    close(file);
}

/* As if it had been there before the vm was made. */
static void make_old(void)
{
    struct timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static int is_library(const char *source)
{
    return strncmp(source, "@library", 8) == 0;
}

static int setup(void **state)
{
    (void)state;
    strcpy(path + strlen(path) - 6, "XXXXXX");
    int file = mkstemp(path);
    if (file < 0)
        return -1;
    close(file);
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    if (znl_loop_new(&loop) != 0 || znl_vm_new(&vm, loop) != 0)
        return -1;
    vm->is_library = is_library;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    znl_clock_thaw();
    znl_vm_free(vm);
    znl_loop_close(loop);
    unlink(path);
    return 0;
}

/* Runs a chunk of this name in a coroutine; returns what the traceback of its error is. The text
 * stays on the stack. */
static const char *trace(const char *name, const char *chunk)
{
    lua_State *co = lua_newthread(vm->L);
    assert_int_equal(luaL_loadbuffer(co, chunk, strlen(chunk), name), 0);
    assert_int_not_equal(lua_resume(co, 0), 0);
    lua_xmove(co, vm->L, 1);
    znl_vm_traceback(vm->L, co);
    return lua_tostring(vm->L, -1);
}

static const char *trace_file(const char *chunk)
{
    char name[64];
    snprintf(name, sizeof name, "@%s", path);
    return trace(name, chunk);
}

/* The text with every % replaced by the path. */
static const char *with_path(const char *text)
{
    size_t size = 0;
    for (; *text != '\0' && size + sizeof path < sizeof expected; text++) {
        if (*text == '%')
            size += (size_t)snprintf(expected + size, sizeof expected - size, "%s", path);
        else
            expected[size++] = *text;
    }
    expected[size] = '\0';
    return expected;
}

static const char script[] = "local function deep(x)\n"
                             "\t  return x.a.b  \n"
                             "end\n"
                             "local function outer()\n"
                             "  local v = deep({})\n"
                             "  return v\n"
                             "end\n"
                             "pcall(error)\n"
                             "outer()\n";

/* --- lines -------------------------------------------------------------------------------- */

static void frames_have_their_lines(void **state)
{
    (void)state;
    write_file(script);
    make_old();
    assert_string_equal(trace_file(script),
            with_path("%:2: attempt to index field 'a' (a nil value)\n"
                      "stack traceback:\n"
                      "  %:2: in function 'deep'\n"
                      "      return x.a.b\n"
                      "  %:5: in function 'outer'\n"
                      "      local v = deep({})\n"
                      "  %:9: in main chunk\n"
                      "      outer()"));
}

static const char plain[] = "%:2: attempt to index field 'a' (a nil value)\n"
                            "stack traceback:\n"
                            "  %:2: in function 'deep'\n"
                            "  %:5: in function 'outer'\n"
                            "  %:9: in main chunk";

static void a_missing_file_has_no_lines(void **state)
{
    (void)state;
    unlink(path);
    assert_string_equal(trace_file(script), with_path(plain));
}

static void a_shorter_file_has_no_such_line(void **state)
{
    (void)state;
    write_file("\n");
    make_old();
    assert_string_equal(trace_file(script), with_path(plain));
}

static void a_changed_file_has_no_lines_until_it_is_loaded(void **state)
{
    (void)state;
    write_file(script);
    struct timespec times[2] = {{4000000000, 0}, {4000000000, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_string_equal(trace_file(script), with_path(plain));
    znl_traceback_loaded(vm, path);
    assert_non_null(strstr(trace_file(script), "\n      local v = deep({})"));
    make_old(); /* changed again */
    assert_string_equal(trace_file(script), with_path(plain));
    unlink(path);
    znl_traceback_loaded(vm, path);
    assert_string_equal(trace_file(script), with_path(plain));
}

static void many_files_may_be_loaded(void **state)
{
    (void)state;
    char name[32];
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "/dev/../dev/null/%d", i);
        znl_traceback_loaded(vm, name);
        snprintf(name, sizeof name, "/%*s", i % 20 + 1, "");
        memset(name + 1, '/', (size_t)(i % 20 + 1)); /* exists */
        znl_traceback_loaded(vm, name);
    }
    write_file(script);
    znl_traceback_loaded(vm, path);
    assert_non_null(strstr(trace_file(script), "\n      outer()"));
}

static void what_is_no_file_is_not_read(void **state)
{
    (void)state;
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); /* reading would wait for ever */
    assert_string_equal(trace_file(script), with_path(plain));
    assert_null(strstr(trace("@/dev/zero", "\nerror('x')"), "\n      "));
    assert_null(strstr(trace("@/tmp", "\nerror('x')"), "\n      "));
    assert_null(strstr(trace("@", "\nerror('x')"), "\n      "));
}

static void long_and_wild_lines_are_tamed(void **state)
{
    (void)state;
    char text[4000] = "error('x') -- \x1b[2J\t\r\x01";
    for (int i = 0; i < 300; i++)
        strcat(text, "\xc3\xa4"); /* two bytes each */
    write_file(text);
    make_old();
    const char *got = strstr(trace_file("error('x')"), "\n      error('x') --  [2J   \xc3\xa4");
    assert_non_null(got);
    size_t size = strlen(got + 7);
    assert_true(size <= 120 && size > 110);
    assert_string_equal(got + 7 + size - 3, "...");
    for (const char *at = got + 7; *at != '.'; at++)
        if ((unsigned char)*at == 0xc3)
            assert_int_equal((unsigned char)at[1], 0xa4); /* no half characters */
}

static void a_far_line_is_not_looked_for(void **state)
{
    (void)state;
    static char text[600 * 1024];
    memset(text, '\n', sizeof text - 1);
    memcpy(text + 500 * 1024, "error('x')", 10);
    write_file(text);
    make_old();
    const char *got = trace_file(text);
    assert_non_null(strstr(got, ":512001: in main chunk"));
    assert_null(strstr(got, "\n      "));
}

static void a_storm_of_errors_reads_no_lines(void **state)
{
    (void)state;
    znl_clock_freeze(0);
    write_file(script);
    make_old();
    for (int i = 0; i < 20; i++)
        assert_non_null(strstr(trace_file(script), "\n      outer()"));
    lua_settop(vm->L, 0);
    assert_string_equal(trace_file(script), with_path(plain));
    znl_clock_advance(1000);
    assert_non_null(strstr(trace_file(script), "\n      outer()"));
}

/* --- frames ------------------------------------------------------------------------------- */

static void define_library(void)
{
    static const char text[] =
            "function call(fn, ...) local r = fn(...) return r end "
            "function check(x) if not x then error('bad x', 0) end return x end";
    assert_int_equal(luaL_loadbuffer(vm->L, text, strlen(text), "@library/a.lua"), 0);
    lua_call(vm->L, 0, 0);
}

static void the_library_is_left_out(void **state)
{
    (void)state;
    define_library();
    assert_string_equal(trace("=script", "call(function() check(nil) end)\n"),
            "bad x\n"
            "stack traceback:\n"
            "  script:1: in function 'fn'\n"
            "  script:1: in main chunk");
}

static void debugging_shows_all(void **state)
{
    (void)state;
    define_library();
    fflush(stderr);
    znl_log_configure(ZNL_LOG_DEBUG, ZNL_LOG_LOGFMT);
    const char *text = trace("=script", "call(function() check(nil) end)\n");
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    assert_string_equal(text,
            "bad x\n"
            "stack traceback:\n"
            "  [C]: in function 'error'\n"
            "  library/a.lua:1: in function 'check'\n"
            "  script:1: in function 'fn'\n"
            "  library/a.lua:1: in function 'call'\n"
            "  script:1: in main chunk");
}

static void only_library_is_better_than_nothing(void **state)
{
    (void)state;
    const char *text = trace("@library/b.lua", "error('inside', 0)");
    assert_string_equal(text,
            "inside\n"
            "stack traceback:\n"
            "  [C]: in function 'error'\n"
            "  library/b.lua:1: in main chunk");
}

static void c_functions_of_the_script_are_named(void **state)
{
    (void)state;
    const char *text = trace("=script", "table.sort({1, 2}, function(a) return a.b.c end)");
    assert_non_null(strstr(text, "\n  [C]: in function 'sort'\n  script:1: in main chunk"));
}

static void deep_stacks_are_bounded(void **state)
{
    (void)state;
    const char *text = trace("=script",
            "local function f(n) if n == 0 then error('deep') end "
            "local r = f(n - 1) return r end f(5000)");
    unsigned lines = 0;
    for (const char *at = text; (at = strchr(at, '\n')) != NULL; at++)
        lines++;
    assert_int_equal(lines, 1 + 12 + 1 + 6);
    assert_non_null(strstr(text, "\n  ...\n"));
    assert_non_null(strstr(text, "in main chunk"));
    text = trace("=script", "local function f() local r = f() return r end f()");
    assert_non_null(strstr(text, "stack overflow"));
    assert_true(strlen(text) < 8192);
}

static void long_names_fit(void **state)
{
    (void)state;
    char name[3000] = "@", chunk[8000];
    memset(name + 1, 'n', sizeof name - 2);
    name[sizeof name - 1] = '\0';
    memset(chunk, 'f', sizeof chunk);
    memcpy(chunk, "local function ", 15);
    memcpy(chunk + 2000, "() error('x') end ", 18);
    memset(chunk + 2018, 'f', 1985);
    strcpy(chunk + 2018 + 1985, "()");
    assert_true(strlen(trace(name, chunk)) < 1000);
    name[250] = '\0';
    assert_true(strlen(trace(name, chunk)) < 3000);
}

/* --- memory ------------------------------------------------------------------------------- */

static void too_little_memory_leaves_the_message(void **state)
{
    (void)state;
    write_file(script);
    make_old();
    lua_State *L = vm->L;
    int whole = 0;
    for (long count = 0; count < 50; count++) {
        lua_State *co = lua_newthread(L);
        luaL_loadbuffer(co, script, sizeof script - 1, "@a.lua");
        assert_int_not_equal(lua_resume(co, 0), 0);
        lua_xmove(co, L, 1);
        znl_alloc_fail_after(count);
        znl_vm_traceback(L, co);
        znl_alloc_fail_after(-1);
        const char *text = lua_tostring(L, -1);
        if (text != NULL && strstr(text, "stack traceback") != NULL)
            whole++;
        lua_settop(L, 0);
    }
    assert_true(whole > 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            TEST(frames_have_their_lines),
            TEST(a_missing_file_has_no_lines),
            TEST(a_shorter_file_has_no_such_line),
            TEST(a_changed_file_has_no_lines_until_it_is_loaded),
            TEST(many_files_may_be_loaded),
            TEST(what_is_no_file_is_not_read),
            TEST(long_and_wild_lines_are_tamed),
            TEST(a_far_line_is_not_looked_for),
            TEST(a_storm_of_errors_reads_no_lines),
            TEST(the_library_is_left_out),
            TEST(debugging_shows_all),
            TEST(only_library_is_better_than_nothing),
            TEST(c_functions_of_the_script_are_named),
            TEST(deep_stacks_are_bounded),
            TEST(long_names_fit),
            TEST(too_little_memory_leaves_the_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
