"""The keys of tokens' issuers, by OpenID Connect discovery over HTTPS."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from aoai_operator.core.observed import SigningKeys
from aoai_operator.core.oidc import DISCOVERY, OidcError, read_discovery, read_jwks
from aoai_operator.core.table import TokenIssuer
from aoai_operator.ports import IssuerError

_MOST = 256 * 1024
_WITHIN = 5.0


class HttpIssuers:
    """Implements `Issuers` for those that are found by a URL."""

    def __init__(self, *, ca_file: Path | None = None) -> None:
        """Trust the CAs of `ca_file` (PEM), or the machine's own when None."""
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=ca_file),
            trust_env=False,
            follow_redirects=False,
            timeout=_WITHIN,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def keys(self, issuer: TokenIssuer) -> SigningKeys:
        """Return an issuer's name and keys."""
        if not issuer.url:
            raise IssuerError("there is no API server here: give spec.auth.serviceAccounts.issuer")
        try:
            name, where = read_discovery(issuer, await self._get(issuer.url + DISCOVERY))
            return SigningKeys(name, read_jwks(await self._get(where)))
        except OidcError as error:
            raise IssuerError(f"{issuer.url}: {error}") from None

    async def _get(self, url: str) -> bytes:
        try:
            async with asyncio.timeout(2 * _WITHIN), self._client.stream("GET", url) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise IssuerError(f"{url} answers with HTTP status {answer.status_code}")
                text = b""
                async for part in answer.aiter_bytes():
                    text += part
                    if len(text) > _MOST:
                        raise IssuerError(f"{url} answers with more than {_MOST} bytes")
                return text
        except (TimeoutError, httpx.TimeoutException):
            raise IssuerError(f"{url} does not answer within {_WITHIN:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise IssuerError(f"{url} cannot be reached: {error or type(error).__name__}") from None
