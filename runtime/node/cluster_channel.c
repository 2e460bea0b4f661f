/* cluster_channel.c - see cluster_channel.h.
 *
 * A subscription stands in the row of its key, in the list of its member, and in a map of all pairs. Rows have no
 * order: the last one takes the place of who goes. SPDX-License-Identifier: MIT */
#include "node/cluster_channel.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/map.h"
#include "base/random.h"
#include "codec/json_canonical.h"

#define ROW_LEAST 4u
#define PREFIX "$$inner$$__" /* of keys, spec section 5 */

struct key;

typedef struct subscription subscription;
struct subscription {
    znl_map_entry entry; /* first; of the pair */
    struct {
        struct key *key;
        znl_cluster_member *member;
    } pair;
    uint32_t place;             /* in the row of the key */
    uint64_t seen;              /* the member without a link: number of the value it got last */
    subscription *next, **link; /* of the member */
    subscription *next_missed, **missed_link; /* of the member; link NULL: it missed nothing */
};

struct key {
    znl_map_entry entry; /* first */
    subscription **row;
    uint32_t count, capacity;
    uint32_t locals; /* of them, members without a link */
    uint64_t published;
    subscription *waiting; /* unless it is broadcast: who gets the value when it has drained */
    uint8_t *value;        /* the last one */
    size_t value_size, value_capacity;
    znl_frame text; /* of its packets */
    uint8_t bytes[];
};

struct znl_cluster_member {
    znl_cluster_channel *channel;
    znl_cluster_link *link; /* NULL: the process itself */
    void *user;
    subscription *subscriptions;
    uint32_t count;
    subscription *missed, **missed_end; /* oldest first; not empty: it is slow */
};

struct znl_cluster_channel {
    const znl_cluster_channel_events *events;
    void *user;
    znl_cluster_channel_options options;
    znl_map keys, pairs;
    struct key **all; /* for walking */
    uint32_t all_capacity;
    uint32_t members;
    size_t value_bytes, key_bytes;
    znl_buffer scratch;
    znl_cluster_channel_counters counters;
};

/* --- life -------------------------------------------------------------------------------------------- */

int znl_cluster_channel_new(znl_cluster_channel **out,
        const znl_cluster_channel_options *options, const znl_cluster_channel_events *events,
        void *user)
{
    znl_cluster_channel *channel = znl_calloc(1, sizeof *channel);
    if (channel == NULL)
        return ZNL_E_NOMEM;
    channel->events = events;
    channel->user = user;
    channel->options = *options;
    if (options->max_keys == 0)
        channel->options.max_keys = ZNL_CLUSTER_KEYS_DEFAULT;
    if (options->max_member_keys == 0)
        channel->options.max_member_keys = ZNL_CLUSTER_MEMBER_KEYS_DEFAULT;
    if (options->max_value_bytes == 0)
        channel->options.max_value_bytes = ZNL_CLUSTER_VALUES_BYTES_DEFAULT;
    if (options->max_member_bytes == 0)
        channel->options.max_member_bytes = ZNL_CLUSTER_QUEUE_BYTES_DEFAULT;
    *out = channel;
    return 0;
}

static void free_key(struct key *key)
{
    znl_free(key->row);
    znl_free(key->value);
    znl_free(key);
}

void znl_cluster_channel_free(znl_cluster_channel *channel)
{
    if (channel == NULL)
        return;
    for (size_t i = 0; i < channel->keys.count; i++)
        free_key(channel->all[i]);
    znl_map_fini(&channel->keys);
    znl_map_fini(&channel->pairs);
    znl_free(channel->all);
    znl_buffer_fini(&channel->scratch);
    znl_free(channel);
}

int znl_cluster_channel_join(znl_cluster_member **out, znl_cluster_channel *channel,
        znl_cluster_link *link, void *member_user)
{
    znl_cluster_member *member = znl_calloc(1, sizeof *member);
    if (member == NULL)
        return ZNL_E_NOMEM;
    member->channel = channel;
    member->link = link;
    member->user = member_user;
    member->missed_end = &member->missed;
    channel->members++;
    *out = member;
    return 0;
}

