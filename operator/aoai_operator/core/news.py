"""What is new in a world: in what it differs from the one before. Worked out once a pass, for all its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aoai_operator.core.api import AOAIBackendPool, TenantQuota
from aoai_operator.core.differing import differing, exchanged
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.world import World


@dataclass(frozen=True, slots=True)
class News:
    """A world, and what changed in it.

    Attributes:
        world: the world.
        pools, quotas: its resources by key; pools in the order of their keys.
        pools_gone, pools_come: the pools that left, and those that came; one that was read anew did both.
        quotas_gone, quotas_come: the same of tenants.
        secrets: the entries of Secrets that came, left, or have other values.
        invalid: the pools that became unreadable, or are so no longer.
        namespaces: whether others are watched.
    """

    world: World = field(default_factory=World)
    pools: Mapping[PoolKey, AOAIBackendPool] = field(default_factory=dict)
    quotas: Mapping[PoolKey, TenantQuota] = field(default_factory=dict)
    pools_gone: Sequence[AOAIBackendPool] = ()
    pools_come: Sequence[AOAIBackendPool] = ()
    quotas_gone: Sequence[TenantQuota] = ()
    quotas_come: Sequence[TenantQuota] = ()
    secrets: frozenset[SecretRef] = frozenset()
    invalid: frozenset[PoolKey] = frozenset()
    namespaces: bool = False

    def then(self, world: World) -> News:
        """Return what is new in the world that follows."""
        before = self.world
        pools_gone, pools_come = exchanged(before.pools, world.pools)
        quotas_gone, quotas_come = exchanged(before.quotas, world.quotas)
        pools, quotas = self.pools, self.quotas
        if pools_gone or pools_come:
            pools = {pool.key: pool for pool in sorted(world.pools, key=lambda pool: pool.key)}
        if quotas_gone or quotas_come:
            left = {quota.key for quota in quotas_gone} - {quota.key for quota in quotas_come}
            quotas = {**quotas, **{quota.key: quota for quota in quotas_come}}
            for key in left:
                del quotas[key]
        return News(
            world,
            pools,
            quotas,
            pools_gone,
            pools_come,
            quotas_gone,
            quotas_come,
            frozenset(differing(before.secrets, world.secrets)),
            before.invalid ^ world.invalid,
            before.namespaces != world.namespaces,
        )
