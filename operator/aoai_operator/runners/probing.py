"""Resolves the endpoints' names and probes the endpoints, each on its own schedule."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from aoai_operator.core.health import ProbeTarget
from aoai_operator.core.names import EndpointKey, HostKey, SecretRef
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
        chance: Callable[[], float] = random.random,
        concurrency: int = CONCURRENCY,
    ) -> None:
        """Take the ways out, and where the outcomes go and are counted.

        `now` is a clock in milliseconds; `chance` in [0, 1) is for the jitter.
        """
        self._leading = True
        self._prober = prober
        self._resolver = resolver
        self._observer = observer
        self._meters = meters
        self._wanted: dict[EndpointKey, Plan[_Probe]] = {}
        self._addresses: dict[EndpointKey, tuple[str, ...]] = {}
        self._names: dict[EndpointKey, str] = {}
        self._untried: set[EndpointKey] = set()
        self._tried = asyncio.Event()
        self._probes = Schedule(self._probe, now=now, concurrency=concurrency, chance=chance)
        self._lookups = Schedule(self._resolve, now=now, concurrency=concurrency, chance=chance)

    def follow(self, tables: Iterable[RoutingTable], secrets: Mapping[SecretRef, SecretValue]) -> None:
        """Take the tables and secrets that are in force now; after the observer took them."""
        tables = tuple(tables)
        names = {t.endpoint_key(e.name): e.host for t in tables for e in t.endpoints if not is_address(e.host)}
        fresh = {key for key, host in names.items() if self._names.get(key) != host}
        self._addresses = {k: a for k, a in self._addresses.items() if k in names and k not in fresh}
        self._untried = (self._untried | fresh) & names.keys()
        self._names = names
        before, self._wanted = self._wanted, dict(_probes(tables, secrets))
        for key, plan in self._wanted.items():
            if key in before and before[key].what.target.credential != plan.what.target.credential:
                self._observer.renewed(key)
        self._lookups.follow({key: Plan(RESOLVE_INTERVAL_MS, host) for key, host in names.items()})
        self._follow_addresses()
        self._note_tried()

    def lead(self, leading: bool) -> None:
        """Probe from now on, or leave it to another replica; a probe under way then is given up."""
        if leading != self._leading:
            self._leading = leading
            self._follow_addresses()

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
                self._follow_addresses()
        self._untried.discard(key)
        self._note_tried()

    async def _probe(self, key: EndpointKey, probe: _Probe) -> None:
        sample = await self._prober.endpoint(probe.target)
        self._meters.probed(key, sample.reason)
        self._observer.probed(key, sample)
        if sample.good:
            for host in probe.deployments:
                found = await self._prober.deployment(probe.target, host.deployment)
                self._meters.probed(key, found.reason)
                self._observer.probed_host(host, found)

    def _follow_addresses(self) -> None:
        """Probe what can be dialled: literals, and names that were resolved."""
        plans = {key: plan for key, plan in self._wanted.items() if key not in self._names}
        for key, addresses in self._addresses.items():
            plan = self._wanted.get(key)
            if plan is not None:
                target = replace(plan.what.target, addresses=addresses)
                plans[key] = replace(plan, what=replace(plan.what, target=target))
        self._probes.follow(plans if self._leading else {})

    def _note_tried(self) -> None:
        if self._untried:
            self._tried.clear()
        else:
            self._tried.set()


def _probes(
    tables: Iterable[RoutingTable], secrets: Mapping[SecretRef, SecretValue]
) -> Iterable[tuple[EndpointKey, Plan[_Probe]]]:
    for table in tables:
        policy = table.health
        if policy.probe is None:
            continue
        hosts = table.host_keys() if policy.probe == "Deployment" else ()
        for spec in table.endpoints:
            credential = secrets.get(spec.credential)
            if credential is None or not spec.usable:
                continue
            target = ProbeTarget(spec.scheme, spec.host, spec.port, credential, policy.timeout_ms)
            deployments = tuple(h for h in hosts if h.endpoint == spec.name)
            yield table.endpoint_key(spec.name), Plan(policy.interval_ms, _Probe(target, deployments))
