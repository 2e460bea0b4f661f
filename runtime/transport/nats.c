/* nats.c - the life of a connection to NATS servers; see nats.h and nats_parts.h. SPDX-License-Identifier: MIT */
#include "transport/nats_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"

#include <sodium.h>
#include <stdio.h>
#include <strings.h>

/* Looks without a sign of life, each a ping later: the connection is dead. */
#define SILENT_TICKS 2u
#define BACKOFF_STEPS 16u
/* A server handles what it reads at once together: with 4 KiB it works half as much again for each message. */
#define EARLY_BYTES (32u * 1024)
#define INPUT_KEEP_BYTES (64u * 1024)

static void on_timer(znl_timer *timer);

/* --- inside ------------------------------------------------------------------------------------------ */

static void free_nats(znl_nats *nats)
{
    char *const texts[] = {nats->name, nats->own_user, nats->password, nats->token,
            nats->credentials_file, nats->nkey_seed_file, nats->tls_ca_file,
            nats->tls_cert_file, nats->tls_key_file, nats->tls_server_name, nats->nonce,
            nats->inbox_prefix};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (texts[i] != NULL)
            sodium_memzero(texts[i], strlen(texts[i])); /* secrets among them */
        znl_free(texts[i]);
    }
    znl_nats_servers_fini(&nats->servers);
    znl_nats_table_fini(&nats->subscriptions);
    znl_nats_table_fini(&nats->asks);
    znl_buffer_fini(&nats->input);
    znl_tls_release(nats->tls);
    znl_free(nats);
}

void znl_nats_enter(znl_nats *nats)
{
    nats->inside++;
}

/* True when it is gone. */
int znl_nats_leave(znl_nats *nats)
{
    int is_closed = nats->is_closed;
    if (--nats->inside == 0 && is_closed)
        free_nats(nats);
    return is_closed;
}

static void start_timer(znl_nats *nats, uint64_t ms)
{
    znl_wheel_start(znl_loop_wheel(nats->loop), &nats->timer, znl_loop_now_ms(nats->loop) + ms,
            on_timer);
}

/* --- the end of an attempt, or of a connection ------------------------------------------------------- */

/* Between half of the wait and all of it: many clients of one server that is gone do not come back together. */
static uint64_t next_wait(znl_nats *nats)
{
    uint64_t wait = nats->reconnect_min_ms;
    for (uint32_t i = 1; i < nats->attempts && i < BACKOFF_STEPS; i++)
        wait *= 2;
    if (wait > nats->reconnect_max_ms)
        wait = nats->reconnect_max_ms;
    return wait / 2 + znl_random_u64() % (wait / 2 + 1);
}

/* Forgets the stream and tries the next server: at once while there are others, with a wait when all have been
 * tried. */
static void lose(znl_nats *nats, int err, const char *text)
{
    char why[ZNL_NATS_TEXT_BYTES + sizeof nats->server_text + 2];
    int was_ready = nats->phase == ZNL_NATS_READY;
    if (err == 0)
        err = ZNL_E_GONE;
    /* Who dials names the address, too. */
    if (strncmp(text, nats->server_text, strlen(nats->server_text)) == 0)
        snprintf(why, sizeof why, "%.255s", text);
    else
        snprintf(why, sizeof why, "%s: %.255s", nats->server_text, text);
    znl_stream_close(nats->stream, 0);
    nats->stream = NULL;
    nats->phase = ZNL_NATS_IDLE;
    nats->input_need = 0;
    nats->input.size = 0;
    nats->is_private = 0;
    nats->is_broken = 0;
    if (was_ready) {
        nats->state = ZNL_NATS_RECONNECTING;
        nats->servers.tried = 0;
        /* A server that takes us and throws us out again is not asked ever faster than one that refuses us. */
        if (znl_loop_now_ms(nats->loop) - nats->ready_at_ms >= nats->reconnect_max_ms)
            nats->attempts = 0;
        else
            nats->attempts++;
        start_timer(nats,
                nats->attempts > 0 ? next_wait(nats)
                                   : znl_random_u64() % (nats->reconnect_min_ms + 1));
    } else {
        if (nats->servers.tried >= nats->servers.count)
            nats->attempts++;
        start_timer(nats, nats->servers.tried >= nats->servers.count ? next_wait(nats) : 0);
    }
    znl_nats_enter(nats);
    nats->events->on_state(nats->user, nats->state, err, why);
    if (!nats->is_closed && was_ready)
        znl_nats_fail_requests(nats);
    znl_nats_leave(nats);
}

