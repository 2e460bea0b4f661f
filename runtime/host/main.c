/* main.c - the program znlrun: command line, signals, exit codes.
 *
 * The script runs as a task on the loop, so it may wait. The process ends when nothing is left
 * that could wake anything, when the script fails, on exit(), or on a signal. Signals are
 * counted by a plain handler that wakes the loop: a second one must also end a script that
 * never yields.
 *
 * Layer: host. SPDX-License-Identifier: MIT */
#include "base/err.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/random.h"
#include "base/shared.h"
#include "bind/bind.h"
#include "host/modules.h"
#include "transport/link.h"
#include "transport/loop.h"
#include "vm/sched.h"
#include "vm/vm.h"
#include "vm/watchdog.h"
#include "vm/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OPTION_BYTES_MAX 32 /* of the names below, and of what is compared with them */

#define EXIT_SCRIPT 1
#define EXIT_USAGE 2
#define EXIT_LEAK 70
#define EXIT_SIGNAL 128 /* plus its number, as in a shell */

#define DRAIN_MS_DEFAULT 5000u
#define FORCE_STEP_MS 100u /* how finely the time of a stop is counted */
#define STALLED_MS_MAX                                                                         \
    3000u /* of a stop, not counted; both together less than TimeoutStopSec of our units */
#define CLOSE_WAIT_MS 2000u /* for what scripts left in the thread pool */

struct options {
    const char *chunk; /* of -e, or NULL */
    int is_check;
    int is_tool;  /* the script is one of ours, named by argv[script] */
    int is_watch; /* run the script again when it changes */
    int is_level_given;
    znl_log_level level;
    znl_log_format format;
    uint32_t drain_ms;
    uint32_t watchdog_ms;
    char **argv;
    int argc;
    int script; /* index of the script in argv, or of the first argument with -e */
};

struct app {
    const struct options *options;
    znl_loop *loop;
    znl_vm *vm;
    uv_async_t *signalled; /* woken by the signal handler */
    uv_timer_t *force;     /* ends the loop when stopping takes too long */
    uint64_t force_ms;     /* when it fired last, or was started */
    uint32_t force_left_ms;
    uint32_t stalled_ms; /* while stopping, as far as it is not counted */
    znl_deferred begin_exit, end_timers;
    int exit_code;
    int signo;        /* of the first signal */
    int had_terminal; /* when it began */
    int is_main_running;
    int is_exiting; /* exit() was called: what still waits does not count */
    int is_stopping;
    int is_stopped; /* every on_stop function has ended */
    int is_over;    /* the loop need not run (on) */
};

/* What the signal handler may touch. */
static volatile sig_atomic_t signal_seen;
static volatile sig_atomic_t hangup_seen;
static uv_async_t *volatile signal_async;

/* --- command line ------------------------------------------------------------------------- */

static const char usage[] =
        "usage: znlrun [options] script.lua [argument ...]\n"
        "       znlrun [options] TOOL [argument ...]\n"
        "       znlrun [options] -e CHUNK [argument ...]\n"
        "       znlrun --check script.lua ...\n"
        "\n"
        "Runs a Lua script on an event loop; \"-\" reads it from standard input. What names no file\n"
        "and does not end in .lua is the name of a tool.\n"
        "\n"
        "  -e, --execute CHUNK   run CHUNK instead of a file\n"
        "  -c, --check           compile only: print file:line: message for what is wrong\n"
        "  -w, --watch           run the script again when it or a module of it changes\n"
        "  --log-level LEVEL     trace, debug, info (default), warn (default of a tool), error or off\n"
        "  --log-format FORMAT   logfmt, json or text (default: text on a terminal, else logfmt)\n"
        "  --drain-ms N          time a stopping script has to finish, 0..3600000 (default 5000)\n"
        "  --watchdog-ms N       CPU time Lua code may use without waiting before it is interrupted,\n"
        "                        0..3600000 (default 1000); 0 never interrupts\n"
        "  -v, --version         print the versions of znlrun and its libraries\n"
        "  -h, --help            print this\n"
        "  --                    end of the options\n"
        "\n"
        "Environment:\n"
        "  ZNL_LUA_PATH          folder where modules are looked for first, before those built in\n"
        "  ZNL_ENGINE            what moves messages where a script leaves it open: zmtp or libzmq\n"
        "  ZNL_LEAK_CHECK=1      report what is left open at the end, and exit with 70 if anything is\n"
        "\n"
        "SIGINT and SIGTERM run what the script registered to run before stopping; then the process\n"
        "ends when nothing is left to do, at the latest after --drain-ms. A second signal ends it at\n"
        "once.\n"
        "\n"
        "Exit codes: 0 all went well; 1 error in the script; 2 wrong usage; 70 leak found;\n"
        "130, 143 (128 + signal) ended by a signal before the script was done; otherwise what the\n"
        "script passed to exit(). Tools have their own; see znlrun TOOL --help.\n";

