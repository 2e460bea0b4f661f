/* roster_stage.c - see roster_stage.h. SPDX-License-Identifier: MIT */
#include "support/roster_stage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/random.h"

typedef struct roster_parcel {
    struct roster_parcel *next;
    size_t size;
    int to_all;
    char subject[128], reply[128];
    uint8_t data[];
} roster_parcel;

typedef struct roster_way { /* from one to another, in order */
    roster_parcel *first, **last;
} roster_way;

typedef struct roster_user {
    roster_stage *stage;
    unsigned i;
} roster_user;

/* The last is who injects. */
static roster_way ways[HALL_INSTANCES + 1][HALL_INSTANCES];
static roster_user users[HALL_INSTANCES];

uint64_t hall_draw(roster_stage *stage, uint64_t below)
{
    uint64_t value = stage->random += 0x9e3779b97f4a7c15u;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return (value ^ value >> 31) % below;
}

static uint64_t draw_any(void *user_of)
{
    return hall_draw(((roster_user *)user_of)->stage, UINT64_MAX);
}

/* --- the bus --------------------------------------------------------------------------------------- */

static void clear_way(roster_way *way)
{
    while (way->first != NULL) {
        roster_parcel *parcel = way->first;
        way->first = parcel->next;
        free(parcel);
    }
    way->last = &way->first;
}

static void post(unsigned from, unsigned to, const char *subject, const char *reply,
        const void *data, size_t size)
{
    roster_parcel *parcel = calloc(1, sizeof *parcel + size);
    assert_non_null(parcel);
    parcel->size = size;
    assert_true(strlen(subject) < sizeof parcel->subject);
    strcpy(parcel->subject, subject);
    if (reply != NULL)
        strcpy(parcel->reply, reply);
    if (size > 0)
        memcpy(parcel->data, data, size);
    *ways[from][to].last = parcel;
    ways[from][to].last = &parcel->next;
}

static char *copy_of(const void *data, size_t size)
{
    char *copy = malloc(size + 1);
    assert_non_null(copy);
    memcpy(copy, data, size);
    copy[size] = 0;
    return copy;
}

static int hears(const roster_stage *stage, unsigned i, const char *subject)
{
    if (stage->rosters[i] == NULL && stage->originals[i] == NULL)
        return 0;
    return strcmp(subject, HALL_SUBJECT) == 0 ||
            (stage->rosters[i] != NULL &&
                    strcmp(subject, znl_roster_inbox(stage->rosters[i])) == 0);
}

static int publish(
        void *user_of, const char *subject, const char *reply, const void *data, size_t size)
{
    const roster_user *from = user_of;
    roster_stage *stage = from->stage;
    if (stage->is_offline[from->i])
        return ZNL_E_OFFLINE;
    if (stage->err != 0)
        return stage->err;
    if (size > stage->max_payload)
        return ZNL_E_TOO_BIG;
    if (stage->published < HALL_TEXTS) {
        stage->texts[stage->published] = copy_of(data, size);
        stage->subjects[stage->published] = copy_of(subject, strlen(subject));
    }
    stage->published++;
    for (unsigned to = 0; to < HALL_INSTANCES; to++)
        if (to != from->i && !stage->is_offline[to] && hears(stage, to, subject))
            post(from->i, to, subject, reply, data, size);
    return 0;
}

static size_t max_payload(void *user_of)
{
    return ((roster_user *)user_of)->stage->max_payload;
}

static const znl_bus bus = {publish, max_payload};

static int deliver(roster_stage *stage, unsigned from, unsigned to)
{
    roster_way *way = &ways[from][to];
    roster_parcel *parcel = way->first;
    if (parcel == NULL)
        return 0;
    way->first = parcel->next;
    if (way->first == NULL)
        way->last = &way->first;
    int is_lost = hall_draw(stage, 100) < stage->loss;
    if (stage->rosters[to] != NULL && !is_lost)
        znl_roster_receive(stage->rosters[to], parcel->data, parcel->size,
                parcel->reply[0] != 0 ? parcel->reply : NULL);
    else if (stage->originals[to] != NULL && !is_lost)
        original_receive(stage->originals[to], parcel->data, parcel->size, znl_clock_mono_ms());
    free(parcel);
    return 1;
}

