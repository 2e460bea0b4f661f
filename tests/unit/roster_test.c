/* The roster of several instances: joins and leaves, heartbeats, who is believed, what is noticed when it is lost.
 * SPDX-License-Identifier: MIT */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "support/roster_stage.h"

#define T 4000u
#define ROOM "/ws/chat"

static roster_stage hall;

static int begin(void **state)
{
    (void)state;
    hall_begin(&hall);
    return 0;
}

static int end(void **state)
{
    (void)state;
    hall_end(&hall);
    return 0;
}

static void start(unsigned i)
{
    znl_roster_start(hall_open(&hall, i, T));
    hall_settle(&hall);
}

static void join(unsigned i, const char *session)
{
    assert_int_equal(hall_join(&hall, i, ROOM, session, "u", NULL), 0);
    hall_settle(&hall);
}

static void leave(unsigned i, const char *session)
{
    assert_int_equal(hall_leave(&hall, i, session), 1);
    hall_settle(&hall);
}

static void assert_view(unsigned i, const char *expected)
{
    assert_string_equal(hall_view(&hall, i, ROOM), expected);
}

static void joins_and_leaves_are_seen_elsewhere(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    join(1, "s2");
    assert_view(0, "s1:u:instA s2:u:instB");
    assert_view(1, "s1:u:instA s2:u:instB");
    assert_string_equal(hall.events[1].last, "added /ws/chat s2 u instB");
    leave(0, "s1");
    assert_view(0, "s2:u:instB");
    assert_view(1, "s2:u:instB");
    assert_string_equal(hall.events[1].last, "removed /ws/chat s1 u instA");
    assert_int_equal(hall.events[1].cause, ZNL_ROSTER_LEFT);
    assert_int_equal(hall_leave(&hall, 0, "s2"), 0);
}

static void a_new_instance_gets_all_soon(void **state)
{
    (void)state;
    start(0);
    join(0, "s1");
    join(0, "s2");
    start(1);
    hall_pass(&hall, ZNL_ROSTER_SYNC_DELAY_MS, 0);
    assert_view(1, "s1:u:instA s2:u:instA");
}

static void what_joins_before_the_start_is_told_then(void **state)
{
    (void)state;
    start(1);
    hall_open(&hall, 0, T);
    hall_forget(&hall);
    join(0, "early");
    join(0, "too early");
    leave(0, "too early");
    assert_int_equal(hall.published, 0);
    znl_roster_start(hall.rosters[0]);
    assert_int_equal(hall.published, 2);
    hall_settle(&hall);
    assert_view(1, "early:u:instA");
}

static void a_killed_instance_is_gone_after_its_time(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    hall_pass(&hall, 10 * T, 0);
    assert_view(1, "s1:u:instA");
    hall_close(&hall, 0);
    hall_pass(&hall, T / 2 - T / 10, 0);
    assert_view(1, "s1:u:instA");
    hall_pass(&hall, T / 2 + T / 10, 0);
    assert_view(1, "");
    assert_int_equal(hall.events[1].cause, ZNL_ROSTER_EXPIRED);
}

static znl_roster_counters counters(unsigned i)
{
    return znl_roster_get_counters(hall.rosters[i]);
}

/* How many of what was published have that op. */
static unsigned published(const char *op)
{
    char name[64];
    unsigned count = 0;
    snprintf(name, sizeof name, "\"op\":\"%s\"", op);
    for (unsigned i = 0; i < hall.published && i < HALL_TEXTS; i++)
        count += strstr(hall.texts[i], name) != NULL;
    return count;
}

static void pass(uint64_t ms)
{
    hall_pass(&hall, ms, 0);
}

static void joining_again_is_an_update(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    assert_int_equal(hall_join(&hall, 0, ROOM, "s1", "v", "{ \"a\" : 1 }"), 0);
    hall_settle(&hall);
    assert_view(1, "s1:v:instA");
    const znl_member *member = znl_roster_find(hall.rosters[1], znl_frame_text("s1"));
    assert_memory_equal(member->session.metadata.data, "{ \"a\" : 1 }", 11);
    assert_int_equal(hall.events[1].updated, 1);
    assert_int_equal(hall.events[1].added, 1);
    /* In another namespace it is gone from the old one. */
    assert_int_equal(hall_join(&hall, 0, "/ws/news", "s1", "v", NULL), 0);
    hall_settle(&hall);
    assert_view(1, "");
    assert_string_equal(hall_view(&hall, 1, "/ws/news"), "s1:v:instA");
    assert_string_equal(hall.events[1].last, "added /ws/news s1 v instA");
    assert_int_equal(hall.events[1].removed, 1);
}

static uint64_t number_in(const char *text, const char *name)
{
    const char *at = text != NULL ? strstr(text, name) : NULL;
    assert_non_null(at);
    return strtoull(at + strlen(name), NULL, 10);
}

static uint64_t since_in(const char *text)
{
    return number_in(text, "\"since\":");
}

static void an_update_is_no_newer_join(void **state)
{
    (void)state;
    start(0);
    join(0, "s1");
    uint64_t since = since_in(hall.texts[hall.published - 1]);
    pass(50);
    assert_int_equal(hall_join(&hall, 0, ROOM, "s1", "v", "{}"), 0);
    assert_int_equal(since_in(hall.texts[hall.published - 1]), since);
    leave(0, "s1");
    join(0, "s1");
    assert_true(since_in(hall.texts[hall.published - 1]) > since);
}

static void what_cannot_join_is_refused(void **state)
{
    (void)state;
    static char big[ZNL_ROSTER_MEMBER_BYTES_DEFAULT + 3];
    memset(big, 'x', sizeof big - 1);
    start(0);
    hall_forget(&hall);
    assert_int_equal(hall_join(&hall, 0, ROOM, "\xff", NULL, NULL), ZNL_E_INVALID);
    assert_int_equal(hall_join(&hall, 0, "\xff", "s", NULL, NULL), ZNL_E_INVALID);
    assert_int_equal(hall_join(&hall, 0, ROOM, "s", "\xff", NULL), ZNL_E_INVALID);
    assert_int_equal(hall_join(&hall, 0, ROOM, "s", NULL, "{"), ZNL_E_INVALID);
    assert_int_equal(hall_join(&hall, 0, ROOM, "s", NULL, "{} 1"), ZNL_E_INVALID);
    assert_int_equal(hall_join(&hall, 0, ROOM, big, NULL, NULL), ZNL_E_TOO_BIG);
    assert_int_equal(hall.published, 0);
    assert_int_equal(znl_roster_count(hall.rosters[0], (znl_frame){0}), 0);
    assert_int_equal(hall_join(&hall, 0, ROOM, "s", NULL, "null"), 0);
    assert_null(strstr(hall.texts[0], "metadata"));
}

static void times_and_names_have_bounds(void **state)
{
    (void)state;
    static const znl_bus silent;
    static const struct {
        const char *subject, *origin;
        uint32_t ttl_ms;
    } bad[] = {{"s", "a", 1999}, {"s", "a", 3600001}, {"", "a", T}, {NULL, "a", T},
            {"s", "", T}, {"s", "\xff", T}};
    znl_roster *roster = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const znl_roster_options options = {
                .subject = bad[i].subject, .origin = bad[i].origin, .ttl_ms = bad[i].ttl_ms};
        assert_int_equal(
                znl_roster_new(&roster, hall.loop, &options, &silent, NULL, NULL, NULL),
                ZNL_E_INVALID);
    }
    const znl_roster_options options = {.subject = "s", .ttl_ms = 2000};
    assert_int_equal(
            znl_roster_new(&roster, hall.loop, &options, &silent, NULL, NULL, NULL), 0);
    assert_int_equal(strlen(znl_roster_origin(roster)), 32);
    assert_int_equal(strlen(znl_roster_inbox(roster)), 34);
    znl_roster_free(roster);
    znl_roster_free(NULL);
}

