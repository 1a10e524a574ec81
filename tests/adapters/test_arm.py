"""Azure Resource Manager as the operator reads it, by the real client against the simulated one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from aoai_operator.adapters import arm as module
from aoai_operator.adapters.arm import ArmReader
from aoai_operator.adapters.entra import EntraTokens
from aoai_operator.core.discovered import AzureSource, FoundAccount, FoundDeployment, Retirement
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import Identity
from aoai_operator.ports import GrantError, ReadingError
from aoai_operator.simulator import Account, AccountDeployment, Arm, ArmState
from aoai_operator.simulator.arm import ArmFault
from support.azure import APP, CLIENT_SECRET, TENANT, Azure, azure

SUBSCRIPTION = "0a000000-0000-0000-0000-00000000000a"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.CognitiveServices/accounts"
DEPLOYED = [
    AccountDeployment(
        name="gpt-4o", model="gpt-4o", sku="GlobalStandard", rate_limits=[("request", 10, 100), ("token", 60, 100_000)]
    ),
    AccountDeployment(name="ptu", model="gpt-4o", version="2024-08-06", sku="ProvisionedManaged"),
]


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Azure]:
    async with azure(tmp_path) as served:
        yield served


@pytest_asyncio.fixture
async def arm(cloud: Azure) -> AsyncIterator[Arm]:
    first = Account(name="contoso", subscription=SUBSCRIPTION, deployments=DEPLOYED, tags={"pool": "chat"})
    others = [Account(name=f"other-{n}", subscription=SUBSCRIPTION, resource_group="others") for n in range(6)]
    folder = cloud.ca_file.parent
    state = ArmState([first, *others], entra=cloud.state, page=3)
    async with Arm(state, certfile=str(folder / "tls.crt"), keyfile=str(folder / "tls.key")) as served:
        yield served


@pytest.fixture
def reader(cloud: Azure) -> ArmReader:
    return ArmReader(EntraTokens(ca_file=cloud.ca_file), ca_file=cloud.ca_file, environment=cloud.environment)


def source(cloud: Azure, arm: Arm) -> AzureSource:
    identity = Identity(
        kind="secret", client_id=APP, tenant_id=TENANT, authority_host=cloud.entra.url, scope="", credential=None
    )
    return AzureSource(identity, arm.url, (SUBSCRIPTION,))


SECRET = SecretValue(CLIENT_SECRET)
CONTOSO = FoundAccount(f"{GROUP}/contoso", "contoso", SUBSCRIPTION, "rg", "OpenAI", "eastus")


async def test_accounts_are_read_page_by_page_with_one_token(cloud: Azure, arm: Arm, reader: ArmReader) -> None:
    async with reader.open(source(cloud, arm), SECRET) as session:
        found = {account.name: account for account in await session.accounts(SUBSCRIPTION, "")}
        others = await session.accounts(SUBSCRIPTION, "others")
        assert await session.account(CONTOSO) == found["contoso"]
        assert await session.account(replace(CONTOSO, name="nobody")) is None

    assert len(found) == 7
    assert {account.name for account in others} == {f"other-{n}" for n in range(6)}
    assert found["contoso"] == replace(
        CONTOSO,
        tags=(("pool", "chat"),),
        url="https://contoso.openai.azure.com/",
        addresses=("contoso.openai.azure.com:443",),
        state="Succeeded",
    )
    assert cloud.state.asked == {("secret", APP, "https://management.azure.com/.default"): 1}


async def test_deployments_tell_what_azure_lets_them_take_in_a_minute(
    cloud: Azure, arm: Arm, reader: ArmReader
) -> None:
    async with reader.open(source(cloud, arm), SECRET) as session:
        found = await session.deployments(CONTOSO)
        keys = await session.keys(CONTOSO.id)

    common = FoundDeployment("", "gpt-4o", state="Succeeded", content_filter="Microsoft.DefaultV2")
    assert found == (
        replace(common, name="gpt-4o", version="2024-11-20", type="GlobalStandard", tokens=100_000, requests=600),
        replace(common, name="ptu", version="2024-08-06", type="ProvisionedManaged"),
    )
    assert [key.reveal() for key in keys] == ["key1-of-contoso", "key2-of-contoso"]
    assert "key1" not in repr(keys)


async def test_models_tell_when_they_retire_and_what_comes_then(cloud: Azure, arm: Arm, reader: ArmReader) -> None:
    def model(version: str, **known: object) -> dict[str, object]:
        return {"kind": "OpenAI", "skuName": "S0", "model": {"name": "gpt-4o", "version": version, **known}}

    instead = {"targetModelName": "gpt-5", "targetModelVersion": "2025-08-07"}
    sure = {"inference": "2026-12-24T00:00:00Z", "deprecationStatus": "Planned"}
    perhaps = {"inference": "2027-01-01", "deprecationStatus": "Tentative"}
    arm.state.catalogue["eastus"] = [
        model("2024-08-06", deprecation=sure, replacementConfig=instead),
        model("2024-08-06", deprecation=sure, replacementConfig=instead),
        model("2024-11-20", deprecation=perhaps),
        model("2099-01-01"),
        model("2099-01-02", deprecation={"fineTune": "2026-12-24T00:00:00Z"}),
    ]
    async with reader.open(source(cloud, arm), SECRET) as session:
        found = await session.retirements(SUBSCRIPTION, "eastus")
        assert await session.retirements(SUBSCRIPTION, "westus") == ()
        arm.state.catalogue["eastus"] = [model("2024-08-06", deprecation={"inference": "someday"})]
        with pytest.raises(ReadingError, match="models of eastus: the answer is not as documented"):
            await session.retirements(SUBSCRIPTION, "eastus")

    assert found == (
        Retirement("gpt-4o", "2024-08-06", 1_798_070_400_000, "gpt-5 2025-08-07", planned=True),
        Retirement("gpt-4o", "2024-11-20", 1_798_761_600_000, planned=False),
    )


async def test_an_account_without_an_address_of_its_own_has_none(cloud: Azure, arm: Arm, reader: ArmReader) -> None:
    shared = "https://eastus.api.cognitive.microsoft.com/"
    arm.state.change(next(iter(arm.state.accounts.values())), endpoint=shared)
    async with reader.open(source(cloud, arm), SECRET) as session:
        found = await session.account(CONTOSO)
    assert found is not None
    assert (found.url, found.addresses) == ("", ())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("cut", "subscription .*: "),
        ("empty", r"the answer is not as documented \(AttributeError\)"),
        ("garbage", "subscription .*: "),
        ("wrong_types", "the answer is not as documented"),
        (401, "401 InternalServerError: Simulated status 401"),
        (403, "403 InternalServerError: Simulated status 403"),
        (500, "500 InternalServerError: Simulated status 500"),
    ],
)
async def test_an_answer_that_is_none_is_an_error_that_says_so(
    cloud: Azure, arm: Arm, reader: ArmReader, fault: ArmFault, said: str
) -> None:
    arm.state.fault = fault
    async with reader.open(source(cloud, arm), SECRET) as session:
        with pytest.raises(ReadingError, match=said) as told:
            await session.accounts(SUBSCRIPTION, "")
    assert told.value.wait is None
    assert len(str(told.value)) <= 500


async def test_an_answer_without_end_is_not_kept(
    cloud: Azure, arm: Arm, reader: ArmReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LARGEST", 1 << 20)
    arm.state.fault = "huge"
    async with reader.open(source(cloud, arm), SECRET) as session:
        with pytest.raises(ReadingError, match="larger than 1048576 bytes"):
            await session.accounts(SUBSCRIPTION, "")


async def test_who_throttles_says_for_how_long(cloud: Azure, arm: Arm, reader: ArmReader) -> None:
    arm.state.fault = "throttle"
    async with reader.open(source(cloud, arm), SECRET) as session:
        with pytest.raises(ReadingError, match="429 TooManyRequests: The request is being throttled") as told:
            await session.accounts(SUBSCRIPTION, "")
    assert told.value.wait == 1


async def test_one_token_serves_all_readings_until_it_is_refused(cloud: Azure, arm: Arm, reader: ArmReader) -> None:
    keys = source(cloud, arm).identity.model_copy(update={"account": CONTOSO.id, "manager": arm.url})
    for _ in range(3):
        async with reader.open(source(cloud, arm), SECRET) as session:
            await session.accounts(SUBSCRIPTION, "")
        granted = await reader.token(keys, SECRET)
    assert (granted.value.reveal(), granted.other and granted.other.reveal()) == ("key1-of-contoso", "key2-of-contoso")
    assert sum(cloud.state.asked.values()) == 1

    cloud.state.revoke()
    async with reader.open(source(cloud, arm), SECRET) as session:
        with pytest.raises(ReadingError, match="401 InvalidAuthenticationToken"):
            await session.accounts(SUBSCRIPTION, "")
    async with reader.open(source(cloud, arm), SECRET) as session:
        assert await session.accounts(SUBSCRIPTION, "")
    assert sum(cloud.state.asked.values()) == 2


async def test_a_token_that_is_nearly_over_is_not_shown_again(cloud: Azure, arm: Arm, reader: ArmReader) -> None:
    cloud.state.lifetime = 200
    async with reader.open(source(cloud, arm), SECRET) as session:
        await session.account(CONTOSO)
    once = sum(cloud.state.asked.values())
    async with reader.open(source(cloud, arm), SECRET) as session:
        await session.account(CONTOSO)
    assert sum(cloud.state.asked.values()) > once


async def test_keys_that_are_not_given_are_no_grant(cloud: Azure, arm: Arm, reader: ArmReader) -> None:
    keys = source(cloud, arm).identity.model_copy(update={"account": CONTOSO.id, "manager": arm.url})
    arm.state.change(next(iter(arm.state.accounts.values())), local_auth=False)
    with pytest.raises(GrantError, match="keys of contoso: 400 BadRequest: Failed to list key"):
        await reader.token(keys, SECRET)
    arm.state.change(next(iter(arm.state.accounts.values())), local_auth=True)
    arm.state.fault = "garbage"
    with pytest.raises(GrantError, match="keys of contoso"):
        await reader.token(keys, SECRET)


async def test_without_the_role_or_a_token_it_says_what_azure_said(cloud: Azure, arm: Arm, reader: ArmReader) -> None:
    arm.state.readers = frozenset()
    async with reader.open(source(cloud, arm), SECRET) as session:
        with pytest.raises(ReadingError, match=r"403 AuthorizationFailed: The client '1111.* not have authorization"):
            await session.accounts(SUBSCRIPTION, "")
    async with reader.open(source(cloud, arm), SecretValue("another")) as session:
        with pytest.raises(ReadingError, match="Entra ID gives no token for Azure Resource Manager: AADSTS7000215"):
            await session.accounts(SUBSCRIPTION, "")


async def test_who_cannot_be_reached_is_an_error(cloud: Azure, arm: Arm, reader: ArmReader) -> None:
    away = replace(source(cloud, arm), manager="https://localhost:1")
    async with reader.open(away, SECRET) as session:
        with pytest.raises(ReadingError, match="Cannot connect to host localhost:1"):
            await session.accounts(SUBSCRIPTION, "")
