/* nats_subscriptions.c - subscriptions, and the messages that wait in them; see nats_parts.h.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/nats_parts.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"

#include <inttypes.h>
#include <stdio.h>

/* A message that waits: one block, the texts and the bytes behind it. */
struct znl_nats_kept {
    struct znl_nats_kept *next;
    size_t bytes;
    znl_nats_message message;
};

/* --- messages that wait ------------------------------------------------------------------------------ */

static void *store(uint8_t **at, const void *from, size_t size)
{
    uint8_t *to = *at;
    if (size > 0)
        memcpy(to, from, size);
    to[size] = 0;
    *at += size + 1;
    return to;
}

static struct znl_nats_kept *copy_message(const znl_nats_message *message)
{
    size_t subject = strlen(message->subject);
    size_t reply = message->reply != NULL ? strlen(message->reply) : 0;
    size_t status = strlen(message->status_text);
    size_t bytes = subject + reply + status + message->headers.size + message->size + 5;
    struct znl_nats_kept *kept = znl_malloc(sizeof *kept + bytes);
    if (kept == NULL)
        return NULL;
    uint8_t *at = (uint8_t *)(kept + 1);
    *kept = (struct znl_nats_kept){.bytes = bytes, .message = *message};
    kept->message.subject = store(&at, message->subject, subject);
    if (message->reply != NULL)
        kept->message.reply = store(&at, message->reply, reply);
    kept->message.status_text = store(&at, message->status_text, status);
    kept->message.headers.lines = store(&at, message->headers.lines, message->headers.size);
    kept->message.data = store(&at, message->data, message->size);
    return kept;
}

/* True: it waits now; else it is lost. */
static int keep(znl_nats_subscription *subscription, const znl_nats_message *message)
{
    znl_nats *nats = subscription->nats;
    struct znl_nats_kept *kept = NULL;
    if (subscription->waiting < subscription->max_messages &&
            message->size < subscription->max_bytes &&
            subscription->waiting_bytes <= subscription->max_bytes - message->size)
        kept = copy_message(message);
    if (kept == NULL) {
        subscription->dropped++;
        if (!subscription->is_full) {
            subscription->is_full = 1;
            nats->events->on_error(nats->user, ZNL_E_BUSY, subscription->subject,
                    "a subscription is full: messages are lost");
        }
        return 0;
    }
    *subscription->last = kept;
    subscription->last = &kept->next;
    subscription->waiting++;
    subscription->waiting_bytes += kept->bytes;
    return 1;
}

const znl_nats_message *znl_nats_peek(const znl_nats_subscription *subscription)
{
    return subscription->first != NULL ? &subscription->first->message : NULL;
}

void znl_nats_on_waiting(znl_nats_subscription *subscription, void (*on_waiting)(void *user))
{
    subscription->on_waiting = on_waiting;
}

static struct znl_nats_kept *take_kept(znl_nats_subscription *subscription)
{
    struct znl_nats_kept *kept = subscription->first;
    subscription->first = kept->next;
    if (subscription->first == NULL)
        subscription->last = &subscription->first;
    subscription->waiting--;
    subscription->waiting_bytes -= kept->bytes;
    if (subscription->waiting <= subscription->max_messages / 2)
        subscription->is_full = 0;
    return kept;
}

void znl_nats_pop(znl_nats_subscription *subscription)
{
    znl_free(take_kept(subscription));
}

/* --- life -------------------------------------------------------------------------------------------- */

static void free_subscription(znl_nats_subscription *subscription)
{
    while (subscription->first != NULL)
        znl_free(take_kept(subscription));
    znl_free(subscription->subject);
    znl_free(subscription->queue);
    znl_free(subscription);
}

