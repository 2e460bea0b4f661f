--- uv: another name of luv. SPDX-License-Identifier: MIT

return require("luv")
