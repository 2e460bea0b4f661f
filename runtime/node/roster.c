/* roster.c - see roster.h: what callers do, and what they are told. SPDX-License-Identifier: MIT */
#include "node/roster_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/random.h"
#include "codec/text.h"

#define EVENTS_KEPT 65536u /* bytes of the queue of events that are kept for the next time */
#define ID_BYTES 16u       /* random: of an id, and of the last token of the inbox */

/* --- life ------------------------------------------------------------------------------------------ */

static uint64_t random_u64(void *user)
{
    (void)user;
    return znl_random_u64();
}

static size_t or_default(size_t value, size_t otherwise)
{
    return value != 0 ? value : otherwise;
}

/* Subject, id and inbox: "<subject>.<random>", which is inside what a server grants to an application. */
static int name(znl_roster *roster, const znl_roster_options *options)
{
    char made[2][2 * ID_BYTES + 1];
    for (unsigned i = 0; i < 2; i++) {
        uint64_t words[2] = {roster->random(roster->user), roster->random(roster->user)};
        znl_hex_encode((const uint8_t *)words, sizeof words, made[i]);
        made[i][2 * ID_BYTES] = 0;
    }
    const char *origin = options->origin != NULL ? options->origin : made[0];
    size_t subject_size = strlen(options->subject), origin_size = strlen(origin);
    char *at = znl_malloc(2 * subject_size + origin_size + sizeof made[1] + 3);
    if (at == NULL)
        return ZNL_E_NOMEM;
    roster->subject = at;
    memcpy(at, options->subject, subject_size + 1);
    at += subject_size + 1;
    roster->origin = at;
    memcpy(at, origin, origin_size + 1);
    at += origin_size + 1;
    roster->inbox = at;
    memcpy(at, options->subject, subject_size);
    at[subject_size] = '.';
    memcpy(at + subject_size + 1, made[1], sizeof made[1]);
    roster->self = znl_frame_text(roster->origin);
    return 0;
}

static void discard(znl_roster *roster)
{
    if (roster == NULL)
        return;
    znl_members_free(roster->members);
    znl_buffer_fini(&roster->events);
    znl_buffer_fini(&roster->telling);
    znl_buffer_fini(&roster->out);
    znl_buffer_fini(&roster->list);
    znl_buffer_fini(&roster->sinces);
    znl_buffer_fini(&roster->scratch);
    znl_buffer_fini(&roster->member_scratch);
    znl_buffer_fini(&roster->old_ns);
    znl_free(roster->subject);
    znl_free(roster);
}

static int is_text(const char *text)
{
    return text != NULL && text[0] != 0 && znl_utf8_valid((const uint8_t *)text, strlen(text));
}

int znl_roster_new(znl_roster **out, znl_loop *loop, const znl_roster_options *options,
        const znl_bus *bus, void *bus_user, znl_roster_fn on_event, void *user)
{
    if (options->ttl_ms < ZNL_ROSTER_TTL_MS_MIN || options->ttl_ms > ZNL_ROSTER_TTL_MS_MAX ||
            !is_text(options->subject) ||
            (options->origin != NULL && !is_text(options->origin)))
        return ZNL_E_INVALID;
    znl_roster *roster = znl_calloc(1, sizeof *roster);
    if (roster == NULL)
        return ZNL_E_NOMEM;
    roster->loop = loop;
    roster->bus = bus;
    roster->bus_user = bus_user;
    roster->on_event = on_event;
    roster->user = user;
    roster->random = options->random != NULL ? options->random : random_u64;
    roster->ttl_ms = options->ttl_ms;
    roster->heartbeat_ms = options->ttl_ms / 2;
    roster->is_connected = 1;
    roster->max_member_bytes = (uint32_t)or_default(
            options->max_member_bytes, ZNL_ROSTER_MEMBER_BYTES_DEFAULT);
    const znl_members_limits limits = {
            .max_members = or_default(options->max_members, ZNL_ROSTER_MEMBERS_DEFAULT),
            .max_bytes = or_default(options->max_bytes, ZNL_ROSTER_BYTES_DEFAULT),
            .max_owners = ZNL_ROSTER_OWNERS_MAX};
    int err = name(roster, options);
    if (err == 0)
        err = znl_members_new(&roster->members, &limits);
    if (err != 0) {
        discard(roster);
        return err;
    }
    *out = roster;
    return 0;
}

static void silence(znl_roster *roster)
{
    znl_wheel *wheel = znl_loop_wheel(roster->loop);
    znl_roster_silence(roster);
    znl_wheel_stop(wheel, &roster->expiry_timer);
    znl_wheel_stop(wheel, &roster->partial_timer);
}

