/* alloc_test.c - fails each allocation in turn, ours and Lua's, under a master, a slave and what
 * they say to each other; whatever fails, nothing may be left alive.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/random.h"
#include "security/aead.h"
#include "support/scenario.h"

static const char scenario[] =
        "local node = require('znl.core.node')\n"
        "local m = assert(node.master{ id = 'm', endpoint = 'inproc://alloc', encrypted = true,\n"
        "  auth_keys = { s = 'key' }, on_event = function() end })\n"
        "m:set_handler(function(req) return { req.payload, req.id } end)\n"
        "assert(m:start())\n"
        "local s = assert(node.slave{ id = 's', endpoints = { m:endpoint(), 'sim://no' },\n"
        "  master_ids = { 'm', 'n' }, encrypted = true, auth_key = 'key', on_event = function() end })\n"
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

/* A request that meets the end of memory: its place among the handlers at work is free again. */
static const char short_of_memory[] =
        "local node, sched = require('znl.core.node'), require('znl.core.sched')\n"
        "local m = assert(node.master{ id = 'm', endpoint = 'inproc://short', on_event = function() end,\n"
        "  max_concurrency = 1 })\n"
        "m:set_handler(function(req) return req.payload end)\n"
        "assert(m:start())\n"
        "local s = assert(node.slave{ id = 's', endpoint = m:endpoint(), on_event = function() end })\n"
        "assert(s:start())\n"
        "assert(s:request('hello', 30000))\n"
        "local text = ('x'):rep(100000)\n"
        "local failed = 0\n"
        "for n = 0, 30 do\n"
        "  sched.spawn(function() s:request(text, 20) end)\n"
        "  fail_after(n)\n"
        "  sched.sleep(10)\n"
        "  fail_after(-1)\n"
        "  collectgarbage()\n"
        "  for _ = 1, 3000 do\n"
        "    sched.sleep(10)\n"
        "    if m:counters().handlers == 0 then break end\n"
        "  end\n"
        "  assert(m:counters().handlers == 0, 'at work after ' .. n)\n"
        "  failed = failed + m:counters().overloaded\n"
        "  assert(s:request('again', 30000) == 'again')\n"
        "end\n"
        "assert(failed > 0)\n"
        "s:stop()\n"
        "m:stop()\n";

/* Both ends of a WebSocket, what is refused, and one that nobody closes. */
static const char websockets[] =
        "local websocket, sched = require('znl.core.websocket'), require('znl.core.sched')\n"
        "local server = assert(websocket.listen({ host = '127.0.0.1', port = 0, close_ms = 20 },\n"
        "  function(exchange, request)\n"
        "    if request.status ~= 101 or request.target == '/no' then\n"
        "      exchange:respond(404, 'X-Why: no\\r\\n', request.method .. request.headers.host)\n"
        "      return\n"
        "    end\n"
        "    local conn = exchange:accept('X-Yes: 1\\r\\n')\n"
        "    while conn do\n"
        "      local data, is_binary = conn:recv(40)\n"
        "      if not data or data == true then break end\n"
        "      sched.sleep(1)\n"
        "      conn:send(data, is_binary)\n"
        "    end\n"
        "  end))\n"
        "local function connect(path)\n"
        "  return websocket.connect { host = '127.0.0.1', port = server:port(), path = path, timeout_ms = 40,\n"
        "    close_ms = 20, headers = 'X-Ask: 1\\r\\n', protocols = 'a' }\n"
        "end\n"
        "local conn, headers = connect('/yes')\n"
        "assert(conn, headers)\n"
        "assert(headers['x-yes'] == '1')\n"
        "for i = 1, 3 do assert(conn:send('text ' .. i, false)) end\n"
        "for i = 1, 3 do assert(conn:recv(40) == 'text ' .. i) end\n"
        "sched.spawn(function() conn:recv(40) end)\n"
        "assert(conn:ping(40))\n"
        "assert(select(4, connect('/no')) == 404)\n"
        "conn:close(1000, 'done')\n"
        "for _ = 1, 20 do\n"
        "  if conn:ending() then break end\n"
        "  sched.sleep(2)\n"
        "end\n"
        "assert(select(2, conn:ending()) == 1000)\n"
        "local left_open = assert(connect('/yes'))\n"
        "assert(left_open:send('x', true))\n"
        "server:close()\n";

static void every_allocation_may_fail(void **state)
{
    (void)state;
    scenario_fail_each(scenario, 500);
}

static void every_allocation_of_websockets_may_fail(void **state)
{
    (void)state;
    scenario_fail_each(websockets, 500);
}

static void a_request_without_memory_leaves_no_job_behind(void **state)
{
    (void)state;
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    assert_true(scenario_attempt(short_of_memory, -1, 100000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_request_without_memory_leaves_no_job_behind),
            cmocka_unit_test(every_allocation_may_fail),
            cmocka_unit_test(every_allocation_of_websockets_may_fail),
    };
    if (znl_random_start() != 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    znl_aead_thread_end();
    return failed;
}
