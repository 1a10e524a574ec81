"""Fleets of pools, and the operator's core that serves them to two real Envoys, in one process.

    python -m bench.fleet POOLS CHANGES

prints one JSON object: see `Measured`. A process of its own, so that its memory is the operator's alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from os import getpid
from pathlib import Path
from typing import Any, Protocol, cast

import httpx
import structlog

from aoai_operator.adapters.envoy_process import EnvoyOptions, EnvoyProcess, find_envoy
from aoai_operator.control_plane import ControlPlane, Gateway
from aoai_operator.core.api import AOAIBackendPool, TenantQuota, parse
from aoai_operator.core.api.base import API_VERSION
from aoai_operator.core.compiler import Compiled
from aoai_operator.core.envoy.bootstrap import UnixAddress, bootstrap
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Snapshot
from aoai_operator.core.failures import Failure
from aoai_operator.core.names import HostKey, PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.world import Programming, World
from aoai_operator.interpreter import collected_seldom
from aoai_operator.metrics import Metrics
from aoai_operator.runners.observing import Observer
from aoai_operator.runners.publish import Publisher
from aoai_operator.runners.reconcile import Reconciler
from bench.machine import free_port, rss_kib

ENDPOINTS = 10
TENANTS = 10
MODELS = ("gpt-4o", "gpt-4o-mini")
ENVOYS = 2
GATEWAY = "default"
Change = Callable[[], None]


class Fleet(Protocol):
    """Whatever applies changes and knows when all Envoys have them: the core alone, or a whole cluster."""

    changes: Mapping[str, Callable[[int], Change]]
    """What can change, by name; each makes the change of the pool with that number."""

    async def programmed(self, change: Change) -> float:
        """Make a change; return after how many seconds every Envoy had it."""
        ...

    async def bytes_received(self) -> int:
        """Return how many bytes of configuration all Envoys received so far."""
        ...


@dataclass(frozen=True, slots=True)
class Measured:
    """What a fleet took, in seconds, by the kind of change; a stall is the longest that the event loop kept others."""

    pools: int
    cold_start: float
    cold_bytes: int
    rss_mib: float
    stall_start: float
    stall_changes: float
    seconds: Mapping[str, list[float]]
    bytes_each: Mapping[str, float]


async def measure(fleet: Fleet, changes: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Make each kind of change so many times, of one pool after the other."""
    seconds: dict[str, list[float]] = {}
    sizes: dict[str, float] = {}
    for kind, make in fleet.changes.items():
        before = await fleet.bytes_received()
        seconds[kind] = [await fleet.programmed(make(i)) for i in range(changes)]
        sizes[kind] = (await fleet.bytes_received() - before) / changes / ENVOYS
    return seconds, sizes