void znl_nats_control(znl_nats *nats, const void *data, size_t size)
{
    if (nats->stream == NULL || znl_stream_write(nats->stream, data, size) != ZNL_E_NOMEM)
        return; /* when it has ended, on_end tells */
    nats->is_broken = 1;
    start_timer(nats, 0);
}

/* --- what the server says ---------------------------------------------------------------------------- */

static int make_tls(znl_nats *nats, char *text, size_t size)
{
    const znl_tls_options options = {.authorities = nats->tls_ca_file,
            .certificate = nats->tls_cert_file,
            .key = nats->tls_key_file,
            .server_name = nats->tls_server_name,
            .trusts_anyone = nats->tls_insecure};
    return nats->tls != NULL ? 0 : znl_tls_new(&nats->tls, &options, text, size);
}

static int log_in(znl_nats *nats, char *text, size_t size)
{
    nats->phase = ZNL_NATS_LOGGING_IN;
    return znl_nats_log_in(nats, text, size);
}

/* The first INFO. `is_alone`: nothing came after it. 0, or why the attempt ends, with `text`. */
static int greet(
        znl_nats *nats, const znl_nats_info *info, int is_alone, char *text, size_t size)
{
    int has_tls = nats->wants_tls || nats->server->has_tls;
    znl_free(nats->nonce);
    nats->nonce = NULL;
    if (info->nonce.size > 0) {
        nats->nonce = znl_calloc(1, info->nonce.size + 1);
        if (nats->nonce == NULL)
            return ZNL_E_NOMEM;
        memcpy(nats->nonce, info->nonce.data, info->nonce.size);
    }
    if (has_tls && !info->needs_tls && !info->offers_tls) {
        snprintf(text, size, "TLS is asked for, and the server has none");
        return ZNL_E_REFUSED;
    }
    if (!has_tls && !info->needs_tls)
        return log_in(nats, text, size);
    /* What came in plain after it may be from anybody. */
    if (!is_alone) {
        snprintf(text, size, "bytes in plain after the server asked for TLS");
        return ZNL_E_PROTO;
    }
    int err = make_tls(nats, text, size);
    if (err == 0)
        err = znl_stream_start_tls(nats->stream, nats->tls,
                nats->server->tls_name != NULL ? nats->server->tls_name : nats->server->host,
                nats->connect_timeout_ms);
    nats->phase = ZNL_NATS_SHAKING;
    return err;
}

/* 0, or why the connection ends, with `text`. */
static int take_info(
        znl_nats *nats, const znl_nats_op *op, int is_alone, char *text, size_t size)
{
    znl_nats_info info;
    if (znl_nats_read_info(op->text, &info) != 0) {
        snprintf(text, size, "INFO is no JSON object");
        return ZNL_E_PROTO;
    }
    if (info.max_payload > 0)
        nats->max_payload = info.max_payload < ZNL_NATS_MESSAGE_BYTES_MAX
                ? (size_t)info.max_payload
                : ZNL_NATS_MESSAGE_BYTES_MAX;
    int is_first = nats->phase == ZNL_NATS_GREETING;
    int has_tls = nats->is_private;
    if (is_first) {
        nats->has_headers = info.has_headers != 0;
        has_tls = nats->wants_tls || nats->server->has_tls || info.needs_tls;
    }
    znl_nats_servers_learn(&nats->servers, &info, &nats->server, has_tls, nats->is_private);
    if (is_first && nats->max_payload == 0) {
        snprintf(text, size, "INFO without max_payload");
        return ZNL_E_PROTO;
    }
    return is_first ? greet(nats, &info, is_alone, text, size) : 0;
}

static void ready(znl_nats *nats)
{
    int was_connected = nats->state == ZNL_NATS_RECONNECTING;
    nats->phase = ZNL_NATS_READY;
    nats->state = ZNL_NATS_CONNECTED;
    nats->pings_sent = nats->pongs_seen = 0;
    nats->ready_at_ms = znl_loop_now_ms(nats->loop);
    nats->servers.tried = 0;
    nats->counters.reconnects += (uint64_t)was_connected;
    start_timer(nats, nats->ping_ms);
    znl_nats_subscribe_all(nats);
    nats->events->on_state(nats->user, ZNL_NATS_CONNECTED, 0, nats->server_text);
}

