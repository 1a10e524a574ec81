"""What only the leader does: compile pools and tenants, and have the outcome written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from aoai_operator.adapters.kube.secrets import SecretReader
from aoai_operator.adapters.kube.store import Unavailable
from aoai_operator.cluster.credentials import CredentialWriter
from aoai_operator.cluster.resources import Resources
from aoai_operator.cluster.serving import Serving
from aoai_operator.cluster.usage import UsageWriter
from aoai_operator.cluster.writer import Writer
from aoai_operator.core.compiler import Compiled
from aoai_operator.core.discovery import Expansion, sources
from aoai_operator.core.names import PoolKey
from aoai_operator.core.observed import Overrides
from aoai_operator.core.world import Programming, World
from aoai_operator.ports import Resource
from aoai_operator.runners.discovering import Discovering
from aoai_operator.runners.reconcile import Reconciler

_log = structlog.get_logger("leading")

_SECRETS_WITHIN = 5.0
"""Seconds to wait for Secrets that were not read yet; without them a new pool would be told that they are missing."""

_TRY_AGAIN = 1.0
"""Seconds until it is looked again whether resources can be read. The stores ask the API server less often."""


class Leading:
    """Compiles and writes, for as long as it is let."""

    def __init__(
        self,
        *,
        resources: Resources,
        secrets: SecretReader,
        serving: Serving,
        writer: Callable[[Callable[[], None]], Writer],
        usage: Callable[[Callable[[], None]], UsageWriter],
        discovering: Callable[[Callable[[], None]], Discovering],
        credentials: Callable[[Callable[[], None]], CredentialWriter],
        found: Callable[[Mapping[PoolKey, Expansion]], None],
        observe: Callable[[int], Overrides],
        programming: Callable[[], Mapping[PoolKey, Sequence[Programming]]],
        reconciled: Callable[[float], None],
        now: Callable[[], int],
        hold_off: float,
        hold_off_max: float,
    ) -> None:
        """Take the ways in and out.

        Args:
            resources: the pools and tenants.
            secrets: reads what they refer to.
            serving: has the tables that serve: what is held, or cannot be compiled, stays as it is there.
            writer: makes the one that writes during one term, with whom to tell when its `taken` changed.
            usage: makes the one that writes what tenants used, with whom to tell when its `fault` changed.
            discovering: makes the one that reads Azure, with whom to tell when something else was found.
            credentials: makes the one that writes their Secrets, with whom to tell when its `unwritten` changed.
            found: hears what was found in Azure, and at the end of a term of nothing.
            observe: gives what was observed of the hosts, as of a time.
            programming: gives how far the Envoys of all replicas are.
            reconciled: hears how many seconds a pass took.
            now: gives milliseconds of the Unix epoch.
            hold_off: seconds of quiet to wait for after a wake.
            hold_off_max: seconds that an unquiet time can put a pass off.
        """
        self._resources = resources
        self._secrets = secrets
        self._serving = serving
        self._new_writer = writer
        self._new_usage = usage
        self._new_discovering = discovering
        self._new_credentials = credentials
        self._found = found
        self._observe = observe
        self._programming = programming
        self._reconciled = reconciled
        self._begun = 0.0
        self._compiled = False
        self._all_read = asyncio.Event()
        self.settled = asyncio.Event()
        """Set once everything was compiled, by this replica and for the first time."""
        self._now = now
        self._hold_off = hold_off
        self._hold_off_max = hold_off_max
        self._reconciler: Reconciler | None = None
        self._writer: Writer | None = None
        self._credentials: CredentialWriter | None = None
        self._usage: UsageWriter | None = None
        self._discovering: Discovering | None = None

    def wake(self, resource: Resource, key: PoolKey | None) -> None:
        """Read a pool or a tenant again soon; None: all of that kind."""
        self._resources.wake(resource, key)
        if self._reconciler is not None:
            self._reconciler.resources_changed()

    def secrets_changed(self) -> None:
        """Compile again soon: a Secret changed."""
        if self._reconciler is not None:
            self._reconciler.resources_changed()

    def observations_changed(self) -> None:
        """Work the statuses out again soon."""
        if self._reconciler is not None:
            self._reconciler.observations_changed()

    def tables_changed(self) -> None:
        """See to it that the ConfigMaps are what they should be: one of them changed."""
        if self._writer is not None:
            self._writer.look_again()

    async def run(self) -> None:
        """Lead until cancelled. It starts from what is on the API server, and not from what it knew before."""
        # What serves must be known before anything is written, or a pool that is held would lose its table.
        await self._serving.read.wait()
        self._compiled = False
        self._all_read.clear()
        self._writer = writer = self._new_writer(self.secrets_changed)
        self._credentials = credentials = self._new_credentials(self.secrets_changed)
        self._usage = usage = self._new_usage(self.secrets_changed)
        self._discovering = discovering = self._new_discovering(self.secrets_changed)
        self._reconciler = reconciler = Reconciler(
            load=self._load,
            observe=self._observe,
            programming=self._programming,
            deliver=self._deliver,
            now=self._now,
            hold_off=self._hold_off,
            hold_off_max=self._hold_off_max,
        )
        reconciler.resources_changed()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(reconciler.run())
                tasks.create_task(writer.run())
                tasks.create_task(self._resync(reconciler))
                tasks.create_task(self._count(usage))
                tasks.create_task(self._make(credentials))
                tasks.create_task(discovering.run())
        finally:
            self._reconciler = self._writer = self._credentials = self._usage = self._discovering = None
            self._found({})
            for kind in self._resources.refs():
                self._secrets.want(kind, {})

    async def _count(self, usage: UsageWriter) -> None:
        """Go on counting from where the leader before this one was."""
        await self._all_read.wait()
        usage.begin()
        await usage.run()

    async def _make(self, credentials: CredentialWriter) -> None:
        """Make Secrets once it is known what there is."""
        await self._all_read.wait()
        await credentials.run()

    async def _resync(self, reconciler: Reconciler) -> None:
        """Wake for what nobody woke for: a resync, and what could not be read before."""
        while True:
            # No sleep until then: what fails meanwhile is due sooner.
            await asyncio.sleep(_TRY_AGAIN)
            if not self._resources.due_in():
                reconciler.resources_changed()

    async def _load(self) -> World:
        self._begun = asyncio.get_running_loop().time()
        await self._read()
        self._all_read.set()
        for kind, refs in self._resources.refs().items():
            self._secrets.want(kind, refs)
        if requested := self._resources.requested():
            self._secrets.refresh(requested)
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECRETS_WITHIN):
                await self._secrets.settled()
        # After the first pass of a term what was compiled last is known better.
        world = self._resources.world(self._secrets.values, self._serving.tables, statuses=not self._compiled)
        if self._writer is None or self._credentials is None or self._usage is None or self._discovering is None:
            return world
        taken, unwritten = dict(self._writer.taken), dict(self._credentials.unwritten)
        found = self._discovering.found
        return replace(world, taken=taken, unwritten=unwritten, ledger=self._usage.fault, discovered=found)

    async def _read(self) -> None:
        """Read what was woken; while not everything was read once, there is nothing to do but to try again."""
        said = ""
        while True:
            try:
                await self._resources.refresh()
            except Unavailable as error:
                if self._resources.complete:
                    _log.warning("the resources cannot be read, what was read last stays", why=str(error))
                    return
                if said != str(error):
                    _log.warning("the resources cannot be read, and nothing is written before they are", why=str(error))
                said = str(error)
                await asyncio.sleep(_TRY_AGAIN)
            else:
                return

    def _deliver(self, world: World, compiled: Compiled) -> None:
        self._reconciled(asyncio.get_running_loop().time() - self._begun)
        self._compiled = True
        self.settled.set()
        if self._discovering is not None:
            self._found(compiled.expansions)
            self._discovering.follow(sources(world.pools, world.token_hosts), world.secrets)
        pools, quotas = self._resources.statuses_of_invalid(self._now())
        if self._writer is not None:
            self._writer.want(
                replace(
                    compiled,
                    # The same mapping where nothing was added: the writer knows by that what it has gone through.
                    pool_statuses={**compiled.pool_statuses, **pools} if pools else compiled.pool_statuses,
                    quota_statuses={**compiled.quota_statuses, **quotas} if quotas else compiled.quota_statuses,
                )
            )
