-- One job's progress, in one atomic script. Each call names an operation and its parameters.
--
-- KEYS  1 progress (snapshot)  2 events (log, and channel name)  3 result  4 lease
--       5 attempts {token, starts, paid, open, counted, reserved, same, feedback}  6 answer
--       7 agenda, of `erase` alone, and of `accept` alone from 7 on its holders' sets of unfinished jobs; where a paid call is counted 7 to 10 are the budget's (budget.lua stands
--       above), and 11 is the claim on the same question about the same photo
-- ARGV  1 operation  2 parameters as JSON  3 as JSON what never changes: the stages {ranks, ends} and how long
--       keys live {log_seconds, result_seconds}, the sets of {unfinished, waiting} jobs that gateways count, and
--       the names of a holder's own set {unfinished_of} and of its channel {session_news}, "*" for the holder
--
-- A log entry is the text "<id> <event> <data>", an id is "<epoch>.<seq>.<nonce>": the epoch is
-- the run's, the nonce the append's own. A server that came back with older data re-uses numbers
-- but never nonces, so a client's id either names exactly what it saw or is not found.
-- Time is this server's clock, so that a skewed process cannot expire anybody. Should it jump back, a job
-- lives at most its life once more, and a dead holder's lease at most p.longest_lease_ms: no longer than that
-- is ever given.

local PROGRESS, EVENTS, RESULT, LEASE, ATTEMPTS, ANSWER =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local MOST = 999999999
local LAST_MS = 2 ^ 47

local p = cjson.decode(ARGV[2])
local constants = cjson.decode(ARGV[3])
local UNFINISHED, WAITING = constants.unfinished, constants.waiting
local UNFINISHED_OF, SESSION_NEWS = constants.unfinished_of, constants.session_news
local RANK, ENDS = constants.ranks, { deleted = true }
for _, stage in ipairs(constants.ends) do
  ENDS[stage] = true
end
local END_RANK = math.huge
local LOG_MS, RESULT_SECONDS = constants.log_seconds * 1000, constants.result_seconds
local clock = redis.call('TIME')
local now_ms = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function whole(number)
  return string.format('%.0f', number) -- tostring() would give 1.7e+12
end

local function rfc3339(milliseconds)
  local seconds = math.floor(milliseconds / 1000)
  local days = math.floor(seconds / 86400)
  -- Civil date from days since 1970, by counting 400-year eras from 1 March of year 0.
  local z = days + 719468
  local era = math.floor(z / 146097)
  local day_of_era = z - era * 146097
  local year_of_era = math.floor((day_of_era - math.floor(day_of_era / 1460)
    + math.floor(day_of_era / 36524) - math.floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + math.floor(year_of_era / 4) - math.floor(year_of_era / 100))
  local shifted_month = math.floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - math.floor((153 * shifted_month + 2) / 5) + 1
  local month = shifted_month < 10 and shifted_month + 3 or shifted_month - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  local rest = seconds % 86400
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    math.floor(rest / 3600), math.floor(rest % 3600 / 60), rest % 60, milliseconds % 1000)
end

local function is_whole(value, lowest, highest)
  return type(value) == 'number' and value >= lowest and value <= highest and value == math.floor(value)
end

local function decoded(text)
  local is_json, value = pcall(cjson.decode, text)
  return is_json and type(value) == 'table' and value or {}
end

local function fits(value, pattern, longest)
  return type(value) == 'string' and #value <= longest and string.find(value, pattern) ~= nil
end

-- The snapshot, also as another version wrote it: missing new fields get a default, and of fields we do not
-- know those are kept that come out of here as they went in (texts, truths, small whole numbers).
-- One without what our rules need counts as lost: a new history begins, and clients get `reset`.
local snapshot

