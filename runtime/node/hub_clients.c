/* hub_clients.c - who is here: clients, and the rooms in which they are found.
 *
 * A change first takes the new seats, which may fail, then gives the old ones back, which cannot: on the way a
 * client may sit in one room twice, and nobody sends meanwhile.
 *
 * SPDX-License-Identifier: MIT */
#include "node/hub_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

/* --- rooms --------------------------------------------------------------------------------------------- */

hub_room *hub_room_find(const znl_map *map, znl_frame name)
{
    return map->count > 0 ? (hub_room *)(void *)znl_map_find(map, name, znl_map_hash(name))
                          : NULL;
}

/* Takes the room away when nobody is in it. */
static void room_tidy(hub_room *room)
{
    if (room->count > 0)
        return;
    znl_map_remove(room->map, &room->entry);
    znl_map_fini(&room->channels);
    znl_free(room->seats);
    znl_free(room);
}

static hub_room *room_make(znl_map *map, znl_frame name)
{
    hub_room *room = hub_room_find(map, name);
    if (room != NULL)
        return room;
    room = znl_calloc(1, sizeof *room + name.size);
    if (room == NULL)
        return NULL;
    if (name.size > 0)
        memcpy(room->name, name.data, name.size);
    room->map = map;
    room->entry.key = znl_frame_of(room->name, name.size);
    room->entry.hash = znl_map_hash(room->entry.key);
    if (znl_map_put(map, &room->entry) != 0) {
        znl_free(room);
        return NULL;
    }
    return room;
}

static int sit(hub_seat *seat, hub_client *client, znl_map *map, znl_frame name)
{
    hub_room *room = room_make(map, name);
    if (room == NULL)
        return ZNL_E_NOMEM;
    if (room->count == room->capacity) {
        size_t capacity = room->capacity > 0 ? 2 * room->capacity : 1;
        hub_seat **seats = znl_realloc(room->seats, capacity * sizeof *seats);
        if (seats == NULL) {
            room_tidy(room);
            return ZNL_E_NOMEM;
        }
        room->seats = seats;
        room->capacity = capacity;
    }
    *seat = (hub_seat){.room = room, .client = client, .index = room->count};
    room->seats[room->count++] = seat;
    return 0;
}

static void stand_up(hub_seat *seat)
{
    hub_room *room = seat->room;
    if (room == NULL)
        return;
    seat->room = NULL;
    hub_seat *last = room->seats[--room->count];
    room->seats[seat->index] = last;
    last->index = seat->index;
    room_tidy(room);
}

/* --- clients ------------------------------------------------------------------------------------------- */

hub_client *hub_client_find(const znl_hub *hub, uint64_t id)
{
    hub_client *client = znl_slots_at(&hub->clients, (uint32_t)(id & (ZNL_SLOTS_MAX - 1)));
    return client != NULL && client->id == id ? client : NULL;
}

