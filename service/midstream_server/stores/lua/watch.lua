-- name. From now on what happens to this run is told.
local run = run_key(KEYS[1], ARGV[1])
if redis.call('HGET', run, 'phase') == LIVE then redis.call('HSET', run, 'watched', '1') end
return '1'
