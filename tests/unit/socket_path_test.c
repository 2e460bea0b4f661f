/* Unix sockets: who owns a path, also when owners are killed, and streams over them.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "support/certificates.h"
#include "support/turns.h"
#include "transport/socket_path.h"
#include "transport/websocket.h"

static char folder[64];
static char path[ZNL_SOCKET_PATH_BYTES_MAX + 1]; /* of the socket; free when a test begins */
static char lock_path[ZNL_SOCKET_PATH_BYTES_MAX + 8];

static int is_there(const char *name)
{
    struct stat there;
    return lstat(name, &there) == 0;
}

static unsigned mode_of(const char *name)
{
    struct stat there;
    assert_int_equal(lstat(name, &there), 0);
    return there.st_mode & 0777;
}

/* An owner, with its listening socket. */
struct owner {
    znl_socket_path *path;
    int fd;
};

static int own(struct owner *owner, const char *name)
{
    *owner = (struct owner){NULL, -1};
    return znl_socket_path_listen(&owner->path, name, 0600, 16, &owner->fd);
}

static void disown(struct owner *owner)
{
    close(owner->fd);
    znl_socket_path_free(owner->path);
}

static void expect_failure(const char *name, int err)
{
    struct owner owner;
    assert_int_equal(own(&owner, name), err);
    assert_null(owner.path);
    assert_int_equal(owner.fd, -1);
}

/* A socket of a program that knows no lock. */
static int foreign(int type, int listens)
{
    struct sockaddr_un address;
    assert_int_equal(znl_socket_path_read(path, &address), 0);
    int fd = socket(AF_UNIX, type, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
    if (listens)
        assert_int_equal(listen(fd, 0), 0);
    return fd;
}

static void make_file(const char *name)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "kept", 4), 4);
    close(fd);
}

/* --- who owns a path --------------------------------------------------------------------------- */

static void one_owner_at_a_time(void **state)
{
    (void)state;
    struct owner owner;
    assert_int_equal(own(&owner, path), 0);
    expect_failure(path, ZNL_E_ADDRESS_IN_USE);
    assert_true(is_there(path) && is_there(lock_path));
    disown(&owner);
    assert_false(is_there(path) || is_there(lock_path));
    assert_int_equal(own(&owner, path), 0);
    disown(&owner);
    znl_socket_path_free(NULL);
}

static void mode_is_what_was_asked_for(void **state)
{
    (void)state;
    struct owner owner;
    mode_t mask = umask(0);
    assert_int_equal(own(&owner, path), 0);
    assert_int_equal(mode_of(path), 0600);
    assert_int_equal(mode_of(lock_path), 0600);
    disown(&owner);
    umask(0077);
    assert_int_equal(znl_socket_path_listen(&owner.path, path, 0666, 16, &owner.fd), 0);
    assert_int_equal(mode_of(path), 0666);
    assert_int_equal(mode_of(lock_path), 0600);
    disown(&owner);
    umask(0);
    assert_int_equal(znl_socket_path_listen(&owner.path, path, 0666, 16, &owner.fd), 0);
    assert_int_equal(mode_of(lock_path), 0660); /* others could keep everybody out */
    disown(&owner);
    umask(mask);
    assert_int_equal(
            znl_socket_path_listen(&owner.path, path, 01600, 16, &owner.fd), ZNL_E_INVALID);
}

static void what_is_no_path_is_told(void **state)
{
    (void)state;
    char name[200];
    expect_failure("", ZNL_E_ADDRESS);
    memset(name, 'a', sizeof name);
    name[ZNL_SOCKET_PATH_BYTES_MAX + 1] = '\0';
    expect_failure(name, ZNL_E_ADDRESS);
    snprintf(name, sizeof name, "%s/missing/a.sock", folder);
    expect_failure(name, ZNL_E_ADDRESS);
    assert_string_equal(znl_socket_path_problem(name), "its folder does not exist");
    assert_string_equal(znl_socket_path_problem(""), "a path of a socket has 1 to 107 bytes");
    expect_failure(folder, ZNL_E_ADDRESS);
    assert_string_equal(
            znl_socket_path_problem(folder), "something is there that is no socket");
    snprintf(name, sizeof name, "%s.lock", folder); /* made for that, and removed */
    assert_false(is_there(name));

    make_file(path);
    expect_failure(path, ZNL_E_ADDRESS);
    assert_true(is_there(path));
    assert_false(is_there(lock_path));
    snprintf(name, sizeof name, "%s/a.sock", path);
    assert_string_equal(znl_socket_path_problem(name), "what should be its folder is none");
    unlink(path);
    assert_string_equal(znl_socket_path_problem(path), "the file or its .lock cannot be used");

    /* The longest one works. */
    snprintf(name, sizeof name, "%s/", folder);
    size_t size = strlen(name);
    memset(name + size, 'b', ZNL_SOCKET_PATH_BYTES_MAX - size);
    name[ZNL_SOCKET_PATH_BYTES_MAX] = '\0';
    struct owner owner;
    assert_int_equal(own(&owner, name), 0);
    disown(&owner);
}

