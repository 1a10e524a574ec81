"""Answers proxies that ask whether a request may go on, and learns from what requests used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

from aoai_operator.core.api.usage import TenantUsage
from aoai_operator.core.names import HostKey, PoolKey
from aoai_operator.core.observed import Overrides, State
from aoai_operator.core.quota.account import Bound
from aoai_operator.core.quota.asking import Answer, Known, No, Question, Rate, Yes
from aoai_operator.core.quota.estimate import Distribution, Guess, Request, TokensPerByte, guess
from aoai_operator.core.quota.frees import frees
from aoai_operator.core.quota.granted import Granted, Served, granted_by, served_by, shared_by
from aoai_operator.core.quota.ledger import Ask, Ledger, Refused
from aoai_operator.core.quota.limits import Amount, Unit
from aoai_operator.core.quota.settling import Settlement
from aoai_operator.core.quota.terms import Used
from aoai_operator.core.quota.usage import Usage, differs, read_usage, told
from aoai_operator.core.table import RoutingTable

_GRANTS_A_MS = 1_000
"""No ledger gives as many: so the numbers of one that is begun later are others. Lua counts exactly to 2^53, which is
enough until the year 2255."""
_REMEMBER_MS = 1_000
"""For how long a refusal is remembered: settlements may free more, and sooner, than it says."""
_STREAMED = 1 / 250
"""Tokens that a byte of a stream is, as long as nothing was learned: an event of the chat form holds one."""
_REMEMBERED = 100_000
"""Requests under way of which it is known which grant let them in."""
_OVER = 10_000
"""Requests that are over, and whose ask may still come: it waited for a ledger that stood still."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A request whose usage is counted.

    Attributes:
        tenant, pool, model: whose it was, and for what.
        reserved: tokens that were counted for it before.
        used: what it counts for.
        currency: that of its cost.
    """

    tenant: PoolKey
    pool: PoolKey
    model: str
    reserved: int
    used: Amount
    currency: str


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What one routing table says of quotas."""

    table: RoutingTable
    granted: Mapping[PoolKey, Granted]
    served: Mapping[tuple[PoolKey, str], Served]
    shares: bool


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
        self._before: dict[PoolKey, Usage] = {}
        self._parts: dict[PoolKey, _Part] = {}
        self._observed = Overrides()
        self._sick: frozenset[HostKey] = frozenset()
        self._granted: Mapping[PoolKey, Granted] = {}
        self._served: Mapping[tuple[PoolKey, str], Served] = {}
        self._prompts: dict[tuple[PoolKey, str], TokensPerByte] = {}
        self._streams: dict[tuple[PoolKey, str], TokensPerByte] = {}
        self._answers: dict[tuple[PoolKey, str], Distribution] = {}
        self._asked: OrderedDict[str, int] = OrderedDict()
        self._over: OrderedDict[str, None] = OrderedDict()

    def follow(self, tables: Iterable[RoutingTable]) -> None:
        """Take the tables that are in force. What was used stays counted, and what was learned stays known.

        Where they differ in a tenant's quota, as one of them is held, the last one's counts.
        """
        parts = [self._part(table) for table in tables]
        if len(parts) == len(self._parts) and all(self._parts.get(part.table.key) is part for part in parts):
            return
        self._parts = {part.table.key: part for part in parts}
        self._granted = {tenant: granted for part in parts for tenant, granted in part.granted.items()}
        self._served = {model: served for part in parts for model, served in part.served.items()}
        self.ledger.limit({tenant: granted.limits for tenant, granted in self._granted.items()})
        self._share()
        self._count_before()
        models = {model for _, model in self._served}
        self._prompts = {key: learned for key, learned in self._prompts.items() if key in self._served}
        self._streams = {key: learned for key, learned in self._streams.items() if key in self._served}
        self._answers = {
            key: learned for key, learned in self._answers.items() if key[0] in self._granted and key[1] in models
        }

    def observed(self, overrides: Overrides) -> None:
        """Take what is observed of hosts: what one gives that is out for a fault is not there to be shared."""
        self._observed = overrides
        if self._sick != self._now_sick():
            self._share()

    def _share(self) -> None:
        self._sick = self._now_sick()
        shared = [shared_by(part.table, self._sick) for part in self._parts.values() if part.shares]
        self.ledger.share({of: pool for each in shared for of, pool in each.items()})

    def _now_sick(self) -> frozenset[HostKey]:
        """Return the hosts that are out, of pools that are shared. One that is throttled gave what it has."""
        shared = (part.table for part in self._parts.values() if part.shares)
        keys = (key for table in shared for key in table.host_keys())
        return frozenset(key for key in keys if self._observed.host(key).state is State.UNHEALTHY)

    def _part(self, table: RoutingTable) -> _Part:
        """Return what a table says; of a thousand nearly all say what they said before."""
        known = self._parts.get(table.key)
        if known is not None and (known.table is table or known.table == table):
            return known
        return _Part(table, granted_by(table), served_by(table), bool(shared_by(table)))

    def ask(self, question: Question, now: int) -> Answer:
        """Answer one ask."""
        granted = self._granted.get(question.tenant)
        served = self._served.get((question.pool, question.model))
        if granted is None or served is None:
            return None
        if question.request_id in self._over:
            # Nobody waits for it any more: the ask came later than the log line of its request. Who got no answer tells
            # all that it told again.
            return None
        for grant, rest in question.rests:
            self.ledger.give_back(grant, rest, now)
        if question.owed:
            self.ledger.owe((question.pool, question.model), question.tenant, question.owed, now)
        guessed = self._guess(question.tenant, question.pool, question.model, granted, served)
        terms = served.terms(granted)
        usual = terms.amount(guessed.of(question.request))
        need = usual if question.request_id else {}
        ask = Ask(
            question.tenant,
            question.model,
            need,
            question.pool,
            want=_fitting(question.want, usual),
            timeout_ms=served.timeout_ms,
            usual=usual,
        )
        found = self.ledger.ask(ask, now)
        bounds = self.ledger.bounds(ask, now)
        known = Known(guessed, terms, _rate(Unit.TOKENS, bounds, now), _rate(Unit.REQUESTS, bounds, now))
        if isinstance(found, Refused):
            return _no(found, bounds, known, now)
        if found.shadow and self._meters:
            self._meters.shadowed(question, found.shadow)
        if question.request_id and found.grant:
            self._asked[question.request_id] = found.grant
            _forget(self._asked, _REMEMBERED)
        return Yes(found.grant, found.lease, found.life_ms, known)

    def settle(self, settlement: Settlement) -> bool:
        """Replace what was estimated by what was used; tell whether that is news."""
        granted = self._granted.get(settlement.tenant)
        served = self._served.get((settlement.pool, settlement.model))
        grant = settlement.grant or self._asked.pop(settlement.request_id, 0)
        if not grant and granted is not None and settlement.request_id:
            self._over[settlement.request_id] = None
            _forget(self._over, _OVER)
        if not settlement.sent or settlement.owed:
            return bool(grant) and self.ledger.settle(grant, settlement.draw, settlement.estimate, {})
        if granted is None or served is None:
            return False
        if settlement.used:
            self._learn(settlement, settlement.used)
        if not grant:
            return False
        used = settlement.used or self._produced(settlement, granted, served)
        if used is None:
            return self.ledger.settle(grant, settlement.draw, settlement.estimate, None)
        reserved = settlement.estimate.get(Unit.TOKENS, 0) if settlement.draw else self.ledger.reserved(grant)
        amount = served.terms(granted).amount(used)
        if not self.ledger.settle(grant, settlement.draw, settlement.estimate, amount):
            return False
        if self._meters:
            whose = settlement.tenant, settlement.pool, settlement.model
            self._meters.settled(Settled(*whose, reserved, amount, served.currency))
        return True

    def usage(self, tenant: PoolKey, now: int) -> TenantUsage | None:
        """Return what a tenant used, as its status tells it; None for one without limits."""
        granted, usage = self._granted.get(tenant), self.ledger.usage(tenant, now)
        return told(usage, granted.limits, granted.currencies) if granted and usage else None

    def differs(self, tenant: PoolKey, before: TenantUsage | None, after: TenantUsage) -> bool:
        """Tell whether what a status says of a tenant is worth another write."""
        granted = self._granted.get(tenant)
        return granted is not None and differs(before, after, granted.limits)

    def restore(self, told: Mapping[PoolKey, TenantUsage]) -> None:
        """Count what statuses told of a ledger before this one; of tenants that no table names yet, once one does."""
        self._before = {tenant: read_usage(usage) for tenant, usage in told.items()}
        self._count_before()

    def _count_before(self) -> None:
        known = self._before.keys() & self._granted.keys()
        if known:
            self.ledger.restore({tenant: self._before.pop(tenant) for tenant in known})

    def _learn(self, settlement: Settlement, used: Used) -> None:
        model = settlement.pool, settlement.model
        if settlement.text_bytes:
            self._prompts.setdefault(model, TokensPerByte()).learn(settlement.text_bytes, used.prompt)
        if settlement.streamed_bytes:
            streams = self._streams.setdefault(model, TokensPerByte(_STREAMED))
            streams.learn(settlement.streamed_bytes, used.output)
        self._answers.setdefault((settlement.tenant, settlement.model), Distribution()).learn(used.output)

    def _produced(self, settlement: Settlement, granted: Granted, served: Served) -> Used | None:
        """Return what a stream used whose client left before its end; None where nobody can know."""
        if not settlement.streamed_bytes or not settlement.text_bytes:
            return None
        streams = self._streams.get((settlement.pool, settlement.model)) or TokensPerByte(_STREAMED)
        guessed = self._guess(settlement.tenant, settlement.pool, settlement.model, granted, served)
        prompt = guessed.of(Request(settlement.text_bytes, cap=0)).prompt
        return Used(prompt, ceil(settlement.streamed_bytes * streams.per_byte))

    def _guess(self, tenant: PoolKey, pool: PoolKey, model: str, granted: Granted, served: Served) -> Guess:
        return guess(
            self._prompts.get((pool, model)) or TokensPerByte(),
            self._answers.get((tenant, model)) or Distribution(),
            reservation=granted.reservation,
            context=served.context,
        )


