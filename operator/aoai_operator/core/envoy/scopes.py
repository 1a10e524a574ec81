"""Which route configuration a path belongs to: each pool has its own, so that its change is sent alone.

Envoy cuts the path at its first "/openai/" and takes what stands before as the scope's key (SRDS). What has a key of
nothing is the gateway's own: host names, the address of a gateway with one pool, and /healthz.
"""

from __future__ import annotations

from collections.abc import Iterator

from aoai_operator.core.envoy.config import ADS
from aoai_operator.core.envoy.routes import HEALTH
from aoai_operator.core.envoy.snapshot import Json, Resource
from aoai_operator.core.table import RoutingTable

_SEPARATOR = "/openai/"


def scoped_routes(gateway: str) -> Json:
    """Return how the listener finds the route configuration of a request."""
    path = {"name": ":path", "element_separator": _SEPARATOR, "index": 0}
    return {
        "name": gateway,
        "scope_key_builder": {"fragments": [{"header_value_extractor": path}]},
        "rds_config_source": ADS,
        "scoped_rds": {"scoped_rds_config_source": ADS},
    }


def prefix_of(table: RoutingTable) -> str:
    """Return what stands before /openai in the paths of a pool."""
    return f"/{table.namespace}/{table.name}"


def has_scope(table: RoutingTable) -> bool:
    """Tell whether a pool's prefix gives a key: "/openai/chat/openai/" does not, and is left to the gateway's own."""
    return _key(prefix_of(table) + _SEPARATOR) != ""


def gateway_scopes(gateway: str) -> Iterator[Resource]:
    """Yield the scopes of the gateway's own route configuration."""
    yield _scope(gateway, gateway, "", None)
    yield _scope(gateway + HEALTH, gateway, HEALTH, None)


def pool_scopes(table: RoutingTable) -> Iterator[Resource]:
    """Yield the scopes of a pool's route configuration."""
    name, prefix = str(table.key), prefix_of(table)
    main, health = _key(prefix + _SEPARATOR), _key(prefix + HEALTH)
    yield _scope(name, name, main, name)
    if health != main:
        yield _scope(name + HEALTH, name, health, name)


def _key(path: str) -> str:
    return path.partition(_SEPARATOR)[0]


def _scope(name: str, configuration: str, key: str, owner: str | None) -> Resource:
    body: Json = {
        "name": name,
        "route_configuration_name": configuration,
        "key": {"fragments": [{"string_key": key}]},
    }
    return Resource(name, body, owner)
