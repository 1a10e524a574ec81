"""Answers proxies that ask whether a request may go on, by a ledger in this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from aoai_operator.core.api.usage import TenantUsage
from aoai_operator.core.names import PoolKey
from aoai_operator.core.observed import Overrides
from aoai_operator.core.quota.asking import Answer, Question
from aoai_operator.core.quota.deciding import Granted, Refused
from aoai_operator.core.quota.ledger import Ledger
from aoai_operator.core.quota.limits import Unit
from aoai_operator.core.quota.policy import Policy, Settled, answered, settled
from aoai_operator.core.quota.settling import Settlement
from aoai_operator.core.quota.usage import Usage, read_usage
from aoai_operator.core.table import RoutingTable

_GRANTS_A_MS = 1_000
"""No ledger gives as many: so the numbers of one that is begun later are others. Lua counts exactly to 2^53, which is
enough until the year 2255."""
_REMEMBERED = 100_000
"""Requests under way of which it is known which grant let them in."""
_OVER = 10_000
"""Requests that are over, and whose ask may still come: it waited for a ledger that stood still."""


class Meters(Protocol):
    """Counts what the ledger does."""

    def shadowed(self, question: Question, refused: Refused) -> None:
        """Count what would have been refused, were the limits enforced."""
        ...

    def settled(self, settled: Settled) -> None:
        """Count what a request was settled with."""
        ...


class Admission:
    """The ledger, what it is told of quotas, and what it learns. Times are milliseconds, and go only forward."""

    def __init__(self, now: int, meters: Meters | None = None) -> None:
        """Begin with nothing used."""
        self._meters = meters
        self.ledger = Ledger(first=now * _GRANTS_A_MS)
        self.policy = Policy()
        self._before: dict[PoolKey, Usage] = {}
        self._asked: OrderedDict[str, int] = OrderedDict()
        self._over: OrderedDict[str, None] = OrderedDict()

    def follow(self, tables: Iterable[RoutingTable]) -> None:
        """Take the tables that are in force. What was used stays counted, and what was learned stays known."""
        if self.policy.follow(tables):
            self.ledger.limit(self.policy.limits)
            self.ledger.share(self.policy.pools)
            self._count_before()

    def observed(self, overrides: Overrides) -> None:
        """Take what is observed of hosts."""
        if self.policy.observed(overrides):
            self.ledger.share(self.policy.pools)

    def ask(self, question: Question, now: int) -> Answer:
        """Answer one ask."""
        asked = self.policy.asked(question)
        # Nobody waits any more for an ask that came later than the log line of its request. Who got no answer tells all
        # that it told again.
        if asked is None or question.request_id in self._over:
            return None
        for grant, rest in question.rests:
            self.ledger.give_back(grant, rest, now)
        if question.owed:
            self.ledger.owe((question.pool, question.model), question.tenant, question.owed, now)
        found = self.ledger.ask(asked.ask, now)
        if isinstance(found, Granted):
            if found.shadow and self._meters:
                self._meters.shadowed(question, found.shadow)
            if question.request_id and found.grant:
                self._asked[question.request_id] = found.grant
                _forget(self._asked, _REMEMBERED)
        return answered(asked, found, self.ledger.bounds(asked.ask, now), now)

    def settle(self, settlement: Settlement) -> bool:
        """Replace what was estimated by what was used; tell whether that is news."""
        grant = settlement.grant or self._asked.pop(settlement.request_id, 0)
        if not grant and settlement.request_id and self.policy.knows(settlement.tenant):
            self._over[settlement.request_id] = None
            _forget(self._over, _OVER)
        if self.policy.gives(settlement):
            self.ledger.share(self.policy.pools)
        due = self.policy.due(settlement)
        if due is None or not grant:
            return False
        reserved = settlement.estimate.get(Unit.TOKENS, 0) if settlement.draw else self.ledger.reserved(grant)
        if not self.ledger.settle(grant, settlement.draw, settlement.estimate, due.used):
            return False
        if self._meters and (known := settled(settlement, due, reserved)):
            self._meters.settled(known)
        return True

    def usage(self, tenant: PoolKey, now: int) -> TenantUsage | None:
        """Return what a tenant used, as its status tells it; None for one without limits."""
        return self.policy.told(tenant, self.ledger.usage(tenant, now))

    def restore(self, told: Mapping[PoolKey, TenantUsage]) -> None:
        """Count what statuses told of a ledger before this one; of tenants that no table names yet, once one does."""
        self._before = {tenant: read_usage(usage) for tenant, usage in told.items()}
        self._count_before()

    def _count_before(self) -> None:
        known = self._before.keys() & self.policy.limits.keys()
        if known:
            self.ledger.restore({tenant: self._before.pop(tenant) for tenant in known})


def _forget(known: OrderedDict[str, Any], most: int) -> None:
    if len(known) > most:
        known.popitem(last=False)
