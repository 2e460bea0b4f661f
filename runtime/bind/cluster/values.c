/* values.c - application data: values by transcode, or by two functions of the script; errors.
 *
 * Functions of a script may do anything, also send something else: so all of them are called before the first
 * byte is written. Finalizers of a script may, too, wherever Lua allocates: while values are read, and between
 * writing and sending, where nothing is allocated therefore.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/cluster/cluster.h"

#include "base/err.h"

#include <stdio.h>

/* A name, ": ", and a message. */
#define STACK_BYTES (ZNL_ERROR_TEXT_BYTES_MAX + 2 * ZNL_CODE_BYTES_MAX)

static void writer_fini(znl_cluster_values *values)
{
    znl_transcode_writer_fini(&values->writer);
    values->writer = (znl_transcode_writer){0};
    znl_buffer_fini(&values->out);
}

void znl_cluster_values_fini(znl_cluster_values *values)
{
    writer_fini(values);
    znl_transcode_reader_fini(&values->reader);
    values->reader = (znl_transcode_reader){0};
}

/* The reader is left alone: a finalizer may write in the middle of a reading. */
static void begin(znl_cluster_values *values)
{
    if (values->out.capacity > ZNL_CLUSTER_SCRATCH_BYTES)
        writer_fini(values);
    values->out.size = 0;
    values->written++;
}

/* --- functions of the script ------------------------------------------------------------------- */

/* Replaces the value at `index` by what `encode` makes of it; nil and a message: it cannot. 0 or ZNL_E_INVALID. */
static int encode(lua_State *L, int index, const znl_cluster_values *values,
        char problem[ZNL_LUA_PROBLEM_BYTES])
{
    znl_cluster_push_own(L, values->owner, ZNL_CLUSTER_ENCODE);
    lua_pushvalue(L, index);
    int has_failed = lua_pcall(L, 1, 2, 0) != 0;
    if (!has_failed && lua_type(L, -2) == LUA_TSTRING && lua_objlen(L, -2) > 0) {
        lua_pop(L, 1);
        lua_replace(L, index);
        return 0;
    }
    size_t size = 0;
    const char *text = lua_tolstring(L, -1, &size); /* what was raised, or the message */
    if (text != NULL) {
        znl_frame line = znl_lua_error_line(text, size);
        snprintf(problem, ZNL_LUA_PROBLEM_BYTES, "what encode does not take: %.*s",
                (int)line.size, (const char *)line.data);
    } else {
        snprintf(problem, ZNL_LUA_PROBLEM_BYTES, "what encode makes no text of");
    }
    lua_pop(L, has_failed ? 1 : 2);
    return ZNL_E_INVALID;
}

/* Pushes what `decode` makes of the bytes; nil and a message: it cannot. 0 or ZNL_E_PROTO. */
static int decode(lua_State *L, const znl_cluster_values *values, znl_frame data)
{
    znl_cluster_push_own(L, values->owner, ZNL_CLUSTER_DECODE);
    lua_pushlstring(L, data.size > 0 ? (const char *)data.data : "", data.size);
    if (lua_pcall(L, 1, 2, 0) != 0) {
        lua_pop(L, 1);
        return ZNL_E_PROTO;
    }
    int has_failed = lua_isnil(L, -2) && !lua_isnil(L, -1);
    lua_pop(L, has_failed ? 2 : 1);
    return has_failed ? ZNL_E_PROTO : 0;
}

/* --- writing ----------------------------------------------------------------------------------- */

/* Appends the text of the value at `index`; with functions of the script it is the text. */
static int append(lua_State *L, int index, znl_cluster_values *values,
        char problem[ZNL_LUA_PROBLEM_BYTES])
{
    if (values->is_custom) {
        size_t size;
        const char *text = lua_tolstring(L, index, &size);
        return znl_buffer_append(&values->out, text, size);
    }
    int err = znl_lua_puttranscode(L, index, &values->writer, problem);
    return err == 0 ? znl_transcode_finish(&values->writer, &values->out) : err;
}

int znl_cluster_write_value(lua_State *L, int index, znl_cluster_values *values,
        char problem[ZNL_LUA_PROBLEM_BYTES])
{
    if (values->is_custom) {
        int err = encode(L, index, values, problem);
        if (err != 0)
            return err;
    }
    begin(values);
    return append(L, index, values, problem);
}

int znl_cluster_write_arguments(lua_State *L, int index, int count, znl_cluster_values *values,
        char problem[ZNL_LUA_PROBLEM_BYTES])
{
    for (int i = 0; values->is_custom && i < count; i++) {
        int err = encode(L, index + i, values, problem);
        if (err != 0)
            return err;
    }
    begin(values);
    for (int i = 0; i < count; i++) {
        static const uint8_t room[4];
        size_t at = values->out.size;
        int err = znl_buffer_append(&values->out, room, sizeof room);
        if (err == 0)
            err = append(L, index + i, values, problem);
        if (err != 0)
            return err;
        size_t size = values->out.size - at - sizeof room;
        if (size > INT32_MAX)
            return ZNL_E_TOO_BIG;
        znl_put_be32(values->out.data + at, (uint32_t)size);
    }
    return 0;
}

