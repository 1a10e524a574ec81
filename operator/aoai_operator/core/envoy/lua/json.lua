-- A scan of a JSON text for its top-level members, without parsing it: nothing is copied, order and numbers stay as
-- they are. In valid JSON a quoted word followed by a colon is always a key; its depth is counted from the nearer end.
local find, byte, sub, match, gmatch = string.find, string.byte, string.sub, string.match, string.gmatch

-- The change of depth over s[i..e], with i outside any string.
local function depth(s, i, e)
  local d = 0
  while true do
    i = find(s, '["{}%[%]]', i)
    if not i or i > e then return d end
    local c = byte(s, i)
    if c == 123 or c == 91 then d = d + 1
    elseif c == 125 or c == 93 then d = d - 1
    else
      local j = i + 1
      while true do
        j = find(s, '"', j, true)
        if not j then return d end
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
-- the text up to the next delimiter; strings with escapes are not read (they can name no model).
local function member(s, quoted)
  local n, p, from, to, count = #s, 1, nil, nil, 0
  for _ = 1, 64 do
    local a, b = find(s, quoted, p, true)
    if not a then break end
    local v = match(s, '^%s*:%s*()', b + 1)
    if v then
      local top
      if a < n / 2 then top = depth(s, 1, a - 1) == 1 else top = depth(s, a, n) == -1 end
      if top then from, count = v, count + 1 end
    end
    p = b + 1
  end
  if not from then return nil end
  local c = byte(s, from)
  if c == 34 then to = match(s, '^"[^"\\%c]*()"', from)
  elseif c == 123 then _, to = find(s, '^%b{}', from)
  else to = match(s, '^[%w%.%+%-]+()', from) to = to and to - 1 end
  return from, to, count
end

-- A key may be written with escapes ("mod\u0065l"), which another parser reads as the name: a way around a check.
local function disguised(s)
  local p = 1
  while true do
    local a = find(s, '\\u00', p, true)
    if not a then return false end
    if match(s, '^[4-7]%x[^"]*"%s*:', a + 4) then return true end
    p = a + 4
  end
end

-- The string value of a top-level member and its span, quotes included; nil when absent, no string, or ambiguous.
local function text_member(s, quoted)
  local from, to, count = member(s, quoted)
  if not to or count > 1 or byte(s, from) ~= 34 then return nil end
  return sub(s, from + 1, to - 1), from, to
end
