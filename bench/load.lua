-- The load for wrk. Environment: OBJECTS, PREFIX, SUFFIX, METHOD, and START for objects in order from there.
-- Without START the object is drawn at random, the same draw in every run. Ends with one line of JSON.
local objects = tonumber(os.getenv("OBJECTS"))
local prefix, suffix = os.getenv("PREFIX"), os.getenv("SUFFIX") or ""
local method = os.getenv("METHOD")
local start = tonumber(os.getenv("START") or "")
local made, next_one, asked = {}, start, false

local function make(number)
  return wrk.format(method, prefix .. number .. suffix)
end

function init()
  if not start then
    for number = 0, objects - 1 do made[number] = make(number) end
    math.randomseed(20)
  end
end

function request()
  if not start then return made[math.random(0, objects - 1)] end
  if not asked then -- wrk asks once to look at the request and throws it away
    asked = true
    return make(start)
  end
  local number = next_one
  next_one = next_one + 1
  return make(number % objects)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"refused":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
