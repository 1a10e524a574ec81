"""`aoai-operator drain` on a real Envoy: what is under way ends, and then it returns."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from typer.testing import CliRunner

from aoai_operator.adapters import draining
from aoai_operator.adapters.draining import Drained, drain
from aoai_operator.cli import app
from aoai_operator.simulator import Deployment, Latency, Region, Simulator
from support.calls import HELLO, ask
from support.dataplane import DataPlane
from support.manifests import pool_manifest
from support.waiting import eventually


def azure() -> Simulator:
    """A region whose streams take a while."""
    slow = Latency(tokens_per_second=20)
    return Simulator([Region(name="eastus", deployments=[Deployment(name="gpt-4o", model="gpt-4o")], latency=slow)])


async def test_a_stream_under_way_ends_before_the_drain_does() -> None:
    async with azure() as regions, DataPlane(pool_manifest(regions)) as plane, plane.client() as client:
        admin = f"unix:{plane.directory / 'admin'}"
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True, max_tokens=60)
        chunks = aiter(stream)
        await anext(chunks)
        ending = asyncio.create_task(drain(admin, at_least=0, within=60))

        async def told() -> bool:
            return "DRAINING" in await plane.admin("/server_info")

        await eventually(told)
        async with plane.client() as late:
            assert await ask(late, max_tokens=1)
        assert not ending.done()
        rest = [chunk async for chunk in chunks]
        assert rest[-1].choices[0].finish_reason
        assert await ending == Drained(found=True)


async def test_a_connection_that_was_not_told_yet_is_told_before_the_drain_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its request began before the drain; it sends the next one after that one is over, and the drain has seen so."""
    looks: list[int] = []
    look = draining._in_flight

    async def seen(client: httpx.AsyncClient) -> int:
        looks.append(await look(client))
        return looks[-1]

    monkeypatch.setattr(draining, "_in_flight", seen)
    async with azure() as regions, DataPlane(pool_manifest(regions)) as plane, plane.http() as client:
        body = {"model": "gpt-4o", "messages": HELLO, "stream": True, "max_tokens": 40}
        async with client.stream("POST", "/ai/chat/openai/v1/chat/completions", json=body) as first:
            chunks = first.aiter_bytes()
            await anext(chunks)
            ending = asyncio.create_task(drain(f"unix:{plane.directory / 'admin'}", at_least=0, within=60))
            await eventually(lambda: looks)
            async for _ in chunks:
                pass
        await eventually(lambda: looks[-2:] == [0, 0], what="it is seen twice that no request is under way")
        second = await client.post(
            "/ai/chat/openai/v1/chat/completions", json={**body, "stream": False, "max_tokens": 1}
        )
        assert not ending.done()
        assert (first.status_code, second.status_code) == (200, 200)
        assert "connection" not in first.headers
        assert second.headers["connection"] == "close"
        assert await ending == Drained(found=True)


async def test_time_is_up_with_a_stream_under_way() -> None:
    async with azure() as regions, DataPlane(pool_manifest(regions)) as plane, plane.client() as client:
        admin = f"unix:{plane.directory / 'admin'}"
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True, max_tokens=60)
        await anext(aiter(stream))
        assert await drain(admin, at_least=0, within=0.3) == Drained(found=True, left=1)
        await stream.close()


async def test_without_an_envoy_there_is_nothing_to_drain() -> None:
    assert await drain("unix:/nowhere/envoy.sock", at_least=0, within=1) == Drained(found=False)


def test_the_command_never_fails_a_pods_end() -> None:
    done = CliRunner().invoke(app, ["drain", "--admin", "127.0.0.1:1", "--within", "1s"])
    assert done.exit_code == 0
    assert "nothing to drain" in done.output
