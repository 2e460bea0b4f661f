/* control.h - the control messages of ZNL v1: which kind, whose proof, where the payload starts.
 *
 * Wire: WIRE.md, "Control messages" (spec, sections 2 to 4).
 * Layer: codec. Pure functions: no I/O, no clock, no Lua, no allocation. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_CONTROL_H
#define ZNL_CODEC_CONTROL_H

#include "base/bytes.h"

typedef enum znl_kind {
    ZNL_KIND_MESSAGE, /* not a control message: no effect */
    ZNL_KIND_REGISTER,
    ZNL_KIND_UNREGISTER,
    ZNL_KIND_HEARTBEAT,
    ZNL_KIND_HEARTBEAT_ACK,
    ZNL_KIND_REQUEST,
    ZNL_KIND_RESPONSE,
    ZNL_KIND_PUBLISH,
    ZNL_KIND_PUSH,
    ZNL_KIND_SERVICE_REQUEST,
    ZNL_KIND_SERVICE_RESPONSE,
    ZNL_KIND_COUNT
} znl_kind;

/* A control message in parts. All frames are borrowed. */
typedef struct znl_control {
    znl_kind kind;
    znl_frame subject; /* request id, or topic; size 0 when there is none */
    znl_frame service; /* service messages only */
    znl_frame proof;   /* meaningful when has_proof; may be empty, which counts as missing */
    int has_proof;     /* the marker was there */
    /* Register, heartbeat and heartbeat_ack: what the sender can do (WIRE.md, "Extensions"). */
    int has_extension;
    znl_frame capabilities;
    znl_frame extension_proof; /* size 0: none, which encrypted mode refuses */
    const znl_frame *payload;
    size_t payload_count;
} znl_control;

/* Splits the frames of a message (without routing id) by the rules of spec section 4. Never
 * fails: what is not a control message comes out as ZNL_KIND_MESSAGE with all frames as payload. */
void znl_control_parse(const znl_frame *frames, size_t count, znl_control *out);

/* Frames that znl_control_lead() writes at most. */
#define ZNL_CONTROL_LEAD_MAX 6u

/* Writes the frames that come before the payload: prefix, action, subject, service, marker and
 * proof (when `proof` is not NULL). Returns their number. */
size_t znl_control_lead(znl_kind kind, znl_frame subject, znl_frame service,
        const znl_frame *proof, znl_frame frames[ZNL_CONTROL_LEAD_MAX]);

/* Frames that znl_control_extension() writes at most. */
#define ZNL_CONTROL_EXTENSION_MAX 3u

/* What a proof of capabilities says it is for, in place of the kind of a message. */
#define ZNL_EXTENSION_PROOF_NAME "extension"

/* Writes what a register, heartbeat or heartbeat_ack carries behind everything else: marker,
 * capabilities, and their proof (when `proof` is not NULL). Returns the number of frames. */
size_t znl_control_extension(znl_frame capabilities, const znl_frame *proof,
        znl_frame frames[ZNL_CONTROL_EXTENSION_MAX]);

/* True when a plain payload would be read as a proof by the receiver (spec section 4, "Plain mode
 * is ambiguous"): such a payload must not be sent. */
int znl_control_ambiguous(const znl_frame *payload, size_t count);

/* Name on the wire ("req"), in events and parsed_kind of the vectors ("request",
 * "service_request", "message"), and inside proofs ("request" also for services). Static text. */
const char *znl_kind_action(znl_kind kind);
const char *znl_kind_name(znl_kind kind);
const char *znl_kind_proof_name(znl_kind kind);

/* What a proof and the associated data name (spec section 6): empty, the subject, or
 * "svc:" service ":" subject, which is written to `scratch`.
 * Returns 0 or ZNL_E_TOO_BIG when it does not fit ZNL_SUBJECT_BYTES_MAX. */
int znl_control_proof_subject(znl_kind kind, znl_frame subject, znl_frame service,
        uint8_t *scratch, size_t capacity, znl_frame *out);

#endif
