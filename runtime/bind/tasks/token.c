/* token.c - znl.core.token: cancellation as Lua sees it.
 *
 * Functions to call on cancellation live in the environment table of the token's object, and so
 * does a way to each child that has some: the collector sees every reference, and a token that
 * nobody can cancel any more goes with all that hangs on it. The object is anchored only while
 * the token is in use without it: while a task runs under it, or its deadline is on the wheel.
 *
 *     environment: [1..n] functions, and for each that was taken back the number of the next such
 *                  place (0: none), the first of them in free; [-n..-1] the owners they run for;
 *                  parents = {...}, children = {[object] = true}
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/bind.h"
#include "transport/loop.h"

#include <string.h>

#define TOKEN_TYPE "znl.core.token"

typedef struct box {
    znl_vm *vm;
    znl_token *token;
    int self_ref;     /* anchors the object */
    int has_env;      /* it has an environment of its own */
    size_t functions; /* to call, of its own and below children */
    int has_fired;
    znl_token_watcher watcher;
    znl_deferred due; /* the functions are to be called */
} box;

static const char
        objects_key; /* names, in the registry, the table that leads from token to object */

/* --- anchoring ---------------------------------------------------------------------------- */

static void release_anchor(box *b)
{
    luaL_unref(b->vm->L, LUA_REGISTRYINDEX, b->self_ref);
    b->self_ref = LUA_NOREF;
}

