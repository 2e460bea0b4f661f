/* Frames, big-endian numbers, the growing buffer. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/err.h"

static void numbers_are_big_endian(void **state)
{
    (void)state;
    static const uint32_t values[] = {0, 1, 0xff, 0x12345678, 0x80000000u, UINT32_MAX};
    uint8_t bytes[4];
    znl_put_be32(bytes, 0x12345678);
    assert_memory_equal(bytes, "\x12\x34\x56\x78", 4);
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        znl_put_be32(bytes, values[i]);
        assert_int_equal(znl_get_be32(bytes), values[i]);
    }
}

static void frames_compare_by_content(void **state)
{
    (void)state;
    assert_true(znl_frame_equal(znl_frame_text("abc"), znl_frame_of("abcd", 3)));
    assert_false(znl_frame_equal(znl_frame_text("abc"), znl_frame_text("abd")));
    assert_false(znl_frame_equal(znl_frame_text("abc"), znl_frame_text("ab")));
    assert_true(znl_frame_equal(znl_frame_text(""), znl_frame_of(NULL, 0)));
}

static void buffer_grows_and_gives_back(void **state)
{
    (void)state;
    znl_buffer buffer = {0};
    assert_int_equal(znl_buffer_reserve(&buffer, 0), 0);
    for (size_t size = 1; size <= 100000; size = size * 3 + 1) {
        assert_int_equal(znl_buffer_reserve(&buffer, size), 0);
        assert_true(buffer.capacity >= size);
        memset(buffer.data, 0xa5, size);
    }
    uint8_t *data = buffer.data;
    assert_int_equal(znl_buffer_reserve(&buffer, 10), 0);
    assert_ptr_equal(buffer.data, data);
    znl_buffer_trim(&buffer, buffer.capacity);
    assert_ptr_equal(buffer.data, data);
    znl_buffer_trim(&buffer, 1000);
    assert_null(buffer.data);
    assert_int_equal(buffer.capacity, 0);
    znl_buffer_fini(&buffer);
}

static void buffer_survives_a_refusal(void **state)
{
    (void)state;
    znl_buffer buffer = {0};
    assert_int_equal(znl_buffer_reserve(&buffer, 100), 0);
    uint8_t *data = buffer.data;
    size_t capacity = buffer.capacity;
    memset(data, 1, 100);
    assert_int_equal(znl_buffer_reserve(&buffer, SIZE_MAX), ZNL_E_NOMEM);
    assert_int_equal(znl_buffer_reserve(&buffer, SIZE_MAX / 2 + 2), ZNL_E_NOMEM);
    znl_alloc_fail_after(0);
    assert_int_equal(znl_buffer_reserve(&buffer, 1000), ZNL_E_NOMEM);
    assert_int_equal(znl_alloc_count(), 1);
    znl_alloc_fail_after(-1);
    assert_ptr_equal(buffer.data, data);
    assert_int_equal(buffer.capacity, capacity);
    assert_int_equal(data[99], 1);
    znl_buffer_fini(&buffer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(numbers_are_big_endian),
            cmocka_unit_test(frames_compare_by_content),
            cmocka_unit_test(buffer_grows_and_gives_back),
            cmocka_unit_test(buffer_survives_a_refusal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
