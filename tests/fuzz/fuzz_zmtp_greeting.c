/* Greetings of ZMTP: what came byte by byte never says otherwise than what came whole, and what is read is what stands
 * there. SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/err.h"
#include "codec/zmtp.h"

#include <string.h>

static void check_whole(const uint8_t *data, const znl_zmtp_greeting *greeting)
{
    uint8_t again[ZNL_ZMTP_GREETING_BYTES];
    size_t length = strlen(greeting->mechanism);
    FUZZ_HOLDS(greeting->major >= 3 && greeting->major == data[10]);
    FUZZ_HOLDS(greeting->minor == data[11] && greeting->as_server == (data[32] & 1));
    FUZZ_HOLDS(length >= 1 && length <= ZNL_ZMTP_MECHANISM_BYTES);
    for (size_t i = 0; i < ZNL_ZMTP_MECHANISM_BYTES; i++) {
        FUZZ_HOLDS((uint8_t)greeting->mechanism[i] == data[12 + i]);
        FUZZ_HOLDS(i >= length ? data[12 + i] == 0 : data[12 + i] > ' ' && data[12 + i] < 0x7f);
    }
    /* Ours with what varies is the same again. */
    znl_zmtp_write_greeting(again);
    memcpy(again + 1, data + 1, 8);
    memcpy(again + 10, data + 10, 22);
    memcpy(again + 32, data + 32, 32);
    FUZZ_HOLDS(memcmp(again, data, sizeof again) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    znl_zmtp_greeting greeting, early;
    int err = znl_zmtp_read_greeting(data, size, &greeting);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_BUSY || err == ZNL_E_PROTO || err == ZNL_E_UNSUPPORTED);
    FUZZ_HOLDS(err != 0 || size >= ZNL_ZMTP_GREETING_BYTES);
    FUZZ_HOLDS(err != ZNL_E_BUSY || size < ZNL_ZMTP_GREETING_BYTES);
    FUZZ_HOLDS(err != ZNL_E_UNSUPPORTED || greeting.major < 3);
    /* The first length that tells, tells for all. */
    int told = ZNL_E_BUSY;
    for (size_t part = 0; part <= size && part <= 70; part++) {
        uint8_t *lent = malloc(part + !part);
        FUZZ_HOLDS(lent != NULL);
        if (part > 0)
            memcpy(lent, data, part);
        int got = znl_zmtp_read_greeting(lent, part, &early);
        FUZZ_HOLDS(told == ZNL_E_BUSY || got == told);
        told = got;
        free(lent);
    }
    FUZZ_HOLDS(told == err);
    if (err == 0)
        check_whole(data, &greeting);
    return 0;
}
