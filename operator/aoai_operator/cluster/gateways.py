"""The gateways that this replica drives: one publisher for each audience of proxies, made when its first one comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from aoai_operator.control_plane import ControlPlane, Gateway
from aoai_operator.core.audience import Audience, Placement
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Owners
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.core.world import Programming
from aoai_operator.runners.publish import Observing, Publisher

_log = structlog.get_logger("gateways")

_MOST_ASKED = 1_000


@dataclass(frozen=True)
class _Driven:
    publisher: Publisher
    gateway: Gateway
    task: asyncio.Task[None] | None


class Gateways:
    """Hands each audience the tables that it may see, and knows how far its Envoys are with them."""

    def __init__(
        self,
        *,
        plane: ControlPlane,
        observing: Observing,
        settings: Callable[[Audience], GatewaySettings],
        moved: Callable[[], None],
        now: Callable[[], int],
        interval: float,
    ) -> None:
        """Take the parts.

        Args:
            plane: serves the Envoys.
            observing: what was observed of the hosts.
            settings: gives the settings of an audience's Envoys.
            moved: hears that what `programming` says may have changed.
            now: gives milliseconds of the Unix epoch.
            interval: the shortest time between two publications to an audience, in seconds.
        """
        self._plane = plane
        self._observing = observing
        self._settings = settings
        self._moved = moved
        self._now = now
        self._interval = interval
        self._driven: dict[Audience, _Driven] = {}
        self._asked: dict[Audience, None] = {}
        self._tables: Mapping[PoolKey, RoutingTable] = {}
        self._secrets: Mapping[SecretRef, SecretValue] = {}
        self._unknown: Owners = frozenset()
        self._known = False
        self._tasks: asyncio.TaskGroup | None = None

    def open(self, audience: Audience) -> None:
        """Drive an audience from now on, or for sidecars, from the moment on at which there is something for them.

        Any service account may ask for any name of a gateway: names that say nothing here cost next to nothing.
        """
        if audience in self._driven:
            return
        if audience.placement is Placement.SIDECAR and not self._seen_by(audience):
            self._asked[audience] = None
            if len(self._asked) > _MOST_ASKED:
                del self._asked[next(iter(self._asked))]
            return
        self._asked.pop(audience, None)
        self._close_unused()
        gateway: Gateway
        publisher = Publisher(
            settings=self._settings(audience),
            observing=self._observing,
            publish=lambda snapshot: gateway.publish(snapshot),  # noqa: PLW0108 - they need each other
            now=self._now,
            interval=self._interval,
            prepare=lambda snapshot: gateway.prepare(snapshot),  # noqa: PLW0108
            moved=self._moved,
        )
        gateway = self._plane.add(str(audience), refused=publisher.refused, settled=publisher.settled)
        task = self._tasks.create_task(publisher.run()) if self._tasks is not None else None
        self._driven[audience] = _Driven(publisher, gateway, task)
        if self._known:
            publisher.want(self._seen_by(audience), self._secrets, self._unknown)
        _log.info("driving a gateway", audience=str(audience))

    def want(
        self,
        tables: Mapping[PoolKey, RoutingTable],
        secrets: Mapping[SecretRef, SecretValue],
        unknown: Owners = frozenset(),
    ) -> None:
        """Take the tables and secrets that are in force now; of `unknown` owners Envoys keep what they have."""
        self._tables, self._secrets, self._unknown, self._known = tables, secrets, unknown, True
        for audience in tuple(self._asked):
            self.open(audience)
        for audience, driven in self._driven.items():
            driven.publisher.want(self._seen_by(audience), secrets, unknown)

    def observed(self) -> None:
        """Publish soon: something was observed."""
        for driven in self._driven.values():
            driven.publisher.observed()

    def programming(self) -> dict[PoolKey, list[Programming]]:
        """Return how far the Envoys of this replica are, by pool, a part from each audience."""
        found: dict[PoolKey, list[Programming]] = {}
        for driven in self._driven.values():
            for key, part in driven.publisher.programming(driven.gateway.programming).items():
                found.setdefault(key, []).append(part)
        return found

    def sees(self, audience: Audience, pool: PoolKey) -> bool:
        """Tell whether the proxies of an audience may carry a pool."""
        table = self._tables.get(pool)
        return table is not None and audience.sees(table)

    async def flushed(self) -> None:
        """Wait until all that is known now could be served. Before, an Envoy would be told that there is nothing."""
        await asyncio.gather(*(driven.publisher.flushed() for driven in self._driven.values()))

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for audience, driven in tuple(self._driven.items()):
                self._driven[audience] = replace(driven, task=tasks.create_task(driven.publisher.run()))
            # A group ends with its last task; this one is kept for the audiences that come later.
            tasks.create_task(asyncio.Event().wait())

    def _close_unused(self) -> None:
        """Forget the sidecars' audiences that nobody is connected of: namespaces come and go."""
        for audience, driven in tuple(self._driven.items()):
            if audience.placement is Placement.SIDECAR and not driven.gateway.connected and driven.task is not None:
                driven.task.cancel()
                self._plane.remove(str(audience))
                del self._driven[audience]

    def _seen_by(self, audience: Audience) -> dict[PoolKey, RoutingTable]:
        return {key: table for key, table in self._tables.items() if audience.sees(table)}
