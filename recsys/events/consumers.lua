-- Removes consumers that went away, in one step with the check that nothing is pending for them:
-- removing a consumer with pending entries would lose these entries.
--
-- KEYS[1] the stream; ARGV: group, milliseconds without a sign of life; returns the names removed

local removed = {}
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local is = {}
  for i = 1, #consumer, 2 do is[consumer[i]] = consumer[i + 1] end
  if is.pending == 0 and is.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], is.name)
    removed[#removed + 1] = is.name
  end
end
return removed
