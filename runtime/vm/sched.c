/* sched.c - see sched.h. SPDX-License-Identifier: MIT */
#include "vm/sched.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/wheel.h"
#include "vm/sched_parts.h"
#include "vm/watchdog.h"

#include <string.h>

typedef struct znl_task task;

/* Tasks that may nest, each spawned by the one before: LuaJIT does not watch the C stack. */
#define NESTED_MAX 150

/* --- queue of tasks for the loop's next turn ---------------------------------------------- */

static void unqueue(task *t)
{
    znl_sched *sched = t->sched;
    if (t->queued == ZNL_NOT_QUEUED)
        return;
    t->queued = ZNL_NOT_QUEUED;
    if (t->prev_queued != NULL)
        t->prev_queued->next_queued = t->next_queued;
    else
        sched->queue_first = t->next_queued;
    if (t->next_queued != NULL)
        t->next_queued->prev_queued = t->prev_queued;
    else
        sched->queue_last = t->prev_queued;
    sched->queue_count--;
}

/* Ends the wait, however it was to end. */
static void unpark(task *t)
{
    t->ticket = 0;
    t->is_told_late = 0;
    znl_wheel_stop(t->sched->wheel, &t->timer);
    unqueue(t);
}

static int is_parked(const task *t)
{
    return t->ticket != 0 || t->queued != ZNL_NOT_QUEUED || t->is_told_late;
}

/* The wait, if there is one, ends without a wake. */
static void lose(task *t)
{
    void (*lost)(void *user, uint64_t id) = t->lost;
    t->lost = NULL;
    if (lost != NULL && t->ticket != 0)
        lost(t->lost_user, t->lost_id);
}

void znl_task_enqueue(task *t, int what, int err)
{
    znl_sched *sched = t->sched;
    if (what == ZNL_QUEUED_CANCEL || what == ZNL_QUEUED_DROP)
        lose(t);
    unpark(t);
    t->queued = (uint8_t)what;
    t->queued_err = err;
    t->next_queued = NULL;
    t->prev_queued = sched->queue_last;
    if (sched->queue_last != NULL)
        sched->queue_last->next_queued = t;
    else
        sched->queue_first = t;
    sched->queue_last = t;
    sched->queue_count++;
    znl_loop_defer(sched->vm->loop, &sched->queue_due);
}

void znl_task_doom(task *t)
{
    if (t->is_doomed)
        return;
    t->is_doomed = 1;
    if (is_parked(t))
        znl_task_enqueue(t, ZNL_QUEUED_DROP, 0);
}

/* --- coroutines and their pool ------------------------------------------------------------ */

/* (task): gives a bare task a coroutine. Raises when memory is short, having changed nothing.
 */
static int make_coroutine(lua_State *L)
{
    task *t = lua_touserdata(L, 1);
    lua_State *co = lua_newthread(L);
    t->co_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    t->co = co;
    return 0;
}

/* (task, count): raises when the coroutine cannot have that many values. */
static int make_room(lua_State *L)
{
    task *t = lua_touserdata(L, 1);
    if (!lua_checkstack(t->co, (int)lua_tointeger(L, 2)))
        return luaL_error(L, "too many values");
    return 0;
}

/* One more task, bare and in no list; NULL when memory is short. */
static task *make_task(znl_sched *sched)
{
    if (sched->made_count == sched->made_capacity) {
        uint32_t capacity = sched->made_capacity > 0 ? sched->made_capacity * 2 : 64;
        task **made = znl_realloc(sched->made, capacity * sizeof(task *));
        if (made == NULL)
            return NULL;
        sched->made = made;
        sched->made_capacity = capacity;
    }
    task *t = znl_calloc(1, sizeof *t);
    if (t == NULL)
        return NULL;
    t->sched = sched;
    t->index = sched->made_count;
    sched->made[sched->made_count++] = t;
    return t;
}