local function load_snapshot()
  local s = decoded(redis.pcall('GET', PROGRESS))
  local is_readable = (RANK[s.stage] or ENDS[s.stage]) and fits(s.id, '^[0-9a-f]+%.%d+%.[0-9a-z]+$', 64)
    and fits(s.epoch, '^[0-9a-f]+$', 32) and fits(s.owner, '^[0-9a-f]+$', 64) and #s.owner == 64
    and is_whole(s.seq, 1, MOST) and is_whole(s.run, 1, MOST) and is_whole(s.deadline_ms, 0, LAST_MS)
  if not is_readable then
    return nil
  end
  for name, value in pairs(s) do
    if type(value) ~= 'string' and type(value) ~= 'boolean' and name ~= 'deadline_ms'
      and not is_whole(value, -MOST, MOST) then
      s[name] = nil
    end
  end
  s.job_id = p.job_id
  s.attempt = is_whole(s.attempt, 1, MOST) and s.attempt or 1
  s.progress = is_whole(s.progress, 0, 100) and s.progress or 0
  for _, text in ipairs({ 'message', 'updated_at', 'image_url' }) do
    s[text] = type(s[text]) == 'string' and s[text] or ''
  end
  s.locale = s.locale == 'en' and 'en' or 'ko'
  return s
end

-- An end that cannot be read is an end all the same: nothing follows it, and nothing is written over what a
-- newer version may be able to read.
local function load_end()
  local text = redis.pcall('GET', RESULT)
  if not text then
    return nil
  end
  local found = decoded(text)
  return { stage = ENDS[found.stage] and found.stage or 'unreadable', run = is_whole(found.run, 1, MOST) and found.run or nil }
end

local function set_deadline(deadline_ms)
  snapshot.deadline_ms = deadline_ms
  snapshot.life_ms = math.min(math.max(0, deadline_ms - now_ms), MOST)
end

local function bound_by_life()
  local life_ms = snapshot and is_whole(snapshot.life_ms, 0, MOST) and snapshot.life_ms
  if life_ms and snapshot.deadline_ms > now_ms + life_ms then
    snapshot.deadline_ms = now_ms + life_ms
    redis.call('SET', PROGRESS, cjson.encode(snapshot), 'KEEPTTL')
  end
end

snapshot = load_snapshot()
local result = load_end()
if not result then
  bound_by_life()
end

-- A delivery of a newer run than what is stored means that a redrive was lost with this server's
-- tail: the stored run is history, and so are its starts, its paid calls and its answer, which may be what the
-- job failed of.
local RUN_COUNTS = { 'starts', 'paid', 'open' }
if p.run and result and result.run and result.run < p.run and result.stage ~= 'deleted' then
  result = nil
  redis.call('DEL', RESULT, ANSWER)
  redis.call('HDEL', ATTEMPTS, unpack(RUN_COUNTS))
end
if p.run and snapshot and snapshot.run < p.run then
  snapshot = nil
  redis.call('DEL', PROGRESS, EVENTS, RESULT, LEASE, ANSWER)
  redis.call('HDEL', ATTEMPTS, unpack(RUN_COUNTS))
end

local function is_of_earlier_run()
  return p.run and snapshot and snapshot.run > p.run
end

local function is_over()
  return result ~= nil or is_of_earlier_run()
end

-- The caller's attempt has written it. It may not have heard of that: then it asks again, to be told.
local function is_own_end()
  return p.attempt and snapshot and snapshot.ended_by == p.attempt and not is_of_earlier_run()
end

-- A count, 0 where none can be read.
local function count_of(field)
  local count = tonumber(redis.call('HGET', ATTEMPTS, field) or 0)
  return is_whole(count, -MOST, MOST) and count or 0
end

local function add(field, change)
  redis.call('HSET', ATTEMPTS, field, whole(count_of(field) + change))
end

