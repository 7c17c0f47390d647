-- SPDX-License-Identifier: Apache-2.0
-- As replay.lua, at a rate: each thread sends its share at even distances, by the wall
-- clock, however long answers take. wrk's own arguments: file, threads, requests a second.

local ffi = require("ffi")
ffi.cdef[[
  typedef struct { long sec; long usec; } tightseal_time;
  int gettimeofday(tightseal_time *now, void *zone);
]]

local threads = {}

function setup(thread)
  thread:set("id", #threads)
  table.insert(threads, thread)
end

local function milliseconds()
  local now = ffi.new("tightseal_time")
  ffi.C.gettimeofday(now, nil)
  return tonumber(now.sec) * 1000 + tonumber(now.usec) / 1000
end

function init(args)
  bodies = {}
  local file, count, rate = args[1], tonumber(args[2]), tonumber(args[3])
  local number = 0
  for line in io.lines(file) do
    if number % count == id then bodies[#bodies + 1] = line end
    number = number + 1
  end
  had = #bodies
  at = 0
  answered = 0
  refused = 0
  distance = 1000 * count / rate
  due = milliseconds()
end

function delay()
  due = due + distance
  return math.max(0, math.floor(due - milliseconds()))
end

function request()
  at = at + 1
  local body = bodies[at]
  if body == nil then
    return wrk.format("GET", "/healthz")
  end
  return wrk.format("POST", "/v1/keys", {["Content-Type"] = "application/json"}, body)
end

function response(status)
  if status == 200 then answered = answered + 1 else refused = refused + 1 end
end

function done(summary, latency, requests)
  local answered_all, refused_all, short = 0, 0, 0
  for _, thread in ipairs(threads) do
    answered_all = answered_all + thread:get("answered")
    refused_all = refused_all + thread:get("refused")
    if thread:get("at") > thread:get("had") then short = short + 1 end
  end
  io.write(string.format(
    '{"answered": %d, "seconds": %.6f, "refused": %d, "short": %d, ' ..
    '"errors": %d, "p50_us": %.1f, "p99_us": %.1f}\n',
    answered_all, summary.duration / 1e6, refused_all, short,
    summary.errors.connect + summary.errors.read + summary.errors.write
      + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
