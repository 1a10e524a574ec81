"""Asks the issuers of tokens for their keys, again and again: they change them, and nobody tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from aoai_operator.core.observed import SigningKeys
from aoai_operator.core.table import RoutingTable, TokenIssuer
from aoai_operator.ports import IssuerError, Issuers
from aoai_operator.runners.observing import Observer
from aoai_operator.runners.schedule import Plan, Schedule

INTERVAL_MS = 20_000
CONCURRENCY = 8

_log = structlog.get_logger("issuers")


class IssuerKeys:
    """Follows the tables. Keys that are known once stay, whatever their issuer answers later."""

    def __init__(self, *, issuers: Issuers, observer: Observer, now: Callable[[], int]) -> None:
        """Take whom to ask, where the answers go, and a clock in milliseconds."""
        self._issuers = issuers
        self._observer = observer
        self._known: dict[str, SigningKeys] = {}
        self._wanted: frozenset[str] = frozenset()
        self._tried = asyncio.Event()
        self._schedule: Schedule[str, TokenIssuer] = Schedule(self._ask, now=now, concurrency=CONCURRENCY)

    def follow(self, tables: Iterable[RoutingTable]) -> None:
        """Take the tables that are in force now."""
        # Its audience says nothing of an issuer's keys.
        named = {i.url: i.model_copy(update={"audience": ""}) for table in tables for i in table.issuers}
        for url in self._wanted - named.keys():
            self._schedule.drop(url)
        for url, issuer in named.items():
            self._schedule.put(url, Plan(INTERVAL_MS, issuer))
        self._wanted = frozenset(named)
        self._tell({url: keys for url, keys in self._known.items() if url in named})

    async def tried(self) -> None:
        """Wait until each issuer was asked once, with or without success."""
        await self._tried.wait()

    async def run(self) -> None:
        """Run until cancelled."""
        await self._schedule.run()

    async def _ask(self, url: str, issuer: TokenIssuer) -> None:
        try:
            found = await self._issuers.keys(issuer)
        except IssuerError as error:
            known = self._known.get(url)
            if known is None or not known.fault:
                _log.warning(
                    "the keys of an issuer of tokens cannot be had", issuer=url or "the API server", why=str(error)
                )
            found = SigningKeys(known.issuer, known.jwks, str(error)) if known else SigningKeys(fault=str(error))
        if url in self._wanted:
            self._tell({**self._known, url: found})

    def _tell(self, known: dict[str, SigningKeys]) -> None:
        if known != self._known:
            self._known = known
            self._observer.asked(known)
        if self._wanted <= known.keys():
            self._tried.set()
        else:
            self._tried.clear()
