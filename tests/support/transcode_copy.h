/* transcode_copy.h - a text of the default transcode, read and written again; for tests and fuzz targets.
 *
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_SUPPORT_TRANSCODE_COPY_H
#define ZNL_TESTS_SUPPORT_TRANSCODE_COPY_H

#include "base/err.h"
#include "codec/transcode.h"

static inline int znl_transcode_put_token(
        znl_transcode_writer *writer, const znl_transcode_token *token)
{
    switch (token->kind) {
    case ZNL_TRANSCODE_STRING:
        return znl_transcode_put_string(writer, token->bytes);
    case ZNL_TRANSCODE_NUMBER:
        if (token->is_integer == 2)
            return znl_transcode_put_unsigned(writer, (uint64_t)token->integer);
        return token->is_integer ? znl_transcode_put_integer(writer, token->integer)
                                 : znl_transcode_put_number(writer, token->number);
    case ZNL_TRANSCODE_DATE:
        return znl_transcode_put_date(writer, token->number);
    case ZNL_TRANSCODE_BYTES:
        return znl_transcode_put_bytes(writer, token->bytes);
    default:
        return znl_transcode_put(writer, token->kind);
    }
}

/* Appends what is read of `text`, written again; an invalid date becomes undefined. 0 or the error of either way. */
static inline int znl_transcode_copy(znl_transcode_reader *reader, znl_transcode_writer *writer,
        znl_frame text, unsigned max_depth, znl_buffer *out)
{
    znl_transcode_token token = {0};
    int depth = 0, err = znl_transcode_begin(reader, text, max_depth);
    znl_transcode_start(writer);
    while (err == 0) {
        err = znl_transcode_next(reader, &token);
        if (err != 0)
            break;
        err = znl_transcode_put_token(writer, &token);
        if (err == ZNL_E_INVALID && token.kind == ZNL_TRANSCODE_DATE)
            err = znl_transcode_put(writer, ZNL_TRANSCODE_UNDEFINED);
        depth += token.kind == ZNL_TRANSCODE_ARRAY || token.kind == ZNL_TRANSCODE_OBJECT ||
                token.kind == ZNL_TRANSCODE_ERROR;
        depth -= token.kind == ZNL_TRANSCODE_END;
        if (depth == 0)
            break;
    }
    return err != 0 ? err : znl_transcode_finish(writer, out);
}

#endif
