/* owner.c - see owner.h. SPDX-License-Identifier: MIT */
#include "vm/owner.h"

#include "base/alloc.h"
#include "base/err.h"
#include "vm/task.h"

#include <stdio.h>

#define MESSAGE_MAX 200

struct znl_owner {
    size_t references;
    size_t counts[2];   /* foreground, background */
    znl_task *tasks[2]; /* the same; a task that is ending is counted but not listed */
    int has_ended, is_cut;
    void (*idle)(void *user);
    void *user;
    char *message; /* NULL: the general text */
};

int znl_owner_new(znl_owner **out)
{
    znl_owner *owner = znl_calloc(1, sizeof *owner);
    if (owner == NULL)
        return ZNL_E_NOMEM;
    owner->references = 1;
    *out = owner;
    return 0;
}

void znl_owner_hold(znl_owner *owner)
{
    owner->references++;
}

void znl_owner_release(znl_owner *owner)
{
    if (owner == NULL || --owner->references > 0)
        return;
    znl_free(owner->message);
    znl_free(owner);
}

size_t znl_owner_active(const znl_owner *owner)
{
    return owner->counts[0];
}

size_t znl_owner_background(const znl_owner *owner)
{
    return owner->counts[1];
}

static void tell_idle(znl_owner *owner)
{
    void (*idle)(void *user) = owner->idle;
    void *user = owner->user;
    if (owner->counts[0] > 0 || idle == NULL)
        return;
    owner->idle = NULL;
    idle(user);
}

void znl_owner_on_idle(znl_owner *owner, void (*idle)(void *user), void *user)
{
    owner->idle = idle;
    owner->user = user;
    tell_idle(owner);
}

/* --- its tasks ---------------------------------------------------------------------------- */

int znl_owner_refuses(const znl_owner *owner, int is_background)
{
    return is_background ? owner->has_ended : owner->is_cut;
}

void znl_owner_add(znl_owner *owner, znl_task *t)
{
    znl_task **list = &owner->tasks[t->is_background];
    owner->references++;
    owner->counts[t->is_background]++;
    t->owner = owner;
    t->next_of_owner = *list;
    if (*list != NULL)
        (*list)->owner_link = &t->next_of_owner;
    *list = t;
    t->owner_link = list;
}

void znl_owner_unlink(znl_task *t)
{
    if (t->owner_link == NULL)
        return;
    *t->owner_link = t->next_of_owner;
    if (t->next_of_owner != NULL)
        t->next_of_owner->owner_link = t->owner_link;
    t->owner_link = NULL;
    t->next_of_owner = NULL;
}

void znl_owner_one_less(znl_owner *owner, int is_background, int tell)
{
    if (owner == NULL)
        return;
    owner->counts[is_background]--;
    if (tell && !is_background)
        tell_idle(owner);
    znl_owner_release(owner);
}

/* --- the end ------------------------------------------------------------------------------ */

static void doom_all(znl_owner *owner, int is_background)
{
    /* Nothing runs and no list changes meanwhile: the loop does the rest. */
    for (znl_task *t = owner->tasks[is_background]; t != NULL; t = t->next_of_owner)
        znl_task_doom(t);
}

void znl_owner_end_background(znl_owner *owner)
{
    owner->has_ended = 1;
    doom_all(owner, 1);
}

void znl_owner_cut(znl_owner *owner, const char *message)
{
    if (message != NULL && owner->message == NULL) {
        owner->message = znl_malloc(MESSAGE_MAX + 1);
        if (owner->message != NULL) /* else the general text will do */
            snprintf(owner->message, MESSAGE_MAX + 1, "%s", message);
    }
    owner->is_cut = 1;
    znl_owner_end_background(owner);
    doom_all(owner, 0);
}

int znl_owner_has_ended(const znl_owner *owner)
{
    return owner->has_ended;
}

int znl_owner_is_cut(const znl_owner *owner)
{
    return owner->is_cut;
}

const char *znl_owner_text(const znl_owner *owner)
{
    if (owner != NULL && owner->message != NULL)
        return owner->message;
    return "cut: what it ran for has ended";
}
