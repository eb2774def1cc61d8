-- What (owned, claims), limit, replicas... Some of what these replicas have in these buckets.
local items, limit = {}, tonumber(ARGV[2])
for _, bucket in ipairs(KEYS) do
  for at = 3, #ARGV do
    local found = redis.call('SRANDMEMBER', bucket .. ':' .. ARGV[1] .. ':' .. ARGV[at], limit - #items)
    for _, item in ipairs(found) do items[#items + 1] = item end
    if #items >= limit then return frame(items) end
  end
end
return frame(items)
