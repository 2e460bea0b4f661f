/* alloc_test.c - fails each allocation in turn, ours and Lua's, under a master, a slave and what
 * they say to each other; whatever fails, nothing may be left alive.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/random.h"
#include "bind/bind.h"
#include "security/aead.h"
#include "security/keys.h"
#include "transport/loop.h"
#include "vm/sched.h"

static const char scenario[] =
        "local node = require('znl.core.node')\n"
        "local m = assert(node.master{ id = 'm', endpoint = 'inproc://alloc', encrypted = true,\n"
        "  auth_keys = { s = 'key' }, on_event = function() end })\n"
        "m:set_handler(function(req) return { req.payload, req.id } end)\n"
        "assert(m:start())\n"
        "local s = assert(node.slave{ id = 's', endpoint = m:endpoint(), encrypted = true,\n"
        "  auth_key = 'key', on_event = function() end })\n"
        "s:set_handler(function(req) return req.payload end)\n"
        "s:set_service('echo', function(req) return req.payload end)\n"
        "assert(s:start())\n"
        "local reply = assert(s:request('hello', 40))\n"
        "assert(reply[1] == 'hello')\n"
        "assert(s:push('topic', { 'a', 'b' }))\n"
        "assert(m:publish('topic', 'text') == 1)\n"
        "assert(m:request('s', 'ping', 40) == 'ping')\n"
        "assert(m:service_request('s', 'echo', 'ping', 40) == 'ping')\n"
        "assert(m:slaves()[1].id == 's' and m:counters().slaves == 1)\n"
        "s:stop()\n"
        "m:stop()\n";

struct run {
    znl_loop *loop;
    znl_timer guard;
    int clean; /* the scenario came to its end */
};

static struct run run;

static void done(void *user, lua_State *L, int status, int nresults)
{
    (void)user;
    (void)L;
    (void)nresults;
    run.clean = status == 0;
    znl_loop_stop(run.loop);
}

static void give_up(znl_timer *timer)
{
    (void)timer;
    znl_loop_stop(run.loop);
}

static int open_modules(lua_State *L)
{
    znl_bind_open_all(L);
    return 0;
}

static int start(lua_State *L)
{
    if (luaL_loadbuffer(L, scenario, sizeof scenario - 1, "=scenario") != 0)
        return lua_error(L);
    if (znl_sched_spawn(L, 0, NULL, done, NULL) != 0)
        znl_loop_stop(run.loop);
    return 0;
}

/* One run with the n-th allocation failing. Returns 1 when nothing failed. */
static int attempt(long n)
{
    znl_vm *vm = NULL;
    run = (struct run){0};
    assert_int_equal(znl_loop_new(&run.loop), 0);
    assert_int_equal(znl_vm_new(&vm, run.loop), 0);
    assert_int_equal(znl_vm_protect(vm, open_modules, NULL, "test"), 0);
    znl_alloc_fail_after(n);
    if (znl_vm_protect(vm, start, NULL, "test") == 0) {
        znl_wheel_start(
                znl_loop_wheel(run.loop), &run.guard, znl_loop_now_ms(run.loop) + 500, give_up);
        znl_loop_run(run.loop);
        znl_wheel_stop(znl_loop_wheel(run.loop), &run.guard);
    }
    znl_alloc_fail_after(-1);
    znl_vm_free(vm);
    assert_int_equal(znl_loop_close(run.loop), 0);
    assert_int_equal(znl_keys_blocks(), 0);
    return run.clean;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    long n = 0;
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    /* Every one at first, then every third: the later ones repeat the same places. */
    while (!attempt(n)) {
        assert_true(n < 100000);
        n += n < 60 ? 1 : 3;
    }
    print_message("first clean run with %ld allocations granted\n", n);
    assert_true(n > 50); /* the hook was there at all */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_may_fail)};
    if (znl_random_start() != 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    znl_aead_thread_end();
    return failed;
}
