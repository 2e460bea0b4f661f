/* Every frame of the recorded transcripts of micro: it reads as it is, and what is written for the same thing
 * is the same JSON. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "codec/modem.h"
#include "support/vector.h"

#define DEPTH 32u

static unsigned counts[4], chunks, refusals, dropped;

/* The JSON of a frame's member, as cJSON reads it; absent: NULL. */
static cJSON *parse(znl_frame text)
{
    cJSON *json = text.size > 0 ? cJSON_ParseWithLength((const char *)text.data, text.size)
                                : NULL;
    assert_true(text.size == 0 || json != NULL);
    return json;
}

static void assert_member(const cJSON *object, const char *name, znl_frame text)
{
    const cJSON *expected = cJSON_GetObjectItemCaseSensitive(object, name);
    cJSON *actual = parse(text);
    assert_int_equal(expected != NULL, actual != NULL);
    assert_true(expected == NULL || cJSON_Compare(expected, actual, 1));
    cJSON_Delete(actual);
}

/* What has been written is the recorded frame; "stream": false may be left out (spec, section 23), and of a
 * frame's own id only that it is there counts. */
static void assert_written(const znl_buffer *out, const cJSON *json)
{
    cJSON *written = parse(znl_frame_of(out->data, out->size));
    cJSON *expected = cJSON_Duplicate(json, 1);
    const cJSON *stream = cJSON_GetObjectItemCaseSensitive(expected, "stream");
    if (cJSON_IsFalse(stream))
        cJSON_DeleteItemFromObjectCaseSensitive(expected, "stream");
    if (!cJSON_Compare(written, expected, 1))
        fail_msg("written %.*s", (int)out->size, (const char *)out->data);
    cJSON_Delete(written);
    cJSON_Delete(expected);
}

static znl_modem_refusal refusal_of(
        const znl_modem *frame, znl_frame text, znl_buffer scratch[2])
{
    znl_modem_refusal refusal = {0};
    int64_t number;
    if (znl_modem_integer(frame->status, &number)) {
        refusal.is_number = 1;
        refusal.number = (double)number;
    } else {
        assert_int_equal(znl_modem_text(frame->status, &scratch[0], &refusal.status), 0);
    }
    if (text.size > 0)
        assert_int_equal(znl_modem_text(text, &scratch[1], &refusal.text), 0);
    return refusal;
}

static void check_response(
        const znl_modem *frame, const cJSON *json, const cJSON *data, znl_buffer *out)
{
    znl_buffer scratch[2] = {{0}, {0}};
    int64_t status = 0, seq;
    int is_fine = znl_modem_integer(frame->status, &status) && status == 200;
    assert_member(data, "status", frame->status);
    assert_member(data, "data", frame->body);
    assert_member(data, "message", frame->message);
    assert_member(data, "seq", frame->seq);
    assert_member(data, "payload", frame->payload);
    assert_member(data, "final", frame->final);
    refusals += !is_fine;
    if (frame->is_stream) {
        chunks++;
        assert_true(znl_modem_integer(frame->seq, &seq));
        if (!is_fine) {
            znl_modem_refusal refusal = refusal_of(frame, frame->payload, scratch);
            assert_int_equal(
                    znl_modem_put_stream_refusal(out, frame->id, (uint64_t)seq, &refusal, 0),
                    0);
        } else if (znl_modem_is_true(frame->final)) {
            assert_int_equal(znl_modem_put_final(out, frame->id, (uint64_t)seq, 0), 0);
        } else {
            assert_int_equal(
                    znl_modem_put_chunk(out, frame->id, (uint64_t)seq, frame->payload, 0), 0);
        }
    } else if (is_fine) {
        assert_int_equal(znl_modem_put_answer(out, frame->id, frame->body), 0);
    } else {
        znl_modem_refusal refusal = refusal_of(frame, frame->message, scratch);
        assert_int_equal(znl_modem_put_refusal(out, frame->id, &refusal), 0);
    }
    assert_written(out, json);
    znl_buffer_fini(&scratch[0]);
    znl_buffer_fini(&scratch[1]);
}

