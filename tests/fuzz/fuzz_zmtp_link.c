/* Whole conversations with a ROUTER or a DEALER of our own ZMTP engine: peers that send anything in any pieces, do not read,
 * end and come back, and a program that does anything meanwhile, also from inside events.
 *
 * Beside the link goes a model of it, made of the codec alone: who is to be let in, under which name, what is to be
 * delivered, whom to turn away and when. The link must do just that, queue no more than it may, and write nothing but
 * whole frames. In plays where allocations fail only the latter is asked, and that nothing is left.
 *
 * SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/random.h"
#include "codec/zmtp_reader.h"
#include "support/stream_crowd.h"
#include "transport/link.h"

#define MESSAGES_MAX 4096u /* of one peer and direction */
#define LARGE_MAX 120000u  /* bytes of a frame: read into its place, and written from it */
#define FIRST_BYTES 12u /* of a greeting: the rest follows when the peer has said its version */
#define PINGED_BYTES 4096u /* queued, up to which each PING is answered */

enum state { GREETING, SHAKING, OPEN, OVER };

/* What is to be true of a stream of the crowd. */
struct peer {
    enum state state;
    int has_said, was_shaking, was_open;
    int is_told; /* refused with an ERROR */
    uint8_t greeting[ZNL_ZMTP_GREETING_BYTES];
    size_t greeting_bytes;
    znl_zmtp_reader reader;
    uint8_t name[ZNL_ID_BYTES_MAX];
    size_t name_bytes;
    uint64_t opened_ms, heard_ms, ttl_ms;
    uint64_t due[MESSAGES_MAX]; /* messages to be delivered */
    size_t due_count, delivered;
    uint64_t sent[MESSAGES_MAX]; /* messages the program sent, and where they end */
    size_t sent_end[MESSAGES_MAX];
    size_t sent_count;
    unsigned pings, pongs_due;
    int is_busy; /* a send was refused; on_writable is to come */
};

static struct {
    const uint8_t *at, *end; /* of the input */
    znl_loop *loop;
    znl_link *link;
    int is_router, is_loose, is_in_call, is_inside, is_late;
    size_t step; /* bytes of a piece; 0: all */
    znl_link_options options;
    znl_zmtp_limits limits; /* of what comes from a peer */
    znl_zmtp_scratch scratch;
    uint32_t generated;
    int wants_writable;
    unsigned writable, sent_inside;
    int is_closed_inside; /* of an event: what came behind it is not looked at */
    unsigned refused, refused_due, dropped, dropped_due;
    unsigned lost, lost_due, joined, joined_due;
    int was_lost;
    int is_cut_short;  /* somebody went whose bytes still waited for their turn */
    uint64_t ended_ms; /* the last connection of a DEALER */
    znl_stream *seen;  /* the last dial that was looked at */
} play;

static struct peer peers[CROWD_MAX];

static unsigned take(void)
{
    return play.at < play.end ? *play.at++ : 0;
}

static uint64_t hash_of(const znl_frame *frames, size_t count)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t f = 0; f < count; f++) {
        hash = (hash ^ frames[f].size) * 0x100000001b3u;
        for (size_t i = 0; i < frames[f].size; i++)
            hash = (hash ^ frames[f].data[i]) * 0x100000001b3u;
    }
    return hash;
}

static struct peer *peer_of(const znl_stream *stream)
{
    return &peers[stream - crowd.streams];
}

static znl_stream *stream_of(const struct peer *peer)
{
    return &crowd.streams[peer - peers];
}

static znl_frame name_of(const struct peer *peer)
{
    return znl_frame_of(peer->name, peer->name_bytes);
}

static struct peer *find(znl_frame name)
{
    for (unsigned i = 0; i < crowd.count; i++)
        if (peers[i].state == OPEN && znl_frame_equal(name_of(&peers[i]), name))
            return &peers[i];
    return NULL;
}

/* --- the model ---------------------------------------------------------------------------------- */

static void model_over(struct peer *peer, int is_refused)
{
    if (peer->state == OVER)
        return;
    if (is_refused)
        play.refused_due++;
    if (peer->state == OPEN && !play.is_router) {
        play.lost_due++;
        play.was_lost = 1;
    }
    peer->state = OVER;
    play.is_cut_short |= stream_of(peer)->is_paused;
    play.ended_ms = znl_loop_now_ms(play.loop);
}

