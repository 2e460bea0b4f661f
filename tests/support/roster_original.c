/* roster_original.c - see roster_original.h. SPDX-License-Identifier: MIT */
#include "support/roster_original.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#define ENTRIES 1024

typedef struct entry {
    char session[64], owner[64];
    cJSON *member; /* owned */
    uint64_t expires_ms;
} entry;

struct roster_original {
    char origin[64];
    uint32_t ttl_ms;
    void (*publish)(void *user, const char *text);
    void *user;
    entry view[ENTRIES];
    size_t count;
    entry held[ENTRIES];
    size_t held_count;
    uint64_t heartbeat_at_ms, sweep_at_ms;
};

static entry *find(entry *entries, size_t count, const char *session)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(entries[i].session, session) == 0)
            return &entries[i];
    return NULL;
}

static void put(entry *entries, size_t *count, const cJSON *member, const char *owner,
        uint64_t expires_ms)
{
    const char *session = cJSON_GetStringValue(
            cJSON_GetObjectItemCaseSensitive(member, "sessionId"));
    entry *at = find(entries, *count, session);
    if (at == NULL) {
        assert_true(*count < ENTRIES);
        at = &entries[(*count)++];
        *at = (entry){0};
    }
    cJSON *copy = cJSON_Duplicate(member, 1);
    cJSON_Delete(at->member);
    at->member = copy;
    snprintf(at->session, sizeof at->session, "%s", session);
    snprintf(at->owner, sizeof at->owner, "%s", owner);
    at->expires_ms = expires_ms;
}

static void drop(entry *entries, size_t *count, entry *at)
{
    cJSON_Delete(at->member);
    *at = entries[--*count];
}

roster_original *original_new(const char *origin, uint32_t ttl_ms,
        void (*publish)(void *user, const char *text), void *user)
{
    roster_original *original = calloc(1, sizeof *original);
    assert_non_null(original);
    snprintf(original->origin, sizeof original->origin, "%s", origin);
    original->ttl_ms = ttl_ms;
    original->publish = publish;
    original->user = user;
    return original;
}

void original_free(roster_original *original)
{
    if (original == NULL)
        return;
    while (original->count > 0)
        drop(original->view, &original->count, &original->view[0]);
    while (original->held_count > 0)
        drop(original->held, &original->held_count, &original->held[0]);
    free(original);
}

static void say(roster_original *original, cJSON *message)
{
    char *text = cJSON_PrintUnformatted(message);
    original->publish(original->user, text);
    cJSON_free(text);
    cJSON_Delete(message);
}

static cJSON *message_of(const roster_original *original, const char *op)
{
    cJSON *message = cJSON_CreateObject();
    cJSON_AddStringToObject(message, "o", original->origin);
    cJSON_AddStringToObject(message, "op", op);
    return message;
}

static void heartbeat(roster_original *original)
{
    cJSON *message = message_of(original, "heartbeat");
    cJSON *members = cJSON_AddArrayToObject(message, "members");
    for (size_t i = 0; i < original->held_count; i++)
        cJSON_AddItemToArray(members, cJSON_Duplicate(original->held[i].member, 1));
    say(original, message);
}

void original_start(roster_original *original, uint64_t now_ms)
{
    original->heartbeat_at_ms = now_ms + original->ttl_ms / 2;
    original->sweep_at_ms = now_ms + original->ttl_ms;
    say(original, message_of(original, "sync_request"));
    heartbeat(original);
}

void original_tick(roster_original *original, uint64_t now_ms)
{
    if (now_ms >= original->heartbeat_at_ms) {
        original->heartbeat_at_ms = now_ms + original->ttl_ms / 2;
        for (size_t i = 0; i < original->held_count; i++)
            put(original->view, &original->count, original->held[i].member, original->origin,
                    now_ms + original->ttl_ms);
        heartbeat(original);
    }
    if (now_ms >= original->sweep_at_ms) {
        original->sweep_at_ms = now_ms + original->ttl_ms;
        for (size_t i = original->count; i-- > 0;)
            if (original->view[i].expires_ms < now_ms &&
                    strcmp(original->view[i].owner, original->origin) != 0)
                drop(original->view, &original->count, &original->view[i]);
    }
}

static void take(
        roster_original *original, const cJSON *member, const char *owner, uint64_t now_ms)
{
    if (cJSON_IsString(cJSON_GetObjectItemCaseSensitive(member, "ns")) &&
            cJSON_IsString(cJSON_GetObjectItemCaseSensitive(member, "sessionId")))
        put(original->view, &original->count, member, owner, now_ms + original->ttl_ms);
}

void original_receive(roster_original *original, const void *data, size_t size, uint64_t now_ms)
{
    cJSON *message = cJSON_ParseWithLength(data, size);
    const char *owner = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(message, "o"));
    const char *op = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(message, "op"));
    if (op != NULL && owner != NULL && strcmp(owner, original->origin) != 0) {
        if (strcmp(op, "add") == 0) {
            take(original, cJSON_GetObjectItemCaseSensitive(message, "member"), owner, now_ms);
        } else if (strcmp(op, "heartbeat") == 0) {
            const cJSON *member;
            cJSON_ArrayForEach(member, cJSON_GetObjectItemCaseSensitive(message, "members"))
                    take(original, member, owner, now_ms);
        } else if (strcmp(op, "remove") == 0) {
            entry *at = find(original->view, original->count,
                    cJSON_GetStringValue(
                            cJSON_GetObjectItemCaseSensitive(message, "sessionId")));
            if (at != NULL)
                drop(original->view, &original->count, at);
        } else if (strcmp(op, "sync_request") == 0) {
            heartbeat(original);
        }
    }
    cJSON_Delete(message);
}

void original_join(roster_original *original, const char *ns, const char *session,
        const char *user_id, uint64_t now_ms)
{
    cJSON *member = cJSON_CreateObject();
    cJSON_AddStringToObject(member, "ns", ns);
    cJSON_AddStringToObject(member, "sessionId", session);
    cJSON_AddStringToObject(member, "userId", user_id);
    put(original->held, &original->held_count, member, original->origin, 0);
    put(original->view, &original->count, member, original->origin, now_ms + original->ttl_ms);
    cJSON *message = message_of(original, "add");
    cJSON_AddItemToObject(message, "member", member);
    say(original, message);
}

void original_leave(roster_original *original, const char *session)
{
    entry *held = find(original->held, original->held_count, session);
    entry *shown = find(original->view, original->count, session);
    if (shown != NULL)
        drop(original->view, &original->count, shown);
    if (held == NULL)
        return;
    drop(original->held, &original->held_count, held);
    cJSON *message = message_of(original, "remove");
    cJSON_AddStringToObject(message, "sessionId", session);
    say(original, message);
}

size_t original_count(const roster_original *original)
{
    return original->count;
}

const char *original_owner(const roster_original *original, const char *session)
{
    const entry *at = find((entry *)original->view, original->count, session);
    return at != NULL ? at->owner : NULL;
}

int original_holds(const roster_original *original, const char *session)
{
    return find((entry *)original->held, original->held_count, session) != NULL;
}
