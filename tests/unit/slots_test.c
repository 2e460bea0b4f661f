/* Objects found by their slot. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "state/slots.h"

struct thing {
    znl_slot slot;
    uint64_t value;
};

#define MANY 3000u
static struct thing *kept[MANY];

static struct thing *take(znl_slots *slots)
{
    void *item = NULL;
    assert_int_equal(znl_slots_take(slots, &item), 0);
    return item;
}

static void objects_stay_where_they_are(void **state)
{
    (void)state;
    znl_slots slots;
    znl_slots_init(&slots, sizeof(struct thing), MANY);
    assert_null(znl_slots_at(&slots, 0));
    assert_null(znl_slots_from(&slots, 0));
    for (uint32_t i = 0; i < MANY; i++) {
        kept[i] = take(&slots);
        assert_int_equal(kept[i]->value, 0);
        kept[i]->value = i + 1;
    }
    void *more;
    assert_int_equal(znl_slots_take(&slots, &more), ZNL_E_LIMIT);
    for (uint32_t i = 0; i < MANY; i++) {
        assert_ptr_equal(znl_slots_at(&slots, kept[i]->slot.index), kept[i]);
        assert_int_equal(kept[i]->value, i + 1);
    }
    assert_null(znl_slots_at(&slots, ZNL_SLOTS_MAX));
    assert_null(znl_slots_at(&slots, UINT32_MAX));
    znl_slots_give(&slots, kept[17]);
    assert_null(znl_slots_at(&slots, 17));
    assert_int_equal(take(&slots)->slot.index, 17);
    znl_slots_fini(&slots);
}

static void walks_while_they_are_given_back(void **state)
{
    (void)state;
    znl_slots slots;
    znl_slots_init(&slots, sizeof(struct thing), MANY);
    for (uint32_t i = 0; i < 500; i++)
        take(&slots);
    uint32_t seen = 0;
    struct thing *thing = znl_slots_from(&slots, 0);
    while (thing != NULL) {
        uint32_t index = thing->slot.index;
        assert_int_equal(index, seen++);
        znl_slots_give(&slots, thing);
        thing = znl_slots_from(&slots, index + 1);
    }
    assert_int_equal(seen, 500);
    assert_int_equal(slots.count, 0);
    assert_int_equal(slots.chunk_count, 4); /* large chunks went with the last one */
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(take(&slots)->slot.index, i);
    znl_slots_fini(&slots);
}

static void without_memory(void **state)
{
    (void)state;
    znl_slots slots;
    void *item;
    znl_slots_init(&slots, sizeof(struct thing), UINT32_MAX);
    assert_int_equal(slots.limit, ZNL_SLOTS_MAX);
    znl_alloc_fail_after(0);
    assert_int_equal(znl_slots_take(&slots, &item), ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
    assert_int_equal(znl_slots_take(&slots, &item), 0);
    znl_slots_fini(&slots);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(objects_stay_where_they_are),
            cmocka_unit_test(walks_while_they_are_given_back),
            cmocka_unit_test(without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
