/* nats.h - the protocol of NATS clients: what a server sends, read in place, and the little a client sends besides
 * messages.
 *
 * Wire: codec/WIRE.md, "NATS". Layer: codec. Pure; nothing is allocated but what znl_buffer grows.
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_NATS_H
#define ZNL_CODEC_NATS_H

#include "base/bytes.h"

/* --- reading --------------------------------------------------------------------------------------- */

typedef enum znl_nats_kind {
    ZNL_NATS_MSG, /* HMSG too */
    ZNL_NATS_INFO,
    ZNL_NATS_PING,
    ZNL_NATS_PONG,
    ZNL_NATS_OK,
    ZNL_NATS_ERR,
    ZNL_NATS_NOISE, /* a message that nobody can use: passed over */
} znl_nats_kind;

/* What one operation says; points into the bytes that were read. */
typedef struct znl_nats_op {
    znl_nats_kind kind;
    znl_frame text; /* INFO: the JSON; ERR: what is wrong, without its quotes */
    /* MSG. The texts end with a zero byte, written over what separated them. */
    const char *subject;
    const char *reply; /* or NULL */
    uint64_t sid;
    const uint8_t *data;
    size_t size;
    const char *lines; /* of the headers, each "Name: value\r\n" */
    size_t lines_size;
    uint16_t status;
    const char *status_text; /* never NULL */
} znl_nats_op;

/* Reads the operation at the start of `bytes`. Returns 1, sets *op and *used; 0 when it is not all there: *used is
 * then how many bytes it has, or 0 when that cannot be told before the end of its line. Else the server is not one:
 * ZNL_E_PROTO, ZNL_E_TOO_BIG (a line or a message past limits.h). Bytes are changed only when it returns 1. */
int znl_nats_read(uint8_t *bytes, size_t size, znl_nats_op *op, size_t *used);

/* What a server says of itself. Texts point into what was read; escapes are left in them. */
typedef struct znl_nats_info {
    uint64_t max_payload;
    znl_frame nonce;
    int has_headers;
    int needs_tls, offers_tls;
    int is_leaving; /* lame duck: it will end all connections */
    znl_frame urls; /* raw JSON array: other servers of its cluster; empty without */
} znl_nats_info;

/* 0 or ZNL_E_PROTO. */
int znl_nats_read_info(znl_frame json, znl_nats_info *info);

/* The next text of such an array; begin with *at 0. 1, or 0 at the end. */
int znl_nats_next_url(const znl_nats_info *info, size_t *at, znl_frame *url);

/* Walks headers: begin with *at 0. 1 with name and value, both without white space around them; 0 at the end. What
 * is no header is passed over. */
int znl_nats_next_header(
        const char *lines, size_t size, size_t *at, znl_frame *name, znl_frame *value);

/* --- writing --------------------------------------------------------------------------------------- */

/* Appends a header. 0; ZNL_E_INVALID: an empty name, a name with anything but visible ASCII or with a colon, a value
 * with CR, LF or a zero byte; ZNL_E_NOMEM. */
int znl_nats_put_header(znl_buffer *lines, znl_frame name, znl_frame value);

/* Whether it can be published to: tokens with something in them, apart by dots, no white space and control
 * characters, at most ZNL_NATS_SUBJECT_BYTES_MAX. Subscribed to: also "*" and, at the end, ">" as tokens. */
int znl_nats_is_subject(const char *subject);
int znl_nats_is_pattern(const char *pattern);

/* What logs in. NULL: not said. */
typedef struct znl_nats_login {
    const char *name, *user, *password, *token, *jwt, *nkey, *signature;
    const char *version;
    int echo;
    int has_tls;
} znl_nats_login;

/* Appends CONNECT. 0, ZNL_E_NOMEM, ZNL_E_PROTO (something is not UTF-8). */
int znl_nats_put_connect(znl_buffer *out, const znl_nats_login *login);

#endif
