/* sched_task.c - what is asked of a task, and done to it from outside: the running one, and those with
 * a name; see sched.h. SPDX-License-Identifier: MIT */
#include "base/err.h"
#include "vm/sched_parts.h"

typedef struct znl_task task;

/* --- what the running task belongs to ----------------------------------------------------- */

znl_owner *znl_sched_owner(const znl_sched *sched)
{
    return sched->current != NULL ? sched->current->owner : NULL;
}

int znl_sched_become(znl_sched *sched, znl_owner *owner)
{
    task *t = sched->current;
    if (t == NULL)
        return ZNL_E_INVALID;
    znl_owner *before = t->owner;
    if (owner == before)
        return 0;
    if (owner != NULL && znl_owner_refuses(owner, t->is_background))
        return ZNL_E_STOPPED;
    znl_owner_unlink(t);
    t->owner = NULL;
    if (owner != NULL)
        znl_owner_add(owner, t);
    znl_owner_one_less(before, t->is_background, 1);
    return 0;
}

znl_token *znl_sched_token(const znl_sched *sched)
{
    return sched->current != NULL ? sched->current->token : NULL;
}

uint64_t znl_sched_deadline_ms(const znl_sched *sched)
{
    const znl_token *token = znl_sched_token(sched);
    return token != NULL ? znl_token_deadline_ms(token) : 0;
}

int znl_sched_is_unbound(const znl_sched *sched)
{
    const task *t = sched->current;
    return t == NULL || (t->token == NULL && t->own == NULL);
}

int znl_sched_is_cancelled(const znl_sched *sched)
{
    const task *t = sched->current;
    if (t == NULL)
        return 0;
    if (t->token != NULL)
        znl_token_is_cancelled(t->token);
    znl_token *cause = znl_token_cause(t);
    return cause != NULL ? znl_token_is_cancelled(cause) : 0;
}

const char *znl_sched_cancel_reason(const znl_sched *sched)
{
    znl_token *cause = sched->current != NULL ? znl_token_cause(sched->current) : NULL;
    return cause != NULL ? znl_token_reason(cause) : NULL;
}

int znl_sched_set_token(znl_sched *sched, znl_token *token, int shielded)
{
    task *t = sched->current;
    if (t == NULL)
        return ZNL_E_INVALID;
    t->is_shielded = shielded != 0;
    if (token == t->token)
        return 0;
    if (token != NULL)
        znl_token_hold(token); /* the old one may be its only holder */
    znl_token_remove(t);
    if (token != NULL) {
        znl_token_add(token, t);
        znl_token_release(token);
    }
    return 0;
}

int znl_sched_is_shielded(const znl_sched *sched)
{
    return sched->current != NULL && sched->current->is_shielded;
}

/* --- tasks by name ------------------------------------------------------------------------ */

static task *find(const znl_sched *sched, znl_task_ref ref)
{
    task *t = ref.index < sched->made_count ? sched->made[ref.index] : NULL;
    return t != NULL && t->is_live && t->serial == ref.serial ? t : NULL;
}

int znl_sched_is_live(const znl_sched *sched, znl_task_ref ref)
{
    return find(sched, ref) != NULL;
}

int znl_sched_cancel(znl_sched *sched, znl_task_ref ref, const char *reason, size_t size)
{
    task *t = find(sched, ref);
    if (t == NULL)
        return ZNL_E_NOT_FOUND;
    if (t->own != NULL)
        return 0;
    int err = znl_token_new(sched->vm, NULL, 0, &t->own);
    if (err != 0)
        return err;
    znl_token_cancel_for(t->own, ZNL_E_CANCELLED, reason, size);
    if (t->ticket != 0 && !t->is_shielded)
        znl_task_enqueue(t, ZNL_QUEUED_CANCEL, 0);
    return 0;
}

znl_wait_name znl_sched_name_wait(znl_wait wait)
{
    const task *t = wait.task;
    return (znl_wait_name){t->index, wait.ticket};
}

znl_wait znl_sched_named_wait(const znl_sched *sched, znl_wait_name name)
{
    task *t = name.index < sched->made_count ? sched->made[name.index] : NULL;
    return (znl_wait){t, name.ticket};
}
