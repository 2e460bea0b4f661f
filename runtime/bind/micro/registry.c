/* registry.c - znl.core.registry: which addresses serve which namespace.
 *
 *     new{max = 100000} -> directory of at most `max` registrations
 *     d:add(namespace, host, port [, now_ms]) -> id, replaced_id | nil, message, code
 *     d:remove(id) -> was_there
 *     d:find(namespace [, exclude]) -> host, port | nil      one at random, not in the array of keys
 *     d:get(key) -> {id=, namespace=, key=, host=, port=, since_ms=} | nil
 *     d:peers(namespace) -> array of such tables
 *     d:namespaces() -> table of name -> number of registrations
 *     d:keys(namespace) -> array of their keys
 *     d:count() -> registrations, namespaces;  d:count(namespace) -> its registrations
 *     d:counters() -> table
 *     d:close()
 *     read_topic(json) -> topic, payload|nil, revision|nil | nil, message, code      what a request about
 *         a topic says, the payload as its JSON text
 *
 * A registration is named by its id, never by its key: what closes late takes away nothing that came
 * later. `now_ms` is for tests; without it the clock of the loop counts.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/micro/registry.h"

#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "bind/bind.h"
#include "codec/json.h"
#include "transport/loop.h"

#include <lauxlib.h>
#include <string.h>

#define TYPE "znl.core.registry"
#define WHOLE_MAX 9007199254740992.0 /* 2^53: beyond it doubles skip whole numbers */
#define KEY_BYTES_MAX (ZNL_HOST_BYTES_MAX + 6u)

struct registry {
    znl_directory *directory; /* NULL when closed */
    uint32_t changes;         /* counted, for walks that a finalizer may interrupt */
};

static struct registry *check_registry(lua_State *L)
{
    struct registry *registry = luaL_checkudata(L, 1, TYPE);
    luaL_argcheck(L, registry->directory != NULL, 1, "the directory is closed");
    return registry;
}

znl_directory *znl_lua_todirectory(lua_State *L, int idx)
{
    struct registry *registry = lua_touserdata(L, idx);
    if (registry == NULL || !lua_getmetatable(L, idx))
        return NULL;
    luaL_getmetatable(L, TYPE);
    int is_registry = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return is_registry ? registry->directory : NULL;
}

static uint64_t check_whole(lua_State *L, int idx, const char *words)
{
    lua_Number value = lua_type(L, idx) == LUA_TNUMBER ? lua_tonumber(L, idx) : -1;
    if (!(value >= 0 && value < WHOLE_MAX && value == (lua_Number)(uint64_t)value))
        luaL_argerror(L, idx, words);
    return (uint64_t)value;
}

static int registry_new(lua_State *L)
{
    uint32_t max = ZNL_REGISTRATIONS_DEFAULT;
    if (!lua_isnoneornil(L, 1)) {
        luaL_checktype(L, 1, LUA_TTABLE);
        for (lua_pushnil(L); lua_next(L, 1) != 0; lua_pop(L, 1)) {
            if (lua_type(L, -2) != LUA_TSTRING || strcmp(lua_tostring(L, -2), "max") != 0)
                luaL_error(L, "registry.new: the only option is max");
            max = znl_lua_checku32(L, lua_gettop(L), "max", 1, ZNL_REGISTRATIONS_MAX);
        }
    }
    struct registry *registry = lua_newuserdata(L, sizeof *registry);
    *registry = (struct registry){0};
    luaL_getmetatable(L, TYPE);
    lua_setmetatable(L, -2);
    int err = znl_directory_new(&registry->directory, max);
    return err == 0 ? 1 : znl_lua_fail(L, err, "registry.new");
}

static int registry_add(lua_State *L)
{
    struct registry *registry = check_registry(L);
    znl_frame namespace = znl_lua_checkframe(L, 2, "namespace", SIZE_MAX);
    znl_frame host = znl_lua_checkframe(L, 3, "host", SIZE_MAX);
    uint32_t port = znl_lua_checku32(L, 4, "port", 1, 65535);
    uint64_t now_ms = lua_isnoneornil(L, 5)
            ? znl_loop_now_ms(znl_vm_of(L)->loop)
            : check_whole(L, 5, "now_ms must be a number of milliseconds");
    uint64_t id, replaced;
    registry->changes++;
    int err = znl_directory_add(
            registry->directory, namespace, host, port, now_ms, &id, &replaced);
    if (err != 0)
        return znl_lua_fail(L, err, "registry.add");
    lua_pushnumber(L, (lua_Number)id);
    if (replaced == 0)
        return 1;
    lua_pushnumber(L, (lua_Number)replaced);
    return 2;
}

static int registry_remove(lua_State *L)
{
    struct registry *registry = check_registry(L);
    uint64_t id = check_whole(L, 2, "id must be a number that add() gave");
    registry->changes++;
    lua_pushboolean(L, znl_directory_remove(registry->directory, id));
    return 1;
}

