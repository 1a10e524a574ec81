"""What tenants were granted and pools can give, and what was learned of requests: all of quotas but what was used.

It makes an ask of what a proxy asks, an answer of what a store decides, and a settlement of a log line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from aoai_operator.core.api.usage import TenantUsage
from aoai_operator.core.guarantees import shares_of
from aoai_operator.core.names import HostKey, PoolKey
from aoai_operator.core.observed import Overrides, State
from aoai_operator.core.quota.account import Bound
from aoai_operator.core.quota.asking import Known, No, Question, Rate, Yes
from aoai_operator.core.quota.deciding import Ask, Refused, Shared
from aoai_operator.core.quota.deciding import Granted as Let
from aoai_operator.core.quota.estimate import Distribution, Guess, Request, TokensPerByte, guess
from aoai_operator.core.quota.frees import frees
from aoai_operator.core.quota.granted import Granted, Served, granted_by, served_by, shared_by
from aoai_operator.core.quota.limits import Amount, Limits, Unit
from aoai_operator.core.quota.pool import Pool
from aoai_operator.core.quota.settling import Settlement
from aoai_operator.core.quota.terms import Terms, Used
from aoai_operator.core.quota.usage import Usage, differs, told
from aoai_operator.core.table import RoutingTable

_REMEMBER_MS = 1_000
"""For how long a refusal is remembered: settlements may free more, and sooner, than it says."""
_STREAMED = 1 / 250
"""Tokens that a byte of a stream is, as long as nothing was learned: an event of the chat form holds one."""


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


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, as the stores are asked it, and by what its answer was worked out."""

    ask: Ask
    guess: Guess
    terms: Terms