void znl_roster_free(znl_roster *roster)
{
    if (roster == NULL || roster->is_freed)
        return;
    silence(roster);
    roster->is_stopped = 1;
    roster->is_freed = 1;
    if (roster->depth == 0)
        discard(roster);
}

void znl_roster_start(znl_roster *roster)
{
    if (roster->is_started || roster->is_stopped)
        return;
    znl_roster_enter(roster);
    roster->is_started = 1;
    znl_roster_sync(roster);
    znl_roster_list_now(roster);
    znl_roster_leave_call(roster);
}

static void forget(znl_roster *roster, const znl_member_list *list)
{
    while (list->first != NULL)
        znl_roster_drop(roster, list->first, ZNL_ROSTER_STOPPED);
}

void znl_roster_stop(znl_roster *roster)
{
    znl_member *member;
    znl_owner *owner;
    if (roster->is_stopped)
        return;
    znl_roster_enter(roster);
    silence(roster);
    if (roster->is_started)
        for (member = znl_members_own(roster->members)->first; member != NULL;
                member = member->in_own.next)
            if (member->owner == NULL)
                znl_roster_send_remove(roster, member->held.id);
    roster->is_stopped = 1;
    forget(roster, znl_members_own(roster->members));
    while ((owner = znl_members_first_owner(roster->members)) != NULL) {
        forget(roster, &owner->members);
        znl_members_drop_owner(roster->members, owner);
    }
    znl_roster_leave_call(roster);
}

/* --- events ---------------------------------------------------------------------------------------- */

/* In the queue: this, then the texts. */
struct queued {
    uint32_t kind, cause, is_partial, has_user;
    size_t ns, id, user_id, owner;
};

void znl_roster_enter(znl_roster *roster)
{
    roster->depth++;
}

static znl_frame next_text(const uint8_t **at, size_t size)
{
    znl_frame text = znl_frame_of(*at, size);
    *at += size;
    return text;
}

static void tell_queued(znl_roster *roster)
{
    const uint8_t *at = roster->telling.data, *end = at + roster->telling.size;
    while (at < end && !roster->is_freed) {
        struct queued head;
        memcpy(&head, at, sizeof head);
        at += sizeof head;
        znl_roster_event event = {.kind = (znl_roster_event_kind)head.kind,
                .cause = (znl_roster_cause)head.cause,
                .is_partial = (int)head.is_partial};
        event.ns = next_text(&at, head.ns);
        event.session_id = next_text(&at, head.id);
        event.user_id = next_text(&at, head.user_id);
        event.owner = next_text(&at, head.owner);
        if (!head.has_user)
            event.user_id = (znl_frame){0};
        roster->on_event(roster->user, &event);
    }
}

void znl_roster_leave_call(znl_roster *roster)
{
    if (roster->depth == 1 && !roster->is_telling) {
        roster->is_telling = 1;
        while (roster->events.size > 0 && !roster->is_freed) {
            znl_buffer told = roster->telling;
            roster->telling = roster->events;
            roster->events = told;
            roster->events.size = 0;
            tell_queued(roster);
        }
        roster->is_telling = 0;
        roster->telling.size = 0;
        znl_buffer_trim(&roster->telling, EVENTS_KEPT);
        znl_buffer_trim(&roster->events, EVENTS_KEPT);
    }
    if (--roster->depth == 0 && roster->is_freed)
        discard(roster);
}

static void queue(znl_roster *roster, const znl_roster_event *event)
{
    const struct queued head = {(uint32_t)event->kind, (uint32_t)event->cause,
            (uint32_t)event->is_partial, event->user_id.data != NULL, event->ns.size,
            event->session_id.size, event->user_id.size, event->owner.size};
    const znl_frame texts[] = {event->ns, event->session_id, event->user_id, event->owner};
    size_t size = sizeof head + head.ns + head.id + head.user_id + head.owner;
    if (roster->on_event == NULL)
        return;
    if (znl_buffer_extend(&roster->events, size) != 0) {
        roster->counters.untold++;
        return;
    }
    znl_buffer_append(&roster->events, &head, sizeof head);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i].size > 0)
            znl_buffer_append(&roster->events, texts[i].data, texts[i].size);
}

znl_frame znl_roster_owner_id(const znl_roster *roster, const znl_member *member)
{
    return member->owner != NULL ? member->owner->map.key : roster->self;
}

void znl_roster_tell(znl_roster *roster, znl_roster_event_kind kind, const znl_member *member,
        znl_roster_cause cause)
{
    const znl_roster_event event = {.kind = kind,
            .ns = member->session.ns,
            .session_id = member->session.id,
            .user_id = member->session.user_id,
            .owner = znl_roster_owner_id(roster, member),
            .cause = cause};
    queue(roster, &event);
}

