"""From what was found in Azure to endpoints of a pool. Pure: the same accounts give the same endpoints, by name.

What is found is added to the pool as if it had been written by hand, so that nothing after this step knows of it. What
was written by hand wins over what is found of the same account.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from pydantic import ValidationError

from aoai_operator.core.api import (
    AOAIBackendPool,
    AzureDiscovery,
    Capacity,
    Deployment,
    DeploymentType,
    Endpoint,
    EndpointAuth,
    EntraEndpointAuth,
    milliseconds,
)
from aoai_operator.core.api.endpoint import URL
from aoai_operator.core.credentials import identity_secret
from aoai_operator.core.differing import still
from aoai_operator.core.discovered import (
    NOT_READ,
    AzureSource,
    Discovered,
    Found,
    FoundAccount,
    FoundDeployment,
    Retirement,
    Retirements,
    address_of,
)
from aoai_operator.core.entra import identity_of
from aoai_operator.core.names import PoolKey
from aoai_operator.core.table import RoutingTable
from aoai_operator.core.trusted import is_authority, is_manager

MOST_DEPLOYMENTS = 2048
"""Of a pool, by hand or found: the bound of `status.endpoints`."""
_UNDER_WAY = frozenset({"Accepted", "Creating", "Moving", "Failed"})
"""States of a deployment that is changed, or could not be: what served before does so on, if it answers."""
_NAME = re.compile("[^a-z0-9-]+")
_REGION = re.compile("[^a-z0-9-]+")


class FoundEndpoint(Endpoint):
    """An endpoint that nobody wrote down. `account`: the resource id of the account whose keys it is called with."""

    account: str = ""


@dataclass(frozen=True, slots=True)
class Omitted:
    """What was found and does not serve: an account, or "account/deployment"; why, in a word and in a sentence."""

    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Member:
    """A deployment that was found, and serves a model of the pool.

    Attributes:
        model: the pool's name of it.
        name: "account/deployment".
        found: what Azure says of it.
        retires: when Azure ends what it serves; None: that is not known.
    """

    model: str
    name: str
    found: FoundDeployment
    retires: Retirement | None = None


@dataclass(frozen=True, slots=True)
class Expansion:
    """A pool with what was found for it.

    Attributes:
        pool: with the endpoints that were found.
        found: what was found; None: nothing was looked for.
        omitted: what of it does not serve, by name.
        endpoints, deployments: how many were added.
        members: the deployments among them, when Azure was read.
    """

    pool: AOAIBackendPool
    found: Found | None = None
    omitted: tuple[Omitted, ...] = ()
    endpoints: int = 0
    deployments: int = 0
    members: tuple[Member, ...] = ()


def field_of(pool: AOAIBackendPool, index: int) -> str:
    """Return where an endpoint of a pool was written: `spec.endpoints[1]`, or what it was found by."""
    found = isinstance(pool.spec.endpoints[index], FoundEndpoint)
    return "spec.discovery.azure" if found else f"spec.endpoints[{index}]"


def source_of(pool: AOAIBackendPool) -> AzureSource | None:
    """Return what a pool asks to be read of Azure; None: nothing."""
    if pool.spec.discovery is None:
        return None
    azure = pool.spec.discovery.azure
    manager = azure.resource_manager.rstrip("/").lower()
    credential = identity_secret(pool.metadata.namespace, azure.identity)
    return AzureSource(
        identity=identity_of(azure.identity, credential, scope=""),
        manager=manager,
        subscriptions=tuple(sorted({s.lower() for s in azure.subscription_ids})),
        groups=tuple(sorted({g.lower() for g in azure.resource_groups})),
        tags=tuple(sorted(azure.tags.items())),
        kinds=tuple(sorted(kind.value for kind in azure.kinds)),
        interval=milliseconds(azure.interval),
    )


def is_trusted(source: AzureSource, token_hosts: frozenset[str]) -> bool:
    """Tell whether tokens that open Azure's management may be sent where a pool says it is."""
    return is_authority(source.identity.authority_host, token_hosts) and (
        not source.manager or is_manager(source.manager, token_hosts)
    )


