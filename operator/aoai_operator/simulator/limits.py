"""The limits of a deployment, as counters over time that is passed in (seconds, any monotonic origin).

Standard deployments [Manage Azure OpenAI quota: "Understanding rate limits"]:
- at admission an estimate of tokens is added to a running count, which is reset each minute; over the limit is 429;
- requests a minute are evaluated over windows of 1 or 10 seconds; over a window's share is 429;
- a refused request counts as well.
Provisioned deployments [Provisioned throughput, on utilization]:
- a leaky bucket: admission adds the estimated work, completion corrects it, it drains constantly; 429 from 100 % on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from aoai_operator.simulator.model import Deployment


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused, and the seconds after which it may come again."""

    limit: Literal["token", "call", "utilization"]
    wait: float


@dataclass(frozen=True, slots=True)
class Work:
    """The tokens of a request: its prompt, without those found in the prompt cache, and its output."""

    prompt: int
    output: int


class Limit(Protocol):
    """What admits requests to a deployment."""

    def admit(self, work: Work, now: float) -> Refusal | None:
        """Take the estimated work on, or say why not."""

    def settle(self, estimate: Work, actual: Work, now: float) -> None:
        """Correct an admitted estimate once the answer is complete."""

    def headers(self, now: float, *, refused: bool) -> dict[str, str]:
        """The rate-limit headers of an answer; the remaining counts are documented for admitted requests only."""


class Window:
    """A count that starts again every ``seconds``, in step with the moment ``origin``."""

    __slots__ = ("_index", "count", "origin", "seconds")

    def __init__(self, seconds: float, origin: float) -> None:
        self.seconds = seconds
        self.origin = origin
        self.count = 0
        self._index = 0

    def roll(self, now: float) -> float:
        """Move on to the window of ``now``; returns the seconds until it ends."""
        elapsed = now - self.origin
        index = math.floor(elapsed / self.seconds)
        if index != self._index:
            self._index = index
            self.count = 0
        return (index + 1) * self.seconds - elapsed


class StandardLimit:
    """Tokens a minute and requests a minute of a pay-as-you-go deployment."""

    def __init__(self, deployment: Deployment, *, minute_seconds: float, origin: float) -> None:
        self._tpm = deployment.tokens_per_minute
        self._rpm = deployment.requests_per_minute
        self._count_rejected = deployment.rejected_requests_count
        self._tokens = Window(minute_seconds, origin)
        self._requests = Window(minute_seconds, origin)
        self._burst = Window(minute_seconds * deployment.rpm_window_seconds / 60.0, origin)
        self._burst_limit = max(1, (self._rpm or 0) * deployment.rpm_window_seconds // 60)

    def admit(self, work: Work, now: float) -> Refusal | None:
        """Requests are checked before tokens."""
        tokens_reset = self._tokens.roll(now)
        burst_reset = self._burst.roll(now)
        self._requests.roll(now)
        refusal = None
        if self._rpm is not None and self._burst.count >= self._burst_limit:
            refusal = Refusal("call", burst_reset)
        elif self._tpm is not None and self._tokens.count + work.prompt + work.output > self._tpm:
            refusal = Refusal("token", tokens_reset)
        if refusal is None or self._count_rejected:
            self._requests.count += 1
            self._burst.count += 1
            if refusal is None or refusal.limit == "token":
                self._tokens.count += work.prompt + work.output
        return refusal

    def settle(self, estimate: Work, actual: Work, now: float) -> None:
        """Nothing: the running count holds estimates, which are never corrected."""

    def headers(self, now: float, *, refused: bool) -> dict[str, str]:
        """``x-ratelimit-*``; the resets are whole seconds."""
        found: dict[str, str] = {}
        for name, limit, window in (("requests", self._rpm, self._requests), ("tokens", self._tpm, self._tokens)):
            if limit is None:
                continue
            reset = window.roll(now)
            found[f"x-ratelimit-limit-{name}"] = str(limit)
            found[f"x-ratelimit-reset-{name}"] = str(math.ceil(reset))
            if not refused:
                found[f"x-ratelimit-remaining-{name}"] = str(max(0, limit - window.count))
        return found


class ProvisionedLimit:
    """Utilisation of a provisioned deployment: 1.0 is a minute's worth of work waiting."""

    def __init__(self, deployment: Deployment, *, minute_seconds: float, origin: float) -> None:
        self._per_minute = float(deployment.tokens_per_minute or 0)
        self._output_weight = deployment.output_weight
        self._minute = minute_seconds
        self._updated = origin
        self.utilization = 0.0

    def _drain(self, now: float) -> None:
        self.utilization = max(0.0, self.utilization - (now - self._updated) / self._minute)
        self._updated = now

    def _share(self, work: Work) -> float:
        return (work.prompt + work.output * self._output_weight) / self._per_minute

    def admit(self, work: Work, now: float) -> Refusal | None:
        """Admit below 100 %, whatever the size of the request; otherwise wait until it has drained to below."""
        if not self._per_minute:
            return None
        self._drain(now)
        if self.utilization >= 1.0:
            return Refusal("utilization", (self.utilization - 1.0) * self._minute + 0.001)
        self.utilization += self._share(work)
        return None

    def settle(self, estimate: Work, actual: Work, now: float) -> None:
        """Add what the estimate missed, or give back what it took too much."""
        if self._per_minute:
            self._drain(now)
            self.utilization = max(0.0, self.utilization + self._share(actual) - self._share(estimate))

    def headers(self, now: float, *, refused: bool) -> dict[str, str]:
        """None are documented besides those of a 429."""
        del now, refused
        return {}


def limit_of(deployment: Deployment, *, minute_seconds: float, origin: float) -> Limit:
    """The limit that fits the type of the deployment."""
    kind = ProvisionedLimit if deployment.provisioned else StandardLimit
    return kind(deployment, minute_seconds=minute_seconds, origin=origin)
