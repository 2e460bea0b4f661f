/* nats_requests.c - asks and flushes; see nats_parts.h.
 *
 * Answers come to one subscription, "<inbox>.*"; the last token is the number of the ask. Flushes are pings: the
 * server answers them in their order.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/nats_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define STATUS_NO_RESPONDERS 503
#define NUMBER_DIGITS_MAX 19u
#define RANDOM_CHARACTERS 22u /* of 62: 131 bits */

struct znl_nats_ask {
    znl_nats *nats;
    uint64_t number;
    znl_timer timer;
    void (*on_reply)(void *user, int err, const znl_nats_message *message);
    void *user;
};

struct znl_nats_waiter {
    znl_nats *nats;
    znl_nats_waiter *next;
    uint64_t ping; /* whose answer it waits for */
    znl_timer timer;
    void (*done)(void *user, int err);
    void *user;
};

/* --- inboxes ----------------------------------------------------------------------------------------- */

/* Appends characters that nobody guesses. */
static void put_random(char *out)
{
    static const char letters[] =
            "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for (size_t i = 0; i < RANDOM_CHARACTERS; i++)
        out[i] = letters[znl_random_u64() % 62];
    out[RANDOM_CHARACTERS] = 0;
}

void znl_nats_new_inbox(znl_nats *nats, char *out)
{
    size_t size = (size_t)snprintf(out, ZNL_NATS_INBOX_BYTES, "%s.", nats->inbox_prefix);
    put_random(out + size);
}

int znl_nats_choose_inbox(znl_nats *nats)
{
    /* Room for the random part, and for a number after it. */
    if (!znl_nats_is_subject(nats->inbox_prefix) ||
            strlen(nats->inbox_prefix) > ZNL_NATS_INBOX_BYTES - RANDOM_CHARACTERS - 24)
        return ZNL_E_INVALID;
    znl_nats_new_inbox(nats, nats->inbox);
    nats->inbox_size = strlen(nats->inbox);
    return 0;
}

/* --- asks -------------------------------------------------------------------------------------------- */

static void end_ask(znl_nats_ask *ask, int err, const znl_nats_message *message)
{
    void (*on_reply)(void *user, int err, const znl_nats_message *message) = ask->on_reply;
    void *user = ask->user;
    znl_nats_cancel(ask);
    on_reply(user, err, message);
}

void znl_nats_cancel(znl_nats_ask *ask)
{
    znl_wheel_stop(znl_loop_wheel(ask->nats->loop), &ask->timer);
    znl_nats_table_drop(&ask->nats->asks, ask->number);
    znl_free(ask);
}

static void on_late(znl_timer *timer)
{
    end_ask((znl_nats_ask *)(void *)((char *)timer - offsetof(znl_nats_ask, timer)),
            ZNL_E_TIMEOUT, NULL);
}

/* The number of the ask, out of the subject of an answer. True when there is one. */
static int read_number(const znl_nats *nats, const char *subject, uint64_t *number)
{
    if (strncmp(subject, nats->inbox, nats->inbox_size) != 0 ||
            subject[nats->inbox_size] != '.')
        return 0;
    const char *at = subject + nats->inbox_size + 1;
    size_t digits = strspn(at, "0123456789");
    if (digits == 0 || digits > NUMBER_DIGITS_MAX || at[digits] != 0 || *at == '0')
        return 0;
    *number = strtoull(at, NULL, 10);
    return 1;
}

static void on_answer(void *user, const znl_nats_message *message)
{
    znl_nats *nats = user;
    uint64_t number;
    znl_nats_ask *ask = NULL;
    if (read_number(nats, message->subject, &number))
        ask = znl_nats_table_get(&nats->asks, number);
    if (ask == NULL)
        return; /* another answer, or too late */
    if (message->status == STATUS_NO_RESPONDERS && message->size == 0)
        end_ask(ask, ZNL_E_UNREACHABLE, NULL);
    else
        end_ask(ask, 0, message);
}

