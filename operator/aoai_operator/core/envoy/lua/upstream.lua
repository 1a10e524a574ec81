-- For clusters whose hosts call the model by different names: each attempt carries its own host's deployment name, in the
-- path and in the body. The header was set from the host's metadata just before, so a retry sees the next host's name.
function envoy_on_request(h)
  local headers = h:headers()
  local deployment = headers:get('x-aoai-deployment')
  headers:remove('x-aoai-deployment')
  if not deployment then return end
  local path = headers:get(':path')
  local rest = match(path, '^/openai/deployments/[^/?]*(.*)')
  if rest then headers:replace(':path', '/openai/deployments/' .. deployment .. rest) end
  if not find(headers:get('content-type') or '', '^application/json') then return end
  local body = h:body()
  if not body then return end
  local s = body:getBytes(0, body:length())
  local name, from, to = text_member(s, '"model"')
  local n = #s
  if name and name ~= deployment then n = body:setBytes(sub(s, 1, from) .. deployment .. sub(s, to)) end
  -- All attempts share the headers: an earlier one may have left the length of its own body there.
  if h:headers():get('content-length') then h:headers():replace('content-length', tostring(n)) end
end
