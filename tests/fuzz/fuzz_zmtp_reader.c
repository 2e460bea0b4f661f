/* The reader of ZMTP: however bytes are cut, the same messages, commands and errors come out of them, in memory that they
 * may lie in; and what was read writes back to what reads the same. SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/err.h"
#include "codec/zmtp_reader.h"

#include <string.h>

/* What a reader found, folded into one number, order and errors included. */
struct outcome {
    uint64_t hash;
    size_t messages, commands, errors;
    int err;          /* that ended it */
    znl_buffer again; /* all that came out, written anew */
    size_t lead_bytes;
};

static void fold(struct outcome *outcome, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++)
        outcome->hash = (outcome->hash ^ bytes[i]) * 0x100000001b3u;
}

static void write_again(struct outcome *outcome, const znl_zmtp_item *item)
{
    size_t size = znl_zmtp_message_bytes(item->frames, item->count);
    FUZZ_HOLDS(znl_buffer_extend(&outcome->again, size) == 0);
    uint8_t *at = outcome->again.data + outcome->again.size, *end;
    if (item->is_command) {
        end = znl_zmtp_write_head(at, item->frames[0].size, ZNL_ZMTP_COMMAND);
        if (item->frames[0].size > 0)
            memcpy(end, item->frames[0].data, item->frames[0].size);
        end += item->frames[0].size;
    } else {
        end = znl_zmtp_write_message(at, item->frames, item->count);
    }
    FUZZ_HOLDS(end == at + size);
    outcome->again.size += size;
}

static void take_item(struct outcome *outcome, const znl_zmtp_limits *limits,
        const znl_zmtp_item *item, const uint8_t *lent, size_t lent_size,
        const znl_buffer *held)
{
    size_t bytes = 0;
    FUZZ_HOLDS(item->count >= 1 && (!item->is_command || item->count == 1));
    FUZZ_HOLDS(item->is_command || item->count <= limits->max_frames);
    for (size_t i = 0; i < item->count; i++) {
        znl_frame frame = item->frames[i];
        FUZZ_HOLDS(FUZZ_INSIDE(frame, lent, lent_size) ||
                FUZZ_INSIDE(frame, held->data, held->capacity));
        FUZZ_HOLDS(frame.size <= limits->max_frame_bytes);
        bytes += frame.size;
        fold(outcome, &frame.size, sizeof frame.size);
        fold(outcome, frame.data, frame.size);
    }
    FUZZ_HOLDS(item->is_command || bytes + outcome->lead_bytes <= limits->max_message_bytes);
    fold(outcome, item->is_command ? "c" : "m", 1);
    outcome->commands += (size_t)item->is_command;
    outcome->messages += (size_t)!item->is_command;
    write_again(outcome, item);
    item->frames[-1] = znl_frame_text("room for one before");
}

/* Cuts into pieces of up to 2 * `step` bytes; 0: does not cut. */
static struct outcome read_all(const uint8_t *data, size_t size, const znl_zmtp_limits *limits,
        size_t lead_bytes, uint32_t step)
{
    struct outcome outcome = {.hash = 0xcbf29ce484222325u, .lead_bytes = lead_bytes};
    znl_zmtp_reader reader = {.lead_bytes = lead_bytes};
    znl_zmtp_scratch scratch = {0};
    uint32_t turn = step;
    for (size_t at = 0; at < size && outcome.err == 0;) {
        turn = turn * 1103515245u + 12345u;
        size_t part = step == 0 ? size : 1 + (turn >> 16) % (2 * step);
        part = part < size - at ? part : size - at;
        uint8_t *lent = malloc(part);
        FUZZ_HOLDS(lent != NULL);
        memcpy(lent, data + at, part);
        size_t before = reader.held.size;
        znl_zmtp_reader_feed(&reader, lent, part);
        znl_zmtp_item item;
        int got;
        while ((got = znl_zmtp_reader_next(&reader, limits, &scratch, &item)) != 0) {
            FUZZ_HOLDS(reader.size == 0 ||
                    FUZZ_INSIDE(znl_frame_of(reader.data, reader.size), lent, part));
            if (got == 1) {
                take_item(&outcome, limits, &item, lent, part, &reader.held);
            } else {
                fold(&outcome, &got, sizeof got);
                outcome.errors++;
            }
            if (got == 1 || got == ZNL_E_TOO_BIG || got == ZNL_E_LIMIT)
                continue;
            FUZZ_HOLDS(got == ZNL_E_PROTO);
            outcome.err = got;
            break;
        }
        FUZZ_HOLDS(got != 0 || reader.size == 0); /* all of it has been read or kept */
        FUZZ_HOLDS(reader.held.size <= before + part);
        FUZZ_HOLDS(reader.held.size <= limits->max_message_bytes +
                        ((size_t)limits->max_frames + 1) * ZNL_ZMTP_HEAD_BYTES_MAX + 65536);
        FUZZ_HOLDS(reader.held.size > 0 || reader.held.data == NULL);
        free(lent);
        at += part;
    }
    znl_zmtp_reader_fini(&reader);
    znl_zmtp_scratch_fini(&scratch);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const znl_zmtp_limits limits[] = {
            {.max_frame_bytes = 1u << 20, .max_message_bytes = 1u << 20, .max_frames = 1024},
            {.max_frame_bytes = 300, .max_message_bytes = 400, .max_frames = 5},
            {.max_frame_bytes = 1000, .max_message_bytes = 20, .max_frames = 2},
            {.max_frame_bytes = SIZE_MAX, .max_message_bytes = SIZE_MAX, .max_frames = 1},
    };
    if (size < 2)
        return 0;
    const znl_zmtp_limits *these = &limits[data[0] & 3];
    uint32_t step = 1 + (data[0] >> 2) * (data[1] + 1u) / 16;
    size_t lead = (data[1] & 3u) * 5;
    data += 2;
    size -= 2;
    struct outcome whole = read_all(data, size, these, lead, 0);
    struct outcome cut = read_all(data, size, these, lead, step);
    struct outcome bytes = read_all(data, size, these, lead, 1);
    FUZZ_HOLDS(whole.hash == cut.hash && whole.err == cut.err);
    FUZZ_HOLDS(whole.hash == bytes.hash && whole.err == bytes.err);
    /* What came out is written: it reads as the same, without what was refused. */
    struct outcome again = read_all(whole.again.data, whole.again.size, these, lead, step);
    FUZZ_HOLDS(again.err == 0 && again.errors == 0);
    FUZZ_HOLDS(again.messages == whole.messages && again.commands == whole.commands);
    FUZZ_HOLDS(whole.errors > 0 || again.hash == whole.hash);
    FUZZ_HOLDS(again.again.size == whole.again.size);
    FUZZ_HOLDS(whole.again.size == 0 ||
            memcmp(again.again.data, whole.again.data, whole.again.size) == 0);
    znl_buffer_fini(&whole.again);
    znl_buffer_fini(&cut.again);
    znl_buffer_fini(&bytes.again);
    znl_buffer_fini(&again.again);
    return 0;
}
