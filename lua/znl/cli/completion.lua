--- znl.cli.completion: what bash and zsh need to complete a znlrun command line.
--- SPDX-License-Identifier: MIT

local manual = require("znl.cli.manual")

local M = {}

-- --- bash ---------------------------------------------------------------------------------------

--- "--key=reference --json -v": what the script below takes apart.
local function bash_options(options)
  local words = {}
  for _, option in ipairs(options) do
    for _, name in ipairs(option.names) do
      local kind = option.kind
      if kind == "choice" then kind = table.concat(option.choices, ",") end
      words[#words + 1] = kind and name .. "=" .. kind or name
    end
  end
  return table.concat(words, " ")
end

local function bash_arguments(arguments)
  local words = {}
  for _, argument in ipairs(arguments) do
    local kind = argument.kind == "choice" and table.concat(argument.choices, ",") or argument.kind
    words[#words + 1] = argument.is_many and kind .. "*" or kind
  end
  return table.concat(words, " ")
end

local BASH = [=[
# bash completion for znlrun. Made by `znlrun completion bash`.

# Adds what begins with the word under the cursor. A kind is file, folder, reference, payload,
# endpoint, shell, tool, script, text (nothing is known) or the values there are: one,two.
_znlrun_add() {
    local IFS=$'\n'
    case $1 in
        text) ;;
        file) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")) ;;
        folder) compopt -o filenames; COMPREPLY+=($(compgen -d -- "$cur")) ;;
        script)
            compopt -o filenames
            COMPREPLY+=($(compgen -f -X '!*.lua' -- "$cur") $(compgen -d -- "$cur")) ;;
        reference)
            case $cur in
                env:*) COMPREPLY+=($(compgen -P env: -e -- "${cur#env:}")) ;;
                file:*) COMPREPLY+=($(compgen -P file: -f -- "${cur#file:}")) ;;
                *) compopt -o nospace; COMPREPLY+=($(compgen -W $'env:\nfile:' -- "$cur")) ;;
            esac ;;
        payload) [[ $cur != @* ]] || COMPREPLY+=($(compgen -P @ -f -- "${cur#@}")) ;;
        endpoint) compopt -o nospace; COMPREPLY+=($(compgen -W $'tcp://127.0.0.1:\nipc:///' -- "$cur")) ;;
        tool) COMPREPLY+=($(compgen -W $'@TOOL_LINES@' -- "$cur")) ;;
        *) COMPREPLY+=($(compgen -W "${1//,/$'\n'}" -- "$cur")) ;;
    esac
}

# Adds option names, or the values of the option before the cursor; fails when neither is due.
_znlrun_option() {
    local option names=
    for option in $1; do
        names+="${option%%=*} "
        if [[ $option == "$prev"=* ]]; then
            _znlrun_add "${option#*=}"
            return 0
        fi
    done
    [[ $cur == -* ]] || return 1
    COMPREPLY+=($(compgen -W "$names" -- "$cur"))
}

