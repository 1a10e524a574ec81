"""The ports: what the loops need of the outside, as small Protocols that adapters implement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aoai_operator.core.accesslog import Answer, Attempt
from aoai_operator.core.health import ProbeTarget, Sample


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
