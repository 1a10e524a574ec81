"""What a region saw and gave, for assertions: counts by deployment and a log of requests."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_SECRET_HEADERS = frozenset({"api-key", "authorization", "ocp-apim-subscription-key"})
_SECONDS_KEPT = 3600


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as it came off the wire. ``headers`` have lower-case names and stand in the order sent."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        """The first value of a header given by its lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(slots=True)
class RequestRecord:
    """A request in the log.

    ``at`` is the clock's time in seconds. ``auth`` says how it authenticated ("api-key", "bearer" or "none"),
    ``key_index`` with which of the region's keys (None: an unknown one). ``status`` 0 means that no answer was sent.
    ``completed`` turns true when the answer has been written to its end. Values of secret headers are not kept.
    """

    at: float
    region: str
    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    auth: str = "none"
    principal: str = ""
    key_index: int | None = None
    operation: str = ""
    deployment: str = ""
    stream: bool = False
    status: int = 0
    admitted_tokens: int = 0
    completed: bool = False

    @property
    def header_names(self) -> tuple[str, ...]:
        """Lower-case names in the order sent."""
        return tuple(name for name, _ in self.headers)

    def header(self, name: str) -> str | None:
        """The first value of a header given by its lower-case name; "[redacted]" for a credential."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        """The body, parsed. Raises ``ValueError`` when it is no JSON, or longer than the log keeps."""
        return json.loads(self.body)


@dataclass(slots=True)
class Counts:
    """Totals since the start, or since they were reset.

    ``attempts``: requests that arrived. ``served``: answers with a 2xx status written to their end. ``throttled``:
    429s. ``admitted_tokens``: the estimates that limits admitted; ``prompt_tokens`` and ``completion_tokens``: billed
    for served answers. ``abandoned``: answers that the client did not wait for, or that a fault cut.
    ``tokens_by_second``: admitted tokens by whole second of the clock, for the last hour.
    """

    attempts: int = 0
    served: int = 0
    throttled: int = 0
    abandoned: int = 0
    admitted_requests: int = 0
    admitted_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    tokens_by_second: dict[int, int] = field(default_factory=dict)

    def admit(self, tokens: int, now: float) -> None:
        """Count an admitted request."""
        self.admitted_requests += 1
        self.admitted_tokens += tokens
        second = int(now)
        by_second = self.tokens_by_second
        if second not in by_second:
            by_second[second] = 0
            if len(by_second) > _SECONDS_KEPT:
                del by_second[next(iter(by_second))]
        by_second[second] += tokens

    def answered(self, status: int) -> None:
        """Count the status of an answer."""
        self.statuses[status] += 1
        if status == 429:
            self.throttled += 1

    def as_dict(self) -> dict[str, Any]:
        """The totals as JSON, without the seconds."""
        return {
            "attempts": self.attempts,
            "served": self.served,
            "throttled": self.throttled,
            "abandoned": self.abandoned,
            "admitted_requests": self.admitted_requests,
            "admitted_tokens": self.admitted_tokens,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
        }


class RequestLog:
    """The last requests, oldest first."""

    def __init__(self, *, size: int, body_bytes: int) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=size)
        self._body_bytes = body_bytes

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(list(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> RequestRecord:
        return self._records[index]

    def add(self, region: str, seen: Incoming, now: float) -> RequestRecord:
        """Keep a request; its secrets stay out."""
        record = RequestRecord(
            at=now,
            region=region,
            method=seen.method,
            path=seen.path,
            query=seen.query,
            headers=tuple((n, "[redacted]" if n in _SECRET_HEADERS else v) for n, v in seen.headers),
            body=seen.body[: self._body_bytes],
        )
        self._records.append(record)
        return record

    def clear(self) -> None:
        """Forget all."""
        self._records.clear()
