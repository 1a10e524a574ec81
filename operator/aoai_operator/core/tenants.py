"""Who may call which pool: tenants from TenantQuotas, with the keys that tell them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from aoai_operator.core.api import AOAIBackendPool, TenantQuota
from aoai_operator.core.conditions import ConditionReason
from aoai_operator.core.credentials import RESERVED, Unreadable, is_sendable, read_key, reference
from aoai_operator.core.findings import Finding
from aoai_operator.core.memo import Memo
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable, Tenant
from aoai_operator.core.world import World


@dataclass(frozen=True, slots=True)
class Tenants:
    """The tenants of each pool, by their keys, and what is wrong with the quotas."""

    by_pool: Mapping[PoolKey, tuple[Tenant, ...]]
    findings: tuple[Finding, ...]


class TenantsStep:
    """Who may call which pool. Remembers each quota: of ten thousand only those are looked at that something changed.

    A key belongs to the quota that claimed it first, by creation and then by key, so that a later object can never
    take over an earlier one's traffic.
    """

    def __init__(self) -> None:
        self._all: Memo[Tenants] = Memo()
        self._looks: dict[PoolKey, _Look] = {}
        self._by_pool: Memo[tuple[Tenant, ...]] = Memo()

    def __call__(self, world: World) -> Tenants:
        """Return the tenants of a world's quotas."""
        views = [(p.key, p.spec.allowed_namespaces, p.spec.models) for p in world.pools]
        inputs = (world.quotas, world.secrets, views, world.invalid, world.namespaces)
        found = self._all.of("", inputs, lambda: self._tenants(world))
        self._all.sweep()
        return found

    def _tenants(self, world: World) -> Tenants:
        pools = {p.key: p for p in world.pools}
        owners: dict[SecretValue, PoolKey] = {}
        tenants: dict[PoolKey, list[Tenant]] = {}
        findings: list[Finding] = []
        before, self._looks = self._looks, {}
        for quota in sorted(world.quotas, key=lambda q: (q.metadata.creation_timestamp, q.key)):
            look = _look(world, quota, pools, owners, before.get(quota.key))
            self._looks[quota.key] = look
            findings += look.made.findings
            for pool, tenant in look.made.tenants:
                tenants.setdefault(pool, []).append(tenant)
        by_pool = {
            key: self._by_pool.of(key, tuple(listed), partial(_sorted, listed)) for key, listed in tenants.items()
        }
        self._by_pool.sweep()
        return Tenants(by_pool, tuple(findings))


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a quota names: entries of Secrets, one for each identity, and pools, each once."""

    refs: tuple[SecretRef, ...]
    pools: tuple[PoolKey, ...]

    @classmethod
    def of(cls, quota: TenantQuota) -> _Claim:
        namespace = quota.metadata.namespace
        refs = tuple(reference(namespace, identity.api_key.secret_ref) for identity in quota.spec.identities)
        # With and without its namespace a pool is the same one.
        return cls(refs, tuple(dict.fromkeys(ref.key(namespace) for ref in quota.spec.pool_refs)))


@dataclass(frozen=True, slots=True)
class _Quota:
    """What one quota makes."""

    tenants: tuple[tuple[PoolKey, Tenant], ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What was made of a quota, and of what: its keys' values and whose they are, and the pools that it names."""

    quota: TenantQuota
    claim: _Claim
    values: tuple[SecretValue | None, ...]
    usable: tuple[bool, ...]
    owners: tuple[PoolKey | None, ...]
    pools: tuple[AOAIBackendPool | None, ...]
    unread: tuple[tuple[bool, bool], ...]
    made: _Quota


def _look(
    world: World,
    quota: TenantQuota,
    pools: Mapping[PoolKey, AOAIBackendPool],
    owners: dict[SecretValue, PoolKey],
    last: _Look | None,
) -> _Look:
    """Look at a quota; return the last look where that saw the same. Its keys are its own from now on, in `owners`."""
    same = last if last is not None and (last.quota is quota or last.quota == quota) else None
    claim = same.claim if same else _Claim.of(quota)
    values = tuple(map(world.secrets.get, claim.refs))
    if same and same.values != values:
        same = None
    usable = same.usable if same else tuple(v is not None and _is_key(v) for v in values)
    held = tuple(
        owners.setdefault(v, quota.key) if ok and v is not None else None for v, ok in zip(values, usable, strict=True)
    )
    known = tuple(map(pools.get, claim.pools))
    unread = tuple((p in world.invalid, world.watches(p.namespace)) for p in claim.pools)
    # Why a Secret is missing depends on all others.
    if same and None not in values and (same.owners, same.pools, same.unread) == (held, known, unread):
        return same
    made = _quota(world, quota, held, known)
    made = last.made if last is not None and last.made == made else made
    return _Look(quota, claim, values, usable, held, known, unread, made)


def _sorted(tenants: Sequence[Tenant]) -> tuple[Tenant, ...]:
    return tuple(sorted(tenants, key=lambda t: t.key))


