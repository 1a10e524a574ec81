"""A house with two replicas and two Envoys, and what must be true of it again after whatever was done to it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from urllib.parse import urlsplit

from support.cluster.client import Json
from support.cluster.house import House
from support.cluster.pods import OperatorPod
from support.waiting import eventually

TAKEOVER = 20.0
"""Seconds within which another replica leads."""
AT_ONCE = 6.0
"""The same when the Lease was given back: less than the time for which a silent holder is believed."""
_timeouts = itertools.cycle(("8s", "9s"))


async def start_fleet(house: House, *, first: Mapping[str, str] | None = None) -> None:
    """Start two replicas, the first with an environment of its own, and two Envoys, and have a pool served."""
    await house.release.start_operator("operator-0", **(first or {}))
    await house.release.start_operator("operator-1")
    for number in range(2):
        await house.release.start_gateway(f"gateway-{number}")
    await house.apply_pool()
    await whole(house)


async def lease(house: House) -> Json:
    """Read the Lease."""
    name = f"{house.release.name}-aoai-operator"
    found = await house.plane.get("coordination.k8s.io/v1/leases", name, namespace=house.namespace)
    assert found is not None
    return found


async def holder(house: House) -> str:
    """Return the pod that holds the Lease; empty: none."""
    return str((await lease(house))["spec"].get("holderIdentity") or "").partition("_")[0]


async def leader(house: House) -> OperatorPod:
    """Return the replica that holds the Lease, as soon as there is one that runs."""

    async def held() -> OperatorPod | None:
        pod = house.release.operators.get(await holder(house))
        return pod if pod is not None and pod.part.running else None

    found = await eventually(held, within=2 * TAKEOVER, what="a replica leads")
    assert found is not None
    return found


def other(house: House, pod: OperatorPod) -> OperatorPod:
    """Return the other replica."""
    (found,) = (p for p in house.release.operators.values() if p is not pod)
    return found


async def takes_over(house: House, pod: OperatorPod, *, within: float = TAKEOVER) -> None:
    """Return as soon as a replica holds the Lease, and has written."""

    async def held() -> bool:
        return await holder(house) == pod.name

    await eventually(held, within=within, what=f"{pod.name} holds the Lease")
    await change(house, proxies=None)


async def leaders(house: House) -> list[str]:
    """Return the replicas that say that they lead."""
    pods = [pod for pod in house.release.operators.values() if pod.part.running]
    return [pod.name for pod in pods if "\naoai_leader 1.0" in await pod.metrics()]


async def change(house: House, *, proxies: int | None = 2) -> None:
    """Change the pool; return when it is in its status and its table, and in so many Envoys if the number is given."""
    before = (await house.pool()).get("status", {}).get("routingTable", {}).get("revision")
    await house.apply_pool(spec={"failover": {"perTryTimeout": next(_timeouts)}})

    async def done() -> bool:
        pool = await house.pool()
        status = pool.get("status", {})
        conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
        fresh = status.get("observedGeneration") == pool["metadata"]["generation"]
        written = status.get("routingTable", {}).get("revision") not in (None, before)
        counted = proxies is None or status["proxies"] == {"connected": proxies, "programmed": proxies}
        return fresh and written and counted and (proxies is None or conditions.get("Ready") == "True")

    try:
        await eventually(done, within=60, what="the change is told in the status, and is in the Envoys")
    except AssertionError as error:
        error.add_note(str((await house.pool()).get("status")))
        raise


async def whole(house: House) -> None:
    """Start what does not run; return when everything converged: one leader, two Envoys, a change in both of them."""
    for pod in (*house.release.operators.values(), *house.release.gateways.values()):
        if not pod.part.running:
            await pod.part.start()
    await eventually(lambda: _all_ready(house), within=60, what="all replicas are ready")
    await converged(house)


async def converged(house: House) -> None:
    """Return when a change is in all Envoys; there must be exactly one leader then, the holder of the Lease."""
    await change(house)
    pool = await house.pool()
    assert {e["name"] for e in pool["status"]["endpoints"]} == {"east", "west"}
    assert await leaders(house) == [await holder(house)]


async def _all_ready(house: House) -> bool:
    return all([await pod.ready() for pod in house.release.operators.values()])


async def left_alone(house: House, region: str) -> bool:
    """Tell whether no Envoy takes a region for healthy."""
    return not any(_health(house, text, region) for text in await _clusters(house))


async def taken(house: House, *regions: str) -> bool:
    """Tell whether every Envoy takes these regions for healthy."""
    return all(_health(house, text, region) for text in await _clusters(house) for region in regions)


async def _clusters(house: House) -> list[str]:
    return [await pod.admin("/clusters") for pod in house.release.gateways.values()]


def _health(house: House, text: str, region: str) -> bool:
    return f":{urlsplit(house.azure.regions[region].url).port}::health_flags::healthy" in text
