"""Throttling of one host: how long a refusal keeps it out, and how it comes back. Pure: times are passed in.

Times are milliseconds of the Unix epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from aoai_operator.core.table import Throttling

TOO_MANY_REQUESTS = 429

WAIT_STATUSES = frozenset({408, 424, 500, 502, 503, 504})
"""Statuses that throttle a host only when they carry a Retry-After (RFC 9110, 10.2.3: a 503 may)."""

FIRST_BACKOFF_MS = 1_000
LAST_BACKOFF_MS = 10_000
UNHONOURED_CAP_MS = 1_000


@dataclass(frozen=True, slots=True)
class Throttle:
    """What a host's refusals promise.

    Attributes:
        until: no request before this time; 0 when it was never throttled.
        strikes: how many refusals without a Retry-After came one after the other.
        strike_until: the end of the last strike's own wait; refusals until then belong to the same strike.
    """

    until: int = 0
    strikes: int = 0
    strike_until: int = 0

    def active(self, now: int) -> bool:
        """Tell whether the host must be left alone at `now`."""
        return now < self.until


def cap_ms(policy: Throttling) -> int:
    """Return the longest wait that a refusal may cause.

    Azure can ask for a whole day (86,400 s, exhausted S0 quota): hence the pool's cap. A pool that does not honour
    Retry-After still leaves a refusing host alone for a second, or it would be hammered.
    """
    longest = max(0, policy.max_retry_after_ms)
    return longest if policy.honor_retry_after else min(longest, UNHONOURED_CAP_MS)


def refused(throttle: Throttle, *, status: int, retry_after_ms: int | None, now: int, policy: Throttling) -> Throttle:
    """Fold one failed attempt in.

    A wait of zero or less counts as none: such values were seen together with other nonsense headers.
    A 429 without a wait gets 1 s, doubled for each further strike up to 10 s. Refusals of requests that were already
    on their way belong to the strike that is running. A host that served again for its whole ramp starts anew.

    The later end always wins. A second refusal with an earlier end may come from a request sent earlier, or from
    another limit (requests, tokens) that frees sooner; the first promise still stands, and the cap bounds the error.
    So the order in which the entries of a batch are folded does not matter.
    """
    cap = cap_ms(policy)
    if retry_after_ms is not None and retry_after_ms > 0 and (status == TOO_MANY_REQUESTS or status in WAIT_STATUSES):
        return replace(throttle, until=max(throttle.until, now + min(retry_after_ms, cap)))
    return struck(throttle, now=now, policy=policy) if status == TOO_MANY_REQUESTS else throttle


def struck(throttle: Throttle, *, now: int, policy: Throttling) -> Throttle:
    """Keep a host out that named no wait: 1 s, doubled for each further strike up to 10 s."""
    strikes = _strikes(throttle, now=now, policy=policy)
    end = now + min(FIRST_BACKOFF_MS << min(strikes - 1, 4), LAST_BACKOFF_MS, cap_ms(policy))
    return Throttle(until=max(throttle.until, end), strikes=strikes, strike_until=max(throttle.strike_until, end))


def _strikes(throttle: Throttle, *, now: int, policy: Throttling) -> int:
    if throttle.strikes == 0 or now >= throttle.strike_until + max(policy.ramp_up_ms, FIRST_BACKOFF_MS):
        return 1
    return throttle.strikes + (now >= throttle.strike_until)


def capped(throttle: Throttle, *, now: int, policy: Throttling) -> Throttle:
    """Shorten a wait that exceeds the cap: the policy was tightened, or the clock was set back."""
    return replace(throttle, until=min(throttle.until, now + cap_ms(policy)))
