/* Streams that write pieces from where they lie and read to where they are wanted: the bytes are the same, and in order,
 * however many of them the system takes at once. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/err.h"
#include "support/turns.h"
#include "transport/stream.h"

#define PLACE_BYTES 300000u
#define GOT_BYTES_MAX 3000000u

/* One end, whose peer is a bare socket. */
struct end {
    znl_loop *loop;
    znl_listener *listener;
    char folder[40];
    znl_stream *stream;
    int fd;
    /* Where it wants to have its bytes; 0 bytes: no matter where. */
    uint8_t *place;
    size_t place_bytes, asked;
    int was_asked; /* and said where */
    size_t in_place, elsewhere;
    struct {
        uint8_t *data;
        size_t size;
    } got;
    int ended;
};

static uint8_t byte_at(size_t at)
{
    return (uint8_t)(at * 7 + at / 251 + at / 65536);
}

static int on_room(void *user, uint8_t **at, size_t *size)
{
    struct end *end = user;
    end->asked++;
    end->was_asked = end->place_bytes > 0;
    if (!end->was_asked)
        return 0;
    *at = end->place;
    *size = end->place_bytes;
    return 1;
}

static void on_data(void *user, uint8_t *data, size_t size)
{
    struct end *end = user;
    assert_true(size > 0);
    if (end->was_asked) {
        assert_ptr_equal(data, end->place);
        assert_true(size <= end->place_bytes);
        end->in_place += size;
    } else {
        end->elsewhere += size;
    }
    end->was_asked = 0;
    assert_true(size <= GOT_BYTES_MAX - end->got.size);
    memcpy(end->got.data + end->got.size, data, size);
    end->got.size += size;
}

static void on_end(void *user, int err, const char *text)
{
    struct end *end = user;
    (void)err;
    (void)text;
    end->ended++;
}

static const znl_stream_events events = {
        .on_data = on_data, .on_room = on_room, .on_end = on_end};

static void on_accept(void *user, znl_stream *stream)
{
    struct end *end = user;
    end->stream = stream;
    znl_stream_set_events(stream, &events, end);
}

/* A unix socket holds a fifth of a megabyte: what is large never goes at once. */
static void open_end(struct end *end, size_t max_queue_bytes)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(end->folder, sizeof end->folder, "/tmp/znl-place-XXXXXX");
    assert_non_null(mkdtemp(end->folder));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", end->folder);
    const znl_listener_options options = {
            .path = address.sun_path, .max_queue_bytes = max_queue_bytes};
    assert_int_equal(znl_loop_new(&end->loop), 0);
    assert_int_equal(znl_listener_open(&end->listener, end->loop, &options, on_accept, end), 0);
    end->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(end->fd >= 0);
    assert_int_equal(
            connect(end->fd, (const struct sockaddr *)(const void *)&address, sizeof address),
            0);
    fcntl(end->fd, F_SETFL, O_NONBLOCK);
    RUN_UNTIL(end->loop, end->stream != NULL);
    end->place = malloc(PLACE_BYTES);
    assert_non_null(end->place);
    end->got.data = malloc(GOT_BYTES_MAX);
    assert_non_null(end->got.data);
}

static void close_end(struct end *end)
{
    znl_stream_close(end->stream, 0);
    znl_listener_close(end->listener);
    if (end->fd >= 0)
        close(end->fd);
    free(end->place);
    free(end->got.data);
    assert_int_equal(znl_loop_run(end->loop), 0);
    assert_int_equal(znl_loop_close(end->loop), 0);
    assert_int_equal(rmdir(end->folder), 0); /* nothing is left in it */
}

/* The peer reads `size` bytes, which are those of byte_at() from `from` on. */
static void peer_reads(struct end *end, size_t from, size_t size)
{
    static uint8_t bytes[65536];
    size_t at = 0;
    for (int waited_ms = 0; waited_ms < GUARD_MS && at < size;) {
        size_t left = size - at;
        ssize_t count = recv(end->fd, bytes, left < sizeof bytes ? left : sizeof bytes, 0);
        if (count <= 0) {
            run_for(end->loop, 1);
            waited_ms++;
            continue;
        }
        for (size_t i = 0; i < (size_t)count; i++)
            if (bytes[i] != byte_at(from + at + i))
                fail_msg("another byte at %zu", from + at + i);
        at += (size_t)count;
    }
    assert_int_equal(at, size);
}

