/* nats.h - a connection to NATS servers, on the loop.
 *
 *   connecting -> connected <-> reconnecting -> closed
 *
 * The protocol of NATS clients on stream.h: no thread, nothing waits. Messages are handed over in the order in which
 * the server sent them, straight from the bytes that arrived. Events and messages come from the loop, never from
 * inside a call. What is published in one turn leaves as stream.h says.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_NATS_H
#define ZNL_TRANSPORT_NATS_H

#include "transport/loop.h"

#include <stddef.h>
#include <stdint.h>

typedef struct znl_nats znl_nats;
typedef struct znl_nats_subscription znl_nats_subscription;
typedef struct znl_nats_ask znl_nats_ask;

typedef enum znl_nats_state {
    ZNL_NATS_CONNECTING,
    ZNL_NATS_CONNECTED,
    ZNL_NATS_RECONNECTING,
    ZNL_NATS_CLOSED, /* by us; it never gives up by itself */
} znl_nats_state;

typedef struct znl_nats_options {
    /* "nats://host:port", "tls://host:port", "host:port", with "user:password@" or "token@" before the host;
     * at least one. */
    const char *const *servers;
    size_t server_count;
    const char *name; /* what the server calls it in its reports, or NULL */
    /* One way to log in, or none. The files of these two are read each time it connects. */
    const char *user;
    const char *password;
    const char *token;
    const char *credentials_file; /* JWT and NKey */
    const char *nkey_seed_file;
    /* TLS: also asked for by the scheme of a server, or by the server. Files in PEM, or NULL. */
    int tls;
    const char *tls_ca_file; /* NULL: the system's */
    const char *tls_cert_file;
    const char *tls_key_file;
    const char *tls_server_name; /* whom the certificate must name; NULL: the host */
    int tls_insecure;            /* takes any certificate */
    uint32_t connect_timeout_ms; /* of one attempt */
    uint32_t reconnect_min_ms;   /* the wait before another attempt doubles, with jitter */
    uint32_t reconnect_max_ms;
    uint32_t ping_ms;         /* between pings; two unanswered ones end the connection */
    size_t max_outbox_bytes;  /* published and not yet taken by the system; more is refused */
    int echo;                 /* deliver own messages to own subscriptions too */
    const char *inbox_prefix; /* of the subjects that answers come to; NULL: "_INBOX" */
} znl_nats_options;

/* Headers as they are on the wire: lines "Name: value\r\n"; size 0: none. */
typedef struct znl_nats_headers {
    const char *lines;
    size_t size;
} znl_nats_headers;

/* Borrowed until the callback returns. */
typedef struct znl_nats_message {
    const char *subject;
    const char *reply; /* or NULL */
    const uint8_t *data;
    size_t size;
    znl_nats_headers headers;
    /* Of the line before the headers: 503 no responders, 408, 404, 100 …; 0 without. */
    uint16_t status;
    const char *status_text; /* never NULL */
} znl_nats_message;

typedef struct znl_nats_events {
    /* `err` and `text` say why, when it is not connected; after each attempt that failed, too: REFUSED (the login),
     * UNREACHABLE, TIMEOUT, PROTO, … `text` is borrowed. */
    void (*on_state)(void *user, znl_nats_state state, int err, const char *text);
    /* Something that does not end it: permissions (ZNL_E_REFUSED), more subscriptions than the server takes
     * (ZNL_E_LIMIT), a slow consumer (ZNL_E_BUSY: a subscription was
     * full and messages are lost; `subject` is its), … */
    void (*on_error)(void *user, int err, const char *subject, const char *text);
} znl_nats_events;

typedef struct znl_nats_counters {
    uint64_t sent, sent_bytes, received, received_bytes; /* messages */
    uint64_t dropped;                                    /* by subscriptions that were full */
    uint64_t refused; /* publishes refused: off line, outbox full, too big */
    uint64_t reconnects;
} znl_nats_counters;

/* Returns a connection that connects, owned. All options are borrowed for the call, `events` for good. 0,
 * ZNL_E_INVALID (a server's address, ways to log in that exclude each other, files of TLS; `text`, of
 * ZNL_NATS_TEXT_BYTES, says which), ZNL_E_NOMEM. Never gives up by itself. */
