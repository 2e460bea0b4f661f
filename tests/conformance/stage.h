/* stage.h - two ends of a connection on one stage, for the tests that hold our engine against libzmq.
 *
 * An end is a link with one engine or the other, or a bare socket of libzmq, which is polled while the loop turns.
 * Every case is played by all pairs of them; where libzmq meets libzmq, the case itself is on trial.
 *
 * Needs cmocka.h. SPDX-License-Identifier: MIT */
#ifndef ZNL_CONFORMANCE_STAGE_H
#define ZNL_CONFORMANCE_STAGE_H

#include "base/err.h"
#include "base/limits.h"
#include "conformance/pattern.h"
#include "conformance/usage.h"
#include "transport/endpoint.h"
#include "transport/link.h"
#include "transport/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <zmq.h>

#include <cmocka.h>

#define STAGE_GUARD_MS 60000 /* a test that waits longer has failed */
#define STAGE_ENDS 256

typedef enum end_kind {
    END_OURS,   /* a link with the engine of our own */
    END_LIBZMQ, /* a link with that of libzmq */
    END_BARE,   /* a socket of libzmq */
    END_AUTO    /* a link that chooses itself */
} end_kind;

/* Who plays a case, and over what. */
typedef struct pairing {
    end_kind router, dealer;
    const char *endpoint; /* to bind */
} pairing;

/* One message as it was received; freed by free(). */
typedef struct letter {
    struct letter *next;
    size_t count;
    znl_frame frames[];
} letter;

struct stage;

struct end {
    struct stage *stage;
    end_kind kind;
    int is_router;
    znl_loop *loop;
    znl_link *link; /* or */
    void *socket;
    int is_deaf; /* a bare socket that nobody reads */
    char endpoint[ZNL_ENDPOINT_BYTES_MAX];
    /* What hears messages; NULL: they become letters. */
    void (*hear)(struct end *end, const znl_frame *frames, size_t count);
    void (*writable)(struct end *end); /* NULL: on_writable turns itself off */
    void *user;
    letter *first, **last;
    size_t received, waiting; /* messages; letters not taken */
    size_t writables, dropped, refused, lost, joined;
    int dropped_err, refused_err;
    char refused_text[256];
    int close_when_lost;
};

struct stage {
    const pairing *pair;
    znl_loop *loop;
    znl_loop *second; /* made for the first end on it */
    int second_stands;
    uv_timer_t pace, second_pace;
    void *context;
    int bare_is_patient; /* bare dealers queue before they are connected, and keep what has arrived */
    struct end *ends[STAGE_ENDS];
    size_t count;
    /* What else wants a look each turn. */
    void (*look)(struct stage *stage);
    struct wire *wires;
};

void stage_open(struct stage *stage, const pairing *pair);
/* Closes every end; fails when anything is left in a loop. */
void stage_close(struct stage *stage);
/* Lets everybody do what can be done, for about a millisecond. */
void stage_turn(struct stage *stage);
void stage_turns(struct stage *stage, unsigned count);
/* A frozen clock moves by `ms`. */
void stage_advance(struct stage *stage, uint64_t ms);

uint64_t stage_now_ms(void); /* true time, also while the clocks are frozen */

