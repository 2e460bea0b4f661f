/* roster_send.c - see roster.h: what others are told, and when.
 *
 * The list of our members goes out every heartbeat, in parts spread over the time until the next; at once, in bursts,
 * when it is wanted. While all others are known to be ours, count and hash go out instead (spec, section 12, 10).
 * SPDX-License-Identifier: MIT */
#include "node/roster_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "codec/text.h"

#define JITTER 10u      /* a heartbeat comes up to one tenth early */
#define HEAD_BYTES 256u /* of a message that lists members: names, marks, what stands between */
#define SINCE_BYTES 17u /* a time, and a comma */
#define DEFAULT_PAYLOAD (1024u * 1024) /* what a server takes unless it says otherwise */
#define OUT_KEPT (2 * ZNL_ROSTER_PART_BYTES)

static znl_wheel *wheel_of(const znl_roster *roster)
{
    return znl_loop_wheel(roster->loop);
}

static int take(const znl_roster *roster, znl_roster_budget *budget, uint32_t most)
{
    uint64_t now_ms = znl_roster_now(roster), passed = now_ms - budget->at_ms;
    if (passed >= 1000 || budget->at_ms == 0) {
        budget->left = most;
        budget->at_ms = now_ms;
    }
    if (budget->left == 0)
        return 0;
    budget->left--;
    return 1;
}

/* --- one message ----------------------------------------------------------------------------------- */

/* Writes and publishes it. 0 or why it is lost. */
static int publish(znl_roster *roster, const char *subject, const char *reply,
        const znl_hub_roster *message)
{
    roster->out.size = 0;
    int err = znl_hub_put_roster(&roster->out, message);
    if (err == 0)
        err = roster->bus->publish(
                roster->bus_user, subject, reply, roster->out.data, roster->out.size);
    if (err != 0) {
        roster->counters.unsent++;
    } else {
        roster->counters.sent++;
        roster->counters.sent_bytes += roster->out.size;
    }
    znl_buffer_trim(&roster->out, OUT_KEPT);
    return err;
}

static znl_hub_roster message_of(const znl_roster *roster, znl_hub_op op)
{
    znl_hub_roster message = znl_hub_roster_of(op);
    message.origin = roster->self;
    message.is_ours = 1;
    return message;
}

/* One to all: it has the next number, also when it is lost, so that others notice. */
static int publish_next(znl_roster *roster, const char *reply, znl_hub_roster *message)
{
    message->n = ++roster->n;
    return publish(roster, roster->subject, reply, message);
}

void znl_roster_send_add(znl_roster *roster, znl_member *member)
{
    if (!znl_roster_speaks(roster))
        return;
    znl_hub_roster message = message_of(roster, ZNL_HUB_ADD);
    message.member = (znl_hub_member){
            member->held.ns, member->held.id, member->held.user_id, member->held.metadata};
    message.since = member->held.since;
    member->is_untold = publish_next(roster, NULL, &message) == ZNL_E_TOO_BIG;
    roster->counters.too_big += (uint64_t)member->is_untold;
}

void znl_roster_send_remove(znl_roster *roster, znl_frame session_id)
{
    if (!znl_roster_speaks(roster))
        return;
    znl_hub_roster message = message_of(roster, ZNL_HUB_REMOVE);
    message.session_id = session_id;
    publish_next(roster, NULL, &message);
}

/* --- a part of the list ---------------------------------------------------------------------------- */

static size_t part_bytes(const znl_roster *roster, size_t *most)
{
    size_t payload = roster->bus->max_payload(roster->bus_user);
    size_t head = HEAD_BYTES + 6 * roster->self.size; /* an id may need escapes */
    if (payload == 0)
        payload = DEFAULT_PAYLOAD;
    *most = payload > head ? payload - head : 0;
    return *most < ZNL_ROSTER_PART_BYTES ? *most : ZNL_ROSTER_PART_BYTES;
}

