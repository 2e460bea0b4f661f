/* Messages of hubs: what is read lies in the text or is checked UTF-8, and reads back the same when it is written. A
 * roster that gets such messages keeps its accounts. SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "codec/hub.h"
#include "codec/text.h"
#include "node/roster.h"

#include <string.h>

static znl_buffer scratch, out, undone;

static void check_text(znl_frame text)
{
    FUZZ_HOLDS(text.size == 0 || znl_utf8_valid(text.data, text.size));
}

static int is_same(znl_frame a, znl_frame b)
{
    return (a.data == NULL) == (b.data == NULL) && znl_frame_equal(a, b);
}

static void check_fan(znl_frame text)
{
    znl_hub_fan fan, back;
    znl_buffer kept = {0};
    int err = znl_hub_read_fan(text, &scratch, &fan);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO || err == ZNL_E_LIMIT);
    if (err != 0)
        return;
    check_text(fan.origin);
    check_text(fan.ns);
    check_text(fan.channel);
    check_text(fan.user_id);
    FUZZ_HOLDS(FUZZ_INSIDE(fan.message.text, text.data, text.size));
    FUZZ_HOLDS(FUZZ_INSIDE(fan.except, text.data, text.size));
    if (fan.ns.data != NULL) {
        out.size = 0;
        FUZZ_HOLDS(znl_hub_put_broadcast(&out, &fan) == 0);
        FUZZ_HOLDS(znl_hub_read_fan(znl_frame_of(out.data, out.size), &kept, &back) == 0);
        FUZZ_HOLDS(is_same(fan.origin, back.origin) && is_same(fan.ns, back.ns) &&
                is_same(fan.channel, back.channel) && is_same(fan.except, back.except) &&
                is_same(fan.message.text, back.message.text));
    }
    if (fan.message.text.data != NULL) {
        znl_hub_message message;
        out.size = 0;
        FUZZ_HOLDS(znl_hub_put_message(&out, &fan.message) == 0);
        FUZZ_HOLDS(znl_hub_read_message(znl_frame_of(out.data, out.size), &message) == 0);
        FUZZ_HOLDS(message.is_exact && is_same(message.type, fan.message.type) &&
                is_same(message.payload, fan.message.payload));
    }
    znl_json_reader reader;
    znl_frame entry;
    znl_hub_begin_texts(&reader, fan.except);
    while (znl_hub_next_text(&reader, &entry, &undone) > 0)
        check_text(entry);
    znl_buffer_fini(&kept);
}

static void check_roster(znl_frame text)
{
    znl_hub_roster message, back;
    znl_hub_list list;
    znl_hub_member member;
    uint64_t since;
    znl_buffer kept = {0};
    int err = znl_hub_read_roster(text, &scratch, &message), more;
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO || err == ZNL_E_LIMIT);
    if (err != 0)
        return;
    znl_hub_begin_list(&list, &message);
    while ((more = znl_hub_next_member(&list, &member, &since, &undone)) > 0) {
        FUZZ_HOLDS(member.ns.data != NULL && member.session_id.data != NULL);
        check_text(member.ns);
        check_text(member.session_id);
        check_text(member.user_id);
        FUZZ_HOLDS(FUZZ_INSIDE(member.metadata, text.data, text.size));
        FUZZ_HOLDS(since == ZNL_HUB_NO_NUMBER || since <= ZNL_HUB_NUMBER_MAX);
    }
    FUZZ_HOLDS(more == 0);
    if (message.op <= ZNL_HUB_UNKNOWN ||
            (message.op == ZNL_HUB_ADD && message.member.session_id.data == NULL))
        return;
    out.size = 0;
    FUZZ_HOLDS(znl_hub_put_roster(&out, &message) == 0);
    FUZZ_HOLDS(znl_hub_read_roster(znl_frame_of(out.data, out.size), &kept, &back) == 0);
    FUZZ_HOLDS(message.op == back.op && is_same(message.origin, back.origin) &&
            is_same(message.member.session_id, back.member.session_id) &&
            is_same(message.member.metadata, back.member.metadata) &&
            message.is_ours == back.is_ours && message.n == back.n && message.gen == back.gen &&
            message.part == back.part && message.since == back.since);
    znl_buffer_fini(&kept);
}

/* --- a roster in the middle of it ------------------------------------------------------------------ */

static unsigned shown; /* by events */