/* --- what is lost is noticed ----------------------------------------------------------------------- */

static void a_lost_join_is_asked_for_when_the_next_message_comes(void **state)
{
    (void)state;
    start(0);
    start(1);
    pass(2 * T);
    hall.loss = 100;
    join(0, "s1");
    hall.loss = 0;
    assert_view(1, "");
    join(0, "s2");
    assert_int_equal(counters(1).gaps, 1);
    pass(ZNL_ROSTER_SYNC_DELAY_MS);
    assert_view(1, "s2:u:instA s1:u:instA");
    assert_int_equal(counters(1).asks, 1);
}

static void what_the_bus_did_not_take_is_a_gap_too(void **state)
{
    (void)state;
    start(0);
    start(1);
    pass(2 * T);
    hall.err = ZNL_E_BUSY;
    join(0, "s1");
    hall.err = 0;
    assert_int_equal(counters(0).unsent, 1);
    join(0, "s2");
    assert_int_equal(counters(1).gaps, 1);
    pass(ZNL_ROSTER_SYNC_DELAY_MS);
    assert_view(1, "s2:u:instA s1:u:instA");
}

static void what_happens_is_counted(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t counter;
        unsigned more;
    } cases[] = {
            {"{\"o\":\"instA\",\"op\":\"add\",\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":\"a\"}}",
                    offsetof(znl_roster_counters, echoes), 1},
            {"{\"o\":\"instA\",\"op\":\"remove\",\"sessionId\":\"s1\"}",
                    offsetof(znl_roster_counters, echoes), 1},
            {"{\"o\":\"x\"", offsetof(znl_roster_counters, malformed), 1},
            {"no", offsetof(znl_roster_counters, malformed), 1},
            {"{\"o\":\"x\",\"op\":\"heartbeat\",\"members\":[1,{},{\"ns\":\"a\"},{\"ns\":1,"
             "\"sessionId\":\"a\"},{\"ns\":\"a\",\"sessionId\":null}]}",
                    offsetof(znl_roster_counters, skipped), 5},
            {"{\"o\":\"x\",\"op\":\"add\",\"member\":{\"ns\":\"a\"}}",
                    offsetof(znl_roster_counters, skipped), 1},
            {"{\"o\":\"x\",\"op\":\"dance\"}", offsetof(znl_roster_counters, ignored), 1},
            {"{\"o\":\"x\"}", offsetof(znl_roster_counters, ignored), 1},
            {"null", offsetof(znl_roster_counters, ignored), 1},
            {"{\"o\":\"x\",\"op\":\"remove\"}", offsetof(znl_roster_counters, ignored), 1},
            {"{\"o\":\"x\",\"op\":\"heartbeat\"}", offsetof(znl_roster_counters, ignored), 1},
            {"{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"members\":[],\"to\":\"instQ\"}",
                    offsetof(znl_roster_counters, ignored), 1},
            {"{\"o\":\"x\",\"op\":\"digest\",\"v\":2,\"count\":-1,\"hash\":\"0000000000000000\"}",
                    offsetof(znl_roster_counters, ignored), 1},
            {"{\"o\":\"x\",\"op\":\"digest\",\"v\":2,\"count\":0,\"hash\":\"000000000000000G\"}",
                    offsetof(znl_roster_counters, ignored), 1},
            {"{\"o\":\"x\",\"op\":\"remove\",\"sessionId\":\"s1\"}",
                    offsetof(znl_roster_counters, disowned), 1},
    };
    start(0);
    join(0, "s1");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        znl_roster_counters before = counters(0), after;
        hall_inject(&hall, cases[i].text, NULL);
        after = counters(0);
        uint64_t was, is;
        memcpy(&was, (const char *)&before + cases[i].counter, sizeof was);
        memcpy(&is, (const char *)&after + cases[i].counter, sizeof is);
        if (is - was != cases[i].more || after.received != before.received + 1)
            fail_msg("%s", cases[i].text);
        assert_view(0, "s1:u:instA");
    }
    /* What it says itself. */
    pass(3 * T);
    start(1);
    for (unsigned i = 0; i < 3; i++) {
        znl_roster_counters before = counters(0);
        uint64_t bytes = 0;
        unsigned others = 0;
        hall_forget(&hall);
        pass(i == 1 ? 4 * T : T);
        for (unsigned at = 0; at < hall.published; at++) {
            if (strstr(hall.texts[at], "{\"o\":\"instA\"") == hall.texts[at])
                bytes += strlen(hall.texts[at]);
            else
                others++;
        }
        znl_roster_counters after = counters(0);
        assert_int_equal(after.sent - before.sent, hall.published - others);
        assert_int_equal(after.sent_bytes - before.sent_bytes, bytes);
        assert_int_equal(after.lists - before.lists + after.digests - before.digests,
                after.sent - before.sent);
        assert_int_equal(i == 0, after.lists - before.lists > 0); /* the answer to who began */
        assert_true(after.digests > before.digests);
    }
}

static void a_lost_leave_is_noticed_by_the_digest(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    pass(2 * T);
    hall.loss = 100;
    leave(0, "s1");
    hall.loss = 0;
    assert_view(1, "s1:u:instA");
    pass(T / 2 + ZNL_ROSTER_SYNC_DELAY_MS);
    assert_view(1, "");
    assert_int_equal(hall.events[1].cause, ZNL_ROSTER_MISSING);
}

static void a_list_that_is_refused_is_asked_for_less_often(void **state)
{
    (void)state;
    static char list[ZNL_ROSTER_MEMBER_BYTES_DEFAULT + 256];
    snprintf(list, sizeof list,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"gen\":1,\"part\":1,\"parts\":1,\"to\":\"instA\","
            "\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":\"%*d\"}]}",
            (int)ZNL_ROSTER_MEMBER_BYTES_DEFAULT, 1);
    start(0);
    for (unsigned i = 0; i < 40; i++) {
        hall_inject(&hall,
                "{\"o\":\"x\",\"op\":\"digest\",\"v\":2,\"count\":1,\"hash\":\"0000000000000001\"}",
                NULL);
        pass(10);
        hall_inject(&hall, list, NULL);
        pass(T / 2);
    }
    assert_int_equal(counters(0).unmatched, 40);
    /* The first is answered before it is asked: a start asks all. */
    assert_int_equal(counters(0).asks, 39 / ZNL_ROSTER_PATIENCE);
}

static void a_digest_is_asked_for_until_the_list_comes(void **state)
{
    (void)state;
    start(0);
    for (unsigned i = 0; i < 40; i++) {
        hall_inject(&hall,
                "{\"o\":\"x\",\"op\":\"digest\",\"v\":2,\"count\":5,\"hash\":\"0000000000000001\"}",
                NULL);
        pass(T / 2);
    }
    assert_int_equal(counters(0).asks, 40);
}

static void a_part_that_is_lost_deletes_nothing(void **state)
{
    (void)state;
    start(0);
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"n\":1,\"gen\":1,\"part\":1,\"parts\":1,"
            "\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":\"a\"},{\"ns\":\"/ws/chat\","
            "\"sessionId\":\"b\"}],\"since\":[1,1]}",
            NULL);
    assert_view(0, "a::x b::x");
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"n\":2,\"gen\":2,\"part\":1,"
            "\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":\"a\"}],\"since\":[1]}",
            NULL);
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"n\":4,\"gen\":2,\"part\":3,\"parts\":3,"
            "\"members\":[],\"since\":[]}",
            NULL);
    assert_view(0, "a::x b::x");
    /* Whole, it does. */
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"n\":5,\"gen\":3,\"part\":1,"
            "\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":\"a\"}],\"since\":[1]}",
            NULL);
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"n\":6,\"gen\":3,\"part\":2,\"parts\":2,"
            "\"members\":[],\"since\":[]}",
            NULL);
    assert_view(0, "a::x");
}

