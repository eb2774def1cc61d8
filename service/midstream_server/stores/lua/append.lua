-- For each run: the number of its bucket in KEYS, name, epoch, expected last sequence, last sequence, entries.
-- Answers one character for each run (1 accepted, 0 not, b the log is behind), then the number and intent of those that
-- have one.
local flags, told = {}, {''}
for at = 1, #ARGV, 6 do
  local bucket, name = KEYS[tonumber(ARGV[at])], ARGV[at + 1]
  local expected, after = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local run = bucket .. ':run:' .. name
  local phase, epoch, last, intent, watched =
    unpack(redis.call('HMGET', run, 'phase', 'epoch', 'last', 'intent', 'watched'))
  local flag = '0'
  last = phase ~= EXPIRED and tonumber(last) or 0
  if not phase or tonumber(epoch) < tonumber(ARGV[at + 2]) then
    flag = 'b'
  elseif epoch == ARGV[at + 2] then
    if phase == LIVE and after <= last then
      flag = '1'
    elseif phase == LIVE and expected == last then
      redis.call('XADD', bucket .. ':log:' .. name, ARGV[at + 4] .. '-0', 'e', ARGV[at + 5])
      redis.call('HSET', run, 'last', ARGV[at + 4])
      if watched then tell_moved(bucket, name) end
      flag = '1'
    elseif last < expected then
      flag = 'b'
    end
  end
  flags[#flags + 1] = flag
  if intent then
    told[#told + 1] = tostring(#flags - 1)
    told[#told + 1] = intent
  end
end
told[1] = table.concat(flags)
return frame(told)