/* Appends one member to the list and its time to the times. 1, 0 when it does not fit below `limit`, or an error. */
static int put_listed(znl_roster *roster, const znl_session *held, size_t limit)
{
    size_t list_size = roster->list.size, sinces_size = roster->sinces.size;
    const znl_hub_member member = {held->ns, held->id, held->user_id, held->metadata};
    int err = 0;
    if (list_size > 1)
        err = znl_buffer_append(&roster->list, ",", 1);
    if (err == 0)
        err = znl_hub_put_member(&roster->list, &member);
    if (err == 0 && sinces_size > 1)
        err = znl_buffer_append(&roster->sinces, ",", 1);
    if (err == 0)
        err = znl_json_put_unsigned(&roster->sinces, held->since);
    if (err == 0 && roster->list.size + roster->sinces.size + 2 <= limit)
        return 1;
    roster->list.size = list_size;
    roster->sinces.size = sinces_size;
    return err;
}

/* Fills the two arrays with what comes next in the row; *next is where the part after it begins. 0 or ZNL_E_NOMEM. */
static int fill(znl_roster *roster, znl_member *from, znl_member **next)
{
    size_t most, limit = part_bytes(roster, &most);
    znl_member *member = from;
    roster->list.size = roster->sinces.size = 0;
    int err = znl_buffer_append(&roster->list, "[", 1);
    if (err == 0)
        err = znl_buffer_append(&roster->sinces, "[", 1);
    for (; err == 0 && member != NULL; member = member->in_own.next) {
        if (member->is_displaced)
            continue;
        int is_first = roster->list.size == 1;
        int fits = put_listed(roster, &member->held, is_first ? most : limit);
        if (fits < 0)
            return fits;
        if (!fits && !is_first)
            break;
        member->is_untold = !fits;
        if (!fits) {
            roster->counters.too_big++;
            continue;
        }
        /* An original that lists it too took it over; that is over now (spec, section 5: the heartbeat timer). */
        if (member->owner != NULL) {
            znl_members_reinstate(roster->members, member);
            znl_roster_tell(roster, ZNL_ROSTER_UPDATED, member, ZNL_ROSTER_LEFT);
        }
    }
    if (err == 0)
        err = znl_buffer_append(&roster->list, "]", 1);
    if (err == 0)
        err = znl_buffer_append(&roster->sinces, "]", 1);
    *next = member;
    return err;
}

/* Publishes the next part; to: whom alone, on `subject`. 0; ZNL_E_BUSY, ZNL_E_NOMEM: it may be tried again; or another
 * error: the row is over. It is over too when the last part has been published. */
static int send_part(znl_roster *roster, znl_roster_row *row, const char *subject, znl_frame to)
{
    znl_hub_roster message = message_of(roster, ZNL_HUB_HEARTBEAT);
    znl_member *next;
    int err = fill(roster, row->next, &next);
    if (err != 0)
        return err;
    message.members = znl_frame_of(roster->list.data, roster->list.size);
    message.sinces = znl_frame_of(roster->sinces.data, roster->sinces.size);
    message.gen = row->gen;
    message.part = row->part + 1;
    if (next == NULL)
        message.parts = message.part;
    message.to = to;
    message.n = to.data != NULL ? roster->n : roster->n + 1;
    err = publish(roster, subject, NULL, &message);
    if (err == ZNL_E_BUSY || err == ZNL_E_NOMEM)
        return err;
    if (to.data == NULL)
        roster->n++;
    row->next = next;
    row->part++;
    row->is_under_way = err == 0 && next != NULL;
    znl_buffer_trim(&roster->list, OUT_KEPT);
    znl_buffer_trim(&roster->sinces, OUT_KEPT);
    return err;
}

static void begin_row(znl_roster *roster, znl_roster_row *row)
{
    *row = (znl_roster_row){.next = znl_members_own(roster->members)->first,
            .gen = ++roster->gen,
            .is_under_way = 1};
}

/* Some parts in one go. Returns milliseconds until it goes on, 0 when the row is over. */
static uint64_t send_burst(
        znl_roster *roster, znl_roster_row *row, const char *subject, znl_frame to)
{
    for (unsigned i = 0; i < ZNL_ROSTER_BURST && row->is_under_way; i++) {
        int err = send_part(roster, row, subject, to);
        if (err == ZNL_E_BUSY || err == ZNL_E_NOMEM)
            return ZNL_ROSTER_BUSY_MS;
    }
    return row->is_under_way ? ZNL_ROSTER_BURST_MS : 0;
}

