/* log.c - see log.h. SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* memmem */
#include "base/log.h"

#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 16384u
#define LIMIT (LINE_BYTES - 32u) /* the rest is for what closes a line that is cut */
#define BARE_BYTES_MAX 256u      /* longer values are quoted, so that they can be cut inside */

/* A line under construction: whole units are put in, or the line is cut there. */
struct line {
    znl_log_format format;
    int is_cut;
    size_t size;
    /* An error or the traceback in a value, for people at a terminal: shown below, line by line. */
    const char *below;
    size_t below_size;
    char bytes[LINE_BYTES];
};

static _Atomic int the_level = ZNL_LOG_INFO;
static _Atomic int the_format = ZNL_LOG_LOGFMT;
static atomic_int the_fd = STDERR_FILENO;
static atomic_ulong lost;
/* A pipe takes 4096 bytes at once; what is longer could mix with the line of another thread. */
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static const char *const level_names[] = {"trace", "debug", "info", "warn", "error", "off"};
static const char *const level_padded[] = {"TRACE", "DEBUG", "INFO ", "WARN ", "ERROR"};
static const char *const format_names[] = {"logfmt", "json", "text"};

static int index_of(const char *const *names, int count, const char *name)
{
    for (int i = 0; name != NULL && i < count; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

void znl_log_configure(znl_log_level level, znl_log_format format)
{
    atomic_store_explicit(&the_level, (int)level, memory_order_relaxed);
    atomic_store_explicit(&the_format, (int)format, memory_order_relaxed);
}

int znl_log_parse_level(const char *name, znl_log_level *level)
{
    int at = index_of(level_names, ZNL_LOG_OFF + 1, name);
    if (at < 0)
        return ZNL_E_INVALID;
    *level = (znl_log_level)at;
    return 0;
}

int znl_log_parse_format(const char *name, znl_log_format *format)
{
    int at = index_of(format_names, ZNL_LOG_TEXT + 1, name);
    if (at < 0)
        return ZNL_E_INVALID;
    *format = (znl_log_format)at;
    return 0;
}

int znl_log_enabled(znl_log_level level)
{
    return (int)level >= ZNL_LOG_TRACE && level < ZNL_LOG_OFF &&
            (int)level >= atomic_load_explicit(&the_level, memory_order_relaxed);
}

unsigned long znl_log_lost(void)
{
    return atomic_load_explicit(&lost, memory_order_relaxed);
}

/* --- building a line --------------------------------------------------------------------------- */

static void put(struct line *line, const char *bytes, size_t size)
{
    if (line->is_cut || line->size > LIMIT || size > LIMIT - line->size) {
        line->is_cut = 1;
        return;
    }
    memcpy(line->bytes + line->size, bytes, size);
    line->size += size;
}

static void put_text(struct line *line, const char *text)
{
    put(line, text, strlen(text));
}

/* What closes a line: goes into the bytes that put() leaves free. */
static void close_with(struct line *line, const char *text)
{
    size_t size = strlen(text);
    memcpy(line->bytes + line->size, text, size);
    line->size += size;
}

/* Length of the UTF-8 character at the front of `at`, and its number; 0 when it is not valid. */
static size_t utf8_at(const unsigned char *at, size_t left, uint32_t *number)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t size = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
    if (size == 0 || size > left || at[0] > 0xf4)
        return 0;
    uint32_t value = size == 1 ? at[0] : at[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | (at[i] & 0x3f);
    }
    if (value < smallest[size] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
        return 0;
    *number = value;
    return size;
}

/* Characters that move the cursor, end a line or turn the direction of writing. */
static int is_dangerous(uint32_t number)
{
    return number < 0x20 || (number >= 0x7f && number < 0xa0) || number == 0xad ||
            number == 0x61c || (number >= 0x200b && number <= 0x200f) ||
            (number >= 0x2028 && number <= 0x202e) || (number >= 0x2060 && number <= 0x206f) ||
            number == 0xfeff;
}

/* Puts the characters, escaped as in JSON; quotes and backslashes only inside of quotes. A byte
 * that is no UTF-8 becomes U+FFFD in JSON, which has no other way, and \x followed by its digits
 * elsewhere. */
static void put_visible(struct line *line, const char *text, size_t size, int is_quoted)
{
    const unsigned char *at = (const unsigned char *)text;
    while (size > 0 && !line->is_cut) {
        char unit[8];
        uint32_t number = 0;
        size_t taken = utf8_at(at, size, &number);
        if (taken == 0) {
            taken = 1;
            if (line->format == ZNL_LOG_JSON)
                snprintf(unit, sizeof unit, "\\ufffd");
            else
                snprintf(unit, sizeof unit, "\\x%02x", at[0]);
            put_text(line, unit);
        } else if (is_quoted && (number == '"' || number == '\\')) {
            unit[0] = '\\';
            unit[1] = (char)number;
            put(line, unit, 2);
        } else if (number == '\n' || number == '\r' || number == '\t') {
            put(line, number == '\n' ? "\\n" : number == '\r' ? "\\r" : "\\t", 2);
        } else if (is_dangerous(number)) {
            snprintf(unit, sizeof unit, "\\u%04x", (unsigned)(number & 0xffff));
            put_text(line, unit);
        } else {
            put(line, (const char *)at, taken);
        }
        at += taken;
        size -= taken;
    }
}

static void put_escaped(struct line *line, const char *text, size_t size)
{
    put_visible(line, text, size, 1);
}

/* A number or a word that JSON takes without quotes. */
static int is_json_literal(const char *text, size_t size)
{
    static const char *const words[] = {"true", "false", "null"};
    const char *at = text, *end = text + size;
    if (size > BARE_BYTES_MAX)
        return 0;
    for (size_t i = 0; i < 3; i++)
        if (size == strlen(words[i]) && memcmp(text, words[i], size) == 0)
            return 1;
#define DIGITS()                                                                               \
    do {                                                                                       \
        if (at == end || *at < '0' || *at > '9')                                               \
            return 0;                                                                          \
        while (at < end && *at >= '0' && *at <= '9')                                           \
            at++;                                                                              \
    } while (0)
    if (at < end && *at == '-')
        at++;
    if (end - at > 1 && at[0] == '0' && at[1] >= '0' && at[1] <= '9')
        return 0;
    DIGITS();
    if (at < end && *at == '.') {
        at++;
        DIGITS();
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-'))
            at++;
        DIGITS();
    }
#undef DIGITS
    return at == end;
}

/* True when logfmt can show the value bare: visible ASCII that means nothing to its readers. */
static int is_plain(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (text[i] <= ' ' || text[i] >= 0x7f || strchr("\"\\=", text[i]) != NULL)
            return 0;
    return size > 0 && size <= BARE_BYTES_MAX;
}

/* Keeps the traceback at the end of the text for put_below. Returns what comes before it. */
static size_t split_traceback(struct line *line, const char *text, size_t size)
{
    static const char mark[] = "\nstack traceback:\n";
    const char *at = memmem(text, size, mark, sizeof mark - 1);
    if (at == NULL)
        return size;
    line->below = at + sizeof mark - 1;
    line->below_size = (size_t)(text + size - line->below);
    return (size_t)(at - text);
}

/* Indented, which no line of the log is: none can be forged this way. */
static void put_below(struct line *line)
{
    static const char title[] = "stack traceback:";
    const char *at = line->below, *end = at + line->below_size;
    while (at < end && !line->is_cut) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop != NULL ? stop : end;
        size_t size = (size_t)(stop - at);
        if (size != sizeof title - 1 || memcmp(at, title, size) != 0) {
            put_text(line, "\n  ");
            put_visible(line, at, size, 0);
        }
        at = stop + 1;
    }
}

/* People read an error as it is, without quotes around it and backslashes in it. */
static int is_for_below(
        const struct line *line, const char *key, const char *value, size_t size)
{
    return line->format == ZNL_LOG_TEXT && line->below == NULL && key != NULL &&
            value != NULL && strcmp(key, "error") == 0 && size > 0 && !is_plain(value, size);
}

static void put_value(struct line *line, const char *text, size_t size, int is_literal)
{
    int is_bare = line->format == ZNL_LOG_JSON ? is_literal && is_json_literal(text, size)
                                               : is_plain(text, size);
    if (is_bare) {
        put(line, text, size);
        if (line->is_cut && line->format == ZNL_LOG_JSON)
            close_with(line, "null");
        return;
    }
    if (line->format == ZNL_LOG_TEXT && line->below == NULL)
        size = split_traceback(line, text, size);
    close_with(line, "\""); /* not cut so far, so this is in the last bytes at worst */
    put_escaped(line, text, size);
    close_with(line, "\"");
}

/* Keys come from code and scripts; what readers could misread becomes an underscore, and the names
 * of our own fields are not given away. */
static void put_key(struct line *line, const char *key)
{
    static const char *const ours[] = {"time", "level", "area", "msg", "cut"};
    if (index_of(ours, 5, key) >= 0)
        put_text(line, "field_");
    if (key == NULL || key[0] == '\0')
        put_text(line, "_");
    for (; key != NULL && *key != '\0' && !line->is_cut; key++) {
        char c = *key;
        int is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
        put(line, is_word ? &c : "_", 1);
    }
}

static void put_field(
        struct line *line, const char *key, const char *value, size_t size, int is_literal)
{
    size_t before = line->size;
    int is_json = line->format == ZNL_LOG_JSON;
    if (line->is_cut)
        return;
    if (is_for_below(line, key, value, size)) {
        line->below = value;
        line->below_size = size;
        return;
    }
    put_text(line, is_json ? ",\"" : " ");
    put_key(line, key);
    put_text(line, is_json ? "\":" : "=");
    if (line->is_cut) {
        line->size = before; /* half a key helps nobody */
        return;
    }
    put_value(line, value != NULL ? value : "", value != NULL ? size : 0, is_literal);
}

static void put_time(struct line *line, int64_t unix_ms)
{
    char text[64];
    struct tm parts;
    time_t seconds = (time_t)(unix_ms / 1000);
    int ms = (int)(unix_ms % 1000);
    if (line->format == ZNL_LOG_TEXT) {
        localtime_r(&seconds, &parts);
        snprintf(text, sizeof text, "%02d:%02d:%02d.%03d", parts.tm_hour, parts.tm_min,
                parts.tm_sec, ms);
    } else {
        gmtime_r(&seconds, &parts);
        snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", parts.tm_year + 1900,
                parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, ms);
    }
    put_text(line, text);
}

