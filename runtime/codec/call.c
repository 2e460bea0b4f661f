/* call.c - see call.h. SPDX-License-Identifier: MIT */
#include "codec/call.h"

#include "base/err.h"

static const char marker_text[] = "__znl_v1_call__";
static const char capability_text[] = "call=1";

enum { VERSION = 1, FLAG_JSON = 1, FLAG_ERROR = 2 };

#define ANSWER_HEADER_BYTES 2u
#define REQUEST_HEADER_BYTES 6u /* then the route */

static int is_text(znl_frame frame, const char *text, size_t size)
{
    return frame.size == size && memcmp(frame.data, text, size) == 0;
}

/* --- capability -------------------------------------------------------------------------------- */

znl_frame znl_call_capability(void)
{
    return znl_frame_of(capability_text, sizeof capability_text - 1);
}

int znl_call_is_capability(znl_frame announced)
{
    size_t at = 0;
    while (at < announced.size) {
        size_t end = at;
        while (end < announced.size && announced.data[end] != ' ')
            end++;
        if (is_text(znl_frame_of(announced.data + at, end - at), capability_text,
                    sizeof capability_text - 1))
            return 1;
        at = end + 1;
    }
    return 0;
}

/* --- names ------------------------------------------------------------------------------------- */

int znl_call_is_route(znl_frame route)
{
    return route.size == 0 || (route.size <= ZNL_ROUTE_BYTES_MAX && route.data[0] == '/');
}

int znl_call_is_code(znl_frame code)
{
    if (code.size == 0 || code.size > ZNL_CODE_BYTES_MAX)
        return 0;
    for (size_t i = 0; i < code.size; i++) {
        uint8_t c = code.data[i];
        int is_letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!is_letter && c != '_' && !(c >= '0' && c <= '9'))
            return 0;
    }
    return 1;
}

/* --- payloads ---------------------------------------------------------------------------------- */

int znl_call_is_marked(const znl_frame *payload, size_t count)
{
    return count > 0 && is_text(payload[0], marker_text, sizeof marker_text - 1);
}

void znl_call_lead(const znl_call *call, uint8_t scratch[ZNL_CALL_HEADER_BYTES_MAX],
        znl_frame frames[ZNL_CALL_LEAD])
{
    size_t size = ANSWER_HEADER_BYTES;
    scratch[0] = VERSION;
    scratch[1] = call->is_json ? FLAG_JSON : 0;
    if (call->is_answer) {
        scratch[1] |= call->is_error ? FLAG_ERROR : 0;
    } else {
        znl_put_be32(scratch + size, call->timeout_ms);
        size = REQUEST_HEADER_BYTES;
        if (call->route.size > 0)
            memcpy(scratch + size, call->route.data, call->route.size);
        size += call->route.size;
    }
    frames[0] = znl_frame_of(marker_text, sizeof marker_text - 1);
    frames[1] = znl_frame_of(scratch, size);
}

int znl_call_read(const znl_frame *payload, size_t count, int is_answer, znl_call *out)
{
    if (count < ZNL_CALL_LEAD)
        return ZNL_E_PROTO;
    znl_frame header = payload[1];
    size_t size = is_answer ? ANSWER_HEADER_BYTES : REQUEST_HEADER_BYTES;
    unsigned known = is_answer ? FLAG_JSON | FLAG_ERROR : FLAG_JSON;
    if (header.size < size || header.data[0] != VERSION || (header.data[1] & ~known) != 0)
        return ZNL_E_PROTO;
    znl_call call = {.is_answer = is_answer,
            .is_json = (header.data[1] & FLAG_JSON) != 0,
            .is_error = (header.data[1] & FLAG_ERROR) != 0};
    znl_frame rest = znl_frame_of(header.data + size, header.size - size);
    size_t body = count - ZNL_CALL_LEAD;
    if (is_answer) {
        if (rest.size > 0)
            return ZNL_E_PROTO;
    } else {
        if (!znl_call_is_route(rest))
            return ZNL_E_PROTO;
        call.timeout_ms = znl_get_be32(header.data + ANSWER_HEADER_BYTES);
        call.route = rest;
    }
    if (call.is_error) {
        if (body != 2 || !znl_call_is_code(payload[ZNL_CALL_LEAD]) ||
                payload[ZNL_CALL_LEAD + 1].size > ZNL_ERROR_TEXT_BYTES_MAX)
            return ZNL_E_PROTO;
    } else if (call.is_json && body != 1) {
        return ZNL_E_PROTO;
    }
    *out = call;
    return 0;
}
