/* The recorded traffic of rosters against one of ours in the place of an instance: what it shows, what it answers.
 * Where it does better than the recorded peer (spec, section 12), the difference stands here.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/limits.h"
#include "support/roster_stage.h"
#include "support/vector.h"

#define A 0u
#define B 1u
#define T 30000u

static roster_stage hall;

static void begin(unsigned i)
{
    hall_begin(&hall);
    znl_roster_start(hall_open(&hall, i, T));
    hall_settle(&hall);
    hall_forget(&hall);
}

static void end(void)
{
    hall_end(&hall);
    znl_vector_end();
}

/* --- what is shown --------------------------------------------------------------------------------- */

static int is_text(const cJSON *object, const char *key, znl_frame text)
{
    const char *expected = znl_vector_text(object, key);
    if (expected == NULL)
        return text.data == NULL;
    return znl_frame_equal(text, znl_frame_text(expected));
}

static void check_metadata(const cJSON *expected, znl_frame text)
{
    const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(expected, "metadata");
    assert_int_equal(metadata != NULL, text.data != NULL);
    if (metadata == NULL)
        return;
    cJSON *parsed = cJSON_ParseWithLength((const char *)text.data, text.size);
    assert_true(cJSON_Compare(parsed, metadata, 1));
    cJSON_Delete(parsed);
}

static void check_view(unsigned i, const cJSON *view)
{
    size_t count = 0;
    for (const cJSON *item = view->child; item != NULL; item = item->next) {
        const znl_member *member = znl_roster_find(
                hall.rosters[i], znl_frame_text(znl_vector_text(item, "sessionId")));
        assert_non_null(member);
        assert_true(is_text(item, "ns", member->session.ns));
        assert_true(is_text(item, "userId", member->session.user_id));
        assert_true(is_text(item, "instanceId", znl_roster_owner_id(hall.rosters[i], member)));
        check_metadata(item, member->session.metadata);
        count++;
    }
    assert_int_equal(znl_roster_count(hall.rosters[i], (znl_frame){0}), count);
}

/* roster(ns): in any order, without the owner. */
static void check_roster(unsigned i, const char *ns, const cJSON *list)
{
    size_t count = 0;
    for (const cJSON *item = list->child; item != NULL; item = item->next) {
        const znl_member *member = znl_roster_find(
                hall.rosters[i], znl_frame_text(znl_vector_text(item, "sessionId")));
        assert_non_null(member);
        assert_true(znl_frame_equal(member->session.ns, znl_frame_text(ns)));
        assert_true(is_text(item, "userId", member->session.user_id));
        check_metadata(item, member->session.metadata);
        count++;
    }
    assert_int_equal(znl_roster_count(hall.rosters[i], znl_frame_text(ns)), count);
}

/* --- what is published ----------------------------------------------------------------------------- */

/* Ours with what only we write taken out. */
static cJSON *plain(const char *text)
{
    static const char *const marks[] = {"v", "n", "gen", "part", "parts", "since"};
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        cJSON_DeleteItemFromObjectCaseSensitive(json, marks[i]);
    return json;
}

static void check_published(unsigned at, const char *recorded)
{
    assert_true(at < hall.published);
    assert_string_equal(hall.subjects[at], HALL_SUBJECT);
    cJSON *actual = plain(hall.texts[at]), *expected = cJSON_Parse(recorded);
    assert_true(cJSON_Compare(actual, expected, 1));
    cJSON_Delete(actual);
    cJSON_Delete(expected);
}

/* --- an original and one of ours, by turns --------------------------------------------------------- */

/* What the application did, told by the message it led to. */
static void act(unsigned i, const cJSON *json)
{
    const cJSON *member = znl_vector_object(json, "member");
    if (member == NULL) {
        assert_int_equal(hall_leave(&hall, i, znl_vector_text(json, "sessionId")), 1);
        return;
    }
    const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(member, "metadata");
    char *text = metadata != NULL ? cJSON_PrintUnformatted(metadata) : NULL;
    assert_int_equal(hall_join(&hall, i, znl_vector_text(member, "ns"),
                             znl_vector_text(member, "sessionId"),
                             znl_vector_text(member, "userId"), text),
            0);
    cJSON_free(text);
}