void hall_settle(roster_stage *stage)
{
    int is_more = 1;
    while (is_more) {
        is_more = 0;
        for (unsigned from = 0; from <= HALL_INSTANCES; from++)
            for (unsigned to = 0; to < HALL_INSTANCES; to++)
                is_more |= deliver(stage, from, to);
    }
}

void hall_turn(roster_stage *stage)
{
    unsigned start = (unsigned)hall_draw(stage, HALL_INSTANCES + 1);
    for (unsigned i = 0; i <= HALL_INSTANCES; i++)
        for (unsigned to = 0; to < HALL_INSTANCES; to++)
            if (hall_draw(stage, 100) >= stage->delay)
                deliver(stage, (start + i) % (HALL_INSTANCES + 1), to);
}

void hall_inject(roster_stage *stage, const char *text, const char *reply)
{
    for (unsigned to = 0; to < HALL_INSTANCES; to++)
        if (!stage->is_offline[to] && hears(stage, to, HALL_SUBJECT))
            post(HALL_INSTANCES, to, HALL_SUBJECT, reply, text, strlen(text));
    hall_settle(stage);
}

/* --- instances ------------------------------------------------------------------------------------- */

static void on_event(void *user_of, const znl_roster_event *event)
{
    static const char *const names[] = {"added", "updated", "removed", "displaced", "partial"};
    const roster_user *at = user_of;
    hall_events *events = &at->stage->events[at->i];
    unsigned *const counts[] = {&events->added, &events->updated, &events->removed,
            &events->displaced, &events->partial};
    ++*counts[event->kind];
    if (event->kind == ZNL_ROSTER_REMOVED)
        events->cause = event->cause;
    snprintf(events->last, sizeof events->last, "%s %.*s %.*s %.*s %.*s", names[event->kind],
            (int)event->ns.size, (const char *)event->ns.data, (int)event->session_id.size,
            (const char *)event->session_id.data, (int)event->user_id.size,
            (const char *)event->user_id.data, (int)event->owner.size,
            (const char *)event->owner.data);
    if (event->kind == ZNL_ROSTER_PARTIAL)
        snprintf(events->last, sizeof events->last, "partial %d", event->is_partial);
}

void hall_begin(roster_stage *stage)
{
    *stage = (roster_stage){.max_payload = 1024 * 1024, .random = 1};
    assert_int_equal(znl_random_start(), 0);
    znl_clock_freeze(1700000000000);
    assert_int_equal(znl_loop_new(&stage->loop), 0);
    for (unsigned from = 0; from <= HALL_INSTANCES; from++)
        for (unsigned to = 0; to < HALL_INSTANCES; to++)
            ways[from][to] = (roster_way){NULL, &ways[from][to].first};
}

void hall_end(roster_stage *stage)
{
    for (unsigned i = 0; i < HALL_INSTANCES; i++)
        hall_close(stage, i);
    for (unsigned from = 0; from <= HALL_INSTANCES; from++)
        for (unsigned to = 0; to < HALL_INSTANCES; to++)
            clear_way(&ways[from][to]);
    hall_forget(stage);
    assert_int_equal(znl_loop_wheel(stage->loop)->count, 0);
    assert_int_equal(znl_loop_close(stage->loop), 0);
    znl_clock_thaw();
}

znl_roster *hall_open_with(roster_stage *stage, unsigned i, const znl_roster_options *options)
{
    znl_roster_options own = *options;
    own.random = draw_any;
    users[i] = (roster_user){stage, i};
    stage->events[i] = (hall_events){0};
    stage->is_offline[i] = 0;
    assert_int_equal(znl_roster_new(&stage->rosters[i], stage->loop, &own, &bus, &users[i],
                             on_event, &users[i]),
            0);
    return stage->rosters[i];
}

znl_roster *hall_open(roster_stage *stage, unsigned i, uint32_t ttl_ms)
{
    char origin[] = "instA";
    origin[4] = (char)('A' + i);
    const znl_roster_options options = {
            .subject = HALL_SUBJECT, .origin = origin, .ttl_ms = ttl_ms};
    return hall_open_with(stage, i, &options);
}

static void publish_text(void *user_of, const char *text)
{
    publish(user_of, HALL_SUBJECT, NULL, text, strlen(text));
}