static void parts_that_do_not_fit_make_no_list(void **state)
{
    (void)state;
    static const char *const marks[] = {
            "\"gen\":2,\"part\":1,\"parts\":3", /* the first of three */
            "\"gen\":3,\"part\":2,\"parts\":2", /* the end of another list */
            "\"gen\":2,\"part\":3,\"parts\":3", /* not the next one */
            "\"gen\":2,\"part\":0,\"parts\":0",
            "\"gen\":0,\"part\":0,\"parts\":0",
            "\"gen\":4,\"part\":9007199254740991,\"parts\":9007199254740991",
            "\"gen\":5,\"part\":1,\"parts\":0",
            "\"gen\":6,\"part\":1",
            "\"gen\":7,\"part\":2,\"parts\":2",
    };
    char text[256];
    start(0);
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"gen\":1,\"part\":1,\"parts\":1,"
            "\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":\"a\"}],\"since\":[1]}",
            NULL);
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        snprintf(text, sizeof text,
                "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,%s,\"members\":[],\"since\":[]}",
                marks[i]);
        hall_inject(&hall, text, NULL);
        assert_view(0, "a::x");
    }
    assert_int_equal(counters(0).missing, 0);
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"gen\":8,\"part\":1,\"parts\":1,"
            "\"members\":[],\"since\":[]}",
            NULL);
    assert_view(0, "");
}

static void a_list_without_memory_for_it_deletes_nothing(void **state)
{
    (void)state;
    char text[256];
    unsigned lost = 0;
    for (long n = 0; n < 8; n++) {
        start(0);
        hall_inject(&hall,
                "{\"o\":\"x\",\"op\":\"heartbeat\",\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":"
                "\"a\",\"userId\":\"u\"},{\"ns\":\"/ws/chat\",\"sessionId\":\"b\"}]}",
                NULL);
        snprintf(text, sizeof text,
                "{\"o\":\"x\",\"op\":\"heartbeat\",\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":"
                "\"a\",\"userId\":\"v\"},{\"ns\":\"/ws/chat\",\"sessionId\":\"b\"}]}");
        znl_alloc_fail_after(n);
        znl_roster_receive(hall.rosters[0], text, strlen(text), NULL);
        znl_alloc_fail_after(-1);
        assert_int_equal(counters(0).missing, 0);
        lost += (unsigned)counters(0).refused;
        assert_int_equal(znl_roster_count(hall.rosters[0], znl_frame_text(ROOM)), 2);
        hall_close(&hall, 0);
    }
    assert_true(lost > 0); /* there was not enough for some */
}

static void an_answer_that_is_overtaken_takes_nothing_back(void **state)
{
    (void)state;
    char text[512];
    start(0);
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"add\",\"v\":2,\"n\":7,\"since\":5,\"member\":{\"ns\":\"/ws/chat\","
            "\"sessionId\":\"a\",\"userId\":\"new\"}}",
            NULL);
    snprintf(text, sizeof text,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"n\":6,\"gen\":1,\"part\":1,\"parts\":1,"
            "\"to\":\"instA\",\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":\"a\",\"userId\":\"old\"}],"
            "\"since\":[5]}");
    hall_inject(&hall, text, NULL);
    assert_view(0, "a:new:x");
    snprintf(text, sizeof text,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"n\":6,\"gen\":2,\"part\":1,\"parts\":1,"
            "\"to\":\"instA\",\"members\":[],\"since\":[]}");
    hall_inject(&hall, text, NULL);
    assert_view(0, "a:new:x");
    /* An answer to another is not for us. */
    snprintf(text, sizeof text,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"n\":8,\"gen\":3,\"part\":1,\"parts\":1,"
            "\"to\":\"instQ\",\"members\":[],\"since\":[]}");
    hall_inject(&hall, text, NULL);
    assert_view(0, "a:new:x");
}

/* --- originals and ours ---------------------------------------------------------------------------- */

static void among_ours_digests_replace_lists_until_an_original_comes(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    pass(3 * T);
    hall_forget(&hall);
    pass(5 * T);
    assert_int_equal(published("heartbeat"), 0);
    assert_in_range(published("digest"), 2 * 10, 2 * 12);
    assert_view(1, "s1:u:instA");
    /* An original is answered at once and goes on getting lists. */
    hall_forget(&hall);
    hall_inject(&hall, "{\"o\":\"orig\",\"op\":\"heartbeat\",\"members\":[]}", NULL);
    pass(ZNL_ROSTER_SYNC_DELAY_MS);
    assert_int_equal(published("heartbeat"), 2);
    hall_forget(&hall);
    pass(2 * T - ZNL_ROSTER_SYNC_DELAY_MS - 1);
    assert_int_equal(published("digest"), 0);
    assert_in_range(published("heartbeat"), 2 * 3, 2 * 5);
    /* It is silent: it has expired everywhere, nobody needs lists any more. */
    pass(T);
    hall_forget(&hall);
    pass(T);
    assert_int_equal(published("heartbeat"), 0);
    assert_true(published("digest") > 0);
}

static void alone_it_lists_as_originals_do(void **state)
{
    (void)state;
    start(0);
    hall_forget(&hall);
    pass(5 * T);
    assert_in_range(published("heartbeat"), 10, 12);
    assert_int_equal(published("digest"), 0);
}

static void heartbeats_are_never_late_and_not_in_step(void **state)
{
    (void)state;
    uint64_t last_ms = 0, shortest_ms = T, longest_ms = 0, gen = 0;
    start(0);
    hall_forget(&hall);
    for (unsigned beats = 0; beats < 40;) {
        pass(1);
        if (hall.published == 0)
            continue;
        assert_int_equal(hall.published, 1);
        assert_true(number_in(hall.texts[0], "\"gen\":") > gen); /* a list of its own */
        gen = number_in(hall.texts[0], "\"gen\":");
        hall_forget(&hall);
        uint64_t now_ms = znl_clock_mono_ms(), passed_ms = now_ms - last_ms;
        last_ms = now_ms;
        if (beats++ == 0)
            continue;
        shortest_ms = passed_ms < shortest_ms ? passed_ms : shortest_ms;
        longest_ms = passed_ms > longest_ms ? passed_ms : longest_ms;
    }
    assert_in_range(shortest_ms, T / 2 - T / 20, T / 2 - T / 40);
    assert_in_range(longest_ms, T / 2 - T / 40, T / 2);
}

static void answers_do_not_come_all_at_once(void **state)
{
    (void)state;
    unsigned at_once = 0, turns = 0;
    for (unsigned i = 0; i < 4; i++)
        start(i);
    for (unsigned i = 0; i < 20; i++) {
        pass(2 * T);
        hall_forget(&hall);
        hall_inject(&hall, "{\"o\":\"orig\",\"op\":\"sync_request\"}", NULL);
        for (unsigned ms = 0; ms <= ZNL_ROSTER_SYNC_DELAY_MS; ms++) {
            unsigned before = hall.published;
            pass(ms > 0);
            turns += hall.published > before;
            at_once += hall.published >= before + 3;
        }
        assert_in_range(published("heartbeat"), 4, 8); /* some by the clock */
    }
    assert_true(turns > 50);
    assert_true(at_once <= 1);
}

