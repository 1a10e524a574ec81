-- The one filter of a request's way in and of its answer's way out. Before this text stand json.lua and the data:
--   POOLS[key] = {key, open, max (bytes), cap (of a wait, ms), default (model), models = {name -> deployment common to all hosts, or false}, list = {names}}
--   TENANTS[key] = {pool key -> true (all its models) or {model -> true}}
--   ANONYMOUS: the client name that api_key_auth gives to the published key of open pools
-- Errors are shaped as OpenAI's, so that its SDKs raise their own exceptions.
local format, ceil, lower = string.format, math.ceil, string.lower
local tostring, tonumber, pairs = tostring, tonumber, pairs

-- Text of a client's in a JSON string of ours.
local function quote(s)
  if #s > 80 then s = sub(s, 1, 80) .. '...' end
  return (string.gsub(s, '[%c"\\\128-\255]', function(c) return format('%%%02X', byte(c)) end))
end

local function refuse(h, status, kind, code, message, param)
  h:headers():replace('x-aoai-answered', '1')
  h:respond({[':status'] = status, ['content-type'] = 'application/json'},
    format('{"error":{"message":"%s","type":"%s","param":%s,"code":"%s"}}', message, kind, param or 'null', code))
end

-- A route's name says what the path had said: pool|characters before /openai|kind|model. Names are few: remembered.
local routes = {}
local function route_of(name)
  local r = routes[name]
  if r == nil then
    local key, strip, kind, model = match(name, '^([^|]*)|(%d+)|(%a+)|(.*)$')
    r = POOLS[key] and {pool = POOLS[key], strip = tonumber(strip), kind = kind, model = model ~= '' and model or nil} or false
    routes[name] = r
  end
  return r
end

-- What the tenant may use of this pool: true for everything, a set of models, or nil after a refusal was sent.
local function admit(h, pool, tenant)
  local grant = TENANTS[tenant] and TENANTS[tenant][pool.key]
  if grant or pool.open then return grant or true end
  if tenant == '' then
    refuse(h, '401', 'invalid_request_error', 'invalid_api_key',
      'Access denied: no API key. Send it as `api-key`, or as `Authorization: Bearer`.')
  else
    refuse(h, '403', 'permission_error', 'pool_not_allowed',
      'The tenant ' .. tenant .. ' has no TenantQuota for the pool ' .. pool.key .. '.')
  end
end

