-- The ledger, as Redis runs it: each call is one atomic step. It decides as core/quota/deciding.py does, over counters
-- that the caller names; what they limit, and when what was refused would fit, the caller knows (core/quota/counters.py).
--
-- KEYS[1]  the prefix of all keys; its hash tag puts all of them into one slot of a Redis Cluster
-- ARGV[1]  what to do
-- ARGV[2]  with what, as JSON. Amounts are {tokens, requests, cost}.
--
-- Keys, after the prefix:
--   minute:...  a hash of seconds, and what was used in each
--   budget:...  when its window began, and what was used in it
--   under:T     a tenant's requests under way: a sorted set of grants, by when they must be over
--   grant:N     a grant, until its last request must be over
--   request:R   the grant by which a request was let in, or `over` where its log line came first
--   models:T    the models of which a tenant used something
--   asked:...   when tenants of a shared pool asked last
--   touched     the tenants of whom something was counted
--   begun       there as long as nothing was forgotten

-- Before it stand FAR, NEAR, WORTH, OF_LIMIT and OF_LEFT (core/quota/deciding.py), and UNSPENT (core/quota/ledger.py).

local SECOND = 1000
local COUNTS = 61000  -- a second counts until 61 s after it began (core/quota/window.py)
local AHEAD = 30      -- seconds: no lease lives as long. What is charged later was so before the clock was set back
local KEPT = 200000   -- after so long Redis forgets what cannot count any more
local DAY = 86400000

local prefix = KEYS[1]
local said = cjson.decode(ARGV[2])

local function given(value)
  return value ~= nil and value ~= cjson.null
end

local function now_ms()
  if given(said.at) then
    return said.at
  end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local now = now_ms()

-- Redis writes large numbers in scientific notation otherwise.
local function whole(number)
  return string.format('%.0f', number)
end

local function minute(key)
  local fields = redis.call('HGETALL', prefix .. key)
  local here = math.floor(now / SECOND)
  local found = { used = 0, last = 0 }
  local gone, moved = {}, 0
  for at = 1, #fields, 2 do
    local slot, amount = tonumber(fields[at]), tonumber(fields[at + 1])
    if slot * SECOND + COUNTS <= now then
      gone[#gone + 1] = fields[at]
    elseif slot > here + AHEAD then
      gone[#gone + 1] = fields[at]
      moved = moved + amount
    else
      found.used = found.used + amount
      found.last = amount ~= 0 and math.max(found.last, slot) or found.last
      found[#found + 1] = slot
      found[#found + 1] = amount
    end
  end
  for at = 1, #gone, 100 do
    redis.call('HDEL', prefix .. key, unpack(gone, at, math.min(at + 99, #gone)))
  end
  if moved ~= 0 then
    redis.call('HINCRBY', prefix .. key, here, whole(moved))
    return minute(key)
  end
  return found
end

local function charge_minute(key, at, amount)
  redis.call('HINCRBY', prefix .. key, math.floor(at / SECOND), whole(amount))
  redis.call('PEXPIRE', prefix .. key, KEPT)
end

local function amend_minute(key, at, by)
  local slot = math.floor(at / SECOND)
  if redis.call('HEXISTS', prefix .. key, slot) == 1 then
    redis.call('HINCRBY', prefix .. key, slot, whole(by))
  end
end

local function budget(key, began, ends)
  local before = redis.call('HMGET', prefix .. key, 'began', 'used')
  if (tonumber(before[1] or 0)) < began then
    redis.call('HSET', prefix .. key, 'began', whole(began), 'used', 0)
    redis.call('PEXPIRE', prefix .. key, whole(ends - now + DAY))
    return 0
  end
  return tonumber(before[2])
end

local function in_budget(key, at, by)
  local began = redis.call('HGET', prefix .. key, 'began')
  if began and at >= tonumber(began) then
    redis.call('HINCRBY', prefix .. key, 'used', whole(by))
  end
end

-- A counter is {key, unit, most, began, ends, guaranteed}. Of a minute began is -1; so is most where nothing limits it.
local function used(counter)
  if counter[4] < 0 then
    return minute(counter[1])
  end
  return { used = budget(counter[1], counter[4], counter[5]) }
end

local function count(counters, at, amounts, in_minute)
  for _, counter in ipairs(counters) do
    local amount = amounts[counter[2]]
    if amount ~= 0 then
      local one = counter[4] < 0 and in_minute or in_budget
      one(counter[1], at, amount)
    end
  end
end

local function charge(counters, at, amounts)
  count(counters, at, amounts, charge_minute)
end

local function amend(counters, at, amounts)
  count(counters, at, amounts, amend_minute)
end
