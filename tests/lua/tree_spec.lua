-- SPDX-License-Identifier: MIT
local folder = require("support.folder")
local snapshot = require("znl.versions.snapshot")
local source = require("znl.versions.source")
local tree = require("znl.versions.tree")
local uv = require("luv")

describe("tree", function()
  local files

  before_each(function() files = folder.new() end)
  after_each(function() files:remove() end)

  local function found()
    local names = {}
    for _, file in ipairs(assert(tree.scan(files.path, ".msg.lua")).files) do names[#names + 1] = file.relative end
    return names
  end

  it("finds handler files in the order of their names, without those that begin with a dot", function()
    for name in ("b.msg.lua a/z.msg.lua a.msg.lua .git/x.msg.lua .a.msg.lua c.lua d.msg.lua~"):gmatch("%S+") do
      files:write(name, "")
    end
    assert.same({ "a/z.msg.lua", "a.msg.lua", "b.msg.lua" }, found())
  end)

  it("follows links, and enters none that leads back up", function()
    files:write("real/a.msg.lua", "")
    assert(uv.fs_symlink(files:at("real"), files:at("link")))
    assert(uv.fs_symlink(files.path, files:at("real/up")))
    assert(uv.fs_symlink(files:at("nowhere"), files:at("broken.msg.lua")))
    assert.same({ "link/a.msg.lua", "real/a.msg.lua" }, found())
  end)

  it("says what is no folder and what nests too deeply", function()
    local none, message = tree.scan(files:at("none"), ".msg.lua")
    assert.is_nil(none)
    assert.matches("no such file", message)
    files:write("file", "")
    none, message = tree.scan(files:at("file"), ".msg.lua")
    assert.is_nil(none)
    assert.matches("not a folder", message)
    files:make(("d/"):rep(40))
    none, message = tree.scan(files.path, ".msg.lua")
    assert.is_nil(none)
    assert.matches("nest deeper than 32", message)
  end)

  it("leaves nothing behind in the process", function()
    files:write("a/b.msg.lua", "")
    local function held()
      local count = 0
      for _, value in pairs(debug.getregistry()) do
        if type(value) == "userdata" then count = count + 1 end
      end
      return count
    end
    found()
    local before = held()
    for _ = 1, 50 do
      found()
      tree.scan(files:at("none"), ".msg.lua")
    end
    assert.equal(before, held())
  end)
end)

describe("a snapshot of files", function()
  local files

  before_each(function() files = folder.new() end)
  after_each(function() files:remove() end)

  it("keeps to what it read until it is renewed", function()
    local path = files:at("a")
    local look = snapshot.new()
    local text, message = look:read(path)
    assert.is_nil(text)
    assert.equal(path .. ": No such file or directory", message)
    files:write("a", "one")
    assert.is_nil((look:read(path)))
    look:renew()
    assert.equal("one", (look:read(path)))
    files:write("a", "two") -- same size, same moment
    assert.equal("one", (look:read(path)))
    look:renew()
    assert.equal("two", (look:read(path)))
    files:remove("a")
    look:renew()
    assert.is_nil((look:read(path)))
    files:make("a")
    look:renew()
    text, message = look:read(path)
    assert.is_nil(text)
    assert.matches("directory", message)
  end)

  it("does not read an old file again that nothing touched", function()
    files:write("a", "one")
    local look, reads, read = snapshot.new(), 0, source.read
    look:read(files:at("a"))
    -- As if it had been read long after it was written.
    local entry = look.entries[files:at("a")]
    assert.is_false(entry.is_settled)
    entry.is_settled = true
    source.read = function(path)
      reads = reads + 1
      return read(path)
    end
    look:renew()
    assert.equal("one", (look:read(files:at("a"))))
    assert.equal(0, reads)
    files:replace("a", "two")
    look:renew()
    assert.equal("two", (look:read(files:at("a"))))
    source.read = read
    assert.equal(1, reads)
  end)
end)
