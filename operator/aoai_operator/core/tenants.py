"""Who may call which pool: tenants from TenantQuotas, with the keys that tell them apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aoai_operator.core.api import AOAIBackendPool, TenantQuota
from aoai_operator.core.claims import Claim, Proof, Subject, SubjectKind, claims_of, key_refs
from aoai_operator.core.conditions import ConditionReason
from aoai_operator.core.credentials import RESERVED, Unreadable, read_key
from aoai_operator.core.findings import Finding
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.news import News
from aoai_operator.core.quotas import known_zone, table_quota, table_share
from aoai_operator.core.table import RoutingTable, Tenant
from aoai_operator.core.world import World


@dataclass(frozen=True, slots=True)
class Tenants:
    """The tenants of each pool, by their keys, and what is wrong with the quotas."""

    by_pool: Mapping[PoolKey, tuple[Tenant, ...]]
    findings: tuple[Finding, ...]


class TenantsStep:
    """Who may call which pool. Of ten thousand quotas only those are looked at that something changed.

    A key belongs to the quota that claimed it first, by creation and then by key, so that a later object can never
    take over an earlier one's traffic.
    """

    def __init__(self) -> None:
        self._news = News()
        self._known: dict[PoolKey, _Known] = {}
        self._named: defaultdict[PoolKey, set[PoolKey]] = defaultdict(set)
        self._lacking: set[PoolKey] = set()
        self._claims: defaultdict[Proof, dict[PoolKey, _Order]] = defaultdict(dict)
        self._owners: dict[Proof, PoolKey] = {}
        self._findings: dict[PoolKey, tuple[Finding, ...]] = {}
        self._tenants = Tenants({}, ())

    def __call__(self, news: News) -> Tenants:
        """Return the tenants of a world's quotas; the same objects where they are what they were."""
        self._news = news
        claimed: set[Proof] = set()
        moved: set[PoolKey] = set()
        for quota in news.quotas_gone:
            known = self._forget(quota.key)
            claimed |= self._claim(known, ())
            moved.update(pool for pool, _ in known.made.tenants)
        for quota in news.quotas_come:
            self._learn(quota)
        keyed = self._keyed_anew()
        for key in keyed:
            claimed |= self._read_keys(self._known[key])
        pools = news.invalid.union(pool.key for pool in (*news.pools_gone, *news.pools_come))
        concerned = keyed.union(*map(self._settle, claimed), *(self._named.get(pool, ()) for pool in pools))
        for key in self._known if news.namespaces else concerned:
            moved |= self._look(self._known[key])
        if concerned or news.quotas_gone or news.namespaces:
            self._tenants = self._put_together(moved)
        return self._tenants

    def _learn(self, quota: TenantQuota) -> None:
        # With and without its namespace a pool is the same one.
        pools = tuple(dict.fromkeys(ref.key(quota.metadata.namespace) for ref in quota.spec.pool_refs))
        self._known[quota.key] = _Known(quota, key_refs(quota), pools)
        for pool in pools:
            self._named[pool].add(quota.key)

    def _forget(self, key: PoolKey) -> _Known:
        known = self._known.pop(key)
        for pool in known.pools:
            self._named[pool].discard(key)
            if not self._named[pool]:
                del self._named[pool]
        self._lacking.discard(key)
        self._findings.pop(key, None)
        return known

    def _keyed_anew(self) -> set[PoolKey]:
        """Return the quotas whose keys are to be read: new ones, and those whose Secrets changed."""
        come, changed = {quota.key for quota in self._news.quotas_come}, self._news.secrets
        if not changed:
            return come
        # Why a Secret is missing depends on all others.
        return come.union(
            self._lacking, (key for key, known in self._known.items() if not changed.isdisjoint(known.refs))
        )

    def _read_keys(self, known: _Known) -> set[Proof]:
        """Read a quota's keys; return what somebody claims since, or no longer."""
        secrets = self._news.world.secrets
        if all(ref in secrets for ref in known.refs):
            self._lacking.discard(known.quota.key)
        else:
            self._lacking.add(known.quota.key)
        return self._claim(known, tuple(claims_of(known.quota, secrets)))

    def _claim(self, known: _Known, claims: tuple[Claim, ...]) -> set[Proof]:
        before, now = ({c.proof for c in each if c.proof is not None} for each in (known.claims, claims))
        known.claims = claims
        for proof in before - now:
            del self._claims[proof][known.quota.key]
        for proof in now - before:
            self._claims[proof][known.quota.key] = _order(known.quota)
        return before ^ now

    def _settle(self, proof: Proof) -> Collection[PoolKey]:
        """Give what is claimed to the first that claims it; return all who do."""
        claims = self._claims[proof]
        if claims:
            self._owners[proof] = min(claims, key=claims.__getitem__)
        else:
            del self._claims[proof]
            self._owners.pop(proof, None)
        return claims.keys()

    def _look(self, known: _Known) -> set[PoolKey]:
        """Make the tenants of a quota; return the pools that others come to than before."""
        owned = [(c, self._owners.get(c.proof) if c.proof is not None else None) for c in known.claims]
        made = _quota(self._news.world, known.quota, owned, [self._news.pools.get(pool) for pool in known.pools])
        before, known.made = known.made, made
        if made.findings:
            self._findings[known.quota.key] = made.findings
        else:
            self._findings.pop(known.quota.key, None)
        if made.tenants == before.tenants:
            return set()
        return {pool for pool, _ in (*before.tenants, *made.tenants)}

    def _put_together(self, moved: set[PoolKey]) -> Tenants:
        by_pool = dict(self._tenants.by_pool)
        for pool in moved:
            by_pool.pop(pool, None)
            made = (self._known[key].made for key in self._named.get(pool, ()))
            tenants = sorted((t for one in made for key, t in one.tenants if key == pool), key=lambda t: t.key)
            if tenants:
                by_pool[pool] = tuple(tenants)
        faulty = sorted(self._findings, key=lambda key: _order(self._known[key].quota))
        return Tenants(
            by_pool if moved else self._tenants.by_pool,
            tuple(finding for key in faulty for finding in self._findings[key]),
        )