static void model_ready(struct peer *peer, znl_frame identity)
{
    uint8_t generated[5] = {0};
    if (play.is_router && identity.size == 0) {
        do {
            znl_put_be32(generated + 1, ++play.generated);
            identity = znl_frame_of(generated, sizeof generated);
        } while (find(identity) != NULL);
    } else if (play.is_router && find(identity) != NULL) {
        model_over(find(identity), 0);
    }
    /* One that has waiting bytes, after which it is to end, ends before they have had their turn. */
    for (unsigned i = 0; i < crowd.count; i++)
        play.is_cut_short |= !crowd.streams[i].is_closed && crowd.streams[i].is_paused &&
                znl_frame_equal(name_of(&peers[i]), identity);
    peer->state = OPEN;
    peer->was_open = 1;
    peer->name_bytes = identity.size;
    if (identity.size > 0)
        memcpy(peer->name, identity.data, identity.size);
    if (play.was_lost) {
        play.was_lost = 0;
        play.joined_due++;
    }
}

static void model_shake(struct peer *peer, const znl_zmtp_item *item)
{
    znl_zmtp_command command;
    znl_zmtp_ready ready;
    if (znl_zmtp_read_command(item->frames[0], &command) != 0 ||
            command.kind == ZNL_ZMTP_ERROR) {
        model_over(peer, 1);
    } else if (command.kind != ZNL_ZMTP_READY ||
            znl_zmtp_read_ready(command.body, &ready) != 0 ||
            !znl_zmtp_may_talk(play.is_router, ready.socket_type) ||
            (play.is_router && ready.identity.size > 0 && ready.identity.data[0] == 0)) {
        peer->is_told = 1;
        model_over(peer, 1);
    } else {
        model_ready(peer, ready.identity);
    }
}

static void model_item(struct peer *peer, const znl_zmtp_item *item)
{
    znl_zmtp_command command;
    if (peer->state == SHAKING) {
        model_shake(peer, item);
    } else if (!item->is_command) {
        if (peer->due_count < MESSAGES_MAX)
            peer->due[peer->due_count++] = hash_of(item->frames, item->count);
        else
            play.is_loose =
                    1; /* too many to follow: the body of a large frame read as frames */
    } else if (znl_zmtp_read_command(item->frames[0], &command) != 0 ||
            command.kind == ZNL_ZMTP_ERROR) {
        model_over(peer, 0);
    } else if (command.kind == ZNL_ZMTP_PING) {
        peer->ttl_ms = command.ttl_ms;
        peer->pings++;
        /* As many as fit anyway. */
        if (znl_stream_queued(stream_of(peer)) <= PINGED_BYTES / 4 && peer->pings < 100 &&
                crowd.max_queue_bytes > PINGED_BYTES)
            peer->pongs_due++;
    }
}

/* What the link is to make of these bytes. */
static void model_data(znl_stream *stream, const uint8_t *data, size_t size)
{
    static const znl_zmtp_limits shaking = {.max_frame_bytes = 4096};
    znl_zmtp_greeting greeting;
    znl_zmtp_item item;
    struct peer *peer = peer_of(stream);
    peer->has_said = 1;
    peer->heard_ms = znl_loop_now_ms(play.loop);
    while (peer->state == GREETING && size > 0) {
        peer->greeting[peer->greeting_bytes++] = *data++;
        size--;
        int err = znl_zmtp_read_greeting(peer->greeting, peer->greeting_bytes, &greeting);
        if (err == 0 && strcmp(greeting.mechanism, "NULL") == 0) {
            peer->state = SHAKING;
            peer->was_shaking = 1;
        } else if (err != ZNL_E_BUSY)
            model_over(peer, 1);
    }
    znl_zmtp_reader_feed(&peer->reader, data, size);
    while (peer->state == SHAKING || peer->state == OPEN) {
        znl_zmtp_limits limits = play.limits;
        if (play.is_router && peer->state == OPEN)
            limits.max_message_bytes -= peer->name_bytes;
        int rc = znl_zmtp_reader_next(&peer->reader,
                peer->state == SHAKING ? &shaking : &limits, &play.scratch, &item);
        if (rc == 0)
            break;
        if (rc == 1)
            model_item(peer, &item);
        else if (peer->state == OPEN && (rc == ZNL_E_TOO_BIG || rc == ZNL_E_LIMIT))
            play.dropped_due++;
        else
            model_over(peer, peer->state == SHAKING);
    }
}

