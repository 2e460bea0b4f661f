/* roster_receive.c - see roster.h: what others say, and what comes of their silence.
 *
 * Who has a session: among our own the newer join wins, by time and then by the ids of the instances; an original
 * is believed, the last one last (spec, section 12, 2 and 3). SPDX-License-Identifier: MIT */
#include "node/roster_parts.h"

#include "base/err.h"

/* What a message says of a session. */
struct claim {
    znl_owner *owner;
    const znl_session *session;
    uint64_t number; /* of the message; 0: not in a row */
    int is_add;      /* a join, not a list */
    int is_answer;   /* a list to us alone: what came meanwhile may be newer */
};

/* --- our own, when another has it or has it no more ------------------------------------------------ */

/* Nobody else has it: ours is shown again, and announced. */
static void take_back(znl_roster *roster, znl_member *member)
{
    znl_session session = member->held;
    znl_member *same;
    if (member->is_displaced) /* it joins anew, after the other */
        session.since = znl_roster_since(roster, member);
    if (znl_roster_show(roster, NULL, &session, &same) != 0) {
        znl_members_reinstate(roster->members, member); /* needs no memory */
        znl_roster_tell(roster, ZNL_ROSTER_UPDATED, member, ZNL_ROSTER_LEFT);
    }
    member->is_displaced = 0;
    member->number = 0;
    znl_roster_repair(roster, member);
}

/* Its owner has it no more, for that cause. */
static void lose(znl_roster *roster, znl_member *member, znl_roster_cause cause)
{
    if (member->is_own)
        take_back(roster, member);
    else
        znl_roster_drop(roster, member, cause);
}

/* --- claims ---------------------------------------------------------------------------------------- */