static void an_originals_list_is_whole(void **state)
{
    (void)state;
    start(0);
    hall_inject(&hall,
            "{\"o\":\"orig\",\"op\":\"heartbeat\",\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":\"a\","
            "\"userId\":\"u\"},{\"ns\":\"/ws/chat\",\"sessionId\":\"b\",\"userId\":\"u\"}]}",
            NULL);
    assert_view(0, "a:u:orig b:u:orig");
    hall_inject(&hall,
            "{\"o\":\"orig\",\"op\":\"heartbeat\",\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":\"b\","
            "\"userId\":\"u\"}]}",
            NULL);
    assert_view(0, "b:u:orig");
    assert_int_equal(hall.events[0].cause, ZNL_ROSTER_MISSING);
}

static void a_message_without_origin_is_no_echo(void **state)
{
    (void)state;
    start(0);
    hall_inject(&hall,
            "{\"op\":\"add\",\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":\"a\",\"userId\":\"u\"}}",
            NULL);
    assert_view(0, "a:u:");
    hall_inject(&hall, "{\"op\":\"remove\",\"sessionId\":\"a\"}", NULL);
    assert_view(0, "");
}

static void many_requests_get_one_answer_a_second(void **state)
{
    (void)state;
    start(0);
    join(0, "s1");
    pass(2 * ZNL_ROSTER_SYNC_MS + 500);
    hall_forget(&hall);
    for (unsigned i = 0; i < 200; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"o\":\"o%u\",\"op\":\"sync_request\"}", i);
        hall_inject(&hall, text, NULL);
        pass(10);
    }
    assert_in_range(published("heartbeat"), 2, 3 + 1); /* in 2 s; one of them may be its own */
}

static void many_requests_of_ours_are_bounded_too(void **state)
{
    (void)state;
    start(0);
    join(0, "s1");
    pass(2 * ZNL_ROSTER_SYNC_MS + 500);
    hall_forget(&hall);
    for (unsigned i = 0; i < 2000; i++) {
        char text[64], reply[64];
        snprintf(text, sizeof text, "{\"o\":\"o%u\",\"op\":\"sync_request\",\"v\":2}", i);
        snprintf(reply, sizeof reply, "%s.o%u", HALL_SUBJECT, i);
        hall_inject(&hall, text, reply);
        pass(1);
    }
    /* In 2 s: answers to one, and to all, each with its bound. */
    assert_in_range(published("heartbeat"), 2, 3 * ZNL_ROSTER_ANSWERS + 3);
    /* What is for another is none of ours. */
    pass(2 * T);
    hall_forget(&hall);
    for (unsigned i = 0; i < 10; i++) {
        hall_inject(&hall, "{\"o\":\"y\",\"op\":\"ask\",\"v\":2,\"to\":\"instQ\"}", NULL);
        hall_inject(&hall, "{\"o\":\"y\",\"op\":\"ask\",\"v\":2}", NULL);
    }
    pass(2 * ZNL_ROSTER_SYNC_DELAY_MS);
    assert_int_equal(published("heartbeat"), 0);
    hall_inject(&hall, "{\"o\":\"y\",\"op\":\"ask\",\"v\":2,\"to\":\"instA\"}", NULL);
    pass(ZNL_ROSTER_SYNC_DELAY_MS);
    assert_int_equal(published("heartbeat"), 1);
}

static void requests_of_ours_are_answered_to_them_alone(void **state)
{
    (void)state;
    start(0);
    join(0, "s1");
    pass(2 * ZNL_ROSTER_SYNC_MS);
    hall_forget(&hall);
    start(1);
    pass(ZNL_ROSTER_SYNC_DELAY_MS);
    assert_view(1, "s1:u:instA");
    unsigned answers = 0;
    for (unsigned i = 0; i < hall.published; i++)
        answers += strcmp(hall.subjects[i], znl_roster_inbox(hall.rosters[1])) == 0;
    assert_int_equal(answers, 1);
    /* Nobody makes it talk on other subjects. */
    static const char *const replies[] = {"other", "mega.ws.main.roster.",
            "mega.ws.main.roster.>", "mega.ws.main.roster.a.b", "mega.ws.main.rosters.a",
            "$JS.API.STREAM.DELETE.x"};
    for (size_t i = 0; i < sizeof replies / sizeof replies[0]; i++) {
        pass(2 * ZNL_ROSTER_SYNC_MS);
        hall_forget(&hall);
        hall_inject(&hall, "{\"o\":\"x\",\"op\":\"sync_request\",\"v\":2}", replies[i]);
        pass(ZNL_ROSTER_SYNC_MS + ZNL_ROSTER_SYNC_DELAY_MS);
        assert_true(published("heartbeat") >= 1);
        for (unsigned at = 0; at < hall.published; at++)
            assert_true(strcmp(hall.subjects[at], HALL_SUBJECT) == 0);
    }
}

/* --- one session on two instances ------------------------------------------------------------------ */

static void the_newer_join_wins(void **state)
{
    (void)state;
    start(0);
    start(1);
    start(2);
    join(0, "dup");
    pass(5);
    join(1, "dup");
    for (unsigned i = 0; i < 3; i++)
        assert_view(i, "dup:u:instB");
    assert_int_equal(hall.events[0].displaced, 1);
    assert_int_equal(hall.events[1].displaced, 0);
    assert_string_equal(hall.events[0].last, "displaced /ws/chat dup u instB");
    /* It stays so, whoever speaks. */
    pass(3 * T);
    for (unsigned i = 0; i < 3; i++)
        assert_view(i, "dup:u:instB");
    assert_int_equal(hall.events[0].displaced, 1);
    /* No digest counts it twice, or not at all. */
    znl_roster_counters before = counters(2);
    pass(4 * T);
    assert_int_equal(counters(2).unmatched, before.unmatched);
    /* When the loser's connection closes nothing is said. */
    hall_forget(&hall);
    leave(0, "dup");
    assert_int_equal(hall.published, 0);
    for (unsigned i = 0; i < 3; i++)
        assert_view(i, "dup:u:instB");
}

static void a_loser_that_stops_takes_nothing_along(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "dup");
    pass(5);
    join(1, "dup");
    hall_forget(&hall);
    znl_roster_stop(hall.rosters[0]);
    assert_int_equal(hall.published, 0);
    hall_settle(&hall);
    assert_view(1, "dup:u:instB");
}

static void the_loser_has_it_again_when_the_winner_goes(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "dup");
    pass(5);
    join(1, "dup");
    uint64_t since = since_in(hall.texts[hall.published - 1]);
    hall_forget(&hall);
    leave(1, "dup");
    assert_view(0, "dup:u:instA");
    assert_view(1, "dup:u:instA");
    /* Later than the winner's, for whoever has not heard that it is gone. */
    assert_true(since_in(hall.texts[1]) > since);
    /* The same when it is killed. */
    pass(5);
    join(1, "dup");
    assert_view(0, "dup:u:instB");
    hall_close(&hall, 1);
    pass(T);
    assert_view(0, "dup:u:instA");
    start(2);
    pass(ZNL_ROSTER_SYNC_DELAY_MS);
    assert_view(2, "dup:u:instA");
}

static void a_session_that_moves_wins_against_a_clock_that_is_ahead(void **state)
{
    (void)state;
    start(0);
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"add\",\"v\":2,\"n\":1,\"since\":9000000000000000,\"member\":{\"ns\":"
            "\"/ws/chat\",\"sessionId\":\"a\",\"userId\":\"u\"}}",
            NULL);
    assert_view(0, "a:u:x");
    hall_forget(&hall);
    join(0, "a");
    assert_view(0, "a:u:instA");
    assert_non_null(strstr(hall.texts[0], "\"since\":9000000000000001"));
    /* What x says of it later is older. */
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"n\":2,\"gen\":1,\"part\":1,\"parts\":1,\"since\":"
            "[9000000000000000],\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":\"a\",\"userId\":\"u\"}]}",
            NULL);
    assert_view(0, "a:u:instA");
    assert_int_equal(counters(0).repairs, 1);
}

