/* Frames of micro: any text is refused, or reads as what writes a frame that reads the same.
 * SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include <string.h>

#include "base/err.h"
#include "codec/json.h"
#include "codec/modem.h"

#define DEPTH 16u

static int same(znl_frame a, znl_frame b)
{
    return (a.data == NULL) == (b.data == NULL) && znl_frame_equal(a, b);
}

static znl_modem read_back(const znl_buffer *out)
{
    znl_modem frame;
    int err = znl_modem_read(&frame, znl_frame_of(out->data, out->size), DEPTH);
    FUZZ_HOLDS(err == 0);
    FUZZ_HOLDS(frame.has_id);
    return frame;
}

static void request(const znl_modem *frame, znl_buffer *out)
{
    znl_buffer scratch = {0}, again = {0};
    znl_frame url;
    znl_modem_request request = {.id = frame->id,
            .data = frame->body,
            .is_twoway = frame->is_twoway,
            .is_stream = frame->is_stream,
            .deadline_ms = frame->deadline_ms,
            .credit = frame->credit};
    if (znl_modem_text(frame->url, &scratch, &request.url) == 0) {
        FUZZ_HOLDS(znl_modem_put_request(out, &request) == 0);
        znl_modem back = read_back(out);
        FUZZ_HOLDS(back.mode == ZNL_MODEM_REQUEST && back.id == frame->id);
        FUZZ_HOLDS(back.is_twoway == frame->is_twoway && back.is_stream == frame->is_stream);
        FUZZ_HOLDS(back.deadline_ms == frame->deadline_ms && back.credit == frame->credit);
        FUZZ_HOLDS(same(back.body, frame->body));
        FUZZ_HOLDS(znl_modem_text(back.url, &again, &url) == 0);
        FUZZ_HOLDS(znl_frame_equal(url, request.url));
    }
    znl_buffer_fini(&scratch);
    znl_buffer_fini(&again);
}

static void response(const znl_modem *frame, znl_buffer *out)
{
    znl_buffer scratch = {0}, text = {0};
    znl_modem_refusal refusal = {0};
    int64_t seq;
    FUZZ_HOLDS(znl_modem_put_answer(out, frame->id, frame->body) == 0);
    znl_modem back = read_back(out);
    FUZZ_HOLDS(back.mode == ZNL_MODEM_RESPONSE && back.id == frame->id && !back.is_stream);
    FUZZ_HOLDS(same(back.body, frame->body));
    if (znl_modem_integer(frame->seq, &seq) && seq >= 0) {
        out->size = 0;
        FUZZ_HOLDS(znl_modem_put_chunk(out, frame->id, (uint64_t)seq, frame->payload, 1) == 0);
        back = read_back(out);
        FUZZ_HOLDS(back.is_stream && back.has_version && same(back.payload, frame->payload));
    }
    if (znl_modem_text(frame->status, &scratch, &refusal.status) == 0 &&
            znl_modem_text(frame->message, &text, &refusal.text) == 0) {
        out->size = 0;
        FUZZ_HOLDS(znl_modem_put_refusal(out, frame->id, &refusal) == 0);
        back = read_back(out);
        FUZZ_HOLDS(back.message.data != NULL && back.status.data != NULL);
        out->size = 0;
        FUZZ_HOLDS(znl_modem_put_stream_refusal(out, frame->id, 0, &refusal, 0) == 0);
        back = read_back(out);
        FUZZ_HOLDS(znl_modem_is_true(back.final));
    }
    znl_buffer_fini(&scratch);
    znl_buffer_fini(&text);
}

/* With a space in front a frame is read the general way: that must make no difference. */
static void both_ways(const uint8_t *data, size_t size)
{
    znl_modem usual, general;
    uint8_t *spaced = malloc(size + 1);
    FUZZ_HOLDS(spaced != NULL);
    spaced[0] = ' ';
    if (size > 0)
        memcpy(spaced + 1, data, size);
    int err = znl_modem_read(&usual, znl_frame_of(data, size), DEPTH);
    FUZZ_HOLDS(err == znl_modem_read(&general, znl_frame_of(spaced, size + 1), DEPTH));
    if (err == 0) {
        FUZZ_HOLDS(usual.mode == general.mode && usual.has_id == general.has_id);
        FUZZ_HOLDS(!usual.has_id || usual.id == general.id);
        FUZZ_HOLDS(
                usual.is_twoway == general.is_twoway && usual.is_stream == general.is_stream);
        FUZZ_HOLDS(usual.has_version == general.has_version);
        FUZZ_HOLDS(usual.deadline_ms == general.deadline_ms && usual.credit == general.credit);
        FUZZ_HOLDS(usual.has_object == general.has_object);
        FUZZ_HOLDS(usual.has_target == general.has_target);
        FUZZ_HOLDS(same(usual.url, general.url) && same(usual.body, general.body));
        FUZZ_HOLDS(same(usual.status, general.status) && same(usual.message, general.message));
        FUZZ_HOLDS(same(usual.seq, general.seq) && same(usual.payload, general.payload));
        FUZZ_HOLDS(same(usual.final, general.final));
    }
    free(spaced);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    znl_modem frame;
    znl_buffer out = {0};
    both_ways(data, size);
    int err = znl_modem_read(&frame, znl_frame_of(data, size), DEPTH);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO || err == ZNL_E_LIMIT);
    const znl_frame texts[] = {frame.url, frame.body, frame.status, frame.message, frame.seq,
            frame.payload, frame.final, frame.grant_id, frame.grant_credit};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        FUZZ_HOLDS(FUZZ_INSIDE(texts[i], data, size));
        FUZZ_HOLDS(texts[i].data == NULL || texts[i].size > 0);
    }
    if (err == 0 && frame.has_id) {
        FUZZ_HOLDS(frame.id >= -ZNL_MODEM_ID_MAX && frame.id <= ZNL_MODEM_ID_MAX);
        if (frame.mode == ZNL_MODEM_REQUEST) {
            request(&frame, &out);
        } else if (frame.mode == ZNL_MODEM_RESPONSE) {
            response(&frame, &out);
        } else if (frame.has_target) {
            if (frame.mode == ZNL_MODEM_ABORT)
                FUZZ_HOLDS(znl_modem_put_abort(&out, frame.id, frame.target) == 0);
            else
                FUZZ_HOLDS(znl_modem_put_grant(&out, frame.id, frame.target, 1) == 0);
            znl_modem back = read_back(&out);
            FUZZ_HOLDS(back.mode == frame.mode && back.target == frame.target);
        }
    }
    znl_buffer_fini(&out);
    return 0;
}