static int contains(znl_frame text, const char *word)
{
    size_t size = strlen(word);
    for (size_t i = 0; i + size <= text.size; i++) {
        if (strncasecmp((const char *)text.data + i, word, size) == 0)
            return 1;
    }
    return 0;
}

/* What is between the double quotes, as in: Permissions Violation for Publish to "a.b". */
static void quoted(const char *text, char *out, size_t size)
{
    const char *from = strchr(text, '"');
    const char *to = from != NULL ? strchr(from + 1, '"') : NULL;
    if (to != NULL)
        snprintf(out, size, "%.*s", (int)(to - from - 1), from + 1);
}

static int kind_of(znl_frame text)
{
    static const struct {
        const char *words;
        int err;
    } kinds[] = {
            {"authorization", ZNL_E_REFUSED},
            {"authentication", ZNL_E_REFUSED}, /* expired, revoked, too late */
            {"credentials", ZNL_E_REFUSED},
            {"maximum connections", ZNL_E_REFUSED},
            {"account", ZNL_E_REFUSED},
            {"slow consumer", ZNL_E_BUSY},
            {"maximum payload", ZNL_E_TOO_BIG},
            {"stale connection", ZNL_E_TIMEOUT},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (contains(text, kinds[i].words))
            return kinds[i].err;
    }
    return ZNL_E_GONE;
}

/* 0, or why the connection ends, with `text`: the server ends it after most errors, and it need not be waited for.
 * The connection may be closed afterwards. */
static int take_error(znl_nats *nats, const znl_nats_op *op, char *text, size_t room)
{
    char subject[ZNL_NATS_TEXT_BYTES] = "";
    size_t size = op->text.size < room - 1 ? op->text.size : room - 1;
    for (size_t i = 0; i < size; i++)
        text[i] = op->text.data[i] >= ' ' && op->text.data[i] < 0x7f ? (char)op->text.data[i]
                                                                     : '?';
    text[size] = 0;
    int is_permission = contains(op->text, "permissions violation") ||
            contains(op->text, "invalid subject") ||
            contains(op->text, "invalid publish subject");
    int is_subscriptions = contains(op->text, "maximum subscriptions");
    if (nats->phase != ZNL_NATS_READY || (!is_permission && !is_subscriptions))
        return kind_of(op->text);
    quoted(text, subject, sizeof subject);
    nats->events->on_error(
            nats->user, is_permission ? ZNL_E_REFUSED : ZNL_E_LIMIT, subject, text);
    if (!nats->is_closed && contains(op->text, "violation for subscription"))
        znl_nats_refused(nats, subject);
    return 0;
}

/* 0, or why the connection ends, with `text`. The connection may be closed afterwards. */
static int take(znl_nats *nats, znl_nats_op *op, int is_alone, char *text, size_t size)
{
    if (nats->phase == ZNL_NATS_GREETING && op->kind != ZNL_NATS_INFO &&
            op->kind != ZNL_NATS_ERR) {
        snprintf(text, size, "no INFO");
        return ZNL_E_PROTO;
    }
    switch (op->kind) {
    case ZNL_NATS_MSG:
        if (nats->phase == ZNL_NATS_READY)
            znl_nats_deliver(nats, op);
        break;
    case ZNL_NATS_INFO:
        return take_info(nats, op, is_alone, text, size);
    case ZNL_NATS_PING:
        if (znl_stream_queued(nats->stream) > nats->max_outbox_bytes + ZNL_NATS_CONTROL_BYTES) {
            snprintf(text, size, "the server asks and does not read");
            return ZNL_E_LIMIT;
        }
        znl_nats_control(nats, "PONG\r\n", 6);
        break;
    case ZNL_NATS_PONG:
        if (nats->phase == ZNL_NATS_LOGGING_IN)
            ready(nats);
        else
            znl_nats_pong(nats);
        break;
    case ZNL_NATS_ERR:
        return take_error(nats, op, text, size);
    case ZNL_NATS_NOISE:
    case ZNL_NATS_OK:
        break;
    }
    return 0;
}

/* --- bytes ------------------------------------------------------------------------------------------- */

/* Takes operations from `bytes` while they are whole. Returns 0 when the connection goes on; *taken: the bytes they
 * had. */