/* --- writing ------------------------------------------------------------------------------------ */

static const size_t shapes[][6] = {{3, 20000}, {9, 100, 0, 16384}, {0, 0, 1}, {200000},
        {9, 50000, 9, 50000, 9, 50000}, {2, 3, 4}, {9, 1000000, 1}, {0}};

/* Pieces of that shape from the sample on; returns their bytes. */
static size_t cut(const uint8_t *sample, const size_t shape[6], znl_frame pieces[6])
{
    size_t at = 0;
    for (size_t i = 0; i < 6; i++) {
        pieces[i] = znl_frame_of(sample + at, shape[i]);
        at += shape[i];
    }
    return at;
}

static uint8_t *make_sample(size_t size)
{
    uint8_t *sample = malloc(size);
    assert_non_null(sample);
    for (size_t i = 0; i < size; i++)
        sample[i] = byte_at(i);
    return sample;
}

/* With and without something before them; what is written is the caller's again at once. */
static void pieces_leave_in_order(void **state)
{
    (void)state;
    struct end end = {0};
    open_end(&end, 0);
    size_t total = 0;
    uint8_t *sample = make_sample(2500000);
    for (unsigned turn = 0; turn < 3; turn++) {
        size_t began = total;
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            znl_frame pieces[6];
            if (turn == 1) { /* something is before them */
                assert_int_equal(znl_stream_write(end.stream, sample + total, 5), 0);
                total += 5;
            }
            size_t size = cut(sample + total, shapes[s], pieces);
            uint8_t *lent = malloc(size + 1);
            assert_non_null(lent);
            memcpy(lent, sample + total, size);
            cut(lent, shapes[s], pieces);
            assert_int_equal(znl_stream_write_pieces(end.stream, pieces, 6), 0);
            memset(lent, 0xee, size);
            free(lent);
            total += size;
            assert_true(znl_stream_queued(end.stream) <= total - began);
            if (turn == 2) { /* nothing is before them */
                peer_reads(&end, began, total - began);
                RUN_UNTIL(end.loop, znl_stream_queued(end.stream) == 0);
                began = total;
            }
        }
        peer_reads(&end, began, total - began);
        RUN_UNTIL(end.loop, znl_stream_queued(end.stream) == 0);
        total = 0; /* the sample begins anew */
    }
    free(sample);
    close_end(&end);
}

/* Most of a large message goes at once, without being queued. */
static void what_the_system_takes_is_not_queued(void **state)
{
    struct end end = {0};
    uint8_t *sample = make_sample(100000);
    (void)state;
    open_end(&end, 0);
    const znl_frame pieces[] = {znl_frame_of(sample, 9), znl_frame_of(sample + 9, 99991)};
    assert_int_equal(znl_stream_write_pieces(end.stream, pieces, 2), 0);
    assert_true(znl_stream_queued(end.stream) < 100000);
    peer_reads(&end, 0, 100000);
    free(sample);
    close_end(&end);
}

static void full_queue_takes_no_pieces(void **state)
{
    struct end end = {0};
    uint8_t *sample = make_sample(1500000);
    (void)state;
    open_end(&end, 50000);
    const znl_frame large = znl_frame_of(sample, 1500000);
    assert_int_equal(znl_stream_write_pieces(end.stream, &large, 1), 0);
    size_t queued = znl_stream_queued(end.stream);
    assert_true(queued > 50000);
    const znl_frame more[] = {znl_frame_of(sample, 10), znl_frame_of(sample, 40000)};
    assert_int_equal(znl_stream_write_pieces(end.stream, more, 2), ZNL_E_BUSY);
    assert_int_equal(znl_stream_write_pieces(end.stream, more, 1), ZNL_E_BUSY);
    assert_int_equal(znl_stream_queued(end.stream), queued);
    peer_reads(&end, 0, 1500000);
    RUN_UNTIL(end.loop, znl_stream_queued(end.stream) == 0);
    /* Nothing of what was refused has left. */
    assert_int_equal(znl_stream_write_pieces(end.stream, more, 1), 0);
    peer_reads(&end, 0, 10);
    free(sample);
    close_end(&end);
}

