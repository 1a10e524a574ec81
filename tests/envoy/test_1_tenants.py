"""Line 1: tenants by API key, in `api-key` or as a bearer token; anonymous callers only where a pool wants them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from aoai_operator.simulator import Deployment, Region, Simulator
from support.calls import HELLO, ask, last
from support.dataplane import DataPlane
from support.manifests import TENANT_KEY, pool_manifest
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER_KEY = "other-key-0123456789"
OPEN_KEY = "open-key-0123456789"
NO_KEY = {"Authorization": openai.Omit()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def azure() -> AsyncIterator[Simulator]:
    """One region with one model."""
    async with Simulator([Region(name="eastus", deployments=[Deployment(name="gpt-4o", model="gpt-4o")])]) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(azure: Simulator) -> AsyncIterator[DataPlane]:
    """A pool of the tenant "team", one of the tenant "other", and one for everybody with the tenant "guest"."""
    pools = [
        pool_manifest(azure),
        pool_manifest(azure, name="other", tenants={"other": OTHER_KEY}),
        pool_manifest(azure, name="open", tenants={"guest": OPEN_KEY}, spec={"auth": {"required": False}}),
    ]
    async with DataPlane("---\n".join(pools)) as running:
        yield running


async def tenant_of(gateway: DataPlane, request_id: str) -> str:
    """Return whom the access log names for a request."""
    entry = await eventually(lambda: next((a for a in gateway.answers_log if a.request_id == request_id), None))
    assert entry is not None
    return entry.tenant


async def test_a_key_in_api_key(gateway: DataPlane) -> None:
    async with gateway.azure_client() as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert answer.choices[0].message.content
    assert await tenant_of(gateway, answer._request_id or "") == "ai/team"


async def test_a_key_as_bearer_token(gateway: DataPlane) -> None:
    async with gateway.client() as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert answer.choices[0].message.content
    assert await tenant_of(gateway, answer._request_id or "") == "ai/team"


async def test_a_wrong_key_is_an_authentication_error(gateway: DataPlane, azure: Simulator) -> None:
    before = azure.regions["eastus"].attempts
    for client in (gateway.client(key="wrong"), gateway.azure_client(key="wrong")):
        async with client:
            with pytest.raises(openai.AuthenticationError) as error:
                await ask(client)
            assert error.value.code == "invalid_api_key"
    assert azure.regions["eastus"].attempts == before


async def test_no_key_is_an_authentication_error(gateway: DataPlane) -> None:
    async with gateway.client() as client:
        with pytest.raises(openai.AuthenticationError) as error:
            await ask(client, extra_headers=NO_KEY)
    assert error.value.code == "invalid_api_key"


@pytest.mark.parametrize("header", [{"authorization": "Basic dGVhbTprZXk="}, {"api-key": ""}, {"authorization": ""}])
async def test_another_kind_of_credential_is_refused(gateway: DataPlane, header: dict[str, str]) -> None:
    async with gateway.http() as client:
        client.headers = {**header}
        answer = await client.post("/ai/chat/openai/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_a_tenant_of_another_pool_is_denied(gateway: DataPlane) -> None:
    async with gateway.client(key=OTHER_KEY) as client:
        with pytest.raises(openai.AuthenticationError) as error:
            await ask(client)
    assert error.value.code == "invalid_api_key"
    async with gateway.client(pool="ai/other", key=OTHER_KEY) as client:
        assert await ask(client)


async def test_a_client_cannot_say_which_tenant_it_is(gateway: DataPlane, azure: Simulator) -> None:
    async with gateway.client(default_headers={"x-aoai-tenant": "ai/other", "X-AOAI-Model": "x"}) as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert await tenant_of(gateway, answer._request_id or "") == "ai/team"
    async with gateway.client() as client:
        with pytest.raises(openai.AuthenticationError):
            await ask(client, extra_headers={"x-aoai-tenant": "ai/team", **NO_KEY})
    async with gateway.client(key=OTHER_KEY, default_headers={"x-aoai-tenant": "ai/team"}) as client:
        with pytest.raises(openai.AuthenticationError):
            await ask(client)


async def test_no_credential_of_the_client_and_no_header_of_ours_reaches_azure(
    gateway: DataPlane, azure: Simulator
) -> None:
    ours = ("x-aoai-tenant", "x-aoai-model", "x-aoai-deployment", "x-aoai-answered", "x-aoai-anything")
    sent = {"api-key": TENANT_KEY, "Authorization": f"Bearer {OTHER_KEY}", **dict.fromkeys(ours, "x")}
    async with gateway.client(default_headers=sent) as client:
        assert await ask(client)
    seen = last(azure)
    assert seen.auth == "api-key"
    assert seen.key_index == 0
    assert "authorization" not in seen.header_names
    assert seen.header_names.count("api-key") == 1
    assert not [name for name in seen.header_names if name.startswith("x-aoai")]
    assert not [value for _, value in seen.headers if TENANT_KEY in value or OTHER_KEY in value]


async def test_an_open_pool_takes_callers_without_a_key(gateway: DataPlane) -> None:
    async with gateway.client(pool="ai/open") as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO, extra_headers=NO_KEY)
    assert await tenant_of(gateway, answer._request_id or "") == ""


async def test_an_open_pool_takes_the_published_key(gateway: DataPlane) -> None:
    for client in (
        gateway.client(pool="ai/open", key="anonymous"),
        gateway.azure_client(pool="ai/open", key="anonymous"),
    ):
        async with client:
            answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert await tenant_of(gateway, answer._request_id or "") == ""


async def test_an_open_pool_refuses_a_wrong_key(gateway: DataPlane) -> None:
    async with gateway.client(pool="ai/open", key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await ask(client)


async def test_an_open_pool_knows_its_tenants(gateway: DataPlane) -> None:
    async with gateway.client(pool="ai/open", key=OPEN_KEY) as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert await tenant_of(gateway, answer._request_id or "") == "ai/guest"


async def test_the_published_key_opens_no_other_pool(gateway: DataPlane) -> None:
    async with gateway.client(key="anonymous") as client:
        with pytest.raises(openai.AuthenticationError):
            await ask(client)
