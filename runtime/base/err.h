/* err.h - every error znlrun can report, in one list.
 *
 * A function that can fail returns 0 or one of these negative constants. The second column is the
 * code Lua sees (`nil, message, code`), the third the text for people.
 *
 * Layer: base. SPDX-License-Identifier: MIT */
#ifndef ZNL_BASE_ERR_H
#define ZNL_BASE_ERR_H

#define ZNL_ERRORS(X)                                                                          \
    X(NOMEM, -1, "NO_MEMORY", "out of memory")                                                 \
    X(INVALID, -2, "INVALID", "invalid argument")                                              \
    X(PROTO, -3, "PROTO", "malformed bytes")                                                   \
    X(TOO_BIG, -4, "TOO_BIG", "larger than the limit")                                         \
    X(LIMIT, -5, "LIMIT", "a configured limit is reached")                                     \
    X(TIMEOUT, -6, "TIMEOUT", "no answer in time")                                             \
    X(BUSY, -7, "BUSY", "the send queue is full")                                              \
    X(UNREACHABLE, -8, "UNREACHABLE", "no connection to that peer")                            \
    X(STOPPED, -9, "STOPPED", "stopped")                                                       \
    X(ADDRESS_IN_USE, -10, "ADDRESS_IN_USE", "already in use: something listens there")        \
    X(ADDRESS, -11, "ADDRESS", "the endpoint cannot be used")                                  \
    X(REBUILT, -12, "REBUILT", "the connection was rebuilt while waiting")                     \
    X(GONE, -13, "GONE", "the peer went off line while waiting")                               \
    X(NOT_FOUND, -14, "NOT_FOUND", "no such thing")                                            \
    X(EXISTS, -15, "EXISTS", "already there")                                                  \
    X(SYSTEM, -16, "SYSTEM", "the operating system refused")                                   \
    X(CANCELLED, -17, "CANCELLED", "cancelled")                                                \
    X(OVERLOADED, -18, "OVERLOADED", "too many requests at once")                              \
    X(DEADLINE, -19, "DEADLINE", "the deadline has passed")                                    \
    X(HANDLER_ERROR, -20, "HANDLER_ERROR", "the handler failed")                               \
    X(HANDLER_TIMEOUT, -21, "HANDLER_TIMEOUT", "the handler took too long")                    \
    X(UNSUPPORTED, -22, "UNSUPPORTED", "the peer cannot do that")                              \
    X(CLOSED, -23, "CLOSED", "closed")                                                         \
    X(FAILED, -24, "FAILED", "the task failed")                                                \
    X(WORKER_DIED, -25, "WORKER_DIED", "the worker thread that ran it ended")                  \
    X(REFUSED, -26, "REFUSED", "the peer refused")                                             \
    X(OFFLINE, -27, "OFFLINE", "not connected at the moment")                                  \
    /* Why a proof or a sealed payload is refused (spec, sections 7 and 8). */                 \
    X(MISSING_PROOF, -40, "missing_proof", "no proof")                                         \
    X(MALFORMED_PARTS, -41, "malformed_parts", "the proof is not three parts")                 \
    X(BAD_SIGNATURE, -42, "bad_signature",                                                     \
            "the signature does not match (other key or salt?)")                               \
    X(PARSE, -43, "parse_error", "the proof is not base64url of JSON")                         \
    X(BAD_HEADER, -44, "bad_header", "unknown proof type")                                     \
    X(MISSING_FIELD, -45, "missing_field", "the proof lacks a field")                          \
    X(STALE, -46, "stale_timestamp", "the timestamp is too far from this clock")               \
    X(KIND_MISMATCH, -47, "kind_mismatch", "the proof is for another kind of message")         \
    X(ID_MISMATCH, -48, "request_id_mismatch", "the proof is for another request or topic")    \
    X(NODE_MISMATCH, -49, "node_mismatch", "the proof is for another node")                    \
    X(DIGEST_MISMATCH, -50, "digest_mismatch", "the payload digest is missing or different")   \
    X(REPLAY, -51, "replay", "seen before")                                                    \
    X(NO_KEY, -52, "no_key_for_peer", "no key is configured for this peer")                    \
    X(ENVELOPE, -53, "bad_envelope", "the payload is not a sealed envelope")                   \
    X(OPEN, -54, "gcm_failed", "the sealed payload does not open (changed, or other key)")     \
    X(UNPACK, -55, "malformed", "the opened payload is malformed")                             \
    X(REFLECTED, -56, "reflected", "the proof carries this node's own id")                     \
    X(PROOF_IN_PLAIN, -57, "unexpected_proof", "the peer is encrypted, this node is plain")    \
    X(REPLAY_FULL, -58, "replay_full", "the replay window is full")

#define ZNL_ERR_ENUM(name, value, code, text) ZNL_E_##name = value,
enum { ZNL_ERRORS(ZNL_ERR_ENUM) ZNL_E_END_ = 1 };
#undef ZNL_ERR_ENUM

/* The code Lua scripts branch on, such as "TIMEOUT". Static; "UNKNOWN" for no error of ours. */
const char *znl_err_code(int err);

/* One phrase for people. Static. */
const char *znl_err_text(int err);

/* Translates errno (also what zmq_errno() returns) and negative libuv codes. */
int znl_err_from_errno(int number);
int znl_err_from_uv(int code);

#endif