local function list_models(h, pool, grant, id)
  local items = {}
  for _, name in ipairs(pool.list) do
    if (grant == true or grant[name]) and (not id or id == name) then
      items[#items + 1] = format('{"id":"%s","object":"model","created":0,"owned_by":"azure-openai"}', name)
    end
  end
  if id and not items[1] then
    return refuse(h, '404', 'invalid_request_error', 'model_not_found', 'The model `' .. quote(id) .. '` does not exist here.', '"model"')
  end
  h:headers():replace('x-aoai-answered', '1')
  local text = id and items[1] or '{"object":"list","data":[' .. table.concat(items, ',') .. ']}'
  h:respond({[':status'] = '200', ['content-type'] = 'application/json'}, text)
end

-- Whether the usage of a stream can be asked for: always in v1, since 2024-09 in dated API versions.
local function can_ask_usage(operation, query)
  if operation ~= 'chat/completions' and operation ~= 'completions' then return false end
  local version = match(query, 'api%-version=(%d%d%d%d%-%d%d)')
  return not version or version >= '2024-09'
end

-- The body with `stream_options.include_usage` set, or nil when the client asked for it itself.
local function with_usage(s)
  local from, to = member(s, '"stream_options"')
  if not from then
    local p = match(s, '^%s*{()')
    return sub(s, 1, p - 1) .. '"stream_options":{"include_usage":true},' .. sub(s, p)
  end
  if not to then return nil end
  local old, new = sub(s, from, to), '{"include_usage":true}'
  if byte(old) == 123 and not match(old, '^{%s*}$') then
    if find(old, '"include_usage"%s*:%s*true') then return nil end
    local n
    new, n = string.gsub(old, '("include_usage"%s*:%s*)%w+', '%1true')
    if n == 0 then new = '{"include_usage":true,' .. sub(old, 2) end
  end
  return sub(s, 1, from - 1) .. new .. sub(s, to + 1)
end

-- Reads the body once. Returns the model it names, the text, the span of the model, and whether it wants a stream; or nil
-- after a refusal was sent.
local function read_body(h, route)
  local body = h:body()
  if not body or body:length() == 0 then
    if route.model then return route.model end
    refuse(h, '400', 'invalid_request_error', 'missing_body', 'The request has no body; send JSON with `model`.')
    return nil
  end
  local s = body:getBytes(0, body:length())
  if disguised(s) then
    refuse(h, '400', 'invalid_request_error', 'escaped_key', 'The JSON body has a member name written with escapes; write it plainly.')
    return nil
  end
  local model, from, to = text_member(s, '"model"')
  local a, b = member(s, '"stream"')
  return model or route.model or '', s, from, to, b and sub(s, a, b) == 'true', body
end

local function unknown_model(h, pool, model, how)
  if model == '' then
    refuse(h, '400', 'invalid_request_error', 'missing_model', 'No model: name it as a string in the top level of the JSON body, once.', '"model"')
  elseif how == 'denied' then
    refuse(h, '403', 'permission_error', 'model_not_allowed', 'The tenant may not use the model `' .. quote(model) .. '` of this pool.', '"model"')
  else
    refuse(h, '404', 'invalid_request_error', 'DeploymentNotFound', 'The model `' .. quote(model) .. '` does not exist in the pool '
      .. pool.key .. '. `GET .../models` lists those you may use.', '"model"')
  end
end

function envoy_on_request(h)
  local route = route_of(h:streamInfo():routeName())
  if not route then return end
  local pool, headers = route.pool, h:headers()
  local tenant = headers:get('x-aoai-tenant') or ''
  if tenant == ANONYMOUS then tenant = '' end
  local grant = admit(h, pool, tenant)
  if not grant then return end

  local path = sub(headers:get(':path'), route.strip + 1)
  local at = find(path, '?', 1, true)
  local query = at and sub(path, at + 1) or ''
  if at then path = sub(path, 1, at - 1) end
  local operation = route.kind == 'deployment' and (match(path, '^/openai/deployments/[^/]*/(.*)') or '')
    or match(path, '^/openai/v1/(.*)') or match(path, '^/openai/(.*)') or ''
  local method = headers:get(':method')
  if method == 'GET' and route.kind == 'model' then
    if operation == 'models' then return list_models(h, pool, grant) end
    local id = match(operation, '^models/([^/]+)$')
    if id then return list_models(h, pool, grant, id) end
  end

  local size = tonumber(headers:get('content-length'))
  if size and size > pool.max then
    return refuse(h, '413', 'invalid_request_error', 'request_too_large',
      format('The request has %d bytes; the pool takes at most %d (spec.limits.maxRequestBytes).', size, pool.max))
  end
  local named = route.model
  if route.kind == 'deployment' and not named then named = match(path, '^/openai/deployments/([^/]*)') or '' end
  if not named then named = match('&' .. query, '&model=([^&]*)') or match('&' .. query, '&deployment=([^&]*)') end
  if named and pool.models[named] == nil then return unknown_model(h, pool, named) end
  local kind = lower(headers:get('content-type') or '')

  local model, s, from, to, stream, body = named, nil, nil, nil, false, nil
  local json = method == 'POST' and not find(kind, '^multipart/') and not find(kind, '^application/x%-www')
  if json and (not named or not size or operation == 'chat/completions' or operation == 'completions') then
    local read
    read, s, from, to, stream, body = read_body(h, {model = named})
    if not read then return end
    model = named or read
  elseif not named then
    return refuse(h, '404', 'invalid_request_error', 'unknown_operation',
      'This gateway serves operations that name a model in the path, the query or a JSON body; `' .. quote(path) .. '` does not.')
  end
  local deployment = pool.models[model]
  if deployment == nil then return unknown_model(h, pool, model) end
  if grant ~= true and not grant[model] then return unknown_model(h, pool, model, 'denied') end

  local ask, state = false, h:streamInfo():dynamicMetadata()
  if s then
    local new = s
    if deployment and from and sub(s, from + 1, to - 1) ~= deployment then new = sub(s, 1, from) .. deployment .. sub(s, to) end
    if stream and can_ask_usage(operation, query) then
      local asked = with_usage(new)
      if asked then new, ask = asked, true end
    end
    if new ~= s then
      local n = body:setBytes(new)
      headers = h:headers()
      if headers:get('content-length') then headers:replace('content-length', tostring(n)) end
    end
  end
  state:set('aoai', 'q', table.concat({pool.key, tenant, model, operation, stream and '1' or '', ask and '1' or ''}, '\t'))
  if not route.model and model ~= pool.default then
    h:headers():replace('x-aoai-model', model)
    h:clearRouteCache()
  end
end

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

local function json_answer(h, size)
  local tail
  if size and size <= 65536 then
    local body = h:body()
    if not body then return end
    tail = body:getBytes(0, body:length())
  else
    local last = ''
    tail = ''
    for chunk in h:bodyChunks() do
      local n = chunk:length()
      if n >= 8192 then tail, last = '', chunk:getBytes(n - 8192, 8192)
      elseif n > 0 then tail, last = last, chunk:getBytes(0, n) end
    end
    tail = tail .. last
  end
  local usage = usage_in(tail)
  if usage then h:streamInfo():dynamicMetadata():set('aoai', 'usage', usage) end
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

-- Without the usage event that was not asked for by the client.
local function without_usage(s)
  local p = 1
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

local CUT = 'data: {"error":{"message":"The upstream ended the stream early.","type":"server_error","param":null,"code":"upstream_stream_truncated"}}\n\n'

-- Passes a stream on as it comes, and holds back no more than an incomplete event, and that only while a usage event has to
-- be taken out.
local function stream_answer(h, strip, chat)
  local held, previous, recent, last, usage = '', '', '', nil, nil
  local out = ''
  for chunk in h:bodyChunks() do
    last = chunk
    local n = chunk:length()
    if n > 0 then
      local s = chunk:getBytes(0, n)
      out = s
      previous, recent = recent, s
      if strip then
        local whole = held == '' and s or held .. s
        local e = events_end(whole)
        out = e == #whole and whole or sub(whole, 1, e)
        held = e == #whole and '' or sub(whole, e + 1)
        if find(out, '"usage"', 1, true) then
          local found = usage_in(out)
          if found then usage, out = found, without_usage(out) end
        end
        if out ~= s then chunk:setBytes(out) end
      end
    else
      out = ''
    end
  end
  if not last then return end
  local tail = previous .. recent
  if not strip then usage = usage_in(#tail > 65536 and sub(tail, -65536) or tail) end
  if usage then h:streamInfo():dynamicMetadata():set('aoai', 'usage', usage) end
  local cut = chat and not find(tail, '[DONE]', 1, true)
  if held ~= '' or cut then last:setBytes(out .. held .. (cut and CUT or '')) end
end

-- The first moment, in epoch ms, at which a host of pool|model may be asked again, as the last refusals said. It bridges the
-- time until the control plane says the same through the route; each worker knows its own.
local waits = {}

-- A 429 says how long to wait, exactly, counting down: until the first moment at which any host of the model may be asked.
local function throttled(h, headers, q, none_left)
  local now = h:timestamp()
  local key, model = match(q or '', '^([^\t]*)\t[^\t]*\t([^\t]*)')
  local pool = POOLS[key]
  if not pool then return end
  local name = key .. '|' .. model
  local at = waits[name]
  if at and at <= now then at = nil end
  if not none_left then
    local ms = tonumber(headers:get('retry-after-ms')) or (tonumber(headers:get('retry-after')) or 1) * 1000
    local told = now + math.max(1, math.min(ms, pool.cap))
    if not at or told < at then at = told end
    waits[name] = at
  end
  local known = h:route():metadata()
  local until_ms = known:get('until_ms')
  if until_ms and until_ms > now and (not at or until_ms < at or none_left) then at = until_ms end
  if none_left and not until_ms and known:get('down') then headers:replace(':status', '503') end
  local wait = ceil((at or now + 1000) - now)
  headers:replace('retry-after-ms', format('%d', wait))
  headers:replace('retry-after', format('%d', ceil(wait / 1000)))
end

function envoy_on_response(h)
  local headers = h:headers()
  local status = headers:get(':status')
  if status == '200' then
    local state = h:streamInfo():dynamicMetadata():get('aoai')
    local q = state and state.q
    if not q then return end
    local kind = headers:get('content-type') or ''
    if find(kind, '^application/json') then return json_answer(h, tonumber(headers:get('content-length'))) end
    if find(kind, '^text/event%-stream') then
      return stream_answer(h, byte(q, -1) == 49, find(q, '\t[%a/]*completions\t') ~= nil)
    end
    return
  end
  local ours = headers:get('x-aoai-local')
  if ours then headers:remove('x-aoai-local') end
  local state = h:streamInfo():dynamicMetadata():get('aoai')
  if status == '429' then return throttled(h, headers, state and state.q, ours) end
  if (status == '401' or status == '403') and not ours and state then
    headers:replace(':status', '503')
    headers:replace('content-type', 'application/json')
    local n = h:body(true):setBytes('{"error":{"message":"The gateway\'s own credential was refused by every region that was tried. '
      .. 'Your request was not at fault.","type":"server_error","param":null,"code":"upstream_credential_refused"}}')
    h:headers():replace('content-length', tostring(n))
  end
end
