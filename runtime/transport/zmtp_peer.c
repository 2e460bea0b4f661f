/* zmtp_peer.c - see zmtp_peer.h.
 *
 * Messages are handed out where they lie in the buffer that all streams read into. When the turn has lasted long enough,
 * what is left of that buffer moves to the backlog, reading stops, and the rest has its turn later: nothing is received
 * that is not handed out.
 *
 * What is queued for a peer are bytes in its stream. How many messages these are is known in two lots, so that sending
 * counts one number: once the older lot has left, the younger takes its place.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/zmtp_peer.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"

#include <stdio.h>

#define CLOCK_MESSAGES 16u /* between two looks at the clock */
#define GOODBYE_MS 200u    /* for an ERROR to reach the peer */
#define REFUSAL_BYTES 400u
#define LARGE_BYTES 16384u   /* messages that are handed to the system from where they lie */
#define LARGE_FRAMES_MAX 16u /* of these */
#define FIRST_BYTES 12u      /* of the greeting: signature and version */
/* Queued, beyond which a PING has no answer: what is queued is a sign of life, too. */
#define PONG_QUEUE_BYTES 4096u

/* Who has not shaken hands sends no message. */
static const znl_zmtp_limits shaking = {.max_frame_bytes = 4096};

enum state { GREETING, SHAKING, OPEN, ENDED };

/* --- life --------------------------------------------------------------------------------------- */

static void free_peer(znl_zmtp_peer *peer)
{
    znl_zmtp_reader_fini(&peer->reader);
    znl_buffer_fini(&peer->backlog);
    znl_free((void *)(uintptr_t)peer->entry.key.data);
    znl_free(peer);
}

void znl_zmtp_peer_close(znl_zmtp_peer *peer, uint32_t linger_ms)
{
    znl_loop *loop = peer->side->loop;
    if (peer->is_closed)
        return;
    peer->is_closed = 1;
    peer->state = ENDED;
    znl_wheel_stop(znl_loop_wheel(loop), &peer->timer);
    znl_loop_undefer(loop, &peer->resume);
    znl_stream_close(peer->stream,
            peer->says_goodbye && linger_ms < GOODBYE_MS ? GOODBYE_MS : linger_ms);
    peer->stream = NULL;
    if (!peer->is_busy)
        free_peer(peer);
}

/* Tells the link, which closes the peer. */
static void end(znl_zmtp_peer *peer, int err, const char *refusal)
{
    if (peer->state == ENDED)
        return;
    peer->state = ENDED;
    peer->side->on_end(peer->side, peer, err, refusal);
}

/* 0, or why it was not said. */
static int say(znl_zmtp_peer *peer, const uint8_t *bytes, size_t size)
{
    int err = znl_stream_write(peer->stream, bytes, size);
    if (err == 0)
        peer->written += size;
    return err;
}

/* The same before hands are shaken, with a word to the peer when it understands ERROR. Who connects has another port
 * each time, which would make the same refusal look new. */
static void refuse(znl_zmtp_peer *peer, int err, const char *why, int says_so)
{
    char text[REFUSAL_BYTES];
    uint8_t frame[ZNL_ZMTP_ERROR_BYTES_MAX];
    const char *name = znl_stream_peer(peer->stream);
    const char *port = strrchr(name, ':');
    int is_tcp = strncmp(name, "unix:", 5) != 0;
    size_t size = peer->side->is_router && is_tcp && port != NULL ? (size_t)(port - name)
                                                                  : strlen(name);
    snprintf(text, sizeof text, "%.*s: %s", (int)size, name, why);
    if (says_so) {
        peer->says_goodbye = 1;
        say(peer, frame, znl_zmtp_write_error(frame, why));
    }
    end(peer, err, text);
}

static znl_zmtp_peer *peer_of_timer(znl_timer *timer)
{
    return (znl_zmtp_peer *)(void *)((char *)timer - offsetof(znl_zmtp_peer, timer));
}

static void shaking_takes_too_long(znl_timer *timer)
{
    refuse(peer_of_timer(timer), ZNL_E_TIMEOUT, "hands were not shaken in time", 0);
}

