/* websocket.c - see websocket.h. SPDX-License-Identifier: MIT */
#include "codec/websocket.h"

#include "base/err.h"
#include "codec/text.h"

/* First byte: FIN, three reserved bits, opcode. Second: MASK, size. */
enum { FIN = 0x80, RESERVED = 0x70, OPCODE = 0x0f, MASK = 0x80, SIZE = 0x7f };
enum { SIZE_16 = 126, SIZE_64 = 127, IS_CONTROL = 0x08 };

static int refuse(const char **why, const char *text)
{
    *why = text;
    return ZNL_E_PROTO;
}

static int check_first(const znl_ws_rules *rules, unsigned first, const char **why)
{
    if ((first & RESERVED) != 0)
        return refuse(why, "a frame with reserved bits");
    switch (first & OPCODE) {
    case ZNL_WS_CONTINUATION:
        return rules->opcode != 0 ? 0 : refuse(why, "a continuation of no message");
    case ZNL_WS_TEXT:
    case ZNL_WS_BINARY:
        return rules->opcode == 0 ? 0 : refuse(why, "a new message inside another");
    case ZNL_WS_CLOSE:
    case ZNL_WS_PING:
    case ZNL_WS_PONG:
        return (first & FIN) != 0 ? 0 : refuse(why, "a control frame in fragments");
    default:
        return refuse(why, "a frame of an unknown kind");
    }
}

static int check_second(
        const znl_ws_rules *rules, unsigned first, unsigned second, const char **why)
{
    if ((second & MASK) == 0 && rules->expects_mask)
        return refuse(why, "a frame without a mask");
    if ((second & MASK) != 0 && !rules->expects_mask)
        return refuse(why, "a masked frame from a server");
    if ((first & IS_CONTROL) != 0 && (second & SIZE) > ZNL_WS_CONTROL_BYTES_MAX)
        return refuse(why, "a control frame of more than 125 bytes");
    return 0;
}

int znl_ws_head_read(const znl_ws_rules *rules, const uint8_t *data, size_t size,
        znl_ws_head *head, const char **why)
{
    if (size == 0)
        return 0;
    unsigned first = data[0];
    int err = check_first(rules, first, why);
    if (err != 0 || size == 1)
        return err;
    unsigned second = data[1];
    err = check_second(rules, first, second, why);
    if (err != 0)
        return err;

    size_t at = 2;
    uint64_t payload = second & SIZE;
    if (payload == SIZE_16) {
        at += 2;
        if (size < at)
            return 0;
        payload = (uint64_t)data[2] << 8 | data[3];
        if (payload < SIZE_16)
            return refuse(why, "a frame whose size is not in the shortest form");
    } else if (payload == SIZE_64) {
        at += 8;
        if (size < at)
            return 0;
        payload = (uint64_t)znl_get_be32(data + 2) << 32 | znl_get_be32(data + 6);
        if (payload <= UINT16_MAX || payload > INT64_MAX)
            return refuse(why, "a frame whose size is not in the shortest form");
    }
    if ((first & IS_CONTROL) == 0 &&
            (payload > rules->max_message_bytes ||
                    payload > rules->max_message_bytes - rules->fragment_bytes)) {
        *why = "a message larger than the limit";
        return ZNL_E_TOO_BIG;
    }
    uint32_t mask = 0;
    if ((second & MASK) != 0) {
        if (size < at + sizeof mask)
            return 0;
        memcpy(&mask, data + at, sizeof mask);
        at += sizeof mask;
    }
    head->opcode = first & OPCODE;
    head->is_final = (first & FIN) != 0;
    head->is_masked = (second & MASK) != 0;
    head->mask = mask;
    head->size = payload;
    return (int)at;
}

void znl_ws_rules_advance(znl_ws_rules *rules, const znl_ws_head *head)
{
    if ((head->opcode & IS_CONTROL) != 0)
        return;
    if (head->is_final) {
        rules->opcode = 0;
        rules->fragment_bytes = 0;
        return;
    }
    if (head->opcode != ZNL_WS_CONTINUATION)
        rules->opcode = head->opcode;
    rules->fragment_bytes += head->size;
}