/* --- reading ----------------------------------------------------------------------------------- */

static int spare_gc(lua_State *L)
{
    znl_transcode_reader_fini(lua_touserdata(L, 1));
    return 0;
}

/* Pushes a reader for one text: the own one is in use. */
static znl_transcode_reader *push_spare(lua_State *L)
{
    znl_transcode_reader *reader = lua_newuserdata(L, sizeof *reader);
    memset(reader, 0, sizeof *reader);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, spare_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    return reader;
}

static int push_with(
        lua_State *L, znl_transcode_reader *reader, znl_frame data, unsigned max_depth)
{
    int err = znl_transcode_begin(reader, data, max_depth);
    return err == 0 ? znl_lua_pushtranscode(L, reader) : err;
}

int znl_cluster_push_value(lua_State *L, znl_cluster_values *values, znl_frame data)
{
    if (values->is_custom)
        return decode(L, values, data);
    if (__builtin_expect(values->is_reading, 0)) {
        /* A finalizer of a script reads inside a reading; or one has failed for want of memory. */
        int err = push_with(L, push_spare(L), data, values->max_depth);
        lua_remove(L, err == 0 ? -2 : -1);
        return err;
    }
    values->is_reading = 1;
    int err = push_with(L, &values->reader, data, values->max_depth);
    if (data.size > ZNL_CLUSTER_SCRATCH_BYTES) {
        znl_transcode_reader_fini(&values->reader);
        values->reader = (znl_transcode_reader){0};
    }
    values->is_reading = 0;
    return err;
}

/* --- failures ---------------------------------------------------------------------------------- */

/* What is no UTF-8 is sent as far as it is ASCII: an answer without its text is better than none. */
static int put_text(znl_transcode_writer *writer, znl_frame text)
{
    int err = znl_transcode_put_string(writer, text);
    if (err != ZNL_E_PROTO)
        return err;
    uint8_t ascii[STACK_BYTES];
    size_t size = text.size < sizeof ascii ? text.size : sizeof ascii;
    for (size_t i = 0; i < size; i++)
        ascii[i] = text.data[i] < 0x80 ? text.data[i] : '?';
    return znl_transcode_put_string(writer, znl_frame_of(ascii, size));
}

static int put_field(znl_transcode_writer *writer, const char *name, znl_frame text)
{
    int err = znl_transcode_put_string(writer, znl_frame_text(name));
    return err == 0 ? put_text(writer, text) : err;
}

static int put_code(znl_transcode_writer *writer, const znl_cluster_failure *failure)
{
    if (failure->code.data != NULL)
        return put_field(writer, "code", failure->code);
    int err = znl_transcode_put_string(writer, znl_frame_text("code"));
    if (err != 0)
        return err;
    return failure->has_number ? znl_transcode_put_number(writer, failure->number)
                               : znl_transcode_put(writer, ZNL_TRANSCODE_UNDEFINED);
}

/* The failure with nothing left out; `stack` is room for one that is made. */
static znl_cluster_failure complete(const znl_cluster_failure *failure, char stack[STACK_BYTES])
{
    znl_cluster_failure whole = *failure;
    if (whole.name.data == NULL)
        whole.name = znl_frame_text("Error");
    if (whole.message.data == NULL)
        whole.message = znl_frame_text("");
    if (whole.stack.data == NULL) {
        int size = snprintf(stack, STACK_BYTES, "%.*s: %.*s", (int)whole.name.size,
                (const char *)whole.name.data, (int)whole.message.size,
                (const char *)whole.message.data);
        whole.stack = znl_frame_of(stack,
                size < 0                             ? 0
                        : (size_t)size < STACK_BYTES ? (size_t)size
                                                     : STACK_BYTES - 1);
    }
    return whole;
}

/* The order of the fields is that of the originals. */
static int put_failure(
        znl_transcode_writer *writer, const znl_cluster_failure *failure, int is_registration)
{
    int err = znl_transcode_put(writer, ZNL_TRANSCODE_OBJECT);
    if (err == 0 && is_registration)
        err = put_field(writer, "message", failure->message);
    if (err == 0)
        err = put_field(writer, "stack", failure->stack);
    if (err == 0)
        err = put_field(writer, "name", failure->name);
    if (err == 0 && !is_registration)
        err = put_field(writer, "message", failure->message);
    if (err == 0)
        err = put_code(writer, failure);
    return err == 0 ? znl_transcode_put(writer, ZNL_TRANSCODE_END) : err;
}

