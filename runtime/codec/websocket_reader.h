/* websocket_reader.h - bytes as they arrive to whole messages and control frames (RFC 6455).
 *
 * What came whole is handed out where it lies, unmasked in place; only what a read has cut in two, and
 * fragments, are copied. Nothing is held while nothing is under way. A size that a peer announces reserves
 * no memory: it grows with the bytes that have come.
 *
 * Layer: codec. No I/O, no clock. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_WEBSOCKET_READER_H
#define ZNL_CODEC_WEBSOCKET_READER_H

#include "codec/websocket.h"

typedef struct znl_ws_reader {
    znl_ws_rules rules;
    int checks_utf8; /* of text messages */
    uint8_t *data;   /* what was fed and not read; borrowed */
    size_t size;
    znl_buffer
            input;   /* what was kept: a frame that is not whole, and what followed when told */
    size_t input_at; /* read up to here */
    znl_buffer fragments; /* of the message under way */
    int is_given;         /* the fragments were handed out as a whole */
    uint16_t fault;       /* after an error: the close code to send */
    const char *why;      /* and why; static */
} znl_ws_reader;

/* A message (ZNL_WS_TEXT, ZNL_WS_BINARY) or a control frame. */
typedef struct znl_ws_item {
    int opcode;
    uint8_t *data; /* borrowed until the next call; never NULL */
    size_t size;
    uint16_t code; /* ZNL_WS_CLOSE: its code, 0 when there is none; `data` is the reason */
} znl_ws_item;

/* max_message_bytes is at least 1. */
void znl_ws_reader_init(
        znl_ws_reader *reader, int is_server, size_t max_message_bytes, int checks_utf8);
void znl_ws_reader_fini(znl_ws_reader *reader);

/* Lends bytes, until znl_ws_reader_next() has returned 0 or znl_ws_reader_keep() was called. All that was
 * lent before has been read or kept. The bytes are changed. */
void znl_ws_reader_feed(znl_ws_reader *reader, uint8_t *data, size_t size);

/* 1 and *item; 0 when there is nothing whole: the rest is kept. ZNL_E_PROTO, ZNL_E_TOO_BIG, ZNL_E_NOMEM:
 * the connection is to be closed with `fault`; do not call it again. */
int znl_ws_reader_next(znl_ws_reader *reader, znl_ws_item *item);

/* Copies what was lent and not read, for later calls of znl_ws_reader_next(). 0 or ZNL_E_NOMEM. */
int znl_ws_reader_keep(znl_ws_reader *reader);

/* Bytes held. */
size_t znl_ws_reader_held(const znl_ws_reader *reader);

#endif
