/* shared_test.c - dictionaries that all threads share. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/shared.h"

#include <pthread.h>
#include <stdio.h>

static znl_shared *shared;
static uint64_t now_ms;
static size_t evicted;

static znl_shared *open_with(const char *name, size_t entries, size_t bytes, int evict)
{
    znl_shared_limits limits = {entries, bytes, evict};
    znl_shared *made = NULL;
    assert_int_equal(znl_shared_open(&made, znl_frame_text(name), &limits), 0);
    return made;
}

static int setup(void **state)
{
    (void)state;
    now_ms = 1000;
    shared = open_with("test", 1000, 1u << 20, 1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    znl_alloc_fail_after(-1);
    znl_shared_free_all();
    return 0;
}

static int put_ttl(znl_shared_rule rule, const char *key, double number, uint64_t ttl_ms)
{
    znl_shared_value value = {.type = ZNL_SHARED_NUMBER, .number = number};
    return znl_shared_put(shared, rule, znl_frame_text(key), &value, ttl_ms, now_ms, &evicted);
}

static int put(const char *key, double number)
{
    return put_ttl(ZNL_SHARED_SET, key, number, 0);
}

static int get(const char *key, double *number)
{
    znl_shared_value value = {0};
    int err = znl_shared_get(shared, znl_frame_text(key), now_ms, NULL, 0, &value);
    *number = value.number;
    return err;
}

static void assert_number(const char *key, double expected)
{
    double number = 0;
    assert_int_equal(get(key, &number), 0);
    assert_true(number == expected);
}

static void assert_absent(const char *key)
{
    double number;
    assert_int_equal(get(key, &number), ZNL_E_NOT_FOUND);
}

static size_t used_bytes(void)
{
    znl_shared_stats stats;
    znl_shared_stats_of(shared, &stats);
    return stats.bytes;
}

static void a_name_opens_the_same_dictionary(void **state)
{
    (void)state;
    znl_shared *again = NULL, *other = NULL;
    znl_shared_limits wrong = {999, 1u << 20, 1};
    assert_int_equal(znl_shared_open(&again, znl_frame_text("test"), NULL), 0);
    assert_ptr_equal(again, shared);
    assert_int_equal(znl_shared_open(&other, znl_frame_text("test"), &wrong), ZNL_E_EXISTS);
    assert_int_equal(znl_shared_open(&other, znl_frame_text("other"), NULL), 0);
    assert_ptr_not_equal(other, shared);
    assert_int_equal(znl_shared_limits_of(other).max_entries, ZNL_SHARED_ENTRIES_DEFAULT);
}

static void the_number_of_dictionaries_is_bounded(void **state)
{
    (void)state;
    char name[16];
    znl_shared *made = NULL;
    for (unsigned i = 1; i < ZNL_SHARED_DICTS_MAX; i++) {
        snprintf(name, sizeof name, "d%u", i);
        assert_int_equal(znl_shared_open(&made, znl_frame_text(name), NULL), 0);
    }
    assert_int_equal(znl_shared_open(&made, znl_frame_text("more"), NULL), ZNL_E_LIMIT);
    assert_int_equal(znl_shared_open(&made, znl_frame_text("test"), NULL), 0);
}

static void keeps_numbers_booleans_and_strings(void **state)
{
    (void)state;
    uint8_t buffer[8];
    znl_shared_value value = {.type = ZNL_SHARED_STRING, .text = znl_frame_of("a\0b", 3)};
    znl_frame key = znl_frame_of("k\0y", 3);
    assert_int_equal(
            znl_shared_put(shared, ZNL_SHARED_SET, key, &value, 0, now_ms, &evicted), 0);
    znl_shared_value out = {0};
    assert_int_equal(znl_shared_get(shared, key, now_ms, buffer, sizeof buffer, &out), 0);
    assert_int_equal(out.type, ZNL_SHARED_STRING);
    assert_int_equal(out.text.size, 3);
    assert_memory_equal(out.text.data, "a\0b", 3);
    assert_int_equal(znl_shared_get(shared, key, now_ms, buffer, 2, &out), ZNL_E_TOO_BIG);
    assert_int_equal(out.text.size, 3);
    value = (znl_shared_value){.type = ZNL_SHARED_BOOLEAN, .number = 1};
    assert_int_equal(
            znl_shared_put(shared, ZNL_SHARED_SET, key, &value, 0, now_ms, &evicted), 0);
    assert_int_equal(znl_shared_get(shared, key, now_ms, buffer, sizeof buffer, &out), 0);
    assert_int_equal(out.type, ZNL_SHARED_BOOLEAN);
    assert_true(out.number == 1);
    assert_int_equal(znl_shared_size(shared, now_ms), 1);
    assert_int_equal(used_bytes(), ZNL_SHARED_ENTRY_BYTES + 3);
}

static void add_and_replace_look_first(void **state)
{
    (void)state;
    assert_int_equal(put_ttl(ZNL_SHARED_REPLACE, "k", 1, 0), ZNL_E_NOT_FOUND);
    assert_int_equal(put_ttl(ZNL_SHARED_ADD, "k", 2, 0), 0);
    assert_int_equal(put_ttl(ZNL_SHARED_ADD, "k", 3, 0), ZNL_E_EXISTS);
    assert_number("k", 2);
    assert_int_equal(put_ttl(ZNL_SHARED_REPLACE, "k", 4, 0), 0);
    assert_number("k", 4);
}

static void entries_expire(void **state)
{
    (void)state;
    znl_shared_stats stats;
    assert_int_equal(put_ttl(ZNL_SHARED_SET, "short", 1, 10), 0);
    assert_int_equal(put_ttl(ZNL_SHARED_SET, "long", 2, 100), 0);
    assert_int_equal(put("always", 3), 0);
    now_ms += 9;
    assert_number("short", 1);
    now_ms += 1;
    assert_absent("short");
    assert_int_equal(put_ttl(ZNL_SHARED_ADD, "short", 4, 10), 0); /* counts as absent */
    assert_int_equal(znl_shared_size(shared, now_ms), 3);
    now_ms += 1000;
    assert_int_equal(znl_shared_size(shared, now_ms), 1);
    assert_number("always", 3);
    znl_shared_stats_of(shared, &stats);
    assert_int_equal(stats.expired, 3);
    assert_int_equal(stats.entries, 1);
    assert_int_equal(stats.bytes, ZNL_SHARED_ENTRY_BYTES + 6);
    /* A write without ttl ends the expiry of the one before. */
    assert_int_equal(put_ttl(ZNL_SHARED_SET, "k", 1, 10), 0);
    assert_int_equal(put("k", 2), 0);
    now_ms += 1000;
    assert_number("k", 2);
}

