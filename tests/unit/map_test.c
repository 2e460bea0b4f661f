/* The hash map. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/map.h"

#define COUNT 1000u

struct thing {
    znl_map_entry entry;
    char name[16];
};

static struct thing things[COUNT];

static void name_all(void)
{
    memset(things, 0, sizeof things);
    for (unsigned i = 0; i < COUNT; i++) {
        snprintf(things[i].name, sizeof things[i].name, "thing-%u", i);
        things[i].entry.key = znl_frame_text(things[i].name);
        things[i].entry.hash = znl_map_hash(things[i].entry.key);
    }
}

static znl_map_entry *find(const znl_map *map, const char *name)
{
    znl_frame key = znl_frame_text(name);
    return znl_map_find(map, key, znl_map_hash(key));
}

static void finds_what_was_put_and_nothing_else(void **state)
{
    (void)state;
    znl_map map = {0};
    name_all();
    assert_null(find(&map, "thing-1"));
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(znl_map_put(&map, &things[i].entry), 0);
    assert_int_equal(map.count, COUNT);
    for (unsigned i = 0; i < COUNT; i++)
        assert_ptr_equal(find(&map, things[i].name), &things[i].entry);
    assert_null(find(&map, "thing-1000"));
    assert_null(find(&map, ""));
    for (unsigned i = 0; i < COUNT; i += 2)
        znl_map_remove(&map, &things[i].entry);
    for (unsigned i = 0; i < COUNT; i++)
        assert_ptr_equal(find(&map, things[i].name), i % 2 ? &things[i].entry : NULL);
    assert_int_equal(map.count, COUNT / 2);
    znl_map_fini(&map);
    assert_int_equal(map.count, 0);
    znl_map_fini(&map);
}

static void keys_are_bytes(void **state)
{
    (void)state;
    znl_map map = {0};
    struct thing empty = {0}, zero = {0};
    empty.entry.key = znl_frame_of(NULL, 0);
    empty.entry.hash = znl_map_hash(empty.entry.key);
    zero.entry.key = znl_frame_of("\0", 1);
    zero.entry.hash = znl_map_hash(zero.entry.key);
    assert_int_equal(znl_map_put(&map, &empty.entry), 0);
    assert_int_equal(znl_map_put(&map, &zero.entry), 0);
    assert_ptr_equal(find(&map, ""), &empty.entry);
    assert_ptr_equal(znl_map_find(&map, zero.entry.key, zero.entry.hash), &zero.entry);
    znl_map_fini(&map);
}

static void equal_hashes_are_told_apart(void **state)
{
    (void)state;
    znl_map map = {0};
    name_all();
    for (unsigned i = 0; i < 50; i++) {
        things[i].entry.hash = 7;
        assert_int_equal(znl_map_put(&map, &things[i].entry), 0);
    }
    for (unsigned i = 0; i < 50; i++)
        assert_ptr_equal(znl_map_find(&map, things[i].entry.key, 7), &things[i].entry);
    znl_map_remove(&map, &things[20].entry);
    assert_null(znl_map_find(&map, things[20].entry.key, 7));
    assert_ptr_equal(znl_map_find(&map, things[21].entry.key, 7), &things[21].entry);
    znl_map_fini(&map);
}

static void walk_sees_each_once_and_allows_removal_behind_it(void **state)
{
    (void)state;
    znl_map map = {0};
    name_all();
    assert_null(znl_map_next(&map, NULL));
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(znl_map_put(&map, &things[i].entry), 0);
    znl_map_entry *last = NULL, *entry;
    unsigned seen = 0;
    while ((entry = znl_map_next(&map, last)) != NULL) {
        seen++;
        if (last != NULL)
            znl_map_remove(&map, last);
        last = entry;
    }
    assert_int_equal(seen, COUNT);
    assert_int_equal(map.count, 1);
    znl_map_fini(&map);
}

static void out_of_memory_only_slows_a_map_that_has_buckets(void **state)
{
    (void)state;
    znl_map map = {0};
    name_all();
    znl_alloc_fail_after(0);
    assert_int_equal(znl_map_put(&map, &things[0].entry), ZNL_E_NOMEM);
    assert_int_equal(map.count, 0);
    znl_alloc_fail_after(1);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(znl_map_put(&map, &things[i].entry), 0);
    znl_alloc_fail_after(-1);
    for (unsigned i = 0; i < 200; i++)
        assert_ptr_equal(find(&map, things[i].name), &things[i].entry);
    znl_map_fini(&map);
}

/* Keys that are alike at both ends, of every length around what is remembered, in turns. */
static void each_key_keeps_its_hash(void **state)
{
    (void)state;
    enum { KEYS = 64, LENGTHS = 50 };
    static uint64_t hashes[LENGTHS][KEYS];
    for (unsigned round = 0; round < 3; round++)
        for (size_t size = 0; size < LENGTHS; size++)
            for (unsigned i = 0; i < KEYS; i++) {
                uint8_t key[LENGTHS];
                memset(key, 'k', sizeof key);
                key[size / 2] = (uint8_t)i;
                uint64_t hash = znl_map_hash(znl_frame_of(key, size));
                assert_true(hash != 0);
                if (round == 0)
                    hashes[size][i] = hash;
                assert_true(hashes[size][i] == hash);
            }
    for (size_t size = 1; size < LENGTHS; size++)
        for (unsigned i = 1; i < KEYS; i++) {
            assert_true(hashes[size][i] != hashes[size][i - 1]);
            assert_true(hashes[size][i] != hashes[size - 1][i]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(finds_what_was_put_and_nothing_else),
            cmocka_unit_test(keys_are_bytes),
            cmocka_unit_test(equal_hashes_are_told_apart),
            cmocka_unit_test(each_key_keeps_its_hash),
            cmocka_unit_test(walk_sees_each_once_and_allows_removal_behind_it),
            cmocka_unit_test(out_of_memory_only_slows_a_map_that_has_buckets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
