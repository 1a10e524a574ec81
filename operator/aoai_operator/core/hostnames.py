"""Who owns a host name of a gateway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aoai_operator.core.api import AOAIBackendPool
from aoai_operator.core.conditions import ConditionReason
from aoai_operator.core.findings import Finding
from aoai_operator.core.names import PoolKey
from aoai_operator.core.table import RoutingTable


def owned_hostnames(
    pools: Iterable[AOAIBackendPool], held: Mapping[PoolKey, RoutingTable]
) -> tuple[dict[PoolKey, tuple[str, ...]], list[Finding]]:
    """Give each host name of a gateway to the pool that claimed it first, by creation and then by key.

    Returns the names of the pools that claim any. What a held table serves is taken: Envoy would refuse all routes of
    the gateway when two pools had one host name. What else a held pool claims it gets after all others, since it does
    not serve it yet.
    """
    owners = {(table.gateway, name): key for key, table in held.items() for name in table.hostnames}
    owned: dict[PoolKey, tuple[str, ...]] = {}
    findings = []
    claiming = [pool for pool in pools if pool.spec.gateway.hostnames]
    for pool in sorted(claiming, key=lambda p: (p.key in held, p.metadata.creation_timestamp, p.key)):
        gateway, kept = pool.spec.gateway, []
        for i, name in enumerate(gateway.hostnames):
            owner = owners.setdefault((gateway.name, name.lower()), pool.key)
            if owner == pool.key:
                kept.append(name.lower())
                continue
            findings.append(
                Finding(
                    kind=pool.KIND,
                    key=pool.key,
                    fault=ConditionReason.HOSTNAME_CONFLICT,
                    field=f"spec.gateway.hostnames[{i}]",
                    message=f"{name} belongs to the pool {owner} on the gateway {gateway.name}",
                    mend="choose another host name, or take it out of the other pool",
                )
            )
        owned[pool.key] = tuple(sorted(set(kept)))
    return owned, findings
