"""Endpoints that are found: a simulated Azure Resource Manager, Entra ID, the real Envoy, the SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aoai_operator.simulator import Account, Arm, ArmState, Deployment, Region, Simulator, account_of
from support.azure import APP, Azure, azure
from support.calls import HELLO
from support.load import load
from support.local import LocalGateway
from support.manifests import pool_manifest
from support.waiting import eventually

SUBSCRIPTION = "0a000000-0000-0000-0000-00000000000a"
TAGS = {"pool": "chat"}
NAMES = ("east", "west", "north")


@pytest_asyncio.fixture
async def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Azure]:
    async with azure(tmp_path) as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        yield served


@pytest_asyncio.fixture
async def regions(cloud: Azure) -> AsyncIterator[Simulator]:
    deployments = [Deployment(name="gpt-4o", model="gpt-4o", tokens_per_minute=60_000_000)]
    made = [Region(name=name, deployments=deployments, keys=[f"one-of-{name}", f"two-of-{name}"]) for name in NAMES]
    async with Simulator(made, entra=cloud.state) as running:
        yield running


@pytest_asyncio.fixture
async def arm(cloud: Azure, regions: Simulator) -> AsyncIterator[Arm]:
    """Two accounts with the tag, and one without it."""
    tagged = [account_of(regions.regions[n], subscription=SUBSCRIPTION, tags=TAGS) for n in ("east", "west")]
    other = account_of(regions.regions["north"], subscription=SUBSCRIPTION)
    folder = cloud.ca_file.parent
    state = ArmState([*tagged, other], entra=cloud.state)
    async with Arm(state, certfile=str(folder / "tls.crt"), keyfile=str(folder / "tls.key")) as served:
        yield served


def manifest(
    regions: Simulator, arm: Arm, *, by_hand: tuple[str, ...] = (), probe: dict[str, Any] | None = None, **azure: Any
) -> str:
    """Return a pool that looks for accounts with the tag, and has those of `by_hand` written down."""
    looking = {"subscriptionIds": [SUBSCRIPTION], "tags": TAGS, "resourceManager": arm.url, "interval": "5s", **azure}
    spec: dict[str, Any] = {
        "discovery": {"azure": looking},
        "balancing": {"strategy": "Weighted"},
        "throttling": {"rampUp": "0s"},
        "health": {"probe": probe or {}},
    }
    return pool_manifest([regions.regions[name] for name in by_hand], models={"gpt-4o": ()}, spec=spec)


def gateway(cloud: Azure, text: str, **options: Any) -> LocalGateway:
    trusting = ["--ca-file", str(cloud.ca_file), "--token-host", "127.0.0.1", "--token-host", "localhost"]
    return LocalGateway(text, arguments=trusting, **options)


async def ask(running: LocalGateway, times: int = 6) -> None:
    async with running.client() as client:
        for _ in range(times):
            await client.chat.completions.create(model="gpt-4o", messages=HELLO)


def answered(regions: Simulator) -> dict[str, int]:
    """Return how many requests of the SDK each region had."""
    return {name: sum("chat/completions" in one.path for one in r.log) for name, r in regions.regions.items()}


async def test_what_has_the_tag_serves_with_tokens(cloud: Azure, regions: Simulator, arm: Arm) -> None:
    async with gateway(cloud, manifest(regions, arm)) as running:
        await ask(running)
    counts = answered(regions)
    assert counts["east"]
    assert counts["west"]
    assert not counts["north"]
    assert {one.principal for one in regions.regions["east"].log if "chat" in one.path} == {APP}


async def test_what_is_written_by_hand_wins_over_what_is_found(cloud: Azure, regions: Simulator, arm: Arm) -> None:
    async with gateway(cloud, manifest(regions, arm, by_hand=("east",))) as running:
        await ask(running)
    used = {one.auth for one in regions.regions["east"].log if "chat" in one.path}
    assert used == {"api-key"}
    assert {one.auth for one in regions.regions["west"].log if "chat" in one.path} == {"entra"}


KEYS: dict[str, Any] = {"auth": {"apiKey": {"fromAzure": {}}}, "tags": {"pool": "one"}}


async def test_keys_from_azure_are_rotated_and_no_request_is_lost(cloud: Azure, regions: Simulator, arm: Arm) -> None:
    """Of one account alone: nobody else could answer for it."""
    account = next(one for one in arm.state.accounts.values() if one.name == "east")
    arm.state.change(account, tags={"pool": "one"})
    seen = set(arm.state.keys(account))
    text = manifest(regions, arm, probe={"interval": "1s", "timeout": "1s"}, **KEYS)
    log = regions.regions["east"].log

    def refused() -> bool:
        return any(one.status == 401 for one in log)

    def well() -> bool:
        last = list(log)[-40:]
        return all(one.status == 200 for one in last) and sum("models" in one.path for one in last) > 1

    async with gateway(cloud, text) as running:
        async with load(running.azure_client()) as under:
            for which in (0, 1, 0):
                name = "ai/chat/east:other" if which else "ai/chat/east"
                before = (await versions(running))[name]
                log.clear()
                rotate(arm, account, which)
                await eventually(refused, what="the old key is refused")
                await under.goes_on(50)
                await eventually(well, what="both keys are those of now")
                # The next one is renewed when Envoy has this one, as an owner would wait.
                while (await versions(running))[name] == before:
                    await under.goes_on(1)
                seen |= set(arm.state.keys(account))
        answers = (await running.metrics(), await running.admin("/config_dump"))
        shown = "\n".join(map(str, (running.events, running.logs, *answers)))
    assert not [key for key in seen if key in shown]
    assert {one.auth for one in log if "chat" in one.path and one.status == 200} == {"api-key"}


async def versions(running: LocalGateway) -> dict[str, str]:
    """Return the version of each secret that Envoy has."""
    dump = json.loads(await running.admin("/config_dump?resource=dynamic_active_secrets"))
    return {one["name"]: one["version_info"] for one in dump["configs"]}


def rotate(arm: Arm, account: Account, which: int) -> None:
    """Renew a key, as its owner would."""
    path = f"{account.id}/regenerateKey"
    body = b'{"keyName": "Key2"}' if which else b'{"keyName": "Key1"}'
    entra, arm.state._entra = arm.state._entra, None
    assert arm.state.answer("POST", path, "", "", body, base=arm.url).status == 200
    arm.state._entra = entra
