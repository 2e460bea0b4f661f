/* refusals.c - see refusals.h. SPDX-License-Identifier: MIT */
#include "node/refusals.h"

#include "base/limits.h"
#include "base/map.h"

int znl_refusals_are_news(znl_refusals *refusals, znl_frame text, uint64_t now_ms)
{
    uint64_t hash = znl_map_hash(text);
    size_t oldest = 0;
    for (size_t i = 0; i < ZNL_REFUSAL_TEXTS; i++) {
        if (refusals->said[i].hash == hash && refusals->said[i].until_ms > now_ms)
            return 0;
        if (refusals->said[i].until_ms < refusals->said[oldest].until_ms)
            oldest = i;
    }
    if (refusals->said[oldest].until_ms > now_ms)
        return 0;
    refusals->said[oldest].hash = hash;
    refusals->said[oldest].until_ms = now_ms + ZNL_REFUSAL_MS;
    return 1;
}
