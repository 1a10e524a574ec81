"""One reading of Azure: the accounts of a source with all that is in them. What cannot be read stays as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from aoai_operator.core.discovered import NOT_READ, AzureSource, Found, FoundAccount, Retirement, Retirements
from aoai_operator.ports import AzureSession, ReadingError

AT_ONCE = 8
"""Requests under way: Azure counts them by subscription, and others read there, too."""
_MOST_TOLD = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read.

    Attributes:
        accounts: those of the source; None: it is not even known which there are.
        fault: why not all of it is new, a sentence without a full stop; empty: it is.
        retirements: what retires in their regions; who may read accounts need not be let to read this, so that it is no
            fault when it cannot be read.
        wait: for how many seconds Azure wants to be left alone; None: it does not say.
    """

    accounts: tuple[FoundAccount, ...] | None
    fault: str = ""
    wait: float | None = None
    retirements: Retirements = field(default_factory=dict)


async def survey(
    session: AzureSession, source: AzureSource, before: Found = NOT_READ, *, catalogue: bool = False
) -> Reading:
    """Read the accounts of a source.

    Args:
        session: reads.
        source: which accounts.
        before: what was found last.
        catalogue: whether what retires is read again also of regions of which it is known.
    """
    return await _Survey(session, source, before, catalogue=catalogue).read()


class _Survey:
    def __init__(self, session: AzureSession, source: AzureSource, before: Found, *, catalogue: bool) -> None:
        self._session = session
        self._source = source
        self._before = None if before.accounts is None else {a.id.lower(): a for a in before.accounts}
        self._known = before.retirements
        self._anew = catalogue
        self._free = asyncio.Semaphore(AT_ONCE)
        self._faults: list[str] = []
        self._wait: float | None = None
        self._barred = False

    async def read(self) -> Reading:
        places = [(s, g) for s in self._source.subscriptions for g in self._source.groups or ("",)]
        listings = await asyncio.gather(*(self._listing(*place) for place in places))
        if self._before is None and all(listing is None for listing in listings):
            return Reading(None, self._fault(), self._wait, self._known)
        listed = {a.id.lower(): a for listing in listings for a in listing or () if self._wanted(a)}
        unseen = {place for place, listing in zip(places, listings, strict=True) if listing is None}
        missed = [a for key, a in (self._before or {}).items() if key not in listed]
        kept = await asyncio.gather(*(self._still_there(account, unseen) for account in missed))
        filled = await asyncio.gather(*(self._filled(account) for account in listed.values()))
        accounts = sorted((*filled, *(a for a in kept if a)), key=lambda account: account.id.lower())
        retirements = await self._retirements(accounts)
        return Reading(tuple(accounts), self._fault(), self._wait, retirements)

    async def _retirements(self, accounts: Iterable[FoundAccount]) -> Retirements:
        places = {a.location: a.subscription for a in accounts if a.deployments}
        due = [place for place in sorted(places) if self._anew or place not in self._known]
        read = await asyncio.gather(*(self._catalogue(places[place], place) for place in due))
        fresh = {place: found for place, found in zip(due, read, strict=True) if found is not None}
        return {place: found for place in places if (found := fresh.get(place, self._known.get(place))) is not None}

    async def _catalogue(self, subscription: str, location: str) -> tuple[Retirement, ...] | None:
        return await self._asked(lambda: self._session.retirements(subscription, location), fault=False)

    async def _listing(self, subscription: str, group: str) -> tuple[FoundAccount, ...] | None:
        return await self._asked(lambda: self._session.accounts(subscription, group))

    def _wanted(self, account: FoundAccount) -> bool:
        kinds = not self._source.kinds or account.kind in self._source.kinds
        # Names of tags do not tell capitals from small letters; their values do. Source: Azure, "Use tags".
        tags = {name.lower(): value for name, value in account.tags}
        return kinds and all(tags.get(name.lower()) == value for name, value in self._source.tags)

    async def _still_there(self, account: FoundAccount, unseen: set[tuple[str, str]]) -> FoundAccount | None:
        """Return an account that is not listed any more, but may be there: a list has only what one may see."""
        if {(account.subscription, ""), (account.subscription, account.group.lower())} & unseen:
            return account
        found = await self._asked(lambda: self._read_again(account))
        if found is None:
            return account
        (now,) = found
        return await self._filled(now) if now is not None and self._wanted(now) else None

    async def _read_again(self, account: FoundAccount) -> tuple[FoundAccount | None]:
        return (await self._session.account(account),)

    async def _filled(self, account: FoundAccount) -> FoundAccount:
        last = (self._before or {}).get(account.id.lower())
        deployments = await self._asked(lambda: self._session.deployments(account))
        if deployments is None:
            deployments = last.deployments if last else ()
        return replace(account, deployments=deployments)

    async def _asked(self, ask: Callable[[], Awaitable[T]], *, fault: bool = True) -> T | None:
        """Return an answer; None when there is none. Once Azure wants to be left alone it is not asked any more."""
        async with self._free:
            if self._barred:
                return None
            try:
                return await ask()
            except ReadingError as error:
                if fault or error.wait is not None:
                    self._faults.append(str(error))
                if error.wait is not None:
                    self._wait, self._barred = error.wait, True
                return None

    def _fault(self) -> str:
        return _summed_up(self._faults)


def _summed_up(faults: Iterable[str]) -> str:
    told = sorted(set(faults))
    more = f"; and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
    return "; ".join(told[:_MOST_TOLD]) + more
