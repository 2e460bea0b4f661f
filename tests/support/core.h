/* core.h - a Lua state with the modules znl.core.*, for tests. SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_CORE_H
#define ZNL_TESTS_CORE_H

#include "transport/loop.h"
#include "vm/vm.h"

typedef struct core_state {
    znl_loop *loop;
    znl_vm *vm;
} core_state;

/* Opens a state; closes it, and requires that nothing is left open. */
void core_open(core_state *state);
void core_close(core_state *state);

#endif
