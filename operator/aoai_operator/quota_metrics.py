"""Metrics of quotas: what was let in and how, what was refused and why, what was reserved, and what was used of it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter

from aoai_operator.core.accesslog import Answer
from aoai_operator.core.quota.asking import Question
from aoai_operator.core.quota.deciding import Refused
from aoai_operator.core.quota.limits import Unit
from aoai_operator.core.quota.policy import Settled

_WHOSE = ("tenant", "pool", "model")
_MILLIONTHS = 1_000_000
_REFUSED = ("no", "unasked")
_LIMITS = frozenset({"tokensPerMinute", "requestsPerMinute", "concurrentRequests", "budgets", "capacity", "ledger"})

Labels = Callable[[str, str, str], tuple[str, str, str]]
"""Bounds the labels of a tenant, a pool and a model."""


class QuotaMetrics:
    """Counts what the access log tells of quotas, and on the leader what the ledger does (admission.Meters)."""

    def __init__(self, registry: CollectorRegistry, labels: Labels) -> None:
        """Take where the metrics belong, and what bounds their labels."""
        self._labels = labels

        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(name, text, (*_WHOSE, *more), registry=registry)

        self._admitted = counter("aoai_quota_admitted", "Requests that a quota let in, by what it was asked.", "by")
        self._refused = counter("aoai_quota_refused", "Requests that a quota refused, by its limit.", "limit")
        self._shadowed = counter("aoai_quota_shadow_refused", "Requests that a shadow would have refused.", "limit")
        self._reserved = counter("aoai_quota_reserved_tokens", "Tokens reserved for requests that are settled.")
        self._settled = counter("aoai_quota_settled_tokens", "Tokens that the same requests counted for.")
        self._unanswered = Counter(
            "aoai_quota_unanswered", "Asks of proxies that nobody could answer.", registry=registry
        )
        self._cost = counter("aoai_quota_cost", "Money that they cost, by the pool's prices.", "currency")

    def answer(self, answer: Answer) -> None:
        """Count how a request was let in, or why not: `Answer.quota`."""
        first, _, rest = answer.quota.partition(":")
        if first in _REFUSED:
            limit, _, model = rest.partition(":")
            whose = self._labels(answer.tenant, answer.pool, model)
            self._refused.labels(*whose, limit if limit in _LIMITS else "other").inc()
            return
        drawn = not rest.startswith("0:")
        by = "owed" if first == "owed" else "lease" if drawn else "ledger"
        self._admitted.labels(*self._labels(answer.tenant, answer.pool, answer.model), by).inc()

    def shadowed(self, question: Question, refused: Refused) -> None:
        """Count what would have been refused."""
        whose = self._labels(str(question.tenant), str(question.pool), question.model)
        self._shadowed.labels(*whose, refused.limit).inc()

    def unanswered(self) -> None:
        """Count an ask that could not be answered."""
        self._unanswered.inc()

    def settled(self, settled: Settled) -> None:
        """Count what was reserved for a request, and what it was in the end."""
        whose = self._labels(str(settled.tenant), str(settled.pool), settled.model)
        self._reserved.labels(*whose).inc(settled.reserved)
        self._settled.labels(*whose).inc(settled.used.get(Unit.TOKENS, 0))
        if cost := settled.used.get(Unit.COST, 0):
            self._cost.labels(*whose, settled.currency).inc(cost / _MILLIONTHS)