class CoreFleet:
    """The core of the operator without Kubernetes: reconciler, publisher, xDS server, and two Envoys."""

    def __init__(self, pools: int, directory: Path) -> None:
        self.changes: Mapping[str, Callable[[int], Change]] = {
            "one pool's weight": self._weight,
            "one tenant added": self._tenant,
            "one key rotated": self._key,
            "one endpoint's health": self._health,
        }
        self._directory = directory
        self._pools = {i: _pool(i) for i in range(pools)}
        self._quotas = [_quota(i, str(n)) for i in range(pools) for n in range(TENANTS)]
        self._secrets = {
            _ref(i, f"{kind}{n}"): SecretValue(f"{kind}-{n}-of-{i}-{'0' * 32}")
            for i in range(pools)
            for kind, count in (("endpoint-", ENDPOINTS), ("tenant-", TENANTS))
            for n in range(count)
        }
        self._version, self._settled = "", asyncio.Event()
        self._observer = Observer(changed=self._observed, now=_now)
        self._publisher = Publisher(
            settings=GatewaySettings(GATEWAY, "127.0.0.1", free_port(), str(directory / "access.log")),
            observing=self._observer,
            publish=self._publish,
            prepare=lambda snapshot: self._gateway.prepare(snapshot),  # noqa: PLW0108 - they need each other
            now=_now,
            interval=0.1,
        )
        self._plane = ControlPlane(changed=self._changed, meters=Metrics())
        self._gateway: Gateway = self._plane.add(GATEWAY, refused=self._refused, settled=self._all_have)
        self._reconciler = Reconciler(
            load=self._load,
            observe=self._observer.overrides,
            programming=self._programming,
            deliver=self._deliver,
            now=_now,
            hold_off=0.1,
            hold_off_max=0.5,
        )

    async def start(self, stack: AsyncExitStack) -> float:
        """Start everything; return after how many seconds both Envoys had it all."""
        began = time.monotonic()
        control = UnixAddress(str(self._directory / "xds"))
        await stack.enter_async_context(self._plane.serving(f"unix:{control.path}"))
        runs = [self._reconciler.run(), self._publisher.run(), *(self._envoy(n, control) for n in range(ENVOYS))]
        for run in runs:
            stack.push_async_callback(_cancelled, asyncio.create_task(run))
        self._reconciler.resources_changed()
        await self._settled.wait()
        return time.monotonic() - began

    async def _envoy(self, number: int, control: UnixAddress) -> None:
        # Two listeners of one machine can share a port (SO_REUSEPORT), as Envoy does by default.
        directory = self._directory / str(number)
        directory.mkdir()
        admin = directory / "admin"
        static = bootstrap(node_id=str(number), gateway=GATEWAY, control_plane=control, admin=UnixAddress(str(admin)))
        options = EnvoyOptions(
            binary=find_envoy(None),
            directory=directory,
            bootstrap=static,
            admin_socket=admin,
            concurrency=1,
            drain_seconds=1,
        )
        await EnvoyProcess(options).run()

    async def programmed(self, change: Change) -> float:
        """Make a change; return after how many seconds every Envoy had it."""
        self._settled.clear()
        began = time.monotonic()
        change()
        async with asyncio.timeout(60):
            await self._settled.wait()
        taken = time.monotonic() - began
        # The statuses follow, and the next change should not wait for them.
        await asyncio.sleep(0.3)
        return taken

    async def bytes_received(self) -> int:
        """Ask the Envoys how many bytes their control plane sent."""
        total = 0
        for number in range(ENVOYS):
            transport = httpx.AsyncHTTPTransport(uds=str(self._directory / str(number) / "admin"))
            async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=30) as client:
                answer = await client.get("/stats?filter=^cluster.control-plane.upstream_cx_rx_bytes_total$")
            total += int(answer.text.rpartition(": ")[2])
        return total

    def _weight(self, number: int) -> Change:
        def change() -> None:
            self._pools[number] = _pool(number, weight=1 + number % 9)
            self._reconciler.resources_changed()

        return change

    def _tenant(self, number: int) -> Change:
        def change() -> None:
            self._quotas = [*self._quotas, _quota(number, "new")]
            self._secrets = {**self._secrets, _ref(number, "tenant-new"): SecretValue(f"new-{number}-{'0' * 32}")}
            self._reconciler.resources_changed()

        return change

    def _key(self, number: int) -> Change:
        def change() -> None:
            rotated = SecretValue(f"rotated-{number}-{'0' * 32}")
            self._secrets = {**self._secrets, _ref(number, "endpoint-0"): rotated}
            self._reconciler.resources_changed()

        return change

    def _health(self, number: int) -> Change:
        host = HostKey(PoolKey(*_name(number)), "endpoint-0", MODELS[0])
        return lambda: cast("None", self._observer.attempts([Failure(host, 429, 3_600_000)]))

    async def _load(self) -> World:
        return World(tuple(self._pools.values()), tuple(self._quotas), self._secrets)

    def _deliver(self, world: World, compiled: Compiled) -> None:
        if compiled.findings:
            raise ValueError(compiled.findings[0].sentence())
        self._observer.follow(compiled.tables.values())
        self._publisher.want(compiled.tables, world.secrets)

    def _changed(self) -> None:
        self._reconciler.observations_changed()

    def _observed(self) -> None:
        self._publisher.observed()
        self._reconciler.observations_changed()

    def _programming(self) -> Mapping[PoolKey, Sequence[Programming]]:
        return {key: (part,) for key, part in self._publisher.programming(self._gateway.programming).items()}

    def _publish(self, snapshot: Snapshot) -> None:
        self._version = snapshot.version
        self._gateway.publish(snapshot)
        self._reconciler.observations_changed()

    def _refused(self, *what: object) -> None:
        raise ValueError(f"an Envoy refused {what}")

    def _all_have(self, version: str) -> None:
        self._publisher.settled(version)
        connected = len(self._gateway_proxies())
        if version == self._version and connected == ENVOYS:
            self._settled.set()

    def _gateway_proxies(self) -> range:
        return range(self._gateway.programming("").connected)


