/* zmtp_reader.c - see zmtp_reader.h.
 *
 * A message is looked for where the bytes lie. When it is not whole, it moves to `held`, which then takes in the bytes of
 * one frame after the other and nothing beyond the message. A command between two frames of a message, which libzmq
 * may send, is handed out of there too, and forgotten.
 *
 * SPDX-License-Identifier: MIT */
#include "codec/zmtp_reader.h"

#include "base/alloc.h"
#include "base/err.h"

#define FRAMES_START 16u
#define COMMAND_BYTES_MAX (64u * 1024) /* no command needs more */
#define DIRECT_BYTES                                                                           \
    (32u * 1024)       /* missing of a frame, from which on they are read in their place */
#define RESERVED 0xf8u /* flags that must be zero */

void znl_zmtp_scratch_fini(znl_zmtp_scratch *scratch)
{
    znl_free(scratch->frames);
    *scratch = (znl_zmtp_scratch){NULL, 0};
}

void znl_zmtp_reader_fini(znl_zmtp_reader *reader)
{
    znl_buffer_fini(&reader->held);
    *reader = (znl_zmtp_reader){0};
}

void znl_zmtp_reader_feed(znl_zmtp_reader *reader, const uint8_t *data, size_t size)
{
    reader->data = data;
    reader->size = size;
}

/* --- frames ------------------------------------------------------------------------------------- */

struct head {
    unsigned flags;
    size_t bytes; /* of the head */
    size_t size;  /* of the body */
};

/* Bytes of the head that begins here, and of the body that it says. */
static inline size_t head_of(const uint8_t *at)
{
    return at[0] & ZNL_ZMTP_LONG ? 9 : 2;
}

static inline uint64_t body_of(const uint8_t *at, size_t head_bytes)
{
    return head_bytes == 2 ? at[1]
                           : (uint64_t)znl_get_be32(at + 1) << 32 | znl_get_be32(at + 5);
}

/* 1 and *head, 0 when more bytes are needed, ZNL_E_PROTO. */
static inline int read_head(
        const uint8_t *at, size_t size, const znl_zmtp_limits *limits, struct head *head)
{
    if (size < 2)
        return 0;
    head->flags = at[0];
    if (__builtin_expect(head->flags <= ZNL_ZMTP_MORE, 1)) {
        head->bytes = 2;
        head->size = at[1];
        return head->size <= limits->max_frame_bytes ? 1 : ZNL_E_PROTO;
    }
    unsigned both = ZNL_ZMTP_COMMAND | ZNL_ZMTP_MORE;
    if ((head->flags & RESERVED) || (head->flags & both) == both)
        return ZNL_E_PROTO;
    head->bytes = head_of(at);
    if (size < head->bytes)
        return 0;
    uint64_t body = body_of(at, head->bytes);
    if (body > limits->max_frame_bytes ||
            (head->flags & ZNL_ZMTP_COMMAND && body > COMMAND_BYTES_MAX))
        return ZNL_E_PROTO;
    head->size = (size_t)body;
    return 1;
}

/* Room for `count` frames and one before them. 0 or ZNL_E_NOMEM. */
static int make_frames(znl_zmtp_scratch *scratch, size_t count)
{
    if (count < scratch->capacity)
        return 0;
    size_t capacity = scratch->capacity == 0 ? FRAMES_START : scratch->capacity * 2;
    while (capacity <= count)
        capacity *= 2;
    znl_frame *frames = znl_realloc(scratch->frames, capacity * sizeof *frames);
    if (frames == NULL)
        return ZNL_E_NOMEM;
    scratch->frames = frames;
    scratch->capacity = capacity;
    return 0;
}

/* What a message with one frame more comes to: 0, ZNL_E_LIMIT or ZNL_E_TOO_BIG. */
static inline int check_limits(
        const znl_zmtp_limits *limits, size_t frames, size_t body_bytes, size_t more)
{
    if (frames >= limits->max_frames)
        return ZNL_E_LIMIT;
    return body_bytes > limits->max_message_bytes ||
                    more > limits->max_message_bytes - body_bytes
            ? ZNL_E_TOO_BIG
            : 0;
}

static void forget(znl_zmtp_reader *reader)
{
    reader->scanned = 0;
    reader->body_bytes = reader->lead_bytes;
    reader->frames = 0;
    znl_buffer_fini(&reader->held);
}

