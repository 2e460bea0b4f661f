/* token.c - see token.h. SPDX-License-Identifier: MIT */
#include "vm/token.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "transport/loop.h"
#include "vm/task.h"

#include <string.h>

#define PARENTS 2

typedef struct edge {
    znl_token *child;
    struct edge *next, **link; /* in the list of the parent; link NULL: not in one */
} edge;

struct znl_token {
    size_t references;
    znl_token *parents[PARENTS]; /* held; NULL: none */
    edge edges[PARENTS];         /* this token in the lists of its parents */
    edge *children;
    znl_task *tasks;        /* that run under this very token */
    size_t users;           /* they, and each child that has users */
    int err;                /* 0: live */
    const znl_token *cause; /* a parent, whose reason counts; NULL: the own one */
    char *reason;           /* NULL: the text of err */
    uint64_t deadline_ms;
    int is_kept; /* the deadline counts without tasks */
    znl_wheel *wheel;
    znl_timer timer;
    znl_token_watcher *watchers;
    znl_token *next_marked; /* while cancelling */
};

/* --- the tree ----------------------------------------------------------------------------- */

static void attach(znl_token *token, size_t slot, znl_token *parent)
{
    edge *e = &token->edges[slot];
    znl_token_hold(parent);
    token->parents[slot] = parent;
    e->child = token;
    e->next = parent->children;
    if (e->next != NULL)
        e->next->link = &e->next;
    parent->children = e;
    e->link = &parent->children;
    if (parent->deadline_ms != 0 &&
            (token->deadline_ms == 0 || parent->deadline_ms < token->deadline_ms))
        token->deadline_ms = parent->deadline_ms;
    if (parent->err != 0 && token->err == 0) {
        token->err = parent->err;
        token->cause = parent;
    }
}

static int make(
        znl_vm *vm, znl_token *first, znl_token *second, uint64_t deadline_ms, znl_token **out)
{
    znl_token *token = znl_calloc(1, sizeof *token);
    if (token == NULL)
        return ZNL_E_NOMEM;
    token->references = 1;
    token->deadline_ms = deadline_ms;
    token->wheel = znl_loop_wheel(vm->loop);
    if (first != NULL)
        attach(token, 0, first);
    if (second != NULL)
        attach(token, 1, second);
    *out = token;
    return 0;
}

int znl_token_new(znl_vm *vm, znl_token *parent, uint64_t deadline_ms, znl_token **out)
{
    return make(vm, parent, NULL, deadline_ms, out);
}

int znl_token_join(znl_vm *vm, znl_token *first, znl_token *second, znl_token **out)
{
    return make(vm, first, second, 0, out);
}

void znl_token_hold(znl_token *token)
{
    token->references++;
}

static void detach(edge *e)
{
    if (e->link == NULL)
        return;
    *e->link = e->next;
    if (e->next != NULL)
        e->next->link = e->link;
}

void znl_token_release(znl_token *token)
{
    /* A long line of ancestors may go at once: the first parent in turn, the second by a call. */
    while (token != NULL && --token->references == 0) {
        znl_token *first = token->parents[0], *second = token->parents[1];
        detach(&token->edges[0]);
        detach(&token->edges[1]);
        znl_wheel_stop(token->wheel, &token->timer);
        znl_free(token->reason);
        znl_free(token);
        znl_token_release(second);
        token = first;
    }
}

int znl_token_is_below(const znl_token *token, const znl_token *other)
{
    for (; token != NULL; token = token->parents[0]) {
        if (token == other)
            return 1;
        if (token->parents[1] != NULL && znl_token_is_below(token->parents[1], other))
            return 1;
    }
    return 0;
}

/* --- deadlines and users ------------------------------------------------------------------ */

static void on_deadline(znl_timer *timer)
{
    znl_token *token = (znl_token *)(void *)((char *)timer - offsetof(znl_token, timer));
    znl_token_cancel(token, ZNL_E_DEADLINE);
}

/* The deadline is on the wheel exactly while it matters. */
static void rearm(znl_token *token)
{
    int wanted = token->err == 0 && token->deadline_ms != 0 &&
            (token->tasks != NULL || token->is_kept);
    if (wanted == znl_timer_running(&token->timer))
        return;
    if (wanted)
        znl_wheel_start(token->wheel, &token->timer, token->deadline_ms, on_deadline);
    else
        znl_wheel_stop(token->wheel, &token->timer);
}

static void tell(const znl_token *token)
{
    for (znl_token_watcher *watcher = token->watchers; watcher != NULL;) {
        znl_token_watcher *next = watcher->next;
        watcher->changed(watcher);
        watcher = next;
    }
}