roster_original *hall_open_original(roster_stage *stage, unsigned i, uint32_t ttl_ms)
{
    char origin[] = "origA";
    origin[4] = (char)('A' + i);
    users[i] = (roster_user){stage, i};
    stage->is_offline[i] = 0;
    stage->originals[i] = original_new(origin, ttl_ms, publish_text, &users[i]);
    original_start(stage->originals[i], znl_clock_mono_ms());
    return stage->originals[i];
}

void hall_close(roster_stage *stage, unsigned i)
{
    znl_roster_free(stage->rosters[i]);
    stage->rosters[i] = NULL;
    original_free(stage->originals[i]);
    stage->originals[i] = NULL;
    for (unsigned to = 0; to < HALL_INSTANCES; to++)
        clear_way(&ways[to][i]);
}

void hall_connect(roster_stage *stage, unsigned i, int is_connected)
{
    stage->is_offline[i] = !is_connected;
    for (unsigned to = 0; to < HALL_INSTANCES; to++) {
        clear_way(&ways[to][i]);
        clear_way(&ways[i][to]);
    }
    if (stage->rosters[i] != NULL)
        znl_roster_connected(stage->rosters[i], is_connected);
}

void hall_pass(roster_stage *stage, uint64_t ms, int is_random)
{
    znl_wheel *wheel = znl_loop_wheel(stage->loop);
    uint64_t end_ms = znl_clock_mono_ms() + ms;
    for (;;) {
        if (is_random)
            hall_turn(stage);
        else
            hall_settle(stage);
        uint64_t now_ms = znl_clock_mono_ms(), next_ms = znl_wheel_next_ms(wheel, now_ms);
        uint64_t step_ms = is_random ? 1 : next_ms;
        if (now_ms >= end_ms && next_ms > 0)
            return;
        if (step_ms > end_ms - now_ms)
            step_ms = end_ms - now_ms;
        znl_clock_advance(step_ms);
        znl_loop_clock_changed(stage->loop);
        znl_wheel_advance(wheel, now_ms + step_ms);
        for (unsigned i = 0; i < HALL_INSTANCES; i++)
            if (stage->originals[i] != NULL)
                original_tick(stage->originals[i], now_ms + step_ms);
    }
}

void hall_forget(roster_stage *stage)
{
    for (size_t i = 0; i < HALL_TEXTS; i++) {
        free(stage->texts[i]);
        free(stage->subjects[i]);
        stage->texts[i] = stage->subjects[i] = NULL;
    }
    stage->published = 0;
}

static znl_frame frame_of(const char *text)
{
    return text != NULL ? znl_frame_text(text) : (znl_frame){0};
}

int hall_join(roster_stage *stage, unsigned i, const char *ns, const char *session,
        const char *user_id, const char *metadata)
{
    return znl_roster_join(stage->rosters[i], frame_of(ns), frame_of(session),
            frame_of(user_id), frame_of(metadata));
}

int hall_leave(roster_stage *stage, unsigned i, const char *session)
{
    return znl_roster_leave(stage->rosters[i], frame_of(session));
}

const char *hall_view(roster_stage *stage, unsigned i, const char *ns)
{
    static char out[65536];
    size_t size = 0;
    const znl_member *at = NULL;
    out[0] = 0;
    while ((at = znl_roster_next(stage->rosters[i], znl_frame_text(ns), at)) != NULL) {
        znl_frame owner = znl_roster_owner_id(stage->rosters[i], at);
        int written = snprintf(out + size, sizeof out - size, "%s%.*s:%.*s:%.*s",
                size > 0 ? " " : "", (int)at->session.id.size,
                (const char *)at->session.id.data, (int)at->session.user_id.size,
                (const char *)at->session.user_id.data, (int)owner.size,
                (const char *)owner.data);
        assert_true(written > 0 && (size_t)written < sizeof out - size);
        size += (size_t)written;
    }
    return out;
}

int hall_view_contains(roster_stage *stage, unsigned i, const char *ns, const char *entry)
{
    size_t size = strlen(entry);
    for (const char *at = hall_view(stage, i, ns); (at = strstr(at, entry)) != NULL; at += size)
        if (at[size] == 0 || at[size] == ' ')
            return 1;
    return 0;
}