static void lock_must_be_a_plain_file(void **state)
{
    (void)state;
    char target[100];
    snprintf(target, sizeof target, "%s/target", folder);
    assert_int_equal(symlink(target, lock_path), 0);
    expect_failure(path, ZNL_E_ADDRESS);
    assert_false(is_there(target));
    unlink(lock_path);
    assert_int_equal(mkfifo(lock_path, 0600), 0);
    expect_failure(path, ZNL_E_ADDRESS);
    assert_true(is_there(lock_path));
    unlink(lock_path);
}

static void stale_socket_is_replaced(void **state)
{
    (void)state;
    struct owner owner;
    make_file(lock_path); /* left by who was killed */
    close(foreign(SOCK_STREAM, 1));
    assert_true(is_there(path));
    assert_int_equal(own(&owner, path), 0);
    disown(&owner);
    assert_false(is_there(path));
}

static void socket_of_others_is_left_alone(void **state)
{
    (void)state;
    int fd = foreign(SOCK_STREAM, 1);
    expect_failure(path, ZNL_E_ADDRESS_IN_USE); /* and now its backlog is full */
    expect_failure(path, ZNL_E_ADDRESS_IN_USE);
    expect_failure(path, ZNL_E_ADDRESS_IN_USE);
    assert_true(is_there(path));
    assert_false(is_there(lock_path));
    close(fd);
    unlink(path);
    fd = foreign(SOCK_DGRAM, 0);
    expect_failure(path, ZNL_E_ADDRESS_IN_USE);
    close(fd);
    unlink(path);
}

static void what_replaced_the_socket_is_not_removed(void **state)
{
    (void)state;
    struct owner owner;
    assert_int_equal(own(&owner, path), 0);
    assert_int_equal(unlink(path), 0);
    make_file(path);
    disown(&owner);
    assert_true(is_there(path));
    assert_false(is_there(lock_path));
    unlink(path);
}

/* --- owners in other processes ----------------------------------------------------------------- */

/* What they tell each other. */
struct board {
    _Atomic int inside, together, rounds, errors;
};

static struct board *new_board(void)
{
    struct board *board = mmap(
            NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(board != MAP_FAILED);
    return board;
}

/* Owns the path until it is killed, as soon as it can; says so with one byte. */
static pid_t start_candidate(int tell)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    alarm(60); /* the test may have failed and gone */
    struct owner owner;
    int err = own(&owner, path);
    char result = err == 0 ? 'y' : err == ZNL_E_ADDRESS_IN_USE ? 'n' : 'e';
    if (write(tell, &result, 1) == 1)
        pause();
    _exit(0);
}

static void killed_owner_makes_room_at_once(void **state)
{
    (void)state;
    enum { CANDIDATES = 6, ROUNDS = 10 };
    for (int round = 0; round < ROUNDS; round++) {
        int pipe_of[CANDIDATES][2];
        pid_t pids[CANDIDATES];
        int owners = 0;
        for (int i = 0; i < CANDIDATES; i++) {
            assert_int_equal(pipe(pipe_of[i]), 0);
            pids[i] = start_candidate(pipe_of[i][1]);
        }
        for (int i = 0; i < CANDIDATES; i++) {
            char result = 0;
            assert_int_equal(read(pipe_of[i][0], &result, 1), 1);
            assert_true(result == 'y' || result == 'n');
            owners += result == 'y';
        }
        assert_int_equal(owners, 1);
        expect_failure(path, ZNL_E_ADDRESS_IN_USE);
        for (int i = 0; i < CANDIDATES; i++) {
            kill(pids[i], SIGKILL);
            assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
            close(pipe_of[i][0]);
            close(pipe_of[i][1]);
        }
        assert_true(is_there(path)); /* for the next round */
    }
    struct owner owner;
    assert_int_equal(own(&owner, path), 0);
    disown(&owner);
    assert_false(is_there(path) || is_there(lock_path));
}