/* --- what a slow member missed ----------------------------------------------------------------------- */

static void miss(subscription *pair)
{
    znl_cluster_member *member = pair->pair.member;
    if (member->missed == NULL) {
        member->channel->counters.slow++;
        znl_cluster_link_await(member->link, member->channel->options.max_member_bytes / 2);
    }
    pair->next_missed = NULL;
    pair->missed_link = member->missed_end;
    *member->missed_end = pair;
    member->missed_end = &pair->next_missed;
}

/* It has got the newest, or will not get it any more. Harmless when it missed nothing. */
static void unmiss(subscription *pair)
{
    struct key *key = pair->pair.key;
    if (key->waiting == pair)
        key->waiting = NULL;
    if (pair->missed_link == NULL)
        return;
    *pair->missed_link = pair->next_missed;
    if (pair->next_missed != NULL)
        pair->next_missed->missed_link = pair->missed_link;
    else
        pair->pair.member->missed_end = pair->missed_link;
    pair->missed_link = NULL;
}

static int is_full(const znl_cluster_member *member)
{
    return znl_cluster_link_queued(member->link) > member->channel->options.max_member_bytes;
}

/* Sends a value to a member with a link. 0, ZNL_E_BUSY or what asking fails with. */
static int push(const subscription *pair, znl_frame value)
{
    znl_cluster_member *member = pair->pair.member;
    znl_cluster_channel *channel = member->channel;
    int err = is_full(member) ? ZNL_E_BUSY
                              : znl_cluster_link_push(member->link, pair->pair.key->text, value,
                                        channel->options.response_timeout_ms);
    if (err == 0)
        channel->counters.delivered++;
    else if (err != ZNL_E_BUSY && err != ZNL_E_CLOSED)
        channel->counters.undelivered++;
    return err;
}

/* The same, or when the member is slow, once it has drained. 0 or why it is lost. */
static int deliver(subscription *pair, znl_frame value)
{
    if (pair->missed_link != NULL) {
        pair->pair.member->channel->counters.conflated++;
        return 0;
    }
    int err = pair->pair.member->missed != NULL ? ZNL_E_BUSY : push(pair, value);
    if (err != ZNL_E_BUSY)
        return err;
    miss(pair);
    return 0;
}

void znl_cluster_channel_writable(znl_cluster_member *member)
{
    subscription *pair;
    while ((pair = member->missed) != NULL) {
        const struct key *key = pair->pair.key;
        if (key->value_size == 0) {
            member->channel->counters.undelivered++; /* it was not remembered */
        } else if (push(pair, znl_frame_of(key->value, key->value_size)) == ZNL_E_BUSY) {
            znl_cluster_link_await(member->link, member->channel->options.max_member_bytes / 2);
            return;
        }
        unmiss(pair);
    }
}

static void tell_local(subscription *pair, znl_frame value)
{
    struct key *key = pair->pair.key;
    znl_cluster_member *member = pair->pair.member;
    znl_cluster_channel *channel = member->channel;
    pair->seen = key->published;
    channel->counters.delivered++;
    channel->events->on_local(channel->user, member->user, key->entry.key, value);
}

/* --- keys -------------------------------------------------------------------------------------------- */

/* The name of a key: as it was sent, or in memory of the channel's, until the next is computed. */
static int name_key(znl_cluster_channel *channel, znl_frame key, znl_frame reg, znl_frame *name)
{
    znl_buffer *scratch = &channel->scratch;
    int err = 0;
    *name = key;
    if (key.data == NULL) {
        if (reg.size > ZNL_CLUSTER_KEY_BYTES_MAX)
            return ZNL_E_LIMIT; /* before it is read and sorted */
        znl_buffer_trim(scratch, ZNL_CLUSTER_KEY_BYTES_MAX);
        scratch->size = 0;
        err = znl_buffer_append(scratch, PREFIX, sizeof PREFIX - 1);
        if (err == 0 && reg.data == NULL)
            err = znl_buffer_append(scratch, "undefined", 9);
        else if (err == 0)
            err = znl_json_canonical(reg, ZNL_TRANSCODE_DEPTH_DEFAULT, scratch);
        *name = znl_frame_of(scratch->data, scratch->size);
    }
    if (err == 0 && name->size > ZNL_CLUSTER_KEY_BYTES_MAX)
        err = ZNL_E_LIMIT;
    return err;
}