static int registry_find(lua_State *L)
{
    struct registry *registry = check_registry(L);
    znl_frame namespace = znl_lua_checkframe(L, 2, "namespace", SIZE_MAX);
    lua_settop(L, 3);
    if (!lua_isnil(L, 3))
        luaL_checktype(L, 3, LUA_TTABLE);
    znl_directory_begin(registry->directory);
    for (int i = 1; !lua_isnil(L, 3); i++) {
        lua_rawgeti(L, 3, i);
        if (lua_isnil(L, -1))
            break;
        /* What is no text is no key: nothing to exclude. */
        if (lua_type(L, -1) == LUA_TSTRING) {
            znl_frame key;
            key.data = (const uint8_t *)lua_tolstring(L, -1, &key.size);
            znl_directory_exclude(registry->directory, key);
        }
        lua_pop(L, 1);
    }
    const znl_registration *found = znl_directory_choose(
            registry->directory, namespace, znl_random_u64());
    if (found == NULL)
        return 0;
    char host[ZNL_HOST_BYTES_MAX]; /* lua_pushlstring may run finalizers before it reads */
    size_t size = found->host.size;
    uint32_t port = found->port;
    memcpy(host, found->host.data, size);
    lua_pushlstring(L, host, size);
    lua_pushnumber(L, port);
    return 2;
}

/* The registration as a table; its texts are copied first, as above. */
static void push_registration(lua_State *L, const znl_registration *found)
{
    char namespace[ZNL_NAMESPACE_BYTES_MAX], key[KEY_BYTES_MAX];
    znl_registration copy = *found;
    memcpy(namespace, copy.namespace.data, copy.namespace.size);
    memcpy(key, copy.key.data, copy.key.size);
    lua_createtable(L, 0, 6);
    lua_pushnumber(L, (lua_Number)copy.id);
    lua_setfield(L, -2, "id");
    lua_pushlstring(L, namespace, copy.namespace.size);
    lua_setfield(L, -2, "namespace");
    lua_pushlstring(L, key, copy.key.size);
    lua_setfield(L, -2, "key");
    lua_pushlstring(L, key, copy.host.size);
    lua_setfield(L, -2, "host");
    lua_pushnumber(L, copy.port);
    lua_setfield(L, -2, "port");
    lua_pushnumber(L, (lua_Number)copy.since_ms);
    lua_setfield(L, -2, "since_ms");
}

static int registry_get(lua_State *L)
{
    struct registry *registry = check_registry(L);
    znl_frame key = znl_lua_checkframe(L, 2, "key", SIZE_MAX);
    const znl_registration *found = znl_directory_find(registry->directory, key);
    if (found == NULL)
        return 0;
    push_registration(L, found);
    return 1;
}

static void refuse_changes(lua_State *L, const struct registry *registry, uint32_t changes)
{
    if (registry->directory == NULL || registry->changes != changes)
        luaL_error(L, "registry: changed by a finalizer while it was listed");
}

/* The list that `push` makes of the peers of the namespace at index 2. */
static int list_peers(lua_State *L, void (*push)(lua_State *L, const znl_registration *found))
{
    struct registry *registry = check_registry(L);
    znl_frame namespace = znl_lua_checkframe(L, 2, "namespace", SIZE_MAX);
    uint32_t changes = registry->changes;
    size_t count = znl_directory_peer_count(registry->directory, namespace);
    lua_createtable(L, (int)count, 0);
    refuse_changes(L, registry, changes);
    for (size_t i = 0; i < count; i++) {
        push(L, znl_directory_peer(registry->directory, namespace, i));
        refuse_changes(L, registry, changes);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 1;
}

static int registry_peers(lua_State *L)
{
    return list_peers(L, push_registration);
}

static void push_key(lua_State *L, const znl_registration *found)
{
    char key[KEY_BYTES_MAX]; /* the registration may go while Lua makes the string */
    size_t size = found->key.size;
    memcpy(key, found->key.data, size);
    lua_pushlstring(L, key, size);
}

static int registry_keys(lua_State *L)
{
    return list_peers(L, push_key);
}

static int registry_namespaces(lua_State *L)
{
    struct registry *registry = check_registry(L);
    uint32_t changes = registry->changes;
    const void *at = NULL;
    znl_frame namespace;
    size_t count;
    lua_createtable(L, 0, (int)znl_directory_namespace_count(registry->directory));
    refuse_changes(L, registry, changes);
    while (znl_directory_next_namespace(registry->directory, &at, &namespace, &count)) {
        char name[ZNL_NAMESPACE_BYTES_MAX];
        memcpy(name, namespace.data, namespace.size);
        lua_pushlstring(L, name, namespace.size);
        lua_pushnumber(L, (lua_Number)count);
        lua_rawset(L, -3);
        refuse_changes(L, registry, changes);
    }
    return 1;
}

static int registry_count(lua_State *L)
{
    struct registry *registry = check_registry(L);
    if (!lua_isnoneornil(L, 2)) {
        znl_frame namespace = znl_lua_checkframe(L, 2, "namespace", SIZE_MAX);
        lua_pushnumber(L, (lua_Number)znl_directory_peer_count(registry->directory, namespace));
        return 1;
    }
    lua_pushnumber(L, (lua_Number)znl_directory_count(registry->directory));
    lua_pushnumber(L, (lua_Number)znl_directory_namespace_count(registry->directory));
    return 2;
}

static int registry_counters(lua_State *L)
{
    struct registry *registry = check_registry(L);
    znl_directory_counters counters;
    znl_directory_count_all(registry->directory, &counters);
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
            {"added", counters.added},
            {"removed", counters.removed},
            {"replaced", counters.replaced},
            {"refused", counters.refused},
            {"finds", counters.finds},
            {"misses", counters.misses},
    };
    lua_createtable(L, 0, (int)(sizeof rows / sizeof rows[0]));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        lua_pushnumber(L, (lua_Number)rows[i].value);
        lua_setfield(L, -2, rows[i].name);
    }
    return 1;
}

