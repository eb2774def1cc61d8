-- name, digest of the record as it was read or '', list entry, owner, expire_time or '', number of claims, claims (id and
-- replica), number of batches, batches (last sequence and entries), fields of the record...
local bucket, name = KEYS[1], ARGV[1]
local run = run_key(bucket, name)
local phase, owner, expire_time = unpack(redis.call('HMGET', run, 'phase', 'owner', 'expire_time'))

-- The order in which a server tells many fields changes by itself, while their table grows.
local function digest_of(items)
  local digests = {}
  for at = 1, #items, 2 do digests[#digests + 1] = redis.sha1hex(frame({items[at], items[at + 1]})) end
  table.sort(digests)
  return redis.sha1hex(table.concat(digests))
end

local digest = phase and digest_of(redis.call('HGETALL', run)) or ''
if digest ~= ARGV[2] then return 'changed' end
if phase then
  clear_claims(bucket, name)
  drop_owned(bucket, owner, name)
  if expire_time then redis.call('ZREM', expiry_key(bucket), place(expire_time, name)) end
end
redis.call('DEL', run)
redis.call('UNLINK', log_key(bucket, name))
local claims = tonumber(ARGV[6])
local batches = tonumber(ARGV[7 + 2 * claims])
set_fields(run, 8 + 2 * claims + 2 * batches)
for at = 7, 5 + 2 * claims, 2 do put_claim(bucket, name, ARGV[at], ARGV[at + 1]) end
for at = 8 + 2 * claims, 6 + 2 * claims + 2 * batches, 2 do write_log(bucket, name, ARGV[at], ARGV[at + 1]) end
if ARGV[5] == '' then
  add_owned(bucket, ARGV[4], name)
  redis.call('HSET', run, 'watched', '1')
  local intent = redis.call('HGET', run, 'intent')
  if intent then redis.call('HSET', intents_key(bucket, ARGV[4]), name, intent) end
else
  redis.call('ZADD', expiry_key(bucket), 0, place(ARGV[5], name))
end
redis.call('HSET', lists_key(bucket), name, ARGV[3])
tell_moved(bucket, name)
return 'restored'
