/* zmtp_peer.h - one connection of ZMTP 3 (NULL mechanism) on a stream: hands shaken, then messages both ways.
 *
 *   greeting -> shaking -> open -> ended
 *
 * Layer: transport, private to link_zmtp*.c. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_ZMTP_PEER_H
#define ZNL_TRANSPORT_ZMTP_PEER_H

#include "base/map.h"
#include "codec/zmtp_reader.h"
#include "transport/stream.h"

typedef struct znl_zmtp_peer znl_zmtp_peer;

/* What the connections of one link have in common, and who hears of them. `on_end` and `on_ready` may close the peer,
 * and every function may close them all. */
typedef struct znl_zmtp_side {
    znl_loop *loop;
    int is_router;
    znl_frame routing_id; /* ours; owned by the link */
    znl_zmtp_limits limits;
    uint32_t send_hwm; /* messages */
    znl_zmtp_scratch scratch;
    /* Hands are shaken; `identity` is borrowed, 0 to 255 bytes. */
    void (*on_ready)(struct znl_zmtp_side *side, znl_zmtp_peer *peer, znl_frame identity);
    /* Borrowed; frames[-1] may be written to. */
    void (*on_message)(
            struct znl_zmtp_side *side, znl_zmtp_peer *peer, znl_frame *frames, size_t count);
    void (*on_dropped)(struct znl_zmtp_side *side, int err);
    /* A send that was refused as BUSY can succeed. */
    void (*on_room)(struct znl_zmtp_side *side, znl_zmtp_peer *peer);
    /* The last event. Before hands were shaken `refusal` says who turned whom away; NULL: nobody did. */
    void (*on_end)(
            struct znl_zmtp_side *side, znl_zmtp_peer *peer, int err, const char *refusal);
} znl_zmtp_side;

struct znl_zmtp_peer {
    znl_map_entry entry; /* of a router; its key is the routing id, owned */
    znl_zmtp_peer *next; /* of the link's peers */
    znl_zmtp_peer **link;
    znl_zmtp_side *side;
    znl_stream *stream;
    znl_zmtp_reader reader;
    znl_timer timer;    /* hands to be shaken; silence after a PING with a TTL */
    uint64_t heard_ms;  /* when something came last */
    uint32_t ttl_ms;    /* 0: none */
    znl_buffer backlog; /* read and not yet looked at: others have their turn */
    size_t backlog_at;
    znl_deferred resume;
    uint64_t written;   /* bytes given to the stream */
    uint64_t older_end; /* of these, up to the last of the older messages */
    uint32_t older;     /* messages perhaps still queued, in two lots */
    uint32_t fresh;
    uint8_t state;
    uint8_t is_busy; /* handing out: memory stays until that is done */
    uint8_t is_closed;
    uint8_t is_blocked;   /* on_room will come */
    uint8_t says_goodbye; /* an ERROR is to reach it */
    uint8_t has_greeted;  /* with all of the greeting */
    uint8_t has_said;     /* it sent something: a greeting, or what it takes for one */
};

/* Takes the stream, also when it fails; NULL: it is set before it is open. 0 or ZNL_E_NOMEM. Hands are shaken from
 * znl_zmtp_peer_start() on: called for a stream that is open, and by the events below when theirs opens. */
int znl_zmtp_peer_new(znl_zmtp_peer **out, znl_zmtp_side *side, znl_stream *stream);
void znl_zmtp_peer_start(znl_zmtp_peer *peer);

/* The events of a stream that connects for `peer`: its user is the peer. */
extern const znl_stream_events znl_zmtp_peer_stream_events;

/* Takes it. What is queued has `linger_ms` to leave. */
void znl_zmtp_peer_close(znl_zmtp_peer *peer, uint32_t linger_ms);

int znl_zmtp_peer_is_open(const znl_zmtp_peer *peer);

/* 0, ZNL_E_BUSY (on_room will come), ZNL_E_UNREACHABLE (not open, or ending), ZNL_E_NOMEM. */
int znl_zmtp_peer_send(znl_zmtp_peer *peer, const znl_frame *frames, size_t count);

#endif
