/* http.c - see http.h. SPDX-License-Identifier: MIT */
#include "codec/http.h"

#include "base/err.h"

#define METHOD_BYTES_MAX 32u

/* What is left to read. */
typedef struct cursor {
    const uint8_t *at;
    const uint8_t *end;
} cursor;

enum { WHOLE = 1, CUT = 0 }; /* or an error, which is negative */

/* --- bytes ------------------------------------------------------------------------------------- */

static int is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

static uint8_t lower(uint8_t byte)
{
    return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte | 0x20) : byte;
}

/* tchar of RFC 9110, section 5.6.2. */
static int is_token(uint8_t byte)
{
    static const char others[] = "!#$%&'*+-.^_`|~";
    uint8_t small = lower(byte);
    return (small >= 'a' && small <= 'z') || is_digit(byte) ||
            (byte != 0 && memchr(others, byte, sizeof others - 1) != NULL);
}

/* field-vchar, space and tab; bytes beyond ASCII are opaque. */
static int is_value(uint8_t byte)
{
    return byte == '\t' || (byte >= ' ' && byte != 0x7f);
}

static int is_visible(uint8_t byte)
{
    return byte > ' ' && byte < 0x7f;
}

/* Takes the bytes of a kind: WHOLE when another follows, CUT at the end of the input. */
static int take_while(cursor *in, int (*is_kind)(uint8_t byte), znl_frame *taken)
{
    const uint8_t *start = in->at;
    while (in->at < in->end && is_kind(*in->at))
        in->at++;
    *taken = znl_frame_of(start, (size_t)(in->at - start));
    return in->at < in->end ? WHOLE : CUT;
}

/* Takes exactly these bytes. */
static int take_text(cursor *in, const char *text)
{
    for (; *text != '\0'; text++, in->at++) {
        if (in->at == in->end)
            return CUT;
        if (*in->at != (uint8_t)*text)
            return ZNL_E_PROTO;
    }
    return WHOLE;
}

/* --- lines ------------------------------------------------------------------------------------- */

static int take_version(cursor *in, int *minor)
{
    int rc = take_text(in, "HTTP/1.");
    if (rc != WHOLE)
        return rc;
    if (in->at == in->end)
        return CUT;
    if (*in->at != '0' && *in->at != '1')
        return ZNL_E_PROTO;
    *minor = *in->at++ - '0';
    return WHOLE;
}

static int is_target(znl_frame target)
{
    return target.size > 0 &&
            (target.data[0] == '/' || (target.size == 1 && target.data[0] == '*') ||
                    (target.size > 7 && memcmp(target.data, "http://", 7) == 0) ||
                    (target.size > 8 && memcmp(target.data, "https://", 8) == 0));
}

static int take_request_line(cursor *in, znl_http_head *head)
{
    int rc = take_while(in, is_token, &head->method);
    if (head->method.size > METHOD_BYTES_MAX || (rc == WHOLE && head->method.size == 0))
        return ZNL_E_PROTO;
    if (rc == WHOLE)
        rc = take_text(in, " ");
    if (rc == WHOLE)
        rc = take_while(in, is_visible, &head->target);
    if (rc == WHOLE && !is_target(head->target))
        return ZNL_E_PROTO;
    if (rc == WHOLE)
        rc = take_text(in, " ");
    if (rc == WHOLE)
        rc = take_version(in, &head->minor);
    return rc == WHOLE ? take_text(in, "\r\n") : rc;
}

static int take_status_line(cursor *in, znl_http_head *head)
{
    znl_frame digits;
    znl_frame reason;
    int rc = take_version(in, &head->minor);
    if (rc == WHOLE)
        rc = take_text(in, " ");
    if (rc == WHOLE)
        rc = take_while(in, is_digit, &digits);
    else
        return rc;
    if (digits.size > 3 || (rc == WHOLE && digits.size < 3))
        return ZNL_E_PROTO;
    if (rc != WHOLE)
        return rc;
    head->status = (digits.data[0] - '0') * 100 + (digits.data[1] - '0') * 10 + digits.data[2] -
            '0';
    if (head->status < 100 || head->status > 599)
        return ZNL_E_PROTO;
    if (*in->at == ' ') { /* some leave it out when there is no reason */
        rc = take_while(in, is_value, &reason);
        if (rc != WHOLE)
            return rc;
    }
    return take_text(in, "\r\n");
}

static znl_frame trim(znl_frame text)
{
    while (text.size > 0 && (text.data[0] == ' ' || text.data[0] == '\t')) {
        text.data++;
        text.size--;
    }
    while (text.size > 0 &&
            (text.data[text.size - 1] == ' ' || text.data[text.size - 1] == '\t'))
        text.size--;
    return text;
}