static void come_and_go(struct board *board, int rounds)
{
    while (atomic_load(&board->rounds) < rounds && atomic_load(&board->errors) == 0) {
        struct owner owner;
        int err = own(&owner, path);
        if (err == 0) {
            atomic_fetch_add(&board->rounds, 1);
            if (atomic_fetch_add(&board->inside, 1) != 0)
                atomic_fetch_add(&board->together, 1);
            if (!is_there(path))
                atomic_fetch_add(&board->errors, 1);
            atomic_fetch_sub(&board->inside, 1);
            disown(&owner);
        } else if (err != ZNL_E_ADDRESS_IN_USE) {
            atomic_fetch_add(&board->errors, 1);
        }
    }
}

/* The lock file is removed while others are opening it. */
static void owners_that_come_and_go_never_meet(void **state)
{
    (void)state;
    enum { CHILDREN = 3 };
    struct board *board = new_board();
    pid_t pids[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            come_and_go(board, 3000);
            _exit(0);
        }
    }
    for (int i = 0; i < CHILDREN; i++)
        assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
    assert_true(atomic_load(&board->rounds) >= 3000);
    assert_int_equal(atomic_load(&board->together), 0);
    assert_int_equal(atomic_load(&board->errors), 0);
    assert_false(is_there(path) || is_there(lock_path));
    munmap(board, sizeof *board);
}

/* --- streams ----------------------------------------------------------------------------------- */

struct end {
    znl_stream *stream;
    int opened, ended, err, echoes;
    size_t received;
    char text[200];
};

struct site {
    znl_loop *loop;
    znl_listener *listener;
    struct end accepted;
    size_t accepts;
};

static void on_open(void *user)
{
    struct end *end = user;
    end->opened++;
}

static void on_data(void *user, uint8_t *data, size_t size)
{
    struct end *end = user;
    end->received += size;
    if (end->echoes)
        assert_int_equal(znl_stream_write(end->stream, data, size), 0);
}

static void on_end(void *user, int err, const char *text)
{
    struct end *end = user;
    end->ended++;
    end->err = err;
    snprintf(end->text, sizeof end->text, "%s", text);
    znl_stream_close(end->stream, 0);
    end->stream = NULL;
}

static const znl_stream_events events = {
        .on_open = on_open, .on_data = on_data, .on_end = on_end};

static void on_accept(void *user, znl_stream *stream)
{
    struct site *site = user;
    assert_null(site->accepted.stream);
    site->accepts++;
    site->accepted = (struct end){.stream = stream, .echoes = 1};
    znl_stream_set_events(stream, &events, &site->accepted);
}

static void open_site(struct site *site, const znl_tls *tls)
{
    const znl_listener_options options = {.path = path, .tls = tls};
    assert_int_equal(znl_loop_new(&site->loop), 0);
    assert_int_equal(
            znl_listener_open(&site->listener, site->loop, &options, on_accept, site), 0);
    assert_int_equal(znl_listener_port(site->listener), 0);
}

static int dial(struct site *site, struct end *end, const char *to, const znl_tls *tls)
{
    const znl_stream_options options = {.path = to, .tls = tls, .timeout_ms = 2000};
    return znl_stream_connect(&end->stream, site->loop, &options, &events, end);
}

static void close_site(struct site *site, struct end *end)
{
    if (end != NULL)
        znl_stream_close(end->stream, 0);
    znl_stream_close(site->accepted.stream, 0);
    znl_listener_close(site->listener);
    assert_int_equal(znl_loop_run(site->loop), 0);
    assert_int_equal(znl_loop_close(site->loop), 0);
    assert_false(is_there(path) || is_there(lock_path));
}

