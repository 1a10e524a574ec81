"""What the deployments of a model can give in a minute, and what was promised of it to whom."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from aoai_operator.core.lanes import dedicated_tenants
from aoai_operator.core.names import HostKey
from aoai_operator.core.table import Host, Model, RoutingTable, Share, Tenant

Learned = Mapping[HostKey, int]
"""What Azure said that deployments give, where nobody configured it."""
NOTHING: Learned = {}


def capacity_of(
    table: RoutingTable, model: Model, out: Container[HostKey] = (), learned: Learned = NOTHING
) -> int | None:
    """Return the tokens that a model's deployments give in a minute; None where it is not known of one of them.

    Those that are `out` give none, nor do those of endpoints that drain, lack their credential, or serve some tenants
    alone.
    """
    capacities = [
        learned.get(key) if host.capacity is None else host.capacity
        for host in _serving(table, model)
        if (key := HostKey(table.key, host.endpoint, host.deployment)) not in out
    ]
    known = [capacity for capacity in capacities if capacity is not None]
    return sum(known) if len(known) == len(capacities) else None


def shares_of(table: RoutingTable, model: Model) -> Mapping[str, Share]:
    """Return what each tenant that may use a model was promised of it, by tenant; empty where nobody was anything."""
    if all(tenant.share is None for tenant in table.tenants):
        # Of nearly all pools: nothing more is looked at for ten thousand tenants and each model.
        return {}
    elsewhere = dedicated_tenants(table)
    tenants = [t for t in table.tenants if _may_use(t, model) and t.key not in elsewhere]
    if all(tenant.share is None for tenant in tenants):
        return {}
    return {tenant.key: tenant.share or Share() for tenant in tenants}


def shared_models(
    table: RoutingTable, out: Container[HostKey] = (), learned: Learned = NOTHING
) -> Iterator[tuple[Model, int, Mapping[str, Share]]]:
    """Yield the models that tenants share by what they were promised, each with its capacity and their shares.

    Those whose capacity is not known yet are left out. What is out makes it less, and leaves no model out.
    """
    for model in table.models:
        shares = shares_of(table, model)
        if shares and capacity_of(table, model, learned=learned) is not None:
            yield model, capacity_of(table, model, out, learned) or 0, shares


def learns(table: RoutingTable) -> bool:
    """Tell whether tenants share what is to be learned from Azure's answers."""
    return any(shares_of(table, m) and any(host.capacity is None for host in _serving(table, m)) for m in table.models)


def asking_tenants(table: RoutingTable) -> Iterator[Tenant]:
    """Yield the tenants whose requests must be asked for: they have limits, or share something."""
    sharing = {tenant for model in table.models for tenant in shares_of(table, model)}
    return (t for t in table.tenants if (t.quota is not None and t.quota.limited) or t.key in sharing)


def _serving(table: RoutingTable, model: Model) -> Iterator[Host]:
    serving = {e.name for e in table.endpoints if e.usable and not e.drain and not e.dedicated_to}
    return (host for host in model.hosts if host.endpoint in serving and not host.drain)


def _may_use(tenant: Tenant, model: Model) -> bool:
    return not tenant.models or model.name in tenant.models
