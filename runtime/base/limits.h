/* limits.h - every bound on size, count and time, with its unit and its reason.
 *
 * `..._DEFAULT` is what an option starts from, `..._MIN` and `..._MAX` what it accepts. A limit
 * reached is an error with a code, a counter and a log line.
 *
 * Layer: base. SPDX-License-Identifier: MIT */
#ifndef ZNL_BASE_LIMITS_H
#define ZNL_BASE_LIMITS_H

/* --- one message ------------------------------------------------------------------------------- */

/* Bytes in one frame, given to ZMQ_MAXMSGSIZE: 32 MiB file chunks with room for an envelope. */
#define ZNL_FRAME_BYTES_DEFAULT (64u * 1024 * 1024)
#define ZNL_FRAME_BYTES_MAX (1024u * 1024 * 1024)
/* Frames in one message, routing id and control frames included. */
#define ZNL_FRAMES_DEFAULT 1024u
#define ZNL_FRAMES_MAX 65536u
/* Bytes in all frames of one message: four 16 MiB chunks in flight. */
#define ZNL_MESSAGE_BYTES_DEFAULT (64u * 1024 * 1024)

/* --- names and tokens -------------------------------------------------------------------------- */

#define ZNL_ID_BYTES_MAX 255u         /* routing ids: the limit of ZMTP */
#define ZNL_REQUEST_ID_BYTES_MAX 256u /* JavaScript peers send 36 */
#define ZNL_TOPIC_BYTES_MAX 1024u
#define ZNL_SERVICE_BYTES_MAX 255u
/* "svc:" service ":" request id, or a topic: what a proof names. */
#define ZNL_SUBJECT_BYTES_MAX 1100u
/* Text of a proof: every name at its limit with each byte escaped as \u00xx, in base64. */
#define ZNL_PROOF_BYTES_MAX 12288u
#define ZNL_SECRET_BYTES_MAX 65536u
#define ZNL_ROUTE_BYTES_MAX 1024u       /* a path with its parameters */
#define ZNL_CAPABILITIES_BYTES_MAX 256u /* what a peer announces: a few words */
#define ZNL_CODE_BYTES_MAX 64u          /* of an error answer: "NOT_FOUND" */
/* Text of an error answer; a handler's longer message is cut. */
#define ZNL_ERROR_TEXT_BYTES_MAX 1024u
/* A proof of what a node can do: an id at its limit, each byte escaped, in base64. */
#define ZNL_EXTENSION_PROOF_BYTES_MAX 4096u

/* --- tables ------------------------------------------------------------------------------------ */

#define ZNL_PEERS_DEFAULT 10000u /* slaves of one master */
#define ZNL_PEERS_MAX 1000000u
#define ZNL_PENDING_DEFAULT 1000u /* spec, section 20 */
#define ZNL_PENDING_MAX 1000000u  /* what "no limit" means; the slot field of a request id */
/* Handlers at work in one node; each holds a coroutine. */
#define ZNL_CONCURRENCY_DEFAULT 1000u
#define ZNL_CONSOLE_JOBS 16u /* beyond max_concurrency: an overloaded node still tells why */
#define ZNL_CONCURRENCY_MAX 1000000u
#define ZNL_KEYS_MAX 1000000u /* keys of one master */

/* Addresses reserved for the small objects of one Lua state (slab.h); what is more comes from LuaJIT's
 * own allocator. */
#define ZNL_LUA_SMALL_BYTES_MAX ((size_t)4096 << 20)

/* --- queues ------------------------------------------------------------------------------------ */

/* Messages libzmq holds per connection and direction. */
#define ZNL_HWM_DEFAULT 10000u
#define ZNL_HWM_MAX 1000000u
/* Messages that wait in the node for a connection or for room. */
#define ZNL_OUTBOX_MESSAGES_DEFAULT 10000u
#define ZNL_OUTBOX_BYTES_DEFAULT (64u * 1024 * 1024)
/* Requests that wait for one of the handlers at work to end. */
#define ZNL_QUEUE_REQUESTS_DEFAULT 10000u
#define ZNL_QUEUE_REQUESTS_MAX 1000000u
#define ZNL_QUEUE_BYTES_DEFAULT (64u * 1024 * 1024)
/* Marked messages a slave keeps until its master has said whether it makes calls: what can cross
 * with the first acknowledgement. */
