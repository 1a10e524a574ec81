-- The way out of an answer: usage, streams that were cut, waits. Part of the script that request.lua begins.

-- The usage object at the end of `s`, as its JSON text.
local function usage_in(s)
  local at, p = nil, 1
  while true do
    local a, b = find(s, '"usage"', p, true)
    if not a then break end
    at = match(s, '^%s*:%s*(){', b + 1) or at
    p = b + 1
  end
  return at and match(s, '^%b{}', at)
end

-- Keeps the usage for the access log, which has one line for each request.
local function note(h, usage)
  if find(usage, '[\r\n\t]') then usage = string.gsub(usage, '[\r\n\t]', ' ') end
  h:streamInfo():filterState():set('aoai.usage', 'envoy.string', usage)
end

-- Azure writes the usage last; 512 bytes of the end are enough nearly always, and the rest is looked at when they are not.
local function json_answer(h, size)
  local tail
  if size and size <= 65536 then
    local body = h:body()
    if not body then return end
    local n = body:length()
    tail = n > 512 and usage_in(body:getBytes(n - 512, 512)) or usage_in(body:getBytes(0, n))
  else
    local previous, last = '', ''
    for chunk in h:bodyChunks() do
      local n = chunk:length()
      if n >= 8192 then previous, last = '', chunk:getBytes(n - 8192, 8192)
      elseif n > 0 then previous, last = last, chunk:getBytes(0, n) end
    end
    tail = usage_in(previous .. last)
  end
  if tail then note(h, tail) end
end

-- The position after the last complete event of s; events end with an empty line.
local function events_end(s)
  local n = #s
  if byte(s, n) == 10 and (byte(s, n - 1) == 10 or sub(s, n - 3, n) == '\r\n\r\n') then return n end
  local last, p = 0, 1
  while true do
    local _, e = find(s, '\n\r?\n', p)
    if not e then return last end
    last, p = e, e + 1
  end
end

-- Where the last events of s begin. The usage event is followed by `[DONE]` alone: it is in the last two events of what has
-- arrived, and a chunk of a hundred events needs no look at the others.
local function last_events(s)
  local n = #s
  if n <= 2048 then return 1 end
  local _, e = find(s, '\n\r?\n', n - 2047)
  return e and e < n and e + 1 or 1
end

-- Without the usage event that was not asked for by the client; looks at s from position p on.
local function without_usage(s, p)
  while p <= #s do
    local _, e = find(s, '\n\r?\n', p)
    e = e or #s
    local event = sub(s, p, e)
    if find(event, '"usage"%s*:%s*{') and find(event, '"choices"%s*:%s*%[%s*%]') then
      return sub(s, 1, p - 1) .. sub(s, e + 1)
    end
    p = e + 1
  end
  return s
end

-- How a stream tells that it was whole, and what is said when it was not: an SDK raises on `error`.
local ERROR = '"error":{"message":"The upstream ended the stream early.","type":"server_error","param":null,"code":"upstream_stream_truncated"}'
local CUT = {chat = 'data: {' .. ERROR .. '}\n\n', responses = 'event: error\ndata: {"type":"error",' .. ERROR .. '}\n\n'}
local LAST = {'"response.completed"', '"response.failed"', '"response.incomplete"', '"type":"error"'}
local function has_last(s)
  for i = 1, #LAST do
    if find(s, LAST[i], 1, true) then return true end
  end
  return false
end

