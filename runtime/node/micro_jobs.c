/* micro_jobs.c - see micro.h: requests of the peer at work here. SPDX-License-Identifier: MIT */
#include "node/micro_parts.h"

#include "base/alloc.h"
#include "base/err.h"

#include <math.h>

#define BUCKET_BITS_MIN 4u

/* What a stream waits for before on_room. */
enum { WAITS_NOT, WAITS_FOR_CREDIT, WAITS_FOR_CARRIER };

struct job {
    znl_slot slot;      /* first */
    uint32_t next;      /* in its bucket: slot + 1, or 0 */
    uint32_t credit;    /* chunks that may be sent */
    int64_t peer_id;    /* the id the peer gave it */
    znl_micro_job name; /* serial << ZNL_SLOT_BITS | slot */
    uint64_t seq;       /* of the next chunk */
    uint8_t *held;      /* the answer, when the carrier had no room for it: the job is over */
    size_t held_size;
    uint8_t is_stream;
    uint8_t is_flowing;  /* the asker grants credit */
    uint8_t has_version; /* one at a time, as later releases do */
    uint8_t waits;
};

void znl_micro_init_jobs(znl_micro *micro, uint32_t limit)
{
    znl_slots_init(&micro->jobs, sizeof(struct job), limit);
}

/* --- the table by the peer's ids ------------------------------------------------------------------- */

static uint32_t *bucket_of(const znl_micro *micro, int64_t peer_id)
{
    return &micro->buckets[((uint64_t)peer_id * micro->multiplier) >>
            (64 - micro->bucket_bits)];
}

static struct job *job_at(const znl_micro *micro, uint32_t number)
{
    return number > 0 ? znl_slots_at(&micro->jobs, number - 1) : NULL;
}

static struct job *find_peer_id(const znl_micro *micro, int64_t peer_id)
{
    struct job *job = NULL;
    if (micro->buckets != NULL)
        job = job_at(micro, *bucket_of(micro, peer_id));
    while (job != NULL && job->peer_id != peer_id)
        job = job_at(micro, job->next);
    return job;
}

static void insert(znl_micro *micro, struct job *job)
{
    uint32_t *bucket = bucket_of(micro, job->peer_id);
    job->next = *bucket;
    *bucket = job->slot.index + 1;
}

/* Makes the table fit for the jobs there are. ZNL_E_NOMEM: it stays as it is, which is only slower unless
 * there is none. */
static int resize(znl_micro *micro, uint32_t bits)
{
    uint32_t *buckets = znl_calloc((size_t)1 << bits, sizeof *buckets);
    if (buckets == NULL)
        return ZNL_E_NOMEM;
    uint32_t *before = micro->buckets;
    size_t count = before != NULL ? (size_t)1 << micro->bucket_bits : 0;
    micro->buckets = buckets;
    micro->bucket_bits = bits;
    for (size_t i = 0; i < count; i++) {
        struct job *job = job_at(micro, before[i]);
        while (job != NULL) {
            struct job *next = job_at(micro, job->next);
            insert(micro, job);
            job = next;
        }
    }
    znl_free(before);
    return 0;
}

static int enter(znl_micro *micro, struct job *job)
{
    if (micro->buckets == NULL) {
        int err = resize(micro, BUCKET_BITS_MIN);
        if (err != 0)
            return err;
    } else if (micro->jobs.count > (uint32_t)1 << micro->bucket_bits) {
        resize(micro, micro->bucket_bits + 1);
    }
    insert(micro, job);
    return 0;
}

/* Ends a job: nothing of it is left. */
static void retire(znl_micro *micro, struct job *job)
{
    uint32_t *at = bucket_of(micro, job->peer_id);
    while (*at != job->slot.index + 1)
        at = &job_at(micro, *at)->next;
    *at = job->next;
    if (job->waits == WAITS_FOR_CREDIT)
        micro->credit_waits--;
    micro->held_bytes -= job->held_size;
    znl_free(job->held);
    znl_slots_give(&micro->jobs, job);
    if (micro->jobs.count == 0 && micro->bucket_bits > BUCKET_BITS_MIN + 2) {
        znl_free(micro->buckets); /* as the slots, it is small again after a burst */
        micro->buckets = NULL;
        micro->bucket_bits = 0;
    }
    znl_micro_pace(micro);
}

/* The job at work under that name, or NULL. */
static struct job *find(const znl_micro *micro, znl_micro_job name)
{
    if (name == 0 || micro->is_closed)
        return NULL;
    struct job *job = znl_slots_at(&micro->jobs, (uint32_t)(name & (ZNL_SLOTS_MAX - 1)));
    return job != NULL && job->name == name && job->held == NULL ? job : NULL;
}

