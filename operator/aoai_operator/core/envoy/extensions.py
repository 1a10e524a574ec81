"""Two filters that decide on a request: the tenants' keys, and our Lua. What they know comes with a pool's routes.

So no listener drains, no stream ends, when a tenant changes, and nothing of other pools is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aoai_operator.core.credentials import read_key
from aoai_operator.core.envoy.config import HTTP_FILTERS, TYPE, header_matches, skipped, typed
from aoai_operator.core.envoy.ledger import LEDGER
from aoai_operator.core.envoy.luadata import LuaValue, assignment, literal, source, text
from aoai_operator.core.envoy.settings import CONTROL_PLANE, GatewaySettings
from aoai_operator.core.envoy.snapshot import Json, Resource, content_hash
from aoai_operator.core.envoy.tokens import is_token
from aoai_operator.core.envoy.topology import common_deployment, hosts
from aoai_operator.core.guarantees import asking_tenants, learns
from aoai_operator.core.lanes import Lane, lanes_of
from aoai_operator.core.names import SecretRef
from aoai_operator.core.operations import INFERENCE
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import PerMinute, Quota, RoutingTable
from aoai_operator.core.throttle import cap_ms

KEYS = "aoai-keys"
"""The filter that finds the tenant of an API key."""
LUA = "aoai"
"""Our one Lua filter; also the namespace of its metadata on routes and virtual hosts, and of its dynamic metadata."""

LUA_TYPE = HTTP_FILTERS + "lua.v3.Lua"

ANONYMOUS = "anonymous"
"""The API key that anybody may use in pools with `auth.required: false`: SDKs insist on sending one."""


_FROM = [{"header": "api-key"}, {"header": "authorization"}]
_TO = {"header": "x-aoai-tenant", "hide_credentials": True}


def keys_filter() -> Json:
    """Return the filter that tells tenants by their API key, in `api-key` or as a bearer token.

    It works where a virtual host brings the keys of a pool, and only there. A request without any credential passes to
    our Lua, which knows whether its pool wants one.
    """
    keys = typed(
        "filters.http.api_key_auth.v3.ApiKeyAuth",
        credentials=[{"key": _NOBODY, "client": ANONYMOUS}],
        key_sources=_FROM,
        forwarding=_TO,
    )
    return {"name": KEYS, "disabled": True, "typed_config": skipped(KEYS, keys, where=_without_key())}


def tenant_keys(table: RoutingTable, secrets: Mapping[SecretRef, SecretValue]) -> Json:
    """Return the keys of a pool's tenants, as the virtual host's configuration of `keys_filter`."""
    clients: dict[str, str] = {} if table.auth_required else {ANONYMOUS: ANONYMOUS}
    for tenant in table.tenants:
        for ref in tenant.api_keys:
            value = read_key(secrets, ref)
            if isinstance(value, SecretValue):
                clients.setdefault(value.reveal(), tenant.key)
    keys = typed(
        "filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
        credentials=[{"key": k, "client": c} for k, c in sorted((clients or {_NOBODY: ANONYMOUS}).items())],
        key_sources=_FROM,
        forwarding=_TO,
    )
    return {"@type": TYPE + "envoy.config.route.v3.FilterConfig", "config": keys}


_NOBODY = "\x01no tenant has a key yet\x01"
"""Envoy wants one credential at least; no HTTP header can carry this one."""


def _without_key() -> Json:
    def absent(header: str) -> Json:
        return {"not_matcher": header_matches(header, ".*")}

    # No key has the form of a token.
    no_bearer = {"or_matcher": {"predicate": [absent("authorization"), is_token()]}}
    return {"and_matcher": {"predicate": [absent("api-key"), no_bearer]}}


def lua_filter(settings: GatewaySettings) -> Resource:
    """Return the Lua filter: code, which changes with our version alone. What it knows of a pool is `pool_data`."""
    code = "\n".join(
        [
            f"local LEDGER, WORKERS = {literal(_ledger(settings))}, {settings.workers}",
            f"local ANONYMOUS = {text(ANONYMOUS)}",
            assignment("OPERATIONS", ((name, True) for name in INFERENCE)),
            source("json.lua", "quota.lua", "request.lua", "response.lua"),
        ]
    )
    body = typed("filters.http.lua.v3.Lua", default_source_code={"inline_string": code})
    return Resource(LUA, {"name": LUA, "typed_config": body})


def _ledger(settings: GatewaySettings) -> LuaValue:
    """Return how our Lua asks the ledger; false: it does not."""
    if settings.ledger is None:
        return False
    if settings.ledger != CONTROL_PLANE:
        return {"cluster": LEDGER}
    return {"cluster": CONTROL_PLANE, "gateway": settings.gateway}


def pool_data(table: RoutingTable) -> Json:
    """Return what our Lua knows of a pool: its models, and what each tenant may use. See lua/request.lua."""
    shared, *own = lanes_of(table)
    return {
        "key": str(table.key),
        "open": not table.auth_required,
        "max": table.max_request_bytes,
        "cap": cap_ms(table.throttling),
        **_models(shared.table),
        **_own_lanes(own),
        "grants": {t.key: dict.fromkeys(t.models, True) if t.models else True for t in table.tenants},
        **_quotas(table),
        **_subjects(table),
    }


def _models(table: RoutingTable) -> Json:
    """Return the models of a lane: those that have a host."""
    served = [model for model in table.models if model.hosts]
    return {
        "default": table.models[0].name,
        "list": [model.name for model in served],
        "lone": {model.name: True for model in served if len(tuple(hosts(table, model))) == 1},
        "models": {model.name: common_deployment(table, model) or False for model in served},
    }


def _own_lanes(lanes: Sequence[Lane]) -> Json:
    """Return who is on which lane but the shared one, and the models there; nothing where that is the only one."""
    if not lanes:
        return {}
    return {
        "lanes": {tenant: lane.id for lane in lanes for tenant in lane.tenants},
        "views": {lane.id: _models(lane.table) for lane in lanes},
    }


def _subjects(table: RoutingTable) -> Json:
    """Return whose tenant a token's subject is; nothing where the pool takes no tokens."""
    if not table.issuers:
        return {}
    whose: dict[str, dict[str, str]] = {"apps": {}, "groups": {}, "accounts": {}}
    for tenant in table.tenants:
        for kind, names in (("apps", tenant.apps), ("groups", tenant.groups), ("accounts", tenant.service_accounts)):
            whose[kind].update(dict.fromkeys(names, tenant.key))
    return {"tokens": whose}


def _quotas(table: RoutingTable) -> Json:
    found = {t.key: _quota(t.quota or Quota(), table) for t in asking_tenants(table)}
    data: Json = {"quotas": found} if found else {}
    return data | {"learns": True} if learns(table) else data


def _quota(quota: Quota, table: RoutingTable) -> Json:
    """Return what a worker must know of a quota while it cannot ask."""
    whole = next((limit for limit in quota.limits if not limit.model), PerMinute())
    own = {limit.model: limit for limit in quota.limits if limit.model}
    models = {m.name: _rates(_tighter(own[m.name], whole)) for m in table.models if m.name in own}
    mark = content_hash(quota.model_dump(mode="json"))[:8]
    return {"mark": mark, "deny": quota.deny, "shadow": not quota.enforced, "models": models, **_rates(whole)}


def _tighter(one: PerMinute, other: PerMinute) -> PerMinute:
    def least(*counts: int | None) -> int | None:
        return min((count for count in counts if count is not None), default=None)

    return PerMinute(tokens=least(one.tokens, other.tokens), requests=least(one.requests, other.requests))


def _rates(limit: PerMinute) -> Json:
    rates = {"tokens": limit.tokens, "requests": limit.requests}
    return {name: count for name, count in rates.items() if count is not None}
