"""Resolves the endpoints' names and probes the endpoints, each on its own schedule."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from aoai_operator.core.differing import differing
from aoai_operator.core.health import ProbeTarget
from aoai_operator.core.names import EndpointKey, HostKey, PoolKey, SecretRef
from aoai_operator.core.observations import is_address
from aoai_operator.core.observed import Reason
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.ports import Prober, ResolveError, Resolver
from aoai_operator.runners.observing import Observer
from aoai_operator.runners.schedule import Plan, Schedule

RESOLVE_INTERVAL_MS = 30_000
CONCURRENCY = 32


@dataclass(frozen=True, slots=True)
class _Probe:
    target: ProbeTarget
    deployments: tuple[HostKey, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """What was last followed of a pool."""

    table: RoutingTable
    credentials: tuple[SecretValue | None, ...] = field(repr=False)

    @classmethod
    def of(cls, table: RoutingTable, secrets: Mapping[SecretRef, SecretValue]) -> _Pool:
        return cls(table, _keys(table, secrets))

    def is_still(self, secrets: Mapping[SecretRef, SecretValue]) -> bool:
        return self.credentials == _keys(self.table, secrets)


def _keys(table: RoutingTable, secrets: Mapping[SecretRef, SecretValue]) -> tuple[SecretValue | None, ...]:
    return tuple(secrets.get(spec.credential) if spec.credential else None for spec in table.endpoints)


class Meters(Protocol):
    """Counts the probes."""

    def probed(self, key: EndpointKey, reason: Reason) -> None:
        """Count a probe of an endpoint, or of one deployment behind it."""
        ...


class Probing:
    """Follows the tables: a change of one endpoint leaves the others' schedules alone.

    An endpoint is probed as soon as its name is resolved, and again when its address or credential changed; not
    without a credential, nor where its pool has no probe. Probes dial the addresses that Envoy dials.
    Of several replicas one probes (see `lead`), and all resolve names.
    """

    def __init__(
        self,
        *,
        prober: Prober,
        resolver: Resolver,
        observer: Observer,
        meters: Meters,
        now: Callable[[], int],
        denied: Callable[[EndpointKey], None] = lambda _: None,
        chance: Callable[[], float] = random.random,
        concurrency: int = CONCURRENCY,
    ) -> None:
        """Take the ways out, and where the outcomes go and are counted.

        `now` is a clock in milliseconds; `denied` hears of an endpoint that refused our credential; `chance` in [0, 1)
        is for the jitter.
        """
        self._denied = denied
        self._secrets: Mapping[SecretRef, SecretValue] | None = None
        self._leading = True
        self._prober = prober
        self._resolver = resolver
        self._observer = observer
        self._meters = meters
        self._pools: dict[PoolKey, _Pool] = {}
        self._wanted: dict[EndpointKey, Plan[_Probe]] = {}
        self._addresses: dict[EndpointKey, tuple[str, ...]] = {}
        self._tokens: dict[EndpointKey, _Pair] = {}
        self._names: dict[EndpointKey, str] = {}
        self._untried: set[EndpointKey] = set()
        self._tried = asyncio.Event()
        self._probes = Schedule(self._probe, now=now, concurrency=concurrency, chance=chance)
        self._lookups = Schedule(self._resolve, now=now, concurrency=concurrency, chance=chance)

    def follow(self, tables: Iterable[RoutingTable], secrets: Mapping[SecretRef, SecretValue]) -> None:
        """Take the tables and secrets that are in force now; after the observer took them."""
        same, self._secrets = secrets is self._secrets, secrets
        before, self._pools = self._pools, {}
        for table in tables:
            last = before.get(table.key)
            known = last is not None and last.table is table and (same or last.is_still(secrets))
            self._pools[table.key] = last if last is not None and known else _Pool.of(table, secrets)
        for key in differing(before, self._pools):
            self._exchange(before.get(key), self._pools.get(key))
        self._note_tried()

    def _exchange(self, before: _Pool | None, after: _Pool | None) -> None:
        names = _names(after.table) if after else {}
        probes = dict(_probes(after, self._tokens)) if after else {}
        keys = [pool.table.endpoint_key(spec.name) for pool in (before, after) if pool for spec in pool.table.endpoints]
        for key in dict.fromkeys(keys):
            self._look_up(key, names.get(key))
            self._want(key, probes.get(key))

    def _look_up(self, key: EndpointKey, name: str | None) -> None:
        """Have an endpoint's name resolved; None: it has none any more."""
        if self._names.get(key) != name:
            self._addresses.pop(key, None)
            self._untried.add(key)
        if name is None:
            self._names.pop(key, None)
            self._untried.discard(key)
            self._lookups.drop(key)
        else:
            self._names[key] = name
            self._lookups.put(key, Plan(RESOLVE_INTERVAL_MS, name))

    def _want(self, key: EndpointKey, plan: Plan[_Probe] | None) -> None:
        """Have an endpoint probed; None: no more."""
        last = self._wanted.pop(key, None)
        if plan is not None:
            self._wanted[key] = plan
            if last is not None and last.what.target.credential != plan.what.target.credential:
                self._observer.renewed(key)
        self._aim(key)

    def _aim(self, key: EndpointKey) -> None:
        """Probe an endpoint if it can be dialled: by a literal address, or a name that was resolved."""
        plan = self._wanted.get(key)
        addresses = self._addresses.get(key, ())
        if plan is None or not self._leading or (key in self._names and not addresses):
            self._probes.drop(key)
            return
        target = replace(plan.what.target, addresses=addresses)
        self._probes.put(key, replace(plan, what=replace(plan.what, target=target)))

    def granted(self, key: EndpointKey, token: SecretValue | None, other: SecretValue | None = None) -> None:
        """Take the token with which an endpoint is called, or two keys; None: it is called with none any more."""
        pair = None if token is None else (token, other)
        if self._tokens.get(key) == pair:
            return
        if pair is None:
            del self._tokens[key]
        else:
            self._tokens[key] = pair
        pool = self._pools.get(key.pool)
        self._want(key, dict(_probes(pool, self._tokens)).get(key) if pool else None)

    def lead(self, leading: bool) -> None:
        """Probe from now on, or leave it to another replica; a probe under way then is given up."""
        if leading != self._leading:
            self._leading = leading
            for key in self._wanted:
                self._aim(key)

    def soon(self, key: EndpointKey) -> None:
        """Probe an endpoint early."""
        self._probes.soon(key)

    async def names_tried(self) -> None:
        """Wait until each name was looked up once, with or without success: before, a gateway is not ready."""
        await self._tried.wait()

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lookups.run())
            group.create_task(self._probes.run())

    async def _resolve(self, key: EndpointKey, host: str) -> None:
        try:
            addresses = await self._resolver.resolve(host)
        except ResolveError as error:
            self._observer.unresolved(key, str(error))
        else:
            self._observer.resolved(key, addresses)
            if self._addresses.get(key) != addresses:
                self._addresses[key] = addresses
                self._aim(key)
        self._untried.discard(key)
        self._note_tried()

    async def _probe(self, key: EndpointKey, probe: _Probe) -> None:
        sample = await self._prober.endpoint(probe.target)
        self._meters.probed(key, sample.reason)
        self._observer.probed(key, sample)
        if sample.reason is Reason.AUTH or sample.stale:
            self._denied(key)
        if sample.good:
            for host in probe.deployments:
                found = await self._prober.deployment(probe.target, host.deployment)
                self._meters.probed(key, found.reason)
                self._observer.probed_host(host, found)

    def _note_tried(self) -> None:
        if self._untried:
            self._tried.clear()
        else:
            self._tried.set()


def _names(table: RoutingTable) -> dict[EndpointKey, str]:
    return {table.endpoint_key(spec.name): spec.host for spec in table.endpoints if not is_address(spec.host)}


_Pair = tuple[SecretValue, SecretValue | None]


def _probes(pool: _Pool, tokens: Mapping[EndpointKey, _Pair]) -> Iterable[tuple[EndpointKey, Plan[_Probe]]]:
    table = pool.table
    policy = table.health
    if policy.probe is None:
        return
    hosts = table.host_keys() if policy.probe == "Deployment" else ()
    for spec, known in zip(table.endpoints, pool.credentials, strict=True):
        pair = tokens.get(table.endpoint_key(spec.name), (None, None)) if spec.identity else (known, None)
        credential, other = pair
        if credential is None or not spec.usable:
            continue
        target = ProbeTarget(
            spec.scheme, spec.host, spec.port, credential, policy.timeout_ms, bearer=spec.bearer, other=other
        )
        deployments = tuple(h for h in hosts if h.endpoint == spec.name)
        yield table.endpoint_key(spec.name), Plan(policy.interval_ms, _Probe(target, deployments))
