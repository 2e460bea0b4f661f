/* worker.c - znl.core.workers on the main thread: worker threads, calls to them, their answers.
 *
 * A call takes a slot until its answer comes, whether anybody still waits for it or not. At most
 * `queue` calls are on their way or at work at once, so that there is always room for the answers;
 * the others wait in a list.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/tasks/worker.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "transport/loop.h"

#include <string.h>

#define WORKER_TYPE "znl.core.worker"
#define SLOT_BITS 20u /* of a ticket; the rest counts the uses of the slot */
#define SLOTS_MAX (1u << SLOT_BITS)
#define USES_MAX (1u << 31)   /* a ticket stays a whole number in a double */
#define COLLECT_WAIT_MS 2000u /* for the thread of a worker nobody closed */

enum slot_state { FREE, CALLED, WAITED, ANSWERED, FORGOTTEN, FAILED };

struct slot {
    enum slot_state state;
    uint32_t uses, next_free;
    znl_wait wait;             /* while WAITED */
    znl_worker_message *reply; /* while ANSWERED */
};

struct owner {
    znl_vm *vm;
    znl_worker *worker; /* NULL: closed */
    struct slot *slots;
    uint32_t slot_count, first_free; /* index + 1; 0: none */
    uint32_t queue, in_flight, pending;
    znl_worker_message *backlog_first, *backlog_last;
    int note_ref, end_ref; /* functions of start() */
    int self_ref;          /* anchors the box until the thread has ended */
    int end_err;           /* what calls come to once has_ended */
    int has_ended;
};

struct box {
    struct owner *owner; /* NULL: collected, or never started */
};

/* --- messages --------------------------------------------------------------------------------- */

int znl_worker_message_new(znl_worker_message **out, znl_worker_message_kind kind,
        uint64_t ticket, lua_State *L, int first, int count, const char **refused)
{
    size_t size = 0;
    int err = znl_pack_measure(L, first, count, &size, refused);
    if (err != 0)
        return err;
    znl_worker_message *message = znl_malloc(sizeof *message + size);
    if (message == NULL)
        return ZNL_E_NOMEM;
    message->next = NULL;
    message->ticket = ticket;
    message->kind = kind;
    message->size = (uint32_t)size;
    znl_pack_write(L, first, count, message->bytes);
    *out = message;
    return 0;
}

void znl_worker_push_refusal(lua_State *L, const char *what, const char *refused)
{
    if (refused != NULL)
        lua_pushfstring(L,
                "%s: a %s cannot go from one thread to another; strings, numbers, booleans, nil "
                "and tables of these can",
                what, refused);
    else
        lua_pushfstring(L, "%s: tables nest deeper than %d levels, or contain themselves", what,
                ZNL_PACK_DEPTH_MAX);
}

/* --- slots ------------------------------------------------------------------------------------ */

static int grow_slots(struct owner *o)
{
    uint32_t count = o->slot_count > 0 ? o->slot_count * 2 : 64;
    if (count > SLOTS_MAX)
        return ZNL_E_LIMIT;
    struct slot *slots = znl_realloc(o->slots, count * sizeof *slots);
    if (slots == NULL)
        return ZNL_E_NOMEM;
    memset(slots + o->slot_count, 0, (count - o->slot_count) * sizeof *slots);
    for (uint32_t i = count; i > o->slot_count; i--) {
        slots[i - 1].next_free = o->first_free;
        o->first_free = i;
    }
    o->slots = slots;
    o->slot_count = count;
    return 0;
}

static uint64_t ticket_of(const struct owner *o, const struct slot *slot)
{
    return (uint64_t)slot->uses << SLOT_BITS | (uint64_t)(slot - o->slots);
}

static struct slot *slot_find(const struct owner *o, uint64_t ticket)
{
    uint64_t index = ticket & (SLOTS_MAX - 1);
    if (index >= o->slot_count)
        return NULL;
    struct slot *slot = &o->slots[index];
    return slot->state != FREE && slot->uses == ticket >> SLOT_BITS ? slot : NULL;
}

