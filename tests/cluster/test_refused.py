"""A pool whose Envoys refuse what they are sent: it serves as before, says so everywhere, and harms no other pool."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncAzureOpenAI
from prometheus_client.parser import text_string_to_metric_families

from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane
from support.cluster.house import POOLS, House
from support.cluster.pods import GatewayPod
from support.load import load
from support.waiting import eventually

SABOTAGE = Path(__file__).parents[1] / "support" / "cluster" / "sabotage"
POISON = {"limits": {"maxConcurrentRequests": 666}}
"""The operators of this file make a pool with it into something that Envoy refuses."""
BOTH = {"connected": 2, "programmed": 2}
KEYS = {name: f"key-of-{name}-0123456789" for name in ("chat", "good")}
WORDS = "Expected positive duration"
"""Envoy's."""


@pytest.fixture
async def house(plane: ControlPlane, namespace: str) -> AsyncIterator[House]:
    """Two replicas with an Envoy each, and two pools, chat and good."""
    async with House(plane, namespace) as made:
        for number in range(2):
            await made.release.start_operator(f"operator-{number}", PYTHONPATH=str(SABOTAGE))
        for number in range(2):
            await made.release.start_gateway(f"gateway-{number}")
        for name in KEYS:
            await made.apply_pool(name, tenants=tenant(name))
        for name in KEYS:
            await made.pool_is("Ready", name=name)
            await made.plane.wait_for(
                lambda pool: pool["status"]["proxies"] == BOTH, POOLS, name, namespace=made.namespace
            )
        yield made


def conditions(pool: Json) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in pool["status"]["conditions"]}


async def nacks(house: House) -> dict[str, float]:
    """Return how many resources each Envoy refused, as the replicas' metrics have it."""
    found: dict[str, float] = {}
    for pod in house.release.operators.values():
        for family in text_string_to_metric_families(await pod.metrics()):
            for sample in family.samples:
                if sample.name == "aoai_xds_answers_total" and sample.labels["answer"] == "nack":
                    proxy = sample.labels["proxy"]
                    found[proxy] = found.get(proxy, 0) + sample.value
    return found


async def told(house: House, reason: str) -> bool:
    """Tell whether there is an Event of chat with this reason."""
    found = await house.plane.get("events.k8s.io/v1/events", namespace=house.namespace)
    assert found is not None
    return any(e["regarding"].get("name") == "chat" and e["reason"] == reason for e in found["items"])


async def poison(house: House) -> Json:
    """Have chat refused; return it as it is then."""
    await house.apply_pool(spec=POISON, tenants=tenant("chat"))
    return await house.pool_is("Programmed", "False")


def tenant(pool: str) -> dict[str, str]:
    return {pool: KEYS[pool]}


def client(house: House, name: str, **options: Any) -> AsyncAzureOpenAI:
    return house.client(name, **options).copy(api_key=KEYS[name])


async def test_what_envoys_refuse_is_told_and_the_last_good_serves(house: House) -> None:
    before = await house.pool("good")
    async with load(client(house, "good", max_retries=0)), load(client(house, "chat", max_retries=0)) as under:
        await poison(house)
        pool = await house.plane.wait_for(
            lambda p: conditions(p)["Programmed"] == ("False", "Refused"), POOLS, "chat", namespace=house.namespace
        )
        said = {c["type"]: c for c in pool["status"]["conditions"]}
        assert WORDS in said["Programmed"]["message"]
        assert conditions(pool)["Stalled"] == ("True", "Refused")
        assert conditions(pool)["Ready"] == ("False", "Refused")
        assert conditions(pool)["Accepted"][0] == conditions(pool)["ResolvedRefs"][0] == "True"
        assert pool["status"]["proxies"] == {"connected": 2, "programmed": 0}
        shown = await house.plane.kubectl("get", "abp", "-n", house.namespace, "-o", "yaml")
        verdicts = {a["name"]: a["status"] for a in json.loads(await house.plane.run("kstatus", stdin=shown))}
        assert verdicts == {"chat": "Failed", "good": "Current"}
        await eventually(lambda: told(house, "Refused"), what="an Event tells of it")
        assert any((await nacks(house)).values())
        logged = [line for pod in house.release.operators.values() for line in pod.logs()]
        assert any(line["event"] == "a pool is refused, its last good state keeps serving" for line in logged)

        # The good one is untouched, and still takes changes.
        assert (await house.pool("good"))["status"] == before["status"]
        await house.apply_pool("good", tenants=tenant("good"), spec={"failover": {"perTryTimeout": "7s"}})
        taken = await house.pool_is("Ready", name="good")
        assert taken["status"]["proxies"] == BOTH
        await under.goes_on(100)

    # An Envoy that comes anew gets the last good state, too. (When one is killed, what it carried is asked again.)
    async with load(client(house, "good")), load(client(house, "chat")) as under:
        gateway = house.release.gateways["gateway-1"]
        await gateway.part.kill()
        await gateway.part.start()
        await eventually(lambda: has(gateway, f"{house.namespace}/chat"), what="the new Envoy has the refused pool")
        await under.goes_on(100)

        # Mended, it is as any other.
        await house.apply_pool(tenants=tenant("chat"))
        mended = await house.pool_is("Ready")
        assert "Stalled" not in conditions(mended)
        await house.plane.wait_for(lambda p: p["status"]["proxies"] == BOTH, POOLS, "chat", namespace=house.namespace)


async def has(gateway: GatewayPod, pool: str) -> bool:
    return f"{pool}/gpt-4o::" in await gateway.admin("/clusters")


async def test_what_is_refused_keeps_serving_when_the_operator_comes_anew(house: House) -> None:
    async with load(client(house, "chat", max_retries=0)) as under:
        await poison(house)
        for pod in house.release.operators.values():
            await pod.part.kill()
        for pod in house.release.operators.values():
            await pod.part.start()

        async def refused_again() -> bool:
            return any((await nacks(house)).values())

        await eventually(refused_again, within=60, what="an Envoy refuses it again")
        # The Envoys have come, and have settled with all but that.
        await house.apply_pool("good", tenants=tenant("good"), spec={"failover": {"perTryTimeout": "7s"}})
        await house.plane.wait_for(
            lambda p: (
                p["status"]["observedGeneration"] == p["metadata"]["generation"] and p["status"]["proxies"] == BOTH
            ),
            *(POOLS, "good"),
            namespace=house.namespace,
        )
        assert conditions(await house.pool())["Programmed"] == ("False", "Refused")
        await under.goes_on(100)
        for gateway in house.release.gateways.values():
            assert await has(gateway, f"{house.namespace}/chat")
        await house.apply_pool(tenants=tenant("chat"))
        await house.pool_is("Ready")