/* Messages of `self` come from ours, those of others are handed to it. */
static void play(unsigned i, const char *self, const cJSON *object)
{
    const cJSON *item;
    ZNL_VECTOR_EACH(item, object, "messages")
    {
        const char *text = znl_vector_text(item, "text");
        const cJSON *json = znl_vector_object(item, "json");
        hall_forget(&hall);
        if (strcmp(znl_vector_text(json, "o"), self) != 0) {
            hall_inject(&hall, text, NULL);
            continue;
        }
        act(i, json);
        assert_int_equal(hall.published, 1);
        check_published(0, text);
    }
}

static void play_delta(unsigned i, const char *self, const char *key)
{
    const cJSON *item;
    unsigned count = 0;
    begin(i);
    ZNL_VECTOR_EACH(item, znl_vector_file("ws-cluster/roster-delta.json"), "cases")
    {
        const char *name = znl_vector_text(item, "case");
        /* Forgetting what another owns cannot be asked of ours. */
        if (strncmp(name, "instA: rosterRemove", 19) == 0) {
            if (i == A)
                assert_int_equal(hall_leave(&hall, A, "s2"), 0);
            count++;
            continue;
        }
        play(i, self, item);
        check_roster(i, "/ws/chat", znl_vector_list(item, key));
        count++;
    }
    assert_int_equal(count, 7);
    end();
}

static void joins_and_leaves_as_the_first(void **state)
{
    (void)state;
    play_delta(A, "instA", "roster_on_instA");
}

static void joins_and_leaves_as_the_second(void **state)
{
    (void)state;
    play_delta(B, "instB", "roster_on_instB");
}

/* --- the start ------------------------------------------------------------------------------------- */

static void start_asks_then_lists(void **state)
{
    (void)state;
    const cJSON *first =
            znl_vector_list(znl_vector_file("ws-cluster/start.json"), "cases")->child;
    hall_begin(&hall);
    znl_roster_start(hall_open(&hall, A, T));
    assert_int_equal(hall.published, 2);
    const cJSON *item;
    unsigned at = 0;
    ZNL_VECTOR_EACH(item, first, "messages")
    {
        check_published(at++, znl_vector_text(item, "text"));
    }
    assert_int_equal(at, 2);
    /* Another starts, and is answered. */
    hall_pass(&hall, ZNL_ROSTER_SYNC_MS, 0);
    hall_forget(&hall);
    at = 0;
    ZNL_VECTOR_EACH(item, first->next, "messages")
    {
        const cJSON *json = znl_vector_object(item, "json");
        if (strcmp(znl_vector_text(json, "o"), "instB") == 0) {
            hall_inject(&hall, znl_vector_text(item, "text"), NULL);
            continue;
        }
        hall_pass(&hall, ZNL_ROSTER_SYNC_DELAY_MS, 0);
        check_published(at++, znl_vector_text(item, "text"));
    }
    assert_int_equal(at, 1);
    assert_int_equal(hall.published, 1);
    end();
}

/* --- others' messages ------------------------------------------------------------------------------ */

/* Views that differ from the recorded one: sessions that ours still shows, or does not show any more, and who has
 * them. After the first of these some show in each case that follows. */
struct difference {
    const char *name;
    const char *view; /* of all namespaces, by session */
};

static const struct difference differences[] = {
        /* A list of an original is always whole: what is not in it is gone (12, 5). */
        {"heartbeat does not delete members that it no longer lists",
                "s1:u1:instA s2:u2:instB s3:u1:instA x1:ux:instX"},
        /* Only the owner takes a session away (12, 2). */
        {"remove by an instance that does not own the session",
                "s1:u1:instA s2:u2:instB s3:u1:instA x1:ux:instX"},
        {"remove of a session that instB holds itself: it disappears until instB's next heartbeat",
                "s1:u1:instA s2:u2:instB s3:u1:instA x1:ux:instX"},
        {"heartbeat that claims a session of instB: ownership goes to the last writer",
                "s1:u1:instA s2:stolen:instY s3:u1:instA x1:ux:instX"},
        {NULL, "s1:u1:instA s2:u2:instB s3:u1:instA x1:ux:instX"},
};

