/* Random bytes: no byte is given out twice, not to a forked child either.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/wait.h>
#include <unistd.h>

#include "base/random.h"

static int before(void **state)
{
    (void)state;
    return znl_random_start() != 0 || znl_random_start() != 0; /* twice is harmless */
}

static void writes_exactly_what_was_asked_for(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 12, 1023, 1024, 1025, 4096, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t size = sizes[i];
        uint8_t *bytes = malloc(size + 1); /* the sanitizer guards the end */
        assert_non_null(bytes);
        memset(bytes, 0, size + 1);
        znl_random_bytes(bytes, size);
        assert_int_equal(bytes[size], 0);
        size_t ones = 0;
        for (size_t j = 0; j < size; j++)
            ones += (size_t)__builtin_popcount(bytes[j]);
        if (size >= 1000) /* 4 of 8 bits, give or take 10 standard deviations */
            assert_in_range(ones, size * 4 - 450 * (size / 1000 + 1),
                    size * 4 + 450 * (size / 1000 + 1));
        free(bytes);
    }
    znl_random_bytes(NULL, 0);
}

static int by_value(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

static void never_repeats_across_refills(void **state)
{
    (void)state;
    static uint64_t values[20000];
    const size_t count = sizeof values / sizeof values[0];
    for (size_t i = 0; i < count; i++)
        values[i] = znl_random_u64();
    qsort(values, count, sizeof values[0], by_value);
    for (size_t i = 1; i < count; i++)
        assert_true(values[i] != values[i - 1]);
}

/* What a child, made now, gets first. */
static void ask_child(uint8_t out[32])
{
    int ends[2];
    int status = 0;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        uint8_t bytes[32];
        znl_random_bytes(bytes, sizeof bytes);
        _exit(write(ends[1], bytes, sizeof bytes) == (ssize_t)sizeof bytes ? 0 : 1);
    }
    assert_int_equal(read(ends[0], out, 32), 32);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(ends[0]);
    close(ends[1]);
}

static void forked_children_get_bytes_of_their_own(void **state)
{
    (void)state;
    uint8_t own[32], first[32], second[32];
    (void)znl_random_u64(); /* the pool is filled before the fork */
    ask_child(first);
    ask_child(second);
    znl_random_bytes(own, sizeof own);
    assert_memory_not_equal(first, second, sizeof first);
    assert_memory_not_equal(first, own, sizeof first);
    assert_memory_not_equal(second, own, sizeof first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(writes_exactly_what_was_asked_for),
            cmocka_unit_test(never_repeats_across_refills),
            cmocka_unit_test(forked_children_get_bytes_of_their_own),
    };
    return cmocka_run_group_tests(tests, before, NULL);
}
