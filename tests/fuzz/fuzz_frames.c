/* Packed frames: what splits packs back to the same bytes. SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/err.h"
#include "codec/frames.h"

#define CAP 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    znl_frame frames[CAP];
    size_t announced = SIZE_MAX;
    size_t count = SIZE_MAX;
    int peeked = znl_frames_peek(data, size, &announced);
    int err = znl_frames_split(data, size, frames, CAP, &count);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO || err == ZNL_E_TOO_BIG);
    FUZZ_HOLDS((peeked == 0) == (announced != SIZE_MAX));
    FUZZ_HOLDS((err == 0) == (count != SIZE_MAX));
    FUZZ_HOLDS(peeked == 0 || err == ZNL_E_PROTO);
    FUZZ_HOLDS(err != ZNL_E_TOO_BIG || announced > CAP);
    if (err != 0)
        return 0;
    FUZZ_HOLDS(count == announced && count <= CAP);
    for (size_t i = 0; i < count; i++)
        FUZZ_HOLDS(FUZZ_INSIDE(frames[i], data, size));

    size_t packed_size;
    FUZZ_HOLDS(znl_frames_packed_size(frames, count, &packed_size) == 0);
    FUZZ_HOLDS(packed_size == size);
    uint8_t *packed = malloc(size);
    FUZZ_HOLDS(packed != NULL);
    znl_frames_pack(frames, count, packed);
    FUZZ_HOLDS(memcmp(packed, data, size) == 0);
    free(packed);
    return 0;
}