/* --- refusals -------------------------------------------------------------------------------------- */

/* The status in full: see znl_micro_refusal. */
static znl_modem_refusal resolve(const znl_micro *micro, const znl_micro_refusal *refusal,
        int is_stream, int has_version)
{
    znl_modem_refusal out = {.is_number = 1, .number = 500, .text = refusal->text};
    if (out.text.data == NULL && refusal->err != 0)
        out.text = znl_frame_text(znl_err_text(refusal->err));
    if (refusal->is_number) {
        /* 200 would be success. */
        if (isfinite(refusal->number) && (refusal->number < 200 || refusal->number > 200))
            out.number = refusal->number;
    } else if (refusal->status.data != NULL) {
        out.is_number = 0;
        out.status = refusal->status;
    } else if (refusal->err != 0 && micro->options.is_ours) {
        out.is_number = 0;
        out.status = znl_frame_text(znl_err_code(refusal->err));
    } else if (is_stream && !micro->options.is_ours && !has_version) {
        out.text = znl_frame_text("Unknown error");
    }
    return out;
}

static int put_refusal(znl_micro *micro, znl_buffer *out, const struct job *job,
        const znl_micro_refusal *refusal)
{
    znl_modem_refusal resolved = resolve(micro, refusal, job->is_stream, job->has_version);
    if (!job->is_stream)
        return znl_modem_put_refusal(out, job->peer_id, &resolved);
    /* 0, whatever came before, is what 2.0.15 sends (spec, section 6). */
    uint64_t seq = job->has_version ? job->seq : 0;
    return znl_modem_put_stream_refusal(out, job->peer_id, seq, &resolved, job->has_version);
}

/* Sends the answer of something that is no job. */
static void send_loose(znl_micro *micro, const znl_buffer *out, int err)
{
    if (err == 0)
        err = znl_micro_send(micro, out);
    znl_micro_composed(micro);
    if (err != 0)
        micro->counters.unanswered++;
}

void znl_micro_refuse_frame(
        znl_micro *micro, const znl_modem *frame, const znl_micro_refusal *refusal)
{
    const struct job job = {.peer_id = frame->id,
            .is_stream = frame->is_stream != 0,
            .has_version = frame->is_stream && frame->has_version};
    znl_buffer *out = znl_micro_compose(micro);
    send_loose(micro, out, put_refusal(micro, out, &job, refusal));
}

/* --- requests in ----------------------------------------------------------------------------------- */

/* Makes the frame a job and hands it up. */
static void begin(znl_micro *micro, const znl_modem *frame, znl_micro_request *request)
{
    void *item;
    struct job *before = find_peer_id(micro, frame->id);
    if (before != NULL) { /* the later one takes the place, as in the originals */
        znl_micro_job name = before->name;
        int is_held = before->held != NULL;
        retire(micro, before);
        micro->counters.replaced++;
        if (!is_held)
            micro->events->on_abort(micro->user, name);
        if (micro->is_closed)
            return;
    }
    int err = znl_slots_take(&micro->jobs, &item);
    if (err == 0) {
        struct job *job = item;
        job->peer_id = frame->id;
        job->name = ++micro->serial << ZNL_SLOT_BITS | job->slot.index;
        job->is_stream = frame->is_stream != 0;
        if (job->is_stream && micro->options.is_ours && frame->credit > 0) {
            job->is_flowing = 1;
            job->credit = frame->credit;
        } else if (job->is_stream && frame->has_version) {
            job->is_flowing = job->has_version = 1;
            job->credit = 1;
        }
        request->job = job->name;
        request->is_stream = job->is_stream;
        request->is_flowing = job->is_flowing;
        err = enter(micro, job);
        if (err != 0)
            znl_slots_give(&micro->jobs, job);
    }
    if (err != 0) {
        const char *code = err == ZNL_E_LIMIT ? "OVERLOADED" : znl_err_code(err);
        const znl_micro_refusal refusal = {.status = znl_frame_text(code),
                .text = znl_frame_text("too many requests at once")};
        micro->counters.overloaded++;
        znl_micro_refuse_frame(micro, frame, &refusal);
        return;
    }
    micro->counters.requests++;
    micro->events->on_request(micro->user, request);
}

static void take_heartbeat(znl_micro *micro, const znl_modem *frame)
{
    znl_micro_beaten(micro);
    if (frame->is_twoway && frame->has_id) {
        znl_buffer *out = znl_micro_compose(micro);
        send_loose(micro, out, znl_modem_put_answer(out, frame->id, (znl_frame){0}));
    }
}

