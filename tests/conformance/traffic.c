/* traffic.c - see traffic.h. SPDX-License-Identifier: MIT */
#include "conformance/traffic.h"

#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

void traffic_open(struct traffic *traffic, traffic_shape shape)
{
    memset(traffic, 0, sizeof *traffic);
    assert_true(shape.max_frames <= TRAFFIC_FRAMES);
    traffic->shape = shape;
    traffic->state = shape.seed;
    traffic->bytes = malloc((size_t)shape.max_frames * shape.max_bytes + 1);
    assert_non_null(traffic->bytes);
}

void traffic_close(struct traffic *traffic)
{
    free(traffic->bytes);
    traffic->bytes = NULL;
}

/* Most frames are short, a few as long as they may be. */
static size_t next_size(struct traffic *traffic)
{
    uint32_t kind = next_random(&traffic->state) % 100;
    uint32_t most = traffic->shape.max_bytes;
    uint32_t limit = kind < 50 ? 32 : kind < 80 ? 300 : kind < 99 ? 3000 : most;
    return next_random(&traffic->state) % ((limit < most ? limit : most) + 1);
}

/* Makes the next message: frames[1 .. 1 + count). */
static void make(struct traffic *traffic)
{
    uint8_t *at = traffic->bytes;
    uint32_t more = next_random(&traffic->state) % (traffic->shape.max_frames + 1);
    znl_put_be32(traffic->head, (uint32_t)traffic->number);
    traffic->frames[1] = znl_frame_of(traffic->head, 4);
    traffic->count = 1 + more;
    for (uint32_t i = 0; i < more; i++) {
        size_t size = next_size(traffic);
        traffic->seeds[i] = next_random(&traffic->state);
        pattern_fill(at, size, traffic->seeds[i]);
        traffic->frames[2 + i] = znl_frame_of(at, size);
        at += size;
    }
    traffic->is_made = 1;
}

int traffic_send(struct traffic *traffic)
{
    size_t skip = traffic->to != NULL ? 0 : 1;
    if (traffic->to != NULL)
        traffic->frames[0] = znl_frame_text(traffic->to);
    while (traffic->number < traffic->shape.goal) {
        if (!traffic->is_made)
            make(traffic);
        int err = end_send(traffic->from, traffic->frames + skip, traffic->count + 1 - skip);
        if (err == ZNL_E_BUSY) {
            traffic->refused++;
            return 0;
        }
        if (err != 0)
            fail_msg("message %zu: error %d", traffic->number, err);
        traffic->is_made = 0;
        traffic->number++;
    }
    return 1;
}

void traffic_hear(struct traffic *traffic, const znl_frame *frames, size_t count)
{
    if (count < 1 || frames[0].size != 4)
        fail_msg("message %zu: not whole", traffic->number);
    if (znl_get_be32(frames[0].data) != traffic->number)
        fail_msg("message %zu came as %zu", (size_t)znl_get_be32(frames[0].data),
                traffic->number);
    assert_true(traffic->number < traffic->shape.goal);
    make(traffic);
    if (traffic->count != count)
        fail_msg("message %zu: %zu frames, not %zu", traffic->number, count, traffic->count);
    for (size_t i = 1; i < count; i++)
        if (!znl_frame_equal(frames[i], traffic->frames[1 + i]))
            fail_msg("message %zu, frame %zu differs", traffic->number, i);
    traffic->number++;
}

void traffic_hear_end(struct end *end, const znl_frame *frames, size_t count)
{
    size_t skip = end->is_router ? 1 : 0;
    traffic_hear(end->user, frames + skip, count - skip);
}