static void leave_releasing(znl_nats_subscription *subscription)
{
    if (subscription->releasing_link == NULL)
        return;
    *subscription->releasing_link = subscription->releasing_next;
    if (subscription->releasing_next != NULL)
        subscription->releasing_next->releasing_link = subscription->releasing_link;
    else
        subscription->nats->releasing_end = subscription->releasing_link;
    subscription->releasing_link = NULL;
}

static void discard(znl_nats_subscription *subscription)
{
    znl_nats *nats = subscription->nats;
    znl_nats_table_drop(&nats->subscriptions, subscription->sid);
    leave_releasing(subscription);
    nats->dropped_before += subscription->dropped;
    subscription->is_gone = 1;
    if (subscription->inside == 0)
        free_subscription(subscription);
}

void znl_nats_discard_subscriptions(znl_nats *nats)
{
    znl_nats_subscription *subscription;
    for (uint32_t at = 0;
            (subscription = znl_nats_table_next(&nats->subscriptions, &at)) != NULL;)
        discard(subscription);
}

static void send_sub(znl_nats_subscription *subscription)
{
    char line[ZNL_NATS_SUBJECT_BYTES_MAX * 2 + 64];
    int size = snprintf(line, sizeof line, "SUB %s%s%s %" PRIu64 "\r\n", subscription->subject,
            subscription->queue != NULL ? " " : "",
            subscription->queue != NULL ? subscription->queue : "", subscription->sid);
    znl_nats_control(subscription->nats, line, (size_t)size);
}

static void send_unsub(znl_nats_subscription *subscription)
{
    char line[64];
    int size = snprintf(line, sizeof line, "UNSUB %" PRIu64 "\r\n", subscription->sid);
    if (subscription->nats->phase == ZNL_NATS_READY && !subscription->is_stopped)
        znl_nats_control(subscription->nats, line, (size_t)size);
}

void znl_nats_subscribe_all(znl_nats *nats)
{
    znl_nats_subscription *subscription;
    for (uint32_t at = 0;
            (subscription = znl_nats_table_next(&nats->subscriptions, &at)) != NULL;) {
        if (!subscription->is_stopped)
            send_sub(subscription);
    }
}

static char *copy_text(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = znl_malloc(size);
    return copy != NULL ? memcpy(copy, text, size) : NULL;
}

int znl_nats_subscribe(znl_nats_subscription **out, znl_nats *nats, const char *subject,
        const char *queue, size_t max_messages, size_t max_bytes,
        void (*on_message)(void *user, const znl_nats_message *message), void *user)
{
    if (!znl_nats_is_pattern(subject) || (queue != NULL && !znl_nats_is_subject(queue)))
        return ZNL_E_INVALID;
    znl_nats_subscription *subscription = znl_calloc(1, sizeof *subscription);
    if (subscription == NULL)
        return ZNL_E_NOMEM;
    subscription->nats = nats;
    subscription->last = &subscription->first;
    subscription->on_message = on_message;
    subscription->user = user;
    subscription->max_messages = max_messages != 0 ? max_messages : ZNL_NATS_WAITING_DEFAULT;
    subscription->max_bytes = max_bytes != 0 ? max_bytes : ZNL_NATS_WAITING_BYTES_DEFAULT;
    subscription->subject = copy_text(subject);
    subscription->queue = queue != NULL ? copy_text(queue) : NULL;
    int err = subscription->subject == NULL || (queue != NULL && subscription->queue == NULL)
            ? ZNL_E_NOMEM
            : znl_nats_table_put(&nats->subscriptions, subscription, &subscription->sid);
    if (err != 0) {
        free_subscription(subscription);
        return err;
    }
    if (nats->phase == ZNL_NATS_READY)
        send_sub(subscription);
    *out = subscription;
    return 0;
}

void znl_nats_unsubscribe(znl_nats_subscription *subscription)
{
    if (subscription == NULL || subscription->is_gone)
        return;
    send_unsub(subscription);
    discard(subscription);
}

void znl_nats_stop(znl_nats_subscription *subscription)
{
    send_unsub(subscription);
    subscription->is_stopped = 1;
}