/* An idle task with a coroutine, taken out of its list; NULL when memory is short. */
static task *take_task(znl_sched *sched, lua_State *L)
{
    task *t = sched->pool;
    if (t != NULL) {
        sched->pool = t->next_idle;
        sched->pool_count--;
        return t;
    }
    t = sched->bare;
    if (t == NULL) {
        t = make_task(sched);
        if (t == NULL)
            return NULL;
        t->next_idle = NULL;
        sched->bare = t;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, sched->make_ref);
    lua_pushlightuserdata(L, t);
    if (lua_pcall(L, 1, 0, 0) != 0) {
        lua_pop(L, 1);
        sched->collect_due = 1;
        return NULL;
    }
    sched->bare = t->next_idle;
    return t;
}

/* Puts an ended task back. Its coroutine is kept when `is_clean`: it returned normally. */
static void put_task(znl_sched *sched, task *t, int is_clean)
{
    /* A script may have given the coroutine other globals, which the next task must not see. */
    if (is_clean && sched->pool_count < ZNL_TASK_POOL_MAX &&
            lua_topointer(t->co, LUA_GLOBALSINDEX) ==
                    lua_topointer(sched->vm->L, LUA_GLOBALSINDEX)) {
        t->next_idle = sched->pool;
        sched->pool = t;
        sched->pool_count++;
        return;
    }
    luaL_unref(sched->vm->L, LUA_REGISTRYINDEX, t->co_ref);
    t->co = NULL;
    t->next_idle = sched->bare;
    sched->bare = t;
}

/* --- the end of a task -------------------------------------------------------------------- */

/* (results...) */
static int run_done(lua_State *L)
{
    znl_sched *sched = znl_vm_of(L)->sched;
    if (sched->done_text != NULL)
        lua_pushstring(L, sched->done_text);
    sched->done_begun = 1;
    sched->done(sched->done_user, L, sched->done_status,
            sched->done_status != 0 ? 1 : lua_gettop(L));
    return 0;
}

static void log_failure(lua_State *L, const char *message)
{
    size_t size = 0;
    const char *text = lua_tolstring(L, -1, &size);
    if (text == NULL) {
        text = "out of memory";
        size = strlen(text);
    }
    znl_log_field field = {"error", text, size, 0};
    znl_log_write(ZNL_LOG_ERROR, "script", message, &field, 1);
}

/* Calls `done` with the `count` values at the top of L, which it pops, or with `text`. */
static void call_done(znl_sched *sched, lua_State *L, znl_task_done_fn done, void *user,
        int status, int count, const char *text)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, sched->done_ref);
    lua_insert(L, -1 - count);
    sched->done = done;
    sched->done_user = user;
    sched->done_status = status;
    sched->done_text = text;
    sched->done_begun = 0;
    if (lua_pcall(L, count, 0, 0) != 0) {
        log_failure(L, "the end of a task could not be reported");
        lua_pop(L, 1);
    }
}

/* Reports values at the top of L, which it pops, as what the task came to. */
static void report(znl_sched *sched, lua_State *L, znl_task_done_fn done, void *user,
        int status, int count)
{
    if (done != NULL) {
        call_done(sched, L, done, user, status, count, NULL);
        return;
    }
    if (status != 0)
        log_failure(L, "task failed");
    lua_pop(L, count);
}

/* Takes the task from everything that knows it; its owner goes on counting it. */
static void retire(znl_sched *sched, task *t)
{
    unpark(t);
    znl_owner_unlink(t);
    znl_token_remove(t);
    if (t->own != NULL) {
        znl_token_release(t->own);
        t->own = NULL;
    }
    t->owner = NULL;
    t->cancelled = 0;
    t->is_live = 0;
    sched->live_count--;
}

/* What is told of a task that ended; taken from it before another may have it. */
struct ending {
    znl_task_done_fn done;
    void *user;
    znl_owner *owner;
    int is_background;
};

static struct ending end_of(const task *t)
{
    return (struct ending){t->done, t->user, t->owner, t->is_background};
}

/* The task returned (results on its stack) or failed (status not 0, the error value there). Its
 * values leave by way of L, which has room for them. */
