-- name, epoch, expected last sequence, last sequence, entries, intent or '', start_time or '', expire_time, '1' if it
-- is sealed from the log, fields...
local MAX_BATCHES, MAX_BYTES = 64, 32768

-- A short stream takes 4 KiB whatever is in it, so a short log rests as the same bytes in one string.
local function lay_to_rest(bucket, name)
  local log, size, pieces = log_key(bucket, name), 0, {}
  if redis.call('XLEN', log) > MAX_BATCHES then return end
  for _, element in ipairs(redis.call('XRANGE', log, '-', '+')) do
    local entries = element[2][2]
    size = size + #entries
    if size > MAX_BYTES then return end
    pieces[#pieces + 1] = entries
  end
  redis.call('DEL', log)
  redis.call('SET', log, table.concat(pieces))
  redis.call('HSET', run_key(bucket, name), 'rests', '1')
end

local bucket, name, expected, after = KEYS[1], ARGV[1], ARGV[3], ARGV[4]
local run = run_key(bucket, name)
local phase, epoch, last, intent, owner =
  unpack(redis.call('HMGET', run, 'phase', 'epoch', 'last', 'intent', 'owner'))
if not phase then return frame({'lost'}) end
local own = epoch == ARGV[2]
local behind = tonumber(epoch) < tonumber(ARGV[2]) or (own and tonumber(last) < tonumber(expected))
if phase ~= LIVE and own and last == after then return answer('accepted', run) end
if phase ~= LIVE or not own or last ~= expected then return answer(behind and 'behind' or 'refused', run) end
if ARGV[9] == '1' and (intent or '') ~= ARGV[6] then return answer('refused', run) end
write_log(bucket, name, after, ARGV[5])
clear_claims(bucket, name)
drop_owned(bucket, owner, name)
redis.call('HDEL', run, 'start_time')
redis.call('HSET', run, 'phase', SEALED, 'last', after, 'expire_time', ARGV[8])
set_fields(run, 10)
if not intent and ARGV[6] ~= '' then redis.call('HSET', run, 'intent', ARGV[6]) end
if ARGV[7] ~= '' then redis.call('HSET', run, 'start_time', ARGV[7]) end
redis.call('ZADD', expiry_key(bucket), 0, place(ARGV[8], name))
tell_if_watched(bucket, name)
redis.call('HDEL', run, 'watched')
lay_to_rest(bucket, name)
return answer('accepted', run)
