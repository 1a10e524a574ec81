"""Endpoints that are found, in a cluster: a simulated Azure Resource Manager, two operators, two Envoys."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aoai_operator.simulator import Arm, ArmState, account_of
from support.azure import APP, CLIENT_SECRET, TENANT, Azure, azure
from support.calls import HELLO
from support.cluster.control_plane import ControlPlane
from support.cluster.house import POOLS, House
from support.load import load
from support.manifests import pool_manifest, secret
from support.manifests import to_yaml as yaml
from support.waiting import eventually

Json = dict[str, Any]
SUBSCRIPTION = "0a000000-0000-0000-0000-00000000000a"
TAGS = {"pool": "chat"}


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Azure]:
    async with azure(tmp_path) as served:
        yield served


@pytest.fixture
async def house(plane: ControlPlane, namespace: str, cloud: Azure) -> AsyncIterator[House]:
    """Two operators that trust this Azure, and two Envoys; the regions take its tokens."""
    values = {"entra": {"tokenHosts": ["127.0.0.1", "localhost"]}}
    async with House(plane, namespace, values=values) as made:
        for region in made.azure.regions.values():
            region.state.entra = cloud.state
        for number in range(2):
            environment = {**cloud.environment, "AOAI_CA_FILE": str(cloud.ca_file)}
            await made.release.start_operator(f"operator-{number}", **environment)
            await made.release.start_gateway(f"gateway-{number}")
        yield made


@pytest.fixture
async def arm(cloud: Azure, house: House) -> AsyncIterator[Arm]:
    """An account for each region, none with a tag."""
    accounts = [account_of(region, subscription=SUBSCRIPTION) for region in house.azure.regions.values()]
    folder = cloud.ca_file.parent
    state = ArmState(accounts, entra=cloud.state)
    async with Arm(state, certfile=str(folder / "tls.crt"), keyfile=str(folder / "tls.key")) as served:
        yield served


def tag(arm: Arm, name: str, **changes: Any) -> None:
    """Give an account the tag, or change it otherwise."""
    account = next(one for one in arm.state.accounts.values() if one.name == name)
    arm.state.change(account, **{"tags": TAGS, **changes})


async def apply(house: House, cloud: Azure, arm: Arm, *models: str) -> None:
    """Apply a pool that looks for accounts with the tag."""
    principal = {
        "identity": "ServicePrincipal",
        "clientId": APP,
        "tenantId": TENANT,
        "authorityHost": cloud.entra.url,
        "clientSecret": {"secretRef": {"name": "reader", "key": "api-key"}},
    }
    looking = {
        "subscriptionIds": [SUBSCRIPTION],
        "tags": TAGS,
        "identity": principal,
        "auth": {"entra": principal},
        "resourceManager": arm.url,
        "interval": "5s",
    }
    spec = {"discovery": {"azure": looking}, "balancing": {"strategy": "Weighted"}, "throttling": {"rampUp": "0s"}}
    pool = pool_manifest([], models=dict.fromkeys(models or ("gpt-4o",), ()), namespace=house.namespace, spec=spec)
    await house.plane.apply(pool, yaml([secret("reader", CLIENT_SECRET, namespace=house.namespace)]))


async def is_told(house: House, status: str, reason: str) -> Json:
    """Wait until the condition Discovered is this."""

    def told(pool: Json) -> bool:
        return conditions(pool).get("Discovered", ())[:2] == (status, reason)

    return await house.plane.wait_for(told, POOLS, "chat", namespace=house.namespace, within=60)


def conditions(pool: Json) -> dict[str, tuple[str, str, str]]:
    found = pool.get("status", {}).get("conditions", ())
    return {c["type"]: (c["status"], c["reason"], c.get("message", "")) for c in found}


async def served_by(house: House, region: str) -> None:
    """Ask until a region has answered."""

    async def answered() -> bool:
        async with house.client(max_retries=0) as client:
            await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        return any("chat" in one.path and one.status == 200 for one in house.azure.regions[region].log)

    await eventually(answered, within=30, what=f"{region} answers")


async def test_what_is_found_serves_through_all_that_azure_does(house: House, cloud: Azure, arm: Arm) -> None:
    await apply(house, cloud, arm)
    pool = await is_told(house, "False", "NothingFound")
    assert conditions(pool)["Ready"][:2] == ("False", "NoTable")

    tag(arm, "east")
    pool = await is_told(house, "True", "Discovered")
    assert pool["status"]["discovery"] == {"accounts": 1, "endpoints": 1, "deployments": 1, "omitted": []}
    await house.pool_is("Ready")
    await served_by(house, "east")

    async with load(house.client(max_retries=0)) as under:
        # New capacity is used within one reading.
        tag(arm, "west")
        await eventually(lambda: house.azure.regions["west"].log, within=30, what="west serves, too")
        await under.goes_on(50)

        # Azure fails, and all operators begin anew meanwhile.
        arm.state.fault = 503
        pool = await is_told(house, "False", "AzureUnreadable")
        assert pool["status"]["discovery"]["staleSince"]
        assert "503" in conditions(pool)["Discovered"][2]
        assert conditions(pool)["Ready"][0] == "True"
        for operator in house.release.operators.values():
            await operator.part.kill()
        for operator in house.release.operators.values():
            await operator.part.start()
        await under.goes_on(50)

        def still(pool: Json) -> bool:
            return "staleSince" not in pool["status"]["discovery"] and len(pool["status"]["endpoints"]) == 2

        pool = await house.plane.wait_for(still, POOLS, "chat", namespace=house.namespace, within=60)
        assert conditions(pool)["Discovered"][:2] in (("Unknown", "NotRead"), ("False", "AzureUnreadable"))
        await under.goes_on(50)
        arm.state.fault = None
        await is_told(house, "True", "Discovered")

        # What loses its tag is served no more.
        tag(arm, "east", tags={})

        def gone(pool: Json) -> bool:
            return {e["name"] for e in pool["status"]["endpoints"]} == {"west"}

        await house.plane.wait_for(gone, POOLS, "chat", namespace=house.namespace, within=60)
        await under.goes_on(50)
    await nothing_is_shown(house, cloud)


async def test_a_model_that_nobody_deployed_is_told_and_the_others_serve(house: House, cloud: Azure, arm: Arm) -> None:
    tag(arm, "east")
    await apply(house, cloud, arm, "gpt-4o", "gpt-5")
    pool = await is_told(house, "False", "ModelNotDeployed")
    assert "No deployment of gpt-5 was found" in conditions(pool)["Discovered"][2]
    await house.pool_is("Ready")
    await served_by(house, "east")


async def nothing_is_shown(house: House, cloud: Azure) -> None:
    """Look for every token and secret in all that Kubernetes holds of the namespace but Secrets, and in all logs."""
    resources = ("v1/configmaps", "v1/events", "coordination.k8s.io/v1/leases", POOLS)
    objects = [await house.plane.get(one, namespace=house.namespace) for one in resources]
    shown = json.dumps([objects, house.logs()], default=str)
    assert "chat-routing" in shown
    assert not [canary for canary in (CLIENT_SECRET, *cloud.state.issued) if canary in shown]
