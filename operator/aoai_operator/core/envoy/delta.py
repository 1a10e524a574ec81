"""The server's side of one delta xDS stream, without the network: requests in, responses out.

Rules: Envoy, "xDS REST and gRPC protocol", sections "Incremental xDS" and "Eventual consistency considerations",
and the comments of `envoy/service/discovery/v3/discovery.proto`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from aoai_operator.core.envoy.generations import Doubts
from aoai_operator.core.envoy.packed import WILDCARD, PackedResource
from aoai_operator.core.envoy.snapshot import Owners, TypeUrl, owner_of

WILDCARD_TYPES = frozenset({TypeUrl.CLUSTER, TypeUrl.LISTENER, TypeUrl.SCOPE})

REMOVAL_ORDER = (
    TypeUrl.LISTENER,
    TypeUrl.SCOPE,
    TypeUrl.ROUTE,
    TypeUrl.EXTENSION,
    TypeUrl.CLUSTER,
    TypeUrl.ENDPOINT,
    TypeUrl.SECRET,
)
"""What refers goes before what it refers to."""

REMOVED = ""
"""Stands for a version where a resource was removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A DeltaDiscoveryRequest. `error` is the message of its `error_detail`, None for none (a NACK has one)."""

    type_url: TypeUrl
    subscribe: Sequence[str] = ()
    unsubscribe: Sequence[str] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Response:
    """A DeltaDiscoveryResponse."""

    type_url: TypeUrl
    nonce: str
    resources: tuple[PackedResource, ...]
    removed: tuple[str, ...] = ()

    @cached_property
    def versions(self) -> dict[str, str]:
        """Name to version of everything told, REMOVED for what was removed."""
        return dict.fromkeys(self.removed, REMOVED) | {r.name: r.version for r in self.resources}


@dataclass(frozen=True, slots=True)
class Acked:
    """The proxy holds these versions."""

    type_url: TypeUrl
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Nacked:
    """The proxy refused these versions, for the reason that it gave."""

    type_url: TypeUrl
    versions: Mapping[str, str]
    message: str


Outcome = Acked | Nacked


class Subscription:
    """What a proxy wants, holds and refused of one resource type."""

    def __init__(self, *, wildcard: bool, held: Mapping[str, str]) -> None:
        self.wildcard = wildcard
        self.names: set[str] = set()
        self.held = dict(held)
        self.rejected: dict[str, str] = {}
        self.in_flight: Response | None = None
        # Names that are to be answered even if the proxy seems to know: it may have dropped them meanwhile.
        self._owed: set[str] = set()
        # What a refused response held beside the bad ones: sent again in ever smaller groups, because Envoy may have
        # applied none of it, and may not have said which is bad.
        self._suspects: list[tuple[str, ...]] = []
        self._news = Doubts()
        self._losses = Doubts()
        self._unknown: Owners = frozenset()
        self._inherited = frozenset(held)
        # Envoy waits for the first answer to a wildcard at its start, even if there is nothing.
        self._greeting_owed = wildcard and not held

    def change(self, request: Request) -> None:
        """Apply the subscriptions and unsubscriptions of a request."""
        self._doubt(request.subscribe)
        self._doubt(request.unsubscribe)
        for name in request.subscribe:
            if name == WILDCARD:
                self._greeting_owed = self._greeting_owed or not (self.wildcard or self.held)
                self.wildcard = True
                continue
            self.names.add(name)
            if name not in request.initial_versions:
                self._owed.add(name)
        for name in request.unsubscribe:
            if name == WILDCARD:
                self.wildcard = False
                self._forget((self.held.keys() | self._owed) - self.names)
                continue
            self.names.discard(name)
            if self.wildcard:
                self._owed.add(name)
            else:
                self._forget({name})

    def _doubt(self, names: Collection[str]) -> None:
        for doubts in (self._news, self._losses):
            if WILDCARD in names:
                doubts.add_all()
            doubts.add(names)

    def leave(self, unknown: Owners) -> None:
        """Leave what the proxy held of these owners before this stream, until another call says otherwise."""
        if unknown != self._unknown:
            self._unknown = unknown
            self._news.add_all()
            self._losses.add_all()

    def _is_left(self, name: str) -> bool:
        if not self._unknown or name not in self._inherited:
            return False
        return self.held.get(name, REMOVED) != REMOVED and owner_of(name) in self._unknown

    def refuses(self) -> bool:
        """Tell whether the proxy refused something, and has nothing better yet; but for what is left as it is."""
        return any(not self._is_left(name) for name in self.rejected)

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.held.pop(name, None)
            self.rejected.pop(name, None)
            self._owed.discard(name)

    def next_update(self, current: Mapping[str, PackedResource]) -> tuple[list[PackedResource], list[str]] | None:
        """Return what is to be sent now: resources, and names that do not exist; None for nothing."""
        for group in self._suspects:
            if suspects := [current[name] for name in group if name in current and self._wants(name)]:
                return suspects, []
        names = self._perhaps_news(current)
        changed = sorted(name for name in names if self._is_news(name, current))
        absent = sorted(name for name in names if self._is_news_as_absent(name, current))
        self._news.keep((*changed, *absent))
        if changed or absent or self._greeting_owed:
            return [current[name] for name in changed], absent
        return None

    def has_update(self, current: Mapping[str, PackedResource]) -> bool:
        """Tell whether `next_update` would return anything. What is held back is asked about often: one is enough."""
        if self._greeting_owed or any(
            name in current and self._wants(name) for group in self._suspects for name in group
        ):
            return True
        looked: list[str] = []
        for name in self._perhaps_news(current):
            if self._is_news(name, current) or self._is_news_as_absent(name, current):
                self._news.drop(looked)
                return True
            looked.append(name)
        self._news.keep(())
        return False

    def _perhaps_news(self, current: Mapping[str, PackedResource]) -> Collection[str]:
        names = self._news.about(current)
        if names is None:
            return self._news.keep(self.names | self._owed | (current.keys() if self.wildcard else frozenset()))
        return names

    def _wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def _is_news(self, name: str, current: Mapping[str, PackedResource]) -> bool:
        resource = current.get(name)
        if resource is None or not self._wants(name):
            return False
        return name in self._owed or (self.held.get(name) != resource.version and not self._is_left(name))

    def _is_news_as_absent(self, name: str, current: Mapping[str, PackedResource]) -> bool:
        if name in current or self._is_left(name):
            return False
        return name in self._owed or (name in self.names and name not in self.held)

    def removals(self, current: Mapping[str, PackedResource]) -> list[str]:
        """Return the names that the proxy holds and that are no more."""
        names, held = self._losses.about(current), self.held
        lost = sorted(
            name
            for name in (held if names is None else names)
            if name not in current and held.get(name, REMOVED) != REMOVED and not self._is_left(name)
        )
        self._losses.keep(lost)
        return lost

    def repeat(self, names: Iterable[str]) -> None:
        """Send these again, although they are not new."""
        owed = self.names.intersection(names)
        self._owed |= owed
        self._news.add(owed)

    def sent(self, response: Response) -> None:
        """Note a response as under way."""
        self.in_flight = response
        self._greeting_owed = False
        told = response.versions
        self._owed.difference_update(told)
        groups = (tuple(name for name in group if name not in told) for group in self._suspects)
        self._suspects = [group for group in groups if group]
        self.held.update(told)
        for name in response.removed:
            if name not in self.names:
                del self.held[name]

    def answered(self, request: Request) -> list[Outcome]:
        """Take the proxy's ACK or NACK of the response under way."""
        response = self.in_flight
        if response is None or response.nonce != request.nonce:
            return []
        self.in_flight = None
        told = response.versions
        if request.error is None:
            return self._accept(response.type_url, told)
        return self._refuse(response, request.error)

    def _refuse(self, response: Response, error: str) -> list[Outcome]:
        sent = {r.name: r.version for r in response.resources}
        bad = named_in(error, sent) if len(sent) > 1 else list(sent)
        self._suspects[:0] = _groups([name for name in sorted(sent) if name not in bad], halve=not bad)
        self.rejected.update((name, sent[name]) for name in bad)
        refused: list[Outcome] = [Nacked(response.type_url, {n: sent[n] for n in bad}, error)] if bad else []
        return [*self._accept(response.type_url, dict.fromkeys(response.removed, REMOVED)), *refused]

    def _accept(self, type_url: TypeUrl, versions: Mapping[str, str]) -> list[Outcome]:
        for name in versions:
            self.rejected.pop(name, None)
        return [Acked(type_url, versions)] if versions else []


def _groups(names: list[str], *, halve: bool) -> list[tuple[str, ...]]:
    middle = len(names) // 2 if halve else 0
    return [group for group in (tuple(names[:middle]), tuple(names[middle:])) if group]


def named_in(message: str, names: Iterable[str]) -> list[str]:
    """Return which of `names` a NACK's message speaks of, as in "Error adding/updating cluster(s) a: ..., b: ..."."""
    return [n for n in names if re.search(rf"(?<![\w./-]){re.escape(n)}(?![\w/-])", message)]
