/* websocket.h - frames of WebSocket (RFC 6455): heads, masking, the payload of a close frame. No extension
 * is known, so reserved bits are refused.
 *
 * Layer: codec. Pure functions: no I/O, no clock, no allocation. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_WEBSOCKET_H
#define ZNL_CODEC_WEBSOCKET_H

#include "base/bytes.h"

enum {
    ZNL_WS_CONTINUATION = 0,
    ZNL_WS_TEXT = 1,
    ZNL_WS_BINARY = 2,
    ZNL_WS_CLOSE = 8,
    ZNL_WS_PING = 9,
    ZNL_WS_PONG = 10,
};

/* Close codes (section 7.4.1) that are sent or answered from here. */
enum {
    ZNL_WS_CODE_NORMAL = 1000,
    ZNL_WS_CODE_AWAY = 1001,
    ZNL_WS_CODE_PROTOCOL = 1002,
    ZNL_WS_CODE_BAD_DATA = 1007, /* text that is not UTF-8 */
    ZNL_WS_CODE_POLICY = 1008,
    ZNL_WS_CODE_TOO_BIG = 1009,
    ZNL_WS_CODE_ERROR = 1011,     /* ours: out of memory */
    ZNL_WS_CODE_TRY_LATER = 1013, /* ours: the client does not read */
};

#define ZNL_WS_HEAD_BYTES_MAX 14u
#define ZNL_WS_CONTROL_BYTES_MAX 125u /* section 5.5 */
#define ZNL_WS_REASON_BYTES_MAX 123u

typedef struct znl_ws_head {
    uint8_t opcode;
    uint8_t is_final;
    uint8_t is_masked;
    uint32_t mask; /* its four bytes as they lie in memory */
    uint64_t size; /* of the payload, bytes */
} znl_ws_head;

/* What the next frame of a connection may be. */
typedef struct znl_ws_rules {
    int expects_mask;           /* we are the server (section 5.1) */
    uint64_t max_message_bytes; /* all fragments together */
    uint64_t fragment_bytes;    /* of the message whose fragments arrive */
    uint8_t opcode;             /* of that message; 0: none is under way */
} znl_ws_rules;

/* Reads a head at the start of the bytes and checks that the frame may come now. Returns its size; 0 when
 * it is not whole yet; ZNL_E_PROTO or ZNL_E_TOO_BIG, as early as the bytes tell, and *why for people,
 * static. Changes nothing in `rules`. */
int znl_ws_head_read(const znl_ws_rules *rules, const uint8_t *data, size_t size,
        znl_ws_head *head, const char **why);

/* The frame of that head was taken: what may come next. */
void znl_ws_rules_advance(znl_ws_rules *rules, const znl_ws_head *head);

/* Writes a head, its size in the shortest form. Returns its bytes. */
size_t znl_ws_head_write(uint8_t out[ZNL_WS_HEAD_BYTES_MAX], const znl_ws_head *head);

/* Masks, or unmasks, in place. */
void znl_ws_mask(uint8_t *data, size_t size, uint32_t mask);
/* The same while copying; the two do not overlap. */
void znl_ws_mask_copy(
        uint8_t *restrict out, const uint8_t *restrict data, size_t size, uint32_t mask);

/* True for a code that may stand in a close frame (section 7.4). */
int znl_ws_code_is_valid(unsigned code);

/* Reads the payload of a close frame. *code is 0 when there is none; *reason is borrowed. ZNL_E_PROTO: one
 * byte, a code that must not be sent, or a reason that is not UTF-8; then *fault is the code to answer. */
int znl_ws_close_read(znl_frame payload, uint16_t *code, znl_frame *reason, uint16_t *fault);

/* Writes one: nothing when `code` is 0; the reason is cut at ZNL_WS_REASON_BYTES_MAX, between characters.
 * Returns its bytes. */
size_t znl_ws_close_write(
        uint8_t out[ZNL_WS_CONTROL_BYTES_MAX], uint16_t code, znl_frame reason);

#endif
