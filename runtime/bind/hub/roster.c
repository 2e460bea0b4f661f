/* roster.c - znl.core.roster: who is where, on all instances (node/roster.h).
 *
 *     new{bus=, subject=, origin=, ttl_ms=, max_members=, max_member_bytes=, max_bytes=, on_event=} -> roster
 *         without a bus it knows its own members alone
 *     r:start() -> true | nil, message, code;  r:stop()    publishes removes; it is over then
 *     r:join{ns=, session_id=, user_id=, metadata=} -> true | nil, message, code;  r:leave(session_id) -> was here
 *     r:list(ns) -> array of {session_id=, user_id=, metadata=}
 *     r:find(session_id) -> {ns=, session_id=, user_id=, metadata=, owner=, own=} | nil    own: it is shown as ours
 *     r:metadata_text(session_id) -> JSON | nil
 *     r:count(ns|nil) -> members;  r:owners() -> array of {id=, members=, ours=, age_ms=}
 *     r:is_partial(), r:sync(), r:origin(), r:counters() -> table
 *
 * on_event(name, …), from the loop on the main state, in the order in which things happened; it must not yield:
 *     "added"|"updated", ns, session_id, user_id|nil, owner
 *     "removed", ns, session_id, user_id|nil, owner, cause    "left", "expired", "missing", "stopped"
 *     "displaced", session_id, owner      one of ours that has joined there since
 *     "partial", boolean
 *
 * A roster is anchored while it is started, or has something to report.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "node/roster.h"
#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/anchor.h"
#include "bind/hub/bus.h"
#include "bind/values/json.h"

#define TYPE "znl.core.roster"
#define KEPT_BYTES (64u * 1024)
#define PROBLEM_BYTES 256u
#define NO_TEXT UINT32_MAX /* the size of a text that is not there */

enum { ON_EVENT = 1, BUS, OWN = BUS };

typedef struct roster_box {
    znl_anchor anchor;
    znl_roster *roster; /* NULL: not made */
    znl_hub_bus bus;
    int is_started;
    int is_over;
    int has_on_event;
    uint32_t changes;  /* by calls from Lua, which a finalizer may make at any time */
    znl_buffer events; /* records, to be reported in the next turn */
    znl_deferred events_due;
    int events_hold; /* the anchor */
    uint64_t events_lost;
    znl_buffer text; /* metadata on its way */
    char subject[ZNL_HUB_NAME_BYTES_MAX + 1];
} roster_box;

static roster_box *check_roster(lua_State *L)
{
    roster_box *box = luaL_checkudata(L, 1, TYPE);
    luaL_argcheck(L, box->roster != NULL, 1, "the roster was not made");
    return box;
}

/* --- records: members and events, copied before Lua runs ------------------------------------------------- */

enum { NS, SESSION, USER, METADATA, OWNER, TEXTS };

typedef struct record {
    uint32_t sizes[TEXTS];    /* of the texts that follow */
    int kind, cause;          /* of an event */
    int flag;                 /* is_own, is_partial, is_ours */
    uint64_t members, age_ms; /* of an instance */
} record;

static size_t record_bytes(const znl_frame *texts)
{
    size_t size = sizeof(record);
    for (int i = 0; i < TEXTS; i++)
        size += texts[i].size;
    return size;
}

/* Writes `head` and the texts; returns the place after them. */
static uint8_t *put_record(uint8_t *at, record *head, const znl_frame *texts)
{
    for (int i = 0; i < TEXTS; i++)
        head->sizes[i] = texts[i].data != NULL ? (uint32_t)texts[i].size : NO_TEXT;
    memcpy(at, head, sizeof *head);
    at += sizeof *head;
    for (int i = 0; i < TEXTS; i++) {
        if (texts[i].size > 0)
            memcpy(at, texts[i].data, texts[i].size);
        at += texts[i].size;
    }
    return at;
}

/* Reads it again: the texts are borrowed from where it is. Returns the place after it. */
static const uint8_t *get_record(const uint8_t *at, record *head, znl_frame *texts)
{
    memcpy(head, at, sizeof *head);
    at += sizeof *head;
    for (int i = 0; i < TEXTS; i++) {
        int is_there = head->sizes[i] != NO_TEXT;
        texts[i] = is_there ? znl_frame_of(at, head->sizes[i]) : (znl_frame){NULL, 0};
        at += texts[i].size;
    }
    return at;
}