void znl_roster_pass(znl_roster *roster, const znl_member *member)
{
    if (roster->row.next == member)
        roster->row.next = member->in_own.next;
    if (roster->answer.next == member)
        roster->answer.next = member->in_own.next;
}

/* --- heartbeats ------------------------------------------------------------------------------------ */

static void beat(znl_timer *timer);

static void beat_at(znl_roster *roster, uint64_t at_ms)
{
    znl_wheel_start(wheel_of(roster), &roster->beat_timer, at_ms, beat);
}

/* About how many parts the list has. */
static uint64_t count_parts(const znl_roster *roster)
{
    size_t most, limit = part_bytes(roster, &most), bytes = 0;
    for (const znl_member *at = znl_members_own(roster->members)->first; at != NULL;
            at = at->in_own.next)
        bytes += at->held_bytes + SINCE_BYTES + 40; /* what JSON adds to four texts */
    return limit > 0 ? 1 + bytes / limit : 1;
}

static void begin_beat(znl_roster *roster, int is_burst)
{
    roster->row_began_ms = znl_roster_now(roster);
    roster->row_ms = roster->heartbeat_ms -
            znl_roster_draw(roster, roster->heartbeat_ms / JITTER + 1);
    roster->row_parts = count_parts(roster);
    roster->is_burst = is_burst;
    roster->counters.lists++;
    begin_row(roster, &roster->row);
}

static void go_on_with_beat(znl_roster *roster)
{
    uint64_t end_ms = roster->row_began_ms + roster->row_ms, wait_ms = 0;
    if (roster->is_burst) {
        wait_ms = send_burst(roster, &roster->row, roster->subject, (znl_frame){0});
        beat_at(roster, wait_ms > 0 ? znl_roster_now(roster) + wait_ms : end_ms);
        return;
    }
    int err = send_part(roster, &roster->row, roster->subject, (znl_frame){0});
    if (err == ZNL_E_BUSY || err == ZNL_E_NOMEM) {
        beat_at(roster, znl_roster_now(roster) + ZNL_ROSTER_BUSY_MS);
        return;
    }
    /* The n-th part at the same place of each interval, so that no member waits longer than one. */
    uint64_t parts = roster->row_parts, part = roster->row.part;
    beat_at(roster,
            !roster->row.is_under_way || part >= parts
                    ? end_ms
                    : roster->row_began_ms + roster->row_ms * part / parts);
}

static void send_digest(znl_roster *roster)
{
    char text[17];
    uint8_t bytes[8];
    size_t count;
    uint64_t digest = znl_members_digest(roster->members, &count);
    znl_put_be32(bytes, (uint32_t)(digest >> 32));
    znl_put_be32(bytes + 4, (uint32_t)digest);
    znl_hex_encode(bytes, sizeof bytes, text);
    znl_hub_roster message = message_of(roster, ZNL_HUB_DIGEST);
    message.count = count;
    message.hash = znl_frame_of(text, 16);
    publish_next(roster, NULL, &message);
    roster->counters.digests++;
}

/* Somebody is there, and nobody who needs the list to go on. */
static int are_all_ours(const znl_roster *roster)
{
    return znl_roster_now(roster) >= roster->foreign_until_ms &&
            znl_members_owner_count(roster->members) > 0;
}

static void beat(znl_timer *timer)
{
    znl_roster *roster = ZNL_ROSTER_OF(timer, beat_timer);
    znl_roster_enter(roster);
    if (roster->row.is_under_way) {
        go_on_with_beat(roster);
    } else {
        begin_beat(roster, 0);
        if (are_all_ours(roster)) {
            roster->counters.lists--;
            roster->row.is_under_way = 0;
            send_digest(roster);
            beat_at(roster, roster->row_began_ms + roster->row_ms);
        } else {
            go_on_with_beat(roster);
        }
    }
    znl_roster_leave_call(roster);
}

