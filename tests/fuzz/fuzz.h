/* fuzz.h - what the fuzz targets share: a property that does not hold stops the run.
 *
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_FUZZ_FUZZ_H
#define ZNL_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define FUZZ_HOLDS(property)                                                                   \
    do {                                                                                       \
        if (!(property)) {                                                                     \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #property);      \
            abort();                                                                           \
        }                                                                                      \
    } while (0)

/* True when `frame` lies in the `length` bytes at `start`; an empty one lies anywhere. */
#define FUZZ_INSIDE(frame, start, length)                                                      \
    ((frame).size == 0 ||                                                                      \
            ((frame).data >= (start) && (size_t)((frame).data - (start)) <= (length) &&        \
                    (frame).size <= (length) - (size_t)((frame).data - (start))))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
