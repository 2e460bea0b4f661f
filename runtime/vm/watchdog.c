/* watchdog.c - see watchdog.h. SPDX-License-Identifier: MIT */
#include "vm/watchdog.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/log.h"
#include "vm/sched.h"

#include <errno.h>
#include <luajit.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* SIGEV_THREAD_ID sends it to one thread, whatever the others block; debuggers let it pass. */
#define TICK_SIGNAL SIGVTALRM
#define TICKS_PER_BUDGET 4u

/* Interpreted instructions that code which caught the error may spend on cleaning up. */
#define GRACE_COUNT 10000
/* Times it may do so. */
#define GRACE_MAX 2u
/* Instructions a function of the library may still run; then it is the library that hangs. */
#define PATIENCE_COUNT 1000000u
/* Frames looked through for one of the script's. */
#define LEVELS_MAX 50

struct znl_watchdog {
    znl_vm *vm;
    znl_pulse *pulse;
    znl_watchdog *next; /* of the same thread */
    timer_t timer;
    int has_timer;
    int reaches_traces;
    uint32_t budget_ms;
    uint64_t count;
    /* Of the signal handler: the run it saw last, and for how many ticks. */
    uint32_t seen;
    unsigned ticks;
    /* Of the run that is being interrupted. */
    volatile uint32_t alarmed_serial;
    volatile int must_flush;
    unsigned raised;
    unsigned patience;
    lua_Hook script_hook; /* what debug.sethook had set */
    int script_mask, script_count;
};

/* Those of this thread: what the signal handler may look at. */
static _Thread_local znl_watchdog *volatile watched;

/* --- the profiler ------------------------------------------------------------------------- */

/* An interval that never ends: 11 days, in the milliseconds of luaJIT_profile_start. */
#define HOLD "i1000000000"

/* Guards what follows and every call of luaJIT_profile_*. The signal handler only tries. */
static atomic_flag profiler_lock = ATOMIC_FLAG_INIT;
static _Atomic(const znl_watchdog *) profiler_user; /* whose state it was started for */
static lua_State *stand_in; /* another state for it, so that none of ours holds it */
static unsigned stand_in_users;
static void (*trigger)(int); /* LuaJIT's own SIGPROF handler: asks traces to leave */

static void lock_profiler(void)
{
    while (atomic_flag_test_and_set_explicit(&profiler_lock, memory_order_acquire))
        sched_yield();
}

static void unlock_profiler(void)
{
    atomic_flag_clear_explicit(&profiler_lock, memory_order_release);
}

static void on_sample(void *data, lua_State *L, int samples, int vmstate)
{
    (void)data, (void)L, (void)samples, (void)vmstate;
}

/* Another user of ITIMER_PROF is at work, such as jit.profile of a script. */
static int is_profiling(void)
{
    struct itimerval now;
    return getitimer(ITIMER_PROF, &now) != 0 || now.it_value.tv_sec != 0 ||
            now.it_value.tv_usec != 0;
}

/* Starts the profiler for the state of L, without its timer. False when another has it. */
static int take_profiler(lua_State *L)
{
    static const struct itimerval never;
    luaJIT_profile_start(L, HOLD, on_sample, NULL);
    if (!is_profiling())
        return 0;
    setitimer(ITIMER_PROF, &never, NULL);
    return 1;
}

/* Makes traces of L look at the flag, those compiled already being thrown away. Afterwards the
 * profiler is free: that it is taken while L asks is what leaves the mode of L set. */
static int mark_traces(lua_State *L)
{
    struct sigaction action;
    if (profiler_user == NULL && (is_profiling() || !take_profiler(stand_in)))
        return ZNL_E_SYSTEM;
    if (trigger == NULL && sigaction(SIGPROF, NULL, &action) == 0)
        trigger = action.sa_handler;
    luaJIT_profile_start(L, "l" HOLD, on_sample, NULL);
    if (profiler_user == NULL)
        luaJIT_profile_stop(stand_in);
    return 0;
}

static int open_profiler(znl_watchdog *w)
{
    int err = 0;
    lock_profiler();
    if (stand_in == NULL)
        stand_in = luaL_newstate();
    if (stand_in == NULL)
        err = ZNL_E_NOMEM;
    else
        stand_in_users++;
    if (err == 0)
        w->reaches_traces = mark_traces(w->vm->L) == 0;
    unlock_profiler();
    return err;
}