static void slot_free(struct owner *o, struct slot *slot)
{
    znl_free(slot->reply);
    slot->reply = NULL;
    slot->state = FREE;
    slot->uses = (slot->uses + 1) % USES_MAX;
    slot->next_free = o->first_free;
    o->first_free = (uint32_t)(slot - o->slots) + 1;
}

/* The loop runs on while an answer is due. */
static void count_pending(struct owner *o, int change)
{
    uint32_t before = o->pending;
    o->pending = (uint32_t)((int64_t)before + change);
    znl_loop_outside(o->vm->loop, change);
    if (o->worker != NULL && (before == 0) != (o->pending == 0))
        znl_worker_keep_loop(o->worker, o->pending > 0);
}

/* --- sending ---------------------------------------------------------------------------------- */

static void flush_backlog(struct owner *o)
{
    while (o->backlog_first != NULL && o->in_flight < o->queue) {
        znl_worker_message *message = o->backlog_first;
        znl_worker_message *next = message->next; /* not ours any more once it is sent */
        if (znl_worker_send(o->worker, message) != 0)
            return;
        o->in_flight++;
        o->backlog_first = next;
        if (next == NULL)
            o->backlog_last = NULL;
    }
}

/* Takes `message`. */
static void enqueue(struct owner *o, znl_worker_message *message)
{
    if (o->backlog_last != NULL)
        o->backlog_last->next = message;
    else
        o->backlog_first = message;
    o->backlog_last = message;
    flush_backlog(o);
}

/* Takes a call back that was not sent yet. */
static int unsend(struct owner *o, uint64_t ticket)
{
    znl_worker_message *before = NULL;
    znl_worker_message *at = o->backlog_first;
    while (at != NULL && at->ticket != ticket) {
        before = at;
        at = at->next;
    }
    if (at == NULL)
        return 0;
    if (before != NULL)
        before->next = at->next;
    else
        o->backlog_first = at->next;
    if (o->backlog_last == at)
        o->backlog_last = before;
    znl_free(at);
    count_pending(o, -1);
    return 1;
}

/* --- answers ---------------------------------------------------------------------------------- */

/* Pushes what the waiting task sees. */
static int push_reply(lua_State *L, void *user)
{
    const znl_worker_message *reply = user;
    switch (reply->kind) {
    case ZNL_WORKER_OK:
        lua_pushboolean(L, 1);
        return 1 + znl_pack_push(L, reply->bytes, reply->size);
    case ZNL_WORKER_ERROR:
        lua_pushboolean(L, 0);
        return 1 + znl_pack_push(L, reply->bytes, reply->size);
    case ZNL_WORKER_INTERRUPTED: {
        lua_pushboolean(L, 0);
        int count = znl_pack_push(L, reply->bytes, reply->size);
        lua_pushstring(L, znl_err_code(ZNL_E_HANDLER_TIMEOUT));
        return 2 + count;
    }
    case ZNL_WORKER_STOPPED:
        return znl_lua_fail(L, ZNL_E_STOPPED, "workers");
    default:
        return znl_lua_fail(L, ZNL_E_NOMEM, "workers");
    }
}

struct note {
    struct owner *owner;
    const znl_worker_message *message;
};

static int run_note(lua_State *L)
{
    const struct note *note = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, note->owner->note_ref);
    int count = znl_pack_push(L, note->message->bytes, note->message->size);
    znl_sched_spawn(L, count, NULL, NULL, NULL);
    return 0;
}

static void on_deliver(void *user, void *item)
{
    struct owner *o = user;
    znl_worker_message *message = item;
    if (message->kind == ZNL_WORKER_NOTE) {
        struct note note = {o, message};
        znl_vm_protect(o->vm, run_note, &note, "workers");
        znl_free(message);
        return;
    }
    struct slot *slot = slot_find(o, message->ticket);
    o->in_flight--;
    count_pending(o, -1);
    if (slot == NULL || slot->state == FORGOTTEN) {
        if (slot != NULL)
            slot_free(o, slot);
    } else if (slot->state == WAITED) {
        znl_wait wait = slot->wait;
        znl_sched *sched = o->vm->sched;
        slot_free(o, slot);
        flush_backlog(o);
        znl_sched_wake(sched, wait, push_reply, message); /* may close and collect the owner */
        znl_free(message);
        return;
    } else {
        slot->state = ANSWERED;
        slot->reply = message;
        message = NULL;
    }
    znl_free(message);
    flush_backlog(o);
}