def _quota(
    world: World,
    quota: TenantQuota,
    owners: Sequence[PoolKey | None],
    pools: Sequence[AOAIBackendPool | None],
) -> _Quota:
    keys: list[SecretRef] = []
    tenants: list[tuple[PoolKey, Tenant]] = []
    findings: list[Finding] = []
    for ref, found in _keys(world, quota, owners):
        if found is None:
            keys.append(ref)
        else:
            findings.append(found)
    first = {ref.key(quota.metadata.namespace): i for i, ref in reversed(list(enumerate(quota.spec.pool_refs)))}
    for (key, index), pool in zip(sorted(first.items(), key=lambda item: item[1]), pools, strict=True):
        problem = _not_allowed(world, quota, pool, key, index)
        if problem is not None:
            findings.append(problem)
        elif pool is not None:
            findings += _unknown_models(quota, pool)
            tenants.append((key, _tenant(quota, pool, tuple(keys))))
    return _Quota(tuple(tenants), tuple(findings))


def _is_key(value: SecretValue) -> bool:
    return is_sendable(value) and value.reveal() != RESERVED


def still_tenants(world: World, table: RoutingTable) -> Iterator[Tenant]:
    """Yield those of a held table's tenants whose quotas still name the pool, with the keys that they name still.

    The pool itself cannot be read now, so nobody new comes in.
    """
    quotas = {str(q.key): q for q in world.quotas}
    for tenant in table.tenants:
        quota = quotas.get(tenant.key)
        if quota is None or all(ref.key(tenant.namespace) != table.key for ref in quota.spec.pool_refs):
            continue
        named = {reference(tenant.namespace, identity.api_key.secret_ref) for identity in quota.spec.identities}
        yield tenant.model_copy(update={"api_keys": tuple(ref for ref in tenant.api_keys if ref in named)})


def _tenant(quota: TenantQuota, pool: AOAIBackendPool, keys: tuple[SecretRef, ...]) -> Tenant:
    known = {m.name for m in pool.spec.models}
    # A list that names none of this pool's models grants none of them: empty would mean all.
    models = tuple(sorted(m for m in quota.spec.models if m in known)) or tuple(sorted(quota.spec.models))
    return Tenant(namespace=quota.metadata.namespace, name=quota.metadata.name, models=models, api_keys=keys)


def _keys(
    world: World, quota: TenantQuota, owners: Sequence[PoolKey | None]
) -> Iterator[tuple[SecretRef, Finding | None]]:
    for i, (identity, owner) in enumerate(zip(quota.spec.identities, owners, strict=True)):
        ref = reference(quota.metadata.namespace, identity.api_key.secret_ref)
        field = f"spec.identities[{i}].apiKey.secretRef"
        value = read_key(world.secrets, ref)
        if isinstance(value, Unreadable):
            yield ref, _finding(quota, value.fault, field, value.message, value.mend)
        elif owner is None:
            message = f"the key in {ref} is the word {RESERVED}, which open pools give to everybody"
            yield ref, _finding(quota, ConditionReason.KEY_CONFLICT, field, message, "use a long random key")
        elif owner == quota.key:
            yield ref, None
        else:
            message = f"the key in {ref} is the one of the tenant {owner} already"
            yield (
                ref,
                _finding(quota, ConditionReason.KEY_CONFLICT, field, message, "give each tenant a key of its own"),
            )


def _not_allowed(
    world: World, quota: TenantQuota, pool: AOAIBackendPool | None, key: PoolKey, index: int
) -> Finding | None:
    field = f"spec.poolRefs[{index}]"
    if pool is None:
        if key in world.invalid:
            return None
        if not world.watches(key.namespace):
            message = f"this operator does not watch the namespace {key.namespace}, and cannot know the pool {key}"
            mend = "add the namespace to the operator's watchNamespaces, or name a pool of a namespace that it watches"
            return _finding(quota, ConditionReason.NAMESPACE_NOT_WATCHED, field, message, mend)
        message = f"there is no AOAIBackendPool {key}"
        return _finding(quota, ConditionReason.POOL_NOT_FOUND, field, message, "create it, or name an existing one")
    if pool.spec.allowed_namespaces.allows(quota.metadata.namespace, own=pool.metadata.namespace):
        return None
    message = f"the pool {key} does not take tenants of the namespace {quota.metadata.namespace}"
    mend = "add the namespace to the pool's spec.allowedNamespaces"
    return _finding(quota, ConditionReason.NAMESPACE_NOT_ALLOWED, field, message, mend)


def _unknown_models(quota: TenantQuota, pool: AOAIBackendPool) -> Iterator[Finding]:
    known = {m.name for m in pool.spec.models}
    for i, model in enumerate(quota.spec.models):
        if model not in known:
            message = f"the pool {pool.key} has no model {model}"
            mend = f"it has {', '.join(sorted(known))}"
            yield _finding(quota, ConditionReason.MODEL_NOT_FOUND, f"spec.models[{i}]", message, mend)


def _finding(quota: TenantQuota, fault: ConditionReason, field: str, message: str, mend: str) -> Finding:
    return Finding(kind=quota.KIND, key=quota.key, fault=fault, field=field, message=message, mend=mend)
