-- name, fingerprint, owner, claim_id, entry, list entry, fields of the new record...
local bucket, name, fingerprint, owner, claim_id = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local run = run_key(bucket, name)
local phase, known = unpack(redis.call('HMGET', run, 'phase', 'fingerprint'))
if not phase then
  set_fields(run, 7)
  set_claim(bucket, name, claim_id, owner)
  add_owned(bucket, owner, name)
  write_log(bucket, name, '1', ARGV[5])
  redis.call('HSET', lists_key(bucket), name, ARGV[6])
  return answer('created', run)
end
if phase == EXPIRED then return answer('expired', run) end
if known == '' then
  redis.call('HSET', run, 'fingerprint', fingerprint)
  return answer('met', run)
end
if known ~= fingerprint then return answer('conflict', run) end
if phase == SEALED then return answer('ended', run) end
set_claim(bucket, name, claim_id, owner)
return answer('attached', run)
