"""Where what tenants used is counted: in the leader's memory, or in Redis."""

from __future__ import annotations

from collections.abc import Callable

from aoai_operator.adapters.redis.client import connect
from aoai_operator.adapters.redis.ledger import RedisLedger
from aoai_operator.runners.quotas import Call, Meters, Quotas
from aoai_operator.runners.shared_quotas import SharedQuotas
from aoai_operator.settings import RedisSettings

AnyQuotas = Quotas | SharedQuotas


def quotas_of(redis: RedisSettings | None, *, call: Call, now: Callable[[], int], meters: Meters) -> AnyQuotas:
    """Return this replica's part of the quotas."""
    if redis is None:
        return Quotas(call=call, now=now, meters=meters)
    return SharedQuotas(store=RedisLedger(connect(redis), prefix=redis.prefix), meters=meters)
