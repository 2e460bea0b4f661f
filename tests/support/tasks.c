/* tasks.c - see tasks.h. SPDX-License-Identifier: MIT */
#include "support/tasks.h"

#include "base/alloc.h"
#include "base/log.h"
#include "transport/loop.h"

#include <stdio.h>
#include <string.h>

struct tasks tasks;

static void on_done(void *user, lua_State *L, int status, int nresults)
{
    struct ended *ended = user;
    const char *text = nresults > 0 ? lua_tostring(L, -1) : NULL;
    ended->calls++;
    ended->status = status;
    snprintf(ended->text, sizeof ended->text, "%s", text != NULL ? text : "");
}

static znl_wait note(znl_wait wait)
{
    if (tasks.wait_count < TASKS_MAX)
        tasks.waits[tasks.wait_count++] = wait;
    return wait;
}

static int l_wait(lua_State *L)
{
    note(znl_sched_park_as(L, "test"));
    return lua_yield(L, 0);
}

static int l_sleep(lua_State *L)
{
    note(znl_sched_sleep(L, (uint32_t)lua_tointeger(L, 1)));
    return lua_yield(L, 0);
}

static int l_spawn(lua_State *L)
{
    lua_pushinteger(L, znl_sched_spawn(L, lua_gettop(L) - 1, NULL, NULL, NULL));
    return 1;
}

int tasks_setup(void **state)
{
    (void)state;
    memset(&tasks, 0, sizeof tasks);
    znl_log_configure(ZNL_LOG_OFF, ZNL_LOG_LOGFMT);
    if (znl_loop_new(&tasks.loop) != 0 || znl_vm_new(&tasks.vm, tasks.loop) != 0)
        return -1;
    lua_register(tasks.vm->L, "wait", l_wait);
    lua_register(tasks.vm->L, "sleep", l_sleep);
    lua_register(tasks.vm->L, "spawn", l_spawn);
    return 0;
}

int tasks_teardown(void **state)
{
    (void)state;
    znl_alloc_fail_after(-1);
    znl_vm_free(tasks.vm);
    return znl_loop_close(tasks.loop);
}

struct start {
    const char *chunk;
    const znl_spawn *how;
    int err;
};

static int run_start(lua_State *L)
{
    struct start *start = lua_touserdata(L, 1);
    if (luaL_loadbuffer(L, start->chunk, strlen(start->chunk), "@test.lua") != 0)
        return lua_error(L);
    start->err = znl_sched_spawn_as(L, 0, start->how);
    return 0;
}

int tasks_start(const char *chunk, znl_spawn how)
{
    unsigned number = tasks.count++;
    how.done = on_done;
    how.user = &tasks.ended[number];
    how.ref = &tasks.refs[number];
    struct start start = {chunk, &how, 0};
    return znl_vm_protect(tasks.vm, run_start, &start, "test") == 0 ? start.err : 1;
}

void tasks_run(void)
{
    znl_loop_run(tasks.loop);
}
