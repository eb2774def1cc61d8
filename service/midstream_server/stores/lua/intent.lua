-- name, intent, unclaimed_since or '', then, to remember it of an unknown run: entries, expire_time,
-- list entry, fields of the new record...
local bucket, name, since = KEYS[1], ARGV[1], ARGV[3]
local run = run_key(bucket, name)
local phase, fingerprint, intent, claims, detach_time =
  unpack(redis.call('HMGET', run, 'phase', 'fingerprint', 'intent', 'claims', 'detach_time'))
if not phase then
  if since ~= '' or #ARGV == 3 then return frame({'unknown'}) end
  set_fields(run, 7)
  redis.call('SET', log_key(bucket, name), ARGV[4])
  redis.call('HSET', run, 'rests', '1')
  redis.call('ZADD', expiry_key(bucket), 0, place(ARGV[5], name))
  redis.call('HSET', lists_key(bucket), name, ARGV[6])
  return answer('remembered', run)
end
if phase == EXPIRED then return answer('expired', run) end
if phase == SEALED then return answer(fingerprint == '' and 'remembered' or 'ended', run) end
if intent then return answer('already', run) end
if since ~= '' and not (claims == '0' and detach_time and pad(detach_time) <= pad(since)) then
  return answer('claimed', run)
end
set_intent(bucket, name, ARGV[2])
return answer('recorded', run)
