/* nats_parts.h - what the files of nats.h share.
 *
 *   nats.c                the connection: states, attempts, pings, what the server says
 *   nats_servers.c        which servers there are, and which is next
 *   nats_login.c          CONNECT, with what proves who we are
 *   nats_subscriptions.c  subscriptions, and the messages that wait in them
 *   nats_publish.c        publishing
 *   nats_requests.c       asks and flushes
 *   nats_table.c          objects by number
 *
 * Layer: transport, private to nats*.c. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_NATS_PARTS_H
#define ZNL_TRANSPORT_NATS_PARTS_H

#include "base/bytes.h"
#include "codec/nats.h"
#include "transport/nats.h"
#include "transport/stream.h"

/* --- objects by number ------------------------------------------------------------------------------ */

/* A number is a slot and how often the slot was used: one that is gone is not found again. */
typedef struct znl_nats_slot {
    void *item; /* NULL: free */
    uint32_t generation;
    uint32_t next_free;
} znl_nats_slot;

typedef struct znl_nats_table {
    znl_nats_slot *slots;
    uint32_t capacity;
    uint32_t used;  /* slots that ever had something */
    uint32_t free;  /* + 1; 0: none */
    uint32_t count; /* of items */
} znl_nats_table;

/* 0, ZNL_E_LIMIT, ZNL_E_NOMEM. */
int znl_nats_table_put(znl_nats_table *table, void *item, uint64_t *number);
void *znl_nats_table_get(const znl_nats_table *table, uint64_t number);
void znl_nats_table_drop(znl_nats_table *table, uint64_t number);
/* Walks: begin with *at 0; NULL at the end. Items may be dropped meanwhile. */
void *znl_nats_table_next(const znl_nats_table *table, uint32_t *at);
void znl_nats_table_fini(znl_nats_table *table);

/* --- servers ---------------------------------------------------------------------------------------- */

typedef struct znl_nats_server {
    char *host; /* owns the texts */
    char *user;
    char *password;
    char *tls_name; /* whom its certificate must name, instead of the host; or NULL */
    uint16_t port;
    uint8_t has_tls;
    uint8_t is_told;   /* by another server */
    uint8_t is_listed; /* still: while a list is read */
} znl_nats_server_entry;

typedef struct znl_nats_servers {
    znl_nats_server_entry entries[64]; /* ZNL_NATS_SERVERS_MAX */
    size_t count;
    size_t next;
    size_t tried; /* since all had their turn */
} znl_nats_servers;

/* 0, ZNL_E_INVALID, ZNL_E_NOMEM, ZNL_E_LIMIT. */
int znl_nats_servers_add(znl_nats_servers *servers, znl_frame url);
/* Those `teller`, which is one of them, tells of, as far as there is room, instead of those that were told before.
 * They get its login, of its address. `has_tls`: it is used with TLS, and so are they. `is_private`: it told so under
 * TLS; else whoever is in between may have, and their certificates must name the teller's host. May move entries. */
void znl_nats_servers_learn(znl_nats_servers *servers, const znl_nats_info *info,
        const znl_nats_server_entry **teller, int has_tls, int is_private);
void znl_nats_servers_shuffle(znl_nats_servers *servers);
/* The one to try; *is_round_over: all have been tried since the last time. */
const znl_nats_server_entry *znl_nats_servers_take(
        znl_nats_servers *servers, int *is_round_over);
void znl_nats_servers_fini(znl_nats_servers *servers);

/* --- the connection --------------------------------------------------------------------------------- */

typedef enum znl_nats_phase {
    ZNL_NATS_IDLE, /* waits for the next attempt */
    ZNL_NATS_DIALING,
    ZNL_NATS_GREETING, /* INFO is to come */
    ZNL_NATS_SHAKING,  /* TLS */
    ZNL_NATS_LOGGING_IN,
    ZNL_NATS_READY,
} znl_nats_phase;

typedef struct znl_nats_waiter znl_nats_waiter; /* of a PONG: nats_requests.c */

