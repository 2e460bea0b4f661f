/* loop.h - the libuv loop, its clocks, the timer wheel, and what runs before it blocks.
 *
 * One turn: read the clocks, run what was deferred, fire the timers of the wheel, then let libuv
 * wait for events. The wheel shares one uv_timer, armed for the earliest deadline, so a timer is
 * started on the wheel directly and nobody tells the loop. A turn that comes more than ZNL_STALL_MS late for a timer
 * fires none before the loop has looked for events for ZNL_STALL_LOOK_MS.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_LOOP_H
#define ZNL_TRANSPORT_LOOP_H

#include "base/wheel.h"

#include <stdint.h>
#include <uv.h>

typedef struct znl_loop znl_loop;

/* Work put off until the loop's next turn. Lives inside the object it serves; set `run`, leave the
 * rest zero. The object takes it back with znl_loop_undefer() before it goes. */
typedef struct znl_deferred znl_deferred;
struct znl_deferred {
    znl_deferred *next;
    void (*run)(znl_deferred *deferred);
    int queued;
};

/* Returns a loop, owned. 0, ZNL_E_NOMEM, or what the system refused. */
int znl_loop_new(znl_loop **out);

/* Takes `loop` (NULL is accepted) and frees it: closes its own handles, lets libuv run every close
 * callback, then ends the libzmq context, for which closed links still use up their linger time.
 * Returns how many handles and libzmq sockets others had left open. Those handles are closed here
 * without a callback; sockets left open keep the context, which is leaked rather than waited for. */
int znl_loop_close(znl_loop *loop);

/* Turns until nothing is alive in libuv, no timer runs and nothing is deferred, or until
 * znl_loop_stop(). Returns 0. It may be called again. */
int znl_loop_run(znl_loop *loop);

/* Ends znl_loop_run() after the current turn. Called outside of it, it does nothing. */
void znl_loop_stop(znl_loop *loop);

uv_loop_t *znl_loop_uv(znl_loop *loop);
znl_wheel *znl_loop_wheel(znl_loop *loop);

/* The clocks of clock.h, read once per turn and once more after libuv has waited. */
uint64_t znl_loop_now_ms(znl_loop *loop);
int64_t znl_loop_unix_ms(znl_loop *loop);

/* Reads them again: a test has changed the clock. */
void znl_loop_clock_changed(znl_loop *loop);

/* --- a frozen clock (clock.h): the loop moves the time ------------------------------------------
 *
 * Then no timer of the wheel fires by itself. The loop goes on until it is quiet: nothing deferred,
 * no request of libuv under way (a file, a name, …), no work outside. Then it moves the clock to the
 * next deadline. What is on its way through a socket or a pipe is not known, and not waited for. */

/* Moves the clock by `ms`, deadline by deadline, each time until the loop is quiet; then calls
 * done(user), from the loop; also when the clock is thawed before. One at a time: ZNL_E_BUSY.
 * ZNL_E_INVALID when the clock is not frozen. */
int znl_loop_advance(znl_loop *loop, uint64_t ms, void (*done)(void *user), void *user);

/* Gives an advance up: the clock stays where it is, `done` is not called. */
void znl_loop_stop_advance(znl_loop *loop);

/* While on, the clock also moves by itself, to the next deadline, whenever the loop is quiet and no
 * handle is open that may bring something: a socket, a process, a timer of libuv. */
void znl_loop_auto_advance(znl_loop *loop, int on);

/* Tells the loop that a handle which is open (1) or closed (-1) does not mean that anything will come
 * of its own accord: time may pass it by. */
void znl_loop_idle_handle(znl_loop *loop, int change);

/* Tells the loop that work began (1) or ended (-1) that libuv does not know, as in another thread. */
void znl_loop_outside(znl_loop *loop, int change);

/* Runs `deferred` once, from the loop, before it blocks; not at once. Does nothing when queued. What
 * is deferred by deferred work runs in the next turn, after libuv has looked for events. */
void znl_loop_defer(znl_loop *loop, znl_deferred *deferred);
void znl_loop_undefer(znl_loop *loop, znl_deferred *deferred);

/* The libzmq context, made at the first call; NULL when there is no memory. */
void *znl_loop_zmq(znl_loop *loop);

/* Writes an inproc endpoint of that context which nobody has had: libzmq frees the endpoint of a closed socket
 * later, in a thread of its own. */
void znl_loop_zmq_endpoint(znl_loop *loop, char *out, size_t size);

/* What link_sim.c keeps for this loop, NULL until it is set; `discard` frees it when the loop ends. */
void *znl_loop_sim(znl_loop *loop);
void znl_loop_set_sim(znl_loop *loop, void *sim, void (*discard)(void *sim));

/* The same for stream.c. When the loop ends, `close` runs before the handles are counted. */
void *znl_loop_streams(znl_loop *loop);
void znl_loop_set_streams(znl_loop *loop, void *streams, void (*close)(void *streams),
        void (*discard)(void *streams));

/* What zmq_zap.c keeps for this loop while it is needed, NULL otherwise. */
void *znl_loop_zap(znl_loop *loop);
void znl_loop_set_zap(znl_loop *loop, void *zap);

/* Tells the loop that a socket of its context was opened (1) or closed (-1). */
void znl_loop_zmq_used(znl_loop *loop, int change);

#endif
