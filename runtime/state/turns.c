/* turns.c - see turns.h. SPDX-License-Identifier: MIT */
#include "state/turns.h"

int znl_turns_has_room(const znl_turns *turns, size_t bytes)
{
    return turns->count < turns->max_count &&
            (turns->count == 0 ||
                    (turns->bytes <= turns->max_bytes &&
                            bytes <= turns->max_bytes - turns->bytes));
}

static void enter(znl_turns *turns, znl_turn_line *line)
{
    line->next = NULL;
    line->prev = turns->last;
    if (turns->last != NULL)
        turns->last->next = line;
    else
        turns->first = line;
    turns->last = line;
}

static void leave(znl_turns *turns, znl_turn_line *line)
{
    if (line->prev != NULL)
        line->prev->next = line->next;
    else
        turns->first = line->next;
    if (line->next != NULL)
        line->next->prev = line->prev;
    else
        turns->last = line->prev;
}

void znl_turns_add(znl_turns *turns, znl_turn_line *line, znl_turn_entry *entry, size_t bytes)
{
    if (line->first == NULL)
        enter(turns, line);
    *entry = (znl_turn_entry){.prev = line->last, .line = line, .bytes = bytes};
    if (line->last != NULL)
        line->last->next = entry;
    else
        line->first = entry;
    line->last = entry;
    turns->count++;
    turns->bytes += bytes;
}

void znl_turns_remove(znl_turns *turns, znl_turn_entry *entry)
{
    znl_turn_line *line = entry->line;
    if (entry->prev != NULL)
        entry->prev->next = entry->next;
    else
        line->first = entry->next;
    if (entry->next != NULL)
        entry->next->prev = entry->prev;
    else
        line->last = entry->prev;
    if (line->first == NULL)
        leave(turns, line);
    turns->count--;
    turns->bytes -= entry->bytes;
}

znl_turn_entry *znl_turns_next(znl_turns *turns)
{
    znl_turn_line *line = turns->first;
    if (line == NULL)
        return NULL;
    znl_turn_entry *entry = line->first;
    leave(turns, line); /* to its end, */
    enter(turns, line);
    znl_turns_remove(turns, entry); /* unless this was its last */
    return entry;
}
