-- SPDX-License-Identifier: Apache-2.0
-- Replays prebuilt request bodies, each once, until all were sent: a thread that has none
-- left asks for nothing that counts. Threads share one file: thread i of n takes every n-th body. wrk's own
-- arguments follow "--": file, number of threads.

local threads = {}

function setup(thread)
  thread:set("id", #threads)
  table.insert(threads, thread)
end

function init(args)
  bodies = {}
  local file, count = args[1], tonumber(args[2])
  local number = 0
  for line in io.lines(file) do
    if number % count == id then bodies[#bodies + 1] = line end
    number = number + 1
  end
  had = #bodies
  -- wrk asks the first thread for one request that it does not send.
  if id == 0 then had = had - 1 end
  at = 0
  answered = 0
  refused = 0
end

function request()
  at = at + 1
  local body = bodies[at]
  if body == nil then
    return wrk.format("GET", "/healthz")
  end
  return wrk.format("POST", "/v1/keys", {["Content-Type"] = "application/json"}, body)
end

function response(status, headers, body)
  -- What is asked when no body is left is not counted; its answer is short.
  if #body < 64 then return end
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