size_t znl_ws_head_write(uint8_t out[ZNL_WS_HEAD_BYTES_MAX], const znl_ws_head *head)
{
    unsigned mask_bit = head->is_masked ? MASK : 0;
    size_t at = 2;
    out[0] = (uint8_t)((head->is_final ? FIN : 0) | head->opcode);
    if (head->size < SIZE_16) {
        out[1] = (uint8_t)(mask_bit | head->size);
    } else if (head->size <= UINT16_MAX) {
        out[1] = (uint8_t)(mask_bit | SIZE_16);
        out[2] = (uint8_t)(head->size >> 8);
        out[3] = (uint8_t)head->size;
        at = 4;
    } else {
        out[1] = (uint8_t)(mask_bit | SIZE_64);
        znl_put_be32(out + 2, (uint32_t)(head->size >> 32));
        znl_put_be32(out + 6, (uint32_t)head->size);
        at = 10;
    }
    if (head->is_masked) {
        memcpy(out + at, &head->mask, sizeof head->mask);
        at += sizeof head->mask;
    }
    return at;
}

/* --- masking (section 5.3): eight bytes at a time, which the compiler makes wider ------------------ */

static uint64_t doubled(uint32_t mask)
{
    return (uint64_t)mask << 32 | mask;
}

static void mask_rest(uint8_t *out, const uint8_t *data, size_t size, uint32_t mask)
{
    uint8_t bytes[sizeof mask];
    memcpy(bytes, &mask, sizeof mask);
    for (size_t i = 0; i < size; i++)
        out[i] = data[i] ^ bytes[i & 3];
}

void znl_ws_mask(uint8_t *data, size_t size, uint32_t mask)
{
    uint64_t wide = doubled(mask);
    size_t at = 0;
    for (; size - at >= sizeof wide; at += sizeof wide) {
        uint64_t word;
        memcpy(&word, data + at, sizeof word);
        word ^= wide;
        memcpy(data + at, &word, sizeof word);
    }
    mask_rest(data + at, data + at, size - at, mask);
}

void znl_ws_mask_copy(
        uint8_t *restrict out, const uint8_t *restrict data, size_t size, uint32_t mask)
{
    uint64_t wide = doubled(mask);
    size_t at = 0;
    for (; size - at >= sizeof wide; at += sizeof wide) {
        uint64_t word;
        memcpy(&word, data + at, sizeof word);
        word ^= wide;
        memcpy(out + at, &word, sizeof word);
    }
    mask_rest(out + at, data + at, size - at, mask);
}

/* --- close frames ---------------------------------------------------------------------------------- */

int znl_ws_code_is_valid(unsigned code)
{
    /* 1004 to 1006 are never sent, up to 1014 are registered, 3000 to 4999 belong to libraries and
     * applications. */
    return (code >= 1000 && code <= 1014 && (code < 1004 || code > 1006)) ||
            (code >= 3000 && code <= 4999);
}

int znl_ws_close_read(znl_frame payload, uint16_t *code, znl_frame *reason, uint16_t *fault)
{
    *code = 0;
    *reason = (znl_frame){NULL, 0};
    if (payload.size == 0)
        return 0;
    *fault = ZNL_WS_CODE_PROTOCOL;
    if (payload.size < 2)
        return ZNL_E_PROTO;
    unsigned number = (unsigned)payload.data[0] << 8 | payload.data[1];
    if (!znl_ws_code_is_valid(number))
        return ZNL_E_PROTO;
    *fault = ZNL_WS_CODE_BAD_DATA;
    if (!znl_utf8_valid(payload.data + 2, payload.size - 2))
        return ZNL_E_PROTO;
    *code = (uint16_t)number;
    *reason = znl_frame_of(payload.data + 2, payload.size - 2);
    return 0;
}

size_t znl_ws_close_write(
        uint8_t out[ZNL_WS_CONTROL_BYTES_MAX], uint16_t code, znl_frame reason)
{
    if (code == 0)
        return 0;
    size_t size = reason.size;
    if (size > ZNL_WS_REASON_BYTES_MAX) {
        size = ZNL_WS_REASON_BYTES_MAX;
        while (size > 0 && (reason.data[size] & 0xc0) == 0x80)
            size--;
    }
    out[0] = (uint8_t)(code >> 8);
    out[1] = (uint8_t)code;
    if (size > 0)
        memcpy(out + 2, reason.data, size);
    return 2 + size;
}
