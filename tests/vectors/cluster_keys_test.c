/* Subscription keys: what a follower sends reads as its key and registration, and the canonical form of that is the
 * key a leader computes. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "codec/cluster.h"
#include "codec/json_canonical.h"
#include "support/vector.h"

#define DEPTH 32u
#define PREFIX "$$inner$$__"

static void assert_frame(znl_frame actual, znl_frame expected)
{
    if (!znl_frame_equal(actual, expected))
        fail_msg("%.*s instead of %.*s", (int)actual.size, (const char *)actual.data,
                (int)expected.size, (const char *)expected.data);
}

/* The key of a registration; absent: undefined. */
static void assert_key(znl_frame reg, const char *expected)
{
    znl_buffer out = {0};
    assert_int_equal(znl_buffer_append(&out, PREFIX, strlen(PREFIX)), 0);
    if (reg.data == NULL)
        assert_int_equal(znl_buffer_append(&out, "undefined", 9), 0);
    else
        assert_int_equal(znl_json_canonical(reg, DEPTH, &out), 0);
    assert_frame(znl_frame_of(out.data, out.size), znl_frame_text(expected));
    znl_buffer_fini(&out);
}

static void recorded_keys(void **state)
{
    (void)state;
    const cJSON *item;
    size_t count = 0;
    znl_buffer scratch = {0}, out = {0};
    ZNL_VECTOR_EACH(item, znl_vector_file("cluster/keys.json"), "keys")
    {
        znl_cluster_message message;
        znl_frame text = znl_vector_frame(item, "connObj_text");
        text = znl_frame_of(znl_vector_copy(text), text.size);
        assert_int_equal(znl_cluster_read(text, DEPTH, &scratch, &message), 0);
        assert_int_equal(message.kind, ZNL_CLUSTER_SUBSCRIBE);
        assert_frame(message.key, znl_vector_frame(item, "follower_key"));
        assert_key(message.reg, znl_vector_text(item, "leader_key"));
        out.size = 0;
        assert_int_equal(znl_cluster_write(&message, &out), 0);
        assert_frame(znl_frame_of(out.data, out.size), text);
        count++;
    }
    assert_int_equal(count, 23);
    znl_buffer_fini(&scratch);
    znl_buffer_fini(&out);
    znl_vector_end();
}

static void foreign_texts(void **state)
{
    (void)state;
    const cJSON *item;
    size_t count = 0;
    ZNL_VECTOR_EACH(item, znl_vector_file("cluster/keys.json"), "foreign_texts")
    {
        assert_key(znl_vector_frame(item, "reg_text"), znl_vector_text(item, "leader_key"));
        count++;
    }
    assert_int_equal(count, 7);
    znl_vector_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(recorded_keys),
            cmocka_unit_test(foreign_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