void znl_roster_list_now(znl_roster *roster)
{
    roster->listed_ms = znl_roster_now(roster);
    roster->has_listed = 1;
    roster->answer_all = 0;
    znl_wheel_stop(wheel_of(roster), &roster->all_timer);
    begin_beat(roster, 1);
    go_on_with_beat(roster);
}

/* --- answers --------------------------------------------------------------------------------------- */

static void forget_answer(znl_roster *roster)
{
    znl_free(roster->answers[0].subject);
    roster->answer_count--;
    memmove(&roster->answers[0], &roster->answers[1],
            roster->answer_count * sizeof roster->answers[0]);
}

static void answer_all(znl_timer *timer)
{
    znl_roster *roster = ZNL_ROSTER_OF(timer, all_timer);
    znl_roster_enter(roster);
    znl_roster_list_now(roster);
    znl_roster_leave_call(roster);
}

/* Everybody gets the list, soon, but not more often than once a second. */
static void want_all(znl_roster *roster, uint64_t delay_ms)
{
    uint64_t at_ms = znl_roster_now(roster) + delay_ms;
    if (roster->answer_all)
        return;
    if (roster->has_listed && roster->listed_ms + ZNL_ROSTER_SYNC_MS > at_ms)
        at_ms = roster->listed_ms + ZNL_ROSTER_SYNC_MS;
    roster->answer_all = 1;
    znl_wheel_start(wheel_of(roster), &roster->all_timer, at_ms, answer_all);
}

static void answer(znl_timer *timer)
{
    znl_roster *roster = ZNL_ROSTER_OF(timer, answer_timer);
    znl_roster_enter(roster);
    /* What serves several need not be said to each. */
    if (!roster->answer.is_under_way && roster->answer_count > 1 &&
            (!roster->has_listed ||
                    znl_roster_now(roster) - roster->listed_ms >= ZNL_ROSTER_SYNC_MS)) {
        while (roster->answer_count > 0)
            forget_answer(roster);
        znl_roster_list_now(roster);
    }
    uint64_t wait_ms = 0;
    while (roster->answer_count > 0 && wait_ms == 0) {
        if (!roster->answer.is_under_way) {
            if (!take(roster, &roster->answer_budget, ZNL_ROSTER_ANSWERS)) {
                wait_ms = ZNL_ROSTER_SYNC_MS;
                break;
            }
            begin_row(roster, &roster->answer);
            roster->counters.lists++;
        }
        const znl_roster_answer *first = &roster->answers[0];
        wait_ms = send_burst(roster, &roster->answer, first->subject,
                znl_frame_of(first->to, first->to_size));
        if (wait_ms == 0)
            forget_answer(roster);
    }
    if (wait_ms > 0)
        znl_wheel_start(wheel_of(roster), &roster->answer_timer,
                znl_roster_now(roster) + wait_ms, answer);
    znl_roster_leave_call(roster);
}

/* A subject below ours, without wildcards: nobody makes us talk elsewhere. */
static int is_inbox(const znl_roster *roster, const char *reply)
{
    size_t size = strlen(roster->subject), length = strlen(reply);
    if (length <= size + 1 || length > size + 1 + ZNL_ROSTER_INBOX_BYTES ||
            memcmp(reply, roster->subject, size) != 0 || reply[size] != '.')
        return 0;
    for (const char *at = reply + size + 1; *at != 0; at++)
        if (*at == '.' || *at == '*' || *at == '>' || (uint8_t)*at <= ' ' || *at == 0x7f)
            return 0;
    return 1;
}

static int add_answer(znl_roster *roster, znl_frame to, const char *reply)
{
    size_t length = strlen(reply);
    for (size_t i = 0; i < roster->answer_count; i++)
        if (strcmp(roster->answers[i].subject, reply) == 0)
            return 0; /* it waits already */
    if (roster->answer_count == ZNL_ROSTER_ANSWERS)
        return ZNL_E_LIMIT;
    char *block = znl_malloc(length + 1 + to.size);
    if (block == NULL)
        return ZNL_E_NOMEM;
    memcpy(block, reply, length + 1);
    if (to.size > 0)
        memcpy(block + length + 1, to.data, to.size);
    roster->answers[roster->answer_count++] = (znl_roster_answer){
            block, (uint8_t *)block + length + 1, to.size};
    return 0;
}