static int compare_ids(znl_frame a, znl_frame b)
{
    size_t size = a.size < b.size ? a.size : b.size;
    int order = size > 0 ? memcmp(a.data, b.data, size) : 0;
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

static int is_newer(uint64_t since, znl_frame id, uint64_t other_since, znl_frame other_id)
{
    return since != other_since ? since > other_since : compare_ids(id, other_id) > 0;
}

/* Nothing is later than the last time there is: an add with it is believed against another. Or who once said so would have
 * the session for ever. */
static int is_last_word(const struct claim *claim, uint64_t other_since)
{
    return claim->is_add && claim->session->since == ZNL_HUB_NUMBER_MAX &&
            other_since == ZNL_HUB_NUMBER_MAX;
}

/* Whether it is to be believed against what is known. *displaces 1: ours has lost it. */
static int is_believed(
        znl_roster *roster, const struct claim *claim, znl_member *member, int *displaces)
{
    uint64_t since = claim->session->since;
    znl_frame id = claim->owner->map.key;
    *displaces = 0;
    if (member == NULL)
        return 1;
    if (member->is_own && !member->is_displaced) {
        *displaces = since == ZNL_NO_SINCE
                ? claim->is_add
                : is_newer(since, id, member->held.since, roster->self) ||
                        is_last_word(claim, member->held.since);
        if (since == ZNL_NO_SINCE || *displaces)
            return 1;
        znl_roster_repair(roster, member); /* the other has not heard of ours */
        return 0;
    }
    const znl_owner *shown = member->owner;
    return shown == claim->owner || since == ZNL_NO_SINCE ||
            member->session.since == ZNL_NO_SINCE ||
            shown->deadline_ms <= znl_roster_now(roster) ||
            is_newer(since, id, member->session.since, shown->map.key) ||
            is_last_word(claim, member->session.since);
}

/* Whether a later message of its owner spoke of the member. A number past the owner's last is of a row that has begun
 * anew since. */
static int is_newer_than(const znl_owner *owner, const znl_member *member, uint64_t number)
{
    return number > 0 && member->number > number && member->number <= owner->number;
}

/* 0; or the member could not be taken: ZNL_E_LIMIT, ZNL_E_TOO_BIG, ZNL_E_NOMEM. */
static int receive_claim(znl_roster *roster, const struct claim *claim)
{
    const znl_session *session = claim->session;
    znl_member *member = znl_members_find(roster->members, session->id);
    int displaces;
    if (session->ns.size + session->id.size + session->user_id.size + session->metadata.size >
            roster->max_member_bytes) {
        roster->counters.refused++;
        return ZNL_E_TOO_BIG;
    }
    if (!is_believed(roster, claim, member, &displaces)) {
        roster->counters.disowned++;
        return 0;
    }
    if (claim->is_answer && member != NULL && member->owner == claim->owner &&
            is_newer_than(claim->owner, member, claim->number)) {
        member->touch = roster->touches;
        return 0;
    }
    int err = znl_roster_show(roster, claim->owner, session, &member);
    if (err != 0) {
        roster->counters.refused++;
        return err;
    }
    member->touch = roster->touches;
    member->number = claim->number;
    if (displaces) {
        member->is_displaced = 1;
        roster->counters.displaced++;
        znl_roster_tell(roster, ZNL_ROSTER_DISPLACED, member, ZNL_ROSTER_LEFT);
    }
    return 0;
}

/* A list of ours that leaves times out must not take sessions over as an original's does: nobody sends it lists, to take
 * them back with. */
static znl_session session_of(
        const znl_hub_member *member, uint64_t since, const znl_owner *owner)
{
    return (znl_session){member->ns, member->session_id, member->user_id, member->metadata,
            !owner->is_ours                      ? ZNL_NO_SINCE
                    : since == ZNL_HUB_NO_NUMBER ? 0
                                                 : since};
}

static uint64_t number_of(const znl_hub_roster *message)
{
    return message->is_ours && message->n != ZNL_HUB_NO_NUMBER ? message->n : 0;
}

static void receive_add(znl_roster *roster, znl_owner *owner, const znl_hub_roster *message)
{
    if (message->member.session_id.data == NULL) {
        roster->counters.skipped++;
        return;
    }
    znl_session session = session_of(&message->member, message->since, owner);
    const struct claim claim = {owner, &session, number_of(message), 1, 0};
    receive_claim(roster, &claim);
}

static void receive_remove(znl_roster *roster, znl_owner *owner, const znl_hub_roster *message)
{
    if (message->session_id.data == NULL) {
        roster->counters.ignored++;
        return;
    }
    znl_member *member = znl_members_find(roster->members, message->session_id);
    if (member == NULL)
        return;
    if (member->owner == owner) {
        lose(roster, member, ZNL_ROSTER_LEFT);
        return;
    }
    roster->counters.disowned++;
    if (member->is_own && !member->is_displaced)
        znl_roster_repair(roster, member); /* originals believe such a message */
}

/* --- lists ----------------------------------------------------------------------------------------- */

/* What the owner has not listed, and nothing newer speaks for, is gone. */
static void tidy(znl_roster *roster, znl_owner *owner, const znl_owner_list *list)
{
    znl_member *next;
    for (znl_member *member = owner->members.first; member != NULL; member = next) {
        next = member->in_owner.next;
        if (member->touch >= list->began || is_newer_than(owner, member, list->number))
            continue;
        roster->counters.missing++;
        lose(roster, member, ZNL_ROSTER_MISSING);
    }
}

/* Where the part stands in its list. 1 when it is the one that comes next. */
static int begin_part(
        znl_roster *roster, znl_owner_list *list, const znl_hub_roster *message, int *is_last)
{
    int is_marked = message->is_ours && message->gen != ZNL_HUB_NO_NUMBER &&
            message->part != ZNL_HUB_NO_NUMBER;
    uint64_t part = is_marked ? message->part : 1;
    *is_last = !is_marked || message->parts == part; /* an original's list is always whole */
    if (part == 1) {
        *list = (znl_owner_list){.gen = message->gen,
                .next_part = 1,
                .began = ++roster->touches,
                .number = number_of(message)};
        return 1;
    }
    return list->next_part == part && list->gen == message->gen;
}

/* 1 when the whole list has been here with it. */
static int receive_list(znl_roster *roster, znl_owner *owner, const znl_hub_roster *message)
{
    int is_answer = message->is_ours && message->to.data != NULL, is_last, more;
    znl_owner_list *state = is_answer ? &owner->answer : &owner->list;
    znl_hub_list list;
    znl_hub_member member;
    uint64_t since;
    if (message->members.data == NULL) {
        roster->counters.ignored++;
        return 0;
    }
    if (!begin_part(roster, state, message, &is_last))
        state->next_part = 0;
    znl_hub_begin_list(&list, message);
    while ((more = znl_hub_next_member(&list, &member, &since, &roster->member_scratch)) > 0) {
        znl_session session = session_of(&member, since, owner);
        const struct claim claim = {owner, &session, number_of(message), 0, is_answer};
        int err = receive_claim(roster, &claim);
        state->is_broken |= err == ZNL_E_NOMEM;
        state->is_refused |= err == ZNL_E_LIMIT || err == ZNL_E_TOO_BIG;
    }
    roster->counters.skipped += list.skipped;
    if (more != 0)
        state->is_broken = 1;
    if (state->next_part == 0)
        return 0;
    state->next_part = is_last ? 0 : state->next_part + 1;
    if (!is_last || state->is_broken)
        return 0;
    tidy(roster, owner, state);
    owner->is_complete = 1;
    owner->needs_ask = 0;
    owner->is_refused = state->is_refused;
    return 1;
}

static int parse_hash(znl_frame text, uint64_t *hash)
{
    *hash = 0;
    if (text.size != 16)
        return ZNL_E_PROTO;
    for (size_t i = 0; i < 16; i++) {
        uint8_t c = text.data[i];
        unsigned digit = c >= '0' && c <= '9' ? c - (unsigned)'0'
                : c >= 'a' && c <= 'f'        ? c - 'a' + 10u
                                              : 16u;
        if (digit > 15)
            return ZNL_E_PROTO;
        *hash = *hash << 4 | digit;
    }
    return 0;
}

/* 1 when it says what is known already. */
static int receive_digest(znl_roster *roster, znl_owner *owner, const znl_hub_roster *message)
{
    uint64_t hash;
    if (parse_hash(message->hash, &hash) != 0 || message->count == ZNL_HUB_NO_NUMBER) {
        roster->counters.ignored++;
        return 0;
    }
    if (message->count == owner->members.count && hash == owner->digest) {
        owner->unmatched = 0;
        owner->is_complete = 1;
        owner->needs_ask = 0;
        return 1;
    }
    roster->counters.unmatched++;
    /* When we refused some of its list the next one will not bring it about either: not each time then. */
    if (!owner->is_refused || ++owner->unmatched % ZNL_ROSTER_PATIENCE == 0)
        znl_roster_ask(roster, owner);
    return 1;
}

/* --- messages -------------------------------------------------------------------------------------- */

/* 1 when something before this message was lost. */
static int count_number(znl_roster *roster, znl_owner *owner, const znl_hub_roster *message)
{
    uint64_t number = number_of(message);
    if (number == 0)
        return 0;
    if (message->to.data != NULL && message->op == ZNL_HUB_HEARTBEAT) {
        /* Of no number of its own: it says how far its owner was. */
        if (!owner->has_number || number > owner->number)
            owner->number = number;
        owner->has_number = 1;
        return 0;
    }
    int is_lost = owner->has_number && number != owner->number + 1;
    owner->has_number = 1;
    owner->number = number;
    roster->counters.gaps += (uint64_t)is_lost;
    return is_lost;
}

/* An original needs our list, and goes on needing it. */
static void meet_foreign(znl_roster *roster)
{
    uint64_t now_ms = znl_roster_now(roster);
    int is_known = now_ms < roster->foreign_until_ms;
    roster->foreign_until_ms = now_ms + 2 * (uint64_t)roster->ttl_ms;
    if (!is_known)
        znl_roster_wanted(roster, (znl_frame){0}, NULL);
}

static int is_mine(const znl_roster *roster, znl_frame to)
{
    return to.data != NULL && znl_frame_equal(to, roster->self);
}

static void receive_from(
        znl_roster *roster, znl_owner *owner, const znl_hub_roster *message, const char *reply)
{
    int is_lost = count_number(roster, owner, message), is_known = owner->is_complete;
    switch (message->op) {
    case ZNL_HUB_ADD:
        receive_add(roster, owner, message);
        break;
    case ZNL_HUB_REMOVE:
        receive_remove(roster, owner, message);
        break;
    case ZNL_HUB_HEARTBEAT:
        if (receive_list(roster, owner, message))
            is_lost = 0;
        is_known = 1; /* the rest of it is on its way, or it shows that it is lost */
        break;
    case ZNL_HUB_DIGEST:
        if (receive_digest(roster, owner, message)) {
            is_known = 1;
            is_lost = 0;
        }
        break;
    case ZNL_HUB_SYNC:
        znl_roster_wanted(roster, message->origin, owner->is_ours ? reply : NULL);
        is_known = 1; /* who starts lists what it has */
        break;
    case ZNL_HUB_ASK:
        if (is_mine(roster, message->to))
            znl_roster_wanted(roster, message->origin, reply);
        break;
    case ZNL_HUB_NO_OP:
    case ZNL_HUB_UNKNOWN:
        break;
    }
    if (owner->is_ours && (is_lost || !is_known))
        znl_roster_ask(roster, owner);
}

static void receive(znl_roster *roster, znl_frame text, const char *reply)
{
    znl_hub_roster message;
    znl_owner *owner;
    roster->counters.received++;
    if (znl_hub_read_roster(text, &roster->scratch, &message) != 0) {
        roster->counters.malformed++;
        return;
    }
    if (message.origin.data != NULL && znl_frame_equal(message.origin, roster->self)) {
        roster->counters.echoes++;
        return;
    }
    int is_answer = message.is_ours && message.op == ZNL_HUB_HEARTBEAT &&
            message.to.data != NULL;
    if (message.op == ZNL_HUB_NO_OP || message.op == ZNL_HUB_UNKNOWN ||
            message.origin.size > ZNL_ROSTER_ORIGIN_BYTES_MAX ||
            (is_answer && !is_mine(roster, message.to))) {
        roster->counters.ignored++;
        return;
    }
    if (message.origin.data == NULL) /* not an echo, and as good an id as any */
        message.origin = znl_frame_text("");
    uint64_t now_ms = znl_roster_now(roster);
    if (znl_members_renew(roster->members, message.origin, now_ms, now_ms + roster->ttl_ms,
                &owner) != 0) {
        roster->counters.refused++;
        return;
    }
    owner->is_ours = message.is_ours;
    if (!message.is_ours)
        meet_foreign(roster);
    receive_from(roster, owner, &message, reply);
    znl_roster_watch_expiry(roster);
}

void znl_roster_receive(znl_roster *roster, const void *data, size_t size, const char *reply)
{
    if (!znl_roster_speaks(roster))
        return;
    znl_roster_enter(roster);
    receive(roster, znl_frame_of(data, size), reply);
    znl_buffer_trim(&roster->scratch, ZNL_ROSTER_PART_BYTES);
    znl_buffer_trim(&roster->member_scratch, ZNL_ROSTER_PART_BYTES);
    znl_roster_leave_call(roster);
}

/* --- silence --------------------------------------------------------------------------------------- */

static void expire(znl_timer *timer)
{
    znl_roster *roster = ZNL_ROSTER_OF(timer, expiry_timer);
    uint64_t now_ms = znl_roster_now(roster);
    znl_owner *owner;
    /* The process stood still: what the others said meanwhile has arrived, and is read first. */
    if (now_ms > timer->deadline_ms + ZNL_ROSTER_STALL_MS) {
        znl_wheel_start(
                znl_loop_wheel(roster->loop), timer, now_ms + ZNL_ROSTER_STALL_MS, expire);
        return;
    }
    znl_roster_enter(roster);
    while ((owner = znl_members_first_owner(roster->members)) != NULL &&
            owner->deadline_ms <= now_ms) {
        while (owner->members.first != NULL) {
            roster->counters.expired++;
            lose(roster, owner->members.first, ZNL_ROSTER_EXPIRED);
        }
        znl_members_drop_owner(roster->members, owner);
    }
    znl_roster_watch_expiry(roster);
    znl_roster_leave_call(roster);
}

void znl_roster_watch_expiry(znl_roster *roster)
{
    const znl_owner *first = znl_members_first_owner(roster->members);
    znl_timer *timer = &roster->expiry_timer;
    znl_wheel *wheel = znl_loop_wheel(roster->loop);
    if (first == NULL)
        znl_wheel_stop(wheel, timer);
    else if (!znl_timer_running(timer) || timer->deadline_ms > first->deadline_ms)
        znl_wheel_start(wheel, timer, first->deadline_ms, expire);
    /* Else it fires early, and then looks again. */
}
