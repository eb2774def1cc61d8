-- name, claim_id, reason, now, intent
local bucket, name, claim_id = KEYS[1], ARGV[1], ARGV[2]
local run = run_key(bucket, name)
local phase, replica, action, grace, intent =
  unpack(redis.call('HMGET', run, 'phase', 'claim:' .. claim_id, 'action', 'grace', 'intent'))
if not phase then return frame({'unknown'}) end
if phase ~= LIVE or not replica then return answer('known', run) end
redis.call('HDEL', run, 'claim:' .. claim_id)
drop_claim(bucket, replica, name, claim_id)
if redis.call('HINCRBY', run, 'claims', -1) == 0 then
  if action == GRACE then
    redis.call('HSET', run, 'detach_time', add_instants(ARGV[4], grace), 'detach_reason', ARGV[3])
  elseif action == CANCEL and not intent then
    set_intent(bucket, name, ARGV[5])
  end
end
return answer('known', run)
