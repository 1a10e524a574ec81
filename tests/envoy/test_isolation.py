"""A tenant cannot reach another one's quota, key, endpoints or pool, whatever it sends: a table of attempts.

`mallory` is a tenant of the pool ai/chat, and of nothing else. `alice` has the pool ai/private to herself, and one
endpoint of ai/chat; she proves herself by a key, or by a token of her application.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from aoai_operator.simulator import Deployment, Region, Simulator
from support.calls import HELLO, last, requests
from support.dedicated import lane_in
from support.entra import DIRECTORY, Entra
from support.local import LocalGateway
from support.manifests import pool_manifest
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]

ALICE, MALLORY = "alice-key-0123456789", "mallory-key-0123456789"
APP, OTHER_APP = "11111111-aaaa-bbbb-cccc-111111111111", "22222222-aaaa-bbbb-cccc-222222222222"
LIMIT = 1_000
CHAT, PRIVATE = "/ai/chat/openai/v1/chat/completions", "/ai/private/openai/v1/chat/completions"
ROOT = "/openai/v1/chat/completions"
DEPLOYMENT = "/ai/{pool}/openai/deployments/{model}/chat/completions?api-version=2024-10-21"

Attempt = tuple[str, dict[str, str], Json]
"""Path, headers, fields of the body."""

KEY = {"api-key": MALLORY}
ATTEMPTS: dict[str, Attempt] = {
    "her pool by its path": (PRIVATE, KEY, {}),
    "her pool by a path that goes back": ("/ai/chat/../private/openai/v1/chat/completions", KEY, {}),
    "her pool by an encoded path": ("/ai/chat/%2e%2e/private/openai/v1/chat/completions", KEY, {}),
    "her pool by an encoded slash": ("/ai%2Fprivate/openai/v1/chat/completions", KEY, {}),
    "her pool by a doubled slash": ("//ai/private/openai/v1/chat/completions", KEY, {}),
    "her pool by its host name": (ROOT, {**KEY, "host": "private.example"}, {}),
    "her pool by its host name in capitals": (ROOT, {**KEY, "host": "PRIVATE.example"}, {}),
    "her pool by its host name and a port": (ROOT, {**KEY, "host": "private.example:8443"}, {}),
    "her pool by x-forwarded-host": (ROOT, {**KEY, "x-forwarded-host": "private.example"}, {}),
    "her pool by x-original-url": (CHAT, {**KEY, "x-original-url": PRIVATE, "x-rewrite-url": PRIVATE}, {}),
    "her pool by x-envoy-original-path": (CHAT, {**KEY, "x-envoy-original-path": PRIVATE}, {}),
    "her pool's path at another host name": (PRIVATE, {**KEY, "host": "chat.example"}, {}),
    "her name in our header": (PRIVATE, {**KEY, "x-aoai-tenant": "ai/alice"}, {}),
    "her name in our header, without a key": (PRIVATE, {"x-aoai-tenant": "ai/alice"}, {}),
    "her name in our header, in her lane": (CHAT, {**KEY, "x-aoai-tenant": "ai/alice", "x-aoai-lane": "@lane"}, {}),
    "her lane in our header": (CHAT, {**KEY, "x-aoai-lane": "@lane"}, {}),
    "her lane and her model": (CHAT, {**KEY, "x-aoai-lane": "@lane", "x-aoai-model": "hers"}, {"model": "hers"}),
    "her endpoint in our header": (CHAT, {**KEY, "x-aoai-endpoint-id": "own", "x-aoai-deployment": "hers"}, {}),
    "her model by the body": (CHAT, KEY, {"model": "hers"}),
    "her model by the query": (f"{CHAT}?model=hers", KEY, {"model": "gpt-4o"}),
    "her model by the path": (DEPLOYMENT.format(pool="chat", model="hers"), KEY, {}),
    "her deployment's name in Azure": (DEPLOYMENT.format(pool="chat", model="hers-own"), KEY, {}),
    "her model by the path, in capitals": (DEPLOYMENT.format(pool="chat", model="HERS"), KEY, {}),
    "her model, told twice": (CHAT, KEY, {"model": "gpt-4o", "model ": "hers"}),
    "her pool and model": (DEPLOYMENT.format(pool="private", model="gpt-4o"), KEY, {}),
    "no key at all": (PRIVATE, {}, {}),
    "the key of open pools": (PRIVATE, {"api-key": "anonymous"}, {}),
    "a key of hers, cut": (PRIVATE, {"api-key": ALICE[:-1]}, {}),
    "a key of hers, with more": (PRIVATE, {"api-key": f"{ALICE}x"}, {}),
    "a key of hers, in capitals": (PRIVATE, {"api-key": ALICE.upper()}, {}),
    "the key of her endpoint": (PRIVATE, {"api-key": "@region"}, {}),
    "the key of her endpoint as a bearer": (PRIVATE, {"authorization": "Bearer @region"}, {}),
    "her key as a query": (f"{PRIVATE}?api-key={ALICE}", KEY, {}),
    "her key as a cookie": (PRIVATE, {**KEY, "cookie": f"api-key={ALICE}"}, {}),
    "her key by basic authentication": (PRIVATE, {"authorization": f"Basic {ALICE}"}, {}),
    "her application, unsigned": (PRIVATE, {"authorization": "Bearer @unsigned"}, {}),
    "her application, signed by nobody we know": (PRIVATE, {"authorization": "Bearer @forged"}, {}),
    "her application, for another audience": (PRIVATE, {"authorization": "Bearer @audience"}, {}),
    "her application, over": (PRIVATE, {"authorization": "Bearer @over"}, {}),
    "her application, of another directory": (PRIVATE, {"authorization": "Bearer @directory"}, {}),
    "another application that says it is a service account": (PRIVATE, {"authorization": "Bearer @account"}, {}),
    "another application that says it is hers elsewhere": (PRIVATE, {"authorization": "Bearer @claims"}, {}),
    "a token of hers as an API key": (PRIVATE, {"api-key": "@unsigned"}, {}),
    "her stored answer": ("/ai/chat/openai/v1/responses/resp_hers", KEY, {}),
    "her files": ("/ai/chat/openai/v1/files", KEY, {}),
    "her fine-tuning": ("/ai/chat/openai/v1/fine_tuning/jobs", KEY, {}),
    "the management of deployments": ("/ai/chat/openai/deployments?api-version=2024-10-21", KEY, {}),
    "the operator's configuration": ("/config_dump", KEY, {}),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """A shared region, one that is Alice's in the shared pool, and one of her own pool."""
    regions = [
        Region(name="shared", deployments=[Deployment(name="gpt-4o", model="gpt-4o")]),
        Region(name="own", deployments=[Deployment(name="hers-own", model="hers")]),
        Region(name="private", deployments=[Deployment(name="gpt-4o", model="gpt-4o")]),
    ]
    async with Simulator(regions) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator, entra: Entra) -> AsyncIterator[LocalGateway]:
    """Both pools at one gateway."""
    auth = {"entra": {"tenantId": DIRECTORY, "authorityHost": entra.url}}
    plain: Json = {"health": {"probe": {"path": "Disabled"}}, "auth": auth}
    alice = {
        "poolRefs": [{"name": "chat"}, {"name": "private"}],
        "identities": [{"apiKey": {"secretRef": {"name": "alice-key"}}}, {"entra": {"appIds": [APP]}}],
        "limits": {"requestsPerMinute": LIMIT},
    }
    chat = pool_manifest(
        [azure.regions["shared"], azure.regions["own"]],
        spec={**plain, "gateway": {"hostnames": ["chat.example"]}, "models": [{"name": "gpt-4o"}, {"name": "hers"}]},
        endpoints={"own": {"dedicatedTo": [{"name": "alice"}]}},
        tenants={"mallory": MALLORY, "alice": ALICE},
        quotas={"alice": alice},
    )
    private = pool_manifest(
        [azure.regions["private"]],
        name="private",
        spec={**plain, "gateway": {"hostnames": ["private.example"]}},
        tenants={},
    )
    async with LocalGateway(f"{chat}---\n{private}") as running:
        yield running


