"""What the proxies hold: who is connected, who has accepted what, who refuses what and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aoai_operator.core.envoy.delta import REMOVED
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


@dataclass(slots=True)
class _State:
    streams: int = 0
    held: dict[tuple[TypeUrl, str], str] = field(default_factory=dict)
    refused: dict[tuple[TypeUrl, str], Refusal] = field(default_factory=dict)
    settled: str = ""


class ProxyStates:
    """Keeps the states of the connected proxies; implements ports.XdsObserver."""

    def __init__(self) -> None:
        self._states: dict[Proxy, _State] = {}

    def connected(self, proxy: Proxy) -> None:
        """Note a new stream. A proxy may open its next one before the loss of its last one is noticed."""
        self._states.setdefault(proxy, _State()).streams += 1

    def disconnected(self, proxy: Proxy) -> None:
        """Note the end of a stream."""
        state = self._states[proxy]
        state.streams -= 1
        if not state.streams:
            del self._states[proxy]

    def acked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str]) -> None:
        """Note what the proxy accepted; the version REMOVED stands for a removal."""
        state = self._states[proxy]
        for name, version in versions.items():
            state.refused.pop((type_url, name), None)
            if version == REMOVED:
                state.held.pop((type_url, name), None)
            else:
                state.held[type_url, name] = version

    def nacked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:
        """Note what the proxy refused; it keeps what it held before."""
        state = self._states[proxy]
        for name, version in versions.items():
            state.refused[type_url, name] = Refusal(version, message)

    def settled(self, proxy: Proxy, version: str) -> None:
        """Note that the proxy has accepted all that it wants of a snapshot."""
        self._states[proxy].settled = version

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
        concerned = {**snapshot.by_owner.get(owner, {}), **snapshot.by_owner.get(None, {})}
        programmed = sum(_is_programmed(state, concerned, snapshot.version) for state in states)
        refusals = (refusal for state in states for refusal in _refusals(state, concerned))
        return Programming(len(states), programmed, next(refusals, None))

    def _of(self, gateway: str) -> list[_State]:
        return [state for proxy, state in self._states.items() if proxy.gateway == gateway]


def _is_programmed(state: _State, concerned: Mapping[tuple[TypeUrl, str], Resource], version: str) -> bool:
    """A proxy may hold all of a pool while another pool is on its way; what it never asks for shows when it settles."""
    if state.settled == version:
        return True
    return all(state.held.get(key) == resource.version for key, resource in concerned.items())


def _refusals(state: _State, concerned: Mapping[tuple[TypeUrl, str], Resource]) -> list[str]:
    return [
        refusal.message
        for key, refusal in state.refused.items()
        if key in concerned and concerned[key].version == refusal.version
    ]
