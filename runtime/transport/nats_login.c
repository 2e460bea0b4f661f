/* nats_login.c - CONNECT, with what proves who we are; see nats_parts.h. SPDX-License-Identifier: MIT */
#include "transport/nats_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "security/nkey.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <unistd.h>

/* Small files on a disk: not worth a thread. Nothing waits for who writes to a pipe, and no copy is left. */
static int read_file(const char *path, znl_buffer *out, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        snprintf(text, size, "%s: %s", path, strerror(errno));
        return ZNL_E_INVALID;
    }
    ssize_t got = 1;
    int err = znl_buffer_extend(out, ZNL_NKEY_FILE_BYTES_MAX + 1);
    while (err == 0 && got > 0 && out->size <= ZNL_NKEY_FILE_BYTES_MAX) {
        got = read(fd, out->data + out->size, ZNL_NKEY_FILE_BYTES_MAX + 1 - out->size);
        if (got > 0)
            out->size += (size_t)got;
    }
    if (got < 0) {
        snprintf(text, size, "%s: %s", path, strerror(errno));
        err = ZNL_E_INVALID;
    } else if (out->size > ZNL_NKEY_FILE_BYTES_MAX) {
        snprintf(text, size, "%s: more than 64 KiB", path);
        err = ZNL_E_INVALID;
    }
    close(fd);
    return err;
}

/* Signs the nonce of the server with the seed in a file; takes the token of a credentials file, too. `token` is
 * owned afterwards. */
static int sign(znl_nats *nats, const char *path, char **token, char *public_key,
        char *signature, char *text, size_t size)
{
    znl_buffer file = {0};
    znl_frame seed, jwt;
    int err = read_file(path, &file, text, size);
    znl_frame all = znl_frame_of(file.data, file.size);
    if (err != 0)
        goto out;
    if (nats->nonce == NULL) {
        snprintf(text, size, "the server asks for no signature");
        err = ZNL_E_REFUSED;
        goto out;
    }
    if (path == nats->credentials_file) {
        err = znl_nkey_find_token(all, &jwt);
        if (err == 0) {
            *token = znl_calloc(1, jwt.size + 1);
            err = *token != NULL ? 0 : ZNL_E_NOMEM;
        }
        if (err == 0)
            memcpy(*token, jwt.data, jwt.size);
    }
    if (err == 0)
        err = znl_nkey_find_seed(all, &seed);
    if (err == 0)
        err = znl_nkey_sign(seed, znl_frame_text(nats->nonce), public_key, signature);
    if (err == ZNL_E_INVALID)
        snprintf(text, size, "%s: %s", path,
                path == nats->credentials_file ? "no user token and seed in it"
                                               : "no seed of a user in it");
out:
    if (file.data != NULL)
        sodium_memzero(file.data, file.capacity);
    znl_buffer_fini(&file);
    return err;
}

/* Room for CONNECT, with every byte escaped, and PING. */
static size_t line_bytes(const znl_nats_login *login)
{
    const char *const texts[] = {login->name, login->user, login->password, login->token,
            login->jwt, login->nkey, login->signature, login->version};
    size_t size = 512;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        size += texts[i] != NULL ? 6 * strlen(texts[i]) : 0;
    return size;
}

int znl_nats_log_in(znl_nats *nats, char *text, size_t size)
{
    znl_buffer line = {0};
    char public_key[ZNL_NKEY_PUBLIC_BYTES], signature[ZNL_NKEY_SIGNATURE_BYTES];
    char *token = NULL;
    int err = 0;
    znl_nats_login login = {.name = nats->name,
            .user = nats->own_user,
            .password = nats->password,
            .token = nats->token,
            .version = "1",
            .echo = nats->echo,
            .has_tls = nats->wants_tls || nats->server->has_tls};
    const char *path = nats->credentials_file != NULL ? nats->credentials_file
                                                      : nats->nkey_seed_file;
    if (path != NULL) {
        err = sign(nats, path, &token, public_key, signature, text, size);
        login.jwt = token;
        login.nkey = token == NULL ? public_key : NULL;
        login.signature = signature;
    } else if (nats->server->user != NULL && nats->own_user == NULL && nats->token == NULL) {
        /* Of the server's address. */
        login.user = nats->server->password != NULL ? nats->server->user : NULL;
        login.password = nats->server->password;
        login.token = nats->server->password == NULL ? nats->server->user : NULL;
    }
    if (err == 0)
        err = znl_buffer_extend(
                &line, line_bytes(&login)); /* grown later, it would leave copies */
    if (err == 0)
        err = znl_nats_put_connect(&line, &login);
    if (err == ZNL_E_PROTO) {
        snprintf(text, size, "name, user, password and token must be UTF-8");
        err = ZNL_E_INVALID;
    }
    if (err == 0)
        err = znl_buffer_append(&line, "PING\r\n", 6);
    if (err == 0)
        err = znl_stream_write(nats->stream, line.data, line.size);
    if (line.data != NULL)
        sodium_memzero(line.data, line.capacity);
    znl_buffer_fini(&line);
    if (token != NULL)
        sodium_memzero(token, strlen(token));
    znl_free(token);
    return err;
}
