--- znl.project.shared: the files every new project has. {{…}} is filled in by `znlrun new`.
--- SPDX-License-Identifier: MIT

local M = {}

--- Path in the project -> text.
---@type table<string, string>
M.FILES = {}

M.FILES["{{name}}.service"] = [[
# systemd unit of {{name}}. To install it:
#
#   sudo cp -r . /opt/{{name}}                        the project; WorkingDirectory below
#   sudo cp {{name}}.service /etc/systemd/system/
#   sudo systemctl daemon-reload
#   sudo systemctl enable --now {{name}}
#   journalctl -u {{name}} -f                         its log

[Unit]
Description={{name}}, a znlrun service
Wants=network-online.target
After=network-online.target

[Service]
Type=simple
# Paths are absolute here. ProtectHome hides /home: install the project below /opt or /srv.
WorkingDirectory=/opt/{{name}}
ExecStart={{znlrun}} service.lua
ExecReload=/bin/kill -HUP $MAINPID
# Settings and keys, one NAME=value a line; mode 0600, owned by root. The file may be missing.
EnvironmentFile=-/etc/{{name}}.env
Restart=on-failure
RestartSec=1
# SIGTERM gives on_stop functions 5 s (--drain-ms), then a little time to end.
TimeoutStopSec=10
LimitNOFILE=65536
# Keys are locked in memory.
LimitMEMLOCK=64M

# A user of its own, made by systemd, that may write nowhere but below /var/lib/{{name}}.
DynamicUser=yes
StateDirectory={{name}}
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
# Not MemoryDenyWriteExecute=yes: LuaJIT compiles at run time.

[Install]
WantedBy=multi-user.target
]]

M.FILES[".luarc.json"] = [[
{
  "$schema": "https://raw.githubusercontent.com/LuaLS/vscode-lua/master/setting/schema.json",
  "runtime.version": "LuaJIT",
  "runtime.path": ["?.lua", "?/init.lua", "handlers/?.lua", "handlers/lib/?.lua"],
  "workspace.library": [{{library}}],
  "workspace.checkThirdParty": false
}
]]

M.FILES[".vscode/settings.json"] = [[
{
  "files.associations": { "*.msg.lua": "lua" },
  "editor.formatOnSave": false,
  "files.insertFinalNewline": true,
  "files.trimTrailingWhitespace": true
}
]]

M.FILES[".vscode/extensions.json"] = [[
{ "recommendations": ["sumneko.lua", "editorconfig.editorconfig"] }
]]

M.FILES[".editorconfig"] = [[
root = true

[*]
charset = utf-8
end_of_line = lf
indent_size = 2
indent_style = space
insert_final_newline = true
trim_trailing_whitespace = true

[*.md]
trim_trailing_whitespace = false
]]

M.FILES[".gitignore"] = [[
*.key
*.env
*.log
*~
.*.swp
]]

return M
