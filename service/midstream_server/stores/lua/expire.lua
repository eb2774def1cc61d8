-- name, expire_time, forget_time. Answers with the record as it was.
local bucket, name = KEYS[1], ARGV[1]
local run = run_key(bucket, name)
local phase, expire_time = unpack(redis.call('HMGET', run, 'phase', 'expire_time'))
-- A place of what is not there, or is not to expire then, would be found due for ever.
if phase ~= SEALED or expire_time ~= ARGV[2] then redis.call('ZREM', expiry_key(bucket), place(ARGV[2], name)) end
if not phase then return frame({'unknown'}) end
local before = answer('known', run)
if phase ~= SEALED then return before end
redis.call('ZREM', expiry_key(bucket), place(expire_time, name))
redis.call('ZADD', forget_key(bucket), 0, place(ARGV[3], name))
redis.call('HDEL', lists_key(bucket), name)
redis.call('HDEL', run, 'intent', 'place', 'summary', 'settlement', 'rests')
redis.call('HSET', run, 'phase', EXPIRED, 'expire_time', ARGV[2], 'forget_time', ARGV[3])
redis.call('UNLINK', log_key(bucket, name))
return before
