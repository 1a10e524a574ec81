"""Finds out who calls a gRPC service, and ends the call of who proves nothing."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NoReturn

import grpc
import structlog

from aoai_operator.core.audience import Audience
from aoai_operator.core.identity import Peer, PeerKind, RefusedError, audience_of, peer_of_certificate, peer_of_user
from aoai_operator.core.pki import Certificate, read_certificates
from aoai_operator.core.proxies import Proxy
from aoai_operator.ports import ReviewError, TokenReviewer

_SAID_AGAIN = 10.0
"""Seconds in which one address's refusals for one reason are one line of the log."""
_SAID_MOST = 1000
_LONGEST_TOKEN = 16_384
_LONGEST_CLAIM = 200

_log = structlog.get_logger("identity")


class Identities:
    """Says who is at the other end: by socket, by client certificate, or by service-account token."""

    def __init__(
        self,
        *,
        review: TokenReviewer | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take how tokens are judged.

        Args:
            review: judges tokens, and remembers for a while: an access log comes every second; None: no token is
                accepted.
            now: the time, for certificates.
            clock: gives seconds, for what is logged.
        """
        self._review = review
        self._now = now
        self._clock = clock
        self._said: OrderedDict[tuple[str, str, bool], float] = OrderedDict()

    async def admit(self, context: Any, kinds: Collection[PeerKind]) -> Peer:
        """Return who calls. Ends the call when it is nobody of these kinds."""
        try:
            peer = await self._peer(context)
            if peer.kind not in kinds:
                raise RefusedError(f"this is not for a {peer.kind}", peer=peer)  # noqa: TRY301 - refused like any other
        except RefusedError as error:
            await self._end(context, error)
        except ReviewError as error:
            await self._end_unknown(context, error)
        return peer

    async def audience(self, context: Any, claimed: Proxy) -> Audience:
        """Return what a proxy may have (ports.Identify). Ends the call when it may not have what it claims."""
        try:
            return audience_of(await self._peer(context), claimed.gateway)
        except RefusedError as error:
            await self._end(context, error, proxy=claimed.id[:_LONGEST_CLAIM], gateway=claimed.gateway[:_LONGEST_CLAIM])
        except ReviewError as error:
            await self._end_unknown(context, error)

    async def _peer(self, context: Any) -> Peer:
        if context.peer().startswith("unix:"):
            return Peer(PeerKind.POD)
        auth = context.auth_context()
        if auth.get("transport_security_type") != [b"ssl"]:
            raise RefusedError("the connection is not encrypted")
        if pem := auth.get("x509_pem_cert"):
            return peer_of_certificate(_certificate(pem[0]), self._now())
        token = _bearer(context.invocation_metadata())
        if self._review is None:
            raise RefusedError("service-account tokens are not accepted here")
        return peer_of_user(await self._review(token, _host(context)))

    async def _end(self, context: Any, error: RefusedError, **claimed: str) -> NoReturn:
        """A peer that is known lacks a permission; one that is not has yet to prove who it is."""
        code = grpc.StatusCode.PERMISSION_DENIED if error.peer else grpc.StatusCode.UNAUTHENTICATED
        if self._is_news(context, str(error), named=bool(claimed.get("proxy"))):
            peer = str(error.peer or "unknown")
            _log.warning("refused", why=str(error), address=context.peer(), peer=peer, **claimed)
        await context.abort(code, str(error))
        raise AssertionError

    async def _end_unknown(self, context: Any, error: ReviewError) -> NoReturn:
        if self._is_news(context, str(error)):
            _log.warning("a token cannot be judged now", why=str(error), address=context.peer())
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the token cannot be judged now")
        raise AssertionError

    def _is_news(self, context: Any, why: str, *, named: bool = False) -> bool:
        """Tell whether a line is worth it: whoever is refused tries again, and may do so without end.

        An access log's sender has no name; its refusal must not stand for that of a proxy that says its own.
        """
        said, now = (_host(context), why, named), self._clock()
        if now - self._said.get(said, -_SAID_AGAIN) < _SAID_AGAIN:
            return False
        self._said[said] = now
        self._said.move_to_end(said)
        if len(self._said) > _SAID_MOST:
            self._said.popitem(last=False)
        return True


@lru_cache(maxsize=1024)
def _certificate(pem: bytes) -> Certificate:
    """Read a certificate once: its owner shows it with every export of its log."""
    return read_certificates(pem)[0]


def _bearer(metadata: Any) -> str:
    for name, value in metadata or ():
        scheme, _, token = value.partition(" ") if name == "authorization" else ("", "", "")
        if scheme.lower() == "bearer" and 0 < len(token) <= _LONGEST_TOKEN:
            return str(token)
    raise RefusedError("it shows neither a client certificate nor a service-account token")


def _host(context: Any) -> str:
    """Return who calls, without the port, which is another one for each connection."""
    return str(context.peer()).rpartition(":")[0]
