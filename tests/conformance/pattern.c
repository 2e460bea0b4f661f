/* pattern.c - see pattern.h. SPDX-License-Identifier: MIT */
#include "conformance/pattern.h"

#include <string.h>

#define PATTERN_BYTES 1048573u /* a prime: no power of two is a period */

static const uint8_t *pattern(void)
{
    static uint8_t bytes[PATTERN_BYTES];
    static int is_made;
    uint64_t state = 1;
    for (size_t i = 0; i < PATTERN_BYTES && !is_made; i++)
        bytes[i] = (uint8_t)next_random(&state);
    is_made = 1;
    return bytes;
}

void pattern_fill(uint8_t *out, size_t size, uint32_t seed)
{
    size_t from = (size_t)seed * 7919 % PATTERN_BYTES;
    while (size > 0) {
        size_t part = PATTERN_BYTES - from < size ? PATTERN_BYTES - from : size;
        memcpy(out, pattern() + from, part);
        out += part;
        size -= part;
        from = 0;
    }
}

int pattern_holds(znl_frame frame, uint32_t seed)
{
    size_t from = (size_t)seed * 7919 % PATTERN_BYTES;
    while (frame.size > 0) {
        size_t part = PATTERN_BYTES - from < frame.size ? PATTERN_BYTES - from : frame.size;
        if (memcmp(frame.data, pattern() + from, part) != 0)
            return 0;
        frame = znl_frame_of(frame.data + part, frame.size - part);
        from = 0;
    }
    return 1;
}

uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}
