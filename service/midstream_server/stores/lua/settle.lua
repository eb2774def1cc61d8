-- name, settlement
local run = run_key(KEYS[1], ARGV[1])
if redis.call('HGET', run, 'phase') == SEALED then redis.call('HSET', run, 'settlement', ARGV[2]) end
return '1'
