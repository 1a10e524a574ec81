"""Failed attempts of the traffic, and what they say of the host that they went to. Pure: times are passed in.

One failure says little: any request can be at fault itself. Failures in a row, with nothing served between, keep the
host out for a strike: 1 s, doubled up to 10 s. Times are milliseconds of the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from aoai_operator.core import throttle
from aoai_operator.core.names import HostKey
from aoai_operator.core.observed import Reason
from aoai_operator.core.table import Throttling
from aoai_operator.core.throttle import Throttle

CONNECT_FLAGS = frozenset({"UF", "UC", "LR", "UT", "UPE"})
"""Envoy's response flags of an attempt that failed below HTTP: connect failure, termination, reset, time-out, protocol.

Source: Envoy, "Access logging", %RESPONSE_FLAGS%.
"""

_OUR_OWN_FLAGS = frozenset({"DC", "LR", "UO"})
"""Flags of an attempt that ended on our side: the client left, we reset it, or a limit of ours was reached."""

IN_A_ROW = 3
SPREAD_MS = 200
"""The time that failures in a row must span: several flushes of the access log, so that answers could be heard of."""
RECENT_MS = 10_000
"""A host that served so lately has a good credential: one refusal is then the request's own."""

_GRAVEST_FIRST = (Reason.AUTH, Reason.DEPLOYMENT_MISSING, Reason.CONNECT, Reason.TIMEOUT, Reason.STATUS)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt, of the access log. `status` 0: there was no answer."""

    host: HostKey
    status: int
    retry_after_ms: int | None = None
    flags: frozenset[str] = frozenset()

    @property
    def denied(self) -> bool:
        """Tell whether our own credential may have been refused."""
        return self.status in (401, 403)

    @property
    def suspicious(self) -> bool:
        """Tell whether a probe should look at once: something other than the request or a quota is at fault."""
        return self.denied or self.status in (0, 404) or self.status >= 500 or bool(self.flags & CONNECT_FLAGS)

    @property
    def fault(self) -> Reason | None:
        """What it speaks of when it repeats itself; None for a request's own fault, and for a refusal with a wait."""
        if self.flags & _OUR_OWN_FLAGS:
            return None
        if self.denied:
            return Reason.AUTH
        if self.status == 404:
            return Reason.DEPLOYMENT_MISSING
        if "UT" in self.flags:
            return Reason.TIMEOUT
        if self.flags & CONNECT_FLAGS:
            return Reason.CONNECT
        return Reason.STATUS if self.status >= 500 and not self.retry_after_ms else None


@dataclass(frozen=True, slots=True)
class Run:
    """The failures of a host in a row.

    Attributes:
        count: how many there were since something was served.
        denials: how many of them were a 401 or 403.
        first_at: when the first was heard of.
        served_at: when a served answer was last heard of.
        reason, message: what the last of them speak of.
        strike: the wait that they earned.
    """

    count: int = 0
    denials: int = 0
    first_at: int = 0
    served_at: int | None = None
    reason: Reason = Reason.STATUS
    message: str = ""
    strike: Throttle = field(default_factory=Throttle)

    def _quiet(self, now: int) -> bool:
        return self.served_at is None or now - self.served_at >= RECENT_MS

    def refused(self, now: int) -> bool:
        """Tell whether the credential was refused twice in a row, by a host that served nothing lately."""
        return self.denials > 1 and self._quiet(now)

    def due(self, now: int) -> bool:
        """Tell whether it deserves a strike: three failures over 200 ms, or one refused credential of a quiet host."""
        return (self.count >= IN_A_ROW and now - self.first_at >= SPREAD_MS) or (self.denials > 0 and self._quiet(now))


def failed(run: Run, batch: Sequence[Failure], *, now: int) -> Run:
    """Fold the failures of a host in; their order does not matter."""
    told = [(_GRAVEST_FIRST.index(f.fault), -f.status) for f in batch if f.fault is not None]
    if not told:
        return run
    rank, status = min(told)
    return replace(
        run,
        count=run.count + len(told),
        denials=run.denials + sum(f.denied for f in batch if f.fault is not None),
        first_at=min(run.first_at, now) if run.count else now,
        reason=_GRAVEST_FIRST[rank],
        message=f"requests were answered {-status}" if status else "requests found no answer",
    )


def served(run: Run, *, now: int) -> Run:
    """End the row: a request was served. A strike that runs goes on."""
    return replace(run, count=0, denials=0, served_at=now)


def struck(run: Run, *, now: int, policy: Throttling) -> Run:
    """Keep the host out, as a 429 without a wait does."""
    return replace(run, strike=throttle.struck(run.strike, now=now, policy=policy))


def told(run: Run, *, until: int, reason: Reason, message: str) -> Run:
    """Take a strike that another replica saw the reason of; the next one of our own doubles as if that were ours."""
    strike = replace(run.strike, until=until, strikes=max(1, run.strike.strikes), strike_until=until)
    return replace(run, reason=reason, message=message, strike=strike)
