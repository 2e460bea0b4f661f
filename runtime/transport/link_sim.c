/* link_sim.c - links inside one loop, without a socket, for tests; see link.h and link_sim.h.
 *
 * Behaves as link_zmq.c does over tcp, save that nothing happens in another thread and all waiting
 * is by the clock of the loop, which a test may hold (clock.h):
 *
 *   DEALER  waiting --the name is bound, its turn has come--> wired --the other end goes--> waiting
 *
 * A wire joins a DEALER and a ROUTER link. What is sent over it becomes a parcel in the receiver's
 * queue, ordered by the time it is due; from the queue it goes up in the receiver's own turn. A
 * parcel whose sender lingered and left has no wire any more. A cut wire holds its parcels back.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/link_sim.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/map.h"
#include "transport/link_backend.h"
#include "transport/sim_parcel.h"

#include <stdio.h>

#define ROUTER_RETRY_MS 5u /* as link_zmq.c */
#define INVENTED_ID_BYTES 5u
#define SEED_DEFAULT 1u
#define TURN_MESSAGES (ZNL_BATCH_MESSAGES * ZNL_BATCH_ROUNDS)

enum { TO_ROUTER, TO_DEALER };

typedef struct sim_link sim_link;
typedef struct wire wire;
typedef znl_sim_parcels parcels;
typedef znl_sim_parcel parcel;

/* One direction of a wire. */
typedef struct lane {
    size_t count;    /* parcels under way, held ones too */
    size_t capacity; /* send_hwm of the sender */
    uint64_t last_due_ms;
    parcels held;
} lane;

typedef struct rule rule;

struct wire {
    znl_map_entry entry; /* first; in router->peers */
    sim_link *router, *dealer;
    lane lanes[2];
    rule *rule; /* NULL: nothing goes wrong here */
    int is_cut;
    uint8_t id[ZNL_ID_BYTES_MAX];
};

typedef struct cut {
    struct cut *next;
    size_t size; /* 0: every peer */
    uint8_t id[ZNL_ID_BYTES_MAX];
} cut;

struct rule {
    rule *next;
    znl_sim_faults faults;
    uint64_t dice;
    cut *cuts;
    char name[ZNL_ENDPOINT_BYTES_MAX];
};

typedef struct sim {
    sim_link *links; /* all that are open */
    rule *rules;
    uint32_t names_made, ids_made;
} sim;

struct sim_link {
    znl_link base;    /* first */
    uv_async_t alive; /* an open link keeps the loop going, as a socket does */
    znl_loop *loop;
    sim *sim;
    sim_link *next;
    znl_link_events events;
    void *user;
    znl_deferred turn;
    znl_timer arrival; /* the first parcel is due later */
    znl_timer retry;   /* DEALER: connect; ROUTER: offer writing */
    parcels queue;     /* what arrives, by due_ms */
    wire *wire;        /* DEALER */
    znl_map peers;     /* ROUTER: id -> wire */
    uint32_t send_hwm;
    uint32_t max_frames;
    size_t max_frame_bytes, max_message_bytes;
    int wants_writable;
    int is_lost;  /* on_lost is due */
    int is_apart; /* after it, until on_joined */
    size_t id_size;
    uint8_t id[ZNL_ID_BYTES_MAX];
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
};

static sim_link *link_of(znl_link *base)
{
    return (sim_link *)(void *)base;
}

/* --- rules ------------------------------------------------------------------------------------- */

static void free_rule(rule *r)
{
    while (r->cuts != NULL) {
        cut *next = r->cuts->next;
        znl_free(r->cuts);
        r->cuts = next;
    }
    znl_free(r);
}

static void free_sim(void *object)
{
    sim *s = object;
    while (s->rules != NULL) {
        rule *next = s->rules->next;
        free_rule(s->rules);
        s->rules = next;
    }
    znl_free(s);
}

/* NULL when there is no memory. */
static sim *sim_of(znl_loop *loop)
{
    sim *s = znl_loop_sim(loop);
    if (s == NULL) {
        s = znl_calloc(1, sizeof *s);
        if (s != NULL)
            znl_loop_set_sim(loop, s, free_sim);
    }
    return s;
}

static rule *find_rule(const sim *s, const char *name)
{
    rule *r = s->rules;
    while (r != NULL && strcmp(r->name, name) != 0)
        r = r->next;
    return r;
}

static int is_cut(const rule *r, znl_frame id)
{
    if (r == NULL)
        return 0;
    for (const cut *c = r->cuts; c != NULL; c = c->next)
        if (c->size == 0 || znl_frame_equal(znl_frame_of(c->id, c->size), id))
            return 1;
    return 0;
}

/* splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators"). */
static uint64_t roll(rule *r)
{
    uint64_t z = r->dice += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* --- on the way -------------------------------------------------------------------------------- */

static void on_arrival(znl_timer *timer);

/* The receiver looks when its first parcel is due. */
static void arrange(sim_link *link)
{
    const parcel *p = link->queue.first;
    if (p == NULL)
        return;
    if (p->due_ms <= znl_loop_now_ms(link->loop))
        znl_loop_defer(link->loop, &link->turn);
    else
        znl_wheel_start(znl_loop_wheel(link->loop), &link->arrival, p->due_ms, on_arrival);
}

static sim_link *receiver(const wire *w, int direction)
{
    return direction == TO_ROUTER ? w->router : w->dealer;
}

/* Sends a parcel on its way. */
static void dispatch(wire *w, int direction, parcel *p)
{
    sim_link *to = receiver(w, direction);
    lane *l = &w->lanes[direction];
    p->tag = w;
    if (w->is_cut) {
        znl_sim_parcels_append(&l->held, p);
        return;
    }
    p->due_ms = znl_loop_now_ms(to->loop);
    if (w->rule != NULL) {
        p->due_ms += w->rule->faults.delay_ms;
        if (w->rule->faults.jitter_ms > 0)
            p->due_ms += roll(w->rule) % ((uint64_t)w->rule->faults.jitter_ms + 1);
    }
    if (p->due_ms < l->last_due_ms)
        p->due_ms = l->last_due_ms;
    l->last_due_ms = p->due_ms;
    znl_sim_parcels_insert(&to->queue, p);
    arrange(to);
}

/* --- wires ------------------------------------------------------------------------------------- */

static void on_retry(znl_timer *timer);

static void retry_in(sim_link *link, uint32_t delay_ms)
{
    znl_wheel_start(znl_loop_wheel(link->loop), &link->retry,
            znl_loop_now_ms(link->loop) + delay_ms, on_retry);
}

/* What was sent in this direction and is due within linger_ms still arrives. */
static void let_go(wire *w, int direction, uint32_t linger_ms)
{
    sim_link *to = receiver(w, direction);
    uint64_t latest_ms = znl_loop_now_ms(to->loop) + linger_ms;
    parcels left = znl_sim_parcels_extract(&to->queue, w);
    parcel *p;
    while ((p = znl_sim_parcels_take(&left)) != NULL) {
        if (linger_ms == 0 || p->due_ms > latest_ms) {
            znl_free(p);
            continue;
        }
        p->tag = NULL;
        znl_sim_parcels_insert(&to->queue, p);
    }
    znl_sim_parcels_clear(&w->lanes[direction].held);
}

/* Ends a connection. The DEALER link, unless it is closed, connects again later. */
static void end_wire(wire *w, uint32_t linger_to_router_ms, uint32_t linger_to_dealer_ms)
{
    sim_link *dealer = w->dealer;
    let_go(w, TO_ROUTER, linger_to_router_ms);
    let_go(w, TO_DEALER, linger_to_dealer_ms);
    znl_map_remove(&w->router->peers, &w->entry);
    dealer->wire = NULL;
    znl_free(w);
    if (dealer->base.is_closed)
        return;
    retry_in(dealer, ZNL_RECONNECT_MS);
    if (dealer->events.on_lost != NULL) {
        dealer->is_lost = 1;
        znl_loop_defer(dealer->loop, &dealer->turn);
    }
}

static sim_link *find_router(const sim *s, const char *endpoint)
{
    sim_link *link = s->links;
    while (link != NULL && !(link->base.is_router && strcmp(link->endpoint, endpoint) == 0))
        link = link->next;
    return link;
}

static void invent_id(sim *s, wire *w)
{
    w->id[0] = 0;
    znl_put_be32(w->id + 1, ++s->ids_made);
    w->entry.key = znl_frame_of(w->id, INVENTED_ID_BYTES);
}

static void join(sim_link *dealer)
{
    sim *s = dealer->sim;
    sim_link *router = find_router(s, dealer->endpoint);
    znl_frame id = znl_frame_of(dealer->id, dealer->id_size);
    rule *r = find_rule(s, dealer->endpoint);
    wire *w = NULL;
    if (router != NULL && !is_cut(r, id))
        w = znl_calloc(1, sizeof *w);
    if (w == NULL) {
        retry_in(dealer, ZNL_RECONNECT_MS);
        return;
    }
    if (id.size == 0) {
        invent_id(s, w);
    } else {
        memcpy(w->id, id.data, id.size);
        w->entry.key = znl_frame_of(w->id, id.size);
    }
    w->entry.hash = znl_map_hash(w->entry.key);
    znl_map_entry *old = znl_map_find(&router->peers, w->entry.key, w->entry.hash);
    if (old != NULL)
        end_wire((wire *)(void *)old, 0, 0);
    if (znl_map_put(&router->peers, &w->entry) != 0) {
        znl_free(w);
        retry_in(dealer, ZNL_RECONNECT_MS);
        return;
    }
    w->router = router;
    w->dealer = dealer;
    w->rule = r;
    w->lanes[TO_ROUTER].capacity = dealer->send_hwm;
    w->lanes[TO_DEALER].capacity = router->send_hwm;
    dealer->wire = w;
}

/* --- a link's turn ----------------------------------------------------------------------------- */

static int check_size(const sim_link *link, const parcel *p)
{
    size_t total = 0;
    if (p->count > link->max_frames)
        return ZNL_E_LIMIT;
    for (size_t i = 0; i < p->count; i++) {
        if (p->frames[i].size > link->max_frame_bytes ||
                p->frames[i].size > link->max_message_bytes - total)
            return ZNL_E_TOO_BIG;
        total += p->frames[i].size;
    }
    return 0;
}

/* There is room again on the way from which the parcel came. */
static void make_room(const sim_link *to, const parcel *p)
{
    wire *w = p->tag;
    if (w == NULL)
        return;
    w->lanes[to->base.is_router ? TO_ROUTER : TO_DEALER].count--;
    if (to->base.is_router && w->dealer->wants_writable)
        znl_loop_defer(to->loop, &w->dealer->turn);
}

static void deliver(sim_link *link, parcel *p)
{
    int err = check_size(link, p);
    make_room(link, p);
    if (err == 0)
        link->events.on_message(link->user, p->frames, p->count);
    else if (link->events.on_dropped != NULL)
        link->events.on_dropped(link->user, err);
    znl_free(p);
}

static int has_room(const sim_link *dealer)
{
    const wire *w = dealer->wire;
    return w != NULL && w->lanes[TO_ROUTER].count < w->lanes[TO_ROUTER].capacity;
}

static void take_turn(sim_link *link)
{
    uint64_t now_ms = znl_loop_now_ms(link->loop);
    if (!link->base.is_router && link->wire == NULL && !znl_timer_running(&link->retry))
        join(link);
    if (link->is_apart && link->wire != NULL) {
        link->is_apart = 0;
        link->events.on_joined(link->user);
        if (link->base.is_closed)
            return;
    }
    for (unsigned budget = TURN_MESSAGES; budget > 0; budget--) {
        if (link->queue.first == NULL || link->queue.first->due_ms > now_ms)
            break;
        deliver(link, znl_sim_parcels_take(&link->queue));
        if (link->base.is_closed)
            return;
    }
    arrange(link);
    if (!link->base.is_router && link->wants_writable && has_room(link))
        link->events.on_writable(link->user);
}

static void on_turn(znl_deferred *deferred)
{
    sim_link *link = (sim_link *)(void *)((char *)deferred - offsetof(sim_link, turn));
    if (link->is_lost) {
        link->is_lost = 0;
        link->is_apart = 1;
        link->events.on_lost(link->user);
        if (link->base.is_closed)
            return;
    }
    take_turn(link);
}

static void on_arrival(znl_timer *timer)
{
    take_turn((sim_link *)(void *)((char *)timer - offsetof(sim_link, arrival)));
}

static void on_retry(znl_timer *timer)
{
    sim_link *link = (sim_link *)(void *)((char *)timer - offsetof(sim_link, retry));
    if (!link->base.is_router) {
        take_turn(link);
        return;
    }
    retry_in(link, ROUTER_RETRY_MS);
    link->events.on_writable(link->user);
}

/* --- sending ----------------------------------------------------------------------------------- */

static int send_message(znl_link *base, const znl_frame *frames, size_t count)
{
    sim_link *link = link_of(base);
    wire *w = link->wire;
    int direction = base->is_router ? TO_DEALER : TO_ROUTER;
    const znl_frame *id = NULL;
    if (base->is_router) {
        w = (wire *)(void *)znl_map_find(&link->peers, frames[0], znl_map_hash(frames[0]));
        if (w == NULL)
            return ZNL_E_UNREACHABLE;
        frames++;
        count--;
    } else if (w != NULL) {
        id = &w->entry.key;
    }
    if (w == NULL || w->lanes[direction].count >= w->lanes[direction].capacity)
        return ZNL_E_BUSY;
    if (w->rule != NULL && w->rule->faults.drop_permille > 0 &&
            roll(w->rule) % 1000 < w->rule->faults.drop_permille)
        return 0; /* lost on its way */
    parcel *p = znl_sim_parcel_pack(id, frames, count);
    if (p == NULL)
        return ZNL_E_NOMEM;
    w->lanes[direction].count++;
    dispatch(w, direction, p);
    return 0;
}

static void want_writable(znl_link *base, int on)
{
    sim_link *link = link_of(base);
    if (link->wants_writable == (on != 0))
        return;
    link->wants_writable = on != 0;
    if (base->is_router) {
        if (on)
            retry_in(link, ROUTER_RETRY_MS);
        else
            znl_wheel_stop(znl_loop_wheel(link->loop), &link->retry);
    } else if (on) {
        znl_loop_defer(link->loop, &link->turn);
    }
}

static int is_lost(znl_link *base)
{
    return link_of(base)->is_lost;
}

static const char *get_endpoint(znl_link *base, size_t index)
{
    (void)index; /* there is one */
    return link_of(base)->endpoint;
}

/* --- opening and closing ----------------------------------------------------------------------- */

static void free_link(uv_handle_t *handle)
{
    znl_free(handle->data);
}

static int choose_name(sim_link *link, const znl_link_options *options, znl_frame name)
{
    int is_chosen_here = name.size == 1 && name.data[0] == '*';
    snprintf(link->endpoint, sizeof link->endpoint, "%s", options->endpoint);
    if (!options->is_router)
        return 0;
    do {
        if (is_chosen_here)
            snprintf(link->endpoint, sizeof link->endpoint, "sim://%lu",
                    (unsigned long)++link->sim->names_made);
        if (find_router(link->sim, link->endpoint) == NULL)
            return 0;
    } while (is_chosen_here);
    return ZNL_E_ADDRESS_IN_USE;
}

static int open_link(znl_link **out, znl_loop *loop, const znl_link_options *options,
        const znl_endpoint *endpoint, const znl_link_events *events, void *user)
{
    sim *s = sim_of(loop);
    sim_link *link = s != NULL ? znl_calloc(1, sizeof *link) : NULL;
    if (link == NULL)
        return ZNL_E_NOMEM;
    link->loop = loop;
    link->sim = s;
    link->events = *events;
    link->user = user;
    link->turn.run = on_turn;
    link->base.is_router = options->is_router != 0;
    link->send_hwm = options->send_hwm > 0 ? options->send_hwm : 1;
    link->max_frames = options->max_frames;
    link->max_frame_bytes = options->max_frame_bytes;
    link->max_message_bytes = options->max_message_bytes;
    link->id_size = options->routing_id.size;
    if (link->id_size > 0)
        memcpy(link->id, options->routing_id.data, link->id_size);
    int err = choose_name(link, options, endpoint->name);
    if (err == 0) {
        int rc = uv_async_init(znl_loop_uv(loop), &link->alive, NULL);
        err = rc == 0 ? 0 : znl_err_from_uv(rc);
    }
    if (err != 0) {
        znl_free(link);
        return err;
    }
    link->alive.data = link;
    znl_loop_idle_handle(loop, 1);
    link->next = s->links;
    s->links = link;
    if (!link->base.is_router)
        znl_loop_defer(loop, &link->turn);
    *out = &link->base;
    return 0;
}

static void close_link(znl_link *base, uint32_t linger_ms)
{
    sim_link *link = link_of(base);
    sim_link **at = &link->sim->links;
    znl_map_entry *entry;
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    if (link->wire != NULL)
        end_wire(link->wire, linger_ms, 0);
    while ((entry = znl_map_next(&link->peers, NULL)) != NULL)
        end_wire((wire *)(void *)entry, 0, linger_ms);
    znl_map_fini(&link->peers);
    znl_sim_parcels_clear(&link->queue);
    znl_wheel_stop(znl_loop_wheel(link->loop), &link->arrival);
    znl_wheel_stop(znl_loop_wheel(link->loop), &link->retry);
    znl_loop_undefer(link->loop, &link->turn);
    znl_loop_idle_handle(link->loop, -1);
    uv_close((uv_handle_t *)&link->alive, free_link);
}

const znl_link_backend znl_link_sim = {
        open_link, close_link, send_message, want_writable, is_lost, get_endpoint};

/* --- faults ------------------------------------------------------------------------------------ */

/* Calls fn for each wire of that name; fn may end the wire. */
static size_t each_wire(
        sim *s, const char *endpoint, void (*fn)(wire *w, void *user), void *user)
{
    size_t count = 0;
    for (sim_link *link = s->links; link != NULL; link = link->next) {
        if (link->wire == NULL || strcmp(link->endpoint, endpoint) != 0)
            continue;
        fn(link->wire, user);
        count++;
    }
    return count;
}

/* Sets the state of the wire by its rule; what was held back goes on. */
static void apply_rule(wire *w, void *user)
{
    rule *r = find_rule(w->router->sim, w->router->endpoint);
    (void)user;
    w->rule = r;
    int is_cut_now = is_cut(r, w->entry.key);
    if (is_cut_now == w->is_cut)
        return;
    w->is_cut = is_cut_now;
    for (int direction = 0; direction < 2; direction++) {
        lane *l = &w->lanes[direction];
        sim_link *to = receiver(w, direction);
        parcel *p;
        if (is_cut_now) {
            l->held = znl_sim_parcels_extract(&to->queue, w);
        } else {
            parcels waiting = l->held;
            l->held = (parcels){0};
            while ((p = znl_sim_parcels_take(&waiting)) != NULL)
                dispatch(w, direction, p);
        }
    }
}

/* The rule of that name, made when there is none. */
static int get_rule(znl_loop *loop, const char *endpoint, rule **out)
{
    znl_endpoint parsed;
    if (znl_endpoint_parse(&parsed, znl_frame_text(endpoint), 0, NULL) != 0 ||
            parsed.kind != ZNL_ENDPOINT_SIM)
        return ZNL_E_ADDRESS;
    sim *s = sim_of(loop);
    if (s == NULL)
        return ZNL_E_NOMEM;
    rule *r = find_rule(s, endpoint);
    if (r == NULL) {
        r = znl_calloc(1, sizeof *r);
        if (r == NULL)
            return ZNL_E_NOMEM;
        r->dice = SEED_DEFAULT;
        snprintf(r->name, sizeof r->name, "%s", endpoint);
        r->next = s->rules;
        s->rules = r;
        each_wire(s, endpoint, apply_rule, NULL);
    }
    *out = r;
    return 0;
}

int znl_sim_set_faults(znl_loop *loop, const char *endpoint, const znl_sim_faults *faults)
{
    rule *r;
    int err = get_rule(loop, endpoint, &r);
    if (err != 0)
        return err;
    r->faults = *faults;
    if (faults->seed != 0)
        r->dice = faults->seed;
    return 0;
}

static int add_cut(rule *r, znl_frame peer)
{
    cut *c = znl_calloc(1, sizeof *c);
    if (c == NULL)
        return ZNL_E_NOMEM;
    c->size = peer.size;
    if (peer.size > 0)
        memcpy(c->id, peer.data, peer.size);
    c->next = r->cuts;
    r->cuts = c;
    return 0;
}

static void remove_cuts(rule *r, znl_frame peer)
{
    cut **at = &r->cuts;
    while (*at != NULL) {
        cut *c = *at;
        if (peer.size == 0 || znl_frame_equal(znl_frame_of(c->id, c->size), peer)) {
            *at = c->next;
            znl_free(c);
        } else {
            at = &c->next;
        }
    }
}

int znl_sim_partition(znl_loop *loop, const char *endpoint, znl_frame peer, int on)
{
    rule *r;
    if (peer.size > ZNL_ID_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    int err = get_rule(loop, endpoint, &r);
    if (err == 0 && on)
        err = add_cut(r, peer);
    if (err != 0)
        return err;
    if (!on)
        remove_cuts(r, peer);
    each_wire(znl_loop_sim(loop), endpoint, apply_rule, NULL);
    return 0;
}

struct ending {
    znl_frame peer;
    size_t count;
};

static void end_if_meant(wire *w, void *user)
{
    struct ending *ending = user;
    if (ending->peer.size > 0 && !znl_frame_equal(ending->peer, w->entry.key))
        return;
    ending->count++;
    end_wire(w, 0, 0);
}

size_t znl_sim_disconnect(znl_loop *loop, const char *endpoint, znl_frame peer)
{
    struct ending ending = {peer, 0};
    if (znl_loop_sim(loop) != NULL)
        each_wire(znl_loop_sim(loop), endpoint, end_if_meant, &ending);
    return ending.count;
}

void znl_sim_reset(znl_loop *loop)
{
    sim *s = znl_loop_sim(loop);
    while (s != NULL && s->rules != NULL) {
        rule *r = s->rules;
        s->rules = r->next;
        each_wire(s, r->name, apply_rule, NULL);
        free_rule(r);
    }
}
