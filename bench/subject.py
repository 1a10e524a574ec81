"""What stands between client and regions, and is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from bench.payloads import Request
from bench.site import Region, Site


@dataclass(frozen=True, slots=True)
class Subject:
    """A running gateway. `pid` carries the requests and is pinned; `helpers` are its other processes, by role."""

    name: str
    port: int
    pid: int
    helpers: Mapping[str, int] = field(default_factory=dict)
    v1_path: str = "/openai/v1/chat/completions"

    def request(self, request: Request) -> bytes:
        """Write the request as this gateway wants it."""
        return (request if request.azure_path else request.at(self.v1_path)).text()

    @property
    def pids(self) -> tuple[int, ...]:
        """List the process that carries the requests, then the helpers."""
        return (self.pid, *self.helpers.values())


SubjectFactory = Callable[[Site, Sequence[Region]], AbstractContextManager[Subject]]
"""Starts a gateway before some regions, ready to answer, and ends it with the block."""
