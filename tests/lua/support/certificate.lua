--- A certificate of this machine that vouches for itself, made by the command openssl.
--- SPDX-License-Identifier: MIT

local process = require("znl").process

--- Writes it and its key into a folder; raises without openssl, which the tests need. Yields.
---@param folder TestFolder
---@return string certificate  the file
---@return string key
return function(folder)
  local certificate, key = folder:at("certificate.pem"), folder:at("key.pem")
  local made, problem = process.run {
    "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
    "-keyout", key, "-out", certificate,
  }
  if not made then error("openssl cannot be run: " .. problem) end
  if made.code ~= 0 then error("openssl made no certificate: " .. made.stderr) end
  return certificate, key
end
