/* Requests waiting for a reply, on a clock that the test turns. SPDX-License-Identifier: MIT */
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
#include "base/random.h"
#include "state/pending.h"

static znl_wheel wheel;
static znl_pending *table;
static uint64_t expired[4096]; /* tickets, in order */
static uint64_t expired_peer;
static size_t expired_count;
static int free_in_callback;

static void on_expired(void *user, znl_waiter waiter, uint64_t peer_hash)
{
    assert_ptr_equal(user, &wheel);
    assert_ptr_equal(waiter.owner, &table);
    assert_true(expired_count < sizeof expired / sizeof expired[0]);
    expired[expired_count++] = waiter.ticket;
    expired_peer = peer_hash;
    if (free_in_callback) {
        znl_pending_free(table);
        table = NULL;
    }
}

static void begin(size_t limit)
{
    znl_wheel_init(&wheel, 1000);
    expired_count = 0;
    free_in_callback = 0;
    assert_int_equal(znl_pending_new(&table, &wheel, limit, on_expired, &wheel), 0);
}

static void end(void)
{
    znl_pending_free(table);
    table = NULL;
    assert_int_equal(wheel.count, 0);
}

static int add(uint64_t ticket, uint64_t peer_hash, uint64_t deadline_ms, char *id)
{
    return znl_pending_add(table, peer_hash, deadline_ms, (znl_waiter){&table, ticket}, id);
}

static int take(const char *id, uint64_t peer_hash, uint64_t *ticket)
{
    znl_waiter waiter = {0};
    int err = znl_pending_take(
            table, znl_frame_of(id, ZNL_REQUEST_ID_TEXT), peer_hash, &waiter);
    *ticket = waiter.ticket;
    return err;
}

static int by_text(const void *a, const void *b)
{
    return memcmp(a, b, ZNL_REQUEST_ID_TEXT);
}

static void ids_are_uuid_v4_and_all_different(void **state)
{
    (void)state;
    static char ids[3000][ZNL_REQUEST_ID_TEXT];
    uint64_t ticket;
    begin(0);
    for (unsigned i = 0; i < 3000; i++) {
        assert_int_equal(add(i, 0, 5000, ids[i]), 0);
        for (unsigned at = 0; at < ZNL_REQUEST_ID_TEXT; at++) {
            if (at == 8 || at == 13 || at == 18 || at == 23)
                assert_int_equal(ids[i][at], '-');
            else
                assert_non_null(memchr("0123456789abcdef", ids[i][at], 16));
        }
        assert_int_equal(ids[i][14], '4');
        assert_non_null(memchr("89ab", ids[i][19], 4));
        if (i % 3 != 0) /* slots are used again */
            assert_int_equal(take(ids[i], 0, &ticket), 0);
    }
    qsort(ids, 3000, sizeof ids[0], by_text);
    for (unsigned i = 1; i < 3000; i++)
        assert_memory_not_equal(ids[i], ids[i - 1], ZNL_REQUEST_ID_TEXT);
    end();
}

static void a_reply_finds_its_request_once(void **state)
{
    (void)state;
    char first[ZNL_REQUEST_ID_TEXT], second[ZNL_REQUEST_ID_TEXT];
    uint64_t ticket;
    begin(0);
    assert_int_equal(add(1, 11, 5000, first), 0);
    assert_int_equal(add(2, 22, 5000, second), 0);
    assert_int_equal(znl_pending_count(table), 2);
    assert_int_equal(take(first, 22, &ticket), ZNL_E_NOT_FOUND); /* asked somebody else */
    assert_int_equal(take(first, 0, &ticket), ZNL_E_NOT_FOUND);
    assert_int_equal(take(second, 22, &ticket), 0);
    assert_int_equal(ticket, 2);
    assert_int_equal(take(second, 22, &ticket), ZNL_E_NOT_FOUND);
    assert_int_equal(take(first, 11, &ticket), 0);
    assert_int_equal(ticket, 1);
    assert_int_equal(znl_pending_count(table), 0);
    assert_int_equal(wheel.count, 0);
    end();
}

static void asked_of_anyone_is_answered_by_anyone(void **state)
{
    (void)state;
    char id[ZNL_REQUEST_ID_TEXT];
    uint64_t ticket;
    begin(0);
    assert_int_equal(add(7, 0, 5000, id), 0);
    assert_int_equal(take(id, 99, &ticket), 0);
    assert_int_equal(ticket, 7);
    end();
}

