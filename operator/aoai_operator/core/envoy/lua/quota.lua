-- Quotas: what a tenant may use is asked of the ledger (core/quota/asking.py has the two lines), or drawn from a lease.
-- Before it stand json.lua and the data:
--   LEDGER: {cluster, gateway}, where it is asked; by gRPC where a gateway is to be named; false: nowhere
--   WORKERS: how many share a rate while it is away
-- request.lua asks `quota_admits`, response.lua tells `quota_headers`.
--
-- A lease is what the ledger charged already, for this worker to spend on its own. All of this is kept by worker; what is lost
-- with it lapses in the ledger, and is never spent twice. Times are ms; a lease's life is counted from before it was asked
-- for, while the ledger counts from after it, so that clocks that differ take nothing away.
local format, ceil, floor, min, max, huge = string.format, math.ceil, math.floor, math.min, math.max, math.huge
local tonumber, gmatch, concat = tonumber, string.gmatch, table.concat

local DEADLINE = 100   -- the longest wait for an answer
local DOWN = 1000      -- for how long nobody asks a ledger that is away; one then tries
local IDLE = 15000     -- after how long what was spent says nothing of what will be
local LOW = 4          -- the next lease is fetched when a quarter is left
local DEEP = 20        -- without the ledger at most 3 s of a worker's share are saved up
local MOST = 5000      -- entries of one generation
local RESTS = 20       -- leases whose rests are told at once; what is not told stays charged

-- What is known of each tenant x pool x model. Two generations: what is not asked for while the younger fills is forgotten.
-- A pool's data keep them at hand, as long as they stay the same, so that no key must be put together for each request.
local young, old, entries = {}, {}, 0
local function entry_of(pool, tenant, model)
  local at_hand = pool.entries[model]
  if not at_hand then
    at_hand = {}
    pool.entries[model] = at_hand
  end
  local e = at_hand[tenant]
  if e and young[e.who] == e then return e end
  local who = concat({tenant, pool.key, model}, '\t')
  e = young[who]
  if not e then
    e = old[who] or {who = who, t = 0, r = 0, c = 0, till = 0, from = 0, draws = 0, spent_t = 0, spent_r = 0, spent_c = 0, since = 0,
      asking = 0, rests = {}, owed_t = 0, owed_r = 0, owed_c = 0, no_from = 0, no_till = 0}
    if entries >= MOST then
      old, young, entries = young, {}, 0
      pool.entries = {[model] = at_hand}
    end
    young[who], entries = e, entries + 1
  end
  at_hand[tenant] = e
  return e
end

-- Whether anything was ever limited here: until then no answer is looked at for it.
local quotas_seen = false

-- A whole number that a body names once at its top level; nil: it does not, false: not as one that could be trusted.
local function count_in(s, quoted)
  local from, to, times = member(s, quoted)
  if not from then return nil end
  local text = to and times == 1 and match(sub(s, from, to), '^%d+$')
  return text and min(tonumber(text), 1e9) or (sub(s, from, from + 3) == 'null' and times == 1 and nil)
end

-- How many tokens an answer may have: the least that the body names; nil where it names none.
local CAPS = {max_tokens = '"max_tokens"', max_completion_tokens = '"max_completion_tokens"', max_output_tokens = '"max_output_tokens"'}
local function cap_in(s)
  local cap, seen
  -- Plain searches: one for a pattern takes as long as all the rest.
  local a, b = find(s, '"max_', 1, true)
  while a do
    local name = match(s, '^[%l_]+', a + 1)
    local quoted = CAPS[name]
    if quoted and name ~= seen then
      local n = count_in(s, quoted)
      if n and (not cap or n < cap) then cap = n end
      seen = name
    end
    a, b = find(s, '"max_', b, true)
  end
  return cap
end

local function occurrences(s, what, after)
  local n, p = 0, 1
  while true do
    local a, b = find(s, what, p, true)
    if not a then return n end
    if match(s, after, b + 1) then n = n + 1 end
    p = b + 1
  end
end

