-- name, owner, seen epoch, the epoch after it
local bucket, name = KEYS[1], ARGV[1]
local run = run_key(bucket, name)
local phase, epoch, owner, intent = unpack(redis.call('HMGET', run, 'phase', 'epoch', 'owner', 'intent'))
if phase ~= LIVE or epoch ~= ARGV[3] then return frame({'refused'}) end
drop_owned(bucket, owner, name)
add_owned(bucket, ARGV[2], name)
if intent then redis.call('HSET', intents_key(bucket, ARGV[2]), name, intent) end
redis.call('HSET', run, 'owner', ARGV[2], 'epoch', ARGV[4])
tell_if_watched(bucket, name)
return answer('taken', run)