class DiscoveryStep:
    """Expands pools. One whose endpoints are the same as before stays the very same object."""

    def __init__(self) -> None:
        self.expansions: Mapping[PoolKey, Expansion] = {}
        """Of the last pass."""
        self._made_of: dict[PoolKey, tuple[AOAIBackendPool, Found, RoutingTable | None]] = {}

    def __call__(
        self, pools: tuple[AOAIBackendPool, ...], discovered: Discovered, tables: Mapping[PoolKey, RoutingTable]
    ) -> tuple[AOAIBackendPool, ...]:
        """Return the pools with what was found; `tables` has what was found before this process began."""
        if not self.expansions and all(pool.spec.discovery is None for pool in pools):
            return pools
        before, self.expansions, made_of = self.expansions, {}, {}
        for pool in pools:
            source = source_of(pool)
            if source is None:
                continue
            found = discovered.get(source, NOT_READ)
            made_of[pool.key] = made = (pool, found, tables.get(pool.key))
            last, old = self._made_of.get(pool.key), before.get(pool.key)
            same = last is not None and all(one is other for one, other in zip(last, made, strict=True))
            if old and same:
                self.expansions[pool.key] = old
            else:
                self.expansions[pool.key] = _still(old, expanded(*made))
        self._made_of = made_of
        return tuple(self.expansions[p.key].pool if p.key in self.expansions else p for p in pools)


def _still(before: Expansion | None, now: Expansion) -> Expansion:
    if before is None:
        return now
    return replace(now, pool=still(before.pool, now.pool))


def expanded(pool: AOAIBackendPool, found: Found, table: RoutingTable | None) -> Expansion:
    """Return a pool with what was found for it. Before Azure was read, that is what its `table` has of it."""
    if pool.spec.discovery is None:
        return Expansion(pool)
    azure = pool.spec.discovery.azure
    before = list(_recalled(pool, azure, table)) if table else []
    # A list has only what one may see: without its role the identity sees none.
    if found.accounts is None or not (found.accounts or found.seen):
        return _with(pool, found, before, ())
    served = {(address_of(e.url), d.name) for e in before for d in e.deployments}
    sifting = _Finding(pool, azure, served, found.retirements)
    endpoints, omitted = sifting.sift(found.accounts or ())
    if found.fault and not found.read_at:
        # Not all of it was read since this process began: what is missing may be there.
        taken = {address_of(e.url) for e in endpoints} | {e.name for e in endpoints}
        endpoints += [e for e in before if address_of(e.url) not in taken and e.name not in taken]
    made = _with(pool, found, endpoints, tuple(sorted(omitted, key=lambda one: one.name)))
    return replace(made, members=tuple(sifting.members))


def _with(
    pool: AOAIBackendPool, found: Found, endpoints: list[FoundEndpoint], omitted: tuple[Omitted, ...]
) -> Expansion:
    spec = pool.spec.model_copy(update={"endpoints": (*pool.spec.endpoints, *endpoints)})
    deployments = sum(len(e.deployments) for e in endpoints)
    return Expansion(pool.model_copy(update={"spec": spec}), found, omitted, len(endpoints), deployments)