static void finish(znl_sched *sched, lua_State *L, task *t, int status)
{
    lua_State *co = t->co;
    struct ending end = end_of(t);
    int count = 0;
    if (status == 0 && t->returned != NULL) {
        retire(sched, t);
        count = lua_gettop(co);
        if (__builtin_expect(t->returned(end.user, co, count), 1)) {
            lua_settop(co, 0);
            put_task(sched, t, 1);
            znl_owner_one_less(end.owner, end.is_background, !sched->is_closed);
            return;
        }
    }
    unpark(t);
    if (status == 0) {
        count = lua_gettop(co);
        if (end.done == NULL)
            count = 0;
        else if (count > ZNL_TASK_RESULTS_MAX)
            count = ZNL_TASK_RESULTS_MAX;
        lua_settop(co, count);
        lua_xmove(co, L, count);
    } else {
        sched->failed_count++;
        lua_xmove(co, L, 1);
        if (status == LUA_ERRMEM)
            sched->collect_due = 1;
        int is_table = end.done != NULL && lua_istable(L, -1);
        if (is_table)
            lua_pushvalue(L, -1);
        znl_vm_traceback(L, co);
        if (is_table)
            lua_insert(L, -2);
        count = 1 + is_table;
    }
    if (t->is_live)
        retire(sched, t);
    put_task(sched, t, status == 0);
    sched->done_interrupted = status != 0 && t->is_interrupted;
    report(sched, L, end.done, end.user, status, count);
    sched->done_interrupted = 0;
    znl_owner_one_less(end.owner, end.is_background, !sched->is_closed);
}

/* Ends the task where it waits. Only from the loop. `text` NULL: the scheduler stops. */
static void drop(znl_sched *sched, task *t, const char *text)
{
    lua_State *L = sched->vm->L;
    struct ending end = end_of(t);
    retire(sched, t);
    put_task(sched, t, 0);
    sched->cut_count++;
    sched->depth++; /* so that nothing that `done` calls takes this for the loop */
    if (end.done != NULL && text != NULL)
        call_done(sched, L, end.done, end.user, ZNL_TASK_DROPPED, 0, text);
    if (end.done != NULL && (text == NULL || !sched->done_begun)) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, sched->stopped_ref);
        call_done(sched, L, end.done, end.user, ZNL_TASK_DROPPED, 1, NULL);
    }
    sched->depth--;
    znl_owner_one_less(end.owner, end.is_background, !sched->is_closed);
}

/* Runs the coroutine, which has `nargs` values for it on its stack, until it waits or ends. */
static void resume(znl_sched *sched, lua_State *L, task *t, int nargs)
{
    task *before = sched->current;
    sched->current = t;
    t->is_interrupted = 0;
    sched->pulse.serial += before == NULL;
    int status = lua_resume(t->co, nargs);
    sched->current = before;
    if (__builtin_expect(sched->pulse.is_alarmed && before == NULL, 0))
        znl_watchdog_calm(sched->vm);
    if (__builtin_expect(status == LUA_YIELD, 1)) {
        lua_settop(t->co, 0);
        if (is_parked(t))
            return;
        lua_rawgeti(t->co, LUA_REGISTRYINDEX, sched->stray_ref); /* nobody would resume it */
    }
    finish(sched, L, t, status);
}

/* --- spawning ----------------------------------------------------------------------------- */

/* 0, or why the idle task cannot take so many arguments; then it is idle again. */
static int grow_task(znl_sched *sched, lua_State *L, task *t, int nargs)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, sched->room_ref);
    lua_pushlightuserdata(L, t);
    lua_pushinteger(L, nargs + 1);
    int status = lua_pcall(L, 2, 0, 0);
    if (status == 0)
        return 0;
    lua_pop(L, 1);
    put_task(sched, t, 0);
    if (status != LUA_ERRMEM)
        return ZNL_E_LIMIT;
    sched->collect_due = 1;
    return ZNL_E_NOMEM;
}