void znl_roster_wanted(znl_roster *roster, znl_frame by, const char *reply)
{
    uint64_t delay_ms = znl_roster_draw(roster, ZNL_ROSTER_SYNC_DELAY_MS + 1);
    if (reply == NULL || !is_inbox(roster, reply) || add_answer(roster, by, reply) != 0) {
        want_all(roster, delay_ms);
        return;
    }
    if (!znl_timer_running(&roster->answer_timer))
        znl_wheel_start(wheel_of(roster), &roster->answer_timer,
                znl_roster_now(roster) + delay_ms, answer);
}

void znl_roster_repair(znl_roster *roster, znl_member *member)
{
    roster->counters.repairs++;
    if (take(roster, &roster->repair_budget, ZNL_ROSTER_REPAIRS))
        znl_roster_send_add(roster, member);
    else
        want_all(roster, ZNL_ROSTER_SYNC_DELAY_MS);
}

/* --- questions ------------------------------------------------------------------------------------- */

static void sync_later(znl_timer *timer)
{
    znl_roster_sync(ZNL_ROSTER_OF(timer, sync_timer));
}

void znl_roster_sync(znl_roster *roster)
{
    uint64_t now_ms = znl_roster_now(roster);
    if (!znl_roster_speaks(roster) || znl_timer_running(&roster->sync_timer))
        return;
    if (roster->has_synced && now_ms - roster->synced_ms < ZNL_ROSTER_SYNC_MS) {
        znl_wheel_start(wheel_of(roster), &roster->sync_timer,
                roster->synced_ms + ZNL_ROSTER_SYNC_MS, sync_later);
        return;
    }
    znl_hub_roster message = message_of(roster, ZNL_HUB_SYNC);
    publish_next(roster, roster->inbox, &message);
    roster->has_synced = 1;
    roster->synced_ms = now_ms;
}

static void ask_later(znl_timer *timer)
{
    znl_roster *roster = ZNL_ROSTER_OF(timer, ask_timer);
    znl_roster_enter(roster);
    for (znl_owner *owner = znl_members_first_owner(roster->members); owner != NULL;
            owner = owner->next)
        if (owner->needs_ask)
            znl_roster_ask(roster, owner);
    znl_roster_leave_call(roster);
}

void znl_roster_ask(znl_roster *roster, znl_owner *owner)
{
    uint64_t now_ms = znl_roster_now(roster), asked_ms = owner->asked_ms;
    owner->needs_ask = 1;
    if (roster->has_synced && roster->synced_ms > asked_ms)
        asked_ms = roster->synced_ms; /* all were asked then */
    int is_early = asked_ms != 0 && now_ms - asked_ms < ZNL_ROSTER_SYNC_MS;
    if (is_early || !take(roster, &roster->ask_budget, ZNL_ROSTER_ASKS)) {
        uint64_t at_ms = (is_early ? asked_ms : now_ms) + ZNL_ROSTER_SYNC_MS;
        if (!znl_timer_running(&roster->ask_timer) || roster->ask_timer.deadline_ms > at_ms)
            znl_wheel_start(wheel_of(roster), &roster->ask_timer, at_ms, ask_later);
        return;
    }
    owner->needs_ask = 0;
    owner->asked_ms = now_ms;
    znl_hub_roster message = message_of(roster, ZNL_HUB_ASK);
    message.to = owner->map.key;
    publish_next(roster, roster->inbox, &message);
    roster->counters.asks++;
}

void znl_roster_silence(znl_roster *roster)
{
    znl_wheel *wheel = wheel_of(roster);
    znl_wheel_stop(wheel, &roster->beat_timer);
    znl_wheel_stop(wheel, &roster->answer_timer);
    znl_wheel_stop(wheel, &roster->all_timer);
    znl_wheel_stop(wheel, &roster->ask_timer);
    znl_wheel_stop(wheel, &roster->sync_timer);
    while (roster->answer_count > 0)
        forget_answer(roster);
    roster->row = roster->answer = (znl_roster_row){0};
}