#define ZNL_EARLY_MESSAGES 1000u

/* --- time, in milliseconds --------------------------------------------------------------------- */

#define ZNL_TIMEOUT_MS_DEFAULT 5000u /* spec, section 20 */
#define ZNL_TIMEOUT_MS_MAX 86400000u
#define ZNL_TIMER_MS_MAX 2592000000u /* of a script: 30 days; fits into 32 bits */
#define ZNL_HEARTBEAT_MS_DEFAULT 3000u
#define ZNL_HEARTBEAT_MS_MAX 3600000u
#define ZNL_SKEW_MS_DEFAULT 30000u
#define ZNL_SKEW_MS_MAX 86400000u
#define ZNL_REPLAY_WINDOW_MS_DEFAULT 120000u
#define ZNL_REPLAY_WINDOW_MS_MIN 10000u
#define ZNL_REPLAY_WINDOW_MS_MAX 86400000u
#define ZNL_RECONNECT_MS 200u      /* spec, section 1 */
#define ZNL_RECONNECT_MAX_MS 1000u /* spec, section 1 */
/* A peer of ZMTP has this long to shake hands: as libzmq's ZMQ_HANDSHAKE_IVL. */
#define ZNL_ZMTP_HANDSHAKE_MS 30000u
/* Bytes queued for one peer of ZMTP, beside the messages of the high-water mark; one message may go beyond it. */
#define ZNL_ZMTP_QUEUE_BYTES (64u * 1024 * 1024)
/* A slave with several endpoints. */
#define ZNL_SLAVE_ENDPOINTS_MAX 32u /* a round of them takes half a minute at most */
#define ZNL_FAILOVER_MS 1000u       /* for the first answer; one lost packet costs no master */
/* After a lost connection: the same master has time to be there again, and then ten thousand slaves arrive at
 * the next one 20 per ms. */
#define ZNL_FAILOVER_WAIT_MS (ZNL_RECONNECT_MS + 50u)
#define ZNL_FAILOVER_SPREAD_MS 500u
#define ZNL_LINK_ENDPOINTS_MAX 32u /* that one master binds: its networks and a unix socket */
#define ZNL_CURVE_ALLOWED_MAX 100000u /* clients of one master by their keys: 3.2 MB */
/* How old a timestamp may be when the node is made: older ones could be replays from before. */
#define ZNL_START_ALLOWANCE_MS_DEFAULT 10000u
#define ZNL_REFUSAL_MS                                                                         \
    10000u /* between two lines of the log about connections that did not come about */
/* A loop that comes so late to a timer has been kept from turning, by a busy machine or by a long turn of its own … */
#define ZNL_STALL_MS 50u
/* … and looks for so long at what has come meanwhile before anybody's time is up. */
#define ZNL_STALL_LOOK_MS 20u
#define ZNL_STOP_LINGER_MS 250u /* what a stopping node grants its last frames */

/* --- streams, HTTP, WebSocket ------------------------------------------------------------------ */

#define ZNL_CONNECT_MS_DEFAULT 5000u /* micro spec, section 21 */
#define ZNL_HANDSHAKE_MS_DEFAULT                                                               \
    10000u /* TLS and the head of a request, of who connects to us */
