/* cluster_link_pushes.c - see cluster_link.h: values for the peer, and whether it has taken them.
 *
 * Nothing depends on it, so no push has a timer of its own: they stand in a row, and one timer looks at its
 * beginning. SPDX-License-Identifier: MIT */
#include "node/cluster_link_parts.h"

#include "base/alloc.h"
#include "base/err.h"

#define ROW_LEAST 16u
#define ROW_KEPT 4096u /* places that are not given back when all are taken */

static znl_cluster_push *at_place(const znl_cluster_link *link, uint32_t number)
{
    return &link->pushes[(link->push_first + number) & (link->push_capacity - 1)];
}

static void drop_first(znl_cluster_link *link)
{
    link->push_first = (link->push_first + 1) & (link->push_capacity - 1);
    link->push_count--;
}

/* Takes the first off the row while they are taken, or due. */
static void clean_up(znl_cluster_link *link, uint64_t now_ms)
{
    while (link->push_count > 0) {
        const znl_cluster_push *first = at_place(link, 0);
        if (!first->is_taken && first->deadline_ms > now_ms)
            return;
        link->counters.untaken += !first->is_taken;
        drop_first(link);
    }
    if (link->push_capacity > ROW_KEPT) {
        znl_free(link->pushes);
        link->pushes = NULL;
        link->push_capacity = 0;
    }
}

static void on_due(znl_timer *timer);

static void plan(znl_cluster_link *link)
{
    uint64_t deadline_ms = at_place(link, 0)->deadline_ms;
    if (deadline_ms != UINT64_MAX)
        znl_wheel_start(znl_loop_wheel(link->loop), &link->push_timer, deadline_ms, on_due);
}

static void on_due(znl_timer *timer)
{
    znl_cluster_link *link = (znl_cluster_link *)(void *)((char *)timer -
            offsetof(znl_cluster_link, push_timer));
    clean_up(link, znl_cluster_now(link));
    if (link->push_count > 0)
        plan(link);
}

static int make_room(znl_cluster_link *link)
{
    if (link->push_count < link->push_capacity)
        return 0;
    uint32_t capacity = link->push_capacity > 0 ? link->push_capacity * 2 : ROW_LEAST;
    znl_cluster_push *pushes = znl_calloc(capacity, sizeof *pushes);
    if (pushes == NULL)
        return ZNL_E_NOMEM;
    for (uint32_t i = 0; i < link->push_count; i++)
        pushes[i] = *at_place(link, i);
    znl_free(link->pushes);
    link->pushes = pushes;
    link->push_capacity = capacity;
    link->push_first = 0;
    return 0;
}

static void wait_for(znl_cluster_link *link, uint32_t id, uint32_t timeout_ms)
{
    if (link->push_count >= link->max_pending) {
        link->counters.untaken += !at_place(link, 0)->is_taken;
        drop_first(link);
    }
    uint64_t deadline_ms = timeout_ms > 0 ? znl_cluster_now(link) + timeout_ms : UINT64_MAX;
    if (link->push_count > 0) {
        uint64_t last_ms = at_place(link, link->push_count - 1)->deadline_ms;
        deadline_ms = deadline_ms < last_ms ? last_ms : deadline_ms;
    }
    *at_place(link, link->push_count) = (znl_cluster_push){
            .id = id, .deadline_ms = deadline_ms};
    link->push_count++;
    if (!znl_timer_running(&link->push_timer))
        plan(link);
}

int znl_cluster_link_push(
        znl_cluster_link *link, znl_frame text, znl_frame value, uint32_t timeout_ms)
{
    uint8_t *at;
    if (link->is_closed)
        return ZNL_E_CLOSED;
    if (value.size == 0)
        return ZNL_E_INVALID; /* originals do not hand it up */
    int err = make_room(link);
    if (err == 0)
        err = znl_cluster_reserve(link, text, value, &at);
    if (err != 0)
        return err;
    uint32_t id = znl_cluster_next_id(link);
    const znl_cluster_head head = {
            .id = id, .timeout_ms = znl_cluster_wire_timeout(timeout_ms)};
    znl_cluster_send(link, at, &head, text, value);
    link->counters.pushed++;
    wait_for(link, id, timeout_ms);
    return 0;
}

/* How many ids after the first of the row. */
static uint32_t distance(const znl_cluster_link *link, uint32_t id)
{
    uint32_t first = at_place(link, 0)->id;
    return id >= first ? id - first : id + ZNL_CLUSTER_ID_MAX - first;
}

/* The place of an id, or UINT32_MAX. Mostly nothing else was sent in between. */
static uint32_t find(const znl_cluster_link *link, uint32_t id)
{
    uint32_t wanted = distance(link, id);
    if (wanted < link->push_count && at_place(link, wanted)->id == id)
        return wanted;
    uint32_t low = 0, high = link->push_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (distance(link, at_place(link, middle)->id) < wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return low < link->push_count && at_place(link, low)->id == id ? low : UINT32_MAX;
}

int znl_cluster_take_push(znl_cluster_link *link, int64_t id)
{
    if (link->push_count == 0 || id <= 0 || id > ZNL_CLUSTER_ID_MAX)
        return 0;
    uint32_t number = find(link, (uint32_t)id);
    if (number == UINT32_MAX || at_place(link, number)->is_taken)
        return 0;
    link->counters.taken++;
    at_place(link, number)->is_taken = 1;
    if (number == 0)
        clean_up(link, 0);
    return 1;
}

void znl_cluster_close_pushes(znl_cluster_link *link)
{
    link->push_count = 0;
}
