/* node.c - see node.h. SPDX-License-Identifier: MIT */
#include "node/node.h"

#include "codec/frames.h"
#include "codec/text.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/random.h"
#include "security/envelope.h"
#include "security/proof.h"

#include <stdio.h>
#include <string.h>

#define REFUSAL_BYTES_MAX 256
#define KEEP_SCRATCH_BYTES (1024u * 1024) /* larger scratch is given back after use */

/* --- life -------------------------------------------------------------------------------------- */

static znl_frame copy_name(uint8_t **at, znl_frame from)
{
    znl_frame copy = znl_frame_of(*at, from.size);
    if (from.size > 0)
        memcpy(*at, from.data, from.size);
    *at += from.size + 1; /* a terminator, for the endpoint */
    return copy;
}

static void expired(void *user, znl_waiter waiter, uint64_t peer_hash)
{
    znl_node *node = user;
    (void)peer_hash;
    node->counters.timeouts++;
    node->events.on_failed(node->user, waiter, ZNL_E_TIMEOUT);
}

int znl_node_init(znl_node *node, znl_loop *loop, const znl_node_options *options,
        const znl_node_events *events, void *user)
{
    znl_frame endpoint = znl_frame_text(options->endpoint);
    node->loop = loop;
    node->events = *events;
    node->user = user;
    node->options = *options;
    if (options->curve != NULL)
        znl_curve_hold(options->curve);
    node->names = znl_calloc(1, options->id.size + endpoint.size + 2);
    if (node->names == NULL)
        return ZNL_E_NOMEM;
    uint8_t *at = node->names;
    node->options.id = copy_name(&at, options->id);
    node->options.endpoint = (const char *)copy_name(&at, endpoint).data;
    node->options.secret = node->options.salt = znl_frame_of(
            NULL, 0);               /* keys hold what matters */
    node->options.endpoints = NULL; /* those are the role's */
    node->options.endpoint_count = 0;
    node->options.master_ids = NULL;
    node->created_unix_ms = znl_loop_unix_ms(loop);
    znl_random_bytes(node->iv, sizeof node->iv);
    znl_parcels_init(&node->outbox, options->outbox_messages, options->outbox_bytes);
    znl_wheel *wheel = znl_loop_wheel(loop);
    int err = znl_pending_new(&node->requests, wheel, options->max_pending, expired, node);
    if (err == 0)
        err = znl_pending_new(&node->services, wheel, options->max_pending, expired, node);
    if (err == 0 && options->encrypted)
        err = znl_replay_new(&node->replay, options->replay_window_ms,
                options->max_replay_nonces, znl_loop_now_ms(loop));
    return err;
}

void znl_node_fini(znl_node *node)
{
    znl_pending_free(node->requests);
    znl_pending_free(node->services);
    znl_replay_free(node->replay);
    znl_parcels_fini(&node->outbox);
    znl_buffer_fini(&node->out_frames);
    znl_buffer_fini(&node->in_frames);
    znl_buffer_fini(&node->call_frames);
    znl_buffer_fini(&node->sealed);
    znl_buffer_fini(&node->opened);
    znl_free(node->names);
    node->names = NULL;
    znl_curve_release(node->options.curve);
    node->options.curve = NULL;
}

int znl_node_open_link(znl_node *node, int is_router, const znl_link_events *events, void *user)
{
    znl_link_options options = {
            .engine = node->options.engine,
            .is_router = is_router,
            .curve = node->options.curve,
            .endpoint = node->options.endpoint,
            .send_hwm = node->options.send_hwm,
            .recv_hwm = node->options.recv_hwm,
            .max_frame_bytes = node->options.max_frame_bytes,
            .max_frames = node->options.max_frames,
            .max_message_bytes = node->options.max_message_bytes,
    };
    if (!is_router)
        options.routing_id = node->options.id;
    if (is_router && node->options.endpoint_count > 1) {
        options.more_endpoints = node->options.endpoints + 1;
        options.more_endpoint_count = node->options.endpoint_count - 1;
        options.failed = &node->failed;
    }
    return znl_link_open(&node->link, node->loop, &options, events, user);
}

void znl_node_on_refused(void *user, int err, const char *text)
{
    znl_node *node = user;
    char line[REFUSAL_BYTES_MAX];
    node->counters.turned_away++;
    snprintf(line, sizeof line, "no connection with a peer: %s", text);
    if (znl_refusals_are_news(
                &node->refusals, znl_frame_text(line), znl_loop_now_ms(node->loop)))
        node->events.on_trouble(node->user, err, line);
}