static int take_all(znl_nats *nats, uint8_t *bytes, size_t size, size_t *taken)
{
    const znl_stream *stream = nats->stream;
    char text[ZNL_NATS_TEXT_BYTES] = "";
    *taken = 0;
    while (*taken < size) {
        znl_nats_op op;
        size_t used;
        int got = znl_nats_read(bytes + *taken, size - *taken, &op, &used);
        if (got == 0) {
            nats->input_need = used;
            return 0;
        }
        int err = got;
        if (got == 1) {
            *taken += used;
            err = take(nats, &op, *taken == size, text, sizeof text);
            if (nats->is_closed || nats->stream != stream)
                return ZNL_E_CLOSED;
        }
        if (err != 0) {
            if (got < 0)
                snprintf(text, sizeof text, "what it sends is not NATS");
            lose(nats, err, text[0] != 0 ? text : znl_err_text(err));
            return err;
        }
    }
    nats->input_need = 0;
    return 0;
}

/* Adds to the begin of an operation just what it lacks, as far as that is known. Returns the bytes used, or
 * SIZE_MAX without memory. */
static size_t complete(znl_nats *nats, const uint8_t *data, size_t size)
{
    size_t count = size;
    if (nats->input_need > 0) {
        if (nats->input_need - nats->input.size < count)
            count = nats->input_need - nats->input.size;
    } else {
        const uint8_t *end = memchr(data, '\n', size);
        if (end != NULL)
            count = (size_t)(end - data) + 1;
    }
    return znl_buffer_append(&nats->input, data, count) == 0 ? count : SIZE_MAX;
}

static void feed(znl_nats *nats, uint8_t *data, size_t size)
{
    size_t taken;
    while (size > 0) {
        if (nats->input.size == 0) {
            if (take_all(nats, data, size, &taken) != 0)
                return;
            if (taken < size &&
                    znl_buffer_append(&nats->input, data + taken, size - taken) != 0)
                lose(nats, ZNL_E_NOMEM, znl_err_text(ZNL_E_NOMEM));
            return;
        }
        size_t count = complete(nats, data, size);
        if (count == SIZE_MAX) {
            lose(nats, ZNL_E_NOMEM, znl_err_text(ZNL_E_NOMEM));
            return;
        }
        data += count;
        size -= count;
        if (nats->input.size < nats->input_need)
            return;
        if (take_all(nats, nats->input.data, nats->input.size, &taken) != 0)
            return;
        if (taken > 0) {
            nats->input.size = 0; /* it had no more than one */
            znl_buffer_trim(&nats->input, INPUT_KEEP_BYTES);
        }
    }
}

static void on_data(void *user, uint8_t *data, size_t size)
{
    znl_nats *nats = user;
    nats->silent_ticks = 0;
    nats->heard_ns = uv_hrtime();
    znl_nats_enter(nats);
    feed(nats, data, size);
    znl_nats_leave(nats);
}

static void on_open(void *user)
{
    znl_nats *nats = user;
    char text[ZNL_NATS_TEXT_BYTES] = "";
    if (nats->phase == ZNL_NATS_DIALING) {
        nats->phase = ZNL_NATS_GREETING;
        return;
    }
    nats->is_private = 1;
    znl_nats_enter(nats);
    int err = log_in(nats, text, sizeof text);
    if (err != 0)
        lose(nats, err, text[0] != 0 ? text : znl_err_text(err));
    znl_nats_leave(nats);
}

static void on_end(void *user, int err, const char *text)
{
    znl_nats *nats = user;
    znl_nats_enter(nats);
    lose(nats, err, text);
    znl_nats_leave(nats);
}

static const znl_stream_events stream_events = {
        .on_open = on_open, .on_data = on_data, .on_end = on_end};

/* --- attempts and pings ------------------------------------------------------------------------------ */

static void attempt(znl_nats *nats)
{
    int is_round_over;
    nats->server = znl_nats_servers_take(&nats->servers, &is_round_over);
    snprintf(nats->server_text, sizeof nats->server_text, "%s:%u", nats->server->host,
            (unsigned)nats->server->port);
    const znl_stream_options options = {.host = nats->server->host,
            .port = nats->server->port,
            .timeout_ms = nats->connect_timeout_ms,
            .max_queue_bytes = SIZE_MAX, /* znl_nats_publish() sees to it */
            .early_bytes = EARLY_BYTES};
    int err = znl_stream_connect(&nats->stream, nats->loop, &options, &stream_events, nats);
    nats->phase = ZNL_NATS_DIALING;
    if (err != 0) {
        nats->stream = NULL;
        lose(nats, err, znl_err_text(err));
        return;
    }
    start_timer(nats, nats->connect_timeout_ms);
}

