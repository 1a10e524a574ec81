"""Health of an endpoint, or of one deployment behind it, as probes and credentials' refusals tell it. Pure.

Half-open: what failed returns only after `healthyAfter` good probes in a row, never on a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from aoai_operator.core import table
from aoai_operator.core.observed import Fault, Reason
from aoai_operator.core.secret import SecretValue

UNPROBED_FAULT_MS = 30_000
"""How long a fault lasts when no probe can tell its end; then the traffic may try again."""


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """Where and how to probe an endpoint: its address, its credential, and the milliseconds one probe may take.

    `bearer`: the credential is a token, not an API key. `other`: another key, which is as good. `addresses` are the
    resolved IPs that Envoy uses too; empty: the prober looks the name up itself.
    """

    scheme: str
    host: str
    port: int
    credential: SecretValue
    timeout_ms: int
    addresses: tuple[str, ...] = ()
    bearer: bool = False
    other: SecretValue | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """The outcome of one probe.

    `reason` is `Ok`, or `RetryAfter` for a 429 (alive, but busy for `retry_after_ms`, if told), or the fault.
    `message` is one sentence for people, without any secret. `stale`: one of the account's two keys was refused.
    """

    reason: Reason
    message: str = ""
    retry_after_ms: int | None = None
    stale: bool = False

    @property
    def good(self) -> bool:
        """Tell whether it speaks for health: a 429 proves network, credential and resource as well as a 200."""
        return self.reason in (Reason.OK, Reason.RETRY_AFTER)


@dataclass(frozen=True, slots=True)
class Health:
    """What is known. `fault` None: no fault; `known` False: nothing was heard yet.

    Attributes:
        known: some probe was good, or a fault was established.
        fault: why it is out, or None.
        message: the fault in a sentence.
        failures: bad probes in a row.
        successes: good probes in a row since the fault.
        failed_at: the last bad news, epoch milliseconds.
        suspected: a request was answered 401 or 403 since the last good probe.
    """

    known: bool = False
    fault: Reason | None = None
    message: str = ""
    failures: int = 0
    successes: int = 0
    failed_at: int = 0
    suspected: bool = False


def probed(health: Health, sample: Sample, *, now: int, policy: table.Health) -> Health:
    """Fold one probe in: `unhealthy_after` bad ones in a row are a fault, `healthy_after` good ones end it.

    After a denied request, one probe that is denied too is a fault: then it is the credential, not the request.
    """
    if sample.good:
        successes = health.successes + 1
        if health.fault is None or successes >= policy.healthy_after:
            return Health(known=True)
        return replace(health, successes=successes, failures=0)
    failures = health.failures + 1
    proven = health.suspected and sample.reason is Reason.AUTH
    if health.fault is None and failures < policy.unhealthy_after and not proven:
        return replace(health, failures=failures, successes=0, failed_at=now)
    return Health(known=True, fault=sample.reason, message=sample.message, failures=failures, failed_at=now)


def suspect(health: Health) -> Health:
    """Note that Azure answered 401 or 403 to a client's request: the next probe tells whether the key is at fault."""
    return replace(health, suspected=True)


def denied(health: Health, *, message: str, now: int) -> Health:
    """Take a deployment's refusals of our credential for a fault, where no probe can tell more."""
    return Health(
        known=True,
        fault=Reason.AUTH,
        message=message,
        failures=health.failures,
        failed_at=now,
    )


def judged(health: Health, fault: Fault | None, *, now: int) -> Health:
    """Take the verdict of the replica that probes; None: it found no fault."""
    if fault is None:
        return Health(known=True) if health.fault is not None else health
    if (health.fault, health.message) == (fault.reason, fault.message):
        return health
    return Health(known=True, fault=fault.reason, message=fault.message, failed_at=now)


def renewed(health: Health) -> Health:
    """Forget a refused credential: there is another one now, and what was said of the old one is no news of it."""
    return Health() if health.fault is Reason.AUTH else replace(health, suspected=False)


def fault_end(health: Health, *, probing: bool) -> int | None:
    """Return when a fault ends by itself: never while probes watch for its end."""
    return None if health.fault is None or probing else health.failed_at + UNPROBED_FAULT_MS


def expired(health: Health, *, now: int, probing: bool) -> Health:
    """Forget a fault whose end has come."""
    end = fault_end(health, probing=probing)
    return Health() if end is not None and now >= end else health
