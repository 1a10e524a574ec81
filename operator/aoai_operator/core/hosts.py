"""One endpoint and one host, as far as they were observed, and what they show of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from aoai_operator.core.failures import Run
from aoai_operator.core.health import Health
from aoai_operator.core.names import HostKey
from aoai_operator.core.observed import Grant, HostState, Reason, State
from aoai_operator.core.table import Endpoint
from aoai_operator.core.throttle import Throttle


@dataclass(slots=True)
class ObservedEndpoint:
    """What is known of an endpoint: it concerns every host behind it."""

    spec: Endpoint
    hosts: tuple[HostKey, ...]
    health: Health = field(default_factory=Health)
    addresses: tuple[str, ...] = ()
    unresolved: str = ""
    grant: Grant = field(default_factory=Grant)
    """Of an endpoint that is called with tokens."""

    def as_in(self, spec: Endpoint, hosts: tuple[HostKey, ...]) -> ObservedEndpoint:
        """Return it as another version of its table has it; a token of another identity is none of its own."""
        grant = self.grant if spec.identity == self.spec.identity else Grant()
        return replace(self, spec=spec, hosts=hosts, grant=grant)

    def is_at(self, spec: Endpoint) -> bool:
        """Tell whether another version of it has the same address."""
        return (self.spec.scheme, self.spec.host, self.spec.port) == (spec.scheme, spec.host, spec.port)


@dataclass(slots=True)
class ObservedHost:
    """What is known of a host, and what was last shown of it."""

    throttle: Throttle = field(default_factory=Throttle)
    health: Health = field(default_factory=Health)
    run: Run = field(default_factory=Run)
    shown: HostState = field(default_factory=HostState)
    drain: bool = False
    """As its table says."""


def restless(endpoint: ObservedEndpoint, host: ObservedHost, now: int) -> bool:
    """Tell whether a wait or a fault is known of it: the passing of time may change such a host, and no other."""
    faults = (endpoint.health.fault, host.health.fault)
    return host.throttle.active(now) or host.run.strike.active(now) or any(f is not None for f in faults)


def show(endpoint: ObservedEndpoint, host: ObservedHost, now: int) -> HostState:
    """Return what a host is to show, after what it last did."""
    last = host.shown
    state, reason, message = out(endpoint, host, now) or _in(endpoint, host)
    returns = state in (State.HEALTHY, State.UNKNOWN) and not last.usable
    same = (state, reason) == (last.state, last.reason)
    return HostState(
        state=state,
        reason=reason,
        since=last.since if same else now,
        until=host.throttle.until if state is State.THROTTLED else None,
        incarnation=last.incarnation + returns,
        message=message,
    )


_Shown = tuple[State, Reason, str]


def out(endpoint: ObservedEndpoint, host: ObservedHost, now: int) -> _Shown | None:
    """Return why a host is out; None when it is not."""
    if endpoint.spec.drain or host.drain:
        return State.DRAINING, Reason.DRAIN, ""
    if not endpoint.spec.usable:
        return _unusable(endpoint.spec)
    if endpoint.spec.identity and not endpoint.grant.good:
        return State.UNHEALTHY, Reason.AUTH, endpoint.grant.fault or "Azure has not given a token or keys yet"
    if endpoint.unresolved and not endpoint.addresses:
        return State.UNHEALTHY, Reason.DNS, endpoint.unresolved
    return _at_fault(endpoint, host) or _waiting(host, now)


def _unusable(spec: Endpoint) -> _Shown:
    ref = spec.credential
    if ref is None:
        return State.UNHEALTHY, Reason.HOST_NOT_TRUSTED, "no token is sent there"
    return State.UNHEALTHY, Reason.SECRET_MISSING, f"Secret {ref.namespace}/{ref.name} has no entry {ref.key!r}"


def _at_fault(endpoint: ObservedEndpoint, host: ObservedHost) -> _Shown | None:
    for verdict in (endpoint.health, host.health):
        if verdict.fault is not None:
            return State.UNHEALTHY, verdict.fault, verdict.message
    return None


def _waiting(host: ObservedHost, now: int) -> _Shown | None:
    if host.throttle.active(now):
        return State.THROTTLED, Reason.RETRY_AFTER, ""
    if host.run.strike.active(now):
        return State.UNHEALTHY, host.run.reason, host.run.message
    return None


def _in(endpoint: ObservedEndpoint, host: ObservedHost) -> _Shown:
    stale = f"{endpoint.unresolved}; its last known addresses serve" if endpoint.unresolved else ""
    traffic = host.run.served_at is not None or host.run.strike.until > 0 or host.throttle.until > 0
    known = endpoint.health.known or host.health.known or traffic
    if endpoint.grant.fault:
        return State.HEALTHY, Reason.AUTH, f"{endpoint.grant.fault}; what it gave before serves until it is over"
    return (State.HEALTHY, Reason.OK, stale) if known else (State.UNKNOWN, Reason.NOT_PROBED, stale)
