-- name. Answers the end of a sealed run's log, or ''.
local bucket, name = KEYS[1], ARGV[1]
local phase, rests = unpack(redis.call('HMGET', run_key(bucket, name), 'phase', 'rests'))
if phase ~= SEALED then return '' end
if rests then return redis.call('GET', log_key(bucket, name)) end
local found = redis.call('XREVRANGE', log_key(bucket, name), '+', '-', 'COUNT', 1)
return found[1] and found[1][2][2] or ''
