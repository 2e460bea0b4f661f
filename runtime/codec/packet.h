/* packet.h - packets of the cluster-client protocol: a head of 24 bytes, a JSON text, application data.
 *
 * Wire (codec/WIRE.md, "Packets"; spec cluster-client, section 2; integers big-endian):
 *     u8 version, u8 type (1: response), u16 reserved, i64 id, i32 timeout, i32 size of the text, i32 size of the
 *     data, text, data
 *
 * Layer: codec. No I/O, no clock, no Lua. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_PACKET_H
#define ZNL_CODEC_PACKET_H

#include "base/bytes.h"

#define ZNL_PACKET_HEAD_BYTES 24u

/* Borrowed from what was read. */
typedef struct znl_packet {
    int is_response;
    int64_t id;
    int32_t timeout_ms; /* of the sender; 0: none; negative: always too late */
    znl_frame text;     /* JSON */
    znl_frame data;     /* {…, 0}: none */
} znl_packet;

/* Writes a head for a text and data of these sizes, which together fit an int32. */
void znl_packet_put_head(uint8_t at[ZNL_PACKET_HEAD_BYTES], int is_response, int64_t id,
        int32_t timeout_ms, uint32_t text_bytes, uint32_t data_bytes);

/* Puts packets together from bytes in any segmentation. Zeroed memory but for max_bytes is a new one. */
typedef struct znl_packet_reader {
    size_t max_bytes;  /* of text and data together */
    znl_buffer kept;   /* the beginning of a packet that is not complete */
    size_t wanted;     /* bytes of it in all; 0: its head is not complete */
    int err;           /* what ended it: nothing is read any more */
    const uint8_t *at; /* input that was not looked at */
    size_t left;
} znl_packet_reader;

/* Gives the next bytes of the stream; they are borrowed until znl_packet_next() returns other than 1. */
void znl_packet_feed(znl_packet_reader *reader, const void *data, size_t size);

/* 1 and *packet, valid until the next call; 0: more bytes are needed, what was fed is not borrowed any more;
 * ZNL_E_PROTO (a negative size, a body of no bytes), ZNL_E_TOO_BIG (before its bytes arrive), ZNL_E_NOMEM: for good.
 * A packet that lies whole in what was fed is not copied. Memory for a large one grows with what has
 * arrived, not with what is announced. */
int znl_packet_next(znl_packet_reader *reader, znl_packet *packet);

void znl_packet_reader_fini(znl_packet_reader *reader);

#endif
