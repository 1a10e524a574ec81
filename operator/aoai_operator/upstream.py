"""What looks at Azure, and at who vouches for callers: names, probes, discovery, tokens, keys of issuers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aoai_operator.adapters.arm import ArmReader
from aoai_operator.adapters.entra import EntraTokens
from aoai_operator.adapters.oidc import HttpIssuers
from aoai_operator.adapters.probe import HttpProber
from aoai_operator.adapters.resolver import SystemResolver
from aoai_operator.core.names import EndpointKey, SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.metrics import Metrics
from aoai_operator.ports import Issuers
from aoai_operator.runners.discovering import Discovering
from aoai_operator.runners.issuers import IssuerKeys
from aoai_operator.runners.observing import Observer
from aoai_operator.runners.probing import Probing
from aoai_operator.runners.tokens import Tokens


class Upstream:
    """All of them, put together: they follow the tables, and tell the observer what they find."""

    def __init__(
        self,
        *,
        ca_file: Path,
        observer: Observer,
        metrics: Metrics,
        now: Callable[[], int],
        developer: bool = False,
        issuers: Callable[[HttpIssuers], Issuers] = lambda found_by_url: found_by_url,
    ) -> None:
        """Take the ways out.

        Args:
            ca_file: the PEM file of the CAs that are trusted.
            observer: takes what is found.
            metrics: counts it.
            now: gives milliseconds of the Unix epoch.
            developer: whether tokens may be asked for with the developer's own sign-in.
            issuers: makes the issuers of callers' tokens of those that are found by a URL.

        Raises:
            SSLError: the file holds no certificate.
        """
        self._prober = HttpProber(ca_file=ca_file)
        self._http_issuers = HttpIssuers(ca_file=ca_file)
        self.probing = Probing(
            prober=self._prober,
            resolver=SystemResolver(),
            observer=observer,
            meters=metrics,
            now=now,
            denied=lambda key: self._tokens.doubted(key),  # noqa: PLW0108 - they need each other
        )
        azure = ArmReader(EntraTokens(ca_file=ca_file, developer=developer), ca_file=ca_file)
        self._tokens = Tokens(
            source=azure,
            observer=observer,
            probing=self.probing,
            meters=metrics,
            now=now,
        )
        self._issuer_keys = IssuerKeys(issuers=issuers(self._http_issuers), observer=observer, now=now)
        self._discovering = partial(Discovering, reader=azure, meters=metrics, now=now)
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._open.enter_async_context(self._prober)
        await self._open.enter_async_context(self._http_issuers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return what is to run until cancelled, while the block runs."""
        return self.probing.run(), self._tokens.run(), self._issuer_keys.run()

    def follow(self, tables: Iterable[RoutingTable], secrets: Mapping[SecretRef, SecretValue]) -> None:
        """Take the tables and secrets that are in force now; after the observer took them."""
        tables = tuple(tables)
        self.probing.follow(tables, secrets)
        self._tokens.follow(tables, secrets)
        self._issuer_keys.follow(tables)

    def discovering(self, changed: Callable[[], None]) -> Discovering:
        """Return what reads Azure, with whom to tell when something else was found there."""
        return self._discovering(changed=changed)

    def denied(self, key: EndpointKey) -> None:
        """Ask for another token: an endpoint refused the one that it was shown."""
        self._tokens.doubted(key)

    async def tried(self) -> None:
        """Wait until each name, token and issuer was asked for once: before, a gateway is not ready."""
        await self.probing.names_tried()
        await self._tokens.tried()
        await self._issuer_keys.tried()
