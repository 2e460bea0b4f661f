/* modules.c - see modules.h. SPDX-License-Identifier: MIT */
#include "host/modules.h"

#include "bind/bind.h"
#include "host/embedded.h"
#include "vm/vm.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int luaopen_cjson(lua_State *L);
int luaopen_cjson_safe(lua_State *L);
int luaopen_lpeg(lua_State *L);
int luaopen_yaml(lua_State *L);

/* Loads folder/name.lua or folder/name/init.lua, pushing the chunk. Returns 0 when neither
 * exists; raises when one does not compile. */
static int load_from_folder(lua_State *L, const char *folder, const char *name)
{
    static const char *const endings[] = {".lua", "/init.lua"};
    const char *path = luaL_gsub(L, name, ".", "/");
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        const char *file = lua_pushfstring(L, "%s/%s%s", folder, path, endings[i]);
        if (access(file, R_OK) != 0)
            continue;
        if (luaL_loadfile(L, file) != 0)
            luaL_error(L, "error loading module '%s':\n\t%s", name, lua_tostring(L, -1));
        return 1;
    }
    return 0;
}

/* Entry of package.loaders: ZNL_LUA_PATH, then what the binary carries. */
static int load_module(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    const char *folder = getenv("ZNL_LUA_PATH");
    if (folder != NULL && folder[0] != '\0' && load_from_folder(L, folder, name))
        return 1;
    for (size_t i = 0; i < znl_embedded_count; i++) {
        const struct znl_embedded_module *module = &znl_embedded[i];
        if (strcmp(module->name, name) != 0)
            continue;
        if (luaL_loadbuffer(L, (const char *)module->data, module->size, name) != 0)
            return luaL_error(
                    L, "error loading built-in module '%s':\n\t%s", name, lua_tostring(L, -1));
        return 1;
    }
    lua_pushfstring(L, "\n\tno module '%s' in znlrun", name);
    return 1;
}

/* Module names have dots where chunk names have slashes: "@znl/roles/node.lua". The module of a
 * folder is its init.lua. */
static int is_named(const char *path, const char *module)
{
    size_t i = 0;
    for (; module[i] != '\0'; i++)
        if (path[i] != (module[i] == '.' ? '/' : module[i]))
            return 0;
    return strcmp(path + i, ".lua") == 0 || strcmp(path + i, "/init.lua") == 0;
}

static int is_library(const char *source)
{
    const char *folder = getenv("ZNL_LUA_PATH");
    size_t size = folder != NULL ? strlen(folder) : 0;
    if (strcmp(source, ZNL_VM_ITERATION) == 0)
        return 1;
    if (*source++ != '@')
        return 0;
    if (size > 0 && strncmp(source, folder, size) == 0 && source[size] == '/')
        source += size + 1;
    for (size_t i = 0; i < znl_embedded_count; i++)
        if (is_named(source, znl_embedded[i].name))
            return 1;
    return 0;
}

void znl_modules_open(lua_State *L)
{
    static const luaL_Reg libraries[] = {
            {"cjson", luaopen_cjson},
            {"cjson.safe", luaopen_cjson_safe},
            {"lpeg", luaopen_lpeg},
            {"yaml", luaopen_yaml}, /* what lyaml is written on */
            {NULL, NULL},
    };
    znl_vm_of(L)->is_library = is_library;
    znl_bind_open_all(L);
    znl_bind_luv_open(L);
    znl_bind_profile_open(L);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    luaL_register(L, NULL, libraries);
    lua_pop(L, 1);
    /* Second, after preload: a stray file must not stand in for a part of znlrun. */
    lua_getfield(L, -1, "loaders");
    for (int i = (int)lua_objlen(L, -1); i >= 2; i--) {
        lua_rawgeti(L, -1, i);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushcfunction(L, load_module);
    lua_rawseti(L, -2, 2);
    lua_pop(L, 2);
}