static void model_end(struct peer *peer)
{
    model_over(peer, peer->state < OPEN && peer->has_said);
}

/* What the time has brought. */
static void model_time(void)
{
    uint64_t now_ms = znl_loop_now_ms(play.loop);
    for (unsigned i = 0; i < crowd.count; i++) {
        struct peer *peer = &peers[i];
        if (!crowd.streams[i].is_open)
            continue;
        if (peer->state < OPEN && now_ms - peer->opened_ms >= ZNL_ZMTP_HANDSHAKE_MS)
            model_over(peer, 1);
        else if (peer->state == OPEN && peer->ttl_ms > 0 &&
                now_ms - peer->heard_ms >= peer->ttl_ms)
            model_over(peer, 0);
    }
}

/* --- what the program does ---------------------------------------------------------------------- */

static size_t queued_messages(const struct peer *peer)
{
    size_t count = 0;
    while (count < peer->sent_count &&
            peer->sent_end[peer->sent_count - 1 - count] > stream_of(peer)->taken)
        count++;
    return count;
}

/* Whose queue grew by the call is who it went to. */
static void check_send(
        int err, struct peer *to, const size_t *before, const znl_frame *frames, size_t count)
{
    struct peer *grown = NULL;
    size_t size = znl_zmtp_message_bytes(frames, count);
    for (unsigned i = 0; i < crowd.count; i++) {
        if (crowd.streams[i].out.size == before[i])
            continue;
        FUZZ_HOLDS(grown == NULL && err == 0);
        grown = &peers[i];
        FUZZ_HOLDS(crowd.streams[i].out.size == before[i] + size);
        FUZZ_HOLDS(grown->sent_count < MESSAGES_MAX);
        grown->sent[grown->sent_count] = hash_of(frames, count);
        grown->sent_end[grown->sent_count++] = crowd.streams[i].out.size;
        FUZZ_HOLDS(queued_messages(grown) <= play.options.send_hwm);
    }
    FUZZ_HOLDS((err == 0) == (grown != NULL));
    play.sent_inside += (unsigned)play.is_inside;
    if (play.is_loose || play.is_inside) /* the model may be ahead, or behind */
        return;
    FUZZ_HOLDS(err == 0 ? grown == to : 1);
    if (to == NULL) {
        FUZZ_HOLDS(err == (play.is_router ? ZNL_E_UNREACHABLE : ZNL_E_BUSY));
    } else if (err != 0) {
        FUZZ_HOLDS(err == ZNL_E_BUSY);
        /* A PONG between messages counts with those before it. */
        FUZZ_HOLDS(queued_messages(to) * 2 >= play.options.send_hwm || to->pings > 0 ||
                znl_stream_queued(stream_of(to)) + size > crowd.max_queue_bytes);
        to->is_busy = 1;
    }
}

static void send_something(void)
{
    static const uint8_t body[60000] = "what the program says";
    size_t before[CROWD_MAX];
    unsigned what = take();
    znl_frame frames[4];
    size_t lead = 0, count = 1 + (what & 1);
    struct peer *to = NULL;
    if (crowd.count == 0)
        return;
    if (play.is_router) {
        struct peer *one = &peers[(what >> 2) % crowd.count];
        frames[lead++] = name_of(one);
        to = find(frames[0]);
    } else {
        for (unsigned i = 0; i < crowd.count; i++)
            if (peers[i].state == OPEN)
                to = &peers[i];
    }
    for (size_t i = 0; i < count; i++)
        frames[lead + i] = znl_frame_of(
                body + (what & 15), take() * (what & 64 ? 100u : 1u) * (what & 2 ? 2u : 1u));
    for (unsigned i = 0; i < crowd.count; i++)
        before[i] = crowd.streams[i].out.size;
    play.is_in_call = 1;
    int err = znl_link_send(play.link, frames, lead + count);
    play.is_in_call = 0;
    check_send(err, to, before, frames + lead, count);
}