int znl_kind_has_payload(znl_kind kind)
{
    return kind >= ZNL_KIND_REQUEST && kind <= ZNL_KIND_SERVICE_RESPONSE;
}

/* --- out --------------------------------------------------------------------------------------- */

int znl_node_check_outgoing(const znl_node *node, const znl_message *message)
{
    int has_topic = message->kind == ZNL_KIND_PUBLISH || message->kind == ZNL_KIND_PUSH;
    size_t lead = ZNL_CONTROL_LEAD_MAX + 1 + (message->call != NULL ? ZNL_CALL_LEAD : 0);
    size_t bytes = 0;
    if (message->subject.size > (has_topic ? ZNL_TOPIC_BYTES_MAX : ZNL_REQUEST_ID_BYTES_MAX) ||
            message->service.size > ZNL_SERVICE_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    if (message->call != NULL && !znl_call_is_route(message->call->route))
        return ZNL_E_INVALID;
    if (message->payload_count + lead > node->options.max_frames)
        return ZNL_E_TOO_BIG;
    for (size_t i = 0; i < message->payload_count; i++) {
        if (message->payload[i].size > node->options.max_frame_bytes ||
                message->payload[i].size > node->options.max_message_bytes - bytes)
            return ZNL_E_TOO_BIG;
        bytes += message->payload[i].size;
    }
    if (!node->options.encrypted && message->call == NULL &&
            znl_kind_has_payload(message->kind) &&
            znl_control_ambiguous(message->payload, message->payload_count))
        return ZNL_E_INVALID;
    return 0;
}

int znl_node_wrap(znl_message *message, znl_calls peer, znl_call *wrapper)
{
    if (message->call != NULL)
        return peer == ZNL_CALLS_YES ? 0 : ZNL_E_UNSUPPORTED;
    if (peer == ZNL_CALLS_NO || !znl_call_is_marked(message->payload, message->payload_count))
        return 0;
    if (peer == ZNL_CALLS_UNKNOWN)
        return ZNL_E_INVALID;
    *wrapper = (znl_call){.is_answer = message->kind == ZNL_KIND_RESPONSE};
    message->call = wrapper;
    return 0;
}

/* Puts marker and header before the body; what is left of the time is taken now. */
static int mark(znl_node *node, const znl_message *message, const znl_frame **payload)
{
    znl_call call = *message->call;
    size_t count = message->payload_count;
    int err = znl_buffer_reserve(
            &node->call_frames, (count + ZNL_CALL_LEAD) * sizeof(znl_frame));
    if (err != 0)
        return err;
    if (!call.is_answer && message->deadline_ms > 0) {
        uint64_t now_ms = znl_clock_mono_ms();
        uint64_t left_ms = message->deadline_ms > now_ms ? message->deadline_ms - now_ms : 1;
        call.timeout_ms = left_ms < UINT32_MAX ? (uint32_t)left_ms : UINT32_MAX;
    }
    znl_frame *frames = (znl_frame *)(void *)node->call_frames.data;
    znl_call_lead(&call, node->call_header, frames);
    if (count > 0)
        memcpy(frames + ZNL_CALL_LEAD, message->payload, count * sizeof *frames);
    *payload = frames;
    return 0;
}

/* Random part and counter: unique within this node, and unlike any other node's but for a chance
 * of 2^-64 (spec, section 19, item 5). */
static const uint8_t *next_iv(znl_node *node)
{
    if (++node->iv_count == 0)
        znl_random_bytes(node->iv, sizeof node->iv);
    znl_put_be32(node->iv + 8, node->iv_count);
    return node->iv;
}

/* What a proof is made for. */
struct claimed {
    const char *kind;
    znl_frame subject;
    const znl_frame *payload;
    size_t count;
};

static int sign(znl_node *node, znl_keys *keys, const struct claimed *what, uint8_t *out,
        size_t capacity, znl_frame *proof)
{
    uint8_t random[ZNL_NONCE_TEXT_BYTES / 2];
    char nonce[ZNL_NONCE_TEXT_BYTES];
    char digest[ZNL_DIGEST_TEXT_BYTES];
    znl_random_bytes(random, sizeof random);
    znl_hex_encode(random, sizeof random, nonce);
    znl_proof_digest(what->payload, what->count, digest);
    znl_claim claim = {
            .kind = znl_frame_text(what->kind),
            .node_id = node->options.id,
            .subject = what->subject,
            .timestamp_ms = znl_clock_unix_ms(),
            .nonce = znl_frame_of(nonce, sizeof nonce),
            .digest = znl_frame_of(digest, sizeof digest),
    };
    size_t size = znl_proof_sign(keys, &claim, out, capacity);
    *proof = znl_frame_of(out, size);
    return size > 0 ? 0 : ZNL_E_TOO_BIG;
}

/* Appends what this node can do, in encrypted mode with a proof that is bound to the message's own
 * by its digest. `frames` has room; *n counts on. */
static int announce(znl_node *node, znl_keys *keys, znl_frame message_proof, uint8_t *scratch,
        znl_frame *frames, size_t *n)
{
    znl_frame capabilities = znl_call_capability();
    znl_frame proof;
    if (keys != NULL) {
        struct claimed what = {ZNL_EXTENSION_PROOF_NAME, capabilities, &message_proof, 1};
        int err = sign(node, keys, &what, scratch, ZNL_EXTENSION_PROOF_BYTES_MAX, &proof);
        if (err != 0)
            return err;
    }
    *n += znl_control_extension(capabilities, keys != NULL ? &proof : NULL, frames + *n);
    return 0;
}

static void count_send(znl_node *node, int err)
{
    if (err == 0)
        node->counters.sent++;
    else if (err == ZNL_E_BUSY)
        node->counters.busy++;
    else if (err == ZNL_E_UNREACHABLE)
        node->counters.unreachable++;
}

/* Puts the frames of a message into node->out_frames behind *n others, with room for an extension; *n counts on.
 * 0 or ZNL_E_NOMEM. */
static int assemble(znl_node *node, const znl_message *message, const znl_frame *payload,
        size_t count, const znl_frame *proof, size_t *n)
{
    int err = znl_buffer_reserve(&node->out_frames,
            (*n + ZNL_CONTROL_LEAD_MAX + count + ZNL_CONTROL_EXTENSION_MAX) *
                    sizeof(znl_frame));
    if (err != 0)
        return err;
    znl_frame *frames = (znl_frame *)(void *)node->out_frames.data;
    *n += znl_control_lead(
            message->kind, message->subject, message->service, proof, frames + *n);
    if (count > 0)
        memcpy(frames + *n, payload, count * sizeof *frames);
    *n += count;
    return 0;
}

int znl_node_transmit(znl_node *node, const znl_message *message, znl_keys *keys, int announces)
{
    znl_frame envelope[ZNL_ENVELOPE_FRAMES];
    uint8_t extension_proof[ZNL_EXTENSION_PROOF_BYTES_MAX];
    const znl_frame *payload = message->payload;
    size_t count = message->payload_count;
    znl_frame proof = {NULL, 0};
    int err = 0;
    if (node->link == NULL)
        return ZNL_E_STOPPED;
    if (message->call != NULL) {
        err = mark(node, message, &payload);
        count += ZNL_CALL_LEAD;
    }
    if (err == 0 && keys != NULL) {
        znl_frame subject;
        const char *kind = znl_kind_proof_name(message->kind);
        err = znl_control_proof_subject(message->kind, message->subject, message->service,
                node->subject_scratch, sizeof node->subject_scratch, &subject);
        if (err == 0 && znl_kind_has_payload(message->kind)) {
            znl_envelope_context context = {znl_frame_text(kind), node->options.id, subject};
            err = znl_envelope_seal(
                    keys, &context, next_iv(node), payload, count, &node->sealed, envelope);
            payload = envelope;
            count = ZNL_ENVELOPE_FRAMES;
        }
        struct claimed what = {kind, subject, payload, count};
        if (err == 0)
            err = sign(node, keys, &what, node->proof_out, sizeof node->proof_out, &proof);
    }
    size_t n = message->peer.size > 0;
    if (err == 0)
        err = assemble(node, message, payload, count, keys != NULL ? &proof : NULL, &n);
    if (err != 0)
        return err;
    znl_frame *frames = (znl_frame *)(void *)node->out_frames.data;
    if (message->peer.size > 0)
        frames[0] = message->peer;
    if (announces)
        err = announce(node, keys, proof, extension_proof, frames, &n);
    if (err == 0)
        err = znl_link_send(node->link, frames, n);
    count_send(node, err);
    znl_buffer_trim(&node->sealed, KEEP_SCRATCH_BYTES);
    return err;
}

int znl_node_compose(znl_node *node, const znl_message *message, size_t *count)
{
    *count = 1;
    return assemble(node, message, message->payload, message->payload_count, NULL, count);
}

int znl_node_send_to(znl_node *node, znl_frame peer, size_t count)
{
    znl_frame *frames = (znl_frame *)(void *)node->out_frames.data;
    frames[0] = peer;
    int err = znl_link_send(node->link, frames, count);
    count_send(node, err);
    return err;
}

/* --- in ---------------------------------------------------------------------------------------- */

int znl_node_accept(znl_node *node, uint32_t kinds, znl_frame peer, const znl_frame *frames,
        size_t count, size_t skip, znl_control *control)
{
    znl_control_parse(frames + skip, count - skip, control);
    if (node->observe_raw)
        node->events.on_raw(node->user, peer, frames, count);
    if (!node->running) /* the observer stopped it */
        return 0;
    if (!(kinds >> control->kind & 1)) {
        node->counters.ignored++;
        return 0;
    }
    if (control->subject.size > ZNL_TOPIC_BYTES_MAX ||
            control->service.size > ZNL_SERVICE_BYTES_MAX) {
        node->counters.over_limit++;
        return 0;
    }
    return 1;
}

/* Steps 2 to 13 of spec section 7. */
static int check_proof(znl_node *node, znl_keys *keys, znl_frame proof,
        const znl_expectation *expected, znl_frame *claimed)
{
    znl_claim claim;
    if (proof.size == 0)
        return ZNL_E_MISSING_PROOF;
    if (proof.size > ZNL_PROOF_BYTES_MAX)
        return ZNL_E_MALFORMED_PARTS;
    int err = znl_proof_decode(keys, proof, znl_loop_unix_ms(node->loop),
            node->options.max_skew_ms, node->proof_in, &claim);
    if (err != 0)
        return err;
    znl_replay_key key = znl_replay_prepare(
            node->replay, claim.kind, claim.node_id, claim.subject, claim.nonce);
    err = znl_proof_expect(&claim, expected);
    /* Nonces from before this process are forgotten; so are the messages that carried them. */
    if (err == 0 &&
            claim.timestamp_ms <
                    node->created_unix_ms - (int64_t)node->options.start_allowance_ms)
        err = ZNL_E_STALE;
    if (err == 0)
        err = znl_replay_admit(node->replay, key, znl_loop_now_ms(node->loop));
    if (err == 0)
        *claimed = claim.node_id;
    return err;
}

int znl_node_verify(znl_node *node, znl_keys *keys, const znl_control *control, znl_frame peer,
        znl_frame *claimed)
{
    znl_expectation expected = {
            .kind = znl_frame_text(znl_kind_proof_name(control->kind)),
            .node_id = peer,
            .own_id = node->options.id,
            .payload = control->payload,
            .payload_count = control->payload_count,
            .require_digest = node->options.require_digest,
    };
    if (!control->has_proof)
        return ZNL_E_MISSING_PROOF;
    int err = znl_control_proof_subject(control->kind, control->subject, control->service,
            node->subject_scratch, sizeof node->subject_scratch, &expected.subject);
    return err == 0 ? check_proof(node, keys, control->proof, &expected, claimed) : err;
}

znl_calls znl_node_read_extension(
        znl_node *node, znl_keys *keys, const znl_control *control, znl_frame peer)
{
    if (!control->has_extension || control->capabilities.size > ZNL_CAPABILITIES_BYTES_MAX)
        return ZNL_CALLS_NO;
    if (keys != NULL) {
        znl_frame claimed;
        znl_expectation expected = {
                .kind = znl_frame_text(ZNL_EXTENSION_PROOF_NAME),
                .subject = control->capabilities,
                .node_id = peer,
                .own_id = node->options.id,
                .payload = &control->proof,
                .payload_count = 1,
                .require_digest = 1,
        };
        int reason = check_proof(node, keys, control->extension_proof, &expected, &claimed);
        if (reason != 0) {
            znl_node_refuse(node, peer, control->kind, reason);
            return ZNL_CALLS_NO;
        }
    }
    return znl_call_is_capability(control->capabilities) ? ZNL_CALLS_YES : ZNL_CALLS_NO;
}

int znl_node_open(znl_node *node, znl_keys *keys, znl_control *control, znl_frame sender)
{
    znl_envelope_context context = {
            znl_frame_text(znl_kind_proof_name(control->kind)), sender, {NULL, 0}};
    znl_frame packed;
    size_t count;
    int err = znl_control_proof_subject(control->kind, control->subject, control->service,
            node->subject_scratch, sizeof node->subject_scratch, &context.subject);
    if (err == 0)
        err = znl_envelope_open(keys, &context, control->payload, control->payload_count,
                node->options.max_frames, &node->opened, &packed);
    if (err != 0)
        return err;
    size_t cap = znl_get_be32(packed.data); /* checked by znl_envelope_open */
    err = znl_buffer_reserve(&node->in_frames, (cap + 1) * sizeof(znl_frame));
    if (err != 0)
        return err;
    znl_frame *frames = (znl_frame *)(void *)node->in_frames.data;
    if (znl_frames_split(packed.data, packed.size, frames, cap, &count) != 0)
        return ZNL_E_UNPACK;
    control->payload = frames;
    control->payload_count = count;
    return 0;
}

static void take_reply(znl_node *node, const znl_message *message, uint64_t peer_hash)
{
    znl_waiter waiter;
    znl_pending *table = message->kind == ZNL_KIND_RESPONSE ? node->requests : node->services;
    if (znl_pending_take(table, message->subject, peer_hash, &waiter) != 0) {
        node->counters.late_replies++;
        return;
    }
    if (message->is_malformed) {
        node->events.on_failed(node->user, waiter, ZNL_E_PROTO);
        return;
    }
    node->counters.replies_in++;
    node->events.on_reply(node->user, waiter, message);
}

/* Takes a marked payload apart; `call` outlives the message. */
static void unwrap(znl_node *node, znl_message *message, znl_call *call)
{
    int is_answer = message->kind == ZNL_KIND_RESPONSE;
    if (znl_call_read(message->payload, message->payload_count, is_answer, call) != 0) {
        node->counters.malformed++;
        message->is_malformed = 1;
        message->payload_count = 0;
        return;
    }
    message->call = call;
    message->payload += ZNL_CALL_LEAD;
    message->payload_count -= ZNL_CALL_LEAD;
    if (!is_answer && call->timeout_ms > 0)
        message->deadline_ms = znl_loop_now_ms(node->loop) + call->timeout_ms;
}

void znl_node_deliver(znl_node *node, znl_message *message, uint64_t peer_hash)
{
    znl_call call;
    int is_event = message->kind == ZNL_KIND_PUBLISH || message->kind == ZNL_KIND_PUSH;
    if (message->is_capable && znl_call_is_marked(message->payload, message->payload_count) &&
            (message->kind == ZNL_KIND_REQUEST || message->kind == ZNL_KIND_RESPONSE))
        unwrap(node, message, &call);
    if (is_event || (node->observe_kinds >> message->kind & 1))
        node->events.on_message(node->user, message);
    if (!node->running) { /* the observer stopped it: nobody answers any more, or waits */
        znl_buffer_trim(&node->opened, KEEP_SCRATCH_BYTES);
        return;
    }
    if (message->kind == ZNL_KIND_REQUEST || message->kind == ZNL_KIND_SERVICE_REQUEST) {
        node->counters.requests_in++;
        node->events.on_request(node->user, message);
    } else if (!is_event) {
        take_reply(node, message, peer_hash);
    }
    znl_buffer_trim(&node->opened, KEEP_SCRATCH_BYTES);
}

void znl_node_refuse(znl_node *node, znl_frame peer, znl_kind kind, int reason)
{
    node->counters.auth_failed++;
    node->events.on_auth_failed(node->user, peer, kind, reason);
}

void znl_node_reject(znl_node *node, uint64_t peer_hash, int err)
{
    znl_waiter waiter;
    znl_pending *tables[] = {node->requests, node->services};
    for (size_t i = 0; i < 2; i++)
        while (znl_pending_count(tables[i]) > 0 &&
                znl_pending_take_any(tables[i], peer_hash, &waiter) == 0) {
            node->counters.rejected++;
            node->events.on_failed(node->user, waiter, err);
        }
}