/* Of the object at idx. */
static void anchor(lua_State *L, int idx, box *b)
{
    if (b->self_ref != LUA_NOREF)
        return;
    lua_pushvalue(L, idx);
    b->self_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* The token was cancelled, or is no longer in use. May be called while Lua runs. */
static void on_change(znl_token_watcher *watcher)
{
    box *b = (box *)(void *)((char *)watcher - offsetof(box, watcher));
    if (b->functions > 0 && !b->has_fired && znl_token_is_cancelled(b->token) != 0)
        znl_loop_defer(b->vm->loop, &b->due);
    else if (b->self_ref != LUA_NOREF && !b->due.queued && !znl_token_in_use(b->token))
        release_anchor(b);
}

/* --- functions to call -------------------------------------------------------------------- */

static void call_functions(lua_State *L, int env)
{
    int count = (int)lua_objlen(L, env);
    for (int i = 1; i <= count; i++) {
        znl_spawn how = {.kind = ZNL_TASK_BACKGROUND};
        lua_rawgeti(L, env, -i);
        if (!lua_isnil(L, -1))
            how.owner = znl_lua_checkowner(L, lua_gettop(L));
        lua_rawgeti(L, env, i);
        if (lua_isfunction(L, -1))
            znl_sched_spawn_as(L, 0, &how); /* refused where the owner has ended, rightly */
        else
            lua_pop(L, 1);
        lua_pop(L, 1);
    }
}

/* (box): calls the functions of its object and of those below that are cancelled. A list of what is
 * left to do stands in for recursion, since children may nest deeply. */
static int run_functions(lua_State *L)
{
    const box *first = lua_touserdata(L, 1);
    lua_newtable(L); /* 2: objects to see to */
    lua_rawgeti(L, LUA_REGISTRYINDEX, first->self_ref);
    lua_rawseti(L, 2, 1);
    for (int at = 1, count = 1; at <= count; at++) {
        lua_settop(L, 2);
        lua_rawgeti(L, 2, at);
        box *b = lua_touserdata(L, 3);
        if (b->has_fired || !b->has_env || znl_token_is_cancelled(b->token) == 0)
            continue;
        b->has_fired = 1;
        lua_getfenv(L, 3);
        lua_getfield(L, 4, "children");
        if (lua_istable(L, 5)) {
            lua_pushnil(L);
            while (lua_next(L, 5) != 0) {
                lua_pop(L, 1);
                lua_pushvalue(L, -1);
                lua_rawseti(L, 2, ++count);
            }
        }
        call_functions(L, 4);
    }
    return 0;
}

static void on_due(znl_deferred *deferred)
{
    box *b = (box *)(void *)((char *)deferred - offsetof(box, due));
    if (!b->has_fired && b->self_ref != LUA_NOREF)
        znl_vm_protect(b->vm, run_functions, b, "token.on_cancel");
    if (!znl_token_in_use(b->token))
        release_anchor(b);
}

/* --- objects ------------------------------------------------------------------------------ */

static box *push_box(lua_State *L)
{
    box *b = lua_newuserdata(L, sizeof *b);
    memset(b, 0, sizeof *b);
    b->vm = znl_vm_of(L);
    b->self_ref = LUA_NOREF;
    b->due.run = on_due;
    luaL_getmetatable(L, TOKEN_TYPE);
    lua_setmetatable(L, -2);
    return b;
}

/* The object at the top, whose token is set, becomes the one that is found for it. */
static void remember(lua_State *L, box *b)
{
    znl_lua_keepobject(L, &objects_key, b->token);
    znl_token_watch(b->token, &b->watcher, on_change);
}

void znl_lua_pushtoken(lua_State *L, znl_token *token)
{
    if (znl_lua_findobject(L, &objects_key, token))
        return;
    box *b = push_box(L);
    znl_token_hold(token);
    b->token = token;
    remember(L, b);
}

static box *check_token(lua_State *L, int idx)
{
    box *b = luaL_checkudata(L, idx, TOKEN_TYPE);
    if (b->token == NULL)
        luaL_argerror(L, idx, "collected token");
    return b;
}

/* Pushes the environment of the object at idx, made when it has none. */
static void push_env(lua_State *L, int idx, box *b)
{
    if (!b->has_env) {
        lua_newtable(L);
        lua_setfenv(L, idx);
        b->has_env = 1;
    }
    lua_getfenv(L, idx);
}

/* Writes the parents, at first and second, into the environment of the object at the top. */
static void set_parents(lua_State *L, box *b, int first, int second)
{
    int object = lua_gettop(L);
    push_env(L, object, b);
    lua_createtable(L, 2, 0);
    lua_pushvalue(L, first);
    lua_rawseti(L, -2, 1);
    if (second != 0) {
        lua_pushvalue(L, second);
        lua_rawseti(L, -2, 2);
    }
    lua_setfield(L, -2, "parents");
    lua_settop(L, object);
}

/* new(parent|nil, timeout_ms|nil) -> token | nil, message, code */
static int token_new(lua_State *L)
{
    const box *parent = lua_isnoneornil(L, 1) ? NULL : check_token(L, 1);
    uint64_t deadline_ms = 0;
    if (!lua_isnoneornil(L, 2))
        deadline_ms = znl_clock_mono_ms() +
                znl_lua_checku32(L, 2, "timeout_ms", 0, ZNL_TIMEOUT_MS_MAX);
    lua_settop(L, 2);
    box *b = push_box(L);
    int err = znl_token_new(
            b->vm, parent != NULL ? parent->token : NULL, deadline_ms, &b->token);
    if (err != 0)
        return znl_lua_fail(L, err, "token");
    remember(L, b);
    if (parent != NULL)
        set_parents(L, b, 1, 0);
    return 1;
}

/* join(first, second) -> token below both, or one of them when it is below the other already
 * | nil, message, code */
static int token_join(lua_State *L)
{
    const box *first = check_token(L, 1), *second = check_token(L, 2);
    lua_settop(L, 2);
    if (znl_token_is_below(first->token, second->token)) {
        lua_settop(L, 1);
        return 1;
    }
    if (znl_token_is_below(second->token, first->token))
        return 1;
    box *b = push_box(L);
    int err = znl_token_join(b->vm, first->token, second->token, &b->token);
    if (err != 0)
        return znl_lua_fail(L, err, "token");
    remember(L, b);
    set_parents(L, b, 1, 2);
    return 1;
}

/* --- the running task --------------------------------------------------------------------- */

/* is(value) -> true for a token */
static int token_is(lua_State *L)
{
    int is = 0;
    if (lua_isuserdata(L, 1) && lua_getmetatable(L, 1)) {
        luaL_getmetatable(L, TOKEN_TYPE);
        is = lua_rawequal(L, -1, -2);
    }
    lua_pushboolean(L, is);
    return 1;
}

/* current() -> token of the running task | nil */
static int token_current(lua_State *L)
{
    znl_token *token = znl_sched_token(znl_vm_of(L)->sched);
    if (token == NULL)
        return 0;
    znl_lua_pushtoken(L, token);
    return 1;
}

/* enter(token|nil, shielded|nil) -> token before|nil, shielded before: the running task goes on
 * under this token instead of its own; shielded nil: as before */
static int token_enter(lua_State *L)
{
    znl_sched *sched = znl_vm_of(L)->sched;
    box *b = lua_isnoneornil(L, 1) ? NULL : check_token(L, 1);
    int shielded = lua_isnoneornil(L, 2) ? znl_sched_is_shielded(sched) : lua_toboolean(L, 2);
    znl_token *before = znl_sched_token(sched);
    if (before != NULL)
        znl_lua_pushtoken(L, before);
    else
        lua_pushnil(L);
    lua_pushboolean(L, znl_sched_is_shielded(sched));
    if (b != NULL && b->functions > 0)
        anchor(L, 1, b); /* in use from here on */
    if (znl_sched_set_token(sched, b != NULL ? b->token : NULL, shielded) != 0)
        return luaL_error(L, "a token needs a coroutine made by znl");
    return 2;
}

/* --- methods ------------------------------------------------------------------------------ */

/* token:cancel(reason|nil) -> true, or false when it was cancelled before */
static int token_cancel(lua_State *L)
{
    box *b = check_token(L, 1);
    size_t size = 0;
    const char *reason = luaL_optlstring(L, 2, NULL, &size);
    if (znl_token_is_cancelled(b->token) != 0) {
        lua_pushboolean(L, 0);
        return 1;
    }
    if (b->functions > 0)
        anchor(L, 1, b); /* until they were called */
    znl_token_cancel_for(b->token, ZNL_E_CANCELLED, reason, size);
    lua_pushboolean(L, 1);
    return 1;
}

/* token:cancelled() -> boolean */
static int token_cancelled(lua_State *L)
{
    lua_pushboolean(L, znl_token_is_cancelled(check_token(L, 1)->token) != 0);
    return 1;
}

/* token:reason() -> nil | text, code */
static int token_reason(lua_State *L)
{
    box *b = check_token(L, 1);
    int err = znl_token_is_cancelled(b->token);
    if (err == 0)
        return 0;
    lua_pushstring(L, znl_token_reason(b->token));
    lua_pushstring(L, znl_err_code(err));
    return 2;
}

/* token:remaining_ms() -> milliseconds until its deadline, at least 0 | nil */
static int token_remaining_ms(lua_State *L)
{
    uint64_t deadline_ms = znl_token_deadline_ms(check_token(L, 1)->token);
    uint64_t now_ms = znl_clock_mono_ms();
    if (deadline_ms == 0)
        return 0;
    lua_pushnumber(L, deadline_ms > now_ms ? (lua_Number)(deadline_ms - now_ms) : 0);
    return 1;
}

/* token:deadline_ms() -> monotonic milliseconds | nil */
static int token_deadline_ms(lua_State *L)
{
    uint64_t deadline_ms = znl_token_deadline_ms(check_token(L, 1)->token);
    if (deadline_ms == 0)
        return 0;
    lua_pushnumber(L, (lua_Number)deadline_ms);
    return 1;
}

/* Counts `change` functions more for the object at idx and all above it, and enters or removes
 * it with its parents. */
static void count_functions(lua_State *L, int idx, box *b, size_t change, int is_more)
{
    size_t before = b->functions;
    b->functions = is_more ? before + change : before - change;
    if ((before > 0) == (b->functions > 0))
        return;
    if (b->functions > 0 && znl_token_in_use(b->token))
        anchor(L, idx, b);
    luaL_checkstack(L, 8, "token");
    lua_getfenv(L, idx);
    lua_getfield(L, -1, "parents");
    int parents = lua_gettop(L);
    for (int i = 1; i <= 2 && lua_istable(L, parents); i++) {
        lua_rawgeti(L, parents, i);
        box *parent = lua_touserdata(L, -1);
        if (parent == NULL)
            break;
        int object = lua_gettop(L);
        push_env(L, object, parent);
        lua_getfield(L, -1, "children");
        if (lua_isnil(L, -1)) {
            lua_newtable(L);
            lua_pushvalue(L, -1);
            lua_setfield(L, -4, "children");
        }
        lua_pushvalue(L, idx);
        if (b->functions > 0)
            lua_pushboolean(L, 1);
        else
            lua_pushnil(L);
        lua_rawset(L, -3);
        count_functions(L, object, parent, 1, b->functions > 0);
        lua_settop(L, parents);
    }
    lua_settop(L, parents - 2);
}

/* Frees a place in the environment at idx, for the next function. */
static void free_place(lua_State *L, int idx, int number)
{
    lua_pushnil(L);
    lua_rawseti(L, idx, -number);
    lua_getfield(L, idx, "free");
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushinteger(L, 0);
    }
    lua_rawseti(L, idx, number);
    lua_pushinteger(L, number);
    lua_setfield(L, idx, "free");
}

