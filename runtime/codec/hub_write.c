/* hub_write.c - see hub.h: writing. SPDX-License-Identifier: MIT */
#include "codec/hub.h"

#include "base/err.h"

/* Appends to a buffer until something goes wrong; then nothing any more. */
typedef struct writer {
    znl_buffer *out;
    int err;
} writer;

static void put(writer *w, const void *data, size_t size)
{
    if (w->err == 0)
        w->err = znl_buffer_append(w->out, data, size);
}

#define PUT(w, text) put(w, text, sizeof(text) - 1)

/* `name` with what stands around it, then a string; nothing when there is no string. */
static void put_text(writer *w, const char *name, znl_frame text)
{
    if (text.data == NULL)
        return;
    put(w, name, strlen(name));
    if (w->err == 0)
        w->err = znl_json_put_string(w->out, text);
}

/* The same with JSON. */
static void put_json(writer *w, const char *name, znl_frame json)
{
    if (json.data == NULL)
        return;
    put(w, name, strlen(name));
    put(w, json.data, json.size);
}

static void put_number(writer *w, const char *name, uint64_t number)
{
    if (number == ZNL_HUB_NO_NUMBER)
        return;
    put(w, name, strlen(name));
    if (w->err == 0)
        w->err = znl_json_put_unsigned(w->out, number);
}

/* "{" and the origin, which may be absent; what follows begins with a comma of its own. */
static void open_object(writer *w, znl_frame origin, const char *first)
{
    PUT(w, "{");
    put_text(w, "\"o\":", origin);
    if (origin.data != NULL)
        PUT(w, ",");
    put(w, first, strlen(first));
}

static int finish(writer *w, size_t before)
{
    PUT(w, "}");
    if (w->err != 0)
        w->out->size = before;
    return w->err;
}

static void put_value(writer *w, znl_frame text)
{
    if (w->err == 0)
        w->err = znl_json_put_string(w->out, text);
}

int znl_hub_put_broadcast(znl_buffer *out, const znl_hub_fan *fan)
{
    size_t before = out->size;
    writer w = {out, 0};
    open_object(&w, fan->origin, "\"ns\":");
    put_value(&w, fan->ns);
    put_text(&w, ",\"channel\":", fan->channel);
    put_json(&w, ",\"message\":", fan->message.text);
    put_json(&w, ",\"exceptSessionIds\":", fan->except);
    return finish(&w, before);
}

int znl_hub_put_direct(znl_buffer *out, const znl_hub_fan *fan)
{
    size_t before = out->size;
    writer w = {out, 0};
    open_object(&w, fan->origin, "\"userId\":");
    put_value(&w, fan->user_id);
    put_json(&w, ",\"message\":", fan->message.text);
    return finish(&w, before);
}

int znl_hub_put_message(znl_buffer *out, const znl_hub_message *message)
{
    size_t before = out->size;
    writer w = {out, 0};
    put_json(&w, "{\"type\":", message->type);
    put_json(&w, ",\"payload\":", message->payload);
    return finish(&w, before);
}

/* --- roster ---------------------------------------------------------------------------------------- */

static void put_member(writer *w, const znl_hub_member *member)
{
    PUT(w, "{\"ns\":");
    put_value(w, member->ns);
    PUT(w, ",\"sessionId\":");
    put_value(w, member->session_id);
    put_text(w, ",\"userId\":", member->user_id);
    put_json(w, ",\"metadata\":", member->metadata);
    PUT(w, "}");
}

int znl_hub_put_member(znl_buffer *out, const znl_hub_member *member)
{
    size_t before = out->size;
    writer w = {out, 0};
    put_member(&w, member);
    if (w.err != 0)
        out->size = before;
    return w.err;
}

static void put_list(writer *w, const char *name, znl_frame list)
{
    put_json(w, name, list.data != NULL ? list : znl_frame_of("[]", 2));
}

static void put_op(writer *w, const znl_hub_roster *message)
{
    switch (message->op) {
    case ZNL_HUB_ADD:
        open_object(w, message->origin, "\"op\":\"add\",\"member\":");
        put_member(w, &message->member);
        break;
    case ZNL_HUB_REMOVE:
        open_object(w, message->origin, "\"op\":\"remove\"");
        put_text(w, ",\"sessionId\":", message->session_id);
        break;
    case ZNL_HUB_HEARTBEAT:
        open_object(w, message->origin, "\"op\":\"heartbeat\"");
        put_list(w, ",\"members\":", message->members);
        break;
    case ZNL_HUB_SYNC:
        open_object(w, message->origin, "\"op\":\"sync_request\"");
        break;
    case ZNL_HUB_DIGEST:
        open_object(w, message->origin, "\"op\":\"digest\"");
        break;
    case ZNL_HUB_ASK:
        open_object(w, message->origin, "\"op\":\"ask\"");
        break;
    case ZNL_HUB_NO_OP:
    case ZNL_HUB_UNKNOWN:
        w->err = ZNL_E_INVALID;
        break;
    }
}

int znl_hub_put_roster(znl_buffer *out, const znl_hub_roster *message)
{
    size_t before = out->size;
    writer w = {out, 0};
    put_op(&w, message);
    if (message->is_ours)
        put_number(&w, ",\"v\":", ZNL_HUB_VERSION);
    put_number(&w, ",\"n\":", message->n);
    put_number(&w, ",\"gen\":", message->gen);
    put_number(&w, ",\"part\":", message->part);
    put_number(&w, ",\"parts\":", message->parts);
    put_number(&w, ",\"since\":", message->since);
    if (message->op == ZNL_HUB_HEARTBEAT && message->is_ours)
        put_list(&w, ",\"since\":", message->sinces);
    put_text(&w, ",\"to\":", message->to);
    put_number(&w, ",\"count\":", message->count);
    put_text(&w, ",\"hash\":", message->hash);
    return finish(&w, before);
}
