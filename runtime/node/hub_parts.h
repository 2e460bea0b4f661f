/* hub_parts.h - what the files behind hub.h share.
 *
 *   hub.c          messages: out, in, to whom
 *   hub_clients.c  who is here: clients, and the rooms in which they are found
 *
 * Layer: node. SPDX-License-Identifier: MIT */
#ifndef ZNL_NODE_HUB_PARTS_H
#define ZNL_NODE_HUB_PARTS_H

#include "base/map.h"
#include "node/hub.h"
#include "state/slots.h"

typedef struct hub_client hub_client;
typedef struct hub_room hub_room;

/* A client's place in a room. */
typedef struct hub_seat {
    hub_room *room; /* NULL: none */
    hub_client *client;
    size_t index;
} hub_seat;

/* Clients that have something in common: a namespace, a channel of one, a user, a session. There is one as
 * long as somebody is in it. */
struct hub_room {
    znl_map_entry entry; /* by name */
    znl_map *map;
    hub_seat **seats;
    size_t count, capacity;
    znl_map channels;   /* of a namespace */
    hub_client *holder; /* of a session; NULL: it is over, whoever is still mapped to it */
    uint8_t name[];
};

/* What a client has from its join until the next, or its end. */
typedef struct hub_membership {
    hub_seat session, user;
    size_t channel_count;
    hub_seat channels[];
} hub_membership;

struct hub_client {
    znl_slot slot;
    uint64_t id;
    znl_ws *ws;    /* NULL: it has ended */
    hub_seat seat; /* in its namespace; none when it has ended */
    hub_membership *membership;
    uint64_t left_out; /* of the message with that number */
    int is_slow;       /* known to be */
};

struct znl_hub {
    znl_loop *loop;
    const znl_hub_events *events;
    void *user;
    const znl_bus *bus;
    void *bus_user;
    znl_hub_slow on_slow;
    int is_started;
    znl_slots clients;
    uint32_t last_client; /* attached so far, modulo 2^32 */
    znl_map namespaces, users, sessions;
    uint64_t message;   /* number of the last that leaves somebody out */
    znl_buffer text;    /* of the message at work, as clients see it */
    znl_buffer payload; /* the same as it is published */
    znl_buffer scratch;
    znl_buffer left; /* the name of a session that is over */
    znl_deferred events_due;
    znl_buffer slow_ids, ended_ids; /* uint64_t: events to come */
    int publish_error;              /* of the last publish */
    int is_error_due;
    znl_hub_counters counters;
    znl_buffer origin;
    char *broadcast_subject, *direct_subject;
};

/* The room of that name, or NULL. */
hub_room *hub_room_find(const znl_map *map, znl_frame name);

/* The client with that id, or NULL. */
hub_client *hub_client_find(const znl_hub *hub, uint64_t id);

/* Frees all clients and rooms. */
void hub_clients_fini(znl_hub *hub);

#endif
