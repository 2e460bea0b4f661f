/* http.h - heads of HTTP/1.1 requests and responses, strictly: what is not certain is refused, so that two
 * readers of the same bytes cannot disagree (RFC 9112). Pure bytes to structs; nothing is copied.
 *
 * Refused although some accept it: lines that end with a bare LF, folded headers, white space before a
 * colon, control characters, a length given twice, Transfer-Encoding beside Content-Length.
 *
 * Layer: codec. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_HTTP_H
#define ZNL_CODEC_HTTP_H

#include "base/bytes.h"

typedef struct znl_http_header {
    znl_frame name;  /* as sent; compare with znl_http_is() */
    znl_frame value; /* without white space around it */
} znl_http_header;

#define ZNL_HTTP_HEADERS_MAX 64u

typedef struct znl_http_head {
    znl_frame method, target; /* of a request: visible ASCII, "/…", "*" or "http://…" */
    int status;               /* of a response: 100 .. 599 */
    int minor;                /* HTTP/1.minor: 0 or 1 */
    size_t header_count;
    znl_http_header headers[ZNL_HTTP_HEADERS_MAX];
} znl_http_head;

/* Reads a head at the start of `bytes`. Returns its size with the empty line; 0 when it is not whole yet;
 * ZNL_E_PROTO, as early as it is certain; ZNL_E_TOO_BIG (more than ZNL_HTTP_HEADERS_MAX headers). All
 * borrowed from `bytes`. Only a size above 0 means that `head` is filled. */
long znl_http_read_request(znl_frame bytes, znl_http_head *head);
long znl_http_read_response(znl_frame bytes, znl_http_head *head);

/* The only header of that name (letters in any case); {NULL, 0} when there is none. ZNL_E_PROTO through
 * *err when there are several, else 0. */
znl_frame znl_http_header_of(const znl_http_head *head, const char *name, int *err);

int znl_http_is(znl_frame text, const char *word); /* equal, letters in any case */
/* True when the comma-separated list in all headers of that name contains `word`. */
int znl_http_lists(const znl_http_head *head, const char *name, const char *word);

/* How many bytes follow the head of a request. 0 and *size; ZNL_E_PROTO; ZNL_E_UNSUPPORTED: in chunks
 * or otherwise encoded. */
int znl_http_body_size(const znl_http_head *head, uint64_t *size);

/* True when the sender of the head lets the connection go on after it. */
int znl_http_keeps_alive(const znl_http_head *head);

/* "Not Found"; "Unknown" for a status that has no name here. Static. */
const char *znl_http_status_text(int status);

#endif
