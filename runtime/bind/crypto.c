/* crypto.c - znl.core.crypto: keys, proofs, sealed payloads, digests and randomness.
 *
 * A keys object signs, checks, seals and opens; there is no way to read the keys out of it.
 *
 *     derive(secret [, salt]) -> keys | nil, message, code
 *     keys:sign{kind=, node_id=, subject=, timestamp_ms=, nonce=, digest=} -> proof
 *     keys:check(proof [, now_unix_ms [, max_skew_ms]]) -> claim | nil, message, code
 *     keys:seal({kind=, sender_id=, subject=}, payload) -> {version, iv, tag, ciphertext}
 *     keys:open({kind=, sender_id=, subject=}, frames) -> payload | nil, message, code
 *     keys:close()
 *     digest(payload) sha256(text) hmac(secret, text) -> lowercase hex
 *     random(size_bytes) -> bytes; uuid() -> text
 *
 * SPDX-License-Identifier: MIT */
#include "bind/bind.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "codec/frames.h"
#include "codec/text.h"
#include "security/curve.h"
#include "security/envelope.h"
#include "security/proof.h"

#include <lauxlib.h>
#include <lua.h>
#include <sodium.h>

#define KEYS_TYPE "znl.core.crypto.keys"
#define SCRATCH_TYPE "znl.core.crypto.scratch"
#define SCRATCH_KEEP_BYTES (1024u * 1024)
#define RANDOM_BYTES_MAX (1024u * 1024)
#define FRAMES_MAX ZNL_FRAMES_DEFAULT

/* Key in the registry of the buffer that seal and open work in. */
static char scratch_key;

static znl_keys *check_keys(lua_State *L)
{
    znl_keys **box = luaL_checkudata(L, 1, KEYS_TYPE);
    luaL_argcheck(L, *box != NULL, 1, "the keys are closed");
    return *box;
}

/* The text in field `name` of the table at `index`, or `fallback` when the field is nil and
 * `fallback` is not NULL. Pushes one value that keeps the text alive. */
static znl_frame check_field(
        lua_State *L, int index, const char *name, size_t max_bytes, const char *fallback)
{
    lua_getfield(L, index, name);
    if (lua_isnil(L, -1) && fallback != NULL)
        return znl_frame_text(fallback);
    size_t size = 0;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &size) : NULL;
    if (text == NULL || size > max_bytes)
        luaL_error(L, "%s must be text of at most %d bytes", name, (int)max_bytes);
    return znl_frame_of(text, size);
}

static int64_t check_unix_ms(lua_State *L, int index, const char *name)
{
    if (lua_isnoneornil(L, index))
        return znl_clock_unix_ms();
    lua_Number number = lua_type(L, index) == LUA_TNUMBER ? lua_tonumber(L, index) : -1;
    if (!(number >= 0 && number <= 9007199254740991.0) || (lua_Number)(int64_t)number != number)
        luaL_error(L, "%s must be a whole number of milliseconds since 1970", name);
    return (int64_t)number;
}

/* Frames of a payload argument; raises unless it is nil, a string or an array of strings, of which
 * an empty one is no frames. Returns 0 or ZNL_E_TOO_BIG. */
static int check_payload(lua_State *L, int index, znl_frame *frames, size_t *count)
{
    if (lua_istable(L, index) && lua_objlen(L, index) == 0) {
        *count = 0;
        return 0;
    }
    int err = znl_lua_toframes(L, index, frames, FRAMES_MAX, count);
    if (err == ZNL_E_INVALID)
        luaL_argerror(L, index, "expected nil, a string or an array of strings");
    return err;
}

static znl_envelope_context check_context(lua_State *L, int index)
{
    znl_envelope_context context;
    luaL_checktype(L, index, LUA_TTABLE);
    context.kind = check_field(L, index, "kind", 64, NULL);
    context.sender_id = check_field(L, index, "sender_id", ZNL_ID_BYTES_MAX, NULL);
    context.subject = check_field(L, index, "subject", ZNL_SUBJECT_BYTES_MAX, "");
    return context;
}

static void random_hex(char *out, size_t bytes)
{
    uint8_t raw[16];
    znl_random_bytes(raw, bytes);
    znl_hex_encode(raw, bytes, out);
}

/* --- keys --------------------------------------------------------------------------------- */

static int crypto_derive(lua_State *L)
{
    znl_frame secret = znl_lua_checkframe(L, 1, "secret", ZNL_SECRET_BYTES_MAX);
    znl_frame salt = {0};
    if (!lua_isnoneornil(L, 2))
        salt = znl_lua_checkframe(L, 2, "salt", ZNL_SECRET_BYTES_MAX);
    znl_keys **box = lua_newuserdata(L, sizeof *box);
    *box = NULL;
    luaL_getmetatable(L, KEYS_TYPE);
    lua_setmetatable(L, -2);
    int err = znl_keys_derive(box, secret, salt);
    return err == 0 ? 1 : znl_lua_fail(L, err, "crypto.derive");
}