struct ending {
    struct owner *owner;
    const znl_worker_end *end;
};

static int run_end(lua_State *L)
{
    const struct ending *ending = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, ending->owner->end_ref);
    if (ending->end->err == 0)
        lua_pushnil(L);
    else
        lua_pushstring(L, znl_err_code(ending->end->err));
    lua_pushstring(L, ending->end->text);
    lua_pushnumber(L, ending->end->left_open);
    znl_sched_spawn(L, 3, NULL, NULL, NULL);
    return 0;
}

/* No answer will come any more. */
static void fail_calls(struct owner *o, int err)
{
    o->has_ended = 1;
    o->end_err = err;
    while (o->backlog_first != NULL) {
        znl_worker_message *next = o->backlog_first->next;
        znl_free(o->backlog_first);
        o->backlog_first = next;
    }
    o->backlog_last = NULL;
    count_pending(o, -(int)o->pending);
    o->in_flight = 0;
    for (uint32_t i = 0; i < o->slot_count; i++) {
        struct slot *slot = &o->slots[i];
        if (slot->state == WAITED) {
            /* Queued: a task that runs on from here may call again. */
            znl_sched_wake_error_later(o->vm->sched, slot->wait, err, "workers");
            slot_free(o, slot);
        } else if (slot->state == FORGOTTEN) {
            slot_free(o, slot);
        } else if (slot->state == CALLED) {
            slot->state = FAILED;
        }
    }
}

static void on_ended(void *user, const znl_worker_end *end)
{
    struct owner *o = user;
    struct ending ending = {o, end};
    znl_vm *vm = o->vm;
    int self_ref = o->self_ref; /* ours from here on: Lua may close the worker now */
    o->self_ref = LUA_NOREF;
    fail_calls(o, end->err != 0 ? ZNL_E_WORKER_DIED : ZNL_E_STOPPED);
    znl_vm_protect(vm, run_end, &ending, "workers");
    luaL_unref(vm->L, LUA_REGISTRYINDEX, self_ref);
}

static void on_discard(void *item)
{
    znl_free(item);
}

static const znl_worker_hooks hooks = {znl_worker_thread_open, znl_worker_thread_receive,
        znl_worker_thread_close, znl_worker_thread_end, on_deliver, on_ended, on_discard};

/* --- life ------------------------------------------------------------------------------------- */

static struct owner *check_owner(lua_State *L)
{
    struct box *b = luaL_checkudata(L, 1, WORKER_TYPE);
    if (b->owner == NULL)
        luaL_argerror(L, 1, "closed worker");
    return b->owner;
}

static int worker_gc(lua_State *L)
{
    struct box *b = lua_touserdata(L, 1);
    struct owner *o = b->owner;
    if (o == NULL)
        return 0;
    b->owner = NULL;
    znl_worker *worker = o->worker;
    o->worker = NULL;
    /* One that does not stop is waited for; with several the process would never end. */
    uint32_t wait_ms = znl_worker_stuck_count() == 0 ? COLLECT_WAIT_MS : 0;
    if (znl_worker_close(worker, wait_ms) != 0)
        znl_log_write(
                ZNL_LOG_WARN, "workers", "a thread did not stop and is given up", NULL, 0);
    fail_calls(o, ZNL_E_STOPPED);
    for (uint32_t i = 0; i < o->slot_count; i++)
        znl_free(o->slots[i].reply);
    znl_free(o->slots);
    luaL_unref(L, LUA_REGISTRYINDEX, o->note_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, o->end_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, o->self_ref);
    znl_free(o);
    return 0;
}