enum { OPT_LOG_LEVEL = 256, OPT_LOG_FORMAT, OPT_DRAIN_MS, OPT_WATCHDOG_MS };

static const struct option long_options[] = {
        {"execute", required_argument, NULL, 'e'},
        {"check", no_argument, NULL, 'c'},
        {"watch", no_argument, NULL, 'w'},
        {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
        {"log-format", required_argument, NULL, OPT_LOG_FORMAT},
        {"drain-ms", required_argument, NULL, OPT_DRAIN_MS},
        {"watchdog-ms", required_argument, NULL, OPT_WATCHDOG_MS},
        {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
};

static int bad_usage(const char *option, const char *value, const char *allowed)
{
    fprintf(stderr, "znlrun: %s", option);
    if (value != NULL)
        fprintf(stderr, " '%s'", value);
    fprintf(stderr, ": %s\n", allowed);
    return EXIT_USAGE;
}

/* Edits between two names; those of options are short. */
static size_t distance(const char *a, size_t a_size, const char *b)
{
    size_t row[OPTION_BYTES_MAX + 1], b_size = strlen(b);
    for (size_t j = 0; j <= b_size; j++)
        row[j] = j;
    for (size_t i = 1; i <= a_size; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_size; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            best = row[j] + 1 < best ? row[j] + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[b_size];
}

/* "--lgo-level=x" names no option; says which it may be. */
static int unknown_option(const char *given)
{
    int size = (int)strcspn(given, "=");
    const char *nearest = NULL;
    if (size > 3 && size <= OPTION_BYTES_MAX && strncmp(given, "--", 2) == 0) {
        size_t least = (size_t)size / 2 < 4 ? (size_t)size / 2 : 4;
        for (const struct option *option = long_options; option->name != NULL; option++) {
            size_t steps = distance(given + 2, (size_t)size - 2, option->name);
            if (steps < least) {
                nearest = option->name;
                least = steps;
            }
        }
    }
    fprintf(stderr, "znlrun: %.*s is not an option", size, given);
    if (nearest != NULL)
        fprintf(stderr, "; did you mean --%s?", nearest);
    fputs("\nznlrun --help lists them\n", stderr);
    return EXIT_USAGE;
}

static void print_versions(void)
{
    const char *text;
    printf("znlrun %s\n", ZNL_VERSION);
    for (unsigned i = 0; (text = znl_bind_library_version(i)) != NULL; i++)
        printf("%s\n", text);
}

/* Runs in place of a script after --help has printed what stands here. */
static const char list_tools[] = "require('znl.tools').print_list()";

static const char run_tool[] = "return require('znl.tools').main(...)";
static const char run_watched[] = "require('znl.versions.script').main(...)";

/* A directory is no script: `bench` in a folder with bench/ in it is still the tool. */
static int is_tool_name(const char *text)
{
    struct stat info;
    size_t size = strlen(text);
    if (strcmp(text, "-") == 0 || strchr(text, '/') != NULL ||
            (size > 4 && strcmp(text + size - 4, ".lua") == 0))
        return 0;
    return stat(text, &info) != 0 || S_ISDIR(info.st_mode);
}

static int ask_help(struct options *options)
{
    fputs(usage, stdout);
    options->chunk = list_tools;
    options->is_check = options->is_tool = 0;
    options->script = options->argc;
    return -1;
}

static int parse_number(const char *text, uint32_t max, uint32_t *out)
{
    char *end = NULL;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value > max)
        return ZNL_E_INVALID;
    *out = (uint32_t)value;
    return 0;
}

/* Returns -1 to go on, or the exit code. */
static int parse(struct options *options, int argc, char **argv)
{
    int choice;
    opterr = 0;
    options->argc = argc;
    options->argv = argv;
    for (;;) {
        int at = optind;
        choice = getopt_long(argc, argv, "+:e:cwvh", long_options, NULL);
        if (choice == -1)
            break;
        switch (choice) {
        case 'e':
            options->chunk = optarg;
            break;
        case 'c':
            options->is_check = 1;
            break;
        case 'w':
            options->is_watch = 1;
            break;
        case OPT_LOG_LEVEL:
            if (znl_log_parse_level(optarg, &options->level) != 0)
                return bad_usage("--log-level", optarg,
                        "must be trace, debug, info, warn, error or off");
            options->is_level_given = 1;
            break;
        case OPT_LOG_FORMAT:
            if (znl_log_parse_format(optarg, &options->format) != 0)
                return bad_usage("--log-format", optarg, "must be logfmt, json or text");
            break;
        case OPT_DRAIN_MS:
            if (parse_number(optarg, 3600000, &options->drain_ms) != 0)
                return bad_usage("--drain-ms", optarg, "must be a whole number in 0..3600000");
            break;
        case OPT_WATCHDOG_MS:
            if (parse_number(optarg, ZNL_WATCHDOG_MS_MAX, &options->watchdog_ms) != 0)
                return bad_usage(
                        "--watchdog-ms", optarg, "must be a whole number in 0..3600000");
            break;
        case 'v':
            print_versions();
            return 0;
        case 'h':
            return ask_help(options);
        case ':':
            return bad_usage(argv[at], NULL, "needs a value; znlrun --help says which");
        default:
            return unknown_option(argv[at]);
        }
    }
    options->script = optind;
    if (options->is_watch &&
            (options->chunk != NULL || options->is_check || optind == argc ||
                    strcmp(argv[optind], "-") == 0 || is_tool_name(argv[optind])))
        return bad_usage("--watch", NULL, "needs the file name of a script to run");
    if (options->chunk != NULL)
        return -1;
    if (optind == argc)
        return bad_usage(
                "no script", NULL, "name a script or a tool; znlrun --help lists them");
    options->is_tool = !options->is_check && is_tool_name(argv[optind]);
    if (!options->is_tool)
        return -1;
    if (strcmp(argv[optind], "help") == 0 && optind + 1 == argc)
        return ask_help(options);
    if (!options->is_level_given)
        options->level = ZNL_LOG_WARN;
    return -1;
}

/* -1, or the exit code: a name that means nothing would go unnoticed otherwise. */
static int check_environment(void)
{
    znl_link_engine engine;
    const char *name = getenv(ZNL_LINK_ENGINE_VARIABLE);
    if (name == NULL || name[0] == '\0' ||
            znl_link_engine_parse(&engine, znl_frame_text(name)) == 0)
        return -1;
    return bad_usage(ZNL_LINK_ENGINE_VARIABLE, name, "must be " ZNL_LINK_ENGINE_NAMES);
}

/* --- stopping ----------------------------------------------------------------------------- */

static void end_loop(struct app *app)
{
    app->is_over = 1;
    znl_loop_stop(app->loop);
}

static void on_force(uv_timer_t *timer);

static void force_within(struct app *app, uint32_t left_ms)
{
    uv_update_time(znl_loop_uv(app->loop));
    app->force_ms = uv_now(znl_loop_uv(app->loop));
    app->force_left_ms = left_ms;
    uv_timer_start(app->force, on_force, left_ms < FORCE_STEP_MS ? left_ms : FORCE_STEP_MS, 0);
}

/* Time in which this process did not run is not counted, up to a bound: who stops had nothing of it. Returns how much
 * is left. */
static uint32_t count_down(struct app *app)
{
    uint64_t passed_ms = uv_now(znl_loop_uv(app->loop)) - app->force_ms;
    uint64_t stalled_ms = passed_ms > 2u * FORCE_STEP_MS ? passed_ms - FORCE_STEP_MS : 0;
    if (stalled_ms > STALLED_MS_MAX - app->stalled_ms)
        stalled_ms = STALLED_MS_MAX - app->stalled_ms;
    app->stalled_ms += (uint32_t)stalled_ms;
    passed_ms -= stalled_ms;
    return passed_ms < app->force_left_ms ? app->force_left_ms - (uint32_t)passed_ms : 0;
}

static void on_force(uv_timer_t *timer)
{
    struct app *app = timer->data;
    uint32_t left_ms = count_down(app);
    if (left_ms > 0) {
        force_within(app, left_ms);
        return;
    }
    if (!app->is_stopped || !app->is_exiting) {
        char text[24];
        snprintf(text, sizeof text, "%zu", znl_sched_task_count(app->vm->sched));
        znl_log_field field = {"tasks", text, strlen(text), 1};
        znl_log_write(ZNL_LOG_WARN, "host", "still at work after drain_ms: ending", &field, 1);
        if (app->signo != 0)
            app->exit_code = EXIT_SIGNAL + app->signo;
    }
    end_loop(app);
}

/* The exiting script has nothing to wait for; its last frames have a moment to leave. */
static void leave_soon(struct app *app)
{
    force_within(app, ZNL_STOP_LINGER_MS);
}

static void on_stopped(void *user)
{
    struct app *app = user;
    app->is_stopped = 1;
    if (app->is_exiting)
        leave_soon(app);
    else
        znl_loop_defer(app->loop, &app->end_timers);
}

/* What repeats would go on until drain_ms is over. */
static void end_timers(znl_deferred *deferred)
{
    struct app *app =
            (struct app *)(void *)((char *)deferred - offsetof(struct app, end_timers));
    znl_timers_stop_repeating(app->vm);
}

static void begin_stop(struct app *app)
{
    if (app->is_stopping)
        return;
    app->is_stopping = 1;
    force_within(app, app->options->drain_ms);
    znl_runtime_stop(app->vm, on_stopped, app);
}

static void begin_exit(znl_deferred *deferred)
{
    struct app *app =
            (struct app *)(void *)((char *)deferred - offsetof(struct app, begin_exit));
    if (znl_runtime_stop_count(app->vm) == 0)
        end_loop(app);
    else if (app->is_stopped)
        leave_soon(app);
    else
        begin_stop(app);
}

/* A script called exit(); Lua is running. The first code counts. */
static void on_exit_called(void *user, int code)
{
    struct app *app = user;
    if (app->is_exiting)
        return;
    app->is_exiting = 1;
    app->exit_code = code;
    znl_loop_defer(app->loop, &app->begin_exit);
}

/* --- the script --------------------------------------------------------------------------- */

static const char *script_name(const struct options *options)
{
    if (options->chunk != NULL)
        return "(command line)";
    const char *script = options->argv[options->script];
    return strcmp(script, "-") == 0 ? "stdin" : script;
}

/* Pushes the compiled script, or a message; returns 0 or what luaL_loadbuffer returned. */
static int load_script(lua_State *L, const struct options *options, const char *script)
{
    if (options->chunk != NULL)
        return luaL_loadbuffer(L, options->chunk, strlen(options->chunk), "=(command line)");
    if (options->is_tool)
        return luaL_loadbuffer(L, run_tool, strlen(run_tool), "=znlrun");
    if (options->is_watch && access(script, R_OK) != 0) {
        lua_pushfstring(L, "cannot open %s: %s", script, strerror(errno));
        return LUA_ERRFILE;
    }
    if (options->is_watch)
        return luaL_loadbuffer(L, run_watched, strlen(run_watched), "=znlrun");
    return luaL_loadfile(L, strcmp(script, "-") == 0 ? NULL : script);
}

static void on_main_done(void *user, lua_State *L, int status, int nresults)
{
    struct app *app = user;
    (void)nresults;
    app->is_main_running = 0;
    if (status == 0 || app->is_over || app->is_exiting)
        return;
    const char *text = lua_tostring(L, 1);
    fflush(stdout);
    fprintf(stderr, "znlrun: %s\n", text != NULL ? text : "out of memory");
    app->exit_code = EXIT_SCRIPT;
    end_loop(app);
}

/* The table arg as lua makes it: the script at 0, its arguments after, what stood before it
 * below. */
static void set_arg(lua_State *L, const struct options *options)
{
    int zero = options->chunk != NULL ? options->script - 1 : options->script;
    lua_createtable(L, options->argc - zero, zero + 1);
    for (int i = 0; i < options->argc; i++) {
        lua_pushstring(L, options->argv[i]);
        lua_rawseti(L, -2, i - zero);
    }
    lua_setglobal(L, "arg");
}

/* Runs protected by znl_vm_protect. */
/* os.exit(code|boolean|nil): at once. exit(3) would run destructors under the threads that are at
 * work: workers, libzmq's, libuv's pool. */
static int exit_now(lua_State *L)
{
    int code = lua_isboolean(L, 1) ? (lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE)
                                   : luaL_optint(L, 1, EXIT_SUCCESS);
    uv_tty_reset_mode();
    fflush(NULL);
    _exit(code);
}

static int start_script(lua_State *L)
{
    struct app *app = lua_touserdata(L, 1);
    const struct options *options = app->options;
    znl_modules_open(L);
    lua_getglobal(L, "os");
    lua_pushcfunction(L, exit_now);
    lua_setfield(L, -2, "exit");
    lua_pop(L, 1);
    znl_runtime_on_exit(app->vm, on_exit_called, app);
    set_arg(L, options);
    if (load_script(L, options, options->argv[options->script]) != 0) {
        fprintf(stderr, "znlrun: %s\n", lua_tostring(L, -1));
        app->exit_code = EXIT_SCRIPT;
        app->is_over = 1;
        return 0;
    }
    /* A tool hears its own name, and who watches a script that of the script. */
    int has_name = options->chunk == NULL && !options->is_tool && !options->is_watch;
    int first = options->script + has_name;
    int count = options->argc - first;
    luaL_checkstack(L, count + 4, "too many arguments");
    for (int i = first; i < options->argc; i++)
        lua_pushstring(L, options->argv[i]);
    app->is_main_running = 1;
    int err = znl_sched_spawn(L, count, NULL, on_main_done, app);
    if (err != 0) {
        app->is_main_running = 0;
        return luaL_error(
                L, "the script cannot start with %d arguments: %s", count, znl_err_text(err));
    }
    return 0;
}

/* LuaJIT shortens long names in messages; people and editors want the whole path. */
static void print_compile_error(const char *script, const char *message)
{
    const char *at = message;
    while ((at = strchr(at, ':')) != NULL) {
        size_t digits = strspn(at + 1, "0123456789");
        if (digits > 0 && at[1 + digits] == ':')
            break;
        at++;
    }
    if (at != NULL)
        fprintf(stderr, "%s%s\n", strcmp(script, "-") == 0 ? "stdin" : script, at);
    else
        fprintf(stderr, "%s\n", message);
}

static int check_scripts(const struct options *options)
{
    int exit_code = 0;
    lua_State *L = luaL_newstate();
    if (L == NULL) {
        fputs("znlrun: out of memory\n", stderr);
        return EXIT_SCRIPT;
    }
    int i = options->script;
    do {
        const char *script = options->chunk != NULL ? "(command line)" : options->argv[i];
        if (load_script(L, options, script) != 0) {
            print_compile_error(script, lua_tostring(L, -1));
            exit_code = EXIT_SCRIPT;
        }
        lua_settop(L, 0);
    } while (options->chunk == NULL && ++i < options->argc);
    lua_close(L);
    return exit_code;
}

/* --- signals ------------------------------------------------------------------------------ */

static void on_signal(int signo)
{
    int saved = errno;
    if (signo == SIGHUP) {
        hangup_seen = 1;
    } else if (signal_seen != 0) {
        uv_tty_reset_mode(); /* may be called from a signal handler */
        _exit(EXIT_SIGNAL + signo);
    }
    if (signo != SIGHUP)
        signal_seen = signo;
    if (signal_async != NULL)
        uv_async_send(signal_async); /* may be called from a signal handler */
    errno = saved;
}

static int has_terminal(void)
{
    int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    close(fd);
    return 1;
}

/* SIGHUP loads again what can be. It stops the process when there is nothing of that kind, and when
 * it says that the terminal has gone. */
static void on_hangup(struct app *app)
{
    hangup_seen = 0;
    if (app->is_exiting || app->is_over || app->is_stopping || signal_seen != 0)
        return;
    if ((app->had_terminal && !has_terminal()) || !znl_runtime_hangup(app->vm))
        signal_seen = SIGHUP;
}

static void on_signalled(uv_async_t *async)
{
    struct app *app = async->data;
    if (hangup_seen)
        on_hangup(app);
    if (app->signo != 0 || signal_seen == 0)
        return;
    app->signo = signal_seen;
    if (app->is_exiting || app->is_over)
        return;
    if (znl_runtime_stop_count(app->vm) == 0) {
        app->exit_code = EXIT_SIGNAL + app->signo;
        end_loop(app);
        return;
    }
    begin_stop(app);
}

static void watch_signals(struct app *app)
{
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    app->had_terminal = has_terminal();
    if (sigaction(SIGHUP, NULL, &before) == 0 &&
            before.sa_handler != SIG_IGN) /* as by nohup(1) */
        sigaction(SIGHUP, &action, NULL);
    action.sa_handler = SIG_IGN; /* a closed pipe is an error of write(2) */
    sigaction(SIGPIPE, &action, NULL);
}

/* --- life --------------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *handle)
{
    free(handle);
}

/* Neither handle keeps the loop alive. */
static int open_handles(struct app *app)
{
    uv_loop_t *uv = znl_loop_uv(app->loop);
    uv_async_t *async = calloc(1, sizeof *async);
    uv_timer_t *timer = calloc(1, sizeof *timer);
    if (async == NULL || timer == NULL || uv_async_init(uv, async, on_signalled) != 0) {
        free(async);
        free(timer);
        return ZNL_E_SYSTEM;
    }
    uv_timer_init(uv, timer); /* cannot fail */
    async->data = timer->data = app;
    uv_unref((uv_handle_t *)async);
    uv_unref((uv_handle_t *)timer);
    app->signalled = async;
    app->force = timer;
    signal_async = async;
    return 0;
}

static void close_handles(struct app *app)
{
    signal_async = NULL;
    if (app->signalled != NULL)
        uv_close((uv_handle_t *)app->signalled, on_handle_closed);
    if (app->force != NULL)
        uv_close((uv_handle_t *)app->force, on_handle_closed);
}

static int open_app(struct app *app)
{
    int err = znl_random_start();
    if (err == 0)
        err = znl_loop_new(&app->loop);
    if (err == 0)
        err = open_handles(app);
    if (err == 0)
        err = znl_vm_new(&app->vm, app->loop);
    return err;
}

/* Nothing can wake anything any more, or the loop was told to end. */
static void judge_end(struct app *app)
{
    if (app->is_over || app->is_exiting || app->is_stopping || !app->is_main_running)
        return;
    fprintf(stderr, "znlrun: %s: still waiting when nothing was left to wait for\n",
            script_name(app->options));
    app->exit_code = EXIT_SCRIPT;
}

static void close_app(struct app *app, int is_complete)
{
    size_t tasks = app->vm != NULL ? znl_sched_task_count(app->vm->sched) : 0;
    const char *check = getenv("ZNL_LEAK_CHECK");
    app->is_over = 1;    /* what ends from here on is no news */
    uv_tty_reset_mode(); /* a script may have it in raw mode */
    if (app->vm != NULL && znl_bind_luv_close(app->vm, CLOSE_WAIT_MS) != 0) {
        /* A thread still works for a script; its callback would meet a closed state. */
        znl_log_write(ZNL_LOG_WARN, "host", "ended while the thread pool was at work", NULL, 0);
        fflush(NULL);
        _exit(app->exit_code);
    }
    znl_vm_free(app->vm);
    if (znl_worker_stuck_count() != 0) {
        znl_log_write(ZNL_LOG_WARN, "host", "ended while a worker was at work", NULL, 0);
        fflush(NULL);
        _exit(app->exit_code);
    }
    close_handles(app);
    int handles = znl_loop_close(app->loop) + (int)znl_worker_left_open();
    znl_shared_free_all();
    if (check == NULL || strcmp(check, "1") != 0)
        return;
    if (!is_complete)
        tasks = 0; /* those cut short by exit() or a signal are no leak */
    if (handles != 0 || tasks != 0) {
        fprintf(stderr, "znlrun: leak: %d handles, %zu tasks\n", handles, tasks);
        if (app->exit_code == 0)
            app->exit_code = EXIT_LEAK;
    }
}

/* A watchdog that cannot be had is no reason not to run. */
static void start_watchdog(struct app *app)
{
    int err = znl_watchdog_set(app->vm, app->options->watchdog_ms);
    if (err == 0 && (app->options->watchdog_ms == 0 || znl_watchdog_reaches_traces(app->vm)))
        return;
    const char *reason = err != 0 ? znl_err_text(err) : "compiled loops cannot be interrupted";
    znl_log_field field = {"reason", reason, strlen(reason), 0};
    znl_log_write(ZNL_LOG_DEBUG, "watchdog", "does not work here", &field, 1);
}

static int run(const struct options *options)
{
    struct app app = {.options = options,
            .begin_exit = {.run = begin_exit},
            .end_timers = {.run = end_timers}};
    znl_bind_set_version(ZNL_VERSION);
    znl_bind_set_drain_ms(options->drain_ms);
    znl_bind_log_setup(options->level, options->format);
    znl_bind_set_modules(znl_modules_open);
    int err = open_app(&app);
    if (err != 0) {
        fprintf(stderr, "znlrun: cannot start: %s\n", znl_err_text(err));
        app.exit_code = EXIT_SCRIPT;
    } else {
        watch_signals(&app);
        start_watchdog(&app);
        if (znl_vm_protect(app.vm, start_script, &app, "host") != 0) {
            app.exit_code = EXIT_SCRIPT;
            app.is_over = 1;
        }
        if (!app.is_over)
            znl_loop_run(app.loop);
        judge_end(&app);
    }
    close_app(&app, !app.is_over && !app.is_exiting && !app.is_stopping);
    /* A script that a signal ends may have served well; a tool has not done what it was for. */
    if (options->is_tool && app.signo != 0)
        app.exit_code = EXIT_SIGNAL + app.signo;
    return app.exit_code;
}

int main(int argc, char **argv)
{
    struct options options = {
            .level = ZNL_LOG_INFO,
            .format = isatty(STDERR_FILENO) ? ZNL_LOG_TEXT : ZNL_LOG_LOGFMT,
            .drain_ms = DRAIN_MS_DEFAULT,
            .watchdog_ms = ZNL_WATCHDOG_MS_DEFAULT,
    };
    int exit_code = parse(&options, argc, argv);
    if (exit_code < 0)
        exit_code = check_environment();
    if (exit_code < 0)
        exit_code = options.is_check ? check_scripts(&options) : run(&options);
    if (fflush(stdout) != 0 && exit_code == 0 && errno != EPIPE) {
        perror("znlrun: standard output");
        exit_code = EXIT_SCRIPT;
    }
    return exit_code;
}
