-- name, forget_time
local bucket, name = KEYS[1], ARGV[1]
local run = run_key(bucket, name)
local phase, forget_time = unpack(redis.call('HMGET', run, 'phase', 'forget_time'))
redis.call('ZREM', forget_key(bucket), place(ARGV[2], name))
if phase ~= EXPIRED or forget_time ~= ARGV[2] then return '0' end
redis.call('DEL', run)
return '1'
