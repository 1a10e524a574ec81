"""Which replica leads: a Lease (coordination.k8s.io/v1), judged by this replica's own monotonic clock.

No clock is compared with another's. A candidate takes a Lease over when it has itself seen it unchanged for as long as
its holder asked for. The holder stops earlier, counted from before its last successful write was sent.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from aoai_operator.adapters.kube.resources import LEASES
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject, KubeApi, KubeError

_log = structlog.get_logger("lease")

ADDRESS = "aoai.dev/address"
"""The annotation that says where the holder's peers reach it."""

_JITTER = 0.2
_SHORTEST = 0.05
"""Shortest pause, in seconds."""
_USUAL = 1.25
"""Longest time between two looks that is believed, in pauses."""
_CHANGED = frozenset({404, 409})
"""What the server answers to a write of a Lease that is not as it was seen."""
_LOOK = 0.25
"""Seconds between two looks at the clock during a write."""
_SAFETY = 1.0
"""Seconds before a takeover is possible at which every write has been given up: clocks do not run equally fast."""


class NotLeadingError(KubeError):
    """A write was not begun, or was given up, since another replica may lead."""

    def __init__(self) -> None:
        super().__init__(0, "NotLeading", "another replica may lead by now")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTiming:
    """Seconds. The defaults are those of Kubernetes' own components.

    Attributes:
        duration: how long a silent holder is believed; in whole seconds.
        deadline: after how long without success a holder stops leading; earlier than `duration` by more than a second.
        retry: between two attempts; two of them fit into the deadline.

    Raises:
        ValueError: they do not fit together.
    """

    duration: int = 15
    deadline: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not 2 * self.retry <= self.deadline < self.duration - _SAFETY:
            raise ValueError(f"nobody could hold a Lease by {self}")

    @classmethod
    def lasting(cls, seconds: float) -> LeaseTiming:
        """Return the timing of a Lease of so many seconds, whole ones, with a deadline at two thirds of it."""
        return cls(duration=int(seconds), deadline=int(seconds) * 2 / 3)