/* A busy program looks late, and a frozen clock jumps: real time has to have passed, too. */
static int is_dead(const znl_nats *nats)
{
    return nats->silent_ticks > SILENT_TICKS &&
            uv_hrtime() - nats->heard_ns >= (uint64_t)nats->ping_ms * SILENT_TICKS * 1000000;
}

static void on_timer(znl_timer *timer)
{
    znl_nats *nats = (znl_nats *)(void *)((char *)timer - offsetof(znl_nats, timer));
    znl_nats_enter(nats);
    if (nats->phase == ZNL_NATS_IDLE) {
        attempt(nats);
    } else if (nats->is_broken) {
        lose(nats, ZNL_E_NOMEM, znl_err_text(ZNL_E_NOMEM));
    } else if (nats->phase != ZNL_NATS_READY) {
        lose(nats, ZNL_E_TIMEOUT,
                nats->phase == ZNL_NATS_DIALING            ? "no connection in time"
                        : nats->phase == ZNL_NATS_GREETING ? "no INFO in time"
                        : nats->phase == ZNL_NATS_SHAKING ? "TLS: hands were not shaken in time"
                                                          : "no answer to the login in time");
    } else if (++nats->silent_ticks, is_dead(nats)) {
        lose(nats, ZNL_E_TIMEOUT, "no answer to pings");
    } else {
        if (nats->pings_sent - nats->pongs_seen < SILENT_TICKS)
            znl_nats_ping(nats);
        start_timer(nats, nats->ping_ms);
    }
    znl_nats_leave(nats);
}

/* --- opening and closing ----------------------------------------------------------------------------- */

static int copy(char **out, const char *text)
{
    if (text == NULL)
        return 0;
    size_t size = strlen(text) + 1;
    *out = znl_malloc(size);
    if (*out == NULL)
        return ZNL_E_NOMEM;
    memcpy(*out, text, size);
    return 0;
}

static int copy_options(znl_nats *nats, const znl_nats_options *options)
{
    const struct {
        char **to;
        const char *from;
    } texts[] = {
            {&nats->name, options->name},
            {&nats->own_user, options->user},
            {&nats->password, options->password},
            {&nats->token, options->token},
            {&nats->credentials_file, options->credentials_file},
            {&nats->nkey_seed_file, options->nkey_seed_file},
            {&nats->tls_ca_file, options->tls_ca_file},
            {&nats->tls_cert_file, options->tls_cert_file},
            {&nats->tls_key_file, options->tls_key_file},
            {&nats->tls_server_name, options->tls_server_name},
            {&nats->inbox_prefix,
                    options->inbox_prefix != NULL ? options->inbox_prefix : "_INBOX"},
    };
    int err = 0;
    for (size_t i = 0; err == 0 && i < sizeof texts / sizeof texts[0]; i++)
        err = copy(texts[i].to, texts[i].from);
    nats->tls_insecure = options->tls_insecure;
    nats->wants_tls = options->tls != 0;
    nats->echo = options->echo != 0;
#define OR(value, fallback) ((value) != 0 ? (value) : (fallback))
    nats->connect_timeout_ms = OR(options->connect_timeout_ms, ZNL_NATS_CONNECT_MS_DEFAULT);
    nats->reconnect_min_ms = OR(options->reconnect_min_ms, ZNL_NATS_RECONNECT_MIN_MS_DEFAULT);
    nats->reconnect_max_ms = OR(options->reconnect_max_ms, ZNL_NATS_RECONNECT_MAX_MS_DEFAULT);
    nats->ping_ms = OR(options->ping_ms, ZNL_NATS_PING_MS_DEFAULT);
    nats->max_outbox_bytes = OR(options->max_outbox_bytes, ZNL_NATS_OUTBOX_BYTES_DEFAULT);
#undef OR
    if (nats->reconnect_max_ms < nats->reconnect_min_ms)
        nats->reconnect_max_ms = nats->reconnect_min_ms;
    return err;
}

/* An address as it may be shown: not where a password can be in it, and nothing that is no text. */
static void show_address(const char *address, char *out, size_t size)
{
    out[0] = 0;
    for (const char *at = address; *at != 0; at++) {
        if (*at <= ' ' || *at >= 0x7f || *at == '@')
            return;
    }
    snprintf(out, size, ", \"%.100s\"", address);
}

