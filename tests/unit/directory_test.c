/* Which addresses serve which namespace: registrations, choice, exclude lists, limits, memory.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "state/directory.h"

static znl_directory *directory;
static uint64_t replaced;

static void begin(size_t max)
{
    assert_int_equal(znl_random_start(), 0);
    assert_int_equal(znl_directory_new(&directory, max), 0);
}

static void end(void)
{
    znl_directory_release(directory);
    directory = NULL;
}

static uint64_t add(const char *namespace, const char *host, uint32_t port)
{
    uint64_t id = 0;
    assert_int_equal(znl_directory_add(directory, znl_frame_text(namespace),
                             znl_frame_text(host), port, 1, &id, &replaced),
            0);
    assert_true(id > 0 && id < (1ull << 53));
    return id;
}

static void exclude(const char *key)
{
    znl_directory_exclude(directory, znl_frame_text(key));
}

static const znl_registration *choose(const char *namespace)
{
    return znl_directory_choose(directory, znl_frame_text(namespace), znl_random_u64());
}

/* The port of one that is chosen; 0: none. */
static uint32_t port_of(const char *namespace)
{
    const znl_registration *found = choose(namespace);
    return found != NULL ? found->port : 0;
}

static void finds_what_is_registered_until_it_is_removed(void **state)
{
    (void)state;
    begin(10);
    assert_null(choose("svc"));
    uint64_t id = add("svc", "10.0.0.1", 65535);
    assert_int_equal(replaced, 0);
    znl_directory_begin(directory);
    const znl_registration *found = choose("svc");
    assert_non_null(found);
    assert_int_equal(found->id, id);
    assert_int_equal(found->port, 65535);
    assert_int_equal(found->since_ms, 1);
    assert_true(znl_frame_equal(found->host, znl_frame_text("10.0.0.1")));
    assert_true(znl_frame_equal(found->key, znl_frame_text("10.0.0.1:65535")));
    assert_true(znl_frame_equal(found->namespace, znl_frame_text("svc")));
    assert_ptr_equal(znl_directory_find(directory, znl_frame_text("10.0.0.1:65535")), found);
    assert_ptr_equal(znl_directory_get(directory, id), found);
    assert_null(choose("sv"));
    assert_null(choose("svc2"));
    assert_int_equal(znl_directory_remove(directory, id), 1);
    assert_int_equal(znl_directory_remove(directory, id), 0);
    assert_null(znl_directory_get(directory, id));
    assert_null(znl_directory_find(directory, znl_frame_text("10.0.0.1:65535")));
    assert_null(choose("svc"));
    assert_int_equal(znl_directory_count(directory), 0);
    assert_int_equal(znl_directory_namespace_count(directory), 0);
    end();
}

static void an_address_registers_once_and_the_later_one_stays(void **state)
{
    (void)state;
    begin(2);
    uint64_t first = add("old", "h", 1);
    uint64_t other = add("old", "h", 2);
    uint64_t second = add("new", "h", 1); /* also when the table is full */
    assert_int_equal(replaced, first);
    assert_int_not_equal(second, first);
    assert_int_equal(znl_directory_remove(directory, first), 0); /* its late close */
    assert_int_equal(port_of("new"), 1);
    assert_int_equal(port_of("old"), 2);
    uint64_t third = add("new", "h", 1); /* within one namespace */
    assert_int_equal(replaced, second);
    assert_int_equal(znl_directory_peer_count(directory, znl_frame_text("new")), 1);
    assert_int_equal(znl_directory_remove(directory, third), 1);
    assert_int_equal(znl_directory_remove(directory, other), 1);
    assert_int_equal(znl_directory_remove(directory, 0), 0);
    assert_int_equal(znl_directory_remove(directory, UINT64_MAX), 0);
    assert_int_equal(znl_directory_count(directory), 0);
    znl_directory_counters counters;
    znl_directory_count_all(directory, &counters);
    assert_int_equal(counters.added, 4);
    assert_int_equal(counters.replaced, 2);
    assert_int_equal(counters.removed, 2);
    end();
}