int znl_nats_request(znl_nats_ask **out, znl_nats *nats, const char *subject,
        const znl_nats_headers *headers, const void *data, size_t size, uint32_t timeout_ms,
        void (*on_reply)(void *user, int err, const znl_nats_message *message), void *user)
{
    char pattern[ZNL_NATS_INBOX_BYTES + 4], reply[ZNL_NATS_INBOX_BYTES + 24];
    znl_nats_ask *ask = NULL;
    int err = 0;
    if (nats->answers == NULL) {
        snprintf(pattern, sizeof pattern, "%s.*", nats->inbox);
        err = znl_nats_subscribe(&nats->answers, nats, pattern, NULL, 0, 0, on_answer, nats);
    }
    if (err == 0) {
        ask = znl_calloc(1, sizeof *ask);
        err = ask != NULL ? znl_nats_table_put(&nats->asks, ask, &ask->number) : ZNL_E_NOMEM;
    }
    if (err != 0) {
        znl_free(ask);
        return err;
    }
    snprintf(reply, sizeof reply, "%s.%" PRIu64, nats->inbox, ask->number);
    ask->nats = nats;
    ask->on_reply = on_reply;
    ask->user = user;
    err = znl_nats_publish(nats, subject, reply, headers, data, size);
    if (err != 0) {
        znl_nats_cancel(ask);
        return err;
    }
    znl_wheel_start(znl_loop_wheel(nats->loop), &ask->timer,
            znl_loop_now_ms(nats->loop) + timeout_ms, on_late);
    *out = ask;
    return 0;
}

/* --- flushes ----------------------------------------------------------------------------------------- */

void znl_nats_ping(znl_nats *nats)
{
    nats->pings_sent++;
    znl_nats_control(nats, "PING\r\n", 6);
}

static void end_waiter(znl_nats_waiter *waiter, int err)
{
    znl_nats *nats = waiter->nats;
    znl_nats_waiter **link = &nats->waiters;
    while (*link != waiter)
        link = &(*link)->next;
    *link = waiter->next;
    if (waiter->next == NULL)
        nats->waiters_end = link;
    znl_wheel_stop(znl_loop_wheel(nats->loop), &waiter->timer);
    void (*done)(void *user, int err) = waiter->done;
    void *user = waiter->user;
    znl_free(waiter);
    if (done != NULL)
        done(user, err);
}

static void on_impatient(znl_timer *timer)
{
    end_waiter((znl_nats_waiter *)(void *)((char *)timer - offsetof(znl_nats_waiter, timer)),
            ZNL_E_TIMEOUT);
}

void znl_nats_pong(znl_nats *nats)
{
    if (nats->pongs_seen == nats->pings_sent)
        return; /* nobody asked */
    nats->pongs_seen++;
    while (!nats->is_closed && nats->waiters != NULL && nats->waiters->ping <= nats->pongs_seen)
        end_waiter(nats->waiters, 0);
}

int znl_nats_flush(
        znl_nats *nats, uint32_t timeout_ms, void (*done)(void *user, int err), void *user)
{
    if (nats->phase != ZNL_NATS_READY)
        return ZNL_E_OFFLINE;
    znl_nats_waiter *waiter = znl_calloc(1, sizeof *waiter);
    if (waiter == NULL)
        return ZNL_E_NOMEM;
    znl_nats_ping(nats);
    waiter->nats = nats;
    waiter->ping = nats->pings_sent;
    waiter->done = done;
    waiter->user = user;
    *nats->waiters_end = waiter;
    nats->waiters_end = &waiter->next;
    znl_wheel_start(znl_loop_wheel(nats->loop), &waiter->timer,
            znl_loop_now_ms(nats->loop) + timeout_ms, on_impatient);
    return 0;
}

/* --- their end --------------------------------------------------------------------------------------- */

static void fail_asks(znl_nats *nats, int err)
{
    znl_nats_ask *ask;
    for (uint32_t at = 0;
            !nats->is_closed && (ask = znl_nats_table_next(&nats->asks, &at)) != NULL;)
        end_ask(ask, err, NULL);
}

/* The next ask subscribes anew: permissions change. */
void znl_nats_refused(znl_nats *nats, const char *subject)
{
    if (nats->answers == NULL || strncmp(subject, nats->inbox, nats->inbox_size) != 0 ||
            strcmp(subject + nats->inbox_size, ".*") != 0)
        return;
    znl_nats_unsubscribe(nats->answers);
    nats->answers = NULL;
    fail_asks(nats, ZNL_E_REFUSED);
}

void znl_nats_fail_requests(znl_nats *nats)
{
    /* Those begun meanwhile, by who hears of it, fail by themselves: it is off line. */
    fail_asks(nats, ZNL_E_OFFLINE);
    while (!nats->is_closed && nats->waiters != NULL)
        end_waiter(nats->waiters, ZNL_E_OFFLINE);
}

void znl_nats_discard_requests(znl_nats *nats)
{
    znl_nats_ask *ask;
    for (uint32_t at = 0; (ask = znl_nats_table_next(&nats->asks, &at)) != NULL;)
        znl_nats_cancel(ask);
    while (nats->waiters != NULL) {
        nats->waiters->done = NULL;
        end_waiter(nats->waiters, ZNL_E_CLOSED);
    }
}
