/* watchdog_test.c - Lua code that does not wait is interrupted. SPDX-License-Identifier: MIT */
#include "vm/watchdog.h"

#include "base/log.h"
#include "transport/loop.h"
#include "vm/sched.h"

#include <errno.h>
#include <lualib.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define BUDGET_MS 40

/* One Lua state, as a thread has it. */
struct world {
    znl_loop *loop;
    znl_vm *vm;
    znl_wait wait;
    const char *chunk;
    int ended;
    int status;
    int was_interrupted;
    char text[1000];
};

static struct world *world_of(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "world");
    struct world *world = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return world;
}

static int l_wait(lua_State *L)
{
    world_of(L)->wait = znl_sched_park(L);
    return lua_yield(L, 0);
}

static int l_spawn(lua_State *L)
{
    znl_sched_spawn(L, lua_gettop(L) - 1, NULL, NULL, NULL);
    return 0;
}

static void on_done(void *user, lua_State *L, int status, int nresults)
{
    struct world *world = user;
    world->was_interrupted = znl_sched_was_interrupted(world->vm->sched);
    world->ended++;
    world->status = status;
    const char *text = nresults > 0 ? lua_tostring(L, -1) : NULL;
    snprintf(world->text, sizeof world->text, "%s", text != NULL ? text : "");
}

static int open_world(struct world *world, uint32_t budget_ms)
{
    memset(world, 0, sizeof *world);
    if (znl_loop_new(&world->loop) != 0 || znl_vm_new(&world->vm, world->loop) != 0 ||
            znl_watchdog_set(world->vm, budget_ms) != 0)
        return -1;
    lua_State *L = world->vm->L;
    lua_pushlightuserdata(L, world);
    lua_setfield(L, LUA_REGISTRYINDEX, "world");
    lua_register(L, "wait", l_wait);
    lua_register(L, "spawn", l_spawn);
    return 0;
}

static void close_world(struct world *world)
{
    znl_vm_free(world->vm);
    znl_loop_close(world->loop);
}

static int start(lua_State *L)
{
    struct world *world = lua_touserdata(L, 1);
    if (luaL_loadbuffer(L, world->chunk, strlen(world->chunk), "@folder/handler.lua") != 0)
        return lua_error(L);
    znl_sched_spawn(L, 0, NULL, on_done, world);
    return 0;
}

static void run(struct world *world, const char *chunk)
{
    world->chunk = chunk;
    world->ended = 0;
    assert_int_equal(znl_vm_protect(world->vm, start, world, "test"), 0);
}

static int setup(void **state)
{
    static struct world world;
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    *state = &world;
    return open_world(&world, BUDGET_MS);
}

static int teardown(void **state)
{
    close_world(*state);
    return 0;
}

static void expect_interrupted(struct world *world, const char *chunk)
{
    static const char words[] = "ran for 40 ms without waiting: interrupted by the watchdog";
    run(world, chunk);
    if (!world->ended || !world->was_interrupted || strstr(world->text, words) == NULL ||
            strstr(world->text, "folder/handler.lua:") == NULL)
        fail_msg("%s: %s", chunk, world->text);
    assert_int_equal(world->status, LUA_ERRRUN);
}

/* --- what is interrupted ------------------------------------------------------------------ */

static void loops_are_interrupted(void **state)
{
    static const char *const chunks[] = {
            "while true do end",
            "repeat until false",
            "for i = 1, 1e18 do end",
            "jit.off() while true do end",
            "jit.on() ::again:: goto again",
            "local function f() return f() end return (f())",
            "local function f(n) if n == 0 then return 0 end return 1 + f(n - 1) end "
            "while true do f(50) end",
            "local a = require('ffi').new('int[9]') while true do a[3] = a[3] + 1 end",
            "for k in function() return 1 end do end",
            "local t = {} while true do t[#t % 100 + 1] = tostring(#t) end",
            "local t = {3, 2, 1} while true do table.sort(t, function(a, b) return a > b end) end",
            "setmetatable(_G, {__index = function() while true do end end}) return missing",
            "('x'):gsub('.', function() while true do end end)",
            "coroutine.wrap(function() while true do end end)()",
    };
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++)
        expect_interrupted(*state, chunks[i]);
}

