--- znlrun completion: prints completion scripts and the man page, for the build.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local completion = require("znl.cli.completion")
local manual = require("znl.cli.manual")

return command.new {
  name = "completion",
  hidden = true,
  summary = "Prints the completion script of a shell, or the man page made from a template.",
  examples = {
    { "source <(znlrun completion bash)", "completion in this shell" },
    { "znlrun completion man < docs/znlrun.1.in", "the man page" },
  },
  configure = function(parser)
    parser:argument("what", "Which one."):choices { "bash", "zsh", "man" }
  end,
  run = function(opts, out)
    if opts.what == "bash" then
      out:write(completion.bash())
    elseif opts.what == "zsh" then
      out:write(completion.zsh())
    else
      out:write(manual.man_page(io.stdin:read("*a")))
    end
  end,
}
