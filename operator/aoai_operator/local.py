"""The composition root of `aoai-operator local`: the same core as in a cluster, on files, with Envoy as a child.

files --watch--> Reconciler: load, compile --tables, secrets--> Publisher: translate --snapshot--> xDS --> Envoy
                     |                                              ^                                       |
                     +--statuses--> terminal        Observer -------+                                       |
                                                     ^    ^                                                 |
probes, name resolution -----------------------------+    +---- Accounting <------------ access log --------+
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path
from ssl import SSLError
from typing import Any

import structlog
from prometheus_client import disable_created_metrics

from aoai_operator.adapters.clock import SteadyClock
from aoai_operator.adapters.envoy_process import EnvoyOptions, EnvoyProcess, find_envoy
from aoai_operator.adapters.files_store import watch
from aoai_operator.adapters.http import Checks, serve_http
from aoai_operator.adapters.ledger_server import serve_ledger
from aoai_operator.adapters.listening import reserved_port
from aoai_operator.adapters.manifests.reading import SUFFIXES
from aoai_operator.adapters.pipe_log import access_log
from aoai_operator.adapters.stopping import Stop, stop_signals, until
from aoai_operator.adapters.terminal import Terminal
from aoai_operator.adapters.usage_file import UsageFile, UsageFileError
from aoai_operator.adapters.workspace import workspace
from aoai_operator.control_plane import ControlPlane
from aoai_operator.core.certificates import expiries
from aoai_operator.core.compiler import Compiled
from aoai_operator.core.conditions import ConditionType
from aoai_operator.core.discovery import sources
from aoai_operator.core.envoy.bootstrap import UnixAddress, bootstrap
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Snapshot
from aoai_operator.core.located import LocatedFault
from aoai_operator.core.names import PoolKey
from aoai_operator.core.observed import Overrides
from aoai_operator.core.quota.admission import Admission
from aoai_operator.core.quota.asking import read, write
from aoai_operator.core.served import served_pools
from aoai_operator.core.table import RoutingTable
from aoai_operator.core.world import Programming, World
from aoai_operator.interpreter import collected_seldom
from aoai_operator.local_resources import FileResources
from aoai_operator.metrics import Metrics
from aoai_operator.runners.accounting import Accounting
from aoai_operator.runners.checkpoint import Checkpoint
from aoai_operator.runners.observing import Observer
from aoai_operator.runners.publish import Publisher
from aoai_operator.runners.reconcile import Reconciler
from aoai_operator.settings import HostPort, LocalSettings, OutputFormat, system_trust
from aoai_operator.upstream import Upstream

_log = structlog.get_logger("local")

_POLL = 0.02
_LONGEST_DIRECTORY = 85
"""A Unix socket's path has at most 103 characters on macOS, 107 on Linux (unix(7)); ours add up to 14 to this."""


class StartError(Exception):
    """It cannot start as asked: a port in use, an address of another machine. The message says which and why."""


class NothingToServeError(Exception):
    """The manifests are broken, or hold no pool for this gateway. The message says what is wrong and where."""