/* Moves up to `count` of the lent bytes to the held ones. 1 when all of them were there, 0, ZNL_E_NOMEM. */
static int take(znl_zmtp_reader *reader, size_t count)
{
    size_t there = count < reader->size ? count : reader->size;
    int err = there > 0 ? znl_buffer_append(&reader->held, reader->data, there) : 0;
    if (err != 0)
        return err;
    reader->data += there;
    reader->size -= there;
    return there == count;
}

/* --- passing over ------------------------------------------------------------------------------- */

/* Passes over the message under way, of whose present frame `left` bytes are to come. */
static void start_passing(znl_zmtp_reader *reader, size_t left, unsigned flags)
{
    forget(reader);
    reader->is_passing = 1;
    reader->passing = left;
    reader->ends_passing = !(flags & ZNL_ZMTP_MORE);
}

/* 1 when the bytes of the present frame are passed. */
static int pass(znl_zmtp_reader *reader)
{
    size_t count = reader->passing < reader->size ? reader->passing : reader->size;
    reader->data += count;
    reader->size -= count;
    reader->passing -= count;
    if (reader->passing > 0)
        return 0;
    if (reader->ends_passing)
        reader->is_passing = reader->ends_passing = 0;
    return 1;
}

/* The head of the next frame to pass over; a command there goes with the message. 1, 0 or an error. */
static int next_passed(znl_zmtp_reader *reader, const znl_zmtp_limits *limits)
{
    struct head head;
    int rc = reader->held.size == 0 ? read_head(reader->data, reader->size, limits, &head) : 0;
    if (rc > 0) {
        reader->data += head.bytes;
        reader->size -= head.bytes;
    }
    while (rc == 0) { /* in pieces */
        rc = take(reader, 1);
        if (rc <= 0)
            return rc < 0 ? ZNL_E_CLOSED : 0;
        rc = read_head(reader->held.data, reader->held.size, limits, &head);
    }
    if (rc > 0)
        start_passing(
                reader, head.size, head.flags & ZNL_ZMTP_COMMAND ? ZNL_ZMTP_MORE : head.flags);
    return rc;
}

/* --- held --------------------------------------------------------------------------------------- */

static int give_held(znl_zmtp_reader *reader, znl_zmtp_scratch *scratch, znl_zmtp_item *item)
{
    const uint8_t *at = reader->held.data;
    const uint8_t *end = at + reader->held.size;
    size_t count = 0;
    if (make_frames(scratch, reader->frames) != 0) {
        forget(reader);
        return ZNL_E_NOMEM;
    }
    while (at < end) { /* all of it has been checked */
        size_t head_bytes = head_of(at);
        size_t size = (size_t)body_of(at, head_bytes);
        at += head_bytes;
        scratch->frames[++count] = znl_frame_of(at, size);
        at += size;
    }
    *item = (znl_zmtp_item){.frames = scratch->frames + 1, .count = count};
    reader->is_given = 1;
    return 1;
}

/* A command at the end of what is held. */
static int give_command(znl_zmtp_reader *reader, const struct head *head,
        znl_zmtp_scratch *scratch, znl_zmtp_item *item)
{
    if (make_frames(scratch, 1) != 0)
        return ZNL_E_CLOSED;
    scratch->frames[1] = znl_frame_of(
            reader->held.data + reader->scanned + head->bytes, head->size);
    *item = (znl_zmtp_item){.is_command = 1, .frames = scratch->frames + 1, .count = 1};
    reader->held.size = reader->scanned; /* its bytes stay until the next call */
    return 1;
}

/* Goes on with the message that is held. */
static int next_held(znl_zmtp_reader *reader, const znl_zmtp_limits *limits,
        znl_zmtp_scratch *scratch, znl_zmtp_item *item)
{
    struct head head;
    int rc;
    for (;;) {
        size_t have = reader->held.size - reader->scanned;
        rc = read_head(reader->held.data + reader->scanned, have, limits, &head);
        if (rc < 0)
            return rc;
        if (rc == 0) {
            size_t wanted = have >= 2 ? ZNL_ZMTP_HEAD_BYTES_MAX : 2;
            rc = take(reader, wanted - have);
            if (rc <= 0)
                return rc < 0 ? ZNL_E_CLOSED : 0;
            continue;
        }
        size_t left = head.bytes + head.size - have;
        int is_command = (head.flags & ZNL_ZMTP_COMMAND) != 0;
        int err = is_command
                ? 0
                : check_limits(limits, reader->frames, reader->body_bytes, head.size);
        if (err != 0) {
            start_passing(reader, left, head.flags);
            return err;
        }
        rc = take(reader, left);
        if (rc < 0 && !is_command) {
            start_passing(reader, left, head.flags);
            return rc;
        }
        if (rc <= 0)
            return rc < 0 ? ZNL_E_CLOSED : 0;
        if (is_command)
            return give_command(reader, &head, scratch, item);
        reader->frames++;
        reader->body_bytes += head.size;
        if (!(head.flags & ZNL_ZMTP_MORE))
            return give_held(reader, scratch, item);
        reader->scanned = reader->held.size;
    }
}

