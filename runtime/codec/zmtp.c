/* zmtp.c - see zmtp.h. SPDX-License-Identifier: MIT */
#include "codec/zmtp.h"

#include "base/err.h"
#include "base/limits.h"

#include <string.h>
#include <strings.h>

#define SIGNATURE_BYTES 10u /* 0xff, eight bytes of padding, 0x7f */
#define MECHANISM_AT 12u
#define AS_SERVER_AT 32u
#define OLDEST_MAJOR 3u

/* --- greeting ----------------------------------------------------------------------------------- */

void znl_zmtp_write_greeting(uint8_t out[ZNL_ZMTP_GREETING_BYTES])
{
    memset(out, 0, ZNL_ZMTP_GREETING_BYTES);
    out[0] = 0xff;
    out[SIGNATURE_BYTES - 1] = 0x7f;
    out[SIGNATURE_BYTES] = 3;
    out[SIGNATURE_BYTES + 1] = 1;
    memcpy(out + MECHANISM_AT, "NULL", 4);
}

/* Printable text, then zero bytes to the end of the field. 0 or ZNL_E_PROTO. */
static int read_mechanism(const uint8_t *field, char *out)
{
    size_t length = 0;
    while (length < ZNL_ZMTP_MECHANISM_BYTES && field[length] != 0) {
        if (field[length] <= ' ' || field[length] > '~')
            return ZNL_E_PROTO;
        out[length] = (char)field[length];
        length++;
    }
    for (size_t i = length; i < ZNL_ZMTP_MECHANISM_BYTES; i++) {
        if (field[i] != 0)
            return ZNL_E_PROTO;
        out[i] = 0;
    }
    out[ZNL_ZMTP_MECHANISM_BYTES] = 0;
    return length > 0 ? 0 : ZNL_E_PROTO;
}

int znl_zmtp_read_greeting(const uint8_t *data, size_t size, znl_zmtp_greeting *out)
{
    memset(out, 0, sizeof *out);
    if (size >= 1 && data[0] != 0xff)
        return ZNL_E_PROTO;
    /* ZMTP 1.0 has the length of a frame in the padding: only its lowest bit is the same. */
    if (size >= SIGNATURE_BYTES && !(data[SIGNATURE_BYTES - 1] & 1))
        return ZNL_E_UNSUPPORTED;
    if (size >= SIGNATURE_BYTES && data[SIGNATURE_BYTES - 1] != 0x7f)
        return ZNL_E_PROTO;
    if (size >= SIGNATURE_BYTES + 1) {
        out->major = data[SIGNATURE_BYTES];
        if (out->major < OLDEST_MAJOR)
            return ZNL_E_UNSUPPORTED;
    }
    if (size < ZNL_ZMTP_GREETING_BYTES)
        return ZNL_E_BUSY;
    out->minor = data[SIGNATURE_BYTES + 1];
    out->as_server = data[AS_SERVER_AT] & 1;
    return read_mechanism(data + MECHANISM_AT, out->mechanism);
}

/* --- frames ------------------------------------------------------------------------------------- */

size_t znl_zmtp_message_bytes(const znl_frame *frames, size_t count)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += znl_zmtp_head_bytes(frames[i].size) + frames[i].size;
    return bytes;
}

uint8_t *znl_zmtp_write_message(uint8_t *at, const znl_frame *frames, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        at = znl_zmtp_write_head(at, frames[i].size, i + 1 < count ? ZNL_ZMTP_MORE : 0);
        if (frames[i].size > 0)
            memcpy(at, frames[i].data, frames[i].size);
        at += frames[i].size;
    }
    return at;
}

/* --- commands ----------------------------------------------------------------------------------- */

static int is_name(znl_frame name, const char *text)
{
    return znl_frame_equal(name, znl_frame_text(text));
}

/* The reason has its length before it. 0 or ZNL_E_PROTO. */
static int read_error(znl_zmtp_command *out)
{
    if (out->body.size < 1 || out->body.data[0] != out->body.size - 1)
        return ZNL_E_PROTO;
    out->body = znl_frame_of(out->body.data + 1, out->body.size - 1);
    return 0;
}

/* Tenths of a second in two bytes, then the context. 0 or ZNL_E_PROTO. */
static int read_ping(znl_zmtp_command *out)
{
    if (out->body.size < 2 || out->body.size > 2 + ZNL_ZMTP_CONTEXT_BYTES_MAX)
        return ZNL_E_PROTO;
    out->ttl_ms = ((uint32_t)out->body.data[0] << 8 | out->body.data[1]) * 100;
    out->body = znl_frame_of(out->body.data + 2, out->body.size - 2);
    return 0;
}

