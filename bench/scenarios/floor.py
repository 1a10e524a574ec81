"""What quotas cannot do without: single calls of Envoy's Lua, by themselves, and the best ratio that they leave.

That is what is promised of quotas: the log says by which lease a request came, an answer tells six headers, and near a
limit every request asks. Nothing is read, estimated or drawn here, as the product does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from bench.chain import our_chain
from bench.envoys import scripted_envoy
from bench.paired import COLUMNS, Case, Paired, measure
from bench.payloads import Request
from bench.report import Outcome, Table, Target
from bench.site import Site

_NOTHING = "function envoy_on_request(h) h:body() end function envoy_on_response(h) h:headers():get(':status') end"
_KEEP = """
local n = 0
function envoy_on_request(h)
  h:body()
  n = n + 1
  local note = string.format('%d:%d:%d:%d:%d', 1795000000000123, n, 600, 0, 2048)
  h:streamInfo():filterState():set('aoai.quota', 'envoy.string', note)
end
"""
_TELL = """
function envoy_on_response(h)
  local headers = h:headers()
  headers:get(':status')
  headers:add('x-ratelimit-limit-tokens', '2000000000')
  headers:add('x-ratelimit-remaining-tokens', string.format('%d', 2000000000 - n))
  headers:add('x-ratelimit-reset-tokens', string.format('%d', 61))
  headers:add('x-ratelimit-limit-requests', '100000000')
  headers:add('x-ratelimit-remaining-requests', string.format('%d', 100000000 - n))
  headers:add('x-ratelimit-reset-requests', string.format('%d', 61))
end
"""
_ASK = """
local ASK = {[':method'] = 'POST', [':path'] = '/', [':authority'] = 'ledger'}
local LINE = 'ai/team\tai/chat\tgpt-4o\tc0ffee00-0000-4000-8000-000000000000\t2048:64:1:0\t\t\t'
local PATIENCE = {timeout_ms = 1000, send_xff = false}
function envoy_on_request(h)
  h:body()
  h:httpCall('ledger', ASK, LINE, PATIENCE)
end
function envoy_on_response(h) h:headers():get(':status') end
"""
_ANSWER = "ok 1795000000000123 - 0 0.25:765:64:1000:128000 1:1:0:0 - -"
_NO_QUOTA, _BARE = 0.97, 0.33


def run(site: Site) -> Outcome:
    """Measure the calls, and the chain without quotas."""
    nothing = partial(scripted_envoy, script=_NOTHING)

    def case(name: str, script: str, asked: str = "") -> Paired:
        factory = partial(scripted_envoy, script=script, asked=asked)
        return measure(site, Case(name=name, factory=factory, baseline=nothing, request=Request()))

    found: Mapping[str, Paired] = {
        "keep": case("keeps for the log by which lease it came", f"{_KEEP}function envoy_on_response(h) end"),
        "tell": case("keeps that, and tells six headers", f"{_KEEP}{_TELL}"),
        "ask": case("asks, and is answered at once", _ASK, _ANSWER),
    }
    chain = measure(site, Case(name="our chain without quotas, to bare Envoy", factory=our_chain, request=Request()))
    tells = found["tell"].gateway_us - found["tell"].bare_us
    asks = found["ask"].gateway_us - found["ask"].bare_us
    far = chain.gateway_us / (chain.gateway_us + tells)
    near = chain.bare_us / (chain.gateway_us + asks)
    return Outcome(
        "floor",
        tables=(
            Table(
                "Calls of Lua, to a script that does nothing",
                COLUMNS,
                tuple(one.row() for one in (*found.values(), chain)),
            ),
            Table(
                "The most that a quota's ratios can be",
                ("case", "best ratio"),
                (("far from the limits, to the same without", far), ("every request asks, to bare Envoy", near)),
            ),
        ),
        targets=(
            Target("far from the limits: the best ratio reaches what is wanted", far, _NO_QUOTA),
            Target("every request asks: the best ratio reaches what is wanted", near, _BARE),
        ),
        notes=("the ledger is an Envoy that answers by itself, on the other core; ours is Python",),
    )
