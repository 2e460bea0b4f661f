/* find.c - "/-/find" answered from a directory, without Lua (spec, section 9).
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/micro/micro.h"

#include "base/err.h"
#include "base/random.h"
#include "codec/json.h"

/* Reads the exclude list; what is no text in it excludes nothing. */
static int read_exclude(znl_json_reader *reader, znl_directory *directory, znl_buffer *scratch)
{
    znl_frame name, key;
    int is_plain;
    if (znl_json_peek(reader) != ZNL_JSON_ARRAY)
        return znl_json_skip(reader, &key);
    int more = znl_json_enter(reader);
    if (more != 0)
        return more;
    while ((more = znl_json_next(reader, &name, &is_plain)) > 0) {
        int err;
        scratch->size = 0;
        if (znl_json_peek(reader) == ZNL_JSON_STRING) {
            err = znl_json_string(reader, &key, scratch);
            if (err == 0)
                znl_directory_exclude(directory, key);
        } else {
            err = znl_json_skip(reader, &key);
        }
        if (err != 0)
            return err;
    }
    return more;
}

/* Reads { namespace, exclude } into the directory and *namespace. */
static int read_lookup(
        znl_micro_box *box, znl_frame data, znl_frame *namespace, znl_buffer *text)
{
    znl_json_reader reader;
    znl_frame name, raw;
    znl_buffer scratch = {0};
    int is_plain;
    znl_json_begin(&reader, data, box->options.max_depth);
    if (data.data == NULL || znl_json_peek(&reader) != ZNL_JSON_OBJECT)
        return ZNL_E_INVALID;
    int more = znl_json_enter(&reader);
    while (more >= 0 && (more = znl_json_next(&reader, &name, &is_plain)) > 0) {
        int err;
        if (znl_frame_equal(name, znl_frame_text("namespace")) &&
                znl_json_peek(&reader) == ZNL_JSON_STRING) {
            text->size = 0;
            err = znl_json_string(&reader, namespace, text);
        } else if (znl_frame_equal(name, znl_frame_text("exclude"))) {
            znl_directory_begin(box->directory);
            err = read_exclude(&reader, box->directory, &scratch);
        } else {
            err = znl_json_skip(&reader, &raw);
        }
        if (err != 0)
            more = err;
    }
    znl_buffer_fini(&scratch);
    return more;
}

static int put_found(znl_buffer *out, const znl_registration *found)
{
    static const char host[] = "{\"host\":", port[] = ",\"port\":";
    out->size = 0;
    int err = znl_buffer_append(out, host, sizeof host - 1);
    if (err == 0)
        err = znl_json_put_string(out, found->host);
    if (err == 0)
        err = znl_buffer_append(out, port, sizeof port - 1);
    if (err == 0)
        err = znl_json_put_integer(out, found->port);
    return err == 0 ? znl_buffer_append(out, "}", 1) : err;
}

int znl_micro_box_find(
        znl_micro_box *box, znl_micro_link *link, const znl_micro_request *request)
{
    static const char route[] = "/-/find";
    if (request->url.size != sizeof route - 1 ||
            memcmp(request->url.data, route, sizeof route - 1) != 0 || request->is_stream)
        return 0;
    if (request->job == 0)
        return 1; /* a push: nobody wants to know */
    znl_frame namespace = {NULL, 0}, data = {NULL, 0};
    znl_buffer text = {0};
    box->finds++;
    znl_directory_begin(box->directory);
    int err = read_lookup(box, request->data, &namespace, &text);
    if (err == 0) {
        const znl_registration *found = znl_directory_choose(
                box->directory, namespace, znl_random_u64());
        if (found != NULL) {
            err = put_found(&box->data, found);
            data = znl_frame_of(box->data.data, box->data.size);
        }
    }
    znl_buffer_fini(&text);
    if (err != 0)
        znl_micro_link_refuse(link, request->job, err,
                err == ZNL_E_INVALID ? "find: the data must be { namespace, exclude }"
                                     : znl_err_text(err));
    else
        znl_micro_answer(link->micro, request->job, data);
    return 1;
}