/* A task as `how` says, with room for nargs arguments, in *out. 0, or why there is none. */
static int begin_task(
        znl_sched *sched, lua_State *L, int nargs, const znl_spawn *how, task **out)
{
    const task *parent = how->inherits ? sched->current : NULL;
    znl_owner *owner = how->owner;
    znl_token *token = how->token;
    int is_background = how->kind == ZNL_TASK_BACKGROUND;
    if (parent != NULL) {
        if (owner == NULL)
            owner = parent->owner;
        if (token == NULL)
            token = parent->token;
        if (how->kind == ZNL_TASK_INHERITS)
            is_background = parent->is_background;
    }
    if (sched->is_closed || (owner != NULL && znl_owner_refuses(owner, is_background)))
        return ZNL_E_STOPPED;
    if (sched->depth >= NESTED_MAX)
        return ZNL_E_LIMIT;
    task *t = take_task(sched, L);
    if (t == NULL)
        return ZNL_E_NOMEM;
    int err = nargs > ZNL_TASK_VALUES_MAX ? grow_task(sched, L, t, nargs) : 0;
    if (err != 0)
        return err;
    t->is_live = 1;
    t->is_background = is_background != 0;
    t->is_shielded = 0;
    t->is_doomed = 0;
    t->serial = ++sched->spawned_count;
    t->done = how->done;
    t->returned = how->returned;
    t->user = how->user;
    if (owner != NULL)
        znl_owner_add(owner, t);
    if (token != NULL)
        znl_token_add(token, t);
    sched->live_count++;
    if (how->ref != NULL)
        *how->ref = (znl_task_ref){t->index, t->serial};
    *out = t;
    return 0;
}

int znl_sched_spawn_as(lua_State *L, int nargs, const znl_spawn *how)
{
    znl_sched *sched = znl_vm_of(L)->sched;
    task *t;
    int err = begin_task(sched, L, nargs, how, &t);
    if (err != 0) {
        lua_pop(L, nargs + 1);
        return err;
    }
    lua_xmove(L, t->co, nargs + 1);
    /* Lua runs now, whoever called: what the task does must not be woken into. */
    sched->depth++;
    resume(sched, L, t, nargs);
    sched->depth--;
    return 0;
}

int znl_sched_run(znl_sched *sched, int fn_ref, const znl_spawn *how)
{
    task *t;
    int err = begin_task(sched, sched->vm->L, 0, how, &t);
    if (err != 0)
        return err;
    lua_rawgeti(t->co, LUA_REGISTRYINDEX, fn_ref);
    znl_sched_enter(sched);
    resume(sched, sched->vm->L, t, 0); /* whatever is raised ends there */
    znl_sched_leave(sched, 0);
    return 0;
}

void *znl_sched_user_of(lua_State *L, znl_task_done_fn done)
{
    const task *t = znl_vm_of(L)->sched->current;
    return t != NULL && t->co == L && t->done == done ? t->user : NULL;
}

int znl_sched_spawn(
        lua_State *L, int nargs, znl_owner *owner, znl_task_done_fn done, void *user)
{
    znl_spawn how = {.inherits = 1, .owner = owner, .done = done, .user = user};
    if (owner != NULL)
        how.kind = ZNL_TASK_FOREGROUND;
    return znl_sched_spawn_as(L, nargs, &how);
}

/* --- waiting ------------------------------------------------------------------------------ */

int znl_sched_is_task(lua_State *L)
{
    const task *t = znl_vm_of(L)->sched->current;
    return t != NULL && t->co == L;
}

static void on_told(znl_timer *timer)
{
    task *t = (task *)(void *)((char *)timer - offsetof(task, timer));
    znl_task_enqueue(t, ZNL_QUEUED_CANCEL, 0);
}

/* The wait of a cancelled task ends in the loop's next turn, but one that has been told often and takes no
 * notice is told with a pause: a loop that waits and looks at no result must not keep a core busy. */
static void refuse_wait(task *t)
{
    if (t->cancelled < ZNL_CANCELLED_WAITS) {
        t->cancelled++;
        znl_task_enqueue(t, ZNL_QUEUED_CANCEL, 0);
    } else {
        t->is_told_late = 1;
        znl_wheel_start(t->sched->wheel, &t->timer, znl_clock_mono_ms() + ZNL_CANCELLED_WAIT_MS,
                on_told);
    }
}

