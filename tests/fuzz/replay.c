/* replay.c - runs a fuzz target without a fuzzer: every file of its corpus, then changes of them from a seed.
 *
 * The same seed makes the same inputs in the same order; a bound of processor time only says how many of them are
 * tried. An input that ends the process is left in the current folder, for this program or for libFuzzer.
 *
 * SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define INPUT_BYTES_MAX 4096u /* what changes make; files may be longer */
#define FILE_BYTES_MAX (1u << 20)
#define FILES_MAX 1000u

static const char usage[] =
        "usage: replay_<target> [--seed N] [--runs N] [--cpu-ms N] [--only RUN] [file or folder ...]\n";

int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

struct input {
    uint8_t *data;
    size_t size;
    char *path;
};

static struct {
    struct input files[FILES_MAX];
    size_t file_count;
    /* What is being tried. */
    const uint8_t *data;
    size_t size;
    char left[256]; /* the name it gets when it ends the process */
} replay;

/* --- what ended the process --------------------------------------------------------------------- */

/* Also called from signals: nothing but system calls. */
static void leave_input(void)
{
    static const char said[] = "replay: the input is in ";
    if (replay.left[0] == 0)
        return;
    int file = open(replay.left, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    if (file < 0 || write(file, replay.data, replay.size) != (ssize_t)replay.size)
        return;
    close(file);
    if (write(STDERR_FILENO, said, sizeof said - 1) < 0 ||
            write(STDERR_FILENO, replay.left, strlen(replay.left)) < 0 ||
            write(STDERR_FILENO, "\n", 1) < 0)
        return;
    replay.left[0] = 0;
}

static void on_signal(int number)
{
    leave_input();
    signal(number, SIG_DFL);
    raise(number);
}

static void watch_for_the_end(void)
{
    static const int numbers[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTERM, SIGALRM};
    /* A sanitizer has its own handlers, and says more. */
    if (__sanitizer_set_death_callback != NULL)
        __sanitizer_set_death_callback(leave_input);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (__sanitizer_set_death_callback == NULL || numbers[i] == SIGABRT ||
                numbers[i] == SIGTERM || numbers[i] == SIGALRM)
            signal(numbers[i], on_signal);
}

/* --- files -------------------------------------------------------------------------------------- */

static void fail(const char *path, const char *why)
{
    fprintf(stderr, "replay: %s: %s\n", path, why);
    exit(2);
}

static char *join(const char *folder, const char *name)
{
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = malloc(size);
    if (path == NULL)
        fail(name, "out of memory");
    snprintf(path, size, "%s/%s", folder, name);
    return path;
}

static void read_file(char *path)
{
    struct stat about;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fstat(fileno(file), &about) != 0)
        fail(path, "cannot be read");
    if (about.st_size > (off_t)FILE_BYTES_MAX || replay.file_count == FILES_MAX)
        fail(path, "too large, or too many files");
    struct input *input = &replay.files[replay.file_count++];
    input->path = path;
    input->size = (size_t)about.st_size;
    input->data = malloc(input->size + !input->size);
    if (input->data == NULL || fread(input->data, 1, input->size, file) != input->size)
        fail(path, "cannot be read");
    fclose(file);
}

/* A folder's files, not those of folders in it; a file itself. */
static void read_path(const char *path)
{
    DIR *folder = opendir(path);
    if (folder == NULL) {
        char *copy = strdup(path);
        if (copy == NULL)
            fail(path, "out of memory");
        read_file(copy);
        return;
    }
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (entry->d_name[0] != '.')
            read_file(join(path, entry->d_name));
    closedir(folder);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct input *)a)->path, ((const struct input *)b)->path);
}

/* --- changes ------------------------------------------------------------------------------------ */

/* splitmix64 */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t below(uint64_t *state, size_t bound)
{
    return bound == 0 ? 0 : (size_t)(next(state) % bound);
}

/* Puts `count` bytes in at `at`, as far as there is room. */
static size_t insert(uint8_t *input, size_t size, size_t at, const uint8_t *bytes, size_t count)
{
    if (count > INPUT_BYTES_MAX - size)
        count = INPUT_BYTES_MAX - size;
    memmove(input + at + count, input + at, size - at);
    memcpy(input + at, bytes, count);
    return size + count;
}

