/* traceback.c - see traceback.h. SPDX-License-Identifier: MIT */
#include "vm/traceback.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"

#include <fcntl.h>
#include <lauxlib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TEXT_BYTES 6144u    /* of the frames; the log cuts lines at 16 KiB */
#define FRAME_BYTES 640u    /* one frame without its line: two names and a number */
#define NAME_BYTES_MAX 256u /* longer paths are shortened by LuaJIT, to 60 */
#define LINE_BYTES_MAX 120u /* of a line of source */
#define FRAMES_FIRST 12     /* shown of a deep stack, as LuaJIT does */
#define FRAMES_LAST 6
#define LEVELS_FIRST 100 /* looked at for them; the rest may be all library */
#define LEVELS_LAST 30
#define LINES_MAX 8u                  /* frames with their line */
#define FILE_BYTES_MAX (256u * 1024u) /* read of one file; what comes later has no line */
#define READS_PER_SECOND 20u          /* tracebacks with lines */
#define SOURCES_MAX 256u              /* files remembered as loaded; the oldest make room */

/* --- files that were loaded ---------------------------------------------------------------- */

struct source {
    uint64_t name; /* hash of the path */
    struct timespec changed;
    off_t size;
};

struct znl_sources {
    struct timespec made;
    unsigned count, next;
    struct source list[SOURCES_MAX];
    uint64_t second; /* of the reads counted */
    unsigned reads;
};

static uint64_t hash(const char *text)
{
    uint64_t value = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *text != '\0'; text++)
        value = (value ^ (unsigned char)*text) * 0x100000001b3u;
    return value;
}

static struct source *find_source(znl_sources *sources, const char *path)
{
    uint64_t name = hash(path);
    for (unsigned i = 0; i < sources->count; i++)
        if (sources->list[i].name == name)
            return &sources->list[i];
    return NULL;
}

znl_sources *znl_sources_new(void)
{
    znl_sources *sources = znl_calloc(1, sizeof *sources);
    if (sources != NULL)
        clock_gettime(CLOCK_REALTIME, &sources->made);
    return sources;
}

void znl_sources_free(znl_sources *sources)
{
    znl_free(sources);
}

void znl_traceback_loaded(znl_vm *vm, const char *path)
{
    znl_sources *sources = vm->sources;
    struct stat info;
    struct source *source = find_source(sources, path);
    memset(&info, 0, sizeof info); /* which no file has */
    if (stat(path, &info) != 0 && source == NULL)
        return;
    if (source == NULL) {
        source = &sources->list[sources->next];
        sources->next = (sources->next + 1) % SOURCES_MAX;
        if (sources->count < SOURCES_MAX)
            sources->count++;
    }
    *source = (struct source){hash(path), info.st_mtim, info.st_size};
}

static int is_later(struct timespec a, struct timespec b)
{
    return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec);
}

/* Whether the file is what the code was made from, as far as can be known. */
static int is_current(znl_sources *sources, const char *path, const struct stat *info)
{
    const struct source *source = find_source(sources, path);
    if (source == NULL)
        return !is_later(info->st_mtim, sources->made);
    return source->size == info->st_size && source->changed.tv_sec == info->st_mtim.tv_sec &&
            source->changed.tv_nsec == info->st_mtim.tv_nsec;
}

static int may_read(znl_sources *sources)
{
    uint64_t second = znl_clock_mono_ms() / 1000;
    if (sources->second != second) {
        sources->second = second;
        sources->reads = 0;
    }
    return sources->reads++ < READS_PER_SECOND;
}

/* --- a line of a file ---------------------------------------------------------------------- */

/* Reads on until the end of line `number`, keeping what fits of it. Returns its length. */
static size_t scan(int file, int number, char *line, size_t cap)
{
    char block[4096];
    int at = 1;
    size_t size = 0, left = FILE_BYTES_MAX;
    while (left > 0) {
        ssize_t got = read(file, block, sizeof block < left ? sizeof block : left);
        if (got <= 0)
            break;
        left -= (size_t)got;
        for (ssize_t i = 0; i < got; i++) {
            if (block[i] == '\n') {
                if (at++ == number)
                    return size;
            } else if (at == number && size < cap) {
                /* Indentation goes, or it would take the place of the text. */
                if (size > 0 || (block[i] != ' ' && block[i] != '\t'))
                    line[size++] = block[i];
            }
        }
    }
    return at == number && left > 0 ? size : 0;
}

