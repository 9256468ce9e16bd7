-- Cuts applied entries from the front of the stream, never what any group has not acknowledged, unless that group is
-- another one than the workers' and hopelessly behind: a reader that died must not fill the memory.
--
-- KEYS     the stream, the statistics
-- ARGV[1]  wish: cut entries before this id ('0-0' for none)
-- ARGV[2]  most entries to cut in one call
-- ARGV[3]  group of the workers
-- ARGV[4]  entries that another group may be behind
-- returns  {first id that some group may still need, entries cut, entries ever acknowledged}

local function before(id, other)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  local other_ms, other_seq = string.match(other, '(%d+)-(%d+)')
  if ms == other_ms then return tonumber(seq) < tonumber(other_seq) end
  return tonumber(ms) < tonumber(other_ms)
end

local function attribute(list, name)
  for i = 1, #list, 2 do
    if list[i] == name then return list[i + 1] end
  end
end

local length = redis.call('XLEN', KEYS[1])
local needed = nil
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local name = attribute(group, 'name')
  -- Redis does not know the lag behind entries that were deleted, as those of a deleted user are: all that there is.
  local behind = attribute(group, 'pending') + (attribute(group, 'lag') or length)
  if name == ARGV[3] or behind <= tonumber(ARGV[4]) then
    local pending = redis.call('XPENDING', KEYS[1], name)
    -- Without pending entries everything up to the last delivered one is acknowledged; that one may stay.
    local first = pending[1] > 0 and pending[2] or attribute(group, 'last-delivered-id')
    if needed == nil or before(first, needed) then needed = first end
  end
end
needed = needed or '0-0'
local cut = before(ARGV[1], needed) and ARGV[1] or needed
local trimmed = redis.call('XTRIM', KEYS[1], 'MINID', '~', cut, 'LIMIT', ARGV[2])
return {needed, trimmed, tonumber(redis.call('HGET', KEYS[2], 'acknowledged') or 0)}
