--- A function for shell scripts: `await_up FILE PID` waits until the process has written "up" into
--- the file its output goes to, or has ended. SPDX-License-Identifier: MIT

return [[await_up() { while kill -0 "$2" 2>/dev/null && ! grep -q up "$1"; do sleep 0.02; done; }
]]
