"""Keeps the Envoys on the tables, the secrets and the observations: translate, publish, and mind what they refuse."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import structlog

from aoai_operator.core.certificates import Standing, examine
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.snapshot import Owners, Snapshot, TypeUrl, content_hash
from aoai_operator.core.envoy.translate import Translator
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.observed import Overrides
from aoai_operator.core.quarantine import Quarantine
from aoai_operator.core.secret import SecretValue, redacted, undumped
from aoai_operator.core.table import RoutingTable
from aoai_operator.core.world import Programming

_log = structlog.get_logger("publish")


@dataclass(frozen=True)
class PoolInput:
    """All of a pool's resources: its table and the secrets that it refers to, as far as they exist."""

    table: RoutingTable
    secrets: Mapping[SecretRef, SecretValue] = field(repr=False)
    refs: tuple[SecretRef, ...] = ()

    @classmethod
    def of(
        cls, table: RoutingTable, secrets: Mapping[SecretRef, SecretValue], *, before: PoolInput | None, now: int
    ) -> PoolInput:
        """Pick a table's secrets out of all; a serving certificate that is worse than the one `before` is not taken."""
        if before is not None and not table.tls_secret and (table is before.table or table == before.table):
            known = before.secrets
            if all(secrets.get(ref) == known.get(ref) for ref in before.refs):
                return before
        refs = table.secret_refs
        found = {ref: secrets[ref] for ref in refs if ref in secrets and ref not in table.tls_refs}
        return cls(table, found | _serving_pair(table, secrets, before, now), refs)

    @cached_property
    def revision(self) -> str:
        """The content hash of both."""
        return content_hash([self.table.revision, {str(ref): s.reveal() for ref, s in self.secrets.items()}])


def _serving_pair(
    table: RoutingTable, secrets: Mapping[SecretRef, SecretValue], before: PoolInput | None, now: int
) -> dict[SecretRef, SecretValue]:
    """Return certificate and key: those of the Secret, or the last ones while the Secret's are worse."""
    refs = table.tls_refs
    if not refs:
        return {}

    def standing(source: Mapping[SecretRef, SecretValue]) -> Standing:
        return examine(source, refs, hostnames=table.hostnames, now=now)[0]

    chosen = before.secrets if before and standing(before.secrets) > standing(secrets) else secrets
    return {ref: chosen[ref] for ref in refs if ref in chosen}


class Observing(Protocol):
    """What was observed of the hosts. Times are milliseconds of the Unix epoch."""

    def overrides(self, now: int) -> Overrides:
        """Return what is known as of `now`."""
        ...

    def next_change(self, now: int) -> int | None:
        """Return when it will change by the passing of time alone, None for never."""
        ...


Translate = Callable[[Sequence[RoutingTable], Mapping[SecretRef, SecretValue], Overrides, GatewaySettings], Snapshot]


class _Refused(NamedTuple):
    url: TypeUrl
    name: str
    version: str
    message: str