int znl_hub_attach(znl_hub *hub, znl_ws *ws, znl_frame ns, uint64_t *id)
{
    void *item;
    if (ns.size > ZNL_HUB_NAME_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    int err = znl_slots_take(&hub->clients, &item);
    if (err != 0)
        return err;
    hub_client *client = item;
    err = sit(&client->seat, client, &hub->namespaces, ns);
    if (err != 0) {
        znl_slots_give(&hub->clients, client);
        return err;
    }
    client->id = (uint64_t)++hub->last_client << ZNL_SLOT_BITS | client->slot.index;
    client->ws = ws;
    *id = client->id;
    return 0;
}

/* Up from all but the session, whose name is still to be told. */
static void leave_rooms(hub_membership *membership)
{
    stand_up(&membership->user);
    for (size_t i = 0; i < membership->channel_count; i++)
        stand_up(&membership->channels[i]);
    membership->channel_count = 0;
}

static void membership_free(hub_membership *membership)
{
    leave_rooms(membership);
    stand_up(&membership->session);
    znl_free(membership);
}

void znl_hub_end(znl_hub *hub, uint64_t id)
{
    hub_client *client = hub_client_find(hub, id);
    if (client == NULL || client->ws == NULL)
        return;
    client->ws = NULL;
    /* Without memory for it the event does not come, and it is over when it is detached. */
    if (znl_buffer_append(&hub->ended_ids, &id, sizeof id) == 0)
        znl_loop_defer(hub->loop, &hub->events_due);
    if (client->membership != NULL)
        leave_rooms(client->membership);
    stand_up(&client->seat);
}

/* Notes in *session that the client's session is over, if it is: before it gives up its seat. There is room. */
static void end_session(znl_hub *hub, hub_client *client, znl_hub_session *session)
{
    hub_room *room = client->membership != NULL ? client->membership->session.room : NULL;
    if (room == NULL || room->holder != client)
        return;
    room->holder = NULL;
    hub->left.size = 0;
    znl_buffer_append(&hub->left, room->name, room->entry.key.size);
    session->left = znl_frame_of(hub->left.data, hub->left.size);
}

/* A client in a channel of its namespace once, however often it is named. */
static int sit_in_channel(hub_membership *membership, hub_client *client, znl_frame name)
{
    hub_seat *seat = &membership->channels[membership->channel_count];
    int err = sit(seat, client, &client->seat.room->channels, name);
    if (err != 0)
        return err;
    for (size_t i = 0; i < membership->channel_count; i++) {
        if (membership->channels[i].room == seat->room) {
            stand_up(seat);
            return 0;
        }
    }
    membership->channel_count++;
    return 0;
}

int znl_hub_join(znl_hub *hub, uint64_t id, znl_frame session_id, znl_frame user_id,
        const znl_frame *channels, size_t channel_count, znl_hub_session *session)
{
    hub_client *client = hub_client_find(hub, id);
    *session = (znl_hub_session){.previous = 0};
    if (client == NULL)
        return ZNL_E_NOT_FOUND;
    if (client->ws == NULL || !znl_ws_is_open(client->ws))
        return ZNL_E_CLOSED;
    if (channel_count > ZNL_HUB_CHANNELS_MAX)
        return ZNL_E_LIMIT;
    int is_too_big = session_id.size > ZNL_HUB_NAME_BYTES_MAX ||
            user_id.size > ZNL_HUB_NAME_BYTES_MAX;
    for (size_t i = 0; i < channel_count; i++)
        is_too_big |= channels[i].size > ZNL_HUB_NAME_BYTES_MAX;
    if (is_too_big)
        return ZNL_E_TOO_BIG;
    hub_membership *joined = znl_calloc(1, sizeof *joined + channel_count * sizeof(hub_seat));
    if (joined == NULL)
        return ZNL_E_NOMEM;
    int err = sit(&joined->session, client, &hub->sessions, session_id);
    if (err == 0)
        err = sit(&joined->user, client, &hub->users, user_id);
    for (size_t i = 0; err == 0 && i < channel_count; i++)
        err = sit_in_channel(joined, client, channels[i]);
    if (err != 0) {
        membership_free(joined);
        return err;
    }
    hub_room *room = joined->session.room;
    if (room->holder != NULL && room->holder != client)
        session->previous = room->holder->id;
    if (client->membership != NULL) {
        if (client->membership->session.room != room)
            end_session(hub, client, session);
        membership_free(client->membership);
    }
    room->holder = client;
    client->membership = joined;
    return 0;
}

static void drop_membership(znl_hub *hub, hub_client *client, znl_hub_session *session)
{
    end_session(hub, client, session);
    if (client->membership != NULL)
        membership_free(client->membership);
    client->membership = NULL;
}

int znl_hub_leave(znl_hub *hub, uint64_t id, znl_hub_session *session)
{
    hub_client *client = hub_client_find(hub, id);
    *session = (znl_hub_session){.previous = 0};
    if (client == NULL)
        return ZNL_E_NOT_FOUND;
    drop_membership(hub, client, session);
    return 0;
}

int znl_hub_detach(znl_hub *hub, uint64_t id, znl_hub_session *session)
{
    hub_client *client = hub_client_find(hub, id);
    *session = (znl_hub_session){.previous = 0};
    if (client == NULL)
        return ZNL_E_NOT_FOUND;
    drop_membership(hub, client, session);
    stand_up(&client->seat);
    znl_slots_give(&hub->clients, client);
    return 0;
}

uint32_t znl_hub_client_count(const znl_hub *hub)
{
    return hub->clients.count;
}

void hub_clients_fini(znl_hub *hub)
{
    hub_client *client;
    for (uint32_t at = 0; (client = znl_slots_from(&hub->clients, at)) != NULL;) {
        at = client->slot.index + 1;
        znl_hub_session session;
        znl_hub_detach(hub, client->id, &session);
    }
    znl_slots_fini(&hub->clients);
    znl_map_fini(&hub->namespaces);
    znl_map_fini(&hub->users);
    znl_map_fini(&hub->sessions);
}
