/* stream.c - streams that a script reads.
 *
 *   flowing -> over: complete, refused by the peer, broken, closed
 *
 * What arrives while nobody reads waits here, in one buffer, as JSON text; how much may is bounded by the
 * window (node/micro.h). A stream keeps its connection; one that is forgotten is closed by the collector.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/micro/micro.h"

#include "base/alloc.h"
#include "base/err.h"

typedef struct stream {
    const void *metatable; /* its own */
    znl_micro_link *link;  /* its environment keeps it */
    uint64_t id;
    znl_anchor anchor; /* while a task waits in read() */
    znl_wait reader;
    znl_buffer chunks; /* u32 size, then the text; size UINT32_MAX: absent */
    size_t at;         /* where the first begins */
    uint8_t is_over;
    int err; /* over: 0 complete; ZNL_E_FAILED: the peer refused, see below */
    uint8_t is_number;
    double number;
    uint8_t *words; /* status, then text */
    size_t status_size, text_size;
} stream;

#define ABSENT UINT32_MAX

/* --- its end ----------------------------------------------------------------------------------- */

/* Ends it here; the link is told by who calls. */
static void finish(stream *s, int err)
{
    if (s->is_over)
        return;
    s->is_over = 1;
    s->err = err;
    s->link->box->streams--;
}

static void reader_done(stream *s)
{
    s->reader = (znl_wait){NULL, 0};
    znl_anchor_let_go(&s->anchor);
}

static void reader_lost(void *user, uint64_t id)
{
    (void)id;
    reader_done(user);
}

/* Gives it up: the peer is told, what waits here is dropped. */
static void give_up(stream *s)
{
    if (s->is_over)
        return;
    if (s->link->micro != NULL)
        znl_micro_abort(s->link->micro, s->id);
    finish(s, ZNL_E_CLOSED);
}

static int stream_gc(lua_State *L)
{
    stream *s = lua_touserdata(L, 1);
    if (s->link == NULL)
        return 0;
    give_up(s);
    s->link = NULL;
    znl_anchor_fini(&s->anchor);
    znl_buffer_fini(&s->chunks);
    znl_free(s->words);
    s->words = NULL;
    return 0;
}

/* --- reading ----------------------------------------------------------------------------------- */

static stream *check_stream(lua_State *L)
{
    stream *s = lua_touserdata(L, 1);
    if (s == NULL || lua_type(L, 1) != LUA_TUSERDATA || lua_objlen(L, 1) != sizeof *s ||
            !lua_getmetatable(L, 1))
        luaL_argerror(L, 1, "stream expected");
    const void *metatable = lua_topointer(L, -1);
    lua_pop(L, 1);
    if (s->metatable != metatable || s->link == NULL)
        luaL_argerror(L, 1, "stream expected");
    return s;
}

/* Pushes true and a chunk. */
static int push_chunk(lua_State *L, znl_frame chunk)
{
    int err = 0;
    lua_pushboolean(L, 1);
    if (chunk.data == NULL)
        lua_pushnil(L);
    else
        err = znl_lua_pushjson(L, chunk);
    return err == 0 ? 2 : znl_lua_fail(L, err, "read: the chunk");
}

/* Pushes what read() returns at the end: false; or nil, message, code, is_remote. */
static int push_end(lua_State *L, const stream *s)
{
    if (s->err == 0) {
        lua_pushboolean(L, 0);
        return 1;
    }
    if (s->err != ZNL_E_FAILED)
        return znl_lua_fail(L, s->err, "read");
    const znl_micro_refusal refusal = {.is_remote = 1,
            .is_number = s->is_number,
            .number = s->number,
            .status = znl_frame_of(s->words, s->status_size),
            .text = znl_frame_of(s->words + s->status_size, s->text_size)};
    return znl_micro_push_refusal(L, &refusal);
}

/* Takes the first chunk that waits; its bytes are good until the next arrives. */
static znl_frame take(stream *s)
{
    uint32_t size;
    memcpy(&size, s->chunks.data + s->at, sizeof size);
    znl_frame chunk = {NULL, 0};
    s->at += sizeof size;
    if (size != ABSENT) {
        chunk = znl_frame_of(s->chunks.data + s->at, size);
        s->at += size;
    }
    return chunk;
}

