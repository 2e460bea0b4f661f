/* members.c - see members.h. SPDX-License-Identifier: MIT */
#include "state/members.h"

#include "base/alloc.h"
#include "base/err.h"

#define SHARE(limit) ((limit) - (limit) / 4) /* of one owner */
#define ABSENT UINT32_MAX                    /* a length: there is no such text */
#define ENTRY_BYTES sizeof(znl_member)       /* beside its texts; the room is not counted */

struct znl_room { /* a namespace */
    znl_map_entry map;
    znl_member_list members;
    uint8_t name[];
};

struct znl_members {
    znl_members_limits limits;
    znl_map sessions, rooms, owners;
    znl_owner *first, *last; /* by deadline */
    znl_member_list own;
    size_t own_bytes;     /* of those we hold */
    size_t foreign_count; /* shown as others' */
    size_t foreign_bytes;
};

int znl_members_new(znl_members **out, const znl_members_limits *limits)
{
    znl_members *members = znl_calloc(1, sizeof *members);
    if (members == NULL)
        return ZNL_E_NOMEM;
    members->limits = *limits;
    *out = members;
    return 0;
}

static void discard_all(znl_members *members, const znl_member_list *list)
{
    znl_member *member;
    while ((member = list->first) != NULL) {
        znl_members_unlink(members, member);
        znl_member_free(member);
    }
}

void znl_members_free(znl_members *members)
{
    if (members == NULL)
        return;
    discard_all(members, &members->own);
    while (members->first != NULL) {
        discard_all(members, &members->first->members);
        znl_members_drop_owner(members, members->first);
    }
    znl_map_fini(&members->sessions);
    znl_map_fini(&members->rooms);
    znl_map_fini(&members->owners);
    znl_free(members);
}

/* --- lists: one link of a member each -------------------------------------------------------------- */

#define LINK(member, offset) ((znl_member_link *)(void *)((uint8_t *)(member) + (offset)))
#define IN_ROOM offsetof(znl_member, in_room)
#define IN_OWNER offsetof(znl_member, in_owner)
#define IN_OWN offsetof(znl_member, in_own)

static void enlist(znl_member_list *list, znl_member *member, size_t offset)
{
    *LINK(member, offset) = (znl_member_link){NULL, list->last};
    if (list->last != NULL)
        LINK(list->last, offset)->next = member;
    else
        list->first = member;
    list->last = member;
    list->count++;
}

static void delist(znl_member_list *list, znl_member *member, size_t offset)
{
    znl_member_link *link = LINK(member, offset);
    if (link->previous != NULL)
        LINK(link->previous, offset)->next = link->next;
    else
        list->first = link->next;
    if (link->next != NULL)
        LINK(link->next, offset)->previous = link->previous;
    else
        list->last = link->previous;
    *link = (znl_member_link){0};
    list->count--;
}

/* --- texts: one block, which is also what the hash is made of (codec/WIRE.md, "Hub on NATS") -------- */

static size_t block_size(const znl_session *session)
{
    return 8 + 4 * 4 + session->ns.size + session->id.size + session->user_id.size +
            session->metadata.size;
}

static uint8_t *put_text(uint8_t *at, znl_frame text, znl_frame *copy)
{
    znl_put_be32(at, text.data != NULL ? (uint32_t)text.size : ABSENT);
    at += 4;
    *copy = (znl_frame){0};
    if (text.data == NULL)
        return at;
    if (text.size > 0)
        memcpy(at, text.data, text.size);
    *copy = znl_frame_of(at, text.size);
    return at + text.size;
}

static uint8_t *make_block(const znl_session *session, znl_session *copy)
{
    uint8_t *block = znl_malloc(block_size(session)), *at = block;
    if (block == NULL)
        return NULL;
    znl_put_be32(at, (uint32_t)(session->since >> 32));
    znl_put_be32(at + 4, (uint32_t)session->since);
    at = put_text(at + 8, session->ns, &copy->ns);
    at = put_text(at, session->id, &copy->id);
    at = put_text(at, session->user_id, &copy->user_id);
    put_text(at, session->metadata, &copy->metadata);
    copy->since = session->since;
    return block;
}