static const char *different_view(const char *name, int *differs)
{
    for (const struct difference *at = differences; at->name != NULL; at++)
        if (strcmp(at->name, name) == 0) {
            *differs = 1;
            return at->view;
        }
    return *differs ? differences[sizeof differences / sizeof differences[0] - 1].view : NULL;
}

static void check_different_view(const char *view)
{
    char copy[256], *rest = copy, *entry;
    size_t count = 0;
    assert_true(strlen(view) < sizeof copy);
    strcpy(copy, view);
    while ((entry = strtok_r(rest, " ", &rest)) != NULL) {
        char shown[64];
        char *id = strtok_r(entry, ":", &entry);
        const znl_member *member = znl_roster_find(hall.rosters[B], znl_frame_text(id));
        assert_non_null(member);
        znl_frame owner = znl_roster_owner_id(hall.rosters[B], member);
        snprintf(shown, sizeof shown, "%.*s:%.*s", (int)member->session.user_id.size,
                (const char *)member->session.user_id.data, (int)owner.size,
                (const char *)owner.data);
        assert_string_equal(shown, entry);
        count++;
    }
    assert_int_equal(znl_roster_count(hall.rosters[B], (znl_frame){0}), count);
}

/* The answers that were recorded of instB come, and nothing else but the session announced again. */
static void check_answers(const cJSON *object, int is_healed)
{
    const cJSON *item;
    unsigned at = 0;
    if (is_healed)
        check_published(at++,
                "{\"o\":\"instB\",\"op\":\"add\",\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":"
                "\"s2\",\"userId\":\"u2\"}}");
    ZNL_VECTOR_EACH(item, object, "answers")
    {
        if (strcmp(znl_vector_text(znl_vector_object(item, "json"), "o"), "instB") != 0)
            continue;
        /* Once a second at most (12, 7). */
        hall_pass(&hall, ZNL_ROSTER_SYNC_MS + ZNL_ROSTER_SYNC_DELAY_MS, 0);
        check_published(at++, znl_vector_text(item, "text"));
    }
    hall_pass(&hall, ZNL_ROSTER_SYNC_MS + ZNL_ROSTER_SYNC_DELAY_MS, 0);
    assert_int_equal(hall.published, at);
}

static void messages_put_on_the_subject_by_hand(void **state)
{
    (void)state;
    const cJSON *item;
    int differs = 0;
    unsigned count = 0;
    begin(B);
    hall_inject(&hall,
            "{\"o\":\"instA\",\"op\":\"heartbeat\",\"members\":[{\"ns\":\"/ws/chat\",\"sessionId\":"
            "\"s1\",\"userId\":\"u1\",\"metadata\":{\"nick\":\"Ann2\"}},{\"ns\":\"/ws/news\","
            "\"sessionId\":\"s3\",\"userId\":\"u1\"}]}",
            NULL);
    hall_join(&hall, B, "/ws/chat", "s2", "u2", NULL);
    /* The first original is answered with a list of its own accord. */
    hall_pass(&hall, ZNL_ROSTER_SYNC_MS + ZNL_ROSTER_SYNC_DELAY_MS, 0);
    ZNL_VECTOR_EACH(item, znl_vector_file("ws-cluster/roster-foreign.json"), "cases")
    {
        const char *name = znl_vector_text(item, "case");
        hall_forget(&hall);
        hall_inject(&hall, znl_vector_text(znl_vector_object(item, "injected"), "text"), NULL);
        check_answers(item, strncmp(name, "remove of a session that instB holds", 36) == 0);
        const char *view = different_view(name, &differs);
        if (view != NULL)
            check_different_view(view);
        else
            check_view(B, znl_vector_list(item, "view_on_instB"));
        count++;
    }
    assert_int_equal(count, 15);
    end();
}