static struct key *find_key(const znl_cluster_channel *channel, znl_frame name)
{
    /* The entry is the first member of the key. */
    return (struct key *)(void *)znl_map_find(&channel->keys, name, znl_map_hash(name));
}

static size_t remembered(const znl_cluster_channel *channel)
{
    return channel->value_bytes + channel->key_bytes;
}

static int make_walkable(znl_cluster_channel *channel)
{
    if (channel->keys.count < channel->all_capacity)
        return 0;
    uint32_t capacity = channel->all_capacity > 0 ? channel->all_capacity * 2 : 16;
    struct key **all = znl_realloc(channel->all, capacity * sizeof *all);
    if (all == NULL)
        return ZNL_E_NOMEM;
    channel->all = all;
    channel->all_capacity = capacity;
    return 0;
}

static int make_key(struct key **out, znl_cluster_channel *channel, znl_frame name)
{
    znl_buffer text = {0};
    struct key *key = NULL;
    const znl_cluster_message message = {.kind = ZNL_CLUSTER_VALUE, .key = name};
    int err = channel->keys.count < channel->options.max_keys ? make_walkable(channel)
                                                              : ZNL_E_LIMIT;
    if (err == 0)
        err = znl_cluster_write(&message, &text);
    size_t bytes = name.size + text.size;
    if (err == 0 && bytes > channel->options.max_value_bytes - remembered(channel))
        err = ZNL_E_LIMIT;
    if (err == 0) {
        key = znl_calloc(1, sizeof *key + bytes);
        err = key != NULL ? 0 : ZNL_E_NOMEM;
    }
    if (err == 0) {
        memcpy(key->bytes, name.data, name.size);
        memcpy(key->bytes + name.size, text.data, text.size);
        key->text = znl_frame_of(key->bytes + name.size, text.size);
        key->entry.key = znl_frame_of(key->bytes, name.size);
        key->entry.hash = znl_map_hash(name);
        err = znl_map_put(&channel->keys, &key->entry);
    }
    znl_buffer_fini(&text);
    if (err != 0) {
        znl_free(key);
        return err;
    }
    channel->all[channel->keys.count - 1] = key;
    channel->key_bytes += bytes;
    *out = key;
    return 0;
}

/* The newest key, of which nobody knows yet. */
static void unmake_key(znl_cluster_channel *channel, struct key *key)
{
    channel->key_bytes -= key->entry.key.size + key->text.size;
    znl_map_remove(&channel->keys, &key->entry);
    free_key(key);
}

/* --- subscriptions ----------------------------------------------------------------------------------- */

static subscription *find_pair(const znl_cluster_member *member, const struct key *key)
{
    const struct {
        const struct key *key;
        const znl_cluster_member *member;
    } pair = {key, member};
    znl_frame name = znl_frame_of(&pair, sizeof pair);
    return (subscription *)(void *)znl_map_find(
            &member->channel->pairs, name, znl_map_hash(name));
}

static int make_row(struct key *key)
{
    if (key->count < key->capacity)
        return 0;
    uint32_t capacity = key->capacity > 0 ? key->capacity * 2 : ROW_LEAST;
    subscription **row = znl_realloc(key->row, capacity * sizeof(subscription *));
    if (row == NULL)
        return ZNL_E_NOMEM;
    key->row = row;
    key->capacity = capacity;
    return 0;
}

static int make_pair(subscription **out, znl_cluster_member *member, struct key *key)
{
    if (member->link != NULL && member->count >= member->channel->options.max_member_keys)
        return ZNL_E_LIMIT;
    subscription *pair = znl_calloc(1, sizeof *pair);
    int err = pair != NULL ? make_row(key) : ZNL_E_NOMEM;
    if (err == 0) {
        pair->pair.key = key;
        pair->pair.member = member;
        pair->entry.key = znl_frame_of(&pair->pair, sizeof pair->pair);
        pair->entry.hash = znl_map_hash(pair->entry.key);
        err = znl_map_put(&member->channel->pairs, &pair->entry);
    }
    if (err != 0) {
        znl_free(pair);
        return err;
    }
    pair->place = key->count;
    key->row[key->count++] = pair;
    key->locals += member->link == NULL;
    pair->next = member->subscriptions;
    if (pair->next != NULL)
        pair->next->link = &pair->next;
    pair->link = &member->subscriptions;
    member->subscriptions = pair;
    member->count++;
    *out = pair;
    return 0;
}

