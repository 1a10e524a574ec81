"""The simulated management API, by the real azure-mgmt-cognitiveservices."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.identity.aio import ClientSecretCredential
from azure.mgmt.cognitiveservices.aio import CognitiveServicesManagementClient as Client

from aoai_operator.simulator import Account, AccountDeployment, Arm, ArmState, Deployment, Region, Simulator, account_of
from support.azure import APP, CLIENT_SECRET, STRANGER, TENANT, Azure, azure

SUBSCRIPTION = "0a000000-0000-0000-0000-00000000000a"


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Azure]:
    async with azure(tmp_path) as served:
        yield served


@pytest_asyncio.fixture
async def regions(cloud: Azure) -> AsyncIterator[Simulator]:
    deployments = [
        Deployment(name="gpt-4o", model="gpt-4o", tokens_per_minute=120_000, requests_per_minute=720),
        Deployment(name="ptu", model="gpt-4o", type="ProvisionedManaged"),
    ]
    async with Simulator([Region(name="eastus", deployments=deployments, keys=["one", "two"])]) as running:
        yield running


@pytest_asyncio.fixture
async def arm(cloud: Azure, regions: Simulator) -> AsyncIterator[Arm]:
    own = account_of(regions.regions["eastus"], subscription=SUBSCRIPTION, tags={"pool": "chat"})
    group: dict[str, Any] = {"subscription": SUBSCRIPTION, "resource_group": "others"}
    others = [Account(name=f"other-{n}", kind="AIServices", **group) for n in range(6)]
    state = ArmState([own, *others], entra=cloud.state, page=3)
    folder = cloud.ca_file.parent
    async with Arm(state, certfile=str(folder / "tls.crt"), keyfile=str(folder / "tls.key")) as served:
        yield served


@asynccontextmanager
async def client(arm: Arm, cloud: Azure, subscription: str = SUBSCRIPTION, app: str = APP) -> AsyncIterator[Client]:
    """Yield the real client, of an application."""
    trusting: Any = {"connection_verify": str(cloud.ca_file), "retry_total": 0}
    secret = CLIENT_SECRET if app == APP else "x"
    scopes = ["https://management.azure.com/.default"]
    async with (
        ClientSecretCredential(TENANT, app, secret, authority=cloud.entra.url, **trusting) as credential,
        Client(credential, subscription, base_url=arm.url, credential_scopes=scopes, **trusting) as made,
    ):
        yield made


async def test_accounts_are_those_of_the_regions_and_those_given_page_by_page(arm: Arm, cloud: Azure) -> None:
    async with client(arm, cloud) as management:
        found = [one async for one in management.accounts.list()]
        grouped = [one.name async for one in management.accounts.list_by_resource_group("OTHERS")]
        one = await management.accounts.get("rg", "eastus")

    assert len(found) == 7
    assert len(grouped) == 6
    assert arm.state.calls == {"accounts": 5, "account": 1}
    assert (one.kind, one.location, one.tags) == ("OpenAI", "eastus", {"pool": "chat"})
    assert one.properties is not None
    assert str(one.properties.endpoint).startswith("http://127.0.0.1:")
    assert one.properties.provisioning_state == "Succeeded"


async def test_deployments_tell_sku_capacity_limits_and_version(arm: Arm, cloud: Azure) -> None:
    given = AccountDeployment(name="global", model="gpt-4o", sku="GlobalStandard", capacity=50, spillover="gpt-4o")
    arm.state.change(next(iter(arm.state.accounts.values())), deployments=[given])
    async with client(arm, cloud) as management:
        found = {one.name: one async for one in management.deployments.list("rg", "eastus")}

    assert {name: (one.sku.name, one.sku.capacity) for name, one in found.items() if one.sku} == {
        "gpt-4o": ("Standard", 120),
        "ptu": ("ProvisionedManaged", 1),
        "global": ("GlobalStandard", 50),
    }
    own = found["gpt-4o"].properties
    assert own is not None
    assert own.model is not None
    assert (own.model.name, own.model.version) == ("gpt-4o", "2024-11-20")
    assert [(r.key, r.renewal_period, r.count) for r in own.rate_limits or ()] == [
        ("request", 10, 120),
        ("token", 60, 120_000),
    ]
    spilling = found["global"].properties
    assert spilling is not None
    assert spilling.spillover_deployment_name == "gpt-4o"


async def test_keys_are_those_that_the_region_takes_and_a_new_one_counts_at_once(
    arm: Arm, cloud: Azure, regions: Simulator
) -> None:
    region = regions.regions["eastus"]
    async with client(arm, cloud) as management:
        keys = await management.accounts.list_keys("rg", "eastus")
        assert (keys.key1, keys.key2) == ("one", "two")
        renewed = await management.accounts.regenerate_key("rg", "eastus", "Key1")
        assert renewed.key2 == "two"
        async with httpx.AsyncClient() as plain:
            answers = [
                (await plain.get(f"{region.url}/openai/v1/models", headers={"api-key": key})).status_code
                for key in ("one", "two", str(renewed.key1))
            ]
    assert answers == [401, 200, 200]


async def test_without_local_auth_there_are_no_keys(arm: Arm, cloud: Azure) -> None:
    arm.state.change(next(iter(arm.state.accounts.values())), local_auth=False)
    async with client(arm, cloud) as management:
        with pytest.raises(HttpResponseError, match="disableLocalAuth"):
            await management.accounts.list_keys("rg", "eastus")


async def test_models_and_usages_of_a_location(arm: Arm, cloud: Azure) -> None:
    retirement = "2027-02-01T00:00:00Z"
    replacement = {"targetModelName": "gpt-5", "targetModelVersion": "2026-01-01"}
    model = {"name": "gpt-4o", "version": "2024-11-20", "deprecation": {"inference": retirement}}
    arm.state.catalogue["eastus"] = [
        {"kind": "OpenAI", "skuName": "S0", "model": {**model, "replacementConfig": replacement}}
    ]
    arm.state.usages["eastus"] = [
        {"name": {"value": "OpenAI.Standard.gpt-4o"}, "currentValue": 120, "limit": 450, "unit": "Count"}
    ]
    async with client(arm, cloud) as management:
        (known,) = [one async for one in management.models.list("eastus")]
        (usage,) = [one async for one in management.usages.list("eastus")]
        assert [one async for one in management.models.list("nowhere")] == []

    assert known.model is not None
    assert known.model.deprecation is not None
    assert known.model.deprecation.inference == retirement
    assert known.model.replacement_config is not None
    assert known.model.replacement_config.target_model_name == "gpt-5"
    assert (usage.current_value, usage.limit) == (120, 450)


async def test_who_may_not_read_is_told_so(arm: Arm, cloud: Azure) -> None:
    arm.state.readers = frozenset({APP})
    async with client(arm, cloud, app=STRANGER) as management:
        with pytest.raises(HttpResponseError, match="does not have authorization") as refused:
            await management.accounts.get("rg", "eastus")
    assert refused.value.status_code == 403
    async with client(arm, cloud, subscription=STRANGER) as management:
        with pytest.raises(ResourceNotFoundError, match="SubscriptionNotFound"):
            _ = [one async for one in management.accounts.list()]
    cloud.state.revoke()
    async with client(arm, cloud) as management:
        assert await management.accounts.get("rg", "eastus")
        cloud.state.revoke()
        with pytest.raises(ClientAuthenticationError, match="InvalidAuthenticationToken"):
            await management.accounts.get("rg", "eastus")


@pytest.mark.parametrize("fault", ["cut", "empty", "garbage", "throttle", 401, 403, 500, 503])
async def test_a_fault_is_an_error_of_the_client(arm: Arm, cloud: Azure, fault: Any) -> None:
    """An empty answer is no error of the client's own making: it stumbles over it."""
    arm.state.fault = fault
    async with client(arm, cloud) as management:
        with pytest.raises(AttributeError if fault == "empty" else AzureError):
            _ = [one async for one in management.accounts.list()]


async def test_wrong_types_reach_who_reads_them(arm: Arm, cloud: Azure) -> None:
    arm.state.fault = "wrong_types"
    async with client(arm, cloud) as management:
        with pytest.raises((AzureError, ValueError, TypeError, AttributeError)):
            _ = [one.tags["pool"] async for one in management.accounts.list()]  # type: ignore[index]


async def test_what_is_not_simulated_is_not_found(arm: Arm, cloud: Azure) -> None:
    trusting = ssl.create_default_context(cafile=cloud.ca_file)
    async with httpx.AsyncClient(verify=trusting) as plain:
        answer = await plain.put(f"{arm.url}/subscriptions/{SUBSCRIPTION}/resourceGroups/rg")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "InvalidResourceType")
    assert arm.state.calls == {"other": 1}