static void excluded_keys_are_never_chosen(void **state)
{
    (void)state;
    begin(10);
    add("svc", "h", 1);
    add("svc", "h", 2);
    add("svc", "h", 3);
    add("else", "h", 4);
    for (int i = 0; i < 200; i++) {
        znl_directory_begin(directory);
        exclude("h:1");
        exclude("h:1"); /* twice counts once */
        exclude("h:9"); /* unknown */
        exclude("h:4"); /* of another namespace */
        exclude("");
        uint32_t port = port_of("svc");
        assert_true(port == 2 || port == 3);
        assert_int_equal(port_of("else"), 0);
    }
    znl_directory_begin(directory);
    exclude("h:1");
    exclude("h:2");
    assert_int_equal(port_of("svc"), 3);
    exclude("h:3");
    assert_int_equal(port_of("svc"), 0);
    znl_directory_begin(directory); /* forgotten */
    assert_int_not_equal(port_of("svc"), 0);
    end();
}

static void removals_between_exclude_and_choice_count(void **state)
{
    (void)state;
    begin(10);
    uint64_t one = add("svc", "h", 1);
    add("svc", "h", 2);
    znl_directory_begin(directory);
    exclude("h:1");
    assert_int_equal(znl_directory_remove(directory, one), 1);
    assert_int_equal(port_of("svc"), 2);
    add("svc", "h", 1); /* new: not the one that was excluded */
    exclude("h:2");
    assert_int_equal(port_of("svc"), 1);
    end();
}

/* Chi squared of `counts` against all alike. */
static double chi_squared(const unsigned *counts, size_t kinds, unsigned total)
{
    double expected = (double)total / (double)kinds;
    double sum = 0;
    for (size_t i = 0; i < kinds; i++)
        sum += ((double)counts[i] - expected) * ((double)counts[i] - expected) / expected;
    return sum;
}

static void each_is_as_likely_as_the_others(void **state)
{
    (void)state;
    enum { PEERS = 16, DRAWS = 16000 };
    begin(100);
    for (uint32_t i = 1; i <= PEERS; i++)
        add("svc", "h", i);
    for (uint32_t left_out = 0; left_out <= PEERS; left_out += 4) {
        unsigned counts[PEERS] = {0};
        for (unsigned i = 0; i < DRAWS; i++) {
            znl_directory_begin(directory);
            for (uint32_t k = 1; k <= left_out; k++) {
                char key[16];
                snprintf(key, sizeof key, "h:%u", (unsigned)k);
                exclude(key);
            }
            uint32_t port = port_of("svc");
            if (left_out == PEERS) {
                assert_int_equal(port, 0);
                continue;
            }
            assert_in_range(port, left_out + 1, PEERS);
            counts[port - 1]++;
        }
        if (left_out < PEERS) /* 50: once in 100,000 runs with 15 degrees of freedom */
            assert_true(chi_squared(counts + left_out, PEERS - left_out, DRAWS) < 50);
    }
    end();
}