static void at_the_same_time_the_greater_id_wins(void **state)
{
    (void)state;
    start(0);
    start(1);
    assert_int_equal(hall_join(&hall, 0, ROOM, "dup", "u", NULL), 0);
    assert_int_equal(hall_join(&hall, 1, ROOM, "dup", "u", NULL), 0);
    hall_settle(&hall);
    assert_view(0, "dup:u:instB");
    assert_view(1, "dup:u:instB");
    assert_int_equal(hall.events[0].displaced, 1);
    assert_int_equal(hall.events[1].displaced, 0);
}

static void an_original_that_joins_displaces(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "dup");
    hall_inject(&hall,
            "{\"o\":\"orig\",\"op\":\"add\",\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":\"dup\",\"userId\":"
            "\"u\"}}",
            NULL);
    assert_view(0, "dup:u:orig");
    assert_view(1, "dup:u:orig");
    assert_int_equal(hall.events[0].displaced, 1);
    hall_forget(&hall);
    pass(T / 2);
    assert_view(0, "dup:u:orig");
    hall_inject(&hall, "{\"o\":\"orig\",\"op\":\"remove\",\"sessionId\":\"dup\"}", NULL);
    assert_view(0, "dup:u:instA");
    assert_view(1, "dup:u:instA");
}

/* Only an original may speak without a time: it is believed until our next list. Among ours there is none. */
static void ours_takes_nothing_over_without_a_time(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"n\":1,\"gen\":1,\"part\":1,\"parts\":1,"
            "\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":\"s1\",\"userId\":\"w\"},"
            "{\"ns\":\"/ws/chat\",\"sessionId\":\"s2\",\"userId\":\"w\"}]}",
            NULL);
    for (unsigned i = 0; i < 2; i++)
        assert_view(i, "s1:u:instA s2:w:x");
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"add\",\"v\":2,\"n\":2,\"member\":{\"ns\":\"/ws/chat\","
            "\"sessionId\":\"s1\",\"userId\":\"w\"}}",
            NULL);
    for (unsigned i = 0; i < 2; i++)
        assert_view(i, "s1:u:instA s2:w:x");
    assert_int_equal(counters(0).repairs, 2);
    assert_int_equal(hall.events[0].displaced, 0);
}

/* Nobody can join later than that: it is told each time, and over with the one that said so. */
static void a_time_that_cannot_be_passed_is_told_each_time(void **state)
{
    (void)state;
    char text[256];
    start(0);
    start(1);
    join(0, "s1");
    for (unsigned i = 1; i <= 3; i++) {
        snprintf(text, sizeof text,
                "{\"o\":\"x\",\"op\":\"add\",\"v\":2,\"n\":%u,\"since\":9007199254740991,\"member\":"
                "{\"ns\":\"/ws/chat\",\"sessionId\":\"s1\",\"userId\":\"w\"}}",
                i);
        hall_inject(&hall, text, NULL);
        assert_view(0, "s1:w:x");
        assert_view(1, "s1:w:x");
        assert_int_equal(hall.events[0].displaced, i);
        join(0, "s1");
        for (unsigned at = 0; at < 2; at++)
            assert_view(at, "s1:u:instA");
        assert_non_null(strstr(hall.texts[hall.published - 1], "\"since\":9007199254740991"));
    }
    pass(2 * T);
    for (unsigned i = 0; i < 2; i++)
        assert_view(i, "s1:u:instA");
    /* It can still move to others, and back. */
    for (unsigned i = 0; i < 4; i++) {
        join(1 - i % 2, "s1");
        pass(T);
        for (unsigned at = 0; at < 2; at++)
            assert_view(at, i % 2 == 0 ? "s1:u:instB" : "s1:u:instA");
    }
    /* A number past 2^53 - 1 is none. */
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"add\",\"v\":2,\"n\":9007199254740992,\"since\":9007199254740992,"
            "\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":\"s1\",\"userId\":\"w\"}}",
            NULL);
    assert_view(0, "s1:u:instA");
}

static void numbers_at_their_end_lose_nothing(void **state)
{
    (void)state;
    static const char *const numbers[] = {
            "9007199254740991", "1", "9007199254740990", "9007199254740992", "-1", "1.5", "2"};
    char text[256];
    start(0);
    for (unsigned i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        snprintf(text, sizeof text,
                "{\"o\":\"x\",\"op\":\"add\",\"v\":2,\"n\":%s,\"since\":5,\"member\":{\"ns\":"
                "\"/ws/chat\",\"sessionId\":\"s%u\"}}",
                numbers[i], i);
        hall_inject(&hall, text, NULL);
    }
    assert_int_equal(znl_roster_count(hall.rosters[0], znl_frame_text(ROOM)), 7);
    /* 2^53-1 -> 1 -> 2^53-2 -> (none) -> (none) -> (none) -> 2 */
    assert_int_equal(counters(0).gaps, 3);
    /* Its list, from the beginning of its row, is the truth all the same. */
    hall_inject(&hall,
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"v\":2,\"n\":3,\"gen\":9007199254740991,\"part\":1,"
            "\"parts\":1,\"members\":[],\"since\":[]}",
            NULL);
    assert_view(0, "");
}

static void a_flood_of_removes_brings_few_answers(void **state)
{
    (void)state;
    start(0);
    for (unsigned i = 0; i < 10; i++) {
        char session[8];
        snprintf(session, sizeof session, "s%u", i);
        join(0, session);
    }
    hall_forget(&hall);
    for (unsigned i = 0; i < 1000; i++)
        hall_inject(&hall, "{\"o\":\"x\",\"op\":\"remove\",\"sessionId\":\"s3\"}", NULL);
    assert_int_equal(znl_roster_count(hall.rosters[0], znl_frame_text(ROOM)), 10);
    assert_int_equal(counters(0).disowned, 1000);
    assert_int_equal(hall.published, ZNL_ROSTER_REPAIRS);
}

/* --- the bus comes and goes ------------------------------------------------------------------------ */

static void after_a_reconnect_all_is_there_again_at_once(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    join(1, "s2");
    pass(T);
    hall_connect(&hall, 0, 0);
    join(0, "s3");
    leave(0, "s1");
    join(1, "s4");
    leave(1, "s2");
    assert_view(0, "s2:u:instB s3:u:instA");
    assert_true(counters(0).unsent >= 2);
    pass(T / 4);
    hall_forget(&hall);
    hall_connect(&hall, 0, 1);
    assert_int_equal(published("sync_request"), 1);
    assert_int_equal(published("heartbeat"), 1);
    pass(ZNL_ROSTER_SYNC_DELAY_MS);
    assert_view(0, "s3:u:instA s4:u:instB");
    assert_view(1, "s4:u:instB s3:u:instA");
    assert_int_equal(hall.events[0].partial, 0);
}

static void away_for_long_it_is_partial(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    join(1, "s2");
    hall_connect(&hall, 0, 0);
    pass(T - 1);
    assert_false(znl_roster_is_partial(hall.rosters[0]));
    pass(1);
    assert_true(znl_roster_is_partial(hall.rosters[0]));
    assert_int_equal(hall.events[0].partial, 1);
    assert_view(0, "s1:u:instA");
    hall_connect(&hall, 0, 1);
    assert_true(znl_roster_is_partial(hall.rosters[0]));
    pass(ZNL_ROSTER_SETTLE_MS);
    assert_false(znl_roster_is_partial(hall.rosters[0]));
    assert_string_equal(hall.events[0].last, "partial 0");
    assert_view(0, "s1:u:instA s2:u:instB");
    assert_view(1, "s2:u:instB s1:u:instA");
}

