"""Envoy quotes the resources that it refuses, keys included: none reaches a log line, a status or a metric."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from aoai_operator.adapters.listening import reserved_port
from aoai_operator.control_plane import ControlPlane
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.envoy.translate import translate
from aoai_operator.core.names import SecretRef
from aoai_operator.core.observed import Overrides
from aoai_operator.core.proxies import Proxy
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.core.world import Programming
from aoai_operator.metrics import Metrics
from aoai_operator.runners.publish import Publisher
from support.managed import NoObservations, envoy_beside
from support.resources import pool, world
from support.waiting import eventually

TENANT = "tenant-s3cret-0123456789"
REGION = "region-s3cret-0123456789"
RESOURCES = world(pool("a"), azure=REGION, team=TENANT)


class Heard(Metrics):
    """The metrics, and Envoy's words as they came."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def nacked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:
        self.words.append(message)
        super().nacked(proxy, type_url, versions, message)


def translate_twice(
    tables: Sequence[RoutingTable],
    secrets: Mapping[SecretRef, SecretValue],
    overrides: Overrides,
    settings: GatewaySettings,
) -> Snapshot:
    """Translate, but name each tenant's key twice: Envoy refuses that, and says which key it is."""
    snapshot = translate(tables, secrets, overrides, settings)
    resources = {url: dict(named) for url, named in snapshot.resources.items()}
    for routes in snapshot.resources[TypeUrl.ROUTE].values():
        body = copy.deepcopy(routes.body)
        for host in body["virtual_hosts"]:
            for keys in host.get("typed_per_filter_config", {}).values():
                keys["config"]["credentials"] *= 2
        resources[TypeUrl.ROUTE][routes.name] = Resource(routes.name, body, routes.owner)
    return Snapshot(resources)


@dataclass
class Parts:
    """A publisher and a control plane, put together as in `aoai-operator local`."""

    directory: Path
    port: int
    translate: Any = translate
    meters: Heard = field(default_factory=Heard)
    snapshot: Snapshot | None = None

    def __post_init__(self) -> None:
        settings = GatewaySettings("default", "127.0.0.1", self.port, str(self.directory / "access.log"))
        self.publisher = Publisher(
            settings=settings,
            observing=NoObservations(),
            publish=self._publish,
            now=lambda: 1,
            interval=0.01,
            translate=self.translate,
        )
        self.plane = ControlPlane(changed=lambda: None, meters=self.meters)
        self.gateway = self.plane.add("default", refused=self.publisher.refused, settled=self.publisher.settled)
        self.publisher.want(compile_world(RESOURCES).tables, RESOURCES.secrets)

    def _publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.gateway.publish(snapshot)

    def shown(self, logs: Sequence[object]) -> str:
        """Return all that people see of it: log lines, statuses, metrics."""
        programming = {key: (Programming(1, 0, words),) for key, words in self.publisher.refusals().items()}
        statuses = compile_world(replace(RESOURCES, programming=programming)).pool_statuses
        return f"{logs} {statuses} {generate_latest(self.meters.registry).decode()}"


@pytest.fixture
def logs() -> Any:
    with capture_logs() as taken:
        yield taken


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    made = Parts(tmp_path, 1)
    task = asyncio.create_task(made.publisher.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_refusal_that_quotes_keys_shows_none(logs: list[object], parts: Parts) -> None:
    await eventually(lambda: parts.snapshot)
    assert parts.snapshot is not None
    cluster = parts.snapshot.resources[TypeUrl.CLUSTER]["ns/a/gpt-4o"]
    words = f"not for me: api-key {REGION}, and of a tenant: \\'{TENANT}\\'"
    parts.gateway.tell_refused(TypeUrl.CLUSTER, {"ns/a/gpt-4o": cluster.version}, words)
    shown = parts.shown(logs)
    assert shown.count("not for me: api-key [redacted]") >= 3
    assert TENANT not in shown
    assert REGION not in shown


async def test_a_real_envoy_quotes_a_tenants_key_and_it_does_not_show(logs: list[Any], tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        port = stack.enter_context(reserved_port("127.0.0.1", 0))
        parts = Parts(tmp_path, port, translate=translate_twice)
        await stack.enter_async_context(envoy_beside(parts.plane, parts.publisher, tmp_path))
        await eventually(lambda: parts.meters.words and parts.publisher.refusals(), what="Envoy refuses the keys")
        await eventually(lambda: [e for e in logs if e.get("logger") == "config"], what="Envoy logs the refusal")
        shown = parts.shown(logs)
        metrics = generate_latest(parts.meters.registry).decode()
    assert any(TENANT in words for words in parts.meters.words)
    assert "[redacted]" in shown
    assert TENANT not in shown
    assert REGION not in shown
    assert 'answer="nack"' in metrics
