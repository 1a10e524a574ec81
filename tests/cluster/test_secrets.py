"""Secrets on the cluster: read by name, rotated under load, and shown nowhere."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from openai import APIStatusError

from support.calls import ask, last
from support.cluster.client import path
from support.cluster.control_plane import ControlPlane
from support.cluster.house import House
from support.manifests import TENANT_KEY, secret, tenant_quota
from support.waiting import eventually

SECOND, THIRD = "second-key-of-the-team-01", "third-key-of-the-team-01"
NEW_EAST = "rotated-key-of-east-0123456789"
SECRETS = "v1/secrets"


@pytest.fixture
async def house(plane: ControlPlane, namespace: str) -> AsyncIterator[House]:
    """A house that reads Secrets every second, and logs all that there is to log."""
    operator = {"secretsInterval": "1s", "logLevel": "debug"}
    async with House(plane, namespace, values={"operator": operator}) as made:
        await made.release.start_operator()
        await made.release.start_gateway()
        await made.apply_pool()
        identities = [{"apiKey": {"secretRef": {"name": name}}} for name in ("team-key", "team-second")]
        await plane.apply(
            secret("team-second", SECOND, namespace=namespace),
            tenant_quota("team", "chat", namespace=namespace, identities=identities),
        )
        await made.pool_is("Ready")
        yield made


@asynccontextmanager
async def load(house: House, key: str) -> AsyncIterator[None]:
    """Ask without a pause, and without the SDK's retries, with a key; the first that fails fails the test."""
    stop = asyncio.Event()

    async def ask_on() -> int:
        answers = 0
        async with house.client(max_retries=0) as client:
            client.api_key = key
            while not stop.is_set():
                assert await ask(client)
                answers += 1
        return answers

    await accepted(house, key)
    task = asyncio.create_task(ask_on())
    try:
        yield
    finally:
        stop.set()
        assert await task


async def accepted(house: House, key: str, status: int = 200) -> None:
    """Wait until a key is taken, or is answered otherwise."""
    async with house.client(max_retries=0) as client:
        client.api_key = key

        async def answered() -> bool:
            try:
                await ask(client)
            except APIStatusError as error:
                return error.status_code == status
            return status == httpx.codes.OK

        await eventually(answered, what=f"the key is answered {status}")


async def test_keys_rotate_under_load(house: House) -> None:
    east = house.azure.regions["east"]
    old = east.key
    east.set_keys(old, NEW_EAST)
    async with load(house, TENANT_KEY):
        await house.plane.apply(secret("chat-east", NEW_EAST, namespace=house.namespace))

        async def used() -> bool:
            return any(record.key_index == 1 for record in east.log if record.operation)

        await eventually(used, what="the endpoint's new key is used")
        east.set_keys(NEW_EAST)
        before = east.served
        await eventually(lambda: east.served > before + 5)
    assert last(house.azure).status == 200
    # A worker of Envoy's may show the old key once more after it was revoked: that is refused, and retried elsewhere.
    assert {record.status for record in east.log} <= {200, 401}

    async with load(house, SECOND):
        await house.plane.apply(secret("team-key", THIRD, namespace=house.namespace))
        await accepted(house, THIRD)
        await accepted(house, TENANT_KEY, 401)


async def test_secrets_are_read_by_name_and_shown_nowhere(house: House) -> None:
    async with house.client() as client:
        assert await ask(client)
    await house.plane.apply(secret("team-key", "", namespace=house.namespace))
    await house.plane.kubectl("delete", "secret", "chat-west", "-n", house.namespace)
    await house.pool_is("ResolvedRefs", "False")
    values = [TENANT_KEY, SECOND, *(region.key for region in house.azure.regions.values())]
    for name in ("ca", "server", "gateway-default"):
        found = await house.plane.get(SECRETS, f"aoai-aoai-operator-{name}", namespace=house.namespace)
        assert found is not None
        values += base64.b64decode(found["data"]["tls.key"]).decode().split("\n")[1:3]
    signing = await house.plane.get(SECRETS, "aoai-aoai-operator-tables", namespace=house.namespace)
    assert signing is not None
    values += (text.rstrip("=") for text in signing["data"].values())
    texts = await everything_shown(house)
    for where, text in texts.items():
        shown = [v for v in values if v in text or base64.b64encode(v.encode()).decode().rstrip("=") in text]
        assert shown == [], f"in {where}"
    calls = house.plane.audit.since()
    mine = [c for c in calls if c.user == f"system:serviceaccount:{house.namespace}:aoai-aoai-operator"]
    assert {c.verb for c in mine if c.resource == "secrets"} == {"get", "create", "patch"}


async def everything_shown(house: House) -> dict[str, str]:
    """Return all that the operator and its Envoy tell anybody, by where."""
    (operator,), (gateway,) = house.release.operators.values(), house.release.gateways.values()
    texts = {"metrics": await operator.metrics(), "log": operator.part.log_file.read_text()}
    texts |= {"Envoy's log": gateway.part.log_file.read_text(), "config_dump": await gateway.admin("/config_dump")}
    for name in ("/config_dump?include_eds", "/clusters", "/stats", "/certs"):
        texts[name] = await gateway.admin(name)
    for resource in ("v1/configmaps", "events.k8s.io/v1/events", "aoai.dev/v1alpha1/aoaibackendpools"):
        texts[resource] = (await house.plane.request("GET", path(resource, namespace=house.namespace))).text
    assert re.search("EndpointUnhealthy|SecretNotFound", texts["events.k8s.io/v1/events"])
    assert '"gpt-4o"' in texts["config_dump"]
    return texts