-- Of a ticket that nobody uses nothing outlives its record.
local function keep_for()
  local is_unused = snapshot.stage == 'awaiting_upload' and p.unused_ms
  local until_ms = is_unused and now_ms + p.unused_ms or snapshot.deadline_ms + LOG_MS
  redis.call('PEXPIREAT', PROGRESS, whole(until_ms))
  redis.call('PEXPIREAT', EVENTS, whole(until_ms))
end

-- A text, or one text for each language of which the job's is taken.
local function in_locale(text)
  return type(text) == 'table' and text[snapshot.locale] or text
end

local written_end = false -- the end that this call has written, for the count of ends

-- A name for "*", of the same server, as all keys of this role.
local function key_of(pattern, name)
  return (string.gsub(pattern, '%*', name))
end

-- For metrics and limits: what goes wrong here hurts no job. Should a holder's removal get lost, its deadline
-- does the same.
local function count_among_others(stage)
  if stage == 'queued' then
    redis.pcall('ZADD', UNFINISHED, whole(now_ms), snapshot.job_id)
    redis.pcall('ZADD', WAITING, whole(now_ms), snapshot.job_id)
  else
    redis.pcall('ZREM', WAITING, snapshot.job_id)
  end
  if RANK[stage] == nil then
    redis.pcall('ZREM', UNFINISHED, snapshot.job_id)
    redis.pcall('ZREM', key_of(UNFINISHED_OF, snapshot.owner), snapshot.job_id)
    if fits(snapshot.address, '^[0-9a-f]+$', 64) then
      redis.pcall('ZREM', key_of(UNFINISHED_OF, snapshot.address), snapshot.job_id)
    end
  end
end

-- Also when `queued` could not be written: who names its run has its event.
local function is_accepted()
  return snapshot.stage ~= 'awaiting_upload' or snapshot.accepted == true or p.run ~= nil
end

-- Numbers, stores and announces one event. `tail` is more JSON for the event's data.
local function write(stage, message, percent, attempt, nonce, tail)
  local end_seconds = is_accepted() and RESULT_SECONDS or LOG_MS / 1000
  message = in_locale(message)
  tail = in_locale(tail)
  snapshot.seq = snapshot.seq + 1
  snapshot.stage = stage
  snapshot.attempt = attempt
  snapshot.progress = math.max(snapshot.progress, percent)
  snapshot.message = message
  snapshot.updated_at = rfc3339(now_ms)
  snapshot.id = snapshot.epoch .. '.' .. whole(snapshot.seq) .. '.' .. nonce
  local data = '{"job_id":' .. cjson.encode(snapshot.job_id) .. ',"seq":' .. whole(snapshot.seq)
    .. ',"stage":"' .. stage .. '","progress":' .. whole(snapshot.progress)
    .. ',"message":' .. cjson.encode(message) .. ',"attempt":' .. whole(attempt)
    .. ',"updated_at":"' .. snapshot.updated_at .. '"' .. (tail and ',' .. tail or '') .. '}'
  local ends = RANK[stage] == nil
  snapshot.ended_by = ends and p.attempt or nil
  local entry = snapshot.id .. ' ' .. (ends and stage or 'progress') .. ' ' .. data
  local pushed = redis.pcall('RPUSH', EVENTS, entry)
  if type(pushed) == 'table' then
    if string.find(pushed.err, 'WRONGTYPE', 1, true) then -- it is no list
      redis.call('DEL', EVENTS)
    end
    redis.call('RPUSH', EVENTS, entry) -- the same error where there is no room
  end
  redis.call('SET', PROGRESS, cjson.encode(snapshot))
  if ends then
    written_end = stage
    redis.call('SET', RESULT, '{"id":"' .. snapshot.id .. '","stage":"' .. stage .. '","run":' .. whole(snapshot.run)
      .. ',"owner":' .. cjson.encode(snapshot.owner) .. ',"image_url":' .. cjson.encode(snapshot.image_url)
      .. ',"deadline_ms":' .. whole(snapshot.deadline_ms) .. ',"data":' .. data .. '}', 'EX', whole(end_seconds))
    redis.call('PEXPIRE', PROGRESS, LOG_MS)
    redis.call('PEXPIRE', EVENTS, LOG_MS)
    redis.call('DEL', LEASE)
  else
    keep_for()
  end
  count_among_others(stage)
  redis.call('PUBLISH', EVENTS, entry)
