/* traffic.h - numbered messages of random shape from one end, and who checks that all come, once, whole and in order.
 *
 * Needs cmocka.h. SPDX-License-Identifier: MIT */
#ifndef ZNL_CONFORMANCE_TRAFFIC_H
#define ZNL_CONFORMANCE_TRAFFIC_H

#include "conformance/stage.h"

#define TRAFFIC_FRAMES 9

/* The shape of the messages, and how many there are; both sides hold the same. */
typedef struct traffic_shape {
    uint64_t seed;
    size_t goal;
    uint32_t max_frames; /* after the first, which has the number */
    uint32_t max_bytes;  /* of one frame; most are much shorter */
} traffic_shape;

struct traffic {
    traffic_shape shape;
    uint64_t state;
    size_t number;    /* messages sent, or heard */
    struct end *from; /* who sends */
    const char *to;   /* a ROUTER: to whom */
    size_t refused;   /* BUSY */
    int is_made;      /* a message waits that was refused */
    int is_broken;    /* heard what should not have come */
    size_t count;
    znl_frame frames[1 + 1 + TRAFFIC_FRAMES]; /* routing id, number, the rest */
    uint32_t seeds[TRAFFIC_FRAMES];
    uint8_t head[4];
    uint8_t *bytes;
};

void traffic_open(struct traffic *traffic, traffic_shape shape);
void traffic_close(struct traffic *traffic);

/* Sends what can be sent now, through `from`. True when all has been. */
int traffic_send(struct traffic *traffic);

/* Checks the next message, without its routing id. Fails the test when it is not the one that is due. */
void traffic_hear(struct traffic *traffic, const znl_frame *frames, size_t count);
/* The same as end->hear, with end->user a traffic; of a ROUTER all from one peer. */
void traffic_hear_end(struct end *end, const znl_frame *frames, size_t count);

#endif
