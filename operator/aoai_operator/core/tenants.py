"""Who may call which pool: tenants from TenantQuotas, with the keys that tell them apart."""

from __future__ import annotations

from collections.abc import Iterator

from aoai_operator.core.api import AOAIBackendPool, PoolRef, TenantQuota
from aoai_operator.core.credentials import RESERVED, Unreadable, read_key, reference
from aoai_operator.core.findings import Fault, Finding
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable, Tenant
from aoai_operator.core.world import World


def tenants_by_pool(world: World) -> tuple[dict[PoolKey, list[Tenant]], list[Finding]]:
    """Return the tenants of each pool, and what is wrong with the quotas.

    A key belongs to the quota that claimed it first, by creation and then by key, so that a later object can never
    take over an earlier one's traffic.
    """
    pools = {p.key: p for p in world.pools}
    tenants: dict[PoolKey, list[Tenant]] = {}
    owners: dict[SecretValue, PoolKey] = {}
    findings: list[Finding] = []
    for quota in sorted(world.quotas, key=lambda q: (q.metadata.creation_timestamp, q.key)):
        keys = []
        for ref, found in _keys(world, quota, owners):
            if found is None:
                keys.append(ref)
            else:
                findings.append(found)
        referred: set[PoolKey] = set()
        for i, pool_ref in enumerate(quota.spec.pool_refs):
            key = pool_ref.key(quota.metadata.namespace)
            if key in referred:
                continue  # with and without its namespace
            referred.add(key)
            problem = _not_allowed(world, quota, pools.get(key), pool_ref, i)
            if problem is not None:
                findings.append(problem)
            elif key in pools:
                findings += _unknown_models(quota, pools[key])
                tenants.setdefault(key, []).append(_tenant(quota, pools[key], tuple(keys)))
    for listed in tenants.values():
        listed.sort(key=lambda t: t.key)
    return tenants, findings


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
    world: World, quota: TenantQuota, owners: dict[SecretValue, PoolKey]
) -> Iterator[tuple[SecretRef, Finding | None]]:
    for i, identity in enumerate(quota.spec.identities):
        ref = reference(quota.metadata.namespace, identity.api_key.secret_ref)
        field = f"spec.identities[{i}].apiKey.secretRef"
        value = read_key(world.secrets, ref)
        if isinstance(value, Unreadable):
            yield ref, _finding(quota, value.fault, field, value.message, value.mend)
            continue
        if value.reveal() == RESERVED:
            message = f"the key in {ref} is the word {RESERVED}, which open pools give to everybody"
            yield ref, _finding(quota, Fault.KEY_CONFLICT, field, message, "use a long random key")
            continue
        owner = owners.setdefault(value, quota.key)
        if owner == quota.key:
            yield ref, None
        else:
            message = f"the key in {ref} is the one of the tenant {owner} already"
            yield ref, _finding(quota, Fault.KEY_CONFLICT, field, message, "give each tenant a key of its own")


def _not_allowed(
    world: World, quota: TenantQuota, pool: AOAIBackendPool | None, ref: PoolRef, index: int
) -> Finding | None:
    field = f"spec.poolRefs[{index}]"
    key = ref.key(quota.metadata.namespace)
    if pool is None:
        if key in world.invalid:
            return None
        message = f"there is no AOAIBackendPool {key}"
        return _finding(quota, Fault.POOL_NOT_FOUND, field, message, "create it, or name an existing one")
    if pool.spec.allowed_namespaces.allows(quota.metadata.namespace, own=pool.metadata.namespace):
        return None
    message = f"the pool {key} does not take tenants of the namespace {quota.metadata.namespace}"
    mend = "add the namespace to the pool's spec.allowedNamespaces"
    return _finding(quota, Fault.NAMESPACE_NOT_ALLOWED, field, message, mend)


def _unknown_models(quota: TenantQuota, pool: AOAIBackendPool) -> Iterator[Finding]:
    known = {m.name for m in pool.spec.models}
    for i, model in enumerate(quota.spec.models):
        if model not in known:
            message = f"the pool {pool.key} has no model {model}"
            mend = f"it has {', '.join(sorted(known))}"
            yield _finding(quota, Fault.MODEL_NOT_FOUND, f"spec.models[{i}]", message, mend)


def _finding(quota: TenantQuota, fault: Fault, field: str, message: str, mend: str) -> Finding:
    return Finding(kind=quota.KIND, key=quota.key, fault=fault, field=field, message=message, mend=mend)