static void ids_of_an_earlier_use_of_the_slot_are_refused(void **state)
{
    (void)state;
    char old[ZNL_REQUEST_ID_TEXT], now[ZNL_REQUEST_ID_TEXT];
    uint64_t ticket;
    begin(1);
    assert_int_equal(add(1, 5, 5000, old), 0);
    assert_int_equal(take(old, 5, &ticket), 0);
    assert_int_equal(add(2, 5, 5000, now), 0);
    assert_int_equal(take(old, 5, &ticket), ZNL_E_NOT_FOUND);
    assert_int_equal(take(now, 5, &ticket), 0);
    end();
}

static void hostile_ids_find_nothing(void **state)
{
    (void)state;
    char id[ZNL_REQUEST_ID_TEXT], copy[ZNL_REQUEST_ID_TEXT];
    uint64_t ticket;
    znl_waiter waiter;
    begin(0);
    assert_int_equal(take("00000000-0000-4000-8000-000000000000", 5, &ticket), ZNL_E_NOT_FOUND);
    assert_int_equal(add(1, 5, 5000, id), 0);
    assert_int_equal(take("ffffffff-ffff-ffff-ffff-ffffffffffff", 5, &ticket), ZNL_E_NOT_FOUND);
    for (unsigned at = 0; at < ZNL_REQUEST_ID_TEXT; at++)
        for (int byte = 0; byte < 256; byte++) {
            memcpy(copy, id, sizeof copy);
            if (copy[at] == (char)byte)
                continue;
            copy[at] = (char)byte;
            assert_int_equal(take(copy, 5, &ticket), ZNL_E_NOT_FOUND);
        }
    for (size_t size = 0; size < ZNL_REQUEST_ID_TEXT; size++) {
        char *cut = malloc(size + 1);
        assert_non_null(cut);
        memcpy(cut, id, size);
        assert_int_equal(
                znl_pending_take(table, znl_frame_of(cut, size), 5, &waiter), ZNL_E_NOT_FOUND);
        free(cut);
    }
    assert_int_equal(
            znl_pending_take(table, znl_frame_of(NULL, 0), 5, &waiter), ZNL_E_NOT_FOUND);
    assert_int_equal(take(id, 5, &ticket), 0);
    end();
}

static void deadlines_expire_in_order_and_late_replies_find_nothing(void **state)
{
    (void)state;
    char ids[3][ZNL_REQUEST_ID_TEXT];
    uint64_t ticket;
    begin(0);
    assert_int_equal(add(1, 5, 3000, ids[0]), 0);
    assert_int_equal(add(2, 6, 2000, ids[1]), 0);
    assert_int_equal(add(3, 7, 1000 + 86400000, ids[2]), 0);
    znl_wheel_advance(&wheel, 1999);
    assert_int_equal(expired_count, 0);
    znl_wheel_advance(&wheel, 2000);
    assert_int_equal(expired_count, 1);
    assert_int_equal(expired_peer, 6);
    assert_int_equal(take(ids[1], 6, &ticket), ZNL_E_NOT_FOUND);
    znl_wheel_advance(&wheel, 86400000);
    assert_int_equal(expired_count, 2);
    znl_wheel_advance(&wheel, 1000 + 86400000);
    assert_int_equal(expired_count, 3);
    assert_int_equal(expired[0], 2);
    assert_int_equal(expired[1], 1);
    assert_int_equal(expired[2], 3);
    assert_int_equal(znl_pending_count(table), 0);
    end();
}

static void taken_requests_do_not_expire(void **state)
{
    (void)state;
    char id[ZNL_REQUEST_ID_TEXT];
    uint64_t ticket;
    begin(0);
    assert_int_equal(add(1, 5, 2000, id), 0);
    assert_int_equal(take(id, 5, &ticket), 0);
    znl_wheel_advance(&wheel, 9000);
    assert_int_equal(expired_count, 0);
    end();
}

static void the_table_may_be_freed_by_the_callback(void **state)
{
    (void)state;
    char id[ZNL_REQUEST_ID_TEXT];
    begin(0);
    assert_int_equal(add(1, 5, 2000, id), 0);
    assert_int_equal(add(2, 5, 2000, id), 0);
    free_in_callback = 1;
    znl_wheel_advance(&wheel, 2000);
    assert_int_equal(expired_count, 1);
    assert_null(table);
    assert_int_equal(wheel.count, 0);
    znl_pending_free(NULL);
}

static void the_limit_holds_and_frees_up(void **state)
{
    (void)state;
    char id[ZNL_REQUEST_ID_TEXT], last[ZNL_REQUEST_ID_TEXT];
    uint64_t ticket;
    begin(300);
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(add(i, 5, 5000, last), 0);
    assert_int_equal(add(300, 5, 5000, id), ZNL_E_LIMIT);
    assert_int_equal(take(last, 5, &ticket), 0);
    assert_int_equal(add(300, 5, 5000, id), 0);
    assert_int_equal(add(301, 5, 5000, id), ZNL_E_LIMIT);
    end();
}

