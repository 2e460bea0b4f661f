/* websocket_reader.c - see websocket_reader.h. SPDX-License-Identifier: MIT */
#include "codec/websocket_reader.h"

#include "base/err.h"
#include "codec/text.h"

#define KEPT_BYTES (64u * 1024) /* as much as a stream reads at once */

void znl_ws_reader_init(
        znl_ws_reader *reader, int is_server, size_t max_message_bytes, int checks_utf8)
{
    *reader = (znl_ws_reader){
            .rules = {.expects_mask = is_server, .max_message_bytes = max_message_bytes},
            .checks_utf8 = checks_utf8};
}

void znl_ws_reader_fini(znl_ws_reader *reader)
{
    znl_buffer_fini(&reader->input);
    znl_buffer_fini(&reader->fragments);
    reader->data = NULL;
    reader->size = reader->input_at = 0;
}

void znl_ws_reader_feed(znl_ws_reader *reader, uint8_t *data, size_t size)
{
    reader->data = data;
    reader->size = size;
}

size_t znl_ws_reader_held(const znl_ws_reader *reader)
{
    return reader->input.capacity + reader->fragments.capacity;
}

static int fail(znl_ws_reader *reader, int err, const char *why)
{
    reader->fault = err == ZNL_E_TOO_BIG ? ZNL_WS_CODE_TOO_BIG
            : err == ZNL_E_NOMEM         ? ZNL_WS_CODE_ERROR
                                         : ZNL_WS_CODE_PROTOCOL;
    reader->why = why;
    return err;
}

/* --- the bytes ------------------------------------------------------------------------------------- */

/* Appends the first `size` of the lent bytes to the kept ones. */
static int take(znl_ws_reader *reader, size_t size)
{
    znl_buffer *input = &reader->input;
    if (reader->input_at > 0) {
        input->size -= reader->input_at;
        memmove(input->data, input->data + reader->input_at, input->size);
        reader->input_at = 0;
    }
    if (input->size == 0)
        znl_buffer_trim(input, KEPT_BYTES); /* what a large message left behind */
    int err = znl_buffer_append(input, reader->data, size);
    if (err != 0)
        return fail(reader, err, "out of memory");
    reader->data += size;
    reader->size -= size;
    return 0;
}

int znl_ws_reader_keep(znl_ws_reader *reader)
{
    return reader->size > 0 ? take(reader, reader->size) : 0;
}

/* The next whole frame: 1, its head and payload; 0 when there is none and everything is kept. */
static int next_frame(znl_ws_reader *reader, znl_ws_head *head, uint8_t **payload)
{
    for (;;) {
        size_t held = reader->input.size - reader->input_at;
        uint8_t *data = held > 0 ? reader->input.data + reader->input_at : reader->data;
        size_t size = held > 0 ? held : reader->size;
        const char *why = NULL;
        int lead = znl_ws_head_read(&reader->rules, data, size, head, &why);
        if (lead < 0)
            return fail(reader, lead, why);
        if (lead > 0 && head->size <= size - (size_t)lead) {
            *payload = data + lead;
            size_t whole = (size_t)lead + (size_t)head->size;
            if (held > 0) {
                reader->input_at += whole;
            } else {
                reader->data += whole;
                reader->size -= whole;
            }
            return 1;
        }
        if (reader->size == 0)
            return 0;
        /* As much as this frame still needs, so that the next one is again read where it lies. A head is
         * short: byte by byte. */
        size_t missing = lead == 0 ? 1 : (size_t)(head->size - (size - (size_t)lead));
        if (held == 0 || missing > reader->size)
            missing = reader->size;
        int err = take(reader, missing);
        if (err != 0)
            return err;
    }
}

/* --- the messages ---------------------------------------------------------------------------------- */

static int give_close(znl_ws_reader *reader, znl_ws_item *item)
{
    znl_frame reason;
    int err = znl_ws_close_read(
            znl_frame_of(item->data, item->size), &item->code, &reason, &reader->fault);
    if (err != 0) {
        reader->why = "a close frame that is malformed";
        return err;
    }
    if (item->code != 0)
        item->data += 2;
    item->size = reason.size;
    return 1;
}

static int give_message(znl_ws_reader *reader, const znl_ws_item *item)
{
    if (item->opcode == ZNL_WS_TEXT && reader->checks_utf8 &&
            !znl_utf8_valid(item->data, item->size)) {
        reader->fault = ZNL_WS_CODE_BAD_DATA;
        reader->why = "a text that is not UTF-8";
        return ZNL_E_PROTO;
    }
    return 1;
}

static int next_item(znl_ws_reader *reader, znl_ws_item *item)
{
    for (;;) {
        znl_ws_head head;
        uint8_t *payload = NULL;
        int got = next_frame(reader, &head, &payload);
        if (got <= 0)
            return got;
        size_t size = (size_t)head.size;
        if (head.is_masked)
            znl_ws_mask(payload, size, head.mask);
        uint8_t opcode = reader->rules.opcode;
        znl_ws_rules_advance(&reader->rules, &head);
        *item = (znl_ws_item){.opcode = head.opcode, .data = payload, .size = size};
        if (head.opcode == ZNL_WS_CLOSE)
            return give_close(reader, item);
        if (head.opcode == ZNL_WS_PING || head.opcode == ZNL_WS_PONG)
            return 1;
        if (head.is_final && head.opcode != ZNL_WS_CONTINUATION)
            return give_message(reader, item);
        int err = znl_buffer_append(&reader->fragments, payload, size);
        if (err != 0)
            return fail(reader, err, "out of memory");
        if (!head.is_final)
            continue;
        item->opcode = opcode;
        item->size = reader->fragments.size;
        if (item->size > 0)
            item->data = reader->fragments.data;
        reader->is_given = 1;
        return give_message(reader, item);
    }
}

int znl_ws_reader_next(znl_ws_reader *reader, znl_ws_item *item)
{
    if (reader->is_given) {
        reader->is_given = 0;
        znl_buffer_fini(&reader->fragments);
    }
    int got = next_item(reader, item);
    if (got == 0 && reader->input.size == reader->input_at) {
        znl_buffer_fini(&reader->input);
        reader->input_at = 0;
    }
    return got;
}
