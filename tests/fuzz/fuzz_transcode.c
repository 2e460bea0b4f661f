/* The default transcode: whatever is read can be written, and reads as the same then; the first byte is how deep it
 * may go. SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include <string.h>

#include "codec/text.h"
#include "support/transcode_copy.h"

/* Reads a text to its end, or to the error; what is read adds up to little more than the text. */
static void check_tokens(znl_transcode_reader *reader, znl_frame text, unsigned max_depth)
{
    znl_transcode_token token = {0};
    uint64_t bytes = 0;
    int depth = 0, err = znl_transcode_begin(reader, text, max_depth);
    while (err == 0) {
        err = znl_transcode_next(reader, &token);
        if (err != 0)
            break;
        if (token.kind == ZNL_TRANSCODE_STRING)
            FUZZ_HOLDS(znl_utf8_valid(token.bytes.data, token.bytes.size));
        if (token.kind == ZNL_TRANSCODE_STRING || token.kind == ZNL_TRANSCODE_BYTES)
            bytes += token.bytes.size;
        depth += token.kind == ZNL_TRANSCODE_ARRAY || token.kind == ZNL_TRANSCODE_OBJECT ||
                token.kind == ZNL_TRANSCODE_ERROR;
        depth -= token.kind == ZNL_TRANSCODE_END;
        FUZZ_HOLDS(depth >= 0 && (unsigned)depth <= max_depth);
        if (depth == 0)
            break;
    }
    FUZZ_HOLDS(bytes <= 17 * (uint64_t)text.size + 4096);
    FUZZ_HOLDS(znl_transcode_next(reader, &token) == ZNL_E_PROTO); /* there is no more */
}

static void check_text(znl_frame text, unsigned max_depth)
{
    znl_transcode_reader reader = {0};
    znl_transcode_writer writer = {0};
    znl_buffer first = {0}, second = {0};
    check_tokens(&reader, text, max_depth);
    int err = znl_transcode_copy(&reader, &writer, text, max_depth, &first);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO || err == ZNL_E_LIMIT);
    if (err == 0) {
        znl_frame again = znl_frame_of(first.data, first.size);
        FUZZ_HOLDS(znl_transcode_copy(&reader, &writer, again, max_depth, &second) == 0);
        FUZZ_HOLDS(znl_frame_equal(again, znl_frame_of(second.data, second.size)));
    }
    znl_buffer_fini(&first);
    znl_buffer_fini(&second);
    znl_transcode_reader_fini(&reader);
    znl_transcode_writer_fini(&writer);
}

/* The same with the low bytes standing for what texts are made of. */
static void check_assembled(const uint8_t *data, size_t size, unsigned max_depth)
{
    static const char *const parts[] = {"^^^^", "%2B", "%7C", "%5E", "%25", "|-5", "\xc3\xa9",
            "NaN", "Infinity", "1|2|3|", "0123456789ABCDEF", "^^^^@", "^^^^$0|"};
    znl_buffer text = {0};
    for (size_t i = 0; i < size; i++) {
        const char plain[2] = {(char)data[i], 0};
        int is_part = data[i] < sizeof parts / sizeof parts[0];
        const char *part = is_part ? parts[data[i]] : plain;
        FUZZ_HOLDS(znl_buffer_append(&text, part, is_part ? strlen(part) : 1) == 0);
    }
    check_text(znl_frame_of(text.data, text.size), max_depth);
    znl_buffer_fini(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    check_text(znl_frame_of(data + 1, size - 1), data[0]);
    if (size > 1)
        check_assembled(data + 1, size - 1, data[0]);
    return 0;
}
