-- Grants: what was let in, settled, and given back.

local function touch(tenant)
  redis.call('SADD', prefix .. 'touched', tenant)
end

local function key_of(number)
  return prefix .. 'grant:' .. number
end

local function grant_of(number)
  local key = key_of(number)
  local text = redis.call('HGET', key, 'grant')
  if not text then
    return nil
  end
  local grant = cjson.decode(text)
  if now >= grant.til then
    redis.call('DEL', key)
    return nil
  end
  return grant
end

local function save(grant)
  redis.call('HSET', key_of(grant.number), 'grant', cjson.encode(grant))
end

local function stop(grant)
  redis.call('ZREM', prefix .. 'under:' .. grant.tenant, grant.number)
end

local function give_back(number, rest)
  local grant = grant_of(number)
  if not grant or not grant.open then
    return 0
  end
  local minus, left = {}, {}
  for unit, charged in ipairs(grant.charged) do
    minus[unit] = -charged
    left[unit] = charged - math.max(0, math.min(rest[unit], charged))
  end
  amend(grant.counters, grant.spent, minus)
  grant.open, grant.spent, grant.charged = false, math.min(grant.spent, now), left
  charge(grant.counters, grant.spent, left)
  if now < grant.ends then
    grant.til = grant.ends
    redis.call('PEXPIRE', key_of(number), whole(grant.til - now + KEPT))
  end
  save(grant)
  return 1
end

local function settle()
  local number = said.grant
  if number == '' then
    number = redis.call('GET', prefix .. 'request:' .. said.request)
    if not number then
      -- An ask that comes later was not waited for: it waited for a Redis that stood still.
      redis.call('SET', prefix .. 'request:' .. said.request, 'over', 'PX', KEPT)
    end
  end
  local grant = number and number ~= 'over' and grant_of(number)
  if not grant or redis.call('HSETNX', key_of(number), 'draw ' .. whole(said.draw), 1) == 0 then
    return { now, 0, 0 }
  end
  local before = said.draw == 0 and grant.need or said.estimate
  local after = given(said.used) and said.used or before
  local by = {}
  for unit = 1, 3 do
    by[unit] = after[unit] - before[unit]
  end
  if said.draw == 0 then
    stop(grant)
    redis.call('DEL', prefix .. 'request:' .. said.request)
    amend(grant.counters, grant.at, by)
  else
    for unit = 1, 3 do
      by[unit] = math.max(by[unit], -grant.charged[unit])
      grant.charged[unit] = grant.charged[unit] + by[unit]
    end
    amend(grant.counters, grant.spent, by)
    save(grant)
  end
  if not grant.leased then
    redis.call('DEL', key_of(number))
  end
  touch(grant.tenant)
  return { now, 1, before[1] }
end
