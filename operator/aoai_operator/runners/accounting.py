"""Turns access-log entries into throttles, metrics and log lines, at once: a Retry-After cannot wait."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

import structlog

from aoai_operator.core.names import EndpointKey, HostKey, PoolKey
from aoai_operator.core.observations import Failure
from aoai_operator.runners.observing import Observer

_log = structlog.get_logger("requests")


class Attempt(Protocol):
    """One failed attempt at a host: an entry of the log "attempts". `status` 0: there was no answer."""

    @property
    def request_id(self) -> str: ...
    @property
    def pool(self) -> str | PoolKey: ...
    @property
    def model(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def deployment(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def flags(self) -> Collection[str]: ...
    @property
    def retry_after_ms(self) -> int | None: ...


class Answer(Protocol):
    """One answer to a client: an entry of the log "answers". `endpoint` is empty when no host was asked."""

    @property
    def request_id(self) -> str: ...
    @property
    def pool(self) -> str | PoolKey: ...
    @property
    def tenant(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def deployment(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def flags(self) -> Collection[str]: ...


class Meters(Protocol):
    """Counts what was logged."""

    def attempt(self, attempt: Attempt) -> None:
        """Count a failed attempt."""
        ...

    def answer(self, answer: Answer) -> None:
        """Count an answer and its tokens."""
        ...


class Accounting:
    """The sink of the access log. Entries of the two logs come in any order, and in batches.

    The observations come first, so that nothing delays the news of a Retry-After.
    """

    def __init__(self, *, observer: Observer, probe_soon: Callable[[EndpointKey], None], meters: Meters) -> None:
        self._observer = observer
        self._probe_soon = probe_soon
        self._meters = meters

    def attempts(self, attempts: Iterable[Attempt]) -> None:
        """Take a batch of failed attempts."""
        batch = tuple(attempts)
        suspects = self._observer.attempts(_failure(a) for a in batch)
        for key in sorted(suspects):
            self._probe_soon(key)
        for attempt in batch:
            self._meters.attempt(attempt)
            _log.info(
                "an attempt failed",
                request_id=attempt.request_id,
                pool=str(attempt.pool),
                model=attempt.model,
                endpoint=attempt.endpoint,
                deployment=attempt.deployment,
                status=attempt.status,
                flags=sorted(attempt.flags),
                retry_after_ms=attempt.retry_after_ms,
            )

    def answers(self, answers: Iterable[Answer]) -> None:
        """Take a batch of answers."""
        for answer in answers:
            if answer.endpoint and 200 <= answer.status < 300:
                self._observer.served(_host(answer))
            self._meters.answer(answer)
            _log.info(
                "a request was answered",
                request_id=answer.request_id,
                pool=str(answer.pool),
                tenant=answer.tenant,
                model=answer.model,
                operation=answer.operation,
                endpoint=answer.endpoint,
                deployment=answer.deployment,
                status=answer.status,
                flags=sorted(answer.flags),
            )


def _failure(attempt: Attempt) -> Failure:
    return Failure(_host(attempt), attempt.status, attempt.retry_after_ms, frozenset(attempt.flags))


def _host(entry: Attempt | Answer) -> HostKey:
    return HostKey(PoolKey.of(str(entry.pool)), entry.endpoint, entry.deployment)
