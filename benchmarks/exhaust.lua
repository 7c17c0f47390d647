-- SPDX-License-Identifier: Apache-2.0
-- As replay.lua, until all were sent: a thread that has none left asks for nothing that
-- counts. wrk's own arguments follow "--": file, number of threads.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "replay.lua")

local replay = init

function init(args)
  replay(args)
  -- wrk asks the first thread for one request that it does not send.
  if id == 0 then had = had - 1 end
end

function response(status, headers, body)
  -- What is asked when no body is left is not counted; its answer is short.
  if #body < 64 then return end
  if status == 200 then answered = answered + 1 else refused = refused + 1 end
end