static int ref_argument(lua_State *L, int idx)
{
    lua_pushvalue(L, idx);
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

/* start(name, queue, on_note, on_end) -> worker | nil, message, code. Starts a thread. on_note(...)
 * runs in a task for each note() of the worker; on_end(code|nil, text, left_open) once, when the
 * thread has ended: code is nil when it was stopped. */
static int workers_start(lua_State *L)
{
    znl_lua_check_main(L, "workers.start");
    const char *name = luaL_checkstring(L, 1);
    uint32_t queue = znl_lua_checku32(L, 2, "queue", 1, ZNL_WORKER_QUEUE_MAX);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    luaL_checktype(L, 4, LUA_TFUNCTION);
    struct box *b = lua_newuserdata(L, sizeof *b);
    b->owner = NULL;
    luaL_getmetatable(L, WORKER_TYPE);
    lua_setmetatable(L, -2);
    struct owner *o = znl_calloc(1, sizeof *o);
    if (o == NULL)
        return znl_lua_fail(L, ZNL_E_NOMEM, "workers.start");
    b->owner = o;
    o->vm = znl_vm_of(L);
    o->queue = queue;
    o->note_ref = o->end_ref = o->self_ref = LUA_NOREF;
    o->note_ref = ref_argument(L, 3);
    o->end_ref = ref_argument(L, 4);
    o->self_ref = ref_argument(L, lua_gettop(L));
    /* Twice: for notes, which take at most half (znl_worker_offer), and cancels beside the calls. */
    int err = znl_worker_start(&o->worker, o->vm->loop, name, 2 * queue, &hooks, o);
    if (err != 0) {
        luaL_unref(L, LUA_REGISTRYINDEX, o->self_ref);
        o->self_ref = LUA_NOREF;
        return znl_lua_fail(L, err, "workers.start");
    }
    return 1;
}

/* worker:stop(): ends the thread after what it does at the moment; on_end follows */
static int worker_stop(lua_State *L)
{
    struct owner *o = check_owner(L);
    if (o->worker == NULL || o->has_ended)
        return 0;
    znl_worker_stop(o->worker);
    znl_worker_keep_loop(o->worker, 1);
    return 0;
}

/* worker:close(wait_ms) -> true | nil, message, "TIMEOUT". Stops the thread, and gives it up when it
 * has not ended by then: it blocks for so long. on_end is not called any more. */
static int worker_close(lua_State *L)
{
    struct owner *o = check_owner(L);
    uint32_t wait_ms = znl_lua_checku32(L, 2, "wait_ms", 0, ZNL_TIMEOUT_MS_MAX);
    znl_worker *worker = o->worker;
    o->worker = NULL;
    int err = znl_worker_close(worker, wait_ms);
    if (!o->has_ended)
        fail_calls(o, ZNL_E_STOPPED);
    luaL_unref(L, LUA_REGISTRYINDEX, o->self_ref);
    o->self_ref = LUA_NOREF;
    if (err != 0)
        return znl_lua_fail(L, err, "workers.close");
    lua_pushboolean(L, 1);
    return 1;
}

/* --- calls ------------------------------------------------------------------------------------ */

static uint64_t check_ticket(lua_State *L)
{
    lua_Number ticket = luaL_checknumber(L, 2);
    luaL_argcheck(L, ticket >= 0 && ticket < 9007199254740992.0, 2, "not a ticket");
    return (uint64_t)ticket;
}

/* worker:send(...) -> ticket | nil, message, code: begins a call. Give the ticket to wait() or
 * forget(). Raises for values that cannot go to another thread. */
static int worker_send(lua_State *L)
{
    struct owner *o = check_owner(L);
    const char *refused = NULL;
    znl_worker_message *message = NULL;
    int count = lua_gettop(L) - 1;
    if (count >= ZNL_TASK_VALUES_MAX)
        return luaL_error(L, "a call carries at most %d values", ZNL_TASK_VALUES_MAX - 1);
    if (o->has_ended)
        return znl_lua_fail(L, o->end_err, "workers");
    int err = o->first_free != 0 ? 0 : grow_slots(o);
    if (err != 0)
        return znl_lua_fail(L, err, "workers");
    struct slot *slot = &o->slots[o->first_free - 1];
    err = znl_worker_message_new(
            &message, ZNL_WORKER_CALL, ticket_of(o, slot), L, 2, count, &refused);
    if (err == ZNL_E_INVALID) {
        znl_worker_push_refusal(L, "workers.send", refused);
        return lua_error(L);
    }
    if (err != 0)
        return znl_lua_fail(L, err, "workers");
    o->first_free = slot->next_free;
    slot->state = CALLED;
    count_pending(o, 1);
    enqueue(o, message);
    lua_pushnumber(L, (lua_Number)ticket_of(o, slot));
    return 1;
}

/* worker:wait(ticket) -> true, results... | false, error text, "HANDLER_TIMEOUT"|nil | nil, message,
 * code. Yields. */
static int worker_wait(lua_State *L)
{
    struct owner *o = check_owner(L);
    struct slot *slot = slot_find(o, check_ticket(L));
    if (slot == NULL || slot->state == WAITED || slot->state == FORGOTTEN)
        return luaL_error(L, "nothing to wait for with this ticket");
    if (slot->state == FAILED) {
        slot_free(o, slot);
        return znl_lua_fail(L, o->end_err, "workers");
    }
    if (slot->state == ANSWERED) {
        int count = push_reply(L, slot->reply); /* when this raises the slot keeps it */
        slot_free(o, slot);
        return count;
    }
    slot->wait = znl_sched_park(L);
    slot->state = WAITED;
    return lua_yield(L, 0);
}

/* worker:forget(ticket): nobody will wait for the answer */
static int worker_forget(lua_State *L)
{
    struct owner *o = check_owner(L);
    struct slot *slot = slot_find(o, check_ticket(L));
    if (slot == NULL || slot->state == WAITED)
        return 0;
    if (slot->state == CALLED)
        slot->state = FORGOTTEN;
    else if (slot->state != FORGOTTEN)
        slot_free(o, slot);
    return 0;
}

/* worker:cancel(ticket): tells the worker that nobody waits for the answer of this call any more;
 * nothing happens when it has come */
static int worker_cancel(lua_State *L)
{
    struct owner *o = check_owner(L);
    uint64_t ticket = check_ticket(L);
    struct slot *slot = slot_find(o, ticket);
    if (slot == NULL || o->has_ended || (slot->state != CALLED && slot->state != WAITED))
        return 0;
    slot->state = FORGOTTEN;
    if (unsend(o, ticket)) {
        slot_free(o, slot);
        return 0;
    }
    znl_worker_message *message = znl_calloc(1, sizeof *message);
    if (message == NULL)
        return 0; /* the call then runs to its end */
    message->ticket = ticket;
    message->kind = ZNL_WORKER_CANCEL;
    if (znl_worker_send(o->worker, message) != 0)
        znl_free(message);
    return 0;
}

/* worker:pending() -> calls without an answer so far */
static int worker_pending(lua_State *L)
{
    lua_pushnumber(L, check_owner(L)->pending);
    return 1;
}

/* --- module ----------------------------------------------------------------------------------- */

static int workers_is_worker(lua_State *L)
{
    lua_pushboolean(L, znl_lua_in_worker(L));
    return 1;
}

int luaopen_znl_core_workers(lua_State *L)
{
    static const luaL_Reg methods[] = {
            {"send", worker_send},
            {"wait", worker_wait},
            {"forget", worker_forget},
            {"cancel", worker_cancel},
            {"pending", worker_pending},
            {"stop", worker_stop},
            {"close", worker_close},
            {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
            {"start", workers_start},
            {"serve", znl_worker_thread_serve},
            {"note", znl_worker_thread_note},
            {"is_worker", workers_is_worker},
            {NULL, NULL},
    };
    znl_lua_newtype(L, WORKER_TYPE, methods, worker_gc);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
