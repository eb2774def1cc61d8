-- name, after sequence, max bytes. Answers the last sequence of the log, then the last sequence and entries of batches.
local bucket, name, max_bytes = KEYS[1], ARGV[1], tonumber(ARGV[3])
local phase, last, rests = unpack(redis.call('HMGET', run_key(bucket, name), 'phase', 'last', 'rests'))
if not phase or phase == EXPIRED then return frame({'0'}) end
if rests then return frame({last, last, redis.call('GET', log_key(bucket, name))}) end
local items, size, count, cursor, before = {last}, 0, 8, ARGV[2], nil
repeat
  local found = redis.call('XRANGE', log_key(bucket, name), '(' .. cursor, '+', 'COUNT', count)
  for _, element in ipairs(found) do
    cursor = element[1]:match('^%d+')
    local entries = element[2][2]
    items[#items + 1] = cursor
    items[#items + 1] = entries
    -- The first batch may begin before the cursor: how much of it counts, the caller sees.
    if before then size = size + #entries - 4 * (tonumber(cursor) - before) end
    before = tonumber(cursor)
    if size >= max_bytes then return frame(items) end
  end
  local full = #found == count
  count = math.min(2 * count, 128)
until not full
return frame(items)
