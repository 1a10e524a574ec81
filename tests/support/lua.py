"""Our Lua in a real LuaJIT, as Envoy runs it, with Python where Envoy would be.

Envoy itself is not here: tests/envoy run the same Lua in the real one. What is here can be tried thousands of times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lupa import luajit21

from aoai_operator.core.envoy.luadata import assignment, source
from aoai_operator.core.operations import INFERENCE

# The handle is written in Lua, too: Python objects within compiled traces of LuaJIT are a matter of luck.
_STREAM = """
local function run_stream(chunks, state)
  local sent, usage, last = {}, nil, nil
  local function buffer(content)
    local self, gone = {}, false
    function self.length() return #content end
    function self.getBytes(_, start, count)
      assert(not gone and start >= 0 and start + count <= #content, 'out of range')
      return string.sub(content, start + 1, start + count)
    end
    function self.setBytes(_, bytes)
      assert(not gone, 'it was sent')
      content = bytes
      return #bytes
    end
    function self.send() gone = true sent[#sent + 1] = content end
    return self
  end
  local kept = {set = function(_, key, factory, value)
    assert(key == 'aoai.usage' and factory == 'envoy.string')
    usage = value
  end}
  local info = {filterState = function() return kept end}
  local handle = {streamInfo = function() return info end}
  function handle.bodyChunks()
    local i = 0
    return function()
      if i == #chunks then return nil end
      if last then last.send() end
      i = i + 1
      last = buffer(chunks[i])
      return last
    end
  end
  stream_answer(handle, state)
  if last then last.send() end
  return sent, usage
end
"""
_REQUEST = """
local function run_request(route, headers, content)
  local told, chosen = nil, false
  local function get(_, name) return headers[name] end
  local map = {get = get, replace = function(_, name, value) headers[name] = value end}
  local body = {
    length = function() return #content end,
    getBytes = function(_, start, count) return string.sub(content, start + 1, start + count) end,
    setBytes = function(_, bytes) content = bytes return #bytes end,
  }
  local metadata = {set = function() end}
  local info = {routeName = function() return route end, dynamicMetadata = function() return metadata end}
  local function carrying(data)
    local map = {get = function(_, key) if key == 'pool' then return data end end}
    return function() return {metadata = function() return map end} end
  end
  envoy_on_request({
    route = carrying(nil),
    virtualHost = carrying(POOL),
    headers = function() return map end,
    streamInfo = function() return info end,
    body = function() return content ~= '' and body or nil end,
    respond = function(_, answer) told = told or answer[':status'] end,
    clearRouteCache = function() chosen = true end,
  })
  return told, chosen and headers['x-aoai-model'] or nil, content
end
"""
_QUOTA = """
-- One request of a limited tenant, as a coroutine: it yields what it asks the ledger, and is resumed with the
-- answer's text, or false where none came. Ends with what the log is to say, or false and the fields of the refusal, of
-- which `note` is what the log says of it.
local function begin_admission(clock, tenant, quota, request_id, text)
  local fields, kept = false, nil
  local map = {get = function() return request_id end, replace = function() end}
  local state = {set = function(_, _, _, text) kept = text end}
  local info = {filterState = function() return state end}
  local handle = {
    timestamp = function() return clock.now end,
    headers = function() return map end,
    streamInfo = function() return info end,
    respond = function(_, told)
      told.note = kept
      fields = told
    end,
    httpCall = function(_, cluster, _, line)
      assert(cluster == 'ledger')
      local answer = coroutine.yield(line)
      if answer then return {[':status'] = '200'}, answer end
      return {[':status'] = '504'}, nil
    end,
  }
  -- In a table: what stands for a coroutine on the other side cannot be handed back.
  return {coroutine.create(function()
    local note = quota_admits(handle, POOL, tenant, 'gpt-4o', quota, text, 'chat/completions')
    return note or false, fields
  end)}
end
local function resume_admission(admission, answer)
  local ran, one, two = coroutine.resume(admission[1], answer)
  assert(ran, one)
  return coroutine.status(admission[1]) == 'dead', one, two
end
"""
_DATA = f"""
local ANONYMOUS, LEDGER, WORKERS = 'anonymous', {{cluster = 'ledger'}}, 1
{assignment("OPERATIONS", ((name, True) for name in INFERENCE))}
local POOL = {{key = 'ai/chat', open = false, max = 100000, cap = 60000, default = 'gpt-4o',
  list = {{'gpt-4o', 'mini'}}, lone = {{}}, models = {{['gpt-4o'] = 'gpt-4o', mini = false}},
  grants = {{['ai/team'] = {{mini = true}}}}, entries = {{}}}}
"""
_LOCALS = (
    "member",
    "text_member",
    "disguised",
    "with_usage",
    "usage_in",
    "events_end",
    "without_usage",
    "rewrite",
    "told",
    "reserved",
)


_DRIVERS = ("run_stream", "run_request", "begin_admission", "resume_admission")


class Lua:
    """The functions of json.lua, request.lua and response.lua. Texts are bytes on both sides."""

    def __init__(self) -> None:
        self.runtime = luajit21.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        exported = ", ".join(f"{name} = {name}" for name in (*_LOCALS, *_DRIVERS))
        script = f"{_DATA}{source('json.lua', 'quota.lua', 'request.lua', 'response.lua')}"
        code = f"{script}\n{_STREAM}{_REQUEST}{_QUOTA}return {{{exported}}}"
        self._functions = self.runtime.execute(code.encode())

    def __getattr__(self, name: str) -> Any:
        return self._functions[name.encode()]

    def stream(self, chunks: tuple[bytes, ...], state: str | None) -> Answered:
        """Run `stream_answer` over an answer in chunks.

        As in Envoy, a chunk is sent on when the script asks for the next; the last one waits until the script ends.
        """
        sent, usage = self.run_stream(self.runtime.table_from(chunks), state.encode() if state else None)
        return Answered(tuple(sent.values()), usage)

    def request(
        self, path: str, body: bytes, *, tenant: str = "ai/team", method: str = "POST"
    ) -> tuple[str | None, str | None, bytes]:
        """Run `envoy_on_request` for the pool ai/chat (default gpt-4o), of which the tenant may use mini alone.

        Returns the status of a refusal, the model of another route than the default's, and the body as it goes on.
        """
        headers = {b":path": path.encode(), b":method": method.encode(), b"x-aoai-tenant": tenant.encode()}
        table = self.runtime.table_from(headers)
        told, model, content = self.run_request(b"ai/chat|8|any|gpt-4o|0a1b2c3d", table, body)
        return told and told.decode(), model and model.decode(), content


@dataclass(frozen=True)
class Answered:
    """What the client gets, chunk by chunk, and the usage that the access log gets."""

    chunks: tuple[bytes, ...]
    usage: bytes | None

    @property
    def whole(self) -> bytes:
        """All that the client gets."""
        return b"".join(self.chunks)
