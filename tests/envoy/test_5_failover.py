"""Line 5: failover within the request before the first byte, and never where another region could not help."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import pytest_asyncio

from aoai_operator.core.names import EndpointKey, PoolKey
from aoai_operator.core.observed import Overrides
from aoai_operator.simulator import (
    Blackhole,
    CutStream,
    Deployment,
    Down,
    Fault,
    Region,
    Reset,
    Simulator,
    Slow,
    Status,
    Throttle,
)
from support.calls import HELLO, ask, head, heal, raw, requests
from support.dataplane import DataPlane
from support.manifests import pool_manifest
from support.servers import Authority
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

HASTY_KEY = "hasty-key-0123456789"
MANY_KEY = "many-key-0123456789"
TLS_KEY = "tls-key-0123456789"


def deployments(region: str) -> list[Deployment]:
    """Return one model under its own name, and one under another in each region."""
    return [Deployment(name="gpt-4o", model="gpt-4o"), Deployment(name=f"own-{region}", model="own")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """Two regions."""
    async with Simulator([Region(name=n, deployments=deployments(n)) for n in ("eastus", "westus")]) as running:
        yield running


@dataclass(frozen=True)
class Strangers:
    """Three TLS regions: with a good certificate, with one for another name, and with one of an unknown authority."""

    azure: Simulator
    trusted_ca: Path

    def manifest(self) -> str:
        """Return a pool over them, by names that must be checked."""
        urls = {n: f"https://{n}.azure.test:{urlsplit(r.url).port}" for n, r in self.azure.regions.items()}
        return pool_manifest(
            self.azure, name="tls", tenants={"tls": TLS_KEY}, endpoints={n: {"url": u} for n, u in urls.items()}
        )

    def overrides(self) -> Overrides:
        """Return where their names lead."""
        pool = PoolKey("ai", "tls")
        return Overrides(addresses={EndpointKey(pool, n): ("127.0.0.1",) for n in self.azure.regions})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strangers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Strangers]:
    """The TLS regions, running."""
    trusted = Authority(tmp_path_factory.mktemp("trusted"))
    unknown = Authority(tmp_path_factory.mktemp("unknown"))
    regions = []
    for name, authority, subject in [
        ("good", trusted, "good.azure.test"),
        ("othername", trusted, "other.azure.test"),
        ("unknown", unknown, "unknown.azure.test"),
    ]:
        authority.server(subject)
        certificate = authority.ca_file.with_name(f"{name}.pem")
        authority.ca_file.with_name("server.pem").rename(certificate)
        regions.append(Region(name=name, deployments=deployments(name), certfile=str(certificate)))
    async with Simulator(regions) as running:
        yield Strangers(running, trusted.ca_file)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator, strangers: Strangers) -> AsyncIterator[DataPlane]:
    """A pool with the defaults, two others of the same regions with health of their own, and one over TLS."""
    pools = [
        pool_manifest(azure),
        pool_manifest(azure, name="many", tenants={"many": MANY_KEY}),
        pool_manifest(azure, name="hasty", tenants={"hasty": HASTY_KEY}, spec={"failover": {"perTryTimeout": "300ms"}}),
        strangers.manifest(),
    ]
    async with DataPlane(
        "---\n".join(pools), trusted_ca=strangers.trusted_ca, overrides=strangers.overrides()
    ) as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def healed(azure: Simulator, gateway: DataPlane) -> None:
    """Start each test with regions that are well, and that Envoy asks: a refusal ejects one for half a second."""
    heal(azure)
    async with gateway.client() as client:

        async def all_serve() -> bool:
            await ask(client)
            return all(region.served for region in azure.regions.values())

        await eventually(all_serve)
    azure.reset_counts()


async def asked_until_tried(gateway: DataPlane, client: Any, model: str = "gpt-4o") -> None:
    """Ask until eastus failed to answer one of the questions, which all are answered."""
    before = len(gateway.attempts_log)

    async def tried() -> bool:
        assert await ask(client, model)
        return any(a.endpoint == "eastus" for a in gateway.attempts_log[before:])

    await eventually(tried)


RETRIED: list[Fault] = [
    *(Status(status=s) for s in (500, 502, 503, 504, 408, 401, 403, 404, 424)),
    Reset(),
    Reset(share=0.999),
    Down(),
    Throttle(),
]


@pytest.mark.parametrize("fault", RETRIED, ids=lambda f: f"{f.kind}-{getattr(f, 'status', '')}")
async def test_another_region_answers_within_the_request(gateway: DataPlane, azure: Simulator, fault: Fault) -> None:
    """The SDK's client has no retries of its own, and sees nothing of the region that fails."""
    azure.fault("eastus", fault)
    async with gateway.client() as client, gateway.azure_client() as by_path:
        for model in ("gpt-4o", "own"):
            await asked_until_tried(gateway, client, model)
            await asked_until_tried(gateway, by_path, model)
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        assert [c async for c in stream]
    assert azure.regions["eastus"].served <= 1  # a share below 1 lets the first one through


