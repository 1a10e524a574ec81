"""What was observed of the hosts, as translate() and the statuses need it: state, reason, since, until, address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Generic, TypeVar

from aoai_operator.core.differing import differing
from aoai_operator.core.names import EndpointKey, HostKey, PoolKey
from aoai_operator.core.secret import SecretValue


class State(StrEnum):
    """The state of a host, as `status.endpoints[].state` shows it."""

    HEALTHY = "Healthy"
    THROTTLED = "Throttled"
    UNHEALTHY = "Unhealthy"
    DRAINING = "Draining"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """Why a host is in its state; stable words, documented one by one in the runbook."""

    OK = "Ok"
    NOT_PROBED = "NotProbed"
    DRAIN = "Drain"
    RETRY_AFTER = "RetryAfter"
    AUTH = "Auth"
    DNS = "Dns"
    CONNECT = "Connect"
    TLS = "Tls"
    TIMEOUT = "Timeout"
    DEPLOYMENT_MISSING = "DeploymentMissing"
    STATUS = "Status"
    SECRET_MISSING = "SecretMissing"  # noqa: S105
    HOST_NOT_TRUSTED = "HostNotTrusted"


@dataclass(frozen=True, slots=True)
class HostState:
    """One host's observed state. Times are milliseconds of the Unix epoch.

    Attributes:
        state: what it is; only `Healthy` and `Unknown` hosts get new requests.
        reason: why.
        since: when it entered this state.
        until: for a throttled host, when its Retry-After ends; otherwise None.
        incarnation: counts its returns from being out; translate() makes a new Envoy host of each, so that Envoy's
            own slow start ramps it up.
        message: one sentence for people; never a secret.
    """

    state: State = State.UNKNOWN
    reason: Reason = Reason.NOT_PROBED
    since: int = 0
    until: int | None = None
    incarnation: int = 0
    message: str = ""

    @property
    def usable(self) -> bool:
        """Tell whether new requests may go to it."""
        return self.state in (State.HEALTHY, State.UNKNOWN)


_Key = TypeVar("_Key", EndpointKey, HostKey)
_Value = TypeVar("_Value")


class ByPool(Mapping[_Key, _Value], Generic[_Key, _Value]):
    """A mapping made of one part for each pool, so that two of them share the parts in which they do not differ."""

    def __init__(self, parts: Mapping[PoolKey, Mapping[_Key, _Value]]) -> None:
        """Take the parts; neither they nor the mapping of them may change any more."""
        self.parts: Mapping[PoolKey, Mapping[_Key, _Value]] = parts

    def __getitem__(self, key: _Key) -> _Value:
        part: Mapping[_Key, _Value] = self.parts[key.pool]
        return part[key]

    def __iter__(self) -> Iterator[_Key]:
        return (key for part in self.parts.values() for key in part)

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))


@dataclass(frozen=True, slots=True)
class Grant:
    """What Azure granted, or did not, for an endpoint: a token of Entra ID, or the keys of its account.

    Attributes:
        token: the last one that it gave; None: it gave none yet.
        other: the account's other key.
        until: when it is over, milliseconds of the Unix epoch; 0: it is not known, or never.
        good: whether it has time left.
        fault: why there is no newer one, a sentence without a full stop and without any secret; empty: it is new
            enough.
    """

    token: SecretValue | None = None
    until: int = 0
    good: bool = False
    fault: str = ""
    other: SecretValue | None = None


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """With what an issuer signs its tokens.

    Attributes:
        issuer: its name in them (`iss`).
        jwks: its public keys, a JSON Web Key Set (RFC 7517).
        fault: why they are not known, a sentence without a full stop; empty: they are.
    """

    issuer: str = ""
    jwks: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Overrides:
    """Everything observed that changes Envoy's resources but not the routing table.

    `addresses` holds the resolved IP addresses of an endpoint's host name, in a stable order; an endpoint whose name
    never resolved is absent and gets no traffic. Addresses that are IP literals need no entry. `grants` holds the
    tokens with which endpoints are called; one that should have a token and is absent gets no traffic. `issuers` holds
    what is known of the keys of tokens' issuers, by the URL of their discovery.
    """

    hosts: Mapping[HostKey, HostState] = field(default_factory=dict)
    addresses: Mapping[EndpointKey, tuple[str, ...]] = field(default_factory=dict)
    grants: Mapping[EndpointKey, Grant] = field(default_factory=dict)
    issuers: Mapping[str, SigningKeys] = field(default_factory=dict)

    def host(self, key: HostKey) -> HostState:
        """Return the state of a host, `Unknown` when nothing was observed yet."""
        return self.hosts.get(key, HostState())

    def pools_that_differ(self, other: Overrides) -> frozenset[PoolKey]:
        """Return the pools of which something else is observed than in `other`."""
        if self is other:
            return frozenset()
        return (
            _pools_that_differ(self.hosts, other.hosts)
            | _pools_that_differ(self.addresses, other.addresses)
            | _pools_that_differ(self.grants, other.grants)
        )


def _pools_that_differ(one: Mapping[_Key, object], other: Mapping[_Key, object]) -> frozenset[PoolKey]:
    if isinstance(one, ByPool) and isinstance(other, ByPool):
        return frozenset(differing(one.parts, other.parts))
    return frozenset(key.pool for key in differing(one, other))


@dataclass(frozen=True, slots=True)
class Wait:
    """Until when a host must be left alone, as far as one replica knows. Epoch milliseconds; 0: no need.

    Attributes:
        throttled: the end of its Retry-After.
        struck: the end of a strike for failures, and of a fault that no probe can tell the end of.
        reason, message: why it was struck.
    """

    throttled: int = 0
    struck: int = 0
    reason: Reason = Reason.STATUS
    message: str = ""

    def merged(self, other: Wait) -> Wait:
        """Return what two replicas know together: the later end of each wins."""
        longer = max(self, other, key=lambda wait: (wait.struck, wait.reason, wait.message))
        return replace(longer, throttled=max(self.throttled, other.throttled))


@dataclass(frozen=True, slots=True)
class Fault:
    """What probes found wrong, in a sentence without any secret."""

    reason: Reason
    message: str = ""


Probed = EndpointKey | HostKey
"""What a probe judges: an endpoint, or one deployment behind it."""