static int put_success(znl_transcode_writer *writer, znl_transcode_kind kind)
{
    int err = znl_transcode_put(writer, ZNL_TRANSCODE_OBJECT);
    if (err == 0)
        err = znl_transcode_put_string(writer, znl_frame_text("success"));
    return err == 0 ? znl_transcode_put(writer, kind) : err;
}

static void push_field(lua_State *L, const char *name, znl_frame text)
{
    znl_cluster_push_frame(L, text);
    lua_setfield(L, -2, name);
}

static void push_failure(lua_State *L, const znl_cluster_failure *failure)
{
    lua_createtable(L, 0, 4);
    push_field(L, "stack", failure->stack);
    push_field(L, "name", failure->name);
    push_field(L, "message", failure->message);
    push_field(L, "code", failure->code);
    if (failure->code.data == NULL && failure->has_number) {
        lua_pushnumber(L, failure->number);
        lua_setfield(L, -2, "code");
    }
}

/* Writes the table at the top with the function of the script, and pops it. */
static int write_custom(lua_State *L, znl_cluster_values *values)
{
    char problem[ZNL_LUA_PROBLEM_BYTES];
    int err = znl_cluster_write_value(L, lua_gettop(L), values, problem);
    lua_pop(L, 1);
    return err == ZNL_E_INVALID ? ZNL_E_FAILED : err;
}

struct custom_failure {
    znl_cluster_values *values;
    const znl_cluster_failure *failure; /* complete */
    int is_registration;
    int err;
};

static int run_custom_failure(lua_State *L)
{
    struct custom_failure *custom = lua_touserdata(L, 1);
    push_failure(L, custom->failure);
    if (custom->is_registration) {
        lua_createtable(L, 0, 2);
        lua_pushboolean(L, 0);
        lua_setfield(L, -2, "success");
        lua_insert(L, -2);
        lua_setfield(L, -2, "error");
    }
    custom->err = write_custom(L, custom->values);
    return 0;
}

int znl_cluster_write_failure(lua_State *L, znl_cluster_values *values,
        const znl_cluster_failure *failure, int is_registration)
{
    char stack[STACK_BYTES];
    const znl_cluster_failure whole = complete(failure, stack);
    if (values->is_custom) {
        /* Protected: the end of a handler waits for it, and must not be skipped. */
        struct custom_failure custom = {values, &whole, is_registration, 0};
        if (lua_cpcall(L, run_custom_failure, &custom) == 0)
            return custom.err;
        lua_pop(L, 1);
        return ZNL_E_NOMEM;
    }
    begin(values);
    znl_transcode_writer *writer = &values->writer;
    znl_transcode_start(writer);
    int err = is_registration ? put_success(writer, ZNL_TRANSCODE_FALSE) : 0;
    if (err == 0 && is_registration)
        err = znl_transcode_put_string(writer, znl_frame_text("error"));
    if (err == 0)
        err = put_failure(writer, &whole, is_registration);
    if (err == 0 && is_registration)
        err = znl_transcode_put(writer, ZNL_TRANSCODE_END);
    return err == 0 ? znl_transcode_finish(writer, &values->out) : err;
}

int znl_cluster_write_success(lua_State *L, znl_cluster_values *values)
{
    if (values->is_custom) {
        lua_createtable(L, 0, 1);
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, "success");
        return write_custom(L, values);
    }
    begin(values);
    znl_transcode_start(&values->writer);
    int err = put_success(&values->writer, ZNL_TRANSCODE_TRUE);
    if (err == 0)
        err = znl_transcode_put(&values->writer, ZNL_TRANSCODE_END);
    return err == 0 ? znl_transcode_finish(&values->writer, &values->out) : err;
}

/* The text of field `name` of the table at `index`, which is left at the top; {NULL, 0} without. A number is one, too. */
static znl_frame field_text(lua_State *L, int index, const char *name)
{
    znl_frame text = {NULL, 0};
    lua_pushstring(L, name);
    lua_rawget(L, index);
    if (lua_isstring(L, -1))
        text.data = (const uint8_t *)lua_tolstring(L, -1, &text.size);
    return text;
}

void znl_cluster_read_failure(lua_State *L, int index, znl_cluster_failure *failure)
{
    znl_frame text = field_text(L, index, "name");
    if (text.data != NULL)
        failure->name = znl_lua_error_line((const char *)text.data, text.size);
    text = field_text(L, index, "message");
    if (text.data != NULL)
        failure->message = text;
    text = field_text(L, index, "stack");
    if (text.data != NULL)
        failure->stack = text;
    lua_pushliteral(L, "code");
    lua_rawget(L, index);
    if (lua_type(L, -1) == LUA_TSTRING) {
        failure->code.data = (const uint8_t *)lua_tolstring(L, -1, &failure->code.size);
    } else if (lua_type(L, -1) == LUA_TNUMBER) {
        failure->code = (znl_frame){NULL, 0};
        failure->has_number = 1;
        failure->number = lua_tonumber(L, -1);
    }
}
