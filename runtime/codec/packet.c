/* packet.c - see packet.h. SPDX-License-Identifier: MIT */
#include "codec/packet.h"

#include "base/err.h"

#define VERSION 1u
#define TYPE_RESPONSE 1u
#define KEPT_BYTES                                                                             \
    65536u /* room for the beginning of a packet that is not given back after it */

static void put_be64(uint8_t *at, uint64_t value)
{
    znl_put_be32(at, (uint32_t)(value >> 32));
    znl_put_be32(at + 4, (uint32_t)value);
}

static uint64_t get_be64(const uint8_t *at)
{
    return (uint64_t)znl_get_be32(at) << 32 | znl_get_be32(at + 4);
}

void znl_packet_put_head(uint8_t at[ZNL_PACKET_HEAD_BYTES], int is_response, int64_t id,
        int32_t timeout_ms, uint32_t text_bytes, uint32_t data_bytes)
{
    at[0] = VERSION;
    at[1] = is_response ? TYPE_RESPONSE : 0;
    at[2] = at[3] = 0;
    put_be64(at + 4, (uint64_t)id);
    znl_put_be32(at + 12, (uint32_t)timeout_ms);
    znl_put_be32(at + 16, text_bytes);
    znl_put_be32(at + 20, data_bytes);
}

/* How long the packet with this head is. 0; what is wrong with it. */
static int measure(const znl_packet_reader *reader, const uint8_t *head, size_t *size)
{
    uint32_t text = znl_get_be32(head + 16), data = znl_get_be32(head + 20);
    uint64_t body = (uint64_t)text + data;
    if (text > INT32_MAX || data > INT32_MAX || body == 0)
        return ZNL_E_PROTO;
    if (body > reader->max_bytes || body > SIZE_MAX - ZNL_PACKET_HEAD_BYTES)
        return ZNL_E_TOO_BIG;
    *size = (size_t)body + ZNL_PACKET_HEAD_BYTES;
    return 0;
}

/* The packet that lies whole at `at`; measure() has looked at its head. */
static void read_packet(znl_packet *packet, const uint8_t *at)
{
    uint32_t text = znl_get_be32(at + 16), data = znl_get_be32(at + 20);
    packet->is_response = at[1] == TYPE_RESPONSE;
    packet->id = (int64_t)get_be64(at + 4);
    packet->timeout_ms = (int32_t)znl_get_be32(at + 12);
    packet->text = znl_frame_of(at + ZNL_PACKET_HEAD_BYTES, text);
    packet->data = znl_frame_of(at + ZNL_PACKET_HEAD_BYTES + text, data);
}

static int end(znl_packet_reader *reader, int err)
{
    reader->err = err;
    reader->left = 0;
    reader->wanted = 0;
    znl_buffer_fini(&reader->kept);
    return err;
}

/* Keeps input until `size` bytes are kept, or none is left. */
static int keep(znl_packet_reader *reader, size_t size)
{
    size_t missing = size - reader->kept.size;
    size_t taken = reader->left < missing ? reader->left : missing;
    int err = znl_buffer_append(&reader->kept, reader->at, taken);
    if (err != 0)
        return err;
    reader->at += taken;
    reader->left -= taken;
    return 0;
}

void znl_packet_feed(znl_packet_reader *reader, const void *data, size_t size)
{
    reader->at = data;
    reader->left = reader->err == 0 ? size : 0;
}

/* The rest of a packet of which the beginning is kept. */
static int next_kept(znl_packet_reader *reader, znl_packet *packet)
{
    int err;
    if (reader->wanted == 0) {
        err = keep(reader, ZNL_PACKET_HEAD_BYTES);
        if (err == 0 && reader->kept.size < ZNL_PACKET_HEAD_BYTES)
            return 0;
        if (err == 0)
            err = measure(reader, reader->kept.data, &reader->wanted);
        if (err != 0)
            return end(reader, err);
    }
    err = keep(reader, reader->wanted);
    if (err != 0)
        return end(reader, err);
    if (reader->kept.size < reader->wanted)
        return 0;
    read_packet(packet, reader->kept.data);
    return 1;
}

int znl_packet_next(znl_packet_reader *reader, znl_packet *packet)
{
    if (reader->err != 0)
        return reader->err;
    if (reader->wanted > 0 && reader->kept.size == reader->wanted) { /* given out before */
        reader->wanted = 0;
        reader->kept.size = 0;
        znl_buffer_trim(&reader->kept, KEPT_BYTES);
    }
    if (reader->kept.size > 0)
        return next_kept(reader, packet);
    if (reader->left < ZNL_PACKET_HEAD_BYTES)
        return reader->left > 0 ? next_kept(reader, packet) : 0;
    size_t size;
    int err = measure(reader, reader->at, &size);
    if (err != 0)
        return end(reader, err);
    if (reader->left < size)
        return next_kept(reader, packet);
    read_packet(packet, reader->at);
    reader->at += size;
    reader->left -= size;
    return 1;
}

void znl_packet_reader_fini(znl_packet_reader *reader)
{
    size_t max_bytes = reader->max_bytes;
    znl_buffer_fini(&reader->kept);
    *reader = (znl_packet_reader){.max_bytes = max_bytes};
}