/* read(self, timeout_ms?) -> true, chunk | false: complete | nil, message, code, is_remote */
static int stream_read(lua_State *L)
{
    stream *s = check_stream(L);
    lua_settop(L, 2);
    uint32_t timeout_ms = 0;
    if (!lua_isnil(L, 2))
        timeout_ms = znl_lua_checku32(L, 2, "timeout_ms", 1, ZNL_TIMEOUT_MS_MAX);
    if (s->at < s->chunks.size) {
        znl_frame chunk = take(s);
        int results = push_chunk(L, chunk);
        if (s->at == s->chunks.size) {
            s->at = s->chunks.size = 0;
            znl_buffer_trim(&s->chunks, ZNL_MICRO_SCRATCH_BYTES);
        }
        if (!s->is_over)
            znl_micro_took(s->link->micro, s->id, 1);
        return results;
    }
    if (s->is_over)
        return push_end(L, s);
    if (s->reader.task != NULL)
        return luaL_error(L, "read: another task reads this stream");
    znl_wait wait = timeout_ms > 0 ? znl_sched_park_for(L, timeout_ms, "read")
                                   : znl_sched_park_as(L, "read");
    if (wait.ticket == 0)
        return lua_yield(L, 0); /* cancelled: the loop says so */
    znl_anchor_hold(L, &s->anchor, 1);
    s->reader = wait;
    znl_sched_on_lost(s->anchor.vm->sched, reader_lost, s, 0);
    return lua_yield(L, 0);
}

/* close(self): what is not read yet is dropped, the peer is told. */
static int stream_close(lua_State *L)
{
    stream *s = check_stream(L);
    give_up(s);
    znl_buffer_fini(&s->chunks);
    s->at = 0;
    znl_wait reader = s->reader;
    if (reader.task != NULL) {
        reader_done(s);
        znl_sched_wake_error_later(s->anchor.vm->sched, reader, ZNL_E_CLOSED, "read");
    }
    return 0;
}

/* is_over(self) -> true when read() has nothing to wait for */
static int stream_is_over(lua_State *L)
{
    lua_pushboolean(L, check_stream(L)->is_over);
    return 1;
}

/* --- events ------------------------------------------------------------------------------------ */

struct arrival {
    stream *stream;
    znl_frame chunk;
};

static int push_arrival(lua_State *L, void *user)
{
    const struct arrival *arrival = user;
    return push_chunk(L, arrival->chunk);
}

static int keep(stream *s, znl_frame payload)
{
    uint32_t size = payload.data != NULL ? (uint32_t)payload.size : ABSENT;
    if (payload.size >= ABSENT)
        return ZNL_E_TOO_BIG;
    if (s->at > 0 && s->at >= s->chunks.size / 2) { /* what was read makes room */
        memmove(s->chunks.data, s->chunks.data + s->at, s->chunks.size - s->at);
        s->chunks.size -= s->at;
        s->at = 0;
    }
    int err = znl_buffer_extend(&s->chunks, sizeof size + payload.size);
    if (err != 0)
        return err;
    znl_buffer_append(&s->chunks, &size, sizeof size);
    if (payload.size > 0)
        znl_buffer_append(&s->chunks, payload.data, payload.size);
    return 0;
}

void znl_micro_on_chunk(void *user, znl_waiter waiter, znl_frame payload)
{
    znl_micro_link *link = user;
    znl_sched *sched = link->box->vm->sched;
    stream *s = waiter.owner;
    znl_wait reader = s->reader;
    if (reader.task != NULL && znl_sched_waits(sched, reader)) {
        struct arrival arrival = {s, payload};
        znl_micro_took(link->micro, s->id, 1);
        s->reader = (znl_wait){NULL, 0};
        znl_sched_wake(sched, reader, push_arrival, &arrival);
        /* Not before: whoever reads on holds it again, which is cheap while it is held. */
        znl_anchor_let_go(&s->anchor);
        return;
    }
    int err = keep(s, payload);
    if (err != 0) {
        znl_micro_abort(link->micro, s->id);
        finish(s, err);
    }
}