static void want_writable(int on)
{
    play.wants_writable = on;
    play.writable = 0;
    play.is_in_call = 1;
    znl_link_want_writable(play.link, on);
    play.is_in_call = 0;
}

static void close_link(uint32_t linger_ms)
{
    znl_link *link = play.link;
    play.link = NULL;
    play.is_closed_inside = play.is_inside;
    play.is_in_call = 1;
    znl_link_close(link, linger_ms);
    play.is_in_call = 0;
    for (unsigned i = 0; i < crowd.count; i++)
        FUZZ_HOLDS(crowd.streams[i].is_closed);
}

static void act(void)
{
    if (play.link == NULL)
        return;
    unsigned what = take();
    switch (what & 7) {
    case 1:
    case 2:
        send_something();
        break;
    case 3:
        want_writable(what >> 3 & 1);
        break;
    case 4: /* this has taken long: others have their turn */
        if (!play.is_late && !play.is_loose) {
            play.is_late = 1;
            znl_clock_advance(ZNL_BATCH_MS + 1);
        }
        break;
    case 5:
        if (what == 0xed)
            close_link(take());
        break;
    case 6:
        if (play.is_loose)
            znl_alloc_fail_after((long)(what >> 3));
        break;
    default:
        break;
    }
}

/* --- what the link tells ------------------------------------------------------------------------ */

static void react(void)
{
    play.is_inside = 1;
    act();
    play.is_inside = 0;
}

static void on_message(void *user, const znl_frame *frames, size_t count)
{
    (void)user;
    FUZZ_HOLDS(play.link != NULL && !play.is_in_call);
    FUZZ_HOLDS(count >= 1u + (unsigned)play.is_router && count <= play.options.max_frames);
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += frames[i].size;
    FUZZ_HOLDS(bytes <= play.options.max_message_bytes);
    uint64_t hash = hash_of(frames + play.is_router, count - (size_t)play.is_router);
    struct peer *from = NULL;
    if (!play.is_loose) {
        for (unsigned i = 0; i < crowd.count && from == NULL; i++) {
            struct peer *peer = &peers[i];
            /* The model may know already that it ends after this. */
            if (!crowd.streams[i].is_closed && peer->delivered < peer->due_count &&
                    peer->due[peer->delivered] == hash &&
                    (!play.is_router || znl_frame_equal(name_of(peer), frames[0])))
                from = peer;
        }
        FUZZ_HOLDS(from != NULL);
        from->delivered++;
    }
    react();
}

static void on_writable(void *user)
{
    (void)user;
    FUZZ_HOLDS(play.link != NULL && !play.is_in_call && play.wants_writable);
    for (unsigned i = 0; i < CROWD_MAX; i++)
        peers[i].is_busy = 0;
    react();
    if (play.link != NULL && ++play.writable >= 3) /* it comes again and again */
        want_writable(0);
}

static void on_dropped(void *user, int err)
{
    (void)user;
    FUZZ_HOLDS(play.link != NULL && !play.is_in_call);
    FUZZ_HOLDS(err == ZNL_E_TOO_BIG || err == ZNL_E_LIMIT ||
            (err == ZNL_E_NOMEM && play.is_loose));
    play.dropped++;
    react();
}

static void on_lost(void *user)
{
    (void)user;
    FUZZ_HOLDS(play.link != NULL && !play.is_in_call && !play.is_router);
    play.lost++;
    FUZZ_HOLDS(play.lost == play.joined + 1);
    react();
}

static void on_joined(void *user)
{
    (void)user;
    FUZZ_HOLDS(play.link != NULL && !play.is_in_call && !play.is_router);
    play.joined++;
    FUZZ_HOLDS(play.lost == play.joined);
    react();
}

