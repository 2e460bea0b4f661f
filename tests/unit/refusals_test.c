/* refusals_test.c - what is worth a line in the log. SPDX-License-Identifier: MIT */
#include "base/limits.h"
#include "node/refusals.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static int is_news(znl_refusals *refusals, const char *text, uint64_t now_ms)
{
    return znl_refusals_are_news(refusals, znl_frame_text(text), now_ms);
}

static void same_text_is_news_once_in_a_while(void **state)
{
    (void)state;
    znl_refusals refusals = {0};
    assert_true(is_news(&refusals, "a", 5));
    for (uint64_t now_ms = 5; now_ms < 5 + ZNL_REFUSAL_MS; now_ms += 200)
        assert_false(is_news(&refusals, "a", now_ms));
    assert_true(is_news(&refusals, "a", 5 + ZNL_REFUSAL_MS));
    assert_false(is_news(&refusals, "a", 6 + ZNL_REFUSAL_MS));
    assert_true(is_news(&refusals, "b", 6 + ZNL_REFUSAL_MS));
}

static void many_texts_do_not_fill_the_log(void **state)
{
    (void)state;
    znl_refusals refusals = {0};
    unsigned said = 0;
    for (unsigned i = 0; i < 10000; i++) {
        char text[16];
        snprintf(text, sizeof text, "%u", i);
        said += is_news(&refusals, text, 1 + i / 10) != 0;
    }
    assert_int_equal(said, ZNL_REFUSAL_TEXTS);
    assert_true(is_news(&refusals, "another", 1 + ZNL_REFUSAL_MS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(same_text_is_news_once_in_a_while),
            cmocka_unit_test(many_texts_do_not_fill_the_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