/* A place for a function in the environment at idx: a token that lives long is watched often. */
static int take_place(lua_State *L, int idx)
{
    lua_getfield(L, idx, "free");
    int number = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    if (number == 0)
        return (int)lua_objlen(L, idx) + 1;
    lua_rawgeti(L, idx, number);
    lua_setfield(L, idx, "free");
    return number;
}

/* upvalues: token, number of the function, 0 once it was taken back */
static int off(lua_State *L)
{
    lua_settop(L, 0);
    lua_pushvalue(L, lua_upvalueindex(1));
    box *b = lua_touserdata(L, 1);
    int number = (int)lua_tointeger(L, lua_upvalueindex(2));
    lua_pushinteger(L, 0);
    lua_replace(L, lua_upvalueindex(2)); /* the place may be another function's soon */
    if (number == 0 || b->token == NULL) /* NULL: the state closes */
        return 0;
    lua_getfenv(L, 1);
    lua_rawgeti(L, 2, number);
    if (!lua_isfunction(L, 3)) /* token:close() */
        return 0;
    free_place(L, 2, number);
    lua_settop(L, 1);
    count_functions(L, 1, b, 1, 0);
    if (b->functions == 0) {
        znl_token_keep(b->token, 0);
        on_change(&b->watcher);
    }
    return 0;
}