/* Gives the profiler back, if w has it; its traces look at the flag again, or no more. */
static void leave_profiler(znl_watchdog *w, lua_State *L, int is_marked)
{
    if (profiler_user == w) {
        luaJIT_profile_stop(L); /* this unmarks */
        profiler_user = NULL;
        if (is_marked)
            w->reaches_traces = mark_traces(L) == 0;
    } else if (!is_marked && profiler_user == NULL && !is_profiling() && take_profiler(L)) {
        luaJIT_profile_stop(L);
    }
}

static void close_profiler(znl_watchdog *w)
{
    lock_profiler();
    leave_profiler(w, w->vm->L, 0);
    if (--stand_in_users == 0) {
        lua_close(stand_in);
        stand_in = NULL;
    }
    unlock_profiler();
}

/* --- the hook, called where the code runs ------------------------------------------------- */

static int is_library(const znl_watchdog *w, const lua_Debug *ar)
{
    return w->vm->is_library != NULL && w->vm->is_library(ar->source);
}

/* The innermost line of the script, or of the library when there is none. */
static void find_line(znl_watchdog *w, lua_State *L, lua_Debug *found)
{
    lua_Debug ar;
    found->currentline = -1;
    for (int level = 0; level < LEVELS_MAX && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline <= 0)
            continue;
        if (found->currentline <= 0 || !is_library(w, &ar))
            *found = ar;
        if (!is_library(w, &ar))
            return;
    }
}

static void raise_error(znl_watchdog *w, lua_State *L)
{
    char text[512];
    lua_Debug at;
    find_line(w, L, &at);
    const char *source = at.short_src; /* shortened to 60 characters; people want all of it */
    if (at.currentline > 0 && at.source[0] == '@' && strlen(at.source) < 300)
        source = at.source + 1;
    if (at.currentline > 0)
        snprintf(text, sizeof text, "%s:%d", source, at.currentline);
    else
        snprintf(text, sizeof text, "?");
    znl_sched_mark_interrupted(w->vm->sched);
    if (w->raised++ == 0) {
        w->count++;
        znl_log_field field = {"at", text, strlen(text), 0};
        znl_log_write(ZNL_LOG_WARN, "watchdog", "interrupted what did not wait", &field, 1);
    }
    /* The error itself leaves the hook in place, for code that catches it. */
    lua_pushfstring(L, "%s: ran for %d ms without waiting: interrupted by the watchdog", text,
            (int)w->budget_ms);
    lua_error(L);
}

static void on_count(lua_State *L, lua_Debug *ar)
{
    znl_watchdog *w = znl_vm_of(L)->watchdog;
    if (w == NULL || !w->pulse->is_alarmed || w->alarmed_serial != w->pulse->serial) {
        lua_sethook(L, NULL, 0, 0); /* set between two runs */
        return;
    }
    if (w->must_flush) {
        /* What is compiled must not run on past the hook. While it fires, nothing new is. */
        w->must_flush = 0;
        luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_FLUSH);
        lock_profiler();
        leave_profiler(w, L, 1);
        unlock_profiler();
    }
    lua_getinfo(L, "S", ar);
    if (w->patience > 0 && is_library(w, ar)) {
        w->patience--;
        lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
        return;
    }
    lua_sethook(L, on_count, LUA_MASKCOUNT, w->raised < GRACE_MAX ? GRACE_COUNT : 1);
    raise_error(w, L);
}

/* --- ticks: in the signal handler, on the thread of the vm -------------------------------- */

/* Asks compiled code to leave, if the profiler can be had. */
static void break_traces(znl_watchdog *w)
{
    if (!w->reaches_traces)
        return;
    if (profiler_user != w) {
        if (atomic_flag_test_and_set_explicit(&profiler_lock, memory_order_acquire))
            return;
        if (profiler_user == NULL && !is_profiling() && take_profiler(w->vm->L))
            profiler_user = w;
        unlock_profiler();
    }
    if (profiler_user == w && trigger != NULL)
        trigger(SIGPROF);
}

static void alarm_run(znl_watchdog *w)
{
    lua_State *L = w->vm->L;
    if (!w->pulse->is_alarmed) {
        w->script_hook = lua_gethook(L);
        w->script_mask = lua_gethookmask(L);
        w->script_count = lua_gethookcount(L);
        w->raised = 0;
        w->patience = PATIENCE_COUNT;
    }
    w->alarmed_serial = w->pulse->serial;
    w->must_flush = 1;
    w->pulse->is_alarmed = 1;
    /* lua_sethook may be called from a signal handler. Off and on again: the interrupted code
     * may have been about to write the very table of instructions that this one writes. */
    lua_sethook(L, NULL, 0, 0);
    lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
    break_traces(w);
}

