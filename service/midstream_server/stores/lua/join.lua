-- run_id. Adds it as the last member; answers the members before it, each with the microseconds since it joined.
local key, run_id = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local members = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
local items, last = {}, 0
for at = 1, #members, 2 do
  if members[at] == run_id then return frame(items) end
  last = tonumber(members[at + 1])
  items[#items + 1] = members[at]
  items[#items + 1] = string.format('%.0f', now - last)
end
redis.call('ZADD', key, string.format('%.0f', math.max(now, last + 1)), run_id)
return frame(items)
