"""Calls to the API server: plain dicts in and out, with a time limit, and errors that quote no credential."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client import ApiClient

from aoai_operator.adapters.kube.access import authorization, configuration, said
from aoai_operator.adapters.kube.resources import LEASES
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject, KubeError, KubeObserver, Resource

MANAGER = "aoai-operator"
"""The field manager of what we apply."""
STATUS_MANAGER = "aoai-operator-status"
"""The field manager of statuses."""

_PAGE = 500
_RESTARTS = 3
_CONNECT, _PAGE_WITHIN = 5.0, 60.0
"""Seconds for a connection, and for one page of a list."""
_KEY_SET = "application/jwk-set+json"
"""RFC 7517, 8.5.1: the server gives its keys as nothing else."""
_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_OK = 200
_REDIRECT = 300
_TELLING = frozenset({401, 403, 404, 409, 429})
"""Refusals whose words name objects and users only; those of others, such as 400 and 422, may quote a value."""


class Kube:
    """Implements `KubeApi`. Used from one event loop.

    Few calls are under way at once, so that the server is not flooded; those about Leases never wait for others.
    """

    def __init__(
        self, client: ApiClient, *, observer: KubeObserver | None = None, at_once: int = 16, within: float = 10.0
    ) -> None:
        """Take the client.

        Args:
            client: has the credentials.
            observer: hears of calls.
            at_once: how many calls may be under way.
            within: seconds that a call about one object may take.
        """
        self._client = client
        self._observer = observer
        self._limit = asyncio.Semaphore(at_once)
        self._within = within

    @classmethod
    @asynccontextmanager
    async def connected(
        cls, kubeconfig: Path | None = None, *, observer: KubeObserver | None = None, within: float = 10.0
    ) -> AsyncIterator[Kube]:
        """Yield a client with credentials as access.configuration finds them; it is closed at the end of the block.

        Raises:
            AccessError: there are none.
        """
        client = ApiClient(await configuration(kubeconfig))
        client.rest_client.pool_manager = _session(client.rest_client.ssl_context)
        try:
            yield cls(client, observer=observer, within=within)
        finally:
            await client.close()  # type: ignore[no-untyped-call]

    async def list(self, resource: Resource, namespace: str | None = None, labels: str = "") -> tuple[JsonObject, ...]:
        """Return all objects; page by page, and all pages are of one version of the collection."""
        for left in reversed(range(_RESTARTS)):
            try:
                return await self._pages(resource, namespace, labels)
            except KubeError as error:
                # The version that the pages are of is forgotten by the server after some minutes.
                if error.status != HTTPStatus.GONE or not left:
                    raise
        raise AssertionError  # the last round has returned or raised

    async def get(self, resource: Resource, key: PoolKey) -> JsonObject | None:
        """Return an object, None if there is none."""
        try:
            return _shown(await self._call("get", resource, "GET", _path(resource, key.namespace, key.name)), resource)
        except KubeError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def apply(self, resource: Resource, body: JsonObject, *, status: bool = False, part: str = "") -> JsonObject:
        """Apply by force: what somebody else has made of our fields is undone."""
        url = _path(resource, body["metadata"].get("namespace"), body["metadata"]["name"]) + (
            "/status" if status else ""
        )
        query = {"fieldManager": "-".join(filter(None, (STATUS_MANAGER if status else MANAGER, part))), "force": "true"}
        full = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return _shown(await self._call("patch", resource, "PATCH", url, query, body=full, media=_APPLY), resource)

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Create an object."""
        url = _path(resource, body.get("metadata", {}).get("namespace"))
        full = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        query = {"fieldManager": MANAGER}
        return _shown(await self._call("create", resource, "POST", url, query, body=full), resource)

    async def replace(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Replace an object."""
        url = _path(resource, body["metadata"].get("namespace"), body["metadata"]["name"])
        full = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        query = {"fieldManager": MANAGER}
        return _shown(await self._call("update", resource, "PUT", url, query, body=full), resource)

    async def delete(self, resource: Resource, key: PoolKey) -> None:
        """Delete an object, if there is one."""
        try:
            await self._call("delete", resource, "DELETE", _path(resource, key.namespace, key.name))
        except KubeError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def serves(self, resource: Resource) -> bool:
        """Ask for the kinds of the group."""
        try:
            found = await self._call("get", resource, "GET", _root(resource))
        except KubeError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        return any(kind["name"] == resource.plural for kind in found["resources"])

    async def document(self, path: str) -> JsonObject:
        """Return what the server has at a path that is no resource."""
        return await self._call("get", _DOCUMENTS, "GET", path)

    async def _pages(self, resource: Resource, namespace: str | None, labels: str) -> tuple[JsonObject, ...]:
        query = {"limit": str(_PAGE)} | ({"labelSelector": labels} if labels else {})
        items: list[JsonObject] = []
        while True:
            page = await self._call("list", resource, "GET", _path(resource, namespace), query, within=_PAGE_WITHIN)
            items += (_shown(item, resource) for item in page["items"])
            following = page["metadata"].get("continue")
            if not following:
                return tuple(items)
            query["continue"] = following

    async def _call(
        self,
        verb: str,
        resource: Resource,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: JsonObject | None = None,
        media: str = _JSON,
        within: float | None = None,
    ) -> JsonObject:
        async with AsyncExitStack() as stack:
            if resource is not LEASES:
                await stack.enter_async_context(self._limit)
            result, begun = "Cancelled", time.monotonic()
            within = within or self._within
            url = path + ("?" + urlencode(query) if query else "")
            try:
                async with asyncio.timeout(within):
                    status, data = await self._send(method, url, body, media=media, within=within)
                result = str(status)
            except TimeoutError:
                result = "Timeout"
                raise KubeError(0, result, f"the API server did not answer within {within:g} s") from None
            except (aiohttp.ClientError, OSError) as error:
                result = "Unreachable"
                # Only its words: the exception itself holds the request with its headers.
                raise KubeError(0, result, f"the API server cannot be reached: {said(error)}") from None
            finally:
                if self._observer is not None:
                    seconds = time.monotonic() - begun
                    self._observer.called(verb=verb, resource=resource.plural, result=result, seconds=seconds)
        if not _OK <= status < _REDIRECT:
            raise _refusal(resource, status, data)
        try:
            answer: JsonObject = json.loads(data)
        except ValueError:
            raise KubeError(status, "NotJson", "what answers is not a Kubernetes API server") from None
        return answer

    async def _send(
        self, method: str, url: str, body: JsonObject | None, *, media: str, within: float
    ) -> tuple[int, bytes]:
        config = self._client.configuration
        headers = {"Accept": f"{_JSON}, {_KEY_SET}", "Content-Type": media, "User-Agent": MANAGER}
        if (value := await authorization(config)) is not None:
            headers["Authorization"] = value
        timeout = aiohttp.ClientTimeout(total=within, sock_connect=_CONNECT)
        answer = await self._client.call_api(
            method, config.host + url, header_params=headers, body=body, _request_timeout=timeout
        )
        try:
            return answer.status, await answer.read()  # type: ignore[no-untyped-call]
        finally:
            answer.response.close()


_DOCUMENTS = Resource("", "v1", "documents", "Document")
"""What metrics and errors call a path that is no resource."""


def _session(trust: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust, limit=0, socket_factory=_socket))


def _socket(address: Any) -> socket.socket:
    """Make a socket whose closing takes back what the other side has not received.

    A write that ran into its time limit must not arrive later, when a network comes back: another leader may have
    written by then.
    """
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return made


def _root(resource: Resource) -> str:
    return f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.api_version}"


def _path(resource: Resource, namespace: str | None, name: str = "") -> str:
    within = f"/namespaces/{quote(namespace, safe='')}" if namespace and resource.namespaced else ""
    return f"{_root(resource)}{within}/{resource.plural}" + (f"/{quote(name, safe='')}" if name else "")


def _shown(item: JsonObject, resource: Resource) -> JsonObject:
    """Return an object as all calls return them: the items of a list lack their kind, and field managers take room."""
    item.setdefault("apiVersion", resource.api_version)
    item.setdefault("kind", resource.kind)
    item.get("metadata", {}).pop("managedFields", None)
    return item


def _refusal(resource: Resource, status: int, data: bytes) -> KubeError:
    try:
        answer = json.loads(data)
        reason, message = str(answer.get("reason") or status), str(answer.get("message") or "")
    except (ValueError, AttributeError):
        reason, message = str(status), ""
    if resource.confidential and status not in _TELLING:
        message = f"the API server refuses a {resource.kind}; why is not shown, since it may quote what is in it"
    return KubeError(status, reason, message or f"the API server answers with HTTP status {status}")
