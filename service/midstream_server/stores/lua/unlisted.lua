-- count. Runs whose place in the lists may not have been written yet: name and list entry.
local items = {}
for _, bucket in ipairs(KEYS) do
  local key = lists_key(bucket)
  if redis.call('EXISTS', key) == 1 then
    for _, item in ipairs(redis.call('HRANDFIELD', key, ARGV[1], 'WITHVALUES')) do items[#items + 1] = item end
  end
end
return frame(items)