static int read_servers(znl_nats *nats, const znl_nats_options *options, char *text)
{
    for (size_t i = 0; i < options->server_count; i++) {
        int err = znl_nats_servers_add(&nats->servers, znl_frame_text(options->servers[i]));
        if (err != 0) {
            char shown[112];
            show_address(options->servers[i], shown, sizeof shown);
            snprintf(text, ZNL_NATS_TEXT_BYTES, "servers: number %zu%s: %s", i + 1, shown,
                    err == ZNL_E_INVALID ? "not an address such as nats://host:4222"
                                         : znl_err_text(err));
            return err == ZNL_E_LIMIT ? ZNL_E_INVALID : err;
        }
    }
    if (nats->servers.count == 0) {
        snprintf(text, ZNL_NATS_TEXT_BYTES, "no server");
        return ZNL_E_INVALID;
    }
    znl_nats_servers_shuffle(&nats->servers);
    return 0;
}

static int check_login(const znl_nats *nats, char *text)
{
    int ways = (nats->own_user != NULL) + (nats->token != NULL) +
            (nats->credentials_file != NULL) + (nats->nkey_seed_file != NULL);
    if (ways > 1 || (nats->password != NULL && nats->own_user == NULL)) {
        snprintf(text, ZNL_NATS_TEXT_BYTES, "%s",
                ways > 1 ? "user, token, credentials and nkey exclude each other"
                         : "a password needs a user");
        return ZNL_E_INVALID;
    }
    return 0;
}

static int prepare(znl_nats *nats, const znl_nats_options *options, char *text)
{
    int err = copy_options(nats, options);
    if (err == 0)
        err = read_servers(nats, options, text);
    if (err == 0)
        err = check_login(nats, text);
    int has_tls = nats->wants_tls || nats->tls_ca_file != NULL || nats->tls_cert_file != NULL;
    for (size_t i = 0; i < nats->servers.count; i++)
        has_tls |= nats->servers.entries[i].has_tls;
    if (err == 0 && has_tls)
        err = make_tls(nats, text, ZNL_NATS_TEXT_BYTES);
    if (err == 0) {
        err = znl_nats_choose_inbox(nats);
        if (err == ZNL_E_INVALID)
            snprintf(text, ZNL_NATS_TEXT_BYTES,
                    "inbox_prefix must be words with dots between them, without asterisks, > "
                    "and white space");
    }
    return err;
}

int znl_nats_open(znl_nats **out, znl_loop *loop, const znl_nats_options *options,
        const znl_nats_events *events, void *user, char *text)
{
    znl_nats *nats = znl_calloc(1, sizeof *nats);
    text[0] = 0;
    if (nats == NULL)
        return ZNL_E_NOMEM;
    nats->loop = loop;
    nats->events = events;
    nats->user = user;
    nats->waiters_end = &nats->waiters;
    nats->releasing_end = &nats->releasing;
    nats->release.run = znl_nats_release;
    int err = prepare(nats, options, text);
    if (err != 0) {
        if (text[0] == 0)
            snprintf(text, ZNL_NATS_TEXT_BYTES, "%s", znl_err_text(err));
        free_nats(nats);
        return err;
    }
    start_timer(nats, 0);
    *out = nats;
    return 0;
}

void znl_nats_close(znl_nats *nats)
{
    if (nats == NULL || nats->is_closed)
        return;
    nats->is_closed = 1;
    nats->state = ZNL_NATS_CLOSED;
    znl_nats_enter(nats);
    znl_wheel_stop(znl_loop_wheel(nats->loop), &nats->timer);
    znl_loop_undefer(nats->loop, &nats->release);
    znl_nats_discard_requests(nats);
    znl_nats_discard_subscriptions(nats);
    znl_stream_close(nats->stream, nats->phase == ZNL_NATS_READY ? ZNL_NATS_CLOSE_MS : 0);
    nats->stream = NULL;
    znl_nats_leave(nats);
}

/* --- what is known ----------------------------------------------------------------------------------- */

znl_nats_state znl_nats_get_state(const znl_nats *nats)
{
    return nats->state;
}

size_t znl_nats_max_payload(const znl_nats *nats)
{
    return nats->max_payload;
}

const char *znl_nats_server(const znl_nats *nats)
{
    return nats->state == ZNL_NATS_CONNECTED ? nats->server_text : "";
}

znl_loop *znl_nats_loop(znl_nats *nats)
{
    return nats->loop;
}