void znl_micro_take_request(znl_micro *micro, const znl_modem *frame)
{
    znl_buffer scratch = {0};
    znl_micro_request request = {.data = frame->body};
    int err = znl_modem_text(frame->url, &scratch, &request.url);
    if (err == 0 && znl_frame_equal(request.url, znl_frame_text("/-/heartbeat"))) {
        take_heartbeat(micro, frame);
    } else if (frame->is_twoway && !frame->has_id) {
        micro->counters.malformed++; /* no answer could be told from another */
    } else if (err != 0) {
        micro->counters.malformed++;
        if (frame->is_twoway) {
            const znl_micro_refusal refusal = {
                    .text = znl_frame_text("the request has no url")};
            znl_micro_refuse_frame(micro, frame, &refusal);
        }
    } else {
        if (micro->options.is_ours && frame->deadline_ms > 0)
            request.deadline_ms = znl_micro_now(micro) + frame->deadline_ms;
        if (frame->is_twoway) {
            begin(micro, frame, &request);
        } else {
            micro->counters.pushes++;
            micro->events->on_request(micro->user, &request);
        }
    }
    znl_buffer_fini(&scratch);
}

void znl_micro_take_abort(znl_micro *micro, const znl_modem *frame)
{
    struct job *job = frame->has_target ? find_peer_id(micro, frame->target) : NULL;
    if (job == NULL)
        return; /* unknown, or over: answer and abort have crossed */
    znl_micro_job name = job->name;
    int is_held = job->held != NULL;
    retire(micro, job);
    if (is_held)
        return;
    micro->counters.aborts++;
    micro->events->on_abort(micro->user, name);
}

void znl_micro_take_grant(znl_micro *micro, const znl_modem *frame)
{
    struct job *job = frame->has_target ? find_peer_id(micro, frame->target) : NULL;
    int64_t value;
    if (job == NULL || !job->is_flowing || job->held != NULL)
        return;
    if (job->has_version) {
        if (!znl_modem_integer(frame->seq, &value) || value < 0 || (uint64_t)value >= job->seq)
            return; /* a chunk that was never sent */
        value = 1;
    } else if (!znl_modem_integer(frame->grant_credit, &value) || value <= 0) {
        return;
    }
    uint32_t room = UINT32_MAX - job->credit;
    job->credit += value < room ? (uint32_t)value : room;
    if (job->waits == WAITS_FOR_CREDIT) {
        job->waits = WAITS_NOT;
        micro->credit_waits--;
        znl_micro_job name = job->name;
        znl_micro_pace(micro);
        micro->events->on_room(micro->user, name);
    }
}

/* --- answers out ----------------------------------------------------------------------------------- */

/* Keeps the last frame of a job until there is room. 0, ZNL_E_LIMIT, ZNL_E_NOMEM. A single one is kept whatever
 * its size. */
static int hold(znl_micro *micro, struct job *job, const znl_buffer *out)
{
    size_t held = micro->held_bytes, limit = micro->options.max_held_bytes;
    if (held > 0 && (held >= limit || out->size > limit - held)) {
        znl_micro_flooded(micro);
        return ZNL_E_LIMIT;
    }
    job->held = znl_malloc(out->size);
    if (job->held == NULL)
        return ZNL_E_NOMEM;
    memcpy(job->held, out->data, out->size);
    job->held_size = out->size;
    micro->held_bytes += out->size;
    micro->has_backlog = 1;
    return 0;
}

/* Sends the last frame of a job, composed with `err`, and ends it; keeps it when there is no room. */
static int complete(znl_micro *micro, struct job *job, const znl_buffer *out, int err)
{
    if (err == 0)
        err = znl_micro_send(micro, out);
    if (err == ZNL_E_BUSY)
        err = hold(micro, job, out);
    znl_micro_composed(micro);
    if (job->held == NULL)
        retire(micro, job);
    if (err != 0)
        micro->counters.unanswered++;
    return err;
}

int znl_micro_refuse(znl_micro *micro, znl_micro_job name, const znl_micro_refusal *refusal)
{
    struct job *job = find(micro, name);
    if (job == NULL)
        return ZNL_E_NOT_FOUND;
    znl_buffer *out = znl_micro_compose(micro);
    return complete(micro, job, out, put_refusal(micro, out, job, refusal));
}