static void is_it_silent(znl_timer *timer)
{
    znl_zmtp_peer *peer = peer_of_timer(timer);
    uint64_t now_ms = znl_loop_now_ms(peer->side->loop);
    if (peer->resume.queued) /* there is more of it that has not been looked at */
        peer->heard_ms = now_ms;
    if (now_ms - peer->heard_ms >= peer->ttl_ms)
        end(peer, ZNL_E_TIMEOUT, NULL);
    else
        znl_wheel_start(znl_loop_wheel(peer->side->loop), timer, peer->heard_ms + peer->ttl_ms,
                is_it_silent);
}

/* --- hands ------------------------------------------------------------------------------------- */

static void refuse_greeting(znl_zmtp_peer *peer, int err, const znl_zmtp_greeting *greeting)
{
    char why[160];
    if (err == ZNL_E_PROTO)
        snprintf(why, sizeof why, "it does not speak ZMTP");
    else if (err == ZNL_E_UNSUPPORTED && greeting->major == 0)
        snprintf(why, sizeof why, "it speaks a version of ZMTP before 3.0");
    else if (err == ZNL_E_UNSUPPORTED)
        snprintf(why, sizeof why, "it speaks ZMTP %d, before 3.0", greeting->major);
    else
        snprintf(why, sizeof why,
                "it wants the security mechanism %s; engine = \"libzmq\" has CURVE",
                greeting->mechanism);
    refuse(peer, err != 0 ? err : ZNL_E_UNSUPPORTED, why, 0);
}

/* Says what comes behind the version, once. 0 or ZNL_E_NOMEM.
 *
 * Not before the version of the other is known: libzmq closes at once when it hears of another mechanism, and would do
 * so before it has said its own, so that nobody here could tell why. It waits for the version in the same way. */
static int say_mechanism(znl_zmtp_peer *peer)
{
    uint8_t greeting[ZNL_ZMTP_GREETING_BYTES];
    if (peer->has_greeted)
        return 0;
    peer->has_greeted = 1;
    znl_zmtp_write_greeting(greeting);
    int err = say(peer, greeting + FIRST_BYTES, ZNL_ZMTP_GREETING_BYTES - FIRST_BYTES);
    return err == ZNL_E_NOMEM ? err : 0; /* else it is there, or the end comes */
}

/* 0 or ZNL_E_NOMEM. A ROUTER waits for the READY of the other: libzmq closes at once when it hears of a socket type that
 * is not for it, and would do so before it has said its own. A DEALER does not wait, or nobody would begin. */
static int say_ready(znl_zmtp_peer *peer)
{
    uint8_t ready[ZNL_ZMTP_READY_BYTES_MAX];
    const znl_zmtp_side *side = peer->side;
    int err = say(peer, ready, znl_zmtp_write_ready(ready, side->is_router, side->routing_id));
    return err == ZNL_E_NOMEM ? err : 0;
}

/* Collects the greeting; what is behind it stays in *data. */
static void greet(znl_zmtp_peer *peer, const uint8_t **data, size_t *size)
{
    znl_buffer *held = &peer->reader.held;
    znl_zmtp_greeting greeting;
    size_t wanted = ZNL_ZMTP_GREETING_BYTES - held->size;
    size_t count = wanted < *size ? wanted : *size;
    if (znl_buffer_append(held, *data, count) != 0) {
        end(peer, ZNL_E_NOMEM, NULL);
        return;
    }
    *data += count;
    *size -= count;
    int err = znl_zmtp_read_greeting(held->data, held->size, &greeting);
    if (greeting.major > 0 && (err == 0 || err == ZNL_E_BUSY) && say_mechanism(peer) != 0) {
        end(peer, ZNL_E_NOMEM, NULL);
        return;
    }
    if (err == ZNL_E_BUSY)
        return;
    if (err != 0 || strcmp(greeting.mechanism, "NULL") != 0) {
        peer->says_goodbye = err == 0; /* it sees the other mechanism, and gives up as well */
        refuse_greeting(peer, err, &greeting);
        return;
    }
    znl_buffer_fini(held);
    peer->state = SHAKING;
    if (!peer->side->is_router && say_ready(peer) != 0)
        end(peer, ZNL_E_NOMEM, NULL);
}