int znl_roster_show(
        znl_roster *roster, znl_owner *owner, const znl_session *session, znl_member **out)
{
    const znl_member *old = znl_members_find(roster->members, session->id);
    znl_member_change change;
    /* What moves to another namespace is gone from its old one: the name is still needed then. */
    if (old != NULL && !znl_frame_equal(old->session.ns, session->ns)) {
        roster->old_ns.size = 0;
        int err = znl_buffer_append(
                &roster->old_ns, old->session.ns.data, old->session.ns.size);
        if (err != 0)
            return err;
    }
    int err = znl_members_put(roster->members, owner, session, out, &change);
    if (err != 0)
        return err;
    const znl_member *member = *out;
    if (change == ZNL_MEMBER_MOVED) {
        const znl_roster_event event = {.kind = ZNL_ROSTER_REMOVED,
                .ns = znl_frame_of(roster->old_ns.data, roster->old_ns.size),
                .session_id = member->session.id,
                .user_id = member->session.user_id,
                .owner = znl_roster_owner_id(roster, member),
                .cause = ZNL_ROSTER_LEFT};
        queue(roster, &event);
    }
    if (change == ZNL_MEMBER_UPDATED)
        znl_roster_tell(roster, ZNL_ROSTER_UPDATED, member, ZNL_ROSTER_LEFT);
    else if (change != ZNL_MEMBER_SAME)
        znl_roster_tell(roster, ZNL_ROSTER_ADDED, member, ZNL_ROSTER_LEFT);
    return 0;
}

void znl_roster_set_partial(znl_roster *roster, int is_partial)
{
    const znl_roster_event event = {.kind = ZNL_ROSTER_PARTIAL, .is_partial = is_partial};
    if (roster->is_partial == is_partial)
        return;
    roster->is_partial = is_partial;
    queue(roster, &event);
}

uint64_t znl_roster_draw(znl_roster *roster, uint64_t below)
{
    return (uint64_t)((unsigned __int128)roster->random(roster->user) * below >> 64);
}

/* --- members of ours ------------------------------------------------------------------------------- */

uint64_t znl_roster_since(const znl_roster *roster, const znl_member *member)
{
    int64_t unix_ms = znl_loop_unix_ms(roster->loop);
    uint64_t since = unix_ms > 0 ? (uint64_t)unix_ms : 0;
    if (member == NULL)
        return since;
    /* Later than what is known of it, whatever the clocks of two hosts say. */
    if (member->session.since != ZNL_NO_SINCE && member->session.since >= since)
        since = member->session.since + 1;
    if (member->is_own && member->held.since >= since)
        since = member->held.since + 1;
    return since < ZNL_HUB_NUMBER_MAX ? since : ZNL_HUB_NUMBER_MAX;
}

static int is_utf8(znl_frame text)
{
    return text.size == 0 || znl_utf8_valid(text.data, text.size);
}

/* *metadata becomes the value without what is around it; {NULL, 0}: none, or null. */
static int check_metadata(znl_frame *metadata)
{
    znl_json_reader reader;
    if (metadata->data == NULL)
        return 0;
    znl_json_begin(&reader, *metadata, ZNL_JSON_DEPTH_DEFAULT);
    int is_null = znl_json_peek(&reader) == ZNL_JSON_NULL;
    if (znl_json_skip(&reader, metadata) != 0 || znl_json_end(&reader) != 0)
        return ZNL_E_INVALID;
    if (is_null)
        *metadata = (znl_frame){0};
    return 0;
}

int znl_roster_join(znl_roster *roster, znl_frame ns, znl_frame session_id, znl_frame user_id,
        znl_frame metadata)
{
    znl_session session = {ns, session_id, user_id, metadata, 0};
    if (roster->is_stopped)
        return ZNL_E_STOPPED;
    if (!is_utf8(ns) || !is_utf8(session_id) || !is_utf8(user_id) ||
            check_metadata(&session.metadata) != 0)
        return ZNL_E_INVALID;
    if (ns.size + session_id.size + user_id.size + session.metadata.size >
            roster->max_member_bytes)
        return ZNL_E_TOO_BIG;
    znl_member *member = znl_members_find(roster->members, session_id);
    session.since = member != NULL && member->is_own && !member->is_displaced
            ? member->held.since
            : znl_roster_since(roster, member);
    /* No text is empty, not absent: a reader wants both. */
    if (session.ns.data == NULL)
        session.ns = znl_frame_text("");
    if (session.id.data == NULL)
        session.id = znl_frame_text("");
    znl_roster_enter(roster);
    int err = znl_roster_show(roster, NULL, &session, &member);
    if (err == 0) {
        member->is_displaced = 0;
        member->number = 0;
        znl_roster_send_add(roster, member);
    }
    znl_roster_leave_call(roster);
    return err;
}