/* --- one session on two instances ------------------------------------------------------------------ */

static void one_session_on_two_instances(void **state)
{
    (void)state;
    const cJSON *cases = znl_vector_list(
            znl_vector_file("ws-cluster/duplicate-session.json"), "cases");
    const cJSON *item = cases->child;
    begin(B);
    play(B, "instB", item); /* it joins at instA */
    check_view(B, znl_vector_list(item, "view_on_instB"));
    item = item->next;
    play(B, "instB", item); /* it joins here */
    check_view(B, znl_vector_list(item, "view_on_instB"));
    const cJSON *mine = znl_vector_list(item, "view_on_instB");
    item = item->next;
    /* instA removes what is ours by now: it stays, and is announced again (12, 2). */
    hall_forget(&hall);
    hall_inject(&hall, znl_vector_text(znl_vector_list(item, "messages")->child, "text"), NULL);
    check_view(B, mine);
    assert_int_equal(hall.published, 1);
    check_published(0,
            "{\"o\":\"instB\",\"op\":\"add\",\"member\":{\"ns\":\"/ws/chat\",\"sessionId\":\"dup\","
            "\"userId\":\"d\"}}");
    check_view(B, znl_vector_list(item->next, "view_on_instB"));
    end();
}

/* --- the stop -------------------------------------------------------------------------------------- */

static void stop_removes_one_after_the_other(void **state)
{
    (void)state;
    const cJSON *item;
    unsigned at = 0;
    begin(A);
    hall_join(&hall, A, "/ws/chat", "s1", "u1", NULL);
    hall_join(&hall, A, "/ws/news", "s3", "u1", NULL);
    hall_join(&hall, A, "/ws/chat", "wa1", "ann", NULL);
    hall_forget(&hall);
    znl_roster_stop(hall.rosters[A]);
    ZNL_VECTOR_EACH(item, znl_vector_file("ws-cluster/stop.json"), "messages")
    {
        check_published(at++, znl_vector_text(item, "text"));
    }
    assert_int_equal(at, 3);
    assert_int_equal(hall.published, 3);
    end();
}

static void heartbeats_list_all_members(void **state)
{
    (void)state;
    const cJSON *item, *file = znl_vector_file("ws-cluster/heartbeat.json");
    uint32_t ttl_ms = (uint32_t)znl_vector_number(file, "ttlMs");
    unsigned count = 0;
    hall_begin(&hall);
    znl_roster_start(hall_open(&hall, A, ttl_ms));
    hall_join(&hall, A, "/ws/chat", "s1", "u1", "{\"nick\":\"Ann\"}");
    hall_join(&hall, A, "/ws/news", "s3", "u1", NULL);
    hall_forget(&hall);
    ZNL_VECTOR_EACH(item, file, "messages")
    {
        const cJSON *json = znl_vector_object(item, "json");
        if (strcmp(znl_vector_text(json, "o"), "instH1") != 0)
            continue;
        hall_pass(&hall, ttl_ms / 2, 0);
        /* Other instances have other names. */
        cJSON *expected = cJSON_Duplicate(json, 1);
        cJSON_ReplaceItemInObjectCaseSensitive(expected, "o", cJSON_CreateString("instA"));
        char *text = cJSON_PrintUnformatted(expected);
        check_published(count++, text);
        cJSON_free(text);
        cJSON_Delete(expected);
    }
    assert_int_equal(count, 2);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(joins_and_leaves_as_the_first),
            cmocka_unit_test(joins_and_leaves_as_the_second),
            cmocka_unit_test(start_asks_then_lists),
            cmocka_unit_test(messages_put_on_the_subject_by_hand),
            cmocka_unit_test(one_session_on_two_instances),
            cmocka_unit_test(stop_removes_one_after_the_other),
            cmocka_unit_test(heartbeats_list_all_members),
    };
    return cmocka_run_group_tests_name("roster vectors", tests, NULL, NULL);
}
