-- name. With all its claims, however many.
local run = run_key(KEYS[1], ARGV[1])
if redis.call('EXISTS', run) == 0 then return frame({'unknown'}) end
return whole_answer('known', run)