static int is_same_text(znl_frame a, znl_frame b)
{
    return (a.data == NULL) == (b.data == NULL) && znl_frame_equal(a, b);
}

static int is_same(const znl_session *a, const znl_session *b)
{
    return a->since == b->since && is_same_text(a->user_id, b->user_id) &&
            is_same_text(a->metadata, b->metadata) && is_same_text(a->ns, b->ns);
}

/* --- namespaces ------------------------------------------------------------------------------------ */

static znl_room *find_room(const znl_members *members, znl_frame ns)
{
    return (znl_room *)(void *)znl_map_find(&members->rooms, ns, znl_map_hash(ns));
}

static int open_room(znl_members *members, znl_frame ns, znl_room **out)
{
    znl_room *room = find_room(members, ns);
    *out = room;
    if (room != NULL)
        return 0;
    room = znl_calloc(1, sizeof *room + ns.size);
    if (room == NULL)
        return ZNL_E_NOMEM;
    if (ns.size > 0)
        memcpy(room->name, ns.data, ns.size);
    room->map.key = znl_frame_of(room->name, ns.size);
    room->map.hash = znl_map_hash(ns);
    if (znl_map_put(&members->rooms, &room->map) != 0) {
        znl_free(room);
        return ZNL_E_NOMEM;
    }
    *out = room;
    return 0;
}

static void close_room(znl_members *members, znl_room *room)
{
    if (room == NULL || room->members.count > 0)
        return;
    znl_map_remove(&members->rooms, &room->map);
    znl_free(room);
}

/* --- what is shown --------------------------------------------------------------------------------- */

/* Takes what is shown out of its owner's account, or puts it in. */
static void leave_owner(znl_members *members, znl_member *member)
{
    znl_owner *owner = member->owner;
    if (owner == NULL)
        return;
    size_t bytes = member->block_bytes + ENTRY_BYTES;
    delist(&owner->members, member, IN_OWNER);
    owner->digest -= member->hash;
    owner->bytes -= bytes;
    members->foreign_count--;
    members->foreign_bytes -= bytes;
}

static void join_owner(znl_members *members, znl_member *member, znl_owner *owner)
{
    member->owner = owner;
    if (owner == NULL)
        return;
    size_t bytes = member->block_bytes + ENTRY_BYTES;
    enlist(&owner->members, member, IN_OWNER);
    owner->digest += member->hash;
    owner->bytes += bytes;
    members->foreign_count++;
    members->foreign_bytes += bytes;
}

static int has_room(const znl_members *members, const znl_owner *owner,
        const znl_member *member, const znl_session *session)
{
    const znl_members_limits *limits = &members->limits;
    size_t bytes = block_size(session) + ENTRY_BYTES;
    size_t old = member != NULL ? member->block_bytes + ENTRY_BYTES : 0;
    if (owner == NULL) {
        int is_new = member == NULL || !member->is_own;
        size_t held = is_new ? 0 : member->held_bytes + ENTRY_BYTES;
        return members->own.count + (size_t)is_new <= limits->max_members &&
                members->own_bytes - held + bytes <= limits->max_bytes;
    }
    int is_his = member != NULL && member->owner == owner;
    int is_foreign = member != NULL && member->owner != NULL;
    return owner->members.count + !is_his <= SHARE(limits->max_members) &&
            members->foreign_count + !is_foreign <= limits->max_members &&
            owner->bytes - (is_his ? old : 0) + bytes <= SHARE(limits->max_bytes) &&
            members->foreign_bytes - (is_foreign ? old : 0) + bytes <= limits->max_bytes;
}

/* Forgets what is held, which is not what is shown. */
static void drop_held(znl_member *member)
{
    znl_free(member->held_block);
    member->held_block = NULL;
}

