/* hub.h - what instances of a hub tell each other on NATS: broadcasts, direct messages, the roster
 * (codec/WIRE.md, "Hub on NATS"; spec ws-cluster, sections 2 and 12).
 *
 * Texts are read in place and strictly (json.h). Of a field that is there twice the last counts; unknown ones are
 * passed over; one of another type than it should have counts as absent, unless said otherwise.
 *
 * Layer: codec. Pure. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_HUB_H
#define ZNL_CODEC_HUB_H

#include "codec/json.h"

#define ZNL_HUB_NUMBER_MAX ((UINT64_C(1) << 53) - 1) /* what every peer can hold exactly */
#define ZNL_HUB_NO_NUMBER UINT64_MAX /* absent, or no whole number in 0..2^53-1 */
#define ZNL_HUB_VERSION 2u           /* the mark "v" of our own instances */

/* --- broadcast and direct -------------------------------------------------------------------------- */

/* What a client is to see. */
typedef struct znl_hub_message {
    znl_frame text; /* the object as it stands; {NULL, 0}: absent, or its type is no string */
    znl_frame type; /* with its quotes */
    znl_frame payload; /* {NULL, 0}: absent */
    int is_exact;      /* it holds nothing else: `text` may be handed on as it is */
} znl_hub_message;

typedef struct znl_hub_fan {
    znl_frame origin;  /* {NULL, 0}: absent; so for the others */
    znl_frame ns;      /* of a broadcast */
    znl_frame channel; /* of a broadcast */
    znl_frame user_id; /* of a direct message */
    znl_frame except;  /* of a broadcast: the array as it stands; {NULL, 0}: absent or empty */
    znl_hub_message message;
} znl_hub_fan;

/* Reads either. Frames are borrowed from `text` or from `scratch`, until that is used again. 0; ZNL_E_PROTO: no JSON
 * object, or a channel that is neither text nor null; ZNL_E_LIMIT: nested too deep; ZNL_E_NOMEM. */
int znl_hub_read_fan(znl_frame text, znl_buffer *scratch, znl_hub_fan *fan);

/* The object as it stands, read as a message. 0 (also when its type is no string: `text` is {NULL, 0} then) or an error as
 * above. */
int znl_hub_read_message(znl_frame text, znl_hub_message *message);

/* Walks an array of texts, as `except` of a fan: begin, then next: 1 and *text, 0 at the end. Entries that are no texts are passed
 * over. The array has been read before. Errors: ZNL_E_NOMEM. */
void znl_hub_begin_texts(znl_json_reader *reader, znl_frame array);
int znl_hub_next_text(znl_json_reader *reader, znl_frame *text, znl_buffer *scratch);

/* Appends; 0, ZNL_E_NOMEM, ZNL_E_PROTO (a text is not UTF-8), and then `out` is as before. Of `message` only `text` is written. */
int znl_hub_put_broadcast(znl_buffer *out, const znl_hub_fan *fan);
int znl_hub_put_direct(znl_buffer *out, const znl_hub_fan *fan);
/* The object {"type", "payload"} of a message, and nothing else. 0 or ZNL_E_NOMEM. */
int znl_hub_put_message(znl_buffer *out, const znl_hub_message *message);

/* --- roster ---------------------------------------------------------------------------------------- */

typedef enum znl_hub_op {
    ZNL_HUB_NO_OP, /* none, or no text: to be ignored */
    ZNL_HUB_UNKNOWN,
    ZNL_HUB_ADD,
    ZNL_HUB_REMOVE,
    ZNL_HUB_HEARTBEAT,
    ZNL_HUB_SYNC,   /* sync_request */
    ZNL_HUB_DIGEST, /* ours: what a heartbeat would list, as count and hash */
    ZNL_HUB_ASK,    /* ours: `to` is asked for its list */
} znl_hub_op;

typedef struct znl_hub_member {
    znl_frame ns;
    znl_frame session_id;
    znl_frame user_id;  /* {NULL, 0}: absent or no text */
    znl_frame metadata; /* JSON as it stands; {NULL, 0}: absent or null */
} znl_hub_member;

typedef struct znl_hub_roster {
    znl_hub_op op;
    znl_frame origin; /* {NULL, 0}: absent */
    znl_hub_member
            member; /* add; session_id {NULL, 0}: not there, or without ns or session id */
    znl_frame session_id; /* remove; {NULL, 0}: absent */
    znl_frame members;    /* heartbeat: the array as it stands; {NULL, 0}: absent */
    /* Marks of our own instances; ZNL_HUB_NO_NUMBER or {NULL, 0}: absent. */
    int is_ours;      /* "v" is there and at least 2 */
    uint64_t n;       /* messages of this origin on the subject, this one included */
    uint64_t gen;     /* heartbeat: which list this is a part of */
    uint64_t part;    /* the number of the part, from 1 */
    uint64_t parts;   /* in the last part: how many there are */
    uint64_t since;   /* add: when the session joined there, milliseconds since 1970 or more */
    znl_frame sinces; /* heartbeat: the array of these, one for each member */
    znl_frame to;     /* ask: whom; heartbeat: whom it answers outside of the numbered row */
    uint64_t count;   /* digest: of members */
    znl_frame hash;   /* digest: text */
} znl_hub_roster;

/* One with nothing in it. */
static inline znl_hub_roster znl_hub_roster_of(znl_hub_op op)
{
    return (znl_hub_roster){.op = op,
            .n = ZNL_HUB_NO_NUMBER,
            .gen = ZNL_HUB_NO_NUMBER,
            .part = ZNL_HUB_NO_NUMBER,
            .parts = ZNL_HUB_NO_NUMBER,
            .since = ZNL_HUB_NO_NUMBER,
            .count = ZNL_HUB_NO_NUMBER};
}

/* Reads a message of the roster subject. As znl_hub_read_fan. JSON that is no object: ZNL_HUB_NO_OP. */
int znl_hub_read_roster(znl_frame text, znl_buffer *scratch, znl_hub_roster *message);

/* Walks the members of a heartbeat: begin, then next: 1 and *member with *since, 0 at the end, ZNL_E_NOMEM. Members
 * without ns or session id are left out, and counted in `skipped`. */
typedef struct znl_hub_list {
    znl_json_reader members, sinces;
    int has_sinces;
    uint32_t skipped;
} znl_hub_list;

void znl_hub_begin_list(znl_hub_list *list, const znl_hub_roster *message);
int znl_hub_next_member(
        znl_hub_list *list, znl_hub_member *member, uint64_t *since, znl_buffer *scratch);

/* Appends; 0, ZNL_E_NOMEM, ZNL_E_PROTO (a text is not UTF-8), and then `out` is as before. Marks that are absent are left out;
 * "v" is written when is_ours. A heartbeat is written with the arrays `members` and `sinces` as they are, "[]" when absent. */
int znl_hub_put_roster(znl_buffer *out, const znl_hub_roster *message);
/* The object of one member. */
int znl_hub_put_member(znl_buffer *out, const znl_hub_member *member);

#endif
