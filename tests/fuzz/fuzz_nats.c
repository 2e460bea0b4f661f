/* What a NATS server sends never goes past its bytes, and what a part says of the whole is so.
 * SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/err.h"
#include "codec/nats.h"

#include <stdlib.h>
#include <string.h>

static void walk_headers(const znl_nats_op *op)
{
    znl_frame name, value;
    for (size_t at = 0;
            znl_nats_next_header(op->lines, op->lines_size, &at, &name, &value) == 1;) {
        FUZZ_HOLDS(name.size > 0);
        FUZZ_HOLDS((const char *)value.data + value.size <= op->lines + op->lines_size);
    }
}

static void walk_info(const znl_nats_op *op)
{
    znl_nats_info info;
    znl_frame url;
    if (znl_nats_read_info(op->text, &info) != 0)
        return;
    for (size_t at = 0; znl_nats_next_url(&info, &at, &url) == 1;)
        FUZZ_HOLDS(url.size > 0 && url.data + url.size <= op->text.data + op->text.size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size + !size); /* what lies behind it is seen */
    size_t at = 0, used;
    znl_nats_op op;
    FUZZ_HOLDS(bytes != NULL);
    if (size > 0)
        memcpy(bytes, data, size);
    for (;;) {
        int got = znl_nats_read(bytes + at, size - at, &op, &used);
        if (got != 1) {
            FUZZ_HOLDS(got != 0 || used == 0 || used > size - at);
            break;
        }
        FUZZ_HOLDS(used > 0 && used <= size - at);
        at += used;
        if (op.kind == ZNL_NATS_MSG) {
            FUZZ_HOLDS(op.data + op.size + 2 == bytes + at);
            FUZZ_HOLDS(strlen(op.subject) > 0 && (op.reply == NULL || strlen(op.reply) > 0));
            FUZZ_HOLDS(strlen(op.status_text) <= size);
            walk_headers(&op);
        } else if (op.kind == ZNL_NATS_INFO) {
            walk_info(&op);
        }
    }
    free(bytes);
    return 0;
}