/* The line, made fit to be shown; 0 when it cannot be had. */
static size_t read_line(znl_sources *sources, const char *path, int number, char *line)
{
    struct stat info;
    char text[LINE_BYTES_MAX + 1];
    /* Without waiting for whoever may be at the other end of a pipe. */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file < 0)
        return 0;
    size_t size = 0;
    if (fstat(file, &info) == 0 && S_ISREG(info.st_mode) && is_current(sources, path, &info))
        size = scan(file, number, text, sizeof text);
    close(file);
    int is_cut = size == sizeof text;
    if (is_cut) {
        size = LINE_BYTES_MAX - 3;
        while (size > 0 && ((unsigned char)text[size] & 0xc0) == 0x80)
            size--; /* not inside a character */
    }
    for (size_t i = 0; i < size; i++)
        line[i] = (unsigned char)text[i] < ' ' || text[i] == 0x7f ? ' ' : text[i];
    while (size > 0 && line[size - 1] == ' ')
        size--;
    if (is_cut) {
        memcpy(line + size, "...", 3);
        size += 3;
    }
    return size;
}

/* --- frames -------------------------------------------------------------------------------- */

struct trace {
    znl_vm *vm;
    lua_State *co;
    const char *message; /* what was raised: it names the line of the innermost frame */
    int is_complete;     /* library and all */
    int is_reading;      /* lines of source */
    unsigned lines;
    const char *source; /* of the frame before, and its line: shown once */
    int number;
    size_t size;
    char text[TEXT_BYTES];
};

/* What is put in fits or is left out; room for the last frames is the caller's business. */
static void put(struct trace *trace, const char *text, size_t size)
{
    if (size > sizeof trace->text - trace->size)
        return;
    memcpy(trace->text + trace->size, text, size);
    trace->size += size;
}

/* The name of a chunk, as the messages of Lua have it, but whole when that is not too much. */
static const char *name_of(const lua_Debug *ar)
{
    if (ar->source[0] == '@' && strlen(ar->source) <= NAME_BYTES_MAX)
        return ar->source + 1;
    return ar->short_src;
}

/* LuaJIT forgets where a frame stood from which the error itself came: the message knows. */
static int line_of(const struct trace *trace, const lua_Debug *ar)
{
    const char *names[] = {name_of(ar), ar->short_src};
    if (ar->currentline > 0 || ar->what[0] == 'C')
        return ar->currentline;
    for (size_t i = 0; i < 2; i++) {
        size_t size = strlen(names[i]);
        if (strncmp(trace->message, names[i], size) != 0 || trace->message[size] != ':')
            continue;
        char *end = NULL;
        long line = strtol(trace->message + size + 1, &end, 10);
        if (*end == ':' && line > 0 && line < INT32_MAX)
            return (int)line;
    }
    return -1;
}

static void put_frame(struct trace *trace, const lua_Debug *ar)
{
    char text[FRAME_BYTES], place[16] = "", line[LINE_BYTES_MAX];
    int number = line_of(trace, ar);
    const char *name = name_of(ar);
    if (number > 0)
        snprintf(place, sizeof place, ":%d", number);
    int size = snprintf(text, sizeof text, "\n  %s%s: in ", name, place);
    size_t left = sizeof text - (size_t)size;
    if (ar->namewhat[0] != '\0')
        size += snprintf(text + size, left, "function '%.100s'", ar->name);
    else if (ar->what[0] == 'm')
        size += snprintf(text + size, left, "main chunk");
    else if (ar->what[0] == 'C')
        size += snprintf(text + size, left, "a C function");
    else
        size += snprintf(text + size, left, "function <%s:%d>", name, ar->linedefined);
    put(trace, text, (size_t)size < sizeof text ? (size_t)size : sizeof text - 1);
    if (number <= 0 || ar->source[0] != '@' || !trace->is_reading || trace->lines >= LINES_MAX)
        return;
    if (trace->source == ar->source && trace->number == number)
        return;
    trace->source = ar->source;
    trace->number = number;
    size_t length = read_line(trace->vm->sources, ar->source + 1, number, line);
    if (length == 0)
        return;
    trace->lines++;
    put(trace, "\n      ", 7);
    put(trace, line, length);
}

