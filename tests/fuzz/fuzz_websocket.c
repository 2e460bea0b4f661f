/* WebSocket frames: however bytes are cut into reads, the same items and the same end come out of them; a
 * head that reads writes back. SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/err.h"
#include "codec/websocket_reader.h"

#include <string.h>

#define MAX_MESSAGE_BYTES 4096u

/* What a reader found, folded into one number, order and ends included. */
struct outcome {
    uint64_t hash;
    size_t items;
    int err;
    uint16_t fault;
};

static void fold(struct outcome *outcome, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++)
        outcome->hash = (outcome->hash ^ bytes[i]) * 0x100000001b3u;
}

/* Cuts after `step` bytes, then after step + 1, … modulo 7; keeps what is lent every third time. */
static struct outcome read_all(
        const uint8_t *data, size_t size, int is_server, int checks_utf8, size_t step)
{
    struct outcome outcome = {.hash = 0xcbf29ce484222325u};
    znl_ws_reader reader;
    znl_ws_reader_init(&reader, is_server, MAX_MESSAGE_BYTES, checks_utf8);
    size_t at = 0;
    for (size_t turn = 0; outcome.err == 0 && at < size; turn++) {
        size_t part = step == 0 ? size : step + turn % 7;
        part = part < size - at ? part : size - at;
        uint8_t *lent = malloc(part);
        FUZZ_HOLDS(lent != NULL);
        memcpy(lent, data + at, part);
        at += part;
        znl_ws_reader_feed(&reader, lent, part);
        if (step != 0 && turn % 3 == 2)
            FUZZ_HOLDS(znl_ws_reader_keep(&reader) == 0);
        znl_ws_item item;
        int got;
        while ((got = znl_ws_reader_next(&reader, &item)) == 1) {
            FUZZ_HOLDS(item.data != NULL);
            FUZZ_HOLDS(item.opcode >= ZNL_WS_CLOSE ? item.size <= ZNL_WS_CONTROL_BYTES_MAX
                                                   : item.size <= MAX_MESSAGE_BYTES);
            FUZZ_HOLDS(item.code == 0 || znl_ws_code_is_valid(item.code));
            outcome.items++;
            fold(&outcome, &item.opcode, sizeof item.opcode);
            fold(&outcome, &item.code, sizeof item.code);
            fold(&outcome, &item.size, sizeof item.size);
            fold(&outcome, item.data, item.size);
        }
        if (got < 0) {
            outcome.err = got;
            outcome.fault = reader.fault;
            FUZZ_HOLDS(reader.why != NULL && reader.fault >= 1000);
        }
        free(lent);
        FUZZ_HOLDS(znl_ws_reader_held(&reader) <=
                4 * (MAX_MESSAGE_BYTES + ZNL_WS_HEAD_BYTES_MAX) + 2 * (size + 256));
    }
    znl_ws_reader_fini(&reader);
    return outcome;
}

static void head_writes_back(const uint8_t *data, size_t size, int is_server)
{
    znl_ws_rules rules = {.expects_mask = is_server, .max_message_bytes = UINT64_MAX};
    znl_ws_head head;
    const char *why = NULL;
    int lead = znl_ws_head_read(&rules, data, size, &head, &why);
    FUZZ_HOLDS(lead >= 0 || (lead == ZNL_E_PROTO && why != NULL));
    for (size_t part = 0; part < size && part < ZNL_WS_HEAD_BYTES_MAX; part++) {
        znl_ws_head early;
        int got = znl_ws_head_read(&rules, data, part, &early, &why);
        FUZZ_HOLDS(got == 0 || got == lead); /* fewer bytes never tell otherwise */
    }
    if (lead <= 0)
        return;
    uint8_t written[ZNL_WS_HEAD_BYTES_MAX];
    FUZZ_HOLDS((size_t)lead <= size);
    FUZZ_HOLDS(znl_ws_head_write(written, &head) == (size_t)lead);
    FUZZ_HOLDS(memcmp(written, data, (size_t)lead) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    int is_server = data[0] & 1;
    int checks_utf8 = data[0] >> 1 & 1;
    size_t step = 1 + (data[0] >> 2);
    data++;
    size--;
    head_writes_back(data, size, is_server);
    struct outcome whole = read_all(data, size, is_server, checks_utf8, 0);
    struct outcome cut = read_all(data, size, is_server, checks_utf8, step);
    FUZZ_HOLDS(whole.items == cut.items && whole.hash == cut.hash);
    FUZZ_HOLDS(whole.err == cut.err && whole.fault == cut.fault);
    return 0;
}
