/* nats_write.c - what a NATS client sends besides messages, and which subjects are any; see nats.h.
 *
 * SPDX-License-Identifier: MIT */
#include "codec/nats.h"

#include "base/err.h"
#include "base/limits.h"
#include "codec/json.h"

int znl_nats_put_header(znl_buffer *lines, znl_frame name, znl_frame value)
{
    if (name.size == 0)
        return ZNL_E_INVALID;
    for (size_t i = 0; i < name.size; i++) {
        if (name.data[i] <= ' ' || name.data[i] >= 0x7f || name.data[i] == ':')
            return ZNL_E_INVALID;
    }
    for (size_t i = 0; i < value.size; i++) {
        if (value.data[i] == '\r' || value.data[i] == '\n' || value.data[i] == 0)
            return ZNL_E_INVALID;
    }
    int err = znl_buffer_extend(lines, name.size + value.size + 4);
    if (err != 0)
        return err;
    uint8_t *at = lines->data + lines->size;
    memcpy(at, name.data, name.size);
    at += name.size;
    *at++ = ':';
    *at++ = ' ';
    if (value.size > 0)
        memcpy(at, value.data, value.size);
    at += value.size;
    memcpy(at, "\r\n", 2);
    lines->size += name.size + value.size + 4;
    return 0;
}

static int check(const char *text, int has_wildcards)
{
    const char *token = text;
    const char *at = text;
    for (;; at++) {
        unsigned char c = (unsigned char)*at;
        if (c == '.' || c == 0) {
            if (at == token || at - text > (ptrdiff_t)ZNL_NATS_SUBJECT_BYTES_MAX)
                return 0;
            if (at - token == 1 && (*token == '*' || *token == '>') &&
                    (!has_wildcards || (*token == '>' && c != 0)))
                return 0;
            if (c == 0)
                return 1;
            token = at + 1;
        } else if (c <= ' ' || c == 0x7f) {
            return 0;
        }
    }
}

int znl_nats_is_subject(const char *subject)
{
    return check(subject, 0);
}

int znl_nats_is_pattern(const char *pattern)
{
    return check(pattern, 1);
}

static int put(znl_buffer *out, const char *text)
{
    return znl_buffer_append(out, text, strlen(text));
}

static int put_member(znl_buffer *out, const char *name, const char *value)
{
    if (value == NULL)
        return 0;
    int err = put(out, name);
    return err == 0 ? znl_json_put_string(out, znl_frame_text(value)) : err;
}

int znl_nats_put_connect(znl_buffer *out, const znl_nats_login *login)
{
    int err = put(out,
            "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1,\"headers\":true,"
            "\"no_responders\":true,\"lang\":\"c\"");
    if (err == 0)
        err = put(out, login->echo ? ",\"echo\":true" : ",\"echo\":false");
    if (err == 0)
        err = put(out, login->has_tls ? ",\"tls_required\":true" : ",\"tls_required\":false");
    const struct {
        const char *name, *value;
    } members[] = {
            {",\"version\":", login->version},
            {",\"name\":", login->name},
            {",\"user\":", login->user},
            {",\"pass\":", login->password},
            {",\"auth_token\":", login->token},
            {",\"jwt\":", login->jwt},
            {",\"nkey\":", login->nkey},
            {",\"sig\":", login->signature},
    };
    for (size_t i = 0; err == 0 && i < sizeof members / sizeof members[0]; i++)
        err = put_member(out, members[i].name, members[i].value);
    return err == 0 ? put(out, "}\r\n") : err;
}