static void incr_counts_and_keeps_the_expiry(void **state)
{
    (void)state;
    double result = 0, init = 10;
    znl_frame key = znl_frame_text("n");
    assert_int_equal(znl_shared_incr(shared, key, 1, NULL, 0, now_ms, &result, &evicted),
            ZNL_E_NOT_FOUND);
    assert_int_equal(znl_shared_incr(shared, key, 2, &init, 50, now_ms, &result, &evicted), 0);
    assert_true(result == 12);
    now_ms += 40;
    assert_int_equal(znl_shared_incr(shared, key, -5, &init, 50, now_ms, &result, &evicted), 0);
    assert_true(result == 7);
    now_ms += 10;
    assert_absent("n");
    znl_shared_value text = {.type = ZNL_SHARED_STRING, .text = znl_frame_text("x")};
    assert_int_equal(
            znl_shared_put(shared, ZNL_SHARED_SET, key, &text, 0, now_ms, &evicted), 0);
    assert_int_equal(znl_shared_incr(shared, key, 1, &init, 0, now_ms, &result, &evicted),
            ZNL_E_INVALID);
}

static void delete_and_flush_give_the_room_back(void **state)
{
    (void)state;
    char key[16];
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "k%d", i);
        assert_int_equal(put(key, i), 0);
    }
    assert_int_equal(znl_shared_delete(shared, znl_frame_text("k7"), now_ms), 0);
    assert_int_equal(znl_shared_delete(shared, znl_frame_text("k7"), now_ms), ZNL_E_NOT_FOUND);
    assert_int_equal(znl_shared_size(shared, now_ms), 99);
    znl_shared_flush(shared);
    assert_int_equal(znl_shared_size(shared, now_ms), 0);
    assert_int_equal(used_bytes(), 0);
}

static void the_least_used_makes_room(void **state)
{
    (void)state;
    char key[16];
    double number;
    znl_shared_stats stats;
    shared = open_with("small", 8, 1u << 20, 1);
    for (int i = 0; i < 8; i++) {
        snprintf(key, sizeof key, "k%d", i);
        assert_int_equal(put(key, i), 0);
        assert_int_equal(evicted, 0);
    }
    assert_int_equal(put("k3", 33), 0); /* overwriting needs no room */
    assert_int_equal(evicted, 0);
    assert_int_equal(put("new", 1), 0);
    assert_int_equal(evicted, 1);
    assert_int_equal(znl_shared_size(shared, now_ms), 8);
    assert_number("new", 1);
    int left = 0;
    for (int i = 0; i < 8; i++) {
        snprintf(key, sizeof key, "k%d", i);
        left += get(key, &number) == 0;
    }
    assert_int_equal(left, 7);
    znl_shared_stats_of(shared, &stats);
    assert_int_equal(stats.evicted, 1);
    /* What expired goes first, and is no eviction. */
    assert_int_equal(znl_shared_delete(shared, znl_frame_text("new"), now_ms), 0);
    assert_int_equal(put_ttl(ZNL_SHARED_SET, "old", 1, 10), 0);
    now_ms += 60;
    assert_int_equal(put("newer", 1), 0);
    assert_int_equal(evicted, 0);
    assert_absent("old");
}

