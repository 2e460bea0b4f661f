/* zmtp_wire.h - what libzmq 4.3.4 really sends, caught by a plain socket; and texts of bytes for tests of ZMTP.
 *
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_ZMTP_WIRE_H
#define ZNL_TESTS_ZMTP_WIRE_H

#include <stdint.h>

/* A string literal as bytes, without the zero at its end. */
#define WIRE(text) ((const uint8_t *)(text)), (sizeof(text) - 1)

/* Greetings. Eight bytes of padding count a routing id, as ZMTP 1.0 did; the signature leaves alone, the rest comes as
 * the other side answers. A server of PLAIN or CURVE does not say that it is one. */
#define WIRE_NOTHING_20 "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
#define WIRE_NOTHING_32 WIRE_NOTHING_20 "\0\0\0\0\0\0\0\0\0\0\0\0"
#define WIRE_GREETING                                                                          \
    "\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01"                                                       \
    "NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" WIRE_NOTHING_32
#define WIRE_GREETING_OF_8                                                                     \
    "\xff\0\0\0\0\0\0\0\x09\x7f\x03\x01" /* the routing id "master-1" */                       \
    "NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" WIRE_NOTHING_32
#define WIRE_GREETING_PLAIN                                                                    \
    "\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01"                                                       \
    "PLAIN\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" WIRE_NOTHING_32
#define WIRE_GREETING_CURVE                                                                    \
    "\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01"                                                       \
    "CURVE\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" WIRE_NOTHING_32

/* READY, head included. */
#define WIRE_READY_ROUTER "\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\0"
#define WIRE_READY_ROUTER_ID                                                                   \
    "\x04\x31\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\x08master-1"
#define WIRE_READY_DEALER_ID                                                                   \
    "\x04\x30\x05READY\x0bSocket-Type\0\0\0\x06"                                               \
    "DEALER\x08Identity\0\0\0\x07slave-1"
#define WIRE_READY_REQ "\x04\x26\x05READY\x0bSocket-Type\0\0\0\x03REQ\x08Identity\0\0\0\0"
#define WIRE_READY_SUB "\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB"

/* PING that lives for 2.5 s, and the answer to a PING with the context "abcd". */
#define WIRE_PING "\x04\x07\x04PING\0\x19"
#define WIRE_PONG "\x04\x09\x04PONGabcd"

/* Heads of the frames of one message: 0, 255 and 256 bytes. */
#define WIRE_HEAD_0_MORE "\x01\0"
#define WIRE_HEAD_255_MORE "\x01\xff"
#define WIRE_HEAD_256 "\x02\0\0\0\0\0\0\x01\0"

#endif