/* Replaces what is shown; nothing can fail any more. */
static void show(znl_members *members, znl_member *member, znl_owner *owner, uint8_t *block,
        const znl_session *session, znl_room *room)
{
    znl_room *old_room = member->room;
    leave_owner(members, member);
    if (member->is_own && member->owner == NULL && owner != NULL)
        member->held_block = member->block; /* `held` points there already */
    else
        znl_free(member->block);
    member->block = block;
    member->session = *session;
    member->block_bytes = block_size(session);
    member->hash = znl_map_stable_hash(znl_frame_of(block, member->block_bytes));
    member->map.key = session->id;
    join_owner(members, member, owner);
    if (room != old_room) {
        if (old_room != NULL)
            delist(&old_room->members, member, IN_ROOM);
        enlist(&room->members, member, IN_ROOM);
        member->room = room;
        close_room(members, old_room);
    }
}

/* What is shown, as ours, is what we hold. */
static void hold(znl_members *members, znl_member *member)
{
    if (!member->is_own)
        enlist(&members->own, member, IN_OWN);
    else
        members->own_bytes -= member->held_bytes + ENTRY_BYTES;
    drop_held(member);
    member->is_own = 1;
    member->held = member->session;
    member->held_bytes = member->block_bytes;
    members->own_bytes += member->held_bytes + ENTRY_BYTES;
}

static int insert(znl_members *members, znl_frame id, uint64_t hash, znl_member **out)
{
    znl_member *member = znl_calloc(1, sizeof *member);
    if (member == NULL)
        return ZNL_E_NOMEM;
    member->map.key = id;
    member->map.hash = hash;
    if (znl_map_put(&members->sessions, &member->map) != 0) {
        znl_free(member);
        return ZNL_E_NOMEM;
    }
    *out = member;
    return 0;
}

int znl_members_put(znl_members *members, znl_owner *owner, const znl_session *session,
        znl_member **out, znl_member_change *change)
{
    uint64_t hash = znl_map_hash(session->id);
    znl_member *member = (znl_member *)(void *)znl_map_find(
            &members->sessions, session->id, hash);
    znl_session copy;
    znl_room *room;
    *change = ZNL_MEMBER_SAME;
    if (member != NULL && member->owner == owner && is_same(&member->session, session)) {
        *out = member;
        if (owner == NULL && !member->is_own)
            hold(members, member);
        return 0;
    }
    if (!has_room(members, owner, member, session))
        return ZNL_E_LIMIT;
    uint8_t *block = make_block(session, &copy);
    if (block == NULL)
        return ZNL_E_NOMEM;
    int err = open_room(members, session->ns, &room);
    if (err == 0 && member == NULL) {
        err = insert(members, copy.id, hash, &member);
        if (err != 0)
            close_room(members, room);
        else
            *change = ZNL_MEMBER_ADDED;
    } else if (err == 0) {
        *change = room != member->room ? ZNL_MEMBER_MOVED : ZNL_MEMBER_UPDATED;
    }
    if (err != 0) {
        znl_free(block);
        return err;
    }
    show(members, member, owner, block, &copy, room);
    if (owner == NULL)
        hold(members, member);
    *out = member;
    return 0;
}

void znl_members_reinstate(znl_members *members, znl_member *member)
{
    if (member->held_block == NULL)
        return;
    uint8_t *block = member->held_block;
    znl_session held = member->held;
    znl_room *room = find_room(members, held.ns);
    member->held_block = NULL;
    /* Without memory for its namespace it stays in the one that is shown. */
    if (room == NULL && open_room(members, held.ns, &room) != 0)
        room = member->room;
    show(members, member, NULL, block, &held, room);
}

void znl_members_disown(znl_members *members, znl_member *member)
{
    if (!member->is_own)
        return;
    delist(&members->own, member, IN_OWN);
    members->own_bytes -= member->held_bytes + ENTRY_BYTES;
    drop_held(member);
    member->is_own = 0;
    member->is_displaced = 0;
    member->is_untold = 0;
    member->held = (znl_session){0};
    member->held_bytes = 0;
}

void znl_members_unlink(znl_members *members, znl_member *member)
{
    znl_members_disown(members, member);
    leave_owner(members, member);
    delist(&member->room->members, member, IN_ROOM);
    close_room(members, member->room);
    znl_map_remove(&members->sessions, &member->map);
}

void znl_member_free(znl_member *member)
{
    znl_free(member->block);
    znl_free(member);
}

/* --- looking --------------------------------------------------------------------------------------- */