static void on_refused(void *user, int err, const char *text)
{
    (void)user;
    FUZZ_HOLDS(play.link != NULL && !play.is_in_call && err != 0);
    FUZZ_HOLDS(text != NULL && text[0] != 0 && strlen(text) < 500);
    for (const char *at = text; *at != 0; at++)
        FUZZ_HOLDS(*at >= ' ' && *at <= '~'); /* a peer's bytes are not for the log */
    play.refused++;
    react();
}

static const znl_link_events events = {
        on_message, on_writable, on_dropped, on_lost, on_joined, on_refused};

/* --- turns -------------------------------------------------------------------------------------- */

static void check_model(void)
{
    if (play.link == NULL || play.is_loose)
        return;
    FUZZ_HOLDS(play.refused == play.refused_due);
    FUZZ_HOLDS(play.dropped == play.dropped_due ||
            (play.is_cut_short && play.dropped < play.dropped_due));
    play.dropped_due = play.dropped;
    play.is_cut_short = 0;
    FUZZ_HOLDS(play.lost == play.lost_due && play.joined == play.joined_due);
    for (unsigned i = 0; i < crowd.count; i++) {
        FUZZ_HOLDS((peers[i].state == OVER) == crowd.streams[i].is_closed);
        FUZZ_HOLDS(peers[i].state == OVER || peers[i].delivered == peers[i].due_count);
        FUZZ_HOLDS(!peers[i].is_told || crowd.streams[i].linger_ms > 0);
    }
}

/* Gives what is to be given and runs the loop, until nothing happens any more. */
static void settle(void)
{
    int had_some;
    do {
        had_some = 0;
        znl_loop_run(play.loop);
        model_time();
        for (unsigned i = 0; i < crowd.count; i++) {
            znl_stream *stream = &crowd.streams[i];
            if (stream->is_closed || stream->is_paused || stream->has_ended)
                continue;
            if (stream->coming.size == 0 && stream->ends)
                model_end(&peers[i]);
            had_some |= crowd_give(stream);
        }
    } while (had_some);
    play.is_late = 0;
    znl_loop_run(play.loop);
    model_time();
    check_model();
}

static void pass(uint64_t ms)
{
    znl_clock_advance(ms);
    znl_loop_clock_changed(play.loop);
    settle();
    /* A DEALER is back in time, while there is room in the crowd. */
    znl_stream *last = crowd.count > 0 ? &crowd.streams[crowd.count - 1] : NULL;
    if (play.link == NULL || play.is_router || play.is_loose)
        return;
    if (last != play.seen) {
        FUZZ_HOLDS(play.seen == NULL || play.seen->is_closed);
        FUZZ_HOLDS(znl_loop_now_ms(play.loop) - play.ended_ms >= ZNL_RECONNECT_MS);
        play.seen = last;
    } else if (last->is_closed && crowd_has_room()) {
        FUZZ_HOLDS(znl_loop_now_ms(play.loop) - play.ended_ms <
                ZNL_RECONNECT_MAX_MS + ZNL_RECONNECT_MS);
    }
}

/* --- what peers do ------------------------------------------------------------------------------ */

static void send_piece(znl_stream *stream, const uint8_t *data, size_t size, int holds)
{
    while (size > 0 && !stream->is_closed) {
        size_t step = play.step * (size > 4096 ? 500 : 1);
        size_t part = step == 0 || step > size || holds ? size : step;
        crowd_send(stream, data, part);
        data += part;
        size -= part;
        if (!holds)
            settle();
    }
}

static size_t make_greeting(uint8_t *out, unsigned what)
{
    znl_zmtp_write_greeting(out);
    out[8] = (uint8_t)take();
    if ((what & 15) == 1)
        out[11] = 0; /* 3.0 */
    else if ((what & 15) == 2)
        out[10] = (uint8_t)(what >> 4);
    else if ((what & 15) == 3)
        memcpy(out + 12, "CURVE", 5);
    else if ((what & 15) == 4)
        out[what >> 2] ^= (uint8_t)what;
    return ZNL_ZMTP_GREETING_BYTES;
}

