"""What tests of bad input share: two regions, two pools with limits, and requests that no SDK would send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from aoai_operator.simulator import Deployment, Region, Simulator
from support.calls import HELLO
from support.dataplane import DataPlane
from support.manifests import TENANT_KEY, pool_manifest
from support.waiting import eventually

V1 = "/ai/chat/openai/v1/chat/completions"
BY_PATH = "/ai/chat/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
JSON = ("content-type", "application/json")
KEY = ("api-key", TENANT_KEY)
BODY = json.dumps({"model": "gpt-4o", "messages": HELLO}).encode()
ACTIVE = r"http\.default\.downstream_rq_active$|cluster\.ai/.*upstream_rq_(pending_)?active$"


@asynccontextmanager
async def two_regions() -> AsyncIterator[Simulator]:
    """Run regions with a model under its own name and one under another."""
    deployments = [
        Deployment(name="gpt-4o", model="gpt-4o", context_tokens=10_000_000),
        Deployment(name="own-eastus", model="own", context_tokens=10_000_000),
        Deployment(name="embed", model="embed", kind="embeddings"),
    ]
    more = [
        Deployment(name="gpt-4o", model="gpt-4o", context_tokens=10_000_000),
        Deployment(name="own-westus", model="own", context_tokens=10_000_000),
    ]
    async with Simulator(
        [
            Region(name="eastus", deployments=deployments, log_body_bytes=16 << 20),
            Region(name="westus", deployments=more, log_body_bytes=16 << 20),
        ]
    ) as running:
        yield running


@asynccontextmanager
async def two_pools(azure: Simulator) -> AsyncIterator[DataPlane]:
    """Run a pool that takes up to 11 MB, and one that takes up to 64 KiB."""
    small = pool_manifest(
        azure, name="small", tenants={"other": "other-key-0123456789"}, spec={"limits": {"maxRequestBytes": "64Ki"}}
    )
    large = pool_manifest(azure, spec={"limits": {"maxRequestBytes": "11Mi"}})
    async with DataPlane(f"{large}---\n{small}") as running:
        yield running


async def post(gateway: DataPlane, body: bytes, path: str = V1, **headers: str) -> httpx.Response:
    """Send a body as it is."""
    async with gateway.http() as client:
        return await client.post(path, content=body, headers={"content-type": "application/json", **headers})


def error_of(answer: httpx.Response) -> dict[str, str]:
    """Return the error of an answer that must be shaped as OpenAI's."""
    assert answer.headers["content-type"].startswith("application/json")
    error: dict[str, str] = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["message"]
    return error


def status_and_body(answer: bytes) -> tuple[int, bytes]:
    """Return status and body of a raw answer."""
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), body


async def nothing_active(gateway: DataPlane) -> None:
    """Wait until Envoy has no request under way, towards either side."""

    async def idle() -> bool:
        return not any((await gateway.stats(ACTIVE)).values())

    await eventually(idle, within=5, what="no request is active")
