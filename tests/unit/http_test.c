/* Heads of HTTP. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "codec/http.h"

static znl_http_head head;

/* From a copy that ends where the text ends, so that a read past it is found. */
static long read_copy(
        const char *text, size_t size, long (*read)(znl_frame bytes, znl_http_head *head))
{
    static uint8_t *copy;
    free(copy);
    copy = malloc(size > 0 ? size : 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    return read(znl_frame_of(copy, size), &head);
}

static long request(const char *text)
{
    return read_copy(text, strlen(text), znl_http_read_request);
}

static long response(const char *text)
{
    return read_copy(text, strlen(text), znl_http_read_response);
}

#define ASSERT_FRAME(frame, text)                                                              \
    do {                                                                                       \
        assert_int_equal((frame).size, strlen(text));                                          \
        assert_memory_equal((frame).data, text, strlen(text));                                 \
    } while (0)

static void request_is_read_into_parts(void **state)
{
    (void)state;
    const char *text =
            "GET /a?b=%20 HTTP/1.1\r\nHost: h:80\r\nX-Empty:\r\nX-Padded: \t a, b \t\r\n"
            "x-bytes: \xc3\xa4\r\n\r\nrest";
    int err;
    assert_int_equal(request(text), (long)strlen(text) - 4);
    ASSERT_FRAME(head.method, "GET");
    ASSERT_FRAME(head.target, "/a?b=%20");
    assert_int_equal(head.minor, 1);
    assert_int_equal(head.header_count, 4);
    ASSERT_FRAME(head.headers[0].name, "Host");
    ASSERT_FRAME(znl_http_header_of(&head, "hOST", &err), "h:80");
    assert_int_equal(err, 0);
    ASSERT_FRAME(znl_http_header_of(&head, "X-EMPTY", &err), "");
    assert_non_null(znl_http_header_of(&head, "X-EMPTY", &err).data);
    ASSERT_FRAME(znl_http_header_of(&head, "x-padded", &err), "a, b");
    ASSERT_FRAME(znl_http_header_of(&head, "x-bytes", &err), "\xc3\xa4");
    assert_null(znl_http_header_of(&head, "Hos", &err).data);
    assert_null(znl_http_header_of(&head, "Host2", &err).data);
}

static void response_is_read_into_parts(void **state)
{
    (void)state;
    assert_int_equal(response("HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n"), 42);
    assert_int_equal(head.status, 101);
    assert_int_equal(head.header_count, 1);
    assert_int_equal(response("HTTP/1.0 404 \r\n\r\n"), 17);
    assert_int_equal(head.status, 404);
    assert_int_equal(head.minor, 0);
    assert_int_equal(response("HTTP/1.1 200\r\n\r\n"), 16);
}

static void head_is_whole_only_with_its_last_byte(void **state)
{
    (void)state;
    const char *texts[] = {
            "GET / HTTP/1.1\r\nHost: h\r\nA:\r\n\r\n", "HTTP/1.1 200 fine\r\nHost: h\r\n\r\n"};
    for (size_t i = 0; i < 2; i++) {
        long (*read)(znl_frame bytes, znl_http_head * into) = i == 0 ? znl_http_read_request
                                                                     : znl_http_read_response;
        size_t size = strlen(texts[i]);
        for (size_t part = 0; part < size; part++)
            assert_int_equal(read_copy(texts[i], part, read), 0);
        assert_int_equal(read_copy(texts[i], size, read), (long)size);
    }
}

static void malformed_requests_are_refused(void **state)
{
    (void)state;
    const char *const texts[] = {
            "\r\nGET / HTTP/1.1\r\n\r\n",
            " GET / HTTP/1.1\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "GET / HTTP/1.1\n\n",
            "GET / HTTP/1.1\r\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            "GET / HTTP/1.2\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET / http/1.1\r\n\r\n",
            "GET /\r\n\r\n",
            "GET\r\n\r\n",
            "GET a HTTP/1.1\r\n\r\n",
            "GET ** HTTP/1.1\r\n\r\n",
            "GET  HTTP/1.1\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "GET /\x01 HTTP/1.1\r\n\r\n",
            "GET /\x7f HTTP/1.1\r\n\r\n",
            "GET /\xc3\xa4 HTTP/1.1\r\n\r\n",
            "GET /\tHTTP/1.1\r\n\r\n",
            "G{T / HTTP/1.1\r\n\r\n",
            "METHODMETHODMETHODMETHODMETHODMETHOD / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA : b\r\n\r\n",
            "GET / HTTP/1.1\r\n: b\r\n\r\n",
            "GET / HTTP/1.1\r\nA\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\n A: b\r\n\r\n",
            "GET / HTTP/1.1\r\nA: \x01\r\n\r\n",
            "GET / HTTP/1.1\r\nA: \x7f\r\n\r\n",
            "GET / HTTP/1.1\r\nA(: b\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n\rx",
            "\x16\x03\x01\x02\x00\x01",
            "HTTP/1.1 200 OK\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (request(texts[i]) != ZNL_E_PROTO)
            fail_msg("accepted: %s", texts[i]);
    const char nul[] = "GET / HTTP/1.1\r\nA: b\0c\r\n\r\n";
    assert_int_equal(read_copy(nul, sizeof nul - 1, znl_http_read_request), ZNL_E_PROTO);
    assert_int_equal(read_copy("\0", 1, znl_http_read_request), ZNL_E_PROTO);
}

static void malformed_responses_are_refused(void **state)
{
    (void)state;
    const char *const texts[] = {
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 600 OK\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 200OK\r\n\r\n",
            "HTTP/1.1 200 OK\n\r\n",
            "HTTP/1.1 200 \x01\r\n\r\n",
            "HTTP/1.9 200 OK\r\n\r\n",
            "SSH-2.0-",
            "GET / HTTP/1.1\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (response(texts[i]) != ZNL_E_PROTO)
            fail_msg("accepted: %s", texts[i]);
}

/* Nobody waits for the rest of what can only be wrong. */
static void garbage_is_refused_before_its_end(void **state)
{
    (void)state;
    assert_int_equal(request("\x16"), ZNL_E_PROTO);
    assert_int_equal(request("GET / HTTP/3"), ZNL_E_PROTO);
    assert_int_equal(request("GET / HTTP/1.1\r\nA b"), ZNL_E_PROTO);
    assert_int_equal(response("HTTX"), ZNL_E_PROTO);
    assert_int_equal(request("METHODMETHODMETHODMETHODMETHODMETH"), ZNL_E_PROTO);
}

static void headers_beyond_the_limit_are_too_big(void **state)
{
    (void)state;
    char text[2000];
    for (size_t count = ZNL_HTTP_HEADERS_MAX; count <= ZNL_HTTP_HEADERS_MAX + 1; count++) {
        int size = snprintf(text, sizeof text, "GET / HTTP/1.1\r\n");
        for (size_t i = 0; i < count; i++)
            size += snprintf(text + size, sizeof text - (size_t)size, "H%zu: v\r\n", i);
        snprintf(text + size, sizeof text - (size_t)size, "\r\n");
        long expected = count > ZNL_HTTP_HEADERS_MAX ? ZNL_E_TOO_BIG : (long)size + 2;
        assert_int_equal(request(text), expected);
    }
    assert_int_equal(head.header_count, ZNL_HTTP_HEADERS_MAX);
}

static void headers_given_twice_are_not_chosen_from(void **state)
{
    (void)state;
    int err;
    assert_true(request("GET / HTTP/1.1\r\nA: 1\r\na: 1\r\nB: 2\r\n\r\n") > 0);
    assert_null(znl_http_header_of(&head, "A", &err).data);
    assert_int_equal(err, ZNL_E_PROTO);
    ASSERT_FRAME(znl_http_header_of(&head, "B", &err), "2");
    assert_int_equal(err, 0);
}

static void lists_are_searched_in_all_headers(void **state)
{
    (void)state;
    assert_true(request("GET / HTTP/1.1\r\nConnection: keep-alive,\tUpgrade\r\nA: x\r\n"
                        "CONNECTION: ,, other ,\r\nEmpty:\r\n\r\n") > 0);
    assert_true(znl_http_lists(&head, "Connection", "upgrade"));
    assert_true(znl_http_lists(&head, "connection", "keep-alive"));
    assert_true(znl_http_lists(&head, "Connection", "other"));
    assert_false(znl_http_lists(&head, "Connection", "upgrad"));
    assert_false(znl_http_lists(&head, "Connection", "x"));
    assert_false(znl_http_lists(&head, "Connection", "keep-alive,\tUpgrade"));
    assert_false(znl_http_lists(&head, "Empty", "x"));
    assert_false(znl_http_lists(&head, "None", "x"));
}

static int body_of(const char *headers, uint64_t *size)
{
    char text[500];
    snprintf(text, sizeof text, "POST / HTTP/1.1\r\n%s\r\n", headers);
    assert_true(request(text) > 0);
    return znl_http_body_size(&head, size);
}

static void body_size_is_certain_or_refused(void **state)
{
    (void)state;
    const char *const refused[] = {"-1", "+1", "1 ", "0x10", "1,1", "1.0", "", "1e3",
            "18446744073709551616", "9999999999999999999"};
    uint64_t size = 7;
    assert_int_equal(body_of("", &size), 0);
    assert_int_equal(size, 0);
    assert_int_equal(body_of("Content-Length: 0123\r\n", &size), 0);
    assert_int_equal(size, 123);
    assert_int_equal(body_of("Content-Length: 999999999999999999\r\n", &size), 0);
    assert_true(size == 999999999999999999u);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        char line[100];
        snprintf(line, sizeof line, "Content-Length: \"%s\r\n", refused[i]);
        assert_int_equal(body_of(line, &size), ZNL_E_PROTO);
        if (strcmp(refused[i], "1 ") == 0) /* white space at the end is not part of it */
            continue;
        snprintf(line, sizeof line, "Content-Length: %s\r\n", refused[i]);
        assert_int_equal(body_of(line, &size), ZNL_E_PROTO);
    }
    assert_int_equal(body_of("Content-Length: 1\r\nContent-Length: 1\r\n", &size), ZNL_E_PROTO);
    assert_int_equal(body_of("Transfer-Encoding: chunked\r\n", &size), ZNL_E_UNSUPPORTED);
    assert_int_equal(body_of("Transfer-Encoding: a\r\nTransfer-Encoding: b\r\n", &size),
            ZNL_E_UNSUPPORTED);
    assert_int_equal(
            body_of("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", &size), ZNL_E_PROTO);
}

static void connections_are_kept_as_the_version_says(void **state)
{
    (void)state;
    assert_true(request("GET / HTTP/1.1\r\n\r\n") > 0);
    assert_true(znl_http_keeps_alive(&head));
    assert_true(request("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n") > 0);
    assert_false(znl_http_keeps_alive(&head));
    assert_true(request("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n") > 0);
    assert_false(znl_http_keeps_alive(&head));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(request_is_read_into_parts),
            cmocka_unit_test(response_is_read_into_parts),
            cmocka_unit_test(head_is_whole_only_with_its_last_byte),
            cmocka_unit_test(malformed_requests_are_refused),
            cmocka_unit_test(malformed_responses_are_refused),
            cmocka_unit_test(garbage_is_refused_before_its_end),
            cmocka_unit_test(headers_beyond_the_limit_are_too_big),
            cmocka_unit_test(headers_given_twice_are_not_chosen_from),
            cmocka_unit_test(lists_are_searched_in_all_headers),
            cmocka_unit_test(body_size_is_certain_or_refused),
            cmocka_unit_test(connections_are_kept_as_the_version_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
