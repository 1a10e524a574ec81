"""Route configurations: one for each pool, and the gateway's own. Virtual hosts carry what the filters know of a pool.

The tenants' keys (for `api_key_auth`) and the pool's models and grants (for our Lua) travel with the pool's routes: all
of it changes at once, and a tenant's change is sent with its pools alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aoai_operator.core.envoy.config import set_header
from aoai_operator.core.envoy.extensions import KEYS, LUA, pool_data, tenant_keys
from aoai_operator.core.envoy.routes import HEALTH, health, misdirected, nothing, pool_routes
from aoai_operator.core.envoy.scopes import has_scope, prefix_of
from aoai_operator.core.envoy.snapshot import Json, Resource, content_hash
from aoai_operator.core.envoy.tokens import TOKENS, accepted_tokens
from aoai_operator.core.names import SecretRef
from aoai_operator.core.observed import Overrides
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable

_NOT_FORWARDED = [
    "api-key",
    "authorization",
    "x-aoai-tenant",
    "x-aoai-model",
    "x-aoai-lane",
    "x-envoy-internal",
    "x-forwarded-proto",
    "x-request-id",
]
"""Request headers that end here: the client's credential, and what we and Envoy added on the way."""

_OF_THE_REGION = [
    f"x-ratelimit-{what}-{unit}" for unit in ("tokens", "requests") for what in ("limit", "remaining", "reset")
]
"""What is left of one region's deployment says nothing about what the tenant may use."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the filters know of a pool, as fields of a virtual host or of a route."""

    data: Json
    filters: Json

    @classmethod
    def of(cls, table: RoutingTable, secrets: Mapping[SecretRef, SecretValue]) -> _Known:
        filters = {KEYS: tenant_keys(table, secrets), TOKENS: accepted_tokens(table)}
        return cls(pool_data(table), {name: config for name, config in filters.items() if config is not None})

    @property
    def revision(self) -> str:
        return content_hash(self.data)[:8]

    def onto(self, body: Json) -> Json:
        """Return a virtual host or a route with it."""
        metadata = body.get("metadata", {}).get("filter_metadata", {}).get(LUA, {})
        return {
            **body,
            "metadata": {"filter_metadata": {LUA: {**metadata, "pool": self.data}}},
            "typed_per_filter_config": self.filters,
        }


def pool_configuration(table: RoutingTable, secrets: Mapping[SecretRef, SecretValue], overrides: Overrides) -> Resource:
    """Return the route configuration of a pool that has a scope of its own."""
    known = _Known.of(table, secrets)
    routes = [*pool_routes(table, prefix_of(table), overrides, revision=known.revision), nothing("/")]
    host = known.onto(_virtual_host("*", ("*",), routes))
    return _configuration(str(table.key), [host], owner=str(table.key))


def https_configuration(
    table: RoutingTable, secrets: Mapping[SecretRef, SecretValue], overrides: Overrides
) -> Resource:
    """Return the route configuration of a pool whose filter chain is its own: at its host names, and nowhere else."""
    known = _Known.of(table, secrets)
    routes: list[Json] = []
    for prefix in (prefix_of(table), ""):
        routes += pool_routes(table, prefix, overrides, revision=known.revision)
    host = known.onto(_virtual_host(str(table.key), table.hostnames, [*routes, nothing("/")]))
    return _configuration(str(table.key), [host, _virtual_host("*", ("*",), [misdirected()])], owner=str(table.key))


def gateway_configuration(
    gateway: str,
    tables: Sequence[RoutingTable],
    secrets: Mapping[SecretRef, SecretValue],
    overrides: Overrides,
    *,
    everywhere: Sequence[RoutingTable],
) -> Resource:
    """Return the gateway's own route configuration: pools by host name, and what has no pool in its address.

    `tables` are the pools served by HTTP; `everywhere` has those served by HTTPS too, and tells the gateway's health.
    """
    hosts = [_named(table, secrets, overrides) for table in tables if table.hostnames]
    return _configuration(gateway, [*hosts, _anywhere(tables, secrets, overrides, everywhere)])


def _named(table: RoutingTable, secrets: Mapping[SecretRef, SecretValue], overrides: Overrides) -> Json:
    known = _Known.of(table, secrets)
    routes = [*pool_routes(table, "", overrides, revision=known.revision), nothing("/")]
    if not has_scope(table):
        routes = [*pool_routes(table, prefix_of(table), overrides, revision=known.revision), *routes]
    return known.onto(_virtual_host(str(table.key), table.hostnames, routes))


def _anywhere(
    tables: Sequence[RoutingTable],
    secrets: Mapping[SecretRef, SecretValue],
    overrides: Overrides,
    everywhere: Sequence[RoutingTable],
) -> Json:
    routes = [health(HEALTH, everywhere, overrides)]
    for table in tables:
        if not has_scope(table):
            known = _Known.of(table, secrets)
            own = pool_routes(table, prefix_of(table), overrides, revision=known.revision)
            routes += [known.onto(route) for route in own]
    lone = _Known.of(tables[0], secrets) if len(tables) == len(everywhere) == 1 else None
    if lone is not None:
        routes += pool_routes(tables[0], "", overrides, revision=lone.revision)
    host = _virtual_host("*", ("*",), [*routes, nothing("/")])
    return host if lone is None else lone.onto(host)


def _virtual_host(name: str, domains: Sequence[str], routes: list[Json]) -> Json:
    return {"name": name, "domains": list(domains), "routes": routes}


def _configuration(name: str, hosts: list[Json], *, owner: str | None = None) -> Resource:
    body: Json = {
        "name": name,
        "virtual_hosts": hosts,
        "request_headers_to_remove": _NOT_FORWARDED,
        "response_headers_to_remove": ["endpoint-load-metrics", *_OF_THE_REGION],
        "response_headers_to_add": [set_header("x-request-id", "%FILTER_STATE(aoai.request_id:PLAIN)%")],
        "ignore_port_in_host_matching": True,
    }
    return Resource(name, body, owner)
