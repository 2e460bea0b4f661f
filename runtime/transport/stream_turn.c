/* stream_turn.c - what the streams of one loop share: whose turn it is, who lingers, spare buffers.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/stream_parts.h"

#include "base/alloc.h"

#include <string.h>

#define SPARE_BYTES (64u * 1024) /* larger ones are given back to the system */
#define BUFFER_BYTES 2048u

/* --- lists ------------------------------------------------------------------------------------- */

static void enter(znl_stream *stream, znl_stream_place *place, znl_stream **list, size_t offset)
{
    place->next = *list;
    place->link = list;
    if (*list != NULL)
        ((znl_stream_place *)(void *)((char *)*list + offset))->link = &place->next;
    *list = stream;
}

static void leave(znl_stream_place *place, size_t offset)
{
    if (place->link == NULL)
        return;
    *place->link = place->next;
    if (place->next != NULL)
        ((znl_stream_place *)(void *)((char *)place->next + offset))->link = place->link;
    place->link = NULL;
}

void znl_stream_leave_lists(znl_stream *stream)
{
    leave(&stream->turn, offsetof(znl_stream, turn));
    leave(&stream->lingers, offsetof(znl_stream, lingers));
}

void znl_stream_enter_lingering(znl_stream *stream)
{
    enter(stream, &stream->lingers, &stream->all->lingering, offsetof(znl_stream, lingers));
}

/* --- turns ------------------------------------------------------------------------------------- */

static void visit(znl_stream *stream)
{
    int is_resumed = stream->is_resumed;
    stream->is_resumed = 0;
    int can_read = stream->state == ZNL_STREAM_SHAKING ||
            (stream->state == ZNL_STREAM_OPEN && !stream->is_paused);
    if (is_resumed && can_read) {
        znl_stream_schedule(stream); /* to write, after it has read */
        znl_stream_read_tls(stream);
    } else {
        znl_stream_flush(stream);
    }
}

static void on_turn(znl_deferred *deferred)
{
    znl_streams *all = (znl_streams *)(void *)((char *)deferred - offsetof(znl_streams, turn));
    /* What is written from here on is for the next turn, else two streams could keep it going. */
    all->visiting = all->awaiting;
    all->awaiting = NULL;
    if (all->visiting != NULL)
        all->visiting->turn.link = &all->visiting;
    while (all->visiting != NULL) {
        znl_stream *stream = all->visiting;
        leave(&stream->turn, offsetof(znl_stream, turn));
        visit(stream);
    }
}

/* At the end of the loop: what is queued still leaves, but nobody waits for the goodbyes any more. */
static void end_lingering(void *shared)
{
    znl_streams *all = shared;
    while (all->lingering != NULL) {
        znl_stream_write_out(all->lingering);
        znl_stream_close(all->lingering, 0);
    }
    znl_loop_undefer(all->loop, &all->turn);
}

static void discard_streams(void *shared)
{
    znl_streams *all = shared;
    while (all->spare_count > 0)
        znl_buffer_fini(&all->spares[--all->spare_count]);
    znl_free(all->plain);
    znl_free(all);
}

znl_streams *znl_streams_of(znl_loop *loop)
{
    znl_streams *all = znl_loop_streams(loop);
    if (all != NULL)
        return all;
    all = znl_malloc(sizeof *all);
    if (all == NULL)
        return NULL;
    memset(all, 0, offsetof(znl_streams, input));
    all->loop = loop;
    all->turn.run = on_turn;
    znl_loop_set_streams(loop, all, end_lingering, discard_streams);
    return all;
}

void znl_streams_give_back(znl_streams *all, znl_buffer *buffer)
{
    if (buffer->data == NULL)
        return;
    if (all->spare_count < ZNL_STREAM_SPARES && buffer->capacity <= SPARE_BYTES) {
        buffer->size = 0;
        all->spares[all->spare_count++] = *buffer;
        *buffer = (znl_buffer){0};
    } else {
        znl_buffer_fini(buffer);
    }
}

int znl_streams_make_room(znl_streams *all, znl_buffer *buffer, size_t size)
{
    if (buffer->data == NULL && all->spare_count > 0)
        *buffer = all->spares[--all->spare_count];
    if (buffer->data == NULL && size < BUFFER_BYTES)
        size = BUFFER_BYTES;
    return znl_buffer_extend(buffer, size);
}

void znl_stream_schedule(znl_stream *stream)
{
    znl_streams *all = stream->all;
    if (stream->turn.link != NULL)
        return;
    enter(stream, &stream->turn, &all->awaiting, offsetof(znl_stream, turn));
    znl_loop_defer(all->loop, &all->turn);
}