static void compiled_loops_are_reached(void **state)
{
    struct world *world = *state;
    assert_true(znl_watchdog_reaches_traces(world->vm));
    /* A loop that is compiled for sure: warm, then entered again. */
    for (int i = 0; i < 3; i++)
        expect_interrupted(world,
                "local function f(n) local x = 0 for i = 1, n do x = x + i end return x end "
                "f(1e5) assert(jit.status()) f(1e18)");
    assert_true(znl_watchdog_reaches_traces(world->vm));
    assert_int_equal(znl_watchdog_count(world->vm), 3);
}

static void the_line_is_named(void **state)
{
    expect_interrupted(*state,
            "local n = 0\nlocal function spin()\n  while true do n = n + 1 "
            "end\nend\nspin()");
    struct world *world = *state;
    assert_memory_equal(world->text, "folder/handler.lua:3: ran", 25);
}

static void catching_does_not_defeat_it(void **state)
{
    expect_interrupted(*state, "while true do pcall(function() while true do end end) end");
    expect_interrupted(*state,
            "while true do xpcall(function() while true do end end, debug.traceback) end");
    expect_interrupted(*state,
            "while true do local co = coroutine.create(function() "
            "while true do end end) coroutine.resume(co) end");
    expect_interrupted(*state, "while true do debug.sethook() end");
    expect_interrupted(*state, "local function f() while true do pcall(f) end end f()");
}

static void nested_tasks_do_not_defeat_it(void **state)
{
    expect_interrupted(*state, "while true do spawn(function() while true do end end) end");
}

/* --- what is not -------------------------------------------------------------------------- */

static void who_catches_it_and_waits_goes_on(void **state)
{
    struct world *world = *state;
    run(world,
            "local ok, message = pcall(function() while true do end end) "
            "local cleaned = {} for i = 1, 100 do cleaned[i] = i end "
            "wait() error('later')");
    assert_int_equal(world->ended, 0);
    znl_sched_wake(world->vm->sched, world->wait, NULL, NULL);
    assert_int_equal(world->ended, 1);
    assert_non_null(strstr(world->text, "later"));
    assert_false(world->was_interrupted); /* an error of its own, in another run */
}

static void the_spawner_goes_on(void **state)
{
    struct world *world = *state;
    run(world, "spawn(function() while true do end end) return 'went on'");
    assert_int_equal(world->status, 0);
    assert_string_equal(world->text, "went on");
    assert_int_equal(znl_watchdog_count(world->vm), 1);
}

static void other_errors_are_not_marked(void **state)
{
    struct world *world = *state;
    run(world, "error('plain')");
    assert_int_equal(world->status, LUA_ERRRUN);
    assert_false(world->was_interrupted);
}

static void short_tasks_are_left_alone(void **state)
{
    struct world *world = *state;
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    double end = (double)now.tv_sec + (double)now.tv_nsec / 1e9 + 0.4;
    for (int count = 0;; count++) {
        run(world, "local x = 0 for i = 1, 2000 do x = x + i end return x");
        assert_int_equal(world->status, 0);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        if ((double)now.tv_sec + (double)now.tv_nsec / 1e9 > end)
            break;
    }
    assert_int_equal(znl_watchdog_count(world->vm), 0);
}

/* Many tasks, one protected call: each has the whole budget. */
static int start_many(lua_State *L)
{
    struct world *world = lua_touserdata(L, 1);
    for (int i = 0; i < 20; i++) {
        luaL_loadstring(L, "local e = os.clock() + 0.01 while os.clock() < e do end");
        znl_sched_spawn(L, 0, NULL, on_done, world);
        if (world->status != 0)
            return luaL_error(L, "task %d: %s", i, world->text);
    }
    return 0;
}

static void tasks_of_one_call_each_have_the_budget(void **state)
{
    struct world *world = *state;
    assert_int_equal(znl_vm_protect(world->vm, start_many, world, "test"), 0);
    assert_int_equal(world->ended, 20);
    assert_int_equal(znl_watchdog_count(world->vm), 0);
}

static int spin(lua_State *L)
{
    if (luaL_loadstring(L, "while true do end") != 0)
        return lua_error(L);
    lua_call(L, 0, 0);
    return 0;
}

static void calls_outside_of_tasks_are_interrupted(void **state)
{
    struct world *world = *state;
    assert_int_equal(znl_vm_protect(world->vm, spin, NULL, "test"), LUA_ERRRUN);
    assert_int_equal(znl_watchdog_count(world->vm), 1);
    run(world, "return 'fine'");
    assert_string_equal(world->text, "fine");
}

