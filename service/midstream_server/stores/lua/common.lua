-- What the scripts share. A bucket is the common beginning of its keys, as midstream:{2a}; a run's name is tenant/run_id.
-- Instants are decimal text of nanoseconds: as numbers they would lose their last digits.
local LIVE, SEALED, EXPIRED = '1', '2', '3'
local CANCEL, GRACE = '1', '3'

local function run_key(bucket, name) return bucket .. ':run:' .. name end
local function log_key(bucket, name) return bucket .. ':log:' .. name end
local function owned_key(bucket, replica) return bucket .. ':owned:' .. replica end
local function claims_key(bucket, replica) return bucket .. ':claims:' .. replica end
local function intents_key(bucket, replica) return bucket .. ':intents:' .. replica end
local function replicas_key(bucket) return bucket .. ':replicas' end
local function expiry_key(bucket) return bucket .. ':expiry' end
local function forget_key(bucket) return bucket .. ':forget' end
local function lists_key(bucket) return bucket .. ':lists' end

local function frame(items)
  local pieces = {}
  for _, item in ipairs(items) do
    pieces[#pieces + 1] = struct.pack('>I4', #item)
    pieces[#pieces + 1] = item
  end
  return table.concat(pieces)
end

-- An outcome, and all fields of the record as it now is.
local function whole_answer(outcome, run)
  local items = redis.call('HGETALL', run)
  table.insert(items, 1, outcome)
  return frame(items)
end

local MANY_CLAIMS = 32
local FIELDS = {
  'phase', 'state', 'fingerprint', 'epoch', 'owner', 'last', 'action', 'made', 'place', 'summary', 'settlement', 'intent',
  'detach_time', 'detach_reason', 'start_time', 'end_time', 'expire_time', 'forget_time'
}

-- The same; without the claims if there are many: each of ten thousand readers would be told of all the others.
local function answer(outcome, run)
  if tonumber(redis.call('HGET', run, 'claims') or 0) <= MANY_CLAIMS then return whole_answer(outcome, run) end
  local items = {outcome}
  for at, value in ipairs(redis.call('HMGET', run, unpack(FIELDS))) do
    if value then
      items[#items + 1] = FIELDS[at]
      items[#items + 1] = value
    end
  end
  return frame(items)
end

local function pad(instant) return string.rep('0', 20 - #instant) .. instant end

local function place(instant, name) return pad(instant) .. '/' .. name end

local function add_instants(first, second)
  first, second = pad(first), pad(second)
  local low = tonumber(first:sub(12)) + tonumber(second:sub(12))
  local high = tonumber(first:sub(1, 11)) + tonumber(second:sub(1, 11))
  if low >= 1000000000 then low, high = low - 1000000000, high + 1 end
  return (string.format('%.0f%09.0f', high, low):gsub('^0+(%d)', '%1'))
end

local function tell_moved(bucket, name)
  redis.call(PUBLISH, bucket .. ':moved:' .. name, name)
end

local function tell_if_watched(bucket, name)
  if redis.call('HEXISTS', run_key(bucket, name), 'watched') == 1 then tell_moved(bucket, name) end
end

local function write_log(bucket, name, last, entries)
  redis.call('XADD', log_key(bucket, name), last .. '-0', 'e', entries)
end

-- Who owns or claims runs of this bucket, so that somebody finds them when it is dead.
local function add_owned(bucket, replica, name)
  redis.call('SADD', replicas_key(bucket), replica)
  redis.call('SADD', owned_key(bucket, replica), name)
end

local function add_claim(bucket, replica, name, claim_id)
  redis.call('SADD', replicas_key(bucket), replica)
  redis.call('SADD', claims_key(bucket, replica), name .. '\n' .. claim_id)
end

local function drop_idle(bucket, replica)
  if redis.call('EXISTS', owned_key(bucket, replica), claims_key(bucket, replica)) == 0 then
    redis.call('SREM', replicas_key(bucket), replica)
  end
end

local function drop_owned(bucket, replica, name)
  redis.call('SREM', owned_key(bucket, replica), name)
  redis.call('HDEL', intents_key(bucket, replica), name)
  drop_idle(bucket, replica)
end

local function drop_claim(bucket, replica, name, claim_id)
  redis.call('SREM', claims_key(bucket, replica), name .. '\n' .. claim_id)
  drop_idle(bucket, replica)
end

-- The caller made sure that the run is live and has none.
local function set_intent(bucket, name, intent)
  local run = run_key(bucket, name)
  local owner = redis.call('HGET', run, 'owner')
  redis.call('HSET', run, 'intent', intent)
  redis.call('HSET', intents_key(bucket, owner), name, intent)
  redis.call(PUBLISH, bucket .. ':stop:' .. owner, frame({name, intent}))
  tell_if_watched(bucket, name)
end

local function put_claim(bucket, name, claim_id, replica)
  local run, field = run_key(bucket, name), 'claim:' .. claim_id
  local before = redis.call('HGET', run, field)
  if before and before ~= replica then drop_claim(bucket, before, name, claim_id) end
  if redis.call('HSET', run, field, replica) == 1 then redis.call('HINCRBY', run, 'claims', 1) end
  add_claim(bucket, replica, name, claim_id)
end

local function set_claim(bucket, name, claim_id, replica)
  put_claim(bucket, name, claim_id, replica)
  redis.call('HDEL', run_key(bucket, name), 'detach_time', 'detach_reason')
end

local function clear_claims(bucket, name)
  local run = run_key(bucket, name)
  local items = redis.call('HGETALL', run)
  for at = 1, #items, 2 do
    local claim_id = items[at]:match('^claim:(.*)$')
    if claim_id then
      redis.call('HDEL', run, items[at])
      drop_claim(bucket, items[at + 1], name, claim_id)
    end
  end
  redis.call('HSET', run, 'claims', '0')
  redis.call('HDEL', run, 'detach_time', 'detach_reason')
end

local function set_fields(run, from)
  redis.call('HSET', run, unpack(ARGV, from))
end
