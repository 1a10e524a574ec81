"""Statuses and Events on the cluster: what people and tools read, stage by stage, and no write without a change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import pytest

from aoai_operator.simulator.faults import Status
from support.argocd import health
from support.calls import ask
from support.cluster.audit import Call
from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane
from support.cluster.house import POOLS, QUOTAS, House
from support.waiting import eventually

EVENTS = "events.k8s.io/v1/events"


async def kstatus(house: House) -> dict[str, str]:
    """Return what kstatus, as GitOps tools have it, says of each object of ours."""
    shown = await house.plane.kubectl("get", "aoai", "-n", house.namespace, "-o", "yaml")
    found = json.loads(await house.plane.run("kstatus", stdin=shown))
    return {a["kind"]: a["status"] for a in found}


async def argo(house: House) -> set[str]:
    """Return what Argo CD, by the script of examples/argocd, says of our objects as the API server has them."""
    found = [await house.plane.get(kind, namespace=house.namespace) for kind in (POOLS, QUOTAS)]
    return {health(item)[0] for items in found if items is not None for item in items["items"]}


def conditions(item: Json) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in item["status"]["conditions"]}


async def becomes(house: House, name: str = "chat", **wanted: tuple[str, str]) -> Json:
    """Wait until a pool's conditions are these, all of the present generation."""

    def so(pool: Json) -> bool:
        status = pool.get("status", {})
        fresh = status.get("observedGeneration") == pool["metadata"]["generation"]
        return fresh and wanted.items() <= conditions(pool).items()

    return await house.plane.wait_for(so, POOLS, name, namespace=house.namespace)


async def events(house: House) -> Counter[str]:
    found = await house.plane.get(EVENTS, namespace=house.namespace)
    assert found is not None
    return Counter(e["reason"] for e in found["items"] if e["regarding"].get("name") == "chat")


async def test_from_fresh_to_ready_to_stalled(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace) as house:
        await house.apply_pool()
        assert set((await kstatus(house)).values()) == {"InProgress"}
        assert await argo(house) == {"Progressing"}
        await house.release.start_operator()
        pool = await becomes(house, Programmed=("Unknown", "NoProxies"), Ready=("Unknown", "NoProxies"))
        assert pool["status"]["proxies"] == {"connected": 0, "programmed": 0}
        assert (await kstatus(house))["AOAIBackendPool"] == "InProgress"
        assert health(pool) == ("Progressing", "No Envoy of the gateway default is connected.")
        for name in ("operator-1", "operator-2"):
            await house.release.start_operator(name)
        for name in ("gateway-0", "gateway-1"):
            await house.release.start_gateway(name)
        both = {"connected": 2, "programmed": 2}
        await plane.wait_for(lambda p: p["status"]["proxies"] == both, POOLS, "chat", namespace=namespace)
        await becomes(house, Ready=("True", "Ready"), Healthy=("True", "Healthy"))
        assert set((await kstatus(house)).values()) == {"Current"}
        assert await argo(house) == {"Healthy"}

        house.azure.fault("west", Status(status=500))
        async with house.client() as client:

            async def sick() -> bool:
                assert await ask(client)
                return conditions(await house.pool())["Healthy"] == ("False", "Degraded")

            await eventually(sick, within=60)
        pool = await house.pool()
        assert conditions(pool)["Ready"] == ("True", "Ready")
        assert health(pool)[0] == "Healthy"
        assert pool["status"]["healthyEndpoints"] == "1/2"
        states = {e["name"]: (e["state"], e["reason"]) for e in pool["status"]["endpoints"]}
        assert states["east"][0] == "Healthy"
        assert states["west"][0] == "Unhealthy"
        house.azure.heal("west")
        await becomes(house, Healthy=("True", "Healthy"))

        await house.apply_pool(spec={"suspend": True})
        pool = await becomes(house, Programmed=("True", "Suspended"), Ready=("True", "Ready"))
        assert health(pool) == ("Suspended", "Suspended by spec.suspend.")
        await house.apply_pool()
        await becomes(house, Programmed=("True", "Programmed"))
        model = {"gpt-4o": (), "gpt-9": ()}
        await house.apply_pool(models=model)
        pool = await becomes(house, Accepted=("False", "NoDeployment"), Stalled=("True", "NoDeployment"))
        status, why = health(pool)
        assert status == "Degraded"
        assert "gpt-9" in why
        assert (await kstatus(house))["AOAIBackendPool"] == "Failed"
        await house.apply_pool()
        await becomes(house, Ready=("True", "Ready"))
        assert set((await kstatus(house)).values()) == {"Current"}
        told = await events(house)
        assert told["NoDeployment"] == told["EndpointRecovered"] == 1
        assert told["EndpointUnhealthy"] == 1
        requested = {"metadata": {"annotations": {"reconcile.aoai.dev/requestedAt": "now"}}}
        await plane.kubectl(
            *("patch", "abp", "chat", "-n", namespace, "--type=merge", "-p", json.dumps(requested)),
        )
        await plane.wait_for(
            lambda p: p["status"]["lastHandledReconcileAt"] == "now", POOLS, "chat", namespace=namespace
        )