_Order = tuple[str, PoolKey]
"""By what the first of several quotas is found: creation, then key."""


def _order(quota: TenantQuota) -> _Order:
    return quota.metadata.creation_timestamp, quota.key


@dataclass(frozen=True, slots=True)
class _Quota:
    """What one quota makes."""

    tenants: tuple[tuple[PoolKey, Tenant], ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(slots=True, eq=False)
class _Known:
    """A quota, and what was made of it.

    Attributes:
        quota: the resource.
        refs: the entries of Secrets that it names.
        pools: the pools that it names, each once.
        claims: what its identities claim.
        made: its tenants and findings.
    """

    quota: TenantQuota
    refs: tuple[SecretRef, ...]
    pools: tuple[PoolKey, ...]
    claims: tuple[Claim, ...] = ()
    made: _Quota = _Quota()


def _quota(
    world: World,
    quota: TenantQuota,
    owned: Sequence[tuple[Claim, PoolKey | None]],
    pools: Sequence[AOAIBackendPool | None],
) -> _Quota:
    tenants: list[tuple[PoolKey, Tenant]] = []
    wrong = [(claim, _not_owned(world, quota, claim, owner)) for claim, owner in owned]
    findings = [finding for _, finding in wrong if finding is not None]
    proven = [claim for claim, finding in wrong if finding is None]
    first = {ref.key(quota.metadata.namespace): i for i, ref in reversed(list(enumerate(quota.spec.pool_refs)))}
    for (key, index), pool in zip(sorted(first.items(), key=lambda item: item[1]), pools, strict=True):
        problem = _not_allowed(world, quota, pool, key, index)
        if problem is not None:
            findings.append(problem)
        elif pool is not None:
            findings += _unknown_models(quota, pool)
            findings += _unpriced(quota, pool)
            tenants.append((key, _tenant(quota, pool, proven)))
    findings += _not_taken(quota, [pool for pool in pools if pool is not None])
    findings += _unknown_zones(quota)
    return _Quota(tuple(tenants), tuple(findings))


def still_tenants(world: World, table: RoutingTable) -> Iterator[Tenant]:
    """Yield those of a held table's tenants whose quotas still name the pool, with the keys that they name still.

    The pool itself cannot be read now, so nobody new comes in.
    """
    quotas = {str(q.key): q for q in world.quotas}
    for tenant in table.tenants:
        quota = quotas.get(tenant.key)
        if quota is None or all(ref.key(tenant.namespace) != table.key for ref in quota.spec.pool_refs):
            continue
        named = [*claims_of(quota, world.secrets)]
        refs, subjects = {claim.ref for claim in named}, _subjects(named)
        still = {kind: tuple(n for n in getattr(tenant, kind) if n in names) for kind, names in subjects.items()}
        yield tenant.model_copy(update={"api_keys": tuple(r for r in tenant.api_keys if r in refs), **still})


def _subjects(claims: Iterable[Claim]) -> Mapping[str, tuple[str, ...]]:
    """Return whom tokens speak for, as the fields of a table's tenant."""
    of = [claim.proof for claim in claims if isinstance(claim.proof, Subject)]
    return {field: tuple(sorted({s.name for s in of if s.kind is kind})) for field, kind in _KINDS.items()}


_KINDS = {"apps": SubjectKind.APP, "groups": SubjectKind.GROUP, "service_accounts": SubjectKind.SERVICE_ACCOUNT}


def _tenant(quota: TenantQuota, pool: AOAIBackendPool, proven: Sequence[Claim]) -> Tenant:
    known = {m.name for m in pool.spec.models}
    # A list that names none of this pool's models grants none of them: empty would mean all.
    models = tuple(sorted(m for m in quota.spec.models if m in known)) or tuple(sorted(quota.spec.models))
    return Tenant(
        namespace=quota.metadata.namespace,
        name=quota.metadata.name,
        models=models,
        api_keys=tuple(claim.ref for claim in proven if claim.ref is not None),
        **_subjects(proven),
        spill_over=bool(quota.spec.spill_over),
        quota=table_quota(quota),
        share=table_share(quota),
    )


def _not_owned(world: World, quota: TenantQuota, claim: Claim, owner: PoolKey | None) -> Finding | None:
    """Return why something that an identity names is not its tenant's."""
    if owner == quota.key:
        return None
    if claim.ref is None:
        message = f"{claim.proof} is an identity of the tenant {owner} already"
        return _finding(quota, ConditionReason.KEY_CONFLICT, claim.field, message, "name it in one of them only")
    value = read_key(world.secrets, claim.ref)
    if isinstance(value, Unreadable):
        return _finding(quota, value.fault, claim.field, value.message, value.mend)
    if owner is None:
        message = f"the key in {claim.ref} is the word {RESERVED}, which open pools give to everybody"
        return _finding(quota, ConditionReason.KEY_CONFLICT, claim.field, message, "use a long random key")
    message = f"the key in {claim.ref} is the one of the tenant {owner} already"
    return _finding(quota, ConditionReason.KEY_CONFLICT, claim.field, message, "give each tenant a key of its own")


def _not_taken(quota: TenantQuota, pools: Sequence[AOAIBackendPool]) -> Iterator[Finding]:
    """Yield the identities whose tokens no pool of the quota takes."""
    for i, identity in enumerate(quota.spec.identities):
        for name, given, taken in (
            ("entra", identity.entra, any(pool.spec.auth.entra for pool in pools)),
            ("serviceAccount", identity.service_account, any(pool.spec.auth.service_accounts for pool in pools)),
        ):
            if given and pools and not taken:
                field, option = f"spec.identities[{i}].{name}", _OPTIONS[name]
                message = f"the pool {pools[0].key} takes no such tokens"
                yield _finding(quota, ConditionReason.TOKENS_NOT_TAKEN, field, message, f"give it spec.auth.{option}")


_OPTIONS = {"entra": "entra", "serviceAccount": "serviceAccounts"}


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


def _unknown_zones(quota: TenantQuota) -> Iterator[Finding]:
    for i, budget in enumerate(quota.spec.limits.budgets if quota.spec.limits else ()):
        if not known_zone(budget.time_zone):
            field, message = f"spec.limits.budgets[{i}].timeZone", f"there is no time zone {budget.time_zone}"
            mend = "name one of the IANA database, such as Europe/Berlin; until then the budget is one of UTC"
            yield _finding(quota, ConditionReason.TIME_ZONE_NOT_FOUND, field, message, mend)


def _unpriced(quota: TenantQuota, pool: AOAIBackendPool) -> Iterator[Finding]:
    """Yield the first model of a pool that costs nothing in the currency of a budget."""
    for i, budget in enumerate(quota.spec.limits.budgets if quota.spec.limits else ()):
        if budget.cost is None:
            continue
        allowed = [m for m in pool.spec.models if not quota.spec.models or m.name in quota.spec.models]
        for model in allowed:
            if model.prices is None or model.prices.currency != budget.cost.currency:
                field = f"spec.limits.budgets[{i}].cost.currency"
                message = f"the model {model.name} of the pool {pool.key} has no price in {budget.cost.currency}"
                mend = (
                    "give it prices in that currency, or take the model out of spec.models; until then it costs nothing"
                )
                yield _finding(quota, ConditionReason.PRICE_NOT_FOUND, field, message, mend)
                break


def _finding(quota: TenantQuota, fault: ConditionReason, field: str, message: str, mend: str) -> Finding:
    return Finding(kind=quota.KIND, key=quota.key, fault=fault, field=field, message=message, mend=mend)