static void drop_pair(subscription *pair)
{
    znl_cluster_member *member = pair->pair.member;
    struct key *key = pair->pair.key;
    unmiss(pair);
    subscription *last = key->row[--key->count];
    key->row[pair->place] = last;
    last->place = pair->place;
    key->locals -= member->link == NULL;
    if (key->count == 0) {
        znl_free(key->row);
        key->row = NULL;
        key->capacity = 0;
    }
    *pair->link = pair->next;
    if (pair->next != NULL)
        pair->next->link = pair->link;
    member->count--;
    znl_map_remove(&member->channel->pairs, &pair->entry);
    znl_free(pair);
}

/* Sends the last value to who has subscribed. */
static void replay(subscription *pair)
{
    struct key *key = pair->pair.key;
    znl_cluster_member *member = pair->pair.member;
    znl_frame value = znl_frame_of(key->value, key->value_size);
    if (!member->channel->options.is_broadcast || value.size == 0)
        return;
    if (member->link == NULL)
        tell_local(pair, value);
    else if (pair->missed_link == NULL)
        deliver(pair, value);
}

int znl_cluster_channel_subscribe(znl_cluster_member *member, znl_frame key, znl_frame reg)
{
    znl_cluster_channel *channel = member->channel;
    znl_frame name;
    int err = name_key(channel, key, reg, &name);
    if (err != 0)
        return err;
    struct key *wanted = find_key(channel, name);
    int is_new = wanted == NULL;
    subscription *pair = is_new ? NULL : find_pair(member, wanted);
    if (is_new)
        err = make_key(&wanted, channel, name);
    if (err == 0 && pair == NULL) {
        err = make_pair(&pair, member, wanted);
        if (err != 0 && is_new)
            unmake_key(channel, wanted);
    }
    if (err != 0)
        return err;
    if (!is_new) {
        replay(pair);
        return 0;
    }
    err = channel->events->on_key(channel->user, wanted->entry.key, reg);
    if (err != 0) {
        drop_pair(pair);
        unmake_key(channel, wanted);
    }
    return err;
}

void znl_cluster_channel_unsubscribe(znl_cluster_member *member, znl_frame key, znl_frame reg)
{
    znl_frame name;
    if (name_key(member->channel, key, reg, &name) != 0)
        return;
    const struct key *wanted = find_key(member->channel, name);
    subscription *pair = wanted != NULL ? find_pair(member, wanted) : NULL;
    if (pair != NULL)
        drop_pair(pair);
}

void znl_cluster_channel_leave(znl_cluster_member *member)
{
    if (member == NULL)
        return;
    while (member->subscriptions != NULL)
        drop_pair(member->subscriptions);
    member->channel->members--;
    znl_free(member);
}

/* --- values ------------------------------------------------------------------------------------------ */

static void forget(znl_cluster_channel *channel, struct key *key)
{
    channel->value_bytes -= key->value_size;
    znl_free(key->value);
    key->value = NULL;
    key->value_size = key->value_capacity = 0;
}

static int remember(znl_cluster_channel *channel, struct key *key, znl_frame value)
{
    size_t others = remembered(channel) - key->value_size;
    if (value.size > channel->options.max_value_bytes - others) {
        forget(channel, key);
        return ZNL_E_LIMIT;
    }
    if (value.size > key->value_capacity || value.size < key->value_capacity / 4) {
        forget(channel, key);
        key->value = znl_malloc(value.size);
        if (key->value == NULL)
            return ZNL_E_NOMEM;
        key->value_capacity = value.size;
    }
    memcpy(key->value, value.data, value.size);
    channel->value_bytes += value.size - key->value_size;
    key->value_size = value.size;
    return 0;
}

