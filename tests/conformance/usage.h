/* usage.h - what this process holds at the moment. SPDX-License-Identifier: MIT */
#ifndef ZNL_CONFORMANCE_USAGE_H
#define ZNL_CONFORMANCE_USAGE_H

#include <stddef.h>

size_t memory_used(void); /* bytes that are allocated */
size_t descriptors_open(void);

#endif
