"""Azure Resource Manager, by azure-mgmt-cognitiveservices. Reads only."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import ClientResponse, ClientSession, TCPConnector
from azure.core.credentials import AccessToken
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.core.pipeline.transport import AioHttpTransport

from aoai_operator.core.credentials import is_sendable
from aoai_operator.core.discovered import AzureSource, FoundAccount, FoundDeployment, Retirement, address_of
from aoai_operator.core.secret import SecretValue, redacted
from aoai_operator.core.table import Identity
from aoai_operator.core.trusted import manager_of
from aoai_operator.ports import GrantError, ReadingError, Token, TokenSource

if TYPE_CHECKING:
    from azure.mgmt.cognitiveservices.aio import CognitiveServicesManagementClient

_LARGEST = 16 * 1024 * 1024
"""Bytes of one answer. A page of Azure's has at most some hundred accounts or deployments, of a few kB each."""
_LONGEST = 500
_UNTOLD = 30.0
"""Seconds for which Azure is left alone when it throttles, and does not say for how long."""
_LEFT = 300.0
"""Seconds that a token must still be good for, to be shown again."""
_WITHIN = 30.0
_LOOKED_AT = 300.0
"""Seconds after which keys are read again, though none was refused."""
_OPENAI = "OpenAI Language Model Instance API"
"""The name of the Azure OpenAI address among `properties.endpoints`."""
_SHARED = ".api.cognitive.microsoft.com"
"""The end of a region's own address, which accounts without a custom subdomain share."""