#define ZNL_HTTP_IDLE_MS_DEFAULT 60000u /* between requests of one connection */
#define ZNL_HTTP_HEAD_BYTES_DEFAULT 16384u
#define ZNL_HTTP_BODY_BYTES_DEFAULT 65536u
#define ZNL_WS_CLOSE_MS_DEFAULT 2000u /* until the peer's close frame */
/* Bytes queued in one connection before writes are refused. */
#define ZNL_STREAM_QUEUE_BYTES_DEFAULT (16u * 1024 * 1024)
#define ZNL_SOCKET_PATH_BYTES_MAX 107u /* of a unix socket: what sun_path holds */
#define ZNL_SOCKET_MODE_DEFAULT 0600u
#define ZNL_CONNECTIONS_DEFAULT 100000u /* of one listener */
#define ZNL_CONNECTIONS_MAX 1000000u
/* Messages of one WebSocket that no script has taken yet, in bytes; then the peer waits. */
#define ZNL_WS_INBOX_BYTES_DEFAULT (1024u * 1024)

/* --- micro ------------------------------------------------------------------------------------- */

#define ZNL_JSON_DEPTH_DEFAULT 128u
#define ZNL_MICRO_HEARTBEAT_MS 10000u /* micro spec, section 21 */
#define ZNL_MICRO_HEARTBEAT_TIMEOUT_MS 20000u
#define ZNL_MICRO_HEARTBEAT_CHECK_MS 5000u
#define ZNL_MICRO_REQUEST_MS 30000u
#define ZNL_MICRO_WINDOW_DEFAULT 256u /* chunks of one stream on their way */
#define ZNL_MICRO_WINDOW_MAX 65536u
#define ZNL_MICRO_STREAMS_DEFAULT 1000u  /* of ours, over all connections */
#define ZNL_MICRO_PENDING_DEFAULT 10000u /* requests and streams of ours on one connection */
/* Bytes of one message. The originals take 100 MiB, each peer as often as it likes. */
#define ZNL_MICRO_MESSAGE_BYTES_DEFAULT (16u * 1024 * 1024)
#define ZNL_MICRO_PATH_BYTES_MAX 2048u /* of an upgrade */
/* Chunks that wait while something else is waited for on the same connection: times the window. */
#define ZNL_MICRO_OVERFULL 16u
/* Bytes of one stream that wait before reading stops; four times as many, as above. */
#define ZNL_MICRO_STREAM_BYTES (4u * 1024 * 1024)
/* Ids we give begin here: a v1 peer counts from 0 and confuses equal ones (spec, section 24, 1). */
#define ZNL_MICRO_ID_BASE (1ull << 40)

/* --- the registry of the micro protocol -------------------------------------------------------- */

#define ZNL_REGISTRATIONS_DEFAULT 100000u
#define ZNL_REGISTRATIONS_MAX 1000000u /* the slot field of an id */
#define ZNL_NAMESPACE_BYTES_MAX 1024u
#define ZNL_HOST_BYTES_MAX 255u

/* --- cluster-client ---------------------------------------------------------------------------- */

#define ZNL_CLUSTER_PORT 7777u /* spec cluster-client, section 11 */
#define ZNL_CLUSTER_RESPONSE_MS 3000u
#define ZNL_CLUSTER_HEARTBEAT_MS 20000u
#define ZNL_CLUSTER_CONNECT_MS 10000u
#define ZNL_CLUSTER_REGISTER_MS_DEFAULT 30000u /* of a connection, until it names its channel */
#define ZNL_CLUSTER_ID_MAX ((1u << 30) - 1)    /* ids of ours: 1 to this, spec section 2 */
/* Bytes of a packet without its head. */
#define ZNL_CLUSTER_MESSAGE_BYTES_DEFAULT (64u * 1024 * 1024)
/* The same of a connection that has no channel yet. */
#define ZNL_CLUSTER_UNREGISTERED_BYTES (64u * 1024)
#define ZNL_CLUSTER_CONNECTIONS_DEFAULT 10000u
#define ZNL_CLUSTER_PENDING_DEFAULT 100000u    /* requests of ours on one connection */
#define ZNL_CLUSTER_KEYS_DEFAULT 100000u       /* of one channel */
#define ZNL_CLUSTER_MEMBER_KEYS_DEFAULT 10000u /* of one follower */
#define ZNL_CLUSTER_KEY_BYTES_MAX 65536u
#define ZNL_CLUSTER_METHOD_BYTES_MAX 256u
#define ZNL_CLUSTER_NAME_BYTES_MAX 256u /* of a channel */
#define ZNL_CLUSTER_ARGUMENTS_MAX 128u
/* Values remembered by one channel. */
#define ZNL_CLUSTER_VALUES_BYTES_DEFAULT (1024u * 1024 * 1024)
/* Queued to a follower before it gets only the newest value of each key. */
#define ZNL_CLUSTER_QUEUE_BYTES_DEFAULT (4u * 1024 * 1024)
#define ZNL_TRANSCODE_DEPTH_DEFAULT 128u
#define ZNL_TRANSCODE_DEPTH_MAX                                                                \
    1000u /* each level takes a few hundred bytes of stack, and of Lua's 8,000 places */