static size_t make_ready(uint8_t *out, unsigned what)
{
    static const char *const types[] = {"REQ", "REP", "PUB", "ROUTER"};
    static const uint8_t names[ZNL_ID_BYTES_MAX] = "abcdefgh";
    uint8_t generated[5] = {0, 0, 0, 0, 1};
    unsigned name = what & 7;
    znl_frame identity = znl_frame_of(names + name, name == 0 ? 0 : name < 6 ? 1 : 255 - name);
    if (name == 7)
        identity = znl_frame_of(generated, sizeof generated);
    size_t size = znl_zmtp_write_ready(out, !play.is_router, identity);
    /* Another type of socket now and then, of the same length or another. */
    if ((what >> 3 & 7) == 1) {
        znl_frame type = znl_frame_text(types[what >> 6]);
        uint8_t *at = out;
        at = znl_zmtp_write_head(at, 6 + 1 + 11 + 4 + type.size, ZNL_ZMTP_COMMAND);
        memcpy(at, "\5READY\13Socket-Type\0\0\0", 21);
        at[21] = (uint8_t)type.size;
        memcpy(at + 22, type.data, type.size);
        size = (size_t)(at - out) + 22 + type.size;
    }
    return size;
}

static size_t make_message(uint8_t *out, unsigned what)
{
    static const uint8_t body[LARGE_MAX] = "what a peer says";
    znl_frame frames[4];
    size_t count = 1 + (what & 3);
    for (size_t i = 0; i < count; i++)
        frames[i] = znl_frame_of(body + i, what & 4 ? take() * 2u : take() & 15);
    if ((what & 0x1c) == 0x1c) /* one that is large */
        frames[count / 2].size = 20000 + take() * 300u;
    return (size_t)(znl_zmtp_write_message(out, frames, count) - out);
}

static size_t make_command(uint8_t *out, unsigned what)
{
    uint8_t body[40] = "\4PING";
    uint8_t *at;
    switch (what & 3) {
    case 0: /* a TTL of up to 3.1 s, or none */
        body[6] = (uint8_t)(what >> 3);
        at = znl_zmtp_write_head(out, 7 + (what >> 2 & 1) * 16, ZNL_ZMTP_COMMAND);
        memcpy(at, body, 23);
        return (size_t)(at - out) + 7 + (what >> 2 & 1) * 16;
    case 1:
        return znl_zmtp_write_pong(out, znl_frame_of("abcd", what >> 2 & 3));
    case 2:
        return what & 64 ? znl_zmtp_write_error(out, "no\r\n\x80more")
                         : znl_zmtp_write_pong(out, (znl_frame){0});
    default:
        at = znl_zmtp_write_head(out, 12, ZNL_ZMTP_COMMAND);
        memcpy(at, "\x09SUBSCRIBEto", 12);
        return (size_t)(at - out) + 12;
    }
}

/* What comes next in a conversation as it should be, more or less. */
static void go_on(znl_stream *stream, int holds)
{
    static uint8_t out[LARGE_MAX + 3 * 600];
    unsigned what = take();
    const struct peer *peer = peer_of(stream);
    unsigned times = 1;
    size_t size;
    if (peer->state == GREETING && stream->coming.size == 0)
        size = make_greeting(out, what);
    else if (peer->state == SHAKING || stream->coming.size == 64)
        size = make_ready(out, what);
    else
        size = make_message(out, what);
    /* Many at once: longer than a turn. */
    if (peer->state == OPEN && (what & 0xf8) == 0xf8 && size < 4096)
        times = 40;
    while (times-- > 1)
        send_piece(stream, out, size, 1);
    send_piece(stream, out, size, holds);
}

/* One of those that are there. */
static znl_stream *choose(unsigned which)
{
    znl_stream *there[CROWD_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < crowd.count; i++)
        if (!crowd.streams[i].is_closed && !crowd.streams[i].ends)
            there[count++] = &crowd.streams[i];
    return count > 0 ? there[which % count] : NULL;
}

static void come(znl_stream *stream)
{
    unsigned i = crowd.count;
    if (play.is_router && crowd_has_room()) {
        peers[i].opened_ms = znl_loop_now_ms(play.loop);
        crowd_accept();
        if (crowd.streams[i].is_closed)
            model_over(&peers[i], 0); /* without memory */
    } else if (stream != NULL && stream->is_dialled && !stream->is_open) {
        peer_of(stream)->opened_ms = znl_loop_now_ms(play.loop);
        crowd_open(stream);
    }
}