size_t znl_nats_waiting(const znl_nats_subscription *subscription, size_t *bytes)
{
    if (bytes != NULL)
        *bytes = subscription->waiting_bytes;
    return subscription->waiting;
}

znl_nats_counters znl_nats_get_counters(const znl_nats *nats)
{
    znl_nats_counters counters = nats->counters;
    const znl_nats_subscription *subscription;
    counters.dropped = nats->dropped_before;
    for (uint32_t at = 0;
            (subscription = znl_nats_table_next(&nats->subscriptions, &at)) != NULL;)
        counters.dropped += subscription->dropped;
    return counters;
}

/* --- delivery ---------------------------------------------------------------------------------------- */

/* True when the subscription, or the connection, is gone. */
static int hand_over(znl_nats_subscription *subscription, const znl_nats_message *message)
{
    subscription->inside++;
    subscription->on_message(subscription->user, message);
    int is_gone = subscription->is_gone;
    if (--subscription->inside == 0 && is_gone)
        free_subscription(subscription);
    return is_gone;
}

void znl_nats_deliver(znl_nats *nats, const znl_nats_op *op)
{
    znl_nats_subscription *subscription = znl_nats_table_get(&nats->subscriptions, op->sid);
    nats->counters.received++;
    nats->counters.received_bytes += op->size;
    if (subscription == NULL)
        return; /* it was on its way */
    const znl_nats_message message = {.subject = op->subject,
            .reply = op->reply,
            .data = op->data,
            .size = op->size,
            .headers = {op->lines, op->lines_size},
            .status = op->status,
            .status_text = op->status_text};
    if (!subscription->is_paused && subscription->first == NULL)
        hand_over(subscription, &message);
    else if (keep(subscription, &message) && subscription->is_paused &&
            subscription->on_waiting != NULL)
        subscription->on_waiting(subscription->user); /* nothing may follow */
}

/* Puts it at the end of those whose messages are to be handed over. */
static void enter_releasing(znl_nats_subscription *subscription)
{
    znl_nats *nats = subscription->nats;
    znl_loop_defer(nats->loop, &nats->release);
    if (subscription->releasing_link != NULL)
        return;
    subscription->releasing_next = NULL;
    subscription->releasing_link = nats->releasing_end;
    *nats->releasing_end = subscription;
    nats->releasing_end = &subscription->releasing_next;
}

void znl_nats_pause(znl_nats_subscription *subscription, int on)
{
    subscription->is_paused = on != 0;
    if (on)
        leave_releasing(subscription);
    else if (subscription->first != NULL)
        enter_releasing(subscription);
}

/* Some messages of each, then the loop has its turn. */
void znl_nats_release(znl_deferred *deferred)
{
    znl_nats *nats = (znl_nats *)(void *)((char *)deferred - offsetof(znl_nats, release));
    uint64_t until = znl_clock_mono_ms() + ZNL_BATCH_MS;
    znl_nats_enter(nats);
    for (unsigned round = 0; round < ZNL_BATCH_ROUNDS && nats->releasing != NULL; round++) {
        znl_nats_subscription *subscription = nats->releasing;
        leave_releasing(subscription);
        int is_gone = 0;
        for (unsigned i = 0; i < ZNL_BATCH_MESSAGES && !is_gone && !subscription->is_paused &&
                subscription->first != NULL;
                i++) {
            struct znl_nats_kept *kept = take_kept(subscription);
            is_gone = hand_over(subscription, &kept->message);
            znl_free(kept);
        }
        if (!is_gone && !subscription->is_paused && subscription->first != NULL)
            enter_releasing(subscription);
        if (znl_clock_mono_ms() >= until)
            break;
    }
    if (!nats->is_closed && nats->releasing != NULL)
        znl_loop_defer(nats->loop, &nats->release);
    znl_nats_leave(nats);
}
