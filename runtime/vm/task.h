/* task.h - the task as sched.c, owner.c and token.c share it. Private to vm.
 *
 * Layer: vm. SPDX-License-Identifier: MIT */
#ifndef ZNL_VM_TASK_H
#define ZNL_VM_TASK_H

#include "base/wheel.h"
#include "vm/owner.h"
#include "vm/sched.h"
#include "vm/token.h"

/* What the loop does with a queued task. */
enum {
    ZNL_NOT_QUEUED,
    ZNL_QUEUED_ERROR,  /* resumes it with nil, message, code */
    ZNL_QUEUED_TRUE,   /* resumes it with true */
    ZNL_QUEUED_CANCEL, /* resumes it with what cancelled it */
    ZNL_QUEUED_DROP,   /* ends it */
};

typedef struct znl_task znl_task;
struct znl_task {
    znl_sched *sched;
    lua_State *co; /* NULL: bare */
    int co_ref;
    uint32_t index;  /* in the scheduler's list of all tasks */
    uint64_t serial; /* of what runs in it now: no two tasks have the same */
    uint64_t ticket; /* of the wait that a wake may end; 0: none */
    uint8_t is_live;
    uint8_t is_background;
    uint8_t is_shielded;    /* `own` does not count */
    uint8_t is_doomed;      /* dropped where it waits next */
    uint8_t is_interrupted; /* by the watchdog, in this run */
    uint8_t queued;         /* ZNL_QUEUED_... */
    uint8_t cancelled;      /* waits in a row that ended because of a token, up to the limit */
    uint8_t is_told_late;   /* it waits to be told of that once more */
    int queued_err;
    const char *where; /* of the wait, or of queued_err: begins a message; static */
    int times_out;     /* the timer reports TIMEOUT; otherwise it wakes with true */
    znl_timer timer;   /* of park_for */
    znl_task *next_idle;
    znl_task *next_queued, *prev_queued;
    znl_owner *owner; /* held; NULL: none */
    znl_task *next_of_owner, **owner_link;
    znl_token *token; /* held; NULL: none */
    znl_task *next_of_token, **token_link;
    znl_token *own; /* cancels this task alone; made when that happens */
    znl_task_done_fn done;
    znl_task_returned_fn returned;
    void *user;
    void (*lost)(void *user, uint64_t id); /* of the wait: znl_sched_on_lost() */
    void *lost_user;
    uint64_t lost_id;
};

/* --- owner.c ------------------------------------------------------------------------------ */

/* True when the owner takes no task of this kind any more. */
int znl_owner_refuses(const znl_owner *owner, int is_background);
/* Makes the task, which has no owner, count for one. */
void znl_owner_add(znl_owner *owner, znl_task *t);
/* Takes the task from the list of its owner, which goes on counting it. Harmless without owner. */
void znl_owner_unlink(znl_task *t);
/* Counts a task less, and gives its reference back. Accepts NULL. */
void znl_owner_one_less(znl_owner *owner, int is_background, int tell);
/* What `done` of its dropped tasks hears. */
const char *znl_owner_text(const znl_owner *owner);

/* --- token.c ------------------------------------------------------------------------------ */

/* Makes the task, which has no token, run under one. */
void znl_token_add(znl_token *token, znl_task *t);
/* Takes the task from its token. Harmless without. */
void znl_token_remove(znl_task *t);
/* What ended or ends the waits of the task; NULL: nothing. */
znl_token *znl_token_cause(const znl_task *t);

/* --- sched.c ------------------------------------------------------------------------------ */

/* Ends the wait the task is in, if any, and queues it. */
void znl_task_enqueue(znl_task *t, int what, int err);
/* Drops the task now or where it waits next. */
void znl_task_doom(znl_task *t);

#endif
