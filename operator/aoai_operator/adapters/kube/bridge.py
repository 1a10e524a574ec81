"""Watches the API server, by kopf, and wakes those who read: a watch tells that something changed, never what it is.

kopf runs in a thread and loop of its own, since at its end it cancels every task of its loop. Of kopf, only the
low-level events are used: it writes nothing, neither finalizers nor annotations.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog

from aoai_operator.adapters.kube.kopf_log import kopf_log
from aoai_operator.adapters.kube.watching import Scope, Watcher
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import KubeError, Resource

_log = structlog.get_logger("watch")

_BEAT = 1.0
_STUCK = 60.0
"""Seconds without a heartbeat after which kopf's thread counts as dead."""
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 10.0
_STEADY = 30.0
"""Seconds for which a watch must have worked to be begun again without delay."""
_END = 5.0
"""Seconds that kopf has to end."""


class Wake(NamedTuple):
    """Something may have changed.

    Attributes:
        resource: the kind.
        key: the object; None: any of them, list them again.
        uid: the object's; empty if there is no key.
    """

    resource: Resource
    key: PoolKey | None = None
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Watched:
    """A kind to watch.

    Attributes:
        resource: the kind.
        labels: a label selector, which the server applies.
        status: whether its status is our own work, and no news.
    """

    resource: Resource
    labels: str = ""
    status: bool = False


class BridgeError(Exception):
    """The thread of the watch is dead; the process must be started again."""


class Bridge:
    """Watches some kinds, in some namespaces or in all of them."""

    def __init__(
        self,
        *,
        wake: Callable[[Wake], None],
        serves: Callable[[Resource], Awaitable[bool]],
        watched: Sequence[Watched],
        namespaces: Sequence[str] = (),
        kubeconfig: Path | None = None,
    ) -> None:
        """Take what to watch.

        Args:
            wake: hears of changes, in the loop that `run` runs in; the same one may be told of once for several.
            serves: tells whether the API server knows a kind.
            watched: the kinds.
            namespaces: where; empty: everywhere.
            kubeconfig: see access.configuration.
        """
        self.missing: tuple[Resource, ...] = ()
        """Kinds that the API server does not know: their CRDs are missing."""
        self._wake = wake
        self._serves = serves
        self._watched = tuple(watched)
        self._namespaces = tuple(namespaces)
        self._kubeconfig = kubeconfig
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._pending: dict[Wake, None] = {}
        self._listed: set[Scope] = set()
        self._beat: float | None = None

    @property
    def watching(self) -> bool:
        """Whether everything is watched: all kinds are there, and were listed since the watch began."""
        return self._beat is not None and len(self._listed) == len(self._watched) * (len(self._namespaces) or 1)

    def alive(self) -> bool:
        """Return whether the thread of the watch still works, if there should be one."""
        beat = self._beat
        return beat is None or time.monotonic() - beat < _STUCK

    async def run(self) -> None:
        """Watch until cancelled. A watch that fails is begun again; kinds that are missing are waited for.

        Raises:
            BridgeError: see there.
        """
        self._loop = asyncio.get_running_loop()
        retry = _FIRST_RETRY
        with kopf_log():
            while True:
                if await self._all_served():
                    begun = time.monotonic()
                    why = await self._watch()
                    if time.monotonic() - begun > _STEADY:
                        retry = _FIRST_RETRY
                    _log.warning("the watch has ended, it is begun again", why=why, seconds=retry)
                await asyncio.sleep(retry)
                retry = min(2 * retry, _LONGEST_RETRY)

    async def _all_served(self) -> bool:
        try:
            missing = tuple([w.resource for w in self._watched if not await self._serves(w.resource)])
        except KubeError as error:
            _log.warning("the API server cannot be asked for its kinds, it is asked again", why=error.message)
            return False
        if missing != self.missing:
            if missing:
                names = ", ".join(map(str, missing))
                _log.error("the API server does not know these kinds: apply the CRDs", missing=names)
            else:
                _log.info("the API server knows all kinds now")
            self.missing = missing
        return not missing

    async def _watch(self) -> str:
        """Run kopf until it ends; return why it did."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()
        watcher = Watcher(
            kinds={w.resource: (w.labels, w.status) for w in self._watched},
            namespaces=self._namespaces,
            kubeconfig=self._kubeconfig,
            listed=self._heard_list,
            changed=self._heard,
            beat=self._heard_beat,
        )
        thread = threading.Thread(target=_run, args=(watcher, loop, ended), name="kopf", daemon=True)
        self._listed.clear()
        self._heard_beat()
        thread.start()
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=_BEAT)
                if not self.alive() or not (thread.is_alive() or ended.done()):
                    raise BridgeError("the thread that watches the API server is dead")
            return ended.result()
        finally:
            watcher.stop()
            await asyncio.wait({ended}, timeout=_END)
            ended.cancel()
            self._beat = None

    def _heard_beat(self) -> None:
        self._beat = time.monotonic()

    def _heard_list(self, scope: Scope) -> None:
        self._listed.add(scope)
        self._tell(Wake(scope.resource))

    def _heard(self, resource: Resource, key: PoolKey, uid: str) -> None:
        self._tell(Wake(resource, key, uid))

    def _tell(self, wake: Wake) -> None:
        """Hand a wake from kopf's thread to ours; what comes before it was handed over goes with it."""
        with self._lock:
            first = not self._pending
            self._pending[wake] = None
        if first and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        for wake in pending:
            self._wake(wake)


def _run(watcher: Watcher, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[str]) -> None:
    """Run kopf in this thread, and tell the main loop why it ended."""
    try:
        asyncio.run(watcher.run())
        why = "kopf has stopped"
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - told in the other loop
        # kopf's errors have the server's whole answer beside its message.
        why = f"{type(error).__name__}: {error.args[0] if error.args else ''}"

    def tell() -> None:
        if not ended.done():
            ended.set_result(why)

    if not loop.is_closed():
        loop.call_soon_threadsafe(tell)
