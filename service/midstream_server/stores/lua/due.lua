-- What (expiry, forget), now, count. The first of each bucket that are due.
local items = {}
for _, bucket in ipairs(KEYS) do
  -- A slash sorts before a zero: this is all with this instant, and none with the next.
  local found = redis.call('ZRANGEBYLEX', bucket .. ':' .. ARGV[1], '-', '(' .. pad(ARGV[2]) .. '0', 'LIMIT', 0, ARGV[3])
  for _, item in ipairs(found) do items[#items + 1] = item end
end
return frame(items)
