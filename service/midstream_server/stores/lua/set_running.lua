-- name, epoch, state QUEUED, state RUNNING, now
local bucket, name = KEYS[1], ARGV[1]
local run = run_key(bucket, name)
local phase, epoch, state = unpack(redis.call('HMGET', run, 'phase', 'epoch', 'state'))
if phase ~= LIVE or epoch ~= ARGV[2] then return '0' end
if state == ARGV[3] then
  redis.call('HSET', run, 'state', ARGV[4], 'start_time', ARGV[5])
  tell_if_watched(bucket, name)
end
return '1'
