/* members.h - who is in a roster: sessions by id, by namespace in the order of their first insertion, and by the
 * instance that holds them. That one is their owner; it has one deadline for all its sessions.
 *
 * Sessions that we hold ourselves are the same entries with `is_own` set, also while another instance is shown as
 * the owner: then what we hold is kept beside what is shown.
 *
 * Layer: state. Monotonic milliseconds are passed in. SPDX-License-Identifier: MIT */
#ifndef ZNL_STATE_MEMBERS_H
#define ZNL_STATE_MEMBERS_H

#include "base/bytes.h"
#include "base/map.h"

#define ZNL_NO_SINCE UINT64_MAX

typedef struct znl_members znl_members;
typedef struct znl_owner znl_owner;
typedef struct znl_member znl_member;
typedef struct znl_room znl_room;

/* What a session is. Frames are borrowed. */
typedef struct znl_session {
    znl_frame ns, id;
    znl_frame user_id;  /* {NULL, 0}: none */
    znl_frame metadata; /* JSON; {NULL, 0}: none */
    uint64_t since;     /* when it joined; ZNL_NO_SINCE: not known */
} znl_session;

typedef struct znl_member_link {
    znl_member *next, *previous;
} znl_member_link;

typedef struct znl_member_list {
    znl_member *first, *last;
    size_t count;
} znl_member_list;

/* One session. To be read only, but for what is free. */
struct znl_member {
    znl_map_entry map;           /* key: the id of the session */
    znl_session session;         /* as shown; frames point into `block` */
    znl_session held;            /* as we hold it, if is_own; into one of the blocks */
    uint8_t *block, *held_block; /* held_block: NULL when it is the same */
    size_t block_bytes, held_bytes;
    znl_owner *owner; /* as shown; NULL: ourselves */
    znl_room *room;
    znl_member_link in_room, in_owner, in_own;
    uint64_t hash; /* of what is shown, the same in every process: part of the owner's digest */
    int is_own;
    /* Free. */
    int is_displaced; /* we hold it, and who is shown has it since later */
    int is_untold;    /* we hold it, and no message can: others do not know of it */
    uint64_t touch;   /* when it was heard of last */
    uint64_t number;  /* of the message that said so */
};

/* A list that comes in parts. */
typedef struct znl_owner_list {
    uint64_t gen, next_part; /* next_part 0: none is under way */
    uint64_t began;          /* `touch` of what it has listed is at least this */
    uint64_t number;         /* of its first message */
    int is_broken;           /* a member of it was lost here */
    int is_refused;          /* a member of it is past a limit */
} znl_owner_list;

/* One other instance. */
struct znl_owner {
    znl_map_entry map; /* key: its id */
    uint64_t deadline_ms;
    uint64_t seen_ms;
    znl_owner *next, *previous; /* by deadline */
    znl_member_list members;
    size_t bytes;
    uint64_t digest; /* sum of the hashes of its members */
    /* Free: what the protocol knows of it. */
    int is_ours;                 /* speaks our extensions */
    int is_complete;             /* its whole list has been here once */
    int needs_ask;               /* something of it was lost */
    int has_number;              /* `number` counts: of its last message */
    uint64_t number, asked_ms;   /* asked_ms: when we asked for its list; 0: never */
    int is_refused;              /* of its last list not all could be taken */
    unsigned unmatched;          /* digests since that were not what is known here */
    znl_owner_list list, answer; /* what it lists now: to all; to us alone */
    uint8_t id[];
};

typedef struct znl_members_limits {
    size_t max_members, max_bytes; /* of others, and again of ours; one owner: three quarters */
    size_t max_owners;
} znl_members_limits;

typedef enum znl_member_change {
    ZNL_MEMBER_SAME,
    ZNL_MEMBER_ADDED,
    ZNL_MEMBER_UPDATED, /* user, metadata, owner or namespace */
    ZNL_MEMBER_MOVED,   /* the same, and from another namespace: now last in its own */
} znl_member_change;

/* Returns an empty table, owned. 0 or ZNL_E_NOMEM. */
int znl_members_new(znl_members **out, const znl_members_limits *limits);
void znl_members_free(znl_members *members); /* accepts NULL */

/* --- sessions -------------------------------------------------------------------------------------- */

znl_member *znl_members_find(const znl_members *members, znl_frame id);

/* Shows that `owner` (NULL: ourselves, and then it becomes our own) has the session, which is copied; *member is
 * its entry. 0; ZNL_E_LIMIT: no room for one more; ZNL_E_NOMEM: all is as before. */
int znl_members_put(znl_members *members, znl_owner *owner, const znl_session *session,
        znl_member **member, znl_member_change *change);

/* What is shown of our own member is what we hold again. */
void znl_members_reinstate(znl_members *members, znl_member *member);
/* We do not hold it any more; what is shown stays, and must be another's. */
void znl_members_disown(znl_members *members, znl_member *member);

/* Takes an entry out of everything; the caller frees it. */
void znl_members_unlink(znl_members *members, znl_member *member);
void znl_member_free(znl_member *member);

/* The sessions shown in a namespace; NULL: none. Follow in_room. */
znl_member *znl_members_first_in(const znl_members *members, znl_frame ns);
size_t znl_members_count_in(const znl_members *members, znl_frame ns);
size_t znl_members_count(const znl_members *members);
/* Those we hold: follow in_own. */
const znl_member_list *znl_members_own(const znl_members *members);
/* Count and digest of those we hold, are not displaced from, and have told. */
uint64_t znl_members_digest(const znl_members *members, size_t *count);
/* Bytes of all texts. */
size_t znl_members_bytes(const znl_members *members);

/* --- owners ---------------------------------------------------------------------------------------- */

znl_owner *znl_members_find_owner(const znl_members *members, znl_frame id);
/* The owner of that id, which is made when there is none; its deadline is moved to `deadline_ms`, which must never be before
 * one given earlier. When there are too many, one without sessions makes room. 0, ZNL_E_LIMIT, ZNL_E_NOMEM. */
int znl_members_renew(znl_members *members, znl_frame id, uint64_t now_ms, uint64_t deadline_ms,
        znl_owner **owner);
/* The one with the earliest deadline; then follow `next`. */
znl_owner *znl_members_first_owner(const znl_members *members);
size_t znl_members_owner_count(const znl_members *members);
/* Takes an owner without sessions out and frees it. */
void znl_members_drop_owner(znl_members *members, znl_owner *owner);

#endif