static void go(void)
{
    uint8_t out[64];
    unsigned what = take();
    znl_stream *stream = choose(what >> 3 & 3);
    int is_there = stream != NULL && stream->is_open, holds = what >> 7 && !play.is_loose;
    switch (what & 7) {
    case 0: /* any bytes */
        if (is_there) {
            size_t size = take() & 63;
            size = size < (size_t)(play.end - play.at) ? size : (size_t)(play.end - play.at);
            play.at += size;
            send_piece(stream, play.at - size, size, holds);
        }
        break;
    case 1:
        if (is_there)
            go_on(stream, holds);
        break;
    case 2:
        if (is_there)
            send_piece(stream, out, make_command(out, take()), holds);
        break;
    case 3:
        come(stream);
        break;
    case 4:
        if (stream != NULL)
            crowd_end(stream, what & 32 ? ZNL_E_GONE : stream->is_open ? 0 : ZNL_E_UNREACHABLE);
        break;
    case 5:
        pass((uint64_t)take() * (what & 32 ? 200 : 7));
        break;
    case 6:
        if (what & 32) {
            for (unsigned i = 0; i < crowd.count; i++)
                crowd_take(&crowd.streams[i], SIZE_MAX);
        } else if (stream != NULL) {
            crowd_take(stream, take());
        }
        break;
    default:
        act();
    }
    if (play.is_loose && (what & 7) != 7)
        znl_alloc_fail_after(-1);
    if (!holds && play.link != NULL)
        settle();
}

/* --- what was written --------------------------------------------------------------------------- */

static void check_ready_of(znl_frame frame)
{
    uint8_t expected[ZNL_ZMTP_READY_BYTES_MAX];
    size_t size = znl_zmtp_write_ready(expected, play.is_router, play.options.routing_id);
    size_t lead = znl_zmtp_head_bytes(frame.size);
    FUZZ_HOLDS(size == lead + frame.size);
    FUZZ_HOLDS(memcmp(expected + lead, frame.data, frame.size) == 0);
}

/* Our greeting, READY, then messages of the program and PONGs, at most one ERROR at the very end; nothing in parts. */
static void check_written(const struct peer *peer, const znl_stream *stream)
{
    static const znl_zmtp_limits all = {SIZE_MAX, SIZE_MAX, 1000};
    uint8_t greeting[ZNL_ZMTP_GREETING_BYTES];
    znl_zmtp_reader reader = {0};
    znl_zmtp_command command;
    znl_zmtp_item item;
    size_t sent = 0;
    unsigned items = 0, pongs = 0, errors = 0, readies = 0;
    if (stream->out.size == 0) {
        FUZZ_HOLDS(play.is_loose || !stream->is_open);
        return;
    }
    znl_zmtp_write_greeting(greeting);
    size_t greeted = stream->out.size == FIRST_BYTES ? FIRST_BYTES : sizeof greeting;
    FUZZ_HOLDS(stream->out.size >= greeted);
    FUZZ_HOLDS(memcmp(stream->out.data, greeting, greeted) == 0);
    znl_zmtp_reader_feed(&reader, stream->out.data + greeted, stream->out.size - greeted);
    while (znl_zmtp_reader_next(&reader, &all, &play.scratch, &item) == 1) {
        FUZZ_HOLDS(errors == 0);
        if (!item.is_command) {
            FUZZ_HOLDS(items > 0 && sent < peer->sent_count);
            FUZZ_HOLDS(peer->sent[sent++] == hash_of(item.frames, item.count));
            items++;
            continue;
        }
        FUZZ_HOLDS(znl_zmtp_read_command(item.frames[0], &command) == 0);
        if (command.kind == ZNL_ZMTP_READY) {
            FUZZ_HOLDS(items == 0);
            check_ready_of(item.frames[0]);
            readies++;
        } else if (command.kind == ZNL_ZMTP_PONG) {
            FUZZ_HOLDS(items > 0);
            pongs++;
        } else {
            FUZZ_HOLDS(command.kind == ZNL_ZMTP_ERROR && stream->linger_ms > 0);
            FUZZ_HOLDS(items == (play.is_router ? 0 : readies)); /* before any message */
            errors++;
        }
        items++;
    }
    FUZZ_HOLDS(reader.size == 0 && reader.held.size == 0); /* whole frames */
    FUZZ_HOLDS(sent == peer->sent_count);
    if (!play.is_loose) {
        FUZZ_HOLDS(pongs <= peer->pings && errors == (unsigned)peer->is_told);
        FUZZ_HOLDS(pongs >= peer->pongs_due || peer->state == OVER || play.sent_inside > 0 ||
                play.is_closed_inside);
        FUZZ_HOLDS(stream->out.size > FIRST_BYTES || !peer->was_shaking);
        FUZZ_HOLDS(readies == (unsigned)(play.is_router ? peer->was_open : peer->was_shaking));
    }
    znl_zmtp_reader_fini(&reader);
}