/* Starts a wait. One that cannot be, because the task is cancelled or dropped, ends soon: a script
 * that takes no notice and waits on holds up nobody. */
static task *begin_wait(lua_State *L, const char *where)
{
    znl_sched *sched = znl_vm_of(L)->sched;
    task *t = sched->current;
    if (t == NULL || t->co != L)
        luaL_error(L,
                "this waits, so it must be called from a coroutine made by znl, such as the "
                "main script or znl.spawn (not coroutine.create)");
    unpark(t);
    t->where = where;
    t->lost = NULL;
    if (__builtin_expect(t->is_doomed, 0)) {
        znl_task_enqueue(t, ZNL_QUEUED_DROP, 0);
    } else if (__builtin_expect(
                       (t->token != NULL || t->own != NULL) && znl_token_cause(t) != NULL, 0)) {
        refuse_wait(t);
    } else {
        t->cancelled = 0;
        t->ticket = ++sched->last_ticket;
    }
    return t;
}

znl_wait znl_sched_park_as(lua_State *L, const char *where)
{
    task *t = begin_wait(L, where);
    return (znl_wait){t, t->ticket};
}

void znl_sched_on_lost(
        znl_sched *sched, void (*lost)(void *user, uint64_t id), void *user, uint64_t id)
{
    task *t = sched->current;
    t->lost = lost;
    t->lost_user = user;
    t->lost_id = id;
}

znl_wait znl_sched_park(lua_State *L)
{
    return znl_sched_park_as(L, "wait");
}

static int push_true(lua_State *L, void *user)
{
    (void)user;
    lua_pushboolean(L, 1);
    return 1;
}

static void on_timeout(znl_timer *timer)
{
    task *t = (task *)(void *)((char *)timer - offsetof(task, timer));
    znl_wait wait = {t, t->ticket};
    if (t->times_out)
        lose(t);
    if (t->times_out)
        znl_sched_wake_error(t->sched, wait, ZNL_E_TIMEOUT, t->where);
    else
        znl_sched_wake(t->sched, wait, push_true, NULL);
}

static znl_wait park_for(lua_State *L, uint32_t ms, const char *where, int times_out)
{
    task *t = begin_wait(L, where);
    t->times_out = times_out;
    /* The real clock: the loop's may be as old as the script has been running. */
    if (t->ticket != 0)
        znl_wheel_start(t->sched->wheel, &t->timer, znl_clock_mono_ms() + ms, on_timeout);
    return (znl_wait){t, t->ticket};
}

znl_wait znl_sched_park_for(lua_State *L, uint32_t timeout_ms, const char *where)
{
    return park_for(L, timeout_ms, where, 1);
}

znl_wait znl_sched_sleep(lua_State *L, uint32_t ms)
{
    return park_for(L, ms, "sleep", 0);
}

/* --- waking ------------------------------------------------------------------------------- */

static task *waiting(const znl_sched *sched, znl_wait wait)
{
    task *t = wait.task;
    if (t == NULL || wait.ticket == 0 || t->ticket != wait.ticket || sched->is_closed)
        return NULL;
    return t;
}

/* (): pushes the values, then runs the task on. */
static int run_wake(lua_State *L)
{
    znl_sched *sched = znl_vm_of(L)->sched;
    task *t = sched->waking;
    int count = sched->push != NULL ? sched->push(L, sched->push_user) : 0;
    if (count > ZNL_TASK_VALUES_MAX)
        return luaL_error(L, "too many values to wake a task with");
    if (lua_status(t->co) != LUA_YIELD) {
        /* A script resumed it behind our back, and it ended there. */
        sched->waking = NULL;
        lua_settop(t->co, 0);
        lua_rawgeti(t->co, LUA_REGISTRYINDEX, sched->foreign_ref);
        finish(sched, L, t, LUA_ERRRUN);
        return 0;
    }
    lua_xmove(L, t->co, count);
    sched->waking = NULL; /* handed over */
    resume(sched, L, t, count);
    return 0;
}

struct failure {
    int err;
    const char *where;
    const char *reason; /* NULL: the text of err */
};

