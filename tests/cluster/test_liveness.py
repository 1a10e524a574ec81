"""/healthz of the whole operator: a watch whose thread is dead or stuck ends the process, and the pod is started anew.

No signal reaches one thread of a process from outside, so the program under test is the real one, started with a
`sitecustomize` that does the harm when a file appears.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from support.cluster.control_plane import ControlPlane
from support.cluster.house import House
from support.load import load
from support.waiting import eventually

HARM = """
import asyncio, pathlib, time
from aoai_operator.adapters.kube import bridge, watching

order = pathlib.Path({order!r})
bridge._STUCK, bridge._END = 3.0, 2.0
run = watching.Watcher.run

async def harmed(self):
    task = asyncio.ensure_future(run(self))
    while not task.done():
        await asyncio.sleep(0.05)
        if order.exists():
            if order.read_text() == "die":
                raise SystemExit
            while order.exists():
                time.sleep(0.05)
    await task

watching.Watcher.run = harmed
"""


@pytest.fixture
async def harmed(plane: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[House]:
    """A house whose operator does to its watch what is written into the file `order`."""
    (tmp_path / "sitecustomize.py").write_text(HARM.format(order=str(tmp_path / "order")))
    async with House(plane, namespace) as house:
        await house.release.start_operator(PYTHONPATH=str(tmp_path))
        await house.release.start_gateway()
        await house.apply_pool()
        await house.pool_is("Ready")
        yield house


@pytest.mark.parametrize("harm", ["die", "stick"])
async def test_a_watch_that_is_dead_or_stuck_ends_the_operator(harmed: House, tmp_path: Path, harm: str) -> None:
    house, order = harmed, tmp_path / "order"
    (operator,) = house.release.operators.values()
    answers: set[int] = set()

    async def ended() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                answers.add((await client.get(f"{operator.url}/healthz")).status_code)
        except httpx.TransportError:
            pass
        return not operator.part.running

    async with load(house.client(max_retries=0)) as under:
        order.write_text(harm)
        await eventually(ended, within=30, what="the process ends")
        await under.goes_on()
        order.unlink()
        assert "the thread that watches the API server is dead" in operator.part.log_file.read_text()
        if harm == "stick":
            assert httpx.codes.SERVICE_UNAVAILABLE in answers
        # As the kubelet does, once the process is gone.
        await operator.part.kill()
        await operator.part.start()
        await house.apply_pool(spec={"timeouts": {"connect": "3s"}})
        await house.pool_is("Programmed")
        await under.goes_on()
