"""The current snapshot of each gateway, encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from aoai_operator.core.envoy.generations import Generation, changed_between
from aoai_operator.core.envoy.packed import PackedResource, PackedSnapshot, references
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl

Pack = Callable[[TypeUrl, Resource], bytes]


@dataclass(frozen=True, slots=True)
class BadResource:
    """A resource that cannot be encoded, and so was not published; its last good version stays if there is one."""

    type_url: TypeUrl
    name: str
    version: str
    owner: str | None
    message: str


@dataclass(frozen=True, slots=True)
class _Published:
    """What was published last for a gateway: as it came, encoded, and what of it could not be."""

    source: Snapshot = field(default_factory=lambda: Snapshot({}))
    packed: PackedSnapshot = field(default_factory=lambda: PackedSnapshot("", {}))
    bad: tuple[BadResource, ...] = ()

    def of(self, url: TypeUrl) -> Generation[PackedResource]:
        """Return the encoded resources of a type."""
        return Generation.of(self.packed.resources.get(url, {}))

    def differing(self, url: TypeUrl, snapshot: Snapshot) -> Iterator[Resource]:
        """Yield the resources of a type that are encoded in another version, or not at all."""
        named, packed = snapshot.resources[url], self.of(url)
        changed = changed_between(self.source.resources.get(url, {}), named)
        names = named.keys() if changed is None else changed.union(b.name for b in self.bad if b.type_url is url)
        for name in names:
            resource, old = named.get(name), packed.get(name)
            if resource is not None and (old is None or old.version != resource.version):
                yield resource

    def gone(self, url: TypeUrl, snapshot: Snapshot) -> set[str]:
        """Return the names of a type that are encoded, and are no more."""
        named, packed = snapshot.resources[url], self.of(url)
        changed = changed_between(self.source.resources.get(url, {}), named)
        return {name for name in (packed if changed is None else changed) if name in packed and name not in named}


class SnapshotCache:
    """Implements ports.SnapshotSource. Belongs to one event loop: call it from there only."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._published: dict[str, _Published] = {}
        self._watchers: list[Callable[[str], None]] = []
        self._prepared: dict[tuple[TypeUrl, str, str], PackedResource] = {}

    def current(self, gateway: str) -> PackedSnapshot | None:
        """Return what the proxies of a gateway should have; None before the first publication."""
        published = self._published.get(gateway)
        return published.packed if published else None

    def forget(self, gateway: str) -> None:
        """Drop what the proxies of a gateway should have; nobody asks for it any more."""
        self._published.pop(gateway, None)

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with the gateway's name after each publication that changed something."""
        self._watchers.append(changed)

    def prepare(self, gateway: str, snapshot: Snapshot) -> None:
        """Encode ahead what is new in a snapshot, which is then published at once. May be called from any thread."""
        before = self._published.get(gateway, _Published())
        for url in snapshot.resources:
            for resource in before.differing(url, snapshot):
                with suppress(ValueError):
                    self._prepared[url, resource.name, resource.version] = self._encoded(url, resource)

    def publish(self, gateway: str, snapshot: Snapshot) -> list[BadResource]:
        """Make `snapshot` current. Only what changed is encoded; return what could not be."""
        before = self._published.get(gateway, _Published())
        bad: list[BadResource] = []
        # The same mapping while nothing of a type changed: who has seen it has seen all of it.
        packed = {
            url: before.of(url).after(
                self._packed(url, before.differing(url, snapshot), bad), before.gone(url, snapshot)
            )
            for url in snapshot.resources
        }
        self._prepared.clear()
        after = PackedSnapshot(snapshot.version, packed, snapshot.unknown)
        self._published[gateway] = _Published(snapshot, after, tuple(bad))
        if after != before.packed:
            for changed in self._watchers:
                changed(gateway)
        return bad

    def _packed(self, url: TypeUrl, new: Iterator[Resource], bad: list[BadResource]) -> dict[str, PackedResource]:
        packed: dict[str, PackedResource] = {}
        for resource in new:
            try:
                prepared = self._prepared.get((url, resource.name, resource.version))
                packed[resource.name] = prepared or self._encoded(url, resource)
            except ValueError as error:
                bad.append(BadResource(url, resource.name, resource.version, resource.owner, str(error)))
        return packed

    def _encoded(self, url: TypeUrl, resource: Resource) -> PackedResource:
        value = self._pack(url, resource)
        return PackedResource(resource.name, resource.version, value, references(url, resource.body))
