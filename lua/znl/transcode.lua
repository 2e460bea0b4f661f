--- znl.transcode: values as processes of cluster-client exchange them (its default transcode, serialize-json).
---
---   undefined   nil; `znl.undefined` where nil cannot be: as an item of a list. Fields that are undefined are
---               left out when they are read
---   null        `znl.null`
---   bytes       `znl.bytes(text)`: a byte buffer; a string is text and must be UTF-8
---   date        `znl.date(unix_ms)`
---   error       `transcode.error { message =, name =, code =, stack = }`
---
--- Lists, null and whole numbers past 2^53 are those of znl.json.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.transcode")

local M = {}

--- Stands for undefined inside lists, where nil cannot be.
M.undefined = core.undefined

---@class znl.Bytes: userdata  bytes: tostring(), #, == with another
---@field sub fun(self, first?: integer, last?: integer): string

--- Bytes that are no text; they do not change.
---@type fun(text: string): znl.Bytes
M.bytes = core.bytes

---@class znl.Date
---@field ms number  milliseconds since 1970; NaN in what was read as an invalid date

--- A moment: tostring() is its text in ISO 8601, == compares the moments.
---@type fun(unix_ms: number): znl.Date
M.date = core.date

---@class znl.TranscodeError
---@field message? string
---@field name? string
---@field code? any
---@field stack? string

--- Marks a table, so that it arrives as an error; returns it. Raises when it has another metatable.
---@type fun(fields: table): znl.TranscodeError
M.error = core.error

--- Which of the types above a value is; nil for all others.
---@type fun(value: any): "bytes"|"date"|"error"|"undefined"|nil
M.kind = core.kind

--- The text of a value; the message says what cannot be written, and where: "a function at on_done".
---@type fun(value: any): string|nil, string?, "INVALID"|"NO_MEMORY"|"TOO_BIG"|nil
M.encode = core.encode

--- The value of a text: nil for undefined, and then there is no message.
---@type fun(text: string, max_depth?: integer): any, string?, "PROTO"|"LIMIT"|"TOO_BIG"|"NO_MEMORY"|nil
M.decode = core.decode

return M
