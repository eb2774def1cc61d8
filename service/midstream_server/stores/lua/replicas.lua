-- All replicas that own or claim live runs of these buckets.
local seen, items = {}, {}
for _, bucket in ipairs(KEYS) do
  for _, replica in ipairs(redis.call('SMEMBERS', replicas_key(bucket))) do
    if not seen[replica] then
      seen[replica] = true
      items[#items + 1] = replica
    end
  end
end
return frame(items)