struct znl_nats {
    znl_loop *loop;
    const znl_nats_events *events;
    void *user;
    znl_stream *stream;
    znl_nats_state state;
    uint8_t phase;
    uint8_t is_closed;   /* freed when nothing is inside any more */
    uint8_t has_headers; /* the server's */
    uint8_t wants_tls;
    uint8_t echo;
    uint8_t is_private; /* TLS is on */
    uint8_t is_broken;  /* without memory for what the server must know: it ends */
    uint32_t inside;    /* calls from the loop under way */
    uint32_t attempts;  /* that failed, or ended soon, in a row */
    uint64_t ready_at_ms;
    /* Options. */
    char *name, *own_user, *password, *token, *credentials_file, *nkey_seed_file;
    char *tls_ca_file, *tls_cert_file, *tls_key_file, *tls_server_name;
    int tls_insecure;
    uint32_t connect_timeout_ms, reconnect_min_ms, reconnect_max_ms, ping_ms;
    size_t max_outbox_bytes;
    znl_tls *tls; /* made when it is first needed */
    znl_nats_servers servers;
    const znl_nats_server_entry *server; /* of the attempt, or the connection */
    char server_text[300];
    char *nonce;
    size_t max_payload;
    znl_buffer input;  /* the begin of an operation that is not all there */
    size_t input_need; /* its bytes; 0: not known */
    znl_timer timer;   /* the end of an attempt, the next attempt, or the next ping */
    /* Pings: those that waiters ask for, and those that look whether the server is there. */
    uint64_t pings_sent, pongs_seen;
    uint32_t silent_ticks; /* of the timer, with a ping under way and nothing heard */
    uint64_t heard_ns;     /* real time */
    znl_nats_waiter *waiters, **waiters_end;
    znl_nats_table subscriptions;
    size_t dropped_before;                             /* by subscriptions that are gone */
    znl_nats_subscription *releasing, **releasing_end; /* not paused, and messages wait */
    znl_deferred release;
    /* Asks. */
    znl_nats_table asks;
    znl_nats_subscription *answers; /* "<inbox>.*" */
    char inbox[ZNL_NATS_INBOX_BYTES];
    size_t inbox_size;
    char *inbox_prefix;
    znl_nats_counters counters;
};

struct znl_nats_subscription {
    znl_nats *nats;
    uint64_t sid;
    char *subject, *queue;
    size_t max_messages, max_bytes;
    void (*on_message)(void *user, const znl_nats_message *message);
    void (*on_waiting)(void *user); /* or NULL */
    void *user;
    uint8_t is_paused;
    uint8_t is_full; /* said so */
    uint8_t is_stopped;
    uint8_t is_gone; /* freed when nothing is inside any more */
    uint32_t inside;
    struct znl_nats_kept *first, **last;
    size_t waiting, waiting_bytes;
    uint64_t dropped;
    znl_nats_subscription *releasing_next, **releasing_link;
};

/* Around what may call out: afterwards the connection may be gone (leave says so). */
void znl_nats_enter(znl_nats *nats);
int znl_nats_leave(znl_nats *nats);

/* Writes what the server needs to know, also past a full outbox. Without memory the connection ends, soon: else it
 * would live on without a subscription. */
void znl_nats_control(znl_nats *nats, const void *data, size_t size);

/* --- nats_login.c */
/* Sends CONNECT and PING. 0, or why it cannot, with `text`. */
int znl_nats_log_in(znl_nats *nats, char *text, size_t size);

/* --- nats_subscriptions.c */
void znl_nats_subscribe_all(znl_nats *nats);
void znl_nats_deliver(znl_nats *nats, const znl_nats_op *op);
void znl_nats_discard_subscriptions(znl_nats *nats);
void znl_nats_release(znl_deferred *deferred);

/* --- nats_requests.c */
/* The server does not let us subscribe to `subject`: when answers were to come to it, all asks end with REFUSED. */
void znl_nats_refused(znl_nats *nats, const char *subject);
void znl_nats_pong(znl_nats *nats);
/* Sends a PING of our own. */
void znl_nats_ping(znl_nats *nats);
/* Ends all asks and flushes with ZNL_E_OFFLINE. */
void znl_nats_fail_requests(znl_nats *nats);
void znl_nats_discard_requests(znl_nats *nats);
int znl_nats_choose_inbox(znl_nats *nats);

#endif