class ArmReader:
    """Implements `AzureReader`, and `TokenSource` also for the keys of accounts."""

    def __init__(
        self, tokens: TokenSource, *, ca_file: Path | None = None, environment: Mapping[str, str] = os.environ
    ) -> None:
        """Take whom to ask for tokens, the CAs that are trusted (None: the machine's), and the operator's variables."""
        self._tokens = tokens
        self._ca_file = ca_file
        self._held: dict[tuple[Identity, SecretValue | None], Token] = {}
        self._asking: defaultdict[tuple[Identity, SecretValue | None], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._environment = environment

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        # azure-core would make one for each request: it reads all authorities each time, and no connection is kept.
        return ssl.create_default_context(cafile=self._ca_file)

    def open(self, source: AzureSource, credential: SecretValue | None) -> AbstractAsyncContextManager[_Session]:
        """Return what reads for a source; one token is asked for while it is open."""
        return self._session(source.identity, source.manager, credential)

    async def token(self, identity: Identity, credential: SecretValue | None) -> Token:
        """Return a token of an identity, or with one the keys of an account."""
        if not identity.account:
            return await self._tokens.token(identity, credential)
        try:
            async with asyncio.timeout(_WITHIN), self._session(identity, identity.manager, credential) as session:
                keys = await session.keys(identity.account)
        except TimeoutError:
            raise GrantError(f"there was no answer within {_WITHIN:g} s") from None
        except ReadingError as error:
            raise GrantError(str(error)) from None
        if not keys or not all(map(is_sendable, keys)):
            raise GrantError("Azure gave no keys, or such as no HTTP header may carry")
        return Token(keys[0], inf, time.time() + _LOOKED_AT, other=keys[-1])

    async def _token(self, identity: Identity, credential: SecretValue | None) -> Token:
        """Return a token that opens the management: one for all that is read with an identity."""
        key = (identity, credential)
        async with self._asking[key]:
            held = self._held.get(key)
            if held is None or held.until - time.time() < _LEFT:
                held = self._held[key] = await self._tokens.token(identity, credential)
            return held

    @asynccontextmanager
    async def _session(
        self, identity: Identity, manager: str, credential: SecretValue | None
    ) -> AsyncIterator[_Session]:
        # Of a cloud there is one audience, whatever stands before its management.
        cloud = manager_of(identity.authority_host or self._environment.get("AZURE_AUTHORITY_HOST", ""))
        identity = identity.model_copy(update={"scope": f"{cloud}/.default", "account": "", "manager": ""})

        async def token() -> AccessToken:
            granted = await self._token(identity, credential)
            return AccessToken(granted.value.reveal(), int(granted.until))

        def refused() -> None:
            self._held.pop((identity, credential), None)

        async with ClientSession(connector=TCPConnector(ssl=self._trust), response_class=_Bounded) as http:
            transport = AioHttpTransport(session=http, session_owner=False, connection_timeout=5, read_timeout=30)
            yield _Session(manager or cloud, _Credential(token), transport, refused)


class _TooLargeError(Exception):
    """An answer is larger than any of Azure's."""


class _Bounded(ClientResponse):
    """An answer that is read up to a bound, unpacked."""

    async def read(self) -> bytes:
        if self._body is None:
            body = bytearray()
            async for chunk in self.content.iter_chunked(65_536):
                body += chunk
                if len(body) > _LARGEST:
                    self.close()
                    raise _TooLargeError(f"the answer is larger than {_LARGEST} bytes")
            self._body = bytes(body)
        return self._body


class _Credential:
    """Implements azure-core's `AsyncTokenCredential`."""

    def __init__(self, token: Callable[[], Awaitable[AccessToken]]) -> None:
        self._token = token

    async def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return await self._token()

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> _Credential:
        return self

    async def __aexit__(self, *_error: object) -> None:
        pass


class _Session:
    """Implements `AzureSession`."""

    def __init__(
        self, manager: str, credential: _Credential, transport: AioHttpTransport, denied: Callable[[], None]
    ) -> None:
        self._denied = denied
        self._manager = manager
        self._credential = credential
        self._transport = transport
        self._clients: dict[str, CognitiveServicesManagementClient] = {}

    async def accounts(self, subscription: str, group: str) -> tuple[FoundAccount, ...]:
        operations = self._client(subscription).accounts
        with self._told(f"subscription {subscription}{f', resource group {group}' if group else ''}"):
            listed = operations.list_by_resource_group(group) if group else operations.list()
            return tuple([_account(one) async for one in listed])

    async def account(self, account: FoundAccount) -> FoundAccount | None:
        with self._told(f"account {account.name}"):
            try:
                return _account(await self._client(account.subscription).accounts.get(account.group, account.name))
            except ResourceNotFoundError:
                return None

    async def deployments(self, account: FoundAccount) -> tuple[FoundDeployment, ...]:
        with self._told(f"deployments of {account.name}"):
            listed = self._client(account.subscription).deployments.list(account.group, account.name)
            return tuple([_deployment(one) async for one in listed])

    async def retirements(self, subscription: str, location: str) -> tuple[Retirement, ...]:
        with self._told(f"models of {location}"):
            listed = self._client(subscription).models.list(location)
            return tuple(sorted({found async for one in listed if (found := _retirement(one))}, key=str))

    async def keys(self, account: str) -> tuple[SecretValue, ...]:
        """Return the keys of an account, by its resource id."""
        _, _, subscription, _, group, *_, name = account.split("/")
        with self._told(f"keys of {name}"):
            found = await self._client(subscription).accounts.list_keys(group, name)
            return tuple(SecretValue(key) for key in (found.key1, found.key2) if isinstance(key, str) and key)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Tell of all that can go wrong as a `ReadingError`; a token that was refused is not shown again."""
        try:
            with _told(what):
                yield
        except ReadingError as error:
            if error.denied:
                self._denied()
            raise

    def _client(self, subscription: str) -> CognitiveServicesManagementClient:
        if subscription not in self._clients:
            # Of tens of megabytes, which only those pay who use it.
            from azure.mgmt.cognitiveservices.aio import CognitiveServicesManagementClient  # noqa: PLC0415

            self._clients[subscription] = CognitiveServicesManagementClient(
                self._credential,
                subscription,
                base_url=self._manager,
                credential_scopes=[f"{self._manager}/.default"],
                transport=self._transport,
                retry_total=0,
            )
        return self._clients[subscription]


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell of all that can go wrong with an answer as a `ReadingError`."""
    try:
        yield
    except GrantError as error:
        raise ReadingError(f"Entra ID gives no token for Azure Resource Manager: {error}") from None
    except HttpResponseError as error:
        told = error.error
        words = f"{told.code}: {told.message}" if told and told.code else error.reason or type(error).__name__
        denied = error.status_code == 401
        told_by = _sentence(what, f"{error.status_code or ''} {words}")
        raise ReadingError(told_by, wait=_wait(error), denied=denied) from None
    except AzureError as error:
        raise ReadingError(_sentence(what, str(error) or type(error).__name__)) from None
    except (_TooLargeError, OSError) as error:
        raise ReadingError(_sentence(what, str(error))) from None
    except (AttributeError, TypeError, ValueError, KeyError, LookupError) as error:
        # What azure-mgmt-cognitiveservices raises of an answer that is not what is documented.
        raise ReadingError(_sentence(what, f"the answer is not as documented ({type(error).__name__})")) from None


def _sentence(what: str, words: str) -> str:
    return f"{what}: {' '.join(redacted(words, ()).split())}"[:_LONGEST].rstrip(". ")


def _wait(error: HttpResponseError) -> float | None:
    """Return for how many seconds Azure wants to be left alone; None: it does not say."""
    if error.status_code not in {429, 503}:
        return None
    untold = _UNTOLD if error.status_code == 429 else None
    headers: Mapping[str, str] = getattr(error.response, "headers", {})
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else untold


def _account(found: Any) -> FoundAccount:
    properties = found.properties
    _, _, subscription, _, group, *_ = _text(found.id).split("/")
    addresses = {name: _text(url) for name, url in (properties.endpoints or {}).items()}
    main = addresses.get(_OPENAI) or _text(properties.endpoint)
    told = {url: address_of(url) for url in (main, *addresses.values())}
    own = {url: address for url, address in told.items() if not address.partition(":")[0].endswith(_SHARED)}
    return FoundAccount(
        id=found.id,
        name=_text(found.name),
        subscription=subscription.lower(),
        group=group,
        kind=_text(found.kind),
        location=_text(found.location),
        tags=tuple(sorted((found.tags or {}).items())),
        url=main if main in own else "",
        addresses=tuple(sorted({address for address in own.values() if address})),
        state=_text(properties.provisioning_state),
        local_auth=properties.disable_local_auth is not True,
    )


def _deployment(found: Any) -> FoundDeployment:
    properties = found.properties
    limits = properties.rate_limits or ()
    return FoundDeployment(
        name=_text(found.name),
        model=_text(properties.model.name),
        version=_text(properties.model.version),
        type=_text(found.sku.name) if found.sku else "",
        state=_text(properties.provisioning_state),
        tokens=_per_minute(limits, "token"),
        requests=_per_minute(limits, "request"),
        content_filter=_text(properties.rai_policy_name),
    )


def _retirement(found: Any) -> Retirement | None:
    model = found.model
    ends = _text(model.deprecation.inference) if model and model.deprecation else ""
    if not ends:
        return None
    instead = model.replacement_config
    replacement = f"{_text(instead.target_model_name)} {_text(instead.target_model_version)}".strip() if instead else ""
    at = datetime.fromisoformat(ends)
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    planned = _text(model.deprecation.deprecation_status) != "Tentative"
    return Retirement(_text(model.name), _text(model.version), round(at.timestamp() * 1000), replacement, planned)


def _per_minute(limits: Iterable[Any], key: str) -> int | None:
    found = [r.count * 60 / r.renewal_period for r in limits if r.key == key and r.count and r.renewal_period]
    return int(min(found)) if found else None


def _text(value: object) -> str:
    """Return a text, also of an enumeration; what is none is not as documented."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, and it is a {type(value).__name__}")
    return str(getattr(value, "value", value))