/* --- where the bytes lie ------------------------------------------------------------------------ */

/* Holds so many of the lent bytes; the first `scanned` bytes are `frames` whole frames. */
static int hold(
        znl_zmtp_reader *reader, size_t bytes, size_t scanned, size_t frames, size_t body_bytes)
{
    if (take(reader, bytes) < 0)
        return ZNL_E_CLOSED;
    reader->scanned = scanned;
    reader->frames = (uint32_t)frames;
    reader->body_bytes = body_bytes;
    return 0;
}

static int next_lent(znl_zmtp_reader *reader, const znl_zmtp_limits *limits,
        znl_zmtp_scratch *scratch, znl_zmtp_item *item)
{
    const uint8_t *data = reader->data;
    size_t size = reader->size;
    size_t at = 0, count = 0, body_bytes = reader->lead_bytes;
    struct head head;
    for (;;) {
        int rc = read_head(data + at, size - at, limits, &head);
        if (rc < 0)
            return rc;
        if (rc == 0)
            return hold(reader, size, at, count, body_bytes);
        size_t body_at = at + head.bytes;
        int is_command = (head.flags & ZNL_ZMTP_COMMAND) != 0;
        if (is_command && count > 0) { /* inside a message */
            rc = hold(reader, at, at, count, body_bytes);
            return rc < 0 ? rc : next_held(reader, limits, scratch, item);
        }
        int is_whole = head.size <= size - body_at;
        int err = is_command ? 0 : check_limits(limits, count, body_bytes, head.size);
        if (err == 0 && is_whole)
            err = make_frames(scratch, count + 1);
        if (err == 0 && !is_whole) {
            err = hold(reader, size, at, count, body_bytes);
            if (err == 0)
                return 0;
            err = ZNL_E_NOMEM;
        }
        if (err != 0 && is_command)
            return ZNL_E_CLOSED;
        if (err != 0) {
            reader->data += body_at;
            reader->size -= body_at;
            start_passing(reader, head.size, head.flags);
            return err;
        }
        scratch->frames[++count] = znl_frame_of(data + body_at, head.size);
        body_bytes += head.size;
        at = body_at + head.size;
        if (!(head.flags & ZNL_ZMTP_MORE)) {
            reader->data += at;
            reader->size -= at;
            *item = (znl_zmtp_item){is_command, scratch->frames + 1, count};
            return 1;
        }
    }
}

int znl_zmtp_reader_next(znl_zmtp_reader *reader, const znl_zmtp_limits *limits,
        znl_zmtp_scratch *scratch, znl_zmtp_item *item)
{
    if (reader->is_given) {
        reader->is_given = 0;
        forget(reader);
    }
    while (reader->is_passing) {
        if (!pass(reader))
            return 0;
        if (reader->is_passing) {
            int rc = next_passed(reader, limits);
            if (rc <= 0)
                return rc;
        }
    }
    if (reader->held.size > 0)
        return next_held(reader, limits, scratch, item);
    znl_buffer_fini(&reader->held); /* of a command */
    return reader->size > 0 ? next_lent(reader, limits, scratch, item) : 0;
}

int znl_zmtp_reader_room(znl_zmtp_reader *reader, uint8_t **at, size_t *size)
{
    struct head head;
    const znl_zmtp_limits none = {.max_frame_bytes = SIZE_MAX}; /* it has been checked */
    znl_buffer *held = &reader->held;
    size_t have = held->size - reader->scanned;
    if (reader->is_given || reader->is_passing || have < ZNL_ZMTP_HEAD_BYTES_MAX ||
            read_head(held->data + reader->scanned, have, &none, &head) != 1 ||
            head.bytes + head.size - have < DIRECT_BYTES)
        return 0;
    size_t left = head.bytes + head.size - have;
    if (held->capacity - held->size < DIRECT_BYTES && /* grows with what has come */
            znl_buffer_extend(held, left < held->size ? left : held->size) != 0)
        return 0;
    *at = held->data + held->size;
    *size = held->capacity - held->size < left ? held->capacity - held->size : left;
    return 1;
}

void znl_zmtp_reader_filled(znl_zmtp_reader *reader, size_t size)
{
    reader->held.size += size;
}
