/* cluster_link_asks.c - see cluster_link.h: requests of ours that wait for an answer.
 *
 * Ids ascend, so those that wait lie close together: each at the place its lower bits name, in a ring at most half
 * full. An id whose place is taken by one that has waited long is left out. SPDX-License-Identifier: MIT */
#include "node/cluster_link_parts.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"

#define RING_LEAST 16u
#define RING_KEPT 8192u /* places that are not given back when nothing waits */

static znl_cluster_ask *place_of(const znl_cluster_link *link, int64_t id)
{
    return &link->asks[(uint64_t)id & (link->ask_capacity - 1)];
}

/* The ask with that id, or NULL. */
static znl_cluster_ask *find(const znl_cluster_link *link, int64_t id)
{
    if (link->ask_count == 0 || id <= 0)
        return NULL;
    znl_cluster_ask *ask = place_of(link, id);
    return ask->id == id ? ask : NULL;
}

uint32_t znl_cluster_next_id(znl_cluster_link *link)
{
    do
        link->last_id = link->last_id < ZNL_CLUSTER_ID_MAX ? link->last_id + 1 : 1;
    while (link->ask_count > 0 && place_of(link, link->last_id)->id != 0);
    return link->last_id;
}

/* Makes a ring of twice as many places when half of it would be full. Ids that did not share a place do not now. */
static int make_room(znl_cluster_link *link)
{
    if (link->ask_count < link->ask_capacity / 2)
        return 0;
    uint32_t capacity = link->ask_capacity > 0 ? link->ask_capacity * 2 : RING_LEAST;
    znl_cluster_ask *asks = znl_calloc(capacity, sizeof *asks);
    if (asks == NULL)
        return ZNL_E_NOMEM;
    for (uint32_t i = 0; i < link->ask_capacity; i++) {
        const znl_cluster_ask *from = &link->asks[i];
        if (from->id == 0)
            continue;
        znl_cluster_ask *to = &asks[(uint64_t)from->id & (capacity - 1)];
        *to = *from;
        znl_timer_move(&to->timer, &from->timer);
    }
    znl_free(link->asks);
    link->asks = asks;
    link->ask_capacity = capacity;
    return 0;
}

/* It waits no more; its place may be used again, or gone. */
static void release(znl_cluster_link *link, znl_cluster_ask *ask)
{
    znl_wheel_stop(znl_loop_wheel(link->loop), &ask->timer);
    ask->id = 0;
    link->ask_count--;
    if (link->ask_count == 0 && link->ask_capacity > RING_KEPT && !link->is_closed) {
        znl_free(link->asks);
        link->asks = NULL;
        link->ask_capacity = 0;
    }
}

static void fail(znl_cluster_link *link, znl_cluster_ask *ask, int err)
{
    znl_waiter waiter = ask->waiter;
    release(link, ask);
    if (waiter.owner != NULL)
        link->events->on_failed(link->user, waiter, err);
}

static void on_timeout(znl_timer *timer)
{
    znl_cluster_ask *ask =
            (znl_cluster_ask *)(void *)((char *)timer - offsetof(znl_cluster_ask, timer));
    ask->link->counters.timeouts++;
    fail(ask->link, ask, ZNL_E_TIMEOUT);
}

int znl_cluster_link_ask(znl_cluster_link *link, const znl_cluster_message *message,
        znl_frame data, uint32_t timeout_ms, znl_waiter waiter, int64_t *id)
{
    znl_frame text;
    uint8_t *at;
    if (link->is_closed)
        return ZNL_E_CLOSED;
    if (link->ask_count >= link->max_pending)
        return ZNL_E_LIMIT;
    int err = make_room(link);
    if (err == 0)
        err = znl_cluster_compose(link, message, &text);
    if (err == 0)
        err = znl_cluster_reserve(link, text, data, &at);
    if (err != 0)
        return err;
    const znl_cluster_head head = {.id = znl_cluster_next_id(link),
            .timeout_ms = znl_cluster_wire_timeout(timeout_ms)};
    znl_cluster_ask *ask = place_of(link, head.id);
    ask->id = head.id;
    ask->link = link;
    ask->waiter = waiter;
    link->ask_count++;
    link->counters.asked++;
    if (timeout_ms > 0)
        znl_wheel_start(znl_loop_wheel(link->loop), &ask->timer,
                znl_clock_mono_ms() + timeout_ms, on_timeout);
    znl_cluster_send(link, at, &head, text, data);
    if (id != NULL)
        *id = head.id;
    return 0;
}

void znl_cluster_link_give_up(znl_cluster_link *link, int64_t id)
{
    znl_cluster_ask *ask = find(link, id);
    if (ask != NULL)
        release(link, ask);
}

int znl_cluster_take_answer(
        znl_cluster_link *link, int64_t id, const znl_cluster_message *message, znl_frame data)
{
    znl_cluster_ask *ask = find(link, id);
    if (ask == NULL)
        return 0;
    znl_waiter waiter = ask->waiter;
    link->counters.answers++;
    release(link, ask);
    if (waiter.owner != NULL)
        link->events->on_answer(link->user, waiter, message, data);
    return 1;
}

/* The oldest first. Events may give others up, and cannot add any. */
void znl_cluster_close_asks(znl_cluster_link *link, int err)
{
    for (uint32_t i = 1; i <= link->ask_capacity; i++) {
        znl_cluster_ask *ask = place_of(link, (int64_t)link->last_id + i);
        if (ask->id != 0)
            fail(link, ask, err);
    }
}