end

local function open_history()
  redis.call('DEL', EVENTS)
  snapshot = { job_id = p.job_id, run = p.run or 1, epoch = p.epoch, seq = 0, stage = '', attempt = 1,
    progress = 0, message = '', updated_at = '', id = '',
    owner = p.owner, address = p.address, image_url = p.image_url, locale = p.locale }
  set_deadline(p.deadline_ms)
  -- Whoever opens it: a delivery may bring back what this server has lost.
  redis.call('PUBLISH', key_of(SESSION_NEWS, p.owner), p.job_id)
end

-- `queued` belongs to every accepted job, also when its consumer was faster than its gateway.
local function write_queued_if_missing()
  if not snapshot then
    open_history()
  end
  if snapshot.seq == 0 or snapshot.stage == 'awaiting_upload' then
    set_deadline(p.deadline_ms)
    write('queued', p.queued_message, p.queued_progress, 1, p.nonce .. 'q')
  end
end

-- Tokens only grow. A stored one behind the caller's means that this server lost what it knew: the
-- holder, whose paid call may be running, tells it. One ahead means that somebody else has begun.
local function holds_token()
  local token = count_of('token')
  if token >= p.attempt or is_over() then
    return token == p.attempt
  end
  redis.call('HSET', ATTEMPTS, 'token', p.attempt, 'open', 1)
  redis.call('HSETNX', ATTEMPTS, 'starts', 1)
  redis.call('EXPIRE', ATTEMPTS, RESULT_SECONDS)
  return true
end

local function expire_if_due()
  if is_over() then
    return true
  end
  local deadline_ms = snapshot and snapshot.deadline_ms or p.deadline_ms
  if snapshot and snapshot.stage == 'awaiting_upload' and p.deadline_ms then
    deadline_ms = math.max(deadline_ms, p.deadline_ms) -- accepted, though `queued` could not be written
  end
  if not deadline_ms or now_ms <= deadline_ms then
    return false
  end
  if not snapshot then
    open_history()
  end
  local outcome = is_accepted() and 'expired' or 'not_uploaded'
  write('expired', p.expired_message, 0, snapshot.attempt, p.nonce)
  written_end = outcome
  return true
end

local operations = {}

-- The stage or end that the call names, unless that is not ahead in its attempt. It rides in the calls that
-- are made anyway.
local function write_what_is_told(attempt)
  local rank = RANK[p.stage] or END_RANK
  if rank > RANK.queued and p.deadline_ms then
    write_queued_if_missing()
  elseif not snapshot then
    open_history()
  end
  attempt = attempt or snapshot.attempt
  local present = RANK[snapshot.stage]
  if rank < END_RANK and present and attempt == snapshot.attempt and rank <= present then
    return
  end
  if p.stage == 'queued' then
    set_deadline(p.deadline_ms)
  end
  if p.max_attempts and rank < END_RANK and attempt > 1 and attempt <= p.max_attempts then
    p.tail = '"max_attempts":' .. whole(p.max_attempts) -- so that who waits again reads "2 of 4"
  end
  write(p.stage, p.message, p.progress, attempt, p.nonce, p.tail)
end

-- `attempt` absent: written without a lease (gateway, obituary). An end gives the lease back.
function operations.append()
  if is_over() or not (snapshot or p.owner) then
    if is_own_end() and snapshot.stage == p.stage then
      written_end = p.stage
    end
    return 'ended'
  end
  if p.attempt and not holds_token() then
    return 'lost'
  end
  write_what_is_told(p.attempt)
  return 'ours'
end

