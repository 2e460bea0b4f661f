/* scenario.c - see scenario.h. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "bind/bind.h"
#include "security/keys.h"
#include "support/scenario.h"
#include "transport/loop.h"
#include "vm/sched.h"

static struct {
    znl_loop *loop;
    const char *text;
    znl_timer guard;
    long n;
    int clean; /* the scenario came to its end */
} run;

static void done(void *user, lua_State *L, int status, int nresults)
{
    (void)user;
    (void)nresults;
    run.clean = status == 0;
    if (status != 0 && run.n < 0)
        print_message("%s\n", lua_tostring(L, 1));
    znl_loop_stop(run.loop);
}

static void give_up(znl_timer *timer)
{
    (void)timer;
    znl_loop_stop(run.loop);
}

static int fail_after(lua_State *L)
{
    znl_alloc_fail_after((long)luaL_checkinteger(L, 1));
    return 0;
}

static int open_modules(lua_State *L)
{
    znl_bind_open_all(L);
    lua_register(L, "fail_after", fail_after);
    lua_pushinteger(L, run.n < 0 ? 30000 : 40);
    lua_setglobal(L, "patience_ms");
    return 0;
}

static int start(lua_State *L)
{
    if (luaL_loadbuffer(L, run.text, strlen(run.text), "=scenario") != 0)
        return lua_error(L);
    if (znl_sched_spawn(L, 0, NULL, done, NULL) != 0)
        znl_loop_stop(run.loop);
    return 0;
}

int scenario_attempt(const char *text, long n, uint32_t guard_ms)
{
    znl_vm *vm = NULL;
    memset(&run, 0, sizeof run);
    run.text = text;
    run.n = n;
    assert_int_equal(znl_loop_new(&run.loop), 0);
    assert_int_equal(znl_vm_new(&vm, run.loop), 0);
    assert_int_equal(znl_vm_protect(vm, open_modules, NULL, "test"), 0);
    znl_alloc_fail_after(n);
    if (znl_vm_protect(vm, start, NULL, "test") == 0) {
        znl_wheel_start(znl_loop_wheel(run.loop), &run.guard,
                znl_loop_now_ms(run.loop) + guard_ms, give_up);
        znl_loop_run(run.loop);
        znl_wheel_stop(znl_loop_wheel(run.loop), &run.guard);
    }
    znl_alloc_fail_after(-1);
    znl_vm_free(vm);
    assert_int_equal(znl_loop_close(run.loop), 0);
    assert_int_equal(znl_keys_blocks(), 0);
    return run.clean;
}

void scenario_fail_each(const char *text, uint32_t guard_ms)
{
    long n = 0;
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    /* Every one at first, then every third: the later ones repeat the same places. */
    while (!scenario_attempt(text, n, guard_ms)) {
        assert_true(n < 100000);
        n += n < 60 ? 1 : 3;
    }
    print_message("first clean run with %ld allocations granted\n", n);
    assert_true(n > 50); /* the hook was there at all */
}
