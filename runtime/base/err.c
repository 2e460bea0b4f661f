/* err.c - see err.h. SPDX-License-Identifier: MIT */
#include "base/err.h"

#include <errno.h>

struct row {
    int value;
    const char *code;
    const char *text;
};

#define ZNL_ERR_ROW(name, value, code, text) {value, code, text},
static const struct row rows[] = {ZNL_ERRORS(ZNL_ERR_ROW)};
#undef ZNL_ERR_ROW

static const struct row *find(int err)
{
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].value == err)
            return &rows[i];
    return 0;
}

const char *znl_err_code(int err)
{
    const struct row *row = find(err);
    return row ? row->code : "UNKNOWN";
}

const char *znl_err_text(int err)
{
    const struct row *row = find(err);
    return row ? row->text : "unknown error";
}

int znl_err_from_errno(int number)
{
    switch (number) {
    case ENOMEM:
        return ZNL_E_NOMEM;
    case EAGAIN:
        return ZNL_E_BUSY;
    case EHOSTUNREACH:
        return ZNL_E_UNREACHABLE;
    case EADDRINUSE:
        return ZNL_E_ADDRESS_IN_USE;
    case EINVAL:
    case ENODEV:
    case EADDRNOTAVAIL:
    case EPROTONOSUPPORT:
    case EACCES:
    case ENAMETOOLONG:
        return ZNL_E_ADDRESS;
    case ENOENT:
    case ENOTDIR:
        return ZNL_E_NOT_FOUND;
    case EEXIST:
        return ZNL_E_EXISTS;
    case ETIMEDOUT:
        return ZNL_E_TIMEOUT;
    case EMFILE:
    case ENFILE:
        return ZNL_E_LIMIT;
    default:
        return ZNL_E_SYSTEM;
    }
}

int znl_err_from_uv(int code)
{
    return znl_err_from_errno(-code); /* libuv uses negated errno on POSIX systems */
}