/* --- the play ----------------------------------------------------------------------------------- */

static void open_link(void)
{
    static const char name[ZNL_ID_BYTES_MAX] = "me";
    static const struct {
        size_t frame_bytes, message_bytes;
        uint32_t frames;
    } limits[] = {
            {600, 1000, 4}, {300, 300, 2}, {LARGE_MAX, LARGE_MAX + 5000, 1000}, {1000, 260, 3}};
    unsigned how = take(), more = take();
    play.is_router = how & 1;
    play.is_loose = (how >> 1 & 7) == 7;
    play.step = how >> 4 == 15 ? 0 : (size_t)(1u << (how >> 4)) / 2;
    play.options = (znl_link_options){.engine = ZNL_LINK_ZMTP,
            .is_router = play.is_router,
            .endpoint = more & 4 ? "ipc:///nowhere" : "tcp://127.0.0.1:5",
            .routing_id = znl_frame_of(name,
                    more & 8            ? 2
                            : more & 16 ? 240
                                        : 0),
            .send_hwm = 1 + (more >> 5) * 3,
            .recv_hwm = 10,
            .max_frame_bytes = limits[more & 3].frame_bytes,
            .max_message_bytes = limits[more & 3].message_bytes,
            .max_frames = limits[more & 3].frames};
    play.limits = (znl_zmtp_limits){play.options.max_frame_bytes,
            play.options.max_message_bytes, play.options.max_frames - (uint32_t)play.is_router};
    crowd.max_queue_bytes = 700 + take() * 40u; /* the greeting and READY always fit */
    crowd.before_data = model_data;
    FUZZ_HOLDS(znl_link_open(&play.link, play.loop, &play.options, &events, NULL) == 0);
    play.seen = crowd.count > 0 ? &crowd.streams[0] : NULL;
}

/* Everybody reads again: who waits to send hears of it. */
static void check_room(void)
{
    for (unsigned i = 0; i < crowd.count; i++)
        crowd_take(&crowd.streams[i], SIZE_MAX);
    settle();
    for (unsigned i = 0; i < crowd.count && play.link != NULL; i++)
        FUZZ_HOLDS(play.is_loose || !play.wants_writable || peers[i].state != OPEN ||
                !peers[i].is_busy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_started;
    if (!is_started) {
        FUZZ_HOLDS(znl_random_start() == 0);
        znl_clock_freeze(1000);
        is_started = 1;
    }
    memset(&play, 0, sizeof play);
    memset(peers, 0, sizeof peers);
    play.at = data;
    play.end = data + size;
    FUZZ_HOLDS(znl_loop_new(&play.loop) == 0);
    open_link();
    while (play.at < play.end && play.link != NULL)
        go();
    znl_alloc_fail_after(-1);
    if (play.link != NULL) {
        settle();
        check_room();
    }
    if (play.link != NULL)
        close_link(0);
    znl_loop_run(play.loop);
    FUZZ_HOLDS(znl_loop_wheel(play.loop)->count == 0);
    for (unsigned i = 0; i < crowd.count; i++) {
        check_written(&peers[i], &crowd.streams[i]);
        znl_zmtp_reader_fini(&peers[i].reader);
    }
    FUZZ_HOLDS(znl_loop_close(play.loop) == 0);
    znl_zmtp_scratch_fini(&play.scratch);
    crowd_fini();
    return 0;
}
