"""What proxies ask the ledger and what it answers: a line of text each, as our Lua writes and reads them.

An ask is tab-separated:

- tenant, pool, model
- the request's id; empty: it was let in by a lease, and asks for the next one alone
- what its body tells, `bytes of text:cap or -1:answers:images`
- what the worker would like to spend without asking, `tokens:requests:cost`, or nothing
- what it let in without asking, in the same form
- the rests of leases, each `grant=tokens:requests:cost`, separated by commas

An answer is words. All numbers are whole but those that count a token.

- `ok GRANT LEASE LIFE KNOWN`: let it in, and spend LEASE (tokens:requests:cost, `-` for none) for LIFE ms.
- `no RETRY LIMIT MODEL PERIOD REMEMBER FREES KNOWN`: do not; RETRY in ms, or -1 for never. FREES are `ms:tokens`,
  separated by commas: how many tokens one request may have from then on.
- `free`: its tenant has no limits.

KNOWN is four words: what Guess says, what a token counts for and costs, and `limit:remaining:seconds until all of it is
left` of tokens and of requests, each `-` where there is no such limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.deciding import Refused
from aoai_operator.core.quota.estimate import Guess, Request
from aoai_operator.core.quota.limits import Amount, Unit
from aoai_operator.core.quota.terms import Rates, Terms

UNITS = (Unit.TOKENS, Unit.REQUESTS, Unit.COST)
"""In the order in which lines have them."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a worker of a proxy asks.

    Attributes:
        tenant, pool, model: whose request it is, of which pool, and for what.
        request_id: by which the access log tells of it; empty: it was let in by a lease already.
        request: what its body tells.
        want: what the worker would like to spend without asking.
        owed: what it let in while it could not ask.
        rests: what is left of leases that are over, by grant.
    """

    tenant: PoolKey
    pool: PoolKey
    model: str
    request_id: str
    request: Request
    want: Amount
    owed: Amount
    rests: tuple[tuple[int, Amount], ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate as its tenant sees it: the limit, what is left of it, and after how many seconds all of it will be."""

    limit: int
    remaining: int
    reset_s: int


@dataclass(frozen=True, slots=True)
class Known:
    """What a worker is told beside the answer: how to estimate the next request, and what is left.

    Attributes:
        guess, terms: by which it estimates, and counts.
        tokens, requests: the tightest rate of each unit; None: there is none.
    """

    guess: Guess
    terms: Terms
    tokens: Rate | None = None
    requests: Rate | None = None


@dataclass(frozen=True, slots=True)
class Yes:
    """Let it in."""

    grant: int
    lease: Amount
    life_ms: int
    known: Known


@dataclass(frozen=True, slots=True)
class No:
    """Do not.

    Attributes:
        refused: why.
        remember_ms: for how long the worker may refuse others without asking.
        frees: how many tokens one request may have, from so many milliseconds on.
    """

    refused: Refused
    remember_ms: int
    frees: tuple[tuple[int, int], ...]
    known: Known


Answer = Yes | No | None
"""None: the tenant has no limits."""


def read(line: str) -> Question:
    """Read an ask. Raises ValueError where it is none."""
    tenant, pool, model, request_id, said, want, owed, rests = line.split("\t")
    return Question(
        tenant=PoolKey.of(tenant),
        pool=PoolKey.of(pool),
        model=model,
        request_id=request_id,
        request=_request(said),
        want=_amount(want) if want else {},
        owed=_amount(owed) if owed else {},
        rests=tuple(_rests(rests)),
    )


def _request(text: str) -> Request:
    size, cap, answers, images = map(int, text.split(":"))
    if min(size, answers, images) < 0 or cap < -1:
        raise ValueError("a request has nothing negative")
    return Request(size, None if cap == -1 else cap, answers, images)


def _amount(text: str) -> Amount:
    found = {unit: int(part) for unit, part in zip(UNITS, text.split(":"), strict=True)}
    if min(found.values()) < 0:
        raise ValueError("an amount is not negative")
    return {unit: count for unit, count in found.items() if count}


def _rests(text: str) -> Iterator[tuple[int, Amount]]:
    for rest in filter(None, text.split(",")):
        grant, _, amount = rest.partition("=")
        yield int(grant), _amount(amount)


def write(answer: Answer) -> str:
    """Return an answer's line."""
    if answer is None:
        return "free"
    known = _known(answer.known)
    if isinstance(answer, Yes):
        lease = ":".join(str(answer.lease.get(unit, "-")) for unit in UNITS) if answer.lease else "-"
        return f"ok {answer.grant} {lease} {answer.life_ms} {known}"
    refused = answer.refused
    retry = -1 if refused.retry_ms is None else refused.retry_ms
    frees = ",".join(f"{ms}:{free}" for ms, free in answer.frees) or "-"
    words = (retry, refused.limit, refused.model or "-", refused.period or "-", answer.remember_ms, frees, known)
    return "no " + " ".join(map(str, words))


def _known(known: Known) -> str:
    guess, terms = known.guess, known.terms
    guessed = f"{guess.per_byte:.6g}:{guess.per_image}:{guess.capped}:{guess.uncapped}:{guess.context}"
    prices = _rates(terms.prices) if terms.prices else "0:0"
    return f"{guessed} {_rates(terms.weights)}:{prices} {_rate(known.tokens)} {_rate(known.requests)}"


def _rates(rates: Rates) -> str:
    return f"{rates.input:.9g}:{rates.output:.9g}"


def _rate(rate: Rate | None) -> str:
    return f"{rate.limit}:{rate.remaining}:{rate.reset_s}" if rate else "-"