def _name(number: int) -> tuple[str, str]:
    return f"team-{number // 10}", f"pool-{number}"


def _ref(number: int, what: str) -> SecretRef:
    namespace, name = _name(number)
    return SecretRef(namespace, f"{name}-{what}", "api-key")


def _key(number: int, what: str) -> dict[str, Any]:
    ref = _ref(number, what)
    return {"apiKey": {"secretRef": {"name": ref.name, "key": ref.key}}}


def pool_spec(
    number: int, *, models: Sequence[str], key: Callable[[int], dict[str, Any]], weight: int = 10
) -> dict[str, Any]:
    """Return a pool of a fleet: addresses of its own, where nobody listens, and a credential for each endpoint."""

    def endpoint(n: int) -> dict[str, Any]:
        return {
            "name": f"endpoint-{n}",
            "url": f"http://127.{1 + number // 250}.{number % 250}.{n + 1}:9",
            "region": f"region-{n}",
            "weight": 10 if n else weight,
            "deployments": [{"model": model, "name": model} for model in models],
            "auth": key(n),
        }

    return {
        "models": [{"name": model} for model in models],
        "endpoints": [endpoint(n) for n in range(ENDPOINTS)],
        "balancing": {"strategy": "Weighted"},
    }


def quota_spec(pool: str, key: dict[str, Any]) -> dict[str, Any]:
    """Return a tenant of a pool."""
    return {"poolRefs": [{"name": pool}], "identities": [key]}


def _pool(number: int, *, weight: int = 10) -> AOAIBackendPool:
    spec = pool_spec(number, models=MODELS, key=lambda n: _key(number, f"endpoint-{n}"), weight=weight)
    more = {"throttling": {"maxRetryAfter": "1h"}}
    return cast("AOAIBackendPool", _parsed("AOAIBackendPool", _name(number), {**spec, **more}))


def _quota(number: int, tenant: str) -> TenantQuota:
    namespace, pool = _name(number)
    spec = quota_spec(pool, _key(number, f"tenant-{tenant}"))
    return cast("TenantQuota", _parsed("TenantQuota", (namespace, f"{pool}-{tenant}"), spec))


def _parsed(kind: str, name: tuple[str, str], spec: dict[str, Any]) -> object:
    metadata = {"namespace": name[0], "name": name[1]}
    return parse({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec})


@dataclass(slots=True)
class _Stalls:
    """Notes the longest time that the event loop kept a timer waiting."""

    longest: float = field(default=0.0)

    async def watch(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            self.longest = max(self.longest, time.monotonic() - began - 0.005)

    def taken(self) -> float:
        longest, self.longest = self.longest, 0.0
        return longest


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _now() -> int:
    return time.time_ns() // 1_000_000


async def _main(pools: int, changes: int) -> Measured:
    with tempfile.TemporaryDirectory(prefix="bench-fleet-") as directory:
        async with AsyncExitStack() as stack:
            stalls = _Stalls()
            stack.push_async_callback(_cancelled, asyncio.create_task(stalls.watch()))
            with collected_seldom():
                fleet = CoreFleet(pools, Path(directory))
                stalls.taken()
                cold = await fleet.start(stack)
            stall_start = stalls.taken()
            await asyncio.sleep(2)
            stalls.taken()
            received = await fleet.bytes_received()
            seconds, sizes = await measure(fleet, changes)
            return Measured(
                pools=pools,
                cold_start=cold,
                cold_bytes=received // ENVOYS,
                rss_mib=rss_kib(getpid()) / 1024,
                stall_start=stall_start,
                stall_changes=stalls.taken(),
                seconds=seconds,
                bytes_each=sizes,
            )


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    found = asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2])))
    print(json.dumps(asdict(found)))
