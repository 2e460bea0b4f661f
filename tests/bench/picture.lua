--- picture: bars of ratios as an SVG that reads well on a light and on a dark page. Pure text in, text out.
---
---     picture.bars {
---       title = "…", subtitle = "…", one = "raw libzmq",       -- what the line at 1 stands for
---       series = { { key = "own", name = "own engine" }, … },  -- three at most, in the order of their bars
---       panels = { { title = "…", hint = "longer is better", rows = {
---         { label = "…", detail = "…", own = 1.9, … }, … } } },
---     }
--- SPDX-License-Identifier: MIT

local M = {}

local WIDTH, MARGIN, LABELS = 880, 32, 266
local BAR, BAR_GAP, ROW_GAP, VALUE = 13, 3, 17, 58

--- The card has its own ground, so it is readable wherever it stands; it follows the reader's choice of light or dark.
local STYLE = [[
    .card { fill: #ffffff; stroke: #d5dae1; }
    text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: #1c2430; }
    .title { font-size: 21px; font-weight: 650; letter-spacing: -0.2px; }
    .muted { fill: #5d6876; font-size: 13px; }
    .panel { font-size: 14.5px; font-weight: 650; }
    .label { font-size: 13.5px; }
    .value { font-size: 12px; font-variant-numeric: tabular-nums; fill: #3b4654; }
    .value { paint-order: stroke; stroke: #ffffff; stroke-width: 4px; stroke-linejoin: round; }
    .tick { font-size: 11px; fill: #7a8593; }
    .grid { stroke: #e8ebef; }
    .one { stroke: #1c2430; stroke-dasharray: 4 3; stroke-width: 1.3; }
    .own { fill: #0b7d6e; } .sealed { fill: #6a56c8; } .other { fill: #b3bcc7; }
    .strong { font-weight: 650; fill: #0b6b5f; }
    @media (prefers-color-scheme: dark) {
      .card { fill: #10161d; stroke: #2c3641; }
      text { fill: #e6ebf1; }
      .muted { fill: #98a4b3; } .tick { fill: #7d8896; } .value { fill: #c3ccd7; stroke: #10161d; }
      .grid { stroke: #212a34; } .one { stroke: #e6ebf1; }
      .own { fill: #2fbfa9; } .sealed { fill: #9d8cf0; } .other { fill: #56616e; }
      .strong { fill: #4fd8c3; }
    }]]

local function escaped(text)
  return (text:gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }))
end

--- A coordinate without needless digits.
local function at(number) return ("%.1f"):format(number):gsub("%.0$", "") .. "" end

--- A ratio for people.
local function ratio_text(value) return (value < 10 and "%.2f×" or "%.1f×"):format(value) end

--- The end of the axis and the distance of its ticks, for bars up to `most`.
local function axis(most)
  most = math.max(most, 1.25)
  local step = most <= 2 and 0.5 or most <= 6 and 1 or most <= 12 and 2 or 5
  return math.max(most * 1.02, step), step
end

local Sheet = {}
Sheet.__index = Sheet

function Sheet:add(text, ...) self[#self + 1] = text:format(...) end

function Sheet:text(class, x, y, anchor, text)
  self:add('<text class="%s" x="%s" y="%s"%s>%s</text>', class, at(x), at(y),
    anchor and (' text-anchor="%s"'):format(anchor) or "", escaped(text))
end

local function legend(sheet, y, series)
  local x = MARGIN
  for _, each in ipairs(series) do
    sheet:add('<rect class="%s" x="%s" y="%s" width="12" height="12" rx="3"/>', each.class, at(x), at(y - 10.5))
    sheet:text("muted", x + 18, y, nil, each.name)
    x = x + 18 + #each.name * 7 + 22
  end
end

--- The rows of a panel from `y` on; returns where it ends.
local function panel(sheet, y, spec, series, one)
  local left, right = MARGIN + LABELS, WIDTH - MARGIN - VALUE
  local most = 0
  for _, row in ipairs(spec.rows) do
    for _, each in ipairs(series) do most = math.max(most, row[each.key] or 0) end
  end
  local last, step = axis(most)
  local function x_of(value) return left + (right - left) * value / last end
  sheet:text("panel", MARGIN, y, nil, spec.title)
  sheet:text("muted", WIDTH - MARGIN, y, "end", spec.hint)
  local top = y + 32
  local rows, heights = {}, 0
  for i, row in ipairs(spec.rows) do
    local bars = 0
    for _, each in ipairs(series) do bars = bars + (row[each.key] and 1 or 0) end
    -- Two lines of label need the height of two bars.
    rows[i] = { y = top + heights + 8, height = math.max(bars * (BAR + BAR_GAP) - BAR_GAP, 29), bars = bars }
    heights = heights + rows[i].height + ROW_GAP
  end
  local bottom = top + heights
  for value = 0, last, step do
    sheet:add('<line class="grid" x1="%s" x2="%s" y1="%s" y2="%s"/>', at(x_of(value)), at(x_of(value)), at(top),
      at(bottom))
    sheet:text("tick", x_of(value), bottom + 15, "middle", ("%g×"):format(value))
  end
  sheet:text("tick", x_of(1), top - 11, "middle", one)
  local values = {} -- written last: above the line at 1
  for i, row in ipairs(spec.rows) do
    local place = rows[i]
    local middle = place.y + place.height / 2
    sheet:text("label", MARGIN, middle - 2.5, nil, row.label)
    sheet:text("muted", MARGIN, middle + 13.5, nil, row.detail)
    local bar_y = middle - (place.bars * (BAR + BAR_GAP) - BAR_GAP) / 2
    for _, each in ipairs(series) do
      local value = row[each.key]
      if value then
        local width = math.max(x_of(value) - left, 2)
        sheet:add('<rect class="%s" x="%s" y="%s" width="%s" height="%s" rx="2.5"/>', each.class, at(left), at(bar_y),
          at(width), at(BAR))
        values[#values + 1] = { each.class == "own" and "value strong" or "value", left + width + 6, bar_y + 10.5, nil,
          ratio_text(value) }
        bar_y = bar_y + BAR + BAR_GAP
      end
    end
  end
  sheet:add('<line class="one" x1="%s" x2="%s" y1="%s" y2="%s"/>', at(x_of(1)), at(x_of(1)), at(top - 6), at(bottom))
  for _, value in ipairs(values) do sheet:text(unpack(value, 1, 5)) end
  return bottom + 15
end

--- The picture as text.
function M.bars(spec)
  local series, classes = {}, { "own", "sealed", "other" }
  for i, each in ipairs(spec.series) do
    series[i] = { key = each.key, name = each.name, class = each.class or classes[i] }
  end
  local sheet = setmetatable({}, Sheet)
  local y = MARGIN + 22
  sheet:text("title", MARGIN, y, nil, spec.title)
  sheet:text("muted", MARGIN, y + 23, nil, spec.subtitle)
  legend(sheet, y + 52, series)
  y = y + 92
  for i, each in ipairs(spec.panels) do
    if i > 1 then y = y + 44 end
    y = panel(sheet, y, each, series, spec.one)
  end
  local height = math.ceil(y + MARGIN - 4)
  return table.concat({
    ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">'):format(WIDTH,
      height, WIDTH, height),
    ("  <title>%s</title>"):format(escaped(spec.title)),
    ("  <desc>%s</desc>"):format(escaped(spec.subtitle)),
    "  <style>", STYLE, "  </style>",
    ('  <rect class="card" x="0.5" y="0.5" width="%d" height="%d" rx="12"/>'):format(WIDTH - 1, height - 1),
    "  " .. table.concat(sheet, "\n  "), "</svg>", "",
  }, "\n")
end

return M
