"""Reads Azure again and again, for all pools that look for endpoints there: once for each source."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from aoai_operator.core.discovered import AzureSource, Discovered, Found
from aoai_operator.core.names import SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.ports import AzureReader
from aoai_operator.runners.survey import Reading, survey

AT_ONCE = 4
"""Sources that are read at the same time."""
JITTER = 0.1
"""Part of the interval by which a reading comes sooner or later: replicas of many clusters read one subscription."""
RETRY = 5.0
"""Seconds until what could not be read is tried again, at first; twice as many each time, up to the interval."""
PATIENCE = 5.0
"""Seconds for which a start waits for a first reading."""
CATALOGUE = 86_400.0
"""Seconds after which it is read again what retires: a long list, that seldom changes."""
WITHIN = 300.0
"""Seconds that a reading may take."""

_log = structlog.get_logger("discovery")


class Meters(Protocol):
    """Counts readings."""

    def azure_read(self, *, complete: bool) -> None:
        """Count one."""
        ...


@dataclass(slots=True)
class _Held:
    """What is known of one source."""

    source: AzureSource
    credential: SecretValue | None
    due: float
    found: Found = field(default_factory=Found)
    failures: int = 0
    catalogue_at: float = 0.0
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Discovering:
    """Follows the sources. What was found stays until something else is found."""

    def __init__(
        self,
        *,
        reader: AzureReader,
        meters: Meters,
        changed: Callable[[], None],
        now: Callable[[], int],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Take the parts.

        Args:
            reader: reads Azure.
            meters: counts readings.
            changed: hears that `found` changed.
            now: gives milliseconds of the Unix epoch.
            chance: gives a number in [0, 1).
        """
        self._reader = reader
        self._meters = meters
        self._changed = changed
        self._clock = now
        self._chance = chance
        self._held: dict[AzureSource, _Held] = {}
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.found: Discovered = {}
        """What was found for each source: another object whenever it changes."""

    def _now(self) -> float:
        return self._clock() / 1000

    def follow(self, sources: Collection[AzureSource], secrets: Mapping[SecretRef, SecretValue]) -> None:
        """Take what is to be read, and what the identities prove themselves with."""
        for source in self._held.keys() - set(sources):
            self._drop(source)
        for source in sources:
            ref = source.identity.credential
            credential = secrets.get(ref) if ref else None
            held = self._held.get(source)
            if held is None or held.credential != credential:
                before = held.found if held else Found()
                self._drop(source)
                self._held[source] = _Held(source, credential, self._now(), before)
                self._wake.set()
        self._note()

    def _drop(self, source: AzureSource) -> None:
        held = self._held.pop(source, None)
        if held is not None and held.task is not None:
            held.task.cancel()

    async def tried(self) -> None:
        """Wait until each source was read once, with or without success; but not for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._tried.wait()

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            while True:
                self._wake.clear()
                self._start_due()
                await self._next()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start_due(self) -> None:
        now = self._now()
        for held in sorted(self._held.values(), key=lambda one: one.due):
            if held.task is None and held.due <= now and len(self._tasks) < AT_ONCE:
                held.task = asyncio.create_task(self._read(held))
                self._tasks.add(held.task)
                held.task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    async def _next(self) -> None:
        times = [held.due for held in self._held.values() if held.task is None and len(self._tasks) < AT_ONCE]
        try:
            async with asyncio.timeout(max(0.0, min(times) - self._now()) if times else None):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _read(self, held: _Held) -> None:
        try:
            async with asyncio.timeout(WITHIN), self._reader.open(held.source, held.credential) as session:
                again = self._now() - held.catalogue_at >= CATALOGUE
                reading = await survey(session, held.source, held.found, catalogue=again)
                held.catalogue_at = self._now() if again else held.catalogue_at
        except TimeoutError:
            reading = self._none(held, f"Azure Resource Manager was not read within {WITHIN:g} s")
        except Exception as error:  # noqa: BLE001 - one faulty answer must not end what reads all others
            _log.exception("Azure could not be read, it is tried again")
            reading = self._none(held, f"reading Azure failed: {type(error).__name__}")
        finally:
            held.task = None
        self._meters.azure_read(complete=not reading.fault)
        self._take(held, reading)

    @staticmethod
    def _none(held: _Held, why: str) -> Reading:
        return Reading(held.found.accounts, why, None, held.found.retirements)

    def _take(self, held: _Held, reading: Reading) -> None:
        now, before = self._now(), held.found
        if reading.fault and reading.fault != before.fault:
            _log.warning("Azure cannot be read in full, what was found last serves on", why=reading.fault)
        elif before.fault and not reading.fault:
            _log.info("Azure is read again")
        read_at = before.read_at if reading.fault else self._clock()
        seen = before.seen or bool(reading.accounts)
        held.found = Found(reading.accounts, reading.fault, read_at, reading.retirements, seen)
        pause = held.source.interval / 1000
        if reading.fault:
            held.failures = min(held.failures + 1, 16)
            pause = max(min(RETRY * 2 ** (held.failures - 1), pause), reading.wait or 0.0)
        else:
            held.failures = 0
        held.due = now + pause * (1 + JITTER * (self._chance() if reading.fault else 2 * self._chance() - 1))
        if self._held.get(held.source) is held:
            self._note()

    def _note(self) -> None:
        found = {source: held.found for source, held in self._held.items()}
        if found != self.found or any(self.found[s].read_at != f.read_at for s, f in found.items() if f.fault):
            self.found = found
            self._changed()
        if all(f.accounts is not None or f.fault for f in found.values()):
            self._tried.set()
        else:
            self._tried.clear()