static void a_bus_without_room_gets_the_rest_later(void **state)
{
    (void)state;
    start(0);
    for (unsigned i = 0; i < 2000; i++) {
        char session[16];
        snprintf(session, sizeof session, "session%u", i);
        join(0, session);
    }
    start(1);
    hall.err = ZNL_E_BUSY;
    pass(ZNL_ROSTER_SYNC_DELAY_MS + 10);
    hall.err = 0;
    pass(ZNL_ROSTER_BUSY_MS);
    assert_int_equal(znl_roster_count(hall.rosters[1], znl_frame_text(ROOM)), 2000);
}

/* --- lists ----------------------------------------------------------------------------------------- */

static void lists_are_split_and_spread(void **state)
{
    (void)state;
    hall.max_payload = 4096;
    start(0);
    for (unsigned i = 0; i < 500; i++) {
        char session[16];
        snprintf(session, sizeof session, "session%u", i);
        join(0, session);
    }
    pass(2 * T);
    hall_forget(&hall);
    /* Every member is listed at least once per heartbeat interval, in messages below the limit. */
    unsigned at_once = 0, before = 0;
    for (unsigned i = 0; i < 100; i++) {
        pass(T / 2 / 100);
        at_once = hall.published - before > at_once ? hall.published - before : at_once;
        before = hall.published;
    }
    assert_true(at_once <= 2);
    for (unsigned i = 0; i < 500; i++) {
        char session[32];
        unsigned seen = 0;
        snprintf(session, sizeof session, "\"session%u\"", i);
        for (unsigned at = 0; at < hall.published; at++)
            seen += strstr(hall.texts[at], session) != NULL;
        assert_true(seen >= 1);
    }
    for (unsigned at = 0; at < hall.published; at++)
        assert_true(strlen(hall.texts[at]) <= 4096);
    assert_int_equal(counters(0).too_big, 0);
}

/* The number of the last session that the message lists; -1: none. */
static long last_listed(const char *text)
{
    long number = -1;
    for (const char *at = text; (at = strstr(at, "\"sessionId\":\"session")) != NULL; at++)
        number = strtol(at + strlen("\"sessionId\":\"session"), NULL, 10);
    return number;
}

/* Time goes on; after each part of a list the member leaves with which the next one would begin. Returns how many. */
static unsigned leave_before_each_part(uint64_t ms)
{
    char session[32];
    unsigned left = 0;
    hall_forget(&hall);
    for (uint64_t end_ms = znl_clock_mono_ms() + ms; znl_clock_mono_ms() < end_ms;) {
        pass(1);
        long next = hall.published > 0 ? last_listed(hall.texts[hall.published - 1]) : -1;
        for (long at = next + 1, is_left = next < 0; !is_left && at < 1000; at++) {
            snprintf(session, sizeof session, "session%ld", at);
            is_left = hall_leave(&hall, 0, session);
            left += (unsigned)is_left;
        }
        hall_forget(&hall); /* what was said of the leave, too */
    }
    return left;
}

