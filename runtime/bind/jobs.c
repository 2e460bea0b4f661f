/* jobs.c - see jobs.h. SPDX-License-Identifier: MIT */
#include "bind/jobs.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"

#include <string.h>

void znl_jobs_init(lua_State *L, znl_jobs *jobs, size_t job_bytes,
        void (*timed_out)(znl_job *job), void (*ended)(znl_jobs *jobs))
{
    memset(jobs, 0, sizeof *jobs);
    jobs->metatable = lua_topointer(L, -1);
    znl_anchor_init(&jobs->anchor, znl_vm_of(L));
    jobs->handler_ref = jobs->console_ref = jobs->place_ref = LUA_NOREF;
    jobs->job_bytes = job_bytes;
    jobs->timed_out = timed_out;
    jobs->ended = ended;
}

/* The one found last, until it is collected: nothing else has its address. A thread has one state. */
static _Thread_local const znl_jobs *known;

void znl_jobs_fini(lua_State *L, znl_jobs *jobs)
{
    jobs->is_over = 1;
    if (known == jobs)
        known = NULL;
    znl_anchor_fini(&jobs->anchor);
    znl_owner_release(jobs->handler_owner);
    jobs->handler_owner = NULL;
    luaL_unref(L, LUA_REGISTRYINDEX, jobs->handler_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, jobs->console_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, jobs->place_ref);
    jobs->handler_ref = jobs->console_ref = jobs->place_ref = LUA_NOREF;
    for (size_t i = 0; i < jobs->made_count; i++)
        znl_free(jobs->made[i]);
    znl_free(jobs->made);
    jobs->made = NULL;
    jobs->made_count = jobs->made_capacity = 0;
    jobs->free = NULL;
}

znl_jobs *znl_jobs_at(lua_State *L, int index)
{
    /* A box knows the address of its metatable: looking types up by name costs more than the rest of a
     * check. The size makes it safe to read the field of what is no box. */
    znl_jobs *jobs = lua_touserdata(L, index);
    if (jobs != NULL && jobs == known)
        return jobs;
    if (jobs == NULL || lua_type(L, index) != LUA_TUSERDATA ||
            lua_objlen(L, index) < sizeof *jobs || !lua_getmetatable(L, index))
        return NULL;
    const void *metatable = lua_topointer(L, -1);
    lua_pop(L, 1);
    if (jobs->metatable != metatable)
        return NULL;
    if (!jobs->is_over)
        known = jobs;
    return jobs;
}

/* --- jobs -------------------------------------------------------------------------------------- */

/* A job in a new slot, NULL when memory is short. */
static znl_job *job_make(znl_jobs *jobs)
{
    if (jobs->made_count == jobs->made_capacity) {
        size_t capacity = jobs->made_capacity > 0 ? 2 * jobs->made_capacity : 16;
        znl_job **made = znl_realloc(jobs->made, capacity * sizeof(znl_job *));
        if (made == NULL)
            return NULL;
        jobs->made = made;
        jobs->made_capacity = capacity;
    }
    znl_job *job = znl_calloc(1, jobs->job_bytes);
    if (job == NULL)
        return NULL;
    job->jobs = jobs;
    job->ticket = jobs->made_count;
    jobs->made[jobs->made_count++] = job;
    return job;
}

znl_job *znl_job_take(znl_jobs *jobs)
{
    znl_job *job = jobs->free;
    if (job != NULL)
        jobs->free = job->next_free;
    else if (jobs->made_count == ZNL_JOB_SLOTS || (job = job_make(jobs)) == NULL)
        return NULL;
    job->is_at_work = 1;
    job->is_answered = job->is_cancelled = job->is_limited = 0;
    job->deadline_ms = 0;
    jobs->at_work++;
    znl_anchor_hold_again(&jobs->anchor);
    return job;
}

/* The token of a job was cancelled. An asker whose own deadline it was does not wait any more. */
static void deadline_passed(znl_token_watcher *watcher)
{
    znl_job *job = (znl_job *)(void *)((char *)watcher - offsetof(znl_job, watcher));
    if (znl_token_is_cancelled(job->token) != ZNL_E_DEADLINE || job->is_answered)
        return;
    job->is_answered = 1;
    if (job->is_limited) {
        job->jobs->handler_timeouts++;
        job->jobs->timed_out(job);
    } else {
        job->jobs->expired++;
    }
}

int znl_job_limit(znl_job *job, uint64_t deadline_ms)
{
    const znl_jobs *jobs = job->jobs;
    job->deadline_ms = deadline_ms;
    if (jobs->timeout_ms > 0) {
        uint64_t limit_ms = znl_loop_now_ms(jobs->anchor.vm->loop) + jobs->timeout_ms;
        job->is_limited = deadline_ms == 0 || limit_ms < deadline_ms;
        if (job->is_limited)
            job->deadline_ms = limit_ms;
    }
    if (job->deadline_ms == 0)
        return 0;
    int err = znl_token_new(jobs->anchor.vm, NULL, job->deadline_ms, &job->token);
    if (err == 0)
        znl_token_watch(job->token, &job->watcher, deadline_passed);
    return err;
}

void znl_job_done(znl_job *job)
{
    znl_jobs *jobs = job->jobs;
    if (job->token != NULL) {
        znl_token_unwatch(&job->watcher);
        znl_token_release(job->token);
        job->token = NULL;
    }
    job->is_at_work = 0;
    job->ticket += ZNL_JOB_SLOTS; /* requests that are kept no longer find it */
    job->next_free = jobs->free;
    jobs->free = job;
    jobs->at_work--;
    jobs->ended(jobs);
    znl_anchor_let_go(&jobs->anchor);
}

