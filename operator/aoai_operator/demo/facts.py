"""What was measured: by the SDK, by the regions, by the gateway. Plain values, for the claims to be checked on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of some answers."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)

    def __str__(self) -> str:
        return f"{self.prompt:,} + {self.completion:,}"


@dataclass(frozen=True, slots=True)
class ClientError:
    """An error that reached the client: in which phase, calling in which way, and what the SDK raised."""

    phase: str
    way: str
    what: str


@dataclass(frozen=True, slots=True)
class Phase:
    """What happened between two moments.

    Attributes:
        name: which phase.
        seconds: how long it was.
        answered: answers that clients got.
        failed: errors that clients got.
        served, refused, admitted: by region: answers given, 429s given, and tokens that quotas were charged.
        peak_in_flight: the most calls at once.
        came_about: whether what the phase waited for was seen.
    """

    name: str
    seconds: float
    answered: int
    failed: int
    served: Mapping[str, int]
    refused: Mapping[str, int]
    admitted: Mapping[str, int]
    peak_in_flight: int
    came_about: bool


@dataclass(frozen=True, slots=True)
class Storm:
    """A region that answered 429 to everything, as it saw it.

    Attributes:
        region: which.
        retry_after: what its 429s asked for, in seconds.
        arrivals: when each refused attempt arrived, in seconds, by deployment, in order.
    """

    region: str
    retry_after: float
    arrivals: Mapping[str, Sequence[float]]

    def wasted(self) -> list[int]:
        """Return for each wait that was asked for how many attempts came although it ran."""
        return [n for times in self.arrivals.values() for n in _repeats(times, self.retry_after)]


def _repeats(times: Iterable[float], wait: float) -> list[int]:
    found: list[int] = []
    end = float("-inf")
    for time in times:
        if time >= end:
            found.append(0)
            end = time + wait
        else:
            found[-1] += 1
    return found


@dataclass(frozen=True, slots=True)
class Strays:
    """Attempts that reached a region with what is not its own.

    Attributes:
        credential: without the region's own key.
        deployment: with a deployment name that is not the region's.
        headers: with a header of the gateway's or Envoy's own.
        attempts: all, for comparison.
    """

    attempts: int
    credential: int
    deployment: int
    headers: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What the gateway's metrics say: answered requests, and the tokens of their answers."""

    requests: int
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was measured.

    Attributes:
        capacity: tokens a minute by region.
        minute_seconds: the length of the simulated minute.
        phases: in order, by name.
        by_way: answers by way of calling.
        errors: what reached the client.
        seen: usage as the SDK was told.
        billed: usage as the regions billed it.
        counted: what the gateway's metrics say; None when they could not be read.
        storm: the throttled region's view.
        killed, throttled: the regions that were broken.
        strays: what reached a region and should not have.
    """

    capacity: Mapping[str, int]
    minute_seconds: float
    phases: Mapping[str, Phase]
    by_way: Mapping[str, int]
    errors: Sequence[ClientError]
    seen: Tokens
    billed: Tokens
    counted: Counted | None
    storm: Storm
    killed: str
    throttled: str
    strays: Strays

    @property
    def answered(self) -> int:
        """Answers that clients got."""
        return sum(self.by_way.values())

    def served(self, *phases: str) -> dict[str, int]:
        """Return answers by region in these phases; in all of them when none is named."""
        chosen = [self.phases[name] for name in phases] if phases else list(self.phases.values())
        return {region: sum(phase.served[region] for phase in chosen) for region in self.capacity}


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Return each one's share of the sum; zeros when there is nothing to share."""
    total = sum(counts.values())
    return {name: count / total if total else 0.0 for name, count in counts.items()}