static void members_may_leave_before_they_are_listed(void **state)
{
    (void)state;
    hall.max_payload = 1024;
    start(0);
    start(1);
    for (unsigned i = 0; i < 1000; i++) {
        char session[16];
        snprintf(session, sizeof session, "session%u", i);
        join(0, session);
    }
    pass(2 * T);
    /* Lists go to all, spread over each interval. */
    hall_inject(&hall, "{\"o\":\"orig\",\"op\":\"heartbeat\",\"members\":[]}", NULL);
    pass(T / 2);
    unsigned left = leave_before_each_part(T);
    assert_true(left > 20);
    pass(T);
    assert_int_equal(counters(1).missing, 0);
    assert_int_equal(counters(1).skipped, 0);
    assert_int_equal(znl_roster_count(hall.rosters[1], znl_frame_text(ROOM)), 1000 - left);
    /* An answer to one, in bursts. */
    pass(3 * T);
    start(2);
    unsigned more = leave_before_each_part(2 * ZNL_ROSTER_SYNC_DELAY_MS);
    assert_true(more > 0);
    hall_settle(&hall);
    assert_int_equal(counters(2).missing, 0);
    assert_int_equal(counters(2).skipped, 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(
                znl_roster_count(hall.rosters[i], znl_frame_text(ROOM)), 1000 - left - more);
}

static void an_id_with_escapes_leaves_room_for_members(void **state)
{
    (void)state;
    char origin[201];
    memset(origin, 1, sizeof origin - 1); /* six characters each */
    origin[sizeof origin - 1] = 0;
    hall.max_payload = 2048;
    const znl_roster_options options = {.subject = HALL_SUBJECT, .origin = origin, .ttl_ms = T};
    znl_roster_start(hall_open_with(&hall, 0, &options));
    for (unsigned i = 0; i < 100; i++) {
        char session[16];
        snprintf(session, sizeof session, "session%u", i);
        join(0, session);
    }
    start(1);
    pass(T);
    assert_int_equal(znl_roster_count(hall.rosters[1], znl_frame_text(ROOM)), 100);
    assert_int_equal(counters(0).unsent, 0);
}

static void a_member_that_no_message_can_hold_stays_here(void **state)
{
    (void)state;
    char big[1500];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    hall.max_payload = 1024;
    start(0);
    start(1);
    join(0, "small");
    join(0, big);
    assert_int_equal(znl_roster_count(hall.rosters[0], znl_frame_text(ROOM)), 2);
    assert_int_equal(counters(0).too_big, 1);
    hall_inject(&hall, "{\"o\":\"orig\",\"op\":\"sync_request\"}", NULL);
    pass(2 * T);
    assert_view(1, "small:u:instA");
}

static void what_nobody_was_told_is_in_no_digest(void **state)
{
    (void)state;
    char big[1500];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    hall.max_payload = 1024;
    start(0);
    start(1);
    join(0, "small");
    join(0, big);
    pass(4 * T);
    assert_view(1, "small:u:instA");
    hall_forget(&hall);
    znl_roster_counters before = counters(1);
    pass(10 * T);
    assert_int_equal(counters(1).unmatched, before.unmatched);
    assert_int_equal(published("ask"), 0);
    assert_int_equal(published("heartbeat"), 0);
    /* A server that takes more: it is told, and counts. */
    hall_connect(&hall, 0, 0);
    hall.max_payload = 1024 * 1024;
    hall_connect(&hall, 0, 1);
    pass(4 * T);
    assert_int_equal(znl_roster_count(hall.rosters[1], znl_frame_text(ROOM)), 2);
    before = counters(1);
    pass(4 * T);
    assert_int_equal(counters(1).unmatched, before.unmatched);
    leave(0, big);
    assert_view(1, "small:u:instA");
}

static void ten_thousand_members(void **state)
{
    (void)state;
    char session[64];
    start(0);
    start(1);
    for (unsigned i = 0; i < 10000; i++) {
        snprintf(session, sizeof session, "a-session-with-a-long-name-%u", i);
        assert_int_equal(
                hall_join(&hall, 0, ROOM, session, "user-name-10", "{\"nick\":\"Ann\"}"), 0);
    }
    hall_settle(&hall);
    start(2);
    pass(ZNL_ROSTER_SYNC_DELAY_MS + 10 * ZNL_ROSTER_BURST_MS);
    assert_int_equal(znl_roster_count(hall.rosters[2], znl_frame_text(ROOM)), 10000);
    pass(3 * T);
    for (unsigned i = 1; i < 3; i++) {
        assert_int_equal(znl_roster_count(hall.rosters[i], znl_frame_text(ROOM)), 10000);
        assert_int_equal(hall.events[i].removed, 0);
        assert_int_equal(counters(i).unmatched, 0);
    }
    hall_close(&hall, 0);
    pass(T);
    for (unsigned i = 1; i < 3; i++) {
        assert_int_equal(znl_roster_count(hall.rosters[i], (znl_frame){0}), 0);
        assert_int_equal(hall.events[i].removed, 10000);
    }
}

static void what_is_expired_is_not_shown_before_the_timer_runs(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    hall_close(&hall, 0);
    znl_clock_advance(T);
    znl_loop_clock_changed(hall.loop);
    assert_view(1, "");
    assert_int_equal(znl_roster_count(hall.rosters[1], (znl_frame){0}), 0);
    assert_int_equal(znl_roster_count(hall.rosters[1], znl_frame_text(ROOM)), 0);
    assert_null(znl_roster_find(hall.rosters[1], znl_frame_text("s1")));
    assert_null(znl_roster_next_owner(hall.rosters[1], NULL));
    assert_int_equal(hall.events[1].removed, 0);
    pass(0);
    assert_int_equal(hall.events[1].removed, 1);
}

static void after_a_stall_what_has_arrived_is_read_first(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    /* All stands still, and then the timers of both run before anything is read. */
    znl_clock_advance(2 * T);
    znl_loop_clock_changed(hall.loop);
    znl_wheel_advance(znl_loop_wheel(hall.loop), znl_clock_mono_ms());
    assert_int_equal(hall.events[1].removed, 0);
    pass(T);
    assert_int_equal(hall.events[1].removed, 0);
    assert_view(1, "s1:u:instA");
    /* Nothing had arrived of one that is gone. */
    hall_close(&hall, 0);
    znl_clock_advance(2 * T);
    znl_loop_clock_changed(hall.loop);
    pass(ZNL_ROSTER_STALL_MS);
    assert_int_equal(hall.events[1].removed, 1);
    assert_view(1, "");
}

static void all_are_asked_once_a_second(void **state)
{
    (void)state;
    start(0);
    hall_forget(&hall);
    for (unsigned i = 0; i < 3000; i++) {
        znl_roster_sync(hall.rosters[0]);
        pass(1);
    }
    assert_int_equal(published("sync_request"), 3);
}

static void a_reconnect_does_not_wait_for_its_turn_to_ask(void **state)
{
    (void)state;
    start(0);
    znl_roster_sync(hall.rosters[0]); /* too early: later */
    hall_connect(&hall, 0, 0);
    hall_forget(&hall);
    hall_connect(&hall, 0, 1);
    assert_int_equal(published("sync_request"), 1);
}

/* --- limits ---------------------------------------------------------------------------------------- */

static void one_owner_leaves_room_for_others(void **state)
{
    (void)state;
    const znl_roster_options options = {
            .subject = HALL_SUBJECT, .origin = "instA", .ttl_ms = T, .max_members = 8};
    hall_open_with(&hall, 0, &options);
    znl_roster_start(hall.rosters[0]);
    for (unsigned i = 0; i < 100; i++) {
        char text[160];
        snprintf(text, sizeof text,
                "{\"o\":\"x\",\"op\":\"add\",\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":\"x%u\"}}",
                i);
        hall_inject(&hall, text, NULL);
    }
    assert_int_equal(znl_roster_count(hall.rosters[0], (znl_frame){0}), 6);
    assert_int_equal(counters(0).refused, 94);
    hall_inject(&hall,
            "{\"o\":\"y\",\"op\":\"add\",\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":\"y\"}}",
            NULL);
    assert_non_null(znl_roster_find(hall.rosters[0], znl_frame_text("y")));
    /* And for our own. */
    for (unsigned i = 0; i < 8; i++) {
        char session[8];
        snprintf(session, sizeof session, "s%u", i);
        assert_int_equal(hall_join(&hall, 0, ROOM, session, NULL, NULL), 0);
    }
    assert_int_equal(hall_join(&hall, 0, ROOM, "s8", NULL, NULL), ZNL_E_LIMIT);
    assert_int_equal(hall_join(&hall, 0, ROOM, "s7", "again", NULL), 0);
}

static void their_bytes_are_bounded(void **state)
{
    (void)state;
    const znl_roster_options options = {.subject = HALL_SUBJECT,
            .origin = "instA",
            .ttl_ms = T,
            .max_member_bytes = 2000,
            .max_bytes = 16 * 1024};
    hall_open_with(&hall, 0, &options);
    znl_roster_start(hall.rosters[0]);
    for (unsigned i = 0; i < 100; i++) {
        char text[1400];
        snprintf(text, sizeof text,
                "{\"o\":\"x%u\",\"op\":\"add\",\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":\"x%u\","
                "\"metadata\":{\"a\":\"%1000u\"}}}",
                i / 50, i, i);
        hall_inject(&hall, text, NULL);
    }
    size_t count = znl_roster_count(hall.rosters[0], (znl_frame){0});
    assert_in_range(count, 8, 16);
    assert_int_equal(counters(0).refused, 100 - count);
    assert_non_null(znl_roster_find(hall.rosters[0], znl_frame_text("x50"))); /* of another */
    /* What grows is refused too, what shrinks is not. */
    char grown[2400];
    snprintf(grown, sizeof grown,
            "{\"o\":\"x0\",\"op\":\"add\",\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":\"x0\","
            "\"userId\":\"grown\",\"metadata\":{\"a\":\"%1900u\"}}}",
            0);
    hall_inject(&hall, grown, NULL);
    assert_int_equal(counters(0).refused, 101 - count);
    assert_false(hall_view_contains(&hall, 0, ROOM, "x0:grown:x0"));
    hall_inject(&hall,
            "{\"o\":\"x0\",\"op\":\"add\",\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":\"x0\","
            "\"userId\":\"small\"}}",
            NULL);
    assert_true(hall_view_contains(&hall, 0, ROOM, "x0:small:x0"));
}

static void the_number_of_instances_is_bounded(void **state)
{
    (void)state;
    start(0);
    hall_inject(&hall,
            "{\"o\":\"real\",\"op\":\"add\",\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":\"a\"}}",
            NULL);
    for (unsigned i = 0; i < 2 * ZNL_ROSTER_OWNERS_MAX; i++) {
        char text[64];
        snprintf(
                text, sizeof text, "{\"o\":\"fake%u\",\"op\":\"heartbeat\",\"members\":[]}", i);
        hall_inject(&hall, text, NULL);
    }
    size_t count = 0;
    const znl_owner *owner = NULL;
    while ((owner = znl_roster_next_owner(hall.rosters[0], owner)) != NULL)
        count++;
    assert_int_equal(count, ZNL_ROSTER_OWNERS_MAX);
    assert_non_null(znl_roster_find(hall.rosters[0], znl_frame_text("a")));
}

static void asks_are_bounded_too(void **state)
{
    (void)state;
    start(0);
    pass(2 * ZNL_ROSTER_SYNC_MS);
    hall_forget(&hall);
    for (unsigned i = 0; i < 1000; i++) {
        char text[96];
        snprintf(text, sizeof text,
                "{\"o\":\"fake%u\",\"op\":\"remove\",\"sessionId\":\"a\",\"v\":2,\"n\":%u}",
                i % 500, i * 7 + 1);
        hall_inject(&hall, text, NULL);
    }
    assert_in_range(published("ask"), 1, ZNL_ROSTER_ASKS);
    assert_int_equal(counters(0).gaps, 500);
}

/* --- the end --------------------------------------------------------------------------------------- */

static void after_the_stop_nothing_is_said(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    join(1, "s2");
    hall_forget(&hall);
    znl_roster_stop(hall.rosters[0]);
    znl_roster_stop(hall.rosters[0]);
    assert_int_equal(published("remove"), 1);
    assert_int_equal(hall.published, 1);
    assert_int_equal(hall.events[0].removed, 2);
    assert_int_equal(hall.events[0].cause, ZNL_ROSTER_STOPPED);
    hall_settle(&hall);
    assert_view(1, "s2:u:instB");
    assert_view(0, "");
    assert_int_equal(hall_join(&hall, 0, ROOM, "s3", NULL, NULL), ZNL_E_STOPPED);
    assert_int_equal(hall_leave(&hall, 0, "s1"), 0);
    znl_roster_start(hall.rosters[0]);
    znl_roster_connected(hall.rosters[0], 0);
    znl_roster_connected(hall.rosters[0], 1);
    znl_roster_sync(hall.rosters[0]);
    hall_inject(&hall, "{\"o\":\"x\",\"op\":\"sync_request\"}", NULL);
    assert_view(0, "");
    pass(3 * T);
    for (unsigned i = 0; i < hall.published && i < HALL_TEXTS; i++)
        assert_true(i == 0 || strstr(hall.texts[i], "\"o\":\"instA\"") == NULL);
}

/* --- what callbacks may do ------------------------------------------------------------------------- */

static znl_roster *lone;
static unsigned called;
static int what;

static int swallow(
        void *user, const char *subject, const char *reply, const void *data, size_t size)
{
    (void)user;
    (void)subject;
    (void)reply;
    (void)data;
    (void)size;
    return 0;
}

static size_t no_limit(void *user)
{
    (void)user;
    return 0;
}

static void interfere(void *user, const znl_roster_event *event)
{
    static const char empty[] = "{\"o\":\"x\",\"op\":\"heartbeat\",\"members\":[]}";
    (void)user;
    if (called++ > 0 && what != 'f')
        return;
    if (what == 'f')
        znl_roster_free(lone);
    else if (what == 's')
        znl_roster_stop(lone);
    else if (what == 'j')
        znl_roster_join(lone, event->ns, event->session_id, event->user_id, (znl_frame){0});
    else
        znl_roster_receive(lone, empty, sizeof empty - 1, NULL);
}

static void callbacks_may_do_anything(void **state)
{
    (void)state;
    static const znl_bus bus = {swallow, no_limit};
    static const char list[] =
            "{\"o\":\"x\",\"op\":\"heartbeat\",\"members\":[{\"ns\":\"a\",\"sessionId\":"
            "\"1\"},{\"ns\":\"a\",\"sessionId\":\"2\"},{\"ns\":\"a\",\"sessionId\":\"3\"}]}";
    static const struct {
        int what;
        unsigned called; /* once that is over */
    } cases[] = {{'f', 1}, {'s', 6}, {'j', 4}, {'r', 6}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const znl_roster_options options = {.subject = "s", .ttl_ms = T};
        called = 0;
        what = cases[i].what;
        assert_int_equal(
                znl_roster_new(&lone, hall.loop, &options, &bus, NULL, interfere, NULL), 0);
        znl_roster_start(lone);
        znl_roster_receive(lone, list, sizeof list - 1, NULL);
        assert_int_equal(called, cases[i].called);
        what = 0;
        if (cases[i].what != 'f')
            znl_roster_free(lone);
    }
}

/* --- memory ---------------------------------------------------------------------------------------- */

static void memory_may_be_short_anywhere(void **state)
{
    (void)state;
    long counted = LONG_MAX;
    for (long n = 0; counted > n; n++) {
        start(0);
        start(1);
        znl_alloc_fail_after(n);
        hall_join(&hall, 0, ROOM, "s1", "u", "{}");
        hall_join(&hall, 1, ROOM, "s1", "u", NULL);
        hall_join(&hall, 1, "/ws/news", "s2", "u", NULL);
        hall_settle(&hall);
        hall_join(&hall, 1, ROOM, "s2", "w", NULL);
        hall_leave(&hall, 1, "s1");
        hall_settle(&hall);
        counted = znl_alloc_count();
        znl_alloc_fail_after(-1);
        /* With memory again, all agree. */
        hall_join(&hall, 0, ROOM, "s1", "u", NULL);
        hall_join(&hall, 1, ROOM, "s2", "u", NULL);
        pass(2 * T);
        assert_true(hall_view_contains(&hall, 0, ROOM, "s1:u:instA"));
        assert_true(hall_view_contains(&hall, 0, ROOM, "s2:u:instB"));
        assert_true(hall_view_contains(&hall, 1, ROOM, "s1:u:instA"));
        assert_true(hall_view_contains(&hall, 1, ROOM, "s2:u:instB"));
        hall_close(&hall, 0);
        hall_close(&hall, 1);
    }
}

#define STAGED(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
            STAGED(joins_and_leaves_are_seen_elsewhere),
            STAGED(a_new_instance_gets_all_soon),
            STAGED(what_joins_before_the_start_is_told_then),
            STAGED(a_killed_instance_is_gone_after_its_time),
            STAGED(joining_again_is_an_update),
            STAGED(an_update_is_no_newer_join),
            STAGED(what_cannot_join_is_refused),
            STAGED(times_and_names_have_bounds),
            STAGED(a_lost_join_is_asked_for_when_the_next_message_comes),
            STAGED(what_the_bus_did_not_take_is_a_gap_too),
            STAGED(what_happens_is_counted),
            STAGED(a_lost_leave_is_noticed_by_the_digest),
            STAGED(a_list_that_is_refused_is_asked_for_less_often),
            STAGED(a_digest_is_asked_for_until_the_list_comes),
            STAGED(a_part_that_is_lost_deletes_nothing),
            STAGED(parts_that_do_not_fit_make_no_list),
            STAGED(a_list_without_memory_for_it_deletes_nothing),
            STAGED(an_answer_that_is_overtaken_takes_nothing_back),
            STAGED(among_ours_digests_replace_lists_until_an_original_comes),
            STAGED(alone_it_lists_as_originals_do),
            STAGED(heartbeats_are_never_late_and_not_in_step),
            STAGED(answers_do_not_come_all_at_once),
            STAGED(an_originals_list_is_whole),
            STAGED(a_message_without_origin_is_no_echo),
            STAGED(many_requests_get_one_answer_a_second),
            STAGED(many_requests_of_ours_are_bounded_too),
            STAGED(requests_of_ours_are_answered_to_them_alone),
            STAGED(the_newer_join_wins),
            STAGED(a_loser_that_stops_takes_nothing_along),
            STAGED(the_loser_has_it_again_when_the_winner_goes),
            STAGED(a_session_that_moves_wins_against_a_clock_that_is_ahead),
            STAGED(at_the_same_time_the_greater_id_wins),
            STAGED(an_original_that_joins_displaces),
            STAGED(ours_takes_nothing_over_without_a_time),
            STAGED(a_time_that_cannot_be_passed_is_told_each_time),
            STAGED(numbers_at_their_end_lose_nothing),
            STAGED(a_flood_of_removes_brings_few_answers),
            STAGED(after_a_reconnect_all_is_there_again_at_once),
            STAGED(away_for_long_it_is_partial),
            STAGED(a_bus_without_room_gets_the_rest_later),
            STAGED(lists_are_split_and_spread),
            STAGED(members_may_leave_before_they_are_listed),
            STAGED(an_id_with_escapes_leaves_room_for_members),
            STAGED(a_member_that_no_message_can_hold_stays_here),
            STAGED(what_nobody_was_told_is_in_no_digest),
            STAGED(ten_thousand_members),
            STAGED(what_is_expired_is_not_shown_before_the_timer_runs),
            STAGED(after_a_stall_what_has_arrived_is_read_first),
            STAGED(all_are_asked_once_a_second),
            STAGED(a_reconnect_does_not_wait_for_its_turn_to_ask),
            STAGED(one_owner_leaves_room_for_others),
            STAGED(their_bytes_are_bounded),
            STAGED(the_number_of_instances_is_bounded),
            STAGED(asks_are_bounded_too),
            STAGED(after_the_stop_nothing_is_said),
            STAGED(callbacks_may_do_anything),
            STAGED(memory_may_be_short_anywhere),
    };
    return cmocka_run_group_tests_name("roster", tests, NULL, NULL);
}
