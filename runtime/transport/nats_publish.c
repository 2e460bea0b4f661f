/* nats_publish.c - publishing; see nats.h. SPDX-License-Identifier: MIT */
#include "transport/nats_parts.h"

#include "base/err.h"

#define NUMBER_BYTES 20u
#define HEADER_LINE "NATS/1.0\r\n"

static uint8_t *put(uint8_t *at, const void *from, size_t size)
{
    if (size > 0)
        memcpy(at, from, size);
    return at + size;
}

static uint8_t *put_number(uint8_t *at, size_t value)
{
    uint8_t digits[NUMBER_BYTES];
    size_t count = 0;
    do {
        digits[count++] = (uint8_t)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    while (count > 0)
        *at++ = digits[--count];
    return at;
}

static int check(znl_nats *nats, const char *subject, const char *reply,
        const znl_nats_headers *headers, size_t total)
{
    if (!znl_nats_is_subject(subject) || (reply != NULL && !znl_nats_is_subject(reply)))
        return ZNL_E_INVALID;
    if (nats->phase != ZNL_NATS_READY)
        return nats->is_closed ? ZNL_E_CLOSED : ZNL_E_OFFLINE;
    if (headers != NULL && headers->size > 0 && !nats->has_headers)
        return ZNL_E_UNSUPPORTED;
    return total > nats->max_payload ? ZNL_E_TOO_BIG : 0;
}

int znl_nats_publish(znl_nats *nats, const char *subject, const char *reply,
        const znl_nats_headers *headers, const void *data, size_t size)
{
    int has_headers = headers != NULL && headers->size > 0;
    size_t head = has_headers ? sizeof HEADER_LINE - 1 + headers->size + 2 : 0;
    size_t total = head + size;
    uint8_t *from;
    int err = check(nats, subject, reply, headers, total);
    if (err == 0) {
        size_t subject_size = strlen(subject), reply_size = reply != NULL ? strlen(reply) : 0;
        size_t most = subject_size + reply_size + total + 2 * NUMBER_BYTES + 16;
        size_t queued = znl_stream_queued(nats->stream);
        /* An empty outbox takes any message. */
        if (queued > 0 &&
                (queued >= nats->max_outbox_bytes || most > nats->max_outbox_bytes - queued))
            err = ZNL_E_BUSY;
        else
            err = znl_stream_reserve(nats->stream, most, &from);
        if (err == 0) {
            uint8_t *at = put(from, has_headers ? "HPUB " : "PUB ", has_headers ? 5 : 4);
            at = put(at, subject, subject_size);
            *at++ = ' ';
            if (reply != NULL) {
                at = put(at, reply, reply_size);
                *at++ = ' ';
            }
            if (has_headers) {
                at = put_number(at, head);
                *at++ = ' ';
            }
            at = put_number(at, total);
            at = put(at, "\r\n", 2);
            if (has_headers) {
                at = put(at, HEADER_LINE, sizeof HEADER_LINE - 1);
                at = put(at, headers->lines, headers->size);
                at = put(at, "\r\n", 2);
            }
            at = put(at, data, size);
            at = put(at, "\r\n", 2);
            znl_stream_commit(nats->stream, (size_t)(at - from));
            nats->counters.sent++;
            nats->counters.sent_bytes += size;
            return 0;
        }
    }
    nats->counters.refused++;
    /* The stream has ended, and says so soon. */
    return err == ZNL_E_CLOSED && !nats->is_closed ? ZNL_E_OFFLINE : err;
}