static size_t change(uint64_t *state, uint8_t *input, size_t size)
{
    static const uint8_t edges[] = {
            0, 1, 2, 3, 4, 7, 8, 9, 10, 13, 16, 31, 32, 63, 64, 125, 126, 127, 128, 254, 255};
    uint8_t bytes[64];
    size_t at = below(state, size + 1), count = 1 + below(state, 1u << below(state, 7));
    switch (below(state, 9)) {
    case 0: /* one bit */
        if (at < size)
            input[at] ^= (uint8_t)(1u << below(state, 8));
        return size;
    case 1: /* one byte, any */
        if (at < size)
            input[at] = (uint8_t)next(state);
        return size;
    case 2: /* one byte that is the edge of something */
        if (at < size)
            input[at] = edges[below(state, sizeof edges)];
        return size;
    case 3: /* one more, or one less */
        if (at < size)
            input[at] = (uint8_t)(input[at] + (next(state) & 1 ? 1 : -1));
        return size;
    case 4: /* new bytes, all the same or each another */
        memset(bytes, (int)(next(state) & 255), sizeof bytes);
        if (next(state) & 1)
            for (size_t i = 0; i < sizeof bytes; i++)
                bytes[i] = (uint8_t)next(state);
        return insert(input, size, at, bytes, count);
    case 5: /* without some */
        count = count < size - at ? count : size - at;
        memmove(input + at, input + at + count, size - at - count);
        return size - count;
    case 6: { /* some of its own again, elsewhere */
        size_t from = below(state, size + 1);
        count = count < size - from ? count : size - from;
        memcpy(bytes, input + from, count);
        return insert(input, size, at, bytes, count);
    }
    case 7: { /* some of another file */
        if (replay.file_count == 0)
            return size;
        const struct input *other = &replay.files[below(state, replay.file_count)];
        size_t from = below(state, other->size + 1);
        count = count * (1 + below(state, 8));
        count = count < other->size - from ? count : other->size - from;
        return insert(input, size, at, other->data + from, count);
    }
    default: /* its beginning only */
        return below(state, 4) == 0 ? at : size;
    }
}

/* The input of a run: it depends on the seed, the run and the files alone. */
static size_t make_input(uint64_t seed, uint64_t run, uint8_t *input)
{
    uint64_t state = seed * 0xd1342543de82ef95u + run;
    size_t size = 0;
    if (replay.file_count > 0) {
        const struct input *file = &replay.files[below(&state, replay.file_count)];
        size = file->size < INPUT_BYTES_MAX ? file->size : INPUT_BYTES_MAX;
        memcpy(input, file->data, size);
    }
    for (size_t changes = 1 + below(&state, 6); changes > 0; changes--)
        size = change(&state, input, size);
    return size;
}

/* --- runs --------------------------------------------------------------------------------------- */

/* In memory that ends where the input ends. */
static void try(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + !size);
    if (copy == NULL)
        fail("input", "out of memory");
    memcpy(copy, data, size);
    replay.data = copy;
    replay.size = size;
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static uint64_t number(const char *name, const char *text)
{
    char *end = NULL;
    uint64_t value = text != NULL ? strtoull(text, &end, 10) : 0;
    if (text == NULL || *text == 0 || *end != 0)
        fail(name, "needs a whole number");
    return value;
}

static uint64_t cpu_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
    static uint8_t input[INPUT_BYTES_MAX];
    const char *name = strrchr(argv[0], '/') != NULL ? strrchr(argv[0], '/') + 1 : argv[0];
    uint64_t seed = 1, runs = 100000, most_ms = 1000, only = UINT64_MAX, run = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0)
            return fputs(usage, stdout) < 0;
        if (strcmp(argv[i], "--seed") == 0)
            seed = number("--seed", argv[++i]);
        else if (strcmp(argv[i], "--runs") == 0)
            runs = number("--runs", argv[++i]);
        else if (strcmp(argv[i], "--cpu-ms") == 0)
            most_ms = number("--cpu-ms", argv[++i]);
        else if (strcmp(argv[i], "--only") == 0)
            only = number("--only", argv[++i]);
        else if (argv[i][0] == '-')
            fail(argv[i], usage);
        else
            read_path(argv[i]);
    }
    qsort(replay.files, replay.file_count, sizeof *replay.files, by_path);
    watch_for_the_end();
    if (LLVMFuzzerInitialize != NULL)
        LLVMFuzzerInitialize(&argc, &argv);
    if (only != UINT64_MAX) {
        snprintf(replay.left, sizeof replay.left, "crash-%s-%llu", name,
                (unsigned long long)only);
        try(input, make_input(seed, only, input));
        return 0;
    }
    for (size_t i = 0; i < replay.file_count; i++) {
        snprintf(replay.left, sizeof replay.left, "crash-%s-file-%zu", name, i);
        try(replay.files[i].data, replay.files[i].size);
    }
    for (uint64_t end = cpu_ms() + most_ms; run < runs && cpu_ms() < end; run++) {
        snprintf(replay.left, sizeof replay.left, "crash-%s-%llu", name,
                (unsigned long long)run);
        try(input, make_input(seed, run, input));
    }
    replay.left[0] = 0;
    printf("%zu files of the corpus and %llu changes of them, seed %llu\n", replay.file_count,
            (unsigned long long)run, (unsigned long long)seed);
    for (size_t i = 0; i < replay.file_count; i++) {
        free(replay.files[i].data);
        free(replay.files[i].path);
    }
    return 0;
}
