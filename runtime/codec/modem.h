/* modem.h - the frames of the micro protocol: requests, responses, stream chunks, aborts and grants, as JSON
 * text (WIRE.md, "Micro frames"; spec of micro, sections 4 to 6 and 25).
 *
 * Reading is strict about JSON and lenient about everything else: members come in any order, unknown ones are
 * passed over, of equal ones the last counts, as JSON.parse has it. Of `data` both what requests and what
 * responses carry is looked for, because `mode` may come last.
 *
 * Layer: codec. Pure; nothing is allocated but what znl_buffer grows. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_MODEM_H
#define ZNL_CODEC_MODEM_H

#include "base/bytes.h"

enum { ZNL_MODEM_REQUEST, ZNL_MODEM_RESPONSE, ZNL_MODEM_ABORT, ZNL_MODEM_GRANT };

/* Ids are whole numbers that a double holds exactly. */
#define ZNL_MODEM_ID_MAX ((int64_t)1 << 53)

/* One frame, read. The texts are JSON, borrowed from what was read; {NULL, 0}: the member is absent. */
typedef struct znl_modem {
    int mode;   /* ZNL_MODEM_… */
    int has_id; /* a number that can be an id */
    int64_t id;
    int is_twoway, is_stream;
    int has_version; /* "streamVersion": 1: the stream runs by one credit at a time */
    uint32_t deadline_ms, credit; /* our extensions; 0: absent, or no number above 0 */

    int has_object;                   /* `data` is an object: its members follow */
    int has_target;                   /* `data` is a number that can be an id */
    int64_t target;                   /* the id to abort; of a grant its "id" */
    znl_frame url, body;              /* request: "url", "data". Response: "data" */
    znl_frame status, message;        /* response */
    znl_frame seq, payload, final;    /* chunk */
    znl_frame grant_id, grant_credit; /* grant */
} znl_modem;

/* Reads one frame. 0. ZNL_E_PROTO: no JSON, or no frame of a known mode. ZNL_E_LIMIT: nested deeper than
 * `max_depth` inside of `data`; what had been read until then is in *out, mode -1 when it was not known yet. */
int znl_modem_read(znl_modem *out, znl_frame text, unsigned max_depth);

/* A JSON text of ours is true as JavaScript takes it: not false, null, 0, "" or absent. */
int znl_modem_is_true(znl_frame value);
/* The whole number of a JSON text, when it is one that a double holds exactly. */
int znl_modem_integer(znl_frame value, int64_t *integer);
/* The string of a JSON text, undone into `scratch` when it has escapes; 0, ZNL_E_PROTO (no string), ZNL_E_NOMEM. */
int znl_modem_text(znl_frame value, znl_buffer *scratch, znl_frame *text);

/* --- writing ----------------------------------------------------------------------------------------
 *
 * Each appends one frame: 0, or ZNL_E_NOMEM; nothing is appended then. `data` and `payload` are JSON, trusted. */

typedef struct znl_modem_request {
    int64_t id;
    znl_frame url;  /* UTF-8, else ZNL_E_INVALID */
    znl_frame data; /* {NULL, 0}: absent */
    int is_twoway, is_stream;
    uint32_t deadline_ms, credit; /* our extensions; 0: left out */
} znl_modem_request;

int znl_modem_put_request(znl_buffer *out, const znl_modem_request *request);

/* An answer of status 200. */
int znl_modem_put_answer(znl_buffer *out, int64_t id, znl_frame data);

/* Why a request is refused. */
typedef struct znl_modem_refusal {
    int is_number; /* the status is `number`, else the text `status` */
    double number; /* NaN and infinity, which JSON has not, become 500 */
    znl_frame status;
    znl_frame text; /* bytes that are not UTF-8 become "?"; {NULL, 0}: none */
} znl_modem_refusal;

int znl_modem_put_refusal(znl_buffer *out, int64_t id, const znl_modem_refusal *refusal);

/* Chunk number `seq`; `has_version` repeats "streamVersion". */
int znl_modem_put_chunk(
        znl_buffer *out, int64_t id, uint64_t seq, znl_frame payload, int has_version);
int znl_modem_put_final(znl_buffer *out, int64_t id, uint64_t seq, int has_version);
/* Ends a stream with an error. */
int znl_modem_put_stream_refusal(znl_buffer *out, int64_t id, uint64_t seq,
        const znl_modem_refusal *refusal, int has_version);

/* Abandons the request `target`; `id` is the frame's own. */
int znl_modem_put_abort(znl_buffer *out, int64_t id, int64_t target);
/* Lets the peer's stream `target` send `credit` chunks more. */
int znl_modem_put_grant(znl_buffer *out, int64_t id, int64_t target, uint32_t credit);

#endif
