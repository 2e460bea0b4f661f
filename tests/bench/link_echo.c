/* link_echo.c - what an engine can do without the rest of znlrun: raw_echo straight on transport/link.h.
 *
 *   link_echo server zmtp|libzmq ENDPOINT
 *   link_echo client zmtp|libzmq ENDPOINT SIZE IN_FLIGHT SECONDS
 *
 * The same messages, checks and figures as raw_echo. SPDX-License-Identifier: MIT */
#include "base/err.h"
#include "requests.h"
#include "transport/link.h"

#include <unistd.h>

#define PREFIX REQUESTS_PREFIX
#define HWM 100000

static struct {
    znl_loop *loop;
    znl_link *link;
    requests *asks;
    uint32_t open;
} here;

_Noreturn static void die(const char *what, int err)
{
    fprintf(stderr, "link_echo: %s: %s\n", what, err == 0 ? "failed" : znl_err_text(err));
    exit(1);
}

static int is_text(znl_frame frame, const char *text)
{
    return frame.size == strlen(text) && memcmp(frame.data, text, frame.size) == 0;
}

static znl_frame text_frame(const char *text)
{
    return (znl_frame){(const uint8_t *)text, strlen(text)};
}

/* --- server ------------------------------------------------------------------------------- */

static void on_question(void *user, const znl_frame *frames, size_t count)
{
    (void)user;
    znl_frame answer[5];
    if (count == 5 && is_text(frames[2], "req")) {
        memcpy(answer, frames, sizeof answer);
        answer[2] = text_frame("res");
    } else if (count >= 3 && is_text(frames[2], "heartbeat")) {
        answer[0] = frames[0];
        answer[1] = frames[1];
        answer[2] = text_frame("heartbeat_ack");
        count = 3;
    } else {
        return;
    }
    int err = znl_link_send(here.link, answer, count);
    if (err != 0)
        die("answer", err);
}

/* --- client ------------------------------------------------------------------------------- */

static int ask(uint32_t slot)
{
    const requests_slot *request = requests_next(here.asks, slot);
    znl_frame frames[4] = {text_frame(PREFIX), text_frame("req"),
            {(const uint8_t *)request->id, REQUESTS_ID_BYTES},
            {request->payload, here.asks->bytes.size}};
    return znl_link_send(here.link, frames, 4);
}

static void on_writable(void *user)
{
    (void)user;
    while (here.open < here.asks->in_flight) {
        int err = ask(here.open);
        if (err == ZNL_E_BUSY)
            return;
        if (err != 0)
            die("send", err);
        here.open++;
    }
    znl_link_want_writable(here.link, 0);
}

static void on_answer(void *user, const znl_frame *frames, size_t count)
{
    (void)user;
    if (count != 4 || !is_text(frames[1], "res"))
        return;
    int slot = requests_match(
            here.asks, frames[2].data, frames[2].size, frames[3].data, frames[3].size);
    if (slot < 0)
        die("an answer differs from its request", 0);
    if (requests_answered(here.asks, slot)) {
        int err = ask((uint32_t)slot);
        if (err != 0)
            die("send", err);
    } else if (--here.open == 0) {
        requests_print(here.asks);
        znl_link_close(here.link, 0);
    }
}

static int run(int is_router, const char *engine, const char *endpoint)
{
    znl_link_events events = {.on_message = is_router ? on_question : on_answer,
            .on_writable = is_router ? NULL : on_writable};
    znl_link_options options = {
            .engine = strcmp(engine, "zmtp") == 0 ? ZNL_LINK_ZMTP : ZNL_LINK_LIBZMQ,
            .is_router = is_router,
            .endpoint = endpoint,
            .routing_id = is_router ? (znl_frame){NULL, 0} : text_frame("link-client"),
            .send_hwm = HWM,
            .recv_hwm = HWM,
            .max_frame_bytes = 1u << 26,
            .max_frames = 16,
            .max_message_bytes = 1u << 26};
    int err = znl_loop_new(&here.loop);
    if (err == 0)
        err = znl_link_open(&here.link, here.loop, &options, &events, NULL);
    if (err != 0)
        die(endpoint, err);
    if (is_router) {
        printf("ready %s\n", endpoint);
        fflush(stdout);
    } else {
        znl_link_want_writable(here.link, 1);
    }
    znl_loop_run(here.loop);
    znl_loop_close(here.loop);
    return 0;
}

int main(int argc, char **argv)
{
    int has_engine = argc > 3 &&
            (strcmp(argv[2], "zmtp") == 0 || strcmp(argv[2], "libzmq") == 0);
    if (has_engine && argc == 4 && strcmp(argv[1], "server") == 0)
        return run(1, argv[2], argv[3]);
    if (has_engine && argc == 7 && strcmp(argv[1], "client") == 0 && atol(argv[4]) >= 0 &&
            atol(argv[5]) >= 1 && atol(argv[5]) <= 50000 && atof(argv[6]) > 0) {
        here.asks = requests_new((size_t)atol(argv[4]), (uint32_t)atol(argv[5]), atof(argv[6]));
        if (here.asks == NULL)
            die("memory", 0);
        int status = run(0, argv[2], argv[3]);
        requests_free(here.asks);
        return status;
    }
    fprintf(stderr,
            "usage: link_echo server zmtp|libzmq ENDPOINT\n"
            "       link_echo client zmtp|libzmq ENDPOINT SIZE IN_FLIGHT SECONDS\n");
    return 2;
}
