"""kopf, set up to tell of events and to do nothing else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import kopf
from kubernetes.aio.client.rest import RESTClientObject
from yarl import URL

from aoai_operator.adapters.kube.access import authorization, configuration, said
from aoai_operator.adapters.kube.marks import Marks
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import Resource

_PREFIX = "aoai.dev"
_BEAT = 1.0
_LAST = 1.0
"""Seconds that kopf has after its end to end."""
_CANCELS = 20
_CLOSINGS, _CLOSING = 100, 0.01
_PAGE = 500
"""Objects in one answer of a list."""
_IDLE = 0.01
"""Seconds for which kopf keeps a task, a queue and the last event of an object without news. At 0 it would spin."""
_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json"
_WATCH = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
"""What is asked for: of the objects, their metadata alone (Kubernetes, API concepts, "Metadata-only fetches")."""
_FORBIDDEN = 403
_REFUSED = 5.0
"""Seconds between two tries, at the least, of what there is no right to."""
_LOGIN_FIRST, _LOGIN_LONGEST = 1.0, 30.0


class Scope(NamedTuple):
    """Objects of a kind in a namespace, or in all of them: what is listed and watched at once."""

    resource: Resource
    namespace: str | None

    def __str__(self) -> str:
        return f"{self.resource} in {self.namespace or 'all namespaces'}"


class Watcher:
    """Runs kopf once, in the loop of `run`. All callbacks are called there."""

    def __init__(
        self,
        *,
        kinds: Mapping[Resource, tuple[str, bool]],
        namespaces: Sequence[str],
        kubeconfig: Path | None,
        listed: Callable[[Scope], None],
        changed: Callable[[Resource, PoolKey, str], None],
        beat: Callable[[], None],
    ) -> None:
        """Take what to watch, and who hears of it.

        Args:
            kinds: each with its label selector, and whether a change of its status alone is no news.
            namespaces: empty: everywhere.
            kubeconfig: see access.configuration.
            listed: hears what was listed: at the start, and after a watch was broken for so long that events are lost.
            changed: hears of each event that is news, with the object's uid.
            beat: is called every second.
        """
        self._kinds = kinds
        self._namespaces = namespaces
        self._kubeconfig = kubeconfig
        self._listed = listed
        self._changed = changed
        self._beat = beat
        self._marks = Marks()
        self._stop: Callable[[], object] = lambda: None
        self._stopped = False
        self._login_pause = 0.0
        self._sessions: list[aiohttp.ClientSession] = []
        self._sockets: list[socket.socket] = []

    def stop(self) -> None:
        """Have `run` return soon; from any thread."""
        self._stopped = True
        self._stop()

    async def run(self) -> None:
        """Watch until stopped, or until kopf gives up; whatever it raises then is raised."""
        loop, stop, over = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._stop = lambda: loop.is_closed() or loop.call_soon_threadsafe(stop.set)
        if self._stopped:
            return
        operating = asyncio.create_task(
            kopf.operator(
                registry=self._registry(over),
                settings=self._settings(),
                standalone=True,
                clusterwide=not self._namespaces,
                namespaces=tuple(self._namespaces),
                stop_flag=stop,
            )
        )
        ending = asyncio.create_task(over.wait())
        beating = asyncio.create_task(self._beats())
        try:
            await asyncio.wait({operating, ending, beating}, return_when=asyncio.FIRST_COMPLETED)
            # When one of its watches fails, kopf may wait for another one for ever, which wants to log in again.
            await asyncio.wait({operating}, timeout=_LAST)
            if operating.done():
                operating.result()
        finally:
            await _cancel_all()
            await self._close()

    async def _close(self) -> None:
        """Close the connections, and wait until they are closed: the loop ends with us.

        A response that was closed early left its connection to say goodbye by TLS; a server that hangs never answers.
        """
        for session in self._sessions:
            await session.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for _ in range(_CLOSINGS):
            if all(each.fileno() < 0 for each in self._sockets):
                return
            await asyncio.sleep(_CLOSING)

    def _socket(self, address: Any) -> socket.socket:
        made = socket.socket(*address[:3])
        self._sockets = [made, *(each for each in self._sockets if each.fileno() >= 0)]
        return made

    async def _beats(self) -> None:
        while True:
            self._beat()
            await asyncio.sleep(_BEAT)

    def _settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.peering.standalone = True
        # Neither CRDs nor namespaces are watched: the operator needs no right to.
        settings.scanning.disabled = True
        settings.posting.enabled = False
        settings.networking.connect_timeout = 10
        settings.networking.request_timeout = 60
        settings.networking.error_backoffs = (1, 2, 3, 5)
        settings.watching.server_timeout = 600
        settings.watching.chunk_size = _PAGE
        settings.queueing.idle_timeout = _IDLE
        settings.queueing.exit_timeout = 0.5
        # Nothing of this is ever written; were it, it should not pass for another kopf operator's.
        settings.persistence.finalizer = f"{_PREFIX}/operator"
        settings.persistence.progress_storage = settings.persistence.diffbase_storage = _Nothing()
        # kopf would kill the process at the end of this time; who runs us decides that.
        settings.process.ultimate_exiting_timeout = None
        for resource, (labels, _) in self._kinds.items():
            if labels:
                settings.watching.label_selectors[resource.group, resource.version, resource.plural] = labels
        return settings

    def _registry(self, over: asyncio.Event) -> kopf.OperatorRegistry:
        async def ended(**_: Any) -> None:
            over.set()

        registry = kopf.OperatorRegistry()
        kopf.on.cleanup(id="ended", registry=registry)(ended)
        kopf.on.login(id="login", registry=registry, backoff=2)(self._login)
        for resource, (_, quiet) in self._kinds.items():
            kopf.on.event(
                resource.group, resource.version, resource.plural, id=f"wake-{resource.plural}", registry=registry
            )(self._handler(resource, quiet=quiet))
        return registry

    def _handler(self, resource: Resource, *, quiet: bool) -> Any:
        async def event(event: Mapping[str, Any], **_: Any) -> None:
            item = event["object"]
            if self._marks.news(item, deleted=event["type"] == "DELETED") or not quiet:
                metadata = item["metadata"]
                self._changed(resource, PoolKey(metadata["namespace"], metadata["name"]), metadata["uid"])

        return event

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        """Return a session that reads the token again, and that tells of lists.

        kopf asks for another one when the server refuses the credentials. A namespace that became empty while the watch
        was broken gives no event at all; that it was listed again can be seen here only.
        """
        await asyncio.sleep(self._login_pause)
        self._login_pause = min(2 * self._login_pause or _LOGIN_FIRST, _LOGIN_LONGEST)
        config = await configuration(self._kubeconfig)
        scopes = self._scopes(URL(config.host).path.rstrip("/"))

        async def middleware(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            if (value := await authorization(config)) is not None:
                request.headers["Authorization"] = value
            query = request.url.query
            if (scope := scopes.get(request.url.path)) is not None:
                request.headers["Accept"] = _WATCH if "watch" in query else _LIST
            try:
                response = await handler(request)
            except aiohttp.ClientHttpProxyError as error:
                raise aiohttp.ClientConnectionError(said(error)) from None
            if response.status == _FORBIDDEN and scope is not None:
                # kopf would end all of its watches; one whose connection breaks is begun again alone.
                response.close()
                await asyncio.sleep(_REFUSED)
                raise aiohttp.ClientConnectionError(f"the right to list and watch {scope} is missing")
            if response.ok:
                self._login_pause = 0.0
                if scope is not None and not {"watch", "continue"} & query.keys():
                    self._listed(scope)
            return response

        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=RESTClientObject(config).ssl_context, limit=0, socket_factory=self._socket
            ),
            proxy=config.proxy,
            middlewares=(middleware,),
            response_class=_emptied(scopes, self._marks.listed),
        )
        self._sessions.append(session)
        return kopf.AiohttpSession(server=config.host, aiohttp_session=session)

    def _scopes(self, base: str) -> Mapping[str, Scope]:
        """Return what is listed at each path of a server, whose own path is the base."""
        found = {}
        for resource in self._kinds:
            root = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.api_version}"
            for namespace in self._namespaces or (None,):
                within = f"/namespaces/{namespace}" if namespace else ""
                found[f"{base}{root}{within}/{resource.plural}"] = Scope(resource, namespace)
        return found


def _emptied(paths: Container[str], listed: Callable[[Mapping[str, Any]], None]) -> type[aiohttp.ClientResponse]:
    """Return what keeps the objects of lists from kopf: of each it would make a task, an event and a memory for good.

    A list of metadata that is empty has null for its objects besides, on which kopf fails.
    """

    class Response(aiohttp.ClientResponse):
        async def json(self, **options: Any) -> Any:
            found = await super().json(**options)
            if self.ok and self.url.path in paths:
                for item in found["items"] or ():
                    listed(item)
                found["items"] = []
            return found

    return Response


class _Nothing(kopf.DiffBaseStorage, kopf.ProgressStorage):
    """Remembers nothing of an object.

    kopf compares each object with what it was, for handlers that we do not have: its own storages copy the object
    deeply at every event for that.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        return {}

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None: ...

    def purge(self, **_: Any) -> None: ...

    def touch(self, **_: Any) -> None: ...


async def _cancel_all() -> None:
    """End all other tasks of this loop; some of kopf's take a cancellation for something else, and go on."""
    for _ in range(_CANCELS):
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if not rest:
            return
        for task in rest:
            task.cancel()
        await asyncio.wait(rest, timeout=0.1)
