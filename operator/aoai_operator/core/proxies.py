"""What the proxies hold: who is connected, who has accepted what, who refuses what and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from aoai_operator.core.envoy.delta import REMOVED
from aoai_operator.core.envoy.generations import Doubts
from aoai_operator.core.envoy.snapshot import Resource, Snapshot, TypeUrl
from aoai_operator.core.world import Programming


@dataclass(frozen=True, slots=True)
class Proxy:
    """One Envoy. `id` is its `node.id`, `gateway` its `node.cluster`."""

    id: str
    gateway: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A version of a resource that an Envoy does not take, with its own words.

    The message may quote the resource, API keys included: clear it of secret values before it is shown.
    """

    version: str
    message: str = field(repr=False)


class _Held:
    """The versions of one type's resources that a proxy accepted, and whose it lacks."""

    __slots__ = ("_doubts", "_lacking", "_versions")

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}
        self._doubts = Doubts()
        self._lacking: dict[str, str | None] = {}

    def update(self, versions: Mapping[str, str]) -> None:
        """Note versions that were accepted, REMOVED for what was removed."""
        self._versions.update(versions)
        for name, version in versions.items():
            if version == REMOVED:
                del self._versions[name]
        self._doubts.add(versions)

    def lacking(self, named: Mapping[str, Resource]) -> Iterable[str | None]:
        """Return the owners of the resources that are not held in their present version."""
        names = self._doubts.about(named)
        if names is None:
            names = {*named, *self._lacking}
        for name in names:
            resource = named.get(name)
            if resource is None or self._versions.get(name) == resource.version:
                self._lacking.pop(name, None)
            else:
                self._lacking[name] = resource.owner
        self._doubts.keep(())
        return self._lacking.values()


@dataclass(slots=True)
class _State:
    streams: int = 0
    held: dict[TypeUrl, _Held] = field(default_factory=lambda: {url: _Held() for url in TypeUrl})
    refused: dict[tuple[TypeUrl, str], Refusal] = field(default_factory=dict)
    settled: str = ""
    _known: tuple[Snapshot, frozenset[str | None]] | None = None

    def accepted(self, type_url: TypeUrl, versions: Mapping[str, str]) -> None:
        """Note what it accepted; the version REMOVED stands for a removal."""
        for name in versions:
            self.refused.pop((type_url, name), None)
        self.held[type_url].update(versions)
        self._known = None

    def has_all(self, snapshot: Snapshot, owner: str) -> bool:
        """Tell whether it has all of a pool, and all that pools share.

        It may while another pool is on its way. What it never asks for shows when it settles.
        """
        if self.settled == snapshot.version:
            return True
        lacking = self._lacking(snapshot)
        return owner not in lacking and None not in lacking

    def _lacking(self, snapshot: Snapshot) -> frozenset[str | None]:
        """Return the pools of which it lacks something, and None if it lacks something that pools share."""
        if self._known is None or self._known[0] is not snapshot:
            lacking = (self.held[url].lacking(named) for url, named in snapshot.resources.items())
            self._known = snapshot, frozenset(chain.from_iterable(lacking))
        return self._known[1]

    def refusals(self, snapshot: Snapshot, owner: str) -> Iterator[str]:
        """Yield what it says against present resources of a pool, or of those that pools share."""
        for (url, name), refusal in self.refused.items():
            resource = snapshot.resources[url].get(name)
            if resource is not None and resource.version == refusal.version and resource.owner in (owner, None):
                yield refusal.message


class ProxyStates:
    """Keeps the states of the connected proxies; implements ports.XdsObserver."""

    def __init__(self) -> None:
        self._states: dict[str, dict[Proxy, _State]] = {}

    def connected(self, proxy: Proxy) -> None:
        """Note a new stream. A proxy may open its next one before the loss of its last one is noticed."""
        self._states.setdefault(proxy.gateway, {}).setdefault(proxy, _State()).streams += 1

    def disconnected(self, proxy: Proxy) -> None:
        """Note the end of a stream."""
        states = self._states[proxy.gateway]
        states[proxy].streams -= 1
        if not states[proxy].streams:
            del states[proxy]
        if not states:
            del self._states[proxy.gateway]

    def acked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str]) -> None:
        """Note what the proxy accepted; the version REMOVED stands for a removal."""
        self._state(proxy).accepted(type_url, versions)

    def nacked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:
        """Note what the proxy refused; it keeps what it held before."""
        state = self._state(proxy)
        for name, version in versions.items():
            state.refused[type_url, name] = Refusal(version, message)

    def settled(self, proxy: Proxy, version: str) -> None:
        """Note that the proxy has accepted all that it wants of a snapshot."""
        self._state(proxy).settled = version

    def connected_to(self, gateway: str) -> int:
        """Return how many proxies of a gateway are connected."""
        return len(self._of(gateway))

    def all_settled(self, gateway: str, version: str) -> bool:
        """Tell whether every connected proxy of a gateway, and at least one, has accepted a snapshot."""
        states = self._of(gateway)
        return bool(states) and all(state.settled == version for state in states)

    def programming(self, gateway: str, snapshot: Snapshot, owner: str) -> Programming:
        """Return how far the proxies of a gateway are with the resources of one pool, and with those of all pools."""
        states = self._of(gateway)
        if all(state.settled == snapshot.version and not state.refused for state in states):
            return Programming(len(states), len(states))
        programmed = sum(state.has_all(snapshot, owner) for state in states)
        refusals = (refusal for state in states for refusal in state.refusals(snapshot, owner))
        return Programming(len(states), programmed, next(refusals, None))

    def _state(self, proxy: Proxy) -> _State:
        return self._states[proxy.gateway][proxy]

    def _of(self, gateway: str) -> Collection[_State]:
        return self._states.get(gateway, {}).values()