static int push_stream_end(lua_State *L, void *user)
{
    return push_end(L, user);
}

/* Remembers what the peer said. */
static void remember(stream *s, const znl_micro_refusal *refusal)
{
    s->is_number = refusal->is_number != 0;
    s->number = refusal->number;
    s->words = znl_malloc(refusal->status.size + refusal->text.size + 1);
    if (s->words == NULL)
        return;
    s->status_size = refusal->status.size;
    s->text_size = refusal->text.size;
    if (s->status_size > 0)
        memcpy(s->words, refusal->status.data, s->status_size);
    if (s->text_size > 0)
        memcpy(s->words + s->status_size, refusal->text.data, s->text_size);
}

void znl_micro_on_stream_end(void *user, znl_waiter waiter, const znl_micro_refusal *refusal)
{
    znl_micro_link *link = user;
    znl_sched *sched = link->box->vm->sched;
    stream *s = waiter.owner;
    int is_remote = refusal != NULL && refusal->is_remote;
    if (is_remote)
        remember(s, refusal);
    finish(s, refusal == NULL ? 0 : is_remote ? ZNL_E_FAILED : refusal->err);
    znl_wait reader = s->reader;
    if (reader.task == NULL)
        return;
    if (!is_remote && refusal != NULL) {
        reader_done(s);
        znl_sched_wake_error_later(sched, reader, refusal->err, "read");
        return;
    }
    s->reader = (znl_wait){NULL, 0};
    znl_sched_wake(sched, reader, push_stream_end, s);
    znl_anchor_let_go(&s->anchor); /* not before: what is pushed is in it */
}

/* --- asking ------------------------------------------------------------------------------------ */

/* stream(self, url, data, timeout_ms, window) -> stream | nil, message, code */
int znl_micro_conn_stream(lua_State *L)
{
    lua_settop(L, 5);
    uint32_t timeout_ms = 0, window = 0;
    if (!lua_isnil(L, 4))
        timeout_ms = znl_lua_checku32(L, 4, "timeout_ms", 1, ZNL_TIMEOUT_MS_MAX);
    if (!lua_isnil(L, 5))
        window = znl_lua_checku32(L, 5, "window", 1, ZNL_MICRO_WINDOW_MAX);
    /* First what may run a finalizer, which may use the scratch that the data is written to. */
    stream *s = lua_newuserdata(L, sizeof *s);
    memset(s, 0, sizeof *s);
    luaL_getmetatable(L, ZNL_MICRO_STREAM_TYPE);
    s->metatable = lua_topointer(L, -1);
    lua_setmetatable(L, -2);
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
    lua_setfenv(L, -2);
    znl_micro_question q;
    int results = znl_micro_read_question(L, "stream", &q);
    if (results != 0)
        return results;
    znl_micro_box *box = q.link->box;
    uint32_t limit_ms = timeout_ms > 0 ? timeout_ms : UINT32_MAX;
    int is_limited;
    int err = znl_lua_limit_timeout(L, &limit_ms, &is_limited);
    if (err == 0 && box->max_streams > 0 && box->streams >= box->max_streams)
        err = ZNL_E_LIMIT;
    if (err != 0)
        return znl_lua_fail(L, err, "stream");
    if (is_limited || timeout_ms > 0)
        timeout_ms = limit_ms;
    znl_anchor_init(&s->anchor, box->vm);
    err = znl_micro_ask_stream(q.link->micro, q.url, q.data,
            window > 0 ? window : box->stream_window, timeout_ms, (znl_waiter){s, 0}, &s->id);
    if (err != 0)
        return znl_lua_fail(L, err, "stream");
    s->link = q.link;
    box->streams++;
    return 1;
}

static const luaL_Reg methods[] = {
        {"read", stream_read},
        {"close", stream_close},
        {"is_over", stream_is_over},
        {NULL, NULL},
};

void znl_micro_open_stream_type(lua_State *L)
{
    znl_lua_newtype(L, ZNL_MICRO_STREAM_TYPE, methods, stream_gc);
}