@dataclass(frozen=True, slots=True)
class Due:
    """What a request that is over is settled with.

    Attributes:
        used: see `Ledger.settle`.
        currency: that of its cost; None: it is not told in metrics, as nobody knows what it used.
    """

    used: Amount | None
    currency: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What one routing table says of quotas."""

    table: RoutingTable
    granted: Mapping[PoolKey, Granted]
    served: Mapping[tuple[PoolKey, str], Served]
    shares: bool


class Policy:
    """What is known of tenants and models, and what is learned of them."""

    def __init__(self) -> None:
        self._parts: dict[PoolKey, _Part] = {}
        self._observed = Overrides()
        self._sick: frozenset[HostKey] = frozenset()
        self._granted: Mapping[PoolKey, Granted] = {}
        self._served: Mapping[tuple[PoolKey, str], Served] = {}
        self._prompts: dict[tuple[PoolKey, str], TokensPerByte] = {}
        self._streams: dict[tuple[PoolKey, str], TokensPerByte] = {}
        self._answers: dict[tuple[PoolKey, str], Distribution] = {}
        self._capacities: dict[HostKey, int] = {}
        self.limits: Mapping[PoolKey, Limits] = {}
        """What each tenant may use."""
        self.pools: Mapping[Shared, Pool] = {}
        """How pools' models are shared, those that are."""

    def follow(self, tables: Iterable[RoutingTable]) -> bool:
        """Take the tables that are in force, and tell whether they are others. What was learned stays known.

        Where they differ in a tenant's quota, as one of them is held, the last one's counts.
        """
        parts = [self._part(table) for table in tables]
        if len(parts) == len(self._parts) and all(self._parts.get(part.table.key) is part for part in parts):
            return False
        self._parts = {part.table.key: part for part in parts}
        self._granted = {tenant: granted for part in parts for tenant, granted in part.granted.items()}
        self._served = {model: served for part in parts for model, served in part.served.items()}
        self.limits = {tenant: granted.limits for tenant, granted in self._granted.items()}
        learning = {key for part in parts if part.shares for key in part.table.host_keys()}
        self._capacities = {key: known for key, known in self._capacities.items() if key in learning}
        self._share()
        models = {model for _, model in self._served}
        self._prompts = {key: learned for key, learned in self._prompts.items() if key in self._served}
        self._streams = {key: learned for key, learned in self._streams.items() if key in self._served}
        self._answers = {
            key: learned for key, learned in self._answers.items() if key[0] in self._granted and key[1] in models
        }
        return True

    def observed(self, overrides: Overrides) -> bool:
        """Take what is observed of hosts, and tell whether pools are shared in another way by it.

        What one gives that is out for a fault is not there to be shared.
        """
        self._observed = overrides
        if self._sick == self._now_sick():
            return False
        self._share()
        return True

    def gives(self, settlement: Settlement) -> bool:
        """Learn what a deployment gives, and tell whether pools are shared in another way by it.

        The last word counts: Azure lowers a limit for a time, and raises it again. Source: the header
        `x-ratelimit-limit-tokens` of its answers.
        """
        part = self._parts.get(settlement.pool)
        key = HostKey(settlement.pool, settlement.endpoint, settlement.deployment)
        if not settlement.capacity or part is None or not part.shares:
            return False
        if self._capacities.get(key) == settlement.capacity or key not in part.table.host_keys():
            return False
        self._capacities[key] = settlement.capacity
        self._share()
        return True

    def asked(self, question: Question) -> Asked | None:
        """Return what a store is to be asked; None for a tenant without limits."""
        granted = self._granted.get(question.tenant)
        served = self._served.get((question.pool, question.model))
        if granted is None or served is None:
            return None
        guessed = self._guess(question.tenant, question.pool, question.model, granted, served)
        terms = served.terms(granted)
        usual = terms.amount(guessed.of(question.request))
        ask = Ask(
            question.tenant,
            question.model,
            usual if question.request_id else {},
            question.pool,
            want={unit: count for unit, count in question.want.items() if usual.get(unit)},
            timeout_ms=served.timeout_ms,
            usual=usual,
        )
        return Asked(ask, guessed, terms)

    def due(self, settlement: Settlement) -> Due | None:
        """Return what a request is settled with, and learn of it; None where nothing is known of its tenant."""
        granted = self._granted.get(settlement.tenant)
        served = self._served.get((settlement.pool, settlement.model))
        if not settlement.sent or settlement.owed:
            return Due({})
        if granted is None or served is None:
            return None
        if settlement.used:
            self._learn(settlement, settlement.used)
        used = settlement.used or self._produced(settlement, granted, served)
        return Due(None) if used is None else Due(served.terms(granted).amount(used), served.currency)

    def knows(self, tenant: PoolKey) -> bool:
        """Tell whether a tenant has to ask."""
        return tenant in self._granted

    def told(self, tenant: PoolKey, usage: Usage | None) -> TenantUsage | None:
        """Return what a tenant used as its status tells it; None for one without limits."""
        granted = self._granted.get(tenant)
        return told(usage, granted.limits, granted.currencies) if granted and usage else None

    def differs(self, tenant: PoolKey, before: TenantUsage | None, after: TenantUsage) -> bool:
        """Tell whether what a status says of a tenant is worth another write."""
        granted = self._granted.get(tenant)
        return granted is not None and differs(before, after, granted.limits)

    def _share(self) -> None:
        self._sick = self._now_sick()
        shared = [shared_by(part.table, self._sick, self._capacities) for part in self._parts.values() if part.shares]
        self.pools = {of: pool for each in shared for of, pool in each.items()}

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
        shares = any(shares_of(table, model) for model in table.models)
        return _Part(table, granted_by(table), served_by(table), shares)

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


def settled(settlement: Settlement, due: Due, reserved: int) -> Settled | None:
    """Return what metrics are told of a request that is settled; None where nobody knows what it used."""
    if due.used is None or due.currency is None:
        return None
    whose = settlement.tenant, settlement.pool, settlement.model
    return Settled(*whose, reserved, due.used, due.currency)


def answered(asked: Asked, found: Let | Refused, bounds: Sequence[Bound], now: int) -> Yes | No:
    """Return what a proxy is told, by what a store decided, and what counted against each limit after that."""
    known = Known(asked.guess, asked.terms, _rate(Unit.TOKENS, bounds, now), _rate(Unit.REQUESTS, bounds, now))
    if isinstance(found, Refused):
        return _no(found, bounds, known, now)
    return Yes(found.grant, found.lease, found.life_ms, known)


def _no(refused: Refused, bounds: Sequence[Bound], known: Known, now: int) -> No:
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