def lists(calls: Iterable[Call]) -> int:
    return sum(c.verb == "list" and c.resource == "aoaibackendpools" for c in calls)


def times(house: House, event: str) -> Counter[str]:
    """Return how often the replicas said that something happened, by the proxy that it happened to, if any."""
    lines = [line for operator in house.release.operators.values() for line in operator.logs()]
    return Counter(line.get("proxy", "") for line in lines if line["event"] == event)


async def test_envoys_and_replicas_whose_connections_end_for_their_age_come_back_unwritten(
    plane: ControlPlane, namespace: str
) -> None:
    async with House(plane, namespace, values={"operator": {"connectionAge": "2s"}}) as house:
        for number in range(2):
            await house.release.start_operator(f"operator-{number}")
        for number in range(2):
            await house.release.start_gateway(f"gateway-{number}")
        await house.apply_pool()
        both = {"connected": 2, "programmed": 2}
        await plane.wait_for(lambda p: p.get("status", {}).get("proxies") == both, POOLS, "chat", namespace=namespace)
        await house.pool_is("Ready")
        await plane.kubectl("wait", "tq/team", "-n", namespace, "--for=condition=Ready", "--timeout=30s")
        mark, before = plane.audit.mark(), times(house, "an Envoy disconnected")
        links = times(house, "a replica follows no more")

        def aged() -> bool:
            gone = times(house, "an Envoy disconnected") - before
            return all(gone[name] >= 4 for name in house.release.gateways) and (
                (times(house, "a replica follows no more") - links).total() >= 4
            )

        await eventually(aged, within=60, what="connections ended for their age")
        calls = plane.audit.since(mark, user=f"system:serviceaccount:{namespace}:aoai-aoai-operator")
        writes = Counter((c.verb, c.resource) for c in calls if c.verb not in {"get", "list", "watch"})
        assert set(writes) == {("update", "leases")}, writes


@pytest.mark.parametrize("replicas", [2])
async def test_an_idle_time_writes_nothing_but_the_lease(plane: ControlPlane, namespace: str, replicas: int) -> None:
    async with House(plane, namespace, values={"operator": {"resync": "1s", "secretsInterval": "1s"}}) as house:
        for i in range(replicas):
            await house.release.start_operator(f"operator-{i}")
        await house.release.start_gateway()
        await house.apply_pool()
        await house.pool_is("Ready")
        await house.plane.kubectl("wait", "tq/team", "-n", namespace, "--for=condition=Ready", "--timeout=30s")
        async with house.client() as client:
            assert await ask(client)
        user = f"system:serviceaccount:{namespace}:aoai-aoai-operator"
        # What is announced with the first pass may still be on its way: two resyncs for that.
        settled = plane.audit.mark()
        await eventually(lambda: lists(plane.audit.since(settled, user=user)) >= 2)
        mark = plane.audit.mark()
        await eventually(lambda: lists(plane.audit.since(mark, user=user)) >= 5, within=60)
        calls = plane.audit.since(mark, user=user)
        writes = {(c.verb, c.resource) for c in calls if c.verb not in {"get", "list", "watch"}}
        assert writes == {("update", "leases")}
        assert {c.code for c in calls} <= {200}


async def test_what_was_promised_and_cannot_be_kept_is_a_condition(plane: ControlPlane, namespace: str) -> None:
    async with House(plane, namespace) as house:
        await house.release.start_operator()
        await house.apply_pool()
        assert "Guaranteed" not in conditions(await house.pool_is("Accepted"))
        promised = {"team": {"guaranteed": {"tokensPerMinute": 50_000}}}
        for capacity, told in ((30_000, ("True", "Guaranteed")), (10_000, ("False", "Overcommitted"))):
            deployment = {"model": "gpt-4o", "name": "gpt-4o", "capacity": {"tokensPerMinute": capacity}}
            endpoints = {region: {"deployments": [deployment]} for region in house.azure.regions}
            await house.apply_pool(endpoints=endpoints, quotas=promised)
            await becomes(house, Guaranteed=told)
        await house.apply_pool(quotas=promised)
        await becomes(house, Guaranteed=("Unknown", "CapacityUnknown"))
