-- name. Takes back an early cancel that is one too many, unless a start has met it.
local bucket, name = KEYS[1], ARGV[1]
local run = run_key(bucket, name)
local phase, fingerprint, expire_time = unpack(redis.call('HMGET', run, 'phase', 'fingerprint', 'expire_time'))
if phase ~= SEALED or fingerprint ~= '' then return '0' end
redis.call('DEL', run, log_key(bucket, name))
redis.call('ZREM', expiry_key(bucket), place(expire_time, name))
redis.call('HDEL', lists_key(bucket), name)
return '1'