#define ZNL_CLUSTER_MESSAGE_BYTES_MAX                                                          \
    (1024u * 1024 * 1024) /* a real peer takes no more (spec, section 2) */
/* From the answer that refuses a registration to the end of the connection: time to read it. */
#define ZNL_CLUSTER_REFUSED_MS 1000u
#define ZNL_CLUSTER_CLOSE_MS 2000u /* for what is queued when a connection is closed */

/* --- hub and roster (codec/hub.h, node/roster.h) ------------------------------------------------ */

#define ZNL_HUB_DEPTH                                                                          \
    (ZNL_JSON_DEPTH_DEFAULT + 8u)        /* a value of that depth, and what it stands in */
#define ZNL_ROSTER_TTL_MS_DEFAULT 30000u /* ws-cluster spec, section 6 */
#define ZNL_ROSTER_TTL_MS_MIN 2000u
#define ZNL_ROSTER_TTL_MS_MAX 3600000u
/* Members of others, and as many of our own; an owner may fill three quarters of it. */
#define ZNL_ROSTER_MEMBERS_DEFAULT 200000u
#define ZNL_ROSTER_MEMBERS_MAX 10000000u
/* Texts and metadata of one member; half of it as JSON at most fits into the smallest message below. */
#define ZNL_ROSTER_MEMBER_BYTES_DEFAULT 8192u
#define ZNL_ROSTER_MEMBER_BYTES_MAX 262144u
#define ZNL_ROSTER_BYTES_DEFAULT (512u * 1024 * 1024) /* of all members */
#define ZNL_ROSTER_OWNERS_MAX 4096u
/* Of one message that lists members: small enough to be spread, large enough not to be many. */
#define ZNL_ROSTER_PART_BYTES (64u * 1024)
#define ZNL_ROSTER_SYNC_DELAY_MS                                                               \
    100u                         /* the random wait before an answer; spec, section 12, 7 */
#define ZNL_ROSTER_SYNC_MS 1000u /* between answers to all; and between asks of one instance */
#define ZNL_ROSTER_ANSWERS 16u   /* answers to single instances at once, and as many a second */
#define ZNL_ROSTER_INBOX_BYTES 64u /* of the last token of a subject that an answer goes to */
#define ZNL_ROSTER_ORIGIN_BYTES_MAX 256u
#define ZNL_ROSTER_PATIENCE 8u /* heartbeats before the same list is asked for again in vain */
#define ZNL_ROSTER_ASKS 100u   /* asks for lists at once, and as many a second */
#define ZNL_ROSTER_BURST 16u   /* parts of a list in one go */
#define ZNL_ROSTER_BURST_MS 2u /* then a pause: others have a turn, the bus can write */
#define ZNL_ROSTER_BUSY_MS 50u /* before a part is tried again that the bus had no room for */
#define ZNL_ROSTER_SETTLE_MS 1500u /* after the bus came back: all have answered */
#define ZNL_ROSTER_STALL_MS 200u /* a timer that is later than this was held up with all else */
#define ZNL_ROSTER_REPAIRS 100u  /* members announced again at once, and as many a second */
/* Namespaces, channels, users, sessions, origins: some are paths. */
#define ZNL_HUB_NAME_BYTES_MAX 1024u
#define ZNL_HUB_CHANNELS_MAX 256u  /* of one client */
#define ZNL_HUB_EXCEPT_MAX 100000u /* sessions that one broadcast of ours leaves out */