znl_member *znl_members_find(const znl_members *members, znl_frame id)
{
    return (znl_member *)(void *)znl_map_find(&members->sessions, id, znl_map_hash(id));
}

znl_member *znl_members_first_in(const znl_members *members, znl_frame ns)
{
    const znl_room *room = find_room(members, ns);
    return room != NULL ? room->members.first : NULL;
}

size_t znl_members_count_in(const znl_members *members, znl_frame ns)
{
    const znl_room *room = find_room(members, ns);
    return room != NULL ? room->members.count : 0;
}

size_t znl_members_count(const znl_members *members)
{
    return members->sessions.count;
}

const znl_member_list *znl_members_own(const znl_members *members)
{
    return &members->own;
}

uint64_t znl_members_digest(const znl_members *members, size_t *count)
{
    uint64_t sum = 0;
    *count = 0;
    for (const znl_member *at = members->own.first; at != NULL; at = at->in_own.next) {
        if (at->is_displaced || at->is_untold)
            continue;
        const uint8_t *block = at->held_block != NULL ? at->held_block : at->block;
        sum += at->held_block == NULL
                ? at->hash
                : znl_map_stable_hash(znl_frame_of(block, at->held_bytes));
        ++*count;
    }
    return sum;
}

size_t znl_members_bytes(const znl_members *members)
{
    return members->own_bytes + members->foreign_bytes;
}

/* --- owners ---------------------------------------------------------------------------------------- */

znl_owner *znl_members_find_owner(const znl_members *members, znl_frame id)
{
    return (znl_owner *)(void *)znl_map_find(&members->owners, id, znl_map_hash(id));
}

static void take_out(znl_members *members, znl_owner *owner)
{
    if (owner->previous != NULL)
        owner->previous->next = owner->next;
    else
        members->first = owner->next;
    if (owner->next != NULL)
        owner->next->previous = owner->previous;
    else
        members->last = owner->previous;
}

static void put_last(znl_members *members, znl_owner *owner)
{
    owner->next = NULL;
    owner->previous = members->last;
    if (members->last != NULL)
        members->last->next = owner;
    else
        members->first = owner;
    members->last = owner;
}

/* Room for one more: those without sessions have the least to say. */
static int make_room(znl_members *members)
{
    if (members->owners.count < members->limits.max_owners)
        return 0;
    znl_owner *owner = members->first;
    while (owner != NULL && owner->members.count > 0)
        owner = owner->next;
    if (owner == NULL)
        return ZNL_E_LIMIT;
    znl_members_drop_owner(members, owner);
    return 0;
}

static int make_owner(znl_members *members, znl_frame id, znl_owner **out)
{
    int err = make_room(members);
    if (err != 0)
        return err;
    znl_owner *owner = znl_calloc(1, sizeof *owner + id.size);
    if (owner == NULL)
        return ZNL_E_NOMEM;
    if (id.size > 0)
        memcpy(owner->id, id.data, id.size);
    owner->map.key = znl_frame_of(owner->id, id.size);
    owner->map.hash = znl_map_hash(id);
    err = znl_map_put(&members->owners, &owner->map);
    if (err != 0) {
        znl_free(owner);
        return err;
    }
    put_last(members, owner);
    *out = owner;
    return 0;
}

int znl_members_renew(znl_members *members, znl_frame id, uint64_t now_ms, uint64_t deadline_ms,
        znl_owner **out)
{
    znl_owner *owner = znl_members_find_owner(members, id);
    int err = owner == NULL ? make_owner(members, id, &owner) : 0;
    if (err != 0)
        return err;
    take_out(members, owner);
    put_last(members, owner);
    owner->seen_ms = now_ms;
    owner->deadline_ms = deadline_ms;
    *out = owner;
    return 0;
}

znl_owner *znl_members_first_owner(const znl_members *members)
{
    return members->first;
}

size_t znl_members_owner_count(const znl_members *members)
{
    return members->owners.count;
}

void znl_members_drop_owner(znl_members *members, znl_owner *owner)
{
    take_out(members, owner);
    znl_map_remove(&members->owners, &owner->map);
    znl_free(owner);
}
