/* micro_alloc_test.c - fails each allocation in turn, ours and Lua's, under connections of the micro protocol
 * and what they say to each other; whatever fails, nothing may be left alive.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/random.h"
#include "support/scenario.h"

static const char scenario[] =
        "local micro = require('znl.core.micro')\n"
        "local server = assert(micro.new{ listen_host = '127.0.0.1', listen_port = 0,\n"
        "  on_event = function() end })\n"
        "server:set_handler(function(req)\n"
        "  if not req.is_stream then return { req.data, req.id, req.from } end\n"
        "  assert(req:write({ 1 }))\n"
        "  return function(_, i) if not i then return 2 end end\n"
        "end)\n"
        "server:check_upgrades(true)\n"
        "assert(server:start())\n"
        "local client = assert(micro.new{ on_event = function() end, max_concurrency = 1 })\n"
        "local conn = assert(client:connect{ host = '127.0.0.1', port = server:port(),\n"
        "  path = '/127.0.0.1/9001/me', headers = { ['X-A'] = 'b' }, timeout_ms = 40 })\n"
        "conn:set_peer('key', {})\n"
        "local reply = assert(conn:request('/echo', { a = 'hello' }, 40))\n"
        "assert(reply[1].a == 'hello' and type(reply[2]) == 'string')\n"
        "assert(conn:push('/push', { 'a', 'b' }))\n"
        "local stream = assert(conn:stream('/stream', nil, 40, 1))\n"
        "local ok, chunk = stream:read()\n"
        "assert(ok and chunk[1] == 1)\n"
        "ok, chunk = stream:read()\n"
        "assert(ok and chunk == 2)\n"
        "assert(stream:read() == false)\n"
        "assert(select(3, conn:request('/', print)) == 'INVALID')\n"
        "stream = assert(conn:stream('/stream', nil, 40, 1))\n"
        "assert(stream:read())\n"
        "local inbound = server:connections()[1]\n"
        "client:set_handler(function() error({ status = 418, message = 'teapot' }) end)\n"
        "assert(select(3, inbound:request('/', nil, 40)) == 418)\n"
        "client:set_handler(function() error('boom') end)\n"
        "assert(select(3, inbound:request('/', nil, 40)) == 500)\n"
        "assert(server:counters().connections == 1)\n"
        "stream:close()\n"
        "conn:close()\n"
        "server:stop()\n";

/* A request that meets the end of memory: its place among the handlers at work is free again, and so is
 * one in the queue. */
static const char short_of_memory[] =
        "local micro, sched = require('znl.core.micro'), require('znl.core.sched')\n"
        "local server = assert(micro.new{ listen_host = '127.0.0.1', listen_port = 0, max_concurrency = 1 })\n"
        "server:set_handler(function(req) sched.sleep(1) return req.data end)\n"
        "assert(server:start())\n"
        "local client = assert(micro.new{ on_event = function() end })\n"
        "local function connect()\n"
        "  return assert(client:connect{ host = '127.0.0.1', port = server:port() })\n"
        "end\n"
        "local conn = connect()\n"
        "assert(conn:request('/', 'hello', 30000))\n"
        "local text = ('x'):rep(100000)\n"
        "local failed = 0\n"
        "for n = 0, 40 do\n"
        "  if not conn:is_open() then conn = connect() end\n"
        "  for _ = 1, 3 do sched.spawn(function() conn:request('/', text, 20) end) end\n"
        "  fail_after(n)\n"
        "  sched.sleep(10)\n"
        "  fail_after(-1)\n"
        "  collectgarbage()\n"
        "  local counters\n"
        "  for _ = 1, 3000 do\n"
        "    sched.sleep(10)\n"
        "    counters = server:counters()\n"
        "    if counters.handlers + counters.queued == 0 then break end\n"
        "  end\n"
        "  assert(counters.handlers == 0, 'at work after ' .. n)\n"
        "  assert(counters.queued == 0, 'queued after ' .. n)\n"
        "  failed = failed + counters.overloaded\n"
        "  if not conn:is_open() then conn = connect() end\n"
        "  assert(conn:request('/', 'again', 30000) == 'again')\n"
        "end\n"
        "assert(failed > 0)\n"
        "client:stop()\n"
        "server:stop()\n";

static void every_allocation_may_fail(void **state)
{
    (void)state;
    scenario_fail_each(scenario, 250);
}

static void a_request_without_memory_leaves_no_job_behind(void **state)
{
    (void)state;
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    assert_true(scenario_attempt(short_of_memory, -1, 250000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_request_without_memory_leaves_no_job_behind),
            cmocka_unit_test(every_allocation_may_fail),
    };
    if (znl_random_start() != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