void znl_job_cancel(znl_job *job, const char *reason)
{
    job->is_cancelled = 1;
    if (job->token != NULL)
        znl_token_cancel_for(job->token, ZNL_E_CANCELLED, reason, strlen(reason));
    else
        znl_sched_cancel(job->jobs->anchor.vm->sched, job->task, reason, strlen(reason));
}

/* --- handlers ---------------------------------------------------------------------------------- */

znl_owner *znl_jobs_checkhandler(lua_State *L, int index)
{
    lua_settop(L, index + 2);
    if (!lua_isnil(L, index))
        luaL_checktype(L, index, LUA_TFUNCTION);
    int place = lua_type(L, index + 2);
    luaL_argcheck(L, place == LUA_TNIL || place == LUA_TSTRING || place == LUA_TFUNCTION,
            index + 2, "a text or a function that finds one expected");
    return lua_isnil(L, index + 1) ? NULL : znl_lua_checkowner(L, index + 1);
}

int znl_jobs_set_handler(lua_State *L, znl_jobs *jobs)
{
    znl_owner *owner = znl_jobs_checkhandler(L, 2);
    int refs[2] = {LUA_NOREF, LUA_NOREF};
    for (int i = 0; i < 2 && !lua_isnil(L, 2); i++) {
        lua_pushvalue(L, i == 0 ? 2 : 4);
        refs[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    luaL_unref(L, LUA_REGISTRYINDEX, jobs->handler_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, jobs->place_ref);
    if (owner != NULL)
        znl_owner_hold(owner); /* it may be the one that is released next */
    znl_owner_release(jobs->handler_owner);
    jobs->handler_ref = refs[0];
    jobs->place_ref = refs[1];
    jobs->handler_owner = owner;
    return 0;
}

int znl_jobs_set_console(lua_State *L, znl_jobs *jobs)
{
    if (!lua_isnoneornil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    int ref = lua_isnil(L, 2) ? LUA_NOREF : luaL_ref(L, LUA_REGISTRYINDEX);
    luaL_unref(L, LUA_REGISTRYINDEX, jobs->console_ref);
    jobs->console_ref = ref;
    return 0;
}

const char *znl_jobs_place(lua_State *L, znl_frame route, const char *fallback)
{
    if (lua_isfunction(L, -1)) {
        if (route.data == NULL) {
            lua_pushnil(L);
        } else {
            lua_pushlstring(L, (const char *)route.data, route.size);
            if (lua_pcall(L, 1, 1, 0) != 0)
                lua_pushnil(L);
        }
    }
    const char *place = lua_tostring(L, -1);
    return place != NULL ? place : fallback;
}

void znl_jobs_count(lua_State *L, const znl_jobs *jobs)
{
    const struct {
        const char *name;
        uint64_t value;
    } counters[] = {
            {"overloaded", jobs->overloaded},
            {"refused", jobs->refused},
            {"expired", jobs->expired},
            {"handler_errors", jobs->handler_errors},
            {"handler_timeouts", jobs->handler_timeouts},
            {"unanswered", jobs->unanswered},
            {"handlers", jobs->at_work},
    };
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++) {
        lua_pushnumber(L, (lua_Number)counters[i].value);
        lua_setfield(L, -2, counters[i].name);
    }
}

/* --- requests ---------------------------------------------------------------------------------- */

void znl_job_pushticket(lua_State *L, const znl_job *job)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, job->jobs->anchor.ref);
    lua_rawseti(L, -2, 1);
    lua_pushnumber(L, (lua_Number)job->ticket);
    lua_rawseti(L, -2, 2);
}

znl_job *znl_job_of(lua_State *L, void (*ended)(znl_jobs *jobs))
{
    if (!lua_istable(L, 1))
        luaL_argerror(L, 1, "request expected");
    lua_rawgeti(L, 1, 1);
    lua_rawgeti(L, 1, 2);
    const znl_jobs *jobs = znl_jobs_at(L, -2);
    lua_Number number = lua_tonumber(L, -1); /* a script may have written anything there */
    uint64_t ticket = number >= 0 && number < 9007199254740992.0 ? (uint64_t)number
                                                                 : UINT64_MAX;
    size_t slot = ticket % ZNL_JOB_SLOTS;
    lua_pop(L, 2);
    if (jobs == NULL || (ended != NULL && jobs->ended != ended) || slot >= jobs->made_count ||
            jobs->made[slot]->ticket != ticket)
        return NULL;
    return jobs->made[slot];
}

/* req:deadline_ms() -> monotonic instant | nil */
static int request_deadline_ms(lua_State *L)
{
    const znl_job *job = znl_job_of(L, NULL);
    if (job == NULL || job->deadline_ms == 0)
        return 0;
    lua_pushnumber(L, (lua_Number)job->deadline_ms);
    return 1;
}

/* req:remaining_ms() -> milliseconds, 0 when it has passed | nil */
static int request_remaining_ms(lua_State *L)
{
    const znl_job *job = znl_job_of(L, NULL);
    if (job == NULL || job->deadline_ms == 0)
        return 0;
    uint64_t now_ms = znl_clock_mono_ms();
    lua_pushnumber(L, job->deadline_ms > now_ms ? (lua_Number)(job->deadline_ms - now_ms) : 0);
    return 1;
}

/* req:cancelled() -> true when nobody waits for the answer any more */
static int request_cancelled(lua_State *L)
{
    const znl_job *job = znl_job_of(L, NULL);
    lua_pushboolean(L,
            job == NULL || job->is_cancelled ||
                    (job->token != NULL && znl_token_is_cancelled(job->token) != 0));
    return 1;
}

const luaL_Reg znl_request_methods[] = {
        {"deadline_ms", request_deadline_ms},
        {"remaining_ms", request_remaining_ms},
        {"cancelled", request_cancelled},
        {NULL, NULL},
};