/* Turns until the condition holds; fails the test when it never does. */
#define STAGE_UNTIL(stage, condition)                                                          \
    do {                                                                                       \
        uint64_t stage_ends_ms = stage_now_ms() + STAGE_GUARD_MS;                              \
        while (!(condition)) {                                                                 \
            if (stage_now_ms() >= stage_ends_ms)                                               \
                fail_msg("%s:%d: never: %s", __FILE__, __LINE__, #condition);                  \
            stage_turn(stage);                                                                 \
        }                                                                                      \
    } while (0)

/* What ends are opened with unless a test wants otherwise. */
znl_link_options router_options(const struct stage *stage);
znl_link_options dealer_options(const struct end *router, const char *id);

/* Opens an end; the others fail the test when that fails. It belongs to the stage. */
int stage_try_end(
        struct stage *stage, struct end **out, end_kind kind, const znl_link_options *options);
struct end *stage_end(struct stage *stage, end_kind kind, znl_link_options options);
struct end *stage_end_on_second(struct stage *stage, end_kind kind, znl_link_options options);
struct end *stage_router(struct stage *stage);
struct end *stage_dealer(struct stage *stage, const struct end *router, const char *id);
/* A router on a port that nobody gets by chance while it is away. */
struct end *stage_router_on_own_port(struct stage *stage);

/* Closes and forgets it. */
void end_close(struct end *end, uint32_t linger_ms);

/* As znl_link_send(). */
int end_send(struct end *end, const znl_frame *frames, size_t count);
/* Until it is not refused for the moment: BUSY, UNREACHABLE. */
void end_post(struct end *end, const znl_frame *frames, size_t count);
void end_post_text(struct end *end, const char *text); /* of a dealer */
void end_post_to(struct end *end, const char *id, const char *text);

/* The next message, waited for; to be freed. */
letter *end_take(struct end *end);
/* The next message is that one. */
void end_expect(struct end *end, const znl_frame *frames, size_t count);
void end_expect_text(struct end *end, const char *text);
void end_expect_from(struct end *end, const char *id, const char *text);

/* The dealer is known to the router, and both have heard each other. */
void ends_meet(struct end *router, struct end *dealer, const char *id);

#define PAIRINGS 8
extern const pairing pairings[PAIRINGS];

/* The two engines, for cases that are played by one link and a script. */
#define ENGINES 4
extern const pairing engines[ENGINES];

#define PAIR_(test, i, name)                                                                   \
    {                                                                                          \
#test " [" name "]", test, NULL, NULL, (void *)&pairings[i]                            \
    }
#define PAIR_0(test) PAIR_(test, 0, "ours, ours, tcp")
#define PAIR_1(test) PAIR_(test, 1, "ours, libzmq, tcp")
#define PAIR_2(test) PAIR_(test, 2, "libzmq, ours, tcp")
#define PAIR_3(test) PAIR_(test, 3, "ours, ours, ipc")
#define PAIR_4(test) PAIR_(test, 4, "ours, libzmq, ipc")
#define PAIR_5(test) PAIR_(test, 5, "libzmq, ours, ipc")
#define PAIR_6(test) PAIR_(test, 6, "libzmq link, libzmq, tcp")
#define PAIR_7(test) PAIR_(test, 7, "libzmq, libzmq link, tcp")
/* A test of all pairs: ROUTER, DEALER, and over what. */
#define EACH_PAIR(test)                                                                        \
    PAIR_0(test), PAIR_1(test), PAIR_2(test), PAIR_3(test), PAIR_4(test), PAIR_5(test),        \
            PAIR_6(test), PAIR_7(test)
/* Where the ROUTER is a link; where the DEALER is. */
#define EACH_ROUTER_LINK(test)                                                                 \
    PAIR_0(test), PAIR_1(test), PAIR_3(test), PAIR_4(test), PAIR_6(test)
#define EACH_DEALER_LINK(test)                                                                 \
    PAIR_0(test), PAIR_2(test), PAIR_3(test), PAIR_5(test), PAIR_7(test)

#define ENGINE_(test, i, name)                                                                 \
    {                                                                                          \
#test " [" name "]", test, NULL, NULL, (void *)&engines[i]                             \
    }
/* Only our engine. */
#define OUR_ENGINE(test) ENGINE_(test, 0, "ours, tcp"), ENGINE_(test, 1, "ours, ipc")
#define EACH_ENGINE(test)                                                                      \
    OUR_ENGINE(test), ENGINE_(test, 2, "libzmq, tcp"), ENGINE_(test, 3, "libzmq, ipc")

#endif