/* Bytes of a peer for people. */
static void spell(znl_frame from, char *out, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < from.size && n + 1 < size; i++)
        out[n++] = (char)(from.data[i] >= ' ' && from.data[i] <= '~' ? from.data[i] : '?');
    out[n] = '\0';
}

static void shake(znl_zmtp_peer *peer, const znl_zmtp_item *item)
{
    znl_zmtp_command command;
    znl_zmtp_ready ready;
    char text[256];
    char why[320];
    if (!item->is_command || znl_zmtp_read_command(item->frames[0], &command) != 0) {
        refuse(peer, ZNL_E_PROTO, "it does not shake hands as ZMTP 3 does", 0);
    } else if (command.kind == ZNL_ZMTP_ERROR) {
        spell(command.body, text, sizeof text);
        snprintf(why, sizeof why, "it refused: %s", text);
        refuse(peer, ZNL_E_REFUSED, why, 0);
    } else if (command.kind != ZNL_ZMTP_READY ||
            znl_zmtp_read_ready(command.body, &ready) != 0) {
        refuse(peer, ZNL_E_PROTO, "it does not shake hands as ZMTP 3 does", 1);
    } else if (!znl_zmtp_may_talk(peer->side->is_router, ready.socket_type)) {
        spell(ready.socket_type, text, 32);
        snprintf(why, sizeof why, "a socket of type %s cannot talk to a %s", text,
                peer->side->is_router ? "ROUTER" : "DEALER");
        refuse(peer, ZNL_E_REFUSED, why, 1);
    } else if (ready.identity.size > 0 && ready.identity.data[0] == 0 &&
            peer->side->is_router) {
        /* It could be the name of a peer without one, whose answers would go there. */
        refuse(peer, ZNL_E_REFUSED, "its routing id begins with a zero byte", 1);
    } else if (peer->side->is_router && say_ready(peer) != 0) {
        end(peer, ZNL_E_NOMEM, NULL);
    } else {
        peer->state = OPEN;
        znl_wheel_stop(znl_loop_wheel(peer->side->loop), &peer->timer);
        peer->side->on_ready(peer->side, peer, ready.identity);
    }
}

/* --- in ---------------------------------------------------------------------------------------- */

static void obey(znl_zmtp_peer *peer, znl_frame frame)
{
    znl_zmtp_command command;
    uint8_t pong[ZNL_ZMTP_PONG_BYTES_MAX];
    znl_loop *loop = peer->side->loop;
    if (znl_zmtp_read_command(frame, &command) != 0 || command.kind == ZNL_ZMTP_ERROR) {
        end(peer, ZNL_E_PROTO, NULL);
    } else if (command.kind == ZNL_ZMTP_PING) {
        if (znl_stream_queued(peer->stream) <= PONG_QUEUE_BYTES)
            say(peer, pong, znl_zmtp_write_pong(pong, command.body));
        peer->ttl_ms = command.ttl_ms;
        if (peer->ttl_ms == 0)
            znl_wheel_stop(znl_loop_wheel(loop), &peer->timer);
        else
            znl_wheel_start(znl_loop_wheel(loop), &peer->timer, peer->heard_ms + peer->ttl_ms,
                    is_it_silent);
    }
}

static void take_item(znl_zmtp_peer *peer, znl_zmtp_item *item)
{
    if (peer->state == SHAKING)
        shake(peer, item);
    else if (item->is_command)
        obey(peer, item->frames[0]);
    else
        peer->side->on_message(peer->side, peer, item->frames, item->count);
}

static void fail(znl_zmtp_peer *peer, int err)
{
    if (peer->state == SHAKING)
        refuse(peer, err == ZNL_E_NOMEM ? err : ZNL_E_PROTO,
                "it does not shake hands as ZMTP 3 does", 0);
    else
        end(peer, err, NULL);
}

/* Puts aside what was lent and not read; the others first. */
static void rest(znl_zmtp_peer *peer)
{
    znl_zmtp_reader *reader = &peer->reader;
    if (reader->size == 0)
        return;
    if (peer->backlog.size == 0) {
        if (znl_buffer_append(&peer->backlog, reader->data, reader->size) != 0) {
            end(peer, ZNL_E_NOMEM, NULL);
            return;
        }
        znl_stream_rest(peer->stream, 1);
    }
    peer->backlog_at = peer->backlog.size - reader->size;
    reader->size = 0;
    znl_loop_defer(peer->side->loop, &peer->resume);
}

