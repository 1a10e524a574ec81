"""`aoai-operator drain` on a real Envoy: what is under way ends, and then it returns."""

from __future__ import annotations

import asyncio

from typer.testing import CliRunner

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
        draining = asyncio.create_task(drain(admin, at_least=0, within=60))

        async def told() -> bool:
            return "DRAINING" in await plane.admin("/server_info")

        await eventually(told)
        async with plane.client() as late:
            assert await ask(late, max_tokens=1)
        assert not draining.done()
        rest = [chunk async for chunk in chunks]
        assert rest[-1].choices[0].finish_reason
        assert await draining == Drained(found=True)


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
