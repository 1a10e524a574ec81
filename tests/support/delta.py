"""One stream of delta xDS, as a proxy that the test speaks for."""

from __future__ import annotations

from typing import Any

from aoai_operator.core.envoy.delta import Outcome, Request, Response
from aoai_operator.core.envoy.packed import PackedResource, PackedSnapshot, Reference
from aoai_operator.core.envoy.snapshot import Owners, TypeUrl
from aoai_operator.core.envoy.stream import DeltaStream

C, E, S, L, R, X = (
    TypeUrl.CLUSTER,
    TypeUrl.ENDPOINT,
    TypeUrl.SECRET,
    TypeUrl.LISTENER,
    TypeUrl.ROUTE,
    TypeUrl.EXTENSION,
)


def snapshot(*resources: str, unknown: Owners = frozenset()) -> PackedSnapshot:
    """Build a snapshot of texts "TYPE name version"; a cluster has endpoints of its own name, a listener routes."""
    named: dict[TypeUrl, dict[str, PackedResource]] = {url: {} for url in TypeUrl}
    for text in resources:
        kind, name, version = text.split()
        url = TypeUrl[kind]
        needs = {C: Reference(E, name), L: Reference(R, name)}.get(url)
        named[url][name] = PackedResource(name, version, b"", frozenset({needs} if needs else ()))
    return PackedSnapshot(" ".join(resources), named, unknown)


class Client:
    """A proxy that the test speaks for."""

    def __init__(self, *resources: str) -> None:
        self.stream = DeltaStream()
        self.now = snapshot(*resources)
        self.pending: dict[TypeUrl, Response] = {}

    def publish(self, *resources: str, unknown: Owners = frozenset()) -> None:
        self.now = snapshot(*resources, unknown=unknown)

    def ask(self, url: TypeUrl, *names: str, **fields: Any) -> list[Outcome]:
        return self.stream.receive(Request(type_url=url, subscribe=names, **fields))

    def got(self) -> list[str]:
        """Take all responses of now, as texts: "TYPE: name=version, -removed"."""
        texts = []
        while (response := self.stream.next_response(self.now)) is not None:
            self.pending[response.type_url] = response
            parts = [f"{r.name}={r.version}" for r in response.resources] + [f"-{n}" for n in response.removed]
            texts.append(f"{response.type_url.name}: {', '.join(parts)}")
        return texts

    def ack(self, url: TypeUrl, error: str | None = None, **fields: Any) -> list[Outcome]:
        return self.ask(url, nonce=self.pending.pop(url).nonce, error=error, **fields)

    def nack(self, url: TypeUrl, error: str = "no") -> list[Outcome]:
        return self.ack(url, error)

    def all(self) -> list[str]:
        """Take and acknowledge responses until there are no more."""
        texts: list[str] = []
        while got := self.got():
            texts += got
            for url in list(self.pending):
                self.ack(url)
        return texts
