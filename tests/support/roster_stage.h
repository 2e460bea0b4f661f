/* roster_stage.h - rosters of several instances in one process, on a bus that can lose, delay and cut; time stands still but
 * for hall_pass(). Messages of one instance to another stay in order; those of different ones need not.
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_ROSTER_STAGE_H
#define ZNL_TESTS_ROSTER_STAGE_H

#include "node/roster.h"
#include "support/roster_original.h"

#define HALL_INSTANCES 8u
#define HALL_TEXTS 256u
#define HALL_SUBJECT "mega.ws.main.roster"

typedef struct hall_events {
    unsigned added, updated, removed, displaced, partial;
    znl_roster_cause cause; /* of the last removal */
    char last[256];         /* "added /ns session user owner" */
} hall_events;

typedef struct roster_stage {
    znl_loop *loop;
    znl_roster *rosters[HALL_INSTANCES]; /* NULL: none */
    roster_original
            *originals[HALL_INSTANCES]; /* in places where no roster of ours is; NULL: none */
    int is_offline[HALL_INSTANCES];
    size_t max_payload;
    int err; /* what publishing fails with; 0 */
    hall_events events[HALL_INSTANCES];
    unsigned loss;   /* of 100 messages, how many get lost */
    unsigned delay;  /* of 100 turns of hall_turn(), in how many a message stays where it is */
    uint64_t random; /* state of the generator */
    /* Counted since hall_forget(). */
    unsigned published;
    char *texts[HALL_TEXTS]; /* the first of what was published, in order; owned */
    char *subjects[HALL_TEXTS];
} roster_stage;

void hall_begin(roster_stage *stage);
void hall_end(roster_stage *stage);

/* Instance `i`, named "instA" + i, which is not started yet. */
znl_roster *hall_open(roster_stage *stage, unsigned i, uint32_t ttl_ms);
znl_roster *hall_open_with(roster_stage *stage, unsigned i, const znl_roster_options *options);
/* An original in its place, started. */
roster_original *hall_open_original(roster_stage *stage, unsigned i, uint32_t ttl_ms);
void hall_close(roster_stage *stage, unsigned i); /* as if it were killed */

/* Delivers all that is on its way. */
void hall_settle(roster_stage *stage);
/* Delivers some of it, at random. */
void hall_turn(roster_stage *stage);
/* Time goes on, timers fire, everything is delivered at once, or at random (`is_random`). */
void hall_pass(roster_stage *stage, uint64_t ms, int is_random);
/* The connection of an instance is cut, what is on its way is lost; or is there again. */
void hall_connect(roster_stage *stage, unsigned i, int is_connected);
/* Forgets what was published so far. */
void hall_forget(roster_stage *stage);
/* Somebody else publishes: everyone gets it, with that reply subject. */
void hall_inject(roster_stage *stage, const char *text, const char *reply);

int hall_join(roster_stage *stage, unsigned i, const char *ns, const char *session,
        const char *user, const char *metadata);
int hall_leave(roster_stage *stage, unsigned i, const char *session);
/* "s1:u1:instA s2:…" of a namespace as instance `i` sees it, in its order; static. */
const char *hall_view(roster_stage *stage, unsigned i, const char *ns);
/* Whether such an entry is in it. */
int hall_view_contains(roster_stage *stage, unsigned i, const char *ns, const char *entry);
uint64_t hall_draw(roster_stage *stage, uint64_t below);

#endif
