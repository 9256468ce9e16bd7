-- Applies a batch of stream entries. The acknowledgement of an entry and its whole effect are one atomic step, so
-- an entry takes effect exactly once whoever delivers it, however often, and whoever dies in between.
--
-- ARGV[1]  MessagePack map: the bounds and weights of `recsys.state.apply`
-- ARGV[2]  MessagePack list of entries: {id, type, ...}, already validated; type 'dead' carries a reason
-- returns  {milliseconds of the server's clock, {outcome of each entry}}, an outcome being one of
--          applied, duplicate, ignored (the user was deleted later), dead, taken (somebody else acknowledged it)

local EVENTS, DEAD, DEDUP, STATS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ITEMS, CHANGES, ITEM_COUNTS, POPULAR_ALL, ERASURES = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local ITEMS_GONE = KEYS[10]
local HOUR_MS, DAY_MS = 3600000, 86400000
local HOURS_KEPT, DAYS_KEPT = 26, 8
local DEAD_FIELDS_MAX = 2000 -- names and values together; Lua cannot pass more than some thousand arguments

local config = cmsgpack.unpack(ARGV[1])
local entries = cmsgpack.unpack(ARGV[2])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local stats = {}
local function count(name)
  stats[name] = (stats[name] or 0) + 1
end

local function user_key(user, part)
  return config.prefix .. 'u:' .. user .. ':' .. part
end

local function written_before(id, other)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  local other_ms, other_seq = string.match(other, '(%d+)-(%d+)')
  if ms == other_ms then return tonumber(seq) < tonumber(other_seq) end
  return tonumber(ms) < tonumber(other_ms)
end

local function newer_stored(json, ts)
  return json and cjson.decode(json).ts > ts
end

local function keep_highest(key, most)
  redis.call('ZREMRANGEBYRANK', key, 0, -(most + 1))
end

-- What several entries of a batch touch alike is noted here and written once, at the end of the batch.
local alive = {} -- user -> true: had an event
local popularity = {} -- key -> {item -> weight to add}
local bucket_end_s = {} -- key -> second at which nobody needs it any more

-- interaction -----------------------------------------------------------------------------------------------------

local function place_in_history(entry)
  local key = user_key(entry.user, 'hist')
  -- Interactions of the same millisecond keep their order of arrival: each adds 1/4096 ms to the score.
  local tied = redis.call('ZCOUNT', key, entry.ts, string.format('(%.0f', entry.ts + 1))
  local member = string.format('%.0f|%s|%s', entry.ts, entry.kind, entry.item)
  redis.call('ZADD', key, 'NX', entry.ts + tied / 4096, member)
  keep_highest(key, config.history_max)
end

local function hide(entry)
  local key = user_key(entry.user, 'hidden')
  redis.call('ZADD', key, 'GT', entry.ts, entry.item)
  keep_highest(key, config.hidden_max)
end

local function count_item(item)
  local total = redis.call('HINCRBY', ITEM_COUNTS, item, 1)
  if total == 1 and redis.call('HLEN', ITEM_COUNTS) > config.items_counted_max then
    redis.call('HDEL', ITEM_COUNTS, item)
  end
end

local function add_popularity(key, entry, weight)
  local weights = popularity[key] or {}
  weights[entry.item] = (weights[entry.item] or 0) + weight
  popularity[key] = weights
end

local function add_to_bucket(name, length_ms, kept, entry, weight)
  local bucket = math.floor(entry.ts / length_ms)
  if bucket <= math.floor(now_ms / length_ms) - kept then return end
  local key = string.format('%spop:%s:%.0f', config.prefix, name, bucket)
  add_popularity(key, entry, weight)
  bucket_end_s[key] = (bucket + kept) * length_ms / 1000
end

local function make_popular(entry)
  local weight = config.weights[entry.kind]
  if weight == 0 then return end
  add_popularity(POPULAR_ALL, entry, weight)
  add_to_bucket('h', HOUR_MS, HOURS_KEPT, entry, weight)
  add_to_bucket('d', DAY_MS, DAYS_KEPT, entry, weight)
end

local function was_shown(entry)
  for _, shown in ipairs(redis.call('ZRANGE', user_key(entry.user, 'shown'), 0, -1)) do
    if string.sub(shown, 1, #entry.answer) == entry.answer then
      for _, item in ipairs(cjson.decode(shown).items) do
        if item == entry.item then return true end
      end
    end
  end
  return false
end

-- An answer is written behind itself, so what a user did with it may come first: it waits for the answer here.
local function await_answer(entry)
  local key = user_key(entry.user, 'early')
  redis.call('ZADD', key, now_ms, entry.answer .. entry.item)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms - config.impression_ttl_s * 1000)
  keep_highest(key, config.impressions_per_user_max)
  redis.call('EXPIRE', key, config.impression_ttl_s)
end

local function attribute_early(entry)
  local key, shown = user_key(entry.user, 'early'), nil
  for _, early in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    if string.sub(early, 1, #entry.answer) == entry.answer then
      shown = shown or cjson.decode(entry.json).items
      for _, item in ipairs(shown) do
        if item == string.sub(early, #entry.answer + 1) and redis.call('ZREM', key, early) == 1 then
          count('attributed')
        end
      end
    end
  end
end

local effects = {}

function effects.interaction(entry)
  if entry.kind == 'hide' then hide(entry) else place_in_history(entry) end
  redis.call('HINCRBY', user_key(entry.user, 'count'), entry.kind, 1)
  alive[entry.user] = true
  count_item(entry.item)
  make_popular(entry)
  count('interactions:' .. entry.kind)
  if entry.answer then
    if was_shown(entry) then count('attributed') else await_answer(entry) end
  end
  if entry.late then count('late') end
end

-- item ------------------------------------------------------------------------------------------------------------

local function announce(op, item)
  local n = redis.call('HINCRBY', STATS, 'item_changes', 1)
  redis.call('XADD', CHANGES, 'MAXLEN', '~', config.item_changes_max, '*', 'n', n, 'op', op, 'item_id', item)
end

function effects.item(entry)
  if newer_stored(redis.call('HGET', ITEMS, entry.item), entry.ts) then return end
  local gone_ts = redis.call('ZSCORE', ITEMS_GONE, entry.item)
  if gone_ts and tonumber(gone_ts) > entry.ts then return end
  redis.call('ZREM', ITEMS_GONE, entry.item)
  redis.call('HSET', ITEMS, entry.item, entry.json)
  announce('put', entry.item)
end

function effects.item_delete(entry)
  if newer_stored(redis.call('HGET', ITEMS, entry.item), entry.ts) then return end
  redis.call('ZADD', ITEMS_GONE, 'GT', entry.ts, entry.item)
  keep_highest(ITEMS_GONE, config.items_gone_max)
  redis.call('HDEL', ITEMS, entry.item)
  redis.call('HDEL', ITEM_COUNTS, entry.item)
  for _, weights in pairs(popularity) do weights[entry.item] = nil end
  redis.call('ZREM', POPULAR_ALL, entry.item)
  local hour, day = math.floor(now_ms / HOUR_MS), math.floor(now_ms / DAY_MS)
  for back = -1, HOURS_KEPT do
    redis.call('ZREM', string.format('%spop:h:%.0f', config.prefix, hour - back), entry.item)
  end
  for back = -1, DAYS_KEPT do
    redis.call('ZREM', string.format('%spop:d:%.0f', config.prefix, day - back), entry.item)
  end
  announce('delete', entry.item)
end

-- user ------------------------------------------------------------------------------------------------------------

function effects.user(entry)
  local key = user_key(entry.user, 'profile')
  if newer_stored(redis.call('GET', key), entry.ts) then return end
  redis.call('SET', key, entry.json)
  alive[entry.user] = true
end

function effects.user_delete(entry)
  for _, part in ipairs({'hist', 'hidden', 'count', 'profile', 'shown', 'early'}) do
    redis.call('UNLINK', user_key(entry.user, part))
  end
  redis.call('SET', user_key(entry.user, 'gone'), entry.id, 'EX', config.user_ttl_s)
  redis.call('HSET', ERASURES, entry.user, entry.id)
end

-- impression ------------------------------------------------------------------------------------------------------

function effects.impression(entry)
  local key = user_key(entry.user, 'shown')
  redis.call('ZADD', key, entry.ts, entry.json)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms - config.impression_ttl_s * 1000)
  keep_highest(key, config.impressions_per_user_max)
  redis.call('EXPIRE', key, config.impression_ttl_s)
  attribute_early(entry)
end

-- the batch -------------------------------------------------------------------------------------------------------

local function bury(id, reason)
  local found = redis.call('XRANGE', EVENTS, id, id)
  local fields = found[1] and found[1][2] or {}
  local letter = {'source_id', id, 'reason', reason}
  for i = 1, math.min(#fields, DEAD_FIELDS_MAX), 2 do
    letter[#letter + 1] = 'field.' .. fields[i]
    letter[#letter + 1] = fields[i + 1]
  end
  redis.call('XADD', DEAD, 'MAXLEN', '~', config.dead_letters_max, '*', unpack(letter))
  count('dead')
  return 'dead'
end

local function deleted_later(entry)
  local gone = entry.user and redis.call('GET', user_key(entry.user, 'gone'))
  return gone and written_before(entry.id, gone)
end

local function resent(entry)
  return entry.event_id and redis.call('ZADD', DEDUP, 'NX', now_ms, entry.event_id) == 0
end

local function apply(entry)
  if redis.call('XACK', EVENTS, config.group, entry.id) == 0 then return 'taken' end
  count('acknowledged')
  if entry.type == 'dead' then return bury(entry.id, entry.reason) end
  local ok, result = pcall(function()
    if deleted_later(entry) then
      count('ignored')
      return 'ignored'
    elseif resent(entry) then
      count('duplicates')
      return 'duplicate'
    end
    effects[entry.type](entry)
    count('applied')
    return 'applied'
  end)
  if ok then return result end
  if entry.event_id then redis.pcall('ZREM', DEDUP, entry.event_id) end
  return bury(entry.id, type(result) == 'table' and result.err or tostring(result))
end

local function write_popularity()
  for key, weights in pairs(popularity) do
    for item, weight in pairs(weights) do
      redis.call('ZINCRBY', key, weight, item)
    end
    if redis.call('ZCARD', key) > config.popular_tracked_max then -- the least popular tenth makes room
      keep_highest(key, math.floor(config.popular_tracked_max * 0.9))
    end
    if bucket_end_s[key] then redis.call('EXPIREAT', key, bucket_end_s[key]) end
  end
end

local function keep_users_alive()
  local soon_s = config.user_ttl_s * 0.99 -- so that a busy user's keys are not written to anew with every event
  for user in pairs(alive) do
    for _, part in ipairs({'hist', 'hidden', 'count', 'profile'}) do
      local key = user_key(user, part)
      local left_s = redis.call('TTL', key) -- -1: no expiry yet, -2: no such key
      if left_s ~= -2 and left_s < soon_s then redis.call('EXPIRE', key, config.user_ttl_s) end
    end
  end
end

redis.call('ZREMRANGEBYSCORE', DEDUP, '-inf', now_ms - config.dedup_window_s * 1000)
local outcomes = {}
for i, entry in ipairs(entries) do
  outcomes[i] = apply(entry)
end
keep_highest(DEDUP, config.dedup_max)
write_popularity()
keep_users_alive()
for name, n in pairs(stats) do
  redis.call('HINCRBY', STATS, name, n)
end
return {now_ms, outcomes}
