/* The canonical form of JSON: every text that reads has one, which is its own form, and no other text has one; the
 * first byte is how deep it may go. SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include <string.h>

#include "base/err.h"
#include "codec/json.h"
#include "codec/json_canonical.h"

static int pass(znl_frame text, unsigned depth)
{
    znl_json_reader reader;
    znl_frame raw;
    znl_json_begin(&reader, text, depth);
    int err = znl_json_skip(&reader, &raw);
    return err != 0 ? err : znl_json_end(&reader);
}

/* The value of the digits of an array index, or -1. */
static int64_t index_of(znl_frame name)
{
    int64_t index = 0;
    if (name.size == 0 || name.size > 10 || (name.size > 1 && name.data[0] == '0'))
        return -1;
    for (size_t i = 0; i < name.size; i++) {
        if (name.data[i] < '0' || name.data[i] > '9')
            return -1;
        index = index * 10 + (name.data[i] - '0');
    }
    return index < INT64_C(4294967295) ? index : -1;
}

/* No white space in front of values, names that are indexes first and ascending. */
static void check_value(znl_json_reader *reader)
{
    FUZZ_HOLDS(reader->at<reader->end && * reader->at> ' ');
    int kind = znl_json_peek(reader), is_plain, more, has_names = 0;
    int64_t last = -1;
    znl_frame name, raw;
    if (kind != ZNL_JSON_OBJECT && kind != ZNL_JSON_ARRAY) {
        FUZZ_HOLDS(znl_json_skip(reader, &raw) == 0);
        return;
    }
    FUZZ_HOLDS(znl_json_enter(reader) == 0);
    while ((more = znl_json_next(reader, &name, &is_plain)) == 1) {
        int64_t index = kind == ZNL_JSON_OBJECT ? index_of(name) : -1;
        FUZZ_HOLDS(index < 0 || (index > last && !has_names));
        has_names |= index < 0;
        last = index;
        check_value(reader);
    }
    FUZZ_HOLDS(more == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    znl_frame text = znl_frame_of(data + 1, size - 1);
    unsigned depth = data[0];
    znl_buffer first = {0}, second = {0};
    int err = znl_json_canonical(text, depth, &first), expected = pass(text, depth);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO || err == ZNL_E_LIMIT);
    FUZZ_HOLDS((err == 0) == (expected == 0));
    FUZZ_HOLDS(err == 0 || first.size == 0);
    if (err == 0) {
        znl_frame form = znl_frame_of(first.data, first.size);
        znl_json_reader reader;
        FUZZ_HOLDS(pass(form, depth) == 0);
        znl_json_begin(&reader, form, depth);
        check_value(&reader);
        FUZZ_HOLDS(reader.at == reader.end);
        FUZZ_HOLDS(znl_json_canonical(form, depth, &second) == 0);
        FUZZ_HOLDS(znl_frame_equal(form, znl_frame_of(second.data, second.size)));
    }
    znl_buffer_fini(&first);
    znl_buffer_fini(&second);
    return 0;
}
