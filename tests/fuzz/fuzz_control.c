/* Control messages: every message parses, and what parses builds the same frames again.
 * SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/err.h"
#include "base/limits.h"
#include "codec/control.h"

#define FRAMES_MAX 12u

static const char *const words[] = {"__znl_v1__", "__znl_v1_auth__", "register", "unregister",
        "heartbeat", "heartbeat_ack", "req", "res", "pub", "push", "svc_req", "svc_res", "",
        "__znl_sec_v1__", "__znl_v1_ext__", "call=1"};
#define WORD_COUNT (sizeof words / sizeof words[0])

/* Each byte is a word of the protocol, or starts a frame of up to 63 bytes of the input. */
static size_t frames_of(const uint8_t *data, size_t size, znl_frame frames[FRAMES_MAX])
{
    size_t count = 0;
    while (size > 0 && count < FRAMES_MAX) {
        uint8_t selector = *data++;
        size--;
        if (selector < 192) {
            frames[count++] = znl_frame_text(words[selector % WORD_COUNT]);
        } else {
            size_t length = selector & 63u;
            if (length > size)
                length = size;
            frames[count++] = znl_frame_of(data, length);
            data += length;
            size -= length;
        }
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    znl_frame frames[FRAMES_MAX];
    size_t count = frames_of(data, size, frames);
    znl_control control;
    znl_control_parse(frames, count, &control);
    FUZZ_HOLDS((unsigned)control.kind < ZNL_KIND_COUNT);
    FUZZ_HOLDS(control.payload_count <= count);
    if (control.kind == ZNL_KIND_MESSAGE) {
        FUZZ_HOLDS(control.payload == frames && control.payload_count == count);
        FUZZ_HOLDS(!control.has_proof);
        FUZZ_HOLDS(control.subject.size == 0 && control.service.size == 0);
        return 0;
    }
    if (control.payload_count > 0)
        FUZZ_HOLDS(control.payload + control.payload_count == frames + count);
    FUZZ_HOLDS(control.has_proof || control.proof.size == 0);
    if (!control.has_proof)
        FUZZ_HOLDS(!znl_control_ambiguous(control.payload, control.payload_count));

    znl_frame built[ZNL_CONTROL_LEAD_MAX + ZNL_CONTROL_EXTENSION_MAX];
    size_t lead = znl_control_lead(control.kind, control.subject, control.service,
            control.has_proof ? &control.proof : NULL, built);
    FUZZ_HOLDS(lead >= 2 && lead <= ZNL_CONTROL_LEAD_MAX);
    FUZZ_HOLDS(lead + control.payload_count <= count);
    for (size_t i = 0; i < lead; i++)
        FUZZ_HOLDS(znl_frame_equal(built[i], frames[i]));
    if (control.has_extension) {
        int is_proven = control.extension_proof.data != NULL;
        size_t extension = znl_control_extension(
                control.capabilities, is_proven ? &control.extension_proof : NULL, built);
        FUZZ_HOLDS(control.payload_count == 0 && lead + extension <= count);
        for (size_t i = 0; i < extension; i++)
            FUZZ_HOLDS(znl_frame_equal(built[i], frames[lead + i]));
    }
    /* Frames that the parser dropped: only after the kinds that have no payload. */
    if (lead + control.payload_count < count)
        FUZZ_HOLDS(control.kind <= ZNL_KIND_HEARTBEAT_ACK);

    uint8_t scratch[ZNL_SUBJECT_BYTES_MAX];
    size_t room = size % (sizeof scratch + 1);
    znl_frame named;
    int err = znl_control_proof_subject(
            control.kind, control.subject, control.service, scratch, room, &named);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_TOO_BIG);
    if (err == 0 && control.service.size > 0)
        FUZZ_HOLDS(named.size == 5 + control.service.size + control.subject.size);
    else if (err == 0)
        FUZZ_HOLDS(znl_frame_equal(named, control.subject));
    return 0;
}
