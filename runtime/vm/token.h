/* token.h - cancellation: tokens that tasks run under.
 *
 * A task has a token or none, and what it spawns inherits it. Tokens form a tree: what cancels one
 * cancels those below. Cancelling wakes each parked task below with nil, "where: reason", code, and
 * later waits of such a task end that way too, in the loop's next turn.
 *
 *     live -> cancelled (ZNL_E_CANCELLED by a call, ZNL_E_DEADLINE by time), for good
 *
 * A deadline is on the timer wheel only while a task runs under the token or somebody watches it: a
 * token that nobody uses keeps no process alive. A parent outlives its children.
 *
 * Layer: vm. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_VM_TOKEN_H
#define ZNL_VM_TOKEN_H

#include "vm/vm.h"

#include <stdint.h>

/* Longest reason that is kept, in bytes. */
#define ZNL_TOKEN_REASON_MAX 200

typedef struct znl_token znl_token;

/* Makes a token with one reference below `parent` (NULL: none). `deadline_ms` is a monotonic
 * instant, 0: none; an earlier deadline of the parent counts instead. Below a cancelled parent it
 * is cancelled already. 0 or ZNL_E_NOMEM. */
int znl_token_new(znl_vm *vm, znl_token *parent, uint64_t deadline_ms, znl_token **out);

/* The same below two parents, either of which cancels it. */
int znl_token_join(znl_vm *vm, znl_token *first, znl_token *second, znl_token **out);

void znl_token_hold(znl_token *token);
/* Gives a reference back; accepts NULL. Tasks and children hold one each. */
void znl_token_release(znl_token *token);

/* Cancels it and all below, with ZNL_E_CANCELLED or ZNL_E_DEADLINE. Nothing when it is cancelled
 * already. Never runs Lua, so it may be called at any time: tasks are woken by the loop. */
void znl_token_cancel(znl_token *token, int err);

/* The same, and says why: copied, cut to ZNL_TOKEN_REASON_MAX bytes; left out when memory is
 * short. */
void znl_token_cancel_for(znl_token *token, int err, const char *reason, size_t size);

/* 0 while it is live, else the error it was cancelled with. Looks at the clock, so a task that
 * never waits sees its deadline, too. */
int znl_token_is_cancelled(znl_token *token);

/* Why it was cancelled, for people; NULL while it is live. Valid while the token is held. */
const char *znl_token_reason(const znl_token *token);

/* When it will be cancelled, monotonic; 0: no deadline. */
uint64_t znl_token_deadline_ms(const znl_token *token);

/* True when `token` is `other` or below it. */
int znl_token_is_below(const znl_token *token, const znl_token *other);

/* True while a task runs under it or below, or its deadline is on the wheel: somebody may still
 * cancel it or see it cancelled. */
int znl_token_in_use(const znl_token *token);

/* Somebody who wants to hear of a token. Lives inside the object it serves; zeroed memory watches
 * nothing. */
typedef struct znl_token_watcher znl_token_watcher;
struct znl_token_watcher {
    znl_token_watcher *next, **link;
    void (*changed)(znl_token_watcher *watcher);
};

/* Calls changed(watcher) whenever the token is cancelled, or is no longer in use. It must not call
 * Lua, nor release the token. The watcher is taken back before the token is released. */
void znl_token_watch(znl_token *token, znl_token_watcher *watcher,
        void (*changed)(znl_token_watcher *watcher));
/* Harmless when it watches nothing. */
void znl_token_unwatch(znl_token_watcher *watcher);

/* Whether the deadline counts though no task runs under it. */
void znl_token_keep(znl_token *token, int keep);

#endif