static void within_a_shard_use_decides(void **state)
{
    (void)state;
    char key[16];
    double number;
    const size_t room = 1024 * (ZNL_SHARED_ENTRY_BYTES + 5);
    shared = open_with("use", 10000, room, 1);
    for (int i = 0; i < 1024; i++) {
        snprintf(key, sizeof key, "k%04d", i);
        assert_int_equal(put(key, i), 0);
        assert_int_equal(evicted, 0);
    }
    /* "k0000" is read before each write, and must survive them all. */
    for (int i = 2000; i < 6000; i++) {
        assert_int_equal(get("k0000", &number), 0);
        snprintf(key, sizeof key, "k%04d", i);
        assert_int_equal(put(key, i), 0);
        assert_int_equal(evicted, 1);
        assert_true(used_bytes() <= room);
    }
    assert_number("k0000", 0);
    assert_number("k5999", 5999);
    assert_absent("k0001");
}

static void without_eviction_a_full_dictionary_refuses(void **state)
{
    (void)state;
    shared = open_with("strict", 2, 1u << 20, 0);
    assert_int_equal(put("a", 1), 0);
    assert_int_equal(put_ttl(ZNL_SHARED_SET, "b", 2, 100), 0);
    assert_int_equal(put("c", 3), ZNL_E_NOMEM);
    assert_int_equal(evicted, 0);
    assert_int_equal(put("a", 4), 0);
    assert_number("a", 4);
    assert_number("b", 2);
    now_ms += 100;
    assert_int_equal(put("c", 3), 0); /* the room of the expired one */
    assert_number("c", 3);
}

static void refuses_what_can_never_fit(void **state)
{
    (void)state;
    static char big[8192];
    znl_shared_value value = {.type = ZNL_SHARED_STRING, .text = znl_frame_of(big, sizeof big)};
    shared = open_with("tiny", 100, 4096, 1);
    assert_int_equal(put("kept", 1), 0);
    assert_int_equal(znl_shared_put(shared, ZNL_SHARED_SET, znl_frame_text("k"), &value, 0,
                             now_ms, &evicted),
            ZNL_E_TOO_BIG);
    assert_number("kept", 1);
    /* Growing an entry takes the room of others, never its own. */
    value.text.size = 3000;
    assert_int_equal(znl_shared_put(shared, ZNL_SHARED_SET, znl_frame_text("kept"), &value, 0,
                             now_ms, &evicted),
            0);
    assert_int_equal(evicted, 0);
    assert_int_equal(put("second", 1), 0);
    value.text.size = 3900;
    assert_int_equal(znl_shared_put(shared, ZNL_SHARED_SET, znl_frame_text("kept"), &value, 0,
                             now_ms, &evicted),
            0);
    assert_int_equal(evicted, 1);
    assert_absent("second");
    assert_int_equal(used_bytes(), ZNL_SHARED_ENTRY_BYTES + 4 + 3900);
}

static void lists_keys(void **state)
{
    (void)state;
    uint8_t *block = NULL;
    size_t count = 0;
    assert_int_equal(znl_shared_keys(shared, 10, now_ms, &block, &count), 0);
    assert_int_equal(count, 0);
    assert_null(block);
    assert_int_equal(put("one", 1), 0);
    assert_int_equal(put_ttl(ZNL_SHARED_SET, "gone", 1, 5), 0);
    assert_int_equal(put("three", 3), 0);
    now_ms += 5;
    assert_int_equal(znl_shared_keys(shared, 10, now_ms, &block, &count), 0);
    assert_int_equal(count, 2);
    size_t at = 0, seen = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t size;
        memcpy(&size, block + at, sizeof size);
        at += sizeof size;
        seen += size == 3 && memcmp(block + at, "one", 3) == 0;
        seen += size == 5 && memcmp(block + at, "three", 5) == 0;
        at += size;
    }
    assert_int_equal(seen, 2);
    znl_free(block);
    assert_int_equal(znl_shared_keys(shared, 1, now_ms, &block, &count), 0);
    assert_int_equal(count, 1);
    znl_free(block);
}