static void put_head(
        struct line *line, znl_log_level level, const char *area, const char *message)
{
    int64_t unix_ms = znl_clock_unix_ms();
    unix_ms = unix_ms < 0 ? 0 : unix_ms;
    switch (line->format) {
    case ZNL_LOG_JSON:
        put_text(line, "{\"time\":\"");
        put_time(line, unix_ms);
        put_text(line, "\",\"level\":\"");
        put_text(line, level_names[level]);
        put_text(line, "\",\"area\":");
        put_value(line, area, strlen(area), 0);
        if (!line->is_cut) {
            put_text(line, ",\"msg\":");
            if (!line->is_cut)
                put_value(line, message, strlen(message), 0);
        }
        return;
    case ZNL_LOG_TEXT:
        put_time(line, unix_ms);
        put_text(line, " ");
        put_text(line, level_padded[level]);
        put_text(line, " ");
        put_escaped(line, area, strlen(area));
        put_text(line, ": ");
        put_escaped(line, message, strlen(message));
        return;
    case ZNL_LOG_LOGFMT:
    default:
        put_text(line, "time=");
        put_time(line, unix_ms);
        put_text(line, " level=");
        put_text(line, level_names[level]);
        put_text(line, " area=");
        put_value(line, area, strlen(area), 0);
        if (!line->is_cut) {
            put_text(line, " msg=");
            if (!line->is_cut)
                put_value(line, message, strlen(message), 0);
        }
        return;
    }
}

