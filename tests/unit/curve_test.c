/* curve_test.c - Z85 and the keys of CURVE. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "codec/z85.h"
#include "security/curve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The pair that zmq_curve(7) shows. */
#define PUBLIC_TEXT "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
#define SECRET_TEXT "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"

static void z85_is_that_of_the_specification(void **state)
{
    (void)state;
    const uint8_t bytes[] = {0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b};
    uint8_t read[8];
    char text[16];
    znl_z85_encode(bytes, sizeof bytes, text);
    assert_string_equal(text, "HelloWorld");
    assert_int_equal(znl_z85_decode(znl_frame_text(text), read), 0);
    assert_memory_equal(read, bytes, sizeof bytes);
    for (int i = 0; i < 1000; i++) {
        uint8_t random[32], back[32];
        char written[41];
        znl_random_bytes(random, sizeof random);
        znl_z85_encode(random, sizeof random, written);
        assert_int_equal(strlen(written), 40);
        assert_int_equal(znl_z85_decode(znl_frame_text(written), back), 0);
        assert_memory_equal(back, random, sizeof random);
    }
}

static void z85_refuses_what_it_is_not(void **state)
{
    (void)state;
    uint8_t out[8];
    const char *bad[] = {"Hello Worl", "HelloWorl", "HelloWor\"d", "#####", "%nSc1", "Hell~"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(znl_z85_decode(znl_frame_text(bad[i]), out), ZNL_E_INVALID);
    assert_int_equal(znl_z85_decode(znl_frame_of("Hell\0", 5), out), ZNL_E_INVALID);
    assert_int_equal(znl_z85_decode(znl_frame_of("Hell\xff", 5), out), ZNL_E_INVALID);
    assert_int_equal(znl_z85_decode(znl_frame_text("%nSc0"), out), 0); /* 2^32 - 1 */
    assert_memory_equal(out, "\xff\xff\xff\xff", 4);
}

static void public_key_follows_from_the_secret_one(void **state)
{
    (void)state;
    znl_curve *curve = NULL;
    const char *which;
    char text[ZNL_CURVE_TEXT_BYTES + 1];
    znl_curve_texts texts = {.secret_key = znl_frame_text(SECRET_TEXT)};
    assert_int_equal(znl_curve_new(&curve, 1, &texts, &which), 0);
    znl_z85_encode(curve->public_key, ZNL_CURVE_KEY_BYTES, text);
    assert_string_equal(text, PUBLIC_TEXT);
    znl_curve_release(curve);
    texts.public_key = znl_frame_text(PUBLIC_TEXT);
    texts.server_key = znl_frame_text(PUBLIC_TEXT);
    assert_int_equal(znl_curve_new(&curve, 0, &texts, &which), 0);
    znl_curve_hold(curve);
    znl_curve_release(curve);
    assert_int_equal(curve->holders, 1);
    znl_curve_release(curve);
    texts.public_key = znl_frame_text(SECRET_TEXT);
    assert_int_equal(znl_curve_new(&curve, 0, &texts, &which), ZNL_E_INVALID);
    assert_string_equal(which, "public_key");
}

static void pairs_differ_and_belong_together(void **state)
{
    (void)state;
    char public_key[2][ZNL_CURVE_TEXT_BYTES + 1], secret_key[2][ZNL_CURVE_TEXT_BYTES + 1];
    for (int i = 0; i < 2; i++) {
        znl_curve *curve = NULL;
        const char *which;
        znl_curve_make_pair(public_key[i], secret_key[i]);
        znl_curve_texts texts = {.secret_key = znl_frame_text(secret_key[i]),
                .public_key = znl_frame_text(public_key[i])};
        assert_int_equal(znl_curve_new(&curve, 1, &texts, &which), 0);
        znl_curve_release(curve);
    }
    assert_string_not_equal(public_key[0], public_key[1]);
    assert_string_not_equal(secret_key[0], secret_key[1]);
}

static void list_tells_who_is_allowed(void **state)
{
    (void)state;
    enum { COUNT = 300 };
    static char text[COUNT][ZNL_CURVE_TEXT_BYTES + 1];
    static uint8_t keys[COUNT][ZNL_CURVE_KEY_BYTES];
    znl_frame allowed[COUNT];
    znl_curve *curve = NULL;
    const char *which;
    for (int i = 0; i < COUNT; i++) {
        znl_random_bytes(keys[i], sizeof keys[i]);
        znl_z85_encode(keys[i], sizeof keys[i], text[i]);
        allowed[i] = znl_frame_text(text[i]);
    }
    znl_curve_texts texts = {.secret_key = znl_frame_text(SECRET_TEXT),
            .allowed = allowed,
            .allowed_count = COUNT - 100};
    assert_int_equal(znl_curve_new(&curve, 1, &texts, &which), 0);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(!!znl_curve_allows(curve, znl_frame_of(keys[i], sizeof keys[i])),
                i < COUNT - 100);
    assert_false(znl_curve_allows(curve, znl_frame_of(keys[0], 31)));
    assert_false(znl_curve_allows(curve, znl_frame_of(NULL, 0)));
    znl_curve_release(curve);
    texts.allowed_count = 0;
    assert_int_equal(znl_curve_new(&curve, 1, &texts, &which), 0);
    assert_true(znl_curve_allows(curve, znl_frame_of(keys[0], sizeof keys[0])));
    znl_curve_release(curve);
    allowed[7].size = 39;
    texts.allowed_count = COUNT;
    assert_int_equal(znl_curve_new(&curve, 1, &texts, &which), ZNL_E_INVALID);
    assert_string_equal(which, "allow");
    texts.allowed_count = ZNL_CURVE_ALLOWED_MAX + 1; /* refused before it is looked at */
    assert_int_equal(znl_curve_new(&curve, 1, &texts, &which), ZNL_E_TOO_BIG);
}

static void making_keys_survives_each_allocation_failing(void **state)
{
    (void)state;
    znl_frame allowed = znl_frame_text(PUBLIC_TEXT);
    znl_curve_texts texts = {
            .secret_key = znl_frame_text(SECRET_TEXT), .allowed = &allowed, .allowed_count = 1};
    for (long n = 0;; n++) {
        znl_curve *curve = NULL;
        const char *which;
        znl_alloc_fail_after(n);
        int err = znl_curve_new(&curve, 1, &texts, &which);
        znl_alloc_fail_after(-1);
        if (err == 0) {
            znl_curve_release(curve);
            assert_int_equal(n, 2);
            return;
        }
        assert_int_equal(err, ZNL_E_NOMEM);
        assert_null(curve);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(z85_is_that_of_the_specification),
            cmocka_unit_test(z85_refuses_what_it_is_not),
            cmocka_unit_test(public_key_follows_from_the_secret_one),
            cmocka_unit_test(pairs_differ_and_belong_together),
            cmocka_unit_test(list_tells_who_is_allowed),
            cmocka_unit_test(making_keys_survives_each_allocation_failing),
    };
    if (znl_random_start() != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
