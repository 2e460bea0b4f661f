/* claim.c - see claim.h. SPDX-License-Identifier: MIT */
#include "codec/claim.h"

#include "base/err.h"
#include "codec/json_scan.h"
#include "codec/text.h"

/* --- writing ------------------------------------------------------------------------------ */

struct writer {
    uint8_t *at;
    uint8_t *end;
    int full;
};

static void put(struct writer *w, const void *bytes, size_t size)
{
    if ((size_t)(w->end - w->at) < size) {
        w->full = 1;
        return;
    }
    if (size != 0)
        memcpy(w->at, bytes, size);
    w->at += size;
}

/* The letter after the backslash; 'u' for \u00xx; 0 for a byte that stands for itself. */
/* clang-format off */
static const char escapes[256] = {
    'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'b', 't', 'n', 'u', 'f', 'r', 'u', 'u',
    'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u',
    ['"'] = '"', ['\\'] = '\\',
};
/* clang-format on */

static void put_string(struct writer *w, znl_frame text)
{
    static const char digits[16] = "0123456789abcdef";
    size_t plain = 0; /* start of the bytes not yet written */
    put(w, "\"", 1);
    for (size_t i = 0; i < text.size; i++) {
        i = (size_t)(znl_json_find_special(text.data + i, text.data + text.size) - text.data);
        if (i == text.size)
            break;
        uint8_t c = text.data[i];
        char letter = escapes[c];
        if (letter == 0)
            continue;
        put(w, text.data + plain, i - plain);
        plain = i + 1;
        if (letter == 'u') {
            char sequence[6] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
            put(w, sequence, sizeof sequence);
        } else {
            char sequence[2] = {'\\', letter};
            put(w, sequence, sizeof sequence);
        }
    }
    if (text.size > plain)
        put(w, text.data + plain, text.size - plain);
    put(w, "\"", 1);
}

