/* cluster_alloc_test.c - fails each allocation in turn, ours and Lua's, under leaders and followers of the
 * cluster-client protocol; whatever fails, nothing may be left alive.
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
        "local cluster = require('znl.core.cluster')\n"
        "local server = assert(cluster.listen{ on_event = function() end })\n"
        "local values = {}\n"
        "local channel = assert(server:channel{ name = 'C', check_registration = true, on_event =\n"
        "  function(name) return true, { proof = 'p' } end })\n"
        "channel:set_handler(function(req)\n"
        "  if req.method == 'refuse' then return nil, 'no', 'E_NO' end\n"
        "  if req.method == 'raise' then error({ message = 'coded', code = 7 }) end\n"
        "  if req.method == 'boom' then error('boom', 0) end\n"
        "  return { req.args[1], req.from }\n"
        "end)\n"
        "local link = assert(cluster.connect{ host = '127.0.0.1', port = server:port(), timeout_ms = patience_ms,\n"
        "  on_event = function(name, key, value) if name == 'value' then values[#values + 1] = value end end })\n"
        "assert(channel:ready(true))\n"
        "local result, extension = link:register('C', patience_ms, { v = 1, secret = 's' })\n"
        "assert(result and result.success and extension.proof == 'p' and link:is_ours())\n"
        "link:begin()\n"
        "local answer = assert(link:invoke('echo', patience_ms, 1, { a = 'hello', b = { 1, 2.5 } }))\n"
        "assert(answer[1].a == 'hello' and type(answer[2]) == 'string')\n"
        "assert(select(3, link:invoke('refuse', patience_ms, 0)) == 'E_NO')\n"
        "assert(select(3, link:invoke('raise', patience_ms, 0)) == 7)\n"
        "assert(select(2, link:invoke('boom', patience_ms, 0)) == 'boom')\n"
        "assert(select(3, link:invoke('echo', patience_ms, 1, print)) == 'INVALID')\n"
        "assert(link:oneway('note', patience_ms, 1, 'x'))\n"
        "assert(link:subscribe('key', '{\"a\":1}'))\n"
        "assert(link:invoke('echo', patience_ms, 0))\n"
        "assert(channel:subscribe('key', '{\"a\":1}'))\n"
        "assert(channel:publish('key', { n = 1 }) == 2)\n"
        "assert(channel:last('key').n == 1)\n"
        "assert(link:invoke('echo', patience_ms, 0) and values[1].n == 1)\n"
        "assert(link:unsubscribe('key') and channel:keys()[1].key == 'key')\n"
        "assert(channel:counters().followers == 1 and server:counters().channels == 1)\n"
        "local other = assert(server:channel{ name = 'J', transcode = {\n"
        "  encode = function(value) return tostring(value) end, decode = function(text) return text end } })\n"
        "assert(other:ready(false, { message = 'down' }))\n"
        "link:close()\n"
        "channel:close()\n"
        "server:close()\n";

/* Invokes of `method` that meet the end of memory: their places among the handlers at work are free again, and so
 * are those in the queue. `transcode`: nil, or functions of a script. */
#define SHORT_OF_MEMORY(method, transcode)                                                                  \
    "local cluster, sched = require('znl.core.cluster'), require('znl.core.sched')\n"                       \
    "local transcode = " transcode "\n"                                                                     \
    "local server = assert(cluster.listen{})\n"                                                             \
    "local channel = assert(server:channel{ name = 'C', max_concurrency = 1, transcode = transcode })\n"    \
    "channel:set_handler(function(req)\n"                                                                   \
    "  sched.sleep(1)\n"                                                                                    \
    "  if req.method == 'refuse' then return nil, 'no', 'E_NO' end\n"                                       \
    "  return req.args[1]\n"                                                                                \
    "end)\n"                                                                                                \
    "channel:ready(true)\n"                                                                                 \
    "local link\n"                                                                                          \
    "local function connect()\n"                                                                            \
    "  if link and link:is_open() then return end\n"                                                        \
    "  link = assert(cluster.connect{ host = '127.0.0.1', port = server:port(), transcode = transcode })\n" \
    "  assert(link:register('C', 30000).success)\n"                                                         \
    "end\n"                                                                                                 \
    "connect()\n"                                                                                           \
    "local text = ('x'):rep(100000)\n"                                                                      \
    "local failed = 0\n"                                                                                    \
    "for n = 0, 60 do\n"                                                                                    \
    "  for _ = 1, 3 do sched.spawn(function() link:invoke('" method                                         \
    "', 20, 1, text) end) end\n"                                                                            \
    "  fail_after(n)\n"                                                                                     \
    "  sched.sleep(10)\n"                                                                                   \
    "  fail_after(-1)\n"                                                                                    \
    "  collectgarbage()\n"                                                                                  \
    "  local counters\n"                                                                                    \
    "  for _ = 1, 3000 do\n"                                                                                \
    "    sched.sleep(10)\n"                                                                                 \
    "    counters = channel:counters()\n"                                                                   \
    "    if counters.handlers + counters.queued == 0 then break end\n"                                      \
    "  end\n"                                                                                               \
    "  assert(counters.handlers == 0, 'at work after ' .. n)\n"                                             \
    "  assert(counters.queued == 0, 'queued after ' .. n)\n"                                                \
    "  failed = failed + counters.overloaded + (link:is_open() and 0 or 1)\n"                               \
    "  connect()\n"                                                                                         \
    "  assert(link:invoke('x', 30000, 1, 'again') == 'again')\n"                                            \
    "end\n"                                                                                                 \
    "assert(failed > 0)\n"                                                                                  \
    "link:close()\n"                                                                                        \
    "server:close()\n"

/* What it writes for a table says only what the test asks for. */
#define FUNCTIONS                                                                                 \
    "{ encode = function(value) return type(value) == 'table' and '{}' or tostring(value) end,\n" \
    "decode = function(text) return text == '{}' and { success = true } or text end }"

static void every_allocation_may_fail(void **state)
{
    (void)state;
    assert_true(scenario_attempt(scenario, -1, 100000));
    scenario_fail_each(scenario, 250);
}

static void an_invoke_without_memory_leaves_no_job_behind(void **state)
{
    (void)state;
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    assert_true(scenario_attempt(SHORT_OF_MEMORY("x", "nil"), -1, 100000));
    assert_true(scenario_attempt(SHORT_OF_MEMORY("refuse", FUNCTIONS), -1, 100000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(an_invoke_without_memory_leaves_no_job_behind),
            cmocka_unit_test(every_allocation_may_fail),
    };
    if (znl_random_start() != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