async def call(gateway: LocalGateway, path: str, headers: dict[str, str], body: Json) -> httpx.Response:
    """Ask, byte for byte as it is written."""
    async with httpx.AsyncClient(timeout=30) as client:
        url = httpx.URL(gateway.url).copy_with(raw_path=path.encode())
        whole = {"model": "gpt-4o", "messages": HELLO, **body}
        return await client.send(client.build_request("POST", url, headers=headers, json=whole))


async def counted_for(gateway: LocalGateway, answer: httpx.Response) -> set[str]:
    """Return whose a request was, by the log: what is logged after it is of a request of Alice's."""
    hers = await call(gateway, PRIVATE, {"api-key": ALICE}, {})
    assert hers.status_code == 200

    def lines(of: httpx.Response) -> list[Json]:
        return [line for line in gateway.logs if line.get("request_id") == of.headers.get("x-request-id", "none")]

    await eventually(lambda: lines(hers), what="her own request is logged")
    assert {line["tenant"] for line in lines(hers)} == {"ai/alice"}
    return {line["tenant"] for line in lines(answer)}


async def test_she_herself_reaches_all_that_is_hers(gateway: LocalGateway, azure: Simulator, entra: Entra) -> None:
    for proof in ({"api-key": ALICE}, {"authorization": f"Bearer {entra.token(appid=APP)}"}):
        assert (await call(gateway, PRIVATE, proof, {})).status_code == 200
        assert last(azure).region == "private"
        assert (await call(gateway, ROOT, {**proof, "host": "private.example"}, {})).status_code == 200
        assert last(azure).region == "private"
        assert (await call(gateway, CHAT, proof, {"model": "hers"})).status_code == 200
        assert last(azure).region == "own"