static void take_any_empties_the_table_oldest_first(void **state)
{
    (void)state;
    char id[ZNL_REQUEST_ID_TEXT];
    znl_waiter waiter;
    begin(0);
    for (unsigned i = 0; i < 600; i++)
        assert_int_equal(add(i, i % 7, 5000, id), 0);
    for (unsigned i = 0; i < 600; i++) {
        assert_int_equal(znl_pending_take_any(table, 0, &waiter), 0);
        assert_int_equal(waiter.ticket, i);
    }
    assert_int_equal(znl_pending_take_any(table, 0, &waiter), ZNL_E_NOT_FOUND);
    assert_int_equal(wheel.count, 0);
    end();
}

static void take_any_of_a_peer_leaves_the_others(void **state)
{
    (void)state;
    char id[ZNL_REQUEST_ID_TEXT];
    znl_waiter waiter;
    begin(0);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(add(i, 1 + i % 10, 5000, id), 0);
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(znl_pending_take_any(table, 4, &waiter), 0);
        assert_int_equal(waiter.ticket % 10, 3);
    }
    assert_int_equal(add(2003, 4, 5000, id), 0); /* added between two calls: found as well */
    for (unsigned i = 0; i < 51; i++) {
        assert_int_equal(znl_pending_take_any(table, 4, &waiter), 0);
        assert_int_equal(waiter.ticket % 10, 3);
    }
    assert_int_equal(znl_pending_take_any(table, 4, &waiter), ZNL_E_NOT_FOUND);
    assert_int_equal(znl_pending_take_any(table, 77, &waiter), ZNL_E_NOT_FOUND);
    assert_int_equal(znl_pending_count(table), 900);
    end();
}

/* Half a million of each of two peers, mixed: quadratic work would not end in a day. */
static void rejecting_one_peer_of_a_full_table_is_quick(void **state)
{
    (void)state;
    char id[ZNL_REQUEST_ID_TEXT];
    znl_waiter waiter;
    begin(0);
    for (unsigned i = 0; i < ZNL_PENDING_MAX; i++)
        assert_int_equal(add(i, 1 + i % 2, 5000 + i, id), 0);
    assert_int_equal(add(0, 1, 5000, id), ZNL_E_LIMIT);
    for (unsigned i = 0; i < ZNL_PENDING_MAX / 2; i++)
        assert_int_equal(znl_pending_take_any(table, 1, &waiter), 0);
    assert_int_equal(znl_pending_take_any(table, 1, &waiter), ZNL_E_NOT_FOUND);
    assert_int_equal(znl_pending_count(table), ZNL_PENDING_MAX / 2);
    end();
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    char id[ZNL_REQUEST_ID_TEXT];
    uint64_t ticket;
    znl_wheel_init(&wheel, 1000);
    znl_alloc_fail_after(0);
    assert_int_equal(znl_pending_new(&table, &wheel, 0, on_expired, &wheel), ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
    begin(0);
    for (long n = 0;; n++) {
        znl_alloc_fail_after(n);
        int err = add(1, 5, 5000, id);
        znl_alloc_fail_after(-1);
        if (err == 0)
            break;
        assert_int_equal(err, ZNL_E_NOMEM);
        assert_int_equal(znl_pending_count(table), 0);
    }
    assert_int_equal(take(id, 5, &ticket), 0);
    end();
}

static int before(void **state)
{
    (void)state;
    return znl_random_start();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(ids_are_uuid_v4_and_all_different),
            cmocka_unit_test(a_reply_finds_its_request_once),
            cmocka_unit_test(asked_of_anyone_is_answered_by_anyone),
            cmocka_unit_test(ids_of_an_earlier_use_of_the_slot_are_refused),
            cmocka_unit_test(hostile_ids_find_nothing),
            cmocka_unit_test(deadlines_expire_in_order_and_late_replies_find_nothing),
            cmocka_unit_test(taken_requests_do_not_expire),
            cmocka_unit_test(the_table_may_be_freed_by_the_callback),
            cmocka_unit_test(the_limit_holds_and_frees_up),
            cmocka_unit_test(take_any_empties_the_table_oldest_first),
            cmocka_unit_test(take_any_of_a_peer_leaves_the_others),
            cmocka_unit_test(rejecting_one_peer_of_a_full_table_is_quick),
            cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, before, NULL);
}