int znl_zmtp_read_command(znl_frame frame, znl_zmtp_command *out)
{
    memset(out, 0, sizeof *out);
    if (frame.size < 2 || frame.data[0] == 0 || frame.data[0] > frame.size - 1)
        return ZNL_E_PROTO;
    out->name = znl_frame_of(frame.data + 1, frame.data[0]);
    out->body = znl_frame_of(frame.data + 1 + out->name.size, frame.size - 1 - out->name.size);
    if (is_name(out->name, "READY")) {
        out->kind = ZNL_ZMTP_READY;
    } else if (is_name(out->name, "ERROR")) {
        out->kind = ZNL_ZMTP_ERROR;
        return read_error(out);
    } else if (is_name(out->name, "PING")) {
        out->kind = ZNL_ZMTP_PING;
        return read_ping(out);
    } else if (is_name(out->name, "PONG")) {
        out->kind = ZNL_ZMTP_PONG;
        return out->body.size <= ZNL_ZMTP_CONTEXT_BYTES_MAX ? 0 : ZNL_E_PROTO;
    }
    return 0;
}

static int is_property(znl_frame name, const char *text)
{
    return name.size == strlen(text) &&
            strncasecmp((const char *)name.data, text, name.size) == 0;
}

int znl_zmtp_read_ready(znl_frame body, znl_zmtp_ready *out)
{
    const uint8_t *at = body.data;
    size_t left = body.size;
    memset(out, 0, sizeof *out);
    while (left > 0) {
        size_t name_bytes = at[0];
        if (name_bytes == 0 || left < 1 + name_bytes + 4)
            return ZNL_E_PROTO;
        znl_frame name = znl_frame_of(at + 1, name_bytes);
        size_t size = znl_get_be32(at + 1 + name_bytes);
        at += 1 + name_bytes + 4;
        left -= 1 + name_bytes + 4;
        if (size > left)
            return ZNL_E_PROTO;
        if (is_property(name, "Socket-Type"))
            out->socket_type = znl_frame_of(at, size);
        else if (is_property(name, "Identity"))
            out->identity = znl_frame_of(at, size);
        at += size;
        left -= size;
    }
    return out->socket_type.size > 0 && out->identity.size <= ZNL_ID_BYTES_MAX ? 0
                                                                               : ZNL_E_PROTO;
}

static uint8_t *write_bytes(uint8_t *at, const void *data, size_t size)
{
    if (size > 0)
        memcpy(at, data, size);
    return at + size;
}

static uint8_t *write_property(uint8_t *at, const char *name, znl_frame value)
{
    *at++ = (uint8_t)strlen(name);
    at = write_bytes(at, name, strlen(name));
    znl_put_be32(at, (uint32_t)value.size);
    return write_bytes(at + 4, value.data, value.size);
}

size_t znl_zmtp_write_ready(uint8_t *out, int is_router, znl_frame identity)
{
    znl_frame type = znl_frame_text(is_router ? "ROUTER" : "DEALER");
    size_t size = 1 + strlen("READY") + 1 + strlen("Socket-Type") + 4 + type.size;
    /* libzmq says an identity of DEALER, REQ and ROUTER, also an empty one. */
    size += 1 + strlen("Identity") + 4 + identity.size;
    uint8_t *at = znl_zmtp_write_head(out, size, ZNL_ZMTP_COMMAND);
    at = write_bytes(at, "\5READY", 6);
    at = write_property(at, "Socket-Type", type);
    at = write_property(at, "Identity", identity);
    return (size_t)(at - out);
}

size_t znl_zmtp_write_pong(uint8_t *out, znl_frame context)
{
    uint8_t *at = znl_zmtp_write_head(out, 5 + context.size, ZNL_ZMTP_COMMAND);
    at = write_bytes(at, "\4PONG", 5);
    return (size_t)(write_bytes(at, context.data, context.size) - out);
}

size_t znl_zmtp_write_error(uint8_t *out, const char *reason)
{
    size_t size = strnlen(reason, 255);
    uint8_t *at = znl_zmtp_write_head(out, 7 + size, ZNL_ZMTP_COMMAND);
    at = write_bytes(at, "\5ERROR", 6);
    *at++ = (uint8_t)size;
    return (size_t)(write_bytes(at, reason, size) - out);
}

int znl_zmtp_may_talk(int is_router, znl_frame type)
{
    if (is_name(type, "ROUTER") || is_name(type, "DEALER"))
        return 1;
    return is_router ? is_name(type, "REQ") : is_name(type, "REP");
}