static int publish(
        void *user, const char *subject, const char *reply, const void *data, size_t size)
{
    znl_hub_roster message;
    (void)user;
    (void)reply;
    FUZZ_HOLDS(strncmp(subject, "s.roster", 8) == 0);
    FUZZ_HOLDS(znl_hub_read_roster(znl_frame_of(data, size), &undone, &message) == 0);
    FUZZ_HOLDS(message.op > ZNL_HUB_UNKNOWN && message.is_ours);
    return 0;
}

static size_t max_payload(void *user)
{
    (void)user;
    return 600;
}

static const znl_bus bus = {publish, max_payload};

static void on_event(void *user, const znl_roster_event *event)
{
    (void)user;
    check_text(event->ns);
    check_text(event->session_id);
    check_text(event->owner);
    shown += event->kind == ZNL_ROSTER_ADDED;
    shown -= event->kind == ZNL_ROSTER_REMOVED;
}

static void check_tables(const znl_roster *roster)
{
    size_t count = 0, owned = 0;
    const znl_owner *owner = NULL;
    while ((owner = znl_roster_next_owner(roster, owner)) != NULL) {
        uint64_t digest = 0;
        for (const znl_member *at = owner->members.first; at != NULL; at = at->in_owner.next) {
            FUZZ_HOLDS(at->owner == owner);
            digest += at->hash;
            count++;
        }
        FUZZ_HOLDS(digest == owner->digest);
        owned += owner->members.count;
    }
    FUZZ_HOLDS(count == owned && count <= 20);
    FUZZ_HOLDS(znl_roster_count(roster, (znl_frame){0}) == shown);
}

static uint64_t draw(void *user)
{
    (void)user;
    return 0x8000000000000000u;
}

static void pass(znl_loop *loop, uint64_t ms)
{
    znl_clock_advance(ms);
    znl_loop_clock_changed(loop);
    znl_loop_run(loop);
}

/* The input is lines; a line is a message, a number of milliseconds, or +id and -id: a join and a leave. */
static void check_engine(const uint8_t *data, size_t size)
{
    const znl_roster_options options = {.subject = "s.roster",
            .origin = "me",
            .ttl_ms = 2000,
            .max_members = 20,
            .max_member_bytes = 100,
            .max_bytes = 1u << 20,
            .random = draw};
    znl_loop *loop;
    znl_roster *roster;
    FUZZ_HOLDS(znl_loop_new(&loop) == 0);
    shown = 0;
    FUZZ_HOLDS(znl_roster_new(&roster, loop, &options, &bus, NULL, on_event, NULL) == 0);
    znl_roster_start(roster);
    const uint8_t *at = data, *stop = data + size;
    while (at < stop) {
        const uint8_t *line = at;
        while (at < stop && *at != '\n')
            at++;
        size_t length = (size_t)(at - line);
        if (at < stop)
            at++;
        if (length > 1 && line[0] == '+') {
            znl_roster_join(roster, znl_frame_of("n", 1), znl_frame_of(line + 1, length - 1),
                    (znl_frame){0}, (znl_frame){0});
        } else if (length > 1 && line[0] == '-') {
            znl_roster_leave(roster, znl_frame_of(line + 1, length - 1));
        } else if (length > 0 && line[0] >= '0' && line[0] <= '9') {
            pass(loop, (uint64_t)(line[0] - '0') * 300);
            /* Whoever is late has a little longer: is not counted any more, and not yet told of. */
            if (znl_roster_count(roster, (znl_frame){0}) < shown)
                pass(loop, ZNL_ROSTER_STALL_MS);
        } else {
            znl_roster_receive(roster, line, length, length % 2 ? NULL : "s.roster.box");
        }
        check_tables(roster);
    }
    znl_roster_stop(roster);
    FUZZ_HOLDS(shown == 0);
    znl_roster_free(roster);
    FUZZ_HOLDS(znl_loop_wheel(loop)->count == 0);
    FUZZ_HOLDS(znl_loop_close(loop) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_started;
    if (!is_started) {
        FUZZ_HOLDS(znl_random_start() == 0);
        znl_clock_freeze(1000);
        is_started = 1;
    }
    uint8_t *copy = malloc(size + !size);
    FUZZ_HOLDS(copy != NULL);
    if (size > 0)
        memcpy(copy, data, size);
    check_fan(znl_frame_of(copy, size));
    check_roster(znl_frame_of(copy, size));
    check_engine(copy, size);
    free(copy);
    return 0;
}