static int push_failure(lua_State *L, void *user)
{
    const struct failure *failure = user;
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", failure->where,
            failure->reason != NULL ? failure->reason : znl_err_text(failure->err));
    lua_pushstring(L, znl_err_code(failure->err));
    return 3;
}

/* One protected attempt; true when the task was resumed. */
static int try_wake(znl_sched *sched, task *t, znl_push_fn push, void *user)
{
    lua_State *L = sched->vm->L;
    sched->waking = t;
    sched->push = push;
    sched->push_user = user;
    sched->depth++;
    lua_rawgeti(L, LUA_REGISTRYINDEX, sched->wake_ref);
    int status = lua_pcall(L, 0, 0, 0);
    int resumed = sched->waking != t;
    sched->waking = NULL;
    if (__builtin_expect(status != 0, 0)) {
        log_failure(L, "a task could not be woken as it should");
        lua_pop(L, 1);
    }
    znl_sched_leave(sched, status);
    return resumed;
}

void znl_sched_wake(znl_sched *sched, znl_wait wait, znl_push_fn push, void *user)
{
    task *t = waiting(sched, wait);
    if (t == NULL)
        return;
    if (sched->depth > 0) {
        /* A bug of the caller; the task must not hang for it. */
        znl_sched_wake_error(sched, wait, ZNL_E_CANCELLED, "wake");
        return;
    }
    unpark(t);
    if (__builtin_expect(try_wake(sched, t, push, user), 1))
        return;
    struct failure failure = {ZNL_E_NOMEM, "wake", NULL};
    if (!try_wake(sched, t, push_failure, &failure))
        try_wake(sched, t, NULL, NULL); /* needs no memory */
}

void znl_sched_wake_error_later(znl_sched *sched, znl_wait wait, int err, const char *where)
{
    task *t = waiting(sched, wait);
    if (t == NULL)
        return;
    t->where = where;
    znl_task_enqueue(t, ZNL_QUEUED_ERROR, err);
}

int znl_sched_wake_later(znl_sched *sched, znl_wait wait)
{
    task *t = waiting(sched, wait);
    if (t == NULL)
        return 0;
    znl_task_enqueue(t, ZNL_QUEUED_TRUE, 0);
    return 1;
}

void znl_sched_wake_error(znl_sched *sched, znl_wait wait, int err, const char *where)
{
    if (sched->depth > 0) {
        znl_sched_wake_error_later(sched, wait, err, where);
        return;
    }
    struct failure failure = {err, where, NULL};
    znl_sched_wake(sched, wait, push_failure, &failure);
}

static void wake_cancelled(znl_sched *sched, task *t, znl_wait wait)
{
    znl_token *cause = znl_token_cause(t);
    struct failure failure = {znl_token_is_cancelled(cause), t->where, znl_token_reason(cause)};
    znl_sched_wake(sched, wait, push_failure, &failure);
}

static void run_queued(znl_sched *sched, task *t)
{
    int what = t->queued;
    unqueue(t);
    if (what == ZNL_QUEUED_DROP) {
        drop(sched, t, znl_owner_text(t->owner));
        return;
    }
    t->ticket = ++sched->last_ticket;
    znl_wait wait = {t, t->ticket};
    if (what == ZNL_QUEUED_CANCEL)
        wake_cancelled(sched, t, wait);
    else if (what == ZNL_QUEUED_TRUE)
        znl_sched_wake(sched, wait, push_true, NULL);
    else
        znl_sched_wake_error(sched, wait, t->queued_err, t->where);
}

static void run_queue(znl_deferred *deferred)
{
    znl_sched *sched = (znl_sched *)(void *)((char *)deferred - offsetof(znl_sched, queue_due));
    /* Those who come while these run have the next turn. */
    for (size_t left = sched->queue_count; left > 0 && sched->queue_first != NULL; left--)
        run_queued(sched, sched->queue_first);
    if (sched->queue_first != NULL)
        znl_loop_defer(sched->vm->loop, &sched->queue_due);
}