static void push_text(lua_State *L, znl_frame text)
{
    if (text.data == NULL)
        lua_pushnil(L);
    else
        lua_pushlstring(L, (const char *)text.data, text.size);
}

static void set_text(lua_State *L, const char *name, znl_frame text)
{
    push_text(L, text);
    lua_setfield(L, -2, name);
}

/* Takes the texts of a member. */
static void describe(const roster_box *box, const znl_member *member, znl_frame *texts)
{
    texts[NS] = member->session.ns;
    texts[SESSION] = member->session.id;
    texts[USER] = member->session.user_id;
    texts[METADATA] = member->session.metadata;
    texts[OWNER] = znl_roster_owner_id(box->roster, member);
}

/* --- events ---------------------------------------------------------------------------------------------- */

static const char *const kinds[] = {
        [ZNL_ROSTER_ADDED] = "added",
        [ZNL_ROSTER_UPDATED] = "updated",
        [ZNL_ROSTER_REMOVED] = "removed",
        [ZNL_ROSTER_DISPLACED] = "displaced",
        [ZNL_ROSTER_PARTIAL] = "partial",
};

static const char *const causes[] = {
        [ZNL_ROSTER_LEFT] = "left",
        [ZNL_ROSTER_EXPIRED] = "expired",
        [ZNL_ROSTER_MISSING] = "missing",
        [ZNL_ROSTER_STOPPED] = "stopped",
};

struct report {
    const roster_box *box;
    record head;
    znl_frame texts[TEXTS];
};

static int run_report(lua_State *L)
{
    const struct report *report = lua_touserdata(L, 1);
    const znl_frame *texts = report->texts;
    int count = 2;
    if (!znl_anchor_push(L, &report->box->anchor))
        return 0;
    lua_getfenv(L, -1);
    lua_rawgeti(L, -1, ON_EVENT);
    lua_pushstring(L, kinds[report->head.kind]);
    if (report->head.kind == ZNL_ROSTER_PARTIAL) {
        lua_pushboolean(L, report->head.flag);
    } else if (report->head.kind == ZNL_ROSTER_DISPLACED) {
        push_text(L, texts[SESSION]);
        push_text(L, texts[OWNER]);
        count = 3;
    } else {
        push_text(L, texts[NS]);
        push_text(L, texts[SESSION]);
        push_text(L, texts[USER]);
        push_text(L, texts[OWNER]);
        count = 5;
    }
    if (report->head.kind == ZNL_ROSTER_REMOVED) {
        lua_pushstring(L, causes[report->head.cause]);
        count = 6;
    }
    znl_lua_callevent(L, "roster", count, 0);
    return 0;
}

/* What the function brings about is for the next turn. */
static void on_events_due(znl_deferred *deferred)
{
    roster_box *box =
            (roster_box *)(void *)((char *)deferred - offsetof(roster_box, events_due));
    znl_buffer events = box->events;
    int events_hold = box->events_hold;
    box->events = (znl_buffer){0};
    box->events_hold = 0;
    struct report report = {.box = box};
    for (const uint8_t *at = events.data, *end = at + events.size; at < end;) {
        at = get_record(at, &report.head, report.texts);
        znl_vm_protect(box->anchor.vm, run_report, &report, "roster.on_event");
    }
    znl_buffer_fini(&events);
    if (events_hold)
        znl_anchor_let_go(&box->anchor); /* the last one may be the end of the roster */
}

/* The anchor is held whenever this is called: it is started, or in a call from Lua. */
static void on_event(void *user, const znl_roster_event *event)
{
    roster_box *box = user;
    if (!box->has_on_event)
        return;
    record head = {
            .kind = (int)event->kind, .cause = (int)event->cause, .flag = event->is_partial};
    const znl_frame texts[TEXTS] = {[NS] = event->ns,
            [SESSION] = event->session_id,
            [USER] = event->user_id,
            [OWNER] = event->owner};
    size_t size = record_bytes(texts);
    if (znl_buffer_extend(&box->events, size) != 0) {
        box->events_lost++;
        return;
    }
    put_record(box->events.data + box->events.size, &head, texts);
    box->events.size += size;
    if (box->events_hold)
        return;
    box->events_hold = 1;
    znl_anchor_hold_again(&box->anchor);
    znl_loop_defer(box->anchor.vm->loop, &box->events_due);
}