static int off_nothing(lua_State *L)
{
    (void)L;
    return 0;
}

/* token:on_cancel(fn) -> off: fn() runs in a background task of the running owner when the token is
 * cancelled, or soon when it is; off() takes that back */
static int token_on_cancel(lua_State *L)
{
    box *b = check_token(L, 1);
    znl_owner *owner = znl_sched_owner(znl_vm_of(L)->sched);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    if (znl_token_is_cancelled(b->token) != 0) {
        const znl_spawn how = {.kind = ZNL_TASK_BACKGROUND, .owner = owner};
        int err = znl_sched_spawn_as(L, 0, &how);
        if (err != 0)
            return znl_lua_fail(L, err, "token");
        lua_pushcfunction(L, off_nothing);
        return 1;
    }
    push_env(L, 1, b);
    int number = take_place(L, 3);
    lua_pushvalue(L, 1);
    lua_pushinteger(L, number);
    lua_pushcclosure(L, off, 2); /* 4 */
    if (owner != NULL) {
        znl_lua_pushowner(L, owner);
        lua_rawseti(L, 3, -number);
    }
    lua_pushvalue(L, 2);
    lua_rawseti(L, 3, number);
    count_functions(L, 1, b, 1, 1);
    znl_token_keep(b->token, 1);
    if (znl_token_in_use(b->token))
        anchor(L, 1, b);
    lua_settop(L, 4);
    return 1;
}

/* token:close(): forgets its functions, for who made it and needs it no more. What is below it stays
 * as it is. */
static int token_close(lua_State *L)
{
    box *b = check_token(L, 1);
    if (!b->has_env)
        return 0;
    lua_settop(L, 1);
    lua_getfenv(L, 1);
    size_t own = 0;
    for (int i = (int)lua_objlen(L, 2); i > 0; i--) {
        lua_rawgeti(L, 2, i);
        own += lua_isfunction(L, -1);
        lua_pushboolean(L, 0);
        lua_rawseti(L, 2, i);
        lua_pop(L, 1);
    }
    lua_pushnil(L);
    lua_setfield(L, 2, "free"); /* functions that take one back may be around for any place */
    if (own > 0)
        count_functions(L, 1, b, own, 0);
    znl_token_keep(b->token, 0);
    on_change(&b->watcher);
    return 0;
}

static int token_gc(lua_State *L)
{
    box *b = lua_touserdata(L, 1);
    if (b->token == NULL)
        return 0;
    znl_loop_undefer(b->vm->loop, &b->due);
    znl_token_unwatch(&b->watcher);
    if (b->functions > 0)
        znl_token_keep(b->token, 0);
    znl_token_release(b->token);
    b->token = NULL;
    luaL_unref(L, LUA_REGISTRYINDEX, b->self_ref);
    b->self_ref = LUA_NOREF;
    return 0;
}

/* --- module ------------------------------------------------------------------------------- */

int luaopen_znl_core_token(lua_State *L)
{
    static const luaL_Reg methods[] = {
            {"cancel", token_cancel},
            {"cancelled", token_cancelled},
            {"deadline_ms", token_deadline_ms},
            {"on_cancel", token_on_cancel},
            {"reason", token_reason},
            {"remaining_ms", token_remaining_ms},
            {"close", token_close},
            {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
            {"new", token_new},
            {"join", token_join},
            {"current", token_current},
            {"is", token_is},
            {"enter", token_enter},
            {NULL, NULL},
    };
    znl_lua_newtype(L, TOKEN_TYPE, methods, token_gc);
    znl_lua_newobjects(L, &objects_key);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
