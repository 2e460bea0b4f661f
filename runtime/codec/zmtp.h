/* zmtp.h - ZMTP 3.1 and 3.0 with the NULL mechanism (rfc.zeromq.org, 23 and 37): greeting, frame heads, commands.
 *
 * A conversation: both send a greeting of 64 bytes, then READY with the socket type and the routing id, then
 * messages of frames, with commands (PING, PONG, ERROR) between them.
 *
 * Layer: codec. Pure functions. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_ZMTP_H
#define ZNL_CODEC_ZMTP_H

#include "base/bytes.h"

/* --- greeting ----------------------------------------------------------------------------------- */

#define ZNL_ZMTP_GREETING_BYTES 64u
#define ZNL_ZMTP_MECHANISM_BYTES 20u

typedef struct znl_zmtp_greeting {
    uint8_t major, minor;
    int as_server;                                /* CURVE and PLAIN: which side it is */
    char mechanism[ZNL_ZMTP_MECHANISM_BYTES + 1]; /* "NULL", "CURVE", …; printable */
} znl_zmtp_greeting;

/* Ours: version 3.1, NULL. */
void znl_zmtp_write_greeting(uint8_t out[ZNL_ZMTP_GREETING_BYTES]);

/* Looks at what has come so far: 0 when it is whole and well-formed (any mechanism), ZNL_E_BUSY while it may become one,
 * ZNL_E_PROTO (not ZMTP, or not well-formed), ZNL_E_UNSUPPORTED (ZMTP before 3.0; *out has the version). */
int znl_zmtp_read_greeting(const uint8_t *data, size_t size, znl_zmtp_greeting *out);

/* --- frames ------------------------------------------------------------------------------------- */

#define ZNL_ZMTP_MORE 1u
#define ZNL_ZMTP_LONG 2u
#define ZNL_ZMTP_COMMAND 4u
#define ZNL_ZMTP_HEAD_BYTES_MAX 9u

static inline size_t znl_zmtp_head_bytes(size_t body_bytes)
{
    return body_bytes > 255 ? 9 : 2;
}

/* Writes the head of a frame of `size` bytes; `flags` are MORE or COMMAND. Returns its end. */
static inline uint8_t *znl_zmtp_write_head(uint8_t *at, size_t size, unsigned flags)
{
    if (size <= 255) {
        at[0] = (uint8_t)flags;
        at[1] = (uint8_t)size;
        return at + 2;
    }
    at[0] = (uint8_t)(flags | ZNL_ZMTP_LONG);
    znl_put_be32(at + 1, (uint32_t)((uint64_t)size >> 32));
    znl_put_be32(at + 5, (uint32_t)size);
    return at + 9;
}

/* Bytes of all frames with their heads. */
size_t znl_zmtp_message_bytes(const znl_frame *frames, size_t count);

/* Writes a message of at least one frame; returns its end. */
uint8_t *znl_zmtp_write_message(uint8_t *at, const znl_frame *frames, size_t count);

/* --- commands ----------------------------------------------------------------------------------- */

typedef enum znl_zmtp_command_kind {
    ZNL_ZMTP_UNKNOWN, /* well-formed, with a name we do not know: to be ignored */
    ZNL_ZMTP_READY,
    ZNL_ZMTP_ERROR,
    ZNL_ZMTP_PING,
    ZNL_ZMTP_PONG
} znl_zmtp_command_kind;

typedef struct znl_zmtp_command {
    znl_zmtp_command_kind kind;
    znl_frame name;
    znl_frame body;  /* READY: the properties; ERROR: the reason; PING, PONG: the context */
    uint32_t ttl_ms; /* PING; 0: none */
} znl_zmtp_command;

/* Takes the body of a command frame apart. 0 or ZNL_E_PROTO. */
int znl_zmtp_read_command(znl_frame frame, znl_zmtp_command *out);

typedef struct znl_zmtp_ready {
    znl_frame socket_type; /* "ROUTER"; empty: not said */
    znl_frame identity;    /* empty: none */
} znl_zmtp_ready;

/* Takes the properties of READY apart; names are compared without case, unknown ones ignored. 0, ZNL_E_PROTO (not
 * well-formed, or no socket type, or an identity of more than 255 bytes). */
int znl_zmtp_read_ready(znl_frame body, znl_zmtp_ready *out);

/* Room for a READY frame with an identity of 255 bytes. */
#define ZNL_ZMTP_READY_BYTES_MAX 320u
/* For a PONG with a context of 16 bytes, and for an ERROR with a reason of 255. */
#define ZNL_ZMTP_CONTEXT_BYTES_MAX 16u
#define ZNL_ZMTP_PONG_BYTES_MAX (2u + 5 + ZNL_ZMTP_CONTEXT_BYTES_MAX)
#define ZNL_ZMTP_ERROR_BYTES_MAX (9u + 7 + 255)

/* Whole frames, head included; return the bytes written. */
size_t znl_zmtp_write_ready(uint8_t *out, int is_router, znl_frame identity);
size_t znl_zmtp_write_pong(uint8_t *out, znl_frame context);
size_t znl_zmtp_write_error(uint8_t *out, const char *reason); /* cut at 255 bytes */

/* True when a peer that calls itself `type` and a ROUTER (or DEALER) of ours may talk: rfc 28. */
int znl_zmtp_may_talk(int is_router, znl_frame type);

#endif