static void bytes_go_both_ways(void **state)
{
    (void)state;
    enum { SIZE = 3 * 1024 * 1024 };
    static uint8_t bytes[SIZE];
    struct site site = {0};
    struct end end = {0};
    char name[ZNL_SOCKET_PATH_BYTES_MAX + 6];
    snprintf(name, sizeof name, "unix:%s", path);
    open_site(&site, NULL);
    assert_int_equal(mode_of(path), 0600);
    assert_int_equal(dial(&site, &end, path, NULL), 0);
    assert_int_equal(znl_stream_write(end.stream, bytes, SIZE), 0);
    RUN_UNTIL(site.loop, end.received == SIZE);
    assert_int_equal(end.opened, 1);
    assert_string_equal(znl_stream_peer(end.stream), name);
    assert_string_equal(znl_stream_peer(site.accepted.stream), name);
    /* What has been accepted lives on without the path. */
    znl_listener_close(site.listener);
    site.listener = NULL;
    assert_false(is_there(path));
    assert_int_equal(znl_stream_write(end.stream, bytes, 10), 0);
    RUN_UNTIL(site.loop, end.received == SIZE + 10);
    assert_int_equal(znl_stream_write(end.stream, "bye", 3), 0);
    znl_stream_close(end.stream, 1000);
    end.stream = NULL;
    RUN_UNTIL(site.loop, site.accepted.ended == 1);
    assert_int_equal(site.accepted.err, 0);
    assert_int_equal(site.accepted.received, SIZE + 13);
    close_site(&site, &end);
}

static void expect_end(struct site *site, const char *to, int err)
{
    struct end end = {0};
    assert_int_equal(dial(site, &end, to, NULL), 0);
    assert_int_equal(end.ended, 0);
    RUN_UNTIL(site->loop, end.ended == 1);
    assert_int_equal(end.err, err);
    assert_non_null(strstr(end.text, "unix:"));
    assert_non_null(strstr(end.text, to));
}

static void paths_nobody_listens_on_are_unreachable(void **state)
{
    (void)state;
    struct site site = {0};
    struct end end = {0};
    char name[200];
    assert_int_equal(znl_loop_new(&site.loop), 0);
    expect_end(&site, path, ZNL_E_UNREACHABLE);
    close(foreign(SOCK_STREAM, 1));
    expect_end(&site, path, ZNL_E_UNREACHABLE);
    unlink(path);
    int fd = foreign(SOCK_DGRAM, 0);
    expect_end(&site, path, ZNL_E_UNREACHABLE);
    close(fd);
    unlink(path);
    make_file(path);
    expect_end(&site, path, ZNL_E_UNREACHABLE);
    snprintf(name, sizeof name, "%s/below", path);
    expect_end(&site, name, ZNL_E_UNREACHABLE);
    unlink(path);
    memset(name, 'a', sizeof name);
    name[ZNL_SOCKET_PATH_BYTES_MAX + 1] = '\0';
    assert_int_equal(dial(&site, &end, name, NULL), ZNL_E_ADDRESS);
    assert_int_equal(dial(&site, &end, "", NULL), ZNL_E_ADDRESS);
    close_site(&site, NULL);
}

static int opened_of(const struct end *ends, size_t count)
{
    int opened = 0;
    for (size_t i = 0; i < count; i++)
        opened += ends[i].opened;
    return opened;
}

/* A full backlog refuses at once and tells nobody when there is room. */
static void crowded_socket_is_tried_again(void **state)
{
    (void)state;
    struct site site = {0};
    struct end ends[4] = {0};
    assert_int_equal(znl_loop_new(&site.loop), 0);
    int fd = foreign(SOCK_STREAM, 1); /* one may wait */
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(dial(&site, &ends[i], path, NULL), 0);
    RUN_UNTIL(site.loop, opened_of(ends, 4) >= 1);
    int opened = opened_of(ends, 4);
    assert_true(opened < 4);
    int taken[2];
    for (int i = 0; i < 2; i++) {
        taken[i] = accept(fd, NULL, NULL);
        assert_true(taken[i] >= 0);
        RUN_UNTIL(site.loop, opened_of(ends, 4) > opened + i);
    }
    struct end late = {0};
    const znl_stream_options options = {.path = path, .timeout_ms = 60};
    assert_int_equal(znl_stream_connect(&late.stream, site.loop, &options, &events, &late), 0);
    RUN_UNTIL(site.loop, late.ended == 1);
    assert_int_equal(late.err, ZNL_E_TIMEOUT);
    for (size_t i = 0; i < 4; i++)
        znl_stream_close(ends[i].stream, 0);
    for (size_t i = 0; i < 2; i++)
        close(taken[i]);
    close(fd);
    unlink(path);
    close_site(&site, NULL);
}