static void lists_namespaces_and_peers(void **state)
{
    (void)state;
    begin(100);
    add("a", "h", 1);
    add("a", "h", 2);
    uint64_t third = add("a", "h", 3);
    add("b/c", "[::1]", 80);
    znl_directory_remove(directory, third);
    const void *at = NULL;
    znl_frame name;
    size_t count, seen = 0;
    while (znl_directory_next_namespace(directory, &at, &name, &count)) {
        seen++;
        assert_int_equal(count, name.size == 1 ? 2 : 1);
    }
    assert_int_equal(seen, 2);
    assert_int_equal(znl_directory_namespace_count(directory), 2);
    assert_int_equal(znl_directory_count(directory), 3);
    uint32_t ports = 0;
    for (size_t i = 0; i < 2; i++)
        ports += znl_directory_peer(directory, znl_frame_text("a"), i)->port;
    assert_int_equal(ports, 3);
    assert_null(znl_directory_peer(directory, znl_frame_text("a"), 2));
    assert_null(znl_directory_peer(directory, znl_frame_text("x"), 0));
    const znl_registration *found = znl_directory_peer(directory, znl_frame_text("b/c"), 0);
    assert_true(znl_frame_equal(found->key, znl_frame_text("[::1]:80")));
    assert_true(znl_frame_equal(found->host, znl_frame_text("[::1]")));
    end();
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    static char long_text[ZNL_NAMESPACE_BYTES_MAX + 2];
    memset(long_text, 'x', sizeof long_text - 1);
    uint64_t id;
    begin(2);
    const struct {
        znl_frame namespace, host;
        uint32_t port;
        int err;
    } cases[] = {
            {znl_frame_text(""), znl_frame_text("h"), 1, ZNL_E_INVALID},
            {znl_frame_text("n"), znl_frame_text(""), 1, ZNL_E_INVALID},
            {znl_frame_text("n"), znl_frame_text("h"), 0, ZNL_E_INVALID},
            {znl_frame_text("n"), znl_frame_text("h"), 65536, ZNL_E_INVALID},
            {znl_frame_text(long_text), znl_frame_text("h"), 1, ZNL_E_TOO_BIG},
            {znl_frame_text("n"), znl_frame_of(long_text, ZNL_HOST_BYTES_MAX + 1), 1,
                    ZNL_E_TOO_BIG},
            {znl_frame_of(long_text, ZNL_NAMESPACE_BYTES_MAX),
                    znl_frame_of(long_text, ZNL_HOST_BYTES_MAX), 65535, 0},
            {znl_frame_text("n"), znl_frame_text("h"), 1, 0},
            {znl_frame_text("n"), znl_frame_text("h"), 2, ZNL_E_LIMIT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(znl_directory_add(directory, cases[i].namespace, cases[i].host,
                                 cases[i].port, 1, &id, &replaced),
                cases[i].err);
    znl_directory_counters counters;
    znl_directory_count_all(directory, &counters);
    assert_int_equal(counters.refused, 1);
    assert_int_equal(znl_directory_count(directory), 2);
    end();
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    enum { ADDRESSES = 40 };
    znl_alloc_fail_after(0);
    assert_int_equal(znl_directory_new(&directory, 10), ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
    begin(100);
    for (uint32_t port = 1; port <= ADDRESSES; port++) {
        char name[8];
        uint64_t id = 0;
        snprintf(name, sizeof name, "n%u", (unsigned)port % 5);
        for (long n = 0;; n++) {
            znl_alloc_fail_after(n);
            int err = znl_directory_add(directory, znl_frame_text(name), znl_frame_text("h"),
                    port, 1, &id, &replaced);
            znl_alloc_fail_after(-1);
            if (err == 0)
                break;
            assert_int_equal(err, ZNL_E_NOMEM);
            assert_int_equal(znl_directory_count(directory), port - 1);
            assert_int_equal(
                    znl_directory_namespace_count(directory), port - 1 < 5 ? port - 1 : 5);
        }
    }
    for (uint32_t port = 1; port <= ADDRESSES; port++) {
        char key[8];
        snprintf(key, sizeof key, "h:%u", (unsigned)port);
        assert_non_null(znl_directory_find(directory, znl_frame_text(key)));
    }
    end();
    znl_directory_release(NULL);
}

static void holds_keep_it(void **state)
{
    (void)state;
    begin(10);
    add("svc", "h", 1);
    assert_ptr_equal(znl_directory_hold(directory), directory);
    znl_directory_release(directory);
    assert_int_equal(port_of("svc"), 1);
    end();
}

/* A hundred thousand, coming and going: what is there is found, what went is not. */
static void holds_a_hundred_thousand(void **state)
{
    (void)state;
    enum { HOSTS = 2, PORTS = 50000 };
    static uint64_t ids[HOSTS][PORTS + 1];
    begin(HOSTS * PORTS);
    for (int round = 0; round < 2; round++) {
        for (int host = 0; host < HOSTS; host++)
            for (uint32_t port = 1; port <= PORTS; port++)
                ids[host][port] = add(port % 3 ? "many" : "some", host ? "b" : "a", port);
        assert_int_equal(znl_directory_count(directory), HOSTS * PORTS);
        for (uint32_t port = 1; port <= PORTS; port += 2)
            assert_int_equal(znl_directory_remove(directory, ids[0][port]), 1);
        assert_int_equal(znl_directory_count(directory), HOSTS * PORTS - PORTS / 2);
        for (int i = 0; i < 10000; i++) {
            const znl_registration *found = choose("many");
            assert_non_null(found);
            assert_true(found->port % 3 != 0);
            assert_true(found->host.data[0] == 'b' || found->port % 2 == 0);
            assert_int_equal(ids[found->host.data[0] - 'a'][found->port], found->id);
        }
    }
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(finds_what_is_registered_until_it_is_removed),
            cmocka_unit_test(an_address_registers_once_and_the_later_one_stays),
            cmocka_unit_test(excluded_keys_are_never_chosen),
            cmocka_unit_test(removals_between_exclude_and_choice_count),
            cmocka_unit_test(each_is_as_likely_as_the_others),
            cmocka_unit_test(lists_namespaces_and_peers),
            cmocka_unit_test(what_does_not_fit_is_refused),
            cmocka_unit_test(every_allocation_may_fail),
            cmocka_unit_test(holds_keep_it),
            cmocka_unit_test(holds_a_hundred_thousand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
