/* nats.h - what the files behind znl.core.nats share, and how others in C use a connection that Lua has.
 *
 *   nats.c               the module, the connection, its events; publishing
 *   nats_subscription.c  subscriptions: a handler's tasks, or messages that a task takes
 *   nats_request.c       asks and flushes, and the tasks that wait for them
 *   nats_message.c       messages as Lua sees them
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_NET_NATS_H
#define ZNL_BIND_NET_NATS_H

#include "bind/anchor.h"
#include "bind/bind.h"
#include "transport/nats.h"

/* --- for others -------------------------------------------------------------------------------------- */

/* Somebody else in C who publishes and subscribes over a connection. Its own fields; set on_state, leave the rest
 * zero. */
typedef struct znl_nats_user znl_nats_user;
struct znl_nats_user {
    znl_nats_user *next, **link;
    /* CONNECTED and RECONNECTING come from the loop. ZNL_NATS_CLOSED is the last one: what znl_nats_use() returned,
     * and its subscriptions, must not be touched after it. No Lua may run in here. */
    void (*on_state)(znl_nats_user *user, znl_nats_state state);
};

/* The connection at `idx`, borrowed until ZNL_NATS_CLOSED or znl_nats_unuse(); raises when it is none. NULL: it is
 * closed, and `user` is not entered. The connection stays open by itself until it is closed. */
znl_nats *znl_nats_use(lua_State *L, int idx, znl_nats_user *user);
/* Does nothing after ZNL_NATS_CLOSED. */
void znl_nats_unuse(znl_nats_user *user);

/* --- among the files --------------------------------------------------------------------------------- */

typedef struct znl_nats_reader znl_nats_reader;   /* a subscription as Lua has it */
typedef struct znl_nats_pending znl_nats_pending; /* a task that waits for an answer */

typedef struct znl_nats_box {
    znl_anchor anchor; /* while it is open */
    znl_nats *nats;    /* NULL: closed */
    int event_ref;
    znl_nats_user *users;
    znl_nats_reader *readers;
    znl_nats_pending *pendings;
} znl_nats_box;

/* Argument 1; raises when it is none. */
znl_nats_box *znl_nats_checkbox(lua_State *L);

/* Text of argument `idx`; one with a zero byte is "", which is no subject. */
const char *znl_nats_checksubject(lua_State *L, int idx);

/* nil, message, code. INVALID: the subject is none, which is for the caller to raise. */
int znl_nats_fail(lua_State *L, int err, const char *where);

/* Pushes a message: a table with the metatable of messages, whose `core` is the connection at `index`. May raise. */
void znl_nats_pushmessage(lua_State *L, int index, const znl_nats_message *message);
void znl_nats_open_message_type(lua_State *L);
/* lines, name -> value | nil; lines -> { name = value | { … } } */
int znl_nats_header(lua_State *L);
int znl_nats_headers_of(lua_State *L);

/* Lines of headers, argument `idx`, or nil. */
znl_nats_headers znl_nats_checkheaders(lua_State *L, int idx);

int znl_nats_subscribe_method(lua_State *L);
void znl_nats_open_subscription_type(lua_State *L);
/* The connection is being closed: no subscription of it is left. */
void znl_nats_end_readers(znl_nats_box *box);

/* The same for the tasks that wait. Before the connection is closed. */
void znl_nats_end_pendings(znl_nats_box *box);
int znl_nats_request_method(lua_State *L);
int znl_nats_flush_method(lua_State *L);

#endif
