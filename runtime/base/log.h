/* log.h - one line per event: time, level, area, message, key=value.
 *
 * Lines go to standard error as logfmt, JSON, or text for a terminal. A line is one write(2), and
 * lines of several threads never mix.
 * Values are escaped, so that no peer can forge a line. As text, a value that ends with a
 * traceback has it in lines of its own below, indented. Never log a key, a secret or a payload.
 *
 * Any thread. Layer: base. SPDX-License-Identifier: MIT */
#ifndef ZNL_BASE_LOG_H
#define ZNL_BASE_LOG_H

#include <stddef.h>

typedef enum znl_log_level {
    ZNL_LOG_TRACE,
    ZNL_LOG_DEBUG,
    ZNL_LOG_INFO,
    ZNL_LOG_WARN,
    ZNL_LOG_ERROR,
    ZNL_LOG_OFF
} znl_log_level;

typedef enum znl_log_format { ZNL_LOG_LOGFMT, ZNL_LOG_JSON, ZNL_LOG_TEXT } znl_log_format;

typedef struct znl_log_field {
    const char *key;
    const char *value;
    size_t size;    /* bytes of value */
    int is_literal; /* a number or boolean: not quoted in JSON */
} znl_log_field;

void znl_log_configure(znl_log_level level, znl_log_format format);

/* Names as on the command line: "trace" … "off"; "logfmt", "json", "text". 0 or ZNL_E_INVALID. */
int znl_log_parse_level(const char *name, znl_log_level *level);
int znl_log_parse_format(const char *name, znl_log_format *format);

int znl_log_enabled(znl_log_level level);

/* Writes one line; at most 16 KiB, the rest is cut and marked. */
void znl_log_write(znl_log_level level, const char *area, const char *message,
        const znl_log_field *fields, size_t count);

/* Lines go to this descriptor from now on, borrowed; standard error again with 2. For tests. */
void znl_log_divert(int fd);

/* Lines that could not be written (full disk, closed pipe). */
unsigned long znl_log_lost(void);

#endif