async def test_a_region_that_does_not_answer_in_time_is_passed_over(gateway: DataPlane, azure: Simulator) -> None:
    azure.fault("eastus", Blackhole())
    async with gateway.client(pool="ai/hasty", key=HASTY_KEY) as client:
        await asked_until_tried(gateway, client)


async def test_a_region_that_is_not_who_it_says_is_passed_over(gateway: DataPlane, strangers: Strangers) -> None:
    async with gateway.client(pool="ai/tls", key=TLS_KEY) as client:

        async def tried() -> bool:
            assert await ask(client)
            return {a.endpoint for a in gateway.attempts_log if a.pool == "ai/tls"} == {"othername", "unknown"}

        await eventually(tried)
    regions = strangers.azure.regions
    assert regions["good"].served
    assert set(regions["good"].server.server_names) == {"good.azure.test"}
    assert not regions["othername"].attempts
    assert not regions["unknown"].attempts


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
async def test_a_fault_of_the_request_is_told_at_once(gateway: DataPlane, azure: Simulator, status: int) -> None:
    for name in azure.regions:
        azure.fault(name, Status(status=status))
    async with gateway.client() as client:
        with pytest.raises(openai.APIStatusError) as error:
            await ask(client)
    assert error.value.status_code == status
    assert len(requests(azure)) == 1


async def test_a_filtered_prompt_is_told_at_once(gateway: DataPlane, azure: Simulator) -> None:
    async with gateway.client() as client:
        with pytest.raises(openai.BadRequestError) as error:
            await client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "[[content_filter]]"}]
            )
    assert error.value.code == "content_filter"
    assert "ResponsibleAIPolicyViolation" in str(error.value.body)
    assert len(requests(azure)) == 1


async def test_every_region_is_tried_once_and_the_last_answer_is_told(gateway: DataPlane, azure: Simulator) -> None:
    for name in azure.regions:
        azure.fault(name, Status(status=500))
    async with gateway.client() as client:
        with pytest.raises(openai.InternalServerError) as error:
            await ask(client)
    assert error.value.status_code == 500
    assert {r.region for r in requests(azure)} == set(azure.regions)


async def test_our_own_credential_refused_everywhere_is_not_the_clients_fault(
    gateway: DataPlane, azure: Simulator
) -> None:
    for name in azure.regions:
        azure.fault(name, Status(status=401))
    async with gateway.client() as client:
        with pytest.raises(openai.InternalServerError) as error:
            await ask(client)
    assert error.value.status_code == 503
    assert error.value.code == "upstream_credential_refused"


CUTS = [CutStream.model_validate({"how": how, "after": n}) for how in ("fin", "rst", "clean") for n in (0, 1, 3)]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{cut.how}-{cut.after}")
@pytest.mark.parametrize("model", ["gpt-4o", "own"])
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}], ids=["plain", "usage"])
async def test_a_stream_that_is_cut_raises(
    gateway: DataPlane, azure: Simulator, cut: CutStream, model: str, options: dict[str, Any]
) -> None:
    """Nothing is tried again after the first byte, and what came before the cut is not lost."""
    for name in azure.regions:
        azure.fault(name, cut)
    chunks: list[Any] = []
    async with gateway.client() as client:
        stream = await client.chat.completions.create(model=model, messages=HELLO, stream=True, **options)
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            await drain(stream, chunks)
    assert len(requests(azure)) == 1
    assert len(chunks) == cut.after


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_stream_of_the_responses_api_that_is_cut_raises(gateway: DataPlane, azure: Simulator, how: str) -> None:
    for name in azure.regions:
        azure.fault(name, CutStream.model_validate({"how": how, "after": 3}))
    async with gateway.client() as client:
        stream = await client.responses.create(model="gpt-4o", input="Hello", stream=True)
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            await drain(stream, [])
    assert len(requests(azure)) == 1


async def drain(stream: AsyncIterator[Any], into: list[Any]) -> None:
    """Take a stream to its end, keeping what came even when it ends with an error."""
    async for item in stream:
        into.append(item)  # noqa: PERF401


@pytest.mark.parametrize("fault", [Status(status=503), Reset(share=0.999), Throttle()], ids=lambda f: f.kind)
async def test_a_thousand_concurrent_requests_see_nothing_of_a_bad_region(
    gateway: DataPlane, azure: Simulator, fault: Fault
) -> None:
    azure.fault("westus", Slow(seconds=0.2))
    azure.fault("eastus", fault)
    body = json.dumps({"model": "gpt-4o", "messages": HELLO}).encode()
    headers = [("api-key", MANY_KEY), ("content-type", "application/json"), ("content-length", str(len(body)))]
    request = head("POST", "/ai/many/openai/v1/chat/completions", headers) + body
    answers = await asyncio.gather(*(raw(gateway.address, request) for _ in range(1000)))
    assert {a[:12] for a in answers} == {b"HTTP/1.1 200"}
    assert azure.regions["westus"].served >= 999
    assert azure.regions["eastus"].attempts
    assert not any((await gateway.stats("upstream_rq_retry_overflow|upstream_rq_pending_overflow")).values())
