/* endpoint.c - see endpoint.h. SPDX-License-Identifier: MIT */
#include "transport/endpoint.h"

#include "base/err.h"

#define IPC_PATH_BYTES_MAX 107u /* sockaddr_un, sun_path, with its terminator */
#define NAME_BYTES_MAX 255u     /* inproc, sim */

static int is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static int is_host_byte(uint8_t c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
            c == '-' || c == '_';
}

static int is_star(znl_frame text)
{
    return text.size == 1 && text.data[0] == '*';
}

static int take_prefix(znl_frame *text, const char *prefix)
{
    size_t size = strlen(prefix);
    if (text->size < size || memcmp(text->data, prefix, size) != 0)
        return 0;
    text->data += size;
    text->size -= size;
    return 1;
}

static const char *parse_port(znl_endpoint *out, znl_frame port, int is_bind)
{
    unsigned value = 0;
    if (port.size == 0)
        return "the port is missing";
    if (is_bind && is_star(port))
        return NULL;
    for (size_t i = 0; i < port.size; i++) {
        if (!is_digit(port.data[i]))
            return "the port is not a number";
        value = value * 10 + (unsigned)(port.data[i] - '0');
        if (value > 65535)
            return "the port is larger than 65535";
    }
    if (value == 0 && !is_bind)
        return "port 0 can only be bound";
    out->port = (uint16_t)value;
    return NULL;
}

static const char *parse_tcp(znl_endpoint *out, znl_frame rest, int is_bind)
{
    size_t colon = rest.size;
    while (colon > 0 && rest.data[colon - 1] != ':' && rest.data[colon - 1] != ']')
        colon--;
    if (colon == 0 || rest.data[colon - 1] != ':')
        return "the port is missing";
    znl_frame host = znl_frame_of(rest.data, colon - 1);
    const char *why = parse_port(
            out, znl_frame_of(rest.data + colon, rest.size - colon), is_bind);
    if (why != NULL)
        return why;
    if (host.size == 0)
        return "the host is missing";
    if (host.data[0] == '[') {
        if (host.size < 4 || host.data[host.size - 1] != ']')
            return "the IPv6 address is not in brackets";
        host.data++;
        host.size -= 2;
        out->is_ipv6 = 1;
        for (size_t i = 0; i < host.size; i++)
            if (!is_host_byte(host.data[i]) && host.data[i] != ':' && host.data[i] != '%')
                return "the IPv6 address has a character that is not allowed";
    } else if (is_star(host)) {
        if (!is_bind)
            return "host * can only be bound";
    } else {
        if (!is_bind && (host.data[0] == '-' || host.data[0] == '.'))
            return "the host begins with a character that is not allowed";
        for (size_t i = 0; i < host.size; i++) {
            if (host.data[i] == ':')
                return "an IPv6 address must be in brackets";
            if (!is_host_byte(host.data[i]))
                return "the host has a character that is not allowed";
        }
    }
    out->name = host;
    return NULL;
}

static const char *parse_ipc(znl_endpoint *out, znl_frame path, int is_bind)
{
    if (path.size == 0 || (path.size == 1 && path.data[0] == '@'))
        return "the path is missing";
    if (path.size > IPC_PATH_BYTES_MAX)
        return "the path is longer than 107 bytes";
    if (is_star(path) && !is_bind)
        return "path * can only be bound";
    out->name = path;
    return NULL;
}

static const char *parse_name(znl_endpoint *out, znl_frame name)
{
    if (name.size == 0)
        return "the name is missing";
    if (name.size > NAME_BYTES_MAX)
        return "the name is longer than 255 bytes";
    out->name = name;
    return NULL;
}

static const char *parse(znl_endpoint *out, znl_frame text, int is_bind)
{
    if (text.size == 0)
        return "it is empty";
    if (text.size >= ZNL_ENDPOINT_BYTES_MAX)
        return "it is too long";
    for (size_t i = 0; i < text.size; i++)
        if (text.data[i] < 0x20 || text.data[i] == 0x7f)
            return "it has a control character";
    if (take_prefix(&text, "tcp://")) {
        out->kind = ZNL_ENDPOINT_TCP;
        return parse_tcp(out, text, is_bind);
    }
    if (take_prefix(&text, "ipc://")) {
        out->kind = ZNL_ENDPOINT_IPC;
        return parse_ipc(out, text, is_bind);
    }
    if (take_prefix(&text, "inproc://")) {
        out->kind = ZNL_ENDPOINT_INPROC;
        return parse_name(out, text);
    }
    if (take_prefix(&text, "sim://")) {
        out->kind = ZNL_ENDPOINT_SIM;
        if (is_star(text) && !is_bind)
            return "name * can only be bound";
        return parse_name(out, text);
    }
    return "it must begin with tcp://, ipc://, inproc:// or sim://";
}

int znl_endpoint_parse(znl_endpoint *out, znl_frame text, int is_bind, const char **why)
{
    znl_endpoint endpoint = {0};
    const char *reason = parse(&endpoint, text, is_bind);
    if (why != NULL)
        *why = reason;
    if (reason != NULL)
        return ZNL_E_ADDRESS;
    *out = endpoint;
    return 0;
}
