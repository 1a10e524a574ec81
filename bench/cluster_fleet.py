"""Fleets of pools on a real API server: the chart's operator, as a process, and two Envoys of its gateway.

    PYTHONPATH=tests python -m bench.cluster_fleet POOLS CHANGES

prints one JSON object: see `Measured`. The cluster is the one of the tests: etcd, API server and controllers, no nodes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import yaml

from aoai_operator.core.api.base import API_VERSION
from bench.fleet import ENVOYS, TENANTS, Change, measure, pool_spec, quota_spec
from bench.machine import cpu_time, rss_kib
from support.cluster.client import Json, path
from support.cluster.control_plane import ControlPlane
from support.cluster.pods import OperatorPod
from support.cluster.release import Release

CRDS = Path(__file__).parents[1] / "crds"
_POOLS, _QUOTAS = f"{API_VERSION}/aoaibackendpools", f"{API_VERSION}/tenantquotas"
_AT_ONCE = 16
_LONGEST_START = 900
_LOOK = 0.02
"""Seconds between two looks at a pool's status."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a fleet took, in seconds, by the kind of change.

    Attributes:
        pools: its size.
        first_start: from the start of the operator, with nothing written yet, until all pools are on both Envoys.
        first_statuses: the same, until all statuses are written.
        restart: from another start of it until it serves Envoys.
        rss_mib: the operator's memory at the end.
        seconds: from each change until the pool's status says that both Envoys have it.
        bytes_each: what one change sends to one Envoy.
        calls: what one change makes the operator ask of the API server, by verb and resource.
        cpu_each: CPU seconds of the operator from a change until a second after it is there, whatever they are for.
    """

    pools: int
    first_start: float
    first_statuses: float
    restart: float
    rss_mib: float
    seconds: Mapping[str, list[float]]
    bytes_each: Mapping[str, float]
    calls: Mapping[str, float]
    cpu_each: float


class ClusterFleet:
    """Implements `bench.fleet.Fleet`: a change is made on the API server, and there when the pool's status says so."""

    def __init__(self, plane: ControlPlane, client: httpx.AsyncClient, namespace: str, pools: int) -> None:
        self.changes: Mapping[str, Callable[[int], Change]] = {
            "one pool's weight": self._weight,
            "one tenant added": self._tenant,
        }
        self.calls: Counter[str] = Counter()
        self.changed = 0
        self.cpu = 0.0
        self._plane = plane
        self._client = client
        self._namespace = namespace
        self._pools = pools
        self._next: tuple[str, Callable[[], Awaitable[None]]] = "", self._nothing
        values = {"crds": {"enabled": False}, "watchNamespaces": [namespace]}
        self.release = Release(plane, namespace, values=values)
        self.operator: OperatorPod

    async def fill(self) -> None:
        """Create Secrets, pools and tenants."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> None:
            async with limit:
                await self._create("v1/secrets", _secret(number))
                await self._create(_POOLS, _pool(number))
                for tenant in range(TENANTS):
                    await self._create(_QUOTAS, _quota(number, str(tenant)))

        await asyncio.gather(*map(one, range(self._pools)))

    async def start(self) -> tuple[float, float]:
        """Start the operator and the Envoys; return when both had all pools, and when all statuses were written."""
        began = time.monotonic()
        self.operator = await self.release.start_operator()
        for number in range(ENVOYS):
            await self.release.start_gateway(f"gateway-{number}")

        async def all_there() -> bool:
            return all(map(_programmed, (await self._get(_POOLS))["items"]))

        async def all_told() -> bool:
            return all(map(_told, (await self._get(_QUOTAS))["items"]))

        await _until(all_there, within=_LONGEST_START, every=1)
        programmed = time.monotonic() - began
        await _until(all_told, within=_LONGEST_START, every=2)
        return programmed, time.monotonic() - began

    async def restart(self) -> float:
        """Stop the operator and start it again; return after how many seconds it serves Envoys."""
        await self.operator.part.stop()
        began = time.monotonic()
        await self.operator.part.start()
        await _until(self.operator.ready, within=_LONGEST_START, every=_LOOK)
        return time.monotonic() - began

    async def programmed(self, change: Change) -> float:
        """Make a change; return after how many seconds the pool's status says that both Envoys have it."""
        change()
        name, make = self._next
        before = (await self._get(_POOLS, name))["status"]["routingTable"]["revision"]
        mark, worked, began = self._plane.audit.mark(), cpu_time(self.operator.part.pid), time.monotonic()
        await make()

        async def there() -> bool:
            pool = await self._get(_POOLS, name)
            return _programmed(pool) and pool["status"]["routingTable"]["revision"] != before

        await _until(there, within=60, every=_LOOK)
        taken = time.monotonic() - began
        # What follows, such as a tenant's status, belongs to this change, and the next one should not wait for it.
        await asyncio.sleep(1)
        self.changed += 1
        self.cpu += cpu_time(self.operator.part.pid) - worked
        for call in self._plane.audit.since(mark):
            # The Lease and the Secrets are looked at by the clock, change or not.
            if call.user.endswith(":aoai-aoai-operator") and call.resource not in {"leases", "secrets"}:
                self.calls[f"{call.verb} {call.resource}{call.subresource and '/'}{call.subresource}"] += 1
        return taken

    async def bytes_received(self) -> int:
        """Ask the Envoys how many bytes their control plane sent."""
        asked = "/stats?filter=^cluster.control-plane.upstream_cx_rx_bytes_total$"
        return sum([int((await pod.admin(asked)).rpartition(": ")[2]) for pod in self.release.gateways.values()])

    def _weight(self, number: int) -> Change:
        async def make() -> None:
            await self._replace(_POOLS, _pool(number, weight=1 + number % 9))

        return lambda: self._will(number, make)

    def _tenant(self, number: int) -> Change:
        async def make() -> None:
            await self._create(_QUOTAS, _quota(number, "new"))

        return lambda: self._will(number, make)

    def _will(self, number: int, make: Callable[[], Awaitable[None]]) -> None:
        self._next = _name(number), make

    async def _nothing(self) -> None:
        return

    async def _get(self, resource: str, name: str = "") -> Json:
        answer = await self._client.get(path(resource, name, namespace=self._namespace))
        found: Json = answer.raise_for_status().json()
        return found

    async def _create(self, resource: str, item: Json) -> None:
        url = path(resource, namespace=self._namespace)
        (await self._client.post(url, json=item)).raise_for_status()

    async def _replace(self, resource: str, item: Json) -> None:
        url = path(resource, item["metadata"]["name"], namespace=self._namespace)
        headers = {"Content-Type": "application/merge-patch+json"}
        (await self._client.patch(url, json=item, headers=headers)).raise_for_status()