-- Which holder of `p.most` has too many unfinished jobs already, counted from 1. Their sets are scored by
-- deadline: whoever looks drops those that are over.
local function full_holder()
  for i, most in ipairs(p.most) do
    local key = KEYS[6 + i]
    if redis.call('TYPE', key).ok ~= 'zset' then
      redis.call('DEL', key)
    end
    redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now_ms))
    local is_new = not redis.call('ZSCORE', key, p.job_id)
    if is_new and redis.call('ZCARD', key) >= most then
      return i
    end
  end
end

-- Its event is about to be published: the job is counted among the unfinished ones of its holders, and should
-- `queued` then not be written for a while, no look ends it by its ticket's deadline.
function operations.accept()
  if expire_if_due() or (snapshot and snapshot.stage ~= 'awaiting_upload') then
    return { 'over' }
  end
  local full = full_holder()
  if full then
    return { 'full', full }
  end
  for i in ipairs(p.most) do
    redis.call('ZADD', KEYS[6 + i], whole(now_ms + p.deadline_in_ms), p.job_id)
    redis.call('PEXPIRE', KEYS[6 + i], p.deadline_in_ms)
  end
  if snapshot then
    snapshot.accepted = true
    set_deadline(math.max(snapshot.deadline_ms, now_ms + p.deadline_in_ms))
    redis.call('SET', PROGRESS, cjson.encode(snapshot))
    keep_for()
  end
  return { 'accepted', whole(now_ms) }
end

function operations.cancel()
  if expire_if_due() or not snapshot then
    return 'ended'
  end
  write('cancelled', p.cancelled_message, 0, snapshot.attempt, p.nonce)
  return 'ours'
end

-- 1 the first time, for a job that is done.
function operations.mark_feedback()
  if not result or result.stage ~= 'done' then
    return 0
  end
  local is_first = redis.call('HSETNX', ATTEMPTS, 'feedback', 1)
  redis.call('EXPIRE', ATTEMPTS, RESULT_SECONDS)
  return is_first
end

-- Deleted by its owner: everything goes, and a tombstone stays so that a late delivery finds an
-- ended job and the deletion may be repeated. In the same breath it comes on the agenda: there is no
-- tombstone of which nobody knows that the rest must go as well.
function operations.erase()
  if not is_over() and snapshot then
    write('cancelled', p.cancelled_message, 0, snapshot.attempt, p.nonce)
  end
  local same = redis.call('HGET', ATTEMPTS, 'same')
  if same and redis.pcall('GET', same) == p.job_id then
    redis.call('DEL', same) -- so that no other job is led here
  end
  redis.call('DEL', PROGRESS, EVENTS, LEASE, ATTEMPTS, ANSWER)
  redis.call('SET', RESULT, cjson.encode({ id = '0.0.0', stage = 'deleted', run = p.last_run, owner = p.owner,
    image_url = '', deadline_ms = now_ms, data = { stage = 'deleted' } }), 'EX', RESULT_SECONDS)
  for entry, after_ms in pairs(p.passes) do
    redis.call('ZADD', KEYS[7], 'NX', whole(now_ms + after_ms), entry)
  end
end

-- A redrive: the only thing that reopens an ended job, and only one that failed or expired (whoever has its
-- event knows that it was accepted). It begins a new run
-- with a new epoch and fresh attempts (the token goes on, so that no old holder is believed). Called
-- again before anybody began the new run, it names that run: its publish may have been lost.
function operations.reopen()
  if result and result.stage ~= 'failed' and result.stage ~= 'expired' then
    return { 'refused', result.stage }
  end
  if not result and snapshot then
    local is_fresh = snapshot.run > 1 and snapshot.stage == 'queued'
    return is_fresh and { 'reopened', whole(snapshot.run), whole(snapshot.deadline_ms) } or { 'refused', snapshot.stage }
  end
  local run = (result and result.run or p.last_run) + 1
  redis.call('DEL', PROGRESS, EVENTS, RESULT, LEASE)
  redis.call('HDEL', ATTEMPTS, unpack(RUN_COUNTS))
  if p.drop_answer then
    redis.call('DEL', ANSWER)
  end
  result, snapshot = nil, nil
  p.run, p.deadline_ms = run, now_ms + p.deadline_in_ms
  open_history()
  write('queued', p.queued_message, p.queued_progress, count_of('token') + 1, p.nonce)
  return { 'reopened', whole(run), whole(p.deadline_ms) }