static void listeners_say_what_is_wrong(void **state)
{
    (void)state;
    struct site site = {0};
    znl_listener *other = NULL;
    open_site(&site, NULL);
    znl_listener_options options = {.path = path};
    assert_int_equal(znl_listener_open(&other, site.loop, &options, on_accept, &site),
            ZNL_E_ADDRESS_IN_USE);
    options.path = "";
    assert_int_equal(
            znl_listener_open(&other, site.loop, &options, on_accept, &site), ZNL_E_ADDRESS);
    options = (znl_listener_options){.path = "/nowhere", .mode = 01000};
    assert_int_equal(
            znl_listener_open(&other, site.loop, &options, on_accept, &site), ZNL_E_INVALID);
    close_site(&site, NULL);
}

static void connections_beyond_the_limit_are_closed(void **state)
{
    (void)state;
    struct site site = {0};
    struct end ends[2] = {0};
    const znl_listener_options options = {.path = path, .mode = 0640, .max_connections = 1};
    assert_int_equal(znl_loop_new(&site.loop), 0);
    assert_int_equal(
            znl_listener_open(&site.listener, site.loop, &options, on_accept, &site), 0);
    assert_int_equal(mode_of(path), 0640);
    assert_int_equal(dial(&site, &ends[0], path, NULL), 0);
    RUN_UNTIL(site.loop, site.accepts == 1);
    assert_int_equal(dial(&site, &ends[1], path, NULL), 0);
    RUN_UNTIL(site.loop, ends[1].ended == 1);
    assert_int_equal(znl_listener_refused(site.listener), 1);
    assert_int_equal(site.accepts, 1);
    close_site(&site, &ends[0]);
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    static uint8_t bytes[1000];
    int is_clean = 0;
    for (long n = 0; !is_clean; n++) {
        struct site site = {0};
        struct end end = {0};
        const znl_listener_options options = {.path = path};
        assert_true(n < 100);
        assert_int_equal(znl_loop_new(&site.loop), 0);
        znl_alloc_fail_after(n);
        int err = znl_listener_open(&site.listener, site.loop, &options, on_accept, &site);
        if (err == 0)
            err = dial(&site, &end, path, NULL);
        if (err == 0)
            err = znl_stream_write(end.stream, bytes, sizeof bytes);
        for (int i = 0;
                i < 1000 && err == 0 && !end.ended && site.accepted.received < sizeof bytes;
                i++)
            run_for(site.loop, 2);
        is_clean = znl_alloc_count() <= n;
        znl_alloc_fail_after(-1);
        assert_true(err == 0 || err == ZNL_E_NOMEM);
        if (is_clean)
            assert_int_equal(site.accepted.received, sizeof bytes);
        else
            assert_true(err == ZNL_E_NOMEM || end.ended == 1);
        close_site(&site, &end);
    }
}

/* --- what stands on them ----------------------------------------------------------------------- */

static znl_tls *new_tls(const znl_tls_options *options)
{
    znl_tls *tls = NULL;
    char text[300] = "";
    if (znl_tls_new(&tls, options, text, sizeof text) != 0)
        fail_msg("%s", text);
    return tls;
}

static void tls_goes_over_them(void **state)
{
    (void)state;
    certificates files;
    certificates_make(&files);
    znl_tls *server = new_tls(&(znl_tls_options){
            .is_server = 1, .certificate = files.server, .key = files.server_key});
    znl_tls *client = new_tls(&(znl_tls_options){.authorities = files.authority});
    struct site site = {0};
    struct end end = {0};
    open_site(&site, server);
    assert_int_equal(dial(&site, &end, path, client), 0);
    assert_int_equal(znl_stream_write(end.stream, "hello", 5), 0);
    RUN_UNTIL(site.loop, end.received == 5);
    assert_int_equal(end.opened, 1);
    znl_stream_close(end.stream, 1000);
    RUN_UNTIL(site.loop, site.accepted.ended == 1);
    assert_int_equal(site.accepted.err, 0);
    /* The certificate must be for the name that is asked for. */
    end = (struct end){0};
    const znl_stream_options options = {.path = path, .host = "other.name", .tls = client};
    assert_int_equal(znl_stream_connect(&end.stream, site.loop, &options, &events, &end), 0);
    RUN_UNTIL(site.loop, end.ended == 1);
    assert_int_equal(end.err, ZNL_E_PROTO);
    assert_int_equal(end.opened, 0);
    close_site(&site, &end);
    znl_tls_release(server);
    znl_tls_release(client);
    certificates_remove(&files);
}

