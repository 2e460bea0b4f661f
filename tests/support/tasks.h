/* tasks.h - a loop, a Lua state and tasks that wait in it, for tests. SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_TASKS_H
#define ZNL_TESTS_TASKS_H

#include "vm/sched.h"

#define TASKS_MAX 16

/* What a task came to. */
struct ended {
    unsigned calls;
    int status;
    char text[400]; /* its last result, or the error */
};

struct tasks {
    znl_loop *loop;
    znl_vm *vm;
    znl_wait waits[TASKS_MAX]; /* of wait(), in order */
    unsigned wait_count;
    struct ended ended[TASKS_MAX]; /* by number of the task */
    znl_task_ref refs[TASKS_MAX];
    unsigned count; /* tasks started */
};

extern struct tasks tasks;

/* For cmocka: opens and closes everything, and requires that nothing is left open. Scripts have
 * wait(), sleep(ms) and spawn(fn) -> error number. */
int tasks_setup(void **state);
int tasks_teardown(void **state);

/* Runs a chunk as task number tasks.count, which it counts. `how` gives owner, token and kind; `done`
 * and `ref` are set here. Returns what znl_sched_spawn_as() does; or 1 when the chunk could not even
 * be tried. */
int tasks_start(const char *chunk, znl_spawn how);

/* Lets the loop run until nothing is left to do. */
void tasks_run(void);

#endif