def _client(plane: ControlPlane) -> httpx.AsyncClient:
    """Return a client that keeps its connections: a handshake for each call would take more than the call."""
    (user,) = yaml.safe_load(plane.kubeconfig.read_text())["users"]
    return httpx.AsyncClient(
        base_url=plane.server,
        verify=ssl.create_default_context(cafile=str(plane.ca_file)),
        headers={"Authorization": f"Bearer {user['user']['token']}"},
        trust_env=False,
        timeout=60,
    )


async def _until(done: Callable[[], Awaitable[bool]], *, within: float, every: float) -> None:
    deadline = time.monotonic() + within
    while not await done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within} s")
        await asyncio.sleep(every)


def _programmed(pool: Json) -> bool:
    status = pool.get("status", {})
    found = {c["type"]: c["status"] for c in status.get("conditions", ())}
    fresh = status.get("observedGeneration") == pool["metadata"]["generation"]
    return fresh and found.get("Programmed") == "True" and status["proxies"]["programmed"] == ENVOYS


def _told(item: Json) -> bool:
    found: bool = item.get("status", {}).get("observedGeneration") == item["metadata"]["generation"]
    return found


def _name(number: int) -> str:
    return f"pool-{number}"


def _key(number: int, entry: str) -> Json:
    return {"apiKey": {"secretRef": {"name": f"{_name(number)}-keys", "key": entry}}}


def _secret(number: int) -> Json:
    entries = ["endpoints", "new", *map(str, range(TENANTS))]
    data = {entry: base64.b64encode(f"{entry}-of-{number}-{'0' * 32}".encode()).decode() for entry in entries}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{_name(number)}-keys"}, "data": data}


def _pool(number: int, *, weight: int = 10) -> Json:
    key = _key(number, "endpoints")
    spec = pool_spec(number, models=["gpt-4o"], key=lambda _: key, weight=weight)
    spec |= {"health": {"probe": {"path": "Disabled"}}}
    return {"apiVersion": API_VERSION, "kind": "AOAIBackendPool", "metadata": {"name": _name(number)}, "spec": spec}


def _quota(number: int, tenant: str) -> Json:
    spec = quota_spec(_name(number), _key(number, tenant))
    metadata = {"name": f"{_name(number)}-{tenant}"}
    return {"apiVersion": API_VERSION, "kind": "TenantQuota", "metadata": metadata, "spec": spec}


async def _main(pools: int, changes: int) -> Measured:
    async with ControlPlane() as plane, plane.namespace("bench") as namespace, _client(plane) as client:
        await plane.apply(CRDS)
        fleet = ClusterFleet(plane, client, namespace, pools)
        await fleet.fill()
        async with fleet.release:
            first, statuses = await fleet.start()
            again = await fleet.restart()
            # It leads again once the Lease was given back, and then looks at everything once; Envoys come back to it.
            await asyncio.sleep(30)
            seconds, sizes = await measure(fleet, changes)
            return Measured(
                pools=pools,
                first_start=first,
                first_statuses=statuses,
                restart=again,
                rss_mib=rss_kib(fleet.operator.part.pid) / 1024,
                seconds=seconds,
                bytes_each=sizes,
                calls={call: count / fleet.changed for call, count in fleet.calls.items()},
                cpu_each=fleet.cpu / fleet.changed,
            )


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]))))))