int znl_micro_answer(znl_micro *micro, znl_micro_job name, znl_frame data)
{
    struct job *job = find(micro, name);
    if (job == NULL)
        return ZNL_E_NOT_FOUND;
    if (job->is_stream) {
        const znl_micro_refusal refusal = {.is_number = 1,
                .number = 500,
                .text = znl_frame_text("Invalid async iterable")};
        return znl_micro_refuse(micro, name, &refusal);
    }
    znl_buffer *out = znl_micro_compose(micro);
    return complete(micro, job, out, znl_modem_put_answer(out, job->peer_id, data));
}

static void wait_for(znl_micro *micro, struct job *job, uint8_t waits)
{
    micro->credit_waits += waits == WAITS_FOR_CREDIT;
    micro->credit_waits -= job->waits == WAITS_FOR_CREDIT;
    job->waits = waits;
    if (waits == WAITS_FOR_CARRIER)
        micro->has_backlog = 1;
    znl_micro_pace(micro);
}

int znl_micro_chunk(znl_micro *micro, znl_micro_job name, znl_frame payload)
{
    struct job *job = find(micro, name);
    if (job == NULL)
        return ZNL_E_NOT_FOUND;
    if (!job->is_stream)
        return ZNL_E_INVALID;
    if (!micro->options.is_ours &&
            (payload.data == NULL || znl_frame_equal(payload, znl_frame_text("null"))))
        return ZNL_E_INVALID;
    if (job->is_flowing && job->credit == 0) {
        wait_for(micro, job, WAITS_FOR_CREDIT);
        return ZNL_E_BUSY;
    }
    znl_buffer *out = znl_micro_compose(micro);
    int err = znl_modem_put_chunk(out, job->peer_id, job->seq, payload, job->has_version);
    if (err == 0)
        err = znl_micro_send(micro, out);
    znl_micro_composed(micro);
    if (err == 0) {
        job->seq++;
        job->credit -= job->is_flowing;
    }
    if (err == ZNL_E_BUSY)
        wait_for(micro, job, WAITS_FOR_CARRIER);
    else if (job->waits != WAITS_NOT)
        wait_for(micro, job, WAITS_NOT);
    return err;
}

int znl_micro_finish(znl_micro *micro, znl_micro_job name)
{
    struct job *job = find(micro, name);
    if (job == NULL)
        return ZNL_E_NOT_FOUND;
    if (!job->is_stream)
        return znl_micro_answer(micro, name, (znl_frame){0});
    znl_buffer *out = znl_micro_compose(micro);
    return complete(micro, job, out,
            znl_modem_put_final(out, job->peer_id, job->seq, job->has_version));
}

/* --- later, and the end ---------------------------------------------------------------------------- */

/* Answers that are kept go first: their jobs are over, and nothing can be done about them but this. */
static int flush_held(znl_micro *micro)
{
    struct job *job = znl_slots_from(&micro->jobs, 0);
    while (job != NULL) {
        uint32_t next = job->slot.index + 1;
        if (job->held != NULL) {
            const znl_buffer out = {job->held, job->held_size, job->held_size};
            int err = znl_micro_send(micro, &out);
            if (err == ZNL_E_BUSY)
                return err;
            micro->counters.unanswered += err != 0;
            retire(micro, job);
        }
        job = znl_slots_from(&micro->jobs, next);
    }
    return 0;
}

int znl_micro_flush_jobs(znl_micro *micro)
{
    int err = flush_held(micro);
    if (err != 0)
        return err;
    /* Each stream in turn, until one of them finds the carrier full again. */
    uint32_t first = micro->room_next, at = first;
    for (int round = 0; round < 2;) {
        struct job *job = znl_slots_from(&micro->jobs, at);
        if (job == NULL || (round == 1 && job->slot.index >= first)) {
            round++;
            at = 0;
            continue;
        }
        at = job->slot.index + 1;
        if (job->waits != WAITS_FOR_CARRIER)
            continue;
        job->waits = WAITS_NOT;
        micro->room_next = at;
        micro->events->on_room(micro->user, job->name);
        if (micro->is_closed)
            return 0;
        if (micro->has_backlog)
            return ZNL_E_BUSY;
    }
    return 0;
}

void znl_micro_close_jobs(znl_micro *micro)
{
    struct job *job;
    uint32_t next = 0;
    while ((job = znl_slots_from(&micro->jobs, next)) != NULL) {
        znl_micro_job name = job->name;
        int is_held = job->held != NULL;
        next = job->slot.index + 1;
        retire(micro, job);
        if (!is_held)
            micro->events->on_abort(micro->user, name);
    }
}
