"""Lanes: which of a pool's endpoints serve whom. Endpoints that are dedicated to tenants serve nobody else.

A tenant that has endpoints of its own uses only these, unless it spills over: then the shared ones stand behind them.
To Envoy each lane is as a pool of its own, with clusters and routes; so nothing but a route leads to an endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from aoai_operator.core.envoy.snapshot import content_hash
from aoai_operator.core.table import Host, Model, RoutingTable

_BEHIND = 1_000
"""Added to the priorities of shared hosts behind those that are the tenant's own."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One of a pool's lanes.

    Attributes:
        id: hex digits that follow from what it may use, so that no two lanes ever share one; empty: the shared one.
        tenants: who is on it, by "namespace/tenant"; of the shared one everybody else.
        table: the pool with what the lane may use. The shared one has all models, some maybe without any host.
    """

    id: str
    tenants: tuple[str, ...]
    table: RoutingTable


def lanes_of(table: RoutingTable) -> tuple[Lane, ...]:
    """Return the lanes of a pool, the shared one first."""
    if not any(endpoint.dedicated_to for endpoint in table.endpoints):
        return (Lane("", (), table),)
    whose = {endpoint.name: endpoint.dedicated_to for endpoint in table.endpoints}
    everybodys = frozenset(name for name, tenants in whose.items() if not tenants)
    by_use: dict[tuple[frozenset[str], bool], list[str]] = {}
    for tenant in table.tenants:
        if own := frozenset(name for name, tenants in whose.items() if tenant.key in tenants):
            by_use.setdefault((own, tenant.spill_over), []).append(tenant.key)
    made = [
        _lane(table, own, everybodys if spills else frozenset(), tenants) for (own, spills), tenants in by_use.items()
    ]
    shared = Lane("", (), table.model_copy(update={"models": tuple(_using(m, everybodys) for m in table.models)}))
    return (shared, *sorted(made, key=lambda lane: lane.id))


def dedicated_tenants(table: RoutingTable) -> frozenset[str]:
    """Return the tenants, "namespace/tenant", that have endpoints of their own in a pool."""
    return frozenset(tenant for endpoint in table.endpoints for tenant in endpoint.dedicated_to)


def _lane(table: RoutingTable, own: frozenset[str], behind: frozenset[str], tenants: list[str]) -> Lane:
    models = [model for one in table.models if (model := _using(one, own, behind)).hosts]
    kept = {model.name for model in models}
    models = [m.model_copy(update={"fallbacks": tuple(f for f in m.fallbacks if f in kept)}) for m in models]
    name = content_hash([sorted(own), sorted(behind)])[:8]
    return Lane(name, tuple(sorted(tenants)), table.model_copy(update={"models": tuple(models)}))


def _using(model: Model, own: frozenset[str], behind: frozenset[str] = frozenset()) -> Model:
    hosts: list[Host] = [host for host in model.hosts if host.endpoint in own]
    hosts += [h.model_copy(update={"priority": h.priority + _BEHIND}) for h in model.hosts if h.endpoint in behind]
    # A model that is not there is not there: its fallbacks are for when it is out.
    return model.model_copy(update={"hosts": tuple(hosts), "fallbacks": model.fallbacks if hosts else ()})