-- Passes a stream on as it comes, and holds back no more than an incomplete event, and that only while a usage event has to
-- be taken out. Its last pieces are kept, 2000 bytes at least in however small pieces they come.
local function stream_answer(h, state)
  local strip = state == 'strip'
  local kind = (strip or state == 'keep') and 'chat' or state == 'responses' and state or nil
  local held, last, usage = '', nil, nil
  local ended, edge = false, ''
  local recent, k = {}, 0
  local out = ''
  for chunk in h:bodyChunks() do
    last = chunk
    local n = chunk:length()
    if n > 0 then
      local s = chunk:getBytes(0, n)
      out = s
      if kind == 'responses' and not ended then
        edge = edge .. s
        ended, edge = has_last(edge), sub(edge, -32)
      end
      if n >= 2048 then recent, k = {s}, 1
      elseif k > 0 and #recent[k] < 64 then recent[k] = recent[k] .. s
      else
        k = k % 32 + 1
        recent[k] = s
      end
      if strip then
        local whole = held == '' and s or held .. s
        local e = events_end(whole)
        out = e == #whole and whole or sub(whole, 1, e)
        held = e == #whole and '' or sub(whole, e + 1)
        local p = last_events(out)
        if find(out, '"usage":{', p, true) or find(out, '"usage": {', p, true) then
          local found = usage_in(p > 1 and sub(out, p) or out)
          if found then usage, out = found, without_usage(out, p) end
        end
        if out ~= s then chunk:setBytes(out) end
      end
    else
      out = ''
    end
  end
  if not last then return end
  local tail = table.concat(recent, '', k + 1) .. table.concat(recent, '', 1, k)
  usage = usage or usage_in(#tail > 65536 and sub(tail, -65536) or tail)
  if usage then note(h, usage) end
  if kind == 'chat' then ended = find(tail, '[DONE]', 1, true) end
  if kind and not ended then
    -- Of an event that is not complete, what was held back is dropped, and what was sent is ended.
    last:setBytes(out .. ((strip or events_end(tail) == #tail) and '' or '\n\n') .. CUT[kind])
  elseif held ~= '' then
    last:setBytes(out .. held)
  end
end

-- The first moment, in epoch ms, at which a host of pool|model may be asked again, as the last refusals said. It bridges the
-- time until the control plane says the same through the route; each worker knows its own.
local waits = {}

-- What a region needs to be let in again after its time is over: a client that waits exactly as told must find it there.
local RETURN_MS = 200

local DOWN = '{"error":{"message":"Every region of this model is out of service at the moment.","type":"server_error",'
  .. '"param":null,"code":"no_healthy_region"}}'

local function replace_body(h, text)
  local n = h:body(true):setBytes(text)
  h:headers():replace('content-length', format('%d', n))
end

-- A 429 says how long to wait, exactly, counting down: until the first moment at which any host of the model may be asked.
local function throttled(h, headers, none_left)
  local route = route_of(h, h:streamInfo():routeName())
  if not (route and route.pool) then return end
  local now, at = h:timestamp(), waits[route.id]
  if at and at <= now then at = nil end
  if not none_left then
    local ms = number_in(headers, 'retry-after-ms') or (number_in(headers, 'retry-after') or 1) * 1000
    -- Of several hosts only the last answer is seen here. Another may be back sooner, so until the control plane has told
    -- the first moment of all, a short wait is said rather than one that may be too long.
    local longest = route.view.lone[route.model] and route.pool.cap or math.min(route.pool.cap, 1000)
    local told = now + math.max(1, math.min(ms, longest))
    if not at or told < at then at = told end
    waits[route.id] = at
  end
  local known = h:route():metadata()
  local until_ms = known:get('until_ms')
  if until_ms and until_ms > now and (not at or until_ms < at or none_left) then at = until_ms end
  local wait = at and ceil(at - now) + RETURN_MS or 1000
  headers:replace('retry-after-ms', format('%d', wait))
  headers:replace('retry-after', format('%d', ceil(wait / 1000)))
  if none_left and not until_ms and known:get('down') then
    headers:replace(':status', '503')
    replace_body(h, DOWN)
  end
end

local REFUSED = '{"error":{"message":"The gateway\'s own credential was refused by every region that was tried. '
  .. 'Your request was not at fault.","type":"server_error","param":null,"code":"upstream_credential_refused"}}'

-- What the deployment that answered gives in a minute is for the log alone, after what the quota says there.
local function keep_capacity(info, headers)
  local capacity = headers:get('x-aoai-capacity')
  if not capacity then return end
  headers:remove('x-aoai-capacity')
  local note = info:filterState():get('aoai.quota')
  if note and find(capacity, '^%d+$') and find(note, '^%d+:%d+:%d+:%d+:%d+$') then
    info:filterState():set('aoai.quota', 'envoy.string', note .. ':' .. capacity)
  end
end

-- A tenant sees what is left of its own rates.
local function tell_quota(h, headers)
  local info = h:streamInfo()
  local route = route_of(h, info:routeName())
  local pool = route and route.pool
  if not pool or not pool.quotas then return end
  if pool.learns then keep_capacity(info, headers) end
  local tenant = info:filterState():get('aoai.tenant')
  if tenant and pool.quotas[tenant] then quota_headers(headers, pool, tenant, route.model) end
end

function envoy_on_response(h)
  local headers = h:headers()
  local status = headers:get(':status')
  if status == '200' then
    if quotas_seen then tell_quota(h, headers) end
    if headers:get('content-encoding') then return end
    local kind = headers:get('content-type') or ''
    if find(kind, 'application/json', 1, true) then return json_answer(h, number_in(headers, 'content-length')) end
    if find(kind, 'text/event-stream', 1, true) then
      local state = h:streamInfo():dynamicMetadata():get('aoai')
      return stream_answer(h, state and state.stream)
    end
    return
  end
  local ours = headers:get('x-aoai-local')
  if ours then headers:remove('x-aoai-local') end
  if ours == 'quota' then return end
  if quotas_seen then tell_quota(h, headers) end
  if status == '429' then return throttled(h, headers, ours) end
  if (status == '401' or status == '403') and not ours and not h:requestHeaders():get('x-aoai-answered') then
    headers:replace(':status', '503')
    headers:replace('content-type', 'application/json')
    replace_body(h, REFUSED)
  end
end
