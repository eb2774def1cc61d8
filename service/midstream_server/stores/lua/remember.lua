-- run_id, request_time and expire_time in seconds, limit. Counts an early cancel of this tenant, if there is room.
local key = KEYS[1]
if redis.call('ZSCORE', key, ARGV[1]) then return '1' end
redis.call('ZREMRANGEBYSCORE', key, '-inf', ARGV[2])
if redis.call('ZCARD', key) >= tonumber(ARGV[4]) then return '0' end
redis.call('ZADD', key, ARGV[3], ARGV[1])
return '1'