void znl_log_divert(int fd)
{
    pthread_mutex_lock(&writing);
    atomic_store(&the_fd, fd);
    pthread_mutex_unlock(&writing);
}

static void write_out(const char *bytes, size_t size)
{
    int saved = errno;
    pthread_mutex_lock(&writing);
    while (size > 0) {
        ssize_t wrote = write(atomic_load(&the_fd), bytes, size);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0) {
            atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed);
            break;
        }
        bytes += wrote;
        size -= (size_t)wrote;
    }
    pthread_mutex_unlock(&writing);
    errno = saved;
}

void znl_log_write(znl_log_level level, const char *area, const char *message,
        const znl_log_field *fields, size_t count)
{
    if (!znl_log_enabled(level))
        return;
    struct line line; /* its bytes are not cleared: only `size` of them count */
    line.format = (znl_log_format)atomic_load_explicit(&the_format, memory_order_relaxed);
    line.is_cut = 0;
    line.size = 0;
    line.below = NULL;
    put_head(&line, level, area != NULL ? area : "", message != NULL ? message : "");
    for (size_t i = 0; i < count; i++)
        put_field(&line, fields[i].key, fields[i].value, fields[i].size, fields[i].is_literal);
    if (line.below != NULL)
        put_below(&line);
    if (line.is_cut)
        close_with(&line, line.format == ZNL_LOG_JSON ? ",\"cut\":true" : " cut=true");
    close_with(&line, line.format == ZNL_LOG_JSON ? "}\n" : "\n");
    write_out(line.bytes, line.size);
}
