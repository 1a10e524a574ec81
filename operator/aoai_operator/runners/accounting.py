"""Turns access-log entries into throttles, metrics and log lines, at once: a Retry-After cannot wait."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from aoai_operator.core.accesslog import Answer, Attempt
from aoai_operator.core.failures import Failure
from aoai_operator.core.names import EndpointKey, HostKey, PoolKey
from aoai_operator.core.quota.settling import Settlement, settlement_of
from aoai_operator.runners.observing import Observer

UNAUTHORIZED = 401


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

    def __init__(
        self,
        *,
        observer: Observer,
        probe_soon: Callable[[EndpointKey], None],
        meters: Meters,
        settle: Callable[[Settlement], object] = lambda _: None,
        denied: Callable[[EndpointKey], None] = lambda _: None,
    ) -> None:
        """Take the ways out.

        Args:
            observer: takes what is observed of hosts.
            probe_soon: hears of endpoints that deserve an early probe.
            meters: counts.
            settle: hears what each tenant's request used.
            denied: hears of endpoints that refused our credential.
        """
        self._denied = denied
        self._observer = observer
        self._settle = settle
        self._probe_soon = probe_soon
        self._meters = meters
        # Bound once: the lazy logger of structlog binds anew at each call.
        self._log = structlog.get_logger("requests").bind()

    def attempts(self, batch: Sequence[Attempt]) -> None:
        """Take a batch of failed attempts."""
        suspects = self._observer.attempts(_failure(a) for a in batch)
        for key in sorted(suspects):
            self._probe_soon(key)
        for pool, endpoint in sorted({(a.pool, a.endpoint) for a in batch if a.status == UNAUTHORIZED}):
            self._denied(EndpointKey(PoolKey.of(pool), endpoint))
        for attempt in batch:
            self._meters.attempt(attempt)
        if not self._log.is_enabled_for(logging.INFO):
            return
        for attempt in batch:
            self._log.info(
                "an attempt failed",
                pool=attempt.pool,
                model=attempt.model,
                endpoint=attempt.endpoint,
                deployment=attempt.deployment,
                status=attempt.status,
                flags=attempt.flags,
                retry_after_ms=attempt.retry_after_ms,
            )

    def answers(self, batch: Sequence[Answer]) -> None:
        """Take a batch of answers."""
        served = {(a.pool, a.endpoint, a.deployment) for a in batch if a.endpoint and 200 <= a.status < 300}
        for pool, endpoint, deployment in sorted(served):
            self._observer.served(HostKey(PoolKey.of(pool), endpoint, deployment))
        for answer in batch:
            self._meters.answer(answer)
            if settlement := settlement_of(answer):
                self._settle(settlement)
        if not self._log.is_enabled_for(logging.INFO):
            return
        for answer in batch:
            self._log.info(
                "a request was answered",
                request_id=answer.request_id,
                pool=answer.pool,
                tenant=answer.tenant,
                model=answer.model,
                operation=answer.operation,
                endpoint=answer.endpoint,
                deployment=answer.deployment,
                status=answer.status,
                flags=answer.flags,
                attempts=answer.attempts,
                region=answer.region,
                duration_ms=answer.duration_ms,
                first_byte_ms=answer.first_byte_ms,
                tokens=answer.usage.total if answer.usage else None,
            )


def _failure(attempt: Attempt) -> Failure:
    host = HostKey(PoolKey.of(attempt.pool), attempt.endpoint, attempt.deployment)
    return Failure(host, attempt.status, attempt.retry_after_ms, frozenset(attempt.flags.split(",")))
