-- What (owned, claims), limit, limit of each bucket, replicas... Some of what these replicas have in these buckets.
local items, limit, most = {}, tonumber(ARGV[2]), tonumber(ARGV[3])
for _, bucket in ipairs(KEYS) do
  local full = math.min(limit, #items + most)
  for at = 4, #ARGV do
    local found = redis.call('SRANDMEMBER', bucket .. ':' .. ARGV[1] .. ':' .. ARGV[at], full - #items)
    for _, item in ipairs(found) do items[#items + 1] = item end
    if #items >= full then break end
  end
  if #items >= limit then break end
end
return frame(items)
