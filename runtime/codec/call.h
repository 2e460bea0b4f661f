/* call.h - calls between znlrun peers: a route, a deadline and error answers inside the payload of an
 * ordinary request or response; and the capability that says a peer reads them.
 *
 * Wire: WIRE.md, "Calls" and "Extensions".
 * Layer: codec. Pure functions: no I/O, no clock, no Lua, no allocation. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_CALL_H
#define ZNL_CODEC_CALL_H

#include "base/bytes.h"
#include "base/limits.h"

/* Whether a peer reads calls. */
typedef enum znl_calls {
    ZNL_CALLS_UNKNOWN, /* it has not said */
    ZNL_CALLS_NO,
    ZNL_CALLS_YES,
} znl_calls;

/* What a capable node announces. Static. */
znl_frame znl_call_capability(void);

/* Reads announced capabilities: words with spaces between them, unknown ones skipped. True when
 * "call=1" is among them. */
int znl_call_is_capability(znl_frame announced);

/* What stands before the body. */
typedef struct znl_call {
    int is_answer;
    int is_json;         /* the body is one frame of JSON */
    int is_error;        /* answers: the body is a code and a message */
    uint32_t timeout_ms; /* requests: time left; 0: none stated */
    znl_frame route;     /* requests: begins with "/", or empty: a request without route */
} znl_call;

/* True when the payload begins with the marker: between capable peers it is a call or its answer. */
int znl_call_is_marked(const znl_frame *payload, size_t count);

/* Frames before the body. */
#define ZNL_CALL_LEAD 2u
/* Bytes of the longest header. */
#define ZNL_CALL_HEADER_BYTES_MAX (6u + ZNL_ROUTE_BYTES_MAX)

/* Writes marker and header; the header into `scratch`, which must outlive the frames. The route has
 * been checked with znl_call_is_route(). */
void znl_call_lead(const znl_call *call, uint8_t scratch[ZNL_CALL_HEADER_BYTES_MAX],
        znl_frame frames[ZNL_CALL_LEAD]);

/* Reads a marked payload: a request, or with `is_answer` an answer. The body is
 * payload[ZNL_CALL_LEAD ..]; *out borrows from the payload. 0 or ZNL_E_PROTO: another version,
 * unknown flags, no route or a wrong one, or a body that is not what the flags say. */
int znl_call_read(const znl_frame *payload, size_t count, int is_answer, znl_call *out);

/* True for an empty route and for 1 to ZNL_ROUTE_BYTES_MAX bytes that begin with "/". */
int znl_call_is_route(znl_frame route);

/* True for a code an error may carry: 1 to ZNL_CODE_BYTES_MAX letters, digits and underscores. */
int znl_call_is_code(znl_frame code);

#endif
