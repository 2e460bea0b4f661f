/* z85.c - see z85.h. SPDX-License-Identifier: MIT */
#include "codec/z85.h"

#include "base/err.h"

static const char alphabet[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                               ".-:+=^!/*?&<>()[]{}@%$#";

int znl_z85_decode(znl_frame text, uint8_t *out)
{
    if (text.size % 5 != 0)
        return ZNL_E_INVALID;
    for (size_t i = 0; i < text.size; i += 5) {
        uint64_t value = 0;
        for (size_t j = 0; j < 5; j++) {
            const char *at = text.data[i + j] != 0 ? strchr(alphabet, text.data[i + j]) : NULL;
            if (at == NULL)
                return ZNL_E_INVALID;
            value = value * 85 + (uint64_t)(at - alphabet);
        }
        if (value > UINT32_MAX)
            return ZNL_E_INVALID;
        znl_put_be32(out, (uint32_t)value);
        out += 4;
    }
    return 0;
}

void znl_z85_encode(const uint8_t *bytes, size_t size, char *out)
{
    for (size_t i = 0; i < size; i += 4) {
        uint32_t value = znl_get_be32(bytes + i);
        for (size_t j = 5; j-- > 0; value /= 85)
            out[j] = alphabet[value % 85];
        out += 5;
    }
    *out = '\0';
}