/* How many got it or will. `lost`: why one did not. */
static unsigned to_all(struct key *key, znl_frame value, int *lost)
{
    unsigned count = 0;
    for (uint32_t i = 0; i < key->count; i++) {
        if (key->row[i]->pair.member->link == NULL)
            continue;
        int err = deliver(key->row[i], value);
        if (err == 0)
            count++;
        else
            *lost = err;
    }
    return count;
}

/* Who works for this process hears it last, because anything may happen then: also the next value of the key, to
 * everybody. Walked from the end, so that who moves into a free place has been passed. */
static unsigned to_locals(struct key *key, znl_frame value)
{
    uint64_t number = key->published;
    unsigned count = 0;
    for (uint32_t i = key->count; i-- > 0 && key->locals > 0;) {
        if (i >= key->count)
            continue;
        subscription *pair = key->row[i];
        if (pair->pair.member->link != NULL || pair->seen == number)
            continue;
        count++;
        tell_local(pair, value);
        if (key->published != number)
            break;
    }
    return count;
}

/* One at random, rather one who is not slow; all the same if nobody is. */
static unsigned to_one(struct key *key, znl_frame value, int *lost)
{
    if (key->waiting != NULL) { /* it will not be the newest any more */
        key->waiting->pair.member->channel->counters.conflated++;
        unmiss(key->waiting);
    }
    if (key->count == 0)
        return 0;
    uint32_t first = (uint32_t)(znl_random_u64() % key->count);
    subscription *pair = key->row[first];
    for (uint32_t i = 0; i < key->count; i++) {
        subscription *other = key->row[(first + i) % key->count];
        znl_cluster_member *member = other->pair.member;
        if (member->link == NULL || (member->missed == NULL && !is_full(member))) {
            pair = other;
            break;
        }
    }
    if (pair->pair.member->link == NULL) {
        tell_local(pair, value);
        return 1;
    }
    *lost = deliver(pair, value);
    if (*lost == 0 && pair->missed_link != NULL)
        key->waiting = pair;
    return *lost == 0;
}

int znl_cluster_channel_publish(znl_cluster_channel *channel, znl_frame key, znl_frame value)
{
    struct key *wanted = find_key(channel, key);
    if (wanted == NULL)
        return ZNL_E_NOT_FOUND;
    if (value.size == 0)
        return ZNL_E_INVALID;
    int lost = 0;
    int err = remember(channel, wanted, value);
    unsigned count;
    wanted->published++;
    channel->counters.published++;
    if (channel->options.is_broadcast) {
        count = to_all(wanted, value, &lost);
        count += to_locals(wanted, value);
    } else {
        count = to_one(wanted, value, &lost);
    }
    if (err == 0 && (lost == ZNL_E_TOO_BIG || (count == 0 && lost != ZNL_E_CLOSED)))
        err = lost; /* what is too big for one is too big for all */
    return err != 0 ? err : (int)count;
}

int znl_cluster_channel_last(
        const znl_cluster_channel *channel, znl_frame key, znl_frame *value)
{
    const struct key *wanted = find_key(channel, key);
    if (wanted == NULL || wanted->value_size == 0)
        return ZNL_E_NOT_FOUND;
    *value = znl_frame_of(wanted->value, wanted->value_size);
    return 0;
}

/* --- looking ----------------------------------------------------------------------------------------- */

int znl_cluster_channel_key(
        const znl_cluster_channel *channel, uint32_t index, znl_cluster_key_info *out)
{
    if (index >= channel->keys.count)
        return ZNL_E_NOT_FOUND;
    const struct key *key = channel->all[index];
    *out = (znl_cluster_key_info){.key = key->entry.key,
            .members = key->count,
            .published = key->published,
            .value_bytes = key->value_size};
    return 0;
}

void znl_cluster_channel_count(
        const znl_cluster_channel *channel, znl_cluster_channel_counters *out)
{
    *out = channel->counters;
    out->keys = (uint32_t)channel->keys.count;
    out->members = channel->members;
    out->value_bytes = channel->value_bytes;
}