static void pieces_without_memory_are_not_written(void **state)
{
    struct end end = {0};
    uint8_t *sample = make_sample(1000000);
    (void)state;
    open_end(&end, 0);
    const znl_frame pieces[] = {znl_frame_of(sample, 9), znl_frame_of(sample + 9, 999991)};
    znl_alloc_fail_after(0);
    int err = znl_stream_write_pieces(end.stream, pieces, 2);
    znl_alloc_fail_after(-1);
    assert_int_equal(err, ZNL_E_NOMEM);
    assert_int_equal(znl_stream_queued(end.stream), 0);
    assert_int_equal(znl_stream_write_pieces(end.stream, pieces, 2), 0);
    peer_reads(&end, 0, 1000000);
    free(sample);
    close_end(&end);
}

static void pieces_to_a_peer_that_is_gone(void **state)
{
    struct end end = {0};
    uint8_t *sample = make_sample(100000);
    const znl_frame piece = znl_frame_of(sample, 100000);
    (void)state;
    open_end(&end, 0);
    close(end.fd);
    end.fd = -1;
    int err = znl_stream_write_pieces(end.stream, &piece, 1); /* it may not be seen yet */
    assert_true(err == 0 || err == ZNL_E_CLOSED);
    RUN_UNTIL(end.loop, end.ended == 1);
    free(sample);
    close_end(&end);
}

/* --- reading ------------------------------------------------------------------------------------ */

static void peer_writes(struct end *end, size_t from, size_t size)
{
    uint8_t *bytes = make_sample(from + size);
    size_t at = from, until = end->got.size + size;
    for (int waited_ms = 0; waited_ms < GUARD_MS && at < from + size;) {
        ssize_t count = send(end->fd, bytes + at, from + size - at, MSG_NOSIGNAL);
        if (count > 0) {
            at += (size_t)count;
        } else {
            run_for(end->loop, 1);
            waited_ms++;
        }
    }
    free(bytes);
    RUN_UNTIL(end->loop, end->got.size == until);
}

static void bytes_come_to_their_place(void **state)
{
    static const size_t places[] = {0, 1, 100, 0, 65536, PLACE_BYTES, 7, 0};
    struct end end = {0};
    size_t total = 0, elsewhere = 0;
    (void)state;
    open_end(&end, 0);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        size_t size = places[i] == 1 ? 500 : places[i] == 7 ? 5000 : 400000;
        end.place_bytes = places[i];
        peer_writes(&end, total, size);
        total += size;
        elsewhere += places[i] == 0 ? size : 0;
    }
    assert_int_equal(end.got.size, total);
    assert_int_equal(end.elsewhere, elsewhere);
    assert_int_equal(end.in_place, total - elsewhere);
    for (size_t i = 0; i < total; i++)
        if (end.got.data[i] != byte_at(i))
            fail_msg("another byte at %zu", i);
    close_end(&end);
}

static void who_is_closed_is_not_asked(void **state)
{
    struct end end = {0};
    (void)state;
    open_end(&end, 0);
    end.place_bytes = 10;
    peer_writes(&end, 0, 10);
    size_t asked = end.asked;
    assert_true(asked >= 1);
    znl_stream_close(end.stream, 60000); /* lingers until the peer has ended as well */
    end.stream = NULL;
    assert_int_equal(send(end.fd, "late", 4, MSG_NOSIGNAL), 4);
    char byte;
    for (int i = 0; i < GUARD_MS && recv(end.fd, &byte, 1, 0) != 0; i++)
        run_for(end.loop, 1);
    run_for(end.loop, 2);
    assert_int_equal(end.asked, asked);
    assert_int_equal(end.got.size, 10);
    close_end(&end);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(pieces_leave_in_order),
            cmocka_unit_test(what_the_system_takes_is_not_queued),
            cmocka_unit_test(full_queue_takes_no_pieces),
            cmocka_unit_test(pieces_without_memory_are_not_written),
            cmocka_unit_test(pieces_to_a_peer_that_is_gone),
            cmocka_unit_test(bytes_come_to_their_place),
            cmocka_unit_test(who_is_closed_is_not_asked),
    };
    signal(SIGPIPE, SIG_IGN); /* as the program does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