class _Finding:
    """Sifts accounts for one pool."""

    def __init__(
        self,
        pool: AOAIBackendPool,
        azure: AzureDiscovery,
        served: set[tuple[str, str]],
        retirements: Retirements,
    ) -> None:
        self.members: list[Member] = []
        self._retirements = retirements
        self._azure = azure
        self._served = served
        self._by_hand = {address_of(endpoint.url) for endpoint in pool.spec.endpoints}
        self._names = {endpoint.name for endpoint in pool.spec.endpoints}
        self._left = MOST_DEPLOYMENTS - sum(len(e.deployments) for e in pool.spec.endpoints)
        renamed = {m.model: m for m in azure.models}
        self._models: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        for model in pool.spec.models:
            known = renamed.get(model.name)
            name = (known.name if known else None) or model.name
            self._models.setdefault(name.lower(), []).append((model.name, known.versions if known else ()))

    def sift(self, accounts: Iterable[FoundAccount]) -> tuple[list[FoundEndpoint], list[Omitted]]:
        """Return the endpoints, and what was left out."""
        accounts = sorted(accounts, key=lambda account: account.id)
        twice = {name for name, times in Counter(a.name.lower() for a in accounts).items() if times > 1}
        fitting: list[tuple[FoundAccount, list[Deployment]]] = []
        omitted: list[Omitted] = []
        for account in accounts:
            if why := self._unfit(account):
                omitted.append(why)
                continue
            deployments, others = self._deployments(account)
            omitted += others
            if len(deployments) > self._left:
                omitted.append(Omitted(account.name, "TooMany", f"a pool has at most {MOST_DEPLOYMENTS} deployments"))
            elif deployments:
                self._left -= len(deployments)
                fitting.append((account, deployments))
                self.members += self._members(account, deployments)
        provisioned = {d.model for _, ds in fitting for d in ds if d.type and d.type.provisioned}
        found = []
        for account, deployments in fitting:
            try:
                found.append(self._endpoint(account, deployments, provisioned, suffix=account.name.lower() in twice))
            except ValidationError:
                omitted.append(_unusable(account.name))
        return found, omitted

    def _members(self, account: FoundAccount, deployments: Iterable[Deployment]) -> Iterator[Member]:
        found = {one.name: one for one in account.deployments}
        ends = {(r.model.lower(), r.version): r for r in self._retirements.get(account.location, ())}
        for deployment in deployments:
            one = found[deployment.name]
            retires = ends.get((one.model.lower(), one.version))
            yield Member(deployment.model, f"{account.name}/{one.name}", one, retires)

    def _unfit(self, account: FoundAccount) -> Omitted | None:
        def because(reason: str, message: str) -> Omitted:
            return Omitted(account.name, reason, message)

        if not self._by_hand.isdisjoint(account.addresses):
            return because("HandWritten", "an endpoint of spec.endpoints is at its address")
        if not re.fullmatch(URL, account.url):
            return because("NoEndpoint", "it has no address of its own: give it a custom subdomain")
        if account.state not in ("", "Succeeded", "Deleting", "Moving", "Failed"):
            return because("NotProvisioned", f"its provisioningState is {account.state}")
        if _keyed(self._azure) and not account.local_auth:
            return because("KeysDisabled", "its local authentication is disabled: call it with auth.entra")
        return None

    def _deployments(self, account: FoundAccount) -> tuple[list[Deployment], list[Omitted]]:
        made, omitted = [], []
        for deployment in sorted(account.deployments, key=lambda one: one.name):
            wanted = self._models.get(deployment.model.lower(), ())
            models = [m for m, versions in wanted if not versions or deployment.version in versions]
            if models and (why := self._unfit_deployment(account, deployment)):
                omitted.append(why)
                continue
            try:
                made += [_deployment(deployment, model, account) for model in models]
            except ValidationError:
                omitted.append(_unusable(f"{account.name}/{deployment.name}"))
        if not made and not omitted:
            there = ", ".join(sorted({d.model for d in account.deployments})) or "none"
            omitted.append(Omitted(account.name, "NoDeployment", f"it has no model of this pool; its models: {there}"))
        return made, omitted

    def _unfit_deployment(self, account: FoundAccount, deployment: FoundDeployment) -> Omitted | None:
        name = f"{account.name}/{deployment.name}"
        if "Batch" in deployment.type:
            return Omitted(name, "Batch", f"its type {deployment.type} takes no requests, only batches")
        served = (address_of(account.url), deployment.name) in self._served
        if deployment.state in ("", "Succeeded") or (served and deployment.state in {*_UNDER_WAY, "Deleting"}):
            return None
        reason = "ProvisioningFailed" if deployment.state == "Failed" else "NotProvisioned"
        return Omitted(name, reason, f"its provisioningState is {deployment.state}")

    def _endpoint(
        self, account: FoundAccount, deployments: list[Deployment], provisioned: set[str], *, suffix: bool
    ) -> FoundEndpoint:
        name = _NAME.sub("-", account.name.lower()).strip("-")[:63].rstrip("-")
        if suffix or name in self._names:
            name = f"{name[:54]}-{hashlib.sha256(account.id.lower().encode()).hexdigest()[:8]}"
        self._names.add(name)
        ranked = tuple(self._ranked(d, behind=d.model in provisioned) for d in deployments)
        return FoundEndpoint(
            name=name,
            url=account.url.rstrip("/"),
            region=_REGION.sub("", account.location.lower())[:63].strip("-"),
            deployments=ranked,
            auth=_auth(self._azure),
            account=account.id if _keyed(self._azure) else "",
        )

    def _ranked(self, deployment: Deployment, *, behind: bool) -> Deployment:
        own = deployment.type is not None and deployment.type.provisioned
        return deployment.model_copy(update={"priority": self._azure.priority + (behind and not own)})