/* Around what may bring events about. */
static void enter(lua_State *L, roster_box *box)
{
    znl_anchor_hold(L, &box->anchor, 1);
    box->changes++;
}

static void leave(roster_box *box)
{
    znl_anchor_let_go(&box->anchor);
}

/* --- life ------------------------------------------------------------------------------------------------ */

static void on_message(void *user, const znl_nats_message *message)
{
    const roster_box *box = user;
    znl_roster_receive(box->roster, message->data, message->size, message->reply);
}

static void on_bus_state(void *user, int is_connected)
{
    const roster_box *box = user;
    if (box->is_started && !box->is_over)
        znl_roster_connected(box->roster, is_connected);
}

/* A text among the options, for C; {NULL, 0}: absent. */
static znl_frame read_name(lua_State *L, const char *name)
{
    znl_frame text = znl_lua_fieldtext(L, 1, name, ZNL_HUB_NAME_BYTES_MAX);
    if (text.data != NULL && (text.size == 0 || memchr(text.data, 0, text.size) != NULL))
        luaL_error(L, "%s must be a string, not empty", name);
    return text;
}

static int roster_new(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    const znl_frame subject = read_name(L, "subject"), origin = read_name(L, "origin");
    const znl_roster_options options = {.subject = (const char *)subject.data,
            .origin = (const char *)origin.data,
            .ttl_ms = znl_lua_fieldu32(
                    L, 1, "ttl_ms", ZNL_ROSTER_TTL_MS_DEFAULT, ZNL_ROSTER_TTL_MS_MAX),
            .max_members = znl_lua_fieldu32(L, 1, "max_members", 0, ZNL_ROSTER_MEMBERS_MAX),
            .max_member_bytes = znl_lua_fieldu32(
                    L, 1, "max_member_bytes", 0, ZNL_ROSTER_MEMBER_BYTES_MAX),
            .max_bytes = znl_lua_fieldu32(L, 1, "max_bytes", 0, UINT32_MAX)};
    if (options.ttl_ms < ZNL_ROSTER_TTL_MS_MIN)
        luaL_error(L, "ttl_ms must be a whole number in %d..%d", ZNL_ROSTER_TTL_MS_MIN,
                ZNL_ROSTER_TTL_MS_MAX);
    if (options.subject == NULL)
        luaL_error(L, "subject must be a string, not empty");
    roster_box *box = lua_newuserdata(L, sizeof *box);
    memset(box, 0, sizeof *box);
    znl_anchor_init(&box->anchor, znl_vm_of(L));
    box->events_due.run = on_events_due;
    memcpy(box->subject, options.subject, subject.size);
    luaL_getmetatable(L, TYPE);
    lua_setmetatable(L, 2);
    lua_createtable(L, OWN, 0);
    lua_getfield(L, 1, "on_event");
    box->has_on_event = !lua_isnil(L, -1);
    if (box->has_on_event && !lua_isfunction(L, -1))
        luaL_error(L, "on_event must be a function");
    lua_rawseti(L, 3, ON_EVENT);
    lua_getfield(L, 1, "bus"); /* which it keeps */
    lua_rawseti(L, 3, BUS);
    lua_setfenv(L, 2);
    lua_settop(L, 2);
    znl_anchor_enter(L, &box->anchor);
    znl_hub_bus_open(L, 1, &box->bus, on_bus_state, box);
    int err = znl_roster_new(&box->roster, box->anchor.vm->loop, &options, &znl_hub_bus_calls,
            &box->bus, on_event, box);
    if (err == ZNL_E_INVALID)
        luaL_error(L, "subject and origin must be UTF-8, not empty");
    return err == 0 ? 1 : znl_lua_fail(L, err, "roster.new");
}

static int subscribe(roster_box *box)
{
    int err = znl_hub_bus_subscribe(&box->bus, box->subject, on_message, box);
    if (err == 0)
        err = znl_hub_bus_subscribe(&box->bus, znl_roster_inbox(box->roster), on_message, box);
    if (err != 0)
        znl_hub_bus_unsubscribe(&box->bus);
    return err;
}