static void budget_0_interrupts_nothing(void **state)
{
    struct world *world = *state;
    assert_int_equal(znl_watchdog_set(world->vm, 0), 0);
    assert_int_equal(znl_watchdog_budget_ms(world->vm), 0);
    run(world, "local e = os.clock() + 0.3 while os.clock() < e do end return 'done'");
    assert_string_equal(world->text, "done");
    assert_int_equal(znl_watchdog_set(world->vm, BUDGET_MS), 0);
    expect_interrupted(world, "while true do end");
}

static void a_longer_budget_counts_at_once(void **state)
{
    struct world *world = *state;
    assert_int_equal(znl_watchdog_set(world->vm, 10000), 0);
    run(world, "local e = os.clock() + 0.3 while os.clock() < e do end return 'done'");
    assert_string_equal(world->text, "done");
}

/* A signal would end the sleep early. */
static void an_idle_thread_has_no_ticks(void **state)
{
    struct timespec length = {0, 300 * 1000000};
    run(*state, "return 1");
    assert_int_equal(nanosleep(&length, NULL), 0);
}

static void the_hook_of_a_script_comes_back(void **state)
{
    struct world *world = *state;
    run(world, "hook = function() end debug.sethook(hook, '', 1000)");
    expect_interrupted(world, "while true do end");
    run(world,
            "local fn, mask, count = debug.gethook() "
            "return tostring(fn == hook and mask == '' and count == 1000)");
    assert_string_equal(world->text, "true");
}

static void profiling_by_a_script_is_possible(void **state)
{
    struct world *world = *state;
    assert_int_equal(znl_watchdog_set(world->vm, 2000), 0);
    run(world,
            "local profile, samples = require('jit.profile'), 0 "
            "profile.start('i1', function(_, n) samples = samples + n end) "
            "local e = os.clock() + 0.2 while os.clock() < e do end "
            "profile.stop() return tostring(samples > 0)");
    assert_string_equal(world->text, "true");
}

/* --- threads ------------------------------------------------------------------------------ */

static void *work(void *argument)
{
    static const char *const chunks[] = {"for i = 1, 1e18 do end",
            "while true do pcall(function() while true do end end) end", "return 'fine'"};
    struct world *world = argument;
    if (open_world(world, BUDGET_MS) != 0)
        return "cannot open";
    for (int round = 0; round < 6; round++) {
        world->chunk = chunks[round % 3];
        world->ended = 0;
        znl_vm_protect(world->vm, start, world, "test");
        if (!world->ended || world->was_interrupted != (round % 3 < 2))
            return "not interrupted as it should";
    }
    close_world(world);
    return NULL;
}

static void every_thread_has_its_own(void **state)
{
    struct world worlds[4];
    pthread_t threads[4];
    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, &worlds[i]), 0);
    for (int i = 0; i < 4; i++) {
        void *failure = NULL;
        pthread_join(threads[i], &failure);
        if (failure != NULL)
            fail_msg("thread %d: %s: %s", i, (const char *)failure, worlds[i].text);
    }
}

static void two_states_of_one_thread(void **state)
{
    struct world other;
    assert_int_equal(open_world(&other, BUDGET_MS), 0);
    expect_interrupted(&other, "while true do end");
    expect_interrupted(*state, "while true do end");
    close_world(&other);
    expect_interrupted(*state, "while true do end");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
#ifdef __SANITIZE_THREAD__
    puts("skipped: ThreadSanitizer holds signals back while compiled Lua code runs");
    return 0;
#endif
    const struct CMUnitTest tests[] = {
            TEST(loops_are_interrupted),
            TEST(compiled_loops_are_reached),
            TEST(the_line_is_named),
            TEST(catching_does_not_defeat_it),
            TEST(nested_tasks_do_not_defeat_it),
            TEST(who_catches_it_and_waits_goes_on),
            TEST(the_spawner_goes_on),
            TEST(other_errors_are_not_marked),
            TEST(short_tasks_are_left_alone),
            TEST(tasks_of_one_call_each_have_the_budget),
            TEST(calls_outside_of_tasks_are_interrupted),
            TEST(budget_0_interrupts_nothing),
            TEST(a_longer_budget_counts_at_once),
            TEST(an_idle_thread_has_no_ticks),
            TEST(the_hook_of_a_script_comes_back),
            TEST(profiling_by_a_script_is_possible),
            TEST(every_thread_has_its_own),
            TEST(two_states_of_one_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