static void check_request(
        const znl_modem *frame, const cJSON *json, const cJSON *data, znl_buffer *out)
{
    znl_buffer scratch = {0};
    assert_member(data, "url", frame->url);
    assert_member(data, "data", frame->body);
    if (frame->url.size > 0) {
        znl_modem_request request = {.id = frame->id,
                .data = frame->body,
                .is_twoway = frame->is_twoway,
                .is_stream = frame->is_stream};
        assert_int_equal(znl_modem_text(frame->url, &scratch, &request.url), 0);
        assert_int_equal(znl_modem_put_request(out, &request), 0);
        assert_written(out, json);
    }
    znl_buffer_fini(&scratch);
}

static void check(znl_frame text, const cJSON *json)
{
    znl_modem frame;
    znl_buffer out = {0};
    const cJSON *mode = cJSON_GetObjectItemCaseSensitive(json, "mode");
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(json, "data");
    int err = znl_modem_read(&frame, znl_frame_of(znl_vector_copy(text), text.size), DEPTH);
    if (!cJSON_IsNumber(mode) || mode->valueint > ZNL_MODEM_ABORT) {
        assert_int_equal(err, ZNL_E_PROTO);
        dropped++;
        return;
    }
    assert_int_equal(err, 0);
    assert_int_equal(frame.mode, mode->valueint);
    assert_int_equal(frame.is_twoway, znl_vector_flag(json, "twoway"));
    assert_int_equal(frame.is_stream, znl_vector_flag(json, "stream"));
    assert_true(frame.has_id);
    assert_int_equal(frame.id, znl_vector_number(json, "id"));
    assert_int_equal(frame.has_object, cJSON_IsObject(data));
    counts[frame.mode]++;
    if (frame.mode == ZNL_MODEM_REQUEST) {
        check_request(&frame, json, data, &out);
    } else if (frame.mode == ZNL_MODEM_RESPONSE) {
        check_response(&frame, json, data, &out);
    } else {
        assert_true(frame.has_target);
        assert_int_equal(frame.target, znl_vector_number(json, "data"));
        assert_int_equal(znl_modem_put_abort(&out, frame.id, frame.target), 0);
        assert_written(&out, json);
    }
    znl_buffer_fini(&out);
}

/* "v1-…" and "v2-…"; the others are tables. */
static int is_transcript(const char *name)
{
    return name[0] == 'v' && name[2] == '-';
}

static void transcripts(void **state)
{
    (void)state;
    const cJSON *file, *frame;
    unsigned files = 0;
    char path[256];
    ZNL_VECTOR_EACH(file, znl_vector_file("micro/index.json"), "files")
    {
        if (!is_transcript(znl_vector_text(file, "file")))
            continue;
        snprintf(path, sizeof path, "micro/%s", znl_vector_text(file, "file"));
        ZNL_VECTOR_EACH(frame, znl_vector_file(path), "frames")
        {
            if (strcmp(znl_vector_text(frame, "opcode"), "text") == 0)
                check(znl_vector_frame(frame, "text"),
                        cJSON_GetObjectItemCaseSensitive(frame, "json"));
        }
        files++;
    }
    /* Nothing was passed over. */
    assert_int_equal(files, 82);
    assert_int_equal(counts[ZNL_MODEM_REQUEST], 195);
    assert_int_equal(counts[ZNL_MODEM_RESPONSE], 181);
    assert_int_equal(counts[ZNL_MODEM_ABORT], 10);
    assert_int_equal(chunks, 25);
    assert_int_equal(refusals, 29);
    assert_int_equal(dropped, 6); /* no JSON, an array, an unknown mode; of either release */
    znl_vector_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(transcripts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
