"""Asks for the tokens of endpoints, and again long before they are over: one for each identity and scope.

The keys of an account are asked for alike: they have no end, and are looked at again every few minutes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf, isinf
from typing import Protocol

import structlog

from aoai_operator.core.names import EndpointKey, SecretRef
from aoai_operator.core.observed import Grant
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import Identity, RoutingTable
from aoai_operator.ports import GrantError, Token, TokenSource
from aoai_operator.runners.observing import Observer
from aoai_operator.runners.probing import Probing

AT_ONCE = 8
RENEW = (0.5, 0.7)
"""The part of its time after which a token is renewed: chance spreads replicas, and leaves Entra ID time to recover."""
SOONEST = 30.0
"""Seconds between two renewals, or half of what is left: IMDS repeats a token until it is nearly over."""
RETRY, LONGEST_RETRY = 1.0, 60.0
"""Seconds until one that could not be had is asked for again, at first and at most."""
PATIENCE = 5.0
"""Seconds for which a start waits for tokens: one that cannot be had must not keep other pools from being served."""
DOUBTED = 60.0
"""Seconds in which a token that an endpoint refused is asked for anew once: it may have been revoked."""
KEYS_DOUBTED = 10.0
"""The same of keys, which are renewed by hand: the second one soon after the first."""

_log = structlog.get_logger("tokens")


class Meters(Protocol):
    """Counts what Entra ID was asked."""

    def token_asked(self, *, granted: bool) -> None:
        """Count an answer, or none."""
        ...


@dataclass(slots=True)
class _Held:
    """What is known of one identity."""

    identity: Identity
    credential: SecretValue | None
    due: float
    endpoints: frozenset[EndpointKey] = frozenset()
    token: Token | None = None
    fault: str = ""
    failures: int = 0
    asked: float = 0.0
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def grant(self, now: float) -> Grant:
        if self.token is None:
            return Grant(fault=self.fault)
        until = 0 if isinf(self.token.until) else round(self.token.until * 1000)
        return Grant(self.token.value, until, self.token.until > now, self.fault, self.token.other)


class Tokens:
    """Follows the tables. A token stays until there is another one, and is told to be over when it is."""

    def __init__(
        self,
        *,
        source: TokenSource,
        observer: Observer,
        probing: Probing,
        meters: Meters,
        now: Callable[[], int],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Take whom to ask, where tokens go, a clock in milliseconds of the Unix epoch, and a chance in [0, 1)."""
        self._source = source
        self._observer = observer
        self._probing = probing
        self._meters = meters
        self._clock = now
        self._chance = chance
        self._held: dict[Identity, _Held] = {}
        self._of: Mapping[EndpointKey, Identity] = {}
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def _now(self) -> float:
        return self._clock() / 1000

    def follow(self, tables: Iterable[RoutingTable], secrets: Mapping[SecretRef, SecretValue]) -> None:
        """Take the tables and secrets that are in force now; after the observer and the probing took them."""
        wanted = {
            table.endpoint_key(endpoint.name): endpoint.identity
            for table in tables
            for endpoint in table.endpoints
            if endpoint.identity and endpoint.usable
        }
        for key in self._of.keys() - wanted.keys():
            self._probing.granted(key, None)
        self._of = wanted
        endpoints: dict[Identity, set[EndpointKey]] = {}
        for key, identity in wanted.items():
            endpoints.setdefault(identity, set()).add(key)
        for identity in self._held.keys() - endpoints.keys():
            self._drop(identity)
        for identity, keys in endpoints.items():
            self._want(identity, frozenset(keys), secrets)
        self._note_tried()

    def _want(self, identity: Identity, keys: frozenset[EndpointKey], secrets: Mapping[SecretRef, SecretValue]) -> None:
        credential = secrets.get(identity.credential) if identity.credential else None
        held = self._held.get(identity)
        if held is None or held.credential != credential:
            before = held.token if held else None
            self._drop(identity)
            held = self._held[identity] = _Held(identity, credential, self._now(), token=before)
            self._wake.set()
        held.endpoints = keys
        self._tell(held)

    def _drop(self, identity: Identity) -> None:
        held = self._held.pop(identity, None)
        if held is not None and held.task is not None:
            held.task.cancel()

    def doubted(self, key: EndpointKey) -> None:
        """Ask for another token soon: the endpoint refused the one that it was shown."""
        held = self._held.get(self._of[key]) if key in self._of else None
        if held is not None:
            after = KEYS_DOUBTED if held.identity.account else DOUBTED
            held.due = min(held.due, max(self._now(), held.asked + after))
            self._wake.set()

    async def tried(self) -> None:
        """Wait until each token was asked for once, with or without success; but not long for who says nothing."""
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
                held.asked = now
                held.task = asyncio.create_task(self._ask(held))
                self._tasks.add(held.task)
                held.task.add_done_callback(self._done)
            elif held.token is not None and held.token.until <= now:
                self._tell(held)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    async def _next(self) -> None:
        now = self._now()
        times = [held.due for held in self._held.values() if held.task is None and len(self._tasks) < AT_ONCE]
        times += [held.token.until for held in self._held.values() if held.token and held.token.until > now]
        soonest = min(times, default=inf)
        try:
            async with asyncio.timeout(None if isinf(soonest) else max(0.0, soonest - now)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _ask(self, held: _Held) -> None:
        try:
            token = await self._source.token(held.identity, held.credential)
        except GrantError as error:
            self._failed(held, str(error))
        except Exception as error:  # noqa: BLE001 - one faulty answer must not end what asks for all others
            _log.exception("a token could not be asked for, it is tried again")
            self._failed(held, f"asking for a token failed: {type(error).__name__}")
        else:
            self._granted(held, token)
        finally:
            held.task = None
        self._meters.token_asked(granted=not held.fault)
        if self._held.get(held.identity) is held:
            self._tell(held)
            self._note_tried()

    def _granted(self, held: _Held, token: Token) -> None:
        if held.fault:
            _log.info("a token or keys can be had again", **_named(held.identity))
        now = self._now()
        held.token, held.fault, held.failures = token, "", 0
        left = token.until - now
        low, high = RENEW
        part = left * (low + (high - low) * self._chance())
        wished = token.renew_at - now if token.renew_at is not None else part
        held.due = now + max(min(part, max(wished, 0.0)), min(SOONEST, left / 2), RETRY)

    def _failed(self, held: _Held, why: str) -> None:
        if held.fault != why:
            _log.warning(
                "Azure gives no token or keys, the last ones serve while good",
                why=why,
                **_named(held.identity),
            )
        pause = min(RETRY * 2**held.failures, LONGEST_RETRY)
        held.fault, held.failures = why, min(held.failures + 1, 10)
        held.due = self._now() + pause * (1 - 0.2 * self._chance())

    def _tell(self, held: _Held) -> None:
        grant = held.grant(self._now())
        for key in held.endpoints:
            self._observer.granted(key, grant)
            self._probing.granted(key, grant.token, grant.other)

    def _note_tried(self) -> None:
        if all(held.token or held.fault for held in self._held.values()):
            self._tried.set()
        else:
            self._tried.clear()


def _named(identity: Identity) -> dict[str, str]:
    """Return what tells an identity from others, for the log."""
    wanted = identity.account or identity.scope
    return {"identity": identity.kind, "client_id": identity.client_id, "wanted": wanted}
