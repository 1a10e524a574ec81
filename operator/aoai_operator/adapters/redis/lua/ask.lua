-- To let a request in.

-- Of a pool that is shared: its total holds only for what is more than the tenant's guarantee.
local function holds(counter, seen)
  local guaranteed = counter[6]
  return counter[3] >= 0 and (not given(guaranteed) or seen[said.mine].used + said.need[1] > guaranteed)
end

local function fits(seen)
  for place, counter in ipairs(said.counters) do
    local need = said.need[counter[2]]
    if need > 0 and holds(counter, seen) and seen[place].used + need > counter[3] then
      return false
    end
  end
  return true
end

local function lease(seen)
  if not given(said.want) then
    return nil, 0
  end
  local found, needed = {}, {}
  for unit = 1, 3 do
    found[unit], needed[unit] = math.max(said.want[unit], 0), said.want[unit] >= 0
  end
  local far, life = true, FAR
  for place, counter in ipairs(said.counters) do
    if holds(counter, seen) then
      local unit, most = counter[2], counter[3]
      local left = most - seen[place].used - said.need[unit]
      local share = math.min(math.floor(most / OF_LIMIT), math.floor(left / OF_LEFT))
      found[unit] = math.max(0, math.min(found[unit], share))
      needed[unit] = needed[unit] or said.usual[unit] > 0
      if counter[4] >= 0 then
        life = math.min(life, counter[5] - 1 - now)
      elseif 2 * left <= most then
        far = false
      end
    end
  end
  life = far and life or math.min(life, NEAR)
  local least = far and 1 or 2
  for unit = 1, 3 do
    if needed[unit] and found[unit] < math.max(1, least * said.usual[unit]) then
      return nil, 0
    end
  end
  if life < WORTH then
    return nil, 0
  end
  return found, life
end

local function counted()
  redis.call('SADD', prefix .. 'models:' .. said.tenant, said.model)
  redis.call('PEXPIRE', prefix .. 'models:' .. said.tenant, KEPT)
  touch(said.tenant)
end

-- Lets it in, after what was seen, and amends that.
local function admit(seen, found, life)
  local charged = found or { 0, 0, 0 }
  local counters = {}
  for place, counter in ipairs(said.counters) do
    local need, more, one = said.need[counter[2]], charged[counter[2]], seen[place]
    counters[place] = { counter[1], counter[2], -1, counter[4] }
    if need ~= 0 or more ~= 0 then
      one.used = one.used + need + more
      one.last = math.max(one.last or 0, math.floor((more ~= 0 and now + life or now) / SECOND))
    end
  end
  local ends = now + life + said.timeout
  local grant = {
    number = said.grant, tenant = said.tenant, counters = counters, at = now, need = said.need, spent = now + life,
    charged = charged, leased = found ~= nil, open = true, ends = ends, til = ends,
  }
  if found and said.budgets then
    grant.til = math.max(ends, now + UNSPENT)
  end
  charge(said.counters, now, said.need)
  charge(said.counters, grant.spent, charged)
  save(grant)
  redis.call('PEXPIRE', key_of(said.grant), whole(grant.til - now + KEPT))
  counted()
  if said.running then
    redis.call('ZADD', prefix .. 'under:' .. said.tenant, whole(ends), said.grant)
    redis.call('PEXPIRE', prefix .. 'under:' .. said.tenant, whole(life + said.timeout + KEPT))
  end
  if said.request ~= '' then
    redis.call('SET', prefix .. 'request:' .. said.request, said.grant, 'PX', whole(life + said.timeout + KEPT))
  end
end

local function look()
  local seen = {}
  for place, counter in ipairs(said.counters) do
    seen[place] = used(counter)
  end
  return seen
end

-- What counts now as the caller reads it: {slot, amount, ...} of a minute, {used} of a budget. All of it where something
-- was refused, as it says when something will be free; else when the last of it lapses is enough.
local function told(seen, all)
  local found = {}
  for place, counter in ipairs(said.counters) do
    local one = seen[place]
    if counter[4] >= 0 then
      found[place] = { one.used }
    elseif all then
      found[place] = one
    else
      found[place] = one.used ~= 0 and { one.last, one.used } or {}
    end
  end
  return found
end

local function wrong_window()
  for _, counter in ipairs(said.counters) do
    if counter[4] >= 0 and (now < counter[4] or now >= counter[5]) then
      return true
    end
  end
  return false
end

local function want()
  if given(said.wanted) then
    charge_minute(said.wanted, now, said.need[1])
    redis.call('HSET', prefix .. said.asked, said.tenant, whole(now))
    redis.call('PEXPIRE', prefix .. said.asked, DAY)
  end
end

local function ask()
  if redis.call('EXISTS', prefix .. 'begun') == 0 then
    return { now, 'forgotten' }
  end
  if said.request ~= '' and redis.call('GET', prefix .. 'request:' .. said.request) == 'over' then
    return { now, 'over' }
  end
  if wrong_window() then
    return { now, 'window' }
  end
  if #said.rests > 0 or given(said.owed) then
    look()  -- so that budgets are those of now
  end
  for _, rest in ipairs(said.rests) do
    give_back(rest[1], rest[2])
  end
  if given(said.owed) then
    charge(said.counters, now, said.owed)
    counted()
  end
  want()
  local running = prefix .. 'under:' .. said.tenant
  redis.call('ZREMRANGEBYSCORE', running, '-inf', whole(now))
  local at_once = redis.call('ZCARD', running)
  local seen = look()
  local full = given(said.concurrent) and said.running and at_once >= said.concurrent
  local refused = full or not fits(seen)
  local before = refused and told(seen, true) or {}
  if refused and not said.shadow then
    return { now, 'no', at_once, before }
  end
  local found, life
  if not refused and not given(said.concurrent) then
    found, life = lease(seen)
  end
  if not found and not said.running then
    return { now, 'ok', at_once, before, told(seen, false), '0', 0, {} }
  end
  life = life or 0
  admit(seen, found, life)
  return { now, 'ok', at_once, before, told(seen, false), said.grant, life, found or {} }
end
