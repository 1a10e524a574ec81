"""What routes, clusters and endpoints must agree on: the order of a model's hosts, and their deployments' names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aoai_operator.core.names import HostKey
from aoai_operator.core.observed import Overrides, State
from aoai_operator.core.table import Host, Model, RoutingTable


@dataclass(frozen=True, slots=True)
class Tier:
    """The hosts of one Envoy priority."""

    hosts: tuple[Host, ...]


def tiers(table: RoutingTable, model: Model) -> tuple[Tier, ...]:
    """Return the hosts of a model by Envoy priority, which must count from 0 without gaps.

    Behind the model's own priorities stand those of its fallback models: Envoy goes there when all before are out,
    within the same request, and each attempt carries the deployment name of its own host.
    """
    found: list[Tier] = []
    seen: set[tuple[str, str]] = set()
    by_name = {m.name: m for m in table.models}
    for name in (model.name, *model.fallbacks):
        stage = by_name.get(name)
        if stage is None:
            continue
        fresh = [h for h in stage.hosts if (h.endpoint, h.deployment) not in seen]
        seen.update((h.endpoint, h.deployment) for h in fresh)
        levels = sorted({h.priority for h in fresh})
        found.extend(Tier(tuple(h for h in fresh if h.priority == level)) for level in levels)
    return tuple(found)


def hosts(table: RoutingTable, model: Model) -> Iterator[Host]:
    """Yield all hosts of a model, its fallbacks' included, in the order of their priorities."""
    for tier in tiers(table, model):
        yield from tier.hosts


def common_deployment(table: RoutingTable, model: Model) -> str | None:
    """Return the deployment name that all hosts share, or None: then each attempt needs its own."""
    names = {h.deployment for h in hosts(table, model)}
    return names.pop() if len(names) == 1 else None


@dataclass(frozen=True, slots=True)
class Outage:
    """No host of a model takes requests. `until`: the first end of a Retry-After (epoch ms), None when unknown."""

    until: int | None


def outage(table: RoutingTable, model: Model, overrides: Overrides) -> Outage | None:
    """Return the outage of a model, or None while any host of it may be asked."""
    ends: list[int] = []
    for host in hosts(table, model):
        endpoint = table.endpoint(host.endpoint)
        state = overrides.host(HostKey(table.key, host.endpoint, host.deployment))
        drains = endpoint.drain or host.drain
        if endpoint.usable and not drains and state.usable:
            return None
        if state.state is State.THROTTLED and state.until is not None and not drains:
            ends.append(state.until)
    return Outage(min(ends, default=None))