static int keys_close(lua_State *L)
{
    znl_keys **box = luaL_checkudata(L, 1, KEYS_TYPE);
    znl_keys *keys = *box;
    *box = NULL;
    znl_keys_release(keys);
    return 0;
}

static int keys_sign(lua_State *L)
{
    const znl_keys *keys = check_keys(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    char nonce[ZNL_NONCE_TEXT_BYTES + 1];
    random_hex(nonce, ZNL_NONCE_TEXT_BYTES / 2);
    nonce[ZNL_NONCE_TEXT_BYTES] = '\0';
    znl_claim claim;
    claim.kind = check_field(L, 2, "kind", 64, NULL);
    claim.node_id = check_field(L, 2, "node_id", ZNL_ID_BYTES_MAX, NULL);
    claim.subject = check_field(L, 2, "subject", ZNL_SUBJECT_BYTES_MAX, "");
    claim.nonce = check_field(L, 2, "nonce", 256, nonce);
    claim.digest = check_field(L, 2, "digest", ZNL_DIGEST_TEXT_BYTES, "");
    lua_getfield(L, 2, "timestamp_ms");
    claim.timestamp_ms = check_unix_ms(L, -1, "timestamp_ms");
    uint8_t proof[ZNL_PROOF_BYTES_MAX];
    size_t size = znl_proof_sign(keys, &claim, proof, sizeof proof);
    if (size == 0)
        return znl_lua_fail(L, ZNL_E_TOO_BIG, "keys.sign");
    lua_pushlstring(L, (const char *)proof, size);
    return 1;
}

static void set_field(lua_State *L, const char *name, znl_frame value)
{
    lua_pushlstring(L, (const char *)value.data, value.size);
    lua_setfield(L, -2, name);
}

static int keys_check(lua_State *L)
{
    const znl_keys *keys = check_keys(L);
    znl_frame proof = znl_lua_checkframe(L, 2, "proof", ZNL_FRAME_BYTES_MAX);
    int64_t now_unix_ms = check_unix_ms(L, 3, "now_unix_ms");
    uint32_t skew_ms = ZNL_SKEW_MS_DEFAULT;
    if (!lua_isnoneornil(L, 4))
        skew_ms = znl_lua_checku32(L, 4, "max_skew_ms", 1, ZNL_SKEW_MS_MAX);
    uint8_t scratch[ZNL_PROOF_BYTES_MAX];
    znl_claim claim;
    int err = znl_proof_decode(keys, proof, now_unix_ms, skew_ms, scratch, &claim);
    if (err != 0)
        return znl_lua_fail(L, err, "keys.check");
    lua_createtable(L, 0, 6);
    set_field(L, "kind", claim.kind);
    set_field(L, "node_id", claim.node_id);
    set_field(L, "subject", claim.subject);
    set_field(L, "nonce", claim.nonce);
    set_field(L, "digest", claim.digest);
    lua_pushnumber(L, (lua_Number)claim.timestamp_ms);
    lua_setfield(L, -2, "timestamp_ms");
    return 1;
}

/* --- sealed payloads ---------------------------------------------------------------------- */

static int scratch_gc(lua_State *L)
{
    znl_buffer_fini(luaL_checkudata(L, 1, SCRATCH_TYPE));
    return 0;
}

/* Memory that belongs to the Lua state: a Lua error on the way out leaks nothing. */
static znl_buffer *scratch_of(lua_State *L)
{
    lua_pushlightuserdata(L, &scratch_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    znl_buffer *scratch = lua_touserdata(L, -1);
    znl_buffer_trim(scratch, SCRATCH_KEEP_BYTES);
    return scratch;
}

static int keys_seal(lua_State *L)
{
    const znl_keys *keys = check_keys(L);
    lua_settop(L, 3);
    znl_envelope_context context = check_context(L, 2);
    znl_frame frames[FRAMES_MAX];
    size_t count;
    int err = check_payload(L, 3, frames, &count);
    uint8_t iv[ZNL_AEAD_IV_BYTES];
    znl_frame sealed[ZNL_ENVELOPE_FRAMES];
    znl_random_bytes(iv, sizeof iv);
    if (err == 0)
        err = znl_envelope_seal(keys, &context, iv, frames, count, scratch_of(L), sealed);
    if (err != 0)
        return znl_lua_fail(L, err, "keys.seal");
    lua_createtable(L, (int)ZNL_ENVELOPE_FRAMES, 0);
    for (int i = 0; i < (int)ZNL_ENVELOPE_FRAMES; i++) {
        lua_pushlstring(L, (const char *)sealed[i].data, sealed[i].size);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int keys_open(lua_State *L)
{
    const znl_keys *keys = check_keys(L);
    lua_settop(L, 3);
    znl_envelope_context context = check_context(L, 2);
    znl_frame frames[FRAMES_MAX];
    size_t count;
    int err = check_payload(L, 3, frames, &count);
    znl_frame packed;
    if (err == 0)
        err = znl_envelope_open(
                keys, &context, frames, count, FRAMES_MAX, scratch_of(L), &packed);
    if (err == 0)
        err = znl_frames_split(packed.data, packed.size, frames, FRAMES_MAX, &count);
    if (err != 0)
        return znl_lua_fail(L, err, "keys.open");
    znl_lua_pushpayload(L, frames, count);
    return 1;
}

/* --- hashes and randomness ---------------------------------------------------------------- */

static int push_hex(lua_State *L, const uint8_t digest[ZNL_SHA256_BYTES])
{
    char text[2 * ZNL_SHA256_BYTES];
    znl_hex_encode(digest, ZNL_SHA256_BYTES, text);
    lua_pushlstring(L, text, sizeof text);
    return 1;
}

static int crypto_digest(lua_State *L)
{
    znl_frame frames[FRAMES_MAX];
    size_t count;
    int err = check_payload(L, 1, frames, &count);
    if (err != 0)
        return znl_lua_fail(L, err, "crypto.digest");
    char text[ZNL_DIGEST_TEXT_BYTES];
    znl_proof_digest(frames, count, text);
    lua_pushlstring(L, text, sizeof text);
    return 1;
}

static int crypto_sha256(lua_State *L)
{
    znl_frame text = znl_lua_checkframe(L, 1, "text", ZNL_FRAME_BYTES_MAX);
    const znl_hash_backend *backend = znl_hash_backend_get();
    znl_sha256 hash;
    uint8_t digest[ZNL_SHA256_BYTES];
    backend->init(&hash);
    backend->update(&hash, text.data, text.size);
    backend->final(&hash, digest);
    sodium_memzero(&hash, sizeof hash);
    return push_hex(L, digest);
}

static int crypto_hmac(lua_State *L)
{
    znl_frame secret = znl_lua_checkframe(L, 1, "secret", ZNL_SECRET_BYTES_MAX);
    znl_frame text = znl_lua_checkframe(L, 2, "text", ZNL_FRAME_BYTES_MAX);
    znl_hmac_key key;
    uint8_t digest[ZNL_SHA256_BYTES];
    znl_hmac_key_init(&key, secret.data, secret.size);
    znl_hmac(&key, text.data, text.size, digest);
    sodium_memzero(&key, sizeof key);
    return push_hex(L, digest);
}

static int crypto_random(lua_State *L)
{
    uint32_t size = znl_lua_checku32(L, 1, "size_bytes", 0, RANDOM_BYTES_MAX);
    uint8_t small[256];
    uint8_t *bytes = size <= sizeof small ? small : lua_newuserdata(L, size);
    znl_random_bytes(bytes, size);
    lua_pushlstring(L, (const char *)bytes, size);
    return 1;
}

/* RFC 4122, version 4. */
static int crypto_uuid(lua_State *L)
{
    uint8_t raw[16];
    char hex[32];
    char text[36];
    znl_random_bytes(raw, sizeof raw);
    raw[6] = (uint8_t)((raw[6] & 0x0f) | 0x40);
    raw[8] = (uint8_t)((raw[8] & 0x3f) | 0x80);
    znl_hex_encode(raw, sizeof raw, hex);
    for (size_t from = 0, to = 0; from < sizeof hex; from++) {
        if (to == 8 || to == 13 || to == 18 || to == 23)
            text[to++] = '-';
        text[to++] = hex[from];
    }
    lua_pushlstring(L, text, sizeof text);
    return 1;
}

/* curve_pair() -> public key, secret key: Z85 */
static int crypto_curve_pair(lua_State *L)
{
    char public_key[ZNL_CURVE_TEXT_BYTES + 1], secret_key[ZNL_CURVE_TEXT_BYTES + 1];
    znl_curve_make_pair(public_key, secret_key);
    lua_pushstring(L, public_key);
    lua_pushstring(L, secret_key);
    sodium_memzero(secret_key, sizeof secret_key);
    return 2;
}

int luaopen_znl_core_crypto(lua_State *L)
{
    static const luaL_Reg methods[] = {
            {"sign", keys_sign},
            {"check", keys_check},
            {"seal", keys_seal},
            {"open", keys_open},
            {"close", keys_close},
            {NULL, NULL},
    };
    static const luaL_Reg no_methods[] = {{NULL, NULL}};
    static const luaL_Reg functions[] = {
            {"derive", crypto_derive},
            {"digest", crypto_digest},
            {"sha256", crypto_sha256},
            {"hmac", crypto_hmac},
            {"random", crypto_random},
            {"uuid", crypto_uuid},
            {"curve_pair", crypto_curve_pair},
            {NULL, NULL},
    };
    znl_lua_newtype(L, KEYS_TYPE, methods, keys_close);
    znl_lua_newtype(L, SCRATCH_TYPE, no_methods, scratch_gc);

    lua_pushlightuserdata(L, &scratch_key);
    znl_buffer *scratch = lua_newuserdata(L, sizeof *scratch);
    *scratch = (znl_buffer){0};
    luaL_getmetatable(L, SCRATCH_TYPE);
    lua_setmetatable(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);

    lua_createtable(L, 0, 6);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
