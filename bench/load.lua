-- The load for wrk. Environment: OBJECTS, PREFIX, SUFFIX, METHOD, and START for objects in order from there.
-- Without START the object is drawn at random, the same draw in every run. STRIDE takes them from all over the place
-- instead, each once. KEYS gives each request an idempotency key that begins with it. Ends with one line of JSON.
local objects = tonumber(os.getenv("OBJECTS"))
local prefix, suffix = os.getenv("PREFIX"), os.getenv("SUFFIX") or ""
local method = os.getenv("METHOD")
local start = tonumber(os.getenv("START") or "")
local stride, keys, count = tonumber(os.getenv("STRIDE") or "1"), os.getenv("KEYS"), 0
local made, next_one, asked = {}, start, false

local function make(number)
  local headers = nil
  if keys then
    count = count + 1
    headers = {["Idempotency-Key"] = keys .. "-" .. count}
    for name, value in pairs(wrk.headers) do headers[name] = value end
  end
  return wrk.format(method, prefix .. number .. suffix, headers)
end

function init()
  if not start then
    math.randomseed(20)
    if keys then return end
    for number = 0, objects - 1 do made[number] = make(number) end
  end
end

function request()
  if not start then
    local number = math.random(0, objects - 1)
    return made[number] or make(number)
  end
  if not asked then -- wrk asks once to look at the request and throws it away
    asked = true
    return make(start)
  end
  local number = next_one
  next_one = next_one + 1
  return make(number * stride % objects)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"refused":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
