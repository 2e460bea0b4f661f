/* Packets of cluster-client: any bytes give the same packets in one piece and in any others, and what a packet says
 * is refused, or is written as a text that says the same. The first two bytes are how the others are cut.
 * SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include <string.h>

#include "base/err.h"
#include "codec/cluster.h"
#include "codec/packet.h"

#define DEPTH 16u
#define MAX_BYTES 4096u

static int same(znl_frame a, znl_frame b)
{
    return (a.data == NULL) == (b.data == NULL) && znl_frame_equal(a, b);
}

static void check_same(const znl_cluster_message *a, const znl_cluster_message *b)
{
    FUZZ_HOLDS(a->kind == b->kind && same(a->type, b->type) && same(a->channel, b->channel));
    FUZZ_HOLDS(same(a->key, b->key) && same(a->reg, b->reg) && same(a->method, b->method));
    FUZZ_HOLDS(same(a->extension, b->extension) && a->arg_count == b->arg_count);
    FUZZ_HOLDS(a->is_oneway == b->is_oneway && a->is_success == b->is_success);
}

/* With a space in front a text is read the general way: that must make no difference. */
static void both_ways(znl_frame text, int err, const znl_cluster_message *usual)
{
    znl_cluster_message general;
    znl_buffer scratch = {0};
    uint8_t *spaced = malloc(text.size + 1);
    FUZZ_HOLDS(spaced != NULL);
    spaced[0] = ' ';
    memcpy(spaced + 1, text.data, text.size);
    FUZZ_HOLDS(err ==
            znl_cluster_read(znl_frame_of(spaced, text.size + 1), DEPTH, &scratch, &general));
    if (err == 0)
        check_same(usual, &general);
    znl_buffer_fini(&scratch);
    free(spaced);
}

/* What only its kind has, as it is written. */
static znl_cluster_message what_is_written(const znl_cluster_message *message)
{
    znl_cluster_message out = {
            .kind = message->kind, .type = message->type, .extension = message->extension};
    switch (message->kind) {
    case ZNL_CLUSTER_REGISTER:
        out.channel = message->channel;
        break;
    case ZNL_CLUSTER_SUBSCRIBE:
    case ZNL_CLUSTER_UNSUBSCRIBE:
        out.reg = message->reg;
        out.key = message->key;
        break;
    case ZNL_CLUSTER_VALUE:
        out.key = message->key;
        break;
    case ZNL_CLUSTER_INVOKE:
        out.method = message->method;
        out.arg_count = message->arg_count;
        out.is_oneway = message->is_oneway;
        break;
    case ZNL_CLUSTER_RESULT:
        out.is_success = message->is_success;
        break;
    default:
        break;
    }
    return out;
}

static void check_text(znl_frame text, znl_frame data)
{
    znl_cluster_message message, back;
    znl_buffer scratch = {0}, again = {0}, out = {0};
    int err = znl_cluster_read(text, DEPTH, &scratch, &message);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO || err == ZNL_E_LIMIT);
    both_ways(text, err, &message);
    if (err == 0) {
        const znl_frame texts[] = {message.type, message.channel, message.key, message.method};
        for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
            FUZZ_HOLDS(FUZZ_INSIDE(texts[i], text.data, text.size) ||
                    FUZZ_INSIDE(texts[i], scratch.data, scratch.capacity));
        FUZZ_HOLDS(FUZZ_INSIDE(message.reg, text.data, text.size));
        FUZZ_HOLDS(FUZZ_INSIDE(message.extension, text.data, text.size));
        FUZZ_HOLDS(message.reg.data == NULL || message.reg.size > 0);
    }
    if (err == 0 && message.kind != ZNL_CLUSTER_UNKNOWN) {
        FUZZ_HOLDS(znl_cluster_write(&message, &out) == 0);
        FUZZ_HOLDS(
                znl_cluster_read(znl_frame_of(out.data, out.size), DEPTH, &again, &back) == 0);
        znl_cluster_message expected = what_is_written(&message);
        check_same(&back, &expected);
    }
    for (znl_frame rest = data, argument; znl_cluster_next_argument(&rest, &argument) == 0;) {
        FUZZ_HOLDS(FUZZ_INSIDE(argument, data.data, data.size));
        FUZZ_HOLDS(argument.data + argument.size == rest.data);
    }
    znl_buffer_fini(&scratch);
    znl_buffer_fini(&again);
    znl_buffer_fini(&out);
}