_znlrun() {
    # By white space: readline breaks words at colons too, of which endpoints are full.
    local line=${COMP_LINE:0:COMP_POINT} words word cur prev tool= options= arguments= option
    local -i at=1 place=0
    COMPREPLY=()
    IFS=$' \t\n' read -ra words <<< "$line"
    [[ $line != *[[:space:]] ]] || words+=("")
    cur=${words[${#words[@]} - 1]}
    prev=${words[${#words[@]} - 2]}

    options="@OPTIONS@"
    while ((at < ${#words[@]} - 1)); do
        word=${words[at]}
        at+=1
        case " $options " in
            *" $word="*) at+=1 ;;
            *) if [[ $word != -* ]]; then tool=$word; break; fi ;;
        esac
    done
    if [[ -z $tool ]]; then
        if ! _znlrun_option "$options"; then
            _znlrun_add tool
            _znlrun_add script
        fi
    else
        options=
        case $tool in
@TOOLS@
            help) arguments="tool" ;;
            *) compopt -o default ;;
        esac
        if [[ -n $options$arguments ]] && ! _znlrun_option "$options"; then
            # Which argument it is: those before it are no options and no values of options.
            while ((at < ${#words[@]} - 1)); do
                word=${words[at]}
                at+=1
                case " $options " in
                    *" $word="*) at+=1 ;;
                    *) [[ $word == -?* ]] || place+=1 ;;
                esac
            done
            for option in $arguments; do
                if ((place == 0)) || [[ $option == *"*" ]]; then
                    _znlrun_add "${option%"*"}"
                    break
                fi
                place+=-1
            done
        fi
    fi

    # What stands before the last colon is not replaced by readline.
    if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
        local prefix=${cur%"${cur##*:}"}
        COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    fi
}

complete -F _znlrun znlrun
]=]

---@return string
function M.bash()
  local names, cases = {}, {}
  for _, tool in ipairs(manual.read_all()) do
    names[#names + 1] = tool.name
    cases[#cases + 1] = ('            %s)\n                options="%s"\n                arguments="%s" ;;'):format(
      tool.name, bash_options(tool.options), bash_arguments(tool.arguments))
  end
  names[#names + 1] = "help"
  return (BASH:gsub("@(%u[%u_]+)@", {
    TOOL_LINES = table.concat(names, "\\n"),
    OPTIONS = bash_options(manual.OPTIONS),
    TOOLS = table.concat(cases, "\n"),
  }))
end

-- --- zsh ----------------------------------------------------------------------------------------

--- Into single quotes of zsh, with what `_arguments` reads taken literally.
local function zsh_text(text)
  return (text:gsub("[%[%]:\\]", "\\%0"):gsub("'", "'\\''"):gsub("%s*\n%s*", " "))
end

local ZSH_ACTIONS = {
  file = "_files", folder = "_files -/", reference = "_znlrun_reference", payload = "_znlrun_payload",
  endpoint = "_znlrun_endpoint", shell = "(bash zsh)", text = " ",
}

local function zsh_action(parameter)
  if parameter.kind == "choice" then return "(" .. table.concat(parameter.choices, " ") .. ")" end
  return ZSH_ACTIONS[parameter.kind]
end

local function zsh_option(option)
  local names = option.names
  local head = #names > 1 and ("'(%s)'{%s}'"):format(table.concat(names, " "), table.concat(names, ","))
      or "'" .. names[1]
  local action = ""
  if option.value then action = (":%s:%s"):format(zsh_text(option.value:gsub("[<>]", "")), zsh_action(option)) end
  return ("%s[%s]%s'"):format(head, zsh_text(option.text), action)
end

local function zsh_argument(argument)
  return ("'%s:%s:%s'"):format(argument.is_many and "*" or "", argument.names[1], zsh_action(argument))
end

local ZSH = [=[
#compdef znlrun
# zsh completion for znlrun. Made by `znlrun completion zsh`.

_znlrun_reference() {
  if compset -P env:; then
    _parameters -g '*export*'
  elif compset -P file:; then
    _files
  else
    compadd -S '' env: file:
  fi
}

_znlrun_payload() {
  if compset -P @; then _files; else _message 'text, @FILE or - for standard input'; fi
}

_znlrun_endpoint() {
  compadd -S '' tcp://127.0.0.1: ipc:///
}

_znlrun_tools() {
  local -a tools=(
@TOOL_LINES@
    'help:Explains a tool.'
  )
  _describe -t tools tool tools
}

_znlrun_first() {
  _alternative 'tools:tool:_znlrun_tools' 'files:script:_files -g "*.lua"'
}

_znlrun() {
  local context state state_descr line
  typeset -A opt_args
  _arguments -C -S -A '-*' \
@OPTIONS@
    '1:script or tool:_znlrun_first' \
    '*::argument:->rest' && return
  [[ $state == rest ]] || return 1
  case $words[1] in
@TOOLS@
    help) _arguments '1:tool:_znlrun_tools' ;;
    *) _files ;;
  esac
}

_znlrun "$@"
]=]

---@return string
function M.zsh()
  local names, options, cases = {}, {}, {}
  for _, option in ipairs(manual.OPTIONS) do options[#options + 1] = "    " .. zsh_option(option) .. " \\" end
  for _, tool in ipairs(manual.read_all()) do
    names[#names + 1] = ("    '%s:%s'"):format(tool.name, zsh_text(tool.summary))
    local lines = { ("    %s)\n      _arguments -s -S"):format(tool.name) }
    for _, option in ipairs(tool.options) do lines[#lines + 1] = "        " .. zsh_option(option) end
    for _, argument in ipairs(tool.arguments) do lines[#lines + 1] = "        " .. zsh_argument(argument) end
    cases[#cases + 1] = table.concat(lines, " \\\n") .. "\n      ;;"
  end
  return (ZSH:gsub("@(%u[%u_]+)@", {
    TOOL_LINES = table.concat(names, "\n"),
    OPTIONS = table.concat(options, "\n"),
    TOOLS = table.concat(cases, "\n"),
  }))
end

return M
