-- owner. The name and the intent of its live runs that are to stop.
local items = {}
for _, bucket in ipairs(KEYS) do
  for _, item in ipairs(redis.call('HGETALL', intents_key(bucket, ARGV[1]))) do items[#items + 1] = item end
end
return frame(items)