end

function operations.expire()
  return expire_if_due() and 'ended' or 'ours'
end

local function started(token)
  return { 'started', whole(token), whole(count_of('starts')), whole(now_ms),
    redis.call('GET', ANSWER) or '' }
end

-- Takes the lease, counts the start and tells its first stage; `open` stays 1 until the holder lets go, so that
-- the next start knows whether its predecessor died.
function operations.begin()
  if expire_if_due() then
    return { 'ended' }
  end
  local lease = redis.call('GET', LEASE)
  local token = count_of('token')
  if lease and lease == whole(token) .. ':' .. p.call_id then
    return started(token) -- our own call, its reply lost
  end
  if lease then
    if redis.call('PTTL', LEASE) > p.longest_lease_ms then
      redis.call('PEXPIRE', LEASE, p.longest_lease_ms)
    end
    return { 'held' }
  end
  local holder_died = redis.call('HGET', ATTEMPTS, 'open') == '1'
  local starts = count_of('starts')
  local could_only_fail = count_of('paid') >= p.max_paid_calls and redis.call('EXISTS', ANSWER) == 0
  if starts >= p.max_starts or could_only_fail then
    return { holder_died and 'crashed' or 'exhausted' }
  end
  if holder_died and starts >= p.suspect_from_starts and not p.alone then
    return { 'suspect' }
  end
  token = token + 1
  redis.call('HSET', ATTEMPTS, 'token', whole(token), 'starts', whole(starts + 1), 'open', 1)
  redis.call('EXPIRE', ATTEMPTS, RESULT_SECONDS)
  redis.call('SET', LEASE, whole(token) .. ':' .. p.call_id, 'PX', p.lease_ms)
  write_what_is_told(token) -- after `queued`, or the next look would let the job expire with its ticket
  return started(token)
end

-- A lapsed lease may be taken up again by its last holder: the token shows that nobody else began.
function operations.renew()
  if is_over() then
    return is_own_end() and 'ours' or 'ended'
  end
  if not holds_token() then
    return 'lost'
  end
  local lease = redis.call('GET', LEASE)
  redis.call('SET', LEASE, lease or (whole(p.attempt) .. ':renewed'), 'PX', p.lease_ms)
  return 'ours'
end

function operations.release()
  if is_of_earlier_run() or not holds_token() then
    return 'lost'
  end
  redis.call('DEL', LEASE)
  if p.refund and redis.call('HGET', ATTEMPTS, 'open') == '1' then -- not given back before, the reply lost
    add('starts', -1)
  end
  redis.call('HSET', ATTEMPTS, 'open', 0)
  return 'ours'
end

-- Another job of the same owner has asked the same: its answer, or that it is asking just now. One that died
-- over it, or ended without an answer, is not waited for.
local function asked_before()
  local claim = KEYS[11] and redis.pcall('GET', KEYS[11])
  if type(claim) ~= 'string' or claim == p.job_id or p.is_fresh then
    return nil
  end
  local answer = redis.call('GET', key_of(p.answer_of, claim))
  if answer then
    return { 'kept', answer }
  end
  local asks = redis.call('EXISTS', key_of(p.lease_of, claim)) == 1
    and redis.call('EXISTS', key_of(p.result_of, claim)) == 0
  return asks and { 'awaited' } or nil
end

local function claim()
  if KEYS[11] then
    redis.call('SET', KEYS[11], p.job_id, 'EX', RESULT_SECONDS)
    redis.call('HSET', ATTEMPTS, 'same', KEYS[11])
  end
