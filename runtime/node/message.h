/* message.h - a message between the wire and whoever handles it: checked and opened, or not yet sealed.
 *
 * Layer: node. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_MESSAGE_H
#define ZNL_NODE_MESSAGE_H

#include "codec/call.h"
#include "codec/control.h"

/* All frames are borrowed: of a received message until the call returns. */
typedef struct znl_message {
    znl_kind kind;
    znl_frame
            peer; /* master: the slave's id; slave: the pinned master id, empty while unknown */
    znl_frame subject; /* request id or topic */
    znl_frame service;
    const znl_frame *payload; /* opened; of a call its body, without marker and header */
    size_t payload_count;
    const znl_call *call; /* a call or the answer to one; NULL: plain */
    uint64_t deadline_ms; /* when the asker stops waiting; 0: not stated */
    int is_capable;   /* received: the sender reads calls, and error answers to any request */
    int is_malformed; /* received: marked as a call, but not one that can be read */
} znl_message;

#endif
