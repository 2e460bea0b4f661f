/* sched_parts.h - the scheduler as sched.c and sched_task.c share it. Private to vm.
 *
 * Layer: vm. SPDX-License-Identifier: MIT */
#ifndef ZNL_VM_SCHED_PARTS_H
#define ZNL_VM_SCHED_PARTS_H

#include "transport/loop.h"
#include "vm/task.h"

struct znl_sched {
    znl_vm *vm;
    znl_task **made; /* every task there is */
    uint32_t made_count, made_capacity;
    znl_task *pool; /* idle, with a coroutine */
    znl_task *bare; /* idle, without */
    size_t pool_count;
    size_t live_count;
    uint64_t last_ticket;
    uint64_t spawned_count, failed_count, cut_count;
    znl_task *current;
    unsigned depth; /* protected calls on the C stack */
    int is_closed;
    int collect_due; /* a call ran out of memory */
    znl_pulse pulse;
    znl_task *queue_first, *queue_last;
    size_t queue_count;
    znl_deferred queue_due;
    /* The wake or the end in hand, for the closures below. */
    znl_task *waking;
    znl_push_fn push;
    void *push_user;
    znl_task_done_fn done;
    void *done_user;
    int done_status;
    int done_interrupted;
    const char *done_text; /* pushed first; NULL: the values are there */
    int done_begun;
    int wake_ref, done_ref, make_ref, room_ref, collect_ref; /* closures */
    int stopped_ref, stray_ref, foreign_ref; /* texts: they need no memory later */
    znl_wheel *wheel;
};

#endif
