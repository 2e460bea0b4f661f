/* roster_parts.h - the inside of a roster, for its files: roster.c (what callers do, events), roster_receive.c (what
 * others say, what expires), roster_send.c (what others are told, and when).
 *
 * Layer: node. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_ROSTER_PARTS_H
#define ZNL_NODE_ROSTER_PARTS_H

#include "base/limits.h"
#include "codec/hub.h"
#include "node/roster.h"

/* So many at once, and as many in a second. */
typedef struct znl_roster_budget {
    uint32_t left;
    uint64_t at_ms;
} znl_roster_budget;

/* Somebody waits for our list on a subject of its own. */
typedef struct znl_roster_answer {
    char *subject;
    uint8_t *to; /* its id; in the same block */
    size_t to_size;
} znl_roster_answer;

/* A list of our members on its way. */
typedef struct znl_roster_row {
    znl_member *next; /* the first that is not listed yet */
    uint64_t gen, part;
    int is_under_way;
} znl_roster_row;

struct znl_roster {
    znl_loop *loop;
    const znl_bus *bus;
    void *bus_user;
    znl_roster_fn on_event;
    void *user;
    uint64_t (*random)(void *user);
    char *subject, *origin, *inbox; /* one block */
    znl_frame self;                 /* origin */
    uint32_t ttl_ms, heartbeat_ms;
    uint32_t max_member_bytes;

    znl_members *members;
    uint64_t touches;
    int is_started, is_stopped, is_freed, is_connected, is_partial;
    uint64_t foreign_until_ms; /* until then an original instance may be there */

    /* Events that are to be told; `telling` while they are. */
    znl_buffer events, telling;
    size_t depth;
    int is_telling;

    /* What is sent. */
    uint64_t n, gen;
    znl_buffer out, list, sinces;
    znl_roster_row row;            /* the heartbeat */
    uint64_t row_began_ms, row_ms; /* it is spread over that time */
    uint64_t row_parts;            /* so many, about */
    int is_burst;                  /* not spread */
    uint64_t listed_ms;            /* when one began that was not spread */
    int has_listed;
    znl_roster_row answer;
    znl_roster_answer answers[ZNL_ROSTER_ANSWERS]; /* the first is under way, or the next */
    size_t answer_count;
    int answer_all;
    znl_roster_budget answer_budget, ask_budget, repair_budget;
    uint64_t synced_ms;
    int has_synced;
    znl_timer beat_timer, answer_timer, all_timer, ask_timer, sync_timer, expiry_timer,
            partial_timer;

    znl_buffer scratch, member_scratch, old_ns;
    znl_roster_counters counters;
};

#define ZNL_ROSTER_OF(timer, field)                                                            \
    ((znl_roster *)(void *)((uint8_t *)(timer)-offsetof(znl_roster, field)))

static inline uint64_t znl_roster_now(const znl_roster *roster)
{
    return znl_loop_now_ms(roster->loop);
}

static inline int znl_roster_speaks(const znl_roster *roster)
{
    return roster->is_started && !roster->is_stopped;
}

/* roster.c: around everything that may bring events about. The roster may be gone after the second. */
void znl_roster_enter(znl_roster *roster);
void znl_roster_leave_call(znl_roster *roster);
void znl_roster_tell(znl_roster *roster, znl_roster_event_kind kind, const znl_member *member,
        znl_roster_cause cause);
/* Puts a session into the table (members.h) and tells what changes. */
int znl_roster_show(
        znl_roster *roster, znl_owner *owner, const znl_session *session, znl_member **member);
void znl_roster_set_partial(znl_roster *roster, int is_partial);
uint64_t znl_roster_draw(znl_roster *roster, uint64_t below);
/* The time of a join that comes after what is known of the session. */
uint64_t znl_roster_since(const znl_roster *roster, const znl_member *member);
/* Takes a member out, tells it, frees it. */
void znl_roster_drop(znl_roster *roster, znl_member *member, znl_roster_cause cause);

/* roster_receive.c */
void znl_roster_watch_expiry(znl_roster *roster);

/* roster_send.c */
void znl_roster_send_add(znl_roster *roster, znl_member *member);
void znl_roster_send_remove(znl_roster *roster, znl_frame session_id);
/* An own member is announced again, or all are when there were many of late. */
void znl_roster_repair(znl_roster *roster, znl_member *member);
/* All members, at once, to all. */
void znl_roster_list_now(znl_roster *roster);
/* Somebody wants the list; reply: on a subject of its own; NULL: on that of all. */
void znl_roster_wanted(znl_roster *roster, znl_frame by, const char *reply);
void znl_roster_ask(znl_roster *roster, znl_owner *owner);
/* An own member is about to leave the list of those. */
void znl_roster_pass(znl_roster *roster, const znl_member *member);
void znl_roster_silence(
        znl_roster *roster); /* stops all timers of this file, forgets answers */

#endif
