"""What the demo says of itself: each claim is checked on the facts, and says with which numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from aoai_operator.demo.facts import Facts, shares

SHARE_TOLERANCE = 0.15
"""How far a region's share of the answers may be from its share of the capacity: a short run has few requests."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim: what it says, whether it holds, and the numbers."""

    text: str
    holds: bool
    numbers: str


def check(facts: Facts) -> list[Claim]:
    """Check every claim."""
    return [claim(facts) for claim in _CLAIMS]


def _no_error(facts: Facts) -> Claim:
    numbers = f"{facts.answered:,} answers, {len(facts.errors)} errors"
    if facts.errors:
        first = facts.errors[0]
        numbers += f"; the first ({first.phase}, {first.way}): {first.what}"
    return Claim("No error reached a client", not facts.errors and facts.answered > 0, numbers)


def _every_way(facts: Facts) -> Claim:
    numbers = ", ".join(f"{way} {count}" for way, count in facts.by_way.items())
    return Claim("Every way of calling was answered", all(facts.by_way.values()), numbers)


def _every_region(facts: Facts) -> Claim:
    served = facts.served()
    numbers = ", ".join(f"{region} {count}" for region, count in served.items())
    return Claim("Every region served", all(served.values()), numbers)


def _by_capacity(facts: Facts) -> Claim:
    wanted = shares(facts.capacity)
    found = shares(facts.served("rush"))
    ranked = sorted(wanted, key=lambda region: wanted[region])
    ordered = all(found[a] < found[b] for a, b in pairwise(ranked))
    near = all(abs(found[region] - wanted[region]) <= SHARE_TOLERANCE for region in wanted)
    numbers = ", ".join(f"{region} {found[region]:.0%} (quota {wanted[region]:.0%})" for region in wanted)
    rush = facts.phases["rush"]
    there_was = sum(facts.capacity.values()) * rush.seconds / facts.minute_seconds
    numbers += f"; all together took on {sum(rush.admitted.values()) / there_was:.0%} of their quota"
    return Claim("In the rush each region served by its capacity", ordered and near, numbers)


def _storm_avoided(facts: Facts) -> Claim:
    phase, wasted = facts.phases["throttled"], facts.storm.wasted()
    others = sum(count for region, count in phase.served.items() if region != facts.throttled)
    worst = max(wasted, default=0)
    numbers = (
        f"{len(wasted)} waits of {facts.storm.retry_after:g} s asked for, {sum(wasted)} attempts during them, at most "
        f"{worst} in one (up to {phase.peak_in_flight} calls were under way); the others served {others}"
    )
    # One a proxy, and those which were on their way when the answer came.
    holds = phase.came_about and bool(wasted) and worst <= 1 + phase.peak_in_flight and others > 0
    return Claim(f"{facts.throttled} throttled: it was left alone until it said", holds, numbers)


def _took_over(facts: Facts) -> Claim:
    phase = facts.phases["killed"]
    others = sum(count for region, count in phase.served.items() if region != facts.killed)
    numbers = f"in {phase.seconds:.0f} s the others served {others}, {facts.killed} {phase.served[facts.killed]}"
    numbers += f", {phase.failed} errors" + ("" if phase.came_about else "; the gateway did not call it Unhealthy")
    holds = phase.came_about and others > 0 and phase.failed == 0
    return Claim(f"{facts.killed} killed: the others took over", holds, numbers)


def _came_back(facts: Facts) -> Claim:
    phase = facts.phases["restored"]
    numbers = ", ".join(f"{region} {phase.served[region]}" for region in (facts.killed, facts.throttled))
    return Claim("Restored: both serve again", phase.came_about and phase.failed == 0, f"answers since: {numbers}")


def _own_names(facts: Facts) -> Claim:
    strays = facts.strays
    numbers = (
        f"of {strays.attempts:,} attempts {strays.credential} with another key, {strays.deployment} with another "
        f"deployment's name, {strays.headers} with a header of ours"
    )
    holds = strays.attempts > 0 and not (strays.credential or strays.deployment or strays.headers)
    return Claim("Each region got its own key and deployment name, on every attempt", holds, numbers)


def _usage(facts: Facts) -> Claim:
    text = "The gateway counted the usage that the SDK saw, and the regions billed"
    numbers = f"prompt + completion tokens: SDK {facts.seen}, regions {facts.billed}, "
    if facts.counted is None:
        return Claim(text, holds=False, numbers=numbers + "gateway: its metrics could not be read")
    holds = facts.seen == facts.billed == facts.counted.tokens and facts.counted.requests == facts.answered
    numbers += f"gateway {facts.counted.tokens}; requests: SDK {facts.answered:,}, gateway {facts.counted.requests:,}"
    return Claim(text, holds, numbers)


_CLAIMS: tuple[Callable[[Facts], Claim], ...] = (
    _no_error,
    _every_way,
    _every_region,
    _by_capacity,
    _storm_avoided,
    _took_over,
    _came_back,
    _own_names,
    _usage,
)
