/* owner.h - owners: the tasks that run for one thing, such as a version of a handler file.
 *
 * A foreground task is work somebody waits for, such as a request; a background task is whatever
 * else the code started. When the last foreground task has ended the owner is idle, and its
 * background tasks may be ended:
 *
 *     open -> end_background: refuses background tasks, drops those there are
 *          -> cut: refuses and drops both kinds
 *
 * A dropped task ends where it waits and is never resumed; its `done` hears why. One that runs
 * is dropped where it waits next; one that never waits again ends by itself.
 *
 * Layer: vm. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_VM_OWNER_H
#define ZNL_VM_OWNER_H

#include <stddef.h>

typedef struct znl_owner znl_owner;

/* Returns an owner with one reference. 0 or ZNL_E_NOMEM. */
int znl_owner_new(znl_owner **out);
void znl_owner_hold(znl_owner *owner);
/* Gives a reference back; accepts NULL. Tasks hold one each. */
void znl_owner_release(znl_owner *owner);

/* Foreground tasks that run for it now; background tasks. */
size_t znl_owner_active(const znl_owner *owner);
size_t znl_owner_background(const znl_owner *owner);

/* Calls idle(user) once, when the last foreground task ends, or at once when none runs. It may be
 * called while Lua runs and must not call Lua. NULL takes the request back. Not called at
 * shutdown. */
void znl_owner_on_idle(znl_owner *owner, void (*idle)(void *user), void *user);

/* Drops the background tasks, in the loop's next turn: from now on none of them is resumed, and
 * new ones are refused with ZNL_E_STOPPED. May be called while Lua runs, by a task of the owner,
 * and again. */
void znl_owner_end_background(znl_owner *owner);

/* The same for every task. `message` (NULL: a general text) is what `done` hears; it is copied
 * and cut to 200 bytes. */
void znl_owner_cut(znl_owner *owner, const char *message);

/* True once no background task may start; true once none at all may. */
int znl_owner_has_ended(const znl_owner *owner);
int znl_owner_is_cut(const znl_owner *owner);

#endif
