/* pattern.h - bytes and numbers that are the same in every run. SPDX-License-Identifier: MIT */
#ifndef ZNL_CONFORMANCE_PATTERN_H
#define ZNL_CONFORMANCE_PATTERN_H

#include "base/bytes.h"

/* Bytes that differ from frame to frame and show what is missing or out of place. */
void pattern_fill(uint8_t *out, size_t size, uint32_t seed);
int pattern_holds(znl_frame frame, uint32_t seed);

uint32_t next_random(uint64_t *state);

#endif