async def run_local(settings: LocalSettings) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; then drain, and return.

    Raises:
        StartError: see there.
        EnvoyMissingError: there is no Envoy to run.
        NothingToServeError: see there.
    """
    # A `_created` series beside each counter would nearly double what is scraped, and nothing asks for them.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        try:
            directory = stack.enter_context(workspace())
        except OSError as error:
            raise StartError(f"cannot make a directory for sockets and pipes: {error.strerror}; set TMPDIR") from error
        if len(str(directory)) > _LONGEST_DIRECTORY:
            raise StartError(f"{directory} is too long a path for Unix sockets; set TMPDIR to a shorter one")
        listen = _reserved(stack, settings.listen)
        tls = _reserved(stack, settings.listen_tls) if settings.listen_tls else None
        try:
            local = _Local(settings, directory=directory, listen=listen, listen_tls=tls)
        except SSLError as error:
            raise StartError(f"{settings.ca_file or system_trust()} holds no certificate in PEM") from error
        await local.serve(stop)


def _reserved(stack: AsyncExitStack, wanted: HostPort) -> HostPort:
    try:
        return HostPort(wanted.host, stack.enter_context(reserved_port(wanted.host, wanted.port)))
    except OSError as error:
        raise StartError(f"cannot listen on {wanted}: {error.strerror}") from error


class _Local:
    """All parts, put together."""

    def __init__(
        self, settings: LocalSettings, *, directory: Path, listen: HostPort, listen_tls: HostPort | None
    ) -> None:
        self._settings = settings
        self._starting = ExitStack()
        self._listen = listen
        self._control_plane = directory / "operator.sock"
        self._admin = directory / "envoy.sock"
        self._trusted_ca = settings.ca_file or system_trust()
        self._pipe = directory / "access.log"
        self._ledger = directory / "ledger.sock"
        self._gateway = GatewaySettings(
            gateway=settings.gateway,
            listen_host=listen.host,
            listen_port=listen.port,
            access_log=str(self._pipe),
            trusted_ca=str(self._trusted_ca),
            tls_host=listen_tls.host if listen_tls else None,
            tls_port=listen_tls.port if listen_tls else None,
            ledger=str(self._ledger),
            workers=settings.concurrency,
        )
        self._resources = FileResources(settings.paths, settings.token_hosts)
        self._observer = Observer(changed=self._observed, now=_now)
        self._metrics = Metrics()
        self._upstream = Upstream(
            ca_file=self._trusted_ca, observer=self._observer, metrics=self._metrics, now=_now, developer=True
        )
        self._steady = SteadyClock()
        self._admission = Admission(self._steady(), self._metrics.quotas)
        self._accounting = Accounting(
            observer=self._observer,
            probe_soon=self._upstream.probing.soon,
            meters=self._metrics,
            settle=self._admission.settle,
            denied=self._upstream.denied,
        )
        self._publisher = Publisher(
            settings=self._gateway,
            observing=self._observer,
            publish=self._publish,
            prepare=lambda snapshot: self._proxies.prepare(snapshot),  # noqa: PLW0108 - they need each other
            moved=lambda: self._reconciler.observations_changed(),  # noqa: PLW0108
            now=_now,
            interval=settings.publish_interval,
        )
        self._reconciler = Reconciler(
            load=self._load,
            observe=self._observer.overrides,
            programming=self._programming,
            deliver=self._deliver,
            now=_now,
            hold_off=settings.hold_off,
            hold_off_max=settings.hold_off_max,
        )
        self._discovering = self._upstream.discovering(self._reconciler.resources_changed)
        self._plane = ControlPlane(changed=self._reconciler.observations_changed, meters=self._metrics)
        self._proxies = self._plane.add(
            settings.gateway, refused=self._publisher.refused, settled=self._publisher.settled
        )
        self._envoy = EnvoyProcess(
            self._envoy_options(directory), on_restart=self._metrics.envoy_restarted, clean=self._publisher.cleaned
        )
        self._faults: tuple[LocatedFault, ...] = ()
        self._compiled = Compiled({}, {}, {}, ())
        self._terminal = Terminal(as_json=settings.output is OutputFormat.JSON)

    def _envoy_options(self, directory: Path) -> EnvoyOptions:
        return EnvoyOptions(
            binary=find_envoy(self._settings.envoy),
            directory=directory,
            bootstrap=bootstrap(
                node_id="local",
                gateway=self._settings.gateway,
                control_plane=UnixAddress(str(self._control_plane)),
                admin=UnixAddress(str(self._admin)),
                max_connections=self._settings.max_connections,
                max_heap_bytes=self._settings.max_heap_bytes,
            ),
            admin_socket=self._admin,
            concurrency=self._settings.concurrency,
            drain_seconds=self._settings.drain,
        )

    async def serve(self, stop: Stop) -> None:
        """Start the parts in order, serve until `stop`, and end them in the opposite order."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._starting)
            self._starting.enter_context(collected_seldom())
            await stack.enter_async_context(self._upstream)
            discovering = asyncio.create_task(self._discovering.run())
            stack.push_async_callback(_ended, discovering)
            await self._first_reading()
            checkpoint = self._checkpoint()
            await self._read_access_log(stack)
            await stack.enter_async_context(self._plane.serving(f"unix:{self._control_plane}"))
            await stack.enter_async_context(serve_ledger(self._ledger, self._asked))
            metrics = await self._serve_metrics(stack)
            loops = (
                self._publisher.run(),
                self._reconciler.run(),
                *self._upstream.loops(),
                watch(self._settings.paths, self._reconciler.resources_changed, suffixes=SUFFIXES),
                self._envoy.run(),
                self._announce({"metrics": metrics, "admin": str(self._admin)}),
            )
            tasks = [discovering, *(asyncio.create_task(loop) for loop in (*loops, *checkpoint))]
            try:
                await until(stop.asked, tasks)
                _log.info("stopping: requests under way may finish", within=self._settings.drain)
                tasks.append(asyncio.create_task(self._envoy.stop()))
                await until(stop.hurry, tasks[-1:])
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _checkpoint(self) -> list[Coroutine[Any, Any, None]]:
        """Return what keeps what tenants used, if anything shall: from where it was kept last."""
        if self._settings.state is None:
            return []
        file = UsageFile(self._settings.state)
        try:
            before = file.load()
        except UsageFileError as error:
            raise StartError(str(error)) from error
        return [Checkpoint(admission=self._admission, save=file.save, before=before, now=self._steady).run()]

    async def _first_reading(self) -> None:
        await self._reconciler.reconcile()
        if self._discovering.found:
            await self._discovering.tried()
            self._reconciler.resources_changed()
            await self._reconciler.reconcile()
        if self._faults:
            raise NothingToServeError("\n".join(["the manifests are broken", *(f.sentence() for f in self._faults)]))
        findings = self._resources.located(self._compiled.findings)
        if not self._compiled.tables and (why := [*(f.sentence() for f in findings), *self._undiscovered()]):
            raise NothingToServeError("\n".join(["no pool can be served", *why]))
        if not self._mine():
            others = sorted({str(t.gateway) for t in self._compiled.tables.values()})
            hint = f"; their pools belong to the gateway {', '.join(others)}" if others else ""
            where = ", ".join(map(str, self._settings.paths))
            raise NothingToServeError(
                f"there is no AOAIBackendPool for the gateway {self._settings.gateway} in {where}{hint}"
            )

    def _undiscovered(self) -> list[str]:
        """Return why pools have no endpoint yet that look for them in Azure."""
        told = (
            (key, condition)
            for key, status in self._compiled.pool_statuses.items()
            for condition in status.conditions
            if condition.type == ConditionType.DISCOVERED and condition.status != "True"
        )
        return [f"AOAIBackendPool {key}: {condition.message}" for key, condition in told]

    async def _read_access_log(self, stack: AsyncExitStack) -> None:
        try:
            await stack.enter_async_context(access_log(self._pipe, self._accounting))
        except OSError as error:
            raise StartError(f"cannot make the pipe {self._pipe}: {error.strerror}; set TMPDIR") from error

    async def _serve_metrics(self, stack: AsyncExitStack) -> str:
        wanted = self._settings.metrics
        if wanted is None:
            return ""
        serving = serve_http(
            host=wanted.host,
            port=wanted.port,
            registry=self._metrics.registry,
            checks=Checks(healthy={"Envoy has taken a configuration": self._publisher.settled_once.is_set}),
        )
        try:
            port = await stack.enter_async_context(serving)
        except OSError as error:
            raise StartError(f"cannot serve metrics on {wanted}: {error.strerror}") from error
        return f"http://{HostPort(wanted.host, port)}"

    async def _announce(self, details: Mapping[str, str]) -> None:
        """Say that it is ready once Envoy took everything and answers at the gateway's address."""
        try:
            async with asyncio.timeout(self._settings.ready_timeout):
                await self._upstream.tried()
                await self._publisher.taken()
                await _accepting(self._listen)
        except TimeoutError:
            refusals = ". ".join(sorted(set(self._publisher.refusals().values())))
            why = f": {refusals}" if refusals else "; its log lines say more"
            raise StartError(f"Envoy was not ready within {self._settings.ready_timeout:g} s{why}") from None
        await self._reconciler.reconcile()
        self._starting.close()
        address = f"http://{self._listen}"
        pools = served_pools(address, self._mine(), self._compiled.pool_statuses, tls_port=self._gateway.tls_port)
        self._terminal.ready(address, pools, details)
        self._tell(self._observer.overrides(_now()))

    async def _load(self) -> World:
        world, self._faults = await asyncio.to_thread(self._resources.load)
        return replace(world, discovered=self._discovering.found)

    def _deliver(self, world: World, compiled: Compiled) -> None:
        self._compiled = compiled
        self._discovering.follow(sources(world.pools, world.token_hosts), world.secrets)
        mine = self._mine()
        self._metrics.follow(mine.values())
        self._metrics.observed(world.overrides)
        self._metrics.found(compiled.expansions)
        self._metrics.certificates(expiries(mine.values(), world.secrets))
        self._observer.follow(mine.values())
        self._admission.follow(mine.values())
        self._admission.observed(world.overrides)
        self._upstream.follow(mine.values(), world.secrets)
        self._publisher.want(mine, world.secrets)
        self._tell(world.overrides)

    def _tell(self, observed: Overrides) -> None:
        self._terminal.statuses(self._compiled, self._resources.located(self._compiled.findings), observed)
        self._terminal.faults([fault.sentence() for fault in self._faults])

    def _mine(self) -> Mapping[PoolKey, RoutingTable]:
        return {key: table for key, table in self._compiled.tables.items() if table.gateway == self._gateway.gateway}

    def _publish(self, snapshot: Snapshot) -> None:
        self._proxies.publish(snapshot)
        self._reconciler.observations_changed()

    def _asked(self, line: str) -> str:
        return write(self._admission.ask(read(line), self._steady()))

    def _observed(self) -> None:
        self._publisher.observed()
        self._reconciler.observations_changed()

    def _programming(self) -> Mapping[PoolKey, Sequence[Programming]]:
        return {key: (part,) for key, part in self._publisher.programming(self._proxies.programming).items()}


async def _accepting(listen: HostPort) -> None:
    """Wait until somebody listens; an address that stands for all is asked at loopback."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104
    while True:
        try:
            _, writer = await asyncio.open_connection(loopback, listen.port)
        except OSError:
            await asyncio.sleep(_POLL)
        else:
            writer.close()
            await writer.wait_closed()
            return


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _now() -> int:
    return time.time_ns() // 1_000_000
