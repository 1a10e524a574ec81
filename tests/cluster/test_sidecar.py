"""An Envoy in an application's own pod: injected, known by its service account, and given what it may have."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openai import AsyncAzureOpenAI

from support.calls import ask
from support.cluster import commands
from support.cluster.control_plane import ControlPlane
from support.cluster.house import House
from support.manifests import TENANT_KEY
from support.waiting import eventually

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
