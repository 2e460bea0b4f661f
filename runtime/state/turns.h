/* turns.h - a queue in which those who ask take turns: who has much waiting does not keep the others waiting.
 *
 * Those who ask are lines; each has its entries, first come, first served. The next entry is always of the
 * line whose turn was longest ago. Bounded by count and by bytes, over all lines.
 *
 * Layer: state. No clock; nothing is allocated. SPDX-License-Identifier: MIT */
#ifndef ZNL_STATE_TURNS_H
#define ZNL_STATE_TURNS_H

#include <stddef.h>

typedef struct znl_turn_line znl_turn_line;
typedef struct znl_turn_entry znl_turn_entry;

/* Lives inside what waits. */
struct znl_turn_entry {
    znl_turn_entry *next, *prev;
    znl_turn_line *line;
    size_t bytes;
};

/* Lives inside who asks. Zeroed memory is a line in which nothing waits. */
struct znl_turn_line {
    znl_turn_line *next, *prev; /* of those with entries, in the order of their turns */
    znl_turn_entry *first, *last;
};

typedef struct znl_turns {
    znl_turn_line *first, *last;
    size_t count, bytes;
    size_t max_count, max_bytes;
} znl_turns;

/* Whether there is room for an entry of that many bytes; an empty queue takes any size, unless max_count is 0. */
int znl_turns_has_room(const znl_turns *turns, size_t bytes);

/* Puts `entry` at the end of `line`. Limits are not looked at. */
void znl_turns_add(znl_turns *turns, znl_turn_line *line, znl_turn_entry *entry, size_t bytes);

/* Takes out an entry that is in. */
void znl_turns_remove(znl_turns *turns, znl_turn_entry *entry);

/* Takes out the next one, NULL when nothing waits. */
znl_turn_entry *znl_turns_next(znl_turns *turns);

#endif
