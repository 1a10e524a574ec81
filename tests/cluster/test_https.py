"""HTTPS to clients on the cluster: a pool's certificate from a kubernetes.io/tls Secret, renewed while it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from openai import AsyncAzureOpenAI

from support.calls import ask
from support.certificates import Pair, pair, tls_secret
from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane
from support.cluster.house import POOLS, House
from support.https import https, sdk, serial, serial_of
from support.load import load
from support.manifests import TENANT_KEY
from support.waiting import eventually

NAME, OTHER = "chat.example.com", "chat.example.org"
TLS = {"hostnames": [NAME, OTHER], "tls": {"secretRef": {"name": "chat-tls"}}}


@pytest.fixture
async def house(plane: ControlPlane, namespace: str) -> AsyncIterator[House]:
    """A house that reads Secrets every second."""
    async with House(plane, namespace, values={"operator": {"secretsInterval": "1s"}}) as made:
        await made.release.start_operator()
        await made.release.start_gateway()
        yield made


async def store(house: House, held: Pair) -> None:
    await house.plane.apply(tls_secret("chat-tls", held, namespace=house.namespace))


async def served(house: House, held: Pair) -> None:
    """Return when new connections see this certificate."""

    async def seen() -> bool:
        return await serial(NAME, house.release.https_port) == serial_of(held.crt)

    await eventually(seen, what="new connections see the new certificate")


def client_of(house: House, *, fresh: bool = False) -> AsyncAzureOpenAI:
    """Return the SDK's client by HTTPS; `fresh`: each request shakes hands anew."""
    port = house.release.https_port
    limits = httpx2.Limits(max_keepalive_connections=0 if fresh else None)
    return AsyncAzureOpenAI(
        azure_endpoint=f"https://{NAME}:{port}",
        api_key=TENANT_KEY,
        api_version="2024-10-21",
        max_retries=0,
        http_client=https(NAME, port, limits=limits),
    )


def faults(pool: Json) -> str:
    found = {c["type"]: c for c in pool["status"]["conditions"]}["ResolvedRefs"]
    return f"{found['reason']}: {found['message']}" if found["status"] == "False" else ""


async def test_https_from_a_secret_that_is_renewed_under_load(house: House) -> None:
    first, second, third = (pair(NAME, OTHER) for _ in range(3))
    await store(house, first)
    await house.apply_pool(spec={"gateway": TLS})
    await house.pool_is("Ready")
    port = house.release.https_port
    await served(house, first)
    for name in (NAME, OTHER):
        async with sdk(name, port) as client:
            assert await ask(client)

    async with httpx2.AsyncClient(base_url=house.release.url, headers={"api-key": TENANT_KEY}) as plain:
        for host, path in (("gateway", f"/{house.namespace}/chat/openai/v1/models"), (NAME, "/openai/v1/models")):
            assert (await plain.get(path, headers={"host": host})).status_code == 404

    (gateway,) = house.release.gateways.values()
    pid = gateway.part.pid
    async with load(client_of(house)) as kept, load(client_of(house, fresh=True)) as under:
        await store(house, second)
        await served(house, second)
        await under.goes_on()
        await kept.goes_on()

        # A certificate that cannot be served is told, and the one before it goes on.
        await store(house, pair("elsewhere.example.com"))

        def told(pool: Json) -> bool:
            return faults(pool).startswith("CertificateInvalid: spec.gateway.tls.secretRef")

        await house.plane.wait_for(told, POOLS, "chat", namespace=house.namespace)
        await served(house, second)
        await under.goes_on()

        await store(house, third)
        await served(house, third)
        await house.pool_is("ResolvedRefs")
        await under.goes_on()
        await kept.goes_on()
    assert gateway.part.pid == pid
    assert gateway.part.starts == 1
