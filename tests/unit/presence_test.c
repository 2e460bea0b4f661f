/* Who is alive: order of last sight, limits, memory. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "state/presence.h"

static znl_presence *table;

static int touch(const char *id, uint64_t now_ms, int *is_new)
{
    znl_presence_entry *entry;
    znl_frame frame = znl_frame_text(id);
    return znl_presence_touch(table, frame, znl_map_hash(frame), now_ms, &entry, is_new);
}

static znl_presence_entry *find(const char *id)
{
    znl_frame frame = znl_frame_text(id);
    return znl_presence_find(table, frame, znl_map_hash(frame));
}

/* The ids in the order of last sight, each one character long. */
static void expect_order(const char *ids)
{
    znl_presence_entry *entry = znl_presence_oldest(table);
    for (; *ids != '\0'; ids++, entry = znl_presence_newer(entry)) {
        assert_non_null(entry);
        assert_int_equal(entry->map.key.data[0], *ids);
    }
    assert_null(entry);
}

static void begin(size_t max, size_t extra)
{
    assert_int_equal(znl_presence_new(&table, max, extra), 0);
}

static void end(void)
{
    znl_presence_free(table);
    table = NULL;
}

static void remembers_since_when_and_last_sight(void **state)
{
    (void)state;
    int is_new;
    begin(10, 0);
    expect_order("");
    assert_null(find("a"));
    assert_int_equal(touch("a", 100, &is_new), 0);
    assert_true(is_new);
    assert_int_equal(touch("b", 150, &is_new), 0);
    assert_true(is_new);
    assert_int_equal(touch("c", 160, &is_new), 0);
    expect_order("abc");
    assert_int_equal(touch("a", 200, &is_new), 0);
    assert_false(is_new);
    expect_order("bca");
    assert_int_equal(touch("c", 210, &is_new), 0);
    expect_order("bac");
    assert_int_equal(touch("c", 220, &is_new), 0);
    expect_order("bac");
    assert_int_equal(find("a")->since_ms, 100);
    assert_int_equal(find("a")->last_seen_ms, 200);
    assert_int_equal(find("c")->last_seen_ms, 220);
    assert_int_equal(znl_presence_count(table), 3);
    end();
}

static void entries_can_be_taken_from_anywhere(void **state)
{
    (void)state;
    int is_new;
    begin(10, 0);
    for (const char *id = "a\0b\0c\0d\0"; *id != '\0'; id += 2)
        assert_int_equal(touch(id, 100, &is_new), 0);
    static const struct {
        const char *id, *left;
    } steps[] = {{"b", "acd"}, {"a", "cd"}, {"d", "c"}, {"c", ""}};
    for (size_t i = 0; i < 4; i++) {
        znl_presence_entry *entry = find(steps[i].id);
        znl_presence_take(table, entry);
        assert_null(find(steps[i].id));
        assert_int_equal(entry->map.key.data[0], steps[i].id[0]); /* still readable */
        znl_presence_drop(entry);
        expect_order(steps[i].left);
    }
    assert_int_equal(touch("b", 300, &is_new), 0);
    assert_true(is_new);
    assert_int_equal(find("b")->since_ms, 300);
    expect_order("b");
    end();
}

static void the_limit_holds_and_frees_up(void **state)
{
    (void)state;
    int is_new;
    begin(2, 0);
    assert_int_equal(touch("a", 1, &is_new), 0);
    assert_int_equal(touch("b", 2, &is_new), 0);
    assert_int_equal(touch("c", 3, &is_new), ZNL_E_LIMIT);
    assert_int_equal(touch("a", 4, &is_new), 0);
    znl_presence_entry *entry = find("b");
    znl_presence_take(table, entry);
    znl_presence_drop(entry);
    assert_int_equal(touch("c", 5, &is_new), 0);
    expect_order("ac");
    end();
}

static void ids_are_bytes_of_bounded_length(void **state)
{
    (void)state;
    uint8_t id[ZNL_ID_BYTES_MAX + 1];
    znl_presence_entry *entry;
    int is_new;
    memset(id, 0, sizeof id);
    begin(1000, 3);
    for (size_t size = 0; size <= ZNL_ID_BYTES_MAX; size++) {
        uint8_t *copy = malloc(size + 1); /* the table keeps a copy of its own */
        assert_non_null(copy);
        memcpy(copy, id, size);
        znl_frame frame = znl_frame_of(copy, size);
        uint64_t hash = znl_map_hash(frame);
        assert_int_equal(znl_presence_touch(table, frame, hash, 1, &entry, &is_new), 0);
        assert_true(is_new);
        free(copy);
        assert_ptr_equal(znl_presence_find(table, znl_frame_of(id, size), hash), entry);
        memset(znl_presence_extra(entry), 0xff, 3);
        assert_int_equal(entry->map.key.size, size);
    }
    znl_frame frame = znl_frame_of(id, sizeof id);
    assert_int_equal(znl_presence_touch(table, frame, znl_map_hash(frame), 1, &entry, &is_new),
            ZNL_E_TOO_BIG);
    end();
}

static void extra_bytes_are_zeroed_aligned_and_kept(void **state)
{
    (void)state;
    int is_new;
    begin(100, 40);
    for (char id[2] = "a"; id[0] <= 'z'; id[0]++) {
        assert_int_equal(touch(id, 1, &is_new), 0);
        uint8_t *extra = znl_presence_extra(find(id));
        assert_int_equal((uintptr_t)extra % 16, 0);
        for (size_t i = 0; i < 40; i++)
            assert_int_equal(extra[i], 0);
        memset(extra, id[0], 40);
    }
    for (char id[2] = "a"; id[0] <= 'z'; id[0]++) {
        assert_int_equal(touch(id, 2, &is_new), 0);
        const uint8_t *extra = znl_presence_extra(find(id));
        assert_true(extra[0] == id[0] && extra[39] == id[0]);
    }
    end();
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    int is_new;
    znl_alloc_fail_after(0);
    assert_int_equal(znl_presence_new(&table, 10, 0), ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
    begin(10, 0);
    for (long n = 0;; n++) {
        znl_alloc_fail_after(n);
        int err = touch("a", 1, &is_new);
        znl_alloc_fail_after(-1);
        if (err == 0)
            break;
        assert_int_equal(err, ZNL_E_NOMEM);
        assert_int_equal(znl_presence_count(table), 0);
        expect_order("");
    }
    expect_order("a");
    end();
    znl_presence_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(remembers_since_when_and_last_sight),
            cmocka_unit_test(entries_can_be_taken_from_anywhere),
            cmocka_unit_test(the_limit_holds_and_frees_up),
            cmocka_unit_test(ids_are_bytes_of_bounded_length),
            cmocka_unit_test(extra_bytes_are_zeroed_aligned_and_kept),
            cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
