-- name, list entry: its lists are as they should be.
local key = lists_key(KEYS[1])
if redis.call('HGET', key, ARGV[1]) == ARGV[2] then redis.call('HDEL', key, ARGV[1]) end
return '1'