/* C functions that only stand between those who called and those who are called. */
static int is_plumbing(const lua_Debug *ar)
{
    static const char *const names[] = {"pcall", "xpcall", "error", "assert"};
    if (ar->name == NULL)
        return 1;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(ar->name, names[i]) == 0)
            return 1;
    return 0;
}

static int is_library(const struct trace *trace, const lua_Debug *ar)
{
    return trace->vm->is_library != NULL && trace->vm->is_library(ar->source);
}

/* Whether the frame of this level is for the user. A C function is when the script called it. */
static int is_shown(struct trace *trace, int level, lua_Debug *ar)
{
    lua_getinfo(trace->co, "Snl", ar);
    if (trace->is_complete)
        return 1;
    if (ar->what[0] != 'C')
        return !is_library(trace, ar);
    lua_Debug caller;
    if (is_plumbing(ar) || !lua_getstack(trace->co, level + 1, &caller))
        return 0;
    lua_getinfo(trace->co, "S", &caller);
    return caller.what[0] != 'C' && !is_library(trace, &caller);
}

/* Levels of the stack. */
static int count_levels(lua_State *co)
{
    lua_Debug ar;
    int low = 0, high = 1;
    while (lua_getstack(co, high, &ar)) {
        low = high;
        high *= 2;
    }
    while (low < high) { /* lua_getstack fails from `high` on */
        int middle = (low + high) / 2;
        if (lua_getstack(co, middle, &ar))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Puts every frame for the user between two levels, no more than `max`. Returns how many it has
 * left out. */
static int put_levels(struct trace *trace, int from, int to, int max)
{
    lua_Debug ar;
    int left_out = 0;
    for (int level = from; level < to && lua_getstack(trace->co, level, &ar); level++) {
        if (!is_shown(trace, level, &ar))
            continue;
        if (max-- > 0)
            put_frame(trace, &ar);
        else
            left_out++;
    }
    return left_out;
}

/* Where the last `max` frames for the user begin, no earlier than `from`. */
static int find_last(struct trace *trace, int from, int to, int max)
{
    lua_Debug ar;
    int begin = to;
    for (int level = to - 1; level >= from && max > 0; level--) {
        if (lua_getstack(trace->co, level, &ar) && is_shown(trace, level, &ar)) {
            begin = level;
            max--;
        }
    }
    return begin;
}

static void put_frames(struct trace *trace, int from)
{
    int to = count_levels(trace->co);
    int near = to - from > LEVELS_FIRST + LEVELS_LAST ? from + LEVELS_FIRST : to;
    int last = find_last(trace, near < to ? to - LEVELS_LAST : from, to, FRAMES_LAST);
    int middle = near < last ? near : last;
    int left_out = put_levels(trace, from, middle, FRAMES_FIRST);
    if (left_out > 0 || middle < last)
        put(trace, "\n  ...", 6);
    put_levels(trace, last, to, FRAMES_LAST);
}

void znl_traceback_add(lua_State *L, lua_State *co, int level)
{
    struct trace trace;
    trace.vm = znl_vm_of(L);
    trace.co = co;
    trace.message = lua_tostring(L, -1);
    trace.is_complete = znl_log_enabled(ZNL_LOG_DEBUG);
    trace.is_reading = may_read(trace.vm->sources);
    trace.lines = 0;
    trace.source = NULL;
    trace.size = 0;
    put_frames(&trace, level);
    if (trace.size == 0 && !trace.is_complete) {
        trace.is_complete = 1;
        put_frames(&trace, level);
    }
    lua_pushliteral(L, "\nstack traceback:");
    lua_pushlstring(L, trace.text, trace.size);
    lua_concat(L, 3);
}
