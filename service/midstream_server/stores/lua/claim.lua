-- name, claim_id, replica
local bucket, name = KEYS[1], ARGV[1]
local run = run_key(bucket, name)
local phase = redis.call('HGET', run, 'phase')
if not phase then return frame({'unknown'}) end
if phase == LIVE then set_claim(bucket, name, ARGV[2], ARGV[3]) end
return answer('known', run)