@pytest.mark.parametrize("attempt", ATTEMPTS)
async def test_nobody_else_does(gateway: LocalGateway, azure: Simulator, entra: Entra, attempt: str) -> None:
    path, headers, body = ATTEMPTS[attempt]
    config = await gateway.admin("/config_dump?resource=dynamic_route_configs")
    stranger = Entra()
    values = {
        "@lane": lane_in(config),
        "@region": azure.regions["private"].key,
        "@unsigned": entra.token(appid=APP, algorithm="none"),
        "@forged": stranger.token(appid=APP),
        "@audience": entra.token(appid=APP, aud="https://graph.microsoft.com"),
        "@over": entra.token(appid=APP, exp=1),
        "@directory": entra.token(appid=APP, iss=f"https://sts.windows.net/{OTHER_APP}/"),
        "@account": entra.token(appid=OTHER_APP, sub="system:serviceaccount:ai:alice"),
        "@claims": entra.token(appid=OTHER_APP, app_id=APP, azpacr=APP, oid=APP, tenant="ai/alice"),
    }
    filled = {}
    for name, value in headers.items():
        for mark, secret in values.items():
            value = value.replace(mark, secret)  # noqa: PLW2901
        filled[name] = value
    seen = len(requests(azure))
    answer = await call(gateway, path, filled, body)
    reached = {record.region for record in requests(azure)[seen:]}
    assert reached <= {"shared"}, f"{answer.status_code}: {answer.text}"
    assert answer.status_code in {200, 400, 401, 403, 404, 405, 421}
    assert ("shared" in reached) == (answer.status_code == 200)
    secrets = {ALICE, *(region.key for region in azure.regions.values())}
    assert not [secret for secret in secrets if secret in answer.text or secret in str(answer.headers)]
    assert await counted_for(gateway, answer) <= {"", "ai/mallory"}