static int registry_close(lua_State *L)
{
    struct registry *registry = luaL_checkudata(L, 1, TYPE);
    registry->changes++;
    znl_directory_release(registry->directory);
    registry->directory = NULL;
    return 0;
}

/* --- requests about topics -------------------------------------------------------------------- */

struct topic_request {
    char topic[ZNL_TOPIC_BYTES_MAX];
    size_t topic_size;
    int has_topic, has_revision;
    double revision;
    znl_frame payload; /* {NULL, 0}: absent */
};

static int read_name(znl_json_reader *reader, struct topic_request *request)
{
    znl_buffer scratch = {0};
    znl_frame text;
    request->has_topic = 0;
    int kind = znl_json_peek(reader);
    if (kind != ZNL_JSON_STRING)
        return kind < 0 ? kind : znl_json_skip(reader, &text);
    int err = znl_json_string(reader, &text, &scratch);
    if (err == 0 && text.size > sizeof request->topic)
        err = ZNL_E_TOO_BIG;
    if (err == 0) {
        memcpy(request->topic, text.data, text.size);
        request->topic_size = text.size;
        request->has_topic = 1;
    }
    znl_buffer_fini(&scratch);
    return err;
}

static int read_revision(znl_json_reader *reader, struct topic_request *request)
{
    znl_frame raw;
    int is_integer;
    int64_t integer;
    int kind = znl_json_peek(reader);
    request->has_revision = kind == ZNL_JSON_NUMBER;
    if (kind != ZNL_JSON_NUMBER)
        return kind < 0 ? kind : znl_json_skip(reader, &raw);
    return znl_json_number(reader, &request->revision, &is_integer, &integer);
}

/* The members that count; the last of two with one name does, as in JavaScript. */
static int read_request(znl_frame text, struct topic_request *request)
{
    znl_json_reader reader;
    znl_frame name;
    int is_plain, more;
    znl_json_begin(&reader, text, ZNL_JSON_DEPTH_MAX);
    if (znl_json_peek(&reader) != ZNL_JSON_OBJECT)
        return ZNL_E_INVALID;
    int err = znl_json_enter(&reader);
    while (err == 0 && (more = znl_json_next(&reader, &name, &is_plain)) != 0) {
        znl_frame raw;
        if (more < 0)
            return more;
        if (znl_frame_equal(name, znl_frame_text("topic")))
            err = read_name(&reader, request);
        else if (znl_frame_equal(name, znl_frame_text("revision")))
            err = read_revision(&reader, request);
        else if (znl_frame_equal(name, znl_frame_text("payload")))
            err = znl_json_skip(&reader, &request->payload);
        else
            err = znl_json_skip(&reader, &raw);
    }
    if (err == 0)
        err = znl_json_end(&reader);
    return err == 0 && !request->has_topic ? ZNL_E_INVALID : err;
}

static int registry_read_topic(lua_State *L)
{
    struct topic_request request = {0};
    int err = read_request(znl_lua_checkframe(L, 1, "json", SIZE_MAX), &request);
    if (err == ZNL_E_INVALID) {
        lua_pushnil(L);
        lua_pushliteral(L, "the data must be an object with a text as its topic");
        lua_pushstring(L, znl_err_code(err));
        return 3;
    }
    if (err != 0)
        return znl_lua_fail(L, err, "topic");
    lua_pushlstring(L, request.topic, request.topic_size);
    if (request.payload.data != NULL)
        lua_pushlstring(L, (const char *)request.payload.data, request.payload.size);
    else
        lua_pushnil(L);
    if (request.has_revision)
        lua_pushnumber(L, request.revision);
    else
        lua_pushnil(L);
    return 3;
}

static const luaL_Reg methods[] = {
        {"add", registry_add},
        {"remove", registry_remove},
        {"find", registry_find},
        {"get", registry_get},
        {"peers", registry_peers},
        {"keys", registry_keys},
        {"namespaces", registry_namespaces},
        {"count", registry_count},
        {"counters", registry_counters},
        {"close", registry_close},
        {NULL, NULL},
};

int luaopen_znl_core_registry(lua_State *L)
{
    znl_lua_newtype(L, TYPE, methods, registry_close);
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, registry_new);
    lua_setfield(L, -2, "new");
    lua_pushcfunction(L, registry_read_topic);
    lua_setfield(L, -2, "read_topic");
    return 1;
}
