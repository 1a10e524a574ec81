"""The ports: what the loops need of the outside, as small Protocols that adapters implement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from aoai_operator.core.accesslog import Answer, Attempt
from aoai_operator.core.audience import Audience
from aoai_operator.core.envoy.packed import PackedSnapshot
from aoai_operator.core.envoy.snapshot import TypeUrl
from aoai_operator.core.health import ProbeTarget, Sample
from aoai_operator.core.proxies import Proxy


class Prober(Protocol):
    """Looks whether an endpoint is alive, without spending tokens. Both calls always answer, and in time."""

    async def endpoint(self, target: ProbeTarget) -> Sample:
        """Probe network, TLS, credential and resource: what concerns every deployment of the endpoint."""
        ...

    async def deployment(self, target: ProbeTarget, name: str) -> Sample:
        """Probe whether one deployment exists behind it."""
        ...


class ResolveError(Exception):
    """A name does not resolve; the message is one sentence for people."""


class Resolver(Protocol):
    """Finds the addresses of a host name."""

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Return its IP addresses, at least one, in a stable order.

        Raises:
            ResolveError: there is none, or no answer in time.
        """
        ...


class LogSink(Protocol):
    """Takes the access log, in batches, in the order in which Envoy wrote it. Neither call may block or raise."""

    def answers(self, batch: Sequence[Answer]) -> None:
        """Take requests that were answered."""
        ...

    def attempts(self, batch: Sequence[Attempt]) -> None:
        """Take attempts that failed."""
        ...


class Identify(Protocol):
    """Finds out what a proxy may have, before it is told anything."""

    async def __call__(self, context: Any, claimed: Proxy, /) -> Audience:
        """Return the audience to which the caller of a gRPC service belongs.

        Ends the call when it has not proven to be what it claims.

        Args:
            context: gRPC's, of the call.
            claimed: the `node.id` and `node.cluster` that it sent.
        """
        ...


class ReviewError(Exception):
    """Whether a token is good cannot be said now; the message is one sentence for people."""


class TokenReviewer(Protocol):
    """Judges service-account tokens."""

    async def __call__(self, token: str, /) -> str | None:
        """Return the user name, "system:serviceaccount:<namespace>:<name>"; None if the token is not good for us.

        Raises:
            ReviewError: who judges does not answer.
        """
        ...


class SnapshotSource(Protocol):
    """Keeps what the Envoys of each gateway should have."""

    def current(self, gateway: str) -> PackedSnapshot | None:
        """Return the gateway's resources, None before it is known what they are."""
        ...

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with the gateway's name whenever its resources changed."""
        ...


class XdsObserver(Protocol):
    """Hears what the connected Envoys say about what they are sent. No call may block or raise."""

    def connected(self, proxy: Proxy) -> None:
        """A stream was opened."""
        ...

    def disconnected(self, proxy: Proxy) -> None:
        """It ended."""
        ...

    def acked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str]) -> None:
        """The Envoy holds these versions by name; an empty version is a removal."""
        ...

    def nacked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:
        """The Envoy refuses these versions. Its message may quote the resource, secrets included."""
        ...

    def settled(self, proxy: Proxy, version: str) -> None:
        """The Envoy has accepted all that it wants of the snapshot of this version."""
        ...