static void on_tick(int signo, siginfo_t *info, void *context)
{
    int saved = errno;
    znl_watchdog *w = watched;
    (void)signo, (void)context;
    while (w != NULL && (info->si_code != SI_TIMER || info->si_value.sival_ptr != w))
        w = w->next;
    if (w != NULL) {
        uint32_t serial = w->pulse->serial;
        if (serial != w->seen || !znl_sched_busy(w->vm->sched))
            w->ticks = 0;
        else
            w->ticks++;
        w->seen = serial;
        if (w->ticks >= TICKS_PER_BUDGET)
            alarm_run(w);
    }
    errno = saved;
}

void znl_watchdog_calm(znl_vm *vm)
{
    znl_watchdog *w = vm->watchdog;
    znl_pulse *pulse = znl_sched_pulse(vm->sched);
    pulse->serial++; /* a tick from here on sees a new run */
    atomic_signal_fence(memory_order_seq_cst);
    pulse->is_alarmed = 0;
    if (w == NULL)
        return;
    lua_sethook(vm->L, w->script_hook, w->script_mask, w->script_count);
    lock_profiler();
    leave_profiler(w, vm->L, 1);
    unlock_profiler();
}

/* --- life --------------------------------------------------------------------------------- */

static int start_timer(znl_watchdog *w)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_sigaction = on_tick;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigset_t ticks;
    sigemptyset(&ticks);
    sigaddset(&ticks, TICK_SIGNAL);
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = TICK_SIGNAL;
    event.sigev_value.sival_ptr = w;
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    if (sigaction(TICK_SIGNAL, &action, NULL) != 0 ||
            pthread_sigmask(SIG_UNBLOCK, &ticks, NULL) != 0 ||
            timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &w->timer) != 0)
        return ZNL_E_SYSTEM;
    w->has_timer = 1;
    return 0;
}

static int set_interval(znl_watchdog *w, uint32_t budget_ms)
{
    long long tick_ns = (long long)budget_ms * 1000000 / TICKS_PER_BUDGET;
    struct timespec interval = {(time_t)(tick_ns / 1000000000), (long)(tick_ns % 1000000000)};
    struct itimerspec spec = {interval, interval};
    w->budget_ms = budget_ms;
    return timer_settime(w->timer, 0, &spec, NULL) == 0 ? 0 : ZNL_E_SYSTEM;
}

static void stop(znl_watchdog *w)
{
    if (w->has_timer)
        timer_delete(w->timer);
    w->has_timer = 0;
    for (znl_watchdog *volatile *at = &watched; *at != NULL;
            at = (znl_watchdog *volatile *)&(*at)->next)
        if (*at == w) {
            *at = w->next;
            break;
        }
    atomic_signal_fence(memory_order_seq_cst);
    if (w->pulse->is_alarmed)
        znl_watchdog_calm(w->vm);
    w->vm->watchdog = NULL;
    close_profiler(w);
    znl_free(w);
}

int znl_watchdog_set(znl_vm *vm, uint32_t budget_ms)
{
    znl_watchdog *w = vm->watchdog;
    if (budget_ms == 0) {
        if (w != NULL)
            stop(w);
        return 0;
    }
    if (w != NULL)
        return set_interval(w, budget_ms);
#ifdef __SANITIZE_THREAD__
    return ZNL_E_UNSUPPORTED; /* ThreadSanitizer holds signals back until the next call into C */
#endif
    w = znl_calloc(1, sizeof *w);
    if (w == NULL)
        return ZNL_E_NOMEM;
    w->vm = vm;
    w->pulse = znl_sched_pulse(vm->sched);
    int err = open_profiler(w);
    if (err != 0) {
        znl_free(w);
        return err;
    }
    vm->watchdog = w;
    w->next = watched;
    atomic_signal_fence(memory_order_seq_cst);
    watched = w;
    err = start_timer(w);
    if (err == 0)
        err = set_interval(w, budget_ms);
    if (err != 0)
        stop(w);
    return err;
}

void znl_watchdog_renew(znl_vm *vm)
{
    znl_watchdog *w = vm->watchdog;
    if (w == NULL)
        return;
    lock_profiler();
    if (profiler_user != w)
        w->reaches_traces = mark_traces(vm->L) == 0;
    unlock_profiler();
}

uint32_t znl_watchdog_budget_ms(const znl_vm *vm)
{
    return vm->watchdog != NULL ? vm->watchdog->budget_ms : 0;
}

int znl_watchdog_reaches_traces(const znl_vm *vm)
{
    return vm->watchdog != NULL && vm->watchdog->reaches_traces;
}

uint64_t znl_watchdog_count(const znl_vm *vm)
{
    return vm->watchdog != NULL ? vm->watchdog->count : 0;
}
