-- name
local run = run_key(KEYS[1], ARGV[1])
if redis.call('EXISTS', run) == 0 then return frame({'unknown'}) end
return answer('known', run)
