/* nats_servers.c - which servers there are, and which is next; see nats_parts.h. SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* memrchr */
#include "transport/nats_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <sodium.h>

static void free_secret(char *text)
{
    if (text != NULL)
        sodium_memzero(text, strlen(text));
    znl_free(text);
}

static void fini_entry(znl_nats_server_entry *entry)
{
    znl_free(entry->host);
    free_secret(entry->user); /* a token, maybe */
    free_secret(entry->password);
    znl_free(entry->tls_name);
    *entry = (znl_nats_server_entry){0};
}

static int hex(uint8_t c)
{
    return isdigit(c) ? c - '0' : isxdigit(c) ? tolower(c) - 'a' + 10 : -1;
}

/* A text with "%xx" undone, owned. 0, ZNL_E_INVALID, ZNL_E_NOMEM. */
static int copy(char **out, znl_frame text)
{
    char *to = *out = znl_malloc(text.size + 1);
    if (to == NULL)
        return ZNL_E_NOMEM;
    for (size_t i = 0; i < text.size; i++) {
        int c = text.data[i];
        if (c == '%' && i + 2 < text.size && hex(text.data[i + 1]) >= 0 &&
                hex(text.data[i + 2]) >= 0) {
            c = hex(text.data[i + 1]) << 4 | hex(text.data[i + 2]);
            i += 2;
        }
        if (c == 0) {
            *to = 0;
            return ZNL_E_INVALID;
        }
        *to++ = (char)c;
    }
    *to = 0;
    return 0;
}

static int copy_plain(char **out, znl_frame text)
{
    *out = znl_calloc(1, text.size + 1);
    if (*out == NULL)
        return ZNL_E_NOMEM;
    memcpy(*out, text.data, text.size);
    return 0;
}

static int take_scheme(znl_frame *url, const char *scheme)
{
    size_t size = strlen(scheme);
    if (url->size < size || memcmp(url->data, scheme, size) != 0)
        return 0;
    url->data += size;
    url->size -= size;
    return 1;
}

static int read_port(znl_frame text, uint16_t *port)
{
    unsigned value = 0;
    if (text.size == 0 || text.size > 5)
        return ZNL_E_INVALID;
    for (size_t i = 0; i < text.size; i++) {
        if (!isdigit(text.data[i]))
            return ZNL_E_INVALID;
        value = value * 10 + (unsigned)(text.data[i] - '0');
    }
    *port = (uint16_t)value;
    return value >= 1 && value <= 65535 ? 0 : ZNL_E_INVALID;
}

/* "host", "host:port", "[::1]", "[::1]:port". */
static int read_place(znl_frame text, znl_nats_server_entry *entry)
{
    znl_frame host = text;
    const uint8_t *colon;
    if (text.size > 0 && text.data[0] == '[') {
        const uint8_t *end = memchr(text.data, ']', text.size);
        if (end == NULL)
            return ZNL_E_INVALID;
        host.size = (size_t)(end - text.data) + 1;
        colon = host.size < text.size ? end + 1 : NULL;
        if (host.size < 4 || (colon != NULL && *colon != ':'))
            return ZNL_E_INVALID;
    } else {
        colon = memchr(text.data, ':', text.size);
        if (colon != NULL)
            host.size = (size_t)(colon - text.data);
    }
    if (host.size == 0 || host.size > ZNL_HOST_BYTES_MAX)
        return ZNL_E_INVALID;
    for (size_t i = 0; i < host.size; i++) {
        if (host.data[i] <= ' ' || host.data[i] >= 0x7f || host.data[i] == '/')
            return ZNL_E_INVALID;
    }
    entry->port = ZNL_NATS_PORT;
    int err = 0;
    if (colon != NULL)
        err = read_port(znl_frame_of(colon + 1, (size_t)(text.data + text.size - colon - 1)),
                &entry->port);
    return err == 0 ? copy(&entry->host, host) : err;
}

/* "user:password", or a user (a token, when there is no password). */
static int read_user(znl_frame text, znl_nats_server_entry *entry)
{
    const uint8_t *colon = memchr(text.data, ':', text.size);
    znl_frame user = text;
    if (colon != NULL)
        user.size = (size_t)(colon - text.data);
    if (user.size == 0)
        return ZNL_E_INVALID;
    int err = copy(&entry->user, user);
    if (err == 0 && colon != NULL)
        err = copy(&entry->password,
                znl_frame_of(colon + 1, (size_t)(text.data + text.size - colon - 1)));
    return err;
}

static int read_url(znl_frame url, znl_nats_server_entry *entry)
{
    entry->has_tls = take_scheme(&url, "tls://") != 0;
    if (!entry->has_tls && !take_scheme(&url, "nats://")) {
        for (size_t i = 0; i + 2 < url.size; i++) {
            if (memcmp(url.data + i, "://", 3) == 0)
                return ZNL_E_INVALID;
        }
    }
    if (url.size > 0 && url.data[url.size - 1] == '/')
        url.size--;
    if (url.size == 0)
        return ZNL_E_INVALID;
    const uint8_t *at = memrchr(url.data, '@', url.size);
    int err = 0;
    if (at != NULL) {
        err = read_user(znl_frame_of(url.data, (size_t)(at - url.data)), entry);
        url = znl_frame_of(at + 1, (size_t)(url.data + url.size - at - 1));
    }
    return err == 0 ? read_place(url, entry) : err;
}