static void survives_every_failed_allocation(void **state)
{
    (void)state;
    long n = 0;
    for (;; n++) {
        znl_shared_free_all();
        shared = NULL;
        znl_shared_limits limits = {100, 1u << 20, 1};
        uint8_t *block = NULL;
        size_t count;
        char key[16];
        int failed = 0;
        znl_alloc_fail_after(n);
        if (znl_shared_open(&shared, znl_frame_text("x"), &limits) != 0)
            continue;
        for (int i = 0; i < 40; i++) {
            snprintf(key, sizeof key, "k%d", i);
            int err = put(key, i);
            assert_true(err == 0 || err == ZNL_E_NOMEM);
            failed |= err != 0;
        }
        failed |= znl_shared_keys(shared, 100, now_ms, &block, &count) != 0;
        znl_free(block);
        znl_alloc_fail_after(-1);
        size_t size = znl_shared_size(shared, now_ms);
        znl_shared_flush(shared);
        assert_int_equal(used_bytes(), 0);
        if (!failed) {
            assert_int_equal(size, 40);
            break;
        }
    }
    assert_true(n > 40);
}

/* --- threads ---------------------------------------------------------------------------------- */

#define THREADS 4
#define ROUNDS 20000

static void *count_up(void *arg)
{
    znl_shared *mine = NULL;
    size_t gone;
    double result, init = 0;
    long *failures = arg;
    if (znl_shared_open(&mine, znl_frame_text("test"), NULL) != 0)
        ++*failures;
    for (int i = 0; mine != NULL && i < ROUNDS; i++)
        if (znl_shared_incr(mine, znl_frame_text("n"), 1, &init, 0, 1, &result, &gone) != 0)
            ++*failures;
    return NULL;
}

static void counters_are_exact_over_threads(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    long failures[THREADS] = {0};
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_up, &failures[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(failures[i], 0);
    }
    assert_number("n", (double)THREADS * ROUNDS);
}

/* Writes, reads, lists and removes in a dictionary that is always full. */
static void *press(void *arg)
{
    znl_shared *mine = NULL;
    uint32_t seed = (uint32_t)(uintptr_t)arg;
    uint8_t buffer[64];
    char key[16];
    size_t gone, count;
    uint8_t *block = NULL;
    if (znl_shared_open(&mine, znl_frame_text("pressed"), NULL) != 0)
        return (void *)1;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        seed = seed * 1664525u + 1013904223u;
        snprintf(key, sizeof key, "k%u", (seed >> 8) % 200);
        znl_frame name = znl_frame_text(key);
        znl_shared_value value = {
                .type = ZNL_SHARED_STRING, .text = znl_frame_of(buffer, (seed >> 16) % 64)};
        memset(buffer, key[1], sizeof buffer);
        int err = znl_shared_put(mine, ZNL_SHARED_SET, name, &value, seed % 3, i, &gone);
        if (err != 0)
            return (void *)2;
        if (znl_shared_get(mine, name, i, buffer, sizeof buffer, &value) == 0)
            for (size_t at = 0; at < value.text.size; at++)
                if (value.text.data[at] != (uint8_t)key[1])
                    return (void *)3; /* half of one value, half of another */
        if (seed % 64 == 0) {
            if (znl_shared_keys(mine, 50, i, &block, &count) != 0)
                return (void *)4;
            znl_free(block);
        }
        if (seed % 16 == 0)
            znl_shared_delete(mine, name, i);
    }
    return NULL;
}

static void limits_hold_under_threads(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    znl_shared_stats stats;
    shared = open_with("pressed", 50, 50 * (ZNL_SHARED_ENTRY_BYTES + 40), 1);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, press, (void *)(i + 1)), 0);
    for (int i = 0; i < THREADS; i++) {
        void *result = NULL;
        pthread_join(threads[i], &result);
        assert_ptr_equal(result, NULL);
    }
    znl_shared_stats_of(shared, &stats);
    assert_true(stats.entries <= 50);
    assert_true(stats.evicted > 0);
    znl_shared_flush(shared);
    assert_int_equal(used_bytes(), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            TEST(a_name_opens_the_same_dictionary),
            TEST(the_number_of_dictionaries_is_bounded),
            TEST(keeps_numbers_booleans_and_strings),
            TEST(add_and_replace_look_first),
            TEST(entries_expire),
            TEST(incr_counts_and_keeps_the_expiry),
            TEST(delete_and_flush_give_the_room_back),
            TEST(the_least_used_makes_room),
            TEST(within_a_shard_use_decides),
            TEST(without_eviction_a_full_dictionary_refuses),
            TEST(refuses_what_can_never_fit),
            TEST(lists_keys),
            TEST(survives_every_failed_allocation),
            TEST(counters_are_exact_over_threads),
            TEST(limits_hold_under_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