/* Hands out what was lent, as long as the turn allows. */
static void hand_out(znl_zmtp_peer *peer)
{
    znl_zmtp_side *side = peer->side;
    uint64_t ends_ms = znl_loop_now_ms(side->loop) + ZNL_BATCH_MS;
    unsigned count = 0;
    znl_zmtp_item item;
    int rc;
    while ((rc = znl_zmtp_reader_next(&peer->reader,
                    peer->state == SHAKING ? &shaking : &side->limits, &side->scratch,
                    &item)) != 0) {
        if (rc == 1)
            take_item(peer, &item);
        else if (peer->state == OPEN && rc != ZNL_E_PROTO && rc != ZNL_E_CLOSED)
            side->on_dropped(side, rc);
        else
            fail(peer, rc);
        if (peer->state == ENDED)
            return;
        if (++count % CLOCK_MESSAGES == 0 && znl_clock_mono_ms() >= ends_ms) {
            rest(peer);
            return;
        }
    }
}

static void take_in(znl_zmtp_peer *peer, const uint8_t *data, size_t size)
{
    peer->is_busy = 1;
    if (peer->state == GREETING)
        greet(peer, &data, &size);
    if (peer->state == SHAKING || peer->state == OPEN) {
        znl_zmtp_reader_feed(&peer->reader, data, size);
        hand_out(peer);
    }
    peer->is_busy = 0;
    if (peer->is_closed)
        free_peer(peer);
}

static void on_resume(znl_deferred *deferred)
{
    znl_zmtp_peer *peer =
            (znl_zmtp_peer *)(void *)((char *)deferred - offsetof(znl_zmtp_peer, resume));
    peer->heard_ms = znl_loop_now_ms(peer->side->loop); /* and more may be in the socket */
    peer->is_busy = 1;
    znl_zmtp_reader_feed(&peer->reader, peer->backlog.data + peer->backlog_at,
            peer->backlog.size - peer->backlog_at);
    hand_out(peer);
    if (!peer->is_closed && !peer->resume.queued) {
        znl_buffer_fini(&peer->backlog);
        znl_stream_rest(peer->stream, 0);
    }
    peer->is_busy = 0;
    if (peer->is_closed)
        free_peer(peer);
}

static void on_data(void *user, uint8_t *data, size_t size)
{
    znl_zmtp_peer *peer = user;
    peer->heard_ms = znl_loop_now_ms(peer->side->loop);
    peer->has_said = 1;
    znl_zmtp_reader *reader = &peer->reader;
    if (size > 0 && reader->held.size > 0 &&
            data == reader->held.data + reader->held.size) { /* as on_stream_room() said */
        znl_zmtp_reader_filled(reader, size);
        size = 0;
    }
    take_in(peer, data, size);
}

static int on_stream_room(void *user, uint8_t **at, size_t *size)
{
    znl_zmtp_peer *peer = user;
    return peer->state == OPEN && znl_zmtp_reader_room(&peer->reader, at, size);
}

static void on_stream_open(void *user)
{
    znl_zmtp_peer_start(user);
}

static void on_stream_writable(void *user)
{
    znl_zmtp_peer *peer = user;
    peer->is_blocked = 0;
    peer->side->on_room(peer->side, peer);
}

static void on_stream_end(void *user, int err, const char *text)
{
    znl_zmtp_peer *peer = user;
    if (peer->state == SHAKING && !peer->side->is_router)
        refuse(peer, err != 0 ? err : ZNL_E_GONE,
                "it ended the connection while hands were shaken; is it a socket that talks to a DEALER?",
                0);
    else if (peer->state < OPEN && peer->has_said)
        refuse(peer, err != 0 ? err : ZNL_E_GONE, text, 0);
    else if (err == ZNL_E_LIMIT || err == ZNL_E_NOMEM)
        end(peer, err, peer->state < OPEN ? text : NULL); /* it could not even be tried */
    else
        end(peer, err != 0 ? err : ZNL_E_GONE, NULL);
}

const znl_stream_events znl_zmtp_peer_stream_events = {
        .on_open = on_stream_open,
        .on_data = on_data,
        .on_room = on_stream_room,
        .on_writable = on_stream_writable,
        .on_end = on_stream_end,
};

