--- The channel of the chat. Edit it while people talk: connections stay.
---
--- Clients send `say { text, to? }`. They get `welcome { id, name, at }`, `roster [{ id, name, at }]`, `said { from,
--- text }`, `whisper { from, to, text }`, `bus state` and `refused reason`.
--- SPDX-License-Identifier: MIT

local NAME_BYTES_MAX, TEXT_BYTES_MAX = 4 * 24, 4 * 1000 -- as many letters as the page lets through

--- A text as it was before a browser put it into an address.
local function decoded(text)
  return (text:gsub("+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

--- A real application looks for a cookie or a token here, and never believes a name.
local function authenticate(request)
  local name = decoded((request.query or ""):match("name=([^&]*)") or ""):match("^%s*(.-)%s*$")
  if #name < 1 or #name > NAME_BYTES_MAX or name:find("%c") then return nil, "a name has 1 to 24 letters", 400 end
  return { name = name }
end

local function on_connect(ctx)
  local name, port = ctx.identity.name, (ctx.request.headers.host or ""):match(":(%d+)$") or "80"
  local ok, message = ctx.presence:join { user_id = name, metadata = { at = port } }
  if not ok then
    ctx:send("refused", message)
    return ctx:close(1008, "refused")
  end
  ctx:send("welcome", { id = ctx.session_id, name = name, at = port })
end

local function on_message(ctx, message)
  local said = type(message.payload) == "table" and message.payload or {}
  local text, to = said.text, said.to
  if message.type ~= "say" or type(text) ~= "string" or text == "" then return ctx:send("refused", "say something") end
  if #text > TEXT_BYTES_MAX then return ctx:send("refused", "that is too long") end
  if to == nil then
    return ctx.presence:broadcast { message = { type = "said", payload = { from = ctx.user_id, text = text } } }
  end
  local whisper = { type = "whisper", payload = { from = ctx.user_id, to = to, text = text } }
  local ok, problem = ctx.presence:direct_to_user(to, whisper)
  if not ok then return ctx:send("refused", problem) end
  if to ~= ctx.user_id then ctx.presence:direct_to_user(ctx.user_id, whisper) end
end

return { authenticate = authenticate, on_connect = on_connect, on_message = on_message }
