/* nats_alloc_test.c - fails each allocation in turn, ours and Lua's, under connections to NATS; whatever fails, nothing
 * may be left alive. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/random.h"
#include "support/nats_server.h"
#include "support/scenario.h"

static const char scenario[] =
        "local core, sched = require('znl.core.nats'), require('znl.core.sched')\n"
        "local up, got = sched.event(), sched.event()\n"
        "local nats = assert(core.connect({ servers = { '%s' }, name = 'n', echo = true,\n"
        "  reconnect_min_ms = 1, reconnect_max_ms = 1 },\n"
        "  function(event, state) if state == 'connected' then up:set(true) end end))\n"
        "local taken = assert(nats:subscribe('taken', {}))\n"
        "local count = 0\n"
        "local handled = assert(nats:subscribe('handled.*', { queue = 'q', max_concurrency = 1, fn = function(message)\n"
        "  assert(core.headers(message.lines).A[2] == '2' and core.header(message.lines, 'b') == '3')\n"
        "  count = count + 1\n"
        "  sched.sleep(1)\n"
        "  if message.reply then message.core:publish(message.reply, message.data) end\n"
        "  if count == 3 then got:set(true) end\n"
        "end }))\n"
        "assert(up:wait(40))\n"
        "local lines = 'A: 1\\r\\nB: 3\\r\\nA: 2\\r\\n'\n"
        "assert(nats:publish('handled.1', 'x', nil, lines) and nats:publish('handled.2', 'y', nil, lines))\n"
        "assert(nats:request('handled.3', 'z', 40, lines).data == 'z')\n"
        "assert(got:wait(40))\n"
        "assert(select(3, nats:request('nobody', '', 40)) == 'UNREACHABLE')\n"
        "assert(nats:publish('taken', 'one') and nats:publish('taken', 'two') and nats:flush(40))\n"
        "assert(taken:next(40).data == 'one' and taken:pending() == 1)\n"
        "taken:stop()\n"
        "assert(taken:next(40).data == 'two' and taken:wait_idle(40))\n"
        "assert(select(3, taken:next(1)) == 'TIMEOUT')\n"
        "assert(nats:counters().sent == 7 and #nats:new_inbox() > 20 and nats:max_payload() > 0)\n"
        "handled:unsubscribe()\n"
        "nats:close()\n"
        "assert(nats:state() == 'closed' and select(3, taken:next()) == 'CLOSED')\n";

static void whatever_fails_under_a_connection(void **state)
{
    nats_server server = {0};
    char text[sizeof scenario + 100];
    (void)state;
    nats_server_start(&server);
    snprintf(text, sizeof text, scenario, server.url);
    scenario_fail_each(text, 100);
    nats_server_remove(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whatever_fails_under_a_connection)};
    if (znl_random_start() != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
