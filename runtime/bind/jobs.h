/* jobs.h - handlers at work, whatever protocol asked for them: slots, tickets, deadlines, cancelling,
 * and which function they run.
 *
 *   free -> at work -> free
 *
 * The box of a node begins with a znl_jobs, its jobs with a znl_job: so the methods of requests serve
 * every protocol. A request names its job by a ticket, which is another for each use of the job's memory:
 * a request that is kept finds nothing once its handler has ended.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_JOBS_H
#define ZNL_BIND_JOBS_H

#include "bind/anchor.h"
#include "bind/bind.h"
#include "vm/sched.h"

/* A ticket is the job's slot and a count of uses. */
#define ZNL_JOB_SLOTS (1u << 20)

typedef struct znl_jobs znl_jobs;
typedef struct znl_job znl_job;

struct znl_job {
    znl_job *next_free;
    znl_jobs *jobs;
    uint64_t ticket; /* of this use; another when the memory serves another request */
    uint8_t is_at_work;
    uint8_t is_answered;       /* an error went out, or nobody waits: the result is dropped */
    uint8_t is_cancelled;      /* the asker is gone, or the node stopped */
    uint8_t is_limited;        /* the deadline is the node's: timeout_ms */
    uint64_t deadline_ms;      /* of the asker or of the node, the earlier; 0: none */
    znl_token *token;          /* with a deadline; NULL without */
    znl_token_watcher watcher; /* of it */
    znl_task_ref task;
};

struct znl_jobs {
    const void *metatable; /* of the userdata that begins here: what tells it from others */
    znl_anchor anchor;     /* held by each job at work */
    uint32_t at_work, max;
    uint32_t timeout_ms; /* how long a handler may take; 0: no limit */
    int is_over;         /* znl_jobs_fini() has been called */
    int is_draining;     /* refuses new requests, until the next start */
    uint64_t overloaded, refused, expired, handler_errors, handler_timeouts, unanswered;
    int handler_ref;
    int console_ref; /* answers routes under "/-/" */
    int place_ref;   /* text: file and line of the handler; or a function of the route */
    znl_owner *handler_owner;
    size_t job_bytes;
    void (*timed_out)(
            znl_job *job); /* the handler took longer than timeout_ms: refuse. No Lua here */
    void (*ended)(znl_jobs *jobs); /* one fewer is at work */
    znl_job *free;
    znl_job **made; /* every job there is, by slot */
    size_t made_count, made_capacity;
};

/* `jobs` begins the userdata whose metatable is at the top of the stack. A job has `job_bytes` and begins
 * with a znl_job. */
void znl_jobs_init(lua_State *L, znl_jobs *jobs, size_t job_bytes,
        void (*timed_out)(znl_job *job), void (*ended)(znl_jobs *jobs));

/* Frees the jobs and the references (the box is going away). */
void znl_jobs_fini(lua_State *L, znl_jobs *jobs);

/* The value at `index` as what znl_jobs_init() made; NULL when it is something else. */
znl_jobs *znl_jobs_at(lua_State *L, int index);

/* --- jobs --------------------------------------------------------------------------------------- */

/* A job at work, its fields as new, the rest as its last use left it (zero at first); it holds the box,
 * which must be held already. NULL when memory is short. */
znl_job *znl_job_take(znl_jobs *jobs);

/* Limits a job to `deadline_ms` of its asker (0: none) and to timeout_ms. 0 or ZNL_E_NOMEM. */
int znl_job_limit(znl_job *job, uint64_t deadline_ms);

/* Ends a job. The box may be collected after it. */
void znl_job_done(znl_job *job);

/* Cancels the handler: its waits end. `reason` is for people. */
void znl_job_cancel(znl_job *job, const char *reason);

/* --- handlers ----------------------------------------------------------------------------------- */

/* Arguments `index` to `index` + 2: function or nil, owner or nil, place or nil. Owner borrowed. */
znl_owner *znl_jobs_checkhandler(lua_State *L, int index);

/* set_handler(self, fn, owner, place): fn nil removes it; `place` names it in messages, a function
 * after the route it is given ("" without) */
int znl_jobs_set_handler(lua_State *L, znl_jobs *jobs);

/* set_console(self, fn): answers routes under "/-/"; nil: they find nothing */
int znl_jobs_set_console(lua_State *L, znl_jobs *jobs);

/* The text that the place at the top of the stack has for a route ({NULL, 0}: too long to be known);
 * `fallback` without. Leaves a value on the stack: valid while it is there. */
const char *znl_jobs_place(lua_State *L, znl_frame route, const char *fallback);

/* Sets counters of handlers in the table at the top. */
void znl_jobs_count(lua_State *L, const znl_jobs *jobs);

/* --- requests: tables with the userdata at 1 and the ticket at 2 ----------------------------------- */

/* Puts both into the table at the top of the stack. */
void znl_job_pushticket(lua_State *L, const znl_job *job);

/* The job of the request at index 1, NULL once its handler has ended, or when it is none of a node whose
 * `ended` is this one (NULL: any). Raises when it is no request. */
znl_job *znl_job_of(lua_State *L, void (*ended)(znl_jobs *jobs));

/* deadline_ms, remaining_ms, cancelled */
extern const luaL_Reg znl_request_methods[];

#endif