static void put_number(struct writer *w, int64_t value)
{
    char digits[20];
    size_t at = sizeof digits;
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do {
        digits[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    if (value < 0)
        digits[--at] = '-';
    put(w, digits + at, sizeof digits - at);
}

#define PUT_TEXT(w, text) put(w, text, sizeof text - 1)

size_t znl_claim_write(const znl_claim *claim, uint8_t *out, size_t capacity)
{
    struct writer w = {out, out + capacity, 0};
    PUT_TEXT(&w, "{\"kind\":");
    put_string(&w, claim->kind);
    PUT_TEXT(&w, ",\"nodeId\":");
    put_string(&w, claim->node_id);
    PUT_TEXT(&w, ",\"requestId\":");
    put_string(&w, claim->subject);
    PUT_TEXT(&w, ",\"timestamp\":");
    put_number(&w, claim->timestamp_ms);
    PUT_TEXT(&w, ",\"nonce\":");
    put_string(&w, claim->nonce);
    PUT_TEXT(&w, ",\"payloadDigest\":");
    put_string(&w, claim->digest);
    PUT_TEXT(&w, "}");
    return w.full ? 0 : (size_t)(w.at - out);
}

/* --- reading ------------------------------------------------------------------------------ */

/* Levels of arrays and objects in one text, the outermost included. */
#define DEPTH_MAX 32u

enum type { TYPE_NULL, TYPE_BOOLEAN, TYPE_NUMBER, TYPE_STRING, TYPE_ARRAY, TYPE_OBJECT };

struct value {
    enum type type;
    znl_frame text;  /* TYPE_STRING, decoded */
    int64_t integer; /* TYPE_NUMBER without its fraction; 0 when it does not fit */
};

struct reader {
    uint8_t *at;
    uint8_t *end;
};

static void skip_space(struct reader *r)
{
    while (r->at < r->end &&
            (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
        r->at++;
}

/* Takes `c` when it comes next. */
static int take(struct reader *r, uint8_t c)
{
    if (r->at == r->end || *r->at != c)
        return 0;
    r->at++;
    return 1;
}

static inline int take_word(struct reader *r, const char *word, size_t size)
{
    if ((size_t)(r->end - r->at) < size || memcmp(r->at, word, size) != 0)
        return 0;
    r->at += size;
    return 1;
}

static int read_hex4(struct reader *r, uint32_t *out)
{
    if (r->end - r->at < 4)
        return 0;
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = *r->at++;
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            digit = (uint32_t)((c | 0x20) - 'a' + 10);
        else
            return 0;
        value = value << 4 | digit;
    }
    *out = value;
    return 1;
}

/* After "\u". A surrogate must come as a pair: alone it has no UTF-8. */
static int read_unicode(struct reader *r, uint8_t **to)
{
    uint32_t code;
    if (!read_hex4(r, &code))
        return 0;
    if (code >= 0xdc00 && code <= 0xdfff)
        return 0;
    if (code >= 0xd800 && code <= 0xdbff) {
        uint32_t low;
        if (!take(r, '\\') || !take(r, 'u') || !read_hex4(r, &low))
            return 0;
        if (low < 0xdc00 || low > 0xdfff)
            return 0;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    uint8_t *w = *to;
    if (code < 0x80) {
        *w++ = (uint8_t)code;
    } else if (code < 0x800) {
        *w++ = (uint8_t)(0xc0 | code >> 6);
        *w++ = (uint8_t)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *w++ = (uint8_t)(0xe0 | code >> 12);
        *w++ = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        *w++ = (uint8_t)(0x80 | (code & 0x3f));
    } else {
        *w++ = (uint8_t)(0xf0 | code >> 18);
        *w++ = (uint8_t)(0x80 | (code >> 12 & 0x3f));
        *w++ = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        *w++ = (uint8_t)(0x80 | (code & 0x3f));
    }
    *to = w;
    return 1;
}

/* After the opening quote. Every escape is longer than what it stands for, so writing never
 * overtakes reading. */
static int read_string(struct reader *r, znl_frame *out)
{
    uint8_t *start = r->at;
    for (;;) {
        r->at += znl_json_find_special(r->at, r->end) - r->at;
        if (r->at == r->end || *r->at < 0x80)
            break;
        r->at++;
    }
    uint8_t *to = r->at;
    while (r->at < r->end) {
        uint8_t c = *r->at++;
        if (c == '"') {
            *out = znl_frame_of(start, (size_t)(to - start));
            return 1;
        }
        if (c < 0x20)
            return 0;
        if (c != '\\') {
            *to++ = c;
            continue;
        }
        if (r->at == r->end)
            return 0;
        switch (*r->at++) {
        case '"':
            *to++ = '"';
            break;
        case '\\':
            *to++ = '\\';
            break;
        case '/':
            *to++ = '/';
            break;
        case 'b':
            *to++ = '\b';
            break;
        case 'f':
            *to++ = '\f';
            break;
        case 'n':
            *to++ = '\n';
            break;
        case 'r':
            *to++ = '\r';
            break;
        case 't':
            *to++ = '\t';
            break;
        case 'u':
            if (!read_unicode(r, &to))
                return 0;
            break;
        default:
            return 0;
        }
    }
    return 0;
}

static inline int at_digit(const struct reader *r)
{
    return r->at < r->end && *r->at >= '0' && *r->at <= '9';
}

/* A decimal as it is read: up to 18 significant digits, and the power of ten that is left. */
struct decimal {
    uint64_t digits;
    long power;
};

static void add_digit(struct decimal *d, uint8_t c, int in_fraction)
{
    if (d->digits < UINT64_C(100000000000000000)) {
        d->digits = d->digits * 10 + (uint64_t)(c - '0');
        d->power -= in_fraction;
    } else {
        d->power += !in_fraction;
    }
}

/* The whole part, or 0 when it does not fit. No strtod(): it depends on the locale. */
static int64_t decimal_whole(const struct decimal *d, int negative)
{
    uint64_t whole = d->digits;
    long power = d->power;
    for (; power < 0 && whole != 0; power++)
        whole /= 10;
    for (; power > 0 && whole != 0; power--) {
        if (whole > INT64_MAX / 10)
            return 0;
        whole *= 10;
    }
    return negative ? -(int64_t)whole : (int64_t)whole;
}

static int read_number(struct reader *r, int64_t *out)
{
    struct decimal d = {0, 0};
    int negative = take(r, '-');
    if (!at_digit(r))
        return 0;
    if (*r->at == '0') {
        r->at++;
        if (at_digit(r))
            return 0;
    }
    while (at_digit(r))
        add_digit(&d, *r->at++, 0);
    if (take(r, '.')) {
        if (!at_digit(r))
            return 0;
        while (at_digit(r))
            add_digit(&d, *r->at++, 1);
    }
    if (take(r, 'e') || take(r, 'E')) {
        int shrinks = take(r, '-');
        if (!shrinks)
            take(r, '+');
        if (!at_digit(r))
            return 0;
        long exponent = 0;
        while (at_digit(r)) {
            if (exponent < 1000000)
                exponent = exponent * 10 + (*r->at - '0');
            r->at++;
        }
        d.power += shrinks ? -exponent : exponent;
    }
    *out = decimal_whole(&d, negative);
    return 1;
}

static int skip_container(struct reader *r, unsigned depth);

static int read_value(struct reader *r, unsigned depth, struct value *out)
{
    *out = (struct value){0};
    skip_space(r);
    if (r->at == r->end)
        return 0;
    switch (*r->at) {
    case '"':
        r->at++;
        out->type = TYPE_STRING;
        return read_string(r, &out->text);
    case '{':
        out->type = TYPE_OBJECT;
        return skip_container(r, depth);
    case '[':
        out->type = TYPE_ARRAY;
        return skip_container(r, depth);
    case 'n':
        out->type = TYPE_NULL;
        return take_word(r, "null", 4);
    case 't':
        out->type = TYPE_BOOLEAN;
        return take_word(r, "true", 4);
    case 'f':
        out->type = TYPE_BOOLEAN;
        return take_word(r, "false", 5);
    default:
        out->type = TYPE_NUMBER;
        return read_number(r, &out->integer);
    }
}

/* The key of a member and its colon. */
static int read_key(struct reader *r, znl_frame *key)
{
    skip_space(r);
    if (!take(r, '"') || !read_string(r, key))
        return 0;
    skip_space(r);
    return take(r, ':');
}

/* An array or object whose content nobody asks for. */
static int skip_container(struct reader *r, unsigned depth)
{
    if (depth >= DEPTH_MAX)
        return 0;
    int is_object = *r->at++ == '{';
    uint8_t closing = is_object ? '}' : ']';
    skip_space(r);
    if (take(r, closing))
        return 1;
    for (;;) {
        znl_frame key;
        struct value value;
        if (is_object && !read_key(r, &key))
            return 0;
        if (!read_value(r, depth + 1, &value))
            return 0;
        skip_space(r);
        if (take(r, closing))
            return 1;
        if (!take(r, ','))
            return 0;
    }
}

/* Given each member of the outermost object; returns 0 or an error. */
typedef int (*member_fn)(void *user, znl_frame key, const struct value *value);

/* Reads one JSON text and nothing after it. Any other value than an object has no members: a
 * peer that sends null lacks the fields, as in JavaScript. */
static int read_text(uint8_t *json, size_t size, member_fn member, void *user)
{
    if (!znl_utf8_valid(json, size))
        return ZNL_E_PARSE;
    struct reader r = {json, json + size};
    struct value value;
    skip_space(&r);
    if (!take(&r, '{')) {
        if (!read_value(&r, 0, &value))
            return ZNL_E_PARSE;
    } else {
        skip_space(&r);
        if (!take(&r, '}')) {
            do {
                znl_frame key;
                if (!read_key(&r, &key) || !read_value(&r, 1, &value))
                    return ZNL_E_PARSE;
                int err = member(user, key, &value);
                if (err != 0)
                    return err;
                skip_space(&r);
            } while (take(&r, ','));
            if (!take(&r, '}'))
                return ZNL_E_PARSE;
        }
    }
    skip_space(&r);
    return r.at == r.end ? 0 : ZNL_E_PARSE;
}

#define KEY_IS(key, text)                                                                      \
    ((key).size == sizeof text - 1 && memcmp((key).data, text, sizeof text - 1) == 0)

/* The last of several members with one key wins. A wrong type counts as an absent field where
 * the field is needed, because its check comes later and has its own error; where an empty
 * field has a meaning of its own it is malformed. */
static int claim_member(void *user, znl_frame key, const struct value *value)
{
    znl_claim *claim = user;
    znl_frame text = value->text; /* empty unless a string */
    if (KEY_IS(key, "kind")) {
        claim->kind = text;
    } else if (KEY_IS(key, "nodeId")) {
        claim->node_id = text;
    } else if (KEY_IS(key, "nonce")) {
        claim->nonce = text;
    } else if (KEY_IS(key, "timestamp")) {
        claim->timestamp_ms = value->integer;
    } else if (KEY_IS(key, "requestId") || KEY_IS(key, "payloadDigest")) {
        if (value->type != TYPE_STRING && value->type != TYPE_NULL)
            return ZNL_E_PARSE;
        if (KEY_IS(key, "requestId"))
            claim->subject = text;
        else
            claim->digest = text;
    }
    return 0;
}

/* --- reading what all peers write -------------------------------------------------------------- */

#define TAKE_TEXT(r, text) take_word(r, text, sizeof text - 1)

/* A string that stands for itself, after the opening quote; with the closing one. */
static int take_plain_string(struct reader *r, znl_frame *out)
{
    uint8_t *start = r->at;
    r->at += znl_json_find_special(r->at, r->end) - r->at;
    *out = znl_frame_of(start, (size_t)(r->at - start));
    return take(r, '"');
}

/* A whole number without sign of up to 18 digits. */
static int take_plain_number(struct reader *r, int64_t *out)
{
    const uint8_t *start = r->at;
    int64_t value = 0;
    while (at_digit(r) && r->at - start < 18)
        value = value * 10 + (*r->at++ - '0');
    *out = value;
    return r->at > start && (*start != '0' || r->at - start == 1) && !at_digit(r);
}

/* A claim as znl_claim_write() makes it, and the originals do, of ASCII without escapes. False: it is
 * none, or not such a one. */
static int read_usual(uint8_t *json, size_t size, znl_claim *out)
{
    struct reader r = {json, json + size};
    return TAKE_TEXT(&r, "{\"kind\":\"") && take_plain_string(&r, &out->kind) &&
            TAKE_TEXT(&r, ",\"nodeId\":\"") && take_plain_string(&r, &out->node_id) &&
            TAKE_TEXT(&r, ",\"requestId\":\"") && take_plain_string(&r, &out->subject) &&
            TAKE_TEXT(&r, ",\"timestamp\":") && take_plain_number(&r, &out->timestamp_ms) &&
            TAKE_TEXT(&r, ",\"nonce\":\"") && take_plain_string(&r, &out->nonce) &&
            TAKE_TEXT(&r, ",\"payloadDigest\":\"") && take_plain_string(&r, &out->digest) &&
            take(&r, '}') && r.at == r.end;
}

int znl_claim_read(uint8_t *json, size_t size, znl_claim *out)
{
    *out = (znl_claim){0};
    if (read_usual(json, size, out))
        return 0;
    *out = (znl_claim){0};
    return read_text(json, size, claim_member, out);
}

struct header {
    int alg_is_right;
    int typ_is_right;
};

static int header_member(void *user, znl_frame key, const struct value *value)
{
    struct header *header = user;
    if (KEY_IS(key, "alg"))
        header->alg_is_right = KEY_IS(value->text, "HS256");
    else if (KEY_IS(key, "typ"))
        header->typ_is_right = KEY_IS(value->text, "ZNL-AUTH-PROOF");
    return 0;
}

int znl_claim_read_header(uint8_t *json, size_t size)
{
    struct header header = {0, 0};
    int err = read_text(json, size, header_member, &header);
    if (err != 0)
        return err;
    return header.alg_is_right && header.typ_is_right ? 0 : ZNL_E_BAD_HEADER;
}