static int take_header(cursor *in, znl_http_header *header)
{
    int rc = take_while(in, is_token, &header->name);
    if (rc != WHOLE)
        return rc;
    if (header->name.size == 0)
        return ZNL_E_PROTO;
    rc = take_text(in, ":");
    if (rc == WHOLE)
        rc = take_while(in, is_value, &header->value);
    if (rc == WHOLE)
        rc = take_text(in, "\r\n");
    header->value = rc == WHOLE ? trim(header->value) : header->value;
    return rc;
}

static int take_headers(cursor *in, znl_http_head *head)
{
    for (;;) {
        znl_http_header beyond;
        if (in->at == in->end)
            return CUT;
        if (*in->at == '\r')
            return take_text(in, "\r\n");
        int is_beyond = head->header_count == ZNL_HTTP_HEADERS_MAX;
        int rc = take_header(in, is_beyond ? &beyond : &head->headers[head->header_count]);
        if (rc != WHOLE)
            return rc;
        if (is_beyond)
            return ZNL_E_TOO_BIG;
        head->header_count++;
    }
}

static long read_head(znl_frame bytes, znl_http_head *head,
        int (*take_first)(cursor *in, znl_http_head *head))
{
    cursor in = {bytes.data, bytes.data + bytes.size};
    head->method = head->target = znl_frame_of(NULL, 0);
    head->status = 0;
    head->minor = 0;
    head->header_count = 0;
    if (bytes.size == 0)
        return 0;
    int rc = take_first(&in, head);
    if (rc == WHOLE)
        rc = take_headers(&in, head);
    return rc == WHOLE ? (long)(in.at - bytes.data) : rc;
}

long znl_http_read_request(znl_frame bytes, znl_http_head *head)
{
    return read_head(bytes, head, take_request_line);
}

long znl_http_read_response(znl_frame bytes, znl_http_head *head)
{
    return read_head(bytes, head, take_status_line);
}

/* --- looking into a head ----------------------------------------------------------------------- */

int znl_http_is(znl_frame text, const char *word)
{
    if (text.size != strlen(word))
        return 0;
    for (size_t i = 0; i < text.size; i++)
        if (lower(text.data[i]) != lower((uint8_t)word[i]))
            return 0;
    return 1;
}

znl_frame znl_http_header_of(const znl_http_head *head, const char *name, int *err)
{
    znl_frame found = {NULL, 0};
    size_t count = 0;
    for (size_t i = 0; i < head->header_count; i++)
        if (znl_http_is(head->headers[i].name, name)) {
            found = head->headers[i].value;
            count++;
        }
    *err = count > 1 ? ZNL_E_PROTO : 0;
    return count > 1 ? znl_frame_of(NULL, 0) : found;
}

static int is_listed(znl_frame list, const char *word)
{
    while (list.size > 0) {
        const uint8_t *comma = memchr(list.data, ',', list.size);
        size_t size = comma != NULL ? (size_t)(comma - list.data) : list.size;
        if (znl_http_is(trim(znl_frame_of(list.data, size)), word))
            return 1;
        size += comma != NULL ? 1 : 0;
        list = znl_frame_of(list.data + size, list.size - size);
    }
    return 0;
}

int znl_http_lists(const znl_http_head *head, const char *name, const char *word)
{
    for (size_t i = 0; i < head->header_count; i++)
        if (znl_http_is(head->headers[i].name, name) && is_listed(head->headers[i].value, word))
            return 1;
    return 0;
}

int znl_http_body_size(const znl_http_head *head, uint64_t *size)
{
    int err;
    int is_encoded = 0;
    uint64_t value = 0;
    znl_frame text = znl_http_header_of(head, "Content-Length", &err);
    if (err != 0)
        return err;
    for (size_t i = 0; i < head->header_count; i++)
        is_encoded |= znl_http_is(head->headers[i].name, "Transfer-Encoding");
    if (is_encoded)
        return text.data != NULL ? ZNL_E_PROTO : ZNL_E_UNSUPPORTED;
    if (text.data != NULL && (text.size == 0 || text.size > 18)) /* 18 digits cannot wrap */
        return ZNL_E_PROTO;
    for (size_t i = 0; i < text.size; i++) {
        if (!is_digit(text.data[i]))
            return ZNL_E_PROTO;
        value = value * 10 + text.data[i] - '0';
    }
    *size = value;
    return 0;
}

int znl_http_keeps_alive(const znl_http_head *head)
{
    return head->minor == 1 && !znl_http_lists(head, "Connection", "close");
}

const char *znl_http_status_text(int status)
{
    switch (status) {
    case 100:
        return "Continue";
    case 101:
        return "Switching Protocols";
    case 200:
        return "OK";
    case 204:
        return "No Content";
    case 304:
        return "Not Modified";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 408:
        return "Request Timeout";
    case 413:
        return "Content Too Large";
    case 417:
        return "Expectation Failed";
    case 426:
        return "Upgrade Required";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 502:
        return "Bad Gateway";
    case 503:
        return "Service Unavailable";
    case 504:
        return "Gateway Timeout";
    default:
        return "Unknown";
    }
}
