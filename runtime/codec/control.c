/* control.c - see control.h. SPDX-License-Identifier: MIT */
#include "codec/control.h"

#include "base/err.h"
#include "base/limits.h"

static const char prefix_text[] = "__znl_v1__";
static const char marker_text[] = "__znl_v1_auth__";
static const char extension_text[] = "__znl_v1_ext__";

/* What stands between the action and the marker. */
enum shape { SHAPE_NONE, SHAPE_BARE, SHAPE_ID, SHAPE_TOPIC, SHAPE_SERVICE };

/* WIRE.md, "Control messages": one row per kind: action, name, name in proofs, shape. Those that come
 * most often first: they are looked for in this order. */
/* clang-format off */
#define KINDS(ROW)                                                                                \
    ROW(REQUEST, "req", "request", "request", SHAPE_ID)                                           \
    ROW(RESPONSE, "res", "response", "response", SHAPE_ID)                                        \
    ROW(PUBLISH, "pub", "publish", "publish", SHAPE_TOPIC)                                        \
    ROW(PUSH, "push", "push", "push", SHAPE_TOPIC)                                                \
    ROW(HEARTBEAT, "heartbeat", "heartbeat", "heartbeat", SHAPE_BARE)                             \
    ROW(HEARTBEAT_ACK, "heartbeat_ack", "heartbeat_ack", "heartbeat_ack", SHAPE_BARE)             \
    ROW(REGISTER, "register", "register", "register", SHAPE_BARE)                                 \
    ROW(UNREGISTER, "unregister", "unregister", "unregister", SHAPE_BARE)                         \
    ROW(SERVICE_REQUEST, "svc_req", "service_request", "request", SHAPE_SERVICE)                  \
    ROW(SERVICE_RESPONSE, "svc_res", "service_response", "response", SHAPE_SERVICE)
/* clang-format on */

