"""World: the only input of compile(). Resources, what they refer to, and what was observed, at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aoai_operator.core.api import AOAIBackendPool, AOAIBackendPoolStatus, TenantQuota, TenantQuotaStatus
from aoai_operator.core.discovered import Discovered
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.observed import Overrides
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable


@dataclass(frozen=True, slots=True)
class Programming:
    """How far the Envoys of one control plane are with a pool.

    Attributes:
        connected: Envoys that should carry the pool.
        programmed: those among them that hold all that was published of it.
        refusal: an Envoy's words, cleared of secrets, when one does not take it.
        revision: that of the routing table that was published; None: of the one that is wanted now.
    """

    connected: int = 0
    programmed: int = 0
    refusal: str | None = None
    revision: str | None = None

    @classmethod
    def together(cls, parts: Iterable[Programming], wanted: str) -> Programming:
        """Sum the parts up; an Envoy counts as programmed only with the table of the `wanted` revision."""
        parts = tuple(parts)
        mine = [p for p in parts if p.revision in (None, wanted)]
        return cls(
            connected=sum(p.connected for p in parts),
            programmed=sum(p.programmed for p in mine),
            refusal=next((p.refusal for p in mine if p.refusal is not None), None),
            revision=wanted,
        )


@dataclass(frozen=True, slots=True)
class World:
    """Everything that a compilation may look at.

    Attributes:
        pools, quotas: the resources that are valid in themselves, in any order.
        secrets: the entries of Secrets that could be read, by reference.
        last_good: the table of each pool that serves now: kept for a suspended pool, and for one whose resource has
            become invalid.
        invalid: pools that exist but cannot be read as such; their last good table keeps serving.
        token_hosts: domains that the operator's owner trusts with tokens of Entra ID, besides Azure's own.
        discovered: what was found in Azure.
        namespaces: those that resources were read from; empty: all.
        taken: the names of ConfigMaps that pools need for their tables, and that are somebody else's.
        unwritten: why the Secrets that tenants asked for could not be written, by tenant.
        ledger: why what tenants used cannot be asked now, a sentence without a full stop; empty: it can.
        overrides: the observed state of the hosts, for the statuses.
        programming: how far the Envoys are, by pool, a part from each control plane that knows of it.
        pool_statuses, quota_statuses: what the resources' statuses say now; transitions keep their times.
        now: milliseconds of the Unix epoch.
    """

    pools: tuple[AOAIBackendPool, ...] = ()
    quotas: tuple[TenantQuota, ...] = ()
    secrets: Mapping[SecretRef, SecretValue] = field(default_factory=dict, repr=False)
    last_good: Mapping[PoolKey, RoutingTable] = field(default_factory=dict)
    invalid: frozenset[PoolKey] = frozenset()
    token_hosts: frozenset[str] = frozenset()
    discovered: Discovered = field(default_factory=dict, repr=False)
    namespaces: frozenset[str] = frozenset()
    taken: Mapping[PoolKey, str] = field(default_factory=dict)
    unwritten: Mapping[PoolKey, str] = field(default_factory=dict)
    ledger: str = ""
    overrides: Overrides = field(default_factory=Overrides)
    programming: Mapping[PoolKey, Sequence[Programming]] = field(default_factory=dict)
    pool_statuses: Mapping[PoolKey, AOAIBackendPoolStatus] = field(default_factory=dict)
    quota_statuses: Mapping[PoolKey, TenantQuotaStatus] = field(default_factory=dict)
    now: int = 0

    def watches(self, namespace: str) -> bool:
        """Tell whether what is in a namespace is known."""
        return not self.namespaces or namespace in self.namespaces