end

function operations.count_paid_call()
  if is_of_earlier_run() or not holds_token() then
    return { 'lost' }
  end
  if is_over() then
    return { 'ended' }
  end
  write_what_is_told(p.attempt)
  local mark = p.call_id .. '1'
  if redis.call('HGET', ATTEMPTS, 'counted') == mark then
    return { 'ours' } -- counted before, the reply was lost
  end
  if count_of('paid') >= p.max_paid_calls then
    return { 'exhausted' }
  end
  local before = asked_before()
  if before then
    return before
  end
  local found = { 'ours' }
  if p.budget then
    local earlier = redis.call('HGET', ATTEMPTS, 'reserved')
    if earlier then
      close(earlier) -- of a call that nobody is left to settle
    end
    found = reserve(p.budget, p.job_id .. ' ' .. p.call_id, now_ms)
    if found[1] ~= 'ours' then
      return found
    end
    redis.call('HSET', ATTEMPTS, 'reserved', p.job_id .. ' ' .. p.call_id)
  end
  claim()
  add('paid', 1)
  redis.call('HSET', ATTEMPTS, 'counted', mark)
  return found
end

local function settle_if_reserved(was_paid)
  if p.budget and p.call_id then
    settle(p.budget, p.job_id .. ' ' .. p.call_id, p.cost_micros, was_paid, now_ms)
  end
end

-- The model took no work: the call is as if it had not been. Its money comes back whoever has the job now.
function operations.uncount_paid_call()
  settle_if_reserved(false)
  if is_of_earlier_run() or not holds_token() then
    return 'lost'
  end
  local mark = p.call_id .. '-1'
  if redis.call('HGET', ATTEMPTS, 'counted') ~= mark then
    add('paid', -1)
    redis.call('HSET', ATTEMPTS, 'counted', mark)
  end
  return 'ours'
end

-- The call brought no answer that is kept, and cost `cost_micros`, or who knows what.
function operations.settle_paid_call()
  settle_if_reserved(true)
end

-- A call that is no person's job: everybody's budget counts it, and refuses it nothing.
function operations.count_probe()
  for window in pairs(LENGTH_MS) do
    use('everybody', window, 'calls', 1, now_ms, now_ms)
    use('everybody', window, 'micros', p.budget.call_micros, now_ms, now_ms)
  end
end

-- The raw answer was paid for, whoever won: it is kept before anything else is looked at, and only then the
-- next stage told. Only a deletion refuses it, and a redrive: the new run asks anew.
function operations.keep_answer()
  settle_if_reserved(true)
  if is_of_earlier_run() or (result and result.stage == 'deleted') then
    return 'ended'
  end
  redis.call('SET', ANSWER, p.answer, 'NX', 'EX', RESULT_SECONDS)
  return operations.append()
end

-- Everything a reader needs: snapshot, result, whether `after_id` is in the log, and what follows it.
function operations.read()
  expire_if_due()
  local first = 0
  local known = '1'
  if p.after_id then
    local seq = tonumber(string.match(p.after_id, '^[^.]+%.(%d+)%.') or 0)
    local entry = seq > 0 and redis.pcall('LINDEX', EVENTS, seq - 1)
    if type(entry) == 'string' and string.sub(entry, 1, #p.after_id + 1) == p.after_id .. ' ' then
      first = seq
    else
      known = '0'
    end
  end
  local entries = redis.pcall('LRANGE', EVENTS, p.with_log and first or -1, -1)
  local ended = redis.pcall('GET', RESULT)
  return {
    snapshot and cjson.encode(snapshot) or '',
    type(ended) == 'table' and '' or ended, -- no text, but an end
    known,
    whole(now_ms),
    entries.err and {} or entries,
  }
end

local found = operations[ARGV[1]]()
return { found or false, written_end }
