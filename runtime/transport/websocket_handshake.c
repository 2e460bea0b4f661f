/* websocket_handshake.c - see websocket_handshake.h, and znl_ws_is_upgrade() of websocket.h.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/websocket_handshake.h"

#include "base/err.h"
#include "base/random.h"
#include "transport/websocket.h"

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>

static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* section 1.3 */

void znl_ws_key_make(char key[ZNL_WS_KEY_CHARS + 1])
{
    uint8_t bytes[16];
    znl_random_bytes(bytes, sizeof bytes);
    EVP_EncodeBlock((unsigned char *)key, bytes, sizeof bytes);
}

void znl_ws_key_answer(const char key[ZNL_WS_KEY_CHARS], char accept[ZNL_WS_ACCEPT_CHARS + 1])
{
    uint8_t text[ZNL_WS_KEY_CHARS + sizeof guid - 1];
    uint8_t digest[SHA_DIGEST_LENGTH];
    memcpy(text, key, ZNL_WS_KEY_CHARS);
    memcpy(text + ZNL_WS_KEY_CHARS, guid, sizeof guid - 1);
    SHA1(text, sizeof text, digest);
    EVP_EncodeBlock((unsigned char *)accept, digest, sizeof digest);
}

/* 16 bytes in base64. */
static int is_key(znl_frame key)
{
    if (key.size != ZNL_WS_KEY_CHARS || key.data[22] != '=' || key.data[23] != '=')
        return 0;
    for (size_t i = 0; i < 22; i++) {
        uint8_t c = key.data[i];
        int is_letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!is_letter && !(c >= '0' && c <= '9') && c != '+' && c != '/')
            return 0;
    }
    return 1;
}

/* --- the server's side ------------------------------------------------------------------------- */

int znl_ws_is_upgrade(const znl_http_head *head, int *status)
{
    int err = 0;
    *status = 405;
    if (!znl_frame_equal(head->method, znl_frame_text("GET")))
        return 0;
    *status = 426;
    if (head->minor < 1 || !znl_http_lists(head, "Upgrade", "websocket") ||
            !znl_http_lists(head, "Connection", "upgrade"))
        return 0;
    znl_frame version = znl_http_header_of(head, "Sec-WebSocket-Version", &err);
    if (err == 0 && !znl_frame_equal(version, znl_frame_text("13")))
        return 0;
    *status = 400;
    if (err != 0)
        return 0;
    znl_frame key = znl_http_header_of(head, "Sec-WebSocket-Key", &err);
    if (err != 0 || !is_key(key))
        return 0;
    *status = 101;
    return 1;
}

/* --- the client's side ------------------------------------------------------------------------- */

static int append(znl_buffer *out, const char *text)
{
    return znl_buffer_append(out, text, strlen(text));
}

/* Visible characters of ASCII: nothing that could end the line. */
static int is_path(const char *path)
{
    if (*path != '/')
        return 0;
    for (; *path != '\0'; path++) {
        if (*path <= ' ' || *path > '~')
            return 0;
    }
    return 1;
}

int znl_ws_request_write(
        znl_buffer *out, const znl_ws_request *request, const char key[ZNL_WS_KEY_CHARS + 1])
{
    if (!is_path(request->path))
        return ZNL_E_INVALID;
    int is_bare = strchr(request->host, ':') != NULL && request->host[0] != '[';
    char port[8] = "";
    if (request->port != (request->is_tls ? 443 : 80))
        snprintf(port, sizeof port, ":%u", request->port);
    const char *protocols = request->protocols;
    const char *const parts[] = {"GET ", request->path,
            " HTTP/1.1\r\nHost: ", is_bare ? "[" : "", request->host, is_bare ? "]" : "", port,
            "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13"
            "\r\nSec-WebSocket-Key: ",
            key, protocols != NULL ? "\r\nSec-WebSocket-Protocol: " : "",
            protocols != NULL ? protocols : "", "\r\n",
            request->headers != NULL ? request->headers : "", "\r\n"};
    int err = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && err == 0; i++)
        err = append(out, parts[i]);
    return err;
}

/* True when `word` stands in the list "a, b". */
static int is_listed(const char *list, znl_frame word)
{
    while (list != NULL && *list != '\0') {
        size_t size = strcspn(list, ", ");
        if (znl_frame_equal(znl_frame_of(list, size), word))
            return 1;
        list += size;
        list += strspn(list, ", ");
    }
    return 0;
}

static const char *fault_of(
        const znl_http_head *head, const char key[ZNL_WS_KEY_CHARS], const char *protocols)
{
    char accept[ZNL_WS_ACCEPT_CHARS + 1];
    int err = 0;
    znl_ws_key_answer(key, accept);
    if (!znl_http_lists(head, "Upgrade", "websocket") ||
            !znl_http_lists(head, "Connection", "upgrade"))
        return "no Upgrade to websocket";
    znl_frame got = znl_http_header_of(head, "Sec-WebSocket-Accept", &err);
    if (err != 0 || !znl_frame_equal(got, znl_frame_text(accept)))
        return "a wrong Sec-WebSocket-Accept";
    got = znl_http_header_of(head, "Sec-WebSocket-Extensions", &err);
    if (err != 0 || got.size > 0)
        return "an extension that was not asked for";
    got = znl_http_header_of(head, "Sec-WebSocket-Protocol", &err);
    if (err != 0 || (got.data != NULL && !is_listed(protocols, got)))
        return "a subprotocol that was not asked for";
    return NULL;
}

int znl_ws_response_check(const znl_http_head *head, const char key[ZNL_WS_KEY_CHARS],
        const char *protocols, char *text, size_t size)
{
    if (head->status != 101) {
        snprintf(text, size, "the server answered %d instead of a WebSocket", head->status);
        return ZNL_E_REFUSED;
    }
    const char *fault = fault_of(head, key, protocols);
    if (fault == NULL)
        return 0;
    snprintf(text, size, "the server answered 101 with %s", fault);
    return ZNL_E_PROTO;
}
