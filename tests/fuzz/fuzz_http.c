/* Heads of HTTP: what is read whole is read the same from its own bytes, is incomplete one byte earlier,
 * and points into them. SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/err.h"
#include "codec/http.h"

#include <string.h>

typedef long (*read_fn)(znl_frame bytes, znl_http_head *head);

static void check_frame(znl_frame frame, const uint8_t *data, size_t size)
{
    FUZZ_HOLDS(FUZZ_INSIDE(frame, data, size));
    for (size_t i = 0; i < frame.size; i++)
        FUZZ_HOLDS(frame.data[i] != '\r' && frame.data[i] != '\n' && frame.data[i] != '\0');
}

static void check(read_fn read, const uint8_t *data, size_t size)
{
    static znl_http_head head;
    static znl_http_head again;
    uint64_t body = UINT64_MAX;
    int err;
    long lead = read(znl_frame_of(data, size), &head);
    FUZZ_HOLDS(lead >= 0 || lead == ZNL_E_PROTO || lead == ZNL_E_TOO_BIG);
    if (lead <= 0)
        return;
    FUZZ_HOLDS((size_t)lead <= size);
    FUZZ_HOLDS(memcmp(data + lead - 4, "\r\n\r\n", 4) == 0);
    FUZZ_HOLDS(head.header_count <= ZNL_HTTP_HEADERS_MAX);
    FUZZ_HOLDS(head.minor == 0 || head.minor == 1);
    check_frame(head.method, data, (size_t)lead);
    check_frame(head.target, data, (size_t)lead);
    for (size_t i = 0; i < head.header_count; i++) {
        check_frame(head.headers[i].name, data, (size_t)lead);
        check_frame(head.headers[i].value, data, (size_t)lead);
        FUZZ_HOLDS(head.headers[i].name.size > 0);
    }
    FUZZ_HOLDS(read(znl_frame_of(data, (size_t)lead), &again) == lead);
    FUZZ_HOLDS(again.header_count == head.header_count && again.status == head.status);
    for (size_t part = 1; part < 64 && part < (size_t)lead; part++)
        FUZZ_HOLDS(read(znl_frame_of(data, (size_t)lead - part), &again) == 0);

    err = znl_http_body_size(&head, &body);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO || err == ZNL_E_UNSUPPORTED);
    FUZZ_HOLDS((err == 0) == (body != UINT64_MAX));
    znl_http_lists(&head, "Connection", "upgrade");
    znl_http_header_of(&head, "Host", &err);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check(znl_http_read_request, data, size);
    check(znl_http_read_response, data, size);
    return 0;
}