/* The bytes as a text, put together: the low ones stand for what texts are made of. */
static void check_assembled(const uint8_t *data, size_t size)
{
    static const char *const parts[] = {"{\"type\":\"", "invoke", "\",\"method\":\"",
            "\",\"argLength\":", ",\"oneway\":false}", ",\"oneway\":true}", "_result",
            "\",\"success\":true}", "\",\"success\":false}", "subscribe",
            "\",\"key\":", "_res\"}", "heartbeat", "\"}", "register_channel",
            "\",\"channelName\":\"", "unSubscribe", "cancel",
            ",\"reg\":", ",\"znl\":", "\"key\"", "{\"v\":1}", "\\u0061", "\\ud800", "\xc3\xa9",
            "[[", "]]", "type", "{\"", "\":", ",\"", "\""};
    znl_buffer text = {0};
    for (size_t i = 0; i < size && text.size < MAX_BYTES; i++) {
        char plain = (char)data[i];
        if (data[i] < sizeof parts / sizeof parts[0])
            FUZZ_HOLDS(znl_buffer_append(&text, parts[data[i]], strlen(parts[data[i]])) == 0);
        else
            FUZZ_HOLDS(znl_buffer_append(&text, &plain, 1) == 0);
    }
    check_text(znl_frame_of(text.data, text.size), znl_frame_of(data, 0));
    znl_buffer_fini(&text);
}

static void check_head(const znl_packet *packet, const uint8_t *at)
{
    uint8_t head[ZNL_PACKET_HEAD_BYTES];
    znl_packet_put_head(head, packet->is_response, packet->id, packet->timeout_ms,
            (uint32_t)packet->text.size, (uint32_t)packet->data.size);
    FUZZ_HOLDS(head[1] == (at[1] == 1));
    FUZZ_HOLDS(memcmp(head + 4, at + 4, sizeof head - 4) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    uint32_t cuts = ((uint32_t)data[0] << 8 | data[1]) + 1;
    data += 2;
    size -= 2;
    znl_packet_reader whole = {.max_bytes = MAX_BYTES}, pieces = {.max_bytes = MAX_BYTES};
    znl_packet packet, same_packet;
    size_t at = 0, fed = 0;
    int more;
    znl_packet_feed(&whole, data, size);
    do {
        more = znl_packet_next(&whole, &packet);
        int other = znl_packet_next(&pieces, &same_packet);
        while (other == 0 && fed < size) {
            cuts = cuts * 1103515245u + 12345u;
            size_t piece = (cuts >> 16) % 64;
            piece = piece < size - fed ? piece : size - fed;
            znl_packet_feed(&pieces, data + fed, piece);
            fed += piece;
            other = znl_packet_next(&pieces, &same_packet);
        }
        FUZZ_HOLDS(other == more);
        if (more != 1)
            break;
        FUZZ_HOLDS(packet.text.data == data + at + ZNL_PACKET_HEAD_BYTES);
        FUZZ_HOLDS(packet.text.size + packet.data.size <= MAX_BYTES);
        FUZZ_HOLDS(packet.data.data + packet.data.size <= data + size);
        FUZZ_HOLDS(packet.id == same_packet.id && packet.timeout_ms == same_packet.timeout_ms);
        FUZZ_HOLDS(packet.is_response == same_packet.is_response);
        FUZZ_HOLDS(znl_frame_equal(packet.text, same_packet.text));
        FUZZ_HOLDS(znl_frame_equal(packet.data, same_packet.data));
        check_head(&packet, data + at);
        check_text(packet.text, packet.data);
        at += ZNL_PACKET_HEAD_BYTES + packet.text.size + packet.data.size;
    } while (1);
    FUZZ_HOLDS(more == 0 || more == ZNL_E_PROTO || more == ZNL_E_TOO_BIG);
    znl_packet_reader_fini(&whole);
    znl_packet_reader_fini(&pieces);
    /* Any bytes as a text, which most packets above are not. */
    check_text(znl_frame_of(data, size), znl_frame_of(data, size));
    if (size > 0)
        check_assembled(data, size);
    return 0;
}