static const struct row {
    const char *action;
    const char *name;
    const char *proof_name;
    uint8_t action_size;
    uint8_t shape;
} rows[ZNL_KIND_COUNT] = {[ZNL_KIND_MESSAGE] = {"", "message", "", 0, SHAPE_NONE},
#define ROW(kind, action, name, proof_name, shape)                                             \
    [ZNL_KIND_##kind] = {action, name, proof_name, sizeof action - 1, shape},
        KINDS(ROW)
#undef ROW
};

static inline const struct row *row_of(znl_kind kind)
{
    return &rows[(unsigned)kind < ZNL_KIND_COUNT ? kind : ZNL_KIND_MESSAGE];
}

static inline int is_text(znl_frame frame, const char *text, size_t size)
{
    return frame.size == size && memcmp(frame.data, text, size) == 0;
}

static inline int is_marker(znl_frame frame)
{
    return is_text(frame, marker_text, sizeof marker_text - 1);
}

static inline znl_kind kind_of_action(znl_frame action)
{
#define ROW(kind, text, name, proof_name, shape)                                               \
    if (is_text(action, text, sizeof text - 1))                                                \
        return ZNL_KIND_##kind;
    KINDS(ROW)
#undef ROW
    return ZNL_KIND_MESSAGE;
}

/* WIRE.md, "Extensions": `rest` is what follows the frames that original peers know. */
static void parse_extension(const znl_frame *rest, size_t count, znl_control *out)
{
    if (count < 2 || !is_text(rest[0], extension_text, sizeof extension_text - 1))
        return;
    out->has_extension = 1;
    out->capabilities = rest[1];
    if (count > 2)
        out->extension_proof = rest[2];
}

void znl_control_parse(const znl_frame *frames, size_t count, znl_control *out)
{
    *out = (znl_control){.kind = ZNL_KIND_MESSAGE, .payload = frames, .payload_count = count};
    if (count < 2 || !is_text(frames[0], prefix_text, sizeof prefix_text - 1))
        return;

    znl_kind kind = kind_of_action(frames[1]);
    size_t at = 2; /* first frame not yet accounted for */
    switch ((enum shape)rows[kind].shape) {
    case SHAPE_NONE:
        return;
    case SHAPE_BARE:
        break;
    case SHAPE_ID:
        if (count < 3 || frames[2].size == 0)
            return;
        out->subject = frames[2];
        at = 3;
        break;
    case SHAPE_TOPIC:
        if (count < 3)
            return;
        out->subject = frames[2];
        at = 3;
        break;
    case SHAPE_SERVICE:
        if (count < 4 || frames[2].size == 0 || frames[3].size == 0)
            return;
        out->subject = frames[2];
        out->service = frames[3];
        at = 4;
        break;
    }

    out->kind = kind;
    /* The marker counts only where a proof frame follows it. Also after unregister, where
     * original peers ignore it: proof there is an extension (spec, section 19, item 1). */
    if (count - at >= 2 && is_marker(frames[at])) {
        out->has_proof = 1;
        out->proof = frames[at + 1];
        at += 2;
    }
    if (rows[kind].shape == SHAPE_BARE) {
        if (kind != ZNL_KIND_UNREGISTER)
            parse_extension(frames + at, count - at, out);
        at = count;
    }
    out->payload = at < count ? frames + at : NULL;
    out->payload_count = count - at;
}

size_t znl_control_lead(znl_kind kind, znl_frame subject, znl_frame service,
        const znl_frame *proof, znl_frame frames[ZNL_CONTROL_LEAD_MAX])
{
    const struct row *row = row_of(kind);
    if (row->shape == SHAPE_NONE)
        return 0;
    size_t count = 0;
    frames[count++] = znl_frame_of(prefix_text, sizeof prefix_text - 1);
    frames[count++] = znl_frame_of(row->action, row->action_size);
    if (row->shape != SHAPE_BARE)
        frames[count++] = subject;
    if (row->shape == SHAPE_SERVICE)
        frames[count++] = service;
    if (proof != NULL) {
        frames[count++] = znl_frame_of(marker_text, sizeof marker_text - 1);
        frames[count++] = *proof;
    }
    return count;
}

size_t znl_control_extension(znl_frame capabilities, const znl_frame *proof,
        znl_frame frames[ZNL_CONTROL_EXTENSION_MAX])
{
    size_t count = 0;
    frames[count++] = znl_frame_of(extension_text, sizeof extension_text - 1);
    frames[count++] = capabilities;
    if (proof != NULL)
        frames[count++] = *proof;
    return count;
}

int znl_control_ambiguous(const znl_frame *payload, size_t count)
{
    return count >= 2 && is_marker(payload[0]);
}

const char *znl_kind_action(znl_kind kind)
{
    return row_of(kind)->action;
}

const char *znl_kind_name(znl_kind kind)
{
    return row_of(kind)->name;
}

const char *znl_kind_proof_name(znl_kind kind)
{
    return row_of(kind)->proof_name;
}

int znl_control_proof_subject(znl_kind kind, znl_frame subject, znl_frame service,
        uint8_t *scratch, size_t capacity, znl_frame *out)
{
    static const char lead[4] = "svc:";
    enum shape shape = (enum shape)row_of(kind)->shape;
    if (shape == SHAPE_NONE || shape == SHAPE_BARE) {
        *out = (znl_frame){0};
        return 0;
    }
    if (subject.size > ZNL_SUBJECT_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    if (shape != SHAPE_SERVICE) {
        *out = subject;
        return 0;
    }
    size_t room = capacity < ZNL_SUBJECT_BYTES_MAX ? capacity : ZNL_SUBJECT_BYTES_MAX;
    size_t fixed = sizeof lead + 1;
    if (room < fixed || service.size > room - fixed ||
            subject.size > room - fixed - service.size)
        return ZNL_E_TOO_BIG;
    uint8_t *at = scratch;
    memcpy(at, lead, sizeof lead);
    at += sizeof lead;
    if (service.size != 0)
        memcpy(at, service.data, service.size);
    at += service.size;
    *at++ = ':';
    if (subject.size != 0)
        memcpy(at, subject.data, subject.size);
    at += subject.size;
    *out = znl_frame_of(scratch, (size_t)(at - scratch));
    return 0;
}
