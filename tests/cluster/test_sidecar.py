"""An Envoy in an application's own pod: injected, known by its service account, and given what it may have."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openai import AsyncAzureOpenAI

from support.calls import ask
from support.cluster import commands
from support.cluster.client import Json, path
from support.cluster.control_plane import ControlPlane
from support.cluster.house import House
from support.cluster.pods import GatewayPod, OperatorPod
from support.load import load
from support.manifests import TENANT_KEY
from support.waiting import eventually

MAPS = "v1/configmaps"
PROGRAM = Path(sys.executable).with_name("aoai-operator")
APP = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      containers:
      - {name: app, image: example.com/app:1}
"""


@pytest.fixture
async def open_house(plane: ControlPlane, namespace: str) -> AsyncIterator[House]:
    """An operator that serves sidecars, and everything in one namespace."""
    async with House(plane, namespace, values={"sidecars": {"allowed": True}}) as made:
        await made.release.start_operator()
        yield made


async def inject(house: House) -> None:
    release = house.release
    injected = await commands.run(
        PROGRAM,
        *("inject", "--operator-namespace", release.namespace, "--name", f"{release.name}-aoai-operator"),
        *("--pool", f"{house.namespace}/chat"),
        environment={},
        stdin=APP,
    )
    await house.plane.apply(injected, namespace=house.namespace)


async def test_an_injected_envoy_carries_the_pools_that_allow_it(open_house: House) -> None:
    house = open_house
    await house.apply_pool(spec={"gateway": {"sidecars": "Allowed"}})
    await house.apply_pool("secluded", tenants={})
    await inject(house)
    sidecar = await house.release.start_sidecar(house.namespace, "app")
    pool = await house.pool_is("Ready")
    assert pool["status"]["proxies"] == {"connected": 1, "programmed": 1}
    url = f"http://127.0.0.1:{house.release.sidecar_port}/{house.namespace}/chat"
    async with AsyncAzureOpenAI(azure_endpoint=url, api_key=TENANT_KEY, api_version="2024-10-21") as client:
        assert await ask(client)
    assert "secluded" not in await sidecar.admin("/config_dump")
    assert (await house.pool("secluded"))["status"]["proxies"]["connected"] == 0

    await house.apply_pool(spec={"gateway": {"sidecars": "Forbidden"}})

    async def forgotten() -> bool:
        return f"{house.namespace}/chat/gpt-4o" not in await sidecar.admin("/clusters")

    await eventually(forgotten)


async def test_a_new_authority_and_a_new_token_are_taken_live(open_house: House) -> None:
    """A spoiled token lets it in no more, and the authority is another one: it comes back by what was renewed."""
    house, release = open_house, open_house.release
    allowed = {"gateway": {"sidecars": "Allowed"}}
    await house.apply_pool(spec=allowed)
    await inject(house)
    sidecar = await release.start_sidecar(house.namespace, "app")
    await house.pool_is("Ready")
    url = f"http://127.0.0.1:{release.sidecar_port}/{house.namespace}/chat"
    client = AsyncAzureOpenAI(azure_endpoint=url, api_key=TENANT_KEY, api_version="2024-10-21", max_retries=0)
    trust = f"{release.name}-aoai-operator-trust"
    known = await house.plane.wait_for(bool, MAPS, trust, namespace=house.namespace)

    def renewed(found: Json) -> bool:
        return bool(found["data"] != known["data"])

    async with load(client) as under:
        release.remount(sidecar, {"token": b"spoiled"})
        authority = path("v1/secrets", f"{release.name}-aoai-operator-ca", namespace=house.namespace)
        (await house.plane.request("DELETE", authority)).raise_for_status()
        found = await house.plane.wait_for(renewed, MAPS, trust, namespace=house.namespace, within=60)
        release.remount(sidecar, {"ca.crt": found["data"]["ca.crt"].encode()})
        operator = release.operators["operator-0"]
        await operator.part.kill()
        await operator.part.start()
        await eventually(lambda: refused(operator), within=60, what="its token is refused")
        await under.goes_on()
        account = await house.plane.service_account(house.namespace, "default", audience="aoai.dev")
        release.remount(sidecar, {"token": account.token.encode()})
        await house.apply_pool(spec={**allowed, "failover": {"perTryTimeout": "7s"}})
        await house.pool_is("Ready")
        await eventually(lambda: changed(sidecar), within=60, what="a change is in the sidecar")
        await under.goes_on()
    assert sidecar.part.starts == 1


def refused(pod: OperatorPod) -> bool:
    why = "the token is not valid, or was not made for this audience"
    return any(line["event"] == "refused" and line["why"] == why for line in pod.logs())


async def changed(sidecar: GatewayPod) -> bool:
    return '"per_try_timeout": "7s"' in await sidecar.admin("/config_dump")
