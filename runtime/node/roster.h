/* roster.h - one roster that many instances share on a bus: who is where (codec/WIRE.md, "Hub on NATS"; spec
 * ws-cluster, sections 3, 5, 6, 11, 12). It works with original instances as well as with our own; among our own it
 * needs less and notices what is lost.
 *
 *   new -> start -> stop: then it is over
 *
 * The bus must hand in what arrives on two subjects: the one of all, and the one of this instance alone
 * (znl_roster_inbox). It says when it is connected and when not.
 *
 * Layer: node. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_ROSTER_H
#define ZNL_NODE_ROSTER_H

#include "base/bytes.h"
#include "node/bus.h"
#include "state/members.h"
#include "transport/loop.h"

typedef struct znl_roster znl_roster;

typedef struct znl_roster_options {
    const char *subject;  /* of all: "mega.ws.app.roster" */
    const char *origin;   /* the id of this instance, UTF-8; NULL: made of 16 random bytes */
    uint32_t ttl_ms;      /* 2000..3600000; the same on all instances */
    uint32_t max_members; /* of others, and of ours; 0: the default, as below */
    uint32_t max_member_bytes;      /* texts and metadata of one */
    size_t max_bytes;               /* of all members of others, and of ours */
    uint64_t (*random)(void *user); /* NULL: znl_random_u64 */
} znl_roster_options;

typedef enum znl_roster_event_kind {
    ZNL_ROSTER_ADDED,
    ZNL_ROSTER_UPDATED,
    ZNL_ROSTER_REMOVED,
    ZNL_ROSTER_DISPLACED, /* session_id of ours, and `owner`, with whom it has joined since */
    ZNL_ROSTER_PARTIAL,   /* `is_partial` */
} znl_roster_event_kind;

typedef enum znl_roster_cause {
    ZNL_ROSTER_LEFT,
    ZNL_ROSTER_EXPIRED, /* its instance was not heard of for ttl_ms */
    ZNL_ROSTER_MISSING, /* its instance does not list it any more */
    ZNL_ROSTER_STOPPED, /* this roster was stopped */
} znl_roster_cause;

/* Borrowed until the callback returns. */
typedef struct znl_roster_event {
    znl_roster_event_kind kind;
    znl_frame ns, session_id, user_id; /* user_id {NULL, 0}: none */
    znl_frame owner;                   /* an instance; our own id too */
    znl_roster_cause cause;            /* of REMOVED */
    int is_partial;
} znl_roster_event;

/* Called at the end of what brought it about, join, leave and stop included, in the order in which it happened. May call everything
 * here; what that brings about is told after the events before it. */
typedef void (*znl_roster_fn)(void *user, const znl_roster_event *event);

typedef struct znl_roster_counters {
    uint64_t sent, sent_bytes; /* messages */
    uint64_t unsent;           /* lost: off line, outbox full */
    uint64_t received;
    uint64_t echoes;    /* of our own, dropped */
    uint64_t malformed; /* no JSON, nested too deep */
    uint64_t ignored;   /* without meaning here: unknown op, no origin, a field missing */
    uint64_t skipped;   /* members without namespace or session id */
    uint64_t refused;   /* members past a limit */
    uint64_t disowned;  /* removes and claims of instances that do not own the session */
    uint64_t gaps;      /* in the row of an instance's messages */
    uint64_t asks;      /* for an instance's list */
    uint64_t unmatched; /* digests that are not what we hold */
    uint64_t lists;     /* sent: heartbeats and answers */
    uint64_t digests;   /* sent instead */
    uint64_t repairs;   /* own members announced again, because of what another said */
    uint64_t too_big;   /* own members past max_payload of the bus: not told to others */
    uint64_t expired, missing, displaced; /* members */
    uint64_t untold;                      /* events, for want of memory */
} znl_roster_counters;

/* Returns a roster that holds nothing and is silent, owned. `options` are borrowed for the call, `bus` for good. 0;
 * ZNL_E_INVALID (ttl_ms, subject or origin empty or no UTF-8), ZNL_E_NOMEM. */
int znl_roster_new(znl_roster **out, znl_loop *loop, const znl_roster_options *options,
        const znl_bus *bus, void *bus_user, znl_roster_fn on_event, void *user);
/* Takes it (NULL is accepted); says nothing to anybody. */
void znl_roster_free(znl_roster *roster);

/* Begins to speak: asks for all lists, tells its own. The bus is subscribed before. */
void znl_roster_start(znl_roster *roster);
/* Publishes the leave of every own member and forgets all. Nothing is published any more; what arrives is ignored. */
void znl_roster_stop(znl_roster *roster);
/* The bus is connected (1: also after it was lost), or not (0). Until it says so it counts as connected. */
void znl_roster_connected(znl_roster *roster, int is_connected);
/* A message on one of the two subjects; `reply` or NULL. Hostile bytes are counted and dropped. */
void znl_roster_receive(znl_roster *roster, const void *data, size_t size, const char *reply);

/* A session joins here, or changes: user_id and metadata (JSON) may be {NULL, 0}. Before the start too. 0; ZNL_E_INVALID (no UTF-8, no JSON);
 * ZNL_E_TOO_BIG (max_member_bytes), ZNL_E_LIMIT (max_members, max_bytes), ZNL_E_STOPPED, ZNL_E_NOMEM. That others do not
 * hear of it, off line, is no error. */
int znl_roster_join(znl_roster *roster, znl_frame ns, znl_frame session_id, znl_frame user_id,
        znl_frame metadata);
/* It leaves. 1; 0 when it was not held here. */
int znl_roster_leave(znl_roster *roster, znl_frame session_id);

/* The entry of a session, whoever owns it; NULL. Borrowed until anything changes. */
const znl_member *znl_roster_find(const znl_roster *roster, znl_frame session_id);
/* The members of a namespace, one after the other, NULL first. Nothing may change between two calls. */
const znl_member *znl_roster_next(
        const znl_roster *roster, znl_frame ns, const znl_member *after);
/* Members in a namespace; of all when ns is {NULL, 0}. Takes time in proportion to them or to the instances. */
size_t znl_roster_count(const znl_roster *roster, znl_frame ns);
/* Instances that were heard of, NULL first. */
const znl_owner *znl_roster_next_owner(const znl_roster *roster, const znl_owner *after);
/* The id of who owns a member. */
znl_frame znl_roster_owner_id(const znl_roster *roster, const znl_member *member);

/* Members may be missing: the bus was away for longer than ttl_ms, and not all can have answered since. */
int znl_roster_is_partial(const znl_roster *roster);
/* Asks all for their lists; once a second at most, later then. */
void znl_roster_sync(znl_roster *roster);
znl_roster_counters znl_roster_get_counters(const znl_roster *roster);
const char *znl_roster_origin(const znl_roster *roster);
/* The subject of this instance alone. */
const char *znl_roster_inbox(const znl_roster *roster);

#endif