static int roster_start(lua_State *L)
{
    roster_box *box = check_roster(L);
    if (box->is_over)
        return znl_lua_fail(L, ZNL_E_STOPPED, "roster.start");
    if (!box->is_started) {
        znl_anchor_hold(L, &box->anchor, 1);
        int err = box->bus.has_nats ? subscribe(box) : 0;
        if (err != 0) {
            znl_anchor_let_go(&box->anchor);
            return znl_lua_fail(L, err, "roster.start");
        }
        box->is_started = 1;
        box->changes++;
        if (box->bus.has_nats) {
            if (!box->bus.is_connected)
                znl_roster_connected(box->roster, 0);
            znl_roster_start(box->roster);
        }
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int roster_stop(lua_State *L)
{
    roster_box *box = check_roster(L);
    if (box->is_over)
        return 0;
    enter(L, box);
    box->is_over = 1;
    znl_roster_stop(box->roster);
    znl_hub_bus_unsubscribe(&box->bus);
    if (box->is_started)
        znl_anchor_let_go_later(&box->anchor);
    leave(box);
    return 0;
}

static int roster_collect(lua_State *L)
{
    roster_box *box = luaL_checkudata(L, 1, TYPE);
    znl_loop_undefer(box->anchor.vm->loop, &box->events_due);
    znl_hub_bus_close(&box->bus);
    znl_roster_free(box->roster);
    box->roster = NULL;
    znl_buffer_fini(&box->events);
    znl_buffer_fini(&box->text);
    znl_anchor_fini(&box->anchor);
    return 0;
}

/* --- own members ----------------------------------------------------------------------------------------- */

/* A text among the fields of the member at index 2. */
static znl_frame member_text(lua_State *L, const char *name, int is_needed)
{
    lua_getfield(L, 2, name);
    znl_frame text = {NULL, 0};
    if (is_needed || !lua_isnil(L, -1))
        text = znl_lua_checkframe(L, lua_gettop(L), name, SIZE_MAX);
    lua_pop(L, 1); /* the table keeps it */
    return text;
}

/* Writes field `metadata` of the table at 2 into box->text. 0, or what it pushed: nil, message, code. */
static int write_metadata(lua_State *L, roster_box *box, znl_frame *metadata)
{
    char problem[PROBLEM_BYTES];
    lua_getfield(L, 2, "metadata");
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        return 0;
    }
    box->text.size = 0;
    int err = znl_lua_writejson(L, lua_gettop(L), &box->text, problem, sizeof problem);
    lua_pop(L, 1);
    *metadata = znl_frame_of(box->text.data, box->text.size);
    if (err == 0)
        return 0;
    if (err != ZNL_E_INVALID)
        return znl_lua_fail(L, err, "roster.join");
    lua_pushnil(L);
    lua_pushfstring(L, "roster.join: metadata cannot be sent: %s", problem);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

static int roster_join(lua_State *L)
{
    roster_box *box = check_roster(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    znl_frame ns = member_text(L, "ns", 1), session_id = member_text(L, "session_id", 1);
    znl_frame user_id = member_text(L, "user_id", 0), metadata = {NULL, 0};
    int pushed = write_metadata(L, box, &metadata);
    if (pushed > 0)
        return pushed;
    enter(L, box);
    int err = znl_roster_join(box->roster, ns, session_id, user_id, metadata);
    leave(box);
    znl_buffer_trim(&box->text, KEPT_BYTES);
    if (err != 0)
        return znl_lua_fail(L, err, "roster.join");
    lua_pushboolean(L, 1);
    return 1;
}

static int roster_leave(lua_State *L)
{
    roster_box *box = check_roster(L);
    znl_frame session_id = znl_lua_checkframe(L, 2, "session_id", SIZE_MAX);
    enter(L, box);
    int was_here = znl_roster_leave(box->roster, session_id);
    leave(box);
    lua_pushboolean(L, was_here);
    return 1;
}

/* --- looking --------------------------------------------------------------------------------------------- */

/* Sets the fields of a member in the table on top of the stack. */
static void set_member(lua_State *L, const znl_frame *texts)
{
    set_text(L, "session_id", texts[SESSION]);
    set_text(L, "user_id", texts[USER]);
    if (texts[METADATA].data != NULL && znl_lua_pushjson(L, texts[METADATA]) == 0)
        lua_setfield(L, -2, "metadata");
}

/* Pushes a userdata with copies of the members of a namespace: while values are made of them, a finalizer may
 * change the roster. Returns where they end. */
static const uint8_t *snapshot(
        lua_State *L, roster_box *box, znl_frame ns, const uint8_t **start, size_t *count)
{
    for (;;) {
        uint32_t changes = box->changes;
        size_t size = 0;
        znl_frame texts[TEXTS];
        const znl_member *member = NULL;
        *count = 0;
        while ((member = znl_roster_next(box->roster, ns, member)) != NULL) {
            describe(box, member, texts);
            size += record_bytes(texts);
            ++*count;
        }
        uint8_t *at = lua_newuserdata(L, size > 0 ? size : 1);
        *start = at;
        if (changes == box->changes) {
            while ((member = znl_roster_next(box->roster, ns, member)) != NULL) {
                record head = {.flag = member->owner == NULL};
                describe(box, member, texts);
                at = put_record(at, &head, texts);
            }
            return at;
        }
        lua_pop(L, 1);
    }
}

static int roster_list(lua_State *L)
{
    roster_box *box = check_roster(L);
    znl_frame ns = znl_lua_checkframe(L, 2, "ns", SIZE_MAX);
    const uint8_t *at;
    size_t count;
    const uint8_t *end = snapshot(L, box, ns, &at, &count);
    lua_createtable(L, (int)count, 0);
    for (int i = 1; at < end; i++) {
        record head;
        znl_frame texts[TEXTS];
        at = get_record(at, &head, texts);
        lua_createtable(L, 0, 3);
        set_member(L, texts);
        lua_rawseti(L, -2, i);
    }
    return 1;
}

/* Pushes a userdata with a copy of the member of that id; NULL and nothing when there is none. */
static const uint8_t *copy_member(lua_State *L, roster_box *box, znl_frame session_id)
{
    for (;;) {
        uint32_t changes = box->changes;
        const znl_member *member = znl_roster_find(box->roster, session_id);
        znl_frame texts[TEXTS];
        if (member == NULL)
            return NULL;
        describe(box, member, texts);
        uint8_t *at = lua_newuserdata(L, record_bytes(texts));
        if (changes == box->changes) {
            record head = {.flag = member->owner == NULL};
            put_record(at, &head, texts);
            return at;
        }
        lua_pop(L, 1);
    }
}

static int roster_find(lua_State *L)
{
    roster_box *box = check_roster(L);
    const uint8_t *copy = copy_member(L, box, znl_lua_checkframe(L, 2, "session_id", SIZE_MAX));
    if (copy == NULL)
        return 0;
    record head;
    znl_frame texts[TEXTS];
    get_record(copy, &head, texts);
    lua_createtable(L, 0, 6);
    set_text(L, "ns", texts[NS]);
    set_member(L, texts);
    set_text(L, "owner", texts[OWNER]);
    lua_pushboolean(L, head.flag);
    lua_setfield(L, -2, "own");
    return 1;
}

static int roster_metadata_text(lua_State *L)
{
    roster_box *box = check_roster(L);
    const uint8_t *copy = copy_member(L, box, znl_lua_checkframe(L, 2, "session_id", SIZE_MAX));
    if (copy == NULL)
        return 0;
    record head;
    znl_frame texts[TEXTS];
    get_record(copy, &head, texts);
    push_text(L, texts[METADATA]);
    return 1;
}

static int roster_count(lua_State *L)
{
    const roster_box *box = check_roster(L);
    znl_frame ns = {NULL, 0};
    if (!lua_isnoneornil(L, 2))
        ns = znl_lua_checkframe(L, 2, "ns", SIZE_MAX);
    lua_pushnumber(L, (lua_Number)znl_roster_count(box->roster, ns));
    return 1;
}

/* The same of all other instances. */
static const uint8_t *snapshot_owners(lua_State *L, roster_box *box, const uint8_t **start)
{
    uint64_t now_ms = znl_loop_now_ms(box->anchor.vm->loop);
    for (;;) {
        uint32_t changes = box->changes;
        size_t size = 1;
        const znl_owner *owner = NULL;
        while ((owner = znl_roster_next_owner(box->roster, owner)) != NULL)
            size += sizeof(record) + owner->map.key.size;
        uint8_t *at = lua_newuserdata(L, size);
        *start = at;
        if (changes == box->changes) {
            while ((owner = znl_roster_next_owner(box->roster, owner)) != NULL) {
                const znl_frame texts[TEXTS] = {[OWNER] = owner->map.key};
                record head = {.flag = owner->is_ours,
                        .members = owner->members.count,
                        .age_ms = now_ms > owner->seen_ms ? now_ms - owner->seen_ms : 0};
                at = put_record(at, &head, texts);
            }
            return at;
        }
        lua_pop(L, 1);
    }
}

static int roster_owners(lua_State *L)
{
    const uint8_t *at, *end = snapshot_owners(L, check_roster(L), &at);
    lua_newtable(L);
    for (int i = 1; at < end; i++) {
        record head;
        znl_frame texts[TEXTS];
        at = get_record(at, &head, texts);
        lua_createtable(L, 0, 4);
        set_text(L, "id", texts[OWNER]);
        lua_pushnumber(L, (lua_Number)head.members);
        lua_setfield(L, -2, "members");
        lua_pushboolean(L, head.flag);
        lua_setfield(L, -2, "ours");
        lua_pushnumber(L, (lua_Number)head.age_ms);
        lua_setfield(L, -2, "age_ms");
        lua_rawseti(L, -2, i);
    }
    return 1;
}

static int roster_is_partial(lua_State *L)
{
    lua_pushboolean(L, znl_roster_is_partial(check_roster(L)->roster));
    return 1;
}

static int roster_sync(lua_State *L)
{
    roster_box *box = check_roster(L);
    if (box->is_started && !box->is_over && box->bus.has_nats)
        znl_roster_sync(box->roster);
    return 0;
}

static int roster_origin(lua_State *L)
{
    lua_pushstring(L, znl_roster_origin(check_roster(L)->roster));
    return 1;
}

#define ROSTER_COUNTERS(X)                                                                     \
    X(sent)                                                                                    \
    X(sent_bytes)                                                                              \
    X(unsent)                                                                                  \
    X(received)                                                                                \
    X(echoes)                                                                                  \
    X(malformed)                                                                               \
    X(ignored)                                                                                 \
    X(skipped)                                                                                 \
    X(refused)                                                                                 \
    X(disowned)                                                                                \
    X(gaps)                                                                                    \
    X(asks)                                                                                    \
    X(unmatched)                                                                               \
    X(lists)                                                                                   \
    X(digests)                                                                                 \
    X(repairs)                                                                                 \
    X(too_big)                                                                                 \
    X(expired)                                                                                 \
    X(missing)                                                                                 \
    X(displaced)                                                                               \
    X(untold)

static int roster_counters(lua_State *L)
{
    const roster_box *box = check_roster(L);
    znl_roster_counters counters = znl_roster_get_counters(box->roster);
    counters.untold += box->events_lost;
    lua_createtable(L, 0, 21);
#define SET(name)                                                                              \
    lua_pushnumber(L, (lua_Number)counters.name);                                              \
    lua_setfield(L, -2, #name);
    ROSTER_COUNTERS(SET)
#undef SET
    return 1;
}

int luaopen_znl_core_roster(lua_State *L)
{
    static const luaL_Reg methods[] = {
            {"start", roster_start},
            {"stop", roster_stop},
            {"join", roster_join},
            {"leave", roster_leave},
            {"list", roster_list},
            {"find", roster_find},
            {"metadata_text", roster_metadata_text},
            {"count", roster_count},
            {"owners", roster_owners},
            {"is_partial", roster_is_partial},
            {"sync", roster_sync},
            {"origin", roster_origin},
            {"counters", roster_counters},
            {NULL, NULL},
    };
    znl_anchor_open(L);
    znl_lua_newtype(L, TYPE, methods, roster_collect);
    lua_newtable(L);
    lua_pushcfunction(L, roster_new);
    lua_setfield(L, -2, "new");
    return 1;
}
