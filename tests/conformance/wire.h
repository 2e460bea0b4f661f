/* wire.h - a raw socket that says to a link what the test wants, byte by byte, and sees what comes back. What it says
 * is put together here, not by the codec that is on trial.
 *
 * Needs cmocka.h. SPDX-License-Identifier: MIT */
#ifndef ZNL_CONFORMANCE_WIRE_H
#define ZNL_CONFORMANCE_WIRE_H

#include "base/bytes.h"
#include "conformance/stage.h"

struct wire {
    struct wire *next;
    struct stage *stage;
    int fd;
    int is_listener;
    char endpoint[ZNL_ENDPOINT_BYTES_MAX]; /* of a listener */
    znl_buffer in;
    size_t at;    /* bytes of it that were taken */
    int is_ended; /* the link has said that it is done, or is gone */
    int is_deaf;  /* does not read */
};

/* Connects to a router; belongs to the stage. */
struct wire *wire_connect(struct stage *stage, const char *endpoint);
/* True when somebody listens there. */
int wire_is_served(const char *endpoint);
/* Listens for dealers, over what the pairing says; accept waits for the next one. */
struct wire *wire_listen(struct stage *stage);
struct wire *wire_accept(struct wire *listener);
/* NULL when there is none at the moment. */
struct wire *wire_try_accept(struct wire *listener);
void wire_close(struct wire *wire);
/* Says that nothing more comes; still reads. */
void wire_finish(struct wire *wire);
/* Ends the connection the hard way: the other side finds it reset (tcp). */
void wire_reset(struct wire *wire);

/* Writes all of it, unless the link closes before; turns while there is no room. True when all went. */
int wire_write(struct wire *wire, const void *data, size_t size);
int wire_say(struct wire *wire, const znl_buffer *bytes);

/* Waits until so many bytes can be taken; they are good until the next turn. */
const uint8_t *wire_take(struct wire *wire, size_t size);
/* The next frame of the link. */
znl_frame wire_take_frame(struct wire *wire, unsigned *flags);
/* Waits until the link has closed. */
void wire_ends(struct wire *wire);

/* For the stage. */
void wires_look(struct stage *stage);
void wires_close(struct stage *stage);

/* --- what is said ------------------------------------------------------------------------------- */

#define SAY_MORE 1u
#define SAY_LONG 2u
#define SAY_COMMAND 4u

void say_bytes(znl_buffer *out, const void *data, size_t size);
void say_greeting(znl_buffer *out, unsigned minor, const char *mechanism);
/* One frame; with SAY_LONG also a short one has its size in eight bytes. */
void say_frame(znl_buffer *out, unsigned flags, const void *data, size_t size);
void say_text(znl_buffer *out, const char *text); /* a message of one frame */
void say_command(znl_buffer *out, const char *name, const void *body, size_t size);
void say_property(znl_buffer *out, const char *name, const void *value, size_t size);
void say_ready(znl_buffer *out, const char *type, const void *id, size_t id_size);

/* Everything up to READY from both sides; the link is of the kind that talks to `type`. */
void wire_shake(struct wire *wire, const char *type, const char *id);
/* What the link says first: its greeting, then its READY. */
void wire_take_greeting(struct wire *wire);
void wire_take_ready(struct wire *wire, const char *type, const char *id);

#endif
