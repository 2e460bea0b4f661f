/* master.h - the ROUTER side of ZNL v1 (spec, sections 10, 12, 13).
 *
 *   off line --any valid message--> on line --unregister, silence, no key, send failed--> off line
 *
 * Every valid message is a sign of life; a heartbeat is acknowledged before anything else runs. So is
 * a register of a slave that reads calls: it must know the same of this side before a call arrives.
 * In encrypted mode an unregister without proof is only a hint: the slave is probed, and removed
 * when its connection is gone or it stays silent (spec, section 19, item 1).
 *
 * Layer: node. One loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_MASTER_H
#define ZNL_NODE_MASTER_H

#include "node/node.h"
#include "state/presence.h"

typedef struct znl_master znl_master;

int znl_master_new(znl_master **out, znl_loop *loop, const znl_node_options *options,
        const znl_node_events *events, void *user);

/* Stops and frees. Not from inside one of its events. Accepts NULL. */
void znl_master_free(znl_master *master);

znl_node *znl_master_node(znl_master *master);

/* Binds the endpoint. 0 (also when running), ZNL_E_ADDRESS_IN_USE, ZNL_E_ADDRESS, … */
int znl_master_start(znl_master *master);

/* Rejects what is pending, forgets who is on line, closes the socket. Harmless when stopped. */
void znl_master_stop(znl_master *master);

/* Per-slave keys, effective at once. Removing one takes the slave off line. */
int znl_master_set_key(znl_master *master, znl_frame id, znl_frame secret);
int znl_master_remove_key(znl_master *master, znl_frame id);

/* Takes a slave off line, whose next message brings it back; `reason` is static. ZNL_E_NOT_FOUND. */
int znl_master_forget(znl_master *master, znl_frame id, const char *reason);

/* Asks a slave; the answer or failure comes as an event with `waiter`. `service` of size 0 is an
 * ordinary request. 0, or an error when nothing was sent: LIMIT, NO_KEY, UNREACHABLE, BUSY, … */
int znl_master_request(znl_master *master, znl_frame id, znl_frame service,
        const znl_frame *payload, size_t count, uint32_t timeout_ms, znl_waiter waiter);

/* The same as a call: with a route and the time left. Also UNSUPPORTED, from a slave that has not
 * said that it reads calls. */
int znl_master_call(znl_master *master, znl_frame id, const znl_call *call,
        const znl_frame *payload, size_t count, uint32_t timeout_ms, znl_waiter waiter);

/* What that slave said last; ZNL_CALLS_UNKNOWN when it is not on line or has said nothing yet. */
znl_calls znl_master_calls(znl_master *master, znl_frame id);

/* Answers; waits in the outbox while the slave's queue is full. `call` marks the answer to a call, or
 * an error answer (payload: code and message); NULL: a plain payload. UNSUPPORTED: nothing was sent,
 * since the slave would not read it. */
int znl_master_reply(znl_master *master, znl_frame id, znl_frame request_id,
        const znl_call *call, const znl_frame *payload, size_t count);

/* Sends to every slave on line. Slaves without key or connection go off line; those whose queue
 * is full are counted in *dropped. */
int znl_master_publish(znl_master *master, znl_frame topic, const znl_frame *payload,
        size_t count, size_t *sent, size_t *dropped);

/* Who is on line; walk with znl_presence_oldest() and znl_presence_newer(). */
const znl_presence *znl_master_presence(const znl_master *master);

#endif
