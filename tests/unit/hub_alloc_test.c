/* hub_alloc_test.c - fails each allocation in turn, ours and Lua's, under hubs and rosters; whatever fails,
 * nothing may be left alive. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "support/scenario.h"

static const char hub_scenario[] =
        "local core, websocket = require('znl.core.hub'), require('znl.core.websocket')\n"
        "local sched = require('znl.core.sched')\n"
        "local hub = assert(core.new{ prefix = 'p', app = 'a', origin = 'o', on_slow = 'drop',\n"
        "  on_event = function() end })\n"
        "assert(hub:start())\n"
        "local near = {}\n"
        "local server = assert(websocket.listen({ host = '127.0.0.1', port = 0, max_queue_bytes = 1024 },\n"
        "  function(exchange) near[1] = assert(exchange:accept('')) end))\n"
        "local far = assert(websocket.connect{ host = '127.0.0.1', port = server:port(), path = '/',\n"
        "  headers = '', timeout_ms = 40 })\n"
        "local id = assert(hub:attach(near[1], '/c'))\n"
        "assert(hub:join(id, 's', 'u', { 'x', 'y', 'x' }))\n"
        "local other = assert(hub:attach(near[1], '/d'))\n"
        "assert(select(3, assert(hub:join(other, 's', 'u'))) == id)\n"
        "assert(hub:broadcast('/c', 'x', { type = 't', payload = { 1, 'two' } }, { 'nobody' }) == 1)\n"
        "assert(far:recv(40))\n"
        "assert(hub:direct('u', { type = 't' }) == 2)\n"
        "assert(hub:send(id, { type = 't' }))\n"
        "assert(far:recv(40))\n"
        "local long = { type = ('t'):rep(500) }\n"
        "for _ = 1, 4 do hub:send(id, long) end\n"
        "sched.sleep(1)\n"
        "assert(hub:counters().slow_dropped >= 1)\n"
        "assert(hub:leave(id) == nil and hub:detach(id) == nil and hub:detach(other) == 's')\n"
        "assert(hub:attach(near[1], '/c'))\n"
        "hub:stop()\n"
        "far:close()\n"
        "server:close()\n";

static const char roster_scenario[] =
        "local core, sched = require('znl.core.roster'), require('znl.core.sched')\n"
        "local names = {}\n"
        "local roster = assert(core.new{ subject = 's', on_event = function(name) names[#names + 1] = name end })\n"
        "assert(roster:start())\n"
        "assert(roster:join{ ns = '/c', session_id = 's', user_id = 'u', metadata = { a = { 1 } } })\n"
        "assert(roster:join{ ns = '/c', session_id = 't' })\n"
        "assert(#roster:list('/c') == 2 and roster:find('s').metadata.a[1] == 1)\n"
        "assert(roster:metadata_text('s') == '{\"a\":[1]}' and #roster:owners() == 0)\n"
        "sched.sleep(1)\n"
        "assert(#names == 2)\n"
        "assert(roster:leave('s') and roster:counters().untold == 0)\n"
        "roster:stop()\n"
        "sched.sleep(1)\n"
        "assert(#names == 4)\n";

static void whatever_fails_under_a_roster(void **state)
{
    (void)state;
    scenario_fail_each(roster_scenario, 100);
}

static void whatever_fails_under_a_hub(void **state)
{
    (void)state;
    scenario_fail_each(hub_scenario, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(whatever_fails_under_a_hub),
            cmocka_unit_test(whatever_fails_under_a_roster),
    };
    if (znl_random_start() != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
