-- A scan of a JSON text for its top-level members, without parsing it: nothing is copied, order and numbers stay as
-- they are. In valid JSON a quoted word followed by a colon is always a key; its depth is counted from the nearer end.
local find, byte, sub, match = string.find, string.byte, string.sub, string.match

-- The change of depth over s[i..e], with i outside any string; or, where `closing` is set, the position at which it falls
-- back to zero, nil if it does not.
local function depth(s, i, e, closing)
  local d = 0
  while true do
    i = find(s, '["{}%[%]]', i)
    if not i or i > e then return not closing and d or nil end
    local c = byte(s, i)
    if c == 123 or c == 91 then d = d + 1
    elseif c == 125 or c == 93 then
      d = d - 1
      if closing and d == 0 then return i end
    else
      local j = i + 1
      while true do
        j = find(s, '"', j, true)
        if not j then return not closing and d or nil end
        local k, slashes = j - 1, 0
        while byte(s, k) == 92 do slashes, k = slashes + 1, k - 1 end
        if slashes % 2 == 0 then break end
        j = j + 1
      end
      i = j
    end
    i = i + 1
  end
end

-- The last top-level member `"name"` of s: its value's first and last position, and how often it stands there. A value is
-- the text up to the next delimiter; strings with escapes are not read (they can name no model). Depth is counted from the
-- occurrence before, so that many of them cost one scan of s.
local function member(s, quoted)
  local n, p, at, d, from, to, count = #s, 1, 1, 0, nil, nil, 0
  while true do
    local a, b = find(s, quoted, p, true)
    if not a then break end
    local v = byte(s, a - 1) ~= 92 and match(s, '^%s*:%s*()', b + 1)
    if v then
      if a - at < n - a then d = d + depth(s, at, a - 1) else d = -depth(s, a, n) end
      if d == 1 then from, count = v, count + 1 end
      at = a
    end
    p = b + 1
  end
  if not from then return nil end
  local c = byte(s, from)
  if c == 34 then to = match(s, '^"[^"\\%c]*()"', from)
  elseif c == 123 then to = depth(s, from, n, true)
  else to = match(s, '^[%w%.%+%-]+()', from) to = to and to - 1 end
  return from, to, count
end

-- A key may be written with escapes ("mod\u0065l"), which another parser reads as the name: a way around a check. No name
-- that matters is longer than the span looked at, and an escaped quote does not end a key.
local function disguised(s)
  local p = 1
  while true do
    local a = find(s, '\\u00', p, true)
    if not a then return false end
    local rest, e = match(sub(s, a + 4, a + 120), '^[4-7]%x([%w_\\]*)"()')
    if rest and byte(rest, #rest) ~= 92 and match(s, '^%s*:', a + 3 + e) then return true end
    p = a + 4
  end
end

-- The string value of a top-level member and its span, quotes included; nil when absent, no string, or ambiguous.
local function text_member(s, quoted)
  local from, to, count = member(s, quoted)
  if not to or count > 1 or byte(s, from) ~= 34 then return nil end
  return sub(s, from + 1, to - 1), from, to
end