#define ZNL_NATS_TEXT_BYTES 256u
int znl_nats_open(znl_nats **out, znl_loop *loop, const znl_nats_options *options,
        const znl_nats_events *events, void *user, char *text);

/* Takes it (NULL is accepted), its subscriptions and asks; no callback any more. What is queued has a moment to
 * leave: flush before to be sure. */
void znl_nats_close(znl_nats *nats);

/* Starts a subscription, owned by the connection; also before it is connected. `queue`: the group, or NULL.
 * max_messages and max_bytes wait in it at most while it is paused (0: the defaults of limits.h). 0, ZNL_E_INVALID
 * (the subject), ZNL_E_LIMIT, ZNL_E_NOMEM. It survives reconnects. */
int znl_nats_subscribe(znl_nats_subscription **out, znl_nats *nats, const char *subject,
        const char *queue, size_t max_messages, size_t max_bytes,
        void (*on_message)(void *user, const znl_nats_message *message), void *user);
/* Takes it. From inside its own on_message too. No message any more. */
void znl_nats_unsubscribe(znl_nats_subscription *subscription);
/* Messages wait in it, and go on. What waits when it is full is kept, what arrives then is dropped. */
void znl_nats_pause(znl_nats_subscription *subscription, int on);
/* Tells the server to send no more; what is on its way still comes, before a flush is done. */
void znl_nats_stop(znl_nats_subscription *subscription);
/* Messages that wait in it. */
size_t znl_nats_waiting(const znl_nats_subscription *subscription, size_t *bytes);
/* For who takes messages one by one, out of a paused subscription: the oldest, borrowed until the pop; NULL: none. */
const znl_nats_message *znl_nats_peek(const znl_nats_subscription *subscription);
void znl_nats_pop(znl_nats_subscription *subscription);
/* Called after a message began to wait, while it is paused. NULL: not wanted. */
void znl_nats_on_waiting(znl_nats_subscription *subscription, void (*on_waiting)(void *user));

/* Copies. `reply` or NULL, `headers` or NULL. 0; ZNL_E_INVALID (the subject, the reply), ZNL_E_TOO_BIG (past
 * max_payload), ZNL_E_BUSY (the outbox is full), ZNL_E_OFFLINE (not connected: nothing is kept for later),
 * ZNL_E_UNSUPPORTED (headers, to an old server), ZNL_E_NOMEM. */
int znl_nats_publish(znl_nats *nats, const char *subject, const char *reply,
        const znl_nats_headers *headers, const void *data, size_t size);

/* Asks and hands the first answer to on_reply, once: message NULL with ZNL_E_TIMEOUT, ZNL_E_UNREACHABLE (nobody
 * subscribes), ZNL_E_OFFLINE (the connection was lost), ZNL_E_REFUSED (the server does not let us have answers, see
 * inbox_prefix). The ask is over then. Errors as of publish, and
 * ZNL_E_LIMIT. */
int znl_nats_request(znl_nats_ask **out, znl_nats *nats, const char *subject,
        const znl_nats_headers *headers, const void *data, size_t size, uint32_t timeout_ms,
        void (*on_reply)(void *user, int err, const znl_nats_message *message), void *user);
/* Gives an ask up: no callback. */
void znl_nats_cancel(znl_nats_ask *ask);

/* Writes a subject nobody else has, for answers, into ZNL_NATS_INBOX_BYTES. */
#define ZNL_NATS_INBOX_BYTES 128u
void znl_nats_new_inbox(znl_nats *nats, char *out);

/* Calls done(user, 0) when the server has taken all that was published before, or with ZNL_E_TIMEOUT,
 * ZNL_E_OFFLINE. 0, ZNL_E_OFFLINE, ZNL_E_NOMEM: no callback. */
int znl_nats_flush(
        znl_nats *nats, uint32_t timeout_ms, void (*done)(void *user, int err), void *user);

znl_nats_state znl_nats_get_state(const znl_nats *nats);
/* Of one message, as the server said when it connected; 0 before. */
size_t znl_nats_max_payload(const znl_nats *nats);
/* "host:port" of the server, "" while there is none. */
const char *znl_nats_server(const znl_nats *nats);
znl_nats_counters znl_nats_get_counters(const znl_nats *nats);
znl_loop *znl_nats_loop(znl_nats *nats);

#endif