def _unusable(name: str) -> Omitted:
    return Omitted(name, "Unusable", "a name or a number of it is not as Azure documents it")


def _type(text: str) -> DeploymentType | None:
    """Return a type that we know."""
    return DeploymentType(text) if text in {t.value for t in DeploymentType} else None


def _deployment(found: FoundDeployment, model: str, account: FoundAccount) -> Deployment:
    capacity = Capacity(tokens_per_minute=found.tokens or None, requests_per_minute=found.requests or None)
    return Deployment(
        model=model,
        name=found.name,
        type=_type(found.type),
        capacity=capacity if capacity != Capacity() else None,
        drain=True if "Deleting" in (found.state, account.state) else None,
    )


def _keyed(azure: AzureDiscovery) -> bool:
    return azure.auth is not None and azure.auth.api_key is not None


def _auth(azure: AzureDiscovery) -> EndpointAuth:
    if _keyed(azure):
        return EndpointAuth()
    return EndpointAuth(entra=(azure.auth and azure.auth.entra) or EntraEndpointAuth())


def _recalled(pool: AOAIBackendPool, azure: AzureDiscovery, table: RoutingTable) -> Iterator[FoundEndpoint]:
    """Yield the endpoints that a table has from an earlier reading, and whose place nobody took by hand."""
    by_hand = {address_of(e.url) for e in pool.spec.endpoints}
    names = {e.name for e in pool.spec.endpoints}
    models = {m.name for m in pool.spec.models}
    for endpoint in table.endpoints:
        hosts = [(m.name, h) for m in table.models for h in m.hosts if h.endpoint == endpoint.name]
        deployments = tuple(
            Deployment(
                model=model,
                name=host.deployment,
                type=_type(host.type),
                capacity=Capacity(tokens_per_minute=host.capacity) if host.capacity else None,
                priority=host.priority,
                drain=host.drain or None,
            )
            for model, host in hosts
            if model in models
        )
        place = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        url = f"{endpoint.scheme}://{place}:{endpoint.port}"
        account = endpoint.identity.account if endpoint.identity and _keyed(azure) else ""
        # Of one that was called with tokens until now the account is not known.
        known = endpoint.found and deployments and (account or not _keyed(azure))
        if known and address_of(url) not in by_hand and endpoint.name not in names:
            yield FoundEndpoint(
                name=endpoint.name,
                url=url,
                region=endpoint.region,
                deployments=deployments,
                auth=_auth(azure),
                account=account,
            )


def sources(pools: Iterable[AOAIBackendPool], token_hosts: frozenset[str]) -> frozenset[AzureSource]:
    """Return what is to be read of Azure for some pools; one that may not be read is none."""
    wanted = chain.from_iterable([source] for pool in pools if (source := source_of(pool)))
    return frozenset(source for source in wanted if is_trusted(source, token_hosts))