def _forget(known: OrderedDict[str, Any], most: int) -> None:
    if len(known) > most:
        known.popitem(last=False)


def _fitting(want: Amount, usual: Amount) -> Amount:
    """Return what is wanted of the units that requests are counted in."""
    return {unit: count for unit, count in want.items() if usual.get(unit)}


def _no(refused: Refused, bounds: tuple[Bound, ...], known: Known, now: int) -> No:
    # Of requests at once nobody knows when, and of budgets the refusal itself says it.
    if refused.limit == "concurrentRequests":
        return No(refused, 0, (), known)
    # A request that never fits is no reason to refuse another one.
    remember = 0 if refused.retry_ms is None else min(_REMEMBER_MS, refused.retry_ms)
    steps = () if refused.period else tuple((when - now, free) for when, free in frees(bounds, now))
    return No(refused, remember, steps, known)


def _rate(unit: Unit, bounds: Iterable[Bound], now: int) -> Rate | None:
    rates = [bound for bound in bounds if bound.unit is unit and bound.ends is None]
    if not rates:
        return None
    bound = min(rates, key=lambda b: b.most - b.meter.used(now))
    reset_ms = bound.meter.fits_at(now, 0) - now
    return Rate(bound.most, max(0, bound.most - bound.meter.used(now)), -(-reset_ms // 1000))