-- How many bytes of a body are pictures and sound, which are inline base64 and no text; sound is about ten tokens a second, which
-- are a kilobyte at the least, and counts as a hundredth of its bytes.
local function inline_in(s)
  local bytes, p = 0, 1
  while true do
    local a, b = find(s, ';base64,', p, true)
    if not a then break end
    local kind = match(sub(s, max(1, a - 60), a), 'data:(%a+)/[^"]*$')
    local e = find(s, '"', b, true) or #s
    if kind == 'image' then bytes = bytes + e - b - 1
    elseif kind == 'audio' then bytes = bytes + floor((e - b - 1) * 0.99) end
    p = e
  end
  if find(s, '"input_audio"', 1, true) then
    for _, data in gmatch(s, '"input_audio"%s*:%s*{([^}]-)"data"%s*:%s*"([^"]*)"') do bytes = bytes + floor(#data * 0.99) end
  end
  return bytes
end

-- How many answers a body asks for under this name; 128, the most that there can be, where it does not say it as it should.
local function answers_in(s, quoted)
  if not find(s, quoted, 1, true) then return 1 end
  local n = count_in(s, quoted)
  return n == false and 128 or max(1, min(n or 1, 128))
end

-- What a body tells: bytes of text, cap or nil, how many answers, how many images.
local function told(s, operation)
  local bytes, images = #s, 0
  -- Parts of a message that are no text tell their type.
  if find(s, '"type"', 1, true) then
    bytes = bytes - inline_in(s)
    images = max(occurrences(s, '"image_url"', '^%s*:'), occurrences(s, '"input_image"', ''))
  end
  if operation == 'embeddings' then return bytes, 0, 1, 0 end
  local answers = answers_in(s, '"n"')
  if operation == 'completions' then answers = max(answers, answers_in(s, '"best_of"')) end
  return bytes, cap_in(s), answers, images
end

-- What is reserved for a request: tokens and cost (Guess.of and Terms.amount, with what the ledger told last).
local function reserved(g, bytes, cap, answers, images)
  local prompt = min(ceil(bytes * g.per_byte) + images * g.per_image, g.context)
  local output = (cap and min(cap, g.capped) or g.uncapped) * answers
  return ceil(prompt * g.input + output * g.output - 5e-7), ceil(prompt * g.input_price + output * g.output_price - 5e-7)
end

-- The lease in hand is over: what is left of it goes back with the next ask, and the next one takes its place.
local function close(e)
  if e.id and #e.rests < RESTS then
    e.rests[#e.rests + 1] = format('%d=%d:%d:%d', e.id, e.t == huge and 0 or e.t, e.r == huge and 0 or e.r, e.c == huge and 0 or e.c)
  end
  local n = e.next
  e.next = nil
  if n then e.id, e.t, e.r, e.c, e.from, e.till, e.low, e.draws = n.id, n.t, n.r, n.c, n.from, n.till, n.low, 0
  else e.id, e.t, e.r, e.c, e.till = nil, 0, 0, 0, 0 end
end

-- Takes a request's share of the lease in hand, or of the next one. Returns whether there was enough.
local function draw(e, t, c, now)
  for _ = 1, 2 do
    if e.id and e.t >= t and e.r >= 1 and e.c >= c and now < e.till and now >= e.from then
      e.t, e.r, e.c, e.draws = e.t - t, e.r - 1, e.c - c, e.draws + 1
      return true
    end
    if not e.next then return false end
    close(e)
  end
  return false
end

local UNIT = {tokensPerMinute = 'tokens', requestsPerMinute = 'requests', capacity = 'tokens'}
local NAMES = {tokensPerMinute = 'tokens per minute', requestsPerMinute = 'requests per minute', concurrentRequests = 'requests at once',
  capacity = 'tokens per minute, its share of what the pool can give'}

local function held_in(lease, unit, now)
  local left = lease and lease.id and now < lease.till and (unit == 'tokens' and lease.t or lease.r) or 0
  return left == huge and 0 or left
end
local function held(e, unit, now) return held_in(e, unit, now) + held_in(e.next, unit, now) end

-- A rate as its tenant sees it: what is left of it counts what this worker holds.
local function tell_rate(headers, put, e, unit, names, now)
  local rate = e.rates[unit]
  if not rate then return end
  put(headers, names[1], rate.limit_text)
  put(headers, names[2], format('%d', min(rate.limit, rate.remaining + held(e, unit, now))))
  put(headers, names[3], format('%d', max(0, rate.reset - ceil((now - e.told_at) / 1000))))
end

local TOKENS = {'x-ratelimit-limit-tokens', 'x-ratelimit-remaining-tokens', 'x-ratelimit-reset-tokens'}
local REQUESTS = {'x-ratelimit-limit-requests', 'x-ratelimit-remaining-requests', 'x-ratelimit-reset-requests'}
local function tell_rates(headers, put, e, now)
  tell_rate(headers, put, e, 'tokens', TOKENS, now)
  tell_rate(headers, put, e, 'requests', REQUESTS, now)
end

-- What the log says of a request: how it was let in, or `no:LIMIT:MODEL`, or `unasked:LIMIT:MODEL` where the ledger knows nothing of it.
local function keep_for_the_log(h, note)
  if note ~= '-' then h:streamInfo():filterState():set('aoai.quota', 'envoy.string', note) end
end

-- Answers 429. `ms` nil: it could never be let in. `word`: what the log says first.
local function quota_refuses(h, e, tenant, model, now, ms, limit, of, period, word)
  local fields = {[':status'] = '429', ['content-type'] = 'application/json', ['x-aoai-local'] = 'quota'}
  local message, kind, code
  if period then
    kind, code = 'insufficient_quota', 'insufficient_quota'
    message = ms and format('The budget of the tenant %s for this %s is used up. It begins anew at %s.', tenant, period:lower(),
        os.date('!%Y-%m-%dT%H:%M:%SZ', floor((now + ms) / 1000 + 0.5)))
      or format('This request is larger than the whole budget of the tenant %s for a %s.', tenant, period:lower())
    fields['x-should-retry'] = 'false'
  else
    kind, code = UNIT[limit] or 'requests', 'rate_limit_exceeded'
    local named = (NAMES[limit] or limit) .. (of and ' for ' .. of or '')
    if limit == 'ledger' then
      message = format('What the tenant %s may use cannot be asked at the moment, and its quota lets nothing in unasked. Retry after %d ms.', tenant, ms)
    elseif ms then message = format('The tenant %s has reached its limit of %s. Retry after %d ms.', tenant, named, ms)
    else
      message = format('This request for %s is larger than the whole limit of the tenant %s in %s, and can never be let in. '
        .. 'Send a shorter prompt, or ask for fewer tokens (max_completion_tokens).', model, tenant, named)
      fields['x-should-retry'] = 'false'
    end
  end
  if ms then fields['retry-after-ms'], fields['retry-after'] = format('%d', ms), format('%d', ceil(ms / 1000)) end
  if e.rates then tell_rates(fields, rawset, e, now) end
  keep_for_the_log(h, format('%s:%s:%s', word or 'no', limit, model))
  h:headers():replace('x-aoai-answered', '1')
  h:respond(fields, format('{"error":{"message":"%s","type":"%s","param":null,"code":"%s"}}', message, kind, code))
  return nil
end

-- The ledger's refusal holds for others, until it should be asked again. Returns whether one of this size is known to be refused,
-- and when it would be let in; nil as the time: never, as all that there is would not do.
local function known_refusal(e, t, now)
  if now >= e.no_till or now < e.no_from then return false end
  local at, free = e.frees_at, e.frees
  if #at == 0 then return t >= e.no_t, e.no_at end
  local first = 1
  while at[first + 1] and now >= at[first + 1] do first = first + 1 end
  if t <= free[first] then return false end
  for i = first + 1, #at do
    if t <= free[i] then return true, at[i] end
  end
  return true, nil
end

-- Lets a request in that is told to the ledger with the next ask.
local function owe(e, t, c)
  e.owed_t, e.owed_r, e.owed_c = e.owed_t + t, e.owed_r + 1, e.owed_c + c
  return 'owed'
end

-- The ledger is away, or slow: this worker's share of the rates holds, and what it lets in is owed, and told with the next ask.
local function without(h, e, tenant, model, quota, t, c, now, word)
  local known, at = known_refusal(e, t, now)
  local ms = known and at and at - now or DOWN
  if quota.shadow then return owe(e, t, c) end
  if known then return quota_refuses(h, e, tenant, model, now, max(1, ceil(ms)), e.no_limit, e.no_of, e.no_period, word) end
  if quota.deny then return quota_refuses(h, e, tenant, model, now, DOWN, 'ledger', nil, nil, word) end
  local limit = quota.models[model] or quota
  local gone = max(0, now - (e.open_at or now)) / WORKERS / 60000
  e.open_at = now
  local deep_t = limit.tokens and limit.tokens / WORKERS / DEEP or huge
  local deep_r = limit.requests and max(1, limit.requests / WORKERS / DEEP) or huge
  e.spare_t = min(deep_t, (e.spare_t or deep_t) + (limit.tokens or 0) * gone)
  e.spare_r = min(deep_r, (e.spare_r or deep_r) + (limit.requests or 0) * gone)
  -- One that is larger than all that may be saved up is let in when as much was, and paid back before the next.
  if e.spare_t < min(t, deep_t) or e.spare_r < 1 then
    local limit_of = e.spare_r < 1 and 'requestsPerMinute' or 'tokensPerMinute'
    return quota_refuses(h, e, tenant, model, now, DOWN, limit_of, nil, nil, word)
  end
  e.spare_t, e.spare_r = e.spare_t - t, e.spare_r - 1
  return owe(e, t, c)
end

local function triple(text)
  local t, r, c = match(text, '^([^:]+):([^:]+):([^:]+)$')
  return tonumber(t) or huge, tonumber(r) or huge, tonumber(c) or huge
end

local function rate_of(text)
  local limit, remaining, reset = match(text, '^(%d+):(%d+):(%d+)$')
  return limit and {limit = tonumber(limit), limit_text = limit, remaining = tonumber(remaining), reset = tonumber(reset)} or nil
end

-- What comes with every answer: how to estimate the next request, and what is left of the rates.
local function learn(e, guess, terms, tokens, requests, now)
  if guess ~= e.guess_text or terms ~= e.terms_text then
    local per_byte, per_image, capped, uncapped, context = match(guess, '^([^:]+):(%d+):(%d+):(%d+):(%d+)$')
    local input, output, input_price, output_price = match(terms, '^([^:]+):([^:]+):([^:]+):([^:]+)$')
    e.guess = {per_byte = tonumber(per_byte), per_image = tonumber(per_image), capped = tonumber(capped), uncapped = tonumber(uncapped),
      context = tonumber(context), input = tonumber(input), output = tonumber(output), input_price = tonumber(input_price),
      output_price = tonumber(output_price)}
    e.guess_text, e.terms_text = guess, terms
  end
  e.rates, e.told_at, e.now = {tokens = rate_of(tokens), requests = rate_of(requests)}, now, now
end

local function take_lease(e, id, lease, life, now)
  local t, r, c = triple(lease)
  local n = {id = tonumber(id), t = t, r = r, c = c, from = now, till = now + tonumber(life), low = (t == huge and r or t) / LOW}
  if e.id and now < e.till then e.next = n
  else
    close(e)
    e.next = n
    close(e)
  end
  e.spent_t, e.spent_r, e.spent_c, e.since = 0, 0, 0, now
end

local function remember_refusal(e, t, retry, limit, of, period, frees, now, till)
  local at, free = {}, {}
  for ms, tokens in gmatch(frees, '(%d+):(%d+)') do at[#at + 1], free[#free + 1] = now + tonumber(ms), tonumber(tokens) end
  e.frees_at, e.frees, e.no_from, e.no_till = at, free, now, now + till
  e.no_t, e.no_at, e.no_limit, e.no_of, e.no_period = t, retry and now + retry, limit, of, period
end

-- The ledger does not answer: for how long nobody asks it. A breaker must need some time of failing, not a few in one burst.
local fails, failing_since, down_from, down_till = 0, 0, 0, 0
local function failed(h)
  local now = h:timestamp()
  if fails == 0 then failing_since = now end
  fails = fails + 1
  if down_till > 0 or fails >= 3 and now - failing_since >= 2 * DEADLINE then down_from, down_till = now, now + DOWN end
  return now
end

local ASK = {[':method'] = 'POST', [':path'] = '/', [':authority'] = 'ledger'}
local ASK_GRPC = LEDGER and LEDGER.gateway and {[':method'] = 'POST', [':path'] = '/aoai.dev.Ledger/Ask', [':authority'] = 'ledger',
  ['content-type'] = 'application/grpc', te = 'trailers', ['x-aoai-gateway'] = LEDGER.gateway}
local PATIENCE = {timeout_ms = DEADLINE, send_xff = false}

-- Asks with one line, and returns the ledger's, or nil. A message of gRPC is a zero, its length in four bytes, and itself; a
-- failure has none.
local function exchange(h, line)
  local n = #line
  if ASK_GRPC then line = string.char(0, 0, 0, floor(n / 256), n % 256) .. line end
  local answer, body = h:httpCall(LEDGER.cluster, ASK_GRPC or ASK, line, PATIENCE)
  if answer[':status'] ~= '200' or not body then return nil end
  return ASK_GRPC and sub(body, 6) or body
end

-- One call to the ledger. Returns its words, or nil.
local function call(h, e, request_id, said, want, now)
  local rests, t, r, c = e.rests, e.owed_t, e.owed_r, e.owed_c
  e.rests, e.owed_t, e.owed_r, e.owed_c = {}, 0, 0, 0
  local owed = (t > 0 or r > 0) and format('%d:%d:%d', t, r, c) or ''
  local words = exchange(h, concat({e.who, request_id, said, want, owed, concat(rests, ',')}, '\t'))
  if words then
    fails, down_till = 0, 0
    return words
  end
  -- A lease is closed once, however often that is told; what is owed is at worst counted twice.
  for i = 1, #rests do e.rests[#e.rests + 1] = rests[i] end
  e.owed_t, e.owed_r, e.owed_c = e.owed_t + t, e.owed_r + r, e.owed_c + c
  return nil
end

-- Lets a request of a limited tenant in, and returns what the log is to say of it: `grant:draw:tokens:cost:bytes`, or `owed`; `-` for
-- nothing. Nil: it was refused.
local function quota_admits(h, pool, tenant, model, quota, s, operation)
  quotas_seen = true
  local now = h:timestamp()
  local e = entry_of(pool, tenant, model)
  e.now = now
  if e.mark ~= quota.mark then       -- another limit: what is out is given back, and asked for anew
    if e.mark then close(e) close(e) e.no_till = 0 end
    e.mark = quota.mark
  end
  local bytes, cap, answers, images = 0, 0, 1, 0
  if s then bytes, cap, answers, images = told(s, operation) end
  local t, c = 0, 0
  if e.guess then
    t, c = reserved(e.guess, bytes, cap, answers, images)
    if now - e.since > IDLE or now < e.since then e.spent_t, e.spent_r, e.spent_c, e.since = 0, 0, 0, now end
    e.spent_t, e.spent_r, e.spent_c = e.spent_t + t, e.spent_r + 1, e.spent_c + c
  else t = ceil(bytes / 4) + (cap or 1000) * answers end
  local drawn = draw(e, t, c, now)
  local note = drawn and format('%d:%d:%d:%d:%d', e.id, e.draws, t, c, images > 0 and 0 or bytes)
  if drawn then
    local left = e.t == huge and e.r or e.t
    if left > e.low or e.next or now < e.asking then return note end
  else
    local known, at = known_refusal(e, t, now)
    if known then
      local ms, limit = at and max(1, ceil(at - now)), at and e.no_limit or 'tokensPerMinute'
      return quota_refuses(h, e, tenant, model, now, ms, limit, e.no_of, e.no_period, 'unasked')
    end
  end
  if now < down_till and now >= down_from then return note or without(h, e, tenant, model, quota, t, c, now, 'unasked') end
  if down_till > 0 then down_from, down_till = now, now + DEADLINE end      -- one request tries, the others do not wait
  local want = ''
  if now >= e.asking and not e.next then      -- one request asks for a lease, the others for themselves
    if e.id and (now >= e.till or now < e.from) then close(e) end
    -- A time, and no flag: a client that leaves ends this coroutine.
    e.asking = now + DEADLINE
    -- Far from its limits a tenant gets some even with its first request.
    want = e.guess and format('%d:%d:%d', max(2 * e.spent_t, 8 * t), max(2 * e.spent_r, 8), max(2 * e.spent_c, 8 * c)) or ''
  end
  local said = format('%d:%d:%d:%d', bytes, cap or -1, answers, images)
  local words = call(h, e, drawn and '' or h:headers():get('x-request-id') or '', said, want, now)
  if want ~= '' then e.asking = 0 end
  if not words then
    local later = failed(h)
    return note or without(h, e, tenant, model, quota, t, c, later)
  end
  local id, lease, life, guess, terms, tokens, requests = match(words, '^ok (%d+) (%S+) (%d+) (%S+) (%S+) (%S+) (%S+)$')
  if id then
    e.no_till = 0
    learn(e, guess, terms, tokens, requests, now)
    if lease ~= '-' then take_lease(e, id, lease, life, now) end
    return note or format('%d:0:0:0:%d', id, images > 0 and 0 or bytes)
  end
  if note then return note end
  local retry, limit, of, period, till, frees
  retry, limit, of, period, till, frees, guess, terms, tokens, requests =
    match(words, '^no (%S+) (%S+) (%S+) (%S+) (%d+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
  if not retry then return '-' end       -- no limits any more: the ledger knows it before the routes do
  now = h:timestamp()
  learn(e, guess, terms, tokens, requests, now)
  local ms = tonumber(retry)
  if ms < 0 then ms = nil end
  if limit == 'concurrentRequests' then ms = 500 end
  if of == '-' then of = nil end
  if period == '-' then period = nil end
  t = reserved(e.guess, bytes, cap, answers, images)
  remember_refusal(e, t, ms, limit, of, period, frees, now, tonumber(till))
  return quota_refuses(h, e, tenant, model, now, ms and max(1, ms), limit, of, period)
end

local function add(headers, name, value) headers:add(name, value) end

-- Tells a tenant what is left of its own rates; those of the region were taken out.
local function quota_headers(headers, pool, tenant, model)
  local e = entry_of(pool, tenant, model)
  -- As of the last request: it is not worth asking for the time again.
  if e.rates then tell_rates(headers, add, e, e.now) end
end