int znl_sched_waits(const znl_sched *sched, znl_wait wait)
{
    return waiting(sched, wait) != NULL;
}

/* --- protected calls ---------------------------------------------------------------------- */

static int run_collect(lua_State *L)
{
    lua_gc(L, LUA_GCCOLLECT, 0);
    return 0;
}

void znl_sched_enter(znl_sched *sched)
{
    sched->pulse.serial += sched->depth == 0;
    sched->depth++;
}

void znl_sched_leave(znl_sched *sched, int status)
{
    if (__builtin_expect(sched->pulse.is_alarmed && sched->depth == 1, 0))
        znl_watchdog_calm(sched->vm);
    if (status == LUA_ERRMEM)
        sched->collect_due = 1;
    if (__builtin_expect(sched->collect_due && sched->depth == 1, 0)) {
        /* Finalizers run, and may fail. */
        lua_State *L = sched->vm->L;
        sched->collect_due = 0;
        lua_rawgeti(L, LUA_REGISTRYINDEX, sched->collect_ref);
        if (lua_pcall(L, 0, 0, 0) != 0) {
            log_failure(L, "a finalizer failed");
            lua_pop(L, 1);
        }
    }
    sched->depth--;
}

int znl_sched_busy(const znl_sched *sched)
{
    return sched->depth > 0;
}

int znl_sched_was_interrupted(const znl_sched *sched)
{
    return sched->done_interrupted;
}

znl_pulse *znl_sched_pulse(znl_sched *sched)
{
    return &sched->pulse;
}

void znl_sched_mark_interrupted(znl_sched *sched)
{
    if (sched->current != NULL)
        sched->current->is_interrupted = 1;
}

size_t znl_sched_task_count(const znl_sched *sched)
{
    return sched->live_count;
}

size_t znl_sched_pooled_count(const znl_sched *sched)
{
    return sched->pool_count;
}

void znl_sched_count(const znl_sched *sched, znl_sched_counters *out)
{
    out->tasks = sched->live_count;
    out->pooled = sched->pool_count;
    out->spawned = sched->spawned_count;
    out->failed = sched->failed_count;
    out->cut = sched->cut_count;
}

/* --- life --------------------------------------------------------------------------------- */

static int prepare(lua_State *L)
{
    znl_sched *sched = lua_touserdata(L, 1);
    static const lua_CFunction functions[] = {
            run_wake, run_done, make_coroutine, make_room, run_collect};
    int *const refs[] = {&sched->wake_ref, &sched->done_ref, &sched->make_ref, &sched->room_ref,
            &sched->collect_ref};
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        lua_pushcfunction(L, functions[i]);
        *refs[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_pushliteral(L, "stopped");
    sched->stopped_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushliteral(L,
            "coroutine.yield() outside of a coroutine of the script: to wait, use "
            "sleep, an event or a request");
    sched->stray_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushliteral(L, "the coroutine of this task was resumed by the script");
    sched->foreign_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

int znl_sched_new(znl_sched **out, znl_vm *vm)
{
    znl_sched *sched = znl_calloc(1, sizeof *sched);
    if (sched == NULL)
        return ZNL_E_NOMEM;
    sched->vm = vm;
    sched->wheel = znl_loop_wheel(vm->loop);
    sched->queue_due.run = run_queue;
    if (lua_cpcall(vm->L, prepare, sched) != 0) {
        lua_pop(vm->L, 1);
        znl_free(sched);
        return ZNL_E_NOMEM;
    }
    *out = sched;
    return 0;
}

void znl_sched_drop_all(znl_sched *sched)
{
    sched->is_closed = 1;
    for (uint32_t i = 0; i < sched->made_count; i++)
        if (sched->made[i]->is_live)
            drop(sched, sched->made[i], NULL);
    znl_loop_undefer(sched->vm->loop, &sched->queue_due);
}

void znl_sched_free(znl_sched *sched)
{
    if (sched == NULL)
        return;
    for (uint32_t i = 0; i < sched->made_count; i++)
        znl_free(sched->made[i]);
    znl_free(sched->made);
    znl_free(sched);
}
