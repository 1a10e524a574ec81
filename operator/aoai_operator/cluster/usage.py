"""Writes what tenants used into their statuses: for people, and for the leader that comes after this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import zip_longest

import structlog

from aoai_operator.adapters.kube.events import EventPoster
from aoai_operator.adapters.kube.resources import QUOTAS
from aoai_operator.cluster.counting import AnyQuotas
from aoai_operator.cluster.known import KnownQuota
from aoai_operator.cluster.resources import Resources
from aoai_operator.core.api.usage import BudgetUsage, TenantUsage
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject, KubeApi, KubeError, UnavailableError

_log = structlog.get_logger("usage")

_LOOK = 1.0
"""Seconds between two looks at who used something."""
_EVERY = 10.0
"""Seconds, at least, between two writes for a tenant: as much of its use is lost when a leader is lost."""
_SURE = 5.0
"""Seconds for which nobody must have been there, or somebody again, before it is said."""
_AT_ONCE = 8
_MINUTE = 62.0
"""Seconds after which nothing of the last minute counts any more."""
PART = "usage"
"""The part of a status that has a field manager of its own: who writes the rest knows nothing of it."""
NEARLY, ALL = 80, 100
"""Percent of a budget at which an Event tells of it."""


class UsageWriter:
    """Writes for one term of a leader, after it has read what the leader before it wrote."""

    def __init__(
        self,
        *,
        api: KubeApi,
        quotas: AnyQuotas,
        resources: Resources,
        events: EventPoster,
        changed: Callable[[], None],
    ) -> None:
        """Take the parts.

        Args:
            api: where it is written.
            quotas: who counts.
            resources: who is to be told of.
            events: where Events go.
            changed: is called when `fault` changed.
        """
        self._changed = changed
        self.fault = ""
        """Why nobody can be asked what was used, a sentence without a full stop; empty: somebody can."""
        self._doubted_since: float | None = None
        self._api = api
        self._quotas = quotas
        self._resources = resources
        self._events = events
        self._written: dict[PoolKey, TenantUsage] = {}
        self._due: dict[PoolKey, float] = {}
        self._not_before: dict[PoolKey, float] = {}

    def begin(self) -> None:
        """Take what was written before. Everything was read by now."""
        self._written = {key: quota.usage for key, quota in self._resources.quotas.items() if quota.usage is not None}
        now = asyncio.get_running_loop().time()
        self._due = {key: now + _MINUTE for key, usage in self._written.items() if usage.models}

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            now, fault = asyncio.get_running_loop().time(), ""
            try:
                await self._quotas.restore(self._written)
                await self._look(now)
            except UnavailableError as error:
                fault = str(error)
            self._judge(fault, now)
            await asyncio.sleep(_LOOK)

    def _judge(self, fault: str, now: float) -> None:
        """Say that nobody can be asked, or somebody again, only after some time: it is a write for each tenant."""
        if bool(fault) == bool(self.fault):
            self._doubted_since = None
            return
        self._doubted_since = self._doubted_since or now
        if now - self._doubted_since >= _SURE:
            self.fault, self._doubted_since = fault, None
            self._changed()

    async def _look(self, now: float) -> None:
        for key in await self._quotas.touched():
            # Once nothing more comes, the last minute is over after a minute.
            self._due[key] = min(self._due.get(key, now), max(now, self._not_before.get(key, now)))
        due = [key for key, at in self._due.items() if at <= now]
        for start in range(0, len(due), _AT_ONCE):
            await asyncio.gather(*(self._tell(key, now) for key in due[start : start + _AT_ONCE]))

    async def _tell(self, key: PoolKey, now: float) -> None:
        known, usage = self._resources.quotas.get(key), await self._quotas.usage(key)
        del self._due[key]
        if known is None or usage is None:
            return
        before = self._written.get(key)
        if usage.models:
            self._due[key] = now + _MINUTE
        if not self._quotas.differs(key, before, usage):
            return
        self._not_before[key] = now + _EVERY
        try:
            await self._api.apply(QUOTAS, _body(known, usage), status=True, part=PART)
        except KubeError as error:
            _log.info("what a tenant used is written later", tenant=str(key), why=error.message)
            self._due[key] = now + _EVERY
            return
        self._written[key] = usage
        self._say(known, before, usage)

    def _say(self, known: KnownQuota, before: TenantUsage | None, usage: TenantUsage) -> None:
        for old, new in zip_longest(before.budgets if before else (), usage.budgets):
            if new is None:
                return
            was = old.percent if old is not None and old.resets_at == new.resets_at else 0
            crossed = max((level for level in (NEARLY, ALL) if was < level <= new.percent), default=None)
            if crossed is not None:
                reason = "BudgetExhausted" if crossed == ALL else "BudgetNearlyUsed"
                self._events.post(
                    known.reference, "Warning", reason=reason, message=_sentence(new), action="CountUsage"
                )


def _sentence(budget: BudgetUsage) -> str:
    unit = f"budget in {budget.currency}" if budget.currency else "budget of tokens"
    return (
        f"{budget.percent}% of the {unit} for this {budget.period.value.lower()} is used; "
        f"it begins anew at {budget.resets_at}."
    )


def _body(known: KnownQuota, usage: TenantUsage) -> JsonObject:
    metadata = {field: known.reference["metadata"][field] for field in ("namespace", "name", "uid")}
    told = usage.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        "apiVersion": QUOTAS.api_version,
        "kind": QUOTAS.kind,
        "metadata": metadata,
        "status": {"usage": told},
    }
