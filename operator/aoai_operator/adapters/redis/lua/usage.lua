-- For people, and for who counts after this.

local function usage()
  local models, spent = {}, {}
  for _, model in ipairs(redis.call('SMEMBERS', prefix .. 'models:' .. said.tenant)) do
    local key = said.tenant .. ':' .. model
    models[#models + 1] = { model, minute('minute:tokens:' .. key).used, minute('minute:requests:' .. key).used }
  end
  for place, one in ipairs(said.budgets) do
    local before = redis.call('HMGET', prefix .. one[1], 'began', 'used')
    spent[place] = tonumber(before[1] or 0) >= one[2] and tonumber(before[2]) or 0
  end
  return { now, models, spent }
end

-- Sets, and does not add: a restoration that broke off is begun anew.
local function restore()
  if redis.call('EXISTS', prefix .. 'begun') == 1 then
    return { now }
  end
  for _, tenant in ipairs(said.tenants) do
    for _, model in ipairs(tenant.models) do
      redis.call('SADD', prefix .. 'models:' .. tenant.name, model)
      redis.call('PEXPIRE', prefix .. 'models:' .. tenant.name, KEPT)
    end
    for _, one in ipairs(tenant.minutes) do
      redis.call('HSET', prefix .. one[1], math.floor(tenant.at / SECOND), whole(one[2]))
      redis.call('PEXPIRE', prefix .. one[1], KEPT)
    end
    for _, one in ipairs(tenant.budgets) do
      redis.call('HSET', prefix .. one[1], 'began', whole(one[2]), 'used', whole(one[3]))
      redis.call('PEXPIRE', prefix .. one[1], whole(math.max(1, one[4] - now + DAY)))
    end
  end
  if said.all then
    redis.call('SET', prefix .. 'begun', whole(now))
  end
  return { now }
end

-- What tenants of a pool wanted in the last minute, and when each of them asked last.
local function claims()
  local found = {}
  for place, tenant in ipairs(said.tenants) do
    local asked = redis.call('HGET', prefix .. said.asked, tenant)
    found[place] = { minute(said.wanted[place]).used, tonumber(asked or 0) }
  end
  return { now, found }
end

local calls = { ask = ask, settle = settle, usage = usage, restore = restore, claims = claims }
return calls[ARGV[1]]()
