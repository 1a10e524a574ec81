"""The current snapshot of each gateway, encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

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


class SnapshotCache:
    """Implements ports.SnapshotSource. Belongs to one event loop: call it from there only."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._current: dict[str, PackedSnapshot] = {}
        self._watchers: list[Callable[[str], None]] = []
        self._prepared: dict[tuple[TypeUrl, str, str], PackedResource] = {}

    def current(self, gateway: str) -> PackedSnapshot | None:
        """Return what the proxies of a gateway should have; None before the first publication."""
        return self._current.get(gateway)

    def forget(self, gateway: str) -> None:
        """Drop what the proxies of a gateway should have; nobody asks for it any more."""
        self._current.pop(gateway, None)

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with the gateway's name after each publication that changed something."""
        self._watchers.append(changed)

    def prepare(self, gateway: str, snapshot: Snapshot) -> None:
        """Encode ahead what is new in a snapshot, which is then published at once. May be called from any thread."""
        before = self._current.get(gateway)
        for url, named in snapshot.resources.items():
            held = before.resources.get(url, {}) if before else {}
            for name, resource in named.items():
                old = held.get(name)
                if old is None or old.version != resource.version:
                    with suppress(ValueError):
                        self._prepared[url, name, resource.version] = self._encoded(url, resource)

    def publish(self, gateway: str, snapshot: Snapshot) -> list[BadResource]:
        """Make `snapshot` current. Only what changed is encoded; return what could not be."""
        before = self._current.get(gateway)
        bad: list[BadResource] = []
        packed = {
            url: self._packed(url, named, before.resources.get(url, {}) if before else {}, bad)
            for url, named in snapshot.resources.items()
        }
        self._prepared.clear()
        after = PackedSnapshot(snapshot.version, packed)
        if after != before:
            self._current[gateway] = after
            for changed in self._watchers:
                changed(gateway)
        return bad

    def _packed(
        self,
        url: TypeUrl,
        named: Mapping[str, Resource],
        before: Mapping[str, PackedResource],
        bad: list[BadResource],
    ) -> Mapping[str, PackedResource]:
        packed: dict[str, PackedResource] = {}
        for name, resource in named.items():
            old = before.get(name)
            if old is not None and old.version == resource.version:
                packed[name] = old
                continue
            try:
                prepared = self._prepared.get((url, name, resource.version))
                packed[name] = prepared or self._encoded(url, resource)
            except ValueError as error:
                bad.append(BadResource(url, name, resource.version, resource.owner, str(error)))
                if old is not None:
                    packed[name] = old
        # The same mapping while nothing of a type changed: who has seen it has seen all of it.
        return before if packed == before else packed

    def _encoded(self, url: TypeUrl, resource: Resource) -> PackedResource:
        value = self._pack(url, resource)
        return PackedResource(resource.name, resource.version, value, references(url, resource.body))