int znl_roster_leave(znl_roster *roster, znl_frame session_id)
{
    znl_member *member = znl_members_find(roster->members, session_id);
    if (member == NULL || !member->is_own)
        return 0;
    znl_roster_enter(roster);
    znl_roster_pass(roster, member);
    /* While it is shown elsewhere it goes on there: a remove would take that away too. */
    if (member->owner != NULL) {
        znl_members_disown(roster->members, member);
    } else {
        znl_roster_send_remove(roster, member->held.id);
        znl_roster_drop(roster, member, ZNL_ROSTER_LEFT);
    }
    znl_roster_leave_call(roster);
    return 1;
}

void znl_roster_drop(znl_roster *roster, znl_member *member, znl_roster_cause cause)
{
    znl_roster_pass(roster, member);
    znl_members_unlink(roster->members, member);
    znl_roster_tell(roster, ZNL_ROSTER_REMOVED, member, cause);
    znl_member_free(member);
}

/* --- looking --------------------------------------------------------------------------------------- */

static int is_expired(const znl_owner *owner, uint64_t now_ms)
{
    return owner != NULL && owner->deadline_ms <= now_ms;
}

const znl_member *znl_roster_find(const znl_roster *roster, znl_frame session_id)
{
    const znl_member *member = znl_members_find(roster->members, session_id);
    return member != NULL && !is_expired(member->owner, znl_roster_now(roster)) ? member : NULL;
}

const znl_member *znl_roster_next(
        const znl_roster *roster, znl_frame ns, const znl_member *after)
{
    uint64_t now_ms = znl_roster_now(roster);
    const znl_member *member = after != NULL ? after->in_room.next
                                             : znl_members_first_in(roster->members, ns);
    while (member != NULL && is_expired(member->owner, now_ms))
        member = member->in_room.next;
    return member;
}

size_t znl_roster_count(const znl_roster *roster, znl_frame ns)
{
    uint64_t now_ms = znl_roster_now(roster);
    const znl_owner *owner = znl_members_first_owner(roster->members);
    size_t count = 0;
    if (ns.data == NULL) {
        count = znl_members_count(roster->members);
        for (; is_expired(owner, now_ms); owner = owner->next)
            count -= owner->members.count;
        return count;
    }
    if (!is_expired(owner, now_ms)) /* the first to expire */
        return znl_members_count_in(roster->members, ns);
    for (const znl_member *at = znl_roster_next(roster, ns, NULL); at != NULL;
            at = znl_roster_next(roster, ns, at))
        count++;
    return count;
}

const znl_owner *znl_roster_next_owner(const znl_roster *roster, const znl_owner *after)
{
    const znl_owner *owner = after != NULL ? after->next
                                           : znl_members_first_owner(roster->members);
    while (is_expired(owner, znl_roster_now(roster)))
        owner = owner->next;
    return owner;
}

int znl_roster_is_partial(const znl_roster *roster)
{
    return roster->is_partial;
}

znl_roster_counters znl_roster_get_counters(const znl_roster *roster)
{
    return roster->counters;
}

const char *znl_roster_origin(const znl_roster *roster)
{
    return roster->origin;
}

const char *znl_roster_inbox(const znl_roster *roster)
{
    return roster->inbox;
}

/* --- the bus comes and goes ------------------------------------------------------------------------ */

static void settled(znl_timer *timer)
{
    znl_roster *roster = ZNL_ROSTER_OF(timer, partial_timer);
    znl_roster_enter(roster);
    znl_roster_set_partial(roster, !roster->is_connected);
    znl_roster_leave_call(roster);
}

void znl_roster_connected(znl_roster *roster, int is_connected)
{
    int was_connected = roster->is_connected;
    if (roster->is_stopped || (!is_connected && !was_connected))
        return;
    znl_roster_enter(roster);
    roster->is_connected = is_connected;
    if (!is_connected || roster->is_partial)
        znl_wheel_start(znl_loop_wheel(roster->loop), &roster->partial_timer,
                znl_roster_now(roster) + (is_connected ? ZNL_ROSTER_SETTLE_MS : roster->ttl_ms),
                settled);
    else
        znl_wheel_stop(znl_loop_wheel(roster->loop), &roster->partial_timer);
    if (is_connected && roster->is_started) {
        roster->has_synced = 0; /* whatever was asked before is lost */
        znl_wheel_stop(znl_loop_wheel(roster->loop), &roster->sync_timer);
        znl_roster_sync(roster);
        znl_roster_list_now(roster);
    }
    znl_roster_leave_call(roster);
}
