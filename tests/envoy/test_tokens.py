"""Tokens of Entra ID as proofs of who calls, on the real Envoy with the real SDK."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from aoai_operator.simulator import Deployment, Region, Simulator
from support.calls import HELLO, ask, last
from support.entra import DIRECTORY, Entra
from support.local import LocalGateway
from support.manifests import pool_manifest
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]

APP, GROUP, OTHER = (f"{digit * 8}-aaaa-bbbb-cccc-{digit * 12}" for digit in "123")
KEY = "team-key-0123456789"
KEYED = {"apiKey": {"secretRef": {"name": "team-key"}}}


def manifest(azure: Simulator, entra: Entra, *, apps: tuple[str, ...] = (APP,)) -> str:
    """Return three pools: one with tokens of Entra ID and a tenant for each kind of identity, an open one, and one
    that takes no tokens."""
    taken = {"entra": {"tenantId": DIRECTORY, "authorityHost": entra.url}}
    plain = {"health": {"probe": {"path": "Disabled"}}}
    quotas: dict[str, Json] = {
        "team": {"identities": [KEYED, {"entra": {"appIds": list(apps)}}], "limits": {"requestsPerMinute": 10_000}},
        "people": {"identities": [{"entra": {"groups": [GROUP]}}]},
    }
    chat = pool_manifest(azure, spec={**plain, "auth": taken}, tenants={"team": KEY, "people": "unused"}, quotas=quotas)
    opened = pool_manifest(
        azure, name="open", spec={**plain, "auth": {"required": False, **taken}}, tenants={}, quotas={}
    )
    keyed = pool_manifest(azure, name="keyed", spec=plain, tenants={"mine": "mine-key-0123456789"})
    return f"{chat}---\n{opened}---\n{keyed}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    async with Simulator([Region(name="eastus", deployments=[Deployment(name="gpt-4o", model="gpt-4o")])]) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator, entra: Entra) -> AsyncIterator[LocalGateway]:
    async with LocalGateway(manifest(azure, entra)) as running:
        yield running


async def call(gateway: LocalGateway, token: str, *, pool: str = "chat", **headers: str) -> httpx.Response:
    """Ask with a token, and return the answer as it came."""
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.post(
            f"{gateway.url}/ai/{pool}/openai/v1/chat/completions",
            headers={"authorization": f"Bearer {token}", **headers},
            json={"model": "gpt-4o", "messages": HELLO},
        )


async def tenant_of(gateway: LocalGateway, answer: httpx.Response) -> str:
    """Return whose request it was, by the log."""
    assert answer.status_code == 200, answer.text

    def logged() -> str | None:
        lines = [line for line in gateway.logs if line.get("request_id") == answer.headers["x-request-id"]]
        return lines[0]["tenant"] if lines else None

    return str(await eventually(logged, what="its log line"))


@pytest.mark.parametrize("version", [1, 2])
async def test_a_token_of_an_application_is_its_tenants(gateway: LocalGateway, entra: Entra, version: int) -> None:
    claim = {1: "appid", 2: "azp"}[version]
    token = entra.token(version=version, **dict[str, Any]({claim: APP}))
    assert await tenant_of(gateway, await call(gateway, token)) == "ai/team"
    async with gateway.client(key=token) as client:
        assert await ask(client)


async def test_a_member_of_a_group_is_its_tenants(gateway: LocalGateway, entra: Entra) -> None:
    token = entra.token(appid=OTHER, groups=[OTHER, GROUP])
    assert await tenant_of(gateway, await call(gateway, token)) == "ai/people"


async def test_the_application_goes_before_the_group(gateway: LocalGateway, entra: Entra) -> None:
    assert await tenant_of(gateway, await call(gateway, entra.token(appid=APP.upper(), groups=[GROUP]))) == "ai/team"


async def test_the_sdk_of_azure_asks_with_a_token(gateway: LocalGateway, entra: Entra) -> None:
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=f"{gateway.url}/ai/chat",
        api_version="2024-10-21",
        azure_ad_token_provider=lambda: entra.token(appid=APP),
        max_retries=0,
    ) as client:
        assert await ask(client)


async def test_limits_hold_for_who_comes_with_a_token(gateway: LocalGateway, entra: Entra) -> None:
    answer = await call(gateway, entra.token(appid=APP))
    assert answer.headers["x-ratelimit-limit-requests"] == "10000"


async def test_the_region_sees_nothing_of_a_token(gateway: LocalGateway, azure: Simulator, entra: Entra) -> None:
    token = entra.token(appid=APP)
    assert (await call(gateway, token)).status_code == 200
    seen = last(azure)
    assert "authorization" not in seen.header_names
    assert token.encode() not in seen.body


async def test_what_proves_nothing_is_refused(gateway: LocalGateway, entra: Entra) -> None:
    forged = generate_private_key(public_exponent=65537, key_size=2048)
    now = int(time.time())
    good = entra.token(appid=APP)
    head, body, signature = good.split(".")
    wrong = {
        "forged": entra.token(appid=APP, key=forged),
        "over": entra.token(appid=APP, exp=now - 5),
        "not yet": entra.token(appid=APP, nbf=now + 60),
        "without an end": entra.token(appid=APP, exp=None),
        "another audience": entra.token(appid=APP, aud="https://graph.microsoft.com"),
        "no audience": entra.token(appid=APP, aud=None),
        "another directory": entra.token(appid=APP, iss=f"https://sts.windows.net/{OTHER}/"),
        "unsigned": entra.token(appid=APP, algorithm="none"),
        "cut": f"{head}.{body}.",
        "another body": f"{head}.{entra.token(appid=OTHER).split('.')[1]}.{signature}",
        "an unknown application": entra.token(appid=OTHER),
        "no application": entra.token(),
        "a service account's subject": entra.token(appid=OTHER, sub="system:serviceaccount:ai:team"),
        "no token at all": "eyJx.eyJx.x",
    }
    answers = {what: await call(gateway, token) for what, token in wrong.items()}
    assert {what: answer.status_code for what, answer in answers.items()} == dict.fromkeys(wrong, 401)
    assert all(answer.json()["error"]["code"] in {"invalid_api_key", "invalid_token"} for answer in answers.values())
    async with gateway.client(key=wrong["over"]) as client:
        with pytest.raises(openai.AuthenticationError):
            await ask(client)


async def test_where_there_are_both_the_key_counts(gateway: LocalGateway, entra: Entra) -> None:
    people = entra.token(groups=[GROUP])
    assert await tenant_of(gateway, await call(gateway, people, **{"api-key": KEY})) == "ai/team"
    assert (await call(gateway, people, **{"api-key": "nobody's"})).status_code == 401


async def test_an_open_pool_takes_nobody_for_anonymous_who_shows_a_token(gateway: LocalGateway, entra: Entra) -> None:
    assert (await call(gateway, entra.token(appid=APP), pool="open")).status_code == 401
    assert (await call(gateway, entra.token(appid=APP, exp=1), pool="open")).status_code == 401
    assert (await call(gateway, "anonymous", pool="open")).status_code == 200


async def test_a_pool_that_takes_no_tokens_refuses_them(gateway: LocalGateway, entra: Entra) -> None:
    refused = await call(gateway, entra.token(appid=APP), pool="keyed")
    assert refused.status_code == 401
    assert "takes no tokens" in refused.json()["error"]["message"]


async def test_an_identity_that_is_taken_away_is_refused_from_then_on(
    gateway: LocalGateway, azure: Simulator, entra: Entra
) -> None:
    token = entra.token(appid=APP)
    gateway.write(manifest(azure, entra, apps=(OTHER,)))

    async def refused() -> bool:
        return (await call(gateway, token)).status_code == 401

    await eventually(refused, what="its token is refused")
    gateway.write(manifest(azure, entra))

    async def taken() -> bool:
        return (await call(gateway, token)).status_code == 200

    await eventually(taken, what="its token is taken again")
