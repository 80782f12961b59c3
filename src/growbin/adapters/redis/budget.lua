-- The budget of paid calls: part of the script that counts them, so that a call is counted and reserved in one
-- breath, or neither.
--
-- KEYS  7 everybody's  8 the open reservations, scored by when they lapse  9 the session's  10 the address'
--
-- A holder's hash has for each window its number (`day`) and what was used in it (`day:calls`, `day:micros`).
-- What is reserved counts as used at once, with all that the call may cost; to settle it corrects that. So a
-- process that dies over its call has spent it, and nobody needs to notice: its reservation only lapses.
-- Everybody's hash has `reserved` and `settled` besides: reserved = settled + those open.

local BUDGET_KEYS = { everybody = KEYS[7], session = KEYS[9], address = KEYS[10] }
local OPEN = KEYS[8]
local LENGTH_MS = { minute = 60000, day = 86400000 }
local BUDGET_MS = cjson.decode(ARGV[3]).budget_seconds * 1000
local WARNED_FROM = 0.8

local function number_of(window, at_ms)
  return string.format('%.0f', math.floor(at_ms / LENGTH_MS[window]))
end

local function used_of(scope, window, what, at_ms)
  local found = redis.call('HMGET', BUDGET_KEYS[scope], window, window .. ':' .. what)
  return found[1] == number_of(window, at_ms) and tonumber(found[2]) or 0
end

-- To the window of `at_ms`. One that has passed is closed: nothing is counted in it any more.
local function use(scope, window, what, change, at_ms, now_ms)
  local key, number = BUDGET_KEYS[scope], number_of(window, at_ms)
  if number ~= number_of(window, now_ms) then
    return
  end
  if redis.call('HGET', key, window) ~= number then
    redis.call('HDEL', key, window .. ':calls', window .. ':micros', window .. ':firsts', window .. ':warned')
    redis.call('HSET', key, window, number)
    redis.call('PEXPIRE', key, BUDGET_MS)
  end
  if change ~= 0 then
    redis.call('HINCRBY', key, window .. ':' .. what, string.format('%.0f', change))
  end
end

local function use_everywhere(calls, micros, at_ms, now_ms)
  for scope in pairs(BUDGET_KEYS) do
    for window in pairs(LENGTH_MS) do
      use(scope, window, 'calls', calls, at_ms, now_ms)
      use(scope, window, 'micros', micros, at_ms, now_ms)
    end
  end
end

local function close(member)
  if redis.call('ZREM', OPEN, member) == 1 then
    redis.call('HINCRBY', BUDGET_KEYS.everybody, 'settled', 1)
  end
end

-- Whoever looks, lets lapse.
local function let_lapse(now_ms)
  local lapsed = redis.call('ZREMRANGEBYSCORE', OPEN, '-inf', string.format('%.0f', now_ms))
  if lapsed > 0 then
    redis.call('HINCRBY', BUDGET_KEYS.everybody, 'settled', lapsed)
  end
end

-- The first limit that has no room, by when it opens: its scope and that moment.
local function full_limit(b, is_first, now_ms)
  local scope, opens_ms = nil, 0
  for _, limit in ipairs(b.limits) do
    local most, wanted = limit.most, limit.unit == 'calls' and 1 or b.call_micros
    if limit.scope == 'everybody' and not is_first then
      most = math.floor(most * (1 - b.first_share))
    end
    local length_ms = LENGTH_MS[limit.window]
    local ends_ms = (math.floor(now_ms / length_ms) + 1) * length_ms
    if used_of(limit.scope, limit.window, limit.unit, now_ms) + wanted > most and ends_ms > opens_ms then
      scope, opens_ms = limit.scope, ends_ms
    end
  end
  return scope, opens_ms
end

-- How much of everybody's fullest limit is used, and whether somebody is to be warned: once in each window.
local function fullest(b, now_ms)
  local share, is_news = 0, false
  for _, limit in ipairs(b.limits) do
    if limit.scope == 'everybody' then
      local part = used_of('everybody', limit.window, limit.unit, now_ms) / math.max(limit.most, 1)
      share = math.max(share, part)
      if part >= WARNED_FROM then
        local is_first = redis.call('HSETNX', BUDGET_KEYS.everybody, limit.window .. ':warned', 1) == 1
        is_news = is_news or is_first
      end
    end
  end
  return share, is_news
end

-- {'ours', share, is_news}, or {'spent', scope, when it opens}.
local function reserve(b, member, now_ms)
  let_lapse(now_ms)
  local opens_session = used_of('session', 'day', 'calls', now_ms) == 0
  local is_first = opens_session and used_of('address', 'day', 'firsts', now_ms) < b.firsts_per_address
  local scope, opens_ms = full_limit(b, is_first, now_ms)
  if scope then
    return { 'spent', scope, string.format('%.0f', opens_ms) }
  end
  use_everywhere(1, b.call_micros, now_ms, now_ms)
  if opens_session then
    use('address', 'day', 'firsts', 1, now_ms, now_ms)
  end
  redis.call('ZADD', OPEN, string.format('%.0f', now_ms + b.call_ms), member)
  redis.call('PEXPIRE', OPEN, BUDGET_MS)
  redis.call('HINCRBY', BUDGET_KEYS.everybody, 'reserved', 1)
  redis.call('PEXPIRE', BUDGET_KEYS.everybody, BUDGET_MS)
  local share, is_news = fullest(b, now_ms)
  return { 'ours', string.format('%.4f', share), is_news and '1' or '0' }
end

-- `cost_micros` absent: it cost what was reserved. Once only: what has lapsed stays spent.
local function settle(b, member, cost_micros, was_paid, now_ms)
  local lapses_ms = tonumber(redis.call('ZSCORE', OPEN, member) or nil)
  if not lapses_ms then
    return
  end
  close(member)
  local at_ms = lapses_ms - b.call_ms
  local change = (was_paid and (cost_micros or b.call_micros) or 0) - b.call_micros
  use_everywhere(was_paid and 0 or -1, change, at_ms, now_ms)
  if not was_paid and used_of('session', 'day', 'calls', at_ms) == 0 then
    use('address', 'day', 'firsts', -1, at_ms, now_ms)
  end
end
