/* slave.h - the DEALER side of ZNL v1 (spec, sections 11 to 14).
 *
 *   start:  connect, register, heartbeat
 *   beat:   idle --interval--> waiting --valid traffic--> idle
 *                              waiting --ack timeout--> rebuild: new socket, register, heartbeat
 *
 *   With several endpoints a rebuild goes to the next one, after a lost connection too, unless the same
 *   master is back first. Until a new connection has its first answer its time is shorter (rota.h).
 *
 *   calls:  unknown --first heartbeat_ack of a connection--> yes or no --rebuild, lost--> unknown
 *
 * While it is unknown whether the master reads calls, those to send and those received wait. One
 * heartbeat is in flight at a time. Until a connection is complete everything waits in the
 * outbox; a rebuild ends pending requests but keeps unsent pushes and, at the same endpoint, answers.
 *
 * Layer: node. One loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_SLAVE_H
#define ZNL_NODE_SLAVE_H

#include "node/node.h"

typedef struct znl_slave znl_slave;

/* An encrypted slave needs `options->secret`: ZNL_E_NO_KEY. ZNL_E_INVALID: several endpoints, and no
 * heartbeats to tell whether one answers. */
int znl_slave_new(znl_slave **out, znl_loop *loop, const znl_node_options *options,
        const znl_node_events *events, void *user);

/* Stops and frees. Not from inside one of its events. Accepts NULL. */
void znl_slave_free(znl_slave *slave);

znl_node *znl_slave_node(znl_slave *slave);

/* Starts connecting; succeeds without a master. 0 (also when running), ZNL_E_ADDRESS, … */
int znl_slave_start(znl_slave *slave);

/* Sends unregister if connected, rejects what is pending, closes. Never waits for a master. */
void znl_slave_stop(znl_slave *slave);

/* Asks the master; the answer or failure comes as an event with `waiter`. The time in the outbox
 * counts. 0, ZNL_E_LIMIT, ZNL_E_STOPPED, ZNL_E_BUSY, … */
int znl_slave_request(znl_slave *slave, const znl_frame *payload, size_t count,
        uint32_t timeout_ms, znl_waiter waiter);

/* The same as a call: with a route and the time left. It waits until the master has said whether it
 * reads calls; if it does not, the failure is ZNL_E_UNSUPPORTED, here or as an event. */
int znl_slave_call(znl_slave *slave, const znl_call *call, const znl_frame *payload,
        size_t count, uint32_t timeout_ms, znl_waiter waiter);

/* What the master said last; ZNL_CALLS_UNKNOWN before its first acknowledgement. */
znl_calls znl_slave_calls(const znl_slave *slave);

/* Answers a request, or with `service` of size > 0 a service request. `call` marks the answer to a
 * call, or an error answer (payload: code and message); NULL: a plain payload. UNSUPPORTED: nothing
 * was sent, since the master would not read it. */
int znl_slave_reply(znl_slave *slave, znl_frame request_id, znl_frame service,
        const znl_call *call, const znl_frame *payload, size_t count);

int znl_slave_push(znl_slave *slave, znl_frame topic, const znl_frame *payload, size_t count);

int znl_slave_master_online(const znl_slave *slave);

/* The id the master proved, size 0 while unknown. */
znl_frame znl_slave_master_id(const znl_slave *slave);

#endif
