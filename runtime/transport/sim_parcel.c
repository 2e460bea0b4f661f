/* sim_parcel.c - see sim_parcel.h. SPDX-License-Identifier: MIT */
#include "transport/sim_parcel.h"

#include "base/alloc.h"

znl_sim_parcel *znl_sim_parcel_pack(const znl_frame *id, const znl_frame *frames, size_t count)
{
    size_t total = count + (id != NULL);
    size_t bytes = id != NULL ? id->size : 0;
    for (size_t i = 0; i < count; i++)
        bytes += frames[i].size; /* they all lie in memory: no overflow */
    znl_sim_parcel *parcel = znl_malloc(
            sizeof *parcel + total * sizeof parcel->frames[0] + bytes);
    if (parcel == NULL)
        return NULL;
    uint8_t *at = (uint8_t *)&parcel->frames[total];
    parcel->next = NULL;
    parcel->tag = NULL;
    parcel->due_ms = 0;
    parcel->count = total;
    for (size_t i = 0; i < total; i++) {
        znl_frame frame = id == NULL ? frames[i] : i == 0 ? *id : frames[i - 1];
        if (frame.size > 0)
            memcpy(at, frame.data, frame.size);
        parcel->frames[i] = znl_frame_of(at, frame.size);
        at += frame.size;
    }
    return parcel;
}

void znl_sim_parcels_append(znl_sim_parcels *list, znl_sim_parcel *parcel)
{
    parcel->next = NULL;
    if (list->first == NULL)
        list->first = parcel;
    else
        list->last->next = parcel;
    list->last = parcel;
}

void znl_sim_parcels_insert(znl_sim_parcels *list, znl_sim_parcel *parcel)
{
    if (list->first == NULL || list->last->due_ms <= parcel->due_ms) {
        znl_sim_parcels_append(list, parcel);
        return;
    }
    znl_sim_parcel **at = &list->first;
    while ((*at)->due_ms <= parcel->due_ms)
        at = &(*at)->next;
    parcel->next = *at;
    *at = parcel;
}

znl_sim_parcel *znl_sim_parcels_take(znl_sim_parcels *list)
{
    znl_sim_parcel *parcel = list->first;
    if (parcel != NULL)
        list->first = parcel->next;
    return parcel;
}

znl_sim_parcels znl_sim_parcels_extract(znl_sim_parcels *list, const void *tag)
{
    znl_sim_parcels all = *list;
    znl_sim_parcels taken = {0};
    znl_sim_parcel *parcel;
    *list = (znl_sim_parcels){0};
    while ((parcel = znl_sim_parcels_take(&all)) != NULL)
        znl_sim_parcels_append(parcel->tag == tag ? &taken : list, parcel);
    return taken;
}

void znl_sim_parcels_clear(znl_sim_parcels *list)
{
    znl_sim_parcel *parcel;
    while ((parcel = znl_sim_parcels_take(list)) != NULL)
        znl_free(parcel);
}
