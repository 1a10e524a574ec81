"""The gateways of a replica: an audience of sidecars opens, closes after its last proxy, and opens anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from aoai_operator.cluster.gateways import Gateways
from aoai_operator.control_plane import ControlPlane
from aoai_operator.core.audience import Audience, Placement
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Snapshot
from aoai_operator.core.names import PoolKey
from aoai_operator.core.observed import Overrides
from aoai_operator.core.table import RoutingTable
from support.kube import running
from support.tables import endpoint, routing_table
from support.waiting import eventually

SIDECARS = Audience("default", Placement.SIDECAR, "shop")
OTHERS, THIRD = (Audience("default", Placement.SIDECAR, namespace) for namespace in ("office", "ledger"))
FIRST, SECOND = PoolKey("ai", "first"), PoolKey("ai", "second")


def tables(*pools: PoolKey) -> dict[PoolKey, RoutingTable]:
    """Return tables that sidecars of any namespace may carry."""
    open_to_all = {"sidecars": True, "namespaces": ("*",)}
    return {key: routing_table(endpoint("east"), pool=key).model_copy(update=open_to_all) for key in pools}


@dataclass
class Served:
    """What the xDS server has for one audience."""

    connected: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)

    def prepare(self, _snapshot: Snapshot) -> None:
        """Nothing is sent here."""

    def publish(self, snapshot: Snapshot) -> None:
        """Keep it."""
        self.snapshots.append(snapshot)

    def has(self, *pools: PoolKey) -> bool:
        """Tell whether these pools, and no others, are served now."""
        if not self.snapshots:
            return False
        owners = {r.owner for named in self.snapshots[-1].resources.values() for r in named.values()}
        return owners - {None} == {str(pool) for pool in pools}


class Plane:
    """Plays the xDS server."""

    def __init__(self) -> None:
        self.served: dict[str, Served] = {}
        self.removed: list[str] = []

    def add(self, name: str, *, refused: Callable[..., None], settled: Callable[[str], None]) -> Served:
        """Add an audience, which must not be there."""
        assert name not in self.served
        assert refused != settled
        return self.served.setdefault(name, Served())

    def remove(self, name: str) -> None:
        """Forget one of which nobody is connected."""
        assert not self.served.pop(name).connected
        self.removed.append(name)


class Nothing:
    """Nothing was observed."""

    def overrides(self, now: int) -> Overrides:  # noqa: ARG002 - the port's
        """Return nothing."""
        return Overrides()

    def next_change(self, now: int) -> int | None:  # noqa: ARG002 - the port's
        """There is none."""
        return None


def gateways(plane: Plane) -> Gateways:
    return Gateways(
        plane=cast(ControlPlane, plane),
        observing=Nothing(),
        settings=lambda audience: GatewaySettings(audience.gateway, "127.0.0.1", 1, access_log=None),
        moved=lambda: None,
        now=lambda: 0,
        interval=0.001,
    )


async def test_the_life_of_an_audience_of_sidecars() -> None:
    plane = Plane()
    driven = gateways(plane)
    async with running(driven.run()):
        driven.open(SIDECARS)
        assert not plane.served, "there is nothing for it yet"
        driven.want(tables(FIRST), {})
        first = plane.served[str(SIDECARS)]
        await eventually(lambda: first.has(FIRST))

        first.connected = 1
        driven.open(OTHERS)
        assert plane.removed == [], "one of its proxies is connected"
        await eventually(lambda: plane.served[str(OTHERS)].has(FIRST))

        first.connected = 0
        plane.served[str(OTHERS)].connected = 1
        tasks = len(asyncio.all_tasks())
        driven.open(THIRD)
        assert plane.removed == [str(SIDECARS)], "nobody is connected of it, and somebody of the other one"
        await eventually(lambda: len(asyncio.all_tasks()) == tasks, what="its publisher ends as another one begins")
        driven.want(tables(FIRST, SECOND), {})
        await eventually(lambda: plane.served[str(OTHERS)].has(FIRST, SECOND))
        assert first.has(FIRST), "what is closed is told nothing more"

        driven.open(SIDECARS)
        again = plane.served[str(SIDECARS)]
        await eventually(lambda: again.has(FIRST, SECOND), what="what is there is served, without another word")
        driven.want(tables(SECOND), {})
        await eventually(lambda: again.has(SECOND), what="it takes what changes")
