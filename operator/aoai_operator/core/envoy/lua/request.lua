-- The one filter of a request's way in (here) and of its answer's way out (response.lua, the same script, below). Before this
-- text stand json.lua, quota.lua and the data:
--   OPERATIONS[name]: what a tenant may ask of Azure, all of it by POST
--   ANONYMOUS: the client name that api_key_auth gives to the published key of open pools
-- What is known of a pool comes in the metadata of its virtual host, or of its routes where it shares one:
--   pool = {key, open, max (bytes), cap (of a wait, ms), default (model), list = {models}, lone = {models of one host},
--           models = {name -> the deployment's name where all hosts share it, else false},
--           lanes = {tenant -> lane}, views = {lane -> {default, list, lone, models}}, where tenants have endpoints of their own,
--           grants = {tenant -> true (all its models) or {model -> true}},
--           tokens = {apps = {id -> tenant}, groups = {id -> tenant}, accounts = {"namespace/name" -> tenant}}, of a pool that takes them,
--           quotas = {tenant -> {mark, deny, shadow, tokens, requests, models = {name -> {tokens, requests}}}}}
-- Errors are shaped as OpenAI's, so that its SDKs raise their own exceptions.
--
-- Every call into Envoy costs about 1 % of a proxied request, and writing metadata 10 %: so what the path says comes by the
-- route's name, nothing is read that is not needed, and garbage is collected late.
collectgarbage('setpause', 400)
collectgarbage('setstepmul', 400)

-- Text of a client's in a JSON string of ours.
local function quote(s)
  if #s > 80 then s = sub(s, 1, 80) .. '...' end
  return (string.gsub(s, '[%c"\\\128-\255]', function(c) return format('%%%02X', byte(c)) end))
end

-- Answers in Envoy's place; the header keeps Envoy from shaping the answer as one of its own.
local function answer(h, status, text)
  h:headers():replace('x-aoai-answered', '1')
  h:respond({[':status'] = status, ['content-type'] = 'application/json'}, text)
end

local function refuse(h, status, kind, code, message, param)
  answer(h, status, format('{"error":{"message":"%s","type":"%s","param":%s,"code":"%s"}}', message, kind, param or 'null', code))
end

-- The value of a header that holds a plain number, else nil. (`get` of an absent one returns nothing at all, which `tonumber`
-- refuses with an error.)
local function number_in(headers, name)
  return tonumber(match(headers:get(name) or '', '^%d+%.?%d*$'))
end

-- Metadata are copied at each look, so a pool's are read once for each revision, and kept.
local pools, kept = {}, 0
local function pool_of(h, key, revision)
  local pool = pools[key]
  if pool and pool.revision == revision then return pool end
  if kept == 10000 then pools, kept = {}, 0 end
  pool = h:route():metadata():get('pool') or h:virtualHost():metadata():get('pool')
  if pool then
    pool.revision, pool.routes, pool.entries = revision, {}, {}
    pools[key], kept = pool, kept + 1
  end
  return pool
end

-- A route's name says what the path had said: pool|characters before /openai|kind|model|revision of the pool's data, and |lane of
-- a tenant that has endpoints of its own. Kinds:
-- `deployment`, the model stands in the path; `any`, it is still to be found, and this is the pool's first; `model`, it was
-- found. Names are few: remembered, and forgotten with their revision. Nil: a route of no pool.
local routes = {}
local function route_of(h, name)
  local r = routes[name]
  if r then return r end
  local key, strip, kind, model, revision, lane = match(name, '^([^|]*)|(%d+)|(%a+)|([^|]*)|(%x+)|?(%x*)$')
  if not key then return nil end
  local before, pool = pools[key], pool_of(h, key, revision)
  if before and before ~= pool then
    for old in pairs(before.routes) do routes[old] = nil end
  end
  r = {id = key .. '|' .. model .. '|' .. lane, view = pool and pool.views and pool.views[lane] or pool, pool = pool, strip = tonumber(strip), kind = kind, model = model, paths = {}, count = 0}
  if pool then routes[name], pool.routes[name] = r, true end
  return r
end

-- Whether the usage of a stream can be asked for: always in v1, since 2024-09 in dated API versions.
local function can_ask_usage(operation, query)
  if operation ~= 'chat/completions' and operation ~= 'completions' then return false end
  local version = match(query, 'api%-version=(%d%d%d%d%-%d%d)')
  return not version or version >= '2024-09'
end

-- What a path says below its route. Paths are mostly few, too; a thousand are remembered.
local function path_of(route, raw)
  local known = route.paths[raw]
  if known then return known end
  local path = sub(raw, route.strip + 1)
  local at = find(path, '?', 1, true)
  local query = at and sub(path, at + 1) or ''
  if at then path = sub(path, 1, at - 1) end
  local operation, named
  if route.kind == 'deployment' then
    named, operation = match(path, '^/openai/deployments/([^/]*)/?(.*)')
    if route.model ~= '' then named = route.model end
  else
    operation = match(path, '^/openai/v1/(.*)') or match(path, '^/openai/(.*)') or ''
    named = match('&' .. query, '&model=([^&]*)') or match('&' .. query, '&deployment=([^&]*)')
  end
  local chat = operation == 'chat/completions' or operation == 'completions'
  known = {path = path, operation = operation, named = named, chat = chat, asks = can_ask_usage(operation, query), json = route.kind ~= 'deployment',
    models = route.kind == 'any' and (operation == 'models' or match(operation, '^models/[^/]+$')) and true}
  if route.count == 1000 then route.paths, route.count = {}, 0 end
  route.paths[raw], route.count = known, route.count + 1
  return known
end

-- Whose tenant the caller is by the token that Envoy verified: its application, the first by name of its groups' tenants, or its
-- service account. Empty: nobody's. And whether there was a token.
local function tenant_of_token(h, tokens)
  local verified = h:streamInfo():dynamicMetadata():get('envoy.filters.http.jwt_authn')
  local entra, account = verified and verified.entra, verified and verified.serviceAccount
  local tenant
  if entra then
    tenant = tokens.apps[string.lower(tostring(entra.appid or entra.azp))]
    if not tenant and type(entra.groups) == 'table' then
      for _, group in ipairs(entra.groups) do
        local one = tokens.groups[string.lower(tostring(group))]
        if one and (not tenant or one < tenant) then tenant = one end
      end
    end
  elseif account then
    local namespace, name = match(tostring(account.sub), '^system:serviceaccount:([^:]+):([^:]+)$')
    tenant = namespace and tokens.accounts[namespace .. '/' .. name]
  end
  if not tenant then return '', verified ~= nil end
  -- As api_key_auth does.
  h:headers():replace('x-aoai-tenant', tenant)
  h:streamInfo():filterState():set('aoai.tenant', 'envoy.string', tenant)
  return tenant, true
end

-- What the tenant may use of this pool: true for everything, a set of models, or nil after a refusal was sent.
local function admit(h, pool, tenant, shown)
  local grant = pool.grants[tenant]
  if grant then return grant end
  -- A key that nobody knows does not come here, so this is a token that nobody verified.
  if shown or h:headers():get('authorization') then
    return refuse(h, '401', 'invalid_request_error', 'invalid_token', pool.tokens and 'Access denied: the token proves no tenant of this pool.'
      or 'Access denied: this pool takes no tokens. Send an API key.')
  end
  if pool.open then return true end
  refuse(h, '401', 'invalid_request_error', 'invalid_api_key',
    'Access denied: no API key. Send it as `api-key`, or as `Authorization: Bearer`.')
end

local function list_models(h, view, grant, id)
  local items = {}
  for _, name in ipairs(view.list) do
    if (grant == true or grant[name]) and (not id or id == name) then
      items[#items + 1] = format('{"id":"%s","object":"model","created":0,"owned_by":"azure-openai"}', name)
    end
  end
  if id and not items[1] then
    return refuse(h, '404', 'invalid_request_error', 'model_not_found', 'The model `' .. quote(id) .. '` does not exist here.', '"model"')
  end
  answer(h, '200', id and items[1] or '{"object":"list","data":[' .. table.concat(items, ',') .. ']}')
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
    local a, b = member(old, '"include_usage"')
    if a and (not b or sub(old, a, b) == 'true') then return nil end
    new = a and sub(old, 1, a - 1) .. 'true' .. sub(old, b + 1) or '{"include_usage":true,' .. sub(old, 2)
  end
  return sub(s, 1, from - 1) .. new .. sub(s, to + 1)
end

local function unknown_operation(h, method, at)
  refuse(h, '404', 'invalid_request_error', 'unknown_operation',
    'This gateway does not serve ' .. quote(method) .. ' `' .. quote(at.path) .. '`; it serves inference that names a model.')
end

local function unknown_model(h, pool, model, how)
  if model == '' then
    refuse(h, '400', 'invalid_request_error', 'missing_model', 'No model: name it as a string in the top level of the JSON body, once; a form goes to /openai/deployments/<model>/... instead.', '"model"')
  elseif how == 'denied' then
    refuse(h, '403', 'permission_error', 'model_not_allowed', 'The tenant may not use the model `' .. quote(model) .. '` of this pool.', '"model"')
  else
    refuse(h, '404', 'invalid_request_error', 'DeploymentNotFound', 'The model `' .. quote(model) .. '` does not exist in the pool '
      .. pool.key .. '. `GET .../models` lists those you may use.', '"model"')
  end
end

-- Envoy's own limit is soft: what comes in one piece passes it. And where nobody reads a body, it would not say that it is too
-- large, but silently give up retries.
local function too_large(h, pool, size)
  refuse(h, '413', 'invalid_request_error', 'request_too_large',
    format('The request has %d bytes; the pool takes at most %d (spec.limits.maxRequestBytes).', size, pool.max))
end

-- Reads the body: its text and the model that it names, or nil after a refusal was sent.
local function read_body(h, pool, at)
  local body = h:body()
  local n = body and body:length() or 0
  if n == 0 then
    if at.named then return '', nil end
    refuse(h, '404', 'invalid_request_error', 'unknown_operation',
      'This gateway serves requests that name a model in the path, the query or a JSON body; `' .. quote(at.path) .. '` does not.')
    return nil
  end
  if n > pool.max then return too_large(h, pool, n) end
  local s = body:getBytes(0, n)
  if at.json and not find(s, '^%s*{') then
    refuse(h, '400', 'invalid_request_error', 'not_json',
      'The body is no JSON object. A form (multipart) goes to /openai/deployments/<model>/..., where the path names the model.')
    return nil
  end
  if disguised(s) then
    refuse(h, '400', 'invalid_request_error', 'escaped_key', 'The JSON body has a member name written with escapes; write it plainly.')
    return nil
  end
  return s, body
end

-- The body as it goes on: with the deployment's name, where all hosts share one, and with a wish for usage. Returns it, and
-- whether it wants a stream, and whether the usage was our wish alone.
local function rewrite(s, from, to, deployment, asks)
  if deployment and from and sub(s, from + 1, to - 1) ~= deployment then s = sub(s, 1, from) .. deployment .. sub(s, to) end
  local a, b = member(s, '"stream"')
  if not b or sub(s, a, b) ~= 'true' then return s, false, false end
  local asked = asks and with_usage(s)
  return asked or s, true, asked and true or false
end

-- Whether the tenant's quota lets the request in, after what the log needs to settle it was kept.
local function within_quota(h, pool, tenant, model, operation, s)
  local quota = pool.quotas[tenant]
  if pool.learns then quotas_seen = true end
  if not quota then return true end
  if not s and operation == 'embeddings' then
    local body = h:body()
    s = body and body:getBytes(0, body:length())
  elseif not s then h:body() end      -- an answer before the whole body came would close the connection
  local note = quota_admits(h, pool, tenant, model, quota, s, operation)
  if note then keep_for_the_log(h, note) end
  return note
end

function envoy_on_request(h)
  local route = route_of(h, h:streamInfo():routeName())
  if not route then return end
  local pool, headers = route.pool, h:headers()
  if not pool then return refuse(h, '500', 'server_error', 'gateway_error', 'The gateway is starting.') end
  local tenant = headers:get('x-aoai-tenant') or ''
  local shown = false
  if tenant == ANONYMOUS then tenant = '' elseif tenant == '' and pool.tokens then tenant, shown = tenant_of_token(h, pool.tokens) end
  local grant = admit(h, pool, tenant, shown)
  if not grant then return end
  local lane = pool.lanes and pool.lanes[tenant]
  local view = lane and pool.views[lane] or pool
  local at = path_of(route, headers:get(':path'))
  local method = headers:get(':method')
  if at.models and method == 'GET' then return list_models(h, view, grant, match(at.operation, '^models/(.+)')) end
  -- Whatever else our credential could do at Azure (files, stored answers, batches, fine-tuning) is no tenant's to do.
  if method ~= 'POST' or not OPERATIONS[at.operation] then return unknown_operation(h, method, at) end

  local model = at.named
  if model then
    local problem = view.models[model] == nil and 'unknown' or grant ~= true and not grant[model] and 'denied'
    if problem then return unknown_model(h, pool, model, problem) end
  end
  local text
  if not model or at.chat or route.kind == 'any' then
    local s, body = read_body(h, pool, at)
    if not s then return end
    text = s
    if body then
      local named, from, to = text_member(s, '"model"')
      -- Where the path names no deployment Azure goes by the body, whatever the query says.
      if not model or route.kind == 'any' and member(s, '"model"') then
        model = named or ''
        local problem = view.models[model] == nil and 'unknown' or grant ~= true and not grant[model] and 'denied'
        if problem then return unknown_model(h, pool, model, problem) end
      end
      local new, stream, alone = rewrite(s, from, to, view.models[model], at.asks)
      if new ~= s then
        local n = body:setBytes(new)
        headers = h:headers()
        if headers:get('content-length') then headers:replace('content-length', format('%d', n)) end
      end
      if stream then
        h:streamInfo():dynamicMetadata():set('aoai', 'stream', at.chat and (alone and 'strip' or 'keep') or at.operation)
      end
    end
  else
    local size = number_in(headers, 'content-length')
    if not size then
      local body = h:body()
      size = body and body:length() or 0
    end
    if size > pool.max then return too_large(h, pool, size) end
  end
  if LEDGER and pool.quotas and not within_quota(h, pool, tenant, model, at.operation, text) then return end
  local another = route.kind == 'any' and model ~= view.default
  if another then h:headers():replace('x-aoai-model', model) end
  if lane then h:headers():replace('x-aoai-lane', lane) end
  if another or lane then h:clearRouteCache() end
end
