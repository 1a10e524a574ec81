"""`aoai-operator local --state DIR`: what tenants used outlives the process, however that ends."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from aoai_operator.simulator import Deployment, Region, Simulator
from support.calls import HELLO
from support.local import LocalGateway
from support.manifests import TENANT_KEY, pool_manifest
from support.waiting import eventually


@pytest_asyncio.fixture
async def azure() -> AsyncIterator[Simulator]:
    """One region with one model."""
    async with Simulator([Region(name="eastus", deployments=[Deployment(name="gpt-4o", model="gpt-4o")])]) as running:
        yield running


def gateway(azure: Simulator, state: Path, *, wait: bool = True) -> LocalGateway:
    """Return a gateway whose tenant may use 60 tokens a month."""
    limits = {"budgets": [{"period": "Month", "timeZone": "Europe/Berlin", "tokens": 60}]}
    manifest = pool_manifest(
        azure, spec={"health": {"probe": {"path": "Disabled"}}}, quotas={"team": {"limits": limits}}
    )
    return LocalGateway(manifest, arguments=["--state", str(state)], wait=wait)


async def call(running: LocalGateway) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as client:
        body = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 20}
        url = f"{running.url}/ai/chat/openai/v1/chat/completions"
        return await client.post(url, headers={"api-key": TENANT_KEY}, json=body)


async def use_it_up(running: LocalGateway) -> None:
    async def refused() -> bool:
        return (await call(running)).status_code == 429

    await eventually(refused, what="the budget is used up")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_budget_that_is_used_up_is_so_after_a_restart(
    azure: Simulator, tmp_path: Path, how: signal.Signals
) -> None:
    state = tmp_path / "made" / "anew"
    async with gateway(azure, state) as first:
        await use_it_up(first)
        if how is signal.SIGKILL:

            def saved() -> bool:
                file = state / "usage.json"
                return file.exists() and json.loads(file.read_text())["ai/team"]["budgets"][0]["used"] > 20

            await eventually(saved, what="it is saved")
        first.process.send_signal(how)
        await first.process.wait()
    async with gateway(azure, state) as second:
        refused = await call(second)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")


async def test_without_it_a_restart_forgets(azure: Simulator, tmp_path: Path) -> None:
    async with gateway(azure, tmp_path / "one") as first:
        await use_it_up(first)
    async with gateway(azure, tmp_path / "other") as second:
        assert (await call(second)).status_code == 200


@pytest.mark.parametrize("text", ["{", '{"ai/team": {"budgets": 7}}', "[]"])
async def test_a_file_that_is_none_of_ours_is_named(azure: Simulator, tmp_path: Path, text: str) -> None:
    (tmp_path / "usage.json").write_text(text)
    async with gateway(azure, tmp_path, wait=False) as running:
        assert await running.process.wait() == 2
        (told,) = [log["event"] for log in running.logs if "usage.json" in log["event"]]
        assert "delete it to begin with nothing used" in told
    assert (tmp_path / "usage.json").read_text() == text


async def test_a_directory_that_cannot_be_written_stops_nothing(azure: Simulator, tmp_path: Path) -> None:
    async with gateway(azure, tmp_path) as running:
        (tmp_path / "usage.new").mkdir()
        await use_it_up(running)

        def told() -> bool:
            return any("cannot be saved" in log["event"] for log in running.logs)

        await eventually(told, what="it is told")
        (tmp_path / "usage.new").rmdir()
        await eventually((tmp_path / "usage.json").exists, what="it is saved after all")