/* --- NATS ------------------------------------------------------------------------------------------- */

#define ZNL_NATS_PORT 4222u
#define ZNL_NATS_SUBJECT_BYTES_MAX 1024u     /* the server takes lines of 4 KiB */
#define ZNL_NATS_INFO_BYTES_MAX (64u * 1024) /* a line: INFO names every server of a cluster */
#define ZNL_NATS_MESSAGE_BYTES_MAX (64u * 1024 * 1024) /* what a server can be configured to */
#define ZNL_NATS_SERVERS_MAX 64u                       /* given, and told of by other servers */
#define ZNL_NATS_CONNECT_MS_DEFAULT 2000u
#define ZNL_NATS_RECONNECT_MIN_MS_DEFAULT 50u
#define ZNL_NATS_RECONNECT_MAX_MS_DEFAULT 2000u
#define ZNL_NATS_PING_MS_DEFAULT 10000u
#define ZNL_NATS_OUTBOX_BYTES_DEFAULT (16u * 1024 * 1024)
/* PONG, SUB and UNSUB beyond a full outbox; then the server asks and does not read. */
#define ZNL_NATS_CONTROL_BYTES (4u * 1024 * 1024)
/* Of one connection: the slot field of an id. */
#define ZNL_NATS_SUBSCRIPTIONS_MAX (1u << 20)
/* Messages that wait in a paused subscription. */
#define ZNL_NATS_WAITING_DEFAULT 65536u
#define ZNL_NATS_WAITING_BYTES_DEFAULT (64u * 1024 * 1024)
#define ZNL_NATS_CLOSE_MS 1000u /* for what is queued when a connection is closed */

/* --- replay ------------------------------------------------------------------------------------ */

/* Nonces remembered: 12 bytes each, two minutes of 130,000 messages per second. */
#define ZNL_REPLAY_NONCES_DEFAULT 16000000u
#define ZNL_REPLAY_NONCES_MAX 100000000u

/* --- workers (worker.h) ------------------------------------------------------------------------ */

#define ZNL_WORKER_QUEUE_MAX 1000000u /* calls on their way to one worker or at work there */

/* --- shared dictionaries (shared.h) ------------------------------------------------------------ */

#define ZNL_SHARED_DICTS_MAX 256u /* they are never freed: names must not come from a peer */
#define ZNL_SHARED_NAME_BYTES_MAX 255u
#define ZNL_SHARED_KEY_BYTES_MAX 1024u
#define ZNL_SHARED_ENTRIES_DEFAULT 65536u
#define ZNL_SHARED_ENTRIES_MAX 100000000u
#define ZNL_SHARED_BYTES_DEFAULT (16u * 1024 * 1024)
#define ZNL_SHARED_BYTES_MIN 4096u
#define ZNL_SHARED_BYTES_MAX (1ull << 40)
#define ZNL_SHARED_ENTRY_BYTES 128u /* what an entry costs beside key and value */

/* --- the loop ---------------------------------------------------------------------------------- */

#define ZNL_BATCH_MESSAGES 64u /* messages taken from one socket before its sends are flushed */
#define ZNL_BATCH_ROUNDS 16u   /* rounds before the other sockets and timers have a turn */
#define ZNL_BATCH_MS 2u /* the same in time: handlers that compute must not starve the others */
#define ZNL_TASK_POOL_MAX 4096u /* finished coroutines kept for reuse */
/* Waits in a row that a cancelled task is refused at once: more than any cleaning up has. Later ones take so long. */
#define ZNL_CANCELLED_WAITS 100u
#define ZNL_CANCELLED_WAIT_MS 10u

#endif
