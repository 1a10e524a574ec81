"""The two filters whose contents change often, by ECDS: no listener drains, no stream ends, when a tenant changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aoai_operator.core.credentials import read_key
from aoai_operator.core.envoy.config import EXTENSIONS, HTTP_FILTERS, TYPE, extension, typed
from aoai_operator.core.envoy.luadata import LuaValue, assignment, source, text
from aoai_operator.core.envoy.snapshot import Json, Resource
from aoai_operator.core.envoy.topology import common_deployment, hosts
from aoai_operator.core.names import SecretRef
from aoai_operator.core.operations import INFERENCE
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable, Tenant
from aoai_operator.core.throttle import cap_ms

KEYS = "aoai-keys"
"""The filter that finds the tenant of an API key."""
LUA = "aoai"
"""Our one Lua filter; also the namespace of its route metadata and dynamic metadata."""

KEYS_TYPE = EXTENSIONS + "common.matching.v3.ExtensionWithMatcher"
LUA_TYPE = HTTP_FILTERS + "lua.v3.Lua"

ANONYMOUS = "anonymous"
"""The API key that anybody may use in pools with `auth.required: false`: SDKs insist on sending one."""


def tenant_keys(tables: Sequence[RoutingTable], secrets: Mapping[SecretRef, SecretValue]) -> Resource:
    """Return the filter that tells tenants by their API key, in `api-key` or as a bearer token.

    A request without any credential passes to our Lua, which knows whether its pool wants one.
    """
    clients: dict[str, str] = {ANONYMOUS: ANONYMOUS} if any(not t.auth_required for t in tables) else {}
    for table in tables:
        for tenant in table.tenants:
            for ref in tenant.api_keys:
                value = read_key(secrets, ref)
                if isinstance(value, SecretValue):
                    clients.setdefault(value.reveal(), tenant.key)
    if not clients:
        clients[_NOBODY] = ANONYMOUS
    keys = typed(
        "filters.http.api_key_auth.v3.ApiKeyAuth",
        credentials=[{"key": k, "client": c} for k, c in sorted(clients.items())],
        key_sources=[{"header": "api-key"}, {"header": "authorization"}],
        forwarding={"header": "x-aoai-tenant", "hide_credentials": True},
    )
    matcher = {
        "@type": KEYS_TYPE,
        "extension_config": {"name": KEYS, "typed_config": keys},
        "xds_matcher": {"matcher_list": {"matchers": [_skip_without_credential()]}},
    }
    return Resource(KEYS, {"name": KEYS, "typed_config": matcher})


_NOBODY = "\x01no tenant has a key yet\x01"
"""Envoy wants one credential at least; no HTTP header can carry this one."""


def _skip_without_credential() -> Json:
    def absent(header: str) -> Json:
        value = {
            "@type": TYPE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": header,
        }
        present = {
            "single_predicate": {
                "input": {"name": header, "typed_config": value},
                "value_match": {"safe_regex": {"google_re2": {}, "regex": ".*"}},
            }
        }
        return {"not_matcher": present}

    skip = extension("skip", "filters.common.matcher.action.v3.SkipFilter")
    return {
        "predicate": {"and_matcher": {"predicate": [absent("api-key"), absent("authorization")]}},
        "on_match": {"action": skip},
    }


def lua_filter(tables: Sequence[RoutingTable]) -> Resource:
    """Return the Lua filter with what it knows: the pools with their models, and what each tenant may use."""
    grants: dict[str, dict[str, LuaValue]] = {}
    for table in tables:
        for tenant in table.tenants:
            grants.setdefault(tenant.key, {})[str(table.key)] = _grant(tenant)
    code = "\n".join(
        [
            source("json.lua"),
            f"local ANONYMOUS = {text(ANONYMOUS)}",
            assignment("OPERATIONS", ((name, True) for name in INFERENCE)),
            assignment("POOLS", ((str(t.key), _pool(t)) for t in tables)),
            assignment("TENANTS", grants.items()),
            source("request.lua", "response.lua"),
        ]
    )
    body = typed("filters.http.lua.v3.Lua", default_source_code={"inline_string": code})
    return Resource(LUA, {"name": LUA, "typed_config": body})


def _grant(tenant: Tenant) -> LuaValue:
    return dict.fromkeys(tenant.models, True) if tenant.models else True


def _pool(table: RoutingTable) -> LuaValue:
    names = [m.name for m in table.models]
    return {
        "key": str(table.key),
        "open": not table.auth_required,
        "max": table.max_request_bytes,
        "cap": cap_ms(table.throttling),
        "default": names[0],
        "list": list(names),
        "lone": {m.name: True for m in table.models if len(tuple(hosts(table, m))) == 1},
        "models": {m.name: common_deployment(table, m) or False for m in table.models},
    }