/* --- out --------------------------------------------------------------------------------------- */

int znl_zmtp_peer_is_open(const znl_zmtp_peer *peer)
{
    return peer->state == OPEN;
}

/* Counts again when half of the high-water mark has been sent since. True when there is room. */
static int has_room(znl_zmtp_peer *peer)
{
    uint32_t hwm = peer->side->send_hwm;
    size_t left;
    if (peer->fresh < hwm / 2)
        return 1;
    left = znl_stream_queued(peer->stream);
    if (left == 0)
        peer->older = peer->fresh = 0;
    else if (peer->written - left >= peer->older_end)
        peer->older = 0;
    if (peer->older == 0) {
        peer->older = peer->fresh;
        peer->older_end = peer->written;
        peer->fresh = 0;
    }
    return peer->older + peer->fresh < hwm;
}

/* One that is worth not to be copied. 0 or an error. */
static int write_large(znl_zmtp_peer *peer, const znl_frame *frames, size_t count)
{
    uint8_t heads[LARGE_FRAMES_MAX * ZNL_ZMTP_HEAD_BYTES_MAX];
    znl_frame pieces[2 * LARGE_FRAMES_MAX];
    uint8_t *at = heads;
    for (size_t i = 0; i < count; i++) {
        uint8_t *end = znl_zmtp_write_head(
                at, frames[i].size, i + 1 < count ? ZNL_ZMTP_MORE : 0);
        pieces[2 * i] = znl_frame_of(at, (size_t)(end - at));
        pieces[2 * i + 1] = frames[i];
        at = end;
    }
    return znl_stream_write_pieces(peer->stream, pieces, 2 * count);
}

static int write_message(
        znl_zmtp_peer *peer, const znl_frame *frames, size_t count, size_t size)
{
    uint8_t *at;
    if (size >= LARGE_BYTES && count <= LARGE_FRAMES_MAX)
        return write_large(peer, frames, count);
    int err = znl_stream_reserve(peer->stream, size, &at);
    if (err != 0)
        return err;
    znl_zmtp_write_message(at, frames, count);
    znl_stream_commit(peer->stream, size);
    return 0;
}

int znl_zmtp_peer_send(znl_zmtp_peer *peer, const znl_frame *frames, size_t count)
{
    if (peer->state != OPEN)
        return ZNL_E_UNREACHABLE;
    size_t size = znl_zmtp_message_bytes(frames, count);
    int err = ZNL_E_BUSY;
    if (has_room(peer))
        err = write_message(peer, frames, count, size);
    else
        znl_stream_await(peer->stream, znl_stream_queued(peer->stream) / 2);
    if (err != 0) {
        peer->is_blocked = err == ZNL_E_BUSY;
        return err == ZNL_E_CLOSED ? ZNL_E_UNREACHABLE : err;
    }
    peer->written += size;
    peer->fresh++;
    return 0;
}

/* --- opening ----------------------------------------------------------------------------------- */

void znl_zmtp_peer_start(znl_zmtp_peer *peer)
{
    uint8_t greeting[ZNL_ZMTP_GREETING_BYTES];
    znl_loop *loop = peer->side->loop;
    znl_zmtp_write_greeting(greeting);
    znl_wheel_start(znl_loop_wheel(loop), &peer->timer,
            znl_loop_now_ms(loop) + ZNL_ZMTP_HANDSHAKE_MS, shaking_takes_too_long);
    if (say(peer, greeting, FIRST_BYTES) == ZNL_E_NOMEM)
        end(peer, ZNL_E_NOMEM, NULL);
}

int znl_zmtp_peer_new(znl_zmtp_peer **out, znl_zmtp_side *side, znl_stream *stream)
{
    znl_zmtp_peer *peer = znl_calloc(1, sizeof *peer);
    if (peer == NULL) {
        znl_stream_close(stream, 0);
        return ZNL_E_NOMEM;
    }
    peer->side = side;
    peer->stream = stream;
    peer->resume.run = on_resume;
    peer->state = GREETING;
    if (stream != NULL)
        znl_stream_set_events(stream, &znl_zmtp_peer_stream_events, peer);
    *out = peer;
    return 0;
}
