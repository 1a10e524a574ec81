"""Saves what tenants used, so that a ledger that begins anew goes on from there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from aoai_operator.core.api.usage import TenantUsage
from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.admission import Admission

EVERY = 5.0
"""Seconds between two looks: what was used since the last one is lost with the process."""

_log = structlog.get_logger("checkpoint")


class Checkpoint:
    """Saves while it runs, and once more at its end."""

    def __init__(
        self,
        *,
        admission: Admission,
        save: Callable[[Mapping[PoolKey, TenantUsage]], None],
        before: Mapping[PoolKey, TenantUsage],
        now: Callable[[], int],
    ) -> None:
        """Take who counts, how it is saved, what was saved before, and the ledger's clock."""
        self._admission = admission
        self._save = save
        self._now = now
        self._known = dict(before)
        self._failing = False
        admission.restore(before)

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            while True:
                await asyncio.sleep(EVERY)
                if self._look():
                    await asyncio.to_thread(self._write)
        finally:
            if self._look():
                self._write()

    def _look(self) -> bool:
        """Take what was counted since the last look; tell whether that is anything."""
        touched = self._admission.ledger.touched()
        for tenant in touched:
            usage = self._admission.usage(tenant, self._now())
            if usage is not None:
                self._known[tenant] = usage
        return bool(touched) or self._failing

    def _write(self) -> None:
        try:
            self._save(dict(self._known))
        except OSError as error:
            if not self._failing:
                _log.warning("what tenants used cannot be saved, it is tried again", why=str(error))
            self._failing = True
        else:
            self._failing = False