struct socket_end {
    znl_ws *ws;
    int opened, messages, closed;
    char host[64];
};

static void ws_open(void *user, const znl_http_head *head)
{
    struct socket_end *end = user;
    (void)head;
    end->opened++;
}

static void ws_message(void *user, uint8_t *data, size_t size, int is_text)
{
    struct socket_end *end = user;
    assert_int_equal(is_text, 1);
    assert_int_equal(size, 5);
    assert_memory_equal(data, "hello", 5);
    end->messages++;
}

static void ws_close(void *user, int err, uint16_t code, const char *text)
{
    struct socket_end *end = user;
    (void)err;
    (void)code;
    (void)text;
    end->closed++;
}

static const znl_ws_events ws_events = {
        .on_open = ws_open, .on_message = ws_message, .on_close = ws_close};

struct ws_scene {
    znl_loop *loop;
    struct socket_end servant;
};

static void on_request(
        void *user, znl_http_exchange *exchange, const znl_http_head *head, znl_frame body)
{
    struct ws_scene *scene = user;
    const znl_ws_limits limits = {0};
    int err = 0;
    (void)body;
    znl_frame host = znl_http_header_of(head, "Host", &err);
    snprintf(scene->servant.host, sizeof scene->servant.host, "%.*s", (int)host.size,
            (const char *)host.data);
    assert_int_equal(znl_ws_accept(&scene->servant.ws, scene->loop, exchange, head, NULL,
                             &limits, &ws_events, &scene->servant),
            0);
}

static void websockets_go_over_them(void **state)
{
    (void)state;
    struct ws_scene scene = {0};
    struct socket_end client = {0};
    znl_http_server *server = NULL;
    assert_int_equal(znl_loop_new(&scene.loop), 0);
    const znl_http_server_options options = {.listen.path = path};
    assert_int_equal(
            znl_http_server_open(&server, scene.loop, &options, on_request, &scene), 0);
    const znl_ws_connect_options to = {.stream.path = path, .path = "/"};
    assert_int_equal(znl_ws_connect(&client.ws, scene.loop, &to, &ws_events, &client), 0);
    RUN_UNTIL(scene.loop, client.opened == 1);
    assert_string_equal(scene.servant.host, "localhost");
    assert_int_equal(znl_ws_send(client.ws, 1, "hello", 5), 0);
    RUN_UNTIL(scene.loop, scene.servant.messages == 1);
    znl_ws_drop(client.ws, 0);
    znl_ws_drop(scene.servant.ws, 0);
    znl_http_server_close(server);
    assert_int_equal(znl_loop_run(scene.loop), 0);
    assert_int_equal(znl_loop_close(scene.loop), 0);
    assert_false(is_there(path));
}

static int make_folder(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN); /* as the program does */
    snprintf(folder, sizeof folder, "/tmp/znl-socket-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/a.sock", folder);
    snprintf(lock_path, sizeof lock_path, "%s.lock", path);
    return 0;
}

/* Every test has removed what it made. */
static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* a test that hangs is named */
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(one_owner_at_a_time),
            cmocka_unit_test(mode_is_what_was_asked_for),
            cmocka_unit_test(what_is_no_path_is_told),
            cmocka_unit_test(lock_must_be_a_plain_file),
            cmocka_unit_test(stale_socket_is_replaced),
            cmocka_unit_test(socket_of_others_is_left_alone),
            cmocka_unit_test(what_replaced_the_socket_is_not_removed),
            cmocka_unit_test(killed_owner_makes_room_at_once),
            cmocka_unit_test(owners_that_come_and_go_never_meet),
            cmocka_unit_test(bytes_go_both_ways),
            cmocka_unit_test(paths_nobody_listens_on_are_unreachable),
            cmocka_unit_test(crowded_socket_is_tried_again),
            cmocka_unit_test(listeners_say_what_is_wrong),
            cmocka_unit_test(connections_beyond_the_limit_are_closed),
            cmocka_unit_test(each_allocation_may_fail),
            cmocka_unit_test(tls_goes_over_them),
            cmocka_unit_test(websockets_go_over_them),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
