/* Calls: any marked payload is refused, or reads as what writes the same header again; any list of
 * capabilities is read. SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/err.h"
#include "codec/call.h"

#define FRAMES_MAX 6u

/* First byte: request or answer, and how many frames. Then, for each, a length byte and its bytes; the
 * header comes first and takes a length of two bytes. */
static size_t frames_of(const uint8_t *data, size_t size, znl_frame frames[FRAMES_MAX])
{
    size_t count = 0;
    while (size > 0 && count < FRAMES_MAX) {
        size_t length = *data++;
        size--;
        if (count == 0 && size > 0) {
            length += 256u * (*data++ & 7u);
            size--;
        }
        if (length > size)
            length = size;
        frames[count++] = znl_frame_of(data, length);
        data += length;
        size -= length;
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    znl_frame payload[1 + FRAMES_MAX] = {znl_frame_text("__znl_v1_call__")};
    znl_call call;
    if (size == 0)
        return 0;
    int is_answer = data[0] & 1;
    znl_call_is_capability(znl_frame_of(data + 1, size - 1));
    size_t count = 1 + frames_of(data + 1, size - 1, payload + 1);
    FUZZ_HOLDS(znl_call_is_marked(payload, count));
    int err = znl_call_read(payload, count, is_answer, &call);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO);
    if (err != 0)
        return 0;
    FUZZ_HOLDS(call.is_answer == is_answer);
    FUZZ_HOLDS(znl_call_is_route(call.route));
    FUZZ_HOLDS(!is_answer || (call.route.size == 0 && call.timeout_ms == 0));
    FUZZ_HOLDS(!call.is_error || (is_answer && count == 4 && znl_call_is_code(payload[2])));
    FUZZ_HOLDS(!call.is_error || payload[3].size <= ZNL_ERROR_TEXT_BYTES_MAX);
    FUZZ_HOLDS(call.is_error || !call.is_json || count == 3);
    uint8_t scratch[ZNL_CALL_HEADER_BYTES_MAX];
    znl_frame lead[ZNL_CALL_LEAD];
    znl_call_lead(&call, scratch, lead);
    FUZZ_HOLDS(znl_frame_equal(lead[0], payload[0]));
    FUZZ_HOLDS(znl_frame_equal(lead[1], payload[1]));
    return 0;
}
