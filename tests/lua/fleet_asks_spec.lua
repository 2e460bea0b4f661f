--- When a master asks again, and what it tells the others: against masters made up here. SPDX-License-Identifier: MIT

local has_core, asks = pcall(require, "znl.fleet.asks")
local letters = has_core and require("znl.fleet.letters")
local sched = has_core and require("znl.core.sched")
local znl = has_core and require("znl")

describe("requests through other masters", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local places, sent, answers, online, bad, core_calls

  --- A fleet of which only the other masters' answers are made up: `answers[owner]` is what that one writes, nil and
  --- a code when the bus fails, or a function.
  local function fleet_of(max_in_flight)
    local fleet = {
      opts = { max_in_flight = max_in_flight or 10 }, origin = "me", log = { warn = function() end },
      letters = letters.new { origin = "me" },
      core = {
        is_online = function(_, id) return online[id] == true end,
        request = function(_, ...)
          core_calls[#core_calls + 1] = { ... }
          return "done here"
        end,
      },
      directory = {
        find = function()
          local owner = table.remove(places, 1)
          return owner and { owner = owner, master = "master-" .. owner, is_own = owner == "me" }
        end,
      },
    }
    function fleet.subject(_, rest) return "fleet." .. rest end
    function fleet.fits(_, size)
      if size <= 10000 then return true end
      return false, size .. " bytes are too many"
    end
    function fleet.report_bad() bad = bad + 1 end
    fleet.bus = {
      request = function(_, subject, text, opts)
        local owner = subject:match("%.(%w+)$")
        local question = assert(letters.new({ origin = owner }):read(subject, text))
        sent[#sent + 1] = { owner = owner, kind = question.kind, timeout_ms = opts.timeout_ms }
        local answer = answers[owner]
        if type(answer) == "function" then answer = answer(question, opts) end
        if type(answer) == "string" then return nil, "the bus says " .. answer, answer end
        local fields = { number = question.number }
        for name, value in pairs(answer) do fields[name] = value end
        local writer = letters.new { origin = answer.origin or owner }
        return { data = writer:write(letters.question("me", question.number), answer.kind or "answer", fields) }
      end,
      publish = function(_, subject, text)
        local owner = subject:match("%.(%w+)$")
        local letter = assert(letters.new({ origin = owner }):read(subject, text))
        sent[#sent + 1] = { owner = owner, kind = letter.kind, name = letter.name }
        return true
      end,
    }
    return fleet
  end

  local function ask(fleet, payload)
    return asks.new(fleet):ask({
      what = "request", kind = "request", payload = payload or "x", ends_ms = sched.now_ms() + 5000,
    }, "s")
  end

  before_each(function()
    places, sent, answers, online, bad, core_calls = {}, {}, {}, {}, 0, {}
  end)

  it("go to the master that has the slave", function()
    places, answers = { "a" }, { a = { payload = "yes" } }
    assert.same({ true, "yes" }, { ask(fleet_of()) })
    assert.equal(1, #sent)
    assert.is_true(sent[1].timeout_ms > 0 and sent[1].timeout_ms <= 5000)
  end)

  it("are not for slaves that no master has, or this one", function()
    assert.same({ false }, { ask(fleet_of()) })
    places = { "me" }
    assert.same({ false }, { ask(fleet_of()) })
    assert.equal(0, #sent)
  end)

  for name, answer in pairs {
    ["when nobody is there"] = "UNREACHABLE",
    ["when the slave is elsewhere"] = { is_error = true, is_elsewhere = true, slave_id = "UNREACHABLE", name = "gone" },
  } do
    it("look once more " .. name, function()
      places, answers = { "a", "b" }, { a = answer, b = { payload = "yes" } }
      assert.same({ true, "yes" }, { ask(fleet_of()) })
      assert.equal(2, #sent)
      -- The same master again, no master: it stays with the failure.
      for _, second in ipairs { "a", false } do
        places, sent = { "a", second or nil }, {}
        local is_known, reply, _, code = ask(fleet_of())
        assert.same({ true, "nil", "UNREACHABLE" }, { is_known, tostring(reply), code })
        assert.equal(1, #sent)
      end
      -- A third master is not asked.
      places, sent, answers.b = { "a", "b", "c" }, {}, answer
      assert.equal("UNREACHABLE", select(4, ask(fleet_of())))
      assert.equal(2, #sent)
      -- It came here meanwhile.
      places, sent, online.s = { "a" }, {}, true
      assert.same({ false }, { ask(fleet_of()) })
    end)
  end

  it("are never asked again when they may have been done", function()
    for _, answer in ipairs {
      "TIMEOUT", "OFFLINE", "CLOSED", { is_error = true, slave_id = "GONE", name = "it went" },
      { is_error = true, slave_id = "TIMEOUT", name = "no answer" },
      { is_error = true, slave_id = "OVERLOADED", name = "full" },
    } do
      places, sent, answers = { "a", "b" }, {}, { a = answer, b = { payload = "yes" } }
      local is_known, reply, message, code = ask(fleet_of())
      assert.is_true(is_known)
      assert.is_nil(reply)
      assert.equal(type(answer) == "string" and answer or answer.slave_id, code)
      assert.is_truthy(message)
      assert.equal(1, #sent)
    end
  end)

  it("end with PROTO when the answer is none", function()
    for _, answer in ipairs {
      { payload = "yes", kind = "publish" }, { payload = "yes", origin = "b" }, { payload = "yes", number = 77 },
      { is_error = true, slave_id = "NO CODE", name = "x" }, { is_error = true, slave_id = ("A"):rep(65), name = "x" },
    } do
      places, answers = { "a" }, { a = answer }
      assert.equal("PROTO", select(4, ask(fleet_of())))
    end
    assert.equal(3, bad)
  end)

  it("are refused when they are too big, or too many", function()
    places = { "a" }
    local _, reply, message, code = ask(fleet_of(), ("x"):rep(10000))
    assert.same({ "nil", "TOO_BIG" }, { tostring(reply), code })
    assert.is_truthy(message:find("slave s is with master master-a", 1, true), message)
    assert.equal(0, #sent)
    places = { "a" }
    local full = fleet_of(1)
    local waiting = asks.new(full)
    waiting.waiting = 1
    assert.equal("LIMIT", select(4, waiting:ask({
      what = "request", kind = "request", payload = "x", ends_ms = sched.now_ms() + 5000,
    }, "s")))
    assert.equal(0, #sent)
  end)

  it("take the cancellation along", function()
    for _, code in ipairs { "CANCELLED", "DEADLINE" } do
      places, sent, answers = { "a", "b" }, {}, { a = code }
      assert.equal(code, select(4, ask(fleet_of())))
      assert.same({ "request", "cancel" }, { sent[1].kind, sent[2].kind })
      assert.equal("a", sent[2].owner)
    end
  end)

  it("end with GONE when the slave leaves the master that was asked", function()
    local fleet = fleet_of()
    local asked = asks.new(fleet)
    fleet.bus.request = function()
      local ok, message, code = sched.sleep(60000)
      if not ok then return nil, message, code end
    end
    local codes = {}
    local tasks = {}
    for index, owner in ipairs { "a", "a", "b" } do
      places = { owner }
      tasks[index] = znl.spawn(function()
        codes[index] = select(4, asked:ask({
          what = "request", kind = "request", payload = "x", ends_ms = sched.now_ms() + 60000,
        }, "s"))
      end)
    end
    asked:gone("t", "a")
    asked:gone("s", "c")
    asked:gone("s", "a")
    tasks[1]:wait()
    tasks[2]:wait()
    assert.same({ "GONE", "GONE" }, codes)
    assert.equal(1, asked.waiting)
    asked:gone("s", "b")
    tasks[3]:wait()
    assert.same({ "GONE", "GONE", "GONE" }, codes)
    assert.same({ 0, {} }, { asked.waiting, asked.places })
  end)

  local function serve(fleet, served, question, reply)
    local answer
    local text = letters.new({ origin = "a" }):write("fleet.ask.me", question.kind, question)
    served:serve {
      subject = "fleet.ask.me", data = question.raw or text, reply = reply ~= false and "inbox" or nil,
      respond = function(_, data)
        answer = assert(letters.new({ origin = "a" }):read(letters.question("a", 1), data))
        return true
      end,
    }
    return answer, fleet
  end

  it("are done for slaves of this master only", function()
    local fleet = fleet_of()
    local served = asks.new(fleet)
    local answer = serve(fleet, served, { kind = "request", slave_id = "s", payload = "x", timeout_ms = 500 })
    assert.is_true(answer.is_error and answer.is_elsewhere)
    online.s = true
    answer = serve(fleet, served, { kind = "request", slave_id = "s", payload = "x", timeout_ms = 500 })
    assert.equal("done here", answer.payload)
    assert.same({ { "s", "x", 500 } }, core_calls)
    fleet.core.request = function() error("route must begin with /") end
    answer = serve(fleet, served, { kind = "request", slave_id = "s", payload = "x", timeout_ms = 500 })
    assert.same({ true, false, "INVALID" }, { answer.is_error, answer.is_elsewhere, answer.slave_id })
    fleet.core.request = function() return ("x"):rep(20000) end
    answer = serve(fleet, served, { kind = "request", slave_id = "s", payload = "x", timeout_ms = 500 })
    assert.same({ true, false, "TOO_BIG" }, { answer.is_error, answer.is_elsewhere, answer.slave_id })
    served.serving = 10
    answer = serve(fleet, served, { kind = "request", slave_id = "s", payload = "x", timeout_ms = 500 })
    assert.same({ true, false, "OVERLOADED" }, { answer.is_error, answer.is_elsewhere, answer.slave_id })
    assert.equal(10, served.serving)
  end)

  it("are answered also when the master stopped meanwhile", function()
    local real = require("znl.fleet").new({ log = {} }, { name = "n" })
    assert.is_nil(real.bus)
    assert.is_true(real:fits(1000))
  end)

  it("from elsewhere that are no questions do nothing", function()
    local fleet = fleet_of()
    local served = asks.new(fleet)
    online.s = true
    for _, question in ipairs {
      { kind = "publish", slave_id = "s" }, { kind = "answer", slave_id = "s" }, { kind = "request", raw = "hello" },
    } do
      assert.is_nil((serve(fleet, served, question)))
    end
    assert.is_nil((serve(fleet, served, { kind = "request", slave_id = "s" }, false))) -- nowhere to answer
    assert.is_nil((serve(fleet, served, { kind = "cancel", name = "12" }))) -- of none
    assert.equal(4, bad)
    assert.equal(0, #core_calls)
  end)

  it("end when the asker gives them up", function()
    local fleet = fleet_of()
    local served = asks.new(fleet)
    online.s = true
    fleet.core.request = function()
      local ok, message, code = sched.sleep(60000)
      if not ok then return nil, message, code end
      return "too late"
    end
    local answer
    local work = assert(znl.spawn(function()
      answer = serve(fleet, served, { kind = "request", slave_id = "s", payload = "x", timeout_ms = 60000 })
    end))
    assert.equal(1, served.serving)
    serve(fleet, served, { kind = "cancel", name = "1" })
    work:wait()
    assert.same({ true, "CANCELLED" }, { answer.is_error, answer.slave_id })
    assert.same({ 0, 1 }, { served.serving, served.counters.cancelled })
  end)
end)