int znl_nats_servers_add(znl_nats_servers *servers, znl_frame url)
{
    if (servers->count == ZNL_NATS_SERVERS_MAX)
        return ZNL_E_LIMIT;
    znl_nats_server_entry entry = {0};
    int err = read_url(url, &entry);
    if (err != 0) {
        fini_entry(&entry);
        return err;
    }
    servers->entries[servers->count++] = entry;
    return 0;
}

static znl_nats_server_entry *find(
        znl_nats_servers *servers, const znl_nats_server_entry *wanted)
{
    for (size_t i = 0; i < servers->count; i++) {
        if (servers->entries[i].port == wanted->port &&
                strcmp(servers->entries[i].host, wanted->host) == 0)
            return &servers->entries[i];
    }
    return NULL;
}

static int is_number(const char *host)
{
    struct in_addr address;
    return host[0] == '[' || inet_pton(AF_INET, host, &address) == 1;
}

static int copy_of(char **out, const char *text)
{
    return text != NULL ? copy_plain(out, znl_frame_text(text)) : 0;
}

/* What one that was told of has of the teller. 0 or ZNL_E_NOMEM. */
static int inherit(znl_nats_server_entry *entry, const znl_nats_server_entry *teller,
        int has_tls, int is_private)
{
    const char *name = teller->tls_name != NULL ? teller->tls_name : teller->host;
    entry->is_told = entry->is_listed = 1;
    entry->has_tls = entry->has_tls || has_tls;
    int err = copy_of(&entry->user, teller->user);
    if (err == 0)
        err = copy_of(&entry->password, teller->password);
    if (err == 0 && has_tls && (!is_private || is_number(entry->host)))
        err = copy_of(&entry->tls_name, name);
    return err;
}

/* Takes out what was told before and is not listed any more. */
static void forget_unlisted(znl_nats_servers *servers, const znl_nats_server_entry **teller)
{
    size_t kept = 0, next = servers->next, at = (size_t)(*teller - servers->entries);
    for (size_t i = 0; i < servers->count; i++) {
        znl_nats_server_entry *entry = &servers->entries[i];
        if (entry->is_told && !entry->is_listed && i != at) {
            fini_entry(entry);
            if (i < servers->next)
                next--;
            continue;
        }
        if (i == at)
            *teller = &servers->entries[kept];
        servers->entries[kept++] = *entry;
    }
    for (size_t i = kept; i < servers->count; i++)
        servers->entries[i] = (znl_nats_server_entry){0};
    servers->count = kept;
    servers->next = next;
}

void znl_nats_servers_learn(znl_nats_servers *servers, const znl_nats_info *info,
        const znl_nats_server_entry **teller, int has_tls, int is_private)
{
    znl_frame url;
    if (info->urls.size == 0)
        return;
    for (size_t i = 0; i < servers->count; i++)
        servers->entries[i].is_listed = 0;
    for (size_t at = 0; znl_nats_next_url(info, &at, &url);) {
        znl_nats_server_entry entry = {0};
        znl_nats_server_entry *known = read_url(url, &entry) == 0 ? find(servers, &entry)
                                                                  : NULL;
        if (known != NULL) {
            known->is_listed = 1;
            if (known->is_told && is_private && !is_number(known->host)) {
                znl_free(known->tls_name);
                known->tls_name = NULL;
            }
        }
        fini_entry(&entry);
    }
    forget_unlisted(servers, teller);
    for (size_t at = 0;
            servers->count < ZNL_NATS_SERVERS_MAX && znl_nats_next_url(info, &at, &url);) {
        znl_nats_server_entry entry = {0};
        if (read_url(url, &entry) == 0 && entry.user == NULL && find(servers, &entry) == NULL &&
                inherit(&entry, *teller, has_tls, is_private) == 0)
            servers->entries[servers->count++] = entry;
        else
            fini_entry(&entry);
    }
}

void znl_nats_servers_shuffle(znl_nats_servers *servers)
{
    for (size_t i = servers->count; i > 1; i--) {
        size_t j = (size_t)(znl_random_u64() % i);
        znl_nats_server_entry entry = servers->entries[i - 1];
        servers->entries[i - 1] = servers->entries[j];
        servers->entries[j] = entry;
    }
}

const znl_nats_server_entry *znl_nats_servers_take(
        znl_nats_servers *servers, int *is_round_over)
{
    *is_round_over = servers->tried >= servers->count;
    if (*is_round_over)
        servers->tried = 0;
    servers->tried++;
    size_t index = servers->next % servers->count;
    servers->next = index + 1; /* one that it tells of comes there */
    return &servers->entries[index];
}

void znl_nats_servers_fini(znl_nats_servers *servers)
{
    while (servers->count > 0)
        fini_entry(&servers->entries[--servers->count]);
}
