/* vector.c - see vector.h. SPDX-License-Identifier: MIT */
#include "support/vector.h"

#include <stdio.h>
#include <stdlib.h>

#define FILES_MAX 128

static cJSON *files[FILES_MAX];
static size_t file_count;

static void **blocks;
static size_t block_count;
static size_t block_room;

static _Noreturn void give_up(const char *what, const char *name)
{
    fprintf(stderr, "vector: %s: %s\n", name, what);
    exit(EXIT_FAILURE);
}

static void *block(size_t size)
{
    if (block_count == block_room) {
        block_room = block_room ? block_room * 2 : 256;
        blocks = realloc(blocks, block_room * sizeof *blocks);
        if (blocks == NULL)
            give_up("out of memory", "blocks");
    }
    void *memory = malloc(size);
    if (memory == NULL && size != 0)
        give_up("out of memory", "block");
    blocks[block_count++] = memory;
    return memory;
}

const cJSON *znl_vector_file(const char *path)
{
    char name[512];
    int length = snprintf(name, sizeof name, "%s/%s", ZNL_VECTORS, path);
    if (length < 0 || (size_t)length >= sizeof name || file_count == FILES_MAX)
        give_up("too many files or too long a path", path);
    FILE *stream = fopen(name, "rb");
    if (stream == NULL)
        give_up("cannot be opened", name);
    size_t size = 0;
    size_t room = 1 << 16;
    char *text = malloc(room);
    while (text != NULL) {
        size += fread(text + size, 1, room - size, stream);
        if (size < room)
            break;
        room *= 2;
        char *more = realloc(text, room);
        if (more == NULL)
            give_up("out of memory", name);
        text = more;
    }
    fclose(stream);
    cJSON *root = text != NULL ? cJSON_ParseWithLength(text, size) : NULL;
    free(text);
    if (root == NULL)
        give_up("is not JSON", name);
    files[file_count++] = root;
    return root;
}

static const cJSON *find(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(item) ? NULL : item;
}

const cJSON *znl_vector_list(const cJSON *object, const char *key)
{
    const cJSON *item = find(object, key);
    if (!cJSON_IsArray(item))
        give_up("is not a list", key);
    return item;
}

const cJSON *znl_vector_object(const cJSON *object, const char *key)
{
    const cJSON *item = find(object, key);
    if (item != NULL && !cJSON_IsObject(item))
        give_up("is not an object", key);
    return item;
}

int znl_vector_has(const cJSON *object, const char *key)
{
    return find(object, key) != NULL;
}

const char *znl_vector_text(const cJSON *object, const char *key)
{
    const cJSON *item = find(object, key);
    if (item != NULL && !cJSON_IsString(item))
        give_up("is not text", key);
    return item != NULL ? item->valuestring : NULL;
}

znl_frame znl_vector_frame(const cJSON *object, const char *key)
{
    const char *text = znl_vector_text(object, key);
    return text != NULL ? znl_frame_text(text) : (znl_frame){0};
}

int64_t znl_vector_number(const cJSON *object, const char *key)
{
    const cJSON *item = find(object, key);
    if (!cJSON_IsNumber(item))
        give_up("is not a number", key);
    return (int64_t)item->valuedouble;
}

int znl_vector_flag(const cJSON *object, const char *key)
{
    return cJSON_IsTrue(find(object, key));
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* Not znl_hex_decode(): that is itself under test. */
static znl_frame decode(const char *text, const char *key)
{
    size_t size = strlen(text);
    if (size % 2 != 0)
        give_up("is not hex", key);
    uint8_t *bytes = block(size / 2);
    for (size_t i = 0; i < size; i += 2) {
        int high = hex_digit(text[i]);
        int low = hex_digit(text[i + 1]);
        if (high < 0 || low < 0)
            give_up("is not hex", key);
        bytes[i / 2] = (uint8_t)(high << 4 | low);
    }
    return znl_frame_of(bytes, size / 2);
}

znl_frame znl_vector_hex(const cJSON *object, const char *key)
{
    const char *text = znl_vector_text(object, key);
    return text != NULL ? decode(text, key) : (znl_frame){0};
}

const znl_frame *znl_vector_frames(const cJSON *object, const char *key, size_t *count)
{
    *count = 0;
    if (!znl_vector_has(object, key))
        return NULL;
    const cJSON *list = znl_vector_list(object, key);
    size_t size = (size_t)cJSON_GetArraySize(list);
    znl_frame *frames = block(size * sizeof *frames);
    for (const cJSON *item = list->child; item != NULL; item = item->next) {
        if (!cJSON_IsString(item))
            give_up("is not a list of hex strings", key);
        frames[(*count)++] = decode(item->valuestring, key);
    }
    return frames;
}

uint8_t *znl_vector_copy(znl_frame frame)
{
    uint8_t *copy = block(frame.size);
    if (frame.size != 0)
        memcpy(copy, frame.data, frame.size);
    return copy;
}

void znl_vector_end(void)
{
    while (block_count > 0)
        free(blocks[--block_count]);
    free(blocks);
    blocks = NULL;
    block_room = 0;
    while (file_count > 0)
        cJSON_Delete(files[--file_count]);
}
