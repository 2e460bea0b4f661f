/* Commands of ZMTP and the properties of READY: any bytes are refused, or taken apart into what lies in them and writes
 * back; what we write reads as it was meant. SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/err.h"
#include "base/limits.h"
#include "codec/zmtp.h"

#include <string.h>

static znl_zmtp_command read_again(const uint8_t *frame, size_t size)
{
    znl_zmtp_command command;
    size_t lead = frame[0] & ZNL_ZMTP_LONG ? 9 : 2;
    FUZZ_HOLDS(frame[0] == (ZNL_ZMTP_COMMAND | (lead == 9 ? ZNL_ZMTP_LONG : 0)));
    FUZZ_HOLDS((lead == 9 ? znl_get_be32(frame + 5) : frame[1]) == size - lead);
    FUZZ_HOLDS(znl_zmtp_read_command(znl_frame_of(frame + lead, size - lead), &command) == 0);
    return command;
}

static void check_ready(znl_frame body)
{
    znl_zmtp_ready ready, again;
    int err = znl_zmtp_read_ready(body, &ready);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO);
    if (err != 0)
        return;
    FUZZ_HOLDS(ready.socket_type.size > 0 && ready.identity.size <= ZNL_ID_BYTES_MAX);
    FUZZ_HOLDS(FUZZ_INSIDE(ready.socket_type, body.data, body.size));
    FUZZ_HOLDS(FUZZ_INSIDE(ready.identity, body.data, body.size));
    for (int is_router = 0; is_router < 2; is_router++) {
        uint8_t out[ZNL_ZMTP_READY_BYTES_MAX];
        size_t size = znl_zmtp_write_ready(out, is_router, ready.identity);
        FUZZ_HOLDS(size <= sizeof out);
        znl_zmtp_command command = read_again(out, size);
        FUZZ_HOLDS(command.kind == ZNL_ZMTP_READY);
        FUZZ_HOLDS(znl_zmtp_read_ready(command.body, &again) == 0);
        FUZZ_HOLDS(znl_frame_equal(again.identity, ready.identity));
        FUZZ_HOLDS(znl_zmtp_may_talk(1, again.socket_type));
        FUZZ_HOLDS(znl_zmtp_may_talk(0, again.socket_type));
    }
    if (znl_zmtp_may_talk(1, ready.socket_type) || znl_zmtp_may_talk(0, ready.socket_type))
        FUZZ_HOLDS(ready.socket_type.size == 3 || ready.socket_type.size == 6);
}

static void check_command(const uint8_t *data, size_t size)
{
    znl_zmtp_command command, again;
    int err = znl_zmtp_read_command(znl_frame_of(data, size), &command);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PROTO);
    if (err != 0)
        return;
    FUZZ_HOLDS(command.name.data == data + 1 && command.name.size == data[0]);
    FUZZ_HOLDS(command.name.size > 0 && FUZZ_INSIDE(command.name, data, size));
    FUZZ_HOLDS(FUZZ_INSIDE(command.body, data, size));
    FUZZ_HOLDS(command.body.data + command.body.size == data + size);
    FUZZ_HOLDS(command.ttl_ms == 0 || command.kind == ZNL_ZMTP_PING);
    FUZZ_HOLDS(command.ttl_ms % 100 == 0 && command.ttl_ms <= 6553500);
    uint8_t out[ZNL_ZMTP_ERROR_BYTES_MAX];
    switch (command.kind) {
    case ZNL_ZMTP_READY:
        check_ready(command.body);
        break;
    case ZNL_ZMTP_ERROR: {
        char reason[256] = {0}; /* as a text it ends at a zero byte */
        FUZZ_HOLDS(command.body.size <= 255);
        memcpy(reason, command.body.data, command.body.size);
        again = read_again(out, znl_zmtp_write_error(out, reason));
        FUZZ_HOLDS(again.kind == ZNL_ZMTP_ERROR);
        FUZZ_HOLDS(znl_frame_equal(again.body, znl_frame_text(reason)));
        break;
    }
    case ZNL_ZMTP_PING:
    case ZNL_ZMTP_PONG:
        FUZZ_HOLDS(command.body.size <= ZNL_ZMTP_CONTEXT_BYTES_MAX);
        again = read_again(out, znl_zmtp_write_pong(out, command.body));
        FUZZ_HOLDS(again.kind == ZNL_ZMTP_PONG);
        FUZZ_HOLDS(znl_frame_equal(again.body, command.body));
        break;
    default:
        FUZZ_HOLDS(command.kind == ZNL_ZMTP_UNKNOWN);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_command(data, size);
    check_ready(znl_frame_of(data, size)); /* past the name at once */
    return 0;
}