static void one_user_more(znl_token *token)
{
    for (; token != NULL && token->users++ == 0; token = token->parents[0])
        if (token->parents[1] != NULL)
            one_user_more(token->parents[1]);
}

static void one_user_less(znl_token *token)
{
    for (; token != NULL && --token->users == 0; token = token->parents[0]) {
        if (token->parents[1] != NULL)
            one_user_less(token->parents[1]);
        if (!znl_timer_running(&token->timer))
            tell(token);
    }
}

int znl_token_in_use(const znl_token *token)
{
    return token->users > 0 || znl_timer_running(&token->timer);
}

void znl_token_watch(znl_token *token, znl_token_watcher *watcher,
        void (*changed)(znl_token_watcher *watcher))
{
    watcher->changed = changed;
    watcher->next = token->watchers;
    if (watcher->next != NULL)
        watcher->next->link = &watcher->next;
    token->watchers = watcher;
    watcher->link = &token->watchers;
}

void znl_token_unwatch(znl_token_watcher *watcher)
{
    if (watcher->link == NULL)
        return;
    *watcher->link = watcher->next;
    if (watcher->next != NULL)
        watcher->next->link = watcher->link;
    watcher->link = NULL;
    watcher->next = NULL;
}

void znl_token_keep(znl_token *token, int keep)
{
    token->is_kept = keep;
    rearm(token);
}

uint64_t znl_token_deadline_ms(const znl_token *token)
{
    return token->deadline_ms;
}

/* --- tasks -------------------------------------------------------------------------------- */

void znl_token_add(znl_token *token, znl_task *t)
{
    znl_token_hold(token);
    t->token = token;
    t->next_of_token = token->tasks;
    if (t->next_of_token != NULL)
        t->next_of_token->token_link = &t->next_of_token;
    token->tasks = t;
    t->token_link = &token->tasks;
    rearm(token);
    one_user_more(token);
}

void znl_token_remove(znl_task *t)
{
    znl_token *token = t->token;
    if (token == NULL)
        return;
    *t->token_link = t->next_of_token;
    if (t->next_of_token != NULL)
        t->next_of_token->token_link = t->token_link;
    t->token = NULL;
    rearm(token);
    one_user_less(token);
    znl_token_release(token);
}

znl_token *znl_token_cause(const znl_task *t)
{
    if (t->own != NULL && !t->is_shielded)
        return t->own;
    return t->token != NULL && t->token->err != 0 ? t->token : NULL;
}

/* --- cancelling --------------------------------------------------------------------------- */

/* Wakes the tasks of a cancelled token, and appends its live children to the list. */
static znl_token *spread(znl_token *token, znl_token *last)
{
    rearm(token);
    for (znl_task *t = token->tasks; t != NULL; t = t->next_of_token)
        if (t->ticket != 0)
            znl_task_enqueue(t, ZNL_QUEUED_CANCEL, 0);
    for (edge *e = token->children; e != NULL; e = e->next) {
        if (e->child->err != 0)
            continue;
        e->child->err = token->err;
        e->child->cause = token;
        e->child->next_marked = NULL;
        last->next_marked = e->child;
        last = e->child;
    }
    return last;
}

void znl_token_cancel_for(znl_token *token, int err, const char *reason, size_t size)
{
    if (token->err != 0)
        return;
    if (reason != NULL) {
        size_t kept = size < ZNL_TOKEN_REASON_MAX ? size : ZNL_TOKEN_REASON_MAX;
        token->reason = znl_malloc(kept + 1);
        if (token->reason != NULL) {
            memcpy(token->reason, reason, kept);
            token->reason[kept] = '\0';
        }
    }
    token->err = err;
    token->next_marked = NULL;
    znl_token *last = token;
    for (znl_token *at = token; at != NULL; at = at->next_marked)
        last = spread(at, last);
    for (znl_token *at = token; at != NULL; at = at->next_marked)
        tell(at);
}

void znl_token_cancel(znl_token *token, int err)
{
    znl_token_cancel_for(token, err, NULL, 0);
}

int znl_token_is_cancelled(znl_token *token)
{
    if (token->err == 0 && token->deadline_ms != 0 && znl_clock_mono_ms() >= token->deadline_ms)
        znl_token_cancel(token, ZNL_E_DEADLINE);
    return token->err;
}

const char *znl_token_reason(const znl_token *token)
{
    if (token->err == 0)
        return NULL;
    while (token->cause != NULL)
        token = token->cause;
    return token->reason != NULL ? token->reason : znl_err_text(token->err);
}
