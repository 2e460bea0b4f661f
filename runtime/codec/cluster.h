/* cluster.h - what packets of the cluster-client protocol say: their JSON text (codec/WIRE.md, "Leader and
 * follower"; spec cluster-client, section 3).
 *
 * Layer: codec. Pure. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_CLUSTER_H
#define ZNL_CODEC_CLUSTER_H

#include "base/bytes.h"

typedef enum znl_cluster_kind {
    ZNL_CLUSTER_UNKNOWN,
    ZNL_CLUSTER_REGISTER,   /* register_channel */
    ZNL_CLUSTER_REGISTERED, /* register_channel_res */
    ZNL_CLUSTER_HEARTBEAT,
    ZNL_CLUSTER_HEARTBEAT_ANSWER,
    ZNL_CLUSTER_SUBSCRIBE,
    ZNL_CLUSTER_UNSUBSCRIBE, /* unSubscribe */
    ZNL_CLUSTER_VALUE,       /* subscribe_result */
    ZNL_CLUSTER_VALUE_TAKEN, /* subscribe_result_res */
    ZNL_CLUSTER_INVOKE,
    ZNL_CLUSTER_RESULT, /* invoke_result */
    ZNL_CLUSTER_CANCEL, /* ours: the asker gave the invoke of this id up; between own peers only */
} znl_cluster_kind;

typedef struct znl_cluster_message {
    znl_cluster_kind kind;
    znl_frame type; /* as it stands; {NULL, 0}: none, or no text */
    znl_frame
            channel; /* channelName; escapes undone; {NULL, 0}: absent or no text. So for the others */
    znl_frame key;
    znl_frame reg; /* JSON as it stands; {NULL, 0}: absent */
    znl_frame method;
    znl_frame extension; /* "znl": JSON of an object; {NULL, 0}: absent */
    uint32_t arg_count; /* argLength; 0 when absent; UINT32_MAX: no number in 0..UINT32_MAX-1 */
    int is_oneway;
    int is_success;
} znl_cluster_message;

/* Reads a text. Frames are borrowed from it or from `scratch`, until that is used again. 0; ZNL_E_PROTO: no JSON
 * object; ZNL_E_LIMIT: nested deeper than max_depth; ZNL_E_NOMEM. The usual texts are recognised without parsing. */
int znl_cluster_read(
        znl_frame text, unsigned max_depth, znl_buffer *scratch, znl_cluster_message *message);

/* Appends the text of `message`, fields in the order of the originals: what its kind has, and the extension.
 * Texts that are {NULL, 0} are left out. 0, ZNL_E_NOMEM, ZNL_E_PROTO (a field is not UTF-8), ZNL_E_INVALID (kind
 * unknown): `out` is as before. */
int znl_cluster_write(const znl_cluster_message *message, znl_buffer *out);

/* The text of kinds without fields, and of results; constant. {NULL, 0} for other kinds. */
znl_frame znl_cluster_text(znl_cluster_kind kind, int is_success);

/* --- arguments: count times i32 size, bytes -------------------------------------------------------- */

/* The next argument of *rest, which moves past it. 0; ZNL_E_PROTO: it ends early. */
int znl_cluster_next_argument(znl_frame *rest, znl_frame *argument);

#endif
