"""Line 3: each endpoint's own key by SDS, shown nowhere; no header towards Azure that is not standard or allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from aoai_operator.core.envoy.headers import NON_STANDARD
from aoai_operator.simulator import Deployment, Region, Simulator, Status, Throttle
from support.calls import HELLO, STANDARD_HEADERS, ask, heal, last, requests
from support.dataplane import DataPlane
from support.manifests import TENANT_KEY, pool_manifest

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("eastus", "westus", "swedencentral")
SENT_BY_THE_SDK = {"accept", "api-key", "content-length", "content-type", "host", "user-agent"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """Three regions, each with a key of its own, which count every header that is not standard."""
    regions = [
        Region(
            name=name,
            key=f"azure-key-{name}",
            deployments=[Deployment(name="gpt-4o", model="gpt-4o"), Deployment(name=f"own-{name}", model="own")],
            count_sdk_headers=True,
        )
        for name in NAMES
    ]
    async with Simulator(regions) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[DataPlane]:
    """One pool over them."""
    async with DataPlane(pool_manifest(azure)) as running:
        yield running


@pytest.fixture(autouse=True)
def healed(azure: Simulator) -> None:
    """Start each test with healthy regions."""
    heal(azure)


@pytest.mark.parametrize("model", ["gpt-4o", "own"])
async def test_each_region_gets_its_own_key_also_on_retries(gateway: DataPlane, azure: Simulator, model: str) -> None:
    azure.fault("eastus", Throttle())
    azure.fault("westus", Status(status=503))
    for client in (gateway.client(), gateway.azure_client()):
        async with client:
            for _ in range(6):
                assert await ask(client, model)
    assert {r.region for r in requests(azure)} == set(NAMES)
    assert {(r.auth, r.key_index) for r in requests(azure)} == {("api-key", 0)}


async def test_no_key_shows_in_envoys_admin_interface(gateway: DataPlane, azure: Simulator) -> None:
    async with gateway.client() as client:
        assert await ask(client)
    shown = "".join(
        [
            await gateway.admin(path)
            for path in ("/config_dump?include_eds", "/clusters", "/listeners", "/stats", "/certs", "/server_info")
        ]
    )
    assert "ai/chat/eastus" in shown
    assert not [key for key in (TENANT_KEY, *(r.key for r in azure.regions.values())) if key in shown]


async def test_the_headers_that_azure_sees_are_exactly_these(gateway: DataPlane, azure: Simulator) -> None:
    async with gateway.client() as client:
        assert await ask(client)
        assert set(last(azure).header_names) == SENT_BY_THE_SDK
        assert await ask(client, "own")
        assert set(last(azure).header_names) == SENT_BY_THE_SDK
    async with gateway.azure_client() as azure_client:
        assert await ask(azure_client)
        assert set(last(azure).header_names) == SENT_BY_THE_SDK


async def test_a_retry_adds_no_header(gateway: DataPlane, azure: Simulator) -> None:
    azure.fault("eastus", Throttle())
    azure.fault("westus", Throttle())
    async with gateway.client() as client:
        for model in ("gpt-4o", "own"):
            assert await ask(client, model)
    assert {frozenset(r.header_names) for r in requests(azure)} == {frozenset(SENT_BY_THE_SDK)}


async def test_of_a_hundred_headers_at_most_ten_that_are_not_standard_arrive(
    gateway: DataPlane, azure: Simulator
) -> None:
    sent = {f"x-custom-{n}": "value" for n in range(100)}
    sent |= dict.fromkeys(NON_STANDARD, "value")
    sent |= {
        "x-envoy-retry-on": "5xx",
        "x-envoy-max-retries": "9",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-original-path": "/x",
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-host": "evil",
        "x-forwarded-proto": "https",
        "x-request-id": "mine",
        "x-aoai-deployment": "evil",
        "cookie": "a=b",
        "referer": "http://evil",
    }
    async with gateway.client(default_headers=sent, organization="value", project="value") as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    names = last(azure).header_names
    assert set(names) - STANDARD_HEADERS == set(NON_STANDARD)
    assert len([n for n in names if n not in STANDARD_HEADERS]) <= 10
    assert answer._request_id != "mine"


async def test_a_header_of_the_client_cannot_steer_the_gateway(gateway: DataPlane, azure: Simulator) -> None:
    for name in NAMES:
        azure.fault(name, Status(status=500))
    steering = {"x-envoy-max-retries": "0", "x-envoy-retry-on": "4xx", "x-envoy-hedge-on-per-try-timeout": "true"}
    async with gateway.http() as client:
        await client.post(
            "/ai/chat/openai/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO}, headers=steering
        )
    assert len(requests(azure)) == 3


async def test_a_rotated_key_is_used_by_new_requests(gateway: DataPlane, azure: Simulator) -> None:
    async with gateway.client() as client:
        for region in azure.regions.values():
            region.set_keys(f"rotated-{region.name}")
        await gateway.apply(pool_manifest(azure))
        for _ in range(6):
            assert await ask(client)
    assert {(r.status, r.key_index) for r in requests(azure)} == {(200, 0)}


async def test_answers_carry_no_header_of_ours_but_the_request_id(gateway: DataPlane) -> None:
    async with gateway.client() as client:
        answer = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)
    names = {name.lower() for name in answer.headers}
    assert not [n for n in names if n.startswith("x-aoai") or n == "endpoint-load-metrics"]
    assert "x-request-id" in names
