/* core.c - see core.h. SPDX-License-Identifier: MIT */
#include "support/core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bind/bind.h"

static int open_modules(lua_State *L)
{
    znl_bind_open_all(L);
    return 0;
}

void core_open(core_state *state)
{
    assert_int_equal(znl_loop_new(&state->loop), 0);
    assert_int_equal(znl_vm_new(&state->vm, state->loop), 0);
    assert_int_equal(znl_vm_protect(state->vm, open_modules, NULL, "test"), 0);
}

void core_close(core_state *state)
{
    znl_vm_free(state->vm);
    assert_int_equal(znl_loop_close(state->loop), 0);
}
