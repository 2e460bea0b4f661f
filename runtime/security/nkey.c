/* nkey.c - see nkey.h. SPDX-License-Identifier: MIT */
#include "security/nkey.h"

#include "base/err.h"
#include "codec/text.h"

#include <sodium.h>

#define PREFIX_SEED 0x90u /* 'S' */
#define PREFIX_USER 0xa0u /* 'U' */
#define SEED_TEXT 58u
#define SEED_RAW 36u
#define PUBLIC_RAW 35u

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/* `size` characters to size * 5 / 8 bytes; no stray bits. */
static int base32_decode(znl_frame text, uint8_t *out)
{
    uint32_t bits = 0;
    unsigned count = 0;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        uint32_t value;
        if (c >= 'A' && c <= 'Z')
            value = (uint32_t)(c - 'A');
        else if (c >= '2' && c <= '7')
            value = (uint32_t)(c - '2') + 26;
        else
            return ZNL_E_INVALID;
        bits = (bits << 5 | value) & 0xfff;
        count += 5;
        if (count >= 8) {
            count -= 8;
            *out++ = (uint8_t)(bits >> count);
        }
    }
    return (bits & ((1u << count) - 1)) == 0 ? 0 : ZNL_E_INVALID;
}

static void base32_encode(const uint8_t *bytes, size_t size, char *out)
{
    uint32_t bits = 0;
    unsigned count = 0;
    for (size_t i = 0; i < size; i++) {
        bits = (bits << 8 | bytes[i]) & 0xffff;
        count += 8;
        while (count >= 5) {
            count -= 5;
            *out++ = alphabet[bits >> count & 31];
        }
    }
    if (count > 0)
        *out++ = alphabet[bits << (5 - count) & 31];
    *out = 0;
}

static uint16_t crc16(const uint8_t *bytes, size_t size)
{
    uint16_t crc = 0;
    for (size_t i = 0; i < size; i++) {
        crc = (uint16_t)(crc ^ bytes[i] << 8);
        for (int bit = 0; bit < 8; bit++)
            crc = (uint16_t)(crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1);
    }
    return crc;
}

static int has_sum(const uint8_t *raw, size_t size)
{
    uint16_t sum = crc16(raw, size);
    return raw[size] == (sum & 0xff) && raw[size + 1] == sum >> 8;
}

int znl_nkey_sign(znl_frame seed, znl_frame nonce, char *public_key, char *signature)
{
    uint8_t *raw = sodium_malloc(SEED_RAW + crypto_sign_SECRETKEYBYTES);
    uint8_t shown[PUBLIC_RAW], signed_nonce[crypto_sign_BYTES];
    int err = ZNL_E_INVALID;
    if (raw == NULL)
        return ZNL_E_NOMEM;
    uint8_t *secret = raw + SEED_RAW;
    if (seed.size != SEED_TEXT || base32_decode(seed, raw) != 0 ||
            !has_sum(raw, SEED_RAW - 2) || (raw[0] & 0xf8) != PREFIX_SEED ||
            (((raw[0] & 7) << 5) | (raw[1] & 0xf8) >> 3) != PREFIX_USER)
        goto out;
    crypto_sign_seed_keypair(shown + 1, secret, raw + 2);
    shown[0] = PREFIX_USER;
    uint16_t sum = crc16(shown, PUBLIC_RAW - 2);
    shown[PUBLIC_RAW - 2] = (uint8_t)(sum & 0xff);
    shown[PUBLIC_RAW - 1] = (uint8_t)(sum >> 8);
    base32_encode(shown, sizeof shown, public_key);
    crypto_sign_detached(signed_nonce, NULL, nonce.data, nonce.size, secret);
    signature[znl_base64url_encode(signed_nonce, sizeof signed_nonce, signature)] = 0;
    err = 0;
out:
    sodium_free(raw); /* wipes */
    return err;
}

/* The next line, without white space around it. 0 at the end. */
static int next_line(znl_frame file, size_t *at, znl_frame *line)
{
    if (*at >= file.size)
        return 0;
    const uint8_t *from = file.data + *at, *all = file.data + file.size;
    const uint8_t *end = memchr(from, '\n', file.size - *at);
    if (end == NULL)
        end = all;
    *at = (size_t)(end - file.data) + 1;
    while (from < end && *from <= ' ')
        from++;
    while (end > from && end[-1] <= ' ')
        end--;
    *line = znl_frame_of(from, (size_t)(end - from));
    return 1;
}

static int starts(znl_frame line, const char *text)
{
    size_t size = strlen(text);
    return line.size >= size && memcmp(line.data, text, size) == 0;
}

int znl_nkey_find_seed(znl_frame file, znl_frame *seed)
{
    znl_frame line;
    for (size_t at = 0; next_line(file, &at, &line);) {
        if (line.size == SEED_TEXT && starts(line, "SU")) {
            *seed = line;
            return 0;
        }
    }
    return ZNL_E_INVALID;
}

int znl_nkey_find_token(znl_frame file, znl_frame *token)
{
    znl_frame line;
    for (size_t at = 0; next_line(file, &at, &line);) {
        if (!starts(line, "-----BEGIN NATS USER JWT"))
            continue;
        while (next_line(file, &at, &line)) {
            if (starts(line, "---"))
                return ZNL_E_INVALID;
            if (line.size > 0) {
                *token = line;
                return 0;
            }
        }
    }
    return ZNL_E_INVALID;
}
