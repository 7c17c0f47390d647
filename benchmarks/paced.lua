-- SPDX-License-Identifier: Apache-2.0
-- As replay.lua, at a rate: each thread sends its share at even distances, by the wall
-- clock, however long answers take. wrk's own arguments: file, threads, requests a second.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "replay.lua")

local ffi = require("ffi")
ffi.cdef[[
  typedef struct { long sec; long usec; } tightseal_time;
  int gettimeofday(tightseal_time *now, void *zone);
]]

local replay = init

local function milliseconds()
  local now = ffi.new("tightseal_time")
  ffi.C.gettimeofday(now, nil)
  return tonumber(now.sec) * 1000 + tonumber(now.usec) / 1000
end

function init(args)
  replay(args)
  distance = 1000 * tonumber(args[2]) / tonumber(args[3])
  due = milliseconds()
end

function delay()
  due = due + distance
  return math.max(0, math.floor(due - milliseconds()))
end
