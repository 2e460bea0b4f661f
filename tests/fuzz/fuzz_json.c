/* JSON: whatever is passed as one value can be read step by step to the same end, is written as a text that
 * reads the same again, and has the same signature then; the first byte is how deep it may go.
 * SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include <string.h>

#include "base/err.h"
#include "codec/json.h"
#include "codec/json_signature.h"
#include "codec/text.h"

static void put(znl_buffer *out, const char *text)
{
    FUZZ_HOLDS(znl_buffer_append(out, text, strlen(text)) == 0);
}

static void put_text(znl_buffer *out, znl_frame text)
{
    FUZZ_HOLDS(znl_utf8_valid(text.data, text.size));
    FUZZ_HOLDS(znl_json_put_string(out, text) == 0);
}

static void put_number(znl_json_reader *reader, znl_buffer *out)
{
    double value;
    int is_integer;
    int64_t integer = 0;
    FUZZ_HOLDS(znl_json_number(reader, &value, &is_integer, &integer) == 0);
    FUZZ_HOLDS(value == value);
    if (is_integer == 2)
        FUZZ_HOLDS(znl_json_put_unsigned(out, (uint64_t)integer) == 0);
    else if (is_integer)
        FUZZ_HOLDS(znl_json_put_integer(out, integer) == 0);
    else if (znl_json_put_double(out, value) != 0)
        put(out, value > 0 ? "1e999" : "-1e999"); /* too large for a double */
}

/* Reads a value that has been passed before, and writes it. */
static void rewrite(znl_json_reader *reader, znl_buffer *out)
{
    znl_frame text, name = {0};
    znl_buffer scratch = {0};
    int is_plain = 0, more, count = 0;
    int kind = znl_json_peek(reader);
    switch (kind) {
    case ZNL_JSON_STRING:
        FUZZ_HOLDS(znl_json_string(reader, &text, &scratch) == 0);
        put_text(out, text);
        break;
    case ZNL_JSON_NUMBER:
        put_number(reader, out);
        break;
    case ZNL_JSON_ARRAY:
    case ZNL_JSON_OBJECT:
        put(out, kind == ZNL_JSON_OBJECT ? "{" : "[");
        FUZZ_HOLDS(znl_json_enter(reader) == 0);
        while ((more = znl_json_next(reader, &name, &is_plain)) == 1) {
            put(out, count++ > 0 ? "," : "");
            if (kind == ZNL_JSON_OBJECT) {
                if (!is_plain)
                    FUZZ_HOLDS(znl_json_unescape(name, &name, &scratch) == 0);
                put_text(out, name);
                put(out, ":");
            }
            rewrite(reader, out);
        }
        FUZZ_HOLDS(more == 0);
        put(out, kind == ZNL_JSON_OBJECT ? "}" : "]");
        break;
    default:
        FUZZ_HOLDS(kind >= 0);
        FUZZ_HOLDS(znl_json_literal(reader) == 0);
        put(out, kind == ZNL_JSON_NULL ? "null" : kind == ZNL_JSON_TRUE ? "true" : "false");
    }
    znl_buffer_fini(&scratch);
}

static znl_frame frame_of(const znl_buffer *buffer)
{
    return znl_frame_of(buffer->data, buffer->size);
}

static int pass(znl_frame text, unsigned depth)
{
    znl_json_reader reader;
    znl_frame raw;
    znl_json_begin(&reader, text, depth);
    int err = znl_json_skip(&reader, &raw);
    FUZZ_HOLDS(
            text.size == 0 || (reader.at >= text.data && reader.at <= text.data + text.size));
    if (err != 0)
        return err;
    FUZZ_HOLDS(reader.depth == 0);
    FUZZ_HOLDS(raw.size > 0 && FUZZ_INSIDE(raw, text.data, text.size));
    FUZZ_HOLDS(znl_utf8_valid(raw.data, raw.size));
    return znl_json_end(&reader);
}

/* True when there may be half a pair of surrogates, which is not kept. */
static int has_escapes(znl_frame text)
{
    return memchr(text.data, '\\', text.size) != NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    znl_frame text = znl_frame_of(data + 1, size - 1);
    unsigned depth = data[0];
    znl_buffer first = {0}, second = {0}, signature = {0}, again = {0};
    int err = pass(text, depth);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO || err == ZNL_E_LIMIT);
    int signed_err = text.size > 0 ? znl_json_signature(text, depth, &signature) : err;
    FUZZ_HOLDS((signed_err == 0) == (err == 0));
    if (err == 0) {
        znl_json_reader reader;
        znl_json_begin(&reader, text, depth);
        rewrite(&reader, &first);
        FUZZ_HOLDS(znl_json_end(&reader) == 0);
        FUZZ_HOLDS(pass(frame_of(&first), depth) == 0);
        znl_json_begin(&reader, frame_of(&first), depth);
        rewrite(&reader, &second);
        FUZZ_HOLDS(znl_json_end(&reader) == 0);
        FUZZ_HOLDS(znl_frame_equal(frame_of(&first), frame_of(&second)));
        FUZZ_HOLDS(znl_json_signature(frame_of(&first), depth, &again) == 0);
        FUZZ_HOLDS(
                has_escapes(text) || znl_frame_equal(frame_of(&signature), frame_of(&again)));
    }
    znl_buffer_fini(&first);
    znl_buffer_fini(&second);
    znl_buffer_fini(&signature);
    znl_buffer_fini(&again);
    return 0;
}
