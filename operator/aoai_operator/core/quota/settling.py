"""What the access log tells of a request, as the ledger wants it.

Of one that was refused as well: the ledger may have let it in, and its answer came too late.
"""

from __future__ import annotations

from dataclasses import dataclass

from aoai_operator.core.accesslog import Answer
from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.limits import Amount, Unit
from aoai_operator.core.quota.terms import Used


@dataclass(frozen=True, slots=True)
class Settlement:
    """A request that is over.

    Attributes:
        tenant, pool, model: whose it was, and for what.
        request_id: that of the ask by which it was let in; not looked at where there is a `grant`.
        grant, draw: the lease by which it was let in, and its number among those; 0 where it asked.
        estimate: what was taken of the lease for it.
        text_bytes: the bytes of text of its body; 0: they are not known, or are not all that its prompt is.
        used: what it used, as Azure says; None: Azure did not say.
        sent: whether Azure may have worked on it at all; else it costs nothing.
        owed: it was let in without the ledger, and is told in another way.
        streamed_bytes: how much of a stream its client was sent; 0: it was none.
        endpoint, deployment: who answered.
        capacity: how many tokens a minute that one gives, as it says; 0: it did not say, or nobody wants to know.
    """

    tenant: PoolKey
    pool: PoolKey
    model: str
    request_id: str
    grant: int
    draw: int
    estimate: Amount
    text_bytes: int
    used: Used | None
    sent: bool
    streamed_bytes: int
    owed: bool = False
    endpoint: str = ""
    deployment: str = ""
    capacity: int = 0


_UNASKED = "unasked:"
"""What our Lua logs of a request that it refused by itself (lua/quota.lua)."""
_MAYBE_SENT = frozenset({"DC", "DPE", "UT", "SI", "DT", "UC", "UR", "UPE"})
"""Envoy's response flags of requests that broke off: the client left, time was up, or the upstream broke off."""


def settlement_of(answer: Answer) -> Settlement | None:
    """Return the settlement of a request; None where it cannot have been anything that is counted."""
    if not answer.tenant or answer.quota.startswith(_UNASKED):
        return None
    grant, draw, tokens, cost, text_bytes, capacity = _told(answer.quota)
    usage = answer.usage
    return Settlement(
        tenant=PoolKey.of(answer.tenant),
        pool=PoolKey.of(answer.pool),
        model=answer.model,
        request_id=answer.request_id,
        grant=grant if draw else 0,
        draw=draw,
        estimate={Unit.TOKENS: tokens, Unit.REQUESTS: 1, Unit.COST: cost},
        text_bytes=text_bytes,
        used=Used(usage.prompt, usage.completion, usage.cached) if usage else None,
        sent=answer.attempts > 0
        and (200 <= answer.status < 300 or not _MAYBE_SENT.isdisjoint(answer.flags.split(","))),
        streamed_bytes=answer.bytes_out if answer.stream else 0,
        owed=answer.quota == "owed",
        endpoint=answer.endpoint,
        deployment=answer.deployment,
        capacity=capacity,
    )


def _told(text: str) -> tuple[int, int, int, int, int, int]:
    """Read `grant:draw:tokens:cost:bytes`, with `:capacity` where it is to be learned (lua/quota.lua)."""
    try:
        grant, draw, tokens, cost, size, *capacity = map(int, text.split(":"))
    except ValueError:
        return 0, 0, 0, 0, 0, 0
    return grant, draw, tokens, cost, size, sum(capacity)
