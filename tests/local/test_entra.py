"""Endpoints without keys: tokens of a simulated Entra ID, on the real Envoy, with the SDK."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from aoai_operator.simulator import Deployment, Region, Simulator, Status
from support.azure import APP, CLIENT_SECRET, TENANT, Azure, azure
from support.calls import HELLO
from support.local import LocalGateway
from support.manifests import pool_manifest, secret
from support.manifests import to_yaml as yaml
from support.waiting import eventually

KEY = "azure-key-canary-7f"
PRINCIPAL = {"identity": "ServicePrincipal", "clientId": APP, "tenantId": TENANT}
PRINCIPAL_SECRET = {**PRINCIPAL, "clientSecret": {"secretRef": {"name": "principal", "key": "api-key"}}}


@pytest_asyncio.fixture
async def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Azure]:
    async with azure(tmp_path) as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        yield served


@pytest_asyncio.fixture
async def regions(cloud: Azure) -> AsyncIterator[Simulator]:
    deployments = [Deployment(name="gpt-4o", model="gpt-4o")]
    made = [Region(name=name, deployments=deployments, key=KEY) for name in ("east", "west", "north")]
    async with Simulator(made, entra=cloud.state) as running:
        yield running


def manifest(regions: Simulator, identities: Mapping[str, dict[str, Any]], **spec: Any) -> str:
    """Return a pool whose endpoints of these names are called with tokens, and a client secret."""
    endpoints = {name: {"auth": {"apiKey": None, "entra": entra}} for name, entra in identities.items()}
    # Without a ramp each of a few requests in a row goes to another endpoint.
    spec = {"balancing": {"strategy": "Weighted"}, "throttling": {"rampUp": "0s"}, **spec}
    return pool_manifest(regions, endpoints=endpoints, spec=spec) + "---\n" + yaml([secret("principal", CLIENT_SECRET)])


def gateway(cloud: Azure, text: str) -> LocalGateway:
    return LocalGateway(text, arguments=["--ca-file", str(cloud.ca_file), "--token-host", "127.0.0.1"])


async def ask(running: LocalGateway, times: int = 1) -> None:
    async with running.client() as client:
        for _ in range(times):
            await client.chat.completions.create(model="gpt-4o", messages=HELLO)


async def rendered(*arguments: object) -> str:
    """Return what `aoai-operator render` prints."""
    program = Path(sys.executable).with_name("aoai-operator")
    process = await asyncio.create_subprocess_exec(
        program, "render", *map(str, arguments), "--token-host", "127.0.0.1", stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    return told.decode()


def states(running: LocalGateway) -> dict[str, tuple[str, str]]:
    """Return the last state and reason that were logged of each endpoint."""
    return {
        one["endpoint"]: (one["state"], one["reason"])
        for one in running.logs
        if one["event"] == "a host changed its state"
    }


async def test_each_endpoint_gets_its_own_credential_and_nothing_of_the_others(
    cloud: Azure, regions: Simulator
) -> None:
    identities = {"east": {}, "west": PRINCIPAL_SECRET}
    async with gateway(cloud, manifest(regions, identities, health={"probe": {"path": "Disabled"}})) as running:
        await ask(running, 9)

    east, west, north = (regions.regions[name].log for name in ("east", "west", "north"))
    assert all(len(log) for log in (east, west, north))
    for one in (*east, *west):
        assert (one.auth, one.principal, one.status) == ("entra", APP, 200)
        names = {name.lower() for name, _ in one.headers}
        assert "api-key" not in names
        assert not {name for name in names if name.startswith("x-aoai")}
    for one in north:
        assert (one.auth, one.status) == ("api-key", 200)
        names = {name.lower() for name, _ in one.headers}
        assert "authorization" not in names
        assert not {name for name in names if name.startswith("x-aoai")}
    assert {kind for kind, _, _ in cloud.state.asked} == {"federated", "secret"}


@pytest.mark.parametrize("broken", ["east", "north"])
async def test_a_retry_carries_nothing_of_the_attempt_before(cloud: Azure, regions: Simulator, broken: str) -> None:
    """From an endpoint with a token to one with a key, and the other way round."""
    regions.fault(broken, Status(status=500))
    spec = {"health": {"probe": {"path": "Disabled"}}}
    async with gateway(cloud, manifest(regions, {"east": {}}, **spec)) as running:
        await ask(running, 6)

    assert regions.regions[broken].attempts, "nothing was tried again"
    for name, other in (("east", "api-key"), ("north", "authorization"), ("west", "authorization")):
        for one in regions.regions[name].log:
            assert one.auth == ("entra" if name == "east" else "api-key")
            assert other not in {header.lower() for header, _ in one.headers}


async def test_a_managed_identity_of_the_machine(
    cloud: Azure, regions: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With it azure-identity takes the pod's own identity for that of the machine.
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE")
    identities = {name: {"identity": "ManagedIdentity"} for name in regions.regions}
    async with gateway(cloud, manifest(regions, identities)) as running:
        await ask(running, 3)

    assert list(cloud.state.asked) == [("managed", APP, "https://cognitiveservices.azure.com")]


async def test_tokens_are_renewed_once_for_all_endpoints_and_no_request_notices(
    cloud: Azure, regions: Simulator
) -> None:
    cloud.state.lifetime = 6
    identities = dict.fromkeys(regions.regions, PRINCIPAL_SECRET)
    async with gateway(cloud, manifest(regions, identities)) as running:

        async def several() -> bool:
            await ask(running)
            return len(cloud.state.issued) >= 4

        await eventually(several, what="tokens were renewed", within=60)
        used = {record.status for region in regions.regions.values() for record in region.log}

    assert used == {200}
    assert cloud.state.asked.total() == len(cloud.state.issued), "one for three endpoints"


async def test_an_issuer_that_fails_is_told_the_old_token_serves_and_then_nobody_is_throttled(
    cloud: Azure, regions: Simulator
) -> None:
    cloud.state.lifetime = 24
    text = manifest(regions, {"east": PRINCIPAL_SECRET})
    async with gateway(cloud, text) as running:
        await ask(running, 3)
        cloud.state.fault = 503
        await eventually(lambda: states(running).get("east") == ("Healthy", "Auth"), what="it is told", within=60)
        said = [one["why"] for one in running.logs if one.get("endpoint") == "east" and one.get("reason") == "Auth"]
        assert said[-1].startswith("AADSTS90033: A transient error has occurred. Please try again; what it gave")
        before = regions.regions["east"].served
        await ask(running, 6)
        assert regions.regions["east"].served > before
        await eventually(lambda: states(running)["east"] == ("Unhealthy", "Auth"), what="it is over", within=60)
        served = regions.regions["east"].attempts
        await ask(running, 6)
        assert regions.regions["east"].attempts == served
        metrics = await running.metrics()
        assert 'aoai_token_requests_total{result="refused"}' in metrics
        assert 'aoai_token_expires_seconds{endpoint="east",pool="ai/chat"}' in metrics
        cloud.state.fault = None
        await eventually(lambda: states(running)["east"] == ("Healthy", "Ok"), what="it is well again", within=90)
    assert not any(one.get("state") == "Throttled" for one in running.logs)


async def test_who_lacks_the_role_is_out_with_what_azure_said(cloud: Azure, regions: Simulator) -> None:
    stranger = {**PRINCIPAL_SECRET, "clientId": "22222222-2222-2222-2222-222222222222"}
    stranger["clientSecret"] = {"secretRef": {"name": "stranger", "key": "api-key"}}
    text = manifest(regions, {"east": stranger}) + "---\n" + yaml([secret("stranger", "x")])
    async with gateway(cloud, text) as running:
        await ask(running, 6)
        await eventually(lambda: states(running).get("east") == ("Unhealthy", "Auth"), what="it is out")
    assert not regions.regions["east"].served


async def test_a_wrong_secret_is_told_in_the_pools_condition_and_a_new_one_counts_at_once(
    cloud: Azure, regions: Simulator
) -> None:
    text = manifest(regions, {"east": PRINCIPAL_SECRET})
    async with gateway(cloud, text.replace(CLIENT_SECRET, "wrong-secret-canary")) as running:
        said = json.dumps([*running.events, *running.logs])
        assert "spec.endpoints[0].auth.entra: AADSTS7000215: Invalid client secret provided" in said
        assert "wrong-secret-canary" not in said
        await ask(running, 4)
        running.write(text)

        async def serves() -> bool:
            await ask(running)
            return bool(regions.regions["east"].served)

        await eventually(serves, what="the right secret counts")


async def test_no_token_and_no_secret_is_ever_shown(cloud: Azure, regions: Simulator, tmp_path: Path) -> None:
    cloud.state.lifetime = 6
    text = manifest(regions, {"east": PRINCIPAL_SECRET, "west": {}})
    async with gateway(cloud, text) as running:
        await eventually(lambda: len(cloud.state.issued) >= 4, what="tokens were renewed", within=60)
        await ask(running, 3)
        dumps = [await running.admin(path) for path in ("/config_dump?include_eds", "/certs", "/stats")]
        shown = json.dumps([running.events, running.logs, dumps, await running.metrics()])
        cloud.state.fault = 500
        await eventually(lambda: any(one.get("reason") == "Auth" for one in running.logs), what="it is told", within=60)
        shown += json.dumps([running.events, running.logs])
    file = tmp_path / "pool.yaml"
    file.write_text(text)
    for how in ([], ["--envoy"]):
        shown += await rendered(file, *how)
    for canary in (CLIENT_SECRET, KEY, cloud.token_file.read_text(), *cloud.state.issued):
        assert canary not in shown
        assert canary[-40:] not in shown
    assert "authorization" in shown, "the Envoy resources were shown"


async def test_a_token_goes_to_no_host_that_nobody_trusts(cloud: Azure, regions: Simulator) -> None:
    text = manifest(regions, {"east": {}})
    async with LocalGateway(text, arguments=["--ca-file", str(cloud.ca_file)]) as running:
        await ask(running, 6)
        said = json.dumps(running.events)
    assert "a token of Entra ID goes to Azure's own hosts alone, by https" in said
    assert not regions.regions["east"].attempts
    assert not cloud.state.issued


async def test_an_issuer_that_says_nothing_holds_up_no_start(cloud: Azure, regions: Simulator) -> None:
    cloud.entra.delay = 1_000
    async with gateway(cloud, manifest(regions, {"east": {}})) as running:
        await ask(running, 3)
        assert not regions.regions["east"].attempts


async def test_a_pool_of_which_no_token_can_be_had_says_so_to_clients(cloud: Azure, regions: Simulator) -> None:
    cloud.state.fault = 500
    async with gateway(cloud, manifest(regions, {name: {} for name in regions.regions})) as running:
        with pytest.raises(openai.InternalServerError) as refused:
            await ask(running)
    assert refused.value.status_code == 503