class Election:
    """Takes part in the election of the leader. Used from one event loop."""

    def __init__(
        self,
        api: KubeApi,
        key: PoolKey,
        *,
        identity: str,
        address: str = "",
        timing: LeaseTiming = LeaseTiming(),
        clock: Callable[[], float],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take part in nothing yet: see run.

        Args:
            api: the API server.
            key: the Lease's namespace and name.
            identity: this replica's name. Something is added to it, so that a restarted process is another candidate.
            address: where peers reach this replica.
            timing: see there.
            clock: gives seconds; never goes back, and goes on while the machine is suspended: others go on then.
            wall: gives the time that people see in the Lease; nothing depends on it.
        """
        self.identity = f"{identity}_{uuid.uuid4().hex[:8]}"
        self.leading = asyncio.Event()
        """Set while this replica leads."""
        self.following = asyncio.Event()
        """Set while it does not."""
        self.following.set()
        self._api = api
        self._key = key
        self._address = address
        self._timing = timing
        self._clock = clock
        self._wall = wall
        self._seen: JsonObject | None = None
        self._gone = True
        self._looked_at = clock()
        self._silence = 0.0
        self._held_since: float | None = None

    @property
    def holder(self) -> str:
        """The identity of the replica that held the Lease when it was read last; empty: none."""
        return str(_spec(self._seen).get("holderIdentity") or "")

    @property
    def holder_address(self) -> str:
        """Where the peers reach that replica; empty if there is none, or it does not say."""
        annotations = (self._seen or {}).get("metadata", {}).get("annotations") or {}
        return str(annotations.get(ADDRESS, "")) if self.holder else ""

    def valid(self) -> bool:
        """Return whether this replica leads, and may begin a write."""
        return self._left(self._timing.deadline) > 0

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Give the block, which writes, no more time than there is before another replica can lead.

        Raises:
            NotLeadingError: there is no time left, or it ran out.
        """
        if not self.valid():
            raise NotLeadingError
        try:
            async with self._within(self._left(self._timing.duration - _SAFETY)):
                yield
        except TimeoutError:
            raise NotLeadingError from None

    @asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        """Limit the block by our own clock too: the event loop's stands still while the machine is suspended."""
        loop, end = asyncio.get_running_loop(), self._clock() + seconds
        looking: asyncio.TimerHandle

        def look() -> None:
            nonlocal looking
            if self._clock() < end:
                looking = loop.call_later(_LOOK, look)
            elif not limit.expired():
                limit.reschedule(loop.time())

        async with asyncio.timeout(seconds) as limit:
            looking = loop.call_later(_LOOK, look)
            try:
                yield
            finally:
                looking.cancel()

    async def run(self) -> None:
        """Take part until cancelled. Cancelling does not give the Lease back: see release."""
        try:
            while True:
                await self._attempt()
                await asyncio.sleep(self._pause())
        finally:
            self._held_since = None
            self._tell()

    async def release(self) -> None:
        """Give the Lease back, if this replica has it, so that another leads at once.

        To be called when `run` was cancelled and nothing is being written any more.
        """
        if self.holder != self.identity:
            return
        try:
            async with asyncio.timeout(self._timing.retry):
                await self._read()
                if self.holder == self.identity and not self._gone:
                    self._look(await self._api.replace(LEASES, self._lease(self._seen, holder="", seconds=1)))
        except (KubeError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            _log.warning("the Lease could not be given back, others wait until it runs out", why=why)

    def _left(self, seconds: float) -> float:
        if self._held_since is None:
            return 0.0
        passed = self._clock() - self._held_since
        # A clock that went back is not believed.
        return seconds - passed if passed >= 0 else 0.0

    def _pause(self) -> float:
        """Return the time until the next attempt: no later than this replica stops leading, or can take over."""
        pause = self._timing.retry * random.uniform(1 - _JITTER, 1)  # noqa: S311
        until = self._left(self._timing.deadline) if self.leading.is_set() else self._lasts() - self._silence
        return min(pause, max(until, _SHORTEST))

    async def _attempt(self) -> None:
        # Two attempts fit into the deadline, so that one answer that never comes costs nothing.
        limit = self._timing.deadline / 2 - self._timing.retry / 2
        if self.leading.is_set():
            limit = min(limit, self._left(self._timing.deadline))
        begun = self._clock()
        try:
            async with asyncio.timeout(max(limit, 0)):
                if await self._acquire():
                    self._held_since = begun
        except Exception as error:  # noqa: BLE001 - whatever it was, the Lease is not ours until a write succeeds
            if not isinstance(error, KubeError | TimeoutError):
                _log.exception("the Lease could not be tried")
            elif self.leading.is_set():
                _log.warning("the Lease could not be renewed", why=str(error) or "no answer in time")
        if not self.valid() or self.holder != self.identity:
            self._held_since = None
        self._tell()

    async def _acquire(self) -> bool:
        """Read the Lease, and write it if it is free, run out, or ours; return whether it is ours now."""
        if not (self.leading.is_set() and self.holder == self.identity):
            await self._read()
        if not self._free():
            return False
        try:
            await self._write()
        except KubeError as error:
            if error.status not in _CHANGED:
                raise
            # Somebody else has written it, or we have, and the answer was lost.
            await self._read()
            if not self._free():
                return False
            await self._write()
        return True

    async def _read(self) -> None:
        self._look(await self._api.get(LEASES, self._key))

    async def _write(self) -> None:
        write = self._api.create if self._gone else self._api.replace
        self._look(await write(LEASES, self._lease(self._seen)))

    def _free(self) -> bool:
        return self.holder in ("", self.identity) or self._silence >= self._lasts()

    def _look(self, lease: JsonObject | None) -> None:
        """Take the Lease as it is, and count for how long it has been as it is.

        Between two looks no more is counted than is usual: a clock that jumps lets nobody take over early. A Lease that
        somebody deleted counts as unchanged: its holder may still lead.
        """
        now = self._clock()
        passed = min(max(now - self._looked_at, 0.0), _USUAL * self._timing.retry)
        self._looked_at = now
        self._gone = lease is None
        if lease is None or _version(lease) == _version(self._seen):
            self._silence += passed
        else:
            self._silence = 0.0
            self._seen = lease

    def _lasts(self) -> float:
        return float(_spec(self._seen).get("leaseDurationSeconds") or self._timing.duration)

    def _lease(self, seen: JsonObject | None, *, holder: str | None = None, seconds: int | None = None) -> JsonObject:
        """Return the Lease as it should be; with the version of the one seen, so that only one candidate succeeds."""
        now = self._wall().astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        holder = self.identity if holder is None else holder
        spec = dict(_spec(seen))
        if spec.get("holderIdentity") != holder:
            spec |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + bool(holder)}
        spec |= {"holderIdentity": holder, "renewTime": now, "leaseDurationSeconds": seconds or self._timing.duration}
        before = {} if self._gone else (seen or {}).get("metadata", {})
        metadata: dict[str, Any] = {**before, "namespace": self._key.namespace, "name": self._key.name}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), ADDRESS: self._address}
        return {"metadata": metadata, "spec": spec}

    def _tell(self) -> None:
        leads = self.valid()
        if leads == self.leading.is_set():
            return
        _log.info("this replica leads" if leads else "this replica does not lead any more", identity=self.identity)
        for event in (self.leading, self.following):
            if (event is self.leading) == leads:
                event.set()
            else:
                event.clear()


def _spec(lease: JsonObject | None) -> dict[str, Any]:
    return (lease or {}).get("spec") or {}


def _version(lease: JsonObject | None) -> tuple[object, ...]:
    metadata = (lease or {}).get("metadata", {})
    return metadata.get("uid"), metadata.get("resourceVersion")