class Publisher:
    """Publishes a new snapshot when something in it changed; an observation alone changes EDS and routes only."""

    def __init__(
        self,
        *,
        settings: GatewaySettings,
        observing: Observing,
        publish: Callable[[Snapshot], None],
        now: Callable[[], int],
        interval: float,
        translate: Translate | None = None,
        prepare: Callable[[Snapshot], None] = lambda _: None,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the ways in and out.

        Args:
            settings: the gateway.
            observing: what was observed of the hosts.
            publish: hands a snapshot to the Envoys.
            now: gives milliseconds of the Unix epoch.
            interval: the shortest time between two publications, in seconds.
            translate: makes a snapshot of the tables; None: a Translator of its own.
            prepare: does with a snapshot what takes long, in a thread, before it is handed over.
            moved: hears that `programming` may have changed although no Envoy may have been sent anything.
        """
        self._settings = settings
        self._observing = observing
        self._hand_over = publish
        self._now = now
        self._interval = interval
        self._translate = translate or Translator()
        self._prepare = prepare
        self._moved = moved
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Event] = []
        self._secrets: Mapping[SecretRef, SecretValue] | None = None
        self._quarantine: Quarantine[PoolInput] = Quarantine()
        self._snapshot: Snapshot | None = None
        self._sent: Mapping[PoolKey, str] = {}
        self._unknown: Owners = frozenset()
        self._wanted: dict[PoolKey, str] = {}
        self._versions: set[str] = set()
        self._settled = ""
        self.settled_once = asyncio.Event()
        """Set once all connected Envoys have accepted some snapshot."""
        self._accepted = asyncio.Event()
        self._unjudged: deque[_Refused] = deque()
        # Shared resources that were refused: an Envoy says nothing again of a version that it refused before, and that
        # may come again with the next suspect.
        self._refused: dict[tuple[TypeUrl, str], _Refused] = {}

    def want(
        self,
        tables: Mapping[PoolKey, RoutingTable],
        secrets: Mapping[SecretRef, SecretValue],
        unknown: Owners = frozenset(),
    ) -> None:
        """Take the tables and secrets that are in force now; of `unknown` owners Envoys keep what they have."""
        self._unknown = unknown
        mine = {key: table for key, table in tables.items() if table.gateway == self._settings.gateway}
        before, now = self._quarantine.wanted, self._now()
        same, self._secrets = secrets is self._secrets, secrets

        def of(key: PoolKey, table: RoutingTable) -> PoolInput:
            last = before.get(key)
            # What a certificate is worth depends on the time.
            if same and last is not None and last.table is table and not table.tls_secret:
                return last
            return PoolInput.of(table, secrets, before=last, now=now)

        self._move(self._quarantine.want({key: of(key, table) for key, table in mine.items()}))
        self._wake.set()

    def observed(self) -> None:
        """Publish soon: something was observed."""
        self._wake.set()

    def refused(self, url: TypeUrl, name: str, version: str, message: str) -> None:
        """Take an Envoy's refusal of one version of a resource, with its words, which may quote secrets."""
        self._unjudged.append(_Refused(url, name, version, self.cleaned(message)))
        self._judge()

    def cleaned(self, text: str) -> str:
        """Return words of an Envoy without the resources and secrets that they may quote."""
        entries = (*self._quarantine.wanted.values(), *self._quarantine.good.values())
        return redacted(undumped(text), (value for entry in entries for value in entry.secrets.values()))

    def settled(self, version: str) -> None:
        """Take the news that every connected Envoy has accepted all of the snapshot of that version."""
        self._settled = version
        self.settled_once.set()
        self._accepted.set()
        self._acknowledge()

    def refusals(self) -> Mapping[PoolKey, str]:
        """Return Envoy's words about each pool that is not served as wanted."""
        state = self._quarantine
        if state.blameless:
            return dict.fromkeys(state.wanted, state.blameless)
        return {key: refusal.message for key, refusal in state.refused.items()}

    def programming(self, known: Callable[[str], Programming]) -> Mapping[PoolKey, Programming]:
        """Return how far the Envoys are with each wanted pool; `known` tells what they hold of one's resources.

        A pool is on no Envoy as it is wanted while it is refused, waits for its turn after a refusal, or is not
        published yet.
        """
        refusals, published = self.refusals(), self._quarantine.revisions
        held = {*self._quarantine.waiting, *refusals}
        found = {}
        for key, entry in self._quarantine.wanted.items():
            on = known(str(key))
            there = key not in held and self._sent.get(key) == published.get(key)
            found[key] = Programming(
                on.connected, on.programmed if there else 0, refusals.get(key), entry.table.revision
            )
        return found

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._next_reason()
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            await self._publish()
            for done in waiting:
                done.set()
            # Observations come in bursts: what comes during this pause goes out together.
            await asyncio.sleep(self._interval)

    async def flushed(self) -> None:
        """Wait until all that is known now is handed over. There must be something that was wanted."""
        done = asyncio.Event()
        self._waiting.append(done)
        self._wake.set()
        await done.wait()

    async def taken(self) -> None:
        """Wait until all connected Envoys have accepted all that is known now."""
        await self.flushed()
        while self._snapshot is None or self._settled != self._snapshot.version:
            self._accepted.clear()
            await self._accepted.wait()

    async def _next_reason(self) -> None:
        now = self._now()
        change = self._observing.next_change(now)
        try:
            # Not wait_for: in Python 3.11 a cancellation is lost in it when what it waits for comes just then.
            async with asyncio.timeout(None if change is None else max(0, change - now) / 1000):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _publish(self) -> None:
        entries, unknown = self._quarantine.published, self._unknown | set(map(str, self._quarantine.unknown))
        overrides = self._observing.overrides(self._now())
        try:
            # Of a thousand pools the first takes seconds, in which the Envoys want to be heard.
            snapshot, revisions = await asyncio.to_thread(self._snapshot_of, entries, overrides, unknown)
        except Exception:  # noqa: BLE001 - what is published must outlive any mistake of ours
            _log.exception("translating failed, the last good snapshot keeps serving")
            return
        advanced = revisions != self._sent
        if advanced:
            self._sent = revisions
            self._versions.clear()
            self._unjudged.extend(one for one in self._refused.values() if one not in self._unjudged)
        self._versions.add(snapshot.version)
        if self._snapshot is None or snapshot.version != self._snapshot.version:
            self._snapshot = snapshot
            self._hand_over(snapshot)
        self._judge()
        self._acknowledge()
        # A pool that is what it was before a refusal, or before a change that was never sent, is no news to an Envoy.
        wanted = {key: entry.table.revision for key, entry in self._quarantine.wanted.items()}
        if advanced or wanted != self._wanted:
            self._wanted = wanted
            self._moved()

    def _snapshot_of(
        self, entries: Mapping[PoolKey, PoolInput], overrides: Overrides, unknown: Owners
    ) -> tuple[Snapshot, dict[PoolKey, str]]:
        secrets: dict[SecretRef, SecretValue] = {}
        for entry in entries.values():
            secrets.update(entry.secrets)
        snapshot = self._translate([e.table for e in entries.values()], secrets, overrides, self._settings)
        if unknown:
            snapshot = replace(snapshot, unknown=unknown)
        if self._snapshot is None or snapshot.version != self._snapshot.version:
            self._prepare(snapshot)
        return snapshot, {key: entry.revision for key, entry in entries.items()}

    def _acknowledge(self) -> None:
        """Count what was published as good once it has settled, whatever was observed, and so published, since."""
        if self._settled in self._versions and not self._moved_on():
            self._refused.clear()
            self._move(self._quarantine.acknowledged())

    def _judge(self) -> None:
        """Find who is to blame for the refusals, one at a time.

        While what is wanted is not what was published, a refusal cannot be laid at anybody's door: it waits for the
        next publication, and counts if that holds the refused version still.
        """
        while self._unjudged and not self._moved_on():
            refused = self._unjudged.popleft()
            resource = self._snapshot.resources[refused.url].get(refused.name) if self._snapshot else None
            if resource is None or resource.version != refused.version:
                continue
            _log.error("an Envoy refused a resource", type=refused.url.name, name=refused.name, why=refused.message)
            owner = PoolKey.of(resource.owner) if resource.owner else None
            if owner is None:
                self._refused[refused.url, refused.name] = refused
            self._move(self._quarantine.rejected(refused.message, owner=owner))

    def _moved_on(self) -> bool:
        return self._quarantine.revisions != self._sent

    def _move(self, state: Quarantine[PoolInput]) -> None:
        for key, refusal in state.refused.items():
            if key not in self._quarantine.refused:
                _log.error(
                    "a pool is refused, its last good state keeps serving", pool=str(key), message=refusal.message
                )
        self._quarantine = state
        if self._moved_on():
            self._wake.set()
