-- Puts right how many entries a group has read, where it is known: a group that has read the last one has read all.
-- A server that starts again from its append-only file has that count as of the last rewrite of the file (later reads
-- are written as claims, which do not count), and would report the difference as lag for ever.
-- KEYS[1] = stream; returns the number of groups put right.
local function fields(flat)
  local named = {}
  for i = 1, #flat, 2 do named[flat[i]] = flat[i + 1] end
  return named
end

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local stream = fields(redis.call('XINFO', 'STREAM', KEYS[1]))
if not stream['entries-added'] then return 0 end -- before Redis 7, which does not count
local mended = 0
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = fields(flat)
  if group['last-delivered-id'] == stream['last-generated-id'] and group['lag'] ~= 0 then
    redis.call('XGROUP', 'SETID', KEYS[1], group['name'], group['last-delivered-id'],
      'ENTRIESREAD', stream['entries-added'])
    mended = mended + 1
  end
end
return mended
